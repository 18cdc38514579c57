//! An interface of the kernel, shared with it: AF_PACKET, for cards that no driver of ours drives.
//!
//! The stack is one more station on the interface's cable (`socket`); what is the kernel's goes on there, ssh and all.
//! Frames are copied, once by the kernel into a ring that it shares with us (`ring`), once by us into pages of netd;
//! the other way the kernel copies from netd's pages. A batch leaves by one system call. What the interface does for
//! the kernel (checksums, super-frames) it does for the stack: both ways a virtio header stands before each frame.
//!
//! Nothing outlives this process: when it is gone the socket is closed, and frames are lost as in a link flap.

mod ring;
mod socket;

pub(in crate::backend) use socket::{PacketSocket, Takes};

use crate::backend::kernel_calls::{Outgoing, SEND_MAX, send_frames};
use crate::backend::namespace::OpenError;
use crate::backend::share::Share;
use crate::counts::{Count, Counts};
use crate::filter::AddressFilter;
use crate::nic::{Capabilities, Frame, HEADER_MIN, Nic, Received, SUPER_FRAME_MAX, Slab, Transmitted};
use crate::stock::Stock;
use crate::virtio_header::{self, SHORT_SIZE};
use proto::Instant;
use proto::control::notices::{Mac, feature};
use proto::nic::slab::{CHAIN_MAX, PageIndex};
use proto::shm::region::Region;
use ring::Ring;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

/// What comes may be whatever the kernel's own stack would get: nobody asks us.
const RECEIVES: u32 = feature::RX_CHECKSUM | feature::RX_COALESCE;
/// What the kernel does for what we send.
const SENDS: u32 = feature::TX_CHECKSUM | feature::TSO4 | feature::TSO6;

/// What a notice is of: frames or room for some, and the interface itself.
const FRAMES: u64 = 0;
const NEWS: u64 = 1;

/// A frame that waits for the end of its batch.
#[derive(Debug, Clone)]
struct Queued {
    shard: u16,
    region: Arc<Region>,
    head: [u8; SHORT_SIZE],
    places: [(usize, usize); CHAIN_MAX],
    frame: Frame,
}

/// An interface of the kernel.
#[derive(Debug)]
pub struct Packet {
    socket: PacketSocket,
    ring: Ring,
    /// Readable when the socket has frames, has room again, or the interface changed.
    notices: OwnedFd,
    /// What it receives unless everything is wanted.
    usual: Takes,
    features: u32,
    carrier: bool,
    promiscuous: bool,
    stock: Stock,
    queue: VecDeque<Queued>,
    /// The kernel took no more: it says when it does.
    blocked: bool,
    done: Vec<(u16, PageIndex)>,
}

impl Packet {
    /// On interface `name` in namespace `netns` (the caller's own, when there is none), as a station with address
    /// `mac`, or with a share of the kernel's. With `offload` the kernel fills in checksums and cuts super-frames of the stack.
    ///
    /// # Errors
    /// [`OpenError`]: no such interface, no right, an MTU that is too small.
    pub fn open(
        name: &str,
        netns: Option<&str>,
        (mac, share): (Mac, Option<&Share>),
        mtu: u16,
        offload: bool,
    ) -> Result<Packet, OpenError> {
        let takes = share.map_or(Takes::Station(mac), |share| Takes::Shared(share.clone()));
        Packet::taking(name, netns, (mac, takes), mtu, offload)
    }

