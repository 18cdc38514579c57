//! A random life: a minute or more of virtual time on a bad network, clients that come, talk, leave
//! and die, and deaths of every process at any moment. One seed is one life.

use super::scenario::the_end;
use crate::crash::Point;
use crate::world::host::Who;
use crate::world::network::{CLEAN, Faults};
use crate::world::plans::{Dialogue, Finish, Plan, Task};
use crate::world::rng::Rng;
use crate::world::{Config, Coverage, World};
use proto::Instant;
use proto::arena::line::want;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

/// How long clients go on doing something new.
pub const BUSY: Duration = Duration::from_secs(60);
/// Deaths of a life at least.
pub const DEATHS_MIN: u64 = 5;
/// Ports that each host listens on, one for each of its clients.
const PORTS: [u16; 2] = [8080, 8081];

/// What a life came to.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// What was wrong.
    pub failures: Vec<String>,
    /// Virtual time that passed.
    pub lasted: Duration,
    /// Deaths, by process and by the effect that did not happen any more.
    pub deaths: BTreeMap<(&'static str, Option<Point>), u64>,
    /// Connections that were planned.
    pub conns: u64,
    /// Bytes that were read and right.
    pub bytes: u64,
    /// Streams that were read to their ends.
    pub ends: u64,
    /// Segments whose bytes had been sent before.
    pub retransmissions: u64,
    /// Frames that came later than others that were sent after them.
    pub late: u64,
    /// Frames that were lost, doubled, corrupted.
    pub harmed: u64,
    /// Ranges out of order that outlived a netd.
    pub kept_ranges: u64,
    /// Connections that had to speak first after a restart.
    pub resumes: u64,
    /// Datagrams received.
    pub datagrams: u64,
}

impl Report {
    /// Deaths altogether.
    pub fn deaths(&self) -> u64 {
        self.deaths.values().sum()
    }

    /// Adds another life's figures.
    pub fn add(&mut self, other: &Report) {
        for (key, count) in &other.deaths {
            *self.deaths.entry(*key).or_default() += count;
        }
        self.lasted += other.lasted;
        self.conns += other.conns;
        self.bytes += other.bytes;
        self.ends += other.ends;
        self.retransmissions += other.retransmissions;
        self.late += other.late;
        self.harmed += other.harmed;
        self.kept_ranges += other.kept_ranges;
        self.resumes += other.resumes;
        self.datagrams += other.datagrams;
    }
}

fn faults(rng: &Rng) -> Faults {
    // One life in four has a good network, one a very bad one.
    let badness = *rng.pick(&[0, 1, 1, 4]);
    let delay = Duration::from_micros(rng.between(50, 15_000));
    Faults {
        loss_ppm: badness * rng.below(15_000) as u32,
        dup_ppm: badness * rng.below(8_000) as u32,
        reorder_ppm: badness * rng.below(30_000) as u32,
        corrupt_ppm: badness * rng.below(3_000) as u32,
        delay,
        hold: delay / 2 + Duration::from_micros(rng.below(8_000)),
        ..CLEAN
    }
}

/// Two directions of different length, bursts of losses, storms with losses up to 30 % in which long frames
/// may vanish. Drawn from a generator of its own, like all that was added later.
fn worse(faults: &mut Faults, rng: &Rng) {
    if rng.chance(400_000) {
        faults.behind = Duration::from_micros(rng.below(20_000));
    }
    // The oracle of patience counts on a good network where nothing is lost at random.
    if faults.loss_ppm == 0 {
        return;
    }
    if rng.chance(500_000) {
        (faults.burst, faults.burst_ppm) = (2 + rng.below(12) as u32, 200 + rng.below(2_000) as u32);
    }
    if rng.chance(500_000) {
        faults.storm_every = 2_000 + rng.below(8_000) as u32;
        faults.storm = 50 + rng.below(300) as u32;
        faults.storm_ppm = rng.below(300_000) as u32;
        faults.storm_mtu = *rng.pick(&[0, 0, 1280, 1100]);
    }
}

