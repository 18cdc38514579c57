//! Which groups an interface listens to, from which sources, and what routers are told of it: the host's
//! side of IGMPv3 (RFC 3376) and of MLDv2 (RFC 3810), which are one protocol in two families, with the older
//! versions where a router speaks them (RFC 3376 §7, RFC 3810 §8).
//!
//! Pure: what sockets and the host want, queries and times go in, [`Report`]s come out. What an interface
//! wants follows from all that want a group of it (RFC 3376 §3.2). All hosts' group is never reported.

use crate::keyed_hash::HashKey;
use crate::wire::membership::{Query, RecordKind, Report, Version};
use core::hash::Hasher;
use core::net::{IpAddr, Ipv4Addr};
use core::time::Duration;
use proto::Instant;
use proto::arena::wishes::Mode;
use std::collections::{BTreeMap, BTreeSet};

/// How often a change is told: RFC 3376 §8.1, RFC 3810 §9.1.
const ROBUSTNESS: u8 = 2;
/// Between the two: RFC 3376 §8.11, RFC 3810 §9.11.
const UNSOLICITED_INTERVAL_MS: u64 = 1_000;
/// How long a router of an older version is remembered: RFC 3376 §8.12, RFC 3810 §9.12, with their default
/// query interval.
const OLDER_VERSION_PRESENT: Duration = Duration::from_secs(2 * 125 + 10);
/// The longest a query may let us wait; one may say 2.3 hours.
const DELAY_MAX: Duration = Duration::from_secs(60);

/// Whose wish it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner(pub u64);

impl Owner {
    /// The host's own: groups that its addresses need.
    pub const HOST: Owner = Owner(u64::MAX);
}

/// Sources that are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sources {
    /// What the list means.
    pub mode: Mode,
    /// The list.
    pub list: BTreeSet<IpAddr>,
}

impl Sources {
    /// Every source.
    pub const fn every() -> Sources {
        Sources { mode: Mode::Exclude, list: BTreeSet::new() }
    }

    const fn none() -> Sources {
        Sources { mode: Mode::Include, list: BTreeSet::new() }
    }

    fn is_none(&self) -> bool {
        self.mode == Mode::Include && self.list.is_empty()
    }

    /// Whether what `source` sends is wanted.
    pub fn takes(&self, source: IpAddr) -> bool {
        self.list.contains(&source) == (self.mode == Mode::Include)
    }

    /// RFC 3376 §3.2, RFC 3810 §4.2: what all of them want together.
    fn merged<'a>(all: impl Iterator<Item = &'a Sources> + Clone) -> Sources {
        let of = |mode: Mode| all.clone().filter(move |one| one.mode == mode);
        let included: BTreeSet<IpAddr> = of(Mode::Include).flat_map(|one| &one.list).copied().collect();
        let mut excluding = of(Mode::Exclude);
        let Some(first) = excluding.next() else { return Sources { mode: Mode::Include, list: included } };
        let common = |source: &&IpAddr| excluding.clone().all(|one| one.list.contains(source));
        let list = first.list.iter().filter(common).filter(|s| !included.contains(s)).copied().collect();
        Sources { mode: Mode::Exclude, list }
    }
}

/// A group that is listened to, or was a moment ago.
#[derive(Debug)]
struct Group {
    wanted: BTreeMap<Owner, Sources>,
    /// What they want together.
    now: Sources,
    /// When a change is told next.
    change: Option<Instant>,
    /// How often the change of the mode is still to be told.
    mode_left: u8,
    /// How often that of a source is.
    sources_left: BTreeMap<IpAddr, u8>,
    /// An answer to a query, about these sources or about all.
    answer: Option<(Instant, BTreeSet<IpAddr>)>,
}

/// The groups of one family on one interface.
#[derive(Debug)]
pub struct Groups {
    key: HashKey,
    groups: BTreeMap<IpAddr, Group>,
    older: Option<(Version, Instant)>,
    /// An answer about all of them.
    answer_all: Option<Instant>,
    draws: u64,
}

/// RFC 3376 §6, RFC 3810 §6: all hosts' group, and what stays within a host, concern no router.
fn is_told_of(group: IpAddr) -> bool {
    match group {
        IpAddr::V4(group) => group != Ipv4Addr::new(224, 0, 0, 1),
        IpAddr::V6(group) => group.octets()[1] & 0xf > 1 && group != crate::wire::ndp::ALL_NODES,
    }
}

