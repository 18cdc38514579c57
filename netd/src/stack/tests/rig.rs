//! Hosts in virtual time: a [`Rig`] is a stack and its hard memory, [`exchange`] the cable between
//! two of them, an [`App`] what a client does, without any of the client library's checks.

use crate::link::interface::InterfaceConfig;
use crate::secrets;
use crate::stack::{LOOPBACK, ORDER, Setup, Stack, Step};
use crate::wire::address::MacAddr;
use proto::Instant;
use proto::arena::line::{ClientLine, Notes, StackLine, want};
use proto::arena::place::{Direction, entry_of, pieces};
use proto::arena::record::{HEADER_SIZE, Header, Said, record_size};
use proto::arena::wishes::{Granted, Wishes};
use proto::arena::{Geometry, NOTE_SIZE};
use proto::cell::table_size;
use proto::control::messages::Prefix;
use proto::control::operations::{Answer, Command, SocketRef};
use proto::form::{Form, Share};
use proto::id::{Epoch, OpId, SessionId, SlotIndex};
use proto::nic::packet_buf::PacketBuf;
use proto::nic::pool::FramePool;
use proto::nic::slab::SlabGeometry;
use proto::ring::spsc::Producer;
use proto::shm::Memory;
use proto::shm::heap::HeapMemory;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

pub(super) type Mem = Rc<HeapMemory>;

/// The frame pages of an interface.
type Pool = Rc<FramePool<Mem>>;

/// A frame on its way: the interface it left by, and its bytes.
pub(super) type Sent = (u16, Vec<u8>);

/// How a host is made.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub interfaces: Vec<InterfaceConfig>,
    pub slab: SlabGeometry,
    pub conns: u32,
    /// Which shard it is, of how many.
    pub shard: (u16, u16),
}

impl Plan {
    /// One interface with `addr`, a /24.
    pub fn new(number: u8, addr: &str) -> Plan {
        Plan {
            interfaces: vec![interface(number, &[addr])],
            slab: SlabGeometry { small: 512, large: 64 },
            conns: 1024,
            shard: (0, 1),
        }
    }
}

/// An interface with these addresses, each a /24 or a /64.
pub(super) fn interface(number: u8, addrs: &[&str]) -> InterfaceConfig {
    let prefix = |addr: &&str| {
        let addr: std::net::IpAddr = addr.parse().expect("an address");
        Prefix { addr, len: if addr.is_ipv4() { 24 } else { 64 } }
    };
    InterfaceConfig {
        mac: MacAddr([2, 0, 0, 0, 0, number]),
        mtu: 1500,
        vlan: None,
        addrs: addrs.iter().map(prefix).collect(),
        tentative: Vec::new(),
        gateways: Vec::new(),
        slaac: false,
        learned: Default::default(),
    }
}

/// A host.
#[derive(Debug)]
pub(super) struct Rig {
    pub now: Instant,
    pub stack: Stack<Mem>,
    pub plan: Plan,
    pub conns: Mem,
    pub pools: Vec<Rc<FramePool<Mem>>>,
    pub answers: Vec<Answer>,
    pub room: Vec<usize>,
    /// Frames that the host sent to itself.
    pub looped: VecDeque<Vec<u8>>,
    loopback: Rc<FramePool<Mem>>,
    secrets: Mem,
    sessions: Vec<(SessionId, Geometry, Mem)>,
    next_op: u64,
}

impl Rig {
    /// A host at its first start.
    pub fn new(plan: Plan) -> Rig {
        let now = Instant::from_millis(1_000_000);
        let conns = Rc::new(HeapMemory::new(table_size(plan.conns)));
        let secrets = Rc::new(HeapMemory::new(secrets::REGION_SIZE));
        let (stack, pools, loopback) = attach(now, &plan, &conns, &secrets, Vec::new());
        let room = vec![usize::MAX; plan.interfaces.len() + 1];
        let (answers, sessions, looped) = (Vec::new(), Vec::new(), VecDeque::new());
        let mut rig = Rig {
            now,
            stack,
            plan,
            conns,
            pools,
            answers,
            room,
            looped,
            loopback,
            secrets,
            sessions,
            next_op: 1,
        };
        rig.settle();
        rig
    }

