//! The control lane between two daemons: typed notices over ipc-channel, off the restart path.
//!
//! Each side makes a [`NoticeLane`] when it is introduced to a peer, offers the name of its own
//! receiving end through the supervisor ([`crate::daemon::Supervised::offer`]) and connects to the
//! peer's when that name arrives. One thread serves each direction, because ipc-channel's `send`
//! waits for ever on a stopped peer and its `accept` on an absent one; the daemon's loop only
//! touches bounded queues and an eventfd. A peer that is stopped, gone or malformed costs this
//! lane and nothing else: the next introduction makes a new one.
//!
//! ```text
//! daemon loop ──send──► queue ──► writer thread ══ipc-channel══► peer's reader thread
//! daemon loop ◄receive─ queue ◄── reader thread ◄═ipc-channel═══ peer's writer thread
//!         ▲ eventfd ───────────────┘
//! ```
//!
//! Not here: what a notice means, who says it again after a restart.

use crate::daemon::LANE_THREAD;
use crate::daemon::turn;
use crate::id::{Generation, Seat};
use core::sync::atomic::{AtomicBool, Ordering};
use ipc_channel::ipc::{IpcOneShotServer, IpcReceiver, IpcSender};
use rustix::event::EventfdFlags;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::thread;
use thiserror::Error;

/// Notices that may wait in each direction. They are levels and rare; a hundred waiting means that
/// the peer does not read.
pub const QUEUE_MAX: usize = 128;
/// The longest name a peer may offer, in bytes: a path, PATH_MAX of limits.h is far above
/// sun_path's 108 of unix(7), which is what counts.
const NAME_MAX: usize = 108;

/// Whoever is at the other end is not to be spoken to any more over this lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NoticeError {
    /// The peer does not read; the notice was not queued.
    #[error("the peer does not read its notices")]
    Full,
    /// The lane is over; the next introduction makes a new one.
    #[error("the lane to the peer is over")]
    Closed,
}

/// What travels: who speaks, then notices.
#[derive(Debug, Serialize, Deserialize)]
enum Letter<T> {
    Hello {
        seat: Seat,
        generation: Generation,
    },
    Notice(T),
    /// From the offering side to itself: nobody is going to come.
    Withdrawn,
}

/// One peer incarnation's lane: says `Out`, hears `In`.
#[derive(Debug)]
pub struct NoticeLane<Out, In> {
    name: String,
    us: (Seat, Generation),
    outgoing: SyncSender<Out>,
    /// Until [`NoticeLane::connect`] starts the thread that sends them.
    unsent: Option<Receiver<Out>>,
    incoming: Receiver<In>,
    wake: Arc<OwnedFd>,
    accepted: Arc<AtomicBool>,
    withdraw: fn(&str),
}

