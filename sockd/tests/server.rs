//! The daemon between a supervisor and a netd that are played here, and real clients.

use libnetclient::{Session, Size, TcpListener, TcpStream, UdpSocket};
use proto::arena::Geometry;
use proto::cell::{CellWriter, table_size};
use proto::control::admin;
use proto::control::lane::{Lane, socket_pair};
use proto::control::messages::{Access, FromDaemon, Grant, GroupConfig, Region as Tag, ToDaemon, Welcome};
use proto::control::notices::{Change, ConfigReply, ConfigRequest};
use proto::control::operations::{self, Answer, Command, SLOT_SIZE, SocketRef, decode, encode, netd_ends};
use proto::control::rendezvous::NoticeLane;
use proto::daemon::begin_on;
use proto::form::{Form, Share};
use proto::hard::conns::{self, Kind, Opening, Options, State, TcpState};
use proto::hard::{config, registry};
use proto::id::{Generation, OpId, RecordIndex, Role, Seat, SessionId};
use proto::nic::slab::SlabGeometry;
use proto::ring::spsc::{Consumer, Producer};
use proto::run_dir::RunDir;
use proto::shm::region::{Region, create_sealed};
use proto::stats;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd};
use rustix::fd::{AsFd, OwnedFd};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const SOCKD: Seat = Seat::new(Role::Sockd, 0);
const NETD: Seat = Seat::new(Role::Netd, 0);
const CONNS: u32 = 64;

type Commands = Consumer<Arc<Region>, SLOT_SIZE>;
type Answers = Producer<Arc<Region>, SLOT_SIZE>;
type Notices = NoticeLane<ConfigReply, ConfigRequest>;

/// A netd that does what it is asked to, and keeps records of it.
struct Netd {
    generation: Generation,
    commands: Commands,
    answers: Answers,
    wakes_sockd: OwnedFd,
    notices: Notices,
}

/// What the vaults hold of a session, in the order of the message that brought it.
struct Parked {
    geometry: Geometry,
    descriptors: Vec<OwnedFd>,
}

struct World {
    dir: PathBuf,
    group: GroupConfig,
    regions: BTreeMap<Tag, (OwnedFd, usize)>,
    listeners: [OwnedFd; 2],
    vault: BTreeMap<SessionId, Parked>,
    lane: Option<Lane<ToDaemon, FromDaemon>>,
    sockd: Option<JoinHandle<()>>,
    sockd_generation: u32,
    netd: Option<Netd>,
    netd_generation: u32,
    conns: CellWriter<Arc<Region>>,
    records: BTreeMap<OpId, (proto::cell::Held, SocketRef, std::net::SocketAddr)>,
    /// Every command that opened something, by operation.
    opened: Vec<OpId>,
    /// netd answers nothing.
    deaf: bool,
    /// netd takes what it is told and answers nothing: it is at it.
    lingering: bool,
    ready: bool,
    stuck: u32,
    changes: Vec<u64>,
}

fn listen(path: &std::path::Path) -> OwnedFd {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None);
    let socket = socket.expect("a socket");
    rustix::net::bind(&socket, &SocketAddrUnix::new(path).expect("a path")).expect("bound");
    rustix::net::listen(&socket, 64).expect("listening");
    socket
}

impl World {
    fn new(name: &str) -> World {
        let dir = std::env::temp_dir().join(format!("axl-sockd-{}-{name}", std::process::id()));
        let place = RunDir::at(&dir, "test");
        std::fs::create_dir_all(place.path()).expect("a directory");
        let sizes = [
            (Tag::Lock(SOCKD), 4096),
            (Tag::Stats(SOCKD), stats::REGION_SIZE),
            (Tag::Registry, registry::REGION_SIZE),
            (Tag::Conns(0), table_size(CONNS)),
            (Tag::Config, config::REGION_SIZE),
        ];
        let memory = |(tag, size)| (tag, (create_sealed("axl-test", size).expect("memory"), size));
        let regions: BTreeMap<Tag, (OwnedFd, usize)> = sizes.into_iter().map(memory).collect();
        let (fd, size) = &regions[&Tag::Conns(0)];
        let table = Arc::new(Region::map(fd, *size).expect("mapped"));
        World {
            group: GroupConfig {
                name: "test".into(),
                dir: dir.to_string_lossy().into_owned(),
                shards: 1,
                nics: Vec::new(),
                slab: SlabGeometry { small: 1, large: 1 },
                conns: CONNS,
                faults: Vec::new(),
            },
            listeners: [listen(&place.api()), listen(&place.admin())],
            conns: CellWriter::attach(table, conns::LAYOUT, CONNS).expect("a table"),
            dir,
            regions,
            vault: BTreeMap::new(),
            lane: None,
            sockd: None,
            sockd_generation: 0,
            netd: None,
            netd_generation: 0,
            records: BTreeMap::new(),
            opened: Vec::new(),
            deaf: false,
            lingering: false,
            ready: false,
            stuck: 0,
            changes: Vec::new(),
        }
    }

