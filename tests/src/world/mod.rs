//! Two hosts, a bad cable, virtual time: a world that is the same for the same seed.
//!
//! What runs in it is what ships: `netd::stack::Stack` and `sockd::core::Core` over memory that
//! survives them, and a client model that keeps to the rules of `proto::arena`. The world plays
//! the rest: engines and servers (whose loops it imitates step by step), nicd, the vault, the
//! supervisors' restarts. Processes die at fuses (`crate::crash`) or between two turns
//! ([`World::kill`]). The oracle and the watches on the wire are looked at after each run.

pub mod client;
mod daemons;
pub mod device;
pub mod host;
pub mod network;
pub mod plans;
pub mod records;
pub mod rng;
pub mod watch;

use crate::crash::{Death, Point, Process, Tamper};
use client::{Client, Rest};
use host::{Host, Who};
use netd::stack::Step;
use network::{Faults, Network};
use plans::{Dialogue, Shared, Task};
use proto::Instant;
use proto::arena::Geometry;
use rng::Rng;
use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::rc::Rc;
use std::time::Duration;
use watch::Watch;

use crate::oracle::{ConnId, Side};

/// How a world is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Everything random follows from it.
    pub seed: u64,
    /// What the cable does.
    pub faults: Faults,
    /// Maximum transmission unit of the cable in bytes.
    pub mtu: u16,
    /// Device speed in bytes per second.
    pub rate: u64,
    /// The order in which a batch is settled; the shipped one unless a mutant is tried.
    pub order: Vec<Step>,
    /// How long a restart takes at least and at most.
    pub restart: (Duration, Duration),
    /// Frames that netd takes up in one batch at most.
    pub batch_max: usize,
    /// The devices cut and join segments and do the checksums.
    pub offload: bool,
    /// The hosts speak IPv6; else IPv4. Devices without offloads only.
    pub v6: bool,
    /// Bytes in a frame that netds have a bug with; they then keep breadcrumbs (INV-T8).
    pub bait: Vec<u8>,
    /// What is wrong with the world's engine, when a mutant of it is tried.
    pub wrong: Option<Wrong>,
}

/// Faults of an engine that the shipped one does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// Time begins anew with each netd.
    TimeIsAge,
    /// A new netd does not find the keys.
    KeysLost,
    /// A new netd looks at frames before it has read the table.
    FramesBeforeTable,
    /// What a new netd says first is not sent.
    FirstWordsLost,
    /// A corrupted cell takes the daemon with it.
    CorruptCellKills,
    /// No breadcrumb is laid.
    NoCrumb,
    /// The breadcrumb is cleared before the work is done.
    CrumbClearedEarly,
    /// Every death counts as one from outside.
    DeathsUncounted,
}

/// A part of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// What was written when it was opened.
    Opening,
    /// The selected state.
    State,
    /// The selector itself.
    Selector,
}

impl Config {
    /// A clean cable, quick restarts, the shipped order.
    pub fn new(seed: u64) -> Config {
        Config {
            seed,
            faults: network::CLEAN,
            mtu: 1500,
            rate: 125_000_000,
            order: netd::stack::ORDER.to_vec(),
            restart: (Duration::from_millis(2), Duration::from_millis(6)),
            batch_max: 8,
            offload: false,
            v6: false,
            bait: Vec::new(),
            wrong: None,
        }
    }
}

/// Something that will happen.
enum Event {
    /// A frame arrives at a host's device.
    Arrive { host: usize, frame: Vec<u8> },
    /// A host's device has put a frame on the cable.
    Depart { host: usize, nicd: u32, frame: Vec<u8> },
    /// A process has its turn.
    Run { host: usize, who: Who },
    /// A process is started.
    Start { host: usize, who: Who },
    /// A process is killed.
    Kill { host: usize, who: Who },
    /// A process gets a fuse.
    Light { host: usize, who: Who, effects: u64 },
}

