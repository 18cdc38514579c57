//! The loop: notices, edges of both kinds of sockets, calls that wait. One thread, no timer but those
//! of calls that were given one.
//!
//! Whatever a program was told is in the [`Ledger`] before it was told; a server that is killed is
//! followed by one that begins with [`Server::take_up`] (`successor`).

use crate::bridge::{Bridge, CHUNK, NOWHERE, Outcome, State, Waiting};
use crate::filter;
use crate::host::Host;
use crate::ledger::{Ledger, Parked, RECORDS, Record, flag, phase};
use crate::native::{self, Event, Watcher};
use crate::notices::Notices;
use crate::program::Errno;
use crate::pump::Pump;
use crate::records;
use crate::shown::Shown;
use libc::{c_int, c_long};
use libnetclient::Session;
use netclient::resume::What;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::AsRawFd;
use rustix::time::{ClockId, clock_gettime};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::fmt::Arguments;
use std::time::{Duration, Instant};
use zerocopy::FromZeros;

/// Notices answered before the bytes get their turn.
const NOTICES_PER_TURN: usize = 32;
/// After how many sockets what was handed over wakes the stack: a wake-up costs what carrying some short
/// messages does.
const TURNS_PER_WAKE_UP: usize = 16;
/// How long the stack may take to let go of a port, also while a netd is started again, and after which time it
/// is looked at again. Rare, so the others' calls wait meanwhile.
const LET_GO_TIME: Duration = Duration::from_secs(2);
const LET_GO_STEP: Duration = Duration::from_micros(200);
/// How often edges are asked for before a call is answered: each time brings 64 at least, if there are.
const CLOSE_ROUNDS: usize = 16;
/// The token of the notices; a bridge's are twice its number, and one more for the session's socket.
pub(crate) const NOTICES: u64 = u64::MAX;

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
    pub(crate) ledger: Ledger,
    pub(crate) shown: Shown,
    pub(crate) session: Session,
    pub(crate) pump: Pump,
    pub(crate) host: Host,
    pub(crate) watcher: Watcher,
    pub(crate) bridges: Vec<Option<Bridge>>,
    pub(crate) free: Vec<usize>,
    pub(crate) by_socket: HashMap<u64, usize>,
    /// Bridges with something to do.
    going: VecDeque<usize>,
    /// Places in the ledger for calls that wait.
    pub(crate) free_places: Vec<usize>,
    /// When calls that wait are over, and of which bridge; those that were served since are among them.
    pub(crate) deadlines: BinaryHeap<Reverse<(Instant, usize)>>,
    pub(crate) chunk: Box<[u8; CHUNK]>,
    /// Ports of sockets that were closed a short time ago: the stack may not have let go of them.
    closed_ports: VecDeque<(u16, Instant)>,
    pub(crate) verbose: bool,
    /// Nobody is behind the filter any more.
    programs_gone: bool,
}

/// CLOCK_MONOTONIC in nanoseconds: means the same to a successor.
pub(crate) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

