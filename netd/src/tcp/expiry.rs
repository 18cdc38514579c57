//! What time does: time-outs, probes and the end of waiting (RFC 6298 §5, RFC 8985 §7,
//! RFC 9293 §3.8.3 to §3.8.6).

use core::time::Duration;

use proto::time::Instant;

use super::congestion::initial_window;
use super::control_block::{ControlBlock, RttProbe};
use super::reaction::Reaction;
use super::recovery::Phase;
use super::seq::Position;
use super::state::{Failure, State};
use super::timers::{Deadline, SendTimer};

/// RFC 9293 §3.8.3, R2, as a count: Linux (tcp_retries2); 924 s and more.
pub const RETRIES_MAX: u8 = 15;

/// SYN retransmissions of an active open: Linux (tcp_syn_retries); 127 s.
pub const SYN_RETRIES_MAX: u8 = 6;

/// SYN-ACK retransmissions: Linux (tcp_synack_retries).
pub const SYN_ACK_RETRIES_MAX: u8 = 5;

/// Unanswered tries of a connection nobody owns any more: Linux (tcp_orphan_retries).
pub const ORPHAN_RETRIES_MAX: u8 = 8;

/// How often this host tries before it gives a connection up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MostTries {
    /// A SYN.
    pub syn: u8,
    /// A SYN-ACK.
    pub syn_ack: u8,
    /// Anything later.
    pub data: u8,
    /// The same, of a connection that nobody owns any more.
    pub orphaned: u8,
}

impl Default for MostTries {
    fn default() -> Self {
        MostTries {
            syn: SYN_RETRIES_MAX,
            syn_ack: SYN_ACK_RETRIES_MAX,
            data: RETRIES_MAX,
            orphaned: ORPHAN_RETRIES_MAX,
        }
    }
}

/// Zero-window probes an orphan gets though they are answered: the remote must not hold what
/// nobody owns for ever.
const ORPHAN_PERSIST_MAX: u8 = 8;

/// After a resume this much may leave each [`RESUME_PACE`] until the remote has spoken (INV-T6).
pub(super) const RESUME_SEGMENTS: u32 = 2;

/// See [`RESUME_SEGMENTS`].
pub(super) const RESUME_PACE: Duration = Duration::from_millis(1);

impl ControlBlock {
    /// Deadlines were reached: to be called when `now` is at or past [`Self::next_deadline`]. Then
    /// [`Self::poll_output`] has what they make leave.
    pub fn on_timer(&mut self, now: Instant, most: &MostTries) -> Reaction {
        if self.timers.lifetime.is_due(now) {
            return self.finish_orderly();
        }
        if self.timers.delayed_ack.is_due(now) {
            self.timers.delayed_ack = Deadline::NEVER;
            self.ack_now = true;
        }
        if self.timers.pace.is_due(now) {
            self.on_pace();
        }
        if self.timers.keepalive.is_due(now)
            && let Some(ended) = self.on_keepalive(now)
        {
            return ended;
        }
        if self.timers.send.is_due(now) {
            return match self.timers.send_timer {
                SendTimer::Off => Reaction::none(),
                SendTimer::Retransmission => self.on_retransmission(now, most),
                SendTimer::TailLossProbe => self.on_tail_loss_probe(now),
                SendTimer::Reordering => self.on_reordering_timer(now),
                SendTimer::Persist => self.on_persist(now, most),
            };
        }
        Reaction::none()
    }

    /// RFC 6298 §5.4 to §5.7, RFC 9293 §3.8.3.
    fn on_retransmission(&mut self, now: Instant, most: &MostTries) -> Reaction {
        self.timers.stop_send();
        if self.send.in_flight() == 0 {
            return Reaction::none();
        }
        if !self.stalled_since.is_set() {
            // RFC 5482 §2: how long data may remain unacknowledged counts from when it was sent.
            self.stalled_since = Deadline::at(self.sent.front().map_or(now, |front| front.sent));
        }
        if self.is_given_up(now, most) {
            return self.give_up();
        }
        self.retries = self.retries.saturating_add(1);
        self.suspect_black_hole(now);
        self.rtt_probe = RttProbe::default();
        self.tail_probe.end = Position::SYN;
        self.tail_probe.due = false;
        self.rtt.back_off();
        match self.state {
            State::SynSent | State::SynReceived => self.syn_due = true,
            _ => {
                let srtt = self.rtt.srtt().unwrap_or(Duration::ZERO);
                let (recovery, mut parts) = self.recovering();
                recovery.on_timeout(now, srtt, &mut parts);
                if self.agreed.ecn {
                    self.ecn.on_reduced(self.send.nxt);
                }
                // The time-out is a pace of its own: what a resume allowed at first may be used up,
                // and then nothing else would ever leave.
                self.resume_credit = self.resume_credit.max(self.mss());
            }
        }
        let after = self.rtt.rto().min(self.patience(now));
        self.timers.arm_send(SendTimer::Retransmission, now, after);
        Reaction::none()
    }

