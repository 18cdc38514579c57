//! Who on the link has which address: the neighbour table of one interface.
//!
//! Owned by the interface's half of the stack. Packets go in with their next hop and come back with a link
//! header, now or when the neighbour has answered; ARP packets and time go in; questions, packets and
//! failures come out as [`Effect`]s. The states are those of RFC 4861 §7.3.2, with Linux's times, for both
//! families (neighbour discovery enters through [`NeighbourTable::learn`], as ARP does).
//!
//! ```text
//!              output                answer
//!   (nothing) ───────▶ INCOMPLETE ───────────▶ REACHABLE ──30 s──▶ STALE
//!                        │ 3 × 1 s                 ▲                 │ output
//!                        ▼               answer or │                 ▼
//!                      FAILED ◀─3 × 1 s─ PROBE ◀─5 s, confirmed── DELAY
//! ```
//!
//! Invariants: at most `limit` entries and `pending` waiting packets; an entry in use (permanent,
//! reachable, being asked, or sent to within a minute) is never evicted, whatever strangers announce;
//! a stranger's announcement creates no entry and never touches a permanent one. A reachable neighbour
//! becomes stale by looking at it, so an idle table has no timer.
//!
//! Not here: addresses of our own, routes, multicast (their link address follows from the group).

use core::cell::Cell;
use core::net::{IpAddr, Ipv4Addr};
use core::time::Duration;
use proto::Instant;
use std::collections::HashMap;

use super::pending::{Pool, Queue};
use crate::keyed_hash::HashKey;
use crate::timer_wheel::TimerWheel;
use crate::wire::address::MacAddr;
use crate::wire::arp::{ArpOperation, ArpPacket};
use crate::wire::drop_reason::DropReason;
use crate::wire::ethernet::{EtherType, EthernetHeader, HEADER_LEN};

/// The base of the time that an answer counts: RFC 4861 §10 REACHABLE_TIME, Linux `base_reachable_time`.
const REACHABLE_TIME_BASE_MS: u64 = 30_000;
/// How long after use of a stale entry we wait for confirmation: RFC 4861 §10 DELAY_FIRST_PROBE_TIME.
const DELAY_FIRST_PROBE_TIME: Duration = Duration::from_secs(5);
/// Between two questions: RFC 4861 §10 RETRANS_TIMER, Linux `retrans_time`; RFC 1122 §2.3.2.1 asks for no
/// more than one per second and destination.
const RETRANS_TIME: Duration = Duration::from_secs(1);
/// Questions to everybody: RFC 4861 §10 MAX_MULTICAST_SOLICIT, Linux `mcast_solicit`.
const BROADCAST_SOLICIT_MAX: u8 = 3;
/// Questions to the neighbour itself: RFC 4861 §10 MAX_UNICAST_SOLICIT, Linux `ucast_solicit`.
const UNICAST_SOLICIT_MAX: u8 = 3;
/// Another link address is not believed so soon after the last one: Linux `locktime`.
const LOCK_TIME: Duration = Duration::from_secs(1);
/// An entry that nobody has sent to for so long is not in use: Linux `gc_stale_time`.
const UNUSED_AFTER: Duration = Duration::from_secs(60);
/// Entries looked at to find one to evict: bounds the work that a flood can cause per packet.
const EVICTION_LOOKS: usize = 32;
/// Neighbours that are found without a hash: those that packets go to all the time are few.
const HINTS: usize = 32;
/// A later confirmation is worth being shown after so long.
const SHOWN_AFTER: Duration = Duration::from_secs(1);
/// Announcements of an address: RFC 5227 §1.1 ANNOUNCE_NUM.
const ANNOUNCE_COUNT: u8 = 2;
/// Between them: RFC 5227 §1.1 ANNOUNCE_INTERVAL.
const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(2);

/// The link header of a frame to a neighbour, ready to be copied (Linux's hh_cache).
pub type LinkHeader = [u8; HEADER_LEN];

/// Sizes of a table.
#[derive(Debug, Clone, Copy)]
pub struct NeighbourLimits {
    /// Entries at most. At most half of them are unresolved at a time.
    pub entries: u32,
    /// Packets waiting at most, over all neighbours.
    pub pending: usize,
}