    /// As [`Packet::open`], with what is received of it.
    ///
    /// # Errors
    /// As [`Packet::open`].
    pub(in crate::backend) fn taking(
        name: &str,
        netns: Option<&str>,
        (mac, usual): (Mac, Takes),
        mtu: u16,
        offload: bool,
    ) -> Result<Packet, OpenError> {
        let doing = |step: &str| {
            let step = step.to_owned();
            move |source: io::Error| OpenError { step, source }
        };
        let socket = PacketSocket::open(name, netns, mtu)?;
        let ring = socket.with_ring()?;
        let notices = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(io::Error::from);
        let notices = notices.map_err(doing("wait for frames"))?;
        for (fd, what) in [(socket.as_fd(), FRAMES), (socket.news(), NEWS)] {
            epoll::add(&notices, fd, EventData::new_u64(what), EventFlags::IN)
                .map_err(|errno| doing("wait for frames")(errno.into()))?;
        }
        socket.listen(&mac, &usual)?;
        let carrier = socket.look().map_err(doing("look at the interface"))?;
        let features = RECEIVES | if offload { SENDS } else { 0 };
        Ok(Packet {
            socket,
            ring,
            notices,
            usual,
            features,
            carrier,
            promiscuous: false,
            stock: Stock::default(),
            queue: VecDeque::with_capacity(SEND_MAX),
            blocked: false,
            done: Vec::with_capacity(SEND_MAX * CHAIN_MAX),
        })
    }

    /// Number of the interface.
    pub(in crate::backend) fn index(&self) -> u32 {
        self.socket.index()
    }

    /// A frame has left by another way: its pages are done with.
    pub(in crate::backend) fn give_back(&mut self, shard: u16, frame: &Frame) {
        self.done.extend(frame.pieces().iter().map(|piece| (shard, piece.page)));
    }

