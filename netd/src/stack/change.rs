//! What an administrator changes while the stack runs.

use super::Stack;
use super::socket::Kind;
use crate::filter::Counted;
use crate::ip::fib::Route;
use crate::ip::prefix::Prefix as Network;
use crate::ip::route::RouteError;
use crate::link::interface::NO_VLAN;
use crate::link::neighbour::{Evidence, Neighbour, NeighbourState};
use crate::link::vlan::VLANS_MAX;
use crate::wire::address::MacAddr;
use core::net::IpAddr;
use proto::Instant;
use proto::control::messages::Prefix;
use proto::control::notices::Change;
use proto::hard::config::Vlan;
use proto::hard::routing::TABLE_LOCAL;
use proto::shm::Memory;
use proto::stats::neighbours::Shown;
use proto::zone;
use rustix::io::Errno;

impl<M: Memory + Clone> Stack<M> {
    /// Makes a change, or says why not; nothing has changed then.
    ///
    /// # Errors
    /// The errno that `ip` would show.
    pub fn change(&mut self, now: Instant, change: &Change) -> Result<(), Errno> {
        match *change {
            Change::AddressAdd { nic, prefix, dad } => {
                self.nic(nic)?;
                if prefix.addr.is_ipv6() {
                    return self.give_v6(now, nic, prefix);
                }
                if dad {
                    self.ip.routes.may_add(nic, prefix.addr, prefix.len).map_err(errno)?;
                    let begun = self.ip.look_for_v4(now, nic, prefix);
                    return if begun { Ok(()) } else { Err(Errno::EXIST) };
                }
                self.ip.routes.add_address(nic, prefix.addr, prefix.len).map_err(errno)?;
                let interface = &mut self.ip.link.interfaces_mut()[usize::from(nic)];
                interface.addrs.push(prefix.addr);
                if let IpAddr::V4(v4) = prefix.addr {
                    interface.neighbours.announce(now, v4);
                }
                Ok(())
            }
            Change::AddressDel { nic, prefix } => {
                self.nic(nic)?;
                let looked_for = &mut self.ip.link.interfaces_mut()[usize::from(nic)].conflicts;
                if looked_for.forget(prefix) || self.ip.take_address(now, nic, prefix, &mut self.counters) {
                    return Ok(());
                }
                if !self.ip.routes.remove_address(nic, prefix.addr, prefix.len) {
                    return Err(Errno::ADDRNOTAVAIL);
                }
                let interface = &mut self.ip.link.interfaces_mut()[usize::from(nic)];
                interface.addrs.retain(|addr| *addr != prefix.addr);
                Ok(())
            }
            Change::RouteAdd { to, via, nic, metric, table, source, hops } => {
                let prefix = Network::of(to.addr, to.len).ok_or(Errno::INVAL)?;
                let interface = nic;
                let route = Route { prefix, metric, gateway: via, interface, source, connected: false, hops };
                route.next_hops().try_for_each(|hop| self.nic(hop.link))?;
                if matches!(table, 0 | TABLE_LOCAL) {
                    return Err(Errno::INVAL);
                }
                self.ip.routes.add_route_to(table, route).map_err(errno)
            }
            Change::RouteDel { to, metric, table } => {
                let prefix = Network::of(to.addr, to.len).ok_or(Errno::INVAL)?;
                let removed = self.ip.routes.remove_route_from(table, &prefix, metric);
                removed.map(|_| ()).ok_or(Errno::SRCH)
            }
            Change::RuleAdd { rule } => {
                if !rule.is_sound() {
                    return Err(Errno::INVAL);
                }
                self.ip.routes.add_rule(rule).map_err(errno)
            }
            Change::RuleDel { rule } => match self.ip.routes.remove_rule(&rule) {
                true => Ok(()),
                false => Err(Errno::NOENT),
            },
            Change::NeighbourAdd { nic, addr, mac } => self.set_neighbour(now, nic, addr, MacAddr(mac)),
            Change::NeighbourDel { nic, addr } => self.remove_neighbour(nic, addr),
            Change::LinkSet { nic, up, mtu, .. } => {
                self.nic(nic)?;
                if let Some(mtu) = mtu {
                    // RFC 791 §3.2: every module must take 68 bytes; one page holds a frame.
                    if !(68..=MTU_MAX).contains(&mtu) {
                        return Err(Errno::INVAL);
                    }
                    // A tag takes room of its own; a packet has as much as on the link below.
                    let device = self.ip.link.device_of(nic);
                    if device != nic && self.ip.link.interface(device).is_none_or(|below| mtu > below.mtu) {
                        return Err(Errno::RANGE);
                    }
                    self.ip.link.interfaces_mut()[usize::from(nic)].mtu = mtu;
                    for above in self.ip.link.with_vlans(nic) {
                        let interface = &mut self.ip.link.interfaces_mut()[usize::from(above)];
                        interface.mtu = interface.mtu.min(mtu);
                    }
                }
                if let Some(up) = up {
                    self.set_admin(nic, up);
                }
                Ok(())
            }
            Change::LinkAdd { nic, vlan, .. } => self.add_vlan(now, nic, vlan),
            Change::LinkDel { nic } => {
                self.nic(nic)?;
                if usize::from(nic) < self.ip.link.devices() {
                    return Err(Errno::OPNOTSUPP);
                }
                self.set_down.remove(&nic);
                self.ip.set_vlan(now, nic, NO_VLAN, self.secrets.addresses);
                self.use_routes(nic);
                Ok(())
            }
            Change::FilterAdd { rule } => {
                if !rule.is_sound() || rule.number == 0 {
                    return Err(Errno::INVAL);
                }
                if self.ip.rules.get(rule.number).is_some() {
                    return Err(Errno::EXIST);
                }
                self.restore_rule(Counted { rule, packets: 0, bytes: 0 });
                Ok(())
            }
            Change::FilterDel { number } => match self.ip.rules.remove(number) {
                true => Ok(()),
                false => Err(Errno::NOENT),
            },
            Change::SysctlSet { tunable, value } => match self.tune(now, tunable, value) {
                true => Ok(()),
                false => Err(Errno::INVAL),
            },
            // The engine copies frames and reads the region, not the stack.
            Change::CaptureOpen | Change::Refresh => Ok(()),
        }
    }

