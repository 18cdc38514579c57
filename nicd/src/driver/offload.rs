//! What a frame asks of the chip, and what the chip needs in its headers for that.
//!
//! A super-frame is cut by the chip from a template: the lengths in the IP header are zero, and so is the
//! length in the pseudo header that the TCP checksum starts with (82574 data sheet §7.3.6.2, 82576 data
//! sheet §7.2.4.2). netd leaves both in, as virtio has it; [`prepare`] takes them out.

use crate::nic::{Frame, HEADER_MIN, Slab};
use proto::nic::descriptor::{Descriptor, flag};
use proto::shm::Memory;

/// A transport checksum that the chip fills in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sum {
    /// Where the transport header starts.
    pub start: u8,
    /// Of UDP, not of TCP.
    pub udp: bool,
}

/// How a super-frame is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Bytes of all headers.
    pub header: u8,
    /// Payload bytes of a segment.
    pub size: u16,
    /// Of IPv6, not of IPv4.
    pub v6: bool,
}

/// What a frame asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wanted {
    /// A checksum.
    pub sum: Option<Sum>,
    /// To be cut.
    pub cut: Option<Cut>,
}

/// RFC 9293 §3.1: where the data offset and the checksum of TCP lie in its header.
const TCP_OFFSET_AT: usize = 12;
const TCP_SUM_AT: usize = 16;
/// RFC 791 §3.1, RFC 8200 §3: behind the Ethernet header, where the lengths and IPv4's checksum lie.
const IPV4_LENGTH_AT: usize = 2;
const IPV4_SUM_AT: usize = 10;
const IPV6_LENGTH_AT: usize = 4;

/// What `frame` asks for by its marks; `None` when it can't be had, since its headers are not where the
/// chip would look for them.
#[inline]
pub fn wanted<M: Memory>(slab: &Slab<M>, frame: &Frame) -> Option<Wanted> {
    let first = frame.first()?;
    if first.flags & flag::CSUM_PARTIAL == 0 {
        return Some(Wanted::default());
    }
    let udp = first.flags & flag::UDP != 0;
    let sum = Some(Sum { start: u8::try_from(first.csum_start).ok()?, udp });
    if first.flags & (flag::GSO_TCP4 | flag::GSO_TCP6) == 0 {
        return Some(Wanted { sum, cut: None });
    }
    let start = usize::from(first.csum_start);
    if udp || first.len as usize <= start + TCP_OFFSET_AT || start < HEADER_MIN {
        return None;
    }
    let mut byte = [0];
    slab.memory.read(slab.piece(first).0 + start + TCP_OFFSET_AT, &mut byte);
    let header = start + usize::from(byte[0] >> 4) * 4;
    // In one piece, with something to cut behind it.
    if header < start + TCP_SUM_AT + 2 || header > first.len as usize || header >= frame.len() {
        return None;
    }
    let v6 = first.flags & flag::GSO_TCP6 != 0;
    Some(Wanted { sum, cut: Some(Cut { header: u8::try_from(header).ok()?, size: first.gso_size, v6 }) })
}

/// Makes the headers of a super-frame into the template that the chip cuts by.
pub fn prepare<M: Memory>(slab: &Slab<M>, first: &Descriptor, cut: &Cut, len: usize) {
    let (at, _) = slab.piece(first);
    let ip = at + HEADER_MIN;
    match cut.v6 {
        true => slab.memory.write(ip + IPV6_LENGTH_AT, &[0; 2]),
        false => {
            slab.memory.write(ip + IPV4_LENGTH_AT, &[0; 2]);
            slab.memory.write(ip + IPV4_SUM_AT, &[0; 2]);
        }
    }
    let sum_at = at + usize::from(first.csum_start) + TCP_SUM_AT;
    let mut sum = [0; 2];
    slab.memory.read(sum_at, &mut sum);
    // RFC 1071 §2: taking away is adding the complement.
    let tcp_len = len - usize::from(first.csum_start);
    let without = u32::from(u16::from_be_bytes(sum)) + u32::from(!(tcp_len as u16));
    let folded = (without & 0xffff) + (without >> 16);
    slab.memory.write(sum_at, &(folded as u16).to_be_bytes());
}