    /// What is left of the user time-out (RFC 5482 §2): the timer doesn't run beyond it.
    fn patience(&self, now: Instant) -> Duration {
        match (self.options.user_timeout, self.stalled_since.time()) {
            (Some(timeout), Some(since)) => timeout.saturating_sub(now.since(since)),
            _ => Duration::MAX,
        }
    }

    /// RFC 9293 §3.8.3: whether R2 is reached.
    fn is_given_up(&self, now: Instant, most: &MostTries) -> bool {
        let most = match self.state {
            State::SynSent => most.syn,
            State::SynReceived if self.passive => most.syn_ack,
            State::SynReceived => most.syn,
            _ if self.orphaned => most.orphaned,
            _ => most.data,
        };
        match (self.options.user_timeout, self.stalled_since.time()) {
            (Some(timeout), Some(since)) => now.since(since) >= timeout,
            _ => self.retries >= most,
        }
    }

    fn give_up(&mut self) -> Reaction {
        let failure = self.soft_failure.unwrap_or(Failure::TimedOut);
        self.finish(failure)
    }

    /// RFC 8985 §7.3.
    fn on_tail_loss_probe(&mut self, now: Instant) -> Reaction {
        self.timers.stop_send();
        if self.send.in_flight() == 0 || self.recovery.phase() != Phase::Open {
            return Reaction::none();
        }
        self.tail_probe.due = true;
        self.timers.arm_send(SendTimer::Retransmission, now, self.rtt.rto());
        Reaction::none()
    }

    /// RFC 8985 §6.2 step 5.
    fn on_reordering_timer(&mut self, now: Instant) -> Reaction {
        self.timers.stop_send();
        let srtt = self.rtt.srtt().unwrap_or(Duration::ZERO);
        let before = self.recovery.phase();
        let (recovery, mut parts) = self.recovering();
        let wait = recovery.on_reordering_timer(now, srtt, &mut parts);
        self.judge_lost_probe(now, before);
        self.rearm(now, wait, true);
        Reaction::none()
    }

    /// RFC 9293 §3.8.6.1: a probe, or what fits into the window although it is small.
    fn on_persist(&mut self, now: Instant, most: &MostTries) -> Reaction {
        self.timers.stop_send();
        if self.send.usable() > 0 && self.unsent() > 0 {
            self.small_allowed = true;
            return Reaction::none();
        }
        // Answers reset the count (the remote lives), so only silence ends it; an orphan ends
        // either way.
        let most = if self.orphaned { ORPHAN_PERSIST_MAX } else { most.data };
        if !self.stalled_since.is_set() {
            self.stalled_since = Deadline::at(now);
        }
        let timed_out = match (self.options.user_timeout, self.stalled_since.time()) {
            (Some(timeout), Some(since)) => now.since(since) >= timeout,
            _ => false,
        };
        if self.retries >= most || timed_out {
            return self.give_up();
        }
        self.retries = self.retries.saturating_add(1);
        self.rtt.back_off();
        self.probe_due = true;
        self.timers.arm_send(SendTimer::Persist, now, self.rtt.rto());
        Reaction::none()
    }

    /// Keepalive (RFC 9293 §3.8.4).
    pub(super) fn arm_keepalive(&mut self, now: Instant) {
        self.timers.keepalive = Deadline::NEVER;
        let Some(keepalive) = self.options.keepalive else { return };
        if self.state.is_synchronised() && self.state != State::TimeWait {
            let idle = Duration::from_secs(u64::from(keepalive.idle_s.max(1)));
            self.timers.keepalive = Deadline::at((self.last_received + idle).max(now));
        }
    }

    fn on_keepalive(&mut self, now: Instant) -> Option<Reaction> {
        let keepalive = self.options.keepalive?;
        let idle = Duration::from_secs(u64::from(keepalive.idle_s.max(1)));
        let interval = Duration::from_secs(u64::from(keepalive.interval_s.max(1)));
        // RFC 9293 §3.8.4: "only be sent when no sent data is outstanding, and no data or
        // acknowledgment packets have been received for the connection within an interval".
        let due = self.last_received + idle;
        if due > now && self.keepalive_probes == 0 {
            self.timers.keepalive = Deadline::at(due);
            return None;
        }
        if self.send.in_flight() > 0 || !self.nothing_unsent() {
            self.timers.keepalive = Deadline::at(now + interval);
            return None;
        }
        if self.keepalive_probes >= keepalive.probes {
            let reply = Some(self.assemble_reset(now));
            let ended = self.give_up();
            return Some(Reaction { reply, ..ended });
        }
        self.keepalive_probes += 1;
        self.probe_due = true;
        self.timers.keepalive = Deadline::at(now + interval);
        None
    }

    /// INV-T6: after a resume, a few segments at a time, at most an initial window. What leaves starts the
    /// next pace: a connection with nothing to send has no timer.
    fn on_pace(&mut self) {
        self.timers.pace = Deadline::NEVER;
        if self.resume_credit == u32::MAX {
            return;
        }
        let mss = self.mss();
        self.resume_credit = (self.resume_credit + RESUME_SEGMENTS * mss).min(initial_window(mss));
    }
}
