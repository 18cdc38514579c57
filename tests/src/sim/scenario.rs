//! Scenarios: short stories of one or a few connections, each played again and again with a death
//! at another crash point.
//!
//! A story is played in three acts: a stage is set (sessions, listeners), the story is told (the
//! crash points are counted from here), and everything ends (TIME-WAIT passes, the clients leave)
//! so that whatever leaks shows.

use crate::oracle::{ConnId, Side, Stream};
use crate::world::host::Who;
use crate::world::network::Fate;
use crate::world::plans::{Dialogue, Finish, Plan, Task};
use crate::world::{Config, MakeTamper, Part, World, Wrong};
use netd::stack::Step;
use proto::arena::line::want;
use std::net::SocketAddr;
use std::time::Duration;

/// Where in the first connection's stream lies what netds have a bug with, and how long it is.
const BAIT_AT: u64 = 700;
const BAIT_LEN: usize = 12;
/// A port that a listener has in every story.
const PORT: u16 = 8080;

/// A story.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// What the clients of the two hosts do once the stage is set.
    tell: fn(&mut World) -> [Vec<Task>; 2],
    /// Whether there is a listener beforehand, and with which backlog.
    listener: Option<u32>,
}

/// What a story came to.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Effects of the process under test from the beginning of the story, in its first life.
    pub effects: u64,
    /// Whether it died.
    pub died: bool,
    /// Whether what was planned for it (a death, an interruption) took place.
    pub struck: bool,
    /// What was wrong.
    pub failures: Vec<String>,
    /// Deaths of daemons.
    pub deaths: u64,
    /// How often bytes were sent again.
    pub retransmissions: u64,
    /// Connections whose record was corrupted.
    pub condemned: usize,
    /// Deaths of a netd by a bug.
    pub panics: u32,
}

/// What is done to one play of a story.
#[derive(Clone, Default)]
pub struct Play {
    /// Follows into everything random.
    pub seed: u64,
    /// What the cable does to frames of the story.
    pub fates: Vec<(usize, u32, Fate)>,
    /// Who dies: the host, the process, and after how many effects in its first and later lives.
    pub deaths: Option<(usize, Who, Vec<u64>)>,
    /// Who else dies, after how many effects.
    pub beside: Option<(usize, Who, u64)>,
    /// The order of settlements, when it is not the shipped one.
    pub order: Option<&'static [Step]>,
    /// What is wrong with the engines.
    pub wrong: Option<Wrong>,
    /// netds have a bug with a byte sequence that the first connection sends (INV-T8).
    pub poison: bool,
    /// Alters the processes.
    pub tamper: Option<MakeTamper>,
    /// A client takes its turn in the middle of the first batch of netd: host, client, effects.
    pub interrupt: Option<(usize, usize, u64)>,
    /// Which part of a connection's record is corrupted while the netd under test is dead.
    pub corrupt: Option<Part>,
}

fn dialogue(active: Plan, passive: Plan) -> Dialogue {
    Dialogue { active, passive }
}

/// The task of connecting from host 0 to the listener on host 1.
fn connect(world: &mut World, from: u16, dialogue: Dialogue) -> (ConnId, Task) {
    let conn = world.plan(dialogue);
    let local = SocketAddr::new(world.hosts[0].ip(), from);
    let remote = SocketAddr::new(world.hosts[1].ip(), PORT);
    (conn, Task::Connect { conn, local, remote })
}

fn one(world: &mut World, active: Plan, passive: Plan) -> [Vec<Task>; 2] {
    let (_, task) = connect(world, 5000, dialogue(active, passive));
    [vec![task, Task::Settle], Vec::new()]
}

const fn thinking(plan: Plan, millis: u64) -> Plan {
    Plan { think: Duration::from_millis(millis), ..plan }
}

const fn pieces(plan: Plan, write_max: u64, read_max: u64) -> Plan {
    Plan { write_max, read_max, ..plan }
}

