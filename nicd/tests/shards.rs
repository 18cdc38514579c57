//! The datapath with several netds, over memory and a device in memory: every frame reaches the shard
//! of its flow, whole and in the order of the flow, whoever is missing or behind; and nobody waits long
//! for another one.

mod bench;
#[allow(dead_code, reason = "each suite needs a part of it")]
mod netd_side;

use bench::{Bench, Cable, Shared};
use netd_side::NetdSide;
use nicd::counts::Count;
use nicd::datapath::Datapath;
use nicd::nic::Slab;
use proptest::prelude::*;
use proto::Instant;
use proto::nic::rings::REGION_SIZE;
use proto::nic::slab::SlabGeometry;
use proto::nic::steering::{For, HEAD, Steering};
use proto::shm::heap::HeapMemory;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

const GEOMETRY: SlabGeometry = SlabGeometry { small: 48, large: 12 };
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const MTU: u16 = 9000;

struct World {
    cable: Rc<RefCell<Cable>>,
    nicd: Datapath<Shared, Bench>,
    slabs: Vec<Shared>,
    netds: Vec<Option<NetdSide<Shared>>>,
    steering: Steering,
    /// What each shard got, also those before it.
    got: Vec<Vec<Vec<u8>>>,
    now: Instant,
    sent: u32,
}

impl World {
    fn new(shards: u16) -> World {
        let cable = Rc::new(RefCell::new(Cable::default()));
        let bench = Bench::new(cable.clone());
        let slabs: Vec<Shared> = (0..shards).map(|_| Rc::new(HeapMemory::new(GEOMETRY.bytes()))).collect();
        let slab = |(shard, memory): (usize, &Shared)| Slab {
            shard: shard as u16,
            memory: memory.clone(),
            geometry: GEOMETRY,
        };
        let nicd = Datapath::new(bench, slabs.iter().enumerate().map(slab).collect(), MAC, MTU);
        let mut world = World {
            cable,
            nicd,
            slabs,
            netds: (0..shards).map(|_| None).collect(),
            steering: Steering::new(shards),
            got: vec![Vec::new(); shards.into()],
            now: Instant::from_millis(1000),
            sent: 0,
        };
        (0..shards).for_each(|shard| world.attach(shard));
        world
    }

    fn attach(&mut self, shard: u16) {
        let rings = Rc::new(HeapMemory::new(REGION_SIZE));
        self.nicd.attach(shard, rings.clone()).expect("it stops");
        let slab = self.slabs[usize::from(shard)].clone();
        self.netds[usize::from(shard)] = Some(NetdSide::new(rings, slab, GEOMETRY));
    }

    /// It takes what was handed to it whole, and is gone.
    fn detach(&mut self, shard: u16) {
        self.take(shard);
        self.netds[usize::from(shard)] = None;
        self.nicd.detach(shard).expect("it stops");
    }

    fn take(&mut self, shard: u16) {
        if let Some(netd) = &mut self.netds[usize::from(shard)] {
            self.got[usize::from(shard)].extend(netd.take().expect("nicd is honest"));
        }
    }

    fn netd_turns(&mut self, shard: u16) {
        self.take(shard);
        if let Some(netd) = &mut self.netds[usize::from(shard)] {
            let _ = netd.lend(24, 6).expect("nicd is honest");
        }
    }

    fn nicd_turns(&mut self) {
        self.nicd.device_ready(self.now).expect("no device error");
        for _ in 0..100 {
            if !self.nicd.turn(self.now).expect("the netds are honest").again {
                return;
            }
        }
        panic!("it never ends");
    }

    /// Until nobody has anything to do.
    fn settle(&mut self) {
        for _ in 0..100 {
            self.nicd_turns();
            (0..self.steering.shards()).for_each(|shard| self.netd_turns(shard));
        }
    }

    /// A segment of a flow of its own number, with a number of its own at the end.
    fn frame(&mut self, flow: u16, len: usize) -> Vec<u8> {
        self.sent += 1;
        let mut frame =
            [&MAC[..], &[2, 0, 0, 0, 0, 9], &[8, 0], &[0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6, 0, 0]].concat();
        frame.extend([10, 0, 0, 9, 10, 0, 0, 1]);
        frame.extend((40_000 + flow).to_be_bytes());
        frame.extend(80u16.to_be_bytes());
        frame.resize(len.max(64), flow as u8);
        let end = frame.len() - 4;
        frame[end..].copy_from_slice(&self.sent.to_be_bytes());
        frame
    }

