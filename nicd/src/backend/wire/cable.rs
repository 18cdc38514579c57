//! The memory of a wire: two directions, each a ring of slots and a piece of 2 KiB a slot.
//!
//! ```text
//! ┌─────────────┬──────┬─────────────────────┬───── the other direction
//! │ ring of 256 │ wants│ 256 pieces of 2 KiB │
//! │ slots       │ room │                     │
//! └─────────────┴──────┴─────────────────────┴─────
//!
//! slot, byte 0       4       8       10           12         14   16
//!            ┌───────┬───────┬───────┬────────────┬──────────┬────┐
//!            │ piece │ frame │ flags │ csum_start │ gso_size │ 0  │
//!            └───────┴───────┴───────┴────────────┴──────────┴────┘
//! ```
//!
//! The lengths are those of the piece and of its frame; the marks are the descriptor's
//! ([`proto::nic::descriptor`]) and stand in a frame's first slot, zero in the others.
//!
//! A frame lies in consecutive pieces; piece `n` of the ring belongs to slot `n`. `wants room` is
//! set by a producer that found the ring full, before it looks again; a consumer that released looks
//! at it, so that nobody polls. The other group is not trusted: what it wrote is checked (INV-R1).

use crate::nic::{Frame, Slab};
use core::sync::atomic::Ordering;
use proto::PeerCorrupt;
use proto::nic::descriptor::{Descriptor, flag};
use proto::ring::spsc::{Consumer, Place, Producer};
use proto::shm::Memory;

/// Slots of a direction. A few hundred frames of flight; half a megabyte stays in the cache.
pub const SLOTS: u32 = 256;
/// Bytes of a piece.
pub const PIECE: usize = 2048;
const SLOT_SIZE: usize = 16;

const ROOM_AT: usize = Place::bytes(SLOTS, SLOT_SIZE);
const PIECES_AT: usize = (ROOM_AT + 64).next_multiple_of(PIECE);
const DIRECTION_SIZE: usize = PIECES_AT + SLOTS as usize * PIECE;

/// Size of the memory in bytes.
pub const CABLE_SIZE: usize = 2 * DIRECTION_SIZE;

const LENGTH: PeerCorrupt = PeerCorrupt::new("wire frame of an impossible length");
const CUT_OFF: PeerCorrupt = PeerCorrupt::new("wire frame without its end");

const MARKS: PeerCorrupt = PeerCorrupt::new("wire frame with marks that contradict each other");

/// What a frame's first descriptor says of the frame: its offload marks and nothing of a page.
fn marks_of(first: Option<&Descriptor>) -> Marks {
    first.map_or(Marks::default(), |first| Marks {
        flags: first.flags & !flag::MORE,
        csum_start: first.csum_start,
        gso_size: first.gso_size,
    })
}

/// The marks of a frame on the cable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Marks {
    /// Bits of [`flag`] but for [`flag::MORE`].
    pub flags: u16,
    /// As in a descriptor.
    pub csum_start: u16,
    /// As in a descriptor.
    pub gso_size: u16,
}

impl Marks {
    const NONE: Marks = Marks { flags: 0, csum_start: 0, gso_size: 0 };

    /// Whether they say that this is a super-frame.
    pub fn is_super_frame(self) -> bool {
        self.flags & (flag::GSO_TCP4 | flag::GSO_TCP6) != 0
    }

    /// Whether a frame of `len` bytes can bear them: what a sender's own nicd has let pass.
    fn fit(self, len: usize) -> bool {
        let has = |bit: u16| self.flags & bit != 0;
        let (partial, valid) = (has(flag::CSUM_PARTIAL), has(flag::CSUM_VALID));
        let checksum_end = usize::from(self.csum_start) + if has(flag::UDP) { 8 } else { 18 };
        let known = flag::CSUM_VALID | flag::CSUM_PARTIAL | flag::UDP | flag::GSO_TCP4 | flag::GSO_TCP6;
        self.flags & !known == 0
            && !(partial && valid)
            && (!partial || checksum_end <= len)
            && (partial || !has(flag::UDP))
            && !(has(flag::GSO_TCP4) && has(flag::GSO_TCP6))
            && (!self.is_super_frame() || (partial && !has(flag::UDP) && self.gso_size > 0))
    }
}

