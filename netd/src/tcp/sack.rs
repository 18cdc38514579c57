//! The sender's scoreboard: what the remote says it holds above the cumulative acknowledgement
//! (RFC 6675 §3 and §4).
//!
//! Owned by the control block, fed by the ACK step, read by loss recovery. Every block of a remote
//! is checked against what is really in flight; a bounded number of ranges is kept and the rest
//! ignored, since a SACK is advice. It does not decide what to send.

use super::ranges::{Range, RangeSet};
use super::segment::SackBlock;
use super::seq::{Position, SeqNum};

/// Most ranges kept. Linux keeps one note per segment; a remote that makes more holes than this
/// is served by the ranges known so far and by the retransmission timer.
pub const SCOREBOARD_RANGES_MAX: usize = 64;

/// RFC 6675 §2: DupThresh.
pub const DUP_THRESH: u32 = 3;

/// What one ACK's blocks told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SackNews {
    /// Octets reported for the first time.
    pub newly_sacked: u64,
    /// The first block reported a duplicate (RFC 2883 §4): these positions arrived twice.
    pub duplicate: Option<Range>,
}

/// Ranges above snd.una that the remote holds.
#[derive(Debug, Clone, Default)]
pub struct Scoreboard {
    ranges: RangeSet<SCOREBOARD_RANGES_MAX>,
}

impl Scoreboard {
    /// A scoreboard of nobody, to read where none was needed yet.
    pub(super) const EMPTY: &Scoreboard = &Scoreboard::new();

    /// Nothing reported yet.
    pub const fn new() -> Self {
        Scoreboard { ranges: RangeSet::new() }
    }

    /// The ranges held by the remote.
    pub fn ranges(&self) -> &RangeSet<SCOREBOARD_RANGES_MAX> {
        &self.ranges
    }

    /// Whether nothing is reported.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Forgets everything (RFC 2018 §8, when the remote took its word back).
    pub fn clear(&mut self) {
        self.ranges.clear();
    }

    /// Takes in the blocks of an ACK whose cumulative acknowledgement is `ack`, where `[una, nxt)`
    /// is in flight (RFC 6675 §4, Update; RFC 2883 §4 for duplicates). Each block that reports
    /// something new is told to `each`.
    pub fn update(
        &mut self,
        blocks: &[SackBlock],
        iss: SeqNum,
        ack: Position,
        una: Position,
        nxt: Position,
        mut each: impl FnMut(Range),
    ) -> SackNews {
        let mut news = SackNews::default();
        for (index, block) in blocks.iter().enumerate() {
            let Some(range) = place(block, iss, una) else { continue };
            if index == 0 && is_duplicate_report(&range, blocks.get(1), iss, ack, una) {
                news.duplicate = Some(range).filter(|r| r.end <= nxt);
                continue;
            }
            if ack < una {
                // An acknowledgement that was overtaken: the newer one knew at least as much of what is held.
                continue;
            }
            if range.start < una || range.end > nxt {
                continue;
            }
            // A refused range is only advice not taken.
            if let Ok(new) = self.ranges.insert(range) {
                news.newly_sacked += new;
                if new > 0 {
                    each(range);
                }
            }
        }
        news
    }

    /// The cumulative acknowledgement moved to `una`; returns how many reported octets it covered.
    pub fn advance(&mut self, una: Position) -> u64 {
        self.ranges.remove_below(una)
    }

    /// The remote acknowledges only up to `una` although it reported holding that position: it took
    /// its word back (RFC 2018 §8), as a receiver may that restarted or ran out of memory.
    pub fn is_reneged(&self, una: Position) -> bool {
        self.ranges.as_slice().first().is_some_and(|r| r.start <= una)
    }

    /// Whether DupThresh segments or more are reported (RFC 8985 §6.2, RACK.segs_sacked).
    pub fn is_thick(&self, mss: u32) -> bool {
        let mut segments = 0;
        self.ranges.as_slice().iter().any(|range| {
            segments += range.len().div_ceil(u64::from(mss));
            segments >= u64::from(DUP_THRESH)
        })
    }
}

/// The positions a block means, or `None` when it is empty, swapped or before the SYN.
fn place(block: &SackBlock, iss: SeqNum, una: Position) -> Option<Range> {
    let start = Position::near(block.start, iss, una)?;
    let end = Position::near(block.end, iss, una)?;
    Some(Range::new(start, end)).filter(|r| !r.is_empty())
}

/// RFC 2883 §4: the first block lies below the acknowledgement, or inside the second block.
fn is_duplicate_report(
    first: &Range,
    second: Option<&SackBlock>,
    iss: SeqNum,
    ack: Position,
    una: Position,
) -> bool {
    if first.end <= ack {
        return true;
    }
    second
        .and_then(|block| place(block, iss, una))
        .is_some_and(|outer| outer.start <= first.start && first.end <= outer.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ISS: SeqNum = SeqNum::new(u32::MAX - 500);

    fn block(start: u64, end: u64) -> SackBlock {
        SackBlock { start: Position::new(start).on_wire(ISS), end: Position::new(end).on_wire(ISS) }
    }

    fn board(blocks: &[SackBlock]) -> (Scoreboard, SackNews) {
        let mut board = Scoreboard::new();
        let una = Position::new(1000);
        let news = board.update(blocks, ISS, una, una, Position::new(9000), |_| {});
        (board, news)
    }

    #[test]
    fn counts_only_what_is_new_and_in_flight() {
        let (mut board, news) = board(&[block(2000, 3000), block(8000, 9001), block(500, 1200)]);
        assert_eq!(news.newly_sacked, 1000);
        let una = Position::new(1000);
        let again = board.update(&[block(2000, 3500)], ISS, una, una, Position::new(9000), |_| {});
        assert_eq!(again.newly_sacked, 500);
    }

    #[test]
    fn duplicate_reports_are_told_apart() {
        let (board_below, news) = board(&[block(400, 900), block(2000, 3000)]);
        assert_eq!(news.duplicate, Some(Range::new(Position::new(400), Position::new(900))));
        assert_eq!(board_below.ranges().as_slice().len(), 1);
        let (_, inside) = board(&[block(2000, 2500), block(2000, 3000)]);
        assert!(inside.duplicate.is_some());
        assert_eq!(inside.newly_sacked, 1000);
    }

    #[test]
    fn three_segments_are_thick() {
        assert!(!board(&[block(2000, 4000)]).0.is_thick(1000));
        assert!(board(&[block(2000, 4001)]).0.is_thick(1000));
        assert!(board(&[block(2000, 2001), block(3000, 3001), block(4000, 4001)]).0.is_thick(1000));
    }

    #[test]
    fn reneging_shows_at_the_acknowledgement() {
        let (mut board, _) = board(&[block(2000, 3000)]);
        assert!(!board.is_reneged(Position::new(1000)));
        board.advance(Position::new(2000));
        assert!(board.is_reneged(Position::new(2000)));
        assert_eq!(board.advance(Position::new(3000)), 1000);
        assert!(!board.is_reneged(Position::new(3000)));
    }
}
