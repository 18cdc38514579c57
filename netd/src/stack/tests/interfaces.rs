//! Several interfaces and many senders: what stops one does not stop another.

use super::rig::{App, Plan, Rig, interface};
use crate::counters::Counter;
use proto::arena::Geometry;
use proto::control::notices::Change;

const GEOMETRY: Geometry = Geometry { shards: 1, active: 4, passive: 4, tx_pages: 64, rx_pages: 8 };

/// A host on 10.0.0.0/24 and 10.0.1.0/24, which knows neighbour 9 of either.
fn host() -> Rig {
    let interfaces = vec![interface(1, &["10.0.0.1"]), interface(2, &["10.0.1.1"])];
    let mut rig = Rig::new(Plan { interfaces, ..Plan::new(1, "10.0.0.1") });
    for nic in 0..2 {
        let addr = format!("10.0.{nic}.9").parse().expect("an address");
        let change = Change::NeighbourAdd { nic, addr, mac: [2, 9, 9, 9, 9, nic as u8] };
        rig.stack.change(rig.now, &change).expect("a neighbour can be set");
    }
    rig.sent();
    rig
}

fn counts(rig: &mut Rig) -> [usize; 2] {
    let sent = rig.sent();
    core::array::from_fn(|nic| sent.iter().filter(|(by, _)| usize::from(*by) == nic).count())
}

fn sender(rig: &mut Rig, local: &str) -> App {
    let mut app = rig.client(GEOMETRY);
    rig.datagram(&mut app, 0, local, "0.0.0.0:0");
    app
}

#[test]
fn a_stopped_interface_stops_only_what_leaves_by_it() {
    let mut rig = host();
    let (mut one, mut other) = (sender(&mut rig, "0.0.0.0:1000"), sender(&mut rig, "0.0.0.0:2000"));
    let mut calling = rig.client(GEOMETRY);
    rig.room[0] = 0;
    rig.connect(&mut calling, 0, "10.0.0.1:3000", "10.0.0.9:80");
    rig.connect(&mut calling, 1, "10.0.1.1:3000", "10.0.1.9:80");
    assert_eq!(counts(&mut rig), [0, 1], "one SYN");
    for n in 0..40 {
        one.send_to(0, "10.0.0.9:9", &[n]);
        other.send_to(0, "10.0.1.9:9", &[n]);
        rig.settle();
    }
    assert_eq!(counts(&mut rig), [0, 40]);
    assert!(!rig.stack.wants_transmit(&rig.room), "nothing can move: the engine sleeps");
    rig.room[0] = usize::MAX;
    assert!(rig.stack.wants_transmit(&rig.room));
    while rig.stack.wants_transmit(&rig.room) {
        rig.settle();
    }
    assert_eq!(counts(&mut rig), [41, 0], "all that waited, and the other SYN");
    assert_eq!(rig.stack.counters.dropped_in_all(), 0);
}

#[test]
fn who_waits_for_an_interface_stands_in_its_list_once() {
    let mut rig = host();
    let mut one = sender(&mut rig, "0.0.0.0:1000");
    rig.room[0] = 0;
    for n in 0..200 {
        one.send_to(0, "10.0.0.9:9", &[n]);
        rig.settle();
    }
    assert_eq!(rig.stack.stopped[0].len(), 1);
    assert_eq!(rig.stack.counters.get(Counter::TxStopped), 1);
}

#[test]
fn a_hog_leaves_pages_and_turns_to_the_others() {
    let mut rig = host();
    let (mut hog, mut other) = (sender(&mut rig, "0.0.0.0:1000"), sender(&mut rig, "0.0.0.0:2000"));
    for n in 0..2000u32 {
        hog.send_to(0, "10.0.0.9:9", &n.to_le_bytes());
    }
    for n in 0..20 {
        other.send_to(0, "10.0.0.9:9", &[n]);
    }
    // Turns: of 16 frames a round, the other has its share.
    let mut seen = 0;
    for _ in 0..8 {
        rig.room[0] = 16;
        rig.settle();
        seen += rig.sent().iter().filter(|(_, frame)| frame[34..36] == 2000u16.to_be_bytes()).count();
    }
    assert_eq!(seen, 20);
    // Pages: whatever the hog has to send, there are some left, and none of it is dropped.
    rig.room[0] = usize::MAX;
    for _ in 0..8 {
        rig.settle();
    }
    assert!(rig.pools[0].free_small() >= 64, "{} pages left", rig.pools[0].free_small());
    let mut left = 2020 - 8 * 16;
    for _ in 0..20 {
        left -= rig.sent().len();
        rig.settle();
    }
    assert_eq!((left, rig.stack.counters.dropped_in_all()), (0, 0));
}
