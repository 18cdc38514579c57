//! One socket of a program: our end of its pair, and the session's socket behind it.
//!
//! ```text
//! program's end ══ pair ══ our end ── outward ──► session's socket
//!                                  ◄── inward ───
//! ```
//!
//! Edges set the four flags of readiness, and whoever finds nothing more clears one. A connection's bytes
//! are carried by [`crate::pump`]; a datagram that one side has given and the other not yet taken waits
//! here, and nothing more is taken from that side meanwhile. So the program feels the stack's windows and
//! the stack the program's.
//!
//! The program's last close is a hang-up of our end. An end of one direction is a shutdown, in both
//! directions of it; a reset from the network is one for the program too: an end that is closed with
//! bytes unread gives its peer ECONNRESET (unix(7)).

use crate::ledger::{Ledger, Record};
use crate::native;
use crate::netlink::Protocol;
use crate::program::{self, Caller, Errno};
use crate::pump::{self, FULL, Pump, Way};
use libc::c_int;
use libnetclient::Datagram;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::io::Errno as Io;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};
use std::collections::VecDeque;
use std::time::Instant;
use zerocopy::FromZeros;

/// Bytes moved at a time; the largest datagram fits.
pub const CHUNK: usize = 64 * 1024;
/// Chunks each way before the others get their turn.
const TURNS: usize = 16;

/// [`Waiting::place`] of a call that does not wait yet.
pub const NOWHERE: usize = usize::MAX;

/// A call that waits for something to happen to its socket.
#[derive(Debug, Clone, Copy)]
pub struct Waiting {
    /// The notice to answer.
    pub id: u64,
    /// Who called.
    pub caller: Caller,
    /// The arguments of the call, as the kernel handed them over.
    pub arguments: [u64; 6],
    /// The number of the call.
    pub call: i64,
    /// When it fails with EAGAIN (SO_RCVTIMEO).
    pub until: Option<Instant>,
    /// Where in the ledger it is written down; [`NOWHERE`] while it is not.
    pub place: usize,
}

/// What a socket is at the moment.
#[derive(Debug)]
pub enum State {
    /// TCP, neither connected nor listening.
    Fresh,
    /// A connect is under way.
    Connecting {
        /// To where, as the program said it.
        to: Vec<u8>,
        /// Bytes that keep the program's end from being writable.
        filled: usize,
        /// Calls that wait for the outcome.
        waiting: Vec<Waiting>,
    },
    /// A connection.
    Stream,
    /// Connections come in.
    Listening {
        /// A byte lies in the program's end, which makes it readable.
        marked: bool,
        /// Calls of accept that wait.
        waiting: VecDeque<Waiting>,
        /// Connections that were taken for a caller that had gone by then: their records and numbers.
        returned: VecDeque<(usize, c_int)>,
    },
    /// A socket of AF_NETLINK: nothing of the session's.
    Netlink(Protocol),
    /// Datagrams.
    Datagram {
        /// Has a name: before that nothing can come, and asking would give it one.
        bound: bool,
        /// Has a remote: nobody needs to be told where datagrams come from.
        connected: bool,
        /// What came with the datagram that lies in the pair, where more than its bytes may be asked for.
        head: Option<Box<Datagram>>,
        /// Calls of recvfrom and its kin that wait.
        waiting: VecDeque<Waiting>,
    },
}

/// What became of a bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It stands, with nothing to do until an edge.
    Rests,
    /// It stands and has more to do.
    Goes,
    /// Nobody holds the program's end any more, and all it said is handed over.
    Closed,
    /// The program's end was closed with bytes unread: a reset.
    Aborted,
    /// The connection was reset by the other side.
    Reset,
}

