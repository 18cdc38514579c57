//! Bytes and datagrams in and out.
//!
//! Flags: MSG_PEEK, MSG_DONTWAIT, MSG_WAITALL, MSG_TRUNC, MSG_WAITFORONE; MSG_NOSIGNAL is always on;
//! MSG_OOB sends and takes the urgent octet of a stream; MSG_FASTOPEN connects with data in the SYN; hints (MSG_MORE, MSG_CONFIRM, MSG_DONTROUTE) change nothing.

#![expect(unsafe_code, reason = "the border to C")]

use crate::abi::{self, Errno, Outcome, int, size};
use crate::entry::Entry;
use crate::{control, table};
use libc::{
    c_int, c_uint, c_void, iovec, mmsghdr, msghdr, off_t, size_t, sockaddr, socklen_t, ssize_t, timespec,
};
use libnetclient::{Datagram, Flags, Origin};
use std::io::{IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Bytes that are moved by one step of sendfile.
const SENDFILE_STEP: usize = 512 * 1024;
/// Pieces of them: pages of 16 KiB, and one more where the first is not whole.
const SENDFILE_PIECES: usize = SENDFILE_STEP / proto::arena::PAGE_SIZE + 1;

/// What was received.
struct Received {
    /// The call's result.
    count: usize,
    /// It had more than was copied.
    cut: bool,
    remote: Option<SocketAddr>,
    /// What came with it, of a datagram.
    datagram: Option<Datagram>,
}

fn receive(entry: &Entry, bufs: &mut [IoSliceMut<'_>], flags: c_int) -> Outcome<Received> {
    if flags & libc::MSG_OOB != 0 {
        return receive_urgent(entry, bufs, flags);
    }
    if flags & libc::MSG_ERRQUEUE != 0 {
        return Err(Errno(libc::EAGAIN));
    }
    let dont_wait = entry.is_nonblocking() || flags & libc::MSG_DONTWAIT != 0;
    let how = Flags { dont_wait, peek: flags & libc::MSG_PEEK != 0 };
    let truncate = flags & libc::MSG_TRUNC != 0;
    if entry.kind == libc::SOCK_DGRAM {
        let datagram = entry.datagram()?.recv_with(bufs, how)?;
        let cut = datagram.len > datagram.copied;
        let count = if truncate { datagram.len } else { datagram.copied };
        return Ok(Received { count, cut, remote: Some(datagram.remote), datagram: Some(datagram) });
    }
    let stream = entry.stream()?;
    if truncate && !how.peek {
        let wanted = bufs.iter().map(|buf| buf.len()).sum();
        let count = stream.discard(wanted, dont_wait)?;
        return Ok(Received { count, cut: false, remote: None, datagram: None });
    }
    let mut count = stream.recv_with(bufs, how)?;
    if flags & libc::MSG_WAITALL != 0 && !how.peek && !dont_wait {
        let mut skip = count;
        'all: for buf in bufs.iter_mut() {
            let mut at = skip.min(buf.len());
            skip -= at;
            while at < buf.len() {
                // What came before an end or an error counts.
                match stream.recv_with(&mut [IoSliceMut::new(&mut buf[at..])], how) {
                    Ok(0) | Err(_) => break 'all,
                    Ok(more) => (at, count) = (at + more, count + more),
                }
            }
        }
    }
    Ok(Received { count, cut: false, remote: None, datagram: None })
}

/// recv(2) with MSG_OOB, as tcp_recv_urg(): it never waits.
fn receive_urgent(entry: &Entry, bufs: &mut [IoSliceMut<'_>], flags: c_int) -> Outcome<Received> {
    if entry.kind == libc::SOCK_DGRAM {
        return Err(Errno(libc::EOPNOTSUPP));
    }
    let octet = entry.stream()?.recv_urgent(flags & libc::MSG_PEEK != 0)?;
    let first = bufs.iter_mut().find(|buf| !buf.is_empty());
    let count = usize::from(octet.is_some() && first.is_some());
    if let (Some(octet), Some(buf)) = (octet, first) {
        buf[0] = octet;
    }
    Ok(Received { count, cut: octet.is_some() && count == 0, remote: None, datagram: None })
}

/// send(2) with MSG_OOB: the last octet is urgent.
fn send_urgent(stream: &libnetclient::TcpStream, parts: &[IoSlice<'_>], dont_wait: bool) -> Outcome<usize> {
    let all: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
    let mut done = 0;
    while done < all.len() {
        match stream.send_urgent(&all[done..], dont_wait) {
            Ok(count) => done += count,
            Err(error) if done == 0 => return Err(error.into()),
            Err(_) => break,
        }
        if dont_wait {
            break;
        }
    }
    Ok(done)
}

fn send(
    entry: &Entry,
    parts: &[IoSlice<'_>],
    flags: c_int,
    to: Option<SocketAddr>,
    origin: Origin,
) -> Outcome<usize> {
    if flags & libc::MSG_OOB != 0 && entry.kind == libc::SOCK_DGRAM {
        return Err(Errno(libc::EOPNOTSUPP));
    }
    let dont_wait = entry.is_nonblocking() || flags & libc::MSG_DONTWAIT != 0;
    if entry.kind == libc::SOCK_DGRAM {
        return Ok(entry.datagram()?.send_from(parts, to, origin, dont_wait)?);
    }
    if let Some(remote) = to.filter(|_| flags & libc::MSG_FASTOPEN != 0) {
        let all: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        return entry.connect_with_data(remote, &all);
    }
    let stream = entry.stream().map_err(|errno| match errno {
        // As tcp_sendmsg().
        Errno(libc::ENOTCONN) => Errno(libc::EPIPE),
        errno => errno,
    })?;
    if flags & libc::MSG_OOB != 0 {
        return send_urgent(&stream, parts, dont_wait);
    }
    let mut count = stream.send_with(parts, dont_wait)?;
    if !dont_wait {
        // A send that may wait takes everything.
        let mut skip = count;
        'all: for part in parts {
            let mut at = skip.min(part.len());
            skip -= at;
            while at < part.len() {
                match stream.send_with(&[IoSlice::new(&part[at..])], false) {
                    Err(_) => break 'all,
                    Ok(more) => (at, count) = (at + more, count + more),
                }
            }
        }
    }
    Ok(count)
}

/// read(2).
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nc_read(fd: c_int, buf: *mut c_void, count: size_t) -> ssize_t {
    if !table::is_ours(fd) {
        // SAFETY: by the caller's contract.
        return unsafe { libc::read(fd, buf, count) };
    }
    // SAFETY: by the caller's contract.
    unsafe { nc_recv(fd, buf, count, 0) }
}

/// readv(2).
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nc_readv(fd: c_int, iov: *const iovec, count: c_int) -> ssize_t {
    if !table::is_ours(fd) {
        // SAFETY: by the caller's contract.
        return unsafe { libc::readv(fd, iov, count) };
    }
    size((|| {
        let entry = table::get(fd)?;
        let count = usize::try_from(count).map_err(|_| Errno(libc::EINVAL))?;
        // SAFETY: by the caller's contract.
        let bufs = unsafe { abi::buffers(iov, count) }?;
        receive(&entry, bufs, 0).map(|received| received.count)
    })())
}

/// recv(2).
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nc_recv(fd: c_int, buf: *mut c_void, len: size_t, flags: c_int) -> ssize_t {
    // SAFETY: by the caller's contract.
    unsafe { nc_recvfrom(fd, buf, len, flags, std::ptr::null_mut(), std::ptr::null_mut()) }
}

/// recvfrom(2).
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nc_recvfrom(
    fd: c_int,
    buf: *mut c_void,
    len: size_t,
    flags: c_int,
    addr: *mut sockaddr,
    addr_len: *mut socklen_t,
) -> ssize_t {
    if !table::is_ours(fd) {
        // SAFETY: by the caller's contract.
        return unsafe { libc::recvfrom(fd, buf, len, flags, addr, addr_len) };
    }
    size((|| {
        let entry = table::get(fd)?;
        // SAFETY: by the caller's contract.
        let buf = unsafe { abi::buffer(buf, len) }?;
        let received = receive(&entry, &mut [IoSliceMut::new(buf)], flags)?;
        match received.remote {
            // SAFETY: by the caller's contract.
            Some(remote) => unsafe { abi::tell_address(remote, entry.family, addr, addr_len) },
            // SAFETY: by the caller's contract.
            None if !addr_len.is_null() => unsafe { *addr_len = 0 },
            None => {}
        }
        Ok(received.count)
    })())
}

fn receive_message(entry: &Entry, message: &mut msghdr, flags: c_int) -> Outcome<usize> {
    // SAFETY: by the contract of recvmsg(2), whose callers call this.
    let bufs = unsafe { abi::buffers(message.msg_iov, message.msg_iovlen) }?;
    let received = receive(entry, bufs, flags)?;
    message.msg_flags = if received.cut { libc::MSG_TRUNC } else { 0 };
    match received.datagram {
        // SAFETY: by the contract of recvmsg(2).
        Some(datagram) => unsafe { control::put(message, entry, &datagram) },
        None => message.msg_controllen = 0,
    }
    match received.remote {
        Some(remote) => {
            // SAFETY: by the contract of recvmsg(2).
            unsafe {
                abi::tell_address(remote, entry.family, message.msg_name.cast(), &mut message.msg_namelen)
            };
        }
        None => message.msg_namelen = 0,
    }
    Ok(received.count)
}

fn send_message(entry: &Entry, message: &msghdr, flags: c_int) -> Outcome<usize> {
    // SAFETY: by the contract of sendmsg(2), whose callers call this.
    let parts = unsafe { abi::parts(message.msg_iov, message.msg_iovlen) }?;
    let to = match message.msg_name.is_null() || message.msg_namelen == 0 {
        true => None,
        // SAFETY: by the contract of sendmsg(2).
        false => unsafe { abi::address(message.msg_name.cast(), message.msg_namelen) }?,
    };
    // SAFETY: by the contract of sendmsg(2).
    let origin = unsafe { control::origin(message, entry.kind == libc::SOCK_DGRAM) }?;
    send(entry, parts, flags, to, origin)
}

/// recvmsg(2); the control messages are those that were asked for.
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nc_recvmsg(fd: c_int, message: *mut msghdr, flags: c_int) -> ssize_t {
    if !table::is_ours(fd) {
        // SAFETY: by the caller's contract.
        return unsafe { libc::recvmsg(fd, message, flags) };
    }
    size((|| {
        let entry = table::get(fd)?;
        // SAFETY: by the caller's contract.
        let message = unsafe { message.as_mut() }.ok_or(Errno(libc::EFAULT))?;
        receive_message(&entry, message, flags)
    })())
}

/// recvmmsg(2).
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nc_recvmmsg(
    fd: c_int,
    messages: *mut mmsghdr,
    count: c_uint,
    flags: c_int,
    timeout: *mut timespec,
) -> c_int {
    if !table::is_ours(fd) {
        // SAFETY: by the caller's contract.
        return unsafe { libc::recvmmsg(fd, messages, count, flags, timeout) };
    }
    int((|| {
        let entry = table::get(fd)?;
        // SAFETY: by the caller's contract.
        let timeout = unsafe { timeout.as_ref() };
        let rest =
            |t: &timespec| Duration::new(t.tv_sec.max(0) as u64, t.tv_nsec.clamp(0, 999_999_999) as u32);
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(rest(timeout)));
        let (mut done, mut flags) = (0, flags);
        while done < count as usize {
            // SAFETY: `done` is below the number of messages that the caller names.
            let place = unsafe { messages.add(done) };
            // SAFETY: as above.
            let message = unsafe { place.as_mut() }.ok_or(Errno(libc::EFAULT))?;
            match receive_message(&entry, &mut message.msg_hdr, flags & !libc::MSG_WAITFORONE) {
                Ok(len) => message.msg_len = len as c_uint,
                Err(errno) if done == 0 => return Err(errno),
                Err(_) => break,
            }
            done += 1;
            if flags & libc::MSG_WAITFORONE != 0 {
                flags |= libc::MSG_DONTWAIT;
            }
            // As Linux: looked at after each datagram.
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                break;
            }
        }
        Ok(done as c_int)
    })())
}

/// write(2).
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nc_write(fd: c_int, buf: *const c_void, count: size_t) -> ssize_t {
    if !table::is_ours(fd) {
        // SAFETY: by the caller's contract.
        return unsafe { libc::write(fd, buf, count) };
    }
    // SAFETY: by the caller's contract.
    unsafe { nc_send(fd, buf, count, 0) }
}

/// writev(2).
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nc_writev(fd: c_int, iov: *const iovec, count: c_int) -> ssize_t {
    if !table::is_ours(fd) {
        // SAFETY: by the caller's contract.
        return unsafe { libc::writev(fd, iov, count) };
    }
    size((|| {
        let entry = table::get(fd)?;
        let count = usize::try_from(count).map_err(|_| Errno(libc::EINVAL))?;
        // SAFETY: by the caller's contract.
        let parts = unsafe { abi::parts(iov, count) }?;
        send(&entry, parts, 0, None, Origin::default())
    })())
}

/// send(2).
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nc_send(fd: c_int, buf: *const c_void, len: size_t, flags: c_int) -> ssize_t {
    // SAFETY: by the caller's contract.
    unsafe { nc_sendto(fd, buf, len, flags, std::ptr::null(), 0) }
}

/// sendto(2).
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nc_sendto(
    fd: c_int,
    buf: *const c_void,
    len: size_t,
    flags: c_int,
    addr: *const sockaddr,
    addr_len: socklen_t,
) -> ssize_t {
    if !table::is_ours(fd) {
        // SAFETY: by the caller's contract.
        return unsafe { libc::sendto(fd, buf, len, flags, addr, addr_len) };
    }
    size((|| {
        let entry = table::get(fd)?;
        // SAFETY: by the caller's contract.
        let bytes = unsafe { abi::bytes(buf, len) }?;
        let to = match addr.is_null() {
            true => None,
            // SAFETY: by the caller's contract.
            false => unsafe { abi::address(addr, addr_len) }?,
        };
        send(&entry, &[IoSlice::new(bytes)], flags, to, Origin::default())
    })())
}

/// sendmsg(2), with the control messages of IP and IPv6.
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nc_sendmsg(fd: c_int, message: *const msghdr, flags: c_int) -> ssize_t {
    if !table::is_ours(fd) {
        // SAFETY: by the caller's contract.
        return unsafe { libc::sendmsg(fd, message, flags) };
    }
    size((|| {
        let entry = table::get(fd)?;
        // SAFETY: by the caller's contract.
        let message = unsafe { message.as_ref() }.ok_or(Errno(libc::EFAULT))?;
        send_message(&entry, message, flags)
    })())
}

/// sendmmsg(2).
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nc_sendmmsg(
    fd: c_int,
    messages: *mut mmsghdr,
    count: c_uint,
    flags: c_int,
) -> c_int {
    if !table::is_ours(fd) {
        // SAFETY: by the caller's contract.
        return unsafe { libc::sendmmsg(fd, messages, count, flags) };
    }
    int((|| {
        let entry = table::get(fd)?;
        let mut done = 0;
        while done < count as usize {
            // SAFETY: `done` is below the number of messages that the caller names.
            let place = unsafe { messages.add(done) };
            // SAFETY: as above.
            let message = unsafe { place.as_mut() }.ok_or(Errno(libc::EFAULT))?;
            match send_message(&entry, &message.msg_hdr, flags) {
                Ok(len) => message.msg_len = len as c_uint,
                Err(errno) if done == 0 => return Err(errno),
                Err(_) => break,
            }
            done += 1;
        }
        Ok(done as c_int)
    })())
}

/// sendfile(2), from a descriptor of the kernel: read straight into the pages that are sent from.
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nc_sendfile(out: c_int, from: c_int, offset: *mut off_t, count: size_t) -> ssize_t {
    if !table::is_ours(out) && !table::is_ours(from) {
        // SAFETY: by the caller's contract.
        return unsafe { libc::sendfile(out, from, offset, count) };
    }
    size((|| {
        if table::is_ours(from) || !table::is_ours(out) {
            return Err(Errno(libc::EINVAL));
        }
        let entry = table::get(out)?;
        let stream = entry.stream()?;
        // SAFETY: by the caller's contract.
        let mut offset = unsafe { offset.as_mut() };
        let (dont_wait, mut done) = (entry.is_nonblocking(), 0);
        while done < count {
            let (mut iov, mut pieces) =
                ([const { iovec { iov_base: std::ptr::null_mut(), iov_len: 0 } }; SENDFILE_PIECES], 0);
            let reserved =
                stream.reserve_in_place((count - done).min(SENDFILE_STEP), dont_wait, |base, len| {
                    iov[pieces] = iovec { iov_base: base.cast(), iov_len: len };
                    pieces += 1;
                });
            match reserved {
                Ok(_) => {}
                Err(error) if done == 0 => return Err(error.into()),
                Err(_) => break,
            }
            let got = match &mut offset {
                // SAFETY: the pieces lie in the arena and are reserved for us.
                Some(at) => unsafe { libc::preadv(from, iov.as_ptr(), pieces as c_int, **at) },
                // SAFETY: as above.
                None => unsafe { libc::readv(from, iov.as_ptr(), pieces as c_int) },
            };
            let failure = abi::last();
            stream.commit_in_place(usize::try_from(got).unwrap_or(0))?;
            match got {
                0 => break,
                got if got < 0 && done == 0 => return Err(failure),
                got if got < 0 => break,
                got => {
                    done += got as usize;
                    if let Some(at) = &mut offset {
                        **at += got as off_t;
                    }
                }
            }
        }
        Ok(done)
    })())
}
