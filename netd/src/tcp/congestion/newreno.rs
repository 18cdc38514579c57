//! Reno's congestion avoidance (RFC 5681 §3.1), the half of NewReno that isn't loss recovery.

use core::time::Duration;

use proto::time::Instant;

use super::Algorithm;

/// Additive increase, multiplicative decrease.
#[derive(Debug, Clone, Copy, Default)]
pub struct NewReno {
    /// Octets acknowledged since the window last grew by a segment (RFC 3465 §2.1).
    acked: u32,
}

impl Algorithm for NewReno {
    // RFC 5681 §3.1: a segment a round trip, by counting octets.
    fn grow(&mut self, _now: Instant, cwnd: u32, mss: u32, acked: u32, _srtt: Duration) -> u32 {
        self.acked = self.acked.saturating_add(acked);
        if self.acked < cwnd {
            return cwnd;
        }
        self.acked -= cwnd;
        cwnd.saturating_add(mss)
    }

    // RFC 5681 §3.1, equation 4: ssthresh = max(FlightSize / 2, 2 * SMSS).
    fn shrink(&mut self, _cwnd: u32, flight: u32, mss: u32) -> u32 {
        self.acked = 0;
        (flight / 2).max(mss.saturating_mul(2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_a_round_trip() {
        let mut reno = NewReno::default();
        let mut cwnd = 10_000;
        for _ in 0..10 {
            cwnd = reno.grow(Instant::ZERO, cwnd, 1000, 1000, Duration::ZERO);
        }
        assert_eq!(cwnd, 11_000);
    }

    #[test]
    fn halves_what_was_in_flight() {
        let mut reno = NewReno::default();
        assert_eq!(reno.shrink(50_000, 20_000, 1000), 10_000);
        assert_eq!(reno.shrink(50_000, 100, 1000), 2000);
    }
}
