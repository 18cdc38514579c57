//! The descriptors that outlive the daemons: both supervisors hold a duplicate of each.
//!
//! Owns regions, our ends of the lanes, pidfds, rings and wake-ups of pairs, sessions, TAPs,
//! listening sockets, the group's lock file. Filled by the active supervisor as things come to be,
//! in the standby by what is mirrored. Knows which descriptors belong to which [`Fact`], in which
//! order. Decides nothing.

use crate::facts::{Fact, Facts, Pair};
use proto::control::messages::{Access, Region};
use proto::id::{Seat, SessionId};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::collections::BTreeMap;

/// A region of memory.
#[derive(Debug)]
pub struct Memory {
    /// Size in bytes.
    pub size: usize,
    /// For those who write.
    pub writable: OwnedFd,
    /// For those who only read, where there are such.
    pub read_only: Option<OwnedFd>,
}

/// What is held of an incarnation.
#[derive(Debug)]
pub struct Incarnation {
    /// Our end of its lane.
    pub lane: OwnedFd,
    /// Readable when it is dead.
    pub pidfd: OwnedFd,
}

/// What is held of a pair of incarnations.
#[derive(Debug)]
pub struct Rings {
    /// Their memory.
    pub memory: OwnedFd,
    /// An eventfd that wakes the first.
    pub wakes_first: OwnedFd,
    /// An eventfd that wakes the second.
    pub wakes_second: OwnedFd,
}

/// What is held of a session, in the order of `FromDaemon::KeepSession`: socket, arena, reading and
/// writing end of the pipe that wakes the client, then for each shard reading and writing end of
/// the pipe by which the client wakes it.
#[derive(Debug)]
pub struct SessionEnds(pub Vec<OwnedFd>);

impl SessionEnds {
    /// For `ToDaemon::Session` to shard `shard`.
    pub fn for_netd(&self, shard: u16) -> Vec<BorrowedFd<'_>> {
        [1, 3, 4 + 2 * usize::from(shard)].into_iter().map(|n| self.0[n].as_fd()).collect()
    }

    /// For `ToDaemon::SessionSocket`.
    pub fn for_sockd(&self) -> Vec<BorrowedFd<'_>> {
        let kicks = (5..self.0.len()).step_by(2);
        [0, 1, 2].into_iter().chain(kicks).map(|n| self.0[n].as_fd()).collect()
    }
}

/// What belongs to the group as a whole.
#[derive(Debug)]
pub struct Keepsakes {
    /// Locked (flock) while a supervisor of the group lives.
    pub lock_file: OwnedFd,
    /// Listens on `api.sock`.
    pub api: OwnedFd,
    /// Listens on `admin.sock`.
    pub admin: OwnedFd,
    /// Hangs up when no supervisor is left; whoever started the group may watch it.
    pub starter: Option<OwnedFd>,
}

/// All of it.
#[derive(Debug)]
pub struct Vault {
    /// What belongs to the group.
    pub keepsakes: Keepsakes,
    /// Regions.
    pub memory: BTreeMap<Region, Memory>,
    /// Living incarnations.
    pub incarnations: BTreeMap<Seat, Incarnation>,
    /// Rings in use.
    pub rings: BTreeMap<Pair, Rings>,
    /// Sessions.
    pub sessions: BTreeMap<SessionId, SessionEnds>,
    /// TAPs by interface.
    pub devices: BTreeMap<u16, OwnedFd>,
}

impl Vault {
    /// With nothing but what belongs to the group.
    pub fn new(keepsakes: Keepsakes) -> Vault {
        Vault {
            keepsakes,
            memory: BTreeMap::new(),
            incarnations: BTreeMap::new(),
            rings: BTreeMap::new(),
            sessions: BTreeMap::new(),
            devices: BTreeMap::new(),
        }
    }

    /// The description of a region for that kind of use.
    ///
    /// # Panics
    /// When the region does not exist or nobody may only read it: `layout` says which do.
    pub fn region(&self, region: Region, access: Access) -> BorrowedFd<'_> {
        let memory = &self.memory[&region];
        match access {
            Access::Write => memory.writable.as_fd(),
            Access::Read | Access::Pass => memory.read_only.as_ref().expect("a region that is shown").as_fd(),
        }
    }

    /// The descriptors that belong to a fact; `None` when they are no longer there: what it says
    /// has been undone by a later one.
    pub fn descriptors(&self, fact: &Fact) -> Option<Vec<BorrowedFd<'_>>> {
        match fact {
            Fact::Spawned { seat, .. } => {
                let Incarnation { lane, pidfd } = self.incarnations.get(seat)?;
                Some(vec![lane.as_fd(), pidfd.as_fd()])
            }
            Fact::Linked { pair, .. } => {
                let Rings { memory, wakes_first, wakes_second } = self.rings.get(pair)?;
                Some(vec![memory.as_fd(), wakes_first.as_fd(), wakes_second.as_fd()])
            }
            Fact::Session { session, .. } => {
                Some(self.sessions.get(session)?.0.iter().map(AsFd::as_fd).collect())
            }
            Fact::Device { nic } => Some(vec![self.devices.get(nic)?.as_fd()]),
            _ => Some(Vec::new()),
        }
    }

    /// The standby's side: puts in what came with a fact, and closes what the fact ends.
    pub fn follow(&mut self, fact: &Fact, known: &Facts, descriptors: Vec<OwnedFd>) {
        let mut descriptors = descriptors.into_iter();
        let mut next = || descriptors.next().expect("the lane has counted the descriptors");
        match *fact {
            Fact::Spawned { seat, .. } => {
                let incarnation = Incarnation { lane: next(), pidfd: next() };
                self.incarnations.insert(seat, incarnation);
            }
            Fact::Ended { seat, generation, .. } if known.is_live(seat, generation) => {
                self.incarnations.remove(&seat);
            }
            Fact::Linked { pair, .. } => {
                let rings = Rings { memory: next(), wakes_first: next(), wakes_second: next() };
                self.rings.insert(pair, rings);
            }
            Fact::Unlinked { pair } => drop(self.rings.remove(&pair)),
            Fact::Session { session, .. } => {
                self.sessions.insert(session, SessionEnds(descriptors.collect()));
            }
            Fact::SessionOver { session } => drop(self.sessions.remove(&session)),
            Fact::Device { nic } => drop(self.devices.insert(nic, next())),
            _ => {}
        }
    }
}
