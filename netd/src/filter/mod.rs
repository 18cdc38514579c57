//! Packet filter rules at the five hook points of a host's network layer (nft(8), "Hooks").
//!
//! ```text
//!  link ─► PREROUTING ─► for us? ─ yes ─► INPUT ─► transports ─► OUTPUT ─► POSTROUTING ─► link
//!                          └ no ─► FORWARD ─► (this host forwards nothing)
//! ```
//!
//! Owned by the stack, asked with the headers of each packet; without rules that costs one look.
//! Rules are tried in the order of their numbers, the first that matches decides and counts; where none does
//! the packet passes. Rules and counts are hard state: the stack says which counts moved, whoever keeps the
//! configuration commits them before the batch is settled.
//!
//! Not here: connection tracking, address translation.

use core::net::IpAddr;
use proto::control::messages::Prefix;
pub use proto::hard::filter::{Hook, Rule, Verdict};

/// What a rule looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// The interface it came in or leaves by.
    pub interface: u16,
    /// Who sent it.
    pub source: IpAddr,
    /// Whom it is for.
    pub destination: IpAddr,
    /// What it carries.
    pub protocol: u8,
    /// Source and destination port, where the protocol has them and they stand in this packet.
    pub ports: Option<(u16, u16)>,
    /// Its length in bytes, IP header and all.
    pub len: u32,
}

impl Facts {
    /// Of the packet whose first bytes are `head`; `None` when it is no packet of IP that could be told.
    pub fn of(interface: u16, head: &[u8], len: usize) -> Option<Facts> {
        let (source, destination, protocol, behind, first) = match head.first()? >> 4 {
            4 => {
                let fixed = head.first_chunk::<20>()?;
                let addr = |at: usize| IpAddr::from([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
                let offset = u16::from_be_bytes([fixed[6], fixed[7]]) & 0x1fff;
                (addr(12), addr(16), fixed[9], usize::from(fixed[0] & 0xf) * 4, offset == 0)
            }
            6 => {
                let fixed = head.first_chunk::<40>()?;
                let addr = |at: usize| {
                    let octets: [u8; 16] = core::array::from_fn(|n| fixed[at + n]);
                    IpAddr::from(octets)
                };
                let (protocol, at) = upper(head, fixed[6]);
                (addr(8), addr(24), protocol, at, protocol != FRAGMENT)
            }
            _ => return None,
        };
        let has_ports = first && matches!(protocol, 6 | 17);
        let ports = head.get(behind..).and_then(|rest| rest.first_chunk::<4>()).filter(|_| has_ports);
        let ports = ports.map(|p| (u16::from_be_bytes([p[0], p[1]]), u16::from_be_bytes([p[2], p[3]])));
        Some(Facts { interface, source, destination, protocol, ports, len: len as u32 })
    }
}

const FRAGMENT: u8 = 44;

/// The protocol behind the extension headers of IPv6 that stand in `head`, and where it begins.
fn upper(head: &[u8], first: u8) -> (u8, usize) {
    let (mut next, mut at) = (first, 40);
    while matches!(next, 0 | 43 | 60) {
        let Some([following, words]) = head.get(at..).and_then(|rest| rest.first_chunk::<2>()) else { break };
        (next, at) = (*following, at + (usize::from(*words) + 1) * 8);
    }
    (next, at)
}

/// A rule and what it has counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// The rule.
    pub rule: Rule,
    /// Packets that it has decided on.
    pub packets: u64,
    /// Bytes of them.
    pub bytes: u64,
}

/// The rules of a shard.
#[derive(Debug, Default)]
pub struct Rules {
    /// By number, of each hook.
    hooks: [Vec<Counted>; Hook::ALL.len()],
    /// Whose counts have moved since they were last asked for.
    moved: Vec<(Hook, u32)>,
    /// How many there are: what every packet looks at.
    count: usize,
}

impl Rules {
    /// Enters a rule; one of its number goes. With the counts that it had.
    pub fn set(&mut self, counted: Counted) {
        self.remove(counted.rule.number);
        let list = &mut self.hooks[counted.rule.hook as usize];
        let at = list.partition_point(|known| known.rule.number < counted.rule.number);
        list.insert(at, counted);
        self.count += 1;
    }

    /// Takes a rule out. `false` when there was none of that number.
    pub fn remove(&mut self, number: u32) -> bool {
        let before = self.count;
        self.hooks.iter_mut().for_each(|list| list.retain(|known| known.rule.number != number));
        self.moved.retain(|(_, known)| *known != number);
        self.count = self.hooks.iter().map(Vec::len).sum();
        self.count < before
    }

    /// The rule of that number.
    pub fn get(&self, number: u32) -> Option<&Counted> {
        self.hooks.iter().flatten().find(|known| known.rule.number == number)
    }

    /// Whether no hook has a rule.
    pub fn is_unused(&self) -> bool {
        self.count == 0
    }

