//! C's structures and ours: errno, addresses, buffers.
//!
//! The only promise that is asked of a caller is C's: a pointer is null, or points to what the
//! call's page says, for as long as the call lasts.

#![expect(unsafe_code, reason = "the border to C")]

use libc::{c_int, c_void, iovec, sockaddr, sockaddr_in, sockaddr_in6, socklen_t, ssize_t};
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::slice;

/// An errno.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub c_int);

/// What a call comes to.
pub type Outcome<T> = Result<T, Errno>;

/// Buffers of one call at most (IOV_MAX of Linux).
const IOV_MAX: usize = 1024;

impl From<io::Error> for Errno {
    fn from(error: io::Error) -> Errno {
        use io::ErrorKind::*;
        Errno(error.raw_os_error().unwrap_or(match error.kind() {
            WouldBlock => libc::EAGAIN,
            Interrupted => libc::EINTR,
            InvalidInput => libc::EINVAL,
            NotFound => libc::ENOENT,
            AlreadyExists => libc::EEXIST,
            TimedOut => libc::ETIMEDOUT,
            BrokenPipe => libc::EPIPE,
            ConnectionAborted => libc::ECONNABORTED,
            InvalidData => libc::EPROTO,
            _ => libc::EIO,
        }))
    }
}

impl From<rustix::io::Errno> for Errno {
    fn from(errno: rustix::io::Errno) -> Errno {
        Errno(errno.raw_os_error())
    }
}

