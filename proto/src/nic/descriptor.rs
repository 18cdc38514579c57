//! A reference to (a part of) a frame: what the four rings carry.
//!
//! ```text
//! byte 0      4      8        10      12          14          16
//!      ┌──────┬──────┬────────┬───────┬───────────┬───────────┐
//!      │ page │ len  │ offset │ flags │ csum_start│ gso_size  │
//!      └──────┴──────┴────────┴───────┴───────────┴───────────┘
//! ```

use super::slab::{PageIndex, SlabGeometry};
use crate::error::PeerCorrupt;

/// Size of a descriptor in bytes: one ring slot.
pub const DESCRIPTOR_SIZE: usize = 16;

/// Bits of [`Descriptor::flags`]. All but the first are valid on a frame's first descriptor.
pub mod flag {
    /// The frame goes on in the next descriptor.
    pub const MORE: u16 = 1;
    /// The transport checksum was verified by the device (receive).
    pub const CSUM_VALID: u16 = 1 << 1;
    /// The device is to fill in (transmit), or left out (receive), the transport checksum: sum
    /// from `csum_start` on, at the offset of the protocol (TCP 16, UDP 6), pseudo header included.
    pub const CSUM_PARTIAL: u16 = 1 << 2;
    /// The checksum of `CSUM_PARTIAL` belongs to UDP, not TCP.
    pub const UDP: u16 = 1 << 3;
    /// A super-frame of IPv4 TCP, to be cut (or merged from) segments of `gso_size` payload bytes.
    pub const GSO_TCP4: u16 = 1 << 4;
    /// A super-frame of IPv6 TCP.
    pub const GSO_TCP6: u16 = 1 << 5;
    /// Every shard got this frame, and another one answers it if it wants an answer (receive).
    pub const ELSEWHERE: u16 = 1 << 6;
}

/// One descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor {
    /// The page.
    pub page: PageIndex,
    /// Bytes used in it; on the fill ring 0.
    pub len: u32,
    /// Where they start in it.
    pub offset: u16,
    /// See [`flag`].
    pub flags: u16,
    /// Where the transport header starts, counted from the frame's start.
    pub csum_start: u16,
    /// Payload bytes of each segment of a super-frame.
    pub gso_size: u16,
}

impl Descriptor {
    /// A descriptor without offload marks.
    #[inline]
    pub const fn plain(page: PageIndex, offset: u16, len: u32) -> Self {
        Descriptor { page, len, offset, flags: 0, csum_start: 0, gso_size: 0 }
    }

    /// To the bytes of a slot.
    #[inline]
    pub fn to_slot(self) -> [u8; DESCRIPTOR_SIZE] {
        let mut slot = [0; DESCRIPTOR_SIZE];
        slot[0..4].copy_from_slice(&self.page.0.to_ne_bytes());
        slot[4..8].copy_from_slice(&self.len.to_ne_bytes());
        for (at, half) in [(8, self.offset), (10, self.flags), (12, self.csum_start), (14, self.gso_size)] {
            slot[at..at + 2].copy_from_slice(&half.to_ne_bytes());
        }
        slot
    }

    /// From the bytes of a slot: inside a page of the slab, or an error.
    ///
    /// # Errors
    /// [`PeerCorrupt`] when the page does not exist or the bytes do not lie inside it.
    #[inline]
    pub fn from_slot(slot: &[u8; DESCRIPTOR_SIZE], slab: &SlabGeometry) -> Result<Self, PeerCorrupt> {
        let word = |at: usize| u32::from_ne_bytes([slot[at], slot[at + 1], slot[at + 2], slot[at + 3]]);
        let half = |at: usize| u16::from_ne_bytes([slot[at], slot[at + 1]]);
        let descriptor = Descriptor {
            page: PageIndex(word(0)),
            len: word(4),
            offset: half(8),
            flags: half(10),
            csum_start: half(12),
            gso_size: half(14),
        };
        let size = slab.page_size(descriptor.page).ok_or(PeerCorrupt::new("no such frame page"))?;
        let end = u64::from(descriptor.offset) + u64::from(descriptor.len);
        if end > size as u64 {
            return Err(PeerCorrupt::new("frame outside its page"));
        }
        Ok(descriptor)
    }
}
