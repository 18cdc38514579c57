//! ICMP of both families: answers to echo requests, the errors we send, and those we hear (RFC 792,
//! RFC 1122 §3.2.2, RFC 4443).

use super::{Ip, input::Received};
use crate::counters::{Counter, Counters};
use crate::frame::Frame;
use crate::link::HEADROOM;
use crate::wire::address::AddressPair;
use crate::wire::checksum::Sum;
use crate::wire::drop_reason::DropReason;
use crate::wire::extension::Problem;
use crate::wire::icmpv4::{self, Icmpv4Message, UnreachableCode};
use crate::wire::icmpv6::{self, CODE_PORT, CODE_REASSEMBLY, Icmpv6Message};
use crate::wire::ipv4::{IpProtocol, Ipv4Header};
use crate::wire::ipv6::Ipv6Header;
use crate::wire::quote::{Complaint, Quote, Report, Said};
use core::net::IpAddr;
use core::time::Duration;
use proto::Instant;
use proto::nic::packet_buf::PacketBuf;
use proto::shm::Memory;
use proto::zone;

/// Errors sent per second at most: RFC 1812 §4.3.2.8, Linux `icmp_msgs_per_sec`.
pub const ERRORS_PER_SECOND: u32 = 1000;
/// Errors sent at once at most: Linux `icmp_msgs_burst`.
pub const ERRORS_BURST: u32 = 50;

/// A bucket of tokens for the errors we send.
#[derive(Debug)]
pub struct ErrorLimit {
    /// Errors per second at most; not 0.
    pub per_second: u32,
    /// Errors at once at most.
    pub burst: u32,
    tokens: u32,
    filled: Instant,
}

impl Default for ErrorLimit {
    fn default() -> Self {
        ErrorLimit {
            per_second: ERRORS_PER_SECOND,
            burst: ERRORS_BURST,
            tokens: ERRORS_BURST,
            filled: Instant::ZERO,
        }
    }
}

impl ErrorLimit {
    fn allow(&mut self, now: Instant) -> bool {
        let interval = Duration::from_secs(1) / self.per_second;
        let fresh = now.since(self.filled).as_nanos() / interval.as_nanos();
        if fresh > 0 {
            self.tokens = self.tokens.saturating_add(u32::try_from(fresh).unwrap_or(u32::MAX));
            self.filled = now;
        }
        self.tokens = self.tokens.min(self.burst);
        let allowed = self.tokens > 0;
        self.tokens -= u32::from(allowed);
        allowed
    }
}

/// What is the matter with a packet that somebody sent us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nobody has its port.
    Port,
    /// We have no such protocol; the number stands there.
    Protocol {
        /// From the start of the packet.
        at: u32,
    },
    /// The rest of its fragments did not come.
    Reassembly,
    /// A header that can't be (IPv6).
    Header(Problem),
}

impl Fault {
    /// As ICMP for IPv4 says it; `None` where it has no word for it.
    const fn v4(self) -> Option<Icmpv4Message> {
        Some(match self {
            Fault::Port => Icmpv4Message::Unreachable { code: UnreachableCode::PORT, next_hop_mtu: 0 },
            Fault::Protocol { .. } => {
                Icmpv4Message::Unreachable { code: UnreachableCode::PROTOCOL, next_hop_mtu: 0 }
            }
            Fault::Reassembly => Icmpv4Message::TimeExceeded { code: 1 },
            Fault::Header(_) => return None,
        })
    }

    /// As ICMP for IPv6 says it.
    fn v6(self) -> Icmpv6Message {
        let problem = |problem: Problem| Icmpv6Message::ParameterProblem {
            code: problem.code,
            pointer: problem.pointer,
        };
        match self {
            Fault::Port => Icmpv6Message::Unreachable { code: CODE_PORT },
            // RFC 8200 §4: code 1, unrecognised next header.
            Fault::Protocol { at } => problem(Problem::next_header(at)),
            Fault::Reassembly => Icmpv6Message::TimeExceeded { code: CODE_REASSEMBLY },
            Fault::Header(wrong) => problem(wrong),
        }
    }
}

/// What came of an ICMP message.
#[derive(Debug)]
pub enum Heard {
    /// It was answered, or taken in.
    Done,
    /// It reports an error to a transport; the frame is pulled up to what it quotes.
    Error(Report),
    /// It was neighbour discovery's: a neighbour may have answered, an address may have come or gone.
    Neighbours,
}