    /// Dies with all that was not settled, and comes back.
    pub fn restart(&mut self) {
        let sessions = self.sessions.clone();
        self.looped.clear();
        (self.stack, self.pools, self.loopback) =
            attach(self.now, &self.plan, &self.conns, &self.secrets, sessions);
    }

    /// A client with an arena of that size.
    pub fn client(&mut self, geometry: Geometry) -> App {
        let id = SessionId(self.sessions.len() as u32 + 1);
        let memory = Rc::new(HeapMemory::new(geometry.bytes()));
        self.sessions.push((id, geometry, memory.clone()));
        self.stack.add_session(id, geometry, memory.clone()).expect("a fresh arena");
        let kicks = Producer::new(memory.clone(), geometry.kick_ring(0));
        let lines = vec![ClientLine::default(); geometry.sockets() as usize];
        App {
            id,
            memory,
            geometry,
            kicks,
            lines,
            said: Said::default(),
            wishes: 0,
            tx_fresh: 0,
            tx_free: Vec::new(),
        }
    }

    /// One batch: what waits is taken up, sent, settled by `order`.
    pub fn batch(&mut self, order: &[Step]) {
        for frame in core::mem::take(&mut self.looped) {
            self.receive(LOOPBACK, &frame);
        }
        self.stack.poll_kicks(self.now, usize::MAX);
        self.stack.on_timers(self.now);
        self.stack.poll_transmit(self.now, &mut self.room.clone());
        self.stack.settle(self.now, order);
        self.answers.extend(std::iter::from_fn(|| self.stack.next_answer()));
    }

    /// One batch as shipped.
    pub fn settle(&mut self) {
        self.batch(ORDER);
    }

    /// What left since the last time.
    pub fn sent(&mut self) -> Vec<Sent> {
        let mut out = Vec::new();
        while let Some((interface, frame)) = self.stack.next_frame() {
            let mut bytes = vec![0; frame.len()];
            frame.read(0, &mut bytes);
            match interface {
                LOOPBACK => self.looped.push_back(bytes),
                _ => out.push((interface, bytes)),
            }
        }
        out
    }

    /// Batches until the host has nothing more to say to itself.
    pub fn spin(&mut self) {
        for _ in 0..10_000 {
            self.settle();
            let sent = self.sent();
            assert!(sent.iter().all(|(_, frame)| frame[12..14] != [8, 0]), "a packet leaves the host");
            if self.looped.is_empty() {
                return;
            }
        }
        panic!("a stack talks to itself for ever");
    }

