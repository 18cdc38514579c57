//! Calls made directly: passed by netexec's filter, or handed over by it.
//!
//! Each may be where a thread is cancelled, as the C library's own are (pthreads(7)): none of the functions
//! here or above holds anything that would have to be dropped.

use libc::{c_int, c_long};
use proto::board::PASS;
use rustix::fd::BorrowedFd;
use rustix::fs::Stat;

/// PTHREAD_CANCEL_ASYNCHRONOUS of pthread.h.
const AT_ONCE: c_int = 1;

unsafe extern "C-unwind" {
    /// syscall(2), out of which a thread may be cancelled.
    fn syscall(number: c_long, ...) -> c_long;
    /// pthread_setcanceltype(3).
    fn pthread_setcanceltype(kind: c_int, old: *mut c_int) -> c_int;
}

/// A call that the kernel does itself, whatever the filter thinks of its number; −1 and errno, or a value.
pub fn pass(number: c_long, arguments: [usize; 5]) -> c_long {
    let [a, b, c, d, e] = arguments;
    call(number, [a, b, c, d, e, PASS as usize])
}

/// A call that the filter judges by its number and arguments; −1 and errno, or a value.
pub fn call(number: c_long, arguments: [usize; 6]) -> c_long {
    let [a, b, c, d, e, f] = arguments;
    let mut kind = 0;
    // As the C library does around each of its calls that block.
    // SAFETY: one int of ours; nothing is held that a cancelled thread would have to give back.
    unsafe { pthread_setcanceltype(AT_ONCE, &raw mut kind) };
    // SAFETY: a call of the program's, with the program's arguments: the kernel checks them.
    let result = unsafe { syscall(number, a, b, c, d, e, f) };
    // SAFETY: as above; a null pointer says that the old one is not wanted.
    unsafe { pthread_setcanceltype(kind, core::ptr::null_mut()) };
    result
}

/// fstat(2), without errno.
pub fn stat(fd: c_int) -> Option<Stat> {
    if fd < 0 {
        return None;
    }
    // SAFETY: used in this one call alone; the kernel says EBADF when it is none.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    rustix::fs::fstat(fd).ok()
}
