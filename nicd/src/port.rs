//! What nicd has to do with one shard of netd: the rings it shares with the present incarnation, and the
//! frames that wait until that shard, or its successor, takes them.

use crate::nic::{Frame, Slab};
use core::time::Duration;
use proto::nic::descriptor::{DESCRIPTOR_SIZE, Descriptor, flag};
use proto::nic::rings::DriverEnd;
use proto::nic::slab::PageIndex;
use proto::shm::Memory;
use proto::{Instant, PeerCorrupt};
use std::collections::VecDeque;

/// Frames that wait for one shard at most, and their bytes. A TAP of the kernel queues 1000 frames.
const PARKED_FRAMES: usize = 512;
const PARKED_BYTES: usize = 8 << 20;

/// How long a shard that falls behind may hold the device back before the others go on without it: many
/// times a round of netd, and little beside a retransmission.
const PATIENCE: Duration = Duration::from_millis(5);

const LONG_CHAIN: PeerCorrupt = PeerCorrupt::new("frame of too many pages");
const EMPTY_PIECE: PeerCorrupt = PeerCorrupt::new("descriptor without bytes");
const FLAGS: PeerCorrupt = PeerCorrupt::new("descriptor flags that contradict each other");
const LENT: PeerCorrupt = PeerCorrupt::new("more pages lent than the rings take back");

/// A shard of netd, whether there is one now or not.
#[derive(Debug)]
pub(crate) struct Shard<M> {
    pub(crate) slab: Slab<M>,
    pub(crate) port: Option<Port<M>>,
    pub(crate) parked: Parked,
    /// When its last frame was sent, in bytes that all shards sent: who has had less comes first.
    pub(crate) sent: u64,
}

impl<M: Memory + Clone> Shard<M> {
    pub(crate) fn new(slab: Slab<M>) -> Self {
        Shard { slab, port: None, parked: Parked::default(), sent: 0 }
    }

    /// Whether a frame may be received for it now.
    pub(crate) fn takes(&self) -> bool {
        self.port.as_ref().is_some_and(|port| !port.starved)
    }

    /// Whether the device waits for it.
    pub(crate) fn holds_back(&self) -> bool {
        self.port.is_some() && self.parked.until.is_some()
    }
}

/// The rings shared with one netd, and what of it is in our hands.
#[derive(Debug)]
pub(crate) struct Port<M> {
    pub(crate) rings: DriverEnd<M>,
    /// By page: lent for receiving and not yet handed up.
    pub(crate) filling: Vec<bool>,
    /// A frame whose last descriptors have not come yet.
    partial: Frame,
    pub(crate) armed: bool,
    /// The device has too few of its pages for a frame, or enough wait for it: nothing is received for it
    /// before it lends pages.
    pub(crate) starved: bool,
    /// Descriptors that wait for it, as far as is known in this turn.
    pub(crate) ahead: u32,
    /// Descriptors of frames handed to netd so far.
    handed: u64,
    /// How many of them it had taken when last looked at, and since when that has not changed.
    pub(crate) stood: (u64, Option<Instant>),
}

impl<M: Memory + Clone> Port<M> {
    pub(crate) fn new(memory: M, pages: u32) -> Self {
        Port {
            rings: DriverEnd::new(memory),
            filling: vec![false; pages as usize],
            partial: Frame::default(),
            armed: false,
            starved: false,
            ahead: 0,
            handed: 0,
            stood: (0, None),
        }
    }

    /// A received frame for netd.
    pub(crate) fn hand_up(&mut self, frame: &Frame) -> Result<(), PeerCorrupt> {
        for piece in frame.pieces() {
            self.filling[piece.page.0 as usize] = false;
            if !self.rings.receive.push(&piece.to_slot())? {
                return Err(LENT);
            }
            self.handed += 1;
            self.ahead += 1;
        }
        Ok(())
    }

    /// A sent page back to netd.
    pub(crate) fn give(&mut self, page: PageIndex) -> Result<(), PeerCorrupt> {
        let slot: [u8; DESCRIPTOR_SIZE] = Descriptor::plain(page, 0, 0).to_slot();
        if self.rings.completion.push(&slot)? { Ok(()) } else { Err(LENT) }
    }

