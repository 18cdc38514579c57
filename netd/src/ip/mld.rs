//! Which IPv6 groups an interface listens to, and what routers are told of it: the host's side of MLDv2
//! (RFC 3810), with reports of version 1 where a router speaks it (RFC 3810 §8).
//!
//! Pure: joins, queries and times go in, [`Report`]s come out. All nodes' group is never reported
//! (RFC 3810 §6).

use crate::keyed_hash::HashKey;
use crate::wire::mld::{Query, RecordKind};
use core::hash::Hasher;
use core::net::Ipv6Addr;
use core::time::Duration;
use proto::Instant;

/// How often a change is told: RFC 3810 §9.1.
const ROBUSTNESS: u8 = 2;
/// Between the two: RFC 3810 §9.11.
const UNSOLICITED_INTERVAL_MS: u64 = 1_000;
/// How long a router of version 1 is remembered: RFC 3810 §9.12, with its default query interval.
const OLDER_VERSION_PRESENT: Duration = Duration::from_secs(2 * 125 + 10);
/// The longest a query may let us wait; one may say 2.3 hours.
const DELAY_MAX: Duration = Duration::from_secs(60);

/// What is to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// Why.
    pub kind: RecordKind,
    /// Of which group.
    pub group: Ipv6Addr,
    /// In a message of version 1.
    pub version_1: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Membership {
    group: Ipv6Addr,
    /// A change that is still to be told so often, next at that time.
    change: Option<(RecordKind, u8, Instant)>,
    /// An answer to a query.
    answer: Option<Instant>,
}

/// The groups of one interface.
#[derive(Debug)]
pub struct Memberships {
    key: HashKey,
    groups: Vec<Membership>,
    version_1_until: Option<Instant>,
    draws: u64,
}

impl Memberships {
    /// None yet; `key` spreads the answers.
    pub const fn new(key: HashKey) -> Memberships {
        Memberships { key, groups: Vec::new(), version_1_until: None, draws: 0 }
    }

    /// The groups that are listened to.
    pub fn groups(&self) -> impl Iterator<Item = Ipv6Addr> + '_ {
        let left = |known: &&Membership| !matches!(known.change, Some((RecordKind::ChangeToInclude, ..)));
        self.groups.iter().filter(left).map(|known| known.group)
    }

    /// Listens to a group. `false` when it was already.
    pub fn join(&mut self, now: Instant, group: Ipv6Addr) -> bool {
        let change = Some((RecordKind::ChangeToExclude, ROBUSTNESS, now));
        match self.groups.iter_mut().find(|known| known.group == group) {
            Some(Membership { change: known @ Some((RecordKind::ChangeToInclude, ..)), .. }) => {
                *known = change
            }
            Some(_) => return false,
            None => self.groups.push(Membership { group, change, answer: None }),
        }
        true
    }

    /// Listens to it no longer. `false` when it was not.
    pub fn leave(&mut self, now: Instant, group: Ipv6Addr) -> bool {
        let Some(known) = self.groups.iter_mut().find(|known| known.group == group) else { return false };
        if matches!(known.change, Some((RecordKind::ChangeToInclude, ..))) {
            return false;
        }
        (known.change, known.answer) = (Some((RecordKind::ChangeToInclude, ROBUSTNESS, now)), None);
        true
    }

    /// A router asks: RFC 3810 §6.2. Returns whether anything will be said.
    pub fn queried(&mut self, now: Instant, query: &Query) -> bool {
        if query.version_1 {
            self.version_1_until = Some(now + OLDER_VERSION_PRESENT);
        }
        let most = query.max_delay.min(DELAY_MAX).as_millis() as u64 + 1;
        let (key, mut draws, mut any) = (self.key, self.draws, false);
        for known in &mut self.groups {
            let left = matches!(known.change, Some((RecordKind::ChangeToInclude, ..)));
            if left || query.group.is_some_and(|group| group != known.group) {
                continue;
            }
            let at = now + Duration::from_millis(draw(&key, &mut draws) % most);
            known.answer = Some(known.answer.map_or(at, |earlier| earlier.min(at)));
            any = true;
        }
        self.draws = draws;
        any
    }

    /// When [`Memberships::on_timer`] has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        let due = |known: &Membership| [known.answer, known.change.map(|(_, _, at)| at)];
        self.groups.iter().flat_map(due).flatten().min()
    }

    /// Everything due at `now` is told.
    pub fn on_timer(&mut self, now: Instant, mut sink: impl FnMut(Report)) {
        let version_1 = self.version_1_until.is_some_and(|until| now < until);
        let (key, mut draws) = (self.key, self.draws);
        for known in &mut self.groups {
            let group = known.group;
            if let Some((kind, left, at)) = known.change
                && at <= now
            {
                sink(Report { kind, group, version_1 });
                let again = Duration::from_millis(draw(&key, &mut draws) % UNSOLICITED_INTERVAL_MS);
                known.change = match (left > 1, kind) {
                    (true, _) => Some((kind, left - 1, now + again)),
                    // It stays as a mark of what was left until it is taken out below.
                    (false, RecordKind::ChangeToInclude) => Some((kind, 0, now)),
                    (false, _) => None,
                };
            }
            if known.answer.is_some_and(|at| at <= now) {
                known.answer = None;
                sink(Report { kind: RecordKind::ModeIsExclude, group, version_1 });
            }
        }
        self.draws = draws;
        self.groups.retain(|known| !matches!(known.change, Some((_, 0, _))));
    }
}

fn draw(key: &HashKey, draws: &mut u64) -> u64 {
    *draws += 1;
    let mut hasher = key.hasher();
    hasher.write_u64(*draws);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 1);
    const OTHER: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 2);
    const START: Instant = Instant::from_millis(1_000);

    /// Lets everything happen; returns what was told.
    fn run(groups: &mut Memberships) -> Vec<Report> {
        let mut told = Vec::new();
        while let Some(at) = groups.next_deadline() {
            groups.on_timer(at, |report| told.push(report));
        }
        told
    }

    #[test]
    fn changes_are_told_twice() {
        let mut groups = Memberships::new(HashKey([1, 2]));
        assert!(groups.join(START, GROUP) && !groups.join(START, GROUP));
        let report = |kind| Report { kind, group: GROUP, version_1: false };
        assert_eq!(run(&mut groups), [report(RecordKind::ChangeToExclude); 2]);
        assert_eq!(groups.groups().collect::<Vec<_>>(), [GROUP]);
        assert!(groups.leave(START, GROUP) && !groups.leave(START, GROUP));
        assert_eq!(groups.groups().count(), 0);
        assert_eq!(run(&mut groups), [report(RecordKind::ChangeToInclude); 2]);
        assert!(!groups.leave(START, GROUP));
    }

    #[test]
    fn queries_are_answered_in_time() {
        let mut groups = Memberships::new(HashKey([1, 2]));
        groups.join(START, GROUP);
        groups.join(START, OTHER);
        run(&mut groups);
        let later = START + Duration::from_secs(100);
        let query = |group, version_1| Query { group, max_delay: Duration::from_secs(10), version_1 };
        assert!(groups.queried(later, &query(None, false)));
        let due = groups.next_deadline().expect("an answer");
        assert!(due >= later && due <= later + Duration::from_secs(10));
        assert_eq!(run(&mut groups).len(), 2);
        assert!(!groups.queried(later, &query(Some("ff02::9".parse().unwrap()), false)));
        assert!(groups.queried(later, &query(Some(OTHER), true)));
        let told = run(&mut groups);
        assert_eq!(told, [Report { kind: RecordKind::ModeIsExclude, group: OTHER, version_1: true }]);
    }
}
