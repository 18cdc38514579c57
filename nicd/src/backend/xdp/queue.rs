//! One queue of an interface: an AF_XDP socket, its memory, its four rings.
//!
//! The memory is this process's own, in chunks: the first [`RECEIVE_CHUNKS`] go round between fill and receive ring,
//! the others between our list, transmit and completion ring. No page of netd is ever the kernel's, so that no death
//! needs the socket to be closed before its pages are used again; the price is one copy.
//!
//! ```text
//!  ours ──fill──▶ kernel ──receive──▶ ours        ours ──transmit──▶ kernel ──completion──▶ ours
//! ```
//!
//! What the kernel says of chunks and lengths is checked.

use crate::backend::kernel_memory::KernelMemory;
use core::sync::atomic::Ordering;
use core::time::Duration;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::xdp::{
    SocketAddrXdp, SocketAddrXdpFlags, XdpOptionsFlags, XdpRingOffset, XdpUmemReg, XdpUmemRegFlags,
};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};
use std::io;

/// A page: the kernel takes no chunk that is larger, and none that is no power of two.
const CHUNK: usize = 4096;
/// XDP_PACKET_HEADROOM of linux/bpf.h: the kernel leaves so much before a frame.
const HEADROOM: usize = 256;
/// The longest frame that a chunk holds.
pub(super) const FRAME_MAX: usize = CHUNK - HEADROOM;
/// Chunks to receive into.
const RECEIVE_CHUNKS: u32 = 2048;
/// Chunks to send from.
const TRANSMIT_CHUNKS: u32 = 512;
/// linux/if_xdp.h: a bit of the word `flags` of a ring.
const NEED_WAKEUP: u32 = 1;
/// Where the rings are to be mapped: linux/if_xdp.h, XDP_PGOFF_*.
const RECEIVE_AT: u64 = 0;
const TRANSMIT_AT: u64 = 0x8000_0000;
const FILL_AT: u64 = 0x1_0000_0000;
const COMPLETION_AT: u64 = 0x1_8000_0000;
/// A predecessor's socket is taken down by the kernel a moment after its end.
const BUSY_STEP: Duration = Duration::from_millis(1);
const BUSY_STEPS: u32 = 2_000;
/// The kernel sends so many of a socket's frames by one call; a call for each so many that may wait.
const KICKS_MAX: u32 = TRANSMIT_CHUNKS / 32 + 1;

/// A ring that is shared with the kernel; `ITEM` bytes a slot. Numbers of slots only grow.
#[derive(Debug)]
struct Ring<const ITEM: usize> {
    memory: KernelMemory,
    producer: usize,
    consumer: usize,
    flags: Option<usize>,
    slots_at: usize,
    slots: u32,
    /// Our own number of the two, which the kernel is told of by [`Ring::publish`].
    ours: u32,
}

impl<const ITEM: usize> Ring<ITEM> {
    fn new(socket: BorrowedFd<'_>, at: u64, places: &XdpRingOffset, slots: u32) -> io::Result<Self> {
        let slots_at = places.desc as usize;
        let memory = KernelMemory::of_socket(socket, at, slots_at + slots as usize * ITEM)?;
        let (producer, consumer) = (places.producer as usize, places.consumer as usize);
        let flags = places.flags.map(|flags| flags as usize);
        Ok(Ring { memory, producer, consumer, flags, slots_at, slots, ours: 0 })
    }

    /// What the kernel has produced and we have not taken.
    fn waiting(&self) -> u32 {
        // Acquire: pairs with the kernel's release of its number; the slots are written before it.
        self.memory.load(self.producer, Ordering::Acquire).wrapping_sub(self.ours)
    }

    /// Slots that the kernel has taken of those that we have produced: room for more.
    fn room(&self) -> u32 {
        // Acquire: pairs with the kernel's release; it has read the slots before it.
        let taken = self.memory.load(self.consumer, Ordering::Acquire);
        self.slots.saturating_sub(self.ours.wrapping_sub(taken))
    }

    fn slot(&self) -> usize {
        self.slots_at + (self.ours & (self.slots - 1)) as usize * ITEM
    }

    /// The next slot of what waits.
    fn read(&self) -> [u8; ITEM] {
        let mut item = [0; ITEM];
        item.copy_from_slice(self.memory.bytes(self.slot(), ITEM));
        item
    }

    /// The next slot of what is ours to produce.
    fn write(&mut self, item: &[u8; ITEM]) {
        let at = self.slot();
        self.memory.bytes_mut(at, ITEM).copy_from_slice(item);
        self.ours = self.ours.wrapping_add(1);
    }

