//! What clients ask: sessions opened and ended, sockets wanted.

use super::*;
use crate::policy::Wish;
use crate::ports::{Claim, Class};
use proto::control::client::{Ask, Request, VERSION};
use proto::form::{Form, Share};

/// What a socket shall be.
struct Want {
    kind: Kind,
    local: SocketAddr,
    remote: SocketAddr,
    backlog: u32,
    form: Form,
    share: Share,
}

impl Want {
    /// A socket of that kind there, with nothing else said of it.
    const fn of(kind: Kind, local: SocketAddr) -> Want {
        Want { kind, local, remote: NOWHERE, backlog: 0, form: Form::Udp, share: Share::NONE }
    }
}

impl<M: Memory> Core<M> {
    /// A new client's first request. On success the session has a record; its descriptors are to
    /// be made and given to the vaults, then [`Core::kept`] is called, or [`Core::not_made`].
    ///
    /// # Errors
    /// The errno of the reply; nothing remains of the request.
    pub fn open(&mut self, uid: u32, pid: u32, request: &Request) -> Result<(SessionId, Geometry), Errno> {
        let Ask::Open { version, active, passive, tx_pages, rx_pages } = request.ask else {
            return Err(Errno::PROTO);
        };
        if version != VERSION {
            return Err(Errno::PROTONOSUPPORT);
        }
        if request.number != 1 {
            return Err(Errno::PROTO);
        }
        let user = self.usage.get(&uid).copied().unwrap_or_default();
        let wish = Wish { active, passive, tx_pages, rx_pages };
        let geometry = policy::admit(&self.limits, self.clients.len() as u32, user, wish)?;
        let mut held = self.cells.take().ok_or(Errno::NOBUFS)?;
        let record = Session { id: self.name_session(), uid, pid, geometry };
        let state =
            SessionState { phase: SessionPhase::Opening, request: 0, outcome: errno(Errno::CONNABORTED) };
        self.cells.open(&mut held, &record.to_bytes(), &state.to_bytes());
        charge(&mut self.usage, uid, &geometry);
        let mut client = Client::recovered(held, record, state);
        client.parked = true;
        self.clients.insert(record.id, client);
        Ok((record.id, geometry))
    }

    /// The descriptors of a session could not be made; no netd and no vault has heard of it.
    pub fn not_made(&mut self, session: SessionId) {
        self.dropped(session);
    }

    /// Every live vault has the session.
    #[must_use = "effects are done"]
    pub fn kept(&mut self, session: SessionId) -> Vec<Effect> {
        let mut effects = Vec::new();
        match self.clients.get(&session) {
            Some(client) if client.state.phase == SessionPhase::Opening => {
                let hung_up = client.hung_up;
                self.finish(session, 1, Outcome::Session, &mut effects);
                if hung_up {
                    effects.clear();
                    self.end(session, &mut effects);
                }
            }
            _ => {}
        }
        effects
    }

    /// The client is gone. A session's end waits until the vaults have had it, so that no netd
    /// hears of the end first.
    #[must_use = "effects are done"]
    pub fn hung_up(&mut self, session: SessionId) -> Vec<Effect> {
        let mut effects = Vec::new();
        match self.clients.get_mut(&session) {
            Some(client) if client.state.phase == SessionPhase::Opening => client.hung_up = true,
            _ => self.end(session, &mut effects),
        }
        effects
    }

    /// The client broke a rule: it is sent away.
    #[must_use = "effects are done"]
    pub fn violated(&mut self, session: SessionId, reason: &'static str) -> Vec<Effect> {
        let mut effects = vec![Effect::End { session, reason }];
        effects.extend(self.hung_up(session));
        effects
    }

    /// Every live vault has let go of the session: its record goes, unless a netd died meanwhile.
    /// Its successor may have had the session from the vaults before; so the record stays, ending,
    /// until that one has answered too, whoever is sockd by then.
    pub fn dropped(&mut self, session: SessionId) {
        let all = self.all_shards();
        match self.clients.get_mut(&session) {
            Some(client) if client.dropping && client.gone & all != all => client.dropping = false,
            Some(_) => {
                let client = self.clients.remove(&session).expect("looked at above");
                self.cells.free(client.held);
                refund(&mut self.usage, client.record.uid, &client.record.geometry);
            }
            None => {}
        }
    }

