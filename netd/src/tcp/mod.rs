//! The TCP protocol machine: segments and times in, actions out.
//!
//! It knows no IP, no ring, no clock, no descriptor, no thread and no global. The stack above it
//! finds the connection, copies payload between frames and the arena, and commits the record before
//! anything leaves.
//!
//! One batch of a connection, as the stack drives it:
//!
//! ```text
//! on_segment / on_timer / on_written / on_consumed   -> Reaction
//!   copy Reaction.deliver from the frame to the arena
//! poll_output, while there is room, until None       -> SegmentOut
//! state_values                                       -> commit (INV-T1, INV-T2)
//!   then publish received(), acknowledged(), remote_end(), failure()
//!   then Reaction.reply and the segments leave
//! next_deadline                                      -> timer wheel
//! ```
//!
//! A segment without a connection goes to [`listen`]; a record becomes a block by
//! [`commit`]. Positions are 64-bit and never wrap inside ([`seq`]); only headers hold 32 bits.

pub mod autotune;
pub mod challenge;
pub mod commit;
pub mod congestion;
pub mod control_block;
pub mod cookie;
pub mod ecn;
pub mod expiry;
pub mod fast_open;
pub mod icmp;
pub mod input;
pub mod isn;
pub mod listen;
pub mod out_of_order;
pub mod output;
pub mod pacing;
pub mod path_search;
pub mod rack;
pub mod ranges;
pub mod reaction;
pub mod recovery;
pub mod rto;
pub mod sack;
pub mod segment;
pub mod sent;
pub mod seq;
pub mod settings;
pub mod state;
pub mod timers;
mod undo;
pub mod window;

pub use control_block::ControlBlock;
pub use input::Env;
pub use output::header_len;

#[cfg(test)]
mod tests;
