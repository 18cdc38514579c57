//! What netctl asks of sockd over `admin.sock`: a [`super::lane`] on a SEQPACKET pathname socket.
//!
//! sockd checks the caller (SO_PEERCRED: root, or the user who started the group) before it reads
//! anything, answers requests in order, and passes changes on to netd's shard 0. What netctl shows
//! it reads itself from the regions it got here, all of them read-only descriptions, so that it
//! works while daemons are down. A caller that breaks a rule of the lane is hung up on.

use super::lane::Record;
use super::messages::Region;
use super::notices::Change;
use crate::arena::Geometry;
use crate::id::{Generation, Seat, SessionId};
use serde::{Deserialize, Serialize};

/// Connections that may be open at a time; another one is closed at once.
pub const CALLERS_MAX: usize = 16;

/// Arenas in one [`Reply::Arenas`].
pub const ARENAS_MAX: usize = 64;

/// From netctl.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// What there is to see.
    Regions,
    /// Change the configuration.
    Change(Change),
    /// The arenas of the sessions beyond that name, in the order of names: what stands in them says
    /// how much waits in each socket. From 0 on for all.
    Arenas {
        /// The last session that is known already.
        after: SessionId,
    },
    /// Replace that incarnation by the program that lies there now.
    Restart {
        /// Whom.
        seat: Seat,
        /// Its generation; one that is dead has been replaced already.
        generation: Generation,
    },
}

/// A region in [`Reply::Regions`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// Which one: never the secrets, a lock, a slab.
    pub region: Region,
    /// Its size in bytes.
    pub size: u64,
}

/// From sockd, one for each request, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Descriptors: one for each region, in order, read-only.
    Regions {
        /// The group's name.
        name: String,
        /// Deliberate faults for tests, `key=value`; empty in ordinary use.
        faults: Vec<(String, String)>,
        /// What the descriptors are.
        shown: Vec<Shown>,
    },
    /// How the change went: errno on failure.
    Changed(Result<(), u32>),
    /// Sessions with the shape of their arenas, at most [`ARENAS_MAX`]; none when there are no more.
    /// Descriptors: one for each, in order, read-only.
    Arenas(Vec<(SessionId, Geometry)>),
    /// A successor is on its way, or why not, in words for a person.
    Restarted(Result<(), String>),
}

impl Record for Ask {
    fn descriptors(&self) -> usize {
        0
    }
}

impl Record for Reply {
    fn descriptors(&self) -> usize {
        match self {
            Reply::Regions { shown, .. } => shown.len(),
            Reply::Arenas(arenas) => arenas.len(),
            Reply::Changed(_) | Reply::Restarted(_) => 0,
        }
    }
}
