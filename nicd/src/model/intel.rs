//! What the Intel chips in software have alike: the register file, the PHY and its link, the address filters, the
//! machine around them. What a chip has alone is its [`Chip`].
//!
//! Written from the data sheets without the drivers' constants; sections are those of the 82574's and the 82576's.

use super::machine::{Machine, Model, Registers};
use crate::nic::Slab;
use core::fmt::Debug;
use core::time::Duration;
use proto::shm::Memory;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

/// Bits of a word.
pub(super) fn field(value: u64, at: u32, bits: u32) -> usize {
    (value >> at & ((1 << bits) - 1)) as usize
}

/// One kind of chip: what it does its own way.
pub trait Chip: Debug + Default + Sized {
    /// How long the PHY negotiates.
    const NEGOTIATION: Duration;
    /// Where the registers of its first receive ring begin.
    const RECEIVE: usize;
    /// Where the registers of its first transmit ring begin.
    const TRANSMIT: usize;
    /// Rings each way, their registers 0x40 apart.
    const QUEUES: usize = 1;

    /// Registers as after a reset; everything else of a reset is done.
    fn restart(state: &mut State<Self>, link: bool);
    /// The link came or went.
    fn raise_link<M: Memory>(machine: &Machine<M>, state: &mut State<Self>);
    /// A register is written; false for one that just takes the value.
    fn write<M: Memory>(machine: &Machine<M>, state: &mut State<Self>, at: usize, value: u32) -> bool;
    /// A register was read.
    fn was_read(state: &mut State<Self>, at: usize);
    /// Fetches descriptors ahead, if it does.
    fn fetch<M: Memory>(_: &Machine<M>, _: &mut State<Self>) {}
    /// A frame into the receive ring.
    fn receive<M: Memory>(machine: &Machine<M>, state: &mut State<Self>, frame: &[u8]);
    /// Everything between head and tail of the transmit ring.
    fn transmit<M: Memory>(machine: &Machine<M>, state: &mut State<Self>);
}

/// What a chip remembers.
#[derive(Debug)]
pub struct State<C> {
    pub(super) regs: Vec<u32>,
    phy: [u16; 32],
    /// When the link comes.
    link_at: Option<Duration>,
    cable: bool,
    /// Of the frame that is being fetched: bytes, what its first data descriptor asked for.
    pub(super) sending: Vec<u8>,
    pub(super) options: u64,
    pub(super) context: [u64; 2],
    inbound: VecDeque<Vec<u8>>,
    outbound: Vec<Vec<u8>>,
    /// Writes to the transmit tail and to the receive tail.
    doorbells: [u64; 2],
    /// What one kind remembers beyond that.
    pub(super) own: C,
}

impl<C: Chip> State<C> {
    pub(super) fn at(&self, register: usize) -> u32 {
        self.regs[register / 4]
    }

    /// Base and slots of a ring.
    pub(super) fn ring(&self, base: usize) -> (u64, u32) {
        (u64::from(self.at(base + 4)) << 32 | u64::from(self.at(base)), self.at(base + 8) / 16)
    }

    /// STATUS.LU.
    pub(super) fn link(&self) -> bool {
        self.at(0x8) & 2 != 0
    }

    /// A counter register counts, and stays at its end.
    pub(super) fn count(&mut self, at: usize) {
        self.regs[at / 4] = self.regs[at / 4].saturating_add(1);
    }

    fn restart(&mut self) {
        let link = self.link();
        self.regs.fill(0);
        // STATUS: full duplex, 1000 Mbit/s, requests to memory are possible.
        self.regs[2] = 1 | 0b10 << 6 | 1 << 19;
        self.sending.clear();
        C::restart(self, link);
    }

