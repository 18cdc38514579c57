//! What sockd asks and what clients write: operations, cursors, the end of a session.
//!
//! Everything a client wrote is checked against what netd privately knows (INV-R1). A broken rule
//! ends that session: its connections are reset as a kernel resets those of a killed program.

use super::Stack;
use super::datagram::Wanted;
use super::socket::{Kind, Listener, RECEIVE_LIMIT, Socket};
use super::watch::crumb;
use crate::counters::Counter;
use crate::socket::rx::RxPages;
use crate::socket::session::Session;
use crate::socket::tx::check_written;
use crate::tcp::congestion::Kind as Algorithm;
use crate::tcp::control_block::ControlBlock;
use crate::tcp::isn::{initial_sequence, timestamp_offset};
use crate::tcp::seq::SeqNum;
use crate::tcp::settings::{Keepalive, SocketOptions};
use crate::transport::demux::BoundAddr;
use crate::transport::flow_table::FlowKey;
use crate::wire::address::AddressPair;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use proto::arena::Geometry;
use proto::arena::line::{ClientLine, Notes, StackLine, congestion, offset_near, want};
use proto::control::operations::{Answer, Command, SocketRef, encode};
use proto::form::{Form, Share};
use proto::hard::conns::{Kind as RecordKind, Opening, Options};
use proto::hard::sysctl::{Tunable, Values};
use proto::id::{OpId, RecordIndex, SessionId, SlotIndex};
use proto::recorder::Work;
use proto::shm::Memory;
use proto::zone;
use proto::{Instant, PeerCorrupt};
use rustix::io::Errno;

impl<M: Memory + Clone> Stack<M> {
    /// A client session whose arena the vault handed over.
    ///
    /// # Errors
    /// [`PeerCorrupt`] when the arena makes no sense; the session is not attached, and sockd is
    /// told.
    pub fn add_session(&mut self, id: SessionId, geometry: Geometry, memory: M) -> Result<(), PeerCorrupt> {
        if self.sessions.contains_key(&id) {
            return Ok(());
        }
        match Session::attach(id, geometry, memory, self.shard) {
            Ok(session) => {
                self.sessions.insert(id, session);
                self.session_order.push(id);
                Ok(())
            }
            Err(corrupt) => {
                self.counters.count(Counter::SessionsCorrupt);
                self.batch.answers.push_back(Answer::SessionCorrupt { session: id });
                Err(corrupt)
            }
        }
    }

    /// Looks at up to `budget` sockets that clients pointed at; returns their number.
    pub fn poll_kicks(&mut self, now: Instant, budget: usize) -> usize {
        let mut done = 0;
        // Every round begins with another session, and none takes more than its share.
        self.first_session = self.first_session.wrapping_add(1);
        let sessions = self.session_order.len();
        for turn in 0..sessions {
            let at = (self.first_session + turn) % sessions;
            let Some(&id) = self.session_order.get(at) else { break };
            let share = done + KICKS_PER_SESSION;
            while done < budget.min(share) {
                let Some(session) = self.sessions.get_mut(&id).filter(|session| !session.ended) else {
                    break;
                };
                match session.next_kick() {
                    Ok(Some(slot)) => self.on_kick(now, id, slot),
                    Ok(None) => break,
                    Err(corrupt) => {
                        self.session_corrupt(now, id, corrupt);
                        break;
                    }
                }
                done += 1;
            }
        }
        done
    }

    /// Before sleeping: asks every client for wake-ups. `false` when there is work to do first.
    pub fn arm(&mut self, now: Instant) -> bool {
        let mut idle = true;
        let mut corrupt = Vec::new();
        for session in self.sessions.values_mut().filter(|session| !session.ended) {
            match session.arm() {
                Ok(empty) => idle &= empty,
                Err(rule) => corrupt.push((session.id, rule)),
            }
        }
        idle &= corrupt.is_empty();
        for (id, rule) in corrupt {
            self.session_corrupt(now, id, rule);
        }
        idle
    }

