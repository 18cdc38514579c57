//! Throughput, round trips and connection rate over the three paths, which take turns.

use super::load::{self, Service};
use super::paths::{Path, Paths};
use super::row::{Goal, Row, Series, rounded};
use super::{ROUNDS, Wanted, say};
use std::io;
use std::time::Duration;

/// How long a stream flows.
const STREAM: Duration = Duration::from_millis(1000);
/// Round trips of one measurement.
const TRIPS: u32 = 10_000;
/// Connections of one measurement, and its longest time.
const CONNECTIONS: (u32, Duration) = (5000, Duration::from_millis(700));

const PATHS: [Path; 3] = [Path::Stack, Path::Veth, Path::Forwarder];

/// The rows of this file.
pub const IDS: [&str; 5] = ["tcp_tap_to", "tcp_tap_from", "rr64_p50", "rr64_p99", "crr"];

/// Measures on every path in turn, once to warm up and then [`ROUNDS`] times.
fn in_turn<T>(
    what: &str,
    paths: &[Path],
    mut measure: impl FnMut(Path) -> io::Result<T>,
) -> io::Result<Vec<Vec<T>>> {
    let mut seen: Vec<Vec<T>> = paths.iter().map(|_| Vec::new()).collect();
    for round in 0..=ROUNDS {
        say(&format!("{what}: {round} of {ROUNDS}"));
        for (path, seen) in paths.iter().zip(&mut seen) {
            let value = measure(*path)
                .map_err(|error| io::Error::new(error.kind(), format!("{what} over {path:?}: {error}")))?;
            if round > 0 {
                seen.push(value);
            }
        }
    }
    Ok(seen)
}

/// What is asked for of [`IDS`].
///
/// # Errors
/// When a path can't be laid or a load fails.
pub fn rows(wanted: &Wanted) -> io::Result<Vec<Row>> {
    let paths = Paths::lay()?;
    let mut rows = Vec::new();
    if wanted.has("tcp_tap_to") {
        let _servers = paths.serve(Service::Sink)?;
        let seen = in_turn("tcp_tap_to", &PATHS, |path| load::send(path.addr(Service::Sink), STREAM))?;
        rows.push(bulk("tcp_tap_to", seen, 0.75, "≥ 0.75 × veth and ≥ 1.0 × forwarder"));
    }
    if wanted.has("tcp_tap_from") {
        let _servers = paths.serve(Service::Source)?;
        let seen = in_turn("tcp_tap_from", &PATHS, |path| load::receive(path.addr(Service::Source), STREAM))?;
        rows.push(bulk("tcp_tap_from", seen, 0.65, "≥ 0.65 × veth and ≥ 1.0 × forwarder"));
    }
    if wanted.has("rr64_p50") || wanted.has("rr64_p99") {
        let _servers = paths.serve(Service::Echo)?;
        let seen = in_turn("rr64", &PATHS, |path| load::round_trips(path.addr(Service::Echo), TRIPS))?;
        let half = |pick: fn(&(f64, f64)) -> f64| {
            seen.iter().map(|series| series.iter().map(pick).collect()).collect::<Vec<Vec<f64>>>()
        };
        if wanted.has("rr64_p50") {
            rows.push(round_trip("rr64_p50", half(|pair| pair.0), 1.0, "≤ 1.0 × forwarder"));
        }
        if wanted.has("rr64_p99") {
            rows.push(round_trip("rr64_p99", half(|pair| pair.1), 1.2, "≤ 1.2 × forwarder"));
        }
    }
    if wanted.has("crr") {
        let _servers = paths.serve(Service::Close)?;
        let (count, time) = CONNECTIONS;
        let mut seen =
            in_turn("crr", &PATHS[..2], |path| load::connections(path.addr(Service::Close), count, time))?;
        let baseline = Series::new("kernel_veth", seen.pop().unwrap_or_default());
        let ours = Series::new("stack", seen.pop().unwrap_or_default());
        let met = ours.median() >= 0.5 * baseline.median();
        rows.push(Row {
            id: "crr",
            unit: "1/s",
            higher: true,
            ours,
            baseline: Some(baseline),
            goal: Goal::new("≥ 0.5 × veth", met),
            more: Vec::new(),
        });
    }
    Ok(rows)
}

/// A row beside the forwarder, and how it stands to veth.
fn beside(id: &'static str, seen: Vec<Vec<f64>>) -> (Row, f64, f64) {
    let ids = ["stack", "kernel_veth", "kernel_tap_forwarder"];
    let mut series = ids.into_iter().zip(seen).map(|(id, values)| Series::new(id, values));
    let mut next = || series.next().expect("three paths");
    let (ours, veth, forwarder) = (next(), next(), next());
    let (veth_ratio, forwarder_ratio) = (ours.median() / veth.median(), forwarder.median() / veth.median());
    let row = Row {
        id,
        unit: "",
        higher: true,
        ours,
        baseline: Some(forwarder),
        goal: Goal::default(),
        more: vec![("veth_ratio", rounded(veth_ratio)), ("veth_median", rounded(veth.median()))],
    };
    (row, veth_ratio, forwarder_ratio)
}

fn bulk(id: &'static str, seen: Vec<Vec<f64>>, of_veth: f64, goal: &'static str) -> Row {
    let (mut row, veth_ratio, forwarder_ratio) = beside(id, seen);
    row.unit = "Gbit/s";
    // A forwarder below 0.35 of veth is a poor one, and proves nothing.
    let met = veth_ratio >= of_veth && row.ratio().is_some_and(|ratio| ratio >= 1.0);
    row.goal = Goal::new(goal, met && forwarder_ratio >= 0.35);
    row.more.push(("forwarder_veth_ratio", rounded(forwarder_ratio)));
    row
}

fn round_trip(id: &'static str, seen: Vec<Vec<f64>>, of_forwarder: f64, goal: &'static str) -> Row {
    let (mut row, ..) = beside(id, seen);
    (row.unit, row.higher) = ("µs", false);
    row.goal = Goal::new(goal, row.ratio().is_some_and(|ratio| ratio <= of_forwarder));
    row
}
