//! What may be tuned while a group runs, by the names that sysctl(8) has for it: which values each takes
//! and what it is by itself. A value that was set is a record of the configuration.
//!
//! Read by netctl, which shows and sets them, and by netd, which obeys them. Not here: what each does.

use serde::{Deserialize, Serialize};

/// One tunable. Its number names it in the configuration and never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u16)]
pub enum Tunable {
    /// Time to live of packets of IPv4 (RFC 1122 §3.2.1.7).
    Ttl = 0,
    /// Hop limit of packets of IPv6, where no router says otherwise.
    HopLimit,
    /// Congestion control of new connections: 0 reno, 1 cubic, 2 bbr.
    Congestion,
    /// Window scaling is offered and accepted (RFC 7323 §2).
    WindowScaling,
    /// Timestamps are (RFC 7323 §3).
    Timestamps,
    /// Selective acknowledgements are (RFC 2018).
    Sack,
    /// ECN (RFC 3168): 0 never, 1 asked for and accepted, 2 accepted.
    Ecn,
    /// Retransmissions before an established connection is given up (RFC 9293 §3.8.3, R2).
    Retries2,
    /// Retransmissions of a SYN.
    SynRetries,
    /// Retransmissions of a SYN-ACK.
    SynAckRetries,
    /// Retransmissions of a connection that nobody owns any more; 0 is 8, as with Linux.
    OrphanRetries,
    /// Seconds of silence before the first keepalive of a socket that wants them (RFC 9293 §3.8.4).
    KeepaliveTime,
    /// Seconds between keepalives.
    KeepaliveInterval,
    /// Keepalives without an answer.
    KeepaliveProbes,
    /// SYN cookies (RFC 4987 §3.6): 0 never, 1 under load, 2 always.
    SynCookies,
    /// Half-open connections of a listener before it answers with cookies, or not at all.
    SynBacklog,
    /// Fast Open (RFC 7413) of sockets that ask for it: 1 of those that connect, 2 of those that listen.
    FastOpen,
    /// Challenge ACKs a second (RFC 5961 §7).
    ChallengeLimit,
    /// ICMP errors a second (RFC 1812 §4.3.2.8, RFC 4443 §2.4 (f)).
    ErrorRate,
    /// ICMP errors at once.
    ErrorBurst,
    /// Echo requests of IPv4 are not answered.
    EchoIgnore,
    /// Echo requests of IPv6 are not answered.
    EchoIgnoreV6,
    /// Of several next hops of IPv4 a flow takes one by its addresses (0), or by its ports too (1).
    HashPolicy,
    /// The same of IPv6.
    HashPolicyV6,
    /// A next hop of IPv4 whose neighbour does not answer gives its share to the others; one of IPv6 always does.
    UseNeighbours,
}

/// What is known of a tunable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct About {
    /// Its name, with dots.
    pub name: &'static str,
    /// What it is when nobody has set it.
    pub default: u32,
    /// The least that it takes.
    pub least: u32,
    /// The most that it takes.
    pub most: u32,
    /// Words for its values from 0 on, where it is not written as a number.
    pub words: &'static [&'static str],
}

const fn number(name: &'static str, default: u32, least: u32, most: u32) -> About {
    About { name, default, least, most, words: &[] }
}

const fn switch(name: &'static str, default: u32) -> About {
    number(name, default, 0, 1)
}

/// How many there are.
pub const COUNT: usize = Tunable::UseNeighbours as usize + 1;

