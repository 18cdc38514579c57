//! Loss recovery: what counts as in flight, what as lost, and what is sent again next.
//!
//! One machine for both kinds of remotes: with SACK it is RFC 6675 (pipe, IsLost, NextSeg) with the
//! rate of RFC 6937 (PRR); without, duplicate acknowledgements stand for SACKed segments and it is
//! RFC 6582 (NewReno). A time-out and a resumed connection are the same third phase: everything up
//! to a point counts as lost and is sent again under slow start.
//!
//! Owned by the control block. It reads the scoreboard and leads the congestion window; it does not
//! build segments and holds no timer.

use core::time::Duration;

use proto::time::Instant;

use super::congestion::Congestion;
use super::ranges::Range;
use super::sack::{DUP_THRESH, Scoreboard};
use super::seq::Position;

/// Where loss recovery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Phase {
    /// Nothing counts as lost.
    #[default]
    Open,
    /// Fast recovery (RFC 6675 §5, RFC 6582 §3.2).
    Recovery,
    /// After a time-out (RFC 6298 §5.4) or a resume: all up to the point counts as lost.
    Loss,
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
#[derive(Debug, Clone, Copy)]
pub struct AckFacts {
    /// When it came.
    pub now: Instant,
    /// Octets SND.UNA moved by.
    pub acked: u64,
    /// Octets the remote holds more than before, acknowledged or reported by SACK.
    pub delivered: u64,
    /// It is a duplicate acknowledgement (RFC 5681 §2, RFC 6675 §2).
    pub duplicate: bool,
    /// The congestion window was what limited the sender.
    pub limited: bool,
    /// SRTT, zero if unknown.
    pub srtt: Duration,
}

/// The variables of RFC 6675 §2, RFC 6582 §3.2 and RFC 6937 §3.
#[derive(Debug, Clone, Copy, Default)]
pub struct Recovery {
    phase: Phase,
    /// RecoveryPoint: the phase ends when this is acknowledged.
    point: Position,
    /// HighRxt: every lost octet below was sent again.
    high_rxt: Position,
    /// Every unreported octet below counts as lost.
    lost_edge: Position,
    /// SND.NXT at the latest retransmission: what is reported above was sent after it.
    rxt_mark: Position,
    /// RescueRxt (RFC 6675 §4, NextSeg rule 4).
    rescue: Position,
    /// Duplicate acknowledgements in a row; without SACK each stands for a segment.
    dup_acks: u32,
    /// prr_delivered (RFC 6937 §3).
    prr_delivered: u32,
    /// prr_out.
    prr_out: u32,
    /// RecoverFS.
    recover_fs: u32,
}

impl Recovery {
    /// The phase.
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// RFC 6675 §4, SetPipe: octets believed to be in the network.
    pub fn pipe(&self, flight: &Flight, board: &Scoreboard) -> u64 {
        let Flight { una, nxt, .. } = *flight;
        let unreported = |edge: Position| {
            let edge = edge.max(una).min(nxt);
            edge.since(una) - board.sacked_within(una, edge)
        };
        let reported = if flight.sack {
            board.sacked_within(una, nxt)
        } else {
            u64::from(self.dup_acks) * u64::from(flight.mss)
        };
        let lost = unreported(self.lost_edge);
        let again = unreported(self.high_rxt);
        nxt.since(una).saturating_sub(reported).saturating_sub(lost) + again
    }

