//! The active supervisor: one event loop that turns readiness into events for the policy, and its
//! actions into system calls.
//!
//! Owns the lanes, the vault, the children, the table of processes. Never waits for a child: lanes
//! don't block, deaths are pidfds, everything else is a deadline of the policy. Decides nothing.

mod act;
mod spares;
mod tell;

use crate::child;
use crate::facts::{Facts, Stage};
use crate::mirror::{FromStandby, Setup, ToStandby};
use crate::notify::Notifier;
use crate::policy::{Event, Policy};
use crate::vault::{Keepsakes, SessionEnds, Vault};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token, Waker};
use proto::control::clock;
use proto::control::lane::{Lane, LaneError};
use proto::control::messages::{Ended, FromDaemon, ToDaemon};
use proto::hard::processes::{Group, ProcessesWriter, Row, Stage as Shown};
use proto::id::{Generation, Role, Seat};
use proto::run_dir::RunDir;
use proto::shm::region::Region;
use rustix::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use signal_hook::consts::{SIGINT, SIGTERM};
use spares::Spares;
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{Arc, mpsc};
use std::time::Duration;
use thiserror::Error;

const SIGNALS: Token = Token(0);
const STANDBY_LANE: Token = Token(1);
const STANDBY_DEATH: Token = Token(2);
const INSPECTED: Token = Token(3);
/// Three tokens per seat from here on: its lane, its pidfd, that of its spare.
const SEATS: usize = 16;

/// Messages taken from one lane before the others have their turn.
const TURN_MAX: usize = 256;
/// How long a lane with a queue waits before it tries again by itself: the kernel does not tell
/// when this user's descriptors under way become fewer (ETOOMANYREFS).
const RETRY: Duration = Duration::from_millis(10);
/// Descriptors that a supervisor needs beside those of sessions and seats.
const DESCRIPTORS_ASIDE: u64 = 128;

/// Why the active supervisor can't go on. Its standby takes over.
#[derive(Debug, Error)]
pub enum ServerError {
    /// The kernel refused something that can't be done without.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// What the kernel says.
        source: io::Error,
    },
    /// The table of processes was written by another version.
    #[error("the table of processes: {0}")]
    Table(#[from] proto::cell::TableError),
}

/// Says what was being done when the kernel refused.
pub(crate) fn doing<E: Into<io::Error>>(what: &'static str) -> impl Fn(E) -> ServerError {
    move |source| ServerError::Io { what, source: source.into() }
}

struct Daemon {
    generation: Generation,
    lane: Lane<ToDaemon, FromDaemon>,
    /// Something was said since the queue was last seen empty.
    said: bool,
    /// It closed its end: most often it is dying.
    closed: bool,
}

struct Standby {
    child: Child,
    pidfd: OwnedFd,
    lane: Lane<ToStandby, FromStandby>,
}

/// The active supervisor.
pub struct Server {
    setup: Setup,
    place: RunDir,
    vault: Vault,
    policy: Policy,
    poll: Poll,
    signals: UnixStream,
    seats: Vec<Seat>,
    daemons: BTreeMap<Seat, Daemon>,
    /// Those that were started by this process.
    children: BTreeMap<Seat, Child>,
    standby: Option<Standby>,
    spares: Spares,
    processes: ProcessesWriter<Arc<Region>>,
    prioritised: bool,
    events: VecDeque<Event>,
    /// What threads have found out, and how they say that they have.
    inspected: (mpsc::Sender<Event>, mpsc::Receiver<Event>),
    waker: Arc<Waker>,
    /// Lanes that had more than one turn's messages.
    unread: Vec<Seat>,
    notifier: Notifier,
    done: bool,
}

impl Server {
    /// The first supervisor of a group: makes its memory.
    ///
    /// # Errors
    /// [`ServerError`].
    pub fn begin(setup: Setup, keepsakes: Keepsakes) -> Result<Server, ServerError> {
        let mut vault = Vault::new(keepsakes);
        tell::make_memory(&mut vault, &setup.group)?;
        let mut facts = Facts::new(&setup.group);
        facts.active.generation = setup.generation;
        facts.active.pid = std::process::id();
        facts.active.started_at = clock::now();
        Server::new(setup, vault, facts, Event::Begin)
    }

    /// The standby, after the death of the active one.
    ///
    /// # Errors
    /// [`ServerError`].
    pub fn take_over(setup: Setup, vault: Vault, facts: Facts) -> Result<Server, ServerError> {
        let server = Server::new(setup, vault, facts, Event::TakeOver)?;
        server.notifier.took_over();
        Ok(server)
    }

