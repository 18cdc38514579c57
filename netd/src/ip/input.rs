//! A packet from the link: its headers are checked, fragments wait for the rest, and what is for a
//! transport of ours is handed up.

use super::icmp::Fault;
use super::reassembly::{Head, Key, Whole};
use super::route::AddrKind;
use super::{Ip, LOOPBACK};
use crate::counters::Counters;
use crate::filter::{Facts, Hook, Verdict};
use crate::frame::Frame;
use crate::link::{Packet, Version};
use crate::wire::address::AddressPair;
use crate::wire::drop_reason::DropReason;
use crate::wire::extension::{self, Bad, Chain, FragmentHeader, Problem};
use crate::wire::igmp::ALL_HOSTS;
use crate::wire::ipv4::{Fragment, IpProtocol, Ipv4Header};
use crate::wire::ipv6::{self, Ipv6Header};
use crate::wire::ndp::ALL_NODES;
use crate::wire::{ipv4, tcp, udp};
use core::net::{IpAddr, Ipv6Addr};
use proto::Instant;
use proto::shm::Memory;
use proto::zone;

/// A packet for a transport of ours, IP headers pulled.
#[derive(Debug)]
pub struct Received<'f, M: Memory> {
    /// Its ends.
    pub pair: AddressPair,
    /// What it carries.
    pub protocol: IpProtocol,
    /// The transport's header and payload.
    pub frame: &'f mut Frame<M>,
    /// Where it came in.
    pub interface: u16,
    /// Its destination is a group or a broadcast address.
    pub to_group: bool,
    /// Hops it could still have taken.
    pub hop_limit: u8,
    /// It came in fragments, or as a fragment that was the whole.
    pub fragmented: bool,
    /// Where the number of its protocol stands in the packet.
    pub next_header_at: u32,
}

/// How a packet came in.
#[derive(Clone, Copy)]
struct Came {
    /// In a frame to a group.
    to_group: bool,
    /// From this host itself, to a group or to all.
    own: bool,
}

/// What is known of a packet below its extension headers.
struct Below {
    interface: u16,
    to_group: bool,
    fragmented: bool,
}

