//! The flight recorder: the last events of a seat's daemons, kept across their deaths.
//!
//! A ring of [`EVENTS`] fixed places in the seat's statistics region ([`crate::stats`]). The daemon
//! records what is rare and tells: attached, introduced, a peer broke a rule. Never a frame.
//! `netctl crash` reads it while the daemon is dead. [`breadcrumb`] says what it was working on.
//!
//! An event is whole or not there: its number is cleared first and stored last.

pub mod breadcrumb;

pub(crate) use breadcrumb::DEATHS_SIZE;
pub use breadcrumb::{Breadcrumb, Crumb, Death, Poison, Work, deaths};

use crate::id::Seat;
use crate::shm::Memory;
use crate::stats::{EVENTS_AT, NEXT_EVENT_AT, REGION_SIZE, UnknownLayout, claim, seat, text};
use crate::time::Instant;
use core::sync::atomic::Ordering;

/// Events that the recorder holds.
pub const EVENTS: u64 = 512;
/// Bytes of an event.
pub const EVENT_SIZE: usize = 128;
/// The longest text of an event in bytes; the rest is cut off.
pub const TEXT_MAX: usize = 88;

const TIME_AT: usize = 8;
const ARGS_AT: usize = 16;
const TEXT_AT: usize = 40;
const _: () = assert!(TEXT_AT + TEXT_MAX == EVENT_SIZE);

/// What kind of event it is. Numbers below 256 mean the same in every daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Kind(pub u16);

