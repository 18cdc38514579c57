//! A split virtqueue, §2.7: descriptors, what is available, what is used.
//!
//! The driver owns which descriptors are with the device; a used element counts only for one of them, once.
//!
//! ```text
//! at + 0          descriptors, 16 bytes each      (the device reads)
//!    + 0x1000     flags, index, heads…, event     (the device reads)
//!    + 0x2000     flags, index, (id, len)…, event (the device writes)
//! ```

use crate::driver::hardware::ring_iova;
use core::sync::atomic::Ordering;
use proto::shm::Memory;

/// Descriptors of a queue at most.
pub const SLOTS: u16 = 256;
/// Bytes of a queue's memory.
pub const BYTES: usize = 0x3000;
const AVAILABLE: usize = 0x1000;
const USED: usize = 0x2000;

/// §2.7.5: bits of a descriptor's flags.
const NEXT: u16 = 1;
const WRITE: u16 = 2;

const _: () = assert!(SLOTS as usize * 16 <= AVAILABLE && 6 + SLOTS as usize * 8 <= BYTES - USED);

/// A buffer of a chain.
#[derive(Debug, Clone, Copy)]
pub struct Buffer {
    /// Where it lies.
    pub iova: u64,
    /// Its length in bytes.
    pub len: u32,
    /// The device writes to it.
    pub written: bool,
}

/// What a descriptor is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    Free,
    /// First of a chain of so many that is with the device.
    Head(u16),
    /// A later one.
    Tail,
}

/// What the device says that it has done with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used {
    /// The chain's first descriptor.
    pub head: u16,
    /// Bytes written.
    pub len: u32,
}

/// The device named a chain that it does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lied;

/// A virtqueue.
#[derive(Debug)]
pub struct Queue<M> {
    memory: M,
    at: usize,
    slots: Vec<Slot>,
    /// What follows each in its chain. Private: what the device could reach is not read back.
    next: Vec<u16>,
    free: Vec<u16>,
    /// Chains made available, and chains taken back.
    available: u16,
    used: u16,
    /// As far as the device was told.
    told: u16,
    /// Notices go by position.
    event_index: bool,
}

impl<M: Memory> Queue<M> {
    /// An empty queue of `size` descriptors, a power of two, at `at` of `memory`.
    pub fn new(memory: M, at: usize, size: u16) -> Self {
        assert!(size.is_power_of_two() && size <= SLOTS, "a queue that fits its memory");
        let mut queue = Queue {
            memory,
            at,
            slots: vec![Slot::Free; size.into()],
            next: vec![0; size.into()],
            free: Vec::with_capacity(size.into()),
            available: 0,
            used: 0,
            told: 0,
            event_index: false,
        };
        queue.clear(false);
        queue
    }

    /// Its descriptors.
    #[inline]
    pub fn size(&self) -> u16 {
        self.slots.len() as u16
    }

    /// Forgets everything: the device was reset.
    pub fn clear(&mut self, event_index: bool) {
        self.memory.write(self.at, &[0; BYTES]);
        self.slots.fill(Slot::Free);
        self.free.clear();
        self.free.extend((0..self.size()).rev());
        (self.available, self.used, self.told) = (0, 0, 0);
        self.event_index = event_index;
    }

    /// Where its three parts lie for the device.
    pub fn addresses(&self) -> [u64; 3] {
        [0, AVAILABLE, USED].map(|part| ring_iova(self.at + part))
    }

    /// Free descriptors.
    pub fn room(&self) -> usize {
        self.free.len()
    }