    /// [`Rig::spin`] while `span` passes.
    pub fn spin_for(&mut self, span: Duration) {
        let end = self.now + span;
        self.spin();
        while let Some(at) = self.stack.next_deadline().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.spin();
        }
        self.now = end;
    }

    /// A frame arrives; the batch stays open.
    pub fn receive(&mut self, interface: u16, bytes: &[u8]) {
        let pool = if interface == LOOPBACK { &self.loopback } else { &self.pools[usize::from(interface)] };
        let mut frame = PacketBuf::alloc(pool, bytes.len(), 0).expect("pages for a frame");
        frame.write(0, bytes).expect("our own page");
        self.stack.on_frame(self.now, interface, frame);
    }

    /// sockd asks for something; the batch stays open. Returns where the socket lies.
    fn ask(&mut self, app: &App, slot: u32, make: impl FnOnce(OpId, SocketRef) -> Command) -> SocketRef {
        let op = OpId(self.next_op);
        self.next_op += 1;
        let last = StackLine::load(&app.memory, &app.geometry, SlotIndex(slot)).epoch;
        let at = SocketRef { session: app.id, slot: SlotIndex(slot), epoch: Epoch(last.0 + 1) };
        self.stack.on_command(self.now, &make(op, at));
        at
    }

    /// Listens at place `slot`.
    pub fn listen(&mut self, app: &mut App, slot: u32, local: &str, backlog: u32) {
        let local = addr(local);
        let at = self.ask(app, slot, |op, socket| Command::Listen {
            op,
            socket,
            local,
            backlog,
            share: Share::NONE,
        });
        app.move_in(at.slot, at.epoch);
        self.settle();
    }

    /// Connects from place `slot`.
    pub fn connect(&mut self, app: &mut App, slot: u32, local: &str, remote: &str) {
        self.connect_when(app, slot, local, remote, false);
    }

    /// Connects from place `slot`; with `hold` the SYN waits for what the client says.
    pub fn connect_when(&mut self, app: &mut App, slot: u32, local: &str, remote: &str, hold: bool) {
        let (local, remote) = (addr(local), addr(remote));
        let at = self.ask(app, slot, |op, socket| Command::Connect { op, socket, local, remote, hold });
        app.move_in(at.slot, at.epoch);
        self.settle();
    }

    /// Opens a datagram socket at place `slot`.
    pub fn datagram(&mut self, app: &mut App, slot: u32, local: &str, remote: &str) {
        self.datagram_of(app, slot, local, remote, Form::Udp, Share::NONE);
    }

    /// Opens a socket of datagrams of that form at place `slot`.
    pub fn datagram_of(
        &mut self,
        app: &mut App,
        slot: u32,
        local: &str,
        remote: &str,
        form: Form,
        share: Share,
    ) {
        let (local, remote) = (addr(local), addr(remote));
        let at =
            self.ask(app, slot, |op, socket| Command::Datagram { op, socket, local, remote, form, share });
        app.move_in(at.slot, at.epoch);
        self.settle();
    }

    /// The time of the next thing to do.
    pub fn deadline(&self) -> Option<Instant> {
        self.stack.next_deadline()
    }
}

fn attach(
    now: Instant,
    plan: &Plan,
    conns: &Mem,
    secrets: &Mem,
    sessions: Vec<(SessionId, Geometry, Mem)>,
) -> (Stack<Mem>, Vec<Pool>, Pool) {
    let pool =
        |_: &InterfaceConfig| Rc::new(FramePool::new(Rc::new(HeapMemory::new(plan.slab.bytes())), plan.slab));
    let devices = plan.interfaces.iter().filter(|config| config.vlan.is_none());
    let pools: Vec<_> = devices.map(pool).collect();
    let loopback = pool(&plan.interfaces[0]);
    let setup = Setup {
        shard: plan.shard.0,
        shards: plan.shard.1,
        interfaces: plan.interfaces.clone(),
        frames: pools.clone(),
        loopback: loopback.clone(),
        conns: conns.clone(),
        conns_capacity: plan.conns,
        secrets: secrets.clone(),
        watch: None,
        bait: Vec::new(),
        entropy: [7; secrets::ENTROPY_SIZE],
    };
    (Stack::attach(now, setup, sessions).expect("sound memory"), pools, loopback)
}

pub(super) fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address with a port")
}

/// Carries frames between interface 0 of both until nothing moves.
pub(super) fn exchange(one: &mut Rig, other: &mut Rig) {
    for _ in 0..10_000 {
        let (there, back) = (one.sent(), other.sent());
        if there.is_empty() && back.is_empty() {
            return;
        }
        there.iter().for_each(|(_, frame)| other.receive(0, frame));
        back.iter().for_each(|(_, frame)| one.receive(0, frame));
        one.settle();
        other.settle();
    }
    panic!("two stacks talk for ever");
}

/// Lets `span` pass at both ends, with everything that happens in it.
pub(super) fn pass(one: &mut Rig, other: &mut Rig, span: Duration) {
    let end = one.now + span;
    loop {
        exchange(one, other);
        let due = [one.deadline(), other.deadline()].into_iter().flatten().min();
        let Some(at) = due.filter(|at| *at <= end) else { break };
        one.now = at.max(one.now);
        other.now = one.now;
        one.settle();
        other.settle();
    }
    one.now = end;
    other.now = end;
}

