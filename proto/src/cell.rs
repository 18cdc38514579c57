//! The commit: a cell is the truth about one thing, and stays true whatever store is the last.
//!
//! ```text
//! byte   0        8                     104            128           192          256
//!        ┌────────┬─────────────────────┬──────────────┬─────────────┬────────────┐
//!        │selector│ opening   92 + check│agreed 20 + ck│ state A 60+4│ state B 60+4│
//!        └────────┴─────────────────────┴──────────────┴─────────────┴────────────┘
//! ```
//!
//! The *opening* part is written once when the cell is taken, the *agreed* part once when a
//! handshake ends, the two *state* slots in turn. The selector is stored last and names the
//! phase, the valid slot and how often the cell was used before (its serial). Whoever finds the
//! memory after a death reads what the selector names. A check that fails there is
//! [`CellCorrupt`]: the other slot is *not* tried, it may lie behind acknowledged data (INV-T7).
//!
//! One process writes a table; the others map it read-only. What the fields mean is the business
//! of [`crate::hard`]. Not here: locks, versions of records, anything variable in size.

use crate::shm::Memory;
use core::sync::atomic::Ordering;
use thiserror::Error;

/// Size of a cell in bytes.
pub const CELL_SIZE: usize = 256;
/// Payload of the part that is written when a cell is taken, in bytes.
pub const OPENING_SIZE: usize = 92;
/// Payload of the part that is written when a handshake ends, in bytes.
pub const AGREED_SIZE: usize = 20;
/// Payload of a state slot, in bytes.
pub const STATE_SIZE: usize = 60;

const CHECK_SIZE: usize = 4;
const SELECTOR_AT: usize = 0;
const OPENING_AT: usize = 8;
const AGREED_AT: usize = OPENING_AT + OPENING_SIZE + CHECK_SIZE;
const STATE_AT: [usize; 2] = [128, 192];
const _: () = assert!(AGREED_AT + AGREED_SIZE + CHECK_SIZE == STATE_AT[0]);
const _: () = assert!(STATE_AT[1] + STATE_SIZE + CHECK_SIZE == CELL_SIZE);

/// The table's own header takes the place of one cell.
const HEADER_SIZE: usize = CELL_SIZE;
const MAGIC: u64 = u64::from_le_bytes(*b"axolotl\x01");
const MAGIC_AT: usize = 0;
const VERSION_AT: usize = 8;
const CAPACITY_AT: usize = 12;
const HIGH_WATER_AT: usize = 16;

/// The selected slot or a written-once part does not match its check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a cell does not match its check")]
pub struct CellCorrupt;

/// A region that should hold cells holds something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TableError {
    /// Neither empty nor made by this layout version.
    #[error("layout version {found} in memory, {wanted} in this binary")]
    Layout {
        /// What the memory says; 0 when it is no table at all.
        found: u32,
        /// What this binary speaks.
        wanted: u32,
    },
    /// The memory is smaller than its header says.
    #[error("a table larger than its memory")]
    Size,
}

/// The one-word truth of a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Selector(u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Free,
    Opened,
    Agreed,
}

impl Selector {
    fn new(serial: u32, phase: Phase, slot: usize) -> Self {
        let phase = match phase {
            Phase::Free => 0,
            Phase::Opened => 1,
            Phase::Agreed => 2,
        };
        Selector(u64::from(serial) << 32 | (slot as u64) << 8 | phase)
    }

    fn serial(self) -> u32 {
        (self.0 >> 32) as u32
    }

    fn slot(self) -> usize {
        (self.0 >> 8 & 1) as usize
    }

    fn phase(self) -> Result<Phase, CellCorrupt> {
        match self.0 & 0xffff_feff {
            0 => Ok(Phase::Free),
            1 => Ok(Phase::Opened),
            2 => Ok(Phase::Agreed),
            _ => Err(CellCorrupt),
        }
    }
}

/// What a cell says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Image {
    /// How often the cell was taken before this use; tells one use from the next.
    pub serial: u32,
    /// Written when the cell was taken.
    pub opening: [u8; OPENING_SIZE],
    /// Written when the handshake ended, if it did.
    pub agreed: Option<[u8; AGREED_SIZE]>,
    /// The selected state.
    pub state: [u8; STATE_SIZE],
}

/// The writer's hold on a cell it has taken. The selector in it is the one that counts (INV-R2).
#[derive(Debug, PartialEq, Eq)]
pub struct Held {
    index: u32,
    selector: Selector,
}

impl Held {
    /// The cell's place in its table.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// How often the cell was taken before this use.
    pub fn serial(&self) -> u32 {
        self.selector.serial()
    }
}

/// A region of cells, seen by anyone who maps it.
#[derive(Debug)]
pub struct CellTable<M> {
    memory: M,
    capacity: u32,
}

