//! A session: the memory shared with the stack, its rings, and what lives in its places.
//!
//! Lock order: events → a slot → kicks. The socket's own locks (`socket`) come before a slot's.

use crate::control::{self, Control, Opened};
use crate::pages::{FreePages, TxPages};
use crate::resume::Kept;
use crate::socket::Socket;
use crate::wait::{Roles, lock};
use crate::waiter::Waiters;
use proto::PeerCorrupt;
use proto::arena::line::{ClientLine, Notes, StackLine, level};
use proto::arena::{Geometry, NOTE_SIZE};
use proto::control::client::{Ask, Granted, VERSION};
use proto::id::{Epoch, SessionId, SlotIndex};
use proto::ring::spsc::{Consumer, Producer};
use proto::run_dir::{RunDir, default_name};
use proto::shm::region::Region;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};

/// How large a session shall be. 0 takes sockd's default; sockd may give less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Size {
    /// Sockets that are opened here: connections, listeners, UDP.
    pub active: u32,
    /// Connections that are accepted, at a time.
    pub passive: u32,
    /// Pages of 16 KiB for bytes to send.
    pub tx_pages: u32,
    /// Pages of 16 KiB for bytes received, for each shard of the stack.
    pub rx_pages: u32,
}

/// A client's session with a group. Handles are cheap to clone; the session ends when the last
/// handle and the last socket in it are gone.
#[derive(Debug, Clone)]
pub struct Session {
    pub(crate) inner: Arc<Inner>,
    /// The last of these ends it: the dispatcher's thread holds only `inner`.
    _alive: Arc<Alive>,
}

#[derive(Debug)]
struct Alive(Arc<Inner>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fail("the session was closed");
    }
}

#[derive(Debug)]
pub(crate) struct Inner {
    id: SessionId,
    pub(crate) geometry: Geometry,
    pub(crate) memory: Arc<Region>,
    pub(crate) control: Control,
    /// Readable when a ring that was armed has an event.
    pub(crate) wake: OwnedFd,
    events: Mutex<Vec<Consumer<Arc<Region>, NOTE_SIZE>>>,
    kicks: Vec<Mutex<Kicks>>,
    /// Wake-ups of shards are held back.
    held_back: AtomicBool,
    slots: Box<[Mutex<Slot>]>,
    pub(crate) pages: Mutex<FreePages>,
    /// Those who wait for a free send page.
    pub(crate) page_waiters: Waiters,
    pub(crate) roles: Roles,
    failed: AtomicBool,
    failure: OnceLock<&'static str>,
}

#[derive(Debug)]
struct Kicks {
    ring: Producer<Arc<Region>, NOTE_SIZE>,
    /// Wakes the shard; non-blocking.
    pipe: OwnedFd,
    /// The shard sleeps and is woken later: wake-ups are held back.
    owed: bool,
}

impl Kicks {
    fn wake(&mut self) {
        self.owed = false;
        // A full pipe wakes as well.
        let _ = rustix::io::write(&self.pipe, &[1]);
    }
}

/// A place in the arena, whoever lives there.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    /// The line that counts; the one in the arena trails it. The counts of notes in it go on from
    /// one use of the place to the next.
    pub(crate) line: ClientLine,
    resident: Resident,
}

#[derive(Debug, Default)]
enum Resident {
    #[default]
    Nobody,
    Socket(Weak<Socket>),
    /// Closed here; netd still sends from these pages.
    Closing(TxPages),
}

/// The process's default session.
static DEFAULT: Mutex<Option<Session>> = Mutex::new(None);

impl Session {
    /// Opens a session with the group `name`.
    ///
    /// # Errors
    /// `NotFound` when no such group runs; what sockd refuses with: EUSERS, EMFILE, ENOBUFS when a
    /// quota is used up, EPROTONOSUPPORT when it speaks another version.
    pub fn open(name: &str) -> io::Result<Session> {
        Session::open_sized(name, Size::default())
    }

