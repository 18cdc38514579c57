//! Loss recovery: what counts as in flight, what as lost, and what is sent again next.
//!
//! One machine for both kinds of remotes: with SACK it is RACK (RFC 8985) with the rate of RFC 6937
//! (PRR); without, duplicate acknowledgements stand for reported segments and it is RFC 6582 (NewReno).
//! A time-out and a resumed connection are the same third phase: what counts as lost is sent again
//! under slow start. Whether a time-out was needless F-RTO finds out (RFC 5682).
//!
//! Owned by the control block. It reads the scoreboard, marks losses in the log of what was sent, and
//! leads the congestion window; it does not build segments and holds no timer. All of it is soft
//! state: after a death everything in flight counts as lost.

use core::time::Duration;

use proto::time::Instant;

use super::congestion::{Arrived, Congestion, HyStart};
use super::rack::{Delivery, Echo, Rack};
use super::ranges::Range;
use super::sack::{DUP_THRESH, Scoreboard};
use super::sent::SentLog;
use super::seq::Position;
use super::undo::Undo;

/// Where loss recovery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Phase {
    /// Nothing counts as lost.
    #[default]
    Open,
    /// Fast recovery (RFC 8985 §6.2 step 5, RFC 6582 §3.2).
    Recovery,
    /// After a time-out (RFC 6298 §5.4) or a resume: all up to the point counts as lost.
    Loss,
}

/// Where F-RTO stands (RFC 5682 §2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Frto {
    /// Not asked, or answered.
    #[default]
    Off,
    /// Step 1 is done: the first segment goes again, and the next acknowledgement is looked at.
    FirstAgain,
    /// Step 2b is done: new data goes, and the acknowledgement after that decides.
    NewData,
}

/// What is in flight.
#[derive(Debug, Clone, Copy)]
pub struct Flight {
    /// SND.UNA.
    pub una: Position,
    /// SND.NXT.
    pub nxt: Position,
    /// Octets of payload in a full segment.
    pub mss: u32,
    /// Whether SACK was agreed.
    pub sack: bool,
}

impl Flight {
    /// FlightSize (RFC 5681 §2).
    pub fn size(&self) -> u32 {
        u32::try_from(self.nxt.since(self.una)).unwrap_or(u32::MAX)
    }
}

/// What one acknowledgement brought.
#[derive(Debug, Clone, Copy, Default)]
pub struct AckFacts {
    /// When it came, and how old its echo is if SND.UNA moved.
    pub echo: Echo,
    /// Octets SND.UNA moved by.
    pub acked: u64,
    /// Octets the remote holds more than before, acknowledged or reported by SACK.
    pub delivered: u64,
    /// What that took out of the log.
    pub delivery: Delivery,
    /// What the remote says arrived twice (RFC 2883).
    pub dsack: Option<Range>,
    /// It is a duplicate acknowledgement (RFC 5681 §2, RFC 6675 §2).
    pub duplicate: bool,
    /// The congestion window was what limited the sender.
    pub limited: bool,
    /// A full segment of new data could leave, as far as the remote's window goes.
    pub new_data: bool,
    /// SRTT, zero if unknown.
    pub srtt: Duration,
}

/// What loss recovery reads and moves, all of it the control block's.
#[derive(Debug)]
pub struct Parts<'a> {
    /// What is in flight, as the acknowledgement left it.
    pub flight: Flight,
    /// What of that was sent when.
    pub log: &'a mut SentLog,
    /// What of that the remote reported.
    pub board: &'a Scoreboard,
    /// The congestion window.
    pub congestion: &'a mut Congestion,
}

