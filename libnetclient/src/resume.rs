//! A session that outlives the process that uses it.
//!
//! Somebody else holds its descriptors ([`Kept`]) and has written down what lives at which place; a
//! successor takes the session up where its predecessor was killed. The arena itself says the rest:
//! the lines are this side's own words, the page tables name the send pages that are in use, and the
//! rings go on from the positions that were published. Requests to sockd are written down by a
//! [`Book`] before they are sent; the last one is sent again under its own number, which sockd answers
//! once however often it hears it.
//!
//! Used by `netexec`. Not here: what is written down about a socket, and who holds the descriptors.

use crate::control::Control;
use crate::listener::TcpListener;
use crate::pages::{FreePages, TxPages};
use crate::session::{Inner, Session, Size, Slot};
use crate::socket::{Kind, Placed, Socket};
use crate::tcp::{TcpStream, shown};
use crate::udp::UdpSocket;
use proto::PeerCorrupt;
use proto::arena::line::{ClientLine, Notes, StackLine, level, want};
use proto::arena::place::{Direction, entry_of};
use proto::arena::record::Header;
use proto::arena::wishes::Wishes;
use proto::arena::{Geometry, NOTE_SIZE, PAGE_SIZE, TABLE_PAGES};
use proto::control::client::Granted;
use proto::id::{Epoch, SessionId, SlotIndex};
use proto::ring::spsc::{Consumer, Producer};
use proto::shm::region::Region;
use rustix::fd::OwnedFd;
use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

/// What a session consists of beside memory of this process.
#[derive(Debug)]
pub struct Kept {
    /// Its name in the group.
    pub id: SessionId,
    /// How its arena is divided.
    pub geometry: Geometry,
    /// The socket towards sockd; the session ends with its last duplicate.
    pub control: OwnedFd,
    /// The arena.
    pub arena: OwnedFd,
    /// Readable when a ring that was armed has an event.
    pub wake: OwnedFd,
    /// Wake the shards, in their order.
    pub pipes: Vec<OwnedFd>,
}

/// Where requests are written down before they are sent.
pub trait Book: core::fmt::Debug + Send + Sync {
    /// Request `number` is about to be sent, as these bytes.
    fn asking(&self, number: u64, request: &[u8]);
}

/// What the predecessor had asked.
#[derive(Debug, Default)]
pub struct Asked {
    /// The number of its last request.
    pub last: u64,
    /// Those of its bytes, if what was granted may not have been written down.
    pub open: Option<Vec<u8>>,
}

/// Where a socket lives in the arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The place, the first one of a row.
    pub slot: SlotIndex,
    /// Which use of it.
    pub epoch: Epoch,
    /// Whose it is; [`proto::arena::EVERY_SHARD`] for a row.
    pub shard: u16,
    /// Our side.
    pub local: SocketAddr,
}

impl From<Place> for Placed {
    fn from(Place { slot, epoch, shard, local }: Place) -> Placed {
        Placed { slot, epoch, shard, local }
    }
}

/// What a waiting connection is to whoever is asked about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is written down: it leaves the queue.
    Taken,
    /// It stays where it is.
    Left,
}

impl Session {
    /// [`Session::at`], and what it consists of.
    ///
    /// # Errors
    /// As [`Session::at`].
    pub fn at_kept(path: &Path, size: Size) -> io::Result<(Session, Kept)> {
        Session::open_kept(path, size)
    }

