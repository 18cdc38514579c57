//! Session sockets: letting clients in, reading a request without taking it, replying, and only
//! then taking it off.
//!
//! A client is hostile: what it sends is checked, nothing here waits for it, and one that does not
//! read its replies is sent away. The descriptors it may push are refused.

use crate::pass_rights;
use bincode::Options;
use proto::arena::Geometry;
use proto::control::client::{MESSAGE_MAX, Reply, Request};
use proto::shm::region;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown, SocketFlags};
use rustix::pipe::PipeFlags;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;

/// Descriptors beside the reply that opens a session: the arena, one pipe, one for each of 64
/// shards.
const DESCRIPTORS_MAX: usize = 66;

fn options() -> impl Options {
    bincode::DefaultOptions::new().with_fixint_encoding().with_limit(MESSAGE_MAX)
}

/// A connection of a client.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) socket: OwnedFd,
    pub(crate) uid: u32,
    pub(crate) pid: u32,
    /// What the reply that opens the session brings; gone once it was given.
    pub(crate) ends: Option<ClientEnds>,
}

/// The client's descriptors of a session.
#[derive(Debug)]
pub(crate) struct ClientEnds {
    pub(crate) arena: OwnedFd,
    /// Reading end of the pipe that wakes the client.
    pub(crate) wake: OwnedFd,
    /// For each shard the writing end of the pipe that wakes it.
    pub(crate) kicks: Vec<OwnedFd>,
}

/// All descriptors of a new session; the others' ends live in the vaults.
#[derive(Debug)]
pub(crate) struct Ends {
    pub(crate) client: ClientEnds,
    /// Writing end of the pipe that wakes the client.
    pub(crate) wake: OwnedFd,
    /// For each shard the reading end of the pipe by which the client wakes it.
    pub(crate) kicks: Vec<OwnedFd>,
}

impl Ends {
    /// Makes an arena of that shape and its pipes. Every pipe has two descriptions, so that no
    /// flag of one end is another process's to change (INV-R5).
    pub(crate) fn make(geometry: &Geometry) -> io::Result<Ends> {
        let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK);
        let arena = region::create_sealed("axolotl-arena", geometry.bytes())?;
        let (wake_read, wake_write) = pipe()?;
        let (mut reading, mut writing) = (Vec::new(), Vec::new());
        for _ in 0..geometry.shards {
            let (read, write) = pipe()?;
            reading.push(read);
            writing.push(write);
        }
        let client = ClientEnds { arena, wake: wake_read, kicks: writing };
        Ok(Ends { client, wake: wake_write, kicks: reading })
    }
}

/// What stands on a session's socket.
#[derive(Debug)]
pub(crate) enum Peeked {
    /// A request, still there.
    Request(Request),
    /// Nothing now.
    Nothing,
    /// The client is gone.
    HungUp,
    /// Something that no client of this version says.
    Nonsense,
}

