//! One socket: its two streams, its levels, and how its calls wait.
//!
//! A listener or UDP socket of a stack with several shards lies in all of them: it is a place in each, and
//! the first one leads. Programs and lists know the leader alone; what happens at the others is told to
//! it ([`Socket::parts`]).
//!
//! Each direction has its own lock, so that one thread reads while another writes. What the
//! stack's line says is checked against the private cursors under that lock (INV-R1, INV-R2).

use crate::cursor::{RxCursor, TELL_AFTER};
use crate::pages::TxPages;
use crate::poll::Watch;
use crate::resume::Place;
use crate::session::Session;
use crate::sources::Readiness;
use crate::urgent::Urgent;
use crate::wait::lock;
use crate::waiter::{Waiter, Waiters};
use crate::wishes::Wished;
use proto::PeerCorrupt;
use proto::arena::line::{ClientLine, StackLine, level, want};
use proto::arena::{EVERY_SHARD, WINDOW_MAX};
use proto::id::{Epoch, SlotIndex};
use proto::nic::steering::Steering;
use proto::shm::Memory;
use rustix::io::Errno;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, TryLockError, Weak};
use std::time::{Duration, Instant};

/// Where a socket was placed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Placed {
    pub(crate) slot: SlotIndex,
    pub(crate) epoch: Epoch,
    pub(crate) shard: u16,
    pub(crate) local: SocketAddr,
}

/// What a socket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Stream,
    Listener,
    Datagram,
}

#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) session: Session,
    pub(crate) placed: Placed,
    pub(crate) kind: Kind,
    tx: Mutex<TxPages>,
    /// The stack's line is to be looked at by whoever holds `tx`, after letting go of it.
    reap_owed: AtomicBool,
    rx: Mutex<RxCursor>,
    /// What was consumed when the stack was last told to look.
    told_consumed: AtomicU64,
    /// The errno that a call has reported already; as SO_ERROR it is told once.
    told_error: AtomicU32,
    nonblocking: AtomicBool,
    timeouts: Mutex<Timeouts>,
    /// SO_SNDBUF: most bytes that are written and not acknowledged; 0 leaves it to the window.
    send_limit: AtomicU32,
    /// SO_LINGER.
    linger: Mutex<Option<Duration>>,
    pub(crate) urgent: Urgent,
    pub(crate) waiters: Waiters,
    /// What is wished of it beyond flags.
    pub(crate) wished: Wished,
    /// Registrations with a `Poll`.
    watches: Mutex<Vec<Arc<Watch>>>,
    readiness: Mutex<Option<Readiness>>,
    /// The other places of one that lies in every shard.
    others: OnceLock<Box<[Arc<Socket>]>>,
    /// Of such a place, the first one.
    leader: Weak<Socket>,
    /// Where in the row to look first for what was received.
    turn: AtomicUsize,
}

#[derive(Debug, Clone, Copy, Default)]
struct Timeouts {
    read: Option<Duration>,
    write: Option<Duration>,
}

/// Which half of a socket a call is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Half {
    Read,
    Write,
}

/// What a look at a stream found.
pub(crate) enum Look<T> {
    /// There is something to do now.
    Ready(T),
    /// Not yet.
    Wait,
    /// Not yet: no send page is free in the session.
    WaitForPage,
}

impl Socket {
    /// A socket at the place that sockd or an accept record named.
    pub(crate) fn place(session: &Session, kind: Kind, placed: Placed) -> io::Result<Arc<Socket>> {
        Socket::place_with(session, kind, placed, false)
    }

    fn place_with(session: &Session, kind: Kind, placed: Placed, again: bool) -> io::Result<Arc<Socket>> {
        if placed.shard != EVERY_SHARD {
            return Socket::place_one(session, kind, placed, Weak::new(), again);
        }
        let geometry = session.inner.geometry;
        let nth = |shard: u16| Placed { slot: geometry.in_row(placed.slot, shard), shard, ..placed };
        let leader = Socket::place_one(session, kind, nth(0), Weak::new(), again)?;
        let others = (1..geometry.shards)
            .map(|shard| Socket::place_one(session, kind, nth(shard), Arc::downgrade(&leader), again))
            .collect::<io::Result<Box<[_]>>>()?;
        let _ = leader.others.set(others);
        Ok(leader)
    }

