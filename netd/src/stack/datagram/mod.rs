//! Sockets of datagrams: opened, given another remote, and left. What they receive is in [`input`], what
//! they send in [`output`], what they wish for in [`wishes`]; those without ports are in [`raw`] and
//! [`packet`].

mod error;
mod input;
mod output;
mod packet;
mod raw;
mod raw_out;
mod wishes;

use super::Stack;
pub(super) use raw::Portless;

use super::clients::{bound, remote_of};
use super::socket::{Kind, Socket, Udp};
use crate::transport::demux::{DatagramKey, Member, Ports};
use core::net::SocketAddr;
use proto::Instant;
use proto::arena::line::{ClientLine, want};
use proto::control::operations::SocketRef;
use proto::form::{Form, Share};
use proto::hard::conns::{Kind as RecordKind, Opening};
use proto::id::{OpId, RecordIndex};
use proto::shm::Memory;
use rustix::io::Errno;

/// What sockd wants a socket of datagrams to be.
pub(super) struct Wanted {
    pub at: SocketRef,
    pub local: SocketAddr,
    pub remote: SocketAddr,
    pub form: Form,
    pub share: Share,
}

/// Where a socket stands among those with ports.
fn key_of(opening: &Opening) -> Option<DatagramKey> {
    let ports = match opening.form {
        Form::Udp => Ports::Udp,
        Form::Ping => Ports::Ping,
        Form::Raw { .. } | Form::Packet { .. } => return None,
    };
    // An echo has one identifier, not two ports.
    let remote = remote_of(opening).map(|(ip, port)| (ip, if ports == Ports::Udp { port } else { 0 }));
    Some(DatagramKey { ports, local: bound(opening.local.ip()), local_port: opening.local.port(), remote })
}

impl<M: Memory + Clone> Stack<M> {
    /// Opens a socket of datagrams, or gives one another remote.
    pub(super) fn datagram(
        &mut self,
        now: Instant,
        op: OpId,
        Wanted { at, local, remote, form, share }: Wanted,
    ) -> Result<SocketAddr, Errno> {
        let connected = !remote.ip().is_unspecified();
        let ip = if connected { self.source_for(local.ip(), remote.ip())? } else { local.ip() };
        self.check_local(ip)?;
        let local = SocketAddr::new(ip, local.port());
        let opening = Opening { local, remote, form, share, ..self.opening(RecordKind::Udp, op, at) };
        // A second operation on the place gives the socket another remote: the old one goes first.
        let successor = self.sessions.get(&at.session).and_then(|session| session.record_at(at.slot));
        if let Some(old) = successor {
            return self.reconnect_datagram(now, old.0, opening);
        }
        if key_of(&opening).is_some_and(|key| !self.demux.may_bind(&key, share, None)) {
            return Err(Errno::ADDRINUSE);
        }
        let index = self.place(at, opening, Kind::Udp(Udp::default()))?;
        self.enter_datagrams(index);
        // Another remote was asked for a socket that its client has closed meanwhile.
        let session = self.sessions.get(&at.session).expect("it was placed there");
        let client = ClientLine::load(&session.memory, &session.geometry, at.slot);
        if client.epoch == at.epoch && client.flags & (want::CLOSE | want::ABORT) != 0 {
            self.orphan(now, index);
        }
        Ok(local)
    }

    /// A record's identity is written once: the socket moves to a new cell, cursors and all.
    fn reconnect_datagram(&mut self, now: Instant, old: u32, opening: Opening) -> Result<SocketAddr, Errno> {
        let socket =
            self.sockets.get(old).filter(|socket| matches!(socket.kind, Kind::Udp(_))).ok_or(Errno::INVAL)?;
        if socket.line.epoch != opening.epoch {
            return Err(Errno::INVAL);
        }
        if socket.closed {
            return Err(Errno::BADF);
        }
        let (was, local) = (socket.opening, opening.local);
        let key = key_of(&opening);
        if key.is_some_and(|key| !self.demux.may_bind(&key, opening.share, Some(old))) {
            return Err(Errno::ADDRINUSE);
        }
        let held = self.conns.take().ok_or(Errno::NOBUFS)?;
        self.strike_out(old);
        let mut socket = *self.sockets.remove(old).expect("found above");
        let old_held = core::mem::replace(&mut socket.held, held);
        self.batch.retired.push(old_held);
        self.operations.remove(&was.op);
        (socket.opening, socket.committed, socket.dirty, socket.tx_pending) = (opening, None, false, false);
        let at = socket.at.expect("a datagram socket lives at its place");
        let index = self.sockets.insert(socket);
        let session = self.sessions.get_mut(&at.session).expect("a place lies in a session");
        session.resettle(at.slot, RecordIndex(index));
        self.operations.insert(opening.op, index);
        self.enter_datagrams(index);
        self.touch(index);
        self.reschedule(now, index);
        Ok(local)
    }

    /// A socket can be found by what is received. One that finds its place taken receives nothing: a
    /// record that was replaced and not freed before a death.
    pub(super) fn enter_datagrams(&mut self, index: u32) {
        let Some(Socket { opening, .. }) = self.sockets.get(index) else { return };
        let Some(key) = key_of(opening) else { return self.portless.enter(opening, index) };
        let member = Member { op: opening.op, index, share: opening.share };
        let _ = self.demux.add_datagram(key, member);
    }

    /// A socket is closed: nothing is received for it any more.
    pub(super) fn leave_datagrams(&mut self, now: Instant, index: u32) {
        self.strike_out(index);
        self.leave_groups(now, index);
    }

    fn strike_out(&mut self, index: u32) {
        let Some(Socket { opening, .. }) = self.sockets.get(index) else { return };
        match key_of(opening) {
            Some(key) => self.demux.remove_datagram(key, index),
            None => self.portless.leave(opening, index),
        }
    }
}