/// What a slot says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slot {
    /// Bytes in its piece.
    part: usize,
    /// Bytes of its frame.
    len: usize,
    marks: Marks,
}

impl Slot {
    fn to_bytes(self) -> [u8; SLOT_SIZE] {
        let mut slot = [0; SLOT_SIZE];
        slot[..4].copy_from_slice(&(self.part as u32).to_ne_bytes());
        slot[4..8].copy_from_slice(&(self.len as u32).to_ne_bytes());
        let Marks { flags, csum_start, gso_size } = self.marks;
        for (at, half) in [(8, flags), (10, csum_start), (12, gso_size)] {
            slot[at..at + 2].copy_from_slice(&half.to_ne_bytes());
        }
        slot
    }

    fn from_bytes(slot: &[u8; SLOT_SIZE]) -> Slot {
        let word = |at: usize| u32::from_ne_bytes([slot[at], slot[at + 1], slot[at + 2], slot[at + 3]]);
        let half = |at: usize| u16::from_ne_bytes([slot[at], slot[at + 1]]);
        Slot {
            part: word(0) as usize,
            len: word(4) as usize,
            marks: Marks { flags: half(8), csum_start: half(10), gso_size: half(12) },
        }
    }
}

/// Which end of the cable: each sends in the direction of its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The end that made the memory.
    Maker,
    /// The end that was given it.
    Guest,
}

/// One end of the cable.
#[derive(Debug)]
pub struct Cable<M> {
    memory: M,
    out: Producer<M, SLOT_SIZE>,
    out_at: usize,
    /// Slots pushed so far: the next piece to fill.
    pushed: u32,
    incoming: Consumer<M, SLOT_SIZE>,
    in_at: usize,
    /// Slots popped so far.
    popped: u32,
    /// A frame's first slot, looked at and not yet taken.
    first: Option<Slot>,
}

impl<M: Memory + Clone> Cable<M> {
    /// One end of a cable in zeroed memory of [`CABLE_SIZE`] bytes.
    pub fn new(memory: M, side: Side) -> Self {
        let (out_at, in_at) = match side {
            Side::Maker => (0, DIRECTION_SIZE),
            Side::Guest => (DIRECTION_SIZE, 0),
        };
        Cable {
            out: Producer::new(memory.clone(), Place::new(out_at, SLOTS)),
            incoming: Consumer::new(memory.clone(), Place::new(in_at, SLOTS)),
            memory,
            out_at,
            pushed: 0,
            in_at,
            popped: 0,
            first: None,
        }
    }

    /// Sends a frame of the slab; false when there is no room: the other end says when there is.
    ///
    /// # Errors
    /// [`PeerCorrupt`] when the other end broke the rules.
    pub fn send(&mut self, slab: &Slab<M>, frame: &Frame) -> Result<bool, PeerCorrupt> {
        let copy = |memory: &M, mut to: usize, from: usize, len: usize| {
            let (mut skip, mut left) = (from, len);
            for piece in frame.pieces() {
                let (at, size) = slab.piece(piece);
                let part = size.saturating_sub(skip).min(left);
                if part > 0 {
                    slab.memory.copy_to(at + skip, memory, to, part);
                    (to, left) = (to + part, left - part);
                }
                skip = skip.saturating_sub(size);
            }
        };
        self.send_with(frame.len(), marks_of(frame.first()), copy)
    }

    /// Sends a frame of private memory; as [`Cable::send`].
    ///
    /// # Errors
    /// As [`Cable::send`].
    pub fn send_bytes(&mut self, bytes: &[u8]) -> Result<bool, PeerCorrupt> {
        self.send_with(bytes.len(), Marks::NONE, |memory, to, from, len| {
            memory.write(to, &bytes[from..from + len]);
        })
    }

