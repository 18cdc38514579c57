//! What is done with the 82574L's registers: reset, rings, link, interrupts, filters.

use super::desc;
use super::regs::{
    AUTO_CLEAR, CAUSE_READ, Cause, InterPacketGap, MASK_CLEAR, MASK_SET, RECEIVE_DELAYS, RECEIVE_RING,
    THROTTLE, TRANSMIT_DELAYS, TRANSMIT_RING, TransmitDescriptorControl, VLAN_WORDS, VLANS, Vectors,
};
use crate::driver::hardware::{GONE, Hardware};
use crate::driver::intel::regs::{Control, ControlExt, ReceiveChecksum, TransmitControl};
use crate::driver::intel::{Causes, Chip, Setup, bring_up};
use core::time::Duration;
use std::io;

/// The 82574L.
#[derive(Debug, Clone, Copy, Default)]
pub struct E1000e;

/// PCI vendor and device numbers that this drives: §10.1 of the data sheet, 82574L copper.
pub const IDS: [(u16, u16); 1] = [(0x8086, 0x10d3)];

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

impl Chip for E1000e {
    const NAME: &'static str = "e1000e";
    const RECEIVE_RING: [usize; 5] = RECEIVE_RING;
    const TRANSMIT_RING: [usize; 5] = TRANSMIT_RING;
    type Receive = desc::Receive;
    type Transmit = desc::Transmit;

    fn reset<H: Hardware>(&self, hw: &H, setup: &Setup) -> io::Result<()> {
        self.mask(hw);
        bring_up::stop(hw)?;
        self.mask(hw);
        hw.read32(CAUSE_READ);
        hw.set(hw.get::<ControlExt>().with_driver_loaded(true).with_pba_support(true));
        bring_up::raise_link(hw, hw.get::<Control>().with_auto_speed(true));
        bring_up::program_addresses(hw, &setup.mac);
        (0..VLAN_WORDS).for_each(|word| hw.write32(VLANS + word * 4, 0));
        Ok(())
    }

    fn program<H: Hardware>(&self, hw: &H, _: &Setup) -> io::Result<()> {
        // §4.6.5: while receiving is off. §4.6.6: sending.
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
        bring_up::answers(hw).map(drop)
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
        bring_up::listen(hw, None, setup);
        Ok(())
    }

    fn mask<H: Hardware>(&self, hw: &H) {
        hw.write32(MASK_CLEAR, u32::MAX);
    }

    fn settle<H: Hardware>(&self, hw: &H) -> io::Result<()> {
        hw.write32(CAUSE_READ, from_frames().into());
        bring_up::answers(hw).map(drop)
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
        Causes {
            any: raw & u32::from(heard()) != 0,
            link,
            receive: causes.received() || causes.receive_queue(),
            transmit: causes.transmitted() || causes.transmit_queue(),
            overrun: causes.receive_overrun(),
        }
    }

    fn throttle<H: Hardware>(&self, hw: &H, interval: Duration) {
        // §10.2.4.3: 16 bits, in units of 256 ns.
        let units = interval.as_nanos().div_ceil(256).min(u128::from(u16::MAX));
        hw.write32(THROTTLE, units as u32);
    }
}
