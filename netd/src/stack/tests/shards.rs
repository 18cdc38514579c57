//! One shard of two: it does what is its own, and neither answers nor resets anything else.

use super::rig::{Plan, Rig, addr, exchange};
use crate::wire::drop_reason::DropReason;
use proto::arena::Geometry;
use proto::arena::line::level;
use proto::control::operations::{Answer, Command, SocketRef};
use proto::id::{Epoch, OpId, SlotIndex};
use proto::nic::steering::Steering;
use rustix::io::Errno;
use std::net::SocketAddr;

const OURS: &str = "10.0.0.1";
const REMOTE: &str = "10.0.0.9:80";
const GEOMETRY: Geometry = Geometry { shards: 2, active: 8, passive: 64, tx_pages: 16, rx_pages: 16 };

fn second_of_two() -> Rig {
    Rig::new(Plan { shard: (1, 2), ..Plan::new(1, OURS) })
}

fn shard_of(port: u16, remote: &str) -> u16 {
    Steering::new(2).flow(SocketAddr::new(addr(REMOTE).ip(), port), addr(remote))
}

/// Ports of ours from which a connection to [`REMOTE`] belongs to each shard.
fn ports() -> [u16; 2] {
    let ours = |port| SocketAddr::new(addr("10.0.0.1:0").ip(), port);
    [0, 1].map(|shard| {
        (5000..6000).find(|port| Steering::new(2).flow(ours(*port), addr(REMOTE)) == shard).expect("a port")
    })
}

#[test]
fn a_connection_of_another_shard_is_sent_there() {
    let mut rig = second_of_two();
    let app = rig.client(GEOMETRY);
    let [theirs, own] = ports();
    let mut connect = |op: u64, slot: u32, port: u16| {
        let socket = SocketRef { session: app.id, slot: SlotIndex(slot), epoch: Epoch(1) };
        let (local, remote) = (addr(&format!("0.0.0.0:{port}")), addr(REMOTE));
        rig.stack.on_command(rig.now, &Command::Connect { op: OpId(op), socket, local, remote, hold: false });
        rig.settle();
        rig.answers.pop().expect("an answer")
    };
    let local = |port| SocketAddr::new(addr("10.0.0.1:0").ip(), port);
    assert_eq!(connect(101, 1, theirs), Answer::Elsewhere { op: OpId(101), local: local(theirs) });
    let invalid = Errno::INVAL.raw_os_error().unsigned_abs();
    let of_the_other = connect(102, 2, own);
    assert_eq!(of_the_other, Answer::Failed { op: OpId(102), errno: invalid }, "a place of the other shard");
    let done = Answer::Done { op: OpId(103), local: local(own) };
    assert_eq!(connect(103, 1, own), done);
    assert_eq!(connect(103, 1, own), done, "asked again, only answered");
    rig.restart();
    assert_eq!(rig.stack.record_count(), 1);
    assert_eq!(app.stack_line(1).flags & level::ERROR, 0);
}

#[test]
fn what_is_withdrawn_is_closed_and_said_to_be_gone() {
    let mut rig = second_of_two();
    let mut app = rig.client(GEOMETRY);
    let socket = SocketRef { session: app.id, slot: SlotIndex(3), epoch: Epoch(1) };
    let withdraw = |rig: &mut Rig, op| {
        rig.stack.on_command(rig.now, &Command::Withdraw { op, socket });
        rig.settle();
        rig.answers.pop()
    };
    let unknown = OpId(900);
    assert_eq!(withdraw(&mut rig, unknown), Some(Answer::Released { op: unknown, socket }));
    rig.listen(&mut app, 3, "0.0.0.0:80", 16);
    let Some(Answer::Done { op, .. }) = rig.answers.pop() else { panic!("it listens") };
    assert_eq!(withdraw(&mut rig, op), Some(Answer::Released { op, socket }));
    rig.settle();
    assert_eq!(rig.stack.record_count(), 0);
}

#[test]
fn segments_of_another_shard_are_neither_taken_nor_reset() {
    let mut rig = second_of_two();
    let mut app = rig.client(GEOMETRY);
    rig.listen(&mut app, 1, "0.0.0.0:80", 64);
    let mut caller = Rig::new(Plan::new(9, "10.0.0.9"));
    let many = Geometry { shards: 1, active: 64, ..GEOMETRY };
    let mut calling = caller.client(many);
    let mut own = Vec::new();
    for n in 0..24u16 {
        let (port, at) = (20_000 + n, u32::from(n));
        // To a listener, and to nobody.
        let to = if n % 2 == 0 { "10.0.0.1:80" } else { "10.0.0.1:81" };
        caller.connect(&mut calling, at, &format!("0.0.0.0:{port}"), to);
        exchange(&mut caller, &mut rig);
        let line = calling.stack_line(at);
        match (shard_of(port, to), n % 2) {
            (0, _) => assert_eq!(line.flags & (level::OPEN | level::ERROR), 0, "port {port}: not a word"),
            (_, 0) => {
                assert_ne!(line.flags & level::OPEN, 0, "port {port} is ours");
                own.push(port);
            }
            _ => assert_eq!(line.error, Errno::CONNREFUSED.raw_os_error().unsigned_abs()),
        }
    }
    assert!(own.len() > 2 && own.len() < 12);
    assert!(rig.stack.counters.dropped(DropReason::OtherShard) > 4);
    let places: Vec<u32> = rig.stack.sockets.iter().filter_map(|socket| Some(socket.at?.slot.0)).collect();
    assert_eq!(places.len(), 1 + own.len(), "the listener and those that it took");
    assert!(places.iter().all(|slot| slot % 2 == 1), "{places:?} are this shard's");
}
