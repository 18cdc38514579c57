//! NET_RX: from a frame to the socket it is for.

use super::clients::flow_key;
use super::listen::{ACCEPT_PAGES, Arrival};
use super::socket::Kind;
use super::watch::frame_crumb;
use super::{LOOPBACK, Stack};
use crate::counters::Counter;
use crate::frame::Frame;
use crate::ip::header_len;
use crate::ip::icmp::{Fault, Heard};
use crate::ip::input::Received;
use crate::tcp::icmp::IcmpError;
use crate::tcp::input::Env;
use crate::tcp::listen::reply_without_connection;
use crate::tcp::reaction::{Deliver, Reaction};
use crate::tcp::segment::Segment;
use crate::tcp::state::State as TcpState;
use crate::transport::demux::{Ports, TcpReceiver};
use crate::transport::flow_table::FlowKey;
use crate::wire::address::AddressPair;
use crate::wire::checksum::Sum;
use crate::wire::drop_reason::DropReason;
use crate::wire::ipv4::IpProtocol;
use crate::wire::quote::{Complaint, Quote, Report, Said};
use crate::wire::tcp::{self, TcpHeader};
use crate::wire::unchecked::Unchecked;
use core::net::IpAddr;
use proto::Instant;
use proto::arena::PAGE_SIZE;
use proto::hard::conns::State;
use proto::id::SessionId;
use proto::nic::packet_buf::{Csum, PacketBuf};
use proto::shm::Memory;

impl<M: Memory + Clone> Stack<M> {
    /// A frame that interface `interface` received.
    pub fn on_frame(&mut self, now: Instant, interface: u16, frame: PacketBuf<M>) {
        self.counters.count(Counter::RxFrames);
        self.counters.add(Counter::RxBytes, frame.len() as u64);
        if interface == LOOPBACK {
            self.counters.count(Counter::LoFrames);
            self.counters.add(Counter::LoBytes, frame.len() as u64);
        }
        let mut frame = Frame::new(frame);
        let outcome = match self.begin(|| frame_crumb(frame.head())) {
            true => self.receive(now, interface, &mut frame),
            false => Err(DropReason::Poison),
        };
        self.end();
        if let Err(reason) = outcome {
            self.counters.drop(reason);
        }
        self.report_unreachable(now);
    }

    /// The deliberate fault that the tests of INV-T8 need.
    fn bite(&self, frame: &Frame<M>) {
        if !self.bait.is_empty() {
            let mut bytes = vec![0; frame.buf.len()];
            frame.buf.read(0, &mut bytes);
            let hit = bytes.windows(self.bait.len()).any(|window| window == self.bait);
            assert!(!hit, "a poisoned frame (--fault poison)");
        }
    }

    fn receive(&mut self, now: Instant, interface: u16, frame: &mut Frame<M>) -> Result<(), DropReason> {
        self.bite(frame);
        if self.set_down.contains(&interface) {
            return Err(DropReason::DevDown);
        }
        if !self.portless.has_no_taps() {
            self.tap_incoming(now, interface, frame);
        }
        let Some(packet) = self.ip.link.receive(now, interface, frame, &mut self.counters)? else {
            // It was ARP's: a neighbour may have answered.
            self.neighbours_moved();
            return Ok(());
        };
        if packet.interface != interface && self.set_down.contains(&packet.interface) {
            return Err(DropReason::DevDown);
        }
        let Some(received) = self.ip.receive(now, packet, &mut self.counters)? else { return Ok(()) };
        let copied = !self.portless.has_no_raw() && self.copy_to_raw(now, &received);
        match received.protocol {
            IpProtocol::TCP => self.receive_tcp(now, received),
            IpProtocol::UDP => self.receive_udp(now, received),
            IpProtocol::IGMP if received.pair.dst().is_ipv4() => {
                self.ip.receive_igmp(now, &received, &mut self.counters)
            }
            IpProtocol::ICMP | IpProtocol::ICMPV6 if received.protocol == icmp_of(&received.pair) => {
                if self.receive_echo_reply(now, &received) {
                    return Ok(());
                }
                let heard = match self.ip.receive_icmp(now, received, &mut self.counters) {
                    Err(DropReason::IcmpUnhandled) if copied => Heard::Done,
                    heard => heard?,
                };
                match heard {
                    Heard::Done => {}
                    Heard::Error(report) => self.on_icmp_report(now, &report, Some(frame))?,
                    Heard::Neighbours => self.neighbours_moved(),
                }
                Ok(())
            }
            _ if copied => Ok(()),
            _ => {
                let fault = Fault::Protocol { at: received.next_header_at };
                self.send_error(now, &received.pair, received.frame, received.to_group, fault);
                Err(DropReason::IpNoProto)
            }
        }
    }

