//! One nicd as netd sees it: the four rings of the present pair of generations, the pages that were
//! lent, and the frames that wait for a place in the ring.

use super::patience::Patience;
use super::{Mapped, NIC, NIC_NOTICES, watch};
use crate::qdisc::pfifo_fast::{LOOKED_AT, PfifoFast, band_of_frame};
use crate::wire::address::MacAddr;
use mio::unix::SourceFd;
use mio::{Registry, Token};
use proto::control::clock::now;
use proto::control::notices::{FilterNotice, LinkNotice, MULTICAST_MAX};
use proto::control::rendezvous::NoticeLane;
use proto::id::{Generation, Role, Seat};
use proto::nic::descriptor::Descriptor;
use proto::nic::packet_buf::{Assembly, PacketBuf};
use proto::nic::pool::FramePool;
use proto::nic::rings::{LENT_MAX, REGION_SIZE, StackEnd};
use proto::nic::slab::PageIndex;
use proto::shm::region::Region;
use proto::{Instant, PeerCorrupt};
use rustix::fd::{AsRawFd, OwnedFd};
use std::io;
use std::rc::Rc;
use std::sync::Arc;

/// Small pages that nicd is lent at most, and large ones.
const LENT: [usize; 2] = [448, 64];
const _: () = assert!(LENT[0] + LENT[1] <= LENT_MAX as usize);

/// Frames that wait for a nicd that is not there, or has no room, in all bands: more are dropped
/// (`qdisc_drop`). Linux's default of `txqueuelen` is 1000.
const HELD_MAX: usize = 1024;

/// Pages on their way out below which nothing is missing: they are taken back with the next work.
const IN_FLIGHT_QUIET: usize = LENT_MAX as usize / 2;

/// What an introduction brings.
pub(super) struct Ends {
    pub(super) memory: OwnedFd,
    pub(super) wakes_us: OwnedFd,
    pub(super) wakes_peer: OwnedFd,
}

/// A nicd incarnation.
struct Attached {
    generation: Generation,
    rings: StackEnd<Mapped>,
    assembly: Assembly<Mapped>,
    wakes_us: OwnedFd,
    wakes_peer: OwnedFd,
    patience: Patience,
    pushed: u32,
    /// Pages on the fill ring or being filled: small, large.
    lent: [usize; 2],
    /// Pages handed to the transmit ring and not given back.
    in_flight: usize,
    notices: NoticeLane<FilterNotice, LinkNotice>,
}

impl Attached {
    /// Descriptors that may be pushed: the ring takes them, and their completions will fit.
    fn room(&mut self) -> Result<usize, PeerCorrupt> {
        let slots = self.rings.transmit.room()? as usize;
        Ok(slots.min((LENT_MAX as usize).saturating_sub(self.in_flight)))
    }
}

/// One interface's nicd.
pub(super) struct NicLink {
    pub(super) index: u16,
    pub(super) pool: Rc<FramePool<Mapped>>,
    seat: Seat,
    attached: Option<Attached>,
    held: PfifoFast<PacketBuf<Mapped>>,
    /// Broke a rule and was not reported yet.
    broken: Option<(Seat, Generation, PeerCorrupt)>,
}

impl NicLink {
    /// Nobody is attached yet.
    pub(super) fn new(index: u16, pool: Rc<FramePool<Mapped>>) -> Self {
        NicLink {
            index,
            pool,
            seat: Seat::new(Role::Nicd, index),
            attached: None,
            held: PfifoFast::new(HELD_MAX),
            broken: None,
        }
    }

    /// A new incarnation to share rings with; returns the name where it may connect its notices.
    pub(super) fn introduce(
        &mut self,
        us: (Seat, Generation),
        generation: Generation,
        ends: Ends,
        registry: &Registry,
    ) -> io::Result<Option<String>> {
        self.detach(registry);
        let memory = Arc::new(Region::map(&ends.memory, REGION_SIZE)?);
        let notices = NoticeLane::offer(us, (self.seat, generation))?;
        watch(registry, ends.wakes_us.as_raw_fd(), Token(NIC + usize::from(self.index)))?;
        watch(registry, notices.as_raw_fd(), Token(NIC_NOTICES + usize::from(self.index)))?;
        let name = notices.name().to_owned();
        self.attached = Some(Attached {
            generation,
            rings: StackEnd::new(memory),
            assembly: Assembly::new(&self.pool),
            wakes_us: ends.wakes_us,
            wakes_peer: ends.wakes_peer,
            patience: Patience::default(),
            pushed: 0,
            lent: [0; 2],
            in_flight: 0,
            notices,
        });
        self.refill();
        Ok(Some(name))
    }

