//! A stack of one session in this process, without a wire: what is sent to one of its own
//! addresses arrives at the socket that has it. It follows the rules of the arena to the letter,
//! and a test can tell it to break them.

#![allow(dead_code, reason = "each test file uses a part of it")]

use bincode::Options;
use libnetclient::{Session, Size, TcpListener, TcpStream};
use proto::arena::line::{ClientLine, Notes, StackLine, level, want};
use proto::arena::place::{Direction, entry_of, pieces};
use proto::arena::record::{HEADER_SIZE, Header, Said, record_size};
use proto::arena::{Geometry, NOTE_SIZE, PAGE_SIZE};
use proto::control::client::{Ask, Granted, MESSAGE_MAX, Reply, Request};
use proto::control::lane::socket_pair;
use proto::id::{Epoch, SessionId, SlotIndex};
use proto::ring::spsc::{Consumer, Producer};
use proto::shm::Memory;
use proto::shm::region::{Region, create_sealed};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::{AsFd, OwnedFd};
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use rustix::pipe::PipeFlags;
use std::collections::BTreeMap;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Bytes that a receive stream holds before its sender must wait.
pub const WINDOW: u32 = 256 * 1024;

/// The host's only address; connections to another one are never answered.
pub const HOST: &str = "10.0.0.1";

/// A port of the host.
pub fn at(port: u16) -> SocketAddr {
    SocketAddr::new(HOST.parse().expect("an address"), port)
}

/// Two ends of a connection over a listener.
pub fn pair(session: &Session, listener: &TcpListener) -> (TcpStream, TcpStream) {
    let client = TcpStream::connect_in(session, listener.local_addr().expect("bound")).expect("connected");
    let (server, _) = listener.accept().expect("accepted");
    (client, server)
}

/// Something that the test wants of the stack.
pub enum Poke {
    /// Reset every connection.
    Reset,
    /// Say that more was acknowledged than was ever written, at every connection.
    Lie,
    /// Report at every UDP socket that the remote's port is closed.
    Unreachable,
    /// Keep doing nothing until told again.
    Hold(bool),
}

enum Job {
    Ask(Ask, Sender<Result<Granted, u32>>),
    Poke(Poke, Sender<()>),
    /// How many pages and places are in use.
    Count(Sender<(usize, usize)>),
}

/// Ends its session when dropped.
pub struct Fake {
    jobs: Sender<Job>,
    wake: Arc<OwnedFd>,
    sockd: Option<JoinHandle<()>>,
    stack: Option<JoinHandle<()>>,
    server: Arc<OwnedFd>,
}

fn options() -> impl Options {
    bincode::DefaultOptions::new().with_fixint_encoding().with_limit(MESSAGE_MAX)
}

/// A session with a fake stack of that size.
pub fn start_sized(size: Size) -> (Session, Fake) {
    let (client, server) = socket_pair().expect("a socket pair");
    rustix::io::ioctl_fionbio(&client, false).expect("blocking");
    rustix::io::ioctl_fionbio(&server, false).expect("blocking");
    let server = Arc::new(server);
    let (jobs, todo) = channel();
    let wake =
        Arc::new(rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).expect("an eventfd"));
    let geometry = Geometry {
        shards: 1,
        active: size.active,
        passive: size.passive,
        tx_pages: size.tx_pages,
        rx_pages: size.rx_pages,
    };
    let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).expect("a pipe");
    let arena = create_sealed("fake", geometry.bytes()).expect("memory");
    let ((client_wake, wakes_client), (kicks, client_kick)) = (pipe(), pipe());
    let memory = Arc::new(Region::map(&arena, geometry.bytes()).expect("mapped"));
    let stack = Stack::new(memory, geometry, wakes_client);
    let stack_wake = wake.clone();
    let stack = thread::spawn(move || stack.run(&todo, &kicks, &stack_wake));
    let sockd = Sockd {
        server: server.clone(),
        geometry,
        descriptors: [arena, client_wake, client_kick],
        jobs: jobs.clone(),
        wake: wake.clone(),
    };
    let sockd = thread::spawn(move || sockd.run());
    let session = Session::over(client, size).expect("a session");
    (session, Fake { jobs, wake, sockd: Some(sockd), stack: Some(stack), server })
}

/// A session with a fake stack.
pub fn start() -> (Session, Fake) {
    start_sized(Size { active: 64, passive: 64, tx_pages: 256, rx_pages: 256 })
}

impl Fake {
    fn job(&self, job: Job) {
        self.jobs.send(job).expect("the stack runs");
        rustix::io::write(&*self.wake, &1u64.to_ne_bytes()).expect("woken");
    }

