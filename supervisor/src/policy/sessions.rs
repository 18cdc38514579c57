//! Sessions: kept for sockd, passed to every netd, dropped when sockd says so.

use super::{Action, Asker, Policy, Then};
use crate::facts::{Fact, Session};
use proto::Instant;
use proto::arena::Geometry;
use proto::control::messages::ToDaemon;
use proto::id::{Role, Seat, SessionId};

/// errno when the vaults have no room for another session.
const EMFILE: u32 = rustix::io::Errno::MFILE.raw_os_error().cast_unsigned();

impl Policy {
    pub(super) fn keep_session(
        &mut self,
        now: Instant,
        session: SessionId,
        geometry: Geometry,
        asker: Asker,
    ) {
        match self.facts.sessions.get(&session) {
            // The answer is under way; a repetition has the same number.
            Some(_) if self.unkept.contains(&session) => {}
            Some(_) => self.answer(asker),
            None if self.facts.sessions.len() >= self.sessions_max => {
                self.actions.push(Action::ForgetSession { session });
                self.tell(asker.seat, ToDaemon::Refused { request: asker.request, errno: EMFILE });
            }
            None => {
                self.unkept.insert(session);
                self.deposit(now, Fact::Session { session, geometry }, Then::Pass { session, asker });
            }
        }
    }

    /// Every live vault has it: the netds that run hear of it, then sockd. One that has not been
    /// welcomed yet hears of it then.
    pub(super) fn pass(&mut self, now: Instant, session: SessionId, asker: Asker) {
        self.unkept.remove(&session);
        if self.facts.sessions.contains_key(&session) {
            self.pass_to_all(session);
            if !self.passing.contains_key(&session) {
                self.note(now, Fact::Passed { session });
            }
        }
        self.answer(asker);
    }

    fn pass_to_all(&mut self, session: SessionId) {
        let netds: Vec<Seat> = (self.facts.seats.keys().copied())
            .filter(|&seat| seat.role == Role::Netd && self.was_welcomed(seat))
            .collect();
        for &to in &netds {
            self.actions.push(Action::Pass { to, session });
            self.passing.entry(session).or_default().insert(to);
        }
    }

    /// Its welcome listed the sessions of that time, so it has to hear of each new one.
    fn was_welcomed(&self, seat: Seat) -> bool {
        let Some(live) = self.facts.live(seat) else { return false };
        let welcome = Then::Welcome { seat, generation: live.generation };
        !self.waiting.iter().any(|(_, then)| *then == welcome)
    }

    /// What was said to `seat` has left this process, or `seat` is dead.
    pub(super) fn passed_to(&mut self, now: Instant, seat: Seat) {
        let mut done = Vec::new();
        for (&session, seats) in &mut self.passing {
            if seats.remove(&seat) && seats.is_empty() {
                done.push(session);
            }
        }
        for session in done {
            self.passing.remove(&session);
            if self.facts.sessions.contains_key(&session) {
                self.note(now, Fact::Passed { session });
            }
        }
    }

    /// After a take-over: what may not have been passed.
    pub(super) fn pass_again(&mut self) {
        let unpassed = |(&session, facts): (&SessionId, &Session)| (!facts.passed).then_some(session);
        let sessions: Vec<SessionId> = self.facts.sessions.iter().filter_map(unpassed).collect();
        for session in sessions {
            self.pass_to_all(session);
        }
    }

    pub(super) fn drop_session(&mut self, now: Instant, session: SessionId, asker: Asker) {
        if self.facts.sessions.contains_key(&session) {
            self.passing.remove(&session);
            self.note(now, Fact::SessionOver { session });
            self.actions.push(Action::ForgetSession { session });
        }
        self.answer(asker);
    }
}
