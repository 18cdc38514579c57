//! UDP sockets: their streams carry records, each with the remote's address before the datagram.

use crate::calls::{Datagram, Origin};
use crate::listener::Binding;
use crate::session::Session;
use crate::socket::{Half, Kind, Look, Receiving, Socket};
use crate::tcp::{any, each_addr, open, shown};
use crate::wait::lock;
use crate::wishes::Manner;
use proto::PeerCorrupt;
use proto::arena::line::{StackLine, level, want};
use proto::arena::record::{DATAGRAM_MAX, HEADER_SIZE, Header, PAYLOAD_MAX, Said, record_size};
use proto::control::client::{Ask, Granted};
use proto::form::{Form, Share};
use proto::id::{Epoch, SlotIndex};
use proto::zone;
use rustix::io::Errno;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Datagrams of one call: Linux's UDP_MAX_SEGMENTS.
const SEGMENTS_MAX: usize = 128;

/// A UDP socket, as [`std::net::UdpSocket`].
#[derive(Debug)]
pub struct UdpSocket {
    pub(crate) socket: Arc<Socket>,
    ends: Arc<Mutex<Ends>>,
    form: Form,
}

#[derive(Debug)]
struct Ends {
    local: SocketAddr,
    peer: Option<SocketAddr>,
    manner: Manner,
}

/// Where a datagram for an address goes that is nobody's: to this host (RFC 1122 §3.2.1.3 has it as "this
/// host", and so do kernels).
fn destination(remote: SocketAddr) -> SocketAddr {
    let ip = match remote.ip() {
        IpAddr::V6(v6) if v6.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip if !ip.to_canonical().is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(),
    };
    let mut to = remote;
    to.set_ip(ip);
    to
}

impl UdpSocket {
    /// Opens a socket at the first of the addresses that is free, in the default session.
    ///
    /// # Errors
    /// EADDRINUSE, EADDRNOTAVAIL, EACCES below port 1024, and those of [`Session::open`].
    pub fn bind<A: ToSocketAddrs>(addr: A) -> io::Result<UdpSocket> {
        UdpSocket::bind_in(&Session::default_session()?, addr)
    }

    /// [`UdpSocket::bind`] in another session.
    ///
    /// # Errors
    /// EADDRINUSE, EADDRNOTAVAIL, EACCES below port 1024.
    pub fn bind_in<A: ToSocketAddrs>(session: &Session, addr: A) -> io::Result<UdpSocket> {
        UdpSocket::bind_with_in(session, addr, Binding::default())
    }

    /// [`UdpSocket::bind_in`] with what else can be said of it.
    ///
    /// # Errors
    /// As [`UdpSocket::bind_in`].
    pub fn bind_with_in<A: ToSocketAddrs>(
        session: &Session,
        addr: A,
        binding: Binding,
    ) -> io::Result<UdpSocket> {
        each_addr(addr, |local| {
            let (local_inside, share) = (binding.local(local), binding.share());
            let ask = Ask::Datagram { local: local_inside, form: Form::Udp, share };
            let socket = open(session, Kind::Datagram, local.is_ipv6(), ask)?;
            let ends = Ends { local: socket.placed.local, peer: None, manner: Manner::default() };
            Ok(UdpSocket { socket, ends: Arc::new(Mutex::new(ends)), form: Form::Udp })
        })
    }

    /// A socket of datagrams of another form.
    pub(crate) fn of_form_in(
        session: &Session,
        local: SocketAddr,
        form: Form,
        share: Share,
    ) -> io::Result<UdpSocket> {
        let ask = Ask::Datagram { local: zone::from_client(local), form, share };
        let socket = open(session, Kind::Datagram, local.is_ipv6(), ask)?;
        let ends = Ends { local: socket.placed.local, peer: None, manner: Manner::default() };
        Ok(UdpSocket { socket, ends: Arc::new(Mutex::new(ends)), form })
    }

