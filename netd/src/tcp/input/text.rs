//! Sixth to eighth step of RFC 9293 §3.10.7.4: urgent data, text, FIN.

use core::ops::ControlFlow::{Break, Continue};
use core::time::Duration;

use proto::time::Instant;

use super::super::control_block::ControlBlock;
use super::super::ranges::Range;
use super::super::reaction::{Deliver, Reaction};
use super::super::segment::Segment;
use super::super::seq::Position;
use super::super::state::{Failure, State};
use super::super::timers::Deadline;
use super::Step;
use crate::wire::drop_reason::DropReason;

/// Longest delay of an acknowledgement: below RFC 9293 §3.8.6.3's half second, as Linux's least.
const DELAYED_ACK: Duration = Duration::from_millis(40);

/// RFC 9293 §3.8.6.3: at least every second full segment is acknowledged.
const ACK_EVERY: u64 = 2;

impl ControlBlock {
    /// Sixth step: the URG bit. "RCV.UP <- max(RCV.UP,SEG.UP)", as the place of the one octet that is
    /// urgent: the pointer names the octet behind it (RFC 6093 §3.2 and §6, as Linux without tcp_stdurg).
    pub(super) fn check_urg(&mut self, segment: &Segment, seq: Position) {
        if !segment.flags.urg() || !self.state.takes_data() {
            return;
        }
        let octet = seq.plus(u64::from(segment.urgent.saturating_sub(1)));
        // As Linux (tcp_check_urg): what was read or received is not urgent any more, and an older
        // pointer does not replace a newer one.
        let news = octet >= self.receive.nxt.max(self.receive.consumed).max(Position::FIRST)
            && self.urgent_octet().is_none_or(|known| octet > known);
        if news {
            self.urgent.get_or_insert_default().octet = Some(octet);
        }
    }

    /// Seventh step: the segment text. Decides which of it goes where; RCV.NXT moves.
    pub(super) fn process_text(
        &mut self,
        now: Instant,
        segment: &Segment,
        seq: Position,
        reaction: &mut Reaction,
    ) -> Step {
        let text = Range::new(seq, seq.plus(u64::from(segment.payload_len)));
        let has_fin = segment.flags.fin();
        if text.is_empty() && !has_fin {
            return Continue(());
        }
        if !self.state.takes_data() {
            if !text.is_empty() {
                reaction.dropped = Some(DropReason::TcpClose);
            }
            self.ack_now = true;
            return Continue(());
        }
        // RFC 1122 §4.2.2.13, as Linux: who has shut both directions down reads no more.
        let unread = self.orphaned || (self.read_shut && self.fin_written);
        if unread && text.end > self.receive.nxt && !text.is_empty() {
            // RFC 9293 §3.6.1, RFC 2525 §2.17: data for which there is no reader resets.
            let reply = Some(self.assemble_reset(now));
            let failure = if self.orphaned { Failure::Aborted } else { Failure::ConnectionReset };
            let ended = self.finish(failure);
            return Break(Reaction { reply, dropped: Some(DropReason::TcpClose), ..ended });
        }
        self.note_full_segment(segment.payload_len);
        if has_fin {
            self.learn_fin(text.end);
        }
        self.take_text(now, text, reaction);
        Continue(())
    }

    /// The largest payload seen stands for the remote's full segment.
    fn note_full_segment(&mut self, octets: u32) {
        let octets = octets.min(u32::from(self.advertised_mss)) as u16;
        self.received_mss = self.received_mss.max(octets);
    }

    /// Where the stream ends. A FIN may come before what it ends; a place once learned holds, and a
    /// place below what was already received is a lie.
    fn learn_fin(&mut self, place: Position) {
        let highest = self.out_of_order.as_ref().and_then(|store| store.ranges().highest());
        let in_window = place >= self.receive.nxt && place < self.receive.edge.plus(1);
        if self.remote_fin == Position::SYN && in_window && highest.is_none_or(|end| end <= place) {
            self.remote_fin = place;
        }
    }

