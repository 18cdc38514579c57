//! ICMP for IPv6: RFC 4443. Neighbour discovery and MLD have the same header and are in [`super::ndp`] and
//! [`super::mld`].
//!
//! ```text
//!  0      1      2          4          8
//!  | type | code | checksum | the rest | payload: echo data, or the quoted packet
//! ```

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::address::AddressPair;
use super::checksum::{Sum, pseudo_header};
use super::drop_reason::DropReason;
use super::extension;
use super::ipv4::{IpProtocol, too_short};
use super::ipv6::{self, Ipv6Header};
use super::quote::Complaint;
use super::unchecked::Unchecked;

/// Length of the header; the payload follows.
pub const HEADER_LEN: usize = 8;
/// The most bytes of a packet that an error quotes: RFC 4443 §2.4 (c), the error fits the minimum MTU.
pub const QUOTE_LEN_MAX: usize = ipv6::MTU_MIN - ipv6::HEADER_LEN - HEADER_LEN;

const UNREACHABLE: u8 = 1;
const PACKET_TOO_BIG: u8 = 2;
const TIME_EXCEEDED: u8 = 3;
const PARAMETER_PROBLEM: u8 = 4;
const ECHO_REQUEST: u8 = 128;
const ECHO_REPLY: u8 = 129;
/// RFC 4443 §2.1: below this a message is an error.
const INFORMATIONAL: u8 = 128;

/// RFC 4443 §3.1: administratively prohibited.
const CODE_PROHIBITED: u8 = 1;
/// RFC 4443 §3.1: address unreachable.
const CODE_ADDRESS: u8 = 3;
/// RFC 4443 §3.1: port unreachable.
pub const CODE_PORT: u8 = 4;
/// RFC 4443 §3.3: fragment reassembly time exceeded.
pub const CODE_REASSEMBLY: u8 = 1;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Layout {
    kind: u8,
    code: u8,
    checksum: U16,
    rest: [u8; 4],
}

const _: () = assert!(size_of::<Layout>() == HEADER_LEN);

/// A message without its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Icmpv6Message {
    /// A quoted packet did not arrive.
    Unreachable {
        /// Why: RFC 4443 §3.1.
        code: u8,
    },
    /// A quoted packet does not fit a link.
    PacketTooBig {
        /// What fits.
        mtu: u32,
    },
    /// A quoted packet ran out of hops (code 0) or its fragments of time (code 1).
    TimeExceeded {
        /// Which of the two.
        code: u8,
    },
    /// A quoted packet has a header that makes no sense.
    ParameterProblem {
        /// In which way: RFC 4443 §3.4.
        code: u8,
        /// The byte of the quoted packet at fault.
        pointer: u32,
    },
    /// A request to send the payload back.
    EchoRequest {
        /// Chosen by the asker.
        ident: u16,
        /// Chosen by the asker.
        sequence: u16,
    },
    /// The answer to an echo request; the payload is the request's.
    EchoReply {
        /// Whose request it was.
        ident: u16,
        /// Which of them.
        sequence: u16,
    },
    /// Anything else; neighbour discovery and MLD among it.
    Other {
        /// The type.
        kind: u8,
        /// The code.
        code: u8,
    },
}

impl Icmpv6Message {
    /// Reads the header at the start of `head`; the IP payload has `message_len` bytes.
    ///
    /// # Errors
    /// [`DropReason::PktTooSmall`], [`DropReason::HdrTrunc`].
    pub fn parse(
        head: &[u8],
        message_len: usize,
        pair: &AddressPair,
    ) -> Result<Unchecked<Icmpv6Message>, DropReason> {
        let head = &head[..head.len().min(message_len)];
        let (layout, _) = Layout::read_from_prefix(head).map_err(|_| too_short(message_len, HEADER_LEN))?;
        let code = layout.code;
        let [a, b, c, d] = layout.rest;
        let (ident, sequence) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        let word = u32::from_be_bytes(layout.rest);
        let message = match layout.kind {
            UNREACHABLE => Icmpv6Message::Unreachable { code },
            PACKET_TOO_BIG => Icmpv6Message::PacketTooBig { mtu: word },
            TIME_EXCEEDED => Icmpv6Message::TimeExceeded { code },
            PARAMETER_PROBLEM => Icmpv6Message::ParameterProblem { code, pointer: word },
            ECHO_REQUEST => Icmpv6Message::EchoRequest { ident, sequence },
            ECHO_REPLY => Icmpv6Message::EchoReply { ident, sequence },
            kind => Icmpv6Message::Other { kind, code },
        };
        let pseudo = pseudo_header(pair, IpProtocol::ICMPV6.0, message_len as u32);
        Ok(Unchecked::new(message, message_len, pseudo, DropReason::IcmpCsum))
    }

