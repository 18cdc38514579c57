//! Zones of link-local IPv6 addresses (RFC 4007 §6): which interface `fe80::1` is meant on.
//!
//! Inside the stack a scoped address carries its zone in its second 16 bits, which RFC 4291 §2.5.6
//! keeps at zero on every wire: so tables, records and rings need no further field, and two
//! neighbours of one name on two links stay two. The zone goes in where a packet or a client's
//! address comes in, and comes out where one leaves; nothing in between looks at it. A zone is the
//! number of an interface plus one, which is also its scope id towards clients; 0 is none.

use core::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// In place of `::` inside the stack, for a socket that wants every address of IPv6 and none of IPv4
/// (IPV6_V6ONLY, RFC 3493 §5.3). Of the prefix for what is discarded (RFC 6666), so that it is nobody's.
pub const ANY_V6: Ipv6Addr = Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0);

/// The 16 bits that hold the zone.
const MASK: u128 = 0xffff << 96;

/// The zone of an interface.
///
/// # Panics
/// For interface 65535, which is loopback's number and has no zone.
pub const fn of_interface(interface: u16) -> u16 {
    interface.checked_add(1).expect("loopback has no zone")
}

/// The interface of a zone; `None` for no zone.
pub const fn interface(zone: u16) -> Option<u16> {
    zone.checked_sub(1)
}

/// Whether an address means something on one link only: RFC 4291 §2.5.6, and groups of interface-
/// and link-local scope (§2.7).
pub const fn is_scoped(addr: &Ipv6Addr) -> bool {
    let first = addr.segments()[0];
    first & 0xffc0 == 0xfe80 || first & 0xff0f == 0xff01 || first & 0xff0f == 0xff02
}

/// `addr` in `zone`; an address that is not scoped as it is.
#[must_use]
pub const fn with(addr: Ipv6Addr, zone: u16) -> Ipv6Addr {
    match is_scoped(&addr) {
        true => Ipv6Addr::from_bits(addr.to_bits() & !MASK | (zone as u128) << 96),
        false => addr,
    }
}

/// As [`with`], of either family.
#[must_use]
pub const fn ip_with(addr: IpAddr, zone: u16) -> IpAddr {
    match addr {
        IpAddr::V6(addr) => IpAddr::V6(with(addr, zone)),
        v4 => v4,
    }
}

/// The address as it stands on the wire.
#[must_use]
pub const fn without(addr: Ipv6Addr) -> Ipv6Addr {
    with(addr, 0)
}

/// As [`without`], of either family.
#[must_use]
pub const fn ip_without(addr: IpAddr) -> IpAddr {
    ip_with(addr, 0)
}

/// The zone of an address; 0 when it has none.
pub const fn of(addr: &Ipv6Addr) -> u16 {
    if is_scoped(addr) { addr.segments()[1] } else { 0 }
}

/// As [`of`], of either family.
pub const fn of_ip(addr: &IpAddr) -> u16 {
    match addr {
        IpAddr::V6(addr) => of(addr),
        IpAddr::V4(_) => 0,
    }
}

/// Whether an address leaves the choice to the stack: a wildcard of one family or of both.
pub fn is_any(addr: IpAddr) -> bool {
    addr.is_unspecified() || addr == IpAddr::V6(ANY_V6)
}

/// The wildcard of both families as that of IPv6 alone; any other address as it is.
pub fn v6_only(addr: SocketAddr) -> SocketAddr {
    match addr.ip() {
        IpAddr::V6(v6) if v6.is_unspecified() => SocketAddr::new(IpAddr::V6(ANY_V6), addr.port()),
        _ => addr,
    }
}

/// A client's address as the stack has it: IPv4-mapped ones are IPv4's, the scope id becomes the zone.
pub fn from_client(addr: SocketAddr) -> SocketAddr {
    let SocketAddr::V6(v6) = addr else { return addr };
    match v6.ip().to_ipv4_mapped() {
        Some(v4) => SocketAddr::new(IpAddr::V4(v4), v6.port()),
        None => {
            // A zone that can't be is that of no interface.
            let zone = u16::try_from(v6.scope_id()).unwrap_or(u16::MAX);
            SocketAddr::new(IpAddr::V6(with(*v6.ip(), zone)), v6.port())
        }
    }
}

/// An address of the stack's as a client sees it: the zone is the scope id.
pub fn to_client(addr: SocketAddr) -> SocketAddr {
    let SocketAddr::V6(v6) = addr else { return addr };
    if *v6.ip() == ANY_V6 {
        return SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), v6.port());
    }
    let zone = of(v6.ip());
    SocketAddr::V6(SocketAddrV6::new(without(*v6.ip()), v6.port(), 0, zone.into()))
}

/// As [`to_client`], for a socket of the IPv6 family: IPv4 addresses are shown IPv4-mapped (RFC 3493 §3.7).
pub fn to_v6_client(addr: SocketAddr) -> SocketAddr {
    match addr.ip() {
        IpAddr::V4(v4) => SocketAddr::new(IpAddr::V6(v4.to_ipv6_mapped()), addr.port()),
        IpAddr::V6(_) => to_client(addr),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v6(text: &str) -> Ipv6Addr {
        text.parse().expect("an address")
    }

    #[test]
    fn only_scoped_addresses_have_a_zone() {
        for scoped in ["fe80::1", "febf::1", "ff02::1", "ff01::1", "ff12::5"] {
            let inside = with(v6(scoped), 3);
            assert_eq!((of(&inside), without(inside)), (3, v6(scoped)), "{scoped}");
        }
        for global in ["::1", "::", "2001:db8::1", "fd00:5::1", "ff05::2", "ff0e::1", "fec0::1"] {
            assert_eq!((with(v6(global), 3), of(&v6(global))), (v6(global), 0), "{global}");
        }
    }

    #[test]
    fn clients_see_scope_ids_and_mapped_addresses() {
        let link: SocketAddr = SocketAddrV6::new(v6("fe80::9"), 80, 0, 2).into();
        let inside = from_client(link);
        assert_eq!(inside.ip(), IpAddr::V6(v6("fe80:2::9")));
        assert_eq!(to_client(inside), link);
        assert_eq!(interface(of_ip(&inside.ip())), Some(1));
        let mapped: SocketAddr = "[::ffff:10.0.0.1]:7".parse().expect("an address");
        assert_eq!(from_client(mapped), "10.0.0.1:7".parse().expect("an address"));
        assert_eq!(to_v6_client(from_client(mapped)), mapped);
        let any: SocketAddr = "[::]:9".parse().expect("an address");
        assert!(is_any(any.ip()) && is_any(v6_only(any).ip()) && !is_any(link.ip()));
        assert_eq!((to_v6_client(v6_only(any)), v6_only(link)), (any, link));
        let global: SocketAddr = "[2001:db8::1]:9".parse().expect("an address");
        assert_eq!((from_client(global), to_v6_client(global)), (global, global));
    }
}