/// The variables of RFC 8985 §5.2, RFC 6582 §3.2, RFC 6937 §3 and RFC 5682 §2.1.
#[derive(Debug, Clone, Default)]
pub struct Recovery {
    phase: Phase,
    frto: Frto,
    /// The time-out's first segment leaves whatever the window says.
    head_due: bool,
    /// RecoveryPoint: the phase ends when this is acknowledged.
    point: Position,
    /// Duplicate acknowledgements in a row; without SACK each stands for a segment.
    dup_acks: u32,
    /// prr_delivered (RFC 6937 §3).
    prr_delivered: u32,
    /// prr_out.
    prr_out: u32,
    /// RecoverFS.
    recover_fs: u32,
    /// Whether lowering the window was right.
    undo: Undo,
    /// RFC 9406, while the first slow start lasts.
    hystart: Option<Box<HyStart>>,
    /// RFC 8985.
    pub(super) rack: Rack,
}

impl Recovery {
    /// The phase.
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// RecoveryPoint; the first place before there was one.
    pub const fn point(&self) -> Position {
        self.point
    }

    /// RFC 6675 §4, SetPipe, over the log: octets believed to be in the network.
    pub fn pipe(&self, flight: &Flight, log: &SentLog) -> u64 {
        let out = log.held() - log.lost();
        if flight.sack { out } else { out.saturating_sub(u64::from(self.dup_acks) * u64::from(flight.mss)) }
    }

    /// An acknowledgement was taken in. Moves the phase and the congestion window; says how long to wait
    /// until more may count as lost (RFC 8985 §6.2 step 5).
    pub fn on_ack(&mut self, facts: &AckFacts, parts: &mut Parts<'_>) -> Option<Duration> {
        self.count_duplicates(facts, &parts.flight);
        self.rack.on_delivered(facts.echo.now, &facts.delivery);
        if facts.dsack.is_some() {
            self.rack.on_dsack(parts.flight.una, parts.flight.nxt);
        }
        self.undo_by_dsack(facts, parts);
        self.undo_by_timestamp(facts, parts);
        let left = self.phase != Phase::Open && parts.flight.una >= self.point;
        if left {
            self.leave(parts);
        }
        let (newly_lost, wait) = self.detect(facts, parts);
        let pipe = self.pipe(&parts.flight, parts.log);
        let rtt = facts.delivery.is_sample().then(|| self.rack.rtt());
        let (highest, mss) = (self.rack.highest().max(parts.flight.una), parts.flight.mss);
        parts.congestion.on_arrived(|| Arrived {
            now: facts.echo.now,
            octets: facts.delivered,
            highest,
            rtt,
            pipe,
            lost: newly_lost,
            mss,
        });
        match self.phase {
            Phase::Open => {
                if parts.log.lost() > 0 {
                    self.enter(parts);
                    self.lead_window(facts, newly_lost, parts);
                } else if facts.acked > 0 && !left {
                    self.grow(facts, rtt, parts);
                }
            }
            Phase::Recovery => self.lead_window(facts, newly_lost, parts),
            Phase::Loss => self.after_timeout(facts, parts),
        }
        wait
    }

    /// The window grows, if it was what limited the sender.
    fn grow(&mut self, facts: &AckFacts, rtt: Option<Duration>, parts: &mut Parts<'_>) {
        let (flight, acked) = (parts.flight, clamp(facts.acked));
        let congestion = &mut *parts.congestion;
        if !congestion.in_first_slow_start() {
            self.hystart = None;
            if facts.limited {
                congestion.on_ack(facts.echo.now, flight.mss, acked, facts.srtt);
            } else {
                congestion.on_unused(facts.echo.now);
            }
            return;
        }
        let hystart = self.hystart.get_or_insert_default();
        let growth = hystart.on_ack(flight.una, flight.nxt, rtt);
        if facts.limited {
            congestion.on_first_ack(facts.echo.now, flight.mss, acked, facts.srtt, growth);
        }
    }