    /// [`Session::open`] with a size.
    ///
    /// # Errors
    /// As [`Session::open`].
    pub fn open_sized(name: &str, size: Size) -> io::Result<Session> {
        let place = RunDir::find(name).ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, format!("no group of the name '{name}' runs here"))
        })?;
        Session::at(&place.api(), size)
    }

    /// Opens a session at a group's `api.sock`, wherever it is.
    ///
    /// # Errors
    /// As [`Session::open`], and those of connect(2).
    pub fn at(path: &Path, size: Size) -> io::Result<Session> {
        Session::from_opened(control::connect(path, &hello(size))?)
    }

    /// Opens a session over a SEQPACKET socket that somebody else connected to a group's
    /// `api.sock`.
    ///
    /// # Errors
    /// As [`Session::open`].
    pub fn over(socket: OwnedFd, size: Size) -> io::Result<Session> {
        Session::from_opened(control::open(socket, &hello(size))?)
    }

    /// The process's default session: with the group that `AXOLOTL` names, opened when first
    /// needed.
    ///
    /// # Errors
    /// As [`Session::open`]; the next call tries again.
    pub fn default_session() -> io::Result<Session> {
        let mut session = lock(&DEFAULT);
        match session.as_ref().filter(|session| session.inner.sound().is_ok()) {
            Some(session) => Ok(session.clone()),
            None => {
                let opened = Session::open(&default_name())?;
                Ok(session.insert(opened).clone())
            }
        }
    }

    /// Makes this one the process's default session, as long as it lasts.
    pub fn make_default(&self) {
        *lock(&DEFAULT) = Some(self.clone());
    }

    /// From here on a shard that sleeps is not woken by what the sockets hand over, until
    /// [`Session::wake_up`]: for a program that serves many sockets in one turn, of which each would wake it.
    /// Nothing may be waited for in between.
    pub fn hold_back_wake_ups(&self) {
        self.inner.held_back.store(true, Ordering::SeqCst);
    }

    /// Wakes whoever was not woken since [`Session::hold_back_wake_ups`], and holds nothing back any more.
    pub fn wake_up(&self) {
        // Before the locks: who saw it set has noted what it owes when the lock is free.
        self.inner.held_back.store(false, Ordering::SeqCst);
        for kicks in &self.inner.kicks {
            let mut kicks = lock(kicks);
            if kicks.owed {
                kicks.wake();
            }
        }
    }

    /// The session's name in the group, as `netctl` shows it.
    pub fn id(&self) -> u32 {
        self.inner.id.0
    }

    /// The size that sockd gave.
    pub fn size(&self) -> Size {
        let Geometry { active, passive, tx_pages, rx_pages, .. } = self.inner.geometry;
        Size { active, passive, tx_pages, rx_pages }
    }

    fn from_opened(opened: Opened) -> io::Result<Session> {
        Session::opened(opened).map(|(session, _)| session)
    }

    /// [`Session::at`], and duplicates of what it consists of.
    pub(crate) fn open_kept(path: &Path, size: Size) -> io::Result<(Session, Kept)> {
        let opened = control::connect(path, &hello(size))?;
        let control = opened.control.as_fd().try_clone_to_owned()?;
        let (session, arena) = Session::opened(opened)?;
        let inner = &session.inner;
        let pipes =
            inner.kicks.iter().map(|kicks| lock(kicks).pipe.try_clone()).collect::<io::Result<_>>()?;
        let (id, geometry, wake) = (inner.id, inner.geometry, inner.wake.try_clone()?);
        Ok((session, Kept { id, geometry, control, arena, wake, pipes }))
    }

    /// A handle of a session that was taken up.
    pub(crate) fn from_inner(inner: Arc<Inner>) -> Session {
        Session { _alive: Arc::new(Alive(inner.clone())), inner }
    }

    fn opened(opened: Opened) -> io::Result<(Session, OwnedFd)> {
        let impossible = |why| io::Error::new(io::ErrorKind::InvalidData, why);
        let Granted::Session { session: id, geometry } = opened.granted else {
            return Err(impossible("sockd answered something else"));
        };
        let geometry = geometry.checked().map_err(|_| impossible("an arena of impossible size"))?;
        let mut descriptors = opened.descriptors.into_iter();
        let (Some(arena), Some(wake)) = (descriptors.next(), descriptors.next()) else {
            return Err(impossible("a session without its memory"));
        };
        let pipes: Vec<OwnedFd> = descriptors.collect();
        if pipes.len() != usize::from(geometry.shards) {
            return Err(impossible("a session without its pipes"));
        }
        // sockd makes these ends non-blocking; this end's word for it counts here.
        for fd in pipes.iter().chain([&wake]) {
            rustix::io::ioctl_fionbio(fd, true)?;
        }
        let memory = Arc::new(Region::map(&arena, geometry.bytes())?);
        let shards = 0..geometry.shards;
        let events = shards.clone().map(|shard| Consumer::new(memory.clone(), geometry.event_ring(shard)));
        let kicks = shards.zip(pipes).map(|(shard, pipe)| {
            Mutex::new(Kicks {
                ring: Producer::new(memory.clone(), geometry.kick_ring(shard)),
                pipe,
                owed: false,
            })
        });
        let inner = Inner {
            id,
            geometry,
            control: opened.control,
            wake,
            events: Mutex::new(events.collect()),
            kicks: kicks.collect(),
            held_back: AtomicBool::new(false),
            slots: (0..geometry.sockets()).map(|_| Mutex::default()).collect(),
            pages: Mutex::new(FreePages::new(&geometry)),
            page_waiters: Waiters::default(),
            roles: Roles::new()?,
            failed: AtomicBool::new(false),
            failure: OnceLock::new(),
            memory,
        };
        Ok((Session::from_inner(Arc::new(inner)), arena))
    }
}

