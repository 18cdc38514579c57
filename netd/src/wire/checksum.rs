//! The Internet checksum: RFC 1071 sums over pieces of any length at any offset, pseudo headers of
//! both families, and the incremental update of RFC 1624.
//!
//! Called by every parser and emitter of this folder, and by whoever sums a payload on its way.
//! Invariant: a [`Sum`] is a function of the bytes and their order alone, never of how they were cut
//! into pieces. This module reads plain slices only; it never sees shared memory.

use super::address::AddressPair;
use core::net::Ipv6Addr;
use proto::shm::copy_sum;
use proto::zone;

/// A ones'-complement sum of the bytes seen so far, in their order on the wire.
///
/// It remembers whether it stands at an odd offset, so that the pieces of a chain may have any length.
/// RFC 1071 §2(A), §2(B): the sum may be taken in any grouping and in either byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sum {
    /// Folded to 16 bits; big-endian words read as numbers.
    folded: u16,
    /// An odd number of bytes has been added so far.
    odd: bool,
}

impl Sum {
    /// The sum of no bytes.
    pub const EMPTY: Sum = Sum { folded: 0, odd: false };

    /// The sum of `bytes`.
    pub fn of(bytes: &[u8]) -> Sum {
        Sum { folded: copy_sum::sum(bytes), odd: bytes.len() % 2 == 1 }
    }

    /// A sum taken elsewhere, fused with a copy: `folded` is the ones'-complement sum of `len` bytes
    /// as big-endian words, the last one padded with a zero byte where `len` is odd.
    pub const fn from_folded(folded: u16, len: usize) -> Sum {
        Sum { folded, odd: len % 2 == 1 }
    }

    /// The sum as big-endian words, not complemented; what a device that completes a checksum wants
    /// to find in the field.
    pub const fn folded(self) -> u16 {
        self.folded
    }

    /// The sum of what was added so far followed by `bytes`.
    #[must_use]
    pub fn then(self, bytes: &[u8]) -> Sum {
        self.then_sum(Sum::of(bytes))
    }

    /// The sum of what was added so far followed by the bytes behind `next`.
    #[must_use]
    pub const fn then_sum(self, next: Sum) -> Sum {
        // RFC 1071 §2(B): a piece that starts at an odd offset counts with its bytes swapped.
        let folded = if self.odd { next.folded.swap_bytes() } else { next.folded };
        Sum { folded: add(self.folded, folded), odd: self.odd != next.odd }
    }

    /// The value of the checksum field (host order) when these were all bytes with the field as zero.
    pub const fn field(self) -> u16 {
        !self.folded
    }

    /// True when these were all bytes, the field among them, and nothing was changed on the way.
    pub const fn is_valid(self) -> bool {
        self.folded == 0xffff
    }
}

/// The sum of the pseudo header of TCP, UDP or ICMPv6: RFC 9293 §3.1, RFC 768, RFC 8200 §8.1.
///
/// `len` is the length of the transport header and its payload in bytes.
pub fn pseudo_header(pair: &AddressPair, protocol: u8, len: u32) -> Sum {
    let addresses = match pair {
        AddressPair::V4 { src, dst } => u64::from(src.to_bits()) + u64::from(dst.to_bits()),
        // RFC 8200 §8.1: the addresses as they stand on the wire.
        AddressPair::V6 { src, dst } => halves(zone::without(*src)) + halves(zone::without(*dst)),
    };
    // Both layouts have the same sum: zero bytes add nothing and every field is aligned to 16 bits.
    let wide = addresses + u64::from(len) + u64::from(protocol);
    let wide = (wide >> 32) + (wide & 0xffff_ffff);
    let wide = (wide >> 16) + (wide & 0xffff);
    let wide = (wide >> 16) + (wide & 0xffff);
    Sum { folded: ((wide >> 16) + (wide & 0xffff)) as u16, odd: false }
}

/// The words of 32 bits of an address, added.
fn halves(addr: Ipv6Addr) -> u64 {
    let bits = addr.to_bits();
    (0..4).map(|n| u64::from((bits >> (32 * n)) as u32)).sum()
}

/// The checksum field after one 16-bit word that it covers changed from `old` to `new`: RFC 1624
/// equation 3, `HC' = ~(~HC + ~m + m')`. All three in host order.
pub const fn update(field: u16, old: u16, new: u16) -> u16 {
    !add(add(!field, !old), new)
}

/// [`update`] for an address or another 32-bit value that starts at an even offset.
pub const fn update_u32(field: u16, old: u32, new: u32) -> u16 {
    let high = update(field, (old >> 16) as u16, (new >> 16) as u16);
    update(high, old as u16, new as u16)
}

