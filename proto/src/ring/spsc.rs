//! A single-producer single-consumer ring of `N`-byte slots in shared memory.
//!
//! ```text
//! byte 0            64                  128
//!      ┌────────────┬───────────────────┬────────┬────────┬──
//!      │tail        │head, armed        │ slot 0 │ slot 1 │ …
//!      │producer's  │consumer's line    │        │        │
//!      └────────────┴───────────────────┴────────┴────────┴──
//! ```
//!
//! `tail` and `head` are free-running 32-bit counts. Each side keeps its own position in private
//! memory and only publishes it (INV-R2); what the other side published is checked at each look
//! (INV-R1). To sleep, the consumer arms, looks again, and only then waits; the producer, after
//! publishing, looks at `armed` and pays for a wake-up once per arming. `armed` is a count of armings
//! times two, odd while the consumer sleeps: the count also outlives the consumer, for an arming of
//! its successor must never look like one that the producer has answered.
//!
//! Not here: the descriptor that wakes, the meaning of a slot, any lock (INV-R3).

use crate::error::PeerCorrupt;
use crate::shm::Memory;
use core::sync::atomic::Ordering;

const TAIL_AT: usize = 0;
const HEAD_AT: usize = 64;
const ARMED_AT: usize = 68;
const SLOTS_AT: usize = 128;

/// Bit of `armed`: the consumer sleeps.
const ASLEEP: u32 = 1;

const TAIL_RULE: PeerCorrupt = PeerCorrupt::new("ring tail moved backwards or past the ring");
const HEAD_RULE: PeerCorrupt = PeerCorrupt::new("ring head moved backwards or past the tail");

/// Where a ring lies: its offset in the memory (a multiple of 64) and its number of slots (a power
/// of two). Both sides get it from someone they trust, never from the memory itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    at: usize,
    capacity: u32,
}

impl Place {
    /// A ring of `capacity` slots at `at`.
    ///
    /// # Panics
    /// When `at` is not on a cache line, or `capacity` no power of two up to 2^30.
    pub const fn new(at: usize, capacity: u32) -> Place {
        assert!(at.is_multiple_of(64), "a ring starts on a cache line");
        assert!(capacity.is_power_of_two() && capacity <= 1 << 30, "a ring's size is a power of two");
        Place { at, capacity }
    }

    /// Bytes that a ring of `capacity` slots of `slot` bytes takes, in whole cache lines.
    pub const fn bytes(capacity: u32, slot: usize) -> usize {
        (SLOTS_AT + capacity as usize * slot).next_multiple_of(64)
    }

    /// Number of slots.
    pub const fn capacity(self) -> u32 {
        self.capacity
    }

    /// Where the producer publishes its position: for tests that break the rules.
    pub const fn tail_at(self) -> usize {
        self.at + TAIL_AT
    }

    fn slot(self, position: u32, size: usize) -> usize {
        self.at + SLOTS_AT + (position & (self.capacity - 1)) as usize * size
    }
}

/// The end that writes slots.
#[derive(Debug)]
pub struct Producer<M, const N: usize> {
    memory: M,
    place: Place,
    /// The position that counts; `tail` in memory trails it until [`Producer::publish`].
    tail: u32,
    published: u32,
    /// The consumer's position when last looked at.
    head: u32,
    /// The arming that was answered last; 0 is none.
    answered: u32,
}

/// The end that reads slots.
#[derive(Debug)]
pub struct Consumer<M, const N: usize> {
    memory: M,
    place: Place,
    /// The position that counts; `head` in memory trails it until [`Consumer::release`].
    head: u32,
    released: u32,
    /// The producer's position when last looked at.
    tail: u32,
    /// Armings so far, times two.
    arming: u32,
}

impl<M: Memory, const N: usize> Producer<M, N> {
    /// The producer of a ring in zeroed memory.
    pub fn new(memory: M, place: Place) -> Self {
        Producer { memory, place, tail: 0, published: 0, head: 0, answered: 0 }
    }

    /// Takes over a ring that is hard state from the producer's earlier incarnation (INV-R4).
    ///
    /// # Errors
    /// [`PeerCorrupt`] when the two positions in memory can't both be true.
    pub fn resume(memory: M, place: Place) -> Result<Self, PeerCorrupt> {
        let tail = memory.load_u32(place.at + TAIL_AT, Ordering::Acquire);
        let head = memory.load_u32(place.at + HEAD_AT, Ordering::Acquire);
        match tail.wrapping_sub(head) <= place.capacity {
            true => Ok(Producer { memory, place, tail, published: tail, head, answered: 0 }),
            false => Err(TAIL_RULE),
        }
    }

