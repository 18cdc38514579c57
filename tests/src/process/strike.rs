//! Kills at random times, each judged by what the connections saw.
//!
//! A kill counts only when bytes moved between the one before and it, and again after every victim's
//! successor was in service. The seed decides who and when; it is the caller's to print.

use super::group::{Group, ProcessRow, Role};
use super::wait_until;
use crate::remote::fleet::{Fleet, Silences};
use hdrhistogram::Histogram;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::ops::Range;
use std::time::{Duration, Instant};

/// How long a successor may take to be in service, and bytes to move again. Silence is judged by the
/// histograms; this only ends a run that can't go on.
const PATIENCE: Duration = Duration::from_secs(15);

/// What is required of bytes under way at a kill, for it to be one under load: sent by the kernel's sockets
/// and not acknowledged by the stack just before the signal or just after it, whichever is more.
pub const UNDER_LOAD: u64 = 64 * 1024;

/// How long a strike waits for a moment with that much under way: between two bursts there is less.
const LOAD_PATIENCE: Duration = Duration::from_millis(250);

/// The row of the windows in which nobody is struck.
pub const CALM: &str = "(no kill)";

/// Who dies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The row of the table it is counted in.
    pub label: &'static str,
    /// All of them at once.
    pub victims: Vec<Role>,
    /// And this one up to so much later, before the first is in service again.
    pub then: Option<(Role, Duration)>,
}

impl Plan {
    /// One process.
    pub fn one(role: Role) -> Plan {
        Plan { label: role.name(), victims: vec![role], then: None }
    }

    /// Every process but one supervisor.
    pub fn all_but(survivor: Role) -> Plan {
        let other = if survivor == Role::Supervisor { Role::Standby } else { Role::Supervisor };
        Plan { label: "all but one", victims: vec![Role::Nicd, Role::Netd, Role::Sockd, other], then: None }
    }

    /// A second death while the first is being repaired.
    pub fn during(first: Role, second: Role, within: Duration) -> Plan {
        Plan { label: "during restart", victims: vec![first], then: Some((second, within)) }
    }
}

/// What is known of one row of the table.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    /// Plans carried out.
    pub strikes: u64,
    /// Of those, the ones that count.
    pub counted: u64,
    /// Processes killed.
    pub killed: u64,
    /// Strikes with at least [`UNDER_LOAD`] bytes under way.
    pub loaded: u64,
    /// Connections lost from the strike to the next one.
    pub lost: u64,
    /// Wrong bytes from the strike to the next one.
    pub wrong: u64,
    /// Longest time until every seat was in service again.
    pub whole_after_max: Duration,
}

/// Carries out plans against a group under load.
pub struct Strikes<'a> {
    group: &'a Group,
    fleet: &'a Fleet,
    /// Bytes that have moved in all, whatever moves them.
    moved: Box<dyn Fn() -> u64 + 'a>,
    rng: StdRng,
    /// Time between two strikes, once everything is whole.
    pause: Range<Duration>,
    tallies: BTreeMap<&'static str, Tally>,
    last: (u64, u64, u64),
    last_label: Option<&'static str>,
    spares_die: u32,
}

impl<'a> Strikes<'a> {
    /// Strikes decided by `seed`, with pauses from a range.
    pub fn new(
        group: &'a Group,
        fleet: &'a Fleet,
        moved: impl Fn() -> u64 + 'a,
        seed: u64,
        pause: Range<Duration>,
    ) -> Self {
        let last = (moved(), fleet.lost(), fleet.wrong());
        Strikes {
            group,
            fleet,
            moved: Box::new(moved),
            rng: StdRng::seed_from_u64(seed),
            pause,
            tallies: BTreeMap::new(),
            last,
            last_label: None,
            spares_die: 0,
        }
    }

    /// The generator that decides, for the caller's own choices.
    pub fn rng(&mut self) -> &mut StdRng {
        &mut self.rng
    }

    /// From now on one strike in so many finds the group without its spares: they were killed just before.
    pub fn spares_die(&mut self, one_in: u32) {
        self.spares_die = one_in;
    }