/// The last error of this thread, as a kernel's call left it.
pub fn last() -> Errno {
    Errno(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
}

fn set(errno: Errno) {
    // SAFETY: no argument; the result is this thread's own.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: as above, valid for this thread.
    unsafe { *place = errno.0 };
}

/// A call's result as C has it: −1 with errno, or 0 or more.
pub fn int(outcome: Outcome<c_int>) -> c_int {
    outcome.unwrap_or_else(|errno| {
        set(errno);
        -1
    })
}

/// As [`int`], for calls that count bytes.
pub fn size(outcome: Outcome<usize>) -> ssize_t {
    match outcome {
        Ok(count) => count as ssize_t,
        Err(errno) => {
            set(errno);
            -1
        }
    }
}

/// A buffer that C wants filled.
///
/// # Errors
/// EFAULT for null.
///
/// # Safety
/// `at` is null or valid for writes of `len` bytes while the result lives.
pub unsafe fn buffer<'a>(at: *mut c_void, len: usize) -> Outcome<&'a mut [u8]> {
    match (at.is_null(), len) {
        (_, 0) => Ok(&mut []),
        (true, _) => Err(Errno(libc::EFAULT)),
        // SAFETY: by the function's contract.
        (false, _) => Ok(unsafe { slice::from_raw_parts_mut(at.cast(), len.min(isize::MAX as usize)) }),
    }
}

/// Bytes that C wants taken.
///
/// # Errors
/// EFAULT for null.
///
/// # Safety
/// `at` is null or valid for reads of `len` bytes while the result lives.
pub unsafe fn bytes<'a>(at: *const c_void, len: usize) -> Outcome<&'a [u8]> {
    match (at.is_null(), len) {
        (_, 0) => Ok(&[]),
        (true, _) => Err(Errno(libc::EFAULT)),
        // SAFETY: by the function's contract.
        (false, _) => Ok(unsafe { slice::from_raw_parts(at.cast(), len.min(isize::MAX as usize)) }),
    }
}

fn count_of(iov: *const iovec, count: usize) -> Outcome<usize> {
    match (iov.is_null(), count) {
        (_, 0) => Ok(0),
        (_, count) if count > IOV_MAX => Err(Errno(libc::EINVAL)),
        (true, _) => Err(Errno(libc::EFAULT)),
        (false, count) => Ok(count),
    }
}

/// Buffers that C wants filled.
///
/// # Errors
/// EINVAL for more than 1024, EFAULT for null.
///
/// # Safety
/// `iov` names `count` buffers that are valid for writes while the result lives.
pub unsafe fn buffers<'a>(iov: *const iovec, count: usize) -> Outcome<&'a mut [IoSliceMut<'a>]> {
    match count_of(iov, count)? {
        0 => Ok(&mut []),
        // SAFETY: IoSliceMut has the layout of iovec (its documentation); the rest by contract. The
        // array itself is never written: slices are not advanced.
        count => Ok(unsafe { slice::from_raw_parts_mut(iov.cast_mut().cast(), count) }),
    }
}

/// Buffers that C wants taken.
///
/// # Errors
/// As [`buffers`].
///
/// # Safety
/// `iov` names `count` buffers that are valid for reads while the result lives.
pub unsafe fn parts<'a>(iov: *const iovec, count: usize) -> Outcome<&'a [IoSlice<'a>]> {
    match count_of(iov, count)? {
        0 => Ok(&[]),
        // SAFETY: IoSlice has the layout of iovec (its documentation); the rest by contract.
        count => Ok(unsafe { slice::from_raw_parts(iov.cast(), count) }),
    }
}

/// An address that C passes; `None` for AF_UNSPEC. One that maps IPv4 is IPv4.
///
/// # Errors
/// EINVAL when it is too short, EAFNOSUPPORT for other families, EFAULT for null.
///
/// # Safety
/// `at` is null or valid for reads of `len` bytes.
pub unsafe fn address(at: *const sockaddr, len: socklen_t) -> Outcome<Option<SocketAddr>> {
    // SAFETY: by the function's contract.
    let bytes = unsafe { bytes(at.cast(), len as usize) }?;
    let two = |at: usize| [bytes[at], bytes[at + 1]];
    let four = |at: usize| [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
    if bytes.len() < 2 {
        return Err(Errno(libc::EINVAL));
    }
    let port = || u16::from_be_bytes(two(2));
    match c_int::from(u16::from_ne_bytes(two(0))) {
        libc::AF_UNSPEC => Ok(None),
        libc::AF_INET if bytes.len() >= size_of::<sockaddr_in>() => {
            Ok(Some(SocketAddrV4::new(Ipv4Addr::from(four(4)), port()).into()))
        }
        libc::AF_INET6 if bytes.len() >= size_of::<sockaddr_in6>() => {
            let mut octets = [0; 16];
            octets.copy_from_slice(&bytes[8..24]);
            let ip = Ipv6Addr::from(octets);
            Ok(Some(match ip.to_ipv4_mapped() {
                Some(ip) => SocketAddr::new(IpAddr::V4(ip), port()),
                None => {
                    SocketAddrV6::new(ip, port(), u32::from_be_bytes(four(4)), u32::from_ne_bytes(four(24)))
                        .into()
                }
            }))
        }
        libc::AF_INET | libc::AF_INET6 => Err(Errno(libc::EINVAL)),
        _ => Err(Errno(libc::EAFNOSUPPORT)),
    }
}

/// Hands an address to C, cut to the room it has; a socket of AF_INET6 gets IPv4 mapped. Nothing
/// happens when C wants none.
///
/// # Safety
/// `at` is null, or `len` points to the number of bytes that `at` is valid for writes of.
pub unsafe fn tell_address(addr: SocketAddr, family: c_int, at: *mut sockaddr, len: *mut socklen_t) {
    if at.is_null() || len.is_null() {
        return;
    }
    let mut out = [0u8; size_of::<sockaddr_in6>()];
    out[2..4].copy_from_slice(&addr.port().to_be_bytes());
    if let SocketAddr::V6(v6) = addr {
        out[24..28].copy_from_slice(&v6.scope_id().to_ne_bytes());
    }
    let full = match (addr.ip(), family) {
        (IpAddr::V4(ip), libc::AF_INET) => {
            out[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
            out[4..8].copy_from_slice(&ip.octets());
            size_of::<sockaddr_in>()
        }
        (ip, _) => {
            let ip = match ip {
                IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                IpAddr::V6(ip) => ip,
            };
            out[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
            out[8..24].copy_from_slice(&ip.octets());
            size_of::<sockaddr_in6>()
        }
    };
    // SAFETY: by the function's contract.
    let room = unsafe { *len } as usize;
    let cut = room.min(full);
    // SAFETY: by the function's contract `at` has `room` bytes; `out` is ours.
    unsafe { std::ptr::copy_nonoverlapping(out.as_ptr(), at.cast::<u8>(), cut) };
    // SAFETY: by the function's contract.
    unsafe { *len = full as socklen_t };
}
