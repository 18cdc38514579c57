//! What raw, ping and packet sockets send: packets whose transport's header, or more, is the client's.

use super::super::Stack;
use super::super::offload::Offload;
use super::super::socket::{Kind, Udp};
use super::super::transmit::Failure;
use super::output::{Course, Unsent};
use super::packet::number_of;
use crate::ip::header_len;
use crate::link::HEADROOM;
use crate::wire::checksum::{Sum, pseudo_header};
use crate::wire::drop_reason::DropReason;
use crate::wire::ipv4::{self, IpProtocol};
use crate::wire::ipv6;
use core::net::IpAddr;
use proto::Instant;
use proto::arena::record::{HEADER_SIZE, Header, mark};
use proto::control::operations::SocketRef;
use proto::form::Form;
use proto::nic::packet_buf::PacketBuf;
use proto::shm::Memory;
use rustix::io::Errno;

/// Where the checksum of an ICMP message stands.
const ICMP_SUM_AT: usize = 2;
/// Where an echo's identifier does.
const IDENT_AT: usize = 4;

impl<M: Memory + Clone> Stack<M> {
    /// One record of a socket that is not UDP's, as a packet. What can't be sent is counted and done with.
    pub(super) fn send_built_record(
        &mut self,
        now: Instant,
        index: u32,
        at: SocketRef,
        start: u64,
        header: &Header,
        room: &mut [usize],
    ) -> Result<(), Unsent> {
        let opening = &self.sockets.get(index).expect("the caller has found it").opening;
        let (form, port) = (opening.form, opening.local.port());
        let course = match form {
            Form::Packet { .. } => None,
            _ => match self.course(index, header) {
                None => {
                    self.counters.drop(DropReason::IpOutNoRoutes);
                    return Ok(());
                }
                course => course,
            },
        };
        let nic = match &course {
            Some(course) => Some(course.way.nic),
            None if header.slot.0 != 0 => number_of(header.slot.0),
            None => number_of(port.into()),
        };
        let Some(nic) = nic.filter(|nic| self.ip.link.interface(*nic).is_some()) else {
            self.counters.drop(DropReason::DevDown);
            self.fail_datagram(index, Errno::NXIO);
            return Ok(());
        };
        if !self.may_send(nic, room) {
            return Err(Unsent::Stopped(nic));
        }
        let pool = self.ip.link.interface(nic).expect("looked at above").frames.clone();
        let len = header.len as usize;
        let copied = PacketBuf::alloc(&pool, len, HEADROOM).map_err(Failure::from).and_then(|mut packet| {
            self.copy_from_arena(at, start + HEADER_SIZE as u64, len, &mut packet, Offload::NONE)?;
            Ok(packet)
        });
        let packet = match copied {
            Ok(packet) => packet,
            Err(Failure::NoPages) => return Err(Unsent::Stopped(nic)),
            Err(Failure::Corrupt(rule)) => return Err(Unsent::Corrupt(rule)),
        };
        room[self.place_of(nic)] -= 1;
        match (form, course) {
            (Form::Packet { cooked, .. }, _) => self.send_frame(nic, header, cooked, packet),
            (form, Some(course)) => {
                if let Err(errno) = self.send_with_own_header(now, index, form, &course, header, packet) {
                    self.counters.drop(DropReason::PktTooBig);
                    self.fail_datagram(index, errno);
                }
            }
            (_, None) => unreachable!("all others have a course"),
        }
        Ok(())
    }

