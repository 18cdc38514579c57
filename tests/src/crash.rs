//! Memory that outlives the process that writes it, and processes that die between two stores.
//!
//! A [`Process`] is one incarnation of a daemon or a client. Every store it makes through a
//! [`CrashMemory`], and every other effect that can leave it (a frame handed to the wire, an answer
//! pushed, a wake-up), is one *crash point*. When its fuse has burnt down the next effect does not
//! happen: the process dies there, by unwinding out of [`Process::run`], and nothing it does later
//! (destructors) reaches memory. A store longer than a word is two points: half of it applied, all
//! of it applied. The bytes stay; a new incarnation takes new handles over the same bytes.
//!
//! One thread; a world is deterministic. Not here: who runs when, and what is right.

use proto::arena::place::Direction;
use proto::arena::{Geometry, NOTE_SIZE};
use proto::ring::spsc;
use proto::shm::Memory;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::atomic::Ordering;

/// A process died at a crash point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Death {
    /// The effect that did not happen any more.
    pub before: Point,
}

/// Kinds of effects, for the coverage of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Point {
    /// Payload into an arena page.
    Payload,
    /// An entry of a page table.
    PageTable,
    /// A part of a cell other than its selector.
    CellPart,
    /// The selector of a cell.
    Selector,
    /// The header of a table of cells.
    TableHeader,
    /// The client's line.
    ClientLine,
    /// The stack's line.
    StackLine,
    /// A slot or a position of a ring.
    Ring,
    /// Any other memory.
    Other,
    /// A frame handed to nicd.
    Frame,
    /// A command or an answer handed to a daemon.
    Operation,
    /// A peer woken.
    Wake,
    /// A message to or from a client's socket.
    Message,
}

impl Point {
    /// Every kind, in the order of a batch.
    pub const ALL: [Point; 13] = [
        Point::Payload,
        Point::PageTable,
        Point::CellPart,
        Point::Selector,
        Point::TableHeader,
        Point::ClientLine,
        Point::StackLine,
        Point::Ring,
        Point::Other,
        Point::Frame,
        Point::Operation,
        Point::Wake,
        Point::Message,
    ];
}

/// What a block of shared bytes is for; tells which kind of effect a store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// A session's arena.
    Arena(Geometry),
    /// A region of cells.
    Cells,
    /// Memory that vanishes with the process (the frame slab): its stores are no crash points.
    Soft,
    /// Something else.
    Other,
}

/// Size of a socket's two lines in an arena; `proto::arena` lays them out.
const LINES_SIZE: usize = 128;
const CELL_SIZE: usize = proto::cell::CELL_SIZE;

impl Use {
    /// The kind of effect that a store at `at` is.
    pub fn point(&self, at: usize) -> Point {
        match self {
            Use::Cells if at < CELL_SIZE => Point::TableHeader,
            Use::Cells if at % CELL_SIZE < 8 => Point::Selector,
            Use::Cells => Point::CellPart,
            Use::Arena(geometry) => {
                let notes = geometry.event_ring(0).capacity();
                let rings = usize::from(geometry.shards) * 2 * spsc::Place::bytes(notes, NOTE_SIZE);
                let lines = rings.next_multiple_of(4096);
                let tables = lines + geometry.sockets() as usize * LINES_SIZE;
                match at {
                    _ if at < rings => Point::Ring,
                    _ if at >= Direction::Tx.byte_at(geometry, 0, 0) => Point::Payload,
                    _ if at >= tables => Point::PageTable,
                    _ if (at - lines) % LINES_SIZE < LINES_SIZE / 2 => Point::ClientLine,
                    _ => Point::StackLine,
                }
            }
            Use::Soft | Use::Other => Point::Other,
        }
    }
}

/// A store that is to be made: where, and which bytes.
pub type Store = (Rc<SharedBytes>, usize, Vec<u8>);

