//! NET_TX: what sockets have to send, as frames.
//!
//! A socket that has something to send stands in a list; [`Stack::poll_transmit`] takes as many
//! segments as there is room for and leaves the rest where it is: in the sockets. Nothing is dropped
//! on the way out because a ring is full.

use super::offload::Offload;
use super::socket::Kind;
use super::{LOOPBACK, Stack};
use crate::counters::Counter;
use crate::ip::{Way, header_len};
use crate::link::HEADROOM;
use crate::socket::tx::for_each_piece;
use crate::tcp::segment::SegmentOut;
use crate::tcp::settings::{MSS_DEFAULT_IPV4, MSS_DEFAULT_IPV6, Settings};
use crate::transport::flow_table::FlowKey;
use crate::wire::address::AddressPair;
use crate::wire::checksum::Sum;
use crate::wire::drop_reason::DropReason;
use crate::wire::ipv4::IpProtocol;
use crate::wire::tcp::{self, HEADER_LEN_MAX};
use crate::wire::unchecked::Checksum;
use core::net::IpAddr;
use core::time::Duration;
use proto::control::operations::SocketRef;
use proto::nic::packet_buf::{Gso, PacketBuf};
use proto::nic::slab::SMALL_SIZE;
use proto::shm::Memory;
use proto::zone;
use proto::{Instant, PeerCorrupt};
use rustix::io::Errno;
use std::collections::VecDeque;

/// Turns that one round gives at most, whatever comes of them.
const TURNS_MAX: usize = 256;

/// After a resume, connections without other words that speak in a round in which nothing else happens: what
/// arrives meanwhile waits for no more than that many.
const GREETINGS_ALONE: usize = 8;

/// The same in a round with other work: those that have something under way are not to feel the others, of
/// which there may be very many, and none of these is to wait for the load to end.
const GREETINGS_BESIDE: usize = 1;

/// Segments that one socket may send before the next one has its turn.
pub(super) const QUANTUM: usize = 16;

/// Why a socket's turn ended.
pub(super) enum Turn {
    /// It has nothing more to send.
    Done,
    /// It has, and others come first.
    Yield,
    /// It has, and the interface it leaves by has no room, or no pages to send in.
    Stopped(u16),
    /// It has, and there is no way to its remote.
    Stalled,
    /// It has, and its next hop was asked for its link address and has not answered yet.
    Awaited,
}

/// How long a connection without a way waits before it looks again, unless its own timer is earlier.
const STALL: Duration = Duration::from_millis(200);

/// RFC 3168 §5: the sender understands marks.
const ECT_0: u8 = 2;

impl<M: Memory + Clone> Stack<M> {
    /// Builds frames of what sockets have to send, at most `room[n]` for interface `n`; the last entry,
    /// behind those of all interfaces, is loopback's. Returns
    /// whether anything moved. A socket whose interface has no room, or no frame pages, waits for
    /// that interface alone.
    pub fn poll_transmit(&mut self, now: Instant, room: &mut [usize]) -> bool {
        self.unstop(room);
        self.greet(now, room);
        let mut moved = false;
        // A turn may build nothing: the round ends whatever the sockets say.
        for _ in 0..TURNS_MAX {
            let Some(index) = self.tx_pending.pop_front() else { break };
            let Some(socket) = self.sockets.get_mut(index) else { continue };
            socket.tx_pending = false;
            moved = true;
            let turn = match &socket.kind {
                Kind::Tcp(_) => self.transmit_tcp(now, index, room),
                Kind::Udp(_) => self.transmit_udp(now, index, room),
                Kind::Listener(_) => Turn::Done,
            };
            self.touch(index);
            match turn {
                Turn::Done => self.reschedule(now, index),
                Turn::Yield => self.pend(index),
                Turn::Stalled => self.stall(now, index),
                Turn::Awaited => {
                    self.awaiting.push(index);
                    self.wait_listed(now, index);
                }
                Turn::Stopped(nic) => {
                    self.stop(index, nic);
                    self.wait_listed(now, index);
                }
            }
        }
        moved
    }

    /// Lets some of those speak that have nothing to say but that they are there, when the way is free.
    fn greet(&mut self, now: Instant, room: &mut [usize]) {
        let alone = self.tx_pending.is_empty() && self.batch.is_idle();
        for _ in 0..if alone { GREETINGS_ALONE } else { GREETINGS_BESIDE } {
            if !self.may_greet() {
                break;
            }
            let index = self.greetings.pop_front().expect("there are some");
            self.greet_one(now, index, room);
        }
    }