use Finish::{Abort, AfterEnd, Close, Keep, Orderly};

/// Every story.
pub const ALL: &[Scenario] = &[
    Scenario {
        name: "open and close",
        listener: Some(4),
        tell: |w| one(w, Plan::of(0, Orderly), Plan::of(0, Orderly)),
    },
    Scenario {
        name: "send",
        listener: Some(4),
        tell: |w| one(w, Plan::of(4000, Orderly), Plan::of(0, AfterEnd)),
    },
    Scenario {
        name: "receive",
        listener: Some(4),
        tell: |w| one(w, Plan::of(0, AfterEnd), Plan::of(4000, Orderly)),
    },
    Scenario {
        name: "both ways",
        listener: Some(4),
        tell: |w| one(w, Plan::of(3000, Orderly), Plan::of(5000, Orderly)),
    },
    Scenario {
        name: "in small pieces",
        listener: Some(4),
        tell: |w| {
            let plan = thinking(pieces(Plan::of(1500, Orderly), 400, 300), 3);
            one(w, Plan { options: want::NODELAY, ..plan }, plan)
        },
    },
    Scenario {
        name: "a window's worth",
        listener: Some(4),
        tell: |w| one(w, Plan::of(60_000, Orderly), Plan::of(500, AfterEnd)),
    },
    Scenario {
        name: "a slow reader",
        listener: Some(4),
        tell: |w| {
            let slow = thinking(pieces(Plan::of(100, Orderly), 100, 20_000), 20);
            one(w, Plan::of(450_000, Orderly), slow)
        },
    },
    Scenario {
        name: "active side closes first",
        listener: Some(4),
        tell: |w| one(w, Plan::of(100, Orderly), thinking(Plan::of(100, AfterEnd), 5)),
    },
    Scenario {
        name: "passive side closes first",
        listener: Some(4),
        tell: |w| one(w, thinking(Plan::of(100, AfterEnd), 5), Plan::of(100, Orderly)),
    },
    Scenario {
        name: "half close",
        listener: Some(4),
        tell: |w| one(w, Plan::of(200, Orderly), thinking(pieces(Plan::of(6000, AfterEnd), 1000, 1000), 4)),
    },
    Scenario {
        name: "close with nothing to read",
        listener: Some(4),
        tell: |w| one(w, Plan::of(2000, Close), Plan::of(0, AfterEnd)),
    },
    Scenario {
        name: "close before the data comes",
        listener: Some(4),
        tell: |w| one(w, Plan::of(100, Close), Plan::of(3000, AfterEnd)),
    },
    Scenario {
        name: "reset by the active side",
        listener: Some(4),
        tell: |w| one(w, Plan::of(1000, Abort), Plan::of(1000, AfterEnd)),
    },
    Scenario {
        name: "reset by the passive side",
        listener: Some(4),
        tell: |w| one(w, Plan::of(1000, AfterEnd), Plan::of(1000, Abort)),
    },
    Scenario {
        name: "two at once",
        listener: Some(4),
        tell: |w| {
            let (_, one) = connect(w, 5000, dialogue(Plan::of(2000, Orderly), Plan::of(100, Orderly)));
            let (_, two) = connect(w, 5001, dialogue(Plan::of(0, AfterEnd), Plan::of(3000, Orderly)));
            [vec![one, two, Task::Settle], Vec::new()]
        },
    },
    Scenario {
        name: "more than the backlog",
        listener: Some(1),
        tell: |w| {
            let plans = dialogue(Plan::of(200, Orderly), Plan::of(200, Orderly));
            let tasks = (0..4).map(|n| connect(w, 5000 + n, plans).1);
            let mut tasks: Vec<Task> = tasks.collect();
            tasks.push(Task::Settle);
            [tasks, Vec::new()]
        },
    },
    Scenario {
        name: "nobody listens",
        listener: None,
        tell: |w| {
            let (conn, task) = connect(w, 5000, dialogue(Plan::of(10, Orderly), Plan::of(10, Orderly)));
            w.shared.oracle.borrow_mut().may_be_refused(conn);
            [vec![task, Task::Settle], Vec::new()]
        },
    },
    Scenario {
        name: "a listener comes and goes",
        listener: None,
        tell: |w| {
            let start = w.now;
            let (_, task) = connect(w, 5000, dialogue(Plan::of(300, Orderly), Plan::of(300, Orderly)));
            let later = start + Duration::from_millis(60);
            let listen = Task::Listen { port: PORT, backlog: 2 };
            // Late enough for a sockd that dies meanwhile.
            let first = vec![Task::Wait(later), task, Task::Settle];
            let close = Task::Wait(start + Duration::from_secs(100));
            [first, vec![listen, close, Task::Close { port: PORT }]]
        },
    },
    Scenario {
        name: "a client leaves with data unsent",
        listener: Some(4),
        tell: |w| {
            let start = w.now;
            let (_, task) = connect(w, 5000, dialogue(Plan::of(200_000, Keep), Plan::of(0, AfterEnd)));
            [vec![task, Task::Wait(start + Duration::from_millis(3)), Task::Exit], Vec::new()]
        },
    },
    Scenario {
        name: "a client leaves with data unread",
        listener: Some(4),
        tell: |w| {
            let start = w.now;
            let slow = thinking(pieces(Plan::of(0, Keep), 1, 100), 50);
            let (_, task) = connect(w, 5000, dialogue(slow, Plan::of(50_000, AfterEnd)));
            [vec![task, Task::Wait(start + Duration::from_millis(20)), Task::Exit], Vec::new()]
        },
    },
    Scenario {
        name: "the accepting client leaves",
        listener: Some(4),
        tell: |w| {
            let start = w.now;
            let (a, one) = connect(w, 5000, dialogue(Plan::of(3000, AfterEnd), Plan::of(3000, Keep)));
            let (b, two) = connect(w, 5001, dialogue(Plan::of(0, AfterEnd), Plan::of(0, Keep)));
            for conn in [a, b] {
                w.shared.oracle.borrow_mut().may_be_refused(conn);
            }
            [vec![one, two], vec![Task::Wait(start + Duration::from_millis(2)), Task::Exit]]
        },
    },
    Scenario {
        name: "with itself",
        listener: Some(4),
        tell: |w| {
            let listen = Task::Listen { port: PORT, backlog: 4 };
            let ip = w.hosts[0].ip();
            let inward = [5000, 5001].map(|from| {
                let conn = w.plan(dialogue(Plan::of(90_000, Orderly), Plan::of(3000, Orderly)));
                Task::Connect { conn, local: SocketAddr::new(ip, from), remote: SocketAddr::new(ip, PORT) }
            });
            // Beside one that leaves the host.
            let (_, outward) = connect(w, 5002, dialogue(Plan::of(2000, Orderly), Plan::of(100, Orderly)));
            let [one, two] = inward;
            [vec![listen, one, two, outward, Task::Settle, Task::Close { port: PORT }], Vec::new()]
        },
    },
    Scenario {
        name: "datagrams",
        listener: None,
        tell: |w| {
            let to = SocketAddr::new(w.hosts[1].ip(), 7000);
            let back = SocketAddr::new(w.hosts[0].ip(), 6000);
            let there = w.now + Duration::from_millis(50);
            let first = vec![
                Task::Datagram { port: 6000 },
                Task::Wait(there),
                Task::Send { port: 6000, remote: to, count: 5, len: 600 },
            ];
            let second = vec![
                Task::Datagram { port: 7000 },
                Task::Wait(there),
                Task::Send { port: 7000, remote: back, count: 3, len: 64 },
                Task::Wait(there + Duration::from_secs(50)),
                Task::Close { port: 7000 },
            ];
            [first, second]
        },
    },
];