fn config(seed: u64, rng: &Rng) -> Config {
    let mut config = Config::new(seed);
    config.faults = faults(rng);
    config.mtu = *rng.pick(&[1500, 1500, 1500, 1280, 576, 9000]);
    config.rate = *rng.pick(&[1_250_000, 12_500_000, 125_000_000]);
    config.batch_max = *rng.pick(&[1, 4, 16, 64]);
    let least = Duration::from_micros(rng.between(500, 10_000));
    // Drawn from a generator of its own: a seed is the same life as ever but for it.
    config.offload = Rng::new(seed ^ 0x0ff1_0ad5).chance(500_000);
    config.v6 = !config.offload && config.mtu >= 1280 && Rng::new(seed ^ 0x06_86dd).chance(400_000);
    worse(&mut config.faults, &Rng::new(seed ^ 0x5703_1235));
    config.restart = (least, least + Duration::from_micros(rng.below(20_000)));
    config
}

fn plan(rng: &Rng) -> Plan {
    let total = match rng.below(10) {
        0 => 0,
        1..=5 => rng.below(4_000),
        6..=8 => rng.below(30_000),
        _ => rng.below(200_000),
    };
    let finish = match rng.below(20) {
        0..=11 => Finish::Orderly,
        12..=16 => Finish::AfterEnd,
        17..=18 => Finish::Close,
        _ => Finish::Abort,
    };
    let think = Duration::from_millis(*rng.pick(&[0, 0, 0, 2, 20]));
    Plan {
        total,
        write_max: *rng.pick(&[100, 3_000, 50_000, 1 << 20]),
        read_max: *rng.pick(&[200, 3_000, 50_000, 1 << 20]),
        think,
        finish,
        options: *rng.pick(&[0, 0, want::NODELAY, want::CORK, want::KEEPALIVE]),
    }
}

/// Small pieces of a long stream would take a life by themselves.
fn tame(mut plan: Plan) -> Plan {
    if !plan.think.is_zero() {
        plan.total = plan.total.min(60 * plan.write_max);
    }
    plan
}

/// A dialogue in which the reader of a long stream is not too slow either.
fn dialogue(rng: &Rng) -> Dialogue {
    let (mut active, mut passive) = (tame(plan(rng)), tame(plan(rng)));
    let patient = |plan: &mut Plan, total: u64| {
        if !plan.think.is_zero() {
            plan.read_max = plan.read_max.max(total / 50 + 1);
        }
    };
    patient(&mut active, passive.total);
    patient(&mut passive, active.total);
    // Both waiting for the other's end is no dialogue.
    if active.finish == Finish::AfterEnd && passive.finish == Finish::AfterEnd {
        active.finish = Finish::Orderly;
    }
    Dialogue { active, passive }
}

fn tasks(world: &mut World, rng: &Rng, host: usize, client: usize, start: Instant) -> Vec<Task> {
    let mut tasks = vec![Task::Listen { port: PORTS[client], backlog: 1 + rng.below(8) as u32 }];
    if client == 0 {
        tasks.push(Task::Datagram { port: 7000 });
    }
    let mut at = Duration::from_millis(200 + rng.below(500));
    let mut number = 0;
    // Busy at times, quiet at others.
    while at < BUSY {
        tasks.push(Task::Wait(start + at));
        for _ in 0..1 + rng.below(4) {
            let conn = world.plan(dialogue(rng));
            let port = 10_000 + 5_000 * client as u16 + number;
            number += 1;
            let from = if rng.chance(150_000) { 0 } else { port };
            let local = SocketAddr::new(world.hosts[host].ip(), from);
            let remote = SocketAddr::new(world.hosts[1 - host].ip(), *rng.pick(&PORTS));
            tasks.push(Task::Connect { conn, local, remote });
        }
        if client == 0 && rng.chance(200_000) {
            let remote = SocketAddr::new(world.hosts[1 - host].ip(), 7000);
            let (count, len) = (1 + rng.below(6) as u32, 16 + rng.below(1200) as u32);
            tasks.push(Task::Send { port: 7000, remote, count, len });
        }
        at += Duration::from_millis(*rng.pick(&[50, 800, 2_500, 6_000]) + rng.below(1_000));
    }
    tasks.push(Task::Settle);
    tasks
}

