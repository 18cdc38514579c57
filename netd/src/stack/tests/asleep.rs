//! Connections at rest over a death of netd: they sleep, and wake for whoever asks for them.

use super::rig::{App, Plan, Rig, exchange};
use crate::counters::Counter;
use proto::arena::Geometry;
use proto::arena::line::level;
use proto::cell::CELL_SIZE;
use proto::control::operations::{Command, SocketRef};
use proto::hard::conns::{Kind, Opening};
use proto::id::{Epoch, OpId, SlotIndex};
use proto::shm::Memory;

const GEOMETRY: Geometry = Geometry { shards: 1, active: 8, passive: 8, tx_pages: 32, rx_pages: 32 };
const COUNT: u32 = 3;

/// Three connections that have carried a few bytes each way and are at rest; then the server's netd dies.
fn story() -> (Rig, App, Vec<u32>, Rig, App) {
    let mut server = Rig::new(Plan::new(1, "10.0.0.1"));
    let mut client = Rig::new(Plan::new(2, "10.0.0.2"));
    let (mut listening, mut calling) = (server.client(GEOMETRY), client.client(GEOMETRY));
    server.listen(&mut listening, 0, "0.0.0.0:80", 8);
    let mut accepted = Vec::new();
    for n in 0..COUNT {
        client.connect(&mut calling, n, &format!("10.0.0.2:{}", 1000 + n), "10.0.0.1:80");
        exchange(&mut client, &mut server);
        accepted.extend(listening.accept(0));
        calling.write(n, b"to rest");
        client.settle();
        exchange(&mut client, &mut server);
        assert_eq!(listening.read(accepted[n as usize]), b"to rest");
        server.settle();
        exchange(&mut client, &mut server);
    }
    // Delayed acknowledgements.
    super::rig::pass(&mut client, &mut server, std::time::Duration::from_secs(1));
    die(&mut server);
    assert_eq!(server.stack.sleepers.count(), COUNT as usize);
    assert_eq!(server.stack.record_count(), COUNT as usize + 1);
    (server, listening, accepted, client, calling)
}

/// As its engine does, the successor takes over the neighbours that its predecessor knew.
fn die(server: &mut Rig) {
    let known: Vec<_> = server.stack.neighbours(server.now).collect();
    server.restart();
    known.iter().for_each(|shown| server.stack.restore_neighbour(server.now, shown));
}

fn asleep(server: &Rig) -> usize {
    server.stack.sleepers.count()
}

#[test]
fn a_segment_wakes_its_connection_and_no_other() {
    let (mut server, mut listening, accepted, mut client, mut calling) = story();
    calling.write(1, b"wake up");
    client.settle();
    client.sent().iter().for_each(|(_, frame)| server.receive(0, frame));
    assert_eq!(asleep(&server), 2);
    server.settle();
    assert_eq!(listening.read(accepted[1]), b"wake up");
    exchange(&mut client, &mut server);
    assert_eq!(calling.stack_line(1).acked, 14, "nobody waits for a timer");
}

#[test]
fn a_client_wakes_its_connection() {
    let (mut server, mut listening, accepted, mut client, mut calling) = story();
    // Written before its kick is looked at, and in no hurry: it counts all the same.
    listening.write(accepted[2], b"good morning");
    server.stack.poll_kicks(server.now, 16);
    assert_eq!(asleep(&server), 2);
    server.settle();
    exchange(&mut client, &mut server);
    assert_eq!(calling.read(2), b"good morning");
}

#[test]
fn what_a_client_wrote_while_nobody_was_there_is_no_rest() {
    let (mut server, mut listening, accepted, mut client, mut calling) = story();
    server.settle();
    exchange(&mut client, &mut server);
    listening.write(accepted[0], b"in between");
    server.restart();
    assert_eq!(asleep(&server), 2, "it has something to say");
    server.settle();
    exchange(&mut client, &mut server);
    assert_eq!(calling.read(0), b"in between");
}

#[test]
fn sleepers_greet_once_and_sleep_on() {
    let (mut server, mut listening, accepted, mut client, mut calling) = story();
    let said_before = client.stack.counters.get(Counter::TcpOutSegs);
    for _ in 0..4 {
        server.settle();
        exchange(&mut client, &mut server);
    }
    assert_eq!(server.stack.counters.get(Counter::TcpOutSegs), u64::from(COUNT));
    assert_eq!(client.stack.counters.get(Counter::TcpOutSegs), said_before, "a greeting has no answer");
    assert_eq!(asleep(&server), COUNT as usize);
    // What it said holds after one more death, and both directions go on.
    die(&mut server);
    assert_eq!(asleep(&server), COUNT as usize);
    calling.write(0, b"still there");
    client.settle();
    exchange(&mut client, &mut server);
    assert_eq!(listening.read(accepted[0]), b"still there");
    listening.write(accepted[0], b"and back");
    server.settle();
    exchange(&mut client, &mut server);
    assert_eq!(calling.read(0), b"and back");
}

#[test]
fn the_end_of_their_session_ends_sleepers() {
    let (mut server, listening, _, mut client, calling) = story();
    server.stack.on_command(server.now, &Command::EndSession { op: OpId(99), session: listening.id });
    server.settle();
    exchange(&mut client, &mut server);
    assert_eq!(asleep(&server), 0);
    for n in 0..COUNT {
        assert_ne!(calling.stack_line(n).flags & level::END, 0, "connection {n} is closed");
    }
}

#[test]
fn an_operation_that_is_sent_again_finds_its_sleeper() {
    let (mut server, listening, accepted, mut client, mut calling) = story();
    client.restart();
    assert_eq!(asleep(&client), COUNT as usize);
    // Operation 1 opened the first connection.
    let at = SocketRef { session: calling.id, slot: SlotIndex(0), epoch: Epoch(1) };
    client.stack.on_command(client.now, &Command::Withdraw { op: OpId(1), socket: at });
    calling.move_in(SlotIndex(7), Epoch(1));
    for _ in 0..4 {
        client.settle();
        server.settle();
        exchange(&mut client, &mut server);
    }
    assert_ne!(listening.stack_line(accepted[0]).flags & level::END, 0, "it was closed");
    assert_eq!(listening.stack_line(accepted[1]).flags & level::END, 0);
}

/// INV-T7, as late as it can be.
#[test]
fn a_sleeper_whose_record_is_lost_costs_itself() {
    let (mut server, mut listening, accepted, mut client, mut calling) = story();
    let table = server.stack.conns.table();
    let of = |port: u16| {
        (0..table.high_water()).find(|index| {
            let image = table.read(*index).ok().flatten();
            image
                .and_then(|image| Opening::from_bytes(&image.opening))
                .is_some_and(|opening| opening.kind == Kind::TcpPassive && opening.remote.port() == port)
        })
    };
    let at = CELL_SIZE * (1 + of(1001).expect("the second one") as usize) + 40;
    let mut byte = [0];
    server.conns.read(at, &mut byte);
    server.conns.write(at, &[byte[0] ^ 0x10]);
    for _ in 0..4 {
        server.settle();
        exchange(&mut client, &mut server);
    }
    let lost = level::ERROR | level::GONE;
    assert_eq!(listening.stack_line(accepted[1]).flags & lost, lost, "its client is told");
    assert_eq!(server.stack.record_count(), COUNT as usize, "the listener and two");
    for (n, slot) in [(0, accepted[0]), (2, accepted[2])] {
        calling.write(n, b"alive");
        client.settle();
        exchange(&mut client, &mut server);
        assert_eq!(listening.read(slot), b"alive");
    }
}
