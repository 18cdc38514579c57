//! The authority over sessions and sockets, as a pure state machine: requests, answers and deaths
//! go in, [`Effect`]s come out. No descriptor, no clock, no thread.
//!
//! The truth is the registry (INV-T9). Every input first stores what it changes, then returns what
//! to do, in this order:
//!
//! ```text
//! intent in the registry → command to netd ┄ answer of netd → outcome in the registry → reply
//!                                                                              → request consumed
//! ```
//!
//! A request stays on its session's socket until it is answered, so whoever comes after a death
//! finds it again; the registry says whether it is new, under way, or done and only to be repeated.
//! [`Core::recover`] and [`Core::attached`] do all that a successor must.
//!
//! With several shards a connection belongs to the one that its two ends are hashed to
//! ([`Steering`]): a shard is chosen, then a port that leads to it. The address of our side is netd's
//! choice; it is guessed, and a netd that would choose another one says so. What every shard has, a
//! listener or a UDP socket, is one operation that all of them answer; where some refuse, it is
//! withdrawn from the others.
//!
//! Invariants: a request is done exactly once; an active place of an arena is given out only while
//! no operation names it; a session's record goes last, after every netd has let go of it.
//!
//! Not here: the bytes on the sockets (`session`), the rings (`server`), the arenas: sockd makes
//! one and maps none.

mod answers;
mod recover;
mod requests;

use crate::places::Places;
use crate::policy::{self, Limits, Usage};
use crate::port_select::PortSelect;
use crate::ports::{Class, Ends, Ports};
use crate::sources::Sources;
use core::hash::Hasher;
use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use proto::arena::{EVERY_SHARD, Geometry};
use proto::cell::{CellWriter, Held};
use proto::control::client::Reply;
use proto::control::operations::{Command, SocketRef};
use proto::hard::registry::{
    Counters, Kind, Operation, OperationPhase, OperationState, Outcome, Session, SessionPhase, SessionState,
};
use proto::id::{Epoch, OpId, SessionId, SlotIndex};
use proto::nic::steering::Steering;
use proto::shm::Memory;
use rustix::io::Errno;
use siphasher::sip::SipHasher13;
use std::collections::BTreeMap;

/// Names are set aside in the registry so many at a time: one store for many operations.
const NAMES_AT_ONCE: u64 = 1024;

/// Ports tried for a socket that asked for any, when netd finds one after the other taken.
const PORT_TRIES_MAX: u32 = 64;

/// No remote.
const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// What is to be done, in order, after an input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Pass `command` to the netd of `shard`.
    Command {
        /// Which shard.
        shard: u16,
        /// What it shall do.
        command: Command,
    },
    /// Send `reply` to the client, then take its request off the socket. A reply that opens the
    /// session goes with the session's descriptors.
    Reply {
        /// Whose client.
        session: SessionId,
        /// What to say.
        reply: Reply,
    },
    /// Shut the session's socket down.
    End {
        /// Whose.
        session: SessionId,
        /// Why, as `netctl crash` shows it.
        reason: &'static str,
    },
    /// Nobody refers to the session any more: let the vaults forget it, then call
    /// [`Core::dropped`].
    Drop {
        /// Which one.
        session: SessionId,
    },
}

/// A client and what it has.
#[derive(Debug)]
struct Client {
    held: Held,
    record: Session,
    state: SessionState,
    /// The active places that are free.
    places: Places,
    /// The sockets it has, by place.
    sockets: BTreeMap<SlotIndex, OpId>,
    /// The operation that its present request waits for.
    waiting: Option<OpId>,
    /// Its socket is known to this incarnation.
    parked: bool,
    /// Shards that refer to the session no more; bit `n` for shard `n`.
    gone: u64,
    /// The client hung up before the vaults had the session.
    hung_up: bool,
    dropping: bool,
}

/// A socket that was given out, or shall be.
#[derive(Debug)]
struct Opened {
    held: Held,
    record: Operation,
    state: OperationState,
    /// Ports tried so far in this incarnation.
    tries: u32,
    /// What the shards that it concerns have answered to this incarnation.
    answered: Answered,
}

/// Bit `n` for shard `n`.
#[derive(Debug, Clone, Copy, Default)]
struct Answered {
    /// They have opened their part.
    done: u64,
    /// They have not.
    refused: u64,
    /// The errno of the first of those; 0 without any.
    errno: u32,
    /// They refer to it no more.
    gone: u64,
}

impl Opened {
    /// Its place in a shard.
    fn socket(&self, shard: u16) -> SocketRef {
        let Operation { session, slot, epoch, .. } = self.record;
        let slot = if self.record.shard == EVERY_SHARD { SlotIndex(slot.0 + u32::from(shard)) } else { slot };
        SocketRef { session, slot, epoch }
    }

