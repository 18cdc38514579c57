//! Silence at a kill: 1000 connections to an echo server on the stack, 64 of them moving 1 Gbit/s
//! together (half of it each way), and every process of the group killed in turn.
//!
//! Windows of one second alternate: one without a kill, one that begins with a kill. In each the
//! longest gap of every loaded connection counts; a row's values are the medians (or 99th percentiles)
//! of the windows. At a kill of netd only connections with several segments under way count, unless at
//! some kill none had (the row says which, and how it is with all). The next window begins only when the group is whole and bytes move.

use super::paths::stack_spec;
use super::plot::{self, Sample};
use super::row::{Goal, Row, Series, rounded};
use super::{ROUNDS, Wanted, say};
use crate::process::group::{Group, Role, kernel_sockets};
use crate::process::{autopsy, fresh_seed, wait_until};
use crate::remote::fleet::{Fleet, Load, Silence, Silences};
use hdrhistogram::Histogram;
use rustix::process::Signal;
use serde_json::json;
use std::io;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Connections, and how many of them are loaded.
const CONNECTIONS: usize = 1000;
const LOADED: usize = 64;
/// Bytes a second that all loaded connections send, and get back: 1 Gbit/s both ways together.
const RATE: u64 = 1_000_000_000 / 8 / 2;
/// Bytes that a connection may be ahead of its echo: the kernel's window for some milliseconds.
const AHEAD: u64 = 128 * 1024;
/// How long a window is.
const WINDOW: Duration = Duration::from_secs(1);
/// How long healing may take before the run is given up.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often the throughput is looked at for the plot.
const GRAIN: Duration = Duration::from_millis(10);

const STACK: &str = "10.79.5.2";
const ECHO: u16 = 7007;
const ROLES: [Role; 4] = [Role::Nicd, Role::Netd, Role::Sockd, Role::Supervisor];

/// The rows of this file.
pub const IDS: [&str; 8] = [
    "silence_nicd_median",
    "silence_nicd_p99",
    "silence_netd_median",
    "silence_netd_p99",
    "silence_sockd_median",
    "silence_sockd_p99",
    "silence_supervisor_median",
    "silence_supervisor_p99",
];

/// A kill: when, since the beginning, and of whom.
struct Kill {
    at: Duration,
    role: Role,
    /// Bytes sent and not acknowledged at that moment.
    in_flight: u64,
    calm: &'static str,
    struck: &'static str,
}

fn failed(why: impl Into<String>) -> io::Error {
    io::Error::other(why.into())
}

/// What is asked for of [`IDS`].
///
/// # Errors
/// When the group does not heal, or a connection is lost.
pub fn rows(wanted: &Wanted) -> io::Result<Vec<Row>> {
    let roles: Vec<Role> = ROLES
        .into_iter()
        .filter(|role| ["median", "p99"].iter().any(|q| wanted.has(&format!("silence_{role}_{q}"))))
        .collect();
    let group = Group::up(&stack_spec("tap:axls0".into(), &format!("{STACK}/24"), Some("10.79.5.1/24")))?;
    let _echo = group.example("echo", &[&ECHO.to_string()])?;
    let to: SocketAddr = format!("{STACK}:{ECHO}").parse().expect("an address");
    let patience = Duration::from_secs(1);
    if !wait_until(PATIENCE, || std::net::TcpStream::connect_timeout(&to, patience).is_ok()) {
        return Err(failed("the echo server does not listen"));
    }
    say(&format!("silence: {CONNECTIONS} connections"));
    let load = Load {
        loaded: LOADED,
        ahead: AHEAD,
        rate: RATE / LOADED as u64,
        murmur_every: Duration::from_millis(20),
        seed: fresh_seed(),
    };
    let fleet = Fleet::launch(kernel_sockets(CONNECTIONS, to)?, load)?;
    std::thread::sleep(WINDOW);
    let (samples, stop, begun) = (Mutex::new(Vec::new()), AtomicBool::new(false), Instant::now());
    let kills = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let sample = Sample { at: begun.elapsed(), bytes: fleet.bytes() };
                samples.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(sample);
                std::thread::sleep(GRAIN);
            }
        });
        let kills = strike(&group, &fleet, &roles, begun);
        stop.store(true, Ordering::Relaxed);
        kills
    })?;
    let samples = samples.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    let report = fleet.finish(Duration::from_secs(30))?;
    if let Some(lost) = report.lost.first() {
        return Err(failed(format!("{} connections lost: {lost}", report.lost.len())));
    }
    if report.bytes_wrong > 0 {
        return Err(failed(format!("{} bytes wrong", report.bytes_wrong)));
    }
    if let Some(path) = &wanted.plot {
        let marks: Vec<(Duration, &str)> = kills.iter().map(|kill| (kill.at, kill.role.name())).collect();
        std::fs::write(path, plot::svg(&samples, &marks))?;
    }
    let rate = rate(&samples);
    say(&format!("silence: {rate:.2} Gbit/s both ways together, kills included"));
    let mut rows = Vec::new();
    for role in roles {
        rows.extend(rows_of(role, &kills, &report.silences, rate, wanted));
    }
    Ok(rows)
}