impl<M: Memory + Clone> Ip<M> {
    /// A packet from the link: checked and, if it is for a transport of ours and whole, returned.
    ///
    /// # Errors
    /// The reason why it was dropped here.
    pub fn receive<'f>(
        &mut self,
        now: Instant,
        packet: Packet<'f, M>,
        counters: &mut Counters,
    ) -> Result<Option<Received<'f, M>>, DropReason> {
        packet.frame.begin_packet();
        if self.rules.is_unused() {
            return self.receive_family(now, packet, counters);
        }
        self.receive_by_rules(now, packet, counters)
    }

    #[cold]
    #[inline(never)]
    fn receive_by_rules<'f>(
        &mut self,
        now: Instant,
        packet: Packet<'f, M>,
        counters: &mut Counters,
    ) -> Result<Option<Received<'f, M>>, DropReason> {
        let (interface, frame) = (packet.interface, &*packet.frame);
        if self.is_filtered(Hook::Prerouting, interface, frame.head(), frame.buf.len()) {
            return Err(DropReason::NetfilterDrop);
        }
        // What is for another host goes by its hook too, though it goes no further.
        let passed_by = Facts::of(interface, frame.head(), frame.buf.len());
        match self.receive_family(now, packet, counters) {
            Err(DropReason::IpInNoRoute) => match passed_by.map(|f| self.rules.judge(Hook::Forward, &f)) {
                Some(Verdict::Drop) => Err(DropReason::NetfilterDrop),
                _ => Err(DropReason::IpInNoRoute),
            },
            Ok(Some(received)) => {
                let (head, len) = (received.frame.packet_head(), received.frame.packet_len());
                match self.is_filtered(Hook::Input, interface, head, len) {
                    true => Err(DropReason::NetfilterDrop),
                    false => Ok(Some(received)),
                }
            }
            other => other,
        }
    }

    #[inline]
    fn receive_family<'f>(
        &mut self,
        now: Instant,
        packet: Packet<'f, M>,
        counters: &mut Counters,
    ) -> Result<Option<Received<'f, M>>, DropReason> {
        let Packet { frame, interface, to_group, version, own } = packet;
        match version {
            Version::V4 => self.receive_v4(now, frame, interface, Came { to_group, own }, counters),
            Version::V6 => self.receive_v6(now, frame, interface, Came { to_group, own }, counters),
        }
    }

    /// Whether a rule at a hook drops the packet that begins with `head`; counts it where one matches.
    pub(super) fn is_filtered(&mut self, hook: Hook, interface: u16, head: &[u8], len: usize) -> bool {
        let facts = Facts::of(interface, head, len);
        facts.is_some_and(|facts| self.rules.judge(hook, &facts) == Verdict::Drop)
    }

    fn receive_v4<'f>(
        &mut self,
        now: Instant,
        frame: &'f mut Frame<M>,
        interface: u16,
        came: Came,
        counters: &mut Counters,
    ) -> Result<Option<Received<'f, M>>, DropReason> {
        let header = Ipv4Header::parse(frame.head(), frame.buf.len())?;
        let to_group = match interface {
            LOOPBACK => false,
            _ => self.check_v4(&header, interface, came)?,
        };
        frame.trim(usize::from(header.total_len));
        frame.pull(usize::from(header.header_len));
        let pair = header.pair();
        match header.fragment {
            None => Ok(Some(Received {
                pair,
                protocol: header.protocol,
                frame,
                interface,
                to_group,
                hop_limit: header.ttl,
                fragmented: false,
                next_header_at: 0,
            })),
            Some(part) => {
                let whole = self.take_v4(now, &header, part, frame, interface, counters)?;
                let Some(whole) = whole else { return Ok(None) };
                *frame = whole_v4(whole)?;
                // What was left open here is closed: a whole packet has no fragment's header.
                self.receive_v4(now, frame, interface, came, counters)
                    .map(|received| received.map(|received| Received { fragmented: true, ..received }))
            }
        }
    }

    /// Whether an IPv4 packet from a wire may come in; `true` when it is for a group or for all.
    fn check_v4(&self, header: &Ipv4Header, interface: u16, came: Came) -> Result<bool, DropReason> {
        if !header.source_is_possible() {
            return Err(DropReason::IpInvalidSource);
        }
        // RFC 1122 §3.2.1.3: our own address as a source from the wire is somebody's lie (LAND).
        if self.is_ours(IpAddr::V4(header.src)) && !came.own {
            return Err(DropReason::IpLocalSource);
        }
        // RFC 1122 §3.2.1.3 (a), (g): "this host" is no destination, and 127/8 never leaves a host.
        if header.dst.is_unspecified() || header.dst.is_loopback() {
            return Err(DropReason::IpInvalidDest);
        }
        match self.routes.kind(IpAddr::V4(header.dst)) {
            // RFC 1112 §7.2: what is for a group that nobody here has joined goes no further. Routers and
            // other hosts speak of groups to the groups themselves (RFC 2236 §3).
            AddrKind::Multicast if header.dst != ALL_HOSTS && header.protocol != IpProtocol::IGMP => {
                let there = self.link.interface(interface);
                match there.is_some_and(|there| there.listens_to(IpAddr::V4(header.dst))) {
                    true => Ok(true),
                    false => Err(DropReason::IpNotMember),
                }
            }
            AddrKind::Broadcast | AddrKind::Multicast => Ok(true),
            // RFC 1122 §3.3.6: a broadcast frame carries no unicast packet.
            AddrKind::Local if came.to_group => Err(DropReason::UnicastInL2Multicast),
            AddrKind::Local => Ok(false),
            AddrKind::Unicast => Err(DropReason::IpInNoRoute),
        }
    }

    fn take_v4(
        &mut self,
        now: Instant,
        header: &Ipv4Header,
        part: Fragment,
        frame: &mut Frame<M>,
        interface: u16,
        counters: &mut Counters,
    ) -> Result<Option<Whole<M>>, DropReason> {
        // RFC 1858 §3.2, RFC 3128 §3: the transport's header is in the first fragment or nowhere.
        let tiny = part.offset == 0 && header.payload_len() < header_len_min(header.protocol);
        if tiny || (part.offset == 8 && header.protocol == IpProtocol::TCP) {
            return Err(DropReason::FragTiny);
        }
        let pair = header.pair();
        let key = Key { pair, protocol: header.protocol, ident: header.ident.into(), interface };
        let head = (part.offset == 0).then(|| {
            let mut whole = vec![0; ipv4::HEADER_LEN];
            Ipv4Header::new(header.src, header.dst, header.protocol, header.ttl, 0).emit(&mut whole);
            let wire = frame.packet_head()[..usize::from(header.header_len)].to_vec();
            Head { wire, whole }
        });
        self.reassembly.take(now, key, part, head, frame.take_buf(), counters)
    }

    fn receive_v6<'f>(
        &mut self,
        now: Instant,
        frame: &'f mut Frame<M>,
        interface: u16,
        came: Came,
        counters: &mut Counters,
    ) -> Result<Option<Received<'f, M>>, DropReason> {
        let mut header = Ipv6Header::parse(frame.head(), frame.buf.len())?;
        let to_group = match interface {
            LOOPBACK => {
                (header.src, header.dst) =
                    (self.routes.own_zone(header.src), self.routes.own_zone(header.dst));
                header.dst.is_multicast()
            }
            _ => self.check_v6(&mut header, interface, came)?,
        };
        frame.trim(ipv6::HEADER_LEN + usize::from(header.payload_len));
        frame.pull(ipv6::HEADER_LEN);
        let below = Below { interface, to_group, fragmented: false };
        self.follow_chain(now, &header, frame, &below, counters)
    }

    /// Whether an IPv6 packet from a wire may come in; `true` when it is for a group. Its addresses get
    /// the interface's zone.
    fn check_v6(&self, header: &mut Ipv6Header, interface: u16, came: Came) -> Result<bool, DropReason> {
        let possible = |addr: &Ipv6Addr| {
            // RFC 4291 §2.5.3, §2.5.5.2, §2.5.6: loopback and mapped addresses stay in a host, and what
            // stands behind the prefix of a link-local address is zero.
            !addr.is_loopback() && addr.to_ipv4_mapped().is_none() && zone::of(addr) == 0
        };
        if header.src.is_multicast() || !possible(&header.src) {
            return Err(DropReason::IpInvalidSource);
        }
        if header.dst.is_unspecified() || !possible(&header.dst) {
            return Err(DropReason::IpInvalidDest);
        }
        let here = zone::of_interface(interface);
        header.src = zone::with(header.src, here);
        header.dst = zone::with(header.dst, here);
        // Our own address as a source from the wire is somebody's lie (LAND).
        if self.is_ours(IpAddr::V6(header.src)) && !came.own {
            return Err(DropReason::IpLocalSource);
        }
        if header.dst.is_multicast() {
            let wire = zone::without(header.dst);
            let listens = wire == ALL_NODES
                || self.link.interface(interface).is_some_and(|there| there.listens_to(IpAddr::V6(wire)));
            return if listens { Ok(true) } else { Err(DropReason::IpNotMember) };
        }
        if !self.is_ours(IpAddr::V6(header.dst)) {
            return Err(DropReason::IpInNoRoute);
        }
        match came.to_group {
            true => Err(DropReason::UnicastInL2Multicast),
            false => Ok(false),
        }
    }

    /// From the fixed header to the transport's.
    fn follow_chain<'f>(
        &mut self,
        now: Instant,
        header: &Ipv6Header,
        frame: &'f mut Frame<M>,
        below: &Below,
        counters: &mut Counters,
    ) -> Result<Option<Received<'f, M>>, DropReason> {
        let pair = header.pair();
        let (mut base, mut next, mut next_at) = (ipv6::HEADER_LEN as u32, header.next_header, NEXT_HEADER_AT);
        let mut fragmented = below.fragmented;
        loop {
            let walked = extension::walk(frame.head(), next, base, next_at);
            let chain = match walked {
                Ok(chain) if chain.len <= frame.buf.len() => chain,
                Ok(_) => return Err(DropReason::PktTooSmall),
                Err(bad) => return Err(self.refuse(now, &pair, frame, below, bad, counters)),
            };
            match chain.fragment {
                None => {
                    frame.pull(chain.len);
                    return Ok(Some(Received {
                        pair,
                        protocol: chain.protocol,
                        frame,
                        interface: below.interface,
                        to_group: below.to_group,
                        hop_limit: header.hop_limit,
                        fragmented,
                        next_header_at: chain.next_header_at,
                    }));
                }
                // One inside the other: nobody sends that in good faith.
                Some(_) if fragmented => return Err(DropReason::FragInvalid),
                // RFC 6946: an atomic fragment is a packet of its own, whatever waits under its number.
                Some(part) if part.is_atomic() => {
                    frame.pull(chain.len);
                    base += chain.len as u32;
                    (next, next_at, fragmented) = (chain.protocol, chain.next_header_at, true);
                }
                Some(part) => {
                    let whole = self.take_v6(now, &pair, &chain, part, frame, below, counters)?;
                    let Some(whole) = whole else { return Ok(None) };
                    let (header, whole) = whole_v6(whole, header)?;
                    *frame = whole;
                    let below = Below { fragmented: true, ..*below };
                    return self.follow_chain(now, &header, frame, &below, counters);
                }
            }
        }
    }

    /// RFC 8200 §4.5: a fragment that is not the whole packet.
    #[expect(clippy::too_many_arguments, reason = "what is known of a fragment")]
    fn take_v6(
        &mut self,
        now: Instant,
        pair: &AddressPair,
        chain: &Chain,
        fragment: FragmentHeader,
        frame: &mut Frame<M>,
        below: &Below,
        counters: &mut Counters,
    ) -> Result<Option<Whole<M>>, DropReason> {
        let FragmentHeader { part, ident, .. } = fragment;
        let payload_len = (frame.buf.len() - chain.len) as u32;
        let wrong = if part.more && (payload_len == 0 || !payload_len.is_multiple_of(8)) {
            // The length is not a multiple of 8: the pointer shows the payload length.
            Some(Bad { reason: DropReason::FragInvalid, problem: Some(Problem::field(PAYLOAD_LEN_AT)) })
        } else if part.offset + payload_len > u32::from(u16::MAX) {
            Some(Bad { reason: DropReason::FragInvalid, problem: Some(Problem::field(fragment.at + 2)) })
        } else if part.offset == 0 && !holds_whole_chain(&frame.head()[chain.len..], chain.protocol) {
            // RFC 7112 §5: code 3, the first fragment has an incomplete header chain.
            let problem = Some(Problem { code: 3, pointer: 0, to_groups: false });
            Some(Bad { reason: DropReason::FragTiny, problem })
        } else {
            None
        };
        if let Some(bad) = wrong {
            return Err(self.refuse(now, pair, frame, below, bad, counters));
        }
        let key = Key { pair: *pair, protocol: IpProtocol(0), ident, interface: below.interface };
        let head = (part.offset == 0).then(|| {
            let headers = ipv6::HEADER_LEN + chain.len;
            let wire = frame.packet_head()[..headers].to_vec();
            let mut whole = wire[..headers - extension::FRAGMENT_LEN].to_vec();
            whole[fragment.named_at as usize] = chain.protocol.0;
            Head { wire, whole }
        });
        frame.pull(chain.len);
        self.reassembly.take(now, key, part, head, frame.take_buf(), counters)
    }

    /// A header that is wrong: its sender may be told.
    fn refuse(
        &mut self,
        now: Instant,
        pair: &AddressPair,
        frame: &Frame<M>,
        below: &Below,
        bad: Bad,
        counters: &mut Counters,
    ) -> DropReason {
        if let Some(problem) = bad.problem {
            self.send_error(now, pair, frame, below.to_group, Fault::Header(problem), counters);
        }
        bad.reason
    }

    /// Packets whose fragments did not come in time: their senders are told.
    pub(super) fn expire_fragments(&mut self, now: Instant, counters: &mut Counters) {
        while let Some(expired) = self.reassembly.expire(now, counters) {
            if let Some(expired) = expired {
                let mut frame = Frame::new(expired.first);
                frame.begin_packet();
                self.send_error(now, &expired.pair, &frame, false, Fault::Reassembly, counters);
            }
        }
    }
}

