//! The stack does not allocate per packet: two stacks in this process, a counting allocator, and no
//! allocation in thousands of packets once buffers have reached their size.
//!
//! Only what the stack does is counted, and taking its frames apart; the client's side and the cable
//! between the two are written so that they need not be.

#![expect(unsafe_code, reason = "a global allocator that counts")]

use netd::link::interface::InterfaceConfig;
use netd::secrets;
use netd::stack::{ORDER, Setup, Stack};
use netd::wire::address::MacAddr;
use proto::Instant;
use proto::arena::line::{ClientLine, Notes, StackLine, level};
use proto::arena::place::{Direction, entry_of, pieces};
use proto::arena::record::{HEADER_SIZE, Header, Said, record_size};
use proto::arena::{Geometry, NOTE_SIZE, PAGE_SIZE, TABLE_PAGES};
use proto::cell::table_size;
use proto::control::messages::Prefix;
use proto::control::operations::{Command, SocketRef};
use proto::form::{Form, Share};
use proto::id::{Epoch, OpId, SessionId, SlotIndex};
use proto::nic::packet_buf::PacketBuf;
use proto::nic::pool::FramePool;
use proto::nic::slab::SlabGeometry;
use proto::ring::spsc::{Consumer, Producer};
use proto::shm::Memory;
use proto::shm::heap::HeapMemory;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

/// Counts what a thread asks for while it says so.
struct Counting;