    fn ends(&self) -> Ends {
        Ends { local: self.state.local, remote: self.state.remote }
    }

    /// What the netd of `shard`, of that many, is to do.
    fn command(&self, shard: u16, shards: u16) -> Command {
        let (op, socket) = (self.record.id, self.socket(shard));
        if self.state.phase == OperationPhase::Withdrawn {
            return Command::Withdraw { op, socket };
        }
        let listeners = if self.record.shard == EVERY_SHARD { u32::from(shards) } else { 1 };
        let (local, remote) = (self.state.local, self.state.remote);
        match self.record.kind {
            Kind::Connect => Command::Connect { op, socket, local, remote, hold: self.record.backlog != 0 },
            Kind::Listen => {
                let backlog = self.record.backlog.div_ceil(listeners);
                Command::Listen { op, socket, local, backlog, share: self.record.share }
            }
            Kind::Datagram => {
                let Operation { form, share, .. } = self.record;
                Command::Datagram { op, socket, local, remote, form, share }
            }
        }
    }

    fn outcome(&self) -> Outcome {
        let Operation { slot, epoch, shard, .. } = self.record;
        Outcome::Socket { slot, epoch, shard, local: self.state.local }
    }
}

/// Random numbers without a system call: a keyed count.
struct Random {
    key: [u64; 2],
    count: u64,
}

impl Random {
    fn next(&mut self) -> u32 {
        self.count += 1;
        let mut hash = SipHasher13::new_with_keys(self.key[0], self.key[1]);
        hash.write_u64(self.count);
        hash.finish() as u32
    }
}

/// Secrets of one incarnation: fresh random numbers, never written down.
#[derive(Debug, Clone, Copy)]
pub struct Seed {
    /// Keys of the port selection (RFC 6056).
    pub ports: [[u64; 2]; 2],
    /// Key of the other random numbers.
    pub numbers: [u64; 2],
}

/// The state machine. See the module's documentation.
pub struct Core<M> {
    cells: CellWriter<M>,
    counters: Held,
    /// What the registry has set aside.
    reserved: Counters,
    next_op: OpId,
    next_session: SessionId,
    limits: Limits,
    shards: u16,
    attached: u64,
    steering: Steering,
    clients: BTreeMap<SessionId, Client>,
    ops: BTreeMap<OpId, Opened>,
    usage: BTreeMap<u32, Usage>,
    ports: Ports,
    random: Random,
    sources: Sources,
}

impl<M: Memory> Core<M> {
    /// Number of sessions, those that are ending included.
    pub fn sessions(&self) -> usize {
        self.clients.len()
    }

    /// Number of sockets given out.
    pub fn sockets(&self) -> usize {
        self.ops.len()
    }

    /// The geometry of a session that is known.
    pub fn geometry(&self, session: SessionId) -> Option<Geometry> {
        self.clients.get(&session).map(|client| client.record.geometry)
    }

    fn is_attached(&self, shard: u16) -> bool {
        self.attached >> shard & 1 == 1
    }

    fn all_shards(&self) -> u64 {
        u64::MAX >> (64 - u32::from(self.shards))
    }

    /// The shards that an operation concerns; bit `n` for shard `n`.
    fn shards_of(&self, record: &Operation) -> u64 {
        if record.shard == EVERY_SHARD { self.all_shards() } else { 1 << record.shard }
    }

    /// Says to those of `shards` that are there what an operation wants of them.
    fn command(&self, op: OpId, shards: u64, effects: &mut Vec<Effect>) {
        let opened = &self.ops[&op];
        for shard in (0..self.shards).filter(|shard| (shards & self.attached) >> shard & 1 == 1) {
            effects.push(Effect::Command { shard, command: opened.command(shard, self.shards) });
        }
    }

    fn name_op(&mut self) -> OpId {
        let op = self.next_op;
        self.next_op = OpId(op.0 + 1);
        self.set_aside();
        op
    }

    fn name_session(&mut self) -> SessionId {
        let session = self.next_session;
        self.next_session = SessionId(session.0.checked_add(1).expect("2^32 sessions in one group's life"));
        self.set_aside();
        session
    }

    /// Before a name is used, the registry says that it may have been.
    fn set_aside(&mut self) {
        if self.next_op <= self.reserved.next_op && self.next_session <= self.reserved.next_session {
            return;
        }
        self.reserved = Counters {
            next_op: OpId(self.next_op.0 + NAMES_AT_ONCE),
            next_session: SessionId(self.next_session.0.saturating_add(NAMES_AT_ONCE as u32)),
        };
        self.cells.commit(&mut self.counters, &self.reserved.to_bytes());
    }

