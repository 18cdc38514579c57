//! A TAP device: the kernel of this machine is the other end of the cable.
//!
//! A frame is read straight into slab pages, with its virtio header beside them: [small, large …] so
//! that a small frame costs a small page and a large one few large ones. A write is one record too.
//! The kernel takes a frame at once, so its pages are done with immediately.
//!
//! The descriptor lives in the vault: the device, its addresses and what it has queued outlive this
//! process. Opening one is [`open`]; adopting one is [`configure`] and [`Tap::new`].

mod netlink;
mod open;

pub use open::{FEATURES, configure, open};

use crate::counts::{Count, Counts};
use crate::nic::{
    Capabilities, Frame, HEADER_MAX, HEADER_MIN, Nic, Received, SUPER_FRAME_MAX, Slab, Transmitted,
};
use crate::stock::Stock;
use crate::virtio_header;
pub use crate::virtio_header::VIRTIO_HEADER_SIZE;
use proto::Instant;
use proto::control::notices::feature;
use proto::nic::slab::PageIndex;
use proto::shm::region::Region;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use std::io;
use std::sync::Arc;

/// Features that need a super-frame to fit.
const SUPER_FRAMES: u32 = feature::TSO4 | feature::TSO6 | feature::RX_COALESCE;

/// A TAP device.
#[derive(Debug)]
pub struct Tap {
    device: OwnedFd,
    features: u32,
    /// The longest frame that may come.
    frame_max: usize,
    stock: Stock,
    done: Vec<(u16, PageIndex)>,
}

impl Tap {
    /// Over an open device, whose other side has `mtu` and gives frames as `features` (bits of
    /// [`feature`]) allow.
    pub fn new(device: OwnedFd, mtu: u16, features: u32) -> Self {
        let frame_max = match features & SUPER_FRAMES {
            0 => usize::from(mtu) + HEADER_MAX,
            _ => SUPER_FRAME_MAX,
        };
        Tap { device, features, frame_max, stock: Stock::default(), done: Vec::new() }
    }
}

impl Nic<Arc<Region>> for Tap {
    fn capabilities(&self) -> Capabilities {
        Capabilities { driver: "tap", features: self.features, carrier: true }
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }

    fn fill(&mut self, slab: &Slab<Arc<Region>>, page: PageIndex) {
        self.stock.put(slab, page);
    }

    fn pages(&mut self, slab: &Slab<Arc<Region>>, frame: &mut Frame, len: usize) -> bool {
        self.stock.take_exactly(slab, frame, len)
    }

    fn receive(
        &mut self,
        slab: &Slab<Arc<Region>>,
        frame: &mut Frame,
        _: Instant,
        counts: &mut Counts,
    ) -> io::Result<Received> {
        // One byte more than may come: a frame that fills it was cut off.
        if !self.stock.take(slab, frame, self.frame_max + 1) {
            return Ok(Received::NoPages);
        }
        let places = &slab.places(frame)[..frame.pieces().len()];
        let mut head = [0; VIRTIO_HEADER_SIZE];
        let read = loop {
            match slab.memory.read_vectored(self.device.as_fd(), &mut head, places) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                outcome => break outcome,
            }
        };
        let len = match read {
            Ok(len) => len.saturating_sub(VIRTIO_HEADER_SIZE),
            Err(error) => {
                self.stock.take_back(slab, frame);
                return match error.kind() {
                    io::ErrorKind::WouldBlock => Ok(Received::Nothing),
                    _ => Err(error),
                };
            }
        };
        let whole = (HEADER_MIN..=self.frame_max).contains(&len);
        let sound = whole && {
            self.stock.cut(slab, frame, len);
            virtio_header::decode(&head, len, frame.first_mut().expect("a frame has bytes"))
        };
        if sound {
            return Ok(Received::Frame);
        }
        counts.count(Count::RxError);
        self.stock.take_back(slab, frame);
        Ok(Received::Dropped)
    }

    fn transmit(
        &mut self,
        slab: &Slab<Arc<Region>>,
        frame: &Frame,
        _: Instant,
        counts: &mut Counts,
    ) -> io::Result<Transmitted> {
        let head = virtio_header::of_frame(slab, frame);
        let places = &slab.places(frame)[..frame.pieces().len()];
        let written = loop {
            match slab.memory.write_vectored(self.device.as_fd(), &head, places) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                outcome => break outcome,
            }
        };
        match written {
            Ok(_) => {
                counts.count(Count::TxFrames);
                counts.add(Count::TxBytes, frame.len() as u64);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Transmitted::Busy),
            Err(error) => match Errno::from_io_error(&error) {
                // The descriptor has no device any more.
                Some(Errno::BADFD | Errno::NODEV) => return Err(error),
                // The interface is down, or the kernel has no memory or takes no such frame.
                _ => counts.count(Count::TxError),
            },
        }
        self.done.extend(frame.pieces().iter().map(|piece| (slab.shard, piece.page)));
        Ok(Transmitted::Taken)
    }

    fn complete(&mut self) -> Option<(u16, PageIndex)> {
        self.done.pop()
    }

    fn reset(&mut self, shard: u16) -> io::Result<()> {
        self.stock.clear(shard);
        self.done.retain(|(whose, _)| *whose != shard);
        Ok(())
    }

    fn poll(&mut self, _: Instant, _: &mut Counts) -> io::Result<()> {
        Ok(())
    }

    fn deadline(&self) -> Option<Instant> {
        None
    }

    fn may_sleep(&mut self, _takes: u64) -> bool {
        // The kernel says when a frame comes after the read that found none.
        true
    }
}
