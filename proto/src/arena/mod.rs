//! A session's memory: the payload pages, the sockets' cursors, the rings of "look at this socket".
//!
//! ```text
//! ┌───────────────────────────────────────┬───────────┬─────────────┬───────────┬───────────────────────┐
//! │ per shard: event ring │ kick ring      │ two lines │ two tables  │ send pages│ per shard: recv pages │
//! │            netd→client│ client→netd    │ per socket│ per socket  │ 16 KiB    │ 16 KiB                │
//! │                       │                │ 128 B     │ 512 B       │           │                       │
//! └───────────────────────────────────────┴───────────┴─────────────┴───────────┴───────────────────────┘
//! ```
//!
//! One memfd per client session, made by sockd, mapped by that client and by netd, never used for
//! a second session. Hard state: the bytes of the streams live here. Zeroed memory is a valid
//! empty arena. Both sides learn the [`Geometry`] from sockd, never from the memory.
//!
//! A socket's place is two lines, one written by each side ([`line`]), and two page tables indexed
//! by stream offset ([`place`]). The lines of all sockets lie together, so that connections that carry
//! nothing touch no table, and whoever looks at all of them reads few pages. The client alone allocates send pages and fills the send table;
//! netd alone allocates receive pages and fills the receive table. Which pages are in use follows
//! from the cursors.
//!
//! What a stream carries: TCP payload; for UDP and for accept queues, [`records`](record).

pub mod line;
pub mod place;
pub mod record;
pub mod wishes;

use crate::id::SlotIndex;
use crate::ring::spsc;
use serde::{Deserialize, Serialize};

/// Layout version; changes with the place or meaning of anything here.
pub const LAYOUT: u32 = 4;

/// Size of a payload page in bytes.
pub const PAGE_SIZE: usize = 16 * 1024;
/// Pages that a direction of a socket can hold at once; its window is at most this many pages.
pub const TABLE_PAGES: usize = 64;
/// The largest send or receive window, in bytes. One page less than the table: an unaligned
/// window of this size still fits.
pub const WINDOW_MAX: u32 = ((TABLE_PAGES - 1) * PAGE_SIZE) as u32;
/// Bytes of an entry of the event and kick rings: a socket's place.
pub const NOTE_SIZE: usize = 4;

/// The two lines of a socket.
pub(crate) const LINES_SIZE: usize = 128;
/// Its two page tables.
pub(crate) const TABLES_SIZE: usize = 2 * 4 * TABLE_PAGES;

/// Limits on a session's size that netd enforces whatever sockd says.
pub const SOCKETS_MAX: u32 = 1 << 18;
/// As [`SOCKETS_MAX`], for pages of either kind.
pub const PAGES_MAX: u32 = 1 << 20;

/// In the place of a shard's number: every shard, and a row of places, one of each.
pub const EVERY_SHARD: u16 = u16::MAX;

/// How a session's memory is divided.
///
/// Places `0..active` are given out by sockd (connect, listen, bind), places
/// `active..active+passive` by netd (accepted connections). Each place belongs to one shard for good,
/// [`Geometry::owner`]: nobody else writes its stack line, whatever it is used for. A listener or a
/// UDP socket, which every shard has, lies in a row of places that follow one another, one of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Geometry {
    /// Number of shards (event rings, kick rings and receive-page areas).
    pub shards: u16,
    /// Places that sockd gives out.
    pub active: u32,
    /// Places that netd gives out.
    pub passive: u32,
    /// Send pages.
    pub tx_pages: u32,
    /// Receive pages per shard.
    pub rx_pages: u32,
}

/// A shard's part of an arena or a ring within it lies outside the bounds that all agree on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an arena of impossible size")]
pub struct BadGeometry;

