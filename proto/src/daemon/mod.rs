//! How every daemon begins, and its side of the lane to the supervisors.
//!
//! [`begin`] adopts the lane (standard input: the supervisor puts it there and names it in
//! [`LANE_VARIABLE`]), waits for the `Welcome` (a *spare* waits long: it was started ahead of time,
//! and uses that to touch the memory that its start will need), takes the lock of its seat (INV-F), maps what it
//! was granted, and sets up logging and the panic hook. After that the daemon's event loop watches
//! [`Supervised`] for readability and calls [`Supervised::hear`] until it says `None`.
//!
//! ```text
//! begin(role) ─► Start { seat, generation, group, grants }   Supervised
//!                                                            hear() ─► News
//!                                                            ready() released() keep_session() …
//! ```
//!
//! A supervisor that took over may repeat what it can't know to have been said; each thing is let
//! through once here, and requests that have no answer yet are repeated without the daemon's doing.
//!
//! The lock's descriptor is never duplicated or closed: closing any descriptor of its file would
//! drop the lock. It is leaked on purpose, until the process ends.

mod logging;
mod supervised;
pub mod turn;

pub use logging::{EXIT_PANIC, LANE_THREAD, follow_panics, log_as};
pub use supervised::{Gone, News, SessionEnds, Supervised};

use crate::control::lane::{Lane, LaneError};
use crate::control::messages::{Access, Ended, FromDaemon, GroupConfig, Region as Tag, ToDaemon, Welcome};
use crate::id::{Generation, Role, Seat};
use crate::shm::region::Region;
use core::mem::MaybeUninit;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SocketType};
use rustix::process::Resource;
use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::sync::Arc;
use thiserror::Error;

/// Names the descriptor of the lane for a daemon: always 0, standard input. A process that finds
/// it unset was not started by a supervisor.
pub const LANE_VARIABLE: &str = "AXOLOTL_LANE";

/// The exit code for a configuration that this daemon refuses; it is not restarted then.
pub const EXIT_REFUSED: u8 = 6;
/// The exit code when something that the configuration needs is missing on this machine.
pub const EXIT_MISSING: u8 = 5;

/// What the name of a waiting process (proc_pid_comm(5)) has behind its role.
pub const SPARE: &str = "-spare";

/// Memory that a spare touches ahead: what netd needs for its first thousand connections.
const HEAP_BLOCKS: usize = 24;
/// In pieces, in bytes, each below the size from which on the C library's allocator asks the kernel
/// for a mapping of its own (M_MMAP_THRESHOLD of mallopt(3)).
const HEAP_BLOCK: usize = 64 * 1024;

/// Why a daemon can't begin.
#[derive(Debug, Error)]
pub enum StartError {
    /// Started by hand.
    #[error("this program is started by `supervisor up`, not by hand")]
    NoLane,
    /// The lane broke before the welcome.
    #[error("no welcome from the supervisor: {0}")]
    Lane(#[from] LaneError),
    /// The first message was no welcome, or one for another role.
    #[error("the supervisor spoke to somebody else")]
    Misled,
    /// Another incarnation of this seat is alive (INV-F).
    #[error("another incarnation of {0} holds the lock of its seat: this one stops here")]
    Locked(Seat),
    /// A grant that can't be mapped.
    #[error("cannot map {tag:?}: {source}")]
    Map {
        /// Which region.
        tag: Tag,
        /// What the kernel says.
        source: io::Error,
    },
    /// Taking the lock failed otherwise, or was not possible for want of it.
    #[error("cannot take the lock of the seat: {0}")]
    Lock(io::Error),
}

/// A region that this daemon was granted: mapped, and its descriptor for passing on.
#[derive(Debug)]
pub struct Granted {
    /// The mapping; a store into one granted for reading panics.
    pub memory: Arc<Region>,
    /// How it may be used.
    pub access: Access,
    /// The descriptor.
    pub descriptor: OwnedFd,
}

/// What a daemon knows at its beginning.
#[derive(Debug)]
pub struct Start {
    /// The seat it takes.
    pub seat: Seat,
    /// Its generation.
    pub generation: Generation,
    /// How the generation before it ended, if there was one.
    pub predecessor: Option<Ended>,
    /// The group.
    pub group: GroupConfig,
    /// What it may use, mapped; all but the lock.
    pub grants: BTreeMap<Tag, Granted>,
    /// Read-only descriptions for passing on, with the sizes of what they describe: of what it may
    /// also write, and of what it does not map.
    passed: BTreeMap<Tag, (OwnedFd, u64)>,
}

impl Start {
    /// Every region of which there is a read-only description for passing on, with its size.
    pub fn to_show(&self) -> impl Iterator<Item = (Tag, u64, BorrowedFd<'_>)> {
        let read = self.grants.iter().filter(|(_, granted)| granted.access == Access::Read);
        let read = read.map(|(&tag, granted)| {
            (tag, crate::shm::Memory::size(&granted.memory) as u64, granted.descriptor.as_fd())
        });
        read.chain(self.passed.iter().map(|(&tag, (descriptor, size))| (tag, *size, descriptor.as_fd())))
    }

