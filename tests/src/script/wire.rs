//! Packets as octets, written and read without the stack's own code.

use std::net::{Ipv4Addr, Ipv6Addr};

/// The stack's address.
pub const STACK: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// The remote's.
pub const REMOTE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
/// The stack's address of IPv6.
pub const STACK6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
/// The remote's.
pub const REMOTE6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
/// The stack's hardware address.
pub const STACK_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// The remote's.
pub const REMOTE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// Octets before the TCP header.
const BEFORE_TCP: usize = 14 + 20;

/// Flags by their letters, from bit 0 on (RFC 9293 §3.1).
pub const LETTERS: &str = "FSRPAUEW";

/// A segment with raw numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Raw {
    /// The source port.
    pub from: u16,
    /// The destination port.
    pub to: u16,
    /// The sequence number.
    pub seq: u32,
    /// The acknowledgement number.
    pub ack: u32,
    /// The control bits.
    pub flags: u8,
    /// The window field.
    pub window: u16,
    /// The urgent pointer.
    pub urgent: u16,
    /// The options' octets, a multiple of four.
    pub options: Vec<u8>,
    /// The payload.
    pub payload: Vec<u8>,
    /// The ECN bits of the IP header.
    pub ecn: u8,
}

/// RFC 1071: the complement of the sum of 16-bit words.
fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u32;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// A packet of IPv4 from the remote, as a frame.
pub fn ip(protocol: u8, ecn: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = [0u8; 20];
    header[0] = 0x45;
    header[1] = ecn;
    header[2..4].copy_from_slice(&((20 + payload.len()) as u16).to_be_bytes());
    header[6] = 0x40;
    header[8] = 64;
    header[9] = protocol;
    header[12..16].copy_from_slice(&REMOTE.octets());
    header[16..20].copy_from_slice(&STACK.octets());
    let sum = checksum(&[&header]);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut frame = Vec::from(STACK_MAC);
    frame.extend(REMOTE_MAC);
    frame.extend([8, 0]);
    frame.extend(header);
    frame.extend(payload);
    frame
}

fn pseudo(src: Ipv4Addr, dst: Ipv4Addr, len: usize) -> [u8; 12] {
    let mut pseudo = [0u8; 12];
    pseudo[..4].copy_from_slice(&src.octets());
    pseudo[4..8].copy_from_slice(&dst.octets());
    pseudo[9] = 6;
    pseudo[10..].copy_from_slice(&(len as u16).to_be_bytes());
    pseudo
}

fn tcp(raw: &Raw) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(raw.from.to_be_bytes());
    bytes.extend(raw.to.to_be_bytes());
    bytes.extend(raw.seq.to_be_bytes());
    bytes.extend(raw.ack.to_be_bytes());
    bytes.push((((20 + raw.options.len()) / 4) << 4) as u8);
    bytes.push(raw.flags);
    bytes.extend(raw.window.to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(raw.urgent.to_be_bytes());
    bytes.extend(&raw.options);
    bytes.extend(&raw.payload);
    bytes
}

/// A packet of IPv6 from the remote, as a frame.
fn ip6(ecn: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::from(STACK_MAC);
    frame.extend(REMOTE_MAC);
    frame.extend([0x86, 0xdd, 0x60, ecn << 4, 0, 0]);
    frame.extend((payload.len() as u16).to_be_bytes());
    frame.extend([6, 64]);
    frame.extend(REMOTE6.octets());
    frame.extend(STACK6.octets());
    frame.extend(payload);
    frame
}

fn pseudo6(src: Ipv6Addr, dst: Ipv6Addr, len: usize) -> Vec<u8> {
    let mut pseudo = Vec::from(src.octets());
    pseudo.extend(dst.octets());
    pseudo.extend((len as u32).to_be_bytes());
    pseudo.extend([0, 0, 0, 6]);
    pseudo
}

/// The same over IPv6.
pub fn frame6(raw: &Raw, spoil: bool) -> Vec<u8> {
    let mut bytes = tcp(raw);
    let sum = checksum(&[&pseudo6(REMOTE6, STACK6, bytes.len()), &bytes]) ^ u16::from(spoil);
    bytes[16..18].copy_from_slice(&sum.to_be_bytes());
    ip6(raw.ecn, &bytes)
}

