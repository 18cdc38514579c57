//! sockd as netd sees it: the two rings of the present pair of generations, and the lane on which
//! it passes on what an administrator wants.

use super::nic::{Ends, wake};
use super::patience::Patience;
use super::{Mapped, SOCKD, SOCKD_NOTICES, watch};
use mio::Registry;
use mio::unix::SourceFd;
use proto::control::clock::now;
use proto::control::notices::{ConfigReply, ConfigRequest};
use proto::control::operations::{Answer, Command, REGION_SIZE, SLOT_SIZE, decode, encode, netd_ends};
use proto::control::rendezvous::NoticeLane;
use proto::id::{Generation, Role, Seat};
use proto::ring::spsc::{Consumer, Producer};
use proto::shm::region::Region;
use proto::{Instant, PeerCorrupt};
use rustix::fd::{AsRawFd, OwnedFd};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

const PEER: Seat = Seat::new(Role::Sockd, 0);

/// A sockd incarnation.
struct Attached {
    generation: Generation,
    commands: Consumer<Mapped, SLOT_SIZE>,
    answers: Producer<Mapped, SLOT_SIZE>,
    wakes_us: OwnedFd,
    wakes_peer: OwnedFd,
    patience: Patience,
    pushed: u32,
    notices: NoticeLane<ConfigReply, ConfigRequest>,
}

/// The link to sockd.
pub(super) struct SockdLink {
    us: (Seat, Generation),
    attached: Option<Attached>,
    /// Answers that wait for a place in the ring; there are never more than commands in flight and
    /// sockets, and a dead sockd's are forgotten.
    held: VecDeque<Answer>,
    /// Broke a rule and was not reported yet.
    broken: Option<(Seat, Generation, PeerCorrupt)>,
}

impl SockdLink {
    pub(super) fn new(us: (Seat, Generation)) -> Self {
        SockdLink { us, attached: None, held: VecDeque::new(), broken: None }
    }

    /// A new incarnation to share rings with; returns the name where it may connect its notices.
    /// What its predecessor had not taken is forgotten: the successor asks again (INV-T9).
    pub(super) fn introduce(
        &mut self,
        generation: Generation,
        ends: Ends,
        registry: &Registry,
    ) -> io::Result<Option<String>> {
        self.detach(registry);
        let memory = Arc::new(Region::map(&ends.memory, REGION_SIZE)?);
        let (commands, answers) = netd_ends(memory);
        let notices = NoticeLane::offer(self.us, (PEER, generation))?;
        watch(registry, ends.wakes_us.as_raw_fd(), SOCKD)?;
        watch(registry, notices.as_raw_fd(), SOCKD_NOTICES)?;
        let name = notices.name().to_owned();
        self.attached = Some(Attached {
            generation,
            commands,
            answers,
            wakes_us: ends.wakes_us,
            wakes_peer: ends.wakes_peer,
            patience: Patience::default(),
            pushed: 0,
            notices,
        });
        Ok(Some(name))
    }

    pub(super) fn peer_gone(&mut self, generation: Generation, registry: &Registry) {
        if self.attached.as_ref().is_some_and(|sockd| sockd.generation <= generation) {
            self.detach(registry);
        }
    }

    fn detach(&mut self, registry: &Registry) {
        if let Some(sockd) = self.attached.take() {
            let _ = registry.deregister(&mut SourceFd(&sockd.wakes_us.as_raw_fd()));
            let _ = registry.deregister(&mut SourceFd(&sockd.notices.as_raw_fd()));
        }
        self.held.clear();
    }

    /// The peer broke a rule: its rings are not looked at any more until a successor comes, which
    /// the supervisors are asked for.
    fn corrupt(&mut self, rule: PeerCorrupt) {
        if let Some(sockd) = self.attached.take() {
            self.broken = Some((PEER, sockd.generation, rule));
        }
        self.held.clear();
    }

    /// Who broke which rule, once.
    pub(super) fn take_broken(&mut self) -> Option<(Seat, Generation, PeerCorrupt)> {
        self.broken.take()
    }

    pub(super) fn rendezvous(&mut self, generation: Generation, name: String) {
        if let Some(sockd) = self.attached.as_mut().filter(|sockd| sockd.generation == generation)
            && let Err(error) = sockd.notices.connect(name)
        {
            tracing::warn!("notices to sockd: {error}");
        }
    }

    /// The next command.
    pub(super) fn next_command(&mut self) -> Option<Command> {
        self.pop_command().unwrap_or_else(|rule| {
            self.corrupt(rule);
            None
        })
    }

    fn pop_command(&mut self) -> Result<Option<Command>, PeerCorrupt> {
        let Some(sockd) = &mut self.attached else { return Ok(None) };
        let slot = sockd.commands.pop()?;
        sockd.commands.release();
        slot.map(|slot| decode(&slot).map_err(|_| PeerCorrupt::new("a command that does not decode")))
            .transpose()
    }

    /// An answer, to be given as soon as there is a place. Without a sockd it is forgotten: the
    /// next one asks.
    pub(super) fn hold(&mut self, answer: Answer) {
        if self.attached.is_some() {
            self.held.push_back(answer);
        }
    }

    /// Gives the answers that the ring takes.
    pub(super) fn answer(&mut self) {
        let Some(sockd) = &mut self.attached else { return };
        while let Some(answer) = self.held.front() {
            match sockd.answers.push(&encode(answer)) {
                Ok(true) => {
                    sockd.pushed = sockd.pushed.wrapping_add(1);
                    self.held.pop_front();
                }
                Ok(false) => break,
                Err(rule) => return self.corrupt(rule),
            }
        }
        if sockd.answers.publish() {
            wake(&sockd.wakes_peer);
        }
        match sockd.answers.backlog() {
            Ok(backlog) => sockd.patience.observe(now(), backlog, sockd.pushed),
            Err(rule) => self.corrupt(rule),
        }
    }

    pub(super) fn next_request(&mut self) -> Option<ConfigRequest> {
        self.attached.as_mut()?.notices.receive().ok().flatten()
    }

    pub(super) fn reply(&mut self, id: u64, result: Result<(), u32>) {
        if let Some(sockd) = &self.attached
            && let Err(error) = sockd.notices.send(ConfigReply { id, result })
        {
            tracing::warn!("reply {id} to sockd: {error}");
        }
    }

    /// Before sleeping; `false` when something came meanwhile.
    pub(super) fn arm(&mut self) -> bool {
        let Some(sockd) = &mut self.attached else { return true };
        sockd.commands.arm().unwrap_or_else(|rule| {
            self.corrupt(rule);
            false
        })
    }

    pub(super) fn disarm(&mut self) {
        if let Some(sockd) = &mut self.attached {
            sockd.commands.disarm();
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.attached.as_ref()?.patience.deadline()
    }

    /// The incarnation that has stood still too long.
    pub(super) fn stuck(&mut self, now: Instant) -> Option<(Seat, Generation)> {
        let sockd = self.attached.as_mut()?;
        // It may have taken everything since, and owed nobody a wake-up for it.
        match sockd.answers.backlog() {
            Ok(backlog) => sockd.patience.observe(now, backlog, sockd.pushed),
            Err(rule) => {
                self.corrupt(rule);
                return None;
            }
        }
        sockd.patience.is_over(now).then_some((PEER, sockd.generation))
    }
}