/// What has happened in a world, for the assertions over many.
#[derive(Debug, Clone, Default)]
pub struct Coverage {
    /// Deaths by process and by the effect that did not happen; `None` between two turns.
    pub deaths: BTreeMap<(&'static str, Option<Point>), u64>,
    /// Connections made.
    pub conns: u64,
    /// Turns of processes.
    pub turns: u64,
}

/// Makes the tampers of a process; `None` leaves it as it is.
pub type MakeTamper = Rc<dyn Fn(Who) -> Option<Box<dyn Tamper>>>;

/// A world.
pub struct World {
    /// The time.
    pub now: Instant,
    /// How it was made.
    pub config: Config,
    /// The hosts.
    pub hosts: [Host; 2],
    /// The cable.
    pub network: Network,
    /// What the clients share: oracle, names, plans.
    pub shared: Rc<Shared>,
    /// The watches on what each host sends and commits.
    pub watch: [Watch; 2],
    /// What happened.
    pub coverage: Coverage,
    /// At the next death of netd on this host, this part of a connection's record is corrupted.
    pub corrupt_next: Option<(usize, Part)>,
    /// Connections whose record was corrupted, and at which end.
    pub condemned: Vec<(ConnId, Side)>,
    /// Alters processes, when a mutant is tried.
    pub tamper: Option<MakeTamper>,
    queue: BinaryHeap<Reverse<(Instant, u64, usize)>>,
    events: Vec<Option<Event>>,
    free_events: Vec<usize>,
    order: u64,
    rng: Rng,
    next_conn: u32,
}

/// Longest wait of a process between a wake-up and its turn.
const LATENCY_MAX: Duration = Duration::from_micros(40);

/// Receive pages and places are few, so that they are used again and leaks show.
pub const GEOMETRY: Geometry = Geometry { shards: 1, active: 12, passive: 24, tx_pages: 24, rx_pages: 24 };

impl World {
    /// Two hosts with all their daemons about to start.
    pub fn new(config: Config) -> World {
        let rng = Rng::new(config.seed);
        let mut world = World {
            // Far from zero: clocks and sequence numbers begin anywhere.
            now: Instant::from_millis(1_000_000 + rng.below(1 << 32)),
            network: Network::new(config.faults, rng.fork(1)),
            hosts: [Host::new(0, config.v6), Host::new(1, config.v6)],
            shared: Rc::default(),
            watch: [Watch::new(0), Watch::new(1)],
            coverage: Coverage::default(),
            corrupt_next: None,
            condemned: Vec::new(),
            tamper: None,
            queue: BinaryHeap::new(),
            events: Vec::new(),
            free_events: Vec::new(),
            order: 0,
            rng: rng.fork(2),
            next_conn: 1,
            config,
        };
        for host in 0..2 {
            for who in [Who::Netd, Who::Sockd] {
                world.at(world.now, Event::Start { host, who });
            }
        }
        world
    }

    fn at(&mut self, time: Instant, event: Event) {
        let index = match self.free_events.pop() {
            Some(index) => {
                self.events[index] = Some(event);
                index
            }
            None => {
                self.events.push(Some(event));
                self.events.len() - 1
            }
        };
        self.order += 1;
        self.queue.push(Reverse((time, self.order, index)));
    }

    /// A client on `host` that does `tasks`.
    pub fn add_client(&mut self, host: usize, tasks: Vec<Task>) -> usize {
        let place = &mut self.hosts[host];
        let (shared, rng) = (self.shared.clone(), self.rng.fork(3));
        let mut client = Client::new(shared, rng, place.ip(), GEOMETRY, tasks);
        client.kick_pipe = place.kick_pipe.clone();
        client.process = place.incarnation(Who::Client(place.clients.len()));
        if let Some(tamper) = &self.tamper {
            client.process.tamper(tamper(Who::Client(place.clients.len())));
        }
        let number = place.clients.len();
        place.clients.push(Rc::new(RefCell::new(client)));
        place.knocking.push_back(number);
        self.wake(host, Who::Sockd);
        number
    }

    /// A new connection's name, with the plans of its ends.
    pub fn plan(&mut self, dialogue: Dialogue) -> ConnId {
        let conn = ConnId(self.next_conn);
        self.next_conn += 1;
        self.coverage.conns += 1;
        self.shared.oracle.borrow_mut().add(conn);
        self.shared.directory.borrow_mut().plan(conn, dialogue);
        conn
    }

    /// Has `who` killed at `time`, between two of its turns.
    pub fn kill_at(&mut self, time: Instant, host: usize, who: Who) {
        self.at(time, Event::Kill { host, who });
    }

