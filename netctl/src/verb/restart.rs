//! `netctl restart ROLE`: ends one daemon and waits for its successor to be in service.
//!
//! The supervisors do the rest, as after any death: connections stay. SIGTERM first, SIGKILL when it
//! has not ended a second later.

use crate::group::{Access, Failure, ProcessRow};
use proto::id::Role;
use rustix::process::{Pid, Signal, kill_process};
use std::time::{Duration, Instant};

/// How long the old incarnation has to end by itself.
const GRACE: Duration = Duration::from_secs(1);
/// How long the successor has to be in service.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(5);

fn row(access: &Access, role: Role, shard: u16) -> Option<ProcessRow> {
    access.processes().into_iter().find(|row| row.role == role && row.index == shard)
}

/// Runs it.
///
/// # Errors
/// When there is no such daemon, it may not be ended by this user, or no successor comes.
pub fn run(access: &Access, role: &str, shard: u16) -> Result<(), Failure> {
    let daemons = [Role::Nicd, Role::Netd, Role::Sockd];
    let role = daemons.into_iter().find(|known| known.name() == role);
    let role = role.ok_or_else(|| Failure::Usage("restart nicd|netd|sockd".into()))?;
    let before = row(access, role, shard).filter(|row| row.pid != 0);
    let before = before.ok_or_else(|| Failure::Refused(format!("{role}.{shard} is not running")))?;
    let pid = Pid::from_raw(before.pid.cast_signed());
    let pid = pid.ok_or_else(|| Failure::Refused(format!("{role}.{shard} is not running")))?;
    let begun = Instant::now();
    kill_process(pid, Signal::TERM).map_err(|errno| Failure::Io("kill", errno.into()))?;
    let mut killed = false;
    while begun.elapsed() < PATIENCE {
        let now = row(access, role, shard);
        if now.as_ref().is_some_and(|now| now.in_service && now.generation > before.generation) {
            return Ok(());
        }
        if !killed && begun.elapsed() > GRACE && now.is_some_and(|now| now.pid == before.pid) {
            killed = true;
            // It may have ended this moment.
            let _ = kill_process(pid, Signal::KILL);
        }
        std::thread::sleep(LOOK);
    }
    Err(Failure::Refused(format!("no successor of {role}.{shard} is in service after {PATIENCE:?}")))
}
