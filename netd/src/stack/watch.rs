//! INV-T8: what the stack is about to work on, told to somebody who writes it down.
//!
//! The digest of a frame is made of what a retransmission has again: its flow, its sequence number
//! and flags; the flow's digest of its ends alone. Nothing here decides; the watch does.

use crate::wire::ethernet::HEADER_LEN as LINK_LEN;
use proto::recorder::{Crumb, Work};

/// The flag bit that says nothing of what a segment is (RFC 9293 §3.1).
const PSH: u8 = 8;

/// Somebody who keeps a breadcrumb, and knows what has killed the daemon before.
pub trait Watch {
    /// This comes next; `false` when it is poison and must be dropped.
    fn begin(&mut self, crumb: &Crumb) -> bool;
    /// It is done.
    fn end(&mut self);
}

impl core::fmt::Debug for dyn Watch {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Watch")
    }
}

/// A digest of parts of fixed lengths. It need not resist anybody: who can name a flow in a frame can write
/// that flow into it as well.
fn digest(parts: &[&[u8]]) -> u64 {
    let mut hash = 0x243f_6a88_85a3_08d3;
    for part in parts {
        let (words, tail) = part.as_chunks::<8>();
        for word in words {
            hash = mix(hash, u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..tail.len()].copy_from_slice(tail);
        hash = mix(hash, u64::from_le_bytes(last) ^ part.len() as u64);
    }
    hash
}

/// A multiplication, both halves of it folded.
const fn mix(hash: u64, word: u64) -> u64 {
    let wide = (hash ^ word) as u128 * 0x9e37_79b9_7f4a_7c15;
    (wide as u64 ^ (wide >> 64) as u64).wrapping_add(0x1319_8a2e_0370_7344)
}

/// The crumb of a frame, of whose head as many bytes are at hand as `head` has.
pub(super) fn frame_crumb(head: &[u8]) -> Crumb {
    let ip = head.get(LINK_LEN..).unwrap_or(&[]);
    let header_len = ip.first().map_or(0, |first| usize::from(first & 15) * 4);
    let is_ipv4 = head.get(12..14) == Some(&[8, 0]) && header_len >= 20;
    let transport = ip.get(header_len..).unwrap_or(&[]);
    let flow = match (is_ipv4, ip.get(9..10), ip.get(12..20)) {
        (true, Some(protocol), Some(addresses)) => {
            digest(&[protocol, addresses, transport.get(..4).unwrap_or(transport)])
        }
        // What has no flow is known by its sender.
        _ => digest(&[head.get(6..14).unwrap_or(head)]),
    };
    // Sequence number and flags of TCP, length and first bytes of the others; neither checksum nor
    // acknowledgement nor PSH, which differ when the same data comes again, perhaps joined otherwise.
    let piece = match (is_ipv4, ip.get(9)) {
        (true, Some(6)) => {
            let flags = transport.get(13).map_or(0, |flags| flags & !PSH);
            digest(&[transport.get(4..8).unwrap_or(&[]), &[flags]])
        }
        (true, _) => digest(&[transport.get(..6).unwrap_or(transport), transport.get(8..).unwrap_or(&[])]),
        (false, _) => digest(&[head]),
    };
    Crumb { work: Work::Frame, piece: piece ^ flow, flow }
}

/// The crumb of a command, a timer or a record, by what names it.
pub(super) fn crumb(work: Work, name: &[u8]) -> Crumb {
    Crumb { work, piece: digest(&[name]), flow: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(seq: u8, ack: u8, ident: u8) -> Vec<u8> {
        let mut frame = vec![0; LINK_LEN + 40];
        frame[12] = 8;
        frame[14] = 0x45;
        frame[14 + 5] = ident;
        frame[14 + 9] = 6;
        frame[14 + 12..14 + 20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        frame[34 + 7] = seq;
        frame[34 + 11] = ack;
        frame
    }

    #[test]
    fn a_retransmission_has_the_same_digest() {
        assert_eq!(frame_crumb(&segment(1, 2, 3)), frame_crumb(&segment(1, 9, 8)));
        let (one, other) = (frame_crumb(&segment(1, 2, 3)), frame_crumb(&segment(2, 2, 3)));
        assert_ne!(one.piece, other.piece);
        assert_eq!(one.flow, other.flow);
    }

    #[test]
    fn no_frame_is_too_short() {
        for len in 0..60 {
            frame_crumb(&[8; 60][..len]);
        }
    }
}