    /// RFC 8985 §6.2 step 5, the reordering timer expired: what still has not arrived is lost.
    pub fn on_reordering_timer(
        &mut self,
        now: Instant,
        srtt: Duration,
        parts: &mut Parts<'_>,
    ) -> Option<Duration> {
        let facts = AckFacts { echo: Echo { now, age_ms: None }, srtt, ..AckFacts::default() };
        let (newly_lost, wait) = self.detect(&facts, parts);
        if self.phase == Phase::Open && parts.log.lost() > 0 {
            self.enter(parts);
        }
        if self.phase == Phase::Recovery && newly_lost {
            self.lead_window(&facts, newly_lost, parts);
        }
        wait
    }

    fn count_duplicates(&mut self, facts: &AckFacts, flight: &Flight) {
        if self.phase == Phase::Loss {
            // After a time-out they tell nothing of what was sent since.
            self.dup_acks = 0;
        } else if facts.duplicate {
            // Never more than there are segments in flight, whatever a remote sends.
            let most = flight.size().div_ceil(flight.mss);
            self.dup_acks = (self.dup_acks + 1).min(most);
        } else if facts.acked > 0 {
            // RFC 6582 §3.2 step 3: of a partial acknowledgement's segments, one was the lost one,
            // the others had been counted as they arrived.
            let segments = clamp(facts.acked).div_ceil(flight.mss);
            self.dup_acks = match self.phase {
                Phase::Open => 0,
                _ => self.dup_acks.saturating_sub(segments.saturating_sub(1)),
            };
        }
    }

    /// What counts as lost after an acknowledgement: whether there is more, and when more may be.
    fn detect(&mut self, facts: &AckFacts, parts: &mut Parts<'_>) -> (bool, Option<Duration>) {
        let Parts { flight, log, board, .. } = parts;
        if !flight.sack {
            return (self.detect_without_sack(facts, flight, log), None);
        }
        if self.phase == Phase::Open && board.is_empty() && self.rack.is_idle(log) {
            return (false, None);
        }
        let many = self.dup_acks >= DUP_THRESH || board.is_thick(flight.mss);
        let window = self.rack.reordering_window(self.phase != Phase::Open, many, facts.srtt);
        self.rack.detect(facts.echo.now, log, window)
    }

    /// RFC 6582 §3.2: the third duplicate shows the first segment lost, a partial acknowledgement the
    /// next. After a time-out everything counts as lost already.
    fn detect_without_sack(&self, facts: &AckFacts, flight: &Flight, log: &mut SentLog) -> bool {
        let lost = match self.phase {
            // RFC 6582 §4: duplicates that our own needless retransmissions caused don't count.
            Phase::Open => self.dup_acks >= DUP_THRESH && flight.una > self.point,
            Phase::Recovery => facts.acked > 0,
            Phase::Loss => false,
        };
        if lost && flight.una < flight.nxt {
            log.mark_lost(first_segment(flight));
        }
        lost
    }

    /// Step 4 of RFC 6675 §5; RFC 6582 §3.2 steps 2 and 3; RFC 6937 §3.
    fn enter(&mut self, parts: &mut Parts<'_>) {
        let flight = parts.flight;
        self.undo.remember(parts.congestion, flight.una);
        self.phase = Phase::Recovery;
        self.frto = Frto::Off;
        self.point = flight.nxt;
        self.recover_fs = flight.size().max(1);
        self.prr_delivered = 0;
        self.prr_out = 0;
        parts.congestion.on_loss(flight.size(), flight.mss);
    }

    /// The recovery point is acknowledged.
    fn leave(&mut self, parts: &mut Parts<'_>) {
        if self.phase == Phase::Recovery {
            // RFC 6582 §3.2 step 3, RFC 6937 §3: the window ends at ssthresh.
            let ssthresh = parts.congestion.ssthresh();
            parts.congestion.set_cwnd(ssthresh, parts.flight.mss);
        }
        self.rack.on_recovered();
        self.phase = Phase::Open;
        self.frto = Frto::Off;
        self.head_due = false;
        self.dup_acks = 0;
    }

