//! The sockets for programs of tokio (feature `tokio`): [`TcpListener`], [`TcpStream`] and
//! [`UdpSocket`] as tokio's namesakes, with [`AsyncRead`], [`AsyncWrite`] and two halves.
//!
//! A task that has to wait joins the socket's waiters and looks once more; the session's thread, which
//! takes up its events, wakes it. So no runtime's driver is needed, a socket has no descriptor, and
//! one may be used by several runtimes. Waits end by dropping their future; time limits are tokio's.
//!
//! Not here: what waits for a send page of the session waits as a thread's write does, on that list.

use crate::session::start_dispatcher;
use crate::socket::{Look, Socket};
use crate::tcp::each_addr;
use crate::waiter::Waiter;
use crate::{Session, tcp};
use rustix::io::Errno;
use std::future::poll_fn;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{Shutdown, SocketAddr, ToSocketAddrs};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

impl Socket {
    /// Attempts, and joins the waiters when it is not ready yet.
    fn poll_task<T>(
        &self,
        context: &mut Context<'_>,
        mut attempt: impl FnMut() -> io::Result<Look<T>>,
    ) -> Poll<io::Result<T>> {
        for last in [false, true] {
            let waiters = match attempt()? {
                Look::Ready(value) => return Poll::Ready(Ok(value)),
                Look::Wait => &self.waiters,
                Look::WaitForPage => &self.session.inner.page_waiters,
            };
            self.session.inner.sound()?;
            if !last {
                self.tell_consumed()?;
                start_dispatcher(&self.session)?;
            }
            // Joined before the second look: what changes after it wakes the task.
            waiters.join(Waiter::Task(context.waker().clone()));
        }
        Poll::Pending
    }
}

/// A TCP connection of tokio's kind.
#[derive(Debug)]
pub struct TcpStream {
    stream: crate::TcpStream,
}

/// The half of a connection that reads.
#[derive(Debug)]
pub struct OwnedReadHalf(Arc<TcpStream>);

/// The half of a connection that writes; dropping it ends that direction.
#[derive(Debug)]
pub struct OwnedWriteHalf {
    stream: Arc<TcpStream>,
    shut_down: bool,
}

/// A listening socket of tokio's kind.
#[derive(Debug)]
pub struct TcpListener {
    listener: crate::TcpListener,
}

/// A UDP socket of tokio's kind.
#[derive(Debug)]
pub struct UdpSocket {
    socket: crate::UdpSocket,
}

impl TcpStream {
    /// Connects to the first of the addresses that answers, in the default session.
    ///
    /// # Errors
    /// Those of connect(2), and of [`Session::open`].
    pub async fn connect<A: ToSocketAddrs>(addr: A) -> io::Result<TcpStream> {
        TcpStream::connect_in(&Session::default_session()?, addr).await
    }

    /// [`TcpStream::connect`] in another session.
    ///
    /// # Errors
    /// Those of connect(2).
    pub async fn connect_in<A: ToSocketAddrs>(session: &Session, addr: A) -> io::Result<TcpStream> {
        let mut last = Errno::ADDRNOTAVAIL.into();
        for addr in addr.to_socket_addrs()? {
            let begun = crate::TcpStream::connect_nonblocking_in(session, tcp::any(addr), addr);
            match begun {
                Ok(stream) => match (TcpStream { stream }).established().await {
                    Ok(stream) => return Ok(stream),
                    Err(error) => last = error,
                },
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn established(self) -> io::Result<TcpStream> {
        let stream = &self.stream;
        poll_fn(|context| {
            stream.socket.poll_task(context, || match stream.take_error()? {
                Some(error) => Err(error),
                None if stream.peer_addr().is_ok() => Ok(Look::Ready(())),
                None => Ok(Look::Wait),
            })
        })
        .await?;
        Ok(self)
    }

    /// The connection behind it, for options and addresses.
    pub fn get_ref(&self) -> &crate::TcpStream {
        &self.stream
    }

    /// The connection as `std::net` has it, blocking.
    ///
    /// # Errors
    /// None; as tokio has it.
    pub fn into_std(self) -> io::Result<crate::TcpStream> {
        self.stream.set_nonblocking(false)?;
        Ok(self.stream)
    }

    /// A connection that was made by other means.
    ///
    /// # Errors
    /// None; as tokio has it.
    pub fn from_std(stream: crate::TcpStream) -> io::Result<TcpStream> {
        stream.set_nonblocking(true)?;
        Ok(TcpStream { stream })
    }

    /// Our address.
    ///
    /// # Errors
    /// None; as tokio has it.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.stream.local_addr()
    }

    /// The remote's address.
    ///
    /// # Errors
    /// ENOTCONN while the connection is not established.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.stream.peer_addr()
    }

    /// TCP_NODELAY.
    ///
    /// # Errors
    /// When the session is over.
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        self.stream.set_nodelay(nodelay)
    }

    /// Two halves for two tasks. [`tokio::io::split`] does it too, with a lock.
    pub fn into_split(self) -> (OwnedReadHalf, OwnedWriteHalf) {
        let stream = Arc::new(self);
        (OwnedReadHalf(stream.clone()), OwnedWriteHalf { stream, shut_down: false })
    }

    fn poll_read_shared(&self, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let place = buf.initialize_unfilled();
        let read = self.stream.socket.poll_task(context, || {
            self.stream.look_at_received(|receiving, available| {
                let len = available.min(place.len());
                receiving.copy(0, &mut place[..len])?;
                receiving.consume(len)?;
                Ok(len)
            })
        });
        let len = ready!(read)?;
        buf.advance(len);
        Poll::Ready(Ok(()))
    }

