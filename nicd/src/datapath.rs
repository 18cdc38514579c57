//! Frames between a device and the rings shared with the netds: a NAPI loop in user space.
//!
//! [`Datapath::turn`] moves up to a budget of frames each way and says which netds must be woken (once
//! a batch) and whether work is left; when none is, [`Datapath::may_sleep`] arms and looks again.
//! There are no ticks: between two turns nothing happens.
//!
//! With several shards each frame goes to the one that its flow is hashed to ([`Steering`]); what says
//! something of the link goes to all of them, and one answers. A device with one queue puts a frame
//! somewhere before its flow is known: into pages of the shard that the last one was for, or that the
//! device shows the next one to be for; a wrong guess costs a copy.
//!
//! While no netd is attached no frame is taken from the device: they wait where the device queues
//! them. When netd falls behind, it lends no pages, and the device drops at no cost. Where one of
//! several is missing or behind, its frames are parked here, in order; the device is held back for one
//! that is behind, but not for long, so that the others do not stand with it.
//!
//! What the shards send is taken in turns, by bytes.
//!
//! Everything a netd writes is checked (INV-R1): the error ends its rings, the caller drops them by
//! [`Datapath::detach`]. Pages lent for receiving are remembered, so that none is used twice.

use crate::counts::{Count, Counts};
use crate::filter::AddressFilter;
use crate::nic::{Frame, HEADER_MAX, HEADER_MIN, Next, Nic, Received, SUPER_FRAME_MAX, Slab, Transmitted};
use crate::port::{Port, Shard, mark};
use core::time::Duration;
use proto::control::notices::{FilterNotice, Mac, feature};
use proto::nic::descriptor::{Descriptor, flag};
use proto::nic::slab::CHAIN_MAX;
use proto::nic::steering::{For, HEAD, Steering};
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

/// A netd broke a rule: its rings are to be dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("shard {shard}: {rule}")]
pub struct Broken {
    /// Which shard.
    pub shard: u16,
    /// The rule.
    pub rule: PeerCorrupt,
}

/// What ends a turn early.
#[derive(Debug, Error)]
pub enum TurnError {
    /// A netd broke a rule. What was moved for the others is published by the next turn.
    #[error(transparent)]
    Peer(#[from] Broken),
    /// The device is lost.
    #[error("the device is lost: {0}")]
    Device(#[from] io::Error),
}

/// What came of a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Turn {
    /// The netds that sleep and must be woken: bit `n` for shard `n`.
    pub wake: u64,
    /// The budget was used up: call again.
    pub again: bool,
    /// A frame was moved.
    pub moved: bool,
}

/// One device and the rings it serves.
#[derive(Debug)]
pub struct Datapath<M, N> {
    nic: N,
    shards: Vec<Shard<M>>,
    steering: Steering,
    /// The shard of the last frame received.
    last: u16,
    filter: AddressFilter,
    /// The largest payload of a frame.
    mtu: usize,
    /// A whole frame that the device did not take, and whose it is.
    refused: Option<(u16, Frame)>,
    /// Bytes that all shards sent, as of the beginning of the last frame.
    sent: u64,
    /// The device may have frames: it has not said "nothing" since its last notice.
    readable: bool,
    /// What was counted.
    pub counts: Counts,
}

fn broken(shard: u16) -> impl Fn(PeerCorrupt) -> Broken {
    move |rule| Broken { shard, rule }
}

impl<M: Memory + Clone, N: Nic<M>> Datapath<M, N> {
    /// A device that serves nobody yet, for the shards with these slabs.
    ///
    /// # Panics
    /// When there is no slab, or a slab is not that of the shard where it stands.
    pub fn new(mut nic: N, slabs: Vec<Slab<M>>, mac: Mac, mtu: u16) -> Self {
        let in_order = slabs.iter().enumerate().all(|(n, slab)| usize::from(slab.shard) == n);
        assert!(in_order && slabs.len() <= 64, "a slab for each shard");
        let filter = AddressFilter::new(mac);
        nic.set_filter(&filter);
        Datapath {
            nic,
            steering: Steering::new(slabs.len() as u16),
            shards: slabs.into_iter().map(Shard::new).collect(),
            last: 0,
            filter,
            mtu: mtu.into(),
            refused: None,
            sent: 0,
            readable: true,
            counts: Counts::default(),
        }
    }

