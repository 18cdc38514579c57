//! `admin.sock`: what netctl may see, and the changes it asks for.
//!
//! Only root and the user whose group it is are let in. What they see are read-only descriptions
//! of regions; changes go on to the netd of shard 0, then to the others, under numbers that are never used twice, so
//! that asking again after a restart changes nothing twice.

use crate::session::accept;
use proto::arena::Geometry;
use proto::control::admin::{ARENAS_MAX, Ask, CALLERS_MAX, Reply, Shown};
use proto::control::lane::{Lane, LaneError};
use proto::control::notices::{Change, ConfigReply, ConfigRequest};
use proto::daemon::Start;
use proto::id::{Generation, Seat, SessionId};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::net::sockopt::socket_peercred;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::Bound;

/// One who asks.
struct Caller {
    lane: Lane<Reply, Ask>,
    /// Requests in order; a change waits for its answer.
    asked: VecDeque<Ask>,
    waits_for: Option<u64>,
}

/// What others have to do before a caller can be answered, by the number of its request.
pub(crate) enum Errand {
    /// For netd.
    Change(ConfigRequest),
    /// For the supervisors: replace that incarnation.
    Restart(u64, Seat, Generation),
}

/// What there is to be shown.
pub(crate) struct Sights<'a> {
    pub(crate) start: &'a Start,
    /// Read-only descriptions of the arenas.
    pub(crate) arenas: &'a BTreeMap<SessionId, (Geometry, OwnedFd)>,
}

/// The callers and what they wait for.
pub(crate) struct Admin {
    callers: BTreeMap<usize, Caller>,
    next_caller: usize,
    next_change: u64,
    /// Changes without an answer.
    changes: BTreeMap<u64, ConfigRequest>,
}

/// What came of looking at the admin socket.
pub(crate) enum Met {
    /// A caller, to be watched under this number.
    Caller(usize),
    /// Somebody who may not.
    Denied,
    /// Nobody.
    Nobody,
}

impl Admin {
    /// Nobody has called. `generation` makes the numbers of changes differ from those of every
    /// other incarnation.
    pub(crate) fn new(generation: Generation) -> Admin {
        let next_change = u64::from(generation.0) << 32;
        Admin { callers: BTreeMap::new(), next_caller: 0, next_change, changes: BTreeMap::new() }
    }

    /// Takes the next connection off the listener.
    pub(crate) fn meet(&mut self, listener: BorrowedFd<'_>) -> io::Result<Met> {
        let Some(socket) = accept(listener)? else { return Ok(Met::Nobody) };
        let uid = socket_peercred(&socket).map(|who| who.uid);
        let owner = rustix::process::geteuid();
        let allowed = uid.is_ok_and(|uid| uid.is_root() || uid == owner);
        if !allowed || self.callers.len() >= CALLERS_MAX {
            return Ok(Met::Denied);
        }
        let number = self.next_caller;
        self.next_caller += 1;
        let caller = Caller { lane: Lane::new(socket), asked: VecDeque::new(), waits_for: None };
        self.callers.insert(number, caller);
        Ok(Met::Caller(number))
    }

    /// The descriptor of a caller, to be watched.
    pub(crate) fn lane(&self, number: usize) -> Option<&Lane<Reply, Ask>> {
        self.callers.get(&number).map(|caller| &caller.lane)
    }

    /// A caller's socket has something; returns what is to be done for it, or that the caller is gone.
    ///
    /// # Errors
    /// When the caller is to be forgotten: it hung up or broke a rule.
    pub(crate) fn hear(&mut self, number: usize, sights: &Sights<'_>) -> Result<Vec<Errand>, LaneError> {
        let Some(caller) = self.callers.get_mut(&number) else { return Ok(Vec::new()) };
        caller.lane.flush()?;
        while let Some((ask, _)) = caller.lane.receive()? {
            if caller.asked.len() >= CALLERS_MAX {
                return Err(LaneError::Corrupt("more requests than one waits for"));
            }
            caller.asked.push_back(ask);
        }
        self.answer(number, sights)
    }