/// A client.
#[derive(Debug)]
pub(super) struct App {
    pub id: SessionId,
    pub memory: Mem,
    pub geometry: Geometry,
    pub lines: Vec<ClientLine>,
    /// What is said of the datagrams to come.
    pub said: Said,
    wishes: u32,
    kicks: Producer<Mem, NOTE_SIZE>,
    tx_fresh: u32,
    tx_free: Vec<u32>,
}

impl App {
    /// Takes a place that was given to it.
    pub fn move_in(&mut self, slot: SlotIndex, epoch: Epoch) {
        let line = &mut self.lines[slot.0 as usize];
        *line =
            ClientLine { epoch, kick_seq: line.kick_seq, event_ack: line.event_ack, ..Default::default() };
        line.store(&self.memory, &self.geometry, slot);
    }

    /// The stack's line.
    pub fn stack_line(&self, slot: u32) -> StackLine {
        StackLine::load(&self.memory, &self.geometry, SlotIndex(slot))
    }

    fn publish(&mut self, slot: u32) {
        let place = SlotIndex(slot);
        let line = &mut self.lines[slot as usize];
        line.store(&self.memory, &self.geometry, place);
        if Notes::Kick.raise(&self.memory, &self.geometry, place, &mut line.kick_seq) {
            assert_eq!(self.kicks.push(&slot.to_ne_bytes()), Ok(true), "room for a note of every socket");
        }
        let _ = self.kicks.publish();
    }

    /// Writes into the send stream; nothing is ever freed, the arena must be large enough.
    pub fn write(&mut self, slot: u32, bytes: &[u8]) {
        let at = self.lines[slot as usize].written;
        let mut done = 0;
        for piece in pieces(at, bytes.len()) {
            if piece.within == 0 || done == 0 && at == 0 {
                let fresh = self.tx_free.pop().unwrap_or_else(|| {
                    self.tx_fresh += 1;
                    self.tx_fresh - 1
                });
                let entry = entry_of(at + done as u64);
                Direction::Tx.set_page(&self.memory, &self.geometry, SlotIndex(slot), entry, fresh);
            }
            let page = Direction::Tx.page(&self.memory, &self.geometry, SlotIndex(slot), piece.entry);
            let to = Direction::Tx.byte_at(&self.geometry, page.expect("set above"), piece.within);
            self.memory.write(to, &bytes[done..done + piece.len]);
            done += piece.len;
        }
        self.lines[slot as usize].written += bytes.len() as u64;
        self.publish(slot);
    }

    /// Reads what has been received and was not read yet, without consuming it.
    pub fn peek(&self, slot: u32) -> Vec<u8> {
        let (from, to) = (self.lines[slot as usize].consumed, self.stack_line(slot).received);
        let mut bytes = vec![0; to.saturating_sub(from) as usize];
        let mut done = 0;
        let direction = Direction::Rx { shard: 0 };
        for piece in pieces(from, bytes.len()) {
            let page = direction.page(&self.memory, &self.geometry, SlotIndex(slot), piece.entry);
            let at = direction.byte_at(&self.geometry, page.expect("netd's page"), piece.within);
            self.memory.read(at, &mut bytes[done..done + piece.len]);
            done += piece.len;
        }
        bytes
    }

    /// Consumes `len` bytes of what was received.
    pub fn consume(&mut self, slot: u32, len: usize) {
        self.lines[slot as usize].consumed += len as u64;
        self.publish(slot);
    }

    /// As [`App::consume`], without a word to netd.
    pub fn consume_quietly(&mut self, slot: u32, len: usize) {
        self.lines[slot as usize].consumed += len as u64;
        self.lines[slot as usize].store(&self.memory, &self.geometry, SlotIndex(slot));
    }

    /// Reads and consumes all there is.
    pub fn read(&mut self, slot: u32) -> Vec<u8> {
        let bytes = self.peek(slot);
        if !bytes.is_empty() {
            self.consume(slot, bytes.len());
        }
        bytes
    }

