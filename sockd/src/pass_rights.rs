//! Refusing descriptors that a client pushes: SO_PASSRIGHTS off, where the kernel has it (Linux
//! 6.16, include/uapi/asm-generic/socket.h). Elsewhere they are closed when the record they came
//! with is taken off the socket.

#![expect(unsafe_code, reason = "a socket option that no safe binding knows yet")]

use rustix::fd::{AsRawFd, BorrowedFd};

/// asm-generic/socket.h.
const SO_PASSRIGHTS: i32 = 83;

/// Lets the kernel refuse descriptors sent to `socket`; `false` when it can't.
pub(crate) fn refuse(socket: BorrowedFd<'_>) -> bool {
    let off: i32 = 0;
    let size = size_of::<i32>() as libc::socklen_t;
    let value = (&raw const off).cast();
    // SAFETY: `value` points to `size` bytes that live through the call, which only reads them.
    unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_PASSRIGHTS, value, size) == 0 }
}
