//! The restart path: whole messages with descriptors beside them, over a SEQPACKET socket pair.
//!
//! Used between a supervisor and each daemon and between the two supervisors. A record is one
//! message in bincode, at most [`MESSAGE_MAX`] bytes, trailing bytes refused; its descriptors
//! travel by SCM_RIGHTS and must be exactly as many as the message names ([`Record`]).
//!
//! No call here blocks (INV-R5): what the socket does not take at once waits in a bounded queue
//! until [`Lane::flush`]. Whatever breaks the rules is an error that ends the lane; descriptors
//! that came with it are closed. Not here: who may say what, and what a message means.

use bincode::Options;
use core::marker::PhantomData;
use core::mem::MaybeUninit;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use thiserror::Error;

/// The largest message in bytes; a `Welcome` of the largest group is a quarter of it.
pub const MESSAGE_MAX: usize = 64 * 1024;
/// The most descriptors beside one message: SCM_MAX_FD of unix(7).
pub const DESCRIPTORS_MAX: usize = 253;
/// Messages that may wait for a peer that does not read. A vault of many sessions is sent through
/// this queue, hence its length.
pub const QUEUE_MAX: usize = 32 * 1024;

/// A message of a lane: it knows how many descriptors stand beside it.
pub trait Record: Serialize + DeserializeOwned {
    /// The number of descriptors, as the message's documentation lists them.
    fn descriptors(&self) -> usize;
}

/// A lane that can't be used any more.
#[derive(Debug, Error)]
pub enum LaneError {
    /// The other end is closed.
    #[error("the other end of the lane is closed")]
    Closed,
    /// The peer broke a rule.
    #[error("broken message on the lane: {0}")]
    Corrupt(&'static str),
    /// The peer does not read, and the queue is full.
    #[error("the peer does not read its lane")]
    Full,
    /// The kernel refused.
    #[error("lane: {0}")]
    Io(#[from] io::Error),
}

impl From<Errno> for LaneError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN => LaneError::Closed,
            other => LaneError::Io(other.into()),
        }
    }
}

/// One end of a lane: sends `Out`, receives `In`.
#[derive(Debug)]
pub struct Lane<Out, In> {
    socket: OwnedFd,
    waiting: VecDeque<Waiting>,
    buffer: Vec<u8>,
    messages: PhantomData<fn(Out) -> In>,
}

#[derive(Debug)]
struct Waiting {
    bytes: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

/// The two ends of a new lane.
///
/// # Errors
/// Those of socketpair(2).
pub fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// How every message of this folder is encoded: fixed-width integers, a size limit.
pub(super) fn encoding(limit: usize) -> impl Options {
    bincode::DefaultOptions::new().with_fixint_encoding().with_limit(limit as u64)
}

impl<Out: Record, In: Record> Lane<Out, In> {
    /// A lane over one end of a [`socket_pair`].
    pub fn new(socket: OwnedFd) -> Self {
        Lane { socket, waiting: VecDeque::new(), buffer: vec![0; MESSAGE_MAX], messages: PhantomData }
    }

