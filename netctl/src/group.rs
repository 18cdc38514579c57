//! A running group as netctl sees it: read-only regions, asked for once from sockd's admin socket.
//!
//! After [`Access::open`] everything is read from memory, so it works while daemons are down. The
//! regions are written by others at any time; each reader copies, checks, then uses (INV-R1).

use crate::admin;
use core::time::Duration;
use proto::arena::line::{ClientLine, StackLine};
use proto::arena::record::record_size;
use proto::arena::{Geometry, WINDOW_MAX};
use proto::control::messages::{Ended, Region as Tag};
use proto::form::Form;
use proto::hard::processes::{self, Stage};
use proto::hard::{config, conns, registry};
use proto::id::{Epoch, OpId, RecordIndex, Role, Seat, SessionId, SlotIndex};
use proto::run_dir::RunDir;
use proto::shm::region::Region;
use proto::{cell, stats};
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::Path;
use thiserror::Error;

/// Why a verb can't do its work.
#[derive(Debug, Error)]
pub enum Failure {
    /// There is no such group. Exit code 3.
    #[error("no group '{0}' is running")]
    NotRunning(String),
    /// The arguments make no sense. Exit code 2.
    #[error("{0}")]
    Usage(String),
    /// This machine has not what the verb needs. Exit code 5.
    #[error("{0}")]
    Missing(String),
    /// Probes can't be sent, or nobody has that name. Exit code 2, as ping(8) has it.
    #[error("{0}: {1}")]
    Probe(String, io::Error),
    /// The change was refused, or something went wrong. Exit code 1.
    #[error("{0}")]
    Refused(String),
    /// The kernel refused. Exit code 1.
    #[error("{0}: {1}")]
    Io(&'static str, io::Error),
}

impl Failure {
    /// The exit code that goes with it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Failure::NotRunning(_) => 3,
            Failure::Usage(_) | Failure::Probe(..) => 2,
            Failure::Missing(_) => 5,
            Failure::Refused(_) | Failure::Io(..) => 1,
        }
    }
}

/// One process of the group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessRow {
    /// What it does.
    pub role: Role,
    /// Its shard or interface.
    pub index: u16,
    /// Its process id; 0 between two incarnations.
    pub pid: u32,
    /// Its generation.
    pub generation: u32,
    /// How often the seat was started again.
    pub restarts: u32,
    /// Since when it runs.
    pub uptime: Duration,
    /// How the one before it ended, if there was one.
    pub last_end: Option<Ended>,
    /// Attached and serving.
    pub in_service: bool,
}

/// A socket's record, with its owner where sockd names one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketRow {
    /// Where it stands in its shard's table.
    pub index: RecordIndex,
    /// What it is.
    pub opening: conns::Opening,
    /// What the handshake agreed.
    pub agreed: Option<conns::Agreed>,
    /// Where it stands.
    pub state: conns::State,
    /// User and process of its session.
    pub owner: Option<(u32, u32)>,
}

impl SocketRow {
    /// Its place in its session's arena, and which use of it; `None` while it has none.
    fn place(&self) -> Option<(SlotIndex, Epoch)> {
        match (self.opening.kind, self.agreed) {
            (_, Some(conns::Agreed::Passive { slot, epoch, .. })) => Some((slot, epoch)),
            (conns::Kind::TcpPassive, _) => None,
            _ => Some((self.opening.slot, self.opening.epoch)),
        }
    }

    /// It has a record in every shard, and is one socket.
    const fn is_everywhere(&self) -> bool {
        matches!(self.opening.kind, conns::Kind::TcpListener | conns::Kind::Udp)
    }

    /// What `ss` calls its protocol.
    pub const fn proto(&self) -> &'static str {
        match (self.opening.kind, self.opening.form) {
            (conns::Kind::Udp, Form::Udp) => "udp",
            (conns::Kind::Udp, Form::Ping) => "icmp",
            (conns::Kind::Udp, Form::Raw { .. }) => "raw",
            (conns::Kind::Udp, Form::Packet { cooked: false, .. }) => "p_raw",
            (conns::Kind::Udp, Form::Packet { cooked: true, .. }) => "p_dgr",
            _ => "tcp",
        }
    }

    /// What `ss` calls its state.
    pub const fn state_name(&self) -> &'static str {
        match self.opening.kind {
            conns::Kind::Udp if self.opening.remote.port() == 0 => "UNCONN",
            conns::Kind::Udp => "ESTAB",
            _ => self.state.tcp_state.name(),
        }
    }
}

/// A socket as its host has it, with what waits in it; `None` when its client is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostSocket {
    /// Its record; of one that lies in every shard the first one's.
    pub row: SocketRow,
    /// Of all of its places.
    pub queues: Option<Queues>,
}

