//! Descriptors of the 82574L: legacy ones for receiving, extended ones for sending.

use crate::driver::intel::desc::{DataHigh, Marks, data};
use crate::driver::offload::Wanted;
use crate::driver::receive::{self, Arrived};
use crate::driver::transmit::{self, Piece};
use bitfield_struct::bitfield;

/// Second word of a receive descriptor, §7.1.4.
#[bitfield(u64)]
pub struct ReceiveWord {
    pub length: u16,
    pub packet_sum: u16,
    pub done: bool,
    pub end_of_packet: bool,
    /// The marks of checksums say nothing.
    pub ignore_sums: bool,
    pub vlan: bool,
    pub udp_checked: bool,
    pub tcp_checked: bool,
    pub ip_checked: bool,
    pub in_exact_filter: bool,
    pub crc_error: bool,
    pub symbol_error: bool,
    pub sequence_error: bool,
    #[bits(2)]
    _1: u8,
    pub transport_sum_wrong: bool,
    pub ip_sum_wrong: bool,
    pub receive_error: bool,
    pub tag: u16,
}

/// How the 82574L writes received frames.
#[derive(Debug, Clone, Copy)]
pub struct Receive;

impl receive::Format for Receive {
    #[inline]
    fn take(word: u64) -> Option<Arrived> {
        let word = ReceiveWord::from(word);
        Marks {
            done: word.done(),
            end_of_packet: word.end_of_packet(),
            // §7.1.11: the marks stand in the last descriptor of a frame.
            summed: !word.ignore_sums() && (word.tcp_checked() || word.udp_checked()),
            sum_wrong: word.transport_sum_wrong(),
            damaged: word.crc_error() || word.symbol_error() || word.sequence_error() || word.receive_error(),
        }
        .arrived(word.length())
    }
}

/// First word of a context descriptor, §7.2.6: where the sums of IP and of the transport lie.
#[bitfield(u64)]
pub struct ContextLow {
    pub ip_start: u8,
    pub ip_at: u8,
    pub ip_end: u16,
    pub start: u8,
    pub at: u8,
    /// 0: to the end of the frame.
    pub end: u16,
}

/// Second word of a context descriptor, §7.2.6.
#[bitfield(u64)]
pub struct ContextHigh {
    #[bits(20)]
    pub payload: u32,
    #[bits(4)]
    pub kind: u8,
    pub tcp: bool,
    pub ipv4: bool,
    pub cut: bool,
    #[bits(2)]
    _1: u8,
    pub extended: bool,
    #[bits(2)]
    _2: u8,
    pub status: u8,
    pub header: u8,
    pub segment: u16,
}

/// Bytes of an Ethernet header, where IP begins: IEEE 802.3 clause 3.
const IP_START: u8 = 14;
/// RFC 791 §3.1: where the checksum lies in a header of IPv4.
const IPV4_SUM: u8 = 10;

/// How the 82574L reads frames to send.
#[derive(Debug, Clone, Copy)]
pub struct Transmit;

impl transmit::Format for Transmit {
    #[inline]
    fn context(wanted: &Wanted, total: usize) -> Option<[u64; 2]> {
        let sum = wanted.sum?;
        // RFC 768, RFC 9293 §3.1.
        let at = sum.start.wrapping_add(if sum.udp { 6 } else { 16 });
        let low = ContextLow::new().with_start(sum.start).with_at(at);
        let high = ContextHigh::new().with_extended(true).with_tcp(!sum.udp);
        let (low, high) = match &wanted.cut {
            None => (low, high),
            Some(cut) => (
                low.with_ip_start(IP_START).with_ip_at(IP_START + IPV4_SUM).with_ip_end(if cut.v6 {
                    0
                } else {
                    u16::from(sum.start) - 1
                }),
                high.with_cut(true)
                    .with_ipv4(!cut.v6)
                    .with_header(cut.header)
                    .with_segment(cut.size)
                    .with_payload((total - usize::from(cut.header)) as u32),
            ),
        };
        Some([low.into(), high.into()])
    }

    #[inline]
    fn piece(piece: &Piece) -> [u64; 2] {
        let high = data(piece).with_kind(1).with_cut_extended(piece.wanted.cut.is_some());
        [piece.iova, high.into()]
    }

    #[inline]
    fn is_done(word: u64) -> bool {
        DataHigh::from(word).done()
    }
}