    /// Does it now.
    pub fn poke(&self, poke: Poke) {
        let (done, wait) = channel();
        self.job(Job::Poke(poke, done));
        wait.recv().expect("the stack runs");
    }

    /// Receive pages and places that are in use.
    pub fn in_use(&self) -> (usize, usize) {
        let (done, wait) = channel();
        self.job(Job::Count(done));
        wait.recv().expect("the stack runs")
    }

    /// Waits until that many receive pages and places are in use.
    pub fn settles_at(&self, pages: usize, places: usize) {
        let begin = Instant::now();
        while self.in_use() != (pages, places) {
            assert!(begin.elapsed() < Duration::from_secs(10), "in use: {:?}", self.in_use());
            thread::yield_now();
        }
    }

    /// As when sockd ends the session.
    pub fn end_session(&self) {
        let _ = rustix::net::shutdown(&*self.server, rustix::net::Shutdown::Both);
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.end_session();
        let sockd = self.sockd.take().expect("once");
        sockd.join().expect("sockd did not panic");
        let (jobs, _) = channel();
        drop(std::mem::replace(&mut self.jobs, jobs));
        let _ = rustix::io::write(&*self.wake, &1u64.to_ne_bytes());
        self.stack.take().expect("once").join().expect("the stack did not panic");
    }
}

struct Sockd {
    server: Arc<OwnedFd>,
    geometry: Geometry,
    descriptors: [OwnedFd; 3],
    jobs: Sender<Job>,
    wake: Arc<OwnedFd>,
}

impl Sockd {
    fn run(self) {
        let mut bytes = [0; 1024];
        while let Ok((len, _)) = rustix::net::recv(&*self.server, &mut bytes[..], RecvFlags::empty()) {
            if len == 0 {
                return;
            }
            let request: Request = options().deserialize(&bytes[..len]).expect("a sound request");
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            let borrowed: Vec<_> = self.descriptors.iter().map(AsFd::as_fd).collect();
            let result = if let Ask::Open { .. } = request.ask {
                assert!(ancillary.push(SendAncillaryMessage::ScmRights(&borrowed)));
                Ok(Granted::Session { session: SessionId(1), geometry: self.geometry })
            } else {
                let (done, wait) = channel();
                self.jobs.send(Job::Ask(request.ask, done)).expect("the stack runs");
                rustix::io::write(&*self.wake, &1u64.to_ne_bytes()).expect("woken");
                wait.recv().expect("the stack answers")
            };
            let reply = options().serialize(&Reply { number: request.number, result }).expect("a reply");
            // Said twice, as after a death of sockd: the client takes one.
            for _ in 0..2 {
                let parts = [IoSlice::new(&reply)];
                if rustix::net::sendmsg(&*self.server, &parts, &mut ancillary, SendFlags::NOSIGNAL).is_err() {
                    return;
                }
                ancillary.clear();
            }
        }
    }
}

enum Kind {
    Connecting,
    Connection { peer: SlotIndex },
    Listener,
    Datagram { remote: SocketAddr },
}

struct Place {
    kind: Kind,
    local: SocketAddr,
    remote: SocketAddr,
    line: StackLine,
    client: ClientLine,
    /// Stream page number → page.
    pages: BTreeMap<u64, u32>,
    closed: bool,
    reset: bool,
}

struct Stack {
    memory: Arc<Region>,
    geometry: Geometry,
    wakes_client: OwnedFd,
    events: Producer<Arc<Region>, NOTE_SIZE>,
    kicks: Consumer<Arc<Region>, NOTE_SIZE>,
    places: BTreeMap<u32, Place>,
    free_pages: Vec<u32>,
    next_epoch: u32,
    next_port: u16,
    hold: bool,
}

const NOWHERE: &str = "0.0.0.0:0";

impl Stack {
    fn new(memory: Arc<Region>, geometry: Geometry, wakes_client: OwnedFd) -> Stack {
        Stack {
            events: Producer::new(memory.clone(), geometry.event_ring(0)),
            kicks: Consumer::new(memory.clone(), geometry.kick_ring(0)),
            places: BTreeMap::new(),
            free_pages: (0..geometry.rx_pages).collect(),
            next_epoch: 1,
            next_port: 40_000,
            memory,
            geometry,
            wakes_client,
            hold: false,
        }
    }