    /// True for an error, which quotes a packet.
    pub const fn quotes_a_packet(&self) -> bool {
        match self {
            Icmpv6Message::EchoRequest { .. } | Icmpv6Message::EchoReply { .. } => false,
            Icmpv6Message::Other { kind, .. } => *kind < INFORMATIONAL,
            _ => true,
        }
    }

    /// What it says of the packet that it quotes; `None` when it says nothing that a transport has to
    /// know.
    pub const fn complaint(&self) -> Option<Complaint> {
        Some(match *self {
            Icmpv6Message::Unreachable { code } => match code {
                CODE_PORT => Complaint::Port,
                CODE_PROHIBITED => Complaint::Prohibited,
                CODE_ADDRESS => Complaint::Host,
                _ => Complaint::Network,
            },
            // RFC 8201 §4: one below the minimum is not believed.
            Icmpv6Message::PacketTooBig { mtu } if mtu < ipv6::MTU_MIN as u32 => return None,
            Icmpv6Message::PacketTooBig { mtu } => {
                Complaint::TooBig { mtu: if mtu > u16::MAX as u32 { u16::MAX } else { mtu as u16 } }
            }
            Icmpv6Message::TimeExceeded { .. } => Complaint::Expired,
            // RFC 4443 §3.4: the host knows no such protocol.
            Icmpv6Message::ParameterProblem { code: 1, .. } => Complaint::Protocol,
            Icmpv6Message::ParameterProblem { .. } => Complaint::Problem,
            _ => return None,
        })
    }

    /// Writes the header to the start of `out`, with the checksum for a payload of `payload_len` bytes that
    /// have the sum `payload`, and returns its length.
    ///
    /// # Panics
    /// When `out` is shorter than [`HEADER_LEN`].
    pub fn emit(&self, out: &mut [u8], pair: &AddressPair, payload: Sum, payload_len: usize) -> usize {
        let halves = |high: u16, low: u16| {
            let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
            [a, b, c, d]
        };
        let (kind, code, rest) = match *self {
            Icmpv6Message::Unreachable { code } => (UNREACHABLE, code, [0; 4]),
            Icmpv6Message::PacketTooBig { mtu } => (PACKET_TOO_BIG, 0, mtu.to_be_bytes()),
            Icmpv6Message::TimeExceeded { code } => (TIME_EXCEEDED, code, [0; 4]),
            Icmpv6Message::ParameterProblem { code, pointer } => {
                (PARAMETER_PROBLEM, code, pointer.to_be_bytes())
            }
            Icmpv6Message::EchoRequest { ident, sequence } => (ECHO_REQUEST, 0, halves(ident, sequence)),
            Icmpv6Message::EchoReply { ident, sequence } => (ECHO_REPLY, 0, halves(ident, sequence)),
            Icmpv6Message::Other { kind, code } => (kind, code, [0; 4]),
        };
        let mut layout = Layout { kind, code, checksum: U16::ZERO, rest };
        let len = (HEADER_LEN + payload_len) as u32;
        let pseudo = pseudo_header(pair, IpProtocol::ICMPV6.0, len);
        layout.checksum = U16::new(pseudo.then(layout.as_bytes()).then_sum(payload).field());
        out[..HEADER_LEN].copy_from_slice(layout.as_bytes());
        HEADER_LEN
    }
}

/// Fills in the checksum of a whole message in `bytes`.
///
/// # Panics
/// When it is shorter than four bytes.
pub fn fill_checksum(bytes: &mut [u8], pair: &AddressPair) {
    bytes[2..4].fill(0);
    let pseudo = pseudo_header(pair, IpProtocol::ICMPV6.0, bytes.len() as u32);
    let field = pseudo.then(bytes).field();
    bytes[2..4].copy_from_slice(&field.to_be_bytes());
}

