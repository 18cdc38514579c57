//! A client program, as the stack sees one: a session, sockets at places of an arena, cursors it
//! moves by the rules of `proto::arena`. What it does is a list of tasks and a plan per connection;
//! what it sees goes to the oracle.
//!
//! It looks at a socket only when a note told it to, or when it has something of its own to do, so
//! that a lost note or wake-up shows as a connection that stands still.

mod payload;

use super::plans::{Finish, Plan, Shared, Task};
use super::rng::Rng;
use crate::crash::{CrashMemory, Point, Process};
use crate::oracle::{ConnId, Side, Stream};
use proto::Instant;
use proto::arena::line::{ClientLine, Notes, StackLine, level, want};
use proto::arena::record::{HEADER_SIZE, Header, Said, record_size};
use proto::arena::{Geometry, NOTE_SIZE, PAGE_SIZE};
use proto::control::client::{Ask, Granted, Reply, Request, VERSION};
use proto::id::{Epoch, SessionId, SlotIndex};
use proto::ring::spsc::{Consumer, Producer};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

/// One socket of a client.
#[derive(Debug)]
struct Socket {
    epoch: Epoch,
    line: ClientLine,
    /// Send pages by number of the stream page.
    pages: VecDeque<u32>,
    first_page: u64,
    acked: u64,
    /// Look at it in the next step.
    ready: bool,
    /// Not before this time.
    not_before: Instant,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Conn {
        conn: ConnId,
        side: Side,
        plan: Plan,
        ended: bool,
    },
    Listener {
        port: u16,
    },
    Datagram {
        port: u16,
        sent: u32,
        to_send: u32,
        remote: Option<SocketAddr>,
        len: u32,
    },
    /// A connection that a late copy of a cookie made out of one that has ended.
    Ghost,
}

struct Open {
    session: SessionId,
    geometry: Geometry,
    memory: CrashMemory,
    kicks: Producer<CrashMemory, NOTE_SIZE>,
    events: Consumer<CrashMemory, NOTE_SIZE>,
    tx_free: Vec<u32>,
    sockets: BTreeMap<u32, Socket>,
    /// Counts of notes outlive a use of their place.
    kick_seq: Vec<u32>,
    event_ack: Vec<u32>,
}

/// A wake-up pipe: whether a byte lies in it.
pub type Pipe = Rc<Cell<bool>>;

/// A client program.
pub struct Client {
    /// Its process.
    pub process: Rc<Process>,
    /// Bytes in this pipe wake it.
    pub pipe: Pipe,
    /// Bytes in this pipe wake netd.
    pub kick_pipe: Pipe,
    /// The request it waits for.
    request: Option<Request>,
    /// What stands on its session's socket, written by it and not taken off by sockd.
    pub socket: VecDeque<Request>,
    /// Replies it has not read.
    pub replies: VecDeque<Reply>,
    /// Its exit was asked for by a task.
    pub exits: bool,
    tasks: VecDeque<Task>,
    shared: Rc<Shared>,
    rng: Rng,
    addr: std::net::IpAddr,
    /// Connections it was given, and where they lie.
    mine: BTreeMap<(ConnId, Side), (SlotIndex, Epoch)>,
    /// Ports it has asked to listen on.
    ports: BTreeSet<u16>,
    /// Connections it has at a time at most.
    conns_max: usize,
    next_request: u64,
    open: Option<Open>,
}

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// Nothing to do until a wake-up.
    Sleep,
    /// Something to do at this time.
    Until(Instant),
}

impl Client {
    /// A client on the host of `addr` that will do `tasks`.
    pub fn new(
        shared: Rc<Shared>,
        rng: Rng,
        addr: std::net::IpAddr,
        wish: Geometry,
        tasks: Vec<Task>,
    ) -> Client {
        let open = Ask::Open {
            version: VERSION,
            active: wish.active,
            passive: wish.passive,
            tx_pages: wish.tx_pages,
            rx_pages: wish.rx_pages,
        };
        Client {
            process: Process::start(),
            pipe: Rc::default(),
            kick_pipe: Rc::default(),
            request: Some(Request { number: 1, ask: open.clone() }),
            socket: VecDeque::from([Request { number: 1, ask: open }]),
            replies: VecDeque::new(),
            exits: false,
            tasks: tasks.into(),
            shared,
            rng,
            addr,
            mine: BTreeMap::new(),
            ports: BTreeSet::new(),
            conns_max: wish.active as usize - 2,
            next_request: 2,
            open: None,
        }
    }

