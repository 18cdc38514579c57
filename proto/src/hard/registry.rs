//! The registry: what sockd has promised (INV-T9: the registry is the intent, the connection table
//! the outcome).
//!
//! Written by sockd, read-only for netctl. One table of cells holds three kinds of record:
//!
//! * [`Counters`], once: from where numbers are given out that are never used twice;
//! * [`Session`]: a client and how its arena is divided, with the outcome of its last request;
//! * [`Operation`]: a socket that sockd gave out, from the intent to open it until netd let go of
//!   its place. An active place of an arena is free when no operation names it. A UDP socket that
//!   gets another remote is a second operation on its place, which then stands for the first.
//!
//! Not here: the order in which they change (sockd's `core`), connections that came in through a
//! listener (netd's own).

use super::pack::{Pack, Unpack};
use crate::arena::Geometry;
use crate::cell::{Image, OPENING_SIZE, STATE_SIZE, table_size};
use crate::form::{Form, Share};
use crate::id::{Epoch, OpId, SessionId, SlotIndex};
use core::net::SocketAddr;

/// Layout version of the region; changes with any field below.
pub const LAYOUT: u32 = 3;

/// Records that the registry has room for: sessions and sockets together.
pub const CELLS: u32 = 1 << 17;

/// Size of the region in bytes. Pages that were never written take no memory.
pub const REGION_SIZE: usize = table_size(CELLS);

const COUNTERS: u8 = 1;
const SESSION: u8 = 2;
const OPERATION: u8 = 3;

/// The numbers up to which names may have been given out: a successor starts there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counters {
    /// The first operation that certainly was never named.
    pub next_op: OpId,
    /// The first session that certainly was never named.
    pub next_session: SessionId,
}

/// Written once, when a client is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session {
    /// Its name.
    pub id: SessionId,
    /// The client's user, as the kernel named it (SO_PEERCRED).
    pub uid: u32,
    /// The client's process when it connected; for display only.
    pub pid: u32,
    /// How its arena is divided.
    pub geometry: Geometry,
}

/// Where a session stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum SessionPhase {
    /// Let in; the vaults may not have its descriptors yet.
    Opening = 1,
    /// In use.
    Live = 2,
    /// The client is gone or was sent away; every netd is told to close its sockets.
    Ending = 3,
}

/// What a request came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The session was opened.
    Session,
    /// A socket was placed.
    Socket {
        /// Its place.
        slot: SlotIndex,
        /// Which use of that place.
        epoch: Epoch,
        /// The shard that owns it, or [`EVERY_SHARD`](crate::arena::EVERY_SHARD) for a row from `slot` on.
        shard: u16,
        /// Our side.
        local: SocketAddr,
    },
    /// It was refused with this errno.
    Errno(u32),
}

/// The part of a session that changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionState {
    /// Where it stands.
    pub phase: SessionPhase,
    /// The last request that was done; 0 before the first.
    pub request: u64,
    /// What it came to; without meaning while `request` is 0.
    pub outcome: Outcome,
}

/// What kind of socket an operation opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A TCP connection.
    Connect = 1,
    /// A listening TCP socket.
    Listen = 2,
    /// A socket of datagrams, [`Operation::form`] says which.
    Datagram = 3,
}

/// Written once, with the intent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operation {
    /// Its name.
    pub id: OpId,
    /// What it opens.
    pub kind: Kind,
    /// The shard that owns the socket, or [`EVERY_SHARD`](crate::arena::EVERY_SHARD) for one that lies in
    /// a row from `slot` on.
    pub shard: u16,
    /// Whose socket it is.
    pub session: SessionId,
    /// Its place.
    pub slot: SlotIndex,
    /// Which use of that place.
    pub epoch: Epoch,
    /// What the client asked for as our side; port 0 leaves the choice to sockd.
    pub asked: SocketAddr,
    /// Listen: how many connections may wait for accept. Connect: 1 when the SYN waits for the client's first
    /// word. Else 0.
    pub backlog: u32,
    /// Datagram: the operation whose socket gets another remote by this one; 0 when it opens one.
    pub replaces: OpId,
    /// Datagram: what its datagrams are.
    pub form: Form,
    /// Listen and datagram: with whom it shares its port.
    pub share: Share,
}

/// Where an operation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum OperationPhase {
    /// It shall be opened; netd's answer is not known.
    Intended = 1,
    /// It is open.
    Done = 2,
    /// Not every shard could open its part: those that did are to close it.
    Withdrawn = 3,
}

/// The part of an operation that changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OperationState {
    /// Where it stands.
    pub phase: OperationPhase,
    /// The request that it answers.
    pub request: u64,
    /// Our side: with the port that was tried last, once done with the address that netd chose.
    pub local: SocketAddr,
    /// The remote; unspecified where there is none.
    pub remote: SocketAddr,
}

