//! The configuration region: what the group was started with, and what was changed since.
//!
//! Shard 0 writes it. At the group's first start it is filled from the group's configuration, links
//! last: a link that stands there says that its addresses and routes do. From then on it alone
//! counts, so that what an administrator changed outlives netd. The other shards read it, when they
//! begin and whenever they are told that it has changed, and make of the difference what shard 0 was
//! asked for; to be told once too often does nothing.

use super::Mapped;
use crate::filter::Counted;
use crate::ip::autoconf::{Learned, LearnedAddress, LearnedRoute};
use crate::link::interface::{InterfaceConfig, NO_VLAN};
use crate::stack::{LinkNews, Stack};
use crate::wire::address::MacAddr;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use proto::Instant;
use proto::cell::TableError;
use proto::control::messages::{GroupConfig, NicConfig, Prefix};
use proto::control::notices::Change;
use proto::hard::config::{ConfigError, ConfigWriter, Key, Life, LinkName, Record, Value, read};
use proto::hard::routing::{Hops, TABLE_MAIN};
use proto::zone;
use rustix::io::Errno;

/// The configuration as this shard has it.
pub(super) struct Configuration {
    /// Only shard 0's.
    writer: Option<ConfigWriter<Mapped>>,
    /// Where the other shards read.
    memory: Mapped,
    /// As it was read last.
    records: Vec<Record>,
    nics: u16,
    /// Where addresses and routers of IPv6 are learned.
    slaac: Vec<bool>,
}

impl Configuration {
    /// Takes over the region; shard 0 fills it when it is the first.
    pub(super) fn attach(memory: Mapped, group: &GroupConfig, writes: bool) -> Result<Self, TableError> {
        let nics = group.nics.len() as u16;
        let slaac = group.nics.iter().map(|nic| nic.slaac).collect();
        if !writes {
            return Ok(Configuration { writer: None, records: read(memory.clone())?, memory, nics, slaac });
        }
        let mut writer = ConfigWriter::attach(memory.clone())?;
        for (index, nic) in group.nics.iter().enumerate() {
            let index = index as u16;
            if writer.get(&Key::Link(index)).is_none() {
                for record in records_of(index, nic) {
                    writer.set(record).expect("a checked configuration fits the region");
                }
            }
        }
        let records = writer.records().collect();
        Ok(Configuration { writer: Some(writer), memory, records, nics, slaac })
    }

    /// Whether shard 0 has filled the region: then the others can begin.
    pub(super) fn is_there(memory: &Mapped, group: &GroupConfig) -> bool {
        let is_link = |record: &Record| matches!(record.key, Key::Link(_));
        read(memory.clone())
            .is_ok_and(|all| all.iter().filter(|one| is_link(one)).count() >= group.nics.len())
    }

    /// Reads the region again and makes of what differs changes of the stack.
    pub(super) fn refresh(&mut self, now: Instant, stack: &mut Stack<Mapped>) {
        if self.writer.is_some() {
            return;
        }
        // A region that was read once is of this layout.
        let Ok(records) = read(self.memory.clone()) else { return };
        for change in differences(&self.records, &records) {
            if let Err(errno) = stack.change(now, &change) {
                tracing::warn!("configuration: {change:?}: {errno}");
            }
        }
        self.records = records;
    }

    /// What the interfaces start with.
    pub(super) fn interfaces(&self) -> Vec<InterfaceConfig> {
        let links = self.records.iter().filter_map(|record| match record.key {
            Key::Link(nic) => Some(nic + 1),
            _ => None,
        });
        // VLANs stand behind the devices, and between them places that are free.
        let count = links.max().unwrap_or(0).max(self.nics);
        let mut all: Vec<InterfaceConfig> = (0..count).map(|nic| self.interface(nic)).collect();
        for n in usize::from(self.nics)..all.len() {
            let below = all[n].vlan.and_then(|vlan| all.get(usize::from(vlan.below))).map(|below| below.mtu);
            all[n].mtu = all[n].mtu.min(below.unwrap_or(u16::MAX));
        }
        all
    }

