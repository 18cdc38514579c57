//! bpf(2): programs that the kernel runs over frames, put together by [`matcher`](super::matcher).
//!
//! Map, program and link are descriptors: what they do ends with the last duplicate of them.

#![expect(unsafe_code, reason = "bpf(2) has no wrapper")]

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::io;

// linux/bpf.h.
const BPF_MAP_CREATE: i64 = 0;
const BPF_MAP_UPDATE_ELEM: i64 = 2;
const BPF_PROG_LOAD: i64 = 5;
const BPF_OBJ_GET_INFO_BY_FD: i64 = 15;
const BPF_LINK_CREATE: i64 = 28;
const BPF_MAP_TYPE_XSKMAP: u32 = 17;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
const BPF_TCX_INGRESS: u32 = 46;
/// linux/if_link.h: where the driver can't, the kernel runs it a little later.
const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
/// Bytes of union bpf_attr that are used here at most; the kernel takes any number with zeros behind.
const ATTRIBUTE_SIZE: usize = 128;
/// Bytes of struct bpf_link_info that are looked at.
const LINK_INFO_SIZE: usize = 64;

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

    /// The address of bytes that the command writes, and that live until the call.
    fn room(mut self, at: usize, value: &mut [u8]) -> Self {
        self.0[at..at + 8].copy_from_slice(&(value.as_mut_ptr() as u64).to_ne_bytes());
        self
    }

    /// bpf(2). Every address in it is one of [`Attribute::bytes`], of a slice that the caller still borrows and that
    /// the command only reads, or of [`Attribute::room`], of one that it borrows mutably.
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

/// Sockets by number, as a program hands frames to them.
#[derive(Debug)]
pub(super) struct SocketMap(OwnedFd);

impl SocketMap {
    /// Room for so many.
    ///
    /// # Errors
    /// Those of bpf(2): no right to it.
    pub(super) fn new(places: u32) -> io::Result<SocketMap> {
        let attribute = Attribute::new().word(0, BPF_MAP_TYPE_XSKMAP).word(4, 4).word(8, 4).word(12, places);
        attribute.open(BPF_MAP_CREATE).map(SocketMap)
    }

    /// Enters a socket.
    ///
    /// # Errors
    /// Those of bpf(2).
    pub(super) fn set(&self, place: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
        let (key, value) = (place.to_ne_bytes(), socket.as_raw_fd().to_ne_bytes());
        let attribute = Attribute::new().descriptor(0, self.0.as_fd()).bytes(8, &key).bytes(16, &value);
        attribute.call(BPF_MAP_UPDATE_ELEM).map(drop)
    }

    /// How a program of this process names it.
    pub(super) fn number(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

fn load(kind: u32, instructions: &[u8]) -> io::Result<OwnedFd> {
    let license = b"Dual MIT/GPL\0";
    let count = (instructions.len() / 8) as u32;
    let load = Attribute::new().word(0, kind).word(4, count);
    load.bytes(8, instructions).bytes(16, license).open(BPF_PROG_LOAD)
}

fn link(program: &OwnedFd, index: u32, place: u32, flags: u32) -> io::Result<OwnedFd> {
    let attribute = Attribute::new().descriptor(0, program.as_fd()).word(4, index).word(8, place);
    attribute.word(12, flags).open(BPF_LINK_CREATE)
}

/// Runs a program over each frame that interface `index` of the calling thread's namespace receives, before the kernel
/// makes a packet of it, as long as the descriptor lives: in its driver, or where that can't, behind it.
///
/// # Errors
/// Those of bpf(2): no right, another program is there.
pub(super) fn before_packets(instructions: &[u8], index: u32) -> io::Result<OwnedFd> {
    let program = load(BPF_PROG_TYPE_XDP, instructions)?;
    link(&program, index, BPF_XDP, 0).or_else(|_| link(&program, index, BPF_XDP, XDP_FLAGS_SKB_MODE))
}

/// Runs a program over each packet that the interface receives, between packet sockets and the kernel's own stack, as
/// long as the descriptor or a duplicate of it lives: tcx, of Linux 6.6.
///
/// # Errors
/// Those of bpf(2): no right.
pub(super) fn before_the_stack(instructions: &[u8], index: u32) -> io::Result<OwnedFd> {
    let program = load(BPF_PROG_TYPE_SCHED_CLS, instructions)?;
    link(&program, index, BPF_TCX_INGRESS, 0)
}

/// The interface on which a link of [`before_the_stack`] runs; 0 when that is gone.
///
/// # Errors
/// Those of bpf(2): it is no link.
pub(super) fn runs_on(link: BorrowedFd<'_>) -> io::Result<u32> {
    let mut info = [0; LINK_INFO_SIZE];
    let attribute = Attribute::new().descriptor(0, link).word(4, LINK_INFO_SIZE as u32).room(8, &mut info);
    attribute.call(BPF_OBJ_GET_INFO_BY_FD)?;
    // struct bpf_link_info: type, number, program, padding, then of tcx: interface, place.
    Ok(u32::from_ne_bytes([info[16], info[17], info[18], info[19]]))
}
