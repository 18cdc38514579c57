//! Seeded simulation: two stacks, a bad network, random clients, deaths of every process between
//! any two effects, and an oracle that knows every byte.
//!
//! `AXOLOTL_SEED=N cargo test -p tests --test simulation -- --nocapture one_seed` replays one life
//! (with `AXOLOTL_TRACE=1` every segment is printed); `AXOLOTL_SEEDS=N` runs another number of them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use tests::crash::Point;
use tests::sim::life::{BUSY, DEATHS_MIN, Report, live};

/// Lives of one run, over all its tests.
const SEEDS: u64 = 1000;
/// Tests that share them.
const SHARES: u64 = 4;

fn share(number: u64) {
    let seeds = std::env::var("AXOLOTL_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(SEEDS);
    let mut sum = Report::default();
    let (mut lives, mut failed) = (0, Vec::new());
    for seed in (number..seeds).step_by(SHARES as usize) {
        let report = catch_unwind(AssertUnwindSafe(|| live(seed)));
        let Ok(report) = report else {
            failed.push((seed, "a panic".to_owned()));
            continue;
        };
        lives += 1;
        if let Some(failure) = report.failures.first() {
            failed.push((seed, failure.clone()));
            continue;
        }
        assert!(report.lasted >= BUSY, "seed {seed} lasted {:?}", report.lasted);
        assert!(report.deaths() >= DEATHS_MIN, "seed {seed}: {} deaths", report.deaths());
        sum.add(&report);
    }
    println!(
        "simulation: {lives} lives of {} virtual seconds together: {} deaths, {} connections, {} bytes, {} ends, \
         {} segments again, {} frames late, {} harmed, {} ranges kept, {} resumes, {} datagrams",
        sum.lasted.as_secs(),
        sum.deaths(),
        sum.conns,
        sum.bytes,
        sum.ends,
        sum.retransmissions,
        sum.late,
        sum.harmed,
        sum.kept_ranges,
        sum.resumes,
        sum.datagrams,
    );
    for ((who, before), count) in &sum.deaths {
        let before = before.map_or("between two turns".into(), |point| format!("before {point:?}"));
        println!("  {who} died {count} times {before}");
    }
    for (n, (seed, failure)) in failed.iter().enumerate() {
        println!("seed {seed}: {}", if n < 2 { failure } else { failure.lines().next().unwrap_or_default() });
        println!("  AXOLOTL_SEED={seed} cargo test -p tests --test simulation -- --nocapture one_seed");
    }
    assert!(failed.is_empty(), "{} of {lives} lives failed", failed.len());
    if seeds == SEEDS {
        everything_occurred(&sum);
    }
}

/// What the lives were meant to meet, they met.
fn everything_occurred(sum: &Report) {
    assert!(sum.retransmissions > 1_000, "hardly a segment was sent again");
    assert!(sum.late > 1_000, "hardly a frame was reordered");
    assert!(sum.harmed > 1_000, "hardly a frame was harmed");
    assert!(sum.kept_ranges > 10, "hardly a range out of order outlived a netd");
    assert!(sum.resumes > 1_000, "hardly a connection was resumed");
    use Point::*;
    let netd = [Payload, PageTable, CellPart, Selector, StackLine, Ring, Frame, Operation, Wake];
    let sockd = [CellPart, Selector, Operation, Message];
    let client = [Payload, ClientLine, Ring];
    for (who, points) in [("netd", &netd[..]), ("sockd", &sockd), ("client", &client)] {
        for point in points {
            assert!(sum.deaths.contains_key(&(who, Some(*point))), "no {who} died before {point:?}");
        }
    }
    for who in ["netd", "sockd", "nicd", "supervisor", "client"] {
        assert!(sum.deaths.contains_key(&(who, None)), "no {who} died between two turns");
    }
}

#[test]
fn first_share() {
    share(0);
}

#[test]
fn second_share() {
    share(1);
}

#[test]
fn third_share() {
    share(2);
}

#[test]
fn fourth_share() {
    share(3);
}

/// Replays the life of `AXOLOTL_SEED`.
#[test]
fn one_seed() {
    let Some(seed) = std::env::var("AXOLOTL_SEED").ok().and_then(|seed| seed.parse().ok()) else { return };
    let report = live(seed);
    println!("seed {seed}: {report:#?}");
    assert!(report.failures.is_empty(), "{}", report.failures.join("\n"));
}

/// The same seed is the same life: a failure can be replayed.
#[test]
fn a_life_can_be_replayed() {
    for seed in [3, 14, 159] {
        let (one, two) = (live(seed), live(seed));
        assert_eq!(format!("{one:?}"), format!("{two:?}"));
    }
}
