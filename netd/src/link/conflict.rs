//! IPv4 address conflict detection (RFC 5227): an address is looked for on the link before it is used, and defended
//! while it is.
//!
//! Owned by an interface, told of every ARP packet, driven by time; says what shall be done. An address that another
//! host has is not used, and looked for again after a while: it is an administrator's, nobody here may take another
//! one instead. For the same reason one that is in use is never given up (§2.4 (c)). Announcements are the neighbour
//! table's. Not here: looking again when a carrier comes back (§2.1).

use crate::wire::address::MacAddr;
use crate::wire::arp::ArpPacket;
use core::net::{IpAddr, Ipv4Addr};
use core::time::Duration;
use proto::Instant;
use proto::control::messages::Prefix;

/// RFC 5227 §1.1, PROBE_WAIT: the first probe waits for up to so long.
const PROBE_WAIT: Duration = Duration::from_secs(1);
/// PROBE_NUM.
const PROBES: u8 = 3;
/// PROBE_MIN and PROBE_MAX: between two probes.
const PROBE_MIN: Duration = Duration::from_secs(1);
const PROBE_MAX: Duration = Duration::from_secs(2);
/// ANNOUNCE_WAIT: after the last probe.
const ANNOUNCE_WAIT: Duration = Duration::from_secs(2);
/// RATE_LIMIT_INTERVAL: before an address that is taken is looked for again.
const RATE_LIMIT_INTERVAL: Duration = Duration::from_secs(60);
/// DEFEND_INTERVAL: an address is defended once in it.
const DEFEND_INTERVAL: Duration = Duration::from_secs(10);
/// Addresses of an interface that are looked for or defended at once, at most.
const ADDRESSES_MAX: usize = 64;

/// What shall be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Ask who has the address, from none of our own.
    Probe(Ipv4Addr),
    /// Nobody has it: it is ours now.
    Claim(Prefix),
    /// Somebody has it.
    Taken(Prefix),
    /// Say that it is ours.
    Defend(Ipv4Addr),
}

#[derive(Debug, Clone, Copy)]
struct Candidate {
    prefix: Prefix,
    addr: Ipv4Addr,
    /// Probes that are still to be sent.
    left: u8,
    due: Instant,
    /// Somebody has it; it is looked for again when that is due.
    rests: bool,
}

/// The addresses that are looked for, and those that were defended lately.
#[derive(Debug)]
pub struct Conflicts {
    mac: MacAddr,
    random: u32,
    candidates: Vec<Candidate>,
    defended: Vec<(Ipv4Addr, Instant)>,
}

impl Conflicts {
    /// Of the interface with that link address; `random` spreads its probes.
    pub fn new(mac: MacAddr, random: u32) -> Conflicts {
        let [.., a, b, c, d] = mac.0;
        let random = (random ^ u32::from_be_bytes([a, b, c, d])) | 1;
        Conflicts { mac, random, candidates: Vec::new(), defended: Vec::new() }
    }

    /// A time between two, in milliseconds.
    fn between(&mut self, least: Duration, most: Duration) -> Duration {
        // xorshift32: enough to keep hosts that begin together apart.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 17;
        self.random ^= self.random << 5;
        let span = (most - least).as_millis() as u32 + 1;
        least + Duration::from_millis(u64::from(self.random % span))
    }

    /// Looks for an address (§2.1.1). `false` when it is being looked for, is none of IPv4, or there is no room.
    pub fn look_for(&mut self, now: Instant, prefix: Prefix) -> bool {
        let IpAddr::V4(addr) = prefix.addr else { return false };
        if self.is_looked_for(addr) || self.candidates.len() >= ADDRESSES_MAX {
            return false;
        }
        let due = now + self.between(Duration::ZERO, PROBE_WAIT);
        self.candidates.push(Candidate { prefix, addr, left: PROBES, due, rests: false });
        true
    }

    /// Looks for an address no longer. Returns whether it did.
    pub fn forget(&mut self, prefix: Prefix) -> bool {
        let before = self.candidates.len();
        self.candidates.retain(|known| known.prefix != prefix);
        self.candidates.len() < before
    }

    /// Whether an address is being looked for.
    pub fn is_looked_for(&self, addr: Ipv4Addr) -> bool {
        self.candidates.iter().any(|known| known.addr == addr)
    }

    /// An ARP packet from the link; `is_ours` tells our own addresses.
    pub fn heard(
        &mut self,
        now: Instant,
        packet: &ArpPacket,
        is_ours: impl Fn(Ipv4Addr) -> bool,
        mut sink: impl FnMut(Act),
    ) {
        if packet.sender_mac == self.mac {
            return;
        }
        for known in self.candidates.iter_mut().filter(|known| !known.rests) {
            // §2.1.1: somebody speaks from the address, or looks for it too.
            let probed = packet.is_probe() && packet.target_ip == known.addr;
            if packet.sender_ip == known.addr || probed {
                (known.rests, known.due) = (true, now + RATE_LIMIT_INTERVAL);
                sink(Act::Taken(known.prefix));
            }
        }
        let addr = packet.sender_ip;
        if is_ours(addr) {
            // §2.4 (c): once in an interval; both sides would go on for ever.
            self.defended.retain(|(_, at)| now.since(*at) < DEFEND_INTERVAL);
            let defended = self.defended.iter().any(|(known, _)| *known == addr);
            if !defended && self.defended.len() < ADDRESSES_MAX {
                self.defended.push((addr, now));
                sink(Act::Defend(addr));
            }
        }
    }

    /// What is due is done.
    pub fn on_timer(&mut self, now: Instant, mut sink: impl FnMut(Act)) {
        while let Some(place) = self.candidates.iter().position(|known| known.due <= now) {
            let pause = self.between(PROBE_MIN, PROBE_MAX);
            let known = &mut self.candidates[place];
            if known.rests {
                (known.rests, known.left) = (false, PROBES);
            }
            match known.left {
                0 => {
                    sink(Act::Claim(known.prefix));
                    self.candidates.remove(place);
                }
                left => {
                    known.left = left - 1;
                    known.due = now + if left == 1 { ANNOUNCE_WAIT } else { pause };
                    sink(Act::Probe(known.addr));
                }
            }
        }
    }

    /// When [`Conflicts::on_timer`] has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.candidates.iter().map(|known| known.due).min()
    }
}

#[cfg(test)]
#[path = "conflict_tests.rs"]
mod tests;
