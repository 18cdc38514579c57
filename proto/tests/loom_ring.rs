//! Every interleaving (up to a bound on preemptions) of the shipped ring and note code, over memory
//! whose words are loom's atomics: no slot lost or doubled, no wake-up lost, no note lost, also when
//! either side is restarted. Each property is shown to fail when an ordering is weakened.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p proto --release --test loom_ring`
#![cfg(loom)]

use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use loom::thread;
use proto::arena::Geometry;
use proto::arena::line::Notes;
use proto::id::SlotIndex;
use proto::ring::spsc::{Consumer, Place, Producer};
use proto::shm::Memory;
use std::sync::Arc;

/// An ordering that a test takes away, to show that the model would notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Weakened {
    Nothing,
    /// The store-load fence does nothing.
    Fence,
    /// Release stores are relaxed.
    Stores,
    /// Acquire loads are relaxed.
    Loads,
}

/// Words of a few windows of an address space; a word is always used in the same size.
struct LoomMemory {
    windows: Vec<(usize, Vec<(AtomicU32, AtomicU64)>)>,
    weakened: Weakened,
}

impl LoomMemory {
    /// Windows `(offset, bytes)` of zeros, in multiples of 8.
    fn new(windows: &[(usize, usize)], weakened: Weakened) -> Arc<Self> {
        let words = |bytes: usize| (0..bytes / 4).map(|_| (AtomicU32::new(0), AtomicU64::new(0))).collect();
        let windows = windows.iter().map(|&(at, bytes)| (at, words(bytes))).collect();
        Arc::new(LoomMemory { windows, weakened })
    }

    fn word(&self, at: usize) -> &(AtomicU32, AtomicU64) {
        let found =
            self.windows.iter().find(|(start, words)| (*start..start + words.len() * 4).contains(&at));
        let (start, words) = found.expect("an access inside the windows");
        &words[(at - start) / 4]
    }

    fn load_order(&self, order: Ordering) -> Ordering {
        if self.weakened == Weakened::Loads { Ordering::Relaxed } else { order }
    }

    fn store_order(&self, order: Ordering) -> Ordering {
        if self.weakened == Weakened::Stores { Ordering::Relaxed } else { order }
    }
}

impl Memory for LoomMemory {
    fn size(&self) -> usize {
        usize::MAX
    }
    fn load_u32(&self, at: usize, order: Ordering) -> u32 {
        self.word(at).0.load(self.load_order(order))
    }
    fn store_u32(&self, at: usize, value: u32, order: Ordering) {
        self.word(at).0.store(value, self.store_order(order));
    }
    fn load_u64(&self, at: usize, order: Ordering) -> u64 {
        self.word(at).1.load(self.load_order(order))
    }
    fn store_u64(&self, at: usize, value: u64, order: Ordering) {
        self.word(at).1.store(value, self.store_order(order));
    }
    fn read(&self, at: usize, out: &mut [u8]) {
        for (n, word) in out.chunks_exact_mut(4).enumerate() {
            word.copy_from_slice(&self.word(at + n * 4).0.load(Ordering::Relaxed).to_ne_bytes());
        }
    }
    fn write(&self, at: usize, bytes: &[u8]) {
        for (n, word) in bytes.chunks_exact(4).enumerate() {
            let word = u32::from_ne_bytes(word.try_into().expect("four bytes"));
            self.word(at + n * 4).0.store(word, Ordering::Relaxed);
        }
    }
    fn full_fence(&self) {
        if self.weakened != Weakened::Fence {
            fence(Ordering::SeqCst);
        }
    }
}

type Tx = Producer<Arc<LoomMemory>, 4>;
type Rx = Consumer<Arc<LoomMemory>, 4>;

const PLACE: Place = Place::new(0, 2);

fn ring(weakened: Weakened) -> (Tx, Rx, Arc<LoomMemory>) {
    let memory = LoomMemory::new(&[(0, Place::bytes(2, 4))], weakened);
    (Producer::new(memory.clone(), PLACE), Consumer::new(memory.clone(), PLACE), memory)
}

fn explore(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(6);
    builder.check(model);
}

