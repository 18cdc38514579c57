//! What the drivers of all chips have alike beside their rings: pages that netds have lent, and when to look at the rings
//! without having been told.
//!
//! Pages of one shard at a time lie in a receive ring, its *home*: those of the netd that lent first.

use crate::nic::{Frame, Slab};
use crate::stock::Stock;
use core::time::Duration;
use proto::Instant;
use proto::nic::slab::PageIndex;
use proto::shm::Memory;

/// So long after a frame the rings are looked at without an interrupt: one that was lost costs this much
/// and not a connection.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Pages in a driver's hands that are in no ring.
#[derive(Debug)]
pub(super) struct Lent<M> {
    /// Empty.
    pub(super) stock: Stock,
    /// Of frames that were sent, with the shard whose they are.
    pub(super) done: Vec<(u16, PageIndex)>,
    /// Whose pages the receive ring takes.
    pub(super) home: Option<Slab<M>>,
}

impl<M: Memory + Clone> Lent<M> {
    /// None yet, with room for `done` pages that are done with.
    pub(super) fn new(done: usize) -> Self {
        Lent { stock: Stock::default(), done: Vec::with_capacity(done), home: None }
    }

    /// An empty page of a shard.
    pub(super) fn fill(&mut self, slab: &Slab<M>, page: PageIndex) {
        if self.home.is_none() {
            self.home = Some(slab.clone());
        }
        self.stock.put(slab, page);
    }

    /// The shard whose pages the receive ring takes.
    #[inline]
    pub(super) fn lies_in(&self) -> Option<u16> {
        self.home.as_ref().map(|home| home.shard)
    }

    /// Whether a ring with so much room wants more pages of `shard`: a quarter of it is to be filled at once.
    pub(super) fn wanted(&self, shard: u16, room: usize, slots: usize) -> bool {
        self.lies_in().is_none_or(|home| home == shard) && room > slots / 4
    }

    /// A frame is done with.
    pub(super) fn give_back(&mut self, shard: u16, frame: &Frame) {
        self.done.extend(frame.pieces().iter().map(|piece| (shard, piece.page)));
    }

    /// Forgets all pages of a shard, but for those in rings.
    pub(super) fn forget(&mut self, shard: u16) {
        self.stock.clear(shard);
        self.done.retain(|(whose, _)| *whose != shard);
    }
}

/// When to look without an interrupt.
#[derive(Debug, Default)]
pub(super) struct Looks {
    due: Option<Instant>,
    /// Frames were moved since the last look.
    active: bool,
}

impl Looks {
    /// A frame came or went.
    pub(super) fn moved(&mut self, now: Instant) {
        self.active = true;
        self.due.get_or_insert(now + LOOK_AGAIN);
    }

    /// It was looked at: once more a while after the last frame.
    pub(super) fn looked(&mut self, now: Instant) {
        self.due = core::mem::take(&mut self.active).then_some(now + LOOK_AGAIN);
    }

    /// There is something to say that could not be said.
    pub(super) fn at_once(&mut self) {
        self.due = Some(Instant::ZERO);
    }

    /// When the next look is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }
}
