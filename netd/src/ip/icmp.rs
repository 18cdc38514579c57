//! ICMP for IPv4: answers to echo requests, and the errors we send (RFC 792, RFC 1122 §3.2.2).

use super::{Ip, Received, TTL_DEFAULT};
use crate::counters::{Counter, Counters};
use crate::link::HEADROOM;
use crate::wire::address::AddressPair;
use crate::wire::checksum::Sum;
use crate::wire::drop_reason::DropReason;
use crate::wire::icmpv4::{HEADER_LEN, Icmpv4Message, QUOTE_LEN_MAX, Quote, error_is_allowed, quote_len};
use crate::wire::ipv4::{IpProtocol, Ipv4Header};
use core::net::IpAddr;
use core::time::Duration;
use proto::Instant;
use proto::nic::packet_buf::PacketBuf;
use proto::shm::Memory;

/// Errors sent per second at most: RFC 1812 §4.3.2.8, Linux `icmp_msgs_per_sec`.
pub const ERRORS_PER_SECOND: u32 = 1000;
/// Errors sent at once at most: Linux `icmp_msgs_burst`.
pub const ERRORS_BURST: u32 = 50;

/// A bucket of tokens for the errors we send.
#[derive(Debug)]
pub(super) struct ErrorLimit {
    tokens: u32,
    filled: Instant,
}

impl Default for ErrorLimit {
    fn default() -> Self {
        ErrorLimit { tokens: ERRORS_BURST, filled: Instant::ZERO }
    }
}

impl ErrorLimit {
    fn allow(&mut self, now: Instant) -> bool {
        let interval = Duration::from_secs(1) / ERRORS_PER_SECOND;
        let fresh = now.since(self.filled).as_nanos() / interval.as_nanos();
        if fresh > 0 {
            self.tokens =
                self.tokens.saturating_add(u32::try_from(fresh).unwrap_or(u32::MAX)).min(ERRORS_BURST);
            self.filled = now;
        }
        let allowed = self.tokens > 0;
        self.tokens -= u32::from(allowed);
        allowed
    }
}

/// An ICMP error about a packet of ours, for the transport that sent it.
#[derive(Debug, Clone, Copy)]
pub struct Report {
    /// What it says.
    pub message: Icmpv4Message,
    /// The packet it speaks of.
    pub quote: Quote,
}

impl<M: Memory + Clone> Ip<M> {
    /// An ICMP message for us: answered, or returned when it reports an error to a transport.
    ///
    /// # Errors
    /// The reason why it was dropped.
    pub fn receive_icmp(
        &mut self,
        now: Instant,
        mut received: Received<M>,
        counters: &mut Counters,
    ) -> Result<Option<Report>, DropReason> {
        counters.count(Counter::IcmpInMsgs);
        let len = received.frame.buf.len();
        let message = Icmpv4Message::parse(received.frame.head(), len)?.verify(received.frame.sum())?;
        received.frame.pull(HEADER_LEN);
        match message {
            Icmpv4Message::EchoRequest { ident, sequence } => {
                // RFC 1122 §3.2.2.6: an echo to a group may be ignored, and is (no amplification).
                if received.to_group {
                    return Err(DropReason::IcmpEchoGroup);
                }
                let pair = received.header.pair().reversed();
                self.echo(now, &pair, ident, sequence, &received.frame.buf, counters)?;
                Ok(None)
            }
            message if message.quotes_a_packet() => {
                let quote = Quote::parse(received.frame.head())?;
                Ok(Some(Report { message, quote }))
            }
            _ => Err(DropReason::IcmpUnhandled),
        }
    }

    fn echo(
        &mut self,
        now: Instant,
        pair: &AddressPair,
        ident: u16,
        sequence: u16,
        payload: &PacketBuf<M>,
        counters: &mut Counters,
    ) -> Result<(), DropReason> {
        let way = self.way(pair.dst(), Some(pair.src())).ok_or(DropReason::IpOutNoRoutes)?;
        let pool = self.link.interface(way.nic).expect("a way leaves by an interface").frames.clone();
        let mut sum = Sum::of(&[]);
        payload.for_each_chunk(0, payload.len(), |chunk| sum = sum.then(chunk));
        let mut reply = PacketBuf::alloc(&pool, payload.len(), HEADROOM).map_err(|_| DropReason::NoMem)?;
        reply.write_from(0, payload, 0, payload.len()).map_err(|_| DropReason::NoMem)?;
        self.send_icmp(now, pair, &Icmpv4Message::EchoReply { ident, sequence }, reply, sum, counters)
    }

    /// Tells the sender of a packet that it was not delivered, where RFC 1122 §3.2.2 and the limit
    /// allow it. `head` is the packet from its IP header on, as much of it as is at hand.
    pub fn send_error(
        &mut self,
        now: Instant,
        header: &Ipv4Header,
        head: &[u8],
        to_group: bool,
        message: &Icmpv4Message,
        counters: &mut Counters,
    ) {
        let payload = head.get(usize::from(header.header_len)..).unwrap_or(&[]);
        if !error_is_allowed(header, payload, to_group) {
            return;
        }
        if !self.errors.allow(now) {
            return counters.drop(DropReason::IcmpRateLimit);
        }
        let quote = &head[..quote_len(usize::from(header.total_len)).min(head.len()).min(QUOTE_LEN_MAX)];
        let pair = header.pair().reversed();
        let Some(way) = self.way(pair.dst(), Some(pair.src())) else {
            return counters.drop(DropReason::IpOutNoRoutes);
        };
        let pool = self.link.interface(way.nic).expect("a way leaves by an interface").frames.clone();
        let built = PacketBuf::alloc(&pool, quote.len(), HEADROOM).and_then(|mut packet| {
            packet.write(0, quote)?;
            Ok(packet)
        });
        let sent = match built {
            Ok(packet) => self.send_icmp(now, &pair, message, packet, Sum::of(quote), counters),
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
        message: &Icmpv4Message,
        mut payload: PacketBuf<M>,
        sum: Sum,
        counters: &mut Counters,
    ) -> Result<(), DropReason> {
        let IpAddr::V4(_) = pair.dst() else { return Err(DropReason::UnhandledProto) };
        let way = self.way(pair.dst(), Some(pair.src())).ok_or(DropReason::IpOutNoRoutes)?;
        let mut bytes = [0; HEADER_LEN];
        message.emit(&mut bytes, sum);
        payload.push(HEADER_LEN).and_then(|()| payload.write(0, &bytes)).map_err(|_| DropReason::NoMem)?;
        counters.count(Counter::IcmpOutMsgs);
        self.send(now, &way, pair, IpProtocol::ICMP, TTL_DEFAULT, payload, counters);
        Ok(())
    }
}
