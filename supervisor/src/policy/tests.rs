//! The policy in a world of modelled daemons, a modelled standby, and deaths of all of them,
//! of the active supervisor also between any two actions. The world checks each action as it is
//! taken; at the end everything must be in service again.

use super::*;
use crate::config::test_group;
use crate::facts::SeatFacts;
use proptest::prelude::*;
use proto::arena::Geometry;
use proto::control::messages::GroupConfig;

const SESSIONS_MAX: usize = 1000;

#[derive(Debug, Clone)]
enum Told {
    Welcome(Generation, Vec<SessionId>),
    Introduce(Seat, Generation),
    Session(SessionId),
    Message(ToDaemon),
}

/// A daemon that keeps the rules of `proto::daemon`.
#[derive(Debug, Default)]
struct Daemon {
    generation: Generation,
    ready: bool,
    peers: BTreeMap<Seat, Generation>,
    met: BTreeMap<Seat, Generation>,
    sessions: BTreeSet<SessionId>,
    unanswered: Vec<FromDaemon>,
    /// What it said and nobody has heard: outlives a supervisor, not the daemon's end being noticed.
    said: VecDeque<FromDaemon>,
    /// What was sent to it.
    lane: VecDeque<Told>,
    /// What still lies in the active supervisor, and dies with it.
    queued: VecDeque<Told>,
    congested: bool,
    dead: Option<Ended>,
    deaf: bool,
}

#[derive(Debug)]
struct StandbyModel {
    hello: bool,
    facts: Facts,
    told: bool,
    /// Sent, not yet read: (number, fact), and after the past a mark.
    inbox: VecDeque<(u64, Fact)>,
    told_at: Option<u64>,
    dead: Option<Ended>,
}

struct World {
    group: GroupConfig,
    now: Instant,
    policy: Policy,
    daemons: BTreeMap<Seat, Daemon>,
    standby: Option<StandbyModel>,
    events: VecDeque<Event>,
    welcomed: BTreeMap<Seat, Generation>,
    kept: BTreeSet<SessionId>,
    next_session: u32,
    next_request: u64,
    next_pid: u32,
    /// The active supervisor dies after that many more actions.
    dies_after: Option<usize>,
    take_overs: usize,
    exited: bool,
    reports: Vec<Report>,
    /// What the programs that lie there say of themselves.
    verdict: Result<(), String>,
    /// Answers to wishes to replace somebody.
    restarted: Vec<Result<(), String>>,
}

fn geometry() -> Geometry {
    Geometry { shards: 2, active: 1, passive: 1, tx_pages: 1, rx_pages: 1 }
}

impl World {
    fn new() -> World {
        let group = test_group(1, 2);
        let mut facts = Facts::new(&group);
        facts.active.generation = Generation(1);
        let mut world = World {
            policy: Policy::new(facts, SESSIONS_MAX),
            group,
            now: Instant::from_millis(1_000_000),
            daemons: BTreeMap::new(),
            standby: None,
            events: VecDeque::from([Event::Begin]),
            welcomed: BTreeMap::new(),
            kept: BTreeSet::new(),
            next_session: 0,
            next_request: 0,
            next_pid: 100,
            dies_after: None,
            take_overs: 0,
            exited: false,
            reports: Vec::new(),
            verdict: Ok(()),
            restarted: Vec::new(),
        };
        world.settle();
        world
    }

    /// What the standby knows, if it could take over now.
    fn witness(&self) -> Option<&Facts> {
        self.standby.as_ref().filter(|standby| standby.hello && standby.dead.is_none()).map(|s| &s.facts)
    }

    fn settle(&mut self) {
        while let Some(event) = self.events.pop_front() {
            let actions = self.policy.on(self.now, event);
            for action in actions {
                if self.dies_after == Some(0) && self.can_take_over() {
                    self.dies_after = None;
                    self.active_dies();
                    break;
                }
                self.dies_after = self.dies_after.map(|left| left.saturating_sub(1));
                self.act(action);
            }
            self.flush();
        }
    }

    fn flush(&mut self) {
        for (&seat, daemon) in &mut self.daemons {
            if !daemon.congested && !daemon.queued.is_empty() {
                daemon.lane.append(&mut daemon.queued);
                let generation = daemon.generation;
                self.events.push_back(Event::Flushed { seat, generation });
            }
        }
    }

