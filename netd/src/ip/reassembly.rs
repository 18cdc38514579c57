//! Fragments that wait for the rest of their packet: one room for both families (RFC 791 §3.2, RFC 8200
//! §4.5, RFC 815).
//!
//! Owned by the network layer, which has checked each fragment's own header. Invariants: a packet is made
//! of parts that touch and never overlap (RFC 5722 §4, applied to both families; what RFC 1858 and RFC 3128
//! warn of can't be said); the room is bounded in packets, in packets of one source, in pages and in time,
//! and the oldest goes first. The fragments' pages are kept by reference; a whole packet is copied once.
//! Each fragment that was kept and leads to nothing is counted as a drop of its own.
//!
//! Not here: what a fragment's header says, and errors to its sender.

use crate::counters::Counters;
use crate::link::HEADROOM;
use crate::wire::address::AddressPair;
use crate::wire::drop_reason::DropReason;
use crate::wire::ipv4::{Fragment, IpProtocol};
use core::time::Duration;
use proto::Instant;
use proto::nic::packet_buf::PacketBuf;
use proto::shm::Memory;

/// Packets in the making at most.
const PACKETS_MAX: usize = 64;
/// Of one source.
const PACKETS_PER_SOURCE_MAX: usize = 16;
/// Pages that fragments hold at most; a packet of 64 KiB in Ethernet frames takes 45.
const PAGES_MAX: usize = 256;
/// Parts of one packet at most: 65535 bytes in links of the smallest IPv4 MTU would be more, and are an
/// attack.
const PARTS_MAX: usize = 128;
/// RFC 8200 §4.5: 60 seconds from the first that came.
const LIFETIME_V6: Duration = Duration::from_secs(60);
/// Linux `ipfrag_time`, within what RFC 1122 §3.3.2 allows a busy host.
const LIFETIME_V4: Duration = Duration::from_secs(30);
/// The most bytes behind the IP header.
const PAYLOAD_MAX: u32 = 65535;

/// What the fragments of one packet have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Its ends.
    pub pair: AddressPair,
    /// What it carries, where that tells packets apart (IPv4); 0 in IPv6.
    pub protocol: IpProtocol,
    /// The number that the sender gave it.
    pub ident: u32,
    /// The interface it comes in by: pages of two interfaces do not mix.
    pub interface: u16,
}

/// The first fragment's headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// As they came, to be quoted.
    pub wire: Vec<u8>,
    /// Those of the whole packet; lengths and checksum are the caller's to fill in.
    pub whole: Vec<u8>,
}

#[derive(Debug)]
struct Part<M: Memory> {
    start: u32,
    end: u32,
    payload: PacketBuf<M>,
}

#[derive(Debug)]
struct Packet<M: Memory> {
    key: Key,
    until: Instant,
    /// In the order of their places; none when the packet was given up and the rest is to be dropped too.
    parts: Vec<Part<M>>,
    given_up: bool,
    head: Option<Head>,
    /// Where the payload ends, once the last fragment is here.
    end: Option<u32>,
}

/// Packets in the making.
#[derive(Debug)]
pub struct Reassembly<M: Memory> {
    /// The oldest first.
    packets: Vec<Packet<M>>,
    pages: usize,
}

impl<M: Memory> Default for Reassembly<M> {
    fn default() -> Self {
        Reassembly { packets: Vec::new(), pages: 0 }
    }
}

/// A packet that is whole again.
#[derive(Debug)]
pub struct Whole<M: Memory> {
    /// Its headers, from the first fragment.
    pub head: Vec<u8>,
    /// What follows them.
    pub payload: PacketBuf<M>,
}

/// A packet whose time is over and whose first fragment is here: its sender is told.
#[derive(Debug)]
pub struct Expired<M: Memory> {
    /// Its ends.
    pub pair: AddressPair,
    /// The first fragment as it came.
    pub first: PacketBuf<M>,
}

impl<M: Memory> Reassembly<M> {
    /// Takes a fragment in; returns the packet that it completes.
    ///
    /// # Errors
    /// The reason why this fragment was dropped; those that were kept before and go with it are counted
    /// already.
    pub fn take(
        &mut self,
        now: Instant,
        key: Key,
        part: Fragment,
        head: Option<Head>,
        payload: PacketBuf<M>,
        counters: &mut Counters,
    ) -> Result<Option<Whole<M>>, DropReason> {
        let (start, end) = (part.offset, part.offset + payload.len() as u32);
        if end > PAYLOAD_MAX {
            return Err(DropReason::FragInvalid);
        }
        let at = match self.packets.iter().position(|packet| packet.key == key) {
            Some(at) => at,
            None => self.begin(now, key, counters),
        };
        let packet = &mut self.packets[at];
        if packet.given_up {
            return Err(DropReason::FragOverlap);
        }
        let place = packet.parts.partition_point(|known| known.start < start);
        if packet.parts.get(place).is_some_and(|known| (known.start, known.end) == (start, end)) {
            // RFC 8200 §4.5: one that repeats another exactly may be ignored.
            return Err(DropReason::DupFrag);
        }
        let before = place.checked_sub(1).map_or(0, |before| packet.parts[before].end);
        let behind = packet.parts.get(place).map_or(u32::MAX, |known| known.start);
        let beyond = packet.end.is_some_and(|last| end > last || (!part.more && end != last));
        let short = !part.more && packet.parts.last().is_some_and(|last| last.end > end);
        if start < before || end > behind || beyond || short || (start == end && part.more) {
            self.give_up(at, DropReason::FragOverlap, counters);
            return Err(DropReason::FragOverlap);
        }
        if packet.parts.len() >= PARTS_MAX {
            self.give_up(at, DropReason::FragLimit, counters);
            return Err(DropReason::FragLimit);
        }
        if !part.more {
            packet.end = Some(end);
        }
        packet.head = packet.head.take().or(head);
        self.pages += payload.pages();
        packet.parts.insert(place, Part { start, end, payload });
        if packet.is_whole() {
            return self.finish(at, counters).map(Some);
        }
        self.make_room(counters);
        Ok(None)
    }