    /// Its session, once it has one.
    pub fn session(&self) -> Option<SessionId> {
        self.open.as_ref().map(|open| open.session)
    }

    /// The connection that its present request is about.
    pub fn pending_connect(&self) -> Option<ConnId> {
        match (&self.request, self.tasks.front()) {
            (Some(Request { ask: Ask::Connect { .. }, .. }), Some(Task::Connect { conn, .. })) => Some(*conn),
            _ => None,
        }
    }

    /// Whether it has done all its tasks and has no connection left.
    pub fn is_done(&self) -> bool {
        self.process.is_dead() || (self.tasks.is_empty() && self.request.is_none() && self.conns() == 0)
    }

    fn conns(&self) -> usize {
        let sockets = self.open.iter().flat_map(|open| open.sockets.values());
        sockets.filter(|socket| matches!(socket.kind, Kind::Conn { .. })).count()
    }

    /// Places that sockd gave it.
    fn actives(&self) -> usize {
        let sockets = self.open.iter().flat_map(|open| open.sockets.keys().map(move |slot| (slot, open)));
        sockets.filter(|(slot, open)| **slot < open.geometry.active).count()
    }

    /// More to do.
    pub fn add_tasks(&mut self, tasks: impl IntoIterator<Item = Task>) {
        self.tasks.extend(tasks);
    }

    /// Pages it holds for sending, and places it uses: both 0 when nothing leaks.
    pub fn holdings(&self) -> (usize, usize) {
        let Some(open) = &self.open else { return (0, 0) };
        (open.geometry.tx_pages as usize - open.tx_free.len(), open.sockets.len())
    }

    /// Listeners and datagram sockets it has.
    pub fn ports(&self) -> usize {
        self.open.iter().map(|open| open.sockets.len()).sum::<usize>() - self.conns()
    }

    /// What it is doing, for a failure's message.
    pub fn describe(&self) -> String {
        let sockets = self.open.iter().flat_map(|open| &open.sockets);
        let sockets: Vec<String> = sockets
            .map(|(slot, socket)| {
                let open = self.open.as_ref().expect("it has sockets");
                let stack = StackLine::load(&open.memory, &open.geometry, SlotIndex(*slot));
                format!("\n    place {slot}: {socket:?}\n      stack: {stack:?}")
            })
            .collect();
        format!(
            "session {:?}, tasks {:?}, request {:?}, sockets {}",
            self.session(),
            self.tasks,
            self.request,
            sockets.concat()
        )
    }

    /// Takes the arena that came with the reply to the first request.
    pub fn attach(&mut self, session: SessionId, geometry: Geometry, memory: CrashMemory) {
        let places = geometry.sockets() as usize;
        self.open = Some(Open {
            session,
            geometry,
            kicks: Producer::new(memory.clone(), geometry.kick_ring(0)),
            events: Consumer::new(memory.clone(), geometry.event_ring(0)),
            memory,
            tx_free: (0..geometry.tx_pages).rev().collect(),
            sockets: BTreeMap::new(),
            kick_seq: vec![0; places],
            event_ack: vec![0; places],
        });
    }

    /// Whether a reply that opens the session has been taken already.
    pub fn has_session(&self) -> bool {
        self.open.is_some()
    }

    /// sockd has shut its session down.
    pub fn sent_away(&mut self, reason: &'static str) {
        self.shared.oracle.borrow_mut().fail(format!("a client was sent away: {reason}"));
    }

