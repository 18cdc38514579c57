//! The 82574L in software: chapters 7 (transmit and receive), 9 (PHY) and 10 (registers) of its data
//! sheet, with one queue each way, legacy and extended transmit descriptors, legacy receive descriptors.

use super::frames::{self, Template};
use super::machine::{Machine, Model};
use crate::driver::hardware::{Hardware, RINGS_IOVA, RINGS_SIZE, slab_iova};
use crate::nic::Slab;
use core::time::Duration;
use proto::shm::Memory;
use rustix::fd::{AsFd, BorrowedFd};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;

/// How long the PHY negotiates.
const NEGOTIATION: Duration = Duration::from_micros(200);

#[derive(Debug)]
struct State {
    regs: Vec<u32>,
    phy: [u16; 32],
    /// When the link comes.
    link_at: Option<Duration>,
    cable: bool,
    /// Of the frame that is being fetched: bytes, what its first data descriptor asked for.
    sending: Vec<u8>,
    options: u64,
    context: [u64; 2],
    inbound: VecDeque<Vec<u8>>,
    outbound: Vec<Vec<u8>>,
    /// Writes to the transmit tail and to the receive tail.
    doorbells: [u64; 2],
}

/// The chip, in its machine.
#[derive(Debug)]
pub struct E1000eModel<M> {
    /// The machine around it.
    pub machine: Machine<M>,
    rings: M,
    state: RefCell<State>,
}

fn field(value: u64, at: u32, bits: u32) -> usize {
    (value >> at & ((1 << bits) - 1)) as usize
}

impl<M: Memory + Clone> E1000eModel<M> {
    /// A chip with a cable in it, its rings in `rings`, that reaches `slabs`.
    pub fn new(rings: M, slabs: &[Slab<M>]) -> Rc<Self> {
        let machine = Machine::new();
        machine.map(RINGS_IOVA, rings.clone(), RINGS_SIZE);
        for slab in slabs {
            machine.map(slab_iova(slab.shard), slab.memory.clone(), slab.geometry.bytes());
        }
        let state = State {
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
        };
        let model = E1000eModel { machine, rings, state: RefCell::new(state) };
        model.restart(&mut model.state.borrow_mut());
        Rc::new(model)
    }

    /// The raw value of a register.
    pub fn register(&self, at: usize) -> u32 {
        self.state.borrow().regs[at / 4]
    }

    /// §4.6.1: registers as after a reset; the PHY and its link are not touched.
    fn restart(&self, state: &mut State) {
        let link = state.regs[2] & 2;
        state.regs.fill(0);
        // STATUS: full duplex, 1000 Mbit/s, requests to memory are possible.
        state.regs[2] = 1 | link | 0b10 << 6 | 1 << 19;
        // TXDCTL and TIPG as §10.2.6 has them.
        state.regs[0x3828 / 4] = 1 << 22;
        state.regs[0x410 / 4] = 0x0060_2008;
        state.sending.clear();
    }

    fn settle_link(&self, state: &mut State) {
        if state.link_at.is_some_and(|at| at <= self.machine.time.get()) {
            state.link_at = None;
            if state.cable && state.regs[0] & 1 << 6 != 0 {
                state.regs[2] |= 2;
                self.raise(state, 1 << 2);
            }
        }
    }

    /// §7.4: a cause; its queue's and "other" follow from it.
    fn raise(&self, state: &mut State, causes: u32) {
        let before = state.regs[0xc0 / 4] & state.regs[0xd0 / 4];
        let queue = u32::from(causes & 0x80 != 0) << 20 | u32::from(causes & 1 != 0) << 22;
        let other = u32::from(causes & 0x44 != 0) << 24;
        state.regs[0xc0 / 4] |= causes | queue | other;
        self.notify(state, before);
    }

    fn notify(&self, state: &State, before: u32) {
        let pending = state.regs[0xc0 / 4] & state.regs[0xd0 / 4] & !before;
        // §10.2.4.9: receive, transmit and other, each with a vector that is valid.
        let vectors = state.regs[0xe4 / 4];
        let valid = [(1 << 20, 1 << 3), (1 << 22, 1 << 11), (1 << 24, 1 << 19)];
        if valid.into_iter().any(|(cause, bit)| pending & cause != 0 && vectors & bit != 0) {
            self.machine.interrupt();
        }
    }