    /// `copy(memory, to, from, len)` copies a part of the frame into the cable.
    fn send_with(
        &mut self,
        len: usize,
        marks: Marks,
        copy: impl Fn(&M, usize, usize, usize),
    ) -> Result<bool, PeerCorrupt> {
        let pieces = len.div_ceil(PIECE) as u32;
        assert!((1..=SLOTS).contains(&pieces), "a frame that no cable carries");
        if self.out.room()? < pieces {
            self.memory.store_u32(self.out_at + ROOM_AT, 1, Ordering::Release);
            // The wish must be out before the head is read: the consumer does it the other way round.
            self.memory.full_fence();
            if self.out.room()? < pieces {
                return Ok(false);
            }
        }
        for from in (0..len).step_by(PIECE) {
            let part = PIECE.min(len - from);
            let piece_at = self.out_at + PIECES_AT + (self.pushed % SLOTS) as usize * PIECE;
            copy(&self.memory, piece_at, from, part);
            let marks = if from == 0 { marks } else { Marks::NONE };
            assert!(self.out.push(&Slot { part, len, marks }.to_bytes())?, "there was room");
            self.pushed = self.pushed.wrapping_add(1);
        }
        Ok(true)
    }

    /// Lets the other end see what was sent, and use again what was received; true when it must be
    /// woken.
    #[must_use = "a sleeping peer must be woken"]
    pub fn publish_and_release(&mut self) -> bool {
        let due = self.out.publish();
        self.incoming.release();
        // The head must be out before the wish is read: the producer does it the other way round.
        self.memory.full_fence();
        let wish = self.in_at + ROOM_AT;
        let wanted = self.memory.load_u32(wish, Ordering::Acquire) != 0;
        if wanted {
            self.memory.store_u32(wish, 0, Ordering::Release);
        }
        due || wanted
    }

    /// Bytes and marks of the frame that comes next; `None` when there is none now.
    ///
    /// # Errors
    /// As [`Cable::send`].
    pub fn peek(&mut self) -> Result<Option<(usize, Marks)>, PeerCorrupt> {
        if self.first.is_none() {
            self.first = self.pop()?;
        }
        match self.first {
            Some(first) if first.len == 0 || first.len > SLOTS as usize * PIECE => Err(LENGTH),
            Some(first) if !first.marks.fit(first.len) => Err(MARKS),
            first => Ok(first.map(|first| (first.len, first.marks))),
        }
    }

    /// Copies the beginning of the frame that comes next to `head`, as far as its first piece has it;
    /// returns how many bytes that are, 0 when there is no frame. The other end may still write them.
    ///
    /// # Errors
    /// As [`Cable::send`].
    pub fn peek_head(&mut self, head: &mut [u8]) -> Result<usize, PeerCorrupt> {
        let Some((len, _)) = self.peek()? else { return Ok(0) };
        let len = len.min(head.len()).min(PIECE);
        let at = self.popped.wrapping_sub(1) % SLOTS;
        self.memory.read(self.in_at + PIECES_AT + at as usize * PIECE, &mut head[..len]);
        Ok(len)
    }

    fn pop(&mut self) -> Result<Option<Slot>, PeerCorrupt> {
        let Some(slot) = self.incoming.pop()? else { return Ok(None) };
        self.popped = self.popped.wrapping_add(1);
        Ok(Some(Slot::from_bytes(&slot)))
    }

    /// Copies the frame that comes next into the pages of `frame`, which has its length, and sets its marks.
    ///
    /// # Errors
    /// As [`Cable::send`].
    pub fn receive(&mut self, slab: &Slab<M>, frame: &mut Frame) -> Result<(), PeerCorrupt> {
        let marks = self.peek()?.map_or(Marks::NONE, |(_, marks)| marks);
        if let Some(first) = frame.first_mut() {
            first.flags |= marks.flags;
            (first.csum_start, first.gso_size) = (marks.csum_start, marks.gso_size);
        }
        let mut pages = frame.pieces().iter().map(|piece| slab.piece(piece));
        let (mut to, mut room) = pages.next().unwrap_or((0, 0));
        self.take(frame.len(), |memory, mut from, mut len| {
            while len > 0 {
                if room == 0 {
                    (to, room) = pages.next().expect("the pieces are as long as the frame");
                }
                let part = len.min(room);
                memory.copy_to(from, &slab.memory, to, part);
                (from, len, to, room) = (from + part, len - part, to + part, room - part);
            }
        })
    }

