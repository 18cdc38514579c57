//! The datapath between a device in memory and netd's end of the rings: order, page accounts, wake-ups,
//! and a netd that breaks the rules.

mod bench;
#[allow(dead_code, reason = "shared by tests that use different parts of it")]
mod netd_side;

use bench::{Bench, Cable, Shared};
use core::sync::atomic::Ordering;
use netd_side::NetdSide;
use nicd::counts::Count;
use nicd::datapath::{Datapath, STUCK_AFTER, TurnError};
use nicd::nic::Slab;
use proptest::prelude::*;
use proto::Instant;
use proto::nic::rings::REGION_SIZE;
use proto::nic::slab::{PageIndex, SlabGeometry};
use proto::shm::Memory;
use proto::shm::heap::HeapMemory;
use std::cell::RefCell;
use std::rc::Rc;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const MTU: u16 = 9000;
const GEOMETRY: SlabGeometry = SlabGeometry { small: 24, large: 12 };

struct World {
    cable: Rc<RefCell<Cable>>,
    nicd: Datapath<Shared, Bench>,
    netd: NetdSide<Shared>,
    rings: Shared,
    slab: Shared,
    nicd_awake: bool,
    netd_awake: bool,
    sent: Vec<Vec<u8>>,
    arrived: Vec<Vec<u8>>,
    got: Vec<Vec<u8>>,
    now: Instant,
}

impl World {
    fn new() -> World {
        let slab = Rc::new(HeapMemory::new(GEOMETRY.bytes()));
        let rings = Rc::new(HeapMemory::new(REGION_SIZE));
        let cable = Rc::new(RefCell::new(Cable { holds: true, ..Cable::default() }));
        let bench = Bench::new(cable.clone());
        let mut nicd =
            Datapath::new(bench, vec![Slab { shard: 0, memory: slab.clone(), geometry: GEOMETRY }], MAC, MTU);
        nicd.set_filter(Default::default());
        nicd.attach(0, rings.clone()).expect("it stops");
        World {
            cable,
            nicd,
            netd: NetdSide::new(rings.clone(), slab.clone(), GEOMETRY),
            rings,
            slab,
            nicd_awake: true,
            netd_awake: true,
            sent: Vec::new(),
            arrived: Vec::new(),
            got: Vec::new(),
            now: Instant::ZERO,
        }
    }

    fn arrives(&mut self, len: usize, ours: bool, mark: u8) {
        let mut bytes: Vec<u8> = (0..len.max(14)).map(|n| (n as u8).wrapping_mul(3) ^ mark).collect();
        bytes[..6].copy_from_slice(if ours { &MAC } else { &[2, 9, 9, 9, 9, 9] });
        if ours {
            self.arrived.push(bytes.clone());
        }
        self.cable.borrow_mut().inbound.push_back(bytes);
        self.device_event();
    }

    fn device_event(&mut self) {
        self.nicd.device_ready(self.now).expect("no device error");
        self.nicd_awake = true;
    }

    fn sends(&mut self, len: usize, mark: u8) {
        let bytes: Vec<u8> = (0..len.clamp(14, 9018)).map(|n| (n as u8).wrapping_mul(5) ^ mark).collect();
        if let Some(wake) = self.netd.send(&bytes).expect("nicd is honest") {
            self.sent.push(bytes);
            self.nicd_awake |= wake;
        }
    }

    fn nicd_turns(&mut self) {
        let turn = self.nicd.turn(self.now).expect("netd is honest");
        self.netd_awake |= turn.wake != 0;
        self.nicd_awake = turn.again || !self.nicd.may_sleep().expect("netd is honest");
    }

    fn netd_turns(&mut self) {
        self.got.extend(self.netd.take().expect("nicd is honest"));
        self.nicd_awake |= self.netd.lend(12, 6).expect("nicd is honest");
        self.netd_awake = !self.netd.may_sleep().expect("nicd is honest");
    }

    fn completes(&mut self) {
        let mut cable = self.cable.borrow_mut();
        let sending = core::mem::take(&mut cable.sending);
        cable.done.extend(sending);
    }

    /// Only who was woken runs, until nobody is awake.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            if self.nicd_awake {
                self.nicd_turns();
            } else if self.netd_awake {
                self.netd_turns();
            } else {
                return;
            }
        }
        panic!("nobody comes to rest");
    }
}

