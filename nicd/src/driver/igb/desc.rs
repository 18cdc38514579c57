//! Advanced descriptors of the 82576.

use crate::driver::intel::desc::{DataHigh, Marks, data};
use crate::driver::offload::Wanted;
use crate::driver::receive::{self, Arrived};
use crate::driver::transmit::{self, Piece};
use bitfield_struct::bitfield;

/// Second word of a receive descriptor that the chip has written, §7.1.5.2.
#[bitfield(u64)]
pub struct ReceiveWord {
    pub done: bool,
    pub end_of_packet: bool,
    #[bits(1)]
    _1: u8,
    pub vlan: bool,
    pub udp_checked: bool,
    pub transport_checked: bool,
    pub ip_checked: bool,
    #[bits(17)]
    _2: u32,
    pub crc_error: bool,
    pub symbol_error: bool,
    pub sequence_error: bool,
    #[bits(2)]
    _3: u8,
    pub transport_sum_wrong: bool,
    pub ip_sum_wrong: bool,
    pub receive_error: bool,
    pub length: u16,
    pub tag: u16,
}

/// How the 82576 writes received frames.
#[derive(Debug, Clone, Copy)]
pub struct Receive;

impl receive::Format for Receive {
    #[inline]
    fn take(word: u64) -> Option<Arrived> {
        let word = ReceiveWord::from(word);
        let damaged =
            word.crc_error() || word.symbol_error() || word.sequence_error() || word.receive_error();
        let (summed, sum_wrong) = (word.transport_checked(), word.transport_sum_wrong());
        let marks =
            Marks { done: word.done(), end_of_packet: word.end_of_packet(), summed, sum_wrong, damaged };
        marks.arrived(word.length())
    }
}

/// First word of a context descriptor, §7.2.2.2.
#[bitfield(u64)]
pub struct ContextLow {
    #[bits(9)]
    pub ip_length: u16,
    #[bits(7)]
    pub mac_length: u8,
    #[bits(48)]
    _1: u64,
}

/// Second word of a context descriptor, §7.2.2.2.
#[bitfield(u64)]
pub struct ContextHigh {
    #[bits(10)]
    _1: u16,
    pub ipv4: bool,
    pub tcp: bool,
    #[bits(8)]
    _2: u8,
    /// 2 in a context.
    #[bits(4)]
    pub kind: u8,
    #[bits(5)]
    _3: u8,
    pub extended: bool,
    #[bits(10)]
    _4: u16,
    pub transport_length: u8,
    pub segment: u16,
}

/// Bytes of an Ethernet header: IEEE 802.3 clause 3.
const MAC_LENGTH: u8 = 14;

/// How the 82576 reads frames to send.
#[derive(Debug, Clone, Copy)]
pub struct Transmit;

impl transmit::Format for Transmit {
    #[inline]
    fn context(wanted: &Wanted, _: usize) -> Option<[u64; 2]> {
        let sum = wanted.sum?;
        let ip = u16::from(sum.start.saturating_sub(MAC_LENGTH));
        let low = ContextLow::new().with_mac_length(MAC_LENGTH).with_ip_length(ip);
        let high = ContextHigh::new().with_kind(2).with_extended(true).with_tcp(!sum.udp);
        let high = match &wanted.cut {
            None => high,
            Some(cut) => {
                high.with_ipv4(!cut.v6).with_transport_length(cut.header - sum.start).with_segment(cut.size)
            }
        };
        Some([low.into(), high.into()])
    }

    #[inline]
    fn piece(piece: &Piece) -> [u64; 2] {
        let cut = piece.wanted.cut;
        let headers = cut.map_or(0, |cut| usize::from(cut.header));
        let high = data(piece).with_kind(3).with_cut_advanced(cut.is_some());
        [piece.iova, high.with_payload((piece.total - headers) as u32).into()]
    }

    #[inline]
    fn is_done(word: u64) -> bool {
        DataHigh::from(word).done()
    }
}
