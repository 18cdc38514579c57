//! Taking over from an earlier incarnation, and attaching to a netd.

use super::*;
use crate::ports::Claim;
use crate::territory::Territory;
use proto::cell::TableError;
use proto::hard::registry::{CELLS, LAYOUT, Record};
use std::collections::HashSet;

impl<M: Memory> Core<M> {
    /// From now on no port is given out that is the kernel's.
    pub fn confine(&mut self, territory: Territory) {
        self.ports.confine(territory);
    }

    /// Reads the registry, empty or left by an earlier incarnation, and finishes what that one had
    /// half written.
    ///
    /// # Errors
    /// [`TableError`] when the memory holds another layout.
    ///
    /// # Panics
    /// When `shards` is not between 1 and 64.
    pub fn recover(memory: M, shards: u16, limits: Limits, seed: Seed) -> Result<Self, TableError> {
        assert!((1..=64).contains(&shards), "a group has 1 to 64 shards");
        let mut cells = CellWriter::attach(memory, LAYOUT, CELLS)?;
        let (mut clients, mut ops) = (BTreeMap::new(), BTreeMap::new());
        let (mut counters, mut unknown) = (None, Vec::new());
        cells.recover(|held, image| match image.ok().as_ref().and_then(Record::from_image) {
            Some(Record::Counters(reserved)) => counters = Some((held, reserved)),
            Some(Record::Session(record, state)) => {
                clients.insert(record.id, Client::recovered(held, record, state));
            }
            Some(Record::Operation(record, state)) => {
                ops.insert(
                    record.id,
                    Opened { held, record, state, tries: 0, answered: Answered::default() },
                );
            }
            None if image.is_ok() => unknown.push(held),
            // INV-T7: the writer frees it.
            None => {}
        });
        for held in unknown {
            cells.free(held);
        }
        let (counters, reserved) = counters.unwrap_or_else(|| {
            // None yet, or lost: nothing in sight has a name beyond these.
            let next_op = ops.last_key_value().map_or(1, |(op, _)| op.0 + NAMES_AT_ONCE);
            let last = clients.last_key_value().map(|(session, _)| session.0);
            let next_session = last.map_or(1, |last| last.saturating_add(NAMES_AT_ONCE as u32));
            let reserved = Counters { next_op: OpId(next_op), next_session: SessionId(next_session) };
            let mut held = cells.take().expect("room for the first record");
            cells.open(&mut held, &Counters::opening(), &reserved.to_bytes());
            (held, reserved)
        });
        let mut core = Core {
            cells,
            counters,
            next_op: reserved.next_op,
            next_session: reserved.next_session,
            reserved,
            limits,
            shards,
            attached: 0,
            steering: Steering::new(shards),
            clients,
            ops,
            usage: BTreeMap::new(),
            ports: ports_of(&seed),
            random: Random { key: seed.numbers, count: 0 },
            sources: Sources::default(),
        };
        core.complete_halves();
        core.index();
        Ok(core)
    }

    /// Finishes every pair of stores of which an earlier incarnation did only the first.
    fn complete_halves(&mut self) {
        let named: Vec<OpId> = self.ops.keys().copied().collect();
        for op in named {
            let opened = self.ops.get_mut(&op).expect("just listed");
            let Some(client) = self.clients.get_mut(&opened.record.session) else {
                // Its session's record failed its check: nobody can ask for the socket any more.
                self.release(op);
                continue;
            };
            let (done, Operation { replaces, .. }) = (client.state.request, opened.record);
            match opened.state.phase {
                OperationPhase::Done => {
                    if opened.state.request == done + 1 {
                        // The outcome of the operation was stored, that of the request not yet.
                        let (request, outcome) = (done + 1, opened.outcome());
                        client.state = SessionState { request, outcome, ..client.state };
                        self.cells.commit(&mut client.held, &client.state.to_bytes());
                    }
                    self.release(replaces);
                }
                OperationPhase::Intended if opened.state.request > done => client.waiting = Some(op),
                OperationPhase::Withdrawn if opened.state.request == done + 1 => {
                    // Not every shard could do it; which errno that was is lost.
                    let (request, outcome) = (done + 1, errno(Errno::NOBUFS));
                    client.state = SessionState { request, outcome, ..client.state };
                    self.cells.commit(&mut client.held, &client.state.to_bytes());
                }
                // It waits until the shards that did it have closed it.
                OperationPhase::Withdrawn => {}
                // The request failed and says so; what is left of the operation goes.
                OperationPhase::Intended => self.release(op),
            }
        }
    }

    /// Builds what is derived from the records: places, quotas, ports.
    fn index(&mut self) {
        for (op, opened) in &self.ops {
            let Operation { session, slot, .. } = opened.record;
            let client = self.clients.get_mut(&session).expect("others were released");
            self.ports.take(Claim::of(&opened.record, client.record.uid), *op, opened.ends());
            // Of two on one place the earlier one is the socket, the later one a wish for it.
            client.sockets.entry(slot).or_insert(*op);
        }
        for client in self.clients.values_mut() {
            charge(&mut self.usage, client.record.uid, &client.record.geometry);
            let geometry = client.record.geometry;
            let used = client.sockets.iter().map(|(slot, op)| {
                let row = self.ops[op].record.shard == EVERY_SHARD;
                (*slot, if row { geometry.shards.into() } else { 1 })
            });
            client.places = Places::new(&geometry, used);
        }
    }