    /// A request stands on the session's socket. It may be new, under way since an earlier
    /// incarnation, or done and not taken off the socket.
    #[must_use = "effects are done"]
    pub fn request(&mut self, session: SessionId, request: &Request) -> Vec<Effect> {
        let mut effects = Vec::new();
        let Some(client) = self.clients.get(&session) else { return effects };
        let done = client.state.request;
        if client.state.phase != SessionPhase::Live {
            return effects;
        }
        if request.number == done {
            effects.push(client.reply());
        } else if request.number != done.wrapping_add(1) {
            return self.violated(session, "a request out of order");
        } else if client.waiting.is_none() {
            self.begin(session, request, &mut effects);
        }
        effects
    }

    fn begin(&mut self, session: SessionId, request: &Request, effects: &mut Vec<Effect>) {
        let begun = match request.ask {
            Ask::Open { .. } => Err(Errno::ISCONN),
            Ask::Connect { local, remote, hold } => {
                let remote = policy::destination(remote);
                let want = Want { remote, backlog: hold.into(), ..Want::of(Kind::Connect, local) };
                policy::may_connect(local, remote).and_then(|()| self.intend(session, request.number, want))
            }
            Ask::Listen { local, backlog, share } => {
                let backlog = policy::backlog(backlog);
                let want = Want { backlog, share, ..Want::of(Kind::Listen, local) };
                self.intend(session, request.number, want)
            }
            Ask::Datagram { local, form, share } => {
                let want = Want { form, share, ..Want::of(Kind::Datagram, local) };
                self.intend(session, request.number, want)
            }
            Ask::DatagramConnect { slot, remote } => self.associate(session, request.number, slot, remote),
        };
        match begun {
            Ok(op) => {
                self.clients.get_mut(&session).expect("it asked").waiting = Some(op);
                let shards = self.shards_of(&self.ops[&op].record);
                self.command(op, shards, effects);
            }
            Err(refusal) => self.finish(session, request.number, errno(refusal), effects),
        }
    }

    /// Writes down the intent to open a socket.
    fn intend(&mut self, session: SessionId, request: u64, want: Want) -> Result<OpId, Errno> {
        let Want { kind, local: asked, remote, backlog, form, share } = want;
        let uid = self.clients[&session].record.uid;
        policy::may_open(uid, form)?;
        if form == Form::Udp {
            policy::may_bind(uid, asked)?;
        }
        let ends = Ends { local: asked, remote };
        let claim = Claim { class: Class::of(kind, form), share, uid };
        if asked.port() != 0 && self.ports.conflict(&claim, ends) {
            return Err(if kind == Kind::Connect { Errno::ADDRNOTAVAIL } else { Errno::ADDRINUSE });
        }
        let (shard, slot, port) = self.settle(session, claim.class, ends)?;
        let local = SocketAddr::new(asked.ip(), port);
        let replaces = OpId(0);
        let epoch = epoch_of(self.next_op);
        let record = Operation {
            id: self.next_op,
            kind,
            shard,
            session,
            slot,
            epoch,
            asked,
            backlog,
            replaces,
            form,
            share,
        };
        let state = OperationState { phase: OperationPhase::Intended, request, local, remote };
        let written = self.write_down(record, state);
        let client = self.clients.get_mut(&session).expect("it asked");
        match written {
            Ok(op) => client.sockets.insert(slot, op),
            Err(refusal) => {
                client.give_back(slot, shard);
                return Err(refusal);
            }
        };
        written
    }

