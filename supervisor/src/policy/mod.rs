//! What to do when something happens: a pure machine, events in, actions out.
//!
//! Owns every decision of the active supervisor: when an incarnation is started and with what,
//! who is introduced to whom, who is killed, what waits for the standby. The server executes the
//! actions in order and knows nothing of why.
//!
//! Invariants, tested as properties over random histories in `tests`:
//! * a seat is started only when its last incarnation has ended (INV-F);
//! * nothing is announced, and no child gets descriptors, before the standby, if there is one that
//!   has been told the past, has acknowledged the fact ([`Then`]);
//! * generations of a seat count up by one for everyone who was told one;
//! * a death from outside is followed by a start at once.
//!
//! Not here: descriptors, clocks, processes, the mirror's encoding.

mod links;
mod replace;
mod seats;
mod sessions;
mod standby;
mod stop;
mod suspicion;
#[cfg(test)]
mod tests;

pub use suspicion::Sample;

use crate::facts::{Fact, Facts, Live, Pair, Stage};
use core::time::Duration;
use links::LinkState;
use proto::Instant;
use proto::control::messages::{Ended, FromDaemon, ToDaemon};
use proto::id::{Generation, Role, Seat, SessionId};
use serde::{Deserialize, Serialize};
use standby::Standby;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use suspicion::Suspicion;

