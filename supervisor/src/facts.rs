//! What both supervisors know of the group, and what is to be told so that they know the same.
//!
//! [`Facts`] is a function of the [`Fact`]s applied to it; the active supervisor applies each one
//! and mirrors it to the standby, with the descriptors that belong to it ([`Fact::descriptors`]).
//! A fresh standby gets [`Facts::retold`]. The order of facts is the order of the lane, so the
//! standby is always at some earlier point of the same history.
//!
//! Not here: decisions ([`crate::policy`]), descriptors ([`crate::vault`]).

use core::time::Duration;
use proto::Instant;
use proto::arena::Geometry;
use proto::control::messages::{Ended, GroupConfig};
use proto::id::{Generation, Role, Seat, SessionId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Failures older than this no longer count for backoff (DESIGN §7).
pub const FAILURE_WINDOW: Duration = Duration::from_secs(10);
/// Failures that are remembered of a seat: enough to reach the longest delay.
const FAILURES_KEPT: usize = 8;

/// Two seats that share rings; `first` is the lower role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Pair {
    /// The lower one: nicd before netd before sockd.
    pub first: Seat,
    /// The other.
    pub second: Seat,
}

impl Pair {
    /// The pair of two seats, in either order; `None` when such two share no rings.
    pub fn of(a: Seat, b: Seat) -> Option<Pair> {
        let (first, second) = if a < b { (a, b) } else { (b, a) };
        match (first.role, second.role) {
            (Role::Nicd, Role::Netd) | (Role::Netd, Role::Sockd) => Some(Pair { first, second }),
            _ => None,
        }
    }

    /// The other seat.
    pub fn other(self, seat: Seat) -> Seat {
        if seat == self.first { self.second } else { self.first }
    }

    /// Whether `seat` is one of the two.
    pub fn has(self, seat: Seat) -> bool {
        seat == self.first || seat == self.second
    }
}

/// How far an incarnation has come, as far as the supervisor knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Stage {
    /// Runs, but was told nothing.
    Spawned,
    /// Was told everything that the vault has for it.
    Complete,
    /// Said that it is in service.
    Ready,
}

/// A living incarnation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Live {
    /// Its generation.
    pub generation: Generation,
    /// Its process id.
    pub pid: u32,
    /// When it was started.
    pub started_at: Instant,
    /// How far it has come.
    pub stage: Stage,
}

/// A seat and who sat there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SeatFacts {
    /// The newest generation that was announced; 0 before the first.
    pub generation: Generation,
    /// Who runs, if anybody.
    pub live: Option<Live>,
    /// How the last one ended.
    pub last_end: Option<Ended>,
    /// Recent ends that count for backoff.
    pub failures: Vec<Instant>,
    /// It refused its configuration: it is not started again.
    pub refused: bool,
}

impl SeatFacts {
    fn failed(&mut self, at: Instant) {
        self.failures.retain(|&earlier| at.since(earlier) < FAILURE_WINDOW);
        if self.failures.len() == FAILURES_KEPT {
            self.failures.remove(0);
        }
        self.failures.push(at);
    }
}

/// A session in the vault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session {
    /// How its arena is divided.
    pub geometry: Geometry,
    /// The netds have been told.
    pub passed: bool,
}

/// Something that both supervisors must know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fact {
    /// A seat's past, for a fresh standby.
    History {
        /// The seat.
        seat: Seat,
        /// Its newest generation.
        generation: Generation,
        /// How the last one ended.
        last_end: Option<Ended>,
        /// When recent ones failed, in nanoseconds of the clock.
        failures: Vec<u64>,
        /// It is not started again.
        refused: bool,
    },
    /// An incarnation runs. Descriptors: our end of its lane, its pidfd.
    Spawned {
        /// The seat.
        seat: Seat,
        /// Its generation.
        generation: Generation,
        /// Its process id.
        pid: u32,
        /// When it was started, in nanoseconds of the clock.
        at: u64,
    },
    /// It was told everything, or said that it is ready.
    Reached {
        /// The seat.
        seat: Seat,
        /// Its generation.
        generation: Generation,
        /// How far.
        stage: Stage,
    },
    /// It is dead. Lane and pidfd are closed.
    Ended {
        /// The seat.
        seat: Seat,
        /// Its generation.
        generation: Generation,
        /// How.
        ended: Ended,
        /// Whether and when it counts for backoff, in nanoseconds of the clock.
        failed_at: Option<u64>,
        /// It is not started again.
        refused: bool,
    },
    /// Two incarnations are being introduced. Descriptors: the rings' memory, the eventfd that
    /// wakes the first, the eventfd that wakes the second.
    Linked {
        /// Who.
        pair: Pair,
        /// Their generations.
        generations: (Generation, Generation),
    },
    /// Neither of them uses those rings any more. The descriptors are closed.
    Unlinked {
        /// Who.
        pair: Pair,
    },
    /// A session. Descriptors: as of `FromDaemon::KeepSession`.
    Session {
        /// Its name.
        session: SessionId,
        /// How its arena is divided.
        geometry: Geometry,
    },
    /// Every netd that runs has been told of it.
    Passed {
        /// Its name.
        session: SessionId,
    },
    /// The session is over. Its descriptors are closed.
    SessionOver {
        /// Its name.
        session: SessionId,
    },
    /// A nicd's TAP. One descriptor.
    Device {
        /// Which interface.
        nic: u16,
    },
    /// Every seat has been ready once.
    Started,
    /// The group is being stopped.
    Stopping,
    /// A supervisor was started as standby.
    Standby {
        /// Its generation: supervisors are counted together.
        generation: Generation,
        /// Its process id.
        pid: u32,
        /// When, in nanoseconds of the clock.
        at: u64,
    },
    /// How the standby before ended, and how many did.
    StandbyEnded {
        /// How.
        ended: Ended,
        /// How many standbys have ended.
        restarts: u32,
    },
    /// The active supervisor, for a fresh standby.
    Active {
        /// Its generation.
        generation: Generation,
        /// Its process id.
        pid: u32,
        /// When it was started, in nanoseconds of the clock.
        at: u64,
        /// How often the active one was replaced.
        take_overs: u32,
        /// How the one before ended.
        last_end: Option<Ended>,
    },
}

