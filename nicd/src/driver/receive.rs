//! A receive ring of the Intel chips: descriptors in memory, empty pages in them, frames out of them.
//!
//! The driver owns which page lies in which slot; nothing that the chip writes can name another one. It
//! writes back slots in order, a mark ([`Format::take`]) last. What it says of lengths is checked against
//! the page.
//!
//! ```text
//!        taken        posted, perhaps written back          empty
//!  ──┬───────────┬─────────────────────────────────────┬───────────────
//!                head                                  tail (the chip stops before it)
//! ```
//!
//! A slot stays empty, so that a full ring and an empty one differ. Pages of one size and of one shard at
//! a time lie in it: a frame that takes several pages has all of them from one slab.

use super::hardware::{ring_iova, slab_iova};
use crate::nic::{Frame, Slab};
use core::sync::atomic::Ordering;
use proto::nic::descriptor::Descriptor;
use proto::nic::slab::{CHAIN_MAX, PageIndex, SMALL_SIZE};
use proto::shm::Memory;
use std::marker::PhantomData;

/// Bytes of a descriptor on all of these chips.
pub const DESCRIPTOR: usize = 16;

/// What the chip says of a page that it has filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrived {
    /// Bytes in it.
    pub len: usize,
    /// The frame ends here.
    pub last: bool,
    /// The frame is damaged.
    pub bad: bool,
    /// Marks of the frame: [`proto::nic::descriptor::flag`].
    pub flags: u16,
}

/// How a chip writes receive descriptors, as two words of 64 bits.
pub trait Format {
    /// An empty page at `iova`. [`Format::take`] of its second word is `None`.
    ///
    /// 82574 §7.1.4: nothing else is read. 82576 §7.1.5.1: the second word is the header's buffer, of which there
    /// is none.
    fn post(iova: u64) -> [u64; 2] {
        [iova, 0]
    }
    /// What the second word says once the chip has written it.
    fn take(word: u64) -> Option<Arrived>;
}

/// What came of looking at the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// A frame.
    Frame,
    /// Something that is no frame; its pages are empty again.
    Bad,
    /// Nothing.
    Nothing,
}

/// A receive ring.
#[derive(Debug)]
pub struct ReceiveRing<M, F> {
    memory: M,
    at: usize,
    /// Page of each slot between head and tail.
    pages: Vec<PageIndex>,
    head: u32,
    tail: u32,
    /// Slots from head on whose end has not come yet: the beginning of a frame.
    partial: u32,
    format: PhantomData<F>,
}

impl<M: Memory, F: Format> ReceiveRing<M, F> {
    /// An empty ring of `slots`, a power of two, at offset `at` of `memory`.
    pub fn new(memory: M, at: usize, slots: u32) -> Self {
        assert!(slots.is_power_of_two() && at.is_multiple_of(128), "a ring that the chips take");
        let pages = vec![PageIndex(0); slots as usize];
        ReceiveRing { memory, at, pages, head: 0, tail: 0, partial: 0, format: PhantomData }
    }

    fn slots(&self) -> u32 {
        self.pages.len() as u32
    }

    fn mask(&self, n: u32) -> u32 {
        n & (self.slots() - 1)
    }

    /// Where it begins for the chip.
    pub fn iova(&self) -> u64 {
        ring_iova(self.at)
    }

    /// Its size in bytes.
    pub fn bytes(&self) -> usize {
        self.pages.len() * DESCRIPTOR
    }

    /// The slot behind the last one that is posted, as the chip's tail register wants it.
    pub fn tail(&self) -> u32 {
        self.mask(self.tail)
    }

    /// Slots that are posted.
    pub fn posted(&self) -> u32 {
        self.tail.wrapping_sub(self.head)
    }

    /// Slots that could be posted.
    pub fn room(&self) -> u32 {
        self.slots() - 1 - self.posted()
    }

    fn slot_at(&self, n: u32) -> usize {
        self.at + self.mask(n) as usize * DESCRIPTOR
    }

