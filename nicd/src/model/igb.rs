//! The 82576 in software: chapters 4 (initialisation), 7 (receive, transmit, interrupts) and 8 (registers) of
//! its data sheet, with sixteen queues each way, RSS, and advanced descriptors.
//!
//! As the chip may, it fetches descriptors ahead: those it has fetched are used whatever the driver writes into the
//! ring later, until the queue is turned off or the chip is reset.

use super::frames::{self, Template};
use super::intel::{Chip, IntelModel, State, field};
use super::machine::Machine;
use core::time::Duration;
use proto::shm::Memory;
use std::collections::VecDeque;

/// The chip, in its machine.
pub type IgbModel<M> = IntelModel<M, Chip82576>;

/// Receive descriptors that are fetched ahead.
const AHEAD: usize = 16;

/// What only the 82576 does.
#[derive(Debug, Default)]
pub struct Chip82576 {
    queues: [Queue; 16],
}

/// What it remembers of a queue each way.
#[derive(Debug, Default)]
struct Queue {
    /// Slots and buffers that were fetched and not used.
    fetched: VecDeque<(u32, u64)>,
    /// The context of frames that are sent.
    context: [u64; 2],
    /// The part of a frame that was read.
    sending: Vec<u8>,
}

type Own = State<Chip82576>;

fn pending(state: &Own) -> u32 {
    state.at(0x1580) & state.at(0x1524)
}

fn notify<M: Memory>(machine: &Machine<M>, state: &Own, before: u32) {
    if pending(state) & !before & 1 != 0 {
        machine.interrupt();
    }
}

/// §7.3.1: a cause whose vector stands in the lower byte of `vector`, an IVAR.
fn raise<M: Memory>(machine: &Machine<M>, state: &mut Own, vector: u32) {
    let before = pending(state);
    if vector >> 7 & 1 == 1 {
        state.regs[0x1580 / 4] |= 1 << (vector & 31);
    }
    notify(machine, state, before);
}

/// §8.8.13: in IVAR `n` are the vectors of queues `n` and `n + 8`, receiving, then sending.
fn vector(state: &Own, queue: usize, sends: bool) -> u32 {
    state.at(0x1700 + queue % 8 * 4) >> (queue / 8 * 16 + usize::from(sends) * 8)
}

/// §7.1.2.10: the queue of a frame.
fn queue_of(state: &Own, frame: &[u8]) -> usize {
    let (kinds, described) = (state.at(0x5818), state.at(0x5000) >> 13 & 1 == 1);
    if kinds & 7 != 2 || !described {
        return 0;
    }
    // In VIRTIO's order.
    let kinds =
        [17, 16, 22, 20, 21, 23].iter().enumerate().fold(0, |all, (n, at)| all | (kinds >> at & 1) << n);
    let Some(input) = frames::hash_input(frame, kinds) else { return 0 };
    let key: Vec<u8> = (0..10).flat_map(|n| state.at(0x5c80 + n * 4).to_le_bytes()).collect();
    let entry = (frames::toeplitz(&key, &input) & 127) as usize;
    (state.at(0x5c00 + entry / 4 * 4) >> (entry % 4 * 8) & 15) as usize
}

/// A queue that is on: RXDCTL and TXDCTL, bit 25.
fn is_on(state: &Own, ring: usize) -> bool {
    state.at(ring + 0x28) & 1 << 25 != 0
}

impl Chip for Chip82576 {
    /// As QEMU's does.
    const NEGOTIATION: Duration = Duration::from_millis(500);
    const RECEIVE: usize = 0xc000;
    const TRANSMIT: usize = 0xe000;
    const QUEUES: usize = 16;

    /// §4.3.1: the link is down until the PHY has negotiated.
    fn restart(state: &mut Own, _: bool) {
        state.own = Chip82576::default();
        state.forget_link();
    }

    fn raise_link<M: Memory>(machine: &Machine<M>, state: &mut Own) {
        state.regs[0x1500 / 4] |= 1 << 2;
        let vector = if state.at(0x1508) & 1 << 2 != 0 { state.at(0x1740) >> 8 } else { 0 };
        raise(machine, state, vector);
    }

    fn write<M: Memory>(machine: &Machine<M>, state: &mut Own, at: usize, value: u32) -> bool {
        match at {
            0x1580 => state.regs[at / 4] &= !value,
            0x1524 => {
                let before = pending(state);
                state.regs[at / 4] |= value;
                notify(machine, state, before);
            }
            0x1528 => state.regs[0x1524 / 4] &= !value,
            0x1508 => state.regs[at / 4] |= value,
            0x150c => state.regs[0x1508 / 4] &= !value,
            // §4.5.9.2: a queue that is turned off forgets what it has fetched.
            0xc000..0xc400 if at & 0x3f == 0x28 && value & 1 << 25 == 0 => {
                state.regs[at / 4] = value;
                state.own.queues[(at - 0xc000) / 0x40].fetched.clear();
            }
            // §8.10.6, §8.12.11: tails do not count while the queue is off.
            0xc000..0xc400 | 0xe000..0xe400
                if at & 0x3f == 0x18 && !is_on(state, at & !0x3f) && value != 0 => {}
            _ => return false,
        }
        true
    }

    fn was_read(state: &mut Own, at: usize) {
        // §8.8.7: reading clears with GPIE.NSICR, or while nothing is unmasked.
        if at == 0x1500 && (state.at(0x1514) & 1 != 0 || state.at(0x1508) == 0) {
            state.regs[at / 4] = 0;
        }
    }

