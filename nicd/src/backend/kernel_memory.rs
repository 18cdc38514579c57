//! Memory that the kernel and this process share: rings of a socket, and pages that a socket moves frames through.
//!
//! Which bytes belong to whom changes by words that both store; the owner of a [`KernelMemory`] asks for bytes only
//! while they are its own. That is what makes a reference to them sound, and it is checked by nobody else.

#![expect(unsafe_code, reason = "mapping what a socket shares, and reaching it by address")]

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, Ordering};
use rustix::fd::BorrowedFd;
use rustix::mm::{MapFlags, ProtFlags};
use std::io;

/// A mapping that is shared with the kernel. Dropping it unmaps.
#[derive(Debug)]
pub(crate) struct KernelMemory {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: a mapping has no thread affinity, and this is its only owner.
unsafe impl Send for KernelMemory {}

impl KernelMemory {
    /// `len` bytes of what `socket` shares at `offset`.
    ///
    /// # Errors
    /// Those of mmap(2).
    pub(crate) fn of_socket(socket: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<Self> {
        let (rights, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED | MapFlags::POPULATE);
        // SAFETY: a new mapping at an address that the kernel chooses.
        let base = unsafe { rustix::mm::mmap(core::ptr::null_mut(), len, rights, flags, socket, offset) }?;
        Ok(KernelMemory::over(base, len))
    }

    /// `len` zero bytes that a socket is given.
    ///
    /// # Errors
    /// Those of mmap(2).
    pub(crate) fn anonymous(len: usize) -> io::Result<Self> {
        let (rights, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::POPULATE);
        // SAFETY: a new mapping at an address that the kernel chooses.
        let base = unsafe { rustix::mm::mmap_anonymous(core::ptr::null_mut(), len, rights, flags) }?;
        Ok(KernelMemory::over(base, len))
    }

    /// Where it lies, for a call that gives it to a socket. The mapping outlives the socket, or what the socket has of
    /// it is the kernel's own hold on its pages.
    pub(crate) fn address_for_the_kernel(&self) -> u64 {
        self.base.as_ptr() as u64
    }

    fn over(base: *mut core::ffi::c_void, len: usize) -> Self {
        KernelMemory { base: NonNull::new(base.cast()).expect("mmap returns no null"), len }
    }

    fn address(&self, at: usize, len: usize) -> NonNull<u8> {
        assert!(at.checked_add(len).is_some_and(|end| end <= self.len), "offset outside the mapping");
        // SAFETY: in bounds of the mapping, checked in the line above.
        unsafe { self.base.add(at) }
    }

    fn word(&self, at: usize) -> &AtomicU32 {
        assert!(at.is_multiple_of(4), "unaligned word");
        // SAFETY: aligned and inside the mapping, which outlives the borrow; the kernel may write it any time.
        unsafe { AtomicU32::from_ptr(self.address(at, 4).as_ptr().cast()) }
    }

    /// A word that both sides store.
    pub(crate) fn load(&self, at: usize, ordering: Ordering) -> u32 {
        self.word(at).load(ordering)
    }

    /// As [`KernelMemory::load`].
    pub(crate) fn store(&self, at: usize, value: u32, ordering: Ordering) {
        self.word(at).store(value, ordering);
    }

    /// Bytes that the kernel has handed over, until they are handed back.
    pub(crate) fn bytes(&self, at: usize, len: usize) -> &[u8] {
        let first = self.address(at, len).as_ptr();
        // SAFETY: inside the mapping, which outlives the borrow; by the protocol of the ring, which the caller
        // keeps, the kernel does not write there before it is told that it may.
        unsafe { core::slice::from_raw_parts(first, len) }
    }

    /// Bytes that are ours to write, until they are handed over.
    pub(crate) fn bytes_mut(&mut self, at: usize, len: usize) -> &mut [u8] {
        let first = self.address(at, len).as_ptr();
        // SAFETY: as `bytes`, and the borrow is the only one of this value.
        unsafe { core::slice::from_raw_parts_mut(first, len) }
    }
}

impl Drop for KernelMemory {
    fn drop(&mut self) {
        // SAFETY: our own mapping, to which no reference is left: all borrow from this value.
        let outcome = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) };
        debug_assert!(outcome.is_ok(), "a mapping of our own can be given up");
    }
}
