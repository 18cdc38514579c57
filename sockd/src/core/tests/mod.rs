//! The machine between clients, netds and vaults that are played here, killed at every store and
//! between any two effects (INV-T9): every request is done exactly once, no socket is lost, none
//! is doubled, and nothing is left when all are gone.

mod ends;
mod random;
mod shards;

use super::*;
use proto::cell::CELL_SIZE;
use proto::control::client::{Ask, Granted, Request, VERSION};
use proto::control::operations::Answer;
use proto::hard::registry::REGION_SIZE;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::atomic::Ordering;

/// Memory whose writer dies after a given number of steps. Pages come into being when written.
struct Mortal {
    words: RefCell<BTreeMap<usize, [u8; 8]>>,
    steps: Cell<u64>,
    death: Cell<u64>,
    /// Stores here are lost: a mutant's.
    lost: Cell<(usize, usize)>,
}

struct Died;

impl Mortal {
    fn new() -> Rc<Mortal> {
        let (words, steps, death) = (RefCell::default(), Cell::new(0), Cell::new(u64::MAX));
        Rc::new(Mortal { words, steps, death, lost: Cell::new((0, 0)) })
    }

    /// One more step; the process dies instead of doing it when its time has come.
    fn step(&self) {
        let now = self.steps.get() + 1;
        self.steps.set(now);
        if now == self.death.get() {
            resume_unwind(Box::new(Died));
        }
    }

    fn put(&self, at: usize, bytes: &[u8]) {
        let (from, to) = self.lost.get();
        if (from..to).contains(&at) {
            return;
        }
        let mut words = self.words.borrow_mut();
        for (i, byte) in bytes.iter().enumerate() {
            words.entry((at + i) / 8).or_default()[(at + i) % 8] = *byte;
        }
    }
}

impl Memory for Mortal {
    fn size(&self) -> usize {
        REGION_SIZE
    }

    fn load_u32(&self, at: usize, _: Ordering) -> u32 {
        let mut word = [0; 4];
        self.read(at, &mut word);
        u32::from_ne_bytes(word)
    }

    fn store_u32(&self, at: usize, value: u32, _: Ordering) {
        self.step();
        self.put(at, &value.to_ne_bytes());
    }

    fn load_u64(&self, at: usize, _: Ordering) -> u64 {
        let mut word = [0; 8];
        self.read(at, &mut word);
        u64::from_ne_bytes(word)
    }

    fn store_u64(&self, at: usize, value: u64, _: Ordering) {
        self.step();
        self.put(at, &value.to_ne_bytes());
    }

    fn read(&self, at: usize, out: &mut [u8]) {
        let words = self.words.borrow();
        for (i, byte) in out.iter_mut().enumerate() {
            *byte = words.get(&((at + i) / 8)).map_or(0, |word| word[(at + i) % 8]);
        }
    }

    /// A copy that is cut short leaves its first half behind.
    fn write(&self, at: usize, bytes: &[u8]) {
        self.step();
        self.put(at, &bytes[..bytes.len() / 2]);
        self.step();
        self.put(at, bytes);
    }

    fn full_fence(&self) {}
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Record {
    op: OpId,
    local: SocketAddr,
    remote: SocketAddr,
}

/// A netd that opens what it is asked to, once per operation.
struct Netd {
    shard: u16,
    up: bool,
    steering: Steering,
    records: HashMap<SocketRef, Record>,
    sessions: BTreeSet<SessionId>,
    answers: VecDeque<Answer>,
    opened: u64,
    /// How many more operations fail with the errno.
    refusals: VecDeque<u32>,
}

/// The address that netds choose.
const OURS: &str = "10.0.0.1";
const NOBUFS: u32 = 105;

impl Netd {
    fn new(shard: u16, shards: u16) -> Netd {
        Netd {
            shard,
            up: true,
            steering: Steering::new(shards),
            records: HashMap::new(),
            sessions: BTreeSet::new(),
            answers: VecDeque::new(),
            opened: 0,
            refusals: VecDeque::new(),
        }
    }

