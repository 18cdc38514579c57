//! What sockd asks of a netd, and what it answers (INV-T9): slots of two rings.
//!
//! The registry is the intent, the connection table the outcome. An operation may be asked again
//! after a restart of either side; netd answers from the record when it has done it already.

use crate::form::{Form, Share};
use crate::id::{Epoch, OpId, SessionId, SlotIndex};
use crate::ring::spsc::{Consumer, Place, Producer};
use crate::shm::Memory;
use core::net::SocketAddr;
use serde::{Deserialize, Serialize};

/// Layout version; changes with the place or meaning of anything here.
pub const LAYOUT: u32 = 3;

/// Bytes of a ring slot; an encoded command or answer fits.
pub const SLOT_SIZE: usize = 128;
/// Slots of each ring.
pub const RING_SLOTS: u32 = 1024;
const RING_BYTES: usize = Place::bytes(RING_SLOTS, SLOT_SIZE);
/// Size of the region in bytes.
pub const REGION_SIZE: usize = 2 * RING_BYTES;

/// The place of a socket in a session's arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SocketRef {
    /// The session.
    pub session: SessionId,
    /// The place.
    pub slot: SlotIndex,
    /// Which use of it.
    pub epoch: Epoch,
}

/// From sockd to netd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Open a connection. `local`'s port is chosen; its address may be unspecified.
    Connect {
        /// Which operation.
        op: OpId,
        /// Where the socket lies.
        socket: SocketRef,
        /// Our side.
        local: SocketAddr,
        /// The remote.
        remote: SocketAddr,
        /// The SYN waits for the client's first word.
        hold: bool,
    },
    /// Listen for connections.
    Listen {
        /// Which operation.
        op: OpId,
        /// Where the socket lies.
        socket: SocketRef,
        /// Our side; the address may be unspecified.
        local: SocketAddr,
        /// How many connections may wait for accept.
        backlog: u32,
        /// With whom it shares its port.
        share: Share,
    },
    /// Open a socket of datagrams, or (for one that is open) give it another remote.
    Datagram {
        /// Which operation.
        op: OpId,
        /// Where the socket lies.
        socket: SocketRef,
        /// Our side; the address may be unspecified.
        local: SocketAddr,
        /// The only remote; unspecified when it is not connected.
        remote: SocketAddr,
        /// What its datagrams are.
        form: Form,
        /// With whom it shares its port.
        share: Share,
    },
    /// Close a socket as if its client had done it: another shard could not open its part. Answered by
    /// [`Answer::Released`], also when there is nothing to close.
    Withdraw {
        /// The operation that opened it.
        op: OpId,
        /// Where the socket lies.
        socket: SocketRef,
    },
    /// The client is gone: close its sockets as a kernel would, then let go of the arena.
    EndSession {
        /// Which operation.
        op: OpId,
        /// The session.
        session: SessionId,
    },
}

impl Command {
    /// The session that it is about.
    pub const fn session(&self) -> SessionId {
        match self {
            Command::Connect { socket, .. }
            | Command::Listen { socket, .. }
            | Command::Datagram { socket, .. }
            | Command::Withdraw { socket, .. } => socket.session,
            Command::EndSession { session, .. } => *session,
        }
    }
}

/// From netd to sockd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Done: the record says so.
    Done {
        /// Which operation.
        op: OpId,
        /// Our side, with the address that was chosen.
        local: SocketAddr,
    },
    /// Not done, nothing remains of it.
    Failed {
        /// Which operation.
        op: OpId,
        /// errno.
        errno: u32,
    },
    /// Not done, nothing remains of it: between these two ends the connection belongs to another shard.
    Elsewhere {
        /// Which operation.
        op: OpId,
        /// Our side, with the address that would be chosen.
        local: SocketAddr,
    },
    /// The place of a socket that sockd gave out is free again.
    Released {
        /// The operation that opened it.
        op: OpId,
        /// Where it lay.
        socket: SocketRef,
    },
    /// Nothing in this shard refers to the session any more.
    SessionGone {
        /// The session.
        session: SessionId,
    },
    /// The client broke a rule of its arena: end its session. The rule stands in netd's flight
    /// recorder.
    SessionCorrupt {
        /// The session.
        session: SessionId,
    },
}

