//! Devices that are not chips: software on either side of the cable, and interfaces of the kernel.

mod bpf;
mod kernel_calls;
mod kernel_memory;
mod matcher;
pub mod namespace;
pub mod packet;
pub mod share;
pub mod tap;
pub mod wire;
pub mod xdp;