    /// Posts an empty small page; the chip sees it when the tail is written.
    ///
    /// # Panics
    /// When there is no room.
    pub fn post(&mut self, slab: &Slab<M>, page: PageIndex) {
        assert!(self.room() > 0, "the receive ring is full");
        let at = self.slot_at(self.tail);
        let [low, high] = F::post(slab_iova(slab.shard) + slab.geometry.page_at(page) as u64);
        self.memory.store_u64(at + 8, high, Ordering::Relaxed);
        self.memory.store_u64(at, low, Ordering::Relaxed);
        let slot = self.mask(self.tail) as usize;
        self.pages[slot] = page;
        self.tail = self.tail.wrapping_add(1);
    }

    /// Whether the chip has written to the next slot.
    pub fn is_ready(&self) -> bool {
        self.partial < self.posted() && self.arrived(self.head.wrapping_add(self.partial)).is_some()
    }

    fn arrived(&self, n: u32) -> Option<Arrived> {
        // Acquire: the chip wrote the page before this word; on a machine with coherent DMA that is all.
        F::take(self.memory.load_u64(self.slot_at(n) + 8, Ordering::Acquire))
    }

    /// Takes the next frame, at most `longest` bytes, out; what is not one goes to `spare`.
    pub fn take(&mut self, frame: &mut Frame, longest: usize, mut spare: impl FnMut(PageIndex)) -> Taken {
        // Most frames lie in one page, looked at once.
        if self.partial == 0
            && self.posted() > 0
            && let Some(arrived) = self.arrived(self.head)
            && arrived.last
        {
            let page = self.pages[self.mask(self.head) as usize];
            self.head = self.head.wrapping_add(1);
            if arrived.bad || !(1..=SMALL_SIZE.min(longest)).contains(&arrived.len) {
                spare(page);
                return Taken::Bad;
            }
            frame.add(Descriptor { flags: arrived.flags, ..Descriptor::plain(page, 0, arrived.len as u32) });
            return Taken::Frame;
        }
        while self.partial < self.posted() {
            let Some(last) = self.arrived(self.head.wrapping_add(self.partial)) else {
                return Taken::Nothing;
            };
            self.partial += 1;
            if !last.last {
                continue;
            }
            let sound = self.join(frame, longest);
            for _ in 0..core::mem::take(&mut self.partial) {
                if !sound {
                    spare(self.pages[self.mask(self.head) as usize]);
                }
                self.head = self.head.wrapping_add(1);
            }
            return if sound { Taken::Frame } else { Taken::Bad };
        }
        Taken::Nothing
    }

    /// The slots from head on, as far as they were looked at, as a frame; false when they are none.
    fn join(&self, frame: &mut Frame, longest: usize) -> bool {
        let (mut len, mut flags) = (0, 0);
        let sound = self.partial as usize <= CHAIN_MAX
            && (0..self.partial).all(|n| {
                let n = self.head.wrapping_add(n);
                // A second look may say something else, to a chip's shame and not to ours.
                let Some(arrived) = self.arrived(n) else { return false };
                let fits = (1..=SMALL_SIZE).contains(&arrived.len) && !arrived.bad;
                len += arrived.len;
                flags = arrived.flags;
                if fits {
                    frame.add(Descriptor::plain(self.pages[self.mask(n) as usize], 0, arrived.len as u32));
                }
                fits
            });
        if !sound || len > longest {
            frame.clear();
            return false;
        }
        if let Some(first) = frame.first_mut() {
            first.flags |= flags;
        }
        true
    }

    /// Forgets everything: the chip has stopped.
    pub fn clear(&mut self, mut spare: impl FnMut(PageIndex)) {
        while self.posted() > 0 {
            spare(self.pages[self.mask(self.head) as usize]);
            self.head = self.head.wrapping_add(1);
        }
        (self.head, self.tail, self.partial) = (0, 0, 0);
        for slot in 0..self.slots() {
            let at = self.slot_at(slot);
            self.memory.store_u64(at, 0, Ordering::Relaxed);
            self.memory.store_u64(at + 8, 0, Ordering::Relaxed);
        }
    }
}