    /// The client closes what it has there.
    fn close(&mut self, socket: SocketRef, sockd_listens: bool) {
        let record = self.records.remove(&socket).expect("an open socket has its record");
        if sockd_listens && self.up {
            self.answers.push_back(Answer::Released { op: record.op, socket });
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Connect { op, socket, local, remote, .. } => {
                self.open(Kind::Connect, op, socket, local, remote)
            }
            Command::Listen { op, socket, local, .. } => self.open(Kind::Listen, op, socket, local, NOWHERE),
            Command::Datagram { op, socket, local, remote, .. } => {
                self.open(Kind::Datagram, op, socket, local, remote)
            }
            Command::Withdraw { op, socket } => {
                self.records.retain(|_, record| record.op != op);
                self.answers.push_back(Answer::Released { op, socket });
            }
            Command::EndSession { session, .. } => {
                self.records.retain(|socket, _| socket.session != session);
                self.answers.push_back(Answer::SessionGone { session });
            }
        }
    }

    fn open(&mut self, kind: Kind, op: OpId, socket: SocketRef, mut local: SocketAddr, remote: SocketAddr) {
        assert!(self.sessions.contains(&socket.session), "the vaults have passed the session on");
        if let Some(record) = self.records.get_mut(&socket) {
            // A second operation on an open socket gives it another remote.
            assert!(record.op <= op, "one place, one use, one operation");
            if record.op != op && self.refusals.front() == Some(&NOBUFS) {
                let errno = self.refusals.pop_front().expect("looked at");
                self.answers.push_back(Answer::Failed { op, errno });
                return;
            }
            *record = Record { op, remote, ..*record };
            let local = record.local;
            self.answers.push_back(Answer::Done { op, local });
            return;
        }
        let same_place = |other: &SocketRef| other.session == socket.session && other.slot == socket.slot;
        assert!(!self.records.keys().any(same_place), "a place given out twice");
        assert!(!self.records.values().any(|record| record.op == op), "an operation doubled");
        let owner = socket.slot.0 % u32::from(self.steering.shards());
        assert_eq!(owner, u32::from(self.shard), "a place of another shard");
        if let Some(errno) = self.refusals.pop_front() {
            self.answers.push_back(Answer::Failed { op, errno });
            return;
        }
        if local.ip().is_unspecified() && !remote.ip().is_unspecified() {
            local.set_ip(OURS.parse().expect("an address"));
            if kind == Kind::Connect && self.steering.flow(local, remote) != self.shard {
                self.answers.push_back(Answer::Elsewhere { op, local });
                return;
            }
        }
        self.opened += 1;
        self.records.insert(socket, Record { op, local, remote });
        self.answers.push_back(Answer::Done { op, local });
    }

    fn known(&self) -> HashSet<OpId> {
        self.records.values().map(|record| record.op).collect()
    }
}

/// A client with a list of things to do, one after the other.
#[derive(Default)]
struct ClientSim {
    session: Option<SessionId>,
    /// The request on its socket, not yet consumed.
    socket: VecDeque<Request>,
    number: u64,
    script: VecDeque<Step>,
    results: Vec<Result<Granted, u32>>,
    /// Each with its shard.
    sockets: Vec<(SocketRef, u16)>,
    hung_up: bool,
}

#[derive(Debug, Clone)]
enum Step {
    Ask(Ask),
    /// Closes its n-th open socket.
    Close(usize),
    /// Asks for another remote for its last socket.
    Associate(SocketAddr),
    HangUp,
}

/// What is done wrong on purpose: each of these the enumeration must notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mutant {
    /// Commands and replies go out before the registry says so.
    EffectsBeforeStores,
    /// The request is taken off the socket, then answered.
    ConsumedBeforeReply,
    /// A successor does not say again what has no outcome.
    NothingSaidAgain,
    /// A successor believes that netd has let go of every socket.
    OutcomesForgotten,
    /// Names are given out that the registry has not set aside.
    NamesNotSetAside,
    /// Sessions that the vaults lost are left alone.
    LostSessionsKept,
}

const MUTANTS: [Mutant; 6] = [
    Mutant::EffectsBeforeStores,
    Mutant::ConsumedBeforeReply,
    Mutant::NothingSaidAgain,
    Mutant::OutcomesForgotten,
    Mutant::NamesNotSetAside,
    Mutant::LostSessionsKept,
];

struct World {
    mutant: Option<Mutant>,
    memory: Rc<Mortal>,
    core: Option<Core<Rc<Mortal>>>,
    netds: Vec<Netd>,
    vault: BTreeMap<SessionId, Geometry>,
    clients: Vec<ClientSim>,
    deaths: u32,
}

fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

const SEED: Seed = Seed { ports: [[1, 2], [3, 4]], numbers: [5, 6] };

/// Three rows.
fn limits(shards: u16) -> Limits {
    let active = 3 * u32::from(shards);
    let small = Geometry { shards, active, passive: 1, tx_pages: 1, rx_pages: 1 };
    Limits { default: small, ..Limits::of_group(shards) }
}

/// The places of a socket and whose they are.
fn parts((at, shard): (SocketRef, u16), shards: u16) -> Vec<(u16, SocketRef)> {
    let nth = |n: u16| (n, SocketRef { slot: SlotIndex(at.slot.0 + u32::from(n)), ..at });
    if shard == EVERY_SHARD { (0..shards).map(nth).collect() } else { vec![(shard, at)] }
}

fn hello() -> Ask {
    Ask::Open { version: VERSION, active: 0, passive: 0, tx_pages: 0, rx_pages: 0 }
}

impl World {
    fn new(scripts: Vec<Vec<Step>>) -> World {
        World::of(1, scripts)
    }

    fn shards(&self) -> u16 {
        self.netds.len() as u16
    }

    fn of(shards: u16, scripts: Vec<Vec<Step>>) -> World {
        let clients = scripts.into_iter().map(|script| {
            let script = script.into_iter().collect();
            ClientSim { script, ..ClientSim::default() }
        });
        World {
            mutant: None,
            memory: Mortal::new(),
            core: None,
            netds: (0..shards).map(|shard| Netd::new(shard, shards)).collect(),
            vault: BTreeMap::new(),
            clients: clients.collect(),
            deaths: 0,
        }
    }

    /// Runs `act` as sockd: its death leaves the world as it was at that step.
    fn as_sockd(&mut self, act: impl FnOnce(&mut World)) {
        match catch_unwind(AssertUnwindSafe(|| act(self))) {
            Ok(()) => {}
            Err(cause) if cause.is::<Died>() => {
                self.core = None;
                self.deaths += 1;
                self.netds.iter_mut().for_each(|netd| netd.answers.clear());
                // A client whose session the vaults don't have loses its socket with sockd, and
                // begins again.
                for client in &mut self.clients {
                    let kept = client.session.is_some_and(|session| self.vault.contains_key(&session));
                    if !kept && client.number > 0 && client.results.is_empty() && !client.hung_up {
                        client.session = None;
                        client.socket.clear();
                        client.number = 0;
                        client.script.push_front(Step::Ask(hello()));
                    }
                }
            }
            Err(cause) => resume_unwind(cause),
        }
    }

    fn start(&mut self) {
        let memory = self.memory.clone();
        self.core = Some(
            Core::recover(memory, self.shards(), limits(self.shards()), SEED).expect("a sound registry"),
        );
        for (session, geometry) in self.vault.clone() {
            let effects = self.core().parked(session, geometry);
            self.apply(effects);
        }
        if self.mutant != Some(Mutant::LostSessionsKept) {
            let effects = self.core().vault_complete();
            self.apply(effects);
        }
        for shard in 0..self.shards() {
            if self.netds[usize::from(shard)].up {
                self.attach(shard);
            }
        }
        for n in 0..self.clients.len() {
            self.look_at(n);
        }
    }

    fn core(&mut self) -> &mut Core<Rc<Mortal>> {
        self.core.as_mut().expect("sockd runs")
    }

    fn attach(&mut self, shard: u16) {
        let known = match self.mutant {
            Some(Mutant::OutcomesForgotten) => HashSet::new(),
            _ => self.netds[usize::from(shard)].known(),
        };
        let mut effects = self.core().attached(shard, &known);
        if self.mutant == Some(Mutant::NothingSaidAgain) {
            effects.clear();
        }
        self.apply(effects);
    }