    /// What its sockets had published when it died; its death is told to the oracle.
    pub fn died(&mut self) {
        let lines: BTreeMap<u32, ClientLine> = self
            .open
            .iter()
            .flat_map(|open| {
                let line = |slot: &u32| ClientLine::load(&open.memory, &open.geometry, SlotIndex(*slot));
                open.sockets.keys().map(move |slot| (*slot, line(slot)))
            })
            .collect();
        for ((conn, side), (slot, epoch)) in &self.mine {
            let line = lines.get(&slot.0).filter(|line| line.epoch == *epoch);
            let mut oracle = self.shared.oracle.borrow_mut();
            match line {
                Some(line) if line.flags & want::CLOSE != 0 => {}
                // The place was left long ago, or has another use since.
                None if oracle.conn(*conn).end(*side).closed => {}
                line => oracle.died(*conn, *side, line.map_or(0, |line| line.written)),
            }
        }
        for port in &self.ports {
            self.shared.closes(SocketAddr::new(self.addr, *port), "its listener died");
        }
        for task in &self.tasks {
            if let Task::Listen { port, .. } = task {
                self.shared.closes(SocketAddr::new(self.addr, *port), "its listener never was");
            }
            if let Task::Connect { conn, .. } = task {
                self.shared.oracle.borrow_mut().died(*conn, Side::Active, 0);
            }
        }
    }

    /// One turn of the program: what it was told, what it wants to do, then to sleep.
    pub fn step(&mut self, now: Instant) -> Rest {
        self.read_replies(now);
        self.take_notes();
        self.work(now);
        self.ask(now);
        let Some(open) = &mut self.open else { return self.rest(now, true) };
        let idle = open.events.arm().expect("netd keeps the event ring sound");
        self.rest(now, idle)
    }

    fn rest(&self, now: Instant, idle: bool) -> Rest {
        if !idle {
            return Rest::Until(now);
        }
        let sockets = self.open.iter().flat_map(|open| open.sockets.values());
        let own = sockets.filter(|socket| socket.ready).map(|socket| socket.not_before.max(now));
        let task = match self.tasks.front() {
            Some(Task::Wait(at)) if self.request.is_none() => Some((*at).max(now)),
            _ => None,
        };
        own.chain(task).min().map_or(Rest::Sleep, Rest::Until)
    }

    fn read_replies(&mut self, now: Instant) {
        while let Some(reply) = self.replies.pop_front() {
            if self.request.as_ref().is_none_or(|request| request.number != reply.number) {
                continue;
            }
            let Some(Request { ask, .. }) = self.request.take() else { continue };
            if let Ok(Granted::Session { .. }) = reply.result {
                continue;
            }
            match (ask, reply.result) {
                (Ask::Connect { remote, .. }, Ok(Granted::Socket { slot, epoch, local, .. })) => {
                    let Some(Task::Connect { conn, .. }) = self.tasks.pop_front() else {
                        unreachable!("a reply belongs to the task at hand")
                    };
                    self.shared.name(local, remote, conn);
                    self.settle(now, slot, epoch, conn, Side::Active);
                }
                (Ask::Connect { .. }, Err(errno)) => {
                    let Some(Task::Connect { conn, .. }) = self.tasks.pop_front() else {
                        unreachable!("a reply belongs to the task at hand")
                    };
                    self.shared.oracle.borrow_mut().sees_failure(conn, Side::Active, errno);
                }
                (Ask::Listen { local, .. }, Ok(Granted::Socket { slot, epoch, .. })) => {
                    self.tasks.pop_front();
                    self.place(now, slot, epoch, Kind::Listener { port: local.port() }, 0);
                }
                (Ask::Datagram { local, .. }, Ok(Granted::Socket { slot, epoch, .. })) => {
                    self.tasks.pop_front();
                    let kind =
                        Kind::Datagram { port: local.port(), sent: 0, to_send: 0, remote: None, len: 0 };
                    self.place(now, slot, epoch, kind, 0);
                }
                (ask, result) => {
                    self.tasks.pop_front();
                    self.shared.oracle.borrow_mut().fail(format!("{ask:?} was answered by {result:?}"));
                }
            }
        }
    }

    /// A connection's socket is this client's now.
    fn settle(&mut self, now: Instant, slot: SlotIndex, epoch: Epoch, conn: ConnId, side: Side) {
        if std::env::var_os("AXOLOTL_TRACE").is_some() {
            println!("{} conn {} {side:?} at place {slot} epoch {epoch}", now.millis(), conn.0);
        }
        self.mine.insert((conn, side), (slot, epoch));
        self.shared.oracle.borrow_mut().handed_over(conn, side);
        let plan = self.shared.directory.borrow().plan_of(conn, side);
        self.place(now, slot, epoch, Kind::Conn { conn, side, plan, ended: false }, plan.options);
    }