/// Alters what a process does to memory: how a mutant of the shipped code is made without a second
/// version of it.
pub trait Tamper {
    /// The process stores `bytes` at `at`; answers with the stores that are made now instead.
    fn store(&mut self, memory: &Rc<SharedBytes>, at: usize, bytes: &[u8]) -> Vec<Store> {
        vec![(memory.clone(), at, bytes.to_vec())]
    }
    /// The process loads `bytes` from `at`; they may be changed in place.
    fn load(&mut self, _memory: &Rc<SharedBytes>, _at: usize, _bytes: &mut [u8]) {}
    /// The process came to the end of a batch; answers with the stores that were held back.
    fn end_of_batch(&mut self) -> Vec<Store> {
        Vec::new()
    }
}

/// Bytes that several processes map. Pages come into being when they are written.
pub struct SharedBytes {
    /// What they are for.
    pub purpose: Use,
    size: usize,
    pages: RefCell<Vec<Option<Box<Page>>>>,
}

/// Bytes of a page that comes into being at once.
pub const PAGE: usize = 2048;

#[derive(Clone)]
struct Page {
    bytes: [u8; PAGE],
    /// Counts the stores into it.
    version: u64,
}

impl fmt::Debug for SharedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} shared bytes", self.size)
    }
}

/// Cuts `len` bytes from `at` on at page borders: page, offset in it, length.
fn pages(at: usize, len: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    let (mut at, end) = (at, at + len);
    std::iter::from_fn(move || {
        let (page, within) = (at / PAGE, at % PAGE);
        let len = (PAGE - within).min(end - at);
        at += len;
        (len > 0).then_some((page, within, len))
    })
}

impl SharedBytes {
    /// `size` zeroed bytes.
    pub fn new(purpose: Use, size: usize) -> Rc<SharedBytes> {
        let pages = RefCell::new(vec![None; size.div_ceil(PAGE)]);
        Rc::new(SharedBytes { purpose, size, pages })
    }

    /// Size in bytes.
    pub fn size(&self) -> usize {
        self.size
    }

    /// A handle for `process`.
    pub fn map(self: &Rc<Self>, process: &Rc<Process>) -> CrashMemory {
        CrashMemory { shared: self.clone(), process: process.clone() }
    }

    /// Changes bytes from outside of every process: corruption, or an oracle's preparation.
    pub fn poke(&self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= self.size, "outside the memory");
        let (mut all, mut rest) = (self.pages.borrow_mut(), bytes);
        for (page, within, len) in pages(at, bytes.len()) {
            let (piece, later) = rest.split_at(len);
            let page = all[page].get_or_insert_with(|| Box::new(Page { bytes: [0; PAGE], version: 0 }));
            page.bytes[within..within + len].copy_from_slice(piece);
            page.version += 1;
            rest = later;
        }
    }

    /// How often page number `page` was stored into.
    pub fn version(&self, page: usize) -> u64 {
        self.pages.borrow()[page].as_ref().map_or(0, |page| page.version)
    }

    /// Reads bytes from outside of every process.
    pub fn peek(&self, at: usize, out: &mut [u8]) {
        assert!(at + out.len() <= self.size, "outside the memory");
        let (all, mut rest) = (self.pages.borrow(), out);
        for (page, within, len) in pages(at, rest.len()) {
            let (piece, later) = std::mem::take(&mut rest).split_at_mut(len);
            match &all[page] {
                Some(page) => piece.copy_from_slice(&page.bytes[within..within + len]),
                None => piece.fill(0),
            }
            rest = later;
        }
    }
}

/// An oracle's eye: reads what is there, belongs to no process and never stores.
impl Memory for SharedBytes {
    fn size(&self) -> usize {
        SharedBytes::size(self)
    }

    fn load_u32(&self, at: usize, _: Ordering) -> u32 {
        let mut word = [0; 4];
        self.peek(at, &mut word);
        u32::from_ne_bytes(word)
    }

    fn store_u32(&self, _: usize, _: u32, _: Ordering) {
        panic!("an oracle does not store");
    }

