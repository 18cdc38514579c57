//! What the receiver holds above rcv.nxt, and the SACK blocks that say so (RFC 2018 §4, RFC 2883).
//!
//! The bytes themselves already stand at their place in the arena; here are only ranges. Owned by
//! the control block, which allocates it when the first segment comes out of order.

use super::ranges::{Full, Range, RangeSet};
use super::segment::{SACK_BLOCKS_MAX, SackBlock, SackBlocks};
use super::seq::{Position, SeqNum};

/// Most ranges kept above rcv.nxt; what would need one more is dropped and counted.
pub const OUT_OF_ORDER_RANGES_MAX: usize = 32;

/// Ranges above rcv.nxt, and which of them changed last.
#[derive(Debug, Clone, Default)]
pub struct OutOfOrder {
    ranges: RangeSet<OUT_OF_ORDER_RANGES_MAX>,
    /// A position inside each of the ranges that changed last, newest first.
    recent: [Position; SACK_BLOCKS_MAX],
    /// The last duplicate, reported once (RFC 2883 §4).
    duplicate: Option<Range>,
}

impl OutOfOrder {
    /// The ranges held.
    pub fn ranges(&self) -> &RangeSet<OUT_OF_ORDER_RANGES_MAX> {
        &self.ranges
    }

    /// Whether nothing is held and nothing is to be reported.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty() && self.duplicate.is_none()
    }

    /// Blocks the next report would have, were there room for all.
    pub fn count(&self) -> usize {
        self.ranges.as_slice().len() + usize::from(self.duplicate.is_some())
    }

    /// The part of `range` to copy: what remains after trimming, at both ends, what is held
    /// already. Empty when all of it is held.
    pub fn missing_part(&self, range: Range) -> Range {
        let mut start = range.start;
        let mut end = range.end;
        if let Some(held) = self.ranges.holding(start) {
            start = held.end.min(end);
        }
        if start < end
            && let Some(held) = self.ranges.holding(end.minus(1))
        {
            end = held.start.max(start);
        }
        Range::new(start, end)
    }

    /// Notes that `range` is held now.
    pub fn insert(&mut self, range: Range) -> Result<(), Full> {
        self.ranges.insert(range)?;
        self.touch(range.start);
        Ok(())
    }

    /// RFC 2018 §4: the first block is the one that holds the segment that triggered the ACK; the
    /// others repeat what was reported most recently.
    fn touch(&mut self, position: Position) {
        let Some(holding) = self.ranges.holding(position) else { return };
        let known = self.recent.iter().position(|p| holding.contains(*p));
        let last = known.unwrap_or(SACK_BLOCKS_MAX - 1);
        self.recent.copy_within(0..last, 1);
        self.recent[0] = position;
    }

    /// rcv.nxt moved to `nxt`: returns where it really stands, since a held range may begin there.
    pub fn advance(&mut self, nxt: Position) -> Position {
        let merged = self.ranges.holding(nxt).map_or(nxt, |held| held.end);
        self.ranges.remove_below(merged);
        merged
    }

    /// Forgets all ranges: their bytes are given up. RFC 2018 §8 allows it, the remote keeps what was
    /// not acknowledged cumulatively.
    pub fn forget(&mut self) {
        self.ranges.clear();
    }

    /// Notes that `range` arrived a second time.
    pub fn note_duplicate(&mut self, range: Range) {
        if !range.is_empty() {
            self.duplicate = Some(range);
        }
    }

    /// The blocks for the next ACK, at most `room` of them; the duplicate goes first and only once.
    pub fn report(&mut self, irs: SeqNum, room: usize) -> SackBlocks {
        let mut blocks = SackBlocks::NONE;
        let on_wire = |r: Range| SackBlock { start: r.start.on_wire(irs), end: r.end.on_wire(irs) };
        if let Some(duplicate) = self.duplicate.take()
            && room > 0
        {
            blocks.push(on_wire(duplicate));
            // RFC 2883 §4.2: the block that contains the duplicate follows it.
            self.touch(duplicate.start);
        }
        let mut told = [None; SACK_BLOCKS_MAX];
        for position in self.recent {
            if blocks.len() >= room {
                break;
            }
            let Some(held) = self.ranges.holding(position) else { continue };
            if told.contains(&Some(held)) {
                continue;
            }
            told[blocks.len()] = Some(held);
            blocks.push(on_wire(held));
        }
        for held in self.ranges.as_slice() {
            if blocks.len() >= room {
                break;
            }
            if told.contains(&Some(*held)) {
                continue;
            }
            told[blocks.len()] = Some(*held);
            blocks.push(on_wire(*held));
        }
        blocks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IRS: SeqNum = SeqNum::new(7);

    fn range(start: u64, end: u64) -> Range {
        Range::new(Position::new(start), Position::new(end))
    }

    fn starts(blocks: SackBlocks) -> Vec<u32> {
        blocks.as_slice().iter().map(|b| b.start.get() - 7).collect()
    }

    #[test]
    fn the_newest_block_stands_first() {
        let mut store = OutOfOrder::default();
        for start in [100, 300, 500] {
            store.insert(range(start, start + 50)).unwrap();
        }
        assert_eq!(starts(store.report(IRS, 3)), [500, 300, 100]);
        store.insert(range(150, 160)).unwrap();
        assert_eq!(starts(store.report(IRS, 3)), [100, 500, 300]);
        assert_eq!(starts(store.report(IRS, 2)), [100, 500]);
    }

    #[test]
    fn a_duplicate_is_told_once_and_before_its_container() {
        let mut store = OutOfOrder::default();
        store.insert(range(100, 200)).unwrap();
        store.insert(range(300, 400)).unwrap();
        store.note_duplicate(range(120, 130));
        assert_eq!(starts(store.report(IRS, 3)), [120, 100, 300]);
        assert_eq!(starts(store.report(IRS, 3)), [100, 300]);
    }

    #[test]
    fn a_filled_gap_joins_what_follows() {
        let mut store = OutOfOrder::default();
        store.insert(range(100, 200)).unwrap();
        store.insert(range(300, 400)).unwrap();
        assert_eq!(store.advance(Position::new(100)), Position::new(200));
        assert_eq!(store.advance(Position::new(350)), Position::new(400));
        assert!(store.is_empty());
    }

    #[test]
    fn held_ends_are_trimmed() {
        let mut store = OutOfOrder::default();
        store.insert(range(100, 200)).unwrap();
        store.insert(range(300, 400)).unwrap();
        assert_eq!(store.missing_part(range(150, 350)), range(200, 300));
        assert_eq!(store.missing_part(range(50, 250)), range(50, 250));
        assert!(store.missing_part(range(120, 180)).is_empty());
    }
}
