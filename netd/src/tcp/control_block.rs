//! The control block of one connection (RFC 9293 §3.3.1): its variables, how it comes to be, and
//! what its user may say to it.
//!
//! Owned by the stack, one per connection. The stack tells it of segments (`on_segment`), cursors
//! (`on_written`, `on_consumed`), time (`on_timer`), ICMP (`on_icmp`), and asks for segments
//! (`poll_output`) when it has room for them. It touches no payload: it says which bytes go where.
//!
//! Invariants: SND.UNA <= SND.NXT, and SND.NXT is the largest position ever sent; the receive
//! window's right edge never moves left; every list is bounded; no segment, time or cursor makes it
//! panic. It doesn't know addresses, and keeps nothing that a record could not restore
//! ([`super::commit`]) except guesses about the path.

use core::time::Duration;

use proto::time::Instant;

use super::autotune::Autotune;
use super::congestion::{Congestion, Kind};
use super::ecn::EcnState;
use super::fast_open::Cookie;
use super::out_of_order::OutOfOrder;
use super::path_search::PathSearch;
use super::reaction::{Deliver, Reaction};
use super::recovery::{Flight, Parts, Recovery};
use super::rto::RttEstimator;
use super::sack::Scoreboard;
use super::segment::{Segment, TIMESTAMPS_LEN};
use super::sent::SentLog;
use super::seq::{Position, SeqNum};
use super::settings::{MSS_DEFAULT_IPV4, MSS_MIN, Settings, SocketOptions};
use super::state::{Failure, State};
use super::timers::{Deadline, Timers};
use super::window::{ReceiveWindow, SCALE_MAX, SendWindow};

/// An orphan's FIN-WAIT-2 lasts this long, as in Linux (tcp_fin_timeout).
pub const FIN_WAIT2_ORPHAN: Duration = Duration::from_secs(60);

/// TIME-WAIT: 2 * MSL (RFC 9293 §3.4.2) with Linux's length (TCP_TIMEWAIT_LEN).
pub const TIME_WAIT: Duration = Duration::from_secs(60);

/// The remote's timestamp clock has ticked after this long (RFC 7323 §5.4: at least once a second).
const REUSE_AFTER: Duration = Duration::from_secs(1);

/// A SYN with the Fast Open option got lost (RFC 7413 §4.1.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost;

/// What the two SYNs agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Agreement {
    /// The remote's MSS, at least [`MSS_MIN`].
    pub remote_mss: u16,
    /// Shift of the windows the remote sends.
    pub send_scale: u8,
    /// Shift of the windows sent to it.
    pub receive_scale: u8,
    /// Both scale windows.
    pub window_scaling: bool,
    /// Both do SACK.
    pub sack: bool,
    /// Both do timestamps.
    pub timestamps: bool,
    /// Both do ECN.
    pub ecn: bool,
}

/// What TCP_INFO shows of the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Figures {
    /// SRTT in microseconds, 0 without a sample.
    pub srtt_us: u32,
    /// RTTVAR in microseconds.
    pub rttvar_us: u32,
    /// cwnd in octets.
    pub cwnd: u32,
    /// Octets of payload in a full segment.
    pub mss: u16,
}

/// The timestamp variables of RFC 7323 §4.3.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct TimestampState {
    /// TS.Recent.
    pub(super) recent: u32,
    /// When TS.Recent was set; it grows invalid with age (RFC 7323 §5.5).
    pub(super) recent_at: Instant,
    /// Added to the millisecond clock.
    pub(super) offset: u32,
}

/// The tail loss probe of RFC 8985 §7.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct TailProbe {
    /// TLP.end_seq; the SYN's place when no probe is out.
    pub(super) end: Position,
    /// TLP.is_retrans.
    pub(super) is_retransmission: bool,
    /// A probe is to be sent.
    pub(super) due: bool,
}

/// A segment being timed (RFC 6298 §3).
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RttProbe {
    /// The position whose acknowledgement ends it; the SYN's place when none is.
    pub(super) end: Position,
    /// When it was sent.
    pub(super) sent: Instant,
}

/// What a handshake has to do with Fast Open.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct FastOpen {
    /// What the own SYN or SYN-ACK says.
    pub(super) say: Cookie,
    /// The most octets of data the own SYN may carry.
    pub(super) room: u16,
    /// What the SYN-ACK said.
    pub(super) learned: Option<Cookie>,
    /// The SYN had data, or asked for a cookie.
    pub(super) asked: bool,
    /// It was lost at least once.
    pub(super) lost: bool,
}

