//! `netctl`: shows and configures a running group.
//!
//! What is shown is read from the group's regions, read-only, while daemons run or are dead; what is
//! changed goes to sockd's admin socket and from there to netd. Probes leave by sockets of the stack, as any
//! client's. One file a verb.

pub mod admin;
pub mod cli;
pub mod group;
pub mod libpcap;
pub mod pcapng;
pub mod probe;
pub mod table;
pub mod verb;
