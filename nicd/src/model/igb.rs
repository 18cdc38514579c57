//! The 82576 in software: chapters 4 (initialisation), 7 (receive, transmit, interrupts) and 8 (registers) of
//! its data sheet, with queue 0 each way and advanced descriptors.
//!
//! As the chip may, it fetches descriptors ahead: those it has fetched are used whatever the driver writes into the
//! ring later, until the queue is turned off or the chip is reset.

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

/// How long the PHY negotiates: as QEMU's does.
const NEGOTIATION: Duration = Duration::from_millis(500);
/// Receive descriptors that are fetched ahead.
const AHEAD: usize = 16;

#[derive(Debug)]
struct State {
    regs: Vec<u32>,
    phy: [u16; 32],
    link_at: Option<Duration>,
    cable: bool,
    /// Slots and buffers that were fetched and not used.
    fetched: VecDeque<(u32, u64)>,
    sending: Vec<u8>,
    options: u64,
    context: [u64; 2],
    inbound: VecDeque<Vec<u8>>,
    outbound: Vec<Vec<u8>>,
    doorbells: [u64; 2],
}

/// The chip, in its machine.
#[derive(Debug)]
pub struct IgbModel<M> {
    /// The machine around it.
    pub machine: Machine<M>,
    rings: M,
    state: RefCell<State>,
}

fn field(value: u64, at: u32, bits: u32) -> usize {
    (value >> at & ((1 << bits) - 1)) as usize
}

impl State {
    fn at(&self, register: usize) -> u32 {
        self.regs[register / 4]
    }

    fn ring(&self, base: usize) -> (u64, u32) {
        (u64::from(self.at(base + 4)) << 32 | u64::from(self.at(base)), self.at(base + 8) / 16)
    }

    fn link(&self) -> bool {
        self.at(0x8) & 2 != 0
    }
}

