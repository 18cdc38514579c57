//! Connections at rest sleep through a recovery.
//!
//! Of very many connections most are at rest when netd dies: nothing is under way or unread, and client and
//! record say the same. A successor enters such a one under its two ends and at its place, and makes its
//! socket when a segment, its client or sockd asks for it. So what moves again first does not wait for what
//! does not move (INV-T6), and nothing is built before the first frame that the first frame does not need
//! (INV-T4).
//!
//! A sleeper stands in the list of greetings and speaks first as everybody does (INV-T6) when nobody has
//! more to say: one acknowledgement out of a control block that is made for it and gone again. Its client is
//! told to look (INV-R6), and it sleeps on.
//!
//! Invariants: a sleeper has a record that matched its checks, a flow, a place, no receive page and no timer;
//! whatever is found wrong with its record when it is read again costs that connection (INV-T7).
//!
//! Not here: what makes a socket of a record, see `recover`.

use super::Stack;
use super::clients::flow_key;
use super::recover::{Found, place_of};
use super::watch::crumb;
use crate::counters::Counter;
use crate::ip::header_len;
use crate::tcp::commit::Identity;
use crate::tcp::control_block::ControlBlock;
use crate::transport::flow_table::FlowKey;
use proto::Instant;
use proto::arena::WINDOW_MAX;
use proto::arena::line::{ClientLine, StackLine, level, want};
use proto::control::operations::SocketRef;
use proto::hard::conns::{State, TcpState};
use proto::id::RecordIndex;
use proto::recorder::Work;
use proto::shm::Memory;

/// Records whose sockets are made when they are asked for, a bit each.
#[derive(Debug, Default)]
pub(super) struct Sleepers {
    bits: Vec<u64>,
    count: usize,
}

impl Sleepers {
    /// How many sleep.
    pub const fn count(&self) -> usize {
        self.count
    }

    /// Whether that record's socket sleeps.
    pub fn contains(&self, index: u32) -> bool {
        self.count > 0 && self.bits.get(index as usize / 64).is_some_and(|word| word >> (index % 64) & 1 == 1)
    }

    fn insert(&mut self, index: u32) {
        let word = index as usize / 64;
        self.bits.resize(self.bits.len().max(word + 1), 0);
        self.bits[word] |= 1 << (index % 64);
        self.count += 1;
    }

    /// Returns whether it slept.
    fn remove(&mut self, index: u32) -> bool {
        let slept = self.contains(index);
        if slept {
            self.bits[index as usize / 64] &= !(1 << (index % 64));
            self.count -= 1;
        }
        slept
    }
}

/// What a client may want of a connection at rest: nothing that runs a timer or ends it.
const HARMLESS: u32 = want::NODELAY | want::CORK | want::QUICKACK;

/// Whether the client at `at` has nothing to say to a connection whose record has `state`, which is established.
fn says_nothing(client: &ClientLine, at: SocketRef, state: &State) -> bool {
    client.epoch == at.epoch
        && (client.written, client.consumed) == (state.snd_una - 1, state.rcv_nxt - 1)
        && client.flags & !HARMLESS == 0
}

impl<M: Memory + Clone> Stack<M> {
    /// During recovery: lets the connection of a record sleep, or gives the record back when it can't.
    pub(super) fn lay_down(&mut self, record: Found) -> Option<Found> {
        let Some(at) = self.rests(&record) else { return Some(record) };
        let Some(flow) = flow_key(record.opening.local, record.opening.remote) else { return Some(record) };
        let index = record.held.index();
        if self.demux.flows.insert(flow, index).is_err() {
            return Some(record);
        }
        let session = self.sessions.get_mut(&at.session).expect("looked at above");
        assert!(session.settle(at.slot, RecordIndex(index)), "the place was seen to be free");
        if record.opening.op.0 != 0 {
            self.operations.insert(record.opening.op, index);
        }
        self.sleepers.insert(index);
        self.greetings.push_back(index);
        self.counters.count(Counter::Recovered);
        None
    }

    /// Where a connection lies that is at rest; `None` for one that has anything to say or to hear.
    fn rests(&self, record: &Found) -> Option<SocketRef> {
        let state = &record.state;
        let at_rest = State {
            snd_una: state.snd_una,
            snd_edge: state.snd_edge,
            rcv_nxt: state.rcv_nxt,
            rcv_edge: state.rcv_edge,
            ts_recent: state.ts_recent,
            srtt_64us: state.srtt_64us,
            cwnd_segments: state.cwnd_segments,
            pmtu: state.pmtu,
            ..State::new(TcpState::Established)
        };
        if *state != at_rest || state.snd_una == 0 || state.rcv_nxt == 0 || state.rcv_edge > WINDOW_MAX {
            return None;
        }
        record.agreed?;
        let at = place_of(&record.opening, record.agreed.as_ref())?;
        let session = self.sessions.get(&at.session).filter(|session| !session.ended)?;
        if !session.owns(at.slot) || session.record_at(at.slot).is_some() {
            return None;
        }
        // The kick ring was emptied before: a client that speaks from here on is heard by its note.
        let lines = (&session.memory, &session.geometry);
        let (acked, received) = (state.snd_una - 1, state.rcv_nxt - 1);
        let client = ClientLine::load(lines.0, lines.1, at.slot);
        let of_client = says_nothing(&client, at, state);
        let line = StackLine::load(lines.0, lines.1, at.slot);
        let owed = line.event_seq != client.event_ack && !session.is_told(at.slot);
        let of_stack = line.epoch == at.epoch
            && (line.acked, line.received) == (acked, received)
            && line.flags == level::OPEN;
        (of_client && of_stack && client.kick_seq == line.kick_ack && !owed).then_some(at)
    }

