//! What an ICMP error of either family tells a transport: which packet of ours it speaks of, and what is
//! the matter with it.

use super::address::AddressPair;
use super::drop_reason::DropReason;
use super::extension;
use super::ipv4::{self, IpProtocol};
use super::ipv6::{self, Ipv6Header};
use crate::tcp::seq::SeqNum;
use core::net::{IpAddr, Ipv4Addr};

/// What every quote holds behind the headers of IP: RFC 792, 64 bits.
const QUOTED_PAYLOAD_LEN: usize = 8;

/// What an error says of the packet it quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Complaint {
    /// No route to its network.
    Network,
    /// Its host does not answer.
    Host,
    /// A filter forbids it.
    Prohibited,
    /// Its host has no such protocol.
    Protocol,
    /// Nobody has its port.
    Port,
    /// It does not fit a link on its way.
    TooBig {
        /// What would fit, with the IP header; 0 from an IPv4 router older than RFC 1191.
        mtu: u16,
    },
    /// It ran out of hops, or its fragments of time.
    Expired,
    /// One of its headers makes no sense to somebody.
    Problem,
}

/// An ICMP error about a packet of ours, for the transport that sent it.
#[derive(Debug, Clone, Copy)]
pub struct Report {
    /// What it says.
    pub complaint: Complaint,
    /// The packet it speaks of.
    pub quote: Quote,
    /// The message itself.
    pub said: Said,
}

/// An error as it came, for programs that want to know (IP_RECVERR).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Said {
    /// The type of the message.
    pub kind: u8,
    /// Its code.
    pub code: u8,
    /// The MTU that it names in bytes, or the byte that it points at; 0 without either.
    pub info: u32,
    /// Who sent it.
    pub offender: IpAddr,
}

impl Said {
    /// What the link would say of a neighbour that does not answer: host or address unreachable.
    pub const fn by_ourselves(us: IpAddr) -> Said {
        let (kind, code) = match us {
            IpAddr::V4(_) => (3, 1),
            IpAddr::V6(_) => (1, 3),
        };
        Said { kind, code, info: 0, offender: us }
    }
}

/// What an error tells about the packet it quotes: one that we sent, if the sender is honest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quote {
    /// The ends of the quoted packet: the source is us.
    pub pair: AddressPair,
    /// What it carried.
    pub protocol: IpProtocol,
    /// The transport's first 8 bytes: ports for TCP and UDP, type, code and ident for ICMP.
    pub transport: [u8; QUOTED_PAYLOAD_LEN],
    /// Where in the quote those stand.
    pub transport_at: usize,
}

const INVALID: DropReason = DropReason::IcmpQuoteInvalid;

impl Quote {
    /// Reads the quoted IPv4 packet at the start of `payload`, the bytes behind the ICMP header.
    ///
    /// Its checksum is not looked at: routers quote it before or after they changed the TTL. Nor is its
    /// length: old systems quote it in host order.
    ///
    /// # Errors
    /// [`DropReason::IcmpQuoteInvalid`] when it is no IPv4 packet, not a first fragment, or too short to
    /// tell whose it was (RFC 792: the header and 64 bits).
    pub fn parse_v4(payload: &[u8]) -> Result<Quote, DropReason> {
        let fixed: &[u8; ipv4::HEADER_LEN] = payload.first_chunk().ok_or(INVALID)?;
        let header_len = usize::from(fixed[0] & 0x0f) * 4;
        let offset = u16::from_be_bytes([fixed[6], fixed[7]]) & 0x1fff;
        if fixed[0] >> 4 != 4 || header_len < ipv4::HEADER_LEN || offset != 0 {
            return Err(INVALID);
        }
        let behind = payload.get(header_len..).ok_or(INVALID)?;
        Ok(Quote {
            pair: AddressPair::V4 {
                src: Ipv4Addr::new(fixed[12], fixed[13], fixed[14], fixed[15]),
                dst: Ipv4Addr::new(fixed[16], fixed[17], fixed[18], fixed[19]),
            },
            protocol: IpProtocol(fixed[9]),
            transport: *behind.first_chunk().ok_or(INVALID)?,
            transport_at: header_len,
        })
    }

