//! What is done with the 82576's registers: reset, rings, link, interrupts, filters.

use super::desc;
use super::regs::{
    CAUSE_LINK, CAUSE_OVERRUN, CAUSES, InterruptControl, LONGEST, MASK_CLEAR, MASK_SET, MiscVectors,
    QUEUE_CONTROLS, QUEUE_STRIDE, QUEUE_VECTORS, QUEUE_VECTORS_COUNT, QueueControl, QueueVectors,
    RECEIVE_RING, RECEIVE_SPLIT, ReceiveSplit, SPREADING_KEY, SPREADING_TABLE, Spreading, THROTTLE,
    TRANSMIT_RING, VECTOR, VECTOR_AUTO_CLEAR, VECTOR_AUTO_MASK, VECTOR_CAUSES, VECTOR_MASK_CLEAR,
    VECTOR_MASK_SET,
};
use crate::driver::hardware::{GONE, Hardware, stuck};
use crate::driver::intel::regs::{ControlExt, ReceiveChecksum, TransmitControl};
use crate::driver::intel::{Causes, Chip, Setup, bring_up};
use core::time::Duration;
use proto::nic::steering::{CARD_KEY, ENTRIES, Steering};
use std::io;

/// The 82576.
#[derive(Debug, Clone, Copy, Default)]
pub struct Igb;

/// PCI vendor and device numbers that this drives: §9.4 of the data sheet, 82576 copper.
pub const IDS: [(u16, u16); 1] = [(0x8086, 0x10c9)];

/// §4.5.9: a queue is on or off after about 10 µs; no longer than this.
const QUEUE_STEP: Duration = Duration::from_micros(10);
const QUEUE_STEPS: u32 = 1_000;
/// KiB of the small pages that are posted.
const PAGE_KIB: u8 = (proto::nic::slab::SMALL_SIZE / 1024) as u8;

/// Where the controls of so many queues each way are.
fn controls(queues: usize) -> impl Iterator<Item = usize> {
    (0..queues).flat_map(|queue| QUEUE_CONTROLS.map(|at| at + queue * QUEUE_STRIDE))
}

/// Waits until so many queues each way are on, or off; false when they never were.
fn wait_for<H: Hardware>(hw: &H, queues: usize, on: bool) -> bool {
    hw.wait_until(QUEUE_STEP, QUEUE_STEPS, |hw| {
        controls(queues).all(|at| QueueControl::from(hw.read32(at)).enable() == on)
    })
}

/// §7.1.2.10: flows over queues as they are over shards, so that a frame lies in pages of the shard that it is for.
fn spread<H: Hardware>(hw: &H, queues: usize) {
    if queues == 1 {
        return hw.set(Spreading::new());
    }
    let steering = Steering::new(queues as u16);
    let queue = |entry: usize| steering.of_entry(entry as u16) as u8;
    for at in (0..usize::from(ENTRIES)).step_by(4) {
        let four = [0, 1, 2, 3].map(|n| queue(at + n));
        hw.write32(SPREADING_TABLE + at, u32::from_le_bytes(four));
    }
    for (at, four) in CARD_KEY.chunks_exact(4).enumerate() {
        hw.write32(SPREADING_KEY + at * 4, u32::from_le_bytes([four[0], four[1], four[2], four[3]]));
    }
    hw.set(
        Spreading::new()
            .with_kind(2)
            .with_tcp4(true)
            .with_ipv4(true)
            .with_udp4(true)
            .with_tcp6(true)
            .with_tcp6_extended(true)
            .with_ipv6(true)
            .with_udp6(true),
    );
}

impl Chip for Igb {
    const NAME: &'static str = "igb";
    const QUEUES: usize = 16;
    const RECEIVE_RING: [usize; 5] = RECEIVE_RING;
    const TRANSMIT_RING: [usize; 5] = TRANSMIT_RING;
    const QUEUE_STRIDE: usize = QUEUE_STRIDE;
    type Receive = desc::Receive;
    type Transmit = desc::Transmit;

    fn reset<H: Hardware>(&self, hw: &H, setup: &Setup) -> io::Result<()> {
        self.mask(hw);
        bring_up::stop(hw)?;
        self.mask(hw);
        hw.write32(MASK_CLEAR, u32::MAX);
        hw.read32(CAUSES);
        hw.set(hw.get::<ControlExt>().with_driver_loaded(true));
        bring_up::raise_link(hw, hw.get());
        bring_up::program_addresses(hw, &setup.mac);
        Ok(())
    }

