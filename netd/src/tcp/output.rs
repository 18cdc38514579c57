//! What leaves: the SYNs, retransmissions, new data, probes and acknowledgements
//! (RFC 9293 §3.8 and §3.10.2, RFC 6675 §4, RFC 8985 §7).
//!
//! [`ControlBlock::poll_output`] is asked until it says `None`; [`ControlBlock::has_output`] says
//! whether it would say anything. Both rest on one pure decision, so that they can't differ. When
//! the stack has no room it doesn't ask, and nothing is lost.

use core::time::Duration;

use proto::time::Instant;

use super::congestion::Kind;
use super::control_block::{ControlBlock, RttProbe, TailProbe};
use super::expiry::RESUME_PACE;
use super::ranges::Range;
use super::recovery::Phase;
use super::segment::{Flags, HEADER_LEN, Options, SACK_BLOCKS_MAX, SackBlocks, SegmentOut, Timestamps};
use super::seq::{Position, SeqNum};
use super::settings::MSS_MIN;
use super::state::State;
use super::timers::{Deadline, SendTimer};

/// Shortest zero-window probe interval beyond the time-out itself (RFC 9293 §3.8.6.1).
const PERSIST_MAX: Duration = Duration::from_secs(120);

/// How long a corked sender holds back a segment that isn't full, as Linux (tcp(7)).
const CORK_MAX: Duration = Duration::from_millis(200);

/// RFC 8985 §7.2 adds the worst delayed acknowledgement to the probe time-out when a single
/// segment is out, and suggests 200 ms. The stacks of today delay by 40 ms; a probe too early
/// costs one segment, a probe too late is no better than the time-out.
const WORST_DELAYED_ACK: Duration = Duration::from_millis(50);

/// RFC 8985 §7.2: the probe time-out without a sample.
const PROBE_TIMEOUT_INITIAL: Duration = Duration::from_secs(1);

/// Octets of the other options of a SYN with all of them: MSS, window scale, SACK, timestamps, padded.
const SYN_OPTIONS_MAX: u16 = 20;

/// What would leave next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// SYN, or SYN-ACK.
    Syn,
    /// A stretch that was sent before.
    Again(Range),
    /// Unsent data of this many octets, and the FIN.
    New { octets: u32, fin: bool },
    /// Unsent data of this many octets in one segment that is larger than the path is known to take.
    SizeProbe(u32),
    /// The tail loss probe: the last segment again.
    Tail(Range),
    /// An empty segment below SND.UNA.
    Probe,
    /// An acknowledgement.
    Ack,
}

impl ControlBlock {
    /// Whether [`Self::poll_output`] would return a segment now.
    pub fn has_output(&self, _now: Instant) -> bool {
        self.next(u32::MAX).is_some()
    }

    /// The next segment to put on the wire, of at most `gso_max` octets of payload (at least one
    /// full segment is always allowed). To be asked until `None`; SND.NXT and the advertised edge
    /// are moved here, so the record is committed before any of these leaves (INV-T2).
    pub fn poll_output(&mut self, now: Instant, gso_max: u32) -> Option<SegmentOut> {
        let gso_max = gso_max.min(self.pace_allowance(now));
        let mut next = self.next(gso_max);
        if matches!(next, Some(Next::New { .. } | Next::SizeProbe(_))) && self.rests(now) {
            // RFC 5681 §4.1: before the first of the new burst is cut by the old window.
            let mss = self.mss();
            self.congestion.on_idle(now, self.last_sent, mss);
            next = self.next(gso_max);
        }
        let Some(next) = next else {
            self.arm_persist(now);
            return None;
        };
        Some(match next {
            Next::Syn => self.send_syn(now),
            Next::Again(range) => self.send_again(now, range),
            Next::New { octets, fin } => self.send_new(now, octets, fin),
            Next::SizeProbe(octets) => self.send_size_probe(now, octets),
            Next::Tail(range) => self.send_tail(now, range),
            Next::Probe => self.send_probe(now),
            Next::Ack => self.assemble(now, self.send.nxt, 0, Flags::ACK),
        })
    }

