//! The session's sockets, as the C library has them: results for −1 and errno, slices for pointers.

#![expect(unsafe_code, reason = "the C library's calls take pointers")]

use crate::program::Errno;
use libc::{c_int, epoll_event, sockaddr, sockaddr_in6, socklen_t};
use libnetclient::Datagram;
use libnetclient::resume::{Place, Verdict};
use netclient::resume::{self, Snapshot};
use netclient::{epoll, in_place, names, options, poll, transfer};
use std::io;
use std::net::SocketAddr;

/// Room for any address of the internet families.
const NAME_MAX: usize = size_of::<sockaddr_in6>();
/// Room for any option's value: `struct tcp_info` is the longest.
const VALUE_MAX: usize = 512;

fn checked(result: c_int) -> Result<c_int, Errno> {
    if result < 0 { Err(errno()) } else { Ok(result) }
}

fn counted(result: isize) -> Result<usize, Errno> {
    usize::try_from(result).map_err(|_| errno())
}

fn errno() -> Errno {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

/// socket(2), non-blocking.
///
/// # Errors
/// As there.
pub fn socket(domain: c_int, kind: c_int, protocol: c_int) -> Result<c_int, Errno> {
    checked(names::nc_socket(domain, kind | libc::SOCK_NONBLOCK, protocol))
}

/// bind(2).
///
/// # Errors
/// As there.
pub fn bind(fd: c_int, name: &[u8]) -> Result<(), Errno> {
    // SAFETY: a slice of ours, with its length.
    checked(unsafe { names::nc_bind(fd, name.as_ptr().cast(), name.len() as socklen_t) }).map(drop)
}

/// connect(2).
///
/// # Errors
/// As there; EINPROGRESS first, EALREADY while it goes on.
pub fn connect(fd: c_int, name: &[u8]) -> Result<(), Errno> {
    // SAFETY: a slice of ours, with its length.
    checked(unsafe { names::nc_connect(fd, name.as_ptr().cast(), name.len() as socklen_t) }).map(drop)
}

/// listen(2).
///
/// # Errors
/// As there.
pub fn listen(fd: c_int, backlog: c_int) -> Result<(), Errno> {
    checked(names::nc_listen(fd, backlog)).map(drop)
}

/// A call that tells an address: bytes of a `sockaddr`.
type Tell = unsafe extern "C" fn(c_int, *mut sockaddr, *mut socklen_t) -> c_int;

fn told(fd: c_int, tell: Tell) -> Result<(c_int, Vec<u8>), Errno> {
    let (mut name, mut len) = (vec![0u8; NAME_MAX], NAME_MAX as socklen_t);
    // SAFETY: `name` has `len` bytes; both are ours.
    let result = checked(unsafe { tell(fd, name.as_mut_ptr().cast(), &raw mut len) })?;
    name.truncate(len as usize);
    Ok((result, name))
}

/// An address as a program has it.
pub fn parse_name(name: &[u8]) -> Option<SocketAddr> {
    // SAFETY: a slice of ours, with its length.
    unsafe { netclient::abi::address(name.as_ptr().cast(), name.len() as socklen_t) }.ok().flatten()
}

/// An address as a program of that family wants it.
pub fn make_name(address: SocketAddr, family: c_int) -> Vec<u8> {
    let (mut name, mut len) = (vec![0u8; NAME_MAX], NAME_MAX as socklen_t);
    // SAFETY: `name` has `len` bytes; both are ours.
    unsafe { netclient::abi::tell_address(address, family, name.as_mut_ptr().cast(), &raw mut len) };
    name.truncate(len as usize);
    name
}

/// accept(2), non-blocking, once `keep` has written down where the connection lives.
///
/// # Errors
/// As there; EAGAIN also when `keep` left it.
pub fn accept(fd: c_int, keep: impl FnMut(Place, SocketAddr) -> Verdict) -> Result<c_int, Errno> {
    resume::accept(fd, keep).map(|(accepted, _)| accepted).map_err(|errno| errno.0)
}

/// What a number stands for, to be written down.
///
/// # Errors
/// EBADF.
pub fn snapshot(fd: c_int) -> Result<Snapshot, Errno> {
    resume::snapshot(fd).map_err(|errno| errno.0)
}

/// Pieces of the arena.
#[derive(Debug)]
pub struct Pieces {
    parts: [libc::iovec; PIECES],
    used: usize,
}

/// Pieces of a chunk at most: it may begin anywhere in a page.
const PIECES: usize = crate::bridge::CHUNK / proto::arena::PAGE_SIZE + 1;

impl Default for Pieces {
    fn default() -> Pieces {
        let none = libc::iovec { iov_base: core::ptr::null_mut(), iov_len: 0 };
        Pieces { parts: [none; PIECES], used: 0 }
    }
}

impl Pieces {
    /// Bytes of all.
    pub fn len(&self) -> usize {
        self.parts[..self.used].iter().map(|part| part.iov_len).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Leaves the first `most` bytes.
    pub fn cut(&mut self, most: usize) {
        let mut room = most;
        for part in &mut self.parts[..self.used] {
            part.iov_len = part.iov_len.min(room);
            room -= part.iov_len;
        }
    }

    /// For a call that reads them.
    pub fn iov(&self) -> (*const libc::iovec, c_int) {
        (self.parts.as_ptr(), self.used as c_int)
    }

    /// For a call that writes them.
    pub fn iov_mut(&mut self) -> (*mut libc::iovec, c_int) {
        (self.parts.as_mut_ptr(), self.used as c_int)
    }
}

/// Room in a connection's send pages, until [`commit`].
///
/// # Errors
/// As send(2).
pub fn reserve(fd: c_int, len: usize, pieces: &mut Pieces) -> Result<(), Errno> {
    let mut count = PIECES as c_int;
    // SAFETY: an array of ours, with its length.
    let reserved =
        counted(unsafe { in_place::nc_send_reserve(fd, len, pieces.parts.as_mut_ptr(), &raw mut count) });
    pieces.used = count as usize;
    reserved.map(drop)
}

/// Sends the first `len` bytes of what was reserved.
///
/// # Errors
/// When the session is over.
pub fn commit(fd: c_int, len: usize) -> Result<(), Errno> {
    checked(in_place::nc_send_commit(fd, len)).map(drop)
}

/// What has arrived; nothing at the end of the stream.
///
/// # Errors
/// As recv(2).
pub fn peek(fd: c_int, pieces: &mut Pieces) -> Result<(), Errno> {
    let mut count = PIECES as c_int;
    // SAFETY: an array of ours, with its length.
    let there = counted(unsafe { in_place::nc_recv_peek(fd, pieces.parts.as_mut_ptr(), &raw mut count) });
    pieces.used = if there.is_ok() { count as usize } else { 0 };
    there.map(drop)
}

/// Takes bytes off a connection.
///
/// # Errors
/// EINVAL when that is more than has arrived.
pub fn consume(fd: c_int, len: usize) -> Result<(), Errno> {
    checked(in_place::nc_recv_consume(fd, len)).map(drop)
}

/// How many bytes of a connection were consumed.
///
/// # Errors
/// ENOTCONN.
pub fn consumed(fd: c_int) -> Result<u64, Errno> {
    resume::stream(fd).map(|stream| stream.consumed()).map_err(|errno| errno.0)
}

/// Whether the end of the send stream was handed over.
pub fn is_write_shut(fd: c_int) -> bool {
    resume::stream(fd).is_ok_and(|stream| stream.is_write_shut())
}

/// Where the send stream of a UDP socket stands.
pub fn datagrams_written(fd: c_int) -> u64 {
    resume::datagram(fd).map_or(0, |socket| socket.written())
}

/// What the predecessor had filled and not published is sent.
///
/// # Errors
/// When the session is over.
pub fn send_kept_back(fd: c_int) -> Result<(), Errno> {
    let stream = resume::stream(fd).map_err(|errno| errno.0)?;
    let failed = |error: io::Error| error.raw_os_error().unwrap_or(libc::EIO);
    stream.commit_in_place(stream.kept_back()).map_err(failed)
}

/// getsockname(2).
///
/// # Errors
/// As there.
pub fn local(fd: c_int) -> Result<Vec<u8>, Errno> {
    told(fd, names::nc_getsockname).map(|(_, name)| name)
}

/// getpeername(2).
///
/// # Errors
/// As there.
pub fn remote(fd: c_int) -> Result<Vec<u8>, Errno> {
    told(fd, names::nc_getpeername).map(|(_, name)| name)
}

/// setsockopt(2).
///
/// # Errors
/// As there.
pub fn set_option(fd: c_int, level: c_int, name: c_int, value: &[u8]) -> Result<(), Errno> {
    let (at, len) = (value.as_ptr().cast(), value.len() as socklen_t);
    // SAFETY: a slice of ours, with its length.
    checked(unsafe { options::nc_setsockopt(fd, level, name, at, len) }).map(drop)
}

/// getsockopt(2), cut to `room` bytes.
///
/// # Errors
/// As there.
pub fn option(fd: c_int, level: c_int, name: c_int, room: usize) -> Result<Vec<u8>, Errno> {
    let room = room.min(VALUE_MAX);
    let (mut value, mut len) = (vec![0u8; room], room as socklen_t);
    // SAFETY: `value` has `len` bytes; both are ours.
    checked(unsafe { options::nc_getsockopt(fd, level, name, value.as_mut_ptr().cast(), &raw mut len) })?;
    value.truncate(len as usize);
    Ok(value)
}

/// sendmsg(2), to `name` when there is one, with control messages.
///
/// # Errors
/// As there.
pub fn send(fd: c_int, bytes: &[u8], name: Option<&[u8]>, control: &[u8]) -> Result<usize, Errno> {
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: plain numbers and null pointers, for which zero is a value.
    let mut message: libc::msghdr = unsafe { core::mem::zeroed() };
    (message.msg_iov, message.msg_iovlen) = (&raw mut part, 1);
    if let Some(name) = name {
        (message.msg_name, message.msg_namelen) = (name.as_ptr().cast_mut().cast(), name.len() as socklen_t);
    }
    if !control.is_empty() {
        (message.msg_control, message.msg_controllen) = (control.as_ptr().cast_mut().cast(), control.len());
    }
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: slices of ours, with their lengths; a send only reads them.
    counted(unsafe { transfer::nc_sendmsg(fd, &raw const message, flags) })
}

/// recv(2).
///
/// # Errors
/// As there.
pub fn receive(fd: c_int, room: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: a slice of ours, with its length.
    counted(unsafe { transfer::nc_recv(fd, room.as_mut_ptr().cast(), room.len(), libc::MSG_DONTWAIT) })
}

/// The next datagram: bytes that were copied, and what came with it. A `peek` leaves it where it is.
///
/// # Errors
/// As recvmsg(2).
pub fn receive_from(fd: c_int, room: &mut [u8], peek: bool) -> Result<Datagram, Errno> {
    resume::receive(fd, room, peek).map_err(|errno| errno.0)
}

/// The control messages of a datagram for a caller with so much room, and whether they were cut.
pub fn control_messages(fd: c_int, datagram: &Datagram, room: usize) -> (Vec<u8>, bool) {
    resume::control_messages(fd, datagram, room).unwrap_or_default()
}

/// Whether the program asked for control messages of what a UDP socket receives.
pub fn wants_control(fd: c_int) -> bool {
    resume::wants_control(fd)
}

/// shutdown(2).
///
/// # Errors
/// As there.
pub fn shutdown(fd: c_int, how: c_int) -> Result<(), Errno> {
    checked(names::nc_shutdown(fd, how)).map(drop)
}

/// close(2), at once: a time to linger is nobody's to wait for here.
pub fn close(fd: c_int) {
    let lingers = option(fd, libc::SOL_SOCKET, libc::SO_LINGER, 8);
    if lingers.is_ok_and(|value| value.len() == 8 && value[..4] != [0; 4] && value[4..] != [0; 4]) {
        // Without the time it goes on by itself, and without it nothing can be wrong with 8 zeros.
        let _ = set_option(fd, libc::SOL_SOCKET, libc::SO_LINGER, &[0; 8]);
    }
    names::nc_close(fd);
}

/// Ends a connection by a reset: SO_LINGER of no time, socket(7).
pub fn abort(fd: c_int) {
    let mut linger = [0; 8];
    linger[..4].copy_from_slice(&1i32.to_ne_bytes());
    // A socket that can't linger has nothing to reset.
    let _ = set_option(fd, libc::SOL_SOCKET, libc::SO_LINGER, &linger);
    names::nc_close(fd);
}

/// Whether there is something to read or to accept.
pub fn is_readable(fd: c_int) -> bool {
    let mut one = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one element of ours.
    let count = unsafe { poll::nc_poll(&raw mut one, 1, 0) };
    count == 1 && one.revents & libc::POLLIN != 0
}

/// An epoll over sockets of the session and descriptors of the kernel at once.
#[derive(Debug)]
pub struct Watcher(c_int);

/// What a wait says of one descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// The number it was added with.
    pub token: u64,
    /// EPOLLIN and so on.
    pub events: u32,
}

impl Watcher {
    /// One that watches nothing.
    ///
    /// # Errors
    /// Those of epoll_create1(2).
    pub fn new() -> Result<Watcher, Errno> {
        checked(epoll::nc_epoll_create1(libc::EPOLL_CLOEXEC)).map(Watcher)
    }

    /// Watches a descriptor of either kind.
    ///
    /// # Errors
    /// Those of epoll_ctl(2).
    pub fn add(&self, fd: c_int, events: c_int, token: u64) -> Result<(), Errno> {
        let mut event = epoll_event { events: events as u32, u64: token };
        // SAFETY: a structure of ours.
        checked(unsafe { epoll::nc_epoll_ctl(self.0, libc::EPOLL_CTL_ADD, fd, &raw mut event) }).map(drop)
    }

    /// Watches it no more.
    pub fn remove(&self, fd: c_int) {
        // SAFETY: this operation takes no structure. What is not watched is as wanted.
        unsafe { epoll::nc_epoll_ctl(self.0, libc::EPOLL_CTL_DEL, fd, core::ptr::null_mut()) };
    }

    /// Waits at most so many milliseconds, for ever when negative.
    ///
    /// # Errors
    /// Those of epoll_wait(2).
    pub fn wait(&self, found: &mut Vec<Event>, timeout_ms: c_int) -> Result<(), Errno> {
        let mut events = [epoll_event { events: 0, u64: 0 }; 128];
        let most = events.len() as c_int;
        // SAFETY: an array of ours, with its length.
        let count = checked(unsafe { epoll::nc_epoll_wait(self.0, events.as_mut_ptr(), most, timeout_ms) })?;
        found.clear();
        found.extend(events[..count as usize].iter().map(|e| Event { token: e.u64, events: e.events }));
        Ok(())
    }
}