    /// The device.
    pub fn nic(&self) -> &N {
        &self.nic
    }

    /// Which frames netd wants, from now on.
    pub fn set_filter(&mut self, notice: FilterNotice) {
        self.filter.set(notice);
        self.nic.set_filter(&self.filter);
    }

    /// Serves the netd of `shard` over these rings, in zeroed memory, from now on.
    ///
    /// # Errors
    /// As [`Datapath::detach`].
    ///
    /// # Panics
    /// When there is no such shard.
    pub fn attach(&mut self, shard: u16, memory: M) -> io::Result<()> {
        self.detach(shard)?;
        let shard = &mut self.shards[usize::from(shard)];
        shard.port = Some(Port::new(memory, shard.slab.geometry.pages()));
        self.readable = true;
        Ok(())
    }

    /// Stops using the rings of `shard` and every page that was lent over them.
    ///
    /// # Errors
    /// When the device can't be stopped: its pages stay in use, and the daemon ends.
    ///
    /// # Panics
    /// When there is no such shard.
    pub fn detach(&mut self, shard: u16) -> io::Result<()> {
        self.shards[usize::from(shard)].port = None;
        self.refused = self.refused.filter(|(whose, _)| *whose != shard);
        self.nic.reset(shard)
    }

    /// Number of shards, attached or not.
    pub fn shards(&self) -> u16 {
        self.steering.shards()
    }

    /// Whether there are rings to serve.
    pub fn is_attached(&self) -> bool {
        self.shards.iter().any(|shard| shard.port.is_some())
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
        let held = self.shards.iter().filter(|shard| shard.port.is_some());
        held.filter_map(|shard| shard.parked.deadline()).chain(self.nic.deadline()).min()
    }

    /// Moves frames.
    ///
    /// # Errors
    /// [`TurnError`].
    pub fn turn(&mut self, now: Instant) -> Result<Turn, TurnError> {
        if !self.is_attached() {
            return Ok(Turn::default());
        }
        for port in self.shards.iter_mut().filter_map(|shard| shard.port.as_mut()) {
            if core::mem::take(&mut port.armed) {
                port.rings.transmit.disarm();
                port.rings.fill.disarm();
            }
        }
        self.counts.count(Count::Polls);
        let before = self.moved();
        self.take_pages()?;
        let received = self.receive(now)?;
        let transmitted = self.transmit(now)?;
        let wake = self.give_back(now)?;
        let again = received || transmitted;
        if again {
            self.counts.count(Count::TimeSqueeze);
        }
        self.counts.add(Count::Wakeups, wake.count_ones().into());
        Ok(Turn { wake, again, moved: self.moved() != before })
    }

    /// Counts frames that came and went.
    fn moved(&self) -> u64 {
        self.counts.get(Count::RxFrames) + self.counts.get(Count::TxFrames)
    }

    /// Fill rings → device.
    fn take_pages(&mut self) -> Result<(), TurnError> {
        for Shard { slab, port, .. } in &mut self.shards {
            let (Some(port), broken) = (port, broken(slab.shard)) else { continue };
            // As many as there were at the beginning: netd may go on pushing.
            for _ in 0..port.rings.fill.waiting().map_err(&broken)? {
                let Some(slot) = port.rings.fill.pop().map_err(&broken)? else { break };
                let page = Descriptor::from_slot(&slot, &slab.geometry).map_err(&broken)?.page;
                if core::mem::replace(&mut port.filling[page.0 as usize], true) {
                    return Err(broken(TWICE).into());
                }
                self.nic.fill(slab, page);
                port.starved = false;
            }
            port.rings.fill.release();
            port.ahead = port.rings.receive.backlog().map_err(&broken)?;
        }
        Ok(())
    }

