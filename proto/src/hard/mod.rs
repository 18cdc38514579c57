//! The hard regions: what must outlive the process that writes it. All are tables of
//! [cells](crate::cell); this folder says what the bytes of a cell mean in each.

pub mod config;
pub mod conns;
pub mod filter;
mod pack;
pub mod processes;
pub mod registry;
pub mod routing;
pub mod sysctl;
