//! The IPv6 configuration of one interface: its addresses from tentative to gone, and what routers say
//! (RFC 4862, RFC 7217, RFC 4861 §6.3, RFC 8106).
//!
//! ```text
//! given or made ─▶ TENTATIVE ──1 s, nobody objects──▶ PREFERRED ─▶ DEPRECATED ─▶ gone
//!                      └─ somebody has it ─▶ another one is made (three times), or DUPLICATE
//! ```
//!
//! Pure: times, messages and conflicts go in, [`Act`]s come out. Invariants: an address that is not
//! verified is never assigned; what routers can make grow is bounded; an advertisement shortens no
//! address's life below two hours (RFC 4862 §5.5.3). Addresses have the interface's zone.
//!
//! Not here: sockets, routes, who sends what: [`super::links`] does what is asked.

use crate::keyed_hash::HashKey;
use crate::wire::address::MacAddr;
use crate::wire::ipv6::MTU_MIN;
use crate::wire::ndp::{Lifetime, NdOption, Options, PrefixInfo, RouterAdvertisement, solicited_node};
use core::hash::Hasher;
use core::net::{IpAddr, Ipv6Addr};
use core::time::Duration;
use proto::Instant;
use proto::control::messages::Prefix;
use proto::zone;

/// Between probe and verdict: RFC 4861 §10 RETRANS_TIMER. One probe is sent: RFC 4862 §5.1
/// DupAddrDetectTransmits.
const PROBE_WAIT: Duration = Duration::from_secs(1);
/// The first probe and the first solicitation wait up to this: RFC 4861 §10 MAX_RTR_SOLICITATION_DELAY.
const START_DELAY_MAX_MS: u64 = 1_000;
/// RFC 4861 §10 RTR_SOLICITATION_INTERVAL.
const SOLICITATION_INTERVAL: Duration = Duration::from_secs(4);
/// RFC 4861 §10 MAX_RTR_SOLICITATIONS.
const SOLICITATIONS_MAX: u8 = 3;
/// RFC 7217 §7 IDGEN_RETRIES.
const RETRIES_MAX: u8 = 3;
/// RFC 4862 §5.5.3 (e): an unauthenticated advertisement shortens a life to this at most.
const SHORTENED_TO: Duration = Duration::from_secs(2 * 60 * 60);
/// Addresses of an interface at most: Linux `max_addresses`.
const ADDRESSES_MAX: usize = 16;
/// Routers and networks remembered at most.
const ROUTERS_MAX: usize = 8;
/// DNS servers remembered at most.
const RESOLVERS_MAX: usize = 8;
/// Redirected destinations remembered at most, and for how long.
const REDIRECTS_MAX: usize = 64;
const REDIRECT_LIFETIME: Duration = Duration::from_secs(600);
/// Metric of routes that routers announce: Linux IP6_RT_PRIO_USER.
const METRIC_ROUTER: u32 = 1024;
/// As [`METRIC_ROUTER`], of networks: Linux IP6_RT_PRIO_ADDRCONF.
pub const METRIC_NETWORK: u32 = 256;

/// Where an address comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The administrator gave it.
    Given,
    /// Made here; the retries say how often it had to be made anew.
    Made {
        /// RFC 7217 §5 DAD_Counter.
        retries: u8,
    },
}

/// How far an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Not asked for yet.
    Waiting { until: Instant },
    /// Asked for.
    Probed { until: Instant },
    /// Ours.
    Assigned { deprecated: bool },
    /// Somebody else's.
    Duplicate,
}

/// When something ends; `None` never.
type Until = Option<Instant>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Address {
    addr: Ipv6Addr,
    len: u8,
    origin: Origin,
    stage: Stage,
    valid: Until,
    preferred: Until,
}

/// A route that routers announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LearnedRoute {
    /// Whereto.
    pub to: Prefix,
    /// Through whom.
    pub via: Option<Ipv6Addr>,
    /// The lower one wins.
    pub metric: u32,
    /// Until when.
    pub until: Until,
}

/// An address that was made here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LearnedAddress {
    /// The address with its network.
    pub prefix: Prefix,
    /// Until when it may be used.
    pub valid: Until,
    /// Until when it may be used for anything new.
    pub preferred: Until,
}

