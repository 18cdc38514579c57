//! The deadlines of one connection: levels, not callbacks.
//!
//! Owned by the control block. A deadline is a time of the host's clock or none; the earliest is
//! what the stack's timer wheel has to know. Nothing here decides what an expiry means.

use core::time::Duration;

use proto::time::Instant;

/// A point in time, or never. Takes eight bytes, which `Option<Instant>` would not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(u64);

impl Deadline {
    /// Never.
    pub const NEVER: Deadline = Deadline(u64::MAX);

    /// At this time; the last nanosecond of the clock is the same as never.
    pub const fn at(time: Instant) -> Self {
        Deadline(time.nanos())
    }

    /// Whether it is set.
    pub const fn is_set(self) -> bool {
        self.0 != u64::MAX
    }

    /// The time, if set.
    pub const fn time(self) -> Option<Instant> {
        if self.is_set() { Some(Instant::from_nanos(self.0)) } else { None }
    }

    /// Whether it is set and `now` has reached it.
    pub const fn is_due(self, now: Instant) -> bool {
        self.is_set() && self.0 <= now.nanos()
    }
}

impl Default for Deadline {
    fn default() -> Self {
        Deadline::NEVER
    }
}

/// What the one timer of the sending side stands for: they exclude each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SendTimer {
    /// Not running.
    #[default]
    Off,
    /// Retransmission time-out (RFC 6298 §5).
    Retransmission,
    /// Tail loss probe time-out (RFC 8985 §7.2).
    TailLossProbe,
    /// The end of the reordering window (RFC 8985 §6.2 step 5).
    Reordering,
    /// Zero-window probe (RFC 9293 §3.8.6.1).
    Persist,
}

/// All deadlines of a connection.
#[derive(Debug, Clone, Copy, Default)]
pub struct Timers {
    /// What `send` stands for.
    pub send_timer: SendTimer,
    /// The sending side's deadline.
    pub send: Deadline,
    /// An acknowledgement is held back until then (RFC 9293 §3.8.6.3).
    pub delayed_ack: Deadline,
    /// Keepalive (RFC 9293 §3.8.4); looked at lazily, so it may be earlier than needed.
    pub keepalive: Deadline,
    /// The end of TIME-WAIT, or of an orphan's FIN-WAIT-2.
    pub lifetime: Deadline,
    /// When the next segments after a resume may leave.
    pub pace: Deadline,
}

impl Timers {
    /// The earliest deadline.
    pub fn next(&self) -> Option<Instant> {
        self.send.min(self.delayed_ack).min(self.keepalive).min(self.lifetime).min(self.pace).time()
    }

    /// Arms the sending side's timer.
    pub fn arm_send(&mut self, timer: SendTimer, now: Instant, after: Duration) {
        self.send_timer = timer;
        self.send = Deadline::at(now + after);
    }

    /// Stops the sending side's timer.
    pub fn stop_send(&mut self) {
        self.send_timer = SendTimer::Off;
        self.send = Deadline::NEVER;
    }

    /// Stops everything.
    pub fn stop_all(&mut self) {
        *self = Timers::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_counts() {
        let mut timers = Timers::default();
        assert_eq!(timers.next(), None);
        timers.lifetime = Deadline::at(Instant::from_millis(60));
        timers.arm_send(SendTimer::Persist, Instant::from_millis(10), Duration::from_millis(40));
        assert_eq!(timers.next(), Some(Instant::from_millis(50)));
        assert!(timers.send.is_due(Instant::from_millis(50)));
        assert!(!timers.send.is_due(Instant::from_millis(49)));
        timers.stop_send();
        assert_eq!(timers.next(), Some(Instant::from_millis(60)));
        timers.stop_all();
        assert_eq!(timers.next(), None);
    }
}