    /// Gives `who` a fuse at `time`.
    pub fn light_at(&mut self, time: Instant, host: usize, who: Who, effects: u64) {
        self.at(time, Event::Light { host, who, effects });
    }

    /// The process in a seat, when one runs there.
    pub fn process(&self, host: usize, who: Who) -> Option<Rc<Process>> {
        let host = &self.hosts[host];
        match who {
            Who::Netd => host.netd.as_ref().map(|netd| netd.process.clone()),
            Who::Sockd => host.sockd.as_ref().map(|sockd| sockd.process.clone()),
            Who::Client(n) => host.clients.get(n).map(|client| client.borrow().process.clone()),
            Who::Nicd | Who::Supervisor => None,
        }
    }

    /// Something for `who` to do.
    fn wake(&mut self, host: usize, who: Who) {
        let latency = Duration::from_nanos(1_000 + self.rng.below(LATENCY_MAX.as_nanos() as u64));
        self.due(host, who, self.now + latency);
    }

    fn due(&mut self, host: usize, who: Who, at: Instant) {
        let at = at.max(self.now);
        match self.hosts[host].due.get(&who) {
            Some(&before) if before <= at => {}
            _ => {
                self.hosts[host].due.insert(who, at);
                self.at(at, Event::Run { host, who });
            }
        }
    }

    /// Lets time pass up to `end`, or until `done` says so. Returns whether it did.
    pub fn run_until(&mut self, end: Instant, mut done: impl FnMut(&World) -> bool) -> bool {
        loop {
            if done(self) {
                return true;
            }
            match self.queue.peek() {
                Some(Reverse((time, ..))) if *time <= end => {}
                _ => {
                    self.now = self.now.max(end);
                    return false;
                }
            }
            self.one_event();
            if !self.shared.oracle.borrow().failures.is_empty() {
                return false;
            }
        }
    }

    fn one_event(&mut self) {
        let Some(Reverse((time, _, index))) = self.queue.pop() else { return };
        self.now = self.now.max(time);
        let event = self.events[index].take().expect("an event happens once");
        self.free_events.push(index);
        match event {
            Event::Arrive { host, frame } => self.arrive(host, frame),
            Event::Depart { host, nicd, frame } => self.depart(host, nicd, frame),
            Event::Run { host, who } => {
                if self.hosts[host].due.get(&who) == Some(&time) {
                    self.hosts[host].due.remove(&who);
                    self.turn(host, who);
                }
            }
            Event::Start { host, who } => self.start(host, who),
            Event::Kill { host, who } => self.kill(host, who),
            Event::Light { host, who, effects } => {
                if let Some(process) = self.process(host, who) {
                    process.light(Some(effects));
                }
            }
        }
    }

    fn turn(&mut self, host: usize, who: Who) {
        self.coverage.turns += 1;
        match who {
            Who::Netd => self.netd_turn(host),
            Who::Sockd => self.sockd_turn(host),
            Who::Client(n) => self.client_turn(host, n),
            Who::Nicd | Who::Supervisor => {}
        }
    }

    fn client_turn(&mut self, host: usize, n: usize) {
        let client = self.hosts[host].clients[n].clone();
        let process = client.borrow().process.clone();
        if process.is_dead() {
            return;
        }
        let now = self.now;
        client.borrow().pipe.set(false);
        let outcome = process.run(|| client.borrow_mut().step(now));
        self.after_client(host, n, outcome);
    }

    /// What follows from a client's turn.
    fn after_client(&mut self, host: usize, n: usize, outcome: Result<Rest, Death>) {
        let client = self.hosts[host].clients[n].clone();
        match outcome {
            Ok(rest) => {
                if let Rest::Until(at) = rest {
                    self.due(host, Who::Client(n), at.max(self.now + Duration::from_micros(1)));
                }
                if client.borrow().pipe.get() {
                    self.wake(host, Who::Client(n));
                }
                if client.borrow().exits {
                    client.borrow().process.kill();
                    client.borrow_mut().died();
                    self.wake(host, Who::Sockd);
                }
                if !client.borrow().socket.is_empty() {
                    self.wake(host, Who::Sockd);
                }
            }
            Err(death) => {
                self.count_death("client", Some(death.before));
                client.borrow_mut().died();
                self.wake(host, Who::Sockd);
            }
        }
        if self.hosts[host].kick_pipe.get() {
            self.wake(host, Who::Netd);
        }
    }

