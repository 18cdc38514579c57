//! How large the receive window becomes: dynamic right-sizing (Fisk and Feng, as Linux's
//! tcp_rcv_space_adjust), under a limit of memory.
//!
//! A connection begins with a small window. As often as a round trip passes, what its client has consumed
//! meanwhile is measured: the window becomes twice that, and more while the remote is in slow start, so
//! that it is never what limits a remote whose data is read. The pages behind all windows are the
//! session's, which are few: the stack says when they run short ([`Pressure`]). Soft state: a successor
//! begins with what was promised.

use core::time::Duration;

use proto::time::Instant;

use super::control_block::ControlBlock;
use super::seq::Position;

/// Octets that a receive window has at first: half of Linux's tcp_rmem, as tcp_adv_win_scale halves it.
pub const RECEIVE_FIRST: u32 = 64 << 10;

/// Octets that a window keeps under pressure: some segments.
const RECEIVE_LEAST: u32 = 16 << 10;

/// Segments of an initial window (RFC 6928).
const FIRST_SEGMENTS: u32 = 10;

/// A round trip that nobody has measured yet.
const RTT_UNKNOWN: Duration = Duration::from_millis(100);

/// How short the memory is that received data lies in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Pressure {
    /// Windows grow.
    #[default]
    None,
    /// More than three quarters are in use: windows stay as they are.
    Some,
    /// Almost all is in use: windows shrink as what was promised is used up; nothing is withdrawn.
    High,
}

/// What was measured.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Autotune {
    /// When this round trip began.
    since: Instant,
    /// What had been consumed then.
    consumed: Position,
    /// The most that was consumed in a round trip.
    space: u32,
}

impl ControlBlock {
    /// The client has consumed: the window follows. To be called behind [`Self::on_consumed`]; not where
    /// the client has set SO_RCVBUF.
    pub fn autotune(&mut self, now: Instant, most: u32, pressure: Pressure) {
        let consumed = self.receive.consumed;
        if pressure == Pressure::High {
            // INV-T4: the edge stays; what is consumed opens nothing new for a while.
            let promised = self.receive.edge.since(consumed);
            let least = u32::try_from(promised).unwrap_or(u32::MAX).max(RECEIVE_LEAST);
            self.receive.limit = self.receive.limit.min(least);
            return;
        }
        if consumed == Position::FIRST {
            return;
        }
        // As Linux: what an initial window brings is no news.
        let first = FIRST_SEGMENTS * self.full_receive_segment();
        let tune = self.autotune.get_or_insert_with(|| {
            Box::new(Autotune { since: Instant::ZERO, consumed: Position::FIRST, space: first })
        });
        let rtt = self.rtt.srtt().unwrap_or(RTT_UNKNOWN);
        if now.since(tune.since) < rtt {
            return;
        }
        let copied = u32::try_from(consumed.since(tune.consumed)).unwrap_or(u32::MAX);
        let before = tune.space;
        **tune = Autotune { since: now, consumed, space: before.max(copied) };
        if copied <= before || pressure != Pressure::None {
            return;
        }
        // Linux: 2 * copied + 16 segments, and as much again as the remote has become faster by.
        let base = u64::from(copied) * 2 + 16 * u64::from(self.full_receive_segment());
        let faster = base * u64::from(copied - before) / u64::from(before.max(1));
        let wanted = (base + 2 * faster).min(most.into()) as u32;
        if wanted > self.receive.limit {
            self.set_receive_limit(wanted);
        }
    }
}
