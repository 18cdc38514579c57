//! Fifth step of RFC 9293 §3.10.7.4: the ACK field, with RFC 5961 §5.2, the round-trip sample,
//! SACK, and what loss recovery makes of it.

use core::ops::ControlFlow::{Break, Continue};
use core::time::Duration;

use proto::time::Instant;

use super::super::control_block::{ControlBlock, FIN_WAIT2_ORPHAN, RttProbe, TIME_WAIT};
use super::super::listen;
use super::super::rack::{Delivery, Echo};
use super::super::ranges::Range;
use super::super::reaction::Reaction;
use super::super::recovery::{AckFacts, Phase};
use super::super::sack::SackNews;
use super::super::segment::{Flags, Segment};
use super::super::seq::Position;
use super::super::state::State;
use super::super::timers::{Deadline, SendTimer};
use super::{Env, Step};
use crate::wire::drop_reason::DropReason;

/// Samples from echoed timestamps beyond this come from a confused remote.
const ECHO_AGE_MAX_MS: u32 = 120_000;

impl ControlBlock {
    pub(super) fn check_ack(
        &mut self,
        now: Instant,
        segment: &Segment,
        seq: Position,
        env: &mut Env<'_>,
        reaction: &mut Reaction,
    ) -> Step {
        // "if the ACK bit is off, drop the segment and return".
        if !segment.flags.ack() {
            return Break(Reaction::dropped(DropReason::TcpFlags));
        }
        let ack = Position::near(segment.ack, self.iss, self.send.una);
        if self.state == State::SynReceived {
            self.check_handshake_ack(now, segment, seq, ack, reaction)?;
        }
        // RFC 5961 §5.2: SND.UNA - MAX.SND.WND <= SEG.ACK <= SND.NXT. What was never sent is not
        // acknowledged (RFC 9293: "If the ACK acks something not yet sent ... then send an ACK").
        let oldest = self.send.una.minus(u64::from(self.send.wnd_max));
        let Some(ack) = ack.filter(|ack| oldest <= *ack && *ack <= self.send.nxt) else {
            return Break(self.challenge(now, DropReason::TcpAckUnsentData, env));
        };
        self.take_ack(now, segment, seq, ack, reaction);
        self.advance_close(now, reaction)
    }

    /// SYN-RECEIVED: "If SND.UNA < SEG.ACK =< SND.NXT, then enter ESTABLISHED state ... If the
    /// segment acknowledgment is not acceptable, form a reset segment <SEQ=SEG.ACK><CTL=RST>".
    fn check_handshake_ack(
        &mut self,
        now: Instant,
        segment: &Segment,
        seq: Position,
        ack: Option<Position>,
        reaction: &mut Reaction,
    ) -> Step {
        let Some(ack) = ack.filter(|ack| self.send.una < *ack && *ack <= self.send.nxt) else {
            let reply = listen::reply_without_connection(segment);
            return Break(Reaction::answered(DropReason::TcpAckUnsentData, reply));
        };
        self.sample_rtt(now, segment, ack);
        let wnd = self.window_of(segment);
        self.send.set(seq, ack, wnd);
        self.send.una = Position::FIRST;
        self.become_established(now, reaction);
        Continue(())
    }

    /// The window a segment says, in octets (RFC 7323 §2.3): not scaled in a SYN.
    fn window_of(&self, segment: &Segment) -> u32 {
        let window = u32::from(segment.window);
        if segment.flags.syn() { window } else { window << self.send.scale }
    }

    /// The own SYN is acknowledged: ESTABLISHED, or FIN-WAIT-1 where CLOSE came before.
    pub(super) fn become_established(&mut self, now: Instant, reaction: &mut Reaction) {
        self.state = if self.fin_written { State::FinWait1 } else { State::Established };
        self.syn_due = false;
        if self.retries > 0 {
            // RFC 5681 §3.1: after a lost SYN the initial window is one segment.
            self.congestion.set_cwnd(self.mss(), self.mss());
        }
        self.retries = 0;
        self.stalled_since = Deadline::NEVER;
        self.rtt.recovered();
        self.timers.stop_send();
        self.arm_keepalive(now);
        reaction.events.established = true;
    }