/// The one writer of a region of cells.
#[derive(Debug)]
pub struct CellWriter<M> {
    table: CellTable<M>,
    /// Cells below `high_water` that are free, last freed on top: the hot ones are used again.
    free: Vec<u32>,
    high_water: u32,
    /// Cells below it have been touched; see [`CellWriter::warm`].
    warmed: u32,
}

/// Bytes that a table of `capacity` cells takes.
pub const fn table_size(capacity: u32) -> usize {
    HEADER_SIZE + capacity as usize * CELL_SIZE
}

impl<M: Memory> CellTable<M> {
    /// Looks at a table that its writer has made.
    ///
    /// # Errors
    /// [`TableError`] when the memory does not hold a table of layout `version`.
    pub fn attach(memory: M, version: u32) -> Result<Self, TableError> {
        let found = match memory.load_u64(MAGIC_AT, Ordering::Acquire) {
            MAGIC => memory.load_u32(VERSION_AT, Ordering::Relaxed),
            _ => 0,
        };
        if found != version {
            return Err(TableError::Layout { found, wanted: version });
        }
        let capacity = memory.load_u32(CAPACITY_AT, Ordering::Relaxed);
        if table_size(capacity) > memory.size() {
            return Err(TableError::Size);
        }
        Ok(CellTable { memory, capacity })
    }

    /// Number of cells from the start that were ever taken; the rest need not be looked at.
    pub fn high_water(&self) -> u32 {
        self.memory.load_u32(HIGH_WATER_AT, Ordering::Acquire).min(self.capacity)
    }

    /// Number of cells there is room for.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Reads a cell; `None` when it is free.
    ///
    /// A reader beside the writer may meet it in the middle: the selector then changes, or two commits
    /// bring the same selector back over a slot that was being read, which shows as a failed check.
    /// Either way it reads again, a few times. What never stands still reads as free to it; a check
    /// that still fails in the last try is final.
    ///
    /// # Errors
    /// [`CellCorrupt`] when what the selector names does not match its check.
    ///
    /// # Panics
    /// When `index` is not below the capacity.
    pub fn read(&self, index: u32) -> Result<Option<Image>, CellCorrupt> {
        /// Two commits within one read are possible, many in a row are not worth waiting for.
        const TRIES: usize = 8;
        let mut last = Ok(None);
        for _ in 0..TRIES {
            let at = self.at(index);
            let selector = Selector(self.memory.load_u64(at + SELECTOR_AT, Ordering::Acquire));
            let image = self.image(index, selector);
            self.memory.full_fence();
            if self.memory.load_u64(at + SELECTOR_AT, Ordering::Acquire) != selector.0 {
                last = Ok(None);
                continue;
            }
            match image {
                Ok(image) => return Ok(image),
                Err(corrupt) => last = Err(corrupt),
            }
        }
        last
    }

    fn image(&self, index: u32, selector: Selector) -> Result<Option<Image>, CellCorrupt> {
        let phase = selector.phase()?;
        if phase == Phase::Free {
            return Ok(None);
        }
        let (at, serial) = (self.at(index), selector.serial());
        let agreed = match phase {
            Phase::Agreed => Some(self.part(at, AGREED_AT, index, serial)?),
            _ => None,
        };
        Ok(Some(Image {
            serial,
            opening: self.part(at, OPENING_AT, index, serial)?,
            agreed,
            state: self.part(at, STATE_AT[selector.slot()], index, serial)?,
        }))
    }

    fn at(&self, index: u32) -> usize {
        assert!(index < self.capacity, "no such cell");
        HEADER_SIZE + index as usize * CELL_SIZE
    }

    fn part<const N: usize>(
        &self,
        at: usize,
        part: usize,
        index: u32,
        serial: u32,
    ) -> Result<[u8; N], CellCorrupt> {
        let mut bytes = [0; N];
        self.memory.read(at + part, &mut bytes);
        match self.memory.load_u32(at + part + N, Ordering::Relaxed) == check(index, serial, part, &bytes) {
            true => Ok(bytes),
            false => Err(CellCorrupt),
        }
    }
}

/// The check of `bytes`, which lie `part` bytes into cell `index` in its use `serial`: binds them to all three,
/// so that no valid bytes are valid elsewhere.
///
/// It finds damage, not malice: who writes the table could write the check too. So it is a chain of
/// multiplications of which both halves count, in which every bit of every word reaches the result.
pub fn check(index: u32, serial: u32, part: usize, bytes: &[u8]) -> u32 {
    let mut hash = mix(u64::from(index) << 32 | u64::from(serial), part as u64);
    let (words, tail) = bytes.as_chunks::<8>();
    for word in words {
        hash = mix(hash, u64::from_le_bytes(*word));
    }
    let mut last = [0; 8];
    last[..tail.len()].copy_from_slice(tail);
    hash = mix(hash, u64::from_le_bytes(last));
    (hash ^ (hash >> 32)) as u32
}