/// Where urgent data lies (RFC 9293 §3.8.5).
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Urgent {
    /// SND.UP: just behind the local urgent data; the SYN's place when there is none.
    pub(super) end: Position,
    /// The remote's urgent octet, as long as the client has not consumed it.
    pub(super) octet: Option<Position>,
}

/// One connection.
#[derive(Debug, Clone)]
pub struct ControlBlock {
    pub(super) state: State,
    pub(super) failure: Option<Failure>,
    /// An ICMP error that is no reason to give up, but explains a later time-out.
    pub(super) soft_failure: Option<Failure>,
    pub(super) iss: SeqNum,
    pub(super) irs: SeqNum,
    pub(super) agreed: Agreement,
    pub(super) send: SendWindow,
    pub(super) receive: ReceiveWindow,
    /// Octets the client has published.
    pub(super) written: u64,
    /// The client will write no more.
    pub(super) fin_written: bool,
    /// The place of the remote's FIN once it is known; the SYN's place before.
    pub(super) remote_fin: Position,
    /// The end of the last segment that was not full (Minshall's variant of Nagle).
    pub(super) small_end: Position,
    /// The Fast Open cookie that goes in the SYN or SYN-ACK (RFC 7413), until the handshake is over.
    pub(super) fast_open: Option<Box<FastOpen>>,
    /// Urgent data of either side; most connections never have any.
    pub(super) urgent: Option<Box<Urgent>>,
    pub(super) rtt: RttEstimator,
    pub(super) rtt_probe: RttProbe,
    pub(super) congestion: Congestion,
    pub(super) recovery: Recovery,
    pub(super) scoreboard: Option<Box<Scoreboard>>,
    pub(super) sent: SentLog,
    pub(super) out_of_order: Option<Box<OutOfOrder>>,
    pub(super) tail_probe: TailProbe,
    pub(super) ecn: EcnState,
    pub(super) timestamps: TimestampState,
    pub(super) timers: Timers,
    pub(super) options: SocketOptions,
    pub(super) last_sent: Instant,
    /// What left until now would, at the pace, have left by then ([`super::pacing`]).
    pub(super) paced_until: Instant,
    pub(super) last_received: Instant,
    /// The first time-out since an acknowledgement moved SND.UNA, for the user time-out.
    pub(super) stalled_since: Deadline,
    /// Before this no further acknowledgement of segments outside of the window leaves.
    pub(super) next_dup_ack: Deadline,
    /// Octets that may leave before the remote has spoken after a resume; `u32::MAX` when it has.
    pub(super) resume_credit: u32,
    pub(super) path_mss: u16,
    /// What is known of the path's size, once a full segment was sent.
    pub(super) path_search: Option<Box<PathSearch>>,
    /// What the receive window follows, once something was consumed.
    pub(super) autotune: Option<Box<Autotune>>,
    pub(super) advertised_mss: u16,
    pub(super) default_mss: u16,
    /// The largest payload seen, as an estimate of the remote's full segment.
    pub(super) received_mss: u16,
    /// Time-outs or probes in a row without an answer.
    pub(super) retries: u8,
    /// Keepalive probes in a row without an answer.
    pub(super) keepalive_probes: u8,
    /// The connection came in through a listener.
    pub(super) passive: bool,
    /// No client is there any more.
    pub(super) orphaned: bool,
    /// The client has shut its receiving side down.
    pub(super) read_shut: bool,
    /// An acknowledgement is to leave now.
    pub(super) ack_now: bool,
    /// A SYN or SYN-ACK is to leave now.
    pub(super) syn_due: bool,
    /// An empty probe below SND.UNA is to leave now (zero window or keepalive).
    pub(super) probe_due: bool,
    /// A segment may leave although it is small: the override of RFC 9293 §3.8.6.2.1.
    pub(super) small_allowed: bool,
    /// The sender was last stopped by the congestion window, not by lack of data or window.
    pub(super) window_limited: bool,
}

