//! The capture ring: what a tap in netd copied of the frames that went by, for anyone who may read it.
//!
//! ```text
//! byte 0       8        16     64                             576
//!      ┌───────┬────────┬──────┬──────────────────────────────┬──────
//!      │written│deadline│      │ slot 0                       │slot 1 …
//!      └───────┴────────┴──────┼────────┬─────────┬───────────┼──────
//!                              │sequence│header 24│bytes of the frame …
//!                              └────────┴─────────┴───────────┴──────
//! ```
//!
//! One writer, any number of readers that map the region read-only. The writer never waits and never
//! looks at a reader: it overwrites the oldest. A frame lies in consecutive slots of [`SLOT_SIZE`]
//! bytes, each with its own sequence word (twice the slot's number, odd while it is written), so a
//! reader sees when it was overtaken and never shows a torn frame. The writer copies only while the
//! clock is before `deadline`, a word that shard 0 sets when a reader asks for it; a reader that
//! dies stops asking.
//!
//! Soft state: a new netd goes on after the last number it finds.

use crate::shm::Memory;
use crate::time::Instant;
use core::sync::atomic::Ordering;

/// Layout version; changes with the place or meaning of anything here.
pub const LAYOUT: u32 = 1;

/// Bytes of a slot with its sequence word.
pub const SLOT_SIZE: usize = 512;
/// Number of slots; a power of two.
pub const SLOTS: u64 = 8192;
/// The most bytes of a frame that are kept.
pub const SNAP_MAX: usize = 65_535;
/// How long one request keeps the tap open; readers ask again before it is over.
pub const OPEN_FOR_MS: u64 = 2_000;

const WRITTEN_AT: usize = 0;
const DEADLINE_AT: usize = 8;
const SLOTS_AT: usize = 64;
const SEQUENCE_SIZE: usize = 8;
const SLOT_ROOM: usize = SLOT_SIZE - SEQUENCE_SIZE;
const HEADER_SIZE: usize = 24;
const MARK: u32 = u32::from_le_bytes(*b"tap1");

/// Size of the region in bytes.
pub const REGION_SIZE: usize = SLOTS_AT + SLOTS as usize * SLOT_SIZE;
const _: () = assert!(SLOTS.is_power_of_two());
const _: () = assert!(SNAP_MAX + HEADER_SIZE < SLOT_ROOM * SLOTS as usize / 4);

/// Which way a frame went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the wire.
    In,
    /// To the wire.
    Out,
}

/// A frame as it was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Captured {
    /// When, on the host's monotonic clock.
    pub at: Instant,
    /// Which way.
    pub way: Way,
    /// The interface's index.
    pub link: u16,
    /// Its length on the wire in bytes.
    pub wire_len: u32,
    /// Its first bytes, at most [`SNAP_MAX`].
    pub bytes: Vec<u8>,
}

/// The tap's end.
#[derive(Debug)]
pub struct Writer<M> {
    memory: M,
    /// Slots written since the group was started.
    written: u64,
}

/// A reader's end.
#[derive(Debug)]
pub struct Reader<M> {
    memory: M,
    /// The slot to read next.
    next: u64,
    /// Frames or parts of frames that were overwritten before they were read.
    missed_slots: u64,
}

fn slot_at(number: u64) -> usize {
    SLOTS_AT + (number % SLOTS) as usize * SLOT_SIZE
}

/// Slots that a frame of `len` kept bytes takes.
fn slots_for(len: usize) -> u64 {
    (HEADER_SIZE + len).div_ceil(SLOT_ROOM) as u64
}

impl<M: Memory> Writer<M> {
    /// The writer of a region, zeroed or left by an earlier incarnation. The deadline stands.
    pub fn attach(memory: M) -> Self {
        assert!(memory.size() >= REGION_SIZE, "a capture ring of the agreed size");
        // A frame that the dead writer began lies beyond `written` and is overwritten.
        let written = memory.load_u64(WRITTEN_AT, Ordering::Acquire);
        Writer { memory, written }
    }

    /// Keeps the tap open until `deadline`, or longer when it was.
    pub fn open_until(&mut self, deadline: Instant) {
        let now = self.memory.load_u64(DEADLINE_AT, Ordering::Relaxed);
        self.memory.store_u64(DEADLINE_AT, now.max(deadline.nanos()), Ordering::Relaxed);
    }

    /// Whether anybody wants frames at `now`: one load, before anything is gathered.
    pub fn is_open(&self, now: Instant) -> bool {
        now.nanos() < self.memory.load_u64(DEADLINE_AT, Ordering::Relaxed)
    }