    fn can_take_over(&self) -> bool {
        // Everything that was sent to it arrives, so what counts is that all was sent.
        self.standby.as_ref().is_some_and(|standby| standby.told_at.is_some() && standby.dead.is_none())
    }

    fn active_dies(&mut self) {
        self.standby_reads(usize::MAX);
        let standby = self.standby.take().expect("looked at by the caller");
        assert!(standby.told, "all that was sent was read");
        let mut facts = standby.facts;
        facts.take_over(Ended::Signal(9));
        for daemon in self.daemons.values_mut() {
            daemon.queued.clear();
        }
        // An incarnation that the standby never heard of loses its lane and leaves.
        self.daemons.retain(|&seat, daemon| facts.is_live(seat, daemon.generation));
        self.policy = Policy::new(facts, SESSIONS_MAX);
        self.events.clear();
        self.events.push_back(Event::TakeOver);
        self.take_overs += 1;
        // Deaths are level-triggered: a fresh event queue reports them again.
        let dead: Vec<_> = self.daemons.iter().filter_map(|(&s, d)| d.dead.map(|e| (s, e))).collect();
        for (seat, ended) in dead {
            self.tell_death(seat, ended);
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Spawn { seat } => {
                assert!(!self.daemons.contains_key(&seat), "{seat} started beside its predecessor");
                let newest = self.policy.facts().seats[&seat].generation;
                self.daemons.insert(seat, Daemon { generation: newest.next(), ..Daemon::default() });
                self.next_pid += 1;
                self.events.push_back(Event::Spawned { seat, pid: self.next_pid });
            }
            Action::Welcome { seat, generation, sessions, .. } => {
                if let Some(facts) = self.witness() {
                    assert!(facts.is_live(seat, generation), "welcomed before the standby knew it");
                    assert!(sessions.iter().all(|name| facts.sessions.contains_key(name)));
                }
                let before = self.welcomed.insert(seat, generation).unwrap_or_default();
                assert!(generation > before, "generation {generation} after {before}");
                self.queue(seat, Told::Welcome(generation, sessions));
                self.queue(seat, Told::Message(ToDaemon::Complete));
            }
            Action::Introduce { to, peer, generation } => {
                let pair = Pair::of(to, peer).expect("a pair");
                if let Some(facts) = self.witness() {
                    assert!(facts.links.contains_key(&pair), "introduced before the standby knew it");
                }
                assert!(self.policy.facts().is_live(peer, generation));
                self.queue(to, Told::Introduce(peer, generation));
            }
            Action::Pass { to, session } => {
                if let Some(facts) = self.witness() {
                    assert!(facts.sessions.contains_key(&session), "passed before the standby knew it");
                }
                self.queue(to, Told::Session(session));
            }
            Action::Tell { to, message } => {
                if let ToDaemon::Restarted { result, .. } = &message {
                    self.restarted.push(result.clone());
                }
                self.queue(to, Told::Message(message));
            }
            Action::Inspect { seat, generation, asker } => {
                let verdict = self.verdict.clone();
                self.events.push_back(Event::Inspected { seat, generation, asker, verdict });
            }
            Action::Mirror { number, fact } => {
                if let Some(standby) = &mut self.standby {
                    standby.inbox.push_back((number, fact));
                }
            }
            Action::Transfer { number, facts } => {
                let first = number + 1 - facts.len() as u64;
                if let Some(standby) = &mut self.standby {
                    standby.inbox.extend((first..).zip(facts));
                    standby.told_at = Some(number);
                }
            }
            Action::Kill { seat, generation } => {
                let daemon = self.daemons.get_mut(&seat).filter(|daemon| daemon.generation == generation);
                if daemon.is_some_and(|daemon| daemon.dead.is_none()) {
                    self.die(seat, Ended::Signal(9));
                }
            }
            Action::Probe { seat, generation } => {
                if let Some(daemon) = self.daemons.get(&seat).filter(|daemon| daemon.dead.is_none()) {
                    let state = if daemon.deaf { b'T' } else { b'R' };
                    let sample = Sample { state, ran_ns: self.now.nanos() };
                    self.events.push_back(Event::Probed { seat, generation, sample });
                }
            }
            Action::SpawnStandby { .. } => {
                assert!(self.standby.is_none(), "two standbys");
                let facts = Facts::new(&self.group);
                let (inbox, told_at, dead) = (VecDeque::new(), None, None);
                self.standby = Some(StandbyModel { hello: false, facts, told: false, inbox, told_at, dead });
                self.events.push_back(Event::StandbySpawned { pid: 7 });
            }
            Action::ProbeStandby => {
                // A deaf one was stopped.
                let sample = Sample { state: b'T', ran_ns: 0 };
                self.events.push_back(Event::StandbyProbed { sample });
            }
            Action::KillStandby => self.standby_dies(Ended::Signal(9)),
            Action::Report(report) => self.reports.push(report),
            Action::Exit => {
                assert!(self.daemons.values().all(|daemon| daemon.dead.is_some()), "somebody is left");
                self.exited = true;
            }
            Action::ForgetIncarnation { seat } => drop(self.daemons.remove(&seat)),
            Action::MakeLink { .. } | Action::ForgetLink { .. } | Action::ForgetSession { .. } => {}
        }
    }

