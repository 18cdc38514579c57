//! A transmit ring of the Intel chips: frames in, pages that are done with out.
//!
//! A frame is a context descriptor, where what it asks for differs from what the last one asked for, and
//! a descriptor for each of its pages. The chip marks the last one of each frame; only then are the
//! frame's pages given back. Nothing else that the chip writes is looked at.

use super::hardware::{ring_iova, slab_iova};
use super::offload::Wanted;
use super::receive::DESCRIPTOR;
use crate::nic::{Frame, Slab};
use core::sync::atomic::Ordering;
use proto::nic::slab::{CHAIN_MAX, LARGE_SIZE, PageIndex};
use proto::shm::Memory;
use std::marker::PhantomData;

/// No descriptor crosses such a boundary. The IOMMU maps pages of this size, and what lies together for the
/// chip need not lie together in memory: QEMU's chips drop a frame with a descriptor that does not.
const BOUNDARY: usize = 4096;

/// The most slots that a frame takes: a context, and each of its pages cut at the boundaries.
pub const SLOTS_MAX: u32 = 1 + (CHAIN_MAX * (LARGE_SIZE / BOUNDARY + 1)) as u32;

/// A piece of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Where it lies.
    pub iova: u64,
    /// Its length in bytes.
    pub len: u32,
    /// Nothing of the frame follows.
    pub last: bool,
    /// What the frame asks for.
    pub wanted: Wanted,
    /// Bytes of the frame.
    pub total: usize,
}

/// How a chip reads transmit descriptors, as two words of 64 bits.
pub trait Format {
    /// What frames that ask for `wanted` are sent by; `None` when that needs no context.
    fn context(wanted: &Wanted, total: usize) -> Option<[u64; 2]>;
    /// A piece of a frame.
    fn piece(piece: &Piece) -> [u64; 2];
    /// Whether the second word says that the chip has done with it.
    fn is_done(word: u64) -> bool;
}

/// What lies in a slot.
#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    /// The page, and the shard whose it is; none in a context.
    page: Option<(u16, PageIndex)>,
    /// In a frame's first slot: how many slots it has.
    slots: u32,
}

/// A transmit ring.
#[derive(Debug)]
pub struct TransmitRing<M, F> {
    memory: M,
    at: usize,
    slots: Vec<Slot>,
    head: u32,
    tail: u32,
    /// The context that the chip has.
    context: Option<[u64; 2]>,
    format: PhantomData<F>,
}

impl<M: Memory, F: Format> TransmitRing<M, F> {
    /// An empty ring of `slots`, a power of two, at offset `at` of `memory`.
    pub fn new(memory: M, at: usize, slots: u32) -> Self {
        assert!(slots.is_power_of_two() && at.is_multiple_of(128), "a ring that the chips take");
        let slots = vec![Slot::default(); slots as usize];
        TransmitRing { memory, at, slots, head: 0, tail: 0, context: None, format: PhantomData }
    }

    fn mask(&self, n: u32) -> u32 {
        n & (self.slots.len() as u32 - 1)
    }

    /// Where it begins for the chip.
    pub fn iova(&self) -> u64 {
        ring_iova(self.at)
    }

    /// Its size in bytes.
    pub fn bytes(&self) -> usize {
        self.slots.len() * DESCRIPTOR
    }

    /// The slot behind the last one, as the chip's tail register wants it.
    pub fn tail(&self) -> u32 {
        self.mask(self.tail)
    }

    /// Slots with the chip.
    pub fn used(&self) -> u32 {
        self.tail.wrapping_sub(self.head)
    }

    /// Whether any frame fits.
    pub fn has_room(&self) -> bool {
        self.slots.len() as u32 - 1 - self.used() >= SLOTS_MAX
    }

    fn put(&mut self, [low, high]: [u64; 2], slot: Slot) {
        let at = self.at + self.mask(self.tail) as usize * DESCRIPTOR;
        self.memory.store_u64(at, low, Ordering::Relaxed);
        self.memory.store_u64(at + 8, high, Ordering::Relaxed);
        let n = self.mask(self.tail) as usize;
        self.slots[n] = slot;
        self.tail = self.tail.wrapping_add(1);
    }

    /// Adds a frame; the chip sees it when the tail is written.
    ///
    /// # Panics
    /// When there is no room.
    pub fn send(&mut self, slab: &Slab<M>, frame: &Frame, wanted: &Wanted) {
        assert!(self.has_room(), "the transmit ring is full");
        let (first, total) = (self.tail, frame.len());
        // Most frames ask for nothing and lie in a page that no boundary cuts.
        if let ([one], None) = (frame.pieces(), wanted.sum) {
            let (at, len) = slab.piece(one);
            if at % BOUNDARY + len <= BOUNDARY {
                let (iova, len) = (slab_iova(slab.shard) + at as u64, one.len);
                let piece = Piece { iova, len, last: true, wanted: Wanted::default(), total };
                self.put(F::piece(&piece), Slot { page: Some((slab.shard, one.page)), slots: 1 });
                return;
            }
        }
        if let Some(context) = F::context(wanted, total).filter(|context| self.context != Some(*context)) {
            self.context = Some(context);
            self.put(context, Slot::default());
        }
        let last = frame.pieces().len() - 1;
        for (n, descriptor) in frame.pieces().iter().enumerate() {
            let (mut at, mut left) = slab.piece(descriptor);
            while left > 0 {
                let len = left.min(BOUNDARY - at % BOUNDARY);
                let (iova, last) = (slab_iova(slab.shard) + at as u64, n == last && len == left);
                let piece = Piece { iova, len: len as u32, last, wanted: *wanted, total };
                // The page comes back with the last of its parts.
                let page = (len == left).then_some((slab.shard, descriptor.page));
                self.put(F::piece(&piece), Slot { page, slots: 0 });
                (at, left) = (at + len, left - len);
            }
        }
        let slots = self.tail.wrapping_sub(first);
        let first = self.mask(first) as usize;
        self.slots[first].slots = slots;
    }

    /// Gives back the pages of all frames that the chip has sent.
    pub fn clean(&mut self, mut done: impl FnMut((u16, PageIndex))) {
        while self.used() > 0 {
            let slots = self.slots[self.mask(self.head) as usize].slots;
            let last = self.mask(self.head.wrapping_add(slots - 1)) as usize;
            // Acquire: the chip reads the page before it writes this word.
            let word = self.memory.load_u64(self.at + last * DESCRIPTOR + 8, Ordering::Acquire);
            if !F::is_done(word) {
                return;
            }
            self.drop_slots(slots, &mut done);
        }
    }

    fn drop_slots(&mut self, slots: u32, done: &mut impl FnMut((u16, PageIndex))) {
        for _ in 0..slots {
            let slot = self.mask(self.head) as usize;
            self.slots[slot].page.take().into_iter().for_each(&mut *done);
            self.head = self.head.wrapping_add(1);
        }
    }

    /// Forgets everything, and gives back all pages: the chip has stopped.
    pub fn clear(&mut self, mut done: impl FnMut((u16, PageIndex))) {
        self.drop_slots(self.used(), &mut done);
        (self.head, self.tail, self.context) = (0, 0, None);
        for slot in 0..self.slots.len() {
            let at = self.at + slot * DESCRIPTOR;
            self.memory.store_u64(at, 0, Ordering::Relaxed);
            self.memory.store_u64(at + 8, 0, Ordering::Relaxed);
        }
    }
}
