//! Rings between two processes: one producer, one consumer, slots of a fixed size.
//!
//! [`spsc`] moves slots and says whether the other side sleeps; the wake-up itself is a descriptor
//! (an eventfd between daemons, a pipe towards clients) and belongs to the caller.

pub mod spsc;
