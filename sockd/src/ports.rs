//! Which local ports are taken, and which one a socket gets that asks for any.
//!
//! Owned by [`core`](crate::core), which enters every socket it gives out. An index over the
//! registry: it is built again from there and never the truth. Connections that came in through a
//! listener, or that linger after their socket is gone, are not here: netd decides whether the
//! four ends of a connection are free, and another port is tried when they are not.

use crate::port_select::PortSelect;
use core::net::{IpAddr, SocketAddr};
use proto::hard::registry::Kind;
use proto::id::OpId;
use proto::zone;
use std::collections::BTreeMap;

/// The two ends of a socket; an unspecified remote is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// Our side.
    pub local: SocketAddr,
    /// The other side.
    pub remote: SocketAddr,
}

/// The ports that the group's sockets have.
pub struct Ports {
    select: PortSelect,
    taken: Taken,
}

struct Taken(BTreeMap<(Kind, u16, OpId), Ends>);

/// Whether two sockets of one port would both be meant by a packet to some address. The IPv6
/// wildcard takes IPv4 as well, unless it is that of IPv6 alone (ipv6(7), IPV6_V6ONLY).
fn overlap(a: IpAddr, b: IpAddr) -> bool {
    let covers = |any: IpAddr, other: IpAddr| match any {
        IpAddr::V4(ip) => ip.is_unspecified() && other.is_ipv4(),
        IpAddr::V6(ip) if ip == zone::ANY_V6 => other.is_ipv6(),
        IpAddr::V6(ip) => ip.is_unspecified(),
    };
    a == b || covers(a, b) || covers(b, a)
}

impl Ports {
    /// No port is taken yet; `select` chooses among the free ones.
    pub fn new(select: PortSelect) -> Ports {
        Ports { select, taken: Taken(BTreeMap::new()) }
    }

    /// Enters a socket.
    pub fn take(&mut self, kind: Kind, op: OpId, ends: Ends) {
        self.taken.0.insert((kind, ends.local.port(), op), ends);
    }

    /// Strikes a socket out that was entered with this port.
    pub fn release(&mut self, kind: Kind, op: OpId, port: u16) {
        self.taken.0.remove(&(kind, port, op));
    }

    /// Whether a socket of `kind` with these ends would stand in another's way.
    ///
    /// A listener conflicts with listeners only: it is opened as std does it, with SO_REUSEADDR, so
    /// that connections that still use its port (TIME-WAIT and others) don't keep it away.
    pub fn conflict(&self, kind: Kind, ends: Ends) -> bool {
        let port = ends.local.port();
        match kind {
            Kind::Listen | Kind::Datagram => self.taken.bound(kind, port, ends.local.ip()),
            Kind::Connect => self.taken.leads(port, ends),
        }
    }

    /// A port for a socket of `kind` with these ends (the port in `local` is not looked at), other
    /// than `not` and as `fits` wants it; `None` when there is none. `random` is a fresh random number.
    pub fn choose(
        &mut self,
        kind: Kind,
        ends: Ends,
        not: u16,
        random: u32,
        fits: impl Fn(u16) -> bool,
    ) -> Option<u16> {
        let Ports { select, taken } = self;
        let local = ends.local.ip();
        let free = |port: u16| {
            port != not
                && fits(port)
                && match kind {
                    Kind::Datagram => !taken.bound(Kind::Datagram, port, local),
                    Kind::Listen => {
                        [Kind::Listen, Kind::Connect].iter().all(|k| !taken.bound(*k, port, local))
                    }
                    Kind::Connect => !taken.bound(Kind::Listen, port, local) && !taken.leads(port, ends),
                }
        };
        match kind {
            Kind::Connect => select.toward(local, ends.remote, free),
            Kind::Listen | Kind::Datagram => select.unconnected(random, free),
        }
    }
}

impl Taken {
    fn at(&self, kind: Kind, port: u16) -> impl Iterator<Item = &Ends> {
        self.0.range((kind, port, OpId(0))..=(kind, port, OpId(u64::MAX))).map(|(_, ends)| ends)
    }

    /// Whether a socket of `kind` has the port at an address that overlaps `local`.
    fn bound(&self, kind: Kind, port: u16, local: IpAddr) -> bool {
        self.at(kind, port).any(|other| overlap(other.local.ip(), local))
    }

    /// Whether a connection from that port leads between these ends already.
    fn leads(&self, port: u16, ends: Ends) -> bool {
        self.at(Kind::Connect, port)
            .any(|other| other.remote == ends.remote && overlap(other.local.ip(), ends.local.ip()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port_select::{PORT_FIRST, PORT_LAST};

    fn ports() -> Ports {
        Ports::new(PortSelect::new([[1, 2], [3, 4]], 5, PORT_FIRST, PORT_LAST))
    }

    fn ends(local: &str, remote: &str) -> Ends {
        Ends { local: local.parse().expect("an address"), remote: remote.parse().expect("an address") }
    }

    const NONE: &str = "0.0.0.0:0";

    #[test]
    fn wildcard_and_specific_conflict() {
        let mut ports = ports();
        for kind in [Kind::Listen, Kind::Datagram] {
            ports.take(kind, OpId(1), ends("10.0.0.1:80", NONE));
            assert!(ports.conflict(kind, ends("0.0.0.0:80", NONE)));
            assert!(ports.conflict(kind, ends("[::]:80", NONE)));
            assert!(ports.conflict(kind, ends("10.0.0.1:80", NONE)));
            assert!(!ports.conflict(kind, ends("10.0.0.2:80", NONE)));
            assert!(!ports.conflict(kind, ends("0.0.0.0:81", NONE)));
            ports.release(kind, OpId(1), 80);
            assert!(!ports.conflict(kind, ends("0.0.0.0:80", NONE)));
        }
    }

    #[test]
    fn a_connection_does_not_keep_a_listener_away() {
        let mut ports = ports();
        ports.take(Kind::Connect, OpId(1), ends("10.0.0.1:8080", "10.0.0.9:80"));
        assert!(!ports.conflict(Kind::Listen, ends("0.0.0.0:8080", NONE)));
        assert!(ports.conflict(Kind::Connect, ends("10.0.0.1:8080", "10.0.0.9:80")));
        assert!(!ports.conflict(Kind::Connect, ends("10.0.0.1:8080", "10.0.0.9:81")));
    }

    #[test]
    fn a_chosen_port_is_free_and_not_the_one_that_failed() {
        let mut ports = ports();
        let want = ends("0.0.0.0:0", "10.0.0.9:80");
        for op in 0..1000 {
            let first = ports.choose(Kind::Connect, want, 0, 1, |_| true).expect("a port");
            let port = ports.choose(Kind::Connect, want, first, 1, |_| true).expect("another port");
            assert_ne!(first, port);
            let taken = Ends { local: SocketAddr::new(want.local.ip(), port), remote: want.remote };
            assert!(!ports.conflict(Kind::Connect, taken), "op {op}: port {port}");
            ports.take(Kind::Connect, OpId(op), taken);
        }
    }

    #[test]
    fn all_ports_taken() {
        let mut ports = ports();
        for port in PORT_FIRST..=PORT_LAST {
            let local = SocketAddr::new("0.0.0.0".parse().expect("an address"), port);
            ports.take(
                Kind::Datagram,
                OpId(1),
                Ends { local, remote: "0.0.0.0:0".parse().expect("an address") },
            );
        }
        assert_eq!(ports.choose(Kind::Datagram, ends(NONE, NONE), 0, 9, |_| true), None);
        assert!(ports.choose(Kind::Listen, ends(NONE, NONE), 0, 9, |_| true).is_some());
    }
}