impl ControlBlock {
    fn new(state: State, iss: SeqNum, timestamp_offset: u32, now: Instant, settings: &Settings) -> Self {
        let receive = ReceiveWindow {
            consumed: Position::FIRST,
            limit: settings.receive_limit,
            ..ReceiveWindow::default()
        };
        ControlBlock {
            state,
            failure: None,
            soft_failure: None,
            iss,
            irs: SeqNum::new(0),
            agreed: Agreement {
                remote_mss: settings.default_mss.max(MSS_MIN),
                receive_scale: ReceiveWindow::scale_for(settings.receive_limit_max),
                window_scaling: settings.window_scaling,
                sack: settings.sack,
                timestamps: settings.timestamps,
                ..Agreement::default()
            },
            send: SendWindow::default(),
            receive,
            written: 0,
            fin_written: false,
            remote_fin: Position::SYN,
            small_end: Position::SYN,
            fast_open: None,
            urgent: None,
            rtt: RttEstimator::new(),
            rtt_probe: RttProbe::default(),
            congestion: Congestion::new(settings.congestion, u32::from(settings.default_mss.max(MSS_MIN))),
            recovery: Recovery::default(),
            scoreboard: None,
            sent: SentLog::default(),
            out_of_order: None,
            tail_probe: TailProbe::default(),
            ecn: EcnState { mode: settings.ecn, ..EcnState::default() },
            timestamps: TimestampState { offset: timestamp_offset, ..TimestampState::default() },
            timers: Timers::default(),
            options: settings.options,
            last_sent: now,
            paced_until: Instant::ZERO,
            last_received: now,
            stalled_since: Deadline::NEVER,
            next_dup_ack: Deadline::NEVER,
            resume_credit: u32::MAX,
            path_mss: settings.path_mss.max(MSS_MIN),
            path_search: None,
            autotune: None,
            advertised_mss: settings.advertised_mss.max(MSS_MIN),
            default_mss: settings.default_mss.max(MSS_MIN),
            // A guess that only grows: the least that a remote may be expected to send, of either family.
            received_mss: MSS_DEFAULT_IPV4.min(settings.advertised_mss),
            retries: 0,
            keepalive_probes: 0,
            passive: false,
            orphaned: false,
            read_shut: false,
            ack_now: false,
            syn_due: false,
            probe_due: false,
            small_allowed: false,
            window_limited: false,
        }
    }

    /// RFC 9293 §3.10.1, OPEN, active: SYN-SENT. The SYN leaves by [`Self::poll_output`].
    ///
    /// `iss` and `timestamp_offset` come from [`super::isn`].
    pub fn connect(now: Instant, iss: SeqNum, timestamp_offset: u32, settings: &Settings) -> Self {
        let mut block = Self::new(State::SynSent, iss, timestamp_offset, now, settings);
        block.syn_due = true;
        block
    }

    /// RFC 9293 §3.10.7.2, LISTEN, third step: a SYN makes a half-open connection, SYN-RECEIVED.
    /// The SYN-ACK leaves by [`Self::poll_output`]. `syn` has SYN and neither RST nor ACK.
    pub fn accept(
        now: Instant,
        syn: &Segment,
        iss: SeqNum,
        timestamp_offset: u32,
        settings: &Settings,
    ) -> Self {
        let mut block = Self::new(State::SynReceived, iss, timestamp_offset, now, settings);
        block.passive = true;
        block.take_syn(now, syn);
        block.syn_due = true;
        block
    }

    /// OPEN, active, for a client that has something to say before the SYN leaves: options, data for it.
    pub fn hold(&mut self) {
        self.syn_due = false;
    }

    /// That client has spoken: the SYN leaves, with data where `cookie` allows it (RFC 7413 §4.2.1): the
    /// server's cookie, or a request for one, and its MSS.
    pub fn release(&mut self, cookie: Option<(Cookie, u16)>) {
        if self.state != State::SynSent || self.send.nxt > Position::SYN || self.syn_due {
            return;
        }
        if self.options.fast_open && self.written == 0 && !self.fin_written {
            // It has yet to say what goes in the SYN.
            return;
        }
        self.syn_due = true;
        if let Some((say, mss)) = cookie.filter(|_| self.options.fast_open) {
            let mss = if mss == 0 { self.default_mss } else { mss };
            let room = if say.is_request() { 0 } else { mss.min(self.path_mss) };
            self.fast_open = Some(Box::new(FastOpen { say, room, asked: true, ..FastOpen::default() }));
        }
    }

