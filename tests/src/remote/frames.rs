//! Frames put together by hand, so that every field can be wrong. Checksums are right unless a
//! caller spoils them.

use std::net::Ipv4Addr;

/// A hardware address.
pub type Mac = [u8; 6];

/// EtherType of IPv4.
pub const IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const ARP: u16 = 0x0806;
/// Protocol numbers.
pub const ICMP: u8 = 1;
/// See [`ICMP`].
pub const TCP: u8 = 6;
/// See [`ICMP`].
pub const UDP: u8 = 17;
/// Where the IP header begins.
pub const IP_AT: usize = 14;
/// Where what an IP header without options carries begins.
pub const BODY_AT: usize = 34;

/// Bits of a TCP header.
pub mod flag {
    /// No more data.
    pub const FIN: u8 = 1;
    /// Begin.
    pub const SYN: u8 = 2;
    /// End at once.
    pub const RST: u8 = 4;
    /// Hand on.
    pub const PSH: u8 = 8;
    /// The acknowledgement counts.
    pub const ACK: u8 = 16;
    /// The urgent pointer counts.
    pub const URG: u8 = 32;
}

/// RFC 1071 over some bytes, on top of a sum.
fn sum(from: u32, bytes: &[u8]) -> u32 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    from + words.sum::<u32>()
}

fn fold(mut sum: u32) -> [u8; 2] {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

/// A frame.
pub fn ethernet(dst: Mac, src: Mac, kind: u16, payload: &[u8]) -> Vec<u8> {
    [&dst[..], &src, &kind.to_be_bytes(), payload].concat()
}

/// An ARP packet: hardware, protocol, lengths and operation, then both senders and both targets.
#[derive(Debug, Clone, Copy)]
pub struct Arp {
    /// Hardware type, protocol type, their lengths.
    pub kind: (u16, u16, u8, u8),
    /// 1 asks, 2 answers.
    pub operation: u16,
    /// Who speaks.
    pub sender: (Mac, Ipv4Addr),
    /// Who is spoken to.
    pub target: (Mac, Ipv4Addr),
}

impl Arp {
    /// The 28 bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let (hardware, protocol, hardware_len, protocol_len) = self.kind;
        let mut bytes = [hardware.to_be_bytes(), protocol.to_be_bytes()].concat();
        bytes.extend([hardware_len, protocol_len]);
        bytes.extend(self.operation.to_be_bytes());
        for (mac, ip) in [self.sender, self.target] {
            bytes.extend(mac);
            bytes.extend(ip.octets());
        }
        bytes
    }
}

/// An IPv4 packet without options, TTL 64.
pub fn ipv4(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x45, 0];
    bytes.extend((20 + payload.len() as u16).to_be_bytes());
    bytes.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
    bytes.extend(src.octets());
    bytes.extend(dst.octets());
    bytes.extend(payload);
    seal_ip(&mut bytes);
    bytes
}

/// Makes the header checksum of an IPv4 packet right, as far as there is a header.
pub fn seal_ip(packet: &mut [u8]) {
    let len = (usize::from(packet.first().copied().unwrap_or(0) & 15) * 4).clamp(20, 60).min(packet.len());
    if len >= 20 {
        packet[10..12].fill(0);
        let field = fold(sum(0, &packet[..len]));
        packet[10..12].copy_from_slice(&field);
    }
}

/// Makes the checksum of what an IPv4 packet without options carries right, as far as it has one.
pub fn seal_body(packet: &mut [u8]) {
    let Some((head, body)) = packet.split_at_mut_checked(20) else { return };
    let (at, pseudo) = match head[9] {
        ICMP => (2, 0),
        TCP => (16, sum(u32::from(TCP) + body.len() as u32, &head[12..20])),
        UDP => (6, sum(u32::from(UDP) + body.len() as u32, &head[12..20])),
        _ => return,
    };
    if body.len() >= at + 2 {
        body[at..at + 2].fill(0);
        let field = fold(sum(pseudo, body));
        body[at..at + 2].copy_from_slice(&field);
    }
}

/// An ICMP message: type, code, the four bytes after the checksum, the rest.
pub fn icmp(kind: u8, code: u8, rest: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut bytes = [&[kind, code, 0, 0], &rest[..], payload].concat();
    let field = fold(sum(0, &bytes));
    bytes[2..4].copy_from_slice(&field);
    bytes
}

/// A UDP datagram; its checksum is made by [`seal_body`].
pub fn udp(src: u16, dst: u16, payload: &[u8]) -> Vec<u8> {
    let len = 8 + payload.len() as u16;
    [&src.to_be_bytes()[..], &dst.to_be_bytes(), &len.to_be_bytes(), &[0, 0], payload].concat()
}

/// A TCP segment; its checksum is made by [`seal_body`].
#[derive(Debug, Clone, Default)]
pub struct Segment {
    /// Source and destination.
    pub ports: (u16, u16),
    /// Its first number.
    pub seq: u32,
    /// What it acknowledges.
    pub ack: u32,
    /// Bits of [`flag`].
    pub flags: u8,
    /// The urgent pointer.
    pub urgent: u16,
    /// Options, padded with zeros to a multiple of four.
    pub options: Vec<u8>,
    /// The text.
    pub payload: Vec<u8>,
}

impl Segment {
    /// The bytes. The window is the largest there is without scaling.
    pub fn bytes(&self) -> Vec<u8> {
        let options_len = self.options.len().next_multiple_of(4);
        let mut bytes = [self.ports.0.to_be_bytes(), self.ports.1.to_be_bytes()].concat();
        bytes.extend(self.seq.to_be_bytes());
        bytes.extend(self.ack.to_be_bytes());
        bytes.extend([((20 + options_len) as u8 / 4) << 4, self.flags, 0xff, 0xff, 0, 0]);
        bytes.extend(self.urgent.to_be_bytes());
        bytes.extend(&self.options);
        bytes.resize(20 + options_len, 0);
        bytes.extend(&self.payload);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 1071 §3: the sum of these words is 0xddf2.
    #[test]
    fn the_checksum_is_that_of_the_rfc() {
        let words = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(fold(sum(0, &words)), (!0xddf2u16).to_be_bytes());
    }

    #[test]
    fn what_is_sealed_sums_up_to_nothing() {
        let (src, dst) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        let mut packet = ipv4(src, dst, UDP, &udp(1, 2, &[1, 2, 3]));
        seal_body(&mut packet);
        assert_eq!(fold(sum(0, &packet[..20])), [0, 0]);
        let pseudo = sum(u32::from(UDP) + 11, &packet[12..20]);
        assert_eq!(fold(sum(pseudo, &packet[20..])), [0, 0]);
    }
}