    /// The vault handed over the socket of a session. One that the registry does not know (its
    /// record failed its check) is ended.
    #[must_use = "effects are done"]
    pub fn parked(&mut self, session: SessionId, geometry: Geometry) -> Vec<Effect> {
        let mut effects = Vec::new();
        if let Some(client) = self.clients.get_mut(&session) {
            client.parked = true;
            match client.state.phase {
                // The vaults had it all: only the reply was not given.
                SessionPhase::Opening => return self.kept(session),
                SessionPhase::Live => {}
                SessionPhase::Ending => {
                    effects.push(Effect::End { session, reason: "its end was under way" })
                }
            }
            return effects;
        }
        effects.push(Effect::End { session, reason: "its record is lost" });
        if let Some(mut held) = self.cells.take() {
            let record = Session { id: session, uid: u32::MAX, pid: 0, geometry };
            let (phase, outcome) = (SessionPhase::Ending, errno(Errno::CONNRESET));
            let state = SessionState { phase, request: 0, outcome };
            self.cells.open(&mut held, &record.to_bytes(), &state.to_bytes());
            charge(&mut self.usage, record.uid, &record.geometry);
            let mut client = Client::recovered(held, record, state);
            client.parked = true;
            self.clients.insert(session, client);
            self.tell_end(session, &mut effects);
        }
        effects
    }

    /// The vault has handed over everything: sessions whose socket did not come are over.
    #[must_use = "effects are done"]
    pub fn vault_complete(&mut self) -> Vec<Effect> {
        let mut effects = Vec::new();
        let lost: Vec<SessionId> =
            self.clients.iter().filter(|(_, client)| !client.parked).map(|(session, _)| *session).collect();
        for session in lost {
            self.end(session, &mut effects);
        }
        effects
    }

    /// Whether an open socket of `shard` has no record among the `known` ones. A reader of the
    /// connection table beside its busy writer looks twice before it believes that.
    pub fn misses_any(&self, shard: u16, known: &HashSet<OpId>) -> bool {
        let missed = |(op, opened): (&OpId, &Opened)| {
            self.shards_of(&opened.record) >> shard & 1 == 1
                && opened.answered.gone >> shard & 1 == 0
                && opened.state.phase != OperationPhase::Intended
                && !known.contains(op)
        };
        self.ops.iter().any(missed)
    }

    /// The netd of `shard` is there, for the first time or again; `known` are the operations that
    /// have a record in its connection table. Says again all that has no outcome (INV-T9), and
    /// forgets sockets that netd let go of while nobody listened.
    #[must_use = "effects are done"]
    pub fn attached(&mut self, shard: u16, known: &HashSet<OpId>) -> Vec<Effect> {
        self.attached |= 1 << shard;
        let mut effects = Vec::new();
        let named: Vec<OpId> = self.ops.keys().copied().collect();
        for op in named {
            let opened = &self.ops[&op];
            let Some(client) = self.clients.get(&opened.record.session) else { continue };
            let concerned = self.shards_of(&opened.record) >> shard & 1 == 1;
            if !concerned || client.state.phase == SessionPhase::Ending {
                continue;
            }
            let replaced = client.waiting.is_some_and(|wish| self.ops[&wish].record.replaces == op);
            match opened.state.phase {
                OperationPhase::Intended => self.command(op, 1 << shard, &mut effects),
                OperationPhase::Done if replaced || known.contains(&op) => {}
                OperationPhase::Withdrawn if known.contains(&op) => {
                    self.command(op, 1 << shard, &mut effects);
                }
                OperationPhase::Done | OperationPhase::Withdrawn => self.left(shard, op),
            }
        }
        let ending = self.clients.iter().filter(|(_, client)| client.state.phase == SessionPhase::Ending);
        let ending: Vec<SessionId> = ending.map(|(session, _)| *session).collect();
        for session in ending {
            let command = self.end_command(session);
            effects.push(Effect::Command { shard, command });
        }
        effects
    }

    /// The netd of `shard` is dead; what it was told and has not answered is said to its successor.
    /// So is the end of every session whose record is still there, whatever the dead one said of it:
    /// the vaults may have passed it on to the successor.
    pub fn detached(&mut self, shard: u16) {
        self.attached &= !(1 << shard);
        for client in self.clients.values_mut() {
            client.gone &= !(1 << shard);
        }
        for opened in self.ops.values_mut().filter(|op| op.state.phase == OperationPhase::Intended) {
            opened.answered.done &= !(1 << shard);
            opened.answered.refused &= !(1 << shard);
        }
    }
}

impl Client {
    pub(super) fn recovered(held: Held, record: Session, state: SessionState) -> Client {
        Client {
            held,
            record,
            state,
            places: Places::new(&record.geometry, core::iter::empty()),
            sockets: BTreeMap::new(),
            waiting: None,
            parked: false,
            gone: 0,
            hung_up: false,
            dropping: false,
        }
    }
}
