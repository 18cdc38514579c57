//! Groups: joined and left by sockets, told to routers, heard from the sources that are wanted.

use super::rig::{App, Plan, Rig, Sent, exchange, interface};
use crate::wire::drop_reason::DropReason;
use proto::arena::Geometry;
use proto::arena::line::want;
use proto::arena::record::{Said, mark};
use proto::arena::wishes::{Membership, Mode, Wishes};
use proto::form::{Form, Share};
use std::net::IpAddr;
use std::time::Duration;

const GEOMETRY: Geometry = Geometry { shards: 1, active: 8, passive: 4, tx_pages: 64, rx_pages: 64 };
const SHARED: Share = Share { address: true, port: false };
const GROUP: &str = "239.1.2.3";

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn wishes(group: &str, mode: Mode, sources: &[&str]) -> Wishes {
    let sources = sources.iter().map(|source| ip(source)).collect();
    let membership = Membership { group: ip(group), interface: 2, mode, sources };
    Wishes { memberships: vec![membership], ..Wishes::default() }
}

/// Two hosts; at the second `sockets` sockets that share port 9.
fn hosts(sockets: u32) -> (Rig, App, Rig, App) {
    let plan = Plan { interfaces: vec![interface(1, &["10.0.0.1", "10.0.0.7"])], ..Plan::new(1, "10.0.0.1") };
    let (mut one, mut other) = (Rig::new(plan), Rig::new(Plan::new(2, "10.0.0.2")));
    let (mut sender, mut receiver) = (one.client(GEOMETRY), other.client(GEOMETRY));
    one.datagram(&mut sender, 0, "10.0.0.1:1000", "0.0.0.0:0");
    one.datagram(&mut sender, 1, "10.0.0.7:1000", "0.0.0.0:0");
    for slot in 0..sockets {
        other.datagram_of(&mut receiver, slot, "0.0.0.0:9", "0.0.0.0:0", Form::Udp, SHARED);
    }
    one.sent();
    other.sent();
    (one, sender, other, receiver)
}

/// Batches until the host has nothing more to say to itself; what left.
fn spin(rig: &mut Rig) -> Vec<Sent> {
    let mut sent = Vec::new();
    loop {
        rig.settle();
        sent.extend(rig.sent());
        if rig.looped.is_empty() {
            return sent;
        }
    }
}

/// What left for the protocol of groups: destination's last byte and message.
fn igmp(rig: &mut Rig) -> Vec<(u8, Vec<u8>)> {
    let end = rig.now + Duration::from_secs(3);
    let mut sent = spin(rig);
    while let Some(at) = rig.deadline().filter(|at| *at <= end) {
        rig.now = rig.now.max(at);
        sent.extend(spin(rig));
    }
    rig.now = end;
    sent.into_iter()
        .filter(|(_, frame)| frame.get(23) == Some(&2))
        .map(|(_, frame)| {
            assert_eq!(
                (frame[14], frame[22], &frame[34..38]),
                (0x46, 1, &[148, 4, 0, 0][..]),
                "TTL 1 and alert"
            );
            (frame[33], frame[38..].to_vec())
        })
        .collect()
}

#[test]
fn routers_are_told_of_what_sockets_join_and_leave() {
    let (_, _, mut other, mut receiver) = hosts(2);
    receiver.wish(0, &wishes(GROUP, Mode::Exclude, &[]));
    receiver.wish(1, &wishes(GROUP, Mode::Include, &["10.0.0.1"]));
    other.settle();
    assert_eq!(receiver.granted(1), Some(0));
    let told = igmp(&mut other);
    assert!(told.iter().all(|(to, _)| *to == 22), "all routers of version 3");
    assert_eq!(told[0].1[8..], [4, 0, 0, 0, 239, 1, 2, 3], "to exclude nobody");
    assert_eq!(told.len(), 2);
    receiver.wish(0, &Wishes::default());
    other.settle();
    let told = igmp(&mut other);
    assert_eq!(told[0].1[8..], [3, 0, 0, 1, 239, 1, 2, 3, 10, 0, 0, 1], "to include one");
    receiver.close(1);
    other.settle();
    assert_eq!(
        igmp(&mut other)[0].1[8..],
        [6, 0, 0, 1, 239, 1, 2, 3, 10, 0, 0, 1],
        "blocked: nobody is left"
    );
}

