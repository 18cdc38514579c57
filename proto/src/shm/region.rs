//! A memfd, mapped: the only place where shared memory is touched by address.
//!
//! On x86-64 a killed process leaves a prefix of its stores in program order, and the compiler
//! keeps the order of the calls below: words are atomics, byte copies are fenced by compiler
//! fences (INV-T3). Nothing here hands out a reference into the mapping.

#![expect(unsafe_code, reason = "mapping memory and reaching it by address")]

use super::fault::Guard;
use super::{Memory, copy_sum};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, compiler_fence, fence};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use std::io;

/// A shared mapping of a memfd. Dropping it unmaps; the memory lives while any descriptor does.
#[derive(Debug)]
pub struct Region {
    base: NonNull<u8>,
    size: usize,
    writable: bool,
    /// What a fault in it would be told to; let go of before the mapping.
    guard: Option<Guard>,
    /// Held for its mapping; reached through `base`.
    _map: Map,
}

#[derive(Debug)]
#[expect(dead_code, reason = "held for its mapping")]
enum Map {
    Rw(memmap2::MmapRaw),
    Ro(memmap2::Mmap),
}

// SAFETY: the mapping has no thread affinity; every access goes through atomics or plain copies of
// bytes whose value is never trusted.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

/// Makes a memfd of `size` zero bytes that can neither shrink nor grow nor get further seals.
///
/// # Errors
/// Those of memfd_create(2), ftruncate(2) and fcntl(2) F_ADD_SEALS.
pub fn create_sealed(name: &str, size: usize) -> io::Result<OwnedFd> {
    let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&fd, size as u64)?;
    rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(fd)
}

/// A second description of the same memory that can only be read, and that another uid can't
/// reopen for writing (the inode gets mode 0).
///
/// # Errors
/// Those of [`reopen_read_only`] and fchmod(2).
pub fn read_only(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let ro = reopen_read_only(fd)?;
    rustix::fs::fchmod(fd, Mode::empty())?;
    Ok(ro)
}

/// A second description of the same memory that can only be read. Whoever has the right to may
/// still reopen it for writing.
///
/// # Errors
/// Those of open(2) on /proc/self/fd.
pub fn reopen_read_only(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

impl Region {
    /// Maps all of `fd` for reading and writing.
    ///
    /// # Errors
    /// Those of fstat(2) and mmap(2); `InvalidData` when the memory is shorter than `size`, or
    /// could still shrink under us (a fault would follow).
    pub fn map(fd: impl AsFd, size: usize) -> io::Result<Region> {
        check_size(fd.as_fd(), size)?;
        let map = memmap2::MmapOptions::new().len(size).map_raw(fd.as_fd().as_raw_fd())?;
        let base = NonNull::new(map.as_mut_ptr()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Region { base, size, writable: true, guard: None, _map: Map::Rw(map) })
    }

    /// [`Region::map`] of memory that a client shares: a fault in it reads as zeros and shows in
    /// [`Region::faulted`].
    ///
    /// # Errors
    /// As [`Region::map`], and ENOSPC when too many regions are guarded.
    pub fn map_guarded(fd: impl AsFd, size: usize) -> io::Result<Region> {
        let mut region = Region::map(fd, size)?;
        region.guard = Some(Guard::new(region.base.as_ptr() as usize, size)?);
        Ok(region)
    }

    /// Whether a page of a guarded region had to be replaced by zeros.
    pub fn faulted(&self) -> bool {
        self.guard.as_ref().is_some_and(Guard::faulted)
    }

    /// Maps all of `fd` for reading. A store through it is our own bug and panics.
    ///
    /// # Errors
    /// As [`Region::map`].
    pub fn map_read_only(fd: impl AsFd, size: usize) -> io::Result<Region> {
        check_size(fd.as_fd(), size)?;
        let options = {
            let mut options = memmap2::MmapOptions::new();
            options.len(size);
            options
        };
        // SAFETY: the file is sealed against shrinking (checked above), and its bytes are only
        // ever copied out through raw pointers, so a concurrent writer is expected.
        let map = unsafe { options.map(fd.as_fd().as_raw_fd())? };
        let base = NonNull::new(map.as_ptr().cast_mut()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Region { base, size, writable: false, guard: None, _map: Map::Ro(map) })
    }

    #[inline]
    fn address(&self, at: usize, len: usize, align: usize) -> NonNull<u8> {
        assert!(at.is_multiple_of(align), "unaligned word");
        assert!(at.checked_add(len).is_some_and(|end| end <= self.size), "offset outside the region");
        // SAFETY: in bounds of the mapping, checked in the line above.
        unsafe { self.base.add(at) }
    }

    #[inline]
    fn writable(&self) {
        assert!(self.writable, "store into a read-only region");
    }

    /// The address of `len` bytes at `at`, for who has to hand it to C: valid as long as this
    /// region, shared with processes that may write there at any time.
    pub fn pointer(&self, at: usize, len: usize) -> *mut u8 {
        self.address(at, len, 1).as_ptr()
    }

    #[inline]
    fn word32(&self, at: usize) -> &AtomicU32 {
        // SAFETY: aligned and inside the mapping, which outlives the borrow; an atomic may be
        // written by another process at any time.
        unsafe { AtomicU32::from_ptr(self.address(at, 4, 4).as_ptr().cast()) }
    }

    #[inline]
    fn word64(&self, at: usize) -> &AtomicU64 {
        // SAFETY: as `word32`.
        unsafe { AtomicU64::from_ptr(self.address(at, 8, 8).as_ptr().cast()) }
    }

    /// Reads one record from `fd`: its first bytes into `head`, the rest straight into the region, into
    /// the pieces `(offset, length)` in turn; returns the number of bytes, `head`'s included.
    ///
    /// # Errors
    /// Those of readv(2).
    ///
    /// # Panics
    /// On more than 31 pieces.
    pub fn read_vectored(
        &self,
        fd: BorrowedFd<'_>,
        head: &mut [u8],
        pieces: &[(usize, usize)],
    ) -> io::Result<usize> {
        self.writable();
        let head = libc::iovec { iov_base: head.as_mut_ptr().cast(), iov_len: head.len() };
        self.vectored(fd, head, pieces, libc::readv)
    }

    /// Writes `head` and then the pieces `(offset, length)` of the region to `fd` as one record;
    /// returns the number of bytes.
    ///
    /// # Errors
    /// Those of writev(2).
    ///
    /// # Panics
    /// On more than 31 pieces.
    pub fn write_vectored(
        &self,
        fd: BorrowedFd<'_>,
        head: &[u8],
        pieces: &[(usize, usize)],
    ) -> io::Result<usize> {
        // writev does not write through it: the cast loses nothing.
        let head = libc::iovec { iov_base: head.as_ptr().cast_mut().cast(), iov_len: head.len() };
        self.vectored(fd, head, pieces, libc::writev)
    }

    /// `head` comes from a borrowed slice of the caller's, valid for what `call` does with it.
    fn vectored(
        &self,
        fd: BorrowedFd<'_>,
        head: libc::iovec,
        pieces: &[(usize, usize)],
        call: unsafe extern "C" fn(i32, *const libc::iovec, i32) -> isize,
    ) -> io::Result<usize> {
        let mut iov = [head; 32];
        assert!(pieces.len() < iov.len(), "too many pieces");
        for (slot, &(at, len)) in iov[1..].iter_mut().zip(pieces) {
            *slot = libc::iovec { iov_base: self.address(at, len, 1).as_ptr().cast(), iov_len: len };
        }
        // SAFETY: the first iovec is a slice that the caller has borrowed for this call, the others lie
        // inside the mapping, and the kernel copes with concurrent writers.
        let n = unsafe { call(fd.as_raw_fd(), iov.as_ptr(), pieces.len() as i32 + 1) };
        usize::try_from(n).map_err(|_| io::Error::last_os_error())
    }
}

fn check_size(fd: BorrowedFd<'_>, size: usize) -> io::Result<()> {
    let stat = rustix::fs::fstat(fd)?;
    let seals = rustix::fs::fcntl_get_seals(fd)?;
    let short = u64::try_from(stat.st_size).unwrap_or(0) < size as u64;
    if short || !seals.contains(SealFlags::SHRINK) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "memory shorter than agreed, or not sealed"));
    }
    Ok(())
}