    pub(super) fn send_error(
        &mut self,
        now: Instant,
        pair: &AddressPair,
        frame: &Frame<M>,
        to_group: bool,
        fault: Fault,
    ) {
        self.ip.send_error(now, pair, frame, to_group, fault, &mut self.counters);
    }

    // TCP

    fn receive_tcp(&mut self, now: Instant, received: Received<'_, M>) -> Result<(), DropReason> {
        let Received { pair, frame, to_group, .. } = received;
        self.counters.count(Counter::TcpInSegs);
        if to_group {
            return Err(DropReason::TcpGroupAddress);
        }
        let unchecked = TcpHeader::parse(frame.head(), frame.buf.len(), &pair)?;
        let ports = unchecked.peek();
        let flow = FlowKey::of_received(&pair, ports.src_port, ports.dst_port);
        if !self.is_ours(&flow) {
            // Its own shard answers it, or nobody does: no RST comes from here.
            return Err(DropReason::OtherShard);
        }
        let mut receiver = self.demux.tcp(&flow);
        if let TcpReceiver::Connection(index) = receiver
            && self.sleepers.contains(index)
        {
            self.wake(now, index);
            receiver = self.demux.tcp(&flow);
        }
        let marked = is_marked(frame.packet_head(), &pair);
        let mut tcp = match frame.buf.marks.csum {
            Csum::Valid | Csum::Partial { .. } => unchecked.trust(),
            Csum::Unknown => self.verify_tcp(receiver, unchecked, frame)?,
        };
        tcp.segment.marked = marked;
        frame.pull(usize::from(tcp.header_len));
        match receiver {
            TcpReceiver::Connection(index) => self.segment_for(now, index, &tcp.segment, Some(frame), flow),
            TcpReceiver::Listener(index) => {
                let arrival = Arrival { flow, segment: &tcp.segment, frame, reopen: None };
                self.segment_for_listener(now, index, &arrival)
            }
            TcpReceiver::Nobody => {
                if let Some(reset) = reply_without_connection(&tcp.segment) {
                    self.counters.count(Counter::TcpOutRsts);
                    self.send_reply(now, &flow, &reset);
                }
                Err(DropReason::NoSocket)
            }
        }
    }

    /// The header, when the checksum over the whole segment is right. Where the payload can only belong in
    /// one place, it is copied there in the same pass ([`Stack::land`]).
    fn verify_tcp(
        &mut self,
        receiver: TcpReceiver,
        unchecked: Unchecked<TcpHeader>,
        frame: &mut Frame<M>,
    ) -> Result<TcpHeader, DropReason> {
        let landed = match receiver {
            TcpReceiver::Connection(index) => {
                self.land(index, unchecked.peek(), frame).map(|sum| (index, sum))
            }
            _ => None,
        };
        let Some((index, sum)) = landed else { return unchecked.verify(frame.sum()) };
        let verified = unchecked.verify(sum);
        if verified.is_err() {
            frame.landed = None;
            self.take_landed_back(index);
        }
        verified
    }

    /// Copies the payload of a segment that nobody has vouched for to where the stream goes on, and sums
    /// it in the same pass; `None` when it may belong anywhere else. What is copied lies behind everything
    /// received, where nothing is kept: unless the checksum is right and TCP takes the segment, it does
    /// not count and is written over.
    fn land(&mut self, index: u32, header: &TcpHeader, frame: &mut Frame<M>) -> Option<Sum> {
        /// Below this the second pass costs less than finding out.
        const WORTH_IT: u32 = 256;
        let (segment, header_len) = (&header.segment, usize::from(header.header_len));
        let socket = self.sockets.get_mut(index)?;
        let Kind::Tcp(block) = &socket.kind else { return None };
        let at = socket.at?;
        // A range that the record still names would be found again by a successor.
        let kept = |state: &State| state.ooo.iter().any(|(_, len)| *len > 0);
        let nothing_kept = socket.committed.as_ref().is_some_and(|state| !kept(state));
        if segment.payload_len < WORTH_IT || !block.continues(segment) || !nothing_kept {
            return None;
        }
        let session = self.sessions.get_mut(&at.session)?;
        if session.free_pages() < pages_at_worst(segment) + session.rx_reserve() {
            return None;
        }
        let (offset, len) = (block.received(), segment.payload_len as usize);
        let mut sum = Sum::of(frame.head().get(..header_len)?);
        socket.rx.cover(session, at.slot, offset, len).expect("the pages were counted");
        let mut from = header_len;
        socket.rx.for_each_piece(session, offset, len, |to, piece| {
            frame.buf.copy_out_summed(from, &session.memory, to, piece, |folded, len| {
                sum = sum.then_sum(Sum::from_folded(folded, len));
            });
            from += piece;
        });
        frame.landed = Some((offset, len));
        Some(sum)
    }

