//! A device in memory for the tests of the datapath: one queue each way, and a world behind it that the
//! test plays.

use nicd::counts::{Count, Counts};
use nicd::nic::{Capabilities, Frame, Nic, Received, Slab, Transmitted};
use nicd::stock::Stock;
use proto::Instant;
use proto::nic::slab::PageIndex;
use proto::shm::Memory;
use proto::shm::heap::HeapMemory;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;

pub type Shared = Rc<HeapMemory>;

/// The world behind the device.
#[derive(Default)]
pub struct Cable {
    pub inbound: VecDeque<Vec<u8>>,
    pub outbound: Vec<Vec<u8>>,
    /// Takes no frame.
    pub busy: bool,
    /// Frames that it takes before it is busy.
    pub room: Option<usize>,
    /// Shows the next frame before it is received.
    pub shows: bool,
    /// Keeps the pages of what it sends, until the test gives them back.
    pub holds: bool,
    /// Sent, pages not given back yet.
    pub sending: Vec<(u16, PageIndex)>,
    pub done: Vec<(u16, PageIndex)>,
}

pub struct Bench {
    cable: Rc<RefCell<Cable>>,
    stock: Stock,
    null: OwnedFd,
}

impl Bench {
    pub fn new(cable: Rc<RefCell<Cable>>) -> Bench {
        let null = std::fs::File::open("/dev/null").expect("a null device").into();
        Bench { cable, stock: Stock::default(), null }
    }
}

impl Nic<Shared> for Bench {
    fn capabilities(&self) -> Capabilities {
        Capabilities { driver: "bench", features: 0, carrier: true }
    }
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.null.as_fd()
    }
    fn fill(&mut self, slab: &Slab<Shared>, page: PageIndex) {
        self.stock.put(slab, page);
    }
    fn pages(&mut self, slab: &Slab<Shared>, frame: &mut Frame, len: usize) -> bool {
        self.stock.take_exactly(slab, frame, len)
    }
    fn peek(&mut self, head: &mut [u8]) -> usize {
        let cable = self.cable.borrow();
        let Some(next) = cable.inbound.front().filter(|_| cable.shows) else { return 0 };
        let len = next.len().min(head.len());
        head[..len].copy_from_slice(&next[..len]);
        len
    }
    fn receive(
        &mut self,
        slab: &Slab<Shared>,
        frame: &mut Frame,
        _: Instant,
        _: &mut Counts,
    ) -> io::Result<Received> {
        let mut cable = self.cable.borrow_mut();
        let Some(next) = cable.inbound.front() else { return Ok(Received::Nothing) };
        if !self.stock.take_exactly(slab, frame, next.len()) {
            return Ok(Received::NoPages);
        }
        let mut at = 0;
        for piece in frame.pieces() {
            let (to, len) = slab.piece(piece);
            slab.memory.write(to, &next[at..at + len]);
            at += len;
        }
        cable.inbound.pop_front();
        Ok(Received::Frame)
    }
    fn transmit(
        &mut self,
        slab: &Slab<Shared>,
        frame: &Frame,
        _: Instant,
        counts: &mut Counts,
    ) -> io::Result<Transmitted> {
        let mut cable = self.cable.borrow_mut();
        if cable.busy || cable.room == Some(0) {
            return Ok(Transmitted::Busy);
        }
        cable.room = cable.room.map(|room| room - 1);
        let mut bytes = vec![0; frame.len()];
        slab.read(frame, 0, &mut bytes);
        let pages = frame.pieces().iter().map(|piece| (slab.shard, piece.page));
        match cable.holds {
            true => cable.sending.extend(pages),
            false => cable.done.extend(pages),
        }
        cable.outbound.push(bytes);
        counts.count(Count::TxFrames);
        Ok(Transmitted::Taken)
    }
    fn complete(&mut self) -> Option<(u16, PageIndex)> {
        self.cable.borrow_mut().done.pop()
    }
    fn reset(&mut self, shard: u16) -> io::Result<()> {
        self.stock.clear(shard);
        let mut cable = self.cable.borrow_mut();
        cable.sending.retain(|(whose, _)| *whose != shard);
        cable.done.retain(|(whose, _)| *whose != shard);
        Ok(())
    }
    fn poll(&mut self, _: Instant, _: &mut Counts) -> io::Result<()> {
        Ok(())
    }
    fn deadline(&self) -> Option<Instant> {
        None
    }
    fn may_sleep(&mut self, _takes: u64) -> bool {
        true
    }
}
