//! The stack alone, over memory that outlives it, with clients that write their lines by hand.

mod accept_queue;
mod asleep;
mod checksums;
mod datagrams;
mod groups;
mod hostile_ipv6;
mod interfaces;
mod ipv6;
mod looked_for;
mod loopback;
mod pages;
mod raw;
mod rig;
mod rules;
mod sent_errors;
mod shards;
mod sharing;
mod sysctl;
mod vlans;
