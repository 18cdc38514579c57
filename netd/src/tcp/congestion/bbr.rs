//! BBR, version 1: a model of the path instead of its losses.
//!
//! As draft-cardwell-iccrg-bbr-congestion-control-00 describes it, with the delivery rate of
//! draft-cheng-iccrg-delivery-rate-estimation-00 and the constants of Linux's tcp_bbr.c. Left out is what
//! Linux adds against token-bucket policers (lt_bw). It neither falls at a loss nor hears ECN.
//!
//! The model is two figures: the largest delivery rate of the last ten round trips, and the shortest round
//! trip of the last ten seconds. Their product is what the path holds; the rate times a gain is what paces
//! the sender. The rate is measured over a few marked segments of each round trip rather than over every
//! one, so that nothing has to be kept of each. All of it is soft state: a successor keeps the window that
//! the record remembers, begins at an initial window as after a loss of all knowledge, and learns the path
//! anew in STARTUP.

use core::time::Duration;

use proto::time::Instant;

use super::super::seq::Position;
use super::Algorithm;

/// The gain of STARTUP, 2/ln 2, in thousandths: the least that doubles the rate each round trip.
const HIGH_GAIN: u64 = 2885;
/// The gain of DRAIN, its inverse.
const DRAIN_GAIN: u64 = 347;
/// The window's gain in PROBE_BW, for acknowledgements that come late and at once.
const CWND_GAIN: u64 = 2000;
/// The gains of a cycle of PROBE_BW.
const CYCLE: [u64; 8] = [1250, 750, 1000, 1000, 1000, 1000, 1000, 1000];
const UNIT: u64 = 1000;
/// Round trips that the largest rate is remembered for.
const RATE_ROUNDS: usize = 10;
/// How long the shortest round trip is believed.
const MIN_RTT_AGE_MAX: Duration = Duration::from_secs(10);
/// How long PROBE_RTT keeps the pipe almost empty.
const PROBE_RTT: Duration = Duration::from_millis(200);
/// Round trips without a quarter more of rate after which the pipe counts as full.
const FULL_ROUNDS: u8 = 3;
/// Segments that the window never falls below.
const SEGMENTS_MIN: u32 = 4;
/// Segments in flight that are marked at a time.
const MARKS: usize = 8;

/// Where the machine stands (draft §4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Startup,
    Drain,
    ProbeBw { phase: u8 },
    ProbeRtt { until: Option<Instant>, round: u32 },
}

/// A segment whose delivery gives a sample of the rate.
#[derive(Debug, Clone, Copy)]
struct Mark {
    end: Position,
    sent: Instant,
    /// When the first segment of the flight left that it is measured by.
    first_sent: Instant,
    delivered: u64,
    delivered_at: Instant,
    /// There was nothing more to send.
    app_limited: bool,
}

/// What an acknowledgement says to the model.
#[derive(Debug, Clone, Copy)]
pub struct Arrived {
    /// When it came.
    pub now: Instant,
    /// Octets that the remote holds more than before.
    pub octets: u64,
    /// The highest position that the remote holds.
    pub highest: Position,
    /// The round trip of the latest segment among them.
    pub rtt: Option<Duration>,
    /// Octets in the network after it.
    pub pipe: u64,
    /// Something was found lost.
    pub lost: bool,
    /// Octets of a full segment.
    pub mss: u32,
}

/// BBR's variables (draft §3).
#[derive(Debug, Clone)]
pub struct Bbr {
    mode: Mode,
    delivered: u64,
    delivered_at: Instant,
    first_sent: Instant,
    marks: [Option<Mark>; MARKS],
    /// The end of the newest mark.
    marked: Position,
    /// The largest rate of each of the last round trips, in octets a second.
    rates: [u64; RATE_ROUNDS],
    round: u32,
    round_ends: u64,
    round_started: bool,
    min_rtt: Option<Duration>,
    min_rtt_at: Instant,
    full_rate: u64,
    full_rounds: u8,
    full_pipe: bool,
    phase_at: Instant,
    /// The window before PROBE_RTT.
    window_before: u32,
}

impl Default for Bbr {
    fn default() -> Self {
        Bbr {
            mode: Mode::Startup,
            delivered: 0,
            delivered_at: Instant::ZERO,
            first_sent: Instant::ZERO,
            marks: [None; MARKS],
            marked: Position::SYN,
            rates: [0; RATE_ROUNDS],
            round: 0,
            round_ends: 0,
            round_started: false,
            min_rtt: None,
            min_rtt_at: Instant::ZERO,
            full_rate: 0,
            full_rounds: 0,
            full_pipe: false,
            phase_at: Instant::ZERO,
            window_before: 0,
        }
    }
}

