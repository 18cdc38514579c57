//! netd
pub mod wire;
pub mod tcp;
