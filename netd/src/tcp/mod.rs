//! The TCP protocol machine: segments and times in, actions out.
//!
//! It knows no IP, no ring, no clock, no descriptor, no thread and no global. The stack above it
//! finds the connection, copies payload between frames and the arena, and commits the record before
//! anything leaves.

pub mod segment;
pub mod seq;
