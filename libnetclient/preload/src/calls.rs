//! The C library's names of calls that netexec's filter would hand over, in front of its own.
//!
//! A call on anything but a socket of the stack passes; so does one that moves bytes of a connection, which the
//! kernel does on the pair. What is left is handed over. Of a pointer that is not null more is read here than by
//! the C library: the beginning of a path, and where a connection's name shall be put.

use crate::kernel::{call, pass};
use crate::look;
use libc::{c_char, c_int, c_long, c_uint, c_void, iovec, mmsghdr, mode_t, msghdr};
use libc::{size_t, sockaddr, socklen_t, ssize_t, timespec};
use proto::board::{Name, Socket};

/// The directory whose files may be made by netexec.
const PROC: &[u8] = b"/proc/";

/// Whether a call that names a socket is the kernel's.
fn is_kernels(fd: c_int) -> bool {
    look(fd) == Socket::Kernel
}

/// Whether a call that moves bytes of one is.
fn is_moved_by_kernel(fd: c_int) -> bool {
    !matches!(look(fd), Socket::Unknown)
}

/// Calls whose first argument is a descriptor: each with whom it is asked of.
macro_rules! calls_on_a_descriptor {
    ($($name:ident = $number:ident($($argument:ident: $kind:ty),*) -> $result:ty, $passes:ident;)*) => {$(
        #[doc = concat!(stringify!($name), "(2).")]
        #[unsafe(no_mangle)]
        pub extern "C-unwind" fn $name(fd: c_int, $($argument: $kind),*) -> $result {
            let mut arguments = [fd as usize, 0, 0, 0, 0, 0];
            let given = [$($argument as usize),*];
            arguments[1..=given.len()].copy_from_slice(&given);
            let result = if $passes(fd) {
                let [a, b, c, d, e, _] = arguments;
                pass(libc::$number, [a, b, c, d, e])
            } else {
                call(libc::$number, arguments)
            };
            result as $result
        }
    )*};
}

calls_on_a_descriptor! {
    bind = SYS_bind(name: *const sockaddr, len: socklen_t) -> c_int, is_kernels;
    listen = SYS_listen(backlog: c_int) -> c_int, is_kernels;
    connect = SYS_connect(name: *const sockaddr, len: socklen_t) -> c_int, is_kernels;
    accept = SYS_accept(name: *mut sockaddr, len: *mut socklen_t) -> c_int, is_kernels;
    accept4 = SYS_accept4(name: *mut sockaddr, len: *mut socklen_t, flags: c_int) -> c_int, is_kernels;
    setsockopt = SYS_setsockopt(level: c_int, option: c_int, value: *const c_void, len: socklen_t) -> c_int, is_kernels;
    getsockopt = SYS_getsockopt(level: c_int, option: c_int, value: *mut c_void, len: *mut socklen_t) -> c_int, is_kernels;
    sendmsg = SYS_sendmsg(message: *const msghdr, flags: c_int) -> ssize_t, is_moved_by_kernel;
    recvmsg = SYS_recvmsg(message: *mut msghdr, flags: c_int) -> ssize_t, is_moved_by_kernel;
    sendmmsg = SYS_sendmmsg(messages: *mut mmsghdr, count: c_uint, flags: c_int) -> c_int, is_moved_by_kernel;
    recvmmsg = SYS_recvmmsg(messages: *mut mmsghdr, count: c_uint, flags: c_int, timeout: *mut timespec) -> c_int, is_moved_by_kernel;
}

/// A call that tells a name: from the board, as the kernel would, if that has it.
fn tell(
    fd: c_int,
    number: c_long,
    to: *mut sockaddr,
    len: *mut socklen_t,
    which: fn(Name, Name) -> Name,
) -> c_int {
    let arguments = [fd as usize, to as usize, len as usize, 0, 0];
    match look(fd) {
        Socket::Kernel => pass(number, arguments) as c_int,
        Socket::Connection { local, peer } if !to.is_null() && !len.is_null() => {
            let name = which(local, peer);
            // SAFETY: by the caller's contract a number that may be read.
            let room = unsafe { *len } as usize;
            if c_int::try_from(room).is_err() {
                return call(number, [fd as usize, to as usize, len as usize, 0, 0, 0]) as c_int;
            }
            let copied = room.min(name.bytes().len());
            // SAFETY: by the caller's contract there is room for as many bytes as it said; the name is ours.
            unsafe { core::ptr::copy_nonoverlapping(name.bytes().as_ptr(), to.cast(), copied) };
            // SAFETY: by the caller's contract a number that may be written.
            unsafe { *len = name.bytes().len() as socklen_t };
            0
        }
        _ => call(number, [fd as usize, to as usize, len as usize, 0, 0, 0]) as c_int,
    }
}

/// getsockname(2).
///
/// # Safety
/// Pointers that are not null are such as there.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn getsockname(fd: c_int, to: *mut sockaddr, len: *mut socklen_t) -> c_int {
    tell(fd, libc::SYS_getsockname, to, len, |local, _| local)
}

