//! What the clients of a world are to do, and what they share: tasks, a plan for each end of each
//! connection, names of connections, datagrams that were seen.

use crate::oracle::{ConnId, Oracle, Side};
use proto::Instant;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

/// How an end of a connection is brought to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// Writes all, says so (half-close), reads to the end, closes.
    Orderly,
    /// Writes all, reads to the end, then closes; the FIN leaves with the close.
    AfterEnd,
    /// Closes as soon as all is written.
    Close,
    /// Resets as soon as all is written.
    Abort,
    /// Half-closes, reads to the end, and keeps the socket until the client ends.
    Keep,
}

/// What an end of a connection does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Bytes it writes.
    pub total: u64,
    /// The most it writes at a time.
    pub write_max: u64,
    /// The most it reads at a time.
    pub read_max: u64,
    /// The longest pause before it goes on writing or reading.
    pub think: Duration,
    /// How it ends.
    pub finish: Finish,
    /// Socket options it sets, of `arena::line::want`.
    pub options: u32,
}

impl Plan {
    /// Writes `total` bytes as fast as it can and ends in order.
    pub const fn of(total: u64, finish: Finish) -> Plan {
        let most = 1 << 20;
        Plan { total, write_max: most, read_max: most, think: Duration::ZERO, finish, options: 0 }
    }
}

/// The plans of both ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dialogue {
    /// The connecting end.
    pub active: Plan,
    /// The accepting end.
    pub passive: Plan,
}

/// What a client does, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Listens.
    Listen {
        /// On which port.
        port: u16,
        /// How many connections may wait.
        backlog: u32,
    },
    /// Opens a connection; does not wait for it.
    Connect {
        /// Its name.
        conn: ConnId,
        /// From where; port 0 lets sockd choose.
        local: SocketAddr,
        /// Where to.
        remote: SocketAddr,
    },
    /// Opens a datagram socket.
    Datagram {
        /// On which port.
        port: u16,
    },
    /// Sends numbered datagrams from the socket on `port`.
    Send {
        /// The socket's port.
        port: u16,
        /// Where to.
        remote: SocketAddr,
        /// How many.
        count: u32,
        /// Payload bytes of each; at least 16.
        len: u32,
    },
    /// Closes the listener or datagram socket on a port.
    Close {
        /// Which port.
        port: u16,
    },
    /// Goes on when this time has come.
    Wait(Instant),
    /// Goes on when every connection of this client is closed.
    Settle,
    /// Ends as a program ends that returns from main: all at once.
    Exit,
}

/// How an accepting client knows which connection it has got.
#[derive(Debug, Default)]
pub struct Directory {
    names: BTreeMap<(SocketAddr, SocketAddr), ConnId>,
    dialogues: BTreeMap<ConnId, Dialogue>,
    /// Ports on which nobody listens any more.
    closed: BTreeSet<SocketAddr>,
}

impl Directory {
    /// Makes a connection's plans known.
    pub fn plan(&mut self, conn: ConnId, dialogue: Dialogue) {
        self.dialogues.insert(conn, dialogue);
    }

    /// The latest connection between these ends.
    pub fn find(&self, active: SocketAddr, passive: SocketAddr) -> Option<ConnId> {
        self.names.get(&(active, passive)).copied()
    }

    /// The plan of one end.
    pub fn plan_of(&self, conn: ConnId, side: Side) -> Plan {
        let dialogue = &self.dialogues[&conn];
        match side {
            Side::Active => dialogue.active,
            Side::Passive => dialogue.passive,
        }
    }
}

/// What datagrams have been seen. Datagram `n` of a sender carries its sender's port and `n`.
#[derive(Debug, Default)]
pub struct Datagrams {
    /// How many were sent.
    pub sent: u64,
    /// How often each was received, by its sender and number.
    pub received: BTreeMap<(SocketAddr, u32), u32>,
}

/// What all clients of a world share.
#[derive(Debug, Default)]
pub struct Shared {
    /// The oracle.
    pub oracle: RefCell<Oracle>,
    /// Names and plans.
    pub directory: RefCell<Directory>,
    /// Datagrams.
    pub datagrams: RefCell<Datagrams>,
}

impl Shared {
    /// A connection has its ends, before its first SYN leaves.
    pub fn name(&self, active: SocketAddr, passive: SocketAddr, conn: ConnId) {
        if std::env::var_os("AXOLOTL_TRACE").is_some() {
            println!("conn {} is {active} to {passive}", conn.0);
        }
        let mut directory = self.directory.borrow_mut();
        directory.names.insert((active, passive), conn);
        if directory.closed.contains(&passive) {
            self.oracle.borrow_mut().may_fail(conn, "nobody listens any more");
        }
    }

    /// Nobody listens at `passive` from now on: connections that were not accepted may be reset.
    pub(super) fn closes(&self, passive: SocketAddr, why: &'static str) {
        let mut directory = self.directory.borrow_mut();
        directory.closed.insert(passive);
        let mut oracle = self.oracle.borrow_mut();
        for ((_, to), conn) in &directory.names {
            if *to == passive && !oracle.conn(*conn).passive.handed_over {
                oracle.may_fail(*conn, why);
            }
        }
    }
}
