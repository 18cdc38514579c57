//! A header in front of a packet, and away; in fragments where the path takes no more and the transport
//! can't make smaller ones.

use super::{Ip, Way};
use crate::counters::{Counter, Counters};
use crate::filter::Hook;
use crate::keyed_hash::HashKey;
use crate::link::HEADROOM;
use crate::wire::address::AddressPair;
use crate::wire::drop_reason::DropReason;
use crate::wire::extension::{FRAGMENT_LEN, FragmentHeader};
use crate::wire::ipv4::{self, Fragment, IpProtocol, Ipv4Header};
use crate::wire::ipv6::{self, Ipv6Header};
use core::hash::{Hash, Hasher};
use proto::Instant;
use proto::nic::packet_buf::{Marks, PacketBuf};
use proto::nic::pool::NoPages;
use proto::shm::Memory;

/// Numbers for packets that are cut: RFC 7739 §5.3, a counter for each pair of addresses that begins at a
/// secret place. Counters are shared by pairs whose hashes agree.
#[derive(Debug)]
pub(super) struct Idents {
    key: HashKey,
    counters: [u32; Idents::COUNTERS],
}

impl Idents {
    const COUNTERS: usize = 256;

    pub(super) fn new(key: HashKey) -> Idents {
        Idents { key, counters: [0; Idents::COUNTERS] }
    }

    fn next(&mut self, now: Instant, pair: &AddressPair) -> u32 {
        let mut hasher = self.key.hasher();
        pair.hash(&mut hasher);
        let hash = hasher.finish();
        let counter = &mut self.counters[(hash >> 32) as usize % Idents::COUNTERS];
        *counter = counter.wrapping_add(1);
        // The clock keeps a successor from beginning where its predecessor did.
        (hash as u32).wrapping_add(*counter).wrapping_add(now.millis() as u32)
    }
}

/// Bytes of a packet that its rules look at: the headers of IP with their options, and ports.
const HEADERS_LOOKED_AT: usize = 128;

impl<M: Memory + Clone> Ip<M> {
    /// Puts an IP header in front of `packet` and sends it on its `way`: whole, or in fragments where it is
    /// longer than the way takes and is no segment of TCP, which makes them as long as they may be.
    pub fn send(
        &mut self,
        now: Instant,
        way: &Way,
        pair: &AddressPair,
        protocol: IpProtocol,
        mut packet: PacketBuf<M>,
        counters: &mut Counters,
    ) {
        let header_len = super::header_len(pair.dst());
        if packet.len() + header_len > usize::from(way.mtu) && protocol != IpProtocol::TCP {
            return self.send_fragments(now, way, pair, protocol, &packet, counters);
        }
        let mut bytes = [0; ipv6::HEADER_LEN];
        let written = match *pair {
            AddressPair::V4 { src, dst } => {
                let header = Ipv4Header::new(src, dst, protocol, way.hop_limit, packet.len());
                Ipv4Header {
                    tos: way.tos,
                    dont_fragment: !way.may_cut,
                    ident: self.ident_of(now, way, pair),
                    ..header
                }
                .emit(&mut bytes)
            }
            AddressPair::V6 { src, dst } => {
                let header = Ipv6Header::new(src, dst, protocol, way.hop_limit, packet.len());
                Ipv6Header { traffic_class: way.tos, ..header }.emit(&mut bytes)
            }
        };
        if packet.prepend(&bytes[..written]).is_err() {
            return counters.drop(DropReason::NoMem);
        }
        self.send_whole(now, way, packet, counters);
    }

    /// RFC 6864 §4.1: a packet that may be cut has a number of its own.
    fn ident_of(&mut self, now: Instant, way: &Way, pair: &AddressPair) -> u16 {
        if way.may_cut { self.idents.next(now, pair) as u16 } else { 0 }
    }

    /// A number for a packet between these ends (RFC 791 §3.2).
    pub fn number_for(&mut self, now: Instant, pair: &AddressPair) -> u16 {
        self.idents.next(now, pair) as u16
    }

