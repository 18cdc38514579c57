//! The cable between the two hosts, and what it does to frames.
//!
//! Ethernet has a check sequence that this cable lacks: what it flips lies behind the link header
//! and is not ARP, so that a checksum of the stack's own protocols covers it.

use super::rng::Rng;
use std::collections::BTreeMap;
use std::time::Duration;

/// What the cable does at random. Probabilities are in parts per million.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Faults {
    /// Frames lost.
    pub loss_ppm: u32,
    /// Frames delivered twice.
    pub dup_ppm: u32,
    /// Frames held back behind later ones.
    pub reorder_ppm: u32,
    /// Frames with a flipped bit.
    pub corrupt_ppm: u32,
    /// One-way delay.
    pub delay: Duration,
    /// How long a frame is held back at most.
    pub hold: Duration,
    /// What one direction takes longer than the other.
    pub behind: Duration,
    /// So many frames are lost in a row where one burst begins, by [`Faults::burst_ppm`].
    pub burst: u32,
    /// Bursts of losses that begin.
    pub burst_ppm: u32,
    /// Every so many frames a storm begins; 0 for never.
    pub storm_every: u32,
    /// How many frames it lasts.
    pub storm: u32,
    /// Frames lost in a storm.
    pub storm_ppm: u32,
    /// In a storm longer frames vanish, as on a path whose MTU became smaller; 0 for none.
    pub storm_mtu: u32,
}

/// A cable that does nothing but take its time.
pub const CLEAN: Faults = Faults {
    loss_ppm: 0,
    dup_ppm: 0,
    reorder_ppm: 0,
    corrupt_ppm: 0,
    delay: Duration::from_micros(200),
    hold: Duration::from_millis(2),
    behind: Duration::ZERO,
    burst: 0,
    burst_ppm: 0,
    storm_every: 0,
    storm: 0,
    storm_ppm: 0,
    storm_mtu: 0,
};

/// What happens to the n-th IP frame of a direction, written down in advance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Lost.
    Lose,
    /// Delivered twice.
    Twice,
    /// Held back behind the frames of the next moments.
    Late,
}

/// What the cable has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Done {
    /// Frames handed in.
    pub frames: u64,
    /// Lost ones.
    pub lost: u64,
    /// Doubled ones.
    pub doubled: u64,
    /// Held back ones.
    pub late: u64,
    /// Corrupted ones.
    pub corrupted: u64,
}

/// The cable.
#[derive(Debug)]
pub struct Network {
    /// What happens at random.
    pub faults: Faults,
    /// What happens by plan: direction (the sending host) and number of the IP frame from 0.
    pub fates: BTreeMap<(usize, u32), Fate>,
    /// What happened.
    pub done: Done,
    counts: [u32; 2],
    rng: Rng,
    /// Frames of a burst that are still to be lost.
    burst_left: u32,
}

const ETHERTYPE_AT: usize = 12;
const HEADER_LEN: usize = 14;

impl Network {
    /// A cable.
    pub fn new(faults: Faults, rng: Rng) -> Network {
        Network { faults, fates: BTreeMap::new(), done: Done::default(), counts: [0; 2], rng, burst_left: 0 }
    }

    /// Begins to count frames for [`Network::fates`].
    pub fn count_from_here(&mut self) {
        self.counts = [0; 2];
    }

    /// The last burst and the last storm are over. They are counted in frames: when hardly any are sent, one would
    /// last for minutes, and take every repetition of a segment with it.
    pub fn calm_down(&mut self) {
        self.burst_left = 0;
        self.faults = Faults { burst: 0, burst_ppm: 0, storm_every: 0, ..self.faults };
    }

    /// Bursts and storms, which draw nothing where there are none.
    fn is_stormy(&mut self, frame: &[u8]) -> bool {
        let Faults { burst, burst_ppm, storm_every, storm, storm_ppm, storm_mtu, .. } = self.faults;
        if self.burst_left > 0 {
            self.burst_left -= 1;
            return true;
        }
        if burst_ppm > 0 && self.rng.chance(burst_ppm) {
            self.burst_left = burst;
        }
        let inside = storm_every > 0 && self.done.frames % u64::from(storm_every) < u64::from(storm);
        let long = storm_mtu > 0 && frame.len() > HEADER_LEN + storm_mtu as usize;
        inside && (long || self.rng.chance(storm_ppm))
    }

    /// What becomes of a frame that `from` sends: after which delays which bytes arrive.
    pub fn carry(&mut self, from: usize, frame: Vec<u8>) -> Vec<(Duration, Vec<u8>)> {
        let Faults { loss_ppm, dup_ppm, reorder_ppm, corrupt_ppm, delay, hold, .. } = self.faults;
        let delay = delay + if from == 1 { self.faults.behind } else { Duration::ZERO };
        self.done.frames += 1;
        // IPv6 has no checksum over its header, as every link has one: what is harmed lies behind it.
        let harmed_from = match frame.get(ETHERTYPE_AT..HEADER_LEN) {
            Some([0x08, 0x00]) => HEADER_LEN,
            Some([0x86, 0xdd]) => HEADER_LEN + 40,
            _ => frame.len(),
        };
        let ip = harmed_from < frame.len();
        let mut fate = None;
        if ip {
            fate = self.fates.get(&(from, self.counts[from])).copied();
            self.counts[from] += 1;
        }
        if fate == Some(Fate::Lose) || self.rng.chance(loss_ppm) || self.is_stormy(&frame) {
            self.done.lost += 1;
            return Vec::new();
        }
        let mut wait = delay + Duration::from_nanos(self.rng.below(1 + delay.as_nanos() as u64 / 50));
        if fate == Some(Fate::Late) {
            self.done.late += 1;
            wait += hold;
        } else if self.rng.chance(reorder_ppm) {
            self.done.late += 1;
            wait += Duration::from_nanos(self.rng.below(1 + hold.as_nanos() as u64));
        }
        let mut arrivals = Vec::with_capacity(2);
        if fate == Some(Fate::Twice) || self.rng.chance(dup_ppm) {
            self.done.doubled += 1;
            let again = wait + Duration::from_nanos(self.rng.below(1 + hold.as_nanos() as u64));
            arrivals.push((again, frame.clone()));
        }
        let mut frame = frame;
        if ip && self.rng.chance(corrupt_ppm) {
            self.done.corrupted += 1;
            let at = self.rng.between(harmed_from as u64, frame.len() as u64 - 1) as usize;
            frame[at] ^= 1 << self.rng.below(8);
        }
        arrivals.push((wait, frame));
        arrivals
    }
}