    fn may_greet(&self) -> bool {
        !self.greetings.is_empty() && self.awaiting.is_empty() && self.stopped.iter().all(VecDeque::is_empty)
    }

    /// The socket stands in a list of those that wait: it is not queued besides, and what was sent
    /// before has its timer.
    fn wait_listed(&mut self, now: Instant, index: u32) {
        if let Some(socket) = self.sockets.get_mut(index) {
            socket.tx_pending = true;
        }
        self.reschedule(now, index);
    }

    /// The socket waits for room at interface `nic`.
    fn stop(&mut self, index: u32, nic: u16) {
        self.counters.count(Counter::TxStopped);
        let nic = self.place_of(nic);
        if self.stopped.len() <= nic {
            self.stopped.resize_with(nic + 1, VecDeque::new);
        }
        self.stopped[nic].push_back(index);
    }

    /// An interface's place in what is kept by device; loopback's is the last.
    pub(super) fn place_of(&self, nic: u16) -> usize {
        match self.ip.link.device_of(nic) {
            LOOPBACK => self.ip.link.devices(),
            device => usize::from(device),
        }
    }

    fn nic_at(&self, place: usize) -> u16 {
        if place == self.ip.link.devices() { LOOPBACK } else { place as u16 }
    }

    /// Who waited for an interface that has room now is next, in the order in which they came.
    fn unstop(&mut self, room: &[usize]) {
        for nic in 0..self.stopped.len() {
            let free = room.get(nic).is_some_and(|room| *room > 0) && self.has_pages(self.nic_at(nic));
            if free && !self.stopped[nic].is_empty() {
                self.counters.count(Counter::TxWoken);
                let mut waiting = core::mem::take(&mut self.stopped[nic]);
                self.tx_pending.extend(waiting.drain(..));
                self.stopped[nic] = waiting;
            }
        }
    }

    /// Whether some socket has something to send, and the interface it leaves by, as far as that is
    /// known, has room.
    pub fn wants_transmit(&self, room: &[usize]) -> bool {
        let free =
            |nic: usize| room.get(nic).is_some_and(|room| *room > 0) && self.has_pages(self.nic_at(nic));
        let stopped = self.stopped.iter().enumerate();
        !self.tx_pending.is_empty()
            || self.may_greet()
            || stopped.into_iter().any(|(nic, who)| !who.is_empty() && free(nic))
    }

    /// Whether some socket waits for room in an interface's ring, or for pages.
    pub fn is_stopped(&self, nic: u16) -> bool {
        !self.tx_pending.is_empty() || self.stopped.get(usize::from(nic)).is_some_and(|who| !who.is_empty())
    }

    /// A neighbour has answered, or was given up: whoever waited for one looks again.
    pub(super) fn neighbours_moved(&mut self) {
        self.tx_pending.extend(self.awaiting.drain(..));
    }

    /// Whether the next hop is still being asked for its link address.
    pub(super) fn is_awaited(&self, way: &Way) -> bool {
        self.ip.link.interface(way.nic).is_some_and(|interface| interface.neighbours.is_awaited(way.next_hop))
    }

    /// Leaves a connection out until its timer.
    fn stall(&mut self, now: Instant, index: u32) {
        let Some(socket) = self.sockets.get(index) else { return };
        let own = if let Kind::Tcp(block) = &socket.kind { block.next_deadline() } else { None };
        self.timers.arm(index, own.map_or(now + STALL, |at| at.min(now + STALL)));
    }

    fn pend(&mut self, index: u32) {
        let Some(socket) = self.sockets.get_mut(index) else { return };
        if !core::mem::replace(&mut socket.tx_pending, true) {
            self.tx_pending.push_back(index);
        }
    }