    /// A packet with its IP header leaves; what has no hops left stays within the host (RFC 1112 §6.1).
    #[inline]
    pub fn send_whole(&mut self, now: Instant, way: &Way, packet: PacketBuf<M>, counters: &mut Counters) {
        if !self.rules.is_unused() && self.is_kept_back(way.nic, &packet) {
            return counters.drop(DropReason::NetfilterDrop);
        }
        if way.here {
            self.link.loop_back(way.nic, way.next_hop, &packet, counters);
        }
        if way.hop_limit > 0 {
            self.link.send(now, way.nic, way.next_hop, packet, counters);
        }
    }

    /// Whether a rule on its way out drops a packet.
    #[cold]
    #[inline(never)]
    fn is_kept_back(&mut self, nic: u16, packet: &PacketBuf<M>) -> bool {
        let mut head = [0; HEADERS_LOOKED_AT];
        let got = packet.read_up_to(0, &mut head);
        [Hook::Output, Hook::Postrouting]
            .into_iter()
            .any(|hook| self.is_filtered(hook, nic, &head[..got], packet.len()))
    }

    /// RFC 791 §3.2, RFC 8200 §4.5: as few parts as the way takes. All or nothing leaves, as far as pages
    /// go.
    fn send_fragments(
        &mut self,
        now: Instant,
        way: &Way,
        pair: &AddressPair,
        protocol: IpProtocol,
        packet: &PacketBuf<M>,
        counters: &mut Counters,
    ) {
        // What stands in front of each part, and the most that the whole may have behind its IP header.
        let (headers, whole_max) = match pair {
            AddressPair::V4 { .. } => (ipv4::HEADER_LEN, usize::from(u16::MAX) - ipv4::HEADER_LEN),
            AddressPair::V6 { .. } => (ipv6::HEADER_LEN + FRAGMENT_LEN, usize::from(u16::MAX)),
        };
        let most = (usize::from(way.mtu).saturating_sub(headers)) & !7;
        if most == 0 || packet.len() > whole_max {
            return counters.drop(DropReason::PktTooBig);
        }
        let ident = self.idents.next(now, pair);
        let mut parts = Vec::with_capacity(packet.len().div_ceil(most));
        let mut offset = 0;
        while offset < packet.len() {
            let len = most.min(packet.len() - offset);
            let part = Fragment { offset: offset as u32, more: offset + len < packet.len() };
            match fragment(way, pair, protocol, packet, part, len, ident) {
                Ok(built) => parts.push(built),
                Err(NoPages) => return counters.drop(DropReason::NoMem),
            }
            offset += len;
        }
        counters.count(Counter::FragOks);
        counters.add(Counter::FragCreates, parts.len() as u64);
        for part in parts {
            self.send_whole(now, way, part, counters);
        }
    }
}

/// One part of a packet, headers in front.
fn fragment<M: Memory>(
    way: &Way,
    pair: &AddressPair,
    protocol: IpProtocol,
    packet: &PacketBuf<M>,
    part: Fragment,
    len: usize,
    ident: u32,
) -> Result<PacketBuf<M>, NoPages> {
    let mut built = PacketBuf::alloc(packet.pool(), len, HEADROOM)?;
    built.write_from(0, packet, part.offset as usize, len)?;
    built.marks = Marks::default();
    let mut bytes = [0; ipv6::HEADER_LEN + FRAGMENT_LEN];
    let written = match *pair {
        AddressPair::V4 { src, dst } => {
            let whole = Ipv4Header::new(src, dst, protocol, way.hop_limit, len);
            let header = Ipv4Header {
                tos: way.tos,
                ident: ident as u16,
                dont_fragment: false,
                fragment: Some(part),
                ..whole
            };
            header.emit(&mut bytes)
        }
        AddressPair::V6 { src, dst } => {
            let header = Ipv6Header::new(src, dst, IpProtocol::FRAGMENT, way.hop_limit, len + FRAGMENT_LEN);
            let at = Ipv6Header { traffic_class: way.tos, ..header }.emit(&mut bytes);
            let fragment = FragmentHeader { part, ident, at: 0, named_at: 0 };
            bytes[at..at + FRAGMENT_LEN].copy_from_slice(&fragment.to_bytes(protocol));
            at + FRAGMENT_LEN
        }
    };
    built.prepend(&bytes[..written])?;
    Ok(built)
}
