//! Listening sockets: their receive stream is the queue of connections to accept.

use crate::resume::Verdict;
use crate::session::Session;
use crate::socket::{Half, Kind, Look, Placed, Socket};
use crate::tcp::{TcpStream, each_addr, open, shown};
use proto::PeerCorrupt;
use proto::arena::line::level;
use proto::arena::record::{HEADER_SIZE, Header, record_size};
use proto::control::client::Ask;
use proto::form::Share;
use proto::zone;
use rustix::io::Errno;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;

/// Connections that may wait for accept. std asks for 128, from the time when that was Linux's
/// largest; since 5.4 that is 4096 (`somaxconn`). More than this many at once are answered by SYN
/// cookies.
const BACKLOG: u32 = 1024;

/// A listening TCP socket, as [`std::net::TcpListener`].
#[derive(Debug)]
pub struct TcpListener {
    pub(crate) socket: Arc<Socket>,
}

/// What can be said of a socket before it is bound, beside its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Binding {
    /// Connections that may wait for accept; `None` for as many as std's listeners have.
    pub backlog: Option<u32>,
    /// At `::`, take IPv6 alone and leave IPv4 to others (IPV6_V6ONLY, ipv6(7)).
    pub v6_only: bool,
    /// Share the port with others that say so; the last one bound receives (SO_REUSEADDR). Listeners always
    /// do what this means for them.
    pub reuse_address: bool,
    /// Share the port with others of the same user that say so; flows are divided (SO_REUSEPORT).
    pub reuse_port: bool,
}

impl Binding {
    /// The address as the stack has it.
    pub(crate) fn local(&self, local: SocketAddr) -> SocketAddr {
        let inner = zone::from_client(local);
        if self.v6_only { zone::v6_only(inner) } else { inner }
    }

    pub(crate) fn share(&self) -> Share {
        Share { address: self.reuse_address, port: self.reuse_port }
    }
}

/// The connections that come in, one after the other, without end.
#[derive(Debug)]
pub struct Incoming<'a> {
    listener: &'a TcpListener,
}

impl TcpListener {
    /// Listens at the first of the addresses that is free, in the default session.
    ///
    /// # Errors
    /// EADDRINUSE, EADDRNOTAVAIL, EACCES below port 1024, and those of [`Session::open`].
    pub fn bind<A: ToSocketAddrs>(addr: A) -> io::Result<TcpListener> {
        TcpListener::bind_in(&Session::default_session()?, addr)
    }

    /// [`TcpListener::bind`] in another session.
    ///
    /// # Errors
    /// EADDRINUSE, EADDRNOTAVAIL, EACCES below port 1024.
    pub fn bind_in<A: ToSocketAddrs>(session: &Session, addr: A) -> io::Result<TcpListener> {
        TcpListener::bind_with_backlog_in(session, addr, BACKLOG)
    }

    /// [`TcpListener::bind_in`] with room for `backlog` connections that wait for accept.
    ///
    /// # Errors
    /// As [`TcpListener::bind_in`].
    pub fn bind_with_backlog_in<A: ToSocketAddrs>(
        session: &Session,
        addr: A,
        backlog: u32,
    ) -> io::Result<TcpListener> {
        TcpListener::bind_with_in(session, addr, Binding { backlog: Some(backlog), ..Binding::default() })
    }

    /// [`TcpListener::bind_in`] with what else can be said of it.
    ///
    /// # Errors
    /// As [`TcpListener::bind_in`].
    pub fn bind_with_in<A: ToSocketAddrs>(
        session: &Session,
        addr: A,
        binding: Binding,
    ) -> io::Result<TcpListener> {
        let backlog = binding.backlog.unwrap_or(BACKLOG).max(1);
        each_addr(addr, |local| TcpListener::open(session, local, binding, backlog))
    }

    fn open(session: &Session, local: SocketAddr, binding: Binding, backlog: u32) -> io::Result<TcpListener> {
        let ask = Ask::Listen { local: binding.local(local), backlog, share: binding.share() };
        let socket = open(session, Kind::Listener, local.is_ipv6(), ask)?;
        Ok(TcpListener { socket })
    }

    /// Takes a port and does not listen at it yet (bind(2)): connections to it are refused. The backlog of
    /// `binding` is not looked at.
    ///
    /// # Errors
    /// As [`TcpListener::bind_in`].
    pub fn reserve_in(session: &Session, local: SocketAddr, binding: Binding) -> io::Result<TcpListener> {
        TcpListener::open(session, local, binding, 0)
    }

