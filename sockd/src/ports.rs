//! Which local ports are taken, and which one a socket gets that asks for any.
//!
//! Owned by [`core`](crate::core), which enters every socket it gives out. An index over the
//! registry: it is built again from there and never the truth. Connections that came in through a
//! listener, or that linger after their socket is gone, are not here: netd decides whether the
//! four ends of a connection are free, and another port is tried when they are not.

use crate::port_select::PortSelect;
use crate::territory::Territory;
use core::net::{IpAddr, SocketAddr};
use proto::form::{Form, Share};
use proto::hard::registry::{Kind, Operation};
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

/// Whose ports are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// TCP's, of a connection.
    Connect,
    /// TCP's, of a listener.
    Listen,
    /// UDP's.
    Udp,
    /// Identifiers of echo requests.
    Ping,
    /// A socket that has none.
    Portless,
}

/// Who wants a port, and with whom it would share it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// Whose ports are meant.
    pub class: Class,
    /// With whom it is shared.
    pub share: Share,
    /// The user.
    pub uid: u32,
}

impl Class {
    /// Of a socket of that kind and form.
    pub const fn of(kind: Kind, form: Form) -> Class {
        match (kind, form) {
            (Kind::Connect, _) => Class::Connect,
            (Kind::Listen, _) => Class::Listen,
            (Kind::Datagram, Form::Udp) => Class::Udp,
            (Kind::Datagram, Form::Ping) => Class::Ping,
            (Kind::Datagram, Form::Raw { .. } | Form::Packet { .. }) => Class::Portless,
        }
    }
}

impl Claim {
    /// Of the socket that a user's operation opens.
    pub const fn of(operation: &Operation, uid: u32) -> Claim {
        Claim { class: Class::of(operation.kind, operation.form), share: operation.share, uid }
    }

    /// Whether two sockets may have one port (socket(7), SO_REUSEADDR, SO_REUSEPORT). The first keeps no two
    /// listeners apart: those have it anyway, as std sets it.
    fn shares_with(&self, other: &Claim) -> bool {
        let address = self.share.address && other.share.address && self.class != Class::Listen;
        address || self.share.port && other.share.port && self.uid == other.uid
    }
}

/// The ports that the group's sockets have.
pub struct Ports {
    select: PortSelect,
    taken: Taken,
    territory: Territory,
}

struct Taken(BTreeMap<(Class, u16, OpId), (Ends, Claim)>);

/// Whether two sockets of one port would both be meant by a packet to some address. The IPv6
/// wildcard takes IPv4 as well, unless it is that of IPv6 alone (ipv6(7), IPV6_V6ONLY).
pub(crate) fn overlap(a: IpAddr, b: IpAddr) -> bool {
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
        Ports { select, taken: Taken(BTreeMap::new()), territory: Territory::default() }
    }

    /// From now on no port is given out that is the kernel's.
    pub fn confine(&mut self, territory: Territory) {
        if let Some((first, last)) = territory.span() {
            self.select.narrow(first, last);
        }
        self.territory = territory;
    }

    /// Enters a socket.
    pub fn take(&mut self, claim: Claim, op: OpId, ends: Ends) {
        if claim.class != Class::Portless {
            self.taken.0.insert((claim.class, ends.local.port(), op), (ends, claim));
        }
    }

    /// Strikes a socket out that was entered with this port.
    pub fn release(&mut self, class: Class, op: OpId, port: u16) {
        self.taken.0.remove(&(class, port, op));
    }

    /// Whether a socket with this claim and these ends would stand in another's way, or in the kernel's.
    ///
    /// A listener conflicts with listeners only: it is opened as std does it, with SO_REUSEADDR, so
    /// that connections that still use its port (TIME-WAIT and others) don't keep it away.
    pub fn conflict(&self, claim: &Claim, ends: Ends) -> bool {
        let port = ends.local.port();
        let ported = matches!(claim.class, Class::Connect | Class::Listen | Class::Udp);
        if ported && !self.territory.has(ends.local.ip(), port) {
            return true;
        }
        match claim.class {
            Class::Connect => self.taken.leads(port, ends),
            Class::Portless => false,
            class => {
                let stands = |(other, theirs): &(Ends, Claim)| {
                    overlap(other.local.ip(), ends.local.ip()) && !claim.shares_with(theirs)
                };
                self.taken.at(class, port).any(stands)
            }
        }
    }

    /// A port for a socket of `class` with these ends (the port in `local` is not looked at), other
    /// than `not` and as `fits` wants it; `None` when there is none. `random` is a fresh random number.
    pub fn choose(
        &mut self,
        class: Class,
        ends: Ends,
        not: u16,
        random: u32,
        fits: impl Fn(u16) -> bool,
    ) -> Option<u16> {
        let Ports { select, taken, territory } = self;
        let local = ends.local.ip();
        let free = |port: u16| {
            port != not
                && fits(port)
                && (class == Class::Ping || territory.gives(local, port))
                && match class {
                    Class::Udp | Class::Ping => !taken.bound(class, port, local),
                    Class::Listen => {
                        [Class::Listen, Class::Connect].iter().all(|c| !taken.bound(*c, port, local))
                    }
                    Class::Connect => !taken.bound(Class::Listen, port, local) && !taken.leads(port, ends),
                    Class::Portless => true,
                }
        };
        match class {
            // Ports that netd refuses lie side by side: those of connections that were made one after the other,
            // in TIME-WAIT, of which a new sockd knows nothing.
            Class::Connect if not != 0 => select.unconnected(random, free),
            Class::Connect => select.toward(local, ends.remote, free),
            Class::Portless => Some(0),
            Class::Listen | Class::Udp | Class::Ping => select.unconnected(random, free),
        }
    }
}

