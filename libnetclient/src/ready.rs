//! What may be done with a socket now, as poll(2) says it.

use crate::session::Session;
use crate::socket::{Kind, Socket};
use crate::{TcpListener, TcpStream, UdpSocket};
use proto::arena::line::{level, want};
use proto::arena::record::{DATAGRAM_MAX, HEADER_SIZE, record_size};
use std::ops::{BitAnd, BitOr, BitOrAssign};
use std::sync::Arc;

/// A set of things that a socket is ready for, or that somebody wants to hear of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ready(u8);

impl Ready {
    /// Nothing.
    pub const NONE: Ready = Ready(0);
    /// Bytes, a datagram or a connection may be taken, or the end of the stream (POLLIN).
    pub const READ: Ready = Ready(1);
    /// Bytes or a datagram may be written; the connection stands or has failed (POLLOUT).
    pub const WRITE: Ready = Ready(1 << 1);
    /// An error waits for `take_error` (POLLERR). Always heard of.
    pub const ERROR: Ready = Ready(1 << 2);
    /// The remote has finished (POLLRDHUP).
    pub const READ_CLOSED: Ready = Ready(1 << 3);
    /// Both directions have ended (POLLHUP). Always heard of.
    pub const HANG_UP: Ready = Ready(1 << 4);
    /// An urgent octet may be taken (POLLPRI).
    pub const PRIORITY: Ready = Ready(1 << 5);
    /// What is heard of whether it was asked for or not, as in poll(2).
    pub const ALWAYS: Ready = Ready(Ready::ERROR.0 | Ready::HANG_UP.0);

    const OVER: Ready = Ready(0x1f);

    /// Whether all of `other` is in this set.
    pub const fn contains(self, other: Ready) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether anything of `other` is in this set.
    pub const fn intersects(self, other: Ready) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether it is the empty set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    fn when(self, condition: bool) -> Ready {
        if condition { self } else { Ready::NONE }
    }
}

impl BitOr for Ready {
    type Output = Ready;

    fn bitor(self, other: Ready) -> Ready {
        Ready(self.0 | other.0)
    }
}

impl BitOrAssign for Ready {
    fn bitor_assign(&mut self, other: Ready) {
        self.0 |= other.0;
    }
}

impl BitAnd for Ready {
    type Output = Ready;

    fn bitand(self, other: Ready) -> Ready {
        Ready(self.0 & other.0)
    }
}

/// A socket of any kind, to be watched.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a>(pub(crate) &'a Arc<Socket>);

impl Source<'_> {
    /// What may be done with it now.
    pub fn ready(self) -> Ready {
        self.0.ready(|_| {})
    }
}

macro_rules! sources {
    ($($socket:ty),*) => {$(
        impl<'a> From<&'a $socket> for Source<'a> {
            fn from(socket: &'a $socket) -> Source<'a> {
                Source(&socket.socket)
            }
        }

        impl $socket {
            /// What may be done with it now.
            pub fn ready(&self) -> Ready {
                Source::from(self).ready()
            }
        }
    )*};
}
sources!(TcpStream, TcpListener, UdpSocket);

/// Room that makes a UDP socket writable: the largest datagram.
const DATAGRAM_ROOM: u64 = record_size(DATAGRAM_MAX) as u64;

impl Socket {
    /// What may be done now. Of a socket that may be written but for lack of a send page, `wanting`
    /// is told.
    pub(crate) fn ready(&self, mut wanting: impl FnMut(&Session)) -> Ready {
        let mut parts = self.parts();
        let first = parts.next().map_or(Ready::NONE, |part| part.own_ready(&mut wanting));
        // It may be written when each place may: which one a datagram goes to is its remote's doing.
        parts.fold(first, |all, part| {
            let own = part.own_ready(&mut wanting);
            Ready((all.0 | own.0) & !Ready::WRITE.0) | all & own & Ready::WRITE
        })
    }

    fn own_ready(&self, wanting: &mut impl FnMut(&Session)) -> Ready {
        if self.session.inner.sound().is_err() {
            return Ready::OVER;
        }
        let Some(line) = self.look() else { return Ready::NONE };
        let mine = self.mine();
        // A line that makes no sense is found by the call that follows.
        let unread = line.received.saturating_sub(mine.consumed);
        let available = match usize::try_from(unread) {
            // The urgent octet alone is nothing to read.
            Ok(unread) => self.up_to_mark(&line, mine.consumed, unread).1 as u64,
            Err(_) => unread,
        };
        let room = self.room(&line, &mine);
        let error = Ready::ERROR.when(self.has_error(&line));
        let open = line.flags & level::OPEN != 0;
        let mut ready = match self.kind {
            Kind::Stream => {
                let failed = line.flags & level::ERROR != 0;
                let ended = failed || line.flags & level::END != 0;
                let finished = mine.flags & want::SHUT_WR != 0;
                let mut ready = Ready::READ.when(available > 0 || ended || mine.flags & want::SHUT_RD != 0);
                ready |= Ready::READ_CLOSED.when(ended);
                ready |= Ready::PRIORITY.when(self.has_urgent(&line, mine.consumed));
                ready |= Ready::HANG_UP.when(failed || ended && finished);
                ready | Ready::WRITE.when(failed || open && (finished || room > 0))
            }
            Kind::Listener => Ready::READ.when(available >= HEADER_SIZE as u64),
            Kind::Datagram => {
                let told = available > 0 && self.set_errors_aside();
                let available = line.received.saturating_sub(self.mine().consumed);
                let error = error | Ready::ERROR.when(told);
                let ready = error | Ready::READ.when(available > 0 || !error.is_empty());
                ready | Ready::WRITE.when(open && (room >= DATAGRAM_ROOM || mine.written == line.acked))
            }
        };
        if ready.contains(Ready::WRITE)
            && room > 0
            && line.flags & level::ERROR == 0
            && !self.session.inner.has_page()
        {
            wanting(&self.session);
            // Pages may have come back before the one who wants one was noted.
            if !self.session.inner.has_page() {
                ready = Ready(ready.0 & !Ready::WRITE.0);
            }
        }
        ready | error
    }
}