    fn place(&self) -> RunDir {
        RunDir::at(&self.dir, "test")
    }

    /// Starts the next sockd, as the supervisor does after a death.
    fn start_sockd(&mut self) {
        self.sockd_generation += 1;
        let generation = Generation(self.sockd_generation);
        let (ours, theirs) = socket_pair().expect("a lane");
        self.lane = Some(Lane::new(ours));
        self.ready = false;
        self.sockd = Some(thread::spawn(move || {
            let (start, supervised) = begin_on(theirs, Role::Sockd).expect("begun");
            // An error is the end of the lane: a death at an idle moment.
            let _ = sockd::server::run(start, supervised);
        }));
        let order = [
            (Tag::Lock(SOCKD), Access::Write),
            (Tag::Stats(SOCKD), Access::Write),
            (Tag::Registry, Access::Write),
            (Tag::Conns(0), Access::Read),
            (Tag::Config, Access::Pass),
            (Tag::Stats(SOCKD), Access::Pass),
        ];
        let grants =
            order.map(|(region, access)| Grant { region, access, size: self.regions[&region].1 as u64 });
        let descriptors: Vec<_> = order.iter().map(|(tag, _)| self.regions[tag].0.as_fd()).collect();
        let welcome = Welcome {
            seat: SOCKD,
            generation,
            predecessor: None,
            group: self.group.clone(),
            grants: grants.to_vec(),
        };
        let lane = self.lane.as_mut().expect("just made");
        lane.send(&ToDaemon::Welcome(Box::new(welcome)), &descriptors).expect("sent");
        let listeners: Vec<_> = self.listeners.iter().map(AsFd::as_fd).collect();
        lane.send(&ToDaemon::Listeners, &listeners).expect("sent");
        for (&session, parked) in &self.vault {
            let geometry = parked.geometry;
            let d: Vec<_> = parked.descriptors.iter().map(AsFd::as_fd).collect();
            // Socket, arena, its wake-up's reading end, and each kick's writing end.
            let ends = [d[0], d[1], d[2], d[5]];
            lane.send(&ToDaemon::SessionSocket { session, geometry }, &ends).expect("sent");
        }
        lane.send(&ToDaemon::Complete, &[]).expect("sent");
        self.introduce();
    }