    fn interface(&self, nic: u16) -> InterfaceConfig {
        let mut config = InterfaceConfig {
            mac: MacAddr::ZERO,
            mtu: 1500,
            vlan: (nic >= self.nics).then_some(NO_VLAN),
            addrs: Vec::new(),
            tentative: Vec::new(),
            gateways: Vec::new(),
            slaac: self.slaac.get(usize::from(nic)).copied().unwrap_or(false),
            learned: Learned::default(),
        };
        for record in &self.records {
            match (record.key, record.value) {
                (Key::Link(link), Value::Link { mac, mtu, vlan, .. }) if link == nic => {
                    (config.mac, config.mtu) = (MacAddr(mac), mtu);
                    config.vlan = vlan.or(config.vlan);
                }
                (Key::Address { link, addr, prefix_len }, Value::Address { verified, life })
                    if link == nic =>
                {
                    let prefix = Prefix { addr, len: prefix_len };
                    let Life { learned, valid, preferred } = life;
                    match (learned, verified) {
                        (true, _) => {
                            config.learned.addresses.push(LearnedAddress { prefix, valid, preferred });
                        }
                        (false, true) => config.addrs.push(prefix),
                        (false, false) => config.tentative.push(prefix),
                    }
                }
                (
                    Key::Route { destination, prefix_len, metric, .. },
                    Value::Route { gateway, link, life: Life { learned: true, valid, .. }, .. },
                ) if link == nic => {
                    let to = Prefix { addr: destination, len: prefix_len };
                    let via = if let Some(IpAddr::V6(via)) = gateway { Some(via) } else { None };
                    config.learned.routes.push(LearnedRoute { to, via, metric, until: valid });
                }
                (
                    Key::Route { prefix_len: 0, metric: 0, table: TABLE_MAIN, hops, .. },
                    Value::Route { gateway: Some(gateway), link, source: None, .. },
                ) if link == nic && !hops.is_several() => config.gateways.push(gateway),
                _ => {}
            }
        }
        config
    }

    /// The routes beside the default one, the permanent neighbours, and what an administrator set down,
    /// for the stack to take in.
    pub(super) fn apply(&self, now: Instant, stack: &mut Stack<Mapped>) {
        for record in &self.records {
            let change = match (record.key, record.value) {
                (
                    Key::Route { prefix_len: 0, metric: 0, table: TABLE_MAIN, hops, .. },
                    Value::Route { gateway: Some(_), source: None, .. },
                ) if !hops.is_several() => continue,
                (key @ Key::Route { .. }, Value::Route { gateway, link, life, source }) if !life.learned => {
                    route_add(key, gateway, link, source)
                }
                (Key::Policy(rule), Value::Policy) => Change::RuleAdd { rule },
                (Key::Neighbour { link, addr }, Value::Neighbour { mac }) => {
                    Change::NeighbourAdd { nic: link, addr, mac }
                }
                (Key::Filter(rule), Value::Filter { packets, bytes }) => {
                    stack.restore_rule(Counted { rule, packets, bytes });
                    continue;
                }
                (Key::Sysctl(tunable), Value::Sysctl(value)) => Change::SysctlSet { tunable, value },
                (Key::Link(nic), Value::Link { up: false, .. }) => {
                    Change::LinkSet { nic, up: Some(false), mtu: None, promiscuous: None }
                }
                _ => continue,
            };
            if let Err(errno) = stack.change(now, &change) {
                tracing::warn!("configuration: {change:?}: {errno}");
            }
        }
    }

    /// Keeps what the links changed by themselves, before anything is sent that follows from it.
    pub(super) fn note(&mut self, news: &LinkNews) {
        let Some(writer) = self.writer.as_mut() else { return };
        match *news {
            LinkNews::Address { nic, address, learned } => {
                let LearnedAddress { prefix, valid, preferred } = address;
                let key = address_key(nic, prefix);
                let value = Value::Address { verified: true, life: Life { learned, valid, preferred } };
                // Without room it is learned again after a death.
                let _ = writer.set(Record { key, value });
            }
            LinkNews::AddressGone { nic, prefix } => {
                writer.remove(&address_key(nic, prefix));
            }
            LinkNews::Route { nic, route } => {
                let life = Life { learned: true, valid: route.until, preferred: None };
                let gateway = route.via.map(|via| IpAddr::V6(zone::without(via)));
                let value = Value::Route { gateway, link: nic, source: None, life };
                let key = route_key(route.to, route.metric, TABLE_MAIN, Hops::default());
                let _ = writer.set(Record { key, value });
            }
            LinkNews::RouteGone { route, .. } => {
                writer.remove(&route_key(route.to, route.metric, TABLE_MAIN, Hops::default()));
            }
            LinkNews::Counted(Counted { rule, packets, bytes }) => {
                // The record is there: the rule was entered by it.
                let _ =
                    writer.set(Record { key: Key::Filter(rule), value: Value::Filter { packets, bytes } });
            }
            LinkNews::Groups { .. } => {}
        }
    }

