//! The daemon around [`core`](crate::core): the only place in sockd with a clock, descriptors and
//! wake-ups.
//!
//! One thread, edge-triggered. A round takes what came from the supervisors, clients, netds and
//! callers of the admin socket, does the effects, publishes the commands, and then arms the rings,
//! looks again, and sleeps. A session gets one request looked at a round, so none starves another.
//! Nothing here waits for a client or a netd: requests for a netd that is being restarted stay on
//! their sockets.

use crate::admin::{Admin, Errand, Met, Sights};
use crate::core::{Core, Effect, Seed};
use crate::counts::Count;
use crate::netds::{Netd, known_operations};
use crate::policy::Limits;
use crate::session::{Client, ClientEnds, Ends, Peeked, accept};
use crate::territory::Territory;
use core::time::Duration;
use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use proto::arena::Geometry;
use proto::cell::TableError;
use proto::control::client::{Ask, Granted, Reply, Request};
use proto::control::clock::now;
use proto::control::messages::Region as Tag;
use proto::control::notices::{Change, ConfigReply, ConfigRequest};
use proto::control::rendezvous::NoticeLane;
use proto::daemon::{Gone, News, SessionEnds, Start, Supervised};
use proto::id::{Generation, Role, Seat, SessionId};
use proto::recorder::{Kind, Recorder};
use proto::shm::region::{self, Region};
use proto::stats::Counts;
use proto::stats::table::Table;
use proto::{Instant, PeerCorrupt};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;
use thiserror::Error;

const LANE: Token = Token(0);
const API: Token = Token(1);
const ADMIN: Token = Token(2);
const NETD: usize = 0x100;
const NOTICES: usize = 0x200;
const CALLER: usize = 1 << 32;
const NEWCOMER: usize = 2 << 32;
const SESSION: usize = 3 << 32;
const KIND: usize = 0xffff_ffff;

