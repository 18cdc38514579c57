//! Control between the processes of a group; nothing here lies on the path of a byte.
//!
//! * [`messages`]: what the supervisors and the daemons say to each other, over a [`lane`]: a
//!   non-blocking SEQPACKET socket with descriptors beside the bytes;
//! * [`operations`]: what sockd asks of a netd and what it answers, in ring slots;
//! * [`client`]: what a client asks of sockd over its session socket;
//! * [`admin`]: what netctl asks of sockd;
//! * [`notices`]: what daemons tell each other beside the rings, over the ipc-channel lanes of
//!   [`rendezvous`];
//! * [`clock`]: the one place that reads the host's monotonic clock.

pub mod admin;
pub mod client;
pub mod clock;
pub mod lane;
pub mod messages;
pub mod notices;
pub mod operations;
pub mod rendezvous;
