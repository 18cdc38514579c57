//! What UDP sockets and listeners carry in their streams: records with a header.
//!
//! A record is a header of [`HEADER_SIZE`] bytes and `len` bytes of payload, padded to a multiple
//! of 8, so that a header starts 8-aligned in the stream (it may still cross a page border). For
//! UDP the header names the remote (as source or as destination); for an accept queue the record
//! has no payload and says where the new connection is.

use crate::id::{Epoch, SlotIndex};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};

/// Size of a record's header in bytes.
pub const HEADER_SIZE: usize = 56;

/// The largest payload of a record: a UDP datagram over IPv4 (RFC 768 over RFC 791).
pub const PAYLOAD_MAX: usize = 65_507;

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
}

/// What if_nametoindex(3) would say: 1 for loopback, which has no number (`None`), then the interfaces.
pub const fn interface_index(number: Option<u16>) -> u32 {
    match number {
        None => 1,
        Some(number) => number as u32 + 2,
    }
}

/// Bytes that a record of `len` bytes of payload takes in the stream.
pub const fn record_size(len: usize) -> usize {
    (HEADER_SIZE + len).next_multiple_of(8)
}

impl Header {
    /// To the bytes of the stream.
    pub fn to_bytes(&self) -> [u8; HEADER_SIZE] {
        let mut out = [0; HEADER_SIZE];
        out[0..4].copy_from_slice(&self.len.to_le_bytes());
        out[4..8].copy_from_slice(&self.slot.0.to_le_bytes());
        out[8..12].copy_from_slice(&self.epoch.0.to_le_bytes());
        for (at, addr) in [(12, self.remote), (32, self.local)] {
            let ip = match addr.ip() {
                IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                IpAddr::V6(v6) => v6,
            };
            out[at..at + 16].copy_from_slice(&ip.octets());
            out[at + 16..at + 18].copy_from_slice(&addr.port().to_le_bytes());
        }
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
    };

    /// Whether it is [`Header::LOST`]: no use of a place has the epoch 0.
    pub const fn is_lost(&self) -> bool {
        self.epoch.0 == 0
    }

    /// From the bytes of the stream; `None` when the length is impossible. The rest is data of the
    /// other side's choosing.
    pub fn from_bytes(bytes: &[u8; HEADER_SIZE]) -> Option<Header> {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let addr = |at: usize| {
            let mut octets = [0; 16];
            octets.copy_from_slice(&bytes[at..at + 16]);
            let v6 = Ipv6Addr::from(octets);
            let ip = v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4);
            SocketAddr::new(ip, u16::from_le_bytes([bytes[at + 16], bytes[at + 17]]))
        };
        let len = word(0);
        (len as usize <= PAYLOAD_MAX).then(|| Header {
            len,
            slot: SlotIndex(word(4)),
            epoch: Epoch(word(8)),
            remote: addr(12),
            local: addr(32),
        })
    }
}