/// Deaths of a life: some between two turns, most after a number of effects.
fn plan_deaths(world: &mut World, rng: &Rng, start: Instant) {
    for _ in 0..DEATHS_MIN + 3 + rng.below(12) {
        let at = start + Duration::from_micros(rng.between(150_000, BUSY.as_micros() as u64));
        let host = rng.below(2) as usize;
        let who = match rng.below(20) {
            0..=10 => Who::Netd,
            11..=14 => Who::Sockd,
            15..=16 => Who::Nicd,
            17..=18 => Who::Supervisor,
            _ => Who::Client(rng.below(2) as usize),
        };
        match who {
            Who::Nicd | Who::Supervisor => world.kill_at(at, host, who),
            _ if rng.chance(250_000) => world.kill_at(at, host, who),
            _ => world.light_at(at, host, who, rng.below(*rng.pick(&[30, 300, 1_500]))),
        }
        // Now and then it dies again while it is coming back.
        if rng.chance(150_000) {
            world.hosts[host].fuses.entry(who).or_default().push_back(rng.below(60));
        }
    }
    for number in 0..DEATHS_MIN {
        let at = start + Duration::from_millis(rng.between(300, 59_000));
        let who = if number % 2 == 0 { Who::Netd } else { Who::Sockd };
        world.kill_at(at, rng.below(2) as usize, who);
    }
}

/// How long a life may take to its end when nobody begins anything any more.
const PATIENCE: Duration = Duration::from_secs(240);
/// The same where frames are lost in a row: a few retransmissions, which RFC 6298 §2.4 and §5.5 put up to two
/// minutes apart, all have to get through.
const STORMY_PATIENCE: Duration = Duration::from_secs(1200);

/// Lives the life of `seed`.
pub fn live(seed: u64) -> Report {
    let rng = Rng::new(seed ^ 0x6c69_6665);
    let mut world = World::new(config(seed, &rng));
    if world.config.faults.loss_ppm > 0 {
        for watch in &mut world.watch {
            watch.patience = None;
        }
    } else {
        for watch in &mut world.watch {
            watch.patience = Some(
                4 * (world.config.faults.delay + world.config.faults.behind) + Duration::from_millis(60),
            );
        }
    }
    let start = world.now;
    for host in 0..2 {
        for client in 0..2 {
            let tasks = tasks(&mut world, &rng, host, client, start);
            world.add_client(host, tasks);
        }
    }
    plan_deaths(&mut world, &rng, start);
    let faults = world.config.faults;
    let stormy = faults.burst > 0 || faults.storm_every > 0;
    world.shared.oracle.borrow_mut().questions_lost = stormy;
    world.run_until(start + BUSY, |_| false);
    world.network.calm_down();
    let patience = if stormy { STORMY_PATIENCE } else { PATIENCE };
    let done = world.run_until(start + BUSY + patience, World::all_done);
    let mut report = Report::default();
    if !done {
        for (watch, host) in world.watch.iter().zip(&world.hosts) {
            watch.only_cookies(host, &world.shared);
        }
    }
    let excused = {
        let oracle = world.shared.oracle.borrow();
        oracle.may_hang() && oracle.unfinished().is_empty()
    };
    if !world.failures().is_empty() {
        report.failures = world.failures();
    } else if !done && !excused {
        report.failures = vec![format!("it does not come to its end: {}", world.describe())];
    } else {
        report.failures = the_end(&mut world);
    }
    if report.failures.is_empty() && world.network.done.doubled == 0 {
        let datagrams = world.shared.datagrams.borrow();
        if let Some((which, count)) = datagrams.received.iter().find(|(_, count)| **count > 1) {
            report.failures.push(format!("datagram {which:?} came {count} times"));
        }
    }
    fill(&mut report, &world, start);
    report
}

fn fill(report: &mut Report, world: &World, start: Instant) {
    let Coverage { deaths, conns, .. } = &world.coverage;
    report.lasted = world.now.since(start);
    report.deaths = deaths.clone();
    report.conns = *conns;
    let oracle = world.shared.oracle.borrow();
    (report.bytes, report.ends) = (oracle.bytes_read, oracle.ends_seen);
    for watch in &world.watch {
        report.retransmissions += watch.retransmissions;
        report.kept_ranges += watch.kept_ranges;
        report.resumes += watch.resumes;
    }
    let done = &world.network.done;
    report.late = done.late;
    report.harmed = done.lost + done.doubled + done.corrupted;
    report.datagrams = world.shared.datagrams.borrow().received.len() as u64;
}