    /// New rings between the present sockd and a netd, as after a death of either.
    fn introduce(&mut self) {
        self.netd_generation += 1;
        let generation = Generation(self.netd_generation);
        let memory = create_sealed("axl-rings", operations::REGION_SIZE).expect("memory");
        let mapped = Arc::new(Region::map(&memory, operations::REGION_SIZE).expect("mapped"));
        let (commands, answers) = netd_ends(mapped);
        let wake = || eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).expect("an eventfd");
        let (wakes_sockd, wakes_netd) = (wake(), wake());
        let us = (NETD, generation);
        let notices = Notices::offer(us, (SOCKD, Generation(self.sockd_generation))).expect("a lane");
        let lane = self.lane.as_mut().expect("sockd runs");
        let message = ToDaemon::Introduce { peer: NETD, generation };
        lane.send(&message, &[memory.as_fd(), wakes_sockd.as_fd(), wakes_netd.as_fd()]).expect("sent");
        let name = notices.name().to_owned();
        lane.send(&ToDaemon::Rendezvous { peer: NETD, generation, name }, &[]).expect("sent");
        self.netd = Some(Netd { generation, commands, answers, wakes_sockd, notices });
    }

    /// The lane ends without a word, and with it this sockd.
    fn kill_sockd(&mut self) {
        self.lane = None;
        self.netd = None;
        self.sockd.take().expect("it runs").join().expect("no panic");
    }

    fn kill_netd(&mut self) {
        let generation = self.netd.take().expect("it runs").generation;
        let message = ToDaemon::PeerGone { peer: NETD, generation };
        self.lane.as_mut().expect("sockd runs").send(&message, &[]).expect("sent");
    }

    /// Supervisor and netd do what is to do, until `done`.
    fn until(&mut self, mut done: impl FnMut(&mut World) -> bool) {
        let begin = Instant::now();
        while !done(self) {
            assert!(begin.elapsed() < Duration::from_secs(20), "it takes too long");
            self.hear_sockd();
            self.serve();
            if let Some(lane) = &self.lane {
                let mut fds = [PollFd::new(lane, PollFlags::IN)];
                let short = Timespec::try_from(Duration::from_millis(1)).expect("a time");
                let _ = rustix::event::poll(&mut fds, Some(&short));
            }
        }
    }

    fn hear_sockd(&mut self) {
        while let Some(lane) = &mut self.lane {
            let Ok(Some((message, descriptors))) = lane.receive() else { return };
            match message {
                FromDaemon::Ready => self.ready = true,
                FromDaemon::KeepSession { request, session, geometry } => {
                    self.vault.insert(session, Parked { geometry, descriptors });
                    // One that was told to stop need not listen any more.
                    let _ = lane.send(&ToDaemon::Done { request }, &[]);
                }
                FromDaemon::DropSession { request, session } => {
                    self.vault.remove(&session);
                    let _ = lane.send(&ToDaemon::Done { request }, &[]);
                }
                FromDaemon::Rendezvous { name, .. } => {
                    if let Some(netd) = &mut self.netd {
                        netd.notices.connect(name).expect("a thread");
                    }
                }
                FromDaemon::Stuck { .. } => self.stuck += 1,
                FromDaemon::Released { .. }
                | FromDaemon::Corrupt { .. }
                | FromDaemon::Restart { .. }
                | FromDaemon::KeepDevice { .. } => {}
            }
        }
    }

    /// netd's work.
    fn serve(&mut self) {
        if self.deaf {
            return;
        }
        while let Some(netd) = &mut self.netd {
            let Some(slot) = netd.commands.pop().expect("a sound ring") else { break };
            netd.commands.release();
            if self.lingering {
                continue;
            }
            let answer = self.command(decode(&slot).expect("a command"));
            let netd = self.netd.as_mut().expect("it runs");
            assert_eq!(netd.answers.push(&encode(&answer)), Ok(true));
        }
        let Some(netd) = &mut self.netd else { return };
        if let Ok(Some(ConfigRequest { id, .. })) = netd.notices.receive() {
            self.changes.push(id);
            netd.notices.send(ConfigReply { id, result: Err(95) }).expect("room");
        }
        let _ = netd.commands.arm();
        if netd.answers.publish() {
            rustix::io::write(&netd.wakes_sockd, &1u64.to_ne_bytes()).expect("woken");
        }
    }

    /// netd does what it was asked to, and dies or is cut off before it answers.
    fn serve_without_answer(&mut self) {
        while let Some(netd) = &mut self.netd {
            let Some(slot) = netd.commands.pop().expect("a sound ring") else { break };
            let _ = self.command(decode(&slot).expect("a command"));
        }
    }

    fn command(&mut self, command: Command) -> Answer {
        let nowhere: std::net::SocketAddr = "0.0.0.0:0".parse().expect("an address");
        let (op, socket, local, remote, kind) = match command {
            Command::Connect { op, socket, local, remote, .. } => {
                (op, socket, local, remote, Kind::TcpActive)
            }
            Command::Listen { op, socket, local, .. } => (op, socket, local, nowhere, Kind::TcpListener),
            Command::Datagram { op, socket, local, remote, .. } => (op, socket, local, remote, Kind::Udp),
            Command::Withdraw { op, socket } => return Answer::Released { op, socket },
            Command::EndSession { session, .. } => {
                let ops: Vec<OpId> = self.records.keys().copied().collect();
                for op in ops {
                    if self.records[&op].1.session == session {
                        let (held, ..) = self.records.remove(&op).expect("listed");
                        self.conns.free(held);
                    }
                }
                return Answer::SessionGone { session };
            }
        };
        if let Some((_, _, local)) = self.records.get(&op) {
            return Answer::Done { op, local: *local };
        }
        let opening = Opening {
            kind,
            shard: 0,
            local,
            remote,
            session: socket.session,
            op,
            slot: socket.slot,
            epoch: socket.epoch,
            iss: 0,
            irs: 0,
            options: Options::default(),
            ts_offset: 0,
            listener: RecordIndex(0),
            listener_serial: 0,
            backlog: 0,
            form: Form::Udp,
            share: Share::NONE,
        };
        let mut held = self.conns.take().expect("room");
        self.conns.open(&mut held, &opening.to_bytes(), &State::new(TcpState::Closed).to_bytes());
        self.records.insert(op, (held, socket, local));
        self.opened.push(op);
        Answer::Done { op, local }
    }

    /// Lets `client` act beside the world until it is done.
    fn with<T: Send + 'static>(&mut self, client: impl FnOnce() -> T + Send + 'static) -> T {
        let client = thread::spawn(client);
        self.until(|_| client.is_finished());
        client.join().expect("the client")
    }

    fn session(&mut self) -> Session {
        let path = self.place().api();
        self.with(move || Session::at(&path, Size::default()).expect("a session"))
    }

    fn end(mut self) {
        let lane = self.lane.as_mut().expect("sockd runs");
        lane.send(&ToDaemon::Stop, &[]).expect("sent");
        let sockd = self.sockd.take().expect("it runs");
        self.until(|_| sockd.is_finished());
        sockd.join().expect("no panic");
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn at(text: &str) -> std::net::SocketAddr {
    text.parse().expect("an address")
}

#[test]
fn sockets_are_granted_and_refused() {
    let mut world = World::new("granted");
    world.start_sockd();
    world.until(|world| world.ready);
    let (one, two) = (world.session(), world.session());
    assert_ne!(one.id(), two.id());
    let first = one.clone();
    let listener = world.with(move || TcpListener::bind_in(&first, at("10.0.0.1:8080")).expect("bound"));
    assert_eq!(listener.local_addr().expect("an address"), at("10.0.0.1:8080"));
    let other = two.clone();
    let taken = world.with(move || TcpListener::bind_in(&other, at("0.0.0.0:8080")).expect_err("taken"));
    assert_eq!(taken.kind(), ErrorKind::AddrInUse);
    let other = two.clone();
    let any = world.with(move || UdpSocket::bind_in(&other, at("0.0.0.0:0")).expect("bound"));
    assert!((32768..=60999).contains(&any.local_addr().expect("an address").port()));
    let other = two.clone();
    let group = world.with(move || TcpStream::connect_in(&other, at("224.0.0.1:80")).expect_err("a group"));
    assert_eq!(group.raw_os_error(), Some(101));
    let moved = world.with(move || {
        any.connect(at("10.0.0.9:53")).expect("connected");
        any
    });
    assert_eq!(moved.peer_addr().expect("a remote"), at("10.0.0.9:53"));
    assert_eq!(world.vault.len(), 2);
    drop((one, listener));
    world.until(|world| world.vault.len() == 1);
    assert!(world.records.values().all(|(_, socket, _)| socket.session.0 == two.id()));
    drop((two, moved));
    world.until(|world| world.vault.is_empty() && world.records.is_empty());
    world.end();
}

#[test]
fn a_request_in_flight_is_done_once_whoever_dies() {
    let mut world = World::new("flight");
    world.start_sockd();
    world.until(|world| world.ready);
    let session = world.session();
    for round in 0..20u16 {
        world.deaf = true;
        let asks = session.clone();
        let local = std::net::SocketAddr::from(([10, 0, 0, 1], 9000 + round));
        let client = thread::spawn(move || TcpListener::bind_in(&asks, local).expect("bound"));
        if round % 4 != 3 {
            // The intent is written down and netd has not answered.
            world.until(|world| {
                world.netd.as_mut().expect("it runs").commands.waiting().expect("a sound ring") > 0
            });
        }
        match round % 4 {
            0 => {
                world.kill_sockd();
                world.start_sockd();
            }
            1 => {
                world.kill_netd();
                world.introduce();
            }
            2 => {
                // netd did it, and its answer is lost with sockd.
                world.deaf = false;
                world.serve_without_answer();
                world.kill_sockd();
                world.start_sockd();
            }
            _ => {
                world.kill_netd();
                world.kill_sockd();
                world.start_sockd();
            }
        }
        world.deaf = false;
        world.until(|_| client.is_finished());
        let listener = client.join().expect("the client");
        assert_eq!(listener.local_addr().expect("an address"), local);
        assert_eq!(world.records.len(), usize::from(round) + 1, "neither lost nor doubled");
        std::mem::forget(listener);
    }
    assert_eq!(world.opened.len(), 20);
    assert_eq!(world.vault.len(), 1, "the session outlived them all");
    drop(session);
    world.end();
}

#[test]
fn hostile_clients_lose_their_session_and_nothing_else() {
    let mut world = World::new("hostile");
    world.start_sockd();
    world.until(|world| world.ready);
    let good = world.session();
    let connect = |world: &World| {
        let flags = SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None);
        let socket = socket.expect("a socket");
        let path = SocketAddrUnix::new(world.place().api()).expect("a path");
        rustix::net::connect(&socket, &path).expect("connected");
        socket
    };
    let hung_up = |socket: &OwnedFd| {
        let flags = rustix::net::RecvFlags::DONTWAIT;
        matches!(
            rustix::net::recv(socket, &mut [0u8; 600][..], flags),
            Ok((0, _)) | Err(rustix::io::Errno::CONNRESET)
        )
    };
    for nonsense in [&[0xff; 300][..], &[0; 3], &[1; 513]] {
        let socket = connect(&world);
        rustix::net::send(&socket, nonsense, rustix::net::SendFlags::empty()).expect("sent");
        world.until(|_| hung_up(&socket));
    }
    // Connections that ask for nothing make room for others.
    let silent: Vec<OwnedFd> = (0..40).map(|_| connect(&world)).collect();
    let other = world.session();
    assert_eq!(world.vault.len(), 2);
    drop((silent, other));
    world.until(|world| world.vault.len() == 1);
    let kept = good.clone();
    world.with(move || UdpSocket::bind_in(&kept, at("0.0.0.0:0")).expect("undisturbed"));
    drop(good);
    world.until(|world| world.vault.is_empty());
    world.end();
}

