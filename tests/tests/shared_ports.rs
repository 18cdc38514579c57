//! Ports of the kernel's own address that are the stack's, on an interface of the kernel: one address, two stacks,
//! and kills of ours. What is the kernel's stays its own, and it answers for nothing that is not.
//!
//! `AXOLOTL_INTERFACE_KILLS` (24), `AXOLOTL_STORM_SEED` (random).

use libnetclient::{Size, TcpListener, TcpStream, UdpSocket};
use std::io::{ErrorKind, Read, Write};
use std::time::Duration;
use tests::process::beside::{self, Crowd, PATIENCE, at, kernel_counter, kernel_echo, talk};
use tests::process::group::{Group, Role, Spec};
use tests::process::other_net::{OtherNet, ip};
use tests::process::raw_link::close_checksums;
use tests::process::{skip, wait_until};
use tests::remote::ping::ping4;

const HERE: &str = "axlsp0";
const THERE: &str = "axlsp1";
/// The address that the kernel of the group's namespace and the stack have, and the remote's.
const BOTH: &str = "10.91.0.1";
const REMOTE: &str = "10.91.0.9";
/// The stack's ports: of a server, and of connections.
const ECHO: u16 = 7007;
const OWN: std::ops::RangeInclusive<u16> = 20_000..=20_999;
const PORTS: &str = "ports=7007+7100-7109+20000-20999";
/// A port of the kernel's.
const SSH: u16 = 22;
const CONNECTIONS: usize = 48;
const LOADED: usize = 12;
const BESIDE: usize = 4;

fn cable(kind: &str) -> OtherNet {
    let other = OtherNet::new().expect("a second namespace");
    other.cable((HERE, &format!("{BOTH}/24")), (THERE, &format!("{REMOTE}/24"))).expect("a cable");
    if kind == "xdp" {
        other.run(|| close_checksums(THERE)).expect("frames as they are on a cable");
    }
    other
}

fn spec(nic: String, more: &[&str]) -> Spec {
    let more = more.iter().map(|word| (*word).to_owned()).collect();
    Spec { nic, addr: format!("{BOTH}/24"), tap_addr: None, more }
}

/// The kernel has an address on the interface, and a group takes ports of it; nothing, with a reason, where bpf(2) is
/// not to be had.
fn started(kind: &str, more: &[&str]) -> Option<(OtherNet, Group)> {
    let other = cable(kind);
    match Group::up(&spec(format!("{kind}:{HERE},{PORTS}"), more)) {
        Ok(group) => Some((other, group)),
        // An ordinary user is root in a namespace of its own, and not to bpf(2).
        Err(e) if e.to_string().contains("bpf(2)") && in_user_namespace() => {
            skip(kind, &e.to_string(), false);
            None
        }
        Err(e) => panic!("a group: {e}"),
    }
}

fn in_user_namespace() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().nth(2) != Some("4294967295")
}

/// Resets that the kernel of this namespace sent: RFC 4022, tcpOutRsts. And ICMP unreachables: icmpOutDestUnreachs.
fn kernel_answers() -> (u64, u64) {
    (kernel_counter("Tcp:", "OutRsts"), kernel_counter("Icmp:", "OutDestUnreachs"))
}

fn reach(other: &OtherNet, port: u16) -> std::io::Result<std::net::TcpStream> {
    other.run(|| std::net::TcpStream::connect_timeout(&at(BOTH, port), PATIENCE))
}

fn refused(outcome: std::io::Result<std::net::TcpStream>) -> bool {
    outcome.is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused)
}

fn two_stacks_one_address(kind: &str, more: &[&str]) {
    let Some((other, group)) = started(kind, more) else { return };
    let session = group.session(Size::default()).expect("a session");
    let ours = TcpListener::bind_in(&session, at(BOTH, ECHO)).expect("the stack's listener");
    let ssh = std::net::TcpListener::bind(at(BOTH, SSH)).expect("the kernel's listener");
    let before = kernel_answers();
    talk(reach(&other, ECHO).expect("connected"), ours.accept().expect("accepted").0);
    talk(reach(&other, SSH).expect("connected"), ssh.accept().expect("accepted").0);
    // Where nobody listens, the stack says so for its own ports.
    assert!(refused(reach(&other, 7101)), "a port of the stack's without a listener");
    // From the stack to the remote, out of its own ports; from the kernel out of its own.
    let remote = other.run(|| std::net::TcpListener::bind(at(REMOTE, 0)).expect("the remote's listener"));
    let to = at(REMOTE, remote.local_addr().expect("bound").port());
    let caller = TcpStream::connect_in(&session, to).expect("connected");
    let (accepted, from) = remote.accept().expect("accepted");
    assert!(from.ip() == at(BOTH, 0).ip() && OWN.contains(&from.port()), "{from}");
    talk(caller, accepted);
    let caller = std::net::TcpStream::connect(to).expect("connected");
    let (accepted, from) = remote.accept().expect("accepted");
    assert!(from.ip() == at(BOTH, 0).ip() && !OWN.contains(&from.port()), "{from}");
    talk(caller, accepted);
    // What is the kernel's can't be had of the stack.
    for any in [BOTH, "0.0.0.0"] {
        let tried = TcpListener::bind_in(&session, at(any, SSH)).map(drop).map_err(|e| e.kind());
        assert_eq!(tried, Err(ErrorKind::AddrInUse), "{any}");
        let tried = UdpSocket::bind_in(&session, at(any, 53)).map(drop).map_err(|e| e.kind());
        assert_eq!(tried, Err(ErrorKind::AddrInUse), "{any}");
    }
    datagrams(&session, &other);
    assert_eq!(kernel_answers(), before, "the kernel answered for what is the stack's");
    // Its own it does answer for: a port without a listener, a datagram to nobody, echoes.
    assert!(refused(reach(&other, 23)), "a port of the kernel's without a listener");
    let nobody = other.run(|| std::net::UdpSocket::bind(at(REMOTE, 0)).expect("a socket"));
    nobody.connect(at(BOTH, 23)).expect("connected");
    let told = || {
        let _ = nobody.send(b"?");
        let after = kernel_answers();
        after.0 > before.0 && after.1 > before.1
    };
    assert!(wait_until(PATIENCE, told), "its own answers would have been counted");
    let answers =
        || other.run(|| ping4(BOTH.parse().expect("one"), &[7; 1_000], Duration::from_secs(2)).is_ok());
    assert!(wait_until(PATIENCE, answers), "no answer to an echo");
    // With the group its share ends: the kernel has the port again.
    drop((ours, session, group));
    kernel_echo(at(BOTH, ECHO), 1);
    let mut again = reach(&other, ECHO).expect("the kernel's");
    again.write_all(b"back").expect("written");
    let mut got = [0; 4];
    again.read_exact(&mut got).expect("read");
    assert_eq!(&got, b"back");
}

