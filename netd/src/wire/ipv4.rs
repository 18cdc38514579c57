//! IPv4 headers: RFC 791, as RFC 1122 §3.2.1 wants them checked.
//!
//! ```text
//!  0       1       2              4              6              8
//!  |ver ihl|  tos  |    length    |     ident    |flags  offset |
//!  |  ttl  | proto |   checksum   |            source           |
//!  |        destination           |     options, 0 to 40 bytes  |
//! ```

use core::net::Ipv4Addr;
use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::address::AddressPair;
use super::checksum::Sum;
use super::drop_reason::DropReason;

/// Length of a header without options.
pub const HEADER_LEN: usize = 20;
/// The longest header: RFC 791 §3.1, IHL 15.
pub const HEADER_LEN_MAX: usize = 60;

const FLAG_DF: u16 = 0x4000;
const FLAG_MF: u16 = 0x2000;
const OFFSET_MASK: u16 = 0x1fff;

/// Options, RFC 791 §3.1: end of list, no operation, loose and strict source route.
const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;
const OPTION_LSRR: u8 = 131;
const OPTION_SSRR: u8 = 137;

/// What an IP packet carries: the numbers of both families.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct IpProtocol(pub u8);

impl IpProtocol {
    /// ICMP for IPv4 (RFC 792).
    pub const ICMP: IpProtocol = IpProtocol(1);
    /// Group membership of IPv4 (RFC 3376).
    pub const IGMP: IpProtocol = IpProtocol(2);
    /// TCP (RFC 9293).
    pub const TCP: IpProtocol = IpProtocol(6);
    /// UDP (RFC 768).
    pub const UDP: IpProtocol = IpProtocol(17);
    /// Options that every node on the way looks at (RFC 8200 §4.3).
    pub const HOP_BY_HOP: IpProtocol = IpProtocol(0);
    /// A part of an IPv6 packet (RFC 8200 §4.5).
    pub const FRAGMENT: IpProtocol = IpProtocol(44);
    /// ICMP for IPv6 (RFC 4443).
    pub const ICMPV6: IpProtocol = IpProtocol(58);
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Layout {
    version_ihl: u8,
    tos: u8,
    total_len: U16,
    ident: U16,
    flags_offset: U16,
    ttl: u8,
    protocol: u8,
    checksum: U16,
    src: [u8; 4],
    dst: [u8; 4],
}

const _: () = assert!(size_of::<Layout>() == HEADER_LEN);

/// Where a fragment belongs in its packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment {
    /// Where its payload begins in the whole payload, in bytes; a multiple of 8 up to 65528.
    pub offset: u32,
    /// More fragments follow.
    pub more: bool,
}

/// An IPv4 header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv4Header {
    /// Differentiated services and ECN (RFC 2474, RFC 3168).
    pub tos: u8,
    /// Header, options and payload in bytes; what follows it in the frame is padding.
    pub total_len: u16,
    /// Ties fragments together.
    pub ident: u16,
    /// Must not be cut.
    pub dont_fragment: bool,
    /// The part it is of a packet that was cut; `None` for a whole packet.
    pub fragment: Option<Fragment>,
    /// Hops it may still take.
    pub ttl: u8,
    /// What it carries.
    pub protocol: IpProtocol,
    /// Who sent it.
    pub src: Ipv4Addr,
    /// Whom it is for.
    pub dst: Ipv4Addr,
    /// Header and options in bytes, 20 to 60: where the payload begins. Emitted headers have 20.
    pub header_len: u8,
}

impl Ipv4Header {
    /// A whole packet's header without options, DF set, for `payload_len` bytes.
    ///
    /// # Panics
    /// When the packet would be longer than 65535 bytes.
    pub fn new(
        src: Ipv4Addr,
        dst: Ipv4Addr,
        protocol: IpProtocol,
        ttl: u8,
        payload_len: usize,
    ) -> Ipv4Header {
        let total_len =
            u16::try_from(HEADER_LEN + payload_len).expect("an IPv4 packet has at most 65535 bytes");
        Ipv4Header {
            tos: 0,
            total_len,
            // RFC 6864 §4.1: an atomic packet's ident may be any value.
            ident: 0,
            dont_fragment: true,
            fragment: None,
            ttl,
            protocol,
            src,
            dst,
            header_len: HEADER_LEN as u8,
        }
    }

