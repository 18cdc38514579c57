//! What a bad network does to frames: loss, doubles, delay, reordering, flipped bits.
//!
//! Pure: decided by a seeded generator, time is an argument. Frames are held in private memory until
//! they are due.

use crate::counts::{Count, Counts};
use core::time::Duration;
use proto::Instant;
use proto::control::messages::WireFaults;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Frames that are held at once: 50 ms of a gigabit in full frames.
const HELD_MAX: usize = 4096;
/// The longest time that a reordered frame is held back beyond the delay.
const REORDER_US_MAX: u64 = 2_000;
/// Probabilities are in parts of this.
const PPM: u64 = 1_000_000;

/// The generator SplitMix64 (Steele, Lea, Flood 2014): small, seeded, good enough to draw lots.
#[derive(Debug, Clone)]
struct Lots(u64);

impl Lots {
    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn happens(&mut self, ppm: u32) -> bool {
        self.draw() % PPM < u64::from(ppm)
    }
}

/// A frame on its way: when it is due, its number, its bytes. The earliest due comes first.
type Held = Reverse<(Instant, u64, Vec<u8>)>;

/// The faults of one direction.
#[derive(Debug)]
pub struct Faults {
    rules: WireFaults,
    lots: Lots,
    number: u64,
    held: BinaryHeap<Held>,
}

impl Faults {
    /// Faults by these rules.
    pub fn new(rules: WireFaults) -> Self {
        Faults { rules, lots: Lots(rules.seed), number: 0, held: BinaryHeap::new() }
    }

    /// Whether there are any; without, frames need not come by here.
    pub fn any(&self) -> bool {
        let WireFaults { loss_ppm, dup_ppm, reorder_ppm, corrupt_ppm, delay_us, seed: _ } = self.rules;
        [loss_ppm, dup_ppm, reorder_ppm, corrupt_ppm, delay_us] != [0; 5]
    }

    /// Whether no frame can be taken now.
    pub fn is_full(&self) -> bool {
        self.held.len() + 2 > HELD_MAX
    }

    /// Takes a frame that is sent now.
    pub fn take(&mut self, mut bytes: Vec<u8>, now: Instant, counts: &mut Counts) {
        if self.lots.happens(self.rules.loss_ppm) {
            return counts.count(Count::WireLost);
        }
        if self.lots.happens(self.rules.corrupt_ppm) && !bytes.is_empty() {
            let bit = self.lots.draw() as usize % (bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            counts.count(Count::WireCorrupted);
        }
        if self.lots.happens(self.rules.dup_ppm) {
            self.hold(bytes.clone(), now, counts);
            counts.count(Count::WireDoubled);
        }
        self.hold(bytes, now, counts);
    }

    fn hold(&mut self, bytes: Vec<u8>, now: Instant, counts: &mut Counts) {
        let mut due = now + Duration::from_micros(self.rules.delay_us.into());
        if self.lots.happens(self.rules.reorder_ppm) {
            due = due + Duration::from_micros(1 + self.lots.draw() % REORDER_US_MAX);
            counts.count(Count::WireReordered);
        }
        self.number += 1;
        self.held.push(Reverse((due, self.number, bytes)));
    }

    /// The first frame that is due.
    pub fn due(&self, now: Instant) -> Option<&[u8]> {
        self.held.peek().filter(|Reverse((due, ..))| *due <= now).map(|Reverse((.., bytes))| &bytes[..])
    }

    /// It has been sent.
    pub fn forget_first(&mut self) {
        self.held.pop();
    }

    /// When the next frame is due.
    pub fn next_due(&self) -> Option<Instant> {
        self.held.peek().map(|Reverse((due, ..))| *due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(rules: WireFaults) -> (Vec<Vec<u8>>, Counts) {
        let (mut faults, mut counts) = (Faults::new(rules), Counts::default());
        let mut out = Vec::new();
        for n in 0..1000u32 {
            let now = Instant::from_nanos(u64::from(n) * 100_000);
            faults.take(n.to_be_bytes().to_vec(), now, &mut counts);
            while let Some(bytes) = faults.due(now) {
                out.push(bytes.to_vec());
                faults.forget_first();
            }
        }
        while let Some(due) = faults.next_due() {
            out.push(faults.due(due).expect("due").to_vec());
            faults.forget_first();
        }
        (out, counts)
    }

    #[test]
    fn counts_say_what_happened_and_a_seed_says_it_again() {
        let rules = WireFaults { loss_ppm: 100_000, dup_ppm: 50_000, seed: 5, ..WireFaults::default() };
        let (out, counts) = run(rules);
        let (lost, doubled) = (counts.get(Count::WireLost), counts.get(Count::WireDoubled));
        assert!((50..200).contains(&lost) && (20..100).contains(&doubled), "{lost} {doubled}");
        assert_eq!(out.len() as u64, 1000 - lost + doubled);
        assert!(out.is_sorted());
        assert_eq!(run(rules), (out.clone(), counts));
        assert_ne!(run(WireFaults { seed: 6, ..rules }).0, out);
    }

    #[test]
    fn reordering_and_corruption_lose_nothing() {
        let rules = WireFaults { reorder_ppm: 100_000, delay_us: 300, seed: 1, ..WireFaults::default() };
        let (mut out, counts) = run(rules);
        assert!(!out.is_sorted() && counts.get(Count::WireReordered) > 0);
        out.sort();
        assert_eq!(out, run(WireFaults::default()).0);
        let (out, counts) = run(WireFaults { corrupt_ppm: 100_000, ..WireFaults::default() });
        let wrong = (0u32..).zip(&out).filter(|(n, bytes)| bytes[..] != n.to_be_bytes()).count() as u64;
        assert!(wrong == counts.get(Count::WireCorrupted) && wrong > 0);
    }
}
