//! Which way a packet goes, from which address of ours, and which addresses are ours at all.
//!
//! Owned by the stack, asked for every packet; a way that was found is remembered and good while
//! [`RouteTable::generation`] stays the same (Linux's dst cache). Changed by configuration alone.
//!
//! Local comes before all other tables: an address of ours is ours whatever the routes say, on whichever interface a
//! packet for it arrives (RFC 1122 §3.3.4.2, the weak model, as Linux). Each address brings the route to
//! its network with it. Invariants: a route's parts are of one family; a gateway is on its link when the
//! route is entered; no two routes of a table that were entered have the same network and metric. Which table is
//! looked at is [`super::policy`]'s to say, which of several next hops is taken [`super::multipath`]'s.
//!
//! Not here: neighbours, the path's MTU, forwarding.

use core::cell::Cell;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::fib::{Fib, Route};
use super::multipath::{FlowOf, Unanswered, choose};
use super::policy::{Policy, Wanted};
use super::prefix::Prefix;
use super::source;
use crate::keyed_hash::HashKey;
use proto::Instant;
use proto::hard::routing::{Action, Hop, Hops, PolicyRule, TABLE_MAIN};
use proto::zone;
use std::collections::{BTreeMap, HashMap};

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
    /// The table `main`.
    fib: Fib,
    /// The others, none of them empty.
    tables: BTreeMap<u32, Fib>,
    policy: Policy,
    /// The group's: a successor has it too.
    key: HashKey,
    /// Routes that have several next hops.
    several: usize,
    /// Flows are told apart by their ports too: of IPv4, of IPv6.
    by_ports: [bool; 2],
    /// Interfaces that are down: their routes are not used.
    down: Vec<u16>,
    /// Of routes of several next hops, those that do not answer.
    unanswered: Unanswered,
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
    ports: u32,
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
            tables: BTreeMap::new(),
            policy: Policy::default(),
            key,
            several: 0,
            by_ports: [false; 2],
            down: Vec::new(),
            unanswered: Unanswered::default(),
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
        self.may_add(interface, addr, prefix_len)?;
        let addr = zone::ip_with(addr, zone::of_interface(interface));
        let prefix = Prefix::of(addr, prefix_len).ok_or(RouteError::Invalid)?;
        self.addresses.push(InterfaceAddr { interface, addr, prefix, on_link, deprecated: false });
        *self.local.entry(addr).or_insert(0) += 1;
        self.renew_connected(interface, prefix);
        self.generation += 1;
        Ok(())
    }

    /// Whether an interface may have that address.
    ///
    /// # Errors
    /// As [`RouteTable::add_address`].
    pub fn may_add(&self, interface: u16, addr: IpAddr, prefix_len: u8) -> Result<(), RouteError> {
        let addr = zone::ip_with(addr, zone::of_interface(interface));
        let prefix = Prefix::of(addr, prefix_len).ok_or(RouteError::Invalid)?;
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

    /// Enters a route into the table `main`.
    ///
    /// # Errors
    /// [`RouteError::Exists`] for a network and metric that have one, [`RouteError::Invalid`],
    /// [`RouteError::GatewayUnreachable`].
    pub fn add_route(&mut self, route: Route) -> Result<(), RouteError> {
        self.add_route_to(TABLE_MAIN, route)
    }

    /// Enters a route into a table.
    ///
    /// # Errors
    /// As [`RouteTable::add_route`].
    pub fn add_route_to(&mut self, table: u32, route: Route) -> Result<(), RouteError> {
        let route = route.zoned();
        let v4 = route.prefix.addr().is_ipv4();
        for hop in route.next_hops() {
            self.check_hop(table, &hop, v4)?;
        }
        if route.source.is_some_and(|source| source.is_ipv4() != v4 || !self.is_local(source)) {
            return Err(RouteError::Invalid);
        }
        let same = |known: &Route| known.metric == route.metric;
        if self.table(table).is_some_and(|known| known.of_network(&route.prefix).iter().any(same)) {
            return Err(RouteError::Exists);
        }
        self.several += usize::from(route.hops.is_several());
        let key = self.key;
        let entered = match table {
            TABLE_MAIN => &mut self.fib,
            table => self.tables.entry(table).or_insert_with(|| Fib::new(key)),
        };
        entered.insert(Route { connected: false, ..route });
        self.generation += 1;
        Ok(())
    }

    /// Whether a next hop of a route can be used: its gateway is a neighbour.
    fn check_hop(&self, table: u32, hop: &Hop, v4: bool) -> Result<(), RouteError> {
        let Some(gateway) = hop.gateway else { return Ok(()) };
        // An IPv6 router is known by its link-local address, on-link by nature.
        if gateway.is_ipv4() != v4 || !is_host(gateway) || self.is_local(gateway) {
            return Err(RouteError::Invalid);
        }
        let link_local = matches!(gateway, IpAddr::V6(gateway) if gateway.is_unicast_link_local());
        let on_link = |table: &Fib| {
            let direct = |known: &Route| known.gateway.is_none() && known.interface == hop.link;
            table.lookup(gateway, direct).is_some()
        };
        // As Linux: by the table that it shall stand in, else by main.
        if link_local || self.table(table).is_some_and(on_link) || on_link(&self.fib) {
            Ok(())
        } else {
            Err(RouteError::GatewayUnreachable)
        }
    }

    fn table(&self, number: u32) -> Option<&Fib> {
        if number == TABLE_MAIN { Some(&self.fib) } else { self.tables.get(&number) }
    }

    /// Takes a route out of the table `main`, one that was entered; those of our addresses go with the address.
    pub fn remove_route(&mut self, prefix: &Prefix, metric: u32) -> Option<Route> {
        self.remove_route_from(TABLE_MAIN, prefix, metric)
    }

    /// Takes a route that was entered out of a table.
    pub fn remove_route_from(&mut self, number: u32, prefix: &Prefix, metric: u32) -> Option<Route> {
        let table = match number {
            TABLE_MAIN => &mut self.fib,
            number => self.tables.get_mut(&number)?,
        };
        let removed = table.remove(prefix, |known| !known.connected && known.metric == metric)?;
        self.several -= usize::from(removed.hops.is_several());
        self.tables.retain(|_, table| !table.is_empty());
        self.generation += 1;
        Some(removed)
    }

    /// Enters a policy rule.
    ///
    /// # Errors
    /// [`RouteError::Exists`], [`RouteError::Full`].
    pub fn add_rule(&mut self, rule: PolicyRule) -> Result<(), RouteError> {
        match self.policy.add(rule) {
            Some(true) => self.generation += 1,
            Some(false) => return Err(RouteError::Exists),
            None => return Err(RouteError::Full),
        }
        Ok(())
    }

    /// Takes a policy rule out. Returns whether it was there.
    pub fn remove_rule(&mut self, rule: &PolicyRule) -> bool {
        self.generation += 1;
        self.policy.remove(rule)
    }

    /// Whether flows are told apart by their ports too (fib_multipath_hash_policy).
    pub const fn set_by_ports(&mut self, v6: bool, on: bool) {
        self.by_ports[v6 as usize] = on;
        self.generation += 1;
    }

    /// Whether next hops of IPv4 lose their share while they do not answer (fib_multipath_use_neigh).
    pub const fn set_use_neighbours(&mut self, on: bool) {
        self.unanswered.of_v4 = on;
        self.generation += 1;
    }

    /// Neighbours moved: `has_failed` says of a gateway on a link that it was asked and did not answer.
    pub fn look_at_neighbours(&mut self, now: Instant, has_failed: impl Fn(u16, IpAddr) -> bool) {
        if self.several == 0 {
            return;
        }
        let tables = core::iter::once(&self.fib).chain(self.tables.values());
        let routes = tables.flat_map(Fib::iter).filter(|route| route.hops.is_several());
        let asked = routes.flat_map(Route::next_hops).filter_map(|hop| Some((hop.link, hop.gateway?)));
        if self.unanswered.update(now, asked.map(|(link, via)| (link, via, has_failed(link, via)))) {
            self.generation += 1;
        }
    }

    /// A gateway that did not answer, and on which link, which is to be tried again now.
    pub fn tried_again(&mut self, now: Instant) -> Option<(u16, IpAddr)> {
        let again = self.unanswered.pop(now);
        self.generation += u64::from(again.is_some());
        again
    }

    /// When [`RouteTable::tried_again`] has one.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.unanswered.next_deadline()
    }

    /// Whether the way to `dst` may depend on the ports of a flow.
    pub const fn asks_for_ports(&self, dst: IpAddr) -> bool {
        self.several > 0 && self.by_ports[dst.is_ipv6() as usize]
    }

    /// All routes of the table `main`, those of our addresses among them, in no order.
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
        self.remove_routes(|route| route.next_hops().any(|hop| hop.link == interface));
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
        self.path_of(dst, source, interface, 0)
    }

    /// [`RouteTable::path`] of a flow with those ports, where they count: 0 unless
    /// [`RouteTable::asks_for_ports`].
    ///
    /// # Errors
    /// As [`RouteTable::path`].
    pub fn path_of(
        &self,
        dst: IpAddr,
        source: Option<IpAddr>,
        interface: Option<u16>,
        ports: u32,
    ) -> Result<RoutePath, NoRoute> {
        let place = self.remembered.place(dst);
        if let Some(known) = place.get()
            && known.generation == self.generation
            && (known.dst, known.source, known.interface, known.ports) == (dst, source, interface, ports)
        {
            return Ok(known.path);
        }
        let path = self.find_path(dst, source, interface, ports)?;
        place.set(Some(Known { generation: self.generation, dst, source, interface, ports, path }));
        Ok(path)
    }

    /// The best route to `dst` that has a usable next hop, by the rules.
    fn route_to(&self, wanted: Wanted, usable: impl Fn(&Hop) -> bool) -> Result<Option<&Route>, NoRoute> {
        let usable = |route: &Route| route.next_hops().any(|hop| usable(&hop));
        if self.policy.is_plain() && self.tables.is_empty() {
            return Ok(self.fib.lookup(wanted.dst, usable));
        }
        for action in self.policy.actions(wanted) {
            let Action::Lookup(number) = action else { return Err(NoRoute) };
            let route = self.table(number).and_then(|table| table.lookup(wanted.dst, usable));
            if route.is_some() {
                return Ok(route);
            }
        }
        Ok(None)
    }

    /// Which of a route's next hops a flow takes: of those that answer, and of those by whose interface its source
    /// is, if there is any.
    fn hop_of(&self, route: &Route, flow: &FlowOf, usable: impl Fn(&Hop) -> bool) -> Option<Hop> {
        if !route.hops.is_several() {
            return route.next_hops().next();
        }
        let has_source = |hop: &Hop| {
            let here = |known: &InterfaceAddr| Some(known.addr) == flow.source && known.interface == hop.link;
            self.addresses.iter().any(here)
        };
        let answers = |hop: &Hop| usable(hop) && self.unanswered.has_share(hop);
        choose(route, &self.key, flow, |hop| answers(hop) && has_source(hop))
            .or_else(|| choose(route, &self.key, flow, answers))
            .or_else(|| choose(route, &self.key, flow, usable))
    }

    fn find_path(
        &self,
        dst: IpAddr,
        source: Option<IpAddr>,
        interface: Option<u16>,
        ports: u32,
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
        let usable =
            |hop: &Hop| !self.down.contains(&hop.link) && interface.is_none_or(|bound| hop.link == bound);
        let route = self.route_to(Wanted { dst, source, interface }, usable)?;
        let hop = route.and_then(|route| {
            let hop = self.hop_of(route, &FlowOf { source, dst, ports }, usable)?;
            Some((hop, route.source))
        });
        let (out, gateway, preferred) = match (hop, kind) {
            (Some((hop, source)), AddrKind::Unicast) => (hop.link, hop.gateway, source),
            // A group or all hosts are on the link itself.
            (Some((hop, source)), _) => (hop.link, None, source),
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
            let hops = Hops::default();
            self.fib.insert(Route {
                prefix,
                metric: 0,
                gateway: None,
                interface,
                source,
                connected: true,
                hops,
            });
        }
    }

    fn remove_routes(&mut self, which: impl Fn(&Route) -> bool) {
        for table in core::iter::once(&mut self.fib).chain(self.tables.values_mut()) {
            let gone: Vec<Route> = table.iter().filter(|route| which(route)).copied().collect();
            for route in gone {
                table.remove(&route.prefix, |known| *known == route);
                self.several -= usize::from(route.hops.is_several());
            }
        }
        self.tables.retain(|_, table| !table.is_empty());
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

#[cfg(test)]
#[path = "policy_tests.rs"]
mod policy_tests;
