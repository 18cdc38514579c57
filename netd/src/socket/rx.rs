//! A socket's receive stream: where netd puts bytes, and what the client has consumed of them.
//!
//! Pages are allocated when bytes arrive for them and go back when the client has consumed past
//! them, or when everything received is consumed (an idle socket has no pages). netd keeps the
//! table; the arena's copy is for the client, and for a successor that must find the bytes again.

use super::session::Session;
use proto::PeerCorrupt;
use proto::arena::place::{Direction, Piece, entry_of, pieces};
use proto::arena::{PAGE_SIZE, TABLE_PAGES};
use proto::id::SlotIndex;
use proto::shm::Memory;
use std::collections::VecDeque;

const NO_PAGE: u32 = u32::MAX;

/// The receive pages of one socket.
#[derive(Debug, Default)]
pub struct RxPages {
    /// Number (offset / PAGE_SIZE) of the stream page that `pages[0]` holds.
    first: u64,
    /// Page numbers in the arena, [`NO_PAGE`] for a gap that out-of-order data left.
    pages: VecDeque<u32>,
    /// What the client has consumed, as far as we have checked.
    consumed: u64,
    /// Bytes were given up that the committed record still names: pages go back after the commit.
    pruned: bool,
}

/// No page could be had; the bytes must be dropped and come again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoPages;

impl RxPages {
    /// Bytes consumed by the client, checked.
    pub fn consumed(&self) -> u64 {
        self.consumed
    }

    /// Whether it holds no page.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// Makes sure that the bytes `offset..offset + len` have pages.
    ///
    /// # Errors
    /// [`NoPages`] when the session has none left; what was added stays and is used later.
    ///
    /// # Panics
    /// When the range lies before what is consumed or more than a table beyond it: windows are
    /// smaller than that.
    pub fn cover<M: Memory + Clone>(
        &mut self,
        session: &mut Session<M>,
        slot: SlotIndex,
        offset: u64,
        len: usize,
    ) -> Result<(), NoPages> {
        if self.pages.is_empty() {
            self.first = self.consumed / PAGE_SIZE as u64;
        }
        let direction = Direction::Rx { shard: session.shard() };
        for piece_at in pieces(offset, len).scan(offset, |at, piece| {
            let here = *at;
            *at += piece.len as u64;
            Some(here)
        }) {
            let number = piece_at / PAGE_SIZE as u64;
            assert!(number >= self.first && number < self.first + TABLE_PAGES as u64, "outside the window");
            let index = (number - self.first) as usize;
            while self.pages.len() <= index {
                self.pages.push_back(NO_PAGE);
            }
            if self.pages[index] == NO_PAGE {
                let page = session.take_page(slot).ok_or(NoPages)?;
                self.pages[index] = page;
                direction.set_page(&session.memory, &session.geometry, slot, entry_of(piece_at), page);
            }
        }
        Ok(())
    }

    /// Pages that `offset..offset + len` still needs; what lies outside the table counts too.
    pub fn missing(&self, offset: u64, len: usize) -> usize {
        let mut at = offset;
        let lacks = |piece: &Piece| {
            let number = at / PAGE_SIZE as u64;
            at += piece.len as u64;
            let index = number.checked_sub(self.first).and_then(|index| self.pages.get(index as usize));
            index.is_none_or(|&page| page == NO_PAGE)
        };
        pieces(offset, len).filter(lacks).count()
    }

    /// How many bytes from `offset` on, of `len`, have a page or get one of `free` pages.
    pub fn fitting(&self, offset: u64, len: usize, free: usize) -> usize {
        let (mut left, mut at) = (free, offset);
        for piece in pieces(offset, len) {
            let number = at / PAGE_SIZE as u64;
            let index = number.checked_sub(self.first).and_then(|index| self.pages.get(index as usize));
            if index.is_none_or(|&page| page == NO_PAGE) {
                if left == 0 {
                    break;
                }
                left -= 1;
            }
            at += piece.len as u64;
        }
        (at - offset) as usize
    }

