//! The machine around a model: memory behind an IOMMU, interrupts, time.
//!
//! Accesses outside the windows, across pages of the IOMMU, or while bus mastering is off, reach nothing and are counted, as an IOMMU
//! counts them. A model that is told to be slow does its work only when [`Machine`]'s owner steps it.

use core::time::Duration;
use proto::shm::Memory;
use rustix::event::EventfdFlags;
use rustix::fd::OwnedFd;
use std::cell::{Cell, RefCell};
use std::io;

/// What a test makes a model do wrong.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// A reset never ends.
    pub stuck_reset: bool,
    /// Every register reads as all ones.
    pub gone: bool,
    /// Received lengths are reported as this.
    pub length: Option<u16>,
    /// No interrupt arrives.
    pub silent: bool,
    /// Every register access interrupts.
    pub nervous: bool,
    /// Work waits until it is stepped.
    pub slow: bool,
    /// Access to memory does not end.
    pub restless: bool,
}

/// What an IOMMU maps in one piece at least.
const IOMMU_PAGE: u64 = 4096;

#[derive(Debug)]
struct Window<M> {
    iova: u64,
    memory: M,
    len: usize,
}

/// What a model stands in.
#[derive(Debug)]
pub struct Machine<M> {
    windows: RefCell<Vec<Window<M>>>,
    /// Bus mastering is on.
    pub master: Cell<bool>,
    /// Accesses that the IOMMU stopped.
    pub violations: Cell<u64>,
    /// Interrupts that were sent.
    pub interrupts: Cell<u64>,
    /// Time, as far as drivers have waited.
    pub time: Cell<Duration>,
    /// Misbehaviour.
    pub faults: RefCell<Faults>,
    /// Raised by an interrupt.
    pub line: OwnedFd,
}

impl<M: Memory> Machine<M> {
    /// A machine with nothing mapped.
    ///
    /// # Panics
    /// When there is no descriptor left.
    pub fn new() -> Self {
        let flags = EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC;
        Machine {
            windows: RefCell::default(),
            master: Cell::new(false),
            violations: Cell::new(0),
            interrupts: Cell::new(0),
            time: Cell::new(Duration::ZERO),
            faults: RefCell::default(),
            line: rustix::event::eventfd(0, flags).expect("an eventfd"),
        }
    }

    /// Lets the chip reach `len` bytes of `memory` at `iova`.
    pub fn map(&self, iova: u64, memory: M, len: usize) {
        self.windows.borrow_mut().push(Window { iova, memory, len });
    }

    fn reach(&self, iova: u64, len: usize, access: impl FnOnce(&M, usize)) -> bool {
        let windows = self.windows.borrow();
        let hit = windows
            .iter()
            .find(|window| iova >= window.iova && iova - window.iova + len as u64 <= window.len as u64);
        // What lies together for the chip need not lie together in memory, beyond a page of the IOMMU.
        let one_page = len == 0 || iova / IOMMU_PAGE == (iova + len as u64 - 1) / IOMMU_PAGE;
        match hit.filter(|_| self.master.get() && one_page) {
            Some(window) => {
                access(&window.memory, (iova - window.iova) as usize);
                true
            }
            None => {
                self.violations.set(self.violations.get() + 1);
                false
            }
        }
    }

    /// The chip reads memory; zeros where it may not.
    pub fn read(&self, iova: u64, out: &mut [u8]) -> bool {
        out.fill(0);
        self.reach(iova, out.len(), |memory, at| memory.read(at, out))
    }

    /// The chip writes memory; nothing where it may not.
    pub fn write(&self, iova: u64, bytes: &[u8]) -> bool {
        self.reach(iova, bytes.len(), |memory, at| memory.write(at, bytes))
    }

    /// Time goes by, while a driver waits.
    pub fn pause(&self, time: Duration) {
        self.time.set(self.time.get() + time);
    }

    /// Bus mastering is on from now on.
    ///
    /// # Errors
    /// Never here.
    pub fn start(&self) -> io::Result<()> {
        self.master.set(true);
        Ok(())
    }

    /// Bus mastering is off from now on, unless access to memory does not end.
    ///
    /// # Errors
    /// `TimedOut` then.
    pub fn quiesce(&self) -> io::Result<()> {
        if self.faults.borrow().restless {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.master.set(false);
        Ok(())
    }

    /// An interrupt.
    pub fn interrupt(&self) {
        if !self.faults.borrow().silent {
            self.interrupts.set(self.interrupts.get() + 1);
            // A full counter is a raised line too.
            let _ = rustix::io::write(&self.line, &1u64.to_ne_bytes());
        }
    }
}

impl<M: Memory> Default for Machine<M> {
    fn default() -> Self {
        Machine::new()
    }
}

/// A chip in software, as a test sees it.
pub trait Model<M> {
    /// The machine around it.
    fn machine(&self) -> &Machine<M>;
    /// A frame comes from the wire.
    fn arrive(&self, frame: Vec<u8>);
    /// Frames that went out to the wire since the last call.
    fn sent(&self) -> Vec<Vec<u8>>;
    /// Does what there is to do, where it is told to be slow.
    fn step(&self);
    /// Pulls the cable, or plugs it in.
    fn plug(&self, cable: bool);
    /// Writes to the registers that tell it of new descriptors: to send, and to receive.
    fn doorbells(&self) -> [u64; 2];
}