impl<Out, In> NoticeLane<Out, In>
where
    Out: Serialize + DeserializeOwned + Send + 'static,
    In: Serialize + DeserializeOwned + Send + 'static,
{
    /// Makes the receiving end and waits, in a thread, for `peer` of that generation to connect.
    /// [`NoticeLane::name`] goes to the peer. `us` is who says hello when we connect.
    ///
    /// # Errors
    /// Those of making a socket, an eventfd or a thread.
    pub fn offer(us: (Seat, Generation), peer: (Seat, Generation)) -> io::Result<Self> {
        let (server, name) = IpcOneShotServer::<Letter<In>>::new()?;
        let (outgoing, unsent) = sync_channel(QUEUE_MAX);
        let (arrived, incoming) = sync_channel(QUEUE_MAX);
        let wake = Arc::new(rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let accepted = Arc::new(AtomicBool::new(false));
        let reader = Reader { peer, arrived, wake: wake.clone(), accepted: accepted.clone() };
        thread::Builder::new().name(format!("{LANE_THREAD}from {}", peer.0)).spawn(move || {
            turn::roam();
            reader.serve(server);
        })?;
        let withdraw = |name: &str| {
            if let Ok(own) = IpcSender::<Letter<In>>::connect(name.to_owned()) {
                let _ = own.send(Letter::Withdrawn);
            }
        };
        Ok(NoticeLane { name, us, outgoing, unsent: Some(unsent), incoming, wake, accepted, withdraw })
    }

    /// Connects to the name that the peer offered, in a thread. A second name is ignored: a peer
    /// incarnation offers one.
    ///
    /// # Errors
    /// That of making a thread.
    pub fn connect(&mut self, name: String) -> io::Result<()> {
        let Some(unsent) = self.unsent.take_if(|_| name.len() <= NAME_MAX) else {
            return Ok(());
        };
        let (seat, generation) = self.us;
        let hello = Letter::Hello { seat, generation };
        thread::Builder::new().name(format!("{LANE_THREAD}to {name}")).spawn(move || {
            turn::roam();
            let Ok(peer) = IpcSender::<Letter<Out>>::connect(name) else { return };
            let mut letter = hello;
            // Ends when the peer is gone (send fails) or this lane was dropped (recv fails).
            while peer.send(letter).is_ok() {
                let Ok(notice) = unsent.recv() else { return };
                letter = Letter::Notice(notice);
            }
        })?;
        Ok(())
    }

    /// Queues a notice; never waits.
    ///
    /// # Errors
    /// [`NoticeError`].
    pub fn send(&self, notice: Out) -> Result<(), NoticeError> {
        self.outgoing.try_send(notice).map_err(|error| match error {
            TrySendError::Full(_) => NoticeError::Full,
            TrySendError::Disconnected(_) => NoticeError::Closed,
        })
    }

    /// The next notice; `None` when there is none now. After a wake-up, call until it says so.
    ///
    /// # Errors
    /// [`NoticeError::Closed`] when the peer's end is gone or broke the rules, and all that came
    /// before has been taken.
    pub fn receive(&self) -> Result<Option<In>, NoticeError> {
        if let Some(notice) = self.take()? {
            return Ok(Some(notice));
        }
        // Clear, then look again: a notice or an end that comes in between wakes once more.
        let _ = rustix::io::read(&*self.wake, &mut [0; 8]);
        self.take()
    }

    fn take(&self) -> Result<Option<In>, NoticeError> {
        match self.incoming.try_recv() {
            Ok(notice) => Ok(Some(notice)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(NoticeError::Closed),
        }
    }

    /// What the peer connects to.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl<Out, In> Drop for NoticeLane<Out, In> {
    fn drop(&mut self) {
        if !self.accepted.load(Ordering::Acquire) {
            (self.withdraw)(&self.name);
        }
    }
}

/// Readable when a notice has come or the lane has ended.
impl<Out, In> AsFd for NoticeLane<Out, In> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        (*self.wake).as_fd()
    }
}

impl<Out, In> AsRawFd for NoticeLane<Out, In> {
    fn as_raw_fd(&self) -> RawFd {
        self.wake.as_raw_fd()
    }
}

/// The thread of the receiving direction.
struct Reader<In> {
    peer: (Seat, Generation),
    arrived: SyncSender<In>,
    wake: Arc<OwnedFd>,
    accepted: Arc<AtomicBool>,
}

impl<In: Serialize + DeserializeOwned> Reader<In> {
    fn serve(self, server: IpcOneShotServer<Letter<In>>) {
        let outcome = server.accept();
        // Release: pairs with the Acquire in `NoticeLane::drop`; a late withdrawal does no harm.
        self.accepted.store(true, Ordering::Release);
        if let Ok((letters, Letter::Hello { seat, generation })) = outcome
            && (seat, generation) == self.peer
        {
            self.read(&letters);
        }
        let Reader { arrived, wake, .. } = self;
        // The end is heard as a disconnected queue: close it before waking.
        drop(arrived);
        ring(&wake);
    }

    fn read(&self, letters: &IpcReceiver<Letter<In>>) {
        while let Ok(Letter::Notice(notice)) = letters.recv() {
            if self.arrived.send(notice).is_err() {
                return;
            }
            ring(&self.wake);
        }
    }
}

