//! Which of our addresses speaks to a destination: RFC 6724 §5, with the default policy table of §2.1.
//!
//! IPv4 is chosen as Linux does it, see [`super::route`]. Rules 4 (home addresses) and 7 (temporary
//! addresses) have nothing to decide on here.

use super::prefix::common_bits;
use super::route::InterfaceAddr;
use core::cmp::Reverse;
use core::net::{IpAddr, Ipv6Addr};

/// RFC 6724 §3.1, RFC 4291 §2.7: how far an address reaches.
pub fn scope(addr: Ipv6Addr) -> u8 {
    const LINK_LOCAL: u8 = 2;
    const SITE_LOCAL: u8 = 5;
    const GLOBAL: u8 = 14;
    let first = addr.segments()[0];
    if addr.is_multicast() {
        (first & 0xf) as u8
    } else if addr.is_unicast_link_local() || addr.is_loopback() {
        LINK_LOCAL
    } else if first & 0xffc0 == 0xfec0 {
        SITE_LOCAL
    } else {
        GLOBAL
    }
}

/// RFC 6724 §2.1: the label of an address in the default policy table.
pub fn label(addr: Ipv6Addr) -> u8 {
    let s = addr.segments();
    match s {
        [0, 0, 0, 0, 0, 0, 0, 1] => 0,
        [0, 0, 0, 0, 0, 0xffff, ..] => 4,
        [0, 0, 0, 0, 0, 0, ..] => 3,
        [0x2001, 0, ..] => 5,
        [0x2002, ..] => 2,
        [0x3ffe, ..] => 12,
        _ if s[0] & 0xfe00 == 0xfc00 => 13,
        _ if s[0] & 0xffc0 == 0xfec0 => 11,
        _ => 1,
    }
}

/// The best of `addresses` for packets to `dst` that leave by `interface`.
pub fn select(addresses: &[InterfaceAddr], interface: u16, dst: Ipv6Addr) -> Option<Ipv6Addr> {
    let candidates = addresses.iter().filter_map(|known| match known.addr {
        IpAddr::V6(addr) => Some((known, addr)),
        IpAddr::V4(_) => None,
    });
    // RFC 6724 §4: an address of another link means nothing on this one.
    let usable =
        candidates.filter(|(known, addr)| known.interface == interface || !addr.is_unicast_link_local());
    let best = usable.min_by_key(|(known, addr)| {
        let (mine, wanted) = (scope(*addr), scope(dst));
        // Rule 2: the smallest scope that suffices, else the largest that there is.
        let scope_order = if mine >= wanted { (0, mine) } else { (1, u8::MAX - mine) };
        let common = common_bits(IpAddr::V6(*addr), IpAddr::V6(dst)).min(known.prefix.len().into());
        (
            *addr != dst,                 // Rule 1: the same address.
            scope_order,                  // Rule 2: appropriate scope.
            known.deprecated,             // Rule 3: avoid deprecated addresses.
            known.interface != interface, // Rule 5: the outgoing interface.
            label(*addr) != label(dst),   // Rule 6: matching label.
            Reverse(common),              // Rule 8: the longest matching prefix.
        )
    });
    best.map(|(_, addr)| addr)
}

#[cfg(test)]
mod tests {
    use super::super::prefix::Prefix;
    use super::*;

    fn known(interface: u16, text: &str, deprecated: bool) -> InterfaceAddr {
        let addr: IpAddr = text.parse().unwrap();
        let prefix = Prefix::of(addr, 64).unwrap();
        InterfaceAddr { interface, addr, prefix, on_link: true, deprecated }
    }

    fn chosen(addresses: &[(&str, bool)], dst: &str) -> String {
        let addresses: Vec<_> = addresses.iter().map(|(text, old)| known(0, text, *old)).collect();
        select(&addresses, 0, dst.parse().unwrap()).map_or_else(String::new, |addr| addr.to_string())
    }

    #[test]
    fn the_examples_of_rfc_6724() {
        // RFC 6724 §10.1.
        let all = [("2001:db8:1::1", false), ("fe80::1", false)];
        assert_eq!(chosen(&all, "2001:db8:1::2"), "2001:db8:1::1");
        assert_eq!(chosen(&[("2001:db8:3::1", false), ("fe80::1", false)], "ff05::1"), "2001:db8:3::1");
        let same = [("2001:db8:1::1", true), ("2001:db8:2::1", false)];
        assert_eq!(chosen(&same, "2001:db8:1::1"), "2001:db8:1::1", "rule 1");
        let scopes = [("fec0::1", false), ("2001:db8::1", false)];
        assert_eq!(chosen(&scopes, "fec0::5"), "fec0::1", "rule 2");
        assert_eq!(chosen(&[("2001:db8::1", false), ("fe80::1", false)], "fe80::5"), "fe80::1", "rule 2");
        let old = [("2001:db8:1::1", true), ("2001:db8:ffff::1", false)];
        assert_eq!(chosen(&old, "2001:db8:1::9"), "2001:db8:ffff::1", "rule 3");
        let labels = [("2002:c633:6401::1", false), ("2001:db8:1::1", false)];
        assert_eq!(chosen(&labels, "2002:c633:6401::9"), "2002:c633:6401::1", "rule 6");
        let local = [("fd11:2233:4455:6677::1", false), ("2001:db8::1", false)];
        assert_eq!(chosen(&local, "fd00::9"), "fd11:2233:4455:6677::1", "rule 6");
        let longest = [("2001:db8:1::1", false), ("2001:db8:3::1", false)];
        assert_eq!(chosen(&longest, "2001:db8:3::9"), "2001:db8:3::1", "rule 8");
        assert_eq!(chosen(&[], "2001:db8::1"), "");
    }

    #[test]
    fn other_links() {
        let addresses =
            [known(1, "2001:db8:1::1", false), known(0, "2001:db8:2::1", false), known(1, "fe80::7", false)];
        let to = |dst: &str| select(&addresses, 0, dst.parse().unwrap()).unwrap().to_string();
        assert_eq!(to("2001:db8:1::9"), "2001:db8:2::1", "rule 5 before rule 8");
        assert_eq!(to("fe80::9"), "2001:db8:2::1", "not the other link's");
    }
}
