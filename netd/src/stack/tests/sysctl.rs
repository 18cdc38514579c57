//! Tunables: each does what its name says, at once or for what comes later.

use super::rig::{App, Plan, Rig, exchange, interface};
use crate::counters::Counter;
use crate::stack::socket::Kind;
use crate::tcp::congestion::Kind as Algorithm;
use crate::wire::drop_reason::DropReason;
use proto::arena::Geometry;
use proto::arena::line::{level, want};
use proto::control::messages::Prefix;
use proto::control::notices::Change;
use proto::hard::routing::{Hop, Hops, TABLE_MAIN};
use proto::hard::sysctl::Tunable;
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::time::Duration;

const GEOMETRY: Geometry = Geometry { shards: 1, active: 8, passive: 8, tx_pages: 64, rx_pages: 64 };
/// Where a packet of IPv4 without options has them, behind 14 bytes of Ethernet.
const TTL_AT: usize = 22;
const PROTOCOL_AT: usize = 23;
const OFFSET_AT: usize = 46;
const FLAGS_AT: usize = 47;
const SYN: u8 = 2;
const ECE_CWR: u8 = 0xc0;

fn hosts() -> (Rig, App, Rig, App) {
    let host = |number: u8, addrs: [&str; 2]| {
        Rig::new(Plan { interfaces: vec![interface(number, &addrs)], ..Plan::new(number, addrs[0]) })
    };
    let (mut one, mut other) = (host(1, ["10.0.0.1", "fd00::1"]), host(2, ["10.0.0.2", "fd00::2"]));
    let (mut client, mut server) = (one.client(GEOMETRY), other.client(GEOMETRY));
    other.listen(&mut server, 0, "[::]:80", 8);
    one.datagram(&mut client, 7, "[::]:1000", "0.0.0.0:0");
    // They know each other for good.
    for (rig, number) in [(&mut one, 2), (&mut other, 1)] {
        for addr in [format!("10.0.0.{number}"), format!("fd00::{number}")] {
            let (addr, mac) = (addr.parse().expect("an address"), [2, 0, 0, 0, 0, number]);
            rig.stack.change(rig.now, &Change::NeighbourAdd { nic: 0, addr, mac }).expect("room");
        }
        rig.settle();
        rig.sent();
    }
    (one, client, other, server)
}

fn set(rig: &mut Rig, tunable: Tunable, value: u32) {
    rig.stack.change(rig.now, &Change::SysctlSet { tunable, value }).expect("a value that it takes");
}

fn only_frame(rig: &mut Rig) -> Vec<u8> {
    let mut sent = rig.sent();
    assert_eq!(sent.len(), 1, "{sent:?}");
    sent.remove(0).1
}

fn syn(rig: &mut Rig, client: &mut App, slot: u32) -> Vec<u8> {
    rig.connect(client, slot, &format!("0.0.0.0:{}", 2000 + slot), "10.0.0.2:80");
    let frame = only_frame(rig);
    assert_eq!((frame[PROTOCOL_AT], frame[FLAGS_AT] & 0x3f), (6, SYN));
    frame
}

/// Time passes at one host, and nobody answers. How many packets left.
fn unanswered(rig: &mut Rig, span: Duration) -> usize {
    let (end, mut count) = (rig.now + span, 0);
    while let Some(at) = rig.deadline().filter(|at| *at <= end) {
        rig.now = rig.now.max(at);
        rig.settle();
        count += rig.sent().iter().filter(|(_, frame)| frame[12..14] == [8, 0]).count();
    }
    rig.now = end;
    count
}

#[test]
fn what_a_tunable_does_not_take_is_refused() {
    let (mut one, ..) = hosts();
    let change = Change::SysctlSet { tunable: Tunable::Ttl, value: 256 };
    assert_eq!(one.stack.change(one.now, &change), Err(Errno::INVAL));
}

