//! The counters in a seat's region: written by its daemon, kept across its restarts.
//!
//! The daemon counts on its own heap and mirrors the numbers here after each batch, on top of what
//! its predecessors had counted. A counter is found by its name, so that a new version of a daemon
//! goes on with the old numbers.

use super::{
    COUNT_AT, COUNTERS_AT, COUNTERS_MAX, NAME_MAX, NAMES_AT, REGION_SIZE, UnknownLayout, claim, seat, text,
};
use crate::id::Seat;
use crate::shm::Memory;
use core::sync::atomic::Ordering;

/// The owner's end of the counters.
#[derive(Debug)]
pub struct Table<M> {
    memory: M,
    /// What earlier incarnations counted, by place.
    base: Vec<u64>,
    /// What stands in the region, to store only what has changed.
    shown: Vec<u64>,
}

impl<M: Memory> Table<M> {
    /// Takes over `seat`'s region. `names` is the daemon's list of counters, in a fixed order.
    ///
    /// # Panics
    /// When the region is too small, or on more than [`COUNTERS_MAX`] names or longer ones than
    /// [`NAME_MAX`].
    pub fn attach(memory: M, seat: Seat, names: impl Iterator<Item = &'static str>) -> Self {
        assert!(memory.size() >= REGION_SIZE, "a region too small for statistics");
        claim(&memory, seat);
        let before = read(&memory).expect("the layout was written above");
        let names: Vec<&str> = names.collect();
        assert!(names.len() <= COUNTERS_MAX, "too many counters");
        if !before.iter().map(|(name, _)| name.as_str()).eq(names.iter().copied()) {
            write_names(&memory, &names, &before);
        }
        let shown: Vec<u64> = (0..names.len()).map(|n| load(&memory, n)).collect();
        Table { memory, base: shown.clone(), shown }
    }

    /// Shows the counts since the daemon started, in the order of the names.
    ///
    /// # Panics
    /// When there are not as many as names.
    pub fn mirror(&mut self, counts: impl Iterator<Item = u64>) {
        let mut given = 0;
        for (n, count) in counts.enumerate() {
            let value = self.base[n].wrapping_add(count);
            if self.shown[n] != value {
                self.shown[n] = value;
                self.memory.store_u64(COUNTERS_AT + n * 8, value, Ordering::Relaxed);
            }
            given = n + 1;
        }
        assert_eq!(given, self.base.len(), "a count for each name");
    }
}

fn load<M: Memory>(memory: &M, n: usize) -> u64 {
    memory.load_u64(COUNTERS_AT + n * 8, Ordering::Relaxed)
}

/// Replaces the list; what is still on it keeps its number.
fn write_names<M: Memory>(memory: &M, names: &[&str], before: &[(String, u64)]) {
    memory.store_u32(COUNT_AT, 0, Ordering::Release);
    for (n, name) in names.iter().enumerate() {
        assert!(name.len() <= NAME_MAX && name.is_ascii(), "a counter's name: {name}");
        let value = before.iter().find(|(old, _)| old == name).map_or(0, |&(_, value)| value);
        let mut padded = [0; NAME_MAX];
        padded[..name.len()].copy_from_slice(name.as_bytes());
        memory.write(NAMES_AT + n * NAME_MAX, &padded);
        memory.store_u64(COUNTERS_AT + n * 8, value, Ordering::Relaxed);
    }
    // Release: pairs with the Acquire load in `read`; the names before it are whole.
    memory.store_u32(COUNT_AT, names.len() as u32, Ordering::Release);
}

/// All counters of a region by name.
///
/// # Errors
/// [`UnknownLayout`] when no daemon of this version has written it.
pub fn read<M: Memory>(memory: &M) -> Result<Vec<(String, u64)>, UnknownLayout> {
    seat(memory)?;
    // Acquire: pairs with the Release store in `write_names`.
    let count = (memory.load_u32(COUNT_AT, Ordering::Acquire) as usize).min(COUNTERS_MAX);
    let counter = |n: usize| {
        let mut name = [0; NAME_MAX];
        memory.read(NAMES_AT + n * NAME_MAX, &mut name);
        (text(&name), load(memory, n))
    };
    Ok((0..count).map(counter).collect())
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::id::Role;
    use crate::shm::heap::HeapMemory;
    use std::rc::Rc;

    const SEAT: Seat = Seat::new(Role::Nicd, 3);

    fn attach(memory: &Rc<HeapMemory>, names: &[&'static str]) -> Table<Rc<HeapMemory>> {
        Table::attach(memory.clone(), SEAT, names.iter().copied())
    }

    fn region() -> Rc<HeapMemory> {
        Rc::new(HeapMemory::new(REGION_SIZE))
    }

    #[test]
    fn counts_go_on_after_a_restart() {
        let memory = region();
        assert_eq!(read(&memory), Err(UnknownLayout));
        attach(&memory, &["a", "b"]).mirror([1, 20].into_iter());
        let mut table = attach(&memory, &["a", "b"]);
        table.mirror([0, 0].into_iter());
        table.mirror([2, 1].into_iter());
        assert_eq!(read(&memory), Ok(vec![("a".into(), 3), ("b".into(), 21)]));
        assert_eq!(seat(&memory), Ok(SEAT));
    }

    #[test]
    fn a_new_version_finds_its_counters_by_name() {
        let memory = region();
        attach(&memory, &["a", "b", "c"]).mirror([1, 2, 3].into_iter());
        attach(&memory, &["c", "new", "a"]).mirror([10, 10, 10].into_iter());
        assert_eq!(read(&memory), Ok(vec![("c".into(), 13), ("new".into(), 10), ("a".into(), 11)]));
    }

    #[test]
    fn another_seats_region_starts_afresh() {
        let memory = region();
        attach(&memory, &["a"]).mirror([7].into_iter());
        let other = Seat::new(Role::Netd, 0);
        Table::attach(memory.clone(), other, ["a"].into_iter());
        assert_eq!(read(&memory), Ok(vec![("a".into(), 0)]));
        assert_eq!(seat(&memory), Ok(other));
    }

    #[test]
    fn what_a_wild_owner_wrote_is_read_all_the_same() {
        let memory = region();
        attach(&memory, &["a"]);
        memory.store_u32(COUNT_AT, u32::MAX, Ordering::Relaxed);
        memory.write(NAMES_AT, &[0xff; 3 * NAME_MAX]);
        let counters = read(&memory).expect("the layout is known");
        assert_eq!((counters.len(), counters[2].0.as_str()), (COUNTERS_MAX, "?".repeat(NAME_MAX).as_str()));
    }
}
