//! The policy's actions as system calls.

use super::{STANDBY_DEATH, STANDBY_LANE, Server, ServerError, Standby, doing, forget, watch};
use crate::child;
use crate::facts::Fact;
use crate::layout;
use crate::mirror::{FromStandby, Setup, ToStandby};
use crate::policy::{Action, Event, Report};
use crate::vault::{Incarnation, Keepsakes, Rings};
use proto::control::lane::{Lane, socket_pair};
use proto::control::messages::ToDaemon;
use proto::id::{Generation, Role, Seat};
use rustix::event::EventfdFlags;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::fs::{File, OpenOptions};
use std::io;
use std::time::Duration;

/// How long a dismissed standby may take to leave.
const LEAVE_MAX: Duration = Duration::from_millis(500);

impl Server {
    pub(super) fn act(&mut self, action: Action) -> Result<(), ServerError> {
        match action {
            Action::Spawn { seat } => self.spawn(seat)?,
            Action::Welcome { seat, generation, predecessor, sessions } => {
                self.welcome(seat, generation, predecessor, &sessions);
            }
            Action::MakeLink { pair } => {
                let eventfd = || {
                    let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
                    rustix::event::eventfd(0, flags).map_err(doing("an eventfd"))
                };
                let memory = proto::shm::region::create_sealed("axolotl-rings", layout::rings_size(pair))
                    .map_err(doing("rings"))?;
                let rings = Rings { memory, wakes_first: eventfd()?, wakes_second: eventfd()? };
                self.vault.rings.insert(pair, rings);
            }
            Action::Introduce { to, peer, generation } => self.introduce(to, peer, generation),
            Action::Pass { to, session } => self.pass(to, session),
            Action::Tell { to, message } => self.say(to, &message, &[]),
            Action::Mirror { number, fact } => self.mirror(number, fact),
            Action::Transfer { number, facts } => self.transfer(number, facts),
            Action::ForgetIncarnation { seat } => self.dismiss(seat),
            Action::ForgetLink { pair } => drop(self.vault.rings.remove(&pair)),
            Action::ForgetSession { session } => drop(self.vault.sessions.remove(&session)),
            Action::Kill { seat, generation } => self.kill(seat, generation),
            Action::Probe { seat, generation } => self.probe(seat, generation),
            Action::Inspect { seat, generation, asker } => {
                self.renew_spare(seat)?;
                let program = self.programs().join(seat.role.name());
                let (found, waker) = (self.inspected.0.clone(), self.waker.clone());
                let inspect = move || {
                    let verdict = crate::inspection::inspect(&program, seat.role);
                    // Nobody waits any more when this process ends.
                    let _ = found.send(Event::Inspected { seat, generation, asker, verdict });
                    let _ = waker.wake();
                };
                let thread = std::thread::Builder::new().name("inspection".into()).spawn(inspect);
                if let Err(error) = thread {
                    let verdict = Err(format!("no thread to ask the program: {error}"));
                    self.events.push_back(Event::Inspected { seat, generation, asker, verdict });
                }
            }
            Action::SpawnStandby { generation } => self.spawn_standby(generation)?,
            Action::ProbeStandby => {
                let pid = self.policy.facts().standby.pid;
                if let Some(sample) = child::sample(pid) {
                    self.events.push_back(Event::StandbyProbed { sample });
                }
            }
            Action::KillStandby => {
                if let Some(standby) = &self.standby {
                    tracing::warn!("the standby does not answer: killed");
                    child::kill(&standby.pidfd);
                }
            }
            Action::Report(report) => {
                tracing::info!("{report:?}");
                if report == Report::Started {
                    self.notifier.ready();
                }
                if let Some(starter) = &self.vault.keepsakes.starter
                    && let Ok(socket) = starter.try_clone()
                {
                    // Whoever started the group may have left.
                    let mut lane: Lane<FromStandby, ToStandby> = Lane::new(socket);
                    let _ = lane.send(&FromStandby::Report(report), &[]);
                }
            }
            Action::Exit => self.done = true,
        }
        Ok(())
    }

    fn log(&self, seat: Seat) -> io::Result<File> {
        let name = match seat.role {
            Role::Standby => Role::Supervisor.name().to_owned(),
            _ => seat.to_string(),
        };
        OpenOptions::new().append(true).create(true).open(self.place.logs().join(format!("{name}.log")))
    }

    pub(super) fn start(
        &self,
        seat: Seat,
        arguments: &[&str],
        theirs: OwnedFd,
    ) -> io::Result<child::Started> {
        let program = match seat.role {
            Role::Standby => std::env::current_exe()?,
            role => self.programs().join(role.name()),
        };
        child::start(&program, arguments, theirs, self.log(seat)?, &crate::starter::tmp(&self.place))
    }

    fn spawn(&mut self, seat: Seat) -> Result<(), ServerError> {
        let started = match self.take_spare(seat) {
            Some(spare) => Ok(spare),
            None => {
                let (ours, theirs) = socket_pair().map_err(doing("a lane"))?;
                self.start(seat, &[], theirs).map(|started| (started, ours))
            }
        };
        match started {
            Ok((started, ours)) => {
                let pid = started.child.id();
                self.children.insert(seat, started.child);
                self.vault.incarnations.insert(seat, Incarnation { lane: ours, pidfd: started.pidfd });
                let newest = self.policy.facts().seats.get(&seat).map(|facts| facts.generation);
                self.attend(seat, newest.unwrap_or_default().next())?;
                self.events.push_back(Event::Spawned { seat, pid });
            }
            Err(error) => {
                tracing::error!("cannot start {seat}: {error}");
                self.events.push_back(Event::NotSpawned { seat });
            }
        }
        Ok(())
    }

