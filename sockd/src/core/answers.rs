//! What netds answer.

use super::requests::{no_port, source_of};
use super::*;
use crate::ports::{Claim, Class};
use proto::control::operations::Answer;

impl<M: Memory> Core<M> {
    /// An answer of the netd of `shard`. One about something that is no longer known is old news.
    #[must_use = "effects are done"]
    pub fn answer(&mut self, shard: u16, answer: Answer) -> Vec<Effect> {
        let mut effects = Vec::new();
        match answer {
            Answer::Done { op, local } => self.done(shard, op, local, &mut effects),
            Answer::Failed { op, errno } => self.failed(shard, op, errno, &mut effects),
            Answer::Elsewhere { op, local } => self.elsewhere(op, local, &mut effects),
            Answer::Released { op, .. } => self.let_go(shard, op, &mut effects),
            Answer::SessionGone { session } => self.gone(shard, session, &mut effects),
            Answer::SessionCorrupt { session, .. } => {
                return self.violated(session, "it broke a rule of its arena");
            }
        }
        effects
    }

    fn done(&mut self, shard: u16, op: OpId, local: SocketAddr, effects: &mut Vec<Effect>) {
        let Some(opened) = self.ops.get_mut(&op) else { return };
        if opened.state.phase != OperationPhase::Intended {
            return;
        }
        if opened.record.shard == EVERY_SHARD {
            opened.answered.done |= 1 << shard;
            if opened.answered.done != self.all_shards() {
                return self.settled(op, effects);
            }
        }
        let opened = self.ops.get_mut(&op).expect("looked at above");
        if opened.record.kind == Kind::Connect {
            self.sources.learn(opened.state.remote.ip(), local.ip());
        }
        let before = opened.state.local.port();
        opened.state = OperationState { phase: OperationPhase::Done, local, ..opened.state };
        self.cells.commit(&mut opened.held, &opened.state.to_bytes());
        let (record, request) = (opened.record, opened.state.request);
        let (ends, outcome) = (opened.ends(), opened.outcome());
        self.move_port(&record, before, ends);
        self.finish(record.session, request, outcome, effects);
        if record.replaces != OpId(0) {
            if let Some(client) = self.clients.get_mut(&record.session) {
                client.sockets.insert(record.slot, op);
            }
            self.release(record.replaces);
        }
    }

    fn failed(&mut self, shard: u16, op: OpId, errno: u32, effects: &mut Vec<Effect>) {
        let Some(opened) = self.ops.get_mut(&op) else { return };
        if opened.state.phase != OperationPhase::Intended {
            return;
        }
        opened.answered.refused |= 1 << shard;
        if opened.answered.errno == 0 {
            opened.answered.errno = errno;
        }
        self.settled(op, effects);
    }

    /// When all shards that an operation concerns have answered, and at least one of them no: none of
    /// them did it, or it is withdrawn from those that did.
    fn settled(&mut self, op: OpId, effects: &mut Vec<Effect>) {
        let Opened { record, state, answered, .. } = &self.ops[&op];
        let (record, request) = (*record, state.request);
        let (all, Answered { done, refused, errno, .. }) = (self.shards_of(&record), *answered);
        if (done | refused) & all != all {
            return;
        }
        if done & all == 0 {
            return self.refused(op, errno, effects);
        }
        self.withdraw(op, refused, effects);
        self.finish(record.session, request, Outcome::Errno(errno), effects);
        if record.replaces != OpId(0) {
            // Those that refused have the socket as it was: it goes with the others' part.
            self.withdraw(record.replaces, done, effects);
        }
    }

    /// Takes back what some shards did and others (`without`) have nothing of.
    fn withdraw(&mut self, op: OpId, without: u64, effects: &mut Vec<Effect>) {
        let Some(opened) = self.ops.get_mut(&op) else { return };
        opened.state.phase = OperationPhase::Withdrawn;
        opened.answered.gone |= without;
        self.cells.commit(&mut opened.held, &opened.state.to_bytes());
        self.command(op, !without, effects);
    }

    fn refused(&mut self, op: OpId, errno: u32, effects: &mut Vec<Effect>) {
        let Opened { record, state, .. } = &self.ops[&op];
        let (session, request) = (record.session, state.request);
        match self.try_again(op, errno) {
            Ok(shards) => self.command(op, shards, effects),
            Err(errno) => {
                self.finish(session, request, Outcome::Errno(errno), effects);
                self.release(op);
            }
        }
    }

    /// netd found the ends taken: another port, where the client left the choice to us.
    ///
    /// # Errors
    /// The errno for the client when that is no way out.
    fn try_again(&mut self, op: OpId, code: u32) -> Result<u64, u32> {
        let opened = self.ops.get_mut(&op).expect("the caller found it");
        let is = |errno: Errno| errno.raw_os_error().unsigned_abs() == code;
        let Operation { kind, asked, session, .. } = opened.record;
        let taken = is(Errno::ADDRINUSE) || (is(Errno::ADDRNOTAVAIL) && kind == Kind::Connect);
        let ending = self.clients.get(&session).is_none_or(|c| c.state.phase == SessionPhase::Ending);
        if !taken || asked.port() != 0 || ending {
            return Err(code);
        }
        self.another_port(op)
    }

