//! Congestion control: how much may be in flight.
//!
//! [`Congestion`] owns cwnd and ssthresh and the slow start that all algorithms share (RFC 5681
//! §3.1); an algorithm says how the window grows in congestion avoidance and by how much it falls.
//! It is told of events and asked for a number; it sends nothing and arms nothing.

mod bbr;
mod cubic;
mod hystart;
mod newreno;

use core::time::Duration;

use proto::time::Instant;

use super::seq::Position;

pub use bbr::{Arrived, Bbr};
pub use cubic::Cubic;
pub use hystart::{GROWTH_DIVISOR, Growth, HyStart};
pub use newreno::NewReno;

/// The largest window in octets; more would not fit any window a header can say (RFC 7323 §2.3).
pub const CWND_MAX: u32 = 1 << 30;

/// Which algorithm a connection uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kind {
    /// RFC 5681 and RFC 6582.
    NewReno,
    /// RFC 9438.
    #[default]
    Cubic,
    /// BBR, version 1 ([`Bbr`]).
    Bbr,
}

/// What an algorithm answers: growth in congestion avoidance, and the fall at a loss.
pub trait Algorithm {
    /// `acked` octets were acknowledged while `cwnd >= ssthresh`; returns the new cwnd.
    fn grow(&mut self, now: Instant, cwnd: u32, mss: u32, acked: u32, srtt: Duration) -> u32;

    /// A loss was found with this cwnd and this much in flight; returns ssthresh.
    fn shrink(&mut self, cwnd: u32, flight: u32, mss: u32) -> u32;

    /// The retransmission timer expired (after `shrink`): the next epoch starts afresh.
    fn timed_out(&mut self) {}

    /// The window did not limit the sender at this acknowledgement.
    fn unused(&mut self, _now: Instant) {}

    /// Sending resumes after nothing was in flight since `idle_since`.
    fn resumed(&mut self, _now: Instant, _idle_since: Instant) {}
}

#[derive(Debug, Clone)]
enum Chosen {
    NewReno(NewReno),
    Cubic(Cubic),
    Bbr(Box<Bbr>),
}

impl Chosen {
    fn new(kind: Kind) -> Chosen {
        match kind {
            Kind::NewReno => Chosen::NewReno(NewReno::default()),
            Kind::Cubic => Chosen::Cubic(Cubic::default()),
            Kind::Bbr => Chosen::Bbr(Box::default()),
        }
    }
}

/// The congestion window of one connection.
#[derive(Debug, Clone)]
pub struct Congestion {
    /// cwnd in octets, at least one segment.
    cwnd: u32,
    /// ssthresh in octets.
    ssthresh: u32,
    chosen: Chosen,
}

/// RFC 6928 §2: the initial window, min(10 * MSS, max(2 * MSS, 14600)).
pub fn initial_window(mss: u32) -> u32 {
    (10 * mss).min((2 * mss).max(14_600))
}

impl Congestion {
    /// A fresh connection (RFC 5681 §3.1, RFC 6928).
    pub fn new(kind: Kind, mss: u32) -> Self {
        Congestion { cwnd: initial_window(mss), ssthresh: CWND_MAX, chosen: Chosen::new(kind) }
    }

    /// cwnd in octets.
    pub const fn cwnd(&self) -> u32 {
        self.cwnd
    }

    /// ssthresh in octets.
    pub const fn ssthresh(&self) -> u32 {
        self.ssthresh
    }

    /// Which algorithm it is.
    pub const fn kind(&self) -> Kind {
        match self.chosen {
            Chosen::NewReno(_) => Kind::NewReno,
            Chosen::Cubic(_) => Kind::Cubic,
            Chosen::Bbr(_) => Kind::Bbr,
        }
    }

    /// Another algorithm from here on; the window stays (TCP_CONGESTION).
    pub fn become_kind(&mut self, kind: Kind) {
        if kind != self.kind() {
            self.chosen = Chosen::new(kind);
        }
    }

    /// Whether the window grows exponentially (RFC 5681 §3.1).
    pub const fn in_slow_start(&self) -> bool {
        self.cwnd < self.ssthresh
    }

