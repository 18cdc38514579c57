//! A host that talks to itself: both ends of a connection live and die in one netd.

use super::rig::{App, Plan, Rig, addr, interface};
use crate::stack::{ORDER, Step};
use proto::arena::Geometry;
use proto::arena::line::level;
use proto::hard::conns::TcpState;
use std::time::Duration;

const GEOMETRY: Geometry = Geometry { shards: 1, active: 4, passive: 4, tx_pages: 64, rx_pages: 64 };

fn host() -> Rig {
    let interfaces = vec![interface(1, &["10.0.0.1", "10.0.5.1", "10.0.0.7"]), interface(2, &["10.0.1.1"])];
    Rig::new(Plan { interfaces, ..Plan::new(1, "10.0.0.1") })
}

/// A connection to `remote` and what was accepted: the connecting client, the accepting one and its place.
fn connected(rig: &mut Rig, local: &str, remote: &str) -> (App, App, u32) {
    let (mut listening, mut calling) = (rig.client(GEOMETRY), rig.client(GEOMETRY));
    rig.listen(&mut listening, 0, "0.0.0.0:80", 8);
    rig.connect(&mut calling, 0, local, remote);
    rig.spin();
    assert_ne!(calling.stack_line(0).flags & level::OPEN, 0, "{local} to {remote}: not connected");
    let accepted = listening.accept(0);
    assert_eq!(accepted.len(), 1);
    (calling, listening, accepted[0])
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 7 + n / 251) as u8).collect()
}

#[test]
fn addresses_of_the_host_reach_the_host() {
    for (local, remote, source) in [
        ("0.0.0.0:1000", "127.0.0.1:80", "127.0.0.1"),
        ("0.0.0.0:1000", "127.9.9.9:80", "127.0.0.1"),
        ("127.0.0.5:1000", "127.0.0.1:80", "127.0.0.5"),
        ("0.0.0.0:1000", "10.0.0.1:80", "10.0.0.1"),
        ("0.0.0.0:1000", "10.0.5.1:80", "10.0.5.1"),
        ("10.0.0.7:1000", "10.0.1.1:80", "10.0.0.7"),
    ] {
        let mut rig = host();
        let (mut calling, mut listening, place) = connected(&mut rig, local, remote);
        let seen = rig.stack.sockets.iter().find(|socket| socket.opening.remote == addr(remote));
        assert_eq!(seen.map(|socket| socket.opening.local.ip().to_string()).as_deref(), Some(source));
        let (there, back) = (bytes(200_000), bytes(5));
        calling.write(0, &there);
        listening.write(place, &back);
        let mut got = Vec::new();
        while got.len() < there.len() {
            let before = got.len();
            rig.spin();
            got.extend(listening.read(place));
            assert!(got.len() > before, "{local} to {remote}: nothing moves at {before}");
        }
        assert!(got == there, "{local} to {remote}");
        assert_eq!(calling.read(0), back);
        calling.close(0);
        listening.close(place);
        rig.spin_for(Duration::from_secs(130));
        assert_eq!(rig.stack.record_count(), 1, "the listener is left");
        assert_eq!(rig.stack.counters.dropped_in_all(), 0);
    }
}

#[test]
fn loopback_is_no_way_out() {
    let mut rig = host();
    let mut app = rig.client(GEOMETRY);
    rig.connect(&mut app, 0, "127.0.0.1:1000", "10.0.0.99:80");
    let refused = matches!(rig.answers.last(), Some(proto::control::operations::Answer::Failed { .. }));
    assert!(refused, "{:?}", rig.answers);
}

#[test]
fn nobody_listens_and_nobody_binds() {
    let mut rig = host();
    let mut app = rig.client(GEOMETRY);
    rig.connect(&mut app, 0, "0.0.0.0:1000", "127.0.0.1:81");
    rig.spin();
    let line = app.stack_line(0);
    assert_eq!((line.flags & level::ERROR, line.error), (level::ERROR, 111));
    rig.datagram(&mut app, 1, "127.0.0.1:2000", "127.0.0.1:82");
    app.send_to(1, "127.0.0.1:82", b"anybody?");
    rig.spin();
    let line = app.stack_line(1);
    assert_eq!((line.flags & level::ERROR, line.error), (level::ERROR, 111));
}

#[test]
fn datagrams_come_back() {
    let mut rig = host();
    let (mut one, mut other) = (rig.client(GEOMETRY), rig.client(GEOMETRY));
    rig.datagram(&mut one, 0, "0.0.0.0:1000", "0.0.0.0:0");
    rig.datagram(&mut other, 0, "127.0.0.1:2000", "0.0.0.0:0");
    let large = bytes(60_000);
    one.send_to(0, "127.0.0.1:2000", &large);
    rig.spin();
    let got = other.records(0);
    assert_eq!(got.len(), 1);
    assert!(got[0].1 == large);
    assert_eq!(got[0].0.remote, addr("127.0.0.1:1000"));
}

