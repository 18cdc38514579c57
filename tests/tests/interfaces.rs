//! Interfaces of the kernel that the stack shares with it: a cable to another network namespace, the kernel's own
//! station on it going on, the stack a second one, and kills of its processes. Every test for every way to get at
//! frames.
//!
//! `AXOLOTL_INTERFACE_KILLS` (24), `AXOLOTL_STORM_SEED` (random).

use libnetclient::{Size, TcpListener, TcpStream, UdpSocket};
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::time::Duration;
use tests::process::beside::{self, Crowd, PATIENCE, at, kernel_counter, stack_echo, talk};
use tests::process::group::{Group, Role, Spec};
use tests::process::other_net::{OtherNet, ip};
use tests::process::raw_link::close_checksums;
use tests::process::{private_net, skip, wait_until};
use tests::remote::ping::ping4;

const HERE: &str = "axlif0";
const THERE: &str = "axlif1";
/// The kernel of the group's namespace, the stack beside it, and the remote.
const KERNEL: &str = "10.90.0.1";
const STACK: &str = "10.90.0.2";
const REMOTE: &str = "10.90.0.9";
const ECHO: u16 = 7007;
/// Connections to the stack, those of them under load, and connections to the kernel.
const CONNECTIONS: usize = 64;
const LOADED: usize = 16;
const BESIDE: usize = 4;

fn v4(host: &str) -> Ipv4Addr {
    host.parse().expect("an address")
}

/// The kernel has an address on the interface, and a group takes a second one.
fn started(nic: &str, more: &[&str]) -> (OtherNet, Group) {
    let other = OtherNet::new().expect("a second namespace");
    other.cable((HERE, &format!("{KERNEL}/24")), (THERE, &format!("{REMOTE}/24"))).expect("a cable");
    if nic.starts_with("xdp:") {
        other.run(|| close_checksums(THERE)).expect("frames as they are on a cable");
    }
    let spec = Spec {
        nic: nic.into(),
        addr: format!("{STACK}/24"),
        tap_addr: None,
        more: more.iter().map(|word| (*word).to_owned()).collect(),
    };
    let group = Group::up(&spec).expect("a group");
    (other, group)
}

/// Resets that the kernel of this namespace sent: RFC 4022, tcpOutRsts.
fn kernel_resets() -> u64 {
    kernel_counter("Tcp:", "OutRsts")
}

fn count(group: &Group, name: &str) -> u64 {
    group.access().counters().get(&(Role::Nicd, name.to_owned())).copied().unwrap_or(0)
}

/// Where AF_XDP was asked for and is not to be had, the test is one of AF_PACKET, and says so.
fn note_fallback(nic: &str, group: &Group) {
    let logs = group.logs().into_iter().filter_map(|path| std::fs::read_to_string(path).ok());
    let said = logs.collect::<String>();
    let reason = said.lines().find(|line| line.contains("AF_PACKET instead"));
    if let Some(reason) = reason.filter(|_| nic.starts_with("xdp:")) {
        skip(nic, reason, false);
    }
}

