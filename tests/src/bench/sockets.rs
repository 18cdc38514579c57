//! The two kinds of sockets that the load programs run over: the kernel's and the stack's. The same
//! program measures both; nothing here but opening differs.

use libnetclient::{Session, Size};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::time::Duration;

/// The congestion control of the kernel's ends: what the stack uses too.
const CONGESTION: &str = "cubic";

/// A TCP stream.
pub trait Stream: Read + Write {
    /// Ends our direction.
    ///
    /// # Errors
    /// Those of shutdown(2).
    fn finish_writing(&self) -> io::Result<()>;
}

/// A UDP socket.
pub trait Datagrams {
    /// As `std::net::UdpSocket::send_to`.
    ///
    /// # Errors
    /// As there.
    fn send_to(&self, bytes: &[u8], to: SocketAddr) -> io::Result<usize>;
    /// As `std::net::UdpSocket::recv_from`.
    ///
    /// # Errors
    /// As there.
    fn recv_from(&self, bytes: &mut [u8]) -> io::Result<(usize, SocketAddr)>;
    /// As `std::net::UdpSocket::set_nonblocking`.
    ///
    /// # Errors
    /// As there.
    fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()>;
    /// As `std::net::UdpSocket::set_read_timeout`.
    ///
    /// # Errors
    /// As there.
    fn set_read_timeout(&self, timeout: Duration) -> io::Result<()>;
}

/// Where sockets come from.
pub trait Sockets {
    /// Accepts connections.
    type Listener: Sync;
    /// A connection, blocking, without Nagle's delay.
    type Stream: Stream + Send;
    /// Datagrams.
    type Datagrams: Datagrams;
    /// Listens at every address.
    ///
    /// # Errors
    /// Those of bind(2) and listen(2).
    fn listen(&self, port: u16) -> io::Result<Self::Listener>;
    /// Waits for a connection.
    ///
    /// # Errors
    /// Those of accept(2).
    fn accept(&self, listener: &Self::Listener) -> io::Result<Self::Stream>;
    /// Connects.
    ///
    /// # Errors
    /// Those of connect(2).
    fn connect(&self, to: SocketAddr) -> io::Result<Self::Stream>;
    /// A UDP socket at every address.
    ///
    /// # Errors
    /// Those of bind(2).
    fn datagrams(&self, port: u16) -> io::Result<Self::Datagrams>;
}

/// The kernel's sockets.
#[derive(Debug, Clone, Copy)]
pub struct Kernel;

/// The stack's sockets, in one session.
#[derive(Debug)]
pub struct Stack(pub Session);

impl Stack {
    /// A session with the group that the environment names.
    ///
    /// # Errors
    /// Those of `Session::open`.
    pub fn open(size: Size) -> io::Result<Stack> {
        let name = std::env::var("AXOLOTL").unwrap_or_else(|_| "axolotl".into());
        Ok(Stack(Session::open_sized(&name, size)?))
    }
}

impl Stream for std::net::TcpStream {
    fn finish_writing(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

impl Stream for libnetclient::TcpStream {
    fn finish_writing(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

macro_rules! datagrams {
    ($($socket:ty),*) => {$(
        impl Datagrams for $socket {
            fn send_to(&self, bytes: &[u8], to: SocketAddr) -> io::Result<usize> {
                <$socket>::send_to(self, bytes, to)
            }

            fn recv_from(&self, bytes: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
                <$socket>::recv_from(self, bytes)
            }

            fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
                <$socket>::set_nonblocking(self, nonblocking)
            }

            fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
                <$socket>::set_read_timeout(self, Some(timeout))
            }
        }
    )*};
}

datagrams!(std::net::UdpSocket, libnetclient::UdpSocket);

fn prepared(stream: std::net::TcpStream) -> io::Result<std::net::TcpStream> {
    stream.set_nodelay(true)?;
    // Where the kernel has no such module its default stands; the report says what it is.
    let _ = rustix::net::sockopt::set_tcp_congestion(&stream, CONGESTION);
    Ok(stream)
}

impl Sockets for Kernel {
    type Listener = std::net::TcpListener;
    type Stream = std::net::TcpStream;
    type Datagrams = std::net::UdpSocket;

    fn listen(&self, port: u16) -> io::Result<Self::Listener> {
        std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))
    }

    fn accept(&self, listener: &Self::Listener) -> io::Result<Self::Stream> {
        prepared(listener.accept()?.0)
    }

    fn connect(&self, to: SocketAddr) -> io::Result<Self::Stream> {
        prepared(std::net::TcpStream::connect_timeout(&to, Duration::from_secs(10))?)
    }

    fn datagrams(&self, port: u16) -> io::Result<Self::Datagrams> {
        std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))
    }
}

impl Sockets for Stack {
    type Listener = libnetclient::TcpListener;
    type Stream = libnetclient::TcpStream;
    type Datagrams = libnetclient::UdpSocket;

    fn listen(&self, port: u16) -> io::Result<Self::Listener> {
        libnetclient::TcpListener::bind_in(&self.0, (Ipv4Addr::UNSPECIFIED, port))
    }

    fn accept(&self, listener: &Self::Listener) -> io::Result<Self::Stream> {
        let (stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    fn connect(&self, to: SocketAddr) -> io::Result<Self::Stream> {
        let stream = libnetclient::TcpStream::connect_timeout_in(&self.0, &to, Duration::from_secs(10))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    fn datagrams(&self, port: u16) -> io::Result<Self::Datagrams> {
        libnetclient::UdpSocket::bind_in(&self.0, (Ipv4Addr::UNSPECIFIED, port))
    }
}