impl Bbr {
    /// The largest delivery rate, octets a second; 0 without a sample.
    pub fn rate(&self) -> u64 {
        self.rates.iter().copied().max().unwrap_or(0)
    }

    /// What may leave in a second (draft §4.2.1); `None` before anything is known.
    pub fn pacing_rate(&self) -> Option<u64> {
        let rate = self.rate();
        (rate > 0).then(|| (rate.saturating_mul(self.pacing_gain()) / UNIT).max(1))
    }

    fn pacing_gain(&self) -> u64 {
        match self.mode {
            Mode::Startup => HIGH_GAIN,
            Mode::Drain => DRAIN_GAIN,
            Mode::ProbeBw { phase } => CYCLE[usize::from(phase) % CYCLE.len()],
            Mode::ProbeRtt { .. } => UNIT,
        }
    }

    fn cwnd_gain(&self) -> u64 {
        match self.mode {
            Mode::Startup | Mode::Drain => HIGH_GAIN,
            Mode::ProbeBw { .. } => CWND_GAIN,
            Mode::ProbeRtt { .. } => UNIT,
        }
    }

    /// What the path holds, times `gain` thousandths; `None` before it is known.
    fn bdp(&self, gain: u64) -> Option<u64> {
        let rtt = u64::try_from(self.min_rtt?.as_micros()).unwrap_or(u64::MAX);
        let rate = self.rate();
        if rate == 0 {
            return None;
        }
        let octets = u128::from(rate) * u128::from(rtt) / 1_000_000 * u128::from(gain) / u128::from(UNIT);
        Some(u64::try_from(octets).unwrap_or(u64::MAX))
    }

    /// New data up to `end` leaves while `in_flight` octets were out; with `app_limited` there is no more.
    pub fn on_sent(&mut self, now: Instant, end: Position, in_flight: u64, app_limited: bool) {
        if in_flight == 0 {
            self.first_sent = now;
            self.delivered_at = now;
        }
        let Some(free) = self.marks.iter_mut().find(|mark| mark.is_none()) else { return };
        // Spread over what is in flight: not the first eight segments of it.
        if self.marked > Position::SYN && end.since(self.marked) * (MARKS as u64) < in_flight {
            return;
        }
        self.marked = end;
        *free = Some(Mark {
            end,
            sent: now,
            first_sent: self.first_sent,
            delivered: self.delivered,
            delivered_at: self.delivered_at,
            app_limited,
        });
    }

    /// An acknowledgement arrived: the model follows. The window is moved by [`Self::window`].
    pub fn on_arrived(&mut self, arrived: &Arrived) {
        self.delivered += arrived.octets;
        if arrived.octets > 0 {
            self.delivered_at = arrived.now;
        }
        self.round_started = false;
        if let Some(mark) = self.take_mark(arrived.highest) {
            self.take_sample(arrived, &mark);
        }
        self.take_rtt(arrived);
        match self.mode {
            Mode::Startup => {
                if self.full_pipe {
                    self.mode = Mode::Drain;
                    self.maybe_drained(arrived);
                }
            }
            Mode::Drain => self.maybe_drained(arrived),
            Mode::ProbeBw { phase } => self.advance_cycle(arrived, phase),
            Mode::ProbeRtt { .. } => {}
        }
    }

    /// The newest mark that has arrived; older ones are done with.
    fn take_mark(&mut self, highest: Position) -> Option<Mark> {
        let mut newest: Option<Mark> = None;
        for place in &mut self.marks {
            let Some(mark) = place.filter(|mark| mark.end <= highest) else { continue };
            *place = None;
            if newest.is_none_or(|other| other.end < mark.end) {
                newest = Some(mark);
            }
        }
        newest
    }

    /// draft-cheng §2.2: delivered octets over the longer of the times in which they were sent and
    /// acknowledged.
    fn take_sample(&mut self, arrived: &Arrived, mark: &Mark) {
        self.first_sent = mark.sent;
        if mark.delivered >= self.round_ends {
            self.round_ends = self.delivered;
            self.round = self.round.wrapping_add(1);
            self.round_started = true;
            self.rates[self.round as usize % RATE_ROUNDS] = 0;
        }
        let took = mark.sent.since(mark.first_sent).max(arrived.now.since(mark.delivered_at));
        // §2.2.3: shorter than the shortest round trip is no interval.
        if took.is_zero() || self.min_rtt.is_some_and(|rtt| took < rtt) {
            return;
        }
        let octets = self.delivered - mark.delivered;
        let rate = u128::from(octets) * 1_000_000_000 / took.as_nanos();
        let rate = u64::try_from(rate).unwrap_or(u64::MAX);
        if !mark.app_limited || rate >= self.rate() {
            let best = &mut self.rates[self.round as usize % RATE_ROUNDS];
            *best = rate.max(*best);
        }
        if self.round_started && !mark.app_limited && !self.full_pipe {
            self.look_for_full_pipe();
        }
    }

