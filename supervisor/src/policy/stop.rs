//! The end of the group: everybody is asked, then killed, and the last one out cleans up.

use super::{Action, Policy, STOP_MAX};
use crate::facts::{Fact, Stage};
use proto::Instant;
use proto::control::messages::ToDaemon;

impl Policy {
    /// Asks everybody to finish. Again after a take-over, which is harmless.
    pub(super) fn stop(&mut self, now: Instant) {
        if self.stop_by.is_some() {
            return;
        }
        if !self.facts.stopping {
            self.note(now, Fact::Stopping);
        }
        self.spawn_at.clear();
        self.stop_by = Some(now + STOP_MAX);
        let lives: Vec<_> =
            (self.facts.seats.iter()).filter_map(|(&seat, facts)| Some((seat, facts.live?))).collect();
        for (seat, live) in lives {
            match live.stage {
                Stage::Spawned => self.kill(seat, live.generation),
                Stage::Complete | Stage::Ready => self.tell(seat, ToDaemon::Stop),
            }
        }
    }

    pub(super) fn stop_due(&mut self, now: Instant) {
        let Some(by) = self.stop_by else { return };
        let lives: Vec<_> = (self.facts.seats.iter())
            .filter_map(|(&seat, facts)| Some((seat, facts.live?.generation)))
            .collect();
        if lives.is_empty() {
            if !self.exiting {
                self.exiting = true;
                self.actions.push(Action::Exit);
            }
        } else if by <= now {
            self.stop_by = Some(now + STOP_MAX);
            lives.into_iter().for_each(|(seat, generation)| self.kill(seat, generation));
        }
    }
}
