//! Ethernet: frames by type, and 802.3 frames by length told apart from them.
//!
//! ```text
//!  0        6        12     14
//!  | dst    | src    | type | payload, padded to 46 bytes …
//! ```

use core::fmt;
use core::net::IpAddr;
use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::address::MacAddr;
use super::drop_reason::DropReason;

/// Length of an Ethernet header without tags.
pub const HEADER_LEN: usize = 14;
/// The shortest frame, without its check sequence: IEEE 802.3 §4.4.2 (minFrameSize 64 less 4).
pub const FRAME_LEN_MIN: usize = 60;
/// Up to here the type field is a length: IEEE 802.3 §3.2.6.
const LENGTH_MAX: u16 = 1500;
/// From here on it is a type: IEEE 802.3 §3.2.6.
const TYPE_MIN: u16 = 0x0600;

/// What a frame carries.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct EtherType(pub u16);

impl EtherType {
    /// IPv4 (RFC 894).
    pub const IPV4: EtherType = EtherType(0x0800);
    /// ARP (RFC 826).
    pub const ARP: EtherType = EtherType(0x0806);
    /// A VLAN tag (IEEE 802.1Q).
    pub const VLAN: EtherType = EtherType(0x8100);
    /// IPv6 (RFC 2464).
    pub const IPV6: EtherType = EtherType(0x86dd);

    /// Of a packet to `addr`.
    pub const fn of_ip(addr: IpAddr) -> EtherType {
        match addr {
            IpAddr::V4(_) => EtherType::IPV4,
            IpAddr::V6(_) => EtherType::IPV6,
        }
    }
}

impl fmt::Debug for EtherType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EtherType({:#06x})", self.0)
    }
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Layout {
    dst: [u8; 6],
    src: [u8; 6],
    ethertype: U16,
}

const _: () = assert!(size_of::<Layout>() == HEADER_LEN);

/// The header of an Ethernet II frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EthernetHeader {
    /// Whom it is for.
    pub dst: MacAddr,
    /// Who sent it; a station's address, never a group's.
    pub src: MacAddr,
    /// What follows.
    pub ethertype: EtherType,
}

impl EthernetHeader {
    /// Reads the header at the start of `head`; the payload begins at [`HEADER_LEN`].
    ///
    /// # Errors
    /// [`DropReason::PktTooSmall`], [`DropReason::Length8023`], [`DropReason::EtherTypeInvalid`],
    /// [`DropReason::EthSrcMulticast`].
    pub fn parse(head: &[u8]) -> Result<EthernetHeader, DropReason> {
        let (layout, _) = Layout::read_from_prefix(head).map_err(|_| DropReason::PktTooSmall)?;
        match layout.ethertype.get() {
            ..=LENGTH_MAX => return Err(DropReason::Length8023),
            TYPE_MIN.. => {}
            _ => return Err(DropReason::EtherTypeInvalid),
        }
        let src = MacAddr(layout.src);
        if src.is_multicast() {
            return Err(DropReason::EthSrcMulticast);
        }
        Ok(EthernetHeader { dst: MacAddr(layout.dst), src, ethertype: EtherType(layout.ethertype.get()) })
    }

    /// The header as it goes out; also what the neighbour table keeps ready.
    pub fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let layout = Layout { dst: self.dst.0, src: self.src.0, ethertype: U16::new(self.ethertype.0) };
        zerocopy::transmute!(layout)
    }

    /// Writes the header to the start of `out` and returns its length.
    ///
    /// # Panics
    /// When `out` is shorter than [`HEADER_LEN`].
    pub fn emit(&self, out: &mut [u8]) -> usize {
        out[..HEADER_LEN].copy_from_slice(&self.to_bytes());
        HEADER_LEN
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame_with_type(ethertype: u16) -> [u8; HEADER_LEN] {
        EthernetHeader { dst: MacAddr::BROADCAST, src: MacAddr([2; 6]), ethertype: EtherType(ethertype) }
            .to_bytes()
    }

    #[test]
    fn lengths_and_types_are_told_apart() {
        for (value, reason) in [
            (0, DropReason::Length8023),
            (1500, DropReason::Length8023),
            (1501, DropReason::EtherTypeInvalid),
            (1535, DropReason::EtherTypeInvalid),
        ] {
            assert_eq!(EthernetHeader::parse(&frame_with_type(value)), Err(reason), "{value}");
        }
        assert!(EthernetHeader::parse(&frame_with_type(1536)).is_ok());
    }

    #[test]
    fn a_group_sends_nothing() {
        let mut bytes = frame_with_type(0x0800);
        bytes[6] |= 1;
        assert_eq!(EthernetHeader::parse(&bytes), Err(DropReason::EthSrcMulticast));
    }

    #[test]
    fn a_real_header() {
        let bytes = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 1, 2, 3, 4, 5, 0x08, 0x06, 0x00];
        let header = EthernetHeader::parse(&bytes).unwrap();
        assert!(header.dst.is_broadcast());
        assert_eq!(header.src, MacAddr([2, 1, 2, 3, 4, 5]));
        assert_eq!(header.ethertype, EtherType::ARP);
        assert_eq!(EthernetHeader::parse(&bytes[..13]), Err(DropReason::PktTooSmall));
    }

    proptest! {
        #[test]
        fn what_parses_emits_the_same_bytes(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(header) = EthernetHeader::parse(&bytes) {
                let mut out = [0u8; HEADER_LEN];
                prop_assert_eq!(header.emit(&mut out), HEADER_LEN);
                prop_assert_eq!(&out[..], &bytes[..HEADER_LEN]);
            }
        }
    }
}
