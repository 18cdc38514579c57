//! Mutants of the commit, as data: what a process does to memory is altered, the shipped code runs
//! as it is.

use crate::crash::{Point, SharedBytes, Store, Tamper};
use proto::cell::{CELL_SIZE, STATE_SIZE};
use std::rc::Rc;

/// Where the two state slots of a cell lie; `proto::cell` draws it.
const STATE_AT: [usize; 2] = [128, 192];

/// Alterations of what a process stores and loads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryMutant {
    /// The selector is stored before the parts that it names.
    SelectorFirst,
    /// Parts are written without their check.
    NoCheck,
    /// Every n-th commit is left out.
    CommitSkipped(u32),
    /// The state is written over the selected slot instead of beside it.
    InPlace,
    /// A successor takes the older of the two states.
    OlderSlot,
}

impl MemoryMutant {
    /// The tamper that does it, for one incarnation.
    pub fn tamper(self) -> Box<dyn Tamper> {
        Box::new(Altered { mutant: self, held: Vec::new(), commits: 0 })
    }
}

struct Altered {
    mutant: MemoryMutant,
    held: Vec<Store>,
    commits: u32,
}

fn is_check(at: usize) -> bool {
    let within = at % CELL_SIZE;
    STATE_AT.iter().any(|state| within == state + STATE_SIZE)
}

impl Tamper for Altered {
    fn store(&mut self, memory: &Rc<SharedBytes>, at: usize, bytes: &[u8]) -> Vec<Store> {
        let this = (memory.clone(), at, bytes.to_vec());
        match (self.mutant, memory.purpose.point(at)) {
            (MemoryMutant::SelectorFirst, Point::CellPart) => {
                self.held.push(this);
                Vec::new()
            }
            (MemoryMutant::SelectorFirst, Point::Selector) => {
                std::iter::once(this).chain(self.held.drain(..)).collect()
            }
            (MemoryMutant::NoCheck, Point::CellPart) if is_check(at) => Vec::new(),
            (MemoryMutant::CommitSkipped(every), Point::Selector) => {
                self.commits += 1;
                if self.commits.is_multiple_of(every) { Vec::new() } else { vec![this] }
            }
            (MemoryMutant::InPlace, Point::CellPart) if at % CELL_SIZE >= STATE_AT[0] => {
                // Both slots are one: a state is overwritten while it is the truth.
                let other = at - at % CELL_SIZE + (at % CELL_SIZE - STATE_AT[0]) % 64;
                let mut stores = vec![this.clone()];
                for slot in STATE_AT {
                    let twin = other + slot;
                    if twin != at {
                        stores.push((memory.clone(), twin, bytes.to_vec()));
                    }
                }
                stores
            }
            _ => vec![this],
        }
    }

    fn load(&mut self, memory: &Rc<SharedBytes>, at: usize, bytes: &mut [u8]) {
        if self.mutant == MemoryMutant::OlderSlot
            && memory.purpose.point(at) == Point::Selector
            && bytes[0] != 0
        {
            bytes[1] ^= 1;
        }
    }

    fn end_of_batch(&mut self) -> Vec<Store> {
        std::mem::take(&mut self.held)
    }
}
