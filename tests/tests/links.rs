//! Links and ways of a host that has several: VLANs with the kernel as their other member, policy rules, routes of
//! several next hops, addresses that somebody else may have.

use libnetclient::{Session, Size};
use rustix::process::Signal;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;
use tests::process::access_port::AccessPort;
use tests::process::group::{Group, Program, Role, Spec, kernel_sockets};
use tests::process::other_net::ip;
use tests::process::raw_link::RawLink;
use tests::process::{private_net, wait_until};
use tests::remote::counter;
use tests::remote::fleet::{Fleet, Load};
use tests::remote::frames;

const NIC: &str = "axl31";
const STACK: &str = "10.91.0.2";
const KERNEL: &str = "10.91.0.1";
const ECHO_PORT: u16 = 7007;
const PATIENCE: Duration = Duration::from_secs(30);
const SECOND: Duration = Duration::from_secs(1);

struct Host {
    group: Group,
    _echo: Program,
}

impl Host {
    /// A group on a TAP, with an echo server on all its addresses.
    fn set_up() -> Host {
        let spec = Spec {
            nic: format!("tap:{NIC}"),
            addr: format!("{STACK}/24"),
            tap_addr: Some(format!("{KERNEL}/24")),
            more: Vec::new(),
        };
        let group = Group::up(&spec).expect("a group");
        let echo = group.example("echo", &[&ECHO_PORT.to_string()]).expect("the echo server");
        let host = Host { group, _echo: echo };
        assert!(wait_until(PATIENCE, || reaches(STACK)), "echo does not listen");
        host
    }

    fn netctl(&self, words: &str) {
        self.group.change(&words.split_whitespace().collect::<Vec<_>>());
    }

    fn ask(&self, words: &[&str]) -> Vec<Value> {
        self.group.ask(words)
    }

    /// The exit code of a change that can't be made.
    fn refused(&self, words: &str) -> i32 {
        self.group.refused(&words.split_whitespace().collect::<Vec<_>>()).0
    }

    fn counted(&self, name: &str) -> u64 {
        let counters = self.group.access().counters();
        counters.get(&(Role::Netd, name.to_owned())).copied().unwrap_or(0)
    }

    fn session(&self) -> Session {
        self.group.session(Size::default()).expect("a session")
    }

    /// kill -9, and the successor in service.
    fn kill(&self, role: Role) {
        let before = self.group.find(role).expect("it runs");
        Group::signal(&before, Signal::KILL);
        let replaced = || self.group.find(role).is_some_and(|row| row.pid != before.pid && row.in_service);
        assert!(wait_until(PATIENCE, replaced), "{:?}", self.group.processes());
    }
}

fn reaches(addr: &str) -> bool {
    let addr = SocketAddr::new(addr.parse().expect("an address"), ECHO_PORT);
    TcpStream::connect_timeout(&addr, SECOND).is_ok()
}

/// The kernel is the other member of a VLAN: connections both ways, full segments and all, while every daemon
/// that could forget the VLAN dies.
#[test]
fn the_kernel_in_a_vlan_loses_nothing() {
    private_net::test("the_kernel_in_a_vlan_loses_nothing", || {
        const KILLED: [Role; 8] = [
            Role::Netd,
            Role::Nicd,
            Role::Netd,
            Role::Sockd,
            Role::Supervisor,
            Role::Netd,
            Role::Nicd,
            Role::Netd,
        ];
        let host = Host::set_up();
        host.netctl("link add link nic0 name lab type vlan id 7");
        host.netctl("addr add 10.92.0.2/24 dev lab");
        let _port = AccessPort::open(NIC, 7, "10.92.0.1/24").expect("the kernel in the VLAN");
        assert!(wait_until(PATIENCE, || reaches("10.92.0.2")), "nothing goes by the VLAN");
        let addr = "10.92.0.2:7007".parse().expect("an address");
        let streams = kernel_sockets(8, addr).expect("connections");
        let load = Load { loaded: 8, ahead: 64 * 1024, rate: 1 << 20, murmur_every: SECOND, seed: 11 };
        let fleet = Fleet::launch(streams, load).expect("a fleet");
        for (kill, role) in KILLED.into_iter().enumerate() {
            let moved = fleet.bytes();
            assert!(wait_until(PATIENCE, || fleet.bytes() > moved), "nothing moves before kill {kill}");
            host.kill(role);
        }
        let report = fleet.finish(2 * PATIENCE).expect("a report");
        assert_eq!(report.lost, Vec::<String>::new());
        assert_eq!((report.clean, report.bytes_wrong), (8, 0));
        // The other way, begun by the stack.
        let listener = TcpListener::bind(("10.92.0.1", 0)).expect("a port");
        let session = host.session();
        let to = listener.local_addr().expect("bound");
        let mut sender = libnetclient::TcpStream::connect_in(&session, to).expect("the kernel answers");
        let (mut receiver, from) = listener.accept().expect("a connection");
        assert_eq!(from.ip().to_string(), "10.92.0.2");
        let sent = std::thread::spawn(move || {
            let mut bytes = vec![0; 1 << 20];
            counter::fill(3, 0, &mut bytes);
            sender.write_all(&bytes)
        });
        receiver.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        host.kill(Role::Netd);
        let mut got = vec![0; 1 << 20];
        receiver.read_exact(&mut got).expect("all of it");
        sent.join().expect("no panic").expect("written");
        assert_eq!(counter::wrong(3, 0, &got), 0);
        assert!(reaches(STACK), "what has no tag is as it was");
    });
}

