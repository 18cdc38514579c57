//! The chips in software, for tests: written from the data sheets, without the drivers' constants.
//!
//! [`machine`] is what a chip stands in: windows of memory behind an IOMMU, an interrupt, a clock that
//! moves only when a driver waits. [`intel`] is what the Intel chips have alike. [`frames`] is what chips know of frames: checksums, and where headers
//! end. A model behaves as the data sheet says until a test tells it to misbehave ([`machine::Faults`]).

pub mod e1000e;
pub mod frames;
pub mod igb;
pub mod intel;
pub mod machine;
pub mod virtio;
