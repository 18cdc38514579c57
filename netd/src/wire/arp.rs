//! ARP for IPv4 over Ethernet: RFC 826, with the probes and announcements of RFC 5227.
//!
//! ```text
//!  0       2       4      5      6       8        14       18       24       28
//!  | htype | ptype | hlen | plen | oper  | sha    | spa    | tha    | tpa    |
//! ```

use core::net::Ipv4Addr;
use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::address::MacAddr;
use super::drop_reason::DropReason;
use super::ethernet::EtherType;

/// Length of an ARP packet for IPv4 over Ethernet.
pub const PACKET_LEN: usize = 28;
/// Ethernet as ARP numbers it (RFC 826, RFC 5342 §4).
const HARDWARE_ETHERNET: u16 = 1;
/// Length of a link address.
const HARDWARE_LEN: u8 = 6;
/// Length of an IPv4 address.
const PROTOCOL_LEN: u8 = 4;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Layout {
    hardware: U16,
    protocol: U16,
    hardware_len: u8,
    protocol_len: u8,
    operation: U16,
    sender_mac: [u8; 6],
    sender_ip: [u8; 4],
    target_mac: [u8; 6],
    target_ip: [u8; 4],
}

const _: () = assert!(size_of::<Layout>() == PACKET_LEN);

/// Question or answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArpOperation {
    /// Who has the target address?
    Request,
    /// The sender has the sender's address.
    Reply,
}

/// An ARP packet for IPv4 over Ethernet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArpPacket {
    /// Question or answer.
    pub operation: ArpOperation,
    /// The sender's link address; a station's, never a group's.
    pub sender_mac: MacAddr,
    /// The sender's address; unspecified in a probe (RFC 5227 §2.1.1).
    pub sender_ip: Ipv4Addr,
    /// The target's link address; means nothing in a request.
    pub target_mac: MacAddr,
    /// Whom it asks for or answers.
    pub target_ip: Ipv4Addr,
}

impl ArpPacket {
    /// Reads the packet at the start of `head`; what follows it is padding.
    ///
    /// # Errors
    /// [`DropReason::PktTooSmall`]; [`DropReason::ArpUnsupported`] for other hardware or protocols;
    /// [`DropReason::ArpInvalid`] for other operations and for senders that are no station or no host.
    pub fn parse(head: &[u8]) -> Result<ArpPacket, DropReason> {
        let (layout, _) = Layout::read_from_prefix(head).map_err(|_| DropReason::PktTooSmall)?;
        // RFC 826, "Packet Reception": hardware and protocol are ours, lengths optionally checked.
        if layout.hardware.get() != HARDWARE_ETHERNET
            || layout.protocol.get() != EtherType::IPV4.0
            || layout.hardware_len != HARDWARE_LEN
            || layout.protocol_len != PROTOCOL_LEN
        {
            return Err(DropReason::ArpUnsupported);
        }
        let operation = match layout.operation.get() {
            1 => ArpOperation::Request,
            2 => ArpOperation::Reply,
            _ => return Err(DropReason::ArpInvalid),
        };
        let packet = ArpPacket {
            operation,
            sender_mac: MacAddr(layout.sender_mac),
            sender_ip: Ipv4Addr::from(layout.sender_ip),
            target_mac: MacAddr(layout.target_mac),
            target_ip: Ipv4Addr::from(layout.target_ip),
        };
        let group = |ip: Ipv4Addr| ip.is_multicast() || ip.is_broadcast() || ip.is_loopback();
        if !packet.sender_mac.is_unicast() || group(packet.sender_ip) || group(packet.target_ip) {
            return Err(DropReason::ArpInvalid);
        }
        Ok(packet)
    }

    /// True when sender and target are one address: an announcement (RFC 5227 §2.3), as request or reply.
    pub fn is_gratuitous(&self) -> bool {
        self.sender_ip == self.target_ip && !self.sender_ip.is_unspecified()
    }

    /// True for a probe: does anybody have the target address? (RFC 5227 §2.1.1)
    pub fn is_probe(&self) -> bool {
        self.operation == ArpOperation::Request && self.sender_ip.is_unspecified()
    }

    /// The question for `target_ip`, asked by `sender`.
    pub const fn request(sender_mac: MacAddr, sender_ip: Ipv4Addr, target_ip: Ipv4Addr) -> ArpPacket {
        ArpPacket {
            operation: ArpOperation::Request,
            sender_mac,
            sender_ip,
            target_mac: MacAddr::ZERO,
            target_ip,
        }
    }

