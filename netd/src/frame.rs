//! A frame on its way up: the packet buffer and the one private copy of its headers (INV-R1).

use crate::wire::HEADER_AREA;
use crate::wire::checksum::Sum;
use proto::nic::packet_buf::PacketBuf;
use proto::nic::pool::{FramePool, NoPages};
use proto::shm::Memory;
use std::rc::Rc;

/// A received frame. Parsers read `head`, never the shared page; layers pull what they have read.
#[derive(Debug)]
pub struct Frame<M: Memory> {
    /// The data from the current layer's header on.
    pub buf: PacketBuf<M>,
    head: [u8; HEADER_AREA],
    head_len: usize,
    pulled: usize,
    packet_at: usize,
    /// The payload, from its first byte on, lies in the arena already: at this offset of the stream it
    /// belongs to, so many bytes.
    pub landed: Option<(u64, usize)>,
}

impl<M: Memory> Frame<M> {
    /// Copies the headers out.
    pub fn new(buf: PacketBuf<M>) -> Self {
        let mut head = [0; HEADER_AREA];
        let head_len = buf.read_up_to(0, &mut head);
        Frame { buf, head, head_len, pulled: 0, packet_at: 0, landed: None }
    }

    /// The copied bytes from the current layer's header on; may be fewer than there are in `buf`.
    pub fn head(&self) -> &[u8] {
        let end = self.head_len.min(self.pulled + self.buf.len());
        self.head.get(self.pulled..end).unwrap_or(&[])
    }

    /// The network layer's header begins here: what an ICMP error about this packet quotes.
    pub fn begin_packet(&mut self) {
        self.packet_at = self.pulled;
    }

    /// The copied bytes from the network layer's header on.
    pub fn packet_head(&self) -> &[u8] {
        let end = self.head_len.min(self.pulled + self.buf.len());
        self.head.get(self.packet_at..end).unwrap_or(&[])
    }

    /// Bytes of the network layer's packet.
    pub fn packet_len(&self) -> usize {
        self.pulled - self.packet_at + self.buf.len()
    }

    /// The network layer's packet, at most `len_max` bytes of it, in a buffer of its own with `headroom`, and
    /// the sum of what it holds: what an ICMP error quotes.
    ///
    /// # Errors
    /// [`NoPages`].
    pub fn quote(
        &self,
        pool: &Rc<FramePool<M>>,
        headroom: usize,
        len_max: usize,
    ) -> Result<(PacketBuf<M>, Sum), NoPages> {
        let pulled = self.head.get(self.packet_at..self.pulled.min(self.head_len)).unwrap_or(&[]);
        let pulled = &pulled[..pulled.len().min(len_max)];
        let rest = self.buf.len().min(len_max - pulled.len());
        let mut quote = PacketBuf::alloc(pool, pulled.len() + rest, headroom)?;
        quote.write(0, pulled)?;
        quote.write_from(pulled.len(), &self.buf, 0, rest)?;
        let mut sum = Sum::EMPTY;
        quote.for_each_chunk(0, quote.len(), |chunk| sum = sum.then(chunk));
        Ok((quote, sum))
    }

    /// Takes the data away; what was copied of its headers stays.
    pub fn take_buf(&mut self) -> PacketBuf<M> {
        let nothing = PacketBuf::empty(self.buf.pool());
        core::mem::replace(&mut self.buf, nothing)
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
