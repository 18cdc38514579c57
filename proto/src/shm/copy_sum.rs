//! Copying and summing in one pass: the Internet checksum (RFC 1071) of bytes on their way from one
//! memory to another.
//!
//! Each byte is loaded once, and what was loaded is both stored and summed (INV-R1: a peer that writes
//! meanwhile can't make the sum speak of other bytes than the copy). The widest registers that this
//! processor has are used, found out at run time; the portable path is the plain one in 64-bit words.
//! Both have the same result for any length and any address.
//!
//! Called by `region` for shared memory and by whoever has plain slices. Not here: what is summed and why.

#![expect(unsafe_code, reason = "wide loads and stores by address, one helper each")]

/// Bytes that are handled at a time by wide registers.
const BLOCK: usize = 32;
/// Bytes that are handled at a time by the portable path: long enough that a chain of carries pays.
const STRIDE: usize = 64;

/// The sum of `bytes` as big-endian words, folded to 16 bits; the last word is padded with a zero byte
/// when their number is odd.
pub fn sum(bytes: &[u8]) -> u16 {
    if bytes.len() < 2 * BLOCK {
        return short(bytes);
    }
    let (blocks, tail) = bytes.as_chunks::<BLOCK>();
    let mut lanes = Lanes::default();
    for block in blocks {
        lanes.take(words(block));
    }
    let mut last = [0; BLOCK];
    last[..tail.len()].copy_from_slice(tail);
    lanes.take(words(&last));
    fold(lanes.total())
}

/// [`sum`] of few bytes, a header's: words as they come, without wide registers to fill and to empty.
#[inline]
fn short(bytes: &[u8]) -> u16 {
    let (words, tail) = bytes.as_chunks::<4>();
    // Less than 2^14 words of 32 bits: no carry is lost.
    let wide: u64 = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
    let mut last = [0; 4];
    last[..tail.len()].copy_from_slice(tail);
    fold(wide + u64::from(u32::from_ne_bytes(last)))
}

/// A block as words in the host's order; [`fold`] swaps the result once (RFC 1071 §2(B)).
fn words(block: &[u8; BLOCK]) -> [u64; BLOCK / 8] {
    let (words, _) = block.as_chunks::<8>();
    core::array::from_fn(|n| u64::from_ne_bytes(words[n]))
}

/// Sums of 64 bits over halves of 32, side by side so that a compiler can use wide registers. No carry is
/// lost below 128 GiB.
#[derive(Debug, Default)]
struct Lanes {
    low: [u64; BLOCK / 8],
    high: [u64; BLOCK / 8],
}

impl Lanes {
    fn take(&mut self, words: [u64; BLOCK / 8]) {
        for (n, word) in words.into_iter().enumerate() {
            self.low[n] += word & 0xffff_ffff;
            self.high[n] += word >> 32;
        }
    }

    fn total(self) -> u64 {
        self.low.into_iter().chain(self.high).fold(0, add)
    }
}

/// Adds words in ones' complement; a compiler makes one chain of add-with-carry of it.
fn chain<const WORDS: usize>(sum: u64, words: [u64; WORDS]) -> u64 {
    let (mut sum, mut carry) = (sum, false);
    for word in words {
        let (with, over) = sum.overflowing_add(word);
        let (with, over_again) = with.overflowing_add(u64::from(carry));
        (sum, carry) = (with, over | over_again);
    }
    add(sum, u64::from(carry))
}

/// The sum of two pieces, of which the first has an even length: RFC 1071 §2(A).
#[inline]
pub const fn join(first: u16, second: u16) -> u16 {
    let (sum, carry) = first.overflowing_add(second);
    sum + carry as u16
}

/// Copies `from` to `to` and returns its [`sum`].
///
/// # Panics
/// When the two have different lengths.
pub fn copy(from: &[u8], to: &mut [u8]) -> u16 {
    assert_eq!(from.len(), to.len(), "a copy is as long as what is copied");
    // SAFETY: both slices are valid for their common length.
    unsafe { copy_by_address(from.as_ptr(), to.as_mut_ptr(), from.len()) }
}

