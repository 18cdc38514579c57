//! What a supervisor and a daemon say to each other.
//!
//! A message is one record of the lane: bincode with a size limit, trailing bytes refused, and the
//! descriptors that its documentation names, in that order. Requests of a daemon carry a number;
//! after [`ToDaemon::TakeOver`] the daemon repeats what was not answered, so every request may
//! arrive twice and must then do nothing new. A supervisor that took over repeats too what may not
//! have been said: [`crate::daemon`] lets each thing through once.

use super::lane::Record;
use crate::arena::Geometry;
use crate::id::{Generation, Seat, SessionId};
use crate::nic::slab::SlabGeometry;
use core::net::IpAddr;
use serde::{Deserialize, Serialize};

/// Version of the lane between supervisors and daemons; changes with any message.
pub const VERSION: u32 = 3;

/// A region of memory that lives in the vaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Region {
    /// The lock of a seat (INV-F); never duplicated or closed inside the daemon that holds it.
    Lock(Seat),
    /// The frame slab between a nicd and a shard of netd.
    Slab {
        /// The nicd's interface.
        nic: u16,
        /// Whose pages they are.
        shard: u16,
    },
    /// A shard's connection table ([`crate::hard::conns`]).
    Conns(u16),
    /// Keys that only netd maps.
    Secrets,
    /// Addresses, routes, neighbours: written by shard 0.
    Config,
    /// sockd's sessions and operations.
    Registry,
    /// Counters, flight recorder and breadcrumb of a seat.
    Stats(Seat),
    /// The supervisors' table of processes.
    Processes,
    /// Frames that a shard's tap copied ([`crate::capture`]); written by that netd.
    Capture(u16),
}

/// How a peer may use a region it is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Access {
    /// Mapped for reading and writing.
    Write,
    /// A read-only description.
    Read,
    /// A read-only description that is passed on to others and not mapped.
    Pass,
}

/// A region in a [`Welcome`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Which region.
    pub region: Region,
    /// How it may be used.
    pub access: Access,
    /// Its size in bytes.
    pub size: u64,
}

/// How an incarnation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ended {
    /// exit(2) with this code.
    Exit(i32),
    /// By this signal.
    Signal(i32),
    /// Nobody could say.
    Unknown,
}

impl Ended {
    /// A death from outside, which says nothing about the program: SIGKILL or SIGTERM.
    pub const fn from_outside(self) -> bool {
        matches!(self, Ended::Signal(9 | 15))
    }
}

/// Where nicd's frames come from and go to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Backend {
    /// A TAP device.
    Tap {
        /// Interface name on the kernel's side.
        name: String,
        /// Network namespace by name, if not the group's own.
        netns: Option<String>,
        /// Addresses that the kernel's side gets.
        kernel_addrs: Vec<Prefix>,
    },
    /// A PCI network chip, driven from user space by VFIO.
    Vfio {
        /// Its address, as `0000:03:00.0`.
        bdf: String,
    },
    /// A shared-memory cable to another group.
    Wire {
        /// Path of the cable's file.
        path: String,
        /// What the cable does to frames.
        faults: WireFaults,
    },
    /// An interface of the kernel, shared with it by packet(7): the stack is a station of its own beside it.
    Packet {
        /// The interface's name.
        name: String,
        /// Network namespace by name, if not the group's own.
        netns: Option<String>,
    },
    /// As `Packet`, by AF_XDP where that is to be had.
    Xdp {
        /// The interface's name.
        name: String,
        /// Network namespace by name, if not the group's own.
        netns: Option<String>,
    },
}

/// What a `wire` does to frames. Probabilities are in parts per million.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct WireFaults {
    /// Frames lost.
    pub loss_ppm: u32,
    /// Frames delivered twice.
    pub dup_ppm: u32,
    /// Frames held back behind later ones.
    pub reorder_ppm: u32,
    /// Frames with a flipped bit.
    pub corrupt_ppm: u32,
    /// One-way delay in microseconds.
    pub delay_us: u32,
    /// Seed of the generator that decides.
    pub seed: u64,
}

/// An address with the length of its network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Prefix {
    /// The address.
    pub addr: IpAddr,
    /// Bits of network.
    pub len: u8,
}