    fn run(mut self, todo: &Receiver<Job>, kicks: &OwnedFd, wake: &OwnedFd) {
        loop {
            loop {
                match todo.try_recv() {
                    Ok(job) => self.job(job),
                    Err(std::sync::mpsc::TryRecvError::Empty) => break,
                    Err(std::sync::mpsc::TryRecvError::Disconnected) => return,
                }
            }
            if !self.hold {
                self.take_kicks();
                while self.pump() {}
            }
            if self.events.publish() {
                let _ = rustix::io::write(&self.wakes_client, &[1]);
            }
            if !self.hold && !self.kicks.arm().expect("a sound ring") {
                continue;
            }
            let mut fds = [PollFd::new(kicks, PollFlags::IN), PollFd::new(wake, PollFlags::IN)];
            // No timeout in the protocol; a wake-up that got lost shows as a test that hangs.
            let long = Timespec::try_from(Duration::from_secs(30)).expect("a time");
            rustix::event::poll(&mut fds, Some(&long)).expect("polled");
            let _ = rustix::io::read(wake, &mut [0; 8]);
            let _ = rustix::io::read(kicks, &mut [0; 64]);
            self.kicks.disarm();
        }
    }

    fn job(&mut self, job: Job) {
        match job {
            Job::Ask(ask, done) => {
                let _ = done.send(self.ask(ask));
            }
            Job::Count(done) => {
                let used = self.geometry.rx_pages as usize - self.free_pages.len();
                let _ = done.send((used, self.places.len()));
            }
            Job::Poke(poke, done) => {
                let slots: Vec<u32> = self.places.keys().copied().collect();
                for slot in slots {
                    let place = self.places.get_mut(&slot).expect("listed");
                    match (&poke, &place.kind) {
                        (Poke::Reset, Kind::Connection { .. }) => self.fail(slot, 104),
                        (Poke::Lie, Kind::Connection { .. }) => {
                            place.line.acked = place.client.written + 1_000_000;
                            self.tell(slot);
                            self.hold = true;
                        }
                        (Poke::Unreachable, Kind::Datagram { .. }) => self.fail(slot, 111),
                        _ => {}
                    }
                }
                if let Poke::Hold(hold) = poke {
                    self.hold = hold;
                }
                let _ = done.send(());
            }
        }
    }

    fn ask(&mut self, ask: Ask) -> Result<Granted, u32> {
        let mut local_of = |asked: SocketAddr| {
            let mut local = asked;
            if local.ip().is_unspecified() {
                local.set_ip(HOST.parse().expect("an address"));
            }
            if local.port() == 0 {
                self.next_port += 1;
                local.set_port(self.next_port);
            }
            local
        };
        let none: SocketAddr = NOWHERE.parse().expect("an address");
        let (kind, local, remote) = match ask {
            Ask::Connect { local, remote, .. } => (Kind::Connecting, local_of(local), remote),
            Ask::Listen { local, .. } => {
                let same = |place: &Place| {
                    matches!(place.kind, Kind::Listener) && place.local.port() == local.port()
                };
                if self.places.values().any(same) {
                    return Err(98);
                }
                (Kind::Listener, local_of(local), none)
            }
            Ask::Datagram { local, .. } => (Kind::Datagram { remote: none }, local_of(local), none),
            Ask::DatagramConnect { slot, remote } => {
                let place = self.places.get_mut(&slot.0).ok_or(9u32)?;
                place.kind = Kind::Datagram { remote };
                let (epoch, local) = (place.line.epoch, place.local);
                return Ok(Granted::Socket { slot, epoch, shard: 0, local });
            }
            Ask::Open { .. } => return Err(106),
        };
        let slot = (0..self.geometry.active).find(|slot| !self.places.contains_key(slot)).ok_or(24u32)?;
        let epoch = self.settle(slot, kind, local, remote);
        if let Kind::Connecting = self.places[&slot].kind {
            self.connect(slot);
        } else {
            self.places.get_mut(&slot).expect("settled").line.flags |= level::OPEN;
            self.tell(slot);
        }
        Ok(Granted::Socket { slot: SlotIndex(slot), epoch, shard: 0, local })
    }

    fn settle(&mut self, slot: u32, kind: Kind, local: SocketAddr, remote: SocketAddr) -> Epoch {
        let epoch = Epoch(self.next_epoch);
        self.next_epoch += 1;
        let last = StackLine::load(&self.memory, &self.geometry, SlotIndex(slot));
        let line = StackLine {
            epoch,
            kick_ack: last.kick_ack,
            event_seq: last.event_seq,
            window: WINDOW,
            ..StackLine::default()
        };
        line.store(&self.memory, &self.geometry, SlotIndex(slot));
        let client = ClientLine::default();
        let place =
            Place { kind, local, remote, line, client, pages: BTreeMap::new(), closed: false, reset: false };
        self.places.insert(slot, place);
        epoch
    }