    fn count_death(&mut self, who: &'static str, before: Option<Point>) {
        *self.coverage.deaths.entry((who, before)).or_default() += 1;
    }

    fn arrive(&mut self, host: usize, frame: Vec<u8>) {
        /// Pages that a fill ring holds; what comes when it is dry is lost.
        const RX_MAX: usize = 512;
        let place = &mut self.hosts[host];
        let for_us = frame[..6] == place.mac || frame[0] & 1 == 1;
        if place.nicd && for_us && place.nic_rx.len() < RX_MAX {
            place.nic_rx.push_back(frame);
            self.wake(host, Who::Netd);
        }
    }

    fn depart(&mut self, host: usize, nicd: u32, frame: Vec<u8>) {
        if self.hosts[host].nicd_generation != nicd || !self.hosts[host].nicd {
            return;
        }
        self.hosts[host].on_device -= 1;
        for (delay, frame) in self.network.carry(host, frame) {
            self.at(self.now + delay, Event::Arrive { host: 1 - host, frame });
        }
        self.feed_device(host);
        // The completion ring wakes a netd that waits for room.
        self.wake(host, Who::Netd);
    }

    /// nicd takes frames from netd and gives them to the device.
    fn feed_device(&mut self, host: usize) {
        /// Descriptors of the device.
        const DEVICE_MAX: usize = 16;
        while self.hosts[host].nicd && self.hosts[host].on_device < DEVICE_MAX {
            let place = &mut self.hosts[host];
            let Some(frame) = place.nic_tx.pop_front() else { break };
            let nanos = frame.len() as u64 * 1_000_000_000 / self.config.rate;
            place.device_free = place.device_free.max(self.now) + Duration::from_nanos(nanos);
            place.on_device += 1;
            let (at, nicd) = (place.device_free, place.nicd_generation);
            self.at(at, Event::Depart { host, nicd, frame });
        }
    }

    /// Kills a process between two of its turns.
    pub fn kill(&mut self, host: usize, who: Who) {
        let place = &mut self.hosts[host];
        match who {
            Who::Netd => {
                if place.netd.is_some() {
                    self.count_death("netd", None);
                    self.netd_died(host);
                }
            }
            Who::Sockd => {
                if place.sockd.is_some() {
                    self.count_death("sockd", None);
                    self.sockd_died(host);
                }
            }
            Who::Nicd => {
                if place.nicd {
                    place.nicd = false;
                    place.nicd_generation += 1;
                    place.on_device = 0;
                    place.nic_rx.clear();
                    place.nic_tx.clear();
                    self.count_death("nicd", None);
                    self.restart(host, Who::Nicd);
                }
            }
            Who::Supervisor => {
                // The standby notices and takes over.
                let takes = self.restart_time();
                let place = &mut self.hosts[host];
                place.supervisor_back = place.supervisor_back.max(self.now) + takes;
                self.count_death("supervisor", None);
            }
            Who::Client(n) => {
                let Some(client) = place.clients.get(n).cloned() else { return };
                if !client.borrow().process.is_dead() {
                    client.borrow().process.kill();
                    client.borrow_mut().died();
                    self.count_death("client", None);
                    self.wake(host, Who::Sockd);
                }
            }
        }
    }

    fn restart_time(&self) -> Duration {
        let (least, most) = self.config.restart;
        Duration::from_nanos(self.rng.between(least.as_nanos() as u64, most.as_nanos() as u64))
    }

    fn restart(&mut self, host: usize, who: Who) {
        let at = self.now.max(self.hosts[host].supervisor_back) + self.restart_time();
        self.at(at, Event::Start { host, who });
    }

