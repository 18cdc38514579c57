//! Whose turn it is on a core: real-time priority where it is granted, and one core for the
//! processes of one path.
//!
//! SCHED_FIFO takes CAP_SYS_NICE in the initial user namespace (or RLIMIT_RTPRIO). With it a daemon
//! may spin for a moment before it sleeps, giving way to the other daemons of its core with every
//! turn: no wake-up across cores is as fast. Without it nobody spins: beside another busy process a
//! yield costs milliseconds.
//!
//! Only the loops of nicd and netd take it, all at one priority, and the first core is left to
//! everybody else. No thread that waits for children or reads /proc may have it: the kernel tears down
//! directories of /proc in a loop that turns until whoever else holds an entry has let go of it, and at a
//! real-time priority it turns in front of that holder for ever.

#![expect(unsafe_code, reason = "a system call without a safe binding")]

use core::time::Duration;
use rustix::thread::CpuSet;
use std::sync::OnceLock;

/// The priority: the lowest of the real-time ones.
const PRIORITY: i32 = 1;

/// How long a daemon with nothing to do looks again and again before it sleeps: the time of one hop
/// there and back between two processes that sleep on two cores.
pub const SPIN: Duration = Duration::from_micros(20);

/// Set to 1 where a group is started: nicd and netd are to take a core at a real-time priority.
pub const WANTED: &str = "AXOLOTL_REALTIME";

/// The cores of the process before [`take`].
static BEFORE: OnceLock<CpuSet> = OnceLock::new();

/// Where [`WANTED`] says so, takes one core and SCHED_FIFO on it, for the calling thread and none that it makes. Threads of the
/// same `number` share a core. `false` when it is not permitted or there are not so many cores beside
/// the first: everything is then as it was.
pub fn take(number: u16) -> bool {
    if std::env::var_os(WANTED).is_none_or(|value| value != "1") {
        return false;
    }
    let Ok(allowed) = rustix::thread::sched_getaffinity(None) else { return false };
    let Some(core) = core_of(&allowed, number.into()) else { return false };
    let priority = libc::sched_param { sched_priority: PRIORITY };
    // SAFETY: the call reads one sched_param, which lives until it returns.
    let granted =
        unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &priority) == 0 };
    if granted {
        let _ = BEFORE.set(allowed);
        let mut only = CpuSet::new();
        only.set(core);
        // Refused: it runs wherever it is put.
        let _ = rustix::thread::sched_setaffinity(None, &only);
    }
    granted
}

/// For a thread that such a thread made: it may run again wherever the process could in the beginning.
pub fn roam() {
    if let Some(before) = BEFORE.get() {
        // Refused: it has to make do with what the other leaves it.
        let _ = rustix::thread::sched_setaffinity(None, before);
    }
}

/// The core for threads of that number, from the last one down; the first is nobody's.
fn core_of(allowed: &CpuSet, number: usize) -> Option<usize> {
    let mut cores =
        (0..CpuSet::MAX_CPU).rev().filter(|core| allowed.is_set(*core)).take(allowed.count() as usize);
    let core = cores.nth(number)?;
    cores.next().map(|_| core)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_core_is_left_alone() {
        let mut allowed = CpuSet::new();
        assert_eq!(core_of(&allowed, 0), None);
        allowed.set(3);
        assert_eq!(core_of(&allowed, 0), None, "the only one");
        allowed.set(5);
        assert_eq!((core_of(&allowed, 0), core_of(&allowed, 1)), (Some(5), None));
        allowed.set(9);
        assert_eq!((core_of(&allowed, 0), core_of(&allowed, 1)), (Some(9), Some(5)));
    }
}
