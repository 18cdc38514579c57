//! A daemon that does nothing but keep the rules of the lane, and look whether the supervisor does.
//!
//! What it finds wrong it logs as `VIOLATION`; the cases look for that word. In its own region it
//! keeps, across generations: the newest generation, its process, and a stamp made by the first.

use proto::arena::Geometry;
use proto::control::messages::Region;
use proto::daemon::{News, SessionEnds, Start, Supervised, begin};
use proto::id::{Generation, Role, Seat, SessionId};
use proto::shm::Memory;
use proto::shm::region::{self, Region as Mapping};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::net::{RecvFlags, SendFlags, SocketFlags};
use rustix::pipe::PipeFlags;
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

// Offsets in the own region.
const GENERATION: usize = 0;
const PID: usize = 8;
const STAMP: usize = 16;
const LAST_SESSION: usize = 24;
const DEVICE_KEPT: usize = 32;

/// Where a netd leaves its generation in a session's arena.
const SEEN_BY: usize = 0;

/// What a client asks, one byte a request.
pub(crate) mod ask {
    /// The generation of the netd that saw the session last, and the session's name.
    pub(crate) const SEEN: u8 = b's';
    /// Complain that netd stands still.
    pub(crate) const COMPLAIN: u8 = b'c';
    /// Panic.
    pub(crate) const PANIC: u8 = b'p';
}

fn geometry(shards: u16) -> Geometry {
    Geometry { shards, active: 1, passive: 1, tx_pages: 1, rx_pages: 1 }
}

fn violation(text: &str) {
    tracing::error!("VIOLATION: {text}");
}

pub(crate) fn run(role: Role) -> ExitCode {
    let (start, supervised) = match begin(role) {
        Ok(begun) => begun,
        Err(error) => {
            eprintln!("{role}: {error}");
            return ExitCode::from(1);
        }
    };
    let fault = format!("refuse-{role}");
    if start.group.faults.iter().any(|(key, _)| *key == fault) {
        tracing::error!("told to refuse");
        return ExitCode::from(6);
    }
    let tag = match role {
        Role::Nicd => Region::Slab { nic: start.seat.index, shard: 0 },
        Role::Netd => Region::Conns(start.seat.index),
        _ => Region::Registry,
    };
    let own = start.memory(tag);
    check_past(&start, &own);
    let mut daemon = Daemon {
        supervised,
        own,
        peers: BTreeMap::new(),
        listener: None,
        sessions: BTreeMap::new(),
        pending: BTreeMap::new(),
        device: None,
        complete: false,
        start,
    };
    daemon.serve()
}

/// Fencing: the incarnation before is dead, and its memory is what this one finds.
fn check_past(start: &Start, own: &Mapping) {
    let before = own.load_u64(GENERATION, SeqCst);
    let generation = u64::from(start.generation.0);
    if before >= generation {
        violation(&format!("generation {generation} after {before}"));
    }
    let pid = own.load_u64(PID, SeqCst);
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok();
    let state = state.and_then(|stat| stat.rsplit_once(") ").map(|(_, rest)| rest.starts_with('Z')));
    if pid != 0 && state == Some(false) {
        violation(&format!("process {pid} of generation {before} is alive"));
    }
    if before == 0 {
        own.store_u64(STAMP, u64::from(std::process::id()) | 1 << 40, SeqCst);
    }
    own.store_u64(PID, u64::from(std::process::id()), SeqCst);
    own.store_u64(GENERATION, generation, SeqCst);
    tracing::info!("stamp {}", own.load_u64(STAMP, SeqCst));
}

struct Peer {
    generation: Generation,
    rings: Mapping,
    /// Where this daemon's generation stands in them.
    own_word: usize,
}

struct Session {
    socket: OwnedFd,
    arena: Mapping,
}

