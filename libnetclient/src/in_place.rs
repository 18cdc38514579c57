//! Bytes of a stream where they lie in the shared memory, by address: for the C library.
//!
//! Rust programs use [`TcpStream::send_reserve`] and [`TcpStream::recv_peek`], which copy at the
//! border of the shared memory and hold the stream's lock. Here nothing is copied and nothing stays
//! locked: a reservation keeps other writers out (EBUSY) until it is committed, and bytes that were
//! peeked stay where they are until somebody consumes them.

use crate::TcpStream;
use crate::socket::{Half, Look};
use rustix::io::Errno;
use std::io;

impl TcpStream {
    /// Reserves room for up to `len` bytes in the send stream and calls `each` with address and
    /// length of every piece; returns how many bytes that are. The addresses hold until
    /// [`TcpStream::commit_in_place`].
    ///
    /// # Errors
    /// EBUSY while another reservation is open; EINVAL for a `len` of 0; as a write.
    pub fn reserve_in_place(
        &self,
        len: usize,
        dont_wait: bool,
        mut each: impl FnMut(*mut u8, usize),
    ) -> io::Result<usize> {
        if len == 0 {
            return Err(Errno::INVAL.into());
        }
        self.socket.block_unless(dont_wait || self.is_nonblocking(), Half::Write, || {
            if !self.writable()? {
                return Ok(Look::Wait);
            }
            Ok(match self.socket.sending(1, len)? {
                Look::Ready((mut sending, len)) => {
                    sending.reserve(len, &mut each);
                    Look::Ready(len)
                }
                Look::Wait => Look::Wait,
                Look::WaitForPage => Look::WaitForPage,
            })
        })
    }

    /// Sends the first `len` bytes of what was reserved, and ends the reservation.
    ///
    /// # Errors
    /// EINVAL when that is more than was reserved, and then the reservation stays.
    pub fn commit_in_place(&self, len: usize) -> io::Result<()> {
        self.socket.commit_reserved(len)
    }

    /// Waits until bytes have arrived and calls `each` with address and length of every piece;
    /// returns how many bytes that are: 0 at the end of the stream.
    ///
    /// # Errors
    /// As a read.
    pub fn peek_in_place(&self, dont_wait: bool, mut each: impl FnMut(*mut u8, usize)) -> io::Result<usize> {
        self.receive_unless(dont_wait || self.is_nonblocking(), |receiving, available| {
            receiving.addresses(available, &mut each)?;
            Ok(available)
        })
    }

    /// Takes the first `len` bytes off the stream.
    ///
    /// # Errors
    /// EINVAL when that is more than has arrived.
    pub fn consume_in_place(&self, len: usize) -> io::Result<()> {
        self.socket.receiving(|receiving, available, _| match len <= available {
            true => receiving.consume(len),
            false => Err(Errno::INVAL.into()),
        })
    }
}
