//! What a daemon is working on, for its successor (INV-T8).
//!
//! Before each frame, command, timer and each connection being recovered, the daemon stores a
//! breadcrumb: the kind of work, its digest and the digest of its flow; afterwards it clears it. A
//! successor of one that ended abnormally finds the crumb and counts the death. Two deaths on one
//! digest: that work is dropped from then on. A third in the same flow: the flow is quarantined.
//! So a frame that kills the daemon does so at most three times, also when the next one of its flow
//! differs in a sequence number. Deaths from outside (SIGKILL) say nothing and are not counted.
//!
//! Written by the daemon alone, in its seat's statistics region. The digests are the daemon's
//! affair; the kinds keep them apart.

use crate::control::messages::Ended;
use crate::id::Seat;
use crate::shm::Memory;
use crate::stats::{CRUMB_AT, DEATHS_AT, REGION_SIZE, UnknownLayout, claim, seat};
use core::sync::atomic::Ordering;

/// Flows whose deaths are remembered; the one longest ago is forgotten first.
const DEATHS: usize = 8;
const DEATH_SIZE: usize = 48;
pub(crate) const DEATHS_SIZE: usize = DEATHS * DEATH_SIZE;

/// Abnormal deaths on one digest, after which that work is dropped (INV-T8).
const PIECE_DEATHS_MAX: u64 = 2;
/// Abnormal deaths in one flow, after which it is quarantined (INV-T8).
const FLOW_DEATHS_MAX: u64 = 3;

/// What kind of work a crumb stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u64)]
pub enum Work {
    /// A frame from the wire.
    Frame = 1,
    /// A command of a peer or client.
    Command = 2,
    /// A timer.
    Timer = 3,
    /// A record that is read back.
    Recovery = 4,
}

impl Work {
    const ALL: [Work; 4] = [Work::Frame, Work::Command, Work::Timer, Work::Recovery];

    /// The name that `netctl crash` shows.
    pub const fn name(self) -> &'static str {
        match self {
            Work::Frame => "frame",
            Work::Command => "command",
            Work::Timer => "timer",
            Work::Recovery => "recovery",
        }
    }

    fn from_word(word: u64) -> Option<Work> {
        Work::ALL.into_iter().find(|&work| work as u64 == word)
    }
}

/// A piece of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Crumb {
    /// Its kind.
    pub work: Work,
    /// Digest that the same piece of work has again: of flow and header, or a command's position.
    pub piece: u64,
    /// Digest of the flow it belongs to; 0 when it belongs to none.
    pub flow: u64,
}

/// Abnormal deaths that were counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Death {
    /// What the daemon was working on the last time.
    pub crumb: Crumb,
    /// How often it died on that very piece.
    pub piece_deaths: u64,
    /// How often it died in that flow.
    pub flow_deaths: u64,
    /// Counts up with each death; the largest is the latest.
    order: u64,
}

impl Death {
    fn load<M: Memory>(memory: &M, n: usize) -> Option<Death> {
        let at = DEATHS_AT + n * DEATH_SIZE;
        let [work, piece, flow, piece_deaths, flow_deaths, order] =
            core::array::from_fn(|word| memory.load_u64(at + word * 8, Ordering::Relaxed));
        let crumb = Crumb { work: Work::from_word(work)?, piece, flow };
        Some(Death { crumb, piece_deaths, flow_deaths, order })
    }

    fn store<M: Memory>(&self, memory: &M, n: usize) {
        let at = DEATHS_AT + n * DEATH_SIZE;
        let words = [self.crumb.piece, self.crumb.flow, self.piece_deaths, self.flow_deaths, self.order];
        memory.store_u64(at, 0, Ordering::Relaxed);
        for (i, word) in words.into_iter().enumerate() {
            memory.store_u64(at + 8 + i * 8, word, Ordering::Release);
        }
        memory.store_u64(at, self.crumb.work as u64, Ordering::Release);
    }

    /// Whether the next death counts together with this one.
    fn is_of(&self, crumb: &Crumb) -> bool {
        match crumb.flow {
            0 => self.crumb == *crumb,
            flow => self.crumb.flow == flow,
        }
    }
}

/// What an incarnation must not touch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Poison {
    deaths: Vec<Death>,
}