/// Connections that may be open without having asked for a session; the oldest makes room.
const NEWCOMERS_MAX: usize = 256;
/// Sessions that may be on their way into the vaults at a time.
const KEEPING_MAX: usize = 256;
/// When accept(2) failed for want of descriptors: how long until it is tried again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why sockd can't start, or ended.
#[derive(Debug, Error)]
pub enum ServerError {
    /// The registry in memory is of another layout.
    #[error("registry: {0}")]
    Registry(#[from] TableError),
    /// The lane to the supervisors.
    #[error("{0}")]
    Supervisor(#[from] Gone),
    /// A system call that must not fail.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the kernel says.
        source: io::Error,
    },
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> ServerError {
    move |source| ServerError::System { what, source }
}

/// What a supervisor's answer is about.
enum Pending {
    Keep(SessionId),
    Drop(SessionId),
    /// A caller's wish, by its number.
    Restart(u64),
}

struct Server {
    start: Start,
    supervised: Supervised,
    poll: Poll,
    core: Core<Arc<Region>>,
    netds: BTreeMap<u16, Netd>,
    api: Option<OwnedFd>,
    admin_socket: Option<OwnedFd>,
    admin: Admin,
    newcomers: BTreeMap<usize, Client>,
    next_newcomer: usize,
    /// Newcomers whose request waits for the vaults to take others'.
    deferred: VecDeque<usize>,
    clients: BTreeMap<SessionId, Client>,
    /// Read-only descriptions of their arenas, to be shown; one that could not be made is missing.
    arenas: BTreeMap<SessionId, (Geometry, OwnedFd)>,
    /// Sessions whose socket is to be looked at.
    looks: VecDeque<SessionId>,
    pending: BTreeMap<u64, Pending>,
    /// Changes that shard 0 has made, and the shards that have not followed yet.
    spreading: Vec<(ConfigReply, BTreeSet<u16>)>,
    accept_again: Option<Instant>,
    counts: Counts<Count>,
    stats: Table<Arc<Region>>,
    recorder: Recorder<Arc<Region>>,
    stopping: bool,
}

/// Serves until a supervisor says stop.
///
/// # Errors
/// [`ServerError`].
pub fn run(start: Start, supervised: Supervised) -> Result<(), ServerError> {
    let poll = Poll::new().map_err(system("epoll_create"))?;
    let both = Interest::READABLE | Interest::WRITABLE;
    let lane = poll.registry().register(&mut SourceFd(&supervised.as_raw_fd()), LANE, both);
    lane.map_err(system("watch the lane"))?;
    let shards = start.group.shards;
    let mut core = Core::recover(start.memory(Tag::Registry), shards, Limits::of_group(shards), seed()?)?;
    core.confine(Territory::of(&start.group.nics));
    let (seat, statistics) = (start.seat, start.memory(Tag::Stats(start.seat)));
    let counts = Counts::<Count>::default();
    let names: Vec<&str> = counts.each().map(|(name, _)| name).collect();
    let stats = Table::attach(statistics.clone(), seat, names.into_iter());
    let mut recorder = Recorder::attach(statistics, seat);
    let (generation, pid) = (start.generation.0.into(), std::process::id().into());
    recorder.record(now(), Kind::ATTACHED, [generation, pid, 0], "");
    let mut server = Server {
        admin: Admin::new(start.generation),
        start,
        supervised,
        poll,
        core,
        netds: BTreeMap::new(),
        api: None,
        admin_socket: None,
        newcomers: BTreeMap::new(),
        next_newcomer: 0,
        deferred: VecDeque::new(),
        clients: BTreeMap::new(),
        arenas: BTreeMap::new(),
        looks: VecDeque::new(),
        pending: BTreeMap::new(),
        spreading: Vec::new(),
        accept_again: None,
        counts,
        stats,
        recorder,
        stopping: false,
    };
    server.serve()
}

fn seed() -> Result<Seed, ServerError> {
    let mut words = [[0u64; 2]; 3];
    for word in words.as_flattened_mut() {
        let mut bytes = [0; 8];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
            .map_err(|errno| system("getrandom")(errno.into()))?;
        *word = u64::from_ne_bytes(bytes);
    }
    Ok(Seed { ports: [words[0], words[1]], numbers: words[2] })
}

impl Server {
    fn serve(&mut self) -> Result<(), ServerError> {
        let mut events = Events::with_capacity(256);
        self.hear()?;
        while !self.stopping {
            self.publish()?;
            self.stats.mirror(self.counts.each().map(|(_, count)| count));
            let idle = self.arm() && self.looks.is_empty();
            let timeout = match idle {
                false => Some(Duration::ZERO),
                // epoll counts milliseconds: rounded up, or it would wake before anything is due.
                true => self.deadline().map(|at| at.since(now()) + Duration::from_millis(1)),
            };
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    return Err(system("epoll_wait")(error));
                }
                _ => {}
            }
            self.netds.values_mut().for_each(Netd::disarm);
            for event in &events {
                self.on_event(event)?;
            }
            self.take_answers()?;
            self.report_changes()?;
            self.look_again()?;
            self.on_time()?;
        }
        self.publish()?;
        self.recorder.record(now(), Kind::STOP, [0; 3], "");
        Ok(())
    }

    fn on_event(&mut self, event: &Event) -> Result<(), ServerError> {
        let token = event.token();
        let number = token.0 & KIND;
        match token {
            LANE => self.hear(),
            API => self.accept_clients(),
            ADMIN => self.accept_callers(),
            Token(notices) if (NOTICES..CALLER).contains(&notices) => {
                self.hear_notices((notices - NOTICES) as u16)
            }
            Token(netd) if netd < CALLER => Ok(()),
            Token(caller) if caller < NEWCOMER => self.hear_caller(number),
            Token(newcomer) if newcomer < SESSION => self.look_at_newcomer(number),
            Token(_) => {
                let session = SessionId(number as u32);
                if event.is_read_closed() || event.is_error() {
                    let effects = self.core.hung_up(session);
                    return self.apply(effects);
                }
                self.looks.push_back(session);
                Ok(())
            }
        }
    }

    fn watch(&self, fd: RawFd, token: usize, interest: Interest) -> io::Result<()> {
        self.poll.registry().register(&mut SourceFd(&fd), Token(token), interest)
    }

    fn unwatch(&self, fd: RawFd) {
        let _ = self.poll.registry().deregister(&mut SourceFd(&fd));
    }

    // The supervisors.