    fn next(&self, gso_max: u32) -> Option<Next> {
        match self.state {
            State::Closed => return None,
            State::SynSent => return self.syn_due.then_some(Next::Syn),
            State::SynReceived if self.syn_due => return Some(Next::Syn),
            _ => {}
        }
        if self.state.sends_data()
            && let Some(next) = self.next_data(gso_max)
        {
            return Some(next);
        }
        if self.probe_due {
            return Some(Next::Probe);
        }
        self.ack_now.then_some(Next::Ack)
    }

    /// RFC 5681 §4.1: nothing was sent for longer than the retransmission time-out.
    fn rests(&self, now: Instant) -> bool {
        self.send.in_flight() == 0 && now.since(self.last_sent) > self.rtt.rto()
    }

    fn next_data(&self, gso_max: u32) -> Option<Next> {
        let mss = self.piece_len();
        // The urgent pointer counts from each segment, which no device adjusts.
        let gso_max = if self.urgent_end().is_some() { mss } else { (gso_max / mss * mss).max(mss) };
        if self.tail_probe.due
            && let Some(probe) = self.next_tail_probe(mss)
        {
            return Some(probe);
        }
        if self.sent.lost() == 0 && self.nothing_unsent() {
            return None;
        }
        let room = self.congestion_room();
        let even = self.congestion.kind() == Kind::Bbr;
        let room = if even && self.is_paced() { 0 } else { room };
        // What is lost goes before what is new (RFC 6675 §4, NextSeg rules 1 and 2).
        if let Some(lost) = self.recovery.next_lost(&self.sent) {
            let least = if self.recovery.head_due() { u64::from(mss.min(self.resume_credit)) } else { 0 };
            if let Some(again) = cut(lost, room.max(least), gso_max, mss) {
                return Some(Next::Again(again));
            }
        }
        // Acknowledgements clock what goes again; new data keeps the pace.
        let room = if self.is_paced() { 0 } else { room };
        self.next_new(room, gso_max, mss)
    }

    /// Whether there is neither unsent data nor an unsent FIN.
    pub(super) fn nothing_unsent(&self) -> bool {
        self.unsent() == 0 && (!self.fin_written || self.fin_sent())
    }

    /// Whether all there is to say is what was received: nothing is under way, and nothing waits to leave.
    pub fn only_acknowledges(&self) -> bool {
        !self.syn_due && self.send.in_flight() == 0 && self.nothing_unsent()
    }

    /// Octets of data never sent.
    pub(super) fn unsent(&self) -> u64 {
        Position::of_offset(self.written).since(self.send.nxt)
    }

    /// New data: the sender's side of silly-window avoidance and Nagle's algorithm
    /// (RFC 9293 §3.7.4 and §3.8.6.2.1).
    fn next_new(&self, room: u64, gso_max: u32, mss: u32) -> Option<Next> {
        if self.nothing_unsent() || self.send.nxt < Position::FIRST {
            return None;
        }
        let unsent = self.unsent();
        let usable = self.send.usable();
        let fin_fits = self.fin_written && usable > unsent;
        if unsent == 0 {
            // The FIN alone is never held back by the congestion window (as Linux,
            // tcp_transmit_skb of the final FIN).
            return fin_fits.then_some(Next::New { octets: 0, fin: true });
        }
        if let Some(probe) = self.due_probe() {
            if room >= u64::from(probe.octets) && usable >= probe.with_followers {
                return Some(Next::SizeProbe(probe.octets));
            }
            if self.send.in_flight() > 0 {
                // What arrives makes room.
                return None;
            }
        }
        // CWR belongs to one segment, and no device is to repeat it in each piece (RFC 3168 §6.1.2).
        let gso_max = if self.ecn.cwr_due { mss } else { gso_max };
        let octets = unsent.min(usable).min(room).min(u64::from(gso_max)) as u32;
        if octets == 0 {
            return None;
        }
        let tail = octets % mss;
        let whole = octets - tail;
        let is_end = u64::from(octets) == unsent;
        if tail == 0 || (is_end && self.small_may_leave()) {
            return Some(Next::New { octets, fin: is_end && fin_fits });
        }
        if whole > 0 {
            return Some(Next::New { octets: whole, fin: false });
        }
        // Less than a segment: only what the remote's window forces (RFC 9293 §3.8.6.2.1, rule 3,
        // Fs = 1/2, and the override).
        let by_window = u64::from(octets) == usable && usable < unsent;
        let worthwhile = self.send.in_flight() == 0 && octets >= self.send.wnd_max / 2;
        let forced = self.small_allowed && (by_window || is_end);
        (forced || (by_window && worthwhile)).then_some(Next::New { octets, fin: is_end && fin_fits })
    }

