//! Routes of several next hops: each flow keeps to one of them, and the flows divide by weight (ECMP, RFC 2992).
//!
//! Called by [`super::route`]. The hash is of the group's secret, so that a successor sends a flow the same way.
//! A next hop whose interface is down has no share, and one whose neighbour was asked and did not answer has
//! none for a while, if another one answers: of IPv6 always, of IPv4 where `fib_multipath_use_neigh` says so, as
//! with Linux. After a while it gets its share again, and with it the questions that show whether it is back.
//!
//! Not here: neighbours themselves; [`Unanswered`] is told of them.

use super::fib::Route;
use crate::keyed_hash::HashKey;
use core::hash::{Hash, Hasher};
use core::net::IpAddr;
use core::time::Duration;
use proto::Instant;
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

/// A next hop that does not answer is tried again after so long: what Linux keeps a failed neighbour for at most
/// (half of `base_reachable_time`, in neigh_periodic_work).
const TRIED_AGAIN_AFTER: Duration = Duration::from_secs(15);

/// Next hops whose neighbour did not answer, each until it is tried again.
#[derive(Debug, Default)]
pub struct Unanswered {
    hops: Vec<(u16, IpAddr, Instant)>,
    /// Of IPv4 they count, too (`fib_multipath_use_neigh`).
    pub of_v4: bool,
}

impl Unanswered {
    /// Whether a next hop has its share.
    pub fn has_share(&self, hop: &Hop) -> bool {
        let Some(gateway) = hop.gateway.filter(|via| self.of_v4 || via.is_ipv6()) else { return true };
        !self.hops.iter().any(|(link, via, _)| (*link, *via) == (hop.link, gateway))
    }

    /// One that is to be tried again has its share from here on.
    pub fn pop(&mut self, now: Instant) -> Option<(u16, IpAddr)> {
        let due = self.hops.iter().position(|(_, _, until)| *until <= now)?;
        let (link, gateway, _) = self.hops.swap_remove(due);
        Some((link, gateway))
    }

    /// Which of `asked` (each with whether it failed) are without an answer, as it is known now. Returns whether
    /// that has changed. `asked` are next hops of routes, so few.
    pub fn update(&mut self, now: Instant, asked: impl Iterator<Item = (u16, IpAddr, bool)>) -> bool {
        let mut changed = false;
        for (link, via, failed) in asked {
            let known = self.hops.iter().position(|(l, v, _)| (*l, *v) == (link, via));
            match (failed, known) {
                (true, None) => self.hops.push((link, via, now + TRIED_AGAIN_AFTER)),
                (false, Some(place)) => {
                    self.hops.swap_remove(place);
                }
                _ => continue,
            }
            changed = true;
        }
        changed
    }

    /// When one of them is to be tried again.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.hops.iter().map(|(_, _, until)| *until).min()
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