    fn hear(&mut self) -> Result<(), ServerError> {
        while let Some(news) = self.supervised.hear()? {
            self.on_news(news)?;
        }
        Ok(())
    }

    fn on_news(&mut self, news: News) -> Result<(), ServerError> {
        match news {
            News::Listeners { api, admin } => {
                for (listener, token) in [(&api, API), (&admin, ADMIN)] {
                    self.watch(listener.as_raw_fd(), token.0, Interest::READABLE)
                        .map_err(system("watch a listener"))?;
                }
                (self.api, self.admin_socket) = (Some(api), Some(admin));
                Ok(())
            }
            News::SessionSocket { session, geometry, socket, arena, wakes_client, kicks } => {
                self.show_arena(session, geometry, arena.as_fd());
                let ends = ClientEnds { arena, wake: wakes_client, kicks };
                let client = Client::parked(socket, ends);
                self.watch(client.socket.as_raw_fd(), SESSION | session.0 as usize, Interest::READABLE)
                    .map_err(system("watch a session"))?;
                self.clients.insert(session, client);
                let effects = self.core.parked(session, geometry);
                self.apply(effects)?;
                self.looks.push_back(session);
                Ok(())
            }
            News::Complete => {
                let effects = self.core.vault_complete();
                self.apply(effects)?;
                self.publish()?;
                // INV-R6: whoever attaches wakes everybody once.
                self.netds.values().for_each(Netd::wake);
                self.supervised.ready()?;
                self.recorder.record(now(), Kind::READY, [0; 3], "");
                Ok(())
            }
            News::Introduce { peer, generation, memory, wakes_us, wakes_peer } => {
                self.introduce(peer, generation, &memory, wakes_us, wakes_peer)
            }
            News::PeerGone { peer, generation } => {
                if self.netds.get(&peer.index).is_some_and(|netd| netd.generation <= generation) {
                    self.detach(peer.index);
                }
                self.recorder.record(now(), Kind::PEER_GONE, [seat_number(peer), generation.0.into(), 0], "");
                Ok(self.supervised.released(peer, generation)?)
            }
            News::Done { request } => match self.pending.remove(&request) {
                Some(Pending::Keep(session)) => {
                    self.counts.count(Count::Sessions);
                    let effects = self.core.kept(session);
                    self.apply(effects)?;
                    self.admit_deferred()
                }
                Some(Pending::Drop(session)) => {
                    self.counts.count(Count::SessionsEnded);
                    self.core.dropped(session);
                    self.forget(session);
                    Ok(())
                }
                Some(Pending::Restart(_)) | None => Ok(()),
            },
            News::Restarted { request, result } => {
                if let Some(Pending::Restart(id)) = self.pending.remove(&request) {
                    let sights = Sights { start: &self.start, arenas: &self.arenas };
                    let errands = self.admin.restarted(id, result, &sights);
                    self.run(errands)?;
                }
                Ok(())
            }
            News::Refused { request, errno } => {
                if let Some(Pending::Keep(session)) = self.pending.remove(&request) {
                    self.core.not_made(session);
                    self.counts.count(Count::SessionsRefused);
                    if let Some(client) = self.forget(session) {
                        let _ = client.reply(&Reply { number: 1, result: Err(errno) }, None);
                        client.consume();
                    }
                }
                self.admit_deferred()
            }
            News::Rendezvous { peer, generation, name } => {
                let netd = self.netds.get_mut(&peer.index).filter(|netd| netd.generation == generation);
                if let Some(notices) = netd.and_then(|netd| netd.notices.as_mut())
                    && let Err(error) = notices.connect(name)
                {
                    tracing::warn!("notices to {peer}: {error}");
                }
                Ok(())
            }
            News::Stop => {
                self.stopping = true;
                Ok(())
            }
            News::Device { .. } | News::Session { .. } => Ok(()),
        }
    }

    // The netds.