/// A message of either family.
#[derive(Debug, Clone, Copy)]
enum Message {
    V4(Icmpv4Message),
    V6(Icmpv6Message),
}

impl<M: Memory + Clone> Ip<M> {
    /// An ICMP message for us: answered, taken in, or returned when it reports an error to a transport.
    ///
    /// # Errors
    /// The reason why it was dropped.
    pub fn receive_icmp(
        &mut self,
        now: Instant,
        received: Received<'_, M>,
        counters: &mut Counters,
    ) -> Result<Heard, DropReason> {
        counters.count(Counter::IcmpInMsgs);
        match received.protocol {
            IpProtocol::ICMPV6 => self.receive_icmpv6(now, received, counters),
            _ => self.receive_icmpv4(now, received, counters),
        }
    }

    fn receive_icmpv4(
        &mut self,
        now: Instant,
        received: Received<'_, M>,
        counters: &mut Counters,
    ) -> Result<Heard, DropReason> {
        let len = received.frame.buf.len();
        let message = Icmpv4Message::parse(received.frame.head(), len)?.verify(received.frame.sum())?;
        let said = said(&received, message.complaint());
        received.frame.pull(icmpv4::HEADER_LEN);
        match message {
            Icmpv4Message::EchoRequest { ident, sequence } => {
                let reply = Icmpv4Message::EchoReply { ident, sequence };
                self.echo(now, &received, Message::V4(reply), counters)
            }
            message if message.quotes_a_packet() => {
                let quote = Quote::parse_v4(received.frame.head())?;
                report(message.complaint(), quote, said)
            }
            _ => Err(DropReason::IcmpUnhandled),
        }
    }

    fn receive_icmpv6(
        &mut self,
        now: Instant,
        received: Received<'_, M>,
        counters: &mut Counters,
    ) -> Result<Heard, DropReason> {
        let (len, pair) = (received.frame.buf.len(), received.pair);
        let message = Icmpv6Message::parse(received.frame.head(), len, &pair)?;
        if let Icmpv6Message::Other { kind, .. } = *message.peek()
            && !message.peek().quotes_a_packet()
        {
            return self.receive_on_link(now, kind, &received, counters);
        }
        let message = message.verify(received.frame.sum())?;
        let said = said(&received, message.complaint());
        received.frame.pull(icmpv6::HEADER_LEN);
        match message {
            Icmpv6Message::EchoRequest { ident, sequence } => {
                let reply = Icmpv6Message::EchoReply { ident, sequence };
                self.echo(now, &received, Message::V6(reply), counters)
            }
            message if message.quotes_a_packet() => {
                let mut quote = Quote::parse_v6(received.frame.head())?;
                // Its addresses are of the link that the error came in by.
                if let (AddressPair::V6 { src, dst }, Some(zone)) = (&mut quote.pair, here(&received)) {
                    (*src, *dst) = (zone::with(*src, zone), zone::with(*dst, zone));
                }
                report(message.complaint(), quote, said)
            }
            _ => Err(DropReason::IcmpUnhandled),
        }
    }

    fn echo(
        &mut self,
        now: Instant,
        request: &Received<'_, M>,
        reply: Message,
        counters: &mut Counters,
    ) -> Result<Heard, DropReason> {
        // RFC 1122 §3.2.2.6, RFC 4443 §4.2: an echo to a group may be ignored, and is (no amplification).
        if request.to_group {
            return Err(DropReason::IcmpEchoGroup);
        }
        if self.ignores_echo[usize::from(request.pair.dst().is_ipv6())] {
            return Err(DropReason::IcmpUnhandled);
        }
        let (pair, payload) = (request.pair.reversed(), &request.frame.buf);
        let way = self.way(pair.dst(), Some(pair.src())).ok_or(DropReason::IpOutNoRoutes)?;
        let pool = self.link.interface(way.nic).expect("a way leaves by an interface").frames.clone();
        let sum = request.frame.sum();
        let mut packet = PacketBuf::alloc(&pool, payload.len(), HEADROOM).map_err(|_| DropReason::NoMem)?;
        packet.write_from(0, payload, 0, payload.len()).map_err(|_| DropReason::NoMem)?;
        self.send_icmp(now, &pair, reply, packet, sum, counters)?;
        Ok(Heard::Done)
    }

