//! What a client wants received at a socket, where it is more than flags: groups and their sources,
//! filters, and what else an option of a socket says.
//!
//! ```text
//! first page:  length u32 │ four more pages u32 │ bytes … ─► second page: bytes … ─► up to a fifth
//! ```
//!
//! Wishes are levels, as the flags of a line are: they lie in send pages of the arena, whole, and the
//! client's line names the first page and a number that counts up. netd copies them out, checks them,
//! does them and says in its line how far it is. New wishes go into other pages; the old pages are the
//! client's again when netd has said the new number. So a netd that begins finds in the line what is
//! wanted of it (INV-R6), and sockd's life does not matter.

use super::{Geometry, PAGE_SIZE};
use crate::error::PeerCorrupt;
use crate::shm::Memory;
use core::net::IpAddr;
use serde::{Deserialize, Serialize};

/// Pages that wishes may take.
pub const PAGES: usize = 5;
const HEADER: usize = 4 * PAGES;
/// Bytes of encoded wishes.
const BYTES_MAX: usize = PAGES * PAGE_SIZE - HEADER;

/// Memberships of one socket: Linux's `igmp_max_memberships`.
pub const MEMBERSHIPS_MAX: usize = 20;
/// Sources of one membership: Linux's `mld_max_msf`; `igmp_max_msf` is 10.
pub const SOURCES_MAX: usize = 64;
/// Instructions of a filter: Linux's BPF_MAXINSNS.
pub const FILTER_MAX: usize = 4096;

/// Which sources of a group are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Mode {
    /// Those of the list.
    Include,
    /// All but those of the list.
    Exclude,
}

/// A group that a socket listens to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// The group.
    pub group: IpAddr,
    /// The index of the interface; 0 leaves it to the routes.
    pub interface: u32,
    /// The meaning of `sources`.
    pub mode: Mode,
    /// Its sources.
    pub sources: Vec<IpAddr>,
}

/// An instruction of the classic BPF machine, as `struct sock_filter` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instruction {
    /// What to do.
    pub code: u16,
    /// Instructions to pass over when a condition holds.
    pub jt: u8,
    /// When it does not.
    pub jf: u8,
    /// Its operand.
    pub k: u32,
}

/// What is wanted of a socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wishes {
    /// What became of datagrams that were sent (IP_RECVERR, IPV6_RECVERR).
    pub errors: bool,
    /// Datagrams to groups that other sockets have joined (IP_MULTICAST_ALL); the default.
    pub all_groups: bool,
    /// Several datagrams of a flow in one record (UDP_GRO).
    pub runs: bool,
    /// Datagrams of IPv6 without a checksum (UDP_NO_CHECK6_RX).
    pub unsummed: bool,
    /// Packet sockets: frames for other hosts, too (PACKET_MR_PROMISC).
    pub promiscuous: bool,
    /// The index of the only interface (SO_BINDTODEVICE); 0 for all.
    pub device: u32,
    /// Raw and ping sockets: types of ICMP that are not wanted, a bit each (ICMP_FILTER, ICMP6_FILTER).
    pub icmp_blocked: [u32; 8],
    /// Raw sockets of IPv6: where the stack puts a checksum, and checks one (IPV6_CHECKSUM).
    pub checksum_at: Option<u16>,
    /// Groups.
    pub memberships: Vec<Membership>,
    /// What it lets pass (SO_ATTACH_FILTER); empty for everything.
    pub filter: Vec<Instruction>,
}

impl Default for Wishes {
    fn default() -> Self {
        Wishes {
            errors: false,
            all_groups: true,
            runs: false,
            unsummed: false,
            promiscuous: false,
            device: 0,
            icmp_blocked: [0; 8],
            checksum_at: None,
            memberships: Vec::new(),
            filter: Vec::new(),
        }
    }
}

fn options() -> impl bincode::Options {
    use bincode::Options;
    bincode::DefaultOptions::new().with_limit(BYTES_MAX as u64)
}

/// The wishes do not fit into their pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("more wishes than a socket may have")]
pub struct TooMuch;

impl Wishes {
    /// To the bytes of their pages.
    ///
    /// # Errors
    /// [`TooMuch`].
    pub fn encode(&self) -> Result<Vec<u8>, TooMuch> {
        use bincode::Options;
        let within = self.memberships.len() <= MEMBERSHIPS_MAX
            && self.memberships.iter().all(|one| one.sources.len() <= SOURCES_MAX)
            && self.filter.len() <= FILTER_MAX;
        match options().serialize(self) {
            Ok(bytes) if within => Ok(bytes),
            _ => Err(TooMuch),
        }
    }

    /// Pages that `bytes` of encoded wishes take.
    pub const fn pages(bytes: usize) -> usize {
        (HEADER + bytes).div_ceil(PAGE_SIZE)
    }

    /// Writes encoded wishes into as many pages as [`Wishes::pages`] says.
    ///
    /// # Panics
    /// When there are fewer.
    pub fn store<M: Memory>(memory: &M, geometry: &Geometry, pages: &[u32], bytes: &[u8]) {
        let mut header = [0; HEADER];
        header[..4].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
        for (n, page) in pages.iter().skip(1).enumerate() {
            header[4 + n * 4..8 + n * 4].copy_from_slice(&page.to_le_bytes());
        }
        let (first, mut rest) = bytes.split_at(bytes.len().min(PAGE_SIZE - HEADER));
        memory.write(geometry.tx_page_at(pages[0]), &header);
        memory.write(geometry.tx_page_at(pages[0]) + HEADER, first);
        let mut next = pages[1..].iter();
        while !rest.is_empty() {
            let piece;
            (piece, rest) = rest.split_at(rest.len().min(PAGE_SIZE));
            memory.write(geometry.tx_page_at(*next.next().expect("pages for all bytes")), piece);
        }
    }