/// The two kinds of rings of a session that was taken up: what comes from the shards, what goes there and
/// the pipe that wakes.
pub(crate) type Rings =
    (Vec<Consumer<Arc<Region>, NOTE_SIZE>>, Vec<(Producer<Arc<Region>, NOTE_SIZE>, OwnedFd)>);

impl Slot {
    /// Nobody lives there; the counts of notes go on.
    pub(crate) fn empty(line: ClientLine) -> Slot {
        Slot { line, resident: Resident::Nobody }
    }

    /// What its stream still needs lies there.
    pub(crate) fn resting(line: ClientLine, tx: TxPages) -> Slot {
        Slot { line, resident: Resident::Closing(tx) }
    }
}

fn hello(size: Size) -> Ask {
    let Size { active, passive, tx_pages, rx_pages } = size;
    Ask::Open { version: VERSION, active, passive, tx_pages, rx_pages }
}

impl Inner {
    /// A session with what its predecessor left.
    pub(crate) fn taken_up(
        kept: &Kept,
        memory: Arc<Region>,
        control: Control,
        (events, kicks): Rings,
        slots: Vec<Slot>,
        pages: FreePages,
    ) -> io::Result<Arc<Inner>> {
        Ok(Arc::new(Inner {
            id: kept.id,
            geometry: kept.geometry,
            control,
            wake: kept.wake.try_clone()?,
            events: Mutex::new(events),
            kicks: kicks
                .into_iter()
                .map(|(ring, pipe)| Mutex::new(Kicks { ring, pipe, owed: false }))
                .collect(),
            held_back: AtomicBool::new(false),
            slots: slots.into_iter().map(Mutex::new).collect(),
            pages: Mutex::new(pages),
            page_waiters: Waiters::default(),
            roles: Roles::new()?,
            failed: AtomicBool::new(false),
            failure: OnceLock::new(),
            memory,
        }))
    }