    /// Device → receive rings; true when the budget was used up.
    fn receive(&mut self, now: Instant) -> Result<bool, TurnError> {
        self.unpark(now)?;
        let mut frame = Frame::default();
        for _ in 0..BUDGET {
            if !self.readable || self.held_back(now) {
                return Ok(false);
            }
            let Some(from) = self.next_shard() else { return Ok(false) };
            let slab = &self.shards[usize::from(from)].slab;
            frame.clear();
            match self.nic.receive(slab, &mut frame, now, &mut self.counts)? {
                Received::Frame => {}
                Received::Dropped => continue,
                Received::Nothing => {
                    self.readable = false;
                    return Ok(false);
                }
                Received::NoPages => {
                    self.counts.count(Count::RxStarved);
                    self.starve(from);
                    continue;
                }
            }
            let wanted = self.nic.capabilities().features & feature::MAC_FILTER != 0
                || destination(slab, &frame).is_some_and(|mac| self.filter.passes(&mac));
            if !wanted {
                self.counts.count(Count::RxOtherHost);
                self.take_back(from, &frame);
                continue;
            }
            self.counts.count(Count::RxFrames);
            self.counts.add(Count::RxBytes, frame.len() as u64);
            if self.shards.len() == 1 {
                self.hand_up(from, &frame)?;
                continue;
            }
            let mut head = [0; HEAD];
            let len = slab.read(&frame, 0, &mut head);
            match self.steering.frame(&head[..len]) {
                For::Shard(shard) => {
                    self.last = shard;
                    self.pass_on(from, shard, &frame, now)?;
                }
                For::Every => self.pass_to_all(from, &mut frame, now)?,
            }
        }
        Ok(true)
    }

    /// In whose pages to receive the next frame: of a shard that has some.
    fn next_shard(&mut self) -> Option<u16> {
        if self.shards.len() > 1 {
            let mut head = [0; HEAD];
            let len = self.nic.peek(&mut head);
            if len > 0
                && let For::Shard(shard) = self.steering.frame(&head[..len])
            {
                self.last = shard;
            }
        }
        for shard in self.shards.iter_mut() {
            if let Some(port) = shard.port.as_mut().filter(|port| !port.starved && port.ahead >= AHEAD) {
                // netd lends pages again for those it takes: that wakes us, as when there were none.
                self.counts.count(Count::RxAhead);
                port.starved = true;
            }
        }
        let takes = |shard: &u16| self.shards[usize::from(*shard)].takes();
        match self.nic.next_in(self.takers()) {
            Next::Any => Some(self.last).filter(takes).or_else(|| (0..self.shards()).find(takes)),
            Next::Of(shard) => Some(shard),
            Next::Nobody => None,
        }
    }

    /// The shards for which frames may be received now: bit `n` for shard `n`.
    fn takers(&self) -> u64 {
        self.shards.iter().filter(|shard| shard.takes()).fold(0, |takers, of| takers | 1 << of.slab.shard)
    }

    /// Whether the device waits for a shard that is behind.
    fn held_back(&mut self, now: Instant) -> bool {
        self.shards.len() > 1
            && self.shards.iter_mut().any(|shard| {
                shard.parked.lose_patience(now);
                shard.holds_back()
            })
    }

    fn starve(&mut self, shard: u16) {
        if let Some(port) = &mut self.shards[usize::from(shard)].port {
            port.starved = true;
        }
    }

    /// The pages of a frame that is not handed up are the device's again.
    fn take_back(&mut self, shard: u16, frame: &Frame) {
        for piece in frame.pieces() {
            self.nic.fill(&self.shards[usize::from(shard)].slab, piece.page);
        }
    }

    fn hand_up(&mut self, shard: u16, frame: &Frame) -> Result<(), Broken> {
        match &mut self.shards[usize::from(shard)].port {
            Some(port) => port.hand_up(frame).map_err(broken(shard)),
            None => Ok(()),
        }
    }

    /// A frame in pages of the shard `from`, for the shard `to`.
    fn pass_on(&mut self, from: u16, to: u16, frame: &Frame, now: Instant) -> Result<(), Broken> {
        if from == to {
            return self.hand_up(to, frame);
        }
        self.copy_to(from, to, frame, now)?;
        self.take_back(from, frame);
        Ok(())
    }

