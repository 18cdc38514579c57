//! The commit on its own: every store of a script over one table of cells, a death at each, and a
//! reader that must find either what was before the interrupted step or what came after it.
//!
//! Used by the enumeration (the shipped code passes) and by the mutants (each of them fails).

use crate::crash::{CrashMemory, Process, SharedBytes, Store, Tamper, Use};
use proto::cell::{
    AGREED_SIZE, CellCorrupt, CellTable, CellWriter, Held, Image, OPENING_SIZE, STATE_SIZE, table_size,
};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// Cells in the table of the scripts.
pub const CAPACITY: u32 = 4;
const LAYOUT: u32 = 1;

/// One step of a script. `cell` is the script's own name of a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Take a cell and open it.
    Open(u8),
    /// Add what a handshake agreed.
    Agree(u8),
    /// Commit the next state.
    Commit(u8),
    /// Free it.
    Free(u8),
}

/// A script in which every transition of a cell occurs, cells are used again, and steps of several
/// cells alternate.
pub const SCRIPT: [Step; 26] = {
    use Step::*;
    [
        Open(1),
        Commit(1),
        Commit(1),
        Agree(1),
        Commit(1),
        Open(2),
        Agree(2),
        Commit(1),
        Commit(2),
        Free(1),
        Open(3),
        Commit(3),
        Agree(3),
        Free(2),
        Free(3),
        Open(4),
        Commit(4),
        Open(5),
        Open(6),
        Open(7),
        Commit(7),
        Agree(4),
        Free(5),
        Open(8),
        Free(7),
        Commit(8),
    ]
};

/// What the script has made of one cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    name: u8,
    agreed: Option<u8>,
    state: u8,
}

impl Known {
    fn of(image: &Image) -> Option<Known> {
        let name = uniform(&image.opening)?;
        let agreed = match &image.agreed {
            Some(agreed) => Some(uniform(agreed)?),
            None => None,
        };
        Some(Known { name, agreed, state: uniform(&image.state)? })
    }
}

/// The byte that a part consists of; `None` when it is a mixture.
fn uniform(bytes: &[u8]) -> Option<u8> {
    bytes.iter().all(|&byte| byte == bytes[0]).then_some(bytes[0])
}

/// The script's cells, as they should be, and the writer's holds on them.
#[derive(Default)]
struct Model {
    known: Vec<Known>,
    held: Vec<(u8, Held)>,
    /// Counts up with every step, so that no two states are the same.
    next: u8,
}

impl Model {
    /// What the cells are after `step`.
    fn after(&self, step: Step) -> Vec<Known> {
        let mut known = self.known.clone();
        let at = |name: u8| known.iter().position(|k| k.name == name);
        match step {
            Step::Open(name) => known.push(Known { name, agreed: None, state: self.next }),
            Step::Free(name) => known.retain(|k| k.name != name),
            Step::Agree(name) => {
                let at = at(name).expect("the script agrees on open cells");
                known[at] = Known { name, agreed: Some(self.next), state: self.next };
            }
            Step::Commit(name) => {
                let at = at(name).expect("the script commits open cells");
                known[at].state = self.next;
            }
        }
        known
    }

    fn run(&mut self, writer: &mut CellWriter<CrashMemory>, step: Step) {
        let at = |held: &[(u8, Held)], name: u8| {
            held.iter().position(|(n, _)| *n == name).expect("the script uses open cells")
        };
        let state = [self.next; STATE_SIZE];
        match step {
            Step::Open(name) => {
                let mut held = writer.take().expect("the script fits its table");
                writer.open(&mut held, &[name; OPENING_SIZE], &state);
                self.held.push((name, held));
            }
            Step::Agree(name) => {
                let at = at(&self.held, name);
                writer.agree(&mut self.held[at].1, &[self.next; AGREED_SIZE], &state);
            }
            Step::Commit(name) => {
                let at = at(&self.held, name);
                writer.commit(&mut self.held[at].1, &state);
            }
            Step::Free(name) => {
                let at = at(&self.held, name);
                writer.free(self.held.swap_remove(at).1);
            }
        }
    }
}