    /// What had landed was no good: an idle socket has no pages.
    fn take_landed_back(&mut self, index: u32) {
        let Some(socket) = self.sockets.get_mut(index) else { return };
        if socket.highest() == socket.rx.consumed()
            && let Some(session) = socket.at.and_then(|at| self.sessions.get_mut(&at.session))
        {
            socket.rx.release_all(session);
        }
    }

    /// A segment for a connection.
    pub(super) fn segment_for(
        &mut self,
        now: Instant,
        index: u32,
        segment: &Segment,
        frame: Option<&Frame<M>>,
        flow: FlowKey,
    ) -> Result<(), DropReason> {
        let socket = self.sockets.get_mut(index).expect("the demultiplexer names sockets that there are");
        let Kind::Tcp(block) = &mut socket.kind else { return Err(DropReason::NoSocket) };
        let (session, passive) = (socket.opening.session, socket.opening.op.0 == 0);
        let waits = block.state() == TcpState::SynReceived && passive && socket.agreed.is_none();
        // The handshake's last ACK finds no room to wait for accept: it is dropped, and comes again.
        let establishes = waits && segment.flags.ack() && !segment.flags.rst();
        if establishes && !self.can_queue(index, pages_at_worst(segment)) {
            self.look_at_listener(now, index);
            self.reclaim(now, session, ACCEPT_PAGES + pages_at_worst(segment));
        }
        if establishes && !self.can_queue(index, pages_at_worst(segment)) {
            self.prune(session, ACCEPT_PAGES + pages_at_worst(segment));
            return Err(DropReason::TcpListenOverflow);
        }
        let taken = self.check_pages(now, index, segment)?;
        // What is cut off was not received: the remote sends it again.
        let cut = (taken < segment.payload_len).then(|| segment.first_octets(taken));
        let segment = cut.as_ref().unwrap_or(segment);
        let socket = self.sockets.get_mut(index).expect("looked at above");
        let Kind::Tcp(block) = &mut socket.kind else { return Err(DropReason::NoSocket) };
        let reaction = block.on_segment(now, segment, &mut Env { challenge: &mut self.challenges });
        let dropped = reaction.dropped;
        let (reopen, was_acked) = (reaction.reopen, reaction.events.acknowledged);
        self.react(now, index, reaction, frame);
        if was_acked {
            self.confirm(now, &flow);
        }
        if let Some(reopen) = reopen {
            // RFC 6191: the old connection is over, the SYN is the listener's.
            self.leave_flow(index);
            if let (Some(listener), Some(frame)) = (self.demux.listener(&flow), frame) {
                let arrival = Arrival { flow, segment, frame, reopen: Some(reopen) };
                return self.segment_for_listener(now, listener, &arrival);
            }
        }
        dropped.map_or(Ok(()), Err)
    }

    /// How much of this segment's payload the session has pages for, more than nothing. What comes in order
    /// finds a page as long as there is one: data out of order never takes the last ones, and is
    /// given up when they run short.
    fn check_pages(&mut self, now: Instant, index: u32, segment: &Segment) -> Result<u32, DropReason> {
        let all = segment.payload_len;
        if all == 0 {
            return Ok(0);
        }
        let socket = self.sockets.get(index).expect("the caller has found it");
        // Without a place nothing is delivered, or the accept queue's check has counted the pages.
        let Some(at) = socket.at else { return Ok(all) };
        let Some(session) = self.sessions.get(&at.session) else { return Ok(all) };
        let reserve = session.rx_reserve();
        let ample = pages_at_worst(segment) + reserve;
        if session.free_pages() >= ample {
            return Ok(all);
        }
        self.reclaim(now, at.session, ample);
        let free = self.sessions.get(&at.session).expect("looked at above").free_pages();
        if free >= ample {
            return Ok(all);
        }
        let socket = self.sockets.get(index).expect("the caller has found it");
        let Kind::Tcp(block) = &socket.kind else { return Ok(all) };
        let known = block.state() != TcpState::SynSent;
        let Some(offset) = known.then(|| block.payload_offset(segment)).flatten() else {
            return if free >= pages_at_worst(segment) { Ok(all) } else { Err(DropReason::ProtoMem) };
        };
        let missing = socket.rx.missing(offset, all as usize);
        let fits = socket.rx.fitting(offset, all as usize, free) as u32;
        match offset <= socket.received() {
            false if missing == 0 || free >= missing + reserve => Ok(all),
            false => Err(DropReason::TcpOfoDrop),
            true => {
                self.prune(at.session, missing + reserve);
                if fits > 0 { Ok(fits) } else { Err(DropReason::ProtoMem) }
            }
        }
    }

