//! IPv6 between two hosts and within one: connections, datagrams, fragments, neighbours, deaths.

use super::rig::{App, Plan, Rig, addr, exchange, interface, pass};
use crate::stack::LinkNews;
use crate::wire::drop_reason::DropReason;
use proto::arena::Geometry;
use proto::arena::line::level;
use proto::control::messages::Prefix;
use std::time::Duration;

const GEOMETRY: Geometry = Geometry { shards: 1, active: 4, passive: 4, tx_pages: 64, rx_pages: 64 };
const SECOND: Duration = Duration::from_secs(1);

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 7 + n / 251) as u8).collect()
}

fn hosts() -> (Rig, Rig) {
    let host = |number, addr: &str| {
        let interfaces = vec![interface(number, &[addr, &format!("fe80::{number}")])];
        Rig::new(Plan { interfaces, ..Plan::new(number, "10.0.0.1") })
    };
    (host(1, "2001:db8::1"), host(2, "2001:db8::2"))
}

/// Everything that `read` finds until nothing comes any more.
fn drain(one: &mut Rig, other: &mut Rig, app: &mut App, slot: u32, want: usize) -> Vec<u8> {
    let mut got = Vec::new();
    for _ in 0..1_000 {
        got.extend(app.read(slot));
        if got.len() >= want {
            break;
        }
        pass(one, other, Duration::from_millis(50));
    }
    got
}

#[test]
fn a_connection_between_global_and_link_local_addresses() {
    // Inside, the address of a link carries its zone.
    for (listen, connect) in [("[::]:80", "[2001:db8::2]:80"), ("[fe80:1::2]:80", "[fe80:1::2]:80")] {
        let (mut one, mut other) = hosts();
        let (mut calling, mut listening) = (one.client(GEOMETRY), other.client(GEOMETRY));
        other.listen(&mut listening, 0, listen, 8);
        one.connect(&mut calling, 0, "[::]:1000", connect);
        pass(&mut one, &mut other, SECOND);
        assert_ne!(calling.stack_line(0).flags & level::OPEN, 0, "{connect}");
        let place = listening.accept(0)[0];
        let there = bytes(200_000);
        calling.write(0, &there);
        assert!(drain(&mut one, &mut other, &mut listening, place, there.len()) == there, "{connect}");
        // The receiver dies, and the sender; the stream goes on.
        other.restart();
        one.restart();
        listening.write(place, b"back");
        calling.write(0, b"there");
        assert_eq!(drain(&mut one, &mut other, &mut calling, 0, 4), b"back");
        assert_eq!(drain(&mut one, &mut other, &mut listening, place, 5), b"there");
        calling.close(0);
        listening.close(place);
        pass(&mut one, &mut other, 200 * SECOND);
        assert_eq!(one.stack.record_count(), 0);
    }
}

#[test]
fn datagrams_of_any_size_of_both_families() {
    let host = |number: u8| {
        let addrs = [format!("2001:db8::{number}"), format!("10.0.0.{number}")];
        let interfaces = vec![interface(number, &[&addrs[0], &addrs[1]])];
        Rig::new(Plan { interfaces, ..Plan::new(number, "10.0.0.1") })
    };
    let (mut one, mut other) = (host(1), host(2));
    let (mut from, mut to) = (one.client(GEOMETRY), other.client(GEOMETRY));
    one.datagram(&mut from, 0, "[::]:1000", "0.0.0.0:0");
    other.datagram(&mut to, 0, "[::]:2000", "0.0.0.0:0");
    for remote in ["[2001:db8::2]:2000", "10.0.0.2:2000"] {
        for len in [1, 1_452, 1_453, 1_472, 1_473, 9_000, 65_507] {
            let sent = bytes(len);
            from.send_to(0, remote, &sent);
            one.settle();
            exchange(&mut one, &mut other);
            let got = to.records(0);
            assert_eq!(got.len(), 1, "{remote} {len}");
            assert!(got[0].1 == sent, "{remote} {len}");
            assert_eq!(got[0].0.local.ip(), addr(remote).ip());
        }
    }
    let dropped = |rig: &Rig| {
        // What the link says to groups that the other end has no part in.
        let link = [DropReason::NdpNotForUs, DropReason::IpNotMember];
        let known: u64 = link.iter().map(|reason| rig.stack.counters.dropped(*reason)).sum();
        rig.stack.counters.dropped_in_all() - known
    };
    assert_eq!((dropped(&one), dropped(&other)), (0, 0));
}