/// What an earlier incarnation learned.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Learned {
    /// Addresses, all of them verified.
    pub addresses: Vec<LearnedAddress>,
    /// Routes.
    pub routes: Vec<LearnedRoute>,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Listen to that group; first that, then the probe (RFC 4862 §5.4.2).
    Join(Ipv6Addr),
    /// Listen to it no longer.
    Leave(Ipv6Addr),
    /// Ask whether somebody has the address: RFC 4862 §5.4.2.
    Probe(Ipv6Addr),
    /// Ask for routers: RFC 4861 §6.3.7.
    SolicitRouters,
    /// The address is ours from now on.
    Assign(LearnedAddress, Origin),
    /// Its lifetimes are others now, or it is deprecated or not.
    Renew(LearnedAddress, bool),
    /// It is ours no longer.
    Withdraw(Prefix),
    /// Somebody else has it.
    Duplicate(Prefix),
    /// Use that route.
    AddRoute(LearnedRoute),
    /// Use it no longer.
    RemoveRoute(LearnedRoute),
    /// What routers say of the link.
    Link {
        /// Hops that packets may take.
        hop_limit: Option<u8>,
        /// How long an answer of a neighbour counts.
        reachable: Option<Duration>,
        /// What the link takes.
        mtu: Option<u16>,
    },
}

/// The configuration of one interface.
#[derive(Debug)]
pub struct Autoconf {
    zone: u16,
    mac: MacAddr,
    key: HashKey,
    /// IPv6 is spoken.
    on: bool,
    /// Addresses and routers are learned.
    slaac: bool,
    addresses: Vec<Address>,
    routes: Vec<LearnedRoute>,
    redirects: Vec<LearnedRoute>,
    resolvers: Vec<(Ipv6Addr, Until)>,
    /// Solicitations left, and when the next one is sent.
    solicit: Option<(u8, Instant)>,
    draws: u64,
}

impl Autoconf {
    /// An interface on which nothing is said yet.
    pub fn new(interface: u16, mac: MacAddr, key: HashKey, slaac: bool) -> Autoconf {
        Autoconf {
            zone: zone::of_interface(interface),
            mac,
            key,
            on: false,
            slaac,
            addresses: Vec::new(),
            routes: Vec::new(),
            redirects: Vec::new(),
            resolvers: Vec::new(),
            solicit: None,
            draws: 0,
        }
    }

    /// Takes over what is verified already, given or learned: it is assigned, nobody is asked.
    pub fn restore(&mut self, given: &[Prefix], learned: &Learned, sink: &mut impl FnMut(Act)) {
        let always = given
            .iter()
            .map(|prefix| (LearnedAddress { prefix: *prefix, valid: None, preferred: None }, Origin::Given));
        let made = learned.addresses.iter().map(|address| (*address, Origin::Made { retries: 0 }));
        for (address, origin) in always.chain(made) {
            let IpAddr::V6(addr) = address.prefix.addr else { continue };
            let addr = zone::with(addr, self.zone);
            sink(Act::Join(solicited_node(addr)));
            self.addresses.push(Address {
                addr,
                len: address.prefix.len,
                origin,
                stage: Stage::Assigned { deprecated: false },
                valid: address.valid,
                preferred: address.preferred,
            });
        }
        let routes = learned.routes.iter().take(2 * ROUTERS_MAX);
        let zoned = |via: Option<Ipv6Addr>| via.map(|via| zone::with(via, self.zone));
        self.routes.extend(routes.map(|route| LearnedRoute { via: zoned(route.via), ..*route }));
    }

    /// IPv6 is spoken from now on: a link-local address is made unless there is one (RFC 4862 §5.3), and
    /// routers are asked for if that is wanted.
    pub fn switch_on(&mut self, now: Instant, sink: &mut impl FnMut(Act)) {
        if core::mem::replace(&mut self.on, true) {
            return;
        }
        let has_one = self.addresses.iter().any(|address| address.addr.is_unicast_link_local());
        if !has_one {
            let prefix = Ipv6Addr::new(0xfe80, self.zone, 0, 0, 0, 0, 0, 0);
            self.make(now, prefix, 0, (None, None), sink);
        }
        if self.slaac {
            let at = now + self.delay();
            self.solicit = Some((SOLICITATIONS_MAX, at));
        }
    }

    /// Whether IPv6 is spoken.
    pub const fn is_on(&self) -> bool {
        self.on
    }

    /// An administrator gives an address; it is looked for on the link first. `false` when there are too
    /// many, or it is there already.
    pub fn give(&mut self, now: Instant, prefix: Prefix, sink: &mut impl FnMut(Act)) -> bool {
        let IpAddr::V6(addr) = prefix.addr else { return false };
        let addr = zone::with(addr, self.zone);
        self.addresses.retain(|known| known.addr != addr || known.stage != Stage::Duplicate);
        if self.addresses.len() >= ADDRESSES_MAX || self.addresses.iter().any(|known| known.addr == addr) {
            return false;
        }
        self.begin(now, addr, prefix.len, Origin::Given, (None, None), sink);
        self.switch_on(now, sink);
        true
    }

