//! From hard state to a stack: a fresh group's first start and the return after a death are one.
//!
//! Called before the first frame is looked at (INV-T4). Every record is read; one that fails its
//! check, or contradicts itself, costs that connection (INV-T7). The clients' cursors and tables
//! are checked as ever. Then all levels are raised again and every client is told (INV-R6), and
//! connections speak first (INV-T6); all of it leaves when the first batch is settled.

use super::asleep::Sleepers;
use super::batch::Batch;
use super::clients::flow_key;
use super::datagram::Portless;
use super::socket::{ACCEPT_RECORD, Kind, Listener, RECEIVE_LIMIT, Socket, Udp};
use super::watch::crumb;
use super::{Released, Setup, Sockets, Stack};
use crate::counters::{Counter, Counters};
use crate::ip::fib::Route;
use crate::ip::prefix::Prefix;
use crate::ip::route::RouteTable;
use crate::ip::{Ip, header_len, links};
use crate::link::Link;
use crate::link::interface::InterfaceConfig;
use crate::secrets::Secrets;
use crate::socket::rx::RxPages;
use crate::socket::session::Session;
use crate::tcp::autotune::RECEIVE_FIRST;
use crate::tcp::challenge::ChallengeLimiter;
use crate::tcp::commit::Identity;
use crate::tcp::control_block::ControlBlock;
use crate::tcp::expiry::MostTries;
use crate::tcp::fast_open::Servers;
use crate::tcp::settings::Settings;
use crate::tcp::state::State as BlockState;
use crate::timer_wheel::TimerWheel;
use crate::transport::demux::Demux;
use core::net::IpAddr;
use proto::arena::line::{ClientLine, Notes, StackLine, level};
use proto::arena::record::Header;
use proto::arena::{Geometry, WINDOW_MAX};
use proto::cell::{CellCorrupt, CellWriter, Held, Image, TableError};
use proto::control::operations::SocketRef;
use proto::hard::conns::{Agreed, Kind as RecordKind, LAYOUT, Opening, State, TcpState};
use proto::hard::routing::Hops;
use proto::hard::sysctl::Values;
use proto::id::{Epoch, OpId, RecordIndex, SessionId, SlotIndex};
use proto::nic::steering::Steering;
use proto::recorder::Work;
use proto::shm::Memory;
use proto::{Instant, PeerCorrupt};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use thiserror::Error;

/// A stack can't be made of what was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AttachError {
    /// The connection table is of another layout, or damaged as a whole.
    #[error("connection table: {0}")]
    Conns(#[from] TableError),
    /// An address or route of the configuration can't be.
    #[error("address or gateway {0} can't be used")]
    Address(IpAddr),
}

/// A record as it was found.
pub(super) struct Found {
    pub held: Held,
    pub opening: Opening,
    pub agreed: Option<Agreed>,
    pub state: State,
}

