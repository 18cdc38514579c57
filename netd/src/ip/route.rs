//! Which way a packet goes, from which address of ours, and which addresses are ours at all.
//!
//! Owned by the stack, asked for every packet; a way that was found is remembered and good while
//! [`RouteTable::generation`] stays the same (Linux's dst cache). Changed by configuration alone.
//!
//! Local comes before main: an address of ours is ours whatever the routes say, on whichever interface a
//! packet for it arrives (RFC 1122 §3.3.4.2, the weak model, as Linux). Each address brings the route to
//! its network with it. Invariants: a route's parts are of one family; a gateway is on its link when the
//! route is entered; no two routes that were entered have the same network and metric.
//!
//! Not here: neighbours, the path's MTU, forwarding.

use core::cell::Cell;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::collections::HashMap;

use super::fib::{Fib, Route};
use super::prefix::Prefix;
use super::source;
use crate::keyed_hash::HashKey;
use proto::zone;

/// Addresses of ours at most; a bound for what is walked when a broadcast is looked for.
pub const ADDRESSES_MAX: usize = 256;

/// An address of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InterfaceAddr {
    /// The interface it belongs to, by number.
    pub interface: u16,
    /// The address.
    pub addr: IpAddr,
    /// The network that is on the link.
    pub prefix: Prefix,
    /// Its network is on the link because of it.
    pub on_link: bool,
    /// It may be used, and should not be for anything new: RFC 4862 §5.5.4.
    pub deprecated: bool,
}

/// The interface that a scoped address names, if it does.
pub const fn zone_interface(addr: IpAddr) -> Option<u16> {
    zone::interface(zone::of_ip(&addr))
}

pub use proto::hard::config::LOOPBACK;

/// What an address is to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddrKind {
    /// Ours, or loopback.
    Local,
    /// All hosts: of every network, or of one that is on a link of ours.
    Broadcast,
    /// A group.
    Multicast,
    /// A host elsewhere.
    Unicast,
}

/// The way of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoutePath {
    /// The interface to leave by, by number; [`LOOPBACK`] for loopback addresses. Without meaning when
    /// `kind` is local.
    pub interface: u16,
    /// Whom to hand it to on the link; the destination itself unless there is a gateway.
    pub next_hop: IpAddr,
    /// The source address to use.
    pub source: IpAddr,
    /// What the destination is. For broadcast and multicast the link address follows from it.
    pub kind: AddrKind,
}

/// There is no way: ENETUNREACH.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no route to host")]
pub struct NoRoute;

/// A change that was refused; nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// It is there already: EEXIST.
    #[error("exists already")]
    Exists,
    /// A prefix length, family or address that can't be: EINVAL.
    #[error("no address, prefix or gateway that could be used")]
    Invalid,
    /// The gateway is not on the link: ENETUNREACH, as Linux's "Nexthop has invalid gateway".
    #[error("the gateway is not on the link")]
    GatewayUnreachable,
    /// [`ADDRESSES_MAX`] reached: ENOBUFS.
    #[error("too many addresses")]
    Full,
}

/// Addresses of ours, and routes.
#[derive(Debug)]
pub struct RouteTable {
    /// In the order they were added: the first of a network is its primary one.
    addresses: Vec<InterfaceAddr>,
    /// How often each address is in `addresses`.
    local: HashMap<IpAddr, u32, HashKey>,
    fib: Fib,
    /// Interfaces that are down: their routes are not used.
    down: Vec<u16>,
    generation: u64,
    remembered: Remembered,
}

/// Ways that were found lately, in one place each: Linux's dst cache. One that was found under another
/// generation is none; who collides is looked for again, which costs what it always did.
#[derive(Debug)]
struct Remembered(Box<[Cell<Option<Known>>]>);

/// A way, and what it was asked for.
#[derive(Debug, Clone, Copy)]
struct Known {
    generation: u64,
    dst: IpAddr,
    source: Option<IpAddr>,
    interface: Option<u16>,
    path: RoutePath,
}

impl Remembered {
    /// Places; a power of two.
    const PLACES: usize = 256;

    fn new() -> Remembered {
        Remembered((0..Self::PLACES).map(|_| Cell::new(None)).collect())
    }

    fn place(&self, dst: IpAddr) -> &Cell<Option<Known>> {
        let bits = match dst {
            IpAddr::V4(addr) => addr.to_bits(),
            IpAddr::V6(addr) => {
                let bits = addr.to_bits();
                (bits ^ bits >> 32 ^ bits >> 64 ^ bits >> 96) as u32
            }
        };
        // Fibonacci's hash: the high bits depend on all others.
        let mixed = bits.wrapping_mul(0x9e37_79b1);
        &self.0[(mixed >> 24) as usize % Self::PLACES]
    }
}