    fn new(setup: Setup, vault: Vault, facts: Facts, first: Event) -> Result<Server, ServerError> {
        let (signals, sender) = UnixStream::pair().map_err(doing("signals"))?;
        signals.set_nonblocking(true).map_err(doing("signals"))?;
        for signal in [SIGTERM, SIGINT] {
            let sender = sender.try_clone().map_err(doing("signals"))?;
            signal_hook::low_level::pipe::register(signal, sender).map_err(doing("signals"))?;
        }
        let poll = Poll::new().map_err(doing("an event queue"))?;
        watch(poll.registry(), signals.as_raw_fd(), SIGNALS)?;
        let waker = Arc::new(Waker::new(poll.registry(), INSPECTED).map_err(doing("an event queue"))?);
        let processes = tell::processes(&vault, &setup.group)?;
        let place = RunDir::at(Path::new(&setup.group.dir), &setup.group.name);
        let sessions_max = sessions_max(&facts);
        let mut server = Server {
            seats: facts.seats.keys().copied().collect(),
            policy: Policy::new(facts, sessions_max),
            setup,
            place,
            vault,
            poll,
            signals,
            daemons: BTreeMap::new(),
            children: BTreeMap::new(),
            standby: None,
            spares: Spares::default(),
            processes,
            // One above the daemons (DESIGN §6), where that is permitted; `doctor` shows it.
            prioritised: rustix::process::setpriority_process(None, -1).is_ok(),
            events: VecDeque::from([first]),
            inspected: mpsc::channel(),
            waker,
            unread: Vec::new(),
            notifier: Notifier::from_environment(clock::now()),
            done: false,
        };
        for seat in server.vault.incarnations.keys().copied().collect::<Vec<_>>() {
            let generation = server.policy.facts().live(seat).map(|live| live.generation);
            server.attend(seat, generation.unwrap_or_default())?;
        }
        crate::lock_file::sign(&server.vault.keepsakes.lock_file).map_err(doing("the lock file"))?;
        Ok(server)
    }

