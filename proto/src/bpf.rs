//! The classic BPF machine: the programs that a socket filters by (bpf(4), McCanne and Jacobson 1993), as
//! Linux's SO_ATTACH_FILTER takes them.
//!
//! A program comes from a client and is checked as a whole before it runs ([`Program::new`]): every
//! instruction is known, every jump goes forward and lands inside, the last instruction returns, and memory
//! is within bounds. So a run ends after at most as many steps as the program has instructions. What a
//! program loads from beyond the packet ends it with "not wanted"; so does a division by zero.

use crate::arena::wishes::{FILTER_MAX, Instruction};

/// Cells of the scratch memory: BPF_MEMWORDS.
const MEMORY: usize = 16;

// Classes, sizes, modes, operations and sources: bpf(4).
const LD: u16 = 0;
const LDX: u16 = 1;
const ST: u16 = 2;
const STX: u16 = 3;
const ALU: u16 = 4;
const JMP: u16 = 5;
const RET: u16 = 6;
const MISC: u16 = 7;
const W: u16 = 0x00;
const H: u16 = 0x08;
const B: u16 = 0x10;
const IMM: u16 = 0x00;
const ABS: u16 = 0x20;
const IND: u16 = 0x40;
const MEM: u16 = 0x60;
const LEN: u16 = 0x80;
const MSH: u16 = 0xa0;
const X: u16 = 0x08;
const A: u16 = 0x10;

/// Linux's ancillary data: loads from offsets that no packet has (SKF_AD_OFF), and from the headers of the
/// network and of the link.
const ANCILLARY: u32 = -0x1000_i32 as u32;
const NETWORK: u32 = -0x10_0000_i32 as u32;
const LINK: u32 = -0x20_0000_i32 as u32;
const AD_PROTOCOL: u32 = 0;
const AD_PKTTYPE: u32 = 4;
const AD_IFINDEX: u32 = 8;
const AD_HATYPE: u32 = 28;
const AD_VLAN_TAG: u32 = 44;
const AD_VLAN_TAG_PRESENT: u32 = 48;

/// What a program can ask about a packet beside its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct About {
    /// The EtherType.
    pub protocol: u16,
    /// Linux's PACKET_HOST and its siblings.
    pub kind: u8,
    /// The index of the interface.
    pub interface: u32,
    /// Its hardware's type (ARPHRD_ETHER is 1).
    pub hardware: u16,
    /// Where the network's header begins in the bytes that the program sees; those of the link before it
    /// are at negative offsets for a cooked socket.
    pub network_at: usize,
}

/// A program that no machine could run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("instruction {at} of a filter can't be")]
pub struct BadProgram {
    /// Which instruction.
    pub at: usize,
}

/// A program that was checked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Program(Box<[Instruction]>);

impl Program {
    /// Checks a program. One without instructions lets everything pass.
    ///
    /// # Errors
    /// [`BadProgram`].
    pub fn new(code: &[Instruction]) -> Result<Program, BadProgram> {
        if code.len() > FILTER_MAX {
            return Err(BadProgram { at: FILTER_MAX });
        }
        for (at, one) in code.iter().enumerate() {
            let left = code.len() - at - 1;
            if !is_known(one) || !stays_inside(one, left) {
                return Err(BadProgram { at });
            }
        }
        match code.last() {
            Some(last) if last.code & 7 != RET => Err(BadProgram { at: code.len() - 1 }),
            _ => Ok(Program(code.into())),
        }
    }

    /// Whether it lets everything pass.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many bytes of a packet of `len` bytes are wanted; 0 for none of it. `read` copies bytes out of it,
    /// `false` where it has not so many.
    pub fn run(&self, read: impl Fn(usize, &mut [u8]) -> bool, len: u32, about: &About) -> u32 {
        if self.0.is_empty() {
            return u32::MAX;
        }
        self.interpret(&read, len, about).unwrap_or(0)
    }

    fn interpret(&self, read: &impl Fn(usize, &mut [u8]) -> bool, len: u32, about: &About) -> Option<u32> {
        let (mut a, mut x, mut memory, mut at) = (0u32, 0u32, [0u32; MEMORY], 0);
        loop {
            let Instruction { code, jt, jf, k } = *self.0.get(at)?;
            at += 1;
            let operand = if code & X != 0 { x } else { k };
            match code & 7 {
                LD => {
                    a = match code & 0xe0 {
                        IMM => k,
                        LEN => len,
                        MEM => memory[k as usize],
                        ABS => load(read, k, code & 0x18, about)?,
                        _ => load(read, x.wrapping_add(k), code & 0x18, about)?,
                    }
                }
                LDX => {
                    x = match code & 0xe0 {
                        IMM => k,
                        LEN => len,
                        MEM => memory[k as usize],
                        // The length of an IPv4 header.
                        _ => (load(read, k, B, about)? & 0xf) * 4,
                    }
                }
                ST => memory[k as usize] = a,
                STX => memory[k as usize] = x,
                ALU => a = compute(code & 0xf0, a, operand)?,
                JMP => {
                    let holds = match code & 0xf0 {
                        0x00 => {
                            at += k as usize;
                            continue;
                        }
                        0x10 => a == operand,
                        0x20 => a > operand,
                        0x30 => a >= operand,
                        _ => a & operand != 0,
                    };
                    at += usize::from(if holds { jt } else { jf });
                }
                RET => return Some(if code & A != 0 { a } else { k }),
                _ if code & 0x80 != 0 => a = x,
                _ => x = a,
            }
        }
    }
}

