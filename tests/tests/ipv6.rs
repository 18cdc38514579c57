//! IPv6 of real processes beside the kernel's: echoes, TCP and UDP both ways, fragments, link-local
//! addresses, addresses that routers announce, and deaths of netd under load.

use libnetclient::{Binding, Session, Size, TcpListener, TcpStream, UdpSocket};
use rustix::process::Signal;
use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::process::Command;
use std::time::Duration;
use tests::process::group::{Group, Role, Spec, kernel_sockets};
use tests::process::raw_link::RawLink;
use tests::process::{private_net, wait_until};
use tests::remote::fleet::{Fleet, Load};
use tests::remote::ping::ping6;

const NIC: &str = "axl16";
const STACK: &str = "2001:db8:81::2";
const KERNEL: &str = "2001:db8:81::1";
const PATIENCE: Duration = Duration::from_secs(15);
const SECOND: Duration = Duration::from_secs(1);
/// Deaths of netd under load.
const KILLS: u32 = 10;

fn v6(text: &str) -> Ipv6Addr {
    text.parse().expect("an address")
}

fn at(text: &str, port: u16) -> SocketAddr {
    SocketAddr::new(v6(text).into(), port)
}

fn group(addr: &str) -> Group {
    let spec = Spec {
        nic: format!("tap:{NIC}"),
        addr: addr.to_owned(),
        tap_addr: Some(format!("10.81.0.1/24,{KERNEL}/64")),
        more: Vec::new(),
    };
    Group::up(&spec).expect("a group")
}

fn answers(addr: Ipv6Addr, scope: u32, len: usize) -> bool {
    let payload: Vec<u8> = (0..len).map(|n| n as u8).collect();
    ping6(SocketAddrV6::new(addr, 0, 0, scope), &payload, SECOND).is_ok()
}

fn ready(addr: &str) -> Group {
    let group = group(addr);
    // The address is looked for on the link for a second first.
    assert!(wait_until(PATIENCE, || answers(v6(STACK), 0, 8)), "{STACK} does not answer");
    group
}

fn scope_of_nic() -> u32 {
    let index = std::fs::read_to_string(format!("/sys/class/net/{NIC}/ifindex"));
    index.ok().and_then(|index| index.trim().parse().ok()).unwrap_or_else(|| {
        let output = Command::new("ip").args(["-o", "link", "show", NIC]).output().expect("ip runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.split(':').next().and_then(|index| index.parse().ok()).expect("an interface's number")
    })
}

/// The addresses that netctl shows, with the flag `dynamic` or not.
fn addresses(group: &Group, dynamic: bool) -> Vec<Ipv6Addr> {
    let output = group.command("netctl").args(["-j", "-6", "addr"]).output().expect("netctl runs");
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let rows = shown.as_array().expect("a list").iter();
    rows.filter(|row| row["dynamic"] == dynamic && row["tentative"] == false)
        .filter_map(|row| row["local"].as_str()?.parse().ok())
        .collect()
}

/// Bytes there and back over one connection.
fn talk(mut one: impl Read + Write + Send, mut other: impl Read + Write) {
    let sent: Vec<u8> = (0..100_000u32).map(|n| (n * 7) as u8).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| one.write_all(&sent).expect("written"));
        let mut got = vec![0; sent.len()];
        other.read_exact(&mut got).expect("read");
        assert!(got == sent, "there");
    });
    other.write_all(b"back").expect("written");
    let mut back = [0; 4];
    one.read_exact(&mut back).expect("read");
    assert_eq!(&back, b"back");
}

fn kernel_to_stack(session: &Session, listen: SocketAddr, connect: SocketAddr) -> (SocketAddr, SocketAddr) {
    let listener = TcpListener::bind_in(session, listen).expect("a listener");
    let mut connect = connect;
    connect.set_port(listener.local_addr().expect("bound").port());
    let caller = std::net::TcpStream::connect_timeout(&connect, 5 * SECOND).expect("connected");
    let (stream, peer) = listener.accept().expect("accepted");
    let seen = (stream.local_addr().expect("open"), peer);
    talk(caller, stream);
    seen
}

