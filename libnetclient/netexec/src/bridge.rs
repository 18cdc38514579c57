//! One socket of a program: our end of its pair, and the session's socket behind it.
//!
//! ```text
//! program's end ══ pair ══ our end ── carry_out ──► session's socket
//!                                  ◄── carry_in ───
//! ```
//!
//! Edges set the four flags of readiness, and whoever finds nothing more clears one. Bytes that one side
//! has given and the other not yet taken wait in a remainder, at most one chunk a way; nothing more is
//! taken from that side meanwhile, so the program feels the stack's windows and the stack the program's.
//!
//! The program's last close is a hang-up of our end. An end of one direction is a shutdown, in both
//! directions of it; a reset from the network is one for the program too: an end that is closed with
//! bytes unread gives its peer ECONNRESET (unix(7)).

use crate::native;
use crate::program::{self, Caller, Errno};
use libc::c_int;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::io::Errno as Io;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, recv, send, shutdown, socketpair,
};
use std::collections::VecDeque;
use std::time::Instant;

/// Bytes moved at a time; the largest datagram fits.
pub const CHUNK: usize = 64 * 1024;
/// Chunks each way before the others get their turn.
const TURNS: usize = 16;

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
        /// Connections that were taken for a caller that had gone by then.
        returned: VecDeque<(c_int, Vec<u8>)>,
    },
    /// Datagrams.
    Datagram {
        /// Has a name: before that nothing can come, and asking would give it one.
        bound: bool,
        /// Has a remote: nobody needs to be told where datagrams come from.
        connected: bool,
        /// Where the datagram comes from that lies in the pair.
        head: Vec<u8>,
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
    /// The program's end may take bytes.
    pub program_writable: bool,
    /// The session's socket may have bytes.
    pub stack_readable: bool,
    /// The session's socket may take bytes.
    pub stack_writable: bool,
    /// Given by the program, not taken by the stack.
    out: Option<Vec<u8>>,
    /// Given by the stack, not taken by the program.
    into: Option<Vec<u8>>,
    program_ended: bool,
    stack_ended: bool,
    end_passed_on: bool,
    /// The program reads no more: what comes is for nobody.
    deaf: bool,
}

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
            program_writable: true,
            stack_readable: true,
            stack_writable: true,
            out: None,
            into: None,
            program_ended: false,
            stack_ended: false,
            end_passed_on: false,
            deaf: false,
        }
    }

    /// Moves what can be moved.
    pub fn carry(&mut self, chunk: &mut [u8; CHUNK]) -> Outcome {
        match self.state {
            State::Stream => match (self.carry_out(chunk), self.carry_in(chunk)) {
                (Outcome::Rests | Outcome::Goes, Outcome::Reset) | (Outcome::Reset, _) => Outcome::Reset,
                (Outcome::Rests, inward) => inward,
                (outward, _) => outward,
            },
            State::Datagram { .. } => match self.datagrams_out(chunk) {
                Outcome::Rests => self.datagrams_in(chunk),
                outward => outward,
            },
            State::Fresh | State::Connecting { .. } | State::Listening { .. } => match self.is_hung_up() {
                true => Outcome::Closed,
                false => Outcome::Rests,
            },
        }
    }

    /// Nobody holds the program's end.
    fn is_hung_up(&self) -> bool {
        let mut one = [PollFd::new(&self.ours, PollFlags::empty())];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        matches!(poll(&mut one, Some(&now)), Ok(1)) && one[0].revents().contains(PollFlags::HUP)
    }

    fn carry_out(&mut self, chunk: &mut [u8; CHUNK]) -> Outcome {
        for _ in 0..TURNS {
            if let Some(rest) = &mut self.out {
                if !self.stack_writable {
                    return Outcome::Rests;
                }
                match native::send(self.native, rest, None) {
                    Ok(taken) if taken == rest.len() => self.out = None,
                    Ok(taken) => {
                        rest.drain(..taken);
                    }
                    Err(libc::EAGAIN) => self.stack_writable = false,
                    Err(libc::EINTR) => {}
                    Err(_) => return Outcome::Reset,
                }
                continue;
            }
            if self.program_ended {
                return self.pass_on_the_end();
            }
            if !self.program_readable {
                return Outcome::Rests;
            }
            match recv(&self.ours, &mut chunk[..], RecvFlags::DONTWAIT) {
                Ok((_, 0)) => self.program_ended = true,
                Ok((_, len)) => match native::send(self.native, &chunk[..len], None) {
                    Ok(taken) if taken == len => {}
                    Ok(taken) => self.out = Some(chunk[taken..len].to_vec()),
                    Err(libc::EAGAIN | libc::EINTR) => {
                        self.stack_writable = false;
                        self.out = Some(chunk[..len].to_vec());
                    }
                    Err(_) => return Outcome::Reset,
                },
                Err(Io::AGAIN) => self.program_readable = false,
                Err(Io::INTR) => {}
                Err(_) => return Outcome::Aborted,
            }
        }
        Outcome::Goes
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

    fn carry_in(&mut self, chunk: &mut [u8; CHUNK]) -> Outcome {
        for _ in 0..TURNS {
            if let Some(rest) = &mut self.into {
                if !self.program_writable {
                    return Outcome::Rests;
                }
                match send(&self.ours, rest, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                    Ok(taken) if taken == rest.len() => self.into = None,
                    Ok(taken) => {
                        rest.drain(..taken);
                    }
                    Err(Io::AGAIN) => self.program_writable = false,
                    Err(Io::INTR) => {}
                    // Its reading is shut, or it is closed, which the other way sees.
                    Err(_) => (self.into, self.deaf) = (None, true),
                }
                continue;
            }
            if self.stack_ended || !self.stack_readable {
                return Outcome::Rests;
            }
            match native::receive(self.native, &mut chunk[..]) {
                Ok(0) => {
                    self.stack_ended = true;
                    // It may be closed already.
                    let _ = shutdown(&self.ours, Shutdown::Write);
                }
                Ok(_) if self.deaf => {}
                Ok(len) => match send(&self.ours, &chunk[..len], SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                    Ok(taken) if taken == len => {}
                    Ok(taken) => self.into = Some(chunk[taken..len].to_vec()),
                    Err(Io::AGAIN | Io::INTR) => {
                        self.program_writable = false;
                        self.into = Some(chunk[..len].to_vec());
                    }
                    Err(_) => self.deaf = true,
                },
                Err(libc::EAGAIN) => self.stack_readable = false,
                Err(libc::EINTR) => {}
                Err(_) => return Outcome::Reset,
            }
        }
        Outcome::Goes
    }

    fn datagrams_out(&mut self, chunk: &mut [u8; CHUNK]) -> Outcome {
        for _ in 0..TURNS {
            if let Some(datagram) = &self.out {
                match native::send(self.native, datagram, None) {
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

    fn datagrams_in(&mut self, chunk: &mut [u8; CHUNK]) -> Outcome {
        for _ in 0..TURNS {
            let State::Datagram { bound, connected, waiting, .. } = &self.state else {
                return Outcome::Rests;
            };
            // Somebody waits who is told the address too: the server hands it to him.
            if !bound || !waiting.is_empty() || !self.stack_readable {
                return Outcome::Rests;
            }
            // One at a time, so that it is known where the one comes from that is read.
            if !connected && !self.is_pair_empty() {
                return Outcome::Rests;
            }
            let (datagram, from) = match self.into.take() {
                Some(datagram) => (datagram, None),
                None => match native::receive_from(self.native, &mut chunk[..]) {
                    Ok((len, from)) => (chunk[..len].to_vec(), Some(from)),
                    Err(libc::EINTR) => continue,
                    Err(libc::EAGAIN) => {
                        self.stack_readable = false;
                        return Outcome::Rests;
                    }
                    Err(errno) => {
                        self.error = Some(errno);
                        continue;
                    }
                },
            };
            match send(&self.ours, &datagram, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Err(Io::AGAIN) => {
                    self.into = Some(datagram);
                    return Outcome::Rests;
                }
                // Closed: the other way sees it.
                Err(_) => return Outcome::Rests,
                Ok(_) => {
                    if let (State::Datagram { head, .. }, Some(from)) = (&mut self.state, from) {
                        *head = from;
                    }
                }
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

    /// Takes out what [`Bridge::fill`] put in.
    pub fn drain(&self, mut filled: usize, chunk: &mut [u8; CHUNK]) {
        while filled > 0 {
            let room = filled.min(chunk.len());
            match recv(&self.ours, &mut chunk[..room], RecvFlags::DONTWAIT) {
                Ok((_, len)) if len > 0 => filled -= len,
                _ => return,
            }
        }
    }

    /// The other side has reset the connection: so it is for the program, whose end is `theirs`, if it
    /// was found.
    pub fn reset(self, theirs: Option<OwnedFd>) {
        if let Some(theirs) = theirs {
            // Unread bytes in our end make its close a reset for the other one (unix(7)).
            let _ = send(&theirs, &[0], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        }
        drop(self.ours);
    }

    /// The session's number and ours, to be taken off the watcher.
    pub fn descriptors(&self) -> (c_int, c_int) {
        (self.native, self.ours.as_fd().as_raw_fd())
    }
}
