//! SYN-SENT (RFC 9293 §3.10.7.3).

use core::ops::ControlFlow::{Break, Continue};

use proto::time::Instant;

use super::super::control_block::ControlBlock;
use super::super::listen;
use super::super::ranges::Range;
use super::super::reaction::Reaction;
use super::super::segment::Segment;
use super::super::seq::Position;
use super::super::state::{Failure, State};
use super::Step;
use crate::wire::drop_reason::DropReason;

impl ControlBlock {
    pub(super) fn in_syn_sent(&mut self, now: Instant, segment: &Segment) -> Reaction {
        let acknowledged = match self.syn_sent_ack(segment) {
            Continue(acknowledged) => acknowledged,
            Break(reaction) => return reaction,
        };
        if segment.flags.rst() {
            return self.syn_sent_rst(acknowledged);
        }
        // Third step: security, which nobody has.
        self.syn_sent_syn(now, segment, acknowledged)
    }

    /// First step: the ACK bit. Whether it acknowledges the SYN.
    fn syn_sent_ack(&self, segment: &Segment) -> Step<bool> {
        if !segment.flags.ack() {
            return Continue(false);
        }
        // "If SEG.ACK =< ISS or SEG.ACK > SND.NXT, send a reset (unless the RST bit is set)".
        let ack = Position::near(segment.ack, self.iss, self.send.una);
        if ack.is_some_and(|ack| self.send.una < ack && ack <= self.send.nxt) {
            return Continue(true);
        }
        let reply = if segment.flags.rst() { None } else { listen::reply_without_connection(segment) };
        Break(Reaction::answered(DropReason::TcpAckUnsentData, reply))
    }

    /// Second step: the RST bit. Without an acceptable ACK it is a blind guess.
    fn syn_sent_rst(&mut self, acknowledged: bool) -> Reaction {
        if acknowledged {
            self.finish(Failure::ConnectionRefused)
        } else {
            Reaction::dropped(DropReason::TcpInvalidRst)
        }
    }

    /// RFC 7413 §4.2.1: what of the data in the SYN was taken is acknowledged, the rest goes again at once.
    fn settle_syn_data(&mut self, now: Instant, reaction: &mut Reaction) {
        if self.send.una > Position::FIRST {
            let taken = Range::new(Position::FIRST, self.send.una);
            self.sent.remove(taken, |_| {});
            reaction.events.acknowledged = true;
        }
        if self.send.in_flight() > 0 {
            let flight = self.flight();
            self.recovery.all_lost(now, &flight, &mut self.sent);
            self.arm_retransmission(now, true);
        }
    }

    /// Fourth and fifth step: the SYN bit.
    fn syn_sent_syn(&mut self, now: Instant, segment: &Segment, acknowledged: bool) -> Reaction {
        if !segment.flags.syn() {
            return Reaction::dropped(DropReason::TcpFlags);
        }
        self.last_received = now;
        self.take_syn(now, segment);
        if !acknowledged {
            // Simultaneous open: SYN-RECEIVED, <SEQ=ISS><ACK=RCV.NXT><CTL=SYN,ACK>.
            self.state = State::SynReceived;
            self.syn_due = true;
            return Reaction::none();
        }
        let mut reaction = Reaction::none();
        self.sample_rtt(now, segment, Position::FIRST);
        let ack = Position::near(segment.ack, self.iss, self.send.una).unwrap_or(Position::FIRST);
        self.send.una = ack.max(Position::FIRST);
        self.send.set(Position::SYN, self.send.una, u32::from(segment.window));
        self.become_established(now, &mut reaction);
        self.settle_syn_data(now, &mut reaction);
        self.ack_now = true;
        // "If there are other controls or text in the segment, then continue processing at the
        // sixth step": whose sequence number is the one behind the SYN.
        self.check_urg(segment, Position::FIRST);
        if let Break(reaction) = self.process_text(now, segment, Position::FIRST, &mut reaction) {
            return reaction;
        }
        self.check_fin(now, &mut reaction);
        reaction
    }
}