    fn apply(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            self.memory.step();
            match effect {
                Effect::Command { shard, command } => {
                    let netd = &mut self.netds[usize::from(shard)];
                    assert!(netd.up, "nothing is said to a netd that is not there");
                    netd.command(command);
                }
                Effect::Reply { session, reply } => {
                    let Some(client) = self.clients.iter_mut().find(|c| c.session == Some(session)) else {
                        panic!("a reply to nobody");
                    };
                    let early = self.mutant == Some(Mutant::ConsumedBeforeReply);
                    if !early {
                        client.receive(session, &reply);
                    }
                    let waiting = client.socket.front().map(|request| request.number);
                    assert_eq!(waiting, Some(reply.number));
                    if early {
                        client.socket.pop_front();
                    }
                    // Between the reply and the consumption there is a step.
                    self.memory.step();
                    match early {
                        true => client.receive(session, &reply),
                        false => drop(client.socket.pop_front()),
                    }
                }
                Effect::End { session, .. } => {
                    if let Some(client) = self.clients.iter_mut().find(|c| c.session == Some(session)) {
                        client.hung_up = true;
                    }
                }
                Effect::Drop { session } => {
                    self.vault.remove(&session);
                    for netd in &mut self.netds {
                        netd.sessions.remove(&session);
                    }
                    self.memory.step();
                    self.core().dropped(session);
                }
            }
        }
    }

    /// sockd looks at the socket of a client: its request, or its hang-up.
    fn look_at(&mut self, n: usize) {
        let client = &mut self.clients[n];
        if let (true, Some(session)) = (client.hung_up, client.session) {
            let effects = self.core().hung_up(session);
            return self.apply(effects);
        }
        let Some(request) = client.socket.front().cloned() else { return };
        let Some(session) = client.session else {
            let opened = self.core().open(1000, 7, &request);
            let (session, geometry) = opened.expect("within the quota");
            self.clients[n].session = Some(session);
            self.memory.step();
            self.vault.insert(session, geometry);
            for netd in &mut self.netds {
                netd.sessions.insert(session);
            }
            self.memory.step();
            let effects = self.core().kept(session);
            return self.apply(effects);
        };
        self.decide(|core| core.request(session, &request));
    }

    /// The stores of a decision, then its effects; a mutant does it the other way round.
    fn decide(&mut self, decide: impl FnOnce(&mut Core<Rc<Mortal>>) -> Vec<Effect>) {
        if self.mutant != Some(Mutant::EffectsBeforeStores) {
            let effects = decide(self.core());
            return self.apply(effects);
        }
        let (before, death) = (self.memory.words.borrow().clone(), self.memory.death.replace(u64::MAX));
        let steps = self.memory.steps.get();
        let effects = decide(self.core());
        let after = self.memory.words.replace(before);
        self.memory.steps.set(steps);
        self.memory.death.set(death);
        self.apply(effects);
        self.memory.step();
        self.memory.words.replace(after);
    }

    /// The client does its next step if it does not wait.
    fn client(&mut self, n: usize) -> bool {
        let client = &mut self.clients[n];
        if !client.socket.is_empty() || client.hung_up {
            return false;
        }
        let asked = client.number as usize > client.results.len();
        if asked {
            return false;
        }
        match client.script.pop_front() {
            None => return false,
            Some(Step::Ask(ask)) => client.ask(ask),
            Some(Step::Associate(remote)) => {
                let slot = client.sockets.last().expect("a script opens a socket first").0.slot;
                client.ask(Ask::DatagramConnect { slot, remote });
            }
            Some(Step::Close(which)) => {
                let socket = client.sockets.remove(which);
                for (shard, part) in parts(socket, self.netds.len() as u16) {
                    self.netds[usize::from(shard)].close(part, self.core.is_some());
                }
            }
            Some(Step::HangUp) => client.hung_up = true,
        }
        if self.core.is_some() {
            self.as_sockd(|world| world.look_at(n));
        }
        true
    }

    /// sockd takes the next answer of a netd.
    fn answer(&mut self) -> bool {
        let answer = self.netds.iter_mut().find_map(|netd| Some((netd.shard, netd.answers.pop_front()?)));
        let Some((shard, answer)) = answer else { return false };
        self.as_sockd(|world| {
            world.decide(|core| core.answer(shard, answer));
            // Requests that came while this one was under way.
            for n in 0..world.clients.len() {
                world.look_at(n);
            }
        });
        true
    }

    fn netd_dies(&mut self, shard: u16) {
        let netd = &mut self.netds[usize::from(shard)];
        netd.up = false;
        netd.answers.clear();
        if let Some(core) = &mut self.core {
            core.detached(shard);
        }
    }

    fn netds_return(&mut self) {
        for shard in 0..self.shards() {
            if !core::mem::replace(&mut self.netds[usize::from(shard)].up, true) && self.core.is_some() {
                self.as_sockd(|world| world.attach(shard));
            }
        }
    }

    /// Everything that can happen happens, until nothing can.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            self.netds_return();
            if self.core.is_none() {
                self.as_sockd(World::start);
                continue;
            }
            if self.netds.iter().any(|netd| !netd.answers.is_empty()) {
                self.answer();
            } else if !(0..self.clients.len()).any(|n| self.client(n)) {
                return;
            }
        }
        panic!("it never comes to rest");
    }

    /// What must hold when all is quiet.
    fn check(&mut self) {
        let (mut expected, mut open) = (HashSet::new(), 0);
        for client in &self.clients {
            let session = client.session.filter(|_| !client.hung_up);
            assert!(client.hung_up || client.script.is_empty(), "a client is stuck");
            assert_eq!(client.results.len() as u64, client.number, "every request has its answer");
            if session.is_some() {
                open += client.sockets.len();
                expected.extend(client.sockets.iter().flat_map(|socket| parts(*socket, self.shards())));
            }
        }
        let part = |netd: &Netd| netd.records.keys().map(|at| (netd.shard, *at)).collect::<Vec<_>>();
        let there: HashSet<(u16, SocketRef)> = self.netds.iter().flat_map(part).collect();
        assert_eq!(there, expected, "what the netds have is what the clients have");
        let live = self.clients.iter().filter(|client| !client.hung_up).count();
        let core = self.core();
        assert_eq!((core.sessions(), core.sockets()), (live, open));
        assert_eq!(core.usage.values().map(|usage| usage.sessions as usize).sum::<usize>(), live);
        assert_eq!(self.vault.len(), live);
    }
}