/// A host with a second way, by VLAN 7 to 10.92.0.1, and addresses of the kernel's that are on no link.
fn two_ways(far: &[String]) -> (Host, AccessPort) {
    let host = Host::set_up();
    host.netctl("link add link nic0 name lab type vlan id 7");
    host.netctl("addr add 10.92.0.2/24 dev lab");
    let port = AccessPort::open(NIC, 7, "10.92.0.1/24").expect("the kernel in the VLAN");
    for addr in far {
        ip(&format!("addr add {addr}/32 dev lo")).expect("an address of the kernel's");
    }
    assert!(wait_until(PATIENCE, || reaches("10.92.0.2")), "nothing goes by the VLAN");
    (host, port)
}

/// Whether a datagram from `source` comes to the kernel at `far`, and which source it has there.
fn heard(session: &Session, source: &str, far: &UdpSocket, patience: Duration) -> Option<IpAddr> {
    let socket = libnetclient::UdpSocket::bind_in(session, (source, 0)).expect("a port");
    let to = far.local_addr().expect("bound");
    far.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
    let mut came = None;
    wait_until(patience, || {
        // Refused where there is no way.
        let _ = socket.send_to(b"which way?", to);
        let mut bytes = [0; 64];
        let local = socket.local_addr().expect("bound");
        while let Ok((_, from)) = far.recv_from(&mut bytes) {
            if from.port() == local.port() {
                came = Some(from.ip());
                break;
            }
        }
        came.is_some()
    });
    came
}

/// Sources have ways of their own, by rules, which outlive netd.
#[test]
fn policy_rules_come_and_go() {
    private_net::test("policy_rules_come_and_go", || {
        const FAR: &str = "192.0.2.1";
        let (host, _port) = two_ways(&[FAR.to_owned()]);
        let far = UdpSocket::bind((FAR, 0)).expect("a port");
        let ours = |addr: &str| Some(addr.parse::<IpAddr>().expect("an address"));
        let session = host.session();
        assert_eq!(heard(&session, "10.92.0.2", &far, SECOND), None, "there is no way yet");
        host.netctl("route add default via 10.92.0.1 dev lab table 100");
        assert_eq!(heard(&session, "10.92.0.2", &far, SECOND), None, "no rule leads there");
        host.netctl("rule add from 10.92.0.2 lookup 100");
        host.netctl("rule add not to 192.0.2.0/24 pref 77 unreachable");
        for round in ["at once", "after a death"] {
            let way = heard(&session, "10.92.0.2", &far, PATIENCE);
            assert_eq!(way, ours("10.92.0.2"), "{round}");
            assert_eq!(heard(&session, "10.91.0.2", &far, SECOND), None, "{round}: no rule is for this one");
            let rules = host.ask(&["-4", "rule"]);
            let shown: Vec<_> =
                rules.iter().map(|rule| (rule["priority"].as_u64(), rule["table"].as_str())).collect();
            let wanted = [(0, Some("local")), (77, None), (32765, Some("100")), (32766, Some("main"))];
            let wanted = wanted.map(|(priority, table)| (Some(priority), table));
            assert_eq!(shown[..4], wanted, "{round}");
            assert_eq!(rules[1]["not"], true);
            assert_eq!(rules[2]["src"], "10.92.0.2/32");
            host.kill(Role::Netd);
        }
        assert_eq!(host.refused("rule add from 10.92.0.2 lookup 100 pref 32765"), 1, "it is there already");
        host.netctl("rule del from 10.92.0.2");
        host.netctl("rule del pref 77");
        for round in ["at once", "after a death"] {
            assert_eq!(heard(&session, "10.92.0.2", &far, SECOND), None, "{round}: the rule is gone");
            assert_eq!(host.ask(&["-4", "rule"]).len(), 3, "{round}");
            host.kill(Role::Netd);
        }
        // Without the rule it is main that counts.
        host.netctl("route add 192.0.2.0/24 via 10.91.0.1 dev nic0 metric 5");
        assert_eq!(heard(&session, "10.91.0.2", &far, PATIENCE), ours("10.91.0.2"));
        host.netctl("route del 192.0.2.0/24 metric 5");
        assert_eq!(heard(&session, "10.91.0.2", &far, SECOND), None);
        for wrong in [
            "rule add lookup local",
            "rule add from 10.0.0.0/8 to fd00::/8",
            "rule add pref 0",
            "rule add from",
        ] {
            assert_eq!(host.refused(wrong), 2, "{wrong}");
        }
        assert_eq!(host.refused("rule del pref 77"), 2, "it is gone");
    });
}