    fn arrives(&mut self, flow: u16, len: usize) -> u16 {
        let frame = self.frame(flow, len);
        let For::Shard(shard) = self.steering.frame(&frame[..frame.len().min(HEAD)]) else {
            panic!("a segment has a shard")
        };
        self.cable.borrow_mut().inbound.push_back(frame);
        shard
    }
}

fn flow_of(frame: &[u8]) -> u16 {
    u16::from_be_bytes([frame[34], frame[35]])
}

fn number(frame: &[u8]) -> u32 {
    let end = frame.len() - 4;
    u32::from_be_bytes(frame[end..].try_into().expect("four bytes"))
}

#[derive(Debug, Clone)]
enum Op {
    Arrives { flow: u16, len: usize },
    NicdTurns,
    NetdTurns(u16),
    Detach(u16),
    Attach(u16),
    Shows(bool),
    Later,
}

fn op() -> impl Strategy<Value = Op> {
    let len = prop_oneof![64usize..200, 1400usize..1600, 2000usize..9018];
    prop_oneof![
        8 => (0u16..12, len).prop_map(|(flow, len)| Op::Arrives { flow, len }),
        5 => Just(Op::NicdTurns),
        5 => any::<u16>().prop_map(Op::NetdTurns),
        1 => any::<u16>().prop_map(Op::Detach),
        1 => any::<u16>().prop_map(Op::Attach),
        1 => any::<bool>().prop_map(Op::Shows),
        1 => Just(Op::Later),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whoever comes, goes or lags behind, each frame comes once, whole, to the shard of its flow and
    /// behind those of its flow that were sent before it.
    #[test]
    fn every_frame_reaches_the_shard_of_its_flow(
        shards in 1u16..5,
        ops in prop::collection::vec(op(), 1..200),
    ) {
        let mut world = World::new(shards);
        let mut arrived: HashMap<u32, (u16, Vec<u8>)> = HashMap::new();
        for op in ops {
            match op {
                Op::Arrives { flow, len } => {
                    let shard = world.arrives(flow, len);
                    let frame = world.cable.borrow().inbound.back().cloned().expect("just put there");
                    arrived.insert(number(&frame), (shard, frame));
                }
                Op::NicdTurns => world.nicd_turns(),
                Op::NetdTurns(shard) => world.netd_turns(shard % shards),
                Op::Detach(shard) => world.detach(shard % shards),
                Op::Attach(shard) => {
                    world.detach(shard % shards);
                    world.attach(shard % shards);
                }
                Op::Shows(shows) => world.cable.borrow_mut().shows = shows,
                Op::Later => world.now = world.now + Duration::from_millis(10),
            }
        }
        for shard in 0..shards {
            if world.netds[usize::from(shard)].is_none() {
                world.attach(shard);
            }
        }
        world.settle();
        prop_assert!(world.cable.borrow().inbound.is_empty());
        prop_assert_eq!(world.nicd.counts.get(Count::RxShardBehind), 0, "nothing was too much");
        let mut last: HashMap<u16, u32> = HashMap::new();
        let mut count = 0;
        for (shard, frames) in world.got.iter().enumerate() {
            for frame in frames {
                let (of, sent) = &arrived[&number(frame)];
                prop_assert_eq!((usize::from(*of), sent), (shard, frame));
                let before = last.insert(flow_of(frame), number(frame));
                prop_assert!(before.is_none_or(|before| before < number(frame)), "in order");
                count += 1;
            }
        }
        prop_assert_eq!(count, arrived.len());
        for netd in world.netds.iter().flatten() {
            let (filling, sending) = netd.pool.lent();
            prop_assert_eq!((filling, sending), (netd.lent(), 0), "all pages are accounted for");
        }
    }
}

/// Flows of both shards.
fn flows(world: &mut World) -> [u16; 2] {
    let mut of = |wanted| (0..100).find(|flow| world.arrives(*flow, 64) == wanted).expect("a flow of each");
    let found = [of(0), of(1)];
    world.cable.borrow_mut().inbound.clear();
    found
}

#[test]
fn nobody_waits_long_for_one_that_stands_still() {
    let mut world = World::new(2);
    let [slow, quick] = flows(&mut world);
    (0..2).for_each(|shard| world.netd_turns(shard));
    // More than it has pages for.
    for _ in 0..60 {
        world.arrives(slow, 1500);
    }
    world.arrives(quick, 1500);
    world.nicd_turns();
    world.netd_turns(1);
    assert!(world.got[1].is_empty(), "the device waits a moment for who is behind");
    assert!(
        world
            .nicd
            .deadline()
            .is_some_and(|due| due > world.now && due < world.now + Duration::from_millis(20))
    );
    assert!(world.nicd.may_sleep().expect("sound rings"), "it need not turn meanwhile");
    world.now = world.now + Duration::from_millis(20);
    for _ in 0..5 {
        world.nicd_turns();
        world.netd_turns(1);
    }
    assert_eq!(world.got[1].len(), 1, "then the others go on");
    assert_eq!(world.nicd.deadline(), None);
    world.settle();
    assert_eq!(world.got[0].len(), 60, "and it has lost nothing");
}

#[test]
fn a_missing_shard_gets_what_came_meanwhile_up_to_a_bound() {
    let mut world = World::new(2);
    let [missing, there] = flows(&mut world);
    world.detach(0);
    for _ in 0..600 {
        world.arrives(missing, 200);
        world.arrives(there, 200);
        world.nicd_turns();
        world.netd_turns(1);
    }
    world.settle();
    assert_eq!(world.got[1].len(), 600, "the other one misses nothing");
    let dropped = world.nicd.counts.get(Count::RxShardBehind);
    assert!(dropped > 0 && dropped < 600);
    world.attach(0);
    world.settle();
    assert_eq!(world.got[0].len() as u64 + dropped, 600);
}

#[test]
fn what_concerns_the_link_reaches_all_and_one_answers() {
    let mut world = World::new(3);
    let mut request = vec![0xff; 60];
    request[12..14].copy_from_slice(&[8, 6]);
    let answers = |world: &mut World| -> Vec<bool> {
        let mut answers = Vec::new();
        for netd in world.netds.iter_mut().flatten() {
            let frames = netd.take_marked().expect("nicd is honest");
            assert_eq!(frames.len(), 1);
            answers.push(!frames[0].1.elsewhere);
        }
        answers
    };
    (0..3).for_each(|shard| world.netd_turns(shard));
    for (gone, expected) in [(None, [true, false, false].to_vec()), (Some(0), [true, false].to_vec())] {
        if let Some(gone) = gone {
            world.detach(gone);
        }
        // Whoever's pages it was received into.
        for flow in 0..8 {
            world.arrives(flow, 64);
            world.nicd_turns();
            (0..3).for_each(|shard| world.netd_turns(shard));
            world.cable.borrow_mut().inbound.push_back(request.clone());
            world.nicd_turns();
            assert_eq!(answers(&mut world), expected);
            (0..3).for_each(|shard| world.netd_turns(shard));
        }
    }
}

#[test]
fn shards_that_send_get_equal_shares_whatever_the_size_of_their_frames() {
    let mut world = World::new(2);
    world.cable.borrow_mut().room = Some(0);
    for _ in 0..20 {
        for (shard, len) in [(0, 9000), (1, 1000)] {
            let frame = world.frame(shard, len);
            let netd = world.netds[usize::from(shard)].as_mut().expect("attached");
            let _ = netd.send(&frame).expect("nicd is honest");
        }
        world.nicd_turns();
    }
    // A little at a time, and more of the small ones come as they go.
    for _ in 0..200 {
        world.cable.borrow_mut().room = Some(1);
        world.nicd_turns();
        for shard in 0..2u16 {
            world.netd_turns(shard);
            let frame = world.frame(shard, [9000, 1000][usize::from(shard)]);
            let netd = world.netds[usize::from(shard)].as_mut().expect("attached");
            let _ = netd.send(&frame).expect("nicd is honest");
        }
    }
    let cable = world.cable.borrow();
    let bytes = |len: usize| cable.outbound.iter().filter(|f| f.len() == len).map(Vec::len).sum::<usize>();
    let (large, small) = (bytes(9000), bytes(1000));
    assert!(large > 0 && large.abs_diff(small) <= 20_000, "{large} and {small} bytes");
}
