//! Urgent data as Linux's sockets have it (RFC 9293 §3.8.5, RFC 6093; tcp(7), send(2), recv(2)).
//!
//! One octet of the remote may be urgent at a time: the mark. It lies in the receive stream like every
//! other octet; netd names its place. Unless SO_OOBINLINE is set, reads stop before the mark and then pass
//! over it, and MSG_OOB takes it. Nothing here is shared state: what was taken is this side's to remember.

use crate::TcpStream;
use crate::socket::{Half, Kind, Placed, Socket};
use proto::arena::line::{StackLine, level, offset_near, want};
use rustix::io::Errno;
use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Of one socket: what this side knows of urgent data.
#[derive(Debug)]
pub(crate) struct Urgent {
    /// SO_OOBINLINE.
    inline: AtomicBool,
    /// The mark whose octet MSG_OOB has taken; no offset at all before there was one.
    taken: AtomicU64,
}

impl Default for Urgent {
    fn default() -> Self {
        Urgent { inline: AtomicBool::new(false), taken: AtomicU64::new(u64::MAX) }
    }
}

/// The stream offset of the remote's urgent octet, as long as it is not consumed.
fn mark(line: &StackLine, consumed: u64) -> Option<u64> {
    let named = line.flags & level::URGENT != 0;
    named.then(|| offset_near(line.urgent, line.received)).filter(|mark| *mark >= consumed)
}

impl Socket {
    /// How far a read may go, of `available` octets behind `consumed`: the octets to pass over first, 0 or
    /// 1, and those behind them up to the mark.
    pub(crate) fn up_to_mark(&self, line: &StackLine, consumed: u64, available: usize) -> (usize, usize) {
        let Some(mark) = mark(line, consumed).filter(|_| self.kind == Kind::Stream) else {
            return (0, available);
        };
        match usize::try_from(mark - consumed).unwrap_or(usize::MAX) {
            0 if self.urgent.inline.load(Ordering::Relaxed) || available == 0 => (0, available),
            0 => (1, available - 1),
            before => (0, available.min(before)),
        }
    }

    /// Whether an urgent octet may be taken (POLLPRI).
    pub(crate) fn has_urgent(&self, line: &StackLine, consumed: u64) -> bool {
        mark(line, consumed)
            .is_some_and(|mark| mark < line.received && self.urgent.taken.load(Ordering::Relaxed) != mark)
    }
}

impl TcpStream {
    /// SO_OOBINLINE: urgent octets are read like all others.
    pub fn set_oob_inline(&self, inline: bool) {
        self.socket.urgent.inline.store(inline, Ordering::Relaxed);
    }

    /// Whether SO_OOBINLINE is set.
    pub fn oob_inline(&self) -> bool {
        self.socket.urgent.inline.load(Ordering::Relaxed)
    }

    /// Whether the next read begins at the urgent octet (SIOCATMARK).
    pub fn at_mark(&self) -> bool {
        let consumed = self.socket.mine().consumed;
        self.socket.look().and_then(|line| mark(&line, consumed)) == Some(consumed)
    }

    /// Takes the urgent octet (MSG_OOB), or only looks at it with `peek` (MSG_PEEK). It never waits.
    /// `None` is the end of the stream.
    ///
    /// # Errors
    /// EINVAL when there is none, when it was taken already, or with SO_OOBINLINE; `WouldBlock` when the
    /// remote has announced it and it has not come.
    pub fn recv_urgent(&self, peek: bool) -> io::Result<Option<u8>> {
        let (receiving, _, line) = self.socket.receive_locked()?;
        let consumed = receiving.consumed();
        let urgent = &self.socket.urgent;
        let mark = mark(&line, consumed).filter(|_| !urgent.inline.load(Ordering::Relaxed));
        let mark = mark.filter(|mark| urgent.taken.load(Ordering::Relaxed) != *mark).ok_or(Errno::INVAL)?;
        if mark >= line.received {
            let over =
                line.flags & (level::END | level::ERROR) != 0 || self.socket.wants() & want::SHUT_RD != 0;
            return if over { Ok(None) } else { Err(io::ErrorKind::WouldBlock.into()) };
        }
        let mut octet = [0];
        receiving.copy_at((mark - consumed) as usize, &mut octet)?;
        if !peek {
            urgent.taken.store(mark, Ordering::Relaxed);
        }
        Ok(Some(octet[0]))
    }

    /// Writes, and makes the last octet urgent (MSG_OOB of send(2)). Returns how many were written; only
    /// when all of them were is the last one urgent.
    ///
    /// # Errors
    /// As [`std::io::Write::write`].
    pub fn send_urgent(&self, bytes: &[u8], dont_wait: bool) -> io::Result<usize> {
        let dont_wait = dont_wait || self.socket.is_nonblocking();
        let parts = [IoSlice::new(bytes)];
        self.socket.block_unless(dont_wait, Half::Write, || self.try_write_marked(&parts, true))
    }
}

impl Socket {
    /// The flags of a line whose urgent data is acknowledged say so no more: the low half of an offset
    /// comes round again.
    pub(crate) fn forget_urgent(&self) -> io::Result<()> {
        let mine = self.mine();
        let over = |line: &StackLine| line.acked >= offset_near(mine.urgent, mine.written);
        if mine.flags & want::URGENT == 0 || !self.look().is_some_and(|line| over(&line)) {
            return Ok(());
        }
        let Placed { slot, shard, .. } = self.placed;
        self.session.inner.publish(slot, shard, |line| line.flags &= !want::URGENT)
    }
}
