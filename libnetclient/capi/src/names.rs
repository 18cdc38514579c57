//! Sockets made, named, connected and closed.

#![expect(unsafe_code, reason = "the border to C")]

use crate::abi::{self, Errno, Outcome, int};
use crate::entry::{Entry, State};
use crate::table;
use libc::{c_char, c_int, c_uint, sockaddr, socklen_t};
use libnetclient::{Session, Size};
use std::ffi::CStr;
use std::net::Shutdown;
use std::sync::Arc;

/// Opens the session with a group that the process's sockets will live in, instead of the one that
/// the first call would open: `group` null for the one that `AXOLOTL` names; numbers of 0 take the
/// default: `active` sockets of connect, listen and UDP, `passive` connections accepted at a time,
/// pages of 16 KiB to send from and to receive into. Sockets that are there already stay where they are.
///
/// # Safety
/// `group` is null or a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nc_session(
    group: *const c_char,
    active: c_uint,
    passive: c_uint,
    tx_pages: c_uint,
    rx_pages: c_uint,
) -> c_int {
    int((|| {
        let size = Size { active, passive, tx_pages, rx_pages };
        let name = if group.is_null() {
            proto::run_dir::default_name()
        } else {
            // SAFETY: by the caller's contract.
            let name = unsafe { CStr::from_ptr(group) };
            name.to_str().map_err(|_| Errno(libc::EINVAL))?.to_owned()
        };
        Session::open_sized(&name, size)?.make_default();
        Ok(0)
    })())
}

/// socket(2): AF_INET and AF_INET6, SOCK_STREAM and SOCK_DGRAM, with SOCK_NONBLOCK and SOCK_CLOEXEC.
#[unsafe(no_mangle)]
pub extern "C" fn nc_socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int {
    int((|| {
        let flags = kind & (libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC);
        let kind = kind & !flags;
        if !matches!(domain, libc::AF_INET | libc::AF_INET6) {
            return Err(Errno(libc::EAFNOSUPPORT));
        }
        match (kind, protocol) {
            (libc::SOCK_STREAM, 0 | libc::IPPROTO_TCP) | (libc::SOCK_DGRAM, 0 | libc::IPPROTO_UDP) => {}
            (libc::SOCK_STREAM | libc::SOCK_DGRAM, _) => return Err(Errno(libc::EPROTONOSUPPORT)),
            _ => return Err(Errno(libc::ESOCKTNOSUPPORT)),
        }
        let entry = Entry::socket(domain, kind, flags & libc::SOCK_NONBLOCK != 0);
        table::open(entry, 0, flags & libc::SOCK_CLOEXEC != 0)
    })())
}

/// bind(2).
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nc_bind(fd: c_int, addr: *const sockaddr, len: socklen_t) -> c_int {
    if !table::is_ours(fd) {
        // SAFETY: by the caller's contract.
        return unsafe { libc::bind(fd, addr, len) };
    }
    int((|| {
        let entry = table::get(fd)?;
        // SAFETY: by the caller's contract.
        let local = unsafe { abi::address(addr, len) }?.ok_or(Errno(libc::EAFNOSUPPORT))?;
        entry.bind(local)?;
        Ok(0)
    })())
}

/// listen(2).
#[unsafe(no_mangle)]
pub extern "C" fn nc_listen(fd: c_int, backlog: c_int) -> c_int {
    if !table::is_ours(fd) {
        // SAFETY: no pointer is passed.
        return unsafe { libc::listen(fd, backlog) };
    }
    int(table::get(fd).and_then(|entry| entry.listen(backlog)).map(|()| 0))
}

/// connect(2). AF_UNSPEC undoes it.
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nc_connect(fd: c_int, addr: *const sockaddr, len: socklen_t) -> c_int {
    if !table::is_ours(fd) {
        // SAFETY: by the caller's contract.
        return unsafe { libc::connect(fd, addr, len) };
    }
    int((|| {
        let entry = table::get(fd)?;
        // SAFETY: by the caller's contract.
        let remote = unsafe { abi::address(addr, len) }?;
        entry.connect(remote)?;
        Ok(0)
    })())
}

/// accept(2).
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nc_accept(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t) -> c_int {
    // SAFETY: by the caller's contract.
    unsafe { nc_accept4(fd, addr, len, 0) }
}

/// accept4(2), with SOCK_NONBLOCK and SOCK_CLOEXEC.
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nc_accept4(
    fd: c_int,
    addr: *mut sockaddr,
    len: *mut socklen_t,
    flags: c_int,
) -> c_int {
    if !table::is_ours(fd) {
        // SAFETY: by the caller's contract.
        return unsafe { libc::accept4(fd, addr, len, flags) };
    }
    int((|| {
        let entry = table::get(fd)?;
        if flags & !(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC) != 0 {
            return Err(Errno(libc::EINVAL));
        }
        let (accepted, remote) = entry.accept(flags & libc::SOCK_NONBLOCK != 0)?;
        let number = table::open(accepted, 0, flags & libc::SOCK_CLOEXEC != 0)?;
        // SAFETY: by the caller's contract.
        unsafe { abi::tell_address(remote, entry.family, addr, len) };
        Ok(number)
    })())
}

/// close(2). With SO_LINGER and a time it waits, as a kernel's does.
#[unsafe(no_mangle)]
pub extern "C" fn nc_close(fd: c_int) -> c_int {
    if !table::is_ours(fd) {
        // SAFETY: no pointer is passed; the descriptor is the caller's to close.
        return unsafe { libc::close(fd) };
    }
    int(table::close(fd).map(|entry| {
        // Other numbers of the same socket, and calls under way, keep it.
        if Arc::strong_count(&entry) == 1 {
            entry.closed();
        }
        0
    }))
}

fn shutdown(entry: &Entry, how: c_int) -> Outcome<()> {
    let how = match how {
        libc::SHUT_RD => Shutdown::Read,
        libc::SHUT_WR => Shutdown::Write,
        libc::SHUT_RDWR => Shutdown::Both,
        _ => return Err(Errno(libc::EINVAL)),
    };
    match entry.state() {
        State::Datagram(socket) => socket.peer_addr().map(drop).map_err(Errno::from),
        _ => Ok(entry.stream()?.shutdown(how)?),
    }
}

/// shutdown(2).
#[unsafe(no_mangle)]
pub extern "C" fn nc_shutdown(fd: c_int, how: c_int) -> c_int {
    if !table::is_ours(fd) {
        // SAFETY: no pointer is passed.
        return unsafe { libc::shutdown(fd, how) };
    }
    int(table::get(fd).and_then(|entry| shutdown(&entry, how)).map(|()| 0))
}

/// getsockname(2).
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nc_getsockname(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t) -> c_int {
    if !table::is_ours(fd) {
        // SAFETY: by the caller's contract.
        return unsafe { libc::getsockname(fd, addr, len) };
    }
    int((|| {
        let entry = table::get(fd)?;
        let local = entry.local()?;
        // SAFETY: by the caller's contract.
        unsafe { abi::tell_address(local, entry.family, addr, len) };
        Ok(0)
    })())
}

/// getpeername(2).
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nc_getpeername(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t) -> c_int {
    if !table::is_ours(fd) {
        // SAFETY: by the caller's contract.
        return unsafe { libc::getpeername(fd, addr, len) };
    }
    int((|| {
        let entry = table::get(fd)?;
        let remote = entry.remote()?;
        // SAFETY: by the caller's contract.
        unsafe { abi::tell_address(remote, entry.family, addr, len) };
        Ok(0)
    })())
}