#[test]
fn a_small_arena_takes_a_large_segment_piece_by_piece() {
    const SMALL: Geometry = Geometry { rx_pages: 3, ..GEOMETRY };
    let mut rig = host();
    let (mut listening, mut calling) = (rig.client(SMALL), rig.client(GEOMETRY));
    rig.listen(&mut listening, 0, "0.0.0.0:80", 8);
    rig.connect(&mut calling, 0, "0.0.0.0:1000", "127.0.0.1:80");
    rig.spin();
    let place = listening.accept(0)[0];
    let there = bytes(300_000);
    calling.write(0, &there);
    let mut got = Vec::new();
    for _ in 0..400 {
        rig.spin_for(Duration::from_millis(100));
        got.extend(listening.read(place));
    }
    assert!(got == there, "{} of {} bytes came", got.len(), there.len());
}

/// Both ends die together, between any two steps of a settlement, again and again; what was
/// committed of the one is never ahead of what the other can know.
#[test]
fn both_ends_survive_a_death_between_any_two_steps() {
    for cut in 0..=ORDER.len() {
        for every in [1, 2, 3, 5] {
            let mut rig = host();
            let (mut calling, mut listening, place) = connected(&mut rig, "0.0.0.0:1000", "127.0.0.1:80");
            let (there, back) = (bytes(150_000), bytes(90_000));
            calling.write(0, &there);
            listening.write(place, &back);
            let (mut got, mut answered) = (Vec::new(), Vec::new());
            for round in 0..4000 {
                match round % every == 0 && round < 60 {
                    true => {
                        rig.batch(&ORDER[..cut]);
                        rig.restart();
                    }
                    false => rig.settle(),
                }
                rig.sent();
                got.extend(listening.read(place));
                answered.extend(calling.read(0));
                if rig.looped.is_empty() {
                    rig.now = rig.deadline().unwrap_or(rig.now).max(rig.now);
                }
                if got.len() >= there.len() && answered.len() >= back.len() {
                    break;
                }
            }
            assert!(got == there && answered == back, "cut {cut}, every {every}: {}", got.len());
        }
    }
}

#[test]
fn half_open_and_closing_ends_find_each_other_again() {
    const DEATHS: &[&[Step]] = &[&[], &[Step::CommitConnections], ORDER];
    for order in DEATHS {
        for at in 0..12 {
            let mut rig = host();
            let (mut listening, mut calling) = (rig.client(GEOMETRY), rig.client(GEOMETRY));
            rig.listen(&mut listening, 0, "0.0.0.0:80", 8);
            rig.connect(&mut calling, 0, "0.0.0.0:1000", "127.0.0.1:80");
            calling.write(0, b"once");
            let mut place = None;
            let mut got = Vec::new();
            for round in 0..200 {
                if round == at {
                    rig.batch(order);
                    rig.restart();
                }
                rig.settle();
                rig.sent();
                place = place.or_else(|| listening.accept(0).first().copied());
                if let Some(place) = place {
                    got.extend(listening.read(place));
                }
                if rig.looped.is_empty() && got.len() < 4 {
                    rig.now = rig.deadline().unwrap_or(rig.now).max(rig.now);
                }
            }
            assert_eq!(got, b"once", "died in round {at} after {order:?}");
            calling.close(0);
            listening.close(place.expect("accepted"));
            rig.settle();
            rig.restart();
            rig.spin_for(Duration::from_secs(200));
            let left: Vec<TcpState> = rig
                .stack
                .sockets
                .iter()
                .filter_map(|socket| socket.committed.map(|state| state.tcp_state))
                .collect();
            assert_eq!(left, [TcpState::Listen], "died in round {at} after {order:?}");
        }
    }
}

/// Between bind(2) and listen(2) a socket only has its port, whatever dies meanwhile.
#[test]
fn a_port_that_is_only_taken_refuses_connections_until_somebody_listens() {
    let mut rig = host();
    let (mut listening, mut calling) = (rig.client(GEOMETRY), rig.client(GEOMETRY));
    rig.listen(&mut listening, 0, "0.0.0.0:80", 0);
    for slot in 0..2 {
        rig.connect(&mut calling, slot, &format!("0.0.0.0:{}", 1000 + slot), "127.0.0.1:80");
        rig.spin();
        assert_eq!(calling.stack_line(slot).error, 111, "ECONNREFUSED, attempt {slot}");
        assert_eq!(listening.stack_line(0).flags & level::OPEN, 0);
        rig.restart();
    }
    listening.begin_listening(0, 1);
    rig.settle();
    for round in 0..2 {
        assert_ne!(listening.stack_line(0).flags & level::OPEN, 0, "round {round}");
        rig.restart();
        rig.settle();
    }
    rig.connect(&mut calling, 2, "0.0.0.0:1002", "127.0.0.1:80");
    rig.spin();
    assert_ne!(calling.stack_line(2).flags & level::OPEN, 0);
    assert_eq!(listening.accept(0).len(), 1);
}
