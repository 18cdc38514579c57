//! What a network device looks like to the datapath, whatever it is made of.
//!
//! The datapath lends pages ([`Nic::fill`]) and frames ([`Nic::transmit`]); the device gives them back,
//! filled ([`Nic::receive`]) or done with ([`Nic::complete`]). No call blocks. Every page index comes
//! from a descriptor that was checked against the slab, so a device computes addresses from it freely.
//! Each shard of netd has pages of its own; a device never puts one frame into those of two.
//!
//! A device says by [`Nic::descriptor`] what to wait on: one descriptor, edge-triggered. Before the
//! datapath sleeps it asks [`Nic::may_sleep`], and the device looks again.

use crate::counts::Counts;
use crate::filter::AddressFilter;
use proto::Instant;
use proto::nic::descriptor::{Descriptor, flag};
use proto::nic::slab::{CHAIN_MAX, PageIndex, SlabGeometry};
use proto::shm::Memory;
use rustix::fd::BorrowedFd;
use std::io;

/// Bytes of an Ethernet header with one VLAN tag: IEEE 802.3 clause 3, 802.1Q clause 9.
pub const HEADER_MAX: usize = 18;
/// Bytes of an Ethernet header: IEEE 802.3 clause 3.
pub const HEADER_MIN: usize = 14;
/// The largest super-frame: an IP packet of 65535 bytes with its header.
pub const SUPER_FRAME_MAX: usize = 65_535 + HEADER_MAX;

/// The frame slab that is shared with one shard of netd: its memory and how it is divided.
#[derive(Debug, Clone)]
pub struct Slab<M> {
    /// Whose it is.
    pub shard: u16,
    /// The memory.
    pub memory: M,
    /// How it is divided.
    pub geometry: SlabGeometry,
}

impl<M: Memory> Slab<M> {
    /// Bytes of a frame from `skip` on, as far as there are any; how many that are.
    pub fn read(&self, frame: &Frame, skip: usize, out: &mut [u8]) -> usize {
        let (mut skip, mut done) = (skip, 0);
        for piece in frame.pieces() {
            let (at, len) = self.piece(piece);
            let part = len.saturating_sub(skip).min(out.len() - done);
            if part > 0 {
                self.memory.read(at + skip, &mut out[done..done + part]);
            }
            done += part;
            skip = skip.saturating_sub(len);
        }
        done
    }

    /// Where the bytes of a descriptor lie in the memory: offset and length.
    pub fn piece(&self, descriptor: &Descriptor) -> (usize, usize) {
        let at = self.geometry.page_at(descriptor.page) + usize::from(descriptor.offset);
        (at, descriptor.len as usize)
    }

    /// Where the pieces of a frame lie, as vectored transfers want it: the first so many as it has.
    pub fn places(&self, frame: &Frame) -> [(usize, usize); CHAIN_MAX] {
        let mut places = [(0, 0); CHAIN_MAX];
        for (place, piece) in places.iter_mut().zip(frame.pieces()) {
            *place = self.piece(piece);
        }
        places
    }

    /// Writes bytes into the pieces of a frame, which have room for them.
    ///
    /// # Panics
    /// When they have not.
    pub fn write(&self, frame: &Frame, mut bytes: &[u8]) {
        for piece in frame.pieces() {
            let (at, len) = self.piece(piece);
            let (part, rest) = bytes.split_at(len.min(bytes.len()));
            self.memory.write(at, part);
            bytes = rest;
        }
        assert!(bytes.is_empty(), "a frame with room");
    }

    /// Size of a page.
    ///
    /// # Panics
    /// When there is no such page: every descriptor was checked.
    pub fn page_size(&self, page: PageIndex) -> usize {
        self.geometry.page_size(page).expect("a checked descriptor names a page")
    }
}

/// A frame: the descriptors of its pieces in order, all flags but [`flag::MORE`] on the first.
#[derive(Debug, Clone, Copy)]
pub struct Frame {
    pieces: [Descriptor; CHAIN_MAX],
    count: usize,
}

impl Default for Frame {
    fn default() -> Self {
        Frame { pieces: [Descriptor::plain(PageIndex(0), 0, 0); CHAIN_MAX], count: 0 }
    }
}

impl Frame {
    /// The pieces so far.
    #[inline]
    pub fn pieces(&self) -> &[Descriptor] {
        &self.pieces[..self.count]
    }