    fn introduce(
        &mut self,
        peer: Seat,
        generation: Generation,
        memory: &OwnedFd,
        wakes_us: OwnedFd,
        wakes_peer: OwnedFd,
    ) -> Result<(), ServerError> {
        if peer.role != Role::Netd || peer.index >= self.start.group.shards {
            return Ok(());
        }
        let shard = peer.index;
        self.detach(shard);
        let attached = Netd::attach(peer, generation, memory, wakes_us, wakes_peer);
        let mut netd = attached.map_err(system("map the rings of a netd"))?;
        self.watch(netd.wakes_us.as_raw_fd(), NETD + usize::from(shard), Interest::READABLE)
            .map_err(system("watch a netd"))?;
        let us = (self.start.seat, self.start.generation);
        let notices = NoticeLane::offer(us, (peer, generation)).map_err(system("offer notices"))?;
        self.watch(notices.as_raw_fd(), NOTICES + usize::from(shard), Interest::READABLE)
            .map_err(system("watch notices"))?;
        self.supervised.offer(peer, notices.name().to_owned())?;
        match shard {
            0 => {
                for change in self.admin.unanswered() {
                    let _ = notices.send(change.clone());
                }
            }
            // What shard 0 has changed since this one read the configuration, if it has.
            _ => {
                let _ = notices.send(ConfigRequest { id: 0, change: Change::Refresh });
            }
        }
        netd.notices = Some(notices);
        self.netds.insert(shard, netd);
        self.recorder.record(now(), Kind::INTRODUCED, [seat_number(peer), generation.0.into(), 0], "");
        let conns = self.start.memory(Tag::Conns(shard));
        let mut known = known_operations(&conns);
        if self.core.misses_any(shard, &known) {
            known.extend(known_operations(&conns));
        }
        let effects = self.core.attached(shard, &known);
        self.apply(effects)
    }

    fn detach(&mut self, shard: u16) {
        if let Some(netd) = self.netds.remove(&shard) {
            self.unwatch(netd.wakes_us.as_raw_fd());
            if let Some(notices) = &netd.notices {
                self.unwatch(notices.as_raw_fd());
            }
            self.core.detached(shard);
            // Its successor reads the configuration when it begins.
            self.spread_to(shard, None);
        }
    }

    /// A netd broke a rule of a ring: nothing is said to it any more until its successor comes,
    /// which the supervisor is asked for.
    fn distrust(&mut self, shard: u16, rule: PeerCorrupt) -> Result<(), ServerError> {
        let Some(netd) = self.netds.get(&shard) else { return Ok(()) };
        let (seat, generation) = (netd.seat, netd.generation);
        self.counts.count(Count::BadSlots);
        self.recorder.record(now(), Kind::CORRUPT, [seat_number(seat), generation.0.into(), 0], rule.rule);
        tracing::error!("{seat}: {rule}");
        self.detach(shard);
        Ok(self.supervised.corrupt(seat, generation)?)
    }

    fn publish(&mut self) -> Result<(), ServerError> {
        let now = now();
        let each = self.netds.iter_mut().filter_map(|(shard, netd)| Some((*shard, netd.publish(now).err()?)));
        let broken: Vec<(u16, PeerCorrupt)> = each.collect();
        broken.into_iter().try_for_each(|(shard, rule)| self.distrust(shard, rule))
    }

    /// Asks for wake-ups; `false` when there are answers to take first.
    fn arm(&mut self) -> bool {
        let armed = self.netds.values_mut().filter_map(|netd| netd.arm().ok()).filter(|empty| *empty).count();
        armed == self.netds.len()
    }

    fn take_answers(&mut self) -> Result<(), ServerError> {
        let shards: Vec<u16> = self.netds.keys().copied().collect();
        for shard in shards {
            while let Some(netd) = self.netds.get_mut(&shard) {
                match netd.answer() {
                    Ok(None) => break,
                    Ok(Some(answer)) => {
                        self.counts.count(Count::Answers);
                        let effects = self.core.answer(shard, answer);
                        self.apply(effects)?;
                    }
                    Err(rule) => self.distrust(shard, rule)?,
                }
            }
        }
        Ok(())
    }

    fn deadline(&self) -> Option<Instant> {
        let stuck = self.netds.values().filter_map(Netd::deadline);
        stuck.chain(self.accept_again).min()
    }

