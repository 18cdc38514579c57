//! Raw, ping and packet sockets (raw(7), icmp(7), packet(7)). They are sockets of datagrams in all but what
//! a datagram is: options, waiting and what became of what was sent are those of [`UdpSocket`].

use crate::calls::{Datagram, Flags, Origin};
use crate::session::Session;
use crate::udp::UdpSocket;
use proto::arena::record::mark;
use proto::form::{Form, Share};
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Every type of frame, both ways: ETH_P_ALL.
pub const EVERY_TYPE: u16 = Form::EVERY_TYPE;

/// A socket that receives every packet of a protocol, and sends packets of it: of IPv4 with its header
/// received, of IPv6 without. For root.
#[derive(Debug)]
pub struct RawSocket(UdpSocket);

/// A socket that sends echo requests and receives the replies to them. A message is ICMP's, from its header
/// on; identifier and checksum are the stack's.
#[derive(Debug)]
pub struct PingSocket(UdpSocket);

/// A socket that sees the frames of a link, and sends some. For root.
#[derive(Debug)]
pub struct PacketSocket {
    datagrams: UdpSocket,
    cooked: bool,
}

/// How a frame was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Met {
    /// It was for this host.
    Here,
    /// It was for every station.
    Broadcast,
    /// It was for a group.
    Multicast,
    /// It was for another station.
    Elsewhere,
    /// This host sent it.
    Outgoing,
}

/// A frame that a packet socket has seen: `struct sockaddr_ll` and what belongs to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Bytes that were copied.
    pub copied: usize,
    /// Bytes that a filter let pass.
    pub len: usize,
    /// The index of the interface.
    pub interface: u32,
    /// Its type.
    pub ethertype: u16,
    /// Who sent it.
    pub from: [u8; 6],
    /// How it was met.
    pub met: Met,
    /// Its transport's checksum is for the device to fill in.
    pub unsummed: bool,
    /// All the rest.
    pub datagram: Datagram,
}

fn any(v6: bool) -> IpAddr {
    if v6 { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) }
}

impl RawSocket {
    /// Opens a socket for a protocol at an address of ours, unspecified for all of its family. 255
    /// (IPPROTO_RAW) receives nothing and sends packets with their header.
    ///
    /// # Errors
    /// EPERM for who is not root, EADDRNOTAVAIL, and those of [`Session::open`].
    pub fn open_in(session: &Session, local: IpAddr, protocol: u8) -> io::Result<RawSocket> {
        UdpSocket::of_form_in(session, SocketAddr::new(local, 0), Form::Raw { protocol }, Share::NONE)
            .map(RawSocket)
    }

    /// What it is beneath: receiving, waiting, options, groups, filters.
    pub const fn datagrams(&self) -> &UdpSocket {
        &self.0
    }

    /// Sends a packet of its protocol.
    ///
    /// # Errors
    /// As [`UdpSocket::send_to`].
    pub fn send_to(&self, packet: &[u8], to: IpAddr) -> io::Result<usize> {
        self.0.send_to(packet, SocketAddr::new(to, 0))
    }

    /// Waits for a packet.
    ///
    /// # Errors
    /// As [`UdpSocket::recv_from`].
    pub fn recv_from(&self, buf: &mut [u8]) -> io::Result<(usize, IpAddr)> {
        self.0.recv_from(buf).map(|(len, from)| (len, from.ip()))
    }

    /// Takes packets of one remote alone, or of every one again.
    ///
    /// # Errors
    /// As [`UdpSocket::connect`].
    pub fn connect(&self, remote: Option<IpAddr>) -> io::Result<()> {
        match remote {
            Some(remote) => self.0.connect(SocketAddr::new(remote, 0)),
            None => self.0.disconnect(),
        }
    }

    /// Whether what is sent begins with the IP header (IP_HDRINCL, IPV6_HDRINCL).
    pub fn set_header_included(&self, included: bool) {
        self.0.set_manner(|manner| manner.with_header = included);
    }

    /// Types of ICMP that are not wanted, a bit each (ICMP_FILTER, ICMP6_FILTER).
    ///
    /// # Errors
    /// As [`UdpSocket::join_group`].
    pub fn set_icmp_blocked(&self, types: [u32; 8]) -> io::Result<()> {
        self.0.socket.change_wishes(|wishes| {
            wishes.icmp_blocked = types;
            Ok(())
        })
    }

    /// Where the stack puts a checksum into packets of IPv6, and checks one (IPV6_CHECKSUM).
    ///
    /// # Errors
    /// As [`UdpSocket::join_group`].
    pub fn set_checksum_at(&self, at: Option<u16>) -> io::Result<()> {
        self.0.socket.change_wishes(|wishes| {
            wishes.checksum_at = at;
            Ok(())
        })
    }
}

