//! Memory on the heap, for the simulator and for tests: one thread, no other process.

use super::Memory;
use core::sync::atomic::Ordering;
use std::cell::RefCell;

/// A block of zeroed bytes behind the [`Memory`] trait.
#[derive(Debug, Clone)]
pub struct HeapMemory {
    bytes: RefCell<Vec<u8>>,
}

impl HeapMemory {
    /// `size` zero bytes.
    pub fn new(size: usize) -> Self {
        HeapMemory { bytes: RefCell::new(vec![0; size]) }
    }
}

impl Memory for HeapMemory {
    #[inline]
    fn size(&self) -> usize {
        self.bytes.borrow().len()
    }

    #[inline]
    fn load_u32(&self, at: usize, _: Ordering) -> u32 {
        assert!(at.is_multiple_of(4), "unaligned word");
        let mut word = [0; 4];
        self.read(at, &mut word);
        u32::from_ne_bytes(word)
    }

    #[inline]
    fn store_u32(&self, at: usize, value: u32, _: Ordering) {
        assert!(at.is_multiple_of(4), "unaligned word");
        self.write(at, &value.to_ne_bytes());
    }

    #[inline]
    fn load_u64(&self, at: usize, _: Ordering) -> u64 {
        assert!(at.is_multiple_of(8), "unaligned word");
        let mut word = [0; 8];
        self.read(at, &mut word);
        u64::from_ne_bytes(word)
    }

    #[inline]
    fn store_u64(&self, at: usize, value: u64, _: Ordering) {
        assert!(at.is_multiple_of(8), "unaligned word");
        self.write(at, &value.to_ne_bytes());
    }

    #[inline]
    fn read(&self, at: usize, out: &mut [u8]) {
        out.copy_from_slice(&self.bytes.borrow()[at..at + out.len()]);
    }

    #[inline]
    fn write(&self, at: usize, bytes: &[u8]) {
        self.bytes.borrow_mut()[at..at + bytes.len()].copy_from_slice(bytes);
    }

    #[inline]
    fn full_fence(&self) {}
}
