//! The packet buffer of the stack: a chain of references into the frame slab.
//!
//! ```text
//!            headroom   data                        data         tailroom
//!   page 7  ├─────────┼───────────────┤   page 12 ├────────────┼─────────┤
//!                      piece 0         ───────────► piece 1
//! ```
//!
//! What `sk_buff` is to Linux: headers are pushed and pulled by moving offsets, a clone counts
//! references, splitting and appending move references, and the payload stays where it is. A layer
//! passes the buffer on; dropping it frees its pages. Owned by netd's single thread; the buffer's
//! pages reach nicd by [`PacketBuf::into_descriptors`] and come from it by [`Assembly`].
//!
//! A page may be named more than once (clones, halves of a split, a descriptor that nicd has not
//! completed). It is then never written: writing and putting work on a private copy of the piece
//! (`skb_cow`), pushing puts a fresh page in front (`skb_cow_head`). Bytes that were pushed, put or
//! allocated and not written hold whatever the page held before.
//!
//! Offsets and lengths are checked by assertion: a caller that derives them from the wire compares
//! them with [`PacketBuf::len`] first. What nicd wrote is checked here (INV-R1).

mod assembly;

pub use assembly::Assembly;

use super::descriptor::{Descriptor, flag};
use super::pool::{FramePool, NoPages, Size};
use super::slab::{CHAIN_MAX, LARGE_SIZE, PageIndex, SMALL_SIZE};
use crate::error::PeerCorrupt;
use crate::shm::Memory;
use std::rc::Rc;

/// Room left in front when a fresh page is put before a shared one: link, VLAN and tunnel headers.
/// Linux: `NET_SKB_PAD` and `LL_MAX_HEADER`.
const PUSH_HEADROOM: usize = 128;

/// What is known of the transport checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Csum {
    /// Nothing: it is verified in software, or was filled in.
    #[default]
    Unknown,
    /// The device has verified it.
    Valid,
    /// It is left out and only the pseudo header is summed: the device fills it in (transmit), or
    /// the sender, on this host, never did (receive).
    Partial {
        /// Where the transport header starts, from the front of the buffer; moves with push and
        /// pull, and is negative behind the front.
        start: i32,
        /// UDP's checksum; else TCP's.
        udp: bool,
    },
}

/// A super-frame: TCP payload to be cut into, or merged from, segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gso {
    /// Payload bytes of each segment but the last; not 0.
    pub size: u16,
    /// Over IPv6; else IPv4.
    pub v6: bool,
}

/// What is said of a frame as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Marks {
    /// The transport checksum.
    pub csum: Csum,
    /// Set on a super-frame.
    pub gso: Option<Gso>,
    /// Received by every shard, and answered by another one.
    pub elsewhere: bool,
}

#[derive(Debug, Clone, Copy)]
struct Piece {
    page: PageIndex,
    offset: u16,
    len: u16,
}

const BAD_MARK: PeerCorrupt = PeerCorrupt::new("offload mark outside the frame");

const NO_PIECE: Piece = Piece { page: PageIndex(0), offset: 0, len: 0 };

/// A packet in the frame slab.
#[derive(Debug)]
pub struct PacketBuf<M: Memory> {
    pool: Rc<FramePool<M>>,
    pieces: [Piece; CHAIN_MAX],
    count: u8,
    len: u32,
    /// Offload marks; kept right by push and pull.
    pub marks: Marks,
}

impl<M: Memory> PacketBuf<M> {
    /// A buffer without pages and bytes.
    pub fn empty(pool: &Rc<FramePool<M>>) -> Self {
        PacketBuf {
            pool: pool.clone(),
            pieces: [NO_PIECE; CHAIN_MAX],
            count: 0,
            len: 0,
            marks: Marks::default(),
        }
    }

    /// A private buffer of `len` bytes with at least `headroom` bytes before them, in one small page if
    /// they fit, else in large ones (as long as there are any). The bytes are to be written.
    ///
    /// # Errors
    /// [`NoPages`], counted.
    ///
    /// # Panics
    /// When `headroom` is not smaller than a small page.
    pub fn alloc(pool: &Rc<FramePool<M>>, len: usize, headroom: usize) -> Result<Self, NoPages> {
        assert!(headroom < SMALL_SIZE, "more headroom than a page");
        let mut buf = Self::empty(pool);
        buf.grow(len, headroom)?;
        Ok(buf)
    }

