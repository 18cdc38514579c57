//! The network layer of both families: what is for us, where packets go, fragments, and ICMP.
//!
//! ```text
//! input.rs    a packet from the link, its headers checked        icmp.rs   echoes, errors sent and heard
//! route.rs    addresses and routes (fib.rs, prefix.rs, source.rs)  output.rs a header in front, and away
//! ndp.rs      neighbour discovery                                links.rs  what is done on each link (autoconf.rs, groups.rs)
//! reassembly.rs  fragments that wait for the rest                path_mtu.rs  what paths carry
//! ```

pub mod autoconf;
pub mod fib;
pub mod groups;
pub mod icmp;
pub mod input;
pub mod links;
pub mod multipath;
pub mod ndp;
pub mod output;
pub mod path_mtu;
pub mod policy;
pub mod prefix;
pub mod reassembly;
pub mod route;
pub mod source;

use crate::counters::Counters;
use crate::filter::Rules;
use crate::keyed_hash::HashKey;
use crate::link::Link;
use crate::wire::{ipv4, ipv6};
use core::net::{IpAddr, Ipv4Addr};
use icmp::ErrorLimit;
use links::{LinkHost, LinkNews};
use output::Idents;
use path_mtu::PathMtus;
use proto::Instant;
use proto::shm::Memory;
use reassembly::Reassembly;
use route::{AddrKind, LOOPBACK, RouteTable};
use std::collections::VecDeque;

/// Hops a packet of ours may take: RFC 1700, Linux `ip_default_ttl`; RFC 8200 packets as well, unless a
/// router says otherwise.
pub const TTL_DEFAULT: u8 = 64;

/// Length of the IP header that we put in front of a packet to `addr`.
pub const fn header_len(addr: IpAddr) -> usize {
    match addr {
        IpAddr::V4(_) => ipv4::HEADER_LEN,
        IpAddr::V6(_) => ipv6::HEADER_LEN,
    }
}

/// The network layer of a shard.
#[derive(Debug)]
pub struct Ip<M: Memory> {
    /// The link layer below.
    pub link: Link<M>,
    /// Where packets go.
    pub routes: RouteTable,
    /// What paths carry, where it is less than their first link.
    pub paths: PathMtus,
    reassembly: Reassembly<M>,
    hosts: Vec<LinkHost>,
    /// When some of them has something to do.
    hosts_due: Option<Instant>,
    news: VecDeque<LinkNews>,
    idents: Idents,
    /// The limit on the errors that this host sends.
    pub errors: ErrorLimit,
    /// The packet filter's rules.
    pub rules: Rules,
    /// Time to live of what this host sends by IPv4.
    pub ttl: u8,
    /// Echo requests are not answered: of IPv4, of IPv6.
    pub ignores_echo: [bool; 2],
    /// This shard speaks for the host where one voice is enough.
    pub speaks: bool,
}

/// How to get somewhere: the nicd to leave by, and what the first link takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    /// The interface to leave by, by the number of its nicd.
    pub nic: u16,
    /// The neighbour to give it to: a gateway or the destination.
    pub next_hop: IpAddr,
    /// The source address.
    pub source: IpAddr,
    /// Bytes of a packet that the path is known to take.
    pub mtu: u16,
    /// The destination is all hosts of a network.
    pub to_all: bool,
    /// Hops a packet may take.
    pub hop_limit: u8,
    /// Differentiated services and ECN of a packet.
    pub tos: u8,
    /// What is for a group or for all is for this host's own members too (RFC 1112 §6.1).
    pub here: bool,
    /// Routers may cut it (IP_PMTUDISC_DONT): no DF.
    pub may_cut: bool,
}

impl<M: Memory + Clone> Ip<M> {
    /// On top of `link`, with the routes that are known.
    pub fn new(link: Link<M>, routes: RouteTable, key: HashKey) -> Self {
        Ip {
            link,
            routes,
            paths: PathMtus::new(key),
            reassembly: Reassembly::default(),
            hosts: Vec::new(),
            hosts_due: None,
            news: VecDeque::new(),
            idents: Idents::new(key),
            errors: ErrorLimit::default(),
            rules: Rules::default(),
            ttl: TTL_DEFAULT,
            ignores_echo: [false; 2],
            speaks: true,
        }
    }

    /// Whether `ip` is an address of this host.
    pub fn is_ours(&self, ip: IpAddr) -> bool {
        self.routes.is_local(ip)
    }

    /// The way to `dst`, from `source` if the sender has chosen one; `None` when there is none.
    pub fn way(&self, dst: IpAddr, source: Option<IpAddr>) -> Option<Way> {
        self.way_by(dst, source, route::zone_interface(dst))
    }

    /// As [`Ip::way`], by that interface alone.
    pub fn way_by(&self, dst: IpAddr, source: Option<IpAddr>, by: Option<u16>) -> Option<Way> {
        self.way_along(dst, source, by, 0)
    }

    /// As [`Ip::way_by`], of the flow between those ports, ours first: of several next hops it has its own.
    pub fn way_of(
        &self,
        dst: IpAddr,
        source: Option<IpAddr>,
        by: Option<u16>,
        ports: (u16, u16),
    ) -> Option<Way> {
        let (local, remote) = ports;
        let counts = self.routes.asks_for_ports(dst);
        let ports = if counts { u32::from(local) << 16 | u32::from(remote) } else { 0 };
        self.way_along(dst, source, by.or(route::zone_interface(dst)), ports)
    }

    fn way_along(&self, dst: IpAddr, source: Option<IpAddr>, by: Option<u16>, ports: u32) -> Option<Way> {
        let path = self.routes.path_of(dst, source, by, ports).ok()?;
        // What is for an address of ours never leaves the host, whatever interface has the address.
        let nic = if path.kind == AddrKind::Local { LOOPBACK } else { path.interface };
        if nic != LOOPBACK && path.source.is_loopback() {
            // RFC 1122 §3.2.1.3 (g), RFC 4291 §2.5.3: loopback addresses never appear outside a host.
            return None;
        }
        let interface = self.link.interface(nic)?;
        let first = interface.mtu_of(dst);
        let mtu = self.paths.known(dst).map_or(first, |path| path.min(first));
        let hop_limit = if dst.is_ipv4() { self.ttl } else { interface.hop_limit };
        let to_all = path.kind == AddrKind::Broadcast;
        // RFC 1122 §3.3.6: what is for all hosts of a network goes to all stations of its link.
        let next_hop = if to_all { IpAddr::V4(Ipv4Addr::BROADCAST) } else { path.next_hop };
        Some(Way {
            nic,
            next_hop,
            source: path.source,
            mtu,
            hop_limit,
            to_all,
            tos: 0,
            here: false,
            may_cut: false,
        })
    }

    /// Everything due at `now` happens. Returns whether neighbours moved.
    pub fn on_timers(&mut self, now: Instant, counters: &mut Counters) -> bool {
        let moved = self.link.on_timers(now, counters);
        while let Some((nic, gateway)) = self.routes.tried_again(now) {
            self.link.forget_failed(now, nic, gateway, counters);
        }
        if moved {
            let link = &self.link;
            self.routes.look_at_neighbours(now, |nic, gateway| link.has_failed(now, nic, gateway));
        }
        self.claim_addresses(now);
        self.expire_fragments(now, counters);
        self.on_link_timers(now, counters);
        self.paths.expire(now);
        moved
    }

    /// When [`Ip::on_timers`] has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        let parts = [
            self.link.next_deadline(),
            self.routes.next_deadline(),
            self.reassembly.next_deadline(),
            self.hosts_due,
        ];
        parts.into_iter().flatten().min()
    }
}
