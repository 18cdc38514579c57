//! First to fourth step of RFC 9293 §3.10.7.4: is this segment from the remote, and of now?
//!
//! With PAWS (RFC 7323 §5) and the defences of RFC 5961 in their places.

use core::ops::ControlFlow::{Break, Continue};
use core::time::Duration;

use proto::time::Instant;

use super::super::control_block::ControlBlock;
use super::super::reaction::{Reaction, Reopen};
use super::super::segment::{Segment, SegmentOut};
use super::super::seq::Position;
use super::super::state::{Failure, State};
use super::super::timers::Deadline;
use super::{Env, Step};
use crate::wire::drop_reason::DropReason;

/// RFC 7323 §5.5: an older TS.Recent says nothing any more.
const TIMESTAMP_AGE_MAX: Duration = Duration::from_secs(24 * 24 * 3600);

/// Between two acknowledgements of segments outside of the window, against loops of two hosts that
/// correct each other (Linux, tcp_invalid_ratelimit).
const DUP_ACK_INTERVAL: Duration = Duration::from_millis(500);

impl ControlBlock {
    /// First step: check the sequence number. Returns the place of the segment's first number.
    pub(super) fn check_sequence(&mut self, now: Instant, segment: &Segment) -> Step<Position> {
        if self.state == State::TimeWait {
            self.check_new_incarnation(segment)?;
        }
        if self.state == State::SynReceived
            && let Some(place) = self.check_handshake_repeat(segment)?
        {
            return Continue(place);
        }
        // RFC 7323 §5.3, R1: PAWS comes before the sequence number.
        if self.is_from_the_past(now, segment) {
            let reply = self.acknowledge_unacceptable(now, segment);
            return Break(Reaction::answered(DropReason::TcpRfc7323Paws, reply));
        }
        let place = self.place_of(segment).filter(|place| self.is_acceptable(*place, segment.seq_len()));
        let Some(place) = place else {
            return Break(self.refuse_sequence(now, segment));
        };
        self.take_timestamp(now, segment, place);
        Continue(place)
    }

    /// RFC 9293 §3.10.7.4: the four cases of the acceptability test. The window's right edge is the
    /// largest ever advertised.
    fn is_acceptable(&self, place: Position, len: u64) -> bool {
        let (nxt, edge) = (self.receive.nxt, self.receive.edge);
        let end = place.plus(len);
        if edge <= nxt {
            // "special allowance should be made to accept valid ACKs, URGs, and RSTs": at a zero
            // window the header of what comes next counts, its text is cut off later.
            return place == nxt;
        }
        if len == 0 { nxt <= place && place <= edge } else { place < edge && end > nxt }
    }

    /// "If an incoming segment is not acceptable, an acknowledgment should be sent in reply
    /// (unless the RST bit is set, if so drop the segment and return)".
    fn refuse_sequence(&mut self, now: Instant, segment: &Segment) -> Reaction {
        if segment.flags.rst() {
            return Reaction::dropped(DropReason::TcpInvalidSequence);
        }
        let place = self.place_of(segment);
        let old = place.is_some_and(|place| place.plus(segment.seq_len()) <= self.receive.nxt);
        if let (true, Some(place)) = (old && segment.payload_len > 0, place) {
            // RFC 2883 §4.1.1: say that it came twice.
            self.note_duplicate(place, place.plus(u64::from(segment.payload_len)));
        }
        if self.state == State::TimeWait && segment.flags.fin() {
            // RFC 9293 §3.10.7.4, eighth step: the FIN came again; restart the 2 MSL time-out.
            self.enter_time_wait(now);
        }
        let reply = self.acknowledge_unacceptable(now, segment);
        let reason = if old && segment.seq_len() > 0 {
            DropReason::TcpOldData
        } else {
            DropReason::TcpInvalidSequence
        };
        Reaction::answered(reason, reply)
    }

    /// The acknowledgement of an unacceptable segment. Segments with data, with FIN, and probes
    /// just below RCV.NXT are always answered, since they wait for it and can't be part of a loop.
    fn acknowledge_unacceptable(&mut self, now: Instant, segment: &Segment) -> Option<SegmentOut> {
        if segment.flags.rst() {
            return None;
        }
        let is_probe = segment.seq == self.receive.nxt.minus(1).on_wire(self.irs);
        let waits = (segment.seq_len() > 0 && !segment.flags.syn()) || is_probe;
        if !waits && !self.may_correct(now) {
            return None;
        }
        Some(self.assemble_ack(now))
    }

    /// Whether this connection may once more answer what is wrong; then not again for a while.
    fn may_correct(&mut self, now: Instant) -> bool {
        let may = !self.next_dup_ack.is_set() || self.next_dup_ack.is_due(now);
        if may {
            self.next_dup_ack = Deadline::at(now + DUP_ACK_INTERVAL);
        }
        may
    }