impl Taken {
    fn at(&self, class: Class, port: u16) -> impl Iterator<Item = &(Ends, Claim)> {
        self.0.range((class, port, OpId(0))..=(class, port, OpId(u64::MAX))).map(|(_, taken)| taken)
    }

    /// Whether a socket of `class` has the port at an address that overlaps `local`.
    fn bound(&self, class: Class, port: u16, local: IpAddr) -> bool {
        self.at(class, port).any(|(other, _)| overlap(other.local.ip(), local))
    }

    /// Whether a connection from that port leads between these ends already.
    fn leads(&self, port: u16, ends: Ends) -> bool {
        self.at(Class::Connect, port)
            .any(|(other, _)| other.remote == ends.remote && overlap(other.local.ip(), ends.local.ip()))
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

    fn alone(class: Class) -> Claim {
        Claim { class, share: Share::NONE, uid: 1000 }
    }

    #[test]
    fn who_shares_a_port_says_so_and_is_the_same_user() {
        let (address, port) = (Share { address: true, port: false }, Share { address: false, port: true });
        let both = Share { address: true, port: true };
        for class in [Class::Listen, Class::Udp, Class::Ping] {
            for (theirs, mine, uid, taken) in [
                (address, address, 1000, class == Class::Listen),
                (address, address, 1001, class == Class::Listen),
                (port, port, 1000, false),
                (port, port, 1001, true),
                (address, port, 1000, true),
                (both, port, 1000, false),
                (address, both, 1001, class == Class::Listen),
                (Share::NONE, both, 1000, true),
            ] {
                let mut ports = ports();
                ports.take(Claim { class, share: theirs, uid: 1000 }, OpId(1), ends("0.0.0.0:53", NONE));
                let claim = Claim { class, share: mine, uid };
                let found = ports.conflict(&claim, ends("10.0.0.1:53", NONE));
                assert_eq!(found, taken, "{class:?}: {mine:?} of {uid} beside {theirs:?}");
            }
        }
        let mut ports = ports();
        ports.take(alone(Class::Udp), OpId(1), ends("0.0.0.0:53", NONE));
        assert!(!ports.conflict(&alone(Class::Ping), ends("0.0.0.0:53", NONE)), "numbers of their own");
        assert!(!ports.conflict(&alone(Class::Portless), ends("0.0.0.0:53", NONE)));
    }

    #[test]
    fn wildcard_and_specific_conflict() {
        let mut ports = ports();
        for class in [Class::Listen, Class::Udp] {
            ports.take(alone(class), OpId(1), ends("10.0.0.1:80", NONE));
            assert!(ports.conflict(&alone(class), ends("0.0.0.0:80", NONE)));
            assert!(ports.conflict(&alone(class), ends("[::]:80", NONE)));
            assert!(ports.conflict(&alone(class), ends("10.0.0.1:80", NONE)));
            assert!(!ports.conflict(&alone(class), ends("10.0.0.2:80", NONE)));
            assert!(!ports.conflict(&alone(class), ends("0.0.0.0:81", NONE)));
            ports.release(class, OpId(1), 80);
            assert!(!ports.conflict(&alone(class), ends("0.0.0.0:80", NONE)));
        }
    }

    #[test]
    fn a_connection_does_not_keep_a_listener_away() {
        let mut ports = ports();
        ports.take(alone(Class::Connect), OpId(1), ends("10.0.0.1:8080", "10.0.0.9:80"));
        assert!(!ports.conflict(&alone(Class::Listen), ends("0.0.0.0:8080", NONE)));
        assert!(ports.conflict(&alone(Class::Connect), ends("10.0.0.1:8080", "10.0.0.9:80")));
        assert!(!ports.conflict(&alone(Class::Connect), ends("10.0.0.1:8080", "10.0.0.9:81")));
    }

    #[test]
    fn a_chosen_port_is_free_and_not_the_one_that_failed() {
        let mut ports = ports();
        let want = ends("0.0.0.0:0", "10.0.0.9:80");
        for op in 0..1000 {
            let first = ports.choose(Class::Connect, want, 0, 1, |_| true).expect("a port");
            let port = ports.choose(Class::Connect, want, first, 1, |_| true).expect("another port");
            assert_ne!(first, port);
            let taken = Ends { local: SocketAddr::new(want.local.ip(), port), remote: want.remote };
            assert!(!ports.conflict(&alone(Class::Connect), taken), "op {op}: port {port}");
            ports.take(alone(Class::Connect), OpId(op), taken);
        }
    }

    #[test]
    fn all_ports_taken() {
        let mut ports = ports();
        for port in PORT_FIRST..=PORT_LAST {
            let local = SocketAddr::new("0.0.0.0".parse().expect("an address"), port);
            ports.take(
                alone(Class::Udp),
                OpId(1),
                Ends { local, remote: "0.0.0.0:0".parse().expect("an address") },
            );
        }
        assert_eq!(ports.choose(Class::Udp, ends(NONE, NONE), 0, 9, |_| true), None);
        assert!(ports.choose(Class::Listen, ends(NONE, NONE), 0, 9, |_| true).is_some());
    }

    #[test]
    fn after_a_refusal_the_next_choice_lies_elsewhere() {
        let mut ports = ports();
        let ends = ends(NONE, "10.0.0.9:80");
        let mut choose =
            |not, random| ports.choose(Class::Connect, ends, not, random, |_| true).expect("a port");
        let first = choose(0, 1);
        let next = (1..=16u32).map(|n| choose(first, n.wrapping_mul(0x9e37_79b9)));
        assert!(next.filter(|port| port.abs_diff(first) < 1000).count() < 4, "beside {first}");
    }
}
