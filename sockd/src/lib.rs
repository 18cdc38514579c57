//! sockd

pub mod port_select;