    fn kill(&self, seat: Seat, generation: Generation) {
        let daemon = self.daemons.get(&seat).filter(|daemon| daemon.generation == generation);
        if let (Some(daemon), Some(held)) = (daemon, self.vault.incarnations.get(&seat)) {
            if !daemon.closed {
                tracing::warn!("{seat}[{generation}] is killed");
            }
            child::kill(&held.pidfd);
        }
    }

    fn probe(&mut self, seat: Seat, generation: Generation) {
        let live = self.policy.facts().live(seat).filter(|live| live.generation == generation);
        if let Some(sample) = live.and_then(|live| child::sample(live.pid)) {
            tracing::warn!("{seat}[{generation}] is said to stand still: {}", char::from(sample.state));
            self.events.push_back(Event::Probed { seat, generation, sample });
        }
    }

    fn spawn_standby(&mut self, generation: Generation) -> Result<(), ServerError> {
        let (ours, theirs) = socket_pair().map_err(doing("a lane"))?;
        let mut lane: Lane<ToStandby, FromStandby> = Lane::new(ours);
        let Keepsakes { lock_file, api, admin, starter } = &self.vault.keepsakes;
        let starter = starter.as_ref();
        let setup = Setup { generation, starter: starter.is_some(), ..self.setup.clone() };
        let own = child::own_pidfd().map_err(doing("a pidfd"))?;
        let mut descriptors = vec![own.as_fd(), lock_file.as_fd(), api.as_fd(), admin.as_fd()];
        descriptors.extend(starter.map(AsFd::as_fd));
        lane.send(&ToStandby::Setup(Box::new(setup)), &descriptors).map_err(|error| ServerError::Io {
            what: "telling the standby",
            source: io::Error::other(error),
        })?;
        match self.start(Seat::new(Role::Standby, 0), &["attend"], theirs) {
            Ok(child::Started { child, pidfd }) => {
                watch(self.poll.registry(), lane.as_raw_fd(), STANDBY_LANE)?;
                watch(self.poll.registry(), pidfd.as_raw_fd(), STANDBY_DEATH)?;
                self.events.push_back(Event::StandbySpawned { pid: child.id() });
                self.standby = Some(Standby { child, pidfd, lane });
            }
            Err(error) => {
                tracing::error!("cannot start a standby: {error}");
                self.events.push_back(Event::StandbyNotSpawned);
            }
        }
        Ok(())
    }

    fn mirror(&mut self, number: u64, fact: Fact) {
        let Some(standby) = &mut self.standby else { return };
        let descriptors = self.vault.descriptors(&fact).expect("what a fact is about lies in the vault");
        if standby.lane.send(&ToStandby::Fact { number, fact }, &descriptors).is_err() {
            self.events.push_back(Event::StandbyBroken);
        }
    }

    fn transfer(&mut self, number: u64, facts: Vec<Fact>) {
        let first = number + 1 - facts.len() as u64;
        if let Some(standby) = &mut self.standby {
            for (&region, memory) in &self.vault.memory {
                let mut descriptors = vec![memory.writable.as_fd()];
                descriptors.extend(memory.read_only.as_ref().map(AsFd::as_fd));
                let (size, shown) = (memory.size as u64, memory.read_only.is_some());
                if standby.lane.send(&ToStandby::Region { region, size, shown }, &descriptors).is_err() {
                    return self.events.push_back(Event::StandbyBroken);
                }
            }
        }
        for (number, fact) in (first..).zip(facts) {
            self.mirror(number, fact);
        }
        if let Some(standby) = &mut self.standby
            && standby.lane.send(&ToStandby::Told, &[]).is_err()
        {
            self.events.push_back(Event::StandbyBroken);
        }
    }

    /// Says something to a daemon. One that does not read is killed by the policy.
    pub(super) fn say(&mut self, to: Seat, message: &ToDaemon, descriptors: &[BorrowedFd<'_>]) {
        let Some(daemon) = self.daemons.get_mut(&to) else { return };
        let generation = daemon.generation;
        daemon.said = true;
        match daemon.lane.send(message, descriptors) {
            // Closed: its end is told by its pidfd, or by the reading side.
            Ok(()) | Err(proto::control::lane::LaneError::Closed) => {}
            Err(error) => {
                tracing::error!("{to}[{generation}]: {error}");
                self.events.push_back(Event::Broken { seat: to, generation });
            }
        }
    }

    /// The last one out: dismisses the standby and removes what the group had in its directory.
    pub(super) fn leave(mut self) -> Result<(), ServerError> {
        self.drop_spares();
        if let Some(mut standby) = self.standby.take() {
            forget(self.poll.registry(), standby.lane.as_raw_fd());
            let _ = standby.lane.send(&ToStandby::Dismissed, &[]);
            if !child::dead_within(&standby.pidfd, LEAVE_MAX) {
                child::kill(&standby.pidfd);
            }
            let _ = standby.child.wait();
        }
        crate::starter::clean_up(&self.place);
        tracing::info!("the group has ended");
        Ok(())
    }
}
