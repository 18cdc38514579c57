//! The configuration: links, addresses, routes, policy rules, permanent neighbours, filter rules and tunables, as cells.
//!
//! Written by netd's shard 0 alone; read by the other shards, sockd and netctl. What names a record
//! (its [`Key`]) is the cell's opening part and never changes; the rest is its state and is replaced
//! by a commit. So every change is one cell's, and a death in the middle of it leaves the old value
//! or the new one. A record that fails its check is dropped, never guessed (INV-T7).
//!
//! Not here: which changes are allowed (netd), and neighbours that were learned (soft state).

use super::filter::Rule;
use super::pack::{Pack, Unpack};
use super::routing::{Hops, PolicyRule};
use super::sysctl::Tunable;
use crate::cell::{CellTable, CellWriter, Held, OPENING_SIZE, STATE_SIZE, TableError, table_size};
use crate::shm::Memory;
use crate::time::Instant;
use core::net::IpAddr;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use thiserror::Error;

/// Layout version of the region; changes with any field below.
pub const LAYOUT: u32 = 6;
/// Records that the region has room for.
pub const CAPACITY: u32 = 4096;
/// Size of the region in bytes.
pub const REGION_SIZE: usize = table_size(CAPACITY);
/// Bytes of an interface's name, as Linux's IFNAMSIZ without its NUL.
pub const NAME_MAX: usize = 15;

/// In place of an interface's number: the host itself, whose interface nobody configures.
pub const LOOPBACK: u16 = u16::MAX;
/// Its name, as everywhere.
pub const LOOPBACK_NAME: &str = "lo";
/// Its MTU: the largest packet of IPv4 (RFC 791 §3.1), as Linux's segments have it.
pub const LOOPBACK_MTU: u16 = u16::MAX;
/// Its network (RFC 1122 §3.2.1.3 (g)).
pub const LOOPBACK_NETWORK: (core::net::Ipv4Addr, u8) = (core::net::Ipv4Addr::LOCALHOST, 8);

/// A hardware address.
pub type Mac = [u8; 6];

/// An interface's name: up to [`NAME_MAX`] bytes of visible ASCII without `/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LinkName([u8; NAME_MAX]);

impl LinkName {
    /// `None` when it is empty, too long, or has other characters.
    pub fn new(name: &str) -> Option<LinkName> {
        let sound =
            (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic() && b != b'/');
        let mut bytes = [0; NAME_MAX];
        sound.then(|| {
            bytes[..name.len()].copy_from_slice(name.as_bytes());
            LinkName(bytes)
        })
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        let len = self.0.iter().position(|&b| b == 0).unwrap_or(NAME_MAX);
        core::str::from_utf8(&self.0[..len]).expect("checked when it was made")
    }
}

impl TryFrom<String> for LinkName {
    type Error = &'static str;

    fn try_from(name: String) -> Result<LinkName, Self::Error> {
        LinkName::new(&name).ok_or("no name of an interface")
    }
}

impl From<LinkName> for String {
    fn from(name: LinkName) -> String {
        name.as_str().to_owned()
    }
}

/// What makes an interface a VLAN of another one (IEEE 802.1Q).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Vlan {
    /// The interface of the device.
    pub below: u16,
    /// Which VLAN: [`Vlan::IDS`].
    pub id: u16,
}

impl Vlan {
    /// IEEE 802.1Q §9.6: 0 is no VLAN, and 4095 is kept back.
    pub const IDS: core::ops::RangeInclusive<u16> = 1..=4094;
}

/// What names a record. Two records never have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// An interface, by index.
    Link(u16),
    /// An address on an interface.
    Address {
        /// The interface.
        link: u16,
        /// The address.
        addr: IpAddr,
        /// Bits of network, at most 32 or 128.
        prefix_len: u8,
    },
    /// A route. The same destination may stand there once for each metric and table.
    Route {
        /// The network.
        destination: IpAddr,
        /// Its bits, at most 32 or 128.
        prefix_len: u8,
        /// Which table; 254 is `main` (rtnetlink(7)).
        table: u32,
        /// The lowest wins.
        metric: u32,
        /// Its next hops beside the first, which the value has.
        hops: Hops,
    },
    /// A policy rule.
    Policy(PolicyRule),
    /// A permanent neighbour on an interface.
    Neighbour {
        /// The interface.
        link: u16,
        /// Its address.
        addr: IpAddr,
    },
    /// A rule of the packet filter.
    Filter(Rule),
    /// A tunable that was set.
    Sysctl(Tunable),
}

