//! ICMP for IPv4: RFC 792, the next-hop MTU of RFC 1191 §4, and what RFC 1122 §3.2.2 and RFC 1812
//! §4.3.2 say about quoting and about when no error may be sent.
//!
//! ```text
//!  0      1      2          4          8
//!  | type | code | checksum | the rest | payload: echo data, or the quoted packet
//! ```

use core::net::Ipv4Addr;
use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::checksum::Sum;
use super::drop_reason::DropReason;
use super::ipv4::{self, IpProtocol, Ipv4Header, too_short};
use super::quote::Complaint;
use super::unchecked::Unchecked;

/// Length of the header; the payload follows.
pub const HEADER_LEN: usize = 8;
/// The most bytes of a packet that an error quotes: RFC 1812 §4.3.2.3, the error has at most 576 bytes.
pub const QUOTE_LEN_MAX: usize = 576 - ipv4::HEADER_LEN - HEADER_LEN;

const ECHO_REPLY: u8 = 0;
const UNREACHABLE: u8 = 3;
const SOURCE_QUENCH: u8 = 4;
const REDIRECT: u8 = 5;
const ECHO_REQUEST: u8 = 8;
const TIME_EXCEEDED: u8 = 11;
const PARAMETER_PROBLEM: u8 = 12;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Layout {
    kind: u8,
    code: u8,
    checksum: U16,
    rest: [u8; 4],
}

const _: () = assert!(size_of::<Layout>() == HEADER_LEN);

/// Why a destination is unreachable: RFC 792, RFC 1122 §3.2.2.1, RFC 1812 §5.2.7.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UnreachableCode(pub u8);

impl UnreachableCode {
    /// No route to the network.
    pub const NET: UnreachableCode = UnreachableCode(0);
    /// The host does not answer.
    pub const HOST: UnreachableCode = UnreachableCode(1);
    /// The host has no such protocol.
    pub const PROTOCOL: UnreachableCode = UnreachableCode(2);
    /// Nobody has the port.
    pub const PORT: UnreachableCode = UnreachableCode(3);
    /// Too long for the next link, and DF is set.
    pub const FRAGMENTATION_NEEDED: UnreachableCode = UnreachableCode(4);
    /// A source route failed.
    pub const SOURCE_ROUTE_FAILED: UnreachableCode = UnreachableCode(5);
    /// Forbidden by a filter.
    pub const ADMIN_PROHIBITED: UnreachableCode = UnreachableCode(13);
}

/// An ICMP message without its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Icmpv4Message {
    /// The answer to an echo request; the payload is the request's.
    EchoReply {
        /// Whose request it was.
        ident: u16,
        /// Which of them.
        sequence: u16,
    },
    /// A request to send the payload back.
    EchoRequest {
        /// Chosen by the asker.
        ident: u16,
        /// Chosen by the asker.
        sequence: u16,
    },
    /// A quoted packet did not arrive.
    Unreachable {
        /// Why.
        code: UnreachableCode,
        /// For "fragmentation needed": what would fit, or 0 from a router older than RFC 1191.
        next_hop_mtu: u16,
    },
    /// A quoted packet would better go through another gateway.
    Redirect {
        /// For a network or host, and type of service.
        code: u8,
        /// Through whom.
        gateway: Ipv4Addr,
    },
    /// A quoted packet ran out of hops (code 0) or its fragments of time (code 1).
    TimeExceeded {
        /// Which of the two.
        code: u8,
    },
    /// A quoted packet has a header that makes no sense.
    ParameterProblem {
        /// 0: the pointer shows where.
        code: u8,
        /// The byte of the quoted header at fault.
        pointer: u8,
    },
    /// Anything else.
    Other {
        /// The type.
        kind: u8,
        /// The code.
        code: u8,
    },
}

