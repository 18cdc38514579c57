//! A hierarchical timing wheel: one deadline for each handle, however many handles there are.
//!
//! Owned by whoever has many timers (a shard's connections, a neighbour table), driven by the time that is
//! passed in. Eight levels of 64 slots; a level's slot is 64 times as long as one of the level below.
//!
//! ```text
//!  level 0   | 64 slots of 1 tick    |   deadlines in the same 64 ticks as now
//!  level 1   | 64 slots of 64 ticks  |   … in the same 64² ticks, but not the same 64
//!  …
//!  level 7   |                       |   up to 2^48 ticks: all that an Instant can say
//! ```
//!
//! A timer's level is the highest of the base-64 digits in which its deadline differs from now. So every
//! timer of a level comes before every timer of the levels above; when time enters a slot of a higher
//! level, its timers are sorted into the levels below. Arming, moving and cancelling take constant time; a
//! timer is moved down at most seven times in its life, and most are cancelled before.
//!
//! Invariants: a timer never fires before its deadline; one that is due fires with the first advance at or
//! after it, in the order of ticks; there is no tick: between two deadlines nothing needs to be called. Not
//! here: what a handle means, and any clock.

use proto::Instant;

/// A tick is 2^16 ns, 65.5 µs: finer than the 1 ms that protocol timers need and fine enough for pacing.
const TICK_SHIFT: u32 = 16;
/// 64 slots a level: their occupancy is one word.
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
/// Eight levels of 6 bits cover the 48 bits that an instant has in ticks.
const LEVELS: usize = 8;
const TICK_MAX: u64 = (1 << (SLOT_BITS * LEVELS as u32)) - 1;
/// The list of timers that were armed for a time already past.
const DUE: u16 = (LEVELS * SLOTS) as u16;
const LISTS: usize = LEVELS * SLOTS + 1;
/// In place of a handle: nobody.
const NIL: u32 = u32::MAX;
/// In place of a list: not armed.
const UNARMED: u16 = u16::MAX;
/// Handles per chunk: 24 KiB at a time, an allocation without a stall.
const CHUNK: usize = 1024;
/// The most timers of one slot that [`TimerWheel::next_deadline`] looks at to be exact; where there are
/// more, the start of the slot is the answer, and the wake-up sorts them.
const EXACT_MAX: usize = 16;

#[derive(Debug, Clone, Copy)]
struct Node {
    /// The tick at which it is due.
    tick: u64,
    prev: u32,
    next: u32,
    /// Which list it is in.
    list: u16,
}

impl Node {
    const EMPTY: Node = Node { tick: 0, prev: NIL, next: NIL, list: UNARMED };
}

/// One deadline per handle.
#[derive(Debug)]
pub struct TimerWheel {
    /// Everything up to this tick has fired, or is in [`DUE`].
    elapsed: u64,
    /// Which slots of a level hold timers.
    occupied: [u64; LEVELS],
    /// First timer of each list; its `prev` is the last.
    heads: Box<[u32; LISTS]>,
    nodes: Vec<Box<[Node; CHUNK]>>,
    armed: usize,
}

impl TimerWheel {
    /// No timer; time begins at `now`.
    pub fn new(now: Instant) -> TimerWheel {
        TimerWheel {
            elapsed: floor(now),
            occupied: [0; LEVELS],
            heads: Box::new([NIL; LISTS]),
            nodes: Vec::new(),
            armed: 0,
        }
    }

    /// Makes room for the handles below `handles`, so that arming them allocates nothing. Handles beyond
    /// it may be armed too, at the cost of an allocation of 24 KiB for each thousand.
    pub fn reserve(&mut self, handles: u32) {
        while self.nodes.len() * CHUNK < handles as usize {
            self.nodes.push(Box::new([Node::EMPTY; CHUNK]));
        }
    }

    /// How many timers are armed.
    pub const fn len(&self) -> usize {
        self.armed
    }

    /// True when no timer is armed.
    pub const fn is_empty(&self) -> bool {
        self.armed == 0
    }

    /// Whether `handle` is armed.
    pub fn is_armed(&self, handle: u32) -> bool {
        self.list_of(handle) != UNARMED
    }