/// A handful of things that a cable does to the first frames of a story.
pub const WEATHER: &[&[(usize, u32, Fate)]] = &[
    &[],
    &[(0, 0, Fate::Lose)],
    &[(1, 0, Fate::Lose)],
    &[(0, 1, Fate::Lose)],
    &[(0, 2, Fate::Lose), (1, 2, Fate::Twice)],
    &[(1, 1, Fate::Lose), (0, 3, Fate::Late)],
    &[(0, 2, Fate::Late), (1, 3, Fate::Lose)],
    &[(0, 1, Fate::Twice), (1, 1, Fate::Late), (0, 4, Fate::Late)],
    &[(0, 3, Fate::Lose), (0, 4, Fate::Lose), (1, 4, Fate::Lose)],
];

/// The seats of which each is killed in turn.
pub const SEATS: [(usize, Who); 6] = [
    (0, Who::Netd),
    (1, Who::Netd),
    (0, Who::Sockd),
    (1, Who::Sockd),
    (0, Who::Client(0)),
    (1, Who::Client(0)),
];

impl Scenario {
    /// Plays the story once.
    pub fn play(&self, play: &Play) -> Outcome {
        let mut config = Config::new(play.seed);
        config.wrong = play.wrong;
        // Every other weather has devices with offloads.
        config.offload = play.seed % 2 == 1;
        if play.poison {
            config.bait = vec![0; BAIT_LEN];
            Stream { conn: ConnId(1), writer: Side::Active }.fill(BAIT_AT, &mut config.bait);
        }
        if let Some(order) = play.order {
            config.order = order.to_vec();
        }
        let mut world = World::new(config);
        world.tamper = play.tamper.clone();
        let mut outcome = Outcome::default();
        let start = world.now;
        world.add_client(0, Vec::new());
        let listens = self.listener.map(|backlog| Task::Listen { port: PORT, backlog });
        world.add_client(1, listens.into_iter().collect());
        let ready = |world: &World| {
            world.all_done() && world.hosts.iter().all(|host| host.clients[0].borrow().session().is_some())
        };
        if !world.run_until(start + Duration::from_secs(5), ready) {
            outcome.failures = failures(&world, "the stage can't be set");
            return outcome;
        }
        self.tell_it(&mut world, play, &mut outcome);
        outcome.condemned = world.condemned.len();
        outcome.panics = world.hosts.iter().map(|host| host.netd_panics).max().unwrap_or(0);
        outcome.deaths = world.coverage.deaths.values().sum();
        outcome.retransmissions = world.watch.iter().map(|watch| watch.retransmissions).sum();
        outcome
    }

