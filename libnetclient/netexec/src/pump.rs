//! Carries a connection's bytes so that SIGKILL at any instruction loses and doubles none.
//!
//! *Program to stack.* The kernel keeps an odometer: SO_PEEK_OFF of our end is set to [`FULL`], and each
//! consuming receive lowers it by exactly what it took. The bytes go straight into the send pages. So a
//! successor knows how far the pages are filled: `base + FULL − odometer`, whatever was published. Before
//! the odometer runs out it is set back, with the base of then written down first.
//!
//! *Stack to program.* A pipe is the commit point, one for all sockets: bytes are written into it, then
//! spliced on to the program, and what is left in the pipe says how far that came.
//!
//! ```text
//! Fill(base)  ── write ──►  Drain(count)  ── splice until the pipe is empty ──►  consume, Idle
//!                               └── program takes no more ──► Undo(next) ── empty the pipe ──► Idle
//! ```
//!
//! Not here: when to carry, and what becomes of a socket afterwards.

#![expect(
    unsafe_code,
    reason = "calls with addresses in shared memory, and socket options without a wrapper"
)]

use crate::bridge::{Bridge, CHUNK};
use crate::ledger::{Ledger, PumpState, Pumping, Record, flag};
use crate::native::{self, Pieces};
use crate::program::Errno;
use libc::c_int;
use libnetclient::Session;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::io::Errno as Io;
use rustix::net::{Shutdown, shutdown};
use rustix::pipe::SpliceFlags;
use std::io;

/// What the odometer begins with.
pub const FULL: c_int = 1 << 30;
/// Below this it is set back.
const LOW: c_int = 2 << 20;
/// Bytes that the pipe holds: two chunks, for a write of one must never wait.
const PIPE_SIZE: usize = 2 * CHUNK;
/// Chunks each way before the others get their turn.
const TURNS: usize = 16;

/// With so many bytes the stack has something to do while more are carried: it is woken at once.
const WORTH_WAKING: usize = 8 * 1024;

/// Where one way stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Nothing more until an edge.
    Rests,
    /// There is more.
    Goes,
    /// The program writes no more, and all it wrote is handed over.
    Ended,
    /// The program's end was closed with bytes unread.
    Aborted,
    /// The connection is no more.
    Reset,
}

/// The pipe.
#[derive(Debug)]
pub struct Pump {
    /// Its two ends, held for good by the process that holds all.
    out: BorrowedFd<'static>,
    into: BorrowedFd<'static>,
    /// The session of the connections.
    session: Session,
}

/// Sets the odometer of an end.
///
/// # Errors
/// Those of setsockopt(2).
pub fn set_odometer(end: &OwnedFd, value: c_int) -> Result<(), Errno> {
    let (at, len) = ((&raw const value).cast(), size_of::<c_int>() as u32);
    // SAFETY: one int of ours.
    let set = unsafe { libc::setsockopt(end.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEEK_OFF, at, len) };
    if set < 0 { Err(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)) } else { Ok(()) }
}

/// The odometer of an end.
///
/// # Errors
/// Those of getsockopt(2).
pub fn odometer(end: &OwnedFd) -> Result<c_int, Errno> {
    let (mut value, mut len): (c_int, u32) = (0, size_of::<c_int>() as u32);
    let at = (&raw mut value).cast();
    // SAFETY: one int of ours.
    let got =
        unsafe { libc::getsockopt(end.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEEK_OFF, at, &raw mut len) };
    if got < 0 { Err(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)) } else { Ok(value) }
}

/// Bytes that wait to be read (FIONREAD).
pub fn waiting(fd: impl AsFd) -> u64 {
    rustix::io::ioctl_fionread(fd).unwrap_or(0)
}

/// How far the send pages of a connection are filled.
///
/// # Errors
/// Those of getsockopt(2).
pub fn filled(record: &Record, end: &OwnedFd) -> Result<u64, Errno> {
    let left = odometer(end)?;
    let base = match record.flags & flag::REARM {
        0 => record.base,
        // Set back already, or not yet.
        _ if left > LOW => record.next_base,
        _ => record.base,
    };
    Ok(base.wrapping_add((FULL - left) as u64))
}

/// Makes the pipe.
///
/// # Errors
/// Those of pipe2(2) and fcntl(2).
pub fn make_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (out, into) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK)?;
    rustix::pipe::fcntl_setpipe_size(&into, PIPE_SIZE)?;
    Ok((out, into))
}

/// What the program took of the pipe.
enum Spliced {
    All,
    Part,
    /// It reads no more.
    Deaf,
}

impl Pump {
    /// Over the ends of the pipe, whatever is in it, for connections of that session.
    pub fn new(out: BorrowedFd<'static>, into: BorrowedFd<'static>, session: Session) -> Pump {
        Pump { out, into, session }
    }

