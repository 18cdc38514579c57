//! The program that an interface runs over each frame before the kernel's own stack sees it: what is for our hardware
//! address goes to the socket of its queue, everything else goes on as if nobody were there.
//!
//! It is a dozen instructions, put together here: no compiler for them is needed. Map, program and link are
//! descriptors of this process: they vanish with it, and the interface is as it was.

#![expect(unsafe_code, reason = "bpf(2) has no wrapper")]

use proto::control::notices::Mac;
use rustix::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::io;

// linux/bpf.h.
const BPF_MAP_CREATE: i64 = 0;
const BPF_MAP_UPDATE_ELEM: i64 = 2;
const BPF_PROG_LOAD: i64 = 5;
const BPF_LINK_CREATE: i64 = 28;
const BPF_MAP_TYPE_XSKMAP: u32 = 17;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
const BPF_FUNC_REDIRECT_MAP: i32 = 51;
const BPF_PSEUDO_MAP_FD: u8 = 1;
/// What the kernel does with a frame that is not redirected.
const XDP_PASS: i32 = 2;
/// linux/if_link.h: where the driver can't, the kernel runs it a little later.
const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
/// Bytes of union bpf_attr that are used here at most; the kernel takes any number with zeros behind.
const ATTRIBUTE_SIZE: usize = 128;

/// union bpf_attr, put together field by field.
struct Attribute([u8; ATTRIBUTE_SIZE]);

impl Attribute {
    fn new() -> Self {
        Attribute([0; ATTRIBUTE_SIZE])
    }

    fn word(mut self, at: usize, value: u32) -> Self {
        self.0[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        self
    }

    fn descriptor(self, at: usize, value: BorrowedFd<'_>) -> Self {
        self.word(at, value.as_raw_fd().cast_unsigned())
    }

    /// The address of bytes that live until the call.
    fn bytes(mut self, at: usize, value: &[u8]) -> Self {
        self.0[at..at + 8].copy_from_slice(&(value.as_ptr() as u64).to_ne_bytes());
        self
    }

    /// bpf(2). Every address in it is one of [`Attribute::bytes`], of a slice that the caller still borrows and that
    /// the command only reads.
    fn call(self, command: i64) -> io::Result<i64> {
        // SAFETY: the kernel reads the attribute, which lives until the call returns, and what it points at.
        let outcome = unsafe { libc::syscall(libc::SYS_bpf, command, self.0.as_ptr(), ATTRIBUTE_SIZE) };
        if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(outcome) }
    }

    fn open(self, command: i64) -> io::Result<OwnedFd> {
        let fd = self.call(command)?;
        // SAFETY: these commands return a new descriptor, which nobody else has.
        Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
    }
}

/// The sockets of an interface's queues, by number.
#[derive(Debug)]
pub(super) struct Sockets(OwnedFd);

impl Sockets {
    /// Room for so many queues.
    ///
    /// # Errors
    /// Those of bpf(2): no right to it.
    pub(super) fn new(queues: u32) -> io::Result<Sockets> {
        let attribute = Attribute::new().word(0, BPF_MAP_TYPE_XSKMAP).word(4, 4).word(8, 4).word(12, queues);
        attribute.open(BPF_MAP_CREATE).map(Sockets)
    }

    /// Frames of `queue` go to `socket`.
    ///
    /// # Errors
    /// Those of bpf(2).
    pub(super) fn set(&self, queue: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
        use rustix::fd::AsFd;
        let (key, value) = (queue.to_ne_bytes(), socket.as_raw_fd().to_ne_bytes());
        let attribute = Attribute::new().descriptor(0, self.0.as_fd()).bytes(8, &key).bytes(16, &value);
        attribute.call(BPF_MAP_UPDATE_ELEM).map(drop)
    }

    /// Runs the program on interface `index` of the calling thread's namespace, as long as the descriptor lives: in
    /// its driver, or where that can't, behind it.
    ///
    /// # Errors
    /// Those of bpf(2): no right, another program is there.
    pub(super) fn attach(&self, mac: &Mac, index: u32) -> io::Result<OwnedFd> {
        use rustix::fd::AsFd;
        let instructions = program(mac, self.0.as_raw_fd());
        let license = b"Dual MIT/GPL\0";
        let count = (instructions.len() / 8) as u32;
        let load = Attribute::new().word(0, BPF_PROG_TYPE_XDP).word(4, count);
        let program = load.bytes(8, &instructions).bytes(16, license).open(BPF_PROG_LOAD)?;
        let link = |flags| {
            let attribute = Attribute::new().descriptor(0, program.as_fd()).word(4, index).word(8, BPF_XDP);
            attribute.word(12, flags).open(BPF_LINK_CREATE)
        };
        link(0).or_else(|_| link(XDP_FLAGS_SKB_MODE))
    }
}

/// struct bpf_insn: code, two registers, offset, value.
fn instruction(code: u8, target: u8, source: u8, offset: i16, value: i32) -> [u8; 8] {
    let [low, high] = offset.to_ne_bytes();
    let [a, b, c, d] = value.to_ne_bytes();
    [code, target | source << 4, low, high, a, b, c, d]
}

/// Frames for `mac` to the socket of their queue in `sockets`, all others on.
fn program([a, b, c, d, e, f]: &Mac, sockets: i32) -> Vec<u8> {
    // linux/bpf_common.h and linux/bpf.h; r0 result, r1 context and arguments, r2 to r5 free.
    const LOAD_WORD: u8 = 0x61;
    const LOAD_HALF: u8 = 0x69;
    const LOAD_MAP: u8 = 0x18;
    const MOVE: u8 = 0xbf;
    const MOVE_VALUE: u8 = 0xb7;
    const ADD_VALUE: u8 = 0x07;
    const IF_GREATER: u8 = 0x2d;
    /// Of the lower 32 bits.
    const IF_NOT_VALUE: u8 = 0x56;
    const CALL: u8 = 0x85;
    const EXIT: u8 = 0x95;
    let high = i32::from_ne_bytes([*a, *b, *c, *d]);
    let low = i32::from(u16::from_ne_bytes([*e, *f]));
    [
        // struct xdp_md: data, data_end, …, rx_queue_index at 16.
        instruction(LOAD_WORD, 2, 1, 0, 0),
        instruction(LOAD_WORD, 3, 1, 4, 0),
        instruction(MOVE, 4, 2, 0, 0),
        instruction(ADD_VALUE, 4, 0, 0, 14),
        instruction(IF_GREATER, 4, 3, 10, 0),
        instruction(LOAD_WORD, 5, 2, 0, 0),
        instruction(IF_NOT_VALUE, 5, 0, 8, high),
        instruction(LOAD_HALF, 5, 2, 4, 0),
        instruction(IF_NOT_VALUE, 5, 0, 6, low),
        instruction(LOAD_WORD, 2, 1, 16, 0),
        instruction(LOAD_MAP, 1, BPF_PSEUDO_MAP_FD, 0, sockets),
        instruction(0, 0, 0, 0, 0),
        // Where the queue has no socket the frame goes on.
        instruction(MOVE_VALUE, 3, 0, 0, XDP_PASS),
        instruction(CALL, 0, 0, 0, BPF_FUNC_REDIRECT_MAP),
        instruction(EXIT, 0, 0, 0, 0),
        instruction(MOVE_VALUE, 0, 0, 0, XDP_PASS),
        instruction(EXIT, 0, 0, 0, 0),
    ]
    .concat()
}
