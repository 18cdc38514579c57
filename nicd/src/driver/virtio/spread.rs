//! Flows over several queues, as they are over netd's shards: the one thing that is said on the control queue.
//!
//! Used while the device is set up, one command at a time, and looked at until it is answered: nobody waits for an
//! interrupt of it.

use super::regs::{
    HASHES, Layout, PAIRS_MAX, RSS_HASHES, RSS_KEY_MAX, RSS_TABLE_MAX, control, feature as bit,
};
use super::ring::{self, Buffer, Queue};
use crate::driver::hardware::{Hardware, ring_iova, stuck};
use core::time::Duration;
use proto::nic::steering::{CARD_KEY, ENTRIES, Steering};
use proto::shm::Memory;
use std::io;

/// What the device must offer for it.
pub const NEEDED: u64 = bit::CTRL_VQ | bit::MQ | bit::RSS;
/// Descriptors of the control queue.
pub const SLOTS: u16 = 4;
/// Bytes of its memory: the queue, then what is said and answered.
pub const BYTES: usize = ring::BYTES + COMMAND + 8;

/// Bytes of the command: class and number; kinds of hashes, mask of the table, queue of what is not hashed; the table;
/// queues to send by, length of the key; the key. §5.1.6.5.6.
const COMMAND: usize = 2 + 8 + 2 * ENTRIES as usize + 3 + CARD_KEY.len();
/// The device answers at once; who takes longer than this does not.
const ANSWER_STEP: Duration = Duration::from_micros(100);
const ANSWER_STEPS: u32 = 1_000;

/// Pairs of queues over which the device spreads by such a hash as ours; 1 where it has another.
pub fn queues<H: Hardware>(hw: &H, layout: &Layout) -> usize {
    let at = |register: usize| layout.device + register;
    let able = usize::from(hw.read8(at(RSS_KEY_MAX))) >= CARD_KEY.len()
        && hw.read16(at(RSS_TABLE_MAX)) >= ENTRIES
        && hw.read32(at(RSS_HASHES)) & HASHES == HASHES;
    if able { hw.read16(at(PAIRS_MAX)).max(1).into() } else { 1 }
}

/// §5.1.2: the control queue stands behind all pairs that there could be.
pub fn number<H: Hardware>(hw: &H, layout: &Layout) -> u16 {
    hw.read16(layout.device + PAIRS_MAX).wrapping_mul(2)
}

/// The control queue.
#[derive(Debug)]
pub struct Control<M> {
    queue: Queue<M>,
    memory: M,
    /// Where what is said lies in the rings' memory; the answer stands behind it.
    said_at: usize,
    /// Its number.
    pub number: u16,
}

impl<M: Memory + Clone> Control<M> {
    /// An empty one at `at` of the rings' memory.
    pub fn new(rings: &M, at: usize, number: u16) -> Self {
        let queue = Queue::new(rings.clone(), at, SLOTS);
        Control { queue, memory: rings.clone(), said_at: at + ring::BYTES, number }
    }

    /// Where its three parts lie for the device.
    pub fn addresses(&self) -> [u64; 3] {
        self.queue.addresses()
    }

    /// Makes the device spread flows over `queues` as they are spread over as many shards.
    ///
    /// # Errors
    /// When it refuses, or does not answer.
    pub fn spread<H: Hardware>(&mut self, hw: &H, doorbell_at: usize, queues: u16) -> io::Result<()> {
        let steering = Steering::new(queues);
        let mut said = Vec::with_capacity(COMMAND);
        said.extend(control::RSS_CONFIG);
        said.extend(HASHES.to_le_bytes());
        said.extend((ENTRIES - 1).to_le_bytes());
        said.extend(0u16.to_le_bytes());
        // §5.1.6.5.6: a receive queue by its number among the receive queues.
        (0..ENTRIES).for_each(|entry| said.extend(steering.of_entry(entry).to_le_bytes()));
        said.extend(queues.to_le_bytes());
        said.push(CARD_KEY.len() as u8);
        said.extend(CARD_KEY);
        let answer_at = self.said_at + COMMAND;
        self.memory.write(self.said_at, &said);
        self.memory.write(answer_at, &[!control::OK]);
        let iova = ring_iova(self.said_at);
        self.queue.put(&[
            Buffer { iova, len: 2, written: false },
            Buffer { iova: iova + 2, len: COMMAND as u32 - 2, written: false },
            Buffer { iova: ring_iova(answer_at), len: 1, written: true },
        ]);
        if self.queue.publish() {
            hw.write16(doorbell_at, self.number);
        }
        if !hw.wait_until(ANSWER_STEP, ANSWER_STEPS, |_| self.queue.is_ready()) {
            return Err(stuck("its control queue does not answer"));
        }
        let mut answer = [0];
        self.memory.read(answer_at, &mut answer);
        match answer[0] {
            control::OK => Ok(()),
            _ => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "it refuses to spread flows as it said it could",
            )),
        }
    }
}