impl<M: Memory + Clone> Stack<M> {
    /// Makes a stack of its hard state, which is empty at a group's first start.
    ///
    /// # Errors
    /// [`AttachError`]; nothing was changed then.
    pub fn attach(
        now: Instant,
        setup: Setup<M>,
        sessions: Vec<(SessionId, Geometry, M)>,
    ) -> Result<Stack<M>, AttachError> {
        let secrets = Secrets::attach(&setup.secrets, &setup.entropy);
        let conns = CellWriter::attach(setup.conns, LAYOUT, setup.conns_capacity)?;
        let routes = routes_of(&setup.interfaces, &secrets)?;
        let spread = now.nanos() as u32;
        let link = Link::new(now, &setup.interfaces, &setup.frames, setup.loopback, secrets.hash, spread);
        let mut stack = Stack {
            shard: setup.shard,
            steering: Steering::new(setup.shards),
            ip: Ip::new(link, routes, secrets.hash),
            conns,
            sockets: Sockets::default(),
            sleepers: Sleepers::default(),
            operations: HashMap::new(),
            sessions: BTreeMap::new(),
            session_order: Vec::new(),
            first_session: 0,
            demux: Demux::new(secrets.hash, setup.conns_capacity),
            portless: Portless::default(),
            timers: TimerWheel::new(now),
            challenges: ChallengeLimiter::new(secrets.challenge),
            secrets,
            settings: Settings {
                receive_limit_max: RECEIVE_LIMIT,
                receive_limit: RECEIVE_FIRST,
                ..Settings::default()
            },
            most_tries: MostTries::default(),
            tunables: Values::default(),
            tx_pending: VecDeque::new(),
            greetings: VecDeque::new(),
            stopped: Vec::new(),
            awaiting: Vec::new(),
            displaced: HashSet::new(),
            no_carrier: BTreeSet::new(),
            set_down: BTreeSet::new(),
            fast_open: Servers::default(),
            // A predecessor may have sent cookies just before it died.
            cookies_until: now + super::listen::COOKIE_LIFETIME,
            corrupt_rules: VecDeque::new(),
            batch: Batch::new(),
            released: Released { frames: VecDeque::new(), answers: VecDeque::new(), wakes: VecDeque::new() },
            watch: setup.watch,
            bait: setup.bait,
            counters: Counters::default(),
        };
        stack.ip.speaks = setup.shard == 0;
        stack.ip.link.speaks = setup.shard == 0;
        stack.ip.begin_links(now, &setup.interfaces, stack.secrets.addresses, &mut stack.counters);
        for (id, geometry, memory) in sessions {
            if let Err(rule) = stack.add_session(id, geometry, memory) {
                stack.corrupt_rules.push_back((id, rule));
            }
        }
        stack.take_over(now);
        Ok(stack)
    }

    fn take_over(&mut self, now: Instant) {
        let cells = self.conns.table().high_water();
        self.sockets.reserve(cells);
        self.timers.reserve(cells);
        self.demux.flows.reserve(cells);
        self.demux.flows.expect(cells as usize);
        self.sessions.values_mut().for_each(Session::begin_recovery);
        for session in self.sessions.values_mut() {
            // Every socket is looked at anyhow, and the ring has room again for the clients' next kicks.
            while let Ok(Some(_)) = session.next_kick() {}
        }
        let (mut bound, mut corrupt) = (Vec::new(), Vec::new());
        for index in (0..cells).rev() {
            let Some((held, image)) = self.conns.recover_one(index) else { continue };
            match image.map(|image| Found::read(held, &image)) {
                // A connection needs nobody else to be there; there may be very many.
                Ok(Ok(record)) if record.is_connection() => {
                    if let Some(record) = self.lay_down(record) {
                        corrupt.extend(self.restore_one(now, record));
                    }
                }
                Ok(Ok(record)) => bound.push(record),
                Ok(Err(held)) => {
                    self.counters.count(Counter::CellsCorrupt);
                    self.conns.free(held);
                }
                // The table has freed the cell of a failed check.
                Err(CellCorrupt) => self.counters.count(Counter::CellsCorrupt),
            }
        }
        // A datagram socket that was given another remote may have left its old record behind: the later
        // operation holds the place.
        bound.sort_by_key(|record| core::cmp::Reverse(record.opening.op.0));
        for record in bound {
            corrupt.extend(self.restore_one(now, record));
        }
        self.count_half_open();
        self.restore_accept_queues(now);
        corrupt.extend(self.tell_of_lost_records());
        self.sessions.values_mut().for_each(Session::end_recovery);
        for (session, rule) in corrupt {
            self.session_corrupt(now, session, rule);
        }
        // A connection whose client's memory is not to be had can't go on.
        for index in self.sockets.indices().collect::<Vec<_>>() {
            let lost = |socket: &Socket| {
                let detached = socket.committed.is_some_and(|state| state.detached);
                socket.closed && socket.at.is_none() && !detached && matches!(socket.kind, Kind::Tcp(_))
            };
            if self.sockets.get(index).is_some_and(lost) {
                self.abort(now, index);
            }
        }
        let ids: Vec<SessionId> = self.sessions.keys().copied().collect();
        for id in ids {
            self.look_at_all(now, id);
            // INV-R6: wake every peer once, whatever the predecessor still owed it.
            self.batch.tell(id);
        }
        self.speak_first(now);
    }

