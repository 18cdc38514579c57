//! epoll(7), over sockets of ours and descriptors of the kernel at once.
//!
//! An epoll of ours is a [`Poll`] for the one kind and an epoll of the kernel for the other. An epoll
//! can't be watched by another one, nor by `nc_poll`.

#![expect(unsafe_code, reason = "the border to C")]

use crate::abi::{self, Errno, Outcome, int};
use crate::entry::{Entry, State, lock};
use crate::table;
use libc::{c_int, epoll_event};
use libnetclient::poll::{Event, Poll, Trigger};
use libnetclient::{Ready, Source};
use rustix::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// Events handed over by one wait at most.
const EVENTS_MAX: usize = 256;

/// The two halves.
#[derive(Debug)]
pub(crate) struct Epoll {
    poll: Poll,
    kernel: OwnedFd,
    /// Descriptors of the kernel in it, as far as they were not closed since.
    kernel_count: AtomicUsize,
    /// Which kind comes first, where there is room for one event only.
    turn: AtomicBool,
}

/// An epoll's interest in a socket, kept at the socket: it may not have a place yet.
#[derive(Debug)]
pub(crate) struct Registration {
    epoll: Weak<Epoll>,
    token: u64,
    events: u32,
}

impl Registration {
    /// Watches the socket that now has a place; `false` when the epoll is gone.
    pub(crate) fn renew(&self, source: Source<'_>) -> bool {
        let Some(epoll) = self.epoll.upgrade() else { return false };
        let (interest, trigger) = wanted(self.events);
        match epoll.poll.register(source, self.token, interest, trigger) {
            Ok(()) => true,
            // By who registered it at this moment.
            Err(error) => error.kind() == std::io::ErrorKind::AlreadyExists,
        }
    }
}

fn wanted(events: u32) -> (Ready, Trigger) {
    let has = |bits: c_int| events & bits as u32 != 0;
    let mut interest = Ready::NONE;
    let pairs = [
        (libc::EPOLLIN | libc::EPOLLRDNORM, Ready::READ),
        (libc::EPOLLOUT | libc::EPOLLWRNORM, Ready::WRITE),
        (libc::EPOLLRDHUP, Ready::READ_CLOSED),
        (libc::EPOLLPRI, Ready::PRIORITY),
    ];
    for (bits, what) in pairs {
        if has(bits) {
            interest |= what;
        }
    }
    let trigger = match (has(libc::EPOLLONESHOT), has(libc::EPOLLET)) {
        (true, _) => Trigger::Once,
        (false, true) => Trigger::Edge,
        (false, false) => Trigger::Level,
    };
    (interest, trigger)
}

fn found(ready: Ready) -> u32 {
    let pairs = [
        (Ready::READ, libc::EPOLLIN),
        (Ready::WRITE, libc::EPOLLOUT),
        (Ready::READ_CLOSED, libc::EPOLLRDHUP),
        (Ready::PRIORITY, libc::EPOLLPRI),
        (Ready::ERROR, libc::EPOLLERR),
        (Ready::HANG_UP, libc::EPOLLHUP),
    ];
    pairs.into_iter().filter(|(what, _)| ready.contains(*what)).fold(0, |bits, (_, bit)| bits | bit as u32)
}

impl Epoll {
    fn new() -> Outcome<Epoll> {
        // SAFETY: no pointer is passed.
        let kernel = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if kernel < 0 {
            return Err(abi::last());
        }
        // SAFETY: just opened, and nobody else's.
        let kernel = unsafe { OwnedFd::from_raw_fd(kernel) };
        Ok(Epoll {
            poll: Poll::new()?,
            kernel,
            kernel_count: AtomicUsize::new(0),
            turn: AtomicBool::new(false),
        })
    }