fn is_known(one: &Instruction) -> bool {
    let Instruction { code, k, .. } = *one;
    let sized = matches!(code & 0x18, W | H | B);
    match code & 7 {
        LD => match code & 0xe0 {
            ABS | IND => sized && code & 0xff00 == 0,
            IMM | LEN => code & 0x1f == LD,
            MEM => code & 0x1f == LD && (k as usize) < MEMORY,
            _ => false,
        },
        LDX => match code & 0xe0 {
            IMM | LEN => code & 0x1f == LDX,
            MEM => code & 0x1f == LDX && (k as usize) < MEMORY,
            MSH => code & 0x18 == B,
            _ => false,
        },
        ST | STX => code <= 7 && (k as usize) < MEMORY,
        ALU => {
            let shifts = matches!(code & 0xf0, 0x60 | 0x70);
            let divides = matches!(code & 0xf0, 0x30 | 0x90);
            let constant = code & X == 0;
            code <= 0xaf && !(constant && (shifts && k >= 32 || divides && k == 0))
        }
        JMP => code <= 0x4f && (code & 0xf0 != 0 || code == JMP),
        RET => matches!(code & 0xf8, 0x00 | 0x10),
        _ => matches!(code, MISC | 0x87),
    }
}

fn stays_inside(one: &Instruction, left: usize) -> bool {
    match (one.code & 7, one.code & 0xf0) {
        (JMP, 0) => (one.k as usize) < left,
        (JMP, _) => usize::from(one.jt) < left && usize::from(one.jf) < left,
        _ => true,
    }
}

fn compute(operation: u16, a: u32, operand: u32) -> Option<u32> {
    Some(match operation {
        0x00 => a.wrapping_add(operand),
        0x10 => a.wrapping_sub(operand),
        0x20 => a.wrapping_mul(operand),
        0x30 => a.checked_div(operand)?,
        0x40 => a | operand,
        0x50 => a & operand,
        0x60 => a.checked_shl(operand).unwrap_or(0),
        0x70 => a.checked_shr(operand).unwrap_or(0),
        0x80 => a.wrapping_neg(),
        0x90 => a.checked_rem(operand)?,
        _ => a ^ operand,
    })
}

fn load(read: &impl Fn(usize, &mut [u8]) -> bool, at: u32, size: u16, about: &About) -> Option<u32> {
    if at >= ANCILLARY {
        return ancillary(at - ANCILLARY, about);
    }
    let at = match at {
        NETWORK.. => about.network_at + (at - NETWORK) as usize,
        LINK.. => (at - LINK) as usize,
        _ => at as usize,
    };
    let mut bytes = [0; 4];
    let wanted = match size {
        W => &mut bytes[..],
        H => &mut bytes[2..],
        _ => &mut bytes[3..],
    };
    read(at, wanted).then(|| u32::from_be_bytes(bytes))
}

