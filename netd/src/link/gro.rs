//! Joins TCP segments that came one after the other into one, where the device has not done it: each
//! further one then costs a look at its header and not a way through all layers (Linux: GRO).
//!
//! Owned by the engine; a frame goes in, what it did not continue comes out, and at the end of a batch
//! [`Gro::flush`] lets go of the last one: nothing waits for what may come, nothing is held over a
//! settlement. One run of one flow is held at a time, so the order of frames is kept among all flows.
//! Frames that are not plain data (SYN, FIN, RST, URG, ECE, CWR, no payload, options of IP, fragments) pass
//! as they are, and so does what a device has joined already.
//!
//! Invariants: what is joined is what TCP would have received anyway: consecutive bytes of one flow over
//! IPv4, with the same acknowledgement, window, options (timestamps among them), hop limit, DSCP and ECN
//! field, each segment with right checksums; PSH ends a run. A joined frame moves page references and
//! copies no payload, so it has at most as many pages as a chain.

use crate::wire::address::AddressPair;
use crate::wire::checksum::{Sum, pseudo_header};
use crate::wire::ethernet::HEADER_LEN as ETHERNET_LEN;
use crate::wire::ipv4::{HEADER_LEN as IPV4_LEN, IpProtocol};
use crate::wire::tcp::{CHECKSUM_OFFSET, HEADER_LEN as TCP_LEN, HEADER_LEN_MAX};
use core::net::Ipv4Addr;
use proto::nic::packet_buf::{Csum, Gso, Marks, PacketBuf};
use proto::nic::slab::CHAIN_MAX;
use proto::shm::Memory;
use std::collections::VecDeque;

const TCP_AT: usize = ETHERNET_LEN + IPV4_LEN;
const HEAD_MAX: usize = TCP_AT + HEADER_LEN_MAX;

// Offsets in the frame: RFC 791 §3.1, RFC 9293 §3.1.
const TOTAL_LEN_AT: usize = ETHERNET_LEN + 2;
const FRAGMENT_AT: usize = ETHERNET_LEN + 6;
const TTL_AT: usize = ETHERNET_LEN + 8;
const PROTOCOL_AT: usize = ETHERNET_LEN + 9;
const IP_CHECKSUM_AT: usize = ETHERNET_LEN + 10;
const ADDRESSES_AT: usize = ETHERNET_LEN + 12;
const SEQ_AT: usize = TCP_AT + 4;
const ACK_AT: usize = TCP_AT + 8;
const OFFSET_AT: usize = TCP_AT + 12;
const FLAGS_AT: usize = TCP_AT + 13;
const WINDOW_AT: usize = TCP_AT + 14;
const TCP_CHECKSUM_AT: usize = TCP_AT + CHECKSUM_OFFSET;

const PSH: u8 = 8;
const ACK: u8 = 16;
/// Fragment offset and "more fragments".
const FRAGMENTED: u16 = 0x3fff;

/// A frame of plain TCP data, its headers copied out (INV-R1).
#[derive(Debug)]
struct Data<M: Memory> {
    buf: PacketBuf<M>,
    head: [u8; HEAD_MAX],
    head_len: usize,
    /// Payload of the first segment: that of all but the last.
    size: usize,
    /// Segments joined so far.
    segments: u32,
}

fn half(head: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([head[at], head[at + 1]])
}

fn word(head: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]])
}

impl<M: Memory> Data<M> {
    /// The frame back when it is no plain data.
    fn of(buf: PacketBuf<M>) -> Result<Data<M>, PacketBuf<M>> {
        let mut head = [0; HEAD_MAX];
        let read = buf.read_up_to(0, &mut head);
        let known =
            matches!(buf.marks, Marks { csum: Csum::Unknown | Csum::Valid, gso: None, elsewhere: false });
        let plain = known
            && read >= TCP_AT + TCP_LEN
            && head[ETHERNET_LEN - 2..=ETHERNET_LEN] == [8, 0, 0x45]
            && head[PROTOCOL_AT] == IpProtocol::TCP.0
            && half(&head, FRAGMENT_AT) & FRAGMENTED == 0
            && usize::from(half(&head, TOTAL_LEN_AT)) + ETHERNET_LEN == buf.len()
            && head[FLAGS_AT] & !PSH == ACK;
        let head_len = TCP_AT + usize::from(head[OFFSET_AT] >> 4) * 4;
        if !plain || head_len < TCP_AT + TCP_LEN || buf.len() <= head_len {
            return Err(buf);
        }
        let size = buf.len() - head_len;
        Ok(Data { buf, head, head_len, size, segments: 1 })
    }