/// One record of the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record {
    /// The counters.
    Counters(Counters),
    /// A session.
    Session(Session, SessionState),
    /// An operation, and the socket it opened.
    Operation(Operation, OperationState),
}

impl Record {
    /// From a cell; `None` when this binary does not know what it says.
    pub fn from_image(image: &Image) -> Option<Record> {
        let mut opening = Unpack::new(&image.opening);
        match opening.u8() {
            COUNTERS => Counters::from_bytes(&image.state).map(Record::Counters),
            SESSION => {
                let session = Session::unpack(&mut opening)?;
                Some(Record::Session(session, SessionState::from_bytes(&image.state)?))
            }
            OPERATION => {
                let operation = Operation::unpack(&mut opening)?;
                Some(Record::Operation(operation, OperationState::from_bytes(&image.state)?))
            }
            _ => None,
        }
    }
}

impl Counters {
    /// The bytes that mark a cell as the counters'.
    pub fn opening() -> [u8; OPENING_SIZE] {
        let mut out = Pack::new();
        out.u8(COUNTERS);
        out.finish()
    }

    /// To the bytes of a state slot.
    pub fn to_bytes(&self) -> [u8; STATE_SIZE] {
        let mut out = Pack::new();
        out.u64(self.next_op.0);
        out.u32(self.next_session.0);
        out.finish()
    }

    fn from_bytes(bytes: &[u8; STATE_SIZE]) -> Option<Counters> {
        let mut from = Unpack::new(bytes);
        Some(Counters { next_op: OpId(from.u64()), next_session: SessionId(from.u32()) })
    }
}

impl Session {
    /// To the bytes of a cell.
    pub fn to_bytes(&self) -> [u8; OPENING_SIZE] {
        let mut out = Pack::new();
        out.u8(SESSION);
        out.u8(0);
        out.u16(self.geometry.shards);
        out.u32(self.id.0);
        out.u32(self.uid);
        out.u32(self.pid);
        out.u32(self.geometry.active);
        out.u32(self.geometry.passive);
        out.u32(self.geometry.tx_pages);
        out.u32(self.geometry.rx_pages);
        out.finish()
    }

    fn unpack(from: &mut Unpack<'_>) -> Option<Session> {
        from.u8();
        let shards = from.u16();
        let (id, uid, pid) = (SessionId(from.u32()), from.u32(), from.u32());
        let (active, passive, tx_pages, rx_pages) = (from.u32(), from.u32(), from.u32(), from.u32());
        let geometry = Geometry { shards, active, passive, tx_pages, rx_pages }.checked().ok()?;
        Some(Session { id, uid, pid, geometry })
    }
}

const OUTCOME_SESSION: u8 = 1;
const OUTCOME_SOCKET: u8 = 2;
const OUTCOME_ERRNO: u8 = 3;

impl SessionState {
    /// To the bytes of a state slot.
    pub fn to_bytes(&self) -> [u8; STATE_SIZE] {
        let mut out = Pack::new();
        out.u64(self.request);
        out.u8(self.phase as u8);
        match self.outcome {
            Outcome::Session => out.u8(OUTCOME_SESSION),
            Outcome::Socket { slot, epoch, shard, local } => {
                out.u8(OUTCOME_SOCKET);
                out.u16(shard);
                out.u32(slot.0);
                out.u32(epoch.0);
                out.socket_addr(local);
            }
            Outcome::Errno(errno) => {
                out.u8(OUTCOME_ERRNO);
                out.u32(errno);
            }
        }
        out.finish()
    }

    fn from_bytes(bytes: &[u8; STATE_SIZE]) -> Option<SessionState> {
        let mut from = Unpack::new(bytes);
        let request = from.u64();
        let phase = match from.u8() {
            1 => SessionPhase::Opening,
            2 => SessionPhase::Live,
            3 => SessionPhase::Ending,
            _ => return None,
        };
        let outcome = match from.u8() {
            OUTCOME_SESSION => Outcome::Session,
            OUTCOME_SOCKET => {
                let shard = from.u16();
                let (slot, epoch) = (SlotIndex(from.u32()), Epoch(from.u32()));
                Outcome::Socket { slot, epoch, shard, local: from.socket_addr() }
            }
            OUTCOME_ERRNO => Outcome::Errno(from.u32()),
            _ => return None,
        };
        Some(SessionState { phase, request, outcome })
    }
}