    /// Copies a frame, given in pieces. Never waits, never fails.
    pub fn record(&mut self, at: Instant, way: Way, link: u16, pieces: &[&[u8]]) {
        let wire_len: usize = pieces.iter().map(|piece| piece.len()).sum();
        let kept = wire_len.min(SNAP_MAX);
        let mut header = [0; HEADER_SIZE];
        header[0..4].copy_from_slice(&MARK.to_le_bytes());
        header[4..8].copy_from_slice(&(wire_len as u32).to_le_bytes());
        header[8..16].copy_from_slice(&at.nanos().to_le_bytes());
        header[16..20].copy_from_slice(&(kept as u32).to_le_bytes());
        header[20..22].copy_from_slice(&link.to_le_bytes());
        header[22] = u8::from(way == Way::Out);
        let end = self.written + slots_for(kept);
        let mut slot = self.written;
        let mut filled = 0;
        self.begin(slot);
        let mut left = HEADER_SIZE + kept;
        for piece in core::iter::once(&header[..]).chain(pieces.iter().copied()) {
            let mut piece = &piece[..piece.len().min(left)];
            left -= piece.len();
            while !piece.is_empty() {
                if filled == SLOT_ROOM {
                    self.end(slot);
                    slot += 1;
                    filled = 0;
                    self.begin(slot);
                }
                let (now, later) = piece.split_at(piece.len().min(SLOT_ROOM - filled));
                self.memory.write(slot_at(slot) + SEQUENCE_SIZE + filled, now);
                filled += now.len();
                piece = later;
            }
        }
        self.end(slot);
        assert_eq!(slot + 1, end, "a frame fills the slots it was given");
        self.written = end;
        // Release: pairs with the Acquire load in `Reader::next`.
        self.memory.store_u64(WRITTEN_AT, end, Ordering::Release);
    }

    fn begin(&self, slot: u64) {
        self.memory.store_u64(slot_at(slot), slot * 2 + 1, Ordering::Relaxed);
        // The odd number must be out before any byte: a reader looks the other way round.
        self.memory.full_fence();
    }

    fn end(&self, slot: u64) {
        // Release: pairs with the Acquire load in `Reader::copy`.
        self.memory.store_u64(slot_at(slot), slot * 2 + 2, Ordering::Release);
    }
}

impl<M: Memory> Reader<M> {
    /// A reader that starts with the next frame.
    pub fn attach(memory: M) -> Self {
        assert!(memory.size() >= REGION_SIZE, "a capture ring of the agreed size");
        let next = memory.load_u64(WRITTEN_AT, Ordering::Acquire);
        Reader { memory, next, missed_slots: 0 }
    }

    /// Slots that were overwritten before they were read; a frame takes one for each 504 bytes.
    pub fn missed_slots(&self) -> u64 {
        self.missed_slots
    }

    /// The next frame; `None` when there is none now.
    pub fn next_frame(&mut self) -> Option<Captured> {
        loop {
            // Acquire: pairs with the Release store in `Writer::record`.
            let written = self.memory.load_u64(WRITTEN_AT, Ordering::Acquire);
            if self.next == written {
                return None;
            }
            // Overtaken, or a writer that jumped: go on with the newest half.
            if written.wrapping_sub(self.next) > SLOTS {
                self.skip_to(written.saturating_sub(SLOTS / 2));
                continue;
            }
            let mut first = [0; SLOT_ROOM];
            // What is no header is the middle of a frame, after a skip.
            let whole = self.copy(self.next, &mut first).then(|| header(&first)).flatten();
            let fits = whole.filter(|(_, kept)| slots_for(*kept) <= written.wrapping_sub(self.next));
            match fits.and_then(|(captured, kept)| self.body(captured, kept, &first)) {
                Some(captured) => {
                    self.next += slots_for(captured.bytes.len());
                    return Some(captured);
                }
                None => self.skip_to(self.next + 1),
            }
        }
    }

    fn body(&self, mut captured: Captured, kept: usize, first: &[u8; SLOT_ROOM]) -> Option<Captured> {
        captured.bytes.reserve_exact(kept);
        captured.bytes.extend_from_slice(&first[HEADER_SIZE..SLOT_ROOM.min(HEADER_SIZE + kept)]);
        for slot in self.next + 1..self.next + slots_for(kept) {
            let mut part = [0; SLOT_ROOM];
            if !self.copy(slot, &mut part) {
                return None;
            }
            captured.bytes.extend_from_slice(&part[..SLOT_ROOM.min(kept - captured.bytes.len())]);
        }
        Some(captured)
    }

    fn copy(&self, slot: u64, out: &mut [u8; SLOT_ROOM]) -> bool {
        let (at, whole) = (slot_at(slot), slot.wrapping_mul(2).wrapping_add(2));
        // Acquire: pairs with the Release store in `Writer::end`.
        if self.memory.load_u64(at, Ordering::Acquire) != whole {
            return false;
        }
        self.memory.read(at + SEQUENCE_SIZE, out);
        // The bytes must be in before the number is read again.
        self.memory.full_fence();
        self.memory.load_u64(at, Ordering::Acquire) == whole
    }

