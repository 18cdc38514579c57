//! The connection table as somebody else reads it: what is committed at this moment.

use crate::crash::{PAGE, SharedBytes};
use proto::cell::CellTable;
use proto::hard::conns::{Agreed, Kind, LAYOUT, Opening, Options, State};
use proto::id::{Epoch, SessionId, SlotIndex};
use std::net::SocketAddr;

/// A record of the connection table.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Record {
    /// Its cell.
    pub index: u32,
    /// Which use of the cell.
    pub serial: u32,
    /// The written-once part.
    pub opening: Opening,
    /// What the handshake agreed, if it ended.
    pub agreed: Option<Agreed>,
    /// What is committed.
    pub state: State,
}

impl Record {
    /// Our and the remote's end.
    pub fn flow(&self) -> (SocketAddr, SocketAddr) {
        (self.opening.local, self.opening.remote)
    }

    /// Whether it stands for a connection.
    pub fn is_connection(&self) -> bool {
        matches!(self.opening.kind, Kind::TcpActive | Kind::TcpPassive)
    }

    /// The remote's initial sequence number, once it is written down.
    pub fn irs(&self) -> Option<u32> {
        match (self.opening.kind, self.agreed) {
            (Kind::TcpPassive, _) => Some(self.opening.irs),
            (_, Some(Agreed::Active { irs, .. })) => Some(irs),
            _ => None,
        }
    }

    /// What both SYNs agreed, once it is written down.
    pub fn options(&self) -> Option<Options> {
        match (self.opening.kind, self.agreed) {
            (Kind::TcpPassive, _) => Some(self.opening.options),
            (_, Some(Agreed::Active { options, .. })) => Some(options),
            _ => None,
        }
    }

    /// Its place in an arena, when it has one that is looked at.
    pub fn place(&self) -> Option<(SessionId, SlotIndex, Epoch)> {
        if self.state.detached {
            return None;
        }
        match (self.opening.kind, self.agreed) {
            (Kind::TcpPassive, Some(Agreed::Passive { slot, epoch, .. })) => {
                Some((self.opening.session, slot, epoch))
            }
            (Kind::TcpPassive, _) => None,
            _ => Some((self.opening.session, self.opening.slot, self.opening.epoch)),
        }
    }
}

/// A cell that can't be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unreadable(pub u32);

/// The record in cell `index`; `None` when it is free.
///
/// # Errors
/// [`Unreadable`] when it fails its check or makes no sense.
pub fn read(bytes: &SharedBytes, index: u32) -> Result<Option<Record>, Unreadable> {
    let Ok(table) = CellTable::attach(bytes, LAYOUT) else { return Ok(None) };
    read_from(&table, index)
}

fn read_from(table: &CellTable<&SharedBytes>, index: u32) -> Result<Option<Record>, Unreadable> {
    let unreadable = Unreadable(index);
    let Some(image) = table.read(index).map_err(|_| unreadable)? else { return Ok(None) };
    let opening = Opening::from_bytes(&image.opening).ok_or(unreadable)?;
    let agreed = match image.agreed {
        Some(bytes) => Some(Agreed::from_bytes(opening.kind, &bytes).ok_or(unreadable)?),
        None => None,
    };
    let state = State::from_bytes(&image.state).ok_or(unreadable)?;
    Ok(Some(Record { index, serial: image.serial, opening, agreed, state }))
}

/// A table that is looked at again and again: only what changed is read.
#[derive(Debug, Default)]
pub struct Table {
    versions: Vec<u64>,
    cells: Vec<Result<Option<Record>, Unreadable>>,
}

const CELLS_A_PAGE: usize = PAGE / proto::cell::CELL_SIZE;

impl Table {
    /// Looks at the table once more.
    pub fn look(&mut self, bytes: &SharedBytes) {
        let Ok(table) = CellTable::attach(bytes, LAYOUT) else { return };
        let cells = table.high_water() as usize;
        self.cells.resize(cells.max(self.cells.len()), Ok(None));
        // The table's header takes the place of one cell.
        let pages = (cells + 1).div_ceil(CELLS_A_PAGE);
        self.versions.resize(pages.max(self.versions.len()), 0);
        for page in 0..pages {
            let version = bytes.version(page);
            if std::mem::replace(&mut self.versions[page], version) == version {
                continue;
            }
            for cell in page * CELLS_A_PAGE..(page + 1) * CELLS_A_PAGE {
                if (1..=cells).contains(&cell) {
                    self.cells[cell - 1] = read_from(&table, cell as u32 - 1);
                }
            }
        }
    }

    /// The records in it.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.cells.iter().filter_map(|cell| cell.as_ref().ok()?.as_ref())
    }

    /// The record in cell `index`.
    pub fn get(&self, index: u32) -> Option<&Record> {
        self.cells.get(index as usize)?.as_ref().ok()?.as_ref()
    }

    /// Whether the cell can't be read.
    pub fn is_unreadable(&self, index: u32) -> bool {
        self.cells.get(index as usize).is_some_and(Result::is_err)
    }
}

/// Every record, in the order of their cells, and the cells that can't be read.
pub fn scan(bytes: &SharedBytes) -> (Vec<Record>, Vec<Unreadable>) {
    let (mut records, mut unreadable) = (Vec::new(), Vec::new());
    if let Ok(table) = CellTable::attach(bytes, LAYOUT) {
        for index in 0..table.high_water() {
            match read_from(&table, index) {
                Ok(Some(record)) => records.push(record),
                Ok(None) => {}
                Err(cell) => unreadable.push(cell),
            }
        }
    }
    (records, unreadable)
}