    fn load_u64(&self, at: usize, _: Ordering) -> u64 {
        let mut word = [0; 8];
        self.peek(at, &mut word);
        u64::from_ne_bytes(word)
    }

    fn store_u64(&self, _: usize, _: u64, _: Ordering) {
        panic!("an oracle does not store");
    }

    fn read(&self, at: usize, out: &mut [u8]) {
        self.peek(at, out);
    }

    fn write(&self, _: usize, _: &[u8]) {
        panic!("an oracle does not store");
    }

    fn full_fence(&self) {}
}

/// One incarnation of a process, with the fuse that ends it.
pub struct Process {
    /// Effects that still happen; `None` burns for ever.
    left: Cell<Option<u64>>,
    done: Cell<u64>,
    dead: Cell<bool>,
    tampered: Cell<bool>,
    tamper: RefCell<Option<Box<dyn Tamper>>>,
    interrupt: RefCell<Option<Interrupt>>,
}

/// Something that happens elsewhere just before one effect of a process.
type Interrupt = (u64, Box<dyn FnOnce()>);

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a process after {} effects{}", self.done.get(), if self.is_dead() { ", dead" } else { "" })
    }
}

impl Process {
    /// A process whose fuse is not lit.
    pub fn start() -> Rc<Process> {
        Rc::new(Process {
            left: Cell::new(None),
            done: Cell::new(0),
            dead: Cell::new(false),
            tampered: Cell::new(false),
            tamper: RefCell::new(None),
            interrupt: RefCell::new(None),
        })
    }

    /// Lights the fuse: after `effects` more effects the process dies. `None` puts it out.
    pub fn light(&self, effects: Option<u64>) {
        self.left.set(effects);
    }

    /// Alters the process from now on.
    pub fn tamper(&self, tamper: Option<Box<dyn Tamper>>) {
        self.tampered.set(tamper.is_some());
        *self.tamper.borrow_mut() = tamper;
    }

    /// Lets another process run just before the effect number `effects`, counted from now: what a
    /// peer on another core does at the worst moment. A death before that moment undoes it.
    pub fn interrupt(&self, effects: u64, peer: impl FnOnce() + 'static) {
        *self.interrupt.borrow_mut() = Some((self.done.get() + effects, Box::new(peer)));
    }

    /// Effects so far.
    pub fn effects(&self) -> u64 {
        self.done.get()
    }

    /// Whether it has died.
    pub fn is_dead(&self) -> bool {
        self.dead.get()
    }

    /// Ends it from outside, between two of its runs.
    pub fn kill(&self) {
        self.dead.set(true);
    }

    /// Counts an effect. `false` when the process is dead and the effect does not happen.
    ///
    /// # Panics
    /// Unwinds with a [`Death`] when the fuse has burnt down.
    #[must_use = "a dead process has no effect"]
    pub fn effect(&self, point: Point) -> bool {
        if self.dead.get() {
            return false;
        }
        match self.left.get() {
            Some(0) => {
                self.dead.set(true);
                resume_unwind(Box::new(Death { before: point }));
            }
            Some(left) => self.left.set(Some(left - 1)),
            None => {}
        }
        let due = self.interrupt.borrow_mut().take_if(|(at, _)| *at <= self.done.get());
        if let Some((_, peer)) = due {
            peer();
        }
        self.done.set(self.done.get() + 1);
        true
    }

    /// Lets the process run: what it returns, or its death.
    ///
    /// # Errors
    /// [`Death`] when the fuse burnt down meanwhile.
    ///
    /// # Panics
    /// Passes every other panic on: it is a failure of the code under test.
    pub fn run<T>(&self, body: impl FnOnce() -> T) -> Result<T, Death> {
        assert!(!self.is_dead(), "the dead do not run");
        catch_unwind(AssertUnwindSafe(body)).map_err(|panic| match panic.downcast::<Death>() {
            Ok(death) => *death,
            Err(panic) => resume_unwind(panic),
        })
    }

