//! Names of things that cross a process border. Each kind of number is a type of its own.

use core::fmt;
use serde::{Deserialize, Serialize};

/// What a process of the group does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Role {
    /// Starts and restarts the others; the active one of the pair.
    Supervisor,
    /// The hot standby of the pair.
    Standby,
    /// The NIC driver.
    Nicd,
    /// The protocol stack.
    Netd,
    /// The socket API's authority.
    Sockd,
}

impl Role {
    /// The name in logs, in JSON and of the binary (both supervisors are `supervisor` there).
    pub const fn name(self) -> &'static str {
        match self {
            Role::Supervisor => "supervisor",
            Role::Standby => "standby",
            Role::Nicd => "nicd",
            Role::Netd => "netd",
            Role::Sockd => "sockd",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A place in the group: a role and, for `nicd` its interface, for `netd` its shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Seat {
    /// What runs there.
    pub role: Role,
    /// Which of several: the interface of a nicd, the shard of a netd, else 0.
    pub index: u16,
}

impl Seat {
    /// Seat `index` of `role`.
    pub const fn new(role: Role, index: u16) -> Self {
        Seat { role, index }
    }
}

impl fmt::Display for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.index {
            0 => write!(f, "{}", self.role),
            n => write!(f, "{}.{n}", self.role),
        }
    }
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

number!(
    /// An incarnation of one seat: counts up from 1 with each start. 0 means "none yet".
    Generation(u32)
);
number!(
    /// A client session; never used twice while the group lives. 0 means "no session".
    SessionId(u32)
);
number!(
    /// A socket's place in its session's arena.
    SlotIndex(u32)
);
number!(
    /// One use of a socket's place; a line written for another use is not looked at.
    Epoch(u32)
);
number!(
    /// An operation that sockd asked netd for (INV-T9); never used twice. 0 means "none": the
    /// connection came from a listener.
    OpId(u64)
);
number!(
    /// A record's place in the connection table.
    RecordIndex(u32)
);

impl Generation {
    /// The incarnation after this one.
    pub const fn next(self) -> Generation {
        Generation(self.0 + 1)
    }
}