    /// Takes datagrams of one remote only, and makes it where [`UdpSocket::send`] sends.
    ///
    /// # Errors
    /// ENETUNREACH, EACCES for a broadcast address.
    pub fn connect<A: ToSocketAddrs>(&self, addr: A) -> io::Result<()> {
        each_addr(addr, |remote| {
            let remote = destination(remote);
            self.associate(remote, Some(remote))
        })
    }

    /// A socket at its place, with what it was told of its two ends.
    pub(crate) fn with_ends(socket: Arc<Socket>, local: SocketAddr, peer: Option<SocketAddr>) -> UdpSocket {
        UdpSocket {
            socket,
            ends: Arc::new(Mutex::new(Ends { local, peer, manner: Manner::default() })),
            form: Form::Udp,
        }
    }

    /// Undoes [`UdpSocket::connect`]: datagrams of every remote are taken again.
    ///
    /// # Errors
    /// When the session is over.
    pub fn disconnect(&self) -> io::Result<()> {
        self.associate(any(self.local_addr()?), None)
    }

    fn associate(&self, remote: SocketAddr, peer: Option<SocketAddr>) -> io::Result<()> {
        let slot = self.socket.placed.slot;
        let ask = Ask::DatagramConnect { slot, remote: zone::from_client(remote) };
        match self.socket.session.inner.control.ask(ask)? {
            Granted::Socket { local, .. } => {
                let mut ends = lock(&self.ends);
                (ends.local, ends.peer) = (shown(local, self.is_v6()), peer);
                Ok(())
            }
            Granted::Session { .. } => {
                Err(io::Error::new(io::ErrorKind::InvalidData, "sockd granted something else"))
            }
        }
    }

    /// Whether it is of the IPv6 family, and shows addresses of IPv4 mapped.
    fn is_v6(&self) -> bool {
        self.socket.placed.local.is_ipv6()
    }

    pub(crate) fn remote(&self) -> Option<SocketAddr> {
        lock(&self.ends).peer
    }

    /// Sends a datagram to the first of the addresses.
    ///
    /// # Errors
    /// EMSGSIZE above 65,507 bytes; `WouldBlock` when non-blocking and there is no room.
    pub fn send_to<A: ToSocketAddrs>(&self, buf: &[u8], addr: A) -> io::Result<usize> {
        match addr.to_socket_addrs()?.next() {
            Some(remote) => self.send_record(buf, remote),
            None => Err(io::Error::new(io::ErrorKind::InvalidInput, "no addresses to send data to")),
        }
    }

    /// Sends a datagram to the remote of [`UdpSocket::connect`].
    ///
    /// # Errors
    /// EDESTADDRREQ without one; else as [`UdpSocket::send_to`].
    pub fn send(&self, buf: &[u8]) -> io::Result<usize> {
        let remote = lock(&self.ends).peer.ok_or(Errno::DESTADDRREQ)?;
        self.send_record(buf, remote)
    }

    fn send_record(&self, buf: &[u8], remote: SocketAddr) -> io::Result<usize> {
        self.send_parts(self.socket.is_nonblocking(), &[IoSlice::new(buf)], remote)
    }