    /// LISTEN, third step, of a caller with a cookie of ours: what its SYN carries is received, and the
    /// connection offered to accept, before the handshake is over (RFC 7413 §4.2.2).
    pub fn accept_fast(&mut self, syn: &Segment) -> Reaction {
        let mut reaction = Reaction::none();
        reaction.events.established = true;
        if syn.payload_len > 0 {
            self.receive.nxt = Position::FIRST.plus(syn.payload_len.into());
            self.receive.edge = self.receive.edge.max(self.receive.nxt);
            reaction.events.received = true;
            reaction.deliver = Some(Deliver { payload_start: 0, len: syn.payload_len, offset: 0 });
        }
        reaction
    }

    /// The SYN-ACK is to carry this cookie.
    pub fn offer_cookie(&mut self, say: Cookie) {
        self.fast_open = Some(Box::new(FastOpen { say, ..FastOpen::default() }));
    }

    /// What the handshake of an active open brought to light, once: a cookie and the remote's MSS, or that
    /// a SYN with the option got lost.
    pub fn take_fast_open(&mut self) -> Option<Result<(Cookie, u16), Lost>> {
        if !self.state.is_synchronised() {
            return None;
        }
        let known = self.fast_open.take().filter(|known| known.asked)?;
        match (known.learned, known.lost) {
            (_, true) => Some(Err(Lost)),
            (Some(cookie), false) => Some(Ok((cookie, self.agreed.remote_mss))),
            (None, false) => None,
        }
    }

    /// A block with nothing but its variables, for [`super::commit`].
    pub(super) fn blank(
        state: State,
        iss: SeqNum,
        timestamp_offset: u32,
        now: Instant,
        settings: &Settings,
    ) -> Self {
        Self::new(state, iss, timestamp_offset, now, settings)
    }

    /// What a SYN says: the initial sequence number, the window, the options (RFC 9293 §3.10.7.3,
    /// fourth step; RFC 7323 §2.2 and §3.2; RFC 2018 §2; RFC 6691).
    pub(super) fn take_syn(&mut self, now: Instant, syn: &Segment) {
        self.irs = syn.seq;
        self.receive.nxt = Position::FIRST;
        self.receive.edge = Position::FIRST;
        self.receive.last_ack_sent = Position::FIRST;
        if self.state == State::SynSent {
            // What the own SYN said; it is not withdrawn.
            let _ = self.receive.advertise_in_syn();
        }
        let options = &syn.options;
        self.agreed.remote_mss = options.mss.unwrap_or(self.default_mss).max(MSS_MIN);
        match options.window_scale {
            // RFC 7323 §2.3: a shift above 14 counts as 14.
            Some(scale) if self.agreed.window_scaling => self.agreed.send_scale = scale.min(SCALE_MAX),
            _ => {
                self.agreed.window_scaling = false;
                self.agreed.receive_scale = 0;
                self.agreed.send_scale = 0;
            }
        }
        self.agreed.sack &= options.sack_permitted;
        self.agreed.timestamps &= options.timestamps.is_some();
        self.agreed.ecn = self.ecn.agreed_by(syn);
        if let (Some(known), Some(cookie)) = (&mut self.fast_open, options.fast_open) {
            known.learned = Some(cookie).filter(|cookie| !cookie.is_request());
        }
        if let Some(timestamps) = options.timestamps.filter(|_| self.agreed.timestamps) {
            self.timestamps.recent = timestamps.value;
            self.timestamps.recent_at = now;
        }
        // RFC 7323 §2.2: the window of a SYN is not scaled.
        self.send.set(Position::SYN, self.send.una, u32::from(syn.window));
        self.send.scale = self.agreed.send_scale;
        self.receive.scale = self.agreed.receive_scale;
        self.congestion = Congestion::new(self.congestion.kind(), self.mss());
    }

    // What the user says (RFC 9293 §3.10.2 to §3.10.5).

    /// SEND: the client has published the stream up to `written` octets; with `fin` that is all
    /// (CLOSE of the sending side, RFC 9293 §3.10.4). A cursor that moves back is ignored.
    pub fn on_written(&mut self, now: Instant, written: u64, fin: bool) {
        if self.fin_written || self.state == State::Closed {
            return;
        }
        self.written = self.written.max(written);
        if fin {
            self.fin_written = true;
            self.state = match self.state {
                State::Established => State::FinWait1,
                State::CloseWait => State::LastAck,
                // RFC 9293 §3.10.4: queued until ESTABLISHED.
                other => other,
            };
        }
        self.arm_persist(now);
    }