    /// What the program has written goes to the stack.
    pub fn outward(&self, ledger: &Ledger, index: usize, bridge: &mut Bridge) -> Way {
        for _ in 0..TURNS {
            if bridge.program_ended {
                return Way::Ended;
            }
            if !bridge.program_readable || !bridge.stack_writable {
                return Way::Rests;
            }
            let mut pieces = Pieces::default();
            match native::reserve(bridge.native, CHUNK, &mut pieces) {
                Ok(()) => {}
                Err(libc::EAGAIN) => {
                    bridge.stack_writable = false;
                    return Way::Rests;
                }
                Err(libc::EINTR) => continue,
                Err(_) => return Way::Reset,
            }
            let room = pieces.len();
            let taken = receive(&bridge.ours, &mut pieces);
            if native::commit(bridge.native, taken.unwrap_or(0)).is_err() {
                return Way::Reset;
            }
            match taken {
                Ok(0) => bridge.program_ended = true,
                Ok(len) => {
                    // All there was: what comes from here on is a new edge, unless the end is among it,
                    // or an urgent octet, at which a receive stops.
                    bridge.program_readable = len == room || bridge.reads_to_the_end;
                    bridge.odometer -= len as c_int;
                    if len >= WORTH_WAKING {
                        self.session.wake_up();
                    }
                    if bridge.odometer < LOW && self.rearm(ledger, index, bridge).is_err() {
                        return Way::Reset;
                    }
                }
                Err(libc::EAGAIN) => bridge.program_readable = false,
                Err(libc::EINTR) => {}
                Err(_) => return Way::Aborted,
            }
        }
        Way::Goes
    }

    /// Sets the odometer back.
    fn rearm(&self, ledger: &Ledger, index: usize, bridge: &mut Bridge) -> Result<(), Errno> {
        let next = bridge.base.wrapping_add((FULL - bridge.odometer) as u64);
        let record = ledger.record(index);
        ledger.commit(index, &Record { flags: record.flags | flag::REARM, next_base: next, ..record });
        set_odometer(&bridge.ours, FULL)?;
        ledger.commit(index, &Record { base: next, ..record });
        (bridge.base, bridge.odometer) = (next, FULL);
        Ok(())
    }

    /// What has come goes to the program.
    pub fn inward(&self, ledger: &Ledger, index: usize, bridge: &mut Bridge) -> Way {
        for _ in 0..TURNS {
            if bridge.stack_ended || !bridge.stack_readable {
                return Way::Rests;
            }
            if !bridge.program_writable && !bridge.deaf {
                return Way::Rests;
            }
            let mut pieces = Pieces::default();
            match native::peek(bridge.native, &mut pieces) {
                Ok(()) => {}
                Err(libc::EAGAIN) => {
                    bridge.stack_readable = false;
                    return Way::Rests;
                }
                Err(libc::EINTR) => continue,
                Err(_) => return Way::Reset,
            }
            if pieces.is_empty() {
                bridge.stack_ended = true;
                // It may be closed already.
                let _ = shutdown(&bridge.ours, Shutdown::Write);
                return Way::Rests;
            }
            pieces.cut(CHUNK);
            if bridge.deaf {
                if native::consume(bridge.native, pieces.len()).is_err() {
                    return Way::Reset;
                }
                continue;
            }
            let Ok(base) = native::consumed(bridge.native) else { return Way::Reset };
            ledger.pump_fill(index, base);
            let Some(count) = self.fill(&pieces) else { return Way::Reset };
            ledger.pump_drain(count);
            if self.drain(ledger, bridge, base, count, count).is_err() {
                return Way::Reset;
            }
        }
        Way::Goes
    }

    /// Writes the pieces into the empty pipe.
    fn fill(&self, pieces: &Pieces) -> Option<u64> {
        let (iov, count) = pieces.iov();
        // SAFETY: pieces of the arena, which is mapped as long as the session lasts.
        let written = unsafe { libc::writev(self.into.as_raw_fd(), iov, count) };
        u64::try_from(written).ok()
    }

    /// Splices what is in the pipe, `there` of the `count` bytes that were, to the program and takes them
    /// off the stream.
    fn drain(
        &self,
        ledger: &Ledger,
        bridge: &mut Bridge,
        base: u64,
        count: u64,
        there: u64,
    ) -> Result<(), Errno> {
        match self.splice(&bridge.ours, there) {
            Spliced::All => {}
            Spliced::Part => {
                bridge.program_writable = false;
                let next = base + count - waiting(self.out);
                return self.undo(ledger, bridge, next);
            }
            Spliced::Deaf => {
                bridge.deaf = true;
                return self.undo(ledger, bridge, base + count);
            }
        }
        consume_to(bridge.native, base + count)?;
        ledger.pump_idle();
        Ok(())
    }