    /// Reads the quoted IPv6 packet at the start of `payload`; the addresses are as they stand there.
    ///
    /// # Errors
    /// [`DropReason::IcmpQuoteInvalid`], as [`Quote::parse_v4`].
    pub fn parse_v6(payload: &[u8]) -> Result<Quote, DropReason> {
        let header = Ipv6Header::parse(payload, usize::MAX).map_err(|_| INVALID)?;
        let mut behind = &payload[ipv6::HEADER_LEN..];
        let mut protocol = header.next_header;
        // One fragment header may be in between, of a first fragment.
        for _ in 0..2 {
            let chain = extension::walk(behind, protocol, 0, 0).map_err(|_| INVALID)?;
            if chain.fragment.is_some_and(|fragment| fragment.part.offset != 0) {
                return Err(INVALID);
            }
            behind = &behind[chain.len..];
            protocol = chain.protocol;
            if chain.fragment.is_none() {
                break;
            }
        }
        let transport = *behind.first_chunk().ok_or(INVALID)?;
        let transport_at = payload.len() - behind.len();
        Ok(Quote { pair: header.pair(), protocol, transport, transport_at })
    }

    /// The source port of a quoted TCP segment or UDP datagram: ours.
    pub const fn src_port(&self) -> u16 {
        u16::from_be_bytes([self.transport[0], self.transport[1]])
    }

    /// The destination port of a quoted TCP segment or UDP datagram: the remote's.
    pub const fn dst_port(&self) -> u16 {
        u16::from_be_bytes([self.transport[2], self.transport[3]])
    }

    /// The sequence number of a quoted TCP segment, which must be one in flight: RFC 5927 §4.1.
    pub const fn tcp_seq(&self) -> SeqNum {
        let [.., a, b, c, d] = self.transport;
        SeqNum::new(u32::from_be_bytes([a, b, c, d]))
    }
}

#[cfg(test)]
mod tests {
    use super::super::ipv4::Ipv4Header;
    use super::*;
    use core::net::Ipv6Addr;
    use proptest::prelude::*;

    const US: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const REMOTE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
    const TRANSPORT: [u8; 8] = [0x12, 0x34, 0x56, 0x78, 1, 2, 3, 4];

    fn is_ours(quote: &Quote) {
        assert_eq!((quote.src_port(), quote.dst_port()), (0x1234, 0x5678));
        assert_eq!((quote.tcp_seq(), quote.protocol), (SeqNum::new(0x0102_0304), IpProtocol::TCP));
    }

    #[test]
    fn quotes_of_ipv4_tell_whose_packet_it_was() {
        let mut packet = vec![0; ipv4::HEADER_LEN];
        Ipv4Header::new(US, REMOTE, IpProtocol::TCP, 64, 8).emit(&mut packet);
        packet.extend(TRANSPORT);
        let quote = Quote::parse_v4(&packet).unwrap();
        assert_eq!(quote.pair, AddressPair::V4 { src: US, dst: REMOTE });
        is_ours(&quote);
        assert_eq!(Quote::parse_v4(&packet[..27]), Err(INVALID));
        for (at, value) in [(0, 0x65), (0, 0x44), (0, 0x4f), (7, 1)] {
            let mut packet = packet.clone();
            packet[at] = value;
            assert_eq!(Quote::parse_v4(&packet), Err(INVALID), "byte {at} = {value}");
        }
    }

    #[test]
    fn quotes_of_ipv6_may_be_first_fragments() {
        let (src, dst) = (Ipv6Addr::LOCALHOST, Ipv6Addr::from_bits(9));
        let packet = |next: u8, between: &[u8]| {
            let mut packet = vec![0; ipv6::HEADER_LEN];
            Ipv6Header::new(src, dst, IpProtocol(next), 64, 1000).emit(&mut packet);
            packet.extend(between);
            packet.extend(TRANSPORT);
            packet
        };
        for quoted in
            [packet(6, &[]), packet(44, &[6, 0, 0, 1, 0, 0, 0, 9]), packet(60, &[6, 0, 1, 4, 0, 0, 0, 0])]
        {
            let quote = Quote::parse_v6(&quoted).unwrap();
            assert_eq!(quote.pair, AddressPair::V6 { src, dst });
            is_ours(&quote);
            assert_eq!(Quote::parse_v6(&quoted[..quoted.len() - 1]), Err(INVALID));
        }
        assert_eq!(Quote::parse_v6(&packet(44, &[6, 0, 0, 9, 0, 0, 0, 9])), Err(INVALID), "a later fragment");
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..120), version in 4u8..7) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() {
                *first = version << 4 | (*first & 0x0f);
            }
            let _ = (Quote::parse_v4(&bytes), Quote::parse_v6(&bytes));
        }
    }
}