/// A socket.
#[derive(Debug)]
pub struct Bridge {
    /// The inode of the program's end: how its descriptors are recognised.
    pub socket: u64,
    /// AF_INET or AF_INET6.
    pub family: c_int,
    /// The session's socket.
    pub native: c_int,
    /// Our end.
    pub ours: OwnedFd,
    /// What it is.
    pub state: State,
    /// Who named it last: where its descriptor is looked for.
    pub caller: Caller,
    /// What SO_ERROR will say, once.
    pub error: Option<Errno>,
    /// The program's end may have bytes.
    pub program_readable: bool,
    /// A short read is not all there is: the end was announced already, or an urgent octet.
    pub reads_to_the_end: bool,
    /// The program's end may take bytes.
    pub program_writable: bool,
    /// The session's socket may have bytes.
    pub stack_readable: bool,
    /// The session's socket may take bytes.
    pub stack_writable: bool,
    /// What the odometer of our end stands at, and where in the send stream it was full.
    pub odometer: c_int,
    /// The offset of then; below 0 by what had filled the pair.
    pub base: u64,
    /// The last call that changed it, and what it came to: a value, or an errno below 0.
    pub done: (u64, i64),
    /// What stands in the ledger.
    pub written: Record,
    /// A datagram of the program's that the stack has not taken.
    out: Option<Vec<u8>>,
    /// A datagram of the stack's that the program has not taken.
    into: Option<Vec<u8>>,
    /// The program writes no more.
    pub program_ended: bool,
    /// The remote writes no more.
    pub stack_ended: bool,
    end_passed_on: bool,
    /// The program reads no more: what comes is for nobody.
    pub deaf: bool,
}

// The bench's `exec_socket_bytes` counts some thousands of them.
const _: () = assert!(size_of::<Option<Bridge>>() <= 512);

/// A pair for a socket of that kind: our end, the program's.
///
/// # Errors
/// EMFILE and its like.
pub fn pair(kind: c_int, nonblocking: bool) -> Result<(OwnedFd, OwnedFd), Errno> {
    let kind = if kind == libc::SOCK_STREAM { SocketType::STREAM } else { SocketType::SEQPACKET };
    let ends = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None);
    let (ours, theirs) = ends.map_err(|errno| errno.raw_os_error())?;
    let set = |end: &OwnedFd| {
        rustix::fs::fcntl_setfl(end, rustix::fs::OFlags::NONBLOCK).map_err(|errno| errno.raw_os_error())
    };
    set(&ours)?;
    if kind == SocketType::STREAM {
        pump::set_odometer(&ours, FULL)?;
        // An urgent octet of the program's comes where it stands in the stream, as any other.
        let inline = rustix::net::sockopt::set_socket_oobinline(&ours, true);
        inline.map_err(|errno| errno.raw_os_error())?;
    }
    if nonblocking {
        set(&theirs)?;
    }
    Ok((ours, theirs))
}

/// The inode of a socket of ours.
///
/// # Errors
/// Those of fstat(2).
pub fn inode(end: &OwnedFd) -> Result<u64, Errno> {
    rustix::fs::fstat(end).map(|stat| stat.st_ino).map_err(|errno| errno.raw_os_error())
}

impl Bridge {
    /// A socket that was just made.
    pub fn new(
        socket: u64,
        family: c_int,
        native: c_int,
        ours: OwnedFd,
        state: State,
        caller: Caller,
    ) -> Bridge {
        Bridge {
            socket,
            family,
            native,
            ours,
            state,
            caller,
            error: None,
            program_readable: true,
            reads_to_the_end: false,
            program_writable: true,
            stack_readable: true,
            stack_writable: true,
            odometer: FULL,
            base: 0,
            done: (0, 0),
            written: Record::new_zeroed(),
            out: None,
            into: None,
            program_ended: false,
            stack_ended: false,
            end_passed_on: false,
            deaf: false,
        }
    }