    /// ESTABLISHED and beyond: SND.UNA, the send window, SACK, loss recovery, the timers.
    fn take_ack(
        &mut self,
        now: Instant,
        segment: &Segment,
        seq: Position,
        ack: Position,
        reaction: &mut Reaction,
    ) {
        let una = self.send.una;
        let acked = ack.since(una);
        let (news, delivery) = self.take_delivery(now, segment, ack);
        if acked > 0 {
            self.sample_rtt(now, segment, ack);
            self.send.una = ack;
            self.retries = 0;
            self.stalled_since = Deadline::NEVER;
            self.soft_failure = None;
            self.rtt.recovered();
            reaction.events.acknowledged = true;
            self.note_full_arrived(now);
        }
        let covered = match &mut self.scoreboard {
            Some(board) => board.advance(self.send.una),
            None => 0,
        };
        // RFC 9293 §3.10.7.4: the send window follows segments that are not older than the last.
        let wnd = self.window_of(segment);
        let window_changed = ack >= una && self.send.update(seq, ack, wnd);
        if wnd == 0 && ack >= una && !self.orphaned {
            // The remote lives and holds its window shut: that is no reason to give up
            // (RFC 9293 §3.8.6.1), as long as there is a client.
            self.retries = 0;
            self.stalled_since = Deadline::NEVER;
        }
        if self.send.una == self.send.nxt {
            self.rtt_probe = RttProbe::default();
        }
        let duplicate = acked == 0
            && ack == una
            && self.send.in_flight() > 0
            && segment.seq_len() == 0
            && if self.agreed.sack { news.newly_sacked > 0 } else { !window_changed };
        self.judge_tail_probe(ack, &news, acked > 0);
        let mut wait = None;
        if acked > 0 || news.newly_sacked > 0 || duplicate || news.duplicate.is_some() {
            let mss = u64::from(self.mss());
            let age_ms = if acked > 0 { self.echo_age(now, segment) } else { None };
            let facts = AckFacts {
                echo: Echo { now, age_ms },
                acked,
                delivered: (acked + news.newly_sacked).saturating_sub(covered),
                delivery,
                dsack: news.duplicate.filter(|twice| !self.is_probe(twice)),
                duplicate,
                limited: self.window_limited,
                new_data: self.unsent().min(self.send.usable()) >= mss,
                srtt: self.rtt.srtt().unwrap_or(Duration::ZERO),
            };
            let before = self.recovery.phase();
            let (recovery, mut parts) = self.recovering();
            wait = recovery.on_ack(&facts, &mut parts);
            self.judge_lost_probe(now, before);
            if self.agreed.ecn && before == Phase::Open && self.recovery.phase() == Phase::Recovery {
                self.ecn.on_reduced(self.send.nxt);
            }
            if self.recovery.phase() != Phase::Open {
                // The loss is known and paid for; the probe has nothing more to tell.
                self.tail_probe.end = Position::SYN;
            }
        }
        self.take_echo(segment, ack, acked as u32);
        self.check_reneging(now);
        self.rearm_after_ack(now, wait, acked > 0, news.newly_sacked > 0);
    }

    /// RFC 3168 §6.1.2: ECE is heard as a loss would be, but nothing goes again.
    fn take_echo(&mut self, segment: &Segment, ack: Position, acked: u32) {
        let heard = self.agreed.ecn && segment.flags.contains(Flags::ECE) && !segment.flags.syn();
        if !heard || ack < self.send.una || self.recovery.phase() != Phase::Open {
            return;
        }
        if self.ecn.on_echo(self.send.una, self.send.nxt) {
            let (mss, flight) = (self.mss(), self.flight().size());
            let ssthresh = self.congestion.on_loss(flight + acked, mss);
            self.congestion.set_cwnd(ssthresh, mss);
            self.ecn.on_reduced(self.send.nxt);
        }
    }

    /// What the segment says has arrived is taken out of the log of what was sent.
    fn take_delivery(&mut self, now: Instant, segment: &Segment, ack: Position) -> (SackNews, Delivery) {
        let mut delivery = Delivery::default();
        let echo = Echo { now, age_ms: self.echo_age(now, segment) };
        let point = self.recovery.point();
        let una = self.send.una;
        let ControlBlock { sent, recovery, scoreboard, .. } = self;
        if ack > una {
            let acknowledged = Range::new(una, ack);
            sent.remove(acknowledged, |s| recovery.rack.note(&mut delivery, s, &echo, point));
        }
        let blocks = segment.options.sack.as_slice();
        if !self.agreed.sack || blocks.is_empty() {
            return (SackNews::default(), delivery);
        }
        // What comes out of order doesn't move TS.Recent (RFC 7323 §4.3): the echo is of something else.
        let echo = Echo { now, age_ms: None };
        let take = |range| sent.remove(range, |s| recovery.rack.note(&mut delivery, s, &echo, point));
        let board = scoreboard.get_or_insert_with(Box::default);
        let news = board.update(blocks, self.iss, ack, ack.max(una), self.send.nxt, take);
        (news, delivery)
    }

    /// How old the echoed timestamp is, in milliseconds rounded up.
    fn echo_age(&self, now: Instant, segment: &Segment) -> Option<u64> {
        let timestamps = segment.options.timestamps.filter(|t| self.agreed.timestamps && t.echo != 0)?;
        let age = self.clock(now).wrapping_sub(timestamps.echo);
        (age < ECHO_AGE_MAX_MS).then_some(u64::from(age))
    }

