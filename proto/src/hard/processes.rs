//! The table of processes: who runs in which seat, since when, and how the one before ended.
//!
//! Written by the active supervisor alone, read by sockd and netctl also while anything is down.
//! One cell per seat, and one for the group.
//!
//! ```text
//! opening  kind u8 │ seat: role u8, index u16    state  pid u32, generation u32, restarts u32,
//!                  │ group: name, 64 bytes               started_at u64, ended (u8, i32), state u8
//!                                                state  shards u16, nics u16, conns u32,
//!                                                       supervisors one priority above u8
//! ```

use super::pack::{Pack, Unpack};
use crate::cell::{CellTable, CellWriter, Held, Image, OPENING_SIZE, STATE_SIZE, TableError, table_size};
use crate::control::messages::Ended;
use crate::id::{Generation, Role, Seat};
use crate::shm::Memory;
use crate::time::Instant;
use std::collections::BTreeMap;

/// Layout version of the region; changes with any field below.
pub const LAYOUT: u32 = 2;
/// Seats there is room for, and the group itself.
pub const CAPACITY: u32 = 192;
/// Size of the region in bytes.
pub const REGION_SIZE: usize = table_size(CAPACITY);
/// The longest name of a group, in bytes.
pub const NAME_MAX: usize = 64;

const KIND_SEAT: u8 = 1;
const KIND_GROUP: u8 = 2;

/// How far an incarnation has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    /// Nothing runs there: between two incarnations, or not restarted (see the last end).
    Down = 0,
    /// Started, not yet in service.
    Starting = 1,
    /// In service.
    Ready = 2,
}

/// A seat's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Whose row it is.
    pub seat: Seat,
    /// Process id of the incarnation; 0 when there is none.
    pub pid: u32,
    /// Its generation, or that of the last one.
    pub generation: Generation,
    /// How often the seat was started again.
    pub restarts: u32,
    /// When it was started.
    pub started_at: Instant,
    /// How the one before ended; `None` when there was none.
    pub last_end: Option<Ended>,
    /// How far it has come.
    pub stage: Stage,
}

/// The group's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its name, at most [`NAME_MAX`] bytes.
    pub name: String,
    /// Number of netd.
    pub shards: u16,
    /// Number of nicd.
    pub nics: u16,
    /// Cells of each connection table.
    pub conns: u32,
    /// The supervisors run one priority above the daemons.
    pub prioritised: bool,
}

/// The one writer.
#[derive(Debug)]
pub struct ProcessesWriter<M> {
    cells: CellWriter<M>,
    rows: BTreeMap<Seat, (Held, Row)>,
    group: Option<(Held, Group)>,
}

impl<M: Memory> ProcessesWriter<M> {
    /// In zeroed memory, or after an earlier supervisor.
    ///
    /// # Errors
    /// [`TableError`] when the memory holds something else.
    pub fn attach(memory: M) -> Result<Self, TableError> {
        let mut cells = CellWriter::attach(memory, LAYOUT, CAPACITY)?;
        let (mut rows, mut group, mut unread) = (BTreeMap::new(), None, Vec::new());
        cells.recover(|held, image| match image.ok().and_then(|image| parse(&image)) {
            Some(Parsed::Row(row)) => drop(rows.insert(row.seat, (held, row))),
            Some(Parsed::Group(found)) => group = Some((held, found)),
            None => unread.push(held),
        });
        // A corrupt cell was freed by the recovery itself; one of an unknown kind can't be, under
        // the same layout version.
        drop(unread);
        Ok(ProcessesWriter { cells, rows, group })
    }

    /// Writes a seat's row, if it differs from what stands there. Without room it is left out.
    pub fn put(&mut self, row: Row) {
        match self.rows.get_mut(&row.seat) {
            Some((_, old)) if *old == row => {}
            Some((held, old)) => {
                self.cells.commit(held, &row_state(&row));
                *old = row;
            }
            None => {
                let Some(mut held) = self.cells.take() else { return };
                let mut opening = Pack::new();
                opening.u8(KIND_SEAT);
                opening.u8(role_number(row.seat.role));
                opening.u16(row.seat.index);
                self.cells.open(&mut held, &opening.finish(), &row_state(&row));
                self.rows.insert(row.seat, (held, row));
            }
        }
    }

    /// Writes the group's row, if it differs from what stands there.
    ///
    /// # Panics
    /// When the name is longer than [`NAME_MAX`]: the configuration has been checked.
    pub fn put_group(&mut self, group: Group) {
        if self.group.as_ref().is_some_and(|(_, old)| *old == group) {
            return;
        }
        if let Some((held, _)) = self.group.take() {
            self.cells.free(held);
        }
        let Some(mut held) = self.cells.take() else { return };
        let mut opening = [0; OPENING_SIZE];
        let name = group.name.as_bytes();
        assert!(name.len() <= NAME_MAX, "a group's name is short");
        opening[0] = KIND_GROUP;
        opening[1] = name.len() as u8;
        opening[2..2 + name.len()].copy_from_slice(name);
        let mut state = Pack::new();
        state.u16(group.shards);
        state.u16(group.nics);
        state.u32(group.conns);
        state.u8(u8::from(group.prioritised));
        self.cells.open(&mut held, &opening, &state.finish());
        self.group = Some((held, group));
    }
}