#[test]
fn packets_live_as_long_as_they_are_told() {
    let (mut one, mut client, ..) = hosts();
    let mut sent = |one: &mut Rig, to: &str, at: usize| {
        client.send_to(7, to, b"?");
        one.settle();
        only_frame(one)[at]
    };
    assert_eq!((sent(&mut one, "10.0.0.2:9", TTL_AT), sent(&mut one, "[fd00::2]:9", 21)), (64, 64));
    set(&mut one, Tunable::Ttl, 7);
    set(&mut one, Tunable::HopLimit, 9);
    assert_eq!((sent(&mut one, "10.0.0.2:9", TTL_AT), sent(&mut one, "[fd00::2]:9", 21)), (7, 9));
}

#[test]
fn a_syn_offers_what_it_may() {
    let (mut one, mut client, ..) = hosts();
    let header = |frame: &[u8]| usize::from(frame[OFFSET_AT] >> 4) * 4;
    assert_eq!(header(&syn(&mut one, &mut client, 0)), 20 + 20, "MSS, SACK, timestamps, a scale");
    set(&mut one, Tunable::Timestamps, 0);
    assert_eq!(header(&syn(&mut one, &mut client, 1)), 20 + 4 + 4 + 4, "no timestamps");
    set(&mut one, Tunable::WindowScaling, 0);
    assert_eq!(header(&syn(&mut one, &mut client, 2)), 20 + 4 + 4, "no scale");
    set(&mut one, Tunable::Sack, 0);
    let frame = syn(&mut one, &mut client, 3);
    assert_eq!((header(&frame), frame[FLAGS_AT] & ECE_CWR), (20 + 4, 0), "no SACK");
    set(&mut one, Tunable::Ecn, 1);
    assert_eq!(syn(&mut one, &mut client, 4)[FLAGS_AT] & ECE_CWR, ECE_CWR, "ECN is asked for");
}

#[test]
fn ecn_is_accepted_unless_it_is_off() {
    for (value, accepted) in [(2, true), (0, false)] {
        let (mut one, mut client, mut other, _) = hosts();
        set(&mut one, Tunable::Ecn, 1);
        set(&mut other, Tunable::Ecn, value);
        let syn = syn(&mut one, &mut client, 0);
        other.receive(0, &syn);
        other.settle();
        assert_eq!(only_frame(&mut other)[FLAGS_AT] & 0x40 != 0, accepted, "ECE of the SYN-ACK");
    }
}

#[test]
fn new_connections_have_the_algorithm_that_is_set() {
    let (mut one, mut client, mut other, _server) = hosts();
    let algorithms = |rig: &Rig| -> Vec<Algorithm> {
        let of = |kind: &Kind| if let Kind::Tcp(block) = kind { Some(block.congestion_kind()) } else { None };
        rig.stack.sockets.iter().filter_map(|socket| of(&socket.kind)).collect()
    };
    for (value, slot) in [(1, 0), (0, 1), (2, 2)] {
        set(&mut one, Tunable::Congestion, value);
        one.connect(&mut client, slot, &format!("0.0.0.0:{}", 2000 + slot), "10.0.0.2:80");
        exchange(&mut one, &mut other);
    }
    let mut found = algorithms(&one);
    found.sort_by_key(|kind| format!("{kind:?}"));
    assert_eq!(found, [Algorithm::Bbr, Algorithm::Cubic, Algorithm::NewReno]);
    assert_eq!(algorithms(&other), [Algorithm::Cubic; 3], "the other host's are its own");
}