    fn take_text(&mut self, now: Instant, text: Range, reaction: &mut Reaction) {
        let (nxt, edge) = (self.receive.nxt, self.receive.edge);
        let mut end_max = edge;
        if self.remote_fin != Position::SYN && text.end > self.remote_fin {
            reaction.dropped = Some(DropReason::TcpClose);
            end_max = edge.min(self.remote_fin);
        }
        if text.start < nxt && !text.is_empty() {
            self.note_duplicate(text.start, text.end.min(nxt));
        }
        let mut wanted = text.clipped(nxt, end_max);
        if text.end > edge && reaction.dropped.is_none() {
            reaction.dropped = Some(DropReason::TcpInvalidSequence);
            self.ack_now = true;
        }
        if let Some(store) = self.out_of_order.as_mut().filter(|_| !wanted.is_empty()) {
            let missing = store.missing_part(wanted);
            if missing.is_empty() {
                store.note_duplicate(wanted);
            }
            wanted = missing;
        }
        if wanted.is_empty() {
            if !text.is_empty() {
                reaction.dropped.get_or_insert(DropReason::TcpOldData);
                self.ack_now = true;
            }
        } else if wanted.start > nxt {
            self.take_out_of_order(text, wanted, reaction);
        } else {
            self.take_in_order(now, text, wanted, reaction);
        }
        if self.remote_fin != Position::SYN && self.receive.nxt != self.remote_fin {
            // A FIN whose stream is not complete: say so.
            self.ack_now = true;
        }
    }

    fn take_in_order(&mut self, now: Instant, text: Range, wanted: Range, reaction: &mut Reaction) {
        let mut nxt = wanted.end;
        if let Some(store) = &mut self.out_of_order {
            let filled_gap = !store.ranges().is_empty();
            nxt = store.advance(nxt);
            if filled_gap {
                // RFC 5681 §4.2: a segment that fills a gap is acknowledged at once.
                self.ack_now = true;
            }
        }
        self.receive.nxt = nxt;
        self.deliver(text, wanted, reaction);
        reaction.events.received = true;
        // RFC 9293 §3.8.6.3, RFC 5681 §4.2.
        let unacknowledged = nxt.since(self.receive.last_ack_sent);
        let enough = unacknowledged >= ACK_EVERY * u64::from(self.full_receive_segment());
        if enough || self.options.quickack {
            self.ack_now = true;
        } else if !self.timers.delayed_ack.is_set() {
            self.timers.delayed_ack = Deadline::at(now + DELAYED_ACK);
        }
    }

    fn take_out_of_order(&mut self, text: Range, wanted: Range, reaction: &mut Reaction) {
        // RFC 5681 §4.2: at once, so that the remote sees its duplicates.
        self.ack_now = true;
        let store = self.out_of_order.get_or_insert_with(Box::default);
        if store.insert(wanted).is_err() {
            reaction.dropped = Some(DropReason::TcpOfoDrop);
            return;
        }
        self.deliver(text, wanted, reaction);
    }

    fn deliver(&self, text: Range, wanted: Range, reaction: &mut Reaction) {
        reaction.deliver = Some(Deliver {
            payload_start: wanted.start.since(text.start) as u32,
            len: wanted.len() as u32,
            offset: wanted.start.offset(),
        });
    }

    /// RFC 2883 §4: the next acknowledgement says that these came twice.
    pub(super) fn note_duplicate(&mut self, start: Position, end: Position) {
        if self.agreed.sack {
            let store = self.out_of_order.get_or_insert_with(Box::default);
            store.note_duplicate(Range::new(start, end));
        }
    }

    /// Eighth step: the FIN, when all before it has come: "advance RCV.NXT over the FIN, and send
    /// an acknowledgment for the FIN".
    pub(super) fn check_fin(&mut self, now: Instant, reaction: &mut Reaction) {
        if !self.state.takes_data() || self.remote_fin == Position::SYN || self.receive.nxt != self.remote_fin
        {
            return;
        }
        self.receive.nxt = self.remote_fin.plus(1);
        self.receive.edge = self.receive.edge.max(self.receive.nxt);
        self.ack_now = true;
        reaction.events.remote_closed = true;
        match self.state {
            State::Established => self.state = State::CloseWait,
            // The own close is still queued behind data: as if it came after the remote's.
            State::FinWait1 if !self.fin_sent() => self.state = State::LastAck,
            State::FinWait1 if !self.fin_acknowledged() => self.state = State::Closing,
            _ => {
                self.enter_time_wait(now);
                reaction.events.time_wait = true;
            }
        }
    }
}
