use super::*;
use proptest::prelude::*;
use proto::hard::routing::Hops;

const ETH0: u16 = 2;
const ETH1: u16 = 3;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn prefix(text: &str) -> Prefix {
    let (addr, len) = text.split_once('/').unwrap();
    Prefix::of(ip(addr), len.parse().unwrap()).unwrap()
}

fn route(network: &str, gateway: &str, interface: u16) -> Route {
    let gateway = (!gateway.is_empty()).then(|| ip(gateway));
    Route {
        prefix: prefix(network),
        metric: 0,
        gateway,
        interface,
        source: None,
        connected: false,
        hops: Hops::default(),
    }
}

/// eth0 10.0.0.1/24 and 10.0.0.7/24, eth1 192.168.1.1/24, default by 10.0.0.254.
fn host() -> RouteTable {
    let mut table = RouteTable::new(HashKey([1, 2]));
    table.add_address(ETH0, ip("10.0.0.1"), 24).unwrap();
    table.add_address(ETH0, ip("10.0.0.7"), 24).unwrap();
    table.add_address(ETH1, ip("192.168.1.1"), 24).unwrap();
    table.add_route(route("0.0.0.0/0", "10.0.0.254", ETH0)).unwrap();
    table
}

fn path(table: &RouteTable, dst: &str) -> Result<(u16, String, String), NoRoute> {
    table
        .path(ip(dst), None, None)
        .map(|path| (path.interface, path.next_hop.to_string(), path.source.to_string()))
}

fn way(interface: u16, next_hop: &str, source: &str) -> Result<(u16, String, String), NoRoute> {
    Ok((interface, next_hop.to_owned(), source.to_owned()))
}

#[test]
fn on_the_link_and_through_the_gateway() {
    let table = host();
    assert_eq!(path(&table, "10.0.0.9"), way(ETH0, "10.0.0.9", "10.0.0.1"));
    assert_eq!(path(&table, "192.168.1.9"), way(ETH1, "192.168.1.9", "192.168.1.1"));
    assert_eq!(path(&table, "8.8.8.8"), way(ETH0, "10.0.0.254", "10.0.0.1"));
    assert_eq!(path(&table, "fd00::1"), Err(NoRoute));
    assert_eq!(table.path(ip("8.8.8.8"), None, None).unwrap().kind, AddrKind::Unicast);
}

#[test]
fn what_is_ours_needs_no_route() {
    let table = host();
    let local = table.path(ip("10.0.0.7"), None, None).unwrap();
    assert_eq!((local.kind, local.source, local.interface), (AddrKind::Local, ip("10.0.0.7"), ETH0));
    let loopback = table.path(ip("127.3.2.1"), None, None).unwrap();
    assert_eq!(
        (loopback.kind, loopback.source, loopback.interface),
        (AddrKind::Local, ip("127.0.0.1"), LOOPBACK)
    );
    assert!(table.is_local(ip("192.168.1.1")) && !table.is_local(ip("192.168.1.2")));
}

#[test]
fn what_addresses_are_to_us() {
    let table = host();
    for (addr, kind) in [
        ("10.0.0.1", AddrKind::Local),
        ("10.0.0.255", AddrKind::Broadcast),
        ("192.168.1.255", AddrKind::Broadcast),
        ("255.255.255.255", AddrKind::Broadcast),
        ("10.0.1.255", AddrKind::Unicast),
        ("224.0.0.1", AddrKind::Multicast),
        ("ff02::1", AddrKind::Multicast),
        ("::1", AddrKind::Local),
    ] {
        assert_eq!(table.kind(ip(addr)), kind, "{addr}");
    }
    let of_eth0 = |last| table.is_broadcast(Ipv4Addr::new(10, 0, 0, last), ETH0);
    assert!(of_eth0(255) && !of_eth0(254) && !table.is_broadcast(Ipv4Addr::new(10, 0, 0, 255), ETH1));
}

#[test]
fn broadcasts_and_groups_stay_on_the_link() {
    let mut table = host();
    for dst in ["255.255.255.255", "10.0.0.255", "224.0.0.251"] {
        let path = table.path(ip(dst), None, None).unwrap();
        assert_eq!((path.interface, path.next_hop), (ETH0, ip(dst)));
    }
    let bound = table.path(ip("255.255.255.255"), None, Some(ETH1)).unwrap();
    assert_eq!((bound.interface, bound.source), (ETH1, ip("192.168.1.1")));
    table.remove_route(&Prefix::ALL_V4, 0).unwrap();
    assert_eq!(table.path(ip("255.255.255.255"), None, None).unwrap().interface, ETH0);
}