/// How long anybody may keep the supervisor waiting for an answer (DESIGN §6: hang).
pub const ANSWER_MAX: Duration = Duration::from_millis(500);
/// How long an incarnation may take until it is ready: recovery of a full table and a link coming
/// up, with a wide margin.
pub const START_MAX: Duration = Duration::from_secs(10);
/// How long daemons may take to finish when the group is stopped.
pub const STOP_MAX: Duration = Duration::from_secs(2);
/// Failed starts of one seat after which `up` gives up.
pub const FIRST_STARTS_MAX: usize = 3;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The group begins.
    Begin,
    /// The active supervisor is dead and this one, its standby until now, takes over.
    TakeOver,
    /// [`Action::Spawn`] succeeded.
    Spawned {
        /// Which seat.
        seat: Seat,
        /// The process.
        pid: u32,
    },
    /// [`Action::Spawn`] failed.
    NotSpawned {
        /// Which seat.
        seat: Seat,
    },
    /// A pidfd became readable, and everything that incarnation said has been heard.
    Ended {
        /// Which seat.
        seat: Seat,
        /// Which incarnation.
        generation: Generation,
        /// How.
        ended: Ended,
    },
    /// A daemon said something. What it brought lies in the vault.
    Heard {
        /// Who.
        seat: Seat,
        /// Which incarnation.
        generation: Generation,
        /// What.
        message: FromDaemon,
    },
    /// A daemon closed its end of the lane.
    Closed {
        /// Who.
        seat: Seat,
        /// Which incarnation.
        generation: Generation,
    },
    /// A daemon broke the rules of its lane, or does not read it.
    Broken {
        /// Who.
        seat: Seat,
        /// Which incarnation.
        generation: Generation,
    },
    /// Everything told to that incarnation so far has left this process.
    Flushed {
        /// Who.
        seat: Seat,
        /// Which incarnation.
        generation: Generation,
    },
    /// Answer to [`Action::ProbeStandby`].
    StandbyProbed {
        /// What the kernel says of it.
        sample: Sample,
    },
    /// Answer to [`Action::Probe`].
    Probed {
        /// Who.
        seat: Seat,
        /// Which incarnation.
        generation: Generation,
        /// What the kernel says of it.
        sample: Sample,
    },
    /// [`Action::SpawnStandby`] succeeded.
    StandbySpawned {
        /// The process.
        pid: u32,
    },
    /// [`Action::SpawnStandby`] failed.
    StandbyNotSpawned,
    /// The standby is there and wants to be told the past.
    StandbyHello,
    /// The standby has everything up to that number.
    Acked {
        /// Number of a mirrored fact.
        number: u64,
    },
    /// The standby's lane is unusable.
    StandbyBroken,
    /// Answer to [`Action::Inspect`].
    Inspected {
        /// Who is to be replaced.
        seat: Seat,
        /// Which incarnation.
        generation: Generation,
        /// Who asked.
        asker: Asker,
        /// Whether the program that lies there now can take its place; why not, in words.
        verdict: Result<(), String>,
    },
    /// The standby's pidfd became readable.
    StandbyEnded {
        /// How.
        ended: Ended,
    },
    /// Somebody wants the group to stop.
    Stop,
    /// A deadline may have passed.
    Tick,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Start a process, with the lane as its only descriptor.
    Spawn {
        /// For which seat.
        seat: Seat,
    },
    /// Say the welcome, then everything that the vault has for this seat, then that it is complete.
    Welcome {
        /// To whom.
        seat: Seat,
        /// Its generation.
        generation: Generation,
        /// How the one before it ended.
        predecessor: Option<Ended>,
        /// The sessions it hears of, where its role hears of sessions.
        sessions: Vec<SessionId>,
    },
    /// Make rings for a pair and put them into the vault.
    MakeLink {
        /// For whom.
        pair: Pair,
    },
    /// Introduce one of a pair to the other.
    Introduce {
        /// Who is told.
        to: Seat,
        /// Of whom.
        peer: Seat,
        /// Its generation.
        generation: Generation,
    },
    /// Pass a session to a netd.
    Pass {
        /// To whom.
        to: Seat,
        /// Which session.
        session: SessionId,
    },
    /// Say something that has no descriptors.
    Tell {
        /// To whom.
        to: Seat,
        /// What.
        message: ToDaemon,
    },
    /// Tell the standby a fact, with its descriptors.
    Mirror {
        /// Facts count up; the standby acknowledges by number.
        number: u64,
        /// The fact.
        fact: Fact,
    },
    /// Tell the standby all regions, then these facts; the last one has that number.
    Transfer {
        /// Number of the last fact.
        number: u64,
        /// The past.
        facts: Vec<Fact>,
    },
    /// Close what the vault holds of an incarnation that is dead.
    ForgetIncarnation {
        /// Which seat.
        seat: Seat,
    },
    /// Close what the vault holds of a pair's rings.
    ForgetLink {
        /// Whose.
        pair: Pair,
    },
    /// Close what the vault holds of a session.
    ForgetSession {
        /// Which.
        session: SessionId,
    },
    /// SIGKILL.
    Kill {
        /// Whom.
        seat: Seat,
        /// Which incarnation.
        generation: Generation,
    },
    /// Ask the kernel whether that incarnation gets on.
    Probe {
        /// Whom.
        seat: Seat,
        /// Which incarnation.
        generation: Generation,
    },
    /// Ask the program of that seat which layouts it speaks.
    Inspect {
        /// Who is to be replaced.
        seat: Seat,
        /// Which incarnation.
        generation: Generation,
        /// Who asked.
        asker: Asker,
    },
    /// Start a standby.
    SpawnStandby {
        /// Its generation.
        generation: Generation,
    },
    /// Ask the kernel whether the standby gets on.
    ProbeStandby,
    /// SIGKILL for the standby.
    KillStandby,
    /// Tell whoever started the group.
    Report(Report),
    /// Everybody has ended: dismiss the standby, clean up, exit.
    Exit,
}

/// What whoever started the group wants to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// Every daemon is ready, every pair introduced.
    Started,
    /// It does not come up: this seat ended so, again and again or for good.
    Failed {
        /// Which seat.
        seat: Seat,
        /// How it ended last; `Unknown` when it could not even be started.
        ended: Ended,
    },
}

/// What is done once every live vault has what it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Then {
    Welcome { seat: Seat, generation: Generation },
    Introduce { pair: Pair, generations: (Generation, Generation) },
    Pass { session: SessionId, asker: Asker },
    Answer(Asker),
}

/// Why an incarnation was killed here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// It stood still while somebody waited, or closed its lane. Whether that counts for backoff
    /// is decided by how it ends: hangs are half a second apart by themselves, and a closed lane
    /// is most often a death that the pidfd is about to tell.
    Silent,
    /// It broke the rules of its lane, or never became ready.
    Misbehaved,
}

/// Who waits for the answer to which request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asker {
    seat: Seat,
    generation: Generation,
    request: u64,
}