    /// That incarnation is dead: what it was lent comes back.
    pub(super) fn peer_gone(&mut self, generation: Generation, registry: &Registry) {
        if self.attached.as_ref().is_none_or(|nic| nic.generation <= generation) {
            self.detach(registry);
        }
    }

    fn detach(&mut self, registry: &Registry) {
        if let Some(nic) = self.attached.take() {
            let _ = registry.deregister(&mut SourceFd(&nic.wakes_us.as_raw_fd()));
            let _ = registry.deregister(&mut SourceFd(&nic.notices.as_raw_fd()));
        }
        // Also when its rings were dropped before because it broke a rule.
        self.pool.reclaim_all();
    }

    /// The peer broke a rule: its rings are not looked at any more until a successor comes, which
    /// the supervisors are asked for. Its pages stay lent, it may still write them.
    fn corrupt(&mut self, rule: PeerCorrupt) {
        if let Some(nic) = self.attached.take() {
            self.broken = Some((self.seat, nic.generation, rule));
        }
    }

    /// Who broke which rule, once.
    pub(super) fn take_broken(&mut self) -> Option<(Seat, Generation, PeerCorrupt)> {
        self.broken.take()
    }

    pub(super) fn rendezvous(&mut self, generation: Generation, name: String) {
        if let Some(nic) = self.attached.as_mut().filter(|nic| nic.generation == generation)
            && let Err(error) = nic.notices.connect(name)
        {
            tracing::warn!("notices to {}: {error}", self.seat);
        }
    }

    /// Tells the device which groups of IPv6 are listened to. Groups of IPv4 are not joined one by one:
    /// all of them are wanted.
    pub(super) fn listen_to(&mut self, groups: &[MacAddr]) {
        let Some(nic) = &self.attached else { return };
        let multicast: Vec<_> = groups.iter().map(|mac| mac.0).collect();
        let all_multicast = multicast.len() > MULTICAST_MAX;
        let multicast = if all_multicast { Vec::new() } else { multicast };
        let notice = FilterNotice { promiscuous: false, all_multicast, ipv4_groups: true, multicast };
        if let Err(error) = nic.notices.send(notice) {
            tracing::debug!("groups to {}: {error}", self.seat);
        }
    }

    pub(super) fn next_notice(&mut self) -> Option<LinkNotice> {
        self.attached.as_mut()?.notices.receive().ok().flatten()
    }

    /// Takes back the pages of frames that were sent.
    pub(super) fn complete(&mut self) -> bool {
        let Some(nic) = &mut self.attached else { return false };
        let mut any = false;
        loop {
            let slot = match nic.rings.completion.pop() {
                Ok(Some(slot)) => slot,
                Ok(None) => break,
                Err(rule) => {
                    self.corrupt(rule);
                    return true;
                }
            };
            any = true;
            nic.in_flight = nic.in_flight.saturating_sub(1);
            let page = PageIndex(u32::from_ne_bytes([slot[0], slot[1], slot[2], slot[3]]));
            if let Err(rule) = self.pool.completed(page) {
                self.corrupt(rule);
                return true;
            }
        }
        nic.rings.completion.release();
        any
    }

    /// The next frame that came in.
    pub(super) fn next_frame(&mut self) -> Option<PacketBuf<Mapped>> {
        self.pop_frame().unwrap_or_else(|rule| {
            self.corrupt(rule);
            None
        })
    }

    fn pop_frame(&mut self) -> Result<Option<PacketBuf<Mapped>>, PeerCorrupt> {
        let Some(nic) = &mut self.attached else { return Ok(None) };
        while let Some(slot) = nic.rings.receive.pop()? {
            let descriptor = Descriptor::from_slot(&slot, self.pool.geometry())?;
            let large = descriptor.page.0 >= self.pool.geometry().small;
            nic.lent[usize::from(large)] = nic.lent[usize::from(large)].saturating_sub(1);
            if let Some(frame) = nic.assembly.push(descriptor)? {
                return Ok(Some(frame));
            }
        }
        nic.rings.receive.release();
        Ok(None)
    }

