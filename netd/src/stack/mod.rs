//! The whole machine, pure: frames, commands, cursors and times in; frames, answers, wake-ups and
//! the next deadline out. No clock, no descriptor, no thread, no global.
//!
//! The engine, the simulator and the crash tests drive it alike: any number of `on_…` and `poll_…`
//! calls make a batch, [`Stack::settle`] ends it, and only what a settled batch released may be
//! taken by `next_…`. A stack that dies anywhere in between is followed by one that
//! [attaches](Stack::attach) to the same memory.
//!
//! ```text
//! receive.rs   frame → link → ip → transport          clients.rs  kicks, commands, sessions
//! transmit.rs  segments and datagrams → ip → link      settle.rs   the commit order
//! recover.rs   hard state → stack                      socket.rs   one socket
//! asleep.rs    connections at rest meanwhile            offload.rs  what devices take over
//! ```

mod asleep;
mod batch;
mod change;
mod clients;
mod datagram;
mod listen;
mod offload;
mod receive;
mod recover;
mod settle;
mod socket;
mod transmit;
mod tune;
mod watch;

#[cfg(test)]
mod tests;

pub use crate::ip::links::LinkNews;
pub use crate::ip::route::LOOPBACK;
pub use recover::AttachError;
pub use settle::{ORDER, Step};
pub use watch::Watch;

use crate::counters::Counters;
use crate::ip::Ip;
use crate::link::interface::InterfaceConfig;
use crate::secrets::{ENTROPY_SIZE, Secrets};
use crate::socket::session::Session;
use crate::tcp::challenge::ChallengeLimiter;
use crate::tcp::expiry::MostTries;
use crate::tcp::fast_open::Servers;
use crate::tcp::settings::Settings;
use crate::timer_wheel::TimerWheel;
use crate::transport::demux::Demux;
use crate::wire::address::MacAddr;
use asleep::Sleepers;
use batch::Batch;
use datagram::Portless;
use proto::cell::CellWriter;
use proto::control::operations::Answer;
use proto::hard::sysctl::Values;
use proto::id::{OpId, SessionId};
use proto::nic::packet_buf::PacketBuf;
use proto::nic::pool::FramePool;
use proto::nic::steering::Steering;
use proto::recorder::{Crumb, Work};
use proto::shm::Memory;
use proto::{Instant, PeerCorrupt};
use socket::Socket;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::rc::Rc;

/// What a stack is made of.
#[derive(Debug)]
pub struct Setup<M> {
    /// Which shard it is.
    pub shard: u16,
    /// Of how many.
    pub shards: u16,
    /// The interfaces, by number.
    pub interfaces: Vec<InterfaceConfig>,
    /// The frame pages of each interface.
    pub frames: Vec<Rc<FramePool<M>>>,
    /// Those of the loopback interface, which no other process maps.
    pub loopback: Rc<FramePool<M>>,
    /// The connection table's memory.
    pub conns: M,
    /// Cells in it.
    pub conns_capacity: u32,
    /// The secrets' memory.
    pub secrets: M,
    /// Who keeps the breadcrumb, if anybody does.
    pub watch: Option<Box<dyn Watch>>,
    /// A deliberate fault for tests: a frame that contains these bytes is a bug. Empty otherwise.
    pub bait: Vec<u8>,
    /// Used when there are no secrets yet.
    pub entropy: [u8; ENTROPY_SIZE],
}

