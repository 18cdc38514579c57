//! The command line: becomes the program that it is given, on the stack.

use clap::Parser;
use netexec::launch::{self, Options, Way};
use std::ffi::OsString;
use std::process::ExitCode;

/// Runs an unmodified program on the stack; its exit status is the program's.
#[derive(Debug, Parser)]
#[command(name = "netexec", version)]
struct Arguments {
    /// The group; what AXOLOTL says is the default.
    #[arg(long)]
    name: Option<String>,
    /// Hand over by seccomp alone, without the preload library.
    #[arg(long, conflicts_with = "preload")]
    seccomp: bool,
    /// Insist on the preload library: a program that can't have it is not run.
    #[arg(long)]
    preload: bool,
    /// Say on standard error what is answered.
    #[arg(long)]
    verbose: bool,
    /// The program and its arguments.
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version go to standard output and are no error.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    let name = arguments.name.unwrap_or_else(proto::run_dir::default_name);
    let way = match (arguments.seccomp, arguments.preload) {
        (true, _) => Way::Filter,
        (_, true) => Way::Library,
        _ => Way::Best,
    };
    let options = Options { name, verbose: arguments.verbose, way };
    // Returns only when the program could not be started.
    let failure = launch::run(&options, &arguments.command);
    eprintln!("netexec: {failure}");
    ExitCode::from(failure.exit_code())
}
