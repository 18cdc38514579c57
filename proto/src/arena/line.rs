//! The two cache lines of a socket: what the client says, what netd says.
//!
//! Each line is written by one side only. Cursors only grow; flags are levels, never events. A
//! side writes its cursors first and its flags last, and reads the other's flags first: who sees
//! "end" also sees the final cursor. Lines of an earlier [`Epoch`] are not looked at.
//!
//! A note in a ring ("look at this socket") is outstanding while the notifier's `seq` differs from
//! the other side's `ack`; so there is at most one per socket. The receiver of a note sets `ack`
//! *before* it reads the line, with a full fence between; the notifier writes its line first. The
//! four counts of notes go on from one use of a place to the next; only cursors and flags start anew.

use super::Geometry;
use crate::id::{Epoch, SlotIndex};
use crate::shm::Memory;
use core::sync::atomic::Ordering;

const CLIENT_AT: usize = 0;
const STACK_AT: usize = 64;
const _: () = assert!(STACK_AT + 64 == super::LINES_SIZE);

/// What a client wants of a socket, in [`ClientLine::flags`].
pub mod want {
    /// No more will be written: send what was written, then FIN.
    pub const SHUT_WR: u32 = 1;
    /// Nothing more will be read.
    pub const SHUT_RD: u32 = 1 << 1;
    /// The socket was closed.
    pub const CLOSE: u32 = 1 << 2;
    /// The socket was closed with linger 0: reset.
    pub const ABORT: u32 = 1 << 3;
    /// TCP_NODELAY.
    pub const NODELAY: u32 = 1 << 4;
    /// TCP_CORK.
    pub const CORK: u32 = 1 << 5;
    /// SO_KEEPALIVE, with the times in the line.
    pub const KEEPALIVE: u32 = 1 << 6;
    /// TCP_QUICKACK.
    pub const QUICKACK: u32 = 1 << 7;
    /// SO_BROADCAST: datagrams may go to all hosts of a network.
    pub const BROADCAST: u32 = 1 << 8;
    /// `urgent` of the line counts: it names the end of urgent data that was written (RFC 9293 §3.8.5).
    pub const URGENT: u32 = 1 << 9;
    /// Data may go in the own SYN, or come in those of a listener's callers (RFC 7413).
    pub const FASTOPEN: u32 = 1 << 10;
    /// Of a listener that was opened without a backlog, to have its port: from here on it listens, with the
    /// [backlog](super::ClientLine::backlog) of the line.
    pub const LISTEN: u32 = 1 << 12;
    /// Of a socket of datagrams: there are [wishes](super::super::wishes), where [`ClientLine::wishes`](super::ClientLine::wishes) says.
    pub const WISHES: u32 = 1 << 11;
}

/// What netd says of a socket, in [`StackLine::flags`].
pub mod level {
    /// Connected, listening or bound: data may move.
    pub const OPEN: u32 = 1;
    /// The remote has finished: `received` is final.
    pub const END: u32 = 1 << 1;
    /// The socket failed; `error` says how. Data before it may still be read.
    pub const ERROR: u32 = 1 << 2;
    /// Nothing more will be sent: our FIN was acknowledged, or the connection is over.
    pub const SENT: u32 = 1 << 3;
    /// netd has let go of this use of the place: its pages belong to the client again.
    pub const GONE: u32 = 1 << 4;
    /// `urgent` of the line counts: it names the octet of the remote that is urgent.
    pub const URGENT: u32 = 1 << 5;
}

/// The client's line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClientLine {
    /// Bytes written to the send stream so far.
    pub written: u64,
    /// Bytes consumed from the receive stream so far.
    pub consumed: u64,
    /// Which use of the place this line speaks of.
    pub epoch: Epoch,
    /// Levels, see [`want`].
    pub flags: u32,
    /// Counts the client's notes to netd.
    pub kick_seq: u32,
    /// The last note of netd that the client has taken up.
    pub event_ack: u32,
    /// TCP_KEEPIDLE in seconds; 0 is the default.
    pub keepalive_idle_s: u32,
    /// TCP_KEEPINTVL in seconds; 0 is the default.
    pub keepalive_interval_s: u32,
    /// TCP_KEEPCNT; 0 is the default.
    pub keepalive_count: u32,
    /// TCP_USER_TIMEOUT in milliseconds; 0 is the default.
    pub user_timeout_ms: u32,
    /// SO_RCVBUF in bytes; 0 leaves it to netd.
    pub rcvbuf: u32,
    /// The low half of the send stream's offset just behind the urgent octet, see [`want::URGENT`].
    pub urgent: u32,
    /// TCP_NOTSENT_LOWAT: bytes that may be written and not yet sent; 0 sets no limit.
    pub notsent_lowat: u32,
    /// TCP_MAXSEG in bytes (low half), 0 for none; TCP_CONGESTION (third byte), see [`congestion`].
    pub mss_congestion: u32,
}