/// Whether the model finds a counterexample.
fn finds(model: impl Fn() + Send + Sync + std::panic::UnwindSafe + 'static) -> bool {
    std::panic::catch_unwind(|| explore(model)).is_err()
}

fn push(producer: &mut Tx, slot: u32) -> bool {
    while !producer.push(&slot.to_ne_bytes()).expect("a sound ring") {
        thread::yield_now();
    }
    producer.publish()
}

fn drain(consumer: &mut Rx, into: &mut Vec<u32>) {
    while let Some(slot) = consumer.pop().expect("a sound ring") {
        into.push(u32::from_ne_bytes(slot));
        consumer.release();
    }
}

/// Looks for slots, then arms; true when it may sleep now.
fn drain_and_arm(consumer: &mut Rx, into: &mut Vec<u32>) -> bool {
    drain(consumer, into);
    let asleep = consumer.arm().expect("a sound ring");
    if !asleep {
        drain(consumer, into);
    }
    asleep
}

fn slots_arrive(weakened: Weakened) {
    let (mut producer, mut consumer, _) = ring(weakened);
    let sender = thread::spawn(move || {
        for slot in 1..=3 {
            let _ = push(&mut producer, slot);
        }
    });
    let mut got = Vec::new();
    while got.len() < 3 {
        let before = got.len();
        drain(&mut consumer, &mut got);
        if got.len() == before {
            thread::yield_now();
        }
    }
    sender.join().expect("no panic");
    assert_eq!(got, [1, 2, 3]);
}

#[test]
fn no_slot_is_lost_doubled_or_torn() {
    explore(|| slots_arrive(Weakened::Nothing));
    assert!(finds(|| slots_arrive(Weakened::Stores)));
    assert!(finds(|| slots_arrive(Weakened::Loads)));
}

/// A consumer that may have gone to sleep must see every slot once its wake-ups were delivered.
fn sleeper_is_woken(weakened: Weakened) {
    let (mut producer, mut consumer, _) = ring(weakened);
    let sender = thread::spawn(move || {
        let first = push(&mut producer, 1);
        push(&mut producer, 2) || first
    });
    let mut got = Vec::new();
    let asleep = drain_and_arm(&mut consumer, &mut got);
    let woken = sender.join().expect("no panic");
    if !asleep || woken {
        drain(&mut consumer, &mut got);
    }
    assert_eq!(got, [1, 2], "asleep {asleep}, woken {woken}");
}

#[test]
fn no_wake_up_is_lost() {
    explore(|| sleeper_is_woken(Weakened::Nothing));
    assert!(finds(|| sleeper_is_woken(Weakened::Fence)));
}

/// A consumer that sleeps twice, and disarms in between as it works.
#[test]
fn no_wake_up_is_lost_the_second_time() {
    explore(|| {
        let (mut producer, mut consumer, _) = ring(Weakened::Nothing);
        assert_eq!(consumer.arm(), Ok(true));
        assert!(push(&mut producer, 1), "armed");
        consumer.disarm();
        let sender = thread::spawn(move || push(&mut producer, 2));
        let mut got = Vec::new();
        let asleep = drain_and_arm(&mut consumer, &mut got);
        let woken = sender.join().expect("no panic");
        if !asleep || woken {
            drain(&mut consumer, &mut got);
        }
        assert_eq!(got, [1, 2]);
    });
}

/// Where a producer dies: it has pushed slot 1, published it, perhaps seen that a wake-up is due.
#[derive(Debug, Clone, Copy)]
enum ProducerDies {
    BeforePublish,
    BeforeWake,
    AfterWake,
}