/// The odd constants are digits of the golden ratio and of pi.
pub(crate) const fn mix(hash: u64, word: u64) -> u64 {
    let wide = (hash ^ word ^ 0x243f_6a88_85a3_08d3) as u128 * 0x9e37_79b9_7f4a_7c15;
    (wide as u64 ^ (wide >> 64) as u64).wrapping_add(0x1319_8a2e_0370_7344)
}

impl<M: Memory> CellWriter<M> {
    /// Makes a table in zeroed memory, or takes over the one that an earlier incarnation made.
    ///
    /// # Errors
    /// [`TableError`] when the memory holds another layout, or too little room.
    pub fn attach(memory: M, version: u32, capacity: u32) -> Result<Self, TableError> {
        if memory.load_u64(MAGIC_AT, Ordering::Acquire) == 0 {
            if table_size(capacity) > memory.size() {
                return Err(TableError::Size);
            }
            memory.store_u32(VERSION_AT, version, Ordering::Relaxed);
            memory.store_u32(CAPACITY_AT, capacity, Ordering::Relaxed);
            memory.store_u64(MAGIC_AT, MAGIC, Ordering::Release);
        }
        let table = CellTable::attach(memory, version)?;
        let high_water = table.high_water();
        // Room for all of them is address space; it is touched as they are used.
        let free = Vec::with_capacity(table.capacity() as usize);
        Ok(CellWriter { table, free, high_water, warmed: high_water })
    }

    /// The table as a reader sees it.
    pub fn table(&self) -> &CellTable<M> {
        &self.table
    }

    /// Takes over what an earlier incarnation left: calls `each` with every cell in use and the
    /// hold on it, or with the error of one that is corrupt (its cell is then freed). Called once,
    /// before anything is taken.
    pub fn recover(&mut self, mut each: impl FnMut(Held, Result<Image, CellCorrupt>)) {
        for index in (0..self.high_water).rev() {
            if let Some((held, image)) = self.recover_one(index) {
                each(held, image);
            }
        }
    }

    /// One step of [`Self::recover`], for a caller that walks the table itself: every index below
    /// [`CellTable::high_water`] once, from the last one down. `None` for a cell that is not in use.
    pub fn recover_one(&mut self, index: u32) -> Option<(Held, Result<Image, CellCorrupt>)> {
        let at = self.table.at(index);
        let selector = Selector(self.table.memory.load_u64(at + SELECTOR_AT, Ordering::Acquire));
        match self.table.image(index, selector) {
            Ok(None) => {
                self.free.push(index);
                None
            }
            Ok(Some(image)) => Some((Held { index, selector }, Ok(image))),
            Err(corrupt) => {
                self.free(Held { index, selector });
                Some((Held { index, selector }, Err(corrupt)))
            }
        }
    }

    /// Takes a free cell; `None` when there is none. It stays free in memory until [`Self::open`].
    pub fn take(&mut self) -> Option<Held> {
        if let Some(index) = self.free.pop() {
            let at = self.table.at(index);
            let serial = Selector(self.table.memory.load_u64(at + SELECTOR_AT, Ordering::Relaxed)).serial();
            return Some(Held { index, selector: Selector::new(serial, Phase::Free, 0) });
        }
        if self.high_water == self.table.capacity {
            return None;
        }
        let index = self.high_water;
        self.high_water += 1;
        // Before the first selector beyond it: a successor scans only so far.
        self.table.memory.store_u32(HIGH_WATER_AT, self.high_water, Ordering::Release);
        Some(Held { index, selector: Selector::new(0, Phase::Free, 0) })
    }

    /// Touches the cells up to `until` that were never taken, at most `most` of them at a time, so that
    /// their pages are there when they are. Returns whether there are more.
    pub fn warm(&mut self, until: u32, most: u32) -> bool {
        let until = until.min(self.table.capacity);
        let from = self.warmed.max(self.high_water);
        let end = until.min(from.saturating_add(most));
        for index in from..end {
            // The load alone brings the page in.
            let _ = self.table.memory.load_u64(self.table.at(index) + SELECTOR_AT, Ordering::Relaxed);
        }
        self.warmed = end.max(from);
        self.warmed < until
    }

    /// Gives back a cell that was taken and never opened.
    pub fn untake(&mut self, held: Held) {
        self.free.push(held.index);
    }

    /// Gives the cell its identity and first state. From the last store on it is in use.
    pub fn open(&self, held: &mut Held, opening: &[u8; OPENING_SIZE], state: &[u8; STATE_SIZE]) {
        let serial = held.serial();
        self.put(held, OPENING_AT, opening);
        self.put(held, STATE_AT[0], state);
        self.select(held, Selector::new(serial, Phase::Opened, 0));
    }