struct Daemon {
    start: Start,
    supervised: Supervised,
    own: Arc<Mapping>,
    peers: BTreeMap<Seat, Peer>,
    listener: Option<OwnedFd>,
    sessions: BTreeMap<SessionId, Session>,
    /// Sessions that the vault does not have yet, by request.
    pending: BTreeMap<u64, (SessionId, Session)>,
    device: Option<OwnedFd>,
    complete: bool,
}

impl Daemon {
    fn serve(&mut self) -> ExitCode {
        loop {
            loop {
                match self.supervised.hear() {
                    Ok(Some(News::Stop)) => return ExitCode::SUCCESS,
                    Ok(Some(news)) => self.news(news),
                    Ok(None) => break,
                    Err(gone) => {
                        tracing::warn!("{gone}");
                        return ExitCode::from(1);
                    }
                }
            }
            let mut ready = vec![PollFd::new(&self.supervised, PollFlags::IN)];
            ready.extend(self.listener.iter().map(|listener| PollFd::new(listener, PollFlags::IN)));
            let names: Vec<SessionId> = self.sessions.keys().copied().collect();
            ready.extend(self.sessions.values().map(|session| PollFd::new(&session.socket, PollFlags::IN)));
            if poll(&mut ready, None).is_err() {
                continue;
            }
            let woken: Vec<bool> = ready.iter().map(|fd| !fd.revents().is_empty()).collect();
            drop(ready);
            let listening = usize::from(self.listener.is_some());
            if listening == 1 && woken[1] {
                self.accept();
            }
            for (name, woken) in names.into_iter().zip(&woken[1 + listening..]) {
                if *woken {
                    self.request(name);
                }
            }
        }
    }

    fn news(&mut self, news: News) {
        match news {
            News::Listeners { api, .. } => self.listener = Some(api),
            News::Device { device } => self.device = Some(device),
            News::Introduce { peer, generation, memory, wakes_us: _, wakes_peer } => {
                self.introduced(peer, generation, &memory, &wakes_peer);
            }
            News::PeerGone { peer, generation } => {
                let ours = u64::from(self.start.generation.0);
                match self.peers.remove(&peer) {
                    Some(known) if known.generation == generation => {
                        if known.rings.load_u64(known.own_word, SeqCst) != ours {
                            violation("somebody else used the rings");
                        }
                    }
                    _ => violation(&format!("{peer}[{generation}] is gone and was not here")),
                }
                self.supervised.released(peer, generation).expect("a supervisor");
            }
            News::Session { session, geometry, arena, .. } => {
                let arena = Mapping::map(&arena, geometry.bytes()).expect("an arena");
                arena.store_u64(SEEN_BY, u64::from(self.start.generation.0), SeqCst);
                tracing::info!("session {session}");
            }
            News::SessionSocket { session, geometry, socket, arena, kicks, .. } => {
                if kicks.len() != usize::from(geometry.shards) {
                    violation("kicks and shards differ");
                }
                let arena = Mapping::map(&arena, geometry.bytes()).expect("an arena");
                self.sessions.insert(session, Session { socket, arena });
            }
            News::Complete => self.attach(),
            News::Done { request } => {
                if let Some((name, session)) = self.pending.remove(&request) {
                    let _ = rustix::net::send(&session.socket, &name.0.to_le_bytes(), SendFlags::NOSIGNAL);
                    self.sessions.insert(name, session);
                } else if self.start.seat.role == Role::Nicd {
                    self.own.store_u64(DEVICE_KEPT, 1, SeqCst);
                }
            }
            News::Refused { request, errno } => {
                tracing::warn!("refused: {errno}");
                self.pending.remove(&request);
            }
            News::Rendezvous { peer, generation, .. } => tracing::info!("meets {peer}[{generation}]"),
            News::Restarted { .. } => {}
            News::Stop => unreachable!("taken by the caller"),
        }
    }