    /// Whether a DSACK is of the tail loss probe, which tells nothing of reordering.
    fn is_probe(&self, twice: &Range) -> bool {
        self.tail_probe.is_retransmission && twice.end == self.tail_probe.end
    }

    /// RFC 2018 §8: the remote may drop what it reported, as one does that restarted. Then SND.UNA
    /// comes to stand where a reported range begins. Forget the reports, send all again.
    fn check_reneging(&mut self, now: Instant) {
        let una = self.send.una;
        if let Some(board) = &mut self.scoreboard
            && board.is_reneged(una)
        {
            board.clear();
            let flight = self.flight();
            self.recovery.all_lost(now, &flight, &mut self.sent);
        }
    }

    /// RFC 6298 §5.2 and §5.3, with the timers of RFC 8985 in front.
    fn rearm_after_ack(&mut self, now: Instant, wait: Option<Duration>, advanced: bool, sacked: bool) {
        if self.send.in_flight() == 0 {
            self.timers.stop_send();
        } else {
            let restart = match self.timers.send_timer {
                SendTimer::Reordering => true,
                // RFC 8985 §7.2: with reports on the scoreboard the plain time-out takes over.
                SendTimer::TailLossProbe => advanced || sacked,
                _ => advanced,
            };
            self.rearm(now, wait, restart);
        }
        self.arm_persist(now);
    }

    /// The end of the reordering window, if one runs; else, with `restart`, the probe or the time-out anew.
    pub(in super::super) fn rearm(&mut self, now: Instant, wait: Option<Duration>, restart: bool) {
        match wait {
            Some(after) => self.timers.arm_send(SendTimer::Reordering, now, after),
            None if restart => self.arm_retransmission(now, true),
            None => {}
        }
    }

    /// RFC 8985 §7.4.2: whether a probe that was a retransmission repaired a loss, which then has
    /// to slow the sender like any other.
    fn judge_tail_probe(&mut self, ack: Position, news: &SackNews, advanced: bool) {
        let probe = self.tail_probe;
        if probe.end == Position::SYN || ack < probe.end {
            return;
        }
        let arrived_twice = news.duplicate.is_some() || (ack == probe.end && !advanced);
        if !probe.is_retransmission || arrived_twice {
            self.tail_probe.end = Position::SYN;
        } else if ack > probe.end {
            // Data behind the probe is acknowledged, and nobody said that it came twice.
            self.tail_probe.end = Position::SYN;
            let mss = self.mss();
            let ssthresh = self.congestion.on_loss(self.congestion.cwnd(), mss);
            self.congestion.set_cwnd(ssthresh, mss);
        }
    }

    /// RFC 6298 §3 and RFC 7323 §4: the timed segment, or the echoed timestamp where only
    /// retransmissions were out.
    pub(super) fn sample_rtt(&mut self, now: Instant, segment: &Segment, ack: Position) {
        if self.rtt_probe.end != Position::SYN {
            if ack >= self.rtt_probe.end {
                self.rtt.sample(now.since(self.rtt_probe.sent));
                self.rtt_probe = RttProbe::default();
            }
            return;
        }
        let Some(timestamps) = segment.options.timestamps.filter(|_| self.agreed.timestamps) else {
            return;
        };
        let age = self.clock(now).wrapping_sub(timestamps.echo);
        if timestamps.echo != 0 && age < ECHO_AGE_MAX_MS {
            self.rtt.sample(Duration::from_millis(u64::from(age.max(1))));
        }
    }

    /// What the acknowledgement of the own FIN does to each state.
    fn advance_close(&mut self, now: Instant, reaction: &mut Reaction) -> Step {
        if !self.fin_acknowledged() {
            return Continue(());
        }
        match self.state {
            State::FinWait1 => {
                self.state = State::FinWait2;
                if self.orphaned {
                    self.timers.lifetime = Deadline::at(now + FIN_WAIT2_ORPHAN);
                }
            }
            State::Closing => {
                self.enter_time_wait(now);
                reaction.events.time_wait = true;
            }
            State::LastAck => {
                let mut ended = self.finish_orderly();
                ended.events.acknowledged = reaction.events.acknowledged;
                return Break(ended);
            }
            _ => {}
        }
        Continue(())
    }

    /// TIME-WAIT (RFC 9293 §3.4.2): all timers off but its own.
    pub(super) fn enter_time_wait(&mut self, now: Instant) {
        self.state = State::TimeWait;
        self.timers.stop_all();
        self.timers.lifetime = Deadline::at(now + TIME_WAIT);
        self.scoreboard = None;
        self.sent.clear();
        self.out_of_order = None;
    }
}
