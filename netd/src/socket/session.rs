//! One client session as netd sees it: the arena, its two rings, and what netd gives out of it.
//!
//! Owned by the stack; created when the vault hands over the arena, dropped when nothing refers to
//! it any more. Everything read here was written by a client and is checked (INV-R1); a
//! [`PeerCorrupt`] ends this session and nothing else. The rings are hard state: a new incarnation
//! resumes them (INV-R4) and raises all levels again (INV-R6).

use crate::tcp::autotune::Pressure;
use proto::PeerCorrupt;
use proto::arena::line::{Notes, StackLine};
use proto::arena::{Geometry, NOTE_SIZE};
use proto::id::{Epoch, RecordIndex, SessionId, SlotIndex};
use proto::ring::spsc::{Consumer, Producer};
use proto::shm::Memory;
use std::collections::BTreeSet;

/// Nobody lives at that place.
const NOBODY: u32 = u32::MAX;

/// A client's memory and what netd has given out of it.
#[derive(Debug)]
pub struct Session<M> {
    /// Its name.
    pub id: SessionId,
    /// How the arena is divided; from sockd, checked.
    pub geometry: Geometry,
    /// The arena.
    pub memory: M,
    shard: u16,
    events: Producer<M, NOTE_SIZE>,
    kicks: Consumer<M, NOTE_SIZE>,
    /// Record of each place, or [`NOBODY`].
    places: Vec<u32>,
    occupied: u32,
    passive_in_use: u32,
    /// Places of this shard for connections that come in.
    passive: u32,
    owes_wake: bool,
    rx_pages: Pages,
    /// Receive pages that a committed record may still name: free when the next one is committed.
    limbo: Vec<u32>,
    /// Places whose receive pages may hold bytes out of order.
    out_of_order: BTreeSet<u32>,
    /// Places that may hold receive pages, a bit each.
    holding: Vec<u64>,
    /// The place whose bit is looked at next.
    holder_at: u32,
    /// During recovery: places that the event ring names, a bit each.
    told: Vec<u64>,
    passive_free: Vec<u32>,
    passive_fresh: u32,
    /// The client is gone or broke a rule: nothing is delivered, no new socket is placed.
    pub ended: bool,
    /// sockd has ended it: it goes when its last place is left.
    pub leaving: bool,
}

/// A last-in first-out store of page numbers: what was hot is used again.
#[derive(Debug)]
struct Pages {
    free: Vec<u32>,
    /// Pages from here on were not given out by this incarnation.
    fresh: u32,
    count: u32,
    /// Pages that a predecessor had given out, a bit each; those from `fresh` on are passed over.
    claimed: Vec<u64>,
    claimed_ahead: u32,
}

impl Pages {
    fn take(&mut self) -> Option<u32> {
        if let Some(page) = self.free.pop() {
            return Some(page);
        }
        while self.fresh < self.count {
            let page = self.fresh;
            self.fresh += 1;
            let claimed =
                self.claimed.get(page as usize / 64).is_some_and(|word| word >> (page % 64) & 1 == 1);
            match claimed {
                true => self.claimed_ahead -= 1,
                false => return Some(page),
            }
        }
        None
    }

    /// Sets a page aside that a predecessor had given out, before any is taken; `false` when it is
    /// taken already.
    fn claim(&mut self, page: u32) -> bool {
        let (word, bit) = (page as usize / 64, 1 << (page % 64));
        self.claimed.resize(self.claimed.len().max(word + 1), 0);
        if page < self.fresh || self.claimed[word] & bit != 0 {
            return false;
        }
        self.claimed[word] |= bit;
        self.claimed_ahead += 1;
        true
    }

    fn free_count(&self) -> usize {
        self.free.len() + (self.count - self.fresh - self.claimed_ahead) as usize
    }
}