    /// INV-T6. Those that have something under way come before those that only say that they are there.
    fn speak_first(&mut self, now: Instant) {
        for index in self.tx_pending.drain(..) {
            self.sockets.get_mut(index).expect("just restored").tx_pending = false;
        }
        let sleepers = core::mem::take(&mut self.greetings);
        for index in self.sockets.indices().collect::<Vec<_>>() {
            self.touch(index);
            match &self.sockets.get(index).expect("an index of a socket").kind {
                Kind::Tcp(block) if block.only_acknowledges() => {
                    let deadline = block.next_deadline();
                    self.greetings.push_back(index);
                    self.arm_timer(index, deadline);
                }
                _ => self.reschedule(now, index),
            }
        }
        self.greetings.extend(sleepers);
    }

    /// Makes a socket of a record, under a breadcrumb of its own (INV-T8).
    fn restore_one(&mut self, now: Instant, record: Found) -> Option<(SessionId, PeerCorrupt)> {
        let session = record.opening.session;
        if !self.begin(|| crumb(Work::Recovery, &record.opening.to_bytes())) {
            self.counters.count(Counter::CellsCorrupt);
            self.conns.free(record.held);
            return None;
        }
        let restored = self.restore(now, record);
        self.end();
        self.counters.count(Counter::Recovered);
        restored.err().map(|rule| (session, rule))
    }

    /// Listeners and the connections that are half-open at them know of each other again.
    fn count_half_open(&mut self) {
        let half_open = self.sockets.iter().filter(|socket| socket.half_open);
        let listener = |socket: &Socket| self.listener_of(socket.held.index()).map(|(listener, _)| listener);
        let listeners: Vec<u32> = half_open.filter_map(listener).collect();
        for listener in listeners {
            if let Some(Kind::Listener(state)) = self.sockets.get_mut(listener).map(|s| &mut s.kind) {
                state.half_open += 1;
            }
        }
    }

    /// Makes a socket of a record.
    fn restore(&mut self, now: Instant, record: Found) -> Result<(), PeerCorrupt> {
        let (index, opening, state) = (record.held.index(), record.opening, record.state);
        let place = place_of(&opening, record.agreed.as_ref());
        if !self.make_socket(now, record) {
            self.counters.count(Counter::CellsCorrupt);
            return Ok(());
        }
        let placed = match place {
            Some(at) if state.detached => self.say_gone_again(at),
            Some(at) => {
                if opening.op != OpId(0) {
                    self.operations.insert(opening.op, index);
                }
                self.restore_place(index, at, &state)
            }
            None => Ok(()),
        };
        self.enter(index, &opening);
        placed
    }

    /// The socket of a record, without its place; `false`, and the record is given back, when that
    /// contradicts itself.
    pub(super) fn make_socket(&mut self, now: Instant, record: Found) -> bool {
        let Found { held, opening, agreed, state } = record;
        let Some(kind) = self.restore_kind(now, &opening, agreed.as_ref(), &state) else {
            self.conns.free(held);
            return false;
        };
        let mut socket = Socket::new(held, opening, kind);
        socket.agreed = agreed;
        socket.committed = Some(state);
        socket.half_open = opening.kind == RecordKind::TcpPassive && state.tcp_state == TcpState::SynReceived;
        socket.closed = state.detached;
        self.sockets.insert(socket);
        true
    }

    fn restore_kind(
        &self,
        now: Instant,
        opening: &Opening,
        agreed: Option<&Agreed>,
        state: &State,
    ) -> Option<Kind> {
        Some(match opening.kind {
            RecordKind::TcpListener => {
                Kind::Listener(Listener { queued: state.rcv_nxt / ACCEPT_RECORD, ..Listener::default() })
            }
            RecordKind::Udp => Kind::Udp(Udp {
                received: state.rcv_nxt,
                sent: state.snd_una,
                error: state.error,
                ..Udp::default()
            }),
            RecordKind::TcpActive | RecordKind::TcpPassive => {
                let identity = Identity::of_record(opening, agreed);
                let settings = self.settings_towards(opening.remote.ip());
                let header = header_len(opening.remote.ip()) as u16;
                let mut block = ControlBlock::restore(now, &identity, state, &settings, header)?;
                let unsent = state.tcp_state == TcpState::SynSent && state.snd_max == 0;
                if opening.kind == RecordKind::TcpActive && opening.backlog != 0 && unsent {
                    // Its client's line says whether it still waits.
                    block.hold();
                }
                Kind::Tcp(Box::new(block))
            }
        })
    }