    /// RECEIVE: the client has consumed the stream up to `consumed` octets. May make a window
    /// update due.
    pub fn on_consumed(&mut self, _now: Instant, consumed: u64) {
        let consumed = Position::of_offset(consumed.min(self.received()));
        self.receive.consumed = self.receive.consumed.max(consumed);
        if let Some(urgent) = &mut self.urgent {
            let consumed = self.receive.consumed;
            urgent.octet = urgent.octet.filter(|octet| *octet >= consumed);
        }
        self.consider_window_update();
    }

    /// The client's receive buffer takes `limit` octets beyond what is consumed. What was
    /// advertised stays advertised.
    pub fn set_receive_limit(&mut self, limit: u32) {
        self.receive.limit = limit;
        self.consider_window_update();
    }

    fn consider_window_update(&mut self) {
        let takes = self.state.takes_data() && self.remote_fin == Position::SYN;
        if takes && self.receive.update_due(self.full_receive_segment()) {
            self.ack_now = true;
        }
    }

    /// The client shut down its receiving side. As with Linux that is its own affair, what comes is
    /// received as before, until it has shut down the sending side as well.
    pub fn on_read_shutdown(&mut self) {
        self.read_shut = true;
    }

    /// The local urgent data ends at stream offset `end` (RFC 9293 §3.8.5).
    pub fn on_urgent(&mut self, end: u64) {
        let end = Position::of_offset(end);
        if end > self.send.una.max(Position::FIRST) {
            let urgent = self.urgent.get_or_insert_default();
            urgent.end = urgent.end.max(end);
        }
    }

    /// The stream offset of the remote's urgent octet, until the client has consumed it.
    pub fn urgent_offset(&self) -> Option<u64> {
        self.urgent_octet().map(Position::offset)
    }

    pub(super) fn urgent_octet(&self) -> Option<Position> {
        self.urgent.as_ref()?.octet
    }

    /// SND.UP, if something that was sent or is to be sent lies before it unacknowledged.
    pub(super) fn urgent_end(&self) -> Option<Position> {
        self.urgent.as_ref().map(|urgent| urgent.end).filter(|end| *end > self.send.una)
    }

    /// Changes what a client may change.
    pub fn set_options(&mut self, now: Instant, options: SocketOptions) {
        if options.quickack && self.timers.delayed_ack.is_set() {
            self.timers.delayed_ack = Deadline::NEVER;
            self.ack_now = true;
        }
        self.options = options;
        if let Some(kind) = options.congestion {
            self.congestion.become_kind(kind);
        }
        self.arm_keepalive(now);
    }

    /// The client is gone or closed its socket for good, having published `written` octets. What
    /// it wrote is still delivered, unless it left received data unread: then the remote must
    /// learn that data was lost (RFC 2525 §2.17, RFC 1122 §4.2.2.13).
    pub fn close(&mut self, now: Instant, written: u64) -> Reaction {
        self.orphaned = true;
        match self.state {
            State::Closed => Reaction::none(),
            State::SynSent => self.finish(Failure::Aborted),
            // Both streams are over; the remote has nothing to learn any more, and its last segments
            // still want an answer (RFC 9293 §3.10.4).
            State::TimeWait => Reaction::none(),
            // Also after our FIN, unlike ABORT: it may not have arrived.
            _ if self.receive.consumed < Position::of_offset(self.received()) => {
                let reply = Some(self.assemble_reset(now));
                Reaction { reply, ..self.finish(Failure::Aborted) }
            }
            State::FinWait2 => {
                self.timers.lifetime = Deadline::at(now + FIN_WAIT2_ORPHAN);
                Reaction::none()
            }
            _ => {
                self.on_written(now, written, true);
                Reaction::none()
            }
        }
    }

    /// ABORT (RFC 9293 §3.10.5): RST where the remote may still expect something, then CLOSED.
    pub fn abort(&mut self, now: Instant) -> Reaction {
        let reply = match self.state {
            State::SynReceived
            | State::Established
            | State::FinWait1
            | State::FinWait2
            | State::CloseWait => Some(self.assemble_reset(now)),
            _ => None,
        };
        Reaction { reply, ..self.finish(Failure::Aborted) }
    }

    // What can be asked.

    /// The state.
    pub const fn state(&self) -> State {
        self.state
    }

    /// Why it ended, if not by an orderly close.
    pub const fn failure(&self) -> Option<Failure> {
        self.failure
    }

    /// The stream has been received in order up to this offset.
    pub fn received(&self) -> u64 {
        let nxt = if self.has_remote_fin() { self.receive.nxt.minus(1) } else { self.receive.nxt };
        nxt.offset()
    }