    pub(crate) fn send_parts(
        &self,
        dont_wait: bool,
        parts: &[IoSlice<'_>],
        remote: SocketAddr,
    ) -> io::Result<usize> {
        self.socket.block_unless(dont_wait, Half::Write, || self.try_send(parts, remote))
    }

    /// One attempt to send.
    pub(crate) fn try_send(&self, parts: &[IoSlice<'_>], remote: SocketAddr) -> io::Result<Look<usize>> {
        self.try_send_from(parts, remote, Origin::default())
    }

    pub(crate) fn try_send_from(
        &self,
        parts: &[IoSlice<'_>],
        remote: SocketAddr,
        origin: Origin,
    ) -> io::Result<Look<usize>> {
        let len = parts.iter().map(|part| part.len()).sum::<usize>();
        let (mut local, manner) = {
            let ends = lock(&self.ends);
            (ends.local, ends.manner)
        };
        let segment = origin.segment.unwrap_or(manner.segment);
        // udp(7): as many datagrams as one packet of 64 KiB holds, UDP_MAX_SEGMENTS of them at most.
        let most = if self.form == Form::Udp { DATAGRAM_MAX } else { PAYLOAD_MAX };
        if len > most || segment > 0 && len > usize::from(segment) * SEGMENTS_MAX {
            return Err(Errno::MSGSIZE.into());
        }
        let on_link = matches!(self.form, Form::Packet { .. });
        if local.is_ipv4() && remote.is_ipv6() && !on_link {
            return Err(Errno::AFNOSUPPORT.into());
        }
        if remote.ip() == IpAddr::V4(Ipv4Addr::BROADCAST) && !self.may_tell_all() {
            return Err(Errno::ACCESS.into());
        }
        if let Some(source) = origin.source {
            if !local.ip().is_unspecified() && local.ip() != source && !local.ip().is_multicast() {
                return Err(Errno::INVAL.into());
            }
            local.set_ip(source);
        }
        let group = remote.ip().to_canonical().is_multicast() && !on_link;
        let mut interface = origin.interface;
        if group && interface == 0 {
            interface = manner.group_interface;
            if let (Some(source), true) = (manner.group_source, local.ip().is_unspecified()) {
                local = SocketAddr::new(IpAddr::V4(source), local.port());
            }
        }
        let (remote, local) = (zone::from_client(remote), zone::from_client(local));
        let said = manner.said(group, segment, len, origin);
        let slot = SlotIndex(interface);
        let header = Header { len: len as u32, remote, local, slot, epoch: Epoch(0), said };
        let size = record_size(len);
        let part = self.socket.part_of(local, remote);
        let in_row = self.socket.parts().count() > 1;
        let may = |line: &StackLine| {
            let error = if in_row { self.socket.take_error() } else { part.take_error_of(line) };
            error.map_or(Ok(line.flags & level::OPEN != 0), Err)
        };
        let mut sending = match part.sending_if(size, size, may)? {
            Look::Ready((sending, _)) => sending,
            Look::Wait => return Ok(Look::Wait),
            Look::WaitForPage => return Ok(Look::WaitForPage),
        };
        sending.put(0, &header.to_bytes());
        let mut put = HEADER_SIZE;
        for part in parts {
            sending.put(put, part);
            put += part.len();
        }
        sending.commit(size)?;
        Ok(Look::Ready(len))
    }

    /// Waits for a datagram; what does not fit into `buf` is lost.
    ///
    /// # Errors
    /// `WouldBlock` when non-blocking and none waits, or after the read timeout.
    pub fn recv_from(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.receive(buf, true)
    }

    /// As [`UdpSocket::recv_from`], leaving the datagram where it is.
    ///
    /// # Errors
    /// As [`UdpSocket::recv_from`].
    pub fn peek_from(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.receive(buf, false)
    }

    /// Waits for a datagram of the remote of [`UdpSocket::connect`].
    ///
    /// # Errors
    /// As [`UdpSocket::recv_from`].
    pub fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.receive(buf, true).map(|(len, _)| len)
    }

    /// As [`UdpSocket::recv`], leaving the datagram where it is.
    ///
    /// # Errors
    /// As [`UdpSocket::recv_from`].
    pub fn peek(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.receive(buf, false).map(|(len, _)| len)
    }

    fn receive(&self, buf: &mut [u8], take: bool) -> io::Result<(usize, SocketAddr)> {
        let dont_wait = self.socket.is_nonblocking();
        let datagram = self.receive_unless(dont_wait, &mut [IoSliceMut::new(buf)], take)?;
        Ok((datagram.copied, datagram.remote))
    }

    pub(crate) fn receive_unless(
        &self,
        dont_wait: bool,
        bufs: &mut [IoSliceMut<'_>],
        take: bool,
    ) -> io::Result<Datagram> {
        self.socket.block_unless(dont_wait, Half::Read, || self.look_at_received(bufs, take))
    }

    /// One look at what was received.
    pub(crate) fn look_at_received(
        &self,
        bufs: &mut [IoSliceMut<'_>],
        take: bool,
    ) -> io::Result<Look<Datagram>> {
        self.socket.look_in_turn(!take, |part| self.look_at_part(part, bufs, take))
    }

    fn look_at_part(
        &self,
        part: &Socket,
        bufs: &mut [IoSliceMut<'_>],
        take: bool,
    ) -> io::Result<Look<Datagram>> {
        part.set_errors_aside();
        part.receiving(|receiving, available, _| {
            if available == 0 {
                return match part.take_error() {
                    Some(error) => Err(error),
                    None => Ok(Look::Wait),
                };
            }
            let header = self.header(receiving, available)?;
            let (len, mut copied) = (header.len as usize, 0);
            for buf in bufs.iter_mut() {
                let piece = buf.len().min(len - copied);
                receiving.copy(HEADER_SIZE + copied, &mut buf[..piece])?;
                copied += piece;
            }
            if take {
                receiving.consume(record_size(len))?;
            }
            let (remote, local) = (shown(header.remote, self.is_v6()), shown(header.local, self.is_v6()));
            let Said { hop_limit, tos, segment, marks, at } = header.said;
            let (interface, at) = (header.slot.0, Duration::from_nanos(at.nanos()));
            Ok(Look::Ready(Datagram {
                copied,
                len,
                remote,
                local,
                interface,
                hop_limit,
                tos,
                segment,
                at,
                marks,
            }))
        })
    }

    pub(crate) fn header(&self, receiving: &Receiving<'_>, available: usize) -> io::Result<Header> {
        let corrupt = || {
            let rule = PeerCorrupt::new("a datagram's record that makes no sense");
            self.socket.session.inner.corrupt(rule)
        };
        if available < HEADER_SIZE {
            return Err(corrupt());
        }
        let mut bytes = [0; HEADER_SIZE];
        receiving.copy(0, &mut bytes)?;
        let header = Header::from_bytes(&bytes);
        header.filter(|header| record_size(header.len as usize) <= available).ok_or_else(corrupt)
    }

    /// Our address.
    ///
    /// # Errors
    /// None; as std has it.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(lock(&self.ends).local)
    }

    /// The remote of [`UdpSocket::connect`].
    ///
    /// # Errors
    /// ENOTCONN without one.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        lock(&self.ends).peer.ok_or_else(|| Errno::NOTCONN.into())
    }

    /// Another handle of the same socket.
    ///
    /// # Errors
    /// None; as std has it.
    pub fn try_clone(&self) -> io::Result<UdpSocket> {
        Ok(UdpSocket { socket: self.socket.clone(), ends: self.ends.clone(), form: self.form })
    }

    /// How long a receive waits; `None` for ever.
    ///
    /// # Errors
    /// `InvalidInput` for zero.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.socket.set_timeout(Half::Read, timeout)
    }

    /// How long a send waits; `None` for ever.
    ///
    /// # Errors
    /// `InvalidInput` for zero.
    pub fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.socket.set_timeout(Half::Write, timeout)
    }

    /// How long a receive waits.
    ///
    /// # Errors
    /// None; as std has it.
    pub fn read_timeout(&self) -> io::Result<Option<Duration>> {
        Ok(self.socket.timeout(Half::Read))
    }

    /// How long a send waits.
    ///
    /// # Errors
    /// None; as std has it.
    pub fn write_timeout(&self) -> io::Result<Option<Duration>> {
        Ok(self.socket.timeout(Half::Write))
    }

    /// Calls return `WouldBlock` instead of waiting.
    ///
    /// # Errors
    /// None; as std has it.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.socket.set_nonblocking(nonblocking);
        Ok(())
    }

