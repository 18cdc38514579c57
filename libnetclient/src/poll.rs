//! Waiting for many sockets with few descriptors.
//!
//! A [`Poll`] owns one descriptor, however many sockets it watches: what a socket becomes ready for
//! comes through its session's event ring. Level- or edge-triggered or once, as epoll(7). No thread
//! of its own for its first session, no allocation for a wait.
//!
//! Called by programs, and by the C library's epoll. A socket knows its registrations
//! ([`Watch`]); one that changed stands in its poll's queue, once. Whoever takes it out of the
//! queue marks it so *before* looking at the socket: a change after that look queues it again.
//!
//! Not here: sockets in a `mio` registry (`sources`), and waiting once for a list (`select`).

use crate::ready::{Ready, Source};
use crate::session::{Inner, Session, start_dispatcher};
use crate::socket::Socket;
use crate::wait::{PassOn, Polling, Role, lock, poll_all, rest_until};
use crate::waiter::{Nudge, Waiter};
use rustix::event::PollFlags;
use rustix::fd::{AsFd, BorrowedFd};
use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

/// How often a socket is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Trigger {
    /// By every wait, as long as it is ready.
    #[default]
    Level,
    /// When it changed (EPOLLET).
    Edge,
    /// Once, then not until it is registered anew (EPOLLONESHOT).
    Once,
}

/// What a wait found of one socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Event {
    /// The number it was registered with.
    pub token: u64,
    /// What it is ready for.
    pub ready: Ready,
}

/// Watches sockets. Share it by reference: any thread may register, and several may wait.
#[derive(Debug)]
pub struct Poll {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    nudge: Arc<Nudge>,
    queue: Mutex<VecDeque<Arc<Watch>>>,
    /// The session whose rings are consumed by whoever waits; others have a thread for that.
    home: Mutex<Option<Session>>,
}

/// A socket's registration.
#[derive(Debug)]
pub(crate) struct Watch {
    poll: Weak<Shared>,
    socket: Weak<Socket>,
    /// It stands in the queue.
    queued: AtomicBool,
    wanted: Mutex<Wanted>,
}

#[derive(Debug, Clone, Copy)]
struct Wanted {
    token: u64,
    interest: Ready,
    trigger: Trigger,
    /// Was reported once, or taken off: nothing is reported.
    idle: bool,
}

impl Watch {
    /// Its socket changed: it stands in the queue, and whoever waits looks.
    pub(crate) fn changed(self: &Arc<Self>) {
        // AcqRel: pairs with the swap in `Shared::collect`, which therefore sees what changed.
        if self.queued.swap(true, Ordering::AcqRel) {
            return;
        }
        if let Some(poll) = self.poll.upgrade() {
            lock(&poll.queue).push_back(self.clone());
            poll.nudge.wake();
        }
    }

    fn of(&self, poll: &Arc<Shared>) -> bool {
        Weak::as_ptr(&self.poll) == Arc::as_ptr(poll)
    }
}

impl Poll {
    /// A poll that watches nothing yet.
    ///
    /// # Errors
    /// EMFILE and its like: it has one descriptor.
    pub fn new() -> io::Result<Poll> {
        let shared =
            Shared { nudge: Arc::new(Nudge::new()?), queue: Mutex::default(), home: Mutex::default() };
        Ok(Poll { shared: Arc::new(shared) })
    }

    /// Watches a socket; what it is ready for already is an event too. It is watched until it is closed
    /// or taken off.
    ///
    /// # Errors
    /// `AlreadyExists` when it is watched already.
    pub fn register<'a>(
        &self,
        socket: impl Into<Source<'a>>,
        token: u64,
        interest: Ready,
        trigger: Trigger,
    ) -> io::Result<()> {
        let socket = socket.into().0;
        self.shared.settle(&socket.session)?;
        let wanted = Mutex::new(Wanted { token, interest, trigger, idle: false });
        let mut watches = socket.watches();
        if watches.iter().any(|watch| watch.of(&self.shared)) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        // Those whose poll is gone make room.
        watches.retain(|watch| watch.poll.strong_count() > 0);
        let watch = Watch {
            poll: Arc::downgrade(&self.shared),
            socket: Arc::downgrade(socket),
            queued: AtomicBool::new(false),
            wanted,
        };
        let watch = Arc::new(watch);
        watches.push(watch.clone());
        drop(watches);
        watch.changed();
        Ok(())
    }

    /// Changes what a watched socket is watched for.
    ///
    /// # Errors
    /// `NotFound` when it is not watched.
    pub fn reregister<'a>(
        &self,
        socket: impl Into<Source<'a>>,
        token: u64,
        interest: Ready,
        trigger: Trigger,
    ) -> io::Result<()> {
        let watches = socket.into().0.watches();
        let watch = watches.iter().find(|watch| watch.of(&self.shared)).cloned();
        let watch = watch.ok_or(io::ErrorKind::NotFound)?;
        drop(watches);
        *lock(&watch.wanted) = Wanted { token, interest, trigger, idle: false };
        watch.changed();
        Ok(())
    }

    /// Takes a socket off.
    ///
    /// # Errors
    /// `NotFound` when it is not watched.
    pub fn deregister<'a>(&self, socket: impl Into<Source<'a>>) -> io::Result<()> {
        let mut watches = socket.into().0.watches();
        let at = watches.iter().position(|watch| watch.of(&self.shared)).ok_or(io::ErrorKind::NotFound)?;
        let watch = watches.swap_remove(at);
        drop(watches);
        lock(&watch.wanted).idle = true;
        Ok(())
    }

    /// Waits until something is ready, at most `timeout` (`None`: for ever); puts what is found into
    /// `events` and returns how many that are. 0 after the timeout.
    ///
    /// # Errors
    /// `Interrupted` by a signal; `InvalidInput` when `events` has no room.
    pub fn wait(&self, events: &mut [Event], timeout: Option<Duration>) -> io::Result<usize> {
        self.shared.wait(events, None, timeout)
    }

    /// [`Poll::wait`] that also ends, perhaps with 0 events, when `beside` is readable: an epoll
    /// descriptor with those of the kernel, for instance.
    ///
    /// # Errors
    /// As [`Poll::wait`].
    pub fn wait_beside(
        &self,
        beside: BorrowedFd<'_>,
        events: &mut [Event],
        timeout: Option<Duration>,
    ) -> io::Result<usize> {
        self.shared.wait(events, Some(beside), timeout)
    }
}