/// Kills every role in turn, [`ROUNDS`] times.
fn strike(group: &Group, fleet: &Fleet, roles: &[Role], begun: Instant) -> io::Result<Vec<Kill>> {
    let mut kills = Vec::new();
    for round in 0..ROUNDS {
        for &role in roles {
            say(&format!("silence: {role}, {} of {ROUNDS}", round + 1));
            let label = |what: &str| -> &'static str { format!("{role} {round} {what}").leak() };
            let (calm, struck) = (label("calm"), label("struck"));
            fleet.watch(Some(calm));
            std::thread::sleep(WINDOW);
            let victim = group.find(role).ok_or_else(|| failed(format!("{role} is gone by itself")))?;
            let in_flight = fleet.in_flight();
            fleet.watch(Some(struck));
            let at = begun.elapsed();
            Group::signal(&victim, Signal::KILL);
            std::thread::sleep(WINDOW);
            let healed = || group.find(role).is_some_and(|row| row.pid != victim.pid) && group.whole();
            if !wait_until(PATIENCE, healed) {
                return Err(failed(format!("{role}: not whole again\n{}", autopsy::text(group))));
            }
            let moved = fleet.bytes();
            if !wait_until(PATIENCE, || fleet.bytes() > moved) {
                return Err(failed(format!("{role}: nothing moves any more\n{}", autopsy::text(group))));
            }
            fleet.watch(None);
            kills.push(Kill { at, role, in_flight, calm, struck });
        }
    }
    Ok(kills)
}

/// Gbit/s both ways together.
fn rate(samples: &[Sample]) -> f64 {
    let (Some(first), Some(last)) = (samples.first(), samples.last()) else { return 0.0 };
    let time = (last.at - first.at).as_secs_f64().max(1e-9);
    (last.bytes - first.bytes) as f64 * 8.0 * 2.0 / time / 1e9
}

fn rows_of(role: Role, kills: &[Kill], silences: &Silences, rate: f64, wanted: &Wanted) -> Vec<Row> {
    let kills: Vec<&Kill> = kills.iter().filter(|kill| kill.role == role).collect();
    let in_flight: Vec<u64> = kills.iter().map(|kill| kill.in_flight).collect();
    let mut rows = Vec::new();
    for (name, quantile) in [("median", 0.5), ("p99", 0.99)] {
        let wish = format!("silence_{role}_{name}");
        let Some(id) = IDS.into_iter().find(|id| *id == wish && wanted.has(id)) else { continue };
        let of = |label: fn(&Kill) -> &'static str, connections: fn(&Silence) -> Histogram<u64>| {
            let windows = kills.iter().filter_map(|kill| silences.get(label(kill)));
            let gaps = windows.map(connections).filter(|gaps| !gaps.is_empty());
            gaps.map(|gaps| gaps.value_at_quantile(quantile) as f64 / 1000.0).collect::<Vec<f64>>()
        };
        // A connection with little under way waits for the remote's own timer, whatever the stack does.
        let counted: fn(&Silence) -> Histogram<u64> = match role {
            Role::Netd => |silence| silence.several.clone(),
            _ => Silence::all,
        };
        let mut struck = of(|kill| kill.struck, counted);
        let several = struck.len() == kills.len();
        if !several {
            // At that rate they rarely have: then all of them count, which is no easier.
            struck = of(|kill| kill.struck, Silence::all);
        }
        let all = Series::new("all", of(|kill| kill.struck, Silence::all));
        let ours = Series::new("kill", struck);
        let calm = Series::new("no_kill", of(|kill| kill.calm, Silence::all));
        let ratio = ours.median() / calm.median().max(1e-9);
        let goal = match (role, name) {
            (Role::Netd, "median") => Goal::new("≤ 20 ms", ours.median() <= 20.0),
            (Role::Netd | Role::Nicd, "p99") => Goal::new("≤ 50 ms", ours.median() <= 50.0),
            (Role::Sockd | Role::Supervisor, "p99") => Goal::new("≤ 1.2 × no kill", ratio <= 1.2),
            _ => Goal::default(),
        };
        let more = vec![
            ("all_connections", rounded(all.median())),
            ("several_segments_alone", json!(several && role == Role::Netd)),
            ("gbits", rounded(rate)),
            ("bytes_in_flight", json!(in_flight)),
        ];
        rows.push(Row { id, unit: "ms", higher: false, ours, baseline: Some(calm), goal, more });
    }
    rows
}
