//! Frames of 64 bytes through a shipped driver on the model of its chip, 32 a batch: the work whose instructions
//! `tests/per_frame.rs` counts.
//!
//! `per_frame CHIP receive|send FRAMES`. What the chip does, and netd, is not part of it: the model works only between
//! two rounds. `a_round` is nicd in all, from the chip's rings to netd's; what the driver alone does of it is in
//! `driver_work`. The memory is mapped, as where nicd runs; the registers are the model's.

#[allow(dead_code, reason = "shared by tests that use different parts of it")]
#[path = "../tests/chip/mod.rs"]
mod chip;
#[path = "../tests/memory/mapped.rs"]
mod memory;
#[allow(dead_code, reason = "shared by tests that use different parts of it")]
#[path = "../tests/netd_side/mod.rs"]
mod netd_side;

use chip::kinds::{OnE1000e, OnIgb, OnVirtio};
use chip::{Chip, OURS, THEIRS, World, frame};
use memory::Shared;
use nicd::counts::{Count, Counts};
use nicd::driver::Wishes;
use nicd::filter::AddressFilter;
use nicd::model::machine::Model;
use nicd::nic::{Capabilities, Frame, Next, Nic, Received, Slab, Transmitted};
use proto::Instant;
use proto::nic::packet_buf::Marks;
use proto::nic::slab::PageIndex;
use rustix::fd::BorrowedFd;
use std::io;
use std::marker::PhantomData;
use std::rc::Rc;

const BATCH: u64 = 32;
/// With the chip's own CRC, 64 on the wire.
const LEN: usize = 60;

/// A chip whose driver's part is told apart.
struct Apart<C>(PhantomData<C>);

/// Its driver.
struct Driver<N>(N);

/// What a driver does, seen by name from outside.
#[inline(never)]
fn driver_work<T>(work: impl FnOnce() -> T) -> T {
    work()
}

impl<C: Chip> Chip for Apart<C> {
    type Model = C::Model;
    type Nic = Driver<C::Nic>;
    const NAME: &'static str = C::NAME;

    fn model(slabs: &[Slab<Shared>]) -> Rc<C::Model> {
        C::model(slabs)
    }

    fn driver(model: &Rc<C::Model>, wishes: &Wishes) -> io::Result<Driver<C::Nic>> {
        C::driver(model, wishes).map(Driver)
    }
}

impl<N: Nic<Shared>> Nic<Shared> for Driver<N> {
    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.descriptor()
    }

    fn fill(&mut self, slab: &Slab<Shared>, page: PageIndex) {
        driver_work(|| self.0.fill(slab, page));
    }

    fn next_in(&mut self, takes: u64) -> Next {
        driver_work(|| self.0.next_in(takes))
    }

    fn wants_pages(&self, shard: u16) -> bool {
        self.0.wants_pages(shard)
    }

    fn pages(&mut self, slab: &Slab<Shared>, frame: &mut Frame, len: usize) -> bool {
        self.0.pages(slab, frame, len)
    }

    fn receive(
        &mut self,
        slab: &Slab<Shared>,
        frame: &mut Frame,
        now: Instant,
        counts: &mut Counts,
    ) -> io::Result<Received> {
        driver_work(|| self.0.receive(slab, frame, now, counts))
    }

    fn transmit(
        &mut self,
        slab: &Slab<Shared>,
        frame: &Frame,
        now: Instant,
        counts: &mut Counts,
    ) -> io::Result<Transmitted> {
        driver_work(|| self.0.transmit(slab, frame, now, counts))
    }

    fn flush(&mut self, now: Instant, counts: &mut Counts) {
        driver_work(|| self.0.flush(now, counts));
    }

    fn complete(&mut self) -> Option<(u16, PageIndex)> {
        driver_work(|| self.0.complete())
    }

    fn reset(&mut self, shard: u16) -> io::Result<()> {
        self.0.reset(shard)
    }

    fn poll(&mut self, now: Instant, counts: &mut Counts) -> io::Result<()> {
        driver_work(|| self.0.poll(now, counts))
    }

    fn deadline(&self) -> Option<Instant> {
        self.0.deadline()
    }

    fn may_sleep(&mut self, takes: u64) -> bool {
        driver_work(|| self.0.may_sleep(takes))
    }

    fn set_filter(&mut self, filter: &AddressFilter) {
        self.0.set_filter(filter);
    }
}

/// An interrupt, what follows from it, and the look before nicd sleeps.
#[inline(never)]
fn a_round<C: Chip>(world: &mut World<C>) {
    world.nicd.device_ready(world.now).expect("the chip is there");
    while world.nicd.turn(world.now).expect("netd is honest").again {}
    let _ = world.nicd.may_sleep().expect("netd is honest");
}

fn rounds<C: Chip>(way: &str, frames: u64) {
    let mut world = World::<Apart<C>>::new(1500);
    world.model.machine().faults.borrow_mut().slow = true;
    let bytes = match way {
        "receive" => frame(OURS, THEIRS, LEN, 1),
        _ => frame(THEIRS, OURS, LEN, 1),
    };
    let way_count = if way == "receive" { Count::RxFrames } else { Count::TxFrames };
    let before = world.count(way_count);
    for _ in 0..frames / BATCH {
        for _ in 0..BATCH {
            match way {
                "receive" => world.model.arrive(bytes.clone()),
                _ => assert!(world.push(&bytes, Marks::default()), "room to send"),
            }
        }
        world.model.step();
        a_round(&mut world);
        world.model.step();
        world.take();
        world.got.clear();
        drop(world.model.sent());
    }
    let moved = world.count(way_count) - before;
    assert!(moved + 2 * BATCH >= frames, "{moved} of {frames} frames moved");
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [chip, way, frames] = &words[..] else { panic!("per_frame CHIP receive|send FRAMES") };
    let frames = frames.parse().expect("how many frames");
    match chip.as_str() {
        "e1000e" => rounds::<OnE1000e>(way, frames),
        "igb" => rounds::<OnIgb>(way, frames),
        "virtio" => rounds::<OnVirtio>(way, frames),
        other => panic!("no chip {other}"),
    }
}
