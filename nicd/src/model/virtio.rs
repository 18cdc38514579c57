//! A modern virtio network device in software: chapters 2 (virtqueues), 4.1 (PCI) and 5.1 (network) of the Virtual I/O
//! Device specification, version 1.2, with split virtqueues: four pairs, a
//! control queue behind them, and RSS.
//!
//! Its registers stand in one BAR: the common configuration at 0, the network's at 0x2000, doorbells from 0x3000 on, 4
//! bytes apart. The configuration space says so by its list of capabilities.

use super::frames::{self, Template};
use super::machine::{Machine, Model, Registers};
use crate::nic::Slab;
use proto::shm::Memory;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

/// What it offers: CSUM, GUEST_CSUM, HOST_TSO4, HOST_TSO6, MRG_RXBUF, STATUS, CTRL_VQ, MQ, EVENT_IDX, VERSION_1,
/// ACCESS_PLATFORM, RSS.
const OFFERED: u64 = 1
    | 1 << 1
    | 1 << 11
    | 1 << 12
    | 1 << 15
    | 1 << 16
    | 1 << 17
    | 1 << 22
    | 1 << 29
    | 1 << 32
    | 1 << 33
    | 1 << 60;
/// Pairs of queues; receive queue `n` is number `2 n`, transmit queue `n` the one behind it, then comes the control queue.
const PAIRS: usize = 4;
const CONTROL: usize = 2 * PAIRS;
/// Descriptors of a queue at most.
const QUEUE_MAX: u16 = 1024;
/// Nothing that is gathered is longer: a super-frame and its header.
const GATHER_MAX: usize = 70_000;

/// §4.1.4.3: what stands in the common configuration about a queue.
#[derive(Debug, Clone, Copy, Default)]
struct Queue {
    size: u16,
    vector: u16,
    on: bool,
    /// Descriptors, available, used.
    places: [u64; 3],
    seen: u16,
    used: u16,
}

/// §5.1.6.5.6: how flows are spread.
#[derive(Debug)]
struct Spread {
    kinds: u32,
    unclassified: u16,
    table: Vec<u16>,
    key: Vec<u8>,
}

impl Spread {
    fn parse(said: &[u8]) -> Option<Spread> {
        let half = |at: usize| Some(u16::from_le_bytes(said.get(at..at + 2)?.try_into().ok()?));
        let kinds = u32::from_le_bytes(said.get(..4)?.try_into().ok()?);
        let entries = usize::from(half(4)?) + 1;
        let table: Option<Vec<u16>> = (0..entries).map(|n| half(8 + 2 * n)).collect();
        let (table, at) = (table?, 8 + 2 * entries);
        let key = said.get(at + 3..at + 3 + usize::from(*said.get(at + 2)?))?.to_vec();
        let sound = entries.is_power_of_two()
            && entries <= 128
            && key.len() == 40
            && said.len() == at + 43
            && usize::from(half(at)?) <= PAIRS
            && table.iter().all(|queue| usize::from(*queue) < PAIRS);
        sound.then_some(Spread { kinds, unclassified: half(6)?, table, key })
    }

    /// The pair of a frame.
    fn pair(&self, frame: &[u8]) -> usize {
        let hash = frames::hash_input(frame, self.kinds).map(|input| frames::toeplitz(&self.key, &input));
        usize::from(hash.map_or(self.unclassified, |hash| self.table[hash as usize & (self.table.len() - 1)]))
    }
}

#[derive(Debug)]
struct State {
    feature_select: [u32; 2],
    agreed: u64,
    status: u8,
    config_vector: u16,
    selected: u16,
    queues: [Queue; CONTROL + 1],
    spread: Option<Spread>,
    cable: bool,
    inbound: VecDeque<Vec<u8>>,
    outbound: Vec<Vec<u8>>,
    doorbells: [u64; 2],
}

/// The device, in its machine.
#[derive(Debug)]
pub struct VirtioModel<M> {
    /// The machine around it.
    pub machine: Machine<M>,
    rings: M,
    /// Feature bits that it offers.
    offered: u64,
    state: RefCell<State>,
}

