//! The network layer: what is for us, where packets go, and ICMP.

pub mod fib;
pub mod icmp;
pub mod prefix;
pub mod route;

use crate::counters::Counters;
use crate::frame::Frame;
use crate::link::{Link, Packet};
use crate::wire::address::AddressPair;
use crate::wire::drop_reason::DropReason;
use crate::wire::ipv4::{HEADER_LEN, IpProtocol, Ipv4Header};
use core::net::{IpAddr, Ipv4Addr};
use icmp::ErrorLimit;
use proto::Instant;
use proto::nic::packet_buf::PacketBuf;
use proto::shm::Memory;
use route::{AddrKind, LOOPBACK, RouteTable};

/// Hops a packet of ours may take: RFC 1700, Linux `ip_default_ttl`.
pub const TTL_DEFAULT: u8 = 64;

/// The network layer of a shard.
#[derive(Debug)]
pub struct Ip<M: Memory> {
    /// The link layer below.
    pub link: Link<M>,
    /// Where packets go.
    pub routes: RouteTable,
    errors: ErrorLimit,
}

/// A packet for a transport of ours, IP header pulled.
#[derive(Debug)]
pub struct Received<M: Memory> {
    /// Its header.
    pub header: Ipv4Header,
    /// The transport's header and payload.
    pub frame: Frame<M>,
    /// Where it came in.
    pub interface: u16,
    /// Its destination is a group or a broadcast address.
    pub to_group: bool,
}

/// How to get somewhere: the nicd to leave by, and what the first link takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    /// The interface to leave by, by the number of its nicd.
    pub nic: u16,
    /// The neighbour to give it to: a gateway or the destination.
    pub next_hop: IpAddr,
    /// The source address.
    pub source: IpAddr,
    /// Bytes of a packet that the first link takes.
    pub mtu: u16,
    /// The destination is all hosts of a network.
    pub to_all: bool,
}

impl<M: Memory + Clone> Ip<M> {
    /// On top of `link`, with the routes that are known.
    pub fn new(link: Link<M>, routes: RouteTable) -> Self {
        Ip { link, routes, errors: ErrorLimit::default() }
    }

    /// Whether `ip` is an address of this host.
    pub fn is_ours(&self, ip: IpAddr) -> bool {
        self.routes.is_local(ip)
    }

    /// The way to `dst`, from `source` if the sender has chosen one; `None` when there is none.
    pub fn way(&self, dst: IpAddr, source: Option<IpAddr>) -> Option<Way> {
        let path = self.routes.path(dst, source, None).ok()?;
        // What is for an address of ours never leaves the host, whatever interface has the address.
        let nic = if path.kind == AddrKind::Local { LOOPBACK } else { path.interface };
        if nic != LOOPBACK && path.source.is_loopback() {
            // RFC 1122 §3.2.1.3 (g): 127/8 never appears outside a host.
            return None;
        }
        let mtu = self.link.interface(nic)?.mtu;
        let to_all = path.kind == AddrKind::Broadcast;
        // RFC 1122 §3.3.6: what is for all hosts of a network goes to all stations of its link.
        let next_hop = if to_all { IpAddr::V4(Ipv4Addr::BROADCAST) } else { path.next_hop };
        Some(Way { nic, next_hop, source: path.source, mtu, to_all })
    }

    /// A packet from the link: checked and, if it is for a transport of ours, returned.
    ///
    /// # Errors
    /// The reason why it was dropped here.
    pub fn receive(&mut self, packet: Packet<M>) -> Result<Received<M>, DropReason> {
        let Packet { mut frame, interface, to_group: frame_to_group } = packet;
        let header = Ipv4Header::parse(frame.head(), frame.buf.len())?;
        if interface == LOOPBACK {
            return looped(header, frame);
        }
        if !header.source_is_possible() {
            return Err(DropReason::IpInvalidSource);
        }
        // RFC 1122 §3.2.1.3: our own address as a source from the wire is somebody's lie (LAND).
        if self.is_ours(IpAddr::V4(header.src)) {
            return Err(DropReason::IpLocalSource);
        }
        // RFC 1122 §3.2.1.3 (a), (g): "this host" is no destination, and 127/8 never leaves a host.
        if header.dst.is_unspecified() || header.dst.is_loopback() {
            return Err(DropReason::IpInvalidDest);
        }
        let kind = self.routes.kind(IpAddr::V4(header.dst));
        let to_group = matches!(kind, AddrKind::Broadcast | AddrKind::Multicast);
        if !to_group {
            if !self.is_ours(IpAddr::V4(header.dst)) {
                return Err(DropReason::IpInNoRoute);
            }
            // RFC 1122 §3.3.6: a broadcast frame carries no unicast packet.
            if frame_to_group {
                return Err(DropReason::UnicastInL2Multicast);
            }
        }
        let header = header.whole()?;
        frame.trim(usize::from(header.total_len));
        frame.pull(usize::from(header.header_len));
        Ok(Received { header, frame, interface, to_group })
    }

    /// Puts an IPv4 header in front of `packet` and sends it on its `way`.
    #[expect(clippy::too_many_arguments, reason = "a header's fields")]
    pub fn send(
        &mut self,
        now: Instant,
        way: &Way,
        pair: &AddressPair,
        protocol: IpProtocol,
        ttl: u8,
        mut packet: PacketBuf<M>,
        counters: &mut Counters,
    ) {
        let AddressPair::V4 { src, dst } = *pair else {
            return counters.drop(DropReason::UnhandledProto);
        };
        let header = Ipv4Header::new(src, dst, protocol, ttl, packet.len());
        let mut bytes = [0; HEADER_LEN];
        header.emit(&mut bytes);
        if packet.push(HEADER_LEN).and_then(|()| packet.write(0, &bytes)).is_err() {
            return counters.drop(DropReason::NoMem);
        }
        self.link.send(now, way.nic, way.next_hop, packet, counters);
    }
}

/// A packet that this host sent to itself, from one of its addresses to one of its addresses.
fn looped<M: Memory>(header: Ipv4Header, mut frame: Frame<M>) -> Result<Received<M>, DropReason> {
    let header = header.whole()?;
    frame.trim(usize::from(header.total_len));
    frame.pull(usize::from(header.header_len));
    Ok(Received { header, frame, interface: LOOPBACK, to_group: false })
}
