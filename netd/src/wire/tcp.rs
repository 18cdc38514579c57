//! TCP headers: RFC 9293 §3.1.
//!
//! ```text
//!  0          2          4          8          12       13      14       16         18        20
//!  | src port | dst port | sequence | ack      | offset | flags | window | checksum | urgent | options …
//! ```

use zerocopy::byteorder::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::address::AddressPair;
use super::checksum::pseudo_header;
use super::drop_reason::DropReason;
use super::ipv4::{IpProtocol, too_short};
use super::tcp_options;
use super::unchecked::{Checksum, Unchecked};
use crate::tcp::segment::{Flags, Segment, SegmentOut};
use crate::tcp::seq::SeqNum;

/// Length of a header without options.
pub const HEADER_LEN: usize = 20;
/// The longest header: data offset 15.
pub const HEADER_LEN_MAX: usize = HEADER_LEN + tcp_options::OPTIONS_LEN_MAX;
/// Where the checksum field stands in the header, as a device that completes it wants to know.
pub const CHECKSUM_OFFSET: usize = 16;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Layout {
    src_port: U16,
    dst_port: U16,
    seq: U32,
    ack: U32,
    data_offset: u8,
    flags: u8,
    window: U16,
    checksum: U16,
    urgent: U16,
}

const _: () = assert!(size_of::<Layout>() == HEADER_LEN);

/// A segment with its ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpHeader {
    /// The sender's port.
    pub src_port: u16,
    /// The port it is for.
    pub dst_port: u16,
    /// Header and options in bytes, 20 to 60: where the payload begins.
    pub header_len: u8,
    /// All the rest.
    pub segment: Segment,
}

impl TcpHeader {
    /// Reads the header at the start of `head`; the IP payload has `segment_len` bytes.
    ///
    /// # Errors
    /// [`DropReason::PktTooSmall`], [`DropReason::HdrTrunc`], [`DropReason::TcpHdrError`].
    pub fn parse(
        head: &[u8],
        segment_len: usize,
        pair: &AddressPair,
    ) -> Result<Unchecked<TcpHeader>, DropReason> {
        let head = &head[..head.len().min(segment_len)];
        let (layout, _) = Layout::read_from_prefix(head).map_err(|_| too_short(segment_len, HEADER_LEN))?;
        let header_len = usize::from(layout.data_offset >> 4) * 4;
        if header_len < HEADER_LEN || header_len > segment_len {
            return Err(DropReason::TcpHdrError);
        }
        let options = head.get(HEADER_LEN..header_len).ok_or(DropReason::HdrTrunc)?;
        // No IP payload is longer than a merged frame's 32 bits; anything else is our own bug.
        let covered = u32::try_from(segment_len).expect("a segment is shorter than 4 GiB");
        let header = TcpHeader {
            src_port: layout.src_port.get(),
            dst_port: layout.dst_port.get(),
            header_len: header_len as u8,
            segment: Segment {
                seq: SeqNum::new(layout.seq.get()),
                ack: SeqNum::new(layout.ack.get()),
                flags: Flags::from_bits(layout.flags),
                window: layout.window.get(),
                urgent: layout.urgent.get(),
                options: tcp_options::parse(options),
                payload_len: covered - header_len as u32,
                marked: false,
            },
        };
        let pseudo = pseudo_header(pair, IpProtocol::TCP.0, covered);
        Ok(Unchecked::new(header, segment_len, pseudo, DropReason::TcpCsum))
    }
}

/// Length of the header that [`emit`] writes for `segment`.
pub fn header_len(segment: &SegmentOut) -> usize {
    HEADER_LEN + segment.options.wire_len() as usize
}

/// Writes the header of `segment` to the start of `out` and returns its length, [`header_len`].
///
/// # Panics
/// When `out` is shorter than that, or the options do not fit a header.
pub fn emit(
    segment: &SegmentOut,
    src_port: u16,
    dst_port: u16,
    out: &mut [u8],
    pair: &AddressPair,
    checksum: Checksum,
) -> usize {
    let options_len = tcp_options::emit(&segment.options, &mut out[HEADER_LEN..]);
    let header_len = HEADER_LEN + options_len;
    let layout = Layout {
        src_port: U16::new(src_port),
        dst_port: U16::new(dst_port),
        seq: U32::new(segment.seq.get()),
        ack: U32::new(segment.ack.get()),
        data_offset: ((header_len / 4) as u8) << 4,
        flags: segment.flags.bits(),
        window: U16::new(segment.window),
        checksum: U16::ZERO,
        urgent: U16::new(segment.urgent),
    };
    out[..HEADER_LEN].copy_from_slice(layout.as_bytes());
    let pseudo = pseudo_header(pair, IpProtocol::TCP.0, header_len as u32 + segment.payload_len);
    let field = checksum.field(pseudo, &out[..header_len]);
    out[CHECKSUM_OFFSET..CHECKSUM_OFFSET + 2].copy_from_slice(&field.to_be_bytes());
    header_len
}

