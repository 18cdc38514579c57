//! Who shares rings with whom (INV-R4): made anew for each pair of generations, given to both,
//! taken back from the survivor when one dies.
//!
//! ```text
//! none ──both run──► made, mirrored ──acknowledged, both complete──► said ──one dies──► releasing ──► none
//! ```
//!
//! Rings are made as soon as both run: a vault then has them by the time at which both may be told.

use super::{ANSWER_MAX, Action, Policy, Then};
use crate::facts::{Fact, Pair};
use proto::Instant;
use proto::control::messages::ToDaemon;
use proto::id::{Generation, Seat};

/// What stands beside `Facts::links`.
#[derive(Debug, Default)]
pub(super) struct LinkState {
    /// Every live vault has the rings.
    kept: bool,
    /// Both were introduced.
    pub said: bool,
    /// One is dead; the other has until then to let go before somebody looks what it does.
    pub release_by: Option<Instant>,
}

impl Policy {
    /// Makes what is missing between those who run, and introduces those who were told everything.
    pub(super) fn link_up(&mut self, now: Instant) {
        if self.facts.stopping {
            return;
        }
        for pair in self.facts.pairs() {
            let (Some(first), Some(second)) = (self.facts.live(pair.first), self.facts.live(pair.second))
            else {
                continue;
            };
            if self.facts.links.contains_key(&pair) {
                self.introduce(now, pair);
                continue;
            }
            let generations = (first.generation, second.generation);
            self.links.insert(pair, LinkState::default());
            self.actions.push(Action::MakeLink { pair });
            self.deposit(now, Fact::Linked { pair, generations }, Then::Introduce { pair, generations });
        }
    }

    /// Every live vault has the rings of that pair.
    pub(super) fn rings_kept(&mut self, now: Instant, pair: Pair, generations: (Generation, Generation)) {
        if self.facts.links.get(&pair) == Some(&generations) {
            self.links.entry(pair).or_default().kept = true;
            self.introduce(now, pair);
        }
    }

    /// A vault more, which knows all once it acknowledges `number`: nobody is introduced over rings that it
    /// does not have.
    pub(super) fn keep_unsaid_rings(&mut self, number: u64) {
        for (&pair, link) in self.links.iter_mut().filter(|(_, link)| link.kept && !link.said) {
            if let Some(&generations) = self.facts.links.get(&pair) {
                link.kept = false;
                self.waiting.push_back((number, Then::Introduce { pair, generations }));
            }
        }
    }

    /// Introduces a pair to each other, once, when both may be told.
    fn introduce(&mut self, now: Instant, pair: Pair) {
        if self.links.get(&pair).is_some_and(|link| link.kept && !link.said) && self.may_meet(pair) {
            self.links.entry(pair).or_default().said = true;
            self.say_introduced(now, pair);
        }
    }

    /// Whether those who share the rings live, and were told everything.
    fn may_meet(&self, pair: Pair) -> bool {
        self.facts.links.get(&pair).is_some_and(|&(first, second)| {
            let alive = self.facts.is_live(pair.first, first) && self.facts.is_live(pair.second, second);
            alive && self.facts.is_complete(pair.first) && self.facts.is_complete(pair.second)
        })
    }

    fn say_introduced(&mut self, now: Instant, pair: Pair) {
        let Some(&(first, second)) = self.facts.links.get(&pair) else { return };
        self.actions.push(Action::Introduce { to: pair.first, peer: pair.second, generation: second });
        self.actions.push(Action::Introduce { to: pair.second, peer: pair.first, generation: first });
        self.all_ready(now);
    }

    /// `seat` has died: its peers let go, or there is nobody who could hold on.
    pub(super) fn unlink(&mut self, now: Instant, seat: Seat) {
        let links: Vec<Pair> = self.facts.links.keys().copied().filter(|pair| pair.has(seat)).collect();
        for pair in links {
            let said = self.links.get(&pair).is_some_and(|link| link.said);
            if said && self.survivor(pair).is_some() {
                self.ask_release(now, pair);
            } else {
                self.unlinked(now, pair);
            }
        }
        self.link_up(now);
    }

    pub(super) fn released(&mut self, now: Instant, from: Seat, peer: Seat, generation: Generation) {
        let Some(pair) = Pair::of(from, peer) else { return };
        let Some(&generations) = self.facts.links.get(&pair) else { return };
        let linked = if peer == pair.first { generations.0 } else { generations.1 };
        if linked == generation && !self.facts.is_live(peer, generation) {
            self.unlinked(now, pair);
            self.link_up(now);
        }
    }

    /// After a take-over: says again what may not have been said.
    pub(super) fn relink(&mut self, now: Instant) {
        let links: Vec<_> =
            self.facts.links.iter().map(|(&pair, &generations)| (pair, generations)).collect();
        for (pair, generations) in links {
            // Perhaps: whoever was not introduced has nothing to let go of, and says so.
            self.links.insert(pair, LinkState { kept: true, said: true, release_by: None });
            let first = self.facts.is_live(pair.first, generations.0);
            let second = self.facts.is_live(pair.second, generations.1);
            match (first, second) {
                (true, true) if self.may_meet(pair) => self.say_introduced(now, pair),
                // The one who was not told everything is killed.
                (true, true) => {}
                (false, false) => self.unlinked(now, pair),
                _ => self.ask_release(now, pair),
            }
        }
        self.link_up(now);
    }

    /// Passes on where a daemon waits for its peer's ipc-channel.
    pub(super) fn rendezvous(&mut self, seat: Seat, generation: Generation, peer: Seat, name: String) {
        let Some(pair) = Pair::of(seat, peer) else { return };
        if self.survivor(pair).is_none() && self.links.get(&pair).is_some_and(|link| link.said) {
            self.tell(peer, ToDaemon::Rendezvous { peer: seat, generation, name });
        }
    }

    pub(super) fn release_due(&mut self, now: Instant) {
        let late = |(&pair, link): (&Pair, &mut LinkState)| {
            link.release_by.take_if(|by| *by <= now).map(|_| {
                link.release_by = Some(now + ANSWER_MAX);
                pair
            })
        };
        let late: Vec<Pair> = self.links.iter_mut().filter_map(late).collect();
        for pair in late {
            if let Some((survivor, _)) = self.survivor(pair) {
                let generation = self.generation_of(survivor);
                self.suspect(now, survivor, generation);
            }
        }
    }

    fn ask_release(&mut self, now: Instant, pair: Pair) {
        let Some((survivor, (peer, generation))) = self.survivor(pair) else { return };
        self.links.entry(pair).or_default().release_by = Some(now + ANSWER_MAX);
        self.tell(survivor, ToDaemon::PeerGone { peer, generation });
    }

    fn unlinked(&mut self, now: Instant, pair: Pair) {
        self.links.remove(&pair);
        self.note(now, Fact::Unlinked { pair });
        self.actions.push(Action::ForgetLink { pair });
    }

    /// Who of a linked pair lives while the other, that incarnation, is dead.
    fn survivor(&self, pair: Pair) -> Option<(Seat, (Seat, Generation))> {
        let &(first, second) = self.facts.links.get(&pair)?;
        let lives = (self.facts.is_live(pair.first, first), self.facts.is_live(pair.second, second));
        match lives {
            (true, false) => Some((pair.first, (pair.second, second))),
            (false, true) => Some((pair.second, (pair.first, first))),
            _ => None,
        }
    }

    fn generation_of(&self, seat: Seat) -> Generation {
        self.facts.live(seat).map(|live| live.generation).unwrap_or_default()
    }
}
