//! Which frames are meant, as a small program over their bytes, and that program in the three forms in which the
//! kernel takes it: classic BPF for a socket, and the instructions of bpf(2) for what runs before its stack.
//!
//! A program has one register to load into and one for the length of an IPv4 header, jumps forward only, and ends with
//! yes or no; it is a no where a frame is too short.

use libc::sock_filter;

/// How much is loaded, in network order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Width {
    Byte,
    Half,
    Word,
}

/// What is asked of the loaded value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Test {
    Equals(u32),
    AtLeast(u32),
    Above(u32),
    /// A bit of these is set.
    Has(u32),
}

/// A place in a program to jump to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark(usize);

/// The line that follows.
pub(super) const NEXT: Mark = Mark(usize::MAX);
/// The frame is meant.
pub(super) const YES: Mark = Mark(0);
/// It is not.
pub(super) const NO: Mark = Mark(1);

#[derive(Debug, Clone, Copy)]
enum Line {
    Load { at: u32, width: Width },
    LoadBehindHeader { at: u32, width: Width },
    HeaderLength { at: u32 },
    Jump { test: Test, then: Mark, or: Mark },
}

/// A program.
#[derive(Debug, Clone)]
pub(super) struct Matcher {
    lines: Vec<Line>,
    /// By number: the line, once it is known.
    marks: Vec<Option<usize>>,
}

/// What the instructions of [`Matcher::xdp`] do with a frame that is meant.
#[derive(Debug, Clone, Copy)]
pub(super) struct ToSockets {
    /// The map, as the process names it.
    pub(super) map: i32,
}

impl Matcher {
    pub(super) fn new() -> Matcher {
        Matcher { lines: Vec::new(), marks: vec![None, None] }
    }

    /// A place that is not known yet.
    pub(super) fn mark(&mut self) -> Mark {
        self.marks.push(None);
        Mark(self.marks.len() - 1)
    }

    /// The next line is that place.
    pub(super) fn here(&mut self, mark: Mark) {
        self.marks[mark.0] = Some(self.lines.len());
    }

    /// Loads what is at `at` in the frame.
    pub(super) fn load(&mut self, at: u32, width: Width) {
        self.lines.push(Line::Load { at, width });
    }

    /// Loads what is at `at` behind the length that [`Matcher::header_length`] found.
    pub(super) fn load_behind_header(&mut self, at: u32, width: Width) {
        self.lines.push(Line::LoadBehindHeader { at, width });
    }

    /// Remembers four times the lower half of the byte at `at`: RFC 791 §3.1, IHL. What was loaded is forgotten.
    pub(super) fn header_length(&mut self, at: u32) {
        self.lines.push(Line::HeaderLength { at });
    }

    /// Goes on at one of two places, forward.
    pub(super) fn jump(&mut self, test: Test, then: Mark, or: Mark) {
        self.lines.push(Line::Jump { test, then, or });
    }

    /// The line of a mark, as seen from `line`; the two last ones are yes and no.
    fn target(&self, line: usize, mark: Mark) -> usize {
        let target = match mark {
            NEXT => line + 1,
            YES => self.lines.len(),
            NO => self.lines.len() + 1,
            Mark(number) => self.marks[number].expect("a place that is jumped to is somewhere"),
        };
        assert!(target > line, "jumps go forward");
        target
    }

    /// For a socket (linux/filter.h): a frame that is meant is taken whole.
    pub(super) fn classic(&self) -> Vec<sock_filter> {
        let line = |code, jt, jf, k| sock_filter { code, jt, jf, k };
        let mut out = Vec::with_capacity(self.lines.len() + 2);
        for (number, one) in self.lines.iter().enumerate() {
            let distance = |mark| {
                let lines = self.target(number, mark) - number - 1;
                u8::try_from(lines).expect("a short program")
            };
            out.push(match *one {
                Line::Load { at, width } => line(0x20 | u16::from(classic_size(width)), 0, 0, at),
                Line::LoadBehindHeader { at, width } => line(0x40 | u16::from(classic_size(width)), 0, 0, at),
                Line::HeaderLength { at } => line(0xb1, 0, 0, at),
                Line::Jump { test, then, or } => {
                    let (code, value) = match test {
                        Test::Equals(value) => (0x15, value),
                        Test::Above(value) => (0x25, value),
                        Test::AtLeast(value) => (0x35, value),
                        Test::Has(bits) => (0x45, bits),
                    };
                    line(code, distance(then), distance(or), value)
                }
            });
        }
        out.extend([line(0x06, 0, 0, u32::MAX), line(0x06, 0, 0, 0)]);
        out
    }

