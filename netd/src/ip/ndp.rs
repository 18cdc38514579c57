//! Neighbour discovery: who asks for an address of ours is answered, who answers is taken into the
//! neighbour table (RFC 4861 §7.2), routers are heard, and MLD queries with them.
//!
//! What may change this host's own addresses and routes comes from the link alone: hop limit 255, no
//! fragments (RFC 6980), and checked as RFC 4861 says. Every message is copied out of the shared page once,
//! and its checksum taken over the copy.

use super::icmp::{Heard, here};
use super::input::Received;
use super::{Ip, LOOPBACK};
use crate::counters::{Counter, Counters};
use crate::link::neighbour::{Advertised, Evidence};
use crate::wire::address::AddressPair;
use crate::wire::drop_reason::DropReason;
use crate::wire::icmpv6::Icmpv6Message;
use crate::wire::mld;
use crate::wire::ndp::{
    ALL_NODES, HOP_LIMIT, MESSAGE_LEN_MAX, NdpMessage, Options, REDIRECT, ROUTER_SOLICITATION,
};
use core::net::{IpAddr, Ipv6Addr};
use proto::Instant;
use proto::shm::Memory;
use proto::zone;

/// A message as it came in.
pub(super) struct OnLink {
    /// The interface.
    pub interface: u16,
    /// Its zone.
    pub zone: u16,
    /// Who sent it, with its zone.
    pub src: Ipv6Addr,
    /// Another shard heard it too, and answers it.
    pub elsewhere: bool,
}

impl<M: Memory + Clone> Ip<M> {
    /// An ICMPv6 message of a kind that stays on the link.
    pub(super) fn receive_on_link(
        &mut self,
        now: Instant,
        kind: u8,
        received: &Received<'_, M>,
        counters: &mut Counters,
    ) -> Result<Heard, DropReason> {
        let len = received.frame.buf.len();
        let (AddressPair::V6 { src, .. }, Some(zone)) = (received.pair, here(received)) else {
            return Err(DropReason::NdpInvalid);
        };
        if len > MESSAGE_LEN_MAX {
            return Err(DropReason::NdpInvalid);
        }
        let mut copy = [0; MESSAGE_LEN_MAX];
        received.frame.buf.read_up_to(0, &mut copy);
        let bytes = &copy[..len];
        Icmpv6Message::parse(bytes, len, &received.pair)?.verify_bytes(bytes)?;
        let elsewhere = received.frame.buf.marks.elsewhere;
        let from = OnLink { interface: received.interface, zone, src, elsewhere };
        match kind {
            ROUTER_SOLICITATION..=REDIRECT => {
                counters.count(Counter::NdpIn);
                self.receive_ndp(now, bytes, received, &from, counters)
            }
            mld::QUERY => {
                counters.count(Counter::MldIn);
                // RFC 3810 §5.1.14, §6.2: from a router of this link.
                if received.hop_limit != 1 || !from.src.is_unicast_link_local() {
                    return Err(DropReason::MldInvalid);
                }
                match self.queried(now, from.interface, &mld::parse_query(bytes)?, false) {
                    true => Ok(Heard::Done),
                    false => Err(DropReason::IcmpUnhandled),
                }
            }
            _ => Err(DropReason::IcmpUnhandled),
        }
    }

    fn receive_ndp(
        &mut self,
        now: Instant,
        bytes: &[u8],
        received: &Received<'_, M>,
        from: &OnLink,
        counters: &mut Counters,
    ) -> Result<Heard, DropReason> {
        // RFC 4861 §6.1, §7.1, §8.1: a router would have lowered it.
        if received.hop_limit != HOP_LIMIT || received.interface == LOOPBACK {
            return Err(DropReason::NdpInvalid);
        }
        // RFC 6980 §5.
        if received.fragmented {
            return Err(DropReason::NdpFragmented);
        }
        let AddressPair::V6 { src, dst } = received.pair else { return Err(DropReason::NdpInvalid) };
        let wire = AddressPair::V6 { src: zone::without(src), dst: zone::without(dst) };
        let (message, options) = NdpMessage::parse(bytes, &wire)?;
        match message {
            NdpMessage::NeighbourSolicitation { target } => {
                self.solicited(now, zone::with(target, from.zone), options, from, counters)
            }
            NdpMessage::NeighbourAdvertisement { target, solicited, overrides, .. } => {
                let addr = IpAddr::V6(zone::with(target, from.zone));
                let said = Advertised { addr, mac: options.target_link(), solicited, overrides };
                self.heard_advertisement(now, &said, from, counters)
            }
            NdpMessage::RouterAdvertisement(said) => {
                let router = IpAddr::V6(from.src);
                if let Some(mac) = options.source_link() {
                    self.link.learn(now, from.interface, router, mac, Evidence::AskedUs, counters);
                }
                self.with_host(now, from.interface, counters, |host, mut sink| {
                    host.advertised(now, from.src, &said, options, &mut sink);
                });
                Ok(Heard::Neighbours)
            }
            NdpMessage::Redirect { target, destination } => {
                let destination = zone::with(destination, from.zone);
                let target = zone::with(target, from.zone);
                self.redirected(now, destination, target, options, from, counters)
            }
            // RFC 4861 §6.2.6: a host is no router.
            NdpMessage::RouterSolicitation => Err(DropReason::NdpNotForUs),
        }
    }