impl Fact {
    /// Number of descriptors that belong to it.
    pub fn descriptors(&self) -> usize {
        match self {
            Fact::Spawned { .. } => 2,
            Fact::Linked { .. } => 3,
            Fact::Session { geometry, .. } => 4 + 2 * usize::from(geometry.shards),
            Fact::Device { .. } => 1,
            _ => 0,
        }
    }
}

/// One of the two supervisors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SupervisorFacts {
    /// Its generation: supervisors are counted together; 0 when there is none.
    pub generation: Generation,
    /// Its process id; 0 when there is none.
    pub pid: u32,
    /// When it was started.
    pub started_at: Instant,
    /// How many before it in its role ended.
    pub restarts: u32,
    /// How the last of them ended.
    pub last_end: Option<Ended>,
}

/// What is known of the group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// All daemons' seats.
    pub seats: BTreeMap<Seat, SeatFacts>,
    /// Rings in use, by the generations that share them.
    pub links: BTreeMap<Pair, (Generation, Generation)>,
    /// Sessions in the vault.
    pub sessions: BTreeMap<SessionId, Session>,
    /// TAPs in the vault.
    pub devices: BTreeSet<u16>,
    /// Every seat has been ready once.
    pub started: bool,
    /// The group is being stopped.
    pub stopping: bool,
    /// The active supervisor.
    pub active: SupervisorFacts,
    /// The standby.
    pub standby: SupervisorFacts,
}

/// The daemons' seats of a group.
pub fn seats(group: &GroupConfig) -> impl Iterator<Item = Seat> {
    let nics = (0..group.nics.len()).map(|nic| Seat::new(Role::Nicd, nic as u16));
    let shards = (0..group.shards).map(|shard| Seat::new(Role::Netd, shard));
    nics.chain(shards).chain([Seat::new(Role::Sockd, 0)])
}

impl Facts {
    /// Of a group in which nothing has happened.
    pub fn new(group: &GroupConfig) -> Facts {
        Facts {
            seats: seats(group).map(|seat| (seat, SeatFacts::default())).collect(),
            links: BTreeMap::new(),
            sessions: BTreeMap::new(),
            devices: BTreeSet::new(),
            started: false,
            stopping: false,
            active: SupervisorFacts::default(),
            standby: SupervisorFacts::default(),
        }
    }

    /// Who runs in a seat.
    pub fn live(&self, seat: Seat) -> Option<Live> {
        self.seats.get(&seat).and_then(|facts| facts.live)
    }

    /// Whether exactly that incarnation runs.
    pub fn is_live(&self, seat: Seat, generation: Generation) -> bool {
        self.live(seat).is_some_and(|live| live.generation == generation)
    }

    /// Whether exactly that incarnation runs and was told everything.
    pub fn is_complete(&self, seat: Seat) -> bool {
        self.live(seat).is_some_and(|live| live.stage >= Stage::Complete)
    }

    /// All pairs of seats that share rings when both run.
    pub fn pairs(&self) -> Vec<Pair> {
        let seats: Vec<Seat> = self.seats.keys().copied().collect();
        let ahead = |(n, &a): (usize, &Seat)| {
            seats[n + 1..].iter().filter_map(move |&b| Pair::of(a, b)).collect::<Vec<_>>()
        };
        seats.iter().enumerate().flat_map(ahead).collect()
    }

