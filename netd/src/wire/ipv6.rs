//! IPv6 headers: RFC 8200 §3. The fixed header; extension headers are the packet's payload here.

use core::net::Ipv6Addr;
use proto::zone;
use zerocopy::byteorder::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::address::AddressPair;
use super::drop_reason::DropReason;
use super::ipv4::{IpProtocol, too_short};

/// Length of the fixed header.
pub const HEADER_LEN: usize = 40;
/// What every link takes: RFC 8200 §5.
pub const MTU_MIN: usize = 1280;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Layout {
    version_class_flow: U32,
    payload_len: U16,
    next_header: u8,
    hop_limit: u8,
    src: [u8; 16],
    dst: [u8; 16],
}

const _: () = assert!(size_of::<Layout>() == HEADER_LEN);

/// An IPv6 header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv6Header {
    /// Differentiated services and ECN.
    pub traffic_class: u8,
    /// Flow label, 20 bits (RFC 6437).
    pub flow_label: u32,
    /// Bytes behind this header.
    pub payload_len: u16,
    /// What follows: an extension header or the transport.
    pub next_header: IpProtocol,
    /// Hops it may still take.
    pub hop_limit: u8,
    /// Who sent it.
    pub src: Ipv6Addr,
    /// Whom it is for.
    pub dst: Ipv6Addr,
}

impl Ipv6Header {
    /// A header for `payload_len` bytes; the addresses go out without their zones.
    ///
    /// # Panics
    /// When the payload is longer than 65535 bytes.
    pub fn new(
        src: Ipv6Addr,
        dst: Ipv6Addr,
        next_header: IpProtocol,
        hop_limit: u8,
        payload_len: usize,
    ) -> Ipv6Header {
        let payload_len = u16::try_from(payload_len).expect("an IPv6 payload has at most 65535 bytes");
        Ipv6Header { traffic_class: 0, flow_label: 0, payload_len, next_header, hop_limit, src, dst }
    }

    /// Reads and checks the header at the start of `head`, of a packet of at most `packet_len` bytes.
    ///
    /// # Errors
    /// [`DropReason::PktTooSmall`], [`DropReason::HdrTrunc`], [`DropReason::IpHdrError`],
    /// [`DropReason::IpTruncated`].
    pub fn parse(head: &[u8], packet_len: usize) -> Result<Ipv6Header, DropReason> {
        let head = &head[..head.len().min(packet_len)];
        let (layout, _) = Layout::read_from_prefix(head).map_err(|_| too_short(packet_len, HEADER_LEN))?;
        let first = layout.version_class_flow.get();
        if first >> 28 != 6 {
            return Err(DropReason::IpHdrError);
        }
        if HEADER_LEN + usize::from(layout.payload_len.get()) > packet_len {
            return Err(DropReason::IpTruncated);
        }
        Ok(Ipv6Header {
            traffic_class: (first >> 20) as u8,
            flow_label: first & 0x000f_ffff,
            payload_len: layout.payload_len.get(),
            next_header: IpProtocol(layout.next_header),
            hop_limit: layout.hop_limit,
            src: Ipv6Addr::from(layout.src),
            dst: Ipv6Addr::from(layout.dst),
        })
    }

    /// The two ends.
    pub const fn pair(&self) -> AddressPair {
        AddressPair::V6 { src: self.src, dst: self.dst }
    }

    /// Writes the header to the start of `out` and returns its length.
    ///
    /// # Panics
    /// When `out` is shorter than [`HEADER_LEN`].
    pub fn emit(&self, out: &mut [u8]) -> usize {
        let first = 6 << 28 | u32::from(self.traffic_class) << 20 | (self.flow_label & 0x000f_ffff);
        let layout = Layout {
            version_class_flow: U32::new(first),
            payload_len: U16::new(self.payload_len),
            next_header: self.next_header.0,
            hop_limit: self.hop_limit,
            src: zone::without(self.src).octets(),
            dst: zone::without(self.dst).octets(),
        };
        out[..HEADER_LEN].copy_from_slice(layout.as_bytes());
        HEADER_LEN
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn other_versions_and_short_packets() {
        let mut bytes = [0u8; 40];
        bytes[0] = 0x60;
        assert_eq!(Ipv6Header::parse(&bytes, 40).unwrap().payload_len, 0);
        assert_eq!(Ipv6Header::parse(&bytes[..39], 39), Err(DropReason::PktTooSmall));
        assert_eq!(Ipv6Header::parse(&bytes[..39], 40), Err(DropReason::HdrTrunc));
        bytes[5] = 1;
        assert_eq!(Ipv6Header::parse(&bytes, 40), Err(DropReason::IpTruncated));
        bytes[0] = 0x45;
        assert_eq!(Ipv6Header::parse(&bytes, 40), Err(DropReason::IpHdrError));
    }

    proptest! {
        #[test]
        fn what_parses_emits_the_same_bytes(mut bytes in prop::collection::vec(any::<u8>(), 0..60), six in any::<bool>(),
                                            packet_len in 0usize..70_000) {
            if six && !bytes.is_empty() {
                bytes[0] = 0x60 | (bytes[0] & 0x0f);
            }
            if let Ok(header) = Ipv6Header::parse(&bytes, packet_len) {
                prop_assume!(zone::of(&header.src) == 0 && zone::of(&header.dst) == 0);
                let mut out = [0; HEADER_LEN];
                header.emit(&mut out);
                prop_assert_eq!(&out[..], &bytes[..HEADER_LEN]);
            }
        }
    }
}