    /// As [`Self::open`] and [`Self::agree`] at once: nobody finds the one without the other.
    pub fn open_agreed(
        &self,
        held: &mut Held,
        opening: &[u8; OPENING_SIZE],
        agreed: &[u8; AGREED_SIZE],
        state: &[u8; STATE_SIZE],
    ) {
        let serial = held.serial();
        self.put(held, OPENING_AT, opening);
        self.put(held, AGREED_AT, agreed);
        self.put(held, STATE_AT[0], state);
        self.select(held, Selector::new(serial, Phase::Agreed, 0));
    }

    /// Adds what the handshake agreed, together with the state that goes with it.
    pub fn agree(&self, held: &mut Held, agreed: &[u8; AGREED_SIZE], state: &[u8; STATE_SIZE]) {
        let slot = 1 - held.selector.slot();
        self.put(held, AGREED_AT, agreed);
        self.put(held, STATE_AT[slot], state);
        self.select(held, Selector::new(held.serial(), Phase::Agreed, slot));
    }

    /// Makes `state` the truth.
    pub fn commit(&self, held: &mut Held, state: &[u8; STATE_SIZE]) {
        let slot = 1 - held.selector.slot();
        self.put(held, STATE_AT[slot], state);
        self.select(held, Selector(held.selector.0 ^ 1 << 8));
    }

    /// Gives the cell back.
    pub fn free(&mut self, mut held: Held) {
        let serial = held.serial().wrapping_add(1);
        self.select(&mut held, Selector::new(serial, Phase::Free, 0));
        self.free.push(held.index);
    }

    fn put<const N: usize>(&self, held: &Held, part: usize, bytes: &[u8; N]) {
        let at = self.table.at(held.index) + part;
        self.table.memory.write(at, bytes);
        let check = check(held.index, held.serial(), part, bytes);
        self.table.memory.store_u32(at + N, check, Ordering::Relaxed);
    }

    fn select(&self, held: &mut Held, selector: Selector) {
        let at = self.table.at(held.index) + SELECTOR_AT;
        // Release: pairs with the Acquire load in `CellTable::read`.
        self.table.memory.store_u64(at, selector.0, Ordering::Release);
        held.selector = selector;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shm::heap::HeapMemory;
    use std::rc::Rc;

    fn writer(memory: &Rc<HeapMemory>) -> CellWriter<Rc<HeapMemory>> {
        CellWriter::attach(memory.clone(), 1, 8).expect("a fresh table")
    }

    #[test]
    fn a_commit_survives_its_writer() {
        let memory = Rc::new(HeapMemory::new(table_size(8)));
        let mut first = writer(&memory);
        let mut held = first.take().expect("room");
        first.open(&mut held, &[1; OPENING_SIZE], &[2; STATE_SIZE]);
        first.agree(&mut held, &[3; AGREED_SIZE], &[4; STATE_SIZE]);
        first.commit(&mut held, &[5; STATE_SIZE]);
        let mut found = Vec::new();
        writer(&memory).recover(|held, image| found.push((held.index(), image)));
        let image = Image {
            serial: 0,
            opening: [1; OPENING_SIZE],
            agreed: Some([3; AGREED_SIZE]),
            state: [5; STATE_SIZE],
        };
        assert_eq!(found, [(0, Ok(image))]);
    }

    #[test]
    fn a_failed_check_is_final() {
        let memory = Rc::new(HeapMemory::new(table_size(8)));
        let mut first = writer(&memory);
        let mut held = first.take().expect("room");
        first.open(&mut held, &[1; OPENING_SIZE], &[2; STATE_SIZE]);
        first.commit(&mut held, &[3; STATE_SIZE]);
        memory.write(HEADER_SIZE + STATE_AT[1] + 7, &[9]);
        assert_eq!(first.table().read(0), Err(CellCorrupt));
        let mut found = Vec::new();
        let mut second = writer(&memory);
        second.recover(|_, image| found.push(image));
        assert_eq!(found, [Err(CellCorrupt)]);
        assert_eq!(second.table().read(0), Ok(None));
    }

    #[test]
    fn a_freed_cell_is_used_again_under_a_new_serial() {
        let memory = Rc::new(HeapMemory::new(table_size(8)));
        let mut first = writer(&memory);
        let mut held = first.take().expect("room");
        first.open(&mut held, &[1; OPENING_SIZE], &[2; STATE_SIZE]);
        first.free(held);
        let held = first.take().expect("room");
        assert_eq!((held.index(), held.serial()), (0, 1));
    }

    #[test]
    fn another_layout_is_refused() {
        let memory = Rc::new(HeapMemory::new(table_size(8)));
        writer(&memory);
        let other = CellWriter::attach(memory, 2, 8).err();
        assert_eq!(other, Some(TableError::Layout { found: 1, wanted: 2 }));
    }
}