    fn forget<H: Hardware>(&self, hw: &H, setup: &Setup) -> io::Result<bool> {
        self.mask(hw);
        bring_up::hush(hw);
        controls(setup.queues).for_each(|at| hw.write32(at, QueueControl::new().into()));
        bring_up::answers(hw)?;
        // §4.5.9.2, §4.5.10.2: it reads as off when nothing of the queue is left in the chip.
        Ok(wait_for(hw, setup.queues, false))
    }

    fn program<H: Hardware>(&self, hw: &H, setup: &Setup) -> io::Result<()> {
        let split = ReceiveSplit::new().with_buffer_kib(PAGE_KIB).with_kind(1);
        (0..setup.queues).for_each(|queue| hw.write32(RECEIVE_SPLIT + queue * QUEUE_STRIDE, split.into()));
        hw.write32(LONGEST, bring_up::longest(setup) as u32);
        // §8.10.13: without the last there is no hash.
        let spreads = setup.queues > 1;
        hw.set(ReceiveChecksum::new().with_ip(true).with_transport(true).with_hash_in_descriptor(spreads));
        spread(hw, setup.queues);
        // §7.3.1: one vector for everything; nothing clears or masks itself.
        hw.set(
            InterruptControl::new().with_clear_on_read(true).with_many_vectors(true).with_pba_support(true),
        );
        let all = QueueVectors::new()
            .with_receive_valid(true)
            .with_transmit_valid(true)
            .with_receive_of_8_valid(true)
            .with_transmit_of_8_valid(true);
        (0..QUEUE_VECTORS_COUNT).for_each(|n| hw.write32(QUEUE_VECTORS + n * 4, all.into()));
        hw.set(MiscVectors::new().with_other_valid(true));
        hw.write32(VECTOR_AUTO_CLEAR, 0);
        hw.write32(VECTOR_AUTO_MASK, 0);
        hw.write32(MASK_SET, CAUSE_LINK);
        bring_up::answers(hw).map(drop)
    }

    fn run<H: Hardware>(&self, hw: &H, setup: &Setup) -> io::Result<()> {
        let on = QueueControl::new().with_write_back_threshold(1).with_enable(true);
        controls(setup.queues).for_each(|at| hw.write32(at, on.into()));
        // §4.5.9.1: not before it is on are tails written.
        let on = wait_for(hw, setup.queues, true);
        bring_up::answers(hw)?;
        if !on {
            return Err(stuck("its queues do not begin"));
        }
        hw.set(TransmitControl::new().with_enable(true).with_pad_short(true).with_collision_threshold(0x0f));
        bring_up::listen(hw, None, setup);
        Ok(())
    }

    fn mask<H: Hardware>(&self, hw: &H) {
        hw.write32(VECTOR_MASK_CLEAR, u32::MAX);
    }

    fn settle<H: Hardware>(&self, hw: &H) -> io::Result<()> {
        hw.write32(VECTOR_CAUSES, VECTOR);
        bring_up::answers(hw).map(drop)
    }

    fn unmask<H: Hardware>(&self, hw: &H) {
        hw.write32(VECTOR_MASK_SET, VECTOR);
    }

    fn causes<H: Hardware>(&self, hw: &H) -> Causes {
        let (vectors, causes) = (hw.read32(VECTOR_CAUSES), hw.read32(CAUSES));
        if vectors == GONE || causes == GONE {
            return Causes::default();
        }
        let any = vectors & VECTOR != 0;
        let link = causes & CAUSE_LINK != 0;
        // §7.3.1: queues raise the vector and nothing else.
        let frames = any && !link;
        let overrun = causes & CAUSE_OVERRUN != 0;
        Causes { any, link, receive: frames, transmit: frames, overrun }
    }

    fn throttle<H: Hardware>(&self, hw: &H, interval: Duration) {
        // §8.8.12: bits 14 to 2, in microseconds.
        let units = interval.as_micros().min(0x1fff) as u32;
        hw.write32(THROTTLE, units << 2);
    }
}
