//! What daemons tell each other beside the rings, over the ipc-channel lanes of
//! [`super::rendezvous`]: link events, frame filters, changes of the configuration.
//!
//! A notice is a level, not an event: the newest one counts, and each side says its own again
//! whenever a lane is made anew. Only configuration requests are numbered and answered; sockd
//! repeats those without an answer over the next lane, and netd answers what it has done already.

use super::messages::Prefix;
use crate::hard::config::{LinkName, Vlan};
use crate::hard::filter::Rule;
use crate::hard::routing::{Hops, PolicyRule};
use crate::hard::sysctl::Tunable;
use core::net::IpAddr;
use serde::{Deserialize, Serialize};

/// Version of the notices; changes with any of them.
pub const VERSION: u32 = 5;

/// A hardware address.
pub type Mac = [u8; 6];

/// Multicast addresses that a filter may name; beyond that nicd lets all multicast through.
pub const MULTICAST_MAX: usize = 64;

/// What a device does so that the stack need not. Bits of [`LinkNotice::features`].
pub mod feature {
    /// Fills in the transport checksum of frames that are sent.
    pub const TX_CHECKSUM: u32 = 1 << 0;
    /// Says of received frames whether their transport checksum is right.
    pub const RX_CHECKSUM: u32 = 1 << 1;
    /// Cuts TCP super-frames of IPv4 into segments.
    pub const TSO4: u32 = 1 << 2;
    /// As [`TSO4`], of IPv6.
    pub const TSO6: u32 = 1 << 3;
    /// Joins received TCP segments into super-frames.
    pub const RX_COALESCE: u32 = 1 << 4;
    /// Drops in the device what its address filter does not name.
    pub const MAC_FILTER: u32 = 1 << 5;
}

/// nicd → netd: what the link is like now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkNotice {
    /// There is a carrier.
    pub up: bool,
    /// The device's hardware address.
    pub mac: Mac,
    /// Largest payload of a frame in bytes.
    pub mtu: u16,
    /// The backend or driver, as `netctl link` shows it.
    pub driver: String,
    /// Bits of [`feature`].
    pub features: u32,
}

/// netd → nicd: which frames the stack wants beside those to its own address and to all.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FilterNotice {
    /// Every frame.
    pub promiscuous: bool,
    /// Every multicast frame.
    pub all_multicast: bool,
    /// Every frame to a group of IPv4 (RFC 1112 §6.4).
    pub ipv4_groups: bool,
    /// Multicast addresses; at most [`MULTICAST_MAX`].
    pub multicast: Vec<Mac>,
}

/// A change of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// Give interface `nic` an address.
    AddressAdd {
        /// Which interface.
        nic: u16,
        /// The address.
        prefix: Prefix,
        /// It is looked for on the link before it is used; always so with IPv6.
        dad: bool,
    },
    /// Take an address from interface `nic`.
    AddressDel {
        /// Which interface.
        nic: u16,
        /// The address.
        prefix: Prefix,
    },
    /// Reach a network through an interface, directly or by a gateway.
    RouteAdd {
        /// The network.
        to: Prefix,
        /// The next hop, if it is not on the link.
        via: Option<IpAddr>,
        /// Which interface.
        nic: u16,
        /// The lower one wins among equal prefixes.
        metric: u32,
        /// In which table.
        table: u32,
        /// The source address to prefer.
        source: Option<IpAddr>,
        /// Its next hops beside that one.
        hops: Hops,
    },
    /// Forget a route.
    RouteDel {
        /// The network.
        to: Prefix,
        /// Its metric.
        metric: u32,
        /// In which table.
        table: u32,
    },
    /// Choose a table by a rule.
    RuleAdd {
        /// The rule.
        rule: PolicyRule,
    },
    /// Forget such a rule.
    RuleDel {
        /// The rule.
        rule: PolicyRule,
    },
    /// Fix a neighbour's hardware address.
    NeighbourAdd {
        /// Which interface.
        nic: u16,
        /// The neighbour.
        addr: IpAddr,
        /// Its hardware address.
        mac: Mac,
    },
    /// Forget a neighbour.
    NeighbourDel {
        /// Which interface.
        nic: u16,
        /// The neighbour.
        addr: IpAddr,
    },
    /// Change an interface; what is `None` stays.
    LinkSet {
        /// Which interface.
        nic: u16,
        /// Up or down, as an administrator wants it.
        up: Option<bool>,
        /// Largest payload of a frame in bytes.
        mtu: Option<u16>,
        /// Every frame is wanted.
        promiscuous: Option<bool>,
    },
    /// Make an interface that is a VLAN of another one.
    LinkAdd {
        /// Its index, which no interface has.
        nic: u16,
        /// Its name.
        name: LinkName,
        /// What it is a VLAN of.
        vlan: Vlan,
    },
    /// Take such an interface away, with its addresses, routes and neighbours.
    LinkDel {
        /// Which interface.
        nic: u16,
    },
    /// Enter a rule of the packet filter.
    FilterAdd {
        /// The rule.
        rule: Rule,
    },
    /// Forget a rule of the packet filter.
    FilterDel {
        /// Its number.
        number: u32,
    },
    /// Set a tunable.
    SysctlSet {
        /// Which one.
        tunable: Tunable,
        /// To what.
        value: u32,
    },
    /// Copy frames into the capture rings for [`crate::capture::OPEN_FOR_MS`] from now on; a reader
    /// asks again before that is over.
    CaptureOpen,
    /// Read the configuration region again: shard 0 has made a change there. Only to the other shards.
    Refresh,
}

/// sockd → netd: change this. Made twice under one number it changes once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigRequest {
    /// Its number.
    pub id: u64,
    /// What to change.
    pub change: Change,
}

/// netd → sockd: how that went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigReply {
    /// The request's number.
    pub id: u64,
    /// errno on failure.
    pub result: Result<(), u32>,
}