/// [`copy`] by the portable path, whatever the processor can do.
///
/// # Panics
/// As [`copy`].
pub fn copy_portably(from: &[u8], to: &mut [u8]) -> u16 {
    assert_eq!(from.len(), to.len(), "a copy is as long as what is copied");
    // SAFETY: both slices are valid for their common length.
    unsafe { portable(from.as_ptr(), to.as_mut_ptr(), from.len()) }
}

/// Copies `len` bytes and returns their [`sum`].
///
/// # Safety
/// `from` is valid for reading and `to` for writing `len` bytes; the two don't overlap. Other processes
/// may write either at any time.
pub(super) unsafe fn copy_by_address(from: *const u8, to: *mut u8, len: usize) -> u16 {
    #[cfg(target_arch = "x86_64")]
    if len >= 2 * BLOCK && is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2; the rest is the caller's word.
        return unsafe { avx2::copy(from, to, len) };
    }
    // SAFETY: the caller's word.
    unsafe { portable(from, to, len) }
}

/// # Safety
/// As [`copy_by_address`].
unsafe fn portable(from: *const u8, to: *mut u8, len: usize) -> u16 {
    let (mut wide, mut at) = (0, 0);
    while len - at >= STRIDE {
        // SAFETY: the stride lies inside `len` bytes.
        wide = chain(wide, unsafe { step::<{ STRIDE / 8 }>(from.wrapping_add(at), to.wrapping_add(at)) });
        at += STRIDE;
    }
    while len - at >= 8 {
        // SAFETY: as above.
        wide = chain(wide, unsafe { step::<1>(from.wrapping_add(at), to.wrapping_add(at)) });
        at += 8;
    }
    if at == len {
        return fold(wide);
    }
    // SAFETY: less than a block is left.
    let tail = unsafe { tail(from.wrapping_add(at), to.wrapping_add(at), len - at) };
    fold(add(wide, tail))
}

/// Copies words and returns them.
///
/// # Safety
/// As [`copy_by_address`], for so many words.
unsafe fn step<const WORDS: usize>(from: *const u8, to: *mut u8) -> [u64; WORDS] {
    // SAFETY: the caller's word.
    let words = unsafe { from.cast::<[u64; WORDS]>().read_unaligned() };
    // SAFETY: as above.
    unsafe { to.cast::<[u64; WORDS]>().write_unaligned(words) };
    words
}

/// Copies less than a block; its sum, not folded.
///
/// # Safety
/// As [`copy_by_address`], for `len` below [`BLOCK`].
unsafe fn tail(from: *const u8, to: *mut u8, len: usize) -> u64 {
    let mut block = [0; BLOCK];
    // SAFETY: `block` is private and longer than `len`.
    unsafe { core::ptr::copy_nonoverlapping(from, block.as_mut_ptr(), len) };
    // SAFETY: as above.
    unsafe { core::ptr::copy_nonoverlapping(block.as_ptr(), to, len) };
    chain(0, words(&block))
}

/// Ones'-complement addition of 64 bits: RFC 1071 §2(C).
const fn add(a: u64, b: u64) -> u64 {
    let (sum, carry) = a.overflowing_add(b);
    sum + carry as u64
}