    /// The pages of wishes that begin with `first`.
    ///
    /// # Errors
    /// [`PeerCorrupt`] when they are none of the arena's.
    pub fn pages_of<M: Memory>(memory: &M, geometry: &Geometry, first: u32) -> Result<Vec<u32>, PeerCorrupt> {
        const NOWHERE: PeerCorrupt = PeerCorrupt::new("wishes outside the arena");
        let within = |page: u32| if page < geometry.tx_pages { Ok(page) } else { Err(NOWHERE) };
        let mut header = [0; HEADER];
        memory.read(geometry.tx_page_at(within(first)?), &mut header);
        let word = |n: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| header[n * 4 + byte]));
        let more = Wishes::pages((word(0) as usize).min(BYTES_MAX));
        core::iter::once(first).chain((1..more).map(word)).map(within).collect()
    }

    /// Copies wishes out of the pages that begin with `first`, and checks them.
    ///
    /// # Errors
    /// [`PeerCorrupt`] when they make no sense.
    pub fn load<M: Memory>(memory: &M, geometry: &Geometry, first: u32) -> Result<Wishes, PeerCorrupt> {
        use bincode::Options;
        const NOWHERE: PeerCorrupt = PeerCorrupt::new("wishes outside the arena");
        const NONSENSE: PeerCorrupt = PeerCorrupt::new("wishes that make no sense");
        let at =
            |page: u32| if page < geometry.tx_pages { Ok(geometry.tx_page_at(page)) } else { Err(NOWHERE) };
        let mut header = [0; HEADER];
        memory.read(at(first)?, &mut header);
        let word = |n: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| header[n * 4 + byte]));
        let len = word(0) as usize;
        if len > BYTES_MAX {
            return Err(NONSENSE);
        }
        let mut bytes = vec![0; len];
        let (head, rest) = bytes.split_at_mut(len.min(PAGE_SIZE - HEADER));
        memory.read(at(first)? + HEADER, head);
        for (n, piece) in rest.chunks_mut(PAGE_SIZE).enumerate() {
            memory.read(at(word(n + 1))?, piece);
        }
        let wishes: Wishes = options().reject_trailing_bytes().deserialize(&bytes).map_err(|_| NONSENSE)?;
        let within = wishes.memberships.len() <= MEMBERSHIPS_MAX
            && wishes.memberships.iter().all(|one| one.sources.len() <= SOURCES_MAX)
            && wishes.filter.len() <= FILTER_MAX;
        if within { Ok(wishes) } else { Err(NONSENSE) }
    }
}

/// How far wishes are, as netd's line says it: the number of the last ones it has looked at, and the errno
/// with which it refused them, 0 when they hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Granted {
    /// Their number.
    pub number: u16,
    /// errno.
    pub errno: u16,
}

impl Granted {
    /// As the line stores it.
    pub const fn to_word(self) -> u32 {
        self.number as u32 | (self.errno as u32) << 16
    }

    /// From the line.
    pub const fn from_word(word: u32) -> Granted {
        Granted { number: word as u16, errno: (word >> 16) as u16 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shm::heap::HeapMemory;
    use proptest::prelude::*;

    const GEOMETRY: Geometry = Geometry { shards: 1, active: 1, passive: 1, tx_pages: 6, rx_pages: 1 };

    fn long() -> Wishes {
        let instruction = Instruction { code: u16::MAX, jt: 255, jf: 255, k: u32::MAX };
        let source = |n: u16| IpAddr::from([0xff, n, 3, 4, 5, 6, 7, 8]);
        let membership = Membership {
            group: source(0),
            interface: u32::MAX,
            mode: Mode::Exclude,
            sources: (0..SOURCES_MAX as u16).map(source).collect(),
        };
        Wishes {
            memberships: vec![membership; MEMBERSHIPS_MAX],
            filter: vec![instruction; FILTER_MAX],
            ..Wishes::default()
        }
    }

    #[test]
    fn the_longest_come_back_from_scattered_pages() {
        let memory = HeapMemory::new(GEOMETRY.bytes());
        for wishes in [Wishes::default(), long()] {
            let bytes = wishes.encode().expect("they fit");
            let pages = [4, 1, 5, 0, 2];
            let needed = Wishes::pages(bytes.len());
            assert!(needed <= PAGES, "{needed} pages");
            Wishes::store(&memory, &GEOMETRY, &pages[..needed], &bytes);
            assert_eq!(Wishes::load(&memory, &GEOMETRY, 4), Ok(wishes));
            assert_eq!(Wishes::pages_of(&memory, &GEOMETRY, 4), Ok(pages[..needed].to_vec()));
        }
        let mut more = long();
        more.filter.push(Instruction { code: 0, jt: 0, jf: 0, k: 0 });
        assert_eq!(more.encode(), Err(TooMuch));
    }

    proptest! {
        #[test]
        fn any_bytes_at_any_page(bytes in prop::collection::vec(any::<u8>(), 0..200), first in any::<u32>()) {
            let memory = HeapMemory::new(GEOMETRY.bytes());
            for page in 0..GEOMETRY.tx_pages {
                memory.write(GEOMETRY.tx_page_at(page), &bytes);
            }
            let _ = Wishes::load(&memory, &GEOMETRY, first);
            let _ = Wishes::load(&memory, &GEOMETRY, 0);
            let _ = Wishes::pages_of(&memory, &GEOMETRY, first);
        }
    }
}