impl Default for NeighbourLimits {
    /// 1024 entries as Linux's `gc_thresh3`, and 1024 packets.
    fn default() -> Self {
        NeighbourLimits { entries: 1024, pending: 1024 }
    }
}

pub use proto::stats::neighbours::NeighbourState;

/// What became of a packet that was to go out.
#[derive(Debug, PartialEq, Eq)]
pub enum Output<P> {
    /// It may go, behind this header.
    Send(P, LinkHeader),
    /// It waits.
    Queued {
        /// Ask for the next hop now: broadcast.
        solicit: bool,
        /// A packet that had to go for it, under [`DropReason::NeighQueueFull`]: the queue's oldest.
        dropped: Option<P>,
    },
    /// No entry could be made: [`DropReason::NeighCreateFail`].
    Refused(P),
}

/// What the table wants done.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect<P> {
    /// Ask who has `target`, or whether it still has it, in a frame to `dst`.
    Solicit {
        /// The address in question.
        target: IpAddr,
        /// Everybody, or the neighbour itself.
        dst: MacAddr,
    },
    /// Tell everybody that this address is ours: RFC 5227 §2.3.
    Announce(Ipv4Addr),
    /// Send a packet that waited, behind this header.
    Send(P, LinkHeader),
    /// Drop a packet that waited. With [`DropReason::NeighFailed`] its sender is told that the host is
    /// unreachable (RFC 1122 §2.3.2.2, RFC 4861 §7.2.2).
    Drop {
        /// The packet.
        packet: P,
        /// Why.
        reason: DropReason,
    },
}

/// How we came to know a neighbour's link address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// It asked us for an address of ours, so it is about to be sent to. The only one that makes an entry.
    AskedUs,
    /// It answered us.
    Answered,
    /// It announced itself to everybody.
    Announced,
    /// It said so to somebody else.
    Overheard,
    /// Kept from before a restart; makes an entry.
    Restored,
}

/// What a neighbour advertisement says: RFC 4861 §7.2.5.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advertised {
    /// Whose address it speaks of.
    pub addr: IpAddr,
    /// The link address it names, if any.
    pub mac: Option<MacAddr>,
    /// It answers a question.
    pub solicited: bool,
    /// It replaces what was known.
    pub overrides: bool,
}

/// One row of the table as it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbour {
    /// Its address.
    pub addr: IpAddr,
    /// Its link address, where known.
    pub mac: Option<MacAddr>,
    /// Its state.
    pub state: NeighbourState,
    /// Packets that wait for it.
    pub pending: usize,
    /// We have sent to it.
    pub used: bool,
    /// When it was last known to be reachable.
    pub confirmed: Instant,
}

#[derive(Debug)]
struct Entry {
    addr: IpAddr,
    state: NeighbourState,
    /// Questions asked in this state.
    asked: u8,
    mac: MacAddr,
    header: LinkHeader,
    /// When the link address was last set or confirmed.
    updated: Instant,
    /// When it was last known to be reachable.
    confirmed: Instant,
    /// When we last sent to it.
    used: Option<Instant>,
    queue: Queue,
}

/// The neighbours on one interface's link; `P` is a packet that can wait.
#[derive(Debug)]
pub struct NeighbourTable<P> {
    mac: MacAddr,
    limits: NeighbourLimits,
    reachable_time: Duration,
    /// By handle; `None` is free.
    entries: Vec<Option<Entry>>,
    free: Vec<u32>,
    by_addr: HashMap<IpAddr, u32, HashKey>,
    /// Handles that were found lately, by the end of their address; each is checked against its entry.
    hints: [Cell<u32>; HINTS],
    unresolved: u32,
    pool: Pool<P>,
    /// Handles below `limits.entries` are entries, those above announcements.
    wheel: TimerWheel,
    announcing: Vec<(Ipv4Addr, u8)>,
    /// Where the next search for an entry to evict begins.
    hand: usize,
    /// Something changed since [`NeighbourTable::take_changed`].
    changed: bool,
    /// When that was called last.
    taken: Instant,
}