    fn write(&self, at: usize, value: u32) {
        let mut state = self.state.borrow_mut();
        let faults = self.machine.faults.borrow().clone();
        if faults.gone {
            return;
        }
        match at {
            0x0000 if value & 1 << 26 != 0 => {
                self.restart(&mut state);
                state.regs[0] = if faults.stuck_reset { 1 << 26 } else { 0 };
            }
            0x0000 => {
                state.regs[0] = value;
                let off = value >> 2 & 1 != 0 && !faults.restless;
                state.regs[2] = state.regs[2] & !(1 << 19) | u32::from(!off) << 19;
            }
            // Read-only.
            0x0008 => {}
            0x0014 => {
                let word = value >> 2 & 0x3fff;
                state.regs[5] = (word.wrapping_mul(0x0101) & 0xffff) << 16 | word << 2 | 2;
            }
            0x0020 => self.manage(&mut state, value),
            0x00c0 => state.regs[0xc0 / 4] &= !value,
            0x00c8 => self.raise(&mut state, value),
            0x00d0 => {
                let before = state.regs[0xc0 / 4] & state.regs[0xd0 / 4];
                state.regs[0xd0 / 4] |= value;
                self.notify(&state, before);
            }
            0x00d8 => state.regs[0xd0 / 4] &= !value,
            _ => {
                if let Some(register) = state.regs.get_mut(at / 4) {
                    *register = value;
                }
            }
        }
        match at {
            0x3818 => state.doorbells[0] += 1,
            0x2818 => state.doorbells[1] += 1,
            _ => {}
        }
        drop(state);
        if at == 0x3818 && !faults.slow {
            self.step();
        }
        if faults.nervous {
            self.machine.interrupt();
        }
    }

    fn read(&self, at: usize) -> u32 {
        if self.machine.faults.borrow().gone {
            return u32::MAX;
        }
        let mut state = self.state.borrow_mut();
        self.settle_link(&mut state);
        let value = state.regs.get(at / 4).copied().unwrap_or(0);
        match at {
            // §10.2.4.1: reading clears while nothing is unmasked.
            0x00c0 if state.regs[0xd0 / 4] == 0 => state.regs[0xc0 / 4] = 0,
            // Chapter 10.2.8: counters start again when they are read.
            0x4000..0x4130 => state.regs[at / 4] = 0,
            _ => {}
        }
        value
    }

    /// §10.2.2.7: the PHY at address 1.
    fn manage(&self, state: &mut State, value: u32) {
        let (register, phy) = (field(value.into(), 16, 5), field(value.into(), 21, 5));
        let mut answer = value | 1 << 28;
        match (phy, value >> 26 & 3) {
            (1, 1) => {
                state.phy[register] = value as u16;
                if register == 0 && value & 0x1200 == 0x1200 {
                    state.regs[2] &= !2;
                    state.link_at = Some(self.machine.time.get() + NEGOTIATION);
                }
            }
            (1, 2) => answer = answer & !0xffff | u32::from(state.phy[register]),
            _ => answer |= 1 << 30,
        }
        state.regs[8] = answer;
    }

    fn count(state: &mut State, at: usize) {
        state.regs[at / 4] = state.regs[at / 4].saturating_add(1);
    }

    /// §7.1.1: whether the filters let a frame through.
    fn passes(state: &State, frame: &[u8]) -> bool {
        let control = state.regs[0x100 / 4];
        let to = &frame[..6];
        if to == [0xff; 6] {
            return control & 1 << 15 != 0;
        }
        if to[0] & 1 == 1 {
            let hash = (u32::from(to[5]) << 8 | u32::from(to[4])) >> 4;
            let word = state.regs[(0x5200 + 4 * (hash >> 5) as usize) / 4];
            return control & 1 << 4 != 0 || word >> (hash & 31) & 1 == 1;
        }
        let exact = (0..16).any(|n| {
            let (low, high) = (state.regs[0x5400 / 4 + 2 * n], state.regs[0x5404 / 4 + 2 * n]);
            let [a, b, c, d] = low.to_le_bytes();
            high >> 31 == 1 && to == [a, b, c, d, high as u8, (high >> 8) as u8]
        });
        exact || control & 1 << 3 != 0
    }

