//! The packet tap: while somebody captures, a copy of every frame that comes and goes.

use super::Mapped;
use core::time::Duration;
use proto::Instant;
use proto::capture::{OPEN_FOR_MS, SNAP_MAX, Way, Writer};
use proto::nic::packet_buf::PacketBuf;

/// The shard's tap.
pub(super) struct Tap {
    writer: Writer<Mapped>,
    scratch: Vec<u8>,
}

impl Tap {
    pub(super) fn attach(memory: Mapped) -> Self {
        Tap { writer: Writer::attach(memory), scratch: Vec::new() }
    }

    /// Somebody captures: copies from now on for a while.
    pub(super) fn open(&mut self, now: Instant) {
        self.writer.open_until(now + Duration::from_millis(OPEN_FOR_MS));
    }

    /// Whether frames are to be shown; asked once a round.
    pub(super) fn is_open(&self, now: Instant) -> bool {
        self.writer.is_open(now)
    }

    /// Copies a frame.
    pub(super) fn show(&mut self, now: Instant, way: Way, nic: u16, frame: &PacketBuf<Mapped>) {
        self.scratch.resize(frame.len().min(SNAP_MAX), 0);
        frame.read(0, &mut self.scratch);
        self.writer.record(now, way, nic, &[&self.scratch]);
    }
}