/// How long an address or a route lives, and who said so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Life {
    /// A router announced it (RFC 4861, RFC 4862), or this host made it; else an administrator gave it.
    pub learned: bool,
    /// Until when it may be used; `None` for ever.
    pub valid: Option<Instant>,
    /// Until when it may be used for anything new; `None` for ever.
    pub preferred: Option<Instant>,
}

impl Life {
    /// Of what an administrator gave.
    pub const GIVEN: Life = Life { learned: false, valid: None, preferred: None };

    fn pack<const N: usize>(&self, out: &mut Pack<N>) {
        out.u8(u8::from(self.learned));
        for until in [self.valid, self.preferred] {
            out.u64(until.map_or(u64::MAX, Instant::nanos));
        }
    }

    fn unpack(from: &mut Unpack<'_>) -> Life {
        let learned = from.u8() != 0;
        let mut until = || match from.u64() {
            u64::MAX => None,
            nanos => Some(Instant::from_nanos(nanos)),
        };
        let valid = until();
        Life { learned, valid, preferred: until() }
    }
}

/// What a record says about its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Value {
    /// An interface.
    Link {
        /// Its name.
        name: LinkName,
        /// Its hardware address.
        mac: Mac,
        /// Maximum transmission unit in bytes.
        mtu: u16,
        /// Administratively up.
        up: bool,
        /// Takes every host's frames.
        promiscuous: bool,
        /// It is a VLAN of another one.
        vlan: Option<Vlan>,
    },
    /// An address.
    Address {
        /// Duplicate address detection is over and found none (RFC 4862 §5.4, RFC 5227 §2.1).
        verified: bool,
        /// How long it lives.
        life: Life,
    },
    /// A route.
    Route {
        /// The next hop; `None` when the network is on the link itself.
        gateway: Option<IpAddr>,
        /// The interface.
        link: u16,
        /// The source address to prefer.
        source: Option<IpAddr>,
        /// How long it lives.
        life: Life,
    },
    /// A neighbour.
    Neighbour {
        /// Its hardware address.
        mac: Mac,
    },
    /// A policy rule, whose key says all.
    Policy,
    /// A rule.
    Filter {
        /// Packets that it has decided on.
        packets: u64,
        /// Bytes of them.
        bytes: u64,
    },
    /// A tunable's value, one that it takes.
    Sysctl(u32),
}

/// One record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Record {
    /// What names it.
    pub key: Key,
    /// What it says.
    pub value: Value,
}

/// The change could not be made; the table is as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// Every cell is in use.
    #[error("the configuration has room for {CAPACITY} records")]
    Full,
    /// Key and value are of different kinds, or the key names an impossible network.
    #[error("a record whose key and value do not go together")]
    Mismatch,
}

const LINK: u8 = 1;
const ADDRESS: u8 = 2;
const ROUTE: u8 = 3;
const NEIGHBOUR: u8 = 4;
const FILTER: u8 = 5;
const SYSCTL: u8 = 6;
const POLICY: u8 = 7;

fn fits(addr: IpAddr, prefix_len: u8) -> bool {
    prefix_len <= if addr.is_ipv4() { 32 } else { 128 }
}

fn pack_mac<const N: usize>(out: &mut Pack<N>, mac: Mac) {
    mac.into_iter().for_each(|byte| out.u8(byte));
}

fn unpack_mac(from: &mut Unpack<'_>) -> Mac {
    core::array::from_fn(|_| from.u8())
}

fn pack_option<const N: usize>(out: &mut Pack<N>, ip: Option<IpAddr>) {
    out.u8(u8::from(ip.is_some()));
    out.ip(ip.unwrap_or(IpAddr::V4(core::net::Ipv4Addr::UNSPECIFIED)));
}

fn unpack_option(from: &mut Unpack<'_>) -> Option<IpAddr> {
    let some = from.u8() != 0;
    let ip = from.ip();
    some.then_some(ip)
}

