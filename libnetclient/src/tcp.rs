//! TCP connections.

use crate::session::Session;
use crate::socket::{Half, Kind, Look, Placed, Receiving, Socket};
use proto::arena::line::{StackLine, level, want};
use proto::control::client::{Ask, Granted};
use proto::zone;
use rustix::io::Errno;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A TCP connection, as [`std::net::TcpStream`].
#[derive(Debug)]
pub struct TcpStream {
    pub(crate) socket: Arc<Socket>,
    peer: SocketAddr,
}

/// An address of `like`'s family that leaves the choice to the stack.
pub(crate) fn any(like: SocketAddr) -> SocketAddr {
    match like {
        SocketAddr::V4(_) => SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
        SocketAddr::V6(_) => SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0),
    }
}

/// An address of the stack's as a socket of the IPv6 family, or of IPv4, shows it.
pub(crate) fn shown(addr: SocketAddr, v6: bool) -> SocketAddr {
    if v6 { zone::to_v6_client(addr) } else { zone::to_client(addr) }
}

/// Asks sockd for a socket, of the IPv6 family or of IPv4.
pub(crate) fn open(session: &Session, kind: Kind, v6: bool, ask: Ask) -> io::Result<Arc<Socket>> {
    match session.inner.control.ask(ask)? {
        Granted::Socket { slot, epoch, shard, local } => {
            Socket::place(session, kind, Placed { slot, epoch, shard, local: shown(local, v6) })
        }
        Granted::Session { .. } => {
            Err(io::Error::new(io::ErrorKind::InvalidData, "sockd granted something else"))
        }
    }
}

/// Tries one address after the other; the last error counts.
pub(crate) fn each_addr<A: ToSocketAddrs, T>(
    addr: A,
    mut attempt: impl FnMut(SocketAddr) -> io::Result<T>,
) -> io::Result<T> {
    let mut last = None;
    for addr in addr.to_socket_addrs()? {
        match attempt(addr) {
            Ok(value) => return Ok(value),
            Err(error) => last = Some(error),
        }
    }
    let nothing = || io::Error::new(io::ErrorKind::InvalidInput, "could not resolve to any addresses");
    Err(last.unwrap_or_else(nothing))
}

impl TcpStream {
    /// Connects to the first of the addresses that answers, in the default session.
    ///
    /// # Errors
    /// Those of connect(2), and of [`Session::open`].
    pub fn connect<A: ToSocketAddrs>(addr: A) -> io::Result<TcpStream> {
        TcpStream::connect_in(&Session::default_session()?, addr)
    }

    /// [`TcpStream::connect`] in another session.
    ///
    /// # Errors
    /// Those of connect(2).
    pub fn connect_in<A: ToSocketAddrs>(session: &Session, addr: A) -> io::Result<TcpStream> {
        each_addr(addr, |addr| {
            let stream = TcpStream::start(session, any(addr), addr)?;
            stream.socket.wait_open(None)?;
            Ok(stream)
        })
    }

    /// Connects to one address, waiting at most `timeout`, in the default session.
    ///
    /// # Errors
    /// `TimedOut`; `InvalidInput` for a timeout of zero; those of connect(2).
    pub fn connect_timeout(addr: &SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
        TcpStream::connect_timeout_in(&Session::default_session()?, addr, timeout)
    }