impl<P> NeighbourTable<P> {
    /// An empty table for the interface with the link address `mac`. `random` spreads the reachable time
    /// as RFC 4861 §6.3.2 wants it; `key` keeps the hash from being guessed.
    pub fn new(
        mac: MacAddr,
        limits: NeighbourLimits,
        key: HashKey,
        random: u32,
        now: Instant,
    ) -> NeighbourTable<P> {
        let entries = limits.entries as usize;
        let mut wheel = TimerWheel::new(now);
        wheel.reserve(limits.entries);
        // RFC 4861 §10: MIN_RANDOM_FACTOR 0.5, MAX_RANDOM_FACTOR 1.5.
        let reachable_ms = REACHABLE_TIME_BASE_MS / 2 + u64::from(random) % (REACHABLE_TIME_BASE_MS + 1);
        NeighbourTable {
            mac,
            limits,
            reachable_time: Duration::from_millis(reachable_ms),
            entries: Vec::with_capacity(entries),
            free: Vec::with_capacity(entries),
            by_addr: HashMap::with_capacity_and_hasher(entries, key),
            hints: [const { Cell::new(0) }; HINTS],
            unresolved: 0,
            pool: Pool::new(limits.pending),
            wheel,
            announcing: Vec::new(),
            hand: 0,
            changed: true,
            taken: now,
        }
    }

    /// A router says how long an answer counts (RFC 4861 §6.3.4).
    pub const fn set_reachable_time(&mut self, time: Duration) {
        self.reachable_time = time;
    }

    /// The entry of an address.
    fn find(&self, addr: IpAddr) -> Option<u32> {
        let end = match addr {
            IpAddr::V4(addr) => addr.octets()[3],
            IpAddr::V6(addr) => addr.octets()[15],
        };
        let hint = &self.hints[usize::from(end) % HINTS];
        let hinted = hint.get();
        if self.entries.get(hinted as usize).is_some_and(|e| e.as_ref().is_some_and(|e| e.addr == addr)) {
            return Some(hinted);
        }
        let handle = *self.by_addr.get(&addr)?;
        hint.set(handle);
        Some(handle)
    }

    /// A packet for `next_hop`, an address on this link.
    pub fn output(&mut self, now: Instant, next_hop: IpAddr, packet: P) -> Output<P> {
        let handle = match self.find(next_hop) {
            Some(handle) => handle,
            // A flood towards addresses that nobody has must leave room for those that somebody has.
            None if self.unresolved_full() => return Output::Refused(packet),
            None => match self.create(now, next_hop, true) {
                Some(handle) => handle,
                None => return Output::Refused(packet),
            },
        };
        let reachable_time = self.reachable_time;
        let entry = self.entry(handle);
        match entry.state_at(now, reachable_time) {
            NeighbourState::Permanent
            | NeighbourState::Reachable
            | NeighbourState::Delay
            | NeighbourState::Probe => {
                entry.used = Some(now);
                Output::Send(packet, entry.header)
            }
            // RFC 4861 §7.3.3: the first packet to a stale neighbour goes out, and the delay begins.
            NeighbourState::Stale => {
                entry.used = Some(now);
                let header = entry.header;
                self.set_state(handle, NeighbourState::Delay);
                self.wheel.arm(handle, now + DELAY_FIRST_PROBE_TIME);
                Output::Send(packet, header)
            }
            NeighbourState::Failed => {
                if self.unresolved_full() {
                    return Output::Refused(packet);
                }
                self.set_state(handle, NeighbourState::Incomplete);
                self.begin_asking(now, handle, packet)
            }
            NeighbourState::Incomplete if entry.asked == 0 => self.begin_asking(now, handle, packet),
            NeighbourState::Incomplete => {
                Output::Queued { solicit: false, dropped: self.queue(handle, packet) }
            }
        }
    }

    fn begin_asking(&mut self, now: Instant, handle: u32, packet: P) -> Output<P> {
        self.entry(handle).asked = 1;
        self.wheel.arm(handle, now + RETRANS_TIME);
        Output::Queued { solicit: true, dropped: self.queue(handle, packet) }
    }

    fn queue(&mut self, handle: u32, packet: P) -> Option<P> {
        let entry = self.entries[handle as usize].as_mut().expect("a handle in use has an entry");
        self.pool.push(&mut entry.queue, packet)
    }

