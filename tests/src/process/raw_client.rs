//! A client without a library: a session whose memory, pipes and socket are at the caller's hands, to
//! be used wrongly.

use bincode::Options;
use proto::arena::Geometry;
use proto::control::client::{Ask, Granted, MESSAGE_MAX, Reply, Request, VERSION};
use proto::shm::region::Region;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::path::Path;

/// The encoding of `proto::control::client`.
fn options() -> impl Options {
    bincode::DefaultOptions::new().with_fixint_encoding().with_limit(MESSAGE_MAX)
}

/// A connection to `api.sock` on which anything can be said.
#[derive(Debug)]
pub struct RawSocket(OwnedFd);

impl RawSocket {
    /// # Errors
    /// Those of socket(2) and connect(2).
    pub fn connect(api: &Path) -> io::Result<RawSocket> {
        let flags = SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(api)?)?;
        Ok(RawSocket(socket))
    }

    /// Sends one record, with descriptors beside it.
    ///
    /// # Errors
    /// Those of sendmsg(2).
    pub fn say(&self, bytes: &[u8], beside: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !beside.is_empty() {
            assert!(ancillary.push(SendAncillaryMessage::ScmRights(beside)), "at most 64 descriptors");
        }
        rustix::net::sendmsg(&self.0, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Sends a well-formed request.
    ///
    /// # Errors
    /// Those of sendmsg(2).
    pub fn ask(&self, number: u64, ask: Ask, beside: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.say(&options().serialize(&Request { number, ask }).expect("within the limit"), beside)
    }

    /// Waits for one reply; `None` when the other side has hung up.
    ///
    /// # Errors
    /// Those of recvmsg(2); `InvalidData` on what does not decode.
    pub fn reply(&self) -> io::Result<Option<(Reply, Vec<OwnedFd>)>> {
        let mut bytes = [0; MESSAGE_MAX as usize];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(66))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let message = match rustix::net::recvmsg(&self.0, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)
        {
            Ok(message) if message.bytes == 0 => return Ok(None),
            Err(rustix::io::Errno::CONNRESET) => return Ok(None),
            other => other?,
        };
        let mut passed = Vec::new();
        for part in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = part {
                passed.extend(descriptors);
            }
        }
        let reply = options().deserialize(&bytes[..message.bytes]);
        reply.map(|reply| Some((reply, passed))).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
    }

    /// Waits until the other side hangs up; what it says before is dropped.
    ///
    /// # Errors
    /// Those of recvmsg(2); EAGAIN after `patience`.
    pub fn until_hung_up(&self, patience: std::time::Duration) -> io::Result<()> {
        use rustix::net::sockopt::{Timeout, set_socket_timeout};
        set_socket_timeout(&self.0, Timeout::Recv, Some(patience))?;
        while self.reply()?.is_some() {}
        Ok(())
    }
}

impl AsFd for RawSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// An open session.
#[derive(Debug)]
pub struct RawClient {
    /// Where requests go.
    pub socket: RawSocket,
    /// How its memory is divided.
    pub geometry: Geometry,
    /// The descriptor of its memory.
    pub arena: OwnedFd,
    /// Its memory.
    pub memory: Region,
    /// Becomes readable when netd wakes the client.
    pub wake: OwnedFd,
    /// Wakes each shard when written.
    pub kicks: Vec<OwnedFd>,
    number: u64,
}

impl RawClient {
    /// Opens a small session.
    ///
    /// # Errors
    /// When sockd refuses it.
    pub fn open(api: &Path) -> io::Result<RawClient> {
        let socket = RawSocket::connect(api)?;
        let ask = Ask::Open { version: VERSION, active: 8, passive: 8, tx_pages: 16, rx_pages: 16 };
        socket.ask(1, ask, &[])?;
        let refused = || io::Error::other("no session was granted");
        let (reply, descriptors) = socket.reply()?.ok_or_else(refused)?;
        let Ok(Granted::Session { geometry, .. }) = reply.result else { return Err(refused()) };
        let mut descriptors = descriptors.into_iter();
        let arena = descriptors.next().ok_or_else(refused)?;
        let wake = descriptors.next().ok_or_else(refused)?;
        let memory = Region::map(&arena, geometry.bytes())?;
        Ok(RawClient { socket, geometry, memory, arena, wake, kicks: descriptors.collect(), number: 1 })
    }

    /// Asks for a socket and waits for what is granted; `None` when the session has ended.
    ///
    /// # Errors
    /// Those of the socket, and the errno that refuses it.
    pub fn ask(&mut self, ask: Ask) -> io::Result<Option<Granted>> {
        self.number += 1;
        self.socket.ask(self.number, ask, &[])?;
        while let Some((reply, _)) = self.socket.reply()? {
            if reply.number == self.number {
                let errno = |code: u32| io::Error::from_raw_os_error(code.cast_signed());
                return reply.result.map(Some).map_err(errno);
            }
        }
        Ok(None)
    }
}
