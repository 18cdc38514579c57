//! Addresses as the headers carry them: the link's, and a packet's two ends, which are always of one
//! family.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::str::FromStr;

/// An EUI-48 link address (IEEE 802).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// All stations of the link.
    pub const BROADCAST: MacAddr = MacAddr([0xff; 6]);
    /// No address; the target of an ARP request.
    pub const ZERO: MacAddr = MacAddr([0; 6]);

    /// True for the address of all stations.
    pub fn is_broadcast(self) -> bool {
        self == MacAddr::BROADCAST
    }

    /// True when the group bit is set: multicast, and broadcast as its extreme.
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 == 1
    }

    /// True when it can name one station: neither a group nor all zeros.
    pub fn is_unicast(self) -> bool {
        !self.is_multicast() && self != MacAddr::ZERO
    }

    /// The group address that carries an IPv4 multicast group: RFC 1112 §6.4.
    pub const fn of_ipv4_multicast(group: Ipv4Addr) -> MacAddr {
        let [_, b, c, d] = group.octets();
        MacAddr([0x01, 0x00, 0x5e, b & 0x7f, c, d])
    }

    /// The group address that carries an IPv6 multicast group: RFC 2464 §7.
    pub const fn of_ipv6_multicast(group: Ipv6Addr) -> MacAddr {
        let [.., a, b, c, d] = group.octets();
        MacAddr([0x33, 0x33, a, b, c, d])
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text was not six hexadecimal bytes joined by colons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a link address of the form 02:00:00:aa:bb:cc")]
pub struct MacAddrError;

impl FromStr for MacAddr {
    type Err = MacAddrError;

    fn from_str(text: &str) -> Result<Self, MacAddrError> {
        let mut octets = [0u8; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts.next().ok_or(MacAddrError)?;
            if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(MacAddrError);
            }
            *octet = u8::from_str_radix(part, 16).map_err(|_| MacAddrError)?;
        }
        parts.next().is_none().then_some(MacAddr(octets)).ok_or(MacAddrError)
    }
}

/// The two ends of a packet. One family for both, by construction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AddressPair {
    /// An IPv4 packet's ends.
    V4 {
        /// Who sent it.
        src: Ipv4Addr,
        /// Whom it is for.
        dst: Ipv4Addr,
    },
    /// An IPv6 packet's ends.
    V6 {
        /// Who sent it.
        src: Ipv6Addr,
        /// Whom it is for.
        dst: Ipv6Addr,
    },
}

impl AddressPair {
    /// The pair of `src` and `dst`, or `None` when they are of different families.
    pub const fn new(src: IpAddr, dst: IpAddr) -> Option<AddressPair> {
        match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => Some(AddressPair::V4 { src, dst }),
            (IpAddr::V6(src), IpAddr::V6(dst)) => Some(AddressPair::V6 { src, dst }),
            _ => None,
        }
    }

    /// Who sent it.
    pub const fn src(&self) -> IpAddr {
        match *self {
            AddressPair::V4 { src, .. } => IpAddr::V4(src),
            AddressPair::V6 { src, .. } => IpAddr::V6(src),
        }
    }

    /// Whom it is for.
    pub const fn dst(&self) -> IpAddr {
        match *self {
            AddressPair::V4 { dst, .. } => IpAddr::V4(dst),
            AddressPair::V6 { dst, .. } => IpAddr::V6(dst),
        }
    }

    /// The pair of an answer.
    #[must_use]
    pub const fn reversed(&self) -> AddressPair {
        match *self {
            AddressPair::V4 { src, dst } => AddressPair::V4 { src: dst, dst: src },
            AddressPair::V6 { src, dst } => AddressPair::V6 { src: dst, dst: src },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn group_addresses() {
        assert_eq!(
            MacAddr::of_ipv4_multicast(Ipv4Addr::new(239, 129, 2, 3)).to_string(),
            "01:00:5e:01:02:03"
        );
        let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        assert_eq!(MacAddr::of_ipv6_multicast(all_nodes).to_string(), "33:33:00:00:00:01");
        assert!(MacAddr::BROADCAST.is_multicast());
        assert!(!MacAddr::ZERO.is_unicast());
    }

    #[test]
    fn text_that_is_no_address() {
        for text in [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:00:00",
            "2:0:0:0:0:0",
            "+2:00:00:00:00:00",
            "zz:00:00:00:00:00",
        ] {
            assert_eq!(text.parse::<MacAddr>(), Err(MacAddrError), "{text}");
        }
    }

    proptest! {
        #[test]
        fn text_round_trips(octets in any::<[u8; 6]>()) {
            prop_assert_eq!(MacAddr(octets).to_string().parse(), Ok(MacAddr(octets)));
        }
    }
}