    /// Writes the outcome of a session's request down and returns the reply to it.
    fn finish(&mut self, session: SessionId, request: u64, outcome: Outcome, effects: &mut Vec<Effect>) {
        let Some(client) = self.clients.get_mut(&session) else { return };
        client.waiting = None;
        if client.state.phase == SessionPhase::Ending {
            return;
        }
        client.state = SessionState { phase: SessionPhase::Live, request, outcome };
        self.cells.commit(&mut client.held, &client.state.to_bytes());
        effects.push(client.reply());
    }

    /// Forgets an operation: its cell and its port are free again, and its place unless another
    /// operation stands for the socket there.
    fn release(&mut self, op: OpId) {
        let Some(opened) = self.ops.remove(&op) else { return };
        let Operation { kind, session, slot, shard, .. } = opened.record;
        self.cells.free(opened.held);
        self.ports.release(Class::of(kind, opened.record.form), op, opened.state.local.port());
        if let Some(client) = self.clients.get_mut(&session)
            && client.sockets.get(&slot) == Some(&op)
        {
            // Where shards differed about another remote, two operations share a place for a while.
            let other = |(_, other): &(&OpId, &Opened)| {
                kind == Kind::Datagram && other.record.session == session && other.record.slot == slot
            };
            if self.shards > 1
                && let Some((other, _)) = self.ops.iter().find(other)
            {
                client.sockets.insert(slot, *other);
                return;
            }
            client.sockets.remove(&slot);
            client.give_back(slot, shard);
        }
    }

    /// Begins the end of a session: written down first, then every netd is told.
    fn end(&mut self, session: SessionId, effects: &mut Vec<Effect>) {
        let Some(client) = self.clients.get_mut(&session) else { return };
        if client.state.phase == SessionPhase::Ending {
            return;
        }
        client.state.phase = SessionPhase::Ending;
        client.waiting = None;
        self.cells.commit(&mut client.held, &client.state.to_bytes());
        self.tell_end(session, effects);
    }

    fn tell_end(&mut self, session: SessionId, effects: &mut Vec<Effect>) {
        for shard in 0..self.shards {
            if self.is_attached(shard) {
                let command = self.end_command(session);
                effects.push(Effect::Command { shard, command });
            }
        }
    }

    fn end_command(&mut self, session: SessionId) -> Command {
        Command::EndSession { op: self.name_op(), session }
    }
}

impl Client {
    /// The reply to the last request that was done.
    fn reply(&self) -> Effect {
        use proto::control::client::Granted;
        let Session { id: session, geometry, .. } = self.record;
        let result = match self.state.outcome {
            Outcome::Session => Ok(Granted::Session { session, geometry }),
            Outcome::Socket { slot, epoch, shard, local } => {
                Ok(Granted::Socket { slot, epoch, shard, local })
            }
            Outcome::Errno(errno) => Err(errno),
        };
        Effect::Reply { session, reply: Reply { number: self.state.request, result } }
    }

    fn take_place(&mut self, shard: u16) -> Option<SlotIndex> {
        if shard == EVERY_SHARD { self.places.take_row() } else { self.places.take(shard) }
    }

    fn give_back(&mut self, slot: SlotIndex, shard: u16) {
        if shard == EVERY_SHARD { self.places.give_row_back(slot) } else { self.places.give_back(slot) }
    }
}

/// Which use of its place an operation is: names of operations are not used twice, so neither is
/// their lower half within any two uses of one place.
fn epoch_of(op: OpId) -> Epoch {
    Epoch(op.0 as u32)
}

fn errno(errno: Errno) -> Outcome {
    Outcome::Errno(errno.raw_os_error().unsigned_abs())
}

fn charge(usage: &mut BTreeMap<u32, Usage>, uid: u32, geometry: &Geometry) {
    let cost = policy::cost(geometry);
    let user = usage.entry(uid).or_default();
    user.sessions += cost.sessions;
    user.sockets += cost.sockets;
    user.pages += cost.pages;
}

fn refund(usage: &mut BTreeMap<u32, Usage>, uid: u32, geometry: &Geometry) {
    let cost = policy::cost(geometry);
    let user = usage.get_mut(&uid).expect("what is given back was charged");
    user.sessions -= cost.sessions;
    user.sockets -= cost.sockets;
    user.pages -= cost.pages;
    if *user == Usage::default() {
        usage.remove(&uid);
    }
}

fn ports_of(seed: &Seed) -> Ports {
    use crate::port_select::{PORT_FIRST, PORT_LAST};
    let random = seed.numbers[0] ^ seed.numbers[1].rotate_left(32);
    Ports::new(PortSelect::new(seed.ports, random, PORT_FIRST, PORT_LAST))
}

#[cfg(test)]
mod tests;
