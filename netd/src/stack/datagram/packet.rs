//! Packet sockets: frames of a link as they come in and as they leave (packet(7)).

use super::super::Stack;
use super::super::socket::{Kind, Udp};
use super::raw::Portless;
use crate::frame::Frame;
use crate::wire::address::MacAddr;
use crate::wire::drop_reason::DropReason;
use crate::wire::ethernet::{EtherType, EthernetHeader, HEADER_LEN};
use core::net::{IpAddr, Ipv6Addr, SocketAddr};
use proto::Instant;
use proto::arena::record::{Header, Said, interface_index, mark};
use proto::bpf::About;
use proto::form::Form;
use proto::id::{Epoch, SlotIndex};
use proto::nic::packet_buf::{Csum, PacketBuf};
use proto::shm::Memory;

/// packet(7): PACKET_HOST and its siblings.
const TO_US: u8 = 0;
const TO_ALL: u8 = 1;
const TO_GROUP: u8 = 2;
const TO_OTHERS: u8 = 3;
const OUTGOING: u8 = 4;

/// A link address where a record has an IP address: in its last six bytes.
fn carried(mac: MacAddr, ethertype: u16) -> SocketAddr {
    let mut octets = [0; 16];
    octets[10..].copy_from_slice(&mac.0);
    SocketAddr::new(IpAddr::V6(Ipv6Addr::from(octets)), ethertype)
}

/// The link address that a record carries.
pub(super) fn mac_of(addr: SocketAddr) -> MacAddr {
    match addr.ip() {
        IpAddr::V6(v6) => {
            let [.., a, b, c, d, e, f] = v6.octets();
            MacAddr([a, b, c, d, e, f])
        }
        IpAddr::V4(v4) => {
            let [.., a, b, c, d] = v4.to_ipv6_mapped().octets();
            MacAddr([0xff, 0xff, a, b, c, d])
        }
    }
}

/// The interface of an index; `None` for none.
pub(super) fn number_of(index: u32) -> Option<u16> {
    match index {
        0 => None,
        1 => Some(super::super::LOOPBACK),
        index => u16::try_from(index - 2).ok(),
    }
}

impl Portless {
    /// Whether nobody looks at frames.
    pub(in super::super) fn has_no_taps(&self) -> bool {
        self.packet.is_empty()
    }
}

impl<M: Memory + Clone> Stack<M> {
    /// A frame came in by an interface: packet sockets see it before anybody else.
    pub(in super::super) fn tap_incoming(&mut self, now: Instant, interface: u16, frame: &Frame<M>) {
        let Some(head) = frame.head().first_chunk::<HEADER_LEN>() else { return };
        let ethertype = u16::from_be_bytes([head[12], head[13]]);
        let dst = MacAddr([head[0], head[1], head[2], head[3], head[4], head[5]]);
        let own = self.ip.link.interface(interface).map(|there| there.mac);
        let kind = match dst {
            MacAddr::BROADCAST => TO_ALL,
            group if group.is_multicast() => TO_GROUP,
            dst if Some(dst) == own => TO_US,
            _ => TO_OTHERS,
        };
        self.tap(now, interface, frame, ethertype, kind);
    }

    /// Frames that are about to leave: those sockets see them that ask for every type.
    pub(in super::super) fn tap_outgoing(&mut self, now: Instant) {
        let out = core::mem::take(&mut self.ip.link.out);
        for (interface, packet) in &out {
            let len = packet.len();
            let mut head = [0; HEADER_LEN];
            if packet.read_up_to(0, &mut head) < HEADER_LEN {
                continue;
            }
            let copy = packet.copy(0);
            let Ok(copy) = copy else {
                self.counters.drop(DropReason::NoMem);
                continue;
            };
            debug_assert_eq!(copy.len(), len);
            let ethertype = u16::from_be_bytes([head[12], head[13]]);
            self.tap(now, *interface, &Frame::new(copy), ethertype, OUTGOING);
        }
        assert!(self.ip.link.out.is_empty(), "who looks at frames sends none");
        self.ip.link.out = out;
    }

    fn tap(&mut self, now: Instant, interface: u16, frame: &Frame<M>, ethertype: u16, kind: u8) {
        for n in 0..self.portless.packet.len() {
            let index = self.portless.packet[n];
            if let Err(reason) = self.tap_one(now, index, interface, frame, ethertype, kind) {
                self.counters.drop(reason);
            }
        }
    }

