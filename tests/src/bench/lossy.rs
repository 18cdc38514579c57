//! Paths that lose and reorder, and bottlenecks that are shared: the stack's sender beside the kernel's, both
//! through the same forwarder ([`super::impaired`]), CUBIC on both.

use super::impaired::{Impaired, Weather};
use super::load::{self, Service};
use super::paths::{Far, Server, ip, stack_spec};
use super::row::{Goal, Row, Series, rounded};
use super::{ROUNDS, Wanted, say};
use crate::process::group::Group;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// The rows of this file.
pub const IDS: [&str; 5] = ["loss1", "loss5", "reorder5", "fair2", "fair_kernel"];

/// How long a stream flows.
const STREAM: Duration = Duration::from_millis(3000);
/// How long two flows share a bottleneck: they need some time to find their shares.
const SHARED: Duration = Duration::from_millis(8000);
/// Half of the round trip.
const DELAY: Duration = Duration::from_millis(10);
/// What a reordered packet is late by.
const LATE: Duration = Duration::from_millis(2);
/// The shared bottleneck, and its queue: the product of rate and round trip.
const BOTTLENECK: u64 = 40_000_000;
const QUEUE: u64 = BOTTLENECK / 8 * 20 / 1000;
const BRIDGE: &str = "axlbr";

/// Who sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Stack,
    Kernel,
}

impl Side {
    fn addr(self) -> SocketAddr {
        let host = if self == Side::Stack { 2 } else { 3 };
        SocketAddr::from(([10, 79, 5, host], Service::Source.port()))
    }
}

struct Bad {
    path: Impaired,
    far: Far,
    _group: Group,
    _servers: [Server; 2],
}

impl Bad {
    fn lay() -> io::Result<Bad> {
        let far = Far::new()?;
        let group = Group::up(&stack_spec("tap:axls0".into(), "10.79.5.2/24", None))?;
        ip(&format!("link add {BRIDGE} type bridge"))?;
        ip(&format!("link set axls0 master {BRIDGE}"))?;
        ip(&format!("addr add 10.79.5.3/24 dev {BRIDGE}"))?;
        ip(&format!("link set {BRIDGE} up"))?;
        let path = Impaired::lay(&far, BRIDGE)?;
        // Each measurement is a first meeting.
        let _ = std::fs::write("/proc/sys/net/ipv4/tcp_no_metrics_save", "1");
        let _ = std::fs::write("/proc/sys/net/ipv4/tcp_congestion_control", "cubic");
        let servers = [Server::on(&group, Service::Source)?, Server::here(Service::Source)?];
        Ok(Bad { path, far, _group: group, _servers: servers })
    }

    /// Mbit/s of flows from these sides that run at one time.
    fn flows(&self, sides: &[Side], span: Duration, weather: Weather) -> io::Result<Vec<f64>> {
        self.path.set(weather);
        std::thread::scope(|scope| {
            let runs: Vec<_> = sides
                .iter()
                .map(|side| {
                    let addr = side.addr();
                    scope.spawn(move || self.far.inside(|| load::receive(addr, span)))
                })
                .collect();
            let done = runs.into_iter().map(|run| match run.join() {
                Ok(outcome) => outcome.map(|gbits| gbits * 1000.0),
                Err(panic) => std::panic::resume_unwind(panic),
            });
            done.collect()
        })
    }

    fn one(&self, side: Side, weather: Weather) -> io::Result<f64> {
        Ok(self.flows(&[side], STREAM, weather)?[0])
    }
}

/// Both sides in turn, under the same seeds.
fn both(what: &str, mut measure: impl FnMut(Side, u64) -> io::Result<f64>) -> io::Result<(Series, Series)> {
    let (mut ours, mut kernel) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS as u64 {
        say(&format!("{what}: {} of {ROUNDS}", round + 1));
        ours.push(measure(Side::Stack, round)?);
        kernel.push(measure(Side::Kernel, round)?);
    }
    Ok((Series::new("stack", ours), Series::new("kernel", kernel)))
}

fn row(id: &'static str, unit: &'static str, pair: (Series, Series), goal: Goal) -> Row {
    let (ours, kernel) = pair;
    Row { id, unit, higher: true, ours, baseline: Some(kernel), goal, more: Vec::new() }
}

/// What is asked for of [`IDS`].
///
/// # Errors
/// When the path can't be laid or a load fails.
pub fn rows(wanted: &Wanted) -> io::Result<Vec<Row>> {
    let bad = Bad::lay()?;
    let mut rows = Vec::new();
    let calm = Weather { delay: DELAY, late: LATE, ..Weather::default() };
    for (id, permille) in [("loss1", 10), ("loss5", 50)] {
        if wanted.has(id) {
            let lossy = |seed| Weather { loss_permille: permille, seed, ..calm };
            let pair = both(id, |side, seed| bad.one(side, lossy(seed)))?;
            let met = pair.0.median() >= pair.1.median();
            rows.push(row(id, "Mbit/s", pair, Goal::new("≥ 1.0 × kernel", met)));
        }
    }
    if wanted.has("reorder5") {
        // A rate of its own, so that the window and not the machine is what limits.
        let steady = Weather { rate: BOTTLENECK, queue: 4 * QUEUE, ..calm };
        let pair = both("reorder5", |side, seed| {
            let without = bad.one(side, Weather { seed, ..steady })?;
            Ok(bad.one(side, Weather { reorder_permille: 50, seed, ..steady })? / without)
        })?;
        let met = pair.0.median() >= 0.9;
        rows.push(row("reorder5", "of the rate without", pair, Goal::new("≥ 0.9", met)));
    }
    let shared = |seed| Weather { rate: BOTTLENECK, queue: QUEUE, seed, ..calm };
    if wanted.has("fair2") {
        let pair = both("fair2", |side, seed| Ok(jain(&bad.flows(&[side, side], SHARED, shared(seed))?)))?;
        let met = pair.0.median() >= 0.95;
        rows.push(row("fair2", "Jain's index", pair, Goal::new("≥ 0.95", met)));
    }
    if wanted.has("fair_kernel") {
        let mut shares = Vec::new();
        let mut together = Vec::new();
        for round in 0..ROUNDS as u64 {
            say(&format!("fair_kernel: {} of {ROUNDS}", round + 1));
            let rates = bad.flows(&[Side::Stack, Side::Kernel], SHARED, shared(round))?;
            shares.push(rates[0] / rates[1]);
            together.push(rates[0] + rates[1]);
        }
        let ours = Series::new("stack", shares);
        let met = (0.7..=1.4).contains(&ours.median());
        let together = Series::new("together", together).median();
        rows.push(Row {
            id: "fair_kernel",
            unit: "of the kernel's share",
            higher: true,
            ours,
            baseline: None,
            goal: Goal::new("0.7 to 1.4", met),
            more: vec![("together_mbits", rounded(together))],
        });
    }
    Ok(rows)
}

/// Jain's index: 1 where all have the same.
fn jain(rates: &[f64]) -> f64 {
    let sum: f64 = rates.iter().sum();
    let squares: f64 = rates.iter().map(|rate| rate * rate).sum();
    if squares == 0.0 { 0.0 } else { sum * sum / (rates.len() as f64 * squares) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_of_equals_is_one() {
        assert_eq!(jain(&[5.0, 5.0]), 1.0);
        assert!((jain(&[1.0, 0.0]) - 0.5).abs() < 1e-9);
    }
}
