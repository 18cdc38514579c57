//! From a packet to the sockets of datagrams that it is for, as records in their streams.

use super::super::socket::{Joint, Kind, Udp, Wished};
use super::super::{LOOPBACK, Stack};
use crate::counters::Counter;
use crate::frame::Frame;
use crate::ip::icmp::Fault;
use crate::ip::input::Received;
use crate::transport::demux::{BoundAddr, Ports};
use crate::transport::flow_table::FlowKey;
use crate::wire::address::AddressPair;
use crate::wire::drop_reason::DropReason;
use crate::wire::ethernet::EtherType;
use crate::wire::udp::{HEADER_LEN as UDP_LEN, UdpHeader};
use core::net::SocketAddr;
use proto::Instant;
use proto::arena::record::{DATAGRAM_MAX, HEADER_SIZE, Header, Said, interface_index, mark, record_size};
use proto::arena::{PAGE_SIZE, WINDOW_MAX};
use proto::bpf::About;
use proto::id::{Epoch, SlotIndex};
use proto::nic::packet_buf::Csum;
use proto::shm::Memory;

/// Sockets of one port that a datagram to a group or to all is looked at for.
const GROUP_SOCKETS_MAX: usize = 128;

impl<M: Memory + Clone> Stack<M> {
    /// A packet of UDP (RFC 768).
    pub(in super::super) fn receive_udp(
        &mut self,
        now: Instant,
        received: Received<'_, M>,
    ) -> Result<(), DropReason> {
        let said = said_of(now, &received);
        let Received { pair, frame, to_group, interface, .. } = received;
        let unchecked = UdpHeader::parse(frame.head(), frame.buf.len(), &pair)?;
        frame.trim(UDP_LEN + usize::from(unchecked.peek().payload_len));
        let udp = match frame.buf.marks.csum {
            Csum::Valid | Csum::Partial { .. } => unchecked.trust(),
            Csum::Unknown => unchecked.verify(frame.sum())?,
        };
        let flow = FlowKey::of_received(&pair, udp.src_port, udp.dst_port);
        let record = Header {
            len: u32::from(udp.payload_len),
            remote: SocketAddr::new(pair.src(), udp.src_port),
            local: SocketAddr::new(pair.dst(), udp.dst_port),
            slot: SlotIndex(interface_index((interface != LOOPBACK).then_some(interface))),
            epoch: Epoch(0),
            said,
        };
        let unsummed = !udp.summed && matches!(pair, AddressPair::V6 { .. });
        if to_group {
            return self.deliver_to_group(now, &flow, &record, frame, unsummed);
        }
        let Some(index) = self.demux.datagram(Ports::Udp, &flow) else {
            self.send_error(now, &pair, frame, to_group, Fault::Port);
            return Err(DropReason::NoSocket);
        };
        self.wants(index, &record, frame, unsummed)?;
        frame.pull(UDP_LEN);
        self.deliver_datagram(now, index, &record, frame)?;
        self.counters.count(Counter::UdpInDatagrams);
        Ok(())
    }

    /// Whether a socket wants a datagram; `frame` begins with its header.
    fn wants(&self, index: u32, record: &Header, frame: &Frame<M>, unsummed: bool) -> Result<(), DropReason> {
        let socket = self.sockets.get(index);
        let wished = match socket.map(|socket| &socket.kind) {
            Some(Kind::Udp(Udp { wished: Some(wished), .. })) => wished,
            // RFC 8200 §8.1: IPv6 without a checksum is for nobody who has not asked for it (RFC 6936).
            _ if unsummed => return Err(DropReason::UdpCsum),
            _ => return Ok(()),
        };
        if unsummed && !wished.wishes.unsummed {
            return Err(DropReason::UdpCsum);
        }
        if !wished.is_bound_to(record.slot.0) {
            return Err(DropReason::NoSocket);
        }
        match self.length_let_pass(wished, record, &[], frame) {
            0 => Err(DropReason::SocketFilter),
            _ => Ok(()),
        }
    }

    /// How many bytes of a packet a socket's filter lets pass; it sees `header` and then `frame`.
    pub(super) fn length_let_pass(
        &self,
        wished: &Wished,
        record: &Header,
        header: &[u8],
        frame: &Frame<M>,
    ) -> u32 {
        if wished.filter.is_empty() {
            return u32::MAX;
        }
        let read = |at: usize, out: &mut [u8]| {
            let of_header = header.get(at..).unwrap_or(&[]);
            let first = of_header.len().min(out.len());
            out[..first].copy_from_slice(&of_header[..first]);
            let (behind, rest) = ((at + first).saturating_sub(header.len()), out.len() - first);
            rest == 0 || behind <= frame.buf.len() && frame.buf.read_up_to(behind, &mut out[first..]) == rest
        };
        let protocol = if record.remote.is_ipv4() { EtherType::IPV4.0 } else { EtherType::IPV6.0 };
        let about = About { protocol, interface: record.slot.0, hardware: 1, ..About::default() };
        wished.filter.run(read, (header.len() + frame.buf.len()) as u32, &about)
    }