    /// Makes a socket findable by what is received.
    fn enter(&mut self, index: u32, opening: &Opening) {
        if self.sockets.get(index).is_some_and(|socket| socket.closed && !matches!(socket.kind, Kind::Tcp(_)))
        {
            // Closed before the death, or without a place now: nothing is received for it.
            return;
        }
        // A second record for the same ends is not possible, or is the old one of a datagram socket.
        match opening.kind {
            RecordKind::TcpListener => {
                let committed = self.sockets.get(index).and_then(|socket| socket.committed.as_ref());
                // One that only had its port goes on so until its client's line says otherwise.
                if committed.is_some_and(|state| state.tcp_state == TcpState::Listen) {
                    self.begin_listening(index);
                }
            }
            RecordKind::Udp => self.enter_datagrams(index),
            RecordKind::TcpActive | RecordKind::TcpPassive => {
                let over = self.sockets.get(index).is_some_and(
                    |socket| matches!(&socket.kind, Kind::Tcp(block) if block.state() == BlockState::Closed),
                );
                if let Some(flow) = flow_key(opening.local, opening.remote)
                    && (over || self.demux.flows.insert(flow, index).is_err())
                {
                    self.displaced.insert(index);
                }
            }
        }
    }

    fn restore_place(&mut self, index: u32, at: SocketRef, state: &State) -> Result<(), PeerCorrupt> {
        let Some(session) = self.sessions.get(&at.session) else {
            // The vault has no such session any more: nobody waits for these bytes.
            self.sockets.get_mut(index).expect("just made").closed = true;
            return Ok(());
        };
        if !session.owns(at.slot) || session.record_at(at.slot).is_some() {
            self.sockets.get_mut(index).expect("just made").closed = true;
            return Ok(());
        }
        self.settle_at(index, at);
        self.find_again(index, at, state, false)
    }

    /// What a socket that was moved into its place finds there: cursors, pages, a note that is owed. One
    /// that `slept` was owed none.
    pub(super) fn find_again(
        &mut self,
        index: u32,
        at: SocketRef,
        state: &State,
        slept: bool,
    ) -> Result<(), PeerCorrupt> {
        let session = self.sessions.get_mut(&at.session).expect("looked at above");
        let socket = self.sockets.get_mut(index).expect("just made");
        let was = StackLine::load(&session.memory, &session.geometry, at.slot);
        let client = ClientLine::load(&session.memory, &session.geometry, at.slot);
        if !slept && !session.is_told(at.slot) {
            // A note that was counted and never got into the ring is given again.
            socket.line.event_seq = client.event_ack;
        }
        if was.epoch == at.epoch {
            socket.line.flags = was.flags & level::OPEN;
            // A number to look at, and as true as the client leaves it.
            socket.retransmits = was.retransmits;
        }
        let received = socket.received();
        let promised = received + if matches!(socket.kind, Kind::Tcp(_)) { state.rcv_edge.into() } else { 0 };
        let taken_up = client.epoch == at.epoch;
        let consumed = if taken_up { client.consumed } else { 0 };
        let base = |distance: u32| received + u64::from(distance);
        let ooo: Vec<(u64, u64)> = match socket.kind {
            Kind::Tcp(_) => state
                .ooo
                .iter()
                .filter(|(_, len)| *len > 0)
                .map(|&(at, len)| (base(at), len.into()))
                .collect(),
            _ => Vec::new(),
        };
        // What was promised to the remote must fit the table behind what the client says it consumed.
        if promised.saturating_sub(consumed) > u64::from(WINDOW_MAX) {
            return Err(PeerCorrupt::new("consumed cursor moved backwards"));
        }
        socket.rx = RxPages::recover(session, at.slot, consumed, received, &ooo)?;
        if !ooo.is_empty() {
            session.note_out_of_order(at.slot);
        }
        socket.line.received = received;
        socket.line.acked = socket.acked();
        if taken_up {
            socket.client =
                ClientLine { written: socket.acked(), consumed, epoch: at.epoch, ..ClientLine::default() };
        }
        Ok(())
    }