    /// Lends empty pages, as many as are missing.
    pub(super) fn refill(&mut self) {
        let Some(nic) = &mut self.attached else { return };
        nic.rings.receive.release();
        for (large, most) in LENT.into_iter().enumerate() {
            while nic.lent[large] < most {
                let lent = if large == 0 { self.pool.lend_small() } else { self.pool.lend_large() };
                let Some(page) = lent else { break };
                nic.lent[large] += 1;
                match nic.rings.fill.push(&Descriptor::plain(page, 0, 0).to_slot()) {
                    Ok(true) => {}
                    // Never more are lent than the ring holds.
                    Ok(false) => break,
                    Err(rule) => return self.corrupt(rule),
                }
            }
        }
        if nic.rings.fill.publish() {
            wake(&nic.wakes_peer);
        }
    }

    /// Frames that the transmit ring would take now.
    pub(super) fn room(&mut self) -> usize {
        let Some(nic) = &mut self.attached else { return 0 };
        match nic.room() {
            Ok(room) => room.saturating_sub(self.held.len()),
            Err(rule) => {
                self.corrupt(rule);
                0
            }
        }
    }

    /// A released frame, to be handed to nicd as soon as there is a place, in the band of its type of
    /// service. `false` when too many wait already.
    #[must_use = "a frame that is not held is dropped"]
    pub(super) fn hold(&mut self, frame: PacketBuf<Mapped>) -> bool {
        let mut head = [0; LOOKED_AT];
        let got = frame.read_up_to(0, &mut head);
        self.held.push(band_of_frame(&head[..got]), frame)
    }

    /// Hands down what the ring takes.
    pub(super) fn transmit(&mut self) {
        let Some(nic) = &mut self.attached else { return };
        let mut room = 0;
        while let Some(frame) = self.held.front() {
            let pages = frame.pages();
            if room < pages {
                room = match nic.room() {
                    Ok(room) if room >= pages => room,
                    Ok(_) => break,
                    Err(rule) => return self.corrupt(rule),
                };
            }
            room -= pages;
            let frame = self.held.pop().expect("looked at above");
            let (ring, pushed, in_flight) = (&mut nic.rings.transmit, &mut nic.pushed, &mut nic.in_flight);
            frame.into_descriptors(|descriptor| {
                *pushed = pushed.wrapping_add(1);
                *in_flight += 1;
                let pushed = ring.push(&descriptor.to_slot());
                assert_eq!(pushed, Ok(true), "there was room for the whole frame");
            });
        }
        if nic.rings.transmit.publish() {
            wake(&nic.wakes_peer);
        }
        match nic.rings.transmit.backlog() {
            Ok(backlog) => nic.patience.observe(now(), backlog, nic.pushed),
            Err(rule) => self.corrupt(rule),
        }
    }

    /// Before sleeping; `stopped` when a socket waits for room or pages. `false` when something came
    /// meanwhile.
    pub(super) fn arm(&mut self, stopped: bool) -> bool {
        let Some(nic) = &mut self.attached else { return true };
        // A page that comes back is worth a wake-up only to somebody who may want for one.
        let short = nic.lent.iter().zip(LENT).any(|(lent, most)| *lent < most);
        let wanting = stopped || short || !self.held.is_empty() || nic.in_flight > IN_FLIGHT_QUIET;
        let completion = if wanting { nic.rings.completion.arm() } else { Ok(true) };
        match (nic.rings.receive.arm(), completion) {
            (Ok(receive), Ok(completion)) => receive && completion,
            (Err(rule), _) | (_, Err(rule)) => {
                self.corrupt(rule);
                false
            }
        }
    }

    pub(super) fn disarm(&mut self) {
        if let Some(nic) = &mut self.attached {
            nic.rings.receive.disarm();
            nic.rings.completion.disarm();
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.attached.as_ref()?.patience.deadline()
    }

    /// The incarnation that has stood still too long.
    pub(super) fn stuck(&mut self, now: Instant) -> Option<(Seat, Generation)> {
        let nic = self.attached.as_mut()?;
        // It may have taken everything since, and owed nobody a wake-up for it.
        match nic.rings.transmit.backlog() {
            Ok(backlog) => nic.patience.observe(now, backlog, nic.pushed),
            Err(rule) => {
                self.corrupt(rule);
                return None;
            }
        }
        nic.patience.is_over(now).then_some((self.seat, nic.generation))
    }
}

/// Wakes a daemon by its eventfd. It is non-blocking; one that is full wakes too.
pub(super) fn wake(eventfd: &OwnedFd) {
    let _ = rustix::io::write(eventfd, &1u64.to_ne_bytes());
}