impl Key {
    /// To the bytes of a cell.
    pub fn to_bytes(&self) -> [u8; OPENING_SIZE] {
        let mut out = Pack::new();
        match *self {
            Key::Link(link) => {
                out.u8(LINK);
                out.u16(link);
            }
            Key::Address { link, addr, prefix_len } => {
                out.u8(ADDRESS);
                out.u16(link);
                out.ip(addr);
                out.u8(prefix_len);
            }
            Key::Route { destination, prefix_len, table, metric, hops } => {
                out.u8(ROUTE);
                out.ip(destination);
                out.u8(prefix_len);
                out.u32(table);
                out.u32(metric);
                hops.pack(&mut out);
            }
            Key::Policy(rule) => {
                out.u8(POLICY);
                rule.pack(&mut out);
            }
            Key::Neighbour { link, addr } => {
                out.u8(NEIGHBOUR);
                out.u16(link);
                out.ip(addr);
            }
            Key::Filter(rule) => {
                out.u8(FILTER);
                rule.pack(&mut out);
            }
            Key::Sysctl(tunable) => {
                out.u8(SYSCTL);
                out.u16(tunable as u16);
            }
        }
        out.finish()
    }

    /// From the bytes of a cell that matched its check; `None` when this binary does not know it.
    pub fn from_bytes(bytes: &[u8; OPENING_SIZE]) -> Option<Key> {
        let mut from = Unpack::new(bytes);
        let key = match from.u8() {
            LINK => Key::Link(from.u16()),
            ADDRESS => Key::Address { link: from.u16(), addr: from.ip(), prefix_len: from.u8() },
            ROUTE => Key::Route {
                destination: from.ip(),
                prefix_len: from.u8(),
                table: from.u32(),
                metric: from.u32(),
                hops: Hops::unpack(&mut from),
            },
            POLICY => Key::Policy(PolicyRule::unpack(&mut from)),
            NEIGHBOUR => Key::Neighbour { link: from.u16(), addr: from.ip() },
            FILTER => Key::Filter(Rule::unpack(&mut from)?),
            SYSCTL => Key::Sysctl(Tunable::of_number(from.u16())?),
            _ => return None,
        };
        key.sound().then_some(key)
    }

    fn sound(&self) -> bool {
        match *self {
            Key::Link(_) | Key::Neighbour { .. } | Key::Sysctl(_) => true,
            Key::Filter(rule) => rule.is_sound(),
            Key::Address { addr, prefix_len, .. } => fits(addr, prefix_len),
            Key::Route { destination, prefix_len, hops, .. } => {
                fits(destination, prefix_len) && hops.is_sound()
            }
            Key::Policy(rule) => rule.is_sound(),
        }
    }
}

impl Value {
    /// To the bytes of a state slot.
    pub fn to_bytes(&self) -> [u8; STATE_SIZE] {
        let mut out = Pack::new();
        match *self {
            Value::Link { name, mac, mtu, up, promiscuous, vlan } => {
                out.u8(LINK);
                name.0.into_iter().for_each(|byte| out.u8(byte));
                pack_mac(&mut out, mac);
                out.u16(mtu);
                out.u8(u8::from(up));
                out.u8(u8::from(promiscuous));
                // No VLAN has the number 0.
                let Vlan { below, id } = vlan.unwrap_or(Vlan { below: 0, id: 0 });
                out.u16(below);
                out.u16(id);
            }
            Value::Address { verified, life } => {
                out.u8(ADDRESS);
                out.u8(u8::from(verified));
                life.pack(&mut out);
            }
            Value::Route { gateway, link, source, life } => {
                out.u8(ROUTE);
                pack_option(&mut out, gateway);
                out.u16(link);
                pack_option(&mut out, source);
                life.pack(&mut out);
            }
            Value::Neighbour { mac } => {
                out.u8(NEIGHBOUR);
                pack_mac(&mut out, mac);
            }
            Value::Filter { packets, bytes } => {
                out.u8(FILTER);
                out.u64(packets);
                out.u64(bytes);
            }
            Value::Policy => out.u8(POLICY),
            Value::Sysctl(value) => {
                out.u8(SYSCTL);
                out.u32(value);
            }
        }
        out.finish()
    }