    fn queue(&mut self, to: Seat, told: Told) {
        if let Some(daemon) = self.daemons.get_mut(&to) {
            daemon.queued.push_back(told);
        }
    }

    fn die(&mut self, seat: Seat, ended: Ended) {
        if let Some(daemon) = self.daemons.get_mut(&seat).filter(|daemon| daemon.dead.is_none()) {
            daemon.dead = Some(ended);
            self.tell_death(seat, ended);
        }
    }

    fn tell_death(&mut self, seat: Seat, ended: Ended) {
        let generation = self.daemons[&seat].generation;
        while let Some(message) = self.daemons.get_mut(&seat).and_then(|daemon| daemon.said.pop_front()) {
            self.events.push_back(Event::Heard { seat, generation, message });
        }
        self.events.push_back(Event::Ended { seat, generation, ended });
    }

    fn standby_dies(&mut self, ended: Ended) {
        if let Some(standby) = &mut self.standby
            && standby.dead.is_none()
        {
            standby.dead = Some(ended);
            self.standby = None;
            self.events.push_back(Event::StandbyEnded { ended });
        }
    }

    fn standby_reads(&mut self, most: usize) {
        let Some(standby) = &mut self.standby else { return };
        let mut heard = None;
        for _ in 0..most {
            let Some((number, fact)) = standby.inbox.pop_front() else { break };
            standby.facts.apply(&fact);
            standby.told |= standby.told_at.is_some_and(|at| number >= at);
            heard = Some(number);
        }
        self.events.extend(heard.map(|number| Event::Acked { number }));
    }

    /// A daemon reads its lane and acts on it.
    fn daemon_reads(&mut self, seat: Seat) {
        let Some(daemon) = self.daemons.get_mut(&seat) else { return };
        if daemon.dead.is_some() || daemon.deaf {
            return;
        }
        while let Some(told) = daemon.lane.pop_front() {
            match told {
                Told::Welcome(generation, sessions) => {
                    assert_eq!(generation, daemon.generation);
                    daemon.sessions.extend(sessions);
                }
                Told::Introduce(peer, generation) => {
                    let met = daemon.met.entry(peer).or_default();
                    if generation > *met {
                        assert!(!daemon.peers.contains_key(&peer), "{seat} still holds what {peer} shared");
                        *met = generation;
                        daemon.peers.insert(peer, generation);
                    }
                }
                Told::Session(session) => drop(daemon.sessions.insert(session)),
                Told::Message(ToDaemon::PeerGone { peer, generation }) => {
                    if daemon.peers.get(&peer) == Some(&generation) {
                        daemon.peers.remove(&peer);
                    }
                    let met = daemon.met.entry(peer).or_default();
                    *met = generation.max(*met);
                    daemon.said.push_back(FromDaemon::Released { peer, generation });
                }
                Told::Message(ToDaemon::Complete) => {
                    daemon.ready = true;
                    daemon.said.push_back(FromDaemon::Ready);
                }
                Told::Message(ToDaemon::Done { request }) => {
                    let done = |message: &FromDaemon| match *message {
                        FromDaemon::KeepSession { request: number, session, .. } if number == request => {
                            Some(session)
                        }
                        _ => None,
                    };
                    let kept: Vec<SessionId> = daemon.unanswered.iter().filter_map(done).collect();
                    daemon.unanswered.retain(|message| done(message).is_none());
                    for session in kept {
                        if let Some(standby) = &self.standby
                            && standby.told
                        {
                            assert!(standby.facts.sessions.contains_key(&session));
                        }
                        self.kept.insert(session);
                    }
                }
                Told::Message(ToDaemon::TakeOver) => {
                    if daemon.ready {
                        daemon.said.push_back(FromDaemon::Ready);
                    }
                    daemon.said.extend(daemon.unanswered.iter().cloned());
                }
                Told::Message(ToDaemon::Stop) => return self.die(seat, Ended::Exit(0)),
                Told::Message(_) => {}
            }
        }
    }