impl RouteTable {
    /// No address and no route.
    pub fn new(key: HashKey) -> RouteTable {
        RouteTable {
            addresses: Vec::new(),
            local: HashMap::with_hasher(key),
            fib: Fib::new(key),
            down: Vec::new(),
            generation: 0,
            remembered: Remembered::new(),
        }
    }

    /// Counts changes; a [`RoutePath`] found earlier is still right while this is the same.
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// Gives an interface an address, and with it the route to its network.
    ///
    /// # Errors
    /// [`RouteError::Exists`], [`RouteError::Invalid`], [`RouteError::Full`].
    pub fn add_address(&mut self, interface: u16, addr: IpAddr, prefix_len: u8) -> Result<(), RouteError> {
        self.add_address_on(interface, addr, prefix_len, true)
    }

    /// [`RouteTable::add_address`], where the route to its network comes with it only if that is `on_link`.
    ///
    /// # Errors
    /// As [`RouteTable::add_address`].
    pub fn add_address_on(
        &mut self,
        interface: u16,
        addr: IpAddr,
        prefix_len: u8,
        on_link: bool,
    ) -> Result<(), RouteError> {
        let addr = zone::ip_with(addr, zone::of_interface(interface));
        let prefix = Prefix::of(addr, prefix_len).ok_or(RouteError::Invalid)?;
        let added = InterfaceAddr { interface, addr, prefix, on_link, deprecated: false };
        if !is_host(addr) || prefix.broadcast().is_some_and(|all| addr == IpAddr::V4(all)) {
            return Err(RouteError::Invalid);
        }
        let same =
            |known: &InterfaceAddr| (known.interface, known.addr, known.prefix) == (interface, addr, prefix);
        if self.addresses.iter().any(same) {
            return Err(RouteError::Exists);
        }
        if self.addresses.len() >= ADDRESSES_MAX {
            return Err(RouteError::Full);
        }
        self.addresses.push(added);
        *self.local.entry(addr).or_insert(0) += 1;
        self.renew_connected(interface, prefix);
        self.generation += 1;
        Ok(())
    }

    /// Takes an address away, and its route unless another address of the same network stays. Routes
    /// that prefer it as their source go too, as with Linux. Returns whether there was one.
    pub fn remove_address(&mut self, interface: u16, addr: IpAddr, prefix_len: u8) -> bool {
        let addr = zone::ip_with(addr, zone::of_interface(interface));
        let found = self.addresses.iter().position(|known| {
            known.interface == interface && known.addr == addr && known.prefix.len() == prefix_len
        });
        let Some(place) = found else { return false };
        let removed = self.addresses.remove(place);
        self.renew_connected(interface, removed.prefix);
        let times = self.local.get_mut(&addr).expect("an address that is listed is counted");
        *times -= 1;
        if *times == 0 {
            self.local.remove(&addr);
            self.remove_routes(|route| !route.connected && route.source == Some(addr));
        }
        self.generation += 1;
        true
    }

    /// An address of ours should not be used for anything new, or may be again.
    pub fn set_deprecated(&mut self, interface: u16, addr: IpAddr, deprecated: bool) {
        let addr = zone::ip_with(addr, zone::of_interface(interface));
        for known in &mut self.addresses {
            if known.interface == interface && known.addr == addr {
                known.deprecated = deprecated;
            }
        }
        self.generation += 1;
    }

    /// A link-local address of ours that lost its zone on the way through this host.
    pub fn own_zone(&self, addr: Ipv6Addr) -> Ipv6Addr {
        let same = |known: &&InterfaceAddr| zone::ip_without(known.addr) == IpAddr::V6(addr);
        match zone::is_scoped(&addr).then(|| self.addresses.iter().find(same)).flatten() {
            Some(known) => zone::with(addr, zone::of_interface(known.interface)),
            None => addr,
        }
    }

    /// The addresses of ours, in the order they were added.
    pub fn addresses(&self) -> &[InterfaceAddr] {
        &self.addresses
    }