    fn attach(&mut self) {
        if self.complete {
            violation("complete twice");
        }
        self.complete = true;
        if self.start.seat.role == Role::Nicd && self.device.is_none() {
            if self.own.load_u64(DEVICE_KEPT, SeqCst) == 1 {
                violation("the device was kept and did not come back");
            }
            let device = region::create_sealed("device", 4096).expect("memory");
            self.supervised.keep_device(device.as_fd()).expect("a supervisor");
            self.device = Some(device);
        }
        self.supervised.ready().expect("a supervisor");
    }

    fn introduced(&mut self, peer: Seat, generation: Generation, memory: &OwnedFd, wakes_peer: &OwnedFd) {
        if !self.complete {
            violation("introduced before complete");
        }
        let rings = Mapping::map(memory, 4096).expect("rings");
        // Each side leaves its generation in its own word; the other word is empty or the peer's.
        let (own, other) = if self.start.seat < peer { (0, 8) } else { (8, 0) };
        let theirs = rings.load_u64(other, SeqCst);
        if rings.load_u64(own, SeqCst) != 0 || (theirs != 0 && theirs != u64::from(generation.0)) {
            violation("the rings are not new");
        }
        rings.store_u64(own, u64::from(self.start.generation.0), SeqCst);
        let _ = rustix::io::write(wakes_peer, &1u64.to_ne_bytes());
        if let Some(old) = self.peers.insert(peer, Peer { generation, rings, own_word: own })
            && old.generation >= generation
        {
            violation("introduced to an older generation");
        }
        tracing::info!("introduced to {peer}[{generation}]");
    }

    fn accept(&mut self) {
        let Some(listener) = &self.listener else { return };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        while let Ok(socket) = rustix::net::accept_with(listener, flags) {
            let name = self.own.load_u64(LAST_SESSION, SeqCst) + 1;
            self.own.store_u64(LAST_SESSION, name, SeqCst);
            let name = SessionId(name as u32);
            let geometry = geometry(self.start.group.shards);
            let arena = region::create_sealed("arena", geometry.bytes()).expect("memory");
            let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).expect("a pipe");
            let client = pipe();
            let kicks: Vec<_> = (0..geometry.shards).map(|_| pipe()).collect();
            let ends: Vec<_> = kicks.iter().map(|(r, w)| (r.as_fd(), w.as_fd())).collect();
            let ends = SessionEnds {
                socket: socket.as_fd(),
                arena: arena.as_fd(),
                wakes_client: (client.0.as_fd(), client.1.as_fd()),
                kicks: &ends,
            };
            let request = self.supervised.keep_session(name, geometry, ends).expect("a supervisor");
            let arena = Mapping::map(&arena, geometry.bytes()).expect("an arena");
            self.pending.insert(request, (name, Session { socket, arena }));
        }
    }

    /// Looks at a request, answers it, and only then takes it off the socket, as sockd does.
    fn request(&mut self, name: SessionId) {
        let Some(session) = self.sessions.get(&name) else { return };
        let mut byte = [0];
        let peeked = rustix::net::recv(&session.socket, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT);
        match peeked {
            Ok((n, _)) if n > 0 => {}
            Err(rustix::io::Errno::AGAIN) => return,
            _ => {
                self.sessions.remove(&name);
                self.supervised.drop_session(name).expect("a supervisor");
                return;
            }
        }
        match byte[0] {
            ask::COMPLAIN => {
                let netd = Seat::new(Role::Netd, 0);
                if let Some(peer) = self.peers.get(&netd) {
                    self.supervised.stuck(netd, peer.generation).expect("a supervisor");
                }
            }
            ask::PANIC => {
                // Taken off first, or its successor would panic too.
                let _ = rustix::net::recv(&session.socket, &mut byte, RecvFlags::DONTWAIT);
                panic!("asked to");
            }
            _ => {}
        }
        let seen = session.arena.load_u64(SEEN_BY, SeqCst) as u32;
        let mut reply = name.0.to_le_bytes().to_vec();
        reply.extend(seen.to_le_bytes());
        let _ = rustix::net::send(&session.socket, &reply, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
        let _ = rustix::net::recv(&session.socket, &mut byte, RecvFlags::DONTWAIT);
    }
}