    /// Makes a change: first in the stack, which says whether it can be, then in hard state.
    pub(super) fn change(
        &mut self,
        now: Instant,
        change: &Change,
        stack: &mut Stack<Mapped>,
    ) -> Result<(), u32> {
        let code = |errno: Errno| errno.raw_os_error().unsigned_abs();
        let writer = self.writer.as_mut().ok_or(code(Errno::ROFS))?;
        stack.change(now, change).map_err(code)?;
        let full = |_: ConfigError| code(Errno::NOSPC);
        match *change {
            Change::AddressAdd { nic, prefix, dad } => {
                let key = address_key(nic, prefix);
                writer.set(Record { key, value: address(prefix, dad) }).map_err(full)?;
            }
            Change::AddressDel { nic, prefix } => {
                writer.remove(&address_key(nic, prefix));
            }
            Change::RouteAdd { to, via, nic, metric, table, source, hops } => {
                let value = Value::Route { gateway: via, link: nic, source, life: Life::GIVEN };
                writer.set(Record { key: route_key(to, metric, table, hops), value }).map_err(full)?;
            }
            Change::RouteDel { to, metric, table } => {
                // Whatever its next hops are: they are part of its key.
                let named = route_key(to, metric, table, Hops::default());
                let same = |key: &Key| match *key {
                    Key::Route { destination, prefix_len, table, metric, .. } => {
                        named == Key::Route { destination, prefix_len, table, metric, hops: Hops::default() }
                    }
                    _ => false,
                };
                let key = writer.records().map(|record| record.key).find(same);
                if let Some(key) = key {
                    writer.remove(&key);
                }
            }
            Change::RuleAdd { rule } => {
                let record = Record { key: Key::Policy(rule), value: Value::Policy };
                writer.set(record).map_err(full)?;
            }
            Change::RuleDel { rule } => {
                writer.remove(&Key::Policy(rule));
            }
            Change::NeighbourAdd { nic, addr, mac } => {
                let key = Key::Neighbour { link: nic, addr };
                writer.set(Record { key, value: Value::Neighbour { mac } }).map_err(full)?;
            }
            Change::NeighbourDel { nic, addr } => {
                writer.remove(&Key::Neighbour { link: nic, addr });
            }
            Change::LinkSet { nic, up, mtu, promiscuous } => {
                let key = Key::Link(nic);
                if let Some(Value::Link { name, mac, mtu: old, up: was, promiscuous: heard, vlan }) =
                    writer.get(&key)
                {
                    let value = Value::Link {
                        name,
                        mac,
                        mtu: mtu.unwrap_or(old),
                        up: up.unwrap_or(was),
                        promiscuous: promiscuous.unwrap_or(heard),
                        vlan,
                    };
                    writer.set(Record { key, value }).map_err(full)?;
                }
            }
            Change::LinkAdd { nic, name, vlan } => {
                let below = writer.get(&Key::Link(vlan.below));
                if let Some(Value::Link { mac, mtu, .. }) = below {
                    let vlan = Some(vlan);
                    let value = Value::Link { name, mac, mtu, up: true, promiscuous: false, vlan };
                    writer.set(Record { key: Key::Link(nic), value }).map_err(full)?;
                }
            }
            Change::LinkDel { nic } => {
                // The interface itself last: what a death leaves has an interface.
                let of_link = |record: &Record| match (record.key, record.value) {
                    (Key::Address { link, .. } | Key::Neighbour { link, .. }, _) => link == nic,
                    (Key::Route { hops, .. }, Value::Route { link, .. }) => {
                        link == nic || hops.others().any(|hop| hop.link == nic)
                    }
                    _ => false,
                };
                let keys: Vec<Key> = writer.records().filter(of_link).map(|record| record.key).collect();
                for key in keys.iter().chain([&Key::Link(nic)]) {
                    writer.remove(key);
                }
            }
            Change::FilterAdd { rule } => {
                let value = Value::Filter { packets: 0, bytes: 0 };
                writer.set(Record { key: Key::Filter(rule), value }).map_err(full)?;
            }
            Change::FilterDel { number } => {
                let named = |key: &Key| matches!(key, Key::Filter(rule) if rule.number == number);
                let key = writer.records().map(|record| record.key).find(named);
                if let Some(key) = key {
                    writer.remove(&key);
                }
            }
            Change::SysctlSet { tunable, value } => {
                let (key, value) = (Key::Sysctl(tunable), Value::Sysctl(value));
                writer.set(Record { key, value }).map_err(full)?;
            }
            Change::CaptureOpen | Change::Refresh => {}
        }
        Ok(())
    }
}