impl HostSocket {
    /// Recv-Q and Send-Q as ss(8) shows them: bytes not read and bytes not acknowledged; of a listener
    /// the connections that wait for accept and how many may. Of a socket without a client what its
    /// record says.
    pub fn both_queues(&self) -> (u64, u64) {
        let HostSocket { row, queues } = self;
        let waiting = queues.unwrap_or_default();
        match row.opening.kind {
            conns::Kind::TcpListener => {
                let backlog = waiting.backlog.unwrap_or(row.opening.backlog);
                (waiting.received / record_size(0) as u64, backlog.into())
            }
            conns::Kind::Udp => (waiting.received, waiting.sent),
            conns::Kind::TcpActive | conns::Kind::TcpPassive => {
                let unacknowledged = queues.map_or(u64::from(row.state.snd_max), |queues| queues.sent);
                // What waits behind a hole is received, and no ordered read reaches it.
                let out_of_order: u64 = row.state.ooo.iter().map(|&(_, len)| u64::from(len)).sum();
                (waiting.received + out_of_order, unacknowledged)
            }
        }
    }
}

/// What waits in a socket, from the cursors in its arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Queues {
    /// Bytes that came and were not read.
    pub received: u64,
    /// Bytes that were written and not acknowledged.
    pub sent: u64,
    /// Segments sent again.
    pub retransmits: u32,
    /// Bytes that may wait to be read, where the client has said so; 0 where it has not.
    pub receive_limit: u32,
    /// Bytes that may be written and not acknowledged.
    pub send_limit: u32,
    /// Of a listener: how many connections may wait for accept, where the client has said so since.
    pub backlog: Option<u32>,
}

/// Reads a place's two lines. Each of them is copied out once; what stands there was written by
/// others and need not be true: `None` for another use of the place and for cursors that can't be.
fn queues(arena: &Region, geometry: &Geometry, slot: SlotIndex, epoch: Epoch) -> Option<Queues> {
    if slot.0 >= geometry.sockets() {
        return None;
    }
    // What is consumed was received before, and what is acknowledged was written before.
    let reader = ClientLine::load(arena, geometry, slot);
    let stack = StackLine::load(arena, geometry, slot);
    let writer = ClientLine::load(arena, geometry, slot);
    if stack.epoch != epoch {
        return None;
    }
    // A client that has not begun to use the place has read and written nothing.
    let consumed = if reader.epoch == epoch { reader.consumed } else { 0 };
    let written = if writer.epoch == epoch { writer.written } else { 0 };
    let distance = |from: u64, to: u64| to.checked_sub(from).filter(|len| *len <= u64::from(WINDOW_MAX));
    Some(Queues {
        received: distance(consumed, stack.received)?,
        // The end of the stream counts in `acked` of a client that wrote nothing.
        sent: distance(stack.acked.min(written), written)?,
        retransmits: stack.retransmits,
        receive_limit: if reader.epoch == epoch { reader.rcvbuf } else { 0 },
        send_limit: stack.window,
        backlog: if reader.epoch == epoch { reader.backlog() } else { None },
    })
}

/// Records of one socket in several shards become one.
fn joined(rows: impl Iterator<Item = (SocketRow, Option<Queues>)>) -> Vec<HostSocket> {
    let (mut found, mut lines): (Vec<HostSocket>, HashMap<OpId, usize>) = Default::default();
    for (row, queues) in rows {
        match lines.entry(row.opening.op) {
            Entry::Occupied(line) if row.is_everywhere() => {
                let Some(more) = queues else { continue };
                let sum = found[*line.get()].queues.get_or_insert_default();
                (sum.received, sum.sent) = (sum.received + more.received, sum.sent + more.sent);
            }
            entry => {
                if row.is_everywhere() {
                    entry.insert_entry(found.len());
                }
                found.push(HostSocket { row, queues });
            }
        }
    }
    found
}

/// Mapped regions of a group.
#[derive(Debug)]
pub struct Access {
    place: RunDir,
    regions: BTreeMap<Tag, Region>,
    faults: Vec<String>,
}

impl Access {
    /// Asks for the regions of group `name` in `dir`.
    ///
    /// # Errors
    /// [`Failure::NotRunning`] when nobody listens there; else what went wrong.
    pub fn open(dir: &Path, name: &str) -> Result<Access, Failure> {
        Access::at(RunDir::at(dir, name))
    }

    /// As [`Access::open`], for the group of that name that can be seen from here.
    ///
    /// # Errors
    /// As [`Access::open`].
    pub fn find(name: &str) -> Result<Access, Failure> {
        let place = RunDir::find(name).ok_or_else(|| Failure::NotRunning(name.into()))?;
        Access::at(place)
    }

    fn at(place: RunDir) -> Result<Access, Failure> {
        let admin::Regions { faults, mapped } = admin::regions(&place)?;
        Ok(Access { place, regions: mapped, faults })
    }

    /// Deliberate faults for tests, `key=value`; empty in ordinary use.
    pub fn faults(&self) -> Vec<String> {
        self.faults.clone()
    }

    /// Where the group lives.
    pub fn place(&self) -> &RunDir {
        &self.place
    }