    fn place_one(
        session: &Session,
        kind: Kind,
        placed: Placed,
        leader: Weak<Socket>,
        again: bool,
    ) -> io::Result<Arc<Socket>> {
        let geometry = &session.inner.geometry;
        if placed.slot.0 >= geometry.sockets() || geometry.owner(placed.slot) != placed.shard {
            return Err(session.inner.corrupt(PeerCorrupt::new("a socket at a place of another shard")));
        }
        let socket = Arc::new(Socket {
            session: session.clone(),
            placed,
            kind,
            tx: Mutex::default(),
            reap_owed: AtomicBool::new(false),
            rx: Mutex::default(),
            told_consumed: AtomicU64::new(0),
            told_error: AtomicU32::new(0),
            nonblocking: AtomicBool::new(false),
            timeouts: Mutex::default(),
            send_limit: AtomicU32::new(0),
            linger: Mutex::default(),
            urgent: Urgent::default(),
            waiters: Waiters::default(),
            wished: Wished::default(),
            watches: Mutex::default(),
            readiness: Mutex::default(),
            others: OnceLock::new(),
            leader,
            turn: AtomicUsize::new(0),
        });
        if again && let Some((line, tx)) = session.inner.move_back_in(placed.slot, placed.epoch, &socket)? {
            *lock(&socket.tx) = tx;
            lock(&socket.rx).consumed = line.consumed;
        } else {
            session.inner.move_in(placed.slot, placed.epoch, &socket)?;
        }
        Ok(socket)
    }

    /// A socket of a session that was taken up, where it lived before.
    pub(crate) fn place_again(session: &Session, kind: Kind, placed: Placed) -> io::Result<Arc<Socket>> {
        Socket::place_with(session, kind, placed, true)
    }

    /// Where it lives, for whoever places it again.
    pub(crate) fn place_of(&self) -> Place {
        let Placed { slot, epoch, shard, local } = self.placed;
        let shard = if self.others.get().is_some() { EVERY_SHARD } else { shard };
        Place { slot, epoch, shard, local }
    }

    /// Bytes that lie in send pages and are not published.
    pub(crate) fn kept_back(&self) -> usize {
        lock(&self.tx).reserved
    }

    /// One attempt, whatever the socket says about waiting.
    ///
    /// # Errors
    /// `WouldBlock`, and those of the attempt.
    pub(crate) fn block_at_once<T>(&self, attempt: impl FnMut() -> io::Result<Look<T>>) -> io::Result<T> {
        self.block_unless(true, Half::Read, attempt)
    }

    /// Of a row's place that is not the first, the first.
    pub(crate) fn leader(&self) -> Option<Arc<Socket>> {
        self.leader.upgrade()
    }

    /// Its places: itself and, of a row, the others.
    pub(crate) fn parts(&self) -> impl Iterator<Item = &Socket> {
        let others = self.others.get().map_or(&[][..], |others| others);
        core::iter::once(self).chain(others.iter().map(|other| &**other))
    }

    /// The place whose shard has that flow: where a datagram between these ends is sent from.
    pub(crate) fn part_of(&self, local: SocketAddr, remote: SocketAddr) -> &Socket {
        let shards = self.parts().count() as u16;
        if shards == 1 {
            return self;
        }
        let shard = Steering::new(shards).flow(local, remote);
        self.parts().nth(shard.into()).unwrap_or(self)
    }

    /// Looks at one place after the other until something was received; the others are first next time.
    /// With `stay`, that place is first again.
    pub(crate) fn look_in_turn<T>(
        &self,
        stay: bool,
        mut look: impl FnMut(&Socket) -> io::Result<Look<T>>,
    ) -> io::Result<Look<T>> {
        let parts = self.parts().count();
        if parts == 1 {
            return look(self);
        }
        let first = self.turn.load(Ordering::Relaxed);
        for n in first..first + parts {
            let Some(part) = self.parts().nth(n % parts) else { continue };
            if let Look::Ready(found) = look(part)? {
                self.turn.store((n + usize::from(!stay)) % parts, Ordering::Relaxed);
                return Ok(Look::Ready(found));
            }
        }
        Ok(Look::Wait)
    }