/// A given address: one of IPv6 is looked for on the link first, one of IPv4 where that is asked for.
fn address(prefix: Prefix, dad: bool) -> Value {
    Value::Address { verified: prefix.addr.is_ipv4() && !dad, life: Life::GIVEN }
}

/// The key of an address; without its zone, which is the link's.
fn address_key(nic: u16, prefix: Prefix) -> Key {
    Key::Address { link: nic, addr: zone::ip_without(prefix.addr), prefix_len: prefix.len }
}

/// The changes that lead from one state of the region to another: what goes, routes first, then what
/// comes, addresses first.
fn differences(old: &[Record], new: &[Record]) -> Vec<Change> {
    // What the links taught shard 0 they teach the others too.
    let given = |value: &Value| match value {
        Value::Address { life, .. } | Value::Route { life, .. } => !life.learned,
        Value::Link { .. }
        | Value::Neighbour { .. }
        | Value::Filter { .. }
        | Value::Policy
        | Value::Sysctl(_) => true,
    };
    let (old, new): (Vec<&Record>, Vec<&Record>) = (
        old.iter().filter(|record| given(&record.value)).collect(),
        new.iter().filter(|record| given(&record.value)).collect(),
    );
    let value_in = |records: &[&Record], key: &Key| {
        records.iter().find(|record| record.key == *key).map(|record| record.value)
    };
    let (mut routes_gone, mut gone, mut come, mut routes_come) = (vec![], vec![], vec![], vec![]);
    let mut links_gone = vec![];
    for record in old.iter().filter(|record| value_in(&new, &record.key) != Some(record.value)) {
        match (record.key, record.value) {
            (Key::Route { destination, prefix_len, metric, table, .. }, _) => {
                let to = Prefix { addr: destination, len: prefix_len };
                routes_gone.push(Change::RouteDel { to, metric, table });
            }
            (Key::Policy(rule), _) => routes_gone.push(Change::RuleDel { rule }),
            (Key::Address { link, addr, prefix_len }, _) if value_in(&new, &record.key).is_none() => {
                gone.push(Change::AddressDel { nic: link, prefix: Prefix { addr, len: prefix_len } });
            }
            (Key::Neighbour { link, addr }, _) if value_in(&new, &record.key).is_none() => {
                gone.push(Change::NeighbourDel { nic: link, addr });
            }
            (Key::Link(nic), _) if value_in(&new, &record.key).is_none() => {
                links_gone.push(Change::LinkDel { nic });
            }
            (Key::Filter(rule), _) if value_in(&new, &record.key).is_none() => {
                gone.push(Change::FilterDel { number: rule.number });
            }
            _ => {}
        }
    }
    for record in &new {
        let before = value_in(&old, &record.key);
        if before == Some(record.value) {
            continue;
        }
        match (record.key, record.value) {
            (Key::Address { link, addr, prefix_len }, Value::Address { verified, .. })
                if before.is_none() =>
            {
                let (prefix, dad) = (Prefix { addr, len: prefix_len }, addr.is_ipv4() && !verified);
                come.push(Change::AddressAdd { nic: link, prefix, dad });
            }
            (key @ Key::Route { .. }, Value::Route { gateway, link, source, .. }) => {
                routes_come.push(route_add(key, gateway, link, source));
            }
            (Key::Policy(rule), _) => routes_come.push(Change::RuleAdd { rule }),
            (Key::Sysctl(tunable), Value::Sysctl(value)) => come.push(Change::SysctlSet { tunable, value }),
            (Key::Filter(rule), _) if before.is_none() => come.push(Change::FilterAdd { rule }),
            (Key::Neighbour { link, addr }, Value::Neighbour { mac }) => {
                come.push(Change::NeighbourAdd { nic: link, addr, mac });
            }
            (Key::Link(nic), Value::Link { name, mtu, up, promiscuous, vlan, .. }) => {
                if let Some(vlan) = vlan.filter(|_| before.is_none()) {
                    come.push(Change::LinkAdd { nic, name, vlan });
                }
                come.push(Change::LinkSet {
                    nic,
                    up: Some(up),
                    mtu: Some(mtu),
                    promiscuous: Some(promiscuous),
                });
            }
            _ => {}
        }
    }
    [routes_gone, gone, links_gone, come, routes_come].concat()
}