    /// Arms `handle` for `deadline`, rounded up to a tick; where it is armed already, moves it. A deadline
    /// in the past is due at once.
    ///
    /// # Panics
    /// For the handle `u32::MAX`.
    pub fn arm(&mut self, handle: u32, deadline: Instant) {
        assert!(handle != NIL, "a handle below u32::MAX");
        self.reserve(handle + 1);
        let tick = ceil(deadline);
        let list = self.list_for(tick);
        let node = self.node_mut(handle);
        let was = node.list;
        node.tick = tick;
        if was == list {
            return;
        }
        if was == UNARMED {
            self.armed += 1;
        } else {
            self.unlink(handle);
        }
        self.link(handle, list);
    }

    /// Disarms `handle`; returns whether it was armed.
    pub fn cancel(&mut self, handle: u32) -> bool {
        if !self.is_armed(handle) {
            return false;
        }
        self.unlink(handle);
        self.armed -= 1;
        true
    }

    /// When to call [`advance`](TimerWheel::advance) or [`pop`](TimerWheel::pop) next: never later than the
    /// next timer is due, and exactly then unless very many share its slot (in which case that call sorts
    /// them and the next answer is closer). `None` without timers.
    pub fn next_deadline(&self) -> Option<Instant> {
        if self.heads[usize::from(DUE)] != NIL {
            return Some(instant(self.elapsed));
        }
        let (list, start) = self.first_slot()?;
        let mut earliest = u64::MAX;
        let first = self.heads[list];
        let mut handle = first;
        for _ in 0..EXACT_MAX {
            let node = self.node(handle);
            earliest = earliest.min(node.tick);
            handle = node.next;
            if handle == NIL {
                return Some(instant(earliest));
            }
        }
        Some(instant(start))
    }

    /// Fires everything due at `now`, in the order of ticks.
    pub fn advance(&mut self, now: Instant, mut fire: impl FnMut(u32)) {
        while let Some(handle) = self.pop(now) {
            fire(handle);
        }
    }

    /// One timer due at `now`, disarmed; to be called until it has none left. Between two calls timers may
    /// be armed, moved and cancelled; one that is armed for a time already past comes in the same round.
    pub fn pop(&mut self, now: Instant) -> Option<u32> {
        let now = floor(now).max(self.elapsed);
        loop {
            let due = self.heads[usize::from(DUE)];
            if due != NIL {
                self.unlink(due);
                self.armed -= 1;
                return Some(due);
            }
            let Some((list, start)) = self.first_slot().filter(|(_, start)| *start <= now) else {
                self.elapsed = now;
                return None;
            };
            // Time enters the slot: what is due at its first tick goes to DUE, the rest below.
            self.elapsed = start;
            while self.heads[list] != NIL {
                let handle = self.heads[list];
                self.unlink(handle);
                let below = self.list_for(self.node(handle).tick);
                self.link(handle, below);
            }
        }
    }

    /// The list and first tick of the earliest slot that holds timers, DUE aside.
    fn first_slot(&self) -> Option<(usize, u64)> {
        // Every timer of a level comes before all of the levels above.
        let level = self.occupied.iter().position(|slots| *slots != 0)?;
        let slot = self.occupied[level].trailing_zeros();
        let shift = SLOT_BITS * level as u32;
        let above = self.elapsed >> (shift + SLOT_BITS) << (shift + SLOT_BITS);
        Some((level * SLOTS + slot as usize, above | u64::from(slot) << shift))
    }

    /// The list where a timer due at `tick` belongs.
    fn list_for(&self, tick: u64) -> u16 {
        if tick <= self.elapsed {
            return DUE;
        }
        let level = (tick ^ self.elapsed).ilog2() / SLOT_BITS;
        let slot = (tick >> (level * SLOT_BITS)) as usize % SLOTS;
        (level as usize * SLOTS + slot) as u16
    }

    fn list_of(&self, handle: u32) -> u16 {
        self.nodes.get(handle as usize / CHUNK).map_or(UNARMED, |chunk| chunk[handle as usize % CHUNK].list)
    }

    fn node(&self, handle: u32) -> &Node {
        &self.nodes[handle as usize / CHUNK][handle as usize % CHUNK]
    }

    fn node_mut(&mut self, handle: u32) -> &mut Node {
        &mut self.nodes[handle as usize / CHUNK][handle as usize % CHUNK]
    }