    fn tell_it(&self, world: &mut World, play: &Play, outcome: &mut Outcome) {
        world.network.count_from_here();
        for (host, number, fate) in &play.fates {
            world.network.fates.insert((*host, *number), *fate);
        }
        let mut under_test = None;
        if let Some((host, who, fuses)) = &play.deaths {
            let process = world.process(*host, *who).expect("everybody runs");
            process.light(fuses.first().copied());
            world.hosts[*host].fuses.insert(*who, fuses.iter().skip(1).copied().collect());
            outcome.effects = process.effects();
            world.corrupt_next = play.corrupt.map(|part| (*host, part));
            under_test = Some((process, *who));
        }
        if let Some((host, who, effects)) = play.beside
            && let Some(process) = world.process(host, who)
            && play.deaths.as_ref().is_none_or(|(first, first_who, _)| (*first, *first_who) != (host, who))
        {
            process.light(Some(effects));
        }
        if let Some((host, client, effects)) = play.interrupt {
            world.interrupt(host, client, effects);
        }
        let tasks = (self.tell)(world);
        for (host, tasks) in tasks.into_iter().enumerate() {
            world.give_tasks(host, 0, tasks);
        }
        if play.poison {
            // Its flow is quarantined; the others go on.
            world.shared.oracle.borrow_mut().may_fail(ConnId(1), "poisoned");
        }
        let patience = world.now + Duration::from_secs(130);
        let done = world.run_until(patience, World::all_done);
        if let Some((process, who)) = under_test {
            outcome.effects = process.effects() - outcome.effects;
            outcome.died = process.is_dead() && !matches!(who, Who::Client(_));
            outcome.struck = outcome.died || play.interrupt.is_some_and(|(.., at)| at < outcome.effects);
        }
        let excused = world.failures().is_empty() && {
            let oracle = world.shared.oracle.borrow();
            oracle.may_hang() && oracle.unfinished().is_empty()
        };
        if !done && !excused {
            outcome.failures = failures(world, "it does not come to its end");
            return;
        }
        outcome.failures = the_end(world);
        let datagrams = world.shared.datagrams.borrow();
        if world.network.done.doubled == 0
            && let Some((which, count)) = datagrams.received.iter().find(|(_, count)| **count > 1)
        {
            outcome.failures.push(format!("datagram {which:?} came {count} times"));
        }
        if play.fates.is_empty() && play.deaths.is_none() {
            let received = datagrams.received.len() as u64;
            if received != datagrams.sent {
                outcome.failures.push(format!("{received} of {} datagrams came", datagrams.sent));
            }
        }
    }
}