impl<M: Memory + Clone> Session<M> {
    /// Attaches to an arena, empty or left by an earlier incarnation.
    ///
    /// # Errors
    /// [`PeerCorrupt`] when the rings in it make no sense; the session must be ended.
    ///
    /// # Panics
    /// When the memory is smaller than `geometry` says: the caller mapped it by that size.
    pub fn attach(id: SessionId, geometry: Geometry, memory: M, shard: u16) -> Result<Self, PeerCorrupt> {
        assert!(memory.size() >= geometry.bytes(), "an arena is mapped whole");
        assert!(shard < geometry.shards, "the supervisors admit arenas of their group alone");
        let first = geometry.places_of(shard).find(|slot| slot.0 >= geometry.active);
        let passive = geometry.places_of(shard).filter(|slot| slot.0 >= geometry.active).count() as u32;
        let events = Producer::resume(memory.clone(), geometry.event_ring(shard))?;
        let kicks = Consumer::resume(memory.clone(), geometry.kick_ring(shard))?;
        Ok(Session {
            id,
            geometry,
            memory,
            shard,
            events,
            kicks,
            places: vec![NOBODY; geometry.sockets() as usize],
            occupied: 0,
            passive_in_use: 0,
            owes_wake: true,
            rx_pages: Pages {
                free: Vec::new(),
                fresh: 0,
                count: geometry.rx_pages,
                claimed: Vec::new(),
                claimed_ahead: 0,
            },
            limbo: Vec::new(),
            out_of_order: BTreeSet::new(),
            holding: vec![0; geometry.sockets().div_ceil(64) as usize],
            holder_at: 0,
            told: Vec::new(),
            passive_free: Vec::new(),
            passive,
            passive_fresh: first.map_or(geometry.sockets(), |slot| slot.0),
            ended: false,
            leaving: false,
        })
    }

    /// Number of places in use.
    pub fn occupied(&self) -> u32 {
        self.occupied
    }

    /// The record that lives at `slot`.
    pub fn record_at(&self, slot: SlotIndex) -> Option<RecordIndex> {
        let record = *self.places.get(slot.0 as usize)?;
        (record != NOBODY).then_some(RecordIndex(record))
    }

