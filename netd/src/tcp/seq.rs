//! The two kinds of sequence numbers, which can't be mixed.
//!
//! [`SeqNum`] is what stands in a header: 32 bits that wrap (RFC 9293 §3.4). [`Position`] is what
//! the machine reckons with: 64 bits that only grow, counted from the initial sequence number of
//! that direction. The SYN occupies position 0, byte `i` of the stream position `i + 1`, the FIN
//! position `len + 1`. A header's number becomes a position through its signed distance to a
//! position that is known to be near ([`Position::near`]); nothing else compares wrapped numbers.

use core::fmt;

/// A sequence or acknowledgement number as it stands in a header: it wraps (RFC 9293 §3.4).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct SeqNum(u32);

impl SeqNum {
    /// From the header's 32 bits.
    pub const fn new(raw: u32) -> Self {
        SeqNum(raw)
    }

    /// The header's 32 bits.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// This number moved on by `octets`, modulo 2^32.
    #[must_use]
    pub const fn plus(self, octets: u32) -> Self {
        SeqNum(self.0.wrapping_add(octets))
    }

    /// This number moved back by `octets`, modulo 2^32.
    #[must_use]
    pub const fn minus(self, octets: u32) -> Self {
        SeqNum(self.0.wrapping_sub(octets))
    }

    /// Signed distance from `earlier` to `self`, right when they lie within 2^31 of each other.
    pub const fn since(self, earlier: SeqNum) -> i32 {
        self.0.wrapping_sub(earlier.0) as i32
    }

    /// Whether `self` comes before `other` (RFC 9293 §3.4, `self < other` modulo 2^32).
    pub const fn before(self, other: SeqNum) -> bool {
        self.since(other) < 0
    }

    /// Whether `self` comes after `other`.
    pub const fn after(self, other: SeqNum) -> bool {
        self.since(other) > 0
    }
}

impl fmt::Debug for SeqNum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seq {}", self.0)
    }
}

/// A place in one direction of a connection, counted from its initial sequence number; never wraps.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position(u64);

impl Position {
    /// The place of the SYN.
    pub const SYN: Position = Position(0);

    /// The place of the first byte of the stream.
    pub const FIRST: Position = Position(1);

    /// From a count of sequence numbers since the initial one.
    pub const fn new(raw: u64) -> Self {
        Position(raw)
    }

    /// The count of sequence numbers since the initial one.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The place of byte `offset` of the stream.
    pub const fn of_offset(offset: u64) -> Self {
        Position(offset.saturating_add(1))
    }

    /// The stream offset of the byte at this place; the SYN counts as offset 0.
    pub const fn offset(self) -> u64 {
        self.0.saturating_sub(1)
    }

    /// This place moved on by `octets`.
    #[must_use]
    pub const fn plus(self, octets: u64) -> Self {
        Position(self.0.saturating_add(octets))
    }

    /// This place moved back by `octets`, not beyond the SYN.
    #[must_use]
    pub const fn minus(self, octets: u64) -> Self {
        Position(self.0.saturating_sub(octets))
    }

    /// How far `self` lies behind `earlier`; 0 when it doesn't.
    pub const fn since(self, earlier: Position) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The header's number for this place, given the initial sequence number of the direction.
    pub const fn on_wire(self, initial: SeqNum) -> SeqNum {
        initial.plus(self.0 as u32)
    }

    /// The place a header's number means, being the one within 2^31 of `reference`; `None` when
    /// that would lie before the SYN.
    pub fn near(seq: SeqNum, initial: SeqNum, reference: Position) -> Option<Position> {
        let distance = i64::from(seq.since(reference.on_wire(initial)));
        reference.0.checked_add_signed(distance).map(Position)
    }

    /// The lesser of two places.
    #[must_use]
    pub fn min(self, other: Position) -> Position {
        Ord::min(self, other)
    }

    /// The greater of two places.
    #[must_use]
    pub fn max(self, other: Position) -> Position {
        Ord::max(self, other)
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "@{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn comparison_wraps() {
        let high = SeqNum::new(u32::MAX - 1);
        let low = high.plus(5);
        assert!(high.before(low));
        assert!(low.after(high));
        assert!(!low.before(low));
        assert_eq!(low.since(high), 5);
    }

    #[test]
    fn before_the_syn_is_no_place() {
        let initial = SeqNum::new(100);
        assert_eq!(Position::near(SeqNum::new(99), initial, Position::FIRST), None);
        assert_eq!(Position::near(SeqNum::new(100), initial, Position::FIRST), Some(Position::SYN));
    }

    proptest! {
        #[test]
        fn wire_and_back(initial: u32, reference in 0u64..1 << 50, distance in -(1i64 << 31)..1 << 31) {
            let initial = SeqNum::new(initial);
            let reference = Position::new(reference);
            let place = reference.get().checked_add_signed(distance).map(Position::new);
            prop_assume!(place.is_some());
            let place = place.unwrap();
            prop_assert_eq!(Position::near(place.on_wire(initial), initial, reference), Some(place));
        }
    }
}