    /// The connection of a flow, awake.
    pub(super) fn connection_of(&mut self, now: Instant, flow: &FlowKey) -> Option<u32> {
        let index = self.demux.flows.get(flow)?;
        if !self.sleepers.contains(index) {
            return Some(index);
        }
        self.wake(now, index);
        self.demux.flows.get(flow)
    }

    /// Makes the socket of a sleeper, under whatever crumb lies for what asks for it; nothing for others.
    pub(super) fn wake(&mut self, now: Instant, index: u32) {
        if self.sleepers.remove(index)
            && let Some(record) = self.record_again(index)
        {
            self.wake_up(now, record);
        }
    }

    /// Lets a connection whose turn to greet has come speak, under a crumb of its own if it sleeps (INV-T8).
    pub(super) fn greet_one(&mut self, now: Instant, index: u32, room: &mut [usize]) {
        if !self.sleepers.remove(index) {
            return self.reschedule(now, index);
        }
        let Some(mut record) = self.record_again(index) else { return };
        if !self.begin(|| crumb(Work::Recovery, &record.opening.to_bytes())) {
            self.conns.free(record.held);
            return self.lose(index);
        }
        match self.greet_asleep(now, &mut record, room) {
            Some(()) => self.sleepers.insert(index),
            None => self.wake_up(now, record),
        }
        self.end();
    }

    /// Sends what the connection of a record says first; `None`, and nothing is sent, when that is more than
    /// an acknowledgement, or can't leave now.
    fn greet_asleep(&mut self, now: Instant, record: &mut Found, room: &mut [usize]) -> Option<()> {
        let (opening, state) = (&record.opening, &record.state);
        let flow = flow_key(opening.local, opening.remote)?;
        let way = self.way_of(&flow)?;
        if self.is_awaited(&way) || !self.may_send(way.nic, room) {
            return None;
        }
        let at = place_of(opening, record.agreed.as_ref())?;
        let session = self.sessions.get(&at.session)?;
        let client = ClientLine::load(&session.memory, &session.geometry, at.slot);
        if !says_nothing(&client, at, state) {
            return None;
        }
        let identity = Identity::of_record(opening, record.agreed.as_ref());
        let settings = self.settings_towards(flow.remote_addr());
        let header = header_len(flow.remote_addr()) as u16;
        let mut block = ControlBlock::restore(now, &identity, state, &settings, header)?;
        block.on_consumed(now, client.consumed);
        block.on_written(now, client.written, false);
        let segment = block.poll_output(now, block.mss())?;
        if segment.payload_len > 0 || block.has_output(now) || block.next_deadline().is_some() {
            return None;
        }
        // The window that is announced may end further on than the one before.
        let greeted = State { rcv_edge: block.state_values(header).rcv_edge, ..*state };
        if greeted != *state {
            self.conns.commit(&mut record.held, &greeted.to_bytes());
            self.counters.count(Counter::Commits);
        }
        self.counters.count(Counter::TcpOutSegs);
        let place = self.place_of(way.nic);
        room[place] = room[place].saturating_sub(1);
        self.send_reply(now, &flow, &segment);
        self.tell_asleep(at);
        Some(())
    }

    /// INV-R6: the predecessor may have published what its client was never told of.
    fn tell_asleep(&mut self, at: SocketRef) {
        let session = self.sessions.get_mut(&at.session).expect("looked at before");
        let mut line = StackLine::load(&session.memory, &session.geometry, at.slot);
        match session.notify(at.slot, &mut line.event_seq) {
            Ok(()) => self.batch.tell(at.session),
            Err(rule) => self.batch.corrupt.push((at.session, rule)),
        }
    }

    /// The record of a sleeper. One that does not match its checks any more is given up (INV-T7).
    fn record_again(&mut self, index: u32) -> Option<Found> {
        let found = self.conns.recover_one(index);
        match found.map(|(held, image)| image.map(|image| Found::read(held, &image))) {
            Some(Ok(Ok(record))) => return Some(record),
            Some(Ok(Err(held))) => self.conns.free(held),
            // The table has freed the cell of a failed check.
            Some(Err(_)) | None => {}
        }
        self.lose(index);
        None
    }

    fn wake_up(&mut self, now: Instant, record: Found) {
        let index = record.held.index();
        let place = place_of(&record.opening, record.agreed.as_ref()).expect("looked at when it lay down");
        let state = record.state;
        if !self.make_socket(now, record) {
            return self.lose(index);
        }
        self.move_in(index, place);
        let taken = self.find_again(index, place, &state, true);
        if let Err(rule) = taken.and_then(|()| self.hear_client(now, place)) {
            self.batch.corrupt.push((place.session, rule));
        }
        self.touch(index);
        self.reschedule(now, index);
    }

    /// What the client has written since its connection lay down.
    fn hear_client(&mut self, now: Instant, at: SocketRef) -> Result<(), proto::PeerCorrupt> {
        match self.take_up_kick(at.session, at.slot) {
            Some((index, client)) => self.client_says(now, index, client),
            None => Ok(()),
        }
    }

    /// INV-T7: a sleeper has no record any more. Its client is told that the connection is over.
    fn lose(&mut self, index: u32) {
        self.counters.count(Counter::CellsCorrupt);
        self.demux.flows.remove_record(index);
        self.operations.retain(|_, record| *record != index);
        for session in self.sessions.values_mut() {
            let lived = session.records().find(|(_, record)| record.0 == index);
            let Some((slot, _)) = lived else { continue };
            session.vacate(slot);
            if let Err(rule) = super::recover::tell_lost(session, slot, true) {
                self.batch.corrupt.push((session.id, rule));
            }
            self.batch.tell(session.id);
        }
    }
}
