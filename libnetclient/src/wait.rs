//! How threads sleep until a socket changes.
//!
//! One of the threads that wait takes the *poller's* role: it consumes the event rings, wakes
//! whoever an event is for, and sleeps in poll(2) on the session's pipe; the others are parked. A
//! poller that has what it wanted hands the role to one of those. A session with sockets in a
//! [`mio`] registry has a thread of its own that keeps the role.
//!
//! To sleep: join the socket's sleepers, look at the socket again, arm the rings, look at them
//! again, and only then sleep. So nothing that happens in between is missed. No lock is held
//! while anybody sleeps.

use crate::session::Inner;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::fd::{AsFd, OwnedFd};
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread, ThreadId};
use std::time::{Duration, Instant};

/// Bytes read from the wake-up pipe at a time: one is written per arming.
const PIPE_CHUNK: usize = 64;

/// Locks; a thread that panicked under a lock left nothing half done that matters to others.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The threads that wait for one thing.
#[derive(Debug, Default)]
pub(crate) struct Sleepers(Mutex<Vec<Thread>>);

impl Sleepers {
    fn join(&self) -> Joined<'_> {
        let me = thread::current();
        let id = me.id();
        lock(&self.0).push(me);
        Joined { sleepers: self, id }
    }

    /// Lets them all look again, except one that sleeps in poll(2); `false` when there are none.
    pub(crate) fn wake(&self) -> bool {
        let threads = lock(&self.0);
        threads.iter().for_each(Thread::unpark);
        !threads.is_empty()
    }
}

struct Joined<'a> {
    sleepers: &'a Sleepers,
    id: ThreadId,
}

impl Drop for Joined<'_> {
    fn drop(&mut self) {
        leave(&mut lock(&self.sleepers.0), self.id);
    }
}

fn leave(threads: &mut Vec<Thread>, id: ThreadId) {
    if let Some(at) = threads.iter().position(|thread| thread.id() == id) {
        threads.swap_remove(at);
    }
}

/// Who polls, and who is parked beside it.
#[derive(Debug)]
pub(crate) struct Roles {
    state: Mutex<RoleState>,
    /// Readable when the poller shall look up.
    interrupt: OwnedFd,
}

#[derive(Debug, Default)]
struct RoleState {
    polling: bool,
    parked: Vec<Thread>,
    /// A thread of its own keeps the role.
    dispatcher: bool,
}

impl Roles {
    pub(crate) fn new() -> io::Result<Roles> {
        let interrupt = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Roles { state: Mutex::default(), interrupt })
    }

    /// The role, or a place among the parked.
    fn poll_or_park(&self) -> Role<'_> {
        let mut state = lock(&self.state);
        if !state.polling {
            state.polling = true;
            return Role::Poller(Polling(self));
        }
        let me = thread::current();
        let id = me.id();
        state.parked.push(me);
        Role::Parked(Parked { roles: self, id })
    }

    /// Lets the poller look up from its sleep.
    pub(crate) fn interrupt(&self) {
        if lock(&self.state).polling {
            let _ = rustix::io::write(&self.interrupt, &1u64.to_ne_bytes());
        }
    }

    /// Wakes everybody that waits for anything.
    pub(crate) fn wake_all(&self) {
        for thread in &lock(&self.state).parked {
            thread.unpark();
        }
        self.interrupt();
    }

    /// Claims the role for a thread of its own; `false` when it has one.
    pub(crate) fn claim_dispatcher(&self) -> bool {
        !std::mem::replace(&mut lock(&self.state).dispatcher, true)
    }
}

enum Role<'a> {
    Poller(Polling<'a>),
    Parked(Parked<'a>),
}

/// The poller's role; handed on when dropped.
struct Polling<'a>(&'a Roles);

impl Drop for Polling<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.polling = false;
        if let Some(next) = state.parked.first() {
            next.unpark();
        }
    }
}

struct Parked<'a> {
    roles: &'a Roles,
    id: ThreadId,
}

impl Drop for Parked<'_> {
    fn drop(&mut self) {
        leave(&mut lock(&self.roles.state).parked, self.id);
    }
}

/// Passes the role on when dropped, if nobody has it: it may be this thread that was woken to take
/// it over, and has what it wanted instead.
struct PassOn<'a>(&'a Roles);

impl Drop for PassOn<'_> {
    fn drop(&mut self) {
        let state = lock(&self.0.state);
        if !state.polling
            && let Some(next) = state.parked.first()
        {
            next.unpark();
        }
    }
}

/// What is left until a deadline; `None` when it is past.
fn rest_until(deadline: Option<Instant>) -> Option<Option<Duration>> {
    let Some(deadline) = deadline else { return Some(None) };
    deadline.checked_duration_since(Instant::now()).filter(|rest| !rest.is_zero()).map(Some)
}

impl Inner {
    /// Waits until `ready` says something, or the deadline is past (`None`). Events of `sleepers`
    /// make it look again.
    pub(crate) fn wait_for<T>(
        &self,
        sleepers: &Sleepers,
        deadline: Option<Instant>,
        mut ready: impl FnMut() -> io::Result<Option<T>>,
    ) -> io::Result<Option<T>> {
        if let Some(value) = ready()? {
            return Ok(Some(value));
        }
        let _joined = sleepers.join();
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
            match self.roles.poll_or_park() {
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
        let timeout = timeout.and_then(|rest| Timespec::try_from(rest).ok());
        let control = self.control_fd();
        let mut fds = [
            PollFd::new(&self.wake, PollFlags::IN),
            PollFd::new(&self.roles.interrupt, PollFlags::IN),
            // Only its hang-up: replies are for whoever asked.
            PollFd::new(&control, PollFlags::RDHUP),
        ];
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let over = fds[2].revents().intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR);
        drain(&self.wake);
        drain(&self.roles.interrupt);
        self.disarm();
        if over {
            self.fail("the session with the stack was ended");
        }
        self.consume_events().map(|_| ())
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
            match self.roles.poll_or_park() {
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