    /// A client points at a socket: takes its note up, then reads its line.
    pub(super) fn on_kick(&mut self, now: Instant, id: SessionId, slot: SlotIndex) {
        let record = self.sessions.get(&id).and_then(|session| session.record_at(slot));
        if let Some(index) = record
            && self.sleepers.contains(index.0)
        {
            // It hears its client when it wakes.
            return self.wake(now, index.0);
        }
        let Some((index, client)) = self.take_up_kick(id, slot) else { return };
        let name = [id.0.to_le_bytes(), slot.0.to_le_bytes(), client.epoch.0.to_le_bytes()];
        let outcome = match self.begin(|| crumb(Work::Command, name.as_flattened())) {
            true => self.client_says(now, index, client),
            false => Err(PeerCorrupt::new("a line that ended the daemon twice")),
        };
        self.end();
        if let Err(corrupt) = outcome {
            self.session_corrupt(now, id, corrupt);
        }
    }

    /// Takes a client's note up; its line, if there is somebody to hear it.
    pub(super) fn take_up_kick(&mut self, id: SessionId, slot: SlotIndex) -> Option<(u32, ClientLine)> {
        let session = self.sessions.get_mut(&id)?;
        let kick_ack = Notes::Kick.take_up(&session.memory, &session.geometry, slot);
        let index = session.record_at(slot)?.0;
        let socket = self.sockets.get_mut(index)?;
        socket.line.kick_ack = kick_ack;
        let client = ClientLine::load(&session.memory, &session.geometry, slot);
        let heard = client.epoch == socket.line.epoch && !socket.closed && !session.ended;
        heard.then_some((index, client))
    }

    /// Takes over what the client wrote in its line.
    pub(super) fn client_says(
        &mut self,
        now: Instant,
        index: u32,
        client: ClientLine,
    ) -> Result<(), PeerCorrupt> {
        let socket = self.sockets.get_mut(index).expect("the caller has found it");
        let at = socket.at.expect("a socket that is kicked has a place");
        let session = self.sessions.get_mut(&at.session).expect("a place lies in a session");
        check_written(client.written, socket.client.written, socket.line.acked)?;
        let highest = socket.highest();
        socket.rx.consume(session, client.consumed, socket.line.received, highest)?;
        let before = core::mem::replace(&mut socket.client, client);
        let wishes = client.wishes() != (0, 0) && client.wishes() != before.wishes();
        socket.closed = client.flags & (want::CLOSE | want::ABORT) != 0;
        if let Kind::Tcp(block) = &mut socket.kind {
            let options = socket_options(&client, &self.tunables);
            if options != socket_options(&before, &self.tunables) {
                block.set_options(now, options);
            }
            let pressure = session.pressure();
            if client.rcvbuf != before.rcvbuf && client.rcvbuf != 0 {
                block.set_receive_limit(client.rcvbuf.min(RECEIVE_LIMIT));
            }
            block.on_consumed(now, client.consumed);
            if client.rcvbuf == 0 && client.consumed != before.consumed {
                block.autotune(now, RECEIVE_LIMIT, pressure);
            }
            if client.flags & want::SHUT_RD != 0 {
                block.on_read_shutdown();
            }
            if client.flags & want::URGENT != 0 {
                block.on_urgent(offset_near(client.urgent, client.written).min(client.written));
            }
            if client.flags & want::ABORT != 0 {
                let reaction = block.abort(now);
                self.react(now, index, reaction, None);
            } else if client.flags & want::CLOSE != 0 {
                let reaction = block.close(now, client.written);
                self.react(now, index, reaction, None);
            } else {
                block.on_written(now, client.written, client.flags & want::SHUT_WR != 0);
                block.release(self.fast_open.cookie(now, socket.opening.remote.ip()));
            }
        } else {
            if let Kind::Udp(udp) = &mut socket.kind {
                // The client has had its turn to see the last error.
                udp.error = 0;
            }
            if socket.closed {
                self.close_unconnected(now, index);
            } else if client.backlog().is_some() {
                self.begin_listening(index);
            } else if wishes {
                // Of a socket that is closed they are not looked at: their pages may be another's.
                self.take_wishes(now, index, &client)?;
            }
        }
        self.touch(index);
        self.reschedule(now, index);
        Ok(())
    }

    /// A client moves `consumed` without a word as long as it need not wait: where receive pages are
    /// short, the lines of those that hold some are looked at, some of them at a time, until `wanted`
    /// are free.
    pub(super) fn reclaim(&mut self, now: Instant, id: SessionId, wanted: usize) {
        for _ in 0..LOOKS_FOR_PAGES {
            let Some(session) = self.sessions.get_mut(&id) else { return };
            if session.free_pages() >= wanted {
                return;
            }
            let Some(slot) = session.next_holder() else { return };
            self.look_at_consumed(now, id, slot);
        }
    }

