//! Sockets that outlive the process that numbers them: what is to be written down about one, and the
//! same socket again in a successor. For programs in Rust that hold a session over their own death
//! (`libnetclient::resume`); nothing here is seen from C.

use crate::abi::{Errno, Outcome};
use crate::control;
use crate::datagram_options::Told;
use crate::entry::{Entry, State};
use crate::options::Options;
use crate::table;
use libc::c_int;
use libnetclient::resume::{Place, Verdict};
use libnetclient::{Datagram, Flags, Session, TcpListener, TcpStream, UdpSocket};
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::sync::Arc;

/// Bytes of a socket's options.
pub const OPTIONS_SIZE: usize = 64;

/// What a socket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Without a place.
    Fresh,
    /// It has a port, and connections come in when it is `listening`.
    Listener {
        /// Where it lives.
        place: Place,
        /// listen(2) was called.
        listening: bool,
    },
    /// A connection; `begun` while nobody has been told that it stands.
    Stream {
        /// Where it lives.
        place: Place,
        /// The remote.
        peer: SocketAddr,
        /// Not told to stand.
        begun: bool,
    },
    /// Datagrams.
    Datagram {
        /// Where it lives.
        place: Place,
        /// Its only remote.
        peer: Option<SocketAddr>,
    },
}

/// A socket as it is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// AF_INET or AF_INET6.
    pub family: c_int,
    /// SOCK_STREAM or SOCK_DGRAM.
    pub kind: c_int,
    /// What it is.
    pub what: What,
    /// What was set.
    pub options: [u8; OPTIONS_SIZE],
}

/// What a number stands for.
///
/// # Errors
/// EBADF; ENOTSOCK for an epoll.
pub fn snapshot(fd: c_int) -> Outcome<Snapshot> {
    let entry = table::get(fd)?;
    let what = match entry.state() {
        State::Fresh => What::Fresh,
        State::Listener { listener, listening } => What::Listener { place: listener.place(), listening },
        State::Stream { stream, begun } => {
            What::Stream { place: stream.place(), peer: stream.remote_addr(), begun }
        }
        State::Datagram(socket) => What::Datagram { place: socket.place(), peer: socket.peer_addr().ok() },
        State::Epoll(_) => return Err(Errno(libc::ENOTSOCK)),
    };
    let options = crate::entry::lock(&entry.options).to_bytes();
    Ok(Snapshot { family: entry.family, kind: entry.kind, what, options })
}

/// The same socket again, non-blocking, in a session that was taken up.
///
/// # Errors
/// EMFILE; when the place makes no sense.
pub fn restore(session: &Session, snapshot: &Snapshot) -> io::Result<c_int> {
    let options = Options::from_bytes(&snapshot.options);
    let state = match snapshot.what {
        What::Fresh => State::Fresh,
        What::Listener { place, listening } => {
            State::Listener { listener: Arc::new(TcpListener::resume(session, place)?), listening }
        }
        What::Stream { place, peer, begun } => {
            let stream = TcpStream::resume(session, place, peer)?;
            options.apply(&stream);
            State::Stream { stream: Arc::new(stream), begun }
        }
        What::Datagram { place, peer } => State::Datagram(Arc::new(UdpSocket::resume(session, place, peer)?)),
    };
    let entry = Entry::with(snapshot.family, snapshot.kind, true, state, options);
    table::open(entry, 0, true).map_err(|errno| io::Error::from_raw_os_error(errno.0))
}

/// accept(2) in two steps: `keep` writes down where the connection lives, only then it leaves the queue.
/// The new number is non-blocking.
///
/// # Errors
/// EAGAIN when none waits or `keep` left it; else as accept(2).
pub fn accept(fd: c_int, keep: impl FnMut(Place, SocketAddr) -> Verdict) -> Outcome<(c_int, SocketAddr)> {
    let entry = table::get(fd)?;
    let (accepted, remote) = entry.accept_kept(keep)?;
    Ok((table::open(accepted, 0, true)?, remote))
}

/// The listener behind a number.
///
/// # Errors
/// EBADF; EINVAL when it is none.
pub fn listener(fd: c_int) -> Outcome<Arc<TcpListener>> {
    match table::get(fd)?.state() {
        State::Listener { listener, .. } => Ok(listener),
        _ => Err(Errno(libc::EINVAL)),
    }
}

/// The connection behind a number.
///
/// # Errors
/// As `nc_getpeername`.
pub fn stream(fd: c_int) -> Outcome<Arc<TcpStream>> {
    table::get(fd)?.stream()
}

/// The UDP socket behind a number, if it has a place.
pub fn datagram(fd: c_int) -> Option<Arc<UdpSocket>> {
    match table::get(fd).ok()?.state() {
        State::Datagram(socket) => Some(socket),
        _ => None,
    }
}

/// One look at what a UDP socket has received: bytes that were copied, and what came with them. A `peek`
/// leaves it where it is.
///
/// # Errors
/// As recvmsg(2); EAGAIN when there is nothing.
pub fn receive(fd: c_int, room: &mut [u8], peek: bool) -> Outcome<Datagram> {
    let socket = table::get(fd)?.datagram()?;
    Ok(socket.recv_with(&mut [IoSliceMut::new(room)], Flags { dont_wait: true, peek })?)
}

/// The control messages of a datagram that was received, for a caller who has room for so many bytes, and
/// whether they were cut.
///
/// # Errors
/// EBADF.
pub fn control_messages(fd: c_int, datagram: &Datagram, room: usize) -> Outcome<(Vec<u8>, bool)> {
    Ok(control::of_datagram(&*table::get(fd)?, datagram, room))
}

/// Whether control messages of received datagrams were asked for.
pub fn wants_control(fd: c_int) -> bool {
    table::get(fd).is_ok_and(|entry| entry.wants_packet_info() || entry.told() != Told::default())
}

/// Lets go of a number without a close towards the stack: what it stands for lives on at its place, for
/// whoever restores it next.
pub fn forget(fd: c_int) {
    if let Ok(entry) = table::close(fd) {
        core::mem::forget(entry);
    }
}