macro_rules! kinds {
    ($($(#[$doc:meta])+ $name:ident = $number:literal $text:literal,)*) => {
        impl Kind {
            $($(#[$doc])+ pub const $name: Kind = Kind($number);)*

            /// Its name; `event` for a daemon's own kinds, whose text tells.
            pub const fn name(self) -> &'static str {
                match self.0 { $($number => $text,)* _ => "event" }
            }
        }
    };
}

kinds! {
    /// An incarnation has attached. Arguments: generation, pid.
    ATTACHED = 1 "attached",
    /// It is in service.
    READY = 2 "ready",
    /// A peer was introduced. Arguments: role and index, generation.
    INTRODUCED = 3 "introduced",
    /// A peer is gone. Arguments: role and index, generation.
    PEER_GONE = 4 "peer_gone",
    /// A peer or client broke a rule; the text names it. Arguments: who.
    CORRUPT = 5 "corrupt",
    /// A peer stands still. Arguments: role and index, generation, milliseconds.
    STUCK = 6 "stuck",
    /// An abnormal death is taken into account. Arguments: kind of work, its digest, flow digest.
    DIED = 7 "died",
    /// Something is dropped from now on because it killed the daemon. Arguments as `DIED`.
    POISON = 8 "poison",
    /// Another supervisor has taken over.
    TAKE_OVER = 9 "take_over",
    /// The daemon was told to finish.
    STOP = 10 "stop",
    /// The daemon panicked; the text is where.
    PANIC = 11 "panic",
    /// The link changed. Arguments: 1 when it is up.
    LINK = 12 "link",
    /// An error of the operating system; the text says of what. Arguments: errno.
    OS_ERROR = 13 "os_error",
}

/// An event as it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// When it happened.
    pub time: Instant,
    /// What happened.
    pub kind: Kind,
    /// Numbers that go with it.
    pub args: [u64; 3],
    /// Text that goes with it.
    pub text: String,
}

/// The owner's end of the recorder.
#[derive(Debug)]
pub struct Recorder<M> {
    memory: M,
    /// Number of the next event.
    next: u64,
}

const fn event_at(number: u64) -> usize {
    EVENTS_AT + (number % EVENTS) as usize * EVENT_SIZE
}

/// What stands in an event's first word: its number, never 0, and its kind.
const fn head(number: u64, kind: Kind) -> u64 {
    (number + 1) << 16 | kind.0 as u64
}

impl<M: Memory> Recorder<M> {
    /// Takes over `seat`'s region and goes on behind the last event.
    ///
    /// # Panics
    /// When the region is too small.
    pub fn attach(memory: M, seat: Seat) -> Self {
        assert!(memory.size() >= REGION_SIZE, "a region too small for statistics");
        claim(&memory, seat);
        let mut next = memory.load_u64(NEXT_EVENT_AT, Ordering::Relaxed) % (1 << 47);
        // Its writer may have died between the event and the count.
        if memory.load_u64(event_at(next), Ordering::Relaxed) >> 16 == next + 1 {
            next += 1;
        }
        Recorder { memory, next }
    }

    /// Records an event.
    pub fn record(&mut self, now: Instant, kind: Kind, args: [u64; 3], text: &str) {
        let at = event_at(self.next);
        self.memory.store_u64(at, 0, Ordering::Relaxed);
        // Release: who sees any of the new event sees the number cleared.
        self.memory.store_u64(at + TIME_AT, now.nanos(), Ordering::Release);
        for (n, arg) in args.into_iter().enumerate() {
            self.memory.store_u64(at + ARGS_AT + n * 8, arg, Ordering::Release);
        }
        let mut padded = [0; TEXT_MAX];
        let len = text.len().min(TEXT_MAX);
        padded[..len].copy_from_slice(&text.as_bytes()[..len]);
        self.memory.write(at + TEXT_AT, &padded);
        // Release: pairs with the Acquire load in `events`; the event before it is whole.
        self.memory.store_u64(at, head(self.next, kind), Ordering::Release);
        self.next += 1;
        self.memory.store_u64(NEXT_EVENT_AT, self.next, Ordering::Release);
    }
}

/// The events of a region, oldest first. One that is being written is left out.
///
/// # Errors
/// [`UnknownLayout`] when no daemon of this version has written the region.
pub fn events<M: Memory>(memory: &M) -> Result<Vec<Event>, UnknownLayout> {
    seat(memory)?;
    let next = memory.load_u64(NEXT_EVENT_AT, Ordering::Acquire) % (1 << 47);
    // One more than the count says: its writer may have died in between.
    let first = (next + 1).saturating_sub(EVENTS);
    Ok((first..=next).filter_map(|number| read_event(memory, number)).collect())
}

fn read_event<M: Memory>(memory: &M, number: u64) -> Option<Event> {
    let at = event_at(number);
    // Acquire: pairs with the Release store in `record`.
    let before = memory.load_u64(at, Ordering::Acquire);
    let args = [0, 8, 16].map(|n| memory.load_u64(at + ARGS_AT + n, Ordering::Acquire));
    let time = Instant::from_nanos(memory.load_u64(at + TIME_AT, Ordering::Acquire));
    let mut padded = [0; TEXT_MAX];
    memory.read(at + TEXT_AT, &mut padded);
    memory.full_fence();
    let kind = Kind(before as u16);
    let whole = before == head(number, kind) && memory.load_u64(at, Ordering::Acquire) == before;
    whole.then(|| Event { time, kind, args, text: text(&padded) })
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::id::Role;
    use crate::shm::heap::HeapMemory;
    use std::rc::Rc;

    const SEAT: Seat = Seat::new(Role::Netd, 0);

    fn args(memory: &Rc<HeapMemory>) -> Vec<u64> {
        events(memory).expect("a known layout").iter().map(|event| event.args[0]).collect()
    }

    #[test]
    fn the_last_events_survive_their_writer() {
        let memory = Rc::new(HeapMemory::new(REGION_SIZE));
        assert_eq!(events(&memory), Err(UnknownLayout));
        let mut recorder = Recorder::attach(memory.clone(), SEAT);
        for n in 0..EVENTS + 10 {
            recorder.record(
                Instant::from_nanos(n),
                Kind::CORRUPT,
                [n, 1, 2],
                &"longer than its room ".repeat(5),
            );
        }
        assert_eq!(args(&memory), (11..EVENTS + 10).collect::<Vec<_>>());
        let mut recorder = Recorder::attach(memory.clone(), SEAT);
        recorder.record(Instant::from_nanos(9), Kind::ATTACHED, [99, 0, 0], "");
        let last = events(&memory).expect("a known layout").pop().expect("an event");
        assert_eq!((last.kind.name(), last.args[0], last.time.nanos()), ("attached", 99, 9));
        let before = &events(&memory).expect("a known layout")[EVENTS as usize - 3];
        assert_eq!(before.text, "longer than its room ".repeat(5)[..TEXT_MAX].trim_end());
    }

    #[test]
    fn a_death_inside_an_event_loses_no_other() {
        let memory = Rc::new(HeapMemory::new(REGION_SIZE));
        let mut recorder = Recorder::attach(memory.clone(), SEAT);
        for n in 0..3 {
            recorder.record(Instant::ZERO, Kind::READY, [n, 0, 0], "");
        }
        // The event was stored, the count was not.
        memory.store_u64(NEXT_EVENT_AT, 2, Ordering::Relaxed);
        assert_eq!(args(&memory), [0, 1, 2]);
        let mut recorder = Recorder::attach(memory.clone(), SEAT);
        recorder.record(Instant::ZERO, Kind::READY, [3, 0, 0], "");
        assert_eq!(args(&memory), [0, 1, 2, 3]);
        // The number was cleared, the event not finished.
        memory.store_u64(event_at(1), 0, Ordering::Relaxed);
        assert_eq!(args(&memory), [0, 2, 3]);
    }
}
