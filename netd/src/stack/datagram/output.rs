//! What sockets of datagrams have to send, as packets.

use super::super::offload::Offload;
use super::super::socket::{Kind, Socket};
use super::super::transmit::{Failure, QUANTUM, Turn};
use super::super::{LOOPBACK, Stack};
use crate::counters::Counter;
use crate::ip::{Way, header_len};
use crate::link::HEADROOM;
use crate::socket::tx::for_each_piece;
use crate::wire::address::AddressPair;
use crate::wire::drop_reason::DropReason;
use crate::wire::ipv4::IpProtocol;
use crate::wire::udp::{HEADER_LEN as UDP_LEN, UdpHeader};
use core::net::{IpAddr, SocketAddr};
use proto::arena::line::want;
use proto::arena::record::{HEADER_SIZE, Header, Said, interface_index, mark, record_size};
use proto::control::operations::SocketRef;
use proto::form::Form;
use proto::id::SlotIndex;
use proto::nic::packet_buf::PacketBuf;
use proto::shm::Memory;
use proto::zone;
use proto::{Instant, PeerCorrupt};
use rustix::io::Errno;

/// Hops of a datagram to a group, unless its sender says otherwise: RFC 1112 §6.1, RFC 3493 §5.2.
const GROUP_HOPS: u8 = 1;

/// Why a datagram was not sent and is still there.
#[derive(Debug)]
pub(super) enum Unsent {
    /// That interface has no room or no pages.
    Stopped(u16),
    /// The client broke a rule.
    Corrupt(PeerCorrupt),
}

/// Where the datagrams of one record go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Course {
    pub way: Way,
    pub pair: AddressPair,
    pub src_port: u16,
    dst_port: u16,
    /// They have a checksum.
    summed: bool,
}

impl<M: Memory + Clone> Stack<M> {
    /// Sends what a socket of datagrams has to send, as far as there is room.
    pub(in super::super) fn transmit_udp(&mut self, now: Instant, index: u32, room: &mut [usize]) -> Turn {
        let mut before = None;
        for _ in 0..QUANTUM {
            let socket = self.sockets.get(index).expect("it stands in the list");
            let (Kind::Udp(udp), Some(at)) = (&socket.kind, socket.at) else { return Turn::Done };
            let (start, written, form) = (udp.sent, socket.client.written, socket.opening.form);
            if written == start {
                return Turn::Done;
            }
            let header = match self.next_record(at, start, written) {
                Ok(header) => header,
                Err(rule) => return self.corrupt_stream(index, at, rule),
            };
            let sent = match form {
                Form::Udp => match self.course_like(&mut before, index, &header) {
                    Some(course) => self.send_record(now, index, (at, start), &header, &course, room),
                    None => {
                        self.counters.drop(DropReason::IpOutNoRoutes);
                        Ok(())
                    }
                },
                _ => self.send_built_record(now, index, at, start, &header, room),
            };
            match sent {
                Err(Unsent::Stopped(nic)) => return Turn::Stopped(nic),
                Err(Unsent::Corrupt(rule)) => return self.corrupt_stream(index, at, rule),
                Ok(()) => {}
            }
            let socket = self.sockets.get_mut(index).expect("looked at above");
            if let Kind::Udp(udp) = &mut socket.kind {
                udp.sent += record_size(header.len as usize) as u64;
                udp.cut = 0;
            }
        }
        Turn::Yield
    }

    /// The client broke a rule: its session ends, and what it wrote here is not looked at again.
    fn corrupt_stream(&mut self, index: u32, at: SocketRef, rule: PeerCorrupt) -> Turn {
        self.batch.corrupt.push((at.session, rule));
        if let Some(Socket { kind: Kind::Udp(udp), client, .. }) = self.sockets.get_mut(index) {
            udp.sent = client.written;
        }
        Turn::Done
    }

