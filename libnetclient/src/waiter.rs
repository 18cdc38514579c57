//! Whom a change wakes: threads that are parked, threads that sleep in poll(2), tasks, registrations
//! of a [`Poll`](crate::poll::Poll).
//!
//! Owns the lists of those who wait for one thing. Called by `wait`, `socket` and `session`. Tasks
//! and registrations are woken once and have to join again; threads stay until they leave.

use crate::poll::Watch;
use crate::sources::Edge;
use crate::wait::lock;
use rustix::event::EventfdFlags;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::io;
use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::sync::{Arc, Mutex};
use std::thread::{self, Thread};

/// Wakes threads that sleep in poll(2) with its descriptor; costs nothing while none does.
#[derive(Debug)]
pub(crate) struct Nudge {
    fd: OwnedFd,
    asleep: AtomicU32,
}

impl Nudge {
    pub(crate) fn new() -> io::Result<Nudge> {
        let fd = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Nudge { fd, asleep: AtomicU32::new(0) })
    }

    /// Announces that the caller will sleep. What it looks at after this wakes it if it changes.
    pub(crate) fn asleep(&self) -> Asleep<'_> {
        self.asleep.fetch_add(1, Ordering::Relaxed);
        // Announced before the caller looks; `wake` has it the other way round.
        fence(Ordering::SeqCst);
        Asleep(self)
    }

    /// Wakes them all; `false` when nobody sleeps.
    pub(crate) fn wake(&self) -> bool {
        // What changed is out before this looks for sleepers; see `asleep`.
        fence(Ordering::SeqCst);
        let any = self.asleep.load(Ordering::Relaxed) > 0;
        if any {
            let _ = rustix::io::write(&self.fd, &1u64.to_ne_bytes());
        }
        any
    }

    /// Takes a wake-up off: its descriptor was found readable.
    pub(crate) fn clear(&self) {
        let _ = rustix::io::read(&self.fd, &mut [0; 8]);
    }
}

impl AsFd for Nudge {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A thread that sleeps, or is about to. Awake again when dropped.
pub(crate) struct Asleep<'a>(&'a Nudge);

impl Drop for Asleep<'_> {
    fn drop(&mut self) {
        self.0.asleep.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Somebody to wake.
#[derive(Debug, Clone)]
pub(crate) enum Waiter {
    /// A thread that parks, or holds the poller's role.
    Thread(Thread),
    /// A thread that sleeps in poll(2) beside the poller.
    Nudge(Arc<Nudge>),
    /// A task.
    #[cfg(feature = "tokio")]
    Task(std::task::Waker),
    /// A registration that could not write for lack of a page.
    Watch(Arc<Watch>),
    /// A socket in a registry that could not write for lack of a page.
    Edge(Arc<Edge>),
}

impl Waiter {
    /// The thread that calls.
    pub(crate) fn me() -> Waiter {
        Waiter::Thread(thread::current())
    }

    fn same(&self, other: &Waiter) -> bool {
        match (self, other) {
            (Waiter::Thread(a), Waiter::Thread(b)) => a.id() == b.id(),
            (Waiter::Nudge(a), Waiter::Nudge(b)) => Arc::ptr_eq(a, b),
            #[cfg(feature = "tokio")]
            (Waiter::Task(a), Waiter::Task(b)) => a.will_wake(b),
            (Waiter::Watch(a), Waiter::Watch(b)) => Arc::ptr_eq(a, b),
            (Waiter::Edge(a), Waiter::Edge(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }

    /// Whether it is woken once and then forgotten.
    fn once(&self) -> bool {
        !matches!(self, Waiter::Thread(_) | Waiter::Nudge(_))
    }

    pub(crate) fn wake(&self) {
        match self {
            Waiter::Thread(thread) => thread.unpark(),
            Waiter::Nudge(nudge) => {
                nudge.wake();
            }
            #[cfg(feature = "tokio")]
            Waiter::Task(task) => task.wake_by_ref(),
            Waiter::Watch(watch) => watch.changed(),
            Waiter::Edge(edge) => edge.make(),
        }
    }
}

/// Those who wait for one thing.
#[derive(Debug, Default)]
pub(crate) struct Waiters(Mutex<Vec<Waiter>>);

impl Waiters {
    /// Joins, to leave with [`Waiters::leave`]; one that is woken once joins at most once.
    pub(crate) fn join(&self, waiter: Waiter) {
        let mut waiters = lock(&self.0);
        if !waiter.once() || !waiters.iter().any(|other| other.same(&waiter)) {
            waiters.push(waiter);
        }
    }

    pub(crate) fn leave(&self, waiter: &Waiter) {
        let mut waiters = lock(&self.0);
        if let Some(at) = waiters.iter().position(|other| other.same(waiter)) {
            waiters.swap_remove(at);
        }
    }

    /// The first one that waits.
    pub(crate) fn first(&self) -> Option<Waiter> {
        lock(&self.0).first().cloned()
    }

    /// Lets them all look again, except one that sleeps as the poller: `true` when there may be
    /// such a one.
    pub(crate) fn wake(&self) -> bool {
        let mut waiters = lock(&self.0);
        if waiters.is_empty() {
            return false;
        }
        let mut threads = false;
        for waiter in waiters.iter().filter(|waiter| !waiter.once()) {
            threads = true;
            waiter.wake();
        }
        if waiters.iter().any(Waiter::once) {
            // Woken, and let go of, outside the lock: that may end in a socket's close.
            let once: Vec<Waiter> = waiters.extract_if(.., |waiter| waiter.once()).collect();
            drop(waiters);
            once.iter().for_each(Waiter::wake);
        }
        threads
    }
}