    /// Completes what the client left to the stack, and sends it.
    fn send_with_own_header(
        &mut self,
        now: Instant,
        index: u32,
        form: Form,
        course: &Course,
        header: &Header,
        mut packet: PacketBuf<M>,
    ) -> Result<(), Errno> {
        let (way, pair) = (&course.way, &course.pair);
        let v6 = pair.dst().is_ipv6();
        let protocol = match form {
            Form::Raw { protocol } => IpProtocol(protocol),
            _ if v6 => IpProtocol::ICMPV6,
            _ => IpProtocol::ICMP,
        };
        // raw(7): IPPROTO_RAW implies IP_HDRINCL.
        if matches!(form, Form::Raw { protocol }
            if protocol == u8::MAX || header.is(mark::WITH_HEADER))
        {
            if packet.len() > usize::from(way.mtu) {
                return Err(Errno::MSGSIZE);
            }
            match v6 {
                false => self.complete_v4(now, course, &mut packet)?,
                true => complete_v6(&mut packet)?,
            }
            self.ip.send_whole(now, way, packet, &mut self.counters);
            return Ok(());
        }
        let whole = packet.len() + header_len(pair.dst());
        let limit = if v6 { packet.len() } else { whole };
        if limit > usize::from(u16::MAX) || header.is(mark::WHOLE) && whole > usize::from(way.mtu) {
            return Err(Errno::MSGSIZE);
        }
        let socket = self.sockets.get(index).expect("the caller has found it");
        let wished = match &socket.kind {
            Kind::Udp(Udp { wished: Some(wished), .. }) => wished.wishes.checksum_at,
            _ => None,
        };
        let sum_at = match form {
            Form::Ping => {
                check_echo(&mut packet, v6, course.src_port)?;
                Some(ICMP_SUM_AT)
            }
            // RFC 3542 §3.1: the stack sums what is ICMPv6's.
            _ if v6 && protocol == IpProtocol::ICMPV6 => Some(ICMP_SUM_AT),
            _ if v6 => wished.map(usize::from),
            _ => None,
        };
        if let Some(sum_at) = sum_at {
            let len = packet.len();
            if len < sum_at + 2 {
                return Err(Errno::INVAL);
            }
            packet.write(sum_at, &[0; 2]).map_err(|_| Errno::NOBUFS)?;
            let pseudo = if v6 { pseudo_header(pair, protocol.0, len as u32) } else { Sum::EMPTY };
            let mut sum = pseudo;
            packet.for_each_chunk(0, len, |chunk| sum = sum.then(chunk));
            let field = if sum.field() == 0 && v6 { 0xffff } else { sum.field() };
            packet.write(sum_at, &field.to_be_bytes()).map_err(|_| Errno::NOBUFS)?;
        }
        self.send_on(now, way, pair, protocol, packet);
        Ok(())
    }

    /// raw(7), IP_HDRINCL: the total length and the checksum are the stack's, the source and the number
    /// where they are zero.
    fn complete_v4(&mut self, now: Instant, course: &Course, packet: &mut PacketBuf<M>) -> Result<(), Errno> {
        let mut bytes = [0; ipv4::HEADER_LEN_MAX];
        let got = packet.read_up_to(0, &mut bytes);
        let header_len = usize::from(bytes[0] & 0xf) * 4;
        if bytes[0] >> 4 != 4 || header_len < ipv4::HEADER_LEN || header_len > got {
            return Err(Errno::INVAL);
        }
        bytes[2..4].copy_from_slice(&(packet.len() as u16).to_be_bytes());
        if bytes[4..6] == [0; 2] {
            bytes[4..6].copy_from_slice(&self.ip.number_for(now, &course.pair).to_be_bytes());
        }
        if let (IpAddr::V4(source), [0, 0, 0, 0]) =
            (course.pair.src(), [bytes[12], bytes[13], bytes[14], bytes[15]])
        {
            bytes[12..16].copy_from_slice(&source.octets());
        }
        bytes[10..12].fill(0);
        let field = Sum::of(&bytes[..header_len]).field();
        bytes[10..12].copy_from_slice(&field.to_be_bytes());
        packet.write(0, &bytes[..header_len]).map_err(|_| Errno::NOBUFS)
    }
}

/// IPV6_HDRINCL: the length is the stack's.
fn complete_v6<M: Memory>(packet: &mut PacketBuf<M>) -> Result<(), Errno> {
    let mut bytes = [0; ipv6::HEADER_LEN];
    if packet.read_up_to(0, &mut bytes) < bytes.len() || bytes[0] >> 4 != 6 {
        return Err(Errno::INVAL);
    }
    let len = (packet.len() - bytes.len()) as u16;
    packet.write(4, &len.to_be_bytes()).map_err(|_| Errno::NOBUFS)
}

/// icmp(7): a ping socket sends echo requests alone, and its identifier is its port.
fn check_echo<M: Memory>(packet: &mut PacketBuf<M>, v6: bool, ident: u16) -> Result<(), Errno> {
    let mut bytes = [0; 8];
    let request = if v6 { 128 } else { 8 };
    if packet.read_up_to(0, &mut bytes) < bytes.len() || bytes[..2] != [request, 0] {
        return Err(Errno::INVAL);
    }
    packet.write(IDENT_AT, &ident.to_be_bytes()).map_err(|_| Errno::NOBUFS)
}