    /// Takes a session up whose process was killed. `streams` are the connections that live, each with the
    /// bytes that lie in its send pages: those behind what was published are kept back, and
    /// [`TcpStream::kept_back`] says how many.
    ///
    /// # Errors
    /// When the memory makes no sense, and those of mmap(2).
    pub fn resume(
        kept: &Kept,
        asked: Asked,
        book: Arc<dyn Book>,
        streams: &HashMap<SlotIndex, (Epoch, u64)>,
    ) -> io::Result<Session> {
        let geometry = kept.geometry;
        let memory = Arc::new(Region::map(&kept.arena, geometry.bytes())?);
        let control = Control::resume(kept.control.try_clone()?, asked, book)?;
        let corrupt = |rule: PeerCorrupt| io::Error::new(io::ErrorKind::InvalidData, rule);
        let (mut events, mut kicks, mut said) = (Vec::new(), Vec::new(), HashSet::new());
        for (shard, pipe) in (0..geometry.shards).zip(&kept.pipes) {
            let ring = Consumer::<_, NOTE_SIZE>::resume(memory.clone(), geometry.event_ring(shard));
            events.push(ring.map_err(corrupt)?);
            let ring = Producer::<_, NOTE_SIZE>::resume(memory.clone(), geometry.kick_ring(shard));
            let ring = ring.map_err(corrupt)?;
            said.extend(ring.outstanding().map(u32::from_ne_bytes));
            kicks.push((ring, pipe.try_clone()?));
        }
        let mut used = vec![false; geometry.tx_pages as usize];
        let mut slots = Vec::with_capacity(geometry.sockets() as usize);
        for at in (0..geometry.sockets()).map(SlotIndex) {
            slots.push(slot_again(&memory, &geometry, at, streams.get(&at), &mut used).map_err(corrupt)?);
        }
        let pages = FreePages::without(&used);
        let inner = Inner::taken_up(kept, memory, control, (events, kicks), slots, pages)?;
        let session = Session::from_inner(inner);
        session.inner.speak_first(&said)?;
        Ok(session)
    }

    /// What was granted to the predecessor and nobody asked for again is closed.
    ///
    /// # Errors
    /// When the session is over.
    pub fn drop_unclaimed(&self) -> io::Result<()> {
        if let Some(Granted::Socket { slot, epoch, shard, local }) = self.inner.control.unclaimed() {
            drop(Socket::place(self, Kind::Stream, Placed { slot, epoch, shard, local })?);
        }
        Ok(())
    }
}

/// A place as the lines say it is.
fn slot_again(
    memory: &Region,
    geometry: &Geometry,
    at: SlotIndex,
    lives: Option<&(Epoch, u64)>,
    used: &mut [bool],
) -> Result<Slot, PeerCorrupt> {
    let line = ClientLine::load(memory, geometry, at);
    let stack = StackLine::load(memory, geometry, at);
    let begun = stack.epoch == line.epoch;
    let lives = lives.filter(|(epoch, _)| *epoch == line.epoch);
    let closing = line.flags & want::CLOSE != 0 && begun && stack.flags & level::GONE == 0;
    if line.epoch.0 == 0 || (lives.is_none() && !closing) {
        return Ok(Slot::empty(line));
    }
    let filled = lives.map_or(line.written, |(_, filled)| (*filled).max(line.written));
    let acked = if begun { stack.acked } else { 0 };
    let room = (TABLE_PAGES * PAGE_SIZE) as u64;
    if acked > line.written || filled - acked > room {
        return Err(PeerCorrupt::new("acknowledged cursor past the written bytes"));
    }
    let mut pages = Vec::new();
    if filled > acked {
        let (first, last) = (acked / PAGE_SIZE as u64, (filled - 1) / PAGE_SIZE as u64);
        for number in first..=last {
            let page = Direction::Tx.page(memory, geometry, at, entry_of(number * PAGE_SIZE as u64))?;
            if core::mem::replace(&mut used[page as usize], true) {
                return Err(PeerCorrupt::new("a send page of two sockets"));
            }
            pages.push(page);
        }
    }
    let mut tx = TxPages::again(line.written, acked, filled, pages);
    let (number, first) = line.wishes();
    if number != 0 && geometry.owner(at) == 0 {
        let wished = Wishes::pages_of(memory, geometry, first)?;
        for page in &wished {
            used[*page as usize] = true;
        }
        // Of a socket that lives they are in its own hands again when it is taken up.
        tx.kept = if lives.is_none() { wished } else { Vec::new() };
    }
    Ok(Slot::resting(line, tx))
}

impl Inner {
    /// Looks at every place once and lets every shard look at it (INV-R6). `said` are the notes that still
    /// lie in the rings.
    fn speak_first(&self, said: &HashSet<u32>) -> io::Result<()> {
        for at in (0..self.geometry.sockets()).map(SlotIndex) {
            if self.is_used(at) {
                self.look_again(at);
                let outstanding = Notes::Kick.outstanding(&self.memory, &self.geometry, at);
                if !outstanding {
                    self.publish(at, self.geometry.owner(at), |_| {})?;
                } else if !said.contains(&at.0) {
                    // Counted and perhaps never pushed.
                    self.push_kick(at, self.geometry.owner(at))?;
                }
            }
        }
        self.wake_shards();
        Ok(())
    }
}