impl Poison {
    /// Whether there is nothing to look for: true but after abnormal deaths.
    pub fn is_empty(&self) -> bool {
        self.deaths.is_empty()
    }

    /// Whether this piece of work is to be dropped.
    pub fn drops(&self, crumb: &Crumb) -> bool {
        self.deaths.iter().any(|death| {
            let piece = death.piece_deaths >= PIECE_DEATHS_MAX && death.crumb == *crumb;
            piece || (crumb.flow == death.crumb.flow && death.quarantined())
        })
    }

    /// The quarantined flows.
    pub fn flows(&self) -> impl Iterator<Item = u64> + '_ {
        self.deaths.iter().filter(|death| death.quarantined()).map(|death| death.crumb.flow)
    }
}

impl Death {
    fn quarantined(&self) -> bool {
        self.crumb.flow != 0 && self.flow_deaths >= FLOW_DEATHS_MAX
    }
}

/// The owner's end of the breadcrumb.
#[derive(Debug)]
pub struct Breadcrumb<M> {
    memory: M,
}

/// What attaching found.
#[derive(Debug)]
pub struct Attached<M> {
    /// To be laid before each piece of work.
    pub breadcrumb: Breadcrumb<M>,
    /// What to drop.
    pub poison: Poison,
    /// What the predecessor died on, when that counted.
    pub died_on: Option<Crumb>,
}

impl<M: Memory> Breadcrumb<M> {
    /// Takes over `seat`'s region: counts the death of the predecessor if it was abnormal and there
    /// is a crumb of it. `ended` is how the predecessor ended, if there was one.
    ///
    /// # Panics
    /// When the region is too small.
    pub fn attach(memory: M, seat: Seat, ended: Option<Ended>) -> Attached<M> {
        assert!(memory.size() >= REGION_SIZE, "a region too small for statistics");
        claim(&memory, seat);
        let mut breadcrumb = Breadcrumb { memory };
        let abnormal = ended.is_some_and(|ended| !ended.from_outside());
        let died_on = breadcrumb.load().filter(|_| abnormal);
        if let Some(crumb) = died_on {
            breadcrumb.count(crumb);
        }
        breadcrumb.clear();
        let mut deaths: Vec<Death> = (0..DEATHS).filter_map(|n| Death::load(&breadcrumb.memory, n)).collect();
        deaths.retain(|death| death.piece_deaths >= PIECE_DEATHS_MAX || death.quarantined());
        Attached { breadcrumb, poison: Poison { deaths }, died_on }
    }

    fn count(&self, crumb: Crumb) {
        let known: [Option<Death>; DEATHS] = core::array::from_fn(|n| Death::load(&self.memory, n));
        let order = known.iter().flatten().map(|death| death.order).max().unwrap_or(0).wrapping_add(1);
        let same = known.iter().position(|death| death.is_some_and(|death| death.is_of(&crumb)));
        let oldest = (0..DEATHS).min_by_key(|&n| known[n].map_or(0, |death| death.order)).unwrap_or(0);
        let mut death = Death { crumb, piece_deaths: 1, flow_deaths: 1, order };
        if let Some(before) = same.and_then(|n| known[n]) {
            death.flow_deaths = before.flow_deaths.saturating_add(1);
            if before.crumb == crumb {
                death.piece_deaths = before.piece_deaths.saturating_add(1);
            }
        }
        death.store(&self.memory, same.unwrap_or(oldest));
    }

    fn load(&self) -> Option<Crumb> {
        let [work, piece, flow] =
            [0, 8, 16].map(|word| self.memory.load_u64(CRUMB_AT + word, Ordering::Relaxed));
        Some(Crumb { work: Work::from_word(work)?, piece, flow })
    }

    /// This comes next. A few plain stores.
    pub fn lay(&mut self, crumb: Crumb) {
        self.clear();
        self.memory.store_u64(CRUMB_AT + 8, crumb.piece, Ordering::Relaxed);
        self.memory.store_u64(CRUMB_AT + 16, crumb.flow, Ordering::Relaxed);
        self.memory.store_u64(CRUMB_AT, crumb.work as u64, Ordering::Relaxed);
    }

    /// It is done.
    pub fn clear(&mut self) {
        self.memory.store_u64(CRUMB_AT, 0, Ordering::Relaxed);
    }
}

