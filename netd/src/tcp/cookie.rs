//! SYN cookies (RFC 4987 §3.6): a half-open connection kept in the remote's own answer.
//!
//! ```text
//! initial sequence number      31     27 26  24 23                     0
//!                             | time (5) | mss (3) | keyed hash (24)    |
//! TSval of the SYN-ACK         31                         6  5   4  3     0
//!                             | clock of the connection (26) | E | S | wscale |
//! ```
//!
//! The time counts 64 seconds. The low six bits of TSval carry what else the SYN offered: ECN (E), SACK
//! (S) and the window scale (15: none); they are part of the hash, so that only what was offered comes
//! back. Without timestamps the connection goes without both. Nothing here keeps state.

use proto::time::Instant;

use super::isn::keyed_hash;
use super::segment::Segment;
use super::seq::SeqNum;
use super::window::SCALE_MAX;

/// Sizes a cookie can name, in rising order: what common links announce.
const MSS_TABLE: [u16; 8] = [216, 536, 1220, 1360, 1400, 1440, 1460, 8960];

/// Seconds a tick of the cookie's clock takes.
const TICK_S: u64 = 64;

/// Ticks a cookie stays good: it lives for 64 to 128 seconds.
const AGE_MAX: u32 = 1;

/// The window scale field that says there was none.
const NO_SCALE: u8 = 15;

/// What a cookie remembers of a SYN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// The remote's MSS, rounded down to one the cookie can name.
    pub mss: u16,
    /// The remote's window scale.
    pub window_scale: Option<u8>,
    /// The remote permits SACK.
    pub sack: bool,
    /// The remote has timestamps.
    pub timestamps: bool,
    /// The remote asked for ECN, and got it (RFC 3168 §6.1.1).
    pub ecn: bool,
}

/// A cookie made of a SYN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cookie {
    /// The initial sequence number of the SYN-ACK.
    pub isn: SeqNum,
    /// The TSval of the SYN-ACK; meaningless without timestamps.
    pub timestamp: u32,
    /// What the SYN-ACK may agree to.
    pub offer: Offer,
}

/// Makes the cookie for `syn`. `clock` is the connection's TSval clock now.
pub fn make(
    key: &[u8; 16],
    flow: &[u8],
    syn: &Segment,
    default_mss: u16,
    ecn: bool,
    now: Instant,
    clock: u32,
) -> Cookie {
    let options = &syn.options;
    let timestamps = options.timestamps.is_some();
    let said = options.mss.unwrap_or(default_mss);
    let index = MSS_TABLE.iter().rposition(|m| *m <= said).unwrap_or(0);
    let scale = options.window_scale.filter(|_| timestamps).map(|s| s.min(SCALE_MAX));
    let sack = options.sack_permitted && timestamps;
    let ecn = ecn && timestamps;
    let extras =
        if timestamps { u8::from(ecn) << 5 | u8::from(sack) << 4 | scale.unwrap_or(NO_SCALE) } else { 0 };
    let tick = tick(now);
    let isn = encode(key, flow, syn.seq, tick, index as u32, extras, timestamps);
    // The greatest value not above the clock with these low bits, so that it never runs backwards.
    let stamped = (clock & !0x3f) | u32::from(extras);
    let timestamp = if stamped.wrapping_sub(clock) as i32 > 0 { stamped.wrapping_sub(64) } else { stamped };
    let offer = Offer { mss: MSS_TABLE[index], window_scale: scale, sack, timestamps, ecn };
    Cookie { isn, timestamp, offer }
}

/// Whether `ack` answers a cookie of this key, and what the SYN had offered.
pub fn check(key: &[u8; 16], flow: &[u8], ack: &Segment, now: Instant) -> Option<Offer> {
    let cookie = ack.ack.minus(1).get();
    let remote_isn = ack.seq.minus(1);
    let timestamps = ack.options.timestamps.is_some();
    let extras = ack.options.timestamps.map_or(0, |t| (t.echo & 0x3f) as u8);
    let now = tick(now);
    let age = now.wrapping_sub(cookie >> 27) & 0x1f;
    if age > AGE_MAX {
        return None;
    }
    let index = cookie >> 24 & 0x7;
    let expected = encode(key, flow, remote_isn, now.wrapping_sub(age), index, extras, timestamps);
    if expected.get() != cookie {
        return None;
    }
    let scale = extras & 0xf;
    Some(Offer {
        mss: MSS_TABLE[index as usize],
        window_scale: (timestamps && scale <= SCALE_MAX).then_some(scale),
        sack: timestamps && extras & 0x10 != 0,
        timestamps,
        ecn: timestamps && extras & 0x20 != 0,
    })
}

