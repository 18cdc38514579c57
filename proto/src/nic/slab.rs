//! The frame slab: pages of two sizes that hold frames on their way.
//!
//! Soft state: all of it may vanish, as when a link flaps. netd is its only allocator (a private
//! bitmap); nicd uses the pages that were lent to it on the fill ring. A frame that does not fit
//! one page is a chain of descriptors.

use serde::{Deserialize, Serialize};

/// Layout version; changes with the place or meaning of anything here.
pub const LAYOUT: u32 = 1;

/// Bytes of a small page: any frame of an ordinary MTU with room for headers.
pub const SMALL_SIZE: usize = 2 * 1024;
/// Bytes of a large page: four of them hold a 64 KiB super-frame.
pub const LARGE_SIZE: usize = 16 * 1024;
/// The most pages one frame may have.
pub const CHAIN_MAX: usize = 8;

/// How many pages of each size a slab has. Small pages come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlabGeometry {
    /// Number of small pages.
    pub small: u32,
    /// Number of large pages.
    pub large: u32,
}

/// Number of a page: small ones from 0, large ones after them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PageIndex(pub u32);

impl SlabGeometry {
    /// Number of pages of both sizes.
    #[inline]
    pub const fn pages(&self) -> u32 {
        self.small + self.large
    }

    #[inline]
    const fn large_at(&self) -> usize {
        (self.small as usize * SMALL_SIZE).next_multiple_of(LARGE_SIZE)
    }

    /// Size of the slab in bytes.
    pub const fn bytes(&self) -> usize {
        self.large_at() + self.large as usize * LARGE_SIZE
    }

    /// Size of page `page` in bytes; `None` when there is no such page.
    #[inline]
    pub const fn page_size(&self, page: PageIndex) -> Option<usize> {
        if page.0 < self.small {
            Some(SMALL_SIZE)
        } else if page.0 < self.pages() {
            Some(LARGE_SIZE)
        } else {
            None
        }
    }

    /// Where page `page` starts in the slab.
    ///
    /// # Panics
    /// When there is no such page: callers have checked it.
    #[inline]
    pub const fn page_at(&self, page: PageIndex) -> usize {
        assert!(page.0 < self.pages(), "no such frame page");
        if page.0 < self.small {
            page.0 as usize * SMALL_SIZE
        } else {
            self.large_at() + (page.0 - self.small) as usize * LARGE_SIZE
        }
    }
}
