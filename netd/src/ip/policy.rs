//! Policy rules: which tables are looked at for a packet, and in which order; ip-rule(8).
//!
//! Owned by [`super::route::RouteTable`]. A table of our own addresses comes before all of them, as with Linux's
//! rule 0; the rules of the tables `main` and `default` are there from the beginning. A socket that has no source
//! yet matches no rule that asks for one: its source follows from the way that it finds, and then its packets have
//! it. Nothing here knows what stands in the tables.

use super::prefix::Prefix;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use proto::control::messages::Prefix as Written;
use proto::hard::routing::{Action, PRIORITY_DEFAULT, PRIORITY_MAIN, PolicyRule, TABLE_DEFAULT, TABLE_MAIN};
use proto::zone;

/// Rules of a host at most, beside those that are there from the beginning; a bound for what is walked.
pub const RULES_MAX: usize = 256;

/// What a rule is asked about.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// Where it goes.
    pub dst: IpAddr,
    /// Where it comes from, once that is known.
    pub source: Option<IpAddr>,
    /// The interface that its socket is bound to.
    pub interface: Option<u16>,
}

/// The rules, the lowest priority first; those of one in the order in which they were entered.
#[derive(Debug)]
pub struct Policy {
    rules: Vec<PolicyRule>,
}

const fn beginning(priority: u32, table: u32, v6: bool) -> PolicyRule {
    let (source, destination, interface) = (None, None, None);
    PolicyRule { priority, v6, not: false, source, destination, interface, action: Action::Lookup(table) }
}

impl Default for Policy {
    fn default() -> Self {
        let rules = vec![
            beginning(PRIORITY_MAIN, TABLE_MAIN, false),
            beginning(PRIORITY_MAIN, TABLE_MAIN, true),
            beginning(PRIORITY_DEFAULT, TABLE_DEFAULT, false),
            beginning(PRIORITY_DEFAULT, TABLE_DEFAULT, true),
        ];
        Policy { rules }
    }
}

impl Policy {
    /// Rules that every host has.
    const OWN: usize = 4;

    /// Enters a rule. `Some(false)` when it is there, `None` when there is no room.
    pub fn add(&mut self, rule: PolicyRule) -> Option<bool> {
        if self.rules.contains(&rule) {
            return Some(false);
        }
        if self.rules.len() >= RULES_MAX + Self::OWN {
            return None;
        }
        let at = self.rules.partition_point(|known| known.priority <= rule.priority);
        self.rules.insert(at, rule);
        Some(true)
    }

    /// Takes a rule out, one that was entered. Returns whether it was there.
    pub fn remove(&mut self, rule: &PolicyRule) -> bool {
        let own = Policy::default().rules.contains(rule);
        let place = self.rules.iter().position(|known| known == rule).filter(|_| !own);
        place.map(|place| self.rules.remove(place)).is_some()
    }

    /// Whether nobody has entered a rule.
    pub const fn is_plain(&self) -> bool {
        self.rules.len() == Self::OWN
    }

    /// What is to be done for a packet, in this order, until something comes of it.
    pub fn actions(&self, wanted: Wanted) -> impl Iterator<Item = Action> {
        self.rules.iter().filter(move |rule| matches(rule, &wanted)).map(|rule| rule.action)
    }
}

fn matches(rule: &PolicyRule, wanted: &Wanted) -> bool {
    if rule.v6 != wanted.dst.is_ipv6() {
        return false;
    }
    let nowhere = match wanted.dst {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let within = |prefix: Option<Written>, addr: IpAddr| {
        let network = prefix.map(|prefix| Prefix::of(prefix.addr, prefix.len));
        network.is_none_or(|network| network.is_some_and(|network| network.contains(zone::ip_without(addr))))
    };
    let selected = within(rule.source, wanted.source.unwrap_or(nowhere))
        && within(rule.destination, wanted.dst)
        && rule.interface.is_none_or(|named| wanted.interface == Some(named));
    selected != rule.not
}
