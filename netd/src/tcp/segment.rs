//! A segment as the machine sees it: the header's fields and the length of the payload, no bytes.
//!
//! The wire parser builds a [`Segment`]; the wire writer takes a [`SegmentOut`]. Both carry the same
//! [`Options`]. Nothing here is checked beyond what the types say: every value of every field is
//! something a remote may send.

use super::fast_open::Cookie;
use super::seq::SeqNum;

/// The control bits of a header (RFC 9293 §3.1), the low eight of that word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(u8);

impl Flags {
    /// No bit set.
    pub const NONE: Flags = Flags(0);
    /// No more data from the sender.
    pub const FIN: Flags = Flags(0x01);
    /// Synchronise sequence numbers.
    pub const SYN: Flags = Flags(0x02);
    /// Reset the connection.
    pub const RST: Flags = Flags(0x04);
    /// Push.
    pub const PSH: Flags = Flags(0x08);
    /// The acknowledgement field is significant.
    pub const ACK: Flags = Flags(0x10);
    /// The urgent pointer is significant.
    pub const URG: Flags = Flags(0x20);
    /// ECN echo (RFC 3168).
    pub const ECE: Flags = Flags(0x40);
    /// Congestion window reduced (RFC 3168).
    pub const CWR: Flags = Flags(0x80);

    /// From the header's octet.
    pub const fn from_bits(bits: u8) -> Self {
        Flags(bits)
    }

    /// The header's octet.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Both sets together.
    #[must_use]
    pub const fn with(self, other: Flags) -> Self {
        Flags(self.0 | other.0)
    }

    /// Whether every bit of `other` is set.
    pub const fn contains(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// FIN is set.
    pub const fn fin(self) -> bool {
        self.contains(Flags::FIN)
    }

    /// SYN is set.
    pub const fn syn(self) -> bool {
        self.contains(Flags::SYN)
    }

    /// RST is set.
    pub const fn rst(self) -> bool {
        self.contains(Flags::RST)
    }

    /// ACK is set.
    pub const fn ack(self) -> bool {
        self.contains(Flags::ACK)
    }

    /// URG is set.
    pub const fn urg(self) -> bool {
        self.contains(Flags::URG)
    }
}

/// One block of a SACK option: the numbers from `start` up to, not including, `end` (RFC 2018 §3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SackBlock {
    /// The first number of the block.
    pub start: SeqNum,
    /// The number just behind the block.
    pub end: SeqNum,
}

/// The most SACK blocks that fit a header: 40 octets of options hold four (RFC 2018 §3).
pub const SACK_BLOCKS_MAX: usize = 4;

/// The blocks of a SACK option in the order they stand there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SackBlocks {
    blocks: [SackBlock; SACK_BLOCKS_MAX],
    len: u8,
}

impl SackBlocks {
    /// No block.
    pub const NONE: SackBlocks =
        SackBlocks { blocks: [SackBlock { start: SeqNum::new(0), end: SeqNum::new(0) }; 4], len: 0 };

    /// Appends a block; a fifth one is ignored.
    pub fn push(&mut self, block: SackBlock) {
        if let Some(slot) = self.blocks.get_mut(usize::from(self.len)) {
            *slot = block;
            self.len += 1;
        }
    }

    /// The blocks.
    pub fn as_slice(&self) -> &[SackBlock] {
        &self.blocks[..usize::from(self.len)]
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many there are, at most [`SACK_BLOCKS_MAX`].
    pub const fn len(&self) -> usize {
        self.len as usize
    }
}

/// The timestamps option (RFC 7323 §3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timestamps {
    /// TSval: the sender's clock.
    pub value: u32,
    /// TSecr: the clock value echoed; 0 and without meaning where ACK is not set.
    pub echo: u32,
}

/// The options of a header that the machine knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// Maximum segment size (RFC 9293 §3.2), meaningful in a SYN.
    pub mss: Option<u16>,
    /// Window scale shift count as sent, not limited to 14 (RFC 7323 §2.2), meaningful in a SYN.
    pub window_scale: Option<u8>,
    /// SACK permitted (RFC 2018 §2), meaningful in a SYN.
    pub sack_permitted: bool,
    /// Timestamps (RFC 7323 §3.2).
    pub timestamps: Option<Timestamps>,
    /// SACK blocks (RFC 2018 §3).
    pub sack: SackBlocks,
    /// Fast Open (RFC 7413 §4.1.1), meaningful in a SYN.
    pub fast_open: Option<Cookie>,
}

/// Octets of a header without options (RFC 9293 §3.1).
pub const HEADER_LEN: u32 = 20;

/// Octets of the timestamps option with the padding it always has (RFC 7323 appendix A).
pub const TIMESTAMPS_LEN: u32 = 12;

impl Options {
    /// Nothing.
    pub const NONE: Options = Options {
        mss: None,
        window_scale: None,
        sack_permitted: false,
        timestamps: None,
        sack: SackBlocks::NONE,
        fast_open: None,
    };

    /// Octets the options take in a header: the sum of their lengths (MSS 4, window scale 3,
    /// SACK permitted 2, timestamps 10, SACK 2 + 8 a block, Fast Open 2 and the cookie), rounded up to a multiple of four.
    /// The writer pads with no-operations so that it comes to exactly this.
    pub fn wire_len(&self) -> u32 {
        let mut len = 0;
        if self.mss.is_some() {
            len += 4;
        }
        if self.window_scale.is_some() {
            len += 3;
        }
        if self.sack_permitted {
            len += 2;
        }
        if self.timestamps.is_some() {
            len += 10;
        }
        if !self.sack.is_empty() {
            len += 2 + 8 * self.sack.len() as u32;
        }
        if let Some(cookie) = &self.fast_open {
            len += 2 + cookie.as_bytes().len() as u32;
        }
        len.div_ceil(4) * 4
    }
}

