//! The board that programs may look at ([`proto::board`]): made with the ledger, held as long, and written by
//! the server. Programs map it by a path of procfs, which the preload library finds in their environment.

use proto::board::{self, Board, Name};
use proto::shm::region::Region;
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{MemfdFlags, SealFlags};
use std::ffi::OsString;
use std::io;
use std::sync::Arc;

/// The board and its memory's descriptor.
#[derive(Debug, Clone)]
pub struct Shown {
    board: Board<Arc<Region>>,
    memory: Arc<OwnedFd>,
}

impl Shown {
    /// One without sockets, which nobody else can map for writing.
    ///
    /// # Errors
    /// Those of memfd_create(2), fcntl(2) and mmap(2).
    pub fn new() -> io::Result<Shown> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memory = rustix::fs::memfd_create("netexec board", flags)?;
        rustix::fs::ftruncate(&memory, board::SIZE as u64)?;
        rustix::fs::fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW)?;
        let region = Region::map(&memory, board::SIZE)?;
        rustix::fs::fcntl_add_seals(&memory, SealFlags::FUTURE_WRITE | SealFlags::SEAL)?;
        Ok(Shown { board: Board::begin(Arc::new(region)), memory: Arc::new(memory) })
    }

    /// The memory's number in the table of holder and server.
    pub fn number(&self) -> i32 {
        self.memory.as_raw_fd()
    }

    /// What [`board::VARIABLE`] says of it, in the process that holds it.
    ///
    /// # Errors
    /// Those of fstat(2).
    pub fn place(&self) -> io::Result<OsString> {
        let inode = rustix::fs::fstat(&*self.memory)?.st_ino;
        Ok(format!("{inode}:/proc/{}/fd/{}", std::process::id(), self.number()).into())
    }

    /// A socket that a program is about to have.
    pub fn add(&self, socket: u64) {
        self.board.add(socket);
    }

    /// Nobody has it any more.
    pub fn remove(&self, socket: u64) {
        self.board.remove(socket);
    }

    /// It is a connection, with these names.
    pub fn tell(&self, socket: u64, local: &[u8], peer: &[u8]) {
        if let (Some(local), Some(peer)) = (Name::new(local), Name::new(peer)) {
            self.board.tell(socket, local, peer);
        }
    }

    /// Shows these and no others.
    pub fn replace(&self, sockets: impl Iterator<Item = u64>) {
        self.board.replace(sockets);
    }
}
