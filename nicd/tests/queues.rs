//! Drivers of chips with several shards of netd: flows over queues where the chip has them, so that nothing is copied,
//! and one queue for all where it has not; who dies, or stands still, is no matter of the others.

mod checks_on;
#[allow(dead_code, reason = "shared by tests that use different parts of it")]
mod chip;
#[path = "memory/heap.rs"]
mod memory;
#[allow(dead_code, reason = "shared by tests that use different parts of it")]
mod netd_side;

use checks_on::checks_on;
use chip::kinds::{OnE1000e, OnIgb, OnVirtio};
use chip::{Chip, GEOMETRY, OURS, THEIRS, frame, wishes};
use core::time::Duration;
use memory::{Shared, memory};
use netd_side::NetdSide;
use nicd::counts::Count;
use nicd::datapath::Datapath;
use nicd::driver::hardware::RINGS_SIZE;
use nicd::driver::virtio::Virtio;
use nicd::driver::virtio::regs::Layout;
use nicd::model::machine::Model;
use nicd::model::virtio::VirtioModel;
use nicd::nic::Slab;
use proptest::prelude::*;
use proto::Instant;
use proto::nic::packet_buf::Marks;
use proto::nic::rings::REGION_SIZE;
use proto::nic::steering::{For, HEAD, Steering};
use proto::shm::Memory;
use std::collections::HashMap;
use std::io;
use std::rc::Rc;

/// Small pages that each netd lends: more than may wait for it, so that some lie filled in a queue of the chip.
const LENT: usize = 200;

/// A virtio device that does not spread flows.
struct OnPlainVirtio;

impl Chip for OnPlainVirtio {
    type Model = VirtioModel<Shared>;
    type Nic = Virtio<Rc<VirtioModel<Shared>>>;
    const NAME: &'static str = "virtio without RSS";

    fn model(slabs: &[Slab<Shared>]) -> Rc<Self::Model> {
        VirtioModel::lacking(1 << 60, memory(RINGS_SIZE), slabs)
    }

    fn driver(model: &Rc<Self::Model>, wishes: &nicd::driver::Wishes) -> io::Result<Self::Nic> {
        let read8 = |at| nicd::driver::hardware::Hardware::config8(model, at);
        let layout = Layout::find(read8).ok_or(io::ErrorKind::NotConnected)?;
        Virtio::new(model.clone(), layout, wishes)
    }
}

/// A chip between the netds of several shards and a wire.
struct Shards<C: Chip> {
    model: Rc<C::Model>,
    nicd: Datapath<Shared, C::Nic>,
    slabs: Vec<Shared>,
    netds: Vec<NetdSide<Shared>>,
    /// Those that neither take nor lend.
    still: Vec<bool>,
    got: Vec<Vec<Vec<u8>>>,
    steering: Steering,
    now: Instant,
}

impl<C: Chip> Shards<C> {
    fn new(shards: u16) -> Self {
        let slabs: Vec<Shared> = (0..shards).map(|_| memory(GEOMETRY.bytes())).collect();
        let of_nicd: Vec<_> = (0..shards)
            .zip(&slabs)
            .map(|(shard, memory)| Slab { shard, memory: memory.clone(), geometry: GEOMETRY })
            .collect();
        let model = C::model(&of_nicd);
        let nic = C::driver(&model, &wishes(1500, shards)).expect("a chip that works");
        let mut world = Shards {
            model,
            nicd: Datapath::new(nic, of_nicd, OURS, 1500),
            slabs,
            netds: Vec::new(),
            still: vec![false; shards.into()],
            got: vec![Vec::new(); shards.into()],
            steering: Steering::new(shards),
            now: Instant::from_nanos(1_000_000_000),
        };
        for shard in 0..shards {
            let netd = world.begin(shard);
            world.netds.push(netd);
        }
        world.link();
        world
    }

    fn begin(&mut self, shard: u16) -> NetdSide<Shared> {
        let rings = memory(REGION_SIZE);
        self.nicd.attach(shard, rings.clone()).expect("the chip stops");
        NetdSide::new(rings, self.slabs[usize::from(shard)].clone(), GEOMETRY)
    }

    /// The netd of a shard dies, and another one begins.
    fn anew(&mut self, shard: u16) {
        self.nicd.detach(shard).expect("the chip stops");
        let netd = self.begin(shard);
        self.netds[usize::from(shard)] = netd;
    }

    fn link(&mut self) {
        self.run();
        let machine = self.model.machine();
        machine.time.set(machine.time.get() + Duration::from_secs(3));
        self.model.step();
        self.run();
    }

    /// Everybody until nothing moves any more.
    fn run(&mut self) {
        for _ in 0..1000 {
            self.now = self.now + Duration::from_millis(1);
            for (shard, netd) in self.netds.iter_mut().enumerate().filter(|(shard, _)| !self.still[*shard]) {
                self.got[shard].extend(netd.take().expect("nicd is honest"));
                let _ = netd.lend(LENT, 2).expect("nicd is honest");
            }
            self.nicd.device_ready(self.now).expect("the chip is there");
            let turn = self.nicd.turn(self.now).expect("the netds are honest");
            if !turn.again && !turn.moved && self.nicd.may_sleep().expect("the netds are honest") {
                return;
            }
        }
        panic!("{}: nicd never sleeps", C::NAME);
    }

