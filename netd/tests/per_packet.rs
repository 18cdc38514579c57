//! Instructions for a packet with one connection and with a hundred thousand, counted by valgrind: the
//! same on every machine, whatever else runs there.

use std::path::PathBuf;
use std::process::Command;

const MANY: u32 = 100_000;
const PACKETS: u32 = 6_400;
/// What the larger number may cost, in hundredths of the smaller one's.
const MOST: u64 = 130;

/// The example beside this program.
fn program() -> PathBuf {
    let here = std::env::current_exe().expect("a program knows its path");
    here.ancestors().nth(2).expect("a build directory").join("examples/per_packet")
}

/// Instructions in `one_packet_each` alone; `None` without valgrind.
fn instructions(connections: u32) -> Option<u64> {
    let out = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--collect-atstart=no"])
        .args(["--toggle-collect=*one_packet_each*"])
        .arg(program())
        .args([connections.to_string(), PACKETS.to_string()])
        .output()
        .ok()?;
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{said}");
    let line = said.lines().find(|line| line.contains("Collected")).expect("callgrind's count");
    line.rsplit(':').next()?.trim().parse().ok()
}

#[test]
#[ignore = "minutes under valgrind: cargo test -p netd --test per_packet -- --ignored"]
fn a_packet_costs_as_much_with_many_connections_as_with_one() {
    let (Some(one), Some(many)) = (instructions(1), instructions(MANY)) else {
        println!("per packet: not counted, there is no valgrind");
        return;
    };
    let packets = u64::from(PACKETS);
    println!("per packet: {} instructions with 1 connection, {} with {MANY}", one / packets, many / packets);
    assert!(one > 0 && many * 100 <= one * MOST, "{one} instructions for 1 connection, {many} for {MANY}");
}