    /// What was counted, by label.
    pub fn tallies(&self) -> &BTreeMap<&'static str, Tally> {
        &self.tallies
    }

    /// Waits for a random pause, kills, and waits until all is whole and bytes move again.
    ///
    /// # Errors
    /// When the group does not become whole or nothing moves any more, with what is known.
    pub fn strike(&mut self, plan: &Plan) -> Result<(), String> {
        let pause = self.rng.random_range(self.pause.clone());
        std::thread::sleep(pause);
        let before = self.last.0;
        if !wait_until(PATIENCE, || (self.moved)() > before) {
            return Err(format!(
                "no byte moved for {PATIENCE:?}, {:?} after the last strike, {:?}",
                pause, self.last_label
            ));
        }
        let victims = self.victims(plan)?;
        let mut before_it = 0;
        wait_until(LOAD_PATIENCE, || {
            before_it = self.fleet.in_flight();
            before_it >= UNDER_LOAD
        });
        self.settle_accounts();
        if self.spares_die > 0 && self.rng.random_range(0..self.spares_die) == 0 {
            for (_, pid) in self.group.spares() {
                // One that has left meanwhile is as good as killed.
                let _ = Pid::from_raw(pid.cast_signed()).map(|pid| kill_process(pid, Signal::KILL));
            }
        }
        let begun = Instant::now();
        victims.iter().for_each(|row| Group::signal(row, Signal::KILL));
        let under_way = before_it.max(self.fleet.in_flight());
        // From here on: what is under way now has nobody to answer it.
        self.fleet.watch(Some(plan.label));
        self.last_label = Some(plan.label);
        let second = self.second(plan)?;
        let dead: Vec<u32> = victims.iter().chain(&second).map(|row| row.pid).collect();
        let whole = || {
            let rows = self.group.processes();
            !rows.iter().any(|row| dead.contains(&row.pid)) && self.group.whole()
        };
        if !wait_until(PATIENCE, whole) {
            return Err(format!(
                "{}: not whole after {PATIENCE:?}: {:?}",
                plan.label,
                self.group.processes()
            ));
        }
        let whole_after = begun.elapsed();
        let at_whole = (self.moved)();
        let moved_after = wait_until(PATIENCE, || (self.moved)() > at_whole);
        let tally = self.tallies.entry(plan.label).or_default();
        tally.strikes += 1;
        tally.killed += dead.len() as u64;
        tally.counted += u64::from(moved_after);
        tally.loaded += u64::from(under_way >= UNDER_LOAD);
        tally.whole_after_max = tally.whole_after_max.max(whole_after);
        if !moved_after {
            return Err(format!("{}: no byte moved for {PATIENCE:?} after it", plan.label));
        }
        self.last.0 = (self.moved)();
        Ok(())
    }

    /// Windows in which nobody is struck, as long as those after a strike, under the label
    /// [`CALM`].
    pub fn calm(&mut self, windows: u32) {
        self.settle_accounts();
        self.last_label = None;
        for _ in 0..windows {
            self.fleet.watch(Some(CALM));
            let pause = self.rng.random_range(self.pause.clone());
            std::thread::sleep(pause);
        }
        self.end();
    }

    /// Ends the last window.
    pub fn end(&mut self) {
        self.fleet.watch(None);
        self.settle_accounts();
        self.last_label = None;
    }

    /// What was lost since the last strike is that strike's.
    fn settle_accounts(&mut self) {
        let (lost, wrong) = (self.fleet.lost(), self.fleet.wrong());
        if let Some(label) = self.last_label {
            let tally = self.tallies.entry(label).or_default();
            tally.lost += lost - self.last.1;
            tally.wrong += wrong - self.last.2;
        }
        (self.last.1, self.last.2) = (lost, wrong);
    }

    /// Of several shards one, chosen at random; all of them where all but one shall die.
    fn victims(&mut self, plan: &Plan) -> Result<Vec<ProcessRow>, String> {
        // Never both supervisors at once: one dies only while the other is in service.
        if !wait_until(PATIENCE, || self.group.whole()) {
            return Err(format!("{}: the group is not whole: {:?}", plan.label, self.group.processes()));
        }
        let serving: Vec<ProcessRow> =
            self.group.processes().into_iter().filter(|row| row.in_service).collect();
        let mut victims = Vec::new();
        for role in &plan.victims {
            let mut rows: Vec<ProcessRow> = serving.iter().filter(|row| row.role == *role).cloned().collect();
            if rows.is_empty() {
                return Err(format!("{role} is gone by itself"));
            }
            if plan.victims.len() == 1 {
                rows = vec![rows.swap_remove(self.rng.random_range(0..rows.len()))];
            }
            victims.extend(rows);
        }
        Ok(victims)
    }

    fn second(&mut self, plan: &Plan) -> Result<Option<ProcessRow>, String> {
        let Some((role, within)) = plan.then else { return Ok(None) };
        std::thread::sleep(self.rng.random_range(Duration::ZERO..within));
        let row = self.group.processes().into_iter().find(|row| row.role == role && row.pid != 0);
        let Some(row) = row else { return Err(format!("{role} was not running by itself")) };
        Group::signal(&row, Signal::KILL);
        Ok(Some(row))
    }
}

/// The table: what died, how often, what it cost. The silences are those of connections with several
/// segments under way; those with fewer stand behind.
pub fn table(tallies: &BTreeMap<&'static str, Tally>, connections: u64, silences: &Silences) -> String {
    let mut text = format!(
        "{:<16} {:>6} {:>8} {:>6} {:>6} {:>12} | {:>7} {:>10} {:>9} {:>9} | {:>7} {:>10} {:>9} {:>9}\n",
        "process",
        "kills",
        "counted",
        "kept",
        "lost",
        "bytes wrong",
        ">=4 out",
        "median ms",
        "p99 ms",
        "max ms",
        "fewer",
        "median ms",
        "p99 ms",
        "max ms"
    );
    let figures = |histogram: &Histogram<u64>| {
        let ms = |micros: u64| micros as f64 / 1000.0;
        match histogram.len() {
            0 => format!("{:>7} {:>10} {:>9} {:>9}", 0, "-", "-", "-"),
            n => format!(
                "{n:>7} {:>10.1} {:>9.1} {:>9.1}",
                ms(histogram.value_at_quantile(0.5)),
                ms(histogram.value_at_quantile(0.99)),
                ms(histogram.max()),
            ),
        }
    };
    for (label, silence) in silences {
        let (kills, counted, lost, wrong) = match tallies.get(label) {
            Some(t) => (t.killed.to_string(), t.counted.to_string(), t.lost, t.wrong),
            None => ("-".into(), "-".into(), 0, 0),
        };
        // A string takes whatever is written to it.
        let _ = writeln!(
            text,
            "{label:<16} {kills:>6} {counted:>8} {:>6} {lost:>6} {wrong:>12} | {} | {}",
            connections - lost,
            figures(&silence.several),
            figures(&silence.fewer),
        );
    }
    text
}
