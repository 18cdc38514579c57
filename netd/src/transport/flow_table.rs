//! From the two ends of a connection to its record.
//!
//! Owned by the stack, asked for every TCP segment. Open addressing with linear probing over 8-byte
//! slots; the ends themselves stand beside it, indexed by record, since a record has one pair of ends.
//!
//! ```text
//!  slots: | tag 32 | record+1 32 | …            (0: empty)
//!  ends:  [chunk of 1024] [chunk of 1024] …     (by record)
//! ```
//!
//! Invariants: a record is under one key only; at most 7/8 of the slots are taken, so that every probe
//! ends; the hash is keyed with a secret, so that a remote can't choose who collides. Growth never moves
//! everything at once: the old slots are carried over a few with each change (and with
//! [`FlowTable::maintain`], which also starts a growth before the packet path would have to).
//!
//! Not here: what a record holds, listeners, and whether a 4-tuple may be used.

use core::hash::Hasher;
use core::net::{IpAddr, Ipv4Addr};

pub use crate::keyed_hash::HashKey;
use crate::wire::address::AddressPair;

/// The two ends of a connection as this host sees them: `src` of the pair is our own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Our address and the remote's.
    pub addresses: AddressPair,
    /// Our port.
    pub local_port: u16,
    /// The remote's port.
    pub remote_port: u16,
}

impl FlowKey {
    /// What stands in places that are not in use.
    const UNUSED: FlowKey = FlowKey {
        addresses: AddressPair::V4 { src: Ipv4Addr::UNSPECIFIED, dst: Ipv4Addr::UNSPECIFIED },
        local_port: 0,
        remote_port: 0,
    };

    /// The key of a packet that came from the wire.
    pub const fn of_received(pair: &AddressPair, src_port: u16, dst_port: u16) -> FlowKey {
        FlowKey { addresses: pair.reversed(), local_port: dst_port, remote_port: src_port }
    }

    /// Our address.
    pub const fn local_addr(&self) -> IpAddr {
        self.addresses.src()
    }

    /// The remote's address.
    pub const fn remote_addr(&self) -> IpAddr {
        self.addresses.dst()
    }

    /// SipHash of the ends under `key`.
    fn hash(&self, key: &HashKey) -> u64 {
        let mut hasher = key.hasher();
        match self.addresses {
            AddressPair::V4 { src, dst } => {
                hasher.write_u64(u64::from(src.to_bits()) << 32 | u64::from(dst.to_bits()));
            }
            AddressPair::V6 { src, dst } => {
                hasher.write(&src.octets());
                hasher.write(&dst.octets());
            }
        }
        hasher.write_u32(u32::from(self.local_port) << 16 | u32::from(self.remote_port));
        hasher.finish()
    }
}

/// Why a flow was not entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InsertError {
    /// Another record has these ends.
    #[error("the 4-tuple is in use")]
    InUse,
    /// The record lies beyond the limit the table was made with.
    #[error("the flow table is full")]
    Full,
}

/// Records per chunk of [`FlowTable::ends`]: 40 KiB at a time, an allocation without a stall.
const CHUNK: usize = 1024;
/// The smallest table of slots.
const SLOTS_MIN: usize = 64;
/// Old slots looked at with each insertion or removal. A table doubles when it is 7/8 full, so the new
/// one takes another 7/8 of the old length before it is full itself: more than one a change suffices.
const CARRY_PER_CHANGE: usize = 4;

/// The flows of one shard.
#[derive(Debug)]
pub struct FlowTable {
    key: HashKey,
    limit: u32,
    len: usize,
    slots: Slots,
    /// A table being carried over into `slots`, and the next of its places to look at.
    old: Option<(Slots, usize)>,
    ends: Vec<Box<[FlowKey; CHUNK]>>,
}

impl FlowTable {
    /// An empty table for records below `limit`, hashed under `key`.
    ///
    /// # Panics
    /// When `limit` is beyond 2^31.
    pub fn new(key: HashKey, limit: u32) -> FlowTable {
        assert!(limit <= 1 << 31, "a record and a slot fit 32 bits");
        FlowTable { key, limit, len: 0, slots: Slots::new(SLOTS_MIN), old: None, ends: Vec::new() }
    }

    /// How many flows there are.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// True when there is no flow.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The record of a flow.
    pub fn get(&self, flow: &FlowKey) -> Option<u32> {
        self.get_tagged(Tag::of(flow.hash(&self.key)), flow)
    }

    fn get_tagged(&self, tag: Tag, flow: &FlowKey) -> Option<u32> {
        let found = self.slots.find(tag, |record| self.ends_of(record) == flow);
        let found = found.map(|place| self.slots.record(place));
        found.or_else(|| {
            let (old, _) = self.old.as_ref()?;
            old.find(tag, |record| self.ends_of(record) == flow).map(|place| old.record(place))
        })
    }

