//! Which local port a socket gets when it asks for any: RFC 6056.
//!
//! Owned by the port policy, which says of each candidate whether it may be used. A port that leads to a
//! remote comes from algorithm 4 (double-hash): hard to guess for others, yet the same remote sees a port
//! again only when the whole range has gone by. A port without a remote comes from algorithm 1 (simple
//! randomisation). No clock and no randomness of its own: keys and random numbers are arguments.

use core::hash::Hasher;
use core::net::{IpAddr, SocketAddr};
use siphasher::sip::SipHasher13;

/// First ephemeral port: Linux's default of `ip_local_port_range`.
pub const PORT_FIRST: u16 = 32768;
/// Last ephemeral port: Linux's default of `ip_local_port_range`.
pub const PORT_LAST: u16 = 60999;
/// Counters that remotes are spread over: RFC 6056 §3.3.4 says that 10 to 1024 already separate well.
const COUNTERS: usize = 1024;

/// Chooses ephemeral ports.
pub struct PortSelect {
    /// Keys of F and G in RFC 6056 §3.3.4, 128 bits each.
    keys: [[u64; 2]; 2],
    first: u16,
    count: u32,
    counters: Box<[u32; COUNTERS]>,
}

impl PortSelect {
    /// Over the ports `first` to `last`, both included, with two secret keys of 128 bits and a random
    /// number at which the counters begin.
    ///
    /// # Panics
    /// When the range is empty or holds port 0.
    pub fn new(keys: [[u64; 2]; 2], random: u64, first: u16, last: u16) -> PortSelect {
        assert!(first > 0 && first <= last, "a range of ports");
        let mut counters = Box::new([0u32; COUNTERS]);
        for (place, counter) in counters.iter_mut().enumerate() {
            // RFC 6056 §3.3.4: "initialized with random values".
            let mut hasher = SipHasher13::new_with_keys(random, place as u64);
            hasher.write_u64(random);
            *counter = hasher.finish() as u32;
        }
        PortSelect { keys, first, count: u32::from(last - first) + 1, counters }
    }

    /// From now on over these ports, both included.
    ///
    /// # Panics
    /// As [`PortSelect::new`].
    pub fn narrow(&mut self, first: u16, last: u16) {
        assert!(first > 0 && first <= last, "a range of ports");
        (self.first, self.count) = (first, u32::from(last - first) + 1);
    }

    /// A port for a connection from `local` to `remote` for which `suitable` holds, each port of the range
    /// being asked for at most once; `None` when none is suitable.
    pub fn toward(
        &mut self,
        local: IpAddr,
        remote: SocketAddr,
        mut suitable: impl FnMut(u16) -> bool,
    ) -> Option<u16> {
        // RFC 6056 §3.3.4, algorithm 4.
        let offset = flow_hash(self.keys[0], local, remote) as u32;
        let counter = &mut self.counters[flow_hash(self.keys[1], local, remote) as usize % COUNTERS];
        for _ in 0..self.count {
            let port = self.first + (offset.wrapping_add(*counter) % self.count) as u16;
            *counter = next(*counter, offset, self.count);
            if suitable(port) {
                return Some(port);
            }
        }
        None
    }

    /// A port for a socket that is bound and leads nowhere yet, beginning at a random place; as
    /// [`toward`](PortSelect::toward) otherwise.
    pub fn unconnected(&self, random: u32, mut suitable: impl FnMut(u16) -> bool) -> Option<u16> {
        // RFC 6056 §3.3.1, algorithm 1.
        let start = random % self.count;
        (0..self.count)
            .map(|step| self.first + ((start + step) % self.count) as u16)
            .find(|port| suitable(*port))
    }
}

/// The counter after one candidate. `offset + counter` wraps at 2^32, which need not be a multiple of
/// the range; there it jumps so that the candidate after the last one is again its successor.
const fn next(counter: u32, offset: u32, count: u32) -> u32 {
    let at = offset.wrapping_add(counter);
    if at == u32::MAX { (at % count + 1).wrapping_sub(offset) } else { counter.wrapping_add(1) }
}

/// F and G of RFC 6056 §3.3.4: SipHash of the ends under a key.
fn flow_hash(key: [u64; 2], local: IpAddr, remote: SocketAddr) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(key[0], key[1]);
    for addr in [local, remote.ip()] {
        match addr {
            IpAddr::V4(addr) => hasher.write(&addr.octets()),
            IpAddr::V6(addr) => hasher.write(&addr.octets()),
        }
    }
    hasher.write_u16(remote.port());
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::Ipv4Addr;
    use proptest::prelude::*;
    use std::collections::HashSet;

    const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));

    fn remote(n: u32) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::from_bits(0x0a00_0100 + n), 443))
    }

    fn select() -> PortSelect {
        PortSelect::new([[1, 2], [3, 4]], 5, PORT_FIRST, PORT_LAST)
    }

    #[test]
    fn one_remote_sees_the_whole_range_before_a_port_again() {
        let mut select = select();
        let mut seen = HashSet::new();
        for _ in PORT_FIRST..=PORT_LAST {
            assert!(seen.insert(select.toward(LOCAL, remote(1), |_| true).unwrap()));
        }
        assert!(seen.contains(&PORT_FIRST) && seen.contains(&PORT_LAST));
        assert!(!seen.insert(select.toward(LOCAL, remote(1), |_| true).unwrap()));
    }

    #[test]
    fn remotes_begin_at_different_places() {
        let mut select = select();
        let first: HashSet<u16> =
            (0..200).map(|n| select.toward(LOCAL, remote(n), |_| true).unwrap()).collect();
        assert!(first.len() > 190, "{} different ports for 200 remotes", first.len());
        let mut other = PortSelect::new([[9, 2], [3, 4]], 5, PORT_FIRST, PORT_LAST);
        let differ = (0..200).filter(|n| {
            other.toward(LOCAL, remote(*n), |_| true) != select.toward(LOCAL, remote(*n), |_| true)
        });
        assert!(differ.count() > 190, "the key decides");
    }

    #[test]
    fn a_range_without_a_suitable_port() {
        let mut select = select();
        let mut asked = HashSet::new();
        assert_eq!(select.toward(LOCAL, remote(1), |port| !asked.insert(port)), None);
        assert_eq!(asked.len(), usize::from(PORT_LAST - PORT_FIRST) + 1);
        assert_eq!(select.unconnected(77, |_| false), None);
    }

    #[test]
    fn counters_wrap_without_a_repetition() {
        let mut select = PortSelect::new([[1, 2], [3, 4]], 5, 10, 16);
        let offset = flow_hash(select.keys[0], LOCAL, remote(1)) as u32;
        select.counters.fill((u32::MAX - 10).wrapping_sub(offset));
        let ports: Vec<u16> = (0..70).map(|_| select.toward(LOCAL, remote(1), |_| true).unwrap()).collect();
        assert!(ports.windows(2).all(|w| w[1] == if w[0] == 16 { 10 } else { w[0] + 1 }), "{ports:?}");
    }

    proptest! {
        #[test]
        fn the_only_free_port_is_found(first in 1u16..u16::MAX, len in 0u16..500, free in any::<prop::sample::Index>(),
                                       keys in any::<[[u64; 2]; 2]>(), random in any::<u64>()) {
            let last = first.saturating_add(len);
            let mut select = PortSelect::new(keys, random, first, last);
            let free = first + free.index(usize::from(last - first) + 1) as u16;
            prop_assert_eq!(select.toward(LOCAL, remote(1), |port| port == free), Some(free));
            prop_assert_eq!(select.unconnected(random as u32, |port| port == free), Some(free));
        }
    }
}
