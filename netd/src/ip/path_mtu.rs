//! What paths carry where it is less than their first link does: RFC 1191, RFC 8201.
//!
//! Asked for every packet, and nearly always empty. Entered by ICMP errors that quote a packet of ours
//! which some transport has vouched for (RFC 8201 §4). Entries are forgotten after ten minutes, so that a
//! path may grow again (RFC 8201 §4), and at a limit the oldest goes.

use crate::keyed_hash::HashKey;
use core::net::IpAddr;
use core::time::Duration;
use proto::Instant;
use std::collections::HashMap;

/// Paths remembered at most.
const PATHS_MAX: usize = 1024;
/// RFC 8201 §4: try a larger one no sooner than after ten minutes; Linux `mtu_expires`.
const LIFETIME: Duration = Duration::from_secs(600);
/// What a router can talk an IPv4 path into: Linux `min_pmtu`, RFC 5927 §7.2.
const IPV4_MIN: u16 = 552;

/// Paths that carry less than their first link.
#[derive(Debug)]
pub struct PathMtus {
    paths: HashMap<IpAddr, (u16, Instant), HashKey>,
}

impl PathMtus {
    /// None is known; hashes under `key`.
    pub fn new(key: HashKey) -> PathMtus {
        PathMtus { paths: HashMap::with_hasher(key) }
    }

    /// What the path to `dst` carries, if it was ever said to be little.
    pub fn known(&self, dst: IpAddr) -> Option<u16> {
        match self.paths.is_empty() {
            true => None,
            false => self.paths.get(&dst).map(|(mtu, _)| *mtu),
        }
    }

    /// A router says that packets to `dst` may have `mtu` bytes. Returns whether that is news.
    pub fn lower(&mut self, now: Instant, dst: IpAddr, mtu: u16) -> bool {
        let mtu = if dst.is_ipv4() { mtu.max(IPV4_MIN) } else { mtu };
        if self.known(dst).is_some_and(|known| known <= mtu) {
            return false;
        }
        self.paths.retain(|_, (_, until)| *until > now);
        if self.paths.len() >= PATHS_MAX
            && let Some(oldest) = self.paths.iter().min_by_key(|(_, (_, until))| *until).map(|(dst, _)| *dst)
        {
            self.paths.remove(&oldest);
        }
        self.paths.insert(dst, (mtu, now + LIFETIME));
        true
    }

    /// Forgets what is too old to count. Called now and then, by whoever looks at time anyway.
    pub fn expire(&mut self, now: Instant) {
        if !self.paths.is_empty() {
            self.paths.retain(|_, (_, until)| *until > now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::{Ipv4Addr, Ipv6Addr};

    #[test]
    fn paths_shrink_and_are_forgotten() {
        let mut paths = PathMtus::new(HashKey([1, 2]));
        let (four, six) = (IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST));
        let start = Instant::from_nanos(5);
        assert!(paths.lower(start, six, 1400) && !paths.lower(start, six, 1400));
        assert!(!paths.lower(start, six, 1450), "a larger one is no news");
        assert!(paths.lower(start, six, 1280) && paths.lower(start, four, 100));
        assert_eq!((paths.known(six), paths.known(four)), (Some(1280), Some(IPV4_MIN)));
        paths.expire(start + LIFETIME);
        assert_eq!((paths.known(six), paths.known(four)), (None, None));
    }

    #[test]
    fn the_table_is_bounded() {
        let mut paths = PathMtus::new(HashKey([1, 2]));
        for n in 0..2 * PATHS_MAX as u128 {
            paths.lower(Instant::from_nanos(n as u64), IpAddr::V6(Ipv6Addr::from_bits(n)), 1300);
        }
        assert_eq!(paths.paths.len(), PATHS_MAX);
        assert_eq!(paths.known(IpAddr::V6(Ipv6Addr::from_bits(PATHS_MAX as u128))), Some(1300));
    }
}