    /// `acked` octets were acknowledged outside of fast recovery, and the window was what limited
    /// the sender (RFC 5681 §3.1; RFC 9438 §5.8 and RFC 7661 for the limit).
    pub fn on_ack(&mut self, now: Instant, mss: u32, acked: u32, srtt: Duration) {
        let mut acked = acked.min(self.cwnd);
        if let Chosen::Bbr(bbr) = &mut self.chosen {
            let grown = bbr.window(self.cwnd, acked, mss, initial_window(mss));
            self.cwnd = grown.clamp(mss, CWND_MAX);
            return;
        }
        if self.in_slow_start() {
            // RFC 5681 §3.1 with octet counting (RFC 3465); as in Linux without the limit of two
            // segments an ACK, since receivers that merge segments acknowledge many at once.
            let step = acked.min(self.ssthresh - self.cwnd);
            self.cwnd += step;
            acked -= step;
        }
        if acked > 0 && !self.in_slow_start() {
            let cwnd = self.cwnd;
            let grown = self.algorithm().grow(now, cwnd, mss, acked, srtt);
            self.cwnd = grown.clamp(cwnd, CWND_MAX);
        }
        self.cwnd = self.cwnd.clamp(mss, CWND_MAX);
    }

    /// The same in the first slow start, as HyStart++ has it (RFC 9406 §4.2).
    pub fn on_first_ack(&mut self, now: Instant, mss: u32, acked: u32, srtt: Duration, growth: Growth) {
        match growth {
            Growth::Full => self.on_ack(now, mss, acked, srtt),
            Growth::Slow => self.on_ack(now, mss, acked.min(self.cwnd) / GROWTH_DIVISOR, srtt),
            Growth::Over => {
                self.ssthresh = self.cwnd;
                self.on_ack(now, mss, acked, srtt);
            }
        }
    }

    /// Whether this is the slow start of a connection that knows nothing of its path yet.
    pub const fn in_first_slow_start(&self) -> bool {
        self.ssthresh == CWND_MAX && !matches!(self.chosen, Chosen::Bbr(_))
    }

    /// `acked` octets were acknowledged while less than the window was in use: it does not grow, and
    /// CUBIC's time stands still (RFC 9438 §4.2, §5.8).
    pub fn on_unused(&mut self, now: Instant) {
        self.algorithm().unused(now);
    }

    /// What a model of the path sends at, in octets a second; `None` for those that have none.
    pub fn model_rate(&self) -> Option<u64> {
        match &self.chosen {
            Chosen::Bbr(bbr) => bbr.pacing_rate(),
            _ => None,
        }
    }

    /// New data up to `end` leaves; see [`Bbr::on_sent`].
    pub fn on_sent(&mut self, now: Instant, end: Position, in_flight: u64, app_limited: bool) {
        if let Chosen::Bbr(bbr) = &mut self.chosen {
            bbr.on_sent(now, end, in_flight, app_limited);
        }
    }

    /// An acknowledgement, in whichever phase; see [`Bbr::on_arrived`].
    pub fn on_arrived(&mut self, arrived: impl FnOnce() -> Arrived) {
        if let Chosen::Bbr(bbr) = &mut self.chosen {
            bbr.on_arrived(&arrived());
        }
    }

    /// A loss was detected by duplicate acknowledgements or SACK: sets ssthresh, returns it. The
    /// window itself is then led down by loss recovery (RFC 5681 §3.2, RFC 6937).
    pub fn on_loss(&mut self, flight: u32, mss: u32) -> u32 {
        let cwnd = self.cwnd;
        self.ssthresh = self.algorithm().shrink(cwnd, flight, mss).clamp(2 * mss, CWND_MAX);
        self.ssthresh
    }

    /// The retransmission timer expired (RFC 5681 §3.1, equation 4). Only the first time-out of a
    /// series lowers ssthresh.
    pub fn on_timeout(&mut self, flight: u32, mss: u32, first: bool) {
        if first {
            self.on_loss(flight, mss);
            self.algorithm().timed_out();
        }
        // RFC 5681 §3.1: the loss window is one segment.
        self.cwnd = mss;
    }

    /// Loss recovery sets the window (RFC 6937 §3).
    pub fn set_cwnd(&mut self, cwnd: u32, mss: u32) {
        self.cwnd = cwnd.clamp(mss, CWND_MAX);
    }