#[test]
fn the_owner_sees_the_regions_and_changes_reach_netd() {
    let mut world = World::new("admin");
    world.start_sockd();
    world.until(|world| world.ready);
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None);
    let socket = socket.expect("a socket");
    let path = SocketAddrUnix::new(world.place().admin()).expect("a path");
    rustix::net::connect(&socket, &path).expect("connected");
    let mut lane: Lane<admin::Ask, admin::Reply> = Lane::new(socket);
    let change = Change::LinkSet { nic: 0, up: Some(true), mtu: None, promiscuous: None };
    for ask in [admin::Ask::Regions, admin::Ask::Change(change), admin::Ask::Regions] {
        lane.send(&ask, &[]).expect("sent");
    }
    let mut replies = Vec::new();
    world.until(|_| {
        replies.extend(lane.receive().expect("sound"));
        replies.len() == 3
    });
    let (admin::Reply::Regions { name, shown, .. }, descriptors) = &replies[0] else {
        panic!("{:?}", replies[0]);
    };
    assert_eq!((name.as_str(), shown.len(), descriptors.len()), ("test", 3, 3));
    let tags: Vec<Tag> = shown.iter().map(|shown| shown.region).collect();
    assert!(!tags.contains(&Tag::Registry) && tags.contains(&Tag::Stats(SOCKD)), "{tags:?}");
    assert_eq!(replies[1].0, admin::Reply::Changed(Err(95)));
    assert_eq!(replies[2].0, replies[0].0);
    assert_eq!(world.changes.len(), 1);
    world.end();
}

