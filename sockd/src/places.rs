//! Which of a session's active places are free.
//!
//! A place belongs to one shard for good ([`Geometry::owner`]); places that follow one another, one of
//! each shard, are a row. A connection takes a place of its shard, what every shard has takes a row. Rows
//! are broken up for single places only when there are no others, and are whole again when their last
//! place comes back. Derived from the registry, never the truth.
//!
//! Rows, which are places where there is one shard, are given out last freed, first: what was hot is used
//! again.

use proto::arena::Geometry;
use proto::id::SlotIndex;
use std::collections::{BTreeMap, BTreeSet};

/// The active places of a session.
#[derive(Debug)]
pub struct Places {
    shards: u32,
    rows: u32,
    /// Rows from here on were never used.
    fresh: u32,
    /// Whole rows that were used and are free again.
    whole: Vec<u32>,
    /// Single places that are free, by shard.
    single: Vec<BTreeSet<u32>>,
    /// Of rows that are broken up, how many places are in use.
    broken: BTreeMap<u32, u32>,
}

impl Places {
    /// All are free but `used`, places and how many follow one another from there.
    pub fn new(geometry: &Geometry, used: impl Iterator<Item = (SlotIndex, u32)>) -> Places {
        let shards = u32::from(geometry.shards);
        let used: BTreeSet<u32> = used.flat_map(|(slot, count)| slot.0..slot.0 + count).collect();
        let fresh = used.last().map_or(0, |last| last / shards + 1);
        let mut places = Places {
            shards,
            rows: geometry.active / shards,
            fresh,
            whole: Vec::new(),
            single: vec![BTreeSet::new(); shards as usize],
            broken: BTreeMap::new(),
        };
        for row in (0..fresh).rev() {
            let all = row * shards..(row + 1) * shards;
            match all.clone().filter(|slot| used.contains(slot)).count() as u32 {
                0 => places.whole.push(row),
                count if count == shards => {}
                count => {
                    for slot in all.filter(|slot| !used.contains(slot)) {
                        places.single[(slot % shards) as usize].insert(slot);
                    }
                    places.broken.insert(row, count);
                }
            }
        }
        places
    }

    fn row(&mut self) -> Option<u32> {
        self.whole.pop().or_else(|| {
            (self.fresh < self.rows).then(|| {
                self.fresh += 1;
                self.fresh - 1
            })
        })
    }

    /// A place of `shard`.
    pub fn take(&mut self, shard: u16) -> Option<SlotIndex> {
        let shard = u32::from(shard);
        if let Some(slot) = self.single[shard as usize].pop_first() {
            *self.broken.get_mut(&(slot / self.shards)).expect("of a row that is broken up") += 1;
            return Some(SlotIndex(slot));
        }
        let row = self.row()?;
        if self.shards > 1 {
            self.broken.insert(row, 1);
            for other in (0..self.shards).filter(|other| *other != shard) {
                self.single[other as usize].insert(row * self.shards + other);
            }
        }
        Some(SlotIndex(row * self.shards + shard))
    }

    /// A row, by its first place.
    pub fn take_row(&mut self) -> Option<SlotIndex> {
        self.row().map(|row| SlotIndex(row * self.shards))
    }

    /// A place is free again.
    pub fn give_back(&mut self, slot: SlotIndex) {
        let (row, shard) = (slot.0 / self.shards, (slot.0 % self.shards) as usize);
        // A row that was taken over whole by a predecessor's records stands nowhere.
        let in_use = self.broken.remove(&row).unwrap_or(self.shards);
        if in_use > 1 {
            self.single[shard].insert(slot.0);
            self.broken.insert(row, in_use - 1);
            return;
        }
        for (shard, single) in self.single.iter_mut().enumerate() {
            single.remove(&(row * self.shards + shard as u32));
        }
        self.whole.push(row);
    }

    /// A row is free again.
    pub fn give_row_back(&mut self, first: SlotIndex) {
        self.whole.push(first.0 / self.shards);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Op {
        Take(u16),
        TakeRow,
        Give(prop::sample::Index),
        Rebuild,
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => any::<u16>().prop_map(Op::Take),
            2 => Just(Op::TakeRow),
            4 => any::<prop::sample::Index>().prop_map(Op::Give),
            1 => Just(Op::Rebuild),
        ]
    }

    proptest! {
        /// No place is given out twice, each belongs to the shard that asked; when all have come back,
        /// all rows are whole; and what is made anew of what is in use behaves alike.
        #[test]
        fn every_place_has_one_user(
            shards in 1u16..5, rows in 1u32..6,
            ops in prop::collection::vec(op(), 0..200),
        ) {
            let active = rows * u32::from(shards);
            let geometry = Geometry { shards, active, passive: 1, tx_pages: 1, rx_pages: 1 };
            let mut places = Places::new(&geometry, core::iter::empty());
            let mut taken: Vec<(SlotIndex, u32)> = Vec::new();
            let free = |taken: &[(SlotIndex, u32)], slot: u32| {
                !taken.iter().any(|(from, count)| (from.0..from.0 + count).contains(&slot))
            };
            for op in ops {
                match op {
                    Op::Take(shard) => {
                        let shard = shard % shards;
                        let left = geometry.places_of(shard).filter(|slot| slot.0 < active)
                            .any(|slot| free(&taken, slot.0));
                        let place = places.take(shard);
                        prop_assert_eq!(place.is_some(), left);
                        if let Some(slot) = place {
                            prop_assert!(geometry.owner(slot) == shard && slot.0 < active && free(&taken, slot.0));
                            taken.push((slot, 1));
                        }
                    }
                    Op::TakeRow => {
                        let width = u32::from(shards);
                        let left = (0..rows).any(|row| (row * width..(row + 1) * width).all(|slot| free(&taken, slot)));
                        let row = places.take_row();
                        prop_assert_eq!(row.is_some(), left);
                        if let Some(first) = row {
                            prop_assert!((first.0..first.0 + width).all(|slot| free(&taken, slot)));
                            prop_assert!(geometry.owner(first) == 0 && first.0 + width <= active);
                            taken.push((first, width));
                        }
                    }
                    Op::Give(index) => {
                        if taken.is_empty() { continue }
                        let (slot, count) = taken.swap_remove(index.index(taken.len()));
                        match count {
                            1 => places.give_back(slot),
                            _ => places.give_row_back(slot),
                        }
                    }
                    Op::Rebuild => places = Places::new(&geometry, taken.iter().copied()),
                }
            }
            for (slot, count) in taken {
                match count {
                    1 => places.give_back(slot),
                    _ => places.give_row_back(slot),
                }
            }
            prop_assert!((0..rows).all(|_| places.take_row().is_some()) && places.take_row().is_none());
        }
    }
}