/// Every cell as an independent reader sees it, sorted by name.
///
/// # Errors
/// What is wrong: a cell that fails its check, or one that mixes two writes.
fn look(bytes: &Rc<SharedBytes>) -> Result<Vec<Known>, String> {
    let Ok(table) = CellTable::attach(&**bytes, LAYOUT) else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for index in 0..table.high_water() {
        match table.read(index) {
            Ok(None) => {}
            Ok(Some(image)) => {
                found.push(Known::of(&image).ok_or_else(|| format!("cell {index} mixes two writes"))?)
            }
            Err(CellCorrupt) => return Err(format!("cell {index} fails its check")),
        }
    }
    found.sort_unstable_by_key(|known| known.name);
    Ok(found)
}

fn sorted(mut known: Vec<Known>) -> Vec<Known> {
    known.sort_unstable_by_key(|known| known.name);
    known
}

/// Makes the tampers that a mutant puts on each incarnation.
pub type MakeTamper<'a> = &'a dyn Fn() -> Option<Box<dyn Tamper>>;

/// Runs [`SCRIPT`] with deaths after `fuses` effects of the first, second… incarnation, and to its
/// end in the last one. Returns the number of effects of each incarnation.
///
/// # Errors
/// What the oracle found wrong.
pub fn run(fuses: &[u64], tamper: MakeTamper<'_>) -> Result<Vec<u64>, String> {
    let bytes = SharedBytes::new(Use::Cells, table_size(CAPACITY));
    let mut model = Model { next: 1, ..Model::default() };
    let mut script = SCRIPT.iter().copied().peekable();
    let mut effects = Vec::new();
    let mut serials: Vec<(u32, u32, u8)> = Vec::new();
    for fuse in fuses.iter().copied().map(Some).chain([None]) {
        let process = Process::start();
        process.light(fuse);
        process.tamper(tamper());
        let last: Cell<Option<Step>> = Cell::new(None);
        let life = process.run(|| -> Result<(), String> {
            let mut writer = CellWriter::attach(bytes.map(&process), LAYOUT, CAPACITY)
                .map_err(|e| format!("attach: {e}"))?;
            // The successor finds what the reader found, neither more nor less.
            model.held.clear();
            let mut recovered = Vec::new();
            let mut corrupt = 0;
            writer.recover(|held, image| match image.ok().as_ref().and_then(Known::of) {
                Some(known) => {
                    recovered.push(known);
                    model.held.push((known.name, held));
                }
                None => corrupt += 1,
            });
            if corrupt > 0 || sorted(recovered) != sorted(model.known.clone()) {
                return Err("a successor recovers something else than the reader sees".into());
            }
            while let Some(&step) = script.peek() {
                last.set(Some(step));
                let after = model.after(step);
                model.run(&mut writer, step);
                model.known = after;
                model.next += 1;
                script.next();
                last.set(None);
                if sorted(model.known.clone()) != look(&bytes)? {
                    return Err(format!("after {step:?} the table does not say so"));
                }
            }
            Ok(())
        });
        effects.push(process.effects());
        match life {
            Ok(outcome) => {
                outcome?;
                break;
            }
            Err(_) => {
                let found = look(&bytes)?;
                let before = sorted(model.known.clone());
                if found == before {
                    // The step was not done; the successor does it.
                } else if let Some(step) = last.get()
                    && found == sorted(model.after(step))
                {
                    model.known = model.after(step);
                    model.next += 1;
                    script.next();
                } else {
                    return Err(format!(
                        "a death in {:?} leaves {found:?} instead of {before:?}",
                        last.get()
                    ));
                }
            }
        }
    }
    for (name, held) in &model.held {
        serials.push((held.index(), held.serial(), *name));
    }
    serials.sort_unstable();
    serials.dedup_by_key(|(index, ..)| *index);
    if serials.len() != model.known.len() {
        return Err("two names in one cell".into());
    }
    Ok(effects)
}