fn ancillary(what: u32, about: &About) -> Option<u32> {
    Some(match what {
        AD_PROTOCOL => about.protocol.into(),
        AD_PKTTYPE => about.kind.into(),
        AD_IFINDEX => about.interface,
        AD_HATYPE => about.hardware.into(),
        // A tag stands in the frame.
        AD_VLAN_TAG | AD_VLAN_TAG_PRESENT => 0,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn op(code: u16, jt: u8, jf: u8, k: u32) -> Instruction {
        Instruction { code, jt, jf, k }
    }

    fn run(code: &[Instruction], bytes: &[u8]) -> u32 {
        let about = About { protocol: 0x800, interface: 2, hardware: 1, network_at: 14, ..About::default() };
        Program::new(code).expect("a sound program").run(reader(bytes), bytes.len() as u32, &about)
    }

    fn reader(bytes: &[u8]) -> impl Fn(usize, &mut [u8]) -> bool {
        |at, out| {
            let found = bytes.get(at..at + out.len());
            found.inspect(|found| out.copy_from_slice(found)).is_some()
        }
    }

    /// What `tcpdump -dd 'udp port 53'` says for IPv4 on Ethernet.
    const UDP_53: [Instruction; 12] = [
        op(0x28, 0, 0, 12),
        op(0x15, 0, 9, 0x800),
        op(0x30, 0, 0, 23),
        op(0x15, 0, 7, 17),
        op(0x28, 0, 0, 20),
        op(0x45, 5, 0, 0x1fff),
        op(0xb1, 0, 0, 14),
        op(0x48, 0, 0, 14),
        op(0x15, 1, 0, 53),
        op(0x48, 0, 0, 16),
        op(0x06, 0, 0, 0x40000),
        op(0x06, 0, 0, 0),
    ];

    fn packet(src: u16, dst: u16) -> Vec<u8> {
        let mut packet = vec![0; 42];
        packet[12..14].copy_from_slice(&[8, 0]);
        packet[14] = 0x45;
        packet[23] = 17;
        packet[34..36].copy_from_slice(&src.to_be_bytes());
        packet[36..38].copy_from_slice(&dst.to_be_bytes());
        packet
    }

    #[test]
    fn a_program_of_tcpdump() {
        let mut code = UDP_53.to_vec();
        code[8] = op(0x15, 1, 0, 53);
        code.insert(10, op(0x15, 0, 1, 53));
        code[5].jt = 6;
        code[3].jf = 8;
        code[1].jf = 10;
        code[8].jt = 2;
        assert_eq!(run(&code, &packet(53, 9)), 0x40000);
        assert_eq!(run(&code, &packet(9, 53)), 0x40000);
        assert_eq!(run(&code, &packet(9, 9)), 0);
        assert_eq!(run(&code, &packet(53, 9)[..30]), 0, "cut before the ports");
        let mut fragment = packet(53, 9);
        fragment[21] = 1;
        assert_eq!(run(&code, &fragment), 0);
    }

    #[test]
    fn arithmetic_memory_and_ancillary_loads() {
        let returned = |code: &[Instruction]| {
            let code: Vec<_> = code.iter().copied().chain([op(RET | A, 0, 0, 0)]).collect();
            run(&code, &[1, 2, 3, 4])
        };
        for (operation, k, expected) in [
            (0x04, 2, 12),
            (0x14, 3, 7),
            (0x24, 5, 50),
            (0x34, 3, 3),
            (0x44, 5, 15),
            (0x54, 6, 2),
            (0x64, 4, 160),
            (0x74, 1, 5),
            (0x84, 0, 10u32.wrapping_neg()),
            (0x94, 4, 2),
            (0xa4, 3, 9),
        ] {
            assert_eq!(returned(&[op(LD, 0, 0, 10), op(operation, 0, 0, k)]), expected, "{operation:#x}");
        }
        assert_eq!(
            returned(&[op(LD, 0, 0, 7), op(ST, 0, 0, 3), op(LDX | MEM, 0, 0, 3), op(0x87, 0, 0, 0)]),
            7
        );
        assert_eq!(returned(&[op(LD | LEN, 0, 0, 0)]), 4);
        assert_eq!(returned(&[op(LD | W | ABS, 0, 0, 0)]), 0x0102_0304);
        assert_eq!(returned(&[op(LDX, 0, 0, 1), op(LD | H | IND, 0, 0, 1)]), 0x0304);
        assert_eq!(returned(&[op(LD | W | ABS, 0, 0, ANCILLARY + AD_IFINDEX)]), 2);
        assert_eq!(returned(&[op(LDX, 0, 0, 0), op(LD, 0, 0, 1), op(0x3c, 0, 0, 0)]), 0, "by zero");
    }

    #[test]
    fn what_no_machine_could_run_is_refused() {
        let end = op(RET, 0, 0, 1);
        for (bad, at) in [
            (vec![op(LD, 0, 0, 1)], 0),
            (vec![op(JMP, 0, 0, 1), end], 0),
            (vec![op(JMP, 0, 0, u32::MAX), end], 0),
            (vec![op(JMP | 0x10, 0, 1, 0), end], 0),
            (vec![op(ST, 0, 0, 16), end], 0),
            (vec![end, op(LDX | MEM, 0, 0, 99), end], 1),
            (vec![op(0x34, 0, 0, 0), end], 0),
            (vec![op(0x64, 0, 0, 32), end], 0),
            (vec![op(0x18, 0, 0, 0), end], 0),
            (vec![op(0xffff, 0, 0, 0), end], 0),
            (vec![end; FILTER_MAX + 1], FILTER_MAX),
        ] {
            assert_eq!(Program::new(&bad), Err(BadProgram { at }), "{bad:?}");
        }
        assert_eq!(
            Program::new(&[]).expect("nothing is wanted").run(reader(&[]), 0, &About::default()),
            u32::MAX
        );
    }

    fn instruction() -> impl Strategy<Value = Instruction> {
        let code = prop_oneof![0u16..0xb8, any::<u16>()];
        let k = prop_oneof![0u32..40, any::<u32>()];
        (code, 0u8..6, 0u8..6, k).prop_map(|(code, jt, jf, k)| Instruction { code, jt, jf, k })
    }

    proptest! {
        #[test]
        fn whatever_is_let_through_runs(
            code in prop::collection::vec(instruction(), 0..24),
            bytes in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let code: Vec<_> = code.into_iter().chain([op(RET | A, 0, 0, 0)]).collect();
            if let Ok(program) = Program::new(&code) {
                program.run(reader(&bytes), bytes.len() as u32, &About::default());
            }
        }
    }
}
