//! Initial sequence numbers (RFC 6528 §3) and timestamp offsets (RFC 7323 §7.1).
//!
//! Both are keyed hashes of the flow, so that they mean nothing to others, and both run on the
//! host's absolute clock (INV-T5): a successor with the same key goes on where its predecessor
//! stopped. The caller says what bytes name a flow; the machine knows no addresses.

use core::hash::Hasher;

use proto::time::Instant;
use siphasher::sip::SipHasher24;

use super::seq::SeqNum;

/// The secrets of a stack. They stand in a region that only the stack maps.
#[derive(Clone)]
pub struct Secrets {
    /// For initial sequence numbers.
    pub isn: [u8; 16],
    /// For timestamp offsets.
    pub timestamps: [u8; 16],
    /// For SYN cookies.
    pub cookie: [u8; 16],
}

impl core::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Secrets(..)")
    }
}

/// RFC 6528 §3: ISN = M + F(flow, key), M a clock of 4 microseconds.
pub fn initial_sequence(secrets: &Secrets, flow: &[u8], now: Instant) -> SeqNum {
    let clock = (now.micros() / 4) as u32;
    SeqNum::new(keyed_hash(&secrets.isn, flow) as u32).plus(clock)
}

/// What a connection adds to the millisecond clock in its TSval (RFC 7323 §5.4 and §7.1).
pub fn timestamp_offset(secrets: &Secrets, flow: &[u8]) -> u32 {
    keyed_hash(&secrets.timestamps, flow) as u32
}

/// SipHash-2-4 of `bytes`.
pub(super) fn keyed_hash(key: &[u8; 16], bytes: &[u8]) -> u64 {
    let mut hasher = SipHasher24::new_with_key(key);
    hasher.write(bytes);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::time::Duration;

    fn secrets() -> Secrets {
        Secrets { isn: [1; 16], timestamps: [2; 16], cookie: [3; 16] }
    }

    #[test]
    fn the_clock_runs_at_four_microseconds() {
        let start = Instant::from_millis(77);
        let first = initial_sequence(&secrets(), b"flow", start);
        let later = initial_sequence(&secrets(), b"flow", start + Duration::from_millis(1));
        assert_eq!(later.since(first), 250);
    }

    #[test]
    fn flows_and_keys_differ() {
        let now = Instant::from_millis(5);
        let mut other = secrets();
        other.isn = [9; 16];
        let one = initial_sequence(&secrets(), b"one", now);
        assert_ne!(one, initial_sequence(&secrets(), b"two", now));
        assert_ne!(one, initial_sequence(&other, b"one", now));
        assert_ne!(timestamp_offset(&secrets(), b"one"), timestamp_offset(&secrets(), b"two"));
    }
}
