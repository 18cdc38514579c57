//! Instructions for a packet with one connection and with a hundred thousand, and for a segment of a run
//! with and without software GRO, counted by valgrind: the same on every machine, whatever else runs there.
//! Counted is a batch from its frames to its end, and not what makes the frames.

#[path = "../../tests/callgrind/mod.rs"]
mod callgrind;

use callgrind::instructions;

const MANY: u32 = 100_000;
const PACKETS: u32 = 6_400;
/// What the larger number may cost, in hundredths of the smaller one's.
const MOST: u64 = 130;

#[test]
#[ignore = "minutes under valgrind: cargo build --release -p netd --example per_packet, then cargo test --release -p netd --test per_packet -- --ignored"]
fn a_packet_costs_as_much_with_many_connections_as_with_one() {
    let count = |connections: u32| {
        instructions("per_packet", "take_batch", None, &[&connections.to_string(), &PACKETS.to_string()])
    };
    let (Some(one), Some(many)) = (count(1), count(MANY)) else {
        println!("per packet: not counted, there is no valgrind");
        return;
    };
    let packets = u64::from(PACKETS);
    println!("per packet: {} instructions with 1 connection, {} with {MANY}", one / packets, many / packets);
    if let Some(echoed) =
        instructions("per_packet", "take_batch", None, &["1", &PACKETS.to_string(), "datagrams"])
    {
        println!("per datagram that comes in and goes back: {} instructions", echoed / packets);
    }
    assert!(one > 0 && many * 100 <= one * MOST, "{one} instructions for 1 connection, {many} for {MANY}");
}

#[test]
#[ignore = "minutes under valgrind, and 4 GiB: cargo build --release -p netd --example per_packet, then cargo test --release -p netd --test per_packet -- --ignored"]
fn a_packet_costs_as_much_with_a_million_connections_as_with_a_thousand() {
    let count = |connections: u32| {
        instructions("per_packet", "take_batch", None, &[&connections.to_string(), &PACKETS.to_string()])
    };
    let (Some(few), Some(many)) = (count(1_000), count(1_000_000)) else {
        println!("per packet: not counted, there is no valgrind");
        return;
    };
    let packets = u64::from(PACKETS);
    println!(
        "per packet: {} instructions with 1000 connections, {} with a million",
        few / packets,
        many / packets
    );
    assert!(
        few > 0 && many * 100 <= few * 110,
        "{few} instructions for 1000 connections, {many} for a million"
    );
}

#[test]
#[ignore = "under valgrind: cargo build --release -p netd --example per_packet, then cargo test --release -p netd --test per_packet -- --ignored"]
fn a_run_that_is_joined_costs_less() {
    let count = |how| instructions("per_packet", "take_run", None, &["1", "128", how]);
    let (Some(plain), Some(joined)) = (count("plain"), count("joined")) else {
        println!("per segment: not counted, there is no valgrind");
        return;
    };
    println!("per segment of a run: {} instructions, joined {}", plain / 128, joined / 128);
    assert!(joined > 0 && joined < plain, "{plain} instructions, joined {joined}");
}