    /// RFC 7323 §5.3, R1: the timestamp is older than TS.Recent. RST segments pass (§5.2), and
    /// segments without timestamps too, as in Linux: some hosts leave them out of keepalives, and
    /// dropping those kills connections that work.
    fn is_from_the_past(&self, now: Instant, segment: &Segment) -> bool {
        if !self.agreed.timestamps || segment.flags.rst() {
            return false;
        }
        let Some(timestamps) = segment.options.timestamps else { return false };
        let age = timestamps.value.wrapping_sub(self.timestamps.recent) as i32;
        age < 0 && now.since(self.timestamps.recent_at) < TIMESTAMP_AGE_MAX
    }

    /// RFC 7323 §4.3 (2) and §5.3, R3: TS.Recent follows the segment that will be acknowledged.
    fn take_timestamp(&mut self, now: Instant, segment: &Segment, place: Position) {
        if !self.agreed.timestamps || segment.flags.rst() {
            return;
        }
        let Some(timestamps) = segment.options.timestamps else { return };
        let is_older = (timestamps.value.wrapping_sub(self.timestamps.recent) as i32) < 0;
        let expired = now.since(self.timestamps.recent_at) >= TIMESTAMP_AGE_MAX;
        if place <= self.receive.last_ack_sent && (!is_older || expired) {
            self.timestamps.recent = timestamps.value;
            self.timestamps.recent_at = now;
        }
    }

    /// TIME-WAIT: a SYN that is newer than all before opens a new incarnation (RFC 9293 §3.6.1,
    /// RFC 6191 §2). A RST is not heard here (RFC 1337 §3, fix F1).
    fn check_new_incarnation(&mut self, segment: &Segment) -> Step {
        let flags = segment.flags;
        if flags.rst() {
            return Break(Reaction::dropped(DropReason::TcpInvalidRst));
        }
        if !flags.syn() || flags.ack() || flags.fin() {
            return Continue(());
        }
        let newer_time = self.agreed.timestamps
            && segment
                .options
                .timestamps
                .is_some_and(|t| (t.value.wrapping_sub(self.timestamps.recent) as i32) > 0);
        let newer_number = self.place_of(segment).is_some_and(|place| place > self.receive.nxt);
        if !newer_time && !newer_number {
            return Continue(());
        }
        let isn_min = self.isn_beyond();
        let reaction = self.finish_orderly();
        Break(Reaction { reopen: Some(Reopen { isn_min }), ..reaction })
    }

    /// SYN-RECEIVED: the remote's SYN once more means that the SYN-ACK was lost; its SYN-ACK is the
    /// other half of a simultaneous open (RFC 9293 §3.5, figure 7), and counts from behind the SYN.
    fn check_handshake_repeat(&mut self, segment: &Segment) -> Step<Option<Position>> {
        let flags = segment.flags;
        if !flags.syn() || flags.rst() || segment.seq != self.irs {
            return Continue(None);
        }
        if !flags.ack() {
            self.syn_due = true;
            return Break(Reaction::dropped(DropReason::TcpOldData));
        }
        if self.passive {
            // Nobody whose SYN we answered answers with a SYN-ACK.
            return Break(Reaction::dropped(DropReason::TcpInvalidSyn));
        }
        self.ack_now = true;
        Continue(Some(Position::FIRST))
    }

    /// Second step: check the RST bit, with RFC 5961 §3.2: only the exact number resets.
    pub(super) fn check_rst(
        &mut self,
        now: Instant,
        segment: &Segment,
        place: Position,
        env: &mut Env<'_>,
    ) -> Step {
        if !segment.flags.rst() {
            return Continue(());
        }
        if place != self.receive.nxt {
            return Break(self.challenge(now, DropReason::TcpInvalidRst, env));
        }
        Break(match self.state {
            // A passive open goes back to LISTEN, which is the listener itself; an active one was
            // refused.
            State::SynReceived if !self.passive => self.finish(Failure::ConnectionRefused),
            State::Closing | State::LastAck | State::TimeWait => self.finish_orderly(),
            _ => self.finish(Failure::ConnectionReset),
        })
    }

    /// Third step is security, which nobody has. Fourth step: check the SYN bit, with RFC 5961
    /// §4.2: whatever its number, it is only challenged.
    pub(super) fn check_syn(&mut self, now: Instant, segment: &Segment, env: &mut Env<'_>) -> Step {
        let repeats = self.state == State::SynReceived && segment.seq == self.irs;
        if segment.flags.syn() && !repeats {
            return Break(self.challenge(now, DropReason::TcpInvalidSyn, env));
        }
        Continue(())
    }

    /// RFC 5961 §3.2, §4.2, §5.2 and §7: a challenge ACK within the limits: the connection's own, which a
    /// flood on one connection meets first, and the one of all, whose size nobody outside can count.
    pub(super) fn challenge(&mut self, now: Instant, reason: DropReason, env: &mut Env<'_>) -> Reaction {
        let reply = (self.may_correct(now) && env.challenge.allow(now)).then(|| self.assemble_ack(now));
        Reaction::answered(reason, reply)
    }
}
