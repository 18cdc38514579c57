//! The ground every process of the group stands on: identities and time, shared memory and rings,
//! cells and the hard regions made of them, arenas, the frame slab, control messages, counters.
//!
//! Nothing here knows a protocol of the wire. No module here depends on a daemon.

pub mod arena;
pub mod board;
pub mod bpf;
pub mod capture;
pub mod cell;
pub mod control;
pub mod daemon;
pub mod error;
pub mod form;
pub mod hard;
pub mod id;
pub mod layouts;
pub mod nic;
pub mod recorder;
pub mod ring;
pub mod run_dir;
pub mod shm;
pub mod stats;
pub mod time;
pub mod zone;

pub use error::PeerCorrupt;
pub use time::Instant;
