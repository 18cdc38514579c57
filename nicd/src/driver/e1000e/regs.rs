//! Registers of the 82574L alone that the driver uses: chapter 10 of its data sheet. The others are in
//! [`crate::driver::intel::regs`].

use crate::driver::intel::regs::registers;
use bitfield_struct::bitfield;

registers! { InterPacketGap = 0x0410, Vectors = 0x00e4, TransmitDescriptorControl = 0x3828 }

/// TIPG, §10.2.6.2.
#[bitfield(u32)]
pub struct InterPacketGap {
    #[bits(10)]
    pub back_to_back: u16,
    #[bits(10)]
    pub first: u16,
    #[bits(10)]
    pub second: u16,
    #[bits(2)]
    _1: u8,
}

/// IVAR, §10.2.4.9: which MSI-X vector a cause has.
#[bitfield(u32)]
pub struct Vectors {
    #[bits(3)]
    pub receive: u8,
    pub receive_valid: bool,
    #[bits(4)]
    _1: u8,
    #[bits(3)]
    pub transmit: u8,
    pub transmit_valid: bool,
    #[bits(4)]
    _2: u8,
    #[bits(3)]
    pub other: u8,
    pub other_valid: bool,
    #[bits(12)]
    _3: u16,
}

/// TXDCTL, §10.2.6.9.
#[bitfield(u32)]
pub struct TransmitDescriptorControl {
    #[bits(16)]
    _1: u16,
    #[bits(6)]
    pub write_back_threshold: u8,
    /// §10.2.6.9: "reserved, must be set".
    pub one: bool,
    #[bits(1)]
    _2: u8,
    /// Thresholds count descriptors, not cache lines.
    pub in_descriptors: bool,
    #[bits(7)]
    _3: u8,
}

/// Causes of interrupts: ICR, IMS and IMC, §10.2.4.1.
#[bitfield(u32)]
pub struct Cause {
    pub transmitted: bool,
    pub transmit_empty: bool,
    pub link: bool,
    #[bits(1)]
    _1: u8,
    pub receive_low: bool,
    #[bits(1)]
    _2: u8,
    pub receive_overrun: bool,
    pub received: bool,
    #[bits(12)]
    _3: u16,
    /// As `received`, with MSI-X.
    pub receive_queue: bool,
    #[bits(1)]
    _4: u8,
    /// As `transmitted`, with MSI-X.
    pub transmit_queue: bool,
    #[bits(1)]
    _5: u8,
    /// With MSI-X: whatever is no queue's.
    pub other: bool,
    #[bits(7)]
    _6: u8,
}

/// Interrupt cause read, §10.2.4.1: what is written as 1 is cleared.
pub const CAUSE_READ: usize = 0x00c0;
/// Interrupt throttling, §10.2.4.2 and §10.2.4.3 of vector 0, in units of 256 ns.
pub const THROTTLE: usize = 0x00e8;
/// Interrupt mask set, §10.2.4.5.
pub const MASK_SET: usize = 0x00d0;
/// Interrupt mask clear, §10.2.4.6.
pub const MASK_CLEAR: usize = 0x00d8;
/// Causes that clear themselves, §10.2.4.7: none.
pub const AUTO_CLEAR: usize = 0x00dc;
/// Receive ring: base low and high, length, head, tail. §10.2.5.5 on.
pub const RECEIVE_RING: [usize; 5] = [0x2800, 0x2804, 0x2808, 0x2810, 0x2818];
/// Receive delay timers, §10.2.5.11 and §10.2.5.13.
pub const RECEIVE_DELAYS: [usize; 2] = [0x2820, 0x282c];
/// Transmit ring, as [`RECEIVE_RING`]. §10.2.6.4 on.
pub const TRANSMIT_RING: [usize; 5] = [0x3800, 0x3804, 0x3808, 0x3810, 0x3818];
/// Transmit delay timers, §10.2.6.10 and §10.2.6.12.
pub const TRANSMIT_DELAYS: [usize; 2] = [0x3820, 0x382c];
/// VLAN filter table, §10.2.5.19, 128 words.
pub const VLANS: usize = 0x5600;
/// As [`VLANS`].
pub const VLAN_WORDS: usize = 128;
