//! Addresses of IPv4 that are looked for on the link before they are used (RFC 5227).

use super::rig::{Plan, Rig, exchange};
use crate::counters::Counter;
use proto::Instant;
use proto::control::messages::Prefix;
use proto::control::notices::Change;
use rustix::io::Errno;
use std::net::IpAddr;
use std::time::Duration;

const WANTED: Prefix = Prefix { addr: IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 5)), len: 24 };

fn add(rig: &mut Rig) -> Result<(), Errno> {
    let add = Change::AddressAdd { nic: 0, prefix: WANTED, dad: true };
    rig.stack.change(rig.now, &add)
}

/// Time passes at one host; frames that it sent.
fn alone(rig: &mut Rig, span: Duration) -> Vec<Vec<u8>> {
    let (end, mut sent) = (rig.now + span, Vec::new());
    rig.settle();
    while let Some(at) = rig.deadline().filter(|at: &Instant| *at <= end) {
        rig.now = rig.now.max(at);
        rig.settle();
        sent.extend(rig.sent().into_iter().map(|(_, frame)| frame));
    }
    rig.now = end;
    sent
}

/// The sender's address of an ARP request for the wanted one, to everybody.
fn asked(frame: &[u8]) -> Option<[u8; 4]> {
    let about = frame[..6] == [0xff; 6] && frame[12..14] == [8, 6] && frame[38..42] == [10, 0, 0, 5];
    about.then(|| frame[28..32].try_into().expect("four bytes"))
}

#[test]
fn an_address_is_used_when_nobody_has_answered_three_probes() {
    let mut one = Rig::new(Plan::new(1, "10.0.0.1"));
    alone(&mut one, Duration::from_secs(5));
    add(&mut one).expect("a free address");
    assert_eq!(add(&mut one), Err(Errno::EXIST));
    assert!(!one.stack.ip.is_ours(WANTED.addr));
    let sent = alone(&mut one, Duration::from_secs(12));
    let senders: Vec<_> = sent.iter().filter_map(|frame| asked(frame)).collect();
    let (nobody, ours) = ([0; 4], [10, 0, 0, 5]);
    assert_eq!(senders, [nobody, nobody, nobody, ours, ours], "three probes, two announcements");
    assert!(one.stack.ip.is_ours(WANTED.addr));
    assert_eq!(add(&mut one), Err(Errno::EXIST));
}

#[test]
fn an_address_that_another_host_has_is_not_used() {
    let (mut one, mut other) = (Rig::new(Plan::new(1, "10.0.0.1")), Rig::new(Plan::new(2, "10.0.0.5")));
    exchange(&mut one, &mut other);
    add(&mut one).expect("nobody has said a thing");
    for _ in 0..40 {
        let at = one.now + Duration::from_millis(500);
        (one.now, other.now) = (at, at);
        one.settle();
        other.settle();
        exchange(&mut one, &mut other);
    }
    assert!(!one.stack.ip.is_ours(WANTED.addr));
    assert_eq!(one.stack.counters.get(Counter::ArpConflictsFound), 1);
    // It is given up without having been had.
    let del = Change::AddressDel { nic: 0, prefix: WANTED };
    one.stack.change(one.now, &del).expect("it is looked for");
    assert_eq!(one.stack.change(one.now, &del), Err(Errno::ADDRNOTAVAIL));
}