    /// The next whole frame of the transmit ring.
    pub(crate) fn next_frame(&mut self, slab: &Slab<M>) -> Result<Option<Frame>, PeerCorrupt> {
        while let Some(slot) = self.rings.transmit.pop()? {
            let piece = Descriptor::from_slot(&slot, &slab.geometry)?;
            if piece.len == 0 {
                return Err(EMPTY_PIECE);
            }
            if !self.partial.is_empty() && piece.flags & !flag::MORE != 0 {
                return Err(FLAGS);
            }
            if self.partial.is_full() {
                return Err(LONG_CHAIN);
            }
            self.partial.add(piece);
            if piece.flags & flag::MORE == 0 {
                return Ok(Some(core::mem::take(&mut self.partial)));
            }
        }
        Ok(None)
    }

    /// How many of its frames' descriptors netd has left lying, and since when it has taken none.
    pub(crate) fn observe(&mut self, now: Instant) -> Result<Option<Instant>, PeerCorrupt> {
        // Completions may lie: netd takes them when it has work, or wants for pages.
        let left = u64::from(self.rings.receive.backlog()?);
        let taken = self.handed - left;
        let since = match self.stood {
            _ if left == 0 => None,
            (before, Some(since)) if before == taken => Some(since),
            _ => Some(now),
        };
        self.stood = (taken, since);
        Ok(since)
    }
}

/// Frames that could not be handed to their shard, in order.
#[derive(Debug, Default)]
pub(crate) struct Parked {
    frames: VecDeque<Waiting>,
    bytes: usize,
    /// Until when the device is held back for it.
    until: Option<Instant>,
}

#[derive(Debug)]
struct Waiting {
    bytes: Box<[u8]>,
    /// Without a page.
    marks: Descriptor,
}

impl Parked {
    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Length of the first frame.
    pub(crate) fn first_len(&self) -> Option<usize> {
        self.frames.front().map(|first| first.bytes.len())
    }

    /// Keeps a copy of a frame; false when too much waits already.
    pub(crate) fn park<M: Memory>(&mut self, slab: &Slab<M>, frame: &Frame, now: Instant) -> bool {
        let len = frame.len();
        let Some(first) = frame.first() else { return true };
        if self.frames.len() >= PARKED_FRAMES || self.bytes + len > PARKED_BYTES {
            return false;
        }
        let mut bytes = vec![0; len].into_boxed_slice();
        slab.read(frame, 0, &mut bytes);
        let marks = Descriptor { flags: first.flags & !flag::MORE, ..*first };
        if self.frames.is_empty() {
            self.until = Some(now + PATIENCE);
        }
        self.bytes += len;
        self.frames.push_back(Waiting { bytes, marks });
        true
    }

    /// Writes the first frame into `frame`, empty pages of its length.
    pub(crate) fn unpark<M: Memory>(&mut self, slab: &Slab<M>, frame: &mut Frame, now: Instant) {
        let Some(Waiting { bytes, marks }) = self.frames.pop_front() else { return };
        let mut at = 0;
        for piece in frame.pieces() {
            let (to, len) = slab.piece(piece);
            slab.memory.write(to, &bytes[at..at + len]);
            at += len;
        }
        mark(frame, &marks);
        self.bytes -= bytes.len();
        self.until = (!self.frames.is_empty()).then_some(now + PATIENCE);
    }

    /// When the others go on without it.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.until
    }

    /// Ends the wait when its time has come.
    pub(crate) fn lose_patience(&mut self, now: Instant) {
        self.until = self.until.filter(|until| now < *until);
    }
}

/// Gives a frame the marks of another one.
pub(crate) fn mark(frame: &mut Frame, marks: &Descriptor) {
    if let Some(first) = frame.first_mut() {
        first.flags = first.flags & flag::MORE | marks.flags & !flag::MORE;
        (first.csum_start, first.gso_size) = (marks.csum_start, marks.gso_size);
    }
}