    fn shard_of(&self, frame: &[u8]) -> Option<usize> {
        match self.steering.frame(&frame[..frame.len().min(HEAD)]) {
            For::Shard(shard) => Some(shard.into()),
            For::Every => None,
        }
    }

    /// What came since the last call, by shard.
    fn received(&mut self) -> Vec<Vec<Vec<u8>>> {
        self.got.iter_mut().map(core::mem::take).collect()
    }

    fn count(&self, count: Count) -> u64 {
        self.nicd.counts.get(count)
    }

    fn at_rest(&self) {
        for (shard, netd) in self.netds.iter().enumerate() {
            assert_eq!(netd.sending(), 0, "{}: shard {shard} has every page that it sent", C::NAME);
            assert_eq!(netd.lent(), LENT + 2, "{}: shard {shard} has lent every page", C::NAME);
        }
        assert_eq!(self.model.machine().violations.get(), 0, "{}: only its own memory", C::NAME);
    }
}

/// A packet to us of flow `port`, with a number.
fn packet(v6: bool, udp: bool, port: u16, n: u32) -> Vec<u8> {
    let mut packet = chip::packet(v6, udp, &n.to_be_bytes(), true);
    packet[..6].copy_from_slice(&OURS);
    packet[6..12].copy_from_slice(&THEIRS);
    let at = chip::transport_at(v6);
    packet[at..at + 2].copy_from_slice(&port.to_be_bytes());
    packet.resize(packet.len().max(60), 0);
    packet
}

fn flows(count: u16) -> Vec<Vec<u8>> {
    (0..count).map(|n| packet(n % 2 == 1, n % 3 == 1, 40_000 + n, n.into())).collect()
}

/// Every flow to its shard; frames that are in the wrong pages were copied.
fn every_flow_to_its_shard<C: Chip>(shards: u16) -> u64 {
    let mut world = Shards::<C>::new(shards);
    let before = world.count(Count::RxSteered);
    let mut reached = vec![0; shards.into()];
    for round in flows(400).chunks(20) {
        round.iter().for_each(|frame| world.model.arrive(frame.clone()));
        world.run();
        for (shard, frames) in world.received().into_iter().enumerate() {
            reached[shard] += frames.len();
            for frame in frames {
                assert_eq!(world.shard_of(&frame), Some(shard), "{}", C::NAME);
            }
        }
    }
    assert_eq!(reached.iter().sum::<usize>(), 400, "{}: none lost", C::NAME);
    assert!(reached.iter().all(|count| *count > 0), "{reached:?}");
    world.at_rest();
    world.count(Count::RxSteered) - before
}

#[test]
fn chips_that_spread_flows_need_no_copy() {
    for shards in [2, 3, 4] {
        assert_eq!(every_flow_to_its_shard::<OnIgb>(shards), 0, "{shards} shards");
        assert_eq!(every_flow_to_its_shard::<OnVirtio>(shards), 0, "{shards} shards");
    }
    assert_eq!(every_flow_to_its_shard::<OnIgb>(16), 0, "as many as it has queues");
}

#[test]
fn chips_that_do_not_are_copied_for() {
    assert!(every_flow_to_its_shard::<OnE1000e>(2) > 100);
    assert!(every_flow_to_its_shard::<OnPlainVirtio>(2) > 100);
    assert!(every_flow_to_its_shard::<OnVirtio>(5) > 100, "more shards than queues");
    assert!(every_flow_to_its_shard::<OnIgb>(17) > 100, "more shards than queues");
}

// What holds on every chip that spreads flows.
checks_on! {
    { igb = OnIgb, virtio = OnVirtio }
    what_a_chip_hashes_otherwise_is_copied
    all_shards_send
    who_stands_still_stands_alone
    a_dead_netds_pages_are_left_alone
    any_words_in_the_rings
}

mod checks {
    use super::*;

    /// ARP for all, fragments and errors as nicd has it, whatever queue the chip put them into.
    pub fn what_a_chip_hashes_otherwise_is_copied<C: Chip>() {
        let mut world = Shards::<C>::new(2);
        let mut arp = frame(OURS, THEIRS, 60, 1);
        arp[12..14].copy_from_slice(&[8, 6]);
        world.model.arrive(arp.clone());
        world.run();
        assert_eq!(world.received(), [[arp.clone()], [arp]]);
        let mut wanted = [0, 0];
        for n in 0..40u16 {
            // First and later fragments of datagrams between other addresses each.
            let mut fragment = packet(false, true, 40_000 + n, n.into());
            fragment[20] = if n % 2 == 0 { 0x20 } else { 0x01 };
            fragment[29] = n as u8;
            wanted[world.shard_of(&fragment).expect("one")] += 1;
            world.model.arrive(fragment);
        }
        world.run();
        let got = world.received();
        assert_eq!([got[0].len(), got[1].len()], wanted);
        assert!(wanted.iter().all(|n| *n > 5), "{wanted:?}");
        world.at_rest();
    }

