//! Tables that rules choose, and routes of several next hops.

use super::*;
use proptest::prelude::*;
use proto::control::messages::Prefix as Written;
use proto::hard::routing::{HOPS_MAX, TABLE_DEFAULT};
use std::collections::BTreeMap;

const ETH0: u16 = 0;
const ETH1: u16 = 1;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn written(text: &str) -> Written {
    let (addr, len) = text.split_once('/').unwrap();
    Written { addr: ip(addr), len: len.parse().unwrap() }
}

fn route(network: &str, gateway: &str, interface: u16) -> Route {
    let Written { addr, len } = written(network);
    let gateway = (!gateway.is_empty()).then(|| ip(gateway));
    let prefix = Prefix::of(addr, len).unwrap();
    Route { prefix, metric: 0, gateway, interface, source: None, connected: false, hops: Hops::default() }
}

fn rule(priority: u32, source: &str, table: u32) -> PolicyRule {
    PolicyRule {
        priority,
        v6: source.contains(':'),
        not: false,
        source: (!source.is_empty()).then(|| written(source)),
        destination: None,
        interface: None,
        action: Action::Lookup(table),
    }
}

/// eth0 10.0.0.1/24 with the default route, eth1 10.1.0.1/24 with a table of its own.
fn host() -> RouteTable {
    let mut table = RouteTable::new(HashKey([1, 2]));
    table.add_address(ETH0, ip("10.0.0.1"), 24).unwrap();
    table.add_address(ETH1, ip("10.1.0.1"), 24).unwrap();
    table.add_route(route("0.0.0.0/0", "10.0.0.254", ETH0)).unwrap();
    table.add_route_to(7, route("0.0.0.0/0", "10.1.0.254", ETH1)).unwrap();
    table
}

/// Where a packet goes: the next hop, and the source that it then has.
fn way(table: &RouteTable, dst: &str, source: Option<&str>, bound: Option<u16>) -> Option<(String, String)> {
    let path = table.path(ip(dst), source.map(ip), bound).ok()?;
    Some((path.next_hop.to_string(), path.source.to_string()))
}

fn hop(table: &RouteTable, dst: &str, source: Option<&str>) -> String {
    way(table, dst, source, None).map_or_else(|| "none".to_owned(), |(hop, _)| hop)
}

#[test]
fn a_table_counts_only_where_a_rule_leads_to_it() {
    let mut table = host();
    assert_eq!(hop(&table, "8.8.8.8", Some("10.1.0.1")), "10.0.0.254");
    table.add_rule(rule(100, "10.1.0.0/24", 7)).unwrap();
    assert_eq!(hop(&table, "8.8.8.8", Some("10.1.0.1")), "10.1.0.254");
    assert_eq!(hop(&table, "8.8.8.8", Some("10.0.0.1")), "10.0.0.254");
    // Without a source it is of no network, and gets one that leads elsewhere.
    assert_eq!(way(&table, "8.8.8.8", None, None), Some(("10.0.0.254".into(), "10.0.0.1".into())));
    // What no rule's table has the next one's may have.
    table.remove_route_from(7, &Prefix::ALL_V4, 0).unwrap();
    assert_eq!(hop(&table, "8.8.8.8", Some("10.1.0.1")), "10.0.0.254");
    assert!(table.remove_rule(&rule(100, "10.1.0.0/24", 7)));
    assert!(!table.remove_rule(&rule(100, "10.1.0.0/24", 7)));
}

#[test]
fn the_lowest_priority_is_asked_first_and_the_earlier_of_two() {
    let mut table = host();
    table.add_route_to(8, route("0.0.0.0/0", "10.1.0.253", ETH1)).unwrap();
    table.add_rule(rule(200, "10.1.0.1/32", 7)).unwrap();
    table.add_rule(rule(200, "10.1.0.0/16", 8)).unwrap();
    assert_eq!(hop(&table, "8.8.8.8", Some("10.1.0.1")), "10.1.0.254");
    table.add_rule(rule(100, "10.1.0.0/16", 8)).unwrap();
    assert_eq!(hop(&table, "8.8.8.8", Some("10.1.0.1")), "10.1.0.253");
    assert_eq!(table.add_rule(rule(100, "10.1.0.0/16", 8)), Err(RouteError::Exists));
    // Behind main nothing is asked that main knows.
    let mut table = host();
    table.add_rule(rule(32766, "10.1.0.1/32", 7)).unwrap();
    assert_eq!(hop(&table, "8.8.8.8", Some("10.1.0.1")), "10.0.0.254");
    table.remove_route(&Prefix::ALL_V4, 0).unwrap();
    assert_eq!(hop(&table, "8.8.8.8", Some("10.1.0.1")), "10.1.0.254");
}