    /// An acknowledgement was taken in; `flight` and `board` are as it left them. Moves the phase
    /// and the congestion window.
    pub fn on_ack(
        &mut self,
        facts: &AckFacts,
        flight: &Flight,
        board: &Scoreboard,
        congestion: &mut Congestion,
    ) {
        self.count_duplicates(facts, flight);
        match self.phase {
            Phase::Open => {
                if self.indicates_loss(flight, board) {
                    self.enter(flight, board, congestion);
                    self.lead_window(facts, flight, board, congestion);
                } else if facts.acked > 0 && facts.limited {
                    congestion.on_ack(facts.now, flight.mss, clamp(facts.acked), facts.srtt);
                }
            }
            Phase::Recovery => {
                if flight.una >= self.point {
                    // RFC 6582 §3.2 step 3, RFC 6937 §3: the window ends at ssthresh.
                    congestion.set_cwnd(congestion.ssthresh(), flight.mss);
                    self.leave(flight);
                    return;
                }
                self.find_losses(facts, flight, board);
                self.lead_window(facts, flight, board, congestion);
            }
            Phase::Loss => {
                if facts.acked > 0 {
                    congestion.on_ack(facts.now, flight.mss, clamp(facts.acked), facts.srtt);
                }
                if flight.una >= self.point {
                    self.leave(flight);
                } else {
                    self.find_lost_again(flight, board);
                }
            }
        }
    }

    /// The tail loss probe was reported by SACK: all below `edge` was sent at least a probe time-out,
    /// two round trips, before it, and counts as lost (RFC 8985 §6.2 step 5, the one case of RACK
    /// that is needed where a whole window and only the probe arrived).
    pub fn on_probe_reported(
        &mut self,
        edge: Position,
        facts: &AckFacts,
        flight: &Flight,
        board: &Scoreboard,
        congestion: &mut Congestion,
    ) {
        if self.phase != Phase::Open || edge <= flight.una {
            return;
        }
        self.enter(flight, board, congestion);
        self.lost_edge = self.lost_edge.max(edge);
        self.lead_window(facts, flight, board, congestion);
    }

