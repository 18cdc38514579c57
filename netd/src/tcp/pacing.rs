//! Pacing: what a window allows leaves spread over the round trip instead of at once.
//!
//! The rate is Linux's (tcp_update_pacing_rate): the window over SRTT, doubled while slow start doubles
//! the window, a fifth more afterwards, so that the sender is never slower than its window; BBR says its
//! own. A burst of an initial window (RFC 6928 says that a path bears it), or of a millisecond, leaves
//! without a pause; then the connection rests until half of that is earned again. So the timer fires
//! once a batch, not once a packet. Where the path takes less than a millisecond there and
//! back, whatever queues add to it, the acknowledgements come faster than a timer would, and nothing is paced.
//! Soft state.

use core::time::Duration;

use proto::time::Instant;

use super::congestion::{Kind, initial_window};
use super::control_block::ControlBlock;
use super::timers::Deadline;

/// Shorter paths are not paced: acknowledgements are the finer clock.
const PATH_MIN: Duration = Duration::from_millis(1);

/// Linux's tcp_pacing_ss_ratio and tcp_pacing_ca_ratio, in hundredths.
const SLOW_START_RATIO: u64 = 200;
const AVOIDANCE_RATIO: u64 = 120;

/// A burst is at least what the rate gives in this time: the grain of timers.
const GRAIN: Duration = Duration::from_millis(1);

/// Most octets that leave in one burst, whatever the rate: a frame of segmentation offload.
const BURST_MAX: u64 = 64 << 10;

impl ControlBlock {
    /// Octets a second that may leave; `None` where nothing is paced.
    fn pacing_rate(&self) -> Option<u64> {
        let srtt = self.rtt.srtt().filter(|srtt| *srtt >= PATH_MIN)?;
        if let Some(rate) = self.congestion.model_rate() {
            return Some(rate);
        }
        if self.congestion.kind() != Kind::Bbr {
            self.recovery.rack.min_rtt().filter(|path| *path >= PATH_MIN)?;
        }
        let cwnd = u64::from(self.congestion.cwnd());
        let ratio = match cwnd < u64::from(self.congestion.ssthresh()) / 2 {
            true => SLOW_START_RATIO,
            false => AVOIDANCE_RATIO,
        };
        let micros = srtt.as_micros() as u64;
        Some((cwnd * ratio * 10_000 / micros).max(1))
    }

    /// Octets that may leave at once at this rate.
    fn burst(&self, rate: u64) -> u64 {
        let mss = self.mss();
        let least = match self.congestion.kind() {
            // The model counts on an even flow.
            Kind::Bbr => 2 * mss,
            Kind::Cubic | Kind::NewReno => initial_window(mss),
        };
        (rate / (1000 / GRAIN.as_millis() as u64)).clamp(u64::from(least), BURST_MAX.max(least.into()))
    }

    /// Octets that may leave now.
    pub(super) fn pace_allowance(&self, now: Instant) -> u32 {
        let Some(rate) = self.pacing_rate() else { return u32::MAX };
        let behind = self.paced_until.since(now);
        let owed = u64::try_from(behind.as_nanos() * u128::from(rate) / 1_000_000_000).unwrap_or(u64::MAX);
        self.burst(rate).saturating_sub(owed) as u32
    }

    /// Whether new segments wait for the pace; a resume has a pace of its own.
    pub(super) fn is_paced(&self) -> bool {
        self.timers.pace.is_set() && self.resume_credit == u32::MAX
    }

    /// `octets` leave: the time that they take at the rate is used up, and when a burst is, a rest begins.
    pub(super) fn note_paced(&mut self, now: Instant, octets: u32) {
        let Some(rate) = self.pacing_rate() else { return };
        let time = |octets: u64| {
            Duration::from_nanos((u128::from(octets) * 1_000_000_000 / u128::from(rate)) as u64)
        };
        self.paced_until = self.paced_until.max(now) + time(octets.into());
        let burst = self.burst(rate);
        let ahead = self.paced_until.since(now);
        if ahead + time(self.mss().into()) > time(burst) && self.resume_credit == u32::MAX {
            // Until half of the burst is earned.
            self.timers.pace = Deadline::at(now + ahead.saturating_sub(time(burst / 2)));
        }
    }
}
