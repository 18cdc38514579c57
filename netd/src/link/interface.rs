//! One interface: its address on the link, its addresses above it, its neighbours, its pages.

use super::neighbour::NeighbourTable;
use crate::wire::address::MacAddr;
use core::net::{IpAddr, Ipv4Addr};
use proto::control::messages::Prefix;
use proto::nic::packet_buf::PacketBuf;
use proto::nic::pool::FramePool;
use proto::shm::Memory;
use std::rc::Rc;

/// What an interface starts with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceConfig {
    /// The stack's hardware address on it.
    pub mac: MacAddr,
    /// Maximum transmission unit in bytes.
    pub mtu: u16,
    /// The stack's addresses on it.
    pub addrs: Vec<Prefix>,
    /// Default gateway through it.
    pub gateway: Option<Ipv4Addr>,
}

/// An interface.
#[derive(Debug)]
pub struct Interface<M: Memory> {
    /// The stack's hardware address on it.
    pub mac: MacAddr,
    /// Maximum transmission unit in bytes.
    pub mtu: u16,
    /// The stack's addresses on it.
    pub addrs: Vec<IpAddr>,
    /// Who else is on its link.
    pub neighbours: NeighbourTable<PacketBuf<M>>,
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
