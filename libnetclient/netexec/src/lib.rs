//! Unmodified programs on the stack.
//!
//! netexec is a native client on behalf of the programs that it starts. Every socket of theirs is one
//! end of a pair of AF_UNIX; the other end is here, and bytes go between it and the session's arena.
//! Reading, writing, polling, dup, fork, exec and passing on of descriptors are therefore the kernel's
//! own; only calls that name sockets are answered here, as seccomp hands them over.
//!
//! ```text
//! program ── socket, connect, accept… ──► filter ──► notices ──► calls ──► native (nc_*) ──► sockd, netd
//!    └────── read, write, poll… ── pair ── bridge ◄──► native
//! ```
//!
//! [`launch`] becomes the program and leaves behind it [`holder`], which holds every descriptor and starts
//! the server, again when it is killed: what [`ledger`] says, as [`records`], is taken up by its
//! [`successor`]; [`filter`] decides which calls are
//! handed over; [`notices`] takes and answers them; [`program`] looks into the caller; [`calls`] is what
//! each call does; [`host`] is what [`netlink`], [`interfaces`] and [`proc_net`] answer from; [`bridge`] is a socket, [`pump`] carries a connection's bytes exactly once; [`server`] is the loop. [`shown`] is what programs may look at
//! themselves, by the preload library (`libnetclient/preload`), so that they hand over less. Everything that a program
//! says is checked here, in a process of the same user: it never reaches sockd or netd but as what any
//! client may ask.

pub mod bridge;
pub mod calls;
pub mod filter;
pub mod holder;
pub mod host;
pub mod interfaces;
pub mod launch;
pub mod ledger;
pub mod native;
pub mod netlink;
pub mod netlink_calls;
pub mod notices;
pub mod proc_net;
pub mod program;
pub mod pump;
pub mod records;
pub mod server;
pub mod shown;
pub mod successor;
