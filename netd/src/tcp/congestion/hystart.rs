//! HyStart++ (RFC 9406): leaves the first slow start when round trips become longer, before packets are
//! lost.
//!
//! Owned by loss recovery while the first slow start lasts, told of every acknowledgement, asked how the
//! window may grow. Soft state: a successor does without.

use core::time::Duration;

use super::super::seq::Position;

/// RFC 9406 §4.3: MIN_RTT_THRESH, MAX_RTT_THRESH and MIN_RTT_DIVISOR.
const THRESHOLD_MIN: Duration = Duration::from_millis(4);
const THRESHOLD_MAX: Duration = Duration::from_millis(16);
const RTT_DIVISOR: u32 = 8;
/// N_RTT_SAMPLE: samples of a round before it is judged.
const SAMPLES: u32 = 8;
/// CSS_GROWTH_DIVISOR.
pub const GROWTH_DIVISOR: u32 = 4;
/// CSS_ROUNDS.
const CSS_ROUNDS: u8 = 5;

/// How the window may grow by an acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Growth {
    /// As in slow start (RFC 5681 §3.1).
    Full,
    /// By a [`GROWTH_DIVISOR`]th: conservative slow start.
    Slow,
    /// Slow start is over: congestion avoidance from here on.
    Over,
}

/// The variables of RFC 9406 §4.2.
#[derive(Debug, Clone, Copy, Default)]
pub struct HyStart {
    /// windowEnd.
    end: Position,
    last_min: Option<Duration>,
    current_min: Option<Duration>,
    samples: u32,
    /// cssBaselineMinRtt, while conservative slow start lasts.
    baseline: Option<Duration>,
    css_rounds: u8,
}

impl HyStart {
    /// An acknowledgement up to `una` came, with `nxt` as SND.NXT, and perhaps a round trip.
    pub fn on_ack(&mut self, una: Position, nxt: Position, rtt: Option<Duration>) -> Growth {
        if una >= self.end {
            // A round begins.
            self.end = nxt;
            self.last_min = self.current_min.take().or(self.last_min);
            self.samples = 0;
            if self.baseline.is_some() {
                self.css_rounds += 1;
                if self.css_rounds >= CSS_ROUNDS {
                    return Growth::Over;
                }
            }
        }
        if let Some(rtt) = rtt {
            self.current_min = Some(self.current_min.map_or(rtt, |least| least.min(rtt)));
            self.samples += 1;
        }
        if self.samples >= SAMPLES
            && let (Some(current), Some(last)) = (self.current_min, self.last_min)
        {
            let threshold = (last / RTT_DIVISOR).clamp(THRESHOLD_MIN, THRESHOLD_MAX);
            match self.baseline {
                None if current >= last + threshold => {
                    self.baseline = Some(current);
                    self.css_rounds = 0;
                }
                // The delay was a passing one: slow start goes on.
                Some(baseline) if current < baseline => self.baseline = None,
                _ => {}
            }
        }
        if self.baseline.is_some() { Growth::Slow } else { Growth::Full }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Option<Duration> {
        Some(Duration::from_millis(ms))
    }

    /// A round of `acks` acknowledgements with that round trip; the last answer.
    fn round(hystart: &mut HyStart, number: u64, acks: u64, rtt: u64) -> Growth {
        let place = |n: u64| Position::new(n * 1000);
        let mut growth = Growth::Full;
        for ack in 0..acks {
            growth = hystart.on_ack(place(number).plus(ack), place(number + 1), ms(rtt));
            if growth == Growth::Over {
                break;
            }
        }
        growth
    }

    #[test]
    fn longer_round_trips_slow_it_and_five_rounds_end_it() {
        let mut hystart = HyStart::default();
        assert_eq!(round(&mut hystart, 1, 10, 40), Growth::Full);
        assert_eq!(round(&mut hystart, 2, 10, 44), Growth::Full, "below the threshold of 5 ms");
        assert_eq!(round(&mut hystart, 3, 10, 50), Growth::Slow);
        for number in 4..8 {
            assert_eq!(round(&mut hystart, number, 10, 55), Growth::Slow);
        }
        assert_eq!(round(&mut hystart, 8, 10, 55), Growth::Over);
    }

    #[test]
    fn a_passing_delay_is_forgiven() {
        let mut hystart = HyStart::default();
        round(&mut hystart, 1, 10, 40);
        assert_eq!(round(&mut hystart, 2, 10, 60), Growth::Slow);
        assert_eq!(round(&mut hystart, 3, 10, 41), Growth::Full);
    }

    #[test]
    fn few_samples_prove_nothing() {
        let mut hystart = HyStart::default();
        round(&mut hystart, 1, 10, 40);
        assert_eq!(round(&mut hystart, 2, 7, 90), Growth::Full);
    }
}
