//! Payload that is copied to its place while its checksum is taken: what is wrong never counts.

use super::rig::{App, Plan, Rig, pass};
use crate::counters::Counter;
use crate::wire::drop_reason::DropReason;
use proto::arena::Geometry;
use std::time::Duration;

const GEOMETRY: Geometry = Geometry { shards: 1, active: 2, passive: 2, tx_pages: 16, rx_pages: 16 };
/// Behind link, IP and TCP headers with timestamps.
const PAYLOAD_AT: usize = 14 + 20 + 32;

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 11 + n / 253) as u8).collect()
}

/// Two hosts with a connection, which the first one has opened.
fn connected() -> (Rig, App, Rig, App, u32) {
    let (mut one, mut other) = (Rig::new(Plan::new(1, "10.0.0.1")), Rig::new(Plan::new(2, "10.0.0.2")));
    let (mut calling, mut listening) = (one.client(GEOMETRY), other.client(GEOMETRY));
    other.listen(&mut listening, 0, "0.0.0.0:80", 4);
    one.connect(&mut calling, 0, "10.0.0.1:1000", "10.0.0.2:80");
    pass(&mut one, &mut other, Duration::from_millis(10));
    let accepted = listening.accept(0);
    assert_eq!(accepted.len(), 1);
    // What was accepted is consumed, and the queue's page free.
    listening.consume(0, 0);
    other.settle();
    (one, calling, other, listening, accepted[0])
}

#[test]
fn a_wrong_byte_in_what_comes_next_is_written_over() {
    for wrong_at in [PAYLOAD_AT, PAYLOAD_AT + 700, PAYLOAD_AT + 1447, 34 + 4, 34 + 13] {
        let (mut one, mut calling, mut other, mut listening, place) = connected();
        let stream = bytes(30_000);
        calling.write(0, &stream);
        one.settle();
        let sent = one.sent();
        assert!(sent.len() > 5, "{} frames", sent.len());
        for (n, (_, frame)) in sent.into_iter().enumerate() {
            let mut frame = frame;
            if n == 0 || n == 3 {
                frame[wrong_at] ^= 0x20;
            }
            other.receive(0, &frame);
        }
        other.settle();
        assert_eq!(other.stack.counters.dropped(DropReason::TcpCsum), 2);
        assert_eq!(listening.stack_line(place).received, 0, "the first segment was wrong");
        pass(&mut one, &mut other, Duration::from_secs(3));
        assert!(listening.read(place) == stream, "wrong at {wrong_at}");
    }
}

#[test]
fn a_byte_is_copied_once_on_each_way() {
    let (mut one, mut calling, mut other, mut listening, place) = connected();
    let copied = |rig: &Rig| {
        [Counter::CopiedToFrame, Counter::CopiedToArena].map(|which| rig.stack.counters.get(which))
    };
    let (before_one, before_other) = (copied(&one), copied(&other));
    let stream = bytes(30_000);
    calling.write(0, &stream);
    one.settle();
    pass(&mut one, &mut other, Duration::from_secs(3));
    assert!(listening.read(place) == stream);
    let grown = |before: [u64; 2], after: [u64; 2]| [after[0] - before[0], after[1] - before[1]];
    assert_eq!(grown(before_one, copied(&one)), [30_000, 0], "out of the arena into frames");
    assert_eq!(grown(before_other, copied(&other)), [0, 30_000], "out of frames into the arena");
}

#[test]
fn an_idle_socket_has_no_pages_after_a_wrong_segment() {
    let (mut one, mut calling, mut other, _, _) = connected();
    calling.write(0, &bytes(1_448));
    one.settle();
    let free = |rig: &Rig| rig.stack.sessions.values().map(|session| session.free_pages()).sum::<usize>();
    let before = free(&other);
    for (_, mut frame) in one.sent() {
        frame[PAYLOAD_AT + 9] ^= 1;
        other.receive(0, &frame);
    }
    other.settle();
    assert_eq!(other.stack.counters.dropped(DropReason::TcpCsum), 1);
    assert_eq!(free(&other), before);
}
