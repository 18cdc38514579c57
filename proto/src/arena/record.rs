//! What sockets of datagrams and listeners carry in their streams: records with a header.
//!
//! A record is a header of [`HEADER_SIZE`] bytes and `len` bytes of payload, padded to a multiple
//! of 8, so that a header starts 8-aligned in the stream (it may still cross a page border). For
//! datagrams the header names the remote (as source or as destination); for an accept queue the record
//! has no payload and says where the new connection is.
//!
//! ```text
//!  0 len   4 slot   8 epoch   12 remote address  28 port  30 hop limit  31 traffic class
//! 32 local address  48 port  50 segment  52 marks  54 –  56 time in ns
//! ```

use crate::id::{Epoch, SlotIndex};
use crate::time::Instant;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};

/// Size of a record's header in bytes.
pub const HEADER_SIZE: usize = 64;

/// The largest payload of a record: a packet of IPv4 with its header (RFC 791 §3.1).
pub const PAYLOAD_MAX: usize = 65_535;

/// The largest payload of a UDP datagram over IPv4 (RFC 768 over RFC 791).
pub const DATAGRAM_MAX: usize = 65_507;

/// What is said of a datagram, bits of [`Said::marks`].
pub mod mark {
    /// Received: no datagram, but what became of one that was sent; the payload is an
    /// [`ErrorNote`](super::ErrorNote) and what is known of that datagram's payload (IP_RECVERR).
    pub const ERROR: u16 = 1;
    /// To be sent: without a checksum (SO_NO_CHECK, UDP_NO_CHECK6_TX).
    pub const UNSUMMED: u16 = 1 << 1;
    /// To be sent: whole or not at all (IP_PMTUDISC_DO); longer than the path takes is EMSGSIZE.
    pub const WHOLE: u16 = 1 << 2;
    /// To be sent: the IP header is part of the payload (IP_HDRINCL).
    pub const WITH_HEADER: u16 = 1 << 3;
    /// To be sent to a group: this host's members do not get it (IP_MULTICAST_LOOP off).
    pub const NOT_HERE: u16 = 1 << 4;
    /// To be sent: by the interface of the header, past the routes (SO_DONTROUTE).
    pub const ON_LINK: u16 = 1 << 5;
    /// Received by a packet socket: a frame that leaves (PACKET_OUTGOING).
    pub const OUTGOING: u16 = 1 << 6;
    /// Received: it was for a group.
    pub const TO_GROUP: u16 = 1 << 7;
    /// Received: it was for all hosts of a network.
    pub const TO_ALL: u16 = 1 << 8;
    /// Received: nobody has looked at its checksum yet (a packet socket's frame that leaves).
    pub const SUM_MISSING: u16 = 1 << 9;
    /// Received by a packet socket: the frame was for another host.
    pub const ELSEWHERE: u16 = 1 << 10;
    /// To be sent: as many hops as `hop_limit` says, also when that is 0.
    pub const HOPS_SAID: u16 = 1 << 11;
    /// To be sent: routers may cut it (IP_PMTUDISC_DONT).
    pub const MAY_CUT: u16 = 1 << 12;
}

/// What is said of a datagram beside its ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Said {
    /// Hops: those it had left when it came in, or may take; 0 leaves that to the stack.
    pub hop_limit: u8,
    /// Differentiated services and ECN (IP_TOS, IPV6_TCLASS).
    pub tos: u8,
    /// Bytes of payload of each datagram where the record holds several of one flow, the last one may be
    /// shorter (UDP_SEGMENT, UDP_GRO); 0 where it holds one.
    pub segment: u16,
    /// See [`mark`].
    pub marks: u16,
    /// When it came in.
    pub at: Instant,
}

/// The header of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Bytes of payload that follow.
    pub len: u32,
    /// The remote's address.
    pub remote: SocketAddr,
    /// Our address, as the remote named it; unspecified to let the stack choose.
    pub local: SocketAddr,
    /// Accept queue: the place of the new connection. Datagrams: the [index](interface_index) of the
    /// interface they came in or shall leave by, 0 where nobody cares.
    pub slot: SlotIndex,
    /// Accept queue: which use of that place, 0 for none ([`Header::LOST`]); else 0.
    pub epoch: Epoch,
    /// Datagrams: what else there is to say.
    pub said: Said,
}

/// What if_nametoindex(3) would say: 1 for loopback, which has no number (`None`), then the interfaces.
pub const fn interface_index(number: Option<u16>) -> u32 {
    match number {
        None => 1,
        Some(number) => number as u32 + 2,
    }
}

/// Bytes that a record of `len` bytes of payload takes in the stream.
#[inline]
pub const fn record_size(len: usize) -> usize {
    (HEADER_SIZE + len).next_multiple_of(8)
}

fn put_addr(out: &mut [u8], addr: SocketAddr) {
    let ip = match addr.ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    out[..16].copy_from_slice(&ip.octets());
    out[16..18].copy_from_slice(&addr.port().to_le_bytes());
}

fn get_addr(bytes: &[u8]) -> SocketAddr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&bytes[..16]);
    let v6 = Ipv6Addr::from(octets);
    let ip = v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4);
    SocketAddr::new(ip, u16::from_le_bytes([bytes[16], bytes[17]]))
}

