//! The keys that only netd maps, and that outlive it (INV-T5).
//!
//! Drawn once per group, from entropy that the caller brings; every incarnation and shard then
//! finds the same. A remote that learned them could guess sequence numbers, forge cookies, or
//! crowd a hash table.

use crate::keyed_hash::HashKey;
use crate::tcp::isn;
use core::sync::atomic::Ordering;
use proto::shm::Memory;

const MAGIC: u64 = u64::from_le_bytes(*b"secrets\0") | (proto::layouts::SECRETS as u64) << 56;
const MAGIC_AT: usize = 0;
const KEYS_AT: usize = 8;

/// Bytes of entropy that all keys together take.
pub const ENTROPY_SIZE: usize = 96;

/// Size of the region in bytes.
pub const REGION_SIZE: usize = 4096;

/// The keys, one per use.
#[derive(Debug, Clone)]
pub struct Secrets {
    /// Hashes of flows, neighbours and routes.
    pub hash: HashKey,
    /// Sequence numbers, timestamps and cookies.
    pub tcp: isn::Secrets,
    /// Interface identifiers of IPv6 addresses, and what is to look random on a link.
    pub addresses: HashKey,
    /// The budget of challenge ACKs.
    pub challenge: [u8; 16],
}

impl Secrets {
    /// Whether the keys are there. Shard 0 draws them; the others begin when it has.
    pub fn are_there<M: Memory>(memory: &M) -> bool {
        memory.load_u64(MAGIC_AT, Ordering::Acquire) == MAGIC
    }

    /// Finds the group's keys in its region, or makes them of `entropy` when there are none.
    pub fn attach<M: Memory>(memory: &M, entropy: &[u8; ENTROPY_SIZE]) -> Secrets {
        if !Secrets::are_there(memory) {
            memory.write(KEYS_AT, entropy);
            // Last: keys of which only a part was written are drawn again, nobody has used them.
            memory.store_u64(MAGIC_AT, MAGIC, Ordering::Release);
        }
        let word = |n: usize| memory.load_u64(KEYS_AT + n * 8, Ordering::Relaxed);
        let key = |n: usize| {
            let mut key = [0; 16];
            memory.read(KEYS_AT + n * 16, &mut key);
            key
        };
        Secrets {
            hash: HashKey([word(0), word(1)]),
            tcp: isn::Secrets { isn: key(1), timestamps: key(2), cookie: key(3) },
            challenge: key(4),
            addresses: HashKey([word(10), word(11)]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::shm::heap::HeapMemory;

    #[test]
    fn a_successor_finds_the_same_keys() {
        let memory = HeapMemory::new(REGION_SIZE);
        let first = Secrets::attach(&memory, &[7; ENTROPY_SIZE]);
        let second = Secrets::attach(&memory, &[8; ENTROPY_SIZE]);
        assert_eq!(second.tcp.isn, first.tcp.isn);
        assert_eq!((second.challenge, second.hash.0), (first.challenge, first.hash.0));
        assert_eq!(first.challenge, [7; 16]);
    }
}
