//! A cable in shared memory between two groups, without any privilege.
//!
//! [`link`] finds the other end by a path and shares the memory of a [`cable`] with it; a death of
//! either nicd is a link flap. [`faults`] are what a bad network does to frames, decided by a seeded
//! generator on the sending side.

pub mod cable;
pub mod faults;
pub mod link;

use crate::counts::{Count, Counts};
use crate::nic::{
    Capabilities, Frame, HEADER_MAX, HEADER_MIN, Nic, Received, SUPER_FRAME_MAX, Slab, Transmitted,
};
use crate::stock::Stock;
use cable::Cable;
use core::time::Duration;
use faults::Faults;
use link::{Link, News};
use proto::control::messages::WireFaults;
use proto::control::notices::feature;
use proto::nic::slab::PageIndex;
use proto::shm::region::Region;
use proto::{Instant, PeerCorrupt};
use rustix::fd::BorrowedFd;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// How long frames wait for a carrier that went, before they are dropped: the other nicd is being
/// restarted. Below the 200 ms after which a Linux remote retransmits.
const GRACE: Duration = Duration::from_millis(150);

/// What a wire without faults does: between two groups on one machine nothing needs to be summed or cut.
const FEATURES: u32 =
    feature::TX_CHECKSUM | feature::RX_CHECKSUM | feature::TSO4 | feature::TSO6 | feature::RX_COALESCE;

/// One end of a wire.
#[derive(Debug)]
pub struct Wire {
    link: Link,
    cable: Option<Cable<Arc<Region>>>,
    /// Until when frames wait for a carrier.
    grace: Instant,
    /// The last frame was refused for want of a carrier.
    waits: bool,
    /// Held frames wait for room on the cable.
    full: bool,
    faults: Faults,
    /// What netd may leave to be done, or not done, on the cable.
    features: u32,
    frame_max: usize,
    stock: Stock,
    done: Vec<(u16, PageIndex)>,
}

impl Wire {
    /// The end at `path`; the other one may come later. With `offload` frames cross the cable as netd
    /// made them: checksums that nobody needs are left out, and super-frames stay whole. Whatever this end
    /// does, it takes both from the other one. Faults fall upon frames as on a real cable, so that there is
    /// no offload with them.
    ///
    /// # Errors
    /// When there can be no socket at that path.
    pub fn new(path: &Path, mtu: u16, faults: WireFaults, offload: bool, now: Instant) -> io::Result<Wire> {
        let faults = Faults::new(faults);
        Ok(Wire {
            features: if offload && !faults.any() { FEATURES } else { 0 },
            link: Link::new(path, now)?,
            cable: None,
            grace: now + GRACE,
            waits: false,
            full: false,
            faults,
            frame_max: usize::from(mtu) + HEADER_MAX,
            stock: Stock::default(),
            done: Vec::new(),
        })
    }

    fn lose_carrier(&mut self, now: Instant, counts: &mut Counts) {
        if self.cable.take().is_some() {
            self.grace = now + GRACE;
            counts.count(Count::CarrierDown);
        }
    }

    /// The other end broke a rule: it is left alone for a while.
    fn give_up(&mut self, now: Instant, counts: &mut Counts) {
        counts.count(Count::WirePeerCorrupt);
        self.lose_carrier(now, counts);
        self.link.hang_up(now);
    }

    /// Held frames whose time has come go onto the cable, as far as it takes them.
    fn release_held(&mut self, now: Instant, counts: &mut Counts) {
        let Some(cable) = &mut self.cable else { return };
        self.full = false;
        while let Some(bytes) = self.faults.due(now) {
            match cable.send_bytes(bytes) {
                Ok(true) => {
                    counts.count(Count::TxFrames);
                    counts.add(Count::TxBytes, bytes.len() as u64);
                    self.faults.forget_first();
                }
                Ok(false) => {
                    self.full = true;
                    return;
                }
                Err(_) => return self.give_up(now, counts),
            }
        }
    }

    /// Takes a frame over, to let faults decide what becomes of it; false when too many are held.
    fn hold(&mut self, slab: &Slab<Arc<Region>>, frame: &Frame, now: Instant, counts: &mut Counts) -> bool {
        use proto::shm::Memory;
        if self.faults.is_full() {
            return false;
        }
        let mut bytes = vec![0; frame.len()];
        let mut at = 0;
        for piece in frame.pieces() {
            let (from, len) = slab.piece(piece);
            slab.memory.read(from, &mut bytes[at..at + len]);
            at += len;
        }
        self.faults.take(bytes, now, counts);
        self.release_held(now, counts);
        true
    }

