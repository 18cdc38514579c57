//! An interface of the kernel, shared with it: AF_XDP. A program in front of the kernel's stack hands what is for our
//! hardware address, or for our ports of the kernel's ([`Share`]), to a socket of each of the interface's queues
//! (`queue`); the kernel never sees it.
//!
//! What is for groups the kernel wants as much as we do: it goes on, and a packet socket sees it pass
//! ([`Packet`], which also tells of the carrier). Frames are as on the cable: no checksums are left open either way,
//! nothing is joined or cut.
//!
//! Frames are copied between the sockets' memory and netd's pages. Nothing outlives this process: with its descriptors
//! the program goes, and the kernel sees all frames again, as another host's.

mod queue;

use crate::backend::bpf::{self, SocketMap};
use crate::backend::matcher::ToSockets;
use crate::backend::namespace;
use crate::backend::packet::{Packet, Takes};
use crate::backend::share::Share;
use crate::counts::{Count, Counts};
use crate::filter::AddressFilter;
use crate::nic::{Capabilities, Frame, HEADER_MAX, HEADER_MIN, Nic, Received, Slab, Transmitted};
use core::time::Duration;
use proto::Instant;
use proto::control::notices::Mac;
use proto::nic::slab::PageIndex;
use proto::shm::region::Region;
use queue::{FRAME_MAX, Queue};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::io;
use std::sync::Arc;

/// Queues of an interface that are served at most.
const QUEUES_MAX: u32 = 64;
/// So long after the kernel did not take all, it is asked again.
const AGAIN: Duration = Duration::from_millis(1);
/// The kernel's own counts are looked at no more often.
const COUNT_EVERY: Duration = Duration::from_millis(100);

/// An interface of the kernel.
#[derive(Debug)]
pub struct Xdp {
    /// Of what is for groups; and stock, pages that are done with, and carrier of all.
    packet: Packet,
    queues: Vec<Queue>,
    /// The queue to look at first.
    next: usize,
    notices: OwnedFd,
    longest: usize,
    /// Frames were written, or taken out, since the kernel was told last.
    unsent: bool,
    untold: bool,
    again: Option<Instant>,
    /// Of what the kernel has lost in all, as far as it is counted; and when it is counted anew.
    lost: u64,
    count_at: Instant,
    _sockets: SocketMap,
    /// The program runs as long as this lives.
    _link: OwnedFd,
}

/// Sockets, program and what says that there are frames.
struct Parts {
    queues: Vec<Queue>,
    sockets: SocketMap,
    link: OwnedFd,
    notices: OwnedFd,
}

/// What failed, in words.
fn doing<E: Into<io::Error>>(step: &'static str) -> impl FnOnce(E) -> String {
    move |error| format!("cannot {step}: {}", error.into())
}

fn parts(groups: BorrowedFd<'_>, takes: &Takes, index: u32) -> Result<Parts, String> {
    let sockets = SocketMap::new(QUEUES_MAX).map_err(doing("make a map of sockets (bpf(2))"))?;
    let mut queues = Vec::new();
    for number in 0..QUEUES_MAX {
        match Queue::open(index, number) {
            Ok(queue) => queues.push(queue),
            Err(error) if number > 0 && error.kind() == io::ErrorKind::InvalidInput => break,
            Err(error) => return Err(doing("open a socket of the interface's queue")(error)),
        }
    }
    let notices = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(doing("wait for frames"))?;
    for fd in queues.iter().map(AsFd::as_fd).chain([groups]) {
        epoll::add(&notices, fd, EventData::new_u64(0), EventFlags::IN).map_err(doing("wait for frames"))?;
    }
    for (number, queue) in (0..).zip(&queues) {
        sockets.set(number, queue.as_fd()).map_err(doing("enter a socket into the map"))?;
    }
    let program = takes.matcher().xdp(ToSockets { map: sockets.number() });
    let link = bpf::before_packets(&program, index).map_err(doing("attach a program to the interface"))?;
    Ok(Parts { queues, sockets, link, notices })
}

impl Xdp {
    /// On interface `name` in namespace `netns` (the caller's own, when there is none), as a station with address
    /// `mac`, or with a share of the kernel's. The reason when that can't be, in words: then AF_PACKET may do, or says
    /// what is wrong with the interface.
    ///
    /// # Errors
    /// The reason.
    pub fn open(
        name: &str,
        netns: Option<&str>,
        (mac, share): (Mac, Option<&Share>),
        mtu: u16,
    ) -> Result<Xdp, String> {
        let longest = usize::from(mtu) + HEADER_MAX;
        if longest > FRAME_MAX {
            return Err(format!("frames of {longest} bytes do not fit its {FRAME_MAX}"));
        }
        let (whole, others) = match share {
            Some(share) => (Takes::Alone(share.clone()), Takes::Shared(share.clone())),
            None => (Takes::ToUs(mac), Takes::Groups),
        };
        let packet = Packet::taking(name, netns, (mac, others), mtu, false).map_err(|e| e.to_string())?;
        let (index, groups) = (packet.index(), packet.descriptor());
        let parts =
            namespace::inside(netns, || Ok(parts(groups, &whole, index))).map_err(|e| e.to_string())??;
        Ok(Xdp {
            packet,
            queues: parts.queues,
            next: 0,
            notices: parts.notices,
            longest,
            unsent: false,
            untold: false,
            again: None,
            lost: 0,
            count_at: Instant::ZERO,
            _sockets: parts.sockets,
            _link: parts.link,
        })
    }

