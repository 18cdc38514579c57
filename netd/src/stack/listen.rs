//! Connections that come in: half-open, established, waiting for accept.

use super::Stack;
use super::clients::{FASTOPEN_LISTENING, bound, flow_bytes, flow_key, socket_options};
use super::receive::pages_at_worst;
use super::socket::{ACCEPT_RECORD, Kind, Socket};
use crate::counters::Counter;
use crate::frame::Frame;
use crate::tcp::control_block::{ControlBlock, Lost};
use crate::tcp::listen::{Backlog, Caller, HalfOpen, Heard, on_segment};
use crate::tcp::reaction::Reopen;
use crate::tcp::segment::Segment;
use crate::tcp::state::State as TcpState;
use crate::transport::demux::Member;
use crate::transport::flow_table::FlowKey;
use crate::wire::drop_reason::DropReason;
use core::net::SocketAddr;
use core::time::Duration;
use proto::Instant;
use proto::arena::WINDOW_MAX;
use proto::arena::line::want;
use proto::arena::record::{Header, Said};
use proto::control::operations::SocketRef;
use proto::form::{Form, Share};
use proto::hard::conns::{Agreed, Kind as RecordKind, Opening};
use proto::hard::sysctl::Tunable;
use proto::id::{Epoch, OpId, RecordIndex, SlotIndex};
use proto::shm::Memory;

/// How long a SYN cookie that was sent may come back (RFC 4987 §3.6).
pub(super) const COOKIE_LIFETIME: Duration = Duration::from_secs(128);

/// Value of `net.ipv4.tcp_syncookies`.
const SYN_COOKIES_ALWAYS: u32 = 2;

/// Pages that an accept record may need: it may cross a border.
pub(super) const ACCEPT_PAGES: usize = 2;

/// Connections that may wait for accept: what was asked for, as far as the queue's window goes.
fn backlog_of(listener: &Socket) -> u32 {
    let asked = listener.client.backlog().unwrap_or(listener.opening.backlog);
    asked.clamp(1, WINDOW_MAX / ACCEPT_RECORD as u32 - 2)
}

/// A segment for a listener.
pub(super) struct Arrival<'a, M: Memory> {
    /// Its two ends.
    pub flow: FlowKey,
    /// Its header.
    pub segment: &'a Segment,
    /// Its payload.
    pub frame: &'a Frame<M>,
    /// It took over a connection in TIME-WAIT.
    pub reopen: Option<Reopen>,
}

impl<M: Memory + Clone> Stack<M> {
    /// A segment that belongs to no connection, for the listener of its port (RFC 9293 §3.10.7.2).
    pub(super) fn segment_for_listener(
        &mut self,
        now: Instant,
        index: u32,
        arrival: &Arrival<'_, M>,
    ) -> Result<(), DropReason> {
        let listener = self.sockets.get(index).expect("the demultiplexer names sockets that there are");
        let Kind::Listener(state) = &listener.kind else { return Err(DropReason::NoSocket) };
        let most = backlog_of(listener);
        if state.waiting(listener.rx.consumed()) > u64::from(most)
            && let Some(at) = listener.at
        {
            self.look_at_consumed(now, at.session, at.slot);
        }
        let listener = self.sockets.get(index).expect("looked at above");
        let Kind::Listener(state) = &listener.kind else { return Err(DropReason::NoSocket) };
        let backlog = Backlog {
            half_open: match self.tunables.get(Tunable::SynCookies) {
                SYN_COOKIES_ALWAYS => HalfOpen::Cookies,
                _ if state.half_open < most.min(self.tunables.get(Tunable::SynBacklog)) => HalfOpen::Kept,
                0 => HalfOpen::Refused,
                _ => HalfOpen::Cookies,
            },
            accept_full: state.waiting(listener.rx.consumed()) > u64::from(most),
            cookies_out: now < self.cookies_until,
        };
        let bytes = flow_bytes(&arrival.flow);
        let caller = Caller { flow: &bytes, reopen: arrival.reopen, addr: arrival.flow.remote_addr() };
        let client = &listener.client;
        let own = socket_options(client, &self.tunables);
        let mut settings = self.settings_towards(arrival.flow.remote_addr());
        // What a listener was told counts for the connections that come in through it, from their SYN-ACK on.
        settings.options.mss_max = own.mss_max;
        settings.options.fast_open = client.flags & want::FASTOPEN != 0
            && self.tunables.get(Tunable::FastOpen) & FASTOPEN_LISTENING != 0;
        settings.congestion = own.congestion.unwrap_or(settings.congestion);
        if client.rcvbuf != 0 {
            settings.receive_limit = settings.receive_limit.min(client.rcvbuf);
        }
        match on_segment(now, arrival.segment, &caller, &self.secrets.tcp, backlog, &settings) {
            Heard::Dropped(reason) => Err(reason),
            Heard::Answered(reply, reason) => {
                if reply.flags.syn() {
                    self.cookies_until = now + COOKIE_LIFETIME;
                    self.counters.count(Counter::TcpSynCookies);
                } else {
                    self.counters.count(Counter::TcpOutRsts);
                }
                self.send_reply(now, &arrival.flow, &reply);
                reason.map_or(Ok(()), Err)
            }
            Heard::HalfOpen(block) => self.half_open(now, index, arrival.flow, block).map(|_| ()),
            Heard::Fast(block) if self.has_room(index, pages_at_worst(arrival.segment)) => {
                let child = self.half_open(now, index, arrival.flow, block)?;
                self.fast_open(now, child, arrival)
            }
            // No room for what the SYN carries: the handshake comes first.
            Heard::Fast(block) => self.half_open(now, index, arrival.flow, block).map(|_| ()),
            Heard::FromCookie(block) => {
                if !self.has_room(index, pages_at_worst(arrival.segment)) {
                    return Err(DropReason::TcpListenOverflow);
                }
                let child = self.half_open(now, index, arrival.flow, block)?;
                self.segment_for(now, child, arrival.segment, Some(arrival.frame), arrival.flow)
            }
        }
    }

