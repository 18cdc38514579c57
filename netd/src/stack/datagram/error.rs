//! What became of datagrams that were sent: for the next call on their socket, and for those who ask for
//! more (IP_RECVERR).

use super::super::Stack;
use super::super::socket::{Kind, Udp};
use crate::frame::Frame;
use crate::wire::drop_reason::DropReason;
use crate::wire::quote::{Complaint, Report};
use crate::wire::udp::HEADER_LEN as UDP_LEN;
use core::net::SocketAddr;
use proto::Instant;
use proto::arena::record::{ErrorNote, Header, NOTE_BYTES, Said, mark};
use proto::form::Form;
use proto::id::{Epoch, SlotIndex};
use proto::nic::packet_buf::PacketBuf;
use proto::shm::Memory;
use rustix::io::Errno;

/// Bytes of a datagram that are told of: what IPv6 has an error quote at least (RFC 4443 §2.4 (c)).
const KNOWN_MAX: usize = 1232;

impl<M: Memory + Clone> Stack<M> {
    /// An ICMP error about a datagram of the socket `index`. `quoting` is the message, or the packet itself.
    pub(in super::super) fn report_to_datagrams(
        &mut self,
        now: Instant,
        index: u32,
        report: &Report,
        quoting: Option<&Frame<M>>,
    ) {
        let (errno, hard) = meaning(report.complaint, report.quote.pair.src().is_ipv4());
        let Some(socket) = self.sockets.get_mut(index) else { return };
        let connected = !socket.opening.remote.ip().is_unspecified();
        let Kind::Udp(udp) = &mut socket.kind else { return };
        let told = udp.wished.as_ref().is_some_and(|wished| wished.wishes.errors);
        // Linux: who did not ask for all of them hears of those that last, and of a remote of its own.
        let heard = told || hard && connected;
        if !heard {
            return;
        }
        udp.error = errno.raw_os_error() as u8;
        self.touch(index);
        if let Some(quoting) = quoting.filter(|_| told) {
            // One that finds no room is lost, as in a kernel.
            let _ = self.queue_error(now, index, errno, report, quoting);
        }
    }

    /// A record that says what became of a datagram, with what is quoted of it.
    fn queue_error(
        &mut self,
        now: Instant,
        index: u32,
        errno: Errno,
        report: &Report,
        quoting: &Frame<M>,
    ) -> Result<(), DropReason> {
        let (quote, said) = (&report.quote, &report.said);
        let v4 = quote.pair.src().is_ipv4();
        let note = ErrorNote {
            errno: errno.raw_os_error() as u8,
            origin: if v4 { ErrorNote::ICMP } else { ErrorNote::ICMP6 },
            kind: said.kind,
            code: said.code,
            info: said.info,
            offender: said.offender,
        };
        let udp = self.sockets.get(index).is_some_and(|socket| socket.opening.form == Form::Udp);
        let from = quote.transport_at + if udp { UDP_LEN } else { 0 };
        let known = quoting.buf.len().saturating_sub(from).min(KNOWN_MAX);
        let built = PacketBuf::alloc(quoting.buf.pool(), NOTE_BYTES + known, 0).and_then(|mut record| {
            record.write(0, &note.to_bytes())?;
            record.write_from(NOTE_BYTES, &quoting.buf, from, known)?;
            Ok(record)
        });
        let payload = built.map_err(|_| DropReason::NoMem)?;
        let header = Header {
            len: (NOTE_BYTES + known) as u32,
            remote: SocketAddr::new(quote.pair.dst(), quote.dst_port()),
            local: SocketAddr::new(quote.pair.src(), quote.src_port()),
            slot: SlotIndex(0),
            epoch: Epoch(0),
            said: Said { marks: mark::ERROR, at: now, ..Said::default() },
        };
        self.deliver_record(index, &header, Some(&Frame::new(payload)))?;
        if let Some(Kind::Udp(Udp { joint, .. })) = self.sockets.get_mut(index).map(|s| &mut s.kind) {
            *joint = None;
        }
        Ok(())
    }
}

/// The errno of an error, and whether it lasts: Linux's icmp_err_convert and icmpv6_err_convert.
const fn meaning(complaint: Complaint, v4: bool) -> (Errno, bool) {
    match complaint {
        Complaint::Network => (Errno::NETUNREACH, false),
        Complaint::Host | Complaint::Expired => (Errno::HOSTUNREACH, false),
        Complaint::Prohibited if v4 => (Errno::HOSTUNREACH, true),
        Complaint::Prohibited => (Errno::ACCESS, true),
        Complaint::Protocol if v4 => (Errno::NOPROTOOPT, true),
        Complaint::Protocol | Complaint::Problem => (Errno::PROTO, true),
        Complaint::Port => (Errno::CONNREFUSED, true),
        Complaint::TooBig { .. } => (Errno::MSGSIZE, true),
    }
}
