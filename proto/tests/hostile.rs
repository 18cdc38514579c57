//! A peer that writes any value anywhere at any time into what it shares with us: no panic, no access
//! outside the memory (which the heap memory asserts), no loop beyond its bound; every answer is a
//! value or `PeerCorrupt` (INV-R1).
#![cfg(not(loom))]

use core::sync::atomic::Ordering;
use proptest::prelude::*;
use proto::PeerCorrupt;
use proto::arena::line::{ClientLine, Notes, StackLine};
use proto::arena::place::{Direction, pieces};
use proto::arena::record::{HEADER_SIZE, Header, PAYLOAD_MAX};
use proto::arena::{Geometry, PAGE_SIZE, TABLE_PAGES};
use proto::control::operations::{Answer, Command, SLOT_SIZE, decode, encode};
use proto::id::SlotIndex;
use proto::nic::descriptor::{DESCRIPTOR_SIZE, Descriptor};
use proto::nic::slab::SlabGeometry;
use proto::ring::spsc::{Consumer, Place, Producer};
use proto::shm::Memory;
use proto::shm::heap::HeapMemory;
use std::cell::RefCell;
use std::rc::Rc;

/// A store of the peer: after so many accesses of ours, at a word, a value.
type Scribble = (usize, usize, u64);

/// Memory into which a peer writes between any two accesses of ours.
#[derive(Debug)]
struct Scribbled {
    heap: HeapMemory,
    /// The next one is last.
    script: RefCell<Vec<Scribble>>,
}

impl Scribbled {
    fn new(size: usize, mut script: Vec<Scribble>) -> Rc<Self> {
        script.reverse();
        Rc::new(Scribbled { heap: HeapMemory::new(size), script: RefCell::new(script) })
    }

    fn peer_writes(&self) {
        let mut script = self.script.borrow_mut();
        while let Some((wait, at, value)) = script.last_mut() {
            if *wait > 0 {
                *wait -= 1;
                return;
            }
            let words = self.heap.size() / 4;
            self.heap.store_u32(*at % words * 4, *value as u32, Ordering::Relaxed);
            script.pop();
        }
    }
}

impl Memory for Scribbled {
    fn size(&self) -> usize {
        self.heap.size()
    }
    fn load_u32(&self, at: usize, order: Ordering) -> u32 {
        self.peer_writes();
        self.heap.load_u32(at, order)
    }
    fn store_u32(&self, at: usize, value: u32, order: Ordering) {
        self.peer_writes();
        self.heap.store_u32(at, value, order);
    }
    fn load_u64(&self, at: usize, order: Ordering) -> u64 {
        self.peer_writes();
        self.heap.load_u64(at, order)
    }
    fn store_u64(&self, at: usize, value: u64, order: Ordering) {
        self.peer_writes();
        self.heap.store_u64(at, value, order);
    }
    fn read(&self, at: usize, out: &mut [u8]) {
        self.peer_writes();
        self.heap.read(at, out);
    }
    fn write(&self, at: usize, bytes: &[u8]) {
        self.peer_writes();
        self.heap.write(at, bytes);
    }
    fn full_fence(&self) {}
}

/// Values that lie near what a counter holds, at the borders, and any.
fn value() -> impl Strategy<Value = u64> {
    prop_oneof![0u64..40, any::<u32>().prop_map(u64::from), (u64::from(u32::MAX) - 20)..=u64::from(u32::MAX)]
}

/// Stores into `words` words, of which the first ones of each `line` words are hit most.
fn script(words: usize, line: usize) -> impl Strategy<Value = Vec<Scribble>> {
    let word = prop_oneof![0..words, (0..words.div_ceil(line)).prop_map(move |n| n * line)];
    prop::collection::vec((0usize..6, word, value()), 0..60)
}

const SLOTS: u32 = 8;
const RING_BYTES: usize = Place::bytes(SLOTS, 4);

#[derive(Debug, Clone, Copy)]
enum Op {
    Push,
    Publish,
    WakeDue,
    Backlog,
    Outstanding,
    Pop,
    Waiting,
    Release,
    Arm,
    Disarm,
    ResumeProducer,
    ResumeConsumer,
}

fn ring_ops() -> impl Strategy<Value = Vec<Op>> {
    use Op::*;
    let all = vec![
        Push,
        Push,
        Publish,
        WakeDue,
        Backlog,
        Outstanding,
        Pop,
        Pop,
        Waiting,
        Release,
        Arm,
        Disarm,
        ResumeProducer,
        ResumeConsumer,
    ];
    prop::collection::vec(prop::sample::select(all), 1..120)
}

/// A ring whose both ends are ours: a word that the peer changes hits one, the other, or both.
struct Ring {
    memory: Rc<Scribbled>,
    producer: Producer<Rc<Scribbled>, 4>,
    consumer: Consumer<Rc<Scribbled>, 4>,
}

impl Ring {
    fn new(script: Vec<Scribble>) -> Ring {
        let memory = Scribbled::new(RING_BYTES, script);
        let place = Place::new(0, SLOTS);
        let (producer, consumer) =
            (Producer::new(memory.clone(), place), Consumer::new(memory.clone(), place));
        Ring { memory, producer, consumer }
    }

