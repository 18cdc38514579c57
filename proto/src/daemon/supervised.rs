//! A daemon's side of the lane to the supervisors.
//!
//! Owns what must be said again after a take-over: readiness, requests without an answer, where a
//! peer may connect. Lets each thing that a supervisor says through once, with its descriptors by
//! name. Knows no ring and maps nothing.

use crate::arena::Geometry;
use crate::control::lane::{Lane, LaneError};
use crate::control::messages::{FromDaemon, ToDaemon};
use crate::id::{Generation, Seat, SessionId};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use thiserror::Error;

/// Sessions that are remembered against a repetition. A supervisor repeats only those that it was
/// passing on when it died: one batch of its event loop, which is smaller.
const SESSIONS_REMEMBERED: usize = 1024;

/// The lane is over: no supervisor is alive, or this process and they no longer understand each
/// other. The daemon ends.
#[derive(Debug, Error)]
#[error("the lane to the supervisors is over: {0}")]
pub struct Gone(#[from] LaneError);

/// What a supervisor says, each thing once.
#[derive(Debug)]
pub enum News {
    /// To sockd: the listening sockets.
    Listeners {
        /// Of `api.sock`.
        api: OwnedFd,
        /// Of `admin.sock`.
        admin: OwnedFd,
    },
    /// To nicd: the TAP that an earlier generation opened.
    Device {
        /// Its descriptor.
        device: OwnedFd,
    },
    /// A peer to share rings with, in place of every earlier one in its seat.
    Introduce {
        /// The peer.
        peer: Seat,
        /// Its generation.
        generation: Generation,
        /// Zeroed memory of the rings.
        memory: OwnedFd,
        /// An eventfd that wakes this daemon.
        wakes_us: OwnedFd,
        /// An eventfd that wakes the peer.
        wakes_peer: OwnedFd,
    },
    /// That incarnation is dead: take back what it held, then [`Supervised::released`].
    PeerGone {
        /// The peer.
        peer: Seat,
        /// The generation that is dead.
        generation: Generation,
    },
    /// To netd: a session.
    Session {
        /// Its name.
        session: SessionId,
        /// How its arena is divided; not yet checked.
        geometry: Geometry,
        /// Its arena.
        arena: OwnedFd,
        /// Writing end of the pipe that wakes the client.
        wakes_client: OwnedFd,
        /// Reading end of the pipe by which the client wakes this shard.
        kicks: OwnedFd,
    },
    /// To sockd: a session of an earlier generation.
    SessionSocket {
        /// Its name.
        session: SessionId,
        /// How its arena is divided.
        geometry: Geometry,
        /// The session socket.
        socket: OwnedFd,
        /// Its arena.
        arena: OwnedFd,
        /// Reading end of the pipe that wakes the client.
        wakes_client: OwnedFd,
        /// For each shard the writing end of the pipe that wakes it.
        kicks: Vec<OwnedFd>,
    },
    /// All that the vault had has been said: attach, then [`Supervised::ready`].
    Complete,
    /// That request has been done.
    Done {
        /// Its number.
        request: u64,
    },
    /// That request has been refused: nothing of it was kept.
    Refused {
        /// Its number.
        request: u64,
        /// errno.
        errno: u32,
    },
    /// To sockd: how [`Supervised::restart`] went.
    Restarted {
        /// The request's number.
        request: u64,
        /// Why the program that lies there is not started.
        result: Result<(), String>,
    },
    /// Where a peer waits for an ipc-channel ([`crate::control::rendezvous`]).
    Rendezvous {
        /// The peer.
        peer: Seat,
        /// Its generation.
        generation: Generation,
        /// The name to connect to.
        name: String,
    },
    /// Finish what is in hand, then exit with 0.
    Stop,
}

/// The descriptors of a session that sockd hands to the vault; they are duplicated.
#[derive(Debug, Clone, Copy)]
pub struct SessionEnds<'a> {
    /// The session socket.
    pub socket: BorrowedFd<'a>,
    /// The arena.
    pub arena: BorrowedFd<'a>,
    /// Reading and writing end of the pipe that wakes the client.
    pub wakes_client: (BorrowedFd<'a>, BorrowedFd<'a>),
    /// For each shard reading and writing end of the pipe by which the client wakes it.
    pub kicks: &'a [(BorrowedFd<'a>, BorrowedFd<'a>)],
}

#[derive(Debug, Default, Clone, Copy)]
struct Peer {
    introduced: Generation,
    /// The newest incarnation whose death was told.
    gone: Generation,
    /// The newest incarnation that this daemon has let go of.
    released: Generation,
}

#[derive(Debug)]
struct Request {
    number: u64,
    message: FromDaemon,
    descriptors: Vec<OwnedFd>,
}

