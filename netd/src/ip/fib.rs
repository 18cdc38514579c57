//! The forwarding table: networks to routes, the longest network first, then the lowest metric.
//!
//! Owned by [`super::route::RouteTable`]. A map per family over all networks, and a bit for each prefix
//! length that occurs: a lookup asks once for each of those, and tables have few (a host has three or
//! four, the whole internet 25). Nothing here knows addresses of our own.

use core::net::IpAddr;
use std::collections::HashMap;

use super::prefix::Prefix;
use crate::keyed_hash::HashKey;
use proto::hard::routing::Hops;

/// A way to a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// The network.
    pub prefix: Prefix,
    /// The lowest wins among those of one network.
    pub metric: u32,
    /// The next hop; `None` when the network is on the link itself.
    pub gateway: Option<IpAddr>,
    /// The interface, by number.
    pub interface: u16,
    /// The source address to prefer.
    pub source: Option<IpAddr>,
    /// It follows from an address of ours and goes with it.
    pub connected: bool,
    /// Its next hops beside that one.
    pub hops: Hops,
}

/// Networks to routes.
#[derive(Debug)]
pub struct Fib {
    /// The routes of each network, the lowest metric first; never empty.
    networks: HashMap<Prefix, Vec<Route>, HashKey>,
    /// How many networks have each prefix length: IPv4, IPv6.
    lengths: [[u32; 129]; 2],
    /// The lengths that occur, a bit each: IPv4, IPv6.
    present: [[u64; 3]; 2],
}

impl Fib {
    /// An empty table.
    pub fn new(key: HashKey) -> Fib {
        Fib { networks: HashMap::with_hasher(key), lengths: [[0; 129]; 2], present: [[0; 3]; 2] }
    }

    /// Enters a route behind those of the same network and metric.
    pub fn insert(&mut self, route: Route) {
        let routes = self.networks.entry(route.prefix).or_default();
        if routes.is_empty() {
            let (family, len) = place(&route.prefix);
            self.lengths[family][len] += 1;
            self.present[family][len / 64] |= 1 << (len % 64);
        }
        let at = routes.partition_point(|known| known.metric <= route.metric);
        routes.insert(at, route);
    }

    /// Takes out the first route of a network for which `which` holds.
    pub fn remove(&mut self, prefix: &Prefix, which: impl FnMut(&Route) -> bool) -> Option<Route> {
        let routes = self.networks.get_mut(prefix)?;
        let route = routes.remove(routes.iter().position(which)?);
        if routes.is_empty() {
            self.networks.remove(prefix);
            let (family, len) = place(prefix);
            self.lengths[family][len] -= 1;
            if self.lengths[family][len] == 0 {
                self.present[family][len / 64] &= !(1 << (len % 64));
            }
        }
        Some(route)
    }

    /// The best route to `dst` for which `usable` holds.
    pub fn lookup(&self, dst: IpAddr, usable: impl Fn(&Route) -> bool) -> Option<&Route> {
        let present = &self.present[family(dst)];
        for word in (0..present.len()).rev() {
            let mut lengths = present[word];
            while lengths != 0 {
                let bit = lengths.ilog2();
                lengths &= !(1 << bit);
                let prefix = Prefix::of(dst, (word as u32 * 64 + bit) as u8)?;
                let routes = self.networks.get(&prefix).map_or(&[][..], Vec::as_slice);
                if let Some(route) = routes.iter().find(|route| usable(route)) {
                    return Some(route);
                }
            }
        }
        None
    }

    /// The routes of one network, the lowest metric first.
    pub fn of_network(&self, prefix: &Prefix) -> &[Route] {
        self.networks.get(prefix).map_or(&[], Vec::as_slice)
    }

    /// Whether there is no route.
    pub fn is_empty(&self) -> bool {
        self.networks.is_empty()
    }

    /// All routes, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Route> {
        self.networks.values().flatten()
    }
}

const fn family(addr: IpAddr) -> usize {
    match addr {
        IpAddr::V4(_) => 0,
        IpAddr::V6(_) => 1,
    }
}

const fn place(prefix: &Prefix) -> (usize, usize) {
    (family(prefix.addr()), prefix.len() as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::{Ipv4Addr, Ipv6Addr};
    use proptest::prelude::*;

    /// Addresses that differ in few places, of both families, so that networks nest.
    fn any_addr() -> impl Strategy<Value = IpAddr> {
        (any::<bool>(), prop::collection::vec((0u32..128, any::<bool>()), 0..4)).prop_map(|(v4, bits)| {
            let bits =
                bits.iter().fold(0u128, |all, (bit, set)| if *set { all | 1 << (127 - bit) } else { all });
            if v4 {
                IpAddr::V4(Ipv4Addr::from_bits((bits >> 96) as u32))
            } else {
                IpAddr::V6(Ipv6Addr::from_bits(bits))
            }
        })
    }

    fn any_route() -> impl Strategy<Value = Route> {
        (any_addr(), 0u8..=128, 0u32..4, 0u16..4).prop_map(|(addr, len, metric, interface)| {
            let len = if addr.is_ipv4() { len % 33 } else { len };
            Route {
                prefix: Prefix::of(addr, len).unwrap(),
                metric,
                gateway: None,
                interface,
                source: None,
                connected: false,
                hops: Hops::default(),
            }
        })
    }

    proptest! {
        #[test]
        fn the_longest_then_the_cheapest_then_the_first(
            routes in prop::collection::vec((any_route(), prop::option::weighted(0.3, any::<prop::sample::Index>())), 0..60),
            asked in prop::collection::vec(any_addr(), 1..40), down in 0u16..5,
        ) {
            let mut fib = Fib::new(HashKey([1, 2]));
            let mut model: Vec<Route> = Vec::new();
            for (route, remove) in routes {
                fib.insert(route);
                model.push(route);
                if let Some(index) = remove {
                    let victim = model[index.index(model.len())];
                    let removed = fib.remove(&victim.prefix, |known| *known == victim);
                    prop_assert_eq!(removed, Some(victim));
                    let first = model.iter().position(|known| *known == victim).unwrap();
                    model.remove(first);
                    let twin = model.contains(&victim);
                    prop_assert_eq!(fib.of_network(&victim.prefix).contains(&victim), twin);
                }
            }
            prop_assert_eq!(fib.iter().count(), model.len());
            for dst in asked {
                // min_by_key takes the first of equals.
                let best = model.iter()
                    .filter(|route| route.prefix.contains(dst) && route.interface != down)
                    .min_by_key(|route| (core::cmp::Reverse(route.prefix.len()), route.metric));
                prop_assert_eq!(fib.lookup(dst, |route| route.interface != down), best);
            }
        }
    }
}