    /// Appends fresh pages for `len` bytes (at least one page); all or nothing.
    fn grow(&mut self, len: usize, headroom: usize) -> Result<(), NoPages> {
        let (old_count, old_len) = (self.count, self.len);
        let (mut left, mut headroom) = (len, headroom);
        loop {
            let size = if headroom + left <= SMALL_SIZE { Size::Small } else { Size::Large };
            let taken = match usize::from(self.count) < CHAIN_MAX {
                true => self.pool.take(size).or_else(|| self.pool.take(Size::Small)),
                false => None,
            };
            let Some((page, size)) = taken else {
                while self.count > old_count {
                    self.pop_piece();
                }
                self.len = old_len;
                self.pool.count(|c| c.alloc_failures += 1);
                return Err(NoPages);
            };
            let used = left.min(size.bytes() - headroom);
            self.add(Piece { page, offset: headroom as u16, len: used as u16 });
            (left, headroom) = (left - used, 0);
            if left == 0 {
                return Ok(());
            }
        }
    }

    /// Appends a piece that there is room for.
    fn add(&mut self, piece: Piece) {
        self.pieces[usize::from(self.count)] = piece;
        self.count += 1;
        self.len += u32::from(piece.len);
    }

    /// Drops the last piece.
    fn pop_piece(&mut self) {
        self.count -= 1;
        let piece = self.pieces[usize::from(self.count)];
        self.len -= u32::from(piece.len);
        self.pool.drop_page(piece.page);
    }

    fn chain(&self) -> &[Piece] {
        &self.pieces[..usize::from(self.count)]
    }

    fn page_size(&self, page: PageIndex) -> usize {
        self.pool.geometry().page_size(page).expect("a buffer names pages of its slab")
    }

    fn byte_at(&self, piece: Piece, within: usize) -> usize {
        self.pool.geometry().page_at(piece.page) + usize::from(piece.offset) + within
    }

    /// The pool that the pages belong to.
    pub fn pool(&self) -> &Rc<FramePool<M>> {
        &self.pool
    }

    /// Bytes of data.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether there is no data.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Pages in the chain: descriptors that [`PacketBuf::into_descriptors`] gives at most.
    pub fn pages(&self) -> usize {
        usize::from(self.count)
    }

    /// Bytes that can be pushed without another page; 0 when the first page is shared.
    pub fn headroom(&self) -> usize {
        match self.chain().first() {
            Some(first) if self.pool.is_exclusive(first.page) => usize::from(first.offset),
            _ => 0,
        }
    }

    /// Bytes that can be put without another page; 0 when the last page is shared.
    pub fn tailroom(&self) -> usize {
        match self.chain().last() {
            Some(last) if self.pool.is_exclusive(last.page) => {
                self.page_size(last.page) - usize::from(last.offset) - usize::from(last.len)
            }
            _ => 0,
        }
    }

