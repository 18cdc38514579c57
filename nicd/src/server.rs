//! The process around the datapath: the lane to the supervisors, wake-ups, notices, the clock.
//!
//! One thread and one mio loop: work until there is none, arm, look again, sleep. Nothing ticks. With a
//! real-time priority it looks again for a moment before it arms, giving way with every turn.
//! Before it says ready, a TAP or a guard that it had to make is in the vaults. When a netd is gone its rings and
//! pages are dropped at once and that is said; its frames wait until the next one.

use crate::backend::namespace;
use crate::backend::packet::Packet;
use crate::backend::share::Share;
use crate::backend::tap::{self, Tap};
use crate::backend::wire::Wire;
use crate::backend::xdp::Xdp;
use crate::counts::Count;
use crate::datapath::{Broken, Datapath, TurnError};
use crate::driver::Wishes;
use crate::driver::e1000e::{self, E1000e};
use crate::driver::igb::{self, Igb};
use crate::driver::intel::IntelNic;
use crate::driver::virtio::regs::Layout;
use crate::driver::virtio::{self, Virtio};
use crate::nic::{Nic, Slab};
use crate::vfio::device::{OpenError, Opened};
use crate::vfio::place::Place;
use core::time::Duration;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use proto::Instant;
use proto::control::clock;
use proto::control::messages::{Backend, NicConfig, Region as Tag};
use proto::control::notices::{FilterNotice, LinkNotice};
use proto::control::rendezvous::NoticeLane;
use proto::daemon::turn::{self, SPIN};
use proto::daemon::{EXIT_MISSING, EXIT_REFUSED, Gone, News, Start, Supervised};
use proto::id::{Generation, Role, Seat};
use proto::nic::rings::REGION_SIZE;
use proto::recorder::{Kind, Recorder};
use proto::shm::region::Region;
use proto::stats::Named;
use proto::stats::table::Table;
use rustix::event::{PollFd, PollFlags};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::Arc;
use thiserror::Error;

const LANE: Token = Token(0);
const DEVICE: Token = Token(1);
const RECALLED: Token = Token(2);
/// Of each shard, from here on.
const RINGS: usize = 0x100;
/// As [`RINGS`].
const NOTICES: usize = 0x200;