    /// INV-T7: while netd is dead a byte of a connection's record is changed, if that was planned.
    fn corrupt_a_record(&mut self, host: usize) {
        let Some((on, part)) = self.corrupt_next.filter(|(on, _)| *on == host) else { return };
        let (records, _) = records::scan(&self.hosts[on].conns);
        let Some(record) = records.iter().find(|record| record.is_connection()) else { return };
        let cell = proto::cell::CELL_SIZE * (1 + record.index as usize);
        let mut selector = [0; 8];
        self.hosts[on].conns.peek(cell, &mut selector);
        let at = match part {
            Part::Opening => 8 + 30,
            Part::State => 128 + 64 * usize::from(selector[1] & 1) + 5,
            Part::Selector => 2,
        };
        let mut byte = [0];
        self.hosts[on].conns.peek(cell + at, &mut byte);
        self.hosts[on].conns.poke(cell + at, &[byte[0] ^ 0x40]);
        self.corrupt_next = None;
        if let Some((conn, side)) = self.watch[on].condemn(record) {
            self.shared.oracle.borrow_mut().may_fail(conn, "its record was corrupted");
            self.condemned.push((conn, side));
        }
    }

    /// Gives a client more to do.
    pub fn give_tasks(&mut self, host: usize, client: usize, tasks: Vec<Task>) {
        self.hosts[host].clients[client].borrow_mut().add_tasks(tasks);
        self.wake(host, Who::Client(client));
    }

    /// Lets a client take a turn in the middle of netd's work, before its effect number `effects`
    /// from now on.
    pub fn interrupt(&mut self, host: usize, client: usize, effects: u64) {
        let Some(netd) = self.process(host, Who::Netd) else { return };
        let client = self.hosts[host].clients[client].clone();
        let now = self.now;
        netd.interrupt(effects, move || {
            let process = client.borrow().process.clone();
            if process.is_dead() || !client.borrow().has_session() {
                return;
            }
            client.borrow().pipe.set(false);
            let rest = process.run(|| client.borrow_mut().step(now));
            if !matches!(rest, Ok(Rest::Sleep)) {
                client.borrow().pipe.set(true);
            }
        });
    }

    /// Whether nothing is left of any client on either host.
    pub fn all_gone(&self) -> bool {
        self.hosts.iter().all(|host| {
            let (records, unreadable) = records::scan(&host.conns);
            records.is_empty()
                && unreadable.is_empty()
                && host.vault.is_empty()
                && host
                    .netd
                    .as_ref()
                    .is_some_and(|netd| netd.stack.session_count() == 0 && netd.stack.record_count() == 0)
                && host
                    .sockd
                    .as_ref()
                    .is_some_and(|sockd| sockd.core.sessions() == 0 && sockd.core.sockets() == 0)
        })
    }

    /// What [`World::all_gone`] misses.
    pub fn leftovers(&self) -> String {
        let of = |host: &Host| {
            let netd = host.netd.as_ref();
            let sockd = host.sockd.as_ref();
            format!(
                "vault {}, netd {:?} sessions {:?} records {:?} pages, sockd {:?} sessions {:?} sockets; ",
                host.vault.len(),
                netd.map(|netd| netd.stack.session_count()),
                netd.map(|netd| netd.stack.record_count()),
                netd.map(|netd| netd.frames.in_use()),
                sockd.map(|sockd| sockd.core.sessions()),
                sockd.map(|sockd| sockd.core.sockets()),
            )
        };
        self.hosts.iter().map(of).collect()
    }

    /// Everything that is wrong at this moment, oracle and watches together.
    pub fn failures(&self) -> Vec<String> {
        self.shared.oracle.borrow().failures.clone()
    }

    /// Whether every client has done what it was to do.
    pub fn all_done(&self) -> bool {
        self.hosts.iter().all(|host| host.clients.iter().all(|client| client.borrow().is_done()))
    }

    /// What everybody is at, for a failure's message.
    pub fn describe(&self) -> String {
        let mut text = format!("at {} ms:\n", self.now.millis());
        for (number, host) in self.hosts.iter().enumerate() {
            let up = |up: bool| if up { "up" } else { "down" };
            text += &format!(
                "host {number}: netd {} (generation {}), sockd {}, nicd {}, rx {}, tx {}, due {:?}\n",
                up(host.netd.is_some()),
                host.netd_generation,
                up(host.sockd.is_some()),
                up(host.nicd),
                host.nic_rx.len(),
                host.nic_tx.len(),
                host.due,
            );
            for (n, client) in host.clients.iter().enumerate() {
                text += &format!("  client {n}: {}\n", client.borrow().describe());
            }
            let (records, unreadable) = records::scan(&host.conns);
            for record in records {
                text += &format!("  record {record:?}\n");
            }
            text += &format!("  unreadable: {unreadable:?}\n");
        }
        text
    }
}