    /// All places in use with their records.
    pub fn records(&self) -> impl Iterator<Item = (SlotIndex, RecordIndex)> + '_ {
        let used = self.places.iter().enumerate().filter(|(_, record)| **record != NOBODY);
        used.map(|(slot, record)| (SlotIndex(slot as u32), RecordIndex(*record)))
    }

    /// Whether `slot` is a place of this shard.
    pub fn owns(&self, slot: SlotIndex) -> bool {
        slot.0 < self.geometry.sockets() && self.geometry.owner(slot) == self.shard
    }

    /// Settles `record` at `slot`; `false` when the place does not exist, is another shard's, or is taken.
    #[must_use = "a place may be taken"]
    pub fn settle(&mut self, slot: SlotIndex, record: RecordIndex) -> bool {
        match self.places.get_mut(slot.0 as usize) {
            Some(place) if *place == NOBODY && self.geometry.owner(slot) == self.shard => {
                *place = record.0;
                self.occupied += 1;
                self.passive_in_use += u32::from(slot.0 >= self.geometry.active);
                true
            }
            _ => false,
        }
    }

    /// The socket at `slot` has moved to another record.
    pub fn resettle(&mut self, slot: SlotIndex, record: RecordIndex) {
        let place = &mut self.places[slot.0 as usize];
        assert!(*place != NOBODY, "only who lives there moves");
        *place = record.0;
    }

    /// The record at `slot` has let go of it.
    pub fn vacate(&mut self, slot: SlotIndex) {
        let place = &mut self.places[slot.0 as usize];
        assert!(*place != NOBODY, "a place is vacated by who lives there");
        *place = NOBODY;
        self.out_of_order.remove(&slot.0);
        self.occupied -= 1;
        if slot.0 >= self.geometry.active {
            self.passive_in_use -= 1;
            self.passive_free.push(slot.0);
        }
    }

    /// A free place for a connection that came in, and the epoch for this use of it.
    pub fn take_passive(&mut self) -> Option<(SlotIndex, Epoch)> {
        let slot = loop {
            match self.passive_free.pop() {
                // After a recovery the list may name places that were found settled.
                Some(slot) if self.places[slot as usize] == NOBODY => break slot,
                Some(_) => {}
                None if self.passive_fresh < self.geometry.sockets() => {
                    let slot = self.passive_fresh;
                    self.passive_fresh += u32::from(self.geometry.shards);
                    if self.places[slot as usize] == NOBODY {
                        break slot;
                    }
                }
                None => return None,
            }
        };
        // The line remembers the last use of the place; a client that alters it confuses itself.
        let last = StackLine::load(&self.memory, &self.geometry, SlotIndex(slot)).epoch;
        Some((SlotIndex(slot), Epoch(last.0.wrapping_add(1).max(1))))
    }

    /// Whether a connection that comes in would find a place.
    pub fn has_passive(&self) -> bool {
        self.passive_in_use < self.passive
    }

    /// A free receive page for the socket at `slot`.
    pub fn take_page(&mut self, slot: SlotIndex) -> Option<u32> {
        let page = self.rx_pages.take()?;
        self.note_holding(slot);
        Some(page)
    }

    fn note_holding(&mut self, slot: SlotIndex) {
        self.holding[slot.0 as usize / 64] |= 1 << (slot.0 % 64);
    }

    /// The next place that may hold receive pages, all of them in turn.
    pub fn next_holder(&mut self) -> Option<SlotIndex> {
        let (from, words) = (self.holder_at as usize, self.holding.len());
        for turn in 0..=words {
            let at = (from / 64 + turn) % words;
            let ahead = if turn == 0 { !0 << (from % 64) } else { !0 };
            let word = self.holding[at] & ahead;
            if word != 0 {
                let slot = at as u32 * 64 + word.trailing_zeros();
                self.holder_at = (slot + 1) % (words as u32 * 64);
                return Some(SlotIndex(slot));
            }
        }
        None
    }

    /// The socket at `slot` holds no receive pages.
    pub fn holds_none(&mut self, slot: SlotIndex) {
        self.holding[slot.0 as usize / 64] &= !(1 << (slot.0 % 64));
    }

    /// A receive page is free again.
    pub fn return_page(&mut self, page: u32) {
        self.rx_pages.free.push(page);
    }

    /// A receive page is free again once the batch is committed: until then a record may say that
    /// bytes lie in it, and after a death they would be looked for there.
    pub fn return_page_later(&mut self, page: u32) {
        self.limbo.push(page);
    }

    /// The batch is committed: no record names those pages any more.
    pub fn return_limbo(&mut self) {
        self.rx_pages.free.append(&mut self.limbo);
    }

    /// Pages that are free when the batch is committed.
    pub fn pages_in_limbo(&self) -> usize {
        self.limbo.len()
    }

    /// Receive pages that neither data out of order nor datagrams may take, so that data in order
    /// finds one: enough for a segment of 64 KiB across page borders, of a small arena a quarter.
    pub fn rx_reserve(&self) -> usize {
        const RESERVE_MAX: u32 = 6;
        let few = u32::from(self.geometry.rx_pages > 1);
        (self.geometry.rx_pages / 4).clamp(few, RESERVE_MAX) as usize
    }

    /// The socket at `slot` holds bytes out of order.
    pub fn note_out_of_order(&mut self, slot: SlotIndex) {
        self.out_of_order.insert(slot.0);
    }

    /// A place that may hold bytes out of order; it is not named again until there are new ones.
    pub fn next_out_of_order(&mut self) -> Option<SlotIndex> {
        self.out_of_order.pop_last().map(SlotIndex)
    }

    /// During recovery: a page that the socket at `slot` holds already.
    ///
    /// # Errors
    /// [`PeerCorrupt`] when another socket holds it: the client wrote over a table.
    pub fn claim_page(&mut self, slot: SlotIndex, page: u32) -> Result<(), PeerCorrupt> {
        match page < self.geometry.rx_pages && self.rx_pages.claim(page) {
            true => {
                self.note_holding(slot);
                Ok(())
            }
            false => Err(PeerCorrupt::new("receive page named twice")),
        }
    }

    /// The shard whose receive pages are used here.
    pub fn shard(&self) -> u16 {
        self.shard
    }

    /// Tells the client to look at `slot`, unless it has been told and has not looked yet.
    ///
    /// # Errors
    /// [`PeerCorrupt`] when the client lost its place in the ring.
    pub fn notify(&mut self, slot: SlotIndex, seq: &mut u32) -> Result<(), PeerCorrupt> {
        if !Notes::Event.raise(&self.memory, &self.geometry, slot, seq) {
            return Ok(());
        }
        match self.events.push(&slot.0.to_ne_bytes())? {
            true => Ok(()),
            // There is room for one note of every socket: someone acknowledged what it never took.
            false => Err(PeerCorrupt::new("event ring full")),
        }
    }

    /// After an attach: notes down which places the ring still tells the client to look at. A note that
    /// was counted and is not there got lost with the predecessor.
    pub fn begin_recovery(&mut self) {
        self.told = vec![0; self.geometry.sockets().div_ceil(64) as usize];
        for note in self.events.outstanding() {
            let slot = u32::from_ne_bytes(note);
            if let Some(word) = self.told.get_mut(slot as usize / 64) {
                *word |= 1 << (slot % 64);
            }
        }
    }

    /// During recovery: whether the ring tells the client to look at `slot`.
    pub fn is_told(&self, slot: SlotIndex) -> bool {
        self.told.get(slot.0 as usize / 64).is_some_and(|word| word >> (slot.0 % 64) & 1 == 1)
    }

    /// Everything is taken over.
    pub fn end_recovery(&mut self) {
        self.told = Vec::new();
    }

    /// How short receive pages are: three quarters in use, fifteen sixteenths in use.
    pub fn pressure(&self) -> Pressure {
        let (free, all) = (self.free_pages(), self.geometry.rx_pages as usize);
        match () {
            () if free * 16 < all => Pressure::High,
            () if free * 4 < all => Pressure::Some,
            () => Pressure::None,
        }
    }

    /// Free receive pages.
    pub fn free_pages(&self) -> usize {
        self.rx_pages.free_count()
    }

    /// Makes all notes visible; `true` when the client sleeps and its pipe must be written. The
    /// first time it also pays the wake-up that a predecessor may have died owing (INV-R6).
    #[must_use = "a sleeping client must be woken"]
    pub fn publish(&mut self) -> bool {
        let due = self.events.publish();
        let owed = core::mem::take(&mut self.owes_wake) && self.events.wake_due();
        due || owed
    }

    /// The next place that the client wants looked at.
    ///
    /// # Errors
    /// [`PeerCorrupt`] when the ring or the note makes no sense.
    pub fn next_kick(&mut self) -> Result<Option<SlotIndex>, PeerCorrupt> {
        let note = self.kicks.pop()?;
        self.kicks.release();
        match note.map(u32::from_ne_bytes) {
            Some(slot) if slot >= self.geometry.sockets() => Err(PeerCorrupt::new("kick for no such place")),
            Some(slot) if !self.owns(SlotIndex(slot)) => {
                Err(PeerCorrupt::new("kick for a place of another shard"))
            }
            slot => Ok(slot.map(SlotIndex)),
        }
    }

    /// Before sleeping: asks the client for wake-ups. `false` when there are kicks to handle first.
    ///
    /// # Errors
    /// [`PeerCorrupt`] when the ring makes no sense.
    pub fn arm(&mut self) -> Result<bool, PeerCorrupt> {
        self.kicks.arm()
    }

    /// Nobody sleeps: kicks need no wake-up.
    pub fn disarm(&mut self) {
        self.kicks.disarm();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::shm::heap::HeapMemory;
    use std::rc::Rc;

    const GEOMETRY: Geometry = Geometry { shards: 1, active: 4, passive: 4, tx_pages: 4, rx_pages: 8 };

    fn session(memory: &Rc<HeapMemory>) -> Session<Rc<HeapMemory>> {
        Session::attach(SessionId(1), GEOMETRY, memory.clone(), 0).expect("a sound arena")
    }

    #[test]
    fn passive_places_are_all_given_out_once() {
        let memory = Rc::new(HeapMemory::new(GEOMETRY.bytes()));
        let mut session = session(&memory);
        assert!(session.settle(SlotIndex(5), RecordIndex(9)), "settled by a recovery");
        let mut seen = Vec::new();
        while let Some((slot, _)) = session.take_passive() {
            assert!(session.settle(slot, RecordIndex(slot.0)));
            seen.push(slot.0);
        }
        seen.sort_unstable();
        assert_eq!(seen, [4, 6, 7]);
        session.vacate(SlotIndex(6));
        assert_eq!(session.take_passive().map(|(slot, _)| slot), Some(SlotIndex(6)));
    }

    #[test]
    fn a_claimed_page_is_not_given_out() {
        let memory = Rc::new(HeapMemory::new(GEOMETRY.bytes()));
        let mut session = session(&memory);
        let slot = SlotIndex(2);
        assert_eq!(session.claim_page(slot, 3), Ok(()));
        assert!(session.claim_page(slot, 3).is_err());
        assert!(session.claim_page(slot, 8).is_err());
        assert_eq!(session.free_pages(), 7);
        let mut rest: Vec<u32> = core::iter::from_fn(|| session.take_page(slot)).collect();
        rest.sort_unstable();
        assert_eq!(rest, [0, 1, 2, 4, 5, 6, 7]);
        session.return_page(3);
        assert_eq!((session.free_pages(), session.take_page(slot)), (1, Some(3)));
    }

    #[test]
    fn holders_are_named_in_turn() {
        let geometry = Geometry { active: 100, passive: 100, ..GEOMETRY };
        let memory = Rc::new(HeapMemory::new(geometry.bytes()));
        let mut session = Session::attach(SessionId(1), geometry, memory, 0).expect("a sound arena");
        assert_eq!(session.next_holder(), None);
        for slot in [5, 63, 64, 199] {
            session.take_page(SlotIndex(slot)).expect("a page");
        }
        let mut named = || session.next_holder().map(|slot| slot.0);
        assert_eq!([named(), named(), named(), named(), named()], [5, 63, 64, 199, 5].map(Some));
        [63, 64, 199].into_iter().for_each(|slot| session.holds_none(SlotIndex(slot)));
        assert_eq!(session.next_holder(), Some(SlotIndex(5)), "the only one");
    }

    #[test]
    fn a_socket_is_told_once_until_the_client_looks() {
        let memory = Rc::new(HeapMemory::new(GEOMETRY.bytes()));
        let mut session = session(&memory);
        let mut seq = 0;
        for _ in 0..3 {
            session.notify(SlotIndex(2), &mut seq).expect("room");
        }
        let _ = session.publish();
        let mut client = Consumer::<_, NOTE_SIZE>::new(memory.clone(), GEOMETRY.event_ring(0));
        assert_eq!(client.pop(), Ok(Some(2u32.to_ne_bytes())));
        assert_eq!(client.pop(), Ok(None));
        Notes::Event.take_up(&memory, &GEOMETRY, SlotIndex(2));
        session.notify(SlotIndex(2), &mut seq).expect("room");
        assert_eq!(seq, 2);
    }
}