    /// Begins a use of a place: a fresh line; the counts of notes go on.
    fn place(&mut self, now: Instant, slot: SlotIndex, epoch: Epoch, kind: Kind, options: u32) {
        let open = self.open.as_mut().expect("sockets belong to a session");
        if let Some(old) = open.sockets.remove(&slot.0) {
            // netd would not give the place out again before it let go of it.
            let pages = old.pages.into_iter();
            open.tx_free.extend(pages);
        }
        let line = ClientLine {
            epoch,
            flags: options,
            kick_seq: open.kick_seq[slot.0 as usize],
            event_ack: open.event_ack[slot.0 as usize],
            ..ClientLine::default()
        };
        line.store(&open.memory, &open.geometry, slot);
        let socket = Socket {
            epoch,
            line,
            pages: VecDeque::new(),
            first_page: 0,
            acked: 0,
            ready: true,
            not_before: now,
            kind,
        };
        open.sockets.insert(slot.0, socket);
    }

    fn take_notes(&mut self) {
        let Some(open) = &mut self.open else { return };
        open.events.disarm();
        while let Some(note) = open.events.pop().expect("netd keeps the event ring sound") {
            open.events.release();
            let slot = SlotIndex(u32::from_ne_bytes(note));
            let ack = Notes::Event.take_up(&open.memory, &open.geometry, slot);
            open.event_ack[slot.0 as usize] = ack;
            if let Some(socket) = open.sockets.get_mut(&slot.0) {
                socket.line.event_ack = ack;
                socket.ready = true;
            }
        }
    }

    fn work(&mut self, now: Instant) {
        let Some(open) = &self.open else { return };
        let due = |socket: &Socket| socket.ready && socket.not_before <= now;
        let slots: Vec<u32> =
            open.sockets.iter().filter(|(_, socket)| due(socket)).map(|(slot, _)| *slot).collect();
        for slot in slots {
            self.look(now, SlotIndex(slot));
        }
    }

    /// Looks at one socket and does what its plan says.
    fn look(&mut self, now: Instant, slot: SlotIndex) {
        let Some(open) = &mut self.open else { return };
        let Some(socket) = open.sockets.get_mut(&slot.0) else { return };
        socket.ready = false;
        let stack = StackLine::load(&open.memory, &open.geometry, slot);
        // A line for a later use says that this one is over.
        let gone = stack.epoch != socket.epoch && socket.line.flags & want::CLOSE != 0
            || stack.epoch == socket.epoch && stack.flags & level::GONE != 0;
        if gone {
            let socket = open.sockets.remove(&slot.0).expect("just found");
            open.tx_free.extend(socket.pages);
            if let Kind::Conn { conn, side, .. } = socket.kind
                && socket.line.flags & want::CLOSE == 0
            {
                // Nobody asked for that: the record is lost, and the line says why.
                self.shared.oracle.borrow_mut().sees_failure(conn, side, stack.error);
            }
            self.pages_came_back();
            return;
        }
        if stack.epoch != socket.epoch {
            return;
        }
        if stack.acked > socket.line.written || stack.acked < socket.acked {
            let what = format!("place {slot}: acked {} of {}", stack.acked, socket.line.written);
            self.shared.oracle.borrow_mut().fail(what);
            return;
        }
        socket.acked = stack.acked;
        let mut freed = false;
        while socket.first_page < stack.acked / PAGE_SIZE as u64 {
            let page = socket.pages.pop_front().expect("acknowledged bytes have pages");
            open.tx_free.push(page);
            socket.first_page += 1;
            freed = true;
        }
        if stack.acked == socket.line.written && !socket.pages.is_empty() {
            // A socket with nothing to send holds no pages, not even one it has begun.
            open.tx_free.extend(socket.pages.drain(..));
            freed = true;
        }
        if freed {
            self.pages_came_back();
        }
        let open = self.open.as_ref().expect("as before");
        match open.sockets[&slot.0].kind {
            Kind::Conn { .. } => self.converse(now, slot, stack),
            Kind::Listener { port } => self.accept(now, slot, stack, port),
            Kind::Datagram { .. } => self.datagrams(now, slot, stack),
            Kind::Ghost => {
                if self.line(slot).flags & want::CLOSE == 0 {
                    self.line(slot).flags |= want::CLOSE | want::ABORT;
                    self.publish(slot);
                }
            }
        }
    }