impl Groups {
    /// None yet; `key` spreads the answers.
    pub const fn new(key: HashKey) -> Groups {
        Groups { key, groups: BTreeMap::new(), older: None, answer_all: None, draws: 0 }
    }

    /// The groups that are listened to.
    pub fn listened(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.groups.iter().filter(|(_, group)| !group.now.is_none()).map(|(addr, _)| *addr)
    }

    /// `owner` wants these sources of a group, or none of it any more. Returns whether the groups that are
    /// listened to are others now.
    pub fn set(&mut self, now: Instant, owner: Owner, group: IpAddr, wanted: Option<Sources>) -> bool {
        let fresh = || Group {
            wanted: BTreeMap::new(),
            now: Sources::none(),
            change: None,
            mode_left: 0,
            sources_left: BTreeMap::new(),
            answer: None,
        };
        let known = self.groups.entry(group).or_insert_with(fresh);
        match wanted {
            Some(wanted) => known.wanted.insert(owner, wanted),
            None => known.wanted.remove(&owner),
        };
        let then = core::mem::replace(&mut known.now, Sources::merged(known.wanted.values()));
        if then.mode != known.now.mode {
            // RFC 3376 §5.1: the mode with its sources says it all.
            known.mode_left = ROBUSTNESS;
            known.sources_left.clear();
        } else {
            for source in then.list.symmetric_difference(&known.now.list) {
                known.sources_left.insert(*source, ROBUSTNESS);
            }
        }
        let changed = then != known.now && is_told_of(group);
        if changed {
            known.change = Some(now);
        }
        let listened = (!then.is_none(), !known.now.is_none());
        if known.now.is_none() {
            known.answer = None;
        }
        if known.is_over() {
            self.groups.remove(&group);
        }
        listened.0 != listened.1
    }

    /// A router asks: RFC 3376 §5.2, RFC 3810 §6.2. Returns whether anything will be said.
    pub fn queried(&mut self, now: Instant, query: &Query) -> bool {
        if query.version != Version::Newest {
            let version = self.version(now).min(query.version);
            self.older = Some((version, now + OLDER_VERSION_PRESENT));
        }
        let (most, newest) = (query.max_delay.min(DELAY_MAX), self.version(now) == Version::Newest);
        let (key, mut draws) = (self.key, self.draws);
        let mut draw = || now + Duration::from_millis(draw(&key, &mut draws) % (most.as_millis() as u64 + 1));
        let mut any = false;
        if query.group.is_none() && newest {
            any = self.groups.iter().any(|(addr, group)| !group.now.is_none() && is_told_of(*addr));
            let at = draw();
            if any {
                self.answer_all = Some(self.answer_all.map_or(at, |earlier| earlier.min(at)));
            }
        } else {
            for (addr, known) in &mut self.groups {
                let meant = query.group.is_none_or(|group| group == *addr);
                if known.now.is_none() || !meant || !is_told_of(*addr) {
                    continue;
                }
                let at = draw();
                let asked: BTreeSet<IpAddr> = query.sources.iter().copied().collect();
                // One answer covers both: about all, or about the sources of both.
                known.answer = Some(match known.answer.take() {
                    None => (at, asked),
                    Some((earlier, about)) if about.is_empty() || asked.is_empty() => {
                        (earlier.min(at), BTreeSet::new())
                    }
                    Some((earlier, about)) => (earlier.min(at), about.union(&asked).copied().collect()),
                });
                any = true;
            }
        }
        self.draws = draws;
        any
    }

    /// Another host has told a router of an older version that it listens: once is enough (RFC 2236 §3,
    /// RFC 2710 §4).
    pub fn heard(&mut self, now: Instant, group: IpAddr) -> bool {
        let older = self.version(now) != Version::Newest;
        let known = self.groups.get_mut(&group).filter(|_| older);
        known.is_some_and(|known| known.answer.take().is_some())
    }

    fn version(&self, now: Instant) -> Version {
        self.older.filter(|(_, until)| now < *until).map_or(Version::Newest, |(version, _)| version)
    }

