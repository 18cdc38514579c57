//! The standby: follows the active supervisor fact by fact, and takes over when it is dead.
//!
//! It also looks whether the active one still works: it holds duplicates of the daemons' lanes and
//! pidfds, and when a message or a death has been there for [`UNHEARD_MAX`] and the active one has
//! done nothing about it, it kills it and takes over. Looks happen only while something is there:
//! idle costs nothing.

use crate::child;
use crate::facts::{Fact, Facts, seats};
use crate::mirror::{FromStandby, Setup, ToStandby};
use crate::policy::Sample;
use crate::server::{Server, ServerError, doing, forget, watch};
use crate::vault::{Keepsakes, Memory, Vault};
use mio::{Events, Poll, Token};
use proto::Instant;
use proto::control::clock;
use proto::control::lane::{Lane, LaneError};
use proto::control::messages::Ended;
use proto::id::{Generation, Role, Seat};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::net::RecvFlags;
use std::collections::BTreeMap;
use std::io;
use std::time::Duration;
use thiserror::Error;

const LANE: Token = Token(0);
const DEATH: Token = Token(1);
/// Two tokens per seat from here on: its lane, its pidfd.
const SEATS: usize = 16;

/// How long something may be there without the active supervisor doing something about it.
pub const UNHEARD_MAX: Duration = Duration::from_millis(500);
/// The same when it is runnable and gets no core (DESIGN §6).
pub const STARVED_MAX: Duration = Duration::from_secs(2);
/// Bytes of a message by which it is known again.
const GLANCE: usize = 64;