    /// epoll_ctl(2) for a socket of ours.
    fn control(self: &Arc<Self>, operation: c_int, entry: &Entry, event: Option<(u32, u64)>) -> Outcome<()> {
        if entry.kind == 0 {
            return Err(Errno(libc::EINVAL));
        }
        let mut registrations = lock(&entry.registrations);
        registrations.retain(|registration| registration.epoll.strong_count() > 0);
        let at = registrations.iter().position(|r| Weak::as_ptr(&r.epoll) == Arc::as_ptr(self));
        let event = || event.ok_or(Errno(libc::EFAULT));
        match (operation, at) {
            (libc::EPOLL_CTL_ADD, Some(_)) => Err(Errno(libc::EEXIST)),
            (libc::EPOLL_CTL_ADD, None) => {
                let (events, token) = event()?;
                let registration = Registration { epoll: Arc::downgrade(self), token, events };
                registrations.push(registration);
                drop(registrations);
                // Looked at after the registration is there: whoever gives the socket a place sees
                // it, or this does.
                if let Some(source) = entry.state().source() {
                    let (interest, trigger) = wanted(events);
                    match self.poll.register(source, token, interest, trigger) {
                        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                            return Err(error.into());
                        }
                        _ => {}
                    }
                }
                Ok(())
            }
            (libc::EPOLL_CTL_MOD | libc::EPOLL_CTL_DEL, None) => Err(Errno(libc::ENOENT)),
            (libc::EPOLL_CTL_MOD, Some(at)) => {
                let (events, token) = event()?;
                (registrations[at].events, registrations[at].token) = (events, token);
                drop(registrations);
                if let Some(source) = entry.state().source() {
                    let (interest, trigger) = wanted(events);
                    self.poll.reregister(source, token, interest, trigger)?;
                }
                Ok(())
            }
            (libc::EPOLL_CTL_DEL, Some(at)) => {
                registrations.swap_remove(at);
                drop(registrations);
                if let Some(source) = entry.state().source() {
                    self.poll.deregister(source)?;
                }
                Ok(())
            }
            _ => Err(Errno(libc::EINVAL)),
        }
    }

    /// What the kernel's half has now.
    fn look_at_kernel(&self, out: &mut Out) -> Outcome<usize> {
        if self.kernel_count.load(Ordering::Relaxed) == 0 || out.room() == 0 {
            return Ok(0);
        }
        // SAFETY: the place is the caller's, with room for so many.
        let count = unsafe { libc::epoll_wait(self.kernel.as_raw_fd(), out.next(), out.room() as c_int, 0) };
        match usize::try_from(count) {
            Ok(count) => {
                out.used += count;
                Ok(count)
            }
            Err(_) => Err(abi::last()),
        }
    }

    fn wait(&self, out: &mut Out, deadline: Option<Instant>) -> Outcome<usize> {
        let mut events = [Event::default(); EVENTS_MAX];
        let all = out.room;
        loop {
            // Both kinds get their turn, whatever the other one has. The kernel is asked once: what is
            // level-triggered there it would say again.
            let first = self.turn.fetch_xor(true, Ordering::Relaxed);
            if first {
                out.room = all.div_ceil(2);
                self.look_at_kernel(out)?;
            }
            let kernel_too = self.kernel_count.load(Ordering::Relaxed) > 0;
            out.room = if kernel_too && !first { all.div_ceil(2) } else { all };
            if out.room() > 0 {
                let count = self.poll.wait(&mut events[..out.room()], Some(Duration::ZERO))?;
                out.put(&events[..count]);
            }
            out.room = all;
            if !first {
                self.look_at_kernel(out)?;
            }
            if out.used > 0 {
                return Ok(out.used);
            }
            let rest = match deadline {
                None => None,
                Some(deadline) => match deadline.checked_duration_since(Instant::now()) {
                    Some(rest) if !rest.is_zero() => Some(rest),
                    _ => return Ok(0),
                },
            };
            let count = match kernel_too {
                true => self.poll.wait_beside(self.kernel.as_fd(), &mut events[..all], rest)?,
                false => self.poll.wait(&mut events[..all], rest)?,
            };
            out.put(&events[..count]);
            if count > 0 {
                return Ok(count);
            }
        }
    }
}

/// The caller's array of events.
struct Out {
    at: *mut epoll_event,
    room: usize,
    used: usize,
}

impl Out {
    fn room(&self) -> usize {
        self.room.saturating_sub(self.used)
    }

    fn next(&self) -> *mut epoll_event {
        self.at.wrapping_add(self.used)
    }

    fn put(&mut self, events: &[Event]) {
        for event in events {
            assert!(self.room() > 0, "no more events than there is room for");
            let event = epoll_event { events: found(event.ready), u64: event.token };
            // SAFETY: below the number of elements that the caller has room for.
            unsafe { self.next().write_unaligned(event) };
            self.used += 1;
        }
    }
}

fn epoll_of(fd: c_int) -> Outcome<Arc<Epoll>> {
    match table::get(fd)?.state() {
        State::Epoll(epoll) => Ok(epoll),
        _ => Err(Errno(libc::EINVAL)),
    }
}

/// epoll_create1(2).
#[unsafe(no_mangle)]
pub extern "C" fn nc_epoll_create1(flags: c_int) -> c_int {
    int((|| {
        if flags & !libc::EPOLL_CLOEXEC != 0 {
            return Err(Errno(libc::EINVAL));
        }
        table::open(Entry::epoll(Epoll::new()?), 0, flags & libc::EPOLL_CLOEXEC != 0)
    })())
}

/// epoll_ctl(2), for sockets of ours and descriptors of the kernel.
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nc_epoll_ctl(
    epoll: c_int,
    operation: c_int,
    fd: c_int,
    event: *mut epoll_event,
) -> c_int {
    if !table::is_ours(epoll) {
        // SAFETY: by the caller's contract.
        return unsafe { libc::epoll_ctl(epoll, operation, fd, event) };
    }
    int((|| {
        let epoll = epoll_of(epoll)?;
        if !table::is_ours(fd) {
            // SAFETY: by the caller's contract.
            if unsafe { libc::epoll_ctl(epoll.kernel.as_raw_fd(), operation, fd, event) } < 0 {
                return Err(abi::last());
            }
            match operation {
                libc::EPOLL_CTL_ADD => epoll.kernel_count.fetch_add(1, Ordering::Relaxed),
                libc::EPOLL_CTL_DEL => epoll.kernel_count.fetch_sub(1, Ordering::Relaxed),
                _ => 0,
            };
            return Ok(0);
        }
        let entry = table::get(fd)?;
        let event = match event.is_null() {
            true => None,
            // SAFETY: by the caller's contract.
            false => Some(unsafe { event.read_unaligned() }),
        };
        epoll.control(operation, &entry, event.map(|event| (event.events, event.u64)))?;
        Ok(0)
    })())
}

/// epoll_wait(2).
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nc_epoll_wait(
    epoll: c_int,
    events: *mut epoll_event,
    most: c_int,
    timeout: c_int,
) -> c_int {
    if !table::is_ours(epoll) {
        // SAFETY: by the caller's contract.
        return unsafe { libc::epoll_wait(epoll, events, most, timeout) };
    }
    int((|| {
        let epoll = epoll_of(epoll)?;
        let room = usize::try_from(most).ok().filter(|room| *room > 0).ok_or(Errno(libc::EINVAL))?;
        if events.is_null() {
            return Err(Errno(libc::EFAULT));
        }
        let mut out = Out { at: events, room: room.min(EVENTS_MAX), used: 0 };
        let timeout = u64::try_from(timeout).ok().map(Duration::from_millis);
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        epoll.wait(&mut out, deadline).map(|count| count as c_int)
    })())
}