    /// Descriptors that are with the device.
    pub fn busy(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// The first descriptor of the chain that is made available next.
    ///
    /// # Panics
    /// When there is no room.
    pub fn next_head(&self) -> u16 {
        *self.free.last().expect("room was asked for")
    }

    /// First descriptors of all chains that are with the device.
    pub fn heads(&self) -> impl Iterator<Item = u16> {
        let slots = self.slots.iter().enumerate();
        slots.filter(|(_, slot)| matches!(slot, Slot::Head(_))).map(|(n, _)| n as u16)
    }

    /// Makes a chain available; its first descriptor.
    ///
    /// # Panics
    /// When there is no room.
    pub fn put(&mut self, buffers: &[Buffer]) -> u16 {
        assert!(!buffers.is_empty() && buffers.len() <= self.room(), "room was asked for");
        let head = self.next_head();
        for (n, buffer) in buffers.iter().enumerate() {
            let slot = self.free.pop().expect("there is room");
            let next = if n + 1 < buffers.len() { self.free.last().copied() } else { None };
            let flags = next.map_or(0, |_| NEXT) | if buffer.written { WRITE } else { 0 };
            let at = self.at + usize::from(slot) * 16;
            let word = u64::from(buffer.len) | u64::from(flags) << 32 | u64::from(next.unwrap_or(0)) << 48;
            self.memory.store_u64(at, buffer.iova, Ordering::Relaxed);
            self.memory.store_u64(at + 8, word, Ordering::Relaxed);
            self.next[usize::from(slot)] = next.unwrap_or(0);
            self.slots[usize::from(slot)] =
                if n == 0 { Slot::Head(buffers.len() as u16) } else { Slot::Tail };
        }
        let place = self.at + AVAILABLE + 4 + usize::from(self.available & (self.size() - 1)) * 2;
        self.memory.write(place, &head.to_le_bytes());
        self.available = self.available.wrapping_add(1);
        head
    }

    /// Publishes what was made available; true when the device wants to be told.
    pub fn publish(&mut self) -> bool {
        let old = core::mem::replace(&mut self.told, self.available);
        if old == self.available {
            return false;
        }
        // Release: pairs with the device's read of the index before it reads heads and descriptors.
        // Its flags, in the lower half of the word, stay 0.
        self.memory.store_u32(self.at + AVAILABLE, u32::from(self.available) << 16, Ordering::Release);
        self.memory.full_fence();
        if !self.event_index {
            return self.memory.load_u32(self.at + USED, Ordering::Relaxed) & 1 == 0;
        }
        let mut event = [0; 2];
        self.memory.read(self.at + USED + 4 + self.slots.len() * 8, &mut event);
        // §2.7.7.1: whether its position lies in what was published now.
        let behind = self.available.wrapping_sub(u16::from_le_bytes(event)).wrapping_sub(1);
        behind < self.available.wrapping_sub(old)
    }

    fn index(&self) -> u16 {
        // Acquire: pairs with the device's store of the index, behind what it wrote.
        (self.memory.load_u32(self.at + USED, Ordering::Acquire) >> 16) as u16
    }

    /// Whether the device has done with something.
    pub fn is_ready(&self) -> bool {
        self.index() != self.used
    }

    /// The next chain that the device has done with; its descriptors are free.
    ///
    /// # Errors
    /// [`Lied`].
    pub fn take(&mut self) -> Result<Option<Used>, Lied> {
        if !self.is_ready() {
            return Ok(None);
        }
        let place = self.at + USED + 4 + usize::from(self.used & (self.size() - 1)) * 8;
        let (id, len) = (
            self.memory.load_u32(place, Ordering::Relaxed),
            self.memory.load_u32(place + 4, Ordering::Relaxed),
        );
        let head = u16::try_from(id).map_err(|_| Lied)?;
        let Some(Slot::Head(count)) = self.slots.get(usize::from(head)).copied() else { return Err(Lied) };
        self.used = self.used.wrapping_add(1);
        let mut slot = head;
        for _ in 0..count {
            self.slots[usize::from(slot)] = Slot::Free;
            self.free.push(slot);
            slot = self.next[usize::from(slot)];
        }
        Ok(Some(Used { head, len }))
    }

    /// No notices: there is somebody who looks.
    pub fn quiet(&mut self) {
        if !self.event_index {
            // Flag 1: no interrupt.
            self.memory.store_u32(self.at + AVAILABLE, u32::from(self.told) << 16 | 1, Ordering::Relaxed);
        }
    }

    /// Asks for a notice of the next one; false when there is one already.
    pub fn arm(&mut self) -> bool {
        match self.event_index {
            true => {
                let place = self.at + AVAILABLE + 4 + self.slots.len() * 2;
                self.memory.write(place, &self.used.to_le_bytes());
            }
            false => {
                self.memory.store_u32(self.at + AVAILABLE, u32::from(self.told) << 16, Ordering::Relaxed);
            }
        }
        self.memory.full_fence();
        !self.is_ready()
    }
}