/// Whether an error may be sent about the packet at the start of `head`: RFC 4443 §2.4 (e). `to_group`
/// whether its frame or destination was a multicast one, `even_so` whether this error is one of those that
/// are sent all the same (packet too big, and the option type that asks for it).
pub fn error_is_allowed(header: &Ipv6Header, head: &[u8], to_group: bool, even_so: bool) -> bool {
    let behind = head.get(ipv6::HEADER_LEN..).unwrap_or(&[]);
    let about_an_error = match extension::walk(behind, header.next_header, 0, 0) {
        Ok(chain) if chain.fragment.is_some_and(|fragment| fragment.part.offset != 0) => true,
        Ok(chain) if chain.protocol == IpProtocol::ICMPV6 => {
            // RFC 4443 §2.4 (e.1); one that can't be seen may be an error.
            behind.get(chain.len).is_none_or(|kind| *kind < INFORMATIONAL)
        }
        _ => false,
    };
    let to_group = to_group || header.dst.is_multicast();
    let src_is_host = !header.src.is_unspecified() && !header.src.is_multicast();
    !about_an_error && (!to_group || even_so) && src_is_host
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::Ipv6Addr;
    use proptest::prelude::*;

    const PAIR: AddressPair = AddressPair::V6 { src: Ipv6Addr::LOCALHOST, dst: Ipv6Addr::from_bits(77) };

    #[test]
    fn when_no_error_may_be_sent() {
        let (src, dst) = (Ipv6Addr::from_bits(5), Ipv6Addr::from_bits(6));
        let allowed = |next: u8, src, dst, payload: &[u8], to_group, even_so| {
            let mut head = vec![0; ipv6::HEADER_LEN];
            let header = Ipv6Header::new(src, dst, IpProtocol(next), 64, payload.len());
            header.emit(&mut head);
            head.extend(payload);
            error_is_allowed(&header, &head, to_group, even_so)
        };
        assert!(allowed(17, src, dst, &[0; 8], false, false));
        assert!(!allowed(17, src, dst, &[0; 8], true, false));
        assert!(allowed(17, src, dst, &[0; 8], true, true));
        let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        assert!(!allowed(17, src, all_nodes, &[0; 8], false, false));
        assert!(!allowed(17, all_nodes, dst, &[0; 8], false, false));
        assert!(!allowed(17, Ipv6Addr::UNSPECIFIED, dst, &[0; 8], false, false));
        assert!(allowed(58, src, dst, &[ECHO_REQUEST], false, false));
        assert!(!allowed(58, src, dst, &[], false, false));
        assert!(!allowed(58, src, dst, &[127], false, true));
        assert!(!allowed(44, src, dst, &[17, 0, 0, 8, 0, 0, 0, 1], false, false), "a later fragment");
        assert!(!allowed(60, src, dst, &[58, 0, 1, 4, 0, 0, 0, 0, 3], false, false), "behind an extension");
    }

    #[test]
    fn small_mtus_are_not_believed() {
        assert_eq!(Icmpv6Message::PacketTooBig { mtu: 1279 }.complaint(), None);
        let huge = Icmpv6Message::PacketTooBig { mtu: 1 << 20 };
        assert_eq!(huge.complaint(), Some(Complaint::TooBig { mtu: u16::MAX }));
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..100), len in 0usize..70_000) {
            if let Ok(message) = Icmpv6Message::parse(&bytes, len, &PAIR) {
                let _ = message.verify_bytes(&bytes);
                prop_assert_eq!(message.trust().quotes_a_packet(), bytes[0] < 128);
            }
        }

        #[test]
        fn what_parses_emits_what_parses_to_the_same(mut bytes in prop::collection::vec(any::<u8>(), 8..100), kind in 0u8..140) {
            bytes[0] = kind;
            let message = Icmpv6Message::parse(&bytes, bytes.len(), &PAIR).unwrap().trust();
            let mut out = vec![0; HEADER_LEN];
            message.emit(&mut out, &PAIR, Sum::of(&bytes[8..]), bytes.len() - 8);
            out.extend(&bytes[8..]);
            let again = Icmpv6Message::parse(&out, out.len(), &PAIR).unwrap().verify_bytes(&out);
            prop_assert_eq!(again, Ok(message));
            out[3] ^= 1;
            prop_assert!(Icmpv6Message::parse(&out, out.len(), &PAIR).unwrap().verify_bytes(&out).is_err());
            fill_checksum(&mut out, &PAIR);
            prop_assert!(Icmpv6Message::parse(&out, out.len(), &PAIR).unwrap().verify_bytes(&out).is_ok());
        }
    }
}