impl<M: Memory + Clone> IgbModel<M> {
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
            fetched: VecDeque::new(),
            sending: Vec::new(),
            options: 0,
            context: [0; 2],
            inbound: VecDeque::new(),
            outbound: Vec::new(),
            doorbells: [0; 2],
        };
        let model = IgbModel { machine, rings, state: RefCell::new(state) };
        Self::restart(&mut model.state.borrow_mut());
        Rc::new(model)
    }

    /// §4.3.1: as after a reset; the link is down until the PHY has negotiated.
    fn restart(state: &mut State) {
        state.regs.fill(0);
        state.regs[2] = 1 | 0b10 << 6 | 1 << 19;
        state.sending.clear();
        state.fetched.clear();
        state.link_at = None;
    }

    fn settle_link(&self, state: &mut State) {
        if state.link_at.is_some_and(|at| at <= self.machine.time.get()) {
            state.link_at = None;
            if state.cable && state.at(0) & 1 << 6 != 0 {
                state.regs[2] |= 2;
                self.raise_link(state);
            }
        }
    }

    fn pending(state: &State) -> u32 {
        state.at(0x1580) & state.at(0x1524)
    }

    fn notify(&self, state: &State, before: u32) {
        if Self::pending(state) & !before & 1 != 0 {
            self.machine.interrupt();
        }
    }

    /// §7.3.1: a queue's cause; `shift` is where its vector stands in IVAR.
    fn raise_queue(&self, state: &mut State, shift: u32) {
        let before = Self::pending(state);
        let vector = state.at(0x1700) >> shift;
        if vector >> 7 & 1 == 1 {
            state.regs[0x1580 / 4] |= 1 << (vector & 31);
        }
        self.notify(state, before);
    }

    fn raise_link(&self, state: &mut State) {
        let before = Self::pending(state);
        state.regs[0x1500 / 4] |= 1 << 2;
        let vector = state.at(0x1740) >> 8;
        if state.at(0x1508) & 1 << 2 != 0 && vector >> 7 & 1 == 1 {
            state.regs[0x1580 / 4] |= 1 << (vector & 31);
        }
        self.notify(state, before);
    }

    fn write(&self, at: usize, value: u32) {
        let faults = self.machine.faults.borrow().clone();
        if faults.gone {
            return;
        }
        let mut state = self.state.borrow_mut();
        match at {
            0x0000 if value & 1 << 26 != 0 => {
                Self::restart(&mut state);
                state.regs[0] = if faults.stuck_reset { 1 << 26 } else { 0 };
            }
            0x0000 => {
                state.regs[0] = value;
                let off = value >> 2 & 1 != 0 && !faults.restless;
                state.regs[2] = state.regs[2] & !(1 << 19) | u32::from(!off) << 19;
            }
            0x0008 => {}
            0x0020 => {
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
            0x1580 => state.regs[at / 4] &= !value,
            0x1524 => {
                let before = Self::pending(&state);
                state.regs[at / 4] |= value;
                self.notify(&state, before);
            }
            0x1528 => state.regs[0x1524 / 4] &= !value,
            0x1508 => state.regs[at / 4] |= value,
            0x150c => state.regs[0x1508 / 4] &= !value,
            // §4.5.9.2: a queue that is turned off forgets what it has fetched.
            0xc028 if value & 1 << 25 == 0 => {
                state.regs[at / 4] = value;
                state.fetched.clear();
            }
            // §8.10.6, §8.12.11: tails do not count while the queue is off.
            0xc018 if state.at(0xc028) & 1 << 25 == 0 && value != 0 => {}
            0xe018 if state.at(0xe028) & 1 << 25 == 0 && value != 0 => {}
            _ => {
                if let Some(register) = state.regs.get_mut(at / 4) {
                    *register = value;
                }
            }
        }
        match at {
            0xe018 => state.doorbells[0] += 1,
            0xc018 => state.doorbells[1] += 1,
            _ => {}
        }
        drop(state);
        if (at == 0xe018 || at == 0xc018) && !faults.slow {
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
        // §8.8.7: reading clears with GPIE.NSICR, or while nothing is unmasked.
        if at == 0x1500 && (state.at(0x1514) & 1 != 0 || state.at(0x1508) == 0) {
            state.regs[at / 4] = 0;
        }
        value
    }

    /// §7.1.3: descriptors between head and tail that are not fetched yet.
    fn fetch(&self, state: &mut State) {
        let (base, slots) = state.ring(0xc000);
        if state.at(0xc028) & 1 << 25 == 0 || slots == 0 || !self.machine.master.get() {
            return;
        }
        while state.fetched.len() < AHEAD {
            let next = (state.at(0xc010) + state.fetched.len() as u32) % slots;
            if next == state.at(0xc018) % slots {
                return;
            }
            let mut descriptor = [0; 8];
            self.machine.read(base + u64::from(next) * 16, &mut descriptor);
            state.fetched.push_back((next, u64::from_le_bytes(descriptor)));
        }
    }

    fn passes(state: &State, frame: &[u8]) -> bool {
        let (control, to) = (state.at(0x100), &frame[..6]);
        if to == [0xff; 6] {
            return control & 1 << 15 != 0;
        }
        if to[0] & 1 == 1 {
            let hash = (usize::from(to[5]) << 8 | usize::from(to[4])) >> 4;
            return control & 1 << 4 != 0 || state.at(0x5200 + 4 * (hash >> 5)) >> (hash & 31) & 1 == 1;
        }
        let exact = (0..16).any(|n| {
            let (low, high) = (state.at(0x5400 + 8 * n), state.at(0x5404 + 8 * n));
            let [a, b, c, d] = low.to_le_bytes();
            high >> 31 == 1 && to == [a, b, c, d, high as u8, (high >> 8) as u8]
        });
        exact || control & 1 << 3 != 0
    }

    /// §7.1: a frame into the receive ring.
    fn receive(&self, state: &mut State, frame: &[u8]) {
        let control = state.at(0x100);
        let length = frame.len() + 4;
        let longest = if control & 1 << 5 != 0 { state.at(0x5004) as usize } else { 1522 };
        if control & 2 == 0 || !state.link() || frame.len() < 14 || length > longest {
            return;
        }
        // §8.10.2: one buffer per advanced descriptor.
        let (size, kind) = ((state.at(0xc00c) & 0x7f) as usize * 1024, state.at(0xc00c) >> 25 & 7);
        if !Self::passes(state, frame) || size == 0 || kind != 1 {
            return;
        }
        let mut bytes = frame.to_vec();
        bytes.resize(bytes.len().max(60), 0);
        if control & 1 << 26 == 0 {
            bytes.extend([0; 4]);
        }
        self.fetch(state);
        let (base, slots) = state.ring(0xc000);
        if state.fetched.len() < bytes.len().div_ceil(size) {
            return;
        }
        let right = (state.at(0x5000) & 1 << 9 != 0).then(|| frames::is_right(frame)).flatten();
        let pieces = bytes.chunks(size).count();
        for (n, piece) in bytes.chunks(size).enumerate() {
            let Some((slot, buffer)) = state.fetched.pop_front() else { return };
            self.machine.write(buffer, piece);
            let last = n + 1 == pieces;
            let len = self.machine.faults.borrow().length.unwrap_or(piece.len() as u16);
            let mut status = 1u32 | u32::from(last) << 1;
            if let Some(right) = right.filter(|_| last) {
                status |= 1 << 5 | u32::from(!right) << 29;
            }
            let word = u64::from(status) | u64::from(len) << 32;
            let mut descriptor = [0; 16];
            descriptor[8..].copy_from_slice(&word.to_le_bytes());
            self.machine.write(base + u64::from(slot) * 16, &descriptor);
            state.regs[0xc010 / 4] = (slot + 1) % slots;
        }
        self.raise_queue(state, 0);
    }

    /// §7.2: everything between head and tail of the transmit ring.
    fn transmit(&self, state: &mut State) {
        let (base, slots) = state.ring(0xe000);
        let on = state.at(0xe028) & 1 << 25 != 0 && state.at(0x400) & 2 != 0;
        if !on || !state.link() || slots == 0 {
            return;
        }
        let mut reported = false;
        while state.at(0xe010) != state.at(0xe018) % slots {
            let slot = base + u64::from(state.at(0xe010)) * 16;
            let mut bytes = [[0; 8]; 2];
            if !self.machine.read(slot, &mut bytes[0]) {
                return;
            }
            self.machine.read(slot + 8, &mut bytes[1]);
            let [low, high] = bytes.map(u64::from_le_bytes);
            match field(high, 20, 4) {
                2 => state.context = [low, high],
                3 => {
                    let at = state.sending.len();
                    if at == 0 {
                        state.options = high;
                    }
                    state.sending.resize(at + field(high, 0, 16), 0);
                    self.machine.read(low, &mut state.sending[at..]);
                    if high >> 24 & 1 == 1 {
                        Self::emit(state);
                    }
                }
                // Anything else is nothing that this chip sends.
                _ => state.sending.clear(),
            }
            if high >> 27 & 1 == 1 {
                self.machine.write(slot + 8, &(high | 1 << 32).to_le_bytes());
                reported = true;
            }
            state.regs[0xe010 / 4] = (state.at(0xe010) + 1) % slots;
        }
        if reported {
            self.raise_queue(state, 8);
        }
    }

    /// §7.2.4, §7.2.5: a whole frame goes out.
    fn emit(state: &mut State) {
        let mut frame = core::mem::take(&mut state.sending);
        let [low, high] = state.context;
        let ip = field(low, 9, 7);
        let start = ip + field(low, 0, 9);
        let (tcp, options) = (high >> 11 & 1 == 1, state.options);
        let sums = options >> 41 & 1 == 1;
        if options >> 31 & 1 == 1 {
            let (header, size) = (start + field(high, 40, 8), field(high, 48, 16));
            let ipv4 = high >> 10 & 1 == 1;
            let sound = sums && tcp && header + field(options, 46, 18) == frame.len();
            if sound && ipv4 == (options >> 40 & 1 == 1) {
                for segment in
                    frames::segments(&frame, &Template { header, ip, transport: start, size, ipv4 })
                {
                    Self::put_out(state, segment);
                }
            }
            return;
        }
        if field(options, 46, 18) != frame.len() {
            return;
        }
        let at = start + if tcp { 16 } else { 6 };
        if sums && at + 2 <= frame.len() {
            let sum = !frames::sum(&frame[start..]);
            frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        }
        Self::put_out(state, frame);
    }

    fn put_out(state: &mut State, mut frame: Vec<u8>) {
        if state.at(0x400) & 1 << 3 != 0 {
            frame.resize(frame.len().max(60), 0);
        }
        state.outbound.push(frame);
    }
}

impl<M: Memory + Clone> Model<M> for IgbModel<M> {
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
        self.fetch(&mut state);
        self.transmit(&mut state);
        while let Some(frame) = state.inbound.pop_front() {
            self.receive(&mut state, &frame);
        }
    }

    fn plug(&self, cable: bool) {
        let mut state = self.state.borrow_mut();
        state.cable = cable;
        let up = cable && state.at(0) & 1 << 6 != 0;
        state.regs[2] = state.regs[2] & !2 | u32::from(up) << 1;
        self.raise_link(&mut state);
        drop(state);
        if !self.machine.faults.borrow().slow {
            self.step();
        }
    }

    fn doorbells(&self) -> [u64; 2] {
        self.state.borrow().doorbells
    }
}

impl<M: Memory + Clone> Hardware for Rc<IgbModel<M>> {
    type Memory = M;

    fn read32(&self, at: usize) -> u32 {
        self.read(at)
    }

    fn write32(&self, at: usize, value: u32) {
        self.write(at, value);
    }

    // Chapter 8: registers are accessed as 32 bits; anything else reads as nothing.
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
