//! The connection table as somebody else reads it: what is committed at this moment.

use crate::crash::SharedBytes;
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
