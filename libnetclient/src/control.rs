//! The session socket: one request at a time, each with its reply.
//!
//! sockd may be replaced while a request is under way; the next one finds the request still on the
//! socket. Its reply may then come twice, so replies are told apart by number. Nobody holds a lock
//! while waiting for sockd.

use crate::resume::{Asked, Book};
use bincode::Options;
use proto::control::client::{Ask, Granted, MESSAGE_MAX, Reply, Request};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags,
    SocketAddrUnix, SocketFlags, SocketType,
};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Descriptors that a reply may bring: the arena, the wake-up pipe, a pipe for each of 64 shards.
const DESCRIPTORS_MAX: usize = 66;

/// Connecting again when sockd died before the session was safe in the vaults.
const OPEN_TRIES: u32 = 64;

#[derive(Debug)]
pub(crate) struct Control {
    socket: OwnedFd,
    turn: Mutex<Turn>,
    free: Condvar,
    book: Option<Arc<dyn Book>>,
    /// What the predecessor asked last and what came of it, until somebody asks the same.
    unclaimed: Mutex<Option<(Ask, io::Result<Granted>)>>,
}

#[derive(Debug)]
struct Turn {
    number: u64,
    taken: bool,
}

/// A session that was opened: what was granted, and its descriptors.
pub(crate) struct Opened {
    pub(crate) control: Control,
    pub(crate) granted: Granted,
    pub(crate) descriptors: Vec<OwnedFd>,
}

fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the session with the stack was ended")
}

fn nonsense() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "sockd said something impossible")
}

fn options() -> impl Options {
    bincode::DefaultOptions::new().with_fixint_encoding().with_limit(MESSAGE_MAX)
}

/// Connects to `path` and opens a session there.
///
/// # Errors
/// Those of connect(2), and what sockd refuses with.
pub(crate) fn connect(path: &Path, ask: &Ask) -> io::Result<Opened> {
    let address = SocketAddrUnix::new(path)?;
    let mut tries = 0;
    loop {
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        rustix::net::connect(&socket, &address)?;
        tries += 1;
        match open(socket, ask) {
            // sockd died between accept and the vaults: its successor accepts again.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted && tries < OPEN_TRIES => {}
            outcome => return outcome,
        }
    }
}

/// Opens a session over a connected socket.
pub(crate) fn open(socket: OwnedFd, ask: &Ask) -> io::Result<Opened> {
    let turn = Mutex::new(Turn { number: 0, taken: false });
    let control = Control { socket, turn, free: Condvar::new(), book: None, unclaimed: Mutex::default() };
    let (granted, descriptors) = control.exchange(ask.clone())?;
    Ok(Opened { control, granted, descriptors })
}

impl Control {
    /// Asks for a socket and waits for the reply.
    ///
    /// # Errors
    /// What sockd refuses with; `ConnectionAborted` when the session is over.
    pub(crate) fn ask(&self, ask: Ask) -> io::Result<Granted> {
        let mut unclaimed = self.unclaimed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, outcome)) = unclaimed.take_if(|(asked, _)| *asked == ask) {
            return outcome;
        }
        drop(unclaimed);
        self.exchange(ask).map(|(granted, _)| granted)
    }

    fn exchange(&self, ask: Ask) -> io::Result<(Granted, Vec<OwnedFd>)> {
        let number = {
            let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
            while turn.taken {
                turn = self.free.wait(turn).unwrap_or_else(PoisonError::into_inner);
            }
            turn.taken = true;
            turn.number += 1;
            turn.number
        };
        let outcome = self.send(&Request { number, ask }).and_then(|()| self.receive(number));
        self.turn.lock().unwrap_or_else(PoisonError::into_inner).taken = false;
        self.free.notify_one();
        outcome
    }

    /// Goes on with a session's socket: the last request is sent again, under its number.
    ///
    /// # Errors
    /// When it makes no sense, or the session is over.
    pub(crate) fn resume(socket: OwnedFd, asked: Asked, book: Arc<dyn Book>) -> io::Result<Control> {
        let turn = Mutex::new(Turn { number: asked.last, taken: false });
        let (free, unclaimed) = (Condvar::new(), Mutex::default());
        let control = Control { socket, turn, free, book: Some(book), unclaimed };
        if let Some(bytes) = asked.open {
            let request: Request = options().deserialize(&bytes).map_err(|_| nonsense())?;
            control.send_bytes(&bytes)?;
            let outcome = control.receive(request.number).map(|(granted, _)| granted);
            if let Err(error) = &outcome
                && error.raw_os_error().is_none()
            {
                return outcome.map(|_| control);
            }
            *control.unclaimed.lock().unwrap_or_else(PoisonError::into_inner) = Some((request.ask, outcome));
        }
        Ok(control)
    }

    /// What was granted to the predecessor and not asked for again: a socket that is nobody's.
    pub(crate) fn unclaimed(&self) -> Option<Granted> {
        let unclaimed = self.unclaimed.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        match unclaimed {
            (Ask::DatagramConnect { .. }, _) => None,
            (_, outcome) => outcome.ok(),
        }
    }

    fn send(&self, request: &Request) -> io::Result<()> {
        let bytes = options().serialize(request).expect("a request fits its limit");
        if let Some(book) = &self.book {
            book.asking(request.number, &bytes);
        }
        self.send_bytes(&bytes)
    }

    fn send_bytes(&self, bytes: &[u8]) -> io::Result<()> {
        match rustix::io::retry_on_intr(|| rustix::net::send(&self.socket, bytes, SendFlags::NOSIGNAL)) {
            Ok(_) => Ok(()),
            Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => Err(ended()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn receive(&self, number: u64) -> io::Result<(Granted, Vec<OwnedFd>)> {
        loop {
            let mut bytes = [0; MESSAGE_MAX as usize];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let received = rustix::io::retry_on_intr(|| {
                let mut parts = [IoSliceMut::new(&mut bytes)];
                rustix::net::recvmsg(&self.socket, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)
            });
            let message = match received {
                Ok(message) if message.bytes == 0 => return Err(ended()),
                Ok(message) if message.flags.contains(ReturnFlags::TRUNC) => return Err(nonsense()),
                Ok(message) => message,
                Err(Errno::CONNRESET | Errno::NOTCONN) => return Err(ended()),
                Err(errno) => return Err(errno.into()),
            };
            let mut descriptors = Vec::new();
            for part in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(passed) = part {
                    descriptors.extend(passed);
                }
            }
            let reply: Reply = options()
                .reject_trailing_bytes()
                .deserialize(&bytes[..message.bytes])
                .map_err(|_| nonsense())?;
            if reply.number == number {
                let errno = |code| io::Error::from_raw_os_error(i32::try_from(code).unwrap_or(0));
                return reply.result.map(|granted| (granted, descriptors)).map_err(errno);
            }
            // Said twice by two sockds; the first was taken.
        }
    }
}

/// Hangs up when the session is over.
impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
