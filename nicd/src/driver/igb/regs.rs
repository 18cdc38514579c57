//! Registers of the 82576 that the driver uses: chapter 8 of its data sheet.

use crate::driver::hardware::Register;
use bitfield_struct::bitfield;

macro_rules! registers {
    ($($name:ident = $at:literal),* $(,)?) => {
        $(impl Register for $name { const AT: usize = $at; })*
    };
}

registers! {
    Control = 0x0000, Status = 0x0008, ControlExt = 0x0018, Mdi = 0x0020,
    ReceiveControl = 0x0100, TransmitControl = 0x0400, ReceiveChecksum = 0x5000,
    InterruptControl = 0x1514, QueueVectors = 0x1700, MiscVectors = 0x1740,
    ReceiveSplit = 0xc00c, ReceiveQueue = 0xc028, TransmitQueue = 0xe028,
}

/// CTRL, §8.2.1.
#[bitfield(u32)]
pub struct Control {
    pub full_duplex: bool,
    #[bits(1)]
    _1: u8,
    /// No new access to memory; [`Status::master_enabled`] says when the last one has ended.
    pub master_disable: bool,
    #[bits(3)]
    _2: u8,
    pub set_link_up: bool,
    #[bits(4)]
    _3: u8,
    pub force_speed: bool,
    pub force_duplex: bool,
    #[bits(13)]
    _4: u16,
    /// Clears itself.
    pub reset: bool,
    #[bits(3)]
    _5: u8,
    /// VLAN tags are taken out and put in.
    pub vlan_mode: bool,
    pub phy_reset: bool,
}

/// STATUS, §8.2.2.
#[bitfield(u32)]
pub struct Status {
    pub full_duplex: bool,
    pub link_up: bool,
    #[bits(4)]
    _1: u8,
    /// 0: 10, 1: 100, 2: 1000 Mbit/s.
    #[bits(2)]
    pub speed: u8,
    #[bits(11)]
    _2: u16,
    pub master_enabled: bool,
    #[bits(12)]
    _3: u16,
}

/// CTRL_EXT, §8.2.3.
#[bitfield(u32)]
pub struct ControlExt {
    #[bits(28)]
    _1: u32,
    /// A driver has the chip; the management firmware leaves it alone.
    pub driver_loaded: bool,
    #[bits(3)]
    _2: u8,
}

/// MDIC, §8.2.4.
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

/// RCTL, §8.10.1.
#[bitfield(u32)]
pub struct ReceiveControl {
    #[bits(1)]
    _1: u8,
    pub enable: bool,
    #[bits(1)]
    _2: u8,
    pub all_unicast: bool,
    pub all_multicast: bool,
    /// Frames of more than 1522 bytes, up to [`LONGEST`].
    pub long: bool,
    #[bits(9)]
    _3: u16,
    pub broadcast: bool,
    #[bits(10)]
    _4: u16,
    /// Frames come without their CRC.
    pub strip_crc: bool,
    #[bits(5)]
    _5: u8,
}

/// TCTL, §8.12.1.
#[bitfield(u32)]
pub struct TransmitControl {
    #[bits(1)]
    _1: u8,
    pub enable: bool,
    #[bits(1)]
    _2: u8,
    pub pad_short: bool,
    pub collision_threshold: u8,
    #[bits(20)]
    _3: u32,
}

/// RXCSUM, §8.10.13.
#[bitfield(u32)]
pub struct ReceiveChecksum {
    pub start: u8,
    pub ip: bool,
    pub transport: bool,
    #[bits(22)]
    _1: u32,
}

/// GPIE, §8.8.11.
#[bitfield(u32)]
pub struct InterruptControl {
    /// Reading the causes clears them.
    pub clear_on_read: bool,
    #[bits(3)]
    _1: u8,
    /// MSI-X: each vector is a bit of the extended causes.
    pub many_vectors: bool,
    #[bits(26)]
    _2: u32,
    /// The pending bits of MSI-X are cleared as the specification has it.
    pub pba_support: bool,
}

/// IVAR0, §8.8.13: vectors of queue 0.
#[bitfield(u32)]
pub struct QueueVectors {
    #[bits(5)]
    pub receive: u8,
    #[bits(2)]
    _1: u8,
    pub receive_valid: bool,
    #[bits(5)]
    pub transmit: u8,
    #[bits(2)]
    _2: u8,
    pub transmit_valid: bool,
    #[bits(16)]
    _3: u16,
}