    /// Answers a caller's requests up to the first that must wait.
    fn answer(&mut self, number: usize, sights: &Sights<'_>) -> Result<Vec<Errand>, LaneError> {
        let mut errands = Vec::new();
        let Some(caller) = self.callers.get_mut(&number) else { return Ok(errands) };
        while caller.waits_for.is_none()
            && let Some(ask) = caller.asked.pop_front()
        {
            match ask {
                Ask::Regions => {
                    let (reply, descriptors) = regions(sights.start);
                    caller.lane.send(&reply, &descriptors)?;
                }
                Ask::Arenas { after } => {
                    let beyond = (Bound::Excluded(after), Bound::Unbounded);
                    let some = || sights.arenas.range(beyond).take(ARENAS_MAX);
                    let list = some().map(|(&session, (geometry, _))| (session, *geometry)).collect();
                    let descriptors: Vec<_> = some().map(|(_, (_, arena))| arena.as_fd()).collect();
                    caller.lane.send(&Reply::Arenas(list), &descriptors)?;
                }
                Ask::Restart { seat, generation } => {
                    caller.waits_for = Some(self.next_change);
                    errands.push(Errand::Restart(self.next_change, seat, generation));
                    self.next_change += 1;
                }
                Ask::Change(change) => {
                    let request = ConfigRequest { id: self.next_change, change };
                    self.next_change += 1;
                    caller.waits_for = Some(request.id);
                    self.changes.insert(request.id, request.clone());
                    errands.push(Errand::Change(request));
                }
            }
        }
        Ok(errands)
    }

    /// netd has done a change, or refused it. Returns what else the same caller wants.
    pub(crate) fn changed(&mut self, reply: ConfigReply, sights: &Sights<'_>) -> Vec<Errand> {
        self.changes.remove(&reply.id);
        self.tell(reply.id, &Reply::Changed(reply.result), sights)
    }

    /// The supervisors have begun to replace somebody, or refused to. As [`Admin::changed`].
    pub(crate) fn restarted(
        &mut self,
        id: u64,
        result: Result<(), String>,
        sights: &Sights<'_>,
    ) -> Vec<Errand> {
        self.tell(id, &Reply::Restarted(result), sights)
    }

    fn tell(&mut self, id: u64, reply: &Reply, sights: &Sights<'_>) -> Vec<Errand> {
        let caller = self.callers.iter_mut().find(|(_, caller)| caller.waits_for == Some(id));
        let Some((&number, caller)) = caller else { return Vec::new() };
        caller.waits_for = None;
        let told = caller.lane.send(reply, &[]);
        match told.and_then(|()| self.answer(number, sights)) {
            Ok(errands) => errands,
            Err(_) => {
                self.forget(number);
                Vec::new()
            }
        }
    }

    /// A change without an answer.
    pub(crate) fn change(&self, id: u64) -> Option<&Change> {
        self.changes.get(&id).map(|request| &request.change)
    }

    /// What has no answer: said again to a new netd.
    pub(crate) fn unanswered(&self) -> impl Iterator<Item = &ConfigRequest> {
        self.changes.values()
    }

    /// A caller is gone; what it asked for is done all the same.
    pub(crate) fn forget(&mut self, number: usize) {
        self.callers.remove(&number);
    }
}

/// Everything that there is to see.
fn regions(start: &Start) -> (Reply, Vec<BorrowedFd<'_>>) {
    let (mut shown, mut descriptors) = (Vec::new(), Vec::new());
    for (region, size, descriptor) in start.to_show() {
        shown.push(Shown { region, size });
        descriptors.push(descriptor);
    }
    let (name, faults) = (start.group.name.clone(), start.group.faults.clone());
    (Reply::Regions { name, faults, shown }, descriptors)
}