/// Why a supervisor ends otherwise than with its group.
#[derive(Debug, Error)]
pub enum PairError {
    /// The lane to the other one is broken, or its first words were.
    #[error("the other supervisor: {0}")]
    Lane(#[from] LaneError),
    /// It said something out of turn.
    #[error("the other supervisor spoke out of turn")]
    Misled,
    /// It died before it had told everything: the group is lost.
    #[error("the other supervisor died before it had told everything")]
    Untold,
    /// The event loop.
    #[error(transparent)]
    Server(#[from] ServerError),
}

/// Runs a supervisor from its start: hears its setup over `lane`, then begins a group or stands by.
/// Returns when the group has ended or this standby was dismissed.
///
/// # Errors
/// [`PairError`].
pub fn attend(lane: OwnedFd) -> Result<(), PairError> {
    let mut lane: Lane<FromStandby, ToStandby> = Lane::new(lane);
    let (ToStandby::Setup(setup), descriptors) = wait(&mut lane)? else { return Err(PairError::Misled) };
    proto::daemon::log_as(Seat::new(Role::Supervisor, 0), setup.generation);
    proto::daemon::follow_panics();
    let mut descriptors = descriptors.into_iter();
    let mut next = || descriptors.next().ok_or(PairError::Misled);
    let teller = next()?;
    let (lock_file, api, admin) = (next()?, next()?, next()?);
    let starter = descriptors.next();
    let mut keepsakes = Keepsakes { lock_file, api, admin, starter };
    lane.send(&FromStandby::Hello, &[])?;
    match wait(&mut lane)? {
        (ToStandby::Begin, _) => {
            tracing::info!("begins group {}", setup.group.name);
            keepsakes.starter = Some(lane.into_socket());
            drop(teller);
            Ok(Server::begin(*setup, keepsakes)?.run()?)
        }
        first => {
            let vault = Vault::new(keepsakes);
            let standby = Standby::new(*setup, lane, teller, vault)?;
            standby.run(first)
        }
    }
}

/// The next message; this process has nothing else to do.
fn wait(lane: &mut Lane<FromStandby, ToStandby>) -> Result<(ToStandby, Vec<OwnedFd>), PairError> {
    use rustix::event::{PollFd, PollFlags, poll};
    loop {
        if let Some(message) = lane.receive()? {
            return Ok(message);
        }
        match poll(&mut [PollFd::new(lane, PollFlags::IN)], None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(LaneError::Io(errno.into()).into()),
        }
    }
}

/// Something that the active supervisor should do something about.
#[derive(Debug)]
struct Unheard {
    what: What,
    since: Instant,
    look_at: Instant,
    active: Option<Sample>,
}

#[derive(Debug, PartialEq, Eq)]
enum What {
    /// A message that begins so.
    Message(Vec<u8>),
    /// The death of that generation.
    Death(Generation),
}

struct Standby {
    setup: Setup,
    lane: Lane<FromStandby, ToStandby>,
    active: OwnedFd,
    vault: Vault,
    facts: Facts,
    told: bool,
    heard: u64,
    poll: Poll,
    seats: Vec<Seat>,
    unheard: BTreeMap<(Seat, bool), Unheard>,
}

/// What became of standing by.
enum Outcome {
    Dismissed,
    Alone,
}

impl Standby {
    fn new(
        setup: Setup,
        lane: Lane<FromStandby, ToStandby>,
        active: OwnedFd,
        vault: Vault,
    ) -> Result<Standby, PairError> {
        let poll = Poll::new().map_err(doing("an event queue"))?;
        watch(poll.registry(), lane.as_raw_fd(), LANE)?;
        watch(poll.registry(), active.as_raw_fd(), DEATH)?;
        Ok(Standby {
            facts: Facts::new(&setup.group),
            seats: seats(&setup.group).collect(),
            setup,
            lane,
            active,
            vault,
            told: false,
            heard: 0,
            poll,
            unheard: BTreeMap::new(),
        })
    }

    fn run(mut self, first: (ToStandby, Vec<OwnedFd>)) -> Result<(), PairError> {
        self.hear(first.0, first.1)?;
        match self.follow()? {
            Outcome::Dismissed => Ok(()),
            Outcome::Alone if !self.told => Err(PairError::Untold),
            Outcome::Alone => {
                let ended = child::ending(self.active.as_fd(), self.facts.active.pid);
                tracing::warn!("the active supervisor ended: {ended:?}; taking over");
                self.facts.take_over(ended);
                // What was only needed to stand by is closed; the server has a queue of its own.
                let Standby { setup, vault, facts, lane, active, poll, .. } = self;
                drop((lane, active, poll));
                Ok(Server::take_over(setup, vault, facts)?.run()?)
            }
        }
    }

    fn follow(&mut self) -> Result<Outcome, PairError> {
        let mut ready = Events::with_capacity(256);
        loop {
            if !self.drain()? {
                return Ok(Outcome::Dismissed);
            }
            // Everything that it said was said before it died.
            if child::is_dead(&self.active) {
                return Ok(if self.drain()? { Outcome::Alone } else { Outcome::Dismissed });
            }
            self.look();
            let now = clock::now();
            let next = self.unheard.values().map(|unheard| unheard.look_at.since(now)).min();
            match self.poll.poll(&mut ready, next.map(|time| time + Duration::from_micros(999))) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(doing("waiting")(error).into()),
            }
            for event in &ready {
                let Token(number) = event.token();
                if let Some(&seat) = number.checked_sub(SEATS).and_then(|n| self.seats.get(n / 2)) {
                    self.notice(seat, (number - SEATS) % 2 == 1);
                }
            }
        }
    }

    /// Hears all that was said, and acknowledges it. False when this standby is dismissed.
    fn drain(&mut self) -> Result<bool, PairError> {
        let before = self.heard;
        loop {
            match self.lane.receive() {
                Ok(Some((ToStandby::Dismissed, _))) => return Ok(false),
                Ok(Some((message, descriptors))) => self.hear(message, descriptors)?,
                Ok(None) | Err(LaneError::Closed) => break,
                Err(error) => return Err(error.into()),
            }
        }
        if self.heard != before {
            match self.lane.send(&FromStandby::Ack { number: self.heard }, &[]) {
                // Dead: the caller sees it at once or by the pidfd.
                Ok(()) | Err(LaneError::Closed) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }

    fn hear(&mut self, message: ToStandby, descriptors: Vec<OwnedFd>) -> Result<(), PairError> {
        match message {
            ToStandby::Region { region, size, .. } => {
                let mut descriptors = descriptors.into_iter();
                let writable = descriptors.next().ok_or(PairError::Misled)?;
                let size = usize::try_from(size).map_err(|_| PairError::Misled)?;
                self.vault.memory.insert(region, Memory { size, writable, read_only: descriptors.next() });
            }
            ToStandby::Fact { number, fact } => {
                self.heard = number;
                self.unwatch(&fact);
                self.vault.follow(&fact, &self.facts, descriptors);
                self.facts.apply(&fact);
                self.watch(&fact)?;
            }
            ToStandby::Told => {
                self.told = true;
                tracing::info!("standing by");
            }
            ToStandby::Setup(_) | ToStandby::Begin | ToStandby::Dismissed => return Err(PairError::Misled),
        }
        Ok(())
    }

    /// Before the vault closes what it holds of an incarnation: the queue would go on about it, as
    /// duplicates live elsewhere.
    fn unwatch(&mut self, fact: &Fact) {
        if let Fact::Ended { seat, .. } | Fact::Spawned { seat, .. } = *fact {
            self.unheard.remove(&(seat, false));
            self.unheard.remove(&(seat, true));
            if let Some(held) = self.vault.incarnations.get(&seat) {
                forget(self.poll.registry(), held.lane.as_raw_fd());
                forget(self.poll.registry(), held.pidfd.as_raw_fd());
            }
        }
    }

    fn watch(&mut self, fact: &Fact) -> Result<(), PairError> {
        if let Fact::Spawned { seat, .. } = *fact
            && let Some(held) = self.vault.incarnations.get(&seat)
            && let Some(number) = self.seats.iter().position(|&s| s == seat)
        {
            watch(self.poll.registry(), held.lane.as_raw_fd(), Token(SEATS + 2 * number))?;
            watch(self.poll.registry(), held.pidfd.as_raw_fd(), Token(SEATS + 2 * number + 1))?;
        }
        Ok(())
    }

    /// What there is for the active one to do about a seat.
    fn there_is(&self, seat: Seat, death: bool) -> Option<What> {
        let held = self.vault.incarnations.get(&seat)?;
        if death {
            let generation = self.facts.live(seat)?.generation;
            return child::is_dead(&held.pidfd).then_some(What::Death(generation));
        }
        let mut glance = [0; GLANCE];
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        match rustix::net::recv(&held.lane, &mut glance, flags) {
            Ok((bytes, _)) if bytes > 0 => Some(What::Message(glance[..bytes].to_vec())),
            _ => None,
        }
    }

    fn notice(&mut self, seat: Seat, death: bool) {
        if self.unheard.contains_key(&(seat, death)) {
            return;
        }
        if let Some(what) = self.there_is(seat, death) {
            let now = clock::now();
            let active = child::sample(self.facts.active.pid);
            let unheard = Unheard { what, since: now, look_at: now + UNHEARD_MAX, active };
            self.unheard.insert((seat, death), unheard);
        }
    }

    /// Looks again at what was there a while ago; kills the active one when it stands still.
    fn look(&mut self) {
        let now = clock::now();
        let due = |(&key, unheard): (&(Seat, bool), &Unheard)| (unheard.look_at <= now).then_some(key);
        let due: Vec<_> = self.unheard.iter().filter_map(due).collect();
        for (seat, death) in due {
            let Some(mut unheard) = self.unheard.remove(&(seat, death)) else { continue };
            match self.there_is(seat, death) {
                None => {}
                Some(what) if what != unheard.what => self.notice(seat, death),
                Some(_) => {
                    let active = child::sample(self.facts.active.pid);
                    if stands_still(unheard.active, active, now.since(unheard.since)) {
                        tracing::error!("the active supervisor does nothing about {seat}: killed");
                        child::kill(&self.active);
                    }
                    unheard.look_at = now + UNHEARD_MAX;
                    self.unheard.insert((seat, death), unheard);
                }
            }
        }
    }
}

/// Whether a process that left something lying for that long is hung, rather than starved.
fn stands_still(before: Option<Sample>, after: Option<Sample>, time: Duration) -> bool {
    let (Some(before), Some(after)) = (before, after) else { return time >= STARVED_MAX };
    let starved = after.state == b'R' && after.ran_ns == before.ran_ns;
    !starved || time >= STARVED_MAX
}

/// Says how a supervisor ended that is not expected to.
pub fn describe(ended: Ended) -> String {
    match ended {
        Ended::Exit(code) => format!("exit code {code}"),
        Ended::Signal(signal) => format!("signal {signal}"),
        Ended::Unknown => "an unknown cause".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_starved_get_two_seconds() {
        let sample = |state, ran_ns| Some(Sample { state, ran_ns });
        let short = UNHEARD_MAX;
        assert!(stands_still(sample(b'S', 5), sample(b'T', 5), short));
        assert!(stands_still(sample(b'S', 5), sample(b'S', 5), short));
        assert!(stands_still(sample(b'R', 5), sample(b'R', 9), short), "it runs, and reads nothing");
        assert!(!stands_still(sample(b'R', 5), sample(b'R', 5), short));
        assert!(stands_still(sample(b'R', 5), sample(b'R', 5), STARVED_MAX));
    }
}
