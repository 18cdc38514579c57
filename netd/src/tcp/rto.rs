//! Round-trip time and the retransmission time-out (RFC 6298).
//!
//! Owned by the control block; fed with samples that Karn's rule allows (RFC 6298 §3), asked for
//! the time-out. Kept in microseconds so that it is small.

use core::time::Duration;

/// RFC 6298 §2.1: before any sample.
pub const RTO_INITIAL: Duration = Duration::from_secs(1);

/// Floor of the variance term, as Linux (TCP_RTO_MIN) has it: the time-out is never below this.
/// RFC 6298 §2.4 asks for a second, which no stack of today keeps.
pub const RTO_MIN: Duration = Duration::from_millis(200);

/// RFC 6298 §2.5: at least 60 seconds; Linux (TCP_RTO_MAX) takes 120.
pub const RTO_MAX: Duration = Duration::from_secs(120);

/// The longest sample believed; more comes from a confused remote.
const SAMPLE_MAX: Duration = Duration::from_secs(120);

/// Doublings that reach [`RTO_MAX`] from [`RTO_MIN`] and are never exceeded.
const BACKOFF_MAX: u8 = 10;

/// SRTT, RTTVAR and the back-off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RttEstimator {
    /// SRTT in microseconds; 0 before the first sample.
    srtt_us: u32,
    /// RTTVAR in microseconds.
    rttvar_us: u32,
    /// How often the time-out has been doubled (RFC 6298 §5.5).
    backoff: u8,
}

impl RttEstimator {
    /// RTTVAR in microseconds.
    pub const fn rttvar_us(&self) -> u32 {
        self.rttvar_us
    }

    /// Before any sample.
    pub const fn new() -> Self {
        RttEstimator { srtt_us: 0, rttvar_us: 0, backoff: 0 }
    }

    /// From a kept SRTT in microseconds (0: none), the variance unknown (RFC 6298 §2.2).
    pub const fn restored(srtt_us: u32) -> Self {
        RttEstimator { srtt_us, rttvar_us: srtt_us / 2, backoff: 0 }
    }

    /// A new sample (RFC 6298 §2.2 and §2.3).
    pub fn sample(&mut self, rtt: Duration) {
        let rtt = rtt.min(SAMPLE_MAX);
        let r = (rtt.as_micros() as u32).max(1);
        if self.srtt_us == 0 {
            // RFC 6298 §2.2: SRTT <- R, RTTVAR <- R/2.
            self.srtt_us = r;
            self.rttvar_us = r / 2;
        } else {
            // RFC 6298 §2.3: RTTVAR first, with alpha = 1/8 and beta = 1/4.
            let deviation = self.srtt_us.abs_diff(r);
            self.rttvar_us = self.rttvar_us - self.rttvar_us / 4 + deviation / 4;
            self.srtt_us = (self.srtt_us - self.srtt_us / 8 + r / 8).max(1);
        }
    }

    /// SRTT, if there was a sample.
    pub fn srtt(&self) -> Option<Duration> {
        (self.srtt_us != 0).then(|| Duration::from_micros(u64::from(self.srtt_us)))
    }

    /// SRTT in microseconds; 0 before the first sample.
    pub const fn srtt_us(&self) -> u32 {
        self.srtt_us
    }

    /// RTTVAR.
    pub const fn rttvar(&self) -> Duration {
        Duration::from_micros(self.rttvar_us as u64)
    }

    /// The time-out without back-off (RFC 6298 §2.1 to §2.5).
    pub fn base(&self) -> Duration {
        let Some(srtt) = self.srtt() else { return RTO_INITIAL };
        (srtt + (self.rttvar() * 4).max(RTO_MIN)).min(RTO_MAX)
    }

    /// The time-out to arm the timer with.
    pub fn rto(&self) -> Duration {
        self.base().saturating_mul(1 << self.backoff.min(BACKOFF_MAX)).min(RTO_MAX)
    }

    /// RFC 6298 §5.5: the host backs off the timer.
    pub fn back_off(&mut self) {
        self.backoff = (self.backoff + 1).min(BACKOFF_MAX);
    }

    /// New data was acknowledged: the path works, the back-off ends (RFC 6298 §5.7, as BSD).
    pub fn recovered(&mut self) {
        self.backoff = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_at_a_second() {
        assert_eq!(RttEstimator::new().rto(), Duration::from_secs(1));
    }

    #[test]
    fn follows_rfc_6298() {
        let mut rtt = RttEstimator::new();
        rtt.sample(Duration::from_millis(400));
        assert_eq!(rtt.srtt(), Some(Duration::from_millis(400)));
        assert_eq!(rtt.rto(), Duration::from_millis(1200));
        rtt.sample(Duration::from_millis(800));
        // RTTVAR = 3/4 * 200 + 1/4 * 400, SRTT = 7/8 * 400 + 1/8 * 800.
        assert_eq!(rtt.rto(), Duration::from_millis(450 + 4 * 250));
    }

    #[test]
    fn stays_between_the_bounds() {
        let mut rtt = RttEstimator::new();
        for _ in 0..100 {
            rtt.sample(Duration::from_micros(50));
        }
        assert!(rtt.rto() >= RTO_MIN && rtt.rto() < RTO_MIN * 2);
        for _ in 0..300 {
            rtt.back_off();
        }
        assert_eq!(rtt.rto(), RTO_MAX);
        rtt.sample(Duration::MAX);
        assert!(rtt.rto() <= RTO_MAX);
        rtt.recovered();
        assert!(rtt.base() <= RTO_MAX);
    }
}
