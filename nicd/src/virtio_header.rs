//! The header before each frame of a TAP: struct virtio_net_hdr_mrg_rxbuf, VIRTIO 1.2 §5.1.6. Before those of a packet
//! socket stands the same without its last field.
//!
//! ```text
//! byte 0      1         2        4         6           8            10           12
//!      ┌──────┬─────────┬────────┬─────────┬───────────┬────────────┬────────────┐
//!      │flags │gso_type │hdr_len │gso_size │csum_start │csum_offset │num_buffers │
//!      └──────┴─────────┴────────┴─────────┴───────────┴────────────┴────────────┘
//! ```

use crate::nic::{Frame, Slab};
use proto::nic::descriptor::{Descriptor, flag};
use proto::shm::Memory;

/// Its size in bytes, as set by TUNSETVNETHDRSZ.
pub const VIRTIO_HEADER_SIZE: usize = 12;
/// Without the number of buffers: struct virtio_net_hdr of linux/virtio_net.h, as PACKET_VNET_HDR has it.
pub(crate) const SHORT_SIZE: usize = 10;

// VIRTIO 1.2 §5.1.6.
const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
/// A bit beside the type: the segments carry ECN.
const GSO_ECN: u8 = 0x80;

/// Where the checksum lies in a TCP header: RFC 9293 §3.1.
const TCP_CHECKSUM_AT: u16 = 16;
/// Where the checksum lies in a UDP header: RFC 768.
const UDP_CHECKSUM_AT: u16 = 6;

/// Where the headers of a TCP super-frame end; 0 when it is none. RFC 9293 §3.1: the data offset stands in
/// the upper half of byte 12.
fn headers_end<M: Memory>(slab: &Slab<M>, first: &Descriptor) -> u16 {
    const DATA_OFFSET_AT: u32 = 12;
    let at = u32::from(first.csum_start) + DATA_OFFSET_AT;
    if first.gso_size == 0 || at >= first.len {
        return 0;
    }
    let mut byte = [0];
    slab.memory.read(slab.piece(first).0 + at as usize, &mut byte);
    first.csum_start.saturating_add(u16::from(byte[0] >> 4) * 4)
}

/// The header for a frame to send.
///
/// # Panics
/// When it is empty: the datapath sends frames of some length.
pub(crate) fn of_frame<M: Memory>(slab: &Slab<M>, frame: &Frame) -> [u8; VIRTIO_HEADER_SIZE] {
    let first = frame.first().expect("the datapath sends frames of some length");
    encode(first, headers_end(slab, first))
}

/// The header for a frame whose first descriptor this is; a super-frame's headers end at `headers_end`,
/// which is a hint.
fn encode(first: &Descriptor, headers_end: u16) -> [u8; VIRTIO_HEADER_SIZE] {
    let has = |bit: u16| first.flags & bit != 0;
    let mut head = [0; VIRTIO_HEADER_SIZE];
    let mut half = |at: usize, value: u16| head[at..at + 2].copy_from_slice(&value.to_ne_bytes());
    if has(flag::CSUM_PARTIAL) {
        half(6, first.csum_start);
        half(8, if has(flag::UDP) { UDP_CHECKSUM_AT } else { TCP_CHECKSUM_AT });
    }
    if has(flag::GSO_TCP4 | flag::GSO_TCP6) {
        half(2, headers_end);
        half(4, first.gso_size);
    }
    head[0] = if has(flag::CSUM_PARTIAL) { NEEDS_CSUM } else { 0 };
    head[1] = match (has(flag::GSO_TCP4), has(flag::GSO_TCP6)) {
        (true, _) => GSO_TCPV4,
        (false, true) => GSO_TCPV6,
        (false, false) => GSO_NONE,
    };
    head
}

/// Sets the marks of a received frame of `len` bytes; false when the header makes no sense. The number of buffers
/// says nothing here.
///
/// # Panics
/// When the header is shorter than [`SHORT_SIZE`].
pub(crate) fn decode(head: &[u8], len: usize, first: &mut Descriptor) -> bool {
    let half = |at: usize| u16::from_ne_bytes([head[at], head[at + 1]]);
    if head[0] & NEEDS_CSUM != 0 {
        let (udp, size) = match half(8) {
            TCP_CHECKSUM_AT => (0, 18),
            UDP_CHECKSUM_AT => (flag::UDP, 8),
            _ => return false,
        };
        if usize::from(half(6)) + size > len {
            return false;
        }
        first.flags |= flag::CSUM_PARTIAL | udp;
        first.csum_start = half(6);
    } else if head[0] & DATA_VALID != 0 {
        first.flags |= flag::CSUM_VALID;
    }
    first.flags |= match head[1] & !GSO_ECN {
        GSO_NONE => return true,
        GSO_TCPV4 => flag::GSO_TCP4,
        GSO_TCPV6 => flag::GSO_TCP6,
        _ => return false,
    };
    first.gso_size = half(4);
    first.gso_size != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::nic::slab::PageIndex;

    #[test]
    fn marks_go_both_ways() {
        let plain = Descriptor::plain(PageIndex(3), 0, 2000);
        let partial = Descriptor { flags: flag::CSUM_PARTIAL | flag::UDP, csum_start: 34, ..plain };
        let gso = Descriptor {
            flags: flag::CSUM_PARTIAL | flag::GSO_TCP6,
            csum_start: 54,
            gso_size: 1400,
            ..plain
        };
        for sent in [plain, partial, gso] {
            let mut received = plain;
            assert!(decode(&encode(&sent, 86), 2000, &mut received));
            assert_eq!(received, sent);
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let plain = Descriptor::plain(PageIndex(3), 0, 60);
        let with = |changes: &[(usize, u8)]| {
            let mut head = [0; VIRTIO_HEADER_SIZE];
            changes.iter().for_each(|&(at, value)| head[at] = value);
            decode(&head, 60, &mut plain.clone())
        };
        assert!(with(&[]) && with(&[(0, DATA_VALID)]));
        assert!(with(&[(0, NEEDS_CSUM), (6, 42), (8, 16)]));
        assert!(!with(&[(0, NEEDS_CSUM), (6, 43), (8, 16)]), "beyond the frame");
        assert!(!with(&[(0, NEEDS_CSUM), (6, 34), (8, 8)]), "a checksum of another protocol");
        assert!(!with(&[(1, GSO_TCPV4)]), "segments of no size");
        assert!(!with(&[(1, 3), (4, 100)]), "a type we never asked for");
    }
}