    /// The remote's stream ends at this offset, once all before it has been received.
    pub fn remote_end(&self) -> Option<u64> {
        self.has_remote_fin().then(|| self.received())
    }

    /// The remote has acknowledged the stream up to this offset.
    pub fn acknowledged(&self) -> u64 {
        self.send.una.offset().min(self.written)
    }

    /// The client's stream as far as it was told here.
    pub const fn written(&self) -> u64 {
        self.written
    }

    /// Whether the client is gone.
    pub const fn is_orphaned(&self) -> bool {
        self.orphaned
    }

    /// Whether it came in through a listener.
    pub const fn is_passive(&self) -> bool {
        self.passive
    }

    /// The stream offset that the payload of `segment` would begin at; `None` before the stream.
    pub fn payload_offset(&self, segment: &Segment) -> Option<u64> {
        let first = if segment.flags.syn() { segment.seq.plus(1) } else { segment.seq };
        Position::near(first, self.irs, self.receive.nxt).map(Position::offset)
    }

    /// Whether the payload of `segment` is what comes next in the stream, inside the window, and nothing
    /// is held beyond it: it could be put behind [`Self::received`] before anybody has looked closer.
    pub fn continues(&self, segment: &Segment) -> bool {
        let plain = !segment.flags.syn() && !segment.flags.rst() && !segment.flags.urg();
        let empty = self.out_of_order.as_ref().is_none_or(|store| store.ranges().is_empty());
        plain
            && empty
            && self.state.takes_data()
            && !self.orphaned
            && !(self.read_shut && self.fin_written)
            && self.remote_fin == Position::SYN
            && self.payload_offset(segment) == Some(self.received())
            && u64::from(segment.payload_len) <= self.receive.wnd()
    }

    /// The end of everything received, in order or not, as a stream offset.
    pub fn received_highest(&self) -> u64 {
        let kept = self.out_of_order.as_ref().and_then(|store| store.ranges().as_slice().last());
        kept.map_or(self.received(), |range| range.end.offset().max(self.received()))
    }

    /// Gives up what was received out of order, as Linux's tcp_prune_ofo_queue does when memory is
    /// short (RFC 2018 §8). Returns whether there was any.
    pub fn prune_out_of_order(&mut self) -> bool {
        match self.out_of_order.as_mut().filter(|store| !store.ranges().is_empty()) {
            Some(store) => {
                store.forget();
                true
            }
            None => false,
        }
    }

    /// Whether the remote has acknowledged all that was written, and that it was all.
    pub fn local_end_acknowledged(&self) -> bool {
        self.fin_acknowledged()
    }

    /// The next position to be sent for the first time (SND.NXT), SYN counted.
    pub fn send_next(&self) -> u64 {
        self.send.nxt.get()
    }

    /// What is added to the millisecond clock in TSval.
    pub const fn timestamp_offset(&self) -> u32 {
        self.timestamps.offset
    }

    /// What TCP_INFO shows of the path.
    pub fn figures(&self) -> Figures {
        Figures {
            srtt_us: self.rtt.srtt_us(),
            rttvar_us: self.rtt.rttvar_us(),
            cwnd: self.cwnd(),
            mss: u16::try_from(self.mss()).unwrap_or(u16::MAX),
        }
    }

    /// Whether an active open may take over the two ends of this connection: it is in TIME-WAIT, and the
    /// remote's timestamps tell its old segments from new ones, a second after the last (RFC 6191 §2, RFC
    /// 1122 §4.2.2.13 (1), Linux's tcp_tw_reuse). The least initial sequence number of the new one.
    pub fn reusable(&self, now: Instant) -> Option<SeqNum> {
        let rested = now.since(self.timestamps.recent_at) >= REUSE_AFTER;
        let may = self.state == State::TimeWait && self.agreed.timestamps && rested;
        may.then(|| self.isn_beyond())
    }

    /// TIME-WAIT ends early: a new connection of these two ends begins.
    pub fn give_way(&mut self) -> Reaction {
        self.finish_orderly()
    }

    /// A number beyond everything that a stray old segment of this connection could hit.
    pub(super) fn isn_beyond(&self) -> SeqNum {
        self.send.nxt.plus(u64::from(u16::MAX) + 2).on_wire(self.iss)
    }

