//! Accept queues over a death, with records that are lost (INV-T7, INV-T9).

use super::rig::{App, Plan, Rig, exchange};
use crate::stack::Step;
use proto::arena::Geometry;
use proto::cell::CELL_SIZE;
use proto::hard::conns::{Agreed, Kind, Opening};
use proto::shm::Memory;

const GEOMETRY: Geometry = Geometry { shards: 1, active: 8, passive: 8, tx_pages: 32, rx_pages: 32 };

/// Cells of accepted connections, by their number in the queue.
fn queued(rig: &Rig) -> Vec<(u64, u32)> {
    let table = rig.stack.conns.table();
    let mut found: Vec<(u64, u32)> = (0..table.high_water())
        .filter_map(|index| {
            let image = table.read(index).ok()??;
            let kind = Opening::from_bytes(&image.opening)?.kind;
            match Agreed::from_bytes(kind, &image.agreed?)? {
                Agreed::Passive { accept_index, .. } if kind == Kind::TcpPassive => {
                    Some((accept_index, index))
                }
                _ => None,
            }
        })
        .collect();
    found.sort_unstable();
    found
}

fn corrupt(rig: &Rig, cell: u32) {
    let at = CELL_SIZE * (1 + cell as usize) + 40;
    let mut byte = [0];
    rig.conns.read(at, &mut byte);
    rig.conns.write(at, &[byte[0] ^ 0x10]);
}

/// `count` connections whose handshakes end in one batch that dies after `steps`; then the records
/// in `lost` are corrupted and netd comes back. Returns both ends.
fn story(count: u32, steps: &[Step], lost: &[u64]) -> (Rig, App, Rig, App) {
    let mut server = Rig::new(Plan::new(1, "10.0.0.1"));
    let mut client = Rig::new(Plan::new(2, "10.0.0.2"));
    let mut listening = server.client(GEOMETRY);
    let mut calling = client.client(GEOMETRY);
    server.listen(&mut listening, 0, "0.0.0.0:80", 8);
    for n in 0..count {
        client.connect(&mut calling, n, &format!("10.0.0.2:{}", 1000 + n), "10.0.0.1:80");
    }
    // ARP, SYNs and SYN-ACKs; the last ACKs are held back.
    let mut last = Vec::new();
    for _ in 0..20 {
        let there = client.sent();
        for (_, frame) in &there {
            // A TCP segment with nothing but ACK: the end of a handshake.
            match frame.get(14 + 9) == Some(&6) && frame[14 + 20 + 13] == 0x10 {
                true => last.push(frame.clone()),
                false => server.receive(0, frame),
            }
        }
        server.settle();
        server.sent().iter().for_each(|(_, frame)| client.receive(0, frame));
        client.settle();
    }
    assert_eq!(last.len(), count as usize, "every handshake has come so far");
    last.iter().for_each(|frame| server.receive(0, frame));
    server.batch(steps);
    let cells = queued(&server);
    for (_, cell) in cells.iter().filter(|(number, _)| lost.contains(number)) {
        corrupt(&server, *cell);
    }
    server.restart();
    server.settle();
    exchange(&mut server, &mut client);
    (server, listening, client, calling)
}

#[test]
fn a_lost_record_in_the_middle_costs_that_connection_alone() {
    const COMMITTED: &[Step] = &[Step::CommitConnections, Step::PublishConnections];
    for lost in [&[0][..], &[1], &[2], &[0, 1], &[1, 2], &[0, 2], &[0, 1, 2]] {
        let (mut server, mut listening, _, _) = story(4, COMMITTED, lost);
        let accepted = listening.accept(0);
        assert_eq!(accepted.len(), 4 - lost.len(), "lost {lost:?}");
        // What was handed over is not handed over again, and those that come later have their turn.
        for _ in 0..2 {
            server.settle();
            server.restart();
            server.settle();
            assert!(listening.accept(0).is_empty(), "lost {lost:?}");
        }
        let mut other = Rig::new(Plan::new(2, "10.0.0.2"));
        let mut calling = other.client(GEOMETRY);
        other.connect(&mut calling, 0, "10.0.0.2:5000", "10.0.0.1:80");
        exchange(&mut server, &mut other);
        assert_eq!(listening.accept(0).len(), 1, "lost {lost:?}");
    }
}

#[test]
fn a_queue_that_was_committed_tells_of_the_lost_one() {
    let (_, mut listening, _, _) = story(3, crate::stack::ORDER, &[1]);
    let accepted = listening.accept(0);
    assert_eq!(accepted.len(), 3);
    let gone = proto::arena::line::level::GONE;
    let over: Vec<bool> = accepted.iter().map(|slot| listening.stack_line(*slot).flags & gone != 0).collect();
    assert_eq!(over, [false, true, false]);
}