#[test]
fn hosts_give_up_when_they_are_told_to() {
    let (mut one, mut client, mut other, mut server) = hosts();
    one.connect(&mut client, 0, "0.0.0.0:0", "10.0.0.2:80");
    exchange(&mut one, &mut other);
    // Also of connections that are there.
    set(&mut one, Tunable::Retries2, 3);
    set(&mut one, Tunable::SynRetries, 2);
    client.write(0, b"nobody hears");
    one.settle();
    assert_eq!(one.sent().len(), 1);
    // A probe of the tail, and three of the timer.
    let tries = unanswered(&mut one, Duration::from_secs(60));
    assert!((3..=4).contains(&tries), "{tries}");
    assert_ne!(client.stack_line(0).flags & level::ERROR, 0, "given up");
    let frame = syn(&mut one, &mut client, 1);
    assert_eq!(unanswered(&mut one, Duration::from_secs(60)), 2);
    assert_ne!(client.stack_line(1).flags & level::ERROR, 0, "given up");
    set(&mut other, Tunable::SynAckRetries, 1);
    other.receive(0, &frame);
    other.settle();
    assert_eq!(unanswered(&mut other, Duration::from_secs(60)), 1 + 1, "the SYN-ACK, and again");
    server.accept(0);
}

#[test]
fn an_orphan_is_given_up_sooner() {
    let (mut one, mut client, mut other, _server) = hosts();
    one.connect(&mut client, 0, "0.0.0.0:0", "10.0.0.2:80");
    exchange(&mut one, &mut other);
    set(&mut one, Tunable::OrphanRetries, 1);
    client.close(0);
    one.settle();
    let tries = unanswered(&mut one, Duration::from_secs(60));
    assert!((2..=3).contains(&tries), "{tries}: the FIN, a probe of the tail, and once more");
    assert_eq!(one.stack.record_count(), 1, "only the datagrams' socket is left");
}

#[test]
fn cookies_are_sent_never_under_load_and_always() {
    for (value, cookies, refused) in [(0, 0, 3), (1, 3, 0), (2, 4, 0)] {
        let (mut one, mut client, mut other, _server) = hosts();
        set(&mut other, Tunable::SynCookies, value);
        set(&mut other, Tunable::SynBacklog, 1);
        for slot in 0..4 {
            let syn = syn(&mut one, &mut client, slot);
            other.receive(0, &syn);
            other.settle();
        }
        let counters = &other.stack.counters;
        assert_eq!(counters.get(Counter::TcpSynCookies), cookies, "{value}");
        assert_eq!(counters.dropped(DropReason::TcpListenOverflow), refused, "{value}");
    }
}

#[test]
fn fast_open_is_for_those_who_may() {
    // Kind 34: a cookie of 8 bytes, or the question for one (RFC 7413 §4.1.1).
    for (value, offered) in [(3, true), (2, true), (1, false), (0, false)] {
        let (mut one, mut client, mut other, mut server) = hosts();
        set(&mut other, Tunable::FastOpen, value);
        server.want(0, want::FASTOPEN);
        other.settle();
        let mut syn = syn(&mut one, &mut client, 0);
        // Asks for a cookie: in place of the window's scale and its padding.
        let options = &mut syn[54..];
        let at = options.windows(2).position(|pair| pair == [3, 3]).expect("a scale");
        options[at..at + 3].copy_from_slice(&[34, 2, 1]);
        refresh_sum(&mut syn);
        other.receive(0, &syn);
        other.settle();
        let answer = only_frame(&mut other);
        assert_eq!(answer[54..].windows(2).any(|pair| pair == [34, 10]), offered, "{value}: {answer:02x?}");
    }
    for (value, asked) in [(1, true), (2, false)] {
        let (mut one, mut client, ..) = hosts();
        set(&mut one, Tunable::FastOpen, value);
        one.connect_when(&mut client, 0, "0.0.0.0:0", "10.0.0.2:80", true);
        client.want(0, want::FASTOPEN);
        client.write(0, b"early");
        one.settle();
        let syn = only_frame(&mut one);
        assert_eq!(syn[FLAGS_AT] & 0x3f, SYN);
        assert_eq!(syn[54..].windows(2).any(|pair| pair == [34, 2]), asked, "{value}: {syn:02x?}");
    }
}

/// The checksum of a segment of IPv4 behind headers without options.
fn refresh_sum(frame: &mut [u8]) {
    let len = frame.len() - 34;
    frame[50..52].fill(0);
    let mut sum = 6 + len as u32;
    for pair in frame[26..].chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    frame[50..52].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}