/// A part of a buffer.
#[derive(Debug, Clone, Copy)]
struct Part {
    at: u64,
    len: u32,
    writable: bool,
}

impl<M: Memory + Clone> VirtioModel<M> {
    /// A device with a cable in it, its rings in `rings`, that reaches `slabs`.
    pub fn new(rings: M, slabs: &[Slab<M>]) -> Rc<Self> {
        VirtioModel::offering(OFFERED, rings, slabs)
    }

    /// As [`VirtioModel::new`], without the feature bits `without`.
    pub fn lacking(without: u64, rings: M, slabs: &[Slab<M>]) -> Rc<Self> {
        VirtioModel::offering(OFFERED & !without, rings, slabs)
    }

    fn offering(offered: u64, rings: M, slabs: &[Slab<M>]) -> Rc<Self> {
        let machine = Machine::reaching(&rings, slabs);
        let state = State {
            feature_select: [0; 2],
            agreed: 0,
            status: 0,
            config_vector: 0xffff,
            selected: 0,
            queues: [Queue::default(); CONTROL + 1],
            spread: None,
            cable: true,
            inbound: VecDeque::new(),
            outbound: Vec::new(),
            doorbells: [0; 2],
        };
        Rc::new(VirtioModel { machine, rings, offered, state: RefCell::new(state) })
    }

    fn working(state: &State) -> bool {
        state.status & 4 != 0
    }

    fn agreed(state: &State, bit: u32) -> bool {
        state.agreed >> bit & 1 == 1
    }

    fn half(&self, at: u64) -> u16 {
        let mut bytes = [0; 2];
        self.machine.read(at, &mut bytes);
        u16::from_le_bytes(bytes)
    }

    /// As an IOMMU wants it: page by page.
    fn transfer(&self, mut at: u64, mut bytes: &mut [u8], write: bool) {
        while !bytes.is_empty() {
            let part = bytes.len().min(4096 - (at % 4096) as usize);
            let (now, rest) = bytes.split_at_mut(part);
            match write {
                true => self.machine.write(at, now),
                false => self.machine.read(at, now),
            };
            (at, bytes) = (at.wrapping_add(part as u64), rest);
        }
    }

    /// §2.7.6: the next chain that was made available, its first descriptor and its parts.
    fn next(&self, queue: &mut Queue) -> Option<(u16, Vec<Part>)> {
        let [descriptors, available, _] = queue.places;
        if self.half(available + 2) == queue.seen || queue.size == 0 {
            return None;
        }
        let head = self.half(available + 4 + u64::from(queue.seen % queue.size) * 2);
        queue.seen = queue.seen.wrapping_add(1);
        let (mut parts, mut slot) = (Vec::new(), head);
        for _ in 0..queue.size {
            let mut bytes = [[0; 8]; 2];
            let at = descriptors.wrapping_add(u64::from(slot) * 16);
            self.machine.read(at, &mut bytes[0]);
            self.machine.read(at.wrapping_add(8), &mut bytes[1]);
            let [place, word] = bytes.map(u64::from_le_bytes);
            let flags = (word >> 32) as u16;
            parts.push(Part { at: place, len: word as u32, writable: flags & 2 != 0 });
            slot = (word >> 48) as u16;
            if flags & 1 == 0 {
                break;
            }
        }
        Some((head, parts))
    }

    /// §2.7.8: a chain is done with. It shows with [`VirtioModel::show`].
    fn give(&self, queue: &mut Queue, head: u16, len: u32) {
        let at = queue.places[2] + 4 + u64::from(queue.used % queue.size) * 8;
        let word = u64::from(head) | u64::from(len) << 32;
        // An element is aligned to its halves alone.
        let mut bytes = word.to_le_bytes();
        self.transfer(at, &mut bytes, true);
        queue.used = queue.used.wrapping_add(1);
    }

