//! The 82574L in software: chapters 7 (transmit and receive), 9 (PHY) and 10 (registers) of its data
//! sheet, with one queue each way, legacy and extended transmit descriptors, legacy receive descriptors.

use super::frames::{self, Template};
use super::intel::{Chip, IntelModel, State, field};
use super::machine::Machine;
use core::time::Duration;
use proto::shm::Memory;

/// The chip, in its machine.
pub type E1000eModel<M> = IntelModel<M, Chip82574>;

/// What only the 82574L does.
#[derive(Debug, Default)]
pub struct Chip82574;

type Own = State<Chip82574>;

fn pending(state: &Own) -> u32 {
    state.at(0xc0) & state.at(0xd0)
}

/// §7.4: a cause; its queue's and "other" follow from it.
fn raise<M: Memory>(machine: &Machine<M>, state: &mut Own, causes: u32) {
    let before = pending(state);
    let queue = u32::from(causes & 0x80 != 0) << 20 | u32::from(causes & 1 != 0) << 22;
    let other = u32::from(causes & 0x44 != 0) << 24;
    state.regs[0xc0 / 4] |= causes | queue | other;
    notify(machine, state, before);
}

fn notify<M: Memory>(machine: &Machine<M>, state: &Own, before: u32) {
    let pending = pending(state) & !before;
    // §10.2.4.9: receive, transmit and other, each with a vector that is valid.
    let vectors = state.at(0xe4);
    let valid = [(1 << 20, 1 << 3), (1 << 22, 1 << 11), (1 << 24, 1 << 19)];
    if valid.into_iter().any(|(cause, bit)| pending & cause != 0 && vectors & bit != 0) {
        machine.interrupt();
    }
}

impl Chip for Chip82574 {
    const NEGOTIATION: Duration = Duration::from_micros(200);
    const RECEIVE: usize = 0x2800;
    const TRANSMIT: usize = 0x3800;

    /// §4.6.1: the PHY and its link are not touched.
    fn restart(state: &mut Own, link: bool) {
        state.regs[2] |= u32::from(link) << 1;
        // TXDCTL and TIPG as §10.2.6 has them.
        state.regs[0x3828 / 4] = 1 << 22;
        state.regs[0x410 / 4] = 0x0060_2008;
    }

    fn raise_link<M: Memory>(machine: &Machine<M>, state: &mut Own) {
        raise(machine, state, 1 << 2);
    }

    fn write<M: Memory>(machine: &Machine<M>, state: &mut Own, at: usize, value: u32) -> bool {
        match at {
            0x0014 => {
                let word = value >> 2 & 0x3fff;
                state.regs[5] = (word.wrapping_mul(0x0101) & 0xffff) << 16 | word << 2 | 2;
            }
            0x00c0 => state.regs[0xc0 / 4] &= !value,
            0x00c8 => raise(machine, state, value),
            0x00d0 => {
                let before = pending(state);
                state.regs[0xd0 / 4] |= value;
                notify(machine, state, before);
            }
            0x00d8 => state.regs[0xd0 / 4] &= !value,
            _ => return false,
        }
        true
    }

    fn was_read(state: &mut Own, at: usize) {
        match at {
            // §10.2.4.1: reading clears while nothing is unmasked.
            0x00c0 if state.at(0xd0) == 0 => state.regs[0xc0 / 4] = 0,
            // Chapter 10.2.8: counters start again when they are read.
            0x4000..0x4130 => state.regs[at / 4] = 0,
            _ => {}
        }
    }

    /// §7.1.
    fn receive<M: Memory>(machine: &Machine<M>, state: &mut Own, frame: &[u8]) {
        if !state.hears(frame, usize::MAX) {
            return;
        }
        if state.at(0x100) & 1 << 5 == 0 && !state.hears(frame, 1522) {
            return state.count(0x40ac);
        }
        if !state.passes(frame) {
            return;
        }
        let bytes = state.landing(frame);
        let size = 2048 >> field(state.at(0x100).into(), 16, 2);
        let (base, slots) = state.ring(0x2800);
        let (mut head, tail) = (state.at(0x2810), state.at(0x2818));
        let free = if slots == 0 { 0 } else { (tail + slots - head) % slots };
        if (free as usize) < bytes.len().div_ceil(size) {
            state.count(0x4010);
            return raise(machine, state, 1 << 6);
        }
        let sums = state.at(0x5000) & 1 << 9 != 0;
        let right = if sums { frames::is_right(frame) } else { None };
        let pieces = bytes.chunks(size).count();
        for (n, piece) in bytes.chunks(size).enumerate() {
            let slot = base + u64::from(head) * 16;
            let mut descriptor = [0; 16];
            machine.read(slot, &mut descriptor);
            let [a, b, c, d, e, f, g, h, ..] = descriptor;
            machine.write(u64::from_le_bytes([a, b, c, d, e, f, g, h]), piece);
            let len = machine.faults.borrow().length.unwrap_or(piece.len() as u16);
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
            machine.write(slot, &descriptor);
            head = (head + 1) % slots;
        }
        state.regs[0x2810 / 4] = head;
        state.count(0x4074);
        raise(machine, state, 1 << 7);
    }

    /// §7.2.
    fn transmit<M: Memory>(machine: &Machine<M>, state: &mut Own) {
        let (base, slots) = state.ring(0x3800);
        if state.at(0x400) & 2 == 0 || !state.link() || slots == 0 {
            return;
        }
        let mut reported = false;
        while state.at(0x3810) != state.at(0x3818) % slots {
            let head = state.at(0x3810);
            let slot = base + u64::from(head) * 16;
            let mut bytes = [[0; 8]; 2];
            if !machine.read(slot, &mut bytes[0]) {
                return;
            }
            machine.read(slot + 8, &mut bytes[1]);
            let [low, high] = bytes.map(u64::from_le_bytes);
            let extended = high >> 29 & 1 == 1;
            if extended && field(high, 20, 4) == 0 {
                state.context = [low, high];
            } else {
                let (len, asked) = match extended {
                    true => (field(high, 0, 20), high),
                    false => (field(high, 0, 16), high & !(1 << 26) & 0xffff_ffff),
                };
                if state.gather(machine, low, len, asked) {
                    emit(state);
                }
            }
            if high >> 27 & 1 == 1 {
                machine.write(slot + 8, &(high | 1 << 32).to_le_bytes());
                reported = true;
            }
            state.regs[0x3810 / 4] = (head + 1) % slots;
        }
        if reported {
            raise(machine, state, 1);
        }
    }
}

/// A whole frame goes out, in segments if that is asked for: §7.3.
fn emit(state: &mut Own) {
    let mut frame = core::mem::take(&mut state.sending);
    let [low, high] = state.context;
    let (start, at) = (field(low, 32, 8), field(low, 40, 8));
    let sums = state.options >> 41 & 1 == 1;
    let ip_sums = state.options >> 40 & 1 == 1;
    if state.options >> 26 & 1 == 0 {
        if sums {
            frames::fill_in(&mut frame, start, at);
        }
        state.count(0x4080);
        return state.put_out(frame);
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
        state.count(0x4080);
        state.put_out(segment);
    }
}