    /// Enters a flow.
    ///
    /// # Errors
    /// [`InsertError`]; nothing has changed then.
    ///
    /// # Panics
    /// When `record` is under another key already, which is not always noticed.
    pub fn insert(&mut self, flow: FlowKey, record: u32) -> Result<(), InsertError> {
        let tag = Tag::of(flow.hash(&self.key));
        if self.get_tagged(tag, &flow).is_some() {
            return Err(InsertError::InUse);
        }
        if record >= self.limit {
            return Err(InsertError::Full);
        }
        self.carry(CARRY_PER_CHANGE);
        if self.len >= self.slots.full_at() {
            self.grow();
        }
        let (chunk, place) = (record as usize / CHUNK, record as usize % CHUNK);
        self.reserve(record + 1);
        let ends = &mut self.ends[chunk][place];
        assert!(*ends == FlowKey::UNUSED, "a record has one pair of ends");
        *ends = flow;
        self.slots.put(tag, record);
        self.len += 1;
        Ok(())
    }

    /// Takes a flow out and returns its record.
    pub fn remove(&mut self, flow: &FlowKey) -> Option<u32> {
        let tag = Tag::of(flow.hash(&self.key));
        let ends = &self.ends;
        let same = |record: u32| ends[record as usize / CHUNK][record as usize % CHUNK] == *flow;
        let slots = match (self.slots.find(tag, same), self.old.as_mut()) {
            (Some(place), _) => Some((&mut self.slots, place)),
            (None, Some((old, _))) => old.find(tag, same).map(|place| (old, place)),
            (None, None) => None,
        };
        let (slots, place) = slots?;
        let record = slots.record(place);
        slots.take(place);
        self.ends[record as usize / CHUNK][record as usize % CHUNK] = FlowKey::UNUSED;
        self.len -= 1;
        self.carry(CARRY_PER_CHANGE);
        Some(record)
    }

    /// Takes out whatever flow a record has, if it has one.
    pub fn remove_record(&mut self, record: u32) {
        let ends = self.ends.get(record as usize / CHUNK).map(|chunk| chunk[record as usize % CHUNK]);
        if let Some(flow) = ends.filter(|ends| *ends != FlowKey::UNUSED)
            && self.get(&flow) == Some(record)
        {
            self.remove(&flow);
        }
    }

    /// Makes room for the ends of the records below `records`.
    pub fn reserve(&mut self, records: u32) {
        while self.ends.len() * CHUNK < records as usize {
            self.ends.push(Box::new([FlowKey::UNUSED; CHUNK]));
        }
    }

    /// Makes an empty table large enough for `flows` at once, so that they are entered without growth.
    ///
    /// # Panics
    /// When the table is not empty.
    pub fn expect(&mut self, flows: usize) {
        assert!(self.is_empty() && self.old.is_none(), "only an empty table is made anew");
        let slots = (flows.saturating_mul(8) / 7 + 1).next_power_of_two().max(SLOTS_MIN);
        self.slots = Slots::new(slots);
    }

    /// Work that would otherwise fall on the packet path: carries over up to `slots` old slots, and starts
    /// the next growth when the table is three quarters of the way to it. Returns whether there is more
    /// to do; to be called when the shard is idle.
    pub fn maintain(&mut self, slots: usize) -> bool {
        if self.old.is_none() && self.len >= self.slots.full_at() / 4 * 3 {
            self.grow();
        }
        self.carry(slots);
        self.old.is_some()
    }

    fn ends_of(&self, record: u32) -> &FlowKey {
        &self.ends[record as usize / CHUNK][record as usize % CHUNK]
    }

    /// Doubles the slots. The new ones are zero pages that nobody has touched yet.
    fn grow(&mut self) {
        // The carrying of the previous growth is through by then, see CARRY_PER_CHANGE; if a change of
        // that figure made it late, it is finished here.
        self.carry(usize::MAX);
        let doubled = Slots::new(self.slots.words.len() * 2);
        self.old = Some((core::mem::replace(&mut self.slots, doubled), 0));
    }

    /// Looks at up to `budget` places of the old slots and carries their flows over.
    fn carry(&mut self, budget: usize) {
        let Some((old, next)) = self.old.as_mut() else { return };
        for _ in 0..budget {
            let Some(&word) = old.words.get(*next) else {
                self.old = None;
                return;
            };
            if word == 0 {
                *next += 1;
            } else {
                // Taking it may move another one here, which is then the next to be looked at.
                old.take(*next);
                self.slots.put(Tag((word >> 32) as u32), record_of(word));
            }
        }
        if *next == old.words.len() {
            self.old = None;
        }
    }
}

