//! netd: one shard of the protocol stack.

use proto::daemon::{EXIT_REFUSED, begin};
use proto::id::Role;
use std::process::ExitCode;

fn main() -> ExitCode {
    if proto::layouts::answered(Role::Netd) {
        return ExitCode::SUCCESS;
    }
    let (start, supervised) = match begin(Role::Netd) {
        Ok(begun) => begun,
        Err(error) => {
            eprintln!("netd: {error}");
            return ExitCode::FAILURE;
        }
    };
    match netd::engine::run(start, supervised) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            match error {
                netd::engine::EngineError::Attach(_) | netd::engine::EngineError::Config(_) => {
                    ExitCode::from(EXIT_REFUSED)
                }
                _ => ExitCode::FAILURE,
            }
        }
    }
}
