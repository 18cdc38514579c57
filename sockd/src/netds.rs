//! The netds as sockd sees them: the rings of the present pair of generations, what their
//! connection tables know, and the lane for changes of the configuration.
//!
//! A deadline is armed only while a ring towards a netd is not empty, and moves on whenever that
//! netd takes something (DESIGN §6).

use core::time::Duration;
use proto::cell::CellTable;
use proto::control::notices::{ConfigReply, ConfigRequest};
use proto::control::operations::{
    Answer, Command, CommandTx, REGION_SIZE, SLOT_SIZE, decode, encode, sockd_ends,
};
use proto::control::rendezvous::NoticeLane;
use proto::hard::conns::{LAYOUT, Opening, State};
use proto::id::{Generation, OpId, Seat};
use proto::ring::spsc::Consumer;
use proto::shm::region::Region;
use proto::{Instant, PeerCorrupt};
use rustix::fd::{AsFd, OwnedFd};
use std::collections::{HashSet, VecDeque};
use std::io;
use std::sync::Arc;

/// How long a netd may stand still while commands wait for it.
const PATIENCE: Duration = Duration::from_millis(500);

/// An incarnation of a netd and what is shared with it.
pub(crate) struct Netd {
    pub(crate) seat: Seat,
    pub(crate) generation: Generation,
    commands: CommandTx<Arc<Region>>,
    answers: Consumer<Arc<Region>, SLOT_SIZE>,
    /// Commands that the ring had no place for: never more than there are requests and sessions.
    waiting: VecDeque<Command>,
    pushed: u32,
    /// How many it had taken when that last changed, and when that was seen.
    standing: Option<(u32, Instant)>,
    pub(crate) wakes_us: OwnedFd,
    wakes_peer: OwnedFd,
    /// For changes of the configuration, which shard 0 writes and the others read.
    pub(crate) notices: Option<NoticeLane<ConfigRequest, ConfigReply>>,
}

impl Netd {
    /// Attaches to the zeroed rings of a new pair of generations.
    pub(crate) fn attach(
        seat: Seat,
        generation: Generation,
        memory: &OwnedFd,
        wakes_us: OwnedFd,
        wakes_peer: OwnedFd,
    ) -> io::Result<Netd> {
        let memory = Arc::new(Region::map(memory, REGION_SIZE)?);
        let (commands, answers) = sockd_ends(memory);
        Ok(Netd {
            seat,
            generation,
            commands,
            answers,
            waiting: VecDeque::new(),
            pushed: 0,
            standing: None,
            wakes_us,
            wakes_peer,
            notices: None,
        })
    }

    /// Queues a command; it is visible after [`Netd::publish`].
    pub(crate) fn command(&mut self, command: Command) {
        self.waiting.push_back(command);
    }

    /// Publishes what the ring takes, and wakes the netd if it sleeps.
    pub(crate) fn publish(&mut self, now: Instant) -> Result<(), PeerCorrupt> {
        while let Some(command) = self.waiting.front() {
            if !self.commands.push(&encode(command))? {
                break;
            }
            self.pushed = self.pushed.wrapping_add(1);
            self.waiting.pop_front();
        }
        if self.commands.publish() {
            self.wake();
        }
        self.observe(now)
    }

    /// Sees how far the netd is. Only what it has not taken from the ring counts: an operation may
    /// take as long as a connection lingers.
    fn observe(&mut self, now: Instant) -> Result<(), PeerCorrupt> {
        let backlog = self.commands.backlog()?;
        let taken = self.pushed.wrapping_sub(backlog);
        self.standing = match self.standing {
            _ if backlog == 0 => None,
            Some((before, since)) if before == taken => Some((before, since)),
            _ => Some((taken, now)),
        };
        Ok(())
    }

    /// INV-R6: whoever attaches wakes the other once.
    pub(crate) fn wake(&self) {
        let _ = rustix::io::write(&self.wakes_peer, &1u64.to_ne_bytes());
    }