    /// §7.1: a frame into the receive ring.
    fn receive(&self, state: &mut State, frame: &[u8]) {
        let control = state.regs[0x100 / 4];
        if control & 2 == 0 || state.regs[2] & 2 == 0 || frame.len() < 14 {
            return;
        }
        let length = frame.len() + 4;
        if length > 1522 && control & 1 << 5 == 0 {
            return Self::count(state, 0x40ac);
        }
        if !Self::passes(state, frame) {
            return;
        }
        let mut bytes = frame.to_vec();
        bytes.resize(bytes.len().max(60), 0);
        if control & 1 << 26 == 0 {
            bytes.extend([0; 4]);
        }
        let size = 2048 >> field(control.into(), 16, 2);
        let slots = state.regs[0x2808 / 4] / 16;
        let (mut head, tail) = (state.regs[0x2810 / 4], state.regs[0x2818 / 4]);
        let free = if slots == 0 { 0 } else { (tail + slots - head) % slots };
        if (free as usize) < bytes.len().div_ceil(size) {
            Self::count(state, 0x4010);
            return self.raise(state, 1 << 6);
        }
        let sums = state.regs[0x5000 / 4] & 1 << 9 != 0;
        let right = if sums { frames::is_right(frame) } else { None };
        let pieces = bytes.chunks(size).count();
        let base = u64::from(state.regs[0x2804 / 4]) << 32 | u64::from(state.regs[0x2800 / 4]);
        for (n, piece) in bytes.chunks(size).enumerate() {
            let slot = base + u64::from(head) * 16;
            let mut descriptor = [0; 16];
            self.machine.read(slot, &mut descriptor);
            let [a, b, c, d, e, f, g, h, ..] = descriptor;
            self.machine.write(u64::from_le_bytes([a, b, c, d, e, f, g, h]), piece);
            let len = self.machine.faults.borrow().length.unwrap_or(piece.len() as u16);
            let last = n + 1 == pieces;
            let mut status = 1 | u8::from(last) << 1;
            let mut errors = 0u8;
            match right.filter(|_| last) {
                Some(right) => {
                    status |= 1 << 5;
                    errors = u8::from(!right) << 5;
                }
                None => status |= 1 << 2,
            }
            descriptor[8..10].copy_from_slice(&len.to_le_bytes());
            (descriptor[12], descriptor[13]) = (status, errors);
            self.machine.write(slot, &descriptor);
            head = (head + 1) % slots;
        }
        state.regs[0x2810 / 4] = head;
        Self::count(state, 0x4074);
        self.raise(state, 1 << 7);
    }

    /// §7.2: everything between head and tail of the transmit ring.
    fn transmit(&self, state: &mut State) {
        let slots = state.regs[0x3808 / 4] / 16;
        if state.regs[0x400 / 4] & 2 == 0 || state.regs[2] & 2 == 0 || slots == 0 {
            return;
        }
        let base = u64::from(state.regs[0x3804 / 4]) << 32 | u64::from(state.regs[0x3800 / 4]);
        let mut reported = false;
        while state.regs[0x3810 / 4] != state.regs[0x3818 / 4] % slots {
            let head = state.regs[0x3810 / 4];
            let slot = base + u64::from(head) * 16;
            let mut bytes = [0; 16];
            if !self.machine.read(slot, &mut bytes) {
                return;
            }
            let [low, high] = [0, 8].map(|at| {
                u64::from_le_bytes([
                    bytes[at],
                    bytes[at + 1],
                    bytes[at + 2],
                    bytes[at + 3],
                    bytes[at + 4],
                    bytes[at + 5],
                    bytes[at + 6],
                    bytes[at + 7],
                ])
            });
            let extended = high >> 29 & 1 == 1;
            if extended && field(high, 20, 4) == 0 {
                state.context = [low, high];
            } else {
                let len = if extended { field(high, 0, 20) } else { field(high, 0, 16) };
                let at = state.sending.len();
                if at == 0 {
                    state.options = if extended { high } else { high & !(1 << 26) & 0xffff_ffff };
                }
                state.sending.resize(at + len, 0);
                self.machine.read(low, &mut state.sending[at..]);
                if high >> 24 & 1 == 1 {
                    self.emit(state);
                }
            }
            if high >> 27 & 1 == 1 {
                bytes[12] |= 1;
                self.machine.write(slot, &bytes);
                reported = true;
            }
            state.regs[0x3810 / 4] = (head + 1) % slots;
        }
        if reported {
            self.raise(state, 1);
        }
    }