/// What the table says, for readers: the group if it is there, and the rows in order of seats.
/// What does not decode is left out.
///
/// # Errors
/// [`TableError`] when the memory holds something else.
pub fn read<M: Memory>(memory: M) -> Result<(Option<Group>, Vec<Row>), TableError> {
    let table = CellTable::attach(memory, LAYOUT)?;
    let (mut group, mut rows) = (None, Vec::new());
    for index in 0..table.high_water() {
        match table.read(index).ok().flatten().and_then(|image| parse(&image)) {
            Some(Parsed::Row(row)) => rows.push(row),
            Some(Parsed::Group(found)) => group = Some(found),
            None => {}
        }
    }
    rows.sort_by_key(|row| row.seat);
    Ok((group, rows))
}

enum Parsed {
    Row(Row),
    Group(Group),
}

fn parse(image: &Image) -> Option<Parsed> {
    let mut opening = Unpack::new(&image.opening);
    let mut state = Unpack::new(&image.state);
    match opening.u8() {
        KIND_SEAT => Some(Parsed::Row(Row {
            seat: Seat::new(role_from(opening.u8())?, opening.u16()),
            pid: state.u32(),
            generation: Generation(state.u32()),
            restarts: state.u32(),
            started_at: Instant::from_nanos(state.u64()),
            last_end: end_from(state.u8(), state.u32().cast_signed())?,
            stage: [Stage::Down, Stage::Starting, Stage::Ready].into_iter().nth(usize::from(state.u8()))?,
        })),
        KIND_GROUP => {
            let len = usize::from(opening.u8());
            let name = image.opening.get(2..2 + len.min(NAME_MAX))?;
            Some(Parsed::Group(Group {
                name: String::from_utf8(name.to_vec()).ok()?,
                shards: state.u16(),
                nics: state.u16(),
                conns: state.u32(),
                prioritised: state.u8() != 0,
            }))
        }
        _ => None,
    }
}

fn row_state(row: &Row) -> [u8; STATE_SIZE] {
    let mut state = Pack::new();
    state.u32(row.pid);
    state.u32(row.generation.0);
    state.u32(row.restarts);
    state.u64(row.started_at.nanos());
    let (kind, number) = match row.last_end {
        None => (0, 0),
        Some(Ended::Exit(code)) => (1, code),
        Some(Ended::Signal(signal)) => (2, signal),
        Some(Ended::Unknown) => (3, 0),
    };
    state.u8(kind);
    state.u32(number.cast_unsigned());
    state.u8(row.stage as u8);
    state.finish()
}

fn end_from(kind: u8, number: i32) -> Option<Option<Ended>> {
    match kind {
        0 => Some(None),
        1 => Some(Some(Ended::Exit(number))),
        2 => Some(Some(Ended::Signal(number))),
        3 => Some(Some(Ended::Unknown)),
        _ => None,
    }
}

const ROLES: [Role; 5] = [Role::Supervisor, Role::Standby, Role::Nicd, Role::Netd, Role::Sockd];

fn role_number(role: Role) -> u8 {
    ROLES.iter().position(|&r| r == role).expect("all roles are listed") as u8
}

fn role_from(number: u8) -> Option<Role> {
    ROLES.get(usize::from(number)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shm::heap::HeapMemory;
    use std::rc::Rc;

    fn row(role: Role, pid: u32, last_end: Option<Ended>) -> Row {
        Row {
            seat: Seat::new(role, 1),
            pid,
            generation: Generation(pid + 1),
            restarts: 3,
            started_at: Instant::from_millis(17),
            last_end,
            stage: Stage::Ready,
        }
    }

    #[test]
    fn rows_are_read_back_and_survive_their_writer() {
        let memory = Rc::new(HeapMemory::new(REGION_SIZE));
        let group = Group { name: "a group".to_owned(), shards: 2, nics: 1, conns: 4096, prioritised: true };
        let mut first = ProcessesWriter::attach(memory.clone()).expect("zeroed");
        let rows = [
            row(Role::Supervisor, 1, None),
            row(Role::Netd, 2, Some(Ended::Signal(9))),
            row(Role::Sockd, 3, Some(Ended::Exit(-1))),
        ];
        rows.into_iter().for_each(|row| first.put(row));
        first.put_group(group.clone());
        assert_eq!(read(memory.clone()), Ok((Some(group.clone()), rows.to_vec())));
        let mut second = ProcessesWriter::attach(memory.clone()).expect("left by the first");
        let newer = Row { pid: 9, stage: Stage::Down, last_end: Some(Ended::Unknown), ..rows[1] };
        second.put(newer);
        second.put_group(group.clone());
        assert_eq!(read(memory), Ok((Some(group), vec![rows[0], newer, rows[2]])));
    }

    #[test]
    fn the_same_row_is_not_written_again() {
        let memory = Rc::new(HeapMemory::new(REGION_SIZE));
        let mut writer = ProcessesWriter::attach(memory.clone()).expect("zeroed");
        writer.put(row(Role::Nicd, 5, None));
        let mut before = vec![0; REGION_SIZE];
        memory.read(0, &mut before);
        writer.put(row(Role::Nicd, 5, None));
        let mut after = vec![0; REGION_SIZE];
        memory.read(0, &mut after);
        assert!(before == after);
    }

    #[test]
    fn foreign_memory_is_refused() {
        let memory = Rc::new(HeapMemory::new(REGION_SIZE));
        memory.write(0, b"something");
        assert!(read(memory.clone()).is_err() && ProcessesWriter::attach(memory).is_err());
    }
}
