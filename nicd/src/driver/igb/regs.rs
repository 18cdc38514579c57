//! Registers of the 82576 alone that the driver uses: chapter 8 of its data sheet. The others are in
//! [`crate::driver::intel::regs`].

use crate::driver::intel::regs::registers;
use bitfield_struct::bitfield;

registers! { InterruptControl = 0x1514, MiscVectors = 0x1740, Spreading = 0x5818 }

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

/// IVAR of queues `n` and `n + 8`, §8.8.13: their vectors.
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
    #[bits(5)]
    pub receive_of_8: u8,
    #[bits(2)]
    _3: u8,
    pub receive_of_8_valid: bool,
    #[bits(5)]
    pub transmit_of_8: u8,
    #[bits(2)]
    _4: u8,
    pub transmit_of_8_valid: bool,
}

/// The first of the registers that are [`QueueVectors`].
pub const QUEUE_VECTORS: usize = 0x1700;
/// How many of them there are.
pub const QUEUE_VECTORS_COUNT: usize = 8;

/// MRQC, §8.10.18: which queue a frame goes to. What is hashed by addresses and ports, else by addresses.
#[bitfield(u32)]
pub struct Spreading {
    /// 0: all frames go to queue 0; 2: as the hash says.
    #[bits(3)]
    pub kind: u8,
    #[bits(13)]
    _1: u16,
    pub tcp4: bool,
    pub ipv4: bool,
    /// With extension headers.
    pub tcp6_extended: bool,
    #[bits(1)]
    _2: u8,
    pub ipv6: bool,
    pub tcp6: bool,
    pub udp4: bool,
    pub udp6: bool,
    #[bits(8)]
    _3: u8,
}

/// RETA, §7.1.2.10: the queue of each value of the low seven bits of the hash, four bytes a register.
pub const SPREADING_TABLE: usize = 0x5c00;
/// RSSRK, §7.1.2.10: the key of the hash, four bytes a register.
pub const SPREADING_KEY: usize = 0x5c80;

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

/// SRRCTL, §8.10.2.
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

/// RXDCTL §8.10.7, TXDCTL §8.12.15: whether a queue is on.
#[bitfield(u32)]
pub struct QueueControl {
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

/// From the registers of a queue to those of the next one: §8.10.2 on, §8.12.8 on.
pub const QUEUE_STRIDE: usize = 0x40;
/// [`ReceiveSplit`] of queue 0.
pub const RECEIVE_SPLIT: usize = 0xc00c;
/// [`QueueControl`] of receive queue 0 and of transmit queue 0.
pub const QUEUE_CONTROLS: [usize; 2] = [0xc028, 0xe028];
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
/// A frame found no descriptor: ICR.RXMISS, §8.8.7. It is read, and raises nothing.
pub const CAUSE_OVERRUN: u32 = 1 << 6;
/// The one vector.
pub const VECTOR: u32 = 1;
/// Receive ring of queue 0: base low and high, length, head, tail. §8.10.3 on.
pub const RECEIVE_RING: [usize; 5] = [0xc000, 0xc004, 0xc008, 0xc010, 0xc018];
/// Transmit ring of queue 0, as [`RECEIVE_RING`]. §8.12.8 on.
pub const TRANSMIT_RING: [usize; 5] = [0xe000, 0xe004, 0xe008, 0xe010, 0xe018];
/// RLPML, §8.10.14: the longest frame with its CRC.
pub const LONGEST: usize = 0x5004;