    /// MDIC, 82574 §10.2.2.7, 82576 §8.2.4: the PHY at address 1.
    fn manage(&mut self, now: Duration, value: u32) {
        let (register, phy) = (field(value.into(), 16, 5), field(value.into(), 21, 5));
        let mut answer = value | 1 << 28;
        match (phy, value >> 26 & 3) {
            (1, 1) => {
                self.phy[register] = value as u16;
                if register == 0 && value & 0x1200 == 0x1200 {
                    self.regs[2] &= !2;
                    self.link_at = Some(now + C::NEGOTIATION);
                }
            }
            (1, 2) => answer = answer & !0xffff | u32::from(self.phy[register]),
            _ => answer |= 1 << 30,
        }
        self.regs[8] = answer;
    }

    /// The link never comes by itself.
    pub(super) fn forget_link(&mut self) {
        self.link_at = None;
    }

    /// 82574 §7.1.1, 82576 §7.1.1: whether the filters let a frame through.
    pub(super) fn passes(&self, frame: &[u8]) -> bool {
        let (control, to) = (self.at(0x100), &frame[..6]);
        if to == [0xff; 6] {
            return control & 1 << 15 != 0;
        }
        if to[0] & 1 == 1 {
            let hash = (usize::from(to[5]) << 8 | usize::from(to[4])) >> 4;
            return control & 1 << 4 != 0 || self.at(0x5200 + 4 * (hash >> 5)) >> (hash & 31) & 1 == 1;
        }
        let exact = (0..16).any(|n| {
            let (low, high) = (self.at(0x5400 + 8 * n), self.at(0x5404 + 8 * n));
            let [a, b, c, d] = low.to_le_bytes();
            high >> 31 == 1 && to == [a, b, c, d, high as u8, (high >> 8) as u8]
        });
        exact || control & 1 << 3 != 0
    }

    /// Whether a frame of at most `longest` bytes with its CRC is received at all.
    pub(super) fn hears(&self, frame: &[u8], longest: usize) -> bool {
        let receives = self.at(0x100) & 2 != 0 && self.link();
        receives && frame.len() >= 14 && frame.len() + 4 <= longest
    }

    /// What of a frame lands in memory: padded, and with its CRC unless that is stripped.
    pub(super) fn landing(&self, frame: &[u8]) -> Vec<u8> {
        let mut bytes = frame.to_vec();
        bytes.resize(bytes.len().max(60), 0);
        if self.at(0x100) & 1 << 26 == 0 {
            bytes.extend([0; 4]);
        }
        bytes
    }

    /// Onto the wire: TCTL.PSP pads.
    pub(super) fn put_out(&mut self, mut frame: Vec<u8>) {
        if self.at(0x400) & 1 << 3 != 0 {
            frame.resize(frame.len().max(60), 0);
        }
        self.outbound.push(frame);
    }

    /// A part of a frame is fetched; the first data descriptor's word says what is asked for. True with the last.
    pub(super) fn gather<M: Memory>(
        &mut self,
        machine: &Machine<M>,
        from: u64,
        len: usize,
        options: u64,
    ) -> bool {
        let at = self.sending.len();
        if at == 0 {
            self.options = options;
        }
        self.sending.resize(at + len, 0);
        machine.read(from, &mut self.sending[at..]);
        options >> 24 & 1 == 1
    }
}

/// A chip, in its machine.
#[derive(Debug)]
pub struct IntelModel<M, C> {
    /// The machine around it.
    pub machine: Machine<M>,
    rings: M,
    state: RefCell<State<C>>,
}

impl<M: Memory + Clone, C: Chip> IntelModel<M, C> {
    /// A chip with a cable in it, its rings in `rings`, that reaches `slabs`.
    pub fn new(rings: M, slabs: &[Slab<M>]) -> Rc<Self> {
        let machine = Machine::reaching(&rings, slabs);
        let mut state = State {
            regs: vec![0; 0x20000 / 4],
            phy: [0; 32],
            link_at: None,
            cable: true,
            sending: Vec::new(),
            options: 0,
            context: [0; 2],
            inbound: VecDeque::new(),
            outbound: Vec::new(),
            doorbells: [0; 2],
            own: C::default(),
        };
        state.restart();
        Rc::new(IntelModel { machine, rings, state: RefCell::new(state) })
    }

    /// The raw value of a register.
    pub fn register(&self, at: usize) -> u32 {
        self.state.borrow().at(at)
    }

