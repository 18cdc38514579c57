//! What a device takes over on the way out, and what is done in software instead.
//!
//! A device that cuts super-frames gets them whole, with one header; for others the same long segment is
//! cut here, after TCP has decided on it once. Which it is depends on the device's features and on the
//! frame pages at hand, and may change from one segment to the next: TCP's state is in bytes and does not
//! know how they travelled.

use crate::tcp::segment::SegmentOut;
use crate::wire::checksum::Sum;
use crate::wire::ipv6::HEADER_LEN as IPV6_LEN;
use crate::wire::tcp::HEADER_LEN_MAX;
use crate::wire::unchecked::Checksum;
use proto::control::notices::feature;
use proto::nic::packet_buf::{Csum, Marks};

/// The most payload of a super-frame: an IPv4 packet has at most 65535 bytes (RFC 791 §3.1), and a device
/// is told of one of IPv6 by the same sixteen bits.
const GSO_MAX: u32 = (u16::MAX as usize - IPV6_LEN - HEADER_LEN_MAX) as u32;
/// Large pages that transmission leaves for what is received; with fewer no super-frame is built.
const LARGE_RESERVE: usize = 80;
/// What options that come and go take off a segment at most (RFC 9293 §3.1).
const OPTIONS_MAX: u32 = 40;

/// What a device does for one segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Offload {
    /// It fills in transport checksums.
    pub checksum: bool,
    /// It cuts TCP super-frames of this packet's family.
    tso: bool,
}

impl Offload {
    /// It does nothing.
    pub const NONE: Offload = Offload { checksum: false, tso: false };

    /// With these features (bits of [`feature`]) and so many free large pages, for a packet of IPv6 or IPv4.
    pub fn of(features: u32, free_large: usize, v6: bool) -> Offload {
        let checksum = features & feature::TX_CHECKSUM != 0;
        let cuts = features & if v6 { feature::TSO6 } else { feature::TSO4 } != 0;
        Offload { checksum, tso: checksum && cuts && free_large > LARGE_RESERVE }
    }

    /// The most payload that TCP may put into one segment when there is room for `frames` frames.
    pub fn gso_max(self, mss: u32, frames: usize) -> u32 {
        if self.tso {
            return GSO_MAX;
        }
        let frames = u32::try_from(frames).unwrap_or(u32::MAX);
        mss.saturating_sub(OPTIONS_MAX).saturating_mul(frames).min(GSO_MAX)
    }

    /// Whether the segment leaves as one frame. The urgent pointer is not a device's to adjust.
    pub fn leaves_whole(self, segment: &SegmentOut) -> bool {
        segment.pieces() == 1 || (self.tso && !segment.flags.urg())
    }

    /// What goes into the checksum field of a packet without payload.
    pub fn without_payload(self) -> Checksum {
        if self.checksum { Checksum::Device } else { Checksum::Full(Sum::EMPTY) }
    }

    /// The marks of a packet that begins with a transport header with this checksum field.
    pub fn marks(self, checksum: Checksum, udp: bool) -> Marks {
        let csum = match checksum {
            Checksum::Device => Csum::Partial { start: 0, udp },
            Checksum::Full(_) => Csum::Unknown,
        };
        Marks { csum, ..Marks::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn super_frames_need_a_device_and_pages() {
        let all = feature::TX_CHECKSUM | feature::TSO4;
        assert_eq!(Offload::of(all, 1000, false).gso_max(1448, 1), GSO_MAX);
        assert_eq!(Offload::of(all, 1000, true).gso_max(1448, 1), 1408, "the other family's");
        let alone = Offload::of(feature::TSO4, 1000, false);
        assert_eq!(alone.gso_max(1448, 1), 1408, "no cutting without checksums");
        assert_eq!(Offload::of(all, LARGE_RESERVE, false).gso_max(1448, 3), 3 * 1408);
        assert_eq!(Offload::of(0, 0, false).gso_max(1448, 1_000), GSO_MAX);
    }
}