    /// Appends a timer to a list.
    fn link(&mut self, handle: u32, list: u16) {
        let first = self.heads[usize::from(list)];
        let last = if first == NIL {
            self.heads[usize::from(list)] = handle;
            if list != DUE {
                self.occupied[usize::from(list) / SLOTS] |= 1 << (usize::from(list) % SLOTS);
            }
            handle
        } else {
            let last = core::mem::replace(&mut self.node_mut(first).prev, handle);
            self.node_mut(last).next = handle;
            last
        };
        let node = self.node_mut(handle);
        (node.prev, node.next, node.list) = (last, NIL, list);
    }

    /// Takes a timer out of its list.
    fn unlink(&mut self, handle: u32) {
        let Node { prev, next, list, .. } = *self.node(handle);
        let first = self.heads[usize::from(list)];
        if handle == first {
            self.heads[usize::from(list)] = next;
            if next != NIL {
                self.node_mut(next).prev = prev;
            } else if list != DUE {
                self.occupied[usize::from(list) / SLOTS] &= !(1 << (usize::from(list) % SLOTS));
            }
        } else {
            self.node_mut(prev).next = next;
            let behind = if next == NIL { first } else { next };
            self.node_mut(behind).prev = prev;
        }
        self.node_mut(handle).list = UNARMED;
    }
}

/// The tick that has begun at `at`.
const fn floor(at: Instant) -> u64 {
    at.nanos() >> TICK_SHIFT
}

/// The first tick that does not begin before `at`.
fn ceil(at: Instant) -> u64 {
    at.nanos().div_ceil(1 << TICK_SHIFT).min(TICK_MAX)
}