impl Drop for Poll {
    fn drop(&mut self) {
        // The watches in it hold no poll; sockets hold the watches.
        lock(&self.shared.queue).clear();
    }
}

impl Shared {
    /// Decides who consumes the events of a session.
    fn settle(&self, session: &Session) -> io::Result<()> {
        let mut home = lock(&self.home);
        match &*home {
            Some(home) if Arc::ptr_eq(&home.inner, &session.inner) => return Ok(()),
            Some(home) if home.inner.sound().is_ok() => {}
            _ => {
                *home = Some(session.clone());
                return Ok(());
            }
        }
        drop(home);
        start_dispatcher(session)
    }

    fn home(&self) -> Option<Arc<Inner>> {
        lock(&self.home).as_ref().map(|session| session.inner.clone()).filter(|inner| inner.sound().is_ok())
    }

    fn wait(
        &self,
        events: &mut [Event],
        beside: Option<BorrowedFd<'_>>,
        timeout: Option<Duration>,
    ) -> io::Result<usize> {
        if events.is_empty() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let home = self.home();
        let _pass_on = home.as_deref().map(|home| PassOn(&home.roles));
        let mut polling = home.as_deref().and_then(|home| home.roles.try_poll());
        let mut asked = false;
        loop {
            // Before what is queued already: nobody starves.
            if let (Some(home), true) = (&home, polling.is_some()) {
                // A session that fails makes events of its own.
                let _ = home.consume_events();
            }
            let found = self.collect(events);
            // Once around without a sleep is asking whether `beside` is ready, too.
            let rest = if asked && beside.is_some() { None } else { rest_until(deadline) };
            asked = true;
            let (true, Some(rest)) = (found == 0, rest) else {
                self.others_go_on();
                return Ok(found);
            };
            self.sleep(home.as_deref(), &mut polling, beside, rest)?;
        }
    }

    /// One sleep, unless there is something to do.
    fn sleep<'a>(
        &self,
        home: Option<&'a Inner>,
        polling: &mut Option<Polling<'a>>,
        beside: Option<BorrowedFd<'_>>,
        rest: Option<Duration>,
    ) -> io::Result<()> {
        let me = Waiter::Nudge(self.nudge.clone());
        let asleep = self.nudge.asleep();
        let mut parked = None;
        if let (Some(home), true) = (home, polling.is_none()) {
            match home.roles.poll_or_park(&me) {
                Role::Poller(role) => *polling = Some(role),
                Role::Parked(place) => parked = Some(place),
            }
        }
        if !lock(&self.queue).is_empty() {
            return Ok(());
        }
        let mut others = [(self.nudge.as_fd(), PollFlags::IN); 2];
        let others = match beside {
            Some(beside) => {
                others[1] = (beside, PollFlags::IN);
                &others[..]
            }
            None => &others[..1],
        };
        let nudged = match home.filter(|_| polling.is_some()) {
            // What came before arming is consumed by the caller; a ring that is broken too.
            Some(home) if !home.arm().unwrap_or(false) => return Ok(()),
            Some(home) => home.sleep(others, rest)?,
            None => poll_all(&[], others, rest)?[0],
        };
        drop((asleep, parked));
        if !nudged.is_empty() {
            self.nudge.clear();
        }
        Ok(())
    }

    /// What is left in the queue is for others that sleep.
    fn others_go_on(&self) {
        if !lock(&self.queue).is_empty() {
            self.nudge.wake();
        }
    }

    /// Takes what is ready out of the queue; returns how many events that are.
    fn collect(&self, events: &mut [Event]) -> usize {
        let (mut turns, mut found) = (lock(&self.queue).len(), 0);
        while turns > 0 && found < events.len() {
            turns -= 1;
            let Some(watch) = lock(&self.queue).pop_front() else { break };
            // AcqRel: pairs with the swap in `Watch::changed`.
            watch.queued.swap(false, Ordering::AcqRel);
            let Some(socket) = watch.socket.upgrade() else { continue };
            let wanted = *lock(&watch.wanted);
            if wanted.idle {
                continue;
            }
            let ready = socket.ready(|session| {
                if wanted.interest.intersects(Ready::WRITE) {
                    session.inner.page_waiters.join(Waiter::Watch(watch.clone()));
                }
            });
            let ready = ready & (wanted.interest | Ready::ALWAYS);
            if ready.is_empty() {
                // As before a sleep: what was read opens the window.
                let _ = socket.tell_consumed();
                continue;
            }
            match wanted.trigger {
                Trigger::Edge => {}
                Trigger::Once => {
                    let mut wanted = lock(&watch.wanted);
                    if std::mem::replace(&mut wanted.idle, true) {
                        continue;
                    }
                }
                Trigger::Level => {
                    if !watch.queued.swap(true, Ordering::AcqRel) {
                        lock(&self.queue).push_back(watch);
                    }
                }
            }
            events[found] = Event { token: wanted.token, ready };
            found += 1;
        }
        found
    }
}
