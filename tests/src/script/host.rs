//! The host under test: a stack over memory that outlives it, and a client without any library.

use super::wire;
use netd::link::interface::InterfaceConfig;
use netd::secrets;
use netd::stack::{LOOPBACK, ORDER, Setup, Stack};
use netd::wire::address::MacAddr;
use proto::Instant;
use proto::arena::line::{ClientLine, Notes, StackLine, want};
use proto::arena::place::{Direction, entry_of, pieces};
use proto::arena::record::{HEADER_SIZE, Header, record_size};
use proto::arena::{Geometry, NOTE_SIZE};
use proto::cell::{CellTable, table_size};
use proto::control::messages::Prefix;
use proto::control::notices::Change;
use proto::control::operations::{Command, SocketRef};
use proto::form::{Form, Share};
use proto::hard::conns::{Kind, LAYOUT, Opening, State, TcpState};
use proto::hard::sysctl::Tunable;
use proto::id::{Epoch, OpId, SessionId, SlotIndex};
use proto::nic::packet_buf::PacketBuf;
use proto::nic::pool::FramePool;
use proto::nic::slab::SlabGeometry;
use proto::ring::spsc::Producer;
use proto::shm::Memory;
use proto::shm::heap::HeapMemory;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::atomic::Ordering;

type Mem = Rc<HeapMemory>;

/// The stack's port.
pub const PORT: u16 = 1000;
/// The remote's, unless a script says another.
pub const REMOTE_PORT: u16 = 2000;
const CONNS: u32 = 64;
const SLAB: SlabGeometry = SlabGeometry { small: 1024, large: 64 };
const GEOMETRY: Geometry = Geometry { shards: 1, active: 8, passive: 8, tx_pages: 128, rx_pages: 128 };
const SESSION: SessionId = SessionId(1);

/// Octet `offset` of the stream of the remote or of the stack.
pub fn octet(from_stack: bool, offset: u64) -> u8 {
    let factor = if from_stack { 131 } else { 29 };
    (offset.wrapping_mul(factor) % 251) as u8
}

/// The host.
pub struct Host {
    /// The time.
    pub now: Instant,
    stack: Stack<Mem>,
    frames: Rc<FramePool<Mem>>,
    conns: Mem,
    secrets: Mem,
    arena: Mem,
    mtu: u16,
    v6: bool,
    kicks: Producer<Mem, NOTE_SIZE>,
    lines: Vec<ClientLine>,
    tx_pages: u32,
    next_op: u64,
    /// What was set, as the configuration keeps it.
    tuned: Vec<Change>,
}

impl Host {
    /// At its first start, its neighbour known.
    pub fn new(mtu: u16) -> Host {
        Host::of_family(mtu, false)
    }

    /// [`Host::new`], or the same over IPv6, whose longer header an MTU longer by as much makes up for.
    pub fn of_family(mtu: u16, v6: bool) -> Host {
        let mtu = if v6 { mtu + 20 } else { mtu };
        let now = Instant::from_millis(1_000_000);
        let memory = |size| Rc::new(HeapMemory::new(size));
        let (conns, secrets) = (memory(table_size(CONNS)), memory(secrets::REGION_SIZE));
        let arena = memory(GEOMETRY.bytes());
        let (stack, frames) = attach(now, (mtu, v6), &conns, &secrets, Vec::new());
        let kicks = Producer::new(arena.clone(), GEOMETRY.kick_ring(0));
        let lines = vec![ClientLine::default(); GEOMETRY.sockets() as usize];
        let (tx_pages, next_op, tuned) = (0, 1, Vec::new());
        let mut host = Host {
            now,
            stack,
            frames,
            conns,
            secrets,
            arena,
            mtu,
            v6,
            kicks,
            lines,
            tx_pages,
            next_op,
            tuned,
        };
        host.stack.add_session(SESSION, GEOMETRY, host.arena.clone()).expect("a fresh arena");
        host.know_neighbour();
        host
    }

    fn know_neighbour(&mut self) {
        let change = Change::NeighbourAdd { nic: 0, addr: self.remote(), mac: wire::REMOTE_MAC };
        self.stack.change(self.now, &change).expect("an interface");
    }

    fn remote(&self) -> IpAddr {
        if self.v6 { wire::REMOTE6.into() } else { wire::REMOTE.into() }
    }