/// A daemon's side of its lane.
#[derive(Debug)]
pub struct Supervised {
    lane: Lane<FromDaemon, ToDaemon>,
    last_request: u64,
    unanswered: VecDeque<Request>,
    ready: bool,
    peers: BTreeMap<Seat, Peer>,
    sessions: VecDeque<SessionId>,
    offers: BTreeMap<Seat, String>,
    offered: BTreeMap<Seat, (Generation, String)>,
}

impl Supervised {
    /// Over a lane whose welcome has been taken.
    pub(super) fn new(lane: Lane<FromDaemon, ToDaemon>) -> Self {
        Supervised {
            lane,
            last_request: 0,
            unanswered: VecDeque::new(),
            ready: false,
            peers: BTreeMap::new(),
            sessions: VecDeque::new(),
            offers: BTreeMap::new(),
            offered: BTreeMap::new(),
        }
    }

    /// The next news; `None` when there are none now. Called until it says so, whenever the lane
    /// is readable or writable (edge-triggered polling is enough).
    ///
    /// # Errors
    /// [`Gone`] when no supervisor is left: the daemon ends.
    pub fn hear(&mut self) -> Result<Option<News>, Gone> {
        self.lane.flush()?;
        while let Some((message, descriptors)) = self.lane.receive()? {
            if let Some(news) = self.take(message, descriptors)? {
                return Ok(Some(news));
            }
        }
        Ok(None)
    }

    /// Attached, polled, everybody woken (INV-R6): in service.
    ///
    /// # Errors
    /// [`Gone`].
    pub fn ready(&mut self) -> Result<(), Gone> {
        self.ready = true;
        self.say(&FromDaemon::Ready)
    }

    /// Nothing of that incarnation of a peer is used any more.
    ///
    /// # Errors
    /// [`Gone`].
    pub fn released(&mut self, peer: Seat, generation: Generation) -> Result<(), Gone> {
        let known = self.peers.entry(peer).or_default();
        known.released = known.released.max(generation);
        self.say(&FromDaemon::Released { peer, generation })
    }

    /// A peer has not moved for its deadline (500 ms) while work waited for it. Said again for
    /// every further deadline that passes so.
    ///
    /// # Errors
    /// [`Gone`].
    pub fn stuck(&mut self, peer: Seat, generation: Generation) -> Result<(), Gone> {
        self.say(&FromDaemon::Stuck { peer, generation })
    }

    /// A peer broke a rule of the rings: it is replaced, and its successor introduced.
    ///
    /// # Errors
    /// [`Gone`].
    pub fn corrupt(&mut self, peer: Seat, generation: Generation) -> Result<(), Gone> {
        self.say(&FromDaemon::Corrupt { peer, generation })
    }

    /// sockd: replace that incarnation by the program that lies there now. Returns the number that
    /// [`News::Restarted`] will name.
    ///
    /// # Errors
    /// [`Gone`].
    pub fn restart(&mut self, seat: Seat, generation: Generation) -> Result<u64, Gone> {
        self.request(&[], |request| FromDaemon::Restart { request, seat, generation })
    }

    /// nicd: keep this TAP's descriptor. Returns the number that [`News::Done`] will name.
    ///
    /// # Errors
    /// [`Gone`].
    pub fn keep_device(&mut self, device: BorrowedFd<'_>) -> Result<u64, Gone> {
        self.request(&[device], |request| FromDaemon::KeepDevice { request })
    }

    /// sockd: keep this session and pass it to the netds. Returns the number that [`News::Done`]
    /// or [`News::Refused`] will name.
    ///
    /// # Errors
    /// [`Gone`].
    ///
    /// # Panics
    /// When there are not as many kicks as the geometry has shards.
    pub fn keep_session(
        &mut self,
        session: SessionId,
        geometry: Geometry,
        ends: SessionEnds<'_>,
    ) -> Result<u64, Gone> {
        let mut descriptors = vec![ends.socket, ends.arena, ends.wakes_client.0, ends.wakes_client.1];
        descriptors.extend(ends.kicks.iter().flat_map(|&(reading, writing)| [reading, writing]));
        self.request(&descriptors, |request| FromDaemon::KeepSession { request, session, geometry })
    }

    /// sockd: the session is over for every netd too. Returns the number that [`News::Done`] will
    /// name.
    ///
    /// # Errors
    /// [`Gone`].
    pub fn drop_session(&mut self, session: SessionId) -> Result<u64, Gone> {
        self.request(&[], |request| FromDaemon::DropSession { request, session })
    }

    /// Where this daemon waits for `peer` to connect an ipc-channel.
    ///
    /// # Errors
    /// [`Gone`].
    pub fn offer(&mut self, peer: Seat, name: String) -> Result<(), Gone> {
        self.offers.insert(peer, name.clone());
        self.say(&FromDaemon::Rendezvous { peer, name })
    }