    /// RFC 4861 §8.1, §8.3: only the present first hop may send us elsewhere.
    fn redirected(
        &mut self,
        now: Instant,
        destination: Ipv6Addr,
        target: Ipv6Addr,
        options: Options<'_>,
        from: &OnLink,
        counters: &mut Counters,
    ) -> Result<Heard, DropReason> {
        let way = self.way(IpAddr::V6(destination), None).ok_or(DropReason::NdpNotForUs)?;
        let first_hop = way.nic == from.interface && way.next_hop == IpAddr::V6(from.src);
        if !first_hop || self.is_ours(IpAddr::V6(target)) {
            return Err(DropReason::NdpNotForUs);
        }
        if let Some(mac) = options.target_link() {
            self.link.learn(now, from.interface, IpAddr::V6(target), mac, Evidence::AskedUs, counters);
        }
        self.with_host(now, from.interface, counters, |host, mut sink| {
            host.redirected(now, destination, target, &mut sink);
        });
        Ok(Heard::Neighbours)
    }

    /// Somebody has an address that we were about to take, or asks for it as we do: RFC 4862 §5.4.3, §5.4.4.
    fn conflicts(&mut self, now: Instant, addr: Ipv6Addr, from: &OnLink, counters: &mut Counters) -> bool {
        let host = self.hosts.get(usize::from(from.interface));
        let tentative = host.is_some_and(|host| host.autoconf.is_tentative(addr));
        if tentative {
            self.with_host(now, from.interface, counters, |host, mut sink| {
                host.conflict(now, addr, &mut sink);
            });
        }
        tentative
    }

    /// RFC 4861 §7.2.3, §7.2.4: somebody asks for `target`.
    fn solicited(
        &mut self,
        now: Instant,
        target: Ipv6Addr,
        options: Options<'_>,
        from: &OnLink,
        counters: &mut Counters,
    ) -> Result<Heard, DropReason> {
        // RFC 4862 §5.4.3: another host probes it too; a question by a neighbour is not answered yet.
        if from.src.is_unspecified() && self.conflicts(now, target, from, counters) {
            return Err(DropReason::NdpConflict);
        }
        let interface = self.link.interface(from.interface).ok_or(DropReason::DevDown)?;
        if !interface.addrs.contains(&IpAddr::V6(target)) {
            return Err(DropReason::NdpNotForUs);
        }
        let answer = |solicited| NdpMessage::NeighbourAdvertisement {
            target,
            router: false,
            solicited,
            overrides: true,
        };
        if from.src.is_unspecified() {
            // RFC 4861 §7.2.4: who probes has no address; everybody is told.
            if !from.elsewhere {
                self.link.send_ndp(from.interface, &answer(false), target, ALL_NODES, None, counters);
            }
            return Ok(Heard::Done);
        }
        let asker = IpAddr::V6(from.src);
        let known = interface.neighbours.get(now, asker).and_then(|neighbour| neighbour.mac);
        let mac = options.source_link().or(known).filter(|mac| mac.is_unicast());
        let mac = mac.ok_or(DropReason::NdpNotForUs)?;
        if options.source_link().is_some() {
            self.link.learn(now, from.interface, asker, mac, Evidence::AskedUs, counters);
        }
        if !from.elsewhere {
            self.link.send_ndp(from.interface, &answer(true), target, from.src, Some(mac), counters);
        }
        Ok(Heard::Neighbours)
    }

    /// RFC 4861 §7.2.5: somebody says where an address is.
    fn heard_advertisement(
        &mut self,
        now: Instant,
        said: &Advertised,
        from: &OnLink,
        counters: &mut Counters,
    ) -> Result<Heard, DropReason> {
        let IpAddr::V6(addr) = said.addr else { return Err(DropReason::NdpInvalid) };
        let interface = self.link.interface(from.interface).ok_or(DropReason::DevDown)?;
        if interface.addrs.contains(&said.addr) || self.conflicts(now, addr, from, counters) {
            return Err(DropReason::NdpConflict);
        }
        match self.link.advertised(now, from.interface, said, counters) {
            true => Ok(Heard::Neighbours),
            false => Err(DropReason::NdpNotForUs),
        }
    }
}
