//! Registers of a chip, mapped: the only place that reaches them by address.
//!
//! Every access is one volatile load or store of its width, checked against the window and its alignment.
//! The mapping keeps the device open, so it goes before the device does.

#![expect(unsafe_code, reason = "registers of a device are reached by address")]

use core::ptr::NonNull;
use rustix::fd::BorrowedFd;
use rustix::mm::{MapFlags, ProtFlags};
use std::io;

/// A mapped BAR.
#[derive(Debug)]
pub struct Bar {
    base: NonNull<u8>,
    size: usize,
}

macro_rules! accesses {
    ($($read:ident $write:ident $type:ty),*) => {$(
        /// Reads a register.
        ///
        /// # Panics
        /// On a register outside the window, or not aligned: the driver's own bug.
        pub fn $read(&self, at: usize) -> $type {
            let from = self.address(at, size_of::<$type>()).cast::<$type>();
            // SAFETY: inside the mapping and aligned, checked by `address`; the device may change it at any
            // time, which a volatile access allows for.
            unsafe { from.read_volatile() }
        }

        #[doc = concat!("As [`Bar::", stringify!($read), "`], writing.")]
        ///
        /// # Panics
        /// As there.
        pub fn $write(&self, at: usize, value: $type) {
            let to = self.address(at, size_of::<$type>()).cast::<$type>();
            // SAFETY: as in the read; no Rust object lies there.
            unsafe { to.write_volatile(value) }
        }
    )*};
}

impl Bar {
    /// Maps `size` bytes at `offset` of a VFIO device.
    ///
    /// # Errors
    /// Those of mmap(2).
    pub fn map(device: BorrowedFd<'_>, offset: u64, size: usize) -> io::Result<Bar> {
        let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: a new mapping at an address of the kernel's choice disturbs nothing that is mapped.
        let base = unsafe { rustix::mm::mmap(core::ptr::null_mut(), size, prot, flags, device, offset) }?;
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Bar { base, size })
    }

    /// Size of the window in bytes.
    pub fn size(&self) -> usize {
        self.size
    }

    fn address(&self, at: usize, len: usize) -> NonNull<u8> {
        assert!(at.is_multiple_of(len), "unaligned register");
        assert!(at.checked_add(len).is_some_and(|end| end <= self.size), "register outside its window");
        // SAFETY: inside the mapping, checked in the line above.
        unsafe { self.base.add(at) }
    }

    accesses!(read8 write8 u8, read16 write16 u16, read32 write32 u32);
}

impl Drop for Bar {
    fn drop(&mut self) {
        // SAFETY: this mapping is ours and nobody has an address in it any more.
        let unmapped = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.size) };
        debug_assert!(unmapped.is_ok(), "what was mapped can be unmapped");
    }
}