impl Icmpv4Message {
    /// Reads the header at the start of `head`; the IP payload has `message_len` bytes.
    ///
    /// # Errors
    /// [`DropReason::PktTooSmall`], [`DropReason::HdrTrunc`].
    pub fn parse(head: &[u8], message_len: usize) -> Result<Unchecked<Icmpv4Message>, DropReason> {
        let head = &head[..head.len().min(message_len)];
        let (layout, _) = Layout::read_from_prefix(head).map_err(|_| too_short(message_len, HEADER_LEN))?;
        let code = layout.code;
        let [a, b, c, d] = layout.rest;
        let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        let message = match layout.kind {
            ECHO_REPLY => Icmpv4Message::EchoReply { ident: high, sequence: low },
            ECHO_REQUEST => Icmpv4Message::EchoRequest { ident: high, sequence: low },
            UNREACHABLE => Icmpv4Message::Unreachable { code: UnreachableCode(code), next_hop_mtu: low },
            REDIRECT => Icmpv4Message::Redirect { code, gateway: Ipv4Addr::new(a, b, c, d) },
            TIME_EXCEEDED => Icmpv4Message::TimeExceeded { code },
            PARAMETER_PROBLEM => Icmpv4Message::ParameterProblem { code, pointer: a },
            kind => Icmpv4Message::Other { kind, code },
        };
        Ok(Unchecked::new(message, message_len, Sum::EMPTY, DropReason::IcmpCsum))
    }

    /// True for a message about a packet, which it quotes: RFC 1122 §3.2.2, error messages and redirects.
    pub const fn quotes_a_packet(&self) -> bool {
        match self {
            Icmpv4Message::EchoReply { .. } | Icmpv4Message::EchoRequest { .. } => false,
            Icmpv4Message::Other { kind, .. } => *kind == SOURCE_QUENCH,
            _ => true,
        }
    }

    /// What it says of the packet that it quotes: RFC 1122 §3.2.2, §4.2.3.9. `None` when it says nothing
    /// that a transport has to know.
    pub const fn complaint(&self) -> Option<Complaint> {
        Some(match *self {
            Icmpv4Message::Unreachable { code, next_hop_mtu } => match code {
                UnreachableCode::FRAGMENTATION_NEEDED => Complaint::TooBig { mtu: next_hop_mtu },
                UnreachableCode::PORT => Complaint::Port,
                UnreachableCode::PROTOCOL => Complaint::Protocol,
                UnreachableCode::NET => Complaint::Network,
                UnreachableCode::ADMIN_PROHIBITED => Complaint::Prohibited,
                _ => Complaint::Host,
            },
            Icmpv4Message::TimeExceeded { .. } => Complaint::Expired,
            Icmpv4Message::ParameterProblem { .. } => Complaint::Problem,
            _ => return None,
        })
    }

    /// Writes the header to the start of `out`, with the checksum for a payload whose bytes have the sum
    /// `payload`, and returns its length.
    ///
    /// # Panics
    /// When `out` is shorter than [`HEADER_LEN`].
    pub fn emit(&self, out: &mut [u8], payload: Sum) -> usize {
        let halves = |high: u16, low: u16| {
            let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
            [a, b, c, d]
        };
        let (kind, code, rest) = match *self {
            Icmpv4Message::EchoReply { ident, sequence } => (ECHO_REPLY, 0, halves(ident, sequence)),
            Icmpv4Message::EchoRequest { ident, sequence } => (ECHO_REQUEST, 0, halves(ident, sequence)),
            Icmpv4Message::Unreachable { code, next_hop_mtu } => {
                (UNREACHABLE, code.0, halves(0, next_hop_mtu))
            }
            Icmpv4Message::Redirect { code, gateway } => (REDIRECT, code, gateway.octets()),
            Icmpv4Message::TimeExceeded { code } => (TIME_EXCEEDED, code, [0; 4]),
            Icmpv4Message::ParameterProblem { code, pointer } => {
                (PARAMETER_PROBLEM, code, [pointer, 0, 0, 0])
            }
            Icmpv4Message::Other { kind, code } => (kind, code, [0; 4]),
        };
        let mut layout = Layout { kind, code, checksum: U16::ZERO, rest };
        layout.checksum = U16::new(Sum::of(layout.as_bytes()).then_sum(payload).field());
        out[..HEADER_LEN].copy_from_slice(layout.as_bytes());
        HEADER_LEN
    }
}

/// How much of a packet of `total_len` bytes an error about it quotes: its header and as much more as
/// fits (RFC 1812 §4.3.2.3).
pub fn quote_len(total_len: usize) -> usize {
    total_len.min(QUOTE_LEN_MAX)
}