#[test]
fn a_refused_port_and_an_unreachable_host() {
    let (mut one, mut other) = hosts();
    let mut app = one.client(GEOMETRY);
    one.connect(&mut app, 0, "[::]:1000", "[2001:db8::2]:81");
    pass(&mut one, &mut other, SECOND);
    let line = app.stack_line(0);
    assert_eq!((line.flags & level::ERROR, line.error), (level::ERROR, 111));
    one.datagram(&mut app, 1, "[::]:1001", "[2001:db8::2]:82");
    app.send_to(1, "[2001:db8::2]:82", b"anybody?");
    one.settle();
    pass(&mut one, &mut other, SECOND);
    let line = app.stack_line(1);
    assert_eq!((line.flags & level::ERROR, line.error), (level::ERROR, 111));
    one.connect(&mut app, 2, "[::]:1002", "[2001:db8::77]:80");
    pass(&mut one, &mut other, 10 * SECOND);
    let line = app.stack_line(2);
    assert_eq!((line.flags & level::ERROR, line.error), (level::ERROR, 113));
}

#[test]
fn the_host_itself() {
    let (mut one, _) = hosts();
    let (mut listening, mut calling) = (one.client(GEOMETRY), one.client(GEOMETRY));
    one.listen(&mut listening, 0, "[::]:80", 8);
    for (n, remote) in ["[::1]:80", "[2001:db8::1]:80", "[fe80:1::1]:80"].into_iter().enumerate() {
        let slot = n as u32;
        one.connect(&mut calling, slot, &format!("[::]:100{n}"), remote);
        one.spin();
        assert_ne!(calling.stack_line(slot).flags & level::OPEN, 0, "{remote}");
        let place = listening.accept(0)[0];
        calling.write(slot, b"hello");
        one.spin();
        assert_eq!(listening.read(place), b"hello", "{remote}");
    }
}

#[test]
fn an_address_is_ours_only_after_nobody_objected() {
    let mut config = interface(1, &["10.0.0.1"]);
    config.tentative = vec![Prefix { addr: "2001:db8::9".parse().unwrap(), len: 64 }];
    let plan = |interfaces| Plan { interfaces, ..Plan::new(1, "10.0.0.1") };
    let verified = |one: &mut Rig| {
        let news = std::iter::from_fn(|| one.stack.next_news());
        news.filter(|news| matches!(news, LinkNews::Address { learned: false, .. })).count()
    };
    // Alone on the link: a second and a half later it is ours.
    let mut one = Rig::new(plan(vec![config.clone()]));
    let mut nobody = Rig::new(Plan::new(3, "10.0.0.3"));
    assert!(!one.stack.ip.is_ours("2001:db8::9".parse().unwrap()));
    pass(&mut one, &mut nobody, 5 * SECOND);
    assert!(one.stack.ip.is_ours("2001:db8::9".parse().unwrap()));
    assert_eq!(verified(&mut one), 1);
    // Beside somebody who has it, it is not.
    let mut one = Rig::new(plan(vec![config]));
    let mut owner = Rig::new(plan(vec![interface(2, &["2001:db8::9"])]));
    pass(&mut one, &mut owner, 5 * SECOND);
    assert!(!one.stack.ip.is_ours("2001:db8::9".parse().unwrap()));
    assert_eq!((verified(&mut one), one.stack.counters.dropped(DropReason::NdpConflict)), (0, 1));
}