/// Ports of TCP and UDP, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PortRange {
    /// The first.
    pub first: u16,
    /// The last, no less.
    pub last: u16,
}

impl PortRange {
    /// Whether `port` is one of them.
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

/// One interface of the group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicConfig {
    /// What it is made of.
    pub backend: Backend,
    /// The stack's own hardware address on it.
    pub mac: [u8; 6],
    /// Maximum transmission unit in bytes.
    pub mtu: u16,
    /// The stack's addresses on it.
    pub addrs: Vec<Prefix>,
    /// Default gateways through it, one of a family at most.
    pub gateways: Vec<IpAddr>,
    /// IPv6 addresses and routers are learned from the link (RFC 4862, RFC 4861 §6).
    pub slaac: bool,
    /// What the device can do for the stack (checksums, super-frames) is used.
    pub offload: bool,
    /// Of an interface that is shared with the kernel (`Packet`, `Xdp`): the ports of the kernel's own addresses that
    /// are the stack's, `mac` and `addrs` being the kernel's too. Empty: the stack is a station of its own.
    pub ports: Vec<PortRange>,
}

/// What every daemon is told about its group. Checked as a whole before anything is started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupConfig {
    /// The group's name.
    pub name: String,
    /// The run directory: holds `NAME/api.sock`, `NAME/admin.sock`, `NAME/log/`.
    pub dir: String,
    /// Number of netd.
    pub shards: u16,
    /// The interfaces, each with its nicd.
    pub nics: Vec<NicConfig>,
    /// Size of each interface's frame slab.
    pub slab: SlabGeometry,
    /// Cells of each shard's connection table.
    pub conns: u32,
    /// Deliberate faults for tests, `key=value` (`poison=HEX`); empty in ordinary use.
    pub faults: Vec<(String, String)>,
}

/// A daemon's first message.
///
/// Descriptors: one per grant, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The seat it takes.
    pub seat: Seat,
    /// Its generation.
    pub generation: Generation,
    /// How the generation before it ended, if there was one.
    pub predecessor: Option<Ended>,
    /// The group.
    pub group: GroupConfig,
    /// What it may map.
    pub grants: Vec<Grant>,
}

/// From a supervisor to a daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToDaemon {
    /// Who you are; once, first. Descriptors: one per grant.
    Welcome(Box<Welcome>),
    /// What the vault holds for sockd: the listening socket of `api.sock` and of `admin.sock`.
    Listeners,
    /// What the vault holds for a nicd: the TAP that an earlier generation opened. One descriptor.
    Device,
    /// A peer to share rings with. Descriptors: the zeroed memory of the rings, an eventfd that
    /// wakes you, an eventfd that wakes the peer. It replaces every earlier one for that seat.
    Introduce {
        /// The peer.
        peer: Seat,
        /// Its generation.
        generation: Generation,
    },
    /// That incarnation is dead: drop its rings, take back what it held, answer
    /// [`FromDaemon::Released`].
    PeerGone {
        /// The peer.
        peer: Seat,
        /// The generation that is dead.
        generation: Generation,
    },
    /// To netd: a session. sockd's first command about it may be on the ring already: a netd that
    /// meets a session it does not know hears its lane first. Descriptors: the arena; the writing end of the pipe that wakes the
    /// client; the reading end of the pipe by which it wakes this shard.
    Session {
        /// Its name.
        session: SessionId,
        /// How its arena is divided.
        geometry: Geometry,
    },
    /// To sockd, after a restart: a session that lives in the vault. Descriptors: the session
    /// socket; the arena; the client's ends: the reading end of its wake-up pipe, and for each
    /// shard the writing end that wakes it.
    SessionSocket {
        /// Its name.
        session: SessionId,
        /// How its arena is divided.
        geometry: Geometry,
    },
    /// Everything that the vault had for a newcomer has been said: it may attach and answer
    /// [`FromDaemon::Ready`].
    Complete,
    /// The request of that number has been done, and every live vault has what it brought.
    Done {
        /// The request's number.
        request: u64,
    },
    /// The request of that number was refused: the vault has no room for what it brought.
    Refused {
        /// The request's number.
        request: u64,
        /// errno: EMFILE.
        errno: u32,
    },
    /// Answer to [`FromDaemon::Restart`]: a successor is on its way, or why the program that lies
    /// there now is not started.
    Restarted {
        /// The request's number.
        request: u64,
        /// The refusal, in words for a person.
        result: Result<(), String>,
    },
    /// Where a peer waits for the ipc-channel rendezvous.
    Rendezvous {
        /// The peer.
        peer: Seat,
        /// Its generation.
        generation: Generation,
        /// The name to connect to.
        name: String,
    },
    /// This supervisor has taken over: repeat every request that was not answered.
    TakeOver,
    /// Finish: what is in hand is completed, then exit with 0.
    Stop,
}