fn beside_the_kernel(nic: &str, more: &[&str]) {
    let (other, group) = started(nic, more);
    note_fallback(nic, &group);
    let session = group.session(Size::default()).expect("a session");
    for host in [STACK, KERNEL] {
        let answers = || other.run(|| ping4(v4(host), &[7; 1_000], Duration::from_secs(2)).is_ok());
        assert!(wait_until(PATIENCE, answers), "{host} does not answer an echo");
    }
    let before = kernel_resets();
    // One port, two servers: each has its own address.
    let ours = TcpListener::bind_in(&session, at(STACK, ECHO)).expect("the stack's listener");
    let theirs = std::net::TcpListener::bind(at(KERNEL, ECHO)).expect("the kernel's listener");
    let reach = |host| {
        other.run(|| std::net::TcpStream::connect_timeout(&at(host, ECHO), PATIENCE).expect("connected"))
    };
    talk(reach(STACK), ours.accept().expect("accepted").0);
    talk(reach(KERNEL), theirs.accept().expect("accepted").0);
    // The other way: from the stack to the remote.
    let remote = other.run(|| std::net::TcpListener::bind(at(REMOTE, 0)).expect("the remote's listener"));
    let port = remote.local_addr().expect("bound").port();
    let caller = TcpStream::connect_in(&session, at(REMOTE, port)).expect("connected");
    talk(caller, remote.accept().expect("accepted").0);
    // Where nobody listens, the stack says so, and says it alone.
    let refuses = |host| {
        let tried = other.run(|| std::net::TcpStream::connect_timeout(&at(host, 1), PATIENCE));
        assert_eq!(
            tried.map(drop).map_err(|e| e.kind()),
            Err(std::io::ErrorKind::ConnectionRefused),
            "{host}"
        );
    };
    refuses(STACK);
    // Datagrams, whole and in fragments, both ways.
    let ours = UdpSocket::bind_in(&session, at(STACK, 0)).expect("a socket");
    let to_us = ours.local_addr().expect("bound");
    let theirs = other.run(|| std::net::UdpSocket::bind(at(REMOTE, 0)).expect("a socket"));
    theirs.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    ours.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut room = vec![0; 1 << 16];
    for len in [1, 1_472, 1_473, 9_000] {
        let sent: Vec<u8> = (0..len).map(|n| (n * 3) as u8).collect();
        theirs.send_to(&sent, to_us).expect("sent");
        let (got, from) = ours.recv_from(&mut room).expect("received");
        assert!(room[..got] == sent, "{len} bytes to the stack");
        assert_eq!(ours.send_to(&sent, from).expect("sent"), len);
        let (got, _) = theirs.recv_from(&mut room).expect("received");
        assert!(room[..got] == sent, "{len} bytes from the stack");
    }
    assert_eq!(kernel_resets(), before, "the kernel reset what was the stack's");
    refuses(KERNEL);
    assert!(wait_until(PATIENCE, || kernel_resets() > before), "its own resets would have been counted");
    // A cable that is pulled: no carrier; in again, all goes on.
    let (mut one, listener) = {
        let listener = TcpListener::bind_in(&session, at(STACK, 7_100)).expect("a listener");
        let one = other.run(|| std::net::TcpStream::connect_timeout(&at(STACK, 7_100), PATIENCE));
        (one.expect("connected"), listener)
    };
    let (mut accepted, _) = listener.accept().expect("accepted");
    let downs = count(&group, "carrier_down");
    other.ip(&format!("link set {THERE} down")).expect("pulled");
    assert!(wait_until(PATIENCE, || count(&group, "carrier_down") > downs), "no carrier is noticed");
    let ups = count(&group, "carrier_up");
    other.ip(&format!("link set {THERE} up")).expect("plugged in");
    assert!(wait_until(PATIENCE, || count(&group, "carrier_up") > ups), "a carrier is noticed");
    one.write_all(b"still").expect("written");
    let mut got = [0; 5];
    accepted.read_exact(&mut got).expect("read");
    assert_eq!(&got, b"still");
}

fn kills(nic: &str, more: &[&str]) {
    let (other, group) = started(nic, more);
    note_fallback(nic, &group);
    let crowd = Crowd {
        stack: (at(STACK, ECHO), CONNECTIONS),
        loaded: LOADED,
        kernel: (at(KERNEL, ECHO + 1), BESIDE),
    };
    let roles = [Role::Nicd, Role::Netd, Role::Nicd, Role::Sockd, Role::Netd, Role::Supervisor];
    beside::kills(&group, &other, crowd, &roles, || (kernel_resets(), 0));
}

/// What is wrong is said in words that help.
fn refusals(kind: &str) {
    let other = OtherNet::new().expect("a second namespace");
    other.cable((HERE, &format!("{KERNEL}/24")), (THERE, &format!("{REMOTE}/24"))).expect("a cable");
    let up = |nic: String, more: &[&str]| {
        let more = more.iter().map(|word| (*word).to_owned()).collect();
        let spec = Spec { nic, addr: format!("{STACK}/24"), tap_addr: None, more };
        Group::up(&spec).map(drop).expect_err("refused").to_string()
    };
    let said = up(format!("{kind}:axlnone"), &[]);
    assert!(said.contains("axlnone"), "{said}");
    ip(&format!("link set {HERE} mtu 1400")).expect("a smaller MTU");
    let said = up(format!("{kind}:{HERE}"), &[]);
    assert!(said.contains("its MTU is 1400"), "{said}");
    let said = up(format!("{kind}:{HERE}@axlnone"), &[]);
    assert!(said.contains("ip netns add axlnone"), "{said}");
}

