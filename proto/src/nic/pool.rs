//! netd's allocator over the frame slab: which pages are free, held, lent.
//!
//! Owned by one netd thread and shared inside it by `Rc`; nicd never sees this state (the slab is
//! soft: a successor starts with everything free, after nicd stopped its queues). Every page is
//! in use as long as a [`PacketBuf`](super::packet_buf::PacketBuf) names it, it lies on the fill
//! ring, or a transmit descriptor names it; when the last of these ends it is free again.
//!
//! Invariants: a page on a free stack is named by nothing else; a completion or a receive
//! descriptor counts only for a page that was lent that way (INV-R1). Free pages are handed out
//! last-in first-out, so that the hot ones stay in the cache. Nothing here allocates after
//! [`FramePool::new`], and nothing blocks.
//!
//! Not here: what is in a page, and the rings.

use super::slab::{LARGE_SIZE, PageIndex, SMALL_SIZE, SlabGeometry};
use crate::error::PeerCorrupt;
use crate::shm::Memory;
use std::cell::{Cell, RefCell};
use thiserror::Error;

const NOT_SENT: PeerCorrupt = PeerCorrupt::new("completion of a page that was not sent");
const NOT_FILLED: PeerCorrupt = PeerCorrupt::new("received in a page that was not lent");

/// The slab has no free page of a fitting size, or the frame would need more pages than
/// [`CHAIN_MAX`](super::slab::CHAIN_MAX). The packet at hand is dropped or waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("no frame page")]
pub struct NoPages;

/// The two sizes of pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Size {
    Small,
    Large,
}

impl Size {
    pub(super) const fn bytes(self) -> usize {
        match self {
            Size::Small => SMALL_SIZE,
            Size::Large => LARGE_SIZE,
        }
    }
}

/// Who names a page.
#[derive(Debug, Clone, Copy, Default)]
struct Page {
    /// References of packet buffers.
    held: u16,
    /// Transmit descriptors that nicd has not completed.
    sent: u16,
    /// Lent on the fill ring.
    filling: bool,
}

impl Page {
    const fn is_free(self) -> bool {
        self.held == 0 && self.sent == 0 && !self.filling
    }
}

#[derive(Debug)]
struct Pages {
    state: Vec<Page>,
    small: Vec<PageIndex>,
    large: Vec<PageIndex>,
}

impl Pages {
    fn stack(&mut self, size: Size) -> &mut Vec<PageIndex> {
        match size {
            Size::Small => &mut self.small,
            Size::Large => &mut self.large,
        }
    }

    fn at(&mut self, page: PageIndex) -> &mut Page {
        &mut self.state[page.0 as usize]
    }
}

/// What a pool has counted since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PoolCounters {
    /// Allocations that found no page.
    pub alloc_failures: u64,
    /// Payload bytes copied from an arena into frames.
    pub copied_in: u64,
    /// Payload bytes copied from frames into an arena.
    pub copied_out: u64,
    /// Bytes copied between pages: private copies, copy-on-write, linearising.
    pub copied_within: u64,
}

/// The pool of frame pages of one interface.
#[derive(Debug)]
pub struct FramePool<M> {
    memory: M,
    geometry: SlabGeometry,
    pages: RefCell<Pages>,
    counters: Cell<PoolCounters>,
}

impl<M: Memory> FramePool<M> {
    /// A pool with every page of the slab free.
    ///
    /// # Panics
    /// When the memory is smaller than the slab.
    pub fn new(memory: M, geometry: SlabGeometry) -> Self {
        assert!(memory.size() >= geometry.bytes(), "the slab does not fit its memory");
        let pages = Pages {
            state: vec![Page::default(); geometry.pages() as usize],
            small: (0..geometry.small).rev().map(PageIndex).collect(),
            large: (geometry.small..geometry.pages()).rev().map(PageIndex).collect(),
        };
        FramePool { memory, geometry, pages: RefCell::new(pages), counters: Cell::default() }
    }

    /// How the slab is divided.
    pub fn geometry(&self) -> &SlabGeometry {
        &self.geometry
    }

    /// The slab's memory.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// What was counted so far.
    pub fn counters(&self) -> PoolCounters {
        self.counters.get()
    }

    pub(super) fn count(&self, change: impl FnOnce(&mut PoolCounters)) {
        let mut counters = self.counters.get();
        change(&mut counters);
        self.counters.set(counters);
    }

    /// Free small pages.
    pub fn free_small(&self) -> usize {
        self.pages.borrow().small.len()
    }

