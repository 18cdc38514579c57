//! What the active supervisor and its standby say to each other, over a lane.
//!
//! ```text
//! standby                            active
//!    │ ◄─── Setup (group, keepsakes) ───┤  before the standby even runs
//!    ├──── Hello ─────────────────────► │
//!    │ ◄─── Region … Fact … Told ───────┤  the past
//!    ├──── Ack ───────────────────────► │  from here on it may take over
//!    │ ◄─── Fact ───────────────────────┤  every further fact, before it is announced
//!    ├──── Ack ───────────────────────► │
//! ```

use crate::facts::Fact;
use crate::policy::Report;
use proto::control::lane::Record;
use proto::control::messages::{GroupConfig, Region};
use proto::id::Generation;
use serde::{Deserialize, Serialize};

/// What a supervisor is started with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setup {
    /// The group.
    pub group: GroupConfig,
    /// Directory of the daemons' programs.
    pub programs: String,
    /// The generation of the supervisor that is told.
    pub generation: Generation,
    /// Whether the lane to the one who started the group comes with it.
    pub starter: bool,
}

/// From the active supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToStandby {
    /// First, once. Descriptors: pidfd of the one who tells, lock file, api and admin listeners,
    /// and the lane to the starter if there is one.
    Setup(Box<Setup>),
    /// A region. Descriptors: the writable one, and the read-only one if there is one.
    Region {
        /// Which.
        region: Region,
        /// Its size in bytes.
        size: u64,
        /// Whether there is a read-only description.
        shown: bool,
    },
    /// A fact, with the descriptors that belong to it.
    Fact {
        /// Its number.
        number: u64,
        /// The fact.
        fact: Fact,
    },
    /// The past is told.
    Told,
    /// From whoever starts a group to its first supervisor, in place of a past: begin. The lane
    /// stays open for its report.
    Begin,
    /// The group has ended: leave.
    Dismissed,
}

/// From the standby.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromStandby {
    /// Ready to be told.
    Hello,
    /// It has everything up to that number.
    Ack {
        /// The number of a fact.
        number: u64,
    },
    /// To whoever started the group.
    Report(Report),
}

impl Record for ToStandby {
    fn descriptors(&self) -> usize {
        match self {
            ToStandby::Setup(setup) => 4 + usize::from(setup.starter),
            ToStandby::Region { shown, .. } => 1 + usize::from(*shown),
            ToStandby::Fact { fact, .. } => fact.descriptors(),
            ToStandby::Told | ToStandby::Begin | ToStandby::Dismissed => 0,
        }
    }
}

impl Record for FromStandby {
    fn descriptors(&self) -> usize {
        0
    }
}