    /// The records in a listener's or datagram socket's stream, with their payload.
    pub fn records(&mut self, slot: u32) -> Vec<(Header, Vec<u8>)> {
        let bytes = self.read(slot);
        Self::records_in(&bytes)
    }

    fn records_in(bytes: &[u8]) -> Vec<(Header, Vec<u8>)> {
        let (mut rest, mut records) = (bytes, Vec::new());
        while let Some(header) = rest.first_chunk().and_then(Header::from_bytes) {
            let len = header.len as usize;
            records.push((header, rest[HEADER_SIZE..HEADER_SIZE + len].to_vec()));
            rest = &rest[record_size(len)..];
        }
        records
    }

    /// Accepts what waits; returns the places.
    pub fn accept(&mut self, slot: u32) -> Vec<u32> {
        let records = self.records(slot);
        self.settle_in(records)
    }

    /// As [`App::accept`], without a word to netd.
    pub fn accept_quietly(&mut self, slot: u32) -> Vec<u32> {
        let bytes = self.peek(slot);
        self.consume_quietly(slot, bytes.len());
        self.settle_in(Self::records_in(&bytes))
    }

    fn settle_in(&mut self, records: Vec<(Header, Vec<u8>)>) -> Vec<u32> {
        let real = records.into_iter().filter(|(header, _)| !header.is_lost());
        real.map(|(header, _)| {
            self.move_in(header.slot, header.epoch);
            header.slot.0
        })
        .collect()
    }

    /// Writes a datagram to `remote`.
    pub fn send_to(&mut self, slot: u32, remote: &str, payload: &[u8]) {
        let nowhere = SocketAddr::new(std::net::Ipv4Addr::UNSPECIFIED.into(), 0);
        self.send_from(slot, addr(remote), nowhere, 0, payload);
    }

    /// As [`App::send_to`], from an address and by an interface of the client's choice.
    pub fn send_from(
        &mut self,
        slot: u32,
        remote: SocketAddr,
        local: SocketAddr,
        interface: u32,
        payload: &[u8],
    ) {
        let len = payload.len() as u32;
        let header =
            Header { len, remote, local, slot: SlotIndex(interface), epoch: Epoch(0), said: self.said };
        let mut record = header.to_bytes().to_vec();
        record.extend(payload);
        record.resize(record_size(payload.len()), 0);
        self.write(slot, &record);
    }

    /// What the client wants of a socket from now on, see [`want`].
    pub fn want(&mut self, slot: u32, flags: u32) {
        self.lines[slot as usize].flags = flags;
        self.publish(slot);
    }

    /// What the client wishes of a socket from now on.
    pub fn wish(&mut self, slot: u32, wishes: &Wishes) {
        let bytes = wishes.encode().expect("they fit");
        let pages: Vec<u32> = (0..Wishes::pages(bytes.len()) as u32).map(|n| self.tx_fresh + n).collect();
        self.tx_fresh += pages.len() as u32;
        Wishes::store(&self.memory, &self.geometry, &pages, &bytes);
        self.wishes += 1;
        let line = &mut self.lines[slot as usize];
        line.set_wishes(self.wishes, pages[0]);
        self.publish(slot);
    }

    /// What the stack says of the last wishes: 0, or an errno. `None` before it has looked.
    pub fn granted(&self, slot: u32) -> Option<u16> {
        let granted = Granted::from_word(self.stack_line(slot).wishes());
        (u32::from(granted.number) == self.wishes).then_some(granted.errno)
    }

    /// Listens at the port that it has.
    pub fn begin_listening(&mut self, slot: u32, backlog: u32) {
        self.lines[slot as usize].set_backlog(backlog);
        self.publish(slot);
    }

    /// Closes a socket.
    pub fn close(&mut self, slot: u32) {
        self.lines[slot as usize].flags |= want::CLOSE;
        self.publish(slot);
    }
}