    /// The queue with the next frame, its place and length; queues take turns.
    fn waiting(&self) -> io::Result<Option<(usize, usize, usize)>> {
        for n in 0..self.queues.len() {
            let number = (self.next + n) % self.queues.len();
            if let Some((at, len)) = self.queues[number].peek()? {
                return Ok(Some((number, at, len)));
            }
        }
        Ok(None)
    }

    /// Has the kernel send what waits; asks again later where it did not.
    fn send(&mut self, now: Instant, counts: &mut Counts) {
        let Some(queue) = self.queues.first_mut() else { return };
        counts.add(Count::Doorbells, queue.kick());
        self.unsent = false;
        self.again = queue.is_behind().then_some(now + AGAIN);
    }
}

impl Nic<Arc<Region>> for Xdp {
    fn capabilities(&self) -> Capabilities {
        Capabilities { driver: "xdp", features: 0, carrier: self.packet.capabilities().carrier }
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        self.notices.as_fd()
    }

    fn fill(&mut self, slab: &Slab<Arc<Region>>, page: PageIndex) {
        self.packet.fill(slab, page);
    }

    fn peek(&mut self, head: &mut [u8]) -> usize {
        // What is wrong will be said when it is received.
        match self.waiting() {
            Ok(Some((number, at, len))) => {
                let len = len.min(head.len());
                head[..len].copy_from_slice(self.queues[number].bytes(at, len));
                len
            }
            Ok(None) => self.packet.peek(head),
            Err(_) => 0,
        }
    }

    fn pages(&mut self, slab: &Slab<Arc<Region>>, frame: &mut Frame, len: usize) -> bool {
        self.packet.pages(slab, frame, len)
    }

    fn receive(
        &mut self,
        slab: &Slab<Arc<Region>>,
        frame: &mut Frame,
        now: Instant,
        counts: &mut Counts,
    ) -> io::Result<Received> {
        let Some((number, at, len)) = self.waiting()? else {
            return self.packet.receive(slab, frame, now, counts);
        };
        let sound = (HEADER_MIN..=self.longest).contains(&len);
        if sound {
            if !self.packet.pages(slab, frame, len) {
                return Ok(Received::NoPages);
            }
            slab.write(frame, self.queues[number].bytes(at, len));
        }
        self.queues[number].advance(at);
        self.untold = true;
        self.next = (number + 1) % self.queues.len();
        if sound {
            return Ok(Received::Frame);
        }
        counts.count(Count::RxError);
        Ok(Received::Dropped)
    }

    fn transmit(
        &mut self,
        slab: &Slab<Arc<Region>>,
        frame: &Frame,
        now: Instant,
        counts: &mut Counts,
    ) -> io::Result<Transmitted> {
        let len = frame.len();
        if self.queues[0].chunk(len).is_none() {
            self.send(now, counts);
        }
        let queue = &mut self.queues[0];
        let Some(chunk) = queue.chunk(len) else {
            self.again = Some(now + AGAIN);
            return Ok(Transmitted::Busy);
        };
        slab.read(frame, 0, chunk);
        queue.send(len);
        self.unsent = true;
        counts.count(Count::TxFrames);
        counts.add(Count::TxBytes, len as u64);
        self.packet.give_back(slab.shard, frame);
        Ok(Transmitted::Taken)
    }

    fn flush(&mut self, now: Instant, counts: &mut Counts) {
        if self.unsent {
            self.send(now, counts);
        }
        if core::mem::take(&mut self.untold) {
            self.queues.iter_mut().for_each(Queue::publish);
        }
    }

    fn complete(&mut self) -> Option<(u16, PageIndex)> {
        self.packet.complete()
    }

    fn reset(&mut self, shard: u16) -> io::Result<()> {
        self.packet.reset(shard)
    }

    fn poll(&mut self, now: Instant, counts: &mut Counts) -> io::Result<()> {
        self.packet.poll(now, counts)?;
        if self.again.is_some_and(|again| again <= now) {
            self.send(now, counts);
        }
        if self.count_at <= now {
            self.count_at = now + COUNT_EVERY;
            let lost: u64 = self.queues.iter().map(Queue::lost).sum();
            let before = core::mem::replace(&mut self.lost, lost);
            counts.add(Count::RxRing, lost.saturating_sub(before));
        }
        Ok(())
    }

    fn deadline(&self) -> Option<Instant> {
        self.again
    }

    fn may_sleep(&mut self, takes: u64) -> bool {
        self.queues.iter().all(|queue| !queue.is_ready()) && self.packet.may_sleep(takes)
    }

    fn set_filter(&mut self, filter: &AddressFilter) {
        self.packet.set_filter(filter);
    }
}