/// The successor goes on where the ring stands, says again what was not published, and wakes the
/// peer once whatever it finds (INV-R6).
#[test]
fn a_producers_restart_loses_nothing() {
    for dies in [ProducerDies::BeforePublish, ProducerDies::BeforeWake, ProducerDies::AfterWake] {
        explore(move || {
            let (mut producer, mut consumer, memory) = ring(Weakened::Nothing);
            let sender = thread::spawn(move || {
                assert_eq!(producer.push(&1u32.to_ne_bytes()), Ok(true));
                let mut next = 1;
                let woken = match dies {
                    ProducerDies::BeforePublish => false,
                    ProducerDies::BeforeWake | ProducerDies::AfterWake => {
                        next = 2;
                        let due = producer.publish();
                        due && matches!(dies, ProducerDies::AfterWake)
                    }
                };
                drop(producer);
                let mut successor = Tx::resume(memory, PLACE).expect("a sound ring");
                let said: Vec<u32> = successor.outstanding().map(u32::from_ne_bytes).collect();
                assert!(said.is_empty() || said == [1]);
                for slot in next..=2 {
                    let _ = push(&mut successor, slot);
                }
                (woken, true)
            });
            let mut got = Vec::new();
            let asleep = drain_and_arm(&mut consumer, &mut got);
            let (_, once) = sender.join().expect("no panic");
            if !asleep || once {
                drain(&mut consumer, &mut got);
            }
            assert_eq!(got, [1, 2]);
        });
    }
}

/// Where a consumer dies.
#[derive(Debug, Clone, Copy)]
enum ConsumerDies {
    BeforeRelease,
    AfterRelease,
    Armed,
    Disarmed,
}

/// The successor sees again what was not released, sleeps and is woken although the producer has
/// answered an arming of its predecessor.
#[test]
fn a_consumers_restart_loses_no_slot_and_no_wake_up() {
    use ConsumerDies::*;
    for dies in [BeforeRelease, AfterRelease, Armed, Disarmed] {
        explore(move || {
            let (mut producer, mut consumer, memory) = ring(Weakened::Nothing);
            if matches!(dies, Armed | Disarmed) {
                assert_eq!(consumer.arm(), Ok(true));
            }
            let due = push(&mut producer, 1);
            assert_eq!(due, matches!(dies, Armed | Disarmed));
            let sender = thread::spawn(move || push(&mut producer, 2));
            let mut expected = vec![1, 2];
            match dies {
                BeforeRelease => assert!(consumer.pop().expect("a sound ring").is_some()),
                AfterRelease | Disarmed => {
                    consumer.disarm();
                    assert!(consumer.pop().expect("a sound ring").is_some());
                    consumer.release();
                    expected = vec![2];
                }
                Armed => {}
            }
            drop(consumer);
            let mut successor = Rx::resume(memory, PLACE).expect("a sound ring");
            let mut got = Vec::new();
            let asleep = drain_and_arm(&mut successor, &mut got);
            let woken = sender.join().expect("no panic");
            if !asleep || woken {
                drain(&mut successor, &mut got);
            }
            assert_eq!(got, expected, "asleep {asleep}, woken {woken}, dies {dies:?}");
        });
    }
}

const GEOMETRY: Geometry = Geometry { shards: 1, active: 1, passive: 1, tx_pages: 1, rx_pages: 1 };
const SLOT: SlotIndex = SlotIndex(0);
/// Where the places start in an arena of that geometry; the client's line is one word here.
const LINE_AT: usize = 4096;

fn arena(weakened: Weakened) -> Arc<LoomMemory> {
    let ring = GEOMETRY.kick_ring(0);
    assert_eq!(ring, Place::new(192, 4));
    LoomMemory::new(&[(192, Place::bytes(4, 4)), (LINE_AT, 128)], weakened)
}

/// One side of a socket that says "look at it": a level, and a note when none is outstanding.
struct Notifier {
    memory: Arc<LoomMemory>,
    ring: Tx,
    seq: u32,
}

impl Notifier {
    fn new(memory: Arc<LoomMemory>) -> Self {
        Notifier { ring: Producer::new(memory.clone(), GEOMETRY.kick_ring(0)), memory, seq: 0 }
    }

    fn set(&self, level: u64) {
        self.memory.store_u64(LINE_AT, level, Ordering::Relaxed);
    }

    fn raise(&mut self) -> bool {
        Notes::Kick.raise(&self.memory, &GEOMETRY, SLOT, &mut self.seq)
    }
}

struct Receiver {
    memory: Arc<LoomMemory>,
    ring: Rx,
    seen: u64,
}

