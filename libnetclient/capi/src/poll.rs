//! poll(2), on sockets of ours and descriptors of the kernel at once.

#![expect(unsafe_code, reason = "the border to C")]

use crate::abi::{self, Errno, Outcome, int};
use crate::entry::{Entry, State};
use crate::table;
use libc::{c_int, c_short, nfds_t, pollfd};
use libnetclient::Ready;
use libnetclient::select::Select;
use rustix::event::PollFlags;
use rustix::fd::BorrowedFd;
use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a thread needs to wait, kept from call to call.
#[derive(Default)]
struct Waiting {
    select: Option<Select>,
    /// The kernel's descriptors of the call, as poll(2) wants them, and where they stand in its list.
    kernel: Vec<pollfd>,
    at: Vec<usize>,
    ours: Vec<(usize, Arc<Entry>)>,
}

thread_local! {
    static WAITING: RefCell<Waiting> = RefCell::default();
}

/// poll(2)'s events of what a socket is ready for, of those asked for.
pub(crate) fn events_of(ready: Ready, asked: c_short) -> c_short {
    let pairs = [
        (Ready::READ, libc::POLLIN | libc::POLLRDNORM),
        (Ready::WRITE, libc::POLLOUT | libc::POLLWRNORM),
        (Ready::READ_CLOSED, libc::POLLRDHUP),
        (Ready::PRIORITY, libc::POLLPRI),
    ];
    let mut events = 0;
    for (what, bits) in pairs {
        if ready.contains(what) {
            events |= bits & asked;
        }
    }
    for (what, bit) in [(Ready::ERROR, libc::POLLERR), (Ready::HANG_UP, libc::POLLHUP)] {
        if ready.contains(what) {
            events |= bit;
        }
    }
    events
}

impl Waiting {
    /// Looks at everything once; returns how many have events.
    fn look(&mut self, fds: &mut [pollfd]) -> Outcome<usize> {
        let mut found = 0;
        for (at, entry) in &self.ours {
            let fd = &mut fds[*at];
            fd.revents = match entry.state() {
                // An epoll can't be watched here.
                State::Epoll(_) => libc::POLLNVAL,
                _ => events_of(entry.ready(), fd.events),
            };
            found += usize::from(fd.revents != 0);
        }
        if !self.kernel.is_empty() {
            // SAFETY: the array is ours and of that length.
            let count = unsafe { libc::poll(self.kernel.as_mut_ptr(), self.kernel.len() as nfds_t, 0) };
            if count < 0 {
                return Err(abi::last());
            }
            for (kernel, at) in self.kernel.iter().zip(&self.at) {
                fds[*at].revents = kernel.revents;
            }
            found += count as usize;
        }
        Ok(found)
    }

    fn wait(&mut self, fds: &mut [pollfd], deadline: Option<Instant>) -> Outcome<()> {
        let select = match &mut self.select {
            Some(select) => select,
            none => none.insert(Select::new()?),
        };
        let states: Vec<State> = self.ours.iter().map(|(_, entry)| entry.state()).collect();
        for source in states.iter().filter_map(State::source) {
            select.add(source)?;
        }
        let beside = self.kernel.iter().map(|kernel| {
            // SAFETY: poll(2) has found it open a moment ago; one that is closed meanwhile is an
            // event of the next poll(2).
            let fd = unsafe { BorrowedFd::borrow_raw(kernel.fd) };
            (fd, PollFlags::from_bits_retain(kernel.events as u16))
        });
        let beside: Vec<_> = beside.filter(|(fd, _)| std::os::fd::AsRawFd::as_raw_fd(fd) >= 0).collect();
        let ours = &self.ours;
        let ready = || ours.iter().any(|(at, entry)| events_of(entry.ready(), fds[*at].events) != 0);
        Ok(select.wait(&beside, deadline, ready)?)
    }
}

fn poll(fds: &mut [pollfd], deadline: Option<Instant>) -> Outcome<usize> {
    WAITING.with_borrow_mut(|waiting| {
        waiting.kernel.clear();
        waiting.at.clear();
        waiting.ours.clear();
        let mut closed = 0;
        for (at, fd) in fds.iter_mut().enumerate() {
            fd.revents = 0;
            if fd.fd < 0 {
                continue;
            }
            if !table::is_ours(fd.fd) {
                waiting.kernel.push(*fd);
                waiting.at.push(at);
            } else if let Ok(entry) = table::get(fd.fd) {
                waiting.ours.push((at, entry));
            } else {
                fd.revents = libc::POLLNVAL;
                closed += 1;
            }
        }
        let outcome = loop {
            match waiting.look(fds) {
                Ok(0) if closed == 0 && deadline.is_none_or(|deadline| deadline > Instant::now()) => {}
                found => break found,
            }
            if let Err(errno) = waiting.wait(fds, deadline) {
                break Err(errno);
            }
        };
        // Sockets that are closed meanwhile must not be kept.
        waiting.ours.clear();
        outcome.map(|found| found + closed)
    })
}

/// poll(2).
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nc_poll(fds: *mut pollfd, count: nfds_t, timeout: c_int) -> c_int {
    int((|| {
        let fds = match (fds.is_null(), count) {
            (_, 0) => &mut [][..],
            (true, _) => return Err(Errno(libc::EFAULT)),
            // SAFETY: by the caller's contract.
            (false, count) => unsafe { std::slice::from_raw_parts_mut(fds, count as usize) },
        };
        let timeout = u64::try_from(timeout).ok().map(Duration::from_millis);
        poll(fds, timeout.and_then(|timeout| Instant::now().checked_add(timeout))).map(|found| found as c_int)
    })())
}