#[cfg(test)]
mod tests {
    use super::super::checksum::Sum;
    use super::super::tcp_options::tests::any_options;
    use super::*;
    use core::net::{Ipv4Addr, Ipv6Addr};
    use proptest::prelude::*;

    const V4: AddressPair =
        AddressPair::V4 { src: Ipv4Addr::new(10, 0, 0, 1), dst: Ipv4Addr::new(10, 0, 0, 2) };
    const V6: AddressPair = AddressPair::V6 { src: Ipv6Addr::LOCALHOST, dst: Ipv6Addr::LOCALHOST };

    #[test]
    fn offsets_that_can_not_be() {
        let parse = |offset: u8, head: usize, len: usize| {
            let mut bytes = [0u8; 60];
            bytes[12] = offset << 4;
            TcpHeader::parse(&bytes[..head], len, &V4).map(Unchecked::trust).map(|h| h.segment.payload_len)
        };
        assert_eq!(parse(5, 19, 19), Err(DropReason::PktTooSmall));
        assert_eq!(parse(5, 19, 20), Err(DropReason::HdrTrunc));
        assert_eq!(parse(4, 60, 60), Err(DropReason::TcpHdrError));
        assert_eq!(parse(6, 60, 23), Err(DropReason::TcpHdrError));
        assert_eq!(parse(6, 20, 24), Err(DropReason::HdrTrunc));
        assert_eq!(parse(15, 60, 65_000), Ok(64_940));
        assert_eq!(parse(5, 60, 20), Ok(0));
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..80), len in 0usize..70_000) {
            if let Ok(header) = TcpHeader::parse(&bytes, len, &V4) {
                prop_assert_eq!(header.covered(), len);
                let _ = header.verify_bytes(&bytes);
                let header = header.trust();
                prop_assert_eq!(usize::from(header.header_len) + header.segment.payload_len as usize, len);
            }
        }

        #[test]
        fn what_is_emitted_parses_and_a_flipped_bit_shows(
            ports in any::<(u16, u16)>(), numbers in any::<(u32, u32)>(), flags in any::<u8>(),
            window in any::<u16>(), urgent in any::<u16>(), options in any_options(),
            payload in prop::collection::vec(any::<u8>(), 0..100), six in any::<bool>(), device in any::<bool>(),
            flip in any::<prop::sample::Index>(),
        ) {
            let pair = if six { V6 } else { V4 };
            let out_segment = SegmentOut {
                seq: SeqNum::new(numbers.0), ack: SeqNum::new(numbers.1), flags: Flags::from_bits(flags),
                window, urgent, options, offset: 0, payload_len: payload.len() as u32, piece_len: 1, ect: false,
            };
            let mut out = vec![0xee; HEADER_LEN_MAX];
            let checksum = if device { Checksum::Device } else { Checksum::Full(Sum::of(&payload)) };
            let len = emit(&out_segment, ports.0, ports.1, &mut out, &pair, checksum);
            prop_assert_eq!(len, header_len(&out_segment));
            out.truncate(len);
            out.extend(&payload);
            if device {
                // Virtio §5.1.6.2: the sum from csum_start on, the field included, is stored in the field.
                let field = Sum::of(&out).field();
                out[CHECKSUM_OFFSET..CHECKSUM_OFFSET + 2].copy_from_slice(&field.to_be_bytes());
            }
            let parsed = TcpHeader::parse(&out[..len], out.len(), &pair).unwrap().verify(Sum::of(&out)).unwrap();
            prop_assert_eq!((parsed.src_port, parsed.dst_port, usize::from(parsed.header_len)), (ports.0, ports.1, len));
            prop_assert_eq!(parsed.segment, Segment {
                seq: out_segment.seq, ack: out_segment.ack, flags: out_segment.flags, window, urgent, options,
                payload_len: payload.len() as u32, marked: false,
            });
            let bit = flip.index(out.len() * 8);
            out[bit / 8] ^= 1 << (bit % 8);
            if let Ok(parsed) = TcpHeader::parse(&out, out.len(), &pair) {
                prop_assert_eq!(parsed.verify_bytes(&out), Err(DropReason::TcpCsum));
            }
        }
    }
}
