//! The four rings between one nicd queue and one netd shard, in one region.
//!
//! fill: netd lends empty pages · receive: nicd hands frames up · transmit: netd hands frames down ·
//! completion: nicd gives sent pages back. Made anew for each pair of generations (INV-R4).
//!
//! netd lends at most [`LENT_MAX`] pages to be filled, and at most as many to be sent. So the receive
//! and the completion ring can't be full: no side ever waits for the other to make room in them.

use super::descriptor::DESCRIPTOR_SIZE;
use crate::ring::spsc::{Consumer, Place, Producer};
use crate::shm::Memory;

/// Layout version; changes with the place or meaning of anything here.
pub const LAYOUT: u32 = 2;

/// Slots of each ring.
pub const RING_SLOTS: u32 = 1024;

/// The most pages that netd may have lent on the fill ring, and the most that it may have handed to
/// the transmit ring and not got back: what fits the ring by which they come back.
pub const LENT_MAX: u32 = RING_SLOTS;

const RING_BYTES: usize = Place::bytes(RING_SLOTS, DESCRIPTOR_SIZE);

/// Size of the region in bytes.
pub const REGION_SIZE: usize = 4 * RING_BYTES;

/// The producing end of a ring of descriptors.
pub type Tx<M> = Producer<M, DESCRIPTOR_SIZE>;
/// The consuming end of a ring of descriptors.
pub type Rx<M> = Consumer<M, DESCRIPTOR_SIZE>;

const fn place(n: usize) -> Place {
    Place::new(n * RING_BYTES, RING_SLOTS)
}

/// netd's ends.
#[derive(Debug)]
pub struct StackEnd<M> {
    /// Empty pages, lent.
    pub fill: Tx<M>,
    /// Frames that came in.
    pub receive: Rx<M>,
    /// Frames to send.
    pub transmit: Tx<M>,
    /// Pages of sent frames.
    pub completion: Rx<M>,
}

/// nicd's ends.
#[derive(Debug)]
pub struct DriverEnd<M> {
    /// Empty pages, lent.
    pub fill: Rx<M>,
    /// Frames that came in.
    pub receive: Tx<M>,
    /// Frames to send.
    pub transmit: Rx<M>,
    /// Pages of sent frames.
    pub completion: Tx<M>,
}

impl<M: Memory + Clone> StackEnd<M> {
    /// netd's ends of the rings in a zeroed region.
    pub fn new(memory: M) -> Self {
        StackEnd {
            fill: Producer::new(memory.clone(), place(0)),
            receive: Consumer::new(memory.clone(), place(1)),
            transmit: Producer::new(memory.clone(), place(2)),
            completion: Consumer::new(memory, place(3)),
        }
    }
}

impl<M: Memory + Clone> DriverEnd<M> {
    /// nicd's ends of the rings in a zeroed region.
    pub fn new(memory: M) -> Self {
        DriverEnd {
            fill: Consumer::new(memory.clone(), place(0)),
            receive: Producer::new(memory.clone(), place(1)),
            transmit: Consumer::new(memory.clone(), place(2)),
            completion: Producer::new(memory, place(3)),
        }
    }
}