    /// The capture rings, by shard.
    pub fn captures(&self) -> impl Iterator<Item = &Region> {
        self.regions.iter().filter(|(tag, _)| matches!(tag, Tag::Capture(_))).map(|(_, region)| region)
    }

    /// Every process, supervisors first; empty when the table can't be read.
    pub fn processes(&self) -> Vec<ProcessRow> {
        let now = proto::control::clock::now();
        let rows = self.regions.get(&Tag::Processes).and_then(|region| processes::read(region).ok());
        let rows = rows.map(|(_, rows)| rows).unwrap_or_default();
        let row = |row: processes::Row| ProcessRow {
            role: row.seat.role,
            index: row.seat.index,
            pid: row.pid,
            generation: row.generation.0,
            restarts: row.restarts,
            uptime: now.since(row.started_at),
            last_end: row.last_end,
            in_service: row.stage == Stage::Ready,
        };
        rows.into_iter().map(row).collect()
    }

    /// Every socket of every shard. A record that does not match its check is left out.
    pub fn sockets(&self) -> Vec<SocketRow> {
        let owners = self.owners();
        let mut rows = Vec::new();
        for (_, region) in self.regions.iter().filter(|(tag, _)| matches!(tag, Tag::Conns(_))) {
            let Ok(table) = cell::CellTable::attach(region, conns::LAYOUT) else { continue };
            for index in 0..table.high_water() {
                let Ok(Some(image)) = table.read(index) else { continue };
                let Some(opening) = conns::Opening::from_bytes(&image.opening) else { continue };
                let Some(state) = conns::State::from_bytes(&image.state) else { continue };
                let agreed = image.agreed.and_then(|bytes| conns::Agreed::from_bytes(opening.kind, &bytes));
                let owner = owners.get(&opening.session).copied();
                rows.push(SocketRow { index: RecordIndex(index), opening, agreed, state, owner });
            }
        }
        rows
    }

    /// Every socket as its host has it: what lies in every shard is one. Asks sockd for the arenas.
    ///
    /// # Errors
    /// [`Failure`] when sockd does not answer.
    pub fn host_sockets(&self) -> Result<Vec<HostSocket>, Failure> {
        let rows = self.sockets();
        let queues = self.queues(&rows)?;
        Ok(joined(rows.into_iter().zip(queues)))
    }

    /// As [`Access::host_sockets`], without what waits in them: nobody is asked.
    pub fn host_sockets_alone(&self) -> Vec<HostSocket> {
        joined(self.sockets().into_iter().map(|row| (row, None)))
    }

    /// What waits in each of `rows`; nothing of a socket whose client is gone. Asks sockd for the
    /// arenas.
    ///
    /// # Errors
    /// [`Failure`] when sockd does not answer.
    fn queues(&self, rows: &[SocketRow]) -> Result<Vec<Option<Queues>>, Failure> {
        let mut found = vec![None; rows.len()];
        let mut by_session: BTreeMap<SessionId, Vec<usize>> = BTreeMap::new();
        for (n, row) in rows.iter().enumerate().filter(|(_, row)| !row.state.detached) {
            by_session.entry(row.opening.session).or_default().push(n);
        }
        admin::arenas(&self.place, |session, geometry, arena| {
            for &n in by_session.get(&session).into_iter().flatten() {
                found[n] = rows[n].place().and_then(|(slot, epoch)| queues(arena, geometry, slot, epoch));
            }
        })?;
        Ok(found)
    }

    /// User and process of every session.
    fn owners(&self) -> BTreeMap<SessionId, (u32, u32)> {
        let table = self.regions.get(&Tag::Registry);
        let table = table.and_then(|region| cell::CellTable::attach(region, registry::LAYOUT).ok());
        let records = table.iter().flat_map(|table| {
            let images = (0..table.high_water()).filter_map(|index| table.read(index).ok().flatten());
            images.filter_map(|image| registry::Record::from_image(&image))
        });
        records
            .filter_map(|record| match record {
                registry::Record::Session(session, _) => Some((session.id, (session.uid, session.pid))),
                _ => None,
            })
            .collect()
    }

    /// The configuration; empty before netd has written any.
    pub fn config(&self) -> Vec<config::Record> {
        self.regions.get(&Tag::Config).and_then(|region| config::read(region).ok()).unwrap_or_default()
    }

    /// The statistics region of every seat that has written one.
    pub fn stats(&self) -> impl Iterator<Item = (Seat, &Region)> {
        self.regions.iter().filter_map(|(tag, region)| match tag {
            Tag::Stats(seat) => Some((*seat, region)),
            _ => None,
        })
    }

    /// Every counter, seats of one role added up, in the order of roles and names.
    pub fn counters(&self) -> BTreeMap<(Role, String), u64> {
        let mut sum = BTreeMap::new();
        for (seat, region) in self.stats() {
            for (name, count) in stats::table::read(region).unwrap_or_default() {
                *sum.entry((seat.role, name)).or_default() += count;
            }
        }
        sum
    }
}