    /// The next answer.
    pub(crate) fn answer(&mut self) -> Result<Option<Answer>, PeerCorrupt> {
        let slot = self.answers.pop()?;
        self.answers.release();
        let corrupt = PeerCorrupt::new("an answer that does not decode");
        slot.map(|slot| decode(&slot).map_err(|_| corrupt)).transpose()
    }

    /// Before sleeping: `false` when there are answers to take first.
    pub(crate) fn arm(&mut self) -> Result<bool, PeerCorrupt> {
        self.answers.arm()
    }

    /// After sleeping.
    pub(crate) fn disarm(&mut self) {
        self.answers.disarm();
        let _ = rustix::io::read(self.wakes_us.as_fd(), &mut [0; 8]);
    }

    /// When the netd counts as stuck, unless it moves.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.standing.map(|(_, since)| since + PATIENCE)
    }

    /// Whether that time has come; it is then asked again after as long. Nothing wakes us when a
    /// netd takes a command, so the ring is looked at anew before the verdict.
    pub(crate) fn is_stuck(&mut self, now: Instant) -> Result<bool, PeerCorrupt> {
        if self.deadline().is_none_or(|deadline| deadline > now) {
            return Ok(false);
        }
        self.observe(now)?;
        let Some((_, since)) = &mut self.standing else { return Ok(false) };
        let stuck = *since + PATIENCE <= now;
        if stuck {
            *since = now;
        }
        Ok(stuck)
    }
}

/// The operations that have a place and a record of it in a connection table. A connection that
/// has left its place (RFC 9293 §3.3.2: TIME-WAIT, or FIN-WAIT-2 without a client) keeps its record
/// for a while; its place and its port are free.
pub(crate) fn known_operations(conns: &Arc<Region>) -> HashSet<OpId> {
    // A table that its netd has not made yet holds nothing.
    let Ok(table) = CellTable::attach(conns.clone(), LAYOUT) else { return HashSet::new() };
    let placed = |index| {
        let image = table.read(index).ok().flatten()?;
        let (opening, state) = (Opening::from_bytes(&image.opening)?, State::from_bytes(&image.state));
        // A state that this binary can't read: netd knows better, and says `Released`.
        state.is_none_or(|state| !state.detached).then_some(opening.op)
    };
    (0..table.high_water()).filter_map(placed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::cell::{CellWriter, table_size};
    use proto::form::{Form, Share};
    use proto::hard::conns::{Kind, Options, TcpState};
    use proto::id::{Epoch, RecordIndex, SessionId, SlotIndex};
    use proto::shm::region::create_sealed;

    #[test]
    fn a_record_that_left_its_place_keeps_nothing() {
        const CELLS: u32 = 8;
        let fd = create_sealed("axl-test", table_size(CELLS)).expect("memory");
        let memory = Arc::new(Region::map(&fd, table_size(CELLS)).expect("mapped"));
        assert!(known_operations(&memory).is_empty(), "no table yet");
        let mut conns = CellWriter::attach(memory.clone(), LAYOUT, CELLS).expect("a table");
        for (op, tcp_state, detached) in [
            (1, TcpState::Established, false),
            (2, TcpState::TimeWait, true),
            (3, TcpState::FinWait2, true),
            (4, TcpState::FinWait1, false),
        ] {
            let opening = Opening {
                kind: Kind::TcpActive,
                shard: 0,
                local: "10.0.0.1:40000".parse().expect("an address"),
                remote: "10.0.0.9:80".parse().expect("an address"),
                session: SessionId(1),
                op: OpId(op),
                slot: SlotIndex(op as u32),
                epoch: Epoch(op as u32),
                iss: 0,
                irs: 0,
                options: Options::default(),
                ts_offset: 0,
                listener: RecordIndex(0),
                listener_serial: 0,
                backlog: 0,
                form: Form::Udp,
                share: Share::NONE,
            };
            let mut held = conns.take().expect("room");
            conns.open(&mut held, &opening.to_bytes(), &State::new(TcpState::Closed).to_bytes());
            conns.commit(&mut held, &State { detached, ..State::new(tcp_state) }.to_bytes());
        }
        assert_eq!(known_operations(&memory), HashSet::from([OpId(1), OpId(4)]));
    }
}
