//! A bounded set of position ranges: sorted, disjoint, never touching each other.
//!
//! The sender's scoreboard and the receiver's out-of-order store both are one. The bound keeps a
//! hostile remote from making it grow: what doesn't fit is refused, and the caller counts that.
//! Memory is taken only when the first range comes, and kept for the next time.

use super::seq::Position;

/// Positions from `start` up to, not including, `end`; `start < end` inside a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The first position.
    pub start: Position,
    /// The position just behind the last one.
    pub end: Position,
}

impl Range {
    /// From its two edges.
    pub const fn new(start: Position, end: Position) -> Self {
        Range { start, end }
    }

    /// How many positions it holds; 0 when the edges are swapped.
    pub const fn len(&self) -> u64 {
        self.end.since(self.start)
    }

    /// Whether it holds none.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether `position` lies inside.
    pub fn contains(&self, position: Position) -> bool {
        self.start <= position && position < self.end
    }

    /// The part of it inside `[low, high)`, possibly empty.
    #[must_use]
    pub fn clipped(&self, low: Position, high: Position) -> Range {
        Range::new(self.start.max(low), self.end.min(high))
    }
}

/// The set is at its bound and the range touches none of those it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// Sorted, disjoint ranges that don't touch; at most `LIMIT` of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RangeSet<const LIMIT: usize> {
    ranges: Vec<Range>,
}

impl<const LIMIT: usize> RangeSet<LIMIT> {
    /// An empty set, without memory.
    pub const fn new() -> Self {
        RangeSet { ranges: Vec::new() }
    }

    /// The ranges in rising order.
    pub fn as_slice(&self) -> &[Range] {
        &self.ranges
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Forgets everything, keeps the memory.
    pub fn clear(&mut self) {
        self.ranges.clear();
    }

    /// Adds a range, merging what it overlaps or touches; returns how many positions are new.
    pub fn insert(&mut self, range: Range) -> Result<u64, Full> {
        if range.is_empty() {
            return Ok(0);
        }
        // Those it overlaps or touches are `first..last`.
        let first = self.ranges.partition_point(|r| r.end < range.start);
        let last = self.ranges.partition_point(|r| r.start <= range.end);
        if first == last {
            if self.ranges.len() >= LIMIT {
                return Err(Full);
            }
            self.ranges.insert(first, range);
            return Ok(range.len());
        }
        let before: u64 = self.ranges[first..last].iter().map(Range::len).sum();
        let merged =
            Range::new(range.start.min(self.ranges[first].start), range.end.max(self.ranges[last - 1].end));
        self.ranges[first] = merged;
        self.ranges.drain(first + 1..last);
        Ok(merged.len() - before)
    }

    /// Forgets everything below `edge`; returns how many positions that were.
    pub fn remove_below(&mut self, edge: Position) -> u64 {
        let gone = self.ranges.partition_point(|r| r.end <= edge);
        let mut removed: u64 = self.ranges.drain(..gone).map(|r| r.len()).sum();
        if let Some(first) = self.ranges.first_mut()
            && first.start < edge
        {
            removed += edge.since(first.start);
            first.start = edge;
        }
        removed
    }

    /// The range that holds `position`.
    pub fn holding(&self, position: Position) -> Option<Range> {
        let index = self.ranges.partition_point(|r| r.end <= position);
        self.ranges.get(index).copied().filter(|r| r.contains(position))
    }

    /// How many positions of `[low, high)` the set holds.
    pub fn held_within(&self, low: Position, high: Position) -> u64 {
        self.ranges.iter().map(|r| r.clipped(low, high).len()).sum()
    }

    /// The first stretch of `[low, high)` that the set doesn't hold.
    pub fn first_gap(&self, low: Position, high: Position) -> Option<Range> {
        let mut start = low;
        for range in &self.ranges {
            if range.end <= start {
                continue;
            }
            if range.start > start {
                return Some(Range::new(start, range.start.min(high))).filter(|gap| !gap.is_empty());
            }
            start = range.end;
        }
        Some(Range::new(start, high)).filter(|gap| !gap.is_empty())
    }

    /// The end of the highest range.
    pub fn highest(&self) -> Option<Position> {
        self.ranges.last().map(|r| r.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn range(start: u64, end: u64) -> Range {
        Range::new(Position::new(start), Position::new(end))
    }

    #[test]
    fn touching_ranges_merge() {
        let mut set: RangeSet<4> = RangeSet::new();
        assert_eq!(set.insert(range(10, 20)), Ok(10));
        assert_eq!(set.insert(range(30, 40)), Ok(10));
        assert_eq!(set.insert(range(20, 30)), Ok(10));
        assert_eq!(set.as_slice(), &[range(10, 40)]);
    }

    #[test]
    fn the_bound_refuses_only_what_needs_a_new_range() {
        let mut set: RangeSet<2> = RangeSet::new();
        set.insert(range(10, 20)).unwrap();
        set.insert(range(30, 40)).unwrap();
        assert_eq!(set.insert(range(50, 60)), Err(Full));
        assert_eq!(set.insert(range(40, 60)), Ok(20));
    }

    proptest! {
        #[test]
        fn behaves_as_a_set_of_numbers(steps in prop::collection::vec((0u64..100, 0u64..20, 0u64..100), 1..40)) {
            let mut set: RangeSet<64> = RangeSet::new();
            let mut model = BTreeSet::new();
            for (start, len, edge) in steps {
                let new = (start..start + len).filter(|n| model.insert(*n)).count() as u64;
                prop_assert_eq!(set.insert(range(start, start + len)), Ok(new));
                let low = Position::new(edge / 2);
                let high = Position::new(edge);
                let gap = (edge / 2..edge).find(|n| !model.contains(n));
                prop_assert_eq!(set.first_gap(low, high).map(|g| g.start.get()), gap);
                let held = (edge / 2..edge).filter(|n| model.contains(n)).count() as u64;
                prop_assert_eq!(set.held_within(low, high), held);
                prop_assert_eq!(set.holding(high).is_some(), model.contains(&edge));
                if edge % 3 == 0 {
                    let below = edge / 3;
                    let gone = model.iter().filter(|n| **n < below).count() as u64;
                    model.retain(|n| *n >= below);
                    prop_assert_eq!(set.remove_below(Position::new(below)), gone);
                }
                for pair in set.as_slice().windows(2) {
                    prop_assert!(pair[0].end < pair[1].start);
                }
                let total: u64 = set.as_slice().iter().map(Range::len).sum();
                prop_assert_eq!(total, model.len() as u64);
            }
        }
    }
}
