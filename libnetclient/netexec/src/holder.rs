//! The process that holds the server's descriptors and starts it again when it is killed.
//!
//! The server is cloned with this process's table of descriptors: what either opens both have, and what
//! one has closed is closed. So nothing has to be handed over, and nothing closes with a death. Between
//! two servers whatever is written down nowhere is closed: it was on its way to somebody.
//!
//! It does one thing for the server: a descriptor is installed in a program together with the answer to
//! the call (`SECCOMP_ADDFD_FLAG_SEND`), which is not whole when its caller is killed in the middle. Its
//! own death ends the server's: nobody would hold what it has open.

#![expect(unsafe_code, reason = "clone(2), prctl(2) and _exit(2)")]

use crate::ledger::{Errand, Ledger, phase};
use crate::notices::Notices;
use crate::server::Server;
use crate::shown::Shown;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use rustix::process::{Pid, Signal, WaitOptions};
use std::collections::HashSet;
use std::io;
use std::time::{Duration, Instant};

/// Ends by a fault of the server's own within [`FAULT_TIME`], after which it is not started again.
const FAULTS_MAX: usize = 5;
const FAULT_TIME: Duration = Duration::from_secs(10);

/// What becomes of a server.
enum End {
    /// It has served.
    Served,
    /// It can't go on.
    Failed(i32),
    /// A signal from outside.
    Killed,
    /// A fault of its own.
    Fault,
}

/// Runs servers until one has served; returns the status to exit with.
///
/// # Errors
/// Those of clone(2).
pub fn hold(ledger: &Ledger, shown: &Shown, notices: &Notices) -> io::Result<i32> {
    // Told apart in a list of processes.
    // SAFETY: a string of ours.
    unsafe { libc::prctl(libc::PR_SET_NAME, c"netexec-holder".as_ptr()) };
    let mut faults: Vec<Instant> = Vec::new();
    loop {
        let (child, process) = start(ledger, shown)?;
        let end = attend(ledger, notices, child, &process)?;
        drop(process);
        match end {
            End::Served => return Ok(0),
            End::Failed(status) => return Ok(status),
            End::Killed => {}
            End::Fault => {
                faults.retain(|at| at.elapsed() < FAULT_TIME);
                faults.push(Instant::now());
                if faults.len() > FAULTS_MAX {
                    return Ok(1);
                }
            }
        }
        // It may have died between asking and being heard.
        run_errand(ledger, notices);
        sweep(ledger)?;
    }
}

/// Starts a server over the same descriptors.
fn start(ledger: &Ledger, shown: &Shown) -> io::Result<(Pid, OwnedFd)> {
    let mut pidfd: RawFd = -1;
    let flags = libc::CLONE_FILES | libc::CLONE_PIDFD | libc::SIGCHLD;
    // SAFETY: as fork(2), with one table of descriptors; this process has one thread, so the child's
    // memory is whole. The kernel writes one int.
    let child = unsafe { libc::syscall(libc::SYS_clone, flags, 0, &raw mut pidfd, 0, 0) };
    match child {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            // SAFETY: no pointer is passed.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            // SAFETY: a string of ours.
            unsafe { libc::prctl(libc::PR_SET_NAME, c"netexec-server".as_ptr()) };
            let status = match std::panic::catch_unwind(|| serve(ledger, shown)) {
                Ok(Ok(())) => 0,
                Ok(Err(text)) => {
                    eprintln!("netexec: {text}");
                    1
                }
                Err(_) => 101,
            };
            // SAFETY: ends the process without running what belongs to its parent.
            unsafe { libc::_exit(status) }
        }
        child => {
            let pid = Pid::from_raw(child as i32).expect("clone(2) returns a process");
            // SAFETY: just opened by the kernel, for this process.
            Ok((pid, unsafe { OwnedFd::from_raw_fd(pidfd) }))
        }
    }
}

fn serve(ledger: &Ledger, shown: &Shown) -> Result<(), String> {
    let mut server = Server::take_up(ledger.clone(), shown.clone()).map_err(|error| error.to_string())?;
    server.serve().map_err(|errno| io::Error::from_raw_os_error(errno).to_string())
}