    /// Leaves the frame that comes next out.
    ///
    /// # Errors
    /// As [`Cable::send`].
    pub fn skip(&mut self) -> Result<(), PeerCorrupt> {
        match self.peek()? {
            Some((len, _)) => self.take(len, |_, _, _| {}),
            None => Ok(()),
        }
    }

    /// Passes the pieces of the next frame, of `len` bytes, to `copy(memory, at, len)`.
    fn take(&mut self, len: usize, mut copy: impl FnMut(&M, usize, usize)) -> Result<(), PeerCorrupt> {
        let mut left = len;
        while left > 0 {
            let slot = match self.first.take() {
                Some(first) => Slot { marks: Marks::NONE, ..first },
                None => self.pop()?.ok_or(CUT_OFF)?,
            };
            // What the sender does: whole pieces, then the rest.
            let part = left.min(PIECE);
            if slot != (Slot { part, len, marks: Marks::NONE }) {
                return Err(LENGTH);
            }
            let at = self.popped.wrapping_sub(1) % SLOTS;
            copy(&self.memory, self.in_at + PIECES_AT + at as usize * PIECE, part);
            left -= part;
        }
        Ok(())
    }

    /// Asks for a wake-up and looks again: true when no frame is there.
    ///
    /// # Errors
    /// As [`Cable::send`].
    pub fn arm(&mut self) -> Result<bool, PeerCorrupt> {
        Ok(self.first.is_none() && self.incoming.arm()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proto::nic::slab::{PageIndex, SlabGeometry};
    use proto::shm::heap::HeapMemory;
    use std::rc::Rc;

    type End = Cable<Rc<HeapMemory>>;

    fn cable() -> (End, End, Rc<HeapMemory>) {
        let memory = Rc::new(HeapMemory::new(CABLE_SIZE));
        (Cable::new(memory.clone(), Side::Maker), Cable::new(memory.clone(), Side::Guest), memory)
    }

    fn slab() -> Slab<Rc<HeapMemory>> {
        let geometry = SlabGeometry { small: 4, large: 8 };
        Slab { shard: 0, memory: Rc::new(HeapMemory::new(geometry.bytes())), geometry }
    }

    /// A frame of `len` bytes in large pages.
    fn frame(len: usize) -> Frame {
        let mut frame = Frame::default();
        for (n, at) in (0..len).step_by(16 * 1024).enumerate() {
            let part = (len - at).min(16 * 1024);
            frame.add(Descriptor::plain(PageIndex(4 + n as u32), 0, part as u32));
        }
        frame
    }

    fn receive(end: &mut End, slab: &Slab<Rc<HeapMemory>>) -> Option<Vec<u8>> {
        let (len, _) = end.peek().expect("sound")?;
        let mut frame = frame(len);
        end.receive(slab, &mut frame).expect("sound");
        let mut bytes = Vec::new();
        for piece in frame.pieces() {
            let (at, len) = slab.piece(piece);
            let mut part = vec![0; len];
            slab.memory.read(at, &mut part);
            bytes.extend(part);
        }
        Some(bytes)
    }

    proptest! {
        #[test]
        fn frames_arrive_as_they_were(lens in prop::collection::vec(1usize..70_000, 1..40)) {
            let (mut a, mut b, _) = cable();
            let slab = slab();
            for (n, len) in lens.into_iter().enumerate() {
                let sent: Vec<u8> = (0..len).map(|i| (i * 7 + n) as u8).collect();
                if n % 2 == 0 {
                    prop_assert!(a.send_bytes(&sent).expect("sound"));
                } else {
                    let frame = frame(len);
                    let mut at = 0;
                    for piece in frame.pieces() {
                        let (to, len) = slab.piece(piece);
                        slab.memory.write(to, &sent[at..at + len]);
                        at += len;
                    }
                    prop_assert!(a.send(&slab, &frame).expect("sound"));
                }
                let _ = a.publish_and_release();
                prop_assert_eq!(receive(&mut b, &slab), Some(sent));
                let _ = b.publish_and_release();
            }
        }

        /// The other group writes what it likes: a value or `PeerCorrupt`, nothing else.
        #[test]
        fn a_hostile_end(
            stores in prop::collection::vec((0usize..700, prop_oneof![0u32..5000, any::<u32>()]), 1..100),
            steps in prop::collection::vec(0u8..4, 1..100),
        ) {
            let (mut a, _, memory) = cable();
            let slab = slab();
            let mut stores = stores.into_iter();
            for step in steps {
                if let Some((word, value)) = stores.next() {
                    // Heads, tails and slots of both directions.
                    memory.store_u32(word % 350 * 4 + word / 350 * DIRECTION_SIZE, value, Ordering::Relaxed);
                }
                match step {
                    0 => drop(a.send_bytes(&[1; 3000])),
                    1 => drop(a.publish_and_release()),
                    2 => drop(a.arm()),
                    _ => if let Ok(Some((len, _))) = a.peek() {
                        let _ = if len > 8 * 16 * 1024 { a.skip() } else { a.receive(&slab, &mut frame(len)) };
                    },
                }
            }
        }
    }

    #[test]
    fn marks_travel_with_their_frame() {
        let (mut a, mut b, _) = cable();
        let slab = slab();
        let mut sent = frame(40_000);
        let first = sent.first_mut().expect("it has bytes");
        first.flags |= flag::CSUM_PARTIAL | flag::GSO_TCP4;
        (first.csum_start, first.gso_size) = (34, 1448);
        assert!(a.send(&slab, &sent).expect("sound") && a.send_bytes(&[1; 60]).expect("sound"));
        let _ = a.publish_and_release();
        let (len, marks) = b.peek().expect("sound").expect("a frame");
        assert!(len == 40_000 && marks.is_super_frame());
        let mut received = frame(len);
        b.receive(&slab, &mut received).expect("sound");
        assert_eq!(received.pieces(), sent.pieces());
        assert_eq!(b.peek(), Ok(Some((60, Marks::NONE))));
    }

    #[test]
    fn marks_that_make_no_sense_end_the_cable() {
        let with = |flags: u16, csum_start: u16, gso_size: u16, len: usize| {
            Marks { flags, csum_start, gso_size }.fit(len)
        };
        let gso = flag::CSUM_PARTIAL | flag::GSO_TCP4;
        assert!(with(0, 0, 0, 60) && with(flag::CSUM_VALID, 0, 0, 60) && with(gso, 34, 1448, 3_000));
        assert!(with(flag::CSUM_PARTIAL | flag::UDP, 34, 0, 42));
        assert!(!with(flag::CSUM_PARTIAL, 34, 0, 51), "beyond the frame");
        assert!(!with(flag::CSUM_PARTIAL | flag::CSUM_VALID, 34, 0, 60), "both");
        assert!(!with(flag::GSO_TCP4, 34, 1448, 3_000), "segments without checksums to fill in");
        assert!(!with(gso, 34, 0, 3_000) && !with(gso | flag::GSO_TCP6, 34, 1448, 3_000));
        assert!(!with(flag::MORE, 0, 0, 60) && !with(1 << 9, 0, 0, 60));
    }

    #[test]
    fn a_full_cable_says_when_there_is_room() {
        let (mut a, mut b, _) = cable();
        let slab = slab();
        let mut sent = 0;
        while a.send_bytes(&[7; PIECE]).expect("sound") {
            sent += 1;
        }
        assert_eq!(sent, SLOTS);
        assert!(!a.publish_and_release(), "nobody sleeps");
        assert_eq!(receive(&mut b, &slab), Some(vec![7; PIECE]));
        assert!(b.publish_and_release(), "the other end wants room");
        assert!(!b.publish_and_release(), "once");
        assert!(a.send_bytes(&[8; 60]).expect("sound"));
    }

    #[test]
    fn an_end_that_sleeps_is_woken() {
        let (mut a, mut b, _) = cable();
        assert_eq!(b.arm(), Ok(true));
        assert!(a.send_bytes(&[1; 60]).expect("sound"));
        assert_eq!(b.arm(), Ok(true), "not published");
        assert!(a.publish_and_release());
        assert_eq!(b.peek(), Ok(Some((60, Marks::NONE))));
        assert_eq!(b.arm(), Ok(false), "looked at, not taken");
    }
}
