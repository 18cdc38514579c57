//! What is done with the registers that the Intel chips have alike: the reset, the link, addresses, filters.
//!
//! Called by each chip's `device`, which does the rest. Sections are those of the 82574's and the 82576's
//! data sheets.

use super::Setup;
use super::regs::{
    ADDRESS, ADDRESS_VALID, ADDRESSES, Control, MULTICAST, MULTICAST_WORDS, Mdi, ReceiveControl, Status,
    TransmitControl,
};
use crate::driver::hardware::{GONE, Hardware, gone, stuck};
use crate::filter::AddressFilter;
use crate::nic::HEADER_MAX;
use core::time::Duration;
use proto::control::notices::Mac;
use std::io;

/// 82574 §4.6.1: a reset takes microseconds; 82576 §4.3.1: milliseconds. Who takes longer than this does not
/// come back.
const RESET_STEP: Duration = Duration::from_millis(1);
const RESET_STEPS: u32 = 100;
/// 82574 §3.1.3.10, 82576 §5.2.3.3: outstanding requests end in far less.
const MASTER_STEP: Duration = Duration::from_micros(100);
const MASTER_STEPS: u32 = 800;
/// 82574 §9.2, 82576 §8.25: the PHY's own address on the management bus, its control register, and
/// "negotiate anew".
const PHY: u8 = 1;
const PHY_CONTROL: u8 = 0;
const NEGOTIATE: u16 = 0x1200;
/// 82574 §9.1, 82576 §8.2.4: an access to the PHY takes 64 µs.
const PHY_STEP: Duration = Duration::from_micros(50);
const PHY_STEPS: u32 = 100;
/// Bytes of the CRC: IEEE 802.3 clause 3.2.9.
const CRC: usize = 4;
/// Frames of up to this many bytes are not long ones to the chip: RCTL.LPE, 82574 §10.2.5.1, 82576 §8.10.1.
const SHORT_MAX: usize = 1522;

/// A status register that a chip which is gone can't answer.
///
/// # Errors
/// When it reads as all ones.
pub fn present(status: u32) -> io::Result<u32> {
    if status == GONE { Err(gone("its status")) } else { Ok(status) }
}

/// The chip answers still. A read comes back behind the writes before it.
///
/// # Errors
/// When it is gone.
pub fn answers<H: Hardware>(hw: &H) -> io::Result<Status> {
    present(hw.get::<Status>().into()).map(Status::from)
}

/// The longest frame that comes, with its CRC, in bytes.
pub fn longest(setup: &Setup) -> usize {
    setup.mtu + HEADER_MAX + CRC
}

/// Neither receives nor sends any more.
pub fn hush<H: Hardware>(hw: &H) {
    hw.set(ReceiveControl::new());
    hw.set(TransmitControl::new().with_pad_short(true));
}

/// 82574 §4.6.1 and §4.6.2, 82576 §4.3.1: no access to memory, then the reset itself. Interrupts are masked
/// before, by the chip's own way to do it, and again after.
///
/// # Errors
/// When the chip does not answer, or its reset does not end.
pub fn stop<H: Hardware>(hw: &H) -> io::Result<()> {
    hush(hw);
    answers(hw)?;
    hw.set(hw.get::<Control>().with_master_disable(true));
    // Memory is safe by `Hardware::quiesce`; this is for the chip's own sake, and its limit no error.
    hw.wait_until(MASTER_STEP, MASTER_STEPS, |hw| !hw.get::<Status>().master_enabled());
    hw.set(hw.get::<Control>().with_reset(true));
    hw.pause(RESET_STEP);
    if !hw.wait_until(RESET_STEP, RESET_STEPS, |hw| !hw.get::<Control>().reset()) {
        answers(hw)?;
        return Err(stuck("its reset does not end"));
    }
    answers(hw).map(drop)
}

/// 82574 §4.6.3, 82576 §4.5.7: what the PHY negotiates is the link; where it has not done so by itself, it is
/// told to.
pub fn raise_link<H: Hardware>(hw: &H, control: Control) {
    let control = control.with_force_speed(false).with_force_duplex(false);
    hw.set(control.with_master_disable(false).with_set_link_up(true));
    if !hw.get::<Status>().link_up() {
        hw.set(Mdi::new().with_operation(1).with_phy(PHY).with_register(PHY_CONTROL).with_value(NEGOTIATE));
        hw.wait_until(PHY_STEP, PHY_STEPS, |hw| hw.get::<Mdi>().ready());
    }
}

/// One address of its own, and no group's.
pub fn program_addresses<H: Hardware>(hw: &H, mac: &Mac) {
    let [a, b, c, d, e, f] = *mac;
    for entry in 0..ADDRESSES {
        let (low, high) = match entry {
            0 => (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, 0, 0]) | ADDRESS_VALID),
            _ => (0, 0),
        };
        // 82574 §10.2.5.18, 82576 §8.10.17: an entry that is being changed does not count.
        hw.write32(ADDRESS + entry * 8 + 4, 0);
        hw.write32(ADDRESS + entry * 8, low);
        hw.write32(ADDRESS + entry * 8 + 4, high);
    }
    (0..MULTICAST_WORDS).for_each(|word| hw.write32(MULTICAST + word * 4, 0));
}

/// The multicast table: a bit for each value of the upper 12 bits of an address (82574 §10.2.5.16, 82576
/// §8.10.15).
fn group_table(filter: &AddressFilter) -> [u32; MULTICAST_WORDS] {
    let mut table = [0; MULTICAST_WORDS];
    for mac in filter.groups().unwrap_or_default() {
        let bit = usize::from(mac[4]) >> 4 | usize::from(mac[5]) << 4;
        table[bit >> 5] |= 1 << (bit & 31);
    }
    table
}

/// Receiving is on; without a filter, all groups' frames come.
pub fn listen<H: Hardware>(hw: &H, filter: Option<&AddressFilter>, setup: &Setup) {
    if let Some(filter) = filter {
        for (word, bits) in group_table(filter).into_iter().enumerate() {
            hw.write32(MULTICAST + word * 4, bits);
        }
    }
    hw.set(
        ReceiveControl::new()
            .with_enable(true)
            .with_broadcast(true)
            .with_strip_crc(true)
            .with_long(longest(setup) > SHORT_MAX)
            .with_all_unicast(filter.is_some_and(AddressFilter::promiscuous))
            .with_all_multicast(
                filter.is_none_or(|filter| filter.promiscuous() || filter.groups().is_none()),
            ),
    );
}

/// A ring's registers: base low and high, length, head and tail.
pub fn program_ring<H: Hardware>(hw: &H, [low, high, len, head, tail]: [usize; 5], ring: super::RingPlace) {
    hw.write32(low, ring.iova as u32);
    hw.write32(high, (ring.iova >> 32) as u32);
    hw.write32(len, ring.bytes as u32);
    hw.write32(head, 0);
    hw.write32(tail, 0);
}
