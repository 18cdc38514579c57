//! netd
pub mod wire;
pub mod tcp;
pub mod transport;
pub mod timer_wheel;
pub mod keyed_hash;
pub mod link;
