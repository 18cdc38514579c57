//! The other end of the wire: plain sockets of the kernel (or of a second group) that talk to programs
//! on the stack and check every byte.
//!
//! * [`counter`]: streams in which each byte follows from its position;
//! * [`fleet`]: many connections to an echo server, loaded or idle, with the silence each one sees;
//! * [`unacked`]: how much a kernel socket has sent that was not acknowledged;
//! * [`fetch`]: the kernel's curl;
//! * [`frames`]: frames put together by hand, right or wrong;
//! * [`web`]: a web server with one file.

pub mod counter;
pub mod fetch;
pub mod fleet;
pub mod frames;
pub mod ping;
pub mod unacked;
pub mod web;
