//! The other supervisor, seen from the active one: started, told the past, then every fact; looked at
//! when it does not acknowledge, and killed when it stands still; replaced when it ends.

use super::seats::backoff;
use super::suspicion::{LOOK_AGAIN, Suspicion, Verdict};
use super::{ANSWER_MAX, Action, Policy, Sample};
use crate::facts::{FAILURE_WINDOW, Fact};
use core::time::Duration;
use proto::Instant;
use proto::control::messages::Ended;

/// How long a standby may take from its start to its hello.
const HELLO_MAX: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub(super) struct Standby {
    state: State,
    failures: Vec<Instant>,
    killed: bool,
    /// It has not acknowledged for [`ANSWER_MAX`]: hung, or starved of a core.
    suspicion: Option<Suspicion>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    None,
    /// To be started then.
    Due(Instant),
    /// Asked for, or running, but not yet told anything.
    Started { at: Instant },
    /// Told the past, and every fact since; `acked` of them have been acknowledged.
    Told { acked: u64, sent: u64, unacked_since: Instant },
}

impl Standby {
    /// Whether it is a live vault: one that may take over.
    pub(super) fn is_told(&self) -> bool {
        matches!(self.state, State::Told { .. })
    }

    pub(super) fn sent(&mut self, now: Instant, number: u64) {
        if let State::Told { acked, sent, unacked_since } = &mut self.state {
            if acked == sent {
                *unacked_since = now;
            }
            *sent = number;
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::None => None,
            State::Due(at) => Some(at),
            _ if self.killed => None,
            State::Started { at } => Some(at + HELLO_MAX),
            State::Told { acked, sent, unacked_since } => {
                let look_at = self.suspicion.as_ref().and_then(|suspicion| suspicion.look_at);
                (acked < sent).then(|| look_at.unwrap_or(unacked_since + ANSWER_MAX))
            }
        }
    }
}

impl Policy {
    /// Whether there is a standby that could take over.
    pub fn standby_is_told(&self) -> bool {
        self.standby.is_told()
    }

    pub(super) fn start_standby(&mut self, now: Instant) {
        let newest = self.facts.active.generation.max(self.facts.standby.generation);
        self.standby.state = State::Started { at: now };
        self.standby.killed = false;
        self.actions.push(Action::SpawnStandby { generation: newest.next() });
    }

    pub(super) fn standby_spawned(&mut self, now: Instant, pid: u32) {
        let generation = self.facts.active.generation.max(self.facts.standby.generation).next();
        self.note(now, Fact::Standby { generation, pid, at: now.nanos() });
    }

    pub(super) fn standby_hello(&mut self, now: Instant) {
        if !matches!(self.standby.state, State::Started { .. }) {
            return;
        }
        let facts = self.facts.retold();
        let acked = self.mirrored;
        self.mirrored += facts.len() as u64;
        self.standby.state = State::Told { acked, sent: self.mirrored, unacked_since: now };
        self.actions.push(Action::Transfer { number: self.mirrored, facts });
        self.keep_unsaid_rings(self.mirrored);
    }

    pub(super) fn acked(&mut self, now: Instant, number: u64) {
        let State::Told { acked, sent, unacked_since } = &mut self.standby.state else { return };
        if number <= *acked || number > *sent {
            return;
        }
        *acked = number;
        *unacked_since = now;
        self.standby.suspicion = None;
        while self.waiting.front().is_some_and(|&(waits_for, _)| waits_for <= number) {
            let (_, then) = self.waiting.pop_front().expect("looked at in the line above");
            self.follow(now, then);
        }
    }

    /// It holds nothing any more: what waited for it goes on, and another one is started.
    pub(super) fn standby_ended(&mut self, now: Instant, ended: Ended) {
        self.standby.state = State::None;
        self.standby.killed = false;
        self.standby.suspicion = None;
        let restarts = self.facts.standby.restarts + 1;
        self.note(now, Fact::StandbyEnded { ended, restarts });
        while let Some((_, then)) = self.waiting.pop_front() {
            self.follow(now, then);
        }
        if self.facts.stopping {
            return;
        }
        self.standby.failures.retain(|&at| now.since(at) < FAILURE_WINDOW);
        if !ended.from_outside() {
            self.standby.failures.push(now);
        }
        self.standby.state = State::Due(now + backoff(now, &self.standby.failures));
    }

    pub(super) fn standby_due(&mut self, now: Instant) {
        if self.standby.deadline().is_none_or(|by| by > now) {
            return;
        }
        match self.standby.state {
            State::Due(_) => self.start_standby(now),
            State::Told { .. } => {
                // Until the answer comes, as if it had been looked at now.
                let generation = self.facts.standby.generation;
                let suspicion = self.standby.suspicion.get_or_insert_with(|| Suspicion::new(now, generation));
                suspicion.look_at = Some(now + LOOK_AGAIN);
                self.actions.push(Action::ProbeStandby);
            }
            _ => self.kill_standby(),
        }
    }

    /// Stopped, or asleep over two looks: hung. Without a core it is given time (DESIGN §6).
    pub(super) fn standby_probed(&mut self, now: Instant, sample: Sample) {
        let Some(suspicion) = &mut self.standby.suspicion else { return };
        if suspicion.judge(now, sample) == Verdict::Guilty {
            self.kill_standby();
        }
    }

    /// Once: from then on its pidfd is waited for.
    pub(super) fn kill_standby(&mut self) {
        if !self.standby.killed {
            self.standby.killed = true;
            self.actions.push(Action::KillStandby);
        }
    }
}