    /// Moves what can be moved.
    pub fn carry(&mut self, ledger: &Ledger, pump: &Pump, index: usize, chunk: &mut [u8; CHUNK]) -> Outcome {
        match self.state {
            State::Stream => self.carry_stream(ledger, pump, index),
            State::Datagram { .. } => match self.datagrams_out(chunk) {
                Outcome::Rests => self.datagrams_in(ledger, index, chunk),
                outward => outward,
            },
            State::Fresh | State::Connecting { .. } | State::Listening { .. } | State::Netlink(_) => {
                match self.is_hung_up() {
                    true => Outcome::Closed,
                    false => Outcome::Rests,
                }
            }
        }
    }

    /// Nobody holds the program's end.
    fn is_hung_up(&self) -> bool {
        let mut one = [PollFd::new(&self.ours, PollFlags::empty())];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        matches!(poll(&mut one, Some(&now)), Ok(1)) && one[0].revents().contains(PollFlags::HUP)
    }

    fn carry_stream(&mut self, ledger: &Ledger, pump: &Pump, index: usize) -> Outcome {
        let outward = match pump.outward(ledger, index, self) {
            Way::Ended => self.pass_on_the_end(),
            Way::Rests => Outcome::Rests,
            Way::Goes => Outcome::Goes,
            Way::Aborted => Outcome::Aborted,
            Way::Reset => Outcome::Reset,
        };
        if !matches!(outward, Outcome::Rests | Outcome::Goes) {
            return outward;
        }
        match pump.inward(ledger, index, self) {
            Way::Reset => Outcome::Reset,
            Way::Goes => Outcome::Goes,
            _ => outward,
        }
    }

    /// A successor's: the end of the stream may be handed over already.
    pub fn take_up_end(&mut self) {
        self.end_passed_on = native::is_write_shut(self.native);
        self.program_ended = self.end_passed_on;
    }

    /// The program writes no more, and all it wrote is handed over.
    fn pass_on_the_end(&mut self) -> Outcome {
        if self.is_hung_up() {
            return Outcome::Closed;
        }
        if !self.end_passed_on {
            self.end_passed_on = true;
            // One that is gone has an end.
            let _ = native::shutdown(self.native, libc::SHUT_WR);
        }
        Outcome::Rests
    }

    fn datagrams_out(&mut self, chunk: &mut [u8; CHUNK]) -> Outcome {
        for _ in 0..TURNS {
            if let Some(datagram) = &self.out {
                match native::send(self.native, datagram, None, &[]) {
                    Err(libc::EAGAIN) => {
                        self.stack_writable = false;
                        return Outcome::Rests;
                    }
                    Ok(_) => self.out = None,
                    Err(errno) => (self.out, self.error) = (None, Some(errno)),
                }
                continue;
            }
            if !self.program_readable {
                return Outcome::Rests;
            }
            match recv(&self.ours, &mut chunk[..], RecvFlags::DONTWAIT) {
                // A datagram without bytes looks like an end.
                Ok((_, 0)) if self.is_hung_up() => return Outcome::Closed,
                Ok((_, len)) => self.out = Some(chunk[..len].to_vec()),
                Err(Io::AGAIN) => self.program_readable = false,
                Err(Io::INTR) => {}
                Err(_) => return Outcome::Closed,
            }
        }
        Outcome::Goes
    }