    /// Reads and checks the header at the start of `head`, of a packet of at most `packet_len` bytes
    /// (the frame's payload, padding included).
    ///
    /// A fragment is no error here: see [`Ipv4Header::fragment`].
    ///
    /// # Errors
    /// [`DropReason::PktTooSmall`], [`DropReason::HdrTrunc`], [`DropReason::IpHdrError`],
    /// [`DropReason::IpCsum`], [`DropReason::IpTruncated`], [`DropReason::IpSourceRoute`],
    /// [`DropReason::FragInvalid`].
    pub fn parse(head: &[u8], packet_len: usize) -> Result<Ipv4Header, DropReason> {
        let head = &head[..head.len().min(packet_len)];
        let (layout, _) = Layout::read_from_prefix(head).map_err(|_| too_short(packet_len, HEADER_LEN))?;
        // RFC 1122 §3.2.1.1: a version other than 4 is silently discarded.
        let header_len = usize::from(layout.version_ihl & 0x0f) * 4;
        if layout.version_ihl >> 4 != 4 || header_len < HEADER_LEN {
            return Err(DropReason::IpHdrError);
        }
        let bytes = head.get(..header_len).ok_or(too_short(packet_len, header_len))?;
        // RFC 1122 §3.2.1.2: verify the checksum on every received packet.
        if !Sum::of(bytes).is_valid() {
            return Err(DropReason::IpCsum);
        }
        let total_len = usize::from(layout.total_len.get());
        if total_len < header_len {
            return Err(DropReason::IpHdrError);
        }
        if total_len > packet_len {
            return Err(DropReason::IpTruncated);
        }
        check_options(&bytes[HEADER_LEN..])?;
        let flags = layout.flags_offset.get();
        let offset = u32::from(flags & OFFSET_MASK) * 8;
        let more = flags & FLAG_MF != 0;
        let payload_len = (total_len - header_len) as u32;
        // RFC 791 §3.2: all but the last are multiples of 8 bytes, and the whole fits 65535.
        if (more && (payload_len == 0 || !payload_len.is_multiple_of(8)))
            || offset + payload_len > u32::from(u16::MAX) - HEADER_LEN as u32
        {
            return Err(DropReason::FragInvalid);
        }
        Ok(Ipv4Header {
            tos: layout.tos,
            total_len: layout.total_len.get(),
            ident: layout.ident.get(),
            dont_fragment: flags & FLAG_DF != 0,
            fragment: (more || offset != 0).then_some(Fragment { offset, more }),
            ttl: layout.ttl,
            protocol: IpProtocol(layout.protocol),
            src: Ipv4Addr::from(layout.src),
            dst: Ipv4Addr::from(layout.dst),
            header_len: header_len as u8,
        })
    }

    /// Bytes behind the header.
    pub fn payload_len(&self) -> usize {
        usize::from(self.total_len).saturating_sub(usize::from(self.header_len))
    }

    /// The two ends.
    pub const fn pair(&self) -> AddressPair {
        AddressPair::V4 { src: self.src, dst: self.dst }
    }

    /// False for a source that no host on a wire can have: RFC 1122 §3.2.1.3. Directed broadcasts are
    /// the route table's to know.
    pub fn source_is_possible(&self) -> bool {
        // 240.0.0.0/4 is reserved (RFC 1112 §4), 0.0.0.0/8 is "this network" and only DHCP may say it.
        let [first, ..] = self.src.octets();
        !self.src.is_loopback() && first < 224 && (first != 0 || self.src.is_unspecified())
    }

    /// Writes a header without options to the start of `out`, with its checksum; returns its length.
    ///
    /// # Panics
    /// When `out` is shorter than [`HEADER_LEN`], or `header_len` says that there are options.
    pub fn emit(&self, out: &mut [u8]) -> usize {
        assert!(usize::from(self.header_len) == HEADER_LEN, "headers go out without options");
        let (offset, more) = self.fragment.map_or((0, false), |f| (f.offset, f.more));
        let mut flags = (offset / 8) as u16 & OFFSET_MASK;
        if self.dont_fragment {
            flags |= FLAG_DF;
        }
        if more {
            flags |= FLAG_MF;
        }
        let mut layout = Layout {
            version_ihl: 0x45,
            tos: self.tos,
            total_len: U16::new(self.total_len),
            ident: U16::new(self.ident),
            flags_offset: U16::new(flags),
            ttl: self.ttl,
            protocol: self.protocol.0,
            checksum: U16::ZERO,
            src: self.src.octets(),
            dst: self.dst.octets(),
        };
        layout.checksum = U16::new(Sum::of(layout.as_bytes()).field());
        out[..HEADER_LEN].copy_from_slice(layout.as_bytes());
        HEADER_LEN
    }
}

/// Length of a header with the option of [`emit_with_alert`].
pub const ALERT_LEN: usize = HEADER_LEN + 4;