    fn on_time(&mut self) -> Result<(), ServerError> {
        let now = now();
        let (mut stuck, mut broken) = (Vec::new(), Vec::new());
        for (shard, netd) in &mut self.netds {
            match netd.is_stuck(now) {
                Ok(false) => {}
                Ok(true) => stuck.push((netd.seat, netd.generation)),
                Err(rule) => broken.push((*shard, rule)),
            }
        }
        broken.into_iter().try_for_each(|(shard, rule)| self.distrust(shard, rule))?;
        for (seat, generation) in stuck {
            self.recorder.record(now, Kind::STUCK, [seat_number(seat), generation.0.into(), 500], "");
            self.supervised.stuck(seat, generation)?;
        }
        if self.accept_again.is_some_and(|at| at <= now) {
            self.accept_again = None;
            self.accept_clients()?;
        }
        Ok(())
    }

    // The clients.

    fn accept_clients(&mut self) -> Result<(), ServerError> {
        loop {
            let Some(api) = &self.api else { return Ok(()) };
            let socket = match accept(api.as_fd()) {
                Ok(Some(socket)) => socket,
                Ok(None) => return Ok(()),
                Err(error) => {
                    tracing::warn!("api.sock: {error}");
                    self.accept_again = Some(now() + ACCEPT_PAUSE);
                    return Ok(());
                }
            };
            let Some(client) = Client::new(socket) else { continue };
            if self.newcomers.len() >= NEWCOMERS_MAX {
                self.newcomers.pop_first();
                self.counts.count(Count::Strangers);
            }
            let number = self.next_newcomer;
            self.next_newcomer = (number + 1) & KIND;
            if self.watch(client.socket.as_raw_fd(), NEWCOMER | number, Interest::READABLE).is_ok() {
                self.newcomers.insert(number, client);
                self.look_at_newcomer(number)?;
            }
        }
    }

    fn look_at_newcomer(&mut self, number: usize) -> Result<(), ServerError> {
        let Some(client) = self.newcomers.get(&number) else { return Ok(()) };
        match client.peek() {
            Peeked::Nothing => Ok(()),
            Peeked::HungUp | Peeked::Nonsense => {
                self.newcomers.remove(&number);
                self.counts.count(Count::Strangers);
                Ok(())
            }
            Peeked::Request(_) if self.pending.len() >= KEEPING_MAX => {
                self.deferred.push_back(number);
                Ok(())
            }
            Peeked::Request(request) => self.admit(number, &request),
        }
    }

    fn admit_deferred(&mut self) -> Result<(), ServerError> {
        while self.pending.len() < KEEPING_MAX
            && let Some(number) = self.deferred.pop_front()
        {
            self.look_at_newcomer(number)?;
        }
        Ok(())
    }

    /// A newcomer asks for a session.
    fn admit(&mut self, number: usize, request: &Request) -> Result<(), ServerError> {
        let mut client = self.newcomers.remove(&number).expect("the caller looked at it");
        self.unwatch(client.socket.as_raw_fd());
        let opened = self.core.open(client.uid, client.pid, request);
        let made = opened.and_then(|(session, geometry)| {
            Ends::make(&geometry).map(|ends| (session, geometry, ends)).map_err(|error| {
                self.core.not_made(session);
                Errno::from_io_error(&error).unwrap_or(Errno::NOMEM)
            })
        });
        let (session, geometry, ends) = match made {
            Ok(made) => made,
            Err(refusal) => {
                self.counts.count(Count::SessionsRefused);
                let errno = refusal.raw_os_error().unsigned_abs();
                let _ = client.reply(&Reply { number: request.number, result: Err(errno) }, None);
                client.consume();
                return Ok(());
            }
        };
        let token = SESSION | session.0 as usize;
        self.watch(client.socket.as_raw_fd(), token, Interest::READABLE)
            .map_err(system("watch a session"))?;
        let request = self.keep(session, geometry, &client, &ends)?;
        self.show_arena(session, geometry, ends.client.arena.as_fd());
        self.pending.insert(request, Pending::Keep(session));
        client.ends = Some(ends.client);
        self.clients.insert(session, client);
        Ok(())
    }

