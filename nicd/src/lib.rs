//! nicd: the driver of one network interface.
//!
//! It moves frames between a device and the four rings it shares with netd, and knows nothing of what
//! is in them beyond the first six bytes, or, with several shards, beyond their ends. It holds no state worth keeping: its death is a link flap.
//!
//! [`nic`] is what a device looks like, [`backend`] holds devices of the kernel, [`driver`] drives chips,
//! [`model`] is those chips in software, [`datapath`] moves the frames, and
//! [`server`] is the process around it, the only place with a clock.

pub mod backend;
pub mod counts;
pub mod datapath;
pub mod driver;
pub mod filter;
pub mod model;
pub mod nic;
mod port;
pub mod server;
pub mod stock;
pub mod vfio;
mod virtio_header;