    /// Gives up bytes out of order of this session's sockets until `wanted` pages are free, or will be
    /// when the batch is committed.
    fn prune(&mut self, id: SessionId, wanted: usize) {
        while let Some(session) = self.sessions.get_mut(&id) {
            if session.free_pages() + session.pages_in_limbo() >= wanted {
                return;
            }
            let Some(slot) = session.next_out_of_order() else { return };
            let Some(index) = session.record_at(slot) else { continue };
            let Some(socket) = self.sockets.get_mut(index.0) else { continue };
            let Kind::Tcp(block) = &mut socket.kind else { continue };
            if block.prune_out_of_order() {
                socket.rx.prune(session, block.received());
                self.counters.count(Counter::TcpOfoPruned);
                self.batch.pruned.push(id);
                self.touch(index.0);
            }
        }
    }

    /// Does what a control block asked for.
    pub(super) fn react(&mut self, now: Instant, index: u32, reaction: Reaction, frame: Option<&Frame<M>>) {
        self.note_agreement(index);
        if reaction.events.established {
            self.note_fast_open(now, index);
            self.established(index);
        }
        self.leave_syn_received(index);
        if reaction.events.closed {
            // A connection that is over does not stand in the way of the next one.
            self.leave_flow(index);
        }
        if let (Some(deliver), Some(frame)) = (reaction.deliver, frame) {
            self.deliver(index, &deliver, frame);
        }
        let socket = self.sockets.get(index).expect("who reacts is there");
        if let Some(reply) = reaction.reply
            && let Some(flow) = flow_key(socket.opening.local, socket.opening.remote)
        {
            let counter = if reply.flags.rst() { Counter::TcpOutRsts } else { Counter::TcpChallengeAcks };
            self.counters.count(counter);
            self.send_reply(now, &flow, &reply);
        }
        self.touch(index);
        self.reschedule(now, index);
    }

    /// INV-T1: the payload lies in the arena before the batch is settled.
    fn deliver(&mut self, index: u32, deliver: &Deliver, frame: &Frame<M>) {
        let socket = self.sockets.get_mut(index).expect("who reacts is there");
        let Some(at) = socket.at else { return };
        let session = self.sessions.get_mut(&at.session).expect("a place lies in a session");
        let len = deliver.len as usize;
        socket.rx.cover(session, at.slot, deliver.offset, len).expect("the caller has counted the pages");
        if deliver.offset > socket.received() {
            session.note_out_of_order(at.slot);
        }
        self.counters.add(Counter::CopiedToArena, len as u64);
        let lies_there = |(offset, landed): (u64, usize)| {
            deliver.payload_start == 0 && deliver.offset == offset && len <= landed
        };
        if frame.landed.is_some_and(lies_there) {
            return;
        }
        let mut from = deliver.payload_start as usize;
        socket.rx.for_each_piece(session, deliver.offset, len, |to, piece| {
            frame.buf.copy_out(from, &session.memory, to, piece);
            from += piece;
        });
    }

    /// A connection that is over, or in TIME-WAIT and asked for anew, gives up its two ends.
    fn leave_flow(&mut self, index: u32) {
        if let Some(socket) = self.sockets.get(index)
            && let Some(flow) = flow_key(socket.opening.local, socket.opening.remote)
            && self.displaced.insert(index)
        {
            self.demux.flows.remove(&flow);
        }
    }

    fn confirm(&mut self, now: Instant, flow: &FlowKey) {
        if let Some(way) = self.way_of(flow).filter(|way| way.nic != LOOPBACK) {
            self.ip.link.confirm(now, way.nic, way.next_hop);
        }
    }

    // ICMP