    /// From the bytes of a state slot; `None` when this binary does not know it.
    pub fn from_bytes(bytes: &[u8; STATE_SIZE]) -> Option<Value> {
        let mut from = Unpack::new(bytes);
        Some(match from.u8() {
            LINK => {
                let name: [u8; NAME_MAX] = core::array::from_fn(|_| from.u8());
                let len = name.iter().position(|&b| b == 0).unwrap_or(NAME_MAX);
                Value::Link {
                    name: LinkName::new(core::str::from_utf8(&name[..len]).ok()?)?,
                    mac: unpack_mac(&mut from),
                    mtu: from.u16(),
                    up: from.u8() != 0,
                    promiscuous: from.u8() != 0,
                    vlan: Some(Vlan { below: from.u16(), id: from.u16() }).filter(|vlan| vlan.id != 0),
                }
            }
            ADDRESS => Value::Address { verified: from.u8() != 0, life: Life::unpack(&mut from) },
            ROUTE => Value::Route {
                gateway: unpack_option(&mut from),
                link: from.u16(),
                source: unpack_option(&mut from),
                life: Life::unpack(&mut from),
            },
            NEIGHBOUR => Value::Neighbour { mac: unpack_mac(&mut from) },
            FILTER => Value::Filter { packets: from.u64(), bytes: from.u64() },
            SYSCTL => Value::Sysctl(from.u32()),
            POLICY => Value::Policy,
            _ => return None,
        })
    }
}

impl Record {
    fn sound(&self) -> bool {
        let takes = match (self.key, self.value) {
            (Key::Sysctl(tunable), Value::Sysctl(value)) => tunable.about().takes(value),
            (Key::Link(link), Value::Link { vlan: Some(vlan), .. }) => {
                vlan.below < link && Vlan::IDS.contains(&vlan.id)
            }
            _ => true,
        };
        self.key.sound()
            && takes
            && matches!(
                (&self.key, &self.value),
                (Key::Link(_), Value::Link { .. })
                    | (Key::Address { .. }, Value::Address { .. })
                    | (Key::Route { .. }, Value::Route { .. })
                    | (Key::Neighbour { .. }, Value::Neighbour { .. })
                    | (Key::Policy(_), Value::Policy)
                    | (Key::Filter(_), Value::Filter { .. })
                    | (Key::Sysctl(_), Value::Sysctl(_))
            )
    }

    fn from_bytes(opening: &[u8; OPENING_SIZE], state: &[u8; STATE_SIZE]) -> Option<Record> {
        let record = Record { key: Key::from_bytes(opening)?, value: Value::from_bytes(state)? };
        record.sound().then_some(record)
    }
}

/// Every record of the region that can be read, in the order of their keys.
///
/// # Errors
/// [`TableError`] when the region does not hold this layout (also: not yet).
pub fn read<M: Memory>(memory: M) -> Result<Vec<Record>, TableError> {
    let table = CellTable::attach(memory, LAYOUT)?;
    let mut records: Vec<Record> = (0..table.high_water())
        .filter_map(|index| table.read(index).ok().flatten())
        .filter_map(|image| Record::from_bytes(&image.opening, &image.state))
        .collect();
    records.sort_by_key(|record| record.key);
    Ok(records)
}

/// The one writer of the configuration.
#[derive(Debug)]
pub struct ConfigWriter<M> {
    cells: CellWriter<M>,
    records: BTreeMap<Key, (Held, Value)>,
    /// Cells that did not match their check, or that this binary does not know.
    dropped: u32,
}

impl<M: Memory> ConfigWriter<M> {
    /// Makes the table in zeroed memory, or takes over what an earlier incarnation left.
    ///
    /// # Errors
    /// [`TableError`] when the memory holds another layout, or too little room.
    pub fn attach(memory: M) -> Result<Self, TableError> {
        let mut cells = CellWriter::attach(memory, LAYOUT, CAPACITY)?;
        let (mut records, mut unknown, mut dropped) = (BTreeMap::new(), Vec::new(), 0);
        cells.recover(|held, image| match image {
            Ok(image) => match Record::from_bytes(&image.opening, &image.state) {
                Some(record) => {
                    // A death between the two stores of a move can't happen: keys never move.
                    if let Some((twin, _)) = records.insert(record.key, (held, record.value)) {
                        unknown.push(twin);
                    }
                }
                None => unknown.push(held),
            },
            Err(_) => dropped += 1,
        });
        dropped += unknown.len() as u32;
        unknown.into_iter().for_each(|held| cells.free(held));
        Ok(ConfigWriter { cells, records, dropped })
    }