    /// How its datagrams are sent.
    pub fn manner(&self) -> Manner {
        lock(&self.ends).manner
    }

    /// Changes that.
    pub fn set_manner(&self, change: impl FnOnce(&mut Manner)) {
        change(&mut lock(&self.ends).manner);
    }

    /// Hops of its datagrams to one host (IP_TTL).
    ///
    /// # Errors
    /// EINVAL for what is not between 1 and 255.
    pub fn set_ttl(&self, ttl: u32) -> io::Result<()> {
        let hops = u8::try_from(ttl).ok().filter(|hops| *hops > 0).ok_or(Errno::INVAL)?;
        self.set_manner(|manner| manner.hops = Some(hops));
        Ok(())
    }

    /// Hops of its datagrams to one host: 64 unless it was set.
    ///
    /// # Errors
    /// None; as std has it.
    pub fn ttl(&self) -> io::Result<u32> {
        Ok(self.manner().hops.unwrap_or(64).into())
    }

    /// Hops of its datagrams to groups (IP_MULTICAST_TTL).
    ///
    /// # Errors
    /// EINVAL above 255.
    pub fn set_multicast_ttl_v4(&self, ttl: u32) -> io::Result<()> {
        let hops = u8::try_from(ttl).map_err(|_| Errno::INVAL)?;
        self.set_manner(|manner| manner.group_hops = hops);
        Ok(())
    }

