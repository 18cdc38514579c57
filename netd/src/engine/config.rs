//! The configuration region: what the group was started with, and what was changed since.
//!
//! Shard 0 writes it. At the group's first start it is filled from the group's configuration, links
//! last: a link that stands there says that its addresses and routes do. From then on it alone
//! counts, so that what an administrator changed outlives netd.

use super::Mapped;
use crate::link::interface::InterfaceConfig;
use crate::stack::Stack;
use crate::wire::address::MacAddr;
use core::net::{IpAddr, Ipv4Addr};
use proto::Instant;
use proto::cell::TableError;
use proto::control::messages::{GroupConfig, NicConfig, Prefix};
use proto::control::notices::Change;
use proto::hard::config::{ConfigError, ConfigWriter, Key, LinkName, Record, Value, read};
use rustix::io::Errno;

/// rtnetlink(7): RT_TABLE_MAIN.
const TABLE_MAIN: u32 = 254;

/// The configuration as this shard has it.
pub(super) struct Configuration {
    /// Only shard 0's.
    writer: Option<ConfigWriter<Mapped>>,
    records: Vec<Record>,
    nics: u16,
}

impl Configuration {
    /// Takes over the region; shard 0 fills it when it is the first.
    pub(super) fn attach(memory: Mapped, group: &GroupConfig, writes: bool) -> Result<Self, TableError> {
        let nics = group.nics.len() as u16;
        if !writes {
            return Ok(Configuration { writer: None, records: read(memory)?, nics });
        }
        let mut writer = ConfigWriter::attach(memory)?;
        for (index, nic) in group.nics.iter().enumerate() {
            let index = index as u16;
            if writer.get(&Key::Link(index)).is_none() {
                for record in records_of(index, nic) {
                    writer.set(record).expect("a checked configuration fits the region");
                }
            }
        }
        let records = writer.records().collect();
        Ok(Configuration { writer: Some(writer), records, nics })
    }

    /// What the interfaces start with.
    pub(super) fn interfaces(&self) -> Vec<InterfaceConfig> {
        (0..self.nics).map(|nic| self.interface(nic)).collect()
    }

    fn interface(&self, nic: u16) -> InterfaceConfig {
        let mut config = InterfaceConfig { mac: MacAddr::ZERO, mtu: 1500, addrs: Vec::new(), gateway: None };
        for record in &self.records {
            match (record.key, record.value) {
                (Key::Link(link), Value::Link { mac, mtu, .. }) if link == nic => {
                    (config.mac, config.mtu) = (MacAddr(mac), mtu);
                }
                (Key::Address { link, addr, prefix_len }, _) if link == nic => {
                    config.addrs.push(Prefix { addr, len: prefix_len });
                }
                (
                    Key::Route { destination, prefix_len: 0, .. },
                    Value::Route { gateway: Some(IpAddr::V4(gateway)), link, .. },
                ) if link == nic && destination.is_ipv4() => config.gateway = Some(gateway),
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
                (Key::Route { destination, prefix_len, metric, .. }, Value::Route { gateway, link, .. })
                    if prefix_len > 0 || metric > 0 =>
                {
                    let to = Prefix { addr: destination, len: prefix_len };
                    Change::RouteAdd { to, via: gateway, nic: link, metric }
                }
                (Key::Neighbour { link, addr }, Value::Neighbour { mac }) => {
                    Change::NeighbourAdd { nic: link, addr, mac }
                }
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
            Change::AddressAdd { nic, prefix } => {
                let key = Key::Address { link: nic, addr: prefix.addr, prefix_len: prefix.len };
                writer.set(Record { key, value: Value::Address { verified: true } }).map_err(full)?;
            }
            Change::AddressDel { nic, prefix } => {
                writer.remove(&Key::Address { link: nic, addr: prefix.addr, prefix_len: prefix.len });
            }
            Change::RouteAdd { to, via, nic, metric } => {
                let value = Value::Route { gateway: via, link: nic, source: None };
                writer.set(Record { key: route_key(to, metric), value }).map_err(full)?;
            }
            Change::RouteDel { to, .. } => {
                writer.remove(&route_key(to, 0));
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
                if let Some(Value::Link { name, mac, mtu: old, up: was, promiscuous: heard }) =
                    writer.get(&key)
                {
                    let value = Value::Link {
                        name,
                        mac,
                        mtu: mtu.unwrap_or(old),
                        up: up.unwrap_or(was),
                        promiscuous: promiscuous.unwrap_or(heard),
                    };
                    writer.set(Record { key, value }).map_err(full)?;
                }
            }
            Change::CaptureOpen => {}
        }
        Ok(())
    }
}

fn route_key(to: Prefix, metric: u32) -> Key {
    Key::Route { destination: to.addr, prefix_len: to.len, table: TABLE_MAIN, metric }
}

/// What the group's configuration says of one interface, the link itself last.
fn records_of(index: u16, nic: &NicConfig) -> Vec<Record> {
    let mut records = Vec::new();
    for prefix in &nic.addrs {
        let key = Key::Address { link: index, addr: prefix.addr, prefix_len: prefix.len };
        records.push(Record { key, value: Value::Address { verified: true } });
    }
    if let Some(gateway) = nic.gateway {
        let everywhere = Prefix { addr: IpAddr::V4(Ipv4Addr::UNSPECIFIED), len: 0 };
        let value = Value::Route { gateway: Some(IpAddr::V4(gateway)), link: index, source: None };
        records.push(Record { key: route_key(everywhere, 0), value });
    }
    let name = LinkName::new(&format!("nic{index}")).expect("a short name");
    let value = Value::Link { name, mac: nic.mac, mtu: nic.mtu, up: true, promiscuous: false };
    records.push(Record { key: Key::Link(index), value });
    records
}