/// The deaths remembered in a region, the latest first.
///
/// # Errors
/// [`UnknownLayout`] when no daemon of this version has written the region.
pub fn deaths<M: Memory>(memory: &M) -> Result<Vec<Death>, UnknownLayout> {
    seat(memory)?;
    let mut deaths: Vec<Death> = (0..DEATHS).filter_map(|n| Death::load(memory, n)).collect();
    deaths.sort_by_key(|death| core::cmp::Reverse(death.order));
    Ok(deaths)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::id::Role;
    use crate::shm::heap::HeapMemory;
    use std::rc::Rc;

    const SEAT: Seat = Seat::new(Role::Netd, 0);
    const ABORT: Option<Ended> = Some(Ended::Signal(6));
    const KILLED: Option<Ended> = Some(Ended::Signal(9));

    fn frame(piece: u64, flow: u64) -> Crumb {
        Crumb { work: Work::Frame, piece, flow }
    }

    struct Life(Rc<HeapMemory>);

    impl Life {
        fn new() -> Life {
            let life = Life(Rc::new(HeapMemory::new(REGION_SIZE)));
            assert!(life.after(None).is_empty());
            life
        }

        fn after(&self, ended: Option<Ended>) -> Poison {
            Breadcrumb::attach(self.0.clone(), SEAT, ended).poison
        }

        /// An incarnation dies on `crumb`; what the next one must not touch.
        fn dies_on(&self, crumb: Crumb, ended: Option<Ended>) -> Poison {
            Breadcrumb { memory: self.0.clone() }.lay(crumb);
            self.after(ended)
        }
    }

    #[test]
    fn twice_on_one_digest_drops_it_and_a_third_death_its_flow() {
        let life = Life::new();
        assert!(life.dies_on(frame(1, 7), ABORT).is_empty());
        let poison = life.dies_on(frame(1, 7), ABORT);
        assert!(poison.drops(&frame(1, 7)));
        assert!(!poison.drops(&frame(2, 7)), "the flow goes on");
        assert!(!poison.drops(&Crumb { work: Work::Timer, ..frame(1, 7) }));
        let poison = life.dies_on(frame(2, 7), ABORT);
        assert!(poison.drops(&frame(2, 7)) && poison.drops(&frame(9, 7)) && !poison.drops(&frame(9, 8)));
        assert_eq!(poison.flows().collect::<Vec<_>>(), [7]);
        assert_eq!(life.after(None), poison, "remembered");
    }

    #[test]
    fn deaths_from_outside_and_outside_of_work_do_not_count() {
        let life = Life::new();
        for _ in 0..5 {
            assert!(life.dies_on(frame(1, 7), KILLED).is_empty());
            assert!(life.after(ABORT).is_empty(), "the crumb was cleared");
        }
        let mut attached = Breadcrumb::attach(life.0.clone(), SEAT, None);
        for _ in 0..5 {
            attached.breadcrumb.lay(frame(1, 7));
            attached.breadcrumb.clear();
            attached = Breadcrumb::attach(life.0.clone(), SEAT, ABORT);
            assert!(attached.poison.is_empty() && attached.died_on.is_none());
        }
    }

    #[test]
    fn work_without_a_flow_is_dropped_by_its_digest_only() {
        let life = Life::new();
        for _ in 0..4 {
            life.dies_on(Crumb { work: Work::Command, piece: 5, flow: 0 }, ABORT);
        }
        let poison = life.after(None);
        assert!(poison.drops(&Crumb { work: Work::Command, piece: 5, flow: 0 }));
        assert!(!poison.drops(&Crumb { work: Work::Command, piece: 6, flow: 0 }));
        assert_eq!(poison.flows().count(), 0);
    }

    #[test]
    fn other_deaths_do_not_make_it_forget_until_its_places_are_used_up() {
        let life = Life::new();
        for _ in 0..3 {
            life.dies_on(frame(1, 7), ABORT);
        }
        for n in 0..DEATHS as u64 - 1 {
            let poison = life.dies_on(frame(n + 100, n + 100), ABORT);
            assert!(poison.drops(&frame(50, 7)));
        }
        assert!(!life.dies_on(frame(1000, 1000), ABORT).drops(&frame(50, 7)));
        assert_eq!(deaths(&life.0).expect("a known layout")[0].crumb, frame(1000, 1000));
    }
}