    /// The slots that were published and perhaps not consumed yet, oldest first; for a successor
    /// that must know what it has said already.
    pub fn outstanding(&self) -> impl Iterator<Item = [u8; N]> + '_ {
        (0..self.published.wrapping_sub(self.head)).map(|i| self.read_slot(self.head.wrapping_add(i)))
    }

    /// Number of slots that can be pushed now.
    ///
    /// # Errors
    /// [`PeerCorrupt`] when the consumer's position is impossible; final for the ring.
    pub fn room(&mut self) -> Result<u32, PeerCorrupt> {
        // Acquire: pairs with the Release store in `Consumer::release`; the slots before it are ours.
        let head = self.memory.load_u32(self.place.at + HEAD_AT, Ordering::Acquire);
        let moved = head.wrapping_sub(self.head);
        if moved > self.published.wrapping_sub(self.head) {
            return Err(HEAD_RULE);
        }
        self.head = head;
        Ok(self.place.capacity - self.tail.wrapping_sub(head))
    }

    /// Writes a slot; `false` when the ring is full and nothing was written.
    ///
    /// # Errors
    /// [`PeerCorrupt`] as [`Producer::room`].
    pub fn push(&mut self, slot: &[u8; N]) -> Result<bool, PeerCorrupt> {
        if self.tail.wrapping_sub(self.head) == self.place.capacity && self.room()? == 0 {
            return Ok(false);
        }
        self.memory.write(self.place.slot(self.tail, N), slot);
        self.tail = self.tail.wrapping_add(1);
        Ok(true)
    }

    /// Makes all pushed slots visible; `true` when the consumer sleeps and must be woken.
    #[must_use = "a sleeping consumer must be woken"]
    pub fn publish(&mut self) -> bool {
        if self.published == self.tail {
            return false;
        }
        self.published = self.tail;
        // Release: pairs with the Acquire load in `Consumer::refresh`.
        self.memory.store_u32(self.place.at + TAIL_AT, self.tail, Ordering::Release);
        self.wake_due()
    }

    /// `true` when the consumer sleeps on an arming that was not answered yet.
    #[must_use = "a sleeping consumer must be woken"]
    pub fn wake_due(&mut self) -> bool {
        // The tail must be out before `armed` is read: the consumer does it the other way round.
        self.memory.full_fence();
        let armed = self.memory.load_u32(self.place.at + ARMED_AT, Ordering::Acquire);
        if armed & ASLEEP == 0 || armed == self.answered {
            return false;
        }
        self.answered = armed;
        true
    }

    /// Number of published slots that the consumer had not released at the last look.
    ///
    /// # Errors
    /// [`PeerCorrupt`] as [`Producer::room`].
    pub fn backlog(&mut self) -> Result<u32, PeerCorrupt> {
        self.room()?;
        Ok(self.published.wrapping_sub(self.head))
    }

    fn read_slot(&self, position: u32) -> [u8; N] {
        let mut slot = [0; N];
        self.memory.read(self.place.slot(position, N), &mut slot);
        slot
    }
}

impl<M: Memory, const N: usize> Consumer<M, N> {
    /// The consumer of a ring in zeroed memory.
    pub fn new(memory: M, place: Place) -> Self {
        Consumer { memory, place, head: 0, released: 0, tail: 0, arming: 0 }
    }

    /// Takes over a ring that is hard state from the consumer's earlier incarnation (INV-R4).
    ///
    /// # Errors
    /// [`PeerCorrupt`] when the two positions in memory can't both be true.
    pub fn resume(memory: M, place: Place) -> Result<Self, PeerCorrupt> {
        let head = memory.load_u32(place.at + HEAD_AT, Ordering::Acquire);
        let arming = memory.load_u32(place.at + ARMED_AT, Ordering::Relaxed) & !ASLEEP;
        let mut consumer = Consumer { memory, place, head, released: head, tail: head, arming };
        consumer.disarm();
        consumer.refresh()?;
        Ok(consumer)
    }

    fn refresh(&mut self) -> Result<(), PeerCorrupt> {
        // Acquire: pairs with the Release store in `Producer::publish`; the slots before it are filled.
        let tail = self.memory.load_u32(self.place.at + TAIL_AT, Ordering::Acquire);
        let waiting = tail.wrapping_sub(self.head);
        let known = self.tail.wrapping_sub(self.head);
        if waiting > self.place.capacity || waiting < known {
            return Err(TAIL_RULE);
        }
        self.tail = tail;
        Ok(())
    }

    /// Copies the next slot out; `None` when there is none now.
    ///
    /// # Errors
    /// [`PeerCorrupt`] when the producer's position is impossible; final for the ring.
    pub fn pop(&mut self) -> Result<Option<[u8; N]>, PeerCorrupt> {
        if self.head == self.tail {
            self.refresh()?;
            if self.head == self.tail {
                return Ok(None);
            }
        }
        let mut slot = [0; N];
        self.memory.read(self.place.slot(self.head, N), &mut slot);
        self.head = self.head.wrapping_add(1);
        Ok(Some(slot))
    }

    /// Number of slots that wait.
    ///
    /// # Errors
    /// [`PeerCorrupt`] as [`Consumer::pop`].
    pub fn waiting(&mut self) -> Result<u32, PeerCorrupt> {
        self.refresh()?;
        Ok(self.tail.wrapping_sub(self.head))
    }

