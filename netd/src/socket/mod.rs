//! Between the arena's cursors and the transports.
//!
//! [`session`] is netd's view of one client's memory: rings, receive pages, passive places.
//! [`rx`] fills a socket's receive stream, [`tx`] reads its send stream; both hold what netd knows
//! privately of the cursors, and check what the client says against it.

pub mod rx;
pub mod session;
pub mod tx;