/// Ones'-complement addition: the carry comes round.
const fn add(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    sum + carry as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::{Ipv4Addr, Ipv6Addr};
    use proptest::prelude::*;

    /// RFC 1071 §1 to the letter: 16-bit words, end-around carry, zero padding.
    fn naive(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            let word = u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum += word;
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    #[test]
    fn the_example_of_rfc_1071() {
        // RFC 1071 §3: 00 01 f2 03 f4 f5 f6 f7 sums to ddf2.
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::of(&bytes).folded(), 0xddf2);
        assert_eq!(Sum::of(&bytes).field(), 0x220d);
    }

    #[test]
    fn the_example_of_rfc_1624() {
        // RFC 1624 §4: HC = dd2f, m = 5555, m' = 3285 gives 0000.
        assert_eq!(update(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    #[test]
    fn all_ones_and_all_zeros() {
        assert_eq!(Sum::of(&[0xff; 64]).folded(), 0xffff);
        assert_eq!(Sum::of(&[0; 64]).folded(), 0);
        assert_eq!(Sum::of(&[]), Sum::EMPTY);
        assert!(Sum::of(&[0xff; 65535]).folded() == naive(&[0xff; 65535]));
    }

    #[test]
    fn pseudo_headers_as_laid_out_in_the_rfcs() {
        let (src, dst) = (Ipv4Addr::new(10, 1, 2, 3), Ipv4Addr::new(192, 168, 255, 254));
        let mut flat = Vec::new();
        flat.extend(src.octets());
        flat.extend(dst.octets());
        flat.extend([0, 6]);
        flat.extend(1234u16.to_be_bytes());
        assert_eq!(pseudo_header(&AddressPair::V4 { src, dst }, 6, 1234).folded(), naive(&flat));

        let (src, dst) = (Ipv6Addr::LOCALHOST, Ipv6Addr::new(0x2001, 0xdb8, 1, 2, 3, 4, 5, 0xffff));
        let mut flat = Vec::new();
        flat.extend(src.octets());
        flat.extend(dst.octets());
        flat.extend(70_000u32.to_be_bytes());
        flat.extend([0, 0, 0, 17]);
        assert_eq!(pseudo_header(&AddressPair::V6 { src, dst }, 17, 70_000).folded(), naive(&flat));
    }

    proptest! {
        #[test]
        fn fast_equals_naive(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
            prop_assert_eq!(Sum::of(&bytes).folded(), naive(&bytes));
        }

        #[test]
        fn extreme_bytes_carry_the_same(bytes in prop::collection::vec(prop_oneof![Just(0u8), Just(0xff), Just(0xfe), Just(1)], 0..300)) {
            prop_assert_eq!(Sum::of(&bytes).folded(), naive(&bytes));
        }

        #[test]
        fn pieces_add_up(bytes in prop::collection::vec(any::<u8>(), 0..2000),
                         cuts in prop::collection::vec(0usize..2000, 0..8)) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(bytes.len())).collect();
            cuts.sort_unstable();
            cuts.push(bytes.len());
            let (mut sum, mut from) = (Sum::EMPTY, 0);
            for cut in cuts {
                let piece = &bytes[from..cut];
                sum = if from % 3 == 0 { sum.then(piece) } else {
                    sum.then_sum(Sum::from_folded(naive(piece), piece.len()))
                };
                from = cut;
            }
            prop_assert_eq!(sum, Sum::of(&bytes));
        }

        #[test]
        fn a_filled_field_verifies_and_a_flipped_bit_does_not(
            mut bytes in prop::collection::vec(any::<u8>(), 20..200), at in 0usize..9, bit in 0usize..160
        ) {
            bytes[at * 2] = 0;
            bytes[at * 2 + 1] = 0;
            let field = Sum::of(&bytes).field();
            bytes[at * 2..at * 2 + 2].copy_from_slice(&field.to_be_bytes());
            prop_assert!(Sum::of(&bytes).is_valid());
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(!Sum::of(&bytes).is_valid());
        }

        #[test]
        fn an_update_keeps_the_checksum_valid(
            mut bytes in prop::collection::vec(any::<u8>(), 20..60), new in any::<u32>()
        ) {
            bytes[0] |= 1;
            bytes[10] = 0;
            bytes[11] = 0;
            let field = Sum::of(&bytes).field();
            let old = u32::from_be_bytes(bytes[12..16].try_into().unwrap());
            bytes[12..16].copy_from_slice(&new.to_be_bytes());
            let updated = update_u32(field, old, new);
            prop_assert_eq!(updated, Sum::of(&bytes).field());
        }
    }
}