    /// RFC 7413 §4.2.2: the connection is there for accept with the data of its SYN, before the handshake
    /// is over. Its record is opened with its place, and committed before the SYN-ACK leaves.
    fn fast_open(&mut self, now: Instant, child: u32, arrival: &Arrival<'_, M>) -> Result<(), DropReason> {
        let Some(Socket { kind: Kind::Tcp(block), .. }) = self.sockets.get_mut(child) else { return Ok(()) };
        let reaction = block.accept_fast(arrival.segment);
        self.counters.count(Counter::TcpFastOpens);
        self.react(now, child, reaction, Some(arrival.frame));
        Ok(())
    }

    /// Keeps a connection in SYN-RECEIVED; its record is committed before the SYN-ACK leaves.
    fn half_open(
        &mut self,
        now: Instant,
        listener: u32,
        flow: FlowKey,
        block: Box<ControlBlock>,
    ) -> Result<u32, DropReason> {
        let held = self.conns.take().ok_or(DropReason::NoMem)?;
        let parent = self.sockets.get_mut(listener).expect("the caller has found it");
        let opening = Opening {
            kind: RecordKind::TcpPassive,
            shard: self.shard,
            local: SocketAddr::new(flow.local_addr(), flow.local_port),
            remote: SocketAddr::new(flow.remote_addr(), flow.remote_port),
            session: parent.opening.session,
            op: OpId(0),
            slot: SlotIndex(0),
            epoch: Epoch(0),
            iss: block.iss().get(),
            irs: block.irs().get(),
            options: (*block.agreement()).into(),
            ts_offset: block.timestamp_offset(),
            listener: RecordIndex(listener),
            listener_serial: parent.held.serial(),
            backlog: 0,
            form: Form::Udp,
            share: Share::NONE,
        };
        if let Kind::Listener(state) = &mut parent.kind {
            state.half_open += 1;
        }
        let socket = Socket { half_open: true, ..Socket::new(held, opening, Kind::Tcp(block)) };
        let index = self.sockets.insert(socket);
        self.demux.flows.insert(flow, index).map_err(|_| DropReason::NoMem)?;
        self.touch(index);
        self.reschedule(now, index);
        Ok(index)
    }

    /// From here on connections come in to a listener, unless they do. A port is given to one of them only, or
    /// to those that share it: sockd has seen to that.
    pub(super) fn begin_listening(&mut self, index: u32) {
        let Some(socket) = self.sockets.get_mut(index) else { return };
        let (local, share, op) = (socket.opening.local, socket.opening.share, socket.opening.op);
        let Kind::Listener(listener) = &mut socket.kind else { return };
        if !core::mem::replace(&mut listener.listens, true) {
            let member = Member { op, index, share };
            let _ = self.demux.add_listener(bound(local.ip()), local.port(), member);
        }
    }

    /// Whether the listener of a half-open connection can take it into its accept queue, and the
    /// session has `pages` for payload that comes with the handshake.
    pub(super) fn can_queue(&self, index: u32, pages: usize) -> bool {
        self.listener_of(index).is_some_and(|(listener, _)| self.has_room(listener, pages))
    }

    /// Whether a listener can take one more connection.
    fn has_room(&self, listener: u32, pages: usize) -> bool {
        let Some(socket) = self.sockets.get(listener) else { return false };
        let Kind::Listener(state) = &socket.kind else { return false };
        let place = self.sessions.get(&socket.opening.session).is_some_and(|session| {
            !session.ended && session.has_passive() && session.free_pages() >= ACCEPT_PAGES + pages
        });
        place && state.waiting(socket.rx.consumed()) <= u64::from(backlog_of(socket))
    }