    /// Whether packets for `next_hop` would have to wait in the queue of a neighbour that was asked
    /// already. A sender that can wait itself does, and loses nothing to the queue's limit.
    pub fn is_awaited(&self, next_hop: IpAddr) -> bool {
        let entry = self.find(next_hop).and_then(|handle| self.entries[handle as usize].as_ref());
        entry.is_some_and(|entry| entry.state == NeighbourState::Incomplete && entry.asked > 0)
    }

    /// An ARP packet from the wire; `is_ours` tells our own addresses on this link, `to_us` whether its
    /// frame was sent to this station alone. Returns the answer to send.
    ///
    /// # Errors
    /// [`DropReason::ArpNotForUs`] when it changes nothing, [`DropReason::ArpConflict`] when a stranger
    /// claims an address of ours.
    pub fn receive_arp(
        &mut self,
        now: Instant,
        packet: &ArpPacket,
        to_us: bool,
        is_ours: impl Fn(Ipv4Addr) -> bool,
        sink: impl FnMut(Effect<P>),
    ) -> Result<Option<ArpPacket>, DropReason> {
        if packet.sender_mac == self.mac {
            return Err(DropReason::ArpNotForUs);
        }
        // RFC 5227 §2.4: somebody else says that it has our address.
        if is_ours(packet.sender_ip) {
            return Err(DropReason::ArpConflict);
        }
        let sender = IpAddr::V4(packet.sender_ip);
        if packet.operation == ArpOperation::Request && is_ours(packet.target_ip) {
            // RFC 5227 §2.1.1: a probe is answered, but its sender has no address to learn.
            if !packet.is_probe() {
                self.learn(now, sender, packet.sender_mac, Evidence::AskedUs, sink);
            }
            return Ok(Some(packet.reply(self.mac)));
        }
        let evidence = if packet.is_gratuitous() {
            Evidence::Announced
        } else if packet.operation == ArpOperation::Reply && to_us {
            Evidence::Answered
        } else {
            Evidence::Overheard
        };
        // RFC 826: "merge flag", an existing entry is brought up to date.
        match self.learn(now, sender, packet.sender_mac, evidence, sink) {
            true => Ok(None),
            false => Err(DropReason::ArpNotForUs),
        }
    }

    /// `addr` is at `mac`: brings its entry up to date, makes one where the evidence allows that, and hands
    /// out the packets that waited. Returns whether the table took it in.
    pub fn learn(
        &mut self,
        now: Instant,
        addr: IpAddr,
        mac: MacAddr,
        evidence: Evidence,
        mut sink: impl FnMut(Effect<P>),
    ) -> bool {
        if !mac.is_unicast() {
            return false;
        }
        let handle = match self.by_addr.get(&addr) {
            Some(handle) => *handle,
            None if matches!(evidence, Evidence::AskedUs | Evidence::Restored) => {
                match self.create(now, addr, false) {
                    Some(handle) => handle,
                    None => return false,
                }
            }
            None => return false,
        };
        let reachable_time = self.reachable_time;
        let our_mac = self.mac;
        let entry = self.entry(handle);
        let old = entry.state_at(now, reachable_time);
        if old == NeighbourState::Permanent {
            return false;
        }
        let moved = old.has_mac() && entry.mac != mac;
        let locked = now < entry.updated + LOCK_TIME;
        if moved && locked && !matches!(evidence, Evidence::AskedUs | Evidence::Announced) {
            return false;
        }
        let new = match evidence {
            Evidence::Answered => NeighbourState::Reachable,
            _ if old.has_mac() && !moved => old,
            _ => NeighbourState::Stale,
        };
        if !old.has_mac() || moved {
            entry.mac = mac;
            entry.header = link_header(our_mac, mac, addr);
            self.changed = true;
        }
        let entry = self.entry(handle);
        entry.updated = now;
        if new == NeighbourState::Reachable && evidence == Evidence::Answered {
            entry.confirmed = now;
        }
        if new != old || new == NeighbourState::Reachable {
            self.wheel.cancel(handle);
        }
        self.set_state(handle, new);
        self.release(now, handle, &mut sink);
        true
    }