    fn local(&self) -> IpAddr {
        if self.v6 { wire::STACK6.into() } else { wire::STACK.into() }
    }

    /// The stack dies with what was not settled, and is followed by another.
    pub fn die(&mut self) {
        let sessions = vec![(SESSION, GEOMETRY, self.arena.clone())];
        (self.stack, self.frames) =
            attach(self.now, (self.mtu, self.v6), &self.conns, &self.secrets, sessions);
        for change in &self.tuned {
            self.stack.change(self.now, change).expect("as it was set");
        }
        self.know_neighbour();
    }

    /// Gives a tunable a value, for this stack and its successors.
    pub fn tune(&mut self, tunable: Tunable, value: u32) -> Result<(), String> {
        let change = Change::SysctlSet { tunable, value };
        self.stack.change(self.now, &change).map_err(|errno| format!("{tunable:?}: {errno}"))?;
        self.tuned.push(change);
        Ok(())
    }

    /// One batch: what waits is taken up, sent and settled. Returns the frames that leave.
    pub fn batch(&mut self) -> Vec<Vec<u8>> {
        self.stack.poll_kicks(self.now, usize::MAX);
        self.stack.on_timers(self.now);
        self.stack.poll_transmit(self.now, &mut [usize::MAX; 2]);
        self.stack.settle(self.now, ORDER);
        while self.stack.next_answer().is_some() {}
        let mut out = Vec::new();
        while let Some((interface, frame)) = self.stack.next_frame() {
            assert_ne!(interface, LOOPBACK, "nothing is for this host");
            let mut bytes = vec![0; frame.len()];
            frame.read(0, &mut bytes);
            out.push(bytes);
        }
        out
    }

    /// When the stack must be asked next.
    pub fn deadline(&self) -> Option<Instant> {
        self.stack.next_deadline()
    }

    /// A frame arrives; the batch stays open.
    pub fn receive(&mut self, bytes: &[u8]) {
        let mut frame = PacketBuf::alloc(&self.frames, bytes.len(), 0).expect("pages for a frame");
        frame.write(0, bytes).expect("our own page");
        self.stack.on_frame(self.now, 0, frame);
    }

    fn ask(&mut self, slot: u32, make: impl FnOnce(OpId, SocketRef) -> Command) {
        let op = OpId(self.next_op);
        self.next_op += 1;
        let last = StackLine::load(&self.arena, &GEOMETRY, SlotIndex(slot)).epoch;
        let socket = SocketRef { session: SESSION, slot: SlotIndex(slot), epoch: Epoch(last.0 + 1) };
        self.stack.on_command(self.now, &make(op, socket));
        self.move_in(slot, socket.epoch);
    }

    /// Listens at place `slot`.
    pub fn listen(&mut self, slot: u32, backlog: u32) {
        let local = SocketAddr::new(self.local(), PORT);
        self.ask(slot, |op, socket| Command::Listen { op, socket, local, backlog, share: Share::NONE });
    }

    /// Connects from place `slot`.
    pub fn connect(&mut self, slot: u32) {
        let local = SocketAddr::new(self.local(), PORT);
        let remote = SocketAddr::new(self.remote(), REMOTE_PORT);
        let line = &self.lines[slot as usize];
        let hold = line.flags & want::FASTOPEN != 0 || line.mss_congestion != 0;
        self.ask(slot, |op, socket| Command::Connect { op, socket, local, remote, hold });
    }

    fn move_in(&mut self, slot: u32, epoch: Epoch) {
        let line = &mut self.lines[slot as usize];
        *line = ClientLine { epoch, kick_seq: line.kick_seq, event_ack: line.event_ack, ..*line };
        (line.written, line.consumed) = (0, 0);
        line.store(&self.arena, &GEOMETRY, SlotIndex(slot));
    }

    /// Takes the next accepted connection of the listener at `slot`; its place.
    pub fn accept(&mut self, slot: u32) -> Option<u32> {
        let bytes = self.peek(slot);
        let header = bytes.first_chunk().and_then(Header::from_bytes)?;
        assert_eq!(header.len, 0, "an accepted connection has no payload in its record");
        self.change(slot, |line| line.consumed += record_size(0) as u64);
        assert!(record_size(0) >= HEADER_SIZE);
        self.lines[header.slot.0 as usize].flags = 0;
        self.move_in(header.slot.0, header.epoch);
        Some(header.slot.0)
    }

