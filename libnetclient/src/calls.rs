//! Calls with flags, as recv(2) and send(2) have them.

use crate::socket::{Half, Look};
use crate::{TcpListener, TcpStream, UdpSocket};
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

/// What a single call is to do otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags {
    /// Return `WouldBlock` instead of waiting (MSG_DONTWAIT).
    pub dont_wait: bool,
    /// Leave what is read where it is (MSG_PEEK).
    pub peek: bool,
}

/// A datagram that was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram {
    /// Bytes that were copied.
    pub copied: usize,
    /// Bytes that it had.
    pub len: usize,
    /// Who sent it.
    pub remote: SocketAddr,
    /// Our address, as the sender named it.
    pub local: SocketAddr,
    /// The interface it came in by, as if_nametoindex(3) would say: 1 for loopback; 0 when unknown.
    pub interface: u32,
    /// Hops it could still have taken (IP_RECVTTL, IPV6_RECVHOPLIMIT).
    pub hop_limit: u8,
    /// Differentiated services and ECN (IP_RECVTOS, IPV6_RECVTCLASS).
    pub tos: u8,
    /// Bytes of each datagram where several of one flow came at once, the last one may be shorter (UDP_GRO);
    /// 0 for one.
    pub segment: u16,
    /// When it came in, on the clock since the host began (CLOCK_MONOTONIC).
    pub at: Duration,
    /// What a packet socket says of it.
    pub marks: u16,
}

impl Datagram {
    /// When it came in, on the wall's clock (SO_TIMESTAMP), as that clock goes now.
    pub fn received_at(&self) -> SystemTime {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let now = Duration::new(now.tv_sec as u64, now.tv_nsec as u32);
        SystemTime::now().checked_sub(now.saturating_sub(self.at)).unwrap_or(SystemTime::UNIX_EPOCH)
    }
}

/// Where a datagram leaves, for one that says it itself (IP_PKTINFO).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Origin {
    /// The source address; `None` leaves it to the socket and the stack.
    pub source: Option<IpAddr>,
    /// The interface, as [`Datagram::interface`] has it: where the way leads elsewhere the datagram is
    /// dropped. 0 leaves it to the routes.
    pub interface: u32,
    /// Hops (IP_TTL, IPV6_HOPLIMIT as a control message); `None` as the socket has it.
    pub hops: Option<u8>,
    /// Differentiated services (IP_TOS, IPV6_TCLASS as a control message); `None` as the socket has it.
    pub tos: Option<u8>,
    /// Bytes of each datagram (UDP_SEGMENT as a control message); `None` as the socket has it.
    pub segment: Option<u16>,
}

impl TcpStream {
    /// Reads as readv(2), with flags.
    ///
    /// # Errors
    /// As [`std::io::Read::read`].
    pub fn recv_with(&self, bufs: &mut [IoSliceMut<'_>], flags: Flags) -> io::Result<usize> {
        if bufs.iter().all(|buf| buf.is_empty()) {
            return Ok(0);
        }
        self.receive_unless(flags.dont_wait || self.socket.is_nonblocking(), |receiving, available| {
            let mut done = 0;
            for buf in bufs.iter_mut() {
                let piece = buf.len().min(available - done);
                receiving.copy(done, &mut buf[..piece])?;
                done += piece;
            }
            if !flags.peek {
                receiving.consume(done)?;
            }
            Ok(done)
        })
    }

    /// Takes up to `len` bytes off the stream without a copy (MSG_TRUNC of tcp(7)).
    ///
    /// # Errors
    /// As [`std::io::Read::read`].
    pub fn discard(&self, len: usize, dont_wait: bool) -> io::Result<usize> {
        self.receive_unless(dont_wait || self.socket.is_nonblocking(), |receiving, available| {
            let len = len.min(available);
            receiving.consume(len)?;
            Ok(len)
        })
    }

    /// Writes as writev(2), with flags.
    ///
    /// # Errors
    /// As [`std::io::Write::write`].
    pub fn send_with(&self, bufs: &[IoSlice<'_>], dont_wait: bool) -> io::Result<usize> {
        self.write_unless(dont_wait || self.socket.is_nonblocking(), bufs)
    }

    /// Whether calls return `WouldBlock` instead of waiting.
    pub fn is_nonblocking(&self) -> bool {
        self.socket.is_nonblocking()
    }
}

impl TcpListener {
    /// Accepts as accept(2), saying for this call alone whether it waits.
    ///
    /// # Errors
    /// As [`TcpListener::accept`].
    pub fn accept_with(&self, dont_wait: bool) -> io::Result<(TcpStream, SocketAddr)> {
        self.accept_unless(dont_wait || self.socket.is_nonblocking())
    }

    /// How long an accept waits; `None` for ever (SO_RCVTIMEO).
    ///
    /// # Errors
    /// `InvalidInput` for zero.
    pub fn set_accept_timeout(&self, timeout: Option<std::time::Duration>) -> io::Result<()> {
        self.socket.set_timeout(Half::Read, timeout)
    }
}

impl UdpSocket {
    /// Receives a datagram into several buffers, with flags.
    ///
    /// # Errors
    /// As [`UdpSocket::recv_from`].
    pub fn recv_with(&self, bufs: &mut [IoSliceMut<'_>], flags: Flags) -> io::Result<Datagram> {
        self.receive_unless(flags.dont_wait || self.socket.is_nonblocking(), bufs, !flags.peek)
    }

    /// Sends a datagram out of several buffers, to the remote of [`UdpSocket::connect`] when `to` is
    /// `None`.
    ///
    /// # Errors
    /// As [`UdpSocket::send_to`] and [`UdpSocket::send`].
    pub fn send_with(
        &self,
        bufs: &[IoSlice<'_>],
        to: Option<SocketAddr>,
        dont_wait: bool,
    ) -> io::Result<usize> {
        let to = match to {
            Some(to) => to,
            None => self.remote().ok_or(rustix::io::Errno::DESTADDRREQ)?,
        };
        self.send_parts(dont_wait || self.socket.is_nonblocking(), bufs, to)
    }

    /// As [`UdpSocket::send_with`], saying where the datagram leaves.
    ///
    /// # Errors
    /// As [`UdpSocket::send_with`].
    pub fn send_from(
        &self,
        bufs: &[IoSlice<'_>],
        to: Option<SocketAddr>,
        origin: Origin,
        dont_wait: bool,
    ) -> io::Result<usize> {
        let to = match to {
            Some(to) => to,
            None => self.remote().ok_or(rustix::io::Errno::DESTADDRREQ)?,
        };
        let dont_wait = dont_wait || self.socket.is_nonblocking();
        self.socket.block_unless(dont_wait, Half::Write, || self.try_send_from(bufs, to, origin))
    }

    /// Bytes of the datagram that comes next (FIONREAD).
    pub fn next_len(&self) -> Option<usize> {
        let found = self.socket.look_in_turn(true, |part| {
            part.receiving(|receiving, available, _| match available {
                0 => Ok(Look::Wait),
                _ => self.header(receiving, available).map(Look::Ready),
            })
        });
        match found {
            Ok(Look::Ready(header)) => Some(header.len as usize),
            _ => None,
        }
    }
}
