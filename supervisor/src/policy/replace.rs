//! Replacing a daemon that runs by the program that lies there now, when somebody asks for it.
//!
//! The program is asked first which layouts it speaks; one that does not fit is not started, and
//! the daemon goes on untouched. The replacement itself is a death from outside like any other.

use super::{Action, Asker, Fault, Policy};
use proto::control::messages::ToDaemon;
use proto::id::{Generation, Seat};

impl Policy {
    pub(super) fn restart(&mut self, seat: Seat, generation: Generation, asker: Asker) {
        if !self.facts.seats.contains_key(&seat) {
            return self.say_restarted(asker, Err(format!("there is no {seat}")));
        }
        if self.facts.is_live(seat, generation) {
            self.actions.push(Action::Inspect { seat, generation, asker });
        } else {
            // Dead already: whoever comes after it is of the program that lies there.
            self.say_restarted(asker, Ok(()));
        }
    }

    pub(super) fn inspected(
        &mut self,
        seat: Seat,
        generation: Generation,
        asker: Asker,
        verdict: Result<(), String>,
    ) {
        let fits = verdict.is_ok();
        // First the answer: it may be its own end that sockd asked for.
        self.say_restarted(asker, verdict);
        if fits {
            self.condemn(seat, generation, Fault::Silent);
        }
    }

    fn say_restarted(&mut self, asker: Asker, result: Result<(), String>) {
        if self.facts.is_live(asker.seat, asker.generation) {
            self.tell(asker.seat, ToDaemon::Restarted { request: asker.request, result });
        }
    }
}