    fn transmit_tcp(&mut self, now: Instant, index: u32, room: &mut [usize]) -> Turn {
        let Some(flow) = self.flow_of(index) else { return Turn::Done };
        let Some(way) = self.way_of(&flow) else {
            return Turn::Stalled;
        };
        let mut quantum = QUANTUM;
        while quantum > 0 {
            if self.is_awaited(&way) {
                return Turn::Awaited;
            }
            if !self.may_send(way.nic, room) {
                return Turn::Stopped(way.nic);
            }
            let (offload, place) = (self.offload(&way), self.place_of(way.nic));
            let Some(socket) = self.sockets.get_mut(index) else { return Turn::Done };
            let Kind::Tcp(block) = &mut socket.kind else { return Turn::Done };
            let before = block.send_next();
            let gso_max = offload.gso_max(block.mss(), quantum.min(room[place]));
            let Some(segment) = block.poll_output(now, gso_max) else { return Turn::Done };
            let fresh = block.send_next() > before || segment.payload_len == 0;
            let pieces = segment.pieces();
            socket.retransmits = socket.retransmits.wrapping_add(if fresh { 0 } else { pieces });
            let counter = if fresh { Counter::TcpOutSegs } else { Counter::TcpRetransSegs };
            self.counters.add(counter, pieces.into());
            let at = socket.at;
            let frames = if offload.leaves_whole(&segment) { 1 } else { pieces as usize };
            quantum = quantum.saturating_sub(frames);
            let left = &mut room[place];
            *left = left.saturating_sub(frames);
            match self.send_segment(now, &flow, &way, &segment, at) {
                Ok(()) => {}
                Err(Failure::NoPages) => self.counters.drop(DropReason::NoMem),
                Err(Failure::Corrupt(rule)) => {
                    if let Some(at) = at {
                        self.batch.corrupt.push((at.session, rule));
                    }
                    return Turn::Done;
                }
            }
        }
        Turn::Yield
    }

    pub(super) fn may_send(&self, nic: u16, room: &[usize]) -> bool {
        room.get(self.place_of(nic)).is_some_and(|room| *room > 0) && self.has_pages(nic)
    }

    fn has_pages(&self, nic: u16) -> bool {
        self.ip.link.interface(nic).is_some_and(|interface| {
            let fits_small = usize::from(interface.mtu) + HEADROOM <= SMALL_SIZE;
            interface.frames.free_small() > TX_RESERVE
                && (fits_small || interface.frames.free_large() > TX_RESERVE_LARGE)
        })
    }

    /// What the device at the beginning of `way` takes over, as long as there are pages for it.
    pub(super) fn offload(&self, way: &Way) -> Offload {
        let interface = self.ip.link.interface(way.nic).expect("a way leaves by an interface");
        let v6 = way.next_hop.is_ipv6();
        Offload::of(interface.features, interface.frames.free_large(), v6)
    }

    /// Sends a segment: as a whole where the device cuts it, else in pieces.
    fn send_segment(
        &mut self,
        now: Instant,
        flow: &FlowKey,
        way: &Way,
        segment: &SegmentOut,
        at: Option<SocketRef>,
    ) -> Result<(), Failure> {
        let offload = self.offload(way);
        let way = &Way { tos: if segment.ect { ECT_0 } else { 0 }, ..*way };
        if offload.leaves_whole(segment) {
            let packet = self.build_segment(flow, way, segment, at, offload)?;
            self.send_on(now, way, &flow.addresses, IpProtocol::TCP, packet);
            return Ok(());
        }
        for n in 0..segment.pieces() {
            let packet = self.build_segment(flow, way, &segment.piece(n), at, offload)?;
            self.send_on(now, way, &flow.addresses, IpProtocol::TCP, packet);
        }
        Ok(())
    }

    /// A segment as a packet, its payload copied out of the arena (once).
    fn build_segment(
        &mut self,
        flow: &FlowKey,
        way: &Way,
        segment: &SegmentOut,
        at: Option<SocketRef>,
        offload: Offload,
    ) -> Result<PacketBuf<M>, Failure> {
        let pool = self.ip.link.interface(way.nic).expect("a way leaves by an interface").frames.clone();
        let len = segment.payload_len as usize;
        let mut packet = PacketBuf::alloc(&pool, len, HEADROOM)?;
        let mut checksum = offload.without_payload();
        if len > 0 {
            let at = at.expect("payload leaves only while the place is held");
            checksum = self.copy_from_arena(at, segment.offset, len, &mut packet, offload)?;
        }
        let mut bytes = [0; HEADER_LEN_MAX];
        let (local, remote) = (flow.local_port, flow.remote_port);
        let written = tcp::emit(segment, local, remote, &mut bytes, &flow.addresses, checksum);
        packet.prepend(&bytes[..written])?;
        packet.marks = offload.marks(checksum, false);
        if segment.pieces() > 1 {
            packet.marks.gso = Some(Gso { size: segment.piece_len, v6: flow.remote_addr().is_ipv6() });
        }
        Ok(packet)
    }

