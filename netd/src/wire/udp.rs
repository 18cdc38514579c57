//! UDP headers: RFC 768, as RFC 1122 §4.1 and RFC 8200 §8.1 want them checked.
//!
//! ```text
//!  0          2          4        6          8
//!  | src port | dst port | length | checksum | payload …
//! ```

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::address::AddressPair;
use super::checksum::pseudo_header;
use super::drop_reason::DropReason;
use super::ipv4::{IpProtocol, too_short};
use super::unchecked::{Checksum, Unchecked};

/// Length of the header.
pub const HEADER_LEN: usize = 8;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Layout {
    src_port: U16,
    dst_port: U16,
    length: U16,
    checksum: U16,
}

const _: () = assert!(size_of::<Layout>() == HEADER_LEN);

/// A UDP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UdpHeader {
    /// Where answers go; 0 when none are wanted.
    pub src_port: u16,
    /// Whom it is for.
    pub dst_port: u16,
    /// Bytes of payload behind the header, at most 65527.
    pub payload_len: u16,
    /// It has a checksum. IPv4 does without one where the sender likes (RFC 768), IPv6 only where both ends
    /// have agreed to (RFC 6935).
    pub summed: bool,
}

impl UdpHeader {
    /// Reads the header at the start of `head`; the IP payload has `datagram_len` bytes. What IP carries
    /// beyond the UDP length belongs to nobody.
    ///
    /// # Errors
    /// [`DropReason::PktTooSmall`], [`DropReason::HdrTrunc`], [`DropReason::UdpLength`].
    pub fn parse(
        head: &[u8],
        datagram_len: usize,
        pair: &AddressPair,
    ) -> Result<Unchecked<UdpHeader>, DropReason> {
        let head = &head[..head.len().min(datagram_len)];
        let (layout, _) = Layout::read_from_prefix(head).map_err(|_| too_short(datagram_len, HEADER_LEN))?;
        let covered = usize::from(layout.length.get());
        if covered < HEADER_LEN || covered > datagram_len {
            return Err(DropReason::UdpLength);
        }
        let header = UdpHeader {
            src_port: layout.src_port.get(),
            dst_port: layout.dst_port.get(),
            payload_len: (covered - HEADER_LEN) as u16,
            summed: layout.checksum.get() != 0,
        };
        let pseudo = pseudo_header(pair, IpProtocol::UDP.0, covered as u32);
        let unchecked = Unchecked::new(header, covered, pseudo, DropReason::UdpCsum);
        // RFC 768: zero means that the sender computed none.
        Ok(if header.summed { unchecked } else { unchecked.without_checksum() })
    }

    /// Writes the header to the start of `out` and returns its length.
    ///
    /// # Panics
    /// When `out` is shorter than [`HEADER_LEN`], or the payload is longer than a UDP length can say.
    pub fn emit(&self, out: &mut [u8], pair: &AddressPair, checksum: Checksum) -> usize {
        let length = self.payload_len.checked_add(HEADER_LEN as u16).expect("a UDP length fits 16 bits");
        let mut layout = Layout {
            src_port: U16::new(self.src_port),
            dst_port: U16::new(self.dst_port),
            length: U16::new(length),
            checksum: U16::ZERO,
        };
        if self.summed {
            let pseudo = pseudo_header(pair, IpProtocol::UDP.0, u32::from(length));
            // RFC 768: a computed zero goes out as all ones.
            layout.checksum = U16::new(match checksum.field(pseudo, layout.as_bytes()) {
                0 => 0xffff,
                field => field,
            });
        }
        out[..HEADER_LEN].copy_from_slice(layout.as_bytes());
        HEADER_LEN
    }
}

#[cfg(test)]
mod tests {
    use super::super::checksum::Sum;
    use super::*;
    use core::net::{Ipv4Addr, Ipv6Addr};
    use proptest::prelude::*;

    const V4: AddressPair =
        AddressPair::V4 { src: Ipv4Addr::new(10, 0, 0, 1), dst: Ipv4Addr::new(10, 0, 0, 2) };
    const V6: AddressPair = AddressPair::V6 { src: Ipv6Addr::LOCALHOST, dst: Ipv6Addr::LOCALHOST };