#[test]
fn a_keepalive_leaves_when_it_is_told_to() {
    let (mut one, mut client, mut other, _server) = hosts();
    one.connect(&mut client, 0, "0.0.0.0:0", "10.0.0.2:80");
    exchange(&mut one, &mut other);
    client.want(0, want::KEEPALIVE);
    one.settle();
    assert_eq!(unanswered(&mut one, Duration::from_secs(100)), 0);
    set(&mut one, Tunable::KeepaliveInterval, 5);
    set(&mut one, Tunable::KeepaliveProbes, 3);
    set(&mut one, Tunable::KeepaliveTime, 110);
    assert_eq!(unanswered(&mut one, Duration::from_secs(9)), 0);
    // Three of them, and a reset.
    assert_eq!(unanswered(&mut one, Duration::from_secs(60)), 4);
    assert_ne!(client.stack_line(0).flags & level::ERROR, 0, "given up");
}

#[test]
fn errors_are_no_more_than_they_may_be() {
    let (mut one, mut client, mut other, _server) = hosts();
    let mut errors = |one: &mut Rig, other: &mut Rig| {
        let before = other.stack.counters.get(Counter::IcmpOutMsgs);
        for _ in 0..100 {
            client.send_to(7, "10.0.0.2:9", b"?");
            one.settle();
            exchange(one, other);
        }
        other.stack.counters.get(Counter::IcmpOutMsgs) - before
    };
    other.now = other.now + Duration::from_secs(1);
    assert_eq!(errors(&mut one, &mut other), 50);
    set(&mut other, Tunable::ErrorBurst, 3);
    set(&mut other, Tunable::ErrorRate, 10);
    other.now = other.now + Duration::from_millis(200);
    assert_eq!(errors(&mut one, &mut other), 2, "ten a second");
    other.now = other.now + Duration::from_secs(9);
    assert_eq!(errors(&mut one, &mut other), 3, "three at once");
}

#[test]
fn challenges_are_no_more_than_they_may_be() {
    let (mut one, mut client, mut other, _server) = hosts();
    let mut syn = syn(&mut one, &mut client, 0);
    other.receive(0, &syn);
    other.settle();
    let answer = only_frame(&mut other);
    one.receive(0, &answer);
    one.settle();
    let ack = only_frame(&mut one);
    other.receive(0, &ack);
    other.settle();
    set(&mut other, Tunable::ChallengeLimit, 4);
    other.now = other.now + Duration::from_secs(1);
    // A SYN within the window.
    syn[41] = syn[41].wrapping_add(1);
    refresh_sum(&mut syn);
    let mut challenges = 0;
    for _ in 0..100 {
        other.receive(0, &syn);
        other.settle();
        challenges += other.sent().len();
    }
    assert!((1..=6).contains(&challenges), "{challenges}");
}

#[test]
fn echoes_may_be_ignored() {
    let (_, _, mut other, _) = hosts();
    let mut ping = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
    ping.extend([0x45, 0, 0, 28, 0, 0, 0, 0, 64, 1, 0x66, 0xdd, 10, 0, 0, 1, 10, 0, 0, 2]);
    let sum = crate::wire::checksum::Sum::of(&{
        let mut header = ping[14..34].to_vec();
        header[10..12].fill(0);
        header
    });
    ping[24..26].copy_from_slice(&sum.field().to_be_bytes());
    ping.extend([8, 0, 0xf7, 0xff, 0, 0, 0, 0]);
    other.receive(0, &ping);
    other.settle();
    assert_eq!(only_frame(&mut other)[34], 0, "a reply");
    set(&mut other, Tunable::EchoIgnore, 1);
    other.receive(0, &ping);
    other.settle();
    assert_eq!(other.sent().len(), 0);
    assert_eq!(other.stack.counters.dropped(DropReason::IcmpUnhandled), 1);
}