/// The part of a hash that a slot keeps: its low bits are the place where a probe begins.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Tag(u32);

impl Tag {
    const fn of(hash: u64) -> Tag {
        Tag((hash ^ (hash >> 32)) as u32)
    }
}

const fn record_of(word: u64) -> u32 {
    (word as u32) - 1
}

/// Slots with linear probing and no tombstones: a removal closes the gap.
#[derive(Debug)]
struct Slots {
    words: Vec<u64>,
}

impl Slots {
    /// `len` empty slots, a power of two.
    fn new(len: usize) -> Slots {
        assert!(len.is_power_of_two() && len <= 1 << 32);
        Slots { words: vec![0; len] }
    }

    fn full_at(&self) -> usize {
        self.words.len() / 8 * 7
    }

    fn mask(&self) -> usize {
        self.words.len() - 1
    }

    fn record(&self, place: usize) -> u32 {
        record_of(self.words[place])
    }

    /// The place of the record with this tag for which `same` holds.
    fn find(&self, tag: Tag, same: impl Fn(u32) -> bool) -> Option<usize> {
        let mut place = tag.0 as usize & self.mask();
        loop {
            match self.words[place] {
                0 => return None,
                word if (word >> 32) as u32 == tag.0 && same(record_of(word)) => return Some(place),
                _ => place = (place + 1) & self.mask(),
            }
        }
    }

    fn put(&mut self, tag: Tag, record: u32) {
        let mut place = tag.0 as usize & self.mask();
        while self.words[place] != 0 {
            place = (place + 1) & self.mask();
        }
        self.words[place] = u64::from(tag.0) << 32 | u64::from(record + 1);
    }

