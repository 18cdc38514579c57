//! The loop around the stack: the only place in netd with a clock, rings, descriptors and wake-ups.
//!
//! NAPI in user space: work is drained with a budget, transmit work from the lowest queue up
//! (completions, released frames, then sockets), receive work from the topmost down (commands and
//! kicks, whose data is nearly where it belongs, then the device's ring). A round is one batch: it
//! ends with [`ORDER`], and only then do frames go down and clients learn of it. With nothing left
//! the engine arms every ring, looks again, and sleeps until the next deadline; there is no tick. With
//! a real-time priority it first looks again for a moment ([`SPIN`]), giving way with every turn.

mod clients;
mod config;
mod crumbs;
mod nic;
mod patience;
mod sockd;
mod tap;

use crate::counters::{Counter, Counters};
use crate::link::gro::Gro;
use crate::secrets::{ENTROPY_SIZE, Secrets};
use crate::stack::{AttachError, LOOPBACK, LinkNews, ORDER, Setup, Stack};
use crate::wire::drop_reason::DropReason;
use clients::Clients;
use config::Configuration;
use core::time::Duration;
use crumbs::Crumbs;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token};
use nic::NicLink;
use proto::capture::Way;
use proto::control::clock::now;
use proto::control::messages::Region as Tag;
use proto::control::notices::Change;
use proto::daemon::turn::{self, SPIN};
use proto::daemon::{Gone, News, Start, Supervised};
use proto::id::{Generation, Role, Seat};
use proto::nic::packet_buf::PacketBuf;
use proto::nic::pool::FramePool;
use proto::nic::slab::SlabGeometry;
use proto::recorder::{Kind, Recorder};
use proto::shm::region::{Region, create_sealed};
use proto::stats::neighbours::Board;
use proto::stats::table::Table;
use proto::{Instant, PeerCorrupt};
use rustix::fd::{AsRawFd, RawFd};
use sockd::SockdLink;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use tap::Tap;
use thiserror::Error;

/// The memory of the running daemon.
pub type Mapped = Arc<Region>;

/// Frames, commands and kicks each that one round takes up at most; net.core.netdev_budget is 300.
const BUDGET: usize = 256;
/// Frames that may wait to come in again by the loopback interface.
const LOOPED_MAX: usize = 64;
/// The pages they lie in: soft state of one incarnation, mapped by nobody else.
const LOOPBACK_SLAB: SlabGeometry = SlabGeometry { small: 256, large: 128 };
/// Rounds under load after which descriptors are looked at although there is work.
const ROUNDS_PER_POLL: u32 = 16;

/// How often the other shards look whether the first has made what all need.
const FIRST_SHARD_PAUSE: Duration = Duration::from_millis(1);

const LANE: Token = Token(0);
const SOCKD: Token = Token(1);
const SOCKD_NOTICES: Token = Token(2);
const NIC: usize = 0x100;
const NIC_NOTICES: usize = 0x200;
const SESSION: usize = 0x1_0000;