impl Operation {
    /// To the bytes of a cell.
    pub fn to_bytes(&self) -> [u8; OPENING_SIZE] {
        let mut out = Pack::new();
        out.u8(OPERATION);
        out.u8(self.kind as u8);
        out.u16(self.shard);
        out.u64(self.id.0);
        out.u32(self.session.0);
        out.u32(self.slot.0);
        out.u32(self.epoch.0);
        out.u32(self.backlog);
        out.socket_addr(self.asked);
        out.u64(self.replaces.0);
        let (tag, number) = self.form.to_parts();
        out.u8(tag);
        out.u8(self.share.to_bits());
        out.u16(number);
        out.finish()
    }

    fn unpack(from: &mut Unpack<'_>) -> Option<Operation> {
        let kind = match from.u8() {
            1 => Kind::Connect,
            2 => Kind::Listen,
            3 => Kind::Datagram,
            _ => return None,
        };
        let (shard, id) = (from.u16(), OpId(from.u64()));
        let (session, slot, epoch) = (SessionId(from.u32()), SlotIndex(from.u32()), Epoch(from.u32()));
        let (backlog, asked, replaces) = (from.u32(), from.socket_addr(), OpId(from.u64()));
        let (tag, share) = (from.u8(), Share::from_bits(from.u8())?);
        let form = Form::from_parts(tag, from.u16())?;
        Some(Operation { id, kind, shard, session, slot, epoch, asked, backlog, replaces, form, share })
    }
}

impl OperationState {
    /// To the bytes of a state slot.
    pub fn to_bytes(&self) -> [u8; STATE_SIZE] {
        let mut out = Pack::new();
        out.u64(self.request);
        out.u8(self.phase as u8);
        out.socket_addr(self.local);
        out.socket_addr(self.remote);
        out.finish()
    }

    fn from_bytes(bytes: &[u8; STATE_SIZE]) -> Option<OperationState> {
        let mut from = Unpack::new(bytes);
        let request = from.u64();
        let phase = match from.u8() {
            1 => OperationPhase::Intended,
            2 => OperationPhase::Done,
            3 => OperationPhase::Withdrawn,
            _ => return None,
        };
        Some(OperationState { phase, request, local: from.socket_addr(), remote: from.socket_addr() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there_and_back(opening: [u8; OPENING_SIZE], state: [u8; STATE_SIZE]) -> Option<Record> {
        Record::from_image(&Image { serial: 0, opening, agreed: None, state })
    }

    #[test]
    fn every_record_comes_back_as_it_was_written() {
        let counters = Counters { next_op: OpId(u64::MAX), next_session: SessionId(7) };
        assert_eq!(
            there_and_back(Counters::opening(), counters.to_bytes()),
            Some(Record::Counters(counters))
        );

        let geometry = Geometry { shards: 2, active: 3, passive: 4, tx_pages: 5, rx_pages: 6 };
        let session = Session { id: SessionId(9), uid: 1000, pid: 77, geometry };
        let local: SocketAddr = "[2001:db8::1]:65535".parse().expect("an address");
        let (slot, epoch) = (SlotIndex(11), Epoch(12));
        for outcome in
            [Outcome::Session, Outcome::Errno(98), Outcome::Socket { slot, epoch, shard: 1, local }]
        {
            let state = SessionState { phase: SessionPhase::Ending, request: 1 << 40, outcome };
            let record = Record::Session(session, state);
            assert_eq!(there_and_back(session.to_bytes(), state.to_bytes()), Some(record));
        }

        let remote: SocketAddr = "192.0.2.1:80".parse().expect("an address");
        let operation = Operation {
            id: OpId(1 << 33),
            kind: Kind::Listen,
            shard: 1,
            session: SessionId(9),
            slot,
            epoch,
            asked: local,
            backlog: 128,
            replaces: OpId(3),
            form: Form::Raw { protocol: 89 },
            share: Share { address: true, port: false },
        };
        let state = OperationState { phase: OperationPhase::Intended, request: 4, local, remote };
        let record = Record::Operation(operation, state);
        assert_eq!(there_and_back(operation.to_bytes(), state.to_bytes()), Some(record));
    }

    #[test]
    fn what_no_binary_wrote_is_not_read() {
        assert_eq!(there_and_back([0; OPENING_SIZE], [0; STATE_SIZE]), None);
        assert_eq!(there_and_back([9; OPENING_SIZE], [9; STATE_SIZE]), None);
        let impossible = Session {
            id: SessionId(1),
            uid: 0,
            pid: 0,
            geometry: Geometry { shards: 0, active: 0, passive: 0, tx_pages: 0, rx_pages: 0 },
        };
        let state = SessionState { phase: SessionPhase::Live, request: 1, outcome: Outcome::Session };
        assert_eq!(there_and_back(impossible.to_bytes(), state.to_bytes()), None);
    }
}