    /// Whether no piece can be added.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.count == CHAIN_MAX
    }

    /// Adds a piece; the one before it gets [`flag::MORE`].
    ///
    /// # Panics
    /// When the frame is full.
    #[inline]
    pub fn add(&mut self, piece: Descriptor) {
        if let Some(last) = self.count.checked_sub(1) {
            self.pieces[last].flags |= flag::MORE;
        }
        self.pieces[self.count] = piece;
        self.count += 1;
    }

    /// Removes all pieces.
    #[inline]
    pub fn clear(&mut self) {
        self.count = 0;
    }

    /// Bytes in it.
    #[inline]
    pub fn len(&self) -> usize {
        match self.pieces() {
            [one] => one.len as usize,
            pieces => pieces.iter().map(|piece| piece.len as usize).sum(),
        }
    }

    /// Whether there is no piece.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The first piece, which carries the frame's marks.
    #[inline]
    pub fn first_mut(&mut self) -> Option<&mut Descriptor> {
        self.pieces[..self.count].first_mut()
    }

    /// The first piece, which carries the frame's marks.
    #[inline]
    pub fn first(&self) -> Option<&Descriptor> {
        self.pieces().first()
    }
}

/// What a device can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Its name for people.
    pub driver: &'static str,
    /// Bits of [`proto::control::notices::feature`].
    pub features: u32,
    /// There is somebody at the other end.
    pub carrier: bool,
}

/// Into whose pages a frame is received next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Whosever [`Nic::receive`] is given.
    Any,
    /// This shard's: the device put it there before it was asked for, or will.
    Of(u16),
    /// None of those that take one.
    Nobody,
}

/// What came of receiving.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// A frame, in pages that were lent.
    Frame,
    /// A frame that is dropped and was counted; its pages stay with the device.
    Dropped,
    /// Nothing now; the descriptor says when to look again.
    Nothing,
    /// Perhaps a frame, but too few pages to put it in.
    NoPages,
}

/// What came of transmitting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transmitted {
    /// Taken, or dropped and counted: its pages come back from [`Nic::complete`].
    Taken,
    /// Not taken, offer it again: the descriptor, or [`Nic::deadline`], says when.
    Busy,
}

/// A network device.
pub trait Nic<M: Memory> {
    /// What it can do, and whether it has a carrier, now.
    fn capabilities(&self) -> Capabilities;

    /// What to wait on for frames, and for room after [`Transmitted::Busy`].
    fn descriptor(&self) -> BorrowedFd<'_>;

    /// Lends an empty page of a shard.
    fn fill(&mut self, slab: &Slab<M>, page: PageIndex);

    /// Beginning of the next frame, if that can be seen before it is received: bytes that are now in
    /// `head`, 0 when not.
    fn peek(&mut self, _head: &mut [u8]) -> usize {
        0
    }

    /// Into whose pages the next frame is to be received, of the shards in `takes` (bit `n` for shard `n`).
    fn next_in(&mut self, _takes: u64) -> Next {
        Next::Any
    }

    /// Whether more pages of a shard would be put to use at once: its netd wakes us when it lends some.
    fn wants_pages(&self, _shard: u16) -> bool {
        false
    }

    /// Takes lent pages of a shard back, of together `len` bytes, as an empty frame of that length;
    /// false, and nothing taken, when there are too few.
    fn pages(&mut self, slab: &Slab<M>, frame: &mut Frame, len: usize) -> bool;

    /// Receives the next frame into `frame`, which is empty, in pages of the shard of `slab`. Never looks
    /// at what the pages held.
    ///
    /// # Errors
    /// When the device is lost: the daemon ends and is started anew.
    fn receive(
        &mut self,
        slab: &Slab<M>,
        frame: &mut Frame,
        now: Instant,
        counts: &mut Counts,
    ) -> io::Result<Received>;

    /// Transmits a frame.
    ///
    /// # Errors
    /// As [`Nic::receive`].
    fn transmit(
        &mut self,
        slab: &Slab<M>,
        frame: &Frame,
        now: Instant,
        counts: &mut Counts,
    ) -> io::Result<Transmitted>;

    /// The end of a batch: what was transmitted leaves now, if it waited for more.
    fn flush(&mut self, _now: Instant, _counts: &mut Counts) {}

    /// A page of a transmitted frame that the device has done with, and the shard whose it is.
    fn complete(&mut self) -> Option<(u16, PageIndex)>;

    /// The netd of a shard is gone: no page that it lent, in either direction, is used any more when
    /// this returns.
    ///
    /// # Errors
    /// When the device can't be stopped: the daemon ends before any page is used again, and the kernel stops
    /// it.
    fn reset(&mut self, shard: u16) -> io::Result<()>;

    /// Something happened on the descriptor, or the deadline passed.
    ///
    /// # Errors
    /// As [`Nic::receive`].
    fn poll(&mut self, now: Instant, counts: &mut Counts) -> io::Result<()>;

    /// When [`Nic::poll`] is to be called at the latest; `None` when only the descriptor matters.
    fn deadline(&self) -> Option<Instant>;

    /// Asks for a notice on the descriptor and looks again: false when a frame is there already. Only frames for the
    /// shards in `takes` count, where the device knows whose they are.
    fn may_sleep(&mut self, takes: u64) -> bool;

    /// Which frames are wanted, from now on. What a device lets through beyond them is dropped above it.
    fn set_filter(&mut self, _filter: &AddressFilter) {}

    /// Becomes readable when the device is to be given up, as before it is unplugged.
    fn recalled(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