    fn supervisor_hears(&mut self, seat: Seat) {
        let Some(daemon) = self.daemons.get_mut(&seat) else { return };
        let generation = daemon.generation;
        let said = daemon.said.drain(..).map(|message| Event::Heard { seat, generation, message });
        self.events.extend(said);
    }

    fn keep_session(&mut self) {
        let sockd = Seat::new(Role::Sockd, 0);
        let Some(daemon) = self.daemons.get_mut(&sockd).filter(|d| d.ready && d.dead.is_none()) else {
            return;
        };
        self.next_session += 1;
        self.next_request += 1;
        let (request, session) = (self.next_request, SessionId(self.next_session));
        let message = FromDaemon::KeepSession { request, session, geometry: geometry() };
        daemon.unanswered.push(message.clone());
        daemon.said.push_back(message);
    }

    fn wait(&mut self, time: Duration) {
        self.now = self.now + time;
        self.events.push_back(Event::Tick);
        self.settle();
    }

    fn everybody_works(&mut self) {
        if self.standby.as_ref().is_some_and(|standby| !standby.hello) {
            self.standby.as_mut().expect("looked at").hello = true;
            self.events.push_back(Event::StandbyHello);
        }
        self.standby_reads(usize::MAX);
        let seats: Vec<Seat> = self.daemons.keys().copied().collect();
        for seat in seats {
            self.daemon_reads(seat);
            self.supervisor_hears(seat);
        }
        self.settle();
    }

    /// Nobody fails any more; time passes until nothing moves.
    fn calm_down(&mut self) {
        self.dies_after = None;
        for daemon in self.daemons.values_mut() {
            daemon.congested = false;
        }
        self.flush();
        self.settle();
        let before = self.now;
        for _ in 0..100 {
            // Everybody is quicker than any deadline.
            (0..8).for_each(|_| self.everybody_works());
            if let Some(at) = self.policy.deadline() {
                let time = at.since(self.now);
                self.wait(time);
            }
        }
        // Delays of backoff and of people who are looked at, never the last resort.
        assert!(self.now.since(before) < START_MAX / 2, "somebody was forgotten");
    }

    fn check_service(&self) {
        let facts = self.policy.facts();
        for (seat, SeatFacts { live, .. }) in &facts.seats {
            let live = live.unwrap_or_else(|| panic!("{seat} is down"));
            assert_eq!(live.stage, Stage::Ready, "{seat}");
            assert_eq!(self.daemons[seat].generation, live.generation);
        }
        for pair in facts.pairs() {
            for (to, peer) in [(pair.first, pair.second), (pair.second, pair.first)] {
                let knows = self.daemons[&to].peers.get(&peer).copied();
                assert_eq!(knows, Some(self.daemons[&peer].generation), "{to} of {peer}");
            }
        }
        for (seat, daemon) in self.daemons.iter().filter(|(seat, _)| seat.role != Role::Nicd) {
            let missing: Vec<_> = self.kept.difference(&daemon.sessions).collect();
            assert!(missing.is_empty() || (seat.role == Role::Sockd), "{seat} misses {missing:?}");
        }
        let known: BTreeSet<SessionId> = facts.sessions.keys().copied().collect();
        assert!(self.kept.is_subset(&known), "a kept session was lost");
        assert!(self.policy.standby_is_told() && self.policy.waiting.is_empty());
        assert_eq!(self.standby.as_ref().map(|standby| &standby.facts), Some(facts), "the two know the same");
        assert!(self.reports.iter().all(|report| *report == Report::Started));
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Kill(usize),
    Crash(usize),
    Stop(usize),
    Congest(usize),
    Read(usize),
    Hear(usize),
    StandbyHello,
    StandbyReads(usize),
    StandbyKilled,
    ActiveDiesAfter(usize),
    KeepSession,
    Wait(u64),
    Work,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0usize..4).prop_map(Step::Kill),
        1 => (0usize..4).prop_map(Step::Crash),
        1 => (0usize..4).prop_map(Step::Stop),
        2 => (0usize..4).prop_map(Step::Congest),
        6 => (0usize..4).prop_map(Step::Read),
        6 => (0usize..4).prop_map(Step::Hear),
        3 => Just(Step::StandbyHello),
        6 => (1usize..40).prop_map(Step::StandbyReads),
        1 => Just(Step::StandbyKilled),
        3 => (0usize..12).prop_map(Step::ActiveDiesAfter),
        3 => Just(Step::KeepSession),
        2 => (1u64..700).prop_map(Step::Wait),
        4 => Just(Step::Work),
    ]
}