    /// Asks for a notice when there is room, or not.
    fn block(&mut self, blocked: bool) {
        if self.blocked != blocked {
            self.blocked = blocked;
            let flags = if blocked { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
            // Both descriptors are our own and known to each other.
            let outcome = epoll::modify(&self.notices, &self.socket, EventData::new_u64(FRAMES), flags);
            debug_assert!(outcome.is_ok(), "{outcome:?}");
        }
    }

    /// The first `count` of the queue are done with.
    fn finish(&mut self, count: usize) {
        for queued in self.queue.drain(..count) {
            self.done.extend(queued.frame.pieces().iter().map(|piece| (queued.shard, piece.page)));
        }
    }

    /// Hands the queue to the kernel, as far as it takes it.
    fn send(&mut self, counts: &mut Counts) {
        while !self.queue.is_empty() {
            let frames = self.queue.iter().map(|queued| Outgoing {
                head: &queued.head,
                region: &queued.region,
                pieces: &queued.places[..queued.frame.pieces().len()],
            });
            match send_frames(self.socket.as_fd(), frames) {
                Ok(taken) => {
                    let bytes: usize = self.queue.iter().take(taken).map(|queued| queued.frame.len()).sum();
                    counts.add(Count::TxFrames, taken as u64);
                    counts.add(Count::TxBytes, bytes as u64);
                    counts.count(Count::Doorbells);
                    self.finish(taken);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if Errno::from_io_error(&error) == Some(Errno::AGAIN) => return self.block(true),
                // The interface is down, or its queue is full: the frame is lost, as on any cable.
                Err(_) => {
                    counts.count(Count::TxError);
                    self.finish(1);
                }
            }
        }
        self.block(false);
    }
}

impl Nic<Arc<Region>> for Packet {
    fn capabilities(&self) -> Capabilities {
        Capabilities { driver: "packet", features: self.features, carrier: self.carrier }
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        self.notices.as_fd()
    }

    fn fill(&mut self, slab: &Slab<Arc<Region>>, page: PageIndex) {
        self.stock.put(slab, page);
    }

    fn peek(&mut self, head: &mut [u8]) -> usize {
        // What is wrong will be said when it is received.
        let Ok(Some(arrived)) = self.ring.peek() else { return 0 };
        let bytes = self.ring.bytes(&arrived);
        let len = bytes.len().min(head.len());
        head[..len].copy_from_slice(&bytes[..len]);
        len
    }

    fn pages(&mut self, slab: &Slab<Arc<Region>>, frame: &mut Frame, len: usize) -> bool {
        self.stock.take_exactly(slab, frame, len)
    }

    fn receive(
        &mut self,
        slab: &Slab<Arc<Region>>,
        frame: &mut Frame,
        _: Instant,
        counts: &mut Counts,
    ) -> io::Result<Received> {
        let Some(arrived) = self.ring.peek()? else { return Ok(Received::Nothing) };
        if arrived.behind_lost {
            counts.add(Count::RxRing, self.socket.lost_frames());
        }
        let mut sound = arrived.sound && (HEADER_MIN..=SUPER_FRAME_MAX).contains(&arrived.len);
        if sound {
            if !self.stock.take_exactly(slab, frame, arrived.len) {
                return Ok(Received::NoPages);
            }
            slab.write(frame, self.ring.bytes(&arrived));
            let first = frame.first_mut().expect("a frame has bytes");
            sound = virtio_header::decode(self.ring.head(&arrived), arrived.len, first);
        }
        self.ring.advance();
        if sound {
            return Ok(Received::Frame);
        }
        counts.count(Count::RxError);
        self.stock.take_back(slab, frame);
        Ok(Received::Dropped)
    }

    fn transmit(
        &mut self,
        slab: &Slab<Arc<Region>>,
        frame: &Frame,
        _: Instant,
        counts: &mut Counts,
    ) -> io::Result<Transmitted> {
        if self.queue.len() == SEND_MAX && !self.blocked {
            self.send(counts);
        }
        if self.queue.len() == SEND_MAX {
            return Ok(Transmitted::Busy);
        }
        let mut head = [0; SHORT_SIZE];
        head.copy_from_slice(&virtio_header::of_frame(slab, frame)[..SHORT_SIZE]);
        let (region, places) = (slab.memory.clone(), slab.places(frame));
        self.queue.push_back(Queued { shard: slab.shard, region, head, places, frame: *frame });
        Ok(Transmitted::Taken)
    }

    fn flush(&mut self, _: Instant, counts: &mut Counts) {
        if !self.blocked {
            self.send(counts);
        }
    }

    fn complete(&mut self) -> Option<(u16, PageIndex)> {
        self.done.pop()
    }

    fn reset(&mut self, shard: u16) -> io::Result<()> {
        self.stock.clear(shard);
        self.done.retain(|(whose, _)| *whose != shard);
        self.queue.retain(|queued| queued.shard != shard);
        Ok(())
    }

    fn poll(&mut self, _: Instant, counts: &mut Counts) -> io::Result<()> {
        let none = epoll::Event { flags: EventFlags::empty(), data: EventData::new_u64(FRAMES) };
        let mut events = [none; 2];
        let count = match epoll::wait(&self.notices, &mut events, Some(&rustix::event::Timespec::default())) {
            Err(Errno::INTR) => 0,
            outcome => outcome?,
        };
        let news = |&epoll::Event { flags, data }: &epoll::Event| {
            data.u64() == NEWS || flags.contains(EventFlags::ERR)
        };
        if events[..count].iter().any(news) {
            let carrier = self.socket.look()?;
            if carrier != self.carrier {
                counts.count(if carrier { Count::CarrierUp } else { Count::CarrierDown });
                self.carrier = carrier;
            }
        }
        if self.blocked {
            self.send(counts);
        }
        Ok(())
    }

    fn deadline(&self) -> Option<Instant> {
        None
    }

    fn may_sleep(&mut self, _takes: u64) -> bool {
        !self.ring.is_ready()
    }

    fn set_filter(&mut self, filter: &AddressFilter) {
        // What the kernel has a share in is not all ours, whoever asks for it.
        let shared = matches!(self.usual, Takes::Shared(_));
        let promiscuous = filter.promiscuous() && !shared;
        if promiscuous != self.promiscuous {
            self.promiscuous = promiscuous;
            let takes = if promiscuous { &Takes::Everything } else { &self.usual };
            // Where the interface refuses, fewer frames come than were asked for.
            let _ = self.socket.promiscuous(promiscuous).and_then(|()| self.socket.take(takes));
        }
    }
}