    /// When [`Groups::on_timer`] has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        let due = |group: &Group| [group.change, group.answer.as_ref().map(|(at, _)| *at)];
        self.groups.values().flat_map(due).flatten().chain(self.answer_all).min()
    }

    /// Everything due at `now` is told.
    pub fn on_timer(&mut self, now: Instant, mut sink: impl FnMut(Report)) {
        let version = self.version(now);
        let all = self.answer_all.is_some_and(|at| at <= now);
        if all {
            self.answer_all = None;
        }
        let (key, mut draws) = (self.key, self.draws);
        for (&group, known) in &mut self.groups {
            if known.change.is_some_and(|at| at <= now) {
                known.tell_change(group, version, &mut sink);
                let again = Duration::from_millis(draw(&key, &mut draws) % UNSOLICITED_INTERVAL_MS);
                known.change = known.is_untold().then(|| now + again);
            }
            let due = known.answer.take_if(|(at, _)| *at <= now);
            let about = due.map(|(_, about)| about).or_else(|| all.then(BTreeSet::new));
            if let Some(about) = about
                && !known.now.is_none()
                && is_told_of(group)
            {
                known.tell_state(group, &about, version, &mut sink);
            }
        }
        self.draws = draws;
        self.groups.retain(|_, known| !known.is_over());
    }
}

impl Group {
    fn is_untold(&self) -> bool {
        self.mode_left > 0 || !self.sources_left.is_empty()
    }

    fn is_over(&self) -> bool {
        self.wanted.is_empty() && self.change.is_none()
    }

    /// RFC 3376 §5.1, §7.2.1.
    fn tell_change(&mut self, group: IpAddr, version: Version, sink: &mut impl FnMut(Report)) {
        let report = |kind, sources| Report { kind, group, sources, version };
        if version != Version::Newest {
            // Without sources there is nothing to say but that one comes or goes.
            let kind = match self.now.is_none() {
                true => RecordKind::ChangeToInclude,
                false => RecordKind::ChangeToExclude,
            };
            let told = self.mode_left.max(self.sources_left.values().copied().max().unwrap_or(0));
            (self.mode_left, self.sources_left) = (told.saturating_sub(1), BTreeMap::new());
            return sink(report(kind, Vec::new()));
        }
        if self.mode_left > 0 {
            self.mode_left -= 1;
            let kind = match self.now.mode {
                Mode::Include => RecordKind::ChangeToInclude,
                Mode::Exclude => RecordKind::ChangeToExclude,
            };
            return sink(report(kind, self.now.list.iter().copied().collect()));
        }
        let wanted = |source: &&IpAddr| self.now.takes(**source);
        let (allowed, blocked): (Vec<&IpAddr>, Vec<&IpAddr>) = self.sources_left.keys().partition(wanted);
        for (kind, sources) in
            [(RecordKind::AllowNewSources, allowed), (RecordKind::BlockOldSources, blocked)]
        {
            if !sources.is_empty() {
                sink(report(kind, sources.into_iter().copied().collect()));
            }
        }
        self.sources_left.values_mut().for_each(|left| *left -= 1);
        self.sources_left.retain(|_, left| *left > 0);
    }

    /// RFC 3376 §5.2: the state of a group, or what is wanted of the sources that were asked about.
    fn tell_state(
        &self,
        group: IpAddr,
        about: &BTreeSet<IpAddr>,
        version: Version,
        sink: &mut impl FnMut(Report),
    ) {
        let (kind, sources) = match (about.is_empty(), self.now.mode) {
            (true, Mode::Include) => (RecordKind::ModeIsInclude, self.now.list.iter().copied().collect()),
            (true, Mode::Exclude) => (RecordKind::ModeIsExclude, self.now.list.iter().copied().collect()),
            (false, _) => {
                let wanted: Vec<IpAddr> = about.iter().filter(|s| self.now.takes(**s)).copied().collect();
                if wanted.is_empty() {
                    return;
                }
                (RecordKind::ModeIsInclude, wanted)
            }
        };
        sink(Report { kind, group, sources, version });
    }
}

fn draw(key: &HashKey, draws: &mut u64) -> u64 {
    *draws += 1;
    let mut hasher = key.hasher();
    hasher.write_u64(*draws);
    hasher.finish()
}

#[cfg(test)]
#[path = "groups_tests.rs"]
mod tests;