    /// The header of the record at `start`, all of which lies before `written`.
    fn next_record(&self, at: SocketRef, start: u64, written: u64) -> Result<Header, PeerCorrupt> {
        const SHORT: PeerCorrupt = PeerCorrupt::new("a record longer than what was written");
        if written - start < HEADER_SIZE as u64 {
            return Err(SHORT);
        }
        let header = self.read_header(at, start)?.ok_or(SHORT)?;
        let end = start + record_size(header.len as usize) as u64;
        if end <= written { Ok(header) } else { Err(SHORT) }
    }

    fn read_header(&self, at: SocketRef, offset: u64) -> Result<Option<Header>, PeerCorrupt> {
        let session = self.sessions.get(&at.session).expect("a place lies in a session");
        let mut bytes = [0; HEADER_SIZE];
        let mut done = 0;
        for_each_piece(session, at.slot, offset, HEADER_SIZE, |from, piece| {
            session.memory.read(from, &mut bytes[done..done + piece]);
            done += piece;
        })?;
        Ok(Header::from_bytes(&bytes))
    }

    /// One record of a datagram socket's send stream, as packets: one, or as many as its segments say
    /// (UDP_SEGMENT). What can't be sent is counted and done with, as a kernel does it.
    fn send_record(
        &mut self,
        now: Instant,
        index: u32,
        (at, start): (SocketRef, u64),
        header: &Header,
        course: &Course,
        room: &mut [usize],
    ) -> Result<(), Unsent> {
        let len = header.len as usize;
        let segment = if header.said.segment == 0 { len } else { header.said.segment.into() };
        let most = UDP_LEN + segment.min(len);
        let whole = header_len(course.pair.dst()) + most;
        // RFC 791 §3.1 counts the header, RFC 8200 §3 does not.
        let limit = if course.pair.dst().is_ipv4() { whole } else { most };
        if limit > usize::from(u16::MAX) || header.is(mark::WHOLE) && whole > usize::from(course.way.mtu) {
            self.counters.drop(DropReason::PktTooBig);
            self.fail_datagram(index, Errno::MSGSIZE);
            return Ok(());
        }
        let nic = course.way.nic;
        loop {
            let socket = self.sockets.get_mut(index).expect("the caller has found it");
            let Kind::Udp(udp) = &mut socket.kind else { return Ok(()) };
            let done = udp.cut as usize;
            let piece = segment.min(len - done);
            if !self.may_send(nic, room) {
                return Err(Unsent::Stopped(nic));
            }
            let packet = match self.build_datagram(course, at, start + (HEADER_SIZE + done) as u64, piece) {
                Ok(packet) => packet,
                // Other interfaces' sockets may have what this one waits for.
                Err(Failure::NoPages) => return Err(Unsent::Stopped(nic)),
                Err(Failure::Corrupt(rule)) => return Err(Unsent::Corrupt(rule)),
            };
            room[self.place_of(nic)] -= 1;
            self.counters.count(Counter::UdpOutDatagrams);
            self.send_on(now, &course.way, &course.pair, IpProtocol::UDP, packet);
            if done + piece == len {
                return Ok(());
            }
            if let Some(Kind::Udp(udp)) = self.sockets.get_mut(index).map(|socket| &mut socket.kind) {
                udp.cut = (done + piece) as u32;
            }
        }
    }

    /// [`Stack::course`], or that of the record before, where this one differs in nothing that it follows
    /// from: nothing changes a way within a socket's turn.
    fn course_like(
        &self,
        before: &mut Option<(Header, Course)>,
        index: u32,
        header: &Header,
    ) -> Option<Course> {
        let said = Said { segment: 0, at: Instant::ZERO, ..header.said };
        let asked = Header { len: 0, said, ..*header };
        match before {
            Some((same, course)) if *same == asked => Some(*course),
            _ => {
                let course = self.course(index, header)?;
                *before = Some((asked, course));
                Some(course)
            }
        }
    }

