//! The 82576 ("igb"): one queue each way, MSI-X with one vector.
//!
//! Sections are those of the Intel 82576EB Gigabit Ethernet Controller Datasheet, revision 2.87.

pub mod desc;
pub mod device;
pub mod regs;

pub use device::{IDS, Igb};