    /// As [`Process::run`], for code that is expected to have a bug: `None` when it panicked, which
    /// is a death of its own doing.
    ///
    /// # Errors
    /// [`Death`] when the fuse burnt down meanwhile.
    pub fn run_buggy<T>(&self, body: impl FnOnce() -> T) -> Result<Option<T>, Death> {
        assert!(!self.is_dead(), "the dead do not run");
        match catch_unwind(AssertUnwindSafe(body)) {
            Ok(value) => Ok(Some(value)),
            Err(panic) => {
                self.kill();
                panic.downcast::<Death>().map_or(Ok(None), |death| Err(*death))
            }
        }
    }

    /// The end of a batch, for a tamper that holds stores back until then.
    pub fn end_of_batch(&self) {
        let late = self.tamper.borrow_mut().as_mut().map(|tamper| tamper.end_of_batch());
        for (memory, at, bytes) in late.into_iter().flatten() {
            self.put(&memory, at, &bytes);
        }
    }

    fn put(&self, memory: &SharedBytes, at: usize, bytes: &[u8]) {
        if memory.purpose == Use::Soft {
            if !self.is_dead() {
                memory.poke(at, bytes);
            }
            return;
        }
        let point = memory.purpose.point(at);
        // A store of a word is all or nothing; a copy may be cut anywhere, here in the middle.
        let torn = if bytes.len() > 8 { bytes.len() / 2 } else { 0 };
        if torn > 0 && self.effect(point) {
            memory.poke(at, &bytes[..torn]);
        }
        if self.effect(point) {
            memory.poke(at + torn, &bytes[torn..]);
        }
    }

    fn store(&self, memory: &Rc<SharedBytes>, at: usize, bytes: &[u8]) {
        if !self.tampered.get() {
            return self.put(memory, at, bytes);
        }
        let stores = self.tamper.borrow_mut().as_mut().map(|tamper| tamper.store(memory, at, bytes));
        for (memory, at, bytes) in stores.into_iter().flatten() {
            self.put(&memory, at, &bytes);
        }
    }

    fn load(&self, memory: &Rc<SharedBytes>, at: usize, out: &mut [u8]) {
        memory.peek(at, out);
        if self.tampered.get()
            && let Some(tamper) = self.tamper.borrow_mut().as_mut()
        {
            tamper.load(memory, at, out);
        }
    }
}

/// A process's handle to shared bytes.
#[derive(Clone)]
pub struct CrashMemory {
    shared: Rc<SharedBytes>,
    process: Rc<Process>,
}

impl fmt::Debug for CrashMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} mapped by {:?}", self.shared, self.process)
    }
}

impl CrashMemory {
    /// Private memory of a process: what it stores there is no crash point.
    pub fn soft(process: &Rc<Process>, size: usize) -> CrashMemory {
        SharedBytes::new(Use::Soft, size).map(process)
    }
}

impl Memory for CrashMemory {
    fn size(&self) -> usize {
        self.shared.size()
    }

    fn load_u32(&self, at: usize, _: Ordering) -> u32 {
        assert!(at.is_multiple_of(4), "unaligned word");
        let mut word = [0; 4];
        self.process.load(&self.shared, at, &mut word);
        u32::from_ne_bytes(word)
    }

    fn store_u32(&self, at: usize, value: u32, _: Ordering) {
        assert!(at.is_multiple_of(4), "unaligned word");
        self.process.store(&self.shared, at, &value.to_ne_bytes());
    }

    fn load_u64(&self, at: usize, _: Ordering) -> u64 {
        assert!(at.is_multiple_of(8), "unaligned word");
        let mut word = [0; 8];
        self.process.load(&self.shared, at, &mut word);
        u64::from_ne_bytes(word)
    }

    fn store_u64(&self, at: usize, value: u64, _: Ordering) {
        assert!(at.is_multiple_of(8), "unaligned word");
        self.process.store(&self.shared, at, &value.to_ne_bytes());
    }