    /// Frames of every shard leave, those of each in order.
    pub fn all_shards_send<C: Chip>() {
        let mut world = Shards::<C>::new(4);
        for n in 0..400u64 {
            let shard = n % 4;
            let sent = world.netds[shard as usize]
                .send_marked(&frame(THEIRS, [2, 0, 0, 0, 0, shard as u8], 200, n), Marks::default());
            assert!(sent.expect("nicd is honest").is_some(), "room to send");
            if n % 40 == 39 {
                world.run();
            }
        }
        world.run();
        let sent = world.model.sent();
        assert_eq!(sent.len(), 400);
        let mut last = HashMap::new();
        for frame in sent {
            let number = u64::from_le_bytes(frame[14..22].try_into().expect("eight"));
            assert!(last.insert(frame[11], number).is_none_or(|before| before < number), "in order");
        }
        world.at_rest();
    }

    /// A shard that takes nothing fills its own queue and nobody else's, and nicd sleeps meanwhile.
    pub fn who_stands_still_stands_alone<C: Chip>() {
        let mut world = Shards::<C>::new(2);
        world.still[1] = true;
        let (mut mine, mut others) = (0, 0);
        for (n, frame) in flows(2000).into_iter().enumerate() {
            match world.shard_of(&frame).expect("one") {
                0 => mine += 1,
                _ => others += 1,
            }
            world.model.arrive(frame);
            if n % 10 == 9 {
                world.run();
            }
        }
        let got = world.received();
        assert_eq!((got[0].len(), got[1].len()), (mine, 0), "{}", C::NAME);
        assert!(others > 900, "{others}");
        world.still[1] = false;
        world.run();
        let late = world.received()[1].len();
        assert!(late >= LENT && late < others, "{}: what its queue held: {late}", C::NAME);
        world.model.arrive(flows(40)[1].clone());
        world.run();
        assert_eq!(world.received().iter().map(Vec::len).sum::<usize>(), 1);
        world.at_rest();
    }

    /// As a netd dies with frames under way both ways, nothing reaches its pages any more, and the other goes on.
    pub fn a_dead_netds_pages_are_left_alone<C: Chip>() {
        let mut world = Shards::<C>::new(2);
        for round in 0..12u64 {
            let dead = (round % 2) as u16;
            world.model.machine().faults.borrow_mut().slow = true;
            for frame in flows(30) {
                world.model.arrive(frame);
            }
            for netd in &mut world.netds {
                for n in 0..10 {
                    let sent = netd.send_marked(&frame(THEIRS, OURS, 500, n), Marks::default());
                    assert!(sent.expect("nicd is honest").is_some());
                }
            }
            let _ = world.nicd.turn(world.now).expect("the netds are honest");
            world.anew(dead);
            let mark = vec![0xee; GEOMETRY.bytes()];
            let slab = world.slabs[usize::from(dead)].clone();
            slab.write(0, &mark);
            world.model.step();
            let mut seen = vec![0; GEOMETRY.bytes()];
            slab.read(0, &mut seen);
            assert!(seen == mark, "{}, round {round}: a page was written to", C::NAME);
            world.model.machine().faults.borrow_mut().slow = false;
            world.link();
            world.received();
            world.model.sent();
            let again = flows(60);
            again.iter().for_each(|frame| world.model.arrive(frame.clone()));
            world.run();
            let got = world.received();
            assert_eq!(got[0].len() + got[1].len(), 60, "{}, round {round}", C::NAME);
            world.at_rest();
        }
        assert!(world.count(Count::DeviceStops) >= 12);
    }

    /// A chip that writes what it likes into its rings.
    pub fn any_words_in_the_rings<C: Chip>() {
        let config = ProptestConfig::with_cases(64);
        let words = proptest::collection::vec((0..0x10000usize / 8, any::<u64>()), 1..200);
        proptest!(config, |(words in words)| {
            let mut world = Shards::<C>::new(2);
            for (at, word) in words {
                world.model.machine().master.set(true);
                let at = nicd::driver::hardware::RINGS_IOVA + at as u64 * 8;
                world.model.machine().write(at, &word.to_le_bytes());
                for netd in &mut world.netds {
                    let _ = netd.take().expect("nicd is honest");
                    let _ = netd.lend(LENT, 2).expect("nicd is honest");
                }
                // It may end the device, never panic; the netds see only what is in their rules.
                if world.nicd.device_ready(world.now).is_err() {
                    break;
                }
                match world.nicd.turn(world.now) {
                    Ok(_) => {}
                    Err(nicd::datapath::TurnError::Device(_)) => break,
                    Err(error) => panic!("{error}"),
                }
            }
        });
    }
}
