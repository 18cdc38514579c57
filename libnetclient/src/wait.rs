//! How threads sleep until a socket changes.
//!
//! One of the threads that wait takes the *poller's* role: it consumes the event rings, wakes
//! whoever an event is for, and sleeps in poll(2) on the session's pipe; the others are parked. A
//! poller that has what it wanted hands the role to one of those. A session with sockets in a
//! [`mio`] registry has a thread of its own that keeps the role. A thread that waits for many
//! sockets (`poll`, `select`) takes the role too if it is free, and sleeps in poll(2) in any case.
//!
//! To sleep: join the socket's waiters, look at the socket again, arm the rings, look at them
//! again, and only then sleep. So nothing that happens in between is missed. No lock is held
//! while anybody sleeps.

use crate::session::Inner;
use crate::waiter::{Waiter, Waiters};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes read from the wake-up pipe at a time: one is written per arming.
const PIPE_CHUNK: usize = 64;

/// Locks; a thread that panicked under a lock left nothing half done that matters to others.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Joined<'a> {
    waiters: &'a Waiters,
    me: Waiter,
}

impl<'a> Joined<'a> {
    fn new(waiters: &'a Waiters, me: Waiter) -> Joined<'a> {
        waiters.join(me.clone());
        Joined { waiters, me }
    }
}

impl Drop for Joined<'_> {
    fn drop(&mut self) {
        self.waiters.leave(&self.me);
    }
}

/// Who polls, and who is parked beside it.
#[derive(Debug)]
pub(crate) struct Roles {
    state: Mutex<RoleState>,
    parked: Waiters,
    /// Readable when the poller shall look up.
    interrupt: OwnedFd,
}

#[derive(Debug, Default)]
struct RoleState {
    polling: bool,
    /// A thread of its own keeps the role.
    dispatcher: bool,
}

impl Roles {
    pub(crate) fn new() -> io::Result<Roles> {
        let interrupt = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Roles { state: Mutex::default(), parked: Waiters::default(), interrupt })
    }

    /// The role, or a place among the parked.
    pub(crate) fn poll_or_park(&self, me: &Waiter) -> Role<'_> {
        let mut state = lock(&self.state);
        if !state.polling {
            state.polling = true;
            return Role::Poller(Polling(self));
        }
        // Under the lock: the poller that lets go of the role looks for the parked.
        self.parked.join(me.clone());
        Role::Parked(Parked { roles: self, me: me.clone() })
    }

    /// The role, if nobody has it.
    pub(crate) fn try_poll(&self) -> Option<Polling<'_>> {
        let mut state = lock(&self.state);
        let free = !std::mem::replace(&mut state.polling, true);
        free.then(|| Polling(self))
    }

    /// Lets the poller look up from its sleep.
    pub(crate) fn interrupt(&self) {
        if lock(&self.state).polling {
            let _ = rustix::io::write(&self.interrupt, &1u64.to_ne_bytes());
        }
    }

    /// Wakes everybody that waits for anything.
    pub(crate) fn wake_all(&self) {
        self.parked.wake();
        self.interrupt();
    }

    /// Claims the role for a thread of its own; `false` when it has one.
    pub(crate) fn claim_dispatcher(&self) -> bool {
        !std::mem::replace(&mut lock(&self.state).dispatcher, true)
    }

    fn hand_on(&self) {
        if let Some(next) = self.parked.first() {
            next.wake();
        }
    }
}

pub(crate) enum Role<'a> {
    Poller(Polling<'a>),
    Parked(Parked<'a>),
}

/// The poller's role; handed on when dropped.
pub(crate) struct Polling<'a>(&'a Roles);

impl Drop for Polling<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.polling = false;
        self.0.hand_on();
    }
}

pub(crate) struct Parked<'a> {
    roles: &'a Roles,
    me: Waiter,
}

impl Drop for Parked<'_> {
    fn drop(&mut self) {
        self.roles.parked.leave(&self.me);
    }
}

/// Passes the role on when dropped, if nobody has it: it may be this thread that was woken to take
/// it over, and has what it wanted instead.
pub(crate) struct PassOn<'a>(pub(crate) &'a Roles);

impl Drop for PassOn<'_> {
    fn drop(&mut self) {
        let state = lock(&self.0.state);
        if !state.polling {
            self.0.hand_on();
        }
    }
}

/// What is left until a deadline; `None` when it is past.
pub(crate) fn rest_until(deadline: Option<Instant>) -> Option<Option<Duration>> {
    let Some(deadline) = deadline else { return Some(None) };
    deadline.checked_duration_since(Instant::now()).filter(|rest| !rest.is_zero()).map(Some)
}

