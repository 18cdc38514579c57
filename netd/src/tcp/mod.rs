//! The TCP protocol machine: segments and times in, actions out.
//!
//! It knows no IP, no ring, no clock, no descriptor, no thread and no global. The stack above it
//! finds the connection, copies payload between frames and the arena, and commits the record before
//! anything leaves.

pub mod congestion;
pub mod out_of_order;
pub mod ranges;
pub mod recovery;
pub mod rto;
pub mod sack;
pub mod segment;
pub mod seq;
pub mod timers;
pub mod window;
