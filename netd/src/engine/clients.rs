//! The clients' descriptors: the pipe that wakes each, and the pipe by which it wakes us.
//!
//! Both are pipes and not eventfds: a client can clear O_NONBLOCK on a description that it shares,
//! and the ends of a pipe are two (INV-R5). No call here can block.

use super::{Mapped, SESSION, watch};
use mio::unix::SourceFd;
use mio::{Registry, Token};
use proto::arena::Geometry;
use proto::id::SessionId;
use proto::shm::fault::faults;
use proto::shm::region::Region;
use rustix::fd::{AsRawFd, OwnedFd};
use std::collections::HashMap;
use std::sync::Arc;

/// Reads that empty a full pipe (64 KiB, pipe(7)), so that the next write is an edge again.
const DRAINS: usize = 17;

#[derive(Debug)]
struct Pipes {
    wakes_client: OwnedFd,
    kicks: OwnedFd,
    memory: Mapped,
}

/// All sessions' descriptors.
#[derive(Debug)]
pub(super) struct Clients {
    pipes: HashMap<SessionId, Pipes>,
    arrived: Vec<(SessionId, Geometry, Mapped)>,
    /// [`faults`] when they were last looked for.
    faults: u32,
}

impl Clients {
    pub(super) fn new() -> Self {
        Clients { pipes: HashMap::new(), arrived: Vec::new(), faults: 0 }
    }

    /// Keeps what the vault handed over. An arena that is not what it should be is not kept: its
    /// session gets no answers and ends.
    pub(super) fn keep(
        &mut self,
        session: SessionId,
        geometry: Geometry,
        arena: &OwnedFd,
        wakes_client: OwnedFd,
        kicks: OwnedFd,
        registry: &Registry,
    ) {
        if self.pipes.contains_key(&session) {
            return;
        }
        let mapped =
            geometry.checked().ok().and_then(|geometry| Region::map_guarded(arena, geometry.bytes()).ok());
        let Some(memory) = mapped else {
            tracing::warn!("session {session}: an arena that can't be mapped");
            return;
        };
        if let Err(error) = watch(registry, kicks.as_raw_fd(), token(session)) {
            tracing::warn!("session {session}: {error}");
            return;
        }
        let memory = Arc::new(memory);
        self.pipes.insert(session, Pipes { wakes_client, kicks, memory: memory.clone() });
        self.arrived.push((session, geometry, memory));
    }

    /// The sessions that were kept since the last call.
    pub(super) fn take_arrived(&mut self) -> Vec<(SessionId, Geometry, Mapped)> {
        core::mem::take(&mut self.arrived)
    }

    /// Sessions whose memory has faulted, when there was a fault since the last call.
    pub(super) fn faulted(&mut self) -> Vec<SessionId> {
        match core::mem::replace(&mut self.faults, faults()) == self.faults {
            true => Vec::new(),
            false => self.pipes.iter().filter(|(_, p)| p.memory.faulted()).map(|(id, _)| *id).collect(),
        }
    }

    /// Wakes a client. A full pipe wakes it too.
    pub(super) fn wake(&self, session: SessionId) {
        if let Some(pipes) = self.pipes.get(&session) {
            let _ = rustix::io::write(&pipes.wakes_client, &[0]);
        }
    }

    /// A client has written its pipe; what it wrote means nothing.
    pub(super) fn drain(&self, number: usize) {
        let session = u32::try_from(number).map(SessionId);
        let Some(pipes) = session.ok().and_then(|session| self.pipes.get(&session)) else { return };
        let mut bytes = [0; 4096];
        for _ in 0..DRAINS {
            if !rustix::io::read(&pipes.kicks, &mut bytes).is_ok_and(|n| n == bytes.len()) {
                return;
            }
        }
    }

    /// The session is over.
    pub(super) fn forget(&mut self, session: SessionId, registry: &Registry) {
        if let Some(pipes) = self.pipes.remove(&session) {
            let _ = registry.deregister(&mut SourceFd(&pipes.kicks.as_raw_fd()));
        }
    }
}

fn token(session: SessionId) -> Token {
    Token(SESSION + session.0 as usize)
}
