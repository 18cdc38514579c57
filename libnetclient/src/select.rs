//! Waiting once for any of a list of sockets and descriptors, as poll(2) does.
//!
//! A [`Select`] is one thread's; it owns one descriptor and is used again and again. The lists of
//! those who wait, at the sockets, name it only while a wait is under way.
//!
//! Called by programs that are given their list anew each time, and by the C library's poll. For
//! sockets that stay the same, `poll` costs less.

use crate::ready::Source;
use crate::session::{Inner, start_dispatcher};
use crate::socket::Socket;
use crate::wait::{PassOn, Role, poll_all, rest_until};
use crate::waiter::{Nudge, Waiter};
use rustix::event::PollFlags;
use rustix::fd::{AsFd, BorrowedFd};
use std::io;
use std::sync::Arc;
use std::time::Instant;

/// Waits for any of a list.
#[derive(Debug)]
pub struct Select {
    nudge: Arc<Nudge>,
    joined: Vec<Arc<Socket>>,
}

impl Select {
    /// One that waits for nothing yet.
    ///
    /// # Errors
    /// EMFILE and its like: it has one descriptor.
    pub fn new() -> io::Result<Select> {
        Ok(Select { nudge: Arc::new(Nudge::new()?), joined: Vec::new() })
    }

    /// Adds a socket to the list of the wait to come.
    ///
    /// # Errors
    /// When the thread for a second session can't be started.
    pub fn add<'a>(&mut self, socket: impl Into<Source<'a>>) -> io::Result<()> {
        let socket = socket.into().0;
        // As before every sleep: what was read opens the window. A session that is over shows.
        let _ = socket.tell_consumed();
        match self.joined.first() {
            Some(first) if !Arc::ptr_eq(&first.session.inner, &socket.session.inner) => {
                start_dispatcher(&socket.session)?;
            }
            Some(_) => {}
            None => socket.session.inner.page_waiters.join(Waiter::Nudge(self.nudge.clone())),
        }
        socket.waiters.join(Waiter::Nudge(self.nudge.clone()));
        self.joined.push(socket.clone());
        Ok(())
    }

    /// Sleeps until `ready` says so, one of `beside` is ready, or the deadline is past. The list is
    /// empty afterwards.
    ///
    /// # Errors
    /// `Interrupted` by a signal.
    pub fn wait(
        &mut self,
        beside: &[(BorrowedFd<'_>, PollFlags)],
        deadline: Option<Instant>,
        ready: impl FnMut() -> bool,
    ) -> io::Result<()> {
        let home = self.joined.first().map(|socket| socket.session.inner.clone());
        let outcome = self.sleep(home.as_deref(), beside, deadline, ready);
        self.clear();
        outcome
    }

    fn sleep(
        &self,
        home: Option<&Inner>,
        beside: &[(BorrowedFd<'_>, PollFlags)],
        deadline: Option<Instant>,
        mut ready: impl FnMut() -> bool,
    ) -> io::Result<()> {
        let me = Waiter::Nudge(self.nudge.clone());
        let _pass_on = home.map(|home| PassOn(&home.roles));
        let mut polling = None;
        let mut few = [(self.nudge.as_fd(), PollFlags::IN); 5];
        let mut many = Vec::new();
        let others = if beside.len() < few.len() {
            few[1..=beside.len()].copy_from_slice(beside);
            &few[..=beside.len()]
        } else {
            many.push(few[0]);
            many.extend_from_slice(beside);
            &many[..]
        };
        loop {
            let home = home.filter(|home| home.sound().is_ok());
            if let (Some(home), true) = (home, polling.is_some()) {
                // A session that fails shows at its sockets.
                let _ = home.consume_events();
            }
            let asleep = self.nudge.asleep();
            let mut parked = None;
            if let (Some(home), true) = (home, polling.is_none()) {
                match home.roles.poll_or_park(&me) {
                    Role::Poller(role) => {
                        polling = Some(role);
                        continue;
                    }
                    Role::Parked(place) => parked = Some(place),
                }
            }
            if ready() {
                return Ok(());
            }
            let Some(rest) = rest_until(deadline) else { return Ok(()) };
            let found = match home.filter(|_| polling.is_some()) {
                Some(home) if !home.arm().unwrap_or(false) => continue,
                Some(home) => home.sleep(others, rest)?,
                None => poll_all(&[], others, rest)?[0],
            };
            drop((asleep, parked));
            if !found.is_empty() {
                self.nudge.clear();
            } else if !beside.is_empty() {
                if let (Some(home), true) = (home, polling.is_some()) {
                    let _ = home.consume_events();
                }
                return Ok(());
            }
        }
    }

    fn clear(&mut self) {
        let me = Waiter::Nudge(self.nudge.clone());
        if let Some(first) = self.joined.first() {
            first.session.inner.page_waiters.leave(&me);
        }
        self.joined.drain(..).for_each(|socket| socket.waiters.leave(&me));
    }
}

impl Drop for Select {
    fn drop(&mut self) {
        self.clear();
    }
}