    /// The data from `at` on, `len` bytes, as it lies in the slab: one span a piece.
    ///
    /// # Panics
    /// When the range leaves the data.
    pub fn spans(&self, at: usize, len: usize) -> impl Iterator<Item = Span> + '_ {
        self.check(at, len);
        let (mut start, end) = (0, at + len);
        self.chain().iter().filter_map(move |&piece| {
            let first = start;
            start += usize::from(piece.len);
            let (from, to) = (first.max(at), start.min(end));
            (from < to).then(|| Span { at: from, byte: self.byte_at(piece, from - first), len: to - from })
        })
    }

    fn check(&self, at: usize, len: usize) {
        assert!(at.checked_add(len).is_some_and(|end| end <= self.len()), "outside the packet");
    }

    /// Adds `n` bytes at the front, to be written. They lie in the headroom, or in a fresh page where
    /// there is not enough or the first page is shared.
    ///
    /// # Errors
    /// [`NoPages`]; nothing has changed then.
    ///
    /// # Panics
    /// When `n` is 1920 or more (a small page less the headroom kept): no header is that large.
    pub fn push(&mut self, n: usize) -> Result<(), NoPages> {
        if self.headroom() < n {
            assert!(n < SMALL_SIZE - PUSH_HEADROOM, "a header larger than a page");
            if usize::from(self.count) == CHAIN_MAX {
                *self = self.copy(PUSH_HEADROOM + n)?;
            } else {
                return self.push_page(n);
            }
        }
        let first = &mut self.pieces[0];
        first.offset -= n as u16;
        first.len += n as u16;
        self.pushed(n);
        Ok(())
    }

    /// Puts a header in front: [`PacketBuf::push`] and what is written there.
    ///
    /// # Errors
    /// As [`PacketBuf::push`].
    ///
    /// # Panics
    /// As [`PacketBuf::push`].
    pub fn prepend(&mut self, header: &[u8]) -> Result<(), NoPages> {
        self.push(header.len())?;
        // What was pushed lies in the first piece, whose page nobody else names.
        self.pool.memory().write(self.byte_at(self.pieces[0], 0), header);
        Ok(())
    }

    fn push_page(&mut self, n: usize) -> Result<(), NoPages> {
        let Some((page, _)) = self.pool.take(Size::Small) else {
            self.pool.count(|c| c.alloc_failures += 1);
            return Err(NoPages);
        };
        if self.is_empty() {
            self.clear();
        }
        self.pieces.copy_within(..usize::from(self.count), 1);
        self.pieces[0] = Piece { page, offset: PUSH_HEADROOM as u16, len: n as u16 };
        self.count += 1;
        self.pushed(n);
        Ok(())
    }

    fn pushed(&mut self, n: usize) {
        self.len += n as u32;
        if let Csum::Partial { start, .. } = &mut self.marks.csum {
            *start += n as i32;
        }
    }

    /// Takes `n` bytes off the front; they become headroom. Pages without data are freed, but for
    /// the last.
    ///
    /// # Panics
    /// When there is less data.
    pub fn pull(&mut self, n: usize) {
        self.check(0, n);
        let mut left = n;
        let first = &mut self.pieces[0];
        if n < usize::from(first.len) {
            // Nearly always: headers lie in one page.
            first.offset += n as u16;
            first.len -= n as u16;
            left = 0;
        }
        while left > 0 {
            let first = &mut self.pieces[0];
            let cut = left.min(usize::from(first.len));
            first.offset += cut as u16;
            first.len -= cut as u16;
            left -= cut;
            if first.len == 0 && self.count > 1 {
                self.pool.drop_page(self.pieces[0].page);
                self.pieces.copy_within(1..usize::from(self.count), 0);
                self.count -= 1;
            }
        }
        self.len -= n as u32;
        if let Csum::Partial { start, .. } = &mut self.marks.csum {
            *start -= n as i32;
        }
    }

    /// Adds `n` bytes at the end, to be written: in the tailroom, then in fresh pages.
    ///
    /// # Errors
    /// [`NoPages`]; nothing has changed then.
    pub fn put(&mut self, n: usize) -> Result<(), NoPages> {
        let inside = self.tailroom().min(n);
        if n > inside {
            // The fresh pages come behind the last piece, which is extended once they are there.
            let last = usize::from(self.count);
            self.grow(n - inside, 0)?;
            if inside > 0 {
                self.pieces[last - 1].len += inside as u16;
            }
        } else if n > 0 {
            self.pieces[usize::from(self.count) - 1].len += inside as u16;
        }
        self.len += inside as u32;
        Ok(())
    }

    /// Takes bytes off the end until `len` are left; does nothing when there are no more. Pages
    /// without data are freed, but for the first.
    pub fn trim(&mut self, len: usize) {
        while self.len() > len {
            let excess = self.len() - len;
            let last = usize::from(self.count) - 1;
            if usize::from(self.pieces[last].len) <= excess && last > 0 {
                self.pop_piece();
            } else {
                self.pieces[last].len -= excess as u16;
                self.len -= excess as u32;
            }
        }
    }

    fn clear(&mut self) {
        while self.count > 0 {
            self.pop_piece();
        }
    }

    /// Cuts the buffer in two: the bytes from `at` on are returned, without marks. Nothing is
    /// copied; a page that holds the border belongs to both.
    ///
    /// # Panics
    /// When there are fewer than `at` bytes.
    #[must_use = "the second half would be dropped"]
    pub fn split_off(&mut self, at: usize) -> Self {
        self.check(at, 0);
        let mut tail = Self::empty(&self.pool);
        let mut start = 0;
        for &piece in self.chain() {
            let len = usize::from(piece.len);
            let cut = at.saturating_sub(start).min(len) as u16;
            if cut < piece.len {
                self.pool.share(piece.page);
                tail.add(Piece { offset: piece.offset + cut, len: piece.len - cut, ..piece });
            }
            start += len;
        }
        self.trim(at);
        tail
    }

    /// Appends the data of `other`, whose marks are lost. References move; only a chain that
    /// becomes too long is copied, into as few pages as possible.
    ///
    /// # Errors
    /// [`NoPages`] when it had to be copied; this buffer is unchanged then, `other` is gone.
    ///
    /// # Panics
    /// When the two belong to different pools.
    pub fn append(&mut self, other: Self) -> Result<(), NoPages> {
        assert!(Rc::ptr_eq(&self.pool, &other.pool), "buffers of two pools");
        let gaps = other.chain().iter().filter(|piece| piece.len > 0).count();
        if usize::from(self.count) + gaps > CHAIN_MAX {
            let (mine, theirs) = (self.len(), other.len());
            let mut whole = Self::alloc(&self.pool, mine + theirs, self.copy_headroom())?;
            whole.write_from(0, self, 0, mine)?;
            whole.write_from(mine, &other, 0, theirs)?;
            whole.marks = self.marks;
            *self = whole;
            return Ok(());
        }
        if self.is_empty() && gaps > 0 {
            self.clear();
        }
        for &piece in other.chain().iter().filter(|piece| piece.len > 0) {
            let last = usize::from(self.count).checked_sub(1).map(|last| &mut self.pieces[last]);
            match last {
                // The two halves of a split, joined again.
                Some(last) if last.page == piece.page && last.offset + last.len == piece.offset => {
                    last.len += piece.len;
                    self.len += u32::from(piece.len);
                }
                _ => {
                    self.pool.share(piece.page);
                    self.add(piece);
                }
            }
        }
        Ok(())
    }

    fn copy_headroom(&self) -> usize {
        self.chain().first().map_or(0, |first| usize::from(first.offset).min(PUSH_HEADROOM))
    }

    /// Brings the data into as few pages as it fits in: one, up to the size of a large page.
    ///
    /// # Errors
    /// [`NoPages`]; nothing has changed then.
    pub fn linearise(&mut self) -> Result<(), NoPages> {
        let pages = self.len().div_ceil(LARGE_SIZE).max(1);
        if pages < usize::from(self.count) {
            let room = (pages * LARGE_SIZE - self.len()).min(self.copy_headroom());
            let copy = self.copy(room)?;
            if usize::from(copy.count) > pages {
                // Small pages had to stand in for a large one.
                self.pool.count(|c| c.alloc_failures += 1);
                return Err(NoPages);
            }
            *self = copy;
        }
        Ok(())
    }

    /// Another private buffer with the same data and marks and `headroom` bytes before them, in as
    /// few pages as possible.
    ///
    /// # Errors
    /// [`NoPages`].
    pub fn copy(&self, headroom: usize) -> Result<Self, NoPages> {
        let mut copy = Self::alloc(&self.pool, self.len(), headroom)?;
        copy.write_from(0, self, 0, self.len())?;
        copy.marks = self.marks;
        Ok(copy)
    }

    /// Makes every piece of a range writable: shared ones are copied (`skb_cow`).
    fn make_private(&mut self, at: usize, len: usize) -> Result<(), NoPages> {
        self.check(at, len);
        let mut start = 0;
        for i in 0..usize::from(self.count) {
            let piece = self.pieces[i];
            let first = start;
            start += usize::from(piece.len);
            if start <= at || first >= at + len || self.pool.is_exclusive(piece.page) {
                continue;
            }
            let end = usize::from(piece.offset) + usize::from(piece.len);
            let size = if end <= SMALL_SIZE { Size::Small } else { Size::Large };
            let Some((page, _)) = self.pool.take(size) else {
                self.pool.count(|c| c.alloc_failures += 1);
                return Err(NoPages);
            };
            let private = Piece { page, ..piece };
            let memory = self.pool.memory();
            memory.copy_to(self.byte_at(piece, 0), memory, self.byte_at(private, 0), piece.len.into());
            self.pool.count(|c| c.copied_within += u64::from(piece.len));
            self.pieces[i] = private;
            self.pool.drop_page(piece.page);
        }
        Ok(())
    }

    /// Copies bytes out, from `at` on.
    ///
    /// # Panics
    /// When they leave the data.
    pub fn read(&self, at: usize, out: &mut [u8]) {
        let first = self.pieces[0];
        if self.count > 0 && at.checked_add(out.len()).is_some_and(|end| end <= usize::from(first.len)) {
            // Nearly always: headers lie in one page.
            return self.pool.memory().read(self.byte_at(first, at), out);
        }
        for span in self.spans(at, out.len()) {
            self.pool.memory().read(span.byte, &mut out[span.at - at..][..span.len]);
        }
    }

    /// Copies out as many bytes from `at` on as there are, up to `out`; returns their number.
    pub fn read_up_to(&self, at: usize, out: &mut [u8]) -> usize {
        let len = self.len().saturating_sub(at).min(out.len());
        if len > 0 {
            self.read(at, &mut out[..len]);
        }
        len
    }

    /// Passes `len` bytes from `at` on to `take`, copied out in chunks of an even length (but for
    /// the last): what a checksum in software needs.
    ///
    /// # Panics
    /// When they leave the data.
    pub fn for_each_chunk(&self, at: usize, len: usize, mut take: impl FnMut(&[u8])) {
        self.check(at, len);
        let mut chunk = [0; 1024];
        let mut done = 0;
        while done < len {
            let part = &mut chunk[..(len - done).min(1024)];
            self.read(at + done, part);
            take(part);
            done += part.len();
        }
    }

    /// Copies bytes in, from `at` on.
    ///
    /// # Errors
    /// [`NoPages`] when a shared page could not be copied; nothing was written then.
    ///
    /// # Panics
    /// When they leave the data.
    pub fn write(&mut self, at: usize, bytes: &[u8]) -> Result<(), NoPages> {
        self.make_private(at, bytes.len())?;
        for span in self.spans(at, bytes.len()) {
            self.pool.memory().write(span.byte, &bytes[span.at - at..][..span.len]);
        }
        Ok(())
    }

    /// Copies `len` bytes of another buffer's data in, from slab to slab.
    ///
    /// # Errors
    /// As [`PacketBuf::write`].
    ///
    /// # Panics
    /// When they leave the data of either.
    pub fn write_from(&mut self, at: usize, from: &Self, from_at: usize, len: usize) -> Result<(), NoPages> {
        self.make_private(at, len)?;
        for source in from.spans(from_at, len) {
            let to = at + (source.at - from_at);
            for span in self.spans(to, source.len) {
                let byte = source.byte + (span.at - to);
                from.pool.memory().copy_to(byte, self.pool.memory(), span.byte, span.len);
            }
        }
        self.pool.count(|c| c.copied_within += len as u64);
        Ok(())
    }

    /// Copies `len` bytes of payload from another memory (an arena) in, once.
    ///
    /// # Errors
    /// As [`PacketBuf::write`].
    ///
    /// # Panics
    /// When they leave the data or the memory.
    pub fn copy_in(&mut self, at: usize, from: &M, from_at: usize, len: usize) -> Result<(), NoPages> {
        self.make_private(at, len)?;
        for span in self.spans(at, len) {
            from.copy_to(from_at + (span.at - at), self.pool.memory(), span.byte, span.len);
        }
        self.pool.count(|c| c.copied_in += len as u64);
        Ok(())
    }

    /// [`PacketBuf::copy_in`] that passes the sum of each stretch, in order, to `take`: folded, with its
    /// length, as [`Memory::copy_sum_to`] has it.
    ///
    /// # Errors
    /// As [`PacketBuf::write`].
    ///
    /// # Panics
    /// As [`PacketBuf::copy_in`].
    pub fn copy_in_summed(
        &mut self,
        at: usize,
        from: &M,
        from_at: usize,
        len: usize,
        mut take: impl FnMut(u16, usize),
    ) -> Result<(), NoPages> {
        self.make_private(at, len)?;
        for span in self.spans(at, len) {
            let memory = self.pool.memory();
            take(from.copy_sum_to(from_at + (span.at - at), memory, span.byte, span.len), span.len);
        }
        self.pool.count(|c| c.copied_in += len as u64);
        Ok(())
    }

    /// [`PacketBuf::copy_out`] that passes the sum of each stretch, in order, to `take`, as
    /// [`PacketBuf::copy_in_summed`].
    ///
    /// # Panics
    /// As [`PacketBuf::copy_out`].
    pub fn copy_out_summed(
        &self,
        at: usize,
        to: &M,
        to_at: usize,
        len: usize,
        mut take: impl FnMut(u16, usize),
    ) {
        for span in self.spans(at, len) {
            let memory = self.pool.memory();
            take(memory.copy_sum_to(span.byte, to, to_at + (span.at - at), span.len), span.len);
        }
        self.pool.count(|c| c.copied_out += len as u64);
    }

    /// Copies `len` bytes of payload to another memory (an arena), once.
    ///
    /// # Panics
    /// When they leave the data or the memory.
    pub fn copy_out(&self, at: usize, to: &M, to_at: usize, len: usize) {
        for span in self.spans(at, len) {
            self.pool.memory().copy_to(span.byte, to, to_at + (span.at - at), span.len);
        }
        self.pool.count(|c| c.copied_out += len as u64);
    }

    /// Gives the frame to the transmit ring: at most [`PacketBuf::pages`] descriptors, for which the
    /// caller has made sure of room. The pages are lent until they are completed.
    ///
    /// # Panics
    /// When there is no data, or a mark points outside it.
    pub fn into_descriptors(mut self, mut give: impl FnMut(Descriptor)) {
        assert!(!self.is_empty(), "an empty frame");
        let marks = self.check_marks().expect("marks that fit the frame");
        let last = self.chain().iter().rposition(|piece| piece.len > 0);
        let mut first = true;
        for i in 0..usize::from(self.count) {
            let Piece { page, offset, len } = self.pieces[i];
            if len == 0 {
                self.pool.drop_page(page);
                continue;
            }
            let mut descriptor =
                Descriptor { offset, len: len.into(), page, ..Descriptor::plain(page, 0, 0) };
            if core::mem::take(&mut first) {
                descriptor = Descriptor { page, offset, len: len.into(), ..marks };
            }
            if Some(i) != last {
                descriptor.flags |= flag::MORE;
            }
            self.pool.send_page(page);
            give(descriptor);
        }
        self.count = 0;
    }

    /// The marks as a descriptor without a page.
    fn check_marks(&self) -> Result<Descriptor, PeerCorrupt> {
        let mut out = Descriptor::plain(PageIndex(0), 0, 0);
        match self.marks.csum {
            Csum::Unknown => {}
            Csum::Valid => out.flags |= flag::CSUM_VALID,
            Csum::Partial { start, udp } => {
                // The checksum lies at byte 16 of a TCP header, at byte 6 of a UDP header.
                let end = i64::from(start) + if udp { 8 } else { 18 };
                out.csum_start = u16::try_from(start).map_err(|_| BAD_MARK)?;
                if end > i64::from(self.len) {
                    return Err(BAD_MARK);
                }
                out.flags |= flag::CSUM_PARTIAL | if udp { flag::UDP } else { 0 };
            }
        }
        if let Some(gso) = self.marks.gso {
            if gso.size == 0 {
                return Err(BAD_MARK);
            }
            out.gso_size = gso.size;
            out.flags |= if gso.v6 { flag::GSO_TCP6 } else { flag::GSO_TCP4 };
        }
        Ok(out)
    }
}

impl<M: Memory> Clone for PacketBuf<M> {
    /// Another buffer over the same pages, with the same marks.
    fn clone(&self) -> Self {
        for piece in self.chain() {
            self.pool.share(piece.page);
        }
        PacketBuf { pool: self.pool.clone(), ..*self }
    }
}

impl<M: Memory> Drop for PacketBuf<M> {
    fn drop(&mut self) {
        self.clear();
    }
}

/// A part of a packet that lies in one page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Where it starts in the packet.
    pub at: usize,
    /// Where it starts in the slab's memory.
    pub byte: usize,
    /// How long it is.
    pub len: usize,
}