    /// How many cells were dropped when this incarnation attached.
    pub fn dropped(&self) -> u32 {
        self.dropped
    }

    /// `true` when there is nothing at all: the group has just been started.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Every record, in the order of their keys.
    pub fn records(&self) -> impl Iterator<Item = Record> + '_ {
        self.records.iter().map(|(key, (_, value))| Record { key: *key, value: *value })
    }

    /// The value of `key`, if it has one.
    pub fn get(&self, key: &Key) -> Option<Value> {
        self.records.get(key).map(|(_, value)| *value)
    }

    /// Adds a record, or replaces the value of its key. Returns whether anything changed.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn set(&mut self, record: Record) -> Result<bool, ConfigError> {
        if !record.sound() {
            return Err(ConfigError::Mismatch);
        }
        if let Some((held, value)) = self.records.get_mut(&record.key) {
            let changed = *value != record.value;
            if changed {
                self.cells.commit(held, &record.value.to_bytes());
                *value = record.value;
            }
            return Ok(changed);
        }
        let mut held = self.cells.take().ok_or(ConfigError::Full)?;
        self.cells.open(&mut held, &record.key.to_bytes(), &record.value.to_bytes());
        self.records.insert(record.key, (held, record.value));
        Ok(true)
    }

    /// Removes a record; `false` when there was none.
    pub fn remove(&mut self, key: &Key) -> bool {
        let Some((held, _)) = self.records.remove(key) else { return false };
        self.cells.free(held);
        true
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::control::messages::Prefix;
    use crate::hard::filter::{Hook, Verdict};
    use crate::hard::routing::{Action, Hop};
    use crate::shm::heap::HeapMemory;
    use core::net::Ipv4Addr;
    use std::rc::Rc;

    fn ip(last: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 0, 0, last))
    }

    fn samples() -> [Record; 9] {
        let name = LinkName::new("nic0").expect("a name");
        [
            Record {
                key: Key::Link(0),
                value: Value::Link {
                    name,
                    mac: [2, 0, 0, 0, 0, 1],
                    mtu: 1500,
                    up: true,
                    promiscuous: false,
                    vlan: None,
                },
            },
            Record {
                key: Key::Link(3),
                value: Value::Link {
                    name,
                    mac: [2, 0, 0, 0, 0, 1],
                    mtu: 1400,
                    up: false,
                    promiscuous: false,
                    vlan: Some(Vlan { below: 0, id: 4094 }),
                },
            },
            Record {
                key: Key::Address { link: 0, addr: ip(2), prefix_len: 24 },
                value: Value::Address { verified: true, life: Life::GIVEN },
            },
            Record {
                key: Key::Address { link: 0, addr: "fe80::1".parse().expect("an address"), prefix_len: 64 },
                value: Value::Address {
                    verified: false,
                    life: Life { learned: true, valid: Some(Instant::from_nanos(9)), preferred: None },
                },
            },
            Record {
                key: Key::Route {
                    destination: ip(0),
                    prefix_len: 24,
                    table: 254,
                    metric: 5,
                    hops: Hops {
                        first_weight: 2,
                        more: [
                            Some(Hop {
                                gateway: Some("fe80::1".parse().expect("one")),
                                link: 3,
                                weight: 255,
                            }),
                            Some(Hop { gateway: None, link: 1, weight: 1 }),
                            None,
                        ],
                    },
                },
                value: Value::Route { gateway: Some(ip(1)), link: 0, source: None, life: Life::GIVEN },
            },
            Record {
                key: Key::Policy(PolicyRule {
                    priority: 7,
                    v6: true,
                    not: true,
                    source: Some(Prefix { addr: "2001:db8::".parse().expect("an address"), len: 32 }),
                    destination: None,
                    interface: Some(3),
                    action: Action::Lookup(100),
                }),
                value: Value::Policy,
            },
            Record {
                key: Key::Neighbour { link: 0, addr: ip(9) },
                value: Value::Neighbour { mac: [1, 2, 3, 4, 5, 6] },
            },
            Record {
                key: Key::Filter(Rule {
                    number: 7,
                    hook: Hook::Postrouting,
                    verdict: Verdict::Drop,
                    interface: Some(0),
                    protocol: Some(17),
                    source: Some(Prefix { addr: "2001:db8::".parse().expect("an address"), len: 32 }),
                    destination: Some(Prefix { addr: "::".parse().expect("an address"), len: 0 }),
                    source_ports: Some((0, 0)),
                    destination_ports: Some((9, u16::MAX)),
                }),
                value: Value::Filter { packets: 3, bytes: u64::MAX },
            },
            Record { key: Key::Sysctl(Tunable::EchoIgnoreV6), value: Value::Sysctl(1) },
        ]
    }

    #[test]
    fn a_successor_finds_every_record() {
        let memory = Rc::new(HeapMemory::new(REGION_SIZE));
        let mut first = ConfigWriter::attach(memory.clone()).expect("a fresh table");
        for record in samples() {
            assert_eq!(first.set(record), Ok(true));
            assert_eq!(first.set(record), Ok(false), "nothing new");
        }
        let second = ConfigWriter::attach(memory.clone()).expect("the same table");
        assert_eq!(second.records().collect::<Vec<_>>(), samples());
        assert_eq!(read(memory).expect("a table"), samples());
        assert_eq!(second.dropped(), 0);
    }

    #[test]
    fn a_value_is_replaced_and_a_record_removed() {
        let memory = Rc::new(HeapMemory::new(REGION_SIZE));
        let mut first = ConfigWriter::attach(memory.clone()).expect("a fresh table");
        let key = Key::Neighbour { link: 0, addr: ip(9) };
        for last in 0..3 {
            let value = Value::Neighbour { mac: [0, 0, 0, 0, 0, last] };
            assert_eq!(first.set(Record { key, value }), Ok(true));
            assert_eq!(read(memory.clone()).expect("a table"), [Record { key, value }]);
        }
        assert!(first.remove(&key));
        assert!(!first.remove(&key));
        assert_eq!(read(memory.clone()).expect("a table"), []);
        assert!(ConfigWriter::attach(memory).expect("the same table").is_empty());
    }

    #[test]
    fn key_and_value_must_go_together() {
        let mut writer = ConfigWriter::attach(HeapMemory::new(REGION_SIZE)).expect("a fresh table");
        let record =
            Record { key: Key::Link(0), value: Value::Address { verified: true, life: Life::GIVEN } };
        assert_eq!(writer.set(record), Err(ConfigError::Mismatch));
        let key = Key::Address { link: 0, addr: ip(1), prefix_len: 33 };
        let record = Record { key, value: Value::Address { verified: true, life: Life::GIVEN } };
        assert_eq!(writer.set(record), Err(ConfigError::Mismatch));
        let record = Record { key: Key::Sysctl(Tunable::Ttl), value: Value::Sysctl(0) };
        assert_eq!(writer.set(record), Err(ConfigError::Mismatch));
        assert!(writer.is_empty());
    }

    #[test]
    fn a_full_table_says_so() {
        let mut writer = ConfigWriter::attach(HeapMemory::new(REGION_SIZE)).expect("a fresh table");
        let record = |n: u32| Record {
            key: Key::Route {
                destination: ip(0),
                prefix_len: 24,
                table: 254,
                metric: n,
                hops: Hops::default(),
            },
            value: Value::Route { gateway: None, link: 0, source: None, life: Life::GIVEN },
        };
        for n in 0..CAPACITY {
            assert_eq!(writer.set(record(n)), Ok(true));
        }
        assert_eq!(writer.set(record(CAPACITY)), Err(ConfigError::Full));
        assert!(writer.remove(&record(7).key));
        assert_eq!(writer.set(record(CAPACITY)), Ok(true));
    }

    #[test]
    fn names_are_checked() {
        for bad in ["", "sixteen_letters_", "a/b", "a b", "é"] {
            assert_eq!(LinkName::new(bad), None, "{bad:?}");
        }
        assert_eq!(LinkName::new("fifteen_letters").map(|n| n.as_str().len()), Some(15));
    }
}
