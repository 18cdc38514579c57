//! What IPv6 does on each link by itself: asks whether an address is taken, looks for routers, tells
//! routers which groups are listened to. The machines are [`super::autoconf`] and [`super::mld`]; here what
//! they ask for is done, and whoever keeps the configuration is told.

use super::Ip;
use super::autoconf::{Act, Autoconf, LearnedAddress, LearnedRoute, Origin};
use super::fib::Route;
use super::mld::{Memberships, Report};
use super::prefix::Prefix as Network;
use crate::counters::{Counter, Counters};
use crate::keyed_hash::HashKey;
use crate::link::interface::InterfaceConfig;
use crate::wire::address::{AddressPair, MacAddr};
use crate::wire::ipv4::IpProtocol;
use crate::wire::mld::{self, ALL_ROUTERS_V2, ROUTER_ALERT, RecordKind};
use crate::wire::ndp::{ALL_NODES, ALL_ROUTERS, NdpMessage, solicited_node};
use core::net::{IpAddr, Ipv6Addr};
use proto::Instant;
use proto::control::messages::Prefix;
use proto::shm::Memory;
use proto::zone;

/// What the keeper of the configuration has to know, so that a successor finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkNews {
    /// An address is verified, or lives longer or shorter than before.
    Address {
        /// On which interface.
        nic: u16,
        /// The address.
        address: LearnedAddress,
        /// It was made here.
        learned: bool,
    },
    /// An address is gone.
    AddressGone {
        /// From which interface.
        nic: u16,
        /// The address.
        prefix: Prefix,
    },
    /// A route was learned, or lives on.
    Route {
        /// By which interface.
        nic: u16,
        /// The route.
        route: LearnedRoute,
    },
    /// A route that was learned is gone.
    RouteGone {
        /// By which interface.
        nic: u16,
        /// The route.
        route: LearnedRoute,
    },
    /// The groups of an interface are others.
    Groups {
        /// Which interface.
        nic: u16,
    },
}

/// The machines of one link.
#[derive(Debug)]
pub(super) struct LinkHost {
    pub(super) autoconf: Autoconf,
    pub(super) groups: Memberships,
}

impl<M: Memory + Clone> Ip<M> {
    /// Begins on every link: what is verified is taken over, what is not is looked for.
    pub fn begin_links(
        &mut self,
        now: Instant,
        configs: &[InterfaceConfig],
        key: HashKey,
        counters: &mut Counters,
    ) {
        for (nic, config) in configs.iter().enumerate() {
            let nic = nic as u16;
            let autoconf = Autoconf::new(nic, config.mac, key, config.slaac);
            self.hosts.push(LinkHost { autoconf, groups: Memberships::new(key) });
            let v6 = |prefixes: &[Prefix]| prefixes.iter().any(|prefix| prefix.addr.is_ipv6());
            let on = config.slaac || v6(&config.addrs) || v6(&config.tentative);
            let mut acts = Vec::new();
            let host = &mut self.hosts[usize::from(nic)].autoconf;
            host.restore(&config.addrs, &config.learned, &mut |act| acts.push(act));
            for prefix in &config.tentative {
                host.give(now, *prefix, &mut |act| acts.push(act));
            }
            if on {
                host.switch_on(now, &mut |act| acts.push(act));
            }
            self.act_on_link(now, nic, acts, counters);
        }
    }

    /// Calls a machine and does what it asks for.
    pub(super) fn with_host(
        &mut self,
        now: Instant,
        nic: u16,
        counters: &mut Counters,
        call: impl FnOnce(&mut Autoconf, &mut dyn FnMut(Act)),
    ) {
        let Some(host) = self.hosts.get_mut(usize::from(nic)) else { return };
        let mut acts = Vec::new();
        call(&mut host.autoconf, &mut |act| acts.push(act));
        self.act_on_link(now, nic, acts, counters);
    }

    /// An administrator gives an IPv6 address. `false` when there is one already, or no room.
    pub fn give_address(&mut self, now: Instant, nic: u16, prefix: Prefix, counters: &mut Counters) -> bool {
        let mut given = false;
        self.with_host(now, nic, counters, |host, mut sink| given = host.give(now, prefix, &mut sink));
        if let Some(route) = network_of(nic, &prefix).filter(|_| given && prefix.len < 128) {
            // Another address of the network may have brought it.
            let _ = self.routes.add_route(route);
        }
        given
    }