/// The machine.
#[derive(Debug)]
pub struct Policy {
    facts: Facts,
    standby: Standby,
    /// Numbers of mirrored facts go on over all standbys.
    mirrored: u64,
    /// What waits for the standby's acknowledgement, in order.
    waiting: VecDeque<(u64, Then)>,
    /// Seats to be started at a time.
    spawn_at: BTreeMap<Seat, Instant>,
    /// Incarnations that were killed here and have not ended yet.
    doomed: BTreeMap<Seat, Fault>,
    links: BTreeMap<Pair, LinkState>,
    /// Sessions that a live vault may not have yet.
    unkept: BTreeSet<SessionId>,
    /// Sessions whose passing on may still be in a queue of this process, and to whom.
    passing: BTreeMap<SessionId, BTreeSet<Seat>>,
    sessions_max: usize,
    suspects: BTreeMap<Seat, Suspicion>,
    stop_by: Option<Instant>,
    exiting: bool,
    actions: Vec<Action>,
}

impl Policy {
    /// Over what is known; `sessions_max` is how many sessions' descriptors a vault has room for.
    pub fn new(facts: Facts, sessions_max: usize) -> Policy {
        Policy {
            facts,
            standby: Standby::default(),
            mirrored: 0,
            waiting: VecDeque::new(),
            spawn_at: BTreeMap::new(),
            doomed: BTreeMap::new(),
            links: BTreeMap::new(),
            unkept: BTreeSet::new(),
            passing: BTreeMap::new(),
            sessions_max,
            suspects: BTreeMap::new(),
            stop_by: None,
            exiting: false,
            actions: Vec::new(),
        }
    }

    /// What is known.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Takes an event; returns what to do, in order.
    pub fn on(&mut self, now: Instant, event: Event) -> Vec<Action> {
        match event {
            Event::Begin => self.begin(now),
            Event::TakeOver => self.take_over(now),
            Event::Spawned { seat, pid } => self.spawned(now, seat, pid),
            Event::NotSpawned { seat } => self.not_spawned(now, seat),
            Event::Ended { seat, generation, ended } => self.ended(now, seat, generation, ended),
            Event::Heard { seat, generation, message } => self.heard(now, seat, generation, message),
            Event::Closed { seat, generation } => self.condemn(seat, generation, Fault::Silent),
            Event::Broken { seat, generation } => self.condemn(seat, generation, Fault::Misbehaved),
            Event::Flushed { seat, generation } => self.flushed(now, seat, generation),
            Event::Probed { seat, generation, sample } => self.probed(now, seat, generation, sample),
            Event::StandbySpawned { pid } => self.standby_spawned(now, pid),
            Event::StandbyNotSpawned => self.standby_ended(now, Ended::Unknown),
            Event::StandbyHello => self.standby_hello(now),
            Event::StandbyProbed { sample } => self.standby_probed(now, sample),
            Event::Acked { number } => self.acked(now, number),
            Event::StandbyBroken => self.kill_standby(),
            Event::Inspected { seat, generation, asker, verdict } => {
                self.inspected(seat, generation, asker, verdict);
            }
            Event::StandbyEnded { ended } => self.standby_ended(now, ended),
            Event::Stop => self.stop(now),
            Event::Tick => {}
        }
        self.tick(now);
        core::mem::take(&mut self.actions)
    }

    /// When [`Event::Tick`] is due; `None` when nothing is being waited for.
    pub fn deadline(&self) -> Option<Instant> {
        let starts = self.unready().map(|(_, live)| live.started_at + START_MAX);
        let releases = self.links.values().filter_map(|link| link.release_by);
        let looks = self.suspects.values().filter_map(|suspicion| suspicion.look_at);
        let spawns = self.spawn_at.values().copied();
        let standby = self.standby.deadline();
        starts.chain(releases).chain(looks).chain(spawns).chain(standby).chain(self.stop_by).min()
    }

    /// Who has not said that it is ready, and is not dying.
    fn unready(&self) -> impl Iterator<Item = (Seat, Live)> {
        (self.facts.seats.iter())
            .filter_map(|(&seat, facts)| Some((seat, facts.live?)))
            .filter(|(seat, live)| live.stage < Stage::Ready && !self.doomed.contains_key(seat))
    }