    /// Enters a route.
    ///
    /// # Errors
    /// [`RouteError::Exists`] for a network and metric that have one, [`RouteError::Invalid`],
    /// [`RouteError::GatewayUnreachable`].
    pub fn add_route(&mut self, mut route: Route) -> Result<(), RouteError> {
        route.gateway = route.gateway.map(|via| zone::ip_with(via, zone::of_interface(route.interface)));
        let v4 = route.prefix.addr().is_ipv4();
        if let Some(gateway) = route.gateway {
            // An IPv6 router is known by its link-local address, on-link by nature.
            if gateway.is_ipv4() != v4 || !is_host(gateway) || self.is_local(gateway) {
                return Err(RouteError::Invalid);
            }
            let link_local = matches!(gateway, IpAddr::V6(gateway) if gateway.is_unicast_link_local());
            let on_link = self
                .fib
                .lookup(gateway, |known| known.gateway.is_none() && known.interface == route.interface);
            if !link_local && on_link.is_none() {
                return Err(RouteError::GatewayUnreachable);
            }
        }
        if route.source.is_some_and(|source| source.is_ipv4() != v4 || !self.is_local(source)) {
            return Err(RouteError::Invalid);
        }
        if self.fib.of_network(&route.prefix).iter().any(|known| known.metric == route.metric) {
            return Err(RouteError::Exists);
        }
        self.fib.insert(Route { connected: false, ..route });
        self.generation += 1;
        Ok(())
    }

    /// Takes a route out, one that was entered; those of our addresses go with the address.
    pub fn remove_route(&mut self, prefix: &Prefix, metric: u32) -> Option<Route> {
        let removed = self.fib.remove(prefix, |known| !known.connected && known.metric == metric);
        self.generation += u64::from(removed.is_some());
        removed
    }

    /// All routes, those of our addresses among them, in no order.
    pub fn routes(&self) -> impl Iterator<Item = &Route> {
        self.fib.iter()
    }

    /// Whether the routes of an interface may be used: it is up or down. Up until told otherwise.
    pub fn set_interface_up(&mut self, interface: u16, up: bool) {
        self.down.retain(|known| *known != interface);
        if !up {
            self.down.push(interface);
        }
        self.generation += 1;
    }

    /// An interface is gone, and with it its addresses and routes.
    pub fn remove_interface(&mut self, interface: u16) {
        for gone in self.addresses.clone() {
            if gone.interface == interface {
                self.remove_address(interface, gone.addr, gone.prefix.len());
            }
        }
        self.remove_routes(|route| route.interface == interface);
        self.down.retain(|known| *known != interface);
        self.generation += 1;
    }

    /// Whether a packet to `addr` is for this host alone.
    pub fn is_local(&self, addr: IpAddr) -> bool {
        /// Up to so many, looking at each costs less than a hash.
        const FEW: usize = 8;
        let listed = match self.addresses.len() {
            ..=FEW => self.addresses.iter().any(|known| known.addr == addr),
            _ => self.local.contains_key(&addr),
        };
        listed || addr.is_loopback()
    }

    /// What an address is to us.
    pub fn kind(&self, addr: IpAddr) -> AddrKind {
        if self.is_local(addr) {
            AddrKind::Local
        } else if addr.is_multicast() {
            AddrKind::Multicast
        } else if self.is_any_broadcast(addr) {
            AddrKind::Broadcast
        } else {
            AddrKind::Unicast
        }
    }

    /// RFC 1122 §3.2.1.3: all ones, or all ones behind the prefix of a network on a link of ours.
    fn is_any_broadcast(&self, addr: IpAddr) -> bool {
        let IpAddr::V4(addr) = addr else { return false };
        addr.is_broadcast() || self.addresses.iter().any(|known| known.prefix.broadcast() == Some(addr))
    }

    /// Whether `addr` is all hosts of a network on the link of `interface`.
    pub fn is_broadcast(&self, addr: Ipv4Addr, interface: u16) -> bool {
        let of =
            |known: &InterfaceAddr| known.interface == interface && known.prefix.broadcast() == Some(addr);
        self.addresses.iter().any(of)
    }

    /// The best route to `dst` by an interface that is up, whatever `dst` is to us.
    pub fn lookup(&self, dst: IpAddr) -> Option<Route> {
        self.fib.lookup(dst, |route| !self.down.contains(&route.interface)).copied()
    }

    /// The way to `dst`: from `source` if the socket is bound to one (an address of ours, which sockd has
    /// checked), and by `interface` if it is bound to one.
    ///
    /// # Errors
    /// [`NoRoute`]; also when no address of ours could be the source.
    pub fn path(
        &self,
        dst: IpAddr,
        source: Option<IpAddr>,
        interface: Option<u16>,
    ) -> Result<RoutePath, NoRoute> {
        let place = self.remembered.place(dst);
        if let Some(known) = place.get()
            && known.generation == self.generation
            && (known.dst, known.source, known.interface) == (dst, source, interface)
        {
            return Ok(known.path);
        }
        let path = self.find_path(dst, source, interface)?;
        place.set(Some(Known { generation: self.generation, dst, source, interface, path }));
        Ok(path)
    }