    /// Adds a fact. One about a seat that the group does not have is ignored.
    pub fn apply(&mut self, fact: &Fact) {
        match *fact {
            Fact::History { seat, generation, last_end, ref failures, refused } => {
                if let Some(facts) = self.seats.get_mut(&seat) {
                    let failures = failures.iter().map(|&at| Instant::from_nanos(at)).collect();
                    *facts = SeatFacts { generation, live: None, last_end, failures, refused };
                }
            }
            Fact::Spawned { seat, generation, pid, at } => {
                if let Some(facts) = self.seats.get_mut(&seat) {
                    facts.generation = generation;
                    let started_at = Instant::from_nanos(at);
                    facts.live = Some(Live { generation, pid, started_at, stage: Stage::Spawned });
                }
            }
            Fact::Reached { seat, generation, stage } => {
                let live = self.seats.get_mut(&seat).and_then(|facts| facts.live.as_mut());
                if let Some(live) = live.filter(|live| live.generation == generation) {
                    live.stage = live.stage.max(stage);
                }
            }
            Fact::Ended { seat, generation, ended, failed_at, refused } => {
                let Some(facts) = self.seats.get_mut(&seat) else { return };
                facts.live = facts.live.filter(|live| live.generation != generation);
                facts.last_end = Some(ended);
                facts.refused |= refused;
                if let Some(at) = failed_at {
                    facts.failed(Instant::from_nanos(at));
                }
            }
            Fact::Linked { pair, generations } => drop(self.links.insert(pair, generations)),
            Fact::Unlinked { pair } => drop(self.links.remove(&pair)),
            Fact::Session { session, geometry } => {
                self.sessions.entry(session).or_insert(Session { geometry, passed: false });
            }
            Fact::Passed { session } => {
                if let Some(facts) = self.sessions.get_mut(&session) {
                    facts.passed = true;
                }
            }
            Fact::SessionOver { session } => drop(self.sessions.remove(&session)),
            Fact::Device { nic } => drop(self.devices.insert(nic)),
            Fact::Started => self.started = true,
            Fact::Stopping => self.stopping = true,
            Fact::Standby { generation, pid, at } => {
                let started_at = Instant::from_nanos(at);
                self.standby = SupervisorFacts { generation, pid, started_at, ..self.standby };
            }
            Fact::StandbyEnded { ended, restarts } => {
                let generation = self.standby.generation;
                self.standby = SupervisorFacts {
                    generation,
                    restarts,
                    last_end: Some(ended),
                    ..SupervisorFacts::default()
                };
            }
            Fact::Active { generation, pid, at, take_overs, last_end } => {
                let started_at = Instant::from_nanos(at);
                self.active = SupervisorFacts { generation, pid, started_at, restarts: take_overs, last_end };
            }
        }
    }

    /// The standby has become the active one, because that one ended.
    pub fn take_over(&mut self, ended: Ended) {
        let standby = self.standby;
        self.active =
            SupervisorFacts { restarts: self.active.restarts + 1, last_end: Some(ended), ..standby };
        self.standby = SupervisorFacts { pid: 0, ..standby };
    }

    /// Facts from which a fresh standby makes the same as this.
    pub fn retold(&self) -> Vec<Fact> {
        let mut facts = Vec::new();
        for (&seat, SeatFacts { generation, live, last_end, failures, refused }) in &self.seats {
            let failures = failures.iter().map(|at| at.nanos()).collect();
            let (generation, last_end, refused) = (*generation, *last_end, *refused);
            facts.push(Fact::History { seat, generation, last_end, failures, refused });
            if let Some(Live { generation, pid, started_at, stage }) = *live {
                facts.push(Fact::Spawned { seat, generation, pid, at: started_at.nanos() });
                facts.push(Fact::Reached { seat, generation, stage });
            }
        }
        facts.extend(self.links.iter().map(|(&pair, &generations)| Fact::Linked { pair, generations }));
        for (&session, &Session { geometry, passed }) in &self.sessions {
            facts.push(Fact::Session { session, geometry });
            facts.extend(passed.then_some(Fact::Passed { session }));
        }
        facts.extend(self.devices.iter().map(|&nic| Fact::Device { nic }));
        facts.extend(self.started.then_some(Fact::Started));
        facts.extend(self.stopping.then_some(Fact::Stopping));
        let SupervisorFacts { generation, pid, started_at, restarts: take_overs, last_end } = self.active;
        facts.push(Fact::Active { generation, pid, at: started_at.nanos(), take_overs, last_end });
        let SupervisorFacts { generation, pid, started_at, restarts, last_end } = self.standby;
        facts.extend(last_end.map(|ended| Fact::StandbyEnded { ended, restarts }));
        facts.push(Fact::Standby { generation, pid, at: started_at.nanos() });
        facts
    }
}