    /// Whether a place was ever used.
    pub(crate) fn is_used(&self, at: SlotIndex) -> bool {
        lock(self.slot(at)).line.epoch.0 != 0
    }

    /// What may have been said of a place while nobody listened.
    pub(crate) fn look_again(&self, at: SlotIndex) {
        self.event(at);
    }

    /// A socket lives again where it did: its line as it stands, and its send pages; `None` when that use
    /// of the place has not begun.
    ///
    /// # Errors
    /// When the place does not exist.
    pub(crate) fn move_back_in(
        &self,
        at: SlotIndex,
        epoch: Epoch,
        socket: &Arc<Socket>,
    ) -> io::Result<Option<(ClientLine, TxPages)>> {
        let slot = self.slots.get(at.0 as usize);
        let slot = slot.ok_or_else(|| self.corrupt(PeerCorrupt::new("a socket at no place")))?;
        let mut slot = lock(slot);
        if slot.line.epoch != epoch {
            return Ok(None);
        }
        let tx = match std::mem::replace(&mut slot.resident, Resident::Socket(Arc::downgrade(socket))) {
            Resident::Closing(tx) => tx,
            // All that was written is acknowledged.
            _ => TxPages::again(slot.line.written, slot.line.written, slot.line.written, Vec::new()),
        };
        Ok(Some((slot.line, tx)))
    }

    /// A note that was counted and may never have been pushed.
    ///
    /// # Errors
    /// When the ring makes no sense.
    pub(crate) fn push_kick(&self, at: SlotIndex, shard: u16) -> io::Result<()> {
        let mut kicks = lock(&self.kicks[usize::from(shard)]);
        match kicks.ring.push(&at.0.to_ne_bytes()) {
            Ok(true) => {}
            Ok(false) => return Err(self.corrupt(PeerCorrupt::new("kick ring full"))),
            Err(rule) => return Err(self.corrupt(rule)),
        }
        let _ = kicks.ring.publish();
        Ok(())
    }

    /// Wakes every shard: the predecessor may have died before it did.
    pub(crate) fn wake_shards(&self) {
        self.kicks.iter().for_each(|kicks| lock(kicks).wake());
    }

    /// # Errors
    /// When the session is over.
    pub(crate) fn sound(&self) -> io::Result<()> {
        match self.failed.load(Ordering::Acquire) {
            false => Ok(()),
            true => {
                let why = *self.failure.get().unwrap_or(&"the session with the stack is over");
                Err(io::Error::new(io::ErrorKind::ConnectionAborted, why))
            }
        }
    }

    /// The session is over: everybody that waits learns it.
    pub(crate) fn fail(&self, why: &'static str) {
        let _ = self.failure.set(why);
        if self.failed.swap(true, Ordering::AcqRel) {
            return;
        }
        for slot in &self.slots {
            let socket = match &lock(slot).resident {
                Resident::Socket(socket) => socket.upgrade(),
                _ => None,
            };
            if let Some(socket) = socket {
                socket.notify(None);
            }
        }
        self.page_waiters.wake();
        self.roles.wake_all();
    }

    /// The stack broke a rule of the shared memory.
    pub(crate) fn corrupt(&self, rule: PeerCorrupt) -> io::Error {
        self.fail(rule.rule);
        io::Error::new(io::ErrorKind::InvalidData, rule)
    }

    pub(crate) fn control_fd(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }

    pub(crate) fn slot(&self, slot: SlotIndex) -> &Mutex<Slot> {
        &self.slots[slot.0 as usize]
    }