impl ClientSim {
    fn ask(&mut self, ask: Ask) {
        self.number += 1;
        self.socket.push_back(Request { number: self.number, ask });
    }

    fn receive(&mut self, session: SessionId, reply: &Reply) {
        assert!(reply.number <= self.number, "an answer to what was not asked");
        match self.results.get(reply.number as usize - 1) {
            Some(before) => assert_eq!(*before, reply.result, "one request, two results"),
            None => {
                assert_eq!(reply.number as usize, self.results.len() + 1, "an answer left out");
                self.results.push(reply.result.clone());
                if let Ok(Granted::Socket { slot, epoch, shard, .. }) = reply.result {
                    let socket = (SocketRef { session, slot, epoch }, shard);
                    if !self.sockets.contains(&socket) {
                        self.sockets.push(socket);
                    }
                }
            }
        }
    }
}

fn connect(remote: &str) -> Step {
    Step::Ask(Ask::Connect { local: NOWHERE, remote: addr(remote), hold: false })
}

fn listen(local: &str) -> Step {
    Step::Ask(Ask::listen(addr(local), 128))
}

fn datagram(local: &str) -> Step {
    Step::Ask(Ask::udp(addr(local)))
}

/// Two clients, every kind of request, every kind of end.
fn story() -> World {
    story_of(1)
}

fn story_of(shards: u16) -> World {
    let first = vec![
        Step::Ask(hello()),
        listen("0.0.0.0:8080"),
        connect("10.0.0.9:80"),
        datagram("0.0.0.0:0"),
        Step::Associate(addr("10.0.0.9:53")),
        connect("10.0.0.9:81"),
        Step::Close(1),
        connect("10.0.0.9:82"),
        listen("0.0.0.0:80"),
    ];
    let second = vec![
        Step::Ask(hello()),
        listen("10.0.0.1:8080"),
        datagram("0.0.0.0:5353"),
        connect("224.0.0.1:80"),
        connect("10.0.0.7:80"),
        Step::HangUp,
    ];
    World::of(shards, vec![first, second])
}

fn errors(client: &ClientSim) -> Vec<u32> {
    client.results.iter().filter_map(|result| result.as_ref().err().copied()).collect()
}

#[test]
fn the_story_without_a_death() {
    let mut world = story();
    world.settle();
    world.check();
    // Fourth socket of three: EMFILE; port 80 without uid 0: EACCES; the listener of another
    // session: EADDRINUSE; a group of hosts: ENETUNREACH.
    assert_eq!(errors(&world.clients[0]), [24, 13]);
    assert_eq!(errors(&world.clients[1]), [98, 101]);
}

