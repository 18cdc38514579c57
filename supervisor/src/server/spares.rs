//! Spares: for every seat a process that was started ahead of time and waits for its welcome, so
//! that a death costs no exec, no dynamic linking and no first touch of memory.
//!
//! A spare is nobody yet: it holds its end of a lane and nothing of the group (INV-F: descriptors
//! come with the welcome, and that is sent after the predecessor's death). It is no fact, and the
//! standby does not know of it: with the supervisor that started it its lane closes, and it leaves.
//! Taken in place of a start only while the program it was made from lies there still, so that a
//! death or a restart starts what lies there, with or without a spare.

use super::{Server, ServerError, forget, watch};
use crate::child::{self, Started};
use crate::facts::Stage;
use core::time::Duration;
use proto::Instant;
use proto::control::clock;
use proto::control::lane::socket_pair;
use proto::id::Seat;
use rustix::fd::{AsRawFd, OwnedFd};
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// How long after a seat is ready its spare is started: what the death held up has gone out by then.
const AFTER_READY: Duration = Duration::from_millis(100);
/// The same after a spare that ended by itself or could not be started.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

/// A process without a seat.
struct Spare {
    started: Started,
    lane: OwnedFd,
    /// What it was made from.
    program: Program,
}

/// Which file a program is, and since when: another one in its place differs in one of these.
#[derive(PartialEq, Eq)]
struct Program {
    device: u64,
    inode: u64,
    changed: (i64, i64),
}

impl Program {
    fn of(path: &Path) -> Option<Program> {
        let found = std::fs::metadata(path).ok()?;
        let changed = (found.ctime(), found.ctime_nsec());
        Some(Program { device: found.dev(), inode: found.ino(), changed })
    }
}

/// The spares of a group, one a seat at most.
#[derive(Default)]
pub(super) struct Spares {
    held: BTreeMap<Seat, Spare>,
    due: BTreeMap<Seat, Instant>,
}

impl Spares {
    /// When the next one is to be started.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.due.values().min().copied()
    }
}

impl Server {
    /// Starts what is due; says when the spare of a seat that has become ready is.
    pub(super) fn keep_spares(&mut self) -> Result<(), ServerError> {
        let facts = self.policy.facts();
        if facts.stopping {
            self.drop_spares();
            return Ok(());
        }
        let now = clock::now();
        let ready = |seat: &Seat| facts.live(*seat).is_some_and(|live| live.stage == Stage::Ready);
        let Spares { held, due } = &mut self.spares;
        due.retain(|seat, _| ready(seat));
        for &seat in self.seats.iter().filter(|&seat| ready(seat) && !held.contains_key(seat)) {
            due.entry(seat).or_insert(now + AFTER_READY);
        }
        let late: Vec<Seat> = due.iter().filter(|&(_, &at)| at <= now).map(|(&seat, _)| seat).collect();
        for seat in late {
            match self.make_spare(seat)? {
                true => drop(self.spares.due.remove(&seat)),
                false => drop(self.spares.due.insert(seat, now + AFTER_FAILURE)),
            }
        }
        Ok(())
    }

    fn make_spare(&mut self, seat: Seat) -> Result<bool, ServerError> {
        let path = self.programs().join(seat.role.name());
        // Looked at before it is started: what changes meanwhile is not taken.
        let (Some(program), Ok((lane, theirs))) = (Program::of(&path), socket_pair()) else {
            return Ok(false);
        };
        let Ok(started) = self.start(seat, &[], theirs) else { return Ok(false) };
        watch(self.poll.registry(), started.pidfd.as_raw_fd(), self.spare_token(seat))?;
        self.spares.held.insert(seat, Spare { started, lane, program });
        Ok(true)
    }

    /// Where another program lies there now, a spare of it in place of the one there is: it gets ready
    /// while the program is being asked what it speaks.
    pub(super) fn renew_spare(&mut self, seat: Seat) -> Result<(), ServerError> {
        let program = Program::of(&self.programs().join(seat.role.name()));
        let Some(spare) = self.spares.held.get(&seat) else { return Ok(()) };
        if Some(&spare.program) != program.as_ref() {
            self.release_spare(seat).into_iter().for_each(|spare| end(spare.started));
            // One that can't be started is no spare: the daemon itself will be.
            self.make_spare(seat)?;
        }
        Ok(())
    }

    /// A process for that seat with our end of its lane, if there is one that is what would be
    /// started now.
    pub(super) fn take_spare(&mut self, seat: Seat) -> Option<(Started, OwnedFd)> {
        let Spare { started, lane, program } = self.release_spare(seat)?;
        let same = Program::of(&self.programs().join(seat.role.name())) == Some(program);
        if same && child::can_run(started.child.id()) {
            return Some((started, lane));
        }
        end(started);
        None
    }

    /// A spare died before it was needed.
    pub(super) fn spare_death(&mut self, seat: Seat) {
        // The token may be left over from one that was taken.
        if self.spares.held.get(&seat).is_some_and(|spare| child::is_dead(&spare.started.pidfd))
            && let Some(spare) = self.release_spare(seat)
        {
            end(spare.started);
            self.spares.due.insert(seat, clock::now() + AFTER_FAILURE);
        }
    }

    /// Ends all of them.
    pub(super) fn drop_spares(&mut self) {
        self.spares.due.clear();
        for seat in self.spares.held.keys().copied().collect::<Vec<_>>() {
            self.release_spare(seat).into_iter().for_each(|spare| end(spare.started));
        }
    }

    fn release_spare(&mut self, seat: Seat) -> Option<Spare> {
        let spare = self.spares.held.remove(&seat)?;
        forget(self.poll.registry(), spare.started.pidfd.as_raw_fd());
        Some(spare)
    }
}

/// Kills a process that has no part in the group, and waits for it: it holds next to no memory.
fn end(mut started: Started) {
    child::kill(&started.pidfd);
    let _ = started.child.wait();
}