    fn keep(
        &mut self,
        session: SessionId,
        geometry: Geometry,
        client: &Client,
        ends: &Ends,
    ) -> Result<u64, ServerError> {
        let pipes = ends.kicks.iter().zip(&ends.client.kicks);
        let kicks: Vec<_> = pipes.map(|(reading, writing)| (reading.as_fd(), writing.as_fd())).collect();
        let ends = SessionEnds {
            socket: client.socket.as_fd(),
            arena: ends.client.arena.as_fd(),
            wakes_client: (ends.client.wake.as_fd(), ends.wake.as_fd()),
            kicks: &kicks,
        };
        Ok(self.supervised.keep_session(session, geometry, ends)?)
    }

    fn look_again(&mut self) -> Result<(), ServerError> {
        for _ in 0..self.looks.len() {
            let Some(session) = self.looks.pop_front() else { break };
            self.look_at(session)?;
        }
        Ok(())
    }

    fn look_at(&mut self, session: SessionId) -> Result<(), ServerError> {
        let Some(client) = self.clients.get_mut(&session) else { return Ok(()) };
        let effects = match client.peek() {
            Peeked::Nothing => Vec::new(),
            Peeked::HungUp => self.core.hung_up(session),
            Peeked::Nonsense => self.core.violated(session, "a request that does not decode"),
            Peeked::Request(request) => {
                if !matches!(request.ask, Ask::Open { .. }) {
                    // It has had its descriptors.
                    client.ends = None;
                }
                self.core.request(session, &request)
            }
        };
        self.apply(effects)
    }

    fn apply(&mut self, effects: Vec<Effect>) -> Result<(), ServerError> {
        for effect in effects {
            match effect {
                Effect::Command { shard, command } => {
                    if let Some(netd) = self.netds.get_mut(&shard) {
                        self.counts.count(Count::Commands);
                        netd.command(command);
                    }
                }
                Effect::Reply { session, reply } => self.reply(session, &reply)?,
                Effect::End { session, reason } => {
                    self.counts.count(Count::Violations);
                    if let Some(client) = self.clients.get(&session) {
                        client.shut_down();
                        let who = [session.0.into(), client.pid.into(), client.uid.into()];
                        self.recorder.record(now(), Kind::CORRUPT, who, reason);
                    }
                }
                Effect::Drop { session } => {
                    let request = self.supervised.drop_session(session)?;
                    self.pending.insert(request, Pending::Drop(session));
                }
            }
        }
        Ok(())
    }

    /// Replies, and only then takes the request off the socket.
    fn reply(&mut self, session: SessionId, reply: &Reply) -> Result<(), ServerError> {
        let Some(client) = self.clients.get_mut(&session) else { return Ok(()) };
        let opens = matches!(reply.result, Ok(Granted::Session { .. }));
        let told = match opens {
            true if client.ends.is_none() => Err(Errno::ALREADY),
            true => client.reply(reply, client.ends.as_ref()),
            false => client.reply(reply, None),
        };
        match told {
            Ok(()) => {
                client.consume();
                if opens {
                    client.ends = None;
                }
                self.counts.count(if reply.result.is_ok() { Count::Granted } else { Count::Refused });
                self.looks.push_back(session);
                Ok(())
            }
            Err(Errno::AGAIN) => self.send_away(session, "it does not read its replies"),
            Err(Errno::ALREADY) => self.send_away(session, "it opened its session twice"),
            // Gone: its hang-up comes as an event of its own.
            Err(_) => Ok(()),
        }
    }

    fn send_away(&mut self, session: SessionId, reason: &'static str) -> Result<(), ServerError> {
        let effects = self.core.violated(session, reason);
        self.apply(effects)
    }

    /// Keeps what netctl needs to see how much waits in the session's sockets.
    fn show_arena(&mut self, session: SessionId, geometry: Geometry, arena: BorrowedFd<'_>) {
        if let Ok(read_only) = region::reopen_read_only(arena) {
            self.arenas.insert(session, (geometry, read_only));
        }
    }

    /// The vaults hold the same description, so closing it is not enough to be rid of its events.
    fn forget(&mut self, session: SessionId) -> Option<Client> {
        self.arenas.remove(&session);
        let client = self.clients.remove(&session)?;
        self.unwatch(client.socket.as_raw_fd());
        Some(client)
    }

    // The admin socket.

