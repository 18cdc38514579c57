//! What an event asks of the stack: values, no deeds.

use super::segment::SegmentOut;
use super::seq::SeqNum;
use crate::wire::drop_reason::DropReason;

/// Which part of the segment's payload belongs where in the receive stream. It is copied into the
/// arena before the record is committed (INV-T1). It lies inside the payload and inside the
/// advertised window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deliver {
    /// Where in the segment's payload it begins.
    pub payload_start: u32,
    /// Its octets, at least 1.
    pub len: u32,
    /// The stream offset of its first byte; above the received count when out of order.
    pub offset: u64,
}

/// Levels that changed. Each can also be asked of the block; these say where to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Events {
    /// The handshake is complete: writable, or to be offered to accept.
    pub established: bool,
    /// `received()` grew.
    pub received: bool,
    /// `acknowledged()` grew.
    pub acknowledged: bool,
    /// `remote_end()` is known now.
    pub remote_closed: bool,
    /// TIME-WAIT begins.
    pub time_wait: bool,
    /// CLOSED: look at `failure()`, then the block may go.
    pub closed: bool,
}

/// A newer SYN met a connection in TIME-WAIT: the old block is done (`events.closed`), and the same
/// segment goes to the listener, whose initial sequence number must not be below this one
/// (RFC 9293 §3.6.1, RFC 6191).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reopen {
    /// The least initial sequence number of the new incarnation.
    pub isn_min: SeqNum,
}

/// What came of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[must_use = "payload to copy, segments to send and levels to publish"]
pub struct Reaction {
    /// Payload to copy before the commit.
    pub deliver: Option<Deliver>,
    /// A RST, challenge ACK or the like that leaves after the commit beside `poll_output`. It may
    /// be lost without harm when there is no room for it.
    pub reply: Option<SegmentOut>,
    /// Levels that changed.
    pub events: Events,
    /// The segment, or what of it was not delivered, counts under this reason.
    pub dropped: Option<DropReason>,
    /// The segment is to be given to the listener.
    pub reopen: Option<Reopen>,
}

impl Reaction {
    /// Nothing came of it.
    pub fn none() -> Self {
        Reaction::default()
    }

    /// The segment was dropped without an answer.
    pub fn dropped(reason: DropReason) -> Self {
        Reaction { dropped: Some(reason), ..Reaction::default() }
    }

    /// The segment was dropped and answered.
    pub fn answered(reason: DropReason, reply: Option<SegmentOut>) -> Self {
        Reaction { dropped: Some(reason), reply, ..Reaction::default() }
    }
}
