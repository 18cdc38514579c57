//! Which address of ours leads to a remote, as far as netd has said so.
//!
//! A guess that saves asking: routes are netd's. Soft state of one incarnation.

use core::net::IpAddr;
use std::collections::BTreeMap;

/// Remotes that are remembered.
const KNOWN_MAX: usize = 4096;

/// What netd chose before.
#[derive(Debug, Default)]
pub struct Sources {
    known: BTreeMap<IpAddr, IpAddr>,
    /// The last one of each family, for remotes that are not known.
    last: [Option<IpAddr>; 2],
}

impl Sources {
    /// netd has chosen `source` towards `remote`.
    pub fn learn(&mut self, remote: IpAddr, source: IpAddr) {
        if self.known.len() >= KNOWN_MAX && !self.known.contains_key(&remote) {
            self.known.clear();
        }
        self.known.insert(remote, source);
        self.last[usize::from(source.is_ipv6())] = Some(source);
    }

    /// What it will probably choose.
    pub fn towards(&self, remote: IpAddr) -> Option<IpAddr> {
        self.known.get(&remote).copied().or(self.last[usize::from(remote.is_ipv6())])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn what_was_chosen_last_is_the_guess_for_others_of_its_family() {
        let mut sources = Sources::default();
        assert_eq!(sources.towards(ip("10.0.0.9")), None);
        sources.learn(ip("10.0.0.9"), ip("10.0.0.1"));
        sources.learn(ip("127.0.0.1"), ip("127.0.0.1"));
        assert_eq!(sources.towards(ip("10.0.0.9")), Some(ip("10.0.0.1")));
        assert_eq!(sources.towards(ip("10.0.0.8")), Some(ip("127.0.0.1")));
        assert_eq!(sources.towards(ip("fd00::9")), None);
        for n in 0..=KNOWN_MAX as u32 {
            sources.learn(IpAddr::from(n.to_be_bytes()), ip("10.0.0.1"));
        }
        assert!(sources.known.len() <= KNOWN_MAX);
    }
}