#[test]
fn bound_sockets_decide() {
    let table = host();
    let bound = table.path(ip("8.8.8.8"), Some(ip("192.168.1.1")), None).unwrap();
    assert_eq!((bound.interface, bound.source), (ETH0, ip("192.168.1.1")));
    // Bound to an interface without a route, everything is on its link.
    let bound = table.path(ip("8.8.8.8"), None, Some(ETH1)).unwrap();
    assert_eq!((bound.interface, bound.next_hop, bound.source), (ETH1, ip("8.8.8.8"), ip("192.168.1.1")));
}

#[test]
fn metrics_and_links_that_are_down() {
    let mut table = host();
    let second = Route { metric: 100, ..route("0.0.0.0/0", "192.168.1.254", ETH1) };
    table.add_route(second).unwrap();
    assert_eq!(path(&table, "8.8.8.8"), way(ETH0, "10.0.0.254", "10.0.0.1"));
    let before = table.generation();
    table.set_interface_up(ETH0, false);
    assert_ne!(table.generation(), before);
    assert_eq!(path(&table, "8.8.8.8"), way(ETH1, "192.168.1.254", "192.168.1.1"));
    assert!(table.path(ip("8.8.8.8"), None, Some(ETH0)).is_err());
    table.set_interface_up(ETH0, true);
    assert_eq!(path(&table, "8.8.8.8"), way(ETH0, "10.0.0.254", "10.0.0.1"));
    assert!(table.remove_route(&Prefix::ALL_V4, 7).is_none());
    assert!(table.remove_route(&Prefix::ALL_V4, 0).is_some());
    assert_eq!(path(&table, "8.8.8.8"), way(ETH1, "192.168.1.254", "192.168.1.1"));
}

#[test]
fn what_is_refused() {
    let mut table = host();
    let before = table.generation();
    assert_eq!(table.add_address(ETH0, ip("10.0.0.1"), 24), Err(RouteError::Exists));
    for (addr, len) in
        [("10.0.0.1", 33), ("10.9.0.255", 24), ("224.0.0.1", 24), ("0.0.0.0", 0), ("127.0.0.1", 8)]
    {
        assert_eq!(table.add_address(ETH0, ip(addr), len), Err(RouteError::Invalid), "{addr}/{len}");
    }
    assert_eq!(table.add_route(route("0.0.0.0/0", "10.0.0.253", ETH0)), Err(RouteError::Exists));
    assert_eq!(table.add_route(route("10.0.0.0/24", "", ETH0)), Err(RouteError::Exists));
    assert_eq!(table.add_route(route("11.0.0.0/8", "172.16.0.1", ETH0)), Err(RouteError::GatewayUnreachable));
    assert_eq!(
        table.add_route(route("11.0.0.0/8", "192.168.1.2", ETH0)),
        Err(RouteError::GatewayUnreachable)
    );
    assert_eq!(table.add_route(route("11.0.0.0/8", "10.0.0.1", ETH0)), Err(RouteError::Invalid));
    assert_eq!(table.add_route(route("11.0.0.0/8", "fe80::1", ETH0)), Err(RouteError::Invalid));
    let foreign = Route { source: Some(ip("10.0.0.99")), ..route("11.0.0.0/8", "10.0.0.254", ETH0) };
    assert_eq!(table.add_route(foreign), Err(RouteError::Invalid));
    assert_eq!(table.generation(), before);
    for n in 0..=ADDRESSES_MAX {
        let result = table.add_address(ETH1, IpAddr::V4(Ipv4Addr::from_bits(0x0b00_0001 + n as u32)), 16);
        assert_eq!(result.is_ok(), n < ADDRESSES_MAX - 3);
    }
}

