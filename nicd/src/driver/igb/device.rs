//! What is done with the 82576's registers: reset, rings, link, interrupts, filters.

use super::desc;
use super::regs::{
    ADDRESS, ADDRESS_VALID, ADDRESSES, CAUSE_LINK, CAUSES, Control, ControlExt, InterruptControl, LONGEST,
    MASK_CLEAR, MASK_SET, MULTICAST, MULTICAST_WORDS, Mdi, MiscVectors, QUEUES, QueueVectors, RECEIVE_RING,
    ReceiveChecksum, ReceiveControl, ReceiveQueue, ReceiveSplit, Status, THROTTLE, TRANSMIT_RING,
    TransmitControl, TransmitQueue, VECTOR, VECTOR_AUTO_CLEAR, VECTOR_AUTO_MASK, VECTOR_CAUSES,
    VECTOR_MASK_CLEAR, VECTOR_MASK_SET,
};
use crate::driver::hardware::{GONE, Hardware, stuck};
use crate::driver::intel::{Causes, Chip, Setup, group_table, present, program_ring};
use crate::filter::AddressFilter;
use crate::nic::HEADER_MAX;
use core::time::Duration;
use std::io;

/// The 82576.
#[derive(Debug, Clone, Copy, Default)]
pub struct Igb;

/// PCI vendor and device numbers that this drives: §9.4 of the data sheet, 82576 copper.
pub const IDS: [(u16, u16); 1] = [(0x8086, 0x10c9)];

/// §4.3.1: a reset ends within milliseconds; who takes longer than this does not come back.
const RESET_STEP: Duration = Duration::from_millis(1);
const RESET_STEPS: u32 = 100;
/// §5.2.3.3: outstanding requests end in far less.
const MASTER_STEP: Duration = Duration::from_micros(100);
const MASTER_STEPS: u32 = 800;
/// §4.5.9: a queue is on or off after about 10 µs; no longer than this.
const QUEUE_STEP: Duration = Duration::from_micros(10);
const QUEUE_STEPS: u32 = 1_000;
/// §8.25: the PHY's own address on the management bus, its control register, and "negotiate anew".
const PHY: u8 = 1;
const PHY_CONTROL: u8 = 0;
const NEGOTIATE: u16 = 0x1200;
/// §8.2.4: an access to the PHY takes 64 µs.
const PHY_STEP: Duration = Duration::from_micros(50);
const PHY_STEPS: u32 = 100;
/// Bytes of the CRC: IEEE 802.3 clause 3.2.9.
const CRC: usize = 4;
/// Frames of up to this many bytes are not long ones to the chip: RCTL.LPE, §8.10.1.
const SHORT_MAX: usize = 1522;
/// KiB of the small pages that are posted.
const PAGE_KIB: u8 = (proto::nic::slab::SMALL_SIZE / 1024) as u8;

impl Igb {
    fn receive_control(&self, filter: Option<&AddressFilter>, setup: &Setup) -> ReceiveControl {
        ReceiveControl::new()
            .with_enable(true)
            .with_broadcast(true)
            .with_strip_crc(true)
            .with_long(setup.mtu + HEADER_MAX + CRC > SHORT_MAX)
            .with_all_unicast(filter.is_some_and(AddressFilter::promiscuous))
            .with_all_multicast(filter.is_none_or(|filter| filter.promiscuous() || filter.groups().is_none()))
    }

    /// §4.3.1: interrupts off, no access to memory, then the reset itself.
    fn stop<H: Hardware>(&self, hw: &H) -> io::Result<()> {
        self.mask(hw);
        hw.set(ReceiveControl::new());
        hw.set(TransmitControl::new().with_pad_short(true));
        present(hw.get::<Status>().into())?;
        hw.set(hw.get::<Control>().with_master_disable(true));
        // Memory is safe by `Hardware::quiesce`; this is for the chip's own sake, and its limit no error.
        hw.wait_until(MASTER_STEP, MASTER_STEPS, |hw| !hw.get::<Status>().master_enabled());
        hw.set(hw.get::<Control>().with_reset(true));
        hw.pause(RESET_STEP);
        if !hw.wait_until(RESET_STEP, RESET_STEPS, |hw| !hw.get::<Control>().reset()) {
            present(hw.get::<Status>().into())?;
            return Err(stuck("its reset does not end"));
        }
        present(hw.get::<Status>().into())?;
        self.mask(hw);
        hw.write32(MASK_CLEAR, u32::MAX);
        hw.read32(CAUSES);
        Ok(())
    }

    /// §4.5.7: what the PHY negotiates is the link; after a reset it is told to.
    fn raise_link<H: Hardware>(&self, hw: &H) {
        let control = hw.get::<Control>().with_force_speed(false).with_force_duplex(false);
        hw.set(control.with_master_disable(false).with_set_link_up(true));
        if !hw.get::<Status>().link_up() {
            hw.set(
                Mdi::new().with_operation(1).with_phy(PHY).with_register(PHY_CONTROL).with_value(NEGOTIATE),
            );
            hw.wait_until(PHY_STEP, PHY_STEPS, |hw| hw.get::<Mdi>().ready());
        }
    }
}

impl Chip for Igb {
    const NAME: &'static str = "igb";
    type Receive = desc::Receive;
    type Transmit = desc::Transmit;