    /// Copies payload behind the headers of a packet, once, and sums it in the same pass where the device
    /// does not; what goes into the checksum field.
    pub(super) fn copy_from_arena(
        &mut self,
        at: SocketRef,
        offset: u64,
        len: usize,
        packet: &mut PacketBuf<M>,
        offload: Offload,
    ) -> Result<Checksum, Failure> {
        let session = self.sessions.get(&at.session).expect("a place lies in a session");
        let (mut to, mut failed, mut sum) = (0, Ok(()), Sum::EMPTY);
        let memory = &session.memory;
        for_each_piece(session, at.slot, offset, len, |from, piece| {
            failed = failed.and_then(|()| match offload.checksum {
                true => packet.copy_in(to, memory, from, piece),
                false => packet.copy_in_summed(to, memory, from, piece, |folded, len| {
                    sum = sum.then_sum(Sum::from_folded(folded, len));
                }),
            });
            to += piece;
        })?;
        failed?;
        self.counters.add(Counter::CopiedToFrame, len as u64);
        Ok(if offload.checksum { Checksum::Device } else { Checksum::Full(sum) })
    }

    /// A segment that no queue holds back: a reset, a challenge ACK, a SYN cookie.
    pub(super) fn send_reply(&mut self, now: Instant, flow: &FlowKey, segment: &SegmentOut) {
        let Some(way) = self.way_of(flow) else {
            return self.counters.drop(DropReason::IpOutNoRoutes);
        };
        if self.send_segment(now, flow, &way, segment, None).is_err() {
            self.counters.drop(DropReason::NoMem);
        }
    }

    pub(super) fn send_on(
        &mut self,
        now: Instant,
        way: &Way,
        pair: &AddressPair,
        protocol: IpProtocol,
        packet: PacketBuf<M>,
    ) {
        self.ip.send(now, way, pair, protocol, packet, &mut self.counters);
    }

    // What paths say about connections

    /// The way of a connection's segments.
    pub(super) fn way_of(&self, flow: &FlowKey) -> Option<Way> {
        let ports = (flow.local_port, flow.remote_port);
        self.ip.way_of(flow.remote_addr(), Some(flow.local_addr()), None, ports)
    }

    /// What a connection to `remote` starts with.
    pub(super) fn settings_towards(&self, remote: IpAddr) -> Settings {
        let way = self.ip.way(remote, None);
        let first = way.and_then(|way| self.ip.link.interface(way.nic)).map_or(1500, |nic| nic.mtu);
        // RFC 6691: the MTU less the fixed headers of IP and TCP.
        let mss = |mtu: u16| mtu - (header_len(remote) + tcp::HEADER_LEN) as u16;
        let path = way.map_or(first, |way| way.mtu);
        let default_mss = if remote.is_ipv4() { MSS_DEFAULT_IPV4 } else { MSS_DEFAULT_IPV6 };
        Settings { path_mss: mss(path), advertised_mss: mss(first), default_mss, ..self.settings }
    }

    /// The source address for `remote`, when the client chose `local`, which may be unspecified.
    pub(super) fn source_for(&self, local: IpAddr, remote: IpAddr) -> Result<IpAddr, Errno> {
        self.check_local(local)?;
        let chosen = (!zone::is_any(local)).then_some(local);
        self.ip.way(remote, chosen).map(|way| way.source).ok_or(Errno::NETUNREACH)
    }

    /// Whether a socket may be bound to `local`.
    pub(super) fn check_local(&self, local: IpAddr) -> Result<(), Errno> {
        if zone::is_any(local) || local.is_multicast() || self.ip.is_ours(local) {
            Ok(())
        } else {
            Err(Errno::ADDRNOTAVAIL)
        }
    }
}

/// Small pages that transmission leaves for answers and for what is received.
const TX_RESERVE: usize = 64;

/// As [`TX_RESERVE`], of large ones, where frames are larger than a small one.
const TX_RESERVE_LARGE: usize = 4;

/// Why a packet could not be built.
#[derive(Debug)]
pub(super) enum Failure {
    NoPages,
    Corrupt(PeerCorrupt),
}

impl From<proto::nic::pool::NoPages> for Failure {
    fn from(_: proto::nic::pool::NoPages) -> Self {
        Failure::NoPages
    }
}

impl From<PeerCorrupt> for Failure {
    fn from(rule: PeerCorrupt) -> Self {
        Failure::Corrupt(rule)
    }
}