    /// netd's line of a place.
    pub fn stack_line(&self, slot: u32) -> StackLine {
        StackLine::load(&self.arena, &GEOMETRY, SlotIndex(slot))
    }

    /// Changes the client's line and says so.
    pub fn change(&mut self, slot: u32, change: impl FnOnce(&mut ClientLine)) {
        let line = &mut self.lines[slot as usize];
        change(line);
        line.store(&self.arena, &GEOMETRY, SlotIndex(slot));
        if Notes::Kick.raise(&self.arena, &GEOMETRY, SlotIndex(slot), &mut line.kick_seq) {
            assert_eq!(self.kicks.push(&slot.to_ne_bytes()), Ok(true), "room for a note of every socket");
        }
        let _ = self.kicks.publish();
    }

    /// A socket that is not open yet has the options of another one that shape its SYN.
    pub fn like(&mut self, other: u32, slot: u32) {
        let other = self.lines[other as usize];
        let line = &mut self.lines[slot as usize];
        line.flags |= other.flags & want::FASTOPEN;
        line.mss_congestion = other.mss_congestion;
    }

    /// Asks for an operation that may make no sense.
    pub fn ask_anything(&mut self, mut number: impl FnMut() -> u64) {
        let slot = SlotIndex(number() as u32 % 20);
        let socket = SocketRef { session: SESSION, slot, epoch: Epoch(number() as u32 % 4) };
        let op = OpId(number() % 8);
        let ports = [0, PORT, REMOTE_PORT, number() as u16];
        let hosts = [self.local(), self.remote(), self.remote(), IpAddr::from([255; 4])];
        let mut end = |from: usize| {
            SocketAddr::new(hosts[from + number() as usize % (4 - from)], ports[number() as usize % 4])
        };
        // Nothing is for this host itself: nobody would carry it.
        let (local, remote) = (end(0), end(2));
        let command = match number() % 6 {
            0 => Command::Listen { op, socket, local, backlog: number() as u32 % 10, share: Share::NONE },
            1 => Command::Datagram { op, socket, local, remote, form: Form::Udp, share: Share::NONE },
            2 => Command::Withdraw { op, socket },
            3 if number().is_multiple_of(8) => Command::EndSession { op, session: SESSION },
            _ => Command::Connect { op, socket, local, remote, hold: number().is_multiple_of(2) },
        };
        self.stack.on_command(self.now, &command);
    }

    /// The client writes any word anywhere into its arena, and points at any place.
    pub fn scribble(&mut self, mut number: impl FnMut() -> u64) {
        for _ in 0..1 + number() % 4 {
            let whole = GEOMETRY.bytes() as u64 / 4;
            // Mostly where lines, rings and tables lie.
            let word =
                if number().is_multiple_of(4) { number() % whole } else { number() % (whole / 64).max(1) };
            let value = [0, 1, u32::MAX, number() as u32 % 64, number() as u32][number() as usize % 5];
            self.arena.store_u32(word as usize * 4, value, Ordering::Release);
        }
        let slot = number() as u32 % (GEOMETRY.sockets() + 2);
        let _ = self.kicks.push(&slot.to_ne_bytes());
        let _ = self.kicks.publish();
    }

    /// Options of a socket that is not open yet.
    pub fn prepare(&mut self, slot: u32, change: impl FnOnce(&mut ClientLine)) {
        change(&mut self.lines[slot as usize]);
    }

    /// What the client has written.
    pub fn written(&self, slot: u32) -> u64 {
        self.lines[slot as usize].written
    }

    /// Writes `count` more octets of the pattern; with `urgent` the last one is urgent.
    pub fn write(&mut self, slot: u32, count: u32, urgent: bool) {
        let at = self.lines[slot as usize].written;
        let bytes: Vec<u8> = (at..at + u64::from(count)).map(|offset| octet(true, offset)).collect();
        let mut done = 0;
        for piece in pieces(at, bytes.len()) {
            let entry = entry_of(at + done as u64);
            if piece.within == 0 {
                Direction::Tx.set_page(&self.arena, &GEOMETRY, SlotIndex(slot), entry, self.tx_pages);
                self.tx_pages += 1;
            }
            // Where the arena is scribbled over, this client has forgotten where it wrote.
            if let Ok(page) = Direction::Tx.page(&self.arena, &GEOMETRY, SlotIndex(slot), piece.entry) {
                let to = Direction::Tx.byte_at(&GEOMETRY, page, piece.within);
                self.arena.write(to, &bytes[done..done + piece.len]);
            }
            done += piece.len;
        }
        self.change(slot, |line| {
            line.written += u64::from(count);
            if urgent {
                line.urgent = line.written as u32;
                line.flags |= want::URGENT;
            }
        });
    }

