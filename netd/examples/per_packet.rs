//! A stack with as many connections as asked for, and a pure acknowledgement for each of some of them:
//! the work whose instructions `tests/per_packet.rs` counts.
//!
//! `per_packet CONNECTIONS PACKETS`; with a third word, `plain` or `joined`, that many full segments of
//! one connection come in, by software GRO or without it; with `datagrams`, that many come in and go back;
//! with `die`, the stack dies that many times.

#[path = "../tests/crowd/mod.rs"]
mod crowd;

use crowd::Crowd;

fn main() {
    let mut numbers = std::env::args().skip(1).take(2).map(|text| text.parse::<u32>().expect("a number"));
    let connections = numbers.next().expect("how many connections");
    let packets = numbers.next().expect("how many packets");
    let mut crowd = Crowd::new(connections);
    crowd.connect(connections);
    if let Some(how) = std::env::args().nth(3) {
        if how == "die" {
            for _ in 0..packets {
                let [attached, settled] = crowd.die();
                println!(
                    "{connections} connections: attached after {attached:?}, settled after {settled:?} more"
                );
            }
            return;
        }
        if how == "datagrams" {
            crowd.open_datagrams();
            for _ in 0..packets / BATCH {
                crowd.datagrams(BATCH);
            }
            return;
        }
        for _ in 0..packets / A_RUN {
            crowd.a_run(A_RUN, how == "joined");
        }
        return;
    }
    for _ in 0..packets / BATCH {
        crowd.one_packet_each(BATCH);
    }
}

/// Packets of one batch, as a busy engine has them.
const BATCH: u32 = 64;
/// Segments of one flow in one batch.
const A_RUN: u32 = 16;