    /// Empties a place and closes the gap: what comes behind it moves up, unless it would pass the place
    /// where its own probe begins (Knuth, TAOCP 3, 6.4, algorithm R).
    fn take(&mut self, place: usize) {
        let mask = self.mask();
        let mut gap = place;
        let mut next = place;
        loop {
            next = (next + 1) & mask;
            let word = self.words[next];
            if word == 0 {
                break;
            }
            let home = (word >> 32) as usize & mask;
            // Distances are taken modulo the length, so a cluster may lie across the end.
            if next.wrapping_sub(home) & mask >= next.wrapping_sub(gap) & mask {
                self.words[gap] = word;
                gap = next;
            }
        }
        self.words[gap] = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::Ipv6Addr;
    use proptest::prelude::*;
    use std::collections::HashMap;

    const KEY: HashKey = HashKey([1, 2]);

    fn flow(n: u32) -> FlowKey {
        let addresses = if n.is_multiple_of(5) {
            AddressPair::V6 { src: Ipv6Addr::LOCALHOST, dst: Ipv6Addr::from_bits(u128::from(n) << 90) }
        } else {
            AddressPair::V4 { src: Ipv4Addr::LOCALHOST, dst: Ipv4Addr::from_bits(n >> 4) }
        };
        FlowKey { addresses, local_port: 80, remote_port: n as u16 }
    }

    #[test]
    fn a_packet_and_its_flow_have_one_key() {
        let pair = AddressPair::V4 { src: Ipv4Addr::new(10, 0, 0, 2), dst: Ipv4Addr::new(10, 0, 0, 1) };
        let key = FlowKey::of_received(&pair, 5555, 80);
        assert_eq!(key.local_addr().to_string(), "10.0.0.1");
        assert_eq!(key.remote_addr().to_string(), "10.0.0.2");
        assert_eq!((key.local_port, key.remote_port), (80, 5555));
    }

    #[test]
    fn what_is_refused_changes_nothing() {
        let mut table = FlowTable::new(KEY, 2);
        table.insert(flow(1), 0).unwrap();
        assert_eq!(table.insert(flow(1), 1), Err(InsertError::InUse));
        assert_eq!(table.insert(flow(2), 2), Err(InsertError::Full));
        assert_eq!((table.len(), table.get(&flow(1)), table.get(&flow(2))), (1, Some(0), None));
        table.insert(flow(2), 1).unwrap();
    }

    #[test]
    #[should_panic(expected = "one pair of ends")]
    fn a_record_under_two_keys_is_our_own_bug() {
        let mut table = FlowTable::new(KEY, 2);
        table.insert(flow(1), 0).unwrap();
        let _ = table.insert(flow(2), 0);
    }

    #[test]
    fn growth_is_carried_over_before_the_next_one() {
        let mut table = FlowTable::new(KEY, 200_000);
        for n in 0..200_000 {
            let before = (table.slots.words.len(), table.old.is_some());
            table.insert(flow(n), n).unwrap();
            if table.slots.words.len() != before.0 {
                assert!(!before.1, "{} slots were still being carried over", before.0);
            }
        }
        for n in 0..200_000 {
            assert_eq!(table.get(&flow(n)), Some(n));
        }
        assert_eq!(table.get(&flow(200_001)), None);
    }

    #[test]
    fn maintenance_grows_early_and_comes_to_an_end() {
        let mut table = FlowTable::new(KEY, 1000);
        for n in 0..48 {
            table.insert(flow(n), n).unwrap();
        }
        assert_eq!(table.slots.words.len(), 64);
        let mut rounds = 0;
        while table.maintain(8) {
            rounds += 1;
            assert!(rounds < 100);
        }
        assert!(rounds > 3);
        assert_eq!(table.slots.words.len(), 128);
        assert!((0..48).all(|n| table.get(&flow(n)) == Some(n)));
    }

    /// Slots looked at to find each flow of a full table: their mean, and the most for one.
    fn looks(table: &FlowTable) -> (f64, usize) {
        let mask = table.slots.mask();
        let words = table.slots.words.iter().enumerate().filter(|(_, word)| **word != 0);
        let each = words.map(|(place, word)| (place.wrapping_sub((word >> 32) as usize) & mask) + 1);
        let (sum, most) = each.fold((0, 0), |(sum, most), looks| (sum + looks, most.max(looks)));
        (sum as f64 / table.len() as f64, most)
    }

    /// Knuth, TAOCP 3, 6.4: (1 + 1 / (1 - 7/8)) / 2 = 4.5 looks where the fewest slots are free, whatever
    /// their number.
    #[test]
    fn a_million_flows_are_found_as_a_thousand_are() {
        const LIMIT: u32 = 1_100_000;
        let mut table = FlowTable::new(KEY, LIMIT);
        let mut full = Vec::new();
        for n in 0..LIMIT {
            if table.len() == table.slots.full_at() && table.len() >= 800 && table.old.is_none() {
                full.push((table.len(), looks(&table)));
            }
            table.insert(flow(n), n).unwrap();
        }
        assert!(full.len() > 8 && full.last().is_some_and(|(len, _)| *len > 900_000), "{full:?}");
        for (len, (mean, most)) in full {
            assert!(mean < 6.0 && most < 1000, "{mean} looks for each of {len}, {most} for one");
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Insert(u32),
        Remove(u32),
        Maintain(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            5 => (0u32..600).prop_map(Step::Insert),
            3 => (0u32..600).prop_map(Step::Remove),
            1 => (0usize..20).prop_map(Step::Maintain),
        ]
    }

    proptest! {
        #[test]
        fn it_is_a_map(steps in prop::collection::vec(step(), 0..1500), key in any::<[u64; 2]>()) {
            let mut table = FlowTable::new(HashKey(key), 1000);
            let mut model: HashMap<FlowKey, u32> = HashMap::new();
            for step in steps {
                match step {
                    Step::Insert(n) => {
                        let result = table.insert(flow(n), n);
                        let expected = if model.contains_key(&flow(n)) { Err(InsertError::InUse) } else { Ok(()) };
                        prop_assert_eq!(result, expected);
                        model.insert(flow(n), n);
                    }
                    Step::Remove(n) => prop_assert_eq!(table.remove(&flow(n)), model.remove(&flow(n))),
                    Step::Maintain(budget) => { table.maintain(budget); }
                }
                prop_assert_eq!(table.len(), model.len());
            }
            for n in 0..600 {
                prop_assert_eq!(table.get(&flow(n)), model.get(&flow(n)).copied());
            }
        }

        /// Few homes at the end of the slots: clusters lie across it and are taken apart in any order.
        #[test]
        fn clusters_across_the_end_stay_whole(homes in prop::collection::vec(0u32..8, 1..40), order in any::<u64>()) {
            let mut slots = Slots::new(64);
            let mut left: Vec<(Tag, u32)> = Vec::new();
            for (record, home) in homes.iter().enumerate() {
                let tag = Tag(60 + home + (record as u32) * 64);
                slots.put(tag, record as u32);
                left.push((tag, record as u32));
            }
            let mut random = order;
            while !left.is_empty() {
                random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let (tag, record) = left.swap_remove((random >> 33) as usize % left.len());
                let place = slots.find(tag, |r| r == record);
                prop_assert!(place.is_some());
                slots.take(place.unwrap());
                for (tag, record) in &left {
                    prop_assert!(slots.find(*tag, |r| r == *record).is_some());
                }
            }
            prop_assert!(slots.words.iter().all(|w| *w == 0));
        }
    }
}