    /// Number of requests that have no answer yet. A daemon that makes them for others stops at a
    /// limit of its own (a stopped supervisor is replaced within a second).
    pub fn unanswered(&self) -> usize {
        self.unanswered.len()
    }

    fn say(&mut self, message: &FromDaemon) -> Result<(), Gone> {
        Ok(self.lane.send(message, &[])?)
    }

    fn request(
        &mut self,
        descriptors: &[BorrowedFd<'_>],
        message: impl FnOnce(u64) -> FromDaemon,
    ) -> Result<u64, Gone> {
        self.last_request += 1;
        let message = message(self.last_request);
        self.lane.send(&message, descriptors)?;
        let kept = descriptors.iter().map(|fd| fd.try_clone_to_owned()).collect::<io::Result<_>>();
        let descriptors = kept.map_err(LaneError::Io)?;
        self.unanswered.push_back(Request { number: self.last_request, message, descriptors });
        Ok(self.last_request)
    }

    fn take(&mut self, message: ToDaemon, descriptors: Vec<OwnedFd>) -> Result<Option<News>, Gone> {
        let mut descriptors = descriptors.into_iter();
        let mut next = || descriptors.next().expect("the lane has counted the descriptors");
        Ok(match message {
            ToDaemon::Welcome(_) => {
                // Leaked: one of them may be the lock (INV-F).
                descriptors.for_each(core::mem::forget);
                None
            }
            ToDaemon::Listeners => Some(News::Listeners { api: next(), admin: next() }),
            ToDaemon::Device => Some(News::Device { device: next() }),
            ToDaemon::Introduce { peer, generation } => {
                let known = self.peers.entry(peer).or_default();
                if generation <= known.introduced || generation <= known.gone {
                    return Ok(None);
                }
                known.introduced = generation;
                let (memory, wakes_us, wakes_peer) = (next(), next(), next());
                Some(News::Introduce { peer, generation, memory, wakes_us, wakes_peer })
            }
            ToDaemon::PeerGone { peer, generation } => self.peer_gone(peer, generation)?,
            ToDaemon::Session { session, geometry } => {
                if self.sessions.contains(&session) {
                    return Ok(None);
                }
                self.sessions.push_back(session);
                if self.sessions.len() > SESSIONS_REMEMBERED {
                    self.sessions.pop_front();
                }
                let (arena, wakes_client, kicks) = (next(), next(), next());
                Some(News::Session { session, geometry, arena, wakes_client, kicks })
            }
            ToDaemon::SessionSocket { session, geometry } => {
                let (socket, arena, wakes_client) = (next(), next(), next());
                let kicks = descriptors.collect();
                Some(News::SessionSocket { session, geometry, socket, arena, wakes_client, kicks })
            }
            ToDaemon::Complete => Some(News::Complete),
            ToDaemon::Done { request } => self.answered(request).then_some(News::Done { request }),
            ToDaemon::Refused { request, errno } => {
                self.answered(request).then_some(News::Refused { request, errno })
            }
            ToDaemon::Restarted { request, result } => {
                self.answered(request).then_some(News::Restarted { request, result })
            }
            ToDaemon::Rendezvous { peer, generation, name } => {
                let offer = (generation, name);
                if self.offered.get(&peer) == Some(&offer) {
                    return Ok(None);
                }
                let (generation, name) = offer.clone();
                self.offered.insert(peer, offer);
                Some(News::Rendezvous { peer, generation, name })
            }
            ToDaemon::TakeOver => {
                self.repeat()?;
                None
            }
            ToDaemon::Stop => Some(News::Stop),
        })
    }

    fn peer_gone(&mut self, peer: Seat, generation: Generation) -> Result<Option<News>, Gone> {
        let known = self.peers.entry(peer).or_default();
        let told = generation <= known.gone;
        known.gone = known.gone.max(generation);
        if known.introduced < generation || known.released >= generation {
            // Never met, or let go of before: nothing to do but to say so.
            self.say(&FromDaemon::Released { peer, generation })?;
            return Ok(None);
        }
        Ok((!told).then_some(News::PeerGone { peer, generation }))
    }

    /// Takes a request off the list; false when its answer came before.
    fn answered(&mut self, number: u64) -> bool {
        let at = self.unanswered.iter().position(|request| request.number == number);
        at.and_then(|at| self.unanswered.remove(at)).is_some()
    }

    /// To a supervisor that took over: what it may not have heard.
    fn repeat(&mut self) -> Result<(), Gone> {
        if self.ready {
            self.lane.send(&FromDaemon::Ready, &[])?;
        }
        for request in &self.unanswered {
            let descriptors: Vec<_> = request.descriptors.iter().map(AsFd::as_fd).collect();
            self.lane.send(&request.message, &descriptors)?;
        }
        for (&peer, name) in &self.offers {
            self.lane.send(&FromDaemon::Rendezvous { peer, name: name.clone() }, &[])?;
        }
        Ok(())
    }
}

impl AsFd for Supervised {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.lane.as_fd()
    }
}