tests::tests! {
    packet_beside_the_kernel = beside_the_kernel(&format!("packet:{HERE}"), &[]);
    packet_without_offloads = beside_the_kernel(&format!("packet:{HERE},offload=off"), &[]);
    packet_with_two_shards = beside_the_kernel(&format!("packet:{HERE}"), &["--shards", "2"]);
    packet_kills_lose_nothing = kills(&format!("packet:{HERE}"), &[]);
    packet_refusals = refusals("packet");
    xdp_beside_the_kernel = beside_the_kernel(&format!("xdp:{HERE}"), &[]);
    xdp_with_two_shards = beside_the_kernel(&format!("xdp:{HERE}"), &["--shards", "2"]);
    xdp_kills_lose_nothing = kills(&format!("xdp:{HERE}"), &[]);
    xdp_refusals = refusals("xdp");
}

/// Where AF_XDP is not to be had, AF_PACKET takes its place, and the log says why.
#[test]
fn xdp_falls_back_with_a_reason() {
    private_net::test("xdp_falls_back_with_a_reason", || {
        let other = OtherNet::new().expect("a second namespace");
        other.cable((HERE, &format!("{KERNEL}/24")), (THERE, &format!("{REMOTE}/24"))).expect("a cable");
        // Longer frames than a chunk of the sockets' memory holds.
        ip(&format!("link set {HERE} mtu 9000")).expect("jumbo frames");
        other.ip(&format!("link set {THERE} mtu 9000")).expect("jumbo frames");
        let spec = Spec {
            nic: format!("xdp:{HERE}"),
            addr: format!("{STACK}/24"),
            tap_addr: None,
            more: vec!["--mtu".into(), "9000".into()],
        };
        let group = Group::up(&spec).expect("a group");
        let answers = || other.run(|| ping4(v4(STACK), &[7; 8_000], Duration::from_secs(2)).is_ok());
        assert!(wait_until(PATIENCE, answers), "no answer to an echo");
        let logs = group.logs().into_iter().filter_map(|path| std::fs::read_to_string(path).ok());
        let said = logs.collect::<String>();
        assert!(said.contains("AF_PACKET instead: frames of 9018 bytes"), "{said}");
    });
}

/// netctl shows how often nicd woke, how often it polled, and how many frames a poll moved.
#[test]
fn polls_are_shown() {
    private_net::test("polls_are_shown", || {
        let (other, group) = started(&format!("packet:{HERE}"), &[]);
        let _server = stack_echo(&group, &other, at(STACK, ECHO));
        let shown = |group: &Group| -> serde_json::Value {
            let output = group.command("netctl").args(["-j", "link", "-s"]).output().expect("netctl runs");
            serde_json::from_slice(&output.stdout).expect("JSON")
        };
        let of_ours = |shown: &serde_json::Value, what: &str| shown[0]["napi"][what].as_f64().unwrap_or(-1.0);
        let before = shown(&group);
        let mut caller = other
            .run(|| std::net::TcpStream::connect_timeout(&at(STACK, ECHO), PATIENCE).expect("connected"));
        caller.write_all(&[7; 10_000]).expect("written");
        caller.read_exact(&mut [0; 10_000]).expect("read");
        let more = |what| of_ours(&shown(&group), what) > of_ours(&before, what);
        assert!(
            wait_until(PATIENCE, || more("wakeups") && more("polls") && more("frames")),
            "{:?}",
            shown(&group)
        );
        let text = group.command("netctl").args(["link", "-s"]).output().expect("netctl runs");
        assert!(String::from_utf8_lossy(&text.stdout).contains("FRAMES/POLL"), "{text:?}");
    });
}