    fn datagrams_in(&mut self, ledger: &Ledger, index: usize, chunk: &mut [u8; CHUNK]) -> Outcome {
        for _ in 0..TURNS {
            let State::Datagram { bound, connected, waiting, .. } = &mut self.state else {
                return Outcome::Rests;
            };
            // Somebody waits who is told the address too: the server hands it to him.
            let connected = *connected;
            if !*bound || !waiting.is_empty() || !self.stack_readable {
                return Outcome::Rests;
            }
            // One at a time, so that it is known where the one comes from that is read, and how.
            let told = !connected || native::wants_control(self.native);
            if told && !self.is_pair_empty() {
                return Outcome::Rests;
            }
            let (datagram, from) = match self.into.take() {
                Some(datagram) => (datagram, None),
                None => match native::receive_from(self.native, &mut chunk[..], false) {
                    Ok(datagram) => (chunk[..datagram.copied].to_vec(), Some(datagram)),
                    Err(libc::EINTR) => continue,
                    Err(libc::EAGAIN) => {
                        self.stack_readable = false;
                        return Outcome::Rests;
                    }
                    // The session with the stack is over: every further call would say the same.
                    Err(libc::ECONNABORTED) => {
                        (self.error, self.stack_readable) = (Some(libc::ENETDOWN), false);
                        return Outcome::Rests;
                    }
                    Err(errno) => {
                        self.error = Some(errno);
                        continue;
                    }
                },
            };
            if let (State::Datagram { head, .. }, Some(from)) = (&mut self.state, from) {
                *head = Some(Box::new(from));
                if told {
                    // Before it can be read: a successor must know whom it is from.
                    self.written.head = head.as_deref().into();
                    ledger.commit(index, &self.written);
                }
            }
            match send(&self.ours, &datagram, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Err(Io::AGAIN) => {
                    self.into = Some(datagram);
                    return Outcome::Rests;
                }
                // Closed: the other way sees it.
                Err(_) => return Outcome::Rests,
                Ok(_) => {}
            }
        }
        Outcome::Goes
    }

    /// Whether the program has read all that lies in the pair.
    fn is_pair_empty(&self) -> bool {
        program::unread(&self.ours) == Some(0)
    }

    /// Makes the program's end readable, or not any more: `theirs` is a descriptor of it.
    pub fn mark(&mut self, theirs: Option<&OwnedFd>) {
        let State::Listening { marked, returned, .. } = &mut self.state else { return };
        let wanted = !returned.is_empty() || native::is_readable(self.native);
        if wanted && !*marked {
            *marked = send(&self.ours, &[0], SendFlags::DONTWAIT | SendFlags::NOSIGNAL).is_ok();
        } else if !wanted
            && *marked
            && let Some(theirs) = theirs
        {
            *marked = recv(theirs, &mut [0u8; 1], RecvFlags::DONTWAIT).is_err();
        }
    }

    /// Fills the program's end, so that it is not writable; returns with how many bytes.
    pub fn fill(theirs: &OwnedFd) -> usize {
        let chunk = [0u8; 16 * 1024];
        let mut filled = 0;
        while let Ok(len) = send(theirs, &chunk, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            filled += len;
        }
        filled
    }

    /// Takes out what [`Bridge::fill`] put in, as far as a predecessor has not.
    pub fn drain(&mut self, filled: usize, chunk: &mut [u8; CHUNK]) {
        let taken = pump::odometer(&self.ours).map_or(0, |left| (FULL - left) as usize);
        let mut left = filled.saturating_sub(taken);
        while left > 0 {
            let room = left.min(chunk.len());
            match recv(&self.ours, &mut chunk[..room], RecvFlags::DONTWAIT) {
                Ok((_, len)) if len > 0 => left -= len,
                _ => break,
            }
        }
        // What comes from here on is the program's.
        self.base = 0u64.wrapping_sub(filled as u64);
        self.odometer = FULL - filled as c_int;
    }

    /// The other side has reset the connection: so it is for the program, whose end is `theirs`, if it
    /// was found.
    pub fn reset(self, theirs: Option<OwnedFd>) {
        if let Some(theirs) = theirs {
            make_reset(&theirs);
        }
        drop(self.ours);
    }

    /// The session's number and ours, to be taken off the watcher.
    pub fn descriptors(&self) -> (c_int, c_int) {
        (self.native, self.ours.as_fd().as_raw_fd())
    }
}

/// Unread bytes in our end make its close a reset for `theirs` (unix(7)).
pub fn make_reset(theirs: &OwnedFd) {
    // One that takes no more has some.
    let _ = send(theirs, &[0], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
}