/// In the order of their numbers. Bounds are Linux's where it has any.
const TABLE: [(Tunable, About); COUNT] = [
    (Tunable::Ttl, number("net.ipv4.ip_default_ttl", 64, 1, 255)),
    (Tunable::HopLimit, number("net.ipv6.conf.all.hop_limit", 64, 1, 255)),
    (
        Tunable::Congestion,
        About {
            name: "net.ipv4.tcp_congestion_control",
            default: 1,
            least: 0,
            most: 2,
            words: &["reno", "cubic", "bbr"],
        },
    ),
    (Tunable::WindowScaling, switch("net.ipv4.tcp_window_scaling", 1)),
    (Tunable::Timestamps, switch("net.ipv4.tcp_timestamps", 1)),
    (Tunable::Sack, switch("net.ipv4.tcp_sack", 1)),
    (Tunable::Ecn, number("net.ipv4.tcp_ecn", 2, 0, 2)),
    (Tunable::Retries2, number("net.ipv4.tcp_retries2", 15, 1, 255)),
    (Tunable::SynRetries, number("net.ipv4.tcp_syn_retries", 6, 1, 127)),
    (Tunable::SynAckRetries, number("net.ipv4.tcp_synack_retries", 5, 1, 127)),
    (Tunable::OrphanRetries, number("net.ipv4.tcp_orphan_retries", 0, 0, 255)),
    (Tunable::KeepaliveTime, number("net.ipv4.tcp_keepalive_time", 7200, 1, 32_767)),
    (Tunable::KeepaliveInterval, number("net.ipv4.tcp_keepalive_intvl", 75, 1, 32_767)),
    (Tunable::KeepaliveProbes, number("net.ipv4.tcp_keepalive_probes", 9, 1, 127)),
    (Tunable::SynCookies, number("net.ipv4.tcp_syncookies", 1, 0, 2)),
    (Tunable::SynBacklog, number("net.ipv4.tcp_max_syn_backlog", 1024, 1, 1 << 20)),
    (Tunable::FastOpen, number("net.ipv4.tcp_fastopen", 3, 0, 3)),
    (Tunable::ChallengeLimit, number("net.ipv4.tcp_challenge_ack_limit", 1000, 1, 1_000_000)),
    (Tunable::ErrorRate, number("net.ipv4.icmp_msgs_per_sec", 1000, 1, 1_000_000)),
    (Tunable::ErrorBurst, number("net.ipv4.icmp_msgs_burst", 50, 1, 1_000_000)),
    (Tunable::EchoIgnore, switch("net.ipv4.icmp_echo_ignore_all", 0)),
    (Tunable::EchoIgnoreV6, switch("net.ipv6.icmp.echo_ignore_all", 0)),
    (Tunable::HashPolicy, switch("net.ipv4.fib_multipath_hash_policy", 0)),
    (Tunable::HashPolicyV6, switch("net.ipv6.fib_multipath_hash_policy", 0)),
    (Tunable::UseNeighbours, switch("net.ipv4.fib_multipath_use_neigh", 0)),
];

impl Tunable {
    /// All of them, in the order of their numbers.
    pub fn all() -> impl Iterator<Item = Tunable> {
        TABLE.iter().map(|(tunable, _)| *tunable)
    }

    /// What is known of it.
    pub const fn about(self) -> &'static About {
        &TABLE[self as usize].1
    }

    /// The one of that number.
    pub fn of_number(number: u16) -> Option<Tunable> {
        TABLE.get(usize::from(number)).map(|(tunable, _)| *tunable)
    }

    /// The one of that name; slashes do for dots, as sysctl(8) takes them.
    pub fn of_name(name: &str) -> Option<Tunable> {
        let name = name.replace('/', ".");
        Tunable::all().find(|tunable| tunable.about().name == name)
    }
}

impl About {
    /// Whether it takes that value.
    pub const fn takes(&self, value: u32) -> bool {
        self.least <= value && value <= self.most
    }

    /// A value as it is shown.
    pub fn text_of(&self, value: u32) -> String {
        let word = self.words.get(value as usize);
        word.map_or_else(|| value.to_string(), |word| (*word).to_owned())
    }

    /// A value as it is written; `None` when it can't be one.
    pub fn value_of(&self, text: &str) -> Option<u32> {
        let value = match self.words {
            [] => text.parse().ok()?,
            words => words.iter().position(|word| *word == text)? as u32,
        };
        self.takes(value).then_some(value)
    }
}

/// The values that are in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Values([u32; COUNT]);

impl Default for Values {
    fn default() -> Self {
        Values(core::array::from_fn(|n| TABLE[n].1.default))
    }
}

impl Values {
    /// The value of one.
    pub const fn get(&self, tunable: Tunable) -> u32 {
        self.0[tunable as usize]
    }

    /// Whether a switch is on.
    pub const fn is_on(&self, tunable: Tunable) -> bool {
        self.get(tunable) != 0
    }

    /// Sets one. `false`, and nothing has changed, when it takes no such value.
    pub fn set(&mut self, tunable: Tunable, value: u32) -> bool {
        let takes = tunable.about().takes(value);
        if takes {
            self.0[tunable as usize] = value;
        }
        takes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_lead_back() {
        for (n, (tunable, about)) in TABLE.iter().enumerate() {
            assert_eq!(*tunable as usize, n);
            assert_eq!(Tunable::of_number(n as u16), Some(*tunable));
            assert_eq!(Tunable::of_name(&about.name.replace('.', "/")), Some(*tunable));
            assert!(about.takes(about.default), "{}", about.name);
            assert_eq!(about.value_of(&about.text_of(about.default)), Some(about.default));
            assert!(about.words.is_empty() || about.words.len() == about.most as usize + 1);
        }
        assert_eq!(Tunable::of_number(COUNT as u16), None);
        assert_eq!(Tunable::of_name("net.ipv4.no_such"), None);
    }

    #[test]
    fn bounds_are_kept() {
        let mut values = Values::default();
        assert!(!values.set(Tunable::Ttl, 0) && !values.set(Tunable::Ttl, 256));
        assert_eq!(values.get(Tunable::Ttl), 64);
        assert!(values.set(Tunable::Ttl, 255));
        assert_eq!(values.get(Tunable::Ttl), 255);
        assert_eq!(Tunable::Congestion.about().value_of("bbr"), Some(2));
        assert_eq!(Tunable::Congestion.about().value_of("1"), None);
    }
}