    /// RFC 9293 §3.7.4: a small segment waits while another small one is unacknowledged
    /// (Minshall's variant, as Linux).
    fn small_may_leave(&self) -> bool {
        // Urgent data is not held back, as in Linux (tcp_nagle_test).
        if self.small_allowed || self.fin_written || self.urgent_end().is_some() {
            return true;
        }
        !self.options.cork && (self.options.nodelay || self.small_end <= self.send.una)
    }

    /// RFC 8985 §7.3: new data if the window lets it, else the last segment again. The congestion
    /// window doesn't hold a probe back.
    fn next_tail_probe(&self, mss: u32) -> Option<Next> {
        let octets = self.unsent().min(self.send.usable()).min(u64::from(mss)) as u32;
        if octets > 0 {
            let is_end = u64::from(octets) == self.unsent();
            let fin = is_end && self.fin_written && self.send.usable() > u64::from(octets);
            return Some(Next::New { octets, fin });
        }
        let start = self.send.nxt.minus(u64::from(mss)).max(self.send.una);
        let range = Range::new(start, self.send.nxt);
        (!range.is_empty()).then_some(Next::Tail(range))
    }

    // Sending.

    fn send_syn(&mut self, now: Instant) -> SegmentOut {
        self.syn_due = false;
        let first = self.send.nxt == Position::SYN;
        self.send.nxt = self.send.nxt.max(Position::FIRST);
        let octets = self.take_syn_data(now, first);
        if first {
            self.rtt_probe = RttProbe { end: Position::FIRST, sent: now };
        } else {
            self.rtt_probe = RttProbe::default();
        }
        self.last_sent = now;
        if self.timers.send_timer != SendTimer::Retransmission {
            self.timers.arm_send(SendTimer::Retransmission, now, self.rtt.rto());
        }
        let flags = match self.state {
            // RFC 3168 §6.1.1: an ECN-setup SYN-ACK has ECE alone.
            State::SynReceived if self.agreed.ecn => Flags::SYN.with(Flags::ACK).with(Flags::ECE),
            State::SynReceived => Flags::SYN.with(Flags::ACK),
            _ => Flags::SYN.with(self.ecn.syn_bits(!first)),
        };
        let mut out = self.assemble(now, Position::SYN, octets, flags);
        // The data begins behind the SYN.
        (out.offset, out.piece_len) = (0, out.piece_len.max(octets as u16));
        out
    }

    /// RFC 7413 §4.2.1: octets of data that leave in the first SYN. One that goes again says nothing of
    /// Fast Open (§4.1.3.1), and its data goes when the handshake is over.
    fn take_syn_data(&mut self, now: Instant, first: bool) -> u32 {
        let Some(known) = self.fast_open.as_mut().filter(|known| known.asked) else { return 0 };
        if !first {
            known.lost = true;
            return 0;
        }
        let options = SYN_OPTIONS_MAX + known.say.as_bytes().len() as u16 + 2;
        let room = u64::from(known.room.saturating_sub(options));
        let octets = self.written.min(room) as u32;
        if octets > 0 {
            let range = Range::new(Position::FIRST, Position::FIRST.plus(octets.into()));
            self.send.nxt = range.end;
            self.sent.on_sent(now, range);
        }
        octets
    }

    /// The SYN-ACK left without this block, as a cookie.
    pub(super) fn note_syn_ack_sent(&mut self) {
        self.syn_due = false;
        self.send.nxt = Position::FIRST;
        let _ = self.receive.advertise_in_syn();
    }