    /// What is to become of a packet at a hook.
    pub fn judge(&mut self, hook: Hook, facts: &Facts) -> Verdict {
        let list = &mut self.hooks[hook as usize];
        let Some(found) = list.iter_mut().find(|known| matches(&known.rule, facts)) else {
            return Verdict::Accept;
        };
        found.packets += 1;
        found.bytes += u64::from(facts.len);
        let Rule { number, verdict, .. } = found.rule;
        if !self.moved.contains(&(hook, number)) {
            self.moved.push((hook, number));
        }
        verdict
    }

    /// A rule whose counts have moved, once.
    pub fn next_moved(&mut self) -> Option<Counted> {
        let (hook, number) = self.moved.pop()?;
        self.hooks[hook as usize].iter().find(|known| known.rule.number == number).copied()
    }
}

fn matches(rule: &Rule, facts: &Facts) -> bool {
    let within = |prefix: &Option<Prefix>, addr: IpAddr| prefix.is_none_or(|prefix| contains(prefix, addr));
    let port = |range: Option<(u16, u16)>, port: Option<u16>| {
        range.is_none_or(|(low, high)| port.is_some_and(|port| (low..=high).contains(&port)))
    };
    rule.interface.is_none_or(|interface| interface == facts.interface)
        && rule.protocol.is_none_or(|protocol| protocol == facts.protocol)
        && within(&rule.source, facts.source)
        && within(&rule.destination, facts.destination)
        && port(rule.source_ports, facts.ports.map(|(source, _)| source))
        && port(rule.destination_ports, facts.ports.map(|(_, destination)| destination))
}

fn contains(prefix: Prefix, addr: IpAddr) -> bool {
    match (prefix.addr, addr) {
        (IpAddr::V4(net), IpAddr::V4(addr)) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix.len.min(32))).unwrap_or(0);
            (net.to_bits() ^ addr.to_bits()) & mask == 0
        }
        (IpAddr::V6(net), IpAddr::V6(addr)) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix.len.min(128))).unwrap_or(0);
            (net.to_bits() ^ addr.to_bits()) & mask == 0
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn prefix(text: &str, len: u8) -> Option<Prefix> {
        Some(Prefix { addr: text.parse().expect("an address"), len })
    }

    fn counted(rule: Rule) -> Counted {
        Counted { rule, packets: 0, bytes: 0 }
    }

    fn drops(number: u32) -> Rule {
        Rule { number, hook: Hook::Input, verdict: Verdict::Drop, ..Rule::default() }
    }

    /// UDP from 10.0.0.9:999 to 10.0.0.1:53.
    fn udp() -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 9, 10, 0, 0, 1];
        packet.extend([3, 0xe7, 0, 53, 0, 8, 0, 0]);
        packet
    }

    #[test]
    fn the_first_rule_that_matches_decides_and_counts() {
        let facts = Facts::of(0, &udp(), 28).expect("a packet");
        assert_eq!(facts.ports, Some((999, 53)));
        let mut rules = Rules::default();
        assert_eq!(rules.judge(Hook::Input, &facts), Verdict::Accept);
        rules.set(counted(Rule { destination_ports: Some((1, 52)), ..drops(1) }));
        rules.set(counted(Rule { source: prefix("10.1.0.0", 16), ..drops(2) }));
        rules.set(counted(Rule { protocol: Some(17), interface: Some(1), ..drops(3) }));
        assert_eq!(rules.judge(Hook::Input, &facts), Verdict::Accept, "none of these");
        assert_eq!(rules.next_moved(), None);
        let source = prefix("10.0.0.0", 8);
        rules.set(counted(Rule { source, destination_ports: Some((53, 53)), ..drops(9) }));
        rules.set(counted(Rule { verdict: Verdict::Accept, ..Rule { source, ..drops(5) } }));
        assert_eq!(rules.judge(Hook::Input, &facts), Verdict::Accept, "number 5 comes before 9");
        assert_eq!(rules.judge(Hook::Output, &facts), Verdict::Accept);
        assert!(rules.remove(5) && !rules.remove(5));
        assert_eq!(rules.judge(Hook::Input, &facts), Verdict::Drop);
        assert_eq!(rules.judge(Hook::Input, &facts), Verdict::Drop);
        let moved = rules.next_moved().expect("it counted");
        assert_eq!((moved.rule.number, moved.packets, moved.bytes), (9, 2, 56));
        assert_eq!(rules.next_moved(), None);
    }

    #[test]
    fn later_fragments_have_no_ports() {
        let mut later = udp();
        later[7] = 1;
        let facts = Facts::of(0, &later, 28).expect("a packet");
        assert_eq!(facts.ports, None);
        let rule = Rule { destination_ports: Some((0, u16::MAX)), ..drops(1) };
        assert!(!matches(&rule, &facts));
        let mut v6 = vec![0x60, 0, 0, 0, 0, 12, 60, 64];
        v6.extend([0; 32]);
        v6.extend([17, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 9]);
        let facts = Facts::of(0, &v6, v6.len()).expect("a packet");
        assert_eq!((facts.protocol, facts.ports), (17, Some((7, 9))));
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = Facts::of(0, &bytes, bytes.len());
        }
    }
}
