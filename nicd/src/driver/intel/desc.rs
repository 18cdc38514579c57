//! What the descriptors of the Intel chips have alike.
//!
//! Sections are those of the 82574's and the 82576's data sheets; bits that one chip alone knows say so.

use crate::driver::receive::Arrived;
use crate::driver::transmit::Piece;
use bitfield_struct::bitfield;
use proto::nic::descriptor::flag;

/// What both chips say of a received frame, wherever in the descriptor they say it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Marks {
    /// Written back.
    pub done: bool,
    /// The frame ends here.
    pub end_of_packet: bool,
    /// The transport's sum was computed.
    pub summed: bool,
    /// It is not what the frame says.
    pub sum_wrong: bool,
    /// Damaged on the cable.
    pub damaged: bool,
}

impl Marks {
    /// What a page of `len` bytes with these marks is.
    #[inline]
    pub fn arrived(self, len: u16) -> Option<Arrived> {
        let flags = if self.summed && !self.sum_wrong { flag::CSUM_VALID } else { 0 };
        self.done.then(|| Arrived { len: len.into(), last: self.end_of_packet, bad: self.damaged, flags })
    }
}

/// Second word of a data descriptor, 82574 §7.2.7, 82576 §7.2.2.3. The first is the address.
#[bitfield(u64)]
pub struct DataHigh {
    /// A page has 16 KiB: the 82574's four bits more are not needed.
    pub length: u16,
    #[bits(4)]
    _1: u8,
    /// 1 for the 82574, 3 for the 82576.
    #[bits(4)]
    pub kind: u8,
    pub end_of_packet: bool,
    pub insert_crc: bool,
    /// A super-frame, to the 82574.
    pub cut_extended: bool,
    pub report: bool,
    #[bits(1)]
    _2: u8,
    pub extended: bool,
    pub vlan: bool,
    /// A super-frame, to the 82576.
    pub cut_advanced: bool,
    pub done: bool,
    #[bits(7)]
    _3: u8,
    pub ip_sum: bool,
    pub transport_sum: bool,
    #[bits(4)]
    _4: u8,
    /// To the 82576: bytes behind the headers of a super-frame; of any other frame all of it.
    #[bits(18)]
    pub payload: u32,
}

/// What a data descriptor of either chip says of a piece.
#[inline]
pub fn data(piece: &Piece) -> DataHigh {
    DataHigh::new()
        .with_length(piece.len as u16)
        .with_extended(true)
        .with_insert_crc(true)
        .with_end_of_packet(piece.last)
        .with_report(piece.last)
        .with_ip_sum(piece.wanted.cut.is_some_and(|cut| !cut.v6))
        .with_transport_sum(piece.wanted.sum.is_some())
}