/// Writes a header with a router alert (RFC 2113 §2.1) to the start of `out`, for `payload_len` bytes to a
/// group of the link; returns its length.
///
/// # Panics
/// When `out` is shorter than [`ALERT_LEN`].
pub fn emit_with_alert(
    out: &mut [u8],
    src: Ipv4Addr,
    dst: Ipv4Addr,
    protocol: IpProtocol,
    payload_len: usize,
) -> usize {
    const ROUTER_ALERT: [u8; 4] = [148, 4, 0, 0];
    /// RFC 3376 §4: internetwork control.
    const TOS: u8 = 0xc0;
    let header = Ipv4Header { tos: TOS, ..Ipv4Header::new(src, dst, protocol, 1, payload_len + 4) };
    header.emit(out);
    out[0] = 0x46;
    out[HEADER_LEN..ALERT_LEN].copy_from_slice(&ROUTER_ALERT);
    out[10..12].fill(0);
    let field = Sum::of(&out[..ALERT_LEN]).field();
    out[10..12].copy_from_slice(&field.to_be_bytes());
    ALERT_LEN
}

/// Why `needed` bytes were not there: the packet has not so many, or they were not copied out.
pub(super) const fn too_short(packet_len: usize, needed: usize) -> DropReason {
    if packet_len < needed { DropReason::PktTooSmall } else { DropReason::HdrTrunc }
}