    /// An administrator takes an IPv6 address away. `false` when there is none.
    pub fn take_address(&mut self, now: Instant, nic: u16, prefix: Prefix, counters: &mut Counters) -> bool {
        let mut taken = false;
        self.with_host(now, nic, counters, |host, mut sink| taken = host.take(prefix, &mut sink));
        if let Some(route) = network_of(nic, &prefix).filter(|_| taken) {
            self.routes.remove_route(&route.prefix, route.metric);
        }
        taken
    }

    /// The link addresses of the groups that an interface listens to, all nodes' first; `None` where IPv6 is
    /// not spoken.
    pub fn groups(&self, nic: u16) -> Option<Vec<MacAddr>> {
        let host = self.hosts.get(usize::from(nic)).filter(|host| host.autoconf.is_on())?;
        let groups = core::iter::once(ALL_NODES).chain(host.groups.groups());
        Some(groups.map(MacAddr::of_ipv6_multicast).collect())
    }

    /// The next thing that the keeper of the configuration has to know.
    pub fn next_news(&mut self) -> Option<LinkNews> {
        self.news.pop_front()
    }

    /// Everything due at `now` on the links happens.
    pub(super) fn on_link_timers(&mut self, now: Instant, counters: &mut Counters) {
        if self.hosts_due.is_none_or(|due| due > now) {
            return;
        }
        for nic in 0..self.hosts.len() as u16 {
            let host = &mut self.hosts[usize::from(nic)];
            let (mut acts, mut reports) = (Vec::new(), Vec::new());
            // Groups first: a report of the group goes before the probe (RFC 4862 §5.4.2).
            host.groups.on_timer(now, |report| reports.push(report));
            host.autoconf.on_timer(now, &mut |act| acts.push(act));
            self.report_groups(nic, &reports, counters);
            self.act_on_link(now, nic, acts, counters);
        }
    }

    /// A router asks who listens.
    pub(super) fn queried(&mut self, now: Instant, nic: u16, query: &mld::Query) -> bool {
        let Some(host) = self.hosts.get_mut(usize::from(nic)) else { return false };
        let any = host.groups.queried(now, query);
        self.note_due();
        any
    }

    fn act_on_link(&mut self, now: Instant, nic: u16, acts: Vec<Act>, counters: &mut Counters) {
        for act in acts {
            self.act_once(now, nic, act, counters);
        }
        self.note_due();
    }

    fn note_due(&mut self) {
        let due = |host: &LinkHost| [host.autoconf.next_deadline(), host.groups.next_deadline()];
        self.hosts_due = self.hosts.iter().flat_map(due).flatten().min();
    }

    fn act_once(&mut self, now: Instant, nic: u16, act: Act, counters: &mut Counters) {
        match act {
            Act::Join(group) => {
                let changed = self.hosts[usize::from(nic)].groups.join(now, group);
                self.groups_moved(nic, changed);
            }
            Act::Leave(group) => {
                let changed = self.hosts[usize::from(nic)].groups.leave(now, group);
                self.groups_moved(nic, changed);
            }
            Act::Probe(target) => {
                let message = NdpMessage::NeighbourSolicitation { target };
                let group = solicited_node(target);
                self.link.send_ndp(nic, &message, Ipv6Addr::UNSPECIFIED, group, None, counters);
            }
            Act::SolicitRouters => {
                let source = self.link_local(nic).unwrap_or(Ipv6Addr::UNSPECIFIED);
                let message = NdpMessage::RouterSolicitation;
                self.link.send_ndp(nic, &message, source, ALL_ROUTERS, None, counters);
            }
            Act::Assign(address, origin) => {
                let given = origin == Origin::Given;
                // The network of an address that was made is on the link only if a router says so.
                let Prefix { addr, len } = address.prefix;
                if self.routes.add_address_on(nic, addr, len, given || is_link_local(addr)).is_ok() {
                    self.link.interfaces_mut()[usize::from(nic)].assign(addr);
                }
                self.news.push_back(LinkNews::Address { nic, address, learned: !given });
            }
            Act::Renew(address, deprecated) => {
                self.routes.set_deprecated(nic, address.prefix.addr, deprecated);
                self.news.push_back(LinkNews::Address { nic, address, learned: true });
            }
            Act::Withdraw(prefix) => {
                self.routes.remove_address(nic, prefix.addr, prefix.len);
                self.link.interfaces_mut()[usize::from(nic)].addrs.retain(|addr| *addr != prefix.addr);
                self.news.push_back(LinkNews::AddressGone { nic, prefix });
            }
            Act::Duplicate(_) => counters.count(Counter::DadFailed),
            Act::AddRoute(route) => {
                let Some(entry) = entry(nic, &route) else { return };
                self.routes.remove_route(&entry.prefix, entry.metric);
                // A gateway that is ours, or a network that an address of ours has already: no loss.
                if self.routes.add_route(entry).is_ok() && is_kept(&route) {
                    self.news.push_back(LinkNews::Route { nic, route });
                }
            }
            Act::RemoveRoute(route) => {
                let Some(entry) = entry(nic, &route) else { return };
                self.routes.remove_route(&entry.prefix, entry.metric);
                if is_kept(&route) {
                    self.news.push_back(LinkNews::RouteGone { nic, route });
                }
            }
            Act::Link { hop_limit, reachable, mtu } => {
                let interface = &mut self.link.interfaces_mut()[usize::from(nic)];
                interface.hop_limit = hop_limit.unwrap_or(interface.hop_limit);
                interface.mtu_v6 = mtu.unwrap_or(interface.mtu_v6);
                if let Some(reachable) = reachable {
                    interface.neighbours.set_reachable_time(reachable);
                }
            }
        }
    }