    fn count_duplicates(&mut self, facts: &AckFacts, flight: &Flight) {
        if facts.duplicate {
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

    /// RFC 6675 §5 steps 1 and 2; RFC 6582 §3.2 step 2 without SACK.
    fn indicates_loss(&self, flight: &Flight, board: &Scoreboard) -> bool {
        if flight.una >= flight.nxt {
            return false;
        }
        if flight.sack {
            self.dup_acks >= DUP_THRESH || board.lost_edge(flight.mss).is_some_and(|edge| edge > flight.una)
        } else {
            // RFC 6582 §4: duplicates that our own needless retransmissions caused don't count.
            self.dup_acks >= DUP_THRESH && flight.una > self.point
        }
    }

    /// RFC 6675 §5 step 4; RFC 6582 §3.2 steps 2 and 3; RFC 6937 §3.
    fn enter(&mut self, flight: &Flight, board: &Scoreboard, congestion: &mut Congestion) {
        self.phase = Phase::Recovery;
        self.point = flight.nxt;
        self.high_rxt = flight.una;
        self.rescue = Position::SYN;
        self.rxt_mark = flight.nxt;
        self.lost_edge = first_segment_end(flight);
        if let Some(edge) = board.lost_edge(flight.mss) {
            self.lost_edge = self.lost_edge.max(edge);
        }
        self.recover_fs = flight.size().max(1);
        self.prr_delivered = 0;
        self.prr_out = 0;
        congestion.on_loss(flight.size(), flight.mss);
    }

    fn leave(&mut self, flight: &Flight) {
        self.phase = Phase::Open;
        self.high_rxt = flight.una;
        self.lost_edge = flight.una;
        self.dup_acks = 0;
    }

    /// What counts as lost after an acknowledgement inside fast recovery.
    fn find_losses(&mut self, facts: &AckFacts, flight: &Flight, board: &Scoreboard) {
        if !flight.sack {
            if facts.acked > 0 {
                // RFC 6582 §3.2 step 3: a partial acknowledgement shows the next segment lost.
                self.high_rxt = flight.una;
                self.lost_edge = first_segment_end(flight);
            }
            return;
        }
        // RFC 6675 §5 step C with IsLost.
        if let Some(edge) = board.lost_edge(flight.mss) {
            self.lost_edge = self.lost_edge.max(edge);
        }
        if facts.acked > 0 {
            self.lost_edge = self.lost_edge.max(flight.una);
        }
        self.find_lost_again(flight, board);
    }

    /// Octets that were sent after every retransmission have arrived, DupThresh segments of them,
    /// and still the first hole is open: its retransmission was lost too. RFC 6675 would wait for
    /// the timer here.
    fn find_lost_again(&mut self, flight: &Flight, board: &Scoreboard) {
        let later = board.sacked_within(self.rxt_mark, flight.nxt);
        if self.high_rxt > flight.una && later >= u64::from(DUP_THRESH) * u64::from(flight.mss) {
            self.high_rxt = flight.una;
            self.rxt_mark = flight.nxt;
            self.lost_edge = self.lost_edge.max(first_segment_end(flight));
        }
    }

    /// RFC 6937 §3: proportional rate reduction with the slow-start bound; SafeACK of RFC 9937 §6.
    fn lead_window(
        &mut self,
        facts: &AckFacts,
        flight: &Flight,
        board: &Scoreboard,
        congestion: &mut Congestion,
    ) {
        let mss = flight.mss;
        let mut delivered = facts.delivered;
        if !flight.sack && facts.duplicate {
            delivered = u64::from(mss);
        }
        let delivered = clamp(delivered);
        self.prr_delivered = self.prr_delivered.saturating_add(delivered);
        let ssthresh = congestion.ssthresh();
        let pipe = clamp(self.pipe(flight, board));
        let mut count = if pipe > ssthresh {
            let share = u64::from(self.prr_delivered) * u64::from(ssthresh);
            clamp(share.div_ceil(u64::from(self.recover_fs.max(1)))).saturating_sub(self.prr_out)
        } else {
            let mut bound = self.prr_delivered.saturating_sub(self.prr_out).max(delivered);
            if facts.acked > 0 {
                bound = bound.saturating_add(mss);
            }
            bound.min(ssthresh - pipe)
        };
        // The RFC counts segments: a remainder must not hold back the last one, for which no further
        // acknowledgement might come. And the fast retransmit itself always leaves.
        count = count.div_ceil(mss).max(u32::from(self.prr_out == 0)).saturating_mul(mss);
        congestion.set_cwnd(pipe.saturating_add(count), mss);
    }

    /// RFC 6298 §5.4 to §5.6, RFC 6675 §5.1: the timer expired. SACK reports stay, unless the
    /// caller found the remote to have taken them back and cleared the scoreboard.
    pub fn on_timeout(&mut self, flight: &Flight, congestion: &mut Congestion) {
        let first = self.phase != Phase::Loss;
        congestion.on_timeout(flight.size(), flight.mss, first);
        self.all_lost(flight);
    }

    /// Everything in flight counts as lost, the window stays as it is: after a resume, after a
    /// smaller path MTU (as Linux, tcp_simple_retransmit), after reneging.
    pub fn all_lost(&mut self, flight: &Flight) {
        self.phase = Phase::Loss;
        self.point = flight.nxt;
        self.lost_edge = flight.nxt;
        self.high_rxt = flight.una;
        self.rxt_mark = flight.nxt;
        self.dup_acks = 0;
        if flight.una >= flight.nxt {
            self.leave(flight);
        }
    }

    /// RFC 6675 §4, NextSeg rule 1: the next lost stretch to send again.
    pub fn next_lost(&self, flight: &Flight, board: &Scoreboard) -> Option<Range> {
        if self.phase == Phase::Open {
            return None;
        }
        board.first_gap(self.high_rxt.max(flight.una), self.lost_edge.min(flight.nxt))
    }

    /// RFC 6675 §4, NextSeg rules 3 and 4, for when there is no new data to send: a stretch that
    /// isn't known to be lost, then once the last segment in flight.
    pub fn next_doubtful(&self, flight: &Flight, board: &Scoreboard) -> Option<Range> {
        if self.phase != Phase::Recovery || !flight.sack {
            return None;
        }
        let highest = board.ranges().highest()?;
        if let Some(gap) = board.first_gap(self.high_rxt.max(flight.una), highest.min(flight.nxt)) {
            return Some(gap);
        }
        if flight.una < self.rescue || self.high_rxt >= flight.nxt {
            return None;
        }
        let tail = flight.nxt.minus(u64::from(flight.mss)).max(highest).max(flight.una);
        Some(Range::new(tail, flight.nxt)).filter(|r| !r.is_empty())
    }

    /// `range` was sent again.
    pub fn on_retransmitted(&mut self, range: Range, flight: &Flight, board: &Scoreboard) {
        let highest = board.ranges().highest().unwrap_or(Position::SYN);
        if self.phase == Phase::Recovery && range.end > self.lost_edge && range.start >= highest {
            // RFC 6675 §4 rule 4: HighRxt must not follow a rescue.
            self.rescue = self.point;
        } else {
            self.high_rxt = self.high_rxt.max(range.end);
        }
        self.rxt_mark = flight.nxt;
        self.on_sent(clamp(range.len()));
    }

    /// `octets` were sent, new or again (RFC 6937 §3, prr_out).
    pub fn on_sent(&mut self, octets: u32) {
        if self.phase == Phase::Recovery {
            self.prr_out = self.prr_out.saturating_add(octets);
        }
    }
}

fn first_segment_end(flight: &Flight) -> Position {
    flight.una.plus(u64::from(flight.mss)).min(flight.nxt)
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

    struct Bench {
        recovery: Recovery,
        board: Scoreboard,
        congestion: Congestion,
        flight: Flight,
    }

    impl Bench {
        /// Twenty segments in flight, the window full.
        fn new(sack: bool) -> Self {
            let mut congestion = Congestion::new(Kind::NewReno, MSS);
            congestion.set_cwnd(20 * MSS, MSS);
            let flight = Flight { una: Position::FIRST, nxt: Position::FIRST.plus(20_000), mss: MSS, sack };
            Bench { recovery: Recovery::default(), board: Scoreboard::new(), congestion, flight }
        }

        fn ack(&mut self, acked: u64, sacked: Option<(u64, u64)>) {
            let una = self.flight.una.plus(acked);
            let covered = self.board.advance(una);
            self.flight.una = una;
            let mut newly = 0;
            if let Some((start, end)) = sacked {
                let wire = |p: u64| Position::FIRST.plus(p).on_wire(SeqNum::new(0));
                let block = SackBlock { start: wire(start), end: wire(end) };
                let news = self.board.update(&[block], SeqNum::new(0), una, una, self.flight.nxt);
                newly = news.newly_sacked;
            }
            let facts = AckFacts {
                now: Instant::ZERO,
                acked,
                delivered: acked - covered + newly,
                duplicate: acked == 0,
                limited: true,
                srtt: Duration::from_millis(10),
            };
            self.recovery.on_ack(&facts, &self.flight, &self.board, &mut self.congestion);
        }

        fn room(&self) -> u64 {
            u64::from(self.congestion.cwnd()).saturating_sub(self.recovery.pipe(&self.flight, &self.board))
        }

        fn retransmit(&mut self) -> Option<Range> {
            let lost = self.recovery.next_lost(&self.flight, &self.board)?;
            let range = Range::new(lost.start, lost.end.min(lost.start.plus(u64::from(MSS))));
            self.recovery.on_retransmitted(range, &self.flight, &self.board);
            Some(range)
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
    fn the_window_falls_to_ssthresh_by_the_end() {
        let mut bench = Bench::new(true);
        for n in 1..20 {
            bench.ack(0, Some((1000, (n + 1) * 1000)));
            while bench.room() >= 1000 && bench.retransmit().is_some() {}
        }
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
        let end = bench.flight.nxt.get() - 1;
        bench.flight.nxt = bench.flight.nxt.plus(3000);
        bench.ack(0, Some((1000, end + 3000)));
        assert_eq!(bench.retransmit(), Some(segment(0)));
    }

    #[test]
    fn a_timeout_sends_everything_unreported_again() {
        let mut bench = Bench::new(true);
        bench.ack(0, Some((5000, 6000)));
        bench.recovery.on_timeout(&bench.flight, &mut bench.congestion);
        assert_eq!(bench.recovery.phase(), Phase::Loss);
        assert_eq!(bench.recovery.pipe(&bench.flight, &bench.board), 0);
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
}