/// When a tick begins.
const fn instant(tick: u64) -> Instant {
    Instant::from_nanos(tick << TICK_SHIFT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::time::Duration;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    const TICK: Duration = Duration::from_nanos(1 << TICK_SHIFT);

    fn fired(wheel: &mut TimerWheel, now: Instant) -> Vec<u32> {
        let mut handles = Vec::new();
        wheel.advance(now, |handle| handles.push(handle));
        handles
    }

    #[test]
    fn never_early_and_at_most_a_tick_late() {
        let start = Instant::from_nanos(12_345_678_901);
        let mut wheel = TimerWheel::new(start);
        for micros in [1u64, 100, 1_000, 200_000, 3_600_000_000] {
            let deadline = start + Duration::from_micros(micros);
            wheel.arm(7, deadline);
            let next = wheel.next_deadline().unwrap();
            assert!(next >= deadline && next < deadline + TICK, "{micros} µs");
            assert_eq!(fired(&mut wheel, next - Duration::from_nanos(1)), []);
            assert_eq!(fired(&mut wheel, next), [7]);
            assert_eq!(wheel.next_deadline(), None);
            wheel = TimerWheel::new(start);
        }
    }

    #[test]
    fn the_ends_of_time() {
        let mut wheel = TimerWheel::new(Instant::ZERO);
        wheel.arm(0, Instant::from_nanos(u64::MAX));
        wheel.arm(1, Instant::ZERO);
        assert_eq!(wheel.next_deadline(), Some(Instant::ZERO));
        assert_eq!(fired(&mut wheel, Instant::ZERO), [1]);
        assert_eq!(fired(&mut wheel, Instant::from_nanos(u64::MAX)), [0]);
        assert!(wheel.is_empty());
        wheel.arm(2, Instant::ZERO);
        assert_eq!(fired(&mut wheel, Instant::ZERO), [2], "a clock that stands still");
    }

    #[test]
    fn rearmed_in_the_round() {
        let mut wheel = TimerWheel::new(Instant::ZERO);
        wheel.arm(1, Instant::from_millis(5));
        wheel.arm(2, Instant::from_millis(6));
        let now = Instant::from_millis(10);
        assert_eq!(wheel.pop(now), Some(1));
        assert!(!wheel.is_armed(1) && wheel.is_armed(2));
        wheel.arm(1, now + Duration::from_millis(1));
        assert!(wheel.cancel(2) && !wheel.cancel(2) && !wheel.cancel(99_999));
        assert_eq!(wheel.pop(now), None);
        assert_eq!(fired(&mut wheel, Instant::from_millis(12)), [1]);
    }

    #[test]
    fn many_in_one_slot_are_found_without_ticks() {
        let mut wheel = TimerWheel::new(Instant::ZERO);
        for handle in 0..1000u32 {
            wheel.arm(handle, Instant::from_millis(60_000 + u64::from(handle)));
        }
        let (mut wakeups, mut count) = (0, 0);
        while let Some(at) = wheel.next_deadline() {
            wakeups += 1;
            count += fired(&mut wheel, at).len();
        }
        assert_eq!(count, 1000);
        assert!(wakeups < 1000 + 100, "{wakeups} wake-ups for 1000 different deadlines");
    }

    /// A million timers cost each what one costs: all operations touch a bounded number of nodes, so this
    /// finishes at once or not at all.
    #[test]
    fn a_million_timers() {
        let mut wheel = TimerWheel::new(Instant::ZERO);
        const COUNT: u32 = 1_000_000;
        wheel.reserve(COUNT);
        let spread = |n: u32| Instant::from_nanos(u64::from(n.wrapping_mul(2_654_435_761)) * 50);
        for n in 0..COUNT {
            wheel.arm(n, spread(n));
        }
        for n in (0..COUNT).step_by(2) {
            wheel.arm(n, spread(n) + Duration::from_secs(1));
        }
        assert_eq!(wheel.len(), COUNT as usize);
        let mut last = Instant::ZERO;
        let mut count = 0;
        wheel.advance(Instant::from_millis(300_000), |n| {
            let due = if n % 2 == 0 { spread(n) + Duration::from_secs(1) } else { spread(n) };
            assert!(due + TICK > last, "out of order");
            last = due;
            count += 1;
        });
        assert_eq!(count, COUNT);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Arm(u32, u64),
        Cancel(u32),
        /// Sleep until the next deadline, or less.
        Sleep,
        Advance(u64),
    }

    fn nanos() -> impl Strategy<Value = u64> {
        // From nanoseconds to hours, each magnitude as likely.
        (0u32..44, any::<u64>()).prop_map(|(bits, value)| value & ((1 << bits) - 1))
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0u32..40, nanos()).prop_map(|(handle, after)| Step::Arm(handle, after)),
            2 => (0u32..40).prop_map(Step::Cancel),
            2 => Just(Step::Sleep),
            2 => nanos().prop_map(Step::Advance),
        ]
    }

    proptest! {
        #[test]
        fn it_is_an_ordered_map(start in nanos(), steps in prop::collection::vec(step(), 0..300)) {
            let mut now = Instant::from_nanos(start);
            let mut wheel = TimerWheel::new(now);
            // Handle to the tick at which it is due.
            let mut model: BTreeMap<u32, u64> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Arm(handle, after) => {
                        let deadline = Instant::from_nanos(now.nanos().saturating_sub(1 << 20) + after);
                        wheel.arm(handle, deadline);
                        model.insert(handle, ceil(deadline));
                    }
                    Step::Cancel(handle) => {
                        prop_assert_eq!(wheel.cancel(handle), model.remove(&handle).is_some());
                    }
                    Step::Sleep | Step::Advance(_) => {
                        now = match (&step, wheel.next_deadline()) {
                            (Step::Advance(after), _) => now + Duration::from_nanos(*after),
                            (_, Some(next)) => next.max(now),
                            (_, None) => now,
                        };
                        let handles = fired(&mut wheel, now);
                        let ticks: Vec<u64> = handles.iter().map(|h| model[h]).collect();
                        prop_assert!(ticks.iter().all(|tick| *tick <= floor(now)), "early");
                        let before: BTreeSet<u32> = handles.iter().copied().collect();
                        prop_assert_eq!(before.len(), handles.len());
                        for handle in handles {
                            model.remove(&handle);
                        }
                        prop_assert!(model.values().all(|tick| *tick > floor(now)), "late");
                    }
                }
                prop_assert_eq!(wheel.len(), model.len());
                for handle in 0..40 {
                    prop_assert_eq!(wheel.is_armed(handle), model.contains_key(&handle));
                }
                // The answer is exact while few share a slot, never late, and "at once" when something is due.
                let earliest = model.values().min().map(|tick| instant(*tick));
                match (wheel.next_deadline(), earliest) {
                    (None, None) => {}
                    (Some(next), Some(earliest)) if earliest > now => {
                        prop_assert!(next <= earliest);
                        prop_assert!(next == earliest || model.len() >= EXACT_MAX);
                    }
                    (Some(next), Some(_)) => prop_assert!(next <= now),
                    (next, earliest) => prop_assert!(false, "{next:?} instead of {earliest:?}"),
                }
            }
        }
    }
}
