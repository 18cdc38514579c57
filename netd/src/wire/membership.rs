//! What IGMP and MLD say, whichever of the two says it: the messages are in [`super::igmp`] and
//! [`super::mld`].

use core::net::IpAddr;
use core::time::Duration;

/// Why a group is reported: RFC 3376 §4.2.12, RFC 3810 §5.2.12.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordKind {
    /// Asked: these sources are wanted.
    ModeIsInclude = 1,
    /// Asked: all but these.
    ModeIsExclude = 2,
    /// From now on these; with none, the group is left.
    ChangeToInclude = 3,
    /// From now on all but these.
    ChangeToExclude = 4,
    /// These too.
    AllowNewSources = 5,
    /// These no longer.
    BlockOldSources = 6,
}

/// Which version a router speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// IGMPv1, which knows no leaving.
    First,
    /// IGMPv2 or MLDv1: without sources.
    Older,
    /// IGMPv3 or MLDv2.
    Newest,
}

/// A router asks who listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// To which group; `None` to any.
    pub group: Option<IpAddr>,
    /// Sources it wants to know of; none for all.
    pub sources: Vec<IpAddr>,
    /// How long answers may be spread.
    pub max_delay: Duration,
    /// The version it speaks.
    pub version: Version,
}

/// What is to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Why.
    pub kind: RecordKind,
    /// Of which group.
    pub group: IpAddr,
    /// Of which sources.
    pub sources: Vec<IpAddr>,
    /// In a message of that version.
    pub version: Version,
}