    /// A new use of a place begins: its line starts anew, and `socket` lives there.
    ///
    /// # Errors
    /// When the place does not exist: the other side said something impossible.
    pub(crate) fn move_in(&self, at: SlotIndex, epoch: Epoch, socket: &Arc<Socket>) -> io::Result<()> {
        let slot = self.slots.get(at.0 as usize);
        let slot = slot.ok_or_else(|| self.corrupt(PeerCorrupt::new("a socket at no place")))?;
        let mut slot = lock(slot);
        let before = std::mem::replace(&mut slot.resident, Resident::Socket(Arc::downgrade(socket)));
        if let Resident::Closing(mut tx) = before {
            tx.release_all(&mut lock(&self.pages));
            self.pages_freed();
        }
        let ClientLine { kick_seq, event_ack, .. } = slot.line;
        slot.line = ClientLine { epoch, kick_seq, event_ack, ..ClientLine::default() };
        slot.line.store(&self.memory, &self.geometry, at);
        Ok(())
    }

    /// The socket at a place is closed; `tx` is what netd still sends from.
    pub(crate) fn move_out(&self, at: SlotIndex, tx: TxPages) {
        lock(self.slot(at)).resident = match tx.is_empty() {
            true => Resident::Nobody,
            false => Resident::Closing(tx),
        };
        // What was acknowledged until now may have been said before the change.
        self.event(at);
    }

    /// Changes a place's line, publishes it, and tells the shard.
    ///
    /// # Errors
    /// When the ring towards the shard makes no sense: the session is over.
    pub(crate) fn publish(
        &self,
        at: SlotIndex,
        shard: u16,
        change: impl FnOnce(&mut ClientLine),
    ) -> io::Result<()> {
        let mut slot = lock(self.slot(at));
        change(&mut slot.line);
        slot.line.store(&self.memory, &self.geometry, at);
        self.kick(&mut slot.line, at, shard)
    }

    /// Publishes how much was written, as [`Inner::publish`]; `and` changes what is not published.
    ///
    /// # Errors
    /// As [`Inner::publish`].
    pub(crate) fn publish_written(
        &self,
        at: SlotIndex,
        shard: u16,
        written: u64,
        and: impl FnOnce(&ClientLine),
    ) -> io::Result<()> {
        let mut slot = lock(self.slot(at));
        slot.line.written = written;
        and(&slot.line);
        slot.line.store_written(&self.memory, &self.geometry, at);
        self.kick(&mut slot.line, at, shard)
    }

    /// Publishes how much was consumed; the shard sees it when it next looks.
    pub(crate) fn publish_consumed(&self, at: SlotIndex, consumed: u64) {
        let mut slot = lock(self.slot(at));
        slot.line.consumed = consumed;
        slot.line.store_consumed(&self.memory, &self.geometry, at);
    }

    fn kick(&self, line: &mut ClientLine, at: SlotIndex, shard: u16) -> io::Result<()> {
        if !Notes::Kick.raise(&self.memory, &self.geometry, at, &mut line.kick_seq) {
            return Ok(());
        }
        let mut kicks = lock(&self.kicks[usize::from(shard)]);
        match kicks.ring.push(&at.0.to_ne_bytes()) {
            Ok(true) => {}
            Ok(false) => return Err(self.corrupt_quietly(PeerCorrupt::new("kick ring full"))),
            Err(rule) => return Err(self.corrupt_quietly(rule)),
        }
        if kicks.ring.publish() {
            match self.held_back.load(Ordering::SeqCst) {
                true => kicks.owed = true,
                false => kicks.wake(),
            }
        }
        Ok(())
    }

    /// As [`Inner::corrupt`], where a slot is locked: waiters are told by the poller.
    fn corrupt_quietly(&self, rule: PeerCorrupt) -> io::Error {
        let _ = self.failure.set(rule.rule);
        self.failed.store(true, Ordering::Release);
        self.roles.wake_all();
        io::Error::new(io::ErrorKind::InvalidData, rule)
    }