    /// Who waited for send pages looks again.
    fn pages_came_back(&mut self) {
        let Some(open) = &mut self.open else { return };
        for socket in open.sockets.values_mut().filter(|socket| socket.line.flags & want::CLOSE == 0) {
            socket.ready = true;
        }
    }

    fn converse(&mut self, now: Instant, slot: SlotIndex, stack: StackLine) {
        let open = self.open.as_ref().expect("it has sockets");
        let socket = &open.sockets[&slot.0];
        let Kind::Conn { conn, side, plan, ended } = socket.kind else { return };
        if socket.line.flags & want::CLOSE != 0 {
            return;
        }
        let mut changed = false;
        let mut more = false;
        let mut ended = ended;
        // What came in.
        let consumed = socket.line.consumed;
        if stack.received < consumed {
            let what = format!("conn {} {side:?}: received moved back to {}", conn.0, stack.received);
            self.shared.oracle.borrow_mut().fail(what);
            return;
        }
        let readable = stack.received - consumed;
        let mut left = readable;
        if readable > 0 {
            let len = readable.min(1 + self.rng.below(plan.read_max));
            let bytes = self.copy_out(slot, consumed, len as usize);
            self.shared.oracle.borrow_mut().reads(conn, side, consumed, &bytes);
            self.line(slot).consumed += len;
            left -= len;
            more |= left > 0;
            changed = true;
        }
        if left == 0 && stack.flags & level::END != 0 && !ended {
            self.shared.oracle.borrow_mut().sees_end(conn, side);
            ended = true;
        }
        let failed = stack.flags & level::ERROR != 0;
        if failed && left == 0 {
            self.shared.oracle.borrow_mut().sees_failure(conn, side, stack.error);
        }
        // What goes out.
        let flags = self.line(slot).flags;
        let written = self.line(slot).written;
        let open_for_writing = stack.flags & level::OPEN != 0 && !failed;
        if open_for_writing && flags & want::SHUT_WR == 0 && written < plan.total {
            let room = (stack.acked + u64::from(stack.window)).saturating_sub(written);
            let len = room.min(plan.total - written).min(1 + self.rng.below(plan.write_max));
            let len = self.copy_in(slot, conn, side, written, len);
            if len > 0 {
                self.shared.oracle.borrow_mut().writes(conn, side, written + len);
                self.line(slot).written += len;
                more |= written + len < plan.total;
                changed = true;
            }
        }
        let all_written = self.line(slot).written == plan.total;
        let mut close = failed && left == 0;
        if all_written && !failed && flags & want::SHUT_WR == 0 && open_for_writing {
            match plan.finish {
                Finish::Orderly | Finish::Keep => {
                    self.shared.oracle.borrow_mut().shuts(conn, side);
                    self.line(slot).flags |= want::SHUT_WR;
                    changed = true;
                }
                Finish::AfterEnd => {}
                Finish::Close => close = true,
                Finish::Abort => {
                    self.shared.oracle.borrow_mut().may_fail(conn, "aborted");
                    self.line(slot).flags |= want::ABORT;
                    close = true;
                }
            }
        }
        let written_off = self.line(slot).flags & want::SHUT_WR != 0 || plan.finish == Finish::AfterEnd;
        close |= ended && all_written && written_off && plan.finish != Finish::Keep;
        if close {
            self.shared.oracle.borrow_mut().closes(conn, side);
            self.line(slot).flags |= want::CLOSE;
            changed = true;
        }
        let pause = Duration::from_nanos(self.rng.below(1 + plan.think.as_nanos() as u64));
        let socket = self.socket(slot);
        socket.kind = Kind::Conn { conn, side, plan, ended };
        socket.ready |= more;
        socket.not_before = now + pause;
        if changed {
            self.publish(slot);
        }
    }