    fn read(&self, at: usize, out: &mut [u8]) {
        self.process.load(&self.shared, at, out);
    }

    fn write(&self, at: usize, bytes: &[u8]) {
        self.process.store(&self.shared, at, bytes);
    }

    fn copy_to(&self, at: usize, to: &Self, to_at: usize, len: usize) {
        let mut bytes = vec![0; len];
        self.read(at, &mut bytes);
        to.write(to_at, &bytes);
    }

    fn full_fence(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    const GEOMETRY: Geometry = Geometry { shards: 2, active: 3, passive: 4, tx_pages: 2, rx_pages: 2 };

    #[test]
    fn a_prefix_of_the_stores_stays() {
        for fuse in 0..=4 {
            let process = Process::start();
            process.light(Some(fuse));
            let bytes = SharedBytes::new(Use::Other, 32);
            let memory = bytes.map(&process);
            let end = process.run(|| {
                memory.store_u32(0, 1, Ordering::Relaxed);
                memory.write(8, &[2; 16]);
                memory.store_u64(24, 3, Ordering::Relaxed);
            });
            assert_eq!(end.is_ok(), fuse == 4);
            process.light(None);
            memory.write(4, &[9; 4]);
            let mut found = [0; 32];
            bytes.peek(0, &mut found);
            let applied = [found[0] == 1, found[8] == 2, found[16] == 2, found[24] == 3];
            assert_eq!(applied, [fuse > 0, fuse > 1, fuse > 2, fuse > 3]);
            assert_eq!(found[4] == 9, fuse == 4, "the dead do not store");
        }
    }

    #[test]
    fn an_ordinary_panic_is_no_death() {
        let process = Process::start();
        let outcome = catch_unwind(AssertUnwindSafe(|| process.run(|| resume_unwind(Box::new("a bug")))));
        assert!(outcome.is_err());
    }

    #[test]
    fn the_arena_is_laid_out_as_the_shipped_code_does() {
        use proto::arena::line::{ClientLine, StackLine};
        use proto::id::SlotIndex;
        struct Watch(Rc<RefCell<Vec<Point>>>);
        impl Tamper for Watch {
            fn store(&mut self, memory: &Rc<SharedBytes>, at: usize, _: &[u8]) -> Vec<Store> {
                self.0.borrow_mut().push(memory.purpose.point(at));
                Vec::new()
            }
        }
        let process = Process::start();
        let seen = Rc::new(RefCell::new(Vec::new()));
        process.tamper(Some(Box::new(Watch(seen.clone()))));
        let memory = SharedBytes::new(Use::Arena(GEOMETRY), GEOMETRY.bytes()).map(&process);
        let kinds = |store: &dyn Fn()| {
            store();
            let mut kinds = std::mem::take(&mut *seen.borrow_mut());
            kinds.dedup();
            kinds
        };
        let slot = SlotIndex(6);
        assert_eq!(kinds(&|| ClientLine::default().store(&memory, &GEOMETRY, slot)), [Point::ClientLine]);
        assert_eq!(kinds(&|| StackLine::default().store(&memory, &GEOMETRY, slot)), [Point::StackLine]);
        for direction in [Direction::Tx, Direction::Rx { shard: 1 }] {
            assert_eq!(kinds(&|| direction.set_page(&memory, &GEOMETRY, slot, 63, 1)), [Point::PageTable]);
            assert_eq!(
                kinds(&|| memory.write(direction.byte_at(&GEOMETRY, 0, 0), &[1; 9])),
                [Point::Payload]
            );
        }
        let ring = || {
            let mut ring = spsc::Producer::<_, NOTE_SIZE>::new(memory.clone(), GEOMETRY.kick_ring(1));
            assert_eq!(ring.push(&[1; 4]), Ok(true));
            let _ = ring.publish();
        };
        assert_eq!(kinds(&ring), [Point::Ring]);
    }
}