    /// The mapping of a region.
    ///
    /// # Panics
    /// When it was not granted: which role gets what is fixed in the supervisor.
    pub fn memory(&self, tag: Tag) -> Arc<Region> {
        self.grants.get(&tag).unwrap_or_else(|| panic!("{tag:?} is granted to {}", self.seat)).memory.clone()
    }
}

/// Begins: everything between main() and the daemon's own attach. Blocks until the welcome.
///
/// # Errors
/// [`StartError`]; the caller prints it as `ROLE: text` and exits with 1.
pub fn begin(role: Role) -> Result<(Start, Supervised), StartError> {
    if std::env::var_os(LANE_VARIABLE).is_none_or(|number| number != "0") {
        return Err(StartError::NoLane);
    }
    let input = io::stdin();
    if rustix::net::sockopt::socket_type(&input) != Ok(SocketType::SEQPACKET) {
        return Err(StartError::NoLane);
    }
    let lane = input.as_fd().try_clone_to_owned().map_err(LaneError::Io)?;
    step_below_the_supervisor();
    allow_all_descriptors();
    if !readable(lane.as_fd(), Some(&Timespec::default()))? {
        wait_as_a_spare(lane.as_fd(), role)?;
    }
    let (start, supervised) = begin_on(lane, role)?;
    log_as(start.seat, start.generation);
    follow_panics();
    Ok((start, supervised))
}

/// [`begin`] over a lane that is at hand, without touching the process's logging or limits.
///
/// # Errors
/// As [`begin`].
pub fn begin_on(lane: OwnedFd, role: Role) -> Result<(Start, Supervised), StartError> {
    let mut lane: Lane<FromDaemon, ToDaemon> = Lane::new(lane);
    let (first, descriptors) = loop {
        if let Some(message) = lane.receive()? {
            break message;
        }
        readable(lane.as_fd(), None)?;
    };
    let ToDaemon::Welcome(welcome) = first else {
        return Err(StartError::Misled);
    };
    let Welcome { seat, generation, predecessor, group, grants } = *welcome;
    let (mut mapped, mut passed) = (BTreeMap::new(), BTreeMap::new());
    let mut locked = false;
    // The lock comes first in every welcome, and is taken before anything is mapped.
    for (grant, descriptor) in grants.iter().zip(descriptors) {
        match grant.region {
            Tag::Lock(of) if of == seat && seat.role == role => {
                take_lock(descriptor, seat)?;
                locked = true;
            }
            Tag::Lock(_) => return Err(StartError::Misled),
            tag if grant.access == Access::Pass => {
                passed.insert(tag, (descriptor, grant.size));
            }
            tag if locked => {
                let granted = map(descriptor, grant.access, grant.size)
                    .map_err(|source| StartError::Map { tag, source })?;
                mapped.insert(tag, granted);
            }
            _ => return Err(StartError::Misled),
        }
    }
    if !locked {
        return Err(StartError::Misled);
    }
    let start = Start { seat, generation, predecessor, group, grants: mapped, passed };
    Ok((start, Supervised::new(lane)))
}

/// Whether a lane has something to say, or its other end is closed; waits for it that long.
fn readable(lane: BorrowedFd<'_>, time: Option<&Timespec>) -> Result<bool, LaneError> {
    match rustix::event::poll(&mut [PollFd::new(&lane, PollFlags::IN)], time) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::INTR) => Ok(false),
        Err(errno) => Err(LaneError::Io(errno.into())),
    }
}

/// Waits for the welcome, prepared for it and under a name that tells it from the daemon itself. Ends
/// the process when the supervisor goes first: the next one makes spares of its own.
fn wait_as_a_spare(lane: BorrowedFd<'_>, role: Role) -> Result<(), LaneError> {
    // A name that is refused would only be missed by people.
    let named = |name: String| CString::new(name).map(|name| rustix::thread::set_name(&name));
    let _ = named(format!("{}{SPARE}", role.name()));
    if role == Role::Netd {
        touch_heap();
    }
    while !readable(lane, None)? {}
    let mut byte = [MaybeUninit::uninit(); 1];
    if matches!(rustix::net::recv(lane, &mut byte, RecvFlags::PEEK), Ok((_, 0)) | Err(Errno::CONNRESET)) {
        std::process::exit(0);
    }
    let _ = named(role.name().to_owned());
    Ok(())
}

/// Makes the allocator's memory resident: blocks that were touched and given back, below one that is
/// kept, so that it does not return them to the kernel.
fn touch_heap() {
    let blocks: Vec<Vec<u8>> = (0..HEAP_BLOCKS).map(|_| vec![1; HEAP_BLOCK]).collect();
    std::hint::black_box(&blocks);
    Box::leak(Box::new([0_u64; 4]));
}

fn take_lock(descriptor: OwnedFd, seat: Seat) -> Result<(), StartError> {
    let outcome = rustix::fs::fcntl_lock(&descriptor, FlockOperation::NonBlockingLockExclusive);
    // Leaked: see the module's documentation.
    let _ = descriptor.into_raw_fd();
    match outcome {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::ACCESS) => Err(StartError::Locked(seat)),
        Err(errno) => Err(StartError::Lock(errno.into())),
    }
}

fn map(descriptor: OwnedFd, access: Access, size: u64) -> io::Result<Granted> {
    let size = usize::try_from(size).map_err(|_| io::ErrorKind::InvalidData)?;
    let memory = match access {
        Access::Write => Region::map(&descriptor, size)?,
        Access::Read | Access::Pass => Region::map_read_only(&descriptor, size)?,
    };
    Ok(Granted { memory: Arc::new(memory), access, descriptor })
}

/// The supervisors run one priority above the daemons, where that was permitted to them; what a
/// daemon inherited of it, it gives back.
fn step_below_the_supervisor() {
    if rustix::process::getpriority_process(None).is_ok_and(|nice| nice < 0) {
        let _ = rustix::process::setpriority_process(None, 0);
    }
}

/// A process of the group may hold a few descriptors per session: it takes what it is allowed.
fn allow_all_descriptors() {
    let mut limit = rustix::process::getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = rustix::process::setrlimit(Resource::Nofile, limit);
}
