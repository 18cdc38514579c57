//! Bytes put into the shared pages, and read there, without a copy on this side in between.
//!
//! Shared memory is never lent out as a slice: the stack may write it at any time. A program
//! writes pieces where they will be sent from, and reads them where they arrived.

use crate::socket::{Half, Look, Receiving, Sending};
use crate::tcp::TcpStream;
use proto::arena::PAGE_SIZE;
use std::io;

/// Room in a connection's send stream. Dropped without [`commit`](Reserved::commit), nothing is
/// sent. Other writers of the connection wait meanwhile.
pub struct Reserved<'a> {
    sending: Sending<'a>,
    len: usize,
}

impl Reserved<'_> {
    /// Bytes that were reserved: at least 1, at most what was asked for.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing was reserved; never.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Writes `bytes` at `offset` in the room.
    ///
    /// # Panics
    /// When they don't fit.
    pub fn write_at(&mut self, offset: usize, bytes: &[u8]) {
        let fits = offset.checked_add(bytes.len()).is_some_and(|end| end <= self.len);
        assert!(fits, "outside the reserved room");
        self.sending.put(offset, bytes);
    }

    /// Sends the first `len` bytes of the room.
    ///
    /// # Errors
    /// When the session is over.
    ///
    /// # Panics
    /// When `len` is more than was reserved.
    pub fn commit(mut self, len: usize) -> io::Result<()> {
        assert!(len <= self.len, "more than was reserved");
        self.sending.commit(len)
    }
}

/// Bytes that arrived and are not consumed. Other readers of the connection wait meanwhile.
pub struct Peeked<'a> {
    receiving: Receiving<'a>,
    len: usize,
}

impl Peeked<'_> {
    /// Bytes that may be read; 0 at the end of the stream.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the stream has ended.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Reads what lies at `offset`.
    ///
    /// # Errors
    /// When the stack broke a rule of the shared memory.
    ///
    /// # Panics
    /// When that reaches beyond what there is.
    pub fn read_at(&self, offset: usize, out: &mut [u8]) -> io::Result<()> {
        let within = offset.checked_add(out.len()).is_some_and(|end| end <= self.len);
        assert!(within, "beyond what was received");
        self.receiving.copy(offset, out)
    }

    /// Calls `each` with everything, a piece of at most 16 KiB at a time.
    ///
    /// # Errors
    /// As [`Peeked::read_at`].
    pub fn for_each_chunk(&self, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let mut chunk = vec![0; PAGE_SIZE.min(self.len)];
        let mut done = 0;
        while done < self.len {
            let piece = chunk.len().min(self.len - done);
            self.receiving.copy(done, &mut chunk[..piece])?;
            each(&chunk[..piece]);
            done += piece;
        }
        Ok(())
    }

    /// Takes the first `len` bytes off the stream.
    ///
    /// # Errors
    /// When the session is over.
    ///
    /// # Panics
    /// When `len` is more than there is.
    pub fn consume(mut self, len: usize) -> io::Result<()> {
        assert!(len <= self.len, "more than was received");
        self.receiving.consume(len)
    }
}

impl TcpStream {
    /// Reserves room for up to `len` bytes (at least one page's rest, if `len` asks for it) in the
    /// send stream.
    ///
    /// # Errors
    /// As a write.
    ///
    /// # Panics
    /// When `len` is 0.
    pub fn send_reserve(&self, len: usize) -> io::Result<Reserved<'_>> {
        assert!(len > 0, "room for nothing");
        self.socket.block_on(Half::Write, || {
            if !self.writable()? {
                return Ok(Look::Wait);
            }
            Ok(match self.socket.sending(1, len)? {
                Look::Ready((sending, len)) => Look::Ready(Reserved { sending, len }),
                Look::Wait => Look::Wait,
                Look::WaitForPage => Look::WaitForPage,
            })
        })
    }

    /// Waits until bytes have arrived, and looks at all of them where they are.
    ///
    /// # Errors
    /// As a read.
    pub fn recv_peek(&self) -> io::Result<Peeked<'_>> {
        self.receive(|_, _| Ok(()))?;
        let (receiving, len, _) = self.socket.receive_locked()?;
        Ok(Peeked { receiving, len })
    }
}
