//! The loop: notices, edges of both kinds of sockets, calls that wait. One thread, no timer but those
//! of calls that were given one.

use crate::bridge::{Bridge, CHUNK, Outcome, State, Waiting};
use crate::native::{self, Watcher};
use crate::notices::Notices;
use crate::program::Errno;
use libc::c_int;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::AsRawFd;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::fmt::Arguments;
use std::time::Instant;

/// Notices answered before the bytes get their turn.
const NOTICES_PER_TURN: usize = 32;
/// The token of the notices; a bridge's are twice its number, and one more for the session's socket.
const NOTICES: u64 = u64::MAX;

/// What became of a call that asked for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Served {
    /// It has one, or is gone.
    Yes,
    /// There is none.
    NothingThere,
}

/// The programs' sockets.
#[derive(Debug)]
pub struct Server {
    pub(crate) notices: Notices,
    watcher: Watcher,
    bridges: Vec<Option<Bridge>>,
    free: Vec<usize>,
    by_socket: HashMap<u64, usize>,
    /// Bridges with something to do.
    going: VecDeque<usize>,
    /// When calls that wait are over, and of which bridge; those that were served since are among them.
    deadlines: BinaryHeap<Reverse<(Instant, usize)>>,
    chunk: Box<[u8; CHUNK]>,
    verbose: bool,
    /// Nobody is behind the filter any more.
    programs_gone: bool,
}

impl Server {
    /// A server of those notices; `verbose` says on standard error what is answered.
    ///
    /// # Errors
    /// Those of epoll.
    pub fn new(notices: Notices, verbose: bool) -> Result<Server, Errno> {
        let watcher = Watcher::new()?;
        watcher.add(notices.descriptor().as_raw_fd(), libc::EPOLLIN, NOTICES)?;
        Ok(Server {
            notices,
            watcher,
            bridges: Vec::new(),
            free: Vec::new(),
            by_socket: HashMap::new(),
            going: VecDeque::new(),
            deadlines: BinaryHeap::new(),
            chunk: Box::new([0; CHUNK]),
            verbose,
            programs_gone: false,
        })
    }

    /// Serves until the last program is gone and all it wrote is handed over.
    ///
    /// # Errors
    /// Those of epoll and of the listener.
    pub fn serve(&mut self) -> Result<(), Errno> {
        let mut events = Vec::new();
        while !self.programs_gone || !self.by_socket.is_empty() {
            self.watcher.wait(&mut events, self.timeout()).or_else(|errno| {
                events.clear();
                if errno == libc::EINTR { Ok(()) } else { Err(errno) }
            })?;
            for event in &events {
                match event.token {
                    NOTICES => self.on_notices(event.events)?,
                    token => self.on_edge((token / 2) as usize, token % 2 == 1, event.events),
                }
            }
            for _ in 0..self.going.len() {
                if let Some(index) = self.going.pop_front() {
                    self.progress(index);
                }
            }
            self.give_up_waiting();
        }
        Ok(())
    }

    pub(crate) fn say(&self, text: Arguments<'_>) {
        if self.verbose {
            eprintln!("netexec: {text}");
        }
    }