    /// Connects to a listener of the same host, to a closed port, or to silence.
    fn connect(&mut self, slot: u32) {
        let (local, remote) = (self.places[&slot].local, self.places[&slot].remote);
        if remote.ip() != HOST.parse::<IpAddr>().expect("an address") {
            return;
        }
        let listens = |(_, place): &(&u32, &Place)| {
            matches!(place.kind, Kind::Listener) && place.local.port() == remote.port() && !place.closed
        };
        let Some(listener) = self.places.iter().find(listens).map(|(slot, _)| *slot) else {
            return self.fail(slot, 111);
        };
        let geometry = self.geometry;
        let free = (geometry.active..geometry.sockets()).find(|slot| !self.places.contains_key(slot));
        let Some(passive) = free else { return self.fail(slot, 110) };
        let epoch = self.settle(passive, Kind::Connection { peer: SlotIndex(slot) }, remote, local);
        for (slot, peer) in [(slot, passive), (passive, slot)] {
            let place = self.places.get_mut(&slot).expect("settled");
            place.kind = Kind::Connection { peer: SlotIndex(peer) };
            place.line.flags |= level::OPEN;
            self.tell(slot);
        }
        let header = Header {
            len: 0,
            remote: local,
            local: remote,
            slot: SlotIndex(passive),
            epoch,
            said: Said::default(),
        };
        assert!(self.deliver(listener, &record(&header, &[])), "room in the accept queue");
    }

    fn fail(&mut self, slot: u32, errno: u32) {
        let place = self.places.get_mut(&slot).expect("there");
        place.line.flags |= level::ERROR;
        place.line.error = errno;
        place.reset = !matches!(place.kind, Kind::Datagram { .. });
        self.tell(slot);
    }

    /// Publishes a place's line and tells the client.
    fn tell(&mut self, slot: u32) {
        let place = self.places.get_mut(&slot).expect("there");
        place.line.store(&self.memory, &self.geometry, SlotIndex(slot));
        let seq = &mut place.line.event_seq;
        if Notes::Event.raise(&self.memory, &self.geometry, SlotIndex(slot), seq) {
            assert_eq!(self.events.push(&slot.to_ne_bytes()), Ok(true), "room for every socket");
        }
    }

    fn take_kicks(&mut self) {
        while let Some(note) = self.kicks.pop().expect("a sound ring") {
            self.kicks.release();
            let slot = u32::from_ne_bytes(note);
            let ack = Notes::Kick.take_up(&self.memory, &self.geometry, SlotIndex(slot));
            let Some(place) = self.places.get_mut(&slot) else { continue };
            place.line.kick_ack = ack;
            let client = ClientLine::load(&self.memory, &self.geometry, SlotIndex(slot));
            if client.epoch != place.line.epoch {
                continue;
            }
            assert!(client.written >= place.client.written, "written goes forward");
            assert!(client.written - place.line.acked <= u64::from(WINDOW), "within the window");
            assert!(
                (place.client.consumed..=place.line.received).contains(&client.consumed),
                "consumed goes forward, and not beyond what was received"
            );
            place.client = client;
            place.closed |= client.flags & want::CLOSE != 0;
            let keep = client.consumed / PAGE_SIZE as u64;
            let all = client.consumed == place.line.received;
            let gone: Vec<u64> = place.pages.keys().copied().filter(|page| all || *page < keep).collect();
            for page in gone {
                self.free_pages.extend(place.pages.remove(&page));
            }
        }
    }

    /// Puts bytes behind a receive stream; `false` when there is no room for all of them.
    fn deliver(&mut self, slot: u32, bytes: &[u8]) -> bool {
        let place = self.places.get_mut(&slot).expect("there");
        let at = place.line.received;
        if at + bytes.len() as u64 - place.client.consumed > u64::from(WINDOW) {
            return false;
        }
        let (mut offset, mut rest) = (at, bytes);
        let direction = Direction::Rx { shard: 0 };
        for piece in pieces(at, bytes.len()) {
            let number = offset / PAGE_SIZE as u64;
            let page = match place.pages.get(&number) {
                Some(page) => *page,
                None => {
                    let Some(page) = self.free_pages.pop() else { return false };
                    let (memory, geometry) = (&self.memory, &self.geometry);
                    direction.set_page(memory, geometry, SlotIndex(slot), entry_of(offset), page);
                    place.pages.insert(number, page);
                    page
                }
            };
            let (now, later) = rest.split_at(piece.len);
            self.memory.write(direction.byte_at(&self.geometry, page, piece.within), now);
            rest = later;
            offset += piece.len as u64;
        }
        place.line.received = offset;
        self.tell(slot);
        true
    }