    fn send_new(&mut self, now: Instant, octets: u32, fin: bool) -> SegmentOut {
        let out = self.send_unsent(now, octets, fin);
        if !octets.is_multiple_of(self.piece_len()) {
            self.small_end = self.send.nxt;
        }
        self.note_full_sent(self.send.nxt, octets, out.piece_len);
        out
    }

    fn send_size_probe(&mut self, now: Instant, octets: u32) -> SegmentOut {
        let position = self.send.nxt;
        let mut out = self.send_unsent(now, octets, false);
        self.note_probe(&mut out, position);
        out
    }

    fn send_unsent(&mut self, now: Instant, octets: u32, fin: bool) -> SegmentOut {
        let mss = self.mss();
        let position = self.send.nxt;
        let occupied = u64::from(octets) + u64::from(fin);
        self.send.nxt = position.plus(occupied);
        self.small_allowed = false;
        if self.rtt_probe.end == Position::SYN {
            self.rtt_probe = RttProbe { end: self.send.nxt, sent: now };
        }
        if self.tail_probe.due {
            self.tail_probe = TailProbe { end: self.send.nxt, is_retransmission: false, due: false };
        }
        let in_flight = position.since(self.send.una);
        self.congestion.on_sent(now, self.send.nxt, in_flight, self.unsent() == 0);
        self.sent.on_sent(now, Range::new(position, self.send.nxt));
        self.recovery.on_sent(octets);
        self.note_sent(now, octets);
        // RFC 9438 §5.8; in slow start half of the window in use is enough, as in Linux.
        self.window_limited = self.congestion_room() < u64::from(mss)
            || (self.congestion.in_slow_start()
                && u64::from(self.congestion.cwnd()) < 2 * self.send.in_flight());
        self.arm_retransmission(now, false);
        let mut flags = Flags::ACK;
        if self.unsent() == 0 && octets > 0 {
            flags = flags.with(Flags::PSH);
        }
        if fin {
            flags = flags.with(Flags::FIN);
        }
        if self.ecn.cwr_due && octets > 0 {
            self.ecn.cwr_due = false;
            flags = flags.with(Flags::CWR);
        }
        let mut out = self.assemble(now, position, octets, flags);
        // RFC 3168 §6.1.5: only new data, what goes again must not be marked.
        out.ect = self.agreed.ecn && octets > 0;
        out
    }

    fn send_again(&mut self, now: Instant, range: Range) -> SegmentOut {
        self.sent.on_sent_again(now, range);
        self.recovery.on_sent_again(now, range.len());
        self.note_sent(now, range.len() as u32);
        if !matches!(self.timers.send_timer, SendTimer::Retransmission | SendTimer::Reordering) {
            self.timers.arm_send(SendTimer::Retransmission, now, self.rtt.rto());
        }
        self.assemble_again(now, range)
    }

    fn send_tail(&mut self, now: Instant, range: Range) -> SegmentOut {
        self.tail_probe = TailProbe { end: self.send.nxt, is_retransmission: true, due: false };
        self.sent.on_sent_again(now, range);
        self.assemble_again(now, range)
    }

    fn assemble_again(&mut self, now: Instant, range: Range) -> SegmentOut {
        // RFC 6298 §3, Karn: no sample of what was sent twice.
        self.rtt_probe = RttProbe::default();
        let fin = self.fin_position().is_some_and(|fin| range.contains(fin));
        let octets = range.len() as u32 - u32::from(fin);
        let mut flags = Flags::ACK;
        if range.end == self.send.nxt && octets > 0 {
            flags = flags.with(Flags::PSH);
        }
        if fin {
            flags = flags.with(Flags::FIN);
        }
        self.last_sent = now;
        self.assemble(now, range.start, octets, flags)
    }

    /// RFC 9293 §3.8.6.1 and §3.8.4: a segment the remote must answer, without any new octet.
    fn send_probe(&mut self, now: Instant) -> SegmentOut {
        self.probe_due = false;
        self.assemble(now, self.send.una.minus(1), 0, Flags::ACK)
    }

