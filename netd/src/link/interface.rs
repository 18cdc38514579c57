//! One interface: its address on the link, its addresses above it, its neighbours, its pages.

use super::conflict::Conflicts;
use super::neighbour::NeighbourTable;
use crate::ip::autoconf::Learned;
use crate::wire::address::MacAddr;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use proto::control::messages::Prefix;
use proto::hard::config::Vlan;
use proto::nic::packet_buf::PacketBuf;
use proto::nic::pool::FramePool;
use proto::shm::Memory;
use std::rc::Rc;

/// Of an interface that was a VLAN: its index is free.
pub const NO_VLAN: Vlan = Vlan { below: u16::MAX, id: 0 };

/// What an interface starts with.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InterfaceConfig {
    /// The stack's hardware address on it.
    pub mac: MacAddr,
    /// Maximum transmission unit in bytes.
    pub mtu: u16,
    /// It is a VLAN of another one: behind those that have devices.
    pub vlan: Option<Vlan>,
    /// The stack's addresses on it; nobody else on the link has them.
    pub addrs: Vec<Prefix>,
    /// Addresses that are to be looked for on the link first (RFC 4862 §5.4, RFC 5227 §2.1).
    pub tentative: Vec<Prefix>,
    /// Default gateways through it.
    pub gateways: Vec<IpAddr>,
    /// Addresses and routers of IPv6 are learned from the link.
    pub slaac: bool,
    /// What was learned before.
    pub learned: Learned,
}

/// An interface.
#[derive(Debug)]
pub struct Interface<M: Memory> {
    /// The stack's hardware address on it.
    pub mac: MacAddr,
    /// Maximum transmission unit in bytes.
    pub mtu: u16,
    /// It is a VLAN of another one, or [`NO_VLAN`]: nothing any more.
    pub vlan: Option<Vlan>,
    /// The stack's addresses on it.
    pub addrs: Vec<IpAddr>,
    /// The groups it listens to beside those of all hosts, as they stand on the wire, in order.
    pub groups: Vec<IpAddr>,
    /// What IPv6 packets may have, where a router says that it is less than [`Interface::mtu`].
    pub mtu_v6: u16,
    /// Hops that IPv6 packets may take from here: 64, or what a router says.
    pub hop_limit: u8,
    /// Who else is on its link.
    pub neighbours: NeighbourTable<PacketBuf<M>>,
    /// Its addresses of IPv4 that are looked for, and those that others claim.
    pub conflicts: Conflicts,
    /// What its device does for the stack: bits of [`proto::control::notices::feature`].
    pub features: u32,
    /// The pages its frames lie in.
    pub frames: Rc<FramePool<M>>,
}

impl<M: Memory> Interface<M> {
    /// The link address of a group, when `ip` is one (RFC 1112 §6.4).
    pub fn group_mac(&self, ip: IpAddr) -> Option<MacAddr> {
        match ip {
            IpAddr::V4(v4) if v4.is_multicast() => Some(MacAddr::of_ipv4_multicast(v4)),
            IpAddr::V4(Ipv4Addr::BROADCAST) => Some(MacAddr::BROADCAST),
            IpAddr::V6(v6) if v6.is_multicast() => Some(MacAddr::of_ipv6_multicast(v6)),
            _ => None,
        }
    }

    /// Bytes of a packet to `addr` that the link takes.
    pub fn mtu_of(&self, addr: IpAddr) -> u16 {
        match addr {
            IpAddr::V4(_) => self.mtu,
            IpAddr::V6(_) => self.mtu.min(self.mtu_v6),
        }
    }

    /// The interface has that address from now on.
    pub fn assign(&mut self, addr: IpAddr) {
        if !self.addrs.contains(&addr) {
            self.addrs.push(addr);
        }
    }

    /// Whether this host has joined a group there.
    pub fn listens_to(&self, group: IpAddr) -> bool {
        self.groups.binary_search(&group).is_ok()
    }

    /// The IPv6 address that speaks to `target` on the link: of the same scope if there is one, then with
    /// the most leading bits in common.
    pub fn v6_towards(&self, target: Ipv6Addr) -> Option<Ipv6Addr> {
        let v6 = self.addrs.iter().filter_map(|addr| match addr {
            IpAddr::V6(v6) => Some(*v6),
            IpAddr::V4(_) => None,
        });
        v6.max_by_key(|addr| {
            let same_scope = addr.is_unicast_link_local() == target.is_unicast_link_local();
            (same_scope, (addr.to_bits() ^ target.to_bits()).leading_zeros())
        })
    }

    /// The link-local address.
    pub fn link_local(&self) -> Option<Ipv6Addr> {
        self.addrs.iter().find_map(|addr| match addr {
            IpAddr::V6(v6) if v6.is_unicast_link_local() => Some(*v6),
            _ => None,
        })
    }

    /// The first IPv4 address.
    pub fn first_v4(&self) -> Option<Ipv4Addr> {
        self.addrs.iter().find_map(|addr| match addr {
            IpAddr::V4(v4) => Some(*v4),
            IpAddr::V6(_) => None,
        })
    }

    /// The IPv4 address that has the most leading bits in common with `target`.
    pub fn v4_towards(&self, target: Ipv4Addr) -> Option<Ipv4Addr> {
        let v4 = self.addrs.iter().filter_map(|addr| match addr {
            IpAddr::V4(v4) => Some(*v4),
            IpAddr::V6(_) => None,
        });
        v4.max_by_key(|addr| (addr.to_bits() ^ target.to_bits()).leading_zeros())
    }
}
