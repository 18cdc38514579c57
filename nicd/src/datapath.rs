//! Frames between a device and the rings shared with one netd: a NAPI loop in user space.
//!
//! [`Datapath::turn`] moves up to a budget of frames each way and says whether netd must be woken (once
//! a batch) and whether work is left; when none is, [`Datapath::may_sleep`] arms and looks again.
//! There are no ticks: between two turns nothing happens.
//!
//! While no netd is attached no frame is taken from the device: they wait where the device queues
//! them. When netd falls behind, it lends no pages, and the device drops at no cost.
//!
//! Everything netd writes is checked (INV-R1): the error ends the rings, the caller drops them by
//! [`Datapath::detach`]. Pages lent for receiving are remembered, so that none is used twice.

use crate::counts::{Count, Counts};
use crate::filter::AddressFilter;
use crate::nic::{Frame, HEADER_MAX, HEADER_MIN, Nic, Received, SUPER_FRAME_MAX, Slab, Transmitted};
use core::time::Duration;
use proto::control::notices::{Mac, feature};
use proto::nic::descriptor::{DESCRIPTOR_SIZE, Descriptor, flag};
use proto::nic::rings::DriverEnd;
use proto::nic::slab::{CHAIN_MAX, PageIndex};
use proto::shm::Memory;
use proto::{Instant, PeerCorrupt};
use std::io;
use thiserror::Error;

/// Frames each way in one turn: NAPI_POLL_WEIGHT of Linux.
pub const BUDGET: usize = 64;
/// Descriptors that may wait for netd on the receive ring; with more there, frames stay with the
/// device. What a ring holds dies with either of its ends, what the device queues does not.
pub const AHEAD: u32 = 128;
/// How long a netd may leave what was handed to it before it is reported (DESIGN §6).
pub const STUCK_AFTER: Duration = Duration::from_millis(500);

const TWICE: PeerCorrupt = PeerCorrupt::new("page lent twice");
const LONG_CHAIN: PeerCorrupt = PeerCorrupt::new("frame of too many pages");
const EMPTY_PIECE: PeerCorrupt = PeerCorrupt::new("descriptor without bytes");
const FLAGS: PeerCorrupt = PeerCorrupt::new("descriptor flags that contradict each other");
const LENT: PeerCorrupt = PeerCorrupt::new("more pages lent than the rings take back");

/// What ends a turn early.
#[derive(Debug, Error)]
pub enum TurnError {
    /// netd broke a rule: its rings are to be dropped.
    #[error(transparent)]
    Peer(#[from] PeerCorrupt),
    /// The device is lost.
    #[error("the device is lost: {0}")]
    Device(#[from] io::Error),
}

/// What came of a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Turn {
    /// netd sleeps and must be woken.
    pub wake: bool,
    /// The budget was used up: call again.
    pub again: bool,
    /// A frame was moved.
    pub moved: bool,
}

/// The rings shared with one netd, and what of it is in our hands.
#[derive(Debug)]
struct Port<M> {
    rings: DriverEnd<M>,
    /// By page: lent for receiving and not yet handed up.
    filling: Vec<bool>,
    /// A frame whose last descriptors have not come yet.
    partial: Frame,
    /// A whole frame that the device did not take.
    refused: Option<Frame>,
    armed: bool,
    /// Descriptors of frames handed to netd so far.
    handed: u64,
    /// How many of them it had taken when last looked at, and since when that has not changed.
    stood: (u64, Option<Instant>),
}

/// One device and the rings it serves.
#[derive(Debug)]
pub struct Datapath<M, N> {
    nic: N,
    slab: Slab<M>,
    filter: AddressFilter,
    /// The largest payload of a frame.
    mtu: usize,
    port: Option<Port<M>>,
    /// The device may have frames: it has not said "nothing" since its last notice.
    readable: bool,
    /// The device has too few pages for a frame.
    starved: bool,
    /// What was counted.
    pub counts: Counts,
}

impl<M: Memory + Clone, N: Nic<M>> Datapath<M, N> {
    /// A device that serves nobody yet.
    pub fn new(nic: N, slab: Slab<M>, mac: Mac, mtu: u16) -> Self {
        Datapath {
            nic,
            slab,
            filter: AddressFilter::new(mac),
            mtu: mtu.into(),
            port: None,
            readable: true,
            starved: false,
            counts: Counts::default(),
        }
    }

    /// The device.
    pub fn nic(&self) -> &N {
        &self.nic
    }

    /// The address filter.
    pub fn filter_mut(&mut self) -> &mut AddressFilter {
        &mut self.filter
    }

    /// Serves these rings, in zeroed memory, from now on.
    pub fn attach(&mut self, memory: M) {
        self.detach();
        self.port = Some(Port {
            rings: DriverEnd::new(memory),
            filling: vec![false; self.slab.geometry.pages() as usize],
            partial: Frame::default(),
            refused: None,
            armed: false,
            handed: 0,
            stood: (0, None),
        });
        self.readable = true;
        self.starved = false;
    }

    /// Stops using the rings and every page that was lent over them.
    pub fn detach(&mut self) {
        self.port = None;
        self.nic.reset();
    }