    fn undo(&self, ledger: &Ledger, bridge: &Bridge, next: u64) -> Result<(), Errno> {
        ledger.pump_undo(next);
        self.empty();
        consume_to(bridge.native, next)?;
        ledger.pump_idle();
        Ok(())
    }

    fn empty(&self) {
        let mut scratch = [0; 4096];
        while let Ok(1..) = rustix::io::read(self.out, &mut scratch) {}
    }

    fn splice(&self, ours: &OwnedFd, there: u64) -> Spliced {
        let mut left = there;
        loop {
            if left == 0 {
                return Spliced::All;
            }
            let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
            match rustix::pipe::splice(self.out, None, ours, None, PIPE_SIZE, flags) {
                Ok(0) => return Spliced::Deaf,
                Ok(moved) => left = left.saturating_sub(moved as u64),
                Err(Io::INTR) => {}
                Err(Io::AGAIN) => return Spliced::Part,
                // Its reading is shut, or it is closed, which the other way sees.
                Err(_) => return Spliced::Deaf,
            }
        }
    }

    /// Finishes what the predecessor was at; `bridge` is that of [`PumpState::index`].
    ///
    /// # Errors
    /// When the session is over.
    pub fn finish(
        &self,
        ledger: &Ledger,
        state: PumpState,
        bridge: Option<&mut Bridge>,
    ) -> Result<(), Errno> {
        let Some(bridge) = bridge else {
            self.empty();
            ledger.pump_idle();
            return Ok(());
        };
        let there = waiting(self.out);
        match state.doing {
            Pumping::Idle => Ok(()),
            Pumping::Fill if there == 0 => {
                ledger.pump_idle();
                Ok(())
            }
            Pumping::Fill => {
                ledger.pump_drain(there);
                self.drain(ledger, bridge, state.base, there, there)
            }
            Pumping::Drain => self.drain(ledger, bridge, state.base, state.count, there),
            Pumping::Undo => self.undo(ledger, bridge, state.next),
        }
    }
}

/// Takes a stream off up to an offset; it may stand there already.
fn consume_to(native: c_int, offset: u64) -> Result<(), Errno> {
    let stands = native::consumed(native)?;
    match offset.checked_sub(stands) {
        Some(0) | None => Ok(()),
        Some(len) => native::consume(native, len as usize),
    }
}

/// Receives straight into the arena.
fn receive(ours: &OwnedFd, pieces: &mut Pieces) -> Result<usize, Errno> {
    let (iov, count) = pieces.iov_mut();
    // SAFETY: plain numbers and null pointers, for which zero is a value.
    let mut message: libc::msghdr = unsafe { core::mem::zeroed() };
    (message.msg_iov, message.msg_iovlen) = (iov, count as usize);
    // SAFETY: reserved pages of the arena, which is mapped as long as the session lasts.
    let taken = unsafe { libc::recvmsg(ours.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
    usize::try_from(taken).map_err(|_| io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    #[test]
    fn the_odometer_counts_what_was_taken() {
        let (one, mut other) = UnixStream::pair().expect("a pair");
        let mut ours = one.try_clone().expect("a duplicate");
        let end: OwnedFd = one.into();
        set_odometer(&end, FULL).expect("SO_PEEK_OFF");
        other.write_all(&[7; 1000]).expect("room");
        assert_eq!(ours.read(&mut [0; 300]).expect("bytes"), 300);
        assert_eq!(odometer(&end), Ok(FULL - 300));
        assert_eq!(ours.read(&mut [0; 3000]).expect("bytes"), 700);
        assert_eq!(odometer(&end), Ok(FULL - 1000));
    }

    #[test]
    fn a_base_that_is_being_set_back_counts_once() {
        use zerocopy::FromZeros;
        let (one, mut other) = UnixStream::pair().expect("a pair");
        let mut ours = one.try_clone().expect("a duplicate");
        let end: OwnedFd = one.into();
        set_odometer(&end, LOW - 10).expect("SO_PEEK_OFF");
        let taken = (FULL - (LOW - 10)) as u64;
        let record = Record { base: 5, ..Record::new_zeroed() };
        assert_eq!(filled(&record, &end), Ok(5 + taken));
        let rearming = Record { flags: flag::REARM, next_base: 5 + taken, ..record };
        assert_eq!(filled(&rearming, &end), Ok(5 + taken), "not yet");
        set_odometer(&end, FULL).expect("SO_PEEK_OFF");
        assert_eq!(filled(&rearming, &end), Ok(5 + taken), "already");
        other.write_all(&[1; 10]).expect("room");
        assert_eq!(ours.read(&mut [0; 10]).expect("bytes"), 10);
        assert_eq!(filled(&rearming, &end), Ok(15 + taken));
    }
}