impl World {
    fn step(&mut self, step: Step) {
        let seats: Vec<Seat> = self.policy.facts().seats.keys().copied().collect();
        match step {
            Step::Kill(n) => self.die(seats[n], Ended::Signal(9)),
            Step::Crash(n) => self.die(seats[n], Ended::Exit(101)),
            Step::Stop(n) => {
                if let Some(daemon) = self.daemons.get_mut(&seats[n]) {
                    daemon.deaf = true;
                }
                // Somebody who waits complains.
                let generation =
                    self.daemons.get(&seats[n]).map(|daemon| daemon.generation).unwrap_or_default();
                let by = self.daemons.iter_mut().find(|(seat, daemon)| **seat != seats[n] && daemon.ready);
                if let Some((_, by)) = by {
                    by.said.push_back(FromDaemon::Stuck { peer: seats[n], generation });
                }
            }
            Step::Congest(n) => {
                if let Some(daemon) = self.daemons.get_mut(&seats[n]) {
                    daemon.congested = !daemon.congested;
                }
                self.flush();
            }
            Step::Read(n) => self.daemon_reads(seats[n]),
            Step::Hear(n) => self.supervisor_hears(seats[n]),
            Step::StandbyHello => {
                if let Some(standby) = self.standby.as_mut().filter(|standby| !standby.hello) {
                    standby.hello = true;
                    self.events.push_back(Event::StandbyHello);
                }
            }
            Step::StandbyReads(most) => self.standby_reads(most),
            Step::StandbyKilled => self.standby_dies(Ended::Signal(9)),
            Step::ActiveDiesAfter(actions) => self.dies_after = Some(actions),
            Step::KeepSession => self.keep_session(),
            Step::Wait(millis) => self.wait(Duration::from_millis(millis)),
            Step::Work => self.everybody_works(),
        }
        self.settle();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_dies_everything_comes_back(steps in prop::collection::vec(step(), 0..120)) {
        let mut world = World::new();
        world.calm_down();
        world.check_service();
        steps.into_iter().for_each(|step| world.step(step));
        for seat in world.policy.facts().seats.keys().copied().collect::<Vec<_>>() {
            if world.daemons.get(&seat).is_some_and(|daemon| daemon.deaf) {
                world.die(seat, Ended::Signal(9));
            }
        }
        world.calm_down();
        world.check_service();
    }

    #[test]
    fn a_stop_ends_everybody(steps in prop::collection::vec(step(), 0..60), after in prop::collection::vec(step(), 0..20)) {
        let mut world = World::new();
        steps.into_iter().for_each(|step| world.step(step));
        world.events.push_back(Event::Stop);
        world.settle();
        for step in after {
            if !world.exited {
                world.step(step);
            }
        }
        world.dies_after = None;
        for _ in 0..20 {
            // A wish that died with the active supervisor is said again, as `down` does.
            if !world.exited && !world.policy.facts().stopping {
                world.events.push_back(Event::Stop);
            }
            if !world.exited {
                (0..8).for_each(|_| world.everybody_works());
                world.wait(STOP_MAX);
            }
        }
        prop_assert!(world.exited);
    }

    #[test]
    fn a_fresh_standby_comes_to_know_the_same(steps in prop::collection::vec(step(), 0..120)) {
        let mut world = World::new();
        steps.into_iter().for_each(|step| world.step(step));
        let facts = world.policy.facts();
        let mut retold = Facts::new(&world.group);
        facts.retold().iter().for_each(|fact| retold.apply(fact));
        prop_assert_eq!(&retold, facts);
    }
}

fn up() -> World {
    let mut world = World::new();
    world.calm_down();
    world.check_service();
    world
}

const NETD: Seat = Seat::new(Role::Netd, 0);

#[test]
fn a_death_from_outside_is_followed_by_a_start_at_once() {
    let mut world = up();
    for _ in 0..20 {
        world.die(NETD, Ended::Signal(9));
        let before = world.now;
        world.settle();
        assert!(world.daemons.contains_key(&NETD), "started again");
        (0..5).for_each(|_| world.everybody_works());
        assert_eq!(world.now, before);
        world.check_service();
    }
}

#[test]
fn failures_are_slowed_down_from_the_third_on() {
    let mut world = up();
    let mut delays = Vec::new();
    for _ in 0..7 {
        world.die(NETD, Ended::Exit(101));
        world.settle();
        let before = world.now;
        while !world.daemons.contains_key(&NETD) {
            let at = world.policy.deadline().expect("a start is due");
            world.wait(at.since(world.now));
        }
        delays.push(world.now.since(before).as_millis());
        (0..5).for_each(|_| world.everybody_works());
    }
    assert_eq!(delays, [0, 0, 125, 250, 500, 1000, 1000]);
    world.wait(Duration::from_secs(11));
    world.die(NETD, Ended::Exit(101));
    world.settle();
    assert!(world.daemons.contains_key(&NETD), "what lies back is forgotten");
}

#[test]
fn a_refused_configuration_is_not_tried_again() {
    let mut world = up();
    world.die(NETD, Ended::Exit(6));
    world.settle();
    world.wait(Duration::from_secs(60));
    assert!(!world.daemons.contains_key(&NETD) && !world.exited);
    let mut world = World::new();
    world.die(NETD, Ended::Exit(6));
    world.settle();
    assert_eq!(world.reports, [Report::Failed { seat: NETD, ended: Ended::Exit(6) }]);
    (0..5).for_each(|_| world.everybody_works());
    assert!(world.exited, "the start is given up");
}

#[test]
fn a_silent_peer_is_killed_and_a_starved_one_is_given_time() {
    let mut world = up();
    // netd does not let go of a dead nicd's rings: it is stopped.
    world.daemons.get_mut(&NETD).expect("up").deaf = true;
    world.die(Seat::new(Role::Nicd, 0), Ended::Signal(9));
    world.settle();
    world.wait(ANSWER_MAX - Duration::from_millis(1));
    assert!(!world.daemons[&NETD].deaf || world.daemons[&NETD].dead.is_none());
    let old = world.daemons[&NETD].generation;
    world.wait(Duration::from_millis(1));
    world.calm_down();
    assert!(world.daemons[&NETD].generation > old);
    world.check_service();
    // Runnable without a core: not before its time.
    let mut policy = world.policy;
    let generation = policy.facts().live(NETD).expect("up").generation;
    let starved = Sample { state: b'R', ran_ns: 5 };
    let start = world.now;
    let complain = |policy: &mut Policy, now| {
        let message = FromDaemon::Stuck { peer: NETD, generation };
        let seat = Seat::new(Role::Nicd, 0);
        let by = policy.facts().live(seat).expect("up").generation;
        policy.on(now, Event::Heard { seat, generation: by, message })
    };
    let mut killed_at = None;
    for tenths in 0..30 {
        let now = start + Duration::from_millis(100 * tenths);
        let mut actions = if tenths % 5 == 0 { complain(&mut policy, now) } else { Vec::new() };
        actions.extend(policy.on(now, Event::Tick));
        if actions.iter().any(|action| matches!(action, Action::Probe { .. })) {
            actions = policy.on(now, Event::Probed { seat: NETD, generation, sample: starved });
        }
        if actions.iter().any(|action| matches!(action, Action::Kill { seat, .. } if *seat == NETD)) {
            killed_at = killed_at.or(Some(now.since(start).as_millis()));
        }
    }
    assert_eq!(killed_at, Some(1500), "500 ms had passed with the one who complained");
}

#[test]
fn a_deaf_standby_holds_things_up_for_half_a_second() {
    let mut world = up();
    world.die(NETD, Ended::Signal(9));
    world.settle();
    let generation = world.daemons[&NETD].generation;
    assert_ne!(world.welcomed[&NETD], generation, "the standby has not acknowledged");
    world.wait(ANSWER_MAX);
    assert_eq!(world.welcomed[&NETD], generation, "it was killed, and nobody is left to wait for");
}

const NICD: Seat = Seat::new(Role::Nicd, 0);
const SOCKD: Seat = Seat::new(Role::Sockd, 0);

impl World {
    fn hear(&mut self, from: Seat, message: FromDaemon) {
        let generation = self.daemons[&from].generation;
        self.events.push_back(Event::Heard { seat: from, generation, message });
        self.settle();
    }