/// One shard of the protocol stack.
#[derive(Debug)]
pub struct Stack<M: Memory> {
    shard: u16,
    /// Which flows are its own.
    steering: Steering,
    ip: Ip<M>,
    conns: CellWriter<M>,
    sockets: Sockets,
    /// Records whose sockets are made when they are asked for.
    sleepers: Sleepers,
    /// Records by the operation that made them (INV-T9).
    operations: HashMap<OpId, u32>,
    /// In an order of their own: the same inputs give the same outputs.
    sessions: BTreeMap<SessionId, Session<M>>,
    /// Their names, in the order in which their kicks are looked at.
    session_order: Vec<SessionId>,
    /// Which of them was looked at first in the last round.
    first_session: usize,
    demux: Demux,
    /// Sockets without ports.
    portless: Portless,
    timers: TimerWheel,
    secrets: Secrets,
    challenges: ChallengeLimiter,
    settings: Settings,
    /// How often connections try.
    most_tries: MostTries,
    /// What an administrator may tune.
    tunables: Values,
    /// Sockets that have something to send, in the order in which they said so.
    tx_pending: VecDeque<u32>,
    /// Connections that have nothing to say after a resume but that they are there: when nobody else has
    /// anything to send.
    greetings: VecDeque<u32>,
    /// Sockets that have something to send, and wait for room, by the interface that has none.
    stopped: Vec<VecDeque<u32>>,
    /// Sockets that have something to send, and wait for a neighbour's answer.
    awaiting: Vec<u32>,
    /// Connections in TIME-WAIT whose ends a new connection has taken over.
    displaced: HashSet<u32>,
    /// Interfaces whose nicd says that the cable is out.
    no_carrier: BTreeSet<u16>,
    /// Interfaces that an administrator wants down.
    set_down: BTreeSet<u16>,
    /// Cookies of servers that take data in a SYN.
    fast_open: Servers,
    /// Until when cookies that were sent may come back.
    cookies_until: Instant,
    /// Rules that clients broke, for the flight recorder.
    corrupt_rules: VecDeque<(SessionId, PeerCorrupt)>,
    batch: Batch,
    released: Released<M>,
    watch: Option<Box<dyn Watch>>,
    bait: Vec<u8>,
    /// What was counted since the stack was attached.
    pub counters: Counters,
}

/// Connections for which tables are kept ready, beyond the most there have been.
const TABLES_AHEAD: u32 = 512;
/// Cells of the connection table that one step touches: 4 pages of 4 KiB.
const CELLS_WARMED: u32 = 64;
/// Slots of the flow table that one step carries over.
const SLOTS_CARRIED: usize = 256;

/// What a settled batch has let go.
#[derive(Debug)]
struct Released<M: Memory> {
    frames: VecDeque<(u16, PacketBuf<M>)>,
    answers: VecDeque<Answer>,
    wakes: VecDeque<SessionId>,
}

/// Places of [`Sockets`] that are made at a time: 8 KiB, an allocation without a stall.
const CHUNK: usize = 1024;

/// Sockets by the index of their cell. It grows by chunks that stay where they are: no growth moves
/// what is there already.
#[derive(Debug, Default)]
struct Sockets(Vec<Box<[Option<Box<Socket>>]>>);

impl Sockets {
    fn get(&self, index: u32) -> Option<&Socket> {
        self.0.get(index as usize / CHUNK)?[index as usize % CHUNK].as_deref()
    }

    fn get_mut(&mut self, index: u32) -> Option<&mut Socket> {
        self.0.get_mut(index as usize / CHUNK)?[index as usize % CHUNK].as_deref_mut()
    }

    /// Makes room for the indices below `sockets`.
    fn reserve(&mut self, sockets: u32) {
        while self.0.len() * CHUNK < sockets as usize {
            self.0.push((0..CHUNK).map(|_| None).collect());
        }
    }

    fn insert(&mut self, socket: Socket) -> u32 {
        let index = socket.held.index();
        self.reserve(index + 1);
        let place = &mut self.0[index as usize / CHUNK][index as usize % CHUNK];
        assert!(place.is_none(), "a cell belongs to one socket");
        *place = Some(Box::new(socket));
        index
    }

    fn remove(&mut self, index: u32) -> Option<Box<Socket>> {
        self.0.get_mut(index as usize / CHUNK)?[index as usize % CHUNK].take()
    }

    fn iter(&self) -> impl Iterator<Item = &Socket> {
        self.0.iter().flatten().filter_map(|socket| socket.as_deref())
    }

    fn indices(&self) -> impl Iterator<Item = u32> + '_ {
        let all = self.0.iter().flatten().enumerate();
        all.filter(|(_, socket)| socket.is_some()).map(|(index, _)| index as u32)
    }
}

impl<M: Memory + Clone> Stack<M> {
    /// The next frame to be handed to its interface, of those that a settled batch released. One for
    /// [`LOOPBACK`] comes in again by [`Stack::on_frame`], in a batch that begins later: whether it was
    /// released or lost with this incarnation, both ends find what the order of commits promises.
    pub fn next_frame(&mut self) -> Option<(u16, PacketBuf<M>)> {
        self.released.frames.pop_front()
    }

    /// Frames that were released and not taken yet.
    pub fn frames_waiting(&self) -> usize {
        self.released.frames.len()
    }

