//! Raw and ping sockets: packets of a protocol for everybody who asked for them, before its own handler sees
//! them (raw(7)), and echo replies by their identifier (icmp(7), ping sockets).

use super::super::socket::{Kind, Udp, Wished};
use super::super::{LOOPBACK, Stack};
use super::bound;
use super::input::said_of;
use crate::frame::Frame;
use crate::ip::input::Received;
use crate::transport::demux::{BoundAddr, Ports};
use crate::transport::flow_table::FlowKey;
use crate::wire::address::AddressPair;
use crate::wire::checksum::pseudo_header;
use crate::wire::drop_reason::DropReason;
use crate::wire::ipv4::IpProtocol;
use core::net::{IpAddr, SocketAddr};
use proto::Instant;
use proto::arena::record::{Header, interface_index, mark};
use proto::form::Form;
use proto::hard::conns::Opening;
use proto::id::{Epoch, SlotIndex};
use proto::shm::Memory;
use std::collections::BTreeMap;

/// Sockets without ports, by what they ask for.
#[derive(Debug, Default)]
pub(in super::super) struct Portless {
    /// Raw sockets, by family (IPv6 or not) and protocol.
    raw: BTreeMap<(bool, u8), Vec<u32>>,
    /// Packet sockets.
    pub(super) packet: Vec<u32>,
}

impl Portless {
    fn list(&mut self, opening: &Opening) -> Option<&mut Vec<u32>> {
        match opening.form {
            Form::Raw { protocol } => Some(self.raw.entry((opening.local.is_ipv6(), protocol)).or_default()),
            Form::Packet { .. } => Some(&mut self.packet),
            Form::Udp | Form::Ping => None,
        }
    }

    pub(super) fn enter(&mut self, opening: &Opening, index: u32) {
        if let Some(list) = self.list(opening) {
            list.push(index);
        }
    }

    pub(super) fn leave(&mut self, opening: &Opening, index: u32) {
        if let Some(list) = self.list(opening) {
            list.retain(|known| *known != index);
        }
        self.raw.retain(|_, list| !list.is_empty());
    }

    /// Whether nobody asks for packets of any protocol.
    pub(in super::super) fn has_no_raw(&self) -> bool {
        self.raw.is_empty()
    }

    fn raw_of(&self, v6: bool, protocol: u8) -> &[u32] {
        self.raw.get(&(v6, protocol)).map_or(&[], Vec::as_slice)
    }
}

/// Whether ICMP messages of that type are not wanted (ICMP_FILTER, ICMP6_FILTER).
fn blocks(wished: &Wished, v6: bool, kind: u8) -> bool {
    let word = wished.wishes.icmp_blocked[usize::from(kind / 32)];
    (v6 || kind < 32) && word >> (kind % 32) & 1 == 1
}

impl<M: Memory + Clone> Stack<M> {
    /// Every raw socket that a packet may be for gets its copy. Returns whether there is any.
    pub(in super::super) fn copy_to_raw(&mut self, now: Instant, received: &Received<'_, M>) -> bool {
        let v6 = received.pair.dst().is_ipv6();
        let mut any = false;
        for n in 0..self.portless.raw_of(v6, received.protocol.0).len() {
            let index = self.portless.raw_of(v6, received.protocol.0)[n];
            match self.raw_wants(index, received) {
                Ok(true) => any = true,
                Ok(false) => continue,
                Err(reason) => {
                    self.counters.drop(reason);
                    continue;
                }
            }
            // IPv4 comes with its header (raw(7)), IPv6 without (RFC 3542 §3).
            let header = if v6 { &[] } else { received.frame.pulled_packet() };
            let record = record_of(now, received, header.len() + received.frame.buf.len());
            if let Err(reason) = self.deliver_parts(index, &record, header, Some(received.frame)) {
                self.counters.drop(reason);
            }
        }
        any
    }