/// Runs errands until the server ends.
fn attend(ledger: &Ledger, notices: &Notices, child: Pid, process: &OwnedFd) -> io::Result<End> {
    let header = ledger.header();
    // SAFETY: held by this process for good.
    let errand = unsafe { BorrowedFd::borrow_raw(header.errand) };
    // SAFETY: as above.
    let done = unsafe { BorrowedFd::borrow_raw(header.done) };
    loop {
        let mut both = [PollFd::new(&errand, PollFlags::IN), PollFd::new(process, PollFlags::IN)];
        match poll(&mut both, None) {
            Err(rustix::io::Errno::INTR) => continue,
            outcome => outcome?,
        };
        if !both[0].revents().is_empty() {
            // How often it was asked does not matter: there is one errand at a time.
            let _ = rustix::io::read(errand, &mut [0; 8]);
            run_errand(ledger, notices);
            rustix::io::write(done, &1u64.to_ne_bytes())?;
        }
        if !both[1].revents().is_empty() {
            let Some((_, status)) = rustix::process::waitpid(Some(child), WaitOptions::empty())? else {
                continue;
            };
            let own = [Signal::ABORT, Signal::SEGV, Signal::BUS, Signal::ILL, Signal::FPE];
            let own = own.map(Signal::as_raw);
            return Ok(match (status.exit_status(), status.terminating_signal()) {
                (Some(0), _) => End::Served,
                (Some(101), _) => End::Fault,
                (Some(status), _) => End::Failed(status),
                (None, Some(signal)) if own.contains(&signal) => End::Fault,
                _ => End::Killed,
            });
        }
    }
}

fn run_errand(ledger: &Ledger, notices: &Notices) {
    let Some(Errand { id, descriptor, close_on_exec }) = ledger.errand() else { return };
    // SAFETY: in the table of both; should it be none, the kernel says EBADF.
    let descriptor = unsafe { BorrowedFd::borrow_raw(descriptor) };
    let outcome = notices.answer_with(id, descriptor, close_on_exec);
    ledger.errand_done(outcome.err().map_or(0, |error| error.raw_os_error().unwrap_or(libc::EIO)));
}

/// Closes what a killed server had open and nobody has written down.
fn sweep(ledger: &Ledger) -> io::Result<()> {
    let header = ledger.header();
    let mut kept: HashSet<RawFd> = HashSet::from([
        0,
        1,
        2,
        header.control,
        header.arena,
        header.wake,
        header.listener,
        header.pipe_out,
        header.pipe_in,
        header.errand,
        header.done,
        header.ledger,
        header.board,
    ]);
    kept.extend(&header.pipes[..header.geometry[0] as usize]);
    let records =
        (0..ledger.records()).map(|index| ledger.record(index)).filter(|record| record.phase != phase::FREE);
    kept.extend(records.map(|record| record.ours));
    let listing = std::fs::read_dir("/proc/self/fd")?;
    // The listing's own number is among them, and gone when it is closed.
    let open: Vec<RawFd> =
        listing.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for number in open {
        if !kept.contains(&number) {
            // SAFETY: nobody has written it down, and no server runs.
            unsafe { libc::close(number) };
        }
    }
    Ok(())
}

/// Asks for an errand and waits until it is done; returns 0, or an errno.
///
/// # Errors
/// Those of eventfd(2).
pub fn send_on_errand(ledger: &Ledger, id: u64, fd: &OwnedFd, close_on_exec: bool) -> io::Result<i32> {
    let header = ledger.header();
    // SAFETY: held for good.
    let errand = unsafe { BorrowedFd::borrow_raw(header.errand) };
    // SAFETY: held for good.
    let done = unsafe { BorrowedFd::borrow_raw(header.done) };
    // What was meant for a predecessor.
    let _ = rustix::io::read(done, &mut [0; 8]);
    ledger.ask_errand(Errand { id, descriptor: fd.as_raw_fd(), close_on_exec });
    rustix::io::write(errand, &1u64.to_ne_bytes())?;
    loop {
        if let Some(errno) = ledger.errand_outcome(id) {
            return Ok(errno);
        }
        let mut one = [PollFd::new(&done, PollFlags::IN)];
        match poll(&mut one, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let _ = rustix::io::read(done, &mut [0; 8]);
    }
}