    /// A neighbour advertisement: RFC 4861 §7.2.5. Returns whether the table took it in; a stranger's makes
    /// no entry.
    pub fn advertised(&mut self, now: Instant, said: &Advertised, mut sink: impl FnMut(Effect<P>)) -> bool {
        let Some(handle) = self.by_addr.get(&said.addr).copied() else { return false };
        let (reachable_time, our_mac) = (self.reachable_time, self.mac);
        let entry = self.entry(handle);
        let old = entry.state_at(now, reachable_time);
        if old == NeighbourState::Permanent || said.mac.is_some_and(|mac| !mac.is_unicast()) {
            return false;
        }
        let mac = match (said.mac, old.has_mac()) {
            (Some(mac), _) => mac,
            (None, true) => entry.mac,
            // Without a link address it says nothing to somebody who knows none.
            (None, false) => return false,
        };
        let moved = old.has_mac() && mac != entry.mac;
        if moved && !said.overrides {
            // It does not replace the address, and makes us doubt it.
            if old == NeighbourState::Reachable {
                self.set_state(handle, NeighbourState::Stale);
            }
            return true;
        }
        if !old.has_mac() || moved {
            entry.mac = mac;
            entry.header = link_header(our_mac, mac, said.addr);
            self.changed = true;
        }
        let entry = self.entry(handle);
        entry.updated = now;
        let new = match (said.solicited, old.has_mac() && !moved) {
            (true, _) => {
                entry.confirmed = now;
                NeighbourState::Reachable
            }
            (false, true) => old,
            (false, false) => NeighbourState::Stale,
        };
        if new != old || new == NeighbourState::Reachable {
            self.wheel.cancel(handle);
        }
        self.set_state(handle, new);
        self.release(now, handle, &mut sink);
        true
    }

    /// Hands out what waited for an entry that now has a link address.
    fn release(&mut self, now: Instant, handle: u32, sink: &mut impl FnMut(Effect<P>)) {
        let entry = self.entries[handle as usize].as_mut().expect("a handle in use has an entry");
        if entry.queue.is_empty() {
            return;
        }
        entry.used = Some(now);
        while let Some(packet) = self.pool.pop(&mut entry.queue) {
            sink(Effect::Send(packet, entry.header));
        }
        // As with any first packet to a stale neighbour.
        if entry.state == NeighbourState::Stale {
            self.set_state(handle, NeighbourState::Delay);
            self.wheel.arm(handle, now + DELAY_FIRST_PROBE_TIME);
        }
    }

    /// The layer above has heard from `addr` an answer to what it sent: RFC 4861 §7.3.1, a hint that the
    /// neighbour is reachable.
    pub fn confirm(&mut self, now: Instant, addr: IpAddr) {
        let Some(handle) = self.find(addr) else { return };
        let entry = self.entry(handle);
        if entry.state.has_mac() && entry.state != NeighbourState::Permanent {
            entry.confirmed = now;
            self.wheel.cancel(handle);
            self.set_state(handle, NeighbourState::Reachable);
            self.changed |= now.since(self.taken) >= SHOWN_AFTER;
        }
    }

    /// Whether what is shown has changed since the last call.
    pub fn take_changed(&mut self, now: Instant) -> bool {
        let changed = core::mem::take(&mut self.changed);
        if changed {
            self.taken = now;
        }
        changed
    }

    /// How long an answer counts.
    pub const fn reachable_time(&self) -> Duration {
        self.reachable_time
    }

