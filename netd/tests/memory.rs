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
