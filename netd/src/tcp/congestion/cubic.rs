//! CUBIC (RFC 9438): the window is a cubic function of the time since the last loss.
//!
//! Windows inside the formulas are counted in segments, times in seconds, as the RFC writes them.

use core::time::Duration;

use proto::time::Instant;

use super::super::timers::Deadline;
use super::Algorithm;

/// RFC 9438 §5: C.
const C: f64 = 0.4;

/// RFC 9438 §4.6: beta_cubic.
const BETA: f64 = 0.7;

/// The epoch that begins when congestion avoidance does (RFC 9438 §4.1.2).
#[derive(Debug, Clone, Copy)]
struct Epoch {
    /// When it began.
    start: Instant,
    /// K in seconds: when the function reaches W_max again.
    k: f32,
    /// W_est in segments (RFC 9438 §4.3).
    w_est: f32,
    /// cwnd of the function between whole octets: the part not given out yet, in octets.
    credit: f32,
}

/// CUBIC's variables (RFC 9438 §4.1.2).
#[derive(Debug, Clone, Copy, Default)]
pub struct Cubic {
    /// W_max in segments; 0 before the first loss.
    w_max: f32,
    /// cwnd just before the last loss, in segments (cwnd_prior).
    cwnd_prior: f32,
    /// `None` until the next acknowledgement in congestion avoidance.
    epoch: Option<Epoch>,
    /// The last loss was a time-out (RFC 9438 §4.8).
    timed_out: bool,
    /// Since then the window was not what limited the sender.
    unused_since: Deadline,
}

impl Cubic {
    /// RFC 9438 §4.2: K = cbrt((W_max - cwnd_epoch) / C).
    fn begin_epoch(&mut self, now: Instant, window: f64) -> Epoch {
        // RFC 9438 §4.8: after a time-out, and §4.10 when slow start ended without a loss, the
        // function starts at its inflection.
        if core::mem::take(&mut self.timed_out) || f64::from(self.w_max) < window {
            self.w_max = window as f32;
        }
        let k = ((f64::from(self.w_max) - window) / C).max(0.0).cbrt();
        Epoch { start: now, k: k as f32, w_est: window as f32, credit: 0.0 }
    }
}

/// RFC 9438 §4.2, equation 1: W_cubic(t).
fn w_cubic(t: f64, k: f64, w_max: f64) -> f64 {
    let distance = t - k;
    C * distance * distance * distance + w_max
}

impl Algorithm for Cubic {
    fn grow(&mut self, now: Instant, cwnd: u32, mss: u32, acked: u32, srtt: Duration) -> u32 {
        let size = f64::from(mss);
        let window = f64::from(cwnd) / size;
        let acked = f64::from(acked) / size;
        let unused = core::mem::take(&mut self.unused_since).time();
        let mut epoch = match self.epoch {
            // RFC 9438 §4.2, §5.8: time in which the window was not used does not count.
            Some(epoch) if unused.is_some() => {
                let start = epoch.start + now.since(unused.unwrap_or(now));
                Epoch { start: start.min(now), ..epoch }
            }
            Some(epoch) => epoch,
            None => self.begin_epoch(now, window),
        };
        let t = now.since(epoch.start).as_secs_f64();
        let k = f64::from(epoch.k);
        let w_max = f64::from(self.w_max);

        // RFC 9438 §4.3: the window Reno would have, with alpha_cubic until it passes cwnd_prior.
        let alpha = if epoch.w_est >= self.cwnd_prior { 1.0 } else { 3.0 * (1.0 - BETA) / (1.0 + BETA) };
        epoch.w_est += (alpha * acked / window) as f32;
        let w_est = f64::from(epoch.w_est);

        let grown = if w_cubic(t, k, w_max) < w_est {
            // RFC 9438 §4.3: Reno-friendly region.
            w_est.max(window)
        } else {
            // RFC 9438 §4.4 and §4.5: towards where the function stands a round trip from now,
            // at most half as much again.
            let target = w_cubic(t + srtt.as_secs_f64(), k, w_max).clamp(window, 1.5 * window);
            window + (target - window) / window * acked
        };
        // Whole octets are given out, the rest is kept for the next acknowledgement.
        let octets = (grown - window) * size + f64::from(epoch.credit);
        let whole = octets.floor();
        epoch.credit = (octets - whole) as f32;
        self.epoch = Some(epoch);
        // A float that doesn't fit saturates.
        cwnd.saturating_add(whole as u32)
    }