    fn tap_one(
        &mut self,
        now: Instant,
        index: u32,
        interface: u16,
        frame: &Frame<M>,
        ethertype: u16,
        kind: u8,
    ) -> Result<(), DropReason> {
        let Some(socket) = self.sockets.get(index) else { return Ok(()) };
        let (Kind::Udp(udp), Form::Packet { ethertype: wanted, cooked }) =
            (&socket.kind, socket.opening.form)
        else {
            return Ok(());
        };
        let slot = interface_index((interface != super::super::LOOPBACK).then_some(interface));
        let every = wanted == Form::EVERY_TYPE;
        let only = socket.opening.local.port();
        if !every && (kind == OUTGOING || wanted != ethertype) || only != 0 && u32::from(only) != slot {
            return Ok(());
        }
        let skip = if cooked { HEADER_LEN } else { 0 };
        let len = frame.buf.len() - skip;
        let mut kept = len;
        if let Some(wished) = &udp.wished {
            if kind == TO_OTHERS && !wished.wishes.promiscuous || !wished.is_bound_to(slot) {
                return Ok(());
            }
            let read =
                |at: usize, out: &mut [u8]| at <= len && frame.buf.read_up_to(at + skip, out) == out.len();
            let about = About {
                protocol: ethertype,
                kind,
                interface: slot,
                hardware: 1,
                network_at: HEADER_LEN - skip,
            };
            kept = kept.min(wished.filter.run(read, len as u32, &about) as usize);
            if kept == 0 {
                return Ok(());
            }
        } else if kind == TO_OTHERS {
            return Ok(());
        }
        let unsummed = matches!(frame.buf.marks.csum, Csum::Partial { .. });
        let marks = match kind {
            TO_ALL => mark::TO_ALL,
            TO_GROUP => mark::TO_GROUP,
            TO_OTHERS => mark::ELSEWHERE,
            OUTGOING => mark::OUTGOING,
            _ => 0,
        } | if unsummed { mark::SUM_MISSING } else { 0 };
        let head = frame.head();
        let src = MacAddr([head[6], head[7], head[8], head[9], head[10], head[11]]);
        let kept = kept.min(proto::arena::record::PAYLOAD_MAX);
        let record = Header {
            len: kept as u32,
            remote: carried(src, ethertype),
            // How long it was before a filter cut it.
            local: carried(MacAddr::ZERO, u16::try_from(len).unwrap_or(u16::MAX)),
            slot: SlotIndex(slot),
            epoch: Epoch(0),
            said: Said { marks, at: now, ..Said::default() },
        };
        self.deliver_from(index, &record, &[], Some(frame), skip)
    }

    /// A frame of a packet socket leaves as it is; of a cooked one, behind a header that is made here.
    pub(super) fn send_frame(&mut self, nic: u16, header: &Header, cooked: bool, mut packet: PacketBuf<M>) {
        let Some(interface) = self.ip.link.interface(nic) else {
            return self.counters.drop(DropReason::DevDown);
        };
        if cooked {
            let ethertype = EtherType(header.remote.port());
            let link = EthernetHeader { dst: mac_of(header.remote), src: interface.mac, ethertype };
            let pushed = packet.push(HEADER_LEN).and_then(|()| packet.write(0, &link.to_bytes()));
            if pushed.is_err() {
                return self.counters.drop(DropReason::NoMem);
            }
        }
        let longest = usize::from(interface.mtu) + HEADER_LEN + 4;
        if packet.len() < HEADER_LEN || packet.len() > longest {
            return self.counters.drop(if packet.len() > longest {
                DropReason::PktTooBig
            } else {
                DropReason::PktTooSmall
            });
        }
        self.ip.link.send_frame(nic, packet, &mut self.counters);
    }

    /// Whether a socket wants frames for other hosts (PACKET_MR_PROMISC).
    pub fn wants_all_frames(&self) -> bool {
        let wants = |index: &u32| {
            self.sockets.get(*index).is_some_and(|socket| match &socket.kind {
                Kind::Udp(Udp { wished: Some(wished), .. }) => wished.wishes.promiscuous,
                _ => false,
            })
        };
        self.portless.packet.iter().any(wants)
    }
}