    /// Whether there are rings to serve.
    pub fn is_attached(&self) -> bool {
        self.port.is_some()
    }

    /// The device's descriptor has something to say.
    ///
    /// # Errors
    /// When the device is lost.
    pub fn device_ready(&mut self, now: Instant) -> io::Result<()> {
        self.readable = true;
        self.nic.poll(now, &mut self.counts)
    }

    /// When [`Datapath::device_ready`] is to be called at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        self.nic.deadline()
    }

    /// Moves frames.
    ///
    /// # Errors
    /// [`TurnError`].
    pub fn turn(&mut self, now: Instant) -> Result<Turn, TurnError> {
        let Some(port) = &mut self.port else {
            return Ok(Turn::default());
        };
        if core::mem::take(&mut port.armed) {
            port.rings.transmit.disarm();
            port.rings.fill.disarm();
        }
        let before = self.moved();
        self.take_pages()?;
        let received = self.receive(now)?;
        let transmitted = self.transmit(now)?;
        let wake = self.give_back()?;
        let again = received || transmitted;
        if again {
            self.counts.count(Count::TimeSqueeze);
        }
        if wake {
            self.counts.count(Count::Wakeups);
        }
        Ok(Turn { wake, again, moved: self.moved() != before })
    }

    /// Counts frames that came and went.
    fn moved(&self) -> u64 {
        self.counts.get(Count::RxFrames) + self.counts.get(Count::TxFrames)
    }

    /// Fill ring → device.
    fn take_pages(&mut self) -> Result<(), TurnError> {
        let Some(port) = &mut self.port else { return Ok(()) };
        // As many as there were at the beginning: netd may go on pushing.
        for _ in 0..port.rings.fill.waiting()? {
            let Some(slot) = port.rings.fill.pop()? else { break };
            let page = Descriptor::from_slot(&slot, &self.slab.geometry)?.page;
            let filling = &mut port.filling[page.0 as usize];
            if core::mem::replace(filling, true) {
                return Err(TWICE.into());
            }
            self.nic.fill(&self.slab, page);
            self.starved = false;
        }
        port.rings.fill.release();
        Ok(())
    }

    /// Device → receive ring; true when the budget was used up.
    fn receive(&mut self, now: Instant) -> Result<bool, TurnError> {
        let Some(port) = &mut self.port else { return Ok(false) };
        let mut frame = Frame::default();
        let mut ahead = port.rings.receive.backlog()?;
        for _ in 0..BUDGET {
            if !self.readable || self.starved {
                return Ok(false);
            }
            // netd lends pages again for those it takes: that wakes us, as when there were none.
            if ahead >= AHEAD {
                self.counts.count(Count::RxAhead);
                self.starved = true;
                return Ok(false);
            }
            frame.clear();
            match self.nic.receive(&self.slab, &mut frame, now, &mut self.counts)? {
                Received::Frame => {}
                Received::Dropped => continue,
                Received::Nothing => {
                    self.readable = false;
                    return Ok(false);
                }
                Received::NoPages => {
                    self.counts.count(Count::RxStarved);
                    self.starved = true;
                    return Ok(false);
                }
            }
            let wanted = self.nic.capabilities().features & feature::MAC_FILTER != 0
                || destination(&self.slab, &frame).is_some_and(|mac| self.filter.passes(&mac));
            if !wanted {
                self.counts.count(Count::RxOtherHost);
                for piece in frame.pieces() {
                    self.nic.fill(&self.slab, piece.page);
                }
                continue;
            }
            self.counts.count(Count::RxFrames);
            self.counts.add(Count::RxBytes, frame.len() as u64);
            for piece in frame.pieces() {
                port.filling[piece.page.0 as usize] = false;
                if !port.rings.receive.push(&piece.to_slot())? {
                    return Err(LENT.into());
                }
                port.handed += 1;
                ahead += 1;
            }
        }
        Ok(true)
    }

