//! Every fuzz entry point for a few seconds, from a seed of the clock's; `AXOLOTL_FUZZ_SECONDS=60` for longer.
//! What fails prints the command that plays it again. Open-ended: `cargo run --release -p tests --bin fuzz`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tests::fuzz::{Corpus, Target};

/// Cases that are always played, whatever the clock says.
const ALWAYS: u64 = 200;

fn a_while(target: Target) {
    let seconds = std::env::var("AXOLOTL_FUZZ_SECONDS").ok().and_then(|n| n.parse().ok()).unwrap_or(4);
    let corpus = Corpus::read();
    (0..ALWAYS).for_each(|seed| corpus.play(target, seed));
    let first =
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64) << 16;
    match corpus.play_for(target, first, Duration::from_secs(seconds)) {
        Ok(cases) => println!("fuzz: {}: {cases} cases from seed {first} on", target.name()),
        Err(what) => panic!("{what}"),
    }
}

#[test]
fn frames_in_any_state() {
    a_while(Target::Frame);
}

#[test]
fn fragments_anywhere() {
    a_while(Target::Reassembly);
}

#[test]
fn options_of_any_kind() {
    a_while(Target::Options);
}

#[test]
fn messages_between_processes() {
    a_while(Target::Control);
}

#[test]
fn a_client_that_writes_anywhere() {
    a_while(Target::Ring);
}
