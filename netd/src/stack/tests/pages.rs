//! A session's receive pages when many connections want them at once.

use super::rig::{Plan, Rig, pass};
use crate::counters::Counter;
use proto::arena::Geometry;
use std::time::Duration;

const CONNECTIONS: u32 = 10;
const SERVER: Geometry = Geometry { shards: 1, active: 2, passive: 16, tx_pages: 2, rx_pages: 8 };
const CLIENT: Geometry = Geometry { shards: 1, active: 16, passive: 2, tx_pages: 32, rx_pages: 8 };
const LEN: usize = 24_000;

fn stream(n: u32) -> Vec<u8> {
    (0..LEN).map(|at| (at as u32 * 7 + n * 31) as u8).collect()
}

/// The payload's length and the remote's port of a TCP frame.
fn payload(frame: &[u8]) -> (usize, u16) {
    if frame.get(23) != Some(&6) {
        return (0, 0);
    }
    let len = usize::from(u16::from_be_bytes([frame[16], frame[17]]));
    let header = usize::from(frame[46] >> 4) * 4;
    (len - 20 - header, u16::from_be_bytes([frame[34], frame[35]]))
}

/// Every page but the last ones is filled by data out of order, which nobody can read: what comes
/// in order gets a page all the same, and in the end everything has arrived.
#[test]
fn data_out_of_order_does_not_keep_data_in_order_out() {
    let mut server = Rig::new(Plan::new(1, "10.0.0.1"));
    let mut client = Rig::new(Plan::new(2, "10.0.0.2"));
    let (mut listening, mut calling) = (server.client(SERVER), client.client(CLIENT));
    server.listen(&mut listening, 0, "0.0.0.0:80", 16);
    for n in 0..CONNECTIONS {
        client.connect(&mut calling, n, &format!("10.0.0.2:{}", 1000 + n), "10.0.0.1:80");
    }
    pass(&mut client, &mut server, Duration::from_millis(10));
    let accepted = listening.accept(0);
    assert_eq!(accepted.len(), CONNECTIONS as usize);
    listening.consume(0, 0);
    server.settle();
    for n in 0..CONNECTIONS {
        calling.write(n, &stream(n));
    }
    client.settle();
    // The first segment of the first eight connections is lost; all the others' come.
    let mut began = [false; CONNECTIONS as usize];
    let mut late = Vec::new();
    for (_, frame) in client.sent() {
        let (len, port) = payload(&frame);
        let n = usize::from(port.wrapping_sub(1000));
        if len == 0 || n >= began.len() {
            server.receive(0, &frame);
        } else if n >= 8 {
            late.push(frame);
        } else if core::mem::replace(&mut began[n], true) {
            server.receive(0, &frame);
        }
    }
    server.settle();
    for frame in &late {
        server.receive(0, frame);
        server.settle();
    }
    assert!(server.stack.counters.get(Counter::TcpOfoPruned) > 0, "memory was short");
    // From here on nothing is lost, netd dies once more, and the client reads.
    server.restart();
    let mut read = vec![Vec::new(); CONNECTIONS as usize];
    for _ in 0..400 {
        server.settle();
        pass(&mut client, &mut server, Duration::from_millis(100));
        for slot in &accepted {
            let bytes = listening.read(*slot);
            read[accepted.iter().position(|other| other == slot).expect("one of them")].extend(bytes);
        }
    }
    let mut found: Vec<Vec<u8>> = read;
    found.sort();
    let mut expected: Vec<Vec<u8>> = (0..CONNECTIONS).map(stream).collect();
    expected.sort();
    assert!(found == expected, "{:?}", found.iter().map(Vec::len).collect::<Vec<_>>());
}

/// A client that reads and is busy elsewhere has told nobody of it: its pages are free all the same
/// when another connection wants them, and a listener's queue has the room that it has.
#[test]
fn what_was_read_without_a_word_is_found_when_pages_are_short() {
    let mut server = Rig::new(Plan::new(1, "10.0.0.1"));
    let mut client = Rig::new(Plan::new(2, "10.0.0.2"));
    let (mut listening, mut calling) = (server.client(SERVER), client.client(CLIENT));
    server.listen(&mut listening, 0, "0.0.0.0:80", 4);
    let mut accepted = Vec::new();
    for n in 0..CONNECTIONS {
        client.connect(&mut calling, n, &format!("10.0.0.2:{}", 1000 + n), "10.0.0.1:80");
        pass(&mut client, &mut server, Duration::from_millis(10));
        let records = listening.peek(0);
        assert!(!records.is_empty(), "connection {n} is in the queue");
        accepted.extend(listening.accept_quietly(0));
    }
    assert_eq!(accepted.len(), CONNECTIONS as usize);
    for round in 1..=3 {
        for n in 0..CONNECTIONS {
            calling.write(n, b"hello");
            client.settle();
            pass(&mut client, &mut server, Duration::from_millis(10));
            let slot = accepted[n as usize];
            let bytes = listening.peek(slot);
            assert_eq!(bytes, b"hello", "round {round}, connection {n}");
            listening.consume_quietly(slot, bytes.len());
        }
    }
    assert_eq!(server.stack.counters.dropped_in_all(), 0);
}
