//! Devices that are not chips: software on either side of the cable.

pub mod tap;
pub mod wire;