#[test]
fn the_second_address_takes_over() {
    let mut table = host();
    assert!(table.remove_address(ETH0, ip("10.0.0.1"), 24));
    assert!(!table.remove_address(ETH0, ip("10.0.0.1"), 24));
    assert_eq!(path(&table, "10.0.0.9"), way(ETH0, "10.0.0.9", "10.0.0.7"));
    assert!(table.remove_address(ETH0, ip("10.0.0.7"), 24));
    // Only the default route is left for it, by a gateway that is elsewhere now.
    assert_eq!(table.routes().filter(|route| route.interface == ETH0).count(), 1);
    table.remove_interface(ETH0);
    assert_eq!(path(&table, "10.0.0.9"), Err(NoRoute));
    assert_eq!(path(&table, "192.168.1.9"), way(ETH1, "192.168.1.9", "192.168.1.1"));
    assert_eq!(table.addresses().len(), 1);
}

#[test]
fn preferred_sources_and_those_that_go() {
    let mut table = host();
    let preferred = Route { source: Some(ip("10.0.0.7")), ..route("11.0.0.0/8", "10.0.0.254", ETH0) };
    table.add_route(preferred).unwrap();
    assert_eq!(path(&table, "11.1.1.1"), way(ETH0, "10.0.0.254", "10.0.0.7"));
    table.remove_address(ETH0, ip("10.0.0.7"), 24);
    assert_eq!(path(&table, "11.1.1.1"), way(ETH0, "10.0.0.254", "10.0.0.1"), "the default route again");
}

#[test]
fn a_host_address_has_no_network() {
    let mut table = RouteTable::new(HashKey([1, 2]));
    table.add_address(ETH0, ip("10.0.0.1"), 32).unwrap();
    assert_eq!(table.routes().count(), 0);
    table.add_route(route("10.9.9.9/32", "", ETH0)).unwrap();
    table.add_route(route("0.0.0.0/0", "10.9.9.9", ETH0)).unwrap();
    assert_eq!(path(&table, "8.8.8.8"), way(ETH0, "10.9.9.9", "10.0.0.1"));
}

#[test]
fn ipv6_sources_by_scope_and_prefix() {
    let mut table = RouteTable::new(HashKey([1, 2]));
    for (addr, len) in [("fe80::1", 64), ("2001:db8:1::1", 64), ("2001:db8:2::1", 64)] {
        table.add_address(ETH0, ip(addr), len).unwrap();
    }
    table.add_route(route("::/0", "fe80::ff", ETH0)).unwrap();
    let source = |dst: &str| table.select_source(ETH0, ip(dst), ip(dst)).unwrap().to_string();
    // Inside, the address of a link carries its zone: ETH0's number and one.
    assert_eq!(source("fe80:3::9"), "fe80:3::1");
    assert_eq!(source("ff02:3::1"), "fe80:3::1");
    assert_eq!(table.path(ip("fe80:3::9"), None, Some(ETH0)).unwrap().interface, ETH0);
    assert_eq!(path(&table, "2001:db8:9::9"), way(ETH0, "fe80:3::ff", "2001:db8:1::1"));
    assert_eq!(table.own_zone("fe80::1".parse().unwrap()).to_string(), "fe80:3::1");
    assert_eq!(source("2001:db8:2::9"), "2001:db8:2::1");
    assert_eq!(source("2001:db8:1::9"), "2001:db8:1::1");
    assert_eq!(path(&table, "2001:db8:2::9"), way(ETH0, "2001:db8:2::9", "2001:db8:2::1"));
}

proptest! {
    /// After any changes the table is what the addresses and routes that are left would make anew.
    #[test]
    fn changes_leave_no_trace(changes in prop::collection::vec((any::<bool>(), 0u16..2, 1u32..40, 24u8..=32), 0..60)) {
        let mut table = RouteTable::new(HashKey([1, 2]));
        for (add, interface, host, len) in changes {
            let addr = IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + host));
            if add {
                let _ = table.add_address(interface, addr, len);
            } else {
                table.remove_address(interface, addr, len);
            }
        }
        let mut anew = RouteTable::new(HashKey([1, 2]));
        for known in table.addresses() {
            prop_assert!(table.is_local(known.addr));
            anew.add_address(known.interface, known.addr, known.prefix.len()).unwrap();
        }
        let sorted = |table: &RouteTable| {
            let mut routes: Vec<Route> = table.routes().copied().collect();
            routes.sort_by_key(|route| (route.prefix, route.interface));
            routes
        };
        prop_assert_eq!(sorted(&table), sorted(&anew));
        prop_assert_eq!(&table.local, &anew.local);
    }
}