/// To 16 bits without losing a carry, as big-endian words.
#[inline]
const fn fold(wide: u64) -> u16 {
    let half = (wide >> 32) + (wide & 0xffff_ffff);
    let quarter = (half >> 16 & 0xffff) + (half & 0xffff) + (half >> 32);
    let narrow = (quarter >> 16) + (quarter & 0xffff);
    u16::from_be(((narrow >> 16) + (narrow & 0xffff)) as u16)
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::{BLOCK, add, fold, tail};
    use core::arch::x86_64::{
        __m256i, _mm256_add_epi64, _mm256_and_si256, _mm256_loadu_si256, _mm256_set1_epi64x,
        _mm256_setzero_si256, _mm256_srli_epi64, _mm256_storeu_si256,
    };

    /// # Safety
    /// The processor has AVX2; else as [`super::copy_by_address`].
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn copy(from: *const u8, to: *mut u8, len: usize) -> u16 {
        let half = _mm256_set1_epi64x(0xffff_ffff);
        let mut sums = [_mm256_setzero_si256(); 4];
        let mut at = 0;
        while len - at >= 2 * BLOCK {
            // SAFETY: two blocks lie inside `len` bytes.
            let one = unsafe { step(from.wrapping_add(at), to.wrapping_add(at)) };
            // SAFETY: as above.
            let two = unsafe { step(from.wrapping_add(at + BLOCK), to.wrapping_add(at + BLOCK)) };
            // Halves of 32 bits in sums of 64: no carry is lost below 128 GiB.
            sums[0] = _mm256_add_epi64(sums[0], _mm256_and_si256(one, half));
            sums[1] = _mm256_add_epi64(sums[1], _mm256_srli_epi64::<32>(one));
            sums[2] = _mm256_add_epi64(sums[2], _mm256_and_si256(two, half));
            sums[3] = _mm256_add_epi64(sums[3], _mm256_srli_epi64::<32>(two));
            at += 2 * BLOCK;
        }
        if len - at >= BLOCK {
            // SAFETY: a block lies inside `len` bytes.
            let one = unsafe { step(from.wrapping_add(at), to.wrapping_add(at)) };
            sums[0] = _mm256_add_epi64(sums[0], _mm256_and_si256(one, half));
            sums[1] = _mm256_add_epi64(sums[1], _mm256_srli_epi64::<32>(one));
            at += BLOCK;
        }
        let mut wide = 0;
        for sum in sums {
            let mut lanes = [0u64; 4];
            // SAFETY: `lanes` has the size of a register.
            unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), sum) };
            wide = lanes.into_iter().fold(wide, add);
        }
        // SAFETY: less than a block is left.
        let last = unsafe { tail(from.wrapping_add(at), to.wrapping_add(at), len - at) };
        fold(add(wide, last))
    }

    /// Copies a block and returns it.
    ///
    /// # Safety
    /// Both are valid for a block; the processor has AVX2.
    #[target_feature(enable = "avx2")]
    unsafe fn step(from: *const u8, to: *mut u8) -> __m256i {
        // SAFETY: valid for reading a block, at any address.
        let block = unsafe { _mm256_loadu_si256(from.cast()) };
        // SAFETY: valid for writing a block, at any address.
        unsafe { _mm256_storeu_si256(to.cast(), block) };
        block
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071 §1 to the letter: 16-bit words, end-around carry, zero padding.
    fn naive(bytes: &[u8]) -> u16 {
        let word = |pair: &[u8]| u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]);
        bytes.chunks(2).map(word).fold(0, join)
    }

    fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
        let extreme = prop_oneof![Just(0u8), Just(0xff), Just(0xfe), Just(1)];
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..4096),
            prop::collection::vec(extreme, 0..600),
            (0usize..70_000).prop_map(|len| vec![0xff; len]),
        ]
    }

    proptest! {
        #[test]
        fn every_path_copies_and_sums_as_the_plain_one(bytes in any_bytes(), skip in 0usize..40, to in 0usize..40) {
            let from = &bytes[skip.min(bytes.len())..];
            let expected = naive(from);
            prop_assert_eq!(sum(from), expected);
            for path in [copy, copy_portably] {
                let mut room = vec![0xa5; to + from.len() + 40];
                prop_assert_eq!(path(from, &mut room[to..to + from.len()]), expected);
                prop_assert_eq!(&room[to..to + from.len()], from);
                prop_assert!(room[..to].iter().chain(&room[to + from.len()..]).all(|&b| b == 0xa5), "beside it");
            }
        }
    }

    #[test]
    fn the_example_of_rfc_1071() {
        // RFC 1071 §3.
        assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
        assert_eq!((sum(&[]), sum(&[0; 99]), sum(&[0xff; 64])), (0, 0, 0xffff));
    }
}