/// A route of two next hops: each remote is reached by one of them, the same after a death, and by the other alone
/// when that one's link is down.
#[test]
fn flows_divide_between_next_hops() {
    private_net::test("flows_divide_between_next_hops", || {
        let far: Vec<String> = (1..=24).map(|n| format!("192.0.2.{n}")).collect();
        let (host, _port) = two_ways(&far);
        host.netctl(
            "route add 192.0.2.0/24 nexthop via 10.91.0.1 dev nic0 weight 1 nexthop via 10.92.0.1 dev lab weight 1",
        );
        let routes = host.ask(&["route"]);
        let divided = routes.iter().find(|route| route["dst"] == "192.0.2.0/24").expect("the route");
        assert_eq!(divided["nexthops"].as_array().map(Vec::len), Some(2));
        let far: Vec<UdpSocket> =
            far.iter().map(|addr| UdpSocket::bind((addr.as_str(), 0)).expect("a port")).collect();
        let session = host.session();
        // By the source that is chosen with the way.
        let ways = || -> BTreeMap<SocketAddr, IpAddr> {
            let way = |socket: &UdpSocket| {
                let came = heard(&session, "0.0.0.0", socket, PATIENCE).expect("it comes through");
                (socket.local_addr().expect("bound"), came)
            };
            far.iter().map(way).collect()
        };
        let first = ways();
        let by = |addr: &str| first.values().filter(|way| way.to_string() == addr).count();
        assert_eq!(by("10.91.0.2") + by("10.92.0.2"), far.len());
        // All of 24 by one is a chance in eight million.
        assert!(by("10.91.0.2") > 0 && by("10.92.0.2") > 0, "{first:?}");
        host.kill(Role::Netd);
        assert_eq!(ways(), first, "a successor sends every flow the same way");
        host.netctl("link set lab down");
        assert!(ways().values().all(|way| way.to_string() == "10.91.0.2"), "one link is down");
        host.netctl("link set lab up");
        assert_eq!(ways(), first, "it is up again");
        host.netctl("route del 192.0.2.0/24");
        assert_eq!(heard(&session, "0.0.0.0", &far[0], SECOND), None, "the route is gone");
    });
}

/// RFC 5227: an address is looked for before it is used, is not used while somebody has it, and is defended.
#[test]
fn addresses_are_looked_for_and_defended() {
    private_net::test("addresses_are_looked_for_and_defended", || {
        let host = Host::set_up();
        let tentative = |addr: &str| {
            let rows = host.ask(&["addr"]);
            let row = rows.iter().find(|row| row["local"] == addr).expect("it is listed").clone();
            row["tentative"] == true
        };
        host.netctl("addr add 10.91.0.5/24 dev nic0 dad on");
        assert!(tentative("10.91.0.5"), "three probes take two seconds at least");
        assert_eq!(host.refused("addr add 10.91.0.5/24 dev nic0 dad on"), 1, "it is being looked for");
        assert!(wait_until(PATIENCE, || reaches("10.91.0.5")), "nobody else has it");
        assert!(!tentative("10.91.0.5"));
        let probed = host.counted("arp_conflicts_found");
        host.kill(Role::Netd);
        assert!(wait_until(PATIENCE, || reaches("10.91.0.5")), "what was verified is used at once");
        assert!(!tentative("10.91.0.5"));
        // The kernel has this one, and says so.
        host.netctl("addr add 10.91.0.1/24 dev nic0 dad on");
        assert!(wait_until(PATIENCE, || host.counted("arp_conflicts_found") > probed), "nobody objects");
        assert!(tentative("10.91.0.1") && reaches(STACK), "the kernel keeps its address");
        host.netctl("addr del 10.91.0.1/24 dev nic0");
        // A stranger claims one that is in use: it hears of it once, and nothing changes.
        let (stranger, ears) = (RawLink::sender(NIC), RawLink::open_both_ways(NIC));
        let (stranger, ears) = (stranger.expect("a packet socket"), ears.expect("a packet socket"));
        let mac = [2, 0, 0, 0, 0, 0x66];
        let ours: Ipv4Addr = STACK.parse().expect("an address");
        let claim = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &mac, &ours.octets(), &[0; 6], &ours.octets()].concat();
        let claim = frames::ethernet([0xff; 6], mac, frames::ARP, &claim);
        let before = host.counted("arp_defences");
        for _ in 0..3 {
            stranger.send(&claim).expect("the interface is up");
        }
        let defence = |frame: &[u8]| {
            let arp = frame.get(12..14)? == [8, 6] && frame.get(28..32)? == ours.octets();
            (arp && frame.get(22..28)? != mac && frame.get(38..42)? == ours.octets()).then_some(())
        };
        ears.receive(PATIENCE, defence).expect("an announcement");
        assert!(wait_until(PATIENCE, || host.counted("arp_defences") > before));
        assert!(wait_until(PATIENCE, || reaches(STACK)), "it is ours as before");
    });
}
