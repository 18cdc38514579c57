//! How the two ends of a wire find each other, and notice that the other is gone.
//!
//! Whoever holds the lock `PATH.lock` listens at `PATH`, makes the cable's memory and hands it to the
//! one who connects. The connection then carries wake-ups (a byte each, never waiting: INV-R5), and
//! its end is the end of the carrier. A listener killed by SIGKILL leaves a socket that refuses; the
//! other end sees that, takes the lock and listens in its place.
//!
//! ```text
//!           connect ok              memory came
//! Searching ──────────► Greeting ─────────────► up ──┐
//!     │ ▲                  │ hang-up                 │ hang-up
//!     │ └──────────────────┴─────────────────────────┘
//!     │ lock taken                      accept
//!     └────────────────────► Listening ───────► up (and goes on listening)
//! ```

use super::cable::{CABLE_SIZE, Side};
use core::mem::MaybeUninit;
use core::time::Duration;
use proto::Instant;
use proto::shm::region::{Region, create_sealed};
use rustix::event::epoll;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The first pause between two attempts to find the other end; doubled up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(5);
/// The longest pause between two attempts.
const RETRY_MAX: Duration = Duration::from_secs(1);

/// What the one who made the memory says first, with the memory beside it.
const HELLO: [u8; 8] = *b"axwire\x02\0";
const WAKE: [u8; 1] = [1];

/// What an event is of: the connection, or the socket that listens beside it.
const CONNECTION: u64 = 0;
const LISTENER: u64 = 1;

/// What has changed.
#[derive(Debug)]
pub enum News {
    /// Nothing, or a wake-up.
    None,
    /// The other end is there, with a new cable; an earlier one is over.
    Up(Arc<Region>, Side),
    /// The other end is gone.
    Down,
}

#[derive(Debug)]
enum State {
    /// Nobody is known; the next attempt is due then.
    Searching { at: Instant, pause: Duration },
    /// We connected; the memory has not come yet.
    Greeting { connection: OwnedFd, pause: Duration },
    /// We connected and are up.
    Guest { connection: OwnedFd },
    /// We listen, and may be up.
    Listening { socket: OwnedFd, lock: OwnedFd, connection: Option<OwnedFd> },
}

/// One end of the search.
#[derive(Debug)]
pub struct Link {
    path: PathBuf,
    epoll: OwnedFd,
    state: State,
}