    /// The lowered window was a mistake: as it was before, and what counted as lost is on its way.
    fn undo(&mut self, parts: &mut Parts<'_>) {
        self.undo.restore(parts.congestion);
        parts.log.unmark_lost();
        self.phase = Phase::Open;
        self.frto = Frto::Off;
        self.head_due = false;
        self.dup_acks = 0;
    }

    /// All that was sent again arrived twice, says the remote: nothing had been lost.
    fn undo_by_dsack(&mut self, facts: &AckFacts, parts: &mut Parts<'_>) {
        if facts.dsack.is_some_and(|twice| self.undo.is_all_needless(twice)) {
            self.rack.on_needless();
            self.undo(parts);
        }
    }

    /// An original arrived that counted as lost. As long as something else was sent again and is under way
    /// the window stays low, and what else counted as lost is judged anew, by a wider reordering window.
    fn undo_by_timestamp(&mut self, facts: &AckFacts, parts: &mut Parts<'_>) {
        let may = self.phase == Phase::Recovery && parts.flight.sack && facts.acked > 0;
        if !may || !self.undo.is_original(&facts.echo) {
            return;
        }
        self.rack.on_needless();
        if parts.log.iter().any(|stretch| stretch.again && !stretch.lost) {
            parts.log.unmark_lost();
        } else {
            self.undo(parts);
        }
    }

    /// RFC 6937 §3: proportional rate reduction with the slow-start bound; where more was lost just
    /// now, or nothing is acknowledged, with the conservative one (SafeACK of RFC 9937 §6).
    fn lead_window(&mut self, facts: &AckFacts, newly_lost: bool, parts: &mut Parts<'_>) {
        let Parts { flight, log, congestion, .. } = parts;
        let mss = flight.mss;
        let mut delivered = facts.delivered;
        if !flight.sack && facts.duplicate {
            delivered = u64::from(mss);
        }
        let delivered = clamp(delivered);
        self.prr_delivered = self.prr_delivered.saturating_add(delivered);
        let ssthresh = congestion.ssthresh();
        let pipe = clamp(self.pipe(flight, log));
        let mut count = if pipe > ssthresh {
            let share = u64::from(self.prr_delivered) * u64::from(ssthresh);
            clamp(share.div_ceil(u64::from(self.recover_fs.max(1)))).saturating_sub(self.prr_out)
        } else {
            let mut bound = self.prr_delivered.saturating_sub(self.prr_out).max(delivered);
            if facts.acked > 0 && !(newly_lost && flight.sack) {
                bound = bound.saturating_add(mss);
            }
            bound.min(ssthresh - pipe)
        };
        // The RFC counts segments: a remainder must not hold back the last one, for which no further
        // acknowledgement might come. And the fast retransmit itself always leaves.
        count = count.div_ceil(mss).max(u32::from(self.prr_out == 0)).saturating_mul(mss);
        congestion.set_cwnd(pipe.saturating_add(count), mss);
    }

    /// RFC 6298 §5.4 to §5.6, RFC 8985 §6.3, RFC 5682 §2.1 step 1: the timer expired. SACK reports stay,
    /// unless the caller found the remote to have taken them back and cleared the scoreboard.
    pub fn on_timeout(&mut self, now: Instant, srtt: Duration, parts: &mut Parts<'_>) {
        let flight = parts.flight;
        let first = self.phase != Phase::Loss;
        if self.phase == Phase::Open {
            self.undo.remember(parts.congestion, flight.una);
        }
        parts.congestion.on_timeout(flight.size(), flight.mss, first);
        // RFC 5682 §2.1 step 1: not for a time-out in the middle of another one's recovery, and with
        // a single segment there is nothing to ask.
        self.frto = if first && flight.size() > flight.mss { Frto::FirstAgain } else { Frto::Off };
        self.phase = Phase::Loss;
        self.point = flight.nxt;
        self.dup_acks = 0;
        self.head_due = true;
        if parts.log.front().is_none_or(|front| front.range.start > flight.una) {
            parts.log.assume_lost(now, Range::new(flight.una, flight.nxt));
        } else if flight.sack {
            // RFC 8985 §6.3: the first segment, and what would have arrived by now.
            let window = self.rack.reordering_window(true, true, srtt);
            let rack = self.rack;
            parts.log.mark_lost_where(|stretch| rack.is_overdue(now, stretch, window));
            parts.log.mark_lost(first_segment(&flight));
        } else {
            parts.log.mark_lost_where(|_| true);
        }
    }

