//! `fuzz [TARGET|all] [SECONDS] [SEED]`: plays mutated cases against the stack for so long, from a seed on
//! (the clock's, when none is given). With 0 seconds: that one seed. Exit code 1 when something was found.

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tests::fuzz::{Corpus, Target};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let which = words.first().map_or("all", String::as_str);
    let targets: Vec<Target> = match Target::from_name(which) {
        Some(target) => vec![target],
        None if which == "all" => Target::ALL.to_vec(),
        None => {
            eprintln!("usage: fuzz [all|{}] [SECONDS] [SEED]", Target::ALL.map(Target::name).join("|"));
            return ExitCode::from(2);
        }
    };
    let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok());
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    let (seconds, first) = (number(1).unwrap_or(60), number(2).unwrap_or(clock << 16));
    let corpus = Corpus::read();
    let mut found = false;
    for target in targets {
        if seconds == 0 {
            corpus.play(target, first);
            println!("fuzz: {} seed {first}: nothing", target.name());
            continue;
        }
        match corpus.play_for(target, first, Duration::from_secs(seconds)) {
            Ok(cases) => println!("fuzz: {}: {cases} cases from seed {first} on: nothing", target.name()),
            Err(what) => {
                println!("fuzz: {what}");
                found = true;
            }
        }
    }
    if found { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
