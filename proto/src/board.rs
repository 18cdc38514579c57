//! What netexec shows its programs: which sockets are the stack's, by their inodes.
//!
//! Owned and written by netexec's server alone; mapped read-only by the preload library in every program, which asks
//! it before a call: one on anything else is the kernel's, and need not be handed over. Memory is a table
//! with a slot for an inode's low bits. Two sockets of the stack may meet in a slot: then it says nothing
//! ([`Socket::Unknown`]), which is always a true answer, as the server knows better.
//!
//! ```text
//! word      magic: this is a board
//! slots     sequence (odd while it is written), sockets in it, what the one is, inode, its two names
//! ```
//!
//! A socket is shown before a program can have it, and taken off after nobody has it any more: the board never
//! says of a socket of the stack that it is none. A writer that was killed leaves an odd sequence, which
//! reads as [`Socket::Unknown`] until its successor writes the slot anew.

use crate::shm::Memory;
use core::sync::atomic::{Ordering, fence};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// Where a program finds the board: `INODE:PATH`, the inode of the memory and a path of procfs to it.
pub const VARIABLE: &str = "AXOLOTL_BOARD";
/// The sixth argument of a call, of those that have fewer, that netexec's filter lets pass: whoever says it
/// knows that the call is the kernel's.
pub const PASS: u64 = 0x6178_6f6c_6f74_6c21;
/// Bytes of the longest name that is shown: `struct sockaddr_in6`.
pub const NAME_MAX: usize = 28;

/// "axlboard" in ASCII.
const MAGIC: u64 = 0x6178_6c62_6f61_7264;
const SLOTS_AT: usize = 8;
/// Twice as many as netexec has sockets, so that few meet.
const SLOTS: usize = 16 * 1024;
/// Bytes of a board.
pub const SIZE: usize = SLOTS_AT + SLOTS * size_of::<Slot>();

#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Slot {
    sequence: u32,
    /// Sockets of the stack that belong here.
    count: u16,
    /// Whether the one that is here is a connection: its names stand below.
    connected: u8,
    /// Bytes of each name.
    name_len: u8,
    /// Which one is here; 0 when it is not known.
    inode: u64,
    local: [u8; NAME_MAX],
    peer: [u8; NAME_MAX],
}

/// A name as a program has it: bytes of a `struct sockaddr_in` or `_in6`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Name {
    bytes: [u8; NAME_MAX],
    len: u8,
}

impl Name {
    /// Of a `sockaddr`; `None` when it is longer than those of the internet families.
    pub fn new(name: &[u8]) -> Option<Name> {
        let mut bytes = [0; NAME_MAX];
        bytes.get_mut(..name.len())?.copy_from_slice(name);
        Some(Name { bytes, len: name.len() as u8 })
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// What the board says of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Socket {
    /// The kernel's: none of the stack's has that inode.
    Kernel,
    /// A connection of the stack: its bytes go by the pair, and its names stay what they are.
    Connection {
        /// Our side.
        local: Name,
        /// The remote.
        peer: Name,
    },
    /// The server knows.
    Unknown,
}

/// The board over its memory.
#[derive(Debug, Clone)]
pub struct Board<M> {
    memory: M,
}

fn slot_of(inode: u64) -> usize {
    SLOTS_AT + (inode as usize % SLOTS) * size_of::<Slot>()
}

impl<M: Memory> Board<M> {
    /// Makes zeroed memory of [`SIZE`] bytes a board without sockets.
    pub fn begin(memory: M) -> Board<M> {
        memory.store_u64(0, MAGIC, Ordering::Release);
        Board { memory }
    }

    /// A board that somebody else writes; `None` when the memory is none.
    pub fn open(memory: M) -> Option<Board<M>> {
        (memory.size() >= SIZE && memory.load_u64(0, Ordering::Acquire) == MAGIC).then_some(Board { memory })
    }

    /// What is known of the socket with that inode.
    pub fn look(&self, inode: u64) -> Socket {
        let at = slot_of(inode);
        let before = self.memory.load_u32(at, Ordering::Acquire);
        let slot = self.slot(at);
        fence(Ordering::Acquire);
        if !before.is_multiple_of(2) || self.memory.load_u32(at, Ordering::Relaxed) != before {
            return Socket::Unknown;
        }
        let name = |bytes| Name { bytes, len: slot.name_len.min(NAME_MAX as u8) };
        match slot.count {
            0 => Socket::Kernel,
            1 if slot.inode == inode && slot.connected != 0 => {
                Socket::Connection { local: name(slot.local), peer: name(slot.peer) }
            }
            1 if slot.inode != inode && slot.inode != 0 => Socket::Kernel,
            _ => Socket::Unknown,
        }
    }

    /// A socket that a program is about to have.
    pub fn add(&self, inode: u64) {
        let at = slot_of(inode);
        let slot = self.slot(at);
        let alone = Slot { count: 1, inode, ..Slot::new_zeroed() };
        let met = Slot { count: slot.count.saturating_add(1), ..Slot::new_zeroed() };
        self.put(at, if slot.count == 0 { alone } else { met });
    }

    /// It is a connection from here on.
    pub fn tell(&self, inode: u64, local: Name, peer: Name) {
        let at = slot_of(inode);
        let slot = self.slot(at);
        if slot.count == 1 && slot.inode == inode && local.len == peer.len {
            let (connected, name_len) = (1, local.len);
            self.put(at, Slot { connected, name_len, local: local.bytes, peer: peer.bytes, ..slot });
        }
    }