    /// Takes connections from a listener's stream.
    fn accept(&mut self, now: Instant, slot: SlotIndex, stack: StackLine, port: u16) {
        let flags = self.line(slot).flags;
        if flags & want::CLOSE != 0 {
            return;
        }
        let consumed = self.line(slot).consumed;
        if stack.received < consumed || !stack.received.is_multiple_of(record_size(0) as u64) {
            let what = format!("listener on {port}: received {} after {consumed}", stack.received);
            return self.shared.oracle.borrow_mut().fail(what);
        }
        if stack.received == consumed {
            return;
        }
        let bytes = self.copy_out(slot, consumed, HEADER_SIZE);
        let header = bytes.first_chunk().and_then(Header::from_bytes);
        let conn = header.and_then(|header| self.shared.directory.borrow().find(header.remote, header.local));
        self.line(slot).consumed += record_size(0) as u64;
        match (header, conn) {
            (Some(header), _) if header.is_lost() => {}
            (Some(header), Some(conn)) if self.is_over(conn) => {
                self.place(now, header.slot, header.epoch, Kind::Ghost, 0);
            }
            (Some(header), Some(conn)) => self.settle(now, header.slot, header.epoch, conn, Side::Passive),
            (header, _) => {
                self.shared.oracle.borrow_mut().fail(format!("accepted a stranger: {header:?}"));
            }
        }
        self.socket(slot).ready = true;
        self.publish(slot);
    }

    /// Whether this end has had the connection, and one of the ends has closed it. A segment that
    /// comes late, or twice, can open it once more by the cookie it carries; no stack that keeps
    /// nothing of a cookie can tell.
    fn is_over(&self, conn: ConnId) -> bool {
        let oracle = self.shared.oracle.borrow();
        let conn = oracle.conn(conn);
        conn.passive.handed_over && (conn.passive.closed || conn.active.closed)
    }

    fn datagrams(&mut self, now: Instant, slot: SlotIndex, stack: StackLine) {
        let Kind::Datagram { port, sent, to_send, remote, len } = self.socket(slot).kind else { return };
        if self.line(slot).flags & want::CLOSE != 0 {
            return;
        }
        let mut changed = false;
        while self.line(slot).consumed < stack.received {
            let consumed = self.line(slot).consumed;
            let bytes = self.copy_out(slot, consumed, HEADER_SIZE);
            let Some(header) = bytes.first_chunk().and_then(Header::from_bytes) else {
                return self.shared.oracle.borrow_mut().fail(format!("datagrams on {port}: no header"));
            };
            let payload = self.copy_out(slot, consumed + HEADER_SIZE as u64, header.len as usize);
            let number = payload.get(..4).map(|n| u32::from_le_bytes([n[0], n[1], n[2], n[3]]));
            let stream = Stream {
                conn: ConnId(u32::from(header.remote.port()) << 16 | number.unwrap_or(0) & 0xffff),
                writer: Side::Active,
            };
            match number {
                Some(number) if stream.differs(4, &payload[4..]).is_none() => {
                    let key = (header.remote, number);
                    *self.shared.datagrams.borrow_mut().received.entry(key).or_default() += 1;
                }
                _ => self.shared.oracle.borrow_mut().fail(format!("a wrong datagram on {port}")),
            }
            self.line(slot).consumed += record_size(header.len as usize) as u64;
            changed = true;
        }
        let mut sent = sent;
        let mut more = false;
        if let Some(remote) = remote.filter(|_| sent < to_send) {
            let written = self.line(slot).written;
            let size = record_size(len as usize) as u64;
            let room = (stack.acked + u64::from(stack.window)).saturating_sub(written);
            let header = Header {
                len,
                remote,
                local: SocketAddr::new(std::net::Ipv4Addr::UNSPECIFIED.into(), 0),
                slot: SlotIndex(0),
                epoch: Epoch(0),
                said: Said::default(),
            };
            let mut record = header.to_bytes().to_vec();
            let mut payload = vec![0; len as usize];
            let stream = Stream { conn: ConnId(u32::from(port) << 16 | sent & 0xffff), writer: Side::Active };
            stream.fill(0, &mut payload);
            payload[..4].copy_from_slice(&sent.to_le_bytes());
            record.extend(payload);
            record.resize(size as usize, 0);
            if room >= size && self.cover(slot, written, size) == size {
                self.put(slot, written, &record);
                self.line(slot).written += size;
                sent += 1;
                self.shared.datagrams.borrow_mut().sent += 1;
                changed = true;
                more = sent < to_send;
            }
        }
        let socket = self.socket(slot);
        socket.kind = Kind::Datagram { port, sent, to_send, remote, len };
        socket.ready |= more;
        socket.not_before = now;
        if changed {
            self.publish(slot);
        }
    }