    /// The stack's line; `None` while it speaks of another use of the place.
    pub(crate) fn look(&self) -> Option<StackLine> {
        let inner = &self.session.inner;
        let line = StackLine::load(&inner.memory, &inner.geometry, self.placed.slot);
        (line.epoch == self.placed.epoch).then_some(line)
    }

    pub(crate) fn flags(&self) -> u32 {
        self.look().map_or(0, |line| line.flags)
    }

    /// This side's line, as it counts.
    pub(crate) fn mine(&self) -> ClientLine {
        lock(self.session.inner.slot(self.placed.slot)).line
    }

    /// What this side wants, see [`want`].
    pub(crate) fn wants(&self) -> u32 {
        self.mine().flags
    }

    pub(crate) fn set_want(&self, bit: u32, on: bool) -> io::Result<()> {
        self.set_line(|line| match on {
            true => line.flags |= bit,
            false => line.flags &= !bit,
        })
    }

    /// Whether an error waits for [`Socket::take_error`].
    pub(crate) fn has_error(&self, line: &StackLine) -> bool {
        line.flags & level::ERROR != 0 && self.told_error.load(Ordering::Acquire) != line.error.max(1)
    }

    /// SO_ERROR: the error that the connection ended with, once.
    pub(crate) fn take_error(&self) -> Option<io::Error> {
        self.parts().find_map(Socket::take_own_error)
    }

    fn take_own_error(&self) -> Option<io::Error> {
        self.take_error_of(&self.look()?)
    }

    /// The error that this line of this place tells of, once.
    pub(crate) fn take_error_of(&self, line: &StackLine) -> Option<io::Error> {
        if line.flags & level::ERROR == 0 {
            return None;
        }
        let before = self.told_error.swap(line.error.max(1), Ordering::AcqRel);
        (before != line.error.max(1)).then(|| io::Error::from_raw_os_error(line.error.max(1) as i32))
    }

    pub(crate) fn set_nonblocking(&self, nonblocking: bool) {
        self.nonblocking.store(nonblocking, Ordering::Release);
    }

    pub(crate) fn is_nonblocking(&self) -> bool {
        self.nonblocking.load(Ordering::Acquire)
    }

    pub(crate) fn timeout(&self, half: Half) -> Option<Duration> {
        let timeouts = lock(&self.timeouts);
        match half {
            Half::Read => timeouts.read,
            Half::Write => timeouts.write,
        }
    }