/// A death at every crash point of [`SCRIPT`], and at `second` points of each recovery and what
/// follows it. Returns how many deaths were tried.
///
/// # Errors
/// The first failure, with its fuses.
pub fn enumerate(tamper: MakeTamper<'_>, second: u64) -> Result<u64, String> {
    let total = run(&[], tamper).map_err(|e| format!("without a death: {e}"))?[0];
    let mut points = 0;
    for first in 0..total {
        run(&[first], tamper).map_err(|e| format!("fuse {first}: {e}"))?;
        points += 1;
        for next in 0..second {
            // Early in the second life, and at points spread over the rest of it.
            let next = if next < second / 2 { next } else { next * 7 + first % 7 };
            run(&[first, next], tamper).map_err(|e| format!("fuses {first}, {next}: {e}"))?;
            points += 1;
        }
    }
    Ok(points)
}

/// Takes down the stores of a writer.
struct Record(Rc<RefCell<Vec<Store>>>);

impl Tamper for Record {
    fn store(&mut self, memory: &Rc<SharedBytes>, at: usize, bytes: &[u8]) -> Vec<Store> {
        self.0.borrow_mut().push((memory.clone(), at, bytes.to_vec()));
        vec![(memory.clone(), at, bytes.to_vec())]
    }
}

/// Lets a writer go on by a number of stores before one load of a reader.
struct Beside {
    log: Rc<RefCell<std::vec::IntoIter<Store>>>,
    loads_before: usize,
    stores: usize,
}

impl Tamper for Beside {
    fn load(&mut self, memory: &Rc<SharedBytes>, at: usize, bytes: &mut [u8]) {
        if self.loads_before == 0 {
            for (memory, at, bytes) in self.log.borrow_mut().by_ref().take(self.stores) {
                memory.poke(at, &bytes);
            }
        }
        self.loads_before = self.loads_before.wrapping_sub(1);
        memory.peek(at, bytes);
    }
}

/// A reader beside the writer of one cell: before each of its loads the writer goes on by every
/// number of stores. It must see a state that was true at some moment of its reading, and never a
/// failed check. Returns how many interleavings were tried.
///
/// # Errors
/// The first interleaving that goes wrong.
pub fn reader_beside_writer() -> Result<u64, String> {
    const COMMITS: u8 = 6;
    /// Loads of one read that meets no change: selector, three parts with their checks, selector.
    const LOADS: usize = 8;
    let mut tried = 0;
    for loads_before in 0..LOADS {
        for start in 0..=usize::from(COMMITS) * 3 {
            for stores in 1..=usize::from(COMMITS) * 3 - start.min(usize::from(COMMITS) * 3) {
                let bytes = SharedBytes::new(Use::Cells, table_size(1));
                let log = Rc::new(RefCell::new(Vec::new()));
                let writing = Process::start();
                let mut writer =
                    CellWriter::attach(bytes.map(&writing), LAYOUT, 1).map_err(|e| e.to_string())?;
                let mut held = writer.take().ok_or("no room")?;
                writer.open(&mut held, &[1; OPENING_SIZE], &[0; STATE_SIZE]);
                let mut before = vec![0; bytes.size()];
                bytes.peek(0, &mut before);
                writing.tamper(Some(Box::new(Record(log.clone()))));
                for state in 1..=COMMITS {
                    writer.commit(&mut held, &[state; STATE_SIZE]);
                }
                bytes.poke(0, &before);
                let log = Rc::new(RefCell::new(log.take().into_iter()));
                for (memory, at, bytes) in log.borrow_mut().by_ref().take(start) {
                    memory.poke(at, &bytes);
                }
                let reading = Process::start();
                let table = CellTable::attach(bytes.map(&reading), LAYOUT).map_err(|e| e.to_string())?;
                reading.tamper(Some(Box::new(Beside { log, loads_before, stores })));
                let (first, last) = ((start / 3) as u8, ((start + stores) / 3) as u8);
                let at = format!("{stores} stores from {start} on before load {loads_before}");
                match table.read(0) {
                    Ok(Some(image)) => {
                        let seen = uniform(&image.state).ok_or_else(|| format!("{at}: a torn state"))?;
                        if !(first..=last).contains(&seen) {
                            return Err(format!("{at}: state {seen} instead of {first} to {last}"));
                        }
                    }
                    Ok(None) => return Err(format!("{at}: reads as free")),
                    Err(CellCorrupt) => return Err(format!("{at}: reads as corrupt")),
                }
                tried += 1;
            }
        }
    }
    Ok(tried)
}
