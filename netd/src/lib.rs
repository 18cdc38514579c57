//! The protocol stack daemon: link, IP and transport, timers, and the commit that makes a
//! connection outlive it.
//!
//! [`stack`] is the pure machine; the engine around it is the only place with clocks, rings and
//! wake-ups.

pub mod counters;
pub mod engine;
pub mod filter;
pub mod frame;
pub mod ip;
pub mod keyed_hash;
pub mod link;
pub mod qdisc;
pub mod secrets;
pub mod socket;
pub mod stack;
pub mod tcp;
pub mod timer_wheel;
pub mod transport;
pub mod wire;