    /// An acknowledgement after a time-out that does not end the phase.
    fn after_timeout(&mut self, facts: &AckFacts, parts: &mut Parts<'_>) {
        let mss = parts.flight.mss;
        match self.frto {
            Frto::Off => {}
            // RFC 5682 §2.1 step 2: a duplicate means that the usual recovery is right; an advance that
            // leaves something, that two new segments go first.
            Frto::FirstAgain if self.head_due => {}
            Frto::FirstAgain if facts.acked > 0 && facts.new_data => {
                self.frto = Frto::NewData;
                let pipe = clamp(self.pipe(&parts.flight, parts.log));
                parts.congestion.set_cwnd(pipe.saturating_add(2 * mss), mss);
                return;
            }
            Frto::FirstAgain => self.frto = Frto::Off,
            // Step 3 and §3.1 step 3: what was never sent again has arrived, so the time-out was needless.
            Frto::NewData if facts.delivery.original > 0 => {
                self.undo(parts);
                return;
            }
            Frto::NewData => {
                self.frto = Frto::Off;
                parts.congestion.set_cwnd(3 * mss, mss);
                return;
            }
        }
        if facts.acked > 0 {
            parts.congestion.on_ack(facts.echo.now, mss, clamp(facts.acked), facts.srtt);
        }
    }

    /// Everything in flight counts as lost, also what was reported, and nothing is known of when it was
    /// sent: after a resume, after reneging. The window stays as it is.
    pub fn all_lost(&mut self, now: Instant, flight: &Flight, log: &mut SentLog) {
        log.assume_lost(now, Range::new(flight.una, flight.nxt));
        self.send_lost_again(flight, log);
    }

    /// Everything in flight that isn't reported counts as lost, the window stays as it is: after a
    /// smaller path MTU (as Linux, tcp_simple_retransmit), after a change of drivers.
    pub fn unreported_lost(&mut self, flight: &Flight, log: &mut SentLog) {
        log.mark_lost_where(|_| true);
        self.send_lost_again(flight, log);
    }

    /// What was lost tells nothing of congestion (RFC 4821 §7.6.2): the window is as before, and what is
    /// missing goes again.
    pub fn forgive(&mut self, parts: &mut Parts<'_>) {
        self.undo.restore(parts.congestion);
        let flight = parts.flight;
        self.send_lost_again(&flight, parts.log);
    }

    fn send_lost_again(&mut self, flight: &Flight, log: &SentLog) {
        self.phase = if log.lost() == 0 { Phase::Open } else { Phase::Loss };
        self.frto = Frto::Off;
        self.head_due = false;
        self.undo.forget();
        self.point = flight.nxt;
        self.dup_acks = 0;
    }

    /// The next lost stretch to send again; not while F-RTO waits for what new data shows.
    pub fn next_lost(&self, log: &SentLog) -> Option<Range> {
        if self.phase == Phase::Open || self.frto == Frto::NewData {
            return None;
        }
        log.first_lost()
    }

    /// Whether a segment may go again although the window has no room for it.
    pub const fn head_due(&self) -> bool {
        self.head_due
    }

    /// `octets` were sent again.
    pub fn on_sent_again(&mut self, now: Instant, octets: u64) {
        self.head_due = false;
        self.undo.on_sent_again(now, clamp(octets));
        self.on_sent(clamp(octets));
    }