    /// Gives an operation another port that leads to its shard, unless too many were tried; returns the
    /// shards that are to be told.
    ///
    /// # Errors
    /// The errno for the client.
    fn another_port(&mut self, op: OpId) -> Result<u64, u32> {
        let opened = self.ops.get_mut(&op).expect("the caller found it");
        let Operation { kind, shard, form, .. } = opened.record;
        let class = Class::of(kind, form);
        let none = no_port(class).raw_os_error().unsigned_abs();
        if opened.tries >= PORT_TRIES_MAX {
            return Err(none);
        }
        opened.tries += 1;
        let before = opened.state.local.port();
        opened.answered = Answered::default();
        let source = source_of(&self.sources, opened.ends());
        let leads_there = |port| {
            kind != Kind::Connect
                || self.shards == 1
                || self.steering.flow(SocketAddr::new(source, port), opened.state.remote) == shard
        };
        let random = self.random.next();
        let port = self.ports.choose(class, opened.ends(), before, random, leads_there).ok_or(none)?;
        opened.state.local.set_port(port);
        self.cells.commit(&mut opened.held, &opened.state.to_bytes());
        let (record, ends) = (opened.record, opened.ends());
        self.move_port(&record, before, ends);
        Ok(self.shards_of(&self.ops[&op].record))
    }

    /// A socket has another port, or another address, than it was entered with.
    fn move_port(&mut self, record: &Operation, before: u16, ends: Ends) {
        let uid = self.clients.get(&record.session).map_or(u32::MAX, |client| client.record.uid);
        let claim = Claim::of(record, uid);
        self.ports.release(claim.class, record.id, before);
        self.ports.take(claim, record.id, ends);
    }

    /// The address of our side was guessed wrong: with the right one the connection belongs to another
    /// shard. Another port leads back to this one; a port that was asked for leads to the other shard.
    fn elsewhere(&mut self, op: OpId, local: SocketAddr, effects: &mut Vec<Effect>) {
        let Some(opened) = self.ops.get(&op) else { return };
        let Operation { kind, asked, session, .. } = opened.record;
        if opened.state.phase != OperationPhase::Intended || kind != Kind::Connect {
            return;
        }
        let (remote, request) = (opened.state.remote, opened.state.request);
        self.sources.learn(remote.ip(), local.ip());
        let ending = self.clients.get(&session).is_none_or(|c| c.state.phase == SessionPhase::Ending);
        if asked.port() != 0 && !ending {
            return self.begin_elsewhere(op, effects);
        }
        match self.another_port(op) {
            Ok(shards) => self.command(op, shards, effects),
            Err(errno) => {
                self.finish(session, request, Outcome::Errno(errno), effects);
                self.release(op);
            }
        }
    }

    /// netd let go of a socket's place. A request about it that is under way came too late.
    fn let_go(&mut self, shard: u16, op: OpId, effects: &mut Vec<Effect>) {
        let Some(opened) = self.ops.get_mut(&op) else { return };
        opened.answered.gone |= 1 << shard;
        let (gone, record) = (opened.answered.gone, opened.record);
        let all = self.shards_of(&record);
        if gone & all != all {
            return;
        }
        let opened = &self.ops[&op];
        let waiting = self.clients.get(&opened.record.session).and_then(|client| client.waiting);
        if let Some(wish) = waiting.filter(|wish| *wish == op || self.ops[wish].record.replaces == op) {
            let late = &self.ops[&wish];
            let (session, request) = (late.record.session, late.state.request);
            self.finish(session, request, errno(Errno::BADF), effects);
            self.release(wish);
        }
        self.release(op);
    }

    /// A netd that comes back has no record of a socket: it has let go of it, or lost it.
    pub(super) fn left(&mut self, shard: u16, op: OpId) {
        let Some(opened) = self.ops.get_mut(&op) else { return };
        opened.answered.gone |= 1 << shard;
        let (gone, record) = (opened.answered.gone, opened.record);
        let all = self.shards_of(&record);
        if gone & all == all {
            self.release(op);
        }
    }

    /// A netd refers to the session no more. After the last one its sockets and then the session
    /// itself go; the record stays until the vaults have let go too.
    fn gone(&mut self, shard: u16, session: SessionId, effects: &mut Vec<Effect>) {
        let all = self.all_shards();
        let Some(client) = self.clients.get_mut(&session) else { return };
        if client.state.phase != SessionPhase::Ending {
            return;
        }
        client.gone |= 1 << shard;
        if client.dropping || client.gone & all != all {
            return;
        }
        client.dropping = true;
        let of_it = |(_, opened): &(&OpId, &Opened)| opened.record.session == session;
        let left: Vec<OpId> = self.ops.iter().filter(of_it).map(|(op, _)| *op).collect();
        for op in left {
            self.release(op);
        }
        effects.push(Effect::Drop { session });
    }
}