    fn find_path(
        &self,
        dst: IpAddr,
        source: Option<IpAddr>,
        interface: Option<u16>,
    ) -> Result<RoutePath, NoRoute> {
        let kind = self.kind(dst);
        if kind == AddrKind::Local {
            // What we send to ourselves comes from there too, as with Linux.
            let own = match dst {
                IpAddr::V4(addr) if addr.is_loopback() => IpAddr::V4(Ipv4Addr::LOCALHOST),
                own => own,
            };
            let of = self.addresses.iter().find(|known| known.addr == dst);
            let interface = of.map_or(LOOPBACK, |known| known.interface);
            return Ok(RoutePath { interface, next_hop: dst, source: source.unwrap_or(own), kind });
        }
        let usable = |route: &Route| {
            !self.down.contains(&route.interface) && interface.is_none_or(|bound| route.interface == bound)
        };
        let route = self.fib.lookup(dst, usable);
        let (out, gateway, preferred) = match (route, kind) {
            (Some(route), AddrKind::Unicast) => (route.interface, route.gateway, route.source),
            // A group or all hosts are on the link itself.
            (Some(route), _) => (route.interface, None, route.source),
            // Bound to an interface, everything is on its link; a group or all hosts are on the first
            // that is up.
            (None, AddrKind::Unicast) => (interface.ok_or(NoRoute)?, None, None),
            (None, _) => (interface.or_else(|| self.first_up(dst)).ok_or(NoRoute)?, None, None),
        };
        if self.down.contains(&out) {
            return Err(NoRoute);
        }
        let next_hop = gateway.unwrap_or(dst);
        let source =
            source.or(preferred).or_else(|| self.select_source(out, next_hop, dst)).ok_or(NoRoute)?;
        Ok(RoutePath { interface: out, next_hop, source, kind })
    }

    /// The first interface that is up and has an address of the family of `dst`.
    fn first_up(&self, dst: IpAddr) -> Option<u16> {
        let up = |known: &&InterfaceAddr| {
            known.addr.is_ipv4() == dst.is_ipv4() && !self.down.contains(&known.interface)
        };
        self.addresses.iter().find(up).map(|known| known.interface)
    }

    /// The source for packets that leave by `interface` towards `next_hop`: RFC 1122 §3.3.4.3, RFC 6724 §5.
    ///
    /// IPv4, as Linux: the first address of the interface in the next hop's network, else its first,
    /// else the first of another. IPv6: see [`source`].
    fn select_source(&self, interface: u16, next_hop: IpAddr, dst: IpAddr) -> Option<IpAddr> {
        if let IpAddr::V6(dst) = dst {
            return source::select(&self.addresses, interface, dst).map(IpAddr::V6);
        }
        let family = self.addresses.iter().filter(|known| known.addr.is_ipv4() == next_hop.is_ipv4());
        let on_link = family.clone().filter(|known| known.interface == interface);
        let same_network = on_link.clone().find(|known| known.prefix.contains(next_hop));
        let chosen = same_network.or_else(|| on_link.clone().next()).or_else(|| family.clone().next());
        chosen.map(|known| known.addr)
    }

    /// Makes the route of a network on a link what the addresses say: one, with the first of them as its
    /// source, or none.
    fn renew_connected(&mut self, interface: u16, prefix: Prefix) {
        self.fib.remove(&prefix, |known| known.connected && known.interface == interface);
        let has =
            |known: &&InterfaceAddr| known.interface == interface && known.prefix == prefix && known.on_link;
        let primary = self.addresses.iter().find(has);
        let host = if prefix.addr().is_ipv4() { 32 } else { 128 };
        if let Some(primary) = primary.filter(|_| prefix.len() < host) {
            let source = Some(primary.addr);
            self.fib.insert(Route { prefix, metric: 0, gateway: None, interface, source, connected: true });
        }
    }

    fn remove_routes(&mut self, which: impl Fn(&Route) -> bool) {
        let gone: Vec<Route> = self.fib.iter().filter(|route| which(route)).copied().collect();
        for route in gone {
            self.fib.remove(&route.prefix, |known| *known == route);
        }
    }
}

/// Whether an address can name one host on a link.
fn is_host(addr: IpAddr) -> bool {
    let reserved = match addr {
        IpAddr::V4(addr) => addr.octets()[0] >= 240 || addr.octets()[0] == 0,
        IpAddr::V6(_) => false,
    };
    !reserved && !addr.is_unspecified() && !addr.is_multicast() && !addr.is_loopback()
}

#[cfg(test)]
#[path = "route_tests.rs"]
mod tests;