    /// The listener that a passive connection came in through, if it is still there.
    pub(super) fn listener_of(&self, index: u32) -> Option<(u32, &Socket)> {
        let opening = &self.sockets.get(index)?.opening;
        let listener = self.sockets.get(opening.listener.0)?;
        let same = opening.kind == RecordKind::TcpPassive
            && matches!(listener.kind, Kind::Listener(_))
            && listener.held.serial() == opening.listener_serial
            && !listener.closed;
        same.then_some((opening.listener.0, listener))
    }

    /// An active connection has heard the remote's SYN, alone or with the ACK of ours: what both
    /// agreed on is to be committed with the state that follows from it.
    pub(super) fn note_agreement(&mut self, index: u32) {
        let Some(socket) = self.sockets.get_mut(index) else { return };
        let Kind::Tcp(block) = &socket.kind else { return };
        if socket.opening.kind == RecordKind::TcpActive && socket.agreed.is_none() {
            socket.agreed =
                block.agreed().map(|(irs, agreed)| Agreed::Active { irs: irs.get(), options: agreed.into() });
            socket.agreed_next = socket.agreed;
        }
    }

    /// What the handshake of an active open taught about the server's Fast Open.
    pub(super) fn note_fast_open(&mut self, now: Instant, index: u32) {
        let Some(Socket { kind: Kind::Tcp(block), opening, .. }) = self.sockets.get_mut(index) else {
            return;
        };
        match block.take_fast_open() {
            Some(Ok((cookie, mss))) => self.fast_open.learn(opening.remote.ip(), cookie, mss),
            Some(Err(Lost)) => self.fast_open.shun(now, opening.remote.ip()),
            None => {}
        }
    }

    /// The handshake of `index` is complete: a passive connection gets its place and its number in
    /// the accept queue.
    pub(super) fn established(&mut self, index: u32) {
        let socket = self.sockets.get(index).expect("who reacts is there");
        if socket.opening.kind == RecordKind::TcpActive || socket.agreed.is_some() {
            // One that was opened fast has its place and its number already.
            return;
        }
        let session = socket.opening.session;
        let (listener, parent) = self.listener_of(index).expect("looked at before the segment was taken");
        let Kind::Listener(state) = &parent.kind else { unreachable!("a listener is a listener") };
        let accept_index = state.queued;
        let taken = self.sessions.get_mut(&session).and_then(|session| session.take_passive());
        let (slot, epoch) = taken.expect("looked at before the segment was taken");
        self.settle_at(index, SocketRef { session, slot, epoch });
        self.agree(index, Agreed::Passive { slot, epoch, accept_index });
        self.queue_for_accept(listener, index, slot, epoch).expect("a place and a page were seen to be free");
        self.counters.count(Counter::TcpPassiveOpens);
    }

    fn agree(&mut self, index: u32, agreed: Agreed) {
        let socket = self.sockets.get_mut(index).expect("the caller has found it");
        socket.agreed = Some(agreed);
        socket.agreed_next = Some(agreed);
    }

    /// Writes the accept record; the listener's cursor follows when the batch is settled, after the
    /// connection's own cell (INV-T9).
    ///
    /// # Errors
    /// When the listener's stream has no room or no page for it.
    pub(super) fn queue_for_accept(
        &mut self,
        listener: u32,
        index: u32,
        slot: SlotIndex,
        epoch: Epoch,
    ) -> Result<(), DropReason> {
        let opening = &self.sockets.get(index).expect("the caller has found it").opening;
        let record = Header {
            len: 0,
            remote: opening.remote,
            local: opening.local,
            slot,
            epoch,
            said: Said::default(),
        };
        self.deliver_record(listener, &record, None)
    }

    /// A half-open connection has become something else: its listener has room for another.
    pub(super) fn leave_syn_received(&mut self, index: u32) {
        let Some(socket) = self.sockets.get_mut(index) else { return };
        let left = matches!(&socket.kind, Kind::Tcp(block) if block.state() != TcpState::SynReceived);
        if !left || !core::mem::replace(&mut socket.half_open, false) {
            return;
        }
        let listener = self.listener_of(index).map(|(listener, _)| listener);
        if let Some(Kind::Listener(state)) =
            listener.and_then(|l| self.sockets.get_mut(l)).map(|s| &mut s.kind)
        {
            state.half_open = state.half_open.saturating_sub(1);
        }
    }

    /// The key of a socket's connection.
    pub(super) fn flow_of(&self, index: u32) -> Option<FlowKey> {
        let opening = &self.sockets.get(index)?.opening;
        flow_key(opening.local, opening.remote)
    }
}