#[derive(Debug, Clone)]
enum Op {
    Arrives { len: usize, ours: bool },
    Sends { len: usize },
    Busy(bool),
    Completes,
    NicdTurns,
    NetdTurns,
    Settle,
}

fn op() -> impl Strategy<Value = Op> {
    let len = || prop_oneof![14usize..100, 1400usize..1600, 2000usize..9018];
    prop_oneof![
        4 => (len(), prop::bool::weighted(0.8)).prop_map(|(len, ours)| Op::Arrives { len, ours }),
        4 => len().prop_map(|len| Op::Sends { len }),
        1 => any::<bool>().prop_map(Op::Busy),
        2 => Just(Op::Completes),
        3 => Just(Op::NicdTurns),
        3 => Just(Op::NetdTurns),
        1 => Just(Op::Settle),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// All frames arrive once, whole and in order; all pages come home; who sleeps is woken.
    #[test]
    fn frames_and_pages_are_all_accounted_for(ops in prop::collection::vec(op(), 1..120)) {
        let mut world = World::new();
        for (n, op) in ops.into_iter().enumerate() {
            match op {
                Op::Arrives { len, ours } => world.arrives(len, ours, n as u8),
                Op::Sends { len } => world.sends(len, n as u8),
                Op::Busy(busy) => {
                    world.cable.borrow_mut().busy = busy;
                    world.device_event();
                }
                Op::Completes => {
                    world.completes();
                    world.device_event();
                }
                Op::NicdTurns => world.nicd_turns(),
                Op::NetdTurns => world.netd_turns(),
                Op::Settle => world.settle(),
            }
        }
        if core::mem::take(&mut world.cable.borrow_mut().busy) {
            world.device_event();
        }
        world.settle();
        prop_assert_eq!(&world.cable.borrow().outbound, &world.sent, "a sleeping nicd was not woken");
        while !world.cable.borrow().sending.is_empty() {
            world.completes();
            world.device_event();
            world.settle();
        }
        prop_assert_eq!(&world.got, &world.arrived);
        prop_assert_eq!(world.netd.sending(), 0);
        let (filling, sending) = world.netd.pool.lent();
        prop_assert_eq!((filling, sending), (world.netd.lent(), 0));
        prop_assert_eq!(world.netd.pool.in_use(), filling);
        let counts = &world.nicd.counts;
        prop_assert_eq!(counts.get(Count::RxFrames) as usize, world.got.len());
        prop_assert_eq!(counts.get(Count::TxFrames) as usize, world.sent.len());
        prop_assert_eq!(counts.get(Count::TxStopped), counts.get(Count::TxWoken));
    }

    /// netd writes what it likes into the rings at any time: a turn ends in a value or in `PeerCorrupt`.
    #[test]
    fn a_hostile_netd(
        slots in prop::collection::vec((any::<bool>(), 0u32..40, 0u32..20_000, 0u16..3000, 0u16..64, any::<u32>()), 1..80),
        stores in prop::collection::vec((0usize..REGION_SIZE / 4, prop_oneof![0u32..50, any::<u32>()]), 0..60),
    ) {
        let mut world = World::new();
        let mut stores = stores.into_iter();
        for (fill, page, len, offset, flags, rest) in slots {
            let mut slot = [0; 16];
            slot[..4].copy_from_slice(&page.to_ne_bytes());
            slot[4..8].copy_from_slice(&len.to_ne_bytes());
            slot[8..10].copy_from_slice(&offset.to_ne_bytes());
            slot[10..12].copy_from_slice(&flags.to_ne_bytes());
            slot[12..].copy_from_slice(&rest.to_ne_bytes());
            let rings = &mut world.netd.rings;
            let ring = if fill { &mut rings.fill } else { &mut rings.transmit };
            let _ = ring.push(&slot);
            let _ = ring.publish();
            if let Some((word, value)) = stores.next() {
                // Half of them hit the heads and tails.
                let word = if value % 2 == 0 { word } else { word / (REGION_SIZE / 16) * (REGION_SIZE / 16) };
                world.rings.store_u32(word * 4, value, Ordering::Relaxed);
            }
            world.cable.borrow_mut().inbound.push_back(vec![0xff; 1000]);
            world.nicd.device_ready(world.now).expect("no device error");
            let outcome = world.nicd.turn(world.now);
            world.completes();
            let slept = world.nicd.may_sleep();
            if matches!(outcome, Err(TurnError::Peer(_))) || slept.is_err() {
                world.nicd.detach(0).expect("it stops");
                let rings = Rc::new(HeapMemory::new(REGION_SIZE));
                world.nicd.attach(0, rings.clone()).expect("it stops");
                world.netd = NetdSide::new(rings.clone(), world.slab.clone(), GEOMETRY);
                world.rings = rings;
            }
            let _ = world.nicd.stuck_deadline(0, world.now);
        }
    }
}

#[test]
fn a_full_device_stops_the_queue_and_wakes_it_again() {
    let mut world = World::new();
    world.settle();
    world.cable.borrow_mut().busy = true;
    for n in 0..10 {
        world.sends(60, n);
        world.settle();
    }
    assert!(world.cable.borrow().outbound.is_empty());
    assert_eq!(world.nicd.counts.get(Count::TxStopped), 1);
    world.cable.borrow_mut().busy = false;
    world.device_event();
    world.settle();
    assert_eq!(world.cable.borrow().outbound, world.sent);
    assert_eq!(world.nicd.counts.get(Count::TxWoken), 1);
}

#[test]
fn frames_wait_in_the_device_for_pages_and_for_a_netd() {
    let mut world = World::new();
    for n in 0..5 {
        world.arrives(100, true, n);
    }
    world.nicd_turns();
    assert_eq!((world.cable.borrow().inbound.len(), world.nicd.counts.get(Count::RxStarved)), (5, 1));
    world.nicd.detach(0).expect("it stops");
    world.nicd_turns();
    assert_eq!(world.cable.borrow().inbound.len(), 5);
    let rings = Rc::new(HeapMemory::new(REGION_SIZE));
    world.nicd.attach(0, rings.clone()).expect("it stops");
    world.netd = NetdSide::new(rings, world.slab.clone(), GEOMETRY);
    world.netd_awake = true;
    world.nicd_awake = true;
    world.settle();
    assert_eq!(world.got, world.arrived);
}

#[test]
fn one_wake_up_a_batch() {
    let mut world = World::new();
    world.settle();
    let before = world.nicd.counts.get(Count::Wakeups);
    for n in 0..8 {
        world.arrives(100, true, n);
    }
    world.nicd_turns();
    assert_eq!(world.nicd.counts.get(Count::Wakeups), before + 1);
}

#[test]
fn a_netd_that_stands_still_is_reported_only_while_work_waits_for_it() {
    let mut world = World::new();
    world.settle();
    let start = Instant::from_millis(1000);
    let deadline = |world: &mut World, now| world.nicd.stuck_deadline(0, now).expect("sound rings");
    assert_eq!(deadline(&mut world, start), None);
    world.arrives(100, true, 1);
    world.nicd_turns();
    assert_eq!(deadline(&mut world, start), Some(start + STUCK_AFTER));
    let later = Instant::from_millis(1400);
    world.arrives(100, true, 2);
    world.nicd_turns();
    assert_eq!(deadline(&mut world, later), Some(start + STUCK_AFTER), "more work is no progress");
    world.netd_turns();
    assert_eq!(deadline(&mut world, later), None);
    world.arrives(100, true, 3);
    world.nicd_turns();
    assert_eq!(deadline(&mut world, later), Some(later + STUCK_AFTER));
}

#[test]
fn what_the_device_cannot_do_is_dropped_and_counted() {
    use proto::nic::descriptor::{Descriptor, flag};
    let mut world = World::new();
    let send = |world: &mut World, len: u32, flags: u16| {
        let descriptor = Descriptor { flags, gso_size: 100, ..Descriptor::plain(PageIndex(30), 0, len) };
        assert_eq!(world.netd.rings.transmit.push(&descriptor.to_slot()), Ok(true));
        let _ = world.netd.rings.transmit.publish();
        world.nicd.turn(Instant::ZERO).map(drop)
    };
    assert!(send(&mut world, 60, flag::CSUM_PARTIAL).is_ok());
    assert!(send(&mut world, 9000, flag::CSUM_PARTIAL | flag::GSO_TCP4).is_ok());
    assert!(send(&mut world, 13, 0).is_ok());
    assert!(send(&mut world, 9019, 0).is_ok());
    let counts = &world.nicd.counts;
    assert_eq!((counts.get(Count::TxUnsupported), counts.get(Count::TxLength)), (2, 2));
    assert!(world.cable.borrow().outbound.is_empty());
    assert!(matches!(send(&mut world, 0, 0), Err(TurnError::Peer(_))));
}