    /// §2.7.7, §2.7.10: what was given is shown; the driver is told if it wants to be, and tells us of the next.
    fn show(&self, state: &mut State, number: usize, before: u16) {
        let event_index = Self::agreed(state, 29);
        let queue = &state.queues[number];
        let [_, available, used] = queue.places;
        if event_index {
            let at = used + 4 + u64::from(queue.size) * 8;
            self.machine.write(at, &queue.seen.to_le_bytes());
        }
        if queue.used == before {
            return;
        }
        self.machine.write(used + 2, &queue.used.to_le_bytes());
        let wanted = match event_index {
            true => {
                let event = self.half(available + 4 + u64::from(queue.size) * 2);
                queue.used.wrapping_sub(event).wrapping_sub(1) < queue.used.wrapping_sub(before)
            }
            false => self.half(available) & 1 == 0,
        };
        if wanted && queue.vector == 0 {
            self.machine.interrupt();
        }
    }

    fn is_on(state: &State, number: usize) -> bool {
        Self::working(state) && state.queues[number].on && state.queues[number].size > 0
    }

    /// What the driver has written into a chain.
    fn gather(&self, parts: &[Part]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for part in parts.iter().filter(|part| !part.writable) {
            let at = bytes.len();
            let len = (part.len as usize).min(GATHER_MAX - at.min(GATHER_MAX));
            bytes.resize(at + len, 0);
            self.transfer(part.at, &mut bytes[at..], false);
        }
        bytes
    }

    fn transmit(&self, state: &mut State) {
        for number in (0..PAIRS).map(|pair| 2 * pair + 1) {
            if !Self::is_on(state, number) || !state.cable || !self.machine.master.get() {
                continue;
            }
            let mut queue = state.queues[number];
            let before = queue.used;
            while let Some((head, parts)) = self.next(&mut queue) {
                let bytes = self.gather(&parts);
                self.emit(state, &bytes);
                self.give(&mut queue, head, 0);
            }
            state.queues[number] = queue;
            self.show(state, number, before);
        }
    }

    /// §5.1.6.5: commands of class 4, number 1, are done; others are refused.
    fn obey(&self, state: &mut State) {
        if !Self::is_on(state, CONTROL) || !self.machine.master.get() {
            return;
        }
        let mut queue = state.queues[CONTROL];
        let before = queue.used;
        while let Some((head, parts)) = self.next(&mut queue) {
            let said = self.gather(&parts);
            let spread = said.strip_prefix(&[4, 1]).and_then(Spread::parse);
            let agreed = Self::agreed(state, 60) && Self::agreed(state, 17);
            let done = agreed && spread.is_some();
            if done {
                state.spread = spread;
            }
            if let Some(answer) = parts.iter().find(|part| part.writable) {
                self.transfer(answer.at, &mut [u8::from(!done)], true);
            }
            self.give(&mut queue, head, 1);
        }
        state.queues[CONTROL] = queue;
        self.show(state, CONTROL, before);
    }

    /// §5.1.6.2: a header of 12 bytes, then a frame; what the header asks for only where it was agreed.
    fn emit(&self, state: &mut State, bytes: &[u8]) {
        if bytes.len() < 12 + 14 {
            return;
        }
        let (head, mut frame) = (&bytes[..12], bytes[12..].to_vec());
        let half = |at: usize| usize::from(u16::from_le_bytes([head[at], head[at + 1]]));
        let (size, start, at) = (half(4), half(6), half(8));
        let sums = head[0] & 1 == 1;
        if sums && !Self::agreed(state, 0) {
            return;
        }
        let frames = match head[1] {
            0 => {
                if sums {
                    frames::fill_in(&mut frame, start, start + at);
                }
                vec![frame]
            }
            kind @ (1 | 4) => {
                let agreed = Self::agreed(state, if kind == 1 { 11 } else { 12 });
                let Some(offset) = frame.get(start + 12).filter(|_| agreed && sums && at == 16) else {
                    return;
                };
                let header = start + usize::from(offset >> 4) * 4;
                // §5.1.6.2: the sum has the length of the whole in it, each segment's wants its own.
                let Some(field) = frame.get(start + 16..start + 18) else { return };
                let whole = !((frame.len() - start) as u16);
                let sum = frames::sum(&[field, &whole.to_be_bytes()].concat());
                frame[start + 16..start + 18].copy_from_slice(&sum.to_be_bytes());
                if let Some(field) = frame.get_mut(24..26).filter(|_| kind == 1) {
                    field.fill(0);
                }
                frames::segments(
                    &frame,
                    &Template { header, ip: 14, transport: start, size, ipv4: kind == 1 },
                )
            }
            _ => return,
        };
        for mut frame in frames {
            // A cable has no shorter ones.
            frame.resize(frame.len().max(60), 0);
            state.outbound.push(frame);
        }
    }

