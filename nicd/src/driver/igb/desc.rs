//! Advanced descriptors of the 82576.

use crate::driver::offload::Wanted;
use crate::driver::receive::{self, Arrived};
use crate::driver::transmit::{self, Piece};
use bitfield_struct::bitfield;
use proto::nic::descriptor::flag;

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
    fn post(iova: u64) -> [u64; 2] {
        // §7.1.5.1: the second word is the header's buffer, of which there is none.
        [iova, 0]
    }

    fn take(word: u64) -> Option<Arrived> {
        let word = ReceiveWord::from(word);
        let bad = word.crc_error() || word.symbol_error() || word.sequence_error() || word.receive_error();
        let valid = word.transport_checked() && !word.transport_sum_wrong();
        let flags = if valid { flag::CSUM_VALID } else { 0 };
        word.done().then(|| Arrived { len: word.length().into(), last: word.end_of_packet(), bad, flags })
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

/// Second word of a data descriptor, §7.2.2.3. The first is the address.
#[bitfield(u64)]
pub struct DataHigh {
    pub length: u16,
    #[bits(4)]
    _1: u8,
    /// 3 in a data descriptor.
    #[bits(4)]
    pub kind: u8,
    pub end_of_packet: bool,
    pub insert_crc: bool,
    #[bits(1)]
    _2: u8,
    pub report: bool,
    #[bits(1)]
    _3: u8,
    pub extended: bool,
    pub vlan: bool,
    pub cut: bool,
    pub done: bool,
    #[bits(7)]
    _4: u8,
    pub ip_sum: bool,
    pub transport_sum: bool,
    #[bits(4)]
    _5: u8,
    /// Bytes behind the headers of a super-frame; of any other frame all of it.
    #[bits(18)]
    pub payload: u32,
}

/// Bytes of an Ethernet header: IEEE 802.3 clause 3.
const MAC_LENGTH: u8 = 14;

/// How the 82576 reads frames to send.
#[derive(Debug, Clone, Copy)]
pub struct Transmit;

impl transmit::Format for Transmit {
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

    fn piece(piece: &Piece) -> [u64; 2] {
        let cut = piece.wanted.cut;
        let headers = cut.map_or(0, |cut| usize::from(cut.header));
        let high = DataHigh::new()
            // A page has 16 KiB.
            .with_length(piece.len as u16)
            .with_kind(3)
            .with_extended(true)
            .with_insert_crc(true)
            .with_end_of_packet(piece.last)
            .with_report(piece.last)
            .with_cut(cut.is_some())
            .with_ip_sum(cut.is_some_and(|cut| !cut.v6))
            .with_transport_sum(piece.wanted.sum.is_some())
            .with_payload((piece.total - headers) as u32);
        [piece.iova, high.into()]
    }

    fn is_done(word: u64) -> bool {
        DataHigh::from(word).done()
    }
}
