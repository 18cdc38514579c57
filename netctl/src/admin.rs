//! Asking sockd: one connection to `admin.sock` per question.

use crate::group::Failure;
use proto::arena::Geometry;
use proto::control::admin::{Ask, Reply, Shown};
use proto::control::lane::{Lane, LaneError};
use proto::control::messages::Region as Tag;
use proto::control::notices::Change;
use proto::id::{Generation, Seat, SessionId};
use proto::run_dir::RunDir;
use proto::shm::region::Region;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::time::Timespec;
use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

/// How long sockd may take to answer: a few restarts of it.
const PATIENCE: Duration = Duration::from_secs(10);

/// A descriptor for every region, by tag, and what else the answer says.
#[derive(Debug)]
pub struct Regions {
    /// Deliberate faults, `key=value`.
    pub faults: Vec<String>,
    /// Mapped for reading.
    pub mapped: BTreeMap<Tag, Region>,
}

fn io_failure(e: impl Into<io::Error>) -> Failure {
    Failure::Io("admin.sock", e.into())
}

fn call(place: &RunDir) -> Result<Lane<Ask, Reply>, Failure> {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).map_err(io_failure)?;
    let addr = SocketAddrUnix::new(place.admin()).map_err(io_failure)?;
    match connect(&socket, &addr) {
        Ok(()) => Ok(Lane::new(socket)),
        Err(Errno::NOENT | Errno::CONNREFUSED) => Err(Failure::NotRunning(place.name().into())),
        Err(Errno::ACCESS | Errno::PERM) => {
            Err(Failure::Refused(format!("{}: not permitted for this user", place.admin().display())))
        }
        Err(errno) => Err(io_failure(errno)),
    }
}

fn once(place: &RunDir, ask: &Ask, deadline: Instant) -> Result<(Reply, Vec<OwnedFd>), Attempt> {
    let mut lane = call(place).map_err(Attempt::Failed)?;
    lane.send(ask, &[]).map_err(Attempt::from)?;
    loop {
        if let Some(answer) = lane.receive().map_err(Attempt::from)? {
            return Ok(answer);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        let mut readable = [PollFd::new(&lane, PollFlags::IN)];
        match poll(&mut readable, Some(&timeout)) {
            Ok(0) => return Err(Attempt::Failed(Failure::Refused("sockd does not answer".into()))),
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(Attempt::Failed(io_failure(errno))),
        }
    }
}

enum Attempt {
    /// sockd died with the connection in hand: ask its successor.
    HungUp,
    Failed(Failure),
}

impl From<LaneError> for Attempt {
    fn from(error: LaneError) -> Attempt {
        match error {
            LaneError::Closed => Attempt::HungUp,
            LaneError::Io(e) => Attempt::Failed(io_failure(e)),
            other => Attempt::Failed(Failure::Refused(format!("admin.sock: {other}"))),
        }
    }
}

/// How asking sockd to replace a daemon ended.
#[derive(Debug)]
pub enum Replacement {
    /// A successor is on its way.
    Begun,
    /// The program that lies there is not started; why, in words.
    Refused(String),
    /// sockd hung up before it answered: it may be the one that is replaced.
    Unknown,
}

/// Asks once for a daemon to be replaced by the program that lies there now.
///
/// # Errors
/// [`Failure`].
pub fn replace(place: &RunDir, seat: Seat, generation: Generation) -> Result<Replacement, Failure> {
    match once(place, &Ask::Restart { seat, generation }, Instant::now() + PATIENCE) {
        Ok((Reply::Restarted(Ok(())), _)) => Ok(Replacement::Begun),
        Ok((Reply::Restarted(Err(why)), _)) => Ok(Replacement::Refused(why)),
        Ok(_) => Err(Failure::Refused("sockd answers something else".into())),
        Err(Attempt::HungUp) => Ok(Replacement::Unknown),
        Err(Attempt::Failed(failure)) => Err(failure),
    }
}

/// Calls `look` with the arena of every session, mapped for reading. One that can't be mapped is
/// left out.
///
/// # Errors
/// [`Failure`].
pub fn arenas(place: &RunDir, mut look: impl FnMut(SessionId, &Geometry, &Region)) -> Result<(), Failure> {
    let mut after = SessionId(0);
    loop {
        let (Reply::Arenas(list), descriptors) = ask(place, &Ask::Arenas { after })? else {
            return Err(Failure::Refused("sockd answers something else".into()));
        };
        let Some(&(last, _)) = list.last().filter(|(last, _)| *last > after) else { return Ok(()) };
        for ((session, geometry), descriptor) in list.into_iter().zip(descriptors) {
            let Ok(geometry) = geometry.checked() else { continue };
            if let Ok(arena) = Region::map_read_only(descriptor, geometry.bytes()) {
                look(session, &geometry, &arena);
            }
        }
        after = last;
    }
}

/// Asks, and asks again when sockd died over it; the connection waits in its listening socket, which
/// outlives it. Being hung up on twice in a row without a pause means that we are not let in.
fn ask(place: &RunDir, ask: &Ask) -> Result<(Reply, Vec<OwnedFd>), Failure> {
    const PAUSE: Duration = Duration::from_millis(20);
    let deadline = Instant::now() + PATIENCE;
    let mut refusals = 0;
    loop {
        match once(place, ask, deadline) {
            Ok(answer) => return Ok(answer),
            Err(Attempt::Failed(failure)) => return Err(failure),
            Err(Attempt::HungUp) if refusals < 50 && Instant::now() < deadline => {
                refusals += 1;
                std::thread::sleep(PAUSE);
            }
            Err(Attempt::HungUp) => {
                return Err(Failure::Refused(
                    "sockd hangs up: this user may not ask, or sockd keeps dying".into(),
                ));
            }
        }
    }
}

/// The regions that there are to see.
///
/// # Errors
/// [`Failure`].
pub fn regions(place: &RunDir) -> Result<Regions, Failure> {
    let (Reply::Regions { faults, shown, .. }, descriptors) = ask(place, &Ask::Regions)? else {
        return Err(Failure::Refused("sockd answers something else".into()));
    };
    let map = |(Shown { region, size }, descriptor): (Shown, OwnedFd)| {
        let size = usize::try_from(size).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        Ok((region, Region::map_read_only(descriptor, size)?))
    };
    let mapped = shown.into_iter().zip(descriptors).map(map).collect::<io::Result<_>>();
    let faults = faults.into_iter().map(|(key, value)| format!("{key}={value}")).collect();
    Ok(Regions { faults, mapped: mapped.map_err(|e| Failure::Io("a region", e))? })
}

/// Changes the configuration.
///
/// # Errors
/// [`Failure::Refused`] with what netd says.
pub fn change(place: &RunDir, change: Change) -> Result<(), Failure> {
    match ask(place, &Ask::Change(change))?.0 {
        Reply::Changed(Ok(())) => Ok(()),
        Reply::Changed(Err(errno)) => {
            let text = io::Error::from_raw_os_error(errno.cast_signed());
            Err(Failure::Refused(format!("refused: {text}")))
        }
        _ => Err(Failure::Refused("sockd answers something else".into())),
    }
}