    fn note_sent(&mut self, now: Instant, octets: u32) {
        self.last_sent = now;
        self.note_paced(now, octets);
        if self.resume_credit != u32::MAX {
            self.resume_credit = self.resume_credit.saturating_sub(octets);
            if !self.timers.pace.is_set() {
                self.timers.pace = Deadline::at(now + RESUME_PACE);
            }
        }
    }

    // Timers of the sending side.

    /// RFC 6298 §5.1: starts the timer if it isn't running; a tail loss probe goes before it where
    /// one may (RFC 8985 §7.2). With `restart` it starts anew (RFC 6298 §5.3).
    pub(super) fn arm_retransmission(&mut self, now: Instant, restart: bool) {
        if self.send.in_flight() == 0 {
            return;
        }
        let running = !matches!(self.timers.send_timer, SendTimer::Off | SendTimer::Persist);
        let probe = self.may_probe_tail();
        if running && !restart && !(probe && self.timers.send_timer == SendTimer::TailLossProbe) {
            return;
        }
        let rto = self.rtt.rto();
        let timeout = self.probe_timeout();
        if probe && timeout < rto {
            self.timers.arm_send(SendTimer::TailLossProbe, now, timeout);
        } else if restart || !running {
            self.timers.arm_send(SendTimer::Retransmission, now, rto);
        }
    }

    /// RFC 8985 §7.2: SACK agreed, nothing known to be missing, no probe out already.
    fn may_probe_tail(&self) -> bool {
        self.agreed.sack
            && self.state.sends_data()
            && self.recovery.phase() == Phase::Open
            && self.board().is_empty()
            && self.tail_probe.end == Position::SYN
            && !self.tail_probe.due
            && self.retries == 0
    }

    /// RFC 8985 §7.2: PTO.
    fn probe_timeout(&self) -> Duration {
        let Some(srtt) = self.rtt.srtt() else { return PROBE_TIMEOUT_INITIAL };
        let lone = self.send.in_flight() <= u64::from(self.mss());
        // Two milliseconds for the remote's clock, as Linux adds two ticks.
        srtt * 2 + if lone { WORST_DELAYED_ACK } else { Duration::from_millis(2) }
    }

    /// RFC 9293 §3.8.6.1: with data to send, none in flight and no window for it, the persist timer
    /// runs. It also releases what a cork holds.
    pub(super) fn arm_persist(&mut self, now: Instant) {
        let waits = self.state.sends_data()
            && self.send.in_flight() == 0
            && self.send.nxt >= Position::FIRST
            && !self.nothing_unsent()
            && !self.probe_due
            && !self.is_paced()
            && self.next_data(u32::MAX).is_none();
        if !waits {
            if self.timers.send_timer == SendTimer::Persist {
                // The window opened: what leaves now has a time-out of its own.
                self.timers.stop_send();
                self.rtt.recovered();
            }
            return;
        }
        if self.timers.send_timer == SendTimer::Persist {
            return;
        }
        let corked = self.send.usable() >= self.unsent().min(u64::from(self.mss()));
        let after = if corked { CORK_MAX } else { self.rtt.rto().min(PERSIST_MAX) };
        self.timers.arm_send(SendTimer::Persist, now, after);
    }

    // Assembly.

    /// Octets of payload in each piece on the wire, less where SACK blocks take room (RFC 6691).
    fn piece_len(&self) -> u32 {
        let blocks = self.sack_count() as u32;
        let taken = if blocks == 0 { 0 } else { 4 + 8 * blocks };
        self.mss().saturating_sub(taken).max(1)
    }

    /// Most SACK blocks a header of this connection holds.
    fn sack_room(&self) -> usize {
        if self.agreed.timestamps { SACK_BLOCKS_MAX - 1 } else { SACK_BLOCKS_MAX }
    }

    /// Blocks the next header would carry, at most.
    fn sack_count(&self) -> usize {
        match &self.out_of_order {
            Some(store) if self.agreed.sack => store.count().min(self.sack_room()),
            _ => 0,
        }
    }