    /// A frame in pages of the shard `from`, for all that there are. The first of them answers it.
    fn pass_to_all(&mut self, from: u16, frame: &mut Frame, now: Instant) -> Result<(), Broken> {
        let plain = frame.first().map_or(0, |first| first.flags);
        let mut elsewhere = 0;
        for to in 0..self.shards() {
            if self.shards[usize::from(to)].port.is_none() {
                continue;
            }
            if let Some(first) = frame.first_mut() {
                first.flags = plain | elsewhere;
            }
            elsewhere = flag::ELSEWHERE;
            // Its own last: what was handed up is netd's.
            if to != from {
                self.copy_to(from, to, frame, now)?;
            }
        }
        let first_of_all = (0..from).all(|shard| self.shards[usize::from(shard)].port.is_none());
        if let Some(first) = frame.first_mut() {
            first.flags = plain | if first_of_all { 0 } else { flag::ELSEWHERE };
        }
        self.hand_up(from, frame)
    }

    /// A copy of a frame for another shard, or to wait for it.
    fn copy_to(&mut self, from: u16, to: u16, frame: &Frame, now: Instant) -> Result<(), Broken> {
        let mut copy = Frame::default();
        let target = &self.shards[usize::from(to)];
        let room = target.takes() && target.parked.is_empty() && {
            let room = self.nic.pages(&target.slab, &mut copy, frame.len());
            if !room {
                self.counts.count(Count::RxStarved);
                self.starve(to);
            }
            room
        };
        let source = self.shards[usize::from(from)].slab.clone();
        let target = &mut self.shards[usize::from(to)];
        if !room {
            if !target.parked.park(&source, frame, now) {
                self.counts.count(Count::RxShardBehind);
            }
            return Ok(());
        }
        self.counts.count(Count::RxSteered);
        copy_frame(&source, frame, &target.slab, &copy);
        if let Some(first) = frame.first() {
            mark(&mut copy, first);
        }
        self.hand_up(to, &copy)
    }

    /// Frames that waited for a shard, as far as it takes them now.
    fn unpark(&mut self, now: Instant) -> Result<(), Broken> {
        for Shard { slab, port, parked, .. } in &mut self.shards {
            let Some(port) = port else { continue };
            while let Some(len) = parked.first_len().filter(|_| !port.starved) {
                let mut frame = Frame::default();
                if port.ahead >= AHEAD || !self.nic.pages(slab, &mut frame, len) {
                    port.starved = true;
                    break;
                }
                parked.unpark(slab, &mut frame, now);
                port.hand_up(&frame).map_err(broken(slab.shard))?;
            }
        }
        Ok(())
    }