impl Memory for Region {
    #[inline]
    fn size(&self) -> usize {
        self.size
    }

    #[inline]
    fn load_u32(&self, at: usize, order: Ordering) -> u32 {
        self.word32(at).load(order)
    }

    #[inline]
    fn store_u32(&self, at: usize, value: u32, order: Ordering) {
        self.writable();
        compiler_fence(Ordering::SeqCst);
        self.word32(at).store(value, order);
        compiler_fence(Ordering::SeqCst);
    }

    #[inline]
    fn load_u64(&self, at: usize, order: Ordering) -> u64 {
        self.word64(at).load(order)
    }

    #[inline]
    fn store_u64(&self, at: usize, value: u64, order: Ordering) {
        self.writable();
        compiler_fence(Ordering::SeqCst);
        self.word64(at).store(value, order);
        compiler_fence(Ordering::SeqCst);
    }

    #[inline]
    fn read(&self, at: usize, out: &mut [u8]) {
        let from = self.address(at, out.len(), 1);
        // SAFETY: `from` is in bounds for `out.len()` bytes, `out` is private memory, and the two
        // can't overlap; a concurrent writer only makes the copied value unpredictable.
        unsafe { core::ptr::copy_nonoverlapping(from.as_ptr(), out.as_mut_ptr(), out.len()) };
        compiler_fence(Ordering::SeqCst);
    }

    #[inline]
    fn write(&self, at: usize, bytes: &[u8]) {
        self.writable();
        let to = self.address(at, bytes.len(), 1);
        compiler_fence(Ordering::SeqCst);
        // SAFETY: as in `read`, with the roles exchanged.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), to.as_ptr(), bytes.len()) };
        compiler_fence(Ordering::SeqCst);
    }

    #[inline]
    fn copy_to(&self, at: usize, to: &Self, to_at: usize, len: usize) {
        to.writable();
        let (from, target) = (self.address(at, len, 1), to.address(to_at, len, 1));
        compiler_fence(Ordering::SeqCst);
        // SAFETY: both in bounds for `len` bytes; `copy` allows them to overlap (one memory may be
        // both); concurrent writers only make the copied value unpredictable.
        unsafe { core::ptr::copy(from.as_ptr(), target.as_ptr(), len) };
        compiler_fence(Ordering::SeqCst);
    }

    #[inline]
    fn copy_sum_to(&self, at: usize, to: &Self, to_at: usize, len: usize) -> u16 {
        to.writable();
        let (from, target) = (self.address(at, len, 1), to.address(to_at, len, 1));
        compiler_fence(Ordering::SeqCst);
        // SAFETY: both in bounds for `len` bytes; frames and arenas are different mappings, so the ranges
        // don't overlap (and if they did, only the copied bytes would be other ones); concurrent writers
        // only make the copied value unpredictable.
        let sum = unsafe { copy_sum::copy_by_address(from.as_ptr(), target.as_ptr(), len) };
        compiler_fence(Ordering::SeqCst);
        sum
    }

    #[inline]
    fn full_fence(&self) {
        fence(Ordering::SeqCst);
    }
}