impl ClientLine {
    /// Of a socket of datagrams, which has no urgent octets: the number of what is
    /// [wished](super::wishes), from 1 on, and its first page; 0 without any.
    pub const fn wishes(&self) -> (u32, u32) {
        if self.flags & want::WISHES != 0 { (self.notsent_lowat, self.urgent) } else { (0, 0) }
    }

    /// Says so.
    pub const fn set_wishes(&mut self, number: u32, page: u32) {
        self.flags |= want::WISHES;
        (self.notsent_lowat, self.urgent) = (number, page);
    }
}

impl ClientLine {
    /// Of a listener that had only its port before: how many connections may wait for accept, once it listens.
    pub const fn backlog(&self) -> Option<u32> {
        if self.flags & want::LISTEN != 0 { Some(self.notsent_lowat) } else { None }
    }

    /// Says so.
    pub const fn set_backlog(&mut self, backlog: u32) {
        self.flags |= want::LISTEN;
        self.notsent_lowat = backlog;
    }
}

impl StackLine {
    /// Of a socket of datagrams: how far its wishes are, [`Granted`](super::wishes::Granted).
    pub const fn wishes(&self) -> u32 {
        self.urgent
    }

    /// Says so.
    pub const fn set_wishes(&mut self, granted: u32) {
        self.urgent = granted;
    }
}

/// Numbers of the congestion control algorithms, in [`ClientLine::mss_congestion`].
pub mod congestion {
    /// What the stack's default is.
    pub const DEFAULT: u8 = 0;
    /// CUBIC (RFC 9438).
    pub const CUBIC: u8 = 1;
    /// NewReno (RFC 5681, RFC 6582).
    pub const RENO: u8 = 2;
    /// BBR.
    pub const BBR: u8 = 3;
}

/// netd's line. All of it follows from the socket's record, so recovery assigns it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StackLine {
    /// Bytes of the receive stream that may be read.
    pub received: u64,
    /// Bytes of the send stream that are acknowledged: their pages are free (committed, INV-T2).
    pub acked: u64,
    /// Which use of the place this line speaks of.
    pub epoch: Epoch,
    /// Levels, see [`level`].
    pub flags: u32,
    /// errno, when `flags` has [`level::ERROR`].
    pub error: u32,
    /// The last note of the client that netd has taken up.
    pub kick_ack: u32,
    /// Counts netd's notes to the client.
    pub event_seq: u32,
    /// Bytes that may be written beyond `acked`; at most [`super::WINDOW_MAX`].
    pub window: u32,
    /// Smoothed round-trip time in microseconds; 0 when unknown.
    pub srtt_us: u32,
    /// Its variation in microseconds.
    pub rttvar_us: u32,
    /// Congestion window in bytes.
    pub cwnd: u32,
    /// Segments retransmitted in the connection's life.
    pub retransmits: u32,
    /// Sending maximum segment size in bytes (low half), [`crate::hard::conns::TcpState`] (third byte).
    pub mss_state: u32,
    /// The low half of the receive stream's offset of the urgent octet, see [`level::URGENT`].
    pub urgent: u32,
}

/// The stream offset whose low half is `low` and that lies nearest to `near`.
pub const fn offset_near(low: u32, near: u64) -> u64 {
    let distance = low.wrapping_sub(near as u32) as i32;
    near.saturating_add_signed(distance as i64)
}

macro_rules! fields {
    ($line:ident at $base:expr; $($name:ident: $get:ident $set:ident $at:expr),* $(,)?) => {
        impl $line {
            /// Copies the line out: the epoch, then the flags, then the cursors. So a line that
            /// says a new epoch has the flags of it, not those of the use before.
            pub fn load<M: Memory>(memory: &M, geometry: &Geometry, slot: SlotIndex) -> $line {
                let at = geometry.lines_at(slot) + $base;
                // Acquire: pairs with the Release store of the epoch in `store`.
                let epoch = Epoch(memory.load_u32(at + EPOCH_AT, Ordering::Acquire));
                // Acquire: pairs with the Release store of the flags in `store`.
                let flags = memory.load_u32(at + FLAGS_AT, Ordering::Acquire);
                $line { flags, epoch, $($name: memory.$get(at + $at, Ordering::Acquire)),* }
            }

            /// Writes the line: the cursors and numbers, then the flags, then the epoch.
            pub fn store<M: Memory>(&self, memory: &M, geometry: &Geometry, slot: SlotIndex) {
                let at = geometry.lines_at(slot) + $base;
                $(memory.$set(at + $at, self.$name, Ordering::Relaxed);)*
                // Release: pairs with the Acquire load of the flags in `load`.
                memory.store_u32(at + FLAGS_AT, self.flags, Ordering::Release);
                memory.store_u32(at + EPOCH_AT, self.epoch.0, Ordering::Release);
            }
        }
    };
}

impl ClientLine {
    /// Writes `consumed` alone, where nothing else of the line has changed.
    #[inline]
    pub fn store_consumed<M: Memory>(&self, memory: &M, geometry: &Geometry, slot: SlotIndex) {
        memory.store_u64(geometry.lines_at(slot) + CONSUMED_AT, self.consumed, Ordering::Release);
    }

