//! netd
pub mod wire;
pub mod tcp;
pub mod transport;
pub mod timer_wheel;
