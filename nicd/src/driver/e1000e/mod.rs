//! The 82574L ("e1000e"): one queue each way, MSI-X with one vector.
//!
//! Sections are those of the 82574 GbE Controller Family Datasheet, revision 3.4.

pub mod desc;
pub mod device;
pub mod regs;

pub use device::{E1000e, IDS};