    /// # Errors
    /// `InvalidInput` for zero, as std.
    pub(crate) fn set_timeout(&self, half: Half, timeout: Option<Duration>) -> io::Result<()> {
        if timeout == Some(Duration::ZERO) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "cannot set a 0 duration timeout"));
        }
        let mut timeouts = lock(&self.timeouts);
        match half {
            Half::Read => timeouts.read = timeout,
            Half::Write => timeouts.write = timeout,
        }
        Ok(())
    }

    /// Repeats `attempt` until it is ready, as blocking, non-blocking and timeouts want it.
    ///
    /// # Errors
    /// `WouldBlock` when it may not wait, or not any longer.
    pub(crate) fn block_on<T>(
        &self,
        half: Half,
        attempt: impl FnMut() -> io::Result<Look<T>>,
    ) -> io::Result<T> {
        self.block_unless(self.is_nonblocking(), half, attempt)
    }

    /// [`Socket::block_on`]; `dont_wait` alone says whether it may wait (MSG_DONTWAIT).
    ///
    /// # Errors
    /// As [`Socket::block_on`].
    pub(crate) fn block_unless<T>(
        &self,
        dont_wait: bool,
        half: Half,
        mut attempt: impl FnMut() -> io::Result<Look<T>>,
    ) -> io::Result<T> {
        let mut for_page = match attempt()? {
            Look::Ready(value) => return Ok(value),
            look => matches!(look, Look::WaitForPage),
        };
        self.tell_consumed()?;
        self.session.inner.sound()?;
        if dont_wait {
            if for_page {
                self.ask_for_page();
            }
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let deadline = self.timeout(half).and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            let inner = &self.session.inner;
            let waiters = if for_page { &inner.page_waiters } else { &self.waiters };
            let found = inner.wait_for(waiters, deadline, || {
                Ok(match attempt()? {
                    Look::Ready(value) => Some(Ok(value)),
                    // Somebody else to wait for.
                    look if matches!(look, Look::WaitForPage) != for_page => Some(Err(())),
                    _ => None,
                })
            })?;
            match found {
                Some(Ok(value)) => return Ok(value),
                Some(Err(())) => for_page = !for_page,
                None => return Err(io::ErrorKind::WouldBlock.into()),
            }
        }
    }

    /// A socket in a registry that found no send page: it gets an edge when there is one.
    fn ask_for_page(&self) {
        let Some(edge) = self.readiness().as_ref().map(|readiness| readiness.edge.clone()) else { return };
        self.session.inner.page_waiters.join(Waiter::Edge(edge.clone()));
        // One may have come back before it was noted that somebody wants it.
        if self.session.inner.has_page() {
            edge.make();
        }
    }

    /// Waits until the connection stands.
    ///
    /// # Errors
    /// What it failed with; `TimedOut` after the deadline.
    pub(crate) fn wait_open(&self, deadline: Option<Instant>) -> io::Result<()> {
        let opened = self.session.inner.wait_for(&self.waiters, deadline, || {
            if let Some(error) = self.take_error() {
                return Err(error);
            }
            Ok((self.flags() & level::OPEN != 0).then_some(()))
        })?;
        opened.ok_or_else(|| io::Error::new(io::ErrorKind::TimedOut, "connection timed out"))
    }

    /// Waits until everything that was written, and the end, is acknowledged, or all is over.
    ///
    /// # Errors
    /// `WouldBlock` after the deadline.
    pub(crate) fn wait_sent(&self, deadline: Option<Instant>) -> io::Result<()> {
        let sent = self.session.inner.wait_for(&self.waiters, deadline, || {
            Ok((self.flags() & (level::SENT | level::ERROR | level::GONE) != 0).then_some(()))
        })?;
        sent.ok_or_else(|| io::ErrorKind::WouldBlock.into())
    }

    // The receive stream.

    /// Runs `take` on the receive stream with what may be read and the stack's line.
    pub(crate) fn receiving<T>(
        &self,
        take: impl FnOnce(&mut Receiving<'_>, usize, &StackLine) -> io::Result<T>,
    ) -> io::Result<T> {
        let (mut receiving, available, line) = self.receive_locked()?;
        take(&mut receiving, available, &line)
    }

    pub(crate) fn receive_locked(&self) -> io::Result<(Receiving<'_>, usize, StackLine)> {
        let mut rx = lock(&self.rx);
        let known = rx.known();
        if self.kind == Kind::Datagram && known > 0 {
            // The line, which the stack writes all the time, is looked at when this is used up.
            return Ok((Receiving { socket: self, rx, skip: 0 }, known, StackLine::default()));
        }
        let (line, available) = match self.look() {
            None => (StackLine::default(), 0),
            Some(line) => {
                let available = rx.look(&line);
                (line, available.map_err(|rule| self.session.inner.corrupt(rule))?)
            }
        };
        let (skip, available) = match line.flags & level::URGENT {
            0 => (0, available),
            _ => self.up_to_mark(&line, rx.consumed, available),
        };
        let mut receiving = Receiving { socket: self, rx, skip };
        if skip > 0 && available == 0 && line.flags & level::END != 0 {
            // Nothing comes behind it: it is passed over now, and not left unread.
            receiving.consume_passed()?;
        }
        Ok((receiving, available, line))
    }

    /// Lets the stack know what was consumed, if that waits: before this side sleeps.
    pub(crate) fn tell_consumed(&self) -> io::Result<()> {
        self.parts().try_for_each(Socket::tell_own_consumed)
    }

    fn tell_own_consumed(&self) -> io::Result<()> {
        let consumed = lock(self.session.inner.slot(self.placed.slot)).line.consumed;
        match self.told_consumed.swap(consumed, Ordering::AcqRel) == consumed {
            true => Ok(()),
            false => self.session.inner.publish(self.placed.slot, self.placed.shard, |_| {}),
        }
    }

    // The send stream.

    /// The send stream, locked and with pages for at least `least` (not 0) and at most `most` more
    /// bytes; says for how many.
    pub(crate) fn sending(&self, least: usize, most: usize) -> io::Result<Look<(Sending<'_>, usize)>> {
        self.sending_if(least, most, |_| Ok(true))
    }

    /// [`Socket::sending`], where there is only room if `may`, which sees the stack's line, says so.
    pub(crate) fn sending_if(
        &self,
        least: usize,
        most: usize,
        may: impl Fn(&StackLine) -> io::Result<bool>,
    ) -> io::Result<Look<(Sending<'_>, usize)>> {
        for last in [false, true] {
            let (mut sending, room) = self.send_locked(&may)?;
            if sending.tx.reserved > 0 {
                return Err(Errno::BUSY.into());
            }
            if room < least {
                return Ok(Look::Wait);
            }
            let len = sending.cover(most.min(room));
            if len >= least {
                return Ok(Look::Ready((sending, len)));
            }
            drop(sending);
            if !last {
                self.session.inner.reap();
            }
        }
        Ok(Look::WaitForPage)
    }

    /// The send stream, locked, with acknowledged pages given back and the bytes that may be
    /// written beyond it now. The stack's line is looked at under the lock: one of before may be
    /// older than what another thread has taken over.
    fn send_locked(&self, may: impl Fn(&StackLine) -> io::Result<bool>) -> io::Result<(Sending<'_>, usize)> {
        let mut sending = Sending { tx: lock(&self.tx), socket: LetGo(self) };
        let Some(line) = self.look() else { return Ok((sending, 0)) };
        let may = may(&line)?;
        let room = self.acknowledge(&mut sending.tx, &line);
        let room = room.map_err(|rule| self.session.inner.corrupt(rule))?;
        Ok((sending, if may { room } else { 0 }))
    }

    /// Sends the first `len` bytes that were reserved in place, and ends the reservation.
    ///
    /// # Errors
    /// EINVAL when that is more than was reserved.
    pub(crate) fn commit_reserved(&self, len: usize) -> io::Result<()> {
        let (mut sending, _) = self.send_locked(|_| Ok(true))?;
        if len > sending.tx.reserved {
            return Err(Errno::INVAL.into());
        }
        sending.tx.reserved = 0;
        match len {
            0 => Ok(()),
            _ => sending.commit(len),
        }
    }

    fn acknowledge(&self, tx: &mut TxPages, line: &StackLine) -> Result<usize, PeerCorrupt> {
        if line.acked < tx.acked || line.acked > tx.written || line.window > WINDOW_MAX {
            return Err(PeerCorrupt::new("acknowledged cursor moved backwards or past the written bytes"));
        }
        if line.acked > tx.acked && tx.acknowledge(&mut lock(&self.session.inner.pages), line.acked) {
            self.session.inner.pages_freed();
        }
        Ok((line.acked + u64::from(self.window(line))).saturating_sub(tx.written) as usize)
    }

    /// Bytes that may be written beyond those acknowledged.
    fn window(&self, line: &StackLine) -> u32 {
        match self.send_limit.load(Ordering::Relaxed) {
            0 => line.window,
            limit => line.window.min(limit),
        }
    }

    /// Bytes that may be written now, as far as the lines say.
    pub(crate) fn room(&self, line: &StackLine, mine: &ClientLine) -> u64 {
        (line.acked + u64::from(self.window(line))).saturating_sub(mine.written)
    }

    /// SO_SNDBUF in bytes; 0 leaves it to the stack's window.
    pub(crate) fn set_send_limit(&self, bytes: u32) {
        self.parts().for_each(|part| part.send_limit.store(bytes, Ordering::Relaxed));
    }

    pub(crate) fn set_linger(&self, linger: Option<Duration>) {
        *lock(&self.linger) = linger;
    }

    pub(crate) fn linger(&self) -> Option<Duration> {
        *lock(&self.linger)
    }

    /// Gives acknowledged pages back; if a writer is at it, that one does when it has finished.
    pub(crate) fn reap(&self) {
        self.reap_owed.store(true, Ordering::Relaxed);
        self.pay_reap();
    }

    /// What [`Socket::reap`] asked for, unless somebody holds the send stream: that one comes here
    /// after letting go. Asking and looking at the lock on one side, letting go and looking for who
    /// asked on the other: the fences order them, so that one of the two sees the other.
    fn pay_reap(&self) {
        fence(Ordering::SeqCst);
        while self.reap_owed.load(Ordering::Relaxed) {
            let mut tx = match self.tx.try_lock() {
                Ok(tx) => tx,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => return,
            };
            self.reap_owed.store(false, Ordering::Relaxed);
            // Paid before the line is looked at: who asks from here on means a later one.
            fence(Ordering::SeqCst);
            let broken = self.look().and_then(|line| self.acknowledge(&mut tx, &line).err());
            drop(tx);
            if let Some(rule) = broken {
                self.session.inner.corrupt(rule);
                return;
            }
            fence(Ordering::SeqCst);
        }
    }

    /// Something changed: waiters and registries learn it.
    pub(crate) fn notify(&self, line: Option<&StackLine>) {
        self.reap();
        match self.leader.upgrade() {
            Some(leader) => leader.tell_all(line),
            None => self.tell_all(line),
        }
    }

    fn tell_all(&self, line: Option<&StackLine>) {
        self.waiters.wake();
        for watch in lock(&self.watches).iter() {
            watch.changed();
        }
        let flags = line.filter(|line| line.epoch == self.placed.epoch).map_or(0, |line| line.flags);
        if let Some(readiness) = &mut *lock(&self.readiness) {
            readiness.changed(flags & (level::OPEN | level::ERROR) != 0);
        }
    }

    /// Registrations with a `Poll`.
    pub(crate) fn watches(&self) -> MutexGuard<'_, Vec<Arc<Watch>>> {
        lock(&self.watches)
    }

    /// What a registry watches, made when first asked for.
    pub(crate) fn readiness(&self) -> MutexGuard<'_, Option<Readiness>> {
        lock(&self.readiness)
    }

    /// shutdown(2).
    ///
    /// # Errors
    /// ENOTCONN before and after the connection's life.
    pub(crate) fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        let flags = self.flags();
        if flags & level::OPEN == 0 || flags & level::ERROR != 0 {
            return Err(Errno::NOTCONN.into());
        }
        let bits = match how {
            Shutdown::Read => want::SHUT_RD,
            Shutdown::Write => want::SHUT_WR,
            Shutdown::Both => want::SHUT_RD | want::SHUT_WR,
        };
        // A writer in the middle finishes first: what it wrote comes before the end.
        let tx = lock(&self.tx);
        self.set_want(bits, true)?;
        drop(tx);
        self.notify(self.look().as_ref());
        self.session.inner.roles.interrupt();
        Ok(())
    }
}