impl Geometry {
    /// Checks the bounds; everyone who gets a geometry by message calls this before using it.
    ///
    /// # Errors
    /// [`BadGeometry`] when a number is zero where it can't be, or above its limit.
    pub fn checked(self) -> Result<Geometry, BadGeometry> {
        let sound = (1..=64).contains(&self.shards)
            && (1..=SOCKETS_MAX).contains(&self.active)
            && (1..=SOCKETS_MAX).contains(&self.passive)
            && (1..=PAGES_MAX).contains(&self.tx_pages)
            && (1..=PAGES_MAX).contains(&self.rx_pages);
        if sound { Ok(self) } else { Err(BadGeometry) }
    }

    /// The shard that a place belongs to: the places are dealt out in turn.
    #[inline]
    pub const fn owner(&self, slot: SlotIndex) -> u16 {
        (slot.0 % self.shards as u32) as u16
    }

    /// The places of a shard.
    pub fn places_of(&self, shard: u16) -> impl Iterator<Item = SlotIndex> + use<> {
        (u32::from(shard)..self.sockets()).step_by(self.shards.into()).map(SlotIndex)
    }

    /// The place of `shard` in the row that begins at `first`, a place of shard 0.
    pub const fn in_row(&self, first: SlotIndex, shard: u16) -> SlotIndex {
        SlotIndex(first.0 + shard as u32)
    }

    /// Number of socket places.
    #[inline]
    pub const fn sockets(&self) -> u32 {
        self.active + self.passive
    }

    /// Slots of an event or kick ring: one entry per socket always fits (INV-R6), and once more
    /// what a restarted side repeats.
    const fn notes(&self) -> u32 {
        (2 * self.sockets()).next_power_of_two()
    }

    #[inline]
    const fn ring_bytes(&self) -> usize {
        spsc::Place::bytes(self.notes(), NOTE_SIZE)
    }

    /// Where shard `shard`'s event ring lies (netd produces, the client consumes).
    pub const fn event_ring(&self, shard: u16) -> spsc::Place {
        spsc::Place::new(shard as usize * 2 * self.ring_bytes(), self.notes())
    }

    /// Where shard `shard`'s kick ring lies (the client produces, netd consumes).
    pub const fn kick_ring(&self, shard: u16) -> spsc::Place {
        spsc::Place::new((shard as usize * 2 + 1) * self.ring_bytes(), self.notes())
    }

    #[inline]
    const fn all_lines_at(&self) -> usize {
        (self.shards as usize * 2 * self.ring_bytes()).next_multiple_of(4096)
    }

    #[inline]
    const fn all_tables_at(&self) -> usize {
        (self.all_lines_at() + self.sockets() as usize * LINES_SIZE).next_multiple_of(4096)
    }

    #[inline]
    pub(crate) const fn lines_at(&self, slot: SlotIndex) -> usize {
        assert!(slot.0 < self.sockets(), "no such socket place");
        self.all_lines_at() + slot.0 as usize * LINES_SIZE
    }

    #[inline]
    pub(crate) const fn tables_at(&self, slot: SlotIndex) -> usize {
        assert!(slot.0 < self.sockets(), "no such socket place");
        self.all_tables_at() + slot.0 as usize * TABLES_SIZE
    }

    #[inline]
    const fn pages_at(&self) -> usize {
        (self.all_tables_at() + self.sockets() as usize * TABLES_SIZE).next_multiple_of(PAGE_SIZE)
    }

    #[inline]
    pub(crate) const fn tx_page_at(&self, page: u32) -> usize {
        assert!(page < self.tx_pages, "no such send page");
        self.pages_at() + page as usize * PAGE_SIZE
    }

    #[inline]
    pub(crate) const fn rx_page_at(&self, shard: u16, page: u32) -> usize {
        assert!(page < self.rx_pages && shard < self.shards, "no such receive page");
        let before = self.tx_pages as usize + shard as usize * self.rx_pages as usize;
        self.pages_at() + (before + page as usize) * PAGE_SIZE
    }

    /// Size of the arena in bytes.
    pub const fn bytes(&self) -> usize {
        let pages = self.tx_pages as usize + self.shards as usize * self.rx_pages as usize;
        self.pages_at() + pages * PAGE_SIZE
    }
}
