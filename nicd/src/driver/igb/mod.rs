//! The 82576 ("igb"): a queue each way for each shard, up to 16, MSI-X with one vector.
//!
//! Sections are those of the Intel 82576EB Gigabit Ethernet Controller Datasheet, revision 2.87.

pub mod desc;
pub mod device;
pub mod regs;

pub use device::{IDS, Igb};
