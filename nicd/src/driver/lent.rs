//! What the drivers of all chips have alike beside their rings: pages that netds have lent, and when to look at the rings
//! without having been told.
//!
//! A receive ring takes pages of one shard at a time, its *home*. With a ring for each shard, ring `n` is that of shard
//! `n`; where there is one for all, it is that of the netd that lent first.

use crate::nic::{Frame, Next, Slab};
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
    /// Whose pages each receive ring takes.
    homes: Vec<Option<Slab<M>>>,
    /// The ring that is being emptied.
    serving: usize,
}

impl<M: Memory + Clone> Lent<M> {
    /// None yet, for so many rings each way, with room for `done` pages that are done with.
    pub(super) fn new(rings: usize, done: usize) -> Self {
        let homes = (0..rings).map(|_| None).collect();
        Lent { stock: Stock::default(), done: Vec::with_capacity(done), homes, serving: 0 }
    }

    /// The ring that a shard uses, in either direction.
    #[inline]
    pub(super) fn ring_of(&self, shard: u16) -> usize {
        if self.homes.len() == 1 { 0 } else { shard.into() }
    }

    /// Whose pages a receive ring takes, beside the stock.
    #[inline]
    pub(super) fn apart(&mut self, ring: usize) -> (Option<&Slab<M>>, &mut Stock) {
        (self.homes[ring].as_ref(), &mut self.stock)
    }

    /// An empty page of a shard.
    pub(super) fn fill(&mut self, slab: &Slab<M>, page: PageIndex) {
        let ring = self.ring_of(slab.shard);
        if self.homes[ring].is_none() {
            self.homes[ring] = Some(slab.clone());
        }
        self.stock.put(slab, page);
    }

    /// The receive ring that takes pages of `shard`, if one does.
    #[inline]
    pub(super) fn fills(&self, shard: u16) -> Option<usize> {
        let ring = self.ring_of(shard);
        self.homes[ring].as_ref().filter(|home| home.shard == shard).map(|_| ring)
    }

    /// Whether a ring with so much room wants more pages of `shard`: a quarter of it is to be filled at once.
    pub(super) fn wanted(&self, shard: u16, room: usize, slots: usize) -> bool {
        self.homes[self.ring_of(shard)].as_ref().is_none_or(|home| home.shard == shard) && room > slots / 4
    }

    /// Where the next frame is, of those for `takes`, when `ready` says which rings have one: the ring that was looked
    /// at last comes first, so that the frames of a flow stay together.
    #[inline]
    pub(super) fn next_in(&mut self, takes: u64, ready: impl Fn(usize) -> bool) -> Next {
        if let [only] = &self.homes[..] {
            return match only {
                None => Next::Any,
                Some(home) if takes >> home.shard & 1 == 1 => Next::Of(home.shard),
                Some(_) => Next::Nobody,
            };
        }
        let rings = self.homes.len();
        let found = (0..rings)
            .map(|n| (self.serving + n) % rings)
            .find(|&ring| takes >> ring & 1 == 1 && self.homes[ring].is_some() && ready(ring));
        match found {
            Some(ring) => {
                self.serving = ring;
                Next::Of(ring as u16)
            }
            None => Next::Nobody,
        }
    }

    /// Another ring comes first: none is emptied while others wait.
    pub(super) fn take_turns(&mut self) {
        self.serving = (self.serving + 1) % self.homes.len();
    }

    /// Rings that may hold frames for the shards in `takes`.
    pub(super) fn rings_for(&self, takes: u64) -> impl Iterator<Item = usize> {
        let homes = self.homes.iter().enumerate();
        homes
            .filter_map(move |(ring, home)| home.as_ref().filter(|h| takes >> h.shard & 1 == 1).map(|_| ring))
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

    /// No ring takes pages of `shard` any more.
    pub(super) fn leave(&mut self, shard: u16) {
        let ring = self.ring_of(shard);
        self.homes[ring].take_if(|home| home.shard == shard);
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