    /// Reads what a client has written and is not taken yet.
    fn written(&self, slot: u32, max: usize) -> Vec<u8> {
        let place = &self.places[&slot];
        let len = ((place.client.written - place.line.acked) as usize).min(max);
        let mut bytes = Vec::new();
        for piece in pieces(place.line.acked, len) {
            let page = Direction::Tx.page(&self.memory, &self.geometry, SlotIndex(slot), piece.entry);
            let at = Direction::Tx.byte_at(&self.geometry, page.expect("a page"), piece.within);
            let mut part = vec![0; piece.len];
            self.memory.read(at, &mut part);
            bytes.extend(part);
        }
        bytes
    }

    fn take(&mut self, slot: u32, len: usize) {
        self.places.get_mut(&slot).expect("there").line.acked += len as u64;
        self.tell(slot);
    }

    /// One step for every socket; `true` when something moved.
    fn pump(&mut self) -> bool {
        let slots: Vec<u32> = self.places.keys().copied().collect();
        slots.into_iter().fold(false, |moved, slot| {
            let Some(place) = self.places.get(&slot) else { return moved };
            let step = match place.kind {
                Kind::Connection { peer } => self.pump_connection(slot, peer.0),
                Kind::Datagram { remote } => self.pump_datagram(slot, remote),
                Kind::Listener | Kind::Connecting => self.leave(slot),
            };
            step || moved
        })
    }

    fn pump_connection(&mut self, slot: u32, peer: u32) -> bool {
        let place = &self.places[&slot];
        if place.reset {
            return self.leave(slot);
        }
        let there = self.places.get(&peer).is_some_and(|peer| {
            matches!(peer.kind, Kind::Connection { peer } if peer.0 == slot) && !peer.reset
        });
        let bytes = self.written(slot, 64 * 1024);
        if !bytes.is_empty() {
            if !there || self.places[&peer].closed {
                // RFC 9293 §3.10.7.1: nobody is there any more.
                self.fail(slot, 104);
                return true;
            }
            let room =
                u64::from(WINDOW) - (self.places[&peer].line.received - self.places[&peer].client.consumed);
            let len = bytes.len().min(room as usize);
            if len > 0 && self.deliver(peer, &bytes[..len]) {
                self.take(slot, len);
                return true;
            }
            return false;
        }
        let flags = place.client.flags;
        let ended = place.closed || flags & want::SHUT_WR != 0;
        if ended && place.line.flags & level::SENT == 0 {
            let unread = place.line.received > place.client.consumed;
            let reset = place.closed && unread;
            if there && reset {
                self.fail(peer, 104);
            } else if there {
                self.places.get_mut(&peer).expect("there").line.flags |= level::END;
                self.tell(peer);
            }
            self.places.get_mut(&slot).expect("there").line.flags |= level::SENT;
            self.tell(slot);
            return true;
        }
        self.leave(slot)
    }

    fn pump_datagram(&mut self, slot: u32, only: SocketAddr) -> bool {
        let bytes = self.written(slot, usize::MAX);
        let Some(head) = bytes.first_chunk::<HEADER_SIZE>() else { return self.leave(slot) };
        let header = Header::from_bytes(head).expect("a sound record");
        let local = self.places[&slot].local;
        let payload = &bytes[HEADER_SIZE..HEADER_SIZE + header.len as usize];
        assert!(only.port() == 0 || only == header.remote || local != only, "a remote");
        let takes = |place: &Place| match place.kind {
            Kind::Datagram { remote } => {
                place.local == header.remote && (remote.port() == 0 || remote == local)
            }
            _ => false,
        };
        let target = self.places.iter().find(|(_, place)| takes(place)).map(|(slot, _)| *slot);
        if let Some(target) = target {
            let (slot, epoch) = (SlotIndex(0), Epoch(0));
            let header = Header { remote: local, local: header.remote, slot, epoch, ..header };
            if !self.deliver(target, &record(&header, payload)) {
                return false;
            }
        }
        self.take(slot, record_size(header.len as usize));
        true
    }

    /// A socket that is closed here and there leaves its place.
    fn leave(&mut self, slot: u32) -> bool {
        if !self.places[&slot].closed {
            return false;
        }
        let place = self.places.get_mut(&slot).expect("there");
        place.line.flags |= level::GONE;
        self.tell(slot);
        let place = self.places.remove(&slot).expect("there");
        self.free_pages.extend(place.pages.into_values());
        true
    }
}

fn record(header: &Header, payload: &[u8]) -> Vec<u8> {
    let mut bytes = header.to_bytes().to_vec();
    bytes.extend(payload);
    bytes.resize(record_size(payload.len()), 0);
    bytes
}
