//! What a daemon tells about itself: counters, flight recorder and breadcrumb, in one region a seat.
//!
//! ```text
//! ┌──────────────┬────────┬──────────┬──────────┬───────┬─────────────────────┬────────────┐
//! │layout, seat, │ bread- │ deaths   │ counters │ names │ flight recorder     │ neighbours │
//! │number of     │ crumb  │ by digest│ 256 × 8 B│ 256 × │ 1024 events of 64 B │ 128 × 48 B │
//! │counters      │        │          │          │ 40 B  │                     │            │
//! └──────────────┴────────┴──────────┴──────────┴───────┴─────────────────────┴────────────┘
//! ```
//!
//! Written by the seat's daemon alone, by plain stores; kept across its restarts; read by netctl and
//! by sockd from a read-only description while the daemon runs or is dead. The names stand beside
//! the numbers, so that a reader needs to know no daemon. Zeroed memory is a valid empty region.
//!
//! [`table`] holds the counters, [`neighbours`] those of netd; [`crate::recorder`] the rest. Nothing here
//! is read by the daemon to decide what it does, but for the deaths (INV-T8) and for neighbours, which are
//! hints.

mod names;
pub mod neighbours;
pub mod table;

pub use names::{Counts, Named};

use crate::id::{Role, Seat};
use crate::shm::Memory;
use core::sync::atomic::Ordering;
use thiserror::Error;

/// Size of a seat's region in bytes.
pub const REGION_SIZE: usize = (NEIGHBOURS_AT + neighbours::SIZE).next_multiple_of(4096);

/// The most counters that a daemon can have.
pub const COUNTERS_MAX: usize = 256;
/// The longest name of a counter in bytes.
pub const NAME_MAX: usize = 40;

/// Layout version; changes with the place or meaning of anything here and in [`crate::recorder`].
pub const VERSION: u32 = 3;
/// The first word, which tells the version. Another one is not read, and is overwritten by its owner.
const LAYOUT: u64 = u64::from_le_bytes(*b"axstat\0\0") | (VERSION as u64) << 48;

const LAYOUT_AT: usize = 0;
const SEAT_AT: usize = 8;
const COUNT_AT: usize = 16;
pub(crate) const NEXT_EVENT_AT: usize = 24;
pub(crate) const CRUMB_AT: usize = 64;
pub(crate) const DEATHS_AT: usize = 128;
const COUNTERS_AT: usize = DEATHS_AT + crate::recorder::DEATHS_SIZE;
const NAMES_AT: usize = COUNTERS_AT + COUNTERS_MAX * 8;
pub(crate) const EVENTS_AT: usize = NAMES_AT + COUNTERS_MAX * NAME_MAX;
const NEIGHBOURS_AT: usize = EVENTS_AT + crate::recorder::EVENTS as usize * crate::recorder::EVENT_SIZE;
const _: () = assert!(COUNTERS_AT.is_multiple_of(64) && EVENTS_AT.is_multiple_of(64));

/// A region that no daemon of this version has written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("statistics of an unknown layout")]
pub struct UnknownLayout;

/// Roles in the order of their numbers in the region.
const ROLES: [Role; 5] = [Role::Supervisor, Role::Standby, Role::Nicd, Role::Netd, Role::Sockd];

/// Makes the region `seat`'s: one of another layout or seat is cleared. Comes before everything
/// else that an owner does with it, and does nothing to its own region.
pub(crate) fn claim<M: Memory>(memory: &M, seat: Seat) {
    let role = ROLES.iter().position(|&role| role == seat.role).expect("every role has a number");
    let seat = (role as u64) << 32 | u64::from(seat.index);
    let load = |at| memory.load_u64(at, Ordering::Relaxed);
    if load(LAYOUT_AT) == LAYOUT && load(SEAT_AT) == seat {
        return;
    }
    memory.store_u64(LAYOUT_AT, 0, Ordering::Relaxed);
    for at in (SEAT_AT..REGION_SIZE).step_by(8) {
        memory.store_u64(at, 0, Ordering::Relaxed);
    }
    memory.store_u64(SEAT_AT, seat, Ordering::Relaxed);
    // Release: a reader that sees the layout sees the cleared region.
    memory.store_u64(LAYOUT_AT, LAYOUT, Ordering::Release);
}

/// Whose region it is.
///
/// # Errors
/// [`UnknownLayout`] when it is nobody's yet, or of another version.
pub fn seat<M: Memory>(memory: &M) -> Result<Seat, UnknownLayout> {
    if memory.load_u64(LAYOUT_AT, Ordering::Acquire) != LAYOUT {
        return Err(UnknownLayout);
    }
    let word = memory.load_u64(SEAT_AT, Ordering::Relaxed);
    let role = *ROLES.get((word >> 32) as usize).ok_or(UnknownLayout)?;
    Ok(Seat::new(role, word as u16))
}

/// Text of a fixed place in the region, as its owner wrote it: printable ASCII, the rest as `?`.
pub(crate) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    bytes[..end].iter().map(|&b| if (b' '..=b'~').contains(&b) { char::from(b) } else { '?' }).collect()
}
