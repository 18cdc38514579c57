//! Bytes written and read where they lie in the memory shared with the stack.

#![expect(unsafe_code, reason = "the border to C")]

use crate::abi::{Errno, Outcome, int, size};
use crate::table;
use libc::{c_int, iovec, size_t, ssize_t};
use proto::arena::PAGE_SIZE;

/// The caller's array of pieces.
struct Pieces {
    at: *mut iovec,
    room: usize,
    used: usize,
}

impl Pieces {
    /// # Safety
    /// `count` is null or points to the number of elements that `iov` is valid for writes of.
    unsafe fn new(iov: *mut iovec, count: *const c_int) -> Outcome<Pieces> {
        // SAFETY: by the function's contract.
        let room = *unsafe { count.as_ref() }.ok_or(Errno(libc::EFAULT))?;
        match usize::try_from(room) {
            Ok(1..) if iov.is_null() => Err(Errno(libc::EFAULT)),
            Ok(room @ 1..) => Ok(Pieces { at: iov, room, used: 0 }),
            _ => Err(Errno(libc::EINVAL)),
        }
    }

    /// Notes a piece; those that find no room are left out. Returns the bytes noted.
    fn put(&mut self, base: *mut u8, len: usize) -> usize {
        if self.used == self.room {
            return 0;
        }
        // SAFETY: below the number of elements that the caller has room for.
        let place = unsafe { self.at.add(self.used) };
        // SAFETY: as above.
        unsafe { place.write(iovec { iov_base: base.cast(), iov_len: len }) };
        self.used += 1;
        len
    }
}

/// Reserves room for up to `len` bytes in a connection's send stream and says where it lies: at most
/// `*count` pieces in `iov`, whose number comes back in `*count`. Returns the bytes reserved, at least
/// one. They are the caller's until [`nc_send_commit`]; meanwhile every other send on the socket fails
/// with EBUSY. Waits for room as a send does.
///
/// # Safety
/// `iov` is valid for writes of `*count` elements. The pieces are valid until the commit.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nc_send_reserve(
    fd: c_int,
    len: size_t,
    iov: *mut iovec,
    count: *mut c_int,
) -> ssize_t {
    size((|| {
        let entry = table::get(fd)?;
        // SAFETY: by the function's contract.
        let mut pieces = unsafe { Pieces::new(iov, count) }?;
        // So many bytes fit the pieces wherever in a page they begin.
        let most = (pieces.room - 1).saturating_mul(PAGE_SIZE).max(1);
        let most = if pieces.room == 1 { PAGE_SIZE } else { most };
        let stream = entry.stream()?;
        let mut noted = 0;
        let reserved = stream.reserve_in_place(len.min(most), entry.is_nonblocking(), |base, len| {
            noted += pieces.put(base, len);
        })?;
        // SAFETY: by the function's contract.
        unsafe { *count = pieces.used as c_int };
        Ok(reserved.min(noted))
    })())
}

/// Sends the first `len` bytes of what was reserved and ends the reservation; 0 sends nothing.
#[unsafe(no_mangle)]
pub extern "C" fn nc_send_commit(fd: c_int, len: size_t) -> c_int {
    int((|| {
        table::get(fd)?.stream()?.commit_in_place(len)?;
        Ok(0)
    })())
}

/// Waits for bytes as a read does and says where they lie: at most `*count` pieces in `iov`, whose
/// number comes back in `*count`. Returns how many bytes that are, 0 at the end of the stream. They
/// stay there until [`nc_recv_consume`].
///
/// # Safety
/// `iov` is valid for writes of `*count` elements. The pieces are valid until they are consumed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nc_recv_peek(fd: c_int, iov: *mut iovec, count: *mut c_int) -> ssize_t {
    size((|| {
        let entry = table::get(fd)?;
        // SAFETY: by the function's contract.
        let mut pieces = unsafe { Pieces::new(iov, count) }?;
        let mut noted = 0;
        entry.stream()?.peek_in_place(entry.is_nonblocking(), |base, len| noted += pieces.put(base, len))?;
        // SAFETY: by the function's contract.
        unsafe { *count = pieces.used as c_int };
        Ok(noted)
    })())
}

/// Takes the first `len` bytes off the receive stream.
#[unsafe(no_mangle)]
pub extern "C" fn nc_recv_consume(fd: c_int, len: size_t) -> c_int {
    int((|| {
        table::get(fd)?.stream()?.consume_in_place(len)?;
        Ok(0)
    })())
}