    /// §7.1.3: descriptors between head and tail that are not fetched yet.
    fn fetch<M: Memory>(machine: &Machine<M>, state: &mut Own) {
        for number in 0..Self::QUEUES {
            let ring = 0xc000 + number * 0x40;
            let (base, slots) = state.ring(ring);
            if !is_on(state, ring) || slots == 0 || !machine.master.get() {
                continue;
            }
            while state.own.queues[number].fetched.len() < AHEAD {
                let next = (state.at(ring + 0x10) + state.own.queues[number].fetched.len() as u32) % slots;
                if next == state.at(ring + 0x18) % slots {
                    break;
                }
                let mut descriptor = [0; 8];
                machine.read(base + u64::from(next) * 16, &mut descriptor);
                state.own.queues[number].fetched.push_back((next, u64::from_le_bytes(descriptor)));
            }
        }
    }

    /// §7.1.
    fn receive<M: Memory>(machine: &Machine<M>, state: &mut Own, frame: &[u8]) {
        let longest = if state.at(0x100) & 1 << 5 != 0 { state.at(0x5004) as usize } else { 1522 };
        if !state.hears(frame, longest) {
            return;
        }
        let number = queue_of(state, frame);
        let ring = 0xc000 + number * 0x40;
        // §8.10.2: one buffer per advanced descriptor.
        let split = state.at(ring + 0xc);
        let (size, kind) = ((split & 0x7f) as usize * 1024, split >> 25 & 7);
        if !state.passes(frame) || size == 0 || kind != 1 {
            return;
        }
        let bytes = state.landing(frame);
        Self::fetch(machine, state);
        let (base, slots) = state.ring(ring);
        if state.own.queues[number].fetched.len() < bytes.len().div_ceil(size) {
            return;
        }
        let right = (state.at(0x5000) & 1 << 9 != 0).then(|| frames::is_right(frame)).flatten();
        let pieces = bytes.chunks(size).count();
        for (n, piece) in bytes.chunks(size).enumerate() {
            let Some((slot, buffer)) = state.own.queues[number].fetched.pop_front() else { return };
            machine.write(buffer, piece);
            let last = n + 1 == pieces;
            let len = machine.faults.borrow().length.unwrap_or(piece.len() as u16);
            let mut status = 1u32 | u32::from(last) << 1;
            if let Some(right) = right.filter(|_| last) {
                status |= 1 << 5 | u32::from(!right) << 29;
            }
            let word = u64::from(status) | u64::from(len) << 32;
            let mut descriptor = [0; 16];
            descriptor[8..].copy_from_slice(&word.to_le_bytes());
            machine.write(base + u64::from(slot) * 16, &descriptor);
            state.regs[(ring + 0x10) / 4] = (slot + 1) % slots;
        }
        let vector = vector(state, number, false);
        raise(machine, state, vector);
    }

    /// §7.2.
    fn transmit<M: Memory>(machine: &Machine<M>, state: &mut Own) {
        for number in 0..Self::QUEUES {
            let Queue { context, sending, .. } = &mut state.own.queues[number];
            (state.context, state.sending) = (*context, core::mem::take(sending));
            transmit_queue(machine, state, number);
            let (context, sending) = (state.context, core::mem::take(&mut state.sending));
            let queue = &mut state.own.queues[number];
            (queue.context, queue.sending) = (context, sending);
        }
    }
}

fn transmit_queue<M: Memory>(machine: &Machine<M>, state: &mut Own, number: usize) {
    let ring = 0xe000 + number * 0x40;
    let (base, slots) = state.ring(ring);
    let on = is_on(state, ring) && state.at(0x400) & 2 != 0;
    if !on || !state.link() || slots == 0 {
        return;
    }
    let mut reported = false;
    while state.at(ring + 0x10) != state.at(ring + 0x18) % slots {
        let slot = base + u64::from(state.at(ring + 0x10)) * 16;
        let mut bytes = [[0; 8]; 2];
        if !machine.read(slot, &mut bytes[0]) {
            return;
        }
        machine.read(slot + 8, &mut bytes[1]);
        let [low, high] = bytes.map(u64::from_le_bytes);
        match field(high, 20, 4) {
            2 => state.context = [low, high],
            3 => {
                if state.gather(machine, low, field(high, 0, 16), high) {
                    emit(state);
                }
            }
            // Anything else is nothing that this chip sends.
            _ => state.sending.clear(),
        }
        if high >> 27 & 1 == 1 {
            machine.write(slot + 8, &(high | 1 << 32).to_le_bytes());
            reported = true;
        }
        state.regs[(ring + 0x10) / 4] = (state.at(ring + 0x10) + 1) % slots;
    }
    if reported {
        let vector = vector(state, number, true);
        raise(machine, state, vector);
    }
}

/// §7.2.4, §7.2.5: a whole frame goes out.
fn emit(state: &mut Own) {
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
            let template = Template { header, ip, transport: start, size, ipv4 };
            frames::segments(&frame, &template).into_iter().for_each(|segment| state.put_out(segment));
        }
        return;
    }
    if field(options, 46, 18) != frame.len() {
        return;
    }
    if sums {
        frames::fill_in(&mut frame, start, start + if tcp { 16 } else { 6 });
    }
    state.put_out(frame);
}