    /// Transmit ring → device; true when the budget was used up.
    fn transmit(&mut self, now: Instant) -> Result<bool, TurnError> {
        let Some(port) = &mut self.port else { return Ok(false) };
        for _ in 0..BUDGET {
            let again = port.refused.take();
            let was_refused = again.is_some();
            let next = match again {
                Some(frame) => Some(frame),
                None => next_frame(&mut port.rings, &mut port.partial, &self.slab)?,
            };
            let Some(frame) = next else { return Ok(false) };
            if !was_refused && !sendable(&frame, self.mtu, self.nic.capabilities().features, &mut self.counts)
            {
                for piece in frame.pieces() {
                    give(port, piece.page)?;
                }
                continue;
            }
            match self.nic.transmit(&self.slab, &frame, now, &mut self.counts)? {
                Transmitted::Taken => {
                    if was_refused {
                        self.counts.count(Count::TxWoken);
                    }
                }
                Transmitted::Busy => {
                    if !was_refused {
                        self.counts.count(Count::TxStopped);
                    }
                    port.refused = Some(frame);
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Device → completion ring, and everything is published; true when netd must be woken.
    fn give_back(&mut self) -> Result<bool, TurnError> {
        self.nic.flush();
        let Some(port) = &mut self.port else { return Ok(false) };
        while let Some(page) = self.nic.complete() {
            give(port, page)?;
        }
        port.rings.transmit.release();
        let up = port.rings.receive.publish();
        let done = port.rings.completion.publish();
        Ok(up || done)
    }

    /// Asks everybody for a wake-up and looks again: true when there is nothing to do.
    ///
    /// # Errors
    /// [`PeerCorrupt`] as [`Datapath::turn`].
    pub fn may_sleep(&mut self) -> Result<bool, PeerCorrupt> {
        let device = self.nic.may_sleep();
        self.readable |= !device;
        let Some(port) = &mut self.port else { return Ok(true) };
        port.armed = true;
        let idle = (port.refused.is_some() || port.rings.transmit.arm()?)
            && (!self.starved || port.rings.fill.arm()?)
            && (self.starved || !self.readable);
        if idle {
            self.counts.count(Count::Sleeps);
        }
        Ok(idle)
    }

    /// Before sleeping: when netd is to be reported, because it has not taken anything of what is
    /// there for it. `None` when nothing is.
    ///
    /// # Errors
    /// [`PeerCorrupt`] as [`Datapath::turn`].
    pub fn stuck_deadline(&mut self, now: Instant) -> Result<Option<Instant>, PeerCorrupt> {
        let Some(port) = &mut self.port else { return Ok(None) };
        // Completions may lie: netd takes them when it has work, or wants for pages.
        let left = u64::from(port.rings.receive.backlog()?);
        let taken = port.handed - left;
        let since = match port.stood {
            _ if left == 0 => None,
            (before, Some(since)) if before == taken => Some(since),
            _ => Some(now),
        };
        port.stood = (taken, since);
        Ok(since.map(|since| since + STUCK_AFTER))
    }

    /// netd was reported: the next report is due after another while.
    pub fn stuck_reported(&mut self, now: Instant) {
        self.counts.count(Count::PeerStuck);
        if let Some(port) = &mut self.port {
            port.stood.1 = Some(now);
        }
    }
}

/// A sent page back to netd.
fn give<M: Memory + Clone>(port: &mut Port<M>, page: PageIndex) -> Result<(), PeerCorrupt> {
    let slot: [u8; DESCRIPTOR_SIZE] = Descriptor::plain(page, 0, 0).to_slot();
    if port.rings.completion.push(&slot)? { Ok(()) } else { Err(LENT) }
}

/// The next whole frame of the transmit ring.
fn next_frame<M: Memory + Clone>(
    rings: &mut DriverEnd<M>,
    partial: &mut Frame,
    slab: &Slab<M>,
) -> Result<Option<Frame>, PeerCorrupt> {
    while let Some(slot) = rings.transmit.pop()? {
        let piece = Descriptor::from_slot(&slot, &slab.geometry)?;
        if piece.len == 0 {
            return Err(EMPTY_PIECE);
        }
        if !partial.is_empty() && piece.flags & !flag::MORE != 0 {
            return Err(FLAGS);
        }
        if partial.is_full() {
            return Err(LONG_CHAIN);
        }
        partial.add(piece);
        if piece.flags & flag::MORE == 0 {
            return Ok(Some(core::mem::take(partial)));
        }
    }
    Ok(None)
}

/// Whether the device can send it; counted when not.
fn sendable(frame: &Frame, mtu: usize, features: u32, counts: &mut Counts) -> bool {
    let marks = frame.first().map_or(0, |first| first.flags);
    let has = |bit: u16| marks & bit != 0;
    let super_frame = has(flag::GSO_TCP4 | flag::GSO_TCP6);
    let unsupported = (has(flag::CSUM_PARTIAL) && features & feature::TX_CHECKSUM == 0)
        || (has(flag::GSO_TCP4) && features & feature::TSO4 == 0)
        || (has(flag::GSO_TCP6) && features & feature::TSO6 == 0)
        || (super_frame && !has(flag::CSUM_PARTIAL));
    let longest = if super_frame { SUPER_FRAME_MAX } else { mtu + HEADER_MAX };
    let first = frame.first();
    let checksum_end = first.map_or(0, |d| usize::from(d.csum_start) + if has(flag::UDP) { 8 } else { 18 });
    if unsupported || (super_frame && first.is_some_and(|d| d.gso_size == 0)) {
        counts.count(Count::TxUnsupported);
        false
    } else if !(HEADER_MIN..=longest).contains(&frame.len())
        || (has(flag::CSUM_PARTIAL) && checksum_end > frame.len())
    {
        counts.count(Count::TxLength);
        false
    } else {
        true
    }
}

/// Where the frame goes to; `None` when it is too short to say.
fn destination<M: Memory>(slab: &Slab<M>, frame: &Frame) -> Option<Mac> {
    let first = frame.first()?;
    let mut mac = [0; 6];
    if (first.len as usize) < mac.len() {
        return None;
    }
    slab.memory.read(slab.piece(first).0, &mut mac);
    Some(mac)
}

const _: () = assert!(CHAIN_MAX >= 5, "a super-frame and a small page for its beginning");