    /// Whether that message may come from that seat at all. One that may not ends its sender
    /// ([`Event::Broken`]) and leaves nothing in the vault.
    pub fn permits(&self, seat: Seat, message: &FromDaemon) -> bool {
        let shards = self.facts.seats.keys().filter(|seat| seat.role == Role::Netd).count();
        match message {
            FromDaemon::KeepDevice { .. } => seat.role == Role::Nicd,
            FromDaemon::KeepSession { geometry, .. } => {
                let sound = geometry.checked().is_ok() && usize::from(geometry.shards) == shards;
                seat.role == Role::Sockd && sound
            }
            FromDaemon::DropSession { .. } | FromDaemon::Restart { .. } => seat.role == Role::Sockd,
            FromDaemon::Corrupt { peer, .. } => Pair::of(seat, *peer).is_some(),
            FromDaemon::Ready
            | FromDaemon::Released { .. }
            | FromDaemon::Stuck { .. }
            | FromDaemon::Rendezvous { .. } => true,
        }
    }

    /// Applies a fact and tells the standby; `then` follows when it has acknowledged it.
    fn deposit(&mut self, now: Instant, fact: Fact, then: Then) {
        let number = self.note(now, fact);
        if self.standby.is_told() {
            self.waiting.push_back((number, then));
        } else {
            self.follow(now, then);
        }
    }

    /// Applies a fact and tells the standby.
    fn note(&mut self, now: Instant, fact: Fact) -> u64 {
        self.facts.apply(&fact);
        if self.standby.is_told() {
            self.mirrored += 1;
            self.standby.sent(now, self.mirrored);
            self.actions.push(Action::Mirror { number: self.mirrored, fact });
        }
        self.mirrored
    }

    fn follow(&mut self, now: Instant, then: Then) {
        match then {
            Then::Welcome { seat, generation } => self.welcome(seat, generation),
            Then::Introduce { pair, generations } => self.rings_kept(now, pair, generations),
            Then::Pass { session, asker } => self.pass(now, session, asker),
            Then::Answer(asker) => self.answer(asker),
        }
    }

    fn answer(&mut self, Asker { seat, generation, request }: Asker) {
        if self.facts.is_live(seat, generation) {
            self.tell(seat, ToDaemon::Done { request });
        }
    }

    fn tell(&mut self, to: Seat, message: ToDaemon) {
        self.actions.push(Action::Tell { to, message });
    }

    fn heard(&mut self, now: Instant, seat: Seat, generation: Generation, message: FromDaemon) {
        if !self.facts.is_live(seat, generation) {
            return;
        }
        let asker = |request| Asker { seat, generation, request };
        match message {
            FromDaemon::Ready => self.ready(now, seat, generation),
            FromDaemon::Released { peer, generation } => self.released(now, seat, peer, generation),
            FromDaemon::KeepDevice { request } => {
                let fact = Fact::Device { nic: seat.index };
                self.deposit(now, fact, Then::Answer(asker(request)));
            }
            FromDaemon::KeepSession { request, session, geometry } => {
                self.keep_session(now, session, geometry, asker(request));
            }
            FromDaemon::DropSession { request, session } => {
                self.drop_session(now, session, asker(request));
            }
            FromDaemon::Stuck { peer, generation } => self.suspect(now, peer, generation),
            // INV-R4: its successor gets new rings, with the accuser too.
            FromDaemon::Corrupt { peer, generation } => {
                self.condemn(peer, generation, Fault::Misbehaved);
            }
            FromDaemon::Restart { request, seat, generation } => {
                self.restart(seat, generation, asker(request));
            }
            FromDaemon::Rendezvous { peer, name } => self.rendezvous(seat, generation, peer, name),
        }
    }

    /// Everything that was told is on its way: a successor need not say it again.
    fn flushed(&mut self, now: Instant, seat: Seat, generation: Generation) {
        if self.facts.live(seat).is_some_and(|live| live.generation == generation) {
            self.told_everything(now, seat, generation);
            self.passed_to(now, seat);
        }
    }

    fn tick(&mut self, now: Instant) {
        self.spawn_due(now);
        self.start_due(now);
        self.release_due(now);
        self.look_due(now);
        self.standby_due(now);
        self.stop_due(now);
    }
}
