//! What a driver sees of the machine.
//!
//! Registers are reached by offset in one window (a BAR); memory by offset too, with the address by which
//! the chip reaches it (the IOVA) beside it. A frame slab of shard `n` lies at [`slab_iova`], so that the
//! IOVA of a page is that base and its offset in the slab: descriptors keep their meaning over restarts.
//!
//! Implemented by `vfio` for real chips and by the models. A register that reads as all ones is the sign
//! of a chip that is gone (PCIe base specification §2.3.2: a read that nobody completes); the drivers
//! look for it.

use core::time::Duration;
use proto::shm::Memory;
use rustix::fd::BorrowedFd;
use std::io;

/// Address space of one frame slab, as the chip sees it. No slab is that large.
const STRIDE: u64 = 1 << 32;
/// Shards at most: 64, as many as a wake-up mask has bits.
const SHARDS: u64 = 64;

/// Where the chip sees the frame slab of `shard`. Not at 0: a descriptor with address 0 is a null
/// descriptor to many chips. The last one ends below 2^39, which every IOMMU here translates, and none
/// reaches 0xfee00000 of its stride, where x86 keeps the interrupt window of the first.
///
/// # Panics
/// When there can be no such shard.
#[inline]
pub const fn slab_iova(shard: u16) -> u64 {
    assert!((shard as u64) < SHARDS, "no such shard");
    (shard as u64 + 1) * STRIDE
}

/// Where the chip sees the memory of its rings.
pub const RINGS_IOVA: u64 = (SHARDS + 1) * STRIDE;

/// Bytes of the memory for rings: every chip here has its own in far less.
pub const RINGS_SIZE: usize = 256 * 1024;

/// A register that reads as this: the chip is gone.
pub const GONE: u32 = u32::MAX;

/// The chip does not answer any more.
pub fn gone(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, format!("the chip is gone ({what} reads as all ones)"))
}

/// The chip did not do what it was told in time.
pub fn stuck(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("the chip is stuck: {what}"))
}

/// A 32-bit register with a place of its own.
pub trait Register: From<u32> + Into<u32> {
    /// Its offset in the window.
    const AT: usize;
}

/// A chip and its place in the machine. No call blocks but [`Hardware::pause`].
pub trait Hardware {
    /// What rings and frames lie in.
    type Memory: Memory + Clone;

    /// A register of 32 bits.
    fn read32(&self, at: usize) -> u32;
    /// As [`Hardware::read32`].
    fn write32(&self, at: usize, value: u32);
    /// A register of 16 bits. All of them are parts of wider ones on the Intel chips.
    fn read16(&self, at: usize) -> u16;
    /// As [`Hardware::read16`].
    fn write16(&self, at: usize, value: u16);
    /// A register of 8 bits.
    fn read8(&self, at: usize) -> u8;
    /// As [`Hardware::read8`].
    fn write8(&self, at: usize, value: u8);

    /// A byte of the configuration space; 0xff when there is none.
    fn config8(&self, at: usize) -> u8;

    /// The memory of the rings, [`RINGS_SIZE`] bytes, at [`RINGS_IOVA`]. Written by nobody but the driver
    /// and the chip.
    fn rings(&self) -> Self::Memory;

    /// Becomes readable, once more with each interrupt. Never read: edges count.
    fn interrupt(&self) -> BorrowedFd<'_>;

    /// Becomes readable when the machine wants the chip back.
    fn recalled(&self) -> Option<BorrowedFd<'_>>;

    /// Waits, while the chip is set up.
    fn pause(&self, time: Duration);

    /// The chip may read and write memory from now on.
    ///
    /// # Errors
    /// When its configuration space can't be reached.
    fn start(&self) -> io::Result<()>;

    /// Ends all access of the chip to memory: when this returns, none is under way and none begins before
    /// [`Hardware::start`].
    ///
    /// # Errors
    /// When the chip can't be brought to rest: then no page that it had may be used again before this
    /// process has ended, upon which the kernel resets it.
    fn quiesce(&self) -> io::Result<()>;

    /// Reads a register.
    fn get<R: Register>(&self) -> R {
        R::from(self.read32(R::AT))
    }

    /// Writes a register.
    fn set<R: Register>(&self, value: R) {
        self.write32(R::AT, value.into());
    }

    /// Waits until `done`, with up to `tries` pauses of `step`; false when it never was.
    fn wait_until(&self, step: Duration, tries: u32, mut done: impl FnMut(&Self) -> bool) -> bool {
        for _ in 0..tries {
            if done(self) {
                return true;
            }
            self.pause(step);
        }
        done(self)
    }
}

/// Bytes of the rings' memory from `at` on, as the chip sees them.
#[inline]
pub const fn ring_iova(at: usize) -> u64 {
    RINGS_IOVA + at as u64
}