    /// An ICMP error about a packet of ours (RFC 1122 §4.1.3.3, §4.2.3.9, RFC 4443 §2.4 (d)).
    fn on_icmp_report(
        &mut self,
        now: Instant,
        report: &Report,
        quoting: Option<&Frame<M>>,
    ) -> Result<(), DropReason> {
        let flow = FlowKey {
            addresses: report.quote.pair,
            local_port: report.quote.src_port(),
            remote_port: report.quote.dst_port(),
        };
        let mut told = false;
        if !self.portless.has_no_raw() {
            for index in self.raw_sockets_of(&report.quote.pair, report.quote.protocol) {
                self.report_to_datagrams(now, index, report, quoting);
                told = true;
            }
        }
        match report.quote.protocol {
            IpProtocol::TCP => {
                let index = self.connection_of(now, &flow).ok_or(DropReason::IcmpQuoteInvalid)?;
                let socket =
                    self.sockets.get_mut(index).expect("the demultiplexer names sockets that there are");
                let Kind::Tcp(block) = &mut socket.kind else { return Err(DropReason::IcmpQuoteInvalid) };
                let remote = flow.remote_addr();
                let kind = tcp_icmp(report.complaint, remote).ok_or(DropReason::IcmpUnhandled)?;
                let known = block.path_mss();
                let reaction = block.on_icmp(now, kind, report.quote.tcp_seq());
                // The segment was in flight: what it met on its way holds for all that go there.
                if let Complaint::TooBig { mtu } = report.complaint
                    && block.path_mss() < known
                {
                    self.ip.paths.lower(now, remote, mtu);
                }
                self.react(now, index, reaction, None);
                Ok(())
            }
            IpProtocol::UDP => {
                let index = self.demux.datagram(Ports::Udp, &flow).ok_or(DropReason::IcmpQuoteInvalid)?;
                if let Complaint::TooBig { mtu } = report.complaint {
                    self.ip.paths.lower(now, flow.remote_addr(), mtu);
                }
                self.report_to_datagrams(now, index, report, quoting);
                Ok(())
            }
            IpProtocol::ICMP | IpProtocol::ICMPV6 => {
                // Of an echo request: its identifier is a ping socket's port.
                let [.., high, low, _, _] = report.quote.transport;
                let echo = FlowKey { local_port: u16::from_be_bytes([high, low]), remote_port: 0, ..flow };
                match self.demux.datagram(Ports::Ping, &echo) {
                    Some(index) => self.report_to_datagrams(now, index, report, quoting),
                    None if told => {}
                    None => return Err(DropReason::IcmpQuoteInvalid),
                }
                Ok(())
            }
            _ if told => Ok(()),
            _ => Err(DropReason::IcmpQuoteInvalid),
        }
    }

    /// Packets of ours whose neighbour did not answer: as if a router had said so.
    pub(super) fn report_unreachable(&mut self, now: Instant) {
        if self.ip.link.unreachable.is_empty() {
            return;
        }
        for packet in core::mem::take(&mut self.ip.link.unreachable) {
            let frame = Frame::new(packet);
            let quote = match frame.head().first().map(|first| first >> 4) {
                Some(6) => Quote::parse_v6(frame.head()),
                _ => Quote::parse_v4(frame.head()),
            };
            let Ok(quote) = quote else { continue };
            // Nobody is told twice of what nobody sent.
            let said = Said::by_ourselves(quote.pair.src());
            let report = Report { complaint: Complaint::Host, quote, said };
            let _ = self.on_icmp_report(now, &report, Some(&frame));
        }
    }
}

/// The ICMP of a packet's family.
const fn icmp_of(pair: &AddressPair) -> IpProtocol {
    match pair {
        AddressPair::V4 { .. } => IpProtocol::ICMP,
        AddressPair::V6 { .. } => IpProtocol::ICMPV6,
    }
}

/// Receive pages that a segment's payload may need: one for every page border that it touches.
pub(super) fn pages_at_worst(segment: &Segment) -> usize {
    match segment.payload_len as usize {
        0 => 0,
        len => len / PAGE_SIZE + 2,
    }
}

/// What an ICMP error means to TCP: RFC 1122 §4.2.3.9, RFC 5927 §5, §6.
fn tcp_icmp(complaint: Complaint, remote: IpAddr) -> Option<IcmpError> {
    Some(match complaint {
        Complaint::TooBig { mtu } => {
            let headers = (header_len(remote) + tcp::HEADER_LEN) as u16;
            IcmpError::PacketTooBig { path_mss: mtu.saturating_sub(headers) }
        }
        Complaint::Port | Complaint::Protocol => IcmpError::PortUnreachable,
        Complaint::Network => IcmpError::NetworkUnreachable,
        Complaint::Host | Complaint::Prohibited | Complaint::Expired => IcmpError::HostUnreachable,
        Complaint::Problem => return None,
    })
}

/// RFC 3168 §5: a router on the way marked the packet whose header this is.
fn is_marked(header: &[u8], pair: &AddressPair) -> bool {
    const CE: u8 = 3;
    let field = match (pair, header) {
        (AddressPair::V4 { .. }, [_, tos, ..]) => *tos,
        (AddressPair::V6 { .. }, [_, low, ..]) => *low >> 4,
        _ => 0,
    };
    field & CE == CE
}