    /// §5.1.6.4: a frame into as many buffers as it takes, if there are so many.
    fn receive(&self, state: &mut State, frame: &[u8]) {
        let mut frame = frame.to_vec();
        frame.resize(frame.len().max(60), 0);
        let number = 2 * state.spread.as_ref().map_or(0, |spread| spread.pair(&frame));
        if !Self::is_on(state, number) || !state.cable || !self.machine.master.get() {
            return;
        }
        let mut bytes = vec![0; 12];
        if Self::agreed(state, 1) && frames::is_right(&frame) == Some(true) {
            bytes[0] = 2;
        }
        bytes.extend(frame);
        let mut queue = state.queues[number];
        let (mut chains, mut room) = (Vec::new(), 0);
        while room < bytes.len() {
            let Some((head, parts)) = self.next(&mut queue) else { return };
            let parts: Vec<Part> = parts.into_iter().filter(|part| part.writable).collect();
            room += parts.iter().map(|part| part.len as usize).sum::<usize>();
            chains.push((head, parts));
            if chains.len() > 64 || (chains.len() > 1 && !Self::agreed(state, 15)) {
                return;
            }
        }
        bytes[10..12].copy_from_slice(&(chains.len() as u16).to_le_bytes());
        let (before, mut at) = (queue.used, 0);
        for (head, parts) in chains {
            let mut written = 0;
            for part in parts {
                let len = (part.len as usize).min(bytes.len() - at);
                self.transfer(part.at, &mut bytes[at..at + len], true);
                (at, written) = (at + len, written + len);
            }
            let said = self.machine.faults.borrow().length.map_or(written as u32, u32::from);
            self.give(&mut queue, head, said);
        }
        state.queues[number] = queue;
        self.show(state, number, before);
    }

    fn store(&self, at: usize, value: u64) {
        let faults = self.machine.faults.borrow().clone();
        if faults.gone {
            return;
        }
        let mut state = self.state.borrow_mut();
        let selected = usize::from(state.selected);
        let in_queue = |state: &mut State, change: &dyn Fn(&mut Queue)| {
            if let Some(queue) = state.queues.get_mut(selected) {
                change(queue);
            }
        };
        let mut rang = false;
        match at {
            0 => state.feature_select[0] = value as u32,
            8 => state.feature_select[1] = value as u32,
            12 => {
                let shift = 32 * state.feature_select[1].min(1);
                state.agreed = state.agreed & !(0xffff_ffff << shift) | (value & 0xffff_ffff) << shift;
            }
            16 => state.config_vector = value as u16,
            // §2.1.2: 0 resets.
            20 if value == 0 => {
                (state.agreed, state.config_vector) = (0, 0xffff);
                state.queues = [Queue::default(); CONTROL + 1];
                state.spread = None;
                state.status = if faults.stuck_reset { 0x0f } else { 0 };
            }
            20 => {
                // §2.2.2: features beyond the offer are not agreed to, nor a device without VERSION_1.
                let sound = state.agreed & !self.offered == 0 && state.agreed >> 32 & 1 == 1;
                state.status = if sound { value as u8 } else { value as u8 & !8 };
            }
            22 => state.selected = value as u16,
            24 => in_queue(&mut state, &|queue| queue.size = value as u16),
            26 => in_queue(&mut state, &|queue| queue.vector = value as u16),
            28 => in_queue(&mut state, &|queue| queue.on = value == 1),
            32..56 => in_queue(&mut state, &|queue| {
                let (place, shift) =
                    (&mut queue.places[(at - 32) / 8], if at.is_multiple_of(8) { 0 } else { 32 });
                *place = *place & !(0xffff_ffff << shift) | (value & 0xffff_ffff) << shift;
            }),
            // §4.1.5.2: the queue's number at its own place.
            0x3000..0x3100 if value == (at as u64 - 0x3000) / 4 => match value as usize {
                CONTROL => self.obey(&mut state),
                number if number < CONTROL => {
                    state.doorbells[1 - number % 2] += 1;
                    rang = true;
                }
                _ => {}
            },
            _ => {}
        }
        drop(state);
        if rang && !faults.slow {
            self.step();
        }
        if faults.nervous {
            self.machine.interrupt();
        }
    }