    /// What was received and not consumed.
    fn peek(&self, slot: u32) -> Vec<u8> {
        let (from, to) = (self.lines[slot as usize].consumed, self.stack_line(slot).received);
        let mut bytes = vec![0; to.saturating_sub(from) as usize];
        let mut done = 0;
        let direction = Direction::Rx { shard: 0 };
        for piece in pieces(from, bytes.len()) {
            let page = direction.page(&self.arena, &GEOMETRY, SlotIndex(slot), piece.entry);
            let at = direction.byte_at(&GEOMETRY, page.expect("a page of netd"), piece.within);
            self.arena.read(at, &mut bytes[done..done + piece.len]);
            done += piece.len;
        }
        bytes
    }

    /// Consumes `count` octets, or all there are; they must be the remote's.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn read(&mut self, slot: u32, count: Option<u32>) -> Result<(), String> {
        let bytes = self.peek(slot);
        let count = count.map_or(bytes.len(), |count| count as usize);
        if bytes.len() < count {
            return Err(format!("{} octets are there, not {count}", bytes.len()));
        }
        let from = self.lines[slot as usize].consumed;
        let wrong = (0..count).find(|at| bytes[*at] != octet(false, from + *at as u64));
        if let Some(at) = wrong {
            return Err(format!("octet {} of the stream is not the remote's", from + at as u64));
        }
        self.change(slot, |line| line.consumed += count as u64);
        Ok(())
    }

    /// What is committed of connections: their states.
    pub fn connections(&self) -> Vec<TcpState> {
        self.records(|kind| matches!(kind, Kind::TcpActive | Kind::TcpPassive))
    }

    /// Whether a listener is committed.
    pub fn listens(&self) -> bool {
        !self.records(|kind| !matches!(kind, Kind::TcpActive | Kind::TcpPassive)).is_empty()
    }

    fn records(&self, wanted: impl Fn(Kind) -> bool) -> Vec<TcpState> {
        let table = CellTable::attach(self.conns.clone(), LAYOUT).expect("a table");
        let images = (0..table.high_water()).filter_map(|index| table.read(index).expect("a sound cell"));
        images
            .filter(|image| Opening::from_bytes(&image.opening).is_some_and(|opening| wanted(opening.kind)))
            .map(|image| State::from_bytes(&image.state).expect("a sound state").tcp_state)
            .collect()
    }
}

fn attach(
    now: Instant,
    (mtu, v6): (u16, bool),
    conns: &Mem,
    secrets: &Mem,
    sessions: Vec<(SessionId, Geometry, Mem)>,
) -> (Stack<Mem>, Rc<FramePool<Mem>>) {
    let pool = || Rc::new(FramePool::new(Rc::new(HeapMemory::new(SLAB.bytes())), SLAB));
    let frames = pool();
    let addr = match v6 {
        true => Prefix { addr: wire::STACK6.into(), len: 64 },
        false => Prefix { addr: wire::STACK.into(), len: 24 },
    };
    let interface = InterfaceConfig {
        mac: MacAddr(wire::STACK_MAC),
        mtu,
        vlan: None,
        addrs: vec![addr],
        tentative: Vec::new(),
        gateways: Vec::new(),
        slaac: false,
        learned: Default::default(),
    };
    let setup = Setup {
        shard: 0,
        shards: 1,
        interfaces: vec![interface],
        frames: vec![frames.clone()],
        loopback: pool(),
        conns: conns.clone(),
        conns_capacity: CONNS,
        secrets: secrets.clone(),
        watch: None,
        bait: Vec::new(),
        entropy: [7; secrets::ENTROPY_SIZE],
    };
    (Stack::attach(now, setup, sessions).expect("sound memory"), frames)
}