/// RFC 8200 §3: where the fields stand.
const PAYLOAD_LEN_AT: u32 = 4;
const NEXT_HEADER_AT: u32 = 6;

/// What a transport's header takes at least.
const fn header_len_min(protocol: IpProtocol) -> usize {
    match protocol {
        IpProtocol::TCP => tcp::HEADER_LEN,
        IpProtocol::UDP | IpProtocol::ICMP | IpProtocol::ICMPV6 => udp::HEADER_LEN,
        _ => 0,
    }
}

/// RFC 7112 §5: whether the bytes behind a first fragment's header hold all headers, the transport's among
/// them.
fn holds_whole_chain(bytes: &[u8], protocol: IpProtocol) -> bool {
    match extension::walk(bytes, protocol, 0, 0) {
        Ok(chain) => chain.fragment.is_none() && bytes.len() - chain.len >= header_len_min(chain.protocol),
        Err(bad) => bad.reason == DropReason::Ipv6NoNext,
    }
}

fn with_head<M: Memory>(whole: Whole<M>) -> Result<Frame<M>, DropReason> {
    let Whole { head, mut payload } = whole;
    payload.prepend(&head).map_err(|_| DropReason::NoMem)?;
    let mut frame = Frame::new(payload);
    frame.begin_packet();
    Ok(frame)
}

