//! The five hook points: a rule at each drops and counts, what it leaves alone passes.

use super::rig::{App, Plan, Rig, exchange};
use crate::filter::{Hook, Rule, Verdict};
use crate::wire::drop_reason::DropReason;
use proto::arena::Geometry;
use proto::control::messages::Prefix;
use proto::control::notices::Change;
use rustix::io::Errno;

const GEOMETRY: Geometry = Geometry { shards: 1, active: 4, passive: 4, tx_pages: 64, rx_pages: 64 };

fn hosts() -> (Rig, App, Rig, App) {
    let (mut one, mut other) = (Rig::new(Plan::new(1, "10.0.0.1")), Rig::new(Plan::new(2, "10.0.0.2")));
    let (mut sender, mut receiver) = (one.client(GEOMETRY), other.client(GEOMETRY));
    one.datagram(&mut sender, 0, "0.0.0.0:1000", "0.0.0.0:0");
    other.datagram(&mut receiver, 0, "0.0.0.0:9", "0.0.0.0:0");
    other.datagram(&mut receiver, 1, "0.0.0.0:10", "0.0.0.0:0");
    (one, sender, other, receiver)
}

fn rule(number: u32, hook: Hook) -> Rule {
    let destination = Some(Prefix { addr: "10.0.0.2".parse().expect("an address"), len: 32 });
    let destination_ports = Some((9, 9));
    Rule {
        number,
        hook,
        verdict: Verdict::Drop,
        protocol: Some(17),
        destination,
        destination_ports,
        ..Rule::default()
    }
}

fn counts(rig: &Rig, number: u32) -> (u64, u64) {
    let counted = rig.stack.ip.rules.get(number).expect("a rule");
    (counted.packets, counted.bytes)
}

#[test]
fn a_rule_at_each_hook_drops_and_counts() {
    for hook in [Hook::Prerouting, Hook::Input, Hook::Output, Hook::Postrouting] {
        let (mut one, mut sender, mut other, mut receiver) = hosts();
        let sends = matches!(hook, Hook::Output | Hook::Postrouting);
        let filtering = if sends { &mut one } else { &mut other };
        filtering.stack.change(filtering.now, &Change::FilterAdd { rule: rule(7, hook) }).expect("entered");
        for to in ["10.0.0.2:9", "10.0.0.2:10"] {
            sender.send_to(0, to, b"hello");
            one.settle();
            exchange(&mut one, &mut other);
        }
        assert_eq!((receiver.records(0).len(), receiver.records(1).len()), (0, 1), "{hook:?}");
        let filtering = if sends { &mut one } else { &mut other };
        assert_eq!(filtering.stack.counters.dropped(DropReason::NetfilterDrop), 1, "{hook:?}");
        assert_eq!(counts(filtering, 7), (1, 33), "{hook:?}");
        filtering.stack.change(filtering.now, &Change::FilterDel { number: 7 }).expect("there");
        sender.send_to(0, "10.0.0.2:9", b"hello");
        one.settle();
        exchange(&mut one, &mut other);
        assert_eq!(receiver.records(0).len(), 1, "{hook:?}: the rule is gone");
    }
}

#[test]
fn what_is_for_another_host_goes_by_its_hook() {
    let (mut one, _, mut other, _) = hosts();
    let drops =
        Rule { hook: Hook::Forward, destination: None, destination_ports: None, ..rule(3, Hook::Forward) };
    other.stack.change(other.now, &Change::FilterAdd { rule: drops }).expect("entered");
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
    let header = [0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 99];
    let sum = crate::wire::checksum::Sum::of(&header).field().to_be_bytes();
    frame.extend(header);
    frame[24..26].copy_from_slice(&sum);
    frame.extend([0, 1, 0, 2, 0, 8, 0, 0]);
    other.receive(0, &frame);
    other.settle();
    assert_eq!(counts(&other, 3), (1, 28));
    assert_eq!(other.stack.counters.dropped(DropReason::NetfilterDrop), 1);
    assert_eq!(other.stack.counters.dropped(DropReason::IpInNoRoute), 0);
    one.settle();
}

#[test]
fn what_can_not_be_a_rule_is_refused() {
    let (mut one, ..) = hosts();
    let mut change = |change: Change| one.stack.change(one.now, &change);
    let bad = Rule { source_ports: Some((9, 8)), ..rule(1, Hook::Input) };
    assert_eq!(change(Change::FilterAdd { rule: bad }), Err(Errno::INVAL));
    assert_eq!(change(Change::FilterAdd { rule: rule(0, Hook::Input) }), Err(Errno::INVAL));
    assert_eq!(change(Change::FilterAdd { rule: rule(1, Hook::Input) }), Ok(()));
    assert_eq!(change(Change::FilterAdd { rule: rule(1, Hook::Output) }), Err(Errno::EXIST));
    assert_eq!(change(Change::FilterDel { number: 2 }), Err(Errno::NOENT));
}