    fn reset<H: Hardware>(&self, hw: &H, setup: &Setup) -> io::Result<()> {
        self.stop(hw)?;
        hw.set(hw.get::<ControlExt>().with_driver_loaded(true));
        self.raise_link(hw);
        let [a, b, c, d, e, f] = setup.mac;
        for entry in 0..ADDRESSES {
            let (low, high) = match entry {
                0 => (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, 0, 0]) | ADDRESS_VALID),
                _ => (0, 0),
            };
            // §8.10.17: an entry that is being changed does not count.
            hw.write32(ADDRESS + entry * 8 + 4, 0);
            hw.write32(ADDRESS + entry * 8, low);
            hw.write32(ADDRESS + entry * 8 + 4, high);
        }
        (0..MULTICAST_WORDS).for_each(|word| hw.write32(MULTICAST + word * 4, 0));
        hw.write32(QUEUES, 0);
        Ok(())
    }

    fn forget<H: Hardware>(&self, hw: &H) -> io::Result<bool> {
        self.mask(hw);
        hw.set(ReceiveControl::new());
        hw.set(TransmitControl::new().with_pad_short(true));
        hw.set(ReceiveQueue::new());
        hw.set(TransmitQueue::new());
        present(hw.get::<Status>().into())?;
        // §4.5.9.2, §4.5.10.2: it reads as off when nothing of the queue is left in the chip.
        Ok(hw.wait_until(QUEUE_STEP, QUEUE_STEPS, |hw| {
            !hw.get::<ReceiveQueue>().enable() && !hw.get::<TransmitQueue>().enable()
        }))
    }

    fn program<H: Hardware>(&self, hw: &H, setup: &Setup) -> io::Result<()> {
        program_ring(hw, RECEIVE_RING, setup.receive);
        program_ring(hw, TRANSMIT_RING, setup.transmit);
        hw.set(ReceiveSplit::new().with_buffer_kib(PAGE_KIB).with_kind(1));
        hw.write32(LONGEST, (setup.mtu + HEADER_MAX + CRC) as u32);
        hw.set(ReceiveChecksum::new().with_ip(true).with_transport(true));
        // §7.3.1: one vector for everything; nothing clears or masks itself.
        hw.set(
            InterruptControl::new().with_clear_on_read(true).with_many_vectors(true).with_pba_support(true),
        );
        hw.set(QueueVectors::new().with_receive_valid(true).with_transmit_valid(true));
        hw.set(MiscVectors::new().with_other_valid(true));
        hw.write32(VECTOR_AUTO_CLEAR, 0);
        hw.write32(VECTOR_AUTO_MASK, 0);
        hw.write32(THROTTLE, 0);
        hw.write32(MASK_SET, CAUSE_LINK);
        present(hw.get::<Status>().into()).map(drop)
    }

    fn run<H: Hardware>(&self, hw: &H, setup: &Setup) -> io::Result<()> {
        hw.set(TransmitQueue::new().with_write_back_threshold(1).with_enable(true));
        hw.set(ReceiveQueue::new().with_write_back_threshold(1).with_enable(true));
        // §4.5.9.1: not before it is on are tails written.
        let on = hw.wait_until(QUEUE_STEP, QUEUE_STEPS, |hw| {
            hw.get::<ReceiveQueue>().enable() && hw.get::<TransmitQueue>().enable()
        });
        present(hw.get::<Status>().into())?;
        if !on {
            return Err(stuck("its queues do not begin"));
        }
        hw.set(TransmitControl::new().with_enable(true).with_pad_short(true).with_collision_threshold(0x0f));
        hw.set(self.receive_control(None, setup));
        Ok(())
    }

    fn filter<H: Hardware>(&self, hw: &H, filter: &AddressFilter, setup: &Setup) {
        for (word, bits) in group_table(filter).into_iter().enumerate() {
            hw.write32(MULTICAST + word * 4, bits);
        }
        hw.set(self.receive_control(Some(filter), setup));
    }

    fn mask<H: Hardware>(&self, hw: &H) {
        hw.write32(VECTOR_MASK_CLEAR, u32::MAX);
    }

    fn settle<H: Hardware>(&self, hw: &H) -> io::Result<()> {
        hw.write32(VECTOR_CAUSES, VECTOR);
        // The read comes back behind the write.
        present(hw.get::<Status>().into()).map(drop)
    }

    fn unmask<H: Hardware>(&self, hw: &H) {
        hw.write32(VECTOR_MASK_SET, VECTOR);
    }

    fn causes<H: Hardware>(&self, hw: &H) -> Causes {
        let (vectors, causes) = (hw.read32(VECTOR_CAUSES), hw.read32(CAUSES));
        if vectors == GONE || causes == GONE {
            return Causes::default();
        }
        Causes { any: vectors & VECTOR != 0, link: causes & CAUSE_LINK != 0 }
    }

    fn link<H: Hardware>(&self, hw: &H) -> io::Result<bool> {
        let status = hw.get::<Status>();
        present(status.into())?;
        Ok(status.link_up())
    }

    fn receive_tail<H: Hardware>(&self, hw: &H, tail: u32) {
        hw.write32(RECEIVE_RING[4], tail);
    }

    fn transmit_tail<H: Hardware>(&self, hw: &H, tail: u32) {
        hw.write32(TRANSMIT_RING[4], tail);
    }
}