    /// Calls `each` with the arena offset and length of every piece of the covered range
    /// `offset..offset + len`, in order.
    pub fn for_each_piece<M: Memory + Clone>(
        &self,
        session: &Session<M>,
        offset: u64,
        len: usize,
        mut each: impl FnMut(usize, usize),
    ) {
        let direction = Direction::Rx { shard: session.shard() };
        let mut at = offset;
        for Piece { within, len, .. } in pieces(offset, len) {
            let page = self.pages[(at / PAGE_SIZE as u64 - self.first) as usize];
            each(direction.byte_at(&session.geometry, page, within), len);
            at += len as u64;
        }
    }

    /// Writes private bytes into the covered range that starts at `offset`.
    pub fn write<M: Memory + Clone>(&self, session: &Session<M>, offset: u64, bytes: &[u8]) {
        let mut rest = bytes;
        self.for_each_piece(session, offset, bytes.len(), |at, len| {
            let (piece, tail) = rest.split_at(len);
            session.memory.write(at, piece);
            rest = tail;
        });
    }

    /// Takes over the client's word for what it has consumed, and frees pages. `received` is what
    /// was published to it, `highest` the end of everything that lies in the pages.
    ///
    /// # Errors
    /// [`PeerCorrupt`] when it went backwards or beyond what it was given.
    pub fn consume<M: Memory + Clone>(
        &mut self,
        session: &mut Session<M>,
        consumed: u64,
        received: u64,
        highest: u64,
    ) -> Result<(), PeerCorrupt> {
        if consumed < self.consumed || consumed > received {
            return Err(PeerCorrupt::new("consumed cursor moved backwards or past the received bytes"));
        }
        self.consumed = consumed;
        if consumed == highest {
            self.release_all(session);
            return Ok(());
        }
        let keep = consumed / PAGE_SIZE as u64;
        while self.first < keep {
            let Some(page) = self.pages.pop_front() else { break };
            self.first += 1;
            self.give_back(session, page);
        }
        Ok(())
    }

    /// Gives all pages back: the socket lets go of its place, or nothing is left in them.
    pub fn release_all<M: Memory + Clone>(&mut self, session: &mut Session<M>) {
        while let Some(page) = self.pages.pop_back() {
            self.give_back(session, page);
        }
    }

    fn give_back<M: Memory + Clone>(&self, session: &mut Session<M>, page: u32) {
        match (page == NO_PAGE, self.pruned) {
            (true, _) => {}
            (false, true) => session.return_page_later(page),
            (false, false) => session.return_page(page),
        }
    }

    /// Gives up what lies beyond the `received` bytes in order; its pages are free after the commit.
    pub fn prune<M: Memory + Clone>(&mut self, session: &mut Session<M>, received: u64) {
        self.pruned = true;
        if self.consumed == received {
            return self.release_all(session);
        }
        let keep = ((received - 1) / PAGE_SIZE as u64 + 1).saturating_sub(self.first) as usize;
        while self.pages.len() > keep {
            if let Some(page) = self.pages.pop_back() {
                self.give_back(session, page);
            }
        }
    }

    /// The record is committed: it names what is here and nothing else.
    pub fn committed(&mut self) {
        self.pruned = false;
    }