    /// When [`on_timer`](NeighbourTable::on_timer) has something to do; `None` while nobody is asked.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.wheel.next_deadline()
    }

    /// Asks again, or gives up, where it is time to.
    pub fn on_timer(&mut self, now: Instant, mut sink: impl FnMut(Effect<P>)) {
        while let Some(handle) = self.wheel.pop(now) {
            if handle >= self.limits.entries {
                self.announce_again(now, handle, &mut sink);
                continue;
            }
            let entry = self.entry(handle);
            let (dst, asked_max) = match entry.state {
                NeighbourState::Incomplete => (MacAddr::BROADCAST, BROADCAST_SOLICIT_MAX),
                NeighbourState::Delay | NeighbourState::Probe => (entry.mac, UNICAST_SOLICIT_MAX),
                state => unreachable!("no timer runs in state {}", state.name()),
            };
            if entry.state == NeighbourState::Delay {
                entry.asked = 0;
            }
            if entry.asked < asked_max {
                entry.asked += 1;
                let target = entry.addr;
                if entry.state == NeighbourState::Delay {
                    self.set_state(handle, NeighbourState::Probe);
                }
                self.wheel.arm(handle, now + RETRANS_TIME);
                sink(Effect::Solicit { target, dst });
            } else {
                self.set_state(handle, NeighbourState::Failed);
                self.drop_pending(handle, DropReason::NeighFailed, &mut sink);
            }
        }
    }

    /// What was on its way is lost: every question that no answer has come to is asked once more, beside
    /// those that follow by the clock.
    pub fn ask_again(&self, mut sink: impl FnMut(Effect<P>)) {
        for entry in self.entries.iter().flatten() {
            let dst = match entry.state {
                NeighbourState::Incomplete if entry.asked > 0 => MacAddr::BROADCAST,
                NeighbourState::Probe => entry.mac,
                _ => continue,
            };
            sink(Effect::Solicit { target: entry.addr, dst });
        }
    }

    /// Tells the link that `addr` is ours, from the next [`on_timer`](NeighbourTable::on_timer) on: twice,
    /// two seconds apart (RFC 5227 §2.3).
    pub fn announce(&mut self, now: Instant, addr: Ipv4Addr) {
        let place = match self.announcing.iter().position(|(known, left)| *known == addr || *left == 0) {
            Some(place) => place,
            None => {
                self.announcing.push((addr, 0));
                self.announcing.len() - 1
            }
        };
        self.announcing[place] = (addr, ANNOUNCE_COUNT);
        self.wheel.arm(self.limits.entries + place as u32, now);
    }

    fn announce_again(&mut self, now: Instant, handle: u32, sink: &mut impl FnMut(Effect<P>)) {
        let (addr, left) = &mut self.announcing[(handle - self.limits.entries) as usize];
        *left -= 1;
        if *left > 0 {
            self.wheel.arm(handle, now + ANNOUNCE_INTERVAL);
        }
        sink(Effect::Announce(*addr));
    }

    /// Sets an entry that nothing on the wire changes. Returns false when there is no room for it.
    pub fn set_permanent(
        &mut self,
        now: Instant,
        addr: IpAddr,
        mac: MacAddr,
        mut sink: impl FnMut(Effect<P>),
    ) -> bool {
        let known = self.by_addr.get(&addr).copied();
        let Some(handle) = known.or_else(|| self.create(now, addr, true)) else { return false };
        self.wheel.cancel(handle);
        let header = link_header(self.mac, mac, addr);
        let entry = self.entry(handle);
        (entry.mac, entry.header, entry.updated, entry.confirmed) = (mac, header, now, now);
        self.set_state(handle, NeighbourState::Permanent);
        self.release(now, handle, &mut sink);
        true
    }

    /// Removes an entry, permanent or not; what waited for it is dropped under [`DropReason::NeighDead`].
    /// Returns whether there was one.
    pub fn remove(&mut self, addr: IpAddr, mut sink: impl FnMut(Effect<P>)) -> bool {
        let Some(handle) = self.by_addr.get(&addr).copied() else { return false };
        self.drop_pending(handle, DropReason::NeighDead, &mut sink);
        self.free(handle);
        true
    }

    /// Removes all entries that are not permanent: the link went down.
    pub fn flush(&mut self, mut sink: impl FnMut(Effect<P>)) {
        for handle in 0..self.entries.len() as u32 {
            match &self.entries[handle as usize] {
                Some(entry) if entry.state != NeighbourState::Permanent => {}
                _ => continue,
            }
            self.drop_pending(handle, DropReason::NeighDead, &mut sink);
            self.free(handle);
        }
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.by_addr.len()
    }

    /// True when there is no entry.
    pub fn is_empty(&self) -> bool {
        self.by_addr.is_empty()
    }

    /// One entry as it stands at `now`.
    pub fn get(&self, now: Instant, addr: IpAddr) -> Option<Neighbour> {
        let handle = *self.by_addr.get(&addr)?;
        self.entries[handle as usize].as_ref().map(|entry| self.shown(now, entry))
    }

    /// The entries as they stand at `now`, in no order.
    pub fn list(&self, now: Instant) -> impl Iterator<Item = Neighbour> {
        self.entries.iter().flatten().map(move |entry| self.shown(now, entry))
    }

    fn shown(&self, now: Instant, entry: &Entry) -> Neighbour {
        Neighbour {
            addr: entry.addr,
            mac: entry.state.has_mac().then_some(entry.mac),
            state: entry.state_at(now, self.reachable_time),
            pending: entry.queue.len(),
            used: entry.used.is_some(),
            confirmed: entry.confirmed,
        }
    }

    fn entry(&mut self, handle: u32) -> &mut Entry {
        self.entries[handle as usize].as_mut().expect("a handle in use has an entry")
    }

    /// The one place where a state changes, so that unresolved entries are counted right.
    fn set_state(&mut self, handle: u32, state: NeighbourState) {
        let was = core::mem::replace(&mut self.entry(handle).state, state);
        self.changed |= was != state;
        self.unresolved += u32::from(state == NeighbourState::Incomplete);
        self.unresolved -= u32::from(was == NeighbourState::Incomplete);
    }

    /// Whether half of the table is waiting for answers.
    const fn unresolved_full(&self) -> bool {
        self.unresolved >= self.limits.entries.div_ceil(2)
    }

    /// A new entry without a link address; for a packet of our own, or because a stranger asked us.
    fn create(&mut self, now: Instant, addr: IpAddr, for_us: bool) -> Option<u32> {
        if self.free.is_empty() && self.entries.len() >= self.limits.entries as usize {
            let evicted = self.find_evictable(now, for_us)?;
            self.free(evicted);
        }
        let entry = Entry {
            addr,
            state: NeighbourState::Incomplete,
            asked: 0,
            mac: MacAddr::ZERO,
            header: [0; HEADER_LEN],
            updated: now,
            confirmed: now,
            used: None,
            queue: Queue::EMPTY,
        };
        self.unresolved += 1;
        let handle = match self.free.pop() {
            Some(handle) => {
                self.entries[handle as usize] = Some(entry);
                handle
            }
            None => {
                self.entries.push(Some(entry));
                (self.entries.len() - 1) as u32
            }
        };
        self.by_addr.insert(addr, handle);
        self.changed = true;
        Some(handle)
    }

    /// An entry that is not in use, among the next few.
    fn find_evictable(&mut self, now: Instant, for_us: bool) -> Option<u32> {
        for _ in 0..EVICTION_LOOKS.min(self.entries.len()) {
            self.hand = (self.hand + 1) % self.entries.len();
            let Some(entry) = &self.entries[self.hand] else { continue };
            let unused = match (entry.state_at(now, self.reachable_time), entry.used) {
                (NeighbourState::Failed, _) | (NeighbourState::Stale, None) => true,
                // What we ourselves have used makes room for our own needs only.
                (NeighbourState::Stale, Some(used)) => for_us && now.since(used) >= UNUSED_AFTER,
                _ => false,
            };
            if unused {
                return Some(self.hand as u32);
            }
        }
        None
    }

    fn drop_pending(&mut self, handle: u32, reason: DropReason, sink: &mut impl FnMut(Effect<P>)) {
        let entry = self.entries[handle as usize].as_mut().expect("a handle in use has an entry");
        while let Some(packet) = self.pool.pop(&mut entry.queue) {
            sink(Effect::Drop { packet, reason });
        }
    }

    fn free(&mut self, handle: u32) {
        self.wheel.cancel(handle);
        let entry = self.entries[handle as usize].take().expect("a handle in use has an entry");
        assert!(entry.queue.is_empty(), "a removed entry's packets were handed back");
        self.unresolved -= u32::from(entry.state == NeighbourState::Incomplete);
        self.by_addr.remove(&entry.addr);
        self.free.push(handle);
        self.changed = true;
    }
}

impl Entry {
    /// The state with the passing of time looked at: RFC 4861 §7.3.3, reachable becomes stale.
    fn state_at(&self, now: Instant, reachable_time: Duration) -> NeighbourState {
        match self.state {
            NeighbourState::Reachable if now.since(self.confirmed) >= reachable_time => NeighbourState::Stale,
            state => state,
        }
    }
}

fn link_header(src: MacAddr, dst: MacAddr, addr: IpAddr) -> LinkHeader {
    EthernetHeader { dst, src, ethertype: EtherType::of_ip(addr) }.to_bytes()
}

#[cfg(test)]
#[path = "neighbour_tests.rs"]
mod tests;