    fn raw_wants(&self, index: u32, received: &Received<'_, M>) -> Result<bool, DropReason> {
        let Some(socket) = self.sockets.get(index) else { return Ok(false) };
        let Kind::Udp(udp) = &socket.kind else { return Ok(false) };
        let (pair, opening) = (&received.pair, &socket.opening);
        let (src, dst, v6) = (pair.src(), pair.dst(), pair.dst().is_ipv6());
        let bound = BoundAddr::takes(bound(opening.local.ip()), dst);
        let only = opening.remote.ip();
        if !bound || !only.is_unspecified() && only != src {
            return Ok(false);
        }
        let is_icmp = [IpProtocol::ICMP, IpProtocol::ICMPV6].contains(&received.protocol);
        let kind = received.frame.head().first().copied().unwrap_or(0);
        let sum_at = udp.wished.as_ref().and_then(|wished| wished.wishes.checksum_at);
        let summed = v6 && (received.protocol == IpProtocol::ICMPV6 || sum_at.is_some());
        if summed && !sum_is_right(received) {
            return Err(DropReason::IcmpCsum);
        }
        let Some(wished) = &udp.wished else { return Ok(true) };
        let slot = index_of(received.interface);
        let heard = !received.to_group || !dst.is_multicast() || wished.hears(received.interface, dst, src);
        if is_icmp && blocks(wished, v6, kind) || !wished.is_bound_to(slot) || !heard {
            return Ok(false);
        }
        let record = record_of(Instant::ZERO, received, 0);
        let header = if v6 { &[] } else { received.frame.pulled_packet() };
        Ok(self.length_let_pass(wished, &record, header, received.frame) > 0)
    }

    /// An echo reply for the ping socket of its identifier. `false` when nobody has it.
    pub(in super::super) fn receive_echo_reply(&mut self, now: Instant, received: &Received<'_, M>) -> bool {
        let Some([kind, code, _, _, high, low, _, _]) = received.frame.head().first_chunk::<8>() else {
            return false;
        };
        let replies = if received.pair.dst().is_ipv4() { 0 } else { 129 };
        if (*kind, *code) != (replies, 0) || received.to_group {
            return false;
        }
        let flow = FlowKey::of_received(&received.pair, 0, u16::from_be_bytes([*high, *low]));
        let Some(index) = self.demux.datagram(Ports::Ping, &flow) else { return false };
        if !sum_is_right(received) {
            self.counters.drop(DropReason::IcmpCsum);
            return true;
        }
        let record = record_of(now, received, received.frame.buf.len());
        let record = Header { local: SocketAddr::new(record.local.ip(), flow.local_port), ..record };
        if let Some(Kind::Udp(Udp { wished: Some(wished), .. })) = self.sockets.get(index).map(|s| &s.kind)
            && (!wished.is_bound_to(record.slot.0)
                || self.length_let_pass(wished, &record, &[], received.frame) == 0)
        {
            return false;
        }
        if let Err(reason) = self.deliver_parts(index, &record, &[], Some(received.frame)) {
            self.counters.drop(reason);
        }
        true
    }

    /// Raw sockets that an ICMP error about a packet of that protocol between these ends concerns.
    pub(in super::super) fn raw_sockets_of(&self, pair: &AddressPair, protocol: IpProtocol) -> Vec<u32> {
        let (us, remote) = (pair.src(), pair.dst());
        let concerns = |index: &&u32| {
            self.sockets.get(**index).is_some_and(|socket| {
                let only = socket.opening.remote.ip();
                BoundAddr::takes(bound(socket.opening.local.ip()), us)
                    && (only.is_unspecified() || only == remote)
            })
        };
        self.portless.raw_of(us.is_ipv6(), protocol.0).iter().filter(concerns).copied().collect()
    }
}

fn index_of(interface: u16) -> u32 {
    interface_index((interface != LOOPBACK).then_some(interface))
}

fn record_of<M: Memory>(now: Instant, received: &Received<'_, M>, len: usize) -> Header {
    let mut said = said_of(now, received);
    said.marks &= mark::TO_GROUP | mark::TO_ALL;
    Header {
        len: len as u32,
        remote: SocketAddr::new(received.pair.src(), 0),
        local: SocketAddr::new(received.pair.dst(), 0),
        slot: SlotIndex(index_of(received.interface)),
        epoch: Epoch(0),
        said,
    }
}

/// Whether the checksum over all of a transport's message is right.
fn sum_is_right<M: Memory>(received: &Received<'_, M>) -> bool {
    let len = received.frame.buf.len() as u32;
    let pseudo = match received.pair.dst() {
        IpAddr::V4(_) => return received.frame.sum().is_valid(),
        IpAddr::V6(_) => pseudo_header(&received.pair, received.protocol.0, len),
    };
    pseudo.then_sum(received.frame.sum()).is_valid()
}

impl<M: Memory> Frame<M> {
    /// The bytes of the network layer that were pulled, as far as they were copied out: its header.
    pub(crate) fn pulled_packet(&self) -> &[u8] {
        let all = self.packet_head();
        &all[..all.len() - self.head().len().min(all.len())]
    }
}