#[test]
fn the_kernel_and_the_stack_speak_ipv6() {
    private_net::test("the_kernel_and_the_stack_speak_ipv6", || {
        let group = ready(&format!("10.81.0.2/24,{STACK}/64"));
        let session = group.session(Size::default()).expect("a session");
        // Echoes, whole and in fragments both ways.
        for len in [0, 1_400, 1_452, 1_453, 5_000, 60_000] {
            assert!(answers(v6(STACK), 0, len), "an echo of {len} bytes");
        }
        // TCP: to the stack, to a listener of both families, from the stack.
        kernel_to_stack(&session, at(STACK, 0), at(STACK, 0));
        kernel_to_stack(&session, at("::", 0), at(STACK, 0));
        let (local, peer) =
            kernel_to_stack(&session, at("::", 0), "10.81.0.2:0".parse().expect("an address"));
        let mapped = |addr: SocketAddr| match addr {
            SocketAddr::V6(v6) => v6.ip().to_ipv4_mapped().map(|v4| v4.to_string()),
            SocketAddr::V4(_) => None,
        };
        let mapped = (mapped(local), mapped(peer));
        assert_eq!(mapped, (Some("10.81.0.2".into()), Some("10.81.0.1".into())), "IPv4 comes mapped");
        // IPv6 alone, and IPv4 beside it at the same port.
        let only = Binding { v6_only: true, ..Binding::default() };
        let six = TcpListener::bind_with_in(&session, at("::", 7100), only).expect("a listener");
        let four = TcpListener::bind_in(&session, "0.0.0.0:7100").expect("a listener beside it");
        let reach =
            |to: SocketAddr| std::net::TcpStream::connect_timeout(&to, 5 * SECOND).expect("connected");
        let (one, other) = (reach(at(STACK, 7100)), reach("10.81.0.2:7100".parse().expect("an address")));
        talk(one, six.accept().expect("accepted").0);
        talk(other, four.accept().expect("accepted").0);
        assert_eq!(six.local_addr().expect("bound"), at("::", 7100));
        let both = TcpListener::bind_in(&session, at("::", 7100)).expect_err("taken");
        assert_eq!(both.kind(), std::io::ErrorKind::AddrInUse);
        let kernel = std::net::TcpListener::bind(at(KERNEL, 0)).expect("a listener");
        let port = kernel.local_addr().expect("bound").port();
        let caller = TcpStream::connect_in(&session, at(KERNEL, port)).expect("connected");
        talk(caller, kernel.accept().expect("accepted").0);
        let refused = TcpStream::connect_in(&session, at(KERNEL, 1)).expect_err("nobody listens");
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        // UDP, of sizes that take fragments, both ways.
        let ours = UdpSocket::bind_in(&session, at("::", 0)).expect("a socket");
        let to_us = at(STACK, ours.local_addr().expect("bound").port());
        let theirs = std::net::UdpSocket::bind(at(KERNEL, 0)).expect("a socket");
        theirs.set_read_timeout(Some(5 * SECOND)).expect("a timeout");
        ours.set_read_timeout(Some(5 * SECOND)).expect("a timeout");
        let mut room = vec![0; 1 << 16];
        for len in [1, 1_452, 1_453, 9_000, 60_000] {
            let sent: Vec<u8> = (0..len).map(|n| (n * 3) as u8).collect();
            theirs.send_to(&sent, to_us).expect("sent");
            let (got, from) = ours.recv_from(&mut room).expect("received");
            assert!(room[..got] == sent, "{len} bytes to the stack");
            assert_eq!(ours.send_to(&sent, from).expect("sent"), len);
            let (got, _) = theirs.recv_from(&mut room).expect("received");
            assert!(room[..got] == sent, "{len} bytes from the stack");
        }
        // Link-local addresses: the scope id names the link on either side.
        let made = addresses(&group, true);
        assert_eq!(made.len(), 1, "a link-local address: {made:?}");
        assert!(wait_until(PATIENCE, || answers(made[0], scope_of_nic(), 8)), "{} does not answer", made[0]);
        let scoped = SocketAddr::V6(SocketAddrV6::new(made[0], 0, 0, scope_of_nic()));
        let (local, peer) = kernel_to_stack(&session, at("::", 0), scoped);
        let scope = |addr: SocketAddr| if let SocketAddr::V6(v6) = addr { v6.scope_id() } else { 0 };
        assert_eq!((scope(local), scope(peer)), (1, 1));
        let kernel = std::net::TcpListener::bind(at("::", 0)).expect("a listener");
        let SocketAddr::V6(theirs) = peer else { panic!("an IPv6 address") };
        let port = kernel.local_addr().expect("bound").port();
        let to = SocketAddrV6::new(*theirs.ip(), port, 0, 1);
        let caller = TcpStream::connect_in(&session, to).expect("connected");
        talk(caller, kernel.accept().expect("accepted").0);
    });
}