    /// draft §4.3.2.2: the rate has stopped to grow.
    fn look_for_full_pipe(&mut self) {
        let rate = self.rate();
        if rate >= self.full_rate.saturating_add(self.full_rate / 4).max(1) {
            self.full_rate = rate;
            self.full_rounds = 0;
            return;
        }
        self.full_rounds += 1;
        self.full_pipe = self.full_rounds >= FULL_ROUNDS;
    }

    fn maybe_drained(&mut self, arrived: &Arrived) {
        if self.bdp(UNIT).is_some_and(|bdp| arrived.pipe <= bdp) {
            self.begin_cycle(arrived.now);
        }
    }

    /// Any phase but the one that drains, as the draft has it: chosen by what was delivered, which differs
    /// from flow to flow.
    fn begin_cycle(&mut self, now: Instant) {
        let phase = match (self.delivered >> 4) % 7 {
            0 => 0,
            n => n as u8 + 1,
        };
        self.mode = Mode::ProbeBw { phase };
        self.phase_at = now;
    }

    /// draft §4.3.4.2.
    fn advance_cycle(&mut self, arrived: &Arrived, phase: u8) {
        let long = arrived.now.since(self.phase_at) > self.min_rtt.unwrap_or(Duration::ZERO);
        let gain = self.pacing_gain();
        let filled = |gain| self.bdp(gain).is_some_and(|bdp| arrived.pipe >= bdp);
        let over = match gain {
            UNIT => long,
            gain if gain > UNIT => long && (arrived.lost || filled(gain)),
            _ => long || !filled(UNIT),
        };
        if over {
            self.mode = Mode::ProbeBw { phase: (phase + 1) % CYCLE.len() as u8 };
            self.phase_at = arrived.now;
        }
    }

    /// draft §4.1.2 and §4.3.5.
    fn take_rtt(&mut self, arrived: &Arrived) {
        let now = arrived.now;
        let expired = self.min_rtt.is_some() && now.since(self.min_rtt_at) > MIN_RTT_AGE_MAX;
        if let Some(rtt) = arrived.rtt.filter(|rtt| !rtt.is_zero())
            && (expired || self.min_rtt.is_none_or(|least| rtt <= least))
        {
            self.min_rtt = Some(rtt);
            self.min_rtt_at = now;
        }
        if expired && !matches!(self.mode, Mode::ProbeRtt { .. }) {
            self.mode = Mode::ProbeRtt { until: None, round: self.round };
        }
        if let Mode::ProbeRtt { until, round } = self.mode {
            match until {
                None if arrived.pipe <= u64::from(SEGMENTS_MIN * arrived.mss) => {
                    self.mode = Mode::ProbeRtt { until: Some(now + PROBE_RTT), round: self.round };
                }
                Some(until) if now >= until && self.round != round => {
                    self.min_rtt_at = now;
                    if self.full_pipe {
                        self.begin_cycle(now);
                    } else {
                        self.mode = Mode::Startup;
                    }
                }
                _ => {}
            }
        }
    }

    /// The window after an acknowledgement of `acked` octets outside of loss recovery (draft §4.2.3).
    pub fn window(&mut self, cwnd: u32, acked: u32, mss: u32, initial: u32) -> u32 {
        let floor = SEGMENTS_MIN * mss;
        if matches!(self.mode, Mode::ProbeRtt { .. }) {
            self.window_before = self.window_before.max(cwnd);
            return cwnd.min(floor);
        }
        let cwnd = cwnd.max(core::mem::take(&mut self.window_before));
        let grown = cwnd.saturating_add(acked);
        let Some(bdp) = self.bdp(self.cwnd_gain()) else { return grown.max(floor) };
        // draft §4.2.3.2: bursts of segmentation offload at both ends, and one on its way.
        let quantum = (self.rate() / 1000).min(64 << 10).max(2 * u64::from(mss));
        let target = u32::try_from(bdp.saturating_add(3 * quantum)).unwrap_or(u32::MAX);
        let next = if self.full_pipe {
            grown.min(target)
        } else if cwnd < target || self.delivered < u64::from(initial) {
            grown
        } else {
            cwnd
        };
        next.max(floor)
    }
}

impl Algorithm for Bbr {
    /// Only after a time-out, on the way back to where the window was; the model does the rest.
    fn grow(&mut self, _now: Instant, cwnd: u32, mss: u32, acked: u32, _srtt: Duration) -> u32 {
        self.window(cwnd, acked, mss, cwnd)
    }