    fn receive_from_cable(
        &mut self,
        slab: &Slab<Arc<Region>>,
        frame: &mut Frame,
        counts: &mut Counts,
    ) -> Result<Received, PeerCorrupt> {
        let Some(cable) = &mut self.cable else { return Ok(Received::Nothing) };
        let Some((len, marks)) = cable.peek()? else { return Ok(Received::Nothing) };
        let longest = if marks.is_super_frame() { SUPER_FRAME_MAX } else { self.frame_max };
        if !(HEADER_MIN..=longest).contains(&len) {
            cable.skip()?;
            counts.count(Count::RxError);
            return Ok(Received::Dropped);
        }
        if !self.stock.take(slab, frame, len) {
            return Ok(Received::NoPages);
        }
        self.stock.cut(slab, frame, len);
        match cable.receive(slab, frame) {
            Ok(()) => Ok(Received::Frame),
            Err(corrupt) => {
                self.stock.take_back(slab, frame);
                Err(corrupt)
            }
        }
    }
}

impl Nic<Arc<Region>> for Wire {
    fn capabilities(&self) -> Capabilities {
        Capabilities { driver: "wire", features: self.features, carrier: self.cable.is_some() }
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        self.link.descriptor()
    }

    fn fill(&mut self, slab: &Slab<Arc<Region>>, page: PageIndex) {
        self.stock.put(slab, page);
    }

    fn pages(&mut self, slab: &Slab<Arc<Region>>, frame: &mut Frame, len: usize) -> bool {
        self.stock.take_exactly(slab, frame, len)
    }

    fn peek(&mut self, head: &mut [u8]) -> usize {
        // What is wrong will be said when it is received.
        self.cable.as_mut().and_then(|cable| cable.peek_head(head).ok()).unwrap_or(0)
    }

    fn receive(
        &mut self,
        slab: &Slab<Arc<Region>>,
        frame: &mut Frame,
        now: Instant,
        counts: &mut Counts,
    ) -> io::Result<Received> {
        Ok(self.receive_from_cable(slab, frame, counts).unwrap_or_else(|_| {
            self.give_up(now, counts);
            Received::Nothing
        }))
    }

    fn transmit(
        &mut self,
        slab: &Slab<Arc<Region>>,
        frame: &Frame,
        now: Instant,
        counts: &mut Counts,
    ) -> io::Result<Transmitted> {
        let Some(cable) = &mut self.cable else {
            self.waits = now < self.grace;
            if self.waits {
                return Ok(Transmitted::Busy);
            }
            counts.count(Count::TxNoCarrier);
            self.done.extend(frame.pieces().iter().map(|piece| (slab.shard, piece.page)));
            return Ok(Transmitted::Taken);
        };
        let taken = if self.faults.any() {
            self.hold(slab, frame, now, counts)
        } else {
            match cable.send(slab, frame) {
                Ok(taken) => {
                    counts.add(Count::TxFrames, u64::from(taken));
                    counts.add(Count::TxBytes, if taken { frame.len() as u64 } else { 0 });
                    taken
                }
                Err(_) => {
                    self.give_up(now, counts);
                    false
                }
            }
        };
        if !taken {
            return Ok(Transmitted::Busy);
        }
        self.done.extend(frame.pieces().iter().map(|piece| (slab.shard, piece.page)));
        Ok(Transmitted::Taken)
    }

    fn flush(&mut self, _: Instant, _: &mut Counts) {
        let Some(cable) = &mut self.cable else { return };
        if cable.publish_and_release() {
            self.link.wake_peer();
        }
    }

    fn complete(&mut self) -> Option<(u16, PageIndex)> {
        self.done.pop()
    }

    fn reset(&mut self, shard: u16) -> io::Result<()> {
        self.stock.clear(shard);
        self.done.retain(|(whose, _)| *whose != shard);
        self.waits = false;
        Ok(())
    }

    fn poll(&mut self, now: Instant, counts: &mut Counts) -> io::Result<()> {
        match self.link.poll(now)? {
            News::None => {}
            News::Up(memory, side) => {
                self.lose_carrier(now, counts);
                self.cable = Some(Cable::new(memory, side));
                counts.count(Count::CarrierUp);
            }
            News::Down => self.lose_carrier(now, counts),
        }
        self.waits &= now < self.grace;
        self.release_held(now, counts);
        self.flush(now, counts);
        Ok(())
    }

    fn deadline(&self) -> Option<Instant> {
        let held = if self.full || self.cable.is_none() { None } else { self.faults.next_due() };
        let grace = (self.waits && self.cable.is_none()).then_some(self.grace);
        [self.link.deadline(), held, grace].into_iter().flatten().min()
    }

    fn may_sleep(&mut self, _takes: u64) -> bool {
        match self.cable.as_mut().map(Cable::arm) {
            // What is wrong will be said when it is received.
            Some(Err(_)) => false,
            Some(Ok(asleep)) => asleep,
            None => true,
        }
    }
}