    /// Transmit rings → device; true when the budget was used up.
    fn transmit(&mut self, now: Instant) -> Result<bool, TurnError> {
        for _ in 0..BUDGET {
            let again = self.refused.take();
            let was_refused = again.is_some();
            let next = match again {
                Some(frame) => Some(frame),
                None => self.next_to_send()?,
            };
            let Some((whose, frame)) = next else { return Ok(false) };
            let shard = &mut self.shards[usize::from(whose)];
            let features = self.nic.capabilities().features;
            if !was_refused && !sendable(&frame, self.mtu, features, &mut self.counts) {
                for piece in frame.pieces() {
                    if let Some(port) = &mut shard.port {
                        port.give(piece.page).map_err(broken(whose))?;
                    }
                }
                continue;
            }
            match self.nic.transmit(&shard.slab, &frame, now, &mut self.counts)? {
                Transmitted::Taken => {
                    if was_refused {
                        self.counts.count(Count::TxWoken);
                    }
                }
                Transmitted::Busy => {
                    if !was_refused {
                        self.counts.count(Count::TxStopped);
                    }
                    self.refused = Some((whose, frame));
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// The next frame of the shard that has sent least, of those that have one (start-time fair queueing:
    /// who was idle comes first once, and has no claim to what it did not send).
    fn next_to_send(&mut self) -> Result<Option<(u16, Frame)>, Broken> {
        let mut tried = 0u64;
        loop {
            let candidates = (0..self.shards()).filter(|shard| tried >> shard & 1 == 0);
            let Some(whose) = candidates.min_by_key(|shard| self.shards[usize::from(*shard)].sent) else {
                return Ok(None);
            };
            tried |= 1 << whose;
            let Shard { slab, port, sent, .. } = &mut self.shards[usize::from(whose)];
            let Some(port) = port else { continue };
            if let Some(frame) = port.next_frame(slab).map_err(broken(whose))? {
                self.sent = self.sent.max(*sent);
                *sent = self.sent + frame.len() as u64;
                return Ok(Some((whose, frame)));
            }
        }
    }

    /// Device → completion rings, and everything is published; the shards that must be woken.
    fn give_back(&mut self, now: Instant) -> Result<u64, Broken> {
        self.nic.flush(now, &mut self.counts);
        while let Some((whose, page)) = self.nic.complete() {
            if let Some(port) = &mut self.shards[usize::from(whose)].port {
                port.give(page).map_err(broken(whose))?;
            }
        }
        let mut wake = 0;
        for Shard { slab, port, .. } in &mut self.shards {
            let Some(port) = port else { continue };
            port.rings.transmit.release();
            let up = port.rings.receive.publish();
            let done = port.rings.completion.publish();
            wake |= u64::from(up || done) << slab.shard;
        }
        Ok(wake)
    }

    /// Asks everybody for a wake-up and looks again: true when there is nothing to do.
    ///
    /// # Errors
    /// [`Broken`] as [`Datapath::turn`].
    pub fn may_sleep(&mut self) -> Result<bool, Broken> {
        let takers = self.takers();
        let device = self.nic.may_sleep(takers);
        self.readable |= !device;
        if !self.is_attached() {
            return Ok(true);
        }
        let held_back = self.shards.iter().any(Shard::holds_back);
        let takes = takers != 0 && self.nic.next_in(takers) != Next::Nobody;
        let mut idle = true;
        for Shard { slab, port, .. } in &mut self.shards {
            let (Some(port), broken) = (port, broken(slab.shard)) else { continue };
            port.armed = true;
            idle = idle
                && (self.refused.is_some() || port.rings.transmit.arm().map_err(&broken)?)
                && (!(port.starved || self.nic.wants_pages(slab.shard))
                    || port.rings.fill.arm().map_err(&broken)?);
        }
        let idle = idle && !(self.readable && takes && !held_back);
        if idle {
            self.counts.count(Count::Sleeps);
        }
        Ok(idle)
    }

    /// Before sleeping: when the netd of `shard` is to be reported, because it has not taken anything of
    /// what is there for it. `None` when nothing is.
    ///
    /// # Errors
    /// [`Broken`] as [`Datapath::turn`].
    pub fn stuck_deadline(&mut self, shard: u16, now: Instant) -> Result<Option<Instant>, Broken> {
        let Some(port) = &mut self.shards[usize::from(shard)].port else { return Ok(None) };
        let since = port.observe(now).map_err(broken(shard))?;
        Ok(since.map(|since| since + STUCK_AFTER))
    }

    /// The netd of `shard` was reported: the next report is due after another while.
    pub fn stuck_reported(&mut self, shard: u16, now: Instant) {
        self.counts.count(Count::PeerStuck);
        if let Some(port) = &mut self.shards[usize::from(shard)].port {
            port.stood.1 = Some(now);
        }
    }
}

/// Copies a frame into the pages of another one, which is as long.
fn copy_frame<M: Memory>(source: &Slab<M>, frame: &Frame, target: &Slab<M>, copy: &Frame) {
    let mut pages = copy.pieces().iter().map(|piece| target.piece(piece));
    let (mut to, mut room) = (0, 0);
    for piece in frame.pieces() {
        let (mut from, mut len) = source.piece(piece);
        while len > 0 {
            if room == 0 {
                (to, room) = pages.next().expect("the copy is as long as the frame");
            }
            let part = len.min(room);
            source.memory.copy_to(from, &target.memory, to, part);
            (from, len, to, room) = (from + part, len - part, to + part, room - part);
        }
    }
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
