//! Datagrams of real processes beside the kernel's: shared ports, groups and their sources, several
//! datagrams at once, what became of datagrams that were sent; and all of it again after netd was killed.

use libnetclient::{
    Binding, EVERY_TYPE, Flags, Met, Origin, PacketSocket, PingSocket, RawSocket, Session, Size, UdpSocket,
};
use rustix::process::Signal;
use std::io::{IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tests::process::group::{Group, Role, Spec};
use tests::process::{private_net, wait_until};

const NIC: &str = "axl17";
const STACK: &str = "10.82.0.2";
const KERNEL: Ipv4Addr = Ipv4Addr::new(10, 82, 0, 1);
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 82, 0, 9);
const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff15, 0, 0, 0, 0, 0, 82, 9);
const PATIENCE: Duration = Duration::from_secs(15);
const SOON: Duration = Duration::from_millis(300);
/// The interface of the stack beside loopback.
const FIRST: u32 = 2;

fn group() -> Group {
    let spec = Spec {
        nic: format!("tap:{NIC}"),
        addr: format!("{STACK}/24,2001:db8:82::2/64"),
        tap_addr: Some(format!("{KERNEL}/24,2001:db8:82::1/64")),
        more: Vec::new(),
    };
    Group::up(&spec).expect("a group")
}

fn ours(session: &Session, addr: &str, reuse_address: bool, reuse_port: bool) -> UdpSocket {
    let binding = Binding { reuse_address, reuse_port, ..Binding::default() };
    let socket = UdpSocket::bind_with_in(session, addr, binding).expect("a socket");
    socket.set_read_timeout(Some(SOON)).expect("a timeout");
    socket
}

fn theirs(addr: &str) -> std::net::UdpSocket {
    let socket = std::net::UdpSocket::bind(addr).expect("a socket");
    socket.set_read_timeout(Some(SOON)).expect("a timeout");
    socket
}

fn got(socket: &UdpSocket) -> Option<Vec<u8>> {
    let mut room = [0; 2048];
    socket.recv_from(&mut room).ok().map(|(len, _)| room[..len].to_vec())
}

/// Kills netd and waits for its successor.
fn kill(group: &Group) {
    let before = group.find(Role::Netd).expect("netd runs");
    Group::signal(&before, Signal::KILL);
    let back =
        || group.find(Role::Netd).is_some_and(|now| now.generation > before.generation) && group.whole();
    assert!(wait_until(PATIENCE, back), "netd comes back");
}

#[test]
fn ports_are_shared_as_the_kernel_shares_them() {
    private_net::test("ports_are_shared_as_the_kernel_shares_them", || {
        let group = group();
        let session = group.session(Size::default()).expect("a session");
        // As a server does that gives every client a socket of its own (iperf3).
        let first = ours(&session, "0.0.0.0:5201", true, false);
        let client = theirs(&format!("{KERNEL}:0"));
        client.send_to(b"hello", (STACK, 5201)).expect("sent");
        let mut room = [0; 64];
        let (_, from) = first.recv_from(&mut room).expect("received");
        first.connect(from).expect("connected");
        let next = ours(&session, "0.0.0.0:5201", true, false);
        assert_eq!(
            UdpSocket::bind_in(&session, "0.0.0.0:5201").expect_err("not shared").kind(),
            std::io::ErrorKind::AddrInUse
        );
        let other = theirs(&format!("{KERNEL}:0"));
        for round in 0..2 {
            client.send_to(b"to the first", (STACK, 5201)).expect("sent");
            other.send_to(b"to the next", (STACK, 5201)).expect("sent");
            assert_eq!(got(&first).as_deref(), Some(&b"to the first"[..]), "round {round}");
            assert_eq!(got(&next).as_deref(), Some(&b"to the next"[..]), "round {round}");
            assert_eq!((got(&first), got(&next)), (None, None));
            kill(&group);
        }
        // SO_REUSEPORT: each flow has one of them.
        let shared: Vec<UdpSocket> = (0..3).map(|_| ours(&session, "0.0.0.0:5300", false, true)).collect();
        let flows: Vec<_> = (0..24).map(|_| theirs(&format!("{KERNEL}:0"))).collect();
        let mut served = [0; 3];
        for (n, flow) in flows.iter().enumerate() {
            for byte in [n as u8, n as u8] {
                flow.send_to(&[byte], (STACK, 5300)).expect("sent");
            }
        }
        for (n, socket) in shared.iter().enumerate() {
            socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
            while let Some(first) = got(socket) {
                assert_eq!(got(socket), Some(first), "both of a flow, in order");
                served[n] += 1;
            }
        }
        assert_eq!(served.iter().sum::<usize>(), flows.len());
        assert!(served.iter().all(|count| *count > 0), "{served:?}");
    });
}

