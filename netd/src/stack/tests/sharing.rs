//! Sockets that share a port, several datagrams in one record, datagrams without a checksum.

use super::rig::{App, Plan, Rig, exchange};
use crate::wire::drop_reason::DropReason;
use proto::arena::Geometry;
use proto::arena::line::want;
use proto::arena::record::{Said, mark};
use proto::arena::wishes::{Instruction, Wishes};
use proto::form::{Form, Share};

const GEOMETRY: Geometry = Geometry { shards: 1, active: 8, passive: 4, tx_pages: 64, rx_pages: 64 };
const ADDRESS: Share = Share { address: true, port: false };
const PORT: Share = Share { address: false, port: true };

fn hosts() -> (Rig, App, Rig, App) {
    let (mut one, mut other) = (Rig::new(Plan::new(1, "10.0.0.1")), Rig::new(Plan::new(2, "10.0.0.2")));
    let (sender, receiver) = (one.client(GEOMETRY), other.client(GEOMETRY));
    one.sent();
    other.sent();
    (one, sender, other, receiver)
}

fn send(one: &mut Rig, other: &mut Rig, sender: &mut App, slot: u32, to: &str, payload: &[u8]) {
    sender.send_to(slot, to, payload);
    one.settle();
    exchange(one, other);
}

#[test]
fn a_connected_socket_stands_beside_the_one_that_waits_for_others() {
    let (mut one, mut sender, mut other, mut receiver) = hosts();
    one.datagram(&mut sender, 0, "0.0.0.0:1000", "0.0.0.0:0");
    one.datagram(&mut sender, 1, "0.0.0.0:1001", "0.0.0.0:0");
    // As a server does that gives each client a socket of its own.
    other.datagram_of(&mut receiver, 0, "0.0.0.0:9", "10.0.0.1:1000", Form::Udp, ADDRESS);
    other.datagram_of(&mut receiver, 1, "0.0.0.0:9", "0.0.0.0:0", Form::Udp, ADDRESS);
    send(&mut one, &mut other, &mut sender, 0, "10.0.0.2:9", b"to the first");
    send(&mut one, &mut other, &mut sender, 1, "10.0.0.2:9", b"to whoever is there");
    assert_eq!(receiver.records(0)[0].1, b"to the first");
    assert_eq!(receiver.records(1)[0].1, b"to whoever is there");
    // What the last one bound receives is so after a death too.
    other.datagram_of(&mut receiver, 2, "0.0.0.0:9", "0.0.0.0:0", Form::Udp, ADDRESS);
    other.restart();
    send(&mut one, &mut other, &mut sender, 1, "10.0.0.2:9", b"to the last");
    assert_eq!((receiver.records(1).len(), receiver.records(2).len()), (0, 1));
    receiver.close(2);
    other.settle();
    send(&mut one, &mut other, &mut sender, 1, "10.0.0.2:9", b"again");
    assert_eq!(receiver.records(1).len(), 1);
}

#[test]
fn flows_are_divided_among_those_who_share_a_port() {
    let (mut one, mut sender, mut other, mut receiver) = hosts();
    for slot in 0..4 {
        one.datagram(&mut sender, slot, &format!("0.0.0.0:{}", 1000 + slot), "0.0.0.0:0");
        other.datagram_of(&mut receiver, slot, "0.0.0.0:9", "0.0.0.0:0", Form::Udp, PORT);
    }
    for round in 0..3 {
        if round == 2 {
            other.restart();
        }
        for slot in 0..4 {
            send(&mut one, &mut other, &mut sender, slot, "10.0.0.2:9", &[slot as u8]);
        }
    }
    let mut flows = [None; 4];
    for slot in 0..4 {
        for (_, payload) in receiver.records(slot) {
            let at = flows[usize::from(payload[0])].get_or_insert(slot);
            assert_eq!(*at, slot, "a flow stays with its socket, over a death too");
        }
    }
    assert!(flows.iter().all(Option::is_some), "all came: {flows:?}");
}