/// Why netd can't start, or ended.
#[derive(Debug, Error)]
pub enum EngineError {
    /// The stack can't be made.
    #[error("{0}")]
    Attach(#[from] AttachError),
    /// The configuration in memory is of another layout.
    #[error("configuration: {0}")]
    Config(#[from] proto::cell::TableError),
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

fn system(what: &'static str) -> impl FnOnce(io::Error) -> EngineError {
    move |source| EngineError::System { what, source }
}

/// Watches a descriptor edge-triggered.
fn watch(registry: &Registry, fd: RawFd, token: Token) -> io::Result<()> {
    registry.register(&mut SourceFd(&fd), token, Interest::READABLE)
}

/// The running daemon.
struct Engine {
    us: (Seat, Generation),
    supervised: Supervised,
    stack: Stack<Mapped>,
    nics: Vec<NicLink>,
    sockd: SockdLink,
    clients: Clients,
    config: Configuration,
    stats: Table<Mapped>,
    neighbours: Board<Mapped>,
    recorder: Recorder<Mapped>,
    tap: Tap,
    poll: Poll,
    /// May spin before it sleeps.
    real_time: bool,
    /// Frames that each interface takes in the present round.
    room: Vec<usize>,
    /// Joins what comes in; empty between two rounds.
    gro: Gro<Mapped>,
    /// Frames that this host sent to itself and has not looked at.
    looped: VecDeque<PacketBuf<Mapped>>,
    stopping: bool,
}

/// Serves until a supervisor says stop.
///
/// # Errors
/// [`EngineError`].
pub fn run(start: Start, mut supervised: Supervised) -> Result<(), EngineError> {
    let real_time = turn::take(start.seat.index);
    let mut poll = Poll::new().map_err(system("epoll_create"))?;
    let mut events = Events::with_capacity(256);
    watch(poll.registry(), supervised.as_raw_fd(), LANE).map_err(system("watch the lane"))?;
    // INV-T4: all sessions first, then the table, and no frame before that.
    let mut early = Vec::new();
    let mut clients = Clients::new();
    loop {
        match supervised.hear()? {
            Some(News::Complete) => break,
            Some(News::Stop) => return Ok(()),
            Some(News::Session { session, geometry, arena, wakes_client, kicks }) => {
                clients.keep(session, geometry, &arena, wakes_client, kicks, poll.registry());
            }
            Some(news) => early.push(news),
            None => sleep(&mut poll, &mut events, None)?,
        }
    }
    // What all shards share is made by the first, at the group's first start: looked for again and again,
    // because nobody could say yet that it is there.
    let made = || {
        Secrets::are_there(&start.memory(Tag::Secrets))
            && Configuration::is_there(&start.memory(Tag::Config), &start.group)
    };
    while start.seat.index > 0 && !made() {
        sleep(&mut poll, &mut events, Some(now() + FIRST_SHARD_PAUSE))?;
        while let Some(news) = supervised.hear()? {
            match news {
                News::Stop => return Ok(()),
                News::Session { session, geometry, arena, wakes_client, kicks } => {
                    clients.keep(session, geometry, &arena, wakes_client, kicks, poll.registry());
                }
                news => early.push(news),
            }
        }
    }
    let mut engine = Engine::attach(&start, supervised, poll, clients, real_time)?;
    for news in early {
        engine.on_news(news)?;
    }
    engine.round();
    engine.supervised.ready()?;
    engine.recorder.record(now(), Kind::READY, [0; 3], "");
    // What was said behind the word that completed the start came with the edge that this was heard by.
    engine.hear()?;
    engine.serve(&mut events)
}

/// Waits for a descriptor or for `until`. A deadline that is due only looks.
fn sleep(poll: &mut Poll, events: &mut Events, until: Option<Instant>) -> Result<(), EngineError> {
    let timeout = until.map(|at| match at.since(now()) {
        Duration::ZERO => Duration::ZERO,
        // epoll counts milliseconds: rounded up, or it would wake before anything is due.
        left => Duration::from_millis(left.as_nanos().div_ceil(1_000_000) as u64),
    });
    match poll.poll(events, timeout) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
        outcome => outcome.map_err(system("epoll_wait")),
    }
}

impl Engine {
    fn attach(
        start: &Start,
        supervised: Supervised,
        poll: Poll,
        mut clients: Clients,
        real_time: bool,
    ) -> Result<Engine, EngineError> {
        let (seat, group) = (start.seat, &start.group);
        let stats_region = start.memory(Tag::Stats(seat));
        let names = Counters::default().each().map(|(name, _)| name).collect::<Vec<_>>();
        let stats = Table::attach(stats_region.clone(), seat, names.into_iter());
        let mut recorder = Recorder::attach(stats_region.clone(), seat);
        recorder.record(now(), Kind::ATTACHED, [start.generation.0.into(), std::process::id().into(), 0], "");
        let config = Configuration::attach(start.memory(Tag::Config), group, seat.index == 0)?;
        let neighbours = Board::attach(stats_region.clone(), seat);
        let crumbs = Crumbs::attach(stats_region, seat, start.predecessor, &mut recorder);
        let nics: Vec<NicLink> = (0..group.nics.len() as u16)
            .map(|index| {
                let pool =
                    FramePool::new(start.memory(Tag::Slab { nic: index, shard: seat.index }), group.slab);
                NicLink::new(index, Rc::new(pool))
            })
            .collect();
        let loopback = create_sealed("axolotl-loopback", LOOPBACK_SLAB.bytes())
            .and_then(|fd| Region::map(&fd, LOOPBACK_SLAB.bytes()))
            .map_err(system("memory for loopback"))?;
        let mut entropy = [0; ENTROPY_SIZE];
        rustix::rand::getrandom(&mut entropy, rustix::rand::GetRandomFlags::empty())
            .map_err(|errno| system("getrandom")(errno.into()))?;
        let setup = Setup {
            shard: seat.index,
            shards: group.shards,
            interfaces: config.interfaces(),
            frames: nics.iter().map(|nic| nic.pool.clone()).collect(),
            loopback: Rc::new(FramePool::new(Arc::new(loopback), LOOPBACK_SLAB)),
            conns: start.memory(Tag::Conns(seat.index)),
            conns_capacity: group.conns,
            secrets: start.memory(Tag::Secrets),
            watch: Some(Box::new(crumbs)),
            bait: crumbs::bait(group),
            entropy,
        };
        let mut stack = Stack::attach(now(), setup, clients.take_arrived())?;
        config.apply(now(), &mut stack);
        neighbours.shown().for_each(|shown| stack.restore_neighbour(now(), shown));
        let sockd = SockdLink::new((seat, start.generation));
        let us = (seat, start.generation);
        let tap = Tap::attach(start.memory(Tag::Capture(seat.index)));
        Ok(Engine {
            us,
            supervised,
            stack,
            nics,
            sockd,
            clients,
            config,
            stats,
            neighbours,
            recorder,
            tap,
            poll,
            real_time,
            room: Vec::new(),
            gro: Gro::default(),
            looped: VecDeque::new(),
            stopping: false,
        })
    }

    fn serve(&mut self, events: &mut Events) -> Result<(), EngineError> {
        let (mut rounds, mut idle_since) = (0, None);
        while !self.stopping {
            let worked = self.round();
            self.report_broken()?;
            rounds += 1;
            if worked {
                idle_since = None;
                if rounds < ROUNDS_PER_POLL {
                    continue;
                }
            } else if self.real_time && now().since(*idle_since.get_or_insert_with(now)) < SPIN {
                rustix::thread::sched_yield();
                continue;
            }
            (rounds, idle_since) = (0, None);
            self.mirror();
            let worked = worked | self.stack.maintain();
            let until = match worked || !self.arm() {
                true => Some(Instant::ZERO),
                false => self.next_deadline(),
            };
            sleep(&mut self.poll, events, until)?;
            for nic in &mut self.nics {
                nic.disarm();
            }
            self.sockd.disarm();
            self.after_sleep(events)?;
        }
        self.recorder.record(now(), Kind::STOP, [0; 3], "");
        self.mirror();
        Ok(())
    }

    /// What people are shown.
    fn mirror(&mut self) {
        self.stats.mirror(self.stack.counters.each().map(|(_, count)| count));
        let time = now();
        if self.stack.neighbours_changed(time) {
            self.neighbours.show(self.stack.neighbours(time));
        }
    }

    /// One batch. Returns whether anything was done.
    fn round(&mut self) -> bool {
        let time = now();
        let mut worked = false;
        // NET_TX, lowest queue first.
        for nic in &mut self.nics {
            worked |= nic.complete();
        }
        self.hand_down();
        // NET_RX, topmost queue first.
        worked |= self.take_commands(time) > 0;
        worked |= self.stack.poll_kicks(time, BUDGET) > 0;
        worked |= self.take_looped(time) > 0;
        worked |= self.take_frames(time) > 0;
        if self.stack.next_deadline().is_some_and(|due| due <= time) {
            self.stack.on_timers(time);
            worked = true;
        }
        self.room.clear();
        self.room.extend(self.nics.iter_mut().map(|nic| nic.room().min(BUDGET)));
        self.room.push(LOOPED_MAX.saturating_sub(self.looped.len()));
        if self.stack.wants_transmit(&self.room) {
            worked |= self.stack.poll_transmit(time, &mut self.room);
        }
        for session in self.clients.faulted() {
            self.stack.session_corrupt(time, session, PeerCorrupt::new("a page of its memory is gone"));
        }
        self.take_news();
        self.stack.settle(time, ORDER);
        self.hand_down();
        self.answer();
        while let Some(session) = self.stack.next_wake() {
            self.clients.wake(session);
        }
        while let Some((session, rule)) = self.stack.next_broken_rule() {
            self.recorder.record(time, Kind::CORRUPT, [session.0.into(), 0, 0], rule.rule);
        }
        worked
    }

    /// What the links changed by themselves is kept before anything leaves that follows from it, and the
    /// devices learn which groups are listened to.
    fn take_news(&mut self) {
        while let Some(news) = self.stack.next_news() {
            self.config.note(&news);
            if let LinkNews::Groups { nic } = news {
                self.tell_groups(usize::from(nic));
            }
        }
    }

    fn tell_groups(&mut self, index: usize) {
        let groups = self.stack.groups(index as u16);
        if let (Some(nic), Some(groups)) = (self.nics.get_mut(index), groups) {
            nic.listen_to(&groups);
        }
    }

    fn take_frames(&mut self, time: Instant) -> usize {
        let mut taken = 0;
        let tapped = self.tap.is_open(time);
        for nic in &mut self.nics {
            let mut left = BUDGET;
            while left > 0 {
                let Some(frame) = nic.next_frame() else { break };
                if tapped {
                    self.tap.show(time, Way::In, nic.index, &frame);
                }
                self.gro.push(frame);
                while let Some(frame) = self.gro.pop() {
                    self.stack.on_frame(time, nic.index, frame);
                }
                left -= 1;
            }
            // What is joined of this batch is committed with it.
            self.gro.flush();
            while let Some(frame) = self.gro.pop() {
                self.stack.on_frame(time, nic.index, frame);
            }
            if left == 0 {
                self.stack.counters.count(Counter::TimeSqueeze);
            }
            taken += BUDGET - left;
            nic.refill();
        }
        self.stack.counters.add(Counter::Processed, taken as u64);
        taken
    }

    /// What this host sent to itself in an earlier round.
    fn take_looped(&mut self, time: Instant) -> usize {
        let waiting = self.looped.len();
        let tapped = waiting > 0 && self.tap.is_open(time);
        for frame in self.looped.drain(..) {
            // Shown once, where it comes in.
            if tapped {
                self.tap.show(time, Way::In, LOOPBACK, &frame);
            }
            self.stack.on_frame(time, LOOPBACK, frame);
        }
        waiting
    }

    fn take_commands(&mut self, time: Instant) -> usize {
        let mut taken = 0;
        while taken < BUDGET {
            let Some(command) = self.sockd.next_command() else { break };
            // The vault named the session on the lane before sockd could ask for it.
            if !self.stack.has_session(command.session()) && self.hear().is_err() {
                self.stopping = true;
                break;
            }
            self.stack.on_command(time, &command);
            taken += 1;
        }
        taken
    }

    /// Peers that broke a rule of their rings are accused; the supervisors replace them, and
    /// introduce their successors over new rings (INV-R4).
    fn report_broken(&mut self) -> Result<(), EngineError> {
        let nics = self.nics.iter_mut().map(NicLink::take_broken);
        for (peer, generation, corrupt) in nics.chain([self.sockd.take_broken()]).flatten() {
            let who = [peer.role as u64, peer.index.into(), generation.0.into()];
            self.recorder.record(now(), Kind::CORRUPT, who, corrupt.rule);
            tracing::error!("{peer}[{generation}] broke a rule: {corrupt}");
            self.supervised.corrupt(peer, generation)?;
        }
        Ok(())
    }

    /// Released frames go to their devices; what a full ring does not take waits here.
    fn hand_down(&mut self) {
        let time = now();
        let tapped = self.tap.is_open(time);
        while let Some((index, frame)) = self.stack.next_frame() {
            if index == LOOPBACK {
                self.looped.push_back(frame);
                continue;
            }
            if tapped {
                self.tap.show(time, Way::Out, index, &frame);
            }
            let held = self.nics.get_mut(usize::from(index)).is_some_and(|nic| nic.hold(frame));
            if !held {
                self.stack.counters.drop(DropReason::QdiscDrop);
            }
        }
        for nic in &mut self.nics {
            nic.transmit();
        }
    }

    fn answer(&mut self) {
        while let Some(answer) = self.stack.next_answer() {
            if let proto::control::operations::Answer::SessionGone { session } = answer {
                self.clients.forget(session, self.poll.registry());
            }
            self.sockd.hold(answer);
        }
        self.sockd.answer();
    }

    /// Asks everybody for wake-ups. `false` when something came meanwhile.
    fn arm(&mut self) -> bool {
        let mut idle = self.stack.arm(now()) && self.looped.is_empty();
        for nic in &mut self.nics {
            idle &= nic.arm(self.stack.is_stopped(nic.index));
        }
        idle & self.sockd.arm()
    }

    fn next_deadline(&self) -> Option<Instant> {
        let peers = self.nics.iter().map(NicLink::deadline).chain([self.sockd.deadline()]);
        peers.chain([self.stack.next_deadline()]).flatten().min()
    }

    fn after_sleep(&mut self, events: &Events) -> Result<(), EngineError> {
        for event in events {
            match event.token() {
                // Heard to the end, so that the next word is an edge again.
                LANE => self.hear()?,
                SOCKD_NOTICES => self.on_config_requests(),
                Token(n) if n >= SESSION => self.clients.drain(n - SESSION),
                Token(n) if n >= NIC_NOTICES => self.on_link_notices(n - NIC_NOTICES),
                _ => {}
            }
        }
        let time = now();
        for nic in &mut self.nics {
            if let Some((peer, generation)) = nic.stuck(time) {
                self.recorder.record(
                    time,
                    Kind::STUCK,
                    [peer.index.into(), generation.0.into(), 500],
                    peer.role.name(),
                );
                self.supervised.stuck(peer, generation)?;
            }
        }
        if let Some((peer, generation)) = self.sockd.stuck(time) {
            self.recorder.record(
                time,
                Kind::STUCK,
                [peer.index.into(), generation.0.into(), 500],
                peer.role.name(),
            );
            self.supervised.stuck(peer, generation)?;
        }
        Ok(())
    }

    fn hear(&mut self) -> Result<(), EngineError> {
        while let Some(news) = self.supervised.hear()? {
            self.on_news(news)?;
        }
        Ok(())
    }

    fn on_news(&mut self, news: News) -> Result<(), EngineError> {
        match news {
            News::Session { session, geometry, arena, wakes_client, kicks } => {
                self.clients.keep(session, geometry, &arena, wakes_client, kicks, self.poll.registry());
                for (id, geometry, memory) in self.clients.take_arrived() {
                    if let Err(rule) = self.stack.add_session(id, geometry, memory) {
                        self.recorder.record(now(), Kind::CORRUPT, [id.0.into(), 0, 0], rule.rule);
                    }
                }
            }
            News::Introduce { peer, generation, memory, wakes_us, wakes_peer } => {
                self.recorder.record(
                    now(),
                    Kind::INTRODUCED,
                    [peer.index.into(), generation.0.into(), 0],
                    peer.role.name(),
                );
                self.introduce(peer, generation, nic::Ends { memory, wakes_us, wakes_peer })?;
                if peer.role == Role::Nicd {
                    // What its predecessor had in its hands is lost.
                    self.stack.device_replaced(now(), peer.index);
                }
            }
            News::PeerGone { peer, generation } => {
                self.recorder.record(
                    now(),
                    Kind::PEER_GONE,
                    [peer.index.into(), generation.0.into(), 0],
                    peer.role.name(),
                );
                match peer.role {
                    Role::Nicd => {
                        // What it had handed up is whole, and nobody writes it any more.
                        while self.take_frames(now()) == BUDGET {}
                        if let Some(nic) = self.nics.get_mut(usize::from(peer.index)) {
                            nic.peer_gone(generation, self.poll.registry());
                        }
                    }
                    _ => self.sockd.peer_gone(generation, self.poll.registry()),
                }
                self.supervised.released(peer, generation)?;
            }
            News::Rendezvous { peer, generation, name } => match peer.role {
                Role::Nicd => {
                    let index = usize::from(peer.index);
                    if let Some(nic) = self.nics.get_mut(index) {
                        nic.rendezvous(generation, name);
                    }
                    self.tell_groups(index);
                }
                _ => self.sockd.rendezvous(generation, name),
            },
            News::Stop => self.stopping = true,
            News::Complete
            | News::Done { .. }
            | News::Refused { .. }
            | News::Restarted { .. }
            | News::Listeners { .. }
            | News::Device { .. }
            | News::SessionSocket { .. } => {}
        }
        Ok(())
    }

    fn introduce(&mut self, peer: Seat, generation: Generation, ends: nic::Ends) -> Result<(), EngineError> {
        let registry = self.poll.registry();
        let offered = match peer.role {
            Role::Nicd => match self.nics.get_mut(usize::from(peer.index)) {
                Some(nic) => nic.introduce(self.us, generation, ends, registry),
                None => return Ok(()),
            },
            Role::Sockd => self.sockd.introduce(generation, ends, registry),
            _ => return Ok(()),
        };
        if let Some(name) = offered.map_err(system("attach to a peer"))? {
            self.supervised.offer(peer, name)?;
        }
        Ok(())
    }

    fn on_link_notices(&mut self, index: usize) {
        let Some(nic) = self.nics.get_mut(index) else { return };
        while let Some(notice) = nic.next_notice() {
            self.recorder.record(now(), Kind::LINK, [u64::from(notice.up), index as u64, 0], "");
            self.stack.set_features(index as u16, notice.features);
            self.stack.set_carrier(index as u16, notice.up);
        }
    }

    fn on_config_requests(&mut self) {
        while let Some(request) = self.sockd.next_request() {
            if request.change == Change::CaptureOpen {
                self.tap.open(now());
            }
            let result = match request.change {
                Change::Refresh => {
                    self.config.refresh(now(), &mut self.stack);
                    Ok(())
                }
                // Every shard copies its own frames.
                Change::CaptureOpen => Ok(()),
                ref change => self.config.change(now(), change, &mut self.stack),
            };
            self.sockd.reply(request.id, result);
        }
    }
}