    /// Where a record's datagrams go; `None` when there is no way that its socket may go.
    pub(super) fn course(&self, index: u32, header: &Header) -> Option<Course> {
        let socket = self.sockets.get(index).expect("the caller has found it");
        let (opening, may_tell_all) = (&socket.opening, socket.client.flags & want::BROADCAST != 0);
        let (bound, src_port) = (opening.local.ip(), opening.local.port());
        let remote = match header.remote.ip() {
            ip if ip.is_unspecified() => opening.remote,
            _ => header.remote,
        };
        // A datagram may name its own source (IP_PKTINFO), where the socket has none. A group is no source.
        let named = header.local.ip();
        let chosen = [bound, named].into_iter().find(|addr| !zone::is_any(*addr) && !addr.is_multicast());
        // IPV6_V6ONLY: such a socket speaks to no address of IPv4.
        let family = bound != IpAddr::V6(zone::ANY_V6) || remote.is_ipv6();
        let ours = family && chosen.is_none_or(|addr| addr == bound || self.ip.is_ours(addr));
        let ports = (src_port, remote.port());
        let way = ours.then(|| self.way_for(header, remote, chosen, ports)).flatten()?;
        if way.to_all && !may_tell_all {
            // EACCES was the client library's to say.
            return None;
        }
        let said = &header.said;
        let hop_limit = match said.hop_limit {
            0 if header.is(mark::HOPS_SAID) => 0,
            0 if remote.ip().is_multicast() => GROUP_HOPS,
            0 => way.hop_limit,
            hops => hops,
        };
        Some(Course {
            way: Way {
                hop_limit,
                tos: said.tos,
                here: (way.to_all || remote.ip().is_multicast()) && !header.is(mark::NOT_HERE),
                may_cut: header.is(mark::MAY_CUT),
                ..way
            },
            pair: AddressPair::new(way.source, remote.ip())?,
            src_port,
            dst_port: remote.port(),
            summed: !header.is(mark::UNSUMMED),
        })
    }

    /// The way to `remote`, by the interface that the record names if it names one.
    fn way_for(
        &self,
        header: &Header,
        remote: SocketAddr,
        chosen: Option<IpAddr>,
        ports: (u16, u16),
    ) -> Option<Way> {
        let way = |by: Option<u16>| self.ip.way_of(remote.ip(), chosen, by, ports);
        let named = |way: &Way| interface_index((way.nic != LOOPBACK).then_some(way.nic)) == header.slot.0;
        match header.slot {
            SlotIndex(0) => way(None),
            SlotIndex(1) => way(None).filter(named),
            SlotIndex(index) => {
                let nic = u16::try_from(index - 2).ok()?;
                way(Some(nic)).filter(named)
            }
        }
    }

    /// What became of a datagram, for whoever asks next.
    pub(super) fn fail_datagram(&mut self, index: u32, errno: Errno) {
        if let Some(Kind::Udp(udp)) = self.sockets.get_mut(index).map(|socket| &mut socket.kind) {
            udp.error = errno.raw_os_error() as u8;
            self.touch(index);
        }
    }

    fn build_datagram(
        &mut self,
        course: &Course,
        at: SocketRef,
        payload_at: u64,
        len: usize,
    ) -> Result<PacketBuf<M>, Failure> {
        let Course { way, pair, src_port, dst_port, summed } = course;
        let pool = self.ip.link.interface(way.nic).expect("a way leaves by an interface").frames.clone();
        let mut packet = PacketBuf::alloc(&pool, len, HEADROOM)?;
        // No device sums what leaves in fragments.
        let whole = header_len(pair.dst()) + UDP_LEN + len <= usize::from(way.mtu);
        let offload = if whole && *summed { self.offload(way) } else { Offload::NONE };
        let checksum = self.copy_from_arena(at, payload_at, len, &mut packet, offload)?;
        let mut bytes = [0; UDP_LEN];
        let payload_len = len as u16;
        let udp = UdpHeader { src_port: *src_port, dst_port: *dst_port, payload_len, summed: *summed };
        udp.emit(&mut bytes, pair, checksum);
        packet.prepend(&bytes)?;
        packet.marks = offload.marks(checksum, true);
        Ok(packet)
    }
}
