//! A frame on its way up: the packet buffer and the one private copy of its headers (INV-R1).

use crate::wire::HEADER_AREA;
use crate::wire::checksum::Sum;
use proto::nic::packet_buf::PacketBuf;
use proto::shm::Memory;

/// A received frame. Parsers read `head`, never the shared page; layers pull what they have read.
#[derive(Debug)]
pub struct Frame<M: Memory> {
    /// The data from the current layer's header on.
    pub buf: PacketBuf<M>,
    head: [u8; HEADER_AREA],
    head_len: usize,
    pulled: usize,
    /// The payload, from its first byte on, lies in the arena already: at this offset of the stream it
    /// belongs to, so many bytes.
    pub landed: Option<(u64, usize)>,
}

impl<M: Memory> Frame<M> {
    /// Copies the headers out.
    pub fn new(buf: PacketBuf<M>) -> Self {
        let mut head = [0; HEADER_AREA];
        let head_len = buf.read_up_to(0, &mut head);
        Frame { buf, head, head_len, pulled: 0, landed: None }
    }

    /// The copied bytes from the current layer's header on; may be fewer than there are in `buf`.
    pub fn head(&self) -> &[u8] {
        let end = self.head_len.min(self.pulled + self.buf.len());
        self.head.get(self.pulled..end).unwrap_or(&[])
    }

    /// A copy of the copied bytes from the current layer's header on, for an ICMP error that quotes
    /// them after the headers have been pulled.
    pub fn whole_head(&self) -> WholeHead {
        let mut whole = WholeHead { bytes: [0; HEADER_AREA], len: self.head().len() };
        whole.bytes[..whole.len].copy_from_slice(self.head());
        whole
    }

    /// Goes up a layer: `n` bytes of header are done with.
    ///
    /// # Panics
    /// When there are fewer: parsers have checked the length.
    pub fn pull(&mut self, n: usize) {
        self.buf.pull(n);
        self.pulled += n;
    }

    /// Cuts off what the layer's own length does not cover.
    pub fn trim(&mut self, len: usize) {
        self.buf.trim(len);
    }

    /// The Internet checksum's sum over all of the current layer.
    pub fn sum(&self) -> Sum {
        let mut sum = Sum::of(&[]);
        self.buf.for_each_chunk(0, self.buf.len(), |chunk| sum = sum.then(chunk));
        sum
    }
}

/// The first bytes of a packet, kept aside.
#[derive(Debug)]
pub struct WholeHead {
    bytes: [u8; HEADER_AREA],
    len: usize,
}

impl WholeHead {
    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}