    /// Tells the kernel our number, the one that is at `at`.
    fn publish(&self, at: usize) {
        // Release: pairs with the kernel's acquire; the slots are written, or read, before it.
        self.memory.store(at, self.ours, Ordering::Release);
    }

    fn needs_wakeup(&self) -> bool {
        self.flags.is_some_and(|at| self.memory.load(at, Ordering::Relaxed) & NEED_WAKEUP != 0)
    }
}

/// One queue.
#[derive(Debug)]
pub(super) struct Queue {
    socket: OwnedFd,
    memory: KernelMemory,
    fill: Ring<8>,
    receive: Ring<16>,
    transmit: Ring<16>,
    completion: Ring<8>,
    /// Chunks to send from.
    free: Vec<u64>,
    /// By chunk: it holds a frame that the kernel has not said it is done with.
    under_way: Vec<bool>,
    /// The device reads and writes the chunks itself.
    zero_copy: bool,
}

fn nonsense() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the kernel's rings contradict themselves")
}

impl Queue {
    /// Opens queue `number` of interface `index`, of the calling thread's namespace.
    ///
    /// # Errors
    /// `InvalidInput` when there is no such queue; what the kernel says else: no right, no such sockets, too little
    /// memory may be locked.
    pub(super) fn open(index: u32, number: u32) -> io::Result<Queue> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::XDP, SocketType::RAW, flags, None)?;
        let chunks = RECEIVE_CHUNKS + TRANSMIT_CHUNKS;
        let memory = KernelMemory::anonymous(chunks as usize * CHUNK)?;
        let area = XdpUmemReg {
            addr: memory.address_for_the_kernel(),
            len: (chunks as usize * CHUNK) as u64,
            chunk_size: CHUNK as u32,
            headroom: 0,
            flags: XdpUmemRegFlags::empty(),
            tx_metadata_len: 0,
        };
        sockopt::set_xdp_umem_reg(&socket, area)?;
        sockopt::set_xdp_umem_fill_ring_size(&socket, RECEIVE_CHUNKS)?;
        sockopt::set_xdp_umem_completion_ring_size(&socket, TRANSMIT_CHUNKS)?;
        sockopt::set_xdp_rx_ring_size(&socket, RECEIVE_CHUNKS)?;
        sockopt::set_xdp_tx_ring_size(&socket, TRANSMIT_CHUNKS)?;
        let places = sockopt::xdp_mmap_offsets(&socket)?;
        let mut fill = Ring::new(socket.as_fd(), FILL_AT, &places.fr, RECEIVE_CHUNKS)?;
        let completion = Ring::new(socket.as_fd(), COMPLETION_AT, &places.cr, TRANSMIT_CHUNKS)?;
        let receive = Ring::new(socket.as_fd(), RECEIVE_AT, &places.rx, RECEIVE_CHUNKS)?;
        let transmit = Ring::new(socket.as_fd(), TRANSMIT_AT, &places.tx, TRANSMIT_CHUNKS)?;
        (0..RECEIVE_CHUNKS).for_each(|chunk| fill.write(&(u64::from(chunk) * CHUNK as u64).to_ne_bytes()));
        fill.publish(fill.producer);
        // Without XDP_COPY and XDP_ZEROCOPY the kernel tries the one and then the other.
        let address = SocketAddrXdp::new(SocketAddrXdpFlags::XDP_USE_NEED_WAKEUP, index, number);
        let mut tries = 0;
        loop {
            match rustix::net::bind(&socket, &address) {
                Err(Errno::BUSY) if tries < BUSY_STEPS => {
                    std::thread::sleep(BUSY_STEP);
                    tries += 1;
                }
                outcome => break outcome?,
            }
        }
        let options = sockopt::xdp_options(&socket)?;
        let zero_copy = options.contains(XdpOptionsFlags::XDP_OPTIONS_ZEROCOPY);
        let free = (RECEIVE_CHUNKS..chunks).map(|chunk| u64::from(chunk) * CHUNK as u64).collect();
        let under_way = vec![false; chunks as usize];
        Ok(Queue { socket, memory, fill, receive, transmit, completion, free, under_way, zero_copy })
    }

    /// Whether a frame waits.
    pub(super) fn is_ready(&self) -> bool {
        self.receive.waiting() > 0
    }

    /// Where the next frame lies in the memory, and its length; it stays.
    ///
    /// # Errors
    /// When the kernel contradicts itself.
    pub(super) fn peek(&self) -> io::Result<Option<(usize, usize)>> {
        if !self.is_ready() {
            return Ok(None);
        }
        // struct xdp_desc: address, length, options.
        let [a, b, c, d, e, f, g, h, i, j, k, l, ..] = self.receive.read();
        let at = u64::from_ne_bytes([a, b, c, d, e, f, g, h]) as usize;
        let len = u32::from_ne_bytes([i, j, k, l]) as usize;
        let inside = at < RECEIVE_CHUNKS as usize * CHUNK && at % CHUNK + len <= CHUNK;
        if inside { Ok(Some((at, len))) } else { Err(nonsense()) }
    }

    /// Bytes of a frame that [`Queue::peek`] gave and that is still there.
    pub(super) fn bytes(&self, at: usize, len: usize) -> &[u8] {
        self.memory.bytes(at, len)
    }

    /// The next frame, at `at`, is done with: its chunk is the kernel's again.
    pub(super) fn advance(&mut self, at: usize) {
        self.receive.ours = self.receive.ours.wrapping_add(1);
        // There is room: a ring has as many slots as there are chunks.
        self.fill.write(&((at - at % CHUNK) as u64).to_ne_bytes());
    }

    /// What was done with is told to the kernel.
    pub(super) fn publish(&mut self) {
        self.receive.publish(self.receive.consumer);
        self.fill.publish(self.fill.producer);
        if self.fill.needs_wakeup() {
            // It takes up the chunks; what it says of frames is not asked.
            let _ = rustix::net::recv(&self.socket, [0u8; 0].as_mut_slice(), RecvFlags::DONTWAIT);
        }
    }

    /// A chunk to write a frame of `len` bytes into; none when all are under way. To be followed by
    /// [`Queue::send`].
    pub(super) fn chunk(&mut self, len: usize) -> Option<&mut [u8]> {
        assert!(len <= FRAME_MAX, "a frame that fits a chunk");
        if self.free.is_empty() {
            self.take_completions();
        }
        let at = *self.free.last().filter(|_| self.transmit.room() > 0)?;
        Some(self.memory.bytes_mut(at as usize, len))
    }

    /// Sends what was written into the chunk that [`Queue::chunk`] gave last, with the next [`Queue::kick`].
    ///
    /// # Panics
    /// When it gave none.
    pub(super) fn send(&mut self, len: usize) {
        let at = self.free.pop().expect("a chunk was given");
        let mut item = [0; 16];
        item[..8].copy_from_slice(&at.to_ne_bytes());
        item[8..12].copy_from_slice(&(len as u32).to_ne_bytes());
        self.transmit.write(&item);
        self.under_way[at as usize / CHUNK] = true;
    }

    /// Whether the kernel has not taken all that it was told to send.
    pub(super) fn is_behind(&self) -> bool {
        self.transmit.room() < self.transmit.slots
    }

    /// Chunks of frames that have left are free again.
    fn take_completions(&mut self) {
        let waiting = self.completion.waiting();
        for _ in 0..waiting {
            let at = u64::from_ne_bytes(self.completion.read());
            self.completion.ours = self.completion.ours.wrapping_add(1);
            // A chunk that is none of those under way is a kernel's mistake: nothing is sent from it.
            let known = at.is_multiple_of(CHUNK as u64).then(|| self.under_way.get_mut(at as usize / CHUNK));
            if let Some(Some(under_way @ true)) = known {
                *under_way = false;
                self.free.push(at);
            }
        }
        self.completion.publish(self.completion.consumer);
    }

    /// The kernel sends what is in the transmit ring; system calls that took.
    pub(super) fn kick(&mut self) -> u64 {
        self.transmit.publish(self.transmit.producer);
        let mut calls = 0;
        // In copy mode a call is what sends; it sends a number, and no more.
        while self.is_behind() && (!self.zero_copy || self.transmit.needs_wakeup()) && calls < KICKS_MAX {
            calls += 1;
            match rustix::net::send(&self.socket, &[], SendFlags::DONTWAIT) {
                Ok(_) | Err(Errno::AGAIN | Errno::INTR) => {}
                // The device is busy, or down: later again.
                Err(_) => break,
            }
        }
        self.take_completions();
        calls.into()
    }

    /// Frames lost for want of a slot or a chunk since the socket was opened.
    pub(super) fn lost(&self) -> u64 {
        let Ok(said) = sockopt::xdp_statistics(&self.socket) else { return 0 };
        said.rx_dropped + said.rx_ring_full.unwrap_or(0)
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
