//! `admin.sock`: what netctl may see, and the changes it asks for.
//!
//! Only root and the user whose group it is are let in. What they see are read-only descriptions
//! of regions; changes go on to the netd of shard 0, under numbers that are never used twice, so
//! that asking again after a restart changes nothing twice.

use crate::session::accept;
use proto::control::admin::{Ask, CALLERS_MAX, Reply, Shown};
use proto::control::lane::{Lane, LaneError};
use proto::control::notices::{ConfigReply, ConfigRequest};
use proto::daemon::Start;
use proto::id::Generation;
use rustix::fd::BorrowedFd;
use rustix::net::sockopt::socket_peercred;
use std::collections::{BTreeMap, VecDeque};
use std::io;

/// One who asks.
struct Caller {
    lane: Lane<Reply, Ask>,
    /// Requests in order; a change waits for its answer.
    asked: VecDeque<Ask>,
    waits_for: Option<u64>,
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

    /// A caller's socket has something; returns changes to pass on, or that the caller is gone.
    ///
    /// # Errors
    /// When the caller is to be forgotten: it hung up or broke a rule.
    pub(crate) fn hear(&mut self, number: usize, start: &Start) -> Result<Vec<ConfigRequest>, LaneError> {
        let Some(caller) = self.callers.get_mut(&number) else { return Ok(Vec::new()) };
        caller.lane.flush()?;
        while let Some((ask, _)) = caller.lane.receive()? {
            if caller.asked.len() >= CALLERS_MAX {
                return Err(LaneError::Corrupt("more requests than one waits for"));
            }
            caller.asked.push_back(ask);
        }
        self.answer(number, start)
    }

    /// Answers a caller's requests up to the first that must wait.
    fn answer(&mut self, number: usize, start: &Start) -> Result<Vec<ConfigRequest>, LaneError> {
        let mut pass_on = Vec::new();
        let Some(caller) = self.callers.get_mut(&number) else { return Ok(pass_on) };
        while caller.waits_for.is_none()
            && let Some(ask) = caller.asked.pop_front()
        {
            match ask {
                Ask::Regions => {
                    let (reply, descriptors) = regions(start);
                    caller.lane.send(&reply, &descriptors)?;
                }
                Ask::Change(change) => {
                    let request = ConfigRequest { id: self.next_change, change };
                    self.next_change += 1;
                    caller.waits_for = Some(request.id);
                    self.changes.insert(request.id, request.clone());
                    pass_on.push(request);
                }
            }
        }
        Ok(pass_on)
    }

    /// netd has done a change, or refused it. Returns further changes of the same caller.
    pub(crate) fn changed(&mut self, reply: ConfigReply, start: &Start) -> Vec<ConfigRequest> {
        self.changes.remove(&reply.id);
        let caller = self.callers.iter_mut().find(|(_, caller)| caller.waits_for == Some(reply.id));
        let Some((&number, caller)) = caller else { return Vec::new() };
        caller.waits_for = None;
        let told = caller.lane.send(&Reply::Changed(reply.result), &[]);
        match told.and_then(|()| self.answer(number, start)) {
            Ok(pass_on) => pass_on,
            Err(_) => {
                self.forget(number);
                Vec::new()
            }
        }
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
    for (&region, granted) in &start.grants {
        if let Some(descriptor) = start.to_show(region) {
            let size = proto::shm::Memory::size(&granted.memory) as u64;
            shown.push(Shown { region, size });
            descriptors.push(descriptor);
        }
    }
    let (name, faults) = (start.group.name.clone(), start.group.faults.clone());
    (Reply::Regions { name, faults, shown }, descriptors)
}