    /// `octets` were sent, new or again (RFC 6937 §3, prr_out).
    pub fn on_sent(&mut self, octets: u32) {
        if self.phase == Phase::Recovery {
            self.prr_out = self.prr_out.saturating_add(octets);
        }
    }
}

fn first_segment(flight: &Flight) -> Range {
    Range::new(flight.una, flight.una.plus(u64::from(flight.mss)).min(flight.nxt))
}

fn clamp(octets: u64) -> u32 {
    u32::try_from(octets).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::congestion::Kind;
    use super::super::segment::SackBlock;
    use super::super::seq::SeqNum;
    use super::*;

    const MSS: u32 = 1000;
    const RTT: Duration = Duration::from_millis(10);

    struct Bench {
        now: Instant,
        recovery: Recovery,
        board: Scoreboard,
        log: SentLog,
        congestion: Congestion,
        flight: Flight,
    }

    impl Bench {
        /// Twenty segments in flight, the window full.
        fn new(sack: bool) -> Self {
            let mut congestion = Congestion::new(Kind::NewReno, MSS);
            congestion.set_cwnd(20 * MSS, MSS);
            let now = Instant::from_millis(1000);
            let flight = Flight { una: Position::FIRST, nxt: Position::FIRST.plus(20_000), mss: MSS, sack };
            let mut log = SentLog::default();
            log.on_sent(now, Range::new(flight.una, flight.nxt));
            let (recovery, board) = (Recovery::default(), Scoreboard::new());
            Bench { now: now + RTT, recovery, board, log, congestion, flight }
        }

        fn with<T>(&mut self, act: impl FnOnce(&mut Recovery, &mut Parts<'_>) -> T) -> T {
            let Bench { recovery, board, log, congestion, flight, .. } = self;
            act(recovery, &mut Parts { flight: *flight, log, board, congestion })
        }

        fn ack(&mut self, acked: u64, sacked: Option<(u64, u64)>) -> Option<Duration> {
            self.ack_with(acked, sacked, None)
        }

        fn ack_with(
            &mut self,
            acked: u64,
            sacked: Option<(u64, u64)>,
            dsack: Option<Range>,
        ) -> Option<Duration> {
            let echo = Echo { now: self.now, age_ms: None };
            let point = self.recovery.point();
            let mut delivery = Delivery::default();
            let mut delivered = 0;
            let una = self.flight.una.plus(acked);
            let Bench { recovery, board, log, .. } = self;
            let mut take = |range| {
                log.remove(range, |s| {
                    delivered += s.range.len();
                    recovery.rack.note(&mut delivery, s, &echo, point);
                });
            };
            take(Range::new(self.flight.una, una));
            if let Some((start, end)) = sacked {
                let wire = |p: u64| Position::FIRST.plus(p).on_wire(SeqNum::new(0));
                let block = SackBlock { start: wire(start), end: wire(end) };
                board.update(&[block], SeqNum::new(0), una, una, self.flight.nxt, take);
            }
            board.advance(una);
            self.flight.una = una;
            let facts = AckFacts {
                echo,
                acked,
                delivered,
                delivery,
                dsack,
                duplicate: acked == 0,
                limited: true,
                new_data: true,
                srtt: RTT,
            };
            self.with(|recovery, parts| recovery.on_ack(&facts, parts))
        }

        fn room(&self) -> u64 {
            u64::from(self.congestion.cwnd()).saturating_sub(self.recovery.pipe(&self.flight, &self.log))
        }

        fn retransmit(&mut self) -> Option<Range> {
            let lost = self.recovery.next_lost(&self.log)?;
            let range = Range::new(lost.start, lost.end.min(lost.start.plus(u64::from(MSS))));
            self.log.on_sent_again(self.now, range);
            self.recovery.on_sent_again(self.now, range.len());
            Some(range)
        }

        fn send_new(&mut self) {
            let range = Range::new(self.flight.nxt, self.flight.nxt.plus(1000));
            self.flight.nxt = range.end;
            self.log.on_sent(self.now, range);
            self.recovery.on_sent(MSS);
        }

        fn time_out(&mut self) {
            self.now = self.now + Duration::from_millis(300);
            let now = self.now;
            self.with(|recovery, parts| recovery.on_timeout(now, RTT, parts));
        }
    }

    fn segment(index: u64) -> Range {
        let start = Position::FIRST.plus(index * 1000);
        Range::new(start, start.plus(1000))
    }

    #[test]
    fn three_duplicates_make_a_fast_retransmit() {
        for sack in [false, true] {
            let mut bench = Bench::new(sack);
            for n in 1..=3 {
                assert_eq!(bench.recovery.phase(), Phase::Open);
                // Limited transmit (RFC 3042): a duplicate makes room for a segment.
                assert_eq!(bench.room(), (n - 1) * 1000);
                bench.ack(0, sack.then_some((n * 1000, (n + 1) * 1000)));
            }
            assert_eq!(bench.recovery.phase(), Phase::Recovery);
            assert!(bench.room() >= 1000);
            assert_eq!(bench.retransmit(), Some(segment(0)));
            assert_eq!(bench.retransmit(), None);
        }
    }

    #[test]
    fn fewer_reports_wait_a_quarter_of_a_round_trip() {
        let mut bench = Bench::new(true);
        let wait = bench.ack(0, Some((1000, 2000)));
        assert_eq!((bench.recovery.phase(), wait), (Phase::Open, Some(RTT / 4)));
        bench.now = bench.now + RTT / 4;
        let now = bench.now;
        bench.with(|recovery, parts| recovery.on_reordering_timer(now, RTT, parts));
        assert_eq!(bench.recovery.phase(), Phase::Recovery);
        assert_eq!(bench.retransmit(), Some(segment(0)));
        assert_eq!(bench.retransmit(), None);
    }

    #[test]
    fn where_reordering_was_seen_three_reports_are_not_enough() {
        let mut bench = Bench::new(true);
        bench.ack(0, Some((1000, 2000)));
        bench.ack(2000, None);
        assert!(bench.recovery.rack.reordering_seen());
        let wait = bench.ack(0, Some((3000, 8000)));
        assert_eq!((bench.recovery.phase(), wait), (Phase::Open, Some(RTT / 4)));
    }

    #[test]
    fn the_window_falls_to_ssthresh_by_the_end() {
        let mut bench = Bench::new(true);
        for n in 1..20 {
            bench.ack(0, Some((1000, (n + 1) * 1000)));
            while bench.room() >= 1000 && bench.retransmit().is_some() {}
        }
        bench.now = bench.now + RTT;
        bench.ack(20_000, None);
        assert_eq!(bench.recovery.phase(), Phase::Open);
        assert_eq!(bench.congestion.cwnd(), bench.congestion.ssthresh());
        assert_eq!(bench.congestion.ssthresh(), 10_000);
    }

    #[test]
    fn every_hole_is_sent_again_once() {
        let mut bench = Bench::new(true);
        // Segments 0, 2, 4 are lost.
        bench.ack(0, Some((1000, 2000)));
        bench.ack(0, Some((3000, 4000)));
        let mut again = Vec::new();
        for n in 5..20 {
            bench.ack(0, Some((5000, (n + 1) * 1000)));
            while bench.room() >= 1000 {
                match bench.retransmit() {
                    Some(range) => again.push(range),
                    None => break,
                }
            }
        }
        assert_eq!(again, [segment(0), segment(2), segment(4)]);
    }

    #[test]
    fn a_partial_acknowledgement_shows_the_next_loss() {
        let mut bench = Bench::new(false);
        for _ in 0..3 {
            bench.ack(0, None);
        }
        assert_eq!(bench.retransmit(), Some(segment(0)));
        bench.ack(5000, None);
        assert_eq!(bench.recovery.phase(), Phase::Recovery);
        assert_eq!(bench.retransmit(), Some(segment(5)));
    }

    #[test]
    fn a_lost_retransmission_is_noticed() {
        let mut bench = Bench::new(true);
        for n in 1..20 {
            bench.ack(0, Some((1000, (n + 1) * 1000)));
            while bench.room() >= 1000 && bench.retransmit().is_some() {}
        }
        bench.now = bench.now + Duration::from_millis(1);
        bench.send_new();
        bench.now = bench.now + RTT;
        bench.ack(0, Some((20_000, 21_000)));
        assert_eq!(bench.retransmit(), Some(segment(0)));
    }

    #[test]
    fn new_losses_keep_the_rate_of_what_arrives() {
        // Sixteen of twenty are lost: below ssthresh each acknowledgement lets out what it brought.
        let mut bench = Bench::new(true);
        bench.ack(0, Some((16_000, 17_000)));
        bench.ack(0, Some((16_000, 18_000)));
        bench.ack(0, Some((16_000, 19_000)));
        assert_eq!(bench.recovery.phase(), Phase::Recovery);
        let mut sent = 0;
        while bench.room() >= 1000 && bench.retransmit().is_some() {
            sent += 1;
        }
        assert_eq!(sent, 1, "no burst");
    }

    #[test]
    fn a_timeout_sends_everything_unreported_again() {
        let mut bench = Bench::new(true);
        bench.ack(0, Some((5000, 6000)));
        bench.time_out();
        assert_eq!(bench.recovery.phase(), Phase::Loss);
        assert_eq!(bench.recovery.pipe(&bench.flight, &bench.log), 0);
        assert_eq!(bench.room(), 1000);
        let mut again = Vec::new();
        while let Some(range) = bench.retransmit() {
            again.push(range.start);
        }
        assert_eq!(again.len(), 19);
        assert!(!again.contains(&segment(5).start));
        bench.ack(20_000, None);
        assert_eq!(bench.recovery.phase(), Phase::Open);
    }

    #[test]
    fn a_needless_timeout_is_undone() {
        for sack in [false, true] {
            let mut bench = Bench::new(sack);
            bench.time_out();
            assert_eq!(bench.retransmit(), Some(segment(0)));
            // The acknowledgements had only been late.
            bench.ack(1000, None);
            assert_eq!(bench.recovery.next_lost(&bench.log), None, "new data goes first");
            assert!(bench.room() >= 2000);
            bench.send_new();
            bench.send_new();
            bench.ack(1000, None);
            assert_eq!(bench.recovery.phase(), Phase::Open);
            assert!(bench.congestion.cwnd() >= 20_000);
            assert_eq!(bench.log.lost(), 0);
        }
    }

    #[test]
    fn a_rightful_timeout_is_not() {
        for (sack, report) in [(false, None), (true, Some((20_000, 21_000)))] {
            let mut bench = Bench::new(sack);
            bench.time_out();
            bench.retransmit();
            bench.ack(1000, None);
            bench.send_new();
            bench.send_new();
            bench.ack(0, report);
            assert_eq!(bench.recovery.phase(), Phase::Loss);
            assert_eq!(bench.retransmit(), Some(segment(1)));
        }
    }

    #[test]
    fn the_window_comes_back_when_all_that_went_again_arrived_twice() {
        let mut bench = Bench::new(true);
        for n in 1..20 {
            bench.ack(0, Some((1000, (n + 1) * 1000)));
            while bench.room() >= 1000 && bench.retransmit().is_some() {}
        }
        bench.ack(20_000, None);
        assert_eq!(bench.congestion.cwnd(), 10_000);
        bench.ack_with(0, None, Some(Range::new(segment(0).start, segment(0).start.plus(1))));
        assert_eq!(bench.congestion.cwnd(), 10_000, "not all of it");
        bench.ack_with(0, None, Some(segment(0)));
        assert_eq!((bench.recovery.phase(), bench.congestion.cwnd()), (Phase::Open, 20_000));
    }
}