    /// A segment that carries the current acknowledgement and window; what was held back of
    /// acknowledgements leaves with it.
    fn assemble(&mut self, now: Instant, position: Position, octets: u32, flags: Flags) -> SegmentOut {
        let piece_len = self.piece_len() as u16;
        let mut options = Options::NONE;
        let mut window = 0;
        let mut out_flags = flags;
        if flags.syn() {
            options.mss =
                Some(self.advertised_mss.min(self.options.mss_max.unwrap_or(u16::MAX).max(MSS_MIN)));
            // RFC 7323 §2.2 and §3.2, RFC 2018 §2: a SYN-ACK says only what the SYN said.
            options.window_scale = self.agreed.window_scaling.then_some(self.agreed.receive_scale);
            options.sack_permitted = self.agreed.sack;
            options.fast_open = self.fast_open.as_ref().filter(|known| !known.lost).map(|known| known.say);
        }
        if self.agreed.timestamps {
            let echo = if flags.ack() { self.timestamps.recent } else { 0 };
            options.timestamps = Some(Timestamps { value: self.clock(now), echo });
        }
        let mut ack = SeqNum::new(0);
        if flags.ack() {
            if flags.syn() {
                window = self.receive.advertise_in_syn();
            } else {
                window = self.receive.advertise(self.full_receive_segment());
                options.sack = self.sack_blocks();
            }
            ack = self.receive.nxt.on_wire(self.irs);
            self.receive.last_ack_sent = self.receive.nxt;
            self.timers.delayed_ack = Deadline::NEVER;
            self.ack_now = false;
            if self.ecn.echo && self.agreed.ecn && !flags.syn() && !flags.rst() {
                out_flags = out_flags.with(Flags::ECE);
            }
        } else if flags.syn() {
            window = self.receive.limit.min(u32::from(u16::MAX)) as u16;
        }
        let mut out = SegmentOut {
            seq: position.on_wire(self.iss),
            ack,
            flags: out_flags,
            window,
            urgent: 0,
            options,
            offset: position.max(Position::FIRST).offset(),
            payload_len: octets,
            piece_len,
            ect: false,
        };
        // RFC 9293 §3.8.5: the pointer is an offset from this segment's sequence number.
        if let Some(end) = self.urgent_end().filter(|end| *end > position)
            && flags.ack()
            && !flags.syn()
            && !flags.rst()
        {
            out.flags = out.flags.with(Flags::URG);
            out.urgent = end.since(position).min(u64::from(u16::MAX)) as u16;
        }
        out
    }

    fn sack_blocks(&mut self) -> SackBlocks {
        let room = self.sack_room();
        let irs = self.irs;
        match &mut self.out_of_order {
            Some(store) if self.agreed.sack => store.report(irs, room),
            _ => SackBlocks::NONE,
        }
    }

    /// A RST with the current acknowledgement; SND.NXT is what the remote expects at most.
    pub(super) fn assemble_reset(&mut self, now: Instant) -> SegmentOut {
        let mut out = self.assemble(now, self.send.nxt, 0, Flags::RST.with(Flags::ACK));
        out.options.sack = SackBlocks::NONE;
        out.window = 0;
        out
    }

    /// A challenge ACK, or the acknowledgement of an unacceptable segment: <SEQ=SND.NXT>
    /// <ACK=RCV.NXT><CTL=ACK> (RFC 9293 §3.10.7.4, RFC 5961 §3.2).
    pub(super) fn assemble_ack(&mut self, now: Instant) -> SegmentOut {
        self.assemble(now, self.send.nxt, 0, Flags::ACK)
    }
}

/// The front part of a stretch that may leave at once: whole segments, or all of it.
fn cut(range: Range, room: u64, most: u32, mss: u32) -> Option<Range> {
    let octets = range.len().min(room).min(u64::from(most));
    if octets == range.len() {
        return Some(range);
    }
    let whole = octets / u64::from(mss) * u64::from(mss);
    (whole > 0).then(|| Range::new(range.start, range.start.plus(whole)))
}

/// Octets of a header with the options of `segment`: what the writer needs.
pub fn header_len(segment: &SegmentOut) -> u32 {
    HEADER_LEN + segment.options.wire_len()
}