/// Why nicd ends.
#[derive(Debug, Error)]
pub enum ServerError {
    /// No supervisor is left.
    #[error(transparent)]
    Gone(#[from] Gone),
    /// The kernel's device can't be had.
    #[error(transparent)]
    Open(#[from] namespace::OpenError),
    /// There can be no wire at that path.
    #[error("cannot lay a wire at {path}: {source}")]
    Wire {
        /// The path.
        path: String,
        /// What the kernel says.
        source: io::Error,
    },
    /// The chip can't be had.
    #[error(transparent)]
    Vfio(#[from] OpenError),
    /// The machine wants the chip back, as before it is unplugged.
    #[error("the machine wants the device back")]
    Recalled,
    /// The configuration has no interface of our number.
    #[error("the configuration has no interface {0}")]
    NoInterface(u16),
    /// The device is lost.
    #[error("the device is lost: {0}")]
    Device(io::Error),
    /// The event loop failed.
    #[error("event loop: {0}")]
    Io(#[from] io::Error),
}

impl ServerError {
    /// The exit code that tells the supervisor what to do.
    pub fn exit_code(&self) -> u8 {
        match self {
            ServerError::Open(_) | ServerError::Vfio(_) => EXIT_MISSING,
            ServerError::Wire { .. } | ServerError::NoInterface(_) => EXIT_REFUSED,
            ServerError::Gone(_) | ServerError::Device(_) | ServerError::Recalled | ServerError::Io(_) => 1,
        }
    }
}

/// Runs until the supervisor says stop.
///
/// # Errors
/// [`ServerError`].
pub fn run(start: Start, mut supervised: Supervised) -> Result<(), ServerError> {
    let index = start.seat.index;
    let config = start.group.nics.get(usize::from(index)).ok_or(ServerError::NoInterface(index))?.clone();
    let (vaulted, early) = hear_out(&mut supervised)?;
    match &config.backend {
        Backend::Tap { name, netns, kernel_addrs } => {
            // With no offloads the kernel gives us whole frames with checksums.
            let features = if config.offload { tap::FEATURES } else { 0 };
            let (device, kept) = match vaulted {
                Some(device) => {
                    tap::configure(device.as_fd(), features)?;
                    (device, None)
                }
                None => {
                    let device = tap::open(name, netns.as_deref(), config.mtu, kernel_addrs, features)?;
                    let request = supervised.keep_device(device.as_fd())?;
                    (device, Some(request))
                }
            };
            let nic = Tap::new(device, config.mtu, features);
            Server::new(start, supervised, &config, nic, kept)?.serve(early)
        }
        Backend::Packet { name, netns } => {
            let (share, kept) = guarded(&config, (name, netns.as_deref()), vaulted, &mut supervised)?;
            let station = (config.mac, share.as_ref());
            let nic = Packet::open(name, netns.as_deref(), station, config.mtu, config.offload)?;
            Server::new(start, supervised, &config, nic, kept)?.serve(early)
        }
        Backend::Xdp { name, netns } => {
            let (share, kept) = guarded(&config, (name, netns.as_deref()), vaulted, &mut supervised)?;
            let station = (config.mac, share.as_ref());
            match Xdp::open(name, netns.as_deref(), station, config.mtu) {
                Ok(nic) => Server::new(start, supervised, &config, nic, kept)?.serve(early),
                Err(reason) => {
                    let nic = Packet::open(name, netns.as_deref(), station, config.mtu, config.offload)?;
                    tracing::warn!("no AF_XDP on {name}, AF_PACKET instead: {reason}");
                    Server::new(start, supervised, &config, nic, kept)?.serve(early)
                }
            }
        }
        Backend::Vfio { bdf } => {
            let opened = Opened::open(&Place::new(bdf))?;
            let slabs = slabs(&start);
            let NicConfig { mac, mtu, offload, .. } = config;
            let wishes = Wishes { mac, mtu, offload, shards: start.group.shards };
            match opened.id()? {
                id if e1000e::IDS.contains(&id) => {
                    let hw = opened.set_up(0, 1, &slabs)?;
                    let nic = IntelNic::new(hw, E1000e, &wishes);
                    Server::new(start, supervised, &config, nic.map_err(ServerError::Device)?, None)?
                        .serve(early)
                }
                id if igb::IDS.contains(&id) => {
                    let hw = opened.set_up(0, 1, &slabs)?;
                    let nic = IntelNic::new(hw, Igb, &wishes);
                    Server::new(start, supervised, &config, nic.map_err(ServerError::Device)?, None)?
                        .serve(early)
                }
                id if virtio::IDS.contains(&id) => {
                    let read8 = |at: usize| opened.config().read8(at as u64).unwrap_or(u8::MAX);
                    let Some(layout) = Layout::find(read8) else {
                        let words = "it has no modern registers in one BAR";
                        return Err(ServerError::Device(io::Error::new(io::ErrorKind::Unsupported, words)));
                    };
                    let hw = opened.set_up(layout.bar.into(), 1, &slabs)?;
                    let nic = Virtio::new(hw, layout, &wishes);
                    Server::new(start, supervised, &config, nic.map_err(ServerError::Device)?, None)?
                        .serve(early)
                }
                (vendor, device) => Err(OpenError::Unknown {
                    bdf: bdf.clone(),
                    vendor,
                    device,
                    known: "82574L (8086:10d3), 82576 (8086:10c9) and virtio-net (1af4:1041)",
                }
                .into()),
            }
        }
        Backend::Wire { path, faults } => {
            let nic = Wire::new(Path::new(path), config.mtu, *faults, config.offload, clock::now())
                .map_err(|source| ServerError::Wire { path: path.clone(), source })?;
            Server::new(start, supervised, &config, nic, None)?.serve(early)
        }
    }
}

/// The frame slabs shared with each shard.
fn slabs(start: &Start) -> Vec<Slab<Arc<Region>>> {
    let slab = |shard| {
        let memory = start.memory(Tag::Slab { nic: start.seat.index, shard });
        Slab { shard, memory, geometry: start.group.slab }
    };
    (0..start.group.shards).map(slab).collect()
}

/// What the interface shares with the kernel, its guard in place and on its way into the vaults; the request to keep
/// it, when it is a new one.
fn guarded(
    config: &NicConfig,
    (name, netns): (&str, Option<&str>),
    vaulted: Option<OwnedFd>,
    supervised: &mut Supervised,
) -> Result<(Option<Share>, Option<u64>), ServerError> {
    let Some(share) = Share::of(config) else { return Ok((None, None)) };
    let made = share.guard(name, netns, vaulted.as_ref().map(AsFd::as_fd))?;
    let request = made.map(|guard| supervised.keep_device(guard.as_fd())).transpose()?;
    Ok((Some(share), request))
}

/// Everything the vault had for us: the device, if there is one, and what else was said.
fn hear_out(supervised: &mut Supervised) -> Result<(Option<OwnedFd>, VecDeque<News>), ServerError> {
    let (mut device, mut early) = (None, VecDeque::new());
    loop {
        match supervised.hear()? {
            Some(News::Complete) => return Ok((device, early)),
            Some(News::Device { device: vaulted }) => device = Some(vaulted),
            Some(other) => early.push_back(other),
            None => {
                let mut readable = [PollFd::new(supervised, PollFlags::IN)];
                match rustix::event::poll(&mut readable, None) {
                    Ok(_) | Err(rustix::io::Errno::INTR) => {}
                    Err(errno) => return Err(io::Error::from(errno).into()),
                }
            }
        }
    }
}

/// A netd that is served.
#[derive(Debug)]
struct Peer {
    seat: Seat,
    generation: Generation,
    wakes_us: OwnedFd,
    wakes_peer: OwnedFd,
    notices: Option<NoticeLane<LinkNotice, FilterNotice>>,
}

struct Server<N> {
    seat: Seat,
    generation: Generation,
    supervised: Supervised,
    poll: Poll,
    datapath: Datapath<Arc<Region>, N>,
    /// By shard.
    peers: Vec<Option<Peer>>,
    /// The request to keep the device, while it is not answered.
    kept: Option<u64>,
    link: LinkNotice,
    table: Table<Arc<Region>>,
    recorder: Recorder<Arc<Region>>,
    /// May spin before it sleeps.
    real_time: bool,
    /// Since when there has been nothing to do, while it spins.
    idle_since: Option<Instant>,
    stopping: bool,
}

fn watch(poll: &Poll, fd: &impl AsRawFd, token: Token, interest: Interest) -> io::Result<()> {
    poll.registry().register(&mut SourceFd(&fd.as_raw_fd()), token, interest)
}

fn unwatch(poll: &Poll, fd: &impl AsRawFd) {
    // A descriptor that is not watched any more is what we want.
    let _ = poll.registry().deregister(&mut SourceFd(&fd.as_raw_fd()));
}

/// A peer as two numbers of an event.
fn who(seat: Seat, generation: Generation) -> [u64; 3] {
    [seat.role as u64, seat.index.into(), generation.0.into()]
}

impl<N: Nic<Arc<Region>>> Server<N> {
    fn new(
        start: Start,
        supervised: Supervised,
        config: &NicConfig,
        nic: N,
        kept: Option<u64>,
    ) -> Result<Self, ServerError> {
        let poll = Poll::new()?;
        let both = Interest::READABLE | Interest::WRITABLE;
        watch(&poll, &supervised, LANE, both)?;
        watch(&poll, &nic.descriptor(), DEVICE, both)?;
        let slabs = slabs(&start);
        if let Some(recalled) = nic.recalled() {
            watch(&poll, &recalled, RECALLED, Interest::READABLE)?;
        }
        let stats = start.memory(Tag::Stats(start.seat));
        let names = Count::ALL.iter().map(|count| count.name());
        let able = nic.capabilities();
        let mut server = Server {
            seat: start.seat,
            generation: start.generation,
            supervised,
            poll,
            datapath: Datapath::new(nic, slabs, config.mac, config.mtu),
            peers: (0..start.group.shards).map(|_| None).collect(),
            kept,
            link: LinkNotice {
                up: able.carrier,
                mac: config.mac,
                mtu: config.mtu,
                driver: able.driver.to_owned(),
                features: able.features,
            },
            table: Table::attach(stats.clone(), start.seat, names),
            recorder: Recorder::attach(stats, start.seat),
            real_time: turn::take(start.seat.index),
            idle_since: None,
            stopping: false,
        };
        let args = [start.generation.0.into(), std::process::id().into(), 0];
        server.record(Kind::ATTACHED, args, able.driver);
        Ok(server)
    }

    fn record(&mut self, kind: Kind, args: [u64; 3], text: &str) {
        self.recorder.record(clock::now(), kind, args, text);
    }

    fn serve(mut self, early: VecDeque<News>) -> Result<(), ServerError> {
        for news in early {
            self.take(news)?;
        }
        if self.kept.is_none() {
            self.ready()?;
        }
        self.hear()?;
        let mut events = Events::with_capacity(16);
        while !self.stopping {
            let timeout = self.work()?;
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                outcome => outcome?,
            }
            let mut device = self.datapath.deadline().is_some_and(|due| due <= clock::now());
            for event in &events {
                match event.token() {
                    LANE => self.hear()?,
                    DEVICE => device = true,
                    RECALLED => return Err(ServerError::Recalled),
                    Token(n) if n >= NOTICES => self.hear_notices(n - NOTICES),
                    // A wake-up: the next turn looks. The eventfd is never read; edges suffice.
                    _ => {}
                }
            }
            if device {
                self.datapath.device_ready(clock::now()).map_err(ServerError::Device)?;
                self.watch_carrier();
            }
        }
        self.record(Kind::STOP, [0; 3], "");
        (0..self.datapath.shards())
            .try_for_each(|shard| self.datapath.detach(shard))
            .map_err(ServerError::Device)
    }

    /// Moves frames once; how long to wait for an event then.
    fn work(&mut self) -> Result<Option<Duration>, ServerError> {
        let now = clock::now();
        let (again, moved) = match self.datapath.turn(now) {
            Ok(turn) => {
                for shard in (0..self.peers.len()).filter(|shard| turn.wake >> shard & 1 == 1) {
                    self.wake_peer(shard);
                }
                (turn.again, turn.moved)
            }
            Err(TurnError::Device(error)) => return Err(ServerError::Device(error)),
            Err(TurnError::Peer(broken)) => {
                self.corrupt(broken)?;
                // What was moved for the others is not published yet.
                (true, false)
            }
        };
        if again || moved {
            self.idle_since = None;
            self.table.mirror(self.datapath.counts.each().map(|(_, count)| count));
        }
        if again {
            return Ok(Some(Duration::ZERO));
        }
        if self.real_time && now.since(*self.idle_since.get_or_insert(now)) < SPIN {
            rustix::thread::sched_yield();
            return Ok(Some(Duration::ZERO));
        }
        self.idle_since = None;
        self.table.mirror(self.datapath.counts.each().map(|(_, count)| count));
        let stuck = match self.rest(now) {
            Ok(None) => return Ok(Some(Duration::ZERO)),
            Ok(Some(shards)) => self.report_stuck(shards, now)?,
            Err(broken) => {
                self.corrupt(broken)?;
                return Ok(Some(Duration::ZERO));
            }
        };
        let deadline = stuck.into_iter().chain(self.datapath.deadline()).min();
        Ok(deadline.map(|deadline| deadline.since(now)))
    }

    /// `None` when there is work after all; else until when the netds may stand still, at the first the
    /// shard and the deadline of each that has something to take.
    fn rest(&mut self, now: Instant) -> Result<Option<Option<(u16, Instant)>>, Broken> {
        if !self.datapath.may_sleep()? {
            return Ok(None);
        }
        let mut first: Option<(u16, Instant)> = None;
        for shard in 0..self.datapath.shards() {
            if let Some(due) = self.datapath.stuck_deadline(shard, now)?
                && first.is_none_or(|(_, earlier)| due < earlier)
            {
                first = Some((shard, due));
            }
        }
        Ok(Some(first))
    }

    /// Says so when a netd stood still for too long; the next deadline.
    fn report_stuck(
        &mut self,
        first: Option<(u16, Instant)>,
        now: Instant,
    ) -> Result<Option<Instant>, ServerError> {
        let Some((shard, deadline)) = first else { return Ok(None) };
        let Some(peer) = &self.peers[usize::from(shard)] else { return Ok(Some(deadline)) };
        if now < deadline {
            return Ok(Some(deadline));
        }
        let (seat, generation) = (peer.seat, peer.generation);
        self.supervised.stuck(seat, generation)?;
        self.record(Kind::STUCK, who(seat, generation), "");
        self.datapath.stuck_reported(shard, now);
        // There may be another one.
        Ok(Some(now))
    }

    /// A netd broke a rule: its rings end here, and its successor gets new ones.
    fn corrupt(&mut self, Broken { shard, rule }: Broken) -> Result<(), ServerError> {
        self.datapath.detach(shard).map_err(ServerError::Device)?;
        self.datapath.counts.count(Count::PeerCorrupt);
        if let Some(peer) = self.peers[usize::from(shard)].take() {
            tracing::error!("{}[{}] broke a rule: {}", peer.seat, peer.generation, rule.rule);
            self.record(Kind::CORRUPT, who(peer.seat, peer.generation), rule.rule);
            self.supervised.corrupt(peer.seat, peer.generation)?;
            self.forget(peer);
        }
        Ok(())
    }

    fn wake_peer(&self, shard: usize) {
        if let Some(peer) = &self.peers[shard] {
            // A full counter is a wake-up too.
            let _ = rustix::io::write(&peer.wakes_peer, &1u64.to_ne_bytes());
        }
    }

    fn ready(&mut self) -> Result<(), ServerError> {
        self.supervised.ready()?;
        self.record(Kind::READY, [0; 3], "");
        Ok(())
    }

    fn hear(&mut self) -> Result<(), ServerError> {
        while let Some(news) = self.supervised.hear()? {
            self.take(news)?;
        }
        Ok(())
    }

    fn take(&mut self, news: News) -> Result<(), ServerError> {
        match news {
            News::Introduce { peer, generation, memory, wakes_us, wakes_peer } => {
                self.introduce(peer, generation, &memory, wakes_us, wakes_peer)?;
            }
            News::PeerGone { peer, generation } => {
                let known = self.peers.get_mut(usize::from(peer.index));
                if let Some(gone) = known.and_then(|known| {
                    known.take_if(|known| known.seat == peer && known.generation <= generation)
                }) {
                    self.datapath.detach(peer.index).map_err(ServerError::Device)?;
                    self.forget(gone);
                }
                self.record(Kind::PEER_GONE, who(peer, generation), "");
                self.supervised.released(peer, generation)?;
            }
            News::Rendezvous { peer, generation, name } => {
                if let Some(Some(known)) = self.peers.get_mut(usize::from(peer.index))
                    && (known.seat, known.generation) == (peer, generation)
                    && let Some(lane) = &mut known.notices
                {
                    lane.connect(name)?;
                }
            }
            News::Done { request } if self.kept == Some(request) => {
                self.kept = None;
                self.ready()?;
            }
            News::Stop => self.stopping = true,
            // Meant for other roles, or no longer waited for.
            _ => {}
        }
        Ok(())
    }

    fn introduce(
        &mut self,
        seat: Seat,
        generation: Generation,
        memory: &OwnedFd,
        wakes_us: OwnedFd,
        wakes_peer: OwnedFd,
    ) -> Result<(), ServerError> {
        let shard = usize::from(seat.index);
        if seat.role != Role::Netd || shard >= self.peers.len() {
            return Ok(());
        }
        if let Some(former) = self.peers[shard].take() {
            self.datapath.detach(seat.index).map_err(ServerError::Device)?;
            self.forget(former);
        }
        let rings = Arc::new(Region::map(memory, REGION_SIZE)?);
        self.datapath.attach(seat.index, rings).map_err(ServerError::Device)?;
        watch(&self.poll, &wakes_us, Token(RINGS + shard), Interest::READABLE)?;
        let lane = NoticeLane::offer((self.seat, self.generation), (seat, generation));
        let notices = lane.inspect_err(|error| tracing::warn!("no notices to {seat}: {error}")).ok();
        if let Some(lane) = &notices {
            watch(&self.poll, lane, Token(NOTICES + shard), Interest::READABLE)?;
            self.supervised.offer(seat, lane.name().to_owned())?;
            // The lane is new: there is room.
            let _ = lane.send(self.link.clone());
        }
        self.peers[shard] = Some(Peer { seat, generation, wakes_us, wakes_peer, notices });
        self.record(Kind::INTRODUCED, who(seat, generation), "");
        self.wake_peer(shard);
        Ok(())
    }

    fn forget(&self, peer: Peer) {
        unwatch(&self.poll, &peer.wakes_us);
        if let Some(lane) = &peer.notices {
            unwatch(&self.poll, lane);
        }
    }

    /// What the shards want is the same: the configuration is one. The newest word counts.
    fn hear_notices(&mut self, shard: usize) {
        let Some(Some(peer)) = self.peers.get_mut(shard) else { return };
        let Some(lane) = &peer.notices else { return };
        loop {
            match lane.receive() {
                Ok(Some(filter)) => self.datapath.set_filter(filter),
                Ok(None) => return,
                Err(_) => {
                    unwatch(&self.poll, lane);
                    peer.notices = None;
                    return;
                }
            }
        }
    }

    /// Tells netd when the carrier came or went.
    fn watch_carrier(&mut self) {
        let up = self.datapath.nic().capabilities().carrier;
        if up == self.link.up {
            return;
        }
        self.link.up = up;
        self.record(Kind::LINK, [up.into(), 0, 0], "");
        tracing::info!("link {}", if up { "up" } else { "down" });
        for lane in self.peers.iter().flatten().filter_map(|peer| peer.notices.as_ref()) {
            // A lane that is full belongs to a netd that is stuck; its successor gets a new one.
            let _ = lane.send(self.link.clone());
        }
    }
}
