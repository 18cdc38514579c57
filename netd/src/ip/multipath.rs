//! Routes of several next hops: each flow keeps to one of them, and the flows divide by weight (ECMP, RFC 2992).
//!
//! Called by [`super::route`]. The hash is of the group's secret, so that a successor sends a flow the same way.
//! A next hop whose interface is down has no share. Not here: neighbours that do not answer keep theirs.

use super::fib::Route;
use crate::keyed_hash::HashKey;
use core::hash::{Hash, Hasher};
use core::net::IpAddr;
use proto::hard::routing::Hop;
use proto::zone;

impl Route {
    /// Its next hops, the first one first.
    pub fn next_hops(&self) -> impl Iterator<Item = Hop> {
        let first =
            Hop { gateway: self.gateway, link: self.interface, weight: self.hops.first_weight.max(1) };
        core::iter::once(first).chain(self.hops.others().copied())
    }

    /// Zones of its link-local gateways follow from their links.
    pub(super) fn zoned(mut self) -> Route {
        let zoned = |gateway: Option<IpAddr>, link: u16| {
            gateway.map(|via| zone::ip_with(via, zone::of_interface(link)))
        };
        self.gateway = zoned(self.gateway, self.interface);
        for hop in self.hops.more.iter_mut().flatten() {
            hop.gateway = zoned(hop.gateway, hop.link);
        }
        self
    }
}

/// What tells flows apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowOf {
    /// Where it comes from, once that is known.
    pub source: Option<IpAddr>,
    /// Where it goes.
    pub dst: IpAddr,
    /// Its ports, where they count: the local one in the high half.
    pub ports: u32,
}

/// The next hop of a flow, of those that are usable; `None` when none is.
pub fn choose(route: &Route, key: &HashKey, flow: &FlowOf, usable: impl Fn(&Hop) -> bool) -> Option<Hop> {
    let total: u64 = route.next_hops().filter(&usable).map(|hop| u64::from(hop.weight)).sum();
    let mut hasher = key.hasher();
    flow.hash(&mut hasher);
    // RFC 2992 §2: the space of hashes is divided into regions, as wide as the weights.
    let mut place = ((hasher.finish() >> 32) * total) >> 32;
    route.next_hops().filter(usable).find(|hop| {
        let here = place < u64::from(hop.weight);
        place = place.saturating_sub(hop.weight.into());
        here
    })
}
