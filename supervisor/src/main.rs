//! `supervisor up`, `supervisor down`; `attend` is what the two supervisors of a group run.

use clap::{Parser, Subcommand};
use std::process::ExitCode;
use supervisor::command_line::Up;

#[derive(Parser)]
#[command(version, about = "Starts, watches and restarts the processes of a group")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Starts a group.
    Up(Box<Up>),
    /// Stops a group.
    Down {
        /// The group's name.
        #[arg(long, default_value_t = proto::run_dir::default_name())]
        name: String,
    },
    /// Run by a supervisor, for itself.
    #[command(hide = true)]
    Attend,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().verb {
        Verb::Up(up) => up.run().map_err(|error| (error.to_string(), error.exit_code())),
        Verb::Down { name } => {
            supervisor::starter::down(&name).map_err(|error| (error.to_string(), error.exit_code()))
        }
        Verb::Attend => supervisor::attend().map_err(|error| (error.to_string(), 1)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err((text, code)) => {
            eprintln!("supervisor: {text}");
            ExitCode::from(code)
        }
    }
}