/// Gives the IPv4 header of a frame that was changed its checksum again.
pub fn sum_header(frame: &mut [u8]) {
    if frame.len() >= BEFORE_TCP {
        frame[24..26].fill(0);
        let sum = checksum(&[&frame[14..34]]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }
}

/// Gives a frame that was changed its checksums again, as far as there is room for them.
pub fn sum_again(frame: &mut [u8]) {
    sum_header(frame);
    if frame.len() >= BEFORE_TCP + 20 && frame[23] == 6 {
        let total = usize::from(u16::from_be_bytes([frame[16], frame[17]]));
        let end = (14 + total).clamp(BEFORE_TCP + 20, frame.len());
        let tcp = &mut frame[BEFORE_TCP..end];
        tcp[16..18].fill(0);
        let sum = checksum(&[&pseudo(REMOTE, STACK, tcp.len()), tcp]);
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    }
}

/// The frame that carries a segment of the remote; with `spoil` its checksum is wrong.
pub fn frame(raw: &Raw, spoil: bool) -> Vec<u8> {
    let mut bytes = tcp(raw);
    let sum = checksum(&[&pseudo(REMOTE, STACK, bytes.len()), &bytes]) ^ u16::from(spoil);
    bytes[16..18].copy_from_slice(&sum.to_be_bytes());
    ip(6, raw.ecn, &bytes)
}

/// An ICMP error that quotes the first eight octets of a segment of the stack.
pub fn icmp(kind: u8, code: u8, value: u16, quoted: &Raw) -> Vec<u8> {
    let mut inner = ip(6, 0, &tcp(quoted)).split_off(14);
    inner[12..16].copy_from_slice(&STACK.octets());
    inner[16..20].copy_from_slice(&REMOTE.octets());
    inner[10..12].fill(0);
    let sum = checksum(&[&inner[..20]]);
    inner[10..12].copy_from_slice(&sum.to_be_bytes());
    inner.truncate(28);
    let mut message = vec![kind, code, 0, 0, 0, 0];
    message.extend(value.to_be_bytes());
    message.extend(inner);
    let sum = checksum(&[&message]);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    ip(1, 0, &message)
}

/// The TCP segment in a frame of the stack, checksums verified; `None` for what is no TCP.
///
/// # Panics
/// When a header or checksum is wrong: no host may send that.
pub fn segment(frame: &[u8]) -> Option<Raw> {
    let (tcp, ecn) = match frame.get(12..14)? {
        [8, 0] if frame[14 + 9] == 6 => {
            assert_eq!(checksum(&[&frame[14..34]]), 0, "the IP header's checksum");
            let total = usize::from(u16::from_be_bytes([frame[16], frame[17]]));
            let tcp = &frame[BEFORE_TCP..14 + total];
            let addr = |at: usize| Ipv4Addr::new(frame[at], frame[at + 1], frame[at + 2], frame[at + 3]);
            assert_eq!(checksum(&[&pseudo(addr(26), addr(30), tcp.len()), tcp]), 0, "the TCP checksum");
            (tcp, frame[15] & 3)
        }
        [0x86, 0xdd] if frame[20] == 6 => {
            let len = usize::from(u16::from_be_bytes([frame[18], frame[19]]));
            let tcp = &frame[54..54 + len];
            assert_eq!(checksum(&[&pseudo6(STACK6, REMOTE6, len), tcp]), 0, "the TCP checksum");
            (tcp, frame[15] >> 4 & 3)
        }
        _ => return None,
    };
    let word = |at: usize| u16::from_be_bytes([tcp[at], tcp[at + 1]]);
    let long = |at: usize| u32::from(word(at)) << 16 | u32::from(word(at + 2));
    let header = usize::from(tcp[12] >> 4) * 4;
    Some(Raw {
        from: word(0),
        to: word(2),
        seq: long(4),
        ack: long(8),
        flags: tcp[13],
        window: word(14),
        urgent: word(18),
        options: tcp[20..header].to_vec(),
        payload: tcp[header..].to_vec(),
        ecn,
    })
}

/// The options as kind and body, padding left out; what is malformed ends the walk.
pub fn options(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut found = Vec::new();
    while let Some((&kind, rest)) = bytes.split_first() {
        match kind {
            0 => break,
            1 => bytes = rest,
            _ => {
                let len = usize::from(rest.first().copied().unwrap_or(0));
                if len < 2 || len > bytes.len() {
                    break;
                }
                found.push((kind, bytes[2..len].to_vec()));
                bytes = &bytes[len..];
            }
        }
    }
    found
}