    /// A rule that the configuration has, with what it had counted.
    pub fn restore_rule(&mut self, counted: Counted) {
        self.ip.rules.set(counted);
    }

    /// An address of IPv6 is looked for on the link before it is used (RFC 4862 §5.4).
    fn give_v6(&mut self, now: Instant, nic: u16, prefix: Prefix) -> Result<(), Errno> {
        let usable = matches!(prefix.addr, IpAddr::V6(v6)
            if !v6.is_unspecified() && !v6.is_multicast() && !v6.is_loopback() && prefix.len <= 128);
        if !usable {
            return Err(Errno::INVAL);
        }
        match self.ip.give_address(now, nic, prefix, &mut self.counters) {
            true => Ok(()),
            false => Err(Errno::EXIST),
        }
    }

    fn add_vlan(&mut self, now: Instant, nic: u16, vlan: Vlan) -> Result<(), Errno> {
        let link = &self.ip.link;
        if !Vlan::IDS.contains(&vlan.id) {
            return Err(Errno::INVAL);
        }
        if usize::from(vlan.below) >= link.devices() {
            return Err(Errno::NODEV);
        }
        if link.vlan_of(vlan).is_some() || link.is_there(nic) {
            return Err(Errno::EXIST);
        }
        // The first index that is free, or one that is free again.
        if usize::from(nic) > link.interfaces().len() || usize::from(nic) >= link.devices() + VLANS_MAX {
            return Err(Errno::NOSPC);
        }
        self.ip.set_vlan(now, nic, vlan, self.secrets.addresses);
        self.use_routes(nic);
        Ok(())
    }

    fn nic(&self, nic: u16) -> Result<(), Errno> {
        if self.ip.link.is_there(nic) { Ok(()) } else { Err(Errno::NODEV) }
    }

    /// What the device of an interface does for the stack: bits of
    /// [`feature`](proto::control::notices::feature). Nothing, until its nicd has said so.
    pub fn set_features(&mut self, nic: u16, features: u32) {
        if let Some(interface) = self.ip.link.interfaces_mut().get_mut(usize::from(nic)) {
            interface.features = features;
        }
    }

    /// The device of an interface has a new driver: what the old one had in its hands is lost, and
    /// nobody shall wait for a timer because of it.
    pub fn device_replaced(&mut self, now: Instant, nic: u16) {
        let links = self.ip.link.with_vlans(nic);
        links.iter().for_each(|nic| self.ip.link.device_replaced(*nic, &mut self.counters));
        let indices: Vec<u32> = self.sockets.indices().collect();
        for index in indices {
            let Some(socket) = self.sockets.get_mut(index) else { continue };
            let Kind::Tcp(block) = &mut socket.kind else { continue };
            let (local, remote) = (socket.opening.local.ip(), socket.opening.remote.ip());
            let path = self.ip.routes.path(remote, (!zone::is_any(local)).then_some(local), None);
            if path.is_ok_and(|path| links.contains(&path.interface)) && block.on_device_replaced(now) {
                self.touch(index);
                self.reschedule(now, index);
            }
        }
    }