    /// Free large pages.
    pub fn free_large(&self) -> usize {
        self.pages.borrow().large.len()
    }

    /// Pages that are held or lent.
    pub fn in_use(&self) -> usize {
        self.geometry.pages() as usize - self.free_small() - self.free_large()
    }

    /// A page with one reference, at least as large as `size`.
    pub(super) fn take(&self, size: Size) -> Option<(PageIndex, Size)> {
        let mut pages = self.pages.borrow_mut();
        let (page, size) = match pages.stack(size).pop() {
            Some(page) => (page, size),
            None => (pages.large.pop()?, Size::Large),
        };
        pages.at(page).held = 1;
        Some((page, size))
    }

    /// One more reference to a page that is held.
    pub(super) fn share(&self, page: PageIndex) {
        let mut pages = self.pages.borrow_mut();
        let state = pages.at(page);
        assert!(state.held > 0, "shared a page that nobody holds");
        state.held = state.held.checked_add(1).expect("references to one page are counted in 16 bits");
    }

    /// One reference less.
    pub(super) fn drop_page(&self, page: PageIndex) {
        self.change(page, |state| {
            state.held = state.held.checked_sub(1).expect("a page is dropped once per reference");
        });
    }

    /// One reference becomes a transmit descriptor.
    pub(super) fn send_page(&self, page: PageIndex) {
        self.change(page, |state| {
            state.held = state.held.checked_sub(1).expect("only a held page can be sent");
            state.sent = state.sent.checked_add(1).expect("descriptors of one page are counted in 16 bits");
        });
    }

    /// Whether one reference is all there is: its holder may write.
    pub(super) fn is_exclusive(&self, page: PageIndex) -> bool {
        let state = self.pages.borrow().state[page.0 as usize];
        state.held == 1 && state.sent == 0
    }

    /// A page lent on the fill ring comes back in a receive descriptor, with one reference.
    pub(super) fn filled(&self, page: PageIndex) -> Result<(), PeerCorrupt> {
        let mut pages = self.pages.borrow_mut();
        let state = pages.state.get_mut(page.0 as usize).ok_or(NOT_FILLED)?;
        if !state.filling {
            return Err(NOT_FILLED);
        }
        *state = Page { held: 1, ..Page::default() };
        Ok(())
    }

    fn change(&self, page: PageIndex, change: impl FnOnce(&mut Page)) {
        let size = if page.0 < self.geometry.small { Size::Small } else { Size::Large };
        let mut pages = self.pages.borrow_mut();
        change(pages.at(page));
        if pages.at(page).is_free() {
            pages.stack(size).push(page);
        }
    }

    fn lend(&self, size: Size) -> Option<PageIndex> {
        let mut pages = self.pages.borrow_mut();
        let page = pages.stack(size).pop()?;
        pages.at(page).filling = true;
        Some(page)
    }

    /// Lends a free small page to nicd; the caller puts it on the fill ring, which has room.
    pub fn lend_small(&self) -> Option<PageIndex> {
        self.lend(Size::Small)
    }

    /// Lends a free large page to nicd; the caller puts it on the fill ring, which has room.
    pub fn lend_large(&self) -> Option<PageIndex> {
        self.lend(Size::Large)
    }

    /// nicd has sent what one descriptor named.
    ///
    /// # Errors
    /// [`PeerCorrupt`] when no descriptor of that page is with nicd.
    pub fn completed(&self, page: PageIndex) -> Result<(), PeerCorrupt> {
        let sent = self.pages.borrow().state.get(page.0 as usize).ok_or(NOT_SENT)?.sent;
        if sent == 0 {
            return Err(NOT_SENT);
        }
        self.change(page, |state| state.sent -= 1);
        Ok(())
    }

    /// nicd is gone and uses no page any more: everything lent comes back.
    pub fn reclaim_all(&self) {
        for page in (0..self.geometry.pages()).map(PageIndex) {
            let state = *self.pages.borrow_mut().at(page);
            if state.sent > 0 || state.filling {
                self.change(page, |state| *state = Page { held: state.held, ..Page::default() });
            }
        }
    }

    /// Pages that nicd has: lent to be filled, and lent to be sent.
    pub fn lent(&self) -> (usize, usize) {
        let pages = self.pages.borrow();
        let filling = pages.state.iter().filter(|page| page.filling).count();
        (filling, pages.state.iter().filter(|page| page.sent > 0).count())
    }
}
