//! The machine around a model: memory behind an IOMMU, interrupts, time.
//!
//! Accesses outside the windows, across pages of the IOMMU, or while bus mastering is off, reach nothing and are counted, as an IOMMU
//! counts them. A model that is told to be slow does its work only when [`Machine`]'s owner steps it.

use crate::driver::hardware::{Hardware, RINGS_IOVA, RINGS_SIZE, slab_iova};
use crate::nic::Slab;
use core::time::Duration;
use proto::shm::Memory;
use rustix::event::EventfdFlags;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;

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
    /// A machine in which a chip reaches its rings and slabs.
    ///
    /// # Panics
    /// As [`Machine::new`].
    pub fn reaching(rings: &M, slabs: &[Slab<M>]) -> Self
    where
        M: Clone,
    {
        let machine = Machine::new();
        machine.map(RINGS_IOVA, rings.clone(), RINGS_SIZE);
        for slab in slabs {
            machine.map(slab_iova(slab.shard), slab.memory.clone(), slab.geometry.bytes());
        }
        machine
    }

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

/// A chip in software, as a driver reaches it: its registers. Everything else that a driver sees is the machine's.
pub trait Registers {
    /// What rings and frames lie in.
    type Memory: Memory + Clone;
    /// The machine around it.
    fn machine(&self) -> &Machine<Self::Memory>;
    /// The memory of the rings.
    fn rings(&self) -> &Self::Memory;
    /// A register of `bytes` bytes is read.
    fn read(&self, at: usize, bytes: usize) -> u64;
    /// A register of `bytes` bytes is written.
    fn write(&self, at: usize, bytes: usize, value: u64);
    /// A byte of the configuration space.
    fn config(&self, _at: usize) -> u8 {
        u8::MAX
    }
}

/// What a model does about a register, seen by name from outside: it is no work of the driver.
#[inline(never)]
fn register_access<T>(access: impl FnOnce() -> T) -> T {
    access()
}

impl<C: Registers> Hardware for Rc<C> {
    type Memory = C::Memory;

    fn read32(&self, at: usize) -> u32 {
        register_access(|| self.read(at, 4) as u32)
    }

    fn write32(&self, at: usize, value: u32) {
        register_access(|| self.write(at, 4, value.into()));
    }

    fn read16(&self, at: usize) -> u16 {
        register_access(|| self.read(at, 2) as u16)
    }

    fn write16(&self, at: usize, value: u16) {
        register_access(|| self.write(at, 2, value.into()));
    }

    fn read8(&self, at: usize) -> u8 {
        register_access(|| self.read(at, 1) as u8)
    }

    fn write8(&self, at: usize, value: u8) {
        register_access(|| self.write(at, 1, value.into()));
    }

    fn config8(&self, at: usize) -> u8 {
        self.config(at)
    }

    fn rings(&self) -> C::Memory {
        Registers::rings(&**self).clone()
    }

    fn interrupt(&self) -> BorrowedFd<'_> {
        self.machine().line.as_fd()
    }

    fn recalled(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn pause(&self, time: Duration) {
        let machine = self.machine();
        machine.time.set(machine.time.get() + time);
    }

    fn start(&self) -> io::Result<()> {
        self.machine().master.set(true);
        Ok(())
    }

    fn quiesce(&self) -> io::Result<()> {
        let machine = self.machine();
        if machine.faults.borrow().restless {
            return Err(io::ErrorKind::TimedOut.into());
        }
        machine.master.set(false);
        Ok(())
    }
}