#[test]
fn several_datagrams_leave_by_one_call_and_come_by_one() {
    let (mut one, mut sender, mut other, mut receiver) = hosts();
    one.datagram(&mut sender, 0, "0.0.0.0:1000", "0.0.0.0:0");
    other.datagram(&mut receiver, 0, "0.0.0.0:9", "0.0.0.0:0");
    let payload: Vec<u8> = (0..2500u32).map(|n| n as u8).collect();
    sender.said = Said { segment: 1000, tos: 0x28, hop_limit: 9, ..Said::default() };
    send(&mut one, &mut other, &mut sender, 0, "10.0.0.2:9", &payload);
    let alone = receiver.records(0);
    assert_eq!(alone.iter().map(|(_, bytes)| bytes.len()).collect::<Vec<_>>(), [1000, 1000, 500]);
    assert_eq!((alone[0].0.said.tos, alone[0].0.said.hop_limit, alone[0].0.said.segment), (0x28, 9, 0));
    assert_eq!(alone[0].0.said.at, other.now);
    receiver.wish(0, &Wishes { runs: true, ..Wishes::default() });
    other.settle();
    assert_eq!(receiver.granted(0), Some(0));
    send(&mut one, &mut other, &mut sender, 0, "10.0.0.2:9", &payload);
    send(&mut one, &mut other, &mut sender, 0, "10.0.0.2:9", &payload);
    let joined = receiver.records(0);
    assert_eq!(joined.len(), 2, "a run ends with its batch");
    for (header, bytes) in &joined {
        assert_eq!((header.said.segment, bytes), (1000, &payload));
    }
    // One at a time where only one frame has room: none is lost and none comes twice.
    one.room = vec![1; 2];
    send(&mut one, &mut other, &mut sender, 0, "10.0.0.2:9", &payload);
    for _ in 0..10 {
        one.settle();
        exchange(&mut one, &mut other);
    }
    let bytes: Vec<u8> = receiver.records(0).into_iter().flat_map(|(_, bytes)| bytes).collect();
    assert_eq!(bytes, payload);
}

#[test]
fn a_datagram_without_a_checksum() {
    let (mut one, mut sender, mut other, mut receiver) = hosts();
    one.datagram(&mut sender, 0, "0.0.0.0:1000", "0.0.0.0:0");
    other.datagram(&mut receiver, 0, "0.0.0.0:9", "0.0.0.0:0");
    sender.said.marks = mark::UNSUMMED;
    sender.send_to(0, "10.0.0.2:9", b"nobody vouches for this");
    one.settle();
    exchange(&mut one, &mut other);
    assert_eq!(receiver.records(0)[0].1, b"nobody vouches for this");
    let v6 = |number| Plan { ..Plan::new(number, &format!("fd00::{number}")) };
    let (mut one, mut other) = (Rig::new(v6(1)), Rig::new(v6(2)));
    let (mut sender, mut receiver) = (one.client(GEOMETRY), other.client(GEOMETRY));
    one.datagram(&mut sender, 0, "[::]:1000", "0.0.0.0:0");
    other.datagram(&mut receiver, 0, "[::]:9", "0.0.0.0:0");
    sender.said.marks = mark::UNSUMMED;
    for (takes, expected) in [(false, 0), (true, 1)] {
        receiver.wish(0, &Wishes { unsummed: takes, ..Wishes::default() });
        other.settle();
        send(&mut one, &mut other, &mut sender, 0, "[fd00::2]:9", b"x");
        assert_eq!(receiver.records(0).len(), expected);
    }
    assert_eq!(other.stack.counters.dropped(DropReason::UdpCsum), 1);
}

#[test]
fn what_does_not_fit_its_path_whole_is_refused_where_that_was_asked_for() {
    let (mut one, mut sender, mut other, mut receiver) = hosts();
    one.datagram(&mut sender, 0, "0.0.0.0:1000", "0.0.0.0:0");
    other.datagram(&mut receiver, 0, "0.0.0.0:9", "0.0.0.0:0");
    send(&mut one, &mut other, &mut sender, 0, "10.0.0.2:9", &[1; 3000]);
    sender.said.marks = mark::WHOLE;
    send(&mut one, &mut other, &mut sender, 0, "10.0.0.2:9", &[2; 3000]);
    send(&mut one, &mut other, &mut sender, 0, "10.0.0.2:9", &[3; 1472]);
    let came: Vec<u8> = receiver.records(0).iter().map(|(_, bytes)| bytes[0]).collect();
    assert_eq!(came, [1, 3]);
    assert_eq!(one.stack.counters.dropped(DropReason::PktTooBig), 1);
}

#[test]
fn a_filter_decides_and_outlives_a_death() {
    let (mut one, mut sender, mut other, mut receiver) = hosts();
    one.datagram(&mut sender, 0, "0.0.0.0:1000", "0.0.0.0:0");
    other.datagram(&mut receiver, 0, "0.0.0.0:9", "0.0.0.0:0");
    let op = |code, jt, jf, k| Instruction { code, jt, jf, k };
    // The first byte of the payload, behind eight of UDP.
    let program = vec![op(0x30, 0, 0, 8), op(0x15, 0, 1, 7), op(6, 0, 0, 1), op(6, 0, 0, 0)];
    receiver.wish(0, &Wishes { filter: program, ..Wishes::default() });
    other.settle();
    for round in 0..2 {
        for byte in [6, 7] {
            send(&mut one, &mut other, &mut sender, 0, "10.0.0.2:9", &[byte]);
        }
        let came: Vec<Vec<u8>> = receiver.records(0).into_iter().map(|(_, bytes)| bytes).collect();
        assert_eq!(came, [[7]], "round {round}");
        other.restart();
    }
    receiver.wish(0, &Wishes { filter: vec![op(0xffff, 0, 0, 0)], ..Wishes::default() });
    other.settle();
    assert_eq!(receiver.granted(0), Some(22), "EINVAL");
    receiver.want(0, want::CLOSE);
    other.settle();
    other.restart();
}