    #[test]
    fn lengths_that_can_not_be() {
        let parse = |length: u8, datagram_len| {
            UdpHeader::parse(&[0, 1, 0, 2, 0, length, 0, 0, 9], datagram_len, &V4).map(Unchecked::trust)
        };
        assert_eq!(parse(7, 9), Err(DropReason::UdpLength));
        assert_eq!(parse(10, 9), Err(DropReason::UdpLength));
        assert_eq!(parse(8, 7), Err(DropReason::PktTooSmall));
        assert_eq!(
            parse(8, 9).unwrap(),
            UdpHeader { src_port: 1, dst_port: 2, payload_len: 0, summed: false }
        );
        assert_eq!(parse(9, 9).unwrap().payload_len, 1);
        assert!(matches!(UdpHeader::parse(&[0; 7], 8, &V4), Err(DropReason::HdrTrunc)));
    }

    #[test]
    fn a_datagram_without_a_checksum_says_so() {
        let bytes = [0, 1, 0, 2, 0, 9, 0, 0, 9];
        for pair in [V4, V6] {
            let header = UdpHeader::parse(&bytes, 9, &pair).unwrap();
            assert_eq!(header.covered(), 0);
            assert!(header.verify_bytes(&bytes).is_ok_and(|header| !header.summed));
        }
        let header = UdpHeader { src_port: 1, dst_port: 2, payload_len: 1, summed: false };
        let mut out = [0xff; 8];
        header.emit(&mut out, &V6, Checksum::Full(Sum::of(&[9])));
        assert_eq!(out, bytes[..8]);
    }

    #[test]
    fn a_computed_zero_goes_out_as_ones() {
        // Two payload bytes chosen so that the whole sum is ffff and its complement zero.
        let header = UdpHeader { src_port: 0, dst_port: 0, payload_len: 2, summed: true };
        let rest = pseudo_header(&V4, 17, 10).then(&[0, 0, 0, 0, 0, 10, 0, 0]);
        let payload = rest.field().to_be_bytes();
        let mut out = [0u8; 10];
        header.emit(&mut out, &V4, Checksum::Full(Sum::of(&payload)));
        out[8..].copy_from_slice(&payload);
        assert_eq!(&out[6..8], &[0xff, 0xff]);
        let unchecked = UdpHeader::parse(&out, 10, &V4).unwrap();
        assert_eq!(unchecked.covered(), 10);
        assert_eq!(unchecked.verify_bytes(&out), Ok(header));
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..40), len in 0usize..70_000) {
            if let Ok(header) = UdpHeader::parse(&bytes, len, &V4) {
                prop_assert!(header.covered() <= len);
                let _ = header.verify_bytes(&bytes);
            }
        }

        #[test]
        fn what_is_emitted_parses_and_a_flipped_bit_shows(
            src_port in any::<u16>(), dst_port in any::<u16>(), payload in prop::collection::vec(any::<u8>(), 0..100),
            six in any::<bool>(), flip in any::<prop::sample::Index>(),
        ) {
            let pair = if six { V6 } else { V4 };
            let header = UdpHeader { src_port, dst_port, payload_len: payload.len() as u16, summed: true };
            let mut out = vec![0u8; HEADER_LEN];
            header.emit(&mut out, &pair, Checksum::Full(Sum::of(&payload)));
            out.extend(&payload);
            let parsed = UdpHeader::parse(&out, out.len() + 3, &pair).unwrap();
            prop_assert_eq!(parsed.verify_bytes(&out), Ok(header));

            let bit = flip.index(out.len() * 8);
            if !(32..64).contains(&bit) {
                out[bit / 8] ^= 1 << (bit % 8);
                let parsed = UdpHeader::parse(&out, out.len(), &pair).unwrap();
                prop_assert_eq!(parsed.verify_bytes(&out), Err(DropReason::UdpCsum));
            }
        }

        #[test]
        fn a_device_completes_the_checksum(payload in prop::collection::vec(any::<u8>(), 0..100)) {
            let header = UdpHeader { src_port: 5, dst_port: 6, payload_len: payload.len() as u16, summed: true };
            let mut out = vec![0u8; HEADER_LEN];
            header.emit(&mut out, &V4, Checksum::Device);
            out.extend(&payload);
            // Virtio §5.1.6.2: the sum from csum_start on, the field included, is stored in the field.
            let field = Sum::of(&out).field();
            out[6..8].copy_from_slice(&field.to_be_bytes());
            prop_assert_eq!(UdpHeader::parse(&out, out.len(), &V4).unwrap().verify_bytes(&out), Ok(header));
        }
    }
}