    /// Nobody has that socket any more.
    pub fn remove(&self, inode: u64) {
        let at = slot_of(inode);
        let slot = self.slot(at);
        // Which one is left of two is not known.
        self.put(at, Slot { count: slot.count.saturating_sub(1), ..Slot::new_zeroed() });
    }

    /// Shows these sockets and no others, whatever a predecessor left, without a moment in which one of
    /// them is not shown. What is told of connections has to be told again.
    pub fn replace(&self, inodes: impl Iterator<Item = u64>) {
        let mut wanted = vec![Slot::new_zeroed(); SLOTS];
        for inode in inodes {
            let slot = &mut wanted[inode as usize % SLOTS];
            slot.inode = if slot.count == 0 { inode } else { 0 };
            slot.count = slot.count.saturating_add(1);
        }
        for (n, slot) in wanted.into_iter().enumerate() {
            let at = SLOTS_AT + n * size_of::<Slot>();
            let there = self.slot(at);
            if (Slot { sequence: 0, ..there }) != slot || !there.sequence.is_multiple_of(2) {
                self.put(at, slot);
            }
        }
    }

    fn slot(&self, at: usize) -> Slot {
        let mut slot = Slot::new_zeroed();
        self.memory.read(at, slot.as_mut_bytes());
        slot
    }

    /// Writes all of a slot but its sequence between two steps of that.
    fn put(&self, at: usize, slot: Slot) {
        let odd = self.memory.load_u32(at, Ordering::Relaxed) | 1;
        self.memory.store_u32(at, odd, Ordering::Relaxed);
        fence(Ordering::Release);
        self.memory.write(at + 4, &slot.as_bytes()[4..]);
        self.memory.store_u32(at, odd.wrapping_add(1), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shm::heap::HeapMemory;
    use std::collections::BTreeMap;
    use std::rc::Rc;

    fn board() -> Board<Rc<HeapMemory>> {
        Board::begin(Rc::new(HeapMemory::new(SIZE)))
    }

    fn name(last: u8) -> Name {
        Name::new(&[2, 0, 0, 80, 10, 0, 0, last, 0, 0, 0, 0, 0, 0, 0, 0]).expect("short")
    }

    #[test]
    fn a_socket_is_the_stacks_from_the_first_moment_to_the_last() {
        let board = board();
        assert_eq!(board.look(7), Socket::Kernel);
        board.add(7);
        assert_eq!(board.look(7), Socket::Unknown);
        assert_eq!(board.look(7 + SLOTS as u64), Socket::Kernel, "another one of the same slot");
        board.tell(7, name(1), name(2));
        assert_eq!(board.look(7), Socket::Connection { local: name(1), peer: name(2) });
        board.remove(7);
        assert_eq!(board.look(7), Socket::Kernel);
        assert_eq!(Name::new(&[0; NAME_MAX + 1]), None);
    }

    #[test]
    fn nothing_is_told_of_two_in_one_slot() {
        let (board, other) = (board(), 7 + SLOTS as u64);
        board.add(7);
        board.tell(7, name(1), name(2));
        board.add(other);
        board.tell(other, name(3), name(4));
        for inode in [7, other, other + SLOTS as u64] {
            assert_eq!(board.look(inode), Socket::Unknown);
        }
        board.remove(7);
        assert_eq!(board.look(other), Socket::Unknown, "which one is left is not known");
        board.remove(other);
        assert_eq!(board.look(other), Socket::Kernel);
    }

    #[test]
    fn a_successor_repairs_what_its_predecessor_left() {
        let memory = Rc::new(HeapMemory::new(SIZE));
        let board = Board::begin(memory.clone());
        for inode in [1, 2, 3] {
            board.add(inode);
        }
        // Killed in the middle of taking off 2.
        memory.store_u32(slot_of(2), 5, Ordering::Relaxed);
        assert_eq!(board.look(2), Socket::Unknown);
        board.replace([1, 4].into_iter());
        let seen: Vec<Socket> = (1..=4).map(|inode| board.look(inode)).collect();
        assert_eq!(seen, [Socket::Unknown, Socket::Kernel, Socket::Kernel, Socket::Unknown]);
        assert!(Board::open(Rc::new(HeapMemory::new(SIZE))).is_none(), "no board");
        assert!(Board::open(memory).is_some());
    }

    /// Sockets come and go, many of them in one slot: none of the stack's is taken for the kernel's.
    #[test]
    fn no_socket_is_hidden_by_others() {
        use proptest::prelude::*;
        use proptest::test_runner::TestRunner;
        // Few slots, so that many meet: inodes are small numbers and the same a table further on.
        let step = (0u64..3, 0u64..3, any::<bool>());
        let steps = proptest::collection::vec(step, 1..40);
        TestRunner::default()
            .run(&steps, |steps| {
                let board = board();
                let mut there = BTreeMap::new();
                for (low, turn, add) in steps {
                    let inode = 1 + low + turn * SLOTS as u64;
                    if add && there.insert(inode, ()).is_none() {
                        board.add(inode);
                    } else if !add && there.remove(&inode).is_some() {
                        board.remove(inode);
                    }
                    for inode in there.keys() {
                        prop_assert_ne!(board.look(*inode), Socket::Kernel);
                    }
                }
                board.replace(there.keys().copied());
                for inode in there.keys() {
                    prop_assert_ne!(board.look(*inode), Socket::Kernel);
                }
                Ok(())
            })
            .expect("no socket is hidden");
    }
}
