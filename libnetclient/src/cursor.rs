//! A socket's receive stream as the client sees it: what may be read, and where it lies.

use proto::PeerCorrupt;
use proto::arena::Geometry;
use proto::arena::line::StackLine;
use proto::arena::place::{Direction, pieces};
use proto::arena::{PAGE_SIZE, TABLE_PAGES};
use proto::id::SlotIndex;
use proto::shm::Memory;

/// Consumed bytes after which netd is told at once, that it may open the window. Less than this it
/// learns with the next note, or before the client sleeps.
pub(crate) const TELL_AFTER: u64 = 2 * PAGE_SIZE as u64;

/// Where a receive stream stands.
#[derive(Debug, Default)]
pub(crate) struct RxCursor {
    /// Bytes consumed.
    pub(crate) consumed: u64,
    /// Bytes that may be read, as far as we have looked.
    received: u64,
}

impl RxCursor {
    /// Takes over how much was received; returns how many bytes may be read.
    ///
    /// # Errors
    /// [`PeerCorrupt`] when the cursor moved backwards or past what a page table holds.
    pub(crate) fn look(&mut self, line: &StackLine) -> Result<usize, PeerCorrupt> {
        let available = line.received.wrapping_sub(self.consumed);
        if line.received < self.received || available > (TABLE_PAGES * PAGE_SIZE) as u64 {
            return Err(PeerCorrupt::new("received cursor moved backwards or past the page table"));
        }
        self.received = line.received;
        Ok(available as usize)
    }

    /// Bytes that may be read, as far as we have looked.
    pub(crate) fn known(&self) -> usize {
        self.received.saturating_sub(self.consumed) as usize
    }

    /// Where in the arena the bytes lie that begin `skip` behind `consumed`: calls `each` with
    /// offset and length of every piece. The caller has seen that they may be read.
    ///
    /// # Errors
    /// [`PeerCorrupt`] when the page table names no page.
    pub(crate) fn for_each_piece<M: Memory>(
        &self,
        (memory, geometry, slot, shard): (&M, &Geometry, SlotIndex, u16),
        skip: usize,
        len: usize,
        mut each: impl FnMut(usize, usize),
    ) -> Result<(), PeerCorrupt> {
        let direction = Direction::Rx { shard };
        for piece in pieces(self.consumed + skip as u64, len) {
            let page = direction.page(memory, geometry, slot, piece.entry)?;
            each(direction.byte_at(geometry, page, piece.within), piece.len);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_that_jumps_is_refused() {
        let mut rx = RxCursor::default();
        let line = |received| StackLine { received, ..StackLine::default() };
        assert_eq!(rx.look(&line(100)), Ok(100));
        assert!(rx.look(&line(99)).is_err());
        rx.consumed = 60;
        assert_eq!(rx.look(&line(100)), Ok(40));
        let table = (TABLE_PAGES * PAGE_SIZE) as u64;
        assert!(rx.look(&line(60 + table + 1)).is_err());
        assert_eq!(rx.look(&line(60 + table)), Ok(table as usize));
    }
}