    /// What the two SYNs agreed on.
    pub const fn agreement(&self) -> &Agreement {
        &self.agreed
    }

    /// The initial send sequence number.
    pub const fn iss(&self) -> SeqNum {
        self.iss
    }

    /// The initial receive sequence number; meaningless in SYN-SENT.
    pub const fn irs(&self) -> SeqNum {
        self.irs
    }

    /// Octets of payload in a full segment without SACK blocks (RFC 6691), at least 1.
    pub fn mss(&self) -> u32 {
        let most = self.options.mss_max.unwrap_or(u16::MAX).max(MSS_MIN);
        let size = u32::from(self.agreed.remote_mss.min(self.path_mss).min(most));
        if self.agreed.timestamps { size - TIMESTAMPS_LEN } else { size }
    }

    /// Octets a path of this connection carries behind a header without options.
    pub const fn path_mss(&self) -> u16 {
        self.path_mss
    }

    /// cwnd in octets.
    pub const fn cwnd(&self) -> u32 {
        self.congestion.cwnd()
    }

    /// The congestion control algorithm.
    pub const fn congestion_kind(&self) -> Kind {
        self.congestion.kind()
    }

    /// SRTT, if there was a sample.
    pub fn srtt(&self) -> Option<Duration> {
        self.rtt.srtt()
    }

    /// Octets sent and not acknowledged, SYN and FIN counted.
    pub fn in_flight(&self) -> u64 {
        self.send.in_flight()
    }

    /// When [`Self::on_timer`] must be called next.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.timers.next()
    }

    // Shared by the other chapters.

    pub(super) fn has_remote_fin(&self) -> bool {
        self.remote_fin != Position::SYN && self.receive.nxt > self.remote_fin
    }

    /// The place of the own FIN, once the client has closed.
    pub(super) fn fin_position(&self) -> Option<Position> {
        self.fin_written.then(|| Position::of_offset(self.written))
    }

    /// Whether the own FIN was sent.
    pub(super) fn fin_sent(&self) -> bool {
        self.fin_position().is_some_and(|fin| self.send.nxt > fin)
    }

    /// Whether the own FIN is acknowledged.
    pub(super) fn fin_acknowledged(&self) -> bool {
        self.fin_position().is_some_and(|fin| self.send.una > fin)
    }

    pub(super) fn flight(&self) -> Flight {
        Flight { una: self.send.una, nxt: self.send.nxt, mss: self.mss(), sack: self.agreed.sack }
    }

    pub(super) fn board(&self) -> &Scoreboard {
        self.scoreboard.as_deref().unwrap_or(Scoreboard::EMPTY)
    }

    /// What loss recovery works on.
    pub(super) fn recovering(&mut self) -> (&mut Recovery, Parts<'_>) {
        let flight = self.flight();
        let board = self.scoreboard.as_deref().unwrap_or(Scoreboard::EMPTY);
        let parts = Parts { flight, log: &mut self.sent, board, congestion: &mut self.congestion };
        (&mut self.recovery, parts)
    }

    /// Octets the congestion window still lets out.
    pub(super) fn congestion_room(&self) -> u64 {
        let pipe = self.recovery.pipe(&self.flight(), &self.sent);
        u64::from(self.congestion.cwnd()).saturating_sub(pipe).min(u64::from(self.resume_credit))
    }

    /// The remote's full segment, for the receive side's thresholds.
    pub(super) fn full_receive_segment(&self) -> u32 {
        u32::from(self.received_mss).max(1)
    }

    /// TSval now (RFC 7323 §4.1): milliseconds of the host's clock and the connection's offset.
    pub(super) fn clock(&self, now: Instant) -> u32 {
        (now.millis() as u32).wrapping_add(self.timestamps.offset)
    }

    /// CLOSED, with a reason for the client.
    pub(super) fn finish(&mut self, failure: Failure) -> Reaction {
        if self.state != State::Closed {
            self.failure = Some(failure);
        }
        self.finish_orderly()
    }

    /// CLOSED, nothing to complain of.
    pub(super) fn finish_orderly(&mut self) -> Reaction {
        let mut reaction = Reaction::none();
        reaction.events.closed = self.state != State::Closed;
        self.state = State::Closed;
        self.timers.stop_all();
        self.scoreboard = None;
        self.sent.clear();
        self.out_of_order = None;
        self.ack_now = false;
        self.syn_due = false;
        self.probe_due = false;
        self.tail_probe = TailProbe::default();
        reaction
    }
}
