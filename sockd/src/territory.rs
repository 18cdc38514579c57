//! Which ports are ours where the kernel has the address too: those that `ports=` of an interface names.
//!
//! Owned by [`ports`](crate::ports). Without such interfaces every port is.

use crate::ports::overlap;
use core::net::IpAddr;
use proto::control::messages::{NicConfig, PortRange};

/// What a group's interfaces leave to it.
#[derive(Debug, Default)]
pub struct Territory {
    /// Addresses that are the kernel's too, and what is ours there.
    shared: Vec<(IpAddr, Vec<PortRange>)>,
    /// There is an interface whose addresses are all ours.
    elsewhere: bool,
}

impl Territory {
    /// Of a group with these interfaces.
    pub fn of(nics: &[NicConfig]) -> Territory {
        let (shared, own): (Vec<_>, Vec<_>) = nics.iter().partition(|nic| !nic.ports.is_empty());
        let addresses =
            shared.iter().flat_map(|nic| nic.addrs.iter().map(|prefix| (prefix.addr, nic.ports.clone())));
        Territory { shared: addresses.collect(), elsewhere: !own.is_empty() }
    }

    fn meant(&self, local: IpAddr) -> impl Iterator<Item = &(IpAddr, Vec<PortRange>)> {
        self.shared.iter().filter(move |(addr, _)| overlap(*addr, local))
    }

    /// Whether a socket that asks for a port can have it: something at that address is ours there.
    pub fn has(&self, local: IpAddr, port: u16) -> bool {
        let ours = |(_, ports): &(IpAddr, Vec<PortRange>)| ports.iter().any(|range| range.contains(port));
        (self.elsewhere && local.is_unspecified())
            || self.meant(local).next().is_none()
            || self.meant(local).any(ours)
    }

    /// Whether a socket that asks for any port may get this one. It is ours at every address that the socket may
    /// have in the end, and of a range: single ports are meant for servers.
    pub fn gives(&self, local: IpAddr, port: u16) -> bool {
        let range = |range: &PortRange| range.first < range.last && range.contains(port);
        self.meant(local).all(|(_, ports)| ports.iter().any(range))
    }

    /// The first and the last port that it gives at addresses that are shared; `None` when there are none.
    pub fn span(&self) -> Option<(u16, u16)> {
        let ranges = self.shared.iter().flat_map(|(_, ports)| ports).filter(|range| range.first < range.last);
        let ends = ranges.map(|range| (range.first, range.last));
        ends.reduce(|(first, last), (from, to)| (first.min(from), last.max(to)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::control::messages::{Backend, Prefix};

    fn nic(addr: &str, ports: &[(u16, u16)]) -> NicConfig {
        NicConfig {
            backend: Backend::Packet { name: "eth0".to_owned(), netns: None },
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
            addrs: vec![Prefix { addr: ip(addr), len: 24 }],
            gateways: Vec::new(),
            slaac: false,
            offload: true,
            ports: ports.iter().map(|&(first, last)| PortRange { first, last }).collect(),
        }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn what_is_shared_is_ours_in_part() {
        let one = Territory::of(&[nic("10.0.0.1", &[(80, 80), (2000, 2999)])]);
        for any in ["10.0.0.1", "0.0.0.0", "::"] {
            assert!(one.has(ip(any), 80) && one.has(ip(any), 2500) && !one.has(ip(any), 22), "{any}");
            assert!(!one.gives(ip(any), 80) && one.gives(ip(any), 2500) && !one.gives(ip(any), 22), "{any}");
        }
        assert!(
            one.has(ip("127.0.0.1"), 22) && one.gives(ip("127.0.0.1"), 22),
            "loopback is the stack's own"
        );
        assert_eq!(one.span(), Some((2000, 2999)));
        let two = Territory::of(&[nic("10.0.0.1", &[(2000, 2999)]), nic("10.0.1.1", &[])]);
        assert!(two.has(ip("0.0.0.0"), 22) && !two.has(ip("10.0.0.1"), 22) && two.has(ip("10.0.1.1"), 22));
        assert!(!two.gives(ip("0.0.0.0"), 3000) && two.gives(ip("10.0.1.1"), 3000));
        assert_eq!(Territory::of(&[nic("10.0.0.1", &[(80, 80)])]).span(), None);
        assert!(Territory::default().has(ip("0.0.0.0"), 22) && Territory::default().gives(ip("::"), 22));
    }
}