impl Server {
    /// A server without sockets.
    pub(crate) fn empty(
        notices: Notices,
        (ledger, shown): (Ledger, Shown),
        session: Session,
        pump: Pump,
        verbose: bool,
    ) -> Result<Server, Errno> {
        let watcher = Watcher::new()?;
        watcher.add(notices.descriptor().as_raw_fd(), libc::EPOLLIN, NOTICES)?;
        Ok(Server {
            notices,
            host: Host::new(ledger.header().name()),
            ledger,
            shown,
            session,
            pump,
            watcher,
            bridges: Vec::new(),
            free: Vec::new(),
            by_socket: HashMap::new(),
            going: VecDeque::new(),
            free_places: Vec::new(),
            deadlines: BinaryHeap::new(),
            chunk: Box::new([0; CHUNK]),
            closed_ports: VecDeque::new(),
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
            self.on_edges(&events);
            if let Some(event) = events.iter().find(|event| event.token == NOTICES) {
                self.on_notices(event.events)?;
            }
            self.move_bytes();
            self.give_up_waiting();
        }
        Ok(())
    }

    /// Everybody who has something to do gets a turn; what is short wakes the stack once for some of them.
    fn move_bytes(&mut self) {
        for turn in 1..=self.going.len() {
            let Some(index) = self.going.pop_front() else { break };
            self.session.hold_back_wake_ups();
            self.progress(index);
            if turn % TURNS_PER_WAKE_UP == 0 {
                self.session.wake_up();
            }
        }
        self.session.wake_up();
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
            let taken = self.notices.take(&self.ledger);
            if let Some(notice) = taken.map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))? {
                // What a file has to do with sockets is what is shown at the time.
                if filter::OPENS.iter().all(|(open, _)| *open != notice.call as c_long) {
                    self.see_closes()?;
                }
                self.on_notice(notice);
            }
            self.ledger.forget_notice();
        }
        if events & libc::EPOLLHUP as u32 != 0 {
            self.programs_gone = true;
            self.watcher.remove(self.notices.descriptor().as_raw_fd());
        }
        Ok(())
    }

    /// What the caller closed before it called is closed before it is answered: the port is free then.
    fn see_closes(&mut self) -> Result<(), Errno> {
        let mut events = Vec::new();
        for _ in 0..CLOSE_ROUNDS {
            match self.watcher.wait(&mut events, 0) {
                Ok(()) => {}
                Err(libc::EINTR) => break,
                Err(errno) => return Err(errno),
            }
            self.on_edges(&events);
            // The notices are told as long as one waits; anything else is told once.
            if events.iter().all(|event| event.token == NOTICES) {
                break;
            }
        }
        Ok(())
    }

    /// Edges of sockets; those that programs have closed are closed.
    fn on_edges(&mut self, events: &[Event]) {
        for Event { token, events } in events {
            if *token != NOTICES {
                let (index, of_stack) = ((token / 2) as usize, token % 2 == 1);
                self.on_edge(index, of_stack, *events);
                if !of_stack && events & libc::EPOLLHUP as u32 != 0 {
                    self.progress(index);
                }
            }
        }
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
            bridge.program_readable |= readable || has(libc::EPOLLPRI);
            bridge.reads_to_the_end |=
                has(libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR | libc::EPOLLPRI);
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

    /// A number for a new socket, and its record.
    ///
    /// # Errors
    /// ENFILE when there are too many.
    pub(crate) fn new_index(&mut self) -> Result<usize, Errno> {
        if let Some(index) = self.free.pop() {
            return Ok(index);
        }
        if self.bridges.len() == RECORDS {
            return Err(libc::ENFILE);
        }
        self.bridges.push(None);
        Ok(self.bridges.len() - 1)
    }

    /// Its record is free.
    pub(crate) fn free_index(&mut self, index: usize) {
        self.ledger.commit(index, &Record::new_zeroed());
        self.free.push(index);
    }

    /// Watches both sides of a bridge from here on.
    pub(crate) fn insert(&mut self, index: usize, bridge: Bridge) -> Result<(), Errno> {
        let (native, ours) = bridge.descriptors();
        let edges = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET;
        let token = index as u64 * 2;
        self.watcher.add(ours, edges | libc::EPOLLPRI, token)?;
        if native >= 0 {
            self.watcher.add(native, edges, token + 1).inspect_err(|_| self.watcher.remove(ours))?;
        }
        self.shown.add(bridge.socket);
        self.by_socket.insert(bridge.socket, index);
        self.bridges[index] = Some(bridge);
        self.go(index);
        Ok(())
    }

    /// Takes a bridge out; its record stays.
    pub(crate) fn remove(&mut self, index: usize) -> Bridge {
        let bridge = self.bridges[index].take().expect("an index that was found");
        let (native, ours) = bridge.descriptors();
        self.watcher.remove(ours);
        if native >= 0 {
            self.watcher.remove(native);
        }
        self.by_socket.remove(&bridge.socket);
        self.shown.remove(bridge.socket);
        bridge
    }

    /// Writes a socket down as it stands, if that is news, and that everything granted until now is
    /// written down.
    pub(crate) fn settle(&mut self, index: usize) {
        if let Some(bridge) = self.bridges.get_mut(index).and_then(Option::as_mut)
            && let Ok(mut record) = records::of(bridge)
        {
            if self.ledger.open_request().is_some() {
                record.request = self.ledger.last_request();
            }
            if record != bridge.written {
                self.ledger.commit(index, &record);
                bridge.written = record;
                if let Some(bridge) = self.bridges[index].as_ref() {
                    self.show(bridge);
                }
            }
        }
        self.ledger.settle_requests();
    }

    /// Shows the names of a connection.
    pub(crate) fn show(&self, bridge: &Bridge) {
        if matches!(bridge.state, State::Stream)
            && let (Ok(local), Ok(peer)) = (native::local(bridge.native), native::remote(bridge.native))
        {
            self.shown.tell(bridge.socket, &local, &peer);
        }
    }

    /// Ends a socket: towards the network by a close, or a reset (`ABORT`), towards the program by an
    /// end, or a reset (`RESET`).
    pub(crate) fn close_as(&mut self, index: usize, how: u32) {
        let bridge = self.remove(index);
        if let Ok(snapshot) = native::snapshot(bridge.native)
            && let What::Listener { place, .. } | What::Datagram { place, .. } = snapshot.what
        {
            self.closed_ports.retain(|(_, at)| at.elapsed() < LET_GO_TIME);
            self.closed_ports.push_back((place.local.port(), Instant::now()));
        }
        let record = Record {
            phase: phase::CLOSING,
            flags: bridge.written.flags & !(flag::ABORT | flag::RESET) | how,
            ..bridge.written
        };
        self.ledger.commit(index, &record);
        let waiting = match &bridge.state {
            State::Listening { waiting, returned, .. } => {
                for (number, accepted) in returned.clone() {
                    native::abort(accepted);
                    self.free_index(number);
                }
                waiting.iter().copied().collect()
            }
            State::Datagram { waiting, .. } => waiting.iter().copied().collect(),
            State::Connecting { waiting, .. } => waiting.clone(),
            State::Fresh | State::Stream | State::Netlink(_) => Vec::new(),
        };
        waiting.iter().for_each(|waiting| self.over(waiting));
        if bridge.native < 0 {
            // Nothing of the session's.
        } else if how & flag::ABORT != 0 {
            native::abort(bridge.native);
        } else {
            native::close(bridge.native);
        }
        if how & flag::RESET != 0 {
            let theirs = bridge.caller.find(bridge.socket);
            bridge.reset(theirs);
        }
        self.free_index(index);
    }

    /// A call that names a port. With a kernel a port is free as soon as its socket is closed: so a call that
    /// finds one taken, whose socket was just closed, is done again until the stack has let go of it.
    pub(crate) fn once_let_go(&self, port: u16, call: impl Fn() -> Result<(), Errno>) -> Result<(), Errno> {
        loop {
            let outcome = call();
            let closing = |(closed, at): &(u16, Instant)| *closed == port && at.elapsed() < LET_GO_TIME;
            if outcome != Err(libc::EADDRINUSE) || !self.closed_ports.iter().any(closing) {
                return outcome;
            }
            std::thread::sleep(LET_GO_STEP);
        }
    }

    /// The program has closed it.
    pub(crate) fn close(&mut self, index: usize) {
        self.close_as(index, 0);
    }

    /// Moves a socket on.
    pub(crate) fn progress(&mut self, index: usize) {
        let Some(bridge) = self.bridges.get_mut(index).and_then(Option::as_mut) else { return };
        match bridge.state {
            State::Connecting { .. } => self.look_at_connect(index),
            State::Listening { .. } => self.serve_accepts(index),
            State::Datagram { .. } => self.serve_receives(index),
            State::Netlink(protocol) => self.serve_netlink(index, protocol),
            State::Fresh | State::Stream => {}
        }
        let Some(bridge) = self.bridges.get_mut(index).and_then(Option::as_mut) else { return };
        match bridge.carry(&self.ledger, &self.pump, index, &mut self.chunk) {
            Outcome::Rests => {}
            Outcome::Goes => self.go(index),
            Outcome::Closed => self.close(index),
            Outcome::Aborted => self.close_as(index, flag::ABORT),
            Outcome::Reset => self.close_as(index, flag::RESET),
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
        let filled = *filled;
        let nonblocking = filled > 0;
        bridge.drain(filled, &mut self.chunk);
        let after = if outcome.is_ok() { State::Stream } else { State::Fresh };
        let State::Connecting { waiting, .. } = core::mem::replace(&mut bridge.state, after) else { return };
        // The program's end is writable now, and SO_ERROR says why; who waits is told instead.
        bridge.error = outcome.err();
        self.settle(index);
        for waiter in &waiting {
            match outcome {
                Ok(()) => self.notices.answer(waiter.id, 0),
                Err(errno) => self.notices.refuse(waiter.id, errno),
            }
            self.over(waiter);
        }
        if !nonblocking && !waiting.is_empty() && outcome.is_err() {
            self.bridge(index).error = None;
            self.settle(index);
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
            self.over(&waiter);
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
            self.over(&waiter);
            if let State::Datagram { waiting, .. } = &mut self.bridge(index).state {
                waiting.pop_front();
            }
        }
    }

    /// Writes down that a call waits.
    ///
    /// # Errors
    /// ENOBUFS when too many do.
    pub(crate) fn write_down(&mut self, index: usize, mut waiting: Waiting) -> Result<Waiting, Errno> {
        waiting.place = self.free_places.pop().ok_or(libc::ENOBUFS)?;
        let left = waiting.until.map(|until| until.saturating_duration_since(Instant::now()));
        let parked = Parked {
            id: waiting.id,
            arguments: waiting.arguments,
            call: waiting.call,
            until_ns: left.map_or(0, |left| now_ns() + left.as_nanos() as u64),
            tid: waiting.caller.tid,
            index: index as u32 + 1,
        };
        self.ledger.park(waiting.place, &parked);
        Ok(waiting)
    }

    /// A call waits no more.
    pub(crate) fn over(&mut self, waiting: &Waiting) {
        if waiting.place != NOWHERE {
            self.ledger.unpark(waiting.place);
            self.free_places.push(waiting.place);
        }
    }

    /// A call waits for something to happen to its socket, until its time is over.
    ///
    /// # Errors
    /// As [`Server::write_down`].
    pub(crate) fn park(&mut self, index: usize, waiting: Waiting) -> Result<(), Errno> {
        let waiting = self.write_down(index, waiting)?;
        self.wait_in_line(index, waiting);
        Ok(())
    }

    /// Takes a call that is written down into its line.
    pub(crate) fn wait_in_line(&mut self, index: usize, waiting: Waiting) {
        if let Some(until) = waiting.until {
            self.deadlines.push(Reverse((until, index)));
        }
        match &mut self.bridge(index).state {
            State::Listening { waiting: line, .. } | State::Datagram { waiting: line, .. } => {
                line.push_back(waiting);
            }
            State::Connecting { waiting: line, .. } => line.push(waiting),
            State::Fresh | State::Stream | State::Netlink(_) => self.over(&waiting),
        }
    }

    /// Milliseconds until something is due; −1 when nothing is.
    fn timeout(&self) -> c_int {
        if !self.going.is_empty() {
            return 0;
        }
        self.deadlines.peek().map_or(-1, |Reverse((until, _))| {
            let left = until.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            c_int::try_from(left.as_millis()).unwrap_or(c_int::MAX)
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
            let is_over = |waiter: &Waiting| waiter.until.is_some_and(|until| until <= now);
            let over: Vec<Waiting> = waiting.iter().copied().filter(|waiter| is_over(waiter)).collect();
            waiting.retain(|waiter| !is_over(waiter));
            for waiter in over {
                self.notices.refuse(waiter.id, libc::EAGAIN);
                self.over(&waiter);
            }
        }
    }
}
