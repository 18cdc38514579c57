//! A device with offloads, as a chip or a TAP does them: on the way out it cuts TCP super-frames and fills
//! in checksums, on the way in it verifies them and joins neighbouring segments of one flow.
//!
//! Written from the formats (RFC 791, RFC 9293 §3.1), not with the emitters of netd: what netd hands down
//! becomes ordinary frames here, and the watches look at those.

use netd::wire::address::AddressPair;
use netd::wire::checksum::{Sum, pseudo_header};
use proto::control::notices::feature;
use proto::nic::packet_buf::{Csum, Gso, Marks};
use std::net::Ipv4Addr;

/// What the device does.
pub const FEATURES: u32 = feature::TX_CHECKSUM | feature::RX_CHECKSUM | feature::TSO4 | feature::RX_COALESCE;

const ETHERNET: usize = 14;
const IP: usize = 20;
const TCP_AT: usize = ETHERNET + IP;
const SEQ_AT: usize = TCP_AT + 4;
const ACK_AT: usize = TCP_AT + 8;
const OFFSET_AT: usize = TCP_AT + 12;
const FLAGS_AT: usize = TCP_AT + 13;
const WINDOW_AT: usize = TCP_AT + 14;
const CHECKSUM_AT: usize = TCP_AT + 16;

const FIN: u8 = 1;
const PSH: u8 = 8;
const ACK: u8 = 16;
const CWR: u8 = 128;

/// The longest packet of an IPv4 header's length field.
const PACKET_MAX: usize = 65_535;

/// A frame, and what is said of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marked {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// What the device says of it, or is asked to do with it.
    pub marks: Marks,
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn headers_end(bytes: &[u8]) -> usize {
    TCP_AT + usize::from(bytes[OFFSET_AT] >> 4) * 4
}

/// The sum over a TCP segment with its pseudo header.
fn sum(bytes: &[u8]) -> Sum {
    let src = Ipv4Addr::from_bits(word(bytes, ETHERNET + 12));
    let dst = Ipv4Addr::from_bits(word(bytes, ETHERNET + 16));
    let protocol = bytes[ETHERNET + 9];
    let len = (bytes.len() - TCP_AT) as u32;
    pseudo_header(&AddressPair::V4 { src, dst }, protocol, len).then(&bytes[TCP_AT..])
}