    /// Sends a message, or queues it (with duplicates of its descriptors) behind what waits.
    ///
    /// # Errors
    /// [`LaneError::Closed`], [`LaneError::Full`], or what the kernel says.
    ///
    /// # Panics
    /// When the descriptors are not those that the message names, or it is larger than
    /// [`MESSAGE_MAX`].
    pub fn send(&mut self, message: &Out, descriptors: &[BorrowedFd<'_>]) -> Result<(), LaneError> {
        assert_eq!(descriptors.len(), message.descriptors(), "a message goes with its descriptors");
        let bytes = encoding(MESSAGE_MAX).serialize(message).expect("a message fits its limit");
        if self.waiting.is_empty() && send_record(self.socket.as_fd(), &bytes, descriptors)? {
            return Ok(());
        }
        if self.waiting.len() == QUEUE_MAX {
            return Err(LaneError::Full);
        }
        let descriptors = descriptors.iter().map(|fd| fd.try_clone_to_owned()).collect::<io::Result<_>>()?;
        self.waiting.push_back(Waiting { bytes, descriptors });
        Ok(())
    }

    /// Sends what waits, as far as the socket takes it; true when nothing is left.
    ///
    /// # Errors
    /// As [`Lane::send`].
    pub fn flush(&mut self) -> Result<bool, LaneError> {
        while let Some(next) = self.waiting.front() {
            let descriptors: Vec<_> = next.descriptors.iter().map(AsFd::as_fd).collect();
            if !send_record(self.socket.as_fd(), &next.bytes, &descriptors)? {
                return Ok(false);
            }
            self.waiting.pop_front();
        }
        Ok(true)
    }

    /// Number of messages that wait for [`Lane::flush`].
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The next message and its descriptors; `None` when there is none yet.
    ///
    /// # Errors
    /// [`LaneError::Closed`] at the end, [`LaneError::Corrupt`] when the peer broke a rule.
    pub fn receive(&mut self) -> Result<Option<(In, Vec<OwnedFd>)>, LaneError> {
        let Some((len, descriptors)) = receive_record(self.socket.as_fd(), &mut self.buffer)? else {
            return Ok(None);
        };
        let bytes = &self.buffer[..len];
        let message: In = encoding(MESSAGE_MAX)
            .reject_trailing_bytes()
            .deserialize(bytes)
            .map_err(|_| LaneError::Corrupt("does not decode"))?;
        if message.descriptors() != descriptors.len() {
            return Err(LaneError::Corrupt("descriptors missing or too many"));
        }
        Ok(Some((message, descriptors)))
    }
}

impl<Out, In> Lane<Out, In> {
    /// The socket back, dropping what waits.
    pub fn into_socket(self) -> OwnedFd {
        self.socket
    }
}

impl<Out, In> AsFd for Lane<Out, In> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl<Out, In> AsRawFd for Lane<Out, In> {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// Sends one record; false when the socket does not take it now.
fn send_record(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> Result<bool, LaneError> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        let fits = control.push(SendAncillaryMessage::ScmRights(descriptors));
        assert!(fits && descriptors.len() <= DESCRIPTORS_MAX, "more descriptors than a message can have");
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    loop {
        return match rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags) {
            Ok(_) => Ok(true),
            Err(Errno::INTR) => continue,
            // TOOMANYREFS: this user has as many descriptors under way as it may have open
            // (unix(7)); the peer's reading makes room, as with AGAIN.
            Err(Errno::AGAIN | Errno::NOBUFS | Errno::TOOMANYREFS) => Ok(false),
            Err(errno) => Err(errno.into()),
        };
    }
}

/// Receives one record into `buffer`: its length and descriptors.
fn receive_record(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> Result<Option<(usize, Vec<OwnedFd>)>, LaneError> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = loop {
        match rustix::net::recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, flags) {
            Ok(received) => break received,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        }
    };
    let mut descriptors = Vec::new();
    for ancillary in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = ancillary {
            descriptors.extend(rights);
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(LaneError::Corrupt("descriptors cut off"));
    }
    if received.flags.contains(ReturnFlags::TRUNC) {
        return Err(LaneError::Corrupt("longer than a message may be"));
    }
    if received.bytes == 0 {
        return Err(LaneError::Closed);
    }
    Ok(Some((received.bytes, descriptors)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    struct Note {
        fds: u8,
        text: String,
    }

    impl Record for Note {
        fn descriptors(&self) -> usize {
            usize::from(self.fds)
        }
    }

    type NoteLane = Lane<Note, Note>;

    fn lanes() -> (NoteLane, NoteLane) {
        let (a, b) = socket_pair().expect("a socket pair");
        (Lane::new(a), Lane::new(b))
    }

    fn note(fds: u8, text: &str) -> Note {
        Note { fds, text: text.to_owned() }
    }

    fn open_descriptors() -> usize {
        std::fs::read_dir("/proc/self/fd").expect("proc").count()
    }

    #[test]
    fn a_message_arrives_with_its_descriptors() {
        let (mut a, mut b) = lanes();
        let (left, right) = socket_pair().expect("a socket pair");
        a.send(&note(2, "two"), &[left.as_fd(), right.as_fd()]).expect("sent");
        a.send(&note(0, "none"), &[]).expect("sent");
        let (first, fds) = b.receive().expect("sound").expect("there");
        assert_eq!((first, fds.len()), (note(2, "two"), 2));
        let cloexec = rustix::io::fcntl_getfd(&fds[0]).expect("open");
        assert!(cloexec.contains(rustix::io::FdFlags::CLOEXEC));
        assert_eq!(b.receive().expect("sound").map(|(n, _)| n), Some(note(0, "none")));
        assert!(b.receive().expect("sound").is_none());
        drop(a);
        assert!(matches!(b.receive(), Err(LaneError::Closed)));
    }

    #[test]
    fn what_the_socket_does_not_take_waits_in_order() {
        let (mut a, mut b) = lanes();
        let text = "x".repeat(10_000);
        let (probe, _keep) = socket_pair().expect("a socket pair");
        for n in 0..100 {
            a.send(&note(1, &format!("{n} {text}")), &[probe.as_fd()]).expect("sent or queued");
        }
        assert!(a.waiting() > 0, "the socket buffer holds less than a megabyte");
        for n in 0..100 {
            a.flush().expect("open");
            let (got, fds) = b.receive().expect("sound").expect("there");
            assert!(got.text.starts_with(&format!("{n} ")) && fds.len() == 1);
        }
        assert!(a.flush().expect("open") && a.waiting() == 0);
    }

    #[test]
    fn the_queue_has_an_end() {
        let (mut a, _b) = lanes();
        let outcome = (0..=QUEUE_MAX + 10_000).map(|_| a.send(&note(0, ""), &[])).find(Result::is_err);
        assert!(matches!(outcome, Some(Err(LaneError::Full))));
    }

    #[test]
    fn a_broken_record_ends_the_lane_and_leaks_nothing() {
        let bytes = encoding(MESSAGE_MAX).serialize(&note(1, "one")).expect("fits");
        let mut longer = bytes.clone();
        longer.push(0);
        let cases: [(&[u8], usize); 5] =
            [(&bytes, 0), (&bytes, 2), (&longer, 1), (&bytes[..bytes.len() - 1], 1), (&[0xff; 40], 1)];
        for (bytes, fds) in cases {
            let (a, b) = socket_pair().expect("a socket pair");
            let mut lane = NoteLane::new(b);
            let rights = vec![a.as_fd(); fds];
            assert!(send_record(a.as_fd(), bytes, &rights).expect("sent"));
            let before = open_descriptors();
            assert!(matches!(lane.receive(), Err(LaneError::Corrupt(_))), "{} bytes, {fds} fds", bytes.len());
            // Other tests open and close descriptors meanwhile only in their own threads; nextest
            // runs each test in its own process, plain `cargo test` may blur this by a few.
            assert!(open_descriptors() <= before + 16);
        }
    }

    #[test]
    fn an_oversized_record_is_refused() {
        let (a, b) = socket_pair().expect("a socket pair");
        assert!(send_record(a.as_fd(), &vec![0; MESSAGE_MAX + 1], &[]).expect("sent"));
        assert!(matches!(NoteLane::new(b).receive(), Err(LaneError::Corrupt(_))));
    }
}