impl TcpStream {
    /// Where it lives.
    pub fn place(&self) -> Place {
        self.socket.place_of()
    }

    /// A connection that lives in a session that was taken up.
    ///
    /// # Errors
    /// When the place makes no sense.
    pub fn resume(session: &Session, place: Place, peer: SocketAddr) -> io::Result<TcpStream> {
        let socket = Socket::place_again(session, Kind::Stream, place.into())?;
        Ok(TcpStream::accepted(socket, peer))
    }

    /// Bytes in the send pages that the predecessor had not published: to be sent by
    /// [`TcpStream::commit_in_place`].
    pub fn kept_back(&self) -> usize {
        self.socket.kept_back()
    }

    /// Whether this side has said that it writes no more.
    pub fn is_write_shut(&self) -> bool {
        self.socket.wants() & want::SHUT_WR != 0
    }

    /// Bytes written so far: where in the stream the next one goes.
    pub fn written(&self) -> u64 {
        self.socket.mine().written
    }

    /// Bytes consumed so far.
    pub fn consumed(&self) -> u64 {
        self.socket.mine().consumed
    }
}

impl TcpListener {
    /// Where it lives.
    pub fn place(&self) -> Place {
        self.socket.place_of()
    }

    /// A listener that lives in a session that was taken up.
    ///
    /// # Errors
    /// When the place makes no sense.
    pub fn resume(session: &Session, place: Place) -> io::Result<TcpListener> {
        Ok(TcpListener { socket: Socket::place_again(session, Kind::Listener, place.into())? })
    }

    /// Takes the next connection in two steps: `keep` writes down where it lives, and only then it leaves
    /// the queue. Never waits.
    ///
    /// # Errors
    /// `WouldBlock` when none waits or `keep` left it; else as [`TcpListener::accept`].
    pub fn accept_kept(
        &self,
        mut keep: impl FnMut(Place, SocketAddr) -> Verdict,
    ) -> io::Result<(TcpStream, SocketAddr)> {
        let header = self.taken(|header, place, remote| {
            let _ = header;
            keep(place, remote)
        })?;
        self.accepted(&header)
    }

    /// Takes connections off the head of the queue that `known` says are somebody's already.
    ///
    /// # Errors
    /// As [`TcpListener::accept`].
    pub fn skip_known(&self, mut known: impl FnMut(Place) -> bool) -> io::Result<()> {
        loop {
            let verdict = |_: &Header, place: Place, _: SocketAddr| {
                if known(place) { Verdict::Taken } else { Verdict::Left }
            };
            match self.taken(verdict) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    fn taken(&self, mut keep: impl FnMut(&Header, Place, SocketAddr) -> Verdict) -> io::Result<Header> {
        let geometry = self.socket.session.inner.geometry;
        let v6 = self.socket.place_of().local.is_ipv6();
        self.socket.block_at_once(|| {
            self.next_if(|header| {
                let (local, remote) = (shown(header.local, v6), shown(header.remote, v6));
                let shard = geometry.owner(header.slot);
                keep(header, Place { slot: header.slot, epoch: header.epoch, shard, local }, remote)
            })
        })
    }
}

impl UdpSocket {
    /// Where it lives; its address is the one of the moment.
    pub fn place(&self) -> Place {
        let local = self.local_addr().unwrap_or(self.socket.placed.local);
        Place { local, ..self.socket.place_of() }
    }

    /// A socket that lives in a session that was taken up, with its only remote, if it has one.
    ///
    /// # Errors
    /// When the place makes no sense.
    pub fn resume(session: &Session, place: Place, peer: Option<SocketAddr>) -> io::Result<UdpSocket> {
        let socket = Socket::place_again(session, Kind::Datagram, place.into())?;
        socket.take_up_wishes()?;
        Ok(UdpSocket::with_ends(socket, place.local, peer))
    }

    /// Bytes of the send stream so far, of all shards: grows with every datagram.
    pub fn written(&self) -> u64 {
        self.socket.parts().map(|part| part.mine().written).sum()
    }
}
