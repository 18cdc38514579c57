//! Configuration changes with a death at every store: a reader, and a successor, find what was
//! before the interrupted change or what came after it, for every record.

use crate::crash::{Process, SharedBytes, Tamper, Use};
use proto::control::messages::Prefix;
use proto::hard::config::{ConfigWriter, Key, Life, LinkName, REGION_SIZE, Record, Value, Vlan, read};
use proto::hard::filter::Rule;
use proto::hard::routing::{Action, Hop, Hops, PolicyRule};
use proto::hard::sysctl::Tunable;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

/// One change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Set(Record),
    Remove(Key),
}

fn ip(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, last))
}

/// Every kind of record: made, altered, removed, made again.
fn script() -> Vec<Change> {
    let link = |mtu: u16, up: bool| {
        let name = LinkName::new("nic0").expect("a name");
        let value = Value::Link { name, mac: [2, 0, 0, 0, 0, 1], mtu, up, promiscuous: false, vlan: None };
        Change::Set(Record { key: Key::Link(0), value })
    };
    let address = Key::Address { link: 0, addr: ip(2), prefix_len: 24 };
    let verified = |verified| {
        Change::Set(Record { key: address, value: Value::Address { verified, life: Life::GIVEN } })
    };
    let route = |metric: u32, gateway: u8| {
        let key =
            Key::Route { destination: ip(0), prefix_len: 24, table: 254, metric, hops: Hops::default() };
        let value = Value::Route { gateway: Some(ip(gateway)), link: 0, source: None, life: Life::GIVEN };
        Change::Set(Record { key, value })
    };
    let neighbour = Key::Neighbour { link: 0, addr: ip(9) };
    let at = |last: u8| {
        let value = Value::Neighbour { mac: [2, 0, 0, 0, 0, last] };
        Change::Set(Record { key: neighbour, value })
    };
    let vlan = |mtu: u16| {
        let name = LinkName::new("nic0.7").expect("a name");
        let vlan = Some(Vlan { below: 0, id: 7 });
        let value = Value::Link { name, mac: [2, 0, 0, 0, 0, 1], mtu, up: true, promiscuous: false, vlan };
        Change::Set(Record { key: Key::Link(1), value })
    };
    let policy = Key::Policy(PolicyRule {
        priority: 100,
        v6: false,
        not: false,
        source: Some(Prefix { addr: ip(2), len: 32 }),
        destination: None,
        interface: None,
        action: Action::Lookup(7),
    });
    let ruled = || Change::Set(Record { key: policy, value: Value::Policy });
    let several = |weight: u8| {
        let more = [Some(Hop { gateway: Some(ip(4)), link: 0, weight }), None, None];
        let hops = Hops { first_weight: 1, more };
        Key::Route { destination: ip(0), prefix_len: 16, table: 7, metric: 0, hops }
    };
    let routed = |weight: u8| {
        let value = Value::Route { gateway: Some(ip(3)), link: 0, source: None, life: Life::GIVEN };
        Change::Set(Record { key: several(weight), value })
    };
    let filter = Key::Filter(Rule { number: 5, protocol: Some(6), ..Rule::default() });
    let counted = |packets: u64| {
        Change::Set(Record { key: filter, value: Value::Filter { packets, bytes: packets * 40 } })
    };
    let ttl =
        |value: u32| Change::Set(Record { key: Key::Sysctl(Tunable::Ttl), value: Value::Sysctl(value) });
    vec![
        link(1500, false),
        verified(false),
        link(1500, true),
        verified(true),
        route(1, 1),
        route(2, 3),
        at(9),
        route(1, 4),
        at(10),
        ruled(),
        routed(1),
        counted(0),
        counted(3),
        vlan(1500),
        vlan(1400),
        ttl(1),
        at(9),
        Change::Remove(neighbour),
        link(9000, true),
        Change::Remove(Key::Route {
            destination: ip(0),
            prefix_len: 24,
            table: 254,
            metric: 2,
            hops: Hops::default(),
        }),
        at(11),
        verified(false),
        Change::Remove(address),
        Change::Remove(several(1)),
        routed(2),
        Change::Remove(policy),
        ruled(),
        Change::Remove(Key::Link(1)),
        counted(4),
        ttl(255),
        Change::Remove(filter),
        counted(0),
        route(7, 1),
        verified(true),
        link(1500, true),
    ]
}

type State = BTreeMap<Key, Value>;

fn after(state: &State, change: Change) -> State {
    let mut state = state.clone();
    match change {
        Change::Set(record) => {
            state.insert(record.key, record.value);
        }
        Change::Remove(key) => {
            state.remove(&key);
        }
    }
    state
}

/// What a reader finds, of which every record must be readable.
fn look(bytes: &SharedBytes) -> State {
    read(bytes).unwrap_or_default().into_iter().map(|record| (record.key, record.value)).collect()
}

/// Runs the script with deaths after `fuses` effects of its incarnations; returns the effects of
/// the first.
///
/// # Errors
/// What was wrong.
fn run(fuses: &[u64], tamper: &dyn Fn() -> Option<Box<dyn Tamper>>) -> Result<u64, String> {
    let bytes = SharedBytes::new(Use::Cells, REGION_SIZE);
    let (mut state, mut effects) = (State::new(), None);
    let script = script();
    let done = Cell::new(0);
    for fuse in fuses.iter().copied().map(Some).chain([None]) {
        let process = Process::start();
        process.light(fuse);
        process.tamper(tamper());
        let life = process.run(|| -> Result<(), String> {
            let mut writer = ConfigWriter::attach(bytes.map(&process)).map_err(|e| e.to_string())?;
            let found: State = writer.records().map(|record| (record.key, record.value)).collect();
            if found != state || writer.dropped() > 0 {
                return Err(format!("a successor finds {found:?} instead of {state:?}"));
            }
            while let Some(&change) = script.get(done.get()) {
                match change {
                    Change::Set(record) => {
                        writer.set(record).map_err(|e| e.to_string())?;
                    }
                    Change::Remove(key) => {
                        writer.remove(&key);
                    }
                }
                state = after(&state, change);
                done.set(done.get() + 1);
                if look(&bytes) != state {
                    return Err(format!("after {change:?} a reader finds something else"));
                }
            }
            Ok(())
        });
        effects.get_or_insert(process.effects());
        match life {
            Ok(outcome) => {
                outcome?;
                break;
            }
            Err(_) => {
                let found = look(&bytes);
                let next = script.get(done.get()).map(|change| after(&state, *change));
                if Some(&found) == next.as_ref() && found != state {
                    state = found;
                    done.set(done.get() + 1);
                } else if found != state {
                    return Err(format!("a death leaves {found:?}"));
                }
            }
        }
    }
    Ok(effects.unwrap_or(0))
}

/// A death at every crash point, and at `second` points of each recovery and what follows. Returns
/// how many deaths were tried.
///
/// # Errors
/// The first failure, with its fuses.
pub fn enumerate(tamper: &dyn Fn() -> Option<Box<dyn Tamper>>, second: u64) -> Result<u64, String> {
    let mut points = 0;
    for first in 0..run(&[], tamper)? {
        run(&[first], tamper).map_err(|e| format!("fuse {first}: {e}"))?;
        points += 1;
        for next in 0..second {
            run(&[first, next], tamper).map_err(|e| format!("fuses {first}, {next}: {e}"))?;
            points += 1;
        }
    }
    Ok(points)
}
