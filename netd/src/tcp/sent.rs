//! When what is in flight was sent: the per-segment state of RFC 8985 §5.1, kept by stretches.
//!
//! A stretch is a run of positions that left at one time: a batch of segments makes one. What the remote
//! has acknowledged or reported by SACK is taken out, so the log holds exactly what is not known to
//! have arrived. Owned by the control block, led by loss recovery. Soft state: after a death all that
//! is in flight is one stretch of unknown time that counts as lost.
//!
//! Invariants: stretches are sorted, disjoint and not empty; there are at most [`STRETCHES_MAX`];
//! memory is taken when something is sent first, and kept.

use std::collections::VecDeque;

use proto::time::Instant;

use super::ranges::Range;

/// Most stretches kept. Beyond them neighbours share the later time, by which a loss shows later.
pub const STRETCHES_MAX: usize = 256;

/// Of which these many are kept free for holes that the remote's reports make.
const STRETCHES_FOR_HOLES: usize = 96;

/// A run of positions that left together and is not known to have arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// Which positions.
    pub range: Range,
    /// When they were sent last (Segment.xmit_ts).
    pub sent: Instant,
    /// They were sent more than once (Segment.retransmitted).
    pub again: bool,
    /// They count as lost and wait to be sent again (Segment.lost).
    pub lost: bool,
}

/// The stretches of one connection.
#[derive(Debug, Clone, Default)]
pub struct SentLog {
    stretches: VecDeque<Stretch>,
    /// Octets in all of them.
    held: u64,
    /// Octets in those that count as lost.
    lost: u64,
}

impl SentLog {
    /// Octets not known to have arrived.
    pub const fn held(&self) -> u64 {
        self.held
    }

    /// Octets that count as lost and were not sent again.
    pub const fn lost(&self) -> u64 {
        self.lost
    }

    /// The stretches in order of position.
    pub fn iter(&self) -> impl Iterator<Item = &Stretch> {
        self.stretches.iter()
    }

    /// The oldest position that isn't known to have arrived.
    pub fn front(&self) -> Option<&Stretch> {
        self.stretches.front()
    }

    /// The next stretch to send again.
    pub fn first_lost(&self) -> Option<Range> {
        if self.lost == 0 {
            return None;
        }
        self.stretches.iter().find(|s| s.lost).map(|s| s.range)
    }

    /// Forgets everything and gives the memory back.
    pub fn clear(&mut self) {
        *self = SentLog::default();
    }

    /// `range` lies behind all that was sent before, and leaves now.
    pub fn on_sent(&mut self, now: Instant, range: Range) {
        self.held += range.len();
        let full = self.stretches.len() >= STRETCHES_MAX - STRETCHES_FOR_HOLES;
        if let Some(last) = self.stretches.back_mut()
            && last.range.end == range.start
            && !last.lost
            && !last.again
            && (last.sent == now || full)
        {
            last.range.end = range.end;
            last.sent = now;
            return;
        }
        self.stretches.push_back(Stretch { range, sent: now, again: false, lost: false });
    }

    /// `range` leaves once more.
    pub fn on_sent_again(&mut self, now: Instant, range: Range) {
        self.change(range, |s| {
            s.lost = false;
            s.again = true;
            s.sent = now;
        });
    }

    /// What is inside `range` counts as lost.
    pub fn mark_lost(&mut self, range: Range) {
        self.change(range, |s| s.lost = true);
    }

    /// Every stretch that `is_lost` names counts as lost. Returns whether there was a new one.
    pub fn mark_lost_where(&mut self, mut is_lost: impl FnMut(&Stretch) -> bool) -> bool {
        let before = self.lost;
        for stretch in &mut self.stretches {
            if !stretch.lost && is_lost(stretch) {
                stretch.lost = true;
                self.lost += stretch.range.len();
            }
        }
        self.lost > before
    }