fn tick(now: Instant) -> u32 {
    (now.millis() / 1000 / TICK_S) as u32
}

fn encode(
    key: &[u8; 16],
    flow: &[u8],
    remote_isn: SeqNum,
    tick: u32,
    index: u32,
    extras: u8,
    timestamps: bool,
) -> SeqNum {
    let salt = keyed_hash(key, flow);
    let mut bytes = [0; 18];
    bytes[..8].copy_from_slice(&salt.to_le_bytes());
    bytes[8..12].copy_from_slice(&remote_isn.get().to_le_bytes());
    bytes[12..16].copy_from_slice(&tick.to_le_bytes());
    bytes[16] = index as u8 | u8::from(timestamps) << 7;
    bytes[17] = extras;
    let hash = keyed_hash(key, &bytes) as u32 & 0x00ff_ffff;
    SeqNum::new((tick & 0x1f) << 27 | index << 24 | hash)
}

#[cfg(test)]
mod tests {
    use super::super::segment::{Flags, Options, Timestamps};
    use super::*;
    use core::time::Duration;
    use proptest::prelude::*;

    const KEY: [u8; 16] = [5; 16];

    fn syn(options: Options) -> Segment {
        Segment { seq: SeqNum::new(77), flags: Flags::SYN, options, ..Segment::default() }
    }

    fn answer(cookie: &Cookie) -> Segment {
        let timestamps = cookie.offer.timestamps.then_some(Timestamps { value: 1, echo: cookie.timestamp });
        Segment {
            seq: SeqNum::new(78),
            ack: cookie.isn.plus(1),
            flags: Flags::ACK,
            options: Options { timestamps, ..Options::NONE },
            ..Segment::default()
        }
    }

    proptest! {
        #[test]
        fn what_was_offered_comes_back(
            mss in prop::option::of(any::<u16>()),
            scale in prop::option::of(any::<u8>()),
            sack: bool,
            timestamps: bool,
            ecn: bool,
            clock: u32,
            start in 0u64..1 << 40,
            age in 0u64..64_000,
        ) {
            let options = Options {
                mss,
                window_scale: scale,
                sack_permitted: sack,
                timestamps: timestamps.then_some(Timestamps { value: 9, echo: 0 }),
                ..Options::NONE
            };
            let now = Instant::from_millis(start);
            let cookie = make(&KEY, b"flow", &syn(options), 536, ecn, now, clock);
            prop_assert!(clock.wrapping_sub(cookie.timestamp) < 128);
            let later = now + Duration::from_millis(age);
            let offer = check(&KEY, b"flow", &answer(&cookie), later);
            prop_assert_eq!(offer, Some(cookie.offer));
            prop_assert!(cookie.offer.mss <= mss.unwrap_or(536).max(216));
            prop_assert_eq!(cookie.offer.sack, sack && timestamps);
            prop_assert_eq!(cookie.offer.ecn, ecn && timestamps);
        }

        #[test]
        fn what_was_not_made_here_fails(ack: u32, seq: u32) {
            let segment = Segment {
                seq: SeqNum::new(seq), ack: SeqNum::new(ack), flags: Flags::ACK, ..Segment::default()
            };
            // One in 2^24 of those with the right time would pass.
            prop_assert_eq!(check(&KEY, b"flow", &segment, Instant::from_millis(1)), None);
        }
    }

    #[test]
    fn cookies_grow_old_and_belong_to_one_flow() {
        let now = Instant::from_millis(500);
        let cookie = make(&KEY, b"flow", &syn(Options::NONE), 536, true, now, 0);
        let segment = answer(&cookie);
        assert!(check(&KEY, b"flow", &segment, now).is_some());
        assert!(check(&KEY, b"other", &segment, now).is_none());
        assert!(check(&[6; 16], b"flow", &segment, now).is_none());
        assert!(check(&KEY, b"flow", &segment, now + Duration::from_secs(128)).is_none());
    }

    #[test]
    fn the_extras_can_not_be_forged() {
        let options = Options { timestamps: Some(Timestamps { value: 9, echo: 0 }), ..Options::NONE };
        let now = Instant::from_millis(500);
        let cookie = make(&KEY, b"flow", &syn(options), 536, true, now, 1000);
        let mut segment = answer(&cookie);
        segment.options.timestamps = Some(Timestamps { value: 1, echo: cookie.timestamp ^ 0x10 });
        assert!(check(&KEY, b"flow", &segment, now).is_none());
    }
}