    /// A shard, a place in it and a port that leads there.
    fn settle(
        &mut self,
        session: SessionId,
        class: Class,
        ends: Ends,
    ) -> Result<(u16, SlotIndex, u16), Errno> {
        let random = self.random.next();
        let client = self.clients.get_mut(&session).expect("it asked");
        if class != Class::Connect || self.shards == 1 {
            let port = match ends.local.port() {
                0 => self.ports.choose(class, ends, 0, random, |_| true).ok_or(no_port(class))?,
                port => port,
            };
            let shard = if self.shards == 1 { 0 } else { EVERY_SHARD };
            return Ok((shard, client.take_place(shard).ok_or(Errno::MFILE)?, port));
        }
        let source = source_of(&self.sources, ends);
        if ends.local.port() != 0 {
            let shard = self.steering.flow(SocketAddr::new(source, ends.local.port()), ends.remote);
            return Ok((shard, client.take_place(shard).ok_or(Errno::MFILE)?, ends.local.port()));
        }
        // In turn, those first that are there now.
        let turn = self.next_op.0 as u16;
        let in_turn = (0..self.shards).map(|n| turn.wrapping_add(n) % self.shards);
        let (there, missing): (Vec<u16>, Vec<u16>) =
            in_turn.partition(|shard| self.attached >> shard & 1 == 1);
        let mut refusal = Errno::MFILE;
        for shard in there.into_iter().chain(missing) {
            let Some(slot) = client.take_place(shard) else { continue };
            let leads_there = |port| self.steering.flow(SocketAddr::new(source, port), ends.remote) == shard;
            match self.ports.choose(class, ends, 0, random, leads_there) {
                Some(port) => return Ok((shard, slot, port)),
                None => refusal = no_port(class),
            }
            client.give_back(slot, shard);
        }
        Err(refusal)
    }

    /// The request of an operation is begun anew: its ends belong to another shard than was guessed.
    pub(super) fn begin_elsewhere(&mut self, op: OpId, effects: &mut Vec<Effect>) {
        let Opened { record, state, .. } = &self.ops[&op];
        let (session, request, kind) = (record.session, state.request, record.kind);
        let Operation { backlog, form, share, .. } = *record;
        let want = Want { kind, local: record.asked, remote: state.remote, backlog, form, share };
        // Whoever dies between the two finds the request new.
        self.release(op);
        match self.intend(session, request, want) {
            Ok(op) => {
                self.clients.get_mut(&session).expect("it asked").waiting = Some(op);
                let shards = self.shards_of(&self.ops[&op].record);
                self.command(op, shards, effects);
            }
            Err(refusal) => self.finish(session, request, errno(refusal), effects),
        }
    }

    /// The intent, as a record under the next name.
    fn write_down(&mut self, record: Operation, state: OperationState) -> Result<OpId, Errno> {
        let mut held = self.cells.take().ok_or(Errno::NOBUFS)?;
        let id = self.name_op();
        assert_eq!(id, record.id, "a record goes under the next name");
        self.cells.open(&mut held, &record.to_bytes(), &state.to_bytes());
        let uid = self.clients[&record.session].record.uid;
        let opened = Opened { held, record, state, tries: 1, answered: Answered::default() };
        self.ports.take(Claim::of(&record, uid), id, opened.ends());
        self.ops.insert(id, opened);
        Ok(id)
    }

    /// Writes down the intent to give an open UDP socket another remote.
    fn associate(
        &mut self,
        session: SessionId,
        request: u64,
        slot: SlotIndex,
        remote: SocketAddr,
    ) -> Result<OpId, Errno> {
        let replaces = *self.clients[&session].sockets.get(&slot).ok_or(Errno::BADF)?;
        let Opened { record, state, .. } = &self.ops[&replaces];
        if record.kind != Kind::Datagram || matches!(record.form, Form::Packet { .. }) {
            return Err(Errno::OPNOTSUPP);
        }
        // The address of its bind, with the port that it has since.
        let asked = SocketAddr::new(record.asked.ip(), state.local.port());
        let (local, remote) = if remote.ip().is_unspecified() && remote.port() == 0 {
            // connect(2), AF_UNSPEC: the address that was chosen for the remote goes with it.
            (asked, NOWHERE)
        } else {
            policy::may_associate(state.local, policy::destination(remote))?;
            (state.local, policy::destination(remote))
        };
        let record = Operation { id: self.next_op, asked, replaces, ..*record };
        let state = OperationState { phase: OperationPhase::Intended, request, remote, local };
        self.write_down(record, state)
    }
}

/// Our address in a connection: as asked for, or as netd will probably choose it.
pub(super) fn source_of(sources: &Sources, ends: Ends) -> IpAddr {
    match ends.local.ip() {
        any if any.is_unspecified() => sources.towards(ends.remote.ip()).unwrap_or(any),
        asked => asked,
    }
}

/// What a kernel says when it has no port left.
pub(super) fn no_port(class: Class) -> Errno {
    match class {
        Class::Connect => Errno::ADDRNOTAVAIL,
        _ => Errno::ADDRINUSE,
    }
}