    /// For tcx: a frame that is meant goes no further, every other one on to whatever else is there; one with a VLAN
    /// tag, which the kernel keeps beside it, is another cable's.
    pub(super) fn tcx(&self) -> Vec<u8> {
        /// linux/bpf.h: enum tcx_action_base.
        const TCX_NEXT: i32 = -1;
        const TCX_DROP: i32 = 2;
        /// struct __sk_buff.
        const VLAN_PRESENT: i16 = 20;
        let mut out = Instructions::new(self);
        // The loads below want the packet in r6, and forget r1 to r5.
        out.push(MOVE, 6, 1, 0, 0);
        out.push(LOAD_WORD, 0, 6, VLAN_PRESENT, 0);
        out.jump_to_line(IF_NOT_VALUE, 0, self.lines.len() + 1);
        for (number, line) in self.lines.iter().enumerate() {
            out.begin(number);
            match *line {
                Line::Load { at, width } => out.push(0x20 | classic_size(width), 0, 0, 0, at as i32),
                Line::LoadBehindHeader { at, width } => {
                    out.push(0x40 | classic_size(width), 0, 7, 0, at as i32);
                }
                Line::HeaderLength { at } => {
                    out.push(0x20 | classic_size(Width::Byte), 0, 0, 0, at as i32);
                    out.times_four();
                }
                Line::Jump { test, then, or } => out.jump(number, test, then, or),
            }
        }
        out.verdicts(
            |out| {
                out.push(MOVE_VALUE, 0, 0, 0, TCX_DROP);
                out.push(EXIT, 0, 0, 0, 0);
            },
            TCX_NEXT,
        )
    }

    /// For XDP: a frame that is meant goes to the socket of its queue, every other one on to the kernel.
    pub(super) fn xdp(&self, sockets: ToSockets) -> Vec<u8> {
        /// linux/bpf.h: what the kernel does with a frame that is not redirected.
        const XDP_PASS: i32 = 2;
        const LOAD_MAP: u8 = 0x18;
        const BPF_PSEUDO_MAP_FD: u8 = 1;
        const CALL: u8 = 0x85;
        const BPF_FUNC_REDIRECT_MAP: i32 = 51;
        let mut out = Instructions::new(self);
        // struct xdp_md: data, data_end, …, rx_queue_index at 16.
        out.push(MOVE, 6, 1, 0, 0);
        out.push(LOAD_WORD, 2, 6, 0, 0);
        out.push(LOAD_WORD, 3, 6, 4, 0);
        for (number, line) in self.lines.iter().enumerate() {
            out.begin(number);
            match *line {
                Line::Load { at, width } => out.load_checked(None, at, width),
                Line::LoadBehindHeader { at, width } => out.load_checked(Some(7), at, width),
                Line::HeaderLength { at } => {
                    out.load_checked(None, at, Width::Byte);
                    out.times_four();
                }
                Line::Jump { test, then, or } => out.jump(number, test, then, or),
            }
        }
        out.verdicts(
            |out| {
                out.push(LOAD_WORD, 2, 6, 16, 0);
                out.push(LOAD_MAP, 1, BPF_PSEUDO_MAP_FD, 0, sockets.map);
                out.push(0, 0, 0, 0, 0);
                // Where the queue has no socket the frame goes on.
                out.push(MOVE_VALUE, 3, 0, 0, XDP_PASS);
                out.push(CALL, 0, 0, 0, BPF_FUNC_REDIRECT_MAP);
                out.push(EXIT, 0, 0, 0, 0);
            },
            XDP_PASS,
        )
    }
}