    /// After a restart: finds the pages of `consumed..received` and of the kept out-of-order
    /// ranges (absolute offset, length) in the arena's table.
    ///
    /// # Errors
    /// [`PeerCorrupt`] when the client wrote nonsense over its cursor or the table.
    pub fn recover<M: Memory + Clone>(
        session: &mut Session<M>,
        slot: SlotIndex,
        consumed: u64,
        received: u64,
        ranges: &[(u64, u64)],
    ) -> Result<RxPages, PeerCorrupt> {
        let window = proto::arena::WINDOW_MAX as u64;
        if consumed > received || received - consumed > window {
            return Err(PeerCorrupt::new("consumed cursor outside the received bytes"));
        }
        let mut rx =
            RxPages { first: consumed / PAGE_SIZE as u64, pages: VecDeque::new(), consumed, pruned: false };
        let direction = Direction::Rx { shard: session.shard() };
        let all = core::iter::once((consumed, received - consumed)).chain(ranges.iter().copied());
        for (offset, len) in all.filter(|&(_, len)| len > 0) {
            let last = (offset + len - 1) / PAGE_SIZE as u64;
            for number in offset / PAGE_SIZE as u64..=last {
                let index = number.wrapping_sub(rx.first) as usize;
                if index >= TABLE_PAGES {
                    return Err(PeerCorrupt::new("received bytes outside the page table"));
                }
                while rx.pages.len() <= index {
                    rx.pages.push_back(NO_PAGE);
                }
                if rx.pages[index] == NO_PAGE {
                    let entry = entry_of(number * PAGE_SIZE as u64);
                    let page = direction.page(&session.memory, &session.geometry, slot, entry)?;
                    session.claim_page(slot, page)?;
                    rx.pages[index] = page;
                }
            }
        }
        Ok(rx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::arena::Geometry;
    use proto::id::SessionId;
    use proto::shm::heap::HeapMemory;
    use std::rc::Rc;

    const GEOMETRY: Geometry = Geometry { shards: 1, active: 4, passive: 4, tx_pages: 4, rx_pages: 8 };
    const PAGE: u64 = PAGE_SIZE as u64;

    fn session() -> Session<Rc<HeapMemory>> {
        let memory = Rc::new(HeapMemory::new(GEOMETRY.bytes()));
        Session::attach(SessionId(1), GEOMETRY, memory, 0).expect("a sound arena")
    }

    #[test]
    fn bytes_are_found_again_after_a_restart() {
        let mut session = session();
        let slot = SlotIndex(1);
        let mut rx = RxPages::default();
        rx.cover(&mut session, slot, PAGE - 2, 4).expect("pages");
        rx.write(&session, PAGE - 2, &[1, 2, 3, 4]);
        rx.cover(&mut session, slot, 3 * PAGE, 1).expect("a page beyond a gap");
        rx.write(&session, 3 * PAGE, &[9]);
        let mut next = Session::attach(SessionId(1), GEOMETRY, session.memory.clone(), 0).expect("sound");
        let rx = RxPages::recover(&mut next, slot, 0, PAGE + 2, &[(3 * PAGE, 1)]).expect("sound");
        let mut found = Vec::new();
        rx.for_each_piece(&next, PAGE - 2, 4, |at, len| {
            let mut piece = vec![0; len];
            next.memory.read(at, &mut piece);
            found.extend(piece);
        });
        assert_eq!(found, [1, 2, 3, 4]);
        assert_eq!(core::iter::from_fn(|| next.take_page(slot)).count(), 5);
    }

    #[test]
    fn pruned_pages_go_back_after_the_commit() {
        let mut session = session();
        let mut rx = RxPages::default();
        rx.cover(&mut session, SlotIndex(0), 0, 10).expect("a page");
        rx.cover(&mut session, SlotIndex(0), PAGE - 5, 3 * PAGE_SIZE).expect("pages out of order");
        rx.prune(&mut session, 10);
        assert_eq!((session.free_pages(), session.pages_in_limbo()), (4, 3));
        rx.consume(&mut session, 10, 10, 10).expect("in bounds");
        assert_eq!(session.free_pages(), 4, "the last one may hold pruned bytes too");
        rx.committed();
        session.return_limbo();
        assert_eq!((session.free_pages(), session.pages_in_limbo()), (8, 0));
    }

    #[test]
    fn consumed_pages_go_back() {
        let mut session = session();
        let mut rx = RxPages::default();
        rx.cover(&mut session, SlotIndex(0), 0, 8 * PAGE_SIZE).expect("pages");
        assert_eq!(rx.cover(&mut session, SlotIndex(0), 8 * PAGE, 1), Err(NoPages));
        rx.consume(&mut session, 2 * PAGE + 5, 8 * PAGE, 8 * PAGE).expect("in bounds");
        rx.cover(&mut session, SlotIndex(0), 8 * PAGE, 2 * PAGE_SIZE).expect("two came back");
        assert!(rx.consume(&mut session, 2 * PAGE, 8 * PAGE, 8 * PAGE).is_err(), "backwards");
        assert!(rx.consume(&mut session, 8 * PAGE + 1, 8 * PAGE, 9 * PAGE).is_err(), "beyond");
        rx.consume(&mut session, 8 * PAGE, 8 * PAGE, 8 * PAGE).expect("all");
        assert_eq!(core::iter::from_fn(|| session.take_page(SlotIndex(0))).count(), 8);
    }
}