    /// [`TcpStream::connect_timeout`] in another session.
    ///
    /// # Errors
    /// As [`TcpStream::connect_timeout`].
    pub fn connect_timeout_in(
        session: &Session,
        addr: &SocketAddr,
        timeout: Duration,
    ) -> io::Result<TcpStream> {
        if timeout.is_zero() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "cannot set a 0 duration timeout"));
        }
        let deadline = Instant::now().checked_add(timeout);
        let stream = TcpStream::start(session, any(*addr), *addr)?;
        stream.socket.wait_open(deadline)?;
        Ok(stream)
    }

    /// Begins to connect from `local` (unspecified, port 0: the stack chooses) and returns a
    /// non-blocking stream at once, as connect(2) with EINPROGRESS. It is writable once it stands
    /// or has failed; [`TcpStream::take_error`] says which.
    ///
    /// # Errors
    /// Those that connect(2) reports at once.
    pub fn connect_nonblocking_in(
        session: &Session,
        local: SocketAddr,
        addr: SocketAddr,
    ) -> io::Result<TcpStream> {
        let stream = TcpStream::start(session, local, addr)?;
        stream.socket.set_nonblocking(true);
        Ok(stream)
    }

    /// [`TcpStream::connect_nonblocking_in`] in the default session, from any address.
    ///
    /// # Errors
    /// As there.
    pub fn connect_nonblocking(addr: SocketAddr) -> io::Result<TcpStream> {
        TcpStream::connect_nonblocking_in(&Session::default_session()?, any(addr), addr)
    }

    /// Connects with the first of `data` in the SYN where the server allows it (TCP Fast Open, RFC 7413), else
    /// behind the handshake; as sendto(2) with MSG_FASTOPEN, and like it without waiting for the handshake.
    /// Returns how much of `data` was taken.
    ///
    /// # Errors
    /// Those that connect(2) reports at once.
    pub fn connect_with_data_in(
        session: &Session,
        addr: SocketAddr,
        data: &[u8],
    ) -> io::Result<(TcpStream, usize)> {
        let stream = TcpStream::start_held(session, any(addr), addr)?;
        let taken = stream.speak_first(data)?;
        Ok((stream, taken))
    }

    /// [`TcpStream::connect_nonblocking_in`], but the SYN waits: what is set meanwhile counts for it, and
    /// [`TcpStream::speak_first`] or any later word lets it go.
    ///
    /// # Errors
    /// Those that connect(2) reports at once.
    pub fn start_held(session: &Session, local: SocketAddr, addr: SocketAddr) -> io::Result<TcpStream> {
        TcpStream::begin(session, local, addr, true)
    }

    /// Of a connection of [`TcpStream::start_held`]: its SYN waits for data that may go in it (RFC 7413).
    ///
    /// # Errors
    /// When the session is over.
    pub fn prepare_fast_open(&self) -> io::Result<()> {
        self.socket.set_want(want::FASTOPEN, true)
    }

    /// Lets the SYN of [`TcpStream::start_held`] go, with the first of `data` in it where that may be; says how
    /// much was taken.
    ///
    /// # Errors
    /// When the session is over.
    pub fn speak_first(&self, data: &[u8]) -> io::Result<usize> {
        if data.is_empty() {
            let Placed { slot, shard, .. } = self.socket.placed;
            self.socket.session.inner.publish(slot, shard, |_| {})?;
            return Ok(0);
        }
        self.prepare_fast_open()?;
        self.socket.block_unless(false, Half::Write, || match self.socket.sending(1, data.len())? {
            Look::Ready((mut sending, len)) => {
                sending.put(0, &data[..len]);
                sending.commit(len)?;
                Ok(Look::Ready(len))
            }
            Look::Wait => Ok(Look::Wait),
            Look::WaitForPage => Ok(Look::WaitForPage),
        })
    }

    fn start(session: &Session, local: SocketAddr, remote: SocketAddr) -> io::Result<TcpStream> {
        TcpStream::begin(session, local, remote, false)
    }

    fn begin(session: &Session, local: SocketAddr, remote: SocketAddr, hold: bool) -> io::Result<TcpStream> {
        let (peer, remote) = (remote, zone::from_client(remote));
        let local = match zone::from_client(local) {
            // The wildcard of IPv6 leaves the choice to IPv4 as well, where the remote is mapped.
            wild if wild.ip().is_unspecified() && peer.is_ipv6() => {
                SocketAddr::new(any(remote).ip(), wild.port())
            }
            local => local,
        };
        let socket = open(session, Kind::Stream, peer.is_ipv6(), Ask::Connect { local, remote, hold })?;
        Ok(TcpStream { socket, peer })
    }

    /// A connection that a listener accepted.
    pub(crate) fn accepted(socket: Arc<Socket>, peer: SocketAddr) -> TcpStream {
        TcpStream { socket, peer }
    }

    /// The remote's address.
    ///
    /// # Errors
    /// ENOTCONN while the connection is not established.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        match self.socket.flags() & level::OPEN {
            0 => Err(Errno::NOTCONN.into()),
            _ => Ok(self.peer),
        }
    }

    /// The remote's address, also of a connection that does not stand yet.
    pub fn remote_addr(&self) -> SocketAddr {
        self.peer
    }

    /// Our address.
    ///
    /// # Errors
    /// None; as std has it.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.socket.placed.local)
    }

    /// Another handle of the same connection.
    ///
    /// # Errors
    /// None; as std has it.
    pub fn try_clone(&self) -> io::Result<TcpStream> {
        Ok(TcpStream { socket: self.socket.clone(), peer: self.peer })
    }

    /// Ends one direction or both.
    ///
    /// # Errors
    /// ENOTCONN when there is no connection.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.socket.shutdown(how)
    }

    /// How long a read waits; `None` for ever.
    ///
    /// # Errors
    /// `InvalidInput` for zero.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.socket.set_timeout(Half::Read, timeout)
    }

    /// How long a write waits; `None` for ever.
    ///
    /// # Errors
    /// `InvalidInput` for zero.
    pub fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.socket.set_timeout(Half::Write, timeout)
    }

    /// How long a read waits.
    ///
    /// # Errors
    /// None; as std has it.
    pub fn read_timeout(&self) -> io::Result<Option<Duration>> {
        Ok(self.socket.timeout(Half::Read))
    }

    /// How long a write waits.
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

    /// TCP_NODELAY: small segments don't wait for acknowledgements (RFC 9293 §3.7.4).
    ///
    /// # Errors
    /// When the session is over.
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        self.socket.set_want(want::NODELAY, nodelay)
    }

    /// Whether TCP_NODELAY is set.
    ///
    /// # Errors
    /// None; as std has it.
    pub fn nodelay(&self) -> io::Result<bool> {
        Ok(self.socket.wants() & want::NODELAY != 0)
    }

    /// SO_KEEPALIVE: an idle connection is probed (RFC 9293 §3.8.4), first after `idle`; `None`
    /// turns it off.
    ///
    /// # Errors
    /// When the session is over.
    pub fn set_keepalive(&self, idle: Option<Duration>) -> io::Result<()> {
        let Placed { slot, shard, .. } = self.socket.placed;
        self.socket.session.inner.publish(slot, shard, |line| match idle {
            None => line.flags &= !want::KEEPALIVE,
            Some(idle) => {
                line.flags |= want::KEEPALIVE;
                line.keepalive_idle_s = u32::try_from(idle.as_secs().max(1)).unwrap_or(u32::MAX);
            }
        })
    }

    /// The time to live is the stack's; it is not set per socket.
    ///
    /// # Errors
    /// EOPNOTSUPP.
    pub fn set_ttl(&self, _ttl: u32) -> io::Result<()> {
        Err(Errno::OPNOTSUPP.into())
    }

    /// The error that the connection has ended with, the first time it is asked for.
    ///
    /// # Errors
    /// None; as std has it.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        Ok(self.socket.take_error())
    }

    /// Reads without taking the bytes off the stream.
    ///
    /// # Errors
    /// As [`Read::read`].
    pub fn peek(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.receive(|receiving, available| {
            let len = available.min(buf.len());
            receiving.copy(0, &mut buf[..len])?;
            Ok(len)
        })
    }

    /// Waits until bytes may be read and runs `take` on them; at the end of the stream with 0.
    pub(crate) fn receive<T>(
        &self,
        take: impl FnMut(&mut Receiving<'_>, usize) -> io::Result<T>,
    ) -> io::Result<T> {
        self.receive_unless(self.socket.is_nonblocking(), take)
    }

    /// [`TcpStream::receive`]; `dont_wait` alone says whether it may wait.
    pub(crate) fn receive_unless<T>(
        &self,
        dont_wait: bool,
        mut take: impl FnMut(&mut Receiving<'_>, usize) -> io::Result<T>,
    ) -> io::Result<T> {
        self.socket.block_unless(dont_wait, Half::Read, || self.look_at_received(&mut take))
    }

    /// One look at what was received.
    pub(crate) fn look_at_received<T>(
        &self,
        mut take: impl FnMut(&mut Receiving<'_>, usize) -> io::Result<T>,
    ) -> io::Result<Look<T>> {
        self.socket.receiving(|receiving, available, line| {
            if available > 0 || self.at_end(line) {
                return take(receiving, available).map(Look::Ready);
            }
            if let Some(error) = self.socket.take_error() {
                return Err(error);
            }
            // After the error was told: the end, as a kernel has it.
            match line.flags & level::ERROR {
                0 => Ok(Look::Wait),
                _ => take(receiving, 0).map(Look::Ready),
            }
        })
    }

    fn at_end(&self, line: &StackLine) -> bool {
        line.flags & level::END != 0 && line.flags & level::ERROR == 0
            || self.socket.wants() & want::SHUT_RD != 0
    }

    /// Whether bytes may be written, if there is room.
    pub(crate) fn writable(&self) -> io::Result<bool> {
        let Some(line) = self.socket.look() else { return Ok(false) };
        if let Some(error) = self.socket.take_error() {
            return Err(error);
        }
        if line.flags & (level::ERROR | level::SENT) != 0 || self.socket.wants() & want::SHUT_WR != 0 {
            return Err(Errno::PIPE.into());
        }
        Ok(line.flags & level::OPEN != 0)
    }

    fn write_parts(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.write_unless(self.socket.is_nonblocking(), parts)
    }

    pub(crate) fn write_unless(&self, dont_wait: bool, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.socket.block_unless(dont_wait, Half::Write, || self.try_write(parts))
    }

    /// One attempt to write.
    pub(crate) fn try_write(&self, parts: &[IoSlice<'_>]) -> io::Result<Look<usize>> {
        self.try_write_marked(parts, false)
    }

    /// [`TcpStream::try_write`]; with `urgent` the last octet is urgent, if all are written.
    pub(crate) fn try_write_marked(&self, parts: &[IoSlice<'_>], urgent: bool) -> io::Result<Look<usize>> {
        let wanted = parts.iter().map(|part| part.len()).sum::<usize>();
        if !self.writable()? {
            return Ok(Look::Wait);
        }
        if wanted == 0 {
            return Ok(Look::Ready(0));
        }
        let (mut sending, len) = match self.socket.sending(1, wanted)? {
            Look::Ready(ready) => ready,
            Look::Wait => return Ok(Look::Wait),
            Look::WaitForPage => return Ok(Look::WaitForPage),
        };
        let mut put = 0;
        for part in parts {
            let piece = part.len().min(len - put);
            sending.put(put, &part[..piece]);
            put += piece;
        }
        sending.commit_marked(len, urgent && len == wanted)?;
        drop(sending);
        self.socket.forget_urgent()?;
        Ok(Look::Ready(len))
    }

    fn read_parts(&self, parts: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        if parts.iter().all(|part| part.is_empty()) {
            return Ok(0);
        }
        self.receive(|receiving, available| {
            let mut done = 0;
            for part in parts.iter_mut() {
                let piece = part.len().min(available - done);
                receiving.copy(done, &mut part[..piece])?;
                done += piece;
            }
            receiving.consume(done)?;
            Ok(done)
        })
    }
}

impl Read for &TcpStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.read_parts(&mut [IoSliceMut::new(buf)])
    }

    fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.read_parts(bufs)
    }
}

impl Write for &TcpStream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.write_parts(&[IoSlice::new(buf)])
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.write_parts(bufs)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for TcpStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        (&*self).read(buf)
    }

    fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        (&*self).read_vectored(bufs)
    }
}

impl Write for TcpStream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        (&*self).write(buf)
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        (&*self).write_vectored(bufs)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