    fn apply(&mut self, op: Op) -> Result<(), PeerCorrupt> {
        let place = Place::new(0, SLOTS);
        match op {
            Op::Push => drop(self.producer.push(&[7; 4])?),
            Op::Publish => drop(self.producer.publish()),
            Op::WakeDue => drop(self.producer.wake_due()),
            Op::Backlog => assert!(self.producer.backlog()? <= SLOTS),
            Op::Outstanding => assert!(self.producer.outstanding().count() <= SLOTS as usize),
            Op::Pop => drop(self.consumer.pop()?),
            Op::Waiting => assert!(self.consumer.waiting()? <= SLOTS),
            Op::Release => self.consumer.release(),
            Op::Arm => drop(self.consumer.arm()?),
            Op::Disarm => self.consumer.disarm(),
            Op::ResumeProducer => self.producer = Producer::resume(self.memory.clone(), place)?,
            Op::ResumeConsumer => self.consumer = Consumer::resume(self.memory.clone(), place)?,
        }
        Ok(())
    }
}

const GEOMETRY: Geometry = Geometry { shards: 2, active: 3, passive: 2, tx_pages: 5, rx_pages: 4 };

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn rings(script in script(RING_BYTES / 4, 16), ops in ring_ops()) {
        let mut ring = Ring::new(script);
        for op in ops {
            // Corrupt is final for a ring: its holder drops it. Here it goes on, which must do no harm.
            let _ = ring.apply(op);
        }
    }

    /// Nobody writes but the two ends: nothing may be called corrupt, and all arrives in order.
    #[test]
    fn an_honest_peer_is_never_called_corrupt(ops in ring_ops()) {
        let mut ring = Ring::new(Vec::new());
        for op in ops {
            prop_assert_eq!(ring.apply(op), Ok(()));
        }
    }

    #[test]
    fn lines_notes_and_page_tables(
        script in script(GEOMETRY.bytes() / PAGE_SIZE * 8, 4),
        slots in prop::collection::vec((0u32..GEOMETRY.sockets(), 0usize..TABLE_PAGES, any::<u64>(), 0usize..200_000), 1..30),
    ) {
        // The script's words are those of the socket places.
        let places = script.into_iter().map(|(wait, word, value)| (wait, 1024 + word, value)).collect();
        let memory = Scribbled::new(GEOMETRY.bytes(), places);
        let mut seq = 0;
        for (slot, entry, offset, len) in slots {
            let slot = SlotIndex(slot);
            let line = ClientLine::load(&memory, &GEOMETRY, slot);
            line.store(&memory, &GEOMETRY, slot);
            StackLine::load(&memory, &GEOMETRY, slot).store(&memory, &GEOMETRY, slot);
            for notes in [Notes::Kick, Notes::Event] {
                let _ = notes.raise(&memory, &GEOMETRY, slot, &mut seq);
                notes.take_up(&memory, &GEOMETRY, slot);
            }
            let offset = offset.min(u64::MAX - len as u64);
            for direction in [Direction::Tx, Direction::Rx { shard: 1 }] {
                direction.set_page(&memory, &GEOMETRY, slot, entry, offset as u32 % 8);
                for piece in pieces(offset, len) {
                    if let Ok(page) = direction.page(&memory, &GEOMETRY, slot, piece.entry) {
                        let at = direction.byte_at(&GEOMETRY, page, piece.within);
                        memory.read(at, &mut vec![0; piece.len]);
                    }
                }
            }
        }
    }

    #[test]
    fn records(bytes in prop::collection::vec(any::<u8>(), HEADER_SIZE), len in value()) {
        let mut bytes: [u8; HEADER_SIZE] = bytes.try_into().expect("a header");
        bytes[..4].copy_from_slice(&(len as u32).to_le_bytes());
        if let Some(header) = Header::from_bytes(&bytes) {
            prop_assert!(header.len as usize <= PAYLOAD_MAX);
            prop_assert_eq!(Header::from_bytes(&header.to_bytes()), Some(header));
        }
    }

    #[test]
    fn operation_slots(bytes in prop::collection::vec(any::<u8>(), SLOT_SIZE), len in 0u16..140, tag in 0u32..8) {
        let mut slot: [u8; SLOT_SIZE] = bytes.try_into().expect("a slot");
        slot[..2].copy_from_slice(&len.to_le_bytes());
        slot[2..6].copy_from_slice(&tag.to_le_bytes());
        if let Ok(command) = decode::<Command>(&slot) {
            prop_assert_eq!(decode(&encode(&command)), Ok(command));
        }
        if let Ok(answer) = decode::<Answer>(&slot) {
            prop_assert_eq!(decode(&encode(&answer)), Ok(answer));
        }
    }

    #[test]
    fn descriptors(slot in any::<[u8; DESCRIPTOR_SIZE]>(), page in 0u32..12, len in value()) {
        let slab = SlabGeometry { small: 5, large: 3 };
        let memory = HeapMemory::new(slab.bytes());
        let mut near = slot;
        near[..4].copy_from_slice(&page.to_ne_bytes());
        near[4..8].copy_from_slice(&(len as u32).to_ne_bytes());
        near[9] &= 0x3f;
        for slot in [slot, near] {
            if let Ok(d) = Descriptor::from_slot(&slot, &slab) {
                let at = slab.page_at(d.page) + usize::from(d.offset);
                memory.read(at, &mut vec![0; d.len as usize]);
                prop_assert_eq!(d.to_slot(), slot);
            }
        }
    }

    #[test]
    fn geometries(shards in any::<u16>(), numbers in any::<[u32; 4]>(), shift in 0u32..32) {
        let [active, passive, tx_pages, rx_pages] = numbers.map(|n| n >> shift);
        let any = Geometry { shards: shards >> (shift / 3), active, passive, tx_pages, rx_pages };
        if let Ok(geometry) = any.checked() {
            let shard = geometry.shards - 1;
            let last = Direction::Rx { shard }.byte_at(&geometry, geometry.rx_pages - 1, PAGE_SIZE - 1);
            prop_assert_eq!(last + 1, geometry.bytes());
        }
    }
}