    /// Runs until the group has ended.
    ///
    /// # Errors
    /// [`ServerError`].
    pub fn run(mut self) -> Result<(), ServerError> {
        let mut ready = Events::with_capacity(256);
        loop {
            self.settle()?;
            if self.done {
                return self.leave();
            }
            self.keep_spares()?;
            self.notifier.turn(clock::now());
            match self.poll.poll(&mut ready, self.patience()) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(ServerError::Io { what: "waiting", source }),
            }
            for seat in core::mem::take(&mut self.unread) {
                self.listen(seat);
            }
            for event in &ready {
                self.ready(event.token());
            }
            self.events.push_back(Event::Tick);
        }
    }

    /// How long nothing has to be done by itself.
    fn patience(&self) -> Option<Duration> {
        let now = clock::now();
        // Rounded up: the timer counts milliseconds, and waking early would only spin.
        let due = [self.policy.deadline(), self.spares.deadline(), self.notifier.due()];
        let deadline = due.into_iter().flatten().min();
        let deadline = deadline.map(|at| at.since(now) + Duration::from_micros(999));
        let queued = self.daemons.values().any(|daemon| daemon.lane.waiting() > 0)
            || self.standby.as_ref().is_some_and(|standby| standby.lane.waiting() > 0);
        let turn = (!self.unread.is_empty()).then_some(Duration::ZERO);
        [deadline, queued.then_some(RETRY), turn].into_iter().flatten().min()
    }

    fn ready(&mut self, token: Token) {
        match token {
            SIGNALS => {
                let mut bytes = [0; 16];
                while (&self.signals).read(&mut bytes).is_ok_and(|n| n > 0) {
                    self.notifier.stopping();
                    self.events.push_back(Event::Stop);
                }
            }
            STANDBY_LANE => self.listen_to_standby(),
            INSPECTED => self.events.extend(self.inspected.1.try_iter()),
            STANDBY_DEATH => self.standby_death(),
            Token(number) => {
                let Some(&seat) = self.seats.get((number - SEATS) / 3) else { return };
                match (number - SEATS) % 3 {
                    0 => self.listen(seat),
                    1 => self.death(seat),
                    _ => self.spare_death(seat),
                }
            }
        }
    }

    /// Lets the policy decide until nothing is left to decide, then shows the result.
    fn settle(&mut self) -> Result<(), ServerError> {
        loop {
            while let Some(event) = self.events.pop_front() {
                for action in self.policy.on(clock::now(), event) {
                    self.act(action)?;
                }
            }
            self.flush();
            if self.events.is_empty() {
                break;
            }
        }
        self.show();
        Ok(())
    }

    /// Sends what waits; says when a lane has nothing left.
    fn flush(&mut self) {
        for (&seat, daemon) in &mut self.daemons {
            let generation = daemon.generation;
            match daemon.lane.flush() {
                Ok(true) if daemon.said => {
                    daemon.said = false;
                    self.events.push_back(Event::Flushed { seat, generation });
                }
                Ok(_) => {}
                // Closed: the pidfd, or the reading side, tells.
                Err(_) => daemon.said = false,
            }
        }
        if let Some(standby) = &mut self.standby {
            // As above.
            let _ = standby.lane.flush();
        }
    }

    /// Begins to watch what the vault holds of an incarnation.
    fn attend(&mut self, seat: Seat, generation: Generation) -> Result<(), ServerError> {
        let held = &self.vault.incarnations[&seat];
        let socket = held.lane.try_clone().map_err(doing("a lane"))?;
        let (lane, death) = self.tokens(seat);
        watch(self.poll.registry(), socket.as_raw_fd(), lane)?;
        watch(self.poll.registry(), held.pidfd.as_raw_fd(), death)?;
        self.daemons.insert(seat, Daemon { generation, lane: Lane::new(socket), said: false, closed: false });
        Ok(())
    }

    /// Stops watching an incarnation and closes what is held of it. An epoll forgets a descriptor
    /// by itself only when no duplicate of it is left anywhere, and the standby has one.
    fn dismiss(&mut self, seat: Seat) {
        if let Some(daemon) = self.daemons.remove(&seat) {
            forget(self.poll.registry(), daemon.lane.as_raw_fd());
        }
        if let Some(held) = self.vault.incarnations.remove(&seat) {
            forget(self.poll.registry(), held.pidfd.as_raw_fd());
        }
        self.children.remove(&seat);
    }

    fn tokens(&self, seat: Seat) -> (Token, Token) {
        let first = self.first_token(seat);
        (Token(first), Token(first + 1))
    }

    fn spare_token(&self, seat: Seat) -> Token {
        Token(self.first_token(seat) + 2)
    }

    fn first_token(&self, seat: Seat) -> usize {
        let number = self.seats.iter().position(|&s| s == seat).expect("a seat of this group");
        SEATS + 3 * number
    }

    /// Hears what a daemon says, and puts what it brings into the vault.
    fn listen(&mut self, seat: Seat) {
        let Some(daemon) = self.daemons.get_mut(&seat) else { return };
        let generation = daemon.generation;
        for _ in 0..TURN_MAX {
            match daemon.lane.receive() {
                Ok(None) => return,
                Ok(Some((message, descriptors))) if self.policy.permits(seat, &message) => {
                    keep(&mut self.vault, seat, &message, descriptors);
                    self.events.push_back(Event::Heard { seat, generation, message });
                }
                Ok(Some(_)) => {
                    tracing::error!("{seat}[{generation}] says what is not its to say");
                    return self.events.push_back(Event::Broken { seat, generation });
                }
                Err(LaneError::Closed) => {
                    daemon.closed = true;
                    return self.events.push_back(Event::Closed { seat, generation });
                }
                Err(error) => {
                    tracing::error!("{seat}[{generation}]: {error}");
                    return self.events.push_back(Event::Broken { seat, generation });
                }
            }
        }
        self.unread.push(seat);
    }

    /// A pidfd is readable: hears the last words, then finds out how it ended.
    fn death(&mut self, seat: Seat) {
        let Some(held) = self.vault.incarnations.get(&seat) else { return };
        // The token may be left over from the incarnation before.
        if !child::is_dead(&held.pidfd) {
            return;
        }
        let Some(generation) = self.daemons.get(&seat).map(|daemon| daemon.generation) else { return };
        let before = self.events.len();
        self.listen(seat);
        while self.unread.pop_if(|&mut more| more == seat).is_some() {
            self.listen(seat);
        }
        // Its end is told below; a closed lane is part of it.
        let closed = Event::Closed { seat, generation };
        while self.events.len() > before && self.events.back() == Some(&closed) {
            self.events.pop_back();
        }
        let ended = match self.children.remove(&seat) {
            Some(mut ours) => ours.wait().map_or(Ended::Unknown, child::ended),
            None => {
                let pid = self.policy.facts().live(seat).map_or(0, |live| live.pid);
                child::ending(self.vault.incarnations[&seat].pidfd.as_fd(), pid)
            }
        };
        tracing::info!("{seat}[{generation}] ended: {ended:?}");
        self.events.push_back(Event::Ended { seat, generation, ended });
    }

    fn listen_to_standby(&mut self) {
        let Some(standby) = &mut self.standby else { return };
        loop {
            match standby.lane.receive() {
                Ok(None) => return,
                Ok(Some((FromStandby::Hello, _))) => self.events.push_back(Event::StandbyHello),
                Ok(Some((FromStandby::Ack { number }, _))) => self.events.push_back(Event::Acked { number }),
                // The pidfd tells.
                Err(LaneError::Closed) => return,
                Ok(Some((FromStandby::Report(_), _))) | Err(_) => {
                    return self.events.push_back(Event::StandbyBroken);
                }
            }
        }
    }

    fn standby_death(&mut self) {
        if !self.standby.as_ref().is_some_and(|standby| child::is_dead(&standby.pidfd)) {
            return;
        }
        let Some(mut standby) = self.standby.take() else { return };
        forget(self.poll.registry(), standby.lane.as_raw_fd());
        forget(self.poll.registry(), standby.pidfd.as_raw_fd());
        let ended = standby.child.wait().map_or(Ended::Unknown, child::ended);
        tracing::info!("standby ended: {ended:?}");
        self.events.push_back(Event::StandbyEnded { ended });
    }

    /// Shows the facts in the table of processes; unchanged rows are not written.
    fn show(&mut self) {
        let facts = self.policy.facts();
        for (&seat, of) in &facts.seats {
            let live = of.live;
            self.processes.put(Row {
                seat,
                pid: live.map_or(0, |live| live.pid),
                generation: of.generation,
                restarts: of.generation.0.saturating_sub(1),
                started_at: live.map(|live| live.started_at).unwrap_or_default(),
                last_end: of.last_end,
                stage: match live.map(|live| live.stage) {
                    None => Shown::Down,
                    Some(Stage::Ready) => Shown::Ready,
                    Some(_) => Shown::Starting,
                },
            });
        }
        for (role, of) in [(Role::Supervisor, facts.active), (Role::Standby, facts.standby)] {
            let ready = role == Role::Supervisor || self.policy.standby_is_told();
            self.processes.put(Row {
                seat: Seat::new(role, 0),
                pid: of.pid,
                generation: of.generation,
                restarts: of.restarts,
                started_at: of.started_at,
                last_end: of.last_end,
                stage: match of.pid {
                    0 => Shown::Down,
                    _ if ready => Shown::Ready,
                    _ => Shown::Starting,
                },
            });
        }
        let group = &self.setup.group;
        self.processes.put_group(Group {
            name: group.name.clone(),
            shards: group.shards,
            nics: group.nics.len() as u16,
            conns: group.conns,
            prioritised: self.prioritised,
        });
    }

    fn programs(&self) -> PathBuf {
        PathBuf::from(&self.setup.programs)
    }
}