    fn accept_callers(&mut self) -> Result<(), ServerError> {
        loop {
            let Some(listener) = &self.admin_socket else { return Ok(()) };
            match self.admin.meet(listener.as_fd()) {
                Ok(Met::Nobody) => return Ok(()),
                Ok(Met::Denied) => self.counts.count(Count::AdminDenied),
                Ok(Met::Caller(number)) => {
                    let lane = self.admin.lane(number).expect("just met").as_raw_fd();
                    let both = Interest::READABLE | Interest::WRITABLE;
                    match self.watch(lane, CALLER | number, both) {
                        Ok(()) => self.hear_caller(number)?,
                        Err(_) => self.admin.forget(number),
                    }
                }
                Err(error) => {
                    tracing::warn!("admin.sock: {error}");
                    return Ok(());
                }
            }
        }
    }

    fn hear_caller(&mut self, number: usize) -> Result<(), ServerError> {
        self.counts.count(Count::AdminRequests);
        let sights = Sights { start: &self.start, arenas: &self.arenas };
        match self.admin.hear(number, &sights) {
            Ok(errands) => self.run(errands),
            Err(_) => {
                self.admin.forget(number);
                Ok(())
            }
        }
    }

    /// Changes go to the netd that writes the configuration; without one they wait for it.
    fn run(&mut self, errands: Vec<Errand>) -> Result<(), ServerError> {
        for errand in errands {
            match errand {
                Errand::Change(change) => {
                    if let Some(notices) = self.netds.get(&0).and_then(|netd| netd.notices.as_ref()) {
                        let _ = notices.send(change);
                    }
                }
                Errand::Restart(id, seat, generation) => {
                    let request = self.supervised.restart(seat, generation)?;
                    self.pending.insert(request, Pending::Restart(id));
                }
            }
        }
        Ok(())
    }

    fn hear_notices(&mut self, shard: u16) -> Result<(), ServerError> {
        while let Some(notices) = self.netds.get(&shard).and_then(|netd| netd.notices.as_ref()) {
            match notices.receive() {
                Ok(None) => break,
                Ok(Some(reply)) if shard == 0 => self.spread(reply),
                Ok(Some(reply)) => self.spread_to(shard, Some(reply.id)),
                Err(error) => {
                    tracing::warn!("notices of netd: {error}");
                    let fd = notices.as_raw_fd();
                    self.unwatch(fd);
                    if let Some(netd) = self.netds.get_mut(&shard) {
                        netd.notices = None;
                    }
                    self.spread_to(shard, None);
                }
            }
        }
        self.report_changes()
    }

    /// Shard 0 has made a change: the others are to follow before whoever asked for it is told.
    fn spread(&mut self, reply: ConfigReply) {
        let change = match self.admin.change(reply.id) {
            Some(Change::CaptureOpen) => Change::CaptureOpen,
            _ => Change::Refresh,
        };
        let mut followers = BTreeSet::new();
        for (&shard, netd) in self.netds.range(1..).filter(|_| reply.result.is_ok()) {
            let request = ConfigRequest { id: reply.id, change: change.clone() };
            if netd.notices.as_ref().is_some_and(|notices| notices.send(request).is_ok()) {
                followers.insert(shard);
            }
        }
        self.spreading.push((reply, followers));
    }

    /// A shard has followed one change, or (`None`) needs no telling any more.
    fn spread_to(&mut self, shard: u16, id: Option<u64>) {
        for (reply, followers) in &mut self.spreading {
            if id.is_none_or(|id| id == reply.id) {
                followers.remove(&shard);
            }
        }
    }

    /// Tells those who asked of the changes that all shards have made.
    fn report_changes(&mut self) -> Result<(), ServerError> {
        while let Some(at) = self.spreading.iter().position(|(_, followers)| followers.is_empty()) {
            let (reply, _) = self.spreading.remove(at);
            let sights = Sights { start: &self.start, arenas: &self.arenas };
            let more = self.admin.changed(reply, &sights);
            self.run(more)?;
        }
        Ok(())
    }
}

/// A seat as the flight recorder writes it.
fn seat_number(seat: Seat) -> u64 {
    (seat.role as u64) << 16 | u64::from(seat.index)
}