    fn load(&self, at: usize) -> u64 {
        if self.machine.faults.borrow().gone {
            return u64::MAX;
        }
        let state = self.state.borrow();
        let queue = state.queues.get(usize::from(state.selected));
        match at {
            4 => self.offered >> (32 * state.feature_select[0].min(1)),
            12 => state.agreed >> (32 * state.feature_select[1].min(1)),
            16 => state.config_vector.into(),
            18 => CONTROL as u64 + 1,
            20 => state.status.into(),
            22 => state.selected.into(),
            24 => queue.map_or(0, |queue| if queue.size == 0 { QUEUE_MAX } else { queue.size }.into()),
            26 => queue.map_or(0xffff, |queue| queue.vector.into()),
            28 => queue.map_or(0, |queue| u64::from(queue.on)),
            30 => state.selected.into(),
            // §5.1.4: the link's status.
            0x2006 => u64::from(state.cable),
            // §5.1.4: pairs; the longest key, the longest table, kinds of hashes.
            0x2008 => PAIRS as u64,
            0x2011 => 40,
            0x2012 => 128,
            0x2014 => 0x3f,
            _ => 0,
        }
    }
}

impl<M: Memory + Clone> Model<M> for VirtioModel<M> {
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
        self.transmit(&mut state);
        while let Some(frame) = state.inbound.pop_front() {
            self.receive(&mut state, &frame);
        }
    }

    fn plug(&self, cable: bool) {
        let mut state = self.state.borrow_mut();
        let changed = core::mem::replace(&mut state.cable, cable) != cable;
        // §2.4: a change of the configuration.
        if changed && Self::working(&state) && state.config_vector == 0 {
            self.machine.interrupt();
        }
        drop(state);
        if !self.machine.faults.borrow().slow {
            self.step();
        }
    }

    fn doorbells(&self) -> [u64; 2] {
        self.state.borrow().doorbells
    }
}

impl<M: Memory + Clone> Registers for VirtioModel<M> {
    type Memory = M;

    fn machine(&self) -> &Machine<M> {
        &self.machine
    }

    fn rings(&self) -> &M {
        &self.rings
    }

    fn read(&self, at: usize, _: usize) -> u64 {
        self.load(at)
    }

    fn write(&self, at: usize, _: usize, value: u64) {
        self.store(at, value);
    }

    /// §4.1.4: three capabilities, behind one of another kind, and a second doorbell structure that does not count.
    fn config(&self, at: usize) -> u8 {
        // Kind, BAR, offset; identity 9 is vendor-specific, its length 16, of doorbells 20.
        let structures: [(u8, u32); 4] = [(1, 0), (2, 0x3000), (2, 0x9000), (4, 0x2000)];
        if self.machine.faults.borrow().gone {
            return u8::MAX;
        }
        match at {
            0x34 => 0x40,
            0x40 => 0x11,
            0x41 => 0x50,
            0x50..0xb0 => {
                let (kind, offset) = structures[(at - 0x50) / 24];
                let next = if at >= 0x98 { 0 } else { 0x50 + ((at - 0x50) / 24 + 1) * 24 };
                match (at - 0x50) % 24 {
                    0 => 9,
                    1 => next as u8,
                    2 => 20,
                    3 => kind,
                    4 => 4,
                    byte @ 8..12 => offset.to_le_bytes()[byte - 8],
                    16 => 4,
                    _ => 0,
                }
            }
            _ => 0,
        }
    }
}