fn route_key(to: Prefix, metric: u32, table: u32, hops: Hops) -> Key {
    Key::Route { destination: to.addr, prefix_len: to.len, table, metric, hops }
}

/// The change that enters the route of a record.
///
/// # Panics
/// When the key is no route's.
fn route_add(key: Key, via: Option<IpAddr>, nic: u16, source: Option<IpAddr>) -> Change {
    let Key::Route { destination, prefix_len, table, metric, hops } = key else {
        panic!("{key:?} is no route's");
    };
    let to = Prefix { addr: destination, len: prefix_len };
    Change::RouteAdd { to, via, nic, metric, table, source, hops }
}

/// What the group's configuration says of one interface, the link itself last.
fn records_of(index: u16, nic: &NicConfig) -> Vec<Record> {
    let mut records = Vec::new();
    for prefix in &nic.addrs {
        let key = Key::Address { link: index, addr: prefix.addr, prefix_len: prefix.len };
        records.push(Record { key, value: address(*prefix, false) });
    }
    for &gateway in &nic.gateways {
        let addr = match gateway {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let everywhere = Prefix { addr, len: 0 };
        let value = Value::Route { gateway: Some(gateway), link: index, source: None, life: Life::GIVEN };
        let key = route_key(everywhere, 0, TABLE_MAIN, Hops::default());
        records.push(Record { key, value });
    }
    let name = LinkName::new(&format!("nic{index}")).expect("a short name");
    let (mac, mtu) = (nic.mac, nic.mtu);
    let value = Value::Link { name, mac, mtu, up: true, promiscuous: false, vlan: None };
    records.push(Record { key: Key::Link(index), value });
    records
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str, len: u8) -> Prefix {
        Prefix { addr: text.parse().expect("an address"), len }
    }

    fn address(text: &str) -> Record {
        let key = Key::Address { link: 0, addr: text.parse().expect("an address"), prefix_len: 24 };
        Record { key, value: Value::Address { verified: true, life: Life::GIVEN } }
    }

    fn route(via: &str) -> Record {
        let value = Value::Route {
            gateway: Some(via.parse().expect("an address")),
            link: 0,
            source: None,
            life: Life::GIVEN,
        };
        Record { key: route_key(prefix("10.9.0.0", 16), 0, TABLE_MAIN, Hops::default()), value }
    }

    #[test]
    fn the_other_shards_do_what_shard_0_was_asked_for() {
        let old = [address("10.0.0.1"), route("10.0.0.9")];
        assert!(differences(&old, &old).is_empty());
        let new = [address("10.0.1.1"), route("10.0.1.9")];
        let (to, nic) = (prefix("10.9.0.0", 16), 0);
        let via = |text: &str| Some(text.parse().expect("an address"));
        assert_eq!(
            differences(&old, &new),
            [
                Change::RouteDel { to, metric: 0, table: TABLE_MAIN },
                Change::AddressDel { nic, prefix: prefix("10.0.0.1", 24) },
                Change::AddressAdd { nic, prefix: prefix("10.0.1.1", 24), dad: false },
                Change::RouteAdd {
                    to,
                    via: via("10.0.1.9"),
                    nic,
                    metric: 0,
                    table: TABLE_MAIN,
                    source: None,
                    hops: Hops::default(),
                },
            ]
        );
    }
}