/// A slot that does not decode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an operation that does not decode")]
pub struct BadSlot;

fn options() -> impl bincode::Options {
    use bincode::Options;
    bincode::DefaultOptions::new().with_fixint_encoding().with_limit(SLOT_SIZE as u64 - 2)
}

/// To the bytes of a slot: length, then bincode.
pub fn encode<T: Serialize>(value: &T) -> [u8; SLOT_SIZE] {
    use bincode::Options;
    let mut slot = [0; SLOT_SIZE];
    let mut rest = &mut slot[2..];
    options().serialize_into(&mut rest, value).expect("every operation fits a slot");
    let len = SLOT_SIZE - 2 - rest.len();
    slot[..2].copy_from_slice(&(len as u16).to_le_bytes());
    slot
}

/// From the bytes of a slot.
///
/// # Errors
/// [`BadSlot`] on anything that [`encode`] does not write.
pub fn decode<'a, T: Deserialize<'a>>(slot: &'a [u8; SLOT_SIZE]) -> Result<T, BadSlot> {
    use bincode::Options;
    let len = usize::from(u16::from_le_bytes([slot[0], slot[1]]));
    let bytes = slot[2..].get(..len).ok_or(BadSlot)?;
    options().reject_trailing_bytes().deserialize(bytes).map_err(|_| BadSlot)
}

/// The commands' ring, producing end (sockd).
pub type CommandTx<M> = Producer<M, SLOT_SIZE>;
/// The commands' ring, consuming end (netd).
pub type CommandRx<M> = Consumer<M, SLOT_SIZE>;

/// sockd's ends of the rings in a zeroed region: commands out, answers in.
pub fn sockd_ends<M: Memory + Clone>(memory: M) -> (Producer<M, SLOT_SIZE>, Consumer<M, SLOT_SIZE>) {
    (
        Producer::new(memory.clone(), Place::new(0, RING_SLOTS)),
        Consumer::new(memory, Place::new(RING_BYTES, RING_SLOTS)),
    )
}

/// netd's ends of the rings in a zeroed region: commands in, answers out.
pub fn netd_ends<M: Memory + Clone>(memory: M) -> (Consumer<M, SLOT_SIZE>, Producer<M, SLOT_SIZE>) {
    (
        Consumer::new(memory.clone(), Place::new(0, RING_SLOTS)),
        Producer::new(memory, Place::new(RING_BYTES, RING_SLOTS)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_command_fits() {
        let v6: SocketAddr = "[2001:db8:ffff:ffff:ffff:ffff:ffff:ffff]:65535".parse().expect("an address");
        let socket =
            SocketRef { session: SessionId(u32::MAX), slot: SlotIndex(u32::MAX), epoch: Epoch(u32::MAX) };
        let command =
            Command::Listen { op: OpId(u64::MAX), socket, local: v6, backlog: u32::MAX, share: Share::NONE };
        assert_eq!(decode(&encode(&command)), Ok(command));
        let command = Command::Connect { op: OpId(u64::MAX), socket, local: v6, remote: v6, hold: true };
        assert_eq!(decode(&encode(&command)), Ok(command));
        let form = Form::Packet { ethertype: Form::EVERY_TYPE, cooked: true };
        let share = Share { address: true, port: true };
        let command = Command::Datagram { op: OpId(u64::MAX), socket, local: v6, remote: v6, form, share };
        assert_eq!(decode(&encode(&command)), Ok(command));
    }

    #[test]
    fn garbage_is_refused() {
        assert_eq!(decode::<Command>(&[0xff; SLOT_SIZE]), Err(BadSlot));
        assert_eq!(decode::<Command>(&[0; SLOT_SIZE]), Err(BadSlot));
    }
}