    /// An administrator takes an address away. `false` when there is none.
    pub fn take(&mut self, prefix: Prefix, sink: &mut impl FnMut(Act)) -> bool {
        let IpAddr::V6(addr) = prefix.addr else { return false };
        let addr = zone::with(addr, self.zone);
        let Some(at) = self.addresses.iter().position(|known| (known.addr, known.len) == (addr, prefix.len))
        else {
            return false;
        };
        self.forget(at, sink);
        true
    }

    /// DNS servers that routers announce.
    pub fn resolvers(&self) -> impl Iterator<Item = Ipv6Addr> + '_ {
        self.resolvers.iter().map(|(addr, _)| *addr)
    }

    /// Whether that address is being looked for.
    pub fn is_tentative(&self, addr: Ipv6Addr) -> bool {
        let tentative = |stage| matches!(stage, Stage::Waiting { .. } | Stage::Probed { .. });
        self.addresses.iter().any(|known| known.addr == addr && tentative(known.stage))
    }

    /// RFC 4862 §5.4.5: somebody has a tentative address, or asks for it as we do.
    pub fn conflict(&mut self, now: Instant, addr: Ipv6Addr, sink: &mut impl FnMut(Act)) {
        let Some(at) = self.addresses.iter().position(|known| known.addr == addr) else { return };
        let lost = self.addresses[at];
        sink(Act::Duplicate(lost.prefix()));
        match lost.origin {
            Origin::Made { retries } if retries < RETRIES_MAX => {
                self.forget(at, sink);
                let prefix = Ipv6Addr::from_bits(addr.to_bits() & (u128::MAX << 64));
                self.make(now, prefix, retries + 1, (lost.valid, lost.preferred), sink);
            }
            _ => {
                self.addresses[at].stage = Stage::Duplicate;
                self.leave(addr, sink);
            }
        }
    }

    /// RFC 7217 §5: an address of a network of 64 bits, the same whenever this host comes back to it.
    fn make(
        &mut self,
        now: Instant,
        network: Ipv6Addr,
        mut retries: u8,
        (valid, preferred): (Until, Until),
        sink: &mut impl FnMut(Act),
    ) {
        if self.addresses.len() >= ADDRESSES_MAX {
            return;
        }
        let network = network.to_bits() & (u128::MAX << 64);
        let addr = loop {
            let mut hasher = self.key.hasher();
            hasher.write(&zone::without(Ipv6Addr::from_bits(network)).octets());
            hasher.write(&self.mac.0);
            hasher.write_u8(retries);
            let interface_id = hasher.finish();
            // RFC 5453 §3: the routers' anycast address and the reserved range.
            if interface_id != 0 && !(0xfdff_ffff_ffff_ff80..=0xfdff_ffff_ffff_ffff).contains(&interface_id) {
                break Ipv6Addr::from_bits(network | u128::from(interface_id));
            }
            retries = retries.wrapping_add(1);
        };
        self.begin(now, addr, 64, Origin::Made { retries }, (valid, preferred), sink);
    }

    fn begin(
        &mut self,
        now: Instant,
        addr: Ipv6Addr,
        len: u8,
        origin: Origin,
        (valid, preferred): (Until, Until),
        sink: &mut impl FnMut(Act),
    ) {
        // RFC 4862 §5.4.2: the group is joined before the probe is sent, and both wait a random time.
        let stage = Stage::Waiting { until: now + self.delay() };
        sink(Act::Join(solicited_node(addr)));
        self.addresses.push(Address { addr, len, origin, stage, valid, preferred });
    }

    fn forget(&mut self, at: usize, sink: &mut impl FnMut(Act)) {
        let gone = self.addresses.remove(at);
        self.leave(gone.addr, sink);
        if matches!(gone.stage, Stage::Assigned { .. }) {
            sink(Act::Withdraw(gone.prefix()));
        }
    }

    /// Leaves the group of an address unless another one needs it.
    fn leave(&self, addr: Ipv6Addr, sink: &mut impl FnMut(Act)) {
        let group = solicited_node(addr);
        let needed = |known: &Address| {
            known.addr != addr && known.stage != Stage::Duplicate && solicited_node(known.addr) == group
        };
        if !self.addresses.iter().any(needed) {
            sink(Act::Leave(group));
        }
    }

    /// A random time up to [`START_DELAY_MAX_MS`].
    fn delay(&mut self) -> Duration {
        self.draws += 1;
        let mut hasher = self.key.hasher();
        hasher.write(&self.mac.0);
        hasher.write_u64(self.draws);
        Duration::from_millis(hasher.finish() % START_DELAY_MAX_MS)
    }

    /// A router advertises: RFC 4861 §6.3.4, RFC 4862 §5.5.3.
    pub fn advertised(
        &mut self,
        now: Instant,
        router: Ipv6Addr,
        said: &RouterAdvertisement,
        options: Options<'_>,
        sink: &mut impl FnMut(Act),
    ) {
        if !self.slaac || !self.on {
            return;
        }
        self.solicit = None;
        let default = Prefix { addr: IpAddr::V6(Ipv6Addr::UNSPECIFIED), len: 0 };
        let lifetime = Lifetime(said.lifetime_s.into());
        self.learn_route(now, default, Some(router), METRIC_ROUTER, lifetime, sink);
        let mut mtu = None;
        for option in options.iter() {
            match option {
                NdOption::Prefix(info) => self.announced(now, &info, sink),
                NdOption::Mtu(bytes) => mtu = u16::try_from(bytes).ok().filter(|mtu| *mtu >= MTU_MIN as u16),
                NdOption::Rdnss { lifetime, servers } => self.learn_resolvers(now, lifetime, servers),
                _ => {}
            }
        }
        sink(Act::Link {
            hop_limit: (said.hop_limit != 0).then_some(said.hop_limit),
            // RFC 4861 §6.2.1: an hour at most.
            reachable: (1..=3_600_000)
                .contains(&said.reachable_ms)
                .then(|| Duration::from_millis(said.reachable_ms.into())),
            mtu,
        });
    }

    fn announced(&mut self, now: Instant, info: &PrefixInfo, sink: &mut impl FnMut(Act)) {
        // RFC 4862 §5.5.3 (b), (c), RFC 4861 §6.3.4: a link-local prefix says nothing.
        let network = Ipv6Addr::from_bits(
            info.prefix.to_bits() & u128::MAX.checked_shl(128 - u32::from(info.len)).unwrap_or(0),
        );
        if info.prefix.is_unicast_link_local() || info.prefix.is_multicast() || info.preferred > info.valid {
            return;
        }
        if info.on_link && info.len > 0 {
            let to = Prefix { addr: IpAddr::V6(network), len: info.len };
            self.learn_route(now, to, None, METRIC_NETWORK, info.valid, sink);
        }
        // RFC 4862 §5.5.3 (d): what is left of 128 bits must be an interface's.
        if !info.autonomous || info.len != 64 {
            return;
        }
        let until = |lifetime: Lifetime| lifetime.duration().map(|life| now + life);
        let (valid, preferred) = (until(info.valid), until(info.preferred));
        let of_network = |known: &&mut Address| {
            matches!(known.origin, Origin::Made { .. })
                && known.addr.to_bits() >> 64 == network.to_bits() >> 64
        };
        if let Some(known) = self.addresses.iter_mut().find(of_network) {
            // RFC 4862 §5.5.3 (e): longer, or to two hours at least.
            let floor = now + SHORTENED_TO;
            let remains = known.valid;
            known.preferred = preferred;
            known.valid = match (valid, remains) {
                (None, _) => None,
                (Some(new), _) if new > floor => Some(new),
                (Some(new), Some(left)) if new > left => Some(new),
                (Some(_), Some(left)) if left <= floor => Some(left),
                (Some(_), _) => Some(floor),
            };
            if let Stage::Assigned { .. } = known.stage {
                let deprecated = known.preferred.is_some_and(|until| until <= now);
                known.stage = Stage::Assigned { deprecated };
                sink(Act::Renew(known.learned(), deprecated));
            }
            return;
        }
        if info.valid.0 > 0 {
            self.make(now, network, 0, (valid, preferred), sink);
        }
    }

    fn learn_route(
        &mut self,
        now: Instant,
        to: Prefix,
        via: Option<Ipv6Addr>,
        metric: u32,
        lifetime: Lifetime,
        sink: &mut impl FnMut(Act),
    ) {
        let until = lifetime.duration().map(|life| now + life);
        let known = self.routes.iter().position(|route| route.to == to && route.via == via);
        match (known, lifetime.0) {
            (Some(at), 0) => sink(Act::RemoveRoute(self.routes.remove(at))),
            (Some(at), _) => {
                self.routes[at].until = until;
                sink(Act::AddRoute(self.routes[at]));
            }
            (None, 0) => {}
            (None, _) if self.routes.len() >= 2 * ROUTERS_MAX => {}
            (None, _) => {
                // Two routers of one network: the first that spoke is preferred.
                let same = self.routes.iter().filter(|route| route.to == to).map(|route| route.metric + 1);
                let route = LearnedRoute { to, via, metric: same.max().unwrap_or(metric), until };
                self.routes.push(route);
                sink(Act::AddRoute(route));
            }
        }
    }

    fn learn_resolvers(&mut self, now: Instant, lifetime: Lifetime, servers: &[[u8; 16]]) {
        let until = lifetime.duration().map(|life| now + life);
        for server in servers {
            let addr = zone::with(Ipv6Addr::from(*server), self.zone);
            if addr.is_multicast() || addr.is_unspecified() || addr.is_loopback() {
                continue;
            }
            self.resolvers.retain(|(known, _)| *known != addr);
            if lifetime.0 > 0 && self.resolvers.len() < RESOLVERS_MAX {
                self.resolvers.push((addr, until));
            }
        }
    }

    /// A router says that `destination` is better reached through `target`: RFC 4861 §8.3. The caller has
    /// seen that it is the present first hop.
    pub fn redirected(
        &mut self,
        now: Instant,
        destination: Ipv6Addr,
        target: Ipv6Addr,
        sink: &mut impl FnMut(Act),
    ) {
        let to = Prefix { addr: IpAddr::V6(destination), len: 128 };
        if let Some(at) = self.redirects.iter().position(|known| known.to == to) {
            sink(Act::RemoveRoute(self.redirects.remove(at)));
        } else if self.redirects.len() >= REDIRECTS_MAX {
            sink(Act::RemoveRoute(self.redirects.remove(0)));
        }
        let via = (target != destination).then_some(target);
        let route = LearnedRoute { to, via, metric: 0, until: Some(now + REDIRECT_LIFETIME) };
        self.redirects.push(route);
        sink(Act::AddRoute(route));
    }

    /// When [`Autoconf::on_timer`] has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        let addresses = self.addresses.iter().flat_map(|address| {
            let stage = match address.stage {
                Stage::Waiting { until } | Stage::Probed { until } => Some(until),
                Stage::Assigned { deprecated: false } => address.preferred,
                _ => None,
            };
            [stage, address.valid]
        });
        let routes = self.routes.iter().chain(&self.redirects).map(|route| route.until);
        let resolvers = self.resolvers.iter().map(|(_, until)| *until);
        let solicit = [self.solicit.map(|(_, at)| at)];
        addresses.chain(routes).chain(resolvers).chain(solicit).flatten().min()
    }

    /// Everything due at `now` happens.
    pub fn on_timer(&mut self, now: Instant, sink: &mut impl FnMut(Act)) {
        let over = |until: Until| until.is_some_and(|until| until <= now);
        while let Some(at) = self.addresses.iter().position(|address| over(address.valid)) {
            self.forget(at, sink);
        }
        for address in &mut self.addresses {
            match address.stage {
                Stage::Waiting { until } if until <= now => {
                    address.stage = Stage::Probed { until: now + PROBE_WAIT };
                    sink(Act::Probe(address.addr));
                }
                Stage::Probed { until } if until <= now => {
                    address.stage = Stage::Assigned { deprecated: false };
                    sink(Act::Assign(address.learned(), address.origin));
                }
                Stage::Assigned { deprecated: false } if over(address.preferred) => {
                    address.stage = Stage::Assigned { deprecated: true };
                    sink(Act::Renew(address.learned(), true));
                }
                _ => {}
            }
        }
        for routes in [&mut self.routes, &mut self.redirects] {
            routes.retain(|route| {
                if over(route.until) {
                    sink(Act::RemoveRoute(*route));
                }
                !over(route.until)
            });
        }
        self.resolvers.retain(|(_, until)| !over(*until));
        if let Some((left, at)) = self.solicit
            && at <= now
        {
            sink(Act::SolicitRouters);
            self.solicit = (left > 1).then(|| (left - 1, now + SOLICITATION_INTERVAL));
        }
    }
}

impl Address {
    fn prefix(&self) -> Prefix {
        Prefix { addr: IpAddr::V6(self.addr), len: self.len }
    }

    fn learned(&self) -> LearnedAddress {
        LearnedAddress { prefix: self.prefix(), valid: self.valid, preferred: self.preferred }
    }
}

#[cfg(test)]
#[path = "autoconf_tests.rs"]
mod tests;