    /// Listens at the port that was taken (listen(2)), with room for `backlog` connections that wait for accept;
    /// that much room from now on, if it listens already. When it returns connections come in.
    ///
    /// # Errors
    /// When the session is over.
    pub fn listen(&self, backlog: u32) -> io::Result<()> {
        self.socket.set_line(|line| line.set_backlog(backlog.max(1)))?;
        let inner = &self.socket.session.inner;
        let listens = || self.socket.parts().all(|part| part.flags() & level::OPEN != 0);
        inner.wait_for(&self.socket.waiters, None, || Ok(listens().then_some(()))).map(drop)
    }

    /// Waits for a connection.
    ///
    /// # Errors
    /// `WouldBlock` when non-blocking and none waits.
    pub fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        self.accept_unless(self.socket.is_nonblocking())
    }

    pub(crate) fn accept_unless(&self, dont_wait: bool) -> io::Result<(TcpStream, SocketAddr)> {
        let header = self.socket.block_unless(dont_wait, Half::Read, || self.next())?;
        self.accepted(&header)
    }

    /// The connection that an accept record names. It belongs to the shard in whose queue it stood, which
    /// is that of its place.
    pub(crate) fn accepted(&self, header: &Header) -> io::Result<(TcpStream, SocketAddr)> {
        let geometry = &self.socket.session.inner.geometry;
        let shard = geometry.owner(header.slot);
        // What comes to a listener of the IPv6 family is of that family, mapped if need be (RFC 3493 §3.7).
        let v6 = self.socket.placed.local.is_ipv6();
        let (local, remote) = (shown(header.local, v6), shown(header.remote, v6));
        let placed = Placed { slot: header.slot, epoch: header.epoch, shard, local };
        if header.slot.0 < geometry.active {
            let rule = PeerCorrupt::new("an accepted connection at a place of ours");
            return Err(self.socket.session.inner.corrupt(rule));
        }
        let socket = Socket::place(&self.socket.session, Kind::Stream, placed)?;
        Ok((TcpStream::accepted(socket, remote), remote))
    }

    pub(crate) fn next(&self) -> io::Result<Look<Header>> {
        self.next_if(|_| Verdict::Taken)
    }

    /// The next one, which leaves the queue if `keep` says so.
    pub(crate) fn next_if(&self, mut keep: impl FnMut(&Header) -> Verdict) -> io::Result<Look<Header>> {
        self.socket.look_in_turn(false, |part| self.next_of(part, &mut keep))
    }

    /// The next one in the queue of one shard.
    fn next_of(&self, part: &Socket, keep: &mut impl FnMut(&Header) -> Verdict) -> io::Result<Look<Header>> {
        part.receiving(|receiving, mut available, _| {
            loop {
                if available < HEADER_SIZE {
                    return match part.take_error() {
                        Some(error) => Err(error),
                        None => Ok(Look::Wait),
                    };
                }
                let mut bytes = [0; HEADER_SIZE];
                receiving.copy(0, &mut bytes)?;
                let header = Header::from_bytes(&bytes).filter(|header| header.len == 0);
                let Some(header) = header else {
                    let rule = PeerCorrupt::new("an accept record that makes no sense");
                    return Err(self.socket.session.inner.corrupt(rule));
                };
                if !header.is_lost() && keep(&header) == Verdict::Left {
                    return Ok(Look::Wait);
                }
                receiving.consume(record_size(0))?;
                if !header.is_lost() {
                    return Ok(Look::Ready(header));
                }
                available = available.saturating_sub(record_size(0));
            }
        })
    }

    /// The connections that come in.
    pub fn incoming(&self) -> Incoming<'_> {
        Incoming { listener: self }
    }

    /// The address it listens at.
    ///
    /// # Errors
    /// None; as std has it.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.socket.placed.local)
    }

    /// Another handle of the same listener.
    ///
    /// # Errors
    /// None; as std has it.
    pub fn try_clone(&self) -> io::Result<TcpListener> {
        Ok(TcpListener { socket: self.socket.clone() })
    }

    /// Calls return `WouldBlock` instead of waiting.
    ///
    /// # Errors
    /// None; as std has it.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.socket.set_nonblocking(nonblocking);
        Ok(())
    }

    /// The time to live is the stack's; it is not set per socket.
    ///
    /// # Errors
    /// EOPNOTSUPP.
    pub fn set_ttl(&self, _ttl: u32) -> io::Result<()> {
        Err(Errno::OPNOTSUPP.into())
    }

    /// The error that the listener has ended with, the first time it is asked for.
    ///
    /// # Errors
    /// None; as std has it.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        Ok(self.socket.take_error())
    }
}

impl Iterator for Incoming<'_> {
    type Item = io::Result<TcpStream>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.listener.accept().map(|(stream, _)| stream))
    }
}
