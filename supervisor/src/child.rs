//! Processes: started, watched, ended. The one place that knows /proc and pidfds.
//!
//! A child gets its lane as standard input and nothing else that is open. How one ended is known
//! from wait(2) to its parent only; a supervisor that took over asks the kernel another way
//! ([`ending`]).

use crate::policy::Sample;
use proto::control::messages::Ended;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::process::{Pid, PidfdFlags, Signal};
use std::fs::File;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// A process that was started here.
#[derive(Debug)]
pub struct Started {
    /// To be waited for when the pidfd is readable.
    pub child: Child,
    /// Readable when it is dead.
    pub pidfd: OwnedFd,
}

/// Starts `program` with its end of a lane; what it says on standard error goes to `log`.
///
/// # Errors
/// Those of posix_spawn(3) and pidfd_open(2).
pub fn start(
    program: &Path,
    arguments: &[&str],
    lane: OwnedFd,
    log: File,
    tmp: &Path,
) -> io::Result<Started> {
    let mut child = Command::new(program)
        .args(arguments)
        .env(proto::daemon::LANE_VARIABLE, "0")
        // ipc-channel makes its sockets there, and a killed daemon leaves them behind.
        .env("TMPDIR", tmp)
        .stdin(Stdio::from(lane))
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()?;
    // The child can't have been waited for yet, so its id is still its own.
    let pid = Pid::from_child(&child);
    match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => Ok(Started { child, pidfd }),
        Err(errno) => {
            // Without a pidfd it can't be watched.
            let _ = child.kill();
            let _ = child.wait();
            Err(errno.into())
        }
    }
}

/// Kills the process behind a pidfd; one that is dead already stays so.
pub fn kill(pidfd: &OwnedFd) {
    let _ = rustix::process::pidfd_send_signal(pidfd, Signal::KILL);
}

/// How a child of ours ended.
pub fn ended(status: ExitStatus) -> Ended {
    match (status.code(), status.signal()) {
        (Some(code), _) => Ended::Exit(code),
        (None, Some(signal)) => Ended::Signal(signal),
        (None, None) => Ended::Unknown,
    }
}

/// How a process ended that is dead (its pidfd is readable) and was not our child: from
/// /proc/PID/stat while it is a zombie, from its pidfd once somebody has waited for it.
pub fn ending(pidfd: BorrowedFd<'_>, pid: u32) -> Ended {
    // It may be waited for between the two looks: then the third sees it.
    let status = exit_info::status(pidfd).or_else(|| zombie_status(pid)).or_else(|| exit_info::status(pidfd));
    status.map_or(Ended::Unknown, |status| ended(ExitStatus::from_raw(status)))
}

/// exit_code of proc_pid_stat(5), the last field, of a zombie.
fn zombie_status(pid: u32) -> Option<i32> {
    let stat = Stat::read(pid)?;
    (stat.field(3)? == "Z").then(|| stat.field(52)?.parse().ok())?
}

/// What the kernel says of a process that is suspected to stand still.
pub fn sample(pid: u32) -> Option<Sample> {
    let stat = Stat::read(pid)?;
    let state = *stat.field(3)?.as_bytes().first()?;
    // Time on a core, time waiting for one, number of turns: scheduler/sched-stats of the kernel's
    // documentation. Summed over the threads, as each has its own file.
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let ran = |task: std::fs::DirEntry| -> Option<u64> {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_ascii_whitespace().next()?.parse().ok()
    };
    let ran_ns = tasks.filter_map(|task| ran(task.ok()?)).sum();
    Some(Sample { state, ran_ns })
}

/// Whether a process is there and nobody has stopped it: not in the states T, t, Z and X of proc(5).
pub fn can_run(pid: u32) -> bool {
    let state = |stat: Stat| stat.field(3).map(|state| !"TtZX".contains(state));
    Stat::read(pid).and_then(state).unwrap_or(false)
}

/// When a process was started, in clock ticks since the host's start: with the pid it names one
/// process for good.
pub fn start_time(pid: u32) -> Option<u64> {
    Stat::read(pid)?.field(22)?.parse().ok()
}

/// A pidfd of this process.
///
/// # Errors
/// Those of pidfd_open(2).
pub fn own_pidfd() -> io::Result<OwnedFd> {
    Ok(rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?)
}

/// Whether the process behind a pidfd is dead.
pub fn is_dead(pidfd: impl AsFd) -> bool {
    dead_within(pidfd, Duration::ZERO)
}

/// Waits for the death of the process behind a pidfd; false when it outlives that time.
pub fn dead_within(pidfd: impl AsFd, time: Duration) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let time = Timespec { tv_sec: time.as_secs().cast_signed(), tv_nsec: time.subsec_nanos().into() };
    poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&time)) == Ok(1)
}

struct Stat(String);

impl Stat {
    fn read(pid: u32) -> Option<Stat> {
        std::fs::read_to_string(format!("/proc/{pid}/stat")).ok().map(Stat)
    }