    fn on_notices(&mut self, events: u32) -> Result<(), Errno> {
        for _ in 0..NOTICES_PER_TURN {
            let descriptor = self.notices.descriptor();
            let mut one = [PollFd::new(&descriptor, PollFlags::IN)];
            let waits = matches!(poll(&mut one, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(1))
                && one[0].revents().contains(PollFlags::IN);
            if !waits {
                break;
            }
            let taken = self.notices.take().map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))?;
            if let Some(notice) = taken {
                self.on_notice(notice);
            }
        }
        if events & libc::EPOLLHUP as u32 != 0 {
            self.programs_gone = true;
            self.watcher.remove(self.notices.descriptor().as_raw_fd());
        }
        Ok(())
    }

    fn on_edge(&mut self, index: usize, of_stack: bool, events: u32) {
        let Some(bridge) = self.bridges.get_mut(index).and_then(Option::as_mut) else { return };
        let has = |bits: c_int| events & bits as u32 != 0;
        let readable = has(libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR);
        let writable = has(libc::EPOLLOUT | libc::EPOLLHUP | libc::EPOLLERR);
        if of_stack {
            bridge.stack_readable |= readable;
            bridge.stack_writable |= writable;
        } else {
            bridge.program_readable |= readable;
            bridge.program_writable |= writable;
        }
        self.go(index);
    }

    /// It has something to do.
    pub(crate) fn go(&mut self, index: usize) {
        // Looked at twice in one turn does no harm.
        self.going.push_back(index);
    }

    /// The bridge of a socket, by its inode.
    pub(crate) fn find(&self, socket: u64) -> Option<usize> {
        self.by_socket.get(&socket).copied()
    }

    /// # Panics
    /// When there is none: an index is only ever one that was just found.
    pub(crate) fn bridge(&mut self, index: usize) -> &mut Bridge {
        self.bridges[index].as_mut().expect("an index that was found")
    }

    /// Takes a bridge in and watches both its sides.
    pub(crate) fn insert(&mut self, bridge: Bridge) -> Result<usize, Errno> {
        let index = self.free.pop().unwrap_or(self.bridges.len());
        let (native, ours) = bridge.descriptors();
        let edges = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET;
        let token = index as u64 * 2;
        let watched = self.watcher.add(ours, edges, token).and_then(|()| {
            self.watcher.add(native, edges, token + 1).inspect_err(|_| self.watcher.remove(ours))
        });
        if index == self.bridges.len() {
            self.bridges.push(None);
        }
        if let Err(errno) = watched {
            self.free.push(index);
            return Err(errno);
        }
        self.by_socket.insert(bridge.socket, index);
        self.bridges[index] = Some(bridge);
        self.go(index);
        Ok(index)
    }

    fn remove(&mut self, index: usize) -> Bridge {
        let bridge = self.bridges[index].take().expect("an index that was found");
        let (native, ours) = bridge.descriptors();
        self.watcher.remove(ours);
        self.watcher.remove(native);
        self.by_socket.remove(&bridge.socket);
        self.free.push(index);
        bridge
    }

    /// Drops a bridge whose session's socket goes on.
    pub(crate) fn forget(&mut self, index: usize) {
        self.remove(index);
    }

    /// The program has closed it.
    pub(crate) fn close(&mut self, index: usize) {
        let bridge = self.remove(index);
        if let State::Listening { returned, .. } = &bridge.state {
            returned.iter().for_each(|(accepted, _)| native::abort(*accepted));
        }
        native::close(bridge.native);
    }

    /// Moves a socket on.
    pub(crate) fn progress(&mut self, index: usize) {
        let Some(bridge) = self.bridges.get_mut(index).and_then(Option::as_mut) else { return };
        match bridge.state {
            State::Connecting { .. } => self.look_at_connect(index),
            State::Listening { .. } => self.serve_accepts(index),
            State::Datagram { .. } => self.serve_receives(index),
            State::Fresh | State::Stream => {}
        }
        let Some(bridge) = self.bridges.get_mut(index).and_then(Option::as_mut) else { return };
        match bridge.carry(&mut self.chunk) {
            Outcome::Rests => {}
            Outcome::Goes => self.go(index),
            Outcome::Closed => self.close(index),
            Outcome::Aborted => {
                let bridge = self.remove(index);
                native::abort(bridge.native);
            }
            Outcome::Reset => {
                let bridge = self.remove(index);
                native::close(bridge.native);
                let theirs = bridge.caller.find(bridge.socket);
                bridge.reset(theirs);
            }
        }
    }

    fn look_at_connect(&mut self, index: usize) {
        let bridge = self.bridges[index].as_mut().expect("an index that was found");
        let State::Connecting { to, filled, .. } = &bridge.state else { return };
        // Asked again, a connect says how it stands.
        let outcome = match native::connect(bridge.native, to) {
            Ok(()) | Err(libc::EISCONN) => Ok(()),
            Err(libc::EALREADY | libc::EINPROGRESS | libc::EINTR) => return,
            Err(errno) => Err(errno),
        };
        bridge.drain(*filled, &mut self.chunk);
        let nonblocking = *filled > 0;
        let after = if outcome.is_ok() { State::Stream } else { State::Fresh };
        let State::Connecting { waiting, .. } = core::mem::replace(&mut bridge.state, after) else { return };
        for waiter in &waiting {
            match outcome {
                Ok(()) => self.notices.answer(waiter.id, 0),
                Err(errno) => self.notices.refuse(waiter.id, errno),
            }
        }
        if let Err(errno) = outcome
            && (nonblocking || waiting.is_empty())
        {
            // The program's end is writable now, and SO_ERROR says why.
            bridge.error = Some(errno);
        }
    }

    fn serve_accepts(&mut self, index: usize) {
        while let State::Listening { waiting, .. } = &mut self.bridge(index).state
            && let Some(waiter) = waiting.front().copied()
        {
            if self.notices.is_valid(waiter.id) {
                match self.hand_over(index, &waiter) {
                    Ok(Served::NothingThere) => break,
                    Ok(Served::Yes) => {}
                    Err(errno) => self.notices.refuse(waiter.id, errno),
                }
            }
            if let State::Listening { waiting, .. } = &mut self.bridge(index).state {
                waiting.pop_front();
            }
        }
        self.bridge(index).mark(None);
    }

    fn serve_receives(&mut self, index: usize) {
        while let State::Datagram { waiting, .. } = &mut self.bridge(index).state
            && let Some(waiter) = waiting.front().copied()
        {
            if self.notices.is_valid(waiter.id) {
                match self.take(index, &waiter, None) {
                    Err(libc::EAGAIN) => break,
                    Ok(value) => self.notices.answer(waiter.id, value),
                    Err(errno) => self.notices.refuse(waiter.id, errno),
                }
            }
            if let State::Datagram { waiting, .. } = &mut self.bridge(index).state {
                waiting.pop_front();
            }
        }
    }

    /// A call waits for something to happen to its socket, until its time is over.
    pub(crate) fn park(&mut self, index: usize, waiting: Waiting) {
        if let Some(until) = waiting.until {
            self.deadlines.push(Reverse((until, index)));
        }
        if let State::Listening { waiting: line, .. } | State::Datagram { waiting: line, .. } =
            &mut self.bridge(index).state
        {
            line.push_back(waiting);
        }
    }

    /// Milliseconds until something is due; −1 when nothing is.
    fn timeout(&self) -> c_int {
        if !self.going.is_empty() {
            return 0;
        }
        self.deadlines.peek().map_or(-1, |Reverse((until, _))| {
            let left = until.saturating_duration_since(Instant::now()).as_millis() + 1;
            c_int::try_from(left).unwrap_or(c_int::MAX)
        })
    }

    /// Calls whose time is over fail as on a kernel's socket.
    fn give_up_waiting(&mut self) {
        while let Some(Reverse((until, index))) = self.deadlines.peek().copied() {
            let now = Instant::now();
            if until > now {
                return;
            }
            self.deadlines.pop();
            let Some(bridge) = self.bridges.get_mut(index).and_then(Option::as_mut) else { continue };
            let (State::Listening { waiting, .. } | State::Datagram { waiting, .. }) = &mut bridge.state
            else {
                continue;
            };
            waiting.retain(|waiter| {
                let over = waiter.until.is_some_and(|until| until <= now);
                if over {
                    self.notices.refuse(waiter.id, libc::EAGAIN);
                }
                !over
            });
        }
    }
}