/// IVAR_MISC, §8.8.14: vectors of what is no queue's.
#[bitfield(u32)]
pub struct MiscVectors {
    #[bits(8)]
    _1: u8,
    #[bits(5)]
    pub other: u8,
    #[bits(2)]
    _2: u8,
    pub other_valid: bool,
    #[bits(16)]
    _3: u16,
}

/// SRRCTL of queue 0, §8.10.2.
#[bitfield(u32)]
pub struct ReceiveSplit {
    /// Size of a buffer in KiB.
    #[bits(7)]
    pub buffer_kib: u8,
    #[bits(18)]
    _1: u32,
    /// 1: advanced descriptors with one buffer.
    #[bits(3)]
    pub kind: u8,
    #[bits(4)]
    _2: u8,
}

/// RXDCTL of queue 0, §8.10.7.
#[bitfield(u32)]
pub struct ReceiveQueue {
    #[bits(16)]
    _1: u16,
    #[bits(5)]
    pub write_back_threshold: u8,
    #[bits(4)]
    _2: u8,
    /// Reads as it is: off only when every descriptor is forgotten.
    pub enable: bool,
    #[bits(6)]
    _3: u8,
}

/// TXDCTL of queue 0, §8.12.15.
#[bitfield(u32)]
pub struct TransmitQueue {
    #[bits(16)]
    _1: u16,
    #[bits(5)]
    pub write_back_threshold: u8,
    #[bits(4)]
    _2: u8,
    /// As [`ReceiveQueue::enable`].
    pub enable: bool,
    #[bits(6)]
    _3: u8,
}

/// Extended causes, a bit a vector: EICR, §8.8.1; what is written as 1 is cleared.
pub const VECTOR_CAUSES: usize = 0x1580;
/// Their mask: set, §8.8.3.
pub const VECTOR_MASK_SET: usize = 0x1524;
/// Their mask: clear, §8.8.4.
pub const VECTOR_MASK_CLEAR: usize = 0x1528;
/// Which clear themselves, §8.8.5: none.
pub const VECTOR_AUTO_CLEAR: usize = 0x152c;
/// Which mask themselves, §8.8.6: none.
pub const VECTOR_AUTO_MASK: usize = 0x1530;
/// Causes: ICR, §8.8.7.
pub const CAUSES: usize = 0x1500;
/// Their mask: set, §8.8.9.
pub const MASK_SET: usize = 0x1508;
/// Their mask: clear, §8.8.10.
pub const MASK_CLEAR: usize = 0x150c;
/// Throttling of vector 0, §8.8.12.
pub const THROTTLE: usize = 0x1680;
/// The link came or went: ICR.LSC, §8.8.7.
pub const CAUSE_LINK: u32 = 1 << 2;
/// The one vector.
pub const VECTOR: u32 = 1;
/// Receive ring of queue 0: base low and high, length, head, tail. §8.10.3 on.
pub const RECEIVE_RING: [usize; 5] = [0xc000, 0xc004, 0xc008, 0xc010, 0xc018];
/// Transmit ring of queue 0, as [`RECEIVE_RING`]. §8.12.8 on.
pub const TRANSMIT_RING: [usize; 5] = [0xe000, 0xe004, 0xe008, 0xe010, 0xe018];
/// RLPML, §8.10.14: the longest frame with its CRC.
pub const LONGEST: usize = 0x5004;
/// Which queue a frame goes to: MRQC, §8.10.18. 0: the first.
pub const QUEUES: usize = 0x5818;
/// Multicast table, §8.10.15, and its words.
pub const MULTICAST: usize = 0x5200;
/// As [`MULTICAST`].
pub const MULTICAST_WORDS: usize = 128;
/// Receive address low of entry 0, §8.10.16; high is behind it, then entry 1.
pub const ADDRESS: usize = 0x5400;
/// Entries of the address table in one piece.
pub const ADDRESSES: usize = 16;
/// An entry counts: RAH, §8.10.17.
pub const ADDRESS_VALID: u32 = 1 << 31;