fn failures(world: &World, what: &str) -> Vec<String> {
    let mut all = world.failures();
    if all.is_empty() {
        all.push(format!("{what}: {}", world.describe()));
    }
    all
}

/// Everything ends: what is left is a leak.
pub fn the_end(world: &mut World) -> Vec<String> {
    // TIME-WAIT and orphans in FIN-WAIT-2 last a minute each, begun anew by a restart.
    let quiet = world.now + Duration::from_secs(190);
    world.run_until(quiet, |_| false);
    let mut left = world.failures();
    left.extend(world.shared.oracle.borrow().unfinished());
    for (conn, side) in &world.condemned {
        let oracle = world.shared.oracle.borrow();
        let end = oracle.conn(*conn).end(*side);
        if end.handed_over && end.failed.is_none() && !end.closed {
            left.push(format!("INV-T7: conn {} lost its record and {side:?} is not told: {end:?}", conn.0));
        }
    }
    for (number, host) in world.hosts.iter().enumerate() {
        for record in records_of_connections(world, number).into_iter().filter(|_| world.all_done()) {
            left.push(format!("host {number}: a record is left: {record}"));
        }
        for (n, client) in host.clients.iter().enumerate() {
            let client = client.borrow();
            let ((pages, places), allowed) = (client.holdings(), client.ports());
            if client.is_done() && !client.process.is_dead() && (pages > 0 || places > allowed) {
                left.push(format!(
                    "host {number}: client {n} holds {pages} pages and {places} places: {}",
                    client.describe()
                ));
            }
        }
    }
    if !left.is_empty() {
        return left;
    }
    let mut stuck = Vec::new();
    for host in 0..2 {
        for n in 0..world.hosts[host].clients.len() {
            // Who still waits (for a reset that was lost) does not get to its next task.
            if !world.hosts[host].clients[n].borrow().is_done() {
                stuck.push((host, n));
            }
            world.give_tasks(host, n, vec![Task::Exit]);
        }
    }
    for (host, n) in stuck {
        world.kill(host, Who::Client(n));
    }
    let quiet = world.now + Duration::from_secs(200);
    world.run_until(quiet, World::all_gone);
    let mut left = world.failures();
    if !world.all_gone() {
        left.push(format!("something stays behind: {}{}", world.leftovers(), world.describe()));
    }
    left
}

fn records_of_connections(world: &World, host: usize) -> Vec<String> {
    let records = world.watch[host].left(&world.hosts[host]);
    records.iter().filter(|record| record.is_connection()).map(|record| format!("{record:?}")).collect()
}