/// The frame of an IPv4 packet that is whole again.
fn whole_v4<M: Memory>(mut whole: Whole<M>) -> Result<Frame<M>, DropReason> {
    let first = Ipv4Header::parse(&whole.head, whole.head.len()).expect("emitted by us");
    let payload_len = whole.payload.len();
    if payload_len > usize::from(u16::MAX) - ipv4::HEADER_LEN {
        return Err(DropReason::FragInvalid);
    }
    Ipv4Header::new(first.src, first.dst, first.protocol, first.ttl, payload_len).emit(&mut whole.head);
    with_head(whole)
}

/// The frame of an IPv6 packet that is whole again, its fixed header pulled; that header.
fn whole_v6<M: Memory>(mut whole: Whole<M>, last: &Ipv6Header) -> Result<(Ipv6Header, Frame<M>), DropReason> {
    let len = whole.head.len() - ipv6::HEADER_LEN + whole.payload.len();
    let len = u16::try_from(len).map_err(|_| DropReason::FragInvalid)?;
    whole.head[4..6].copy_from_slice(&len.to_be_bytes());
    let first = Ipv6Header::parse(&whole.head, usize::MAX).expect("parsed before");
    let mut frame = with_head(whole)?;
    frame.pull(ipv6::HEADER_LEN);
    // The addresses with their zone; they are the same in all fragments.
    Ok((Ipv6Header { src: last.src, dst: last.dst, ..first }, frame))
}