    /// The place was left for good before the death; whether its client learned of it is not known,
    /// so it is told again (INV-R6).
    fn say_gone_again(&mut self, at: SocketRef) -> Result<(), PeerCorrupt> {
        let Some(session) = self.sessions.get_mut(&at.session) else { return Ok(()) };
        if !session.owns(at.slot) || session.record_at(at.slot).is_some() {
            return Ok(());
        }
        let mut line = StackLine::load(&session.memory, &session.geometry, at.slot);
        if line.epoch != at.epoch {
            // The place has another use since: then the client has learned of the end of this one.
            return Ok(());
        }
        line.flags |= level::GONE;
        if !session.is_told(at.slot) {
            line.event_seq = ClientLine::load(&session.memory, &session.geometry, at.slot).event_ack;
        }
        line.store(&session.memory, &session.geometry, at.slot);
        session.notify(at.slot, &mut line.event_seq)
    }

    /// INV-T7: a place that is open and has no record any more lost it to a failed check. Its client is
    /// told that the connection is over.
    fn tell_of_lost_records(&mut self) -> Vec<(SessionId, PeerCorrupt)> {
        let mut corrupt = Vec::new();
        for session in self.sessions.values_mut() {
            for slot in session.geometry.places_of(self.shard) {
                if session.record_at(slot).is_some()
                    || StackLine::load_epoch(&session.memory, &session.geometry, slot) == Epoch(0)
                {
                    continue;
                }
                if let Err(rule) = tell_lost(session, slot, false) {
                    corrupt.push((session.id, rule));
                }
            }
        }
        corrupt
    }

    /// Accept queues: a connection whose cell stands and whose record in the queue does not is put
    /// there; one that stands in it already is left alone (INV-T9). Where a connection before it has
    /// lost its record (INV-T7), its number stays taken, so that no other is handed over twice.
    fn restore_accept_queues(&mut self, now: Instant) {
        let mut waiting = Vec::new();
        for socket in self.sockets.iter() {
            if let (Some(Agreed::Passive { accept_index, slot, epoch }), Some(_)) = (socket.agreed, socket.at)
            {
                waiting.push((accept_index, socket.held.index(), slot, epoch));
            }
        }
        waiting.sort_unstable();
        for (accept_index, index, slot, epoch) in waiting {
            let Some((listener, socket)) = self.listener_of(index) else { continue };
            let Kind::Listener(state) = &socket.kind else { continue };
            let lost = state.queued..accept_index;
            if accept_index < state.queued {
                continue;
            }
            let queued = lost
                .into_iter()
                .try_for_each(|_| self.deliver_record(listener, &Header::LOST, None))
                .and_then(|()| self.queue_for_accept(listener, index, slot, epoch));
            if queued.is_err() {
                // The client has taken the pages that the queue had: nobody will accept it.
                self.abort(now, index);
            }
        }
    }

    /// INV-R6: polls every socket of a session, whatever its kick ring says.
    fn look_at_all(&mut self, now: Instant, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        for slot in session.geometry.places_of(self.shard) {
            // Written only where there is something to take up: places that were never used stay as they are.
            if session.record_at(slot).is_none()
                && Notes::Kick.outstanding(&session.memory, &session.geometry, slot)
            {
                Notes::Kick.take_up(&session.memory, &session.geometry, slot);
            }
        }
        let awake = |record: RecordIndex| !self.sleepers.contains(record.0);
        let slots: Vec<SlotIndex> =
            session.records().filter(|(_, record)| awake(*record)).map(|(slot, _)| slot).collect();
        for slot in slots {
            self.on_kick(now, id, slot);
        }
    }
}