fn ring(wake: &OwnedFd) {
    let _ = rustix::io::write(wake, &1u64.to_ne_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Role;
    use rustix::event::{PollFd, PollFlags, Timespec};

    type Left = NoticeLane<u32, String>;
    type Right = NoticeLane<String, u32>;
    const LEFT: (Seat, Generation) = (Seat::new(Role::Nicd, 0), Generation(3));
    const RIGHT: (Seat, Generation) = (Seat::new(Role::Netd, 1), Generation(5));

    fn joined() -> (Left, Right) {
        let mut left = Left::offer(LEFT, RIGHT).expect("a lane");
        let mut right = Right::offer(RIGHT, LEFT).expect("a lane");
        left.connect(right.name().to_owned()).expect("a thread");
        right.connect(left.name().to_owned()).expect("a thread");
        (left, right)
    }

    fn wait<Out, In>(lane: &NoticeLane<Out, In>) -> Result<In, NoticeError>
    where
        Out: Serialize + DeserializeOwned + Send + 'static,
        In: Serialize + DeserializeOwned + Send + 'static,
    {
        loop {
            if let Some(notice) = lane.receive()? {
                return Ok(notice);
            }
            let deadline = Timespec { tv_sec: 10, tv_nsec: 0 };
            let ready = rustix::event::poll(&mut [PollFd::new(lane, PollFlags::IN)], Some(&deadline));
            assert_eq!(ready, Ok(1), "nothing came within ten seconds");
        }
    }

    #[test]
    fn notices_arrive_in_order_both_ways() {
        let (left, right) = joined();
        for n in 0..300 {
            while left.send(n) == Err(NoticeError::Full) {
                thread::yield_now();
            }
            assert_eq!(wait(&right), Ok(n));
        }
        right.send("up".to_owned()).expect("room");
        assert_eq!(wait(&left), Ok("up".to_owned()));
    }

    #[test]
    fn a_stranger_is_not_heard() {
        let left = Left::offer(LEFT, RIGHT).expect("a lane");
        let mut stranger = Right::offer((RIGHT.0, Generation(4)), LEFT).expect("a lane");
        stranger.connect(left.name().to_owned()).expect("a thread");
        stranger.send("old".to_owned()).expect("room");
        assert_eq!(wait(&left), Err(NoticeError::Closed));
    }

    #[test]
    fn the_end_of_a_peer_is_heard() {
        let (left, right) = joined();
        right.send("last words".to_owned()).expect("room");
        assert_eq!(wait(&left), Ok("last words".to_owned()));
        drop(right);
        assert_eq!(wait(&left), Err(NoticeError::Closed));
    }

    #[test]
    fn a_peer_that_does_not_read_costs_only_the_lane() {
        let mut left = Left::offer(LEFT, RIGHT).expect("a lane");
        let (server, name) = IpcOneShotServer::<Letter<u32>>::new().expect("a server");
        left.connect(name).expect("a thread");
        let _deaf = server.accept().expect("connected");
        let refused = (0..10_000_000).map(|n| left.send(n)).find(Result::is_err);
        assert_eq!(refused, Some(Err(NoticeError::Full)));
    }

    #[test]
    fn a_malformed_letter_ends_the_lane() {
        let left = Left::offer(LEFT, RIGHT).expect("a lane");
        let liar = IpcSender::<(u64, Vec<u8>)>::connect(left.name().to_owned()).expect("connected");
        liar.send((u64::MAX, vec![0xff; 100])).expect("sent");
        assert_eq!(wait(&left), Err(NoticeError::Closed));
    }

    #[test]
    fn an_offer_nobody_takes_leaves_no_thread() {
        let lane = Left::offer(LEFT, RIGHT).expect("a lane");
        let path = lane.name().to_owned();
        let accepted = lane.accepted.clone();
        drop(lane);
        while !accepted.load(Ordering::Acquire) {
            thread::yield_now();
        }
        assert!(IpcSender::<Letter<String>>::connect(path).is_err());
    }
}