    /// Where the accept queue of a half-open connection's listener seems full: what the client has
    /// accepted by now.
    pub(super) fn look_at_listener(&mut self, now: Instant, index: u32) {
        if let Some(at) = self.listener_of(index).and_then(|(_, listener)| listener.at) {
            self.look_at_consumed(now, at.session, at.slot);
        }
    }

    /// Takes over how much the client has consumed of the stream at `slot`, and nothing else.
    pub(super) fn look_at_consumed(&mut self, now: Instant, id: SessionId, slot: SlotIndex) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let socket = session.record_at(slot).and_then(|index| self.sockets.get_mut(index.0));
        let Some(socket) = socket else { return session.holds_none(slot) };
        let client = ClientLine::load(&session.memory, &session.geometry, slot);
        if client.epoch != socket.line.epoch || socket.closed || session.ended {
            return;
        }
        let highest = socket.highest();
        // What breaks a rule is found out when the client points at it.
        let consumed = socket.rx.consume(session, client.consumed, socket.line.received, highest).is_ok();
        if socket.rx.is_empty() {
            session.holds_none(slot);
        }
        if consumed && client.consumed != socket.client.consumed {
            socket.client.consumed = client.consumed;
            let index = socket.held.index();
            if let Kind::Tcp(block) = &mut socket.kind {
                block.on_consumed(now, client.consumed);
                if client.rcvbuf == 0 {
                    block.autotune(now, RECEIVE_LIMIT, session.pressure());
                }
            }
            self.touch(index);
            self.reschedule(now, index);
        }
    }

    /// A listener or a datagram socket was closed: nothing is received for it any more, and what
    /// waits for accept is reset.
    fn close_unconnected(&mut self, now: Instant, index: u32) {
        let socket = self.sockets.get(index).expect("the caller has found it");
        let (local, serial) = (socket.opening.local, socket.held.serial());
        match socket.kind {
            Kind::Listener(_) => {
                self.demux.remove_listener(bound(local.ip()), local.port(), index);
                let accepted = socket.client.consumed / super::socket::ACCEPT_RECORD;
                let mine: Vec<u32> =
                    self.sockets.indices().filter(|&i| self.waits_for(i, index, serial, accepted)).collect();
                for child in mine {
                    self.abort(now, child);
                }
            }
            Kind::Udp(_) => self.leave_datagrams(now, index),
            Kind::Tcp(_) => {}
        }
    }

    /// Whether connection `index` belongs to listener `listener` still: half-open, or in its accept
    /// queue from number `accepted` on.
    pub(super) fn waits_for(&self, index: u32, listener: u32, serial: u32, accepted: u64) -> bool {
        use proto::hard::conns::Agreed;
        self.sockets.get(index).is_some_and(|socket| {
            socket.opening.kind == RecordKind::TcpPassive
                && socket.opening.listener == RecordIndex(listener)
                && socket.opening.listener_serial == serial
                && match socket.agreed {
                    Some(Agreed::Passive { accept_index, .. }) => accept_index >= accepted,
                    _ => true,
                }
        })
    }

    /// Ends a connection as by linger 0: reset, and its place is left.
    pub(super) fn abort(&mut self, now: Instant, index: u32) {
        let Some(socket) = self.sockets.get_mut(index) else { return };
        socket.closed = true;
        match &mut socket.kind {
            Kind::Tcp(block) => {
                let reaction = block.abort(now);
                self.react(now, index, reaction, None);
            }
            Kind::Udp(udp) => udp.sent = socket.client.written,
            Kind::Listener(_) => {}
        }
        self.touch(index);
        self.reschedule(now, index);
    }

    /// Ends a socket of a client that is gone, as a kernel closes those of a dead program.
    pub(super) fn orphan(&mut self, now: Instant, index: u32) {
        let Some(socket) = self.sockets.get_mut(index) else { return };
        if core::mem::replace(&mut socket.closed, true) {
            return;
        }
        let written = socket.client.written;
        match &mut socket.kind {
            Kind::Tcp(block) => {
                let reaction = block.close(now, written);
                self.react(now, index, reaction, None);
            }
            Kind::Listener(_) | Kind::Udp(_) => self.close_unconnected(now, index),
        }
        self.touch(index);
        self.reschedule(now, index);
    }

    /// INV-R1: a client broke a rule. Its session ends here and now; sockd is told.
    pub fn session_corrupt(&mut self, now: Instant, id: SessionId, corrupt: PeerCorrupt) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        if core::mem::replace(&mut session.ended, true) {
            return;
        }
        self.corrupt_rules.push_back((id, corrupt));
        self.counters.count(Counter::SessionsCorrupt);
        self.batch.answers.push_back(Answer::SessionCorrupt { session: id });
        for index in self.records_of(now, id) {
            self.abort(now, index);
            if self.sockets.get(index).is_some_and(|socket| !matches!(socket.kind, Kind::Tcp(_))) {
                self.close_unconnected(now, index);
            }
        }
    }

    /// All sockets of a session, awake.
    fn records_of(&mut self, now: Instant, id: SessionId) -> Vec<u32> {
        let records = self.sessions.get(&id).into_iter().flat_map(|session| session.records());
        let asleep = records.map(|(_, record)| record.0).filter(|index| self.sleepers.contains(*index));
        for index in asleep.collect::<Vec<_>>() {
            self.wake(now, index);
        }
        let owned = |index: &u32| self.sockets.get(*index).is_some_and(|socket| socket.opening.session == id);
        self.sockets.indices().filter(owned).collect()
    }

    /// Does what sockd asks; asked again, only answers (INV-T9).
    pub fn on_command(&mut self, now: Instant, command: &Command) {
        if !self.begin(|| crumb(Work::Command, &encode(command))) {
            // What killed the daemon twice is not tried again: the client learns that it failed.
            if let Some(op) = op_of(command) {
                let errno = Errno::IO.raw_os_error().unsigned_abs();
                self.batch.answers.push_back(Answer::Failed { op, errno });
            }
            return;
        }
        if let Some(&index) = named_by(command).and_then(|op| self.operations.get(&op)) {
            self.wake(now, index);
        }
        let answer = match *command {
            Command::Connect { op, local, remote, .. } if self.is_elsewhere(op, local, remote) => {
                let chosen = self.source_for(local.ip(), remote.ip()).unwrap_or(local.ip());
                Answer::Elsewhere { op, local: SocketAddr::new(chosen, local.port()) }
            }
            Command::Connect { op, socket, local, remote, hold } => {
                self.once(op, |stack| stack.connect(now, op, socket, (local, remote), hold))
            }
            Command::Listen { op, socket, local, backlog, share } => {
                self.once(op, |stack| stack.listen(op, socket, local, backlog, share))
            }
            Command::Datagram { op, socket, local, remote, form, share } => {
                let wanted = Wanted { at: socket, local, remote, form, share };
                self.once(op, |stack| stack.datagram(now, op, wanted))
            }
            Command::Withdraw { op, socket } => {
                self.withdraw(now, op, socket);
                return self.end();
            }
            Command::EndSession { session, .. } => {
                self.end_session(now, session);
                return self.end();
            }
        };
        self.end();
        self.batch.answers.push_back(answer);
    }

    /// Whether a connection that is to be opened belongs to another shard.
    fn is_elsewhere(&self, op: OpId, local: SocketAddr, remote: SocketAddr) -> bool {
        let chosen = || self.source_for(local.ip(), remote.ip());
        self.steering.shards() > 1
            && !self.operations.contains_key(&op)
            && chosen()
                .is_ok_and(|ip| self.steering.flow(SocketAddr::new(ip, local.port()), remote) != self.shard)
    }

    /// Whether a flow belongs to this shard.
    pub(super) fn is_ours(&self, flow: &FlowKey) -> bool {
        if self.steering.shards() == 1 {
            return true;
        }
        let local = SocketAddr::new(flow.local_addr(), flow.local_port);
        let remote = SocketAddr::new(flow.remote_addr(), flow.remote_port);
        self.steering.flow(local, remote) == self.shard
    }

    /// Closes what an operation opened, if it opened anything.
    fn withdraw(&mut self, now: Instant, op: OpId, at: SocketRef) {
        match self.operations.get(&op).copied() {
            // Its place is left when the end was published; that answers.
            Some(index) => self.orphan(now, index),
            None => self.batch.answers.push_back(Answer::Released { op, socket: at }),
        }
    }

    fn once(&mut self, op: OpId, act: impl FnOnce(&mut Self) -> Result<SocketAddr, Errno>) -> Answer {
        if let Some(socket) = self.operations.get(&op).and_then(|&index| self.sockets.get(index)) {
            return Answer::Done { op, local: socket.opening.local };
        }
        match act(self) {
            Ok(local) => Answer::Done { op, local },
            Err(errno) => Answer::Failed { op, errno: errno.raw_os_error().unsigned_abs() },
        }
    }

    fn connect(
        &mut self,
        now: Instant,
        op: OpId,
        at: SocketRef,
        (local, remote): (SocketAddr, SocketAddr),
        hold: bool,
    ) -> Result<SocketAddr, Errno> {
        let local = SocketAddr::new(self.source_for(local.ip(), remote.ip())?, local.port());
        let flow = flow_key(local, remote).ok_or(Errno::AFNOSUPPORT)?;
        let isn_min = self.vacate_flow(now, &flow)?;
        let flow_bytes = flow_bytes(&flow);
        let mut iss = initial_sequence(&self.secrets.tcp, &flow_bytes, now);
        if let Some(isn_min) = isn_min.filter(|isn_min| iss.before(*isn_min)) {
            iss = isn_min;
        }
        let ts_offset = timestamp_offset(&self.secrets.tcp, &flow_bytes);
        let mut block = ControlBlock::connect(now, iss, ts_offset, &self.settings_towards(remote.ip()));
        if hold {
            block.hold();
        }
        let opening = Opening {
            local,
            remote,
            iss: iss.get(),
            ts_offset,
            backlog: hold.into(),
            ..self.opening(RecordKind::TcpActive, op, at)
        };
        let index = self.place(at, opening, Kind::Tcp(Box::new(block)))?;
        self.demux.flows.insert(flow, index).map_err(|_| Errno::NOBUFS)?;
        self.counters.count(Counter::TcpActiveOpens);
        self.reschedule(now, index);
        Ok(local)
    }

    /// Two ends that nobody uses, or a connection in TIME-WAIT that gives them up (RFC 6191); then the least
    /// initial sequence number.
    fn vacate_flow(&mut self, now: Instant, flow: &FlowKey) -> Result<Option<SeqNum>, Errno> {
        let Some(index) = self.demux.flows.get(flow) else { return Ok(None) };
        let isn_min = match self.sockets.get(index).map(|socket| &socket.kind) {
            Some(Kind::Tcp(block)) => block.reusable(now),
            _ => None,
        };
        let isn_min = isn_min.ok_or(Errno::ADDRNOTAVAIL)?;
        if let Some(Socket { kind: Kind::Tcp(block), .. }) = self.sockets.get_mut(index) {
            let reaction = block.give_way();
            self.react(now, index, reaction, None);
        }
        Ok(Some(isn_min))
    }

    fn listen(
        &mut self,
        op: OpId,
        at: SocketRef,
        local: SocketAddr,
        backlog: u32,
        share: Share,
    ) -> Result<SocketAddr, Errno> {
        self.check_local(local.ip())?;
        let opening = Opening { local, backlog, share, ..self.opening(RecordKind::TcpListener, op, at) };
        if !self.demux.may_listen(bound(local.ip()), local.port(), share) {
            return Err(Errno::ADDRINUSE);
        }
        let index = self.place(at, opening, Kind::Listener(Listener::default()))?;
        // One without a backlog only has its port: a segment for it is answered as for any port that nobody
        // listens at (RFC 9293 §3.10.7.1).
        if backlog > 0 {
            self.begin_listening(index);
        }
        Ok(local)
    }

    pub(super) fn opening(&self, kind: RecordKind, op: OpId, at: SocketRef) -> Opening {
        let nowhere = SocketAddr::new(IpAddr::from([0, 0, 0, 0]), 0);
        Opening {
            kind,
            shard: self.shard,
            local: nowhere,
            remote: nowhere,
            session: at.session,
            op,
            slot: at.slot,
            epoch: at.epoch,
            iss: 0,
            irs: 0,
            options: Options::default(),
            ts_offset: 0,
            listener: RecordIndex(0),
            listener_serial: 0,
            backlog: 0,
            form: Form::Udp,
            share: Share::NONE,
        }
    }

    /// Gives a new socket its cell and its place.
    pub(super) fn place(&mut self, at: SocketRef, opening: Opening, kind: Kind) -> Result<u32, Errno> {
        let session =
            self.sessions.get_mut(&at.session).filter(|session| !session.ended).ok_or(Errno::BADF)?;
        let free = session.owns(at.slot) && session.record_at(at.slot).is_none();
        if at.slot.0 >= session.geometry.active || !free {
            return Err(Errno::INVAL);
        }
        let held = self.conns.take().ok_or(Errno::NOBUFS)?;
        let index = self.sockets.insert(Socket::new(held, opening, kind));
        self.settle_at(index, at);
        self.operations.insert(opening.op, index);
        self.touch(index);
        Ok(index)
    }

    /// Moves a socket into a place of its session's arena that is free.
    pub(super) fn settle_at(&mut self, index: u32, at: SocketRef) {
        let session = self.sessions.get_mut(&at.session).expect("the caller has found it");
        assert!(session.settle(at.slot, RecordIndex(index)), "the caller has seen that it is free");
        self.move_in(index, at);
    }

    /// A socket that was settled at a place begins a new use of it, or goes on with its own.
    pub(super) fn move_in(&mut self, index: u32, at: SocketRef) {
        let session = self.sessions.get(&at.session).expect("a place lies in a session");
        let socket = self.sockets.get_mut(index).expect("the caller has made it");
        let last = StackLine::load(&session.memory, &session.geometry, at.slot);
        // The counts of notes go on from the last use of the place; all else begins anew.
        socket.line = StackLine {
            epoch: at.epoch,
            kick_ack: last.kick_ack,
            event_seq: last.event_seq,
            ..StackLine::default()
        };
        socket.at = Some(at);
        socket.rx = RxPages::default();
        socket.told_anew = true;
    }

    /// The socket lets go of its place; its end was published.
    pub(super) fn leave_place(&mut self, index: u32) {
        let Some(socket) = self.sockets.get_mut(index) else { return };
        let Some(at) = socket.at.take() else { return };
        let op = socket.opening.op;
        if let Some(session) = self.sessions.get_mut(&at.session) {
            socket.rx.release_all(session);
            session.vacate(at.slot);
        }
        if op != OpId(0) {
            self.operations.remove(&op);
            self.batch.answers.push_back(Answer::Released { op, socket: at });
        }
        self.session_gone_when_empty(at.session);
    }

    /// The socket is over: its record is given back.
    pub(super) fn remove(&mut self, index: u32) {
        let Some(socket) = self.sockets.remove(index) else { return };
        self.timers.cancel(index);
        if matches!(socket.kind, Kind::Tcp(_))
            && !self.displaced.remove(&index)
            && let Some(flow) = flow_key(socket.opening.local, socket.opening.remote)
        {
            self.demux.flows.remove(&flow);
        }
        self.operations.remove(&socket.opening.op);
        let (held, session) = (socket.held, socket.opening.session);
        match socket.committed {
            Some(_) => self.conns.free(held),
            None => self.conns.untake(held),
        }
        self.session_gone_when_empty(session);
    }

    fn end_session(&mut self, now: Instant, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id) else {
            self.batch.answers.push_back(Answer::SessionGone { session: id });
            return;
        };
        session.ended = true;
        session.leaving = true;
        for index in self.records_of(now, id) {
            // The client's last words count: what it published before it died is delivered.
            if let Some(at) = self.sockets.get(index).and_then(|socket| socket.at) {
                self.last_words(now, index, at);
            }
            self.orphan(now, index);
        }
        self.session_gone_when_empty(id);
    }

    /// Reads a dead client's line for the last time.
    fn last_words(&mut self, now: Instant, index: u32, at: SocketRef) {
        let Some(session) = self.sessions.get(&at.session) else { return };
        let client = ClientLine::load(&session.memory, &session.geometry, at.slot);
        if client.epoch == at.epoch && self.sockets.get(index).is_some_and(|socket| !socket.closed) {
            // A line that breaks a rule is a dead client's, and is not believed.
            let _ = self.client_says(now, index, client);
        }
    }

    fn session_gone_when_empty(&mut self, id: SessionId) {
        let gone = self.sessions.get(&id).is_some_and(|session| session.leaving && session.occupied() == 0);
        // A half-open connection has no place and still names its listener's session.
        let half_open = |socket: &Socket| socket.half_open && socket.opening.session == id;
        if gone && !self.sockets.iter().any(half_open) {
            self.sessions.remove(&id);
            self.session_order.retain(|&other| other != id);
            self.batch.answers.push_back(Answer::SessionGone { session: id });
        }
    }
}

