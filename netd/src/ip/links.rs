//! What a host does on each link by itself: with IPv6 it asks whether an address is taken and looks for
//! routers; with both families it tells routers which groups are listened to. The machines are
//! [`super::autoconf`] and [`super::groups`]; here what they ask for is done, and whoever keeps the
//! configuration is told.

use super::Ip;
use super::autoconf::{Act, Autoconf, LearnedAddress, LearnedRoute, Origin};
use super::fib::Route;
use super::groups::{Groups, Owner, Sources};
use super::input::Received;
use super::prefix::Prefix as Network;
use crate::counters::{Counter, Counters};
use crate::filter::Counted;
use crate::keyed_hash::HashKey;
use crate::link::HEADROOM;
use crate::link::interface::{InterfaceConfig, NO_VLAN};
use crate::wire::address::{AddressPair, MacAddr};
use crate::wire::drop_reason::DropReason;
use crate::wire::igmp;
use crate::wire::ipv4::{self, IpProtocol};
use crate::wire::membership::{Query, RecordKind, Report, Version};
use crate::wire::mld::{self, ALL_ROUTERS_V2, ROUTER_ALERT};
use crate::wire::ndp::{ALL_NODES, ALL_ROUTERS, NdpMessage, solicited_node};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use proto::Instant;
use proto::control::messages::Prefix;
use proto::hard::config::Vlan;
use proto::hard::routing::Hops;
use proto::nic::packet_buf::PacketBuf;
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
    /// A rule of the packet filter has counted.
    Counted(Counted),
    /// The groups that a device is to listen to are others.
    Groups {
        /// Which interface has the device.
        nic: u16,
    },
}

/// The machines of one link.
#[derive(Debug)]
pub(super) struct LinkHost {
    pub(super) autoconf: Autoconf,
    pub(super) v4: Groups,
    pub(super) v6: Groups,
}

impl LinkHost {
    fn new(nic: u16, mac: MacAddr, key: HashKey, slaac: bool) -> LinkHost {
        let autoconf = Autoconf::new(nic, mac, key, slaac);
        LinkHost { autoconf, v4: Groups::new(key), v6: Groups::new(key) }
    }

    fn groups_of(&mut self, group: IpAddr) -> &mut Groups {
        if group.is_ipv4() { &mut self.v4 } else { &mut self.v6 }
    }
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
            self.hosts.push(LinkHost::new(nic, config.mac, key, config.slaac));
            for prefix in config.tentative.iter().filter(|prefix| prefix.addr.is_ipv4()) {
                self.look_for_v4(now, nic, *prefix);
            }
            let v6 = |prefixes: &[Prefix]| prefixes.iter().any(|prefix| prefix.addr.is_ipv6());
            let on = config.slaac || v6(&config.addrs) || v6(&config.tentative);
            let mut acts = Vec::new();
            let host = &mut self.hosts[usize::from(nic)].autoconf;
            host.restore(&config.addrs, &config.learned, &mut |act| acts.push(act));
            for prefix in config.tentative.iter().filter(|prefix| prefix.addr.is_ipv6()) {
                host.give(now, *prefix, &mut |act| acts.push(act));
            }

