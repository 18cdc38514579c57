//! What netds answer.

use super::requests::no_port;
use super::*;
use proto::control::operations::Answer;

impl<M: Memory> Core<M> {
    /// An answer of the netd of `shard`. One about something that is no longer known is old news.
    #[must_use = "effects are done"]
    pub fn answer(&mut self, shard: u16, answer: Answer) -> Vec<Effect> {
        let mut effects = Vec::new();
        match answer {
            Answer::Done { op, local } => self.done(op, local, &mut effects),
            Answer::Failed { op, errno } => self.failed(op, errno, &mut effects),
            Answer::Released { op, .. } => self.let_go(op, &mut effects),
            Answer::SessionGone { session } => self.gone(shard, session, &mut effects),
            Answer::SessionCorrupt { session, .. } => {
                return self.violated(session, "it broke a rule of its arena");
            }
        }
        effects
    }

    fn done(&mut self, op: OpId, local: SocketAddr, effects: &mut Vec<Effect>) {
        let Some(opened) = self.ops.get_mut(&op) else { return };
        if opened.state.phase == OperationPhase::Done {
            return;
        }
        let (kind, before) = (opened.record.kind, opened.state.local.port());
        opened.state = OperationState { phase: OperationPhase::Done, local, ..opened.state };
        self.cells.commit(&mut opened.held, &opened.state.to_bytes());
        let (record, request) = (opened.record, opened.state.request);
        let (ends, outcome) = (opened.ends(), opened.outcome());
        self.ports.release(kind, op, before);
        self.ports.take(kind, op, ends);
        self.finish(record.session, request, outcome, effects);
        if record.replaces != OpId(0) {
            if let Some(client) = self.clients.get_mut(&record.session) {
                client.sockets.insert(record.slot, op);
            }
            self.release(record.replaces);
        }
    }

    fn failed(&mut self, op: OpId, errno: u32, effects: &mut Vec<Effect>) {
        let Some(opened) = self.ops.get_mut(&op) else { return };
        let (session, request) = (opened.record.session, opened.state.request);
        if opened.state.phase == OperationPhase::Done {
            return;
        }
        match self.try_again(op, errno) {
            Ok(retry) => effects.push(retry),
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
    fn try_again(&mut self, op: OpId, code: u32) -> Result<Effect, u32> {
        let opened = self.ops.get_mut(&op).expect("the caller found it");
        let is = |errno: Errno| errno.raw_os_error().unsigned_abs() == code;
        let Operation { kind, asked, session, shard, .. } = opened.record;
        let taken = is(Errno::ADDRINUSE) || (is(Errno::ADDRNOTAVAIL) && kind == Kind::Connect);
        let ending = self.clients.get(&session).is_none_or(|c| c.state.phase == SessionPhase::Ending);
        if !taken || asked.port() != 0 || ending {
            return Err(code);
        }
        let none = no_port(kind).raw_os_error().unsigned_abs();
        if opened.tries >= PORT_TRIES_MAX {
            return Err(none);
        }
        opened.tries += 1;
        let before = opened.state.local.port();
        let port = self.ports.choose(kind, opened.ends(), before, self.random.next()).ok_or(none)?;
        opened.state.local.set_port(port);
        self.cells.commit(&mut opened.held, &opened.state.to_bytes());
        self.ports.release(kind, op, before);
        self.ports.take(kind, op, opened.ends());
        Ok(Effect::Command { shard, command: opened.command() })
    }

    /// netd let go of a socket's place. A request about it that is under way came too late.
    fn let_go(&mut self, op: OpId, effects: &mut Vec<Effect>) {
        let Some(opened) = self.ops.get(&op) else { return };
        let waiting = self.clients.get(&opened.record.session).and_then(|client| client.waiting);
        if let Some(wish) = waiting.filter(|wish| *wish == op || self.ops[wish].record.replaces == op) {
            let late = &self.ops[&wish];
            let (session, request) = (late.record.session, late.state.request);
            self.finish(session, request, errno(Errno::BADF), effects);
            self.release(wish);
        }
        self.release(op);
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