    /// Hops of its datagrams to groups.
    ///
    /// # Errors
    /// None; as std has it.
    pub fn multicast_ttl_v4(&self) -> io::Result<u32> {
        Ok(self.manner().group_hops.into())
    }

    /// Whether its datagrams to groups are for this host's members too (IP_MULTICAST_LOOP).
    ///
    /// # Errors
    /// None; as std has it.
    pub fn set_multicast_loop_v4(&self, here: bool) -> io::Result<()> {
        self.set_manner(|manner| manner.group_loop = here);
        Ok(())
    }

    /// As [`UdpSocket::set_multicast_loop_v4`]: a socket has one such option for both families.
    ///
    /// # Errors
    /// None; as std has it.
    pub fn set_multicast_loop_v6(&self, here: bool) -> io::Result<()> {
        self.set_multicast_loop_v4(here)
    }

    /// Whether its datagrams to groups are for this host's members too.
    ///
    /// # Errors
    /// None; as std has it.
    pub fn multicast_loop_v4(&self) -> io::Result<bool> {
        Ok(self.manner().group_loop)
    }

    /// Whether datagrams may go to all hosts of a network (SO_BROADCAST). Without it one to
    /// 255.255.255.255 is EACCES; one to the broadcast address of a network is dropped by the stack, which
    /// alone knows them.
    ///
    /// # Errors
    /// When the session is over.
    pub fn set_broadcast(&self, broadcast: bool) -> io::Result<()> {
        self.socket.set_want(want::BROADCAST, broadcast)
    }

    /// Whether SO_BROADCAST is set.
    ///
    /// # Errors
    /// None; as std has it.
    pub fn broadcast(&self) -> io::Result<bool> {
        Ok(self.may_tell_all())
    }

    fn may_tell_all(&self) -> bool {
        self.socket.wants() & want::BROADCAST != 0
    }

    /// SO_RCVBUF in bytes: most that waits to be received, one datagram aside; 0 leaves it to the stack.
    ///
    /// # Errors
    /// When the session is over.
    pub fn set_receive_buffer(&self, bytes: u32) -> io::Result<()> {
        self.socket.set_line(|line| line.rcvbuf = bytes)
    }

    /// SO_SNDBUF in bytes: most that waits to leave. No less than the largest datagram counts; 0 leaves it
    /// to the stack.
    pub fn set_send_buffer(&self, bytes: u32) {
        let most = record_size(DATAGRAM_MAX) as u32;
        self.socket.set_send_limit(if bytes == 0 { 0 } else { bytes.max(most) });
    }

    /// The error that came for a datagram that was sent, the first time it is asked for.
    ///
    /// # Errors
    /// None; as std has it.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        Ok(self.socket.take_error())
    }
}
