//! A seat's life: started, welcomed, ready, ended, started again.

use super::{Action, FIRST_STARTS_MAX, Fault, Policy, Report, START_MAX, Then};
use crate::facts::{FAILURE_WINDOW, Fact, Stage};
use core::time::Duration;
use proto::Instant;
use proto::control::messages::{Ended, ToDaemon};
use proto::daemon::{EXIT_MISSING, EXIT_REFUSED};
use proto::id::{Generation, Role, Seat};

/// The longest delay before a start (DESIGN §7).
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// The delay after the third failure within [`FAILURE_WINDOW`]; doubles with each further one.
const BACKOFF_FIRST: Duration = Duration::from_millis(125);
/// Failures that are followed by a start at once.
const FREE_FAILURES: usize = 2;

/// How long a seat with those failures waits before it is started.
pub(super) fn backoff(now: Instant, failures: &[Instant]) -> Duration {
    let recent = failures.iter().filter(|&&at| now.since(at) < FAILURE_WINDOW).count();
    match recent.checked_sub(FREE_FAILURES + 1) {
        None => Duration::ZERO,
        Some(more) => BACKOFF_FIRST.saturating_mul(1 << more.min(8)).min(BACKOFF_MAX),
    }
}

impl Policy {
    pub(super) fn begin(&mut self, now: Instant) {
        self.start_standby(now);
        let seats: Vec<Seat> = self.facts.seats.keys().copied().collect();
        for seat in seats {
            self.actions.push(Action::Spawn { seat });
        }
    }

    /// Continues from what the standby was told. Who had not been told everything is started anew;
    /// everybody else repeats what has no answer, and hears again what may have been lost.
    pub(super) fn take_over(&mut self, now: Instant) {
        self.start_standby(now);
        let seats: Vec<Seat> = self.facts.seats.keys().copied().collect();
        for &seat in &seats {
            match self.facts.live(seat) {
                Some(live) if live.stage >= Stage::Complete => self.tell(seat, ToDaemon::TakeOver),
                Some(live) => self.kill(seat, live.generation),
                None => self.start_when_due(now, seat),
            }
        }
        self.relink(now);
        self.pass_again();
        if self.facts.stopping {
            self.stop(now);
        }
    }

    pub(super) fn spawned(&mut self, now: Instant, seat: Seat, pid: u32) {
        let Some(facts) = self.facts.seats.get(&seat) else { return };
        assert!(facts.live.is_none(), "{seat} started beside its predecessor");
        let generation = facts.generation.next();
        let fact = Fact::Spawned { seat, generation, pid, at: now.nanos() };
        self.deposit(now, fact, Then::Welcome { seat, generation });
        self.link_up(now);
        if self.facts.stopping {
            self.kill(seat, generation);
        }
    }

    /// Counts as a failure: the program is missing, or the machine has no room for a process.
    pub(super) fn not_spawned(&mut self, now: Instant, seat: Seat) {
        let Some(facts) = self.facts.seats.get(&seat) else { return };
        let generation = facts.generation;
        let failed_at = Some(now.nanos());
        self.note(now, Fact::Ended { seat, generation, ended: Ended::Unknown, failed_at, refused: false });
        self.after_the_end(now, seat, Ended::Unknown);
    }

    pub(super) fn welcome(&mut self, seat: Seat, generation: Generation) {
        if !self.facts.is_live(seat, generation) || self.facts.stopping {
            return;
        }
        let predecessor = self.facts.seats.get(&seat).and_then(|facts| facts.last_end);
        let sessions = match seat.role {
            Role::Netd | Role::Sockd => {
                self.facts.sessions.keys().copied().filter(|name| !self.unkept.contains(name)).collect()
            }
            Role::Nicd | Role::Supervisor | Role::Standby => Vec::new(),
        };
        self.actions.push(Action::Welcome { seat, generation, predecessor, sessions });
    }