    fn settle_link(&self, state: &mut State<C>) {
        if state.link_at.is_some_and(|at| at <= self.machine.time.get()) {
            state.link_at = None;
            if state.cable && state.at(0) & 1 << 6 != 0 {
                state.regs[2] |= 2;
                C::raise_link(&self.machine, state);
            }
        }
    }

    fn store(&self, at: usize, value: u32) {
        let faults = self.machine.faults.borrow().clone();
        if faults.gone {
            return;
        }
        let mut state = self.state.borrow_mut();
        match at {
            // CTRL.RST.
            0x0000 if value & 1 << 26 != 0 => {
                state.restart();
                state.regs[0] = if faults.stuck_reset { 1 << 26 } else { 0 };
            }
            0x0000 => {
                state.regs[0] = value;
                let off = value >> 2 & 1 != 0 && !faults.restless;
                state.regs[2] = state.regs[2] & !(1 << 19) | u32::from(!off) << 19;
            }
            // Read-only.
            0x0008 => {}
            0x0020 => state.manage(self.machine.time.get(), value),
            _ => {
                if !C::write(&self.machine, &mut state, at, value)
                    && let Some(register) = state.regs.get_mut(at / 4)
                {
                    *register = value;
                }
            }
        }
        let is_tail = |first: usize| (0..C::QUEUES).any(|queue| at == first + queue * 0x40 + 0x18);
        let rang = [C::TRANSMIT, C::RECEIVE].map(is_tail);
        (0..2).filter(|n| rang[*n]).for_each(|n| state.doorbells[n] += 1);
        drop(state);
        if rang != [false; 2] && !faults.slow {
            self.step();
        }
        if faults.nervous {
            self.machine.interrupt();
        }
    }

    fn load(&self, at: usize) -> u32 {
        if self.machine.faults.borrow().gone {
            return u32::MAX;
        }
        let mut state = self.state.borrow_mut();
        self.settle_link(&mut state);
        let value = state.regs.get(at / 4).copied().unwrap_or(0);
        C::was_read(&mut state, at);
        value
    }
}

impl<M: Memory + Clone, C: Chip> Model<M> for IntelModel<M, C> {
    fn machine(&self) -> &Machine<M> {
        &self.machine
    }

    fn arrive(&self, frame: Vec<u8>) {
        self.state.borrow_mut().inbound.push_back(frame);
        if !self.machine.faults.borrow().slow {
            self.step();
        }
    }

    fn sent(&self) -> Vec<Vec<u8>> {
        core::mem::take(&mut self.state.borrow_mut().outbound)
    }

    fn step(&self) {
        let mut state = self.state.borrow_mut();
        self.settle_link(&mut state);
        C::fetch(&self.machine, &mut state);
        C::transmit(&self.machine, &mut state);
        while let Some(frame) = state.inbound.pop_front() {
            C::receive(&self.machine, &mut state, &frame);
        }
    }

    fn plug(&self, cable: bool) {
        let mut state = self.state.borrow_mut();
        state.cable = cable;
        let up = cable && state.at(0) & 1 << 6 != 0;
        state.regs[2] = state.regs[2] & !2 | u32::from(up) << 1;
        C::raise_link(&self.machine, &mut state);
        drop(state);
        if !self.machine.faults.borrow().slow {
            self.step();
        }
    }

    fn doorbells(&self) -> [u64; 2] {
        self.state.borrow().doorbells
    }
}

impl<M: Memory + Clone, C: Chip> Registers for IntelModel<M, C> {
    type Memory = M;

    fn machine(&self) -> &Machine<M> {
        &self.machine
    }

    fn rings(&self) -> &M {
        &self.rings
    }

    // 82574 chapter 10, 82576 chapter 8: registers are accessed as 32 bits; anything else reads as nothing.
    fn read(&self, at: usize, bytes: usize) -> u64 {
        if bytes == 4 { self.load(at).into() } else { u64::MAX }
    }

    fn write(&self, at: usize, bytes: usize, value: u64) {
        if bytes == 4 {
            self.store(at, value as u32);
        }
    }
}