#[test]
fn a_group_is_heard_by_all_who_joined_it_and_from_the_sources_they_want() {
    let (mut one, mut sender, mut other, mut receiver) = hosts(4);
    let to = format!("{GROUP}:9");
    let mut pass = |one: &mut Rig, other: &mut Rig, receiver: &mut App| {
        for slot in 0..2 {
            sender.send_to(slot, &to, &[slot as u8]);
            one.settle();
            exchange(one, other);
        }
        let mut got = Vec::new();
        for slot in 0..4 {
            got.push(receiver.records(slot).into_iter().map(|(_, bytes)| bytes[0]).collect::<Vec<_>>());
        }
        got
    };
    assert_eq!(pass(&mut one, &mut other, &mut receiver), [[]; 4] as [[u8; 0]; 4], "nobody has joined");
    assert_eq!(other.stack.counters.dropped(DropReason::IpNotMember), 2);
    receiver.wish(0, &wishes(GROUP, Mode::Exclude, &[]));
    receiver.wish(1, &wishes(GROUP, Mode::Include, &["10.0.0.1"]));
    receiver.wish(2, &wishes(GROUP, Mode::Exclude, &["10.0.0.1"]));
    receiver.wish(3, &Wishes { all_groups: false, ..Wishes::default() });
    other.settle();
    let expected: [&[u8]; 4] = [&[0, 1], &[0], &[1], &[]];
    for round in 0..2 {
        assert_eq!(pass(&mut one, &mut other, &mut receiver), expected, "round {round}");
        other.restart();
    }
    receiver.wish(3, &Wishes::default());
    other.settle();
    assert_eq!(pass(&mut one, &mut other, &mut receiver)[3], [0, 1], "others' groups, by default");
}

#[test]
fn what_this_host_sends_to_a_group_it_hears_unless_its_sender_minds() {
    let (mut one, mut sender, _, _) = hosts(0);
    one.datagram(&mut sender, 2, "0.0.0.0:9", "0.0.0.0:0");
    sender.wish(2, &wishes(GROUP, Mode::Exclude, &[]));
    one.settle();
    one.sent();
    for (marks, hops, heard, leaves) in
        [(0, 0, 1, 1), (mark::NOT_HERE, 0, 0, 1), (mark::HOPS_SAID, 0, 1, 0), (mark::HOPS_SAID, 5, 1, 1)]
    {
        sender.said = Said { marks, hop_limit: hops, ..Said::default() };
        sender.send_to(0, &format!("{GROUP}:9"), b"x");
        let sent: Vec<_> = spin(&mut one).into_iter().filter(|(_, frame)| frame[23] == 17).collect();
        assert_eq!(sender.records(2).len(), heard, "{marks} {hops}");
        assert_eq!(sent.len(), leaves, "{marks} {hops}");
        for (_, frame) in sent {
            assert_eq!(frame[..6], [1, 0, 0x5e, 1, 2, 3]);
            assert_eq!(frame[22], if hops == 0 { 1 } else { hops }, "RFC 1112 §6.1");
        }
    }
    // All hosts of a network are told as well, this one among them.
    sender.said = Said::default();
    sender.want(0, want::BROADCAST);
    sender.send_to(0, "10.0.0.255:9", b"all");
    spin(&mut one);
    assert_eq!(sender.records(2)[0].1, b"all");
}

#[test]
fn a_group_of_ipv6() {
    let plan = |number| Plan::new(number, &format!("fd00::{number}"));
    let (mut one, mut other) = (Rig::new(plan(1)), Rig::new(plan(2)));
    let (mut sender, mut receiver) = (one.client(GEOMETRY), other.client(GEOMETRY));
    one.datagram(&mut sender, 0, "[::]:1000", "0.0.0.0:0");
    other.datagram(&mut receiver, 0, "[::]:9", "0.0.0.0:0");
    receiver.wish(0, &wishes("ff15::7", Mode::Include, &["fd00::1"]));
    other.settle();
    assert_eq!(receiver.granted(0), Some(0));
    assert!(other.stack.groups(0).expect("it speaks IPv6").len() > 2, "the device is told");
    for (to, heard) in [("[ff15::7]:9", 1), ("[ff15::8]:9", 0)] {
        sender.send_to(0, to, b"x");
        one.settle();
        exchange(&mut one, &mut other);
        assert_eq!(receiver.records(0).len(), heard, "{to}");
    }
    receiver.wish(0, &wishes("ff15::7", Mode::Exclude, &["fd00::1"]));
    other.settle();
    sender.send_to(0, "[ff15::7]:9", b"x");
    one.settle();
    exchange(&mut one, &mut other);
    assert_eq!(receiver.records(0).len(), 0);
}

#[test]
fn what_can_not_be_joined_is_refused_and_nothing_changes() {
    let (_, _, mut other, mut receiver) = hosts(1);
    let membership = |group: &str, interface: u32, source: &str| {
        let (group, sources) = (ip(group), vec![ip(source)]);
        let membership = Membership { group, interface, mode: Mode::Include, sources };
        Wishes { memberships: vec![membership], ..Wishes::default() }
    };
    for (wishes, errno) in [
        (membership(GROUP, 9, "10.0.0.1"), 19),
        (membership("10.0.0.9", 2, "10.0.0.1"), 22),
        (membership(GROUP, 2, "fd00::1"), 22),
        (Wishes { device: 7, ..Wishes::default() }, 19),
    ] {
        receiver.wish(0, &wishes);
        other.settle();
        assert_eq!(receiver.granted(0), Some(errno), "{wishes:?}");
        assert!(igmp(&mut other).is_empty());
    }
}