/// Puts what a message brought into the vault. What is there already stays: the message is a
/// repetition. A TAP is replaced: a nicd may have opened another one.
fn keep(vault: &mut Vault, seat: Seat, message: &FromDaemon, mut descriptors: Vec<OwnedFd>) {
    match *message {
        FromDaemon::KeepSession { session, .. } => {
            vault.sessions.entry(session).or_insert(SessionEnds(descriptors));
        }
        FromDaemon::KeepDevice { .. } => {
            vault.devices.extend(descriptors.pop().map(|device| (seat.index, device)));
        }
        _ => {}
    }
}

/// How many sessions the vaults have room for: each costs its descriptors, and while a standby is
/// told of it, as many are under way.
fn sessions_max(facts: &Facts) -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(1 << 20);
    let shards = facts.seats.keys().filter(|seat| seat.role == Role::Netd).count() as u64;
    let seats = facts.seats.len() as u64;
    let aside = DESCRIPTORS_ASIDE + seats * (8 + 3 * seats);
    usize::try_from(limit.saturating_sub(aside) / (4 + 2 * shards)).unwrap_or(usize::MAX)
}

pub(crate) fn watch(registry: &Registry, descriptor: RawFd, token: Token) -> Result<(), ServerError> {
    let interest = Interest::READABLE | Interest::WRITABLE;
    registry.register(&mut SourceFd(&descriptor), token, interest).map_err(doing("watching a descriptor"))
}

pub(crate) fn forget(registry: &Registry, descriptor: RawFd) {
    // It was registered; if it no longer is, there is nothing to forget.
    let _ = registry.deregister(&mut SourceFd(&descriptor));
}
