//! virtio-net, modern, over PCI: split virtqueues with event index and mergeable buffers, MSI-X with one
//! vector. Before each frame stands the header of `virtio_header`, as before those of a TAP.
//!
//! Sections are those of the Virtual I/O Device specification, version 1.2.

pub mod device;
pub mod regs;
pub mod ring;
pub mod spread;

pub use device::{IDS, Virtio};