    /// RFC 1112 §6.1, RFC 1122 §4.1.3.6: what is for a group or for all is for every socket that may have
    /// it. Nobody is told that there is none.
    fn deliver_to_group(
        &mut self,
        now: Instant,
        flow: &FlowKey,
        record: &Header,
        frame: &mut Frame<M>,
        unsummed: bool,
    ) -> Result<(), DropReason> {
        let mut outcome = Err(DropReason::NoSocket);
        // Those that want it, first: filters look at its header. Each has a bit.
        let mut wanted = 0u128;
        let all = self.demux.of_port(flow.local_port);
        for (n, &index) in all.iter().enumerate().take(GROUP_SOCKETS_MAX) {
            if self.hears(index, flow, record) {
                match self.wants(index, record, frame, unsummed) {
                    Ok(()) => wanted |= 1 << n,
                    Err(reason) => outcome = Err(reason),
                }
            }
        }
        frame.pull(UDP_LEN);
        while wanted != 0 {
            let n = wanted.trailing_zeros() as usize;
            wanted &= wanted - 1;
            let index = self.demux.of_port(flow.local_port)[n];
            match (self.deliver_datagram(now, index, record, frame), &outcome) {
                (Ok(()), _) => {
                    self.counters.count(Counter::UdpInDatagrams);
                    outcome = Ok(());
                }
                (Err(reason), Err(_)) => outcome = Err(reason),
                (Err(reason), Ok(())) => self.counters.drop(reason),
            }
        }
        outcome
    }

    /// Whether a datagram with these ends may be for a socket of its port.
    fn hears(&self, index: u32, flow: &FlowKey, record: &Header) -> bool {
        let Some(socket) = self.sockets.get(index) else { return false };
        let Some(key) = super::key_of(&socket.opening) else { return false };
        let remote = (flow.remote_addr(), flow.remote_port);
        let wished = match &socket.kind {
            Kind::Udp(Udp { wished: Some(wished), .. }) if record.is(mark::TO_GROUP) => {
                let nic = (record.slot.0 as u16).wrapping_sub(2);
                wished.hears(nic, flow.local_addr(), flow.remote_addr())
            }
            _ => true,
        };
        wished
            && BoundAddr::takes(key.local, flow.local_addr())
            && key.remote.is_none_or(|only| only == remote)
    }

    /// Appends a datagram to the stream of its socket; `frame` is its payload.
    fn deliver_datagram(
        &mut self,
        now: Instant,
        index: u32,
        record: &Header,
        frame: &Frame<M>,
    ) -> Result<(), DropReason> {
        self.look_for_pages(now, index, record.len);
        if self.join_run(index, record, frame) {
            return Ok(());
        }
        self.deliver_record(index, record, Some(frame))
    }

    /// UDP_GRO: a datagram that goes on where the last one ended becomes part of its record, as long as
    /// nobody has been told of that. Runs so end with the batch.
    fn join_run(&mut self, index: u32, record: &Header, frame: &Frame<M>) -> bool {
        let Some(socket) = self.sockets.get_mut(index) else { return false };
        let (Kind::Udp(udp), Some(at)) = (&mut socket.kind, socket.at) else { return false };
        let Some(Joint { start, header: first }) = udp.joint.filter(|_| udp.joins()) else { return false };
        let Some(session) = self.sessions.get_mut(&at.session) else { return false };
        let segment = if first.said.segment == 0 { first.len } else { first.said.segment.into() };
        let goes_on = (first.remote, first.local, first.slot, first.said.tos, first.said.hop_limit)
            == (record.remote, record.local, record.slot, record.said.tos, record.said.hop_limit)
            && segment > 0
            && first.len.is_multiple_of(segment)
            && (1..=segment).contains(&record.len);
        let (len, more) = (first.len as usize, record.len as usize);
        let size = record_size(len + more);
        let told = start < socket.line.received;
        let room = start + size as u64 - socket.rx.consumed() <= u64::from(WINDOW_MAX);
        let pages = socket.rx.missing(start, size) + session.rx_reserve();
        if !goes_on || told || len + more > DATAGRAM_MAX || !room || session.free_pages() < pages {
            return false;
        }
        socket.rx.cover(session, at.slot, start, size).expect("the pages were counted");
        let said = Said { segment: segment as u16, ..first.said };
        let header = Header { len: (len + more) as u32, said, ..first };
        socket.rx.write(session, start, &header.to_bytes());
        let mut from = 0;
        socket.rx.for_each_piece(session, start + (HEADER_SIZE + len) as u64, more, |to, piece| {
            frame.buf.copy_out(from, &session.memory, to, piece);
            from += piece;
        });
        udp.received = start + size as u64;
        udp.joint = Some(Joint { start, header });
        self.counters.add(Counter::CopiedToArena, more as u64);
        self.touch(index);
        true
    }