    fn head(&self) -> &[u8] {
        &self.head[..self.head_len]
    }

    fn payload(&self) -> usize {
        self.buf.len() - self.head_len
    }

    /// Whether `next` is the segment behind this one, and nothing but its place is new.
    fn is_continued_by(&self, next: &Data<M>) -> bool {
        let same = |from: usize, to: usize| self.head[from..to] == next.head[from..to];
        self.head_len == next.head_len
            && next.size <= self.size
            && self.payload() == self.size * self.segments as usize
            && self.head[FLAGS_AT] == ACK
            && self.buf.pages() + next.buf.pages() <= CHAIN_MAX
            && self.buf.len() + next.size - ETHERNET_LEN <= usize::from(u16::MAX)
            && word(&self.head, SEQ_AT).wrapping_add(self.payload() as u32) == word(&next.head, SEQ_AT)
            && same(0, TOTAL_LEN_AT)
            && same(FRAGMENT_AT, TTL_AT + 1)
            && same(ADDRESSES_AT, SEQ_AT)
            && same(ACK_AT, OFFSET_AT + 1)
            && same(WINDOW_AT, TCP_CHECKSUM_AT)
            && same(TCP_CHECKSUM_AT + 2, self.head_len)
    }

    /// Whether both checksums are right; looked at only when there is something to join.
    fn is_sound(&self) -> bool {
        if self.segments > 1 {
            return true;
        }
        let addr = |at| Ipv4Addr::from_bits(word(&self.head, at));
        let pair = AddressPair::V4 { src: addr(ADDRESSES_AT), dst: addr(ADDRESSES_AT + 4) };
        let tcp_len = (self.buf.len() - TCP_AT) as u32;
        let right = || {
            let mut sum = pseudo_header(&pair, IpProtocol::TCP.0, tcp_len).then(&self.head()[TCP_AT..]);
            self.buf.for_each_chunk(self.head_len, self.payload(), |chunk| sum = sum.then(chunk));
            sum.is_valid()
        };
        Sum::of(&self.head[ETHERNET_LEN..TCP_AT]).is_valid()
            && (self.buf.marks.csum == Csum::Valid || right())
    }

    /// Appends the payload of `next`, which continues this one.
    fn join(&mut self, mut next: Data<M>) {
        next.buf.pull(next.head_len);
        self.head[FLAGS_AT] |= next.head[FLAGS_AT] & PSH;
        self.segments += 1;
        self.buf.append(next.buf).expect("the chain has room, so that nothing is copied");
    }

    /// The frame, its headers made right for all of it.
    fn finish(mut self) -> Option<PacketBuf<M>> {
        if self.segments == 1 {
            return Some(self.buf);
        }
        let total = (self.buf.len() - ETHERNET_LEN) as u16;
        self.head[TOTAL_LEN_AT..TOTAL_LEN_AT + 2].copy_from_slice(&total.to_be_bytes());
        self.head[IP_CHECKSUM_AT..IP_CHECKSUM_AT + 2].fill(0);
        let field = Sum::of(&self.head[ETHERNET_LEN..TCP_AT]).field();
        self.head[IP_CHECKSUM_AT..IP_CHECKSUM_AT + 2].copy_from_slice(&field.to_be_bytes());
        // Without pages for a private copy of a shared page it is lost, as any frame then.
        self.buf.write(0, &self.head[..self.head_len]).ok()?;
        let gso = Some(Gso { size: self.size as u16, v6: false });
        self.buf.marks = Marks { csum: Csum::Valid, gso, elsewhere: false };
        Some(self.buf)
    }
}