/// From a daemon to the supervisors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromDaemon {
    /// Attached, polled, everybody woken: in service (INV-R6).
    Ready,
    /// Answer to [`ToDaemon::PeerGone`]: nothing of that incarnation is used any more.
    Released {
        /// The peer.
        peer: Seat,
        /// Its generation.
        generation: Generation,
    },
    /// From nicd: keep this TAP, answer [`ToDaemon::Done`]. One descriptor.
    KeepDevice {
        /// The request's number.
        request: u64,
    },
    /// From sockd: keep this session, pass it to the netds, then answer [`ToDaemon::Done`].
    /// Descriptors: session socket; arena; reading and writing end of the pipe that wakes the
    /// client; for each shard reading and writing end of the pipe by which the client wakes it.
    KeepSession {
        /// The request's number.
        request: u64,
        /// Its name.
        session: SessionId,
        /// How its arena is divided.
        geometry: Geometry,
    },
    /// From sockd: the session is over for every netd too; close what the vaults hold of it.
    DropSession {
        /// The request's number.
        request: u64,
        /// Its name.
        session: SessionId,
    },
    /// A peer has not moved for its deadline while work waited for it.
    Stuck {
        /// The peer.
        peer: Seat,
        /// Its generation.
        generation: Generation,
    },
    /// A peer broke a rule of the rings (INV-R1): nothing is said to that incarnation any more, and
    /// it is to be replaced.
    Corrupt {
        /// The peer.
        peer: Seat,
        /// Its generation.
        generation: Generation,
    },
    /// From sockd, for an administrator: replace that incarnation by the program that lies there
    /// now, if it speaks the layouts of this group; answer [`ToDaemon::Restarted`].
    Restart {
        /// The request's number.
        request: u64,
        /// Whom.
        seat: Seat,
        /// Its generation; one that is dead has been replaced already.
        generation: Generation,
    },
    /// Where this daemon waits for `peer` to connect an ipc-channel.
    Rendezvous {
        /// Who should connect.
        peer: Seat,
        /// The name to connect to.
        name: String,
    },
}

impl Record for ToDaemon {
    fn descriptors(&self) -> usize {
        match self {
            ToDaemon::Welcome(welcome) => welcome.grants.len(),
            ToDaemon::Listeners => 2,
            ToDaemon::Device => 1,
            ToDaemon::Introduce { .. } | ToDaemon::Session { .. } => 3,
            ToDaemon::SessionSocket { geometry, .. } => 3 + usize::from(geometry.shards),
            ToDaemon::PeerGone { .. }
            | ToDaemon::Complete
            | ToDaemon::Done { .. }
            | ToDaemon::Refused { .. }
            | ToDaemon::Restarted { .. }
            | ToDaemon::Rendezvous { .. }
            | ToDaemon::TakeOver
            | ToDaemon::Stop => 0,
        }
    }
}

impl Record for FromDaemon {
    fn descriptors(&self) -> usize {
        match self {
            FromDaemon::KeepDevice { .. } => 1,
            FromDaemon::KeepSession { geometry, .. } => 4 + 2 * usize::from(geometry.shards),
            FromDaemon::Ready
            | FromDaemon::Released { .. }
            | FromDaemon::DropSession { .. }
            | FromDaemon::Stuck { .. }
            | FromDaemon::Corrupt { .. }
            | FromDaemon::Restart { .. }
            | FromDaemon::Rendezvous { .. } => 0,
        }
    }
}