    fn groups_moved(&mut self, nic: u16, changed: bool) {
        if changed {
            let groups = self.hosts[usize::from(nic)].groups.groups().collect();
            self.link.interfaces_mut()[usize::from(nic)].groups = groups;
            self.news.push_back(LinkNews::Groups { nic });
        }
    }

    fn link_local(&self, nic: u16) -> Option<Ipv6Addr> {
        self.link.interface(nic)?.link_local()
    }

    /// RFC 3810 §5.2: from the link-local address, or from none while there is none (RFC 3590 §4).
    fn report_groups(&mut self, nic: u16, reports: &[Report], counters: &mut Counters) {
        let src = self.link_local(nic).unwrap_or(Ipv6Addr::UNSPECIFIED);
        let mut bytes = [0; ROUTER_ALERT.len() + mld::EMITTED_LEN_MAX];
        bytes[..ROUTER_ALERT.len()].copy_from_slice(&ROUTER_ALERT);
        let mut send = |ip: &mut Self, dst: Ipv6Addr, emit: &dyn Fn(&mut [u8], &AddressPair) -> usize| {
            let pair = AddressPair::V6 { src, dst };
            let len = ROUTER_ALERT.len() + emit(&mut bytes[ROUTER_ALERT.len()..], &pair);
            counters.count(Counter::MldOut);
            ip.link.send_on_link(nic, &pair, IpProtocol::HOP_BY_HOP, 1, &bytes[..len], None, counters);
        };
        let news: Vec<_> =
            reports.iter().filter(|report| !report.version_1).map(|r| (r.kind, r.group)).collect();
        for records in news.chunks(mld::RECORDS_MAX) {
            send(self, ALL_ROUTERS_V2, &|out, pair| mld::emit_report(out, records, pair));
        }
        for report in reports.iter().filter(|report| report.version_1) {
            let leaves = report.kind == RecordKind::ChangeToInclude;
            let dst = if leaves { ALL_ROUTERS } else { report.group };
            send(self, dst, &|out, pair| mld::emit_v1(out, leaves, report.group, pair));
        }
    }
}

fn is_link_local(addr: IpAddr) -> bool {
    matches!(addr, IpAddr::V6(addr) if addr.is_unicast_link_local())
}

/// The network of a given address that is not verified yet: gateways may lie in it.
pub fn network_of(nic: u16, prefix: &Prefix) -> Option<Route> {
    let addr = zone::ip_with(prefix.addr, zone::of_interface(nic));
    let prefix = Network::of(addr, prefix.len)?;
    let metric = super::autoconf::METRIC_NETWORK;
    Some(Route { prefix, metric, gateway: None, interface: nic, source: None, connected: false })
}

/// A redirect is a hint, which a successor does without.
const fn is_kept(route: &LearnedRoute) -> bool {
    route.metric > 0
}

/// A learned route as the table has it.
pub fn entry(nic: u16, route: &LearnedRoute) -> Option<Route> {
    let gateway = route.via.map(|via| IpAddr::V6(zone::with(via, zone::of_interface(nic))));
    let prefix = Network::of(route.to.addr, route.to.len)?;
    Some(Route { prefix, metric: route.metric, gateway, interface: nic, source: None, connected: false })
}