impl Inner {
    /// Waits until `ready` says something, or the deadline is past (`None`). Events of `waiters`
    /// make it look again.
    pub(crate) fn wait_for<T>(
        &self,
        waiters: &Waiters,
        deadline: Option<Instant>,
        mut ready: impl FnMut() -> io::Result<Option<T>>,
    ) -> io::Result<Option<T>> {
        if let Some(value) = ready()? {
            return Ok(Some(value));
        }
        let joined = Joined::new(waiters, Waiter::me());
        let _pass_on = PassOn(&self.roles);
        let mut polling = None;
        loop {
            // Looked at again: it may have changed before this thread joined.
            if let Some(value) = ready()? {
                return Ok(Some(value));
            }
            self.sound()?;
            let Some(rest) = rest_until(deadline) else { return Ok(None) };
            if polling.is_some() {
                self.poll(rest)?;
                continue;
            }
            match self.roles.poll_or_park(&joined.me) {
                Role::Poller(role) => polling = Some(role),
                Role::Parked(_parked) => match rest {
                    None => thread::park(),
                    Some(rest) => thread::park_timeout(rest),
                },
            }
        }
    }

    /// The poller's work: consumes what is in the rings; if there is nothing, sleeps until there
    /// is, and consumes that.
    fn poll(&self, timeout: Option<Duration>) -> io::Result<()> {
        if self.consume_events()? > 0 || !self.arm()? {
            return Ok(());
        }
        match self.sleep(&[], timeout) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        self.consume_events().map(|_| ())
    }

    /// The poller's sleep, after arming: until there are events, or one of `others` is ready; returns
    /// what was found at the first of those.
    ///
    /// # Errors
    /// `Interrupted` by a signal; those of poll(2).
    pub(crate) fn sleep(
        &self,
        others: &[(BorrowedFd<'_>, PollFlags)],
        timeout: Option<Duration>,
    ) -> io::Result<PollFlags> {
        let control = self.control_fd();
        let own = [
            (self.wake.as_fd(), PollFlags::IN),
            (self.roles.interrupt.as_fd(), PollFlags::IN),
            // Only its hang-up: replies are for whoever asked.
            (control, PollFlags::RDHUP),
        ];
        let outcome = poll_all(&own, others, timeout);
        self.disarm();
        let [wake, interrupt, control, other] = outcome?;
        for (found, fd) in [(wake, &self.wake), (interrupt, &self.roles.interrupt)] {
            if !found.is_empty() {
                drain(fd);
            }
        }
        if control.intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR) {
            self.fail("the session with the stack was ended");
        }
        Ok(other)
    }

    /// Takes the poller's role and keeps it until the session is over: the body of the
    /// dispatcher's thread.
    pub(crate) fn dispatch(&self) -> io::Result<()> {
        let mut polling = None;
        loop {
            self.sound()?;
            if polling.is_some() {
                self.poll(None)?;
                continue;
            }
            match self.roles.poll_or_park(&Waiter::me()) {
                Role::Poller(role) => polling = Some(role),
                Role::Parked(_parked) => thread::park(),
            }
        }
    }
}

fn drain(fd: &OwnedFd) {
    let mut bytes = [0; PIPE_CHUNK];
    while rustix::io::read(fd.as_fd(), &mut bytes[..]).is_ok_and(|n| n == PIPE_CHUNK) {}
}

/// poll(2) on both lists; returns what was found at the first four. More than a few descriptors cost
/// an allocation.
pub(crate) fn poll_all(
    own: &[(BorrowedFd<'_>, PollFlags)],
    others: &[(BorrowedFd<'_>, PollFlags)],
    timeout: Option<Duration>,
) -> io::Result<[PollFlags; 4]> {
    const FEW: usize = 8;
    let timeout = timeout.and_then(|rest| Timespec::try_from(rest).ok());
    let count = own.len() + others.len();
    let mut all = own.iter().chain(others).map(|(fd, flags)| PollFd::from_borrowed_fd(*fd, *flags));
    let first = all.next().ok_or(rustix::io::Errno::INVAL)?;
    let (mut few, mut many) = (core::array::repeat::<_, FEW>(first.clone()), Vec::new());
    let fds = if count <= FEW {
        few[1..].iter_mut().zip(all).for_each(|(place, fd)| *place = fd);
        &mut few[..count]
    } else {
        many.push(first);
        many.extend(all);
        &mut many[..]
    };
    rustix::event::poll(fds, timeout.as_ref())?;
    let mut found = [PollFlags::empty(); 4];
    found.iter_mut().zip(fds).for_each(|(found, fd)| *found = fd.revents());
    Ok(found)
}