// linux/bpf_common.h and linux/bpf.h; r0 result and what is loaded, r1 to r5 free, r6 context, r7 a header's length.
const LOAD_WORD: u8 = 0x61;
const LOAD_HALF: u8 = 0x69;
const LOAD_BYTE: u8 = 0x71;
const MOVE: u8 = 0xbf;
const MOVE_VALUE: u8 = 0xb7;
const ADD: u8 = 0x0f;
const ADD_VALUE: u8 = 0x07;
const AND_VALUE: u8 = 0x57;
const SHIFT_LEFT: u8 = 0x67;
const TO_NETWORK: u8 = 0xdc;
const IF_GREATER: u8 = 0x2d;
/// Of the lower 32 bits.
const IF_NOT_VALUE: u8 = 0x56;
const ALWAYS: u8 = 0x05;
const EXIT: u8 = 0x95;

const fn classic_size(width: Width) -> u8 {
    match width {
        Width::Word => 0x00,
        Width::Half => 0x08,
        Width::Byte => 0x10,
    }
}

/// Instructions of bpf(2) for a program, its jumps filled in at the end.
struct Instructions<'a> {
    program: &'a Matcher,
    out: Vec<[u8; 8]>,
    /// Where each line begins; the two last ones are yes and no.
    begins: Vec<usize>,
    /// Instructions that jump, and the line they jump to.
    jumps: Vec<(usize, usize)>,
}

impl<'a> Instructions<'a> {
    fn new(program: &'a Matcher) -> Self {
        let begins = vec![0; program.lines.len() + 2];
        Instructions { program, out: Vec::new(), begins, jumps: Vec::new() }
    }

    /// struct bpf_insn: code, two registers, offset, value.
    fn push(&mut self, code: u8, target: u8, source: u8, offset: i16, value: i32) {
        let [low, high] = offset.to_ne_bytes();
        let [a, b, c, d] = value.to_ne_bytes();
        self.out.push([code, target | source << 4, low, high, a, b, c, d]);
    }

    fn begin(&mut self, line: usize) {
        self.begins[line] = self.out.len();
    }

    fn jump_to_line(&mut self, code: u8, value: i32, line: usize) {
        self.jumps.push((self.out.len(), line));
        self.push(code, 0, 0, 0, value);
    }

    fn jump(&mut self, line: usize, test: Test, then: Mark, or: Mark) {
        let (code, value) = match test {
            Test::Equals(value) => (0x16, value),
            Test::Above(value) => (0x26, value),
            Test::AtLeast(value) => (0x36, value),
            Test::Has(bits) => (0x46, bits),
        };
        self.jump_to_line(code, value.cast_signed(), self.program.target(line, then));
        let or = self.program.target(line, or);
        if or != line + 1 {
            self.jump_to_line(ALWAYS, 0, or);
        }
    }

    /// The length of a header, of what was loaded.
    fn times_four(&mut self) {
        self.push(AND_VALUE, 0, 0, 0, 0xf);
        self.push(SHIFT_LEFT, 0, 0, 0, 2);
        self.push(MOVE, 7, 0, 0, 0);
    }

    /// Loads from the frame, which begins at r2 and ends at r3, behind a register if there is one.
    fn load_checked(&mut self, behind: Option<u8>, at: u32, width: Width) {
        let (code, bytes) = match width {
            Width::Byte => (LOAD_BYTE, 1),
            Width::Half => (LOAD_HALF, 2),
            Width::Word => (LOAD_WORD, 4),
        };
        self.push(MOVE, 4, 2, 0, 0);
        if let Some(register) = behind {
            self.push(ADD, 4, register, 0, 0);
        }
        self.push(MOVE, 5, 4, 0, 0);
        self.push(ADD_VALUE, 5, 0, 0, at as i32 + bytes);
        self.jumps.push((self.out.len(), self.program.lines.len() + 1));
        self.push(IF_GREATER, 5, 3, 0, 0);
        self.push(code, 0, 4, at as i16, 0);
        if bytes > 1 {
            self.push(TO_NETWORK, 0, 0, 0, bytes * 8);
        }
    }

    fn verdicts(mut self, yes: impl FnOnce(&mut Self), no: i32) -> Vec<u8> {
        self.begin(self.program.lines.len());
        yes(&mut self);
        self.begin(self.program.lines.len() + 1);
        self.push(MOVE_VALUE, 0, 0, 0, no);
        self.push(EXIT, 0, 0, 0, 0);
        for (from, line) in self.jumps {
            let distance = self.begins[line] as i16 - from as i16 - 1;
            self.out[from][2..4].copy_from_slice(&distance.to_ne_bytes());
        }
        self.out.concat()
    }
}
