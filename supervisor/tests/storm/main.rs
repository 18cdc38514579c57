//! The supervisor pair with real processes: dummy daemons that are killed, stopped and started
//! again, while both supervisors are killed too.
//!
//! One program plays all parts: started under the name of a daemon it is that daemon ([`dummy`]),
//! otherwise it runs the cases. Hence no harness of its own making tests: `--list`, `--exact` and a
//! filter are understood as the usual harness does.

mod cases;
mod dummy;
mod group;

use proto::id::Role;
use std::panic::catch_unwind;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let program = std::env::args_os().next().unwrap_or_default();
    let name = Path::new(&program).file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    match [Role::Nicd, Role::Netd, Role::Sockd].into_iter().find(|role| role.name() == name) {
        Some(role) => dummy::run(role),
        None => run_cases(std::env::args().skip(1).collect()),
    }
}

fn run_cases(arguments: Vec<String>) -> ExitCode {
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    if has("--list") {
        let listed = if has("--ignored") { &[][..] } else { cases::ALL };
        listed.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let filter = arguments.iter().find(|argument| !argument.starts_with('-'));
    let wanted = |name: &str| match filter {
        Some(filter) if has("--exact") => name == filter,
        Some(filter) => name.contains(filter.as_str()),
        None => true,
    };
    let mut failed = 0;
    for (name, case) in cases::ALL.iter().filter(|(name, _)| wanted(name)) {
        let passed = catch_unwind(case).is_ok();
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        failed += usize::from(!passed);
    }
    println!("test result: {}. {failed} failed", if failed == 0 { "ok" } else { "FAILED" });
    ExitCode::from(u8::from(failed > 0))
}