    /// The next answer to sockd.
    pub fn next_answer(&mut self) -> Option<Answer> {
        self.released.answers.pop_front()
    }

    /// The next client whose pipe must be written.
    pub fn next_wake(&mut self) -> Option<SessionId> {
        self.released.wakes.pop_front()
    }

    /// When [`Stack::on_timers`] must be called next.
    pub fn next_deadline(&self) -> Option<Instant> {
        [self.timers.next_deadline(), self.ip.next_deadline()].into_iter().flatten().min()
    }

    /// Makes tables ready for the connections to come, a step at a time: called between batches, so
    /// that the packet path finds room without making it. Returns whether there is more to do.
    pub fn maintain(&mut self) -> bool {
        let ahead = self.conns.table().high_water().saturating_add(TABLES_AHEAD);
        let ahead = ahead.min(self.conns.table().capacity());
        self.sockets.reserve(ahead);
        self.timers.reserve(ahead);
        self.demux.flows.reserve(ahead);
        let cold = self.conns.warm(ahead, CELLS_WARMED);
        self.demux.flows.maintain(SLOTS_CARRIED) | cold
    }

    /// Number of records in use.
    pub fn record_count(&self) -> usize {
        self.sockets.indices().count() + self.sleepers.count()
    }

    /// What the links changed in the configuration, for whoever keeps it; to be kept before the batch is
    /// settled.
    pub fn next_news(&mut self) -> Option<LinkNews> {
        self.ip.next_news()
    }

    /// The IPv6 groups that an interface listens to, all nodes' first; `None` where IPv6 is not spoken.
    pub fn groups(&self, nic: u16) -> Option<Vec<MacAddr>> {
        self.ip.groups(nic)
    }

    /// The next broken rule, for the flight recorder.
    pub fn next_broken_rule(&mut self) -> Option<(SessionId, PeerCorrupt)> {
        self.corrupt_rules.pop_front()
    }

    /// Whether that session is attached.
    pub fn has_session(&self, id: SessionId) -> bool {
        self.sessions.contains_key(&id)
    }

    /// Number of sessions attached.
    pub fn session_count(&self) -> usize {
        self.sessions.len()
    }

    /// INV-T8: lays the breadcrumb; `false` when the work is poison.
    fn begin(&mut self, crumb: impl FnOnce() -> Crumb) -> bool {
        self.watch.as_mut().is_none_or(|watch| watch.begin(&crumb()))
    }

    fn end(&mut self) {
        if let Some(watch) = &mut self.watch {
            watch.end();
        }
    }

    /// A socket has changed: it is looked at when the batch is settled.
    fn touch(&mut self, index: u32) {
        if let Some(socket) = self.sockets.get_mut(index)
            && !socket.dirty
        {
            socket.dirty = true;
            self.batch.dirty.push(index);
        }
    }

    /// Arms or cancels the socket's timer, and queues it for sending, after its machine was moved.
    fn reschedule(&mut self, now: Instant, index: u32) {
        let Some(socket) = self.sockets.get_mut(index) else { return };
        let (deadline, wants) = match &socket.kind {
            socket::Kind::Tcp(block) => (block.next_deadline(), block.has_output(now)),
            socket::Kind::Listener(_) => (None, false),
            socket::Kind::Udp(udp) => (None, udp.sent < socket.client.written),
        };
        if wants && !socket.tx_pending {
            socket.tx_pending = true;
            self.tx_pending.push_back(index);
        }
        self.arm_timer(index, deadline);
    }

    fn arm_timer(&mut self, index: u32, deadline: Option<Instant>) {
        match deadline {
            Some(at) => self.timers.arm(index, at),
            None => {
                self.timers.cancel(index);
            }
        }
    }

    /// Everything due at `now` happens.
    pub fn on_timers(&mut self, now: Instant) {
        while let Some(index) = self.timers.pop(now) {
            let Some(name) = self.flow_of(index).map(|flow| clients::flow_bytes(&flow)) else { continue };
            if !self.begin(|| watch::crumb(Work::Timer, &name)) {
                continue;
            }
            if let Some(Socket { kind: socket::Kind::Tcp(block), .. }) = self.sockets.get_mut(index) {
                let reaction = block.on_timer(now, &self.most_tries);
                self.react(now, index, reaction, None);
            }
            self.end();
        }
        if self.ip.on_timers(now, &mut self.counters) {
            self.neighbours_moved();
        }
        self.report_unreachable(now);
    }
}
