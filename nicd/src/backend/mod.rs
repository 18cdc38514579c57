//! Devices that are not chips: software on either side of the cable, and interfaces of the kernel.

mod kernel_calls;
mod kernel_memory;
pub mod namespace;
pub mod packet;
pub mod tap;
pub mod wire;
pub mod xdp;