    /// The last reduction was a mistake: all is as in `before`, and the window at least as large
    /// (RFC 4015 §3.2, RFC 9438 §4.9).
    pub fn undo(&mut self, before: &Congestion) {
        let cwnd = self.cwnd.max(before.cwnd);
        *self = before.clone();
        self.cwnd = cwnd;
    }

    /// Nothing was sent since `idle_since`, longer than the retransmission time-out: restart from
    /// the restart window (RFC 5681 §4.1).
    pub fn on_idle(&mut self, now: Instant, idle_since: Instant, mss: u32) {
        if matches!(self.chosen, Chosen::Bbr(_)) {
            // The rate that was learned paces what leaves.
            return;
        }
        self.algorithm().resumed(now, idle_since);
        // As Linux: what the path once bore is remembered as three quarters of the old window.
        self.ssthresh = self.ssthresh.max(self.cwnd / 4 * 3);
        self.cwnd = self.cwnd.min(initial_window(mss));
    }

    /// From a kept window (0: not known): not above an initial window until the path has spoken again, growing
    /// fast to what it was (DESIGN INV-T6).
    pub fn restored(kind: Kind, mss: u32, cwnd: u32) -> Self {
        let mut fresh = Congestion::new(kind, mss);
        if cwnd != 0 {
            fresh.ssthresh = cwnd.clamp(fresh.cwnd, CWND_MAX);
        }
        fresh
    }

    fn algorithm(&mut self) -> &mut dyn Algorithm {
        match &mut self.chosen {
            Chosen::NewReno(algorithm) => algorithm,
            Chosen::Cubic(algorithm) => algorithm,
            Chosen::Bbr(algorithm) => &mut **algorithm,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MSS: u32 = 1000;
    const RTT: Duration = Duration::from_millis(100);

    #[test]
    fn the_initial_window_is_rfc_6928() {
        assert_eq!(initial_window(1460), 14_600);
        assert_eq!(initial_window(536), 5360);
        assert_eq!(initial_window(9000), 18_000);
    }

    #[test]
    fn slow_start_doubles_each_round() {
        for kind in [Kind::NewReno, Kind::Cubic] {
            let mut congestion = Congestion::new(kind, MSS);
            let before = congestion.cwnd();
            for _ in 0..before / MSS {
                congestion.on_ack(Instant::ZERO, MSS, MSS, RTT);
            }
            assert_eq!(congestion.cwnd(), 2 * before);
        }
    }

    #[test]
    fn a_timeout_leaves_one_segment() {
        let mut congestion = Congestion::new(Kind::NewReno, MSS);
        congestion.on_timeout(10_000, MSS, true);
        assert_eq!(congestion.cwnd(), MSS);
        assert_eq!(congestion.ssthresh(), 5000);
        congestion.on_timeout(1000, MSS, false);
        assert_eq!(congestion.ssthresh(), 5000);
    }

    #[test]
    fn idleness_returns_to_the_restart_window() {
        let mut congestion = Congestion::new(Kind::Cubic, MSS);
        congestion.set_cwnd(400_000, MSS);
        congestion.on_idle(Instant::from_millis(5000), Instant::ZERO, MSS);
        assert_eq!(congestion.cwnd(), initial_window(MSS));
        assert!(congestion.in_slow_start());
    }

    proptest! {
        #[test]
        fn always_between_a_segment_and_the_limit(
            cubic: bool,
            mss in 1u32..65_000,
            events in prop::collection::vec((0u8..5, any::<u32>(), 0u64..1 << 40), 0..200),
        ) {
            let kind = if cubic { Kind::Cubic } else { Kind::NewReno };
            let mut congestion = Congestion::new(kind, mss);
            let mut now = Instant::ZERO;
            for (event, octets, pause) in events {
                now = now + Duration::from_nanos(pause);
                match event {
                    0 | 1 => congestion.on_ack(now, mss, octets, Duration::from_nanos(pause)),
                    2 => { congestion.on_loss(octets, mss); }
                    3 => congestion.on_timeout(octets, mss, octets % 2 == 0),
                    _ => congestion.on_idle(now, Instant::from_nanos(now.nanos() / 2), mss),
                }
                prop_assert!(congestion.cwnd() >= mss && congestion.cwnd() <= CWND_MAX);
                prop_assert!(congestion.ssthresh() >= 2 * mss);
            }
        }
    }
}
