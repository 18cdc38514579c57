//! sockd: the socket API's authority.

use proto::daemon::{EXIT_REFUSED, begin};
use proto::id::Role;
use sockd::server::{ServerError, run};
use std::process::ExitCode;

fn main() -> ExitCode {
    if proto::layouts::answered(Role::Sockd) {
        return ExitCode::SUCCESS;
    }
    let (start, supervised) = match begin(Role::Sockd) {
        Ok(begun) => begun,
        Err(error) => {
            eprintln!("sockd: {error}");
            return ExitCode::FAILURE;
        }
    };
    match run(start, supervised) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            match error {
                ServerError::Registry(_) => ExitCode::from(EXIT_REFUSED),
                _ => ExitCode::FAILURE,
            }
        }
    }
}
