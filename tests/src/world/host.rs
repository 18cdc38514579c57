//! One host: hard memory that outlives its daemons, the daemons, the vault, the device.

use super::client::Client;
use crate::crash::{CrashMemory, Process, SharedBytes, Use};
use netd::stack::Stack;
use proto::Instant;
use proto::arena::Geometry;
use proto::cell::table_size;
use proto::control::messages::Ended;
use proto::control::operations::{Answer, Command};
use proto::hard::registry;
use proto::id::SessionId;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::rc::Rc;

/// Cells of a host's connection table: enough for the scenarios, few enough to look through.
pub const CONNS: u32 = 256;

/// A process of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Who {
    /// The protocol stack.
    Netd,
    /// The socket authority.
    Sockd,
    /// The device's driver.
    Nicd,
    /// The active supervisor.
    Supervisor,
    /// A client, by number.
    Client(usize),
}

/// A netd that runs.
pub struct Netd {
    /// Its process.
    pub process: Rc<Process>,
    /// Its state.
    pub stack: Stack<CrashMemory>,
    /// Its frame pages.
    pub frames: Rc<proto::nic::pool::FramePool<CrashMemory>>,
    /// Those of its loopback interface.
    pub loopback: Rc<proto::nic::pool::FramePool<CrashMemory>>,
}

/// A sockd that runs.
pub struct Sockd {
    /// Its process.
    pub process: Rc<Process>,
    /// Its state.
    pub core: sockd::core::Core<CrashMemory>,
    /// Sessions whose hang-up it has seen.
    pub hung_up: BTreeSet<SessionId>,
    /// It has looked at the connection table of the netd that runs.
    pub attached: bool,
}

/// What the vault holds of a session.
pub struct Vaulted {
    /// How the arena is divided.
    pub geometry: Geometry,
    /// The arena.
    pub arena: Rc<SharedBytes>,
    /// Whose it is.
    pub client: usize,
}

/// A host.
pub struct Host {
    /// Its address.
    pub addr: IpAddr,
    /// Its hardware address.
    pub mac: [u8; 6],
    /// The connection table.
    pub conns: Rc<SharedBytes>,
    /// netd's keys.
    pub secrets: Rc<SharedBytes>,
    /// sockd's registry.
    pub registry: Rc<SharedBytes>,
    /// netd's statistics, with its breadcrumb.
    pub stats: Rc<SharedBytes>,
    /// How the last netd ended, as the supervisor learnt it.
    pub netd_ended: Option<Ended>,
    /// How often netd died of a bug.
    pub netd_panics: u32,
    /// Sessions by name.
    pub vault: BTreeMap<SessionId, Vaulted>,
    /// netd, when it runs.
    pub netd: Option<Netd>,
    /// sockd, when it runs.
    pub sockd: Option<Sockd>,
    /// nicd runs.
    pub nicd: bool,
    /// Incarnations of nicd so far.
    pub nicd_generation: u32,
    /// Incarnations of netd so far.
    pub netd_generation: u32,
    /// Frames from the wire that netd has not taken.
    pub nic_rx: VecDeque<Vec<u8>>,
    /// Frames that netd has said to itself and not heard.
    pub looped: VecDeque<Vec<u8>>,
    /// Frames that netd released and nicd has not taken.
    pub nic_tx: VecDeque<Vec<u8>>,
    /// Frames with nicd's device.
    pub on_device: usize,
    /// When the device has sent what it has.
    pub device_free: Instant,
    /// Commands on their way to netd.
    pub commands: VecDeque<Command>,
    /// Answers on their way to sockd.
    pub answers: VecDeque<Answer>,
    /// Sessions that the vault has and netd has not been told of.
    pub new_sessions: VecDeque<SessionId>,
    /// Sessions that the vault has taken and sockd has not been told of.
    pub kept: VecDeque<SessionId>,
    /// Sessions that the vault has dropped and sockd has not been told of.
    pub dropped: VecDeque<SessionId>,
    /// Clients that have connected and whose session the vault does not have.
    pub knocking: VecDeque<usize>,
    /// Its clients.
    pub clients: Vec<Rc<RefCell<Client>>>,
    /// Bytes that wake netd.
    pub kick_pipe: Rc<Cell<bool>>,
    /// Nothing is restarted and the vault does not answer before this time.
    pub supervisor_back: Instant,
    /// Wake-up times of the processes; an event for another time is void.
    pub due: BTreeMap<Who, Instant>,
    /// Fuses of the coming incarnations, counted from their start.
    pub fuses: BTreeMap<Who, VecDeque<u64>>,
    /// The frames of netd's next turn are lost, for the mutant that keeps its first words to itself.
    pub mute: bool,
    /// When netd began its present life, for the mutant that measures time from there.
    pub netd_began: Instant,
}

impl Host {
    /// A host on which nothing runs yet.
    pub fn new(number: u8, v6: bool) -> Host {
        Host {
            addr: match v6 {
                true => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(number) + 1).into(),
                false => Ipv4Addr::new(10, 0, 0, number + 1).into(),
            },
            mac: [2, 0, 0, 0, 0, number + 1],
            conns: SharedBytes::new(Use::Cells, table_size(CONNS)),
            secrets: SharedBytes::new(Use::Other, netd::secrets::REGION_SIZE),
            registry: SharedBytes::new(Use::Cells, registry::REGION_SIZE),
            stats: SharedBytes::new(Use::Other, proto::stats::REGION_SIZE),
            netd_ended: None,
            netd_panics: 0,
            vault: BTreeMap::new(),
            netd: None,
            sockd: None,
            nicd: true,
            nicd_generation: 1,
            netd_generation: 0,
            nic_rx: VecDeque::new(),
            looped: VecDeque::new(),
            nic_tx: VecDeque::new(),
            on_device: 0,
            device_free: Instant::ZERO,
            commands: VecDeque::new(),
            answers: VecDeque::new(),
            new_sessions: VecDeque::new(),
            kept: VecDeque::new(),
            dropped: VecDeque::new(),
            knocking: VecDeque::new(),
            clients: Vec::new(),
            kick_pipe: Rc::default(),
            supervisor_back: Instant::ZERO,
            due: BTreeMap::new(),
            fuses: BTreeMap::new(),
            mute: false,
            netd_began: Instant::ZERO,
        }
    }

    /// Its address, as clients name it.
    pub fn ip(&self) -> IpAddr {
        self.addr
    }

    /// A new incarnation's process, with the next fuse planned for its seat.
    pub fn incarnation(&mut self, who: Who) -> Rc<Process> {
        let process = Process::start();
        process.light(self.fuses.get_mut(&who).and_then(VecDeque::pop_front));
        process
    }
}
