//! Loaded into dynamic programs that `netexec` starts: their calls that are the kernel's go there at once.
//!
//! netexec's filter sees the number of a call and its arguments, not what a descriptor is or which file a path
//! names. So it hands over each call of a kind that may concern the stack, and most of them come back with the
//! answer that they are the kernel's: after two switches between processes. This library knows better. It
//! asks the [board](proto::board), memory that netexec's server writes and it may only read, what the socket is:
//!
//! ```text
//! program ── recvmsg, getsockopt, open… ──► here ── not the stack's ──► kernel (the filter lets it pass)
//!                                            ├── a connection's name ──► answered from the board
//!                                            └── anything else ──► filter ──► netexec's server, as without
//! ```
//!
//! What it holds is a mapping, made before the program's first instruction and never changed: nothing is allocated,
//! locked or kept of a thread or a descriptor. So its calls may be made by signal handlers, by any thread, and on
//! either side of fork and vfork, and a dup, a close or a passed descriptor is no news to it. Programs that are not
//! dynamic, or call the kernel directly, or lose their environment, are handed over as ever; so is each call of a
//! program that finds no board.
//!
//! [`calls`] are the C library's names, [`kernel`] makes a call pass. Not here: what any call does to a
//! socket of the stack, which is for netexec's server to say.

#![expect(unsafe_code, reason = "the C library's names and its calls")]

mod calls;
mod kernel;

use proto::board::{self, Board, Socket};
use proto::shm::region::Region;
use rustix::fs::FileType;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::OnceLock;

/// The board, once there is one.
static BOARD: OnceLock<Board<Region>> = OnceLock::new();

/// Maps the board that the environment tells of.
fn open_board() -> Option<Board<Region>> {
    let told = std::env::var(board::VARIABLE).ok()?;
    let (inode, path) = told.split_once(':')?;
    let file: OwnedFd = std::fs::File::open(path).ok()?.into();
    // Its writer may be gone, and the path somebody else's.
    let is_it = rustix::fs::fstat(file.as_fd()).is_ok_and(|stat| inode.parse() == Ok(stat.st_ino));
    if !is_it {
        return None;
    }
    Board::open(Region::map_read_only(&file, board::SIZE).ok()?)
}

/// Called by the loader.
extern "C" fn begin() {
    if let Some(board) = open_board() {
        // The first one stays.
        let _ = BOARD.set(board);
    }
}

/// What is known of a descriptor: the kernel's when it is no socket, or none at all.
fn look(fd: libc::c_int) -> Socket {
    let Some(board) = BOARD.get() else { return Socket::Unknown };
    match kernel::stat(fd) {
        Some(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Socket => board.look(stat.st_ino),
        _ => Socket::Kernel,
    }
}

#[used]
#[unsafe(link_section = ".init_array")]
static BEGIN: extern "C" fn() = begin;
