//! Queues before the devices: what waits for a place in a ring, and which goes first.

pub mod pfifo_fast;
