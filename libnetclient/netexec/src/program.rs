//! What a caller looks like from here: its memory, its descriptors.
//!
//! A thread's number may be another's as soon as its call is over: what was read counts only while
//! [`Notices::is_valid`](crate::notices::Notices::is_valid) says so afterwards.

#![expect(unsafe_code, reason = "process_vm_readv(2) and its sibling have no safe wrapper")]

use libc::{c_int, c_ulong, iovec};
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{FileType, OFlags};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags};
use std::cell::RefCell;
use std::collections::HashMap;
use std::io;

/// Bytes of a page of memory at least: no less is mapped or not.
const PAGE: u64 = 4096;

/// PIDFD_THREAD of linux/pidfd.h: a descriptor of a thread; kernels before 6.9 say EINVAL.
const OF_A_THREAD: PidfdFlags = PidfdFlags::from_bits_retain(OFlags::EXCL.bits());
/// Callers that are remembered.
const CALLERS: usize = 64;

thread_local! {
    /// Descriptors of threads that called a short time ago. One whose number is another thread's by now
    /// says ESRCH.
    static REMEMBERED: RefCell<HashMap<u32, OwnedFd>> = RefCell::new(HashMap::new());
}

/// An errno.
pub type Errno = c_int;

/// The calling thread.
#[derive(Debug, Clone, Copy)]
pub struct Caller {
    /// Its number.
    pub tid: u32,
}

/// The sides of a copy.
#[derive(Clone, Copy)]
enum Way {
    In,
    Out,
}

impl Caller {
    /// Copies in whole; EFAULT when a part of it is not there.
    fn copy(self, at: u64, ours: *mut u8, len: usize, way: Way) -> Result<(), Errno> {
        if len == 0 {
            return Ok(());
        }
        let local = iovec { iov_base: ours.cast(), iov_len: len };
        let remote = iovec { iov_base: at as *mut libc::c_void, iov_len: len };
        let none: c_ulong = 0;
        let copy = match way {
            Way::In => libc::process_vm_readv,
            Way::Out => libc::process_vm_writev,
        };
        // SAFETY: `local` is a buffer of ours with `len` bytes; what lies at `remote` is the kernel's to
        // check.
        let done = unsafe { copy(self.tid.cast_signed(), &raw const local, 1, &raw const remote, 1, none) };
        match usize::try_from(done) {
            Ok(done) if done == len => Ok(()),
            Ok(_) => Err(libc::EFAULT),
            Err(_) => Err(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EFAULT)),
        }
    }

    /// Bytes at an address of the caller.
    ///
    /// # Errors
    /// EFAULT, and EPERM where the system forbids to look into a process of the same user.
    pub fn read(self, at: u64, len: usize) -> Result<Vec<u8>, Errno> {
        let mut bytes = vec![0; len];
        self.copy(at, bytes.as_mut_ptr(), len, Way::In)?;
        Ok(bytes)
    }

    /// Puts bytes at an address of the caller.
    ///
    /// # Errors
    /// As [`Caller::read`].
    pub fn write(self, at: u64, bytes: &[u8]) -> Result<(), Errno> {
        self.copy(at, bytes.as_ptr().cast_mut(), bytes.len(), Way::Out)
    }

    /// A text that ends with a zero, of at most so many bytes with it; `None` when it is longer, or not there.
    pub fn read_text(self, at: u64, most: usize) -> Option<Vec<u8>> {
        // It may end at the end of what is mapped.
        let first = (PAGE - at % PAGE).min(most as u64) as usize;
        let mut text = self.read(at, first).ok()?;
        if !text.contains(&0) && first < most {
            text.extend(self.read(at + first as u64, most - first).ok()?);
        }
        let end = text.iter().position(|octet| *octet == 0)?;
        text.truncate(end);
        Some(text)
    }

    /// A number of four bytes.
    ///
    /// # Errors
    /// As [`Caller::read`].
    pub fn read_u32(self, at: u64) -> Result<u32, Errno> {
        let bytes = self.read(at, 4)?;
        Ok(u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// Which socket a descriptor of the caller is, by its inode; `None` when it is none.
    pub fn socket(self, fd: c_int) -> Option<u64> {
        let stat = rustix::fs::fstat(self.descriptor(fd).ok()?).ok()?;
        (FileType::from_raw_mode(stat.st_mode) == FileType::Socket).then_some(stat.st_ino)
    }

    /// A descriptor of the caller, as one of ours: the same open socket.
    ///
    /// # Errors
    /// Those of pidfd_open(2) and pidfd_getfd(2).
    pub fn descriptor(self, fd: c_int) -> io::Result<OwnedFd> {
        let get = |process: &OwnedFd| rustix::process::pidfd_getfd(process, fd, PidfdGetfdFlags::empty());
        REMEMBERED.with_borrow_mut(|remembered| {
            if let Some(process) = remembered.get(&self.tid) {
                match get(process) {
                    Err(rustix::io::Errno::SRCH) => drop(remembered.remove(&self.tid)),
                    outcome => return Ok(outcome?),
                }
            }
            let open = |id: u32, flags| {
                let id = Pid::from_raw(id.cast_signed()).ok_or(rustix::io::Errno::SRCH)?;
                rustix::process::pidfd_open(id, flags)
            };
            let process = match open(self.tid, OF_A_THREAD) {
                Err(rustix::io::Errno::INVAL) => open(self.leader(), PidfdFlags::empty()),
                outcome => outcome,
            }?;
            let outcome = get(&process)?;
            if remembered.len() == CALLERS {
                remembered.clear();
            }
            remembered.insert(self.tid, process);
            Ok(outcome)
        })
    }

    /// The process that the thread belongs to.
    pub fn leader(self) -> u32 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.tid)).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
        line.and_then(|number| number.trim().parse().ok()).unwrap_or(self.tid)
    }

    /// The descriptor by which the caller's process holds a socket now, looked for among all of its.
    pub fn find(self, socket: u64) -> Option<OwnedFd> {
        let entries = std::fs::read_dir(format!("/proc/{}/fd", self.tid)).ok()?;
        let is_it = |entry: std::fs::DirEntry| {
            let link = std::fs::read_link(entry.path()).ok()?;
            (inode_of(link.to_str()?) == Some(socket)).then(|| entry.file_name().to_str()?.parse().ok())?
        };
        let number = entries.flatten().find_map(is_it)?;
        self.descriptor(number).ok()
    }

    /// Whether a descriptor of the caller is non-blocking.
    pub fn is_nonblocking(self, fd: c_int) -> bool {
        let flags = self.descriptor(fd).ok().and_then(|own| rustix::fs::fcntl_getfl(own).ok());
        flags.is_some_and(|flags| flags.contains(OFlags::NONBLOCK))
    }
}