impl Header {
    /// To the bytes of the stream.
    #[inline]
    pub fn to_bytes(&self) -> [u8; HEADER_SIZE] {
        let mut out = [0; HEADER_SIZE];
        out[0..4].copy_from_slice(&self.len.to_le_bytes());
        out[4..8].copy_from_slice(&self.slot.0.to_le_bytes());
        out[8..12].copy_from_slice(&self.epoch.0.to_le_bytes());
        put_addr(&mut out[12..30], self.remote);
        (out[30], out[31]) = (self.said.hop_limit, self.said.tos);
        put_addr(&mut out[32..50], self.local);
        out[50..52].copy_from_slice(&self.said.segment.to_le_bytes());
        out[52..54].copy_from_slice(&self.said.marks.to_le_bytes());
        out[56..64].copy_from_slice(&self.said.at.nanos().to_le_bytes());
        out
    }

    /// In an accept queue: stands for a connection whose record was lost before it could be accepted
    /// (INV-T7). It keeps the numbers of those behind it (INV-T9); who accepts passes over it.
    pub const LOST: Header = Header {
        len: 0,
        remote: SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0)),
        local: SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0)),
        slot: SlotIndex(0),
        epoch: Epoch(0),
        said: Said { hop_limit: 0, tos: 0, segment: 0, marks: 0, at: Instant::ZERO },
    };

    /// Whether it is [`Header::LOST`]: no use of a place has the epoch 0.
    pub const fn is_lost(&self) -> bool {
        self.epoch.0 == 0
    }

    /// Whether all of `marks` is said of it.
    pub const fn is(&self, marks: u16) -> bool {
        self.said.marks & marks == marks
    }

    /// From the bytes of the stream; `None` when the length is impossible. The rest is data of the
    /// other side's choosing.
    #[inline]
    pub fn from_bytes(bytes: &[u8; HEADER_SIZE]) -> Option<Header> {
        let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let time = u64::from(word(56)) | u64::from(word(60)) << 32;
        let len = word(0);
        (len as usize <= PAYLOAD_MAX).then(|| Header {
            len,
            slot: SlotIndex(word(4)),
            epoch: Epoch(word(8)),
            remote: get_addr(&bytes[12..30]),
            local: get_addr(&bytes[32..50]),
            said: Said {
                hop_limit: bytes[30],
                tos: bytes[31],
                segment: half(50),
                marks: half(52),
                at: Instant::from_nanos(time),
            },
        })
    }
}

/// Bytes of an [`ErrorNote`].
pub const NOTE_BYTES: usize = 32;

/// What became of a datagram that was sent: Linux's `sock_extended_err` and SO_EE_OFFENDER.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorNote {
    /// errno.
    pub errno: u8,
    /// Who says so: SO_EE_ORIGIN_LOCAL, _ICMP or _ICMP6.
    pub origin: u8,
    /// The type of the ICMP message.
    pub kind: u8,
    /// Its code.
    pub code: u8,
    /// What it adds: the MTU of a path in bytes, or a pointer.
    pub info: u32,
    /// Who sent it.
    pub offender: IpAddr,
}

impl ErrorNote {
    /// SO_EE_ORIGIN_LOCAL.
    pub const LOCAL: u8 = 1;
    /// SO_EE_ORIGIN_ICMP.
    pub const ICMP: u8 = 2;
    /// SO_EE_ORIGIN_ICMP6.
    pub const ICMP6: u8 = 3;

    /// To the bytes that stand before what is known of the datagram.
    pub fn to_bytes(&self) -> [u8; NOTE_BYTES] {
        let mut out = [0; NOTE_BYTES];
        out[..4].copy_from_slice(&[self.errno, self.origin, self.kind, self.code]);
        out[4..8].copy_from_slice(&self.info.to_le_bytes());
        put_addr(&mut out[8..26], SocketAddr::new(self.offender, 0));
        out
    }

    /// From such bytes.
    pub fn from_bytes(bytes: &[u8; NOTE_BYTES]) -> ErrorNote {
        ErrorNote {
            errno: bytes[0],
            origin: bytes[1],
            kind: bytes[2],
            code: bytes[3],
            info: u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
            offender: get_addr(&bytes[8..26]).ip(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let said = Said {
            hop_limit: 3,
            tos: 0xb8,
            segment: 1400,
            marks: mark::ERROR,
            at: Instant::from_nanos(7 << 40),
        };
        let header = Header {
            len: 65_535,
            remote: "[2001:db8::1]:9".parse().expect("an address"),
            local: "10.0.0.1:53".parse().expect("an address"),
            slot: SlotIndex(4),
            epoch: Epoch(0),
            said,
        };
        assert_eq!(Header::from_bytes(&header.to_bytes()), Some(header));
        let long = Header { len: 65_536, ..header };
        assert_eq!(Header::from_bytes(&long.to_bytes()), None);
        let offender = "10.0.0.7".parse().expect("an address");
        let note = ErrorNote { errno: 113, origin: ErrorNote::ICMP, kind: 3, code: 1, info: 1400, offender };
        assert_eq!(ErrorNote::from_bytes(&note.to_bytes()), note);
    }
}