impl PingSocket {
    /// Opens a socket with an identifier that nobody else has.
    ///
    /// # Errors
    /// Those of [`Session::open`].
    pub fn open_in(session: &Session, v6: bool) -> io::Result<PingSocket> {
        PingSocket::bind_in(session, SocketAddr::new(any(v6), 0))
    }

    /// Opens a socket at an address, with the identifier that the port says.
    ///
    /// # Errors
    /// EADDRINUSE, EADDRNOTAVAIL, and those of [`Session::open`].
    pub fn bind_in(session: &Session, local: SocketAddr) -> io::Result<PingSocket> {
        UdpSocket::of_form_in(session, local, Form::Ping, Share::NONE).map(PingSocket)
    }

    /// What it is beneath.
    pub const fn datagrams(&self) -> &UdpSocket {
        &self.0
    }

    /// The identifier of its requests.
    ///
    /// # Errors
    /// None; as [`UdpSocket::local_addr`].
    pub fn ident(&self) -> io::Result<u16> {
        Ok(self.0.local_addr()?.port())
    }

    /// Sends an echo request: its eight bytes of header and what shall come back.
    ///
    /// # Errors
    /// As [`UdpSocket::send_to`].
    pub fn send_to(&self, message: &[u8], to: IpAddr) -> io::Result<usize> {
        self.0.send_to(message, SocketAddr::new(to, 0))
    }

    /// Waits for a reply, header first.
    ///
    /// # Errors
    /// As [`UdpSocket::recv_from`].
    pub fn recv_from(&self, buf: &mut [u8]) -> io::Result<(usize, IpAddr)> {
        self.0.recv_from(buf).map(|(len, from)| (len, from.ip()))
    }
}

impl PacketSocket {
    /// Opens a socket for frames of a type, [`EVERY_TYPE`] for all in both directions, on the interface of an
    /// index, 0 for all. A `cooked` one has frames without their link header (SOCK_DGRAM).
    ///
    /// # Errors
    /// EPERM for who is not root, and those of [`Session::open`].
    pub fn open_in(
        session: &Session,
        ethertype: u16,
        interface: u16,
        cooked: bool,
    ) -> io::Result<PacketSocket> {
        let form = Form::Packet { ethertype, cooked };
        let local = SocketAddr::new(any(false), interface);
        let datagrams = UdpSocket::of_form_in(session, local, form, Share::NONE)?;
        Ok(PacketSocket { datagrams, cooked })
    }

    /// What it is beneath.
    pub const fn datagrams(&self) -> &UdpSocket {
        &self.datagrams
    }

    /// Waits for a frame.
    ///
    /// # Errors
    /// As [`UdpSocket::recv_from`].
    pub fn recv(&self, buf: &mut [u8], flags: Flags) -> io::Result<Seen> {
        let datagram = self.datagrams.recv_with(&mut [IoSliceMut::new(buf)], flags)?;
        let is = |mark: u16| datagram.marks & mark != 0;
        let met = match datagram.marks {
            _ if is(mark::OUTGOING) => Met::Outgoing,
            _ if is(mark::TO_ALL) => Met::Broadcast,
            _ if is(mark::TO_GROUP) => Met::Multicast,
            _ if is(mark::ELSEWHERE) => Met::Elsewhere,
            _ => Met::Here,
        };
        let octets = match datagram.remote.ip() {
            IpAddr::V6(v6) => v6.octets(),
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        };
        let [.., a, b, c, d, e, f] = octets;
        Ok(Seen {
            copied: datagram.copied,
            len: datagram.len,
            interface: datagram.interface,
            ethertype: datagram.remote.port(),
            from: [a, b, c, d, e, f],
            met,
            unsummed: is(mark::SUM_MISSING),
            datagram,
        })
    }

    /// Sends a frame by the interface of an index, 0 for the one that the socket was opened for. `to` and
    /// `ethertype` are for a cooked socket.
    ///
    /// # Errors
    /// As [`UdpSocket::send_to`].
    pub fn send(&self, frame: &[u8], interface: u32, to: [u8; 6], ethertype: u16) -> io::Result<usize> {
        let mut octets = [0; 16];
        if self.cooked {
            octets[10..].copy_from_slice(&to);
        } else {
            // Not unspecified: an address that nobody looks at.
            octets[15] = 1;
        }
        let to = SocketAddr::new(IpAddr::V6(Ipv6Addr::from(octets)), ethertype);
        let origin = Origin { interface, ..Origin::default() };
        self.datagrams.send_from(&[IoSlice::new(frame)], Some(to), origin, false)
    }

    /// Whether frames for other stations are wanted (PACKET_MR_PROMISC).
    ///
    /// # Errors
    /// As [`UdpSocket::join_group`].
    pub fn set_promiscuous(&self, promiscuous: bool) -> io::Result<()> {
        self.datagrams.socket.change_wishes(|wishes| {
            wishes.promiscuous = promiscuous;
            Ok(())
        })
    }
}