/// Bytes that were sent by an end of a pair and are not read by the other: SIOCOUTQ of unix(7).
pub fn unread(end: &OwnedFd) -> Option<usize> {
    let mut bytes: c_int = 0;
    // SAFETY: TIOCOUTQ, the same number, writes one int.
    let result = unsafe { libc::ioctl(end.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result < 0 { None } else { usize::try_from(bytes).ok() }
}

/// `socket:[NUMBER]`, as proc_pid_fd(5) shows a socket.
fn inode_of(link: &str) -> Option<u64> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn us() -> Caller {
        Caller { tid: rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned() }
    }

    #[test]
    fn memory_is_copied_whole_or_not_at_all() {
        let there = [1u8, 2, 3, 4];
        assert_eq!(us().read(there.as_ptr() as u64, 4), Ok(there.to_vec()));
        assert_eq!(us().read(8, 4), Err(libc::EFAULT));
        let place = std::cell::Cell::new(0u32);
        us().write(place.as_ptr() as u64, &7u32.to_ne_bytes()).expect("ours");
        assert_eq!(place.get(), 7);
        assert_eq!(us().read(0, 0), Ok(Vec::new()));
        let text = c"/proc/net/tcp";
        assert_eq!(us().read_text(text.as_ptr() as u64, 14), Some(text.to_bytes().to_vec()));
        assert_eq!(us().read_text(text.as_ptr() as u64, 13), None, "too long");
        assert_eq!(us().read_text(8, 14), None);
    }

    #[test]
    fn a_socket_is_known_by_its_inode_whatever_its_number() {
        let (one, other) = std::os::unix::net::UnixStream::pair().expect("a pair");
        let again = one.try_clone().expect("a duplicate");
        let inode = us().socket(one.as_raw_fd()).expect("a socket");
        assert_eq!(us().socket(again.as_raw_fd()), Some(inode));
        assert_ne!(us().socket(other.as_raw_fd()), Some(inode));
        assert_eq!(inode_of("pipe:[7]"), None);
        assert!(us().find(inode).is_some());
    }
}