#[test]
fn groups_are_joined_beside_the_kernel() {
    private_net::test("groups_are_joined_beside_the_kernel", || {
        let group = group();
        let session = group.session(Size::default()).expect("a session");
        let socket = ours(&session, "0.0.0.0:6000", true, false);
        let picky = ours(&session, "0.0.0.0:6000", true, false);
        let v6 = ours(&session, "[::]:6001", false, false);
        socket.join_group(GROUP.into(), FIRST).expect("joined");
        picky.join_source(GROUP.into(), "10.82.0.77".parse().expect("an address"), FIRST).expect("joined");
        v6.join_multicast_v6(&GROUP_V6, FIRST).expect("joined");
        assert_eq!(socket.join_group(GROUP.into(), FIRST).expect_err("twice").raw_os_error(), Some(98));
        assert_eq!(socket.join_group(GROUP.into(), 9).expect_err("nowhere").raw_os_error(), Some(19));
        // One that is bound to an address hears no group.
        let kernel = theirs("0.0.0.0:6000");
        let kernel_v6 = theirs("[2001:db8:82::1]:6001");
        kernel.join_multicast_v4(&GROUP, &KERNEL).expect("joined");
        kernel.set_multicast_loop_v4(false).expect("an option");
        // The kernel chooses the interface by a route.
        let route = ["route", "add", "239.0.0.0/8", "dev", NIC];
        assert!(std::process::Command::new("ip").args(route).status().expect("ip runs").success());
        let route = ["-6", "route", "add", "multicast", "ff15::/16", "dev", NIC, "table", "local"];
        assert!(std::process::Command::new("ip").args(route).status().expect("ip runs").success());
        for round in 0..3 {
            kernel.send_to(b"to the group", (GROUP, 6000)).expect("sent");
            assert_eq!(got(&socket).as_deref(), Some(&b"to the group"[..]), "round {round}");
            assert_eq!(got(&picky), None, "from nobody it wants");
            kernel_v6.send_to(b"six", SocketAddr::new(IpAddr::V6(GROUP_V6), 6001)).expect("sent");
            assert_eq!(got(&v6).as_deref(), Some(&b"six"[..]), "round {round}");
            // And to the kernel's member, and back to our own.
            socket.send_to(b"from the stack", (GROUP, 6000)).expect("sent");
            let mut room = [0; 64];
            let (len, from) = kernel.recv_from(&mut room).expect("received");
            assert_eq!((&room[..len], from.ip()), (&b"from the stack"[..], IpAddr::from([10, 82, 0, 2])));
            assert_eq!(got(&socket).as_deref(), Some(&b"from the stack"[..]), "looped back");
            kill(&group);
        }
        picky.leave_source(GROUP.into(), "10.82.0.77".parse().expect("an address"), FIRST).expect("left");
        picky.join_group(GROUP.into(), FIRST).expect("joined");
        picky.block_source(GROUP.into(), KERNEL.into(), FIRST, true).expect("blocked");
        socket.leave_group(GROUP.into(), FIRST).expect("left");
        socket.set_all_groups(false).expect("an option");
        kernel.send_to(b"x", (GROUP, 6000)).expect("sent");
        assert_eq!((got(&picky), got(&socket)), (None, None));
        picky.block_source(GROUP.into(), KERNEL.into(), FIRST, false).expect("unblocked");
        kernel.send_to(b"y", (GROUP, 6000)).expect("sent");
        assert_eq!(got(&picky).as_deref(), Some(&b"y"[..]));
    });
}

