//! `bench [--json] [--plot FILE.svg] [ID…]`: measures the stack beside the kernel. Exit code 0 also when a goal is
//! missed; 1 when something could not be measured, 2 for an id that does not exist, 5 without a
//! private network.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use tests::bench::{self, Wanted, paths, row};
use tests::process::private_net::{self, PrivateNet};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [verb, service, side] = &words[..]
        && verb == paths::SERVE
    {
        let served = paths::end_with_parent().and_then(|()| bench::load::serve(service, side));
        return match served {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("bench: {service} over the {side}: {error}");
                ExitCode::FAILURE
            }
        };
    }
    let (mut json, mut plot, mut asked) = (false, None, Vec::new());
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        match word.as_str() {
            "--json" => json = true,
            "--plot" => plot = rest.next().map(PathBuf::from),
            _ => asked.push(word.clone()),
        }
    }
    let wanted = match Wanted::new(&asked, plot) {
        Ok(wanted) => wanted,
        Err(unknown) => {
            eprintln!("usage: bench [--json] [--plot FILE.svg] [ID…]; there is no '{unknown}'. Ids:");
            bench::ids().for_each(|id| eprintln!("  {id}"));
            return ExitCode::from(2);
        }
    };
    match private_net::enter(words.iter().map(OsString::from)) {
        Ok(PrivateNet::Inside) => {}
        Ok(PrivateNet::Ran(status)) => {
            return ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1));
        }
        Ok(PrivateNet::Forbidden(reason)) => {
            eprintln!("bench: no private network with a TAP here: {reason}. ./run.sh doctor says more");
            return ExitCode::from(5);
        }
        Err(error) => {
            eprintln!("bench: {error}");
            return ExitCode::FAILURE;
        }
    }
    let (rows, whole) = bench::run(&wanted);
    match json {
        true => println!("{}", row::json(&rows)),
        false => print!("{}", row::table(&rows)),
    }
    if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