/// Lines that are looked at for consumed pages when one packet finds too few.
const LOOKS_FOR_PAGES: usize = 16;

/// Kicks of one session that are taken up in a row.
const KICKS_PER_SESSION: usize = 32;

/// The operation that a command asks for and that can fail.
fn op_of(command: &Command) -> Option<OpId> {
    match *command {
        Command::Connect { op, .. } | Command::Listen { op, .. } | Command::Datagram { op, .. } => Some(op),
        Command::Withdraw { .. } | Command::EndSession { .. } => None,
    }
}

/// The operation whose outcome a command asks for or takes back.
fn named_by(command: &Command) -> Option<OpId> {
    match *command {
        Command::Withdraw { op, .. } => Some(op),
        _ => op_of(command),
    }
}

/// Bits of `net.ipv4.tcp_fastopen`: sockets that connect.
const FASTOPEN_CONNECTING: u32 = 1;
/// Those that listen.
pub(super) const FASTOPEN_LISTENING: u32 = 2;

/// The options in a client's line; what it leaves open is as it is tuned.
pub(super) fn socket_options(client: &ClientLine, tunables: &Values) -> SocketOptions {
    let has = |bit: u32| client.flags & bit != 0;
    let or = |value: u32, tunable: Tunable| if value == 0 { tunables.get(tunable) } else { value };
    SocketOptions {
        nodelay: has(want::NODELAY),
        cork: has(want::CORK),
        quickack: has(want::QUICKACK),
        keepalive: has(want::KEEPALIVE).then(|| Keepalive {
            idle_s: or(client.keepalive_idle_s, Tunable::KeepaliveTime),
            interval_s: or(client.keepalive_interval_s, Tunable::KeepaliveInterval),
            probes: u8::try_from(or(client.keepalive_count, Tunable::KeepaliveProbes)).unwrap_or(u8::MAX),
        }),
        user_timeout: (client.user_timeout_ms != 0)
            .then(|| Duration::from_millis(client.user_timeout_ms.into())),
        mss_max: Some(client.mss_congestion as u16).filter(|mss| *mss != 0),
        congestion: match (client.mss_congestion >> 16) as u8 {
            congestion::CUBIC => Some(Algorithm::Cubic),
            congestion::RENO => Some(Algorithm::NewReno),
            congestion::BBR => Some(Algorithm::Bbr),
            _ => None,
        },
        fast_open: has(want::FASTOPEN) && tunables.get(Tunable::FastOpen) & FASTOPEN_CONNECTING != 0,
    }
}