            if on {
                host.switch_on(now, &mut |act| acts.push(act));
            }
            self.act_on_link(now, nic, acts, counters);
        }
    }

    /// Makes a VLAN of that index, or makes nothing of it: then its addresses, routes and groups are gone.
    pub fn set_vlan(&mut self, now: Instant, nic: u16, vlan: Vlan, key: HashKey) {
        let device = if vlan == NO_VLAN { self.link.device_of(nic) } else { vlan.below };
        self.routes.remove_interface(nic);
        self.link.set_vlan(now, nic, vlan);
        let mac = self.link.interface(nic).map_or(MacAddr::ZERO, |interface| interface.mac);
        let host = LinkHost::new(nic, mac, key, false);
        match self.hosts.get_mut(usize::from(nic)) {
            Some(place) => *place = host,
            None => self.hosts.push(host),
        }
        self.news.push_back(LinkNews::Groups { nic: device });
        self.note_due();
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

    /// An IPv4 address is looked for on its link before it is used (RFC 5227 §2.1). `false` when it is already, or
    /// there is no room.
    pub fn look_for_v4(&mut self, now: Instant, nic: u16, prefix: Prefix) -> bool {
        let interface = self.link.interfaces_mut().get_mut(usize::from(nic));
        interface.is_some_and(|interface| interface.conflicts.look_for(now, prefix))
    }

    /// The addresses that nobody else has are ours.
    pub(super) fn claim_addresses(&mut self, now: Instant) {
        for (nic, prefix) in core::mem::take(&mut self.link.claimed) {
            if self.routes.add_address(nic, prefix.addr, prefix.len).is_err() {
                continue;
            }
            let interface = &mut self.link.interfaces_mut()[usize::from(nic)];
            interface.assign(prefix.addr);
            if let IpAddr::V4(v4) = prefix.addr {
                interface.neighbours.announce(now, v4);
            }
            let address = LearnedAddress { prefix, valid: None, preferred: None };
            self.news.push_back(LinkNews::Address { nic, address, learned: false });
        }
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

    /// The link addresses of the groups that a device's interface and its VLANs listen to, all nodes' first; `None` where IPv6 is
    /// not spoken.
    pub fn groups(&self, nic: u16) -> Option<Vec<MacAddr>> {
        let of_device = |(n, _): &(u16, &LinkHost)| self.link.device_of(*n) == nic;
        let hosts = (0u16..).zip(&self.hosts).filter(of_device).map(|(_, host)| host);
        let mut spoken = hosts.filter(|host| host.autoconf.is_on()).peekable();
        spoken.peek()?;
        let v6 = spoken.flat_map(|host| host.v6.listened()).filter_map(|group| match group {
            IpAddr::V6(group) => Some(zone::without(group)),
            IpAddr::V4(_) => None,
        });
        let mut groups: Vec<MacAddr> = v6.map(MacAddr::of_ipv6_multicast).collect();
        groups.sort_unstable();
        groups.dedup();
        groups.insert(0, MacAddr::of_ipv6_multicast(ALL_NODES));
        Some(groups)
    }

    /// The next thing that the keeper of the configuration has to know.
    pub fn next_news(&mut self) -> Option<LinkNews> {
        self.news.pop_front().or_else(|| self.rules.next_moved().map(LinkNews::Counted))
    }

    /// Everything due at `now` on the links happens.
    pub(super) fn on_link_timers(&mut self, now: Instant, counters: &mut Counters) {
        if self.hosts_due.is_none_or(|due| due > now) {
            return;
        }
        for nic in 0..self.hosts.len() as u16 {
            let host = &mut self.hosts[usize::from(nic)];
            let (mut acts, mut v4, mut v6) = (Vec::new(), Vec::new(), Vec::new());
            // Groups first: a report of the group goes before the probe (RFC 4862 §5.4.2).
            host.v4.on_timer(now, |report| v4.push(report));
            host.v6.on_timer(now, |report| v6.push(report));
            host.autoconf.on_timer(now, &mut |act| acts.push(act));
            if self.speaks {
                self.report_v4(nic, &v4, now, counters);
                self.report_v6(nic, &v6, counters);
            }
            self.act_on_link(now, nic, acts, counters);
        }
    }

    /// A router asks who listens.
    pub(super) fn queried(&mut self, now: Instant, nic: u16, query: &Query, v4: bool) -> bool {
        let Some(host) = self.hosts.get_mut(usize::from(nic)) else { return false };
        let groups = if v4 { &mut host.v4 } else { &mut host.v6 };
        let any = groups.queried(now, query);
        self.note_due();
        any
    }

    /// Another host has told a router that it listens to a group, in an older version.
    pub(super) fn heard_listener(&mut self, now: Instant, nic: u16, group: IpAddr) -> bool {
        let Some(host) = self.hosts.get_mut(usize::from(nic)) else { return false };
        host.groups_of(group).heard(now, group)
    }

    /// A socket wants these sources of a group on a link, or none of it any more. `false` when there is no
    /// such interface.
    pub fn listen(
        &mut self,
        now: Instant,
        nic: u16,
        owner: Owner,
        group: IpAddr,
        sources: Option<Sources>,
    ) -> bool {
        let Some(host) = self.hosts.get_mut(usize::from(nic)) else { return false };
        let changed = host.groups_of(group).set(now, owner, group, sources);
        self.groups_moved(nic, changed);
        self.note_due();
        true
    }

    fn act_on_link(&mut self, now: Instant, nic: u16, acts: Vec<Act>, counters: &mut Counters) {
        for act in acts {
            self.act_once(now, nic, act, counters);
        }
        self.note_due();
    }

    fn note_due(&mut self) {
        let due = |host: &LinkHost| {
            [host.autoconf.next_deadline(), host.v4.next_deadline(), host.v6.next_deadline()]
        };
        self.hosts_due = self.hosts.iter().flat_map(due).flatten().min();
    }

    fn act_once(&mut self, now: Instant, nic: u16, act: Act, counters: &mut Counters) {
        match act {
            Act::Join(group) => {
                let (group, every) = (IpAddr::V6(group), Some(Sources::every()));
                let changed = self.hosts[usize::from(nic)].v6.set(now, Owner::HOST, group, every);
                self.groups_moved(nic, changed);
            }
            Act::Leave(group) => {
                let changed = self.hosts[usize::from(nic)].v6.set(now, Owner::HOST, IpAddr::V6(group), None);
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
            let host = &self.hosts[usize::from(nic)];
            let mut groups: Vec<IpAddr> =
                host.v4.listened().chain(host.v6.listened()).map(zone::ip_without).collect();
            groups.sort_unstable();
            self.link.interfaces_mut()[usize::from(nic)].groups = groups;
            self.news.push_back(LinkNews::Groups { nic: self.link.device_of(nic) });
        }
    }

    fn link_local(&self, nic: u16) -> Option<Ipv6Addr> {
        self.link.interface(nic)?.link_local()
    }

    /// RFC 3810 §5.2.13: from the link-local address, or from none while there is none (RFC 3590 §4).
    fn report_v6(&mut self, nic: u16, reports: &[Report], counters: &mut Counters) {
        let src = self.link_local(nic).unwrap_or(Ipv6Addr::UNSPECIFIED);
        let mut bytes = [0; ROUTER_ALERT.len() + mld::MESSAGE_MAX];
        bytes[..ROUTER_ALERT.len()].copy_from_slice(&ROUTER_ALERT);
        let mut send = |ip: &mut Self, dst: Ipv6Addr, message: &[u8]| {
            let pair = AddressPair::V6 { src, dst };
            let len = ROUTER_ALERT.len() + message.len();
            bytes[ROUTER_ALERT.len()..len].copy_from_slice(message);
            counters.count(Counter::MldOut);
            ip.link.send_on_link(nic, &pair, IpProtocol::HOP_BY_HOP, 1, &bytes[..len], None, counters);
        };
        let mut message = [0; mld::MESSAGE_MAX];
        let newest: Vec<Report> =
            reports.iter().filter(|report| report.version == Version::Newest).cloned().collect();
        let mut rest = &newest[..];
        while !rest.is_empty() {
            let pair = AddressPair::V6 { src, dst: ALL_ROUTERS_V2 };
            let (len, held) = mld::emit_report(&mut message, rest, &pair);
            send(self, ALL_ROUTERS_V2, &message[..len]);
            rest = &rest[held..];
        }
        for report in reports.iter().filter(|report| report.version != Version::Newest) {
            let dst = match report.group {
                IpAddr::V6(group) if report.kind != RecordKind::ChangeToInclude => group,
                _ => ALL_ROUTERS,
            };
            let len = mld::emit_v1(&mut message, report, &AddressPair::V6 { src, dst });
            send(self, dst, &message[..len]);
        }
    }

    /// RFC 3376 §4.2.13: from an address of the interface, or from none while there is none.
    fn report_v4(&mut self, nic: u16, reports: &[Report], now: Instant, counters: &mut Counters) {
        let mut message = [0; igmp::MESSAGE_MAX];
        let newest: Vec<Report> =
            reports.iter().filter(|report| report.version == Version::Newest).cloned().collect();
        let mut rest = &newest[..];
        while !rest.is_empty() {
            let (len, held) = igmp::emit_report(&mut message, rest);
            self.send_igmp(now, nic, igmp::ALL_ROUTERS_V3, &message[..len], counters);
            rest = &rest[held..];
        }
        for report in reports.iter().filter(|report| report.version != Version::Newest) {
            let leaves = report.kind == RecordKind::ChangeToInclude;
            let dst = match report.group {
                // RFC 1112 appendix I: version 1 knows no leaving.
                _ if leaves && report.version == Version::First => continue,
                IpAddr::V4(group) if !leaves => group,
                _ => igmp::ALL_ROUTERS,
            };
            let len = igmp::emit_older(&mut message, report);
            self.send_igmp(now, nic, dst, &message[..len], counters);
        }
    }

    fn send_igmp(&mut self, now: Instant, nic: u16, dst: Ipv4Addr, message: &[u8], counters: &mut Counters) {
        let Some(interface) = self.link.interface(nic) else { return };
        let src = interface.first_v4().unwrap_or(Ipv4Addr::UNSPECIFIED);
        let mut header = [0; ipv4::ALERT_LEN];
        ipv4::emit_with_alert(&mut header, src, dst, IpProtocol::IGMP, message.len());
        let built = PacketBuf::alloc(&interface.frames, header.len() + message.len(), HEADROOM);
        let built = built.and_then(|mut packet| {
            packet.write(0, &header)?;
            packet.write(header.len(), message)?;
            Ok(packet)
        });
        match built {
            Ok(packet) => {
                counters.count(Counter::IgmpOut);
                self.link.send(now, nic, IpAddr::V4(dst), packet, counters);
            }
            Err(_) => counters.drop(DropReason::NoMem),
        }
    }

    /// An IGMP message (RFC 3376 §5.2).
    ///
    /// # Errors
    /// The reason why it was dropped.
    pub fn receive_igmp(
        &mut self,
        now: Instant,
        received: &Received<'_, M>,
        counters: &mut Counters,
    ) -> Result<(), DropReason> {
        counters.count(Counter::IgmpIn);
        let len = received.frame.buf.len();
        // RFC 3376 §4, §9.1: a router of this link sends it, and to a group.
        if received.hop_limit != 1 || !received.to_group || len > igmp::RECEIVED_MAX {
            return Err(DropReason::IgmpInvalid);
        }
        let mut bytes = [0; igmp::RECEIVED_MAX];
        received.frame.buf.read_up_to(0, &mut bytes);
        let said = match igmp::IgmpMessage::parse(&bytes[..len])? {
            igmp::IgmpMessage::Query(query) => self.queried(now, received.interface, &query, true),
            igmp::IgmpMessage::Listens(group) => {
                self.heard_listener(now, received.interface, IpAddr::V4(group))
            }
            igmp::IgmpMessage::ForRouters => false,
        };
        if said { Ok(()) } else { Err(DropReason::IcmpUnhandled) }
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
    Some(Route {
        prefix,
        metric,
        gateway: None,
        interface: nic,
        source: None,
        connected: false,
        hops: Hops::default(),
    })
}

/// A redirect is a hint, which a successor does without.
const fn is_kept(route: &LearnedRoute) -> bool {
    route.metric > 0
}

/// A learned route as the table has it.
pub fn entry(nic: u16, route: &LearnedRoute) -> Option<Route> {
    let gateway = route.via.map(|via| IpAddr::V6(zone::with(via, zone::of_interface(nic))));
    let prefix = Network::of(route.to.addr, route.to.len)?;
    Some(Route {
        prefix,
        metric: route.metric,
        gateway,
        interface: nic,
        source: None,
        connected: false,
        hops: Hops::default(),
    })
}
