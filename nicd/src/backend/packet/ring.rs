//! The receive ring of a packet socket, TPACKET_V3: blocks that the kernel fills with frames, one after the other,
//! and hands over whole: when the next frame does not fit any more, or [`RETIRE_MS`] after the first one.
//!
//! ```text
//! block:  version │ … │ status │ frames │ first │ …      tpacket_block_desc, linux/if_packet.h
//!         0             8        12       16
//! frame:  next │ … │ here │ whole │ status │ mac │ …      tpacket3_hdr; then a virtio header, then the frame at `mac`
//!         0          12     16      20       24
//! ```
//!
//! What the kernel says of places and lengths is checked; a ring that contradicts itself is a device that is lost.

use crate::backend::kernel_calls::set_option;
use crate::backend::kernel_memory::KernelMemory;
use crate::virtio_header::SHORT_SIZE;
use core::sync::atomic::Ordering;
use rustix::fd::BorrowedFd;
use std::io;

/// Room for three super-frames, or some 160 frames of 1500 bytes.
const BLOCK_SIZE: usize = 256 * 1024;
/// 4 MiB: what a second of a slow start brings while nicd is started anew is not kept, a round of netd is.
const BLOCKS: usize = 16;
/// A frame waits so long at most until its block is handed over; no timer of the ring is shorter.
const RETIRE_MS: u32 = 1;

// linux/if_packet.h.
const SOL_PACKET: i32 = 263;
const PACKET_RX_RING: i32 = 5;
const PACKET_VERSION: i32 = 10;
const TPACKET_V3: u32 = 2;
const TP_STATUS_KERNEL: u32 = 0;
const TP_STATUS_USER: u32 = 1;
const TP_STATUS_LOSING: u32 = 1 << 2;
const TP_STATUS_VLAN_VALID: u32 = 1 << 4;
const BLOCK_STATUS: usize = 8;
const BLOCK_FRAMES: usize = 12;
const BLOCK_FIRST: usize = 16;
const BLOCK_HEADER: usize = 48;
const FRAME_HEADER: usize = 48;

/// A frame in the ring.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrived {
    /// Where it begins; its virtio header ends there.
    at: usize,
    /// Its length.
    pub(super) len: usize,
    /// Nothing of it is missing, and it bore no VLAN tag.
    pub(super) sound: bool,
    /// Frames before it found no room.
    pub(super) behind_lost: bool,
}

/// The block that is being read.
#[derive(Debug, Clone, Copy)]
struct Open {
    left: u32,
    at: usize,
}

/// A receive ring.
#[derive(Debug)]
pub(super) struct Ring {
    memory: KernelMemory,
    block: usize,
    open: Option<Open>,
}

fn nonsense() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the kernel's ring contradicts itself")
}

impl Ring {
    /// Gives a packet socket, which has a virtio header before each frame already, its ring.
    ///
    /// # Errors
    /// Those of setsockopt(2) and mmap(2).
    pub(super) fn new(socket: BorrowedFd<'_>) -> io::Result<Ring> {
        set_option(socket, SOL_PACKET, PACKET_VERSION, &TPACKET_V3.to_ne_bytes())?;
        // struct tpacket_req3: size and number of blocks, of frames (of no meaning here), timer, private bytes,
        // features.
        let frame = BLOCK_SIZE as u32 / 2;
        let request = [BLOCK_SIZE as u32, BLOCKS as u32, frame, 2 * BLOCKS as u32, RETIRE_MS, 0, 0];
        let request: Vec<u8> = request.iter().flat_map(|word| word.to_ne_bytes()).collect();
        set_option(socket, SOL_PACKET, PACKET_RX_RING, &request)?;
        let memory = KernelMemory::of_socket(socket, 0, BLOCK_SIZE * BLOCKS)?;
        Ok(Ring { memory, block: 0, open: None })
    }

    fn base(&self) -> usize {
        self.block * BLOCK_SIZE
    }

    fn word(&self, at: usize) -> u32 {
        self.memory.load(at, Ordering::Relaxed)
    }

    /// Whether there is a frame, as far as can be seen.
    pub(super) fn is_ready(&self) -> bool {
        // Acquire: pairs with the kernel's barrier between the block's frames and this word.
        let status = || self.memory.load(self.base() + BLOCK_STATUS, Ordering::Acquire);
        self.open.is_some() || status() & TP_STATUS_USER != 0
    }

    /// The next frame, which stays.
    ///
    /// # Errors
    /// When the kernel contradicts itself.
    pub(super) fn peek(&mut self) -> io::Result<Option<Arrived>> {
        while self.open.is_none() {
            if !self.is_ready() {
                return Ok(None);
            }
            let left = self.word(self.base() + BLOCK_FRAMES);
            let at = self.base() + self.word(self.base() + BLOCK_FIRST) as usize;
            if left == 0 {
                self.hand_back();
            } else {
                self.open = Some(Open { left, at });
            }
        }
        self.open.map(|Open { at, .. }| self.arrived(at)).transpose()
    }

    fn arrived(&self, header: usize) -> io::Result<Arrived> {
        let end = self.base() + BLOCK_SIZE;
        let inside =
            header >= self.base() + BLOCK_HEADER && header.is_multiple_of(4) && header + FRAME_HEADER <= end;
        if !inside {
            return Err(nonsense());
        }
        let (len, whole, status) = (self.word(header + 12), self.word(header + 16), self.word(header + 20));
        let mac = (self.word(header + 24) & 0xffff) as usize;
        let (at, len) = (header + mac, len as usize);
        if mac < FRAME_HEADER + SHORT_SIZE || at + len > end {
            return Err(nonsense());
        }
        let sound = len == whole as usize && status & TP_STATUS_VLAN_VALID == 0;
        Ok(Arrived { at, len, sound, behind_lost: status & TP_STATUS_LOSING != 0 })
    }

    /// The virtio header of a frame that [`Ring::peek`] gave and that is still there.
    pub(super) fn head(&self, frame: &Arrived) -> &[u8] {
        self.memory.bytes(frame.at - SHORT_SIZE, SHORT_SIZE)
    }

    /// As [`Ring::head`]: its bytes.
    pub(super) fn bytes(&self, frame: &Arrived) -> &[u8] {
        self.memory.bytes(frame.at, frame.len)
    }

    /// The next frame is done with.
    pub(super) fn advance(&mut self) {
        let Some(Open { left, at }) = self.open else { return };
        if left > 1 {
            self.open = Some(Open { left: left - 1, at: at + self.word(at) as usize });
        } else {
            self.open = None;
            self.hand_back();
        }
    }

    fn hand_back(&mut self) {
        // Release: pairs with the kernel's look at this word; we read nothing of the block after it.
        self.memory.store(self.base() + BLOCK_STATUS, TP_STATUS_KERNEL, Ordering::Release);
        self.block = (self.block + 1) % BLOCKS;
    }
}
