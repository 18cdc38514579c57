//! nicd, the NIC driver daemon: started by the supervisor, one for each interface.

use nicd::server;
use proto::daemon;
use proto::id::Role;
use std::process::ExitCode;

fn main() -> ExitCode {
    if proto::layouts::answered(Role::Nicd) {
        return ExitCode::SUCCESS;
    }
    let (start, supervised) = match daemon::begin(Role::Nicd) {
        Ok(begun) => begun,
        Err(error) => {
            eprintln!("nicd: {error}");
            return ExitCode::FAILURE;
        }
    };
    match server::run(start, supervised) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("nicd: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