fn set(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// Makes the length and the checksum of the IP header right.
fn finish_ip(bytes: &mut [u8]) {
    let len = (bytes.len() - ETHERNET) as u16;
    set(bytes, ETHERNET + 2, len);
    set(bytes, ETHERNET + 10, 0);
    let field = Sum::of(&bytes[ETHERNET..TCP_AT]).field();
    set(bytes, ETHERNET + 10, field);
}

/// What goes onto the cable for a frame that netd has handed down.
///
/// # Panics
/// When netd asks for what no device does.
pub fn send(frame: Marked) -> Vec<Vec<u8>> {
    let Marked { bytes, marks } = frame;
    let Csum::Partial { start, udp } = marks.csum else {
        assert!(marks == Marks::default(), "nothing is asked of the device: {marks:?}");
        return vec![bytes];
    };
    assert_eq!(start as usize, TCP_AT, "the transport begins behind the IP header");
    let Some(gso) = marks.gso else {
        return vec![checksummed(bytes, udp)];
    };
    assert!(!udp && !gso.v6, "TCP over IPv4 is cut");
    let (end, size) = (headers_end(&bytes), usize::from(gso.size));
    assert!(bytes.len() > end + size, "a super-frame holds more than a segment");
    let pieces = bytes[end..].chunks(size);
    let count = pieces.len();
    let cut = |(n, payload): (usize, &[u8])| {
        let mut piece = [&bytes[..end], payload].concat();
        let seq = word(&bytes, SEQ_AT).wrapping_add((n * size) as u32);
        piece[SEQ_AT..ACK_AT].copy_from_slice(&seq.to_be_bytes());
        piece[FLAGS_AT] &= if n + 1 < count { !(FIN | PSH) } else { !0 };
        piece[FLAGS_AT] &= if n > 0 { !CWR } else { !0 };
        finish_ip(&mut piece);
        checksummed(piece, false)
    };
    pieces.enumerate().map(cut).collect()
}

/// VIRTIO 1.2 §5.1.6.2: the field holds the pseudo header's sum. It is not looked at but set to zero, so
/// that the test of it is a second one.
fn checksummed(mut bytes: Vec<u8>, udp: bool) -> Vec<u8> {
    let at = if udp { TCP_AT + 6 } else { CHECKSUM_AT };
    set(&mut bytes, at, 0);
    let field = sum(&bytes).field();
    set(&mut bytes, at, if udp && field == 0 { 0xffff } else { field });
    bytes
}

/// Whether this is a whole TCP segment with a right checksum, without padding and without IP options.
fn is_sound(bytes: &[u8]) -> bool {
    bytes.len() >= TCP_AT + 20
        && bytes[12..ETHERNET] == [8, 0]
        && bytes[ETHERNET] == 0x45
        && bytes[ETHERNET + 9] == 6
        && bytes.len() == ETHERNET + (word(bytes, ETHERNET) & 0xffff) as usize
        && word(bytes, ETHERNET + 4) & 0x3fff == 0
        && Sum::of(&bytes[ETHERNET..TCP_AT]).is_valid()
        && headers_end(bytes) <= bytes.len()
        && headers_end(bytes) >= TCP_AT + 20
        && sum(bytes).is_valid()
}

/// Whether `next` continues `whole`: one flow, the same acknowledgement, window and options, plain data.
fn continues(whole: &[u8], size: usize, next: &[u8]) -> bool {
    let end = headers_end(whole);
    let payload = next.len() - end.min(next.len());
    let held = whole.len() - end;
    headers_end(next) == end
        && whole[FLAGS_AT] == ACK
        && next[FLAGS_AT] & !PSH == ACK
        && (1..=size).contains(&payload)
        && held.is_multiple_of(size)
        && whole[..ETHERNET + 2] == next[..ETHERNET + 2]
        && whole[ETHERNET + 8] == next[ETHERNET + 8]
        && whole[ETHERNET + 12..SEQ_AT] == next[ETHERNET + 12..SEQ_AT]
        && word(whole, SEQ_AT).wrapping_add(held as u32) == word(next, SEQ_AT)
        && whole[ACK_AT..OFFSET_AT] == next[ACK_AT..OFFSET_AT]
        && whole[WINDOW_AT..CHECKSUM_AT] == next[WINDOW_AT..CHECKSUM_AT]
        && whole[CHECKSUM_AT + 2..end] == next[CHECKSUM_AT + 2..end]
        && whole.len() + payload - ETHERNET <= PACKET_MAX
}

/// What the stack is given for frames that came one after the other. What was joined was either verified
/// or, as between two hosts on one machine, never summed: `partial` says which.
pub fn receive(frames: impl Iterator<Item = Vec<u8>>, partial: bool) -> Vec<Marked> {
    let mut out: Vec<Marked> = Vec::new();
    for bytes in frames {
        if !is_sound(&bytes) {
            // What is wrong, or not TCP, is for the stack to find out.
            out.push(Marked { bytes, marks: Marks::default() });
            continue;
        }
        let size = bytes.len() - headers_end(&bytes);
        if let Some(last) = out.last_mut().filter(|last| last.marks.csum != Csum::Unknown) {
            let held = last.bytes.len() - headers_end(&last.bytes);
            let first = last.marks.gso.map_or(held, |gso| gso.size.into());
            if first > 0 && continues(&last.bytes, first, &bytes) {
                last.bytes[FLAGS_AT] |= bytes[FLAGS_AT] & PSH;
                last.bytes.extend(&bytes[bytes.len() - size..]);
                finish_ip(&mut last.bytes);
                last.marks.gso = Some(Gso { size: first as u16, v6: false });
                continue;
            }
        }
        let csum = match partial {
            true => Csum::Partial { start: TCP_AT as i32, udp: false },
            false => Csum::Valid,
        };
        out.push(Marked { bytes, marks: Marks { csum, ..Marks::default() } });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(seq: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; TCP_AT + 20];
        bytes[12..ETHERNET].copy_from_slice(&[8, 0]);
        (bytes[ETHERNET], bytes[ETHERNET + 9]) = (0x45, 6);
        bytes[SEQ_AT..ACK_AT].copy_from_slice(&seq.to_be_bytes());
        (bytes[OFFSET_AT], bytes[FLAGS_AT]) = (0x50, ACK);
        bytes.extend(payload);
        finish_ip(&mut bytes);
        checksummed(bytes, false)
    }

    #[test]
    fn what_is_cut_is_joined_again() {
        let payload: Vec<u8> = (0..4_321).map(|n| n as u8).collect();
        let mut whole = segment(u32::MAX - 1_000, &payload);
        whole[FLAGS_AT] |= PSH;
        let whole = checksummed(whole, false);
        let marks = Marks {
            csum: Csum::Partial { start: TCP_AT as i32, udp: false },
            gso: Some(Gso { size: 1_000, v6: false }),
            ..Marks::default()
        };
        let frames = send(Marked { bytes: whole.clone(), marks });
        assert_eq!(frames.iter().map(Vec::len).collect::<Vec<_>>(), [1_054, 1_054, 1_054, 1_054, 375]);
        assert!(frames.iter().all(|frame| is_sound(frame)));
        let joined = receive(frames.into_iter(), true);
        assert_eq!(joined.len(), 1);
        assert_eq!((joined[0].marks, &joined[0].bytes[TCP_AT + 20..]), (marks, &payload[..]));
        assert_eq!(joined[0].bytes[..CHECKSUM_AT], whole[..CHECKSUM_AT]);
    }

    #[test]
    fn a_gap_or_a_wrong_checksum_is_not_joined() {
        let mut wrong = segment(2_000, &[1; 1_000]);
        wrong[TCP_AT + 30] ^= 1;
        let frames = [segment(0, &[1; 1_000]), segment(1_001, &[2; 1_000]), wrong];
        let joined = receive(frames.into_iter(), false);
        let marks: Vec<_> = joined.iter().map(|frame| frame.marks.csum).collect();
        assert_eq!(marks, [Csum::Valid, Csum::Valid, Csum::Unknown]);
    }
}