thread_local! {
    static ON: Cell<bool> = const { Cell::new(false) };
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

fn tick() {
    if ON.get() {
        COUNT.set(COUNT.get() + 1);
    }
}

// SAFETY: everything is handed to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        tick();
        // SAFETY: the caller keeps the rules of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the rules of `dealloc`; `place` came from `System`.
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        tick();
        // SAFETY: the caller keeps the rules of `realloc`; `place` came from `System`.
        unsafe { System.realloc(place, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn counted<T>(what: impl FnOnce() -> T) -> T {
    ON.set(true);
    let value = what();
    ON.set(false);
    value
}

type Mem = Rc<HeapMemory>;

const GEOMETRY: Geometry = Geometry { shards: 1, active: 4, passive: 4, tx_pages: 128, rx_pages: 256 };
const SLAB: SlabGeometry = SlabGeometry { small: 2048, large: 64 };
const CONNS: u32 = 64;
const RX: Direction = Direction::Rx { shard: 0 };
/// A stream never has more than this under way: its pages are then used in turn.
const AHEAD: u64 = ((TABLE_PAGES - 2) * PAGE_SIZE) as u64;

/// A stack with one client, whose places are written by hand.
struct End {
    stack: Stack<Mem>,
    pool: Rc<FramePool<Mem>>,
    arena: Mem,
    kicks: Producer<Mem, NOTE_SIZE>,
    events: Consumer<Mem, NOTE_SIZE>,
    lines: Vec<ClientLine>,
    buffer: Vec<u8>,
    frames: u64,
}

impl End {
    fn new(number: u8) -> End {
        let memory = |size| Rc::new(HeapMemory::new(size));
        let pool = Rc::new(FramePool::new(memory(SLAB.bytes()), SLAB));
        let address = Prefix { addr: [10, 0, 0, number].into(), len: 24 };
        let setup = Setup {
            shard: 0,
            shards: 1,
            interfaces: vec![InterfaceConfig {
                mac: MacAddr([2, 0, 0, 0, 0, number]),
                mtu: 1500,
                vlan: None,
                addrs: vec![address],
                tentative: Vec::new(),
                gateways: Vec::new(),
                slaac: false,
                learned: Default::default(),
            }],
            frames: vec![pool.clone()],
            loopback: Rc::new(FramePool::new(memory(SLAB.bytes()), SLAB)),
            conns: memory(table_size(CONNS)),
            conns_capacity: CONNS,
            secrets: memory(secrets::REGION_SIZE),
            watch: None,
            bait: Vec::new(),
            entropy: [7; secrets::ENTROPY_SIZE],
        };
        let mut stack = Stack::attach(Instant::from_millis(1), setup, Vec::new()).expect("fresh memory");
        let arena = memory(GEOMETRY.bytes());
        stack.add_session(SessionId(1), GEOMETRY, arena.clone()).expect("a fresh arena");
        let kicks = Producer::new(arena.clone(), GEOMETRY.kick_ring(0));
        let events = Consumer::new(arena.clone(), GEOMETRY.event_ring(0));
        let lines = vec![ClientLine::default(); GEOMETRY.sockets() as usize];
        End { stack, pool, arena, kicks, events, lines, buffer: vec![0; 65_536], frames: 0 }
    }

    fn stack_line(&self, slot: SlotIndex) -> StackLine {
        StackLine::load(&self.arena, &GEOMETRY, slot)
    }

    /// Takes place `slot`; its send pages are those of the same number.
    fn move_in(&mut self, slot: SlotIndex, epoch: Epoch) {
        self.lines[slot.0 as usize] = ClientLine { epoch, ..ClientLine::default() };
        self.lines[slot.0 as usize].store(&self.arena, &GEOMETRY, slot);
        let first = if slot.0 == 0 { 0 } else { TABLE_PAGES as u32 };
        for entry in 0..TABLE_PAGES {
            Direction::Tx.set_page(&self.arena, &GEOMETRY, slot, entry, first + entry as u32);
        }
    }

    fn publish(&mut self, slot: SlotIndex) {
        let line = &mut self.lines[slot.0 as usize];
        line.store(&self.arena, &GEOMETRY, slot);
        if Notes::Kick.raise(&self.arena, &GEOMETRY, slot, &mut line.kick_seq) {
            assert_eq!(self.kicks.push(&slot.0.to_ne_bytes()), Ok(true), "room for every socket's note");
        }
        let _ = self.kicks.publish();
    }

    fn write(&mut self, slot: SlotIndex, bytes: &[u8]) {
        let at = self.lines[slot.0 as usize].written;
        let mut done = 0;
        for piece in pieces(at, bytes.len()) {
            let page =
                Direction::Tx.page(&self.arena, &GEOMETRY, slot, piece.entry).expect("set at the start");
            let to = Direction::Tx.byte_at(&GEOMETRY, page, piece.within);
            self.arena.write(to, &bytes[done..done + piece.len]);
            done += piece.len;
        }
        self.lines[slot.0 as usize].written += bytes.len() as u64;
        self.publish(slot);
    }

    /// Takes up events and everything received; returns how much.
    fn consume(&mut self, slot: SlotIndex) -> u64 {
        while let Ok(Some(note)) = self.events.pop() {
            let slot = SlotIndex(u32::from_ne_bytes(note));
            self.lines[slot.0 as usize].event_ack = Notes::Event.take_up(&self.arena, &GEOMETRY, slot);
        }
        self.events.release();
        let new = self.stack_line(slot).received - self.lines[slot.0 as usize].consumed;
        if new > 0 {
            self.lines[slot.0 as usize].consumed += new;
            self.publish(slot);
        }
        new
    }

    /// The first bytes received.
    fn peek(&self, slot: SlotIndex, out: &mut [u8]) {
        let page = RX.page(&self.arena, &GEOMETRY, slot, entry_of(0)).expect("netd's page");
        self.arena.read(RX.byte_at(&GEOMETRY, page, 0), out);
    }

    fn command(&mut self, now: Instant, make: impl FnOnce(OpId, SocketRef) -> Command) {
        let at = SocketRef { session: SessionId(1), slot: SlotIndex(0), epoch: Epoch(1) };
        self.stack.on_command(now, &make(OpId(1), at));
        self.move_in(SlotIndex(0), Epoch(1));
    }

    /// One batch.
    fn batch(&mut self, now: Instant) {
        counted(|| {
            self.stack.poll_kicks(now, usize::MAX);
            if self.stack.next_deadline().is_some_and(|due| due <= now) {
                self.stack.on_timers(now);
            }
            self.stack.poll_transmit(now, &mut [256; 2]);
            self.stack.settle(now, ORDER);
            while self.stack.next_answer().is_some() {}
            while self.stack.next_wake().is_some() {}
        });
    }

    /// Frames of the last batch to the other end, whose next batch begins.
    fn carry(&mut self, now: Instant, to: &mut End) {
        while let Some((_, frame)) = counted(|| self.stack.next_frame()) {
            let len = frame.len();
            frame.read(0, &mut self.buffer[..len]);
            counted(|| drop(frame));
            let mut arrived = PacketBuf::alloc(&to.pool, len, 0).expect("pages for a frame");
            arrived.write(0, &self.buffer[..len]).expect("our own pages");
            counted(|| to.stack.on_frame(now, 0, arrived));
            self.frames += 1;
        }
    }
}

/// Both ends and the time.
struct Pair {
    now: Instant,
    one: End,
    other: End,
}

impl Pair {
    fn new() -> Pair {
        Pair { now: Instant::from_millis(1), one: End::new(1), other: End::new(2) }
    }

    fn step(&mut self) {
        self.now = self.now + Duration::from_micros(50);
        self.one.batch(self.now);
        self.one.carry(self.now, &mut self.other);
        self.other.batch(self.now);
        self.other.carry(self.now, &mut self.one);
    }

    fn frames(&self) -> u64 {
        self.one.frames + self.other.frames
    }

    /// Steps until `enough` frames have been carried.
    fn flow(&mut self, enough: u64, mut load: impl FnMut(&mut Pair)) {
        let (goal, mut steps) = (self.frames() + enough, 0);
        while self.frames() < goal {
            load(self);
            self.step();
            steps += 1;
            assert!(steps < 100 * enough, "nothing flows");
        }
    }

    /// Frames and allocations of a flow, after one that warms up.
    fn measure(&mut self, mut load: impl FnMut(&mut Pair)) -> (u64, u64) {
        // Neighbours are announced in the first seconds, which is no packet path.
        for _ in 0..20 {
            self.now = self.now + Duration::from_secs(1);
            self.step();
        }
        self.flow(20_000, &mut load);
        let (frames, before) = (self.frames(), COUNT.get());
        self.flow(20_000, &mut load);
        (self.frames() - frames, COUNT.get() - before)
    }
}

fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// An established connection; its place at either end.
fn connected() -> (Pair, SlotIndex, SlotIndex) {
    let mut pair = Pair::new();
    let now = pair.now;
    pair.other.command(now, |op, socket| Command::Listen {
        op,
        socket,
        local: addr("0.0.0.0:80"),
        backlog: 4,
        share: Share::NONE,
    });
    pair.one.command(now, |op, socket| Command::Connect {
        op,
        socket,
        local: addr("10.0.0.1:1000"),
        remote: addr("10.0.0.2:80"),
        hold: false,
    });
    let here = SlotIndex(0);
    for _ in 0..100 {
        pair.step();
    }
    assert_ne!(pair.one.stack_line(here).flags & level::OPEN, 0, "connected");
    let mut header = [0; HEADER_SIZE];
    pair.other.peek(here, &mut header);
    let header = Header::from_bytes(&header).expect("an accept record");
    pair.other.consume(here);
    pair.other.move_in(header.slot, header.epoch);
    (pair, here, header.slot)
}

fn assert_none((frames, allocations): (u64, u64)) {
    assert!(frames >= 20_000);
    assert_eq!(allocations, 0, "in {frames} frames");
}

#[test]
fn a_bulk_stream_allocates_nothing() {
    let (mut pair, here, there) = connected();
    let chunk = [7; 16 * 1024];
    assert_none(pair.measure(|pair| {
        pair.one.consume(here);
        pair.other.consume(there);
        let line = pair.one.stack_line(here);
        let written = pair.one.lines[0].written;
        if written - line.acked + chunk.len() as u64 <= AHEAD.min(line.window.into()) {
            pair.one.write(here, &chunk);
        }
    }));
}

#[test]
fn requests_and_responses_allocate_nothing() {
    let (mut pair, here, there) = connected();
    let mut ours = true;
    assert_none(pair.measure(|pair| {
        let (at_one, at_other) = (pair.one.consume(here), pair.other.consume(there));
        if ours || at_one > 0 {
            pair.one.write(here, &[1; 64]);
            ours = false;
        }
        if at_other > 0 {
            pair.other.write(there, &[2; 64]);
        }
    }));
}

#[test]
fn datagrams_allocate_nothing() {
    let mut pair = Pair::new();
    let (now, place) = (pair.now, SlotIndex(0));
    for (end, local, remote) in
        [(&mut pair.one, "10.0.0.1:1000", "0.0.0.0:0"), (&mut pair.other, "10.0.0.2:80", "0.0.0.0:0")]
    {
        let (local, remote) = (addr(local), addr(remote));
        end.command(now, |op, socket| Command::Datagram {
            op,
            socket,
            local,
            remote,
            form: Form::Udp,
            share: Share::NONE,
        });
    }
    let mut record = vec![0; record_size(64)];
    let header = Header {
        len: 64,
        remote: addr("10.0.0.2:80"),
        local: addr("0.0.0.0:0"),
        slot: place,
        epoch: Epoch(0),
        said: Said::default(),
    };
    record[..HEADER_SIZE].copy_from_slice(&header.to_bytes());
    assert_none(pair.measure(|pair| {
        pair.one.consume(place);
        pair.other.consume(place);
        for _ in 0..8 {
            let line = pair.one.stack_line(place);
            if pair.one.lines[0].written - line.acked + record.len() as u64 <= AHEAD {
                pair.one.write(place, &record);
            }
        }
    }));
    assert!(pair.other.lines[0].consumed > 20_000 * 64, "they arrive");
}

#[test]
fn an_allocation_would_be_seen() {
    let before = COUNT.get();
    counted(|| drop(std::hint::black_box(Box::new(7))));
    assert_eq!(COUNT.get() - before, 1);
}