/// The last handle is gone: close(2).
impl Drop for Socket {
    fn drop(&mut self) {
        // SO_LINGER with no time: a reset instead of an end.
        let abort = *self.linger.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        let how = if abort == Some(Duration::ZERO) { want::CLOSE | want::ABORT } else { want::CLOSE };
        let inner = &self.session.inner;
        let _ = inner.publish(self.placed.slot, self.placed.shard, |line| line.flags |= how);
        let kept = self.take_wish_pages();
        let inner = &self.session.inner;
        let mut tx = std::mem::take(self.tx.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner));
        tx.kept = kept;
        inner.move_out(self.placed.slot, tx);
    }
}

/// A receive stream that is locked.
pub(crate) struct Receiving<'a> {
    socket: &'a Socket,
    rx: MutexGuard<'a, RxCursor>,
    /// An urgent octet that reads pass over (0 or 1).
    skip: usize,
}

impl Receiving<'_> {
    /// Copies out what begins `skip` bytes on; the caller has seen that it may be read.
    pub(crate) fn copy(&self, skip: usize, out: &mut [u8]) -> io::Result<()> {
        self.copy_at(self.skip + skip, out)
    }

    /// What the client has consumed.
    pub(crate) fn consumed(&self) -> u64 {
        self.rx.consumed
    }

    /// [`Receiving::copy`], urgent octets counted.
    pub(crate) fn copy_at(&self, skip: usize, out: &mut [u8]) -> io::Result<()> {
        let inner = &self.socket.session.inner;
        let at = (&inner.memory, &inner.geometry, self.socket.placed.slot, self.socket.placed.shard);
        let mut rest = out;
        let len = rest.len();
        let copied = self.rx.for_each_piece(at, skip, len, |at, len| {
            let (piece, tail) = std::mem::take(&mut rest).split_at_mut(len);
            inner.memory.read(at, piece);
            rest = tail;
        });
        copied.map_err(|rule| inner.corrupt(rule))
    }

    /// Calls `each` with address and length of every piece of the first `len` bytes.
    pub(crate) fn addresses(&self, len: usize, each: &mut impl FnMut(*mut u8, usize)) -> io::Result<()> {
        let inner = &self.socket.session.inner;
        let at = (&inner.memory, &inner.geometry, self.socket.placed.slot, self.socket.placed.shard);
        let found =
            self.rx.for_each_piece(at, self.skip, len, |at, len| each(inner.memory.pointer(at, len), len));
        found.map_err(|rule| inner.corrupt(rule))
    }

    /// Gives `len` bytes back to the stack; the caller has seen that they may be read.
    pub(crate) fn consume(&mut self, len: usize) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        let len = len + core::mem::take(&mut self.skip);
        self.give_back(len)
    }

    /// Gives the urgent octet back that stands alone before the end.
    fn consume_passed(&mut self) -> io::Result<()> {
        let len = core::mem::take(&mut self.skip);
        self.give_back(len)
    }

    fn give_back(&mut self, len: usize) -> io::Result<()> {
        let Placed { slot, shard, .. } = self.socket.placed;
        self.rx.consumed += len as u64;
        let consumed = self.rx.consumed;
        let told = &self.socket.told_consumed;
        if consumed.saturating_sub(told.load(Ordering::Acquire)) < TELL_AFTER {
            self.socket.session.inner.publish_consumed(slot, consumed);
            return Ok(());
        }
        told.store(consumed, Ordering::Release);
        self.socket.session.inner.publish(slot, shard, |line| line.consumed = consumed)
    }
}

