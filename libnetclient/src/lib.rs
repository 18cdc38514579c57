//! Sockets on the Axolotl stack, as `std::net` has them.
//!
//! ```no_run
//! use libnetclient::TcpStream;
//! use std::io::{Read, Write};
//!
//! let mut stream = TcpStream::connect("10.0.0.1:80")?;
//! stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
//! let mut page = Vec::new();
//! stream.read_to_end(&mut page)?;
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! [`TcpListener`], [`TcpStream`] and [`UdpSocket`] have the methods, types and errors of their
//! namesakes and live in the process's default [`Session`] with the group that `AXOLOTL` names;
//! `…_in` takes another session. They are [`mio::event::Source`]s; [`poll::Poll`] watches many of them
//! with one descriptor in all. They have two things that a kernel's socket does not: [`TcpStream::send_reserve`] and [`TcpStream::recv_peek`] put bytes
//! into the shared pages and read them there.
//!
//! Only opening a socket is a message (to sockd). Bytes, accepts and closes go through memory that
//! this process and the stack share. When a daemon of the group dies, calls take a little longer;
//! nothing is lost and nothing fails.
//!
//! Inside: [`session`] holds the shared memory and its rings; [`wait`] is how threads sleep until
//! a socket changes, [`waiter`] whom a change wakes; [`pages`] and [`cursor`] are the two halves of a stream; [`socket`] joins
//! them for one socket. What the stack's side of the memory says is checked before it is used; a
//! stack that breaks the rules makes errors, never a panic.

#![expect(rustdoc::private_intra_doc_links, reason = "the last paragraph is for readers of the source")]

mod calls;
mod control;
mod cursor;
mod in_place;
mod listener;
mod options;
mod pages;
pub mod poll;
mod raw;
mod ready;
pub mod resume;
pub mod select;
mod session;
mod socket;
mod sources;
mod tcp;
#[cfg(feature = "tokio")]
#[path = "tasks.rs"]
pub mod tokio;
mod udp;
mod urgent;
mod wait;
mod waiter;
mod wishes;
mod zero_copy;

pub use calls::{Datagram, Flags, Origin};
pub use listener::{Binding, Incoming, TcpListener};
pub use options::{Algorithm, Keepalive, TcpInfo};
pub use proto::arena::record::ErrorNote;
pub use raw::{EVERY_TYPE, Met, PacketSocket, PingSocket, RawSocket, Seen};
pub use ready::{Ready, Source};
pub use session::{Session, Size};
pub use tcp::TcpStream;
pub use udp::UdpSocket;
pub use wishes::{Instruction, Manner, Membership, Mode, SentError};
pub use zero_copy::{Peeked, Reserved};