/// The bound address of a wildcard or exact local address.
pub(super) fn bound(ip: IpAddr) -> BoundAddr {
    match ip {
        IpAddr::V4(v4) if v4.is_unspecified() => BoundAddr::AnyV4,
        IpAddr::V6(v6) if v6.is_unspecified() => BoundAddr::Any,
        IpAddr::V6(zone::ANY_V6) => BoundAddr::AnyV6,
        exact => BoundAddr::Exact(exact),
    }
}

/// The only remote of a datagram socket, when it has one.
pub(super) fn remote_of(opening: &Opening) -> Option<(IpAddr, u16)> {
    (!opening.remote.ip().is_unspecified()).then(|| (opening.remote.ip(), opening.remote.port()))
}

/// The key of a connection; `None` when its ends are of two families.
pub(super) fn flow_key(local: SocketAddr, remote: SocketAddr) -> Option<FlowKey> {
    let addresses = AddressPair::new(local.ip(), remote.ip())?;
    Some(FlowKey { addresses, local_port: local.port(), remote_port: remote.port() })
}

/// The flow as RFC 6528 hashes it.
pub(super) fn flow_bytes(flow: &FlowKey) -> [u8; 36] {
    let mut bytes = [0; 36];
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    bytes[..16].copy_from_slice(&octets(flow.local_addr()));
    bytes[16..32].copy_from_slice(&octets(flow.remote_addr()));
    bytes[32..34].copy_from_slice(&flow.local_port.to_be_bytes());
    bytes[34..].copy_from_slice(&flow.remote_port.to_be_bytes());
    bytes
}