    /// Writes `written` alone, where nothing else of the line has changed.
    #[inline]
    pub fn store_written<M: Memory>(&self, memory: &M, geometry: &Geometry, slot: SlotIndex) {
        // Release: the payload is out before the cursor (INV-T2).
        memory.store_u64(geometry.lines_at(slot) + WRITTEN_AT, self.written, Ordering::Release);
    }
}

impl StackLine {
    /// Which use of the place netd's line speaks of; [`Epoch`] 0 where there was none yet.
    pub fn load_epoch<M: Memory>(memory: &M, geometry: &Geometry, slot: SlotIndex) -> Epoch {
        Epoch(memory.load_u32(geometry.lines_at(slot) + STACK_AT + EPOCH_AT, Ordering::Acquire))
    }
}

const EPOCH_AT: usize = 16;
const FLAGS_AT: usize = 20;
const WRITTEN_AT: usize = CLIENT_AT;
const CONSUMED_AT: usize = CLIENT_AT + 8;
const KICK_SEQ_AT: usize = CLIENT_AT + 24;
const EVENT_ACK_AT: usize = CLIENT_AT + 28;
const KICK_ACK_AT: usize = STACK_AT + 28;
const EVENT_SEQ_AT: usize = STACK_AT + 32;

fields!(ClientLine at CLIENT_AT;
    written: load_u64 store_u64 0,
    consumed: load_u64 store_u64 8,
    kick_seq: load_u32 store_u32 24,
    event_ack: load_u32 store_u32 28,
    keepalive_idle_s: load_u32 store_u32 32,
    keepalive_interval_s: load_u32 store_u32 36,
    keepalive_count: load_u32 store_u32 40,
    user_timeout_ms: load_u32 store_u32 44,
    rcvbuf: load_u32 store_u32 48,
    urgent: load_u32 store_u32 52,
    notsent_lowat: load_u32 store_u32 56,
    mss_congestion: load_u32 store_u32 60,
);

fields!(StackLine at STACK_AT;
    received: load_u64 store_u64 0,
    acked: load_u64 store_u64 8,
    error: load_u32 store_u32 24,
    kick_ack: load_u32 store_u32 28,
    event_seq: load_u32 store_u32 32,
    window: load_u32 store_u32 36,
    srtt_us: load_u32 store_u32 40,
    rttvar_us: load_u32 store_u32 44,
    cwnd: load_u32 store_u32 48,
    retransmits: load_u32 store_u32 52,
    mss_state: load_u32 store_u32 56,
    urgent: load_u32 store_u32 60,
);

/// One direction of notes about one socket: who notifies, and who takes up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notes {
    /// The client tells netd.
    Kick,
    /// netd tells the client.
    Event,
}

impl Notes {
    const fn offsets(self) -> (usize, usize) {
        match self {
            Notes::Kick => (KICK_SEQ_AT, KICK_ACK_AT),
            Notes::Event => (EVENT_SEQ_AT, EVENT_ACK_AT),
        }
    }

    /// For the notifier, after it wrote its line: counts one more note and returns `true` when it
    /// must be pushed; `false` when one is outstanding, which will do. `seq` is the notifier's
    /// private count.
    #[must_use = "the note must be pushed"]
    pub fn raise<M: Memory>(self, memory: &M, geometry: &Geometry, slot: SlotIndex, seq: &mut u32) -> bool {
        let (at, (seq_at, ack_at)) = (geometry.lines_at(slot), self.offsets());
        // The line must be out before `ack` is read: the receiver does it the other way round.
        memory.full_fence();
        if memory.load_u32(at + ack_at, Ordering::Acquire) != *seq {
            return false;
        }
        *seq = seq.wrapping_add(1);
        memory.store_u32(at + seq_at, *seq, Ordering::Release);
        true
    }

    /// Whether the notifier has given a note that the receiver has not taken up.
    pub fn outstanding<M: Memory>(self, memory: &M, geometry: &Geometry, slot: SlotIndex) -> bool {
        let (at, (seq_at, ack_at)) = (geometry.lines_at(slot), self.offsets());
        memory.load_u32(at + seq_at, Ordering::Acquire) != memory.load_u32(at + ack_at, Ordering::Acquire)
    }

    /// For the receiver, before it reads the line: takes up every note given so far. Returns the
    /// count that now stands in the receiver's line.
    pub fn take_up<M: Memory>(self, memory: &M, geometry: &Geometry, slot: SlotIndex) -> u32 {
        let (at, (seq_at, ack_at)) = (geometry.lines_at(slot), self.offsets());
        let seq = memory.load_u32(at + seq_at, Ordering::Acquire);
        memory.store_u32(at + ack_at, seq, Ordering::Release);
        // `ack` must be out before the line is read: the notifier does it the other way round.
        memory.full_fence();
        seq
    }
}
