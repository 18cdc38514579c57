//! Registers of the 82574L that the driver uses: chapter 10 of its data sheet.

use crate::driver::hardware::Register;
use bitfield_struct::bitfield;

macro_rules! registers {
    ($($name:ident = $at:literal),* $(,)?) => {
        $(impl Register for $name { const AT: usize = $at; })*
    };
}

registers! {
    Control = 0x0000, Status = 0x0008, ControlExt = 0x0018, Mdi = 0x0020, NvmRead = 0x0014,
    ReceiveControl = 0x0100, TransmitControl = 0x0400, InterPacketGap = 0x0410, Vectors = 0x00e4,
    TransmitDescriptorControl = 0x3828, ReceiveChecksum = 0x5000,
}

/// CTRL, §10.2.2.1.
#[bitfield(u32)]
pub struct Control {
    pub full_duplex: bool,
    #[bits(1)]
    _1: u8,
    /// No new access to memory; [`Status::master_enabled`] says when the last one has ended.
    pub master_disable: bool,
    #[bits(2)]
    _2: u8,
    /// Speed as the PHY found it.
    pub auto_speed: bool,
    pub set_link_up: bool,
    #[bits(4)]
    _3: u8,
    pub force_speed: bool,
    pub force_duplex: bool,
    #[bits(13)]
    _4: u16,
    /// Clears itself.
    pub reset: bool,
    pub receive_flow_control: bool,
    pub transmit_flow_control: bool,
    #[bits(1)]
    _5: u8,
    /// VLAN tags are taken out and put in.
    pub vlan_mode: bool,
    pub phy_reset: bool,
}

/// STATUS, §10.2.2.2.
#[bitfield(u32)]
pub struct Status {
    pub full_duplex: bool,
    pub link_up: bool,
    #[bits(4)]
    _1: u8,
    /// 0: 10, 1: 100, 2 and 3: 1000 Mbit/s.
    #[bits(2)]
    pub speed: u8,
    #[bits(11)]
    _2: u16,
    pub master_enabled: bool,
    #[bits(12)]
    _3: u16,
}

/// CTRL_EXT, §10.2.2.5.
#[bitfield(u32)]
pub struct ControlExt {
    #[bits(28)]
    _1: u32,
    /// A driver has the chip; the management firmware leaves it alone.
    pub driver_loaded: bool,
    #[bits(2)]
    _2: u8,
    /// The pending bits of MSI-X are cleared as the specification has it.
    pub pba_support: bool,
}

/// MDIC, §10.2.2.7.
#[bitfield(u32)]
pub struct Mdi {
    pub value: u16,
    #[bits(5)]
    pub register: u8,
    #[bits(5)]
    pub phy: u8,
    /// 1 writes, 2 reads.
    #[bits(2)]
    pub operation: u8,
    pub ready: bool,
    pub interrupt: bool,
    pub error: bool,
    #[bits(1)]
    _1: u8,
}

/// EERD, §10.2.2.4.
#[bitfield(u32)]
pub struct NvmRead {
    pub start: bool,
    pub done: bool,
    #[bits(14)]
    pub word: u16,
    pub value: u16,
}

/// RCTL, §10.2.5.1. Buffers are 2048 bytes when all of its size fields are 0.
#[bitfield(u32)]
pub struct ReceiveControl {
    #[bits(1)]
    _1: u8,
    pub enable: bool,
    #[bits(1)]
    _2: u8,
    pub all_unicast: bool,
    pub all_multicast: bool,
    /// Frames of more than 1522 bytes.
    pub long: bool,
    #[bits(9)]
    _3: u16,
    pub broadcast: bool,
    #[bits(2)]
    pub buffer_size: u8,
    pub vlan_filter: bool,
    #[bits(4)]
    _4: u8,
    /// Flow control frames end here.
    pub pass_mac_control: bool,
    #[bits(1)]
    _5: u8,
    pub buffer_size_extension: bool,
    /// Frames come without their CRC.
    pub strip_crc: bool,
    #[bits(5)]
    _6: u8,
}

/// TCTL, §10.2.6.1.
#[bitfield(u32)]
pub struct TransmitControl {
    #[bits(1)]
    _1: u8,
    pub enable: bool,
    #[bits(1)]
    _2: u8,
    pub pad_short: bool,
    pub collision_threshold: u8,
    #[bits(10)]
    pub collision_distance: u16,
    #[bits(6)]
    _3: u8,
    pub multiple_requests: bool,
    #[bits(3)]
    _4: u8,
}

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

/// RXCSUM, §10.2.5.15.
#[bitfield(u32)]
pub struct ReceiveChecksum {
    pub start: u8,
    pub ip: bool,
    pub transport: bool,
    #[bits(22)]
    _1: u32,
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
/// Multicast table, §10.2.5.16, and its words.
pub const MULTICAST: usize = 0x5200;
/// As [`MULTICAST`].
pub const MULTICAST_WORDS: usize = 128;
/// Receive address low of entry 0, §10.2.5.17; high is behind it, then entry 1.
pub const ADDRESS: usize = 0x5400;
/// Entries of the address table.
pub const ADDRESSES: usize = 16;
/// An entry counts: RAH, §10.2.5.18.
pub const ADDRESS_VALID: u32 = 1 << 31;
/// VLAN filter table, §10.2.5.19, 128 words.
pub const VLANS: usize = 0x5600;
/// As [`VLANS`].
pub const VLAN_WORDS: usize = 128;