impl Link {
    /// Begins to search at `path`.
    ///
    /// # Errors
    /// When no socket can be there.
    pub fn new(path: &Path, now: Instant) -> io::Result<Link> {
        SocketAddrUnix::new(path)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Link { path: path.to_owned(), epoll, state: searching(now) })
    }

    /// What to wait on.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// When [`Link::poll`] is to be called at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Searching { at, .. } => Some(at),
            _ => None,
        }
    }

    /// Lets the other end look at the cable.
    pub fn wake_peer(&self) {
        if let State::Guest { connection } | State::Listening { connection: Some(connection), .. } =
            &self.state
        {
            // Full means that it has wake-ups enough, an error that it is gone: both show elsewhere.
            let _ = rustix::net::send(connection, &WAKE, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        }
    }

    /// Ends the connection; the other end is looked for again.
    pub fn hang_up(&mut self, now: Instant) {
        match &mut self.state {
            State::Listening { connection, .. } => *connection = None,
            state => *state = State::Searching { at: now + RETRY_MAX, pause: RETRY_MAX },
        }
    }

    /// Looks at everything that can have happened.
    ///
    /// # Errors
    /// When the path can't be used.
    pub fn poll(&mut self, now: Instant) -> io::Result<News> {
        let newcomers = self.take_readiness();
        let was_up = self.is_up();
        // At most: a hang-up, a search, a greeting.
        for _ in 0..3 {
            if let Some(up) = self.step(now, newcomers)? {
                return Ok(up);
            }
        }
        Ok(if was_up && !self.is_up() { News::Down } else { News::None })
    }

    fn is_up(&self) -> bool {
        matches!(self.state, State::Guest { .. } | State::Listening { connection: Some(_), .. })
    }

    /// Takes the ready list, so that the next event counts as new; true when somebody may wait to be accepted.
    /// (To find out by accept(2) costs a socket each time, and wake-ups come by the same way.)
    fn take_readiness(&self) -> bool {
        let mut events = [MaybeUninit::<epoll::Event>::uninit(); 4];
        match epoll::wait(&self.epoll, &mut events, Some(&rustix::time::Timespec::default())) {
            Ok((ready, _)) => ready.iter().any(|event| event.data.u64() == LISTENER),
            Err(_) => true,
        }
    }

    fn watch(&self, descriptor: &OwnedFd, what: u64) -> io::Result<()> {
        let flags = epoll::EventFlags::IN | epoll::EventFlags::RDHUP;
        Ok(epoll::add(&self.epoll, descriptor, epoll::EventData::new_u64(what), flags)?)
    }

    fn step(&mut self, now: Instant, newcomers: bool) -> io::Result<Option<News>> {
        let mut news = None;
        self.state = match core::mem::replace(&mut self.state, searching(now)) {
            State::Searching { at, pause } if at <= now => self.search(now, pause)?,
            State::Greeting { connection, pause } => match greeting(&connection) {
                Ok(Some(memory)) => {
                    news = Some(News::Up(memory, Side::Guest));
                    State::Guest { connection }
                }
                Ok(None) => State::Greeting { connection, pause },
                Err(_) => later(now, pause),
            },
            State::Guest { connection } if !drain(&connection) => searching(now),
            State::Listening { socket, lock, connection } => {
                let mut connection = connection.filter(drain);
                if newcomers && let Some((newcomer, memory)) = self.accept(&socket, connection.is_none())? {
                    connection = Some(newcomer);
                    news = Some(News::Up(memory, Side::Maker));
                }
                State::Listening { socket, lock, connection }
            }
            unchanged => unchanged,
        };
        Ok(news)
    }

    /// Connects, or listens, or fails until later.
    fn search(&self, now: Instant, pause: Duration) -> io::Result<State> {
        let socket = socket()?;
        let address = SocketAddrUnix::new(&self.path)?;
        match rustix::net::connect(&socket, &address) {
            Ok(()) => {
                self.watch(&socket, CONNECTION)?;
                return Ok(State::Greeting { connection: socket, pause });
            }
            // Nobody listens (any more).
            Err(Errno::CONNREFUSED | Errno::NOENT) => {}
            // Its queue is full.
            Err(Errno::AGAIN) => return Ok(later(now, pause)),
            Err(errno) => return Err(errno.into()),
        }
        let Some(lock) = self.lock()? else { return Ok(later(now, pause)) };
        match rustix::fs::unlink(&self.path) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
        let socket = self::socket()?;
        rustix::net::bind(&socket, &address)?;
        rustix::net::listen(&socket, 4)?;
        self.watch(&socket, LISTENER)?;
        Ok(State::Listening { socket, lock, connection: None })
    }

    fn lock_path(&self) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(".lock");
        name.into()
    }

    /// The right to listen; `None` while somebody else has it.
    fn lock(&self) -> io::Result<Option<OwnedFd>> {
        let path = self.lock_path();
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let lock = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR)?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::AGAIN) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        }
        // Its last holder may have removed it between our opening and our locking.
        let ours = rustix::fs::fstat(&lock)?;
        let there = rustix::fs::stat(&path);
        Ok(there
            .is_ok_and(|there| (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino))
            .then_some(lock))
    }

    /// Takes the other end, when it has come; one that finds its place taken is hung up on (a cable has
    /// two ends), and tries again later.
    fn accept(&self, socket: &OwnedFd, free: bool) -> io::Result<Option<(OwnedFd, Arc<Region>)>> {
        let newcomer = match rustix::net::accept_with(socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(newcomer) => newcomer,
            Err(Errno::AGAIN | Errno::CONNABORTED | Errno::INTR) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        let memory = create_sealed("wire", CABLE_SIZE)?;
        if !free || send_hello(&newcomer, &memory).is_err() {
            return Ok(None);
        }
        self.watch(&newcomer, CONNECTION)?;
        Ok(Some((newcomer, Arc::new(Region::map(&memory, CABLE_SIZE)?))))
    }
}

impl Drop for Link {
    /// Leaves nothing behind: the socket's name, then the lock's, while it is held.
    fn drop(&mut self) {
        if let State::Listening { lock, .. } = &self.state {
            let _ = rustix::fs::unlink(&self.path);
            let _ = rustix::fs::unlink(self.lock_path());
            let _ = rustix::fs::flock(lock, FlockOperation::Unlock);
        }
    }
}

fn searching(now: Instant) -> State {
    State::Searching { at: now, pause: RETRY_MIN }
}

fn later(now: Instant, pause: Duration) -> State {
    State::Searching { at: now + pause, pause: (pause * 2).min(RETRY_MAX) }
}

fn socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

fn send_hello(connection: &OwnedFd, memory: &OwnedFd) -> rustix::io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let rights = [memory.as_fd()];
    assert!(control.push(SendAncillaryMessage::ScmRights(&rights)), "there is room for one descriptor");
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    rustix::net::sendmsg(connection, &[IoSlice::new(&HELLO)], &mut control, flags).map(drop)
}

/// The cable's memory, when it has come; an error when the other end is gone or is no wire.
fn greeting(connection: &OwnedFd) -> io::Result<Option<Arc<Region>>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut hello = [0; 16];
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received =
        match rustix::net::recvmsg(connection, &mut [IoSliceMut::new(&mut hello)], &mut control, flags) {
            Ok(received) => received,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
    let mut memory = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            memory = rights.last();
        }
    }
    match memory {
        Some(memory) if hello[..received.bytes] == HELLO => {
            Ok(Some(Arc::new(Region::map(memory, CABLE_SIZE)?)))
        }
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Takes wake-ups off the connection; false when it is over.
fn drain(connection: &OwnedFd) -> bool {
    let mut bytes = [0; 16];
    // As many as a socket can queue; one that talks on and on is looked at again by its next byte.
    for _ in 0..1024 {
        match rustix::net::recv(connection, &mut bytes, RecvFlags::DONTWAIT) {
            Ok((0, _)) => return false,
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return true,
            Err(_) => return false,
        }
    }
    true
}