    /// Tells the sender of a packet that it was not delivered, where RFC 1122 §3.2.2 or RFC 4443 §2.4 and
    /// the limit allow it. `frame` is the packet, whatever of its headers was pulled.
    pub fn send_error(
        &mut self,
        now: Instant,
        pair: &AddressPair,
        frame: &Frame<M>,
        to_group: bool,
        fault: Fault,
        counters: &mut Counters,
    ) {
        let head = frame.packet_head();
        let allowed = match pair {
            AddressPair::V4 { .. } => {
                let Ok(header) = Ipv4Header::parse(head, usize::MAX) else { return };
                let payload = head.get(usize::from(header.header_len)..).unwrap_or(&[]);
                let allowed = icmpv4::error_is_allowed(&header, payload, to_group);
                fault.v4().filter(|_| allowed).map(|message| (Message::V4(message), icmpv4::QUOTE_LEN_MAX))
            }
            AddressPair::V6 { .. } => {
                let Ok(header) = Ipv6Header::parse(head, usize::MAX) else { return };
                let even_so = matches!(fault, Fault::Header(Problem { to_groups: true, .. }));
                let allowed = icmpv6::error_is_allowed(&header, head, to_group, even_so);
                allowed.then_some((Message::V6(fault.v6()), icmpv6::QUOTE_LEN_MAX))
            }
        };
        let Some((message, quote_max)) = allowed else { return };
        if !self.errors.allow(now) {
            return counters.drop(DropReason::IcmpRateLimit);
        }
        let mut answer = pair.reversed();
        if let AddressPair::V6 { src, dst } = &mut answer
            && src.is_multicast()
        {
            // A group is no source: RFC 4443 §2.2 (b).
            let Some(IpAddr::V6(own)) = self.way(IpAddr::V6(*dst), None).map(|way| way.source) else {
                return counters.drop(DropReason::IpOutNoRoutes);
            };
            *src = own;
        }
        let Some(way) = self.way(answer.dst(), Some(answer.src())) else {
            return counters.drop(DropReason::IpOutNoRoutes);
        };
        let pool = self.link.interface(way.nic).expect("a way leaves by an interface").frames.clone();
        let sent = match frame.quote(&pool, HEADROOM, quote_max) {
            Ok((quote, sum)) => self.send_icmp(now, &answer, message, quote, sum, counters),
            Err(_) => Err(DropReason::NoMem),
        };
        if let Err(reason) = sent {
            counters.drop(reason);
        }
    }

    fn send_icmp(
        &mut self,
        now: Instant,
        pair: &AddressPair,
        message: Message,
        mut payload: PacketBuf<M>,
        sum: Sum,
        counters: &mut Counters,
    ) -> Result<(), DropReason> {
        let way = self.way(pair.dst(), Some(pair.src())).ok_or(DropReason::IpOutNoRoutes)?;
        let mut bytes = [0; icmpv6::HEADER_LEN];
        let (written, protocol) = match message {
            Message::V4(message) => (message.emit(&mut bytes, sum), IpProtocol::ICMP),
            Message::V6(message) => (message.emit(&mut bytes, pair, sum, payload.len()), IpProtocol::ICMPV6),
        };
        payload
            .push(written)
            .and_then(|()| payload.write(0, &bytes[..written]))
            .map_err(|_| DropReason::NoMem)?;
        counters.count(Counter::IcmpOutMsgs);
        self.send(now, &way, pair, protocol, payload, counters);
        Ok(())
    }
}

/// The zone of the link that a packet came in by; none for loopback.
pub(super) fn here<M: Memory>(received: &Received<'_, M>) -> Option<u16> {
    (received.interface != super::LOOPBACK).then(|| zone::of_interface(received.interface))
}

fn report(complaint: Option<Complaint>, quote: Quote, said: Said) -> Result<Heard, DropReason> {
    let complaint = complaint.ok_or(DropReason::IcmpUnhandled)?;
    Ok(Heard::Error(Report { complaint, quote, said }))
}

/// An error as it came; its header is not pulled yet.
fn said<M: Memory>(received: &Received<'_, M>, complaint: Option<Complaint>) -> Said {
    let offender = received.pair.src();
    let [kind, code, _, _, rest @ ..] = received.frame.head().first_chunk::<8>().copied().unwrap_or_default();
    let info = match complaint {
        Some(Complaint::TooBig { mtu }) => mtu.into(),
        Some(Complaint::Problem) if offender.is_ipv4() => rest[0].into(),
        Some(Complaint::Problem) => u32::from_be_bytes(rest),
        _ => 0,
    };
    Said { kind, code, info, offender }
}
