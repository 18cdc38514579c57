//! ICMPv6 that stays on the link: what neighbour discovery and MLD send, by the link address that follows
//! from the destination.
//!
//! Called by the neighbour table's effects and by the network layer. Not here: what the messages mean.

use super::{HEADROOM, Link};
use crate::counters::{Counter, Counters};
use crate::wire::address::{AddressPair, MacAddr};
use crate::wire::drop_reason::DropReason;
use crate::wire::ethernet::{EtherType, EthernetHeader};
use crate::wire::ipv4::IpProtocol;
use crate::wire::ipv6::{self, Ipv6Header};
use crate::wire::ndp::{EMITTED_LEN_MAX, HOP_LIMIT, NdpMessage, solicited_node};
use core::net::{IpAddr, Ipv6Addr};
use proto::nic::packet_buf::PacketBuf;
use proto::shm::Memory;

impl<M: Memory + Clone> Link<M> {
    /// Asks who has `target` in a frame to `dst`: everybody (then to its group), or the neighbour itself.
    /// RFC 4861 §7.2.2.
    pub(super) fn solicit(&mut self, index: u16, target: Ipv6Addr, dst: MacAddr, counters: &mut Counters) {
        let Some(source) = self.interfaces[usize::from(index)].v6_towards(target) else {
            return counters.drop(DropReason::IpOutNoRoutes);
        };
        let (to, mac) = match dst.is_broadcast() {
            true => (solicited_node(target), None),
            false => (target, Some(dst)),
        };
        let message = NdpMessage::NeighbourSolicitation { target };
        self.send_ndp(index, &message, source, to, mac, counters);
    }

    /// Sends a message of neighbour discovery, with our link address unless the source is unspecified
    /// (RFC 4861 §4.1, §4.3), to the station `mac` or to the group that `dst` is.
    pub fn send_ndp(
        &mut self,
        index: u16,
        message: &NdpMessage,
        src: Ipv6Addr,
        dst: Ipv6Addr,
        mac: Option<MacAddr>,
        counters: &mut Counters,
    ) {
        let pair = AddressPair::V6 { src, dst };
        let own = (!src.is_unspecified()).then(|| self.interfaces[usize::from(index)].mac);
        let mut bytes = [0; EMITTED_LEN_MAX];
        let len = message.emit(&mut bytes, own, &pair);
        counters.count(Counter::NdpOut);
        self.send_on_link(index, &pair, IpProtocol::ICMPV6, HOP_LIMIT, &bytes[..len], mac, counters);
    }

    /// Sends `bytes`, which `protocol` describes, to the station `mac`, or to the group that the
    /// destination is.
    #[expect(clippy::too_many_arguments, reason = "a header's fields")]
    pub fn send_on_link(
        &mut self,
        index: u16,
        pair: &AddressPair,
        protocol: IpProtocol,
        hop_limit: u8,
        bytes: &[u8],
        mac: Option<MacAddr>,
        counters: &mut Counters,
    ) {
        let AddressPair::V6 { src, dst } = *pair else { unreachable!("IPv6 alone is sent here") };
        let interface = &self.interfaces[usize::from(index)];
        let Some(mac) = mac.or_else(|| interface.group_mac(IpAddr::V6(dst))) else {
            return counters.drop(DropReason::NeighFailed);
        };
        let mut header = [0; ipv6::HEADER_LEN];
        Ipv6Header::new(src, dst, protocol, hop_limit, bytes.len()).emit(&mut header);
        let link = EthernetHeader { dst: mac, src: interface.mac, ethertype: EtherType::IPV6 };
        let len = header.len() + bytes.len();
        let built = PacketBuf::alloc(&interface.frames, len, HEADROOM).and_then(|mut buf| {
            buf.write(0, &header)?;
            buf.write(header.len(), bytes)?;
            Ok(buf)
        });
        match built {
            Ok(buf) => self.emit(index, buf, &link.to_bytes(), counters),
            Err(_) => counters.drop(DropReason::NoMem),
        }
    }
}