#[test]
fn selectors_all_hold_or_none_of_it() {
    let mut table = host();
    let selective = PolicyRule {
        destination: Some(written("8.0.0.0/8")),
        interface: Some(ETH1),
        ..rule(100, "10.1.0.0/24", 7)
    };
    table.add_route(route("9.0.0.0/8", "10.1.0.9", ETH1)).unwrap();
    table.add_route(Route { metric: 9, ..route("0.0.0.0/0", "10.1.0.9", ETH1) }).unwrap();
    table.add_rule(selective).unwrap();
    let asked = |table: &RouteTable, dst, source, bound| way(table, dst, Some(source), bound).unwrap().0;
    assert_eq!(asked(&table, "8.8.8.8", "10.1.0.1", Some(ETH1)), "10.1.0.254");
    assert_eq!(asked(&table, "8.8.8.8", "10.1.0.1", None), "10.0.0.254");
    assert_eq!(asked(&table, "9.9.9.9", "10.1.0.1", Some(ETH1)), "10.1.0.9");
    assert_eq!(asked(&table, "8.8.8.8", "10.0.0.1", Some(ETH1)), "10.1.0.9");
    table.remove_rule(&selective);
    table.add_rule(PolicyRule { not: true, ..selective }).unwrap();
    assert_eq!(asked(&table, "8.8.8.8", "10.1.0.1", Some(ETH1)), "10.1.0.9");
    assert_eq!(asked(&table, "8.8.8.8", "10.0.0.1", Some(ETH1)), "10.1.0.254");
}

#[test]
fn a_rule_may_say_that_there_is_no_way() {
    let mut table = host();
    table.add_rule(PolicyRule { action: Action::Unreachable, ..rule(100, "10.1.0.1/32", 7) }).unwrap();
    assert_eq!(hop(&table, "8.8.8.8", Some("10.1.0.1")), "none");
    assert_eq!(hop(&table, "8.8.8.8", Some("10.0.0.1")), "10.0.0.254");
    // Addresses of ours come before all rules.
    assert_eq!(hop(&table, "10.0.0.1", Some("10.1.0.1")), "10.0.0.1");
}

#[test]
fn the_default_table_comes_last_and_families_are_apart() {
    let mut table = host();
    table.add_route_to(TABLE_DEFAULT, route("0.0.0.0/0", "10.1.0.77", ETH1)).unwrap();
    assert_eq!(hop(&table, "8.8.8.8", None), "10.0.0.254");
    table.remove_route(&Prefix::ALL_V4, 0).unwrap();
    assert_eq!(hop(&table, "8.8.8.8", None), "10.1.0.77");
    table.add_address(ETH0, ip("fd00::1"), 64).unwrap();
    table.add_route_to(7, route("::/0", "fd00::9", ETH0)).unwrap();
    assert_eq!(hop(&table, "fd01::1", Some("fd00::1")), "none");
    table.add_rule(rule(5, "fd00::/64", 7)).unwrap();
    assert_eq!(hop(&table, "fd01::1", Some("fd00::1")), "fd00::9");
    // A gateway is looked for in the table itself, and in main.
    let far = route("1.0.0.0/8", "172.16.0.1", ETH0);
    assert_eq!(table.add_route_to(9, far), Err(RouteError::GatewayUnreachable));
    table.add_route_to(9, route("172.16.0.0/16", "", ETH0)).unwrap();
    table.add_route_to(9, far).unwrap();
    assert_eq!(table.add_route_to(9, far), Err(RouteError::Exists));
}

#[test]
fn what_goes_with_an_interface_goes_from_every_table() {
    let mut table = host();
    table.add_rule(rule(100, "10.1.0.0/24", 7)).unwrap();
    table.add_route_to(8, several(&[("10.0.0.254", ETH0, 1), ("10.1.0.254", ETH1, 1)])).unwrap();
    table.remove_interface(ETH1);
    assert_eq!(hop(&table, "8.8.8.8", Some("10.1.0.1")), "10.0.0.254");
    assert!(table.remove_route_from(7, &Prefix::ALL_V4, 0).is_none());
    assert!(table.remove_route_from(8, &Prefix::ALL_V4, 0).is_none());
    assert!(table.tables.is_empty() && table.several == 0);
}

fn several(hops: &[(&str, u16, u8)]) -> Route {
    assert!(hops.len() <= HOPS_MAX);
    let mut built = route("0.0.0.0/0", hops[0].0, hops[0].1);
    built.hops.first_weight = hops[0].2;
    for (place, (gateway, link, weight)) in built.hops.more.iter_mut().zip(&hops[1..]) {
        *place = Some(Hop { gateway: Some(ip(gateway)), link: *link, weight: *weight });
    }
    built
}

