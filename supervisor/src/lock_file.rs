//! `DIR/NAME/lock`: held (flock) as long as a supervisor of the group lives; says which process is
//! the active one, for `down`.
//!
//! The lock belongs to an open file that both supervisors have, so it falls when the last of them
//! is gone, however it went.

use crate::child;
use proto::run_dir::RunDir;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::io;
use std::path::PathBuf;

/// Where it lies.
pub fn path(place: &RunDir) -> PathBuf {
    place.path().join("lock")
}

/// Takes the lock of a group; `None` when a group of that name runs.
///
/// # Errors
/// Those of open(2) and flock(2).
pub fn take(place: &RunDir) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
    loop {
        let file = rustix::fs::open(path(place), flags, Mode::from_raw_mode(0o644))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        }
        // A group that was just ending may have removed the file between our two steps.
        let ours = rustix::fs::fstat(&file)?;
        let current = rustix::fs::stat(path(place));
        if current.is_ok_and(|current| (current.st_ino, current.st_dev) == (ours.st_ino, ours.st_dev)) {
            return Ok(Some(file));
        }
    }
}

/// Writes this process into it, as the active supervisor.
///
/// # Errors
/// Those of pwrite(2) and ftruncate(2).
pub fn sign(file: impl AsFd) -> io::Result<()> {
    let pid = std::process::id();
    let line = format!("{pid} {}\n", child::start_time(pid).unwrap_or_default());
    let written = rustix::io::pwrite(&file, line.as_bytes(), 0)?;
    Ok(rustix::fs::ftruncate(&file, written as u64)?)
}

/// The active supervisor, if the process that signed still lives.
pub fn signed(place: &RunDir) -> Option<u32> {
    let line = std::fs::read_to_string(path(place)).ok()?;
    let (pid, started) = line.trim().split_once(' ')?;
    let pid = pid.parse().ok()?;
    (child::start_time(pid) == started.parse().ok()).then_some(pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_group_at_a_time() {
        let dir = std::env::temp_dir().join(format!("axl-lock-{}", std::process::id()));
        let place = RunDir::at(&dir, "g");
        std::fs::create_dir_all(place.path()).expect("a directory");
        let first = take(&place).expect("a file").expect("free");
        assert!(take(&place).expect("a file").is_none());
        assert_eq!(signed(&place), None);
        sign(&first).expect("written");
        assert_eq!(signed(&place), Some(std::process::id()));
        drop(first);
        assert!(take(&place).expect("a file").is_some());
        std::fs::remove_dir_all(dir).expect("ours");
    }
}
