//! Registers that the Intel chips here have alike: where they are, and what is in them.
//!
//! Sections are those of the 82574's and the 82576's data sheets; bits that one chip alone knows say so.

use bitfield_struct::bitfield;

/// Gives register types their places.
macro_rules! registers {
    ($($name:ident = $at:literal),* $(,)?) => {
        $(impl $crate::driver::hardware::Register for $name { const AT: usize = $at; })*
    };
}
pub(crate) use registers;

registers! {
    Control = 0x0000, Status = 0x0008, ControlExt = 0x0018, Mdi = 0x0020, ReceiveControl = 0x0100,
    TransmitControl = 0x0400, ReceiveChecksum = 0x5000,
}

/// CTRL: 82574 §10.2.2.1, 82576 §8.2.1. `auto_speed` is the 82574's alone.
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

/// STATUS: 82574 §10.2.2.2, 82576 §8.2.2.
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

/// CTRL_EXT: 82574 §10.2.2.5, 82576 §8.2.3. `pba_support` is the 82574's alone.
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

/// MDIC: 82574 §10.2.2.7, 82576 §8.2.4.
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

/// RCTL: 82574 §10.2.5.1, 82576 §8.10.1. Buffers of the 82574 are 2048 bytes when all of its size fields are
/// 0; the 82576 has a register for them.
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

/// TCTL: 82574 §10.2.6.1, 82576 §8.12.1. `collision_distance` and `multiple_requests` are the 82574's alone.
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

/// RXCSUM: 82574 §10.2.5.15, 82576 §8.10.13.
#[bitfield(u32)]
pub struct ReceiveChecksum {
    pub start: u8,
    pub ip: bool,
    pub transport: bool,
    #[bits(3)]
    _1: u8,
    /// Descriptors have the hash of the frame, in place of a sum over all of it.
    pub hash_in_descriptor: bool,
    #[bits(18)]
    _2: u32,
}

/// Multicast table, 82574 §10.2.5.16, 82576 §8.10.15.
pub const MULTICAST: usize = 0x5200;
/// Words of the multicast table.
pub const MULTICAST_WORDS: usize = 128;
/// Receive address low of entry 0, 82574 §10.2.5.17, 82576 §8.10.16; high is behind it, then entry 1.
pub const ADDRESS: usize = 0x5400;
/// Entries of the address table in one piece.
pub const ADDRESSES: usize = 16;
/// An entry counts: RAH, 82574 §10.2.5.18, 82576 §8.10.17.
pub const ADDRESS_VALID: u32 = 1 << 31;