    /// Nothing counts as lost any more: the time-out was spurious.
    pub fn unmark_lost(&mut self) {
        self.stretches.iter_mut().for_each(|s| s.lost = false);
        self.lost = 0;
    }

    /// Nothing is known of what is in flight but where it lies: all of it counts as lost.
    pub fn assume_lost(&mut self, now: Instant, range: Range) {
        self.stretches.clear();
        self.held = range.len();
        self.lost = range.len();
        if !range.is_empty() {
            self.stretches.push_back(Stretch { range, sent: now, again: true, lost: true });
        }
    }

    /// `range` has arrived: tells `each` of what was still held of it, in order of position.
    pub fn remove(&mut self, range: Range, mut each: impl FnMut(&Stretch)) {
        let mut index = self.first_touched(range);
        while index < self.stretches.len() && self.stretches[index].range.start < range.end {
            let full = self.stretches.len() >= STRETCHES_MAX;
            let stretch = &mut self.stretches[index];
            let whole = stretch.range;
            let piece = whole.clipped(range.start, range.end);
            let (at_start, at_end) = (piece.start == whole.start, piece.end == whole.end);
            if !at_start && !at_end && full {
                // No room for another hole: what arrived counts as in flight until it is acknowledged.
                return;
            }
            let arrived = Stretch { range: piece, ..*stretch };
            match (at_start, at_end) {
                (true, true) => {
                    self.stretches.remove(index);
                }
                (true, false) => {
                    stretch.range.start = piece.end;
                    index += 1;
                }
                (false, true) => {
                    stretch.range.end = piece.start;
                    index += 1;
                }
                (false, false) => {
                    stretch.range.end = piece.start;
                    let rest = Stretch { range: Range::new(piece.end, whole.end), ..*stretch };
                    self.stretches.insert(index + 1, rest);
                    index += 2;
                }
            }
            self.held -= piece.len();
            if arrived.lost {
                self.lost -= piece.len();
            }
            each(&arrived);
        }
    }

    fn first_touched(&self, range: Range) -> usize {
        match self.stretches.front() {
            // The usual case: the oldest is acknowledged.
            Some(first) if range.start < first.range.end => 0,
            _ => self.stretches.partition_point(|s| s.range.end <= range.start),
        }
    }

    /// Changes the part of each stretch that lies in `range`; where no room is left to split, the whole.
    fn change(&mut self, range: Range, change: impl Fn(&mut Stretch)) {
        let mut index = self.first_touched(range);
        while let Some(whole) = self.stretches.get(index).copied().filter(|s| s.range.start < range.end) {
            let mut piece = whole.range.clipped(range.start, range.end);
            if self.stretches.len() + 2 > STRETCHES_MAX {
                piece = whole.range;
            }
            if piece.start > whole.range.start {
                let before = Stretch { range: Range::new(whole.range.start, piece.start), ..whole };
                self.stretches.insert(index, before);
                index += 1;
            }
            let mut changed = Stretch { range: piece, ..whole };
            change(&mut changed);
            match (whole.lost, changed.lost) {
                (false, true) => self.lost += piece.len(),
                (true, false) => self.lost -= piece.len(),
                _ => {}
            }
            self.stretches[index] = changed;
            if piece.end < whole.range.end {
                let after = Stretch { range: Range::new(piece.end, whole.range.end), ..whole };
                self.stretches.insert(index + 1, after);
            }
            self.merge_with_previous(&mut index);
            index += 1;
        }
    }

