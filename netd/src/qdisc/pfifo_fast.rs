//! The egress queue of an interface: three bands, first in first out each, the first band first
//! (pfifo_fast of tc-prio(8) and `net/sched/sch_generic.c`).
//!
//! Owned by whoever hands frames to the device; pure. A frame's band follows from the type of service in its
//! IP header; what is no packet of IP has the priority of best effort. The queue is bounded as a whole: what
//! finds it full is refused, and the caller counts it.

use std::collections::VecDeque;

/// Bands.
pub const BANDS: usize = 3;

/// Linux's `ip_tos2prio`, by the four bits of RFC 1349.
const PRIORITY_OF: [u8; 16] = {
    const BEST_EFFORT: u8 = 0;
    const BULK: u8 = 2;
    const INTERACTIVE_BULK: u8 = 4;
    const INTERACTIVE: u8 = 6;
    let mut table = [BEST_EFFORT; 16];
    let mut at = 0;
    while at < 16 {
        table[at] = match at / 4 {
            0 => BEST_EFFORT,
            1 => BULK,
            2 => INTERACTIVE,
            _ => INTERACTIVE_BULK,
        };
        at += 1;
    }
    table
};

/// Linux's `prio2band`: the default priomap of tc-prio(8).
const BAND_OF: [u8; 16] = [1, 2, 2, 2, 1, 2, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1];

/// The band of a type of service (of an IPv6 traffic class likewise).
pub const fn band_of_tos(tos: u8) -> usize {
    BAND_OF[PRIORITY_OF[(tos as usize & 0x1e) >> 1] as usize] as usize
}

/// The band of the frame that begins with `head`, a link header and the first bytes behind it.
pub fn band_of_frame(head: &[u8]) -> usize {
    match head {
        [_, _, _, _, _, _, _, _, _, _, _, _, 0x08, 0x00, _, tos, ..] => band_of_tos(*tos),
        [_, _, _, _, _, _, _, _, _, _, _, _, 0x86, 0xdd, high, low, ..] => band_of_tos(high << 4 | low >> 4),
        _ => band_of_tos(0),
    }
}

/// Bytes of a frame that [`band_of_frame`] looks at.
pub const LOOKED_AT: usize = 16;

/// A queue of `T`.
#[derive(Debug)]
pub struct PfifoFast<T> {
    bands: [VecDeque<T>; BANDS],
    limit: usize,
}

impl<T> PfifoFast<T> {
    /// For `limit` entries in all bands together.
    pub fn new(limit: usize) -> PfifoFast<T> {
        PfifoFast { bands: [const { VecDeque::new() }; BANDS], limit }
    }

    /// Entries in all bands.
    pub fn len(&self) -> usize {
        self.bands.iter().map(VecDeque::len).sum()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.bands.iter().all(VecDeque::is_empty)
    }

    /// Puts an entry at the end of its band. `false` when the queue is full: the entry is gone.
    #[must_use = "what is refused is counted"]
    pub fn push(&mut self, band: usize, entry: T) -> bool {
        let room = self.len() < self.limit;
        if room {
            self.bands[band].push_back(entry);
        }
        room
    }

    /// The entry that goes next.
    pub fn front(&self) -> Option<&T> {
        self.bands.iter().find_map(VecDeque::front)
    }

    /// Takes it.
    pub fn pop(&mut self) -> Option<T> {
        self.bands.iter_mut().find_map(VecDeque::pop_front)
    }

    /// Everything goes, in order.
    pub fn drain(&mut self) -> impl Iterator<Item = T> + '_ {
        self.bands.iter_mut().flat_map(|band| band.drain(..))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_priomap_is_linuxs() {
        // tc-prio(8): minimise delay 0x10, maximise throughput 0x08, maximise reliability 0x04, minimise
        // cost 0x02; the lowest bits are ECN's today.
        for (tos, band) in [
            (0, 1),
            (0x02, 1),
            (0x04, 1),
            (0x08, 2),
            (0x0c, 2),
            (0x10, 0),
            (0x14, 0),
            (0x18, 1),
            (0x1c, 1),
            (0xb8, 1),
            (0x11, 0),
        ] {
            assert_eq!(band_of_tos(tos), band, "{tos:#x}");
        }
        let mut v4 = [0; 20];
        v4[12..16].copy_from_slice(&[8, 0, 0x45, 0x10]);
        assert_eq!(band_of_frame(&v4), 0);
        let mut v6 = [0; 20];
        v6[12..16].copy_from_slice(&[0x86, 0xdd, 0x60 | 0x01, 0x00]);
        assert_eq!(band_of_frame(&v6), 0);
        assert_eq!((band_of_frame(&[0; 14]), band_of_frame(&[])), (1, 1));
    }

    #[test]
    fn the_first_band_goes_first_and_a_full_queue_refuses() {
        let mut queue = PfifoFast::new(4);
        for (band, entry) in [(2, 'a'), (1, 'b'), (0, 'c'), (1, 'd')] {
            assert!(queue.push(band, entry));
        }
        assert!(!queue.push(0, 'e'), "bounded whatever its band");
        assert_eq!(queue.front(), Some(&'c'));
        assert_eq!(core::iter::from_fn(|| queue.pop()).collect::<String>(), "cbda");
        assert!(queue.is_empty());
        let _ = queue.push(1, 'x');
        assert_eq!(queue.drain().count(), 1);
    }
}
