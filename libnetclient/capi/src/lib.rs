//! The socket calls of POSIX on the Axolotl stack, for C: `nc_socket`, `nc_connect`, `nc_read`…
//!
//! Signatures, results and errno are those of the calls without `nc_`. A descriptor that is not one
//! of ours is the kernel's, and the call is passed on to it: a program may use the `nc_` names
//! throughout, and `nc_poll` and `nc_epoll_*` take both kinds at once. Sockets live in the process's
//! default session (`AXOLOTL` names the group), opened by the first call that needs it.
//!
//! What differs from a kernel's sockets, because they are this process's own: they don't survive
//! exec(2) and are not shared by fork(2); select(2) can't hold their numbers; a write to a closed
//! connection returns EPIPE and raises no signal; a blocking call goes on after a signal, as with
//! SA_RESTART, only the waits for many return EINTR.
//!
//! [`table`] numbers the sockets; [`entry`] is what a number stands for; [`abi`] turns C's structures
//! into Rust's; the rest are the calls, one file a kind. `include/netclient.h` is made from these
//! files by a test, which also finds it when it is out of date.

pub mod abi;
mod control;
mod datagram_options;
pub mod entry;
pub mod epoll;
pub mod in_place;
pub mod names;
pub mod options;
pub mod poll;
pub mod resume;
pub mod table;
pub mod transfer;