#[test]
fn a_netd_that_took_its_commands_may_take_its_time_to_answer() {
    let mut world = World::new("lingers");
    world.start_sockd();
    world.until(|world| world.ready);
    let session = world.session();
    world.lingering = true;
    // Nothing else happens after the command: sockd's next look at the ring is its deadline.
    drop(session);
    let begin = Instant::now();
    world.until(|_| begin.elapsed() > Duration::from_millis(1200));
    assert_eq!(world.stuck, 0, "it took everything at once");
    assert_eq!(world.vault.len(), 1, "the session has not gone");
    world.lingering = false;
    world.kill_netd();
    world.introduce();
    world.until(|world| world.vault.is_empty());
    world.end();
}

#[test]
fn a_netd_that_stands_still_is_reported_and_one_that_is_idle_is_not() {
    let mut world = World::new("stuck");
    world.start_sockd();
    world.until(|world| world.ready);
    let session = world.session();
    let begin = Instant::now();
    world.until(|_| begin.elapsed() > Duration::from_millis(700));
    assert_eq!(world.stuck, 0, "nothing waits for it");
    world.deaf = true;
    let begin = Instant::now();
    let client = thread::spawn(move || UdpSocket::bind_in(&session, at("0.0.0.0:0")).expect("bound"));
    world.until(|world| world.stuck > 0);
    assert!(begin.elapsed() >= Duration::from_millis(500));
    world.kill_netd();
    world.introduce();
    world.deaf = false;
    world.until(|_| client.is_finished());
    client.join().expect("the client");
    world.end();
}