/// Whole and in fragments, both ways; and to a port of the stack's where nobody is.
fn datagrams(session: &libnetclient::Session, other: &OtherNet) {
    let ours = UdpSocket::bind_in(session, at(BOTH, 7102)).expect("a socket");
    let theirs = other.run(|| std::net::UdpSocket::bind(at(REMOTE, 0)).expect("a socket"));
    theirs.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    ours.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut room = vec![0; 1 << 16];
    for len in [1, 1_472, 1_473, 9_000] {
        let sent: Vec<u8> = (0..len).map(|n| (n * 3) as u8).collect();
        theirs.send_to(&sent, at(BOTH, 7102)).expect("sent");
        let (got, from) = ours.recv_from(&mut room).expect("received");
        assert!(room[..got] == sent, "{len} bytes to the stack");
        assert_eq!(ours.send_to(&sent, from).expect("sent"), len);
        let (got, from) = theirs.recv_from(&mut room).expect("received");
        assert!(room[..got] == sent && from == at(BOTH, 7102), "{len} bytes from the stack");
    }
    let nobody = other.run(|| std::net::UdpSocket::bind(at(REMOTE, 0)).expect("a socket"));
    nobody.connect(at(BOTH, 7103)).expect("connected");
    nobody.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
    let unreachable = || {
        let _ = nobody.send(b"?");
        nobody.recv(&mut [0; 8]).is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused)
    };
    assert!(wait_until(PATIENCE, unreachable), "the stack says that nobody is there");
}

fn kills(kind: &str) {
    let Some((other, group)) = started(kind, &[]) else { return };
    let crowd =
        Crowd { stack: (at(BOTH, ECHO), CONNECTIONS), loaded: LOADED, kernel: (at(BOTH, SSH), BESIDE) };
    let roles = [Role::Nicd, Role::Netd, Role::Nicd, Role::Sockd, Role::Nicd, Role::Supervisor];
    beside::kills(&group, &other, crowd, &roles, kernel_answers);
}

/// What is wrong is said in words that help.
fn refusals() {
    let _other = cable("packet");
    let up =
        |nic: String, more: &[&str]| Group::up(&spec(nic, more)).map(drop).expect_err("refused").to_string();
    let said = up(format!("packet:{HERE},ports=32000-33000"), &[]);
    assert!(said.contains("ip_local_reserved_ports=32000-33000"), "{said}");
    let said = up(format!("packet:{HERE},ports=0"), &[]);
    assert!(said.contains("'0' is no port"), "{said}");
    let said = up(format!("packet:{HERE},ports=80"), &["--mac", "02:00:00:00:00:01"]);
    assert!(said.contains("own hardware address is used"), "{said}");
    let said = up("packet:axlnone,ports=80".to_owned(), &[]);
    assert!(said.contains("axlnone"), "{said}");
    ip(&format!("addr del {BOTH}/24 dev {HERE}")).expect("taken away");
    let said = up(format!("packet:{HERE},ports=80"), &[]);
    assert!(said.contains(&format!("ports of {BOTH} can't be shared")), "{said}");
}

tests::tests! {
    packet_two_stacks_one_address = two_stacks_one_address("packet", &[]);
    packet_two_shards_one_address = two_stacks_one_address("packet", &["--shards", "2"]);
    packet_kills_beside_the_kernel = kills("packet");
    xdp_two_stacks_one_address = two_stacks_one_address("xdp", &[]);
    xdp_two_shards_one_address = two_stacks_one_address("xdp", &["--shards", "2"]);
    xdp_kills_beside_the_kernel = kills("xdp");
    what_can_not_be_shared = refusals();
}