/// A send stream that is locked.
pub(crate) struct Sending<'a> {
    // In this order: first the lock goes, then what was asked for meanwhile is done.
    tx: MutexGuard<'a, TxPages>,
    socket: LetGo<'a>,
}

/// Looks, when dropped, for acknowledgements that came while the send stream was locked.
struct LetGo<'a>(&'a Socket);

impl Drop for LetGo<'_> {
    fn drop(&mut self) {
        self.0.pay_reap();
    }
}

impl Sending<'_> {
    /// Gets pages for `len` more bytes; returns for how many there are pages.
    fn cover(&mut self, len: usize) -> usize {
        let inner = &self.socket.0.session.inner;
        let at = (&inner.memory, &inner.geometry, self.socket.0.placed.slot);
        self.tx.cover(&mut lock(&inner.pages), at, len)
    }

    /// Writes behind the written bytes, `skip` bytes on; the caller has covered that.
    pub(crate) fn put(&self, skip: usize, bytes: &[u8]) {
        let inner = &self.socket.0.session.inner;
        let mut rest = bytes;
        self.tx.for_each_piece(&inner.geometry, skip, bytes.len(), |at, len| {
            let (piece, tail) = rest.split_at(len);
            inner.memory.write(at, piece);
            rest = tail;
        });
    }

    /// Reserves `len` bytes in place and calls `each` with address and length of every piece; the
    /// caller has covered them.
    pub(crate) fn reserve(&mut self, len: usize, each: &mut impl FnMut(*mut u8, usize)) {
        let inner = &self.socket.0.session.inner;
        self.tx.for_each_piece(&inner.geometry, 0, len, |at, len| each(inner.memory.pointer(at, len), len));
        self.tx.reserved = len;
    }

    /// Publishes `len` bytes that were put.
    pub(crate) fn commit(&mut self, len: usize) -> io::Result<()> {
        self.commit_marked(len, false)
    }

    /// [`Sending::commit`]; with `urgent` the last of the bytes is urgent.
    pub(crate) fn commit_marked(&mut self, len: usize, urgent: bool) -> io::Result<()> {
        let Placed { slot, shard, .. } = self.socket.0.placed;
        self.tx.written += len as u64;
        let written = self.tx.written;
        let inner = &self.socket.0.session.inner;
        let told = |line: &ClientLine| self.socket.0.told_consumed.store(line.consumed, Ordering::Release);
        if !urgent {
            return inner.publish_written(slot, shard, written, told);
        }
        inner.publish(slot, shard, |line| {
            line.written = written;
            line.urgent = written as u32;
            line.flags |= want::URGENT;
            told(line);
        })
    }
}
