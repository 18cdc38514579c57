//! The neighbours of a netd, in its region: for people, and for its successor, which need not ask for
//! link addresses that were known a moment ago.
//!
//! Written by the daemon when something has changed and it has time; each entry carries a check, so that
//! one of which only a part was written is none. A successor takes what it finds for a hint: an entry that
//! was usable begins as stale (RFC 4861 §7.3.3), is used at once and confirmed or asked again.

use super::{NEIGHBOURS_AT, REGION_SIZE, UnknownLayout, claim, seat};
use crate::cell::mix;
use crate::hard::config::Mac;
use crate::id::Seat;
use crate::shm::Memory;
use crate::time::Instant;
use core::net::{IpAddr, Ipv6Addr};
use core::sync::atomic::Ordering;
use core::time::Duration;

/// The most neighbours that are shown.
pub const NEIGHBOURS_MAX: usize = 128;

const WORDS: usize = 6;
const ENTRY_SIZE: usize = WORDS * 8;
/// Bytes of all entries.
pub(super) const SIZE: usize = NEIGHBOURS_MAX * ENTRY_SIZE;

/// The states of RFC 4861 §7.3.2, and Linux's two more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NeighbourState {
    /// Asked, no answer yet.
    Incomplete,
    /// Confirmed a short time ago.
    Reachable,
    /// Known, not confirmed lately, not sent to since.
    Stale,
    /// Known, and just sent to: a confirmation may come by itself.
    Delay,
    /// Known, and being asked whether it is still there.
    Probe,
    /// Did not answer.
    Failed,
    /// Set by the administrator.
    Permanent,
}

use NeighbourState::{Delay, Failed, Incomplete, Permanent, Probe, Reachable, Stale};

/// States in the order of their numbers in the region.
const STATES: [NeighbourState; 7] = [Incomplete, Reachable, Stale, Delay, Probe, Failed, Permanent];

impl NeighbourState {
    /// The word that `ip neigh` uses.
    pub const fn name(self) -> &'static str {
        match self {
            Incomplete => "INCOMPLETE",
            Reachable => "REACHABLE",
            Stale => "STALE",
            Delay => "DELAY",
            Probe => "PROBE",
            Failed => "FAILED",
            Permanent => "PERMANENT",
        }
    }

    /// Whether there is a link address to send to.
    pub const fn has_mac(self) -> bool {
        !matches!(self, Incomplete | Failed)
    }
}

/// A neighbour as it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown {
    /// The interface on whose link it is.
    pub nic: u16,
    /// Its address.
    pub addr: IpAddr,
    /// Its link address; zero where none is known.
    pub mac: Mac,
    /// Its state when it was written.
    pub state: NeighbourState,
    /// The host has sent to it.
    pub used: bool,
    /// When it was last known to be there.
    pub confirmed: Instant,
    /// How long a confirmation counts, in whole milliseconds.
    pub reachable_for: Duration,
}

impl Shown {
    /// The state at `now`: what was reachable is stale after its time.
    pub fn state_at(&self, now: Instant) -> NeighbourState {
        match self.state {
            Reachable if now.since(self.confirmed) >= self.reachable_for => Stale,
            state => state,
        }
    }

    fn to_words(self) -> [u64; WORDS] {
        let addr = match self.addr {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        let addr = u128::from_be_bytes(addr.octets());
        let mut mac = [0; 8];
        mac[..6].copy_from_slice(&self.mac);
        let state = STATES.iter().position(|&state| state == self.state).unwrap_or_default() as u64;
        let reachable = u32::try_from(self.reachable_for.as_millis()).unwrap_or(u32::MAX);
        let mut words = [
            (addr >> 64) as u64,
            addr as u64,
            u64::from_le_bytes(mac) | u64::from(self.nic) << 48,
            state | u64::from(self.used) << 8 | u64::from(reachable) << 32,
            self.confirmed.nanos(),
            0,
        ];
        words[WORDS - 1] = check(&words);
        words
    }

    fn from_words(words: &[u64; WORDS]) -> Option<Shown> {
        if words[WORDS - 1] != check(words) {
            return None;
        }
        let addr = Ipv6Addr::from(u128::from(words[0]) << 64 | u128::from(words[1]));
        let mac = words[2].to_le_bytes();
        Some(Shown {
            nic: (words[2] >> 48) as u16,
            addr: addr.to_ipv4_mapped().map_or(IpAddr::V6(addr), IpAddr::V4),
            mac: [mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]],
            state: *STATES.get((words[3] & 0xff) as usize)?,
            used: words[3] >> 8 & 1 == 1,
            confirmed: Instant::from_nanos(words[4]),
            reachable_for: Duration::from_millis(words[3] >> 32),
        })
    }
}

/// The check of an entry; never 0, which an empty entry has.
fn check(words: &[u64; WORDS]) -> u64 {
    words[..WORDS - 1].iter().fold(0, |hash, word| mix(hash, *word)) | 1
}

const fn entry_at(n: usize) -> usize {
    NEIGHBOURS_AT + n * ENTRY_SIZE
}

