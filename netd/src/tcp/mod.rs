//! The TCP protocol machine: segments and times in, actions out.
//!
//! It knows no IP, no ring, no clock, no descriptor, no thread and no global. The stack above it
//! finds the connection, copies payload between frames and the arena, and commits the record before
//! anything leaves.

pub mod challenge;
pub mod commit;
pub mod congestion;
pub mod control_block;
pub mod cookie;
pub mod expiry;
pub mod icmp;
pub mod input;
pub mod isn;
pub mod listen;
pub mod out_of_order;
pub mod output;
pub mod ranges;
pub mod reaction;
pub mod recovery;
pub mod rto;
pub mod sack;
pub mod segment;
pub mod seq;
pub mod settings;
pub mod state;
pub mod timers;
pub mod window;

pub use control_block::ControlBlock;
pub use input::Env;
pub use output::header_len;

#[cfg(test)]
mod tests;