/// A route to a network, 8 or 16 bits long, by two neighbours in equal shares.
fn by_two_hops(one: &mut Rig, network: &str, first: &str, second: &str) {
    let addr = |text: &str| text.parse::<core::net::IpAddr>().expect("an address");
    let more = [Some(Hop { gateway: Some(addr(second)), link: 0, weight: 1 }), None, None];
    let to = addr(network);
    let add = Change::RouteAdd {
        to: Prefix { addr: to, len: if to.is_ipv4() { 8 } else { 16 } },
        via: Some(addr(first)),
        nic: 0,
        metric: 0,
        table: TABLE_MAIN,
        source: None,
        hops: Hops { first_weight: 1, more },
    };
    one.stack.change(one.now, &add).expect("neighbours both");
}

#[test]
fn flows_divide_by_their_ports_where_they_are_told_to() {
    for (tunable, network, first, second, remote) in [
        (Tunable::HashPolicy, "8.0.0.0", "10.0.0.2", "10.0.0.3", "8.8.8.8:9"),
        (Tunable::HashPolicyV6, "fd08::", "fd00::2", "fd00::3", "[fd08::8]:9"),
    ] {
        let (mut one, mut client, ..) = hosts();
        let addr = |text: &str| text.parse().expect("an address");
        let mac = [2, 0, 0, 0, 0, 3];
        one.stack.change(one.now, &Change::NeighbourAdd { nic: 0, addr: addr(second), mac }).expect("room");
        by_two_hops(&mut one, network, first, second);
        for slot in 0..7 {
            one.datagram(&mut client, slot, &format!("[::]:{}", 3000 + slot), "0.0.0.0:0");
        }
        let mut ways = |one: &mut Rig| {
            let mut ways = BTreeSet::new();
            for slot in 0..7 {
                client.send_to(slot, remote, b"");
                one.settle();
                ways.insert(only_frame(one)[..6].to_vec());
            }
            ways.len()
        };
        assert_eq!(ways(&mut one), 1, "{remote}: the addresses are the same");
        set(&mut one, tunable, 1);
        assert_eq!(ways(&mut one), 2, "{remote}: the ports are not");
        set(&mut one, tunable, 0);
        assert_eq!(ways(&mut one), 1, "{remote}");
    }
}

#[test]
fn a_next_hop_that_does_not_answer_gives_its_share_away() {
    for (network, second, flows, always) in [
        ("8.0.0.0", "10.0.0.3", ["8.1.1.1:9", "8.2.2.2:9", "8.3.3.3:9", "8.4.4.4:9", "8.5.5.5:9"], false),
        (
            "fd08::",
            "fd00::3",
            ["[fd08::1]:9", "[fd08::2]:9", "[fd08::3]:9", "[fd08::4]:9", "[fd08::5]:9"],
            true,
        ),
    ] {
        let (mut one, mut client, ..) = hosts();
        let first = if always { "fd00::2" } else { "10.0.0.2" };
        by_two_hops(&mut one, network, first, second);
        one.datagram(&mut client, 0, "[::]:3000", "0.0.0.0:0");
        let mut arrive = |one: &mut Rig| {
            let mut count = 0;
            for remote in flows {
                client.send_to(0, remote, b"x");
                one.settle();
                // Those that wait for the second next hop's answer are none of it.
                let to_first = |(_, frame): &&(u16, Vec<u8>)| frame[..6] == [2, 0, 0, 0, 0, 2];
                count += one.sent().iter().filter(to_first).count();
            }
            count
        };
        if !always {
            assert!(arrive(&mut one) < flows.len(), "the second next hop has a share");
            set(&mut one, Tunable::UseNeighbours, 1);
        }
        arrive(&mut one);
        one.spin_for(Duration::from_secs(5));
        one.sent();
        assert_eq!(arrive(&mut one), flows.len(), "{network}: the first next hop has them all");
        // Later it is asked again.
        one.spin_for(Duration::from_secs(16));
        one.sent();
        assert!(arrive(&mut one) < flows.len(), "{network}");
    }
}