/// Two links, and a default route that is divided between three gateways.
fn divided() -> RouteTable {
    let mut table = RouteTable::new(HashKey([1, 2]));
    table.add_address(ETH0, ip("10.0.0.1"), 24).unwrap();
    table.add_address(ETH1, ip("10.1.0.1"), 24).unwrap();
    let route = several(&[("10.0.0.253", ETH0, 1), ("10.0.0.254", ETH0, 2), ("10.1.0.254", ETH1, 1)]);
    table.add_route(route).unwrap();
    table
}

fn flows(table: &RouteTable, source: Option<&str>) -> BTreeMap<String, u32> {
    let mut found = BTreeMap::new();
    for n in 0..4000u32 {
        let dst = IpAddr::V4(Ipv4Addr::from_bits(0x0800_0000 + n * 7));
        let path = table.path(dst, source.map(ip), None).unwrap();
        assert_eq!(table.path(dst, source.map(ip), None).unwrap(), path, "a flow stays where it is");
        *found.entry(path.next_hop.to_string()).or_insert(0) += 1;
    }
    found
}

#[test]
fn flows_divide_by_weight() {
    let table = divided();
    let found = flows(&table, None);
    let share = |gateway: &str| f64::from(found[gateway]) / 4000.0;
    for (gateway, wanted) in [("10.0.0.253", 0.25), ("10.0.0.254", 0.5), ("10.1.0.254", 0.25)] {
        assert!((share(gateway) - wanted).abs() < 0.05, "{found:?}");
    }
    // A successor has the same secret, and sends every flow the same way.
    let successor = divided();
    for n in 0..100u32 {
        let dst = IpAddr::V4(Ipv4Addr::from_bits(0x0800_0000 + n));
        assert_eq!(table.path(dst, None, None), successor.path(dst, None, None));
    }
}

#[test]
fn a_source_keeps_to_its_interface_and_what_is_down_has_no_share() {
    let mut table = divided();
    let keys = |found: BTreeMap<String, u32>| found.into_keys().collect::<Vec<_>>();
    assert_eq!(keys(flows(&table, Some("10.1.0.1"))), ["10.1.0.254"]);
    assert_eq!(keys(flows(&table, Some("10.0.0.1"))), ["10.0.0.253", "10.0.0.254"]);
    table.set_interface_up(ETH0, false);
    assert_eq!(keys(flows(&table, None)), ["10.1.0.254"]);
    table.set_interface_up(ETH1, false);
    assert!(table.path(ip("8.8.8.8"), None, None).is_err());
    table.set_interface_up(ETH0, true);
    assert_eq!(keys(flows(&table, None)), ["10.0.0.253", "10.0.0.254"]);
}

#[test]
fn ports_count_where_it_is_said() {
    let mut table = divided();
    assert!(!table.asks_for_ports(ip("8.8.8.8")));
    table.set_by_ports(false, true);
    assert!(table.asks_for_ports(ip("8.8.8.8")) && !table.asks_for_ports(ip("2001:db8::1")));
    let mut found = BTreeMap::new();
    for ports in 0..4000u32 {
        let path = table.path_of(ip("8.8.8.8"), None, None, ports).unwrap();
        *found.entry(path.next_hop).or_insert(0u32) += 1;
    }
    assert!(found.len() == 3 && found.values().all(|count| *count > 800), "{found:?}");
    // A table without such routes is not asked for any.
    table.remove_route(&Prefix::ALL_V4, 0).unwrap();
    assert!(!table.asks_for_ports(ip("8.8.8.8")));
}

#[test]
fn every_next_hop_must_be_a_neighbour() {
    let mut table = divided();
    table.remove_route(&Prefix::ALL_V4, 0).unwrap();
    let wrong = [("10.0.0.253", ETH0, 1), ("10.0.0.254", ETH1, 1)];
    assert_eq!(table.add_route(several(&wrong)), Err(RouteError::GatewayUnreachable));
    let ours = [("10.0.0.253", ETH0, 1), ("10.1.0.1", ETH1, 1)];
    assert_eq!(table.add_route(several(&ours)), Err(RouteError::Invalid));
    assert_eq!(table.several, 0);
}

proptest! {
    /// Whatever hash a flow has, it finds a next hop; one that leaves moves no flow of the others to a place that
    /// is not there.
    #[test]
    fn every_flow_has_a_next_hop(dst in any::<u32>(), source in any::<u32>(), ports in any::<u32>(), down in 0u16..3) {
        let mut table = divided();
        table.set_interface_up(down, false);
        let dst = IpAddr::V4(Ipv4Addr::from_bits(dst | 0x0800_0000));
        let (source, flow_down) = (IpAddr::V4(Ipv4Addr::from_bits(source)), down);
        if table.kind(dst) == AddrKind::Unicast && !ip("10.0.0.0").eq(&dst) {
            let path = table.path_of(dst, Some(source), None, ports);
            if let Ok(path) = path {
                prop_assert!(path.interface != flow_down);
            } else {
                prop_assert!(down < 2);
            }
        }
    }
}