impl AsRawFd for Supervised {
    fn as_raw_fd(&self) -> RawFd {
        self.lane.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::lane::socket_pair;
    use crate::id::Role;

    const NETD: Seat = Seat::new(Role::Netd, 0);

    type Supervisor = Lane<ToDaemon, FromDaemon>;

    fn pair() -> (Supervisor, Supervised) {
        let (a, b) = socket_pair().expect("a socket pair");
        (Lane::new(a), Supervised::new(Lane::new(b)))
    }

    fn heard(supervisor: &mut Supervisor) -> Vec<FromDaemon> {
        core::iter::from_fn(|| supervisor.receive().expect("sound")).map(|(message, _)| message).collect()
    }

    fn introduce(supervisor: &mut Supervisor, generation: u32) {
        let (fd, _other) = socket_pair().expect("a socket pair");
        let message = ToDaemon::Introduce { peer: NETD, generation: Generation(generation) };
        supervisor.send(&message, &[fd.as_fd(), fd.as_fd(), fd.as_fd()]).expect("sent");
    }

    fn gone(supervisor: &mut Supervisor, generation: u32) {
        let message = ToDaemon::PeerGone { peer: NETD, generation: Generation(generation) };
        supervisor.send(&message, &[]).expect("sent");
    }

    #[test]
    fn an_introduction_is_let_through_once() {
        let (mut supervisor, mut daemon) = pair();
        introduce(&mut supervisor, 1);
        introduce(&mut supervisor, 1);
        assert!(matches!(daemon.hear(), Ok(Some(News::Introduce { generation: Generation(1), .. }))));
        assert!(matches!(daemon.hear(), Ok(None)));
    }

    #[test]
    fn a_repeated_death_is_answered_without_the_daemon() {
        let (mut supervisor, mut daemon) = pair();
        introduce(&mut supervisor, 1);
        gone(&mut supervisor, 1);
        gone(&mut supervisor, 1);
        daemon.hear().expect("sound").expect("introduced");
        assert!(matches!(daemon.hear(), Ok(Some(News::PeerGone { generation: Generation(1), .. }))));
        assert!(matches!(daemon.hear(), Ok(None)), "told once");
        assert_eq!(heard(&mut supervisor), [], "not released before the daemon says so");
        let answer = FromDaemon::Released { peer: NETD, generation: Generation(1) };
        daemon.released(NETD, Generation(1)).expect("sent");
        gone(&mut supervisor, 1);
        assert!(matches!(daemon.hear(), Ok(None)));
        assert_eq!(heard(&mut supervisor), [answer.clone(), answer]);
    }

    #[test]
    fn a_death_of_somebody_never_met_is_released_at_once() {
        let (mut supervisor, mut daemon) = pair();
        gone(&mut supervisor, 3);
        introduce(&mut supervisor, 3);
        introduce(&mut supervisor, 4);
        assert!(matches!(daemon.hear(), Ok(Some(News::Introduce { generation: Generation(4), .. }))));
        assert_eq!(heard(&mut supervisor), [FromDaemon::Released { peer: NETD, generation: Generation(3) }]);
    }

    #[test]
    fn a_take_over_is_told_what_has_no_answer() {
        let (mut supervisor, mut daemon) = pair();
        let (fd, _other) = socket_pair().expect("a socket pair");
        daemon.ready().expect("sent");
        let first = daemon.keep_device(fd.as_fd()).expect("sent");
        let second = daemon.drop_session(SessionId(9)).expect("sent");
        heard(&mut supervisor);
        supervisor.send(&ToDaemon::Done { request: first }, &[]).expect("sent");
        supervisor.send(&ToDaemon::Done { request: first }, &[]).expect("sent");
        assert!(matches!(daemon.hear(), Ok(Some(News::Done { request })) if request == first));
        assert!(matches!(daemon.hear(), Ok(None)), "an answer counts once");
        supervisor.send(&ToDaemon::TakeOver, &[]).expect("sent");
        assert!(matches!(daemon.hear(), Ok(None)));
        let repeated = FromDaemon::DropSession { request: second, session: SessionId(9) };
        assert_eq!(heard(&mut supervisor), [FromDaemon::Ready, repeated]);
        assert_eq!(daemon.unanswered(), 1);
    }

    #[test]
    fn without_supervisors_the_lane_is_over() {
        let (supervisor, mut daemon) = pair();
        drop(supervisor);
        assert!(daemon.hear().is_err());
    }
}