    fn replace(&mut self, seat: Seat, generation: Generation) {
        self.hear(SOCKD, FromDaemon::Restart { request: 77, seat, generation });
    }
}

#[test]
fn one_who_broke_the_rules_of_a_ring_is_replaced_and_introduced_anew() {
    for (accuser, accused) in [(NETD, NICD), (NICD, NETD), (SOCKD, NETD), (NETD, SOCKD)] {
        let mut world = up();
        let old = world.daemons[&accused].generation;
        let message = FromDaemon::Corrupt { peer: accused, generation: old };
        assert!(world.policy.permits(accuser, &message));
        world.hear(accuser, message.clone());
        world.calm_down();
        assert_eq!(world.daemons[&accused].generation, old.next(), "{accused}");
        world.check_service();
        // Said of one who is dead it changes nothing.
        world.hear(accuser, message);
        world.calm_down();
        assert_eq!(world.daemons[&accused].generation, old.next(), "{accused}");
    }
    let world = up();
    let stranger = FromDaemon::Corrupt { peer: SOCKD, generation: Generation(1) };
    assert!(!world.policy.permits(NICD, &stranger), "they share no ring");
}

#[test]
fn a_program_that_fits_takes_over_and_another_one_does_not() {
    let mut world = up();
    for seat in [NICD, NETD, SOCKD] {
        let old = world.daemons[&seat].generation;
        world.verdict = Err("it speaks another layout".into());
        world.replace(seat, old);
        world.calm_down();
        assert_eq!(world.daemons[&seat].generation, old, "{seat} goes on untouched");
        assert_eq!(world.restarted.pop(), Some(world.verdict.clone()));
        world.verdict = Ok(());
        world.replace(seat, old);
        world.calm_down();
        assert_eq!(world.daemons[&seat].generation, old.next(), "{seat}");
        assert_eq!(world.restarted.pop(), Some(Ok(())));
        world.check_service();
        // The wish comes again, as after a take-over: it is fulfilled already.
        world.replace(seat, old);
        world.calm_down();
        assert_eq!(world.daemons[&seat].generation, old.next(), "{seat}");
        assert_eq!(world.restarted.pop(), Some(Ok(())));
    }
    world.replace(Seat::new(Role::Nicd, 7), Generation(1));
    assert!(matches!(world.restarted.pop(), Some(Err(_))), "there is no such interface");
    let wish = FromDaemon::Restart { request: 1, seat: NICD, generation: Generation(1) };
    assert!(world.policy.permits(SOCKD, &wish) && !world.policy.permits(NETD, &wish));
}

#[test]
fn upgrades_do_not_count_as_failures() {
    let mut world = up();
    for _ in 0..10 {
        let (before, old) = (world.now, world.daemons[&NETD].generation);
        world.replace(NETD, old);
        assert!(world.daemons.get(&NETD).is_some_and(|daemon| daemon.generation == old.next()), "at once");
        (0..5).for_each(|_| world.everybody_works());
        assert_eq!(world.now, before);
        world.check_service();
    }
}

#[test]
fn what_is_not_a_seats_to_say_is_not_permitted() {
    let world = up();
    let keep = FromDaemon::KeepSession { request: 1, session: SessionId(1), geometry: geometry() };
    let sockd = Seat::new(Role::Sockd, 0);
    assert!(world.policy.permits(sockd, &keep) && !world.policy.permits(NETD, &keep));
    let other = Geometry { shards: 3, ..geometry() };
    let keep = FromDaemon::KeepSession { request: 1, session: SessionId(1), geometry: other };
    assert!(!world.policy.permits(sockd, &keep), "of another group");
    assert!(!world.policy.permits(sockd, &FromDaemon::KeepDevice { request: 1 }));
}