/// Walks the options: RFC 791 §3.1, RFC 1122 §3.2.1.8. Known or not, each must end inside the header;
/// a source route is refused, all others mean nothing to us.
fn check_options(mut options: &[u8]) -> Result<(), DropReason> {
    loop {
        match *options {
            [] | [OPTION_END, ..] => return Ok(()),
            [OPTION_NOP, ref rest @ ..] => options = rest,
            [OPTION_LSRR | OPTION_SSRR, ..] => return Err(DropReason::IpSourceRoute),
            [_, len, ..] if len >= 2 => {
                options = options.get(usize::from(len)..).ok_or(DropReason::IpHdrError)?;
            }
            _ => return Err(DropReason::IpHdrError),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The header that RFC 1071 checksum tutorials use: 172.16.10.99 to 172.16.10.12, checksum b1e6.
    const KNOWN: [u8; 20] = [
        0x45, 0x00, 0x00, 0x3c, 0x1c, 0x46, 0x40, 0x00, 0x40, 0x06, 0xb1, 0xe6, 0xac, 0x10, 0x0a, 0x63, 0xac,
        0x10, 0x0a, 0x0c,
    ];

    fn with_checksum(mut bytes: Vec<u8>) -> Vec<u8> {
        let header_len = (usize::from(bytes[0] & 15) * 4).min(bytes.len());
        bytes[10..12].fill(0);
        let field = Sum::of(&bytes[..header_len]).field();
        bytes[10..12].copy_from_slice(&field.to_be_bytes());
        bytes
    }

    fn parse_with(at: usize, value: u8) -> Result<Ipv4Header, DropReason> {
        let mut bytes = KNOWN.to_vec();
        bytes[at] = value;
        Ipv4Header::parse(&with_checksum(bytes), 60)
    }

    #[test]
    fn a_known_header() {
        let header = Ipv4Header::parse(&KNOWN, 60).unwrap();
        assert_eq!(header.src, Ipv4Addr::new(172, 16, 10, 99));
        assert_eq!(header.dst, Ipv4Addr::new(172, 16, 10, 12));
        assert_eq!((header.payload_len(), header.ttl, header.protocol), (40, 64, IpProtocol::TCP));
        assert!(header.dont_fragment && header.fragment.is_none());
        let mut out = [0; 20];
        header.emit(&mut out);
        assert_eq!(out, KNOWN);
    }

    #[test]
    fn lengths_and_versions_that_can_not_be() {
        assert_eq!(Ipv4Header::parse(&KNOWN[..19], 19), Err(DropReason::PktTooSmall));
        assert_eq!(Ipv4Header::parse(&KNOWN[..19], 60), Err(DropReason::HdrTrunc));
        assert_eq!(Ipv4Header::parse(&KNOWN, 59), Err(DropReason::IpTruncated));
        assert_eq!(parse_with(0, 0x65), Err(DropReason::IpHdrError));
        assert_eq!(parse_with(0, 0x44), Err(DropReason::IpHdrError));
        assert_eq!(parse_with(0, 0x46), Err(DropReason::HdrTrunc));
        assert_eq!(parse_with(3, 19), Err(DropReason::IpHdrError));
        assert_eq!(parse_with(3, 20).unwrap().payload_len(), 0);
        let mut bytes = KNOWN;
        bytes[8] = 63;
        assert_eq!(Ipv4Header::parse(&bytes, 60), Err(DropReason::IpCsum));
    }

    #[test]
    fn fragments_are_recognised() {
        let first = parse_with(6, 0x20).unwrap();
        assert_eq!(first.fragment, Some(Fragment { offset: 0, more: true }));
        let last = parse_with(7, 2).unwrap();
        assert_eq!(last.fragment, Some(Fragment { offset: 16, more: false }));
        // Ends beyond 65535: the "ping of death".
        let mut bytes = KNOWN.to_vec();
        bytes[6..8].copy_from_slice(&[0x1f, 0xff]);
        assert_eq!(Ipv4Header::parse(&with_checksum(bytes), 60), Err(DropReason::FragInvalid));
        // More fragments behind one that is no multiple of 8.
        let mut bytes = KNOWN.to_vec();
        bytes[3] = 59;
        bytes[6] = 0x20;
        assert_eq!(Ipv4Header::parse(&with_checksum(bytes), 60), Err(DropReason::FragInvalid));
    }

    #[test]
    fn options_are_walked() {
        let with_options = |options: &[u8]| {
            let mut bytes = KNOWN.to_vec();
            bytes[0] = 0x40 | (5 + options.len() as u8 / 4);
            bytes.extend(options);
            Ipv4Header::parse(&with_checksum(bytes), 60).map(|h| h.header_len)
        };
        assert_eq!(with_options(&[1, 1, 1, 0]), Ok(24));
        assert_eq!(with_options(&[0, 7, 7, 7]), Ok(24), "nothing counts behind the end of the list");
        assert_eq!(with_options(&[148, 4, 0, 0]), Ok(24), "router alert");
        assert_eq!(with_options(&[7, 8, 4, 0, 0, 0, 0, 0]), Ok(28), "record route");
        assert_eq!(with_options(&[7, 1, 0, 0]), Err(DropReason::IpHdrError), "a length below 2");
        assert_eq!(with_options(&[7, 5, 0, 0]), Err(DropReason::IpHdrError), "beyond the header");
        assert_eq!(with_options(&[1, 1, 1, 7]), Err(DropReason::IpHdrError), "no length");
        assert_eq!(with_options(&[131, 3, 4, 0]), Err(DropReason::IpSourceRoute));
        assert_eq!(with_options(&[137, 3, 4, 0]), Err(DropReason::IpSourceRoute));
    }

    #[test]
    fn impossible_sources() {
        let from = |a, b, c, d| {
            Ipv4Header::new(Ipv4Addr::new(a, b, c, d), Ipv4Addr::LOCALHOST, IpProtocol::UDP, 1, 0)
                .source_is_possible()
        };
        assert!(from(10, 0, 0, 1) && from(0, 0, 0, 0));
        assert!(!from(127, 0, 0, 1) && !from(224, 0, 0, 1) && !from(255, 255, 255, 255) && !from(0, 1, 2, 3));
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..80), packet_len in 0usize..70_000) {
            let _ = Ipv4Header::parse(&bytes, packet_len);
        }

        #[test]
        fn what_parses_emits_the_same_bytes(mut bytes in prop::collection::vec(any::<u8>(), 20..80), options in 0u8..3) {
            bytes[0] = 0x45 + options;
            bytes[2] = 0;
            bytes[6] &= 0x7f;
            let bytes = with_checksum(bytes);
            if let Ok(header) = Ipv4Header::parse(&bytes, bytes.len()) {
                prop_assert!(usize::from(header.header_len) + header.payload_len() <= bytes.len());
                if options == 0 {
                    let mut out = [0; HEADER_LEN];
                    header.emit(&mut out);
                    prop_assert_eq!(&out[..], &bytes[..HEADER_LEN]);
                }
            }
        }

        #[test]
        fn what_is_emitted_parses(tos in any::<u8>(), ident in any::<u16>(), df in any::<bool>(), ttl in any::<u8>(),
                                  protocol in any::<u8>(), src in any::<u32>(), dst in any::<u32>(), len in 0usize..2000) {
            let header = Ipv4Header { tos, ident, dont_fragment: df,
                ..Ipv4Header::new(src.into(), dst.into(), IpProtocol(protocol), ttl, len) };
            let mut out = [0; HEADER_LEN];
            header.emit(&mut out);
            prop_assert_eq!(Ipv4Header::parse(&out, HEADER_LEN + len + 7), Ok(header));
        }
    }
}
