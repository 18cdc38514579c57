//! What a connection costs in memory, in netd and in what it shares, with very many of them.
//!
//! A program of its own: it looks at its resident set.

#[allow(dead_code, reason = "shared with the count of instructions")]
mod crowd;

use crowd::Crowd;

/// Bytes of everything together that a connection may take (cells, place, netd's own).
const BYTES_MAX: u64 = 2048;
const CONNECTIONS: u32 = 100_000;
/// Made before the first look: tables have their first pages then.
const BEFORE: u32 = 5_000;

/// Resident bytes of this process: `Rss` of smaps_rollup, proc(5).
fn resident() -> u64 {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").expect("proc is mounted");
    let line = rollup.lines().find(|line| line.starts_with("Rss:")).expect("a line for it");
    let kib: u64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number");
    kib * 1024
}

#[test]
#[ignore = "a minute, and 4 GiB: cargo test --release -p netd --test memory -- --ignored --nocapture"]
fn a_million_connections_take_as_much_each() {
    const MILLION: u32 = 1_000_000;
    let mut crowd = Crowd::new(MILLION);
    crowd.connect(BEFORE);
    let before = resident();
    let mut last = (BEFORE, before);
    for count in (1..=10).map(|tenth| tenth * (MILLION / 10)) {
        crowd.connect(count - last.0);
        let now = resident();
        let each = (now - last.1) / u64::from(count - last.0);
        println!("memory: {each} bytes each for the connections {} to {count}", last.0);
        // Tables double: those that make them do pay for many that come.
        assert!(each <= BYTES_MAX + BYTES_MAX / 8, "{each} bytes a connection of those up to {count}");
        last = (count, now);
    }
    let each = (last.1 - before) / u64::from(MILLION - BEFORE);
    println!("memory: {each} bytes a connection, {MILLION} connections, netd and shared");
    assert!(each <= BYTES_MAX, "{each} bytes a connection");
}

#[test]
fn an_idle_connection_takes_two_kilobytes_at_most() {
    let mut crowd = Crowd::new(CONNECTIONS);
    crowd.connect(BEFORE);
    let before = resident();
    crowd.connect(CONNECTIONS - BEFORE);
    let after = resident();
    println!("{} KiB with {BEFORE} connections, {} KiB with {CONNECTIONS}", before >> 10, after >> 10);
    let each = (after - before) / u64::from(CONNECTIONS - BEFORE);
    println!("memory: {each} bytes a connection, {CONNECTIONS} connections, netd and shared");
    assert!(each <= BYTES_MAX, "{each} bytes a connection");
}