    /// A loss says nothing about the path's rate: the window is given back when it is repaired.
    fn shrink(&mut self, cwnd: u32, _flight: u32, mss: u32) -> u32 {
        cwnd.max(SEGMENTS_MIN * mss)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MSS: u32 = 1000;

    /// A path of a rate and a round trip, with a queue that holds everything.
    struct Path {
        bbr: Bbr,
        now: Instant,
        cwnd: u32,
        rate: u64,
        rtt: Duration,
        /// End and time of arrival of what is under way, and when it was sent.
        under_way: std::collections::VecDeque<(Position, Instant, Instant)>,
        sent: Position,
        next_send: Instant,
        link_free: Instant,
    }

    impl Path {
        fn new(rate: u64, rtt: Duration) -> Self {
            let now = Instant::from_millis(1000);
            Path {
                bbr: Bbr::default(),
                now,
                cwnd: 10 * MSS,
                rate,
                rtt,
                under_way: Default::default(),
                sent: Position::FIRST,
                next_send: now,
                link_free: now,
            }
        }

        fn pipe(&self) -> u64 {
            self.under_way.len() as u64 * u64::from(MSS)
        }

        fn run(&mut self, span: Duration) -> u64 {
            let (end, before) = (self.now + span, self.bbr.delivered);
            while self.now < end {
                let ack = self.under_way.front().map(|(_, at, _)| *at);
                let may = self.pipe() + u64::from(MSS) <= u64::from(self.cwnd);
                if may && ack.is_none_or(|at| self.next_send <= at) {
                    self.now = self.now.max(self.next_send);
                    self.sent = self.sent.plus(MSS.into());
                    self.bbr.on_sent(self.now, self.sent, self.pipe(), false);
                    let service = Duration::from_nanos(u64::from(MSS) * 1_000_000_000 / self.rate);
                    self.link_free = self.link_free.max(self.now) + service;
                    self.under_way.push_back((self.sent, self.link_free + self.rtt, self.now));
                    let pace = self.bbr.pacing_rate().unwrap_or(u64::MAX / 2);
                    self.next_send = self.now + Duration::from_nanos(u64::from(MSS) * 1_000_000_000 / pace);
                    continue;
                }
                let (position, at, sent) = self.under_way.pop_front().expect("something is under way");
                self.now = self.now.max(at);
                let arrived = Arrived {
                    now: self.now,
                    octets: MSS.into(),
                    highest: position,
                    rtt: Some(self.now.since(sent)),
                    pipe: self.pipe(),
                    lost: false,
                    mss: MSS,
                };
                self.bbr.on_arrived(&arrived);
                self.cwnd = self.bbr.window(self.cwnd, MSS, MSS, 10 * MSS);
            }
            self.bbr.delivered - before
        }
    }

    #[test]
    fn finds_rate_and_round_trip_and_keeps_the_queue_short() {
        let rtt = Duration::from_millis(40);
        let mut path = Path::new(1_000_000, rtt);
        path.run(Duration::from_secs(3));
        assert!(path.bbr.full_pipe && matches!(path.bbr.mode, Mode::ProbeBw { .. }), "{:?}", path.bbr.mode);
        let rate = path.bbr.rate();
        assert!((950_000..1_100_000).contains(&rate), "{rate}");
        assert!(path.bbr.min_rtt.expect("a sample") < rtt + Duration::from_millis(5));
        let delivered = path.run(Duration::from_secs(5));
        assert!(delivered > 4_600_000, "{delivered} octets in five seconds");
        assert!(path.pipe() < 2 * 40_000 + 20_000, "the queue is bounded: {}", path.pipe());
    }

    #[test]
    fn segments_may_be_as_large_as_any() {
        let mut path = Path::new(1_000_000, Duration::from_millis(20));
        path.run(Duration::from_secs(1));
        assert!(path.bbr.window(100_000, 65_000, 65_000, 130_000) >= 4 * 65_000);
    }

    #[test]
    fn follows_a_path_that_becomes_faster() {
        let mut path = Path::new(500_000, Duration::from_millis(20));
        path.run(Duration::from_secs(2));
        path.rate = 2_000_000;
        path.run(Duration::from_secs(4));
        assert!(path.bbr.rate() > 1_800_000, "{}", path.bbr.rate());
    }

    #[test]
    fn the_round_trip_is_measured_anew_with_an_empty_pipe() {
        let mut path = Path::new(1_000_000, Duration::from_millis(20));
        path.run(Duration::from_secs(2));
        path.rtt = Duration::from_millis(60);
        let mut probed = false;
        for _ in 0..1500 {
            path.run(Duration::from_millis(10));
            probed |= matches!(path.bbr.mode, Mode::ProbeRtt { .. });
        }
        assert!(probed);
        let rtt = path.bbr.min_rtt.expect("a sample");
        assert!(rtt >= Duration::from_millis(60) && rtt < Duration::from_millis(70), "{rtt:?}");
    }
}