    fn skip_to(&mut self, slot: u64) {
        self.missed_slots = self.missed_slots.wrapping_add(slot.wrapping_sub(self.next));
        self.next = slot;
    }
}

fn header(slot: &[u8; SLOT_ROOM]) -> Option<(Captured, usize)> {
    let word = |at: usize| u32::from_le_bytes([slot[at], slot[at + 1], slot[at + 2], slot[at + 3]]);
    let kept = word(16) as usize;
    if word(0) != MARK || kept > SNAP_MAX || kept > word(4) as usize {
        return None;
    }
    let nanos = u64::from(word(8)) | u64::from(word(12)) << 32;
    let way = if slot[22] == 0 { Way::In } else { Way::Out };
    let captured = Captured {
        at: Instant::from_nanos(nanos),
        way,
        link: u16::from_le_bytes([slot[20], slot[21]]),
        wire_len: word(4),
        bytes: Vec::new(),
    };
    Some((captured, kept))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::shm::heap::HeapMemory;
    use std::rc::Rc;

    fn frame(n: u64, len: usize) -> Vec<u8> {
        (0..len).map(|i| (n as usize * 7 + i) as u8).collect()
    }

    fn ends() -> (Writer<Rc<HeapMemory>>, Reader<Rc<HeapMemory>>, Rc<HeapMemory>) {
        let memory = Rc::new(HeapMemory::new(REGION_SIZE));
        (Writer::attach(memory.clone()), Reader::attach(memory.clone()), memory)
    }

    #[test]
    fn frames_come_out_as_they_went_in() {
        let (mut writer, mut reader, _) = ends();
        for (n, len) in [0, 1, 60, 480, 481, 504, 1514, 65_535, 70_000].into_iter().enumerate() {
            let bytes = frame(n as u64, len);
            let (a, b) = bytes.split_at(len / 3);
            writer.record(Instant::from_nanos(n as u64), Way::Out, 3, &[a, b]);
            let got = reader.next_frame().expect("a frame");
            assert_eq!(
                (got.wire_len as usize, got.way, got.link, got.at.nanos()),
                (len, Way::Out, 3, n as u64)
            );
            assert_eq!(got.bytes, bytes[..len.min(SNAP_MAX)]);
            assert_eq!(reader.next_frame(), None);
        }
        assert_eq!(reader.missed_slots(), 0);
    }

    #[test]
    fn an_overtaken_reader_counts_and_shows_no_torn_frame() {
        let (mut writer, mut reader, _) = ends();
        let mut seen = 0;
        for n in 0..20_000u64 {
            writer.record(Instant::from_nanos(n), Way::In, 0, &[&frame(n, 1514)]);
            if n % 9_000 == 0 {
                while let Some(got) = reader.next_frame() {
                    assert_eq!(got.bytes, frame(got.at.nanos(), 1514));
                    seen += 1;
                }
            }
        }
        assert!(seen > 1 && seen < 20_000, "{seen}");
        assert!(reader.missed_slots() > 0);
    }

    #[test]
    fn a_slot_that_changes_under_the_reader_is_not_shown() {
        let (mut writer, mut reader, memory) = ends();
        writer.record(Instant::ZERO, Way::In, 0, &[&frame(1, 900)]);
        // The second slot is being overwritten by a writer one lap ahead.
        memory.store_u64(slot_at(1), (SLOTS + 1) * 2 + 1, Ordering::Relaxed);
        assert_eq!(reader.next_frame(), None);
        assert_eq!(reader.missed_slots(), 2);
    }

    #[test]
    fn a_successor_goes_on_and_the_deadline_only_moves_forward() {
        let (mut writer, mut reader, memory) = ends();
        writer.record(Instant::ZERO, Way::In, 0, &[&frame(1, 10)]);
        writer.open_until(Instant::from_millis(50));
        writer.open_until(Instant::from_millis(20));
        let mut writer = Writer::attach(memory);
        assert!(writer.is_open(Instant::from_millis(49)));
        assert!(!writer.is_open(Instant::from_millis(50)));
        writer.record(Instant::ZERO, Way::In, 0, &[&frame(2, 10)]);
        assert_eq!(reader.next_frame().map(|f| f.bytes), Some(frame(1, 10)));
        assert_eq!(reader.next_frame().map(|f| f.bytes), Some(frame(2, 10)));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_in_the_region_are_survived(
            words in proptest::collection::vec((0usize..REGION_SIZE / 8, proptest::num::u64::ANY), 0..64),
            written in proptest::num::u64::ANY,
        ) {
            let memory = Rc::new(HeapMemory::new(REGION_SIZE));
            let mut reader = Reader::attach(memory.clone());
            for (at, word) in words {
                memory.store_u64(at * 8, word, Ordering::Relaxed);
            }
            memory.store_u64(WRITTEN_AT, written, Ordering::Relaxed);
            // It ends, whatever it says.
            for _ in 0..4 {
                let _ = reader.next_frame();
            }
        }
    }
}