/// The frames of one interface on their way up.
#[derive(Debug)]
pub struct Gro<M: Memory> {
    held: Option<Data<M>>,
    /// At most two: what was held, and what can't be.
    ready: VecDeque<PacketBuf<M>>,
}

impl<M: Memory> Default for Gro<M> {
    fn default() -> Self {
        Gro { held: None, ready: VecDeque::with_capacity(2) }
    }
}

impl<M: Memory> Gro<M> {
    /// The next frame that came in.
    pub fn push(&mut self, frame: PacketBuf<M>) {
        let next = match Data::of(frame) {
            Ok(next) => next,
            Err(other) => {
                self.flush();
                return self.ready.push_back(other);
            }
        };
        if let Some(held) = &mut self.held
            && held.is_continued_by(&next)
            && held.is_sound()
            && next.is_sound()
        {
            return held.join(next);
        }
        self.flush();
        self.held = Some(next);
    }

    /// Nothing more comes in this batch: what is held is ready.
    pub fn flush(&mut self) {
        self.ready.extend(self.held.take().and_then(Data::finish));
    }

    /// The next frame for the layers above.
    pub fn pop(&mut self) -> Option<PacketBuf<M>> {
        self.ready.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proto::nic::pool::FramePool;
    use proto::nic::slab::SlabGeometry;
    use proto::shm::heap::HeapMemory;
    use std::rc::Rc;

    type Mem = Rc<HeapMemory>;

    fn pool() -> Rc<FramePool<Mem>> {
        let geometry = SlabGeometry { small: 256, large: 16 };
        Rc::new(FramePool::new(Rc::new(HeapMemory::new(geometry.bytes())), geometry))
    }

    /// A segment with timestamps' worth of options.
    fn segment(port: u16, seq: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; TCP_AT + TCP_LEN + 12];
        bytes[ETHERNET_LEN - 2..=ETHERNET_LEN].copy_from_slice(&[8, 0, 0x45]);
        bytes[TTL_AT..TTL_AT + 2].copy_from_slice(&[64, 6]);
        bytes[TCP_AT..TCP_AT + 2].copy_from_slice(&port.to_be_bytes());
        bytes[SEQ_AT..ACK_AT].copy_from_slice(&seq.to_be_bytes());
        (bytes[OFFSET_AT], bytes[FLAGS_AT]) = (0x80, flags);
        bytes.extend(payload);
        let total = (bytes.len() - ETHERNET_LEN) as u16;
        bytes[TOTAL_LEN_AT..TOTAL_LEN_AT + 2].copy_from_slice(&total.to_be_bytes());
        let field = Sum::of(&bytes[ETHERNET_LEN..TCP_AT]).field();
        bytes[IP_CHECKSUM_AT..IP_CHECKSUM_AT + 2].copy_from_slice(&field.to_be_bytes());
        let pair = AddressPair::V4 { src: Ipv4Addr::UNSPECIFIED, dst: Ipv4Addr::UNSPECIFIED };
        let pseudo = pseudo_header(&pair, 6, (bytes.len() - TCP_AT) as u32);
        let field = pseudo.then(&bytes[TCP_AT..]).field();
        bytes[TCP_CHECKSUM_AT..TCP_CHECKSUM_AT + 2].copy_from_slice(&field.to_be_bytes());
        bytes
    }

    fn through(frames: &[Vec<u8>]) -> Vec<(Vec<u8>, Marks)> {
        let (pool, mut gro, mut out) = (pool(), Gro::default(), Vec::new());
        for bytes in frames {
            let mut buf = PacketBuf::alloc(&pool, bytes.len(), 0).expect("pages");
            buf.write(0, bytes).expect("private");
            gro.push(buf);
            while let Some(frame) = gro.pop() {
                out.push(frame);
            }
        }
        gro.flush();
        out.extend(std::iter::from_fn(|| gro.pop()));
        let bytes = |frame: &PacketBuf<Mem>| {
            let mut bytes = vec![0; frame.len()];
            frame.read(0, &mut bytes);
            (bytes, frame.marks)
        };
        let seen = out.iter().map(bytes).collect();
        out.clear();
        assert_eq!(pool.in_use(), 0, "every page comes back");
        seen
    }