    fn socket(&mut self, slot: SlotIndex) -> &mut Socket {
        let open = self.open.as_mut().expect("sockets belong to a session");
        open.sockets.get_mut(&slot.0).expect("the caller has found it")
    }

    fn line(&mut self, slot: SlotIndex) -> &mut ClientLine {
        &mut self.socket(slot).line
    }

    /// Stores the line and tells netd.
    fn publish(&mut self, slot: SlotIndex) {
        let open = self.open.as_mut().expect("sockets belong to a session");
        let socket = open.sockets.get_mut(&slot.0).expect("the caller has found it");
        let (memory, geometry) = (&open.memory, &open.geometry);
        socket.line.store(memory, geometry, slot);
        if Notes::Kick.raise(memory, geometry, slot, &mut socket.line.kick_seq) {
            open.kick_seq[slot.0 as usize] = socket.line.kick_seq;
            let pushed = open.kicks.push(&slot.0.to_ne_bytes());
            assert_eq!(pushed, Ok(true), "the kick ring has room for every place");
            if open.kicks.publish() && self.process.effect(Point::Wake) {
                self.kick_pipe.set(true);
            }
        }
    }

    /// Asks for what the next task needs.
    fn ask(&mut self, now: Instant) {
        if self.request.is_some() || self.open.is_none() {
            return;
        }
        loop {
            let ask = match self.tasks.front().copied() {
                None => return,
                Some(Task::Wait(at)) if at <= now => {
                    self.tasks.pop_front();
                    continue;
                }
                Some(Task::Settle) if self.conns() == 0 => {
                    self.tasks.pop_front();
                    continue;
                }
                Some(Task::Wait(_) | Task::Settle) => return,
                Some(Task::Exit) => {
                    self.exits = true;
                    return;
                }
                Some(Task::Close { port }) => {
                    self.tasks.pop_front();
                    self.close_port(port);
                    continue;
                }
                Some(Task::Send { port, remote, count, len }) => {
                    self.tasks.pop_front();
                    self.send(port, remote, count, len);
                    continue;
                }
                Some(Task::Listen { port, backlog }) => {
                    self.ports.insert(port);
                    Ask::listen(SocketAddr::new(self.addr, port), backlog)
                }
                Some(Task::Connect { .. }) if self.actives() >= self.conns_max => return,
                Some(Task::Connect { conn, local, remote }) => {
                    // Known before the first SYN can arrive, when the port is known.
                    if local.port() != 0 {
                        self.shared.name(local, remote, conn);
                    }
                    Ask::Connect { local, remote, hold: false }
                }
                Some(Task::Datagram { port }) => Ask::udp(SocketAddr::new(self.addr, port)),
            };
            if self.process.effect(Point::Message) {
                let request = Request { number: self.next_request, ask };
                self.socket.push_back(request.clone());
                self.request = Some(request);
                self.next_request += 1;
            }
            return;
        }
    }

    fn slot_of_port(&self, wanted: u16) -> Option<SlotIndex> {
        let open = self.open.as_ref()?;
        let found = open.sockets.iter().find(|(_, socket)| match socket.kind {
            Kind::Listener { port } | Kind::Datagram { port, .. } => {
                port == wanted && socket.line.flags & want::CLOSE == 0
            }
            Kind::Conn { .. } | Kind::Ghost => false,
        });
        found.map(|(slot, _)| SlotIndex(*slot))
    }

    fn close_port(&mut self, port: u16) {
        let Some(slot) = self.slot_of_port(port) else { return };
        self.shared.closes(SocketAddr::new(self.addr, port), "its listener was closed");
        self.line(slot).flags |= want::CLOSE;
        self.publish(slot);
    }

    fn send(&mut self, port: u16, to: SocketAddr, count: u32, datagram_len: u32) {
        let Some(slot) = self.slot_of_port(port) else { return };
        let socket = self.socket(slot);
        if let Kind::Datagram { to_send, remote, len, .. } = &mut socket.kind {
            (*to_send, *remote, *len) = (*to_send + count, Some(to), datagram_len);
        }
        socket.ready = true;
    }
}
