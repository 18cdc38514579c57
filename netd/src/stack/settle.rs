//! The end of a batch: what was decided becomes the truth, is told, and leaves — in this order.
//!
//! The order is data, [`ORDER`], so that the tests can run the shipped steps in a wrong order and
//! see their oracles fail. INV-T1: the payload lies in the arena before the batch gets here, then
//! the cell, then the cursor, then the ACK. INV-T2: the cell before the segment, and the freed
//! cursor follows the cell. INV-T9: the outcome stands in a record before it is answered, and the
//! record goes only after its end was published.

use super::Stack;
use super::socket::Kind;
use crate::counters::Counter;
use proto::Instant;
use proto::arena::line::{StackLine, level};
use proto::shm::Memory;

/// One step of the end of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Cells of connections and datagram sockets: opened, agreed, committed.
    CommitConnections,
    /// Their lines in the arenas.
    PublishConnections,
    /// Cells of listeners: their accept queues name connections whose cells and lines stand already,
    /// so that a client that accepts a connection whose record is lost is told so (INV-T7).
    CommitListeners,
    /// Their lines in the arenas.
    PublishListeners,
    /// Notes to the clients.
    Notify,
    /// Places and cells of sockets whose end was published are given back.
    Free,
    /// Frames and answers may leave.
    Release,
}

/// The order that ships.
pub const ORDER: &[Step] = &[
    Step::CommitConnections,
    Step::PublishConnections,
    Step::CommitListeners,
    Step::PublishListeners,
    Step::Notify,
    Step::Free,
    Step::Release,
];

impl<M: Memory + Clone> Stack<M> {
    /// Ends the batch by `order`, which outside of tests is [`ORDER`].
    pub fn settle(&mut self, now: Instant, order: &[Step]) {
        // A client that is found out while it is notified is dealt with in a batch of its own.
        while !self.batch.is_idle() || !self.ip.link.out.is_empty() {
            if !self.portless.has_no_taps() {
                self.tap_outgoing(now);
            }
            self.settle_once(order);
            for (session, rule) in core::mem::take(&mut self.batch.corrupt) {
                self.session_corrupt(now, session, rule);
            }
        }
    }

    fn settle_once(&mut self, order: &[Step]) {
        // The lists are taken out while they are worked on, and their memory is used again.
        let mut dirty = core::mem::take(&mut self.batch.dirty);
        let mut listeners = false;
        for &index in &dirty {
            if let Some(socket) = self.sockets.get_mut(index) {
                socket.dirty = false;
                listeners |= matches!(socket.kind, Kind::Listener(_));
            }
        }
        for step in order {
            match step {
                Step::CommitConnections => self.commit(&dirty, |kind| !matches!(kind, Kind::Listener(_))),
                Step::PublishConnections => self.publish(&dirty, |kind| !matches!(kind, Kind::Listener(_))),
                Step::CommitListeners | Step::PublishListeners if !listeners => {}
                Step::CommitListeners => self.commit(&dirty, |kind| matches!(kind, Kind::Listener(_))),
                Step::PublishListeners => self.publish(&dirty, |kind| matches!(kind, Kind::Listener(_))),
                Step::Notify => self.notify(),
                Step::Free => self.free(&dirty),
                Step::Release => self.release(),
            }
        }
        // A step that was left out (by a test) must not leave the batch unsettled for ever.
        self.batch.answers.clear();
        self.ip.link.out.clear();
        self.batch.told.clear();
        dirty.clear();
        dirty.append(&mut self.batch.dirty);
        self.batch.dirty = dirty;
    }