/// getpeername(2).
///
/// # Safety
/// Pointers that are not null are such as there.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn getpeername(fd: c_int, to: *mut sockaddr, len: *mut socklen_t) -> c_int {
    tell(fd, libc::SYS_getpeername, to, len, |_, peer| peer)
}

/// recv(2).
#[unsafe(no_mangle)]
pub extern "C-unwind" fn recv(fd: c_int, to: *mut c_void, len: size_t, flags: c_int) -> ssize_t {
    recvfrom(fd, to, len, flags, core::ptr::null_mut(), core::ptr::null_mut())
}

/// recvfrom(2). A receive of one octet is handed over, lest a program takes a socket for connected that is not:
/// where that is known it passes, as a recvmsg(2), which has an argument to say so.
#[unsafe(no_mangle)]
pub extern "C-unwind" fn recvfrom(
    fd: c_int,
    to: *mut c_void,
    len: size_t,
    flags: c_int,
    name: *mut sockaddr,
    name_len: *mut socklen_t,
) -> ssize_t {
    if len == 1 && name.is_null() && is_moved_by_kernel(fd) {
        let mut part = iovec { iov_base: to, iov_len: len };
        let mut message = msghdr {
            msg_name: core::ptr::null_mut(),
            msg_namelen: 0,
            msg_iov: &raw mut part,
            msg_iovlen: 1,
            msg_control: core::ptr::null_mut(),
            msg_controllen: 0,
            msg_flags: 0,
        };
        let message = (&raw mut message) as usize;
        return pass(libc::SYS_recvmsg, [fd as usize, message, flags as usize, 0, 0]) as ssize_t;
    }
    let arguments = [fd as usize, to as usize, len, flags as usize, name as usize, name_len as usize];
    call(libc::SYS_recvfrom, arguments) as ssize_t
}

/// [`recv`] of a program that was compiled with _FORTIFY_SOURCE: ends it when the buffer is smaller.
#[unsafe(no_mangle)]
pub extern "C-unwind" fn __recv_chk(
    fd: c_int,
    to: *mut c_void,
    len: size_t,
    room: size_t,
    flags: c_int,
) -> ssize_t {
    if len > room {
        std::process::abort();
    }
    recv(fd, to, len, flags)
}

/// [`recvfrom`] likewise.
#[unsafe(no_mangle)]
pub extern "C-unwind" fn __recvfrom_chk(
    fd: c_int,
    to: *mut c_void,
    len: size_t,
    room: size_t,
    flags: c_int,
    name: *mut sockaddr,
    name_len: *mut socklen_t,
) -> ssize_t {
    if len > room {
        std::process::abort();
    }
    recvfrom(fd, to, len, flags, name, name_len)
}

/// Whether a path is of a file that may be made by netexec.
fn is_of_proc(path: *const c_char) -> bool {
    PROC.iter().enumerate().all(|(n, octet)| {
        // SAFETY: by the caller's contract a text that ends with a zero; the octets before this one were none.
        let at = unsafe { path.add(n) };
        // SAFETY: as above.
        (unsafe { *at }) as u8 == *octet
    })
}

/// Opens a file: there is none of the stack's but in /proc.
fn open_file(dir: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    let arguments = [dir as usize, path as usize, flags as usize, mode as usize, 0];
    if path.is_null() || is_of_proc(path) {
        let [a, b, c, d, e] = arguments;
        return call(libc::SYS_openat, [a, b, c, d, e, 0]) as c_int;
    }
    pass(libc::SYS_openat, arguments) as c_int
}

/// Names of open(2): a mode that was not given is not looked at.
macro_rules! opens {
    ($($name:ident($($dir:ident)?);)*) => {$(
        #[doc = concat!(stringify!($name), ": open(2).")]
        ///
        /// # Safety
        /// A path that is not null ends with a zero.
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $name($($dir: c_int,)? path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
            let dir = [$($dir,)? libc::AT_FDCWD][0];
            open_file(dir, path, flags, mode)
        }
    )*};
}

opens! {
    open();
    open64();
    openat(dir);
    openat64(dir);
}

/// Their names with _FORTIFY_SOURCE: without a mode.
macro_rules! opens_without_mode {
    ($($name:ident($($dir:ident)?);)*) => {$(
        #[doc = concat!(stringify!($name), ": open(2) of a program that was compiled with _FORTIFY_SOURCE.")]
        ///
        /// # Safety
        /// A path that is not null ends with a zero.
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $name($($dir: c_int,)? path: *const c_char, flags: c_int) -> c_int {
            let dir = [$($dir,)? libc::AT_FDCWD][0];
            open_file(dir, path, flags, 0)
        }
    )*};
}

opens_without_mode! {
    __open_2();
    __open64_2();
    __openat_2(dir);
    __openat64_2(dir);
}