    /// Field `number`, from 3 on, as proc_pid_stat(5) numbers them; the name before may hold blanks.
    fn field(&self, number: usize) -> Option<&str> {
        let (_, rest) = self.0.rsplit_once(") ")?;
        rest.split_ascii_whitespace().nth(number - 3)
    }
}

mod exit_info {
    //! PIDFD_GET_INFO of ioctl(2): how a process ended that has been waited for.
    #![expect(unsafe_code, reason = "an ioctl that rustix does not have")]

    use core::ffi::c_void;
    use rustix::fd::BorrowedFd;
    use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, opcode};
    use zerocopy::{FromBytes, IntoBytes};

    /// struct pidfd_info of linux/pidfd.h, its first version (PIDFD_INFO_SIZE_VER0 of 64 bytes).
    #[derive(Debug, Default, FromBytes, IntoBytes)]
    #[repr(C)]
    struct PidfdInfo {
        mask: u64,
        cgroupid: u64,
        pid: u32,
        tgid: u32,
        ppid: u32,
        ids: [u32; 8],
        exit_code: i32,
    }
    const _: () = assert!(size_of::<PidfdInfo>() == 64);

    /// PIDFD_INFO_EXIT of linux/pidfd.h.
    const EXIT: u64 = 1 << 3;

    struct GetInfo(PidfdInfo);

    // SAFETY: the opcode carries the size of the structure it is given, which is plain integers;
    // the kernel writes at most that many bytes into it.
    unsafe impl Ioctl for GetInfo {
        type Output = PidfdInfo;
        const IS_MUTATING: bool = true;

        fn opcode(&self) -> Opcode {
            // PIDFS_IOCTL_MAGIC is 0xFF; PIDFD_GET_INFO is its number 11.
            opcode::read_write::<PidfdInfo>(0xff, 11)
        }

        fn as_ptr(&mut self) -> *mut c_void {
            core::ptr::from_mut(&mut self.0).cast()
        }

        unsafe fn output_from_ptr(_: IoctlOutput, at: *mut c_void) -> rustix::io::Result<PidfdInfo> {
            // SAFETY: `at` is what `as_ptr` returned: a valid structure, ours alone.
            let info = unsafe { at.cast::<PidfdInfo>().read() };
            Ok(info)
        }
    }

    /// The wait status, once somebody has waited for the process; `None` before, and on a kernel
    /// that does not say.
    pub(super) fn status(pidfd: BorrowedFd<'_>) -> Option<i32> {
        let ask = GetInfo(PidfdInfo { mask: EXIT, ..PidfdInfo::default() });
        // SAFETY: see the implementation of `Ioctl`.
        let info = unsafe { rustix::ioctl::ioctl(pidfd, ask) }.ok()?;
        (info.mask & EXIT != 0).then_some(info.exit_code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::control::lane::socket_pair;

    fn started(script: &str) -> Started {
        let (_ours, theirs) = socket_pair().expect("a socket pair");
        let log = File::options().write(true).open("/dev/null").expect("null");
        start(Path::new("/bin/sh"), &["-c", script], theirs, log, Path::new("/tmp")).expect("started")
    }

    fn wait_dead(pidfd: &OwnedFd) {
        use rustix::event::{PollFd, PollFlags, poll};
        assert_eq!(poll(&mut [PollFd::new(pidfd, PollFlags::IN)], None), Ok(1));
    }

    #[test]
    fn an_end_is_told_alike_to_parent_and_stranger() {
        for (script, want) in
            [("exit 6", Ended::Exit(6)), ("kill -9 $$", Ended::Signal(9)), ("kill -6 $$", Ended::Signal(6))]
        {
            let mut process = started(script);
            wait_dead(&process.pidfd);
            let pid = process.child.id();
            assert_eq!(ending(process.pidfd.as_fd(), pid), want, "as a zombie");
            assert_eq!(ended(process.child.wait().expect("ours")), want);
            assert_eq!(ending(process.pidfd.as_fd(), pid), want, "after it was waited for");
        }
    }

    #[test]
    fn a_stopped_process_is_seen_as_such() {
        let mut process = started("kill -STOP $$");
        while sample(process.child.id()).expect("alive").state != b'T' {
            std::thread::yield_now();
        }
        assert!(!is_dead(&process.pidfd) && !can_run(process.child.id()));
        kill(&process.pidfd);
        assert_eq!(ended(process.child.wait().expect("ours")), Ended::Signal(9));
        assert!(is_dead(&process.pidfd) && !can_run(process.child.id()));
    }

    #[test]
    fn a_busy_process_gets_on() {
        let mut process = started("while :; do :; done");
        let first = sample(process.child.id()).expect("alive");
        assert!(can_run(process.child.id()));
        let grown = std::iter::repeat_with(|| sample(process.child.id()).expect("alive").ran_ns)
            .any(|ran| ran > first.ran_ns + 1_000_000);
        assert!(grown);
        kill(&process.pidfd);
        process.child.wait().expect("ours");
    }

    #[test]
    fn a_start_time_tells_processes_apart() {
        assert!(start_time(std::process::id()).is_some_and(|ticks| ticks > 0));
        assert_eq!(start_time(u32::MAX), None);
    }
}