    /// The welcome has left this process.
    pub(super) fn told_everything(&mut self, now: Instant, seat: Seat, generation: Generation) {
        if self.facts.live(seat).is_some_and(|live| live.stage == Stage::Spawned) {
            self.note(now, Fact::Reached { seat, generation, stage: Stage::Complete });
            self.link_up(now);
        }
    }

    pub(super) fn ready(&mut self, now: Instant, seat: Seat, generation: Generation) {
        if self.facts.live(seat).is_some_and(|live| live.stage == Stage::Complete) {
            self.note(now, Fact::Reached { seat, generation, stage: Stage::Ready });
            self.all_ready(now);
        }
    }

    /// Says once that the group has come up.
    pub(super) fn all_ready(&mut self, now: Instant) {
        let ready = |facts: &crate::facts::SeatFacts| facts.live.is_some_and(|l| l.stage == Stage::Ready);
        let introduced = self.facts.pairs().iter().all(|pair| self.links.get(pair).is_some_and(|l| l.said));
        if !self.facts.started && introduced && self.facts.seats.values().all(ready) {
            self.note(now, Fact::Started);
            self.actions.push(Action::Report(Report::Started));
        }
    }

    pub(super) fn ended(&mut self, now: Instant, seat: Seat, generation: Generation, ended: Ended) {
        if !self.facts.is_live(seat, generation) {
            return;
        }
        let own_fault = match self.doomed.remove(&seat) {
            Some(Fault::Misbehaved) => true,
            Some(Fault::Silent) | None => !ended.from_outside(),
        };
        let missing = ended == Ended::Exit(i32::from(EXIT_MISSING)) && !self.facts.started;
        let refused = ended == Ended::Exit(i32::from(EXIT_REFUSED)) || missing;
        let failed_at = (own_fault && !self.facts.stopping).then(|| now.nanos());
        self.note(now, Fact::Ended { seat, generation, ended, failed_at, refused });
        self.actions.push(Action::ForgetIncarnation { seat });
        self.suspects.remove(&seat);
        self.passed_to(now, seat);
        self.unlink(now, seat);
        self.after_the_end(now, seat, ended);
    }

    fn after_the_end(&mut self, now: Instant, seat: Seat, ended: Ended) {
        if self.facts.stopping {
            return;
        }
        let facts = &self.facts.seats[&seat];
        let hopeless = facts.refused || facts.failures.len() >= FIRST_STARTS_MAX;
        if hopeless && !self.facts.started {
            self.actions.push(Action::Report(Report::Failed { seat, ended }));
            self.stop(now);
            return;
        }
        self.start_when_due(now, seat);
    }

    fn start_when_due(&mut self, now: Instant, seat: Seat) {
        let facts = &self.facts.seats[&seat];
        if facts.refused || self.facts.stopping {
            return;
        }
        // After a take-over the last failure may lie back: its delay runs from then.
        let since = facts.failures.last().copied().unwrap_or(now);
        let due = since + backoff(now, &facts.failures);
        self.spawn_at.insert(seat, due.max(now));
    }

    pub(super) fn spawn_due(&mut self, now: Instant) {
        while let Some((&seat, _)) = self.spawn_at.iter().find(|&(_, &at)| at <= now) {
            self.spawn_at.remove(&seat);
            self.actions.push(Action::Spawn { seat });
        }
    }

    pub(super) fn start_due(&mut self, now: Instant) {
        let late: Vec<_> = self.unready().filter(|(_, live)| live.started_at + START_MAX <= now).collect();
        for (seat, live) in late {
            self.condemn(seat, live.generation, Fault::Misbehaved);
        }
    }

    /// Kills an incarnation for a fault of its own, once.
    pub(super) fn condemn(&mut self, seat: Seat, generation: Generation, fault: Fault) {
        if self.facts.is_live(seat, generation) && !self.doomed.contains_key(&seat) {
            self.doomed.insert(seat, fault);
            self.kill(seat, generation);
        }
    }

    pub(super) fn kill(&mut self, seat: Seat, generation: Generation) {
        self.actions.push(Action::Kill { seat, generation });
    }
}