    fn poll_write_shared(&self, context: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.stream.socket.poll_task(context, || self.stream.try_write(parts))
    }

    fn end(&self) -> Poll<io::Result<()>> {
        Poll::Ready(match self.stream.shutdown(Shutdown::Write) {
            // It has ended already.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            outcome => outcome,
        })
    }
}

impl AsyncRead for TcpStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_read_shared(context, buf)
    }
}

impl AsyncWrite for TcpStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_shared(context, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_shared(context, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.end()
    }
}

impl AsyncRead for OwnedReadHalf {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.0.poll_read_shared(context, buf)
    }
}

impl AsyncWrite for OwnedWriteHalf {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.stream.poll_write_shared(context, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream.poll_write_shared(context, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shut_down = true;
        self.stream.end()
    }
}

impl Drop for OwnedWriteHalf {
    fn drop(&mut self) {
        if !self.shut_down {
            let _ = self.stream.end();
        }
    }
}

impl TcpListener {
    /// Listens at the first of the addresses that is free, in the default session.
    ///
    /// # Errors
    /// As [`crate::TcpListener::bind`].
    pub async fn bind<A: ToSocketAddrs>(addr: A) -> io::Result<TcpListener> {
        TcpListener::bind_in(&Session::default_session()?, addr)
    }

    /// [`TcpListener::bind`] in another session.
    ///
    /// # Errors
    /// As [`crate::TcpListener::bind_in`].
    pub fn bind_in<A: ToSocketAddrs>(session: &Session, addr: A) -> io::Result<TcpListener> {
        let listener = each_addr(addr, |addr| crate::TcpListener::bind_in(session, addr))?;
        listener.set_nonblocking(true)?;
        Ok(TcpListener { listener })
    }

    /// Waits for a connection.
    ///
    /// # Errors
    /// As [`crate::TcpListener::accept`].
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        poll_fn(|context| self.poll_accept(context)).await
    }

    /// Looks for a connection.
    ///
    /// # Errors
    /// As [`crate::TcpListener::accept`].
    pub fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
        let header = ready!(self.listener.socket.poll_task(context, || self.listener.next()))?;
        let (stream, remote) = self.listener.accepted(&header)?;
        Poll::Ready(TcpStream::from_std(stream).map(|stream| (stream, remote)))
    }

    /// The address it listens at.
    ///
    /// # Errors
    /// None; as tokio has it.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl UdpSocket {
    /// Opens a socket at the first of the addresses that is free, in the default session.
    ///
    /// # Errors
    /// As [`crate::UdpSocket::bind`].
    pub async fn bind<A: ToSocketAddrs>(addr: A) -> io::Result<UdpSocket> {
        UdpSocket::bind_in(&Session::default_session()?, addr)
    }

    /// [`UdpSocket::bind`] in another session.
    ///
    /// # Errors
    /// As [`crate::UdpSocket::bind_in`].
    pub fn bind_in<A: ToSocketAddrs>(session: &Session, addr: A) -> io::Result<UdpSocket> {
        let socket = crate::UdpSocket::bind_in(session, addr)?;
        socket.set_nonblocking(true)?;
        Ok(UdpSocket { socket })
    }

    /// Takes datagrams of one remote only, and makes it where [`UdpSocket::send`] sends.
    ///
    /// # Errors
    /// As [`crate::UdpSocket::connect`].
    pub async fn connect<A: ToSocketAddrs>(&self, addr: A) -> io::Result<()> {
        self.socket.connect(addr)
    }

    /// Sends a datagram.
    ///
    /// # Errors
    /// As [`crate::UdpSocket::send_to`].
    pub async fn send_to<A: ToSocketAddrs>(&self, buf: &[u8], addr: A) -> io::Result<usize> {
        let remote = addr.to_socket_addrs()?.next().ok_or(io::ErrorKind::InvalidInput)?;
        self.send_where(buf, remote).await
    }

    /// Sends a datagram to the remote of [`UdpSocket::connect`].
    ///
    /// # Errors
    /// As [`crate::UdpSocket::send`].
    pub async fn send(&self, buf: &[u8]) -> io::Result<usize> {
        let remote = self.socket.remote().ok_or(Errno::DESTADDRREQ)?;
        self.send_where(buf, remote).await
    }

    async fn send_where(&self, buf: &[u8], remote: SocketAddr) -> io::Result<usize> {
        let socket = &self.socket;
        poll_fn(|context| socket.socket.poll_task(context, || socket.try_send(&[IoSlice::new(buf)], remote)))
            .await
    }

    /// Waits for a datagram; what does not fit into `buf` is lost.
    ///
    /// # Errors
    /// As [`crate::UdpSocket::recv_from`].
    pub async fn recv_from(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let socket = &self.socket;
        let datagram = poll_fn(|context| {
            let bufs = &mut [IoSliceMut::new(buf)];
            socket.socket.poll_task(context, || socket.look_at_received(bufs, true))
        })
        .await?;
        Ok((datagram.copied, datagram.remote))
    }

    /// Waits for a datagram of the remote of [`UdpSocket::connect`].
    ///
    /// # Errors
    /// As [`crate::UdpSocket::recv_from`].
    pub async fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.recv_from(buf).await.map(|(len, _)| len)
    }

    /// Our address.
    ///
    /// # Errors
    /// None; as tokio has it.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// The socket behind it, for options and addresses.
    pub fn get_ref(&self) -> &crate::UdpSocket {
        &self.socket
    }
}
