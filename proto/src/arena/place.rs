//! The page tables of a socket, and the bytes behind them.
//!
//! Entry `(offset / PAGE_SIZE) % TABLE_PAGES` names the page that holds that part of the stream.
//! The side that allocates a direction's pages keeps its own copy of the table and only publishes
//! it here; the other side copies an entry out and checks it ([`Direction::page`]).

use super::{Geometry, PAGE_SIZE, TABLE_PAGES};
use crate::error::PeerCorrupt;
use crate::id::SlotIndex;
use crate::shm::Memory;
use core::sync::atomic::Ordering;

const TX_TABLE_AT: usize = 0;
const RX_TABLE_AT: usize = TX_TABLE_AT + TABLE_PAGES * 4;
const _: () = assert!(RX_TABLE_AT + TABLE_PAGES * 4 == super::TABLES_SIZE);

/// One direction of the payload in an arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the wire; the client allocates.
    Tx,
    /// From the wire to the client; netd's shard allocates.
    Rx {
        /// The shard whose pages they are.
        shard: u16,
    },
}

/// A piece of a stream that lies in one page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Index into the page table.
    pub entry: usize,
    /// Where in the page it starts.
    pub within: usize,
    /// How long it is.
    pub len: usize,
}

/// Cuts `len` bytes of a stream from `offset` on at page borders.
pub fn pieces(offset: u64, len: usize) -> impl Iterator<Item = Piece> {
    let mut at = offset;
    let end = offset + len as u64;
    core::iter::from_fn(move || {
        if at == end {
            return None;
        }
        let within = (at % PAGE_SIZE as u64) as usize;
        let len = (PAGE_SIZE - within).min((end - at) as usize);
        let entry = entry_of(at);
        at += len as u64;
        Some(Piece { entry, within, len })
    })
}

/// The table entry for the page that holds `offset`.
#[inline]
pub const fn entry_of(offset: u64) -> usize {
    (offset / PAGE_SIZE as u64 % TABLE_PAGES as u64) as usize
}

impl Direction {
    #[inline]
    const fn table_at(self, geometry: &Geometry, slot: SlotIndex) -> usize {
        geometry.tables_at(slot)
            + match self {
                Direction::Tx => TX_TABLE_AT,
                Direction::Rx { .. } => RX_TABLE_AT,
            }
    }

    /// For the allocator: publishes that `page` is behind table entry `entry`.
    pub fn set_page<M: Memory>(
        self,
        memory: &M,
        geometry: &Geometry,
        slot: SlotIndex,
        entry: usize,
        page: u32,
    ) {
        assert!(entry < TABLE_PAGES, "no such table entry");
        memory.store_u32(self.table_at(geometry, slot) + entry * 4, page, Ordering::Relaxed);
    }

    /// For the other side: the page behind table entry `entry`.
    ///
    /// # Errors
    /// [`PeerCorrupt`] when there is no page of that number.
    pub fn page<M: Memory>(
        self,
        memory: &M,
        geometry: &Geometry,
        slot: SlotIndex,
        entry: usize,
    ) -> Result<u32, PeerCorrupt> {
        assert!(entry < TABLE_PAGES, "no such table entry");
        let page = memory.load_u32(self.table_at(geometry, slot) + entry * 4, Ordering::Relaxed);
        let pages = match self {
            Direction::Tx => geometry.tx_pages,
            Direction::Rx { .. } => geometry.rx_pages,
        };
        if page < pages { Ok(page) } else { Err(PeerCorrupt::new("page number outside the arena")) }
    }

    /// Offset of `within` in page `page`, for copies in and out of the arena's memory.
    ///
    /// # Panics
    /// When the page is not one of the arena's: callers have checked it.
    #[inline]
    pub const fn byte_at(self, geometry: &Geometry, page: u32, within: usize) -> usize {
        assert!(within < PAGE_SIZE, "outside the page");
        within
            + match self {
                Direction::Tx => geometry.tx_page_at(page),
                Direction::Rx { shard } => geometry.rx_page_at(shard, page),
            }
    }
}