    /// The neighbours that were learned, those that the host has sent to first, as their table in the
    /// daemon's region has them.
    pub fn neighbours(&self, now: Instant) -> impl Iterator<Item = Shown> {
        let all = move |used: bool| {
            self.ip.link.interfaces().iter().zip(0u16..).flat_map(move |(interface, nic)| {
                let reachable_for = interface.neighbours.reachable_time();
                let learned =
                    move |row: &Neighbour| row.state != NeighbourState::Permanent && row.used == used;
                interface.neighbours.list(now).filter(learned).map(move |row| Shown {
                    nic,
                    addr: row.addr,
                    mac: row.mac.unwrap_or(MacAddr::ZERO).0,
                    state: row.state,
                    used,
                    confirmed: row.confirmed,
                    reachable_for,
                })
            })
        };
        all(true).chain(all(false))
    }

    /// Whether [`Stack::neighbours`] says something new since the last call.
    pub fn neighbours_changed(&mut self, now: Instant) -> bool {
        let interfaces = self.ip.link.interfaces_mut().iter_mut();
        interfaces.fold(false, |changed, interface| changed | interface.neighbours.take_changed(now))
    }

    /// What an earlier incarnation knew of a neighbour that it sent to: used at once, and then confirmed
    /// or asked again.
    pub fn restore_neighbour(&mut self, now: Instant, shown: &Shown) {
        if shown.used && shown.state.has_mac() {
            let (addr, mac) = (shown.addr, MacAddr(shown.mac));
            self.ip.link.learn(now, shown.nic, addr, mac, Evidence::Restored, &mut self.counters);
        }
    }

    /// The carrier of an interface came or went.
    pub fn set_carrier(&mut self, nic: u16, up: bool) {
        match up {
            true => self.no_carrier.remove(&nic),
            false => self.no_carrier.insert(nic),
        };
        for nic in self.ip.link.with_vlans(nic) {
            self.use_routes(nic);
        }
    }

    /// An administrator wants an interface up or down. One that is wanted down stays so whatever
    /// its carrier does: nothing is taken from it.
    fn set_admin(&mut self, nic: u16, up: bool) {
        match up {
            true => self.set_down.remove(&nic),
            false => self.set_down.insert(nic),
        };
        for nic in self.ip.link.with_vlans(nic) {
            self.use_routes(nic);
        }
    }

    /// RFC 2863 §3.1.13: in operation when it is wanted up and has a carrier.
    fn use_routes(&mut self, nic: u16) {
        // A VLAN is in operation when what it lies on is, too.
        let device = self.ip.link.device_of(nic);
        let down = |nic: &u16| self.set_down.contains(nic) || self.no_carrier.contains(nic);
        let up = !down(&nic) && !down(&device);
        self.ip.routes.set_interface_up(nic, up);
    }

    fn set_neighbour(&mut self, now: Instant, nic: u16, addr: IpAddr, mac: MacAddr) -> Result<(), Errno> {
        let addr = zone::ip_with(addr, zone::of_interface(nic));
        match self.ip.link.set_neighbour(now, nic, addr, mac, &mut self.counters) {
            Some(true) => Ok(()),
            Some(false) => Err(Errno::NOBUFS),
            None => Err(Errno::NODEV),
        }
    }

    fn remove_neighbour(&mut self, nic: u16, addr: IpAddr) -> Result<(), Errno> {
        let addr = zone::ip_with(addr, zone::of_interface(nic));
        match self.ip.link.remove_neighbour(nic, addr, &mut self.counters) {
            Some(true) => Ok(()),
            Some(false) => Err(Errno::NOENT),
            None => Err(Errno::NODEV),
        }
    }
}

/// The largest MTU: Linux's for Ethernet devices without offloads (ETH_MAX_MTU is 65535).
const MTU_MAX: u16 = 9000;

fn errno(error: RouteError) -> Errno {
    match error {
        RouteError::Exists => Errno::EXIST,
        RouteError::Invalid => Errno::INVAL,
        RouteError::Full => Errno::NOBUFS,
        RouteError::GatewayUnreachable => Errno::NETUNREACH,
    }
}
