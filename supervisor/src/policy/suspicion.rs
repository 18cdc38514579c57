//! Somebody complains that a daemon stands still. The supervisor looks for itself.
//!
//! Stopped: killed at once. Asleep while work waits, over two looks: killed. Runnable but without
//! a core: given [`STARVED_MAX`]. Running: acquitted, unless the complaints go on for as long.

use super::{Action, Fault, Policy};
use core::time::Duration;
use proto::Instant;
use proto::id::{Generation, Seat};

/// Time between two looks at a suspect.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// A starved process gets 2 s (DESIGN §6); the first 500 ms of them have passed with the one who
/// complains.
const STARVED_MAX: Duration = Duration::from_millis(1500);
/// A complaint so long after the last one is a new one. Complaints come every 500 ms.
const FORGOTTEN: Duration = Duration::from_millis(1200);

/// What the kernel says of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// The state's letter in /proc/PID/stat, proc_pid_stat(5).
    pub state: u8,
    /// Time on a core in nanoseconds, /proc/PID/schedstat.
    pub ran_ns: u64,
}

#[derive(Debug)]
pub(super) struct Suspicion {
    generation: Generation,
    since: Instant,
    last_complaint: Instant,
    first: Option<Sample>,
    /// When to look again.
    pub(super) look_at: Option<Instant>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Guilty,
    LookAgain,
    Acquitted,
}

impl Suspicion {
    pub(super) fn new(now: Instant, generation: Generation) -> Suspicion {
        Suspicion { generation, since: now, last_complaint: now, first: None, look_at: None }
    }

    pub(super) fn judge(&mut self, now: Instant, sample: Sample) -> Verdict {
        let long = now.since(self.since) >= STARVED_MAX;
        let Some(first) = self.first else {
            self.first = Some(sample);
            return match sample.state {
                b'T' | b't' => Verdict::Guilty,
                _ => Verdict::LookAgain,
            };
        };
        let ran = sample.ran_ns > first.ran_ns;
        match sample.state {
            b'T' | b't' => Verdict::Guilty,
            b'Z' | b'X' => Verdict::Acquitted,
            _ if ran && !long => Verdict::Acquitted,
            b'R' if !long => Verdict::LookAgain,
            _ => Verdict::Guilty,
        }
    }
}

impl Policy {
    pub(super) fn suspect(&mut self, now: Instant, seat: Seat, generation: Generation) {
        if !self.facts.is_live(seat, generation) || self.doomed.contains_key(&seat) {
            return;
        }
        let suspicion = self.suspects.entry(seat).or_insert_with(|| Suspicion::new(now, generation));
        if suspicion.generation != generation || now.since(suspicion.last_complaint) > FORGOTTEN {
            *suspicion = Suspicion::new(now, generation);
        }
        suspicion.last_complaint = now;
        if suspicion.look_at.is_none() {
            suspicion.first = None;
            self.actions.push(Action::Probe { seat, generation });
        }
    }

    pub(super) fn probed(&mut self, now: Instant, seat: Seat, generation: Generation, sample: Sample) {
        let Some(suspicion) = self.suspects.get_mut(&seat) else { return };
        if suspicion.generation != generation {
            return;
        }
        suspicion.look_at = None;
        match suspicion.judge(now, sample) {
            Verdict::Guilty => self.condemn(seat, generation, Fault::Silent),
            Verdict::LookAgain => suspicion.look_at = Some(now + LOOK_AGAIN),
            Verdict::Acquitted => {}
        }
    }

    pub(super) fn look_due(&mut self, now: Instant) {
        for (&seat, suspicion) in &mut self.suspects {
            if suspicion.look_at.take_if(|at| *at <= now).is_some() {
                let generation = suspicion.generation;
                self.actions.push(Action::Probe { seat, generation });
            }
        }
    }
}