/// The owner's end.
#[derive(Debug)]
pub struct Board<M> {
    memory: M,
    /// What stands there, to store only what has changed.
    shown: Vec<Option<Shown>>,
}

impl<M: Memory> Board<M> {
    /// Takes over `seat`'s entries; [`Board::shown`] says what its predecessor left.
    ///
    /// # Panics
    /// When the region is too small.
    pub fn attach(memory: M, seat: Seat) -> Self {
        assert!(memory.size() >= REGION_SIZE, "a region too small for statistics");
        claim(&memory, seat);
        let shown = (0..NEIGHBOURS_MAX).map(|n| load(&memory, n)).collect();
        Board { memory, shown }
    }

    /// What is shown.
    pub fn shown(&self) -> impl Iterator<Item = &Shown> {
        self.shown.iter().flatten()
    }

    /// Shows these, the first [`NEIGHBOURS_MAX`] of them, and nothing else.
    pub fn show(&mut self, neighbours: impl Iterator<Item = Shown>) {
        let all = neighbours.map(Some).chain(core::iter::repeat(None));
        for ((n, before), now) in self.shown.iter_mut().enumerate().zip(all) {
            if *before == now {
                continue;
            }
            *before = now;
            let words = now.map_or([0; WORDS], Shown::to_words);
            let store = |word: usize, value, order| {
                self.memory.store_u64(entry_at(n) + word * 8, value, order);
            };
            // Invalid while it is written: a reader, or a successor, takes a whole entry or none.
            store(WORDS - 1, 0, Ordering::Release);
            (0..WORDS - 1).for_each(|word| store(word, words[word], Ordering::Relaxed));
            store(WORDS - 1, words[WORDS - 1], Ordering::Release);
        }
    }
}

fn load<M: Memory>(memory: &M, n: usize) -> Option<Shown> {
    let mut words = [0; WORDS];
    // The check first: one that changes meanwhile does not fit what is read after it.
    for word in (0..WORDS).rev() {
        words[word] = memory.load_u64(entry_at(n) + word * 8, Ordering::Acquire);
    }
    Shown::from_words(&words)
}

/// The neighbours in a region.
///
/// # Errors
/// [`UnknownLayout`] as [`seat`].
pub fn read<M: Memory>(memory: &M) -> Result<Vec<Shown>, UnknownLayout> {
    seat(memory)?;
    Ok((0..NEIGHBOURS_MAX).filter_map(|n| load(memory, n)).collect())
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::id::Role;
    use crate::shm::heap::HeapMemory;
    use core::net::Ipv4Addr;
    use std::rc::Rc;

    const SEAT: Seat = Seat::new(Role::Netd, 0);

    fn neighbour(n: u8, state: NeighbourState) -> Shown {
        Shown {
            nic: u16::from(n % 3),
            addr: match n % 2 {
                0 => IpAddr::V4(Ipv4Addr::new(10, 0, 0, n)),
                _ => IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, n.into())),
            },
            mac: [2, 0, 0, 0, 0, n],
            state,
            used: n.is_multiple_of(5),
            confirmed: Instant::from_millis(n.into()),
            reachable_for: Duration::from_secs(30),
        }
    }

    #[test]
    fn a_successor_finds_what_was_shown() {
        let memory = Rc::new(HeapMemory::new(REGION_SIZE));
        assert_eq!(read(&memory), Err(UnknownLayout));
        let mut board = Board::attach(memory.clone(), SEAT);
        assert_eq!(board.shown().count(), 0);
        let many: Vec<Shown> =
            (0..200).map(|n| neighbour(n, STATES[usize::from(n) % STATES.len()])).collect();
        board.show(many.iter().copied());
        assert_eq!(read(&memory), Ok(many[..NEIGHBOURS_MAX].to_vec()));
        let mut next = Board::attach(memory.clone(), SEAT);
        assert!(next.shown().eq(&many[..NEIGHBOURS_MAX]));
        next.show(many[7..9].iter().copied());
        assert_eq!(read(&memory), Ok(many[7..9].to_vec()));
    }

    #[test]
    fn a_part_of_an_entry_is_none() {
        let memory = Rc::new(HeapMemory::new(REGION_SIZE));
        Board::attach(memory.clone(), SEAT).show([neighbour(1, Reachable), neighbour(2, Stale)].into_iter());
        for word in 0..WORDS {
            let at = entry_at(0) + word * 8;
            let right = memory.load_u64(at, Ordering::Relaxed);
            memory.store_u64(at, right ^ 1 << 9, Ordering::Relaxed);
            assert_eq!(read(&memory), Ok(vec![neighbour(2, Stale)]), "word {word}");
            memory.store_u64(at, right, Ordering::Relaxed);
        }
    }

    #[test]
    fn what_was_reachable_is_stale_after_its_time() {
        let shown = neighbour(4, Reachable);
        assert_eq!(shown.state_at(Instant::from_millis(30_003)), Reachable);
        assert_eq!(shown.state_at(Instant::from_millis(30_004)), Stale);
    }
}