    /// A run that is sent again in pieces becomes one stretch.
    fn merge_with_previous(&mut self, index: &mut usize) {
        let Some(before) = index.checked_sub(1) else { return };
        let (left, right) = (self.stretches[before], self.stretches[*index]);
        let alike = left.sent == right.sent && left.again == right.again && left.lost == right.lost;
        if alike && left.range.end == right.range.start {
            self.stretches[before].range.end = right.range.end;
            self.stretches.remove(*index);
            *index = before;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::seq::Position;
    use super::*;
    use proptest::prelude::*;

    fn range(start: u64, end: u64) -> Range {
        Range::new(Position::new(start), Position::new(end))
    }

    fn at(ms: u64) -> Instant {
        Instant::from_millis(ms)
    }

    #[test]
    fn a_batch_is_one_stretch() {
        let mut log = SentLog::default();
        log.on_sent(at(1), range(1, 10));
        log.on_sent(at(1), range(10, 20));
        log.on_sent(at(2), range(20, 30));
        assert_eq!(log.iter().map(|s| s.range).collect::<Vec<_>>(), [range(1, 20), range(20, 30)]);
        assert_eq!((log.held(), log.lost()), (29, 0));
    }

    #[test]
    fn what_arrived_is_told_once_and_leaves_a_hole() {
        let mut log = SentLog::default();
        log.on_sent(at(1), range(1, 30));
        let mut told = Vec::new();
        log.remove(range(10, 20), |s| told.push(s.range));
        log.remove(range(5, 25), |s| told.push(s.range));
        log.remove(range(0, 30), |s| told.push(s.range));
        let parts = [range(10, 20), range(5, 10), range(20, 25), range(1, 5), range(25, 30)];
        assert_eq!(told, parts);
        assert_eq!((log.held(), log.front()), (0, None));
    }

    #[test]
    fn a_lost_stretch_goes_again_in_pieces() {
        let mut log = SentLog::default();
        log.on_sent(at(1), range(1, 31));
        log.mark_lost(range(1, 21));
        assert_eq!((log.lost(), log.first_lost()), (20, Some(range(1, 21))));
        log.on_sent_again(at(2), range(1, 11));
        assert_eq!((log.lost(), log.first_lost()), (10, Some(range(11, 21))));
        log.on_sent_again(at(2), range(11, 21));
        assert_eq!(log.iter().count(), 2, "the pieces are one again");
        assert_eq!((log.lost(), log.held()), (0, 30));
    }

    proptest! {
        /// Against a map of every position.
        #[test]
        fn behaves_as_a_map(steps in prop::collection::vec((0u8..4, 0u64..2000, 1u64..60), 1..400)) {
            let mut log = SentLog::default();
            let mut model = std::collections::BTreeMap::new();
            let mut nxt = 1;
            for (turn, (what, start, len)) in steps.into_iter().enumerate() {
                let now = at(turn as u64);
                let start = start % nxt.max(1);
                match what {
                    0 => {
                        log.on_sent(now, range(nxt, nxt + len));
                        (nxt..nxt + len).for_each(|p| { model.insert(p, false); });
                        nxt += len;
                    }
                    1 if log.iter().count() + 2 <= STRETCHES_MAX => {
                        log.mark_lost(range(start, start + len));
                        model.range_mut(start..start + len).for_each(|(_, lost)| *lost = true);
                    }
                    2 if log.iter().count() + 2 <= STRETCHES_MAX => {
                        log.on_sent_again(now, range(start, start + len));
                        model.range_mut(start..start + len).for_each(|(_, lost)| *lost = false);
                    }
                    3 if log.iter().count() < STRETCHES_MAX => {
                        let mut told = 0;
                        log.remove(range(start, start + len), |s| told += s.range.len());
                        let gone = model.range(start..start + len).count() as u64;
                        (start..start + len).for_each(|p| { model.remove(&p); });
                        prop_assert_eq!(told, gone);
                    }
                    _ => {}
                }
                prop_assert!(log.iter().count() <= STRETCHES_MAX);
                prop_assert_eq!(log.held(), model.len() as u64);
                prop_assert_eq!(log.lost(), model.values().filter(|lost| **lost).count() as u64);
                let first = model.iter().find(|(_, lost)| **lost).map(|(p, _)| *p);
                prop_assert_eq!(log.first_lost().map(|r| r.start.get()), first);
            }
        }
    }
}