impl Receiver {
    fn new(memory: Arc<LoomMemory>) -> Self {
        Receiver { ring: Consumer::new(memory.clone(), GEOMETRY.kick_ring(0)), memory, seen: 0 }
    }

    fn look(&mut self) {
        Notes::Kick.take_up(&self.memory, &GEOMETRY, SLOT);
        self.seen = self.memory.load_u64(LINE_AT, Ordering::Relaxed);
    }

    fn drain(&mut self) {
        let mut notes = Vec::new();
        drain(&mut self.ring, &mut notes);
        for _ in notes {
            self.look();
        }
    }

    fn drain_and_arm(&mut self) -> bool {
        self.drain();
        let asleep = self.ring.arm().expect("a sound ring");
        if !asleep {
            self.drain();
        }
        asleep
    }
}

fn last_level_is_seen(weakened: Weakened) {
    let memory = arena(weakened);
    let (mut notifier, mut receiver) = (Notifier::new(memory.clone()), Receiver::new(memory));
    let client = thread::spawn(move || {
        let mut woken = false;
        for level in 1..=2 {
            notifier.set(level);
            if notifier.raise() {
                woken |= push(&mut notifier.ring, SLOT.0);
            }
        }
        woken
    });
    let asleep = receiver.drain_and_arm();
    let woken = client.join().expect("no panic");
    if !asleep || woken {
        receiver.drain();
    }
    assert_eq!(receiver.seen, 2);
}

#[test]
fn the_last_level_is_always_seen() {
    explore(|| last_level_is_seen(Weakened::Nothing));
    assert!(finds(|| last_level_is_seen(Weakened::Fence)));
}

/// The notifier dies after it counted a note and before it pushed it. Its successor pushes what is
/// outstanding and not in the ring, and wakes the peer once.
#[test]
fn a_notifiers_restart_loses_no_note() {
    for pushed in [false, true] {
        explore(move || {
            let memory = arena(Weakened::Nothing);
            let (mut notifier, mut receiver) = (Notifier::new(memory.clone()), Receiver::new(memory.clone()));
            let client = thread::spawn(move || {
                notifier.set(1);
                assert!(notifier.raise());
                if pushed {
                    let _ = push(&mut notifier.ring, SLOT.0);
                }
                let seq = notifier.seq;
                drop(notifier);
                let ring = Tx::resume(memory.clone(), GEOMETRY.kick_ring(0)).expect("a sound ring");
                let mut successor = Notifier { memory, ring, seq };
                successor.set(2);
                let said = successor.ring.outstanding().count() > 0;
                if successor.raise() || !said {
                    let _ = push(&mut successor.ring, SLOT.0);
                }
            });
            receiver.drain_and_arm();
            client.join().expect("no panic");
            receiver.drain();
            assert_eq!(receiver.seen, 2);
        });
    }
}

/// The receiver dies with a note in hand. Its successor looks at everything.
#[test]
fn a_receivers_restart_loses_no_note() {
    for taken in [false, true] {
        explore(move || {
            let memory = arena(Weakened::Nothing);
            let (mut notifier, mut receiver) = (Notifier::new(memory.clone()), Receiver::new(memory.clone()));
            notifier.set(1);
            assert!(notifier.raise());
            let _ = push(&mut notifier.ring, SLOT.0);
            let client = thread::spawn(move || {
                notifier.set(2);
                notifier.raise() && push(&mut notifier.ring, SLOT.0)
            });
            assert!(receiver.ring.pop().expect("a sound ring").is_some());
            receiver.ring.release();
            if taken {
                Notes::Kick.take_up(&memory, &GEOMETRY, SLOT);
            }
            drop(receiver);
            let ring = Rx::resume(memory.clone(), GEOMETRY.kick_ring(0)).expect("a sound ring");
            let mut successor = Receiver { memory, ring, seen: 0 };
            successor.look();
            let asleep = successor.drain_and_arm();
            let woken = client.join().expect("no panic");
            if !asleep || woken {
                successor.drain();
            }
            assert_eq!(successor.seen, 2);
        });
    }
}