/// Whether an ICMP error may be sent about a packet: RFC 1122 §3.2.2.
///
/// `payload` is what is known of the bytes behind its header, `to_group` whether its frame or its
/// destination address was a broadcast or multicast one (which only link and routes can tell fully).
pub fn error_is_allowed(header: &Ipv4Header, payload: &[u8], to_group: bool) -> bool {
    let about_an_error = header.protocol == IpProtocol::ICMP
        && match payload.first() {
            Some(kind) => {
                matches!(*kind, UNREACHABLE | SOURCE_QUENCH | REDIRECT | TIME_EXCEEDED | PARAMETER_PROBLEM)
            }
            None => true,
        };
    let first_fragment = header.fragment.is_none_or(|fragment| fragment.offset == 0);
    // A loopback source is refused where packets come in from a wire: this one is of the host itself.
    let src_is_host = header.source_is_possible() || header.src.is_loopback();
    let dst_is_group = header.dst.is_multicast() || header.dst.is_broadcast();
    !about_an_error
        && first_fragment
        && !to_group
        && !dst_is_group
        && src_is_host
        && !header.src.is_unspecified()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const US: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const REMOTE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

    #[test]
    fn a_ping_on_the_wire() {
        let bytes = [8, 0, 0xf7, 0xfc, 0, 1, 0, 2];
        let message = Icmpv4Message::parse(&bytes, 8).unwrap();
        assert_eq!(message.covered(), 8);
        let message = message.verify_bytes(&bytes).unwrap();
        assert_eq!(message, Icmpv4Message::EchoRequest { ident: 1, sequence: 2 });
        assert!(matches!(Icmpv4Message::parse(&bytes[..7], 7), Err(DropReason::PktTooSmall)));
        let mut broken = bytes;
        broken[7] = 3;
        assert_eq!(
            Icmpv4Message::parse(&broken, 8).unwrap().verify_bytes(&broken),
            Err(DropReason::IcmpCsum)
        );
    }

    #[test]
    fn when_no_error_may_be_sent() {
        let header = Ipv4Header::new(REMOTE, US, IpProtocol::UDP, 64, 100);
        assert!(error_is_allowed(&header, &[], false));
        assert!(!error_is_allowed(&header, &[], true));
        let with = |change: &dyn Fn(&mut Ipv4Header)| {
            let mut header = header;
            change(&mut header);
            header
        };
        assert!(!error_is_allowed(&with(&|h| h.dst = Ipv4Addr::BROADCAST), &[], false));
        assert!(!error_is_allowed(&with(&|h| h.dst = Ipv4Addr::new(224, 0, 0, 1)), &[], false));
        assert!(error_is_allowed(&with(&|h| h.src = Ipv4Addr::LOCALHOST), &[], false), "of the host itself");
        for src in [Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, Ipv4Addr::new(240, 0, 0, 1)] {
            assert!(!error_is_allowed(&with(&|h| h.src = src), &[], false), "{src}");
        }
        let fragment = |offset| Some(ipv4::Fragment { offset, more: true });
        assert!(error_is_allowed(&with(&|h| h.fragment = fragment(0)), &[], false));
        assert!(!error_is_allowed(&with(&|h| h.fragment = fragment(8)), &[], false));
        let icmp = with(&|h| h.protocol = IpProtocol::ICMP);
        assert!(error_is_allowed(&icmp, &[ECHO_REQUEST], false));
        assert!(!error_is_allowed(&icmp, &[], false));
        for kind in [3, 4, 5, 11, 12] {
            assert!(!error_is_allowed(&icmp, &[kind], false), "about type {kind}");
            let mut bytes = [0; HEADER_LEN];
            bytes[0] = kind;
            assert!(Icmpv4Message::parse(&bytes, 8).unwrap().trust().quotes_a_packet(), "type {kind}");
        }
    }

    #[test]
    fn errors_stay_within_576_bytes() {
        assert_eq!(quote_len(28), 28);
        assert_eq!(ipv4::HEADER_LEN + HEADER_LEN + quote_len(1500), 576);
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..100), len in 0usize..70_000) {
            if let Ok(message) = Icmpv4Message::parse(&bytes, len) {
                let _ = message.verify_bytes(&bytes);
                let message = message.trust();
                prop_assert_eq!(message.quotes_a_packet(), matches!(bytes[0], 3 | 4 | 5 | 11 | 12));
            }
        }

        #[test]
        fn what_parses_emits_what_parses_to_the_same(mut bytes in prop::collection::vec(any::<u8>(), 8..100), kind in 0u8..20) {
            bytes[0] = kind;
            let message = Icmpv4Message::parse(&bytes, bytes.len()).unwrap().trust();
            let mut out = vec![0; HEADER_LEN];
            message.emit(&mut out, Sum::of(&bytes[8..]));
            out.extend(&bytes[8..]);
            let again = Icmpv4Message::parse(&out, out.len()).unwrap().verify_bytes(&out);
            prop_assert_eq!(again, Ok(message));
        }
    }
}