    #[test]
    fn a_run_becomes_one_segment() {
        let payload: Vec<u8> = (0..5_000).map(|n| n as u8).collect();
        let cut = |n: usize, flags| {
            let part = &payload[n * 1_448..payload.len().min((n + 1) * 1_448)];
            segment(80, (u32::MAX - 2_000).wrapping_add(n as u32 * 1_448), flags, part)
        };
        let seen = through(&[cut(0, ACK), cut(1, ACK), cut(2, ACK), cut(3, ACK | PSH)]);
        assert_eq!(seen.len(), 1);
        let (bytes, marks) = &seen[0];
        assert_eq!(
            *marks,
            Marks { csum: Csum::Valid, gso: Some(Gso { size: 1_448, v6: false }), elsewhere: false }
        );
        assert_eq!(bytes[TCP_AT + 32..], payload[..]);
        assert_eq!(bytes[FLAGS_AT], ACK | PSH);
        assert!(Sum::of(&bytes[ETHERNET_LEN..TCP_AT]).is_valid());
        assert_eq!(usize::from(half(bytes, TOTAL_LEN_AT)) + ETHERNET_LEN, bytes.len());
    }

    #[test]
    fn what_differs_passes_as_it_is() {
        let one = segment(80, 1_000, ACK, &[1; 500]);
        let mut wrong = segment(80, 1_500, ACK, &[2; 500]);
        wrong[TCP_AT + 40] ^= 1;
        for other in [
            segment(80, 1_501, ACK, &[2; 500]),
            segment(81, 1_500, ACK, &[2; 500]),
            segment(80, 1_500, ACK | 1, &[2; 500]),
            segment(80, 1_500, ACK, &[2; 501]),
            segment(80, 1_500, ACK, &[]),
            wrong,
            vec![7; 60],
        ] {
            let frames = [one.clone(), other];
            let seen = through(&frames);
            assert!(seen.iter().map(|(bytes, _)| bytes).eq(&frames));
            assert!(seen.iter().all(|(_, marks)| *marks == Marks::default()));
        }
    }

    proptest! {
        /// The bytes of every flow come out as they went in, in their order.
        #[test]
        fn streams_are_what_they_were(
            steps in prop::collection::vec((0u16..2, 1usize..1_448, any::<bool>(), 0u8..12), 1..60),
        ) {
            let (mut next, mut frames) = ([0u32; 2], Vec::new());
            let mut expected = [Vec::new(), Vec::new()];
            for (flow, len, full, fault) in steps {
                let len = if full { 1_000 } else { len };
                let at = &mut next[usize::from(flow)];
                let payload: Vec<u8> = (0..len).map(|n| (*at as usize + n) as u8).collect();
                // Now and then one comes with a gap before it, or asks to be pushed.
                *at = at.wrapping_add(if fault == 0 { 5 } else { 0 });
                frames.push(segment(flow, *at, if fault == 1 { ACK | PSH } else { ACK }, &payload));
                expected[usize::from(flow)].extend(payload.iter().enumerate().map(|(n, b)| (*at + n as u32, *b)));
                *at = at.wrapping_add(len as u32);
            }
            let mut seen = [Vec::new(), Vec::new()];
            for (bytes, _) in through(&frames) {
                let (flow, seq) = (half(&bytes, TCP_AT), word(&bytes, SEQ_AT));
                seen[usize::from(flow)].extend(bytes[TCP_AT + 32..].iter().enumerate().map(|(n, b)| (seq + n as u32, *b)));
            }
            prop_assert_eq!(seen, expected);
        }
    }
}
