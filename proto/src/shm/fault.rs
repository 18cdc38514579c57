//! Faults in memory that a client shares: SIGBUS costs the session, never the daemon (DESIGN §2).
//!
//! The memory can't shrink (sealed) and a punched hole reads as zeros; what remains is a page that the
//! kernel can't give, or that the hardware lost. The handler puts a zero page of our own over it,
//! marks the range, and returns: the access that faulted goes on with zeros. Whoever owns the range
//! asks [`Guard::faulted`] afterwards and lets go of the client. A fault anywhere else ends the
//! process as it would without the handler.
//!
//! Ranges stand in a static table of atomics, because a handler may neither lock nor allocate.

#![expect(unsafe_code, reason = "a signal handler that maps a page")]

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
use std::io;
use std::sync::OnceLock;

/// Ranges that can be guarded at a time: more sessions than a group's supervisor keeps.
const RANGES: usize = 4096;
const PAGE: usize = 4096;

/// `end` is 0 while nobody owns it; it is stored last and cleared first.
struct Range {
    taken: AtomicBool,
    start: AtomicUsize,
    end: AtomicUsize,
    faulted: AtomicBool,
}

static TABLE: [Range; RANGES] = [const {
    Range {
        taken: AtomicBool::new(false),
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        faulted: AtomicBool::new(false),
    }
}; RANGES];

static FAULTS: AtomicU32 = AtomicU32::new(0);

/// Faults caught so far in this process: whoever guards ranges looks at them when it changes.
pub fn faults() -> u32 {
    FAULTS.load(Ordering::Acquire)
}

/// A guarded range of addresses; dropping it ends the guard.
#[derive(Debug)]
pub struct Guard(usize);

impl Guard {
    /// Guards `len` bytes from `start`, which stay mapped while the guard lives.
    ///
    /// # Errors
    /// ENOSPC when too many are guarded; those of sigaction(2).
    pub(super) fn new(start: usize, len: usize) -> io::Result<Guard> {
        install()?;
        let free = |range: &Range| !range.taken.swap(true, Ordering::AcqRel);
        let at = TABLE.iter().position(free).ok_or_else(|| io::Error::from(rustix::io::Errno::NOSPC))?;
        TABLE[at].faulted.store(false, Ordering::Relaxed);
        TABLE[at].start.store(start, Ordering::Relaxed);
        TABLE[at].end.store(start + len, Ordering::Release);
        Ok(Guard(at))
    }

    /// Whether a page of it had to be replaced.
    pub fn faulted(&self) -> bool {
        TABLE[self.0].faulted.load(Ordering::Acquire)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        TABLE[self.0].end.store(0, Ordering::Release);
        TABLE[self.0].taken.store(false, Ordering::Release);
    }
}

fn install() -> io::Result<()> {
    static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
    let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) = on_fault;
    let outcome = INSTALLED
        .get_or_init(|| set_action(handler as libc::sighandler_t, libc::SA_SIGINFO | libc::SA_ONSTACK));
    (*outcome).map_err(io::Error::from_raw_os_error)
}

/// What SIGBUS does from now on. The action that the language's runtime set up looks for stack
/// overflows, which come as SIGSEGV here; nothing is lost with it.
fn set_action(handler: libc::sighandler_t, flags: i32) -> Result<(), i32> {
    // SAFETY: a struct of integers and a pointer, for which zeros are valid.
    let mut action: libc::sigaction = unsafe { core::mem::zeroed() };
    action.sa_sigaction = handler;
    action.sa_flags = flags;
    // SAFETY: the handler only reads and writes atomics and makes system calls (signal-safety(7)).
    match unsafe { libc::sigaction(libc::SIGBUS, &raw const action, core::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL)),
    }
}

extern "C" fn on_fault(_signal: i32, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: SA_SIGINFO: the kernel passes a valid structure.
    let info = unsafe { &*info };
    // SAFETY: the kernel fills the address for SIGBUS (sigaction(2)).
    let address = unsafe { info.si_addr() } as usize;
    let mine = |range: &&Range| {
        address < range.end.load(Ordering::Acquire) && address >= range.start.load(Ordering::Relaxed)
    };
    let page = (address & !(PAGE - 1)) as *mut core::ffi::c_void;
    let flags = MapFlags::PRIVATE | MapFlags::FIXED;
    let replaced = TABLE.iter().find(mine).filter(|_| {
        // SAFETY: the page lies in a mapping that the guard's owner holds and only copies from and to.
        unsafe { mmap_anonymous(page, PAGE, ProtFlags::READ | ProtFlags::WRITE, flags) }.is_ok()
    });
    match replaced {
        Some(range) => {
            range.faulted.store(true, Ordering::Release);
            FAULTS.fetch_add(1, Ordering::Release);
        }
        // The access is tried again after the handler, and ends the process.
        None => drop(set_action(libc::SIG_DFL, 0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fd::AsRawFd;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    #[test]
    fn a_fault_reads_as_zero_and_is_told_of_its_range_only() {
        let file = |bytes: usize| {
            let fd = memfd_create("axl-fault", MemfdFlags::CLOEXEC).expect("a memfd");
            ftruncate(&fd, bytes as u64).expect("a size");
            let map = memmap2::MmapOptions::new().len(bytes).map_raw(fd.as_raw_fd()).expect("a mapping");
            (fd, map)
        };
        let (short, other) = (file(3 * PAGE), file(PAGE));
        let guard = Guard::new(short.1.as_mut_ptr() as usize, 3 * PAGE).expect("a guard");
        let beside = Guard::new(other.1.as_mut_ptr() as usize, PAGE).expect("a guard");
        let before = faults();
        // SAFETY: inside the mapping.
        let byte = |at: usize| unsafe { short.1.as_mut_ptr().add(at) };
        // SAFETY: mapped, ours.
        unsafe { byte(2 * PAGE).write_volatile(7) };
        ftruncate(&short.0, PAGE as u64).expect("a size");
        // SAFETY: mapped; the file behind it is gone, which is what is tested.
        let read = unsafe { byte(2 * PAGE + 5).read_volatile() };
        // SAFETY: as above.
        unsafe { byte(PAGE).write_volatile(1) };
        assert_eq!((read, guard.faulted(), beside.faulted()), (0, true, false));
        assert_eq!(faults() - before, 2);
        drop(guard);
        let again = Guard::new(other.1.as_mut_ptr() as usize, PAGE).expect("a place that is free again");
        assert!(!again.faulted());
    }
}