#[test]
fn many_at_once_and_what_became_of_them() {
    private_net::test("many_at_once_and_what_became_of_them", || {
        let group = group();
        let session = group.session(Size::default()).expect("a session");
        let socket = ours(&session, "0.0.0.0:0", false, false);
        let kernel = theirs(&format!("{KERNEL}:7000"));
        let payload: Vec<u8> = (0..5000u32).map(|n| n as u8).collect();
        let origin = Origin { segment: Some(1200), tos: Some(0x20), hops: Some(7), ..Origin::default() };
        let to = Some(SocketAddr::new(KERNEL.into(), 7000));
        socket.send_from(&[IoSlice::new(&payload)], to, origin, false).expect("sent");
        let mut all: Vec<u8> = Vec::new();
        for expected in [1200, 1200, 1200, 1200, 200] {
            let mut room = [0; 2048];
            let (len, _) = kernel.recv_from(&mut room).expect("received");
            assert_eq!(len, expected);
            all.extend(&room[..len]);
        }
        assert!(all == payload);
        let local = socket.local_addr().expect("bound");
        kernel.set_ttl(33).expect("an option");
        kernel.send_to(b"stamped", (STACK, local.port())).expect("sent");
        let mut room = [0; 64];
        let datagram =
            socket.recv_with(&mut [IoSliceMut::new(&mut room)], Flags::default()).expect("received");
        assert_eq!((datagram.hop_limit, datagram.interface), (33, FIRST));
        let age = std::time::SystemTime::now().duration_since(datagram.received_at()).expect("in the past");
        assert!(age < Duration::from_secs(5), "{age:?}");
        // Nobody has that port: the error and the datagram that it is about.
        socket.set_sent_errors(true).expect("an option");
        socket.send_to(b"to nobody", (KERNEL, 7001)).expect("sent");
        let mut known = None;
        assert!(wait_until(PATIENCE, || {
            known = socket.next_sent_error().expect("a session");
            known.is_some()
        }));
        let known = known.expect("waited for");
        assert_eq!((known.note.errno, known.note.kind, known.note.code), (111, 3, 3));
        assert_eq!((known.note.offender, known.remote.port()), (IpAddr::V4(KERNEL), 7001));
        assert_eq!(known.payload, b"to nobody");
        assert_eq!(socket.take_error().expect("a session").and_then(|e| e.raw_os_error()), Some(111));
        assert_eq!(socket.next_sent_error().expect("a session"), None);
    });
}

#[test]
fn raw_ping_and_packet_sockets_beside_the_kernel() {
    private_net::test("raw_ping_and_packet_sockets_beside_the_kernel", || {
        let group = group();
        let session = group.session(Size::default()).expect("a session");
        let ping = PingSocket::open_in(&session, false).expect("a ping socket");
        let raw = RawSocket::open_in(&session, [0, 0, 0, 0].into(), 1).expect("a raw socket");
        let packet = PacketSocket::open_in(&session, EVERY_TYPE, 0, false).expect("a packet socket");
        for socket in [ping.datagrams(), raw.datagrams(), packet.datagrams()] {
            socket.set_read_timeout(Some(SOON)).expect("a timeout");
        }
        let ident = ping.ident().expect("bound");
        let mut room = [0; 2048];
        for round in 0..3u8 {
            let mut request = vec![8, 0, 0, 0, 0, 0, 0, round];
            request.extend(b"anybody there?");
            ping.send_to(&request, KERNEL.into()).expect("sent");
            let (len, from) = ping.recv_from(&mut room).expect("the kernel answers");
            assert_eq!((from, room[0], room[7]), (KERNEL.into(), 0, round));
            assert_eq!((&room[4..6], &room[8..len]), (&ident.to_be_bytes()[..], &b"anybody there?"[..]));
            let (len, from) = raw.recv_from(&mut room).expect("a copy of the reply");
            assert_eq!((from, room[9], room[20], len), (KERNEL.into(), 1, 0, 20 + request.len()));
            // Out and in, in order.
            let mut seen = Vec::new();
            while let Ok(frame) = packet.recv(&mut room, Flags::default()) {
                if frame.ethertype == 0x800 && room[23] == 1 {
                    seen.push((frame.met, room[34], frame.interface));
                }
            }
            assert_eq!(seen, [(Met::Outgoing, 8, FIRST), (Met::Here, 0, FIRST)], "round {round}");
            kill(&group);
        }
        // A protocol of our own, to the kernel's raw socket and back.
        let own = RawSocket::open_in(&session, [0, 0, 0, 0].into(), 253).expect("a raw socket");
        own.datagrams().set_read_timeout(Some(SOON)).expect("a timeout");
        let ears = tests::process::raw_link::RawLink::open_both_ways(NIC).expect("a packet socket");
        own.send_to(b"of our own", KERNEL.into()).expect("sent");
        let heard = ears.receive(PATIENCE, |frame| {
            (frame.get(12..14)? == [8, 0] && frame.get(23)? == &253).then(|| frame[34..44].to_vec())
        });
        assert_eq!(heard.expect("it left"), b"of our own");
        let v6 = PingSocket::open_in(&session, true).expect("a ping socket");
        v6.datagrams().set_read_timeout(Some(SOON)).expect("a timeout");
        let answered = wait_until(PATIENCE, || {
            v6.send_to(&[128, 0, 0, 0, 0, 0, 0, 9], "2001:db8:82::1".parse().expect("an address"))
                .expect("sent");
            v6.recv_from(&mut room).is_ok()
        });
        assert!(answered && room[0] == 129);
    });
}