#[test]
fn a_load_over_ipv6_survives_the_deaths_of_netd() {
    private_net::test("a_load_over_ipv6_survives_the_deaths_of_netd", || {
        let group = ready(&format!("{STACK}/64"));
        let _server = group.example("echo", &["7007", "::"]).expect("the echo server");
        let addr = at(STACK, 7007);
        let listening = || std::net::TcpStream::connect_timeout(&addr, SECOND).is_ok();
        assert!(wait_until(PATIENCE, listening), "echo does not listen");
        let streams = kernel_sockets(16, addr).expect("connections");
        let load = Load { loaded: 16, ahead: 128 * 1024, rate: 1 << 20, murmur_every: SECOND, seed: 5 };
        let fleet = Fleet::launch(streams, load).expect("a fleet");
        for kill in 0..KILLS {
            let moved = fleet.bytes();
            assert!(wait_until(PATIENCE, || fleet.bytes() > moved), "nothing moves before kill {kill}");
            let before = group.find(Role::Netd).expect("it runs");
            Group::signal(&before, Signal::KILL);
            let back = || group.find(Role::Netd).is_some_and(|row| row.pid != before.pid && row.in_service);
            assert!(wait_until(PATIENCE, back), "netd is not back");
        }
        let report = fleet.finish(2 * PATIENCE).expect("a report");
        assert_eq!(report.lost, Vec::<String>::new());
        assert_eq!((report.clean, report.bytes_wrong), (16, 0));
    });
}