    /// A whole frame goes out, in segments if that is asked for: §7.3.
    fn emit(&self, state: &mut State) {
        let frame = core::mem::take(&mut state.sending);
        let [low, high] = state.context;
        let (start, at) = (field(low, 32, 8), field(low, 40, 8));
        let sums = state.options >> 41 & 1 == 1;
        let ip_sums = state.options >> 40 & 1 == 1;
        if state.options >> 26 & 1 == 0 {
            let mut frame = frame;
            if sums && at + 2 <= frame.len() {
                let sum = !frames::sum(&frame[start..]);
                frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
            }
            return Self::put_out(state, frame);
        }
        let (header, size) = (field(high, 40, 8), field(high, 48, 16).max(1));
        let (ip, ipv4) = (field(low, 0, 8), high >> 25 & 1 == 1);
        if header > frame.len() || frame.len() - header != field(high, 0, 20) {
            return;
        }
        // §7.3.6: where the checksums lie says where the headers begin.
        let sound = sums && at == start + 16 && ip_sums == ipv4 && (!ipv4 || field(low, 8, 8) == ip + 10);
        if !sound || (ipv4 && field(low, 16, 16) + 1 != start) {
            return;
        }
        for segment in frames::segments(&frame, &Template { header, ip, transport: start, size, ipv4 }) {
            Self::put_out(state, segment);
        }
    }

    fn put_out(state: &mut State, mut frame: Vec<u8>) {
        if state.regs[0x400 / 4] & 1 << 3 != 0 {
            frame.resize(frame.len().max(60), 0);
        }
        Self::count(state, 0x4080);
        state.outbound.push(frame);
    }
}

impl<M: Memory + Clone> Model<M> for E1000eModel<M> {
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
        self.transmit(&mut state);
        while let Some(frame) = state.inbound.pop_front() {
            self.receive(&mut state, &frame);
        }
    }

    fn plug(&self, cable: bool) {
        let mut state = self.state.borrow_mut();
        state.cable = cable;
        let up = cable && state.regs[0] & 1 << 6 != 0;
        state.regs[2] = state.regs[2] & !2 | u32::from(up) << 1;
        self.raise(&mut state, 1 << 2);
        drop(state);
        if !self.machine.faults.borrow().slow {
            self.step();
        }
    }

    fn doorbells(&self) -> [u64; 2] {
        self.state.borrow().doorbells
    }
}

impl<M: Memory + Clone> Hardware for Rc<E1000eModel<M>> {
    type Memory = M;

    fn read32(&self, at: usize) -> u32 {
        self.read(at)
    }

    fn write32(&self, at: usize, value: u32) {
        self.write(at, value);
    }

    // Chapter 10: registers are accessed as 32 bits; anything else reads as nothing.
    fn read16(&self, _: usize) -> u16 {
        u16::MAX
    }

    fn write16(&self, _: usize, _: u16) {}

    fn read8(&self, _: usize) -> u8 {
        u8::MAX
    }

    fn write8(&self, _: usize, _: u8) {}

    fn config8(&self, _: usize) -> u8 {
        u8::MAX
    }

    fn rings(&self) -> M {
        self.rings.clone()
    }

    fn interrupt(&self) -> BorrowedFd<'_> {
        self.machine.line.as_fd()
    }

    fn recalled(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn pause(&self, time: Duration) {
        self.machine.time.set(self.machine.time.get() + time);
    }

    fn start(&self) -> io::Result<()> {
        self.machine.master.set(true);
        Ok(())
    }

    fn quiesce(&self) -> io::Result<()> {
        if self.machine.faults.borrow().restless {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.machine.master.set(false);
        Ok(())
    }
}