impl Found {
    fn is_connection(&self) -> bool {
        matches!(self.opening.kind, RecordKind::TcpActive | RecordKind::TcpPassive)
    }

    pub(super) fn read(held: Held, image: &Image) -> Result<Found, Held> {
        let Some(opening) = Opening::from_bytes(&image.opening) else { return Err(held) };
        let agreed = image.agreed.map(|bytes| Agreed::from_bytes(opening.kind, &bytes));
        match (agreed, State::from_bytes(&image.state)) {
            (Some(None), _) | (_, None) => Err(held),
            (agreed, Some(state)) => Ok(Found { held, opening, agreed: agreed.flatten(), state }),
        }
    }
}

/// INV-T7: tells a client that what lay at `slot` is over, because its record is lost; `slept` where the ring
/// was right when its socket lay down, else what the recovery knows of the ring counts.
pub(super) fn tell_lost<M: Memory + Clone>(
    session: &mut Session<M>,
    slot: SlotIndex,
    slept: bool,
) -> Result<(), PeerCorrupt> {
    let mut line = StackLine::load(&session.memory, &session.geometry, slot);
    let client = ClientLine::load(&session.memory, &session.geometry, slot);
    if !slept && !session.is_told(slot) {
        line.event_seq = client.event_ack;
    }
    // A line was published after its record was committed, and says GONE before that is freed. A client
    // that still has this use of the place may not have heard of it.
    if line.flags & level::GONE == 0 {
        line.flags |= level::ERROR | level::GONE;
        line.error = Errno::CONNRESET.raw_os_error().unsigned_abs();
        line.store(&session.memory, &session.geometry, slot);
    } else if client.epoch != line.epoch {
        return Ok(());
    }
    session.notify(slot, &mut line.event_seq)
}

/// Where in an arena a record's socket lies.
pub(super) fn place_of(opening: &Opening, agreed: Option<&Agreed>) -> Option<SocketRef> {
    let session = opening.session;
    match (opening.kind, agreed) {
        (RecordKind::TcpPassive, Some(Agreed::Passive { slot, epoch, .. })) => {
            Some(SocketRef { session, slot: *slot, epoch: *epoch })
        }
        (RecordKind::TcpPassive, _) => None,
        _ => Some(SocketRef { session, slot: opening.slot, epoch: opening.epoch }),
    }
}

/// Addresses and routes of the configuration.
fn routes_of(interfaces: &[InterfaceConfig], secrets: &Secrets) -> Result<RouteTable, AttachError> {
    let mut routes = RouteTable::new(secrets.hash);
    for (nic, interface) in interfaces.iter().enumerate() {
        let nic = nic as u16;
        for prefix in &interface.addrs {
            routes
                .add_address(nic, prefix.addr, prefix.len)
                .map_err(|_| AttachError::Address(prefix.addr))?;
        }
        for prefix in interface.tentative.iter().filter(|prefix| prefix.len < 128) {
            if let Some(route) = links::network_of(nic, prefix) {
                // Two addresses of one network: the first has brought it.
                let _ = routes.add_route(route);
            }
        }
        for address in &interface.learned.addresses {
            let (addr, len) = (address.prefix.addr, address.prefix.len);
            let on_link = matches!(addr, IpAddr::V6(v6) if v6.is_unicast_link_local());
            routes.add_address_on(nic, addr, len, on_link).map_err(|_| AttachError::Address(addr))?;
        }
        for learned in &interface.learned.routes {
            if let Some(route) = links::entry(nic, learned) {
                // One that can't be any more is as good as gone.
                let _ = routes.add_route(route);
            }
        }
        for &gateway in &interface.gateways {
            let prefix = if gateway.is_ipv4() { Prefix::ALL_V4 } else { Prefix::ALL_V6 };
            let route = Route {
                prefix,
                metric: 0,
                gateway: Some(gateway),
                interface: nic,
                source: None,
                connected: false,
                hops: Hops::default(),
            };
            routes.add_route(route).map_err(|_| AttachError::Address(gateway))?;
        }
    }
    Ok(routes)
}
