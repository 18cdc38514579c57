//! What routes and policy rules are made of, as they stand in the configuration.

use super::pack::{Pack, Unpack};
use crate::control::messages::Prefix;
use core::net::IpAddr;
use serde::{Deserialize, Serialize};

/// rtnetlink(7): RT_TABLE_MAIN, in which a route stands that names no table.
pub const TABLE_MAIN: u32 = 254;
/// rtnetlink(7): RT_TABLE_DEFAULT, looked at last.
pub const TABLE_DEFAULT: u32 = 253;
/// rtnetlink(7): RT_TABLE_LOCAL, that of our own addresses, which nobody enters routes into.
pub const TABLE_LOCAL: u32 = 255;
/// Of the rule that leads to [`TABLE_MAIN`]; ip-rule(8).
pub const PRIORITY_MAIN: u32 = 32766;
/// Of the rule that leads to [`TABLE_DEFAULT`]; ip-rule(8).
pub const PRIORITY_DEFAULT: u32 = 32767;
/// Next hops that a route may have: as many as a cell of the configuration has room for.
pub const HOPS_MAX: usize = 4;

/// One of several next hops of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Hop {
    /// The gateway; `None` when the network is on the link.
    pub gateway: Option<IpAddr>,
    /// The interface.
    pub link: u16,
    /// Its share of the flows, beside the others'; from 1 on.
    pub weight: u8,
}

/// What a route of several next hops has beside the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Hops {
    /// The first one's share, from 1 on; 0 when it is the only one.
    pub first_weight: u8,
    /// The others, the first places used.
    pub more: [Option<Hop>; HOPS_MAX - 1],
}

impl Hops {
    /// The others.
    pub fn others(&self) -> impl Iterator<Item = &Hop> {
        self.more.iter().flatten()
    }

    /// Whether there is more than one.
    pub const fn is_several(&self) -> bool {
        self.more[0].is_some()
    }

    pub(super) fn is_sound(&self) -> bool {
        let first_of_all = self.is_several() == (self.first_weight > 0);
        let dense = self.more.windows(2).all(|pair| pair[0].is_some() || pair[1].is_none());
        first_of_all && dense && self.others().all(|hop| hop.weight > 0)
    }

    pub(super) fn pack<const N: usize>(&self, out: &mut Pack<N>) {
        out.u8(self.first_weight);
        for hop in &self.more {
            let nothing = Hop { gateway: None, link: 0, weight: 0 };
            let hop = hop.unwrap_or(nothing);
            // No gateway is unspecified.
            out.ip(hop.gateway.unwrap_or(IpAddr::V4(core::net::Ipv4Addr::UNSPECIFIED)));
            out.u16(hop.link);
            out.u8(hop.weight);
        }
    }

    pub(super) fn unpack(from: &mut Unpack<'_>) -> Hops {
        let first_weight = from.u8();
        let more = core::array::from_fn(|_| {
            let (gateway, link, weight) = (from.ip(), from.u16(), from.u8());
            let gateway = Some(gateway).filter(|gateway| !gateway.is_unspecified());
            (weight > 0).then_some(Hop { gateway, link, weight })
        });
        Hops { first_weight, more }
    }
}

/// What a policy rule does with what it matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Action {
    /// Looks for a route in a table; without one the next rule is asked.
    Lookup(u32),
    /// There is no way.
    Unreachable,
}

/// A rule by which a table is chosen; ip-rule(8). What is `None` matches everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PolicyRule {
    /// The lowest is asked first. Not 0, which is that of our own addresses.
    pub priority: u32,
    /// It is of IPv6.
    pub v6: bool,
    /// It matches what its selectors do not.
    pub not: bool,
    /// The source that a packet has, or that its socket is bound to.
    pub source: Option<Prefix>,
    /// Where it goes.
    pub destination: Option<Prefix>,
    /// The interface that its socket is bound to.
    pub interface: Option<u16>,
    /// What it does.
    pub action: Action,
}

impl PolicyRule {
    /// Whether its parts can be: prefixes of its family, and a table that can be looked at.
    pub fn is_sound(&self) -> bool {
        let of_family = |prefix: &Option<Prefix>| {
            prefix.is_none_or(|prefix| {
                prefix.addr.is_ipv6() == self.v6 && prefix.len <= if self.v6 { 128 } else { 32 }
            })
        };
        let table = !matches!(self.action, Action::Lookup(0 | TABLE_LOCAL));
        self.priority > 0 && of_family(&self.source) && of_family(&self.destination) && table
    }

    pub(super) fn pack<const N: usize>(&self, out: &mut Pack<N>) {
        out.u32(self.priority);
        out.u8(u8::from(self.v6));
        out.u8(u8::from(self.not));
        super::filter::pack_prefix(out, self.source);
        super::filter::pack_prefix(out, self.destination);
        out.u8(u8::from(self.interface.is_some()));
        out.u16(self.interface.unwrap_or(0));
        // No table has the number 0.
        out.u32(if let Action::Lookup(table) = self.action { table } else { 0 });
    }

    pub(super) fn unpack(from: &mut Unpack<'_>) -> PolicyRule {
        let (priority, v6, not) = (from.u32(), from.u8() != 0, from.u8() != 0);
        let source = super::filter::unpack_prefix(from);
        let destination = super::filter::unpack_prefix(from);
        let (bound, link) = (from.u8() != 0, from.u16());
        let action = match from.u32() {
            0 => Action::Unreachable,
            table => Action::Lookup(table),
        };
        PolicyRule { priority, v6, not, source, destination, interface: bound.then_some(link), action }
    }
}