    /// Appends a record to the receive stream of a datagram socket or a listener.
    pub(in super::super) fn deliver_record(
        &mut self,
        index: u32,
        record: &Header,
        frame: Option<&Frame<M>>,
    ) -> Result<(), DropReason> {
        self.deliver_from(index, record, &[], frame, 0)
    }

    /// As [`Stack::deliver_record`], with `header` before what the frame has, and pages looked for first.
    pub(super) fn deliver_parts(
        &mut self,
        index: u32,
        record: &Header,
        header: &[u8],
        frame: Option<&Frame<M>>,
    ) -> Result<(), DropReason> {
        self.look_for_pages(record.said.at, index, record.len);
        self.deliver_from(index, record, header, frame, 0)
    }

    fn look_for_pages(&mut self, now: Instant, index: u32, len: u32) {
        if let Some(at) = self.sockets.get(index).and_then(|socket| socket.at) {
            let pages = record_size(len as usize) / PAGE_SIZE + 2;
            let reserve = self.sessions.get(&at.session).map_or(0, |session| session.rx_reserve());
            self.reclaim(now, at.session, pages + reserve);
        }
    }

    /// Appends a record: `header`, then what the frame has from `skip` on, as far as the record goes.
    pub(super) fn deliver_from(
        &mut self,
        index: u32,
        record: &Header,
        header: &[u8],
        frame: Option<&Frame<M>>,
        skip: usize,
    ) -> Result<(), DropReason> {
        let socket = self.sockets.get_mut(index).expect("the demultiplexer names sockets that there are");
        let Some(at) = socket.at else { return Err(DropReason::NoSocket) };
        let session = self.sessions.get_mut(&at.session).expect("a place lies in a session");
        let (start, len) = (socket.received(), record.len as usize);
        let size = record_size(len);
        let waiting = start - socket.rx.consumed();
        // SO_RCVBUF; one datagram is always taken. An accept queue has its backlog.
        let wanted = match (&socket.kind, socket.client.rcvbuf) {
            (Kind::Udp(_), limit) if limit != 0 && waiting > 0 => limit.min(WINDOW_MAX),
            _ => WINDOW_MAX,
        };
        if waiting + size as u64 > u64::from(wanted) {
            return Err(DropReason::SocketRcvbuff);
        }
        let reserve = if matches!(socket.kind, Kind::Udp(_)) { session.rx_reserve() } else { 0 };
        if session.free_pages() < socket.rx.missing(start, size) + reserve {
            return Err(DropReason::ProtoMem);
        }
        socket.rx.cover(session, at.slot, start, size).map_err(|_| DropReason::ProtoMem)?;
        socket.rx.write(session, start, &record.to_bytes());
        if let Some(frame) = frame {
            let begin = start + HEADER_SIZE as u64;
            if !header.is_empty() {
                socket.rx.write(session, begin, header);
            }
            let (mut from, behind) = (skip, begin + header.len() as u64);
            socket.rx.for_each_piece(session, behind, len - header.len(), |to, piece| {
                frame.buf.copy_out(from, &session.memory, to, piece);
                from += piece;
            });
            self.counters.add(Counter::CopiedToArena, len as u64);
        }
        match &mut socket.kind {
            Kind::Udp(Udp { received, joint, .. }) => {
                *received += size as u64;
                *joint = Some(Joint { start, header: *record });
            }
            Kind::Listener(listener) => listener.queued += 1,
            Kind::Tcp(_) => unreachable!("a connection's stream carries no records"),
        }
        self.touch(index);
        Ok(())
    }
}

/// What the IP header says of a datagram.
pub(super) fn said_of<M: Memory>(now: Instant, received: &Received<'_, M>) -> Said {
    let tos = match (&received.pair, received.frame.packet_head()) {
        (AddressPair::V4 { .. }, [_, tos, ..]) => *tos,
        (AddressPair::V6 { .. }, [high, low, ..]) => high << 4 | low >> 4,
        _ => 0,
    };
    let marks = match (received.to_group, received.pair.dst().is_multicast()) {
        (false, _) => 0,
        (true, true) => mark::TO_GROUP,
        (true, false) => mark::TO_ALL,
    };
    Said { hop_limit: received.hop_limit, tos, segment: 0, marks, at: now }
}