/// A segment that came from the wire, checksum already verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Segment {
    /// SEG.SEQ.
    pub seq: SeqNum,
    /// SEG.ACK; without meaning unless ACK is set.
    pub ack: SeqNum,
    /// The control bits.
    pub flags: Flags,
    /// The window field as it stands in the header, unscaled.
    pub window: u16,
    /// The urgent pointer; without meaning unless URG is set.
    pub urgent: u16,
    /// The options.
    pub options: Options,
    /// Octets of payload. May exceed the MSS when a device has merged several segments.
    pub payload_len: u32,
    /// The IP header says that a router saw congestion: CE (RFC 3168 §5).
    pub marked: bool,
}

impl Segment {
    /// The same segment with only the first `octets` of its payload, and so without its FIN.
    #[must_use]
    pub fn first_octets(&self, octets: u32) -> Segment {
        let flags = Flags::from_bits(self.flags.bits() & !Flags::FIN.bits());
        Segment { payload_len: octets.min(self.payload_len), flags, ..*self }
    }

    /// SEG.LEN: sequence numbers the segment occupies, SYN and FIN counted (RFC 9293 §3.4).
    pub fn seq_len(&self) -> u64 {
        u64::from(self.payload_len) + u64::from(self.flags.syn()) + u64::from(self.flags.fin())
    }
}

/// A segment to be put on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SegmentOut {
    /// SEG.SEQ of the first octet (or of SYN or FIN).
    pub seq: SeqNum,
    /// SEG.ACK; 0 where ACK is not set.
    pub ack: SeqNum,
    /// The control bits. On a segment cut up further by a device, FIN and PSH belong to the last
    /// piece only, as devices do it.
    pub flags: Flags,
    /// The window field, already scaled.
    pub window: u16,
    /// The urgent pointer; 0 where URG is not set.
    pub urgent: u16,
    /// The options, ready to be written.
    pub options: Options,
    /// The stream offset of the first payload byte; without meaning when `payload_len` is 0.
    pub offset: u64,
    /// Octets of payload, at most the `gso_max` that was asked for.
    pub payload_len: u32,
    /// Octets of payload per piece on the wire: where `payload_len` is larger, the segment leaves
    /// as several of this size (the last may be shorter). Never 0.
    pub piece_len: u16,
    /// Routers may mark it: ECT(0) in the IP header (RFC 3168 §5).
    pub ect: bool,
}

impl SegmentOut {
    /// Pieces in which it leaves: one, unless it is longer than `piece_len`.
    pub fn pieces(&self) -> u32 {
        self.payload_len.div_ceil(u32::from(self.piece_len)).max(1)
    }

    /// Piece number `n` from 0, as a device would cut it: its own place, the header's flags where they
    /// belong (FIN and PSH to the last, CWR to the first: RFC 3168 §6.1.2), the urgent pointer, which
    /// counts from each piece's own sequence number (RFC 9293 §3.8.5).
    ///
    /// # Panics
    /// When there is no such piece.
    #[must_use]
    pub fn piece(&self, n: u32) -> SegmentOut {
        assert!(n < self.pieces(), "no such piece");
        let skip = n * u32::from(self.piece_len);
        let last = n + 1 == self.pieces();
        let mut bits = self.flags.bits();
        if !last {
            bits &= !(Flags::FIN.bits() | Flags::PSH.bits());
        }
        if n > 0 {
            bits &= !Flags::CWR.bits();
        }
        let mut piece = SegmentOut {
            seq: self.seq.plus(skip),
            offset: self.offset + u64::from(skip),
            payload_len: (self.payload_len - skip).min(u32::from(self.piece_len)),
            ..*self
        };
        let urgent = u32::from(self.urgent).saturating_sub(skip);
        piece.urgent = urgent as u16;
        if urgent == 0 {
            bits &= !Flags::URG.bits();
        }
        piece.flags = Flags::from_bits(bits);
        piece
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_stand_in_their_places_and_the_flags_with_the_right_ones() {
        let whole = SegmentOut {
            seq: SeqNum::new(u32::MAX - 500),
            flags: Flags::ACK.with(Flags::PSH).with(Flags::FIN).with(Flags::URG).with(Flags::CWR),
            urgent: 1500,
            offset: 7_000,
            payload_len: 2_500,
            piece_len: 1_000,
            ..SegmentOut::default()
        };
        assert_eq!(whole.pieces(), 3);
        let pieces: Vec<_> = (0..3).map(|n| whole.piece(n)).collect();
        assert_eq!(pieces.iter().map(|p| p.payload_len).collect::<Vec<_>>(), [1_000, 1_000, 500]);
        assert_eq!(pieces.iter().map(|p| p.offset).collect::<Vec<_>>(), [7_000, 8_000, 9_000]);
        assert_eq!(pieces[1].seq, SeqNum::new(499));
        assert_eq!(pieces.iter().map(|p| p.urgent).collect::<Vec<_>>(), [1_500, 500, 0]);
        let urgent = Flags::ACK.with(Flags::URG);
        assert_eq!(
            pieces.iter().map(|p| p.flags).collect::<Vec<_>>(),
            [urgent.with(Flags::CWR), urgent, Flags::ACK.with(Flags::PSH).with(Flags::FIN)]
        );
        let small =
            SegmentOut { payload_len: 0, flags: Flags::FIN, piece_len: 1_000, ..SegmentOut::default() };
        assert_eq!((small.pieces(), small.piece(0)), (1, small));
    }
}