/// Takes the next connection off a listener; `None` when there is none.
///
/// # Errors
/// Those of accept(2) that are not about one connection: EMFILE and its like.
pub(crate) fn accept(listener: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    loop {
        match rustix::net::accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(socket) => return Ok(Some(socket)),
            Err(Errno::AGAIN) => return Ok(None),
            Err(Errno::INTR | Errno::CONNABORTED) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

impl Client {
    /// A connection that was accepted. `None` when the kernel does not say whose it is.
    pub(crate) fn new(socket: OwnedFd) -> Option<Client> {
        let who = socket_peercred(&socket).ok()?;
        let _ = pass_rights::refuse(socket.as_fd());
        let pid = who.pid.as_raw_nonzero().get().unsigned_abs();
        Some(Client { socket, uid: who.uid.as_raw(), pid, ends: None })
    }

    /// A session of an earlier incarnation, from the vault.
    pub(crate) fn parked(socket: OwnedFd, ends: ClientEnds) -> Client {
        let who = socket_peercred(&socket).ok();
        let uid = who.map_or(u32::MAX, |who| who.uid.as_raw());
        let pid = who.map_or(0, |who| who.pid.as_raw_nonzero().get().unsigned_abs());
        Client { socket, uid, pid, ends: Some(ends) }
    }

    /// Looks at the next request without taking it. Descriptors beside it get no room.
    pub(crate) fn peek(&self) -> Peeked {
        let mut bytes = [0; MESSAGE_MAX as usize + 1];
        let received = rustix::io::retry_on_intr(|| {
            rustix::net::recv(&self.socket, &mut bytes[..], RecvFlags::PEEK | RecvFlags::DONTWAIT)
        });
        match received {
            // Also a record of no bytes, which no client of ours sends.
            Ok((0, _)) => Peeked::HungUp,
            Ok((len, _)) => match options().reject_trailing_bytes().deserialize(&bytes[..len]) {
                Ok(request) => Peeked::Request(request),
                Err(_) => Peeked::Nonsense,
            },
            Err(Errno::AGAIN) => Peeked::Nothing,
            Err(_) => Peeked::HungUp,
        }
    }

    /// Gives a reply, with the session's descriptors where it opens one.
    ///
    /// # Errors
    /// EAGAIN when the client does not read its replies; EPIPE when it is gone.
    pub(crate) fn reply(&self, reply: &Reply, ends: Option<&ClientEnds>) -> Result<(), Errno> {
        let bytes = options().serialize(reply).expect("a reply fits its limit");
        let mut descriptors: Vec<BorrowedFd<'_>> = Vec::new();
        if let Some(ends) = ends {
            descriptors.extend([ends.arena.as_fd(), ends.wake.as_fd()]);
            descriptors.extend(ends.kicks.iter().map(AsFd::as_fd));
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            assert!(ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)), "room for 64 shards");
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        rustix::io::retry_on_intr(|| {
            rustix::net::sendmsg(&self.socket, &[IoSlice::new(&bytes)], &mut ancillary, flags)
        })
        .map(|_| ())
    }

    /// Takes the request off that was answered.
    pub(crate) fn consume(&self) {
        let mut bytes = [0; 1];
        let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
        let _ = rustix::io::retry_on_intr(|| rustix::net::recv(&self.socket, &mut bytes[..], flags));
    }

    /// Ends the connection for everybody who holds its descriptor.
    pub(crate) fn shut_down(&self) {
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::control::client::{Ask, Granted};
    use proto::control::lane::socket_pair;
    use proto::id::SessionId;
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage};
    use std::io::IoSliceMut;

    fn pair() -> (OwnedFd, Client) {
        let (theirs, ours) = socket_pair().expect("a socket pair");
        (theirs, Client::new(ours).expect("credentials"))
    }

    fn say(socket: &OwnedFd, number: u64) {
        let request = Request { number, ask: Ask::udp("0.0.0.0:0".parse().expect("an address")) };
        let bytes = options().serialize(&request).expect("serialisable");
        rustix::net::send(socket, &bytes, SendFlags::empty()).expect("sent");
    }

    #[test]
    fn a_request_stays_until_it_is_consumed() {
        let (theirs, client) = pair();
        assert!(matches!(client.peek(), Peeked::Nothing));
        say(&theirs, 1);
        say(&theirs, 2);
        for _ in 0..3 {
            assert!(matches!(client.peek(), Peeked::Request(Request { number: 1, .. })));
        }
        client.consume();
        assert!(matches!(client.peek(), Peeked::Request(Request { number: 2, .. })));
        client.consume();
        drop(theirs);
        assert!(matches!(client.peek(), Peeked::HungUp));
    }

    #[test]
    fn nonsense_is_seen_as_such() {
        let (theirs, client) = pair();
        for bytes in [&[0xff; 40][..], &[0; MESSAGE_MAX as usize + 50]] {
            rustix::net::send(&theirs, bytes, SendFlags::empty()).expect("sent");
            assert!(matches!(client.peek(), Peeked::Nonsense));
            client.consume();
        }
    }

    #[test]
    fn the_opening_reply_brings_the_descriptors() {
        let (theirs, client) = pair();
        let geometry = Geometry { shards: 2, active: 1, passive: 1, tx_pages: 1, rx_pages: 1 };
        let ends = Ends::make(&geometry).expect("descriptors");
        let granted = Granted::Session { session: SessionId(3), geometry };
        let reply = Reply { number: 1, result: Ok(granted) };
        client.reply(&reply, Some(&ends.client)).expect("sent");
        let mut bytes = [0; MESSAGE_MAX as usize];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let got = rustix::net::recvmsg(&theirs, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC);
        let len = got.expect("received").bytes;
        assert_eq!(options().deserialize::<Reply>(&bytes[..len]).expect("a reply"), reply);
        let count: usize = ancillary
            .drain()
            .map(|part| if let RecvAncillaryMessage::ScmRights(fds) = part { fds.count() } else { 0 })
            .sum();
        assert_eq!(count, 4, "the arena, a pipe, and one for each of two shards");
    }

    #[test]
    fn a_client_that_does_not_read_is_noticed() {
        let (_theirs, client) = pair();
        let reply = Reply { number: 1, result: Err(1) };
        let refused = (0..1_000_000).find_map(|_| client.reply(&reply, None).err());
        assert_eq!(refused, Some(Errno::AGAIN));
    }

    #[test]
    fn pushed_descriptors_go_nowhere() {
        let (theirs, client) = pair();
        let (reading, writing) = rustix::pipe::pipe().expect("a pipe");
        let fds = [writing.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)));
        let sent = rustix::net::sendmsg(&theirs, &[IoSlice::new(&[1])], &mut ancillary, SendFlags::empty());
        if sent.is_ok() {
            assert!(matches!(client.peek(), Peeked::Nonsense));
            client.consume();
        }
        drop(writing);
        assert_eq!(rustix::io::read(&reading, &mut [0; 1]), Ok(0), "nobody holds the writing end any more");
    }
}
