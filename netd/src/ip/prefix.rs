//! A network: an address and how many of its leading bits count. Both families.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A network in its one form: the bits behind the prefix are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    addr: IpAddr,
    len: u8,
}

impl Prefix {
    /// All of IPv4: the default route's.
    pub const ALL_V4: Prefix = Prefix { addr: IpAddr::V4(Ipv4Addr::UNSPECIFIED), len: 0 };
    /// All of IPv6.
    pub const ALL_V6: Prefix = Prefix { addr: IpAddr::V6(Ipv6Addr::UNSPECIFIED), len: 0 };

    /// The network of `len` bits that `addr` is in; `None` when the family has not so many.
    pub fn of(addr: IpAddr, len: u8) -> Option<Prefix> {
        let addr = match addr {
            IpAddr::V4(addr) if len <= 32 => {
                let mask = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(addr.to_bits() & mask))
            }
            IpAddr::V6(addr) if len <= 128 => {
                let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(addr.to_bits() & mask))
            }
            _ => return None,
        };
        Some(Prefix { addr, len })
    }

    /// The network's address.
    pub const fn addr(&self) -> IpAddr {
        self.addr
    }

    /// How many bits count: at most 32 or 128.
    pub const fn len(&self) -> u8 {
        self.len
    }

    /// True for a network of every address of its family.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether `addr` is in it.
    pub fn contains(&self, addr: IpAddr) -> bool {
        Prefix::of(addr, self.len).is_some_and(|network| network == *self)
    }

    /// The address of all its hosts: IPv4, and with room for hosts (RFC 919 §7, RFC 3021 §2.1).
    pub fn broadcast(&self) -> Option<Ipv4Addr> {
        match self.addr {
            IpAddr::V4(addr) if self.len <= 30 => {
                Some(Ipv4Addr::from_bits(addr.to_bits() | u32::MAX >> self.len))
            }
            _ => None,
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

/// How many leading bits two addresses share; 0 across families.
pub fn common_bits(a: IpAddr, b: IpAddr) -> u32 {
    match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn prefix(addr: &str, len: u8) -> Prefix {
        Prefix::of(addr.parse().unwrap(), len).unwrap()
    }

    #[test]
    fn bits_behind_the_prefix_do_not_count() {
        assert_eq!(prefix("10.1.2.3", 24), prefix("10.1.2.200", 24));
        assert_eq!(prefix("10.1.2.3", 24).to_string(), "10.1.2.0/24");
        assert_eq!(prefix("2001:db8::1", 32).to_string(), "2001:db8::/32");
        assert_eq!(prefix("10.1.2.3", 0), Prefix::ALL_V4);
        assert_eq!(prefix("fd00::1", 0), Prefix::ALL_V6);
        assert_eq!(Prefix::of(IpAddr::V4(Ipv4Addr::LOCALHOST), 33), None);
        assert_eq!(Prefix::of(IpAddr::V6(Ipv6Addr::LOCALHOST), 129), None);
    }

    #[test]
    fn broadcasts() {
        assert_eq!(prefix("10.1.2.3", 24).broadcast(), Some(Ipv4Addr::new(10, 1, 2, 255)));
        assert_eq!(prefix("10.1.2.3", 30).broadcast(), Some(Ipv4Addr::new(10, 1, 2, 3)));
        assert_eq!(prefix("10.1.2.3", 0).broadcast(), Some(Ipv4Addr::BROADCAST));
        assert_eq!(prefix("10.1.2.3", 31).broadcast(), None);
        assert_eq!(prefix("10.1.2.3", 32).broadcast(), None);
        assert_eq!(prefix("fd00::", 64).broadcast(), None);
    }

    proptest! {
        #[test]
        fn containment_is_common_bits(a in any::<u128>(), b in any::<u128>(), same in 0u32..129, len in 0u8..=128, v4 in any::<bool>()) {
            // Numbers that share their first bits, so that both answers occur.
            let b = if same == 0 { b } else { a ^ (b >> 1 >> (same - 1)) };
            let addr = |bits: u128| if v4 {
                IpAddr::V4(Ipv4Addr::from_bits((bits >> 96) as u32))
            } else {
                IpAddr::V6(Ipv6Addr::from_bits(bits))
            };
            let len = if v4 { len.min(32) } else { len };
            let network = Prefix::of(addr(a), len).unwrap();
            prop_assert!(network.contains(addr(a)));
            prop_assert_eq!(network.contains(addr(b)), common_bits(addr(a), addr(b)) >= u32::from(len));
            let foreign = if v4 { IpAddr::V6(Ipv6Addr::LOCALHOST) } else { IpAddr::V4(Ipv4Addr::LOCALHOST) };
            prop_assert!(!network.contains(foreign));
        }
    }
}