    /// Takes up everything in the event rings; returns how many notes there were.
    ///
    /// # Errors
    /// When a ring makes no sense: the session is over.
    pub(crate) fn consume_events(&self) -> io::Result<usize> {
        let mut count = 0;
        let mut rings = lock(&self.events);
        let mut broken = None;
        for ring in rings.iter_mut() {
            loop {
                match ring.pop() {
                    Ok(None) => break,
                    Ok(Some(note)) => {
                        // Before the note is taken up: the next one of that socket needs a slot.
                        ring.release();
                        let slot = SlotIndex(u32::from_ne_bytes(note));
                        if slot.0 >= self.geometry.sockets() {
                            broken = Some(PeerCorrupt::new("an event for no such place"));
                            break;
                        }
                        count += 1;
                        self.event(slot);
                    }
                    Err(rule) => {
                        broken = Some(rule);
                        break;
                    }
                }
            }
        }
        drop(rings);
        match broken {
            None => Ok(count),
            Some(rule) => Err(self.corrupt(rule)),
        }
    }

    /// Something changed at a place.
    fn event(&self, at: SlotIndex) {
        let (resident, line) = {
            let mut slot = lock(self.slot(at));
            slot.line.event_ack = Notes::Event.take_up(&self.memory, &self.geometry, at);
            let line = StackLine::load(&self.memory, &self.geometry, at);
            let gone = line.epoch != slot.line.epoch || line.flags & level::GONE != 0;
            let resident = match &mut slot.resident {
                Resident::Nobody => None,
                Resident::Socket(socket) => socket.upgrade(),
                Resident::Closing(tx) => {
                    let mut pages = lock(&self.pages);
                    if gone {
                        tx.release_all(&mut pages);
                    } else if (tx.acked..=tx.written).contains(&line.acked) {
                        tx.acknowledge(&mut pages, line.acked);
                    }
                    drop(pages);
                    if tx.is_empty() {
                        slot.resident = Resident::Nobody;
                    }
                    self.pages_freed();
                    None
                }
            };
            (resident, line)
        };
        // The slot is unlocked: this may be the last handle of the socket, which closes it.
        if let Some(socket) = resident {
            socket.notify(Some(&line));
        }
    }

    /// Asks for wake-ups; `false` when there is something to consume first.
    ///
    /// # Errors
    /// When a ring makes no sense.
    pub(crate) fn arm(&self) -> io::Result<bool> {
        let mut rings = lock(&self.events);
        let mut idle = true;
        for ring in rings.iter_mut() {
            match ring.arm() {
                Ok(empty) => idle &= empty,
                Err(rule) => {
                    drop(rings);
                    return Err(self.corrupt(rule));
                }
            }
        }
        if !idle {
            rings.iter_mut().for_each(Consumer::disarm);
        }
        Ok(idle)
    }

    pub(crate) fn disarm(&self) {
        lock(&self.events).iter_mut().for_each(Consumer::disarm);
    }

    /// Whoever waits for a send page looks again. The poller may be among them.
    pub(crate) fn pages_freed(&self) {
        if self.page_waiters.wake() {
            self.roles.interrupt();
        }
    }

    /// Whether a send page is free.
    pub(crate) fn has_page(&self) -> bool {
        lock(&self.pages).any()
    }

    /// Looks at the acknowledgements of every socket: for when pages have run out.
    pub(crate) fn reap(&self) {
        for at in 0..self.geometry.sockets() {
            let socket = match &lock(&self.slots[at as usize]).resident {
                Resident::Socket(socket) => socket.upgrade(),
                _ => None,
            };
            match socket {
                Some(socket) => socket.reap(),
                None => continue,
            }
        }
    }
}

/// Starts the thread that drives the sockets in a registry, if it does not run yet.
pub(crate) fn start_dispatcher(session: &Session) -> io::Result<()> {
    if !session.inner.roles.claim_dispatcher() {
        return Ok(());
    }
    let inner = session.inner.clone();
    std::thread::Builder::new().name("netclient events".to_owned()).spawn(move || {
        let _ = inner.dispatch();
    })?;
    Ok(())
}