/// The frame of a router advertisement from fe80::1, with `2001:db8:82::/64`.
fn advertisement(lifetime_s: u16) -> Vec<u8> {
    let (src, dst) = (v6("fe80::1"), v6("ff02::1"));
    let mut body = vec![134, 0, 0, 0, 64, 0];
    body.extend(lifetime_s.to_be_bytes());
    body.extend([0; 8]);
    body.extend([1, 1, 2, 0, 0, 0, 0, 1]);
    body.extend([3, 4, 64, 0xc0, 0, 0, 0x0e, 0x10, 0, 0, 0x0e, 0x10, 0, 0, 0, 0]);
    body.extend(v6("2001:db8:82::").octets());
    let mut sum: u32 = 58 + body.len() as u32;
    for bytes in [&src.octets()[..], &dst.octets(), &body] {
        sum += bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum::<u32>();
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    body[2..4].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    let mut frame = vec![0x33, 0x33, 0, 0, 0, 1, 2, 0, 0, 0, 0, 1, 0x86, 0xdd, 0x60, 0, 0, 0];
    frame.extend((body.len() as u16).to_be_bytes());
    frame.extend([58, 255]);
    frame.extend(src.octets());
    frame.extend(dst.octets());
    frame.extend(body);
    frame
}

#[test]
fn addresses_are_learned_from_routers_and_outlive_netd() {
    private_net::test("addresses_are_learned_from_routers_and_outlive_netd", || {
        let group = group("10.81.0.2/24,slaac");
        let link = RawLink::open_both_ways(NIC).expect("a packet socket");
        // A solicitation comes first: ICMPv6 behind 40 bytes of header.
        let asks =
            |frame: &[u8]| (frame[12..14] == [0x86, 0xdd] && frame.get(54) == Some(&133)).then_some(());
        link.receive(PATIENCE, asks).expect("a router solicitation");
        link.send(&advertisement(1800)).expect("sent");
        let of_network = |addr: &Ipv6Addr| addr.segments()[..4] == [0x2001, 0xdb8, 0x82, 0];
        let learned = || addresses(&group, true).into_iter().find(of_network);
        assert!(wait_until(PATIENCE, || learned().is_some()), "{:?}", addresses(&group, true));
        let addr = learned().expect("just seen");
        let status =
            Command::new("ip").args(["addr", "add", "2001:db8:82::1/64", "dev", NIC, "nodad"]).status();
        assert!(status.expect("ip runs").success());
        assert!(wait_until(PATIENCE, || answers(addr, 0, 100)), "{addr} does not answer");
        // The route through the router is there, and both are there again after a death.
        let routes = || {
            let output = group.command("netctl").args(["-j", "route"]).output().expect("netctl runs");
            let routes: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
            // Not by its text alone: an address of the stack's own may begin as the router's does.
            let by_it = |route: &serde_json::Value| {
                route["gateway"].as_str().and_then(|via| via.split('%').next()) == Some("fe80::1")
            };
            routes.as_array().expect("a list").iter().any(by_it)
        };
        assert!(routes());
        let session = group.session(Size::default()).expect("a session");
        let listener =
            TcpListener::bind_in(&session, SocketAddr::new(addr.into(), 7008)).expect("a listener");
        let caller = std::net::TcpStream::connect_timeout(&SocketAddr::new(addr.into(), 7008), 5 * SECOND);
        let (caller, accepted) = (caller.expect("connected"), listener.accept().expect("accepted").0);
        let before = group.find(Role::Netd).expect("it runs");
        Group::signal(&before, Signal::KILL);
        let back = || group.find(Role::Netd).is_some_and(|row| row.pid != before.pid && row.in_service);
        assert!(wait_until(PATIENCE, back), "netd is not back");
        talk(caller, accepted);
        assert!(learned() == Some(addr) && routes());
        // The router says goodbye: no default route any more.
        link.send(&advertisement(0)).expect("sent");
        assert!(wait_until(PATIENCE, || !routes()));
    });
}

#[test]
fn an_address_that_is_given_is_looked_for_first() {
    private_net::test("an_address_that_is_given_is_looked_for_first", || {
        let group = ready(&format!("{STACK}/64"));
        let link = RawLink::open_both_ways(NIC).expect("a packet socket");
        let add = |addr: &str| {
            let status = group.command("netctl").args(["addr", "add", addr]).status().expect("netctl runs");
            assert!(status.success());
        };
        add("2001:db8:81::9/64");
        // From nobody, to the group, about the address: a probe.
        let probe = |frame: &[u8]| {
            let asks = frame[12..14] == [0x86, 0xdd] && frame.get(54) == Some(&135);
            (asks && frame[22..38] == [0; 16] && frame[62..78] == v6("2001:db8:81::9").octets()).then_some(())
        };
        link.receive(PATIENCE, probe).expect("a probe");
        assert!(wait_until(PATIENCE, || answers(v6("2001:db8:81::9"), 0, 8)));
        // The kernel's own address is taken.
        add(&format!("{KERNEL}/64"));
        std::thread::sleep(3 * SECOND);
        assert!(!addresses(&group, false).contains(&v6(KERNEL)), "a duplicate is not used");
        assert!(answers(v6(STACK), 0, 8));
    });
}