    /// A place for a new packet, behind all others.
    fn begin(&mut self, now: Instant, key: Key, counters: &mut Counters) -> usize {
        let same = |packet: &Packet<M>| packet.key.pair.src() == key.pair.src();
        if self.packets.iter().filter(|packet| same(packet)).count() >= PACKETS_PER_SOURCE_MAX {
            let oldest = self.packets.iter().position(same).expect("there are some");
            self.remove(oldest, DropReason::FragLimit, counters);
        } else if self.packets.len() >= PACKETS_MAX {
            self.remove(0, DropReason::FragLimit, counters);
        }
        let lifetime = if key.pair.src().is_ipv4() { LIFETIME_V4 } else { LIFETIME_V6 };
        let parts = Vec::new();
        let until = now + lifetime;
        self.packets.push(Packet { key, until, parts, given_up: false, head: None, end: None });
        self.packets.len() - 1
    }

    fn make_room(&mut self, counters: &mut Counters) {
        while self.pages > PAGES_MAX {
            let oldest = self.packets.iter().position(|packet| !packet.parts.is_empty());
            self.remove(oldest.expect("pages are held by parts"), DropReason::FragLimit, counters);
        }
    }

    /// Drops what is here of a packet; what is still to come is dropped too (RFC 5722 §4).
    fn give_up(&mut self, at: usize, reason: DropReason, counters: &mut Counters) {
        let packet = &mut self.packets[at];
        packet.given_up = true;
        for part in packet.parts.drain(..) {
            self.pages -= part.payload.pages();
            counters.drop(reason);
        }
    }

    fn remove(&mut self, at: usize, reason: DropReason, counters: &mut Counters) {
        self.give_up(at, reason, counters);
        self.packets.remove(at);
    }

    fn finish(&mut self, at: usize, counters: &mut Counters) -> Result<Whole<M>, DropReason> {
        let packet = self.packets.remove(at);
        let held: usize = packet.parts.iter().map(|part| part.payload.pages()).sum();
        self.pages -= held;
        let pool = packet.parts[0].payload.pool().clone();
        let len = packet.end.expect("a whole packet has an end") as usize;
        let built = PacketBuf::alloc(&pool, len, HEADROOM).and_then(|mut payload| {
            for part in &packet.parts {
                payload.write_from(part.start as usize, &part.payload, 0, part.payload.len())?;
            }
            Ok(payload)
        });
        let head = packet.head.expect("a whole packet has its first fragment").whole;
        built.map(|payload| Whole { head, payload }).map_err(|_| {
            // The last of them is counted by whoever brought it.
            (1..packet.parts.len()).for_each(|_| counters.drop(DropReason::NoMem));
            DropReason::NoMem
        })
    }

    /// When the time of some packet is over.
    pub fn next_deadline(&self) -> Option<Instant> {
        match self.packets.is_empty() {
            true => None,
            false => self.packets.iter().map(|packet| packet.until).min(),
        }
    }

    /// Drops a packet whose time is over; with its first fragment, where that is here.
    pub fn expire(&mut self, now: Instant, counters: &mut Counters) -> Option<Option<Expired<M>>> {
        let at = self.packets.iter().position(|packet| packet.until <= now)?;
        let mut packet = self.packets.remove(at);
        let mut first = None;
        for part in packet.parts.drain(..) {
            self.pages -= part.payload.pages();
            counters.drop(DropReason::FragReasmTimeout);
            if part.start == 0 {
                first = Some(part.payload);
            }
        }
        // RFC 8200 §4.5, RFC 1122 §3.3.2: only with the first fragment at hand.
        let (Some(mut first), Some(head)) = (first, packet.head) else { return Some(None) };
        let pushed = first.prepend(&head.wire);
        Some(pushed.ok().map(|()| Expired { pair: packet.key.pair, first }))
    }
}

impl<M: Memory> Packet<M> {
    /// Whether the parts touch from the first byte to the last.
    fn is_whole(&self) -> bool {
        let mut next = 0;
        self.head.is_some()
            && self.end.is_some()
            && self.parts.iter().all(|part| core::mem::replace(&mut next, part.end) == part.start)
            && self.end == Some(next)
    }
}

#[cfg(test)]
#[path = "reassembly_tests.rs"]
mod tests;