#[test]
fn a_death_at_every_step() {
    // Fourth socket of three: EMFILE; with two shards connections share a row and there is none.
    a_death_at_every_step_of(1, &[24, 13]);
    a_death_at_every_step_of(2, &[13]);
}

fn a_death_at_every_step_of(shards: u16, expected: &[u32]) {
    let mut plain = story_of(shards);
    plain.settle();
    let steps = plain.memory.steps.get();
    let mut died = 0;
    for death in 1..=steps {
        // A second death soon after, so that recovery is killed too.
        for again in [0, 1, 2, 3, 5, 8, 13, 21] {
            let mut world = story_of(shards);
            world.memory.death.set(death);
            while world.deaths == 0 {
                world.settle_once();
            }
            if again > 0 {
                world.memory.death.set(world.memory.steps.get() + again);
            }
            world.settle();
            world.check();
            assert_eq!(errors(&world.clients[0]), expected, "death at step {death} + {again}");
            died += world.deaths;
        }
    }
    println!("{steps} crash points, {died} deaths");
    assert!(steps > 100 && u64::from(died) > 8 * steps);
}

impl World {
    fn settle_once(&mut self) {
        if self.core.is_none() {
            return self.as_sockd(World::start);
        }
        if !self.answer() {
            let _ = (0..self.clients.len()).any(|n| self.client(n));
        }
    }
}

#[test]
fn every_mutant_is_noticed() {
    for mutant in MUTANTS {
        let mut plain = story();
        plain.settle();
        let noticed = (1..=plain.memory.steps.get()).filter(|&death| {
            let lives = catch_unwind(AssertUnwindSafe(|| {
                let mut world = story();
                world.mutant = Some(mutant);
                world.memory.death.set(death);
                for _ in 0..1000 {
                    if mutant == Mutant::NamesNotSetAside && world.core.is_some() {
                        // The counters are the first record of the table.
                        world.memory.lost.set((CELL_SIZE, 2 * CELL_SIZE));
                    }
                    world.settle_once();
                }
                world.settle();
                world.check();
            }));
            lives.is_err()
        });
        let noticed = noticed.count();
        println!("{mutant:?}: noticed at {noticed} points");
        assert!(noticed > 0, "{mutant:?} went unnoticed");
    }
}

#[test]
fn another_port_is_tried_where_the_choice_is_ours() {
    let mut world = World::new(vec![vec![Step::Ask(hello()), connect("10.0.0.9:80"), listen("0.0.0.0:81")]]);
    world.netds[0].refusals = [98, 99, 98].into();
    world.settle();
    assert_eq!(errors(&world.clients[0]), [13], "a privileged port");
    assert_eq!(world.netds[0].opened, 1);

    let mut world = World::new(vec![vec![Step::Ask(hello()), listen("0.0.0.0:8080")]]);
    world.netds[0].refusals = [98].into();
    world.settle();
    assert_eq!(errors(&world.clients[0]), [98], "a port of the client's choice");

    let mut world = World::new(vec![vec![Step::Ask(hello()), connect("10.0.0.9:80")]]);
    world.netds[0].refusals = vec![98; 1000].into();
    world.settle();
    assert_eq!(errors(&world.clients[0]), [99], "no port is free");
    assert_eq!(world.netds[0].refusals.len(), 1000 - PORT_TRIES_MAX as usize);
    world.check();
}

#[test]
fn a_client_that_skips_a_number_is_sent_away() {
    let mut world = World::new(vec![vec![Step::Ask(hello()), listen("0.0.0.0:8080")]]);
    world.settle();
    world.clients[0].number = 9;
    world.clients[0].ask(Ask::udp(NOWHERE));
    world.as_sockd(|world| world.look_at(0));
    world.clients[0].number = 2;
    world.settle();
    world.check();
    assert!(world.clients[0].hung_up && world.netds[0].records.is_empty());
}

#[test]
fn a_session_without_its_record_is_ended() {
    let mut world = World::new(vec![]);
    world.settle();
    let geometry = limits(1).default;
    world.vault.insert(SessionId(77), geometry);
    world.core = None;
    world.settle();
    world.check();
    assert!(world.vault.is_empty());
}