    // RFC 9438 §4.6 and §4.7.
    fn shrink(&mut self, cwnd: u32, flight: u32, mss: u32) -> u32 {
        let size = f64::from(mss);
        let window = (f64::from(cwnd) / size) as f32;
        self.epoch = None;
        self.cwnd_prior = window;
        // RFC 9438 §4.7: fast convergence gives way to newer flows.
        self.w_max = if window < self.w_max { window * ((1.0 + BETA as f32) / 2.0) } else { window };
        // RFC 9438 §4.6: ssthresh = flight_size * beta_cubic, at least two segments.
        ((f64::from(flight) * BETA) as u32).max(mss.saturating_mul(2))
    }

    fn timed_out(&mut self) {
        self.timed_out = true;
    }

    fn unused(&mut self, now: Instant) {
        if self.epoch.is_some() {
            self.unused_since = self.unused_since.min(Deadline::at(now));
        }
    }

    // RFC 9438 §5.8: idle time is not time in which the function may grow.
    fn resumed(&mut self, now: Instant, idle_since: Instant) {
        let idle_since = core::mem::take(&mut self.unused_since)
            .time()
            .map_or(idle_since, |unused| unused.min(idle_since));
        if let Some(epoch) = &mut self.epoch {
            let moved = epoch.start + now.since(idle_since);
            epoch.start = moved.min(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MSS: u32 = 1000;
    const RTT: Duration = Duration::from_millis(100);

    /// One round trip's worth of acknowledgements.
    fn round(cubic: &mut Cubic, now: &mut Instant, cwnd: &mut u32) {
        *now = *now + RTT;
        for _ in 0..*cwnd / MSS {
            *cwnd = cubic.grow(*now, *cwnd, MSS, MSS, RTT);
        }
    }

    #[test]
    fn returns_to_the_old_window_after_k_seconds() {
        let mut cubic = Cubic::default();
        let mut cwnd = 1_000_000;
        let ssthresh = cubic.shrink(cwnd, cwnd, MSS);
        assert_eq!(ssthresh, 700_000);
        cwnd = ssthresh;
        let mut now = Instant::from_millis(1000);
        let mut rounds = 0;
        while cwnd < 980_000 {
            round(&mut cubic, &mut now, &mut cwnd);
            rounds += 1;
        }
        // K = cbrt(300 / 0.4) = 9.1 s; near the plateau a little earlier.
        assert!((55..=95).contains(&rounds), "{rounds} rounds");
        let plateau = cwnd;
        for _ in 0..10 {
            round(&mut cubic, &mut now, &mut cwnd);
        }
        assert!(cwnd - plateau < 20_000, "flat around W_max");
    }

    #[test]
    fn not_slower_than_reno_on_short_paths() {
        let mut cubic = Cubic::default();
        cubic.shrink(20_000, 20_000, MSS);
        let mut cwnd = 14_000;
        let mut now = Instant::ZERO;
        for _ in 0..20 {
            now = now + Duration::from_millis(1);
            for _ in 0..cwnd / MSS {
                cwnd = cubic.grow(now, cwnd, MSS, MSS, Duration::from_millis(1));
            }
        }
        // alpha_cubic = 0.53 segments a round trip, later one.
        assert!(cwnd >= 23_000, "{cwnd}");
    }

    #[test]
    fn time_without_use_of_the_window_does_not_count() {
        let grown = |idle: bool| {
            let mut cubic = Cubic::default();
            let mut cwnd = cubic.shrink(100_000, 100_000, MSS);
            let mut now = Instant::from_millis(1000);
            (0..10).for_each(|_| round(&mut cubic, &mut now, &mut cwnd));
            if idle {
                cubic.unused(now);
                now = now + Duration::from_secs(20);
            }
            (0..10).for_each(|_| round(&mut cubic, &mut now, &mut cwnd));
            cwnd
        };
        assert!(grown(true) <= grown(false) + 2 * MSS, "{} and {}", grown(true), grown(false));
    }

    #[test]
    fn fast_convergence_lowers_w_max() {
        let mut cubic = Cubic::default();
        cubic.shrink(100_000, 100_000, MSS);
        cubic.shrink(70_000, 70_000, MSS);
        assert!(cubic.w_max < 60.0);
    }
}