    /// Gives the popped slots back to the producer.
    pub fn release(&mut self) {
        if self.released != self.head {
            self.released = self.head;
            // Release: pairs with the Acquire load in `Producer::room`.
            self.memory.store_u32(self.place.at + HEAD_AT, self.head, Ordering::Release);
        }
    }

    /// Asks for a wake-up and looks again: `true` when the ring is still empty and the caller may
    /// sleep, `false` when there is work (the ring is then disarmed again).
    ///
    /// # Errors
    /// [`PeerCorrupt`] as [`Consumer::pop`].
    pub fn arm(&mut self) -> Result<bool, PeerCorrupt> {
        self.arming = self.arming.wrapping_add(2);
        self.memory.store_u32(self.place.at + ARMED_AT, self.arming | ASLEEP, Ordering::Release);
        // `armed` must be out before the tail is read: the producer does it the other way round.
        self.memory.full_fence();
        if self.waiting()? == 0 {
            return Ok(true);
        }
        self.disarm();
        Ok(false)
    }

    /// Tells the producer that nobody sleeps.
    pub fn disarm(&mut self) {
        self.memory.store_u32(self.place.at + ARMED_AT, self.arming, Ordering::Relaxed);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::shm::heap::HeapMemory;
    use std::rc::Rc;

    type Ends = (Producer<Rc<HeapMemory>, 4>, Consumer<Rc<HeapMemory>, 4>, Rc<HeapMemory>);

    fn ring(capacity: u32) -> Ends {
        let memory = Rc::new(HeapMemory::new(Place::bytes(capacity, 4)));
        let place = Place::new(0, capacity);
        (Producer::new(memory.clone(), place), Consumer::new(memory.clone(), place), memory)
    }

    #[test]
    fn slots_come_out_in_order_and_a_full_ring_says_so() {
        let (mut producer, mut consumer, _) = ring(2);
        for round in 0u32..5 {
            assert_eq!(producer.push(&round.to_ne_bytes()), Ok(true));
            assert_eq!(producer.push(&(round + 100).to_ne_bytes()), Ok(true));
            assert_eq!(producer.push(&[0; 4]), Ok(false));
            assert_eq!(consumer.pop(), Ok(None), "nothing before publish");
            let _ = producer.publish();
            assert_eq!(consumer.pop(), Ok(Some(round.to_ne_bytes())));
            assert_eq!(consumer.pop(), Ok(Some((round + 100).to_ne_bytes())));
            consumer.release();
        }
    }

    #[test]
    fn a_wake_up_is_due_once_per_arming() {
        let (mut producer, mut consumer, _) = ring(8);
        assert_eq!(producer.push(&[1; 4]), Ok(true));
        assert!(!producer.publish(), "not armed");
        assert_eq!(consumer.arm(), Ok(false), "there is work");
        assert_eq!(consumer.pop(), Ok(Some([1; 4])));
        assert_eq!(consumer.arm(), Ok(true));
        assert_eq!(producer.push(&[2; 4]), Ok(true));
        assert!(producer.publish());
        assert_eq!(producer.push(&[3; 4]), Ok(true));
        assert!(!producer.publish(), "answered already");
    }

    #[test]
    fn a_peer_that_jumps_is_corrupt() {
        let (mut producer, mut consumer, memory) = ring(4);
        memory.store_u32(HEAD_AT, 1, Ordering::Release);
        assert_eq!(producer.room(), Err(HEAD_RULE));
        memory.store_u32(TAIL_AT, 5, Ordering::Release);
        assert_eq!(consumer.pop(), Err(TAIL_RULE));
        memory.store_u32(TAIL_AT, 4, Ordering::Release);
        assert!(consumer.pop().is_ok());
        memory.store_u32(TAIL_AT, 3, Ordering::Release);
        assert_eq!(consumer.waiting(), Err(TAIL_RULE));
    }

    #[test]
    fn a_successor_goes_on_where_the_ring_stands() {
        let (mut producer, mut consumer, memory) = ring(4);
        for n in 0u32..3 {
            assert_eq!(producer.push(&n.to_ne_bytes()), Ok(true));
        }
        let _ = producer.publish();
        assert_eq!(consumer.pop(), Ok(Some(0u32.to_ne_bytes())));
        consumer.release();
        let place = Place::new(0, 4);
        let mut producer = Producer::<_, 4>::resume(memory.clone(), place).expect("a sound ring");
        assert_eq!(producer.outstanding().collect::<Vec<_>>(), [1u32.to_ne_bytes(), 2u32.to_ne_bytes()]);
        assert_eq!(producer.push(&[9; 4]), Ok(true));
        let _ = producer.publish();
        let mut consumer = Consumer::<_, 4>::resume(memory, place).expect("a sound ring");
        assert_eq!(consumer.waiting(), Ok(3));
    }
}