    /// The announcement that `ip` is at `mac`: RFC 5227 §2.3, a request with both addresses the same.
    pub const fn announcement(mac: MacAddr, ip: Ipv4Addr) -> ArpPacket {
        ArpPacket::request(mac, ip, ip)
    }

    /// The answer to this request from the station `mac`, which has its target address.
    #[must_use]
    pub const fn reply(&self, mac: MacAddr) -> ArpPacket {
        ArpPacket {
            operation: ArpOperation::Reply,
            sender_mac: mac,
            sender_ip: self.target_ip,
            target_mac: self.sender_mac,
            target_ip: self.sender_ip,
        }
    }

    /// Writes the packet to the start of `out` and returns its length.
    ///
    /// # Panics
    /// When `out` is shorter than [`PACKET_LEN`].
    pub fn emit(&self, out: &mut [u8]) -> usize {
        let layout = Layout {
            hardware: U16::new(HARDWARE_ETHERNET),
            protocol: U16::new(EtherType::IPV4.0),
            hardware_len: HARDWARE_LEN,
            protocol_len: PROTOCOL_LEN,
            operation: U16::new(match self.operation {
                ArpOperation::Request => 1,
                ArpOperation::Reply => 2,
            }),
            sender_mac: self.sender_mac.0,
            sender_ip: self.sender_ip.octets(),
            target_mac: self.target_mac.0,
            target_ip: self.target_ip.octets(),
        };
        out[..PACKET_LEN].copy_from_slice(layout.as_bytes());
        PACKET_LEN
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const US: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const THEM: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

    #[test]
    fn a_request_on_the_wire() {
        let bytes: [u8; 28] =
            [0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 2, 10, 0, 0, 2, 0, 0, 0, 0, 0, 0, 10, 0, 0, 1];
        let packet = ArpPacket::parse(&bytes).unwrap();
        assert_eq!(packet, ArpPacket::request(THEM, Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 1)));
        assert!(!packet.is_gratuitous() && !packet.is_probe());
        let reply = packet.reply(US);
        assert_eq!((reply.sender_mac, reply.target_mac), (US, THEM));
        assert_eq!((reply.sender_ip, reply.target_ip), (packet.target_ip, packet.sender_ip));
    }

    #[test]
    fn what_is_not_ours_or_no_sense() {
        let mut good = [0u8; 28];
        ArpPacket::request(THEM, Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 1)).emit(&mut good);
        for (at, value, reason) in [
            (1, 6, DropReason::ArpUnsupported),
            (2, 0x86, DropReason::ArpUnsupported),
            (4, 8, DropReason::ArpUnsupported),
            (5, 16, DropReason::ArpUnsupported),
            (7, 3, DropReason::ArpInvalid),
            (7, 0, DropReason::ArpInvalid),
            (8, 3, DropReason::ArpInvalid),
            (14, 224, DropReason::ArpInvalid),
            (14, 127, DropReason::ArpInvalid),
            (24, 239, DropReason::ArpInvalid),
        ] {
            let mut bytes = good;
            bytes[at] = value;
            assert_eq!(ArpPacket::parse(&bytes), Err(reason), "byte {at} = {value}");
        }
        assert_eq!(ArpPacket::parse(&good[..27]), Err(DropReason::PktTooSmall));
    }

    #[test]
    fn announcements_and_probes() {
        let ip = Ipv4Addr::new(10, 0, 0, 1);
        assert!(ArpPacket::announcement(US, ip).is_gratuitous());
        let probe = ArpPacket::request(US, Ipv4Addr::UNSPECIFIED, ip);
        assert!(probe.is_probe() && !probe.is_gratuitous());
    }

    proptest! {
        #[test]
        fn what_parses_emits_the_same_bytes(mut bytes in prop::collection::vec(any::<u8>(), 0..64), fix in any::<bool>()) {
            if fix && bytes.len() >= PACKET_LEN {
                bytes[..7].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0]);
                bytes[7] %= 3;
                bytes[8] &= 0xfe;
            }
            if let Ok(packet) = ArpPacket::parse(&bytes) {
                let mut out = [0u8; PACKET_LEN];
                packet.emit(&mut out);
                prop_assert_eq!(&out[..], &bytes[..PACKET_LEN]);
            }
        }
    }
}
