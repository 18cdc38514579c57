//! What is done with the 82574L's registers: reset, rings, link, interrupts, filters.

use super::desc;
use super::regs::{
    ADDRESS, ADDRESS_VALID, ADDRESSES, AUTO_CLEAR, CAUSE_READ, Cause, Control, ControlExt, InterPacketGap,
    MASK_CLEAR, MASK_SET, MULTICAST, MULTICAST_WORDS, Mdi, RECEIVE_DELAYS, RECEIVE_RING, ReceiveChecksum,
    ReceiveControl, Status, THROTTLE, TRANSMIT_DELAYS, TRANSMIT_RING, TransmitControl,
    TransmitDescriptorControl, VLAN_WORDS, VLANS, Vectors,
};
use crate::driver::hardware::{GONE, Hardware, stuck};
use crate::driver::intel::{Causes, Chip, Setup, group_table, present, program_ring};
use crate::filter::AddressFilter;
use crate::nic::HEADER_MAX;
use core::time::Duration;
use proto::control::notices::Mac;
use std::io;

/// The 82574L.
#[derive(Debug, Clone, Copy, Default)]
pub struct E1000e;

/// PCI vendor and device numbers that this drives: §10.1 of the data sheet, 82574L copper.
pub const IDS: [(u16, u16); 1] = [(0x8086, 0x10d3)];

/// §4.6.1: a reset takes microseconds; who takes longer than this does not come back.
const RESET_STEP: Duration = Duration::from_millis(1);
const RESET_STEPS: u32 = 100;
/// §3.1.3.10: outstanding requests end in far less.
const MASTER_STEP: Duration = Duration::from_micros(100);
const MASTER_STEPS: u32 = 800;
/// §9.2: the PHY's own address on the management bus, its control register, and "negotiate anew".
const PHY: u8 = 1;
const PHY_CONTROL: u8 = 0;
const NEGOTIATE: u16 = 0x1200;
/// §9.1: an access to the PHY takes 64 µs.
const PHY_STEP: Duration = Duration::from_micros(50);
const PHY_STEPS: u32 = 100;
/// Frames of up to this many bytes are not long ones to the chip: RCTL.LPE, §10.2.5.1.
const SHORT_MAX: usize = 1522;

/// Every cause that the driver hears.
fn heard() -> Cause {
    from_frames().with_link(true).with_other(true)
}

/// Causes that frames raise.
fn from_frames() -> Cause {
    Cause::new()
        .with_transmitted(true)
        .with_transmit_empty(true)
        .with_receive_low(true)
        .with_receive_overrun(true)
        .with_received(true)
        .with_receive_queue(true)
        .with_transmit_queue(true)
}

impl E1000e {
    /// §4.6.1, §4.6.2: interrupts off, no access to memory, then the reset itself.
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
        hw.read32(CAUSE_READ);
        Ok(())
    }

    /// §4.6.3: the PHY negotiates by itself after a power-up; where it has not, it is told to.
    fn raise_link<H: Hardware>(&self, hw: &H) {
        let control = hw.get::<Control>().with_force_speed(false).with_force_duplex(false);
        hw.set(control.with_master_disable(false).with_set_link_up(true).with_auto_speed(true));
        if !hw.get::<Status>().link_up() {
            hw.set(
                Mdi::new().with_operation(1).with_phy(PHY).with_register(PHY_CONTROL).with_value(NEGOTIATE),
            );
            hw.wait_until(PHY_STEP, PHY_STEPS, |hw| hw.get::<Mdi>().ready());
        }
    }

    fn program_addresses<H: Hardware>(&self, hw: &H, mac: &Mac) {
        let [a, b, c, d, e, f] = *mac;
        for entry in 0..ADDRESSES {
            let (low, high) = match entry {
                0 => (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, 0, 0]) | ADDRESS_VALID),
                _ => (0, 0),
            };
            // §10.2.5.18: an entry that is being changed does not count.
            hw.write32(ADDRESS + entry * 8 + 4, 0);
            hw.write32(ADDRESS + entry * 8, low);
            hw.write32(ADDRESS + entry * 8 + 4, high);
        }
    }

    fn receive_control(&self, filter: Option<&AddressFilter>, setup: &Setup) -> ReceiveControl {
        ReceiveControl::new()
            .with_enable(true)
            .with_broadcast(true)
            .with_strip_crc(true)
            .with_long(setup.mtu + HEADER_MAX + 4 > SHORT_MAX)
            .with_all_unicast(filter.is_some_and(AddressFilter::promiscuous))
            .with_all_multicast(filter.is_none_or(|filter| filter.promiscuous() || filter.groups().is_none()))
    }
}

impl Chip for E1000e {
    const NAME: &'static str = "e1000e";
    type Receive = desc::Receive;
    type Transmit = desc::Transmit;

    fn reset<H: Hardware>(&self, hw: &H, setup: &Setup) -> io::Result<()> {
        self.stop(hw)?;
        hw.set(hw.get::<ControlExt>().with_driver_loaded(true).with_pba_support(true));
        self.raise_link(hw);
        self.program_addresses(hw, &setup.mac);
        (0..MULTICAST_WORDS).for_each(|word| hw.write32(MULTICAST + word * 4, 0));
        (0..VLAN_WORDS).for_each(|word| hw.write32(VLANS + word * 4, 0));
        Ok(())
    }

    fn program<H: Hardware>(&self, hw: &H, setup: &Setup) -> io::Result<()> {
        // §4.6.5: the rings while receiving is off. §4.6.6: sending.
        program_ring(hw, RECEIVE_RING, setup.receive);
        program_ring(hw, TRANSMIT_RING, setup.transmit);
        RECEIVE_DELAYS.into_iter().chain(TRANSMIT_DELAYS).for_each(|delay| hw.write32(delay, 0));
        hw.set(
            TransmitDescriptorControl::new()
                .with_write_back_threshold(1)
                .with_in_descriptors(true)
                .with_one(true),
        );
        hw.set(ReceiveChecksum::new().with_ip(true).with_transport(true));
        hw.set(Vectors::new().with_receive_valid(true).with_transmit_valid(true).with_other_valid(true));
        hw.write32(AUTO_CLEAR, 0);
        hw.write32(THROTTLE, 0);
        present(hw.get::<Status>().into()).map(drop)
    }

    fn run<H: Hardware>(&self, hw: &H, setup: &Setup) -> io::Result<()> {
        // §10.2.6.2: the values that it recommends.
        hw.set(InterPacketGap::new().with_back_to_back(8).with_first(8).with_second(6));
        hw.set(
            TransmitControl::new()
                .with_enable(true)
                .with_pad_short(true)
                .with_collision_threshold(0x0f)
                .with_collision_distance(0x3f)
                .with_multiple_requests(true),
        );
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
        hw.write32(MASK_CLEAR, u32::MAX);
    }

    fn settle<H: Hardware>(&self, hw: &H) -> io::Result<()> {
        hw.write32(CAUSE_READ, from_frames().into());
        // The read comes back behind the write.
        present(hw.get::<Status>().into()).map(drop)
    }

    fn unmask<H: Hardware>(&self, hw: &H) {
        hw.write32(MASK_SET, heard().into());
    }

    fn causes<H: Hardware>(&self, hw: &H) -> Causes {
        let raw = hw.read32(CAUSE_READ);
        let causes = Cause::from(raw);
        if raw == GONE {
            return Causes::default();
        }
        let link = causes.link();
        hw.write32(CAUSE_READ, Cause::new().with_link(true).with_other(true).into());
        Causes { any: raw & u32::from(heard()) != 0, link }
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
