//! `netctl restart ROLE`: replaces one daemon by the program that lies there now, and waits for it to
//! be in service.
//!
//! The supervisors ask that program first which layouts it speaks. One that does not fit this group
//! is refused, and the daemon goes on untouched. Else it is a death as any other: connections stay.

use crate::admin::{Replacement, replace};
use crate::group::{Access, Failure, ProcessRow};
use proto::id::{Generation, Role, Seat};
use std::time::{Duration, Instant};

/// How long the successor has to be in service.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long after sockd hung up it counts as unheard.
const UNHEARD: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(5);

fn row(access: &Access, seat: Seat) -> Option<ProcessRow> {
    access.processes().into_iter().find(|row| row.role == seat.role && row.index == seat.index)
}

/// Whether a successor of that incarnation is in service within `patience`.
fn replaced(access: &Access, seat: Seat, before: u32, patience: Duration) -> bool {
    let begun = Instant::now();
    loop {
        if row(access, seat).is_some_and(|now| now.in_service && now.generation > before) {
            return true;
        }
        if begun.elapsed() >= patience {
            return false;
        }
        std::thread::sleep(LOOK);
    }
}

/// Runs it.
///
/// # Errors
/// When there is no such daemon, its program does not fit, or no successor comes.
pub fn run(access: &Access, role: &str, shard: Option<u16>) -> Result<(), Failure> {
    let daemons = [Role::Nicd, Role::Netd, Role::Sockd];
    let role = daemons.into_iter().find(|known| known.name() == role);
    let role = role.ok_or_else(|| Failure::Usage("restart nicd|netd|sockd".into()))?;
    let of_role = access.processes().into_iter().filter(|row| row.role == role).map(|row| row.index);
    let mut indices: Vec<u16> = shard.map_or_else(|| of_role.collect(), |shard| vec![shard]);
    indices.sort_unstable();
    indices.into_iter().try_for_each(|index| replace_one(access, Seat::new(role, index)))
}

fn replace_one(access: &Access, seat: Seat) -> Result<(), Failure> {
    let before = row(access, seat).map(|row| row.generation);
    let before = before.ok_or_else(|| Failure::Refused(format!("there is no {seat}")))?;
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let patience = match replace(access.place(), seat, Generation(before))? {
            Replacement::Begun => deadline.saturating_duration_since(Instant::now()),
            Replacement::Refused(why) => return Err(Failure::Refused(why)),
            Replacement::Unknown => UNHEARD,
        };
        if replaced(access, seat, before, patience) {
            return Ok(());
        }
    }
    Err(Failure::Refused(format!("no successor of {seat} is in service after {PATIENCE:?}")))
}
