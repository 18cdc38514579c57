//! Memory that another process can reach.
//!
//! [`Memory`] is the one way in: offsets, never pointers or references; copies, never borrows.
//! [`region::Region`] is a mapped memfd, [`heap::HeapMemory`] an ordinary allocation for the
//! simulator; the tests bring two more (one that dies after a given number of stores, one for
//! loom). Rings, cells, arenas and slabs are written against the trait, so the code that ships is
//! the code that is crashed and model-checked.

pub mod copy_sum;
pub mod fault;
pub mod heap;
pub mod region;

use core::sync::atomic::Ordering;

/// Bytes shared with a process that is not trusted, reached by offset.
///
/// Every access is a copy. An offset that leaves the memory, or that is not aligned to the size of
/// the word, is our own bug and panics: callers compute offsets from numbers they have checked.
/// A killed process leaves a prefix of its stores behind, in the order of this trait's calls
/// (INV-T3); implementations therefore keep that order (see `region`).
pub trait Memory {
    /// Size in bytes.
    fn size(&self) -> usize;
    /// Reads a 32-bit word.
    fn load_u32(&self, at: usize, order: Ordering) -> u32;
    /// Writes a 32-bit word.
    fn store_u32(&self, at: usize, value: u32, order: Ordering);
    /// Reads a 64-bit word.
    fn load_u64(&self, at: usize, order: Ordering) -> u64;
    /// Writes a 64-bit word.
    fn store_u64(&self, at: usize, value: u64, order: Ordering);
    /// Copies bytes out. A peer may change them meanwhile; what was copied is what counts.
    fn read(&self, at: usize, out: &mut [u8]);
    /// Copies bytes in.
    fn write(&self, at: usize, bytes: &[u8]);
    /// Copies `len` bytes to another memory of the same kind, once.
    fn copy_to(&self, at: usize, to: &Self, to_at: usize, len: usize)
    where
        Self: Sized,
    {
        let mut chunk = [0; 512];
        let mut done = 0;
        while done < len {
            let piece = (len - done).min(chunk.len());
            self.read(at + done, &mut chunk[..piece]);
            to.write(to_at + done, &chunk[..piece]);
            done += piece;
        }
    }
    /// [`copy_to`](Memory::copy_to) that also returns the Internet checksum's sum (RFC 1071) of what was
    /// copied, folded: big-endian words, the last one padded with zero when `len` is odd. The two ranges
    /// don't overlap.
    #[must_use = "a copy without its sum is `copy_to`"]
    fn copy_sum_to(&self, at: usize, to: &Self, to_at: usize, len: usize) -> u16
    where
        Self: Sized,
    {
        // An even length, so that pieces join without a swap.
        let mut chunk = [0; 512];
        let (mut done, mut sum) = (0, 0);
        while done < len {
            let piece = (len - done).min(chunk.len());
            self.read(at + done, &mut chunk[..piece]);
            to.write(to_at + done, &chunk[..piece]);
            sum = copy_sum::join(sum, copy_sum::sum(&chunk[..piece]));
            done += piece;
        }
        sum
    }
    /// Orders earlier stores before later loads (store-load), as a Dekker handshake needs.
    fn full_fence(&self);
}

/// A handle to shared memory is itself memory: `&M`, `Rc<M>` and `Arc<M>` are passed around.
macro_rules! forward {
    ($($ptr:ty),*) => {$(
        impl<M: Memory> Memory for $ptr {
            #[inline]
            fn size(&self) -> usize { (**self).size() }
            #[inline]
            fn load_u32(&self, at: usize, order: Ordering) -> u32 { (**self).load_u32(at, order) }
            #[inline]
            fn store_u32(&self, at: usize, value: u32, order: Ordering) { (**self).store_u32(at, value, order) }
            #[inline]
            fn load_u64(&self, at: usize, order: Ordering) -> u64 { (**self).load_u64(at, order) }
            #[inline]
            fn store_u64(&self, at: usize, value: u64, order: Ordering) { (**self).store_u64(at, value, order) }
            #[inline]
            fn read(&self, at: usize, out: &mut [u8]) { (**self).read(at, out) }
            #[inline]
            fn write(&self, at: usize, bytes: &[u8]) { (**self).write(at, bytes) }
            #[inline]
            fn copy_to(&self, at: usize, to: &Self, to_at: usize, len: usize) { (**self).copy_to(at, &**to, to_at, len) }
            #[inline]
            fn copy_sum_to(&self, at: usize, to: &Self, to_at: usize, len: usize) -> u16 { (**self).copy_sum_to(at, &**to, to_at, len) }
            #[inline]
            fn full_fence(&self) { (**self).full_fence() }
        }
    )*};
}
forward!(&M, std::rc::Rc<M>, std::sync::Arc<M>);
