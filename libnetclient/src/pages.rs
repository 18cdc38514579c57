//! Send pages: the session's store of them, and those of one socket's send stream.
//!
//! The client alone allocates send pages. A page belongs to the stream while it holds a byte that
//! is not acknowledged, then it goes back, last freed on top: what is hot in the cache is used
//! again. A stream of which everything is acknowledged holds none.

use proto::arena::place::{Direction, entry_of, pieces};
use proto::arena::{Geometry, PAGE_SIZE};
use proto::id::SlotIndex;
use proto::shm::Memory;
use std::collections::VecDeque;

const PAGE: u64 = PAGE_SIZE as u64;

/// The session's free send pages.
#[derive(Debug)]
pub(crate) struct FreePages {
    free: Vec<u32>,
    /// Pages from here on were never used.
    fresh: u32,
    count: u32,
}

impl FreePages {
    pub(crate) fn new(geometry: &Geometry) -> FreePages {
        FreePages { free: Vec::new(), fresh: 0, count: geometry.tx_pages }
    }

    /// The pages of a session that was taken up: those that are not `used`.
    pub(crate) fn without(used: &[bool]) -> FreePages {
        let count = used.len() as u32;
        let free = (0..count).rev().filter(|page| !used[*page as usize]).collect();
        FreePages { free, fresh: count, count }
    }

    /// Whether there is one.
    pub(crate) fn any(&self) -> bool {
        !self.free.is_empty() || self.fresh < self.count
    }

    /// Gives pages back.
    pub(crate) fn give_back(&mut self, pages: &mut Vec<u32>) {
        self.free.append(pages);
    }

    pub(crate) fn take(&mut self) -> Option<u32> {
        self.free.pop().or_else(|| {
            (self.fresh < self.count).then(|| {
                self.fresh += 1;
                self.fresh - 1
            })
        })
    }
}

/// The send pages of one stream, and where it stands.
#[derive(Debug, Default)]
pub(crate) struct TxPages {
    /// Bytes written and published.
    pub(crate) written: u64,
    /// Bytes acknowledged, as far as we have looked.
    pub(crate) acked: u64,
    /// Number (offset / PAGE_SIZE) of the stream page that `pages[0]` holds.
    first: u64,
    pages: VecDeque<u32>,
    /// Bytes behind `written` that are reserved in place: their pages stay.
    pub(crate) reserved: usize,
    /// Pages of something else that netd looks at until it lets go of the place.
    pub(crate) kept: Vec<u32>,
}

impl TxPages {
    /// A stream that goes on: `pages` hold its bytes from `acked` to `filled`, of which `written` are
    /// published.
    pub(crate) fn again(written: u64, acked: u64, filled: u64, pages: Vec<u32>) -> TxPages {
        let reserved = (filled - written) as usize;
        TxPages { written, acked, first: acked / PAGE, pages: pages.into(), reserved, kept: Vec::new() }
    }

    /// Whether it holds any page.
    pub(crate) fn is_empty(&self) -> bool {
        self.pages.is_empty() && self.kept.is_empty()
    }

    /// Gets pages for `len` bytes behind `written`; returns for how many there are pages.
    pub(crate) fn cover<M: Memory>(
        &mut self,
        free: &mut FreePages,
        (memory, geometry, slot): (&M, &Geometry, SlotIndex),
        len: usize,
    ) -> usize {
        if len == 0 {
            return 0;
        }
        if self.pages.is_empty() {
            self.first = self.written / PAGE;
        }
        let end = self.written + len as u64;
        loop {
            let covered = (self.first + self.pages.len() as u64) * PAGE;
            if covered >= end {
                return len;
            }
            let Some(page) = free.take() else {
                return covered.saturating_sub(self.written) as usize;
            };
            Direction::Tx.set_page(memory, geometry, slot, entry_of(covered), page);
            self.pages.push_back(page);
        }
    }

    /// Where in the arena the covered bytes lie that begin `skip` behind `written`: calls `each`
    /// with offset and length of every piece.
    pub(crate) fn for_each_piece(
        &self,
        geometry: &Geometry,
        skip: usize,
        len: usize,
        mut each: impl FnMut(usize, usize),
    ) {
        let mut at = self.written + skip as u64;
        for piece in pieces(at, len) {
            let page = self.pages[(at / PAGE - self.first) as usize];
            each(Direction::Tx.byte_at(geometry, page, piece.within), piece.len);
            at += piece.len as u64;
        }
    }

    /// Takes over how much is acknowledged; returns the pages that are free now.
    pub(crate) fn acknowledge(&mut self, free: &mut FreePages, acked: u64) -> bool {
        self.acked = acked;
        let before = free.free.len();
        if acked == self.written && self.reserved == 0 {
            free.free.extend(self.pages.drain(..));
        } else {
            while self.first < acked / PAGE
                && let Some(page) = self.pages.pop_front()
            {
                self.first += 1;
                free.free.push(page);
            }
        }
        free.free.len() > before
    }

    /// netd has let go of the place: all pages go back.
    pub(crate) fn release_all(&mut self, free: &mut FreePages) {
        free.free.extend(self.pages.drain(..));
        free.free.append(&mut self.kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::shm::heap::HeapMemory;

    const GEOMETRY: Geometry = Geometry { shards: 1, active: 2, passive: 1, tx_pages: 3, rx_pages: 1 };

    #[test]
    fn pages_follow_the_cursors() {
        let memory = HeapMemory::new(GEOMETRY.bytes());
        let at = (&memory, &GEOMETRY, SlotIndex(1));
        let (mut free, mut tx) = (FreePages::new(&GEOMETRY), TxPages::default());
        assert_eq!(tx.cover(&mut free, at, PAGE_SIZE + 1), PAGE_SIZE + 1);
        tx.written += PAGE + 1;
        assert_eq!(tx.cover(&mut free, at, 3 * PAGE_SIZE), 2 * PAGE_SIZE - 1, "three pages in all");
        assert!(!tx.acknowledge(&mut free, PAGE - 1), "the first page still holds a byte");
        assert!(tx.acknowledge(&mut free, PAGE));
        assert_eq!(tx.cover(&mut free, at, 3 * PAGE_SIZE), 3 * PAGE_SIZE - 1);
        assert!(tx.acknowledge(&mut free, PAGE + 1), "everything is acknowledged");
        assert!(tx.is_empty());
        assert_eq!(tx.cover(&mut free, at, 1), 1, "it goes on in the middle of a page");
        let mut found = Vec::new();
        tx.for_each_piece(&GEOMETRY, 0, 1, |at, len| found.push((at % PAGE_SIZE, len)));
        assert_eq!(found, [(1, 1)]);
    }
}