    fn commit(&mut self, dirty: &[u32], which: impl Fn(&Kind) -> bool) {
        for &index in dirty {
            let Some(socket) = self.sockets.get_mut(index).filter(|socket| which(&socket.kind)) else {
                continue;
            };
            let state = socket.state();
            match (socket.committed, socket.agreed_next.take()) {
                (None, None) => {
                    self.conns.open(&mut socket.held, &socket.opening.to_bytes(), &state.to_bytes());
                }
                // A cookie's connection is opened and has its place in one batch; its state would make
                // no sense without the place.
                (None, Some(agreed)) => self.conns.open_agreed(
                    &mut socket.held,
                    &socket.opening.to_bytes(),
                    &agreed.to_bytes(),
                    &state.to_bytes(),
                ),
                (Some(_), Some(agreed)) => {
                    self.conns.agree(&mut socket.held, &agreed.to_bytes(), &state.to_bytes());
                }
                (Some(before), None) if before == state => continue,
                (Some(_), None) => self.conns.commit(&mut socket.held, &state.to_bytes()),
            }
            socket.committed = Some(state);
            self.counters.count(Counter::Commits);
        }
    }

    fn publish(&mut self, dirty: &[u32], which: impl Fn(&Kind) -> bool) {
        for &index in dirty {
            let Some(socket) = self.sockets.get_mut(index).filter(|socket| which(&socket.kind)) else {
                continue;
            };
            let Some(at) = socket.at else { continue };
            let Some(session) = self.sessions.get(&at.session) else { continue };
            let line = socket.line_now();
            let before = core::mem::replace(&mut socket.line, line);
            if line != before || socket.told_anew {
                line.store(&session.memory, &session.geometry, at.slot);
            }
            if socket.told_anew || worth_a_note(&before, &line) {
                socket.told_anew = false;
                self.batch.notes.push(index);
            }
        }
    }

    fn notify(&mut self) {
        let notes = core::mem::take(&mut self.batch.notes);
        for &index in &notes {
            let Some(socket) = self.sockets.get_mut(index) else { continue };
            let Some(at) = socket.at else { continue };
            let Some(session) = self.sessions.get_mut(&at.session) else { continue };
            match session.notify(at.slot, &mut socket.line.event_seq) {
                Ok(()) => self.batch.tell(at.session),
                Err(corrupt) => self.batch.corrupt.push((at.session, corrupt)),
            }
        }
        self.batch.notes = notes;
        self.batch.notes.clear();
        for id in self.batch.told.drain(..) {
            // INV-R6: also when nothing is new, a predecessor may have owed the wake-up.
            if self.sessions.get_mut(&id).is_some_and(|session| session.publish()) {
                self.released.wakes.push_back(id);
            }
        }
    }

    /// Lets go of places and records whose end has been published.
    fn free(&mut self, dirty: &[u32]) {
        for held in core::mem::take(&mut self.batch.retired) {
            self.conns.free(held);
        }
        for &index in dirty {
            let Some(socket) = self.sockets.get_mut(index) else { continue };
            socket.rx.committed();
            if socket.leaving_place() {
                self.leave_place(index);
            } else if !socket.is_over() {
                continue;
            }
            if self.sockets.get_mut(index).is_some_and(|socket| socket.is_over()) {
                self.remove(index);
            }
        }
        for id in self.batch.pruned.drain(..) {
            if let Some(session) = self.sessions.get_mut(&id) {
                session.return_limbo();
            }
        }
    }

    fn release(&mut self) {
        self.released.frames.append(&mut self.ip.link.out);
        self.released.answers.append(&mut self.batch.answers);
    }
}

/// Whether the client waits for what has changed. Numbers for TCP_INFO are not worth a wake-up.
fn worth_a_note(before: &StackLine, now: &StackLine) -> bool {
    let news =
        now.flags & !before.flags & (level::OPEN | level::END | level::ERROR | level::SENT | level::GONE);
    let room = now.acked + u64::from(now.window) > before.acked + u64::from(before.window);
    let urgent =
        now.flags & level::URGENT != 0 && (before.flags & level::URGENT == 0 || now.urgent != before.urgent);
    let moved = now.received != before.received || now.acked != before.acked;
    let wishes = now.flags & level::URGENT == 0 && now.wishes() != before.wishes();
    moved || news != 0 || urgent || room || wishes
}
