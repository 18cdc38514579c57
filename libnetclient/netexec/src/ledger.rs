//! What a successor must know: memory that outlives the server, made by the process that holds its
//! descriptors.
//!
//! ```text
//! header    numbers of the kept descriptors, the session, the state of the pump, the errand, the last request
//! notice    the call that is being answered, where the kernel itself put it
//! waiting   calls that are answered later
//! records   one of each socket: two versions, and which of them counts
//! ```
//!
//! One process writes at a time. SIGKILL leaves a prefix of its stores in program order, so a change of
//! several words is written beside what counts, and then one word says that it counts. Nothing here is
//! shared with a program: it is this user's own memory, and what is read back is trusted as such.

use crate::notices::Notice;
use libnetclient::Datagram;
use netclient::resume::OPTIONS_SIZE;
use proto::arena::Geometry;
use proto::shm::Memory;
use proto::shm::region::{Region, create_sealed};
use rustix::fd::OwnedFd;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// Sockets of all programs together, returned connections among them.
pub const RECORDS: usize = 16 * 1024;
/// The kind of the pair behind a socket of AF_NETLINK: datagrams.
pub const NETLINK_KIND: i32 = libc::SOCK_DGRAM;
/// Calls that may wait at a time.
pub const WAITING: usize = 8 * 1024;
/// The longest name of a group.
const NAME_MAX: usize = 64;
/// Shards that a group may have.
const SHARDS_MAX: usize = 64;
/// The largest request to sockd in bytes.
const REQUEST_MAX: usize = proto::control::client::MESSAGE_MAX as usize;

const HEADER_AT: usize = 0;
const PUMP_AT: usize = 1024;
const ERRAND_AT: usize = 1088;
const SETTLED_AT: usize = 1152;
const NUMBER_AT: usize = 1160;
const HIGH_AT: usize = 1168;
const REQUESTS_AT: usize = 1280;
const NOTICE_AT: usize = 4096;
/// Bytes of the notice's own (`struct seccomp_notif`); what was done for it lies behind.
pub const NOTICE_SIZE: usize = 0x50;
const PROGRESS_AT: usize = NOTICE_AT + 128;
const WAITING_AT: usize = 8192;
const WAITING_SIZE: usize = 96;
const RECORDS_AT: usize = WAITING_AT + WAITING * WAITING_SIZE;
const RECORD_ROOM: usize = 1024;
const VERSIONS_AT: usize = 64;
const VERSION_ROOM: usize = 448;
const SIZE: usize = RECORDS_AT + RECORDS * RECORD_ROOM;
const _: () = assert!(VERSIONS_AT + 2 * VERSION_ROOM <= RECORD_ROOM && size_of::<Record>() <= VERSION_ROOM);
const _: () = assert!(REQUESTS_AT + 2 * (8 + REQUEST_MAX) <= NOTICE_AT && size_of::<Header>() <= PUMP_AT);
const _: () = assert!(size_of::<Parked>() <= WAITING_SIZE && WAITING_AT.is_multiple_of(64));

/// What never changes: numbers of descriptors, and the session.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// The session's socket, arena and wake-up pipe.
    pub control: i32,
    /// The arena.
    pub arena: i32,
    /// The pipe that wakes.
    pub wake: i32,
    /// Where calls are handed over.
    pub listener: i32,
    /// The pump's pipe: its end for reading.
    pub pipe_out: i32,
    /// Its end for writing.
    pub pipe_in: i32,
    /// Eventfds: the errand is given, it is done.
    pub errand: i32,
    /// The second one.
    pub done: i32,
    /// The ledger itself.
    pub ledger: i32,
    /// What programs may look at.
    pub board: i32,
    /// The session's name.
    pub session: u32,
    /// Its geometry.
    pub geometry: [u32; 5],
    /// The program's own options: bit 0 says what is answered.
    pub flags: u32,
    /// Wake the shards.
    pub pipes: [i32; SHARDS_MAX],
    /// The group's name, with zeros behind.
    pub group: [u8; NAME_MAX],
}

/// [`Header::flags`]: say on standard error what is answered.
pub const VERBOSE: u32 = 1;

impl Header {
    /// The group's name.
    pub fn name(&self) -> String {
        let name = self.group.split(|byte| *byte == 0).next().unwrap_or_default();
        String::from_utf8_lossy(name).into_owned()
    }
}

/// What a record stands for.
pub mod phase {
    /// Nothing.
    pub const FREE: u32 = 0;
    /// A socket whose descriptor is on its way to the program.
    pub const INSTALLING: u32 = 1;
    /// A socket of a program.
    pub const LIVES: u32 = 2;
    /// A connect is under way.
    pub const CONNECTING: u32 = 3;
    /// A connection that was taken off its listener's queue and is nobody's yet.
    pub const RETURNED: u32 = 4;
    /// It is being closed.
    pub const CLOSING: u32 = 5;
}

/// Bits of [`Record::flags`].
pub mod flag {
    /// listen(2) was called.
    pub const LISTENING: u32 = 1;
    /// Nobody has been told that the connection stands.
    pub const BEGUN: u32 = 1 << 1;
    /// [`super::Record::peer`] is one.
    pub const PEER: u32 = 1 << 3;
    /// A datagram socket with a name.
    pub const BOUND: u32 = 1 << 4;
    /// A datagram socket with a remote.
    pub const CONNECTED: u32 = 1 << 5;
    /// The program's end is being filled.
    pub const FILLING: u32 = 1 << 6;
    /// The odometer is being set back; [`super::Record::next_base`] is its base then.
    pub const REARM: u32 = 1 << 7;
    /// The program's end was closed with bytes unread.
    pub const ABORTED: u32 = 1 << 8;
    /// Its closing is a reset towards the network.
    pub const ABORT: u32 = 1 << 9;
    /// Its closing is a reset towards the program.
    pub const RESET: u32 = 1 << 10;
    /// Bytes move: the odometer counts from [`super::Record::base`].
    pub const STREAM: u32 = 1 << 11;
}

/// What a socket is in the session ([`netclient::resume::What`]).
pub mod what {
    /// Without a place.
    pub const FRESH: u32 = 0;
    /// A listener.
    pub const LISTENER: u32 = 1;
    /// A connection.
    pub const STREAM: u32 = 2;
    /// A UDP socket.
    pub const DATAGRAM: u32 = 3;
    /// A socket of AF_NETLINK; [`super::Record::kind`] is its protocol.
    pub const NETLINK: u32 = 4;
}

/// One socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Record {
    /// [`phase`].
    pub phase: u32,
    /// [`flag`].
    pub flags: u32,
    /// AF_INET or AF_INET6.
    pub family: i32,
    /// SOCK_STREAM or SOCK_DGRAM; of netlink the protocol.
    pub kind: i32,
    /// Our end's number.
    pub ours: i32,
    /// [`what`].
    pub what: u32,
    /// Our end's inode: the number is still that end.
    pub ours_inode: u64,
    /// The program's end's inode.
    pub socket: u64,
    /// The place in the arena.
    pub slot: u32,
    /// Which use of it.
    pub epoch: u32,
    /// Whose it is.
    pub shard: u32,
    /// What SO_ERROR will say.
    pub error: i32,
    /// Our side.
    pub local: Address,
    /// The remote.
    pub peer: Address,
    /// What came with the datagram that lies in the pair.
    pub head: Head,
    /// What was set.
    pub options: [u8; OPTIONS_SIZE],
    /// Offset in the send stream at which the odometer was full; less than 0 by what filled the pair.
    pub base: u64,
    /// The base after a rearm that is under way.
    pub next_base: u64,
    /// Bytes that kept the program's end from being writable.
    pub filled: u64,
    /// The last call that changed it, and what it came to.
    pub notice: u64,
    /// The answer: a value, or an errno below 0.
    pub answer: i64,
    /// The last request to sockd when it was written.
    pub request: u64,
    /// Of a returned connection: its listener.
    pub listener: u32,
    /// Who named it last.
    pub caller: u32,
}

/// What came with a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Head {
    remote: Address,
    local: Address,
    interface: u32,
    hop_limit: u8,
    tos: u8,
    segment: u16,
    at_ns: u64,
}

impl From<Option<&Datagram>> for Head {
    fn from(datagram: Option<&Datagram>) -> Head {
        let Some(&Datagram { remote, local, interface, hop_limit, tos, segment, at, .. }) = datagram else {
            return Head::new_zeroed();
        };
        let (remote, local, at_ns) = (Some(remote).into(), Some(local).into(), at.as_nanos() as u64);
        Head { remote, local, interface, hop_limit, tos, segment, at_ns }
    }
}

impl From<Head> for Option<Datagram> {
    fn from(head: Head) -> Option<Datagram> {
        let Head { interface, hop_limit, tos, segment, at_ns, .. } = head;
        let (remote, local) =
            (Option::<SocketAddr>::from(head.remote)?, Option::<SocketAddr>::from(head.local)?);
        let at = Duration::from_nanos(at_ns);
        let marks = 0;
        Some(Datagram { copied: 0, len: 0, remote, local, interface, hop_limit, tos, segment, marks, at })
    }
}

/// An address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Address {
    ip: [u8; 16],
    scope: u32,
    flow: u32,
    port: u16,
    /// 0 for none, else 4 or 6.
    family: u16,
}

impl Address {
    /// No address.
    pub const NONE: Address = Address { ip: [0; 16], scope: 0, flow: 0, port: 0, family: 0 };
}

impl From<Option<SocketAddr>> for Address {
    fn from(address: Option<SocketAddr>) -> Address {
        match address {
            None => Address::NONE,
            Some(SocketAddr::V4(v4)) => {
                Address { ip: v4.ip().to_ipv6_mapped().octets(), port: v4.port(), family: 4, ..Address::NONE }
            }
            Some(SocketAddr::V6(v6)) => Address {
                ip: v6.ip().octets(),
                scope: v6.scope_id(),
                flow: v6.flowinfo(),
                port: v6.port(),
                family: 6,
            },
        }
    }
}

impl From<Address> for Option<SocketAddr> {
    fn from(address: Address) -> Option<SocketAddr> {
        let ip = Ipv6Addr::from(address.ip);
        match address.family {
            0 => None,
            4 => Some(SocketAddr::new(IpAddr::V4(ip.to_ipv4_mapped()?), address.port)),
            _ => Some(SocketAddrV6::new(ip, address.port, address.flow, address.scope).into()),
        }
    }
}

/// A call that waits.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Parked {
    /// The notice to answer.
    pub id: u64,
    /// The arguments.
    pub arguments: [u64; 6],
    /// Which call.
    pub call: i64,
    /// CLOCK_MONOTONIC in nanoseconds when it fails; 0 for never.
    pub until_ns: u64,
    /// Who called.
    pub tid: u32,
    /// The record it waits for, and one; 0 for none. Written last.
    pub index: u32,
}

/// What the pump does at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pumping {
    /// Nothing.
    Idle,
    /// Bytes go into the pipe.
    Fill,
    /// Bytes go out of the pipe to the program.
    Drain,
    /// The pipe is emptied; the stream then stands at `next`.
    Undo,
}

/// The pump's words.
#[derive(Debug, Clone, Copy)]
pub struct PumpState {
    /// What it does.
    pub doing: Pumping,
    /// For which record.
    pub index: usize,
    /// Where the stream stood.
    pub base: u64,
    /// Bytes that went into the pipe.
    pub count: u64,
    /// Where it stands after an undo.
    pub next: u64,
}

/// A descriptor to be installed in a program, and what came of it.
#[derive(Debug, Clone, Copy)]
pub struct Errand {
    /// The call to answer.
    pub id: u64,
    /// What is installed: a number of ours.
    pub descriptor: i32,
    /// O_CLOEXEC.
    pub close_on_exec: bool,
}

/// An errand's word.
const ASKED: u32 = 1;
const DONE: u32 = 2;

/// The mapped ledger.
#[derive(Debug, Clone)]
pub struct Ledger {
    memory: Arc<Region>,
}

/// Its memory: zeros, and sealed.
///
/// # Errors
/// Those of memfd_create(2).
pub fn create() -> io::Result<OwnedFd> {
    create_sealed("netexec ledger", SIZE)
}

impl Ledger {
    /// Maps it.
    ///
    /// # Errors
    /// Those of mmap(2).
    pub fn map(fd: &OwnedFd) -> io::Result<Ledger> {
        Ok(Ledger { memory: Arc::new(Region::map(fd, SIZE)?) })
    }

    fn get<T: FromBytes + FromZeros + IntoBytes>(&self, at: usize) -> T {
        let mut value = T::new_zeroed();
        self.memory.read(at, value.as_mut_bytes());
        value
    }

    fn put<T: IntoBytes + Immutable>(&self, at: usize, value: &T) {
        self.memory.write(at, value.as_bytes());
    }

    /// The header.
    pub fn header(&self) -> Header {
        self.get(HEADER_AT)
    }

    /// Writes the header, once.
    pub fn begin(&self, header: &Header, last_request: u64) {
        self.put(HEADER_AT, header);
        self.memory.store_u64(SETTLED_AT, last_request, Ordering::Release);
        self.memory.store_u64(NUMBER_AT, last_request, Ordering::Release);
    }

    /// Where the kernel shall put the next notice: zeroed.
    pub fn notice_room(&self) -> *mut u8 {
        self.forget_notice();
        self.memory.write(NOTICE_AT + 8, &[0; NOTICE_SIZE - 8]);
        self.memory.store_u64(PROGRESS_AT, 0, Ordering::Release);
        self.memory.pointer(NOTICE_AT, NOTICE_SIZE)
    }

    /// The notice that is being answered.
    pub fn notice(&self) -> Option<Notice> {
        let mut bytes = [0; NOTICE_SIZE];
        self.memory.read(NOTICE_AT, &mut bytes);
        Notice::from_bytes(&bytes)
    }

    /// It is answered, or waits elsewhere.
    pub fn forget_notice(&self) {
        self.memory.store_u64(NOTICE_AT, 0, Ordering::Release);
    }

    /// Before a datagram is sent for the notice: where the send stream stands, plus one.
    pub fn set_progress(&self, count: u64, written: u64) {
        self.memory.store_u64(PROGRESS_AT + 8, count, Ordering::Release);
        self.memory.store_u64(PROGRESS_AT, written + 1, Ordering::Release);
    }

    /// What [`Ledger::set_progress`] said of this notice: the number of the datagram, and where the stream
    /// stood.
    pub fn progress(&self) -> Option<(u64, u64)> {
        let written = self.memory.load_u64(PROGRESS_AT, Ordering::Acquire).checked_sub(1)?;
        Some((self.memory.load_u64(PROGRESS_AT + 8, Ordering::Acquire), written))
    }

    /// Records that were ever used: those from here on are free.
    pub fn records(&self) -> usize {
        (self.memory.load_u64(HIGH_AT, Ordering::Acquire) as usize).min(RECORDS)
    }

    /// A record.
    pub fn record(&self, index: usize) -> Record {
        let at = RECORDS_AT + index * RECORD_ROOM;
        let version = (self.memory.load_u32(at, Ordering::Acquire) & 1) as usize;
        self.get(at + VERSIONS_AT + version * VERSION_ROOM)
    }

    /// Replaces a record: it is the old one or the new one, whatever happens.
    pub fn commit(&self, index: usize, record: &Record) {
        assert!(index < RECORDS, "no such record");
        if index as u64 >= self.memory.load_u64(HIGH_AT, Ordering::Relaxed) {
            self.memory.store_u64(HIGH_AT, index as u64 + 1, Ordering::Release);
        }
        let at = RECORDS_AT + index * RECORD_ROOM;
        let next = self.memory.load_u32(at, Ordering::Acquire) & 1 ^ 1;
        self.put(at + VERSIONS_AT + next as usize * VERSION_ROOM, record);
        self.memory.store_u32(at, next, Ordering::Release);
    }

    /// Writes down a call that waits.
    pub fn park(&self, place: usize, parked: &Parked) {
        let at = WAITING_AT + place * WAITING_SIZE;
        self.put(at, &Parked { index: 0, ..*parked });
        self.memory.store_u32(at + core::mem::offset_of!(Parked, index), parked.index, Ordering::Release);
    }

    /// It waits no more.
    pub fn unpark(&self, place: usize) {
        let at = WAITING_AT + place * WAITING_SIZE;
        self.memory.store_u32(at + core::mem::offset_of!(Parked, index), 0, Ordering::Release);
    }

    /// A call that waits.
    pub fn parked(&self, place: usize) -> Option<Parked> {
        let parked: Parked = self.get(WAITING_AT + place * WAITING_SIZE);
        (parked.index != 0).then_some(parked)
    }

    /// What the pump does.
    pub fn pump(&self) -> PumpState {
        let word = |n: usize| self.memory.load_u64(PUMP_AT + n * 8, Ordering::Acquire);
        let doing = match word(0) {
            0 => Pumping::Idle,
            1 => Pumping::Fill,
            2 => Pumping::Drain,
            _ => Pumping::Undo,
        };
        PumpState { doing, index: word(1) as usize, base: word(2), count: word(3), next: word(4) }
    }

    fn set_pump(&self, n: usize, value: u64) {
        self.memory.store_u64(PUMP_AT + n * 8, value, Ordering::Release);
    }

    /// Bytes of that record's stream go into the pipe.
    pub fn pump_fill(&self, index: usize, base: u64) {
        self.set_pump(1, index as u64);
        self.set_pump(2, base);
        self.set_pump(0, 1);
    }

    /// So many are there; they go to the program.
    pub fn pump_drain(&self, count: u64) {
        self.set_pump(3, count);
        self.set_pump(0, 2);
    }

    /// The pipe is emptied; the stream then stands at `next`.
    pub fn pump_undo(&self, next: u64) {
        self.set_pump(4, next);
        self.set_pump(0, 3);
    }

    /// The pipe is empty and the stream says where it stands.
    pub fn pump_idle(&self) {
        self.set_pump(0, 0);
    }

    /// Gives an errand.
    pub fn ask_errand(&self, errand: Errand) {
        self.memory.store_u32(ERRAND_AT, 0, Ordering::Release);
        self.memory.store_u64(ERRAND_AT + 8, errand.id, Ordering::Release);
        self.memory.store_u32(ERRAND_AT + 16, errand.descriptor.cast_unsigned(), Ordering::Release);
        self.memory.store_u32(ERRAND_AT + 20, u32::from(errand.close_on_exec), Ordering::Release);
        self.memory.store_u32(ERRAND_AT, ASKED, Ordering::Release);
    }

    /// The errand that is to be done.
    pub fn errand(&self) -> Option<Errand> {
        (self.memory.load_u32(ERRAND_AT, Ordering::Acquire) == ASKED).then(|| Errand {
            id: self.memory.load_u64(ERRAND_AT + 8, Ordering::Acquire),
            descriptor: self.memory.load_u32(ERRAND_AT + 16, Ordering::Acquire).cast_signed(),
            close_on_exec: self.memory.load_u32(ERRAND_AT + 20, Ordering::Acquire) != 0,
        })
    }

    /// The errand is done: 0, or an errno.
    pub fn errand_done(&self, errno: i32) {
        self.memory.store_u32(ERRAND_AT + 24, errno.cast_unsigned(), Ordering::Release);
        self.memory.store_u32(ERRAND_AT, DONE, Ordering::Release);
    }

    /// What came of the errand for a call: an errno, 0 for success; `None` when there was none.
    pub fn errand_outcome(&self, id: u64) -> Option<i32> {
        let done = self.memory.load_u32(ERRAND_AT, Ordering::Acquire) == DONE;
        let same = self.memory.load_u64(ERRAND_AT + 8, Ordering::Acquire) == id;
        (done && same).then(|| self.memory.load_u32(ERRAND_AT + 24, Ordering::Acquire).cast_signed())
    }

    /// The number of the last request.
    pub fn last_request(&self) -> u64 {
        self.memory.load_u64(NUMBER_AT, Ordering::Acquire)
    }

    /// What was granted until now is written down.
    pub fn settle_requests(&self) {
        let last = self.last_request();
        if self.memory.load_u64(SETTLED_AT, Ordering::Relaxed) != last {
            self.memory.store_u64(SETTLED_AT, last, Ordering::Release);
        }
    }

    /// The last request and its bytes, if what it granted may not be written down.
    pub fn open_request(&self) -> Option<Vec<u8>> {
        let last = self.memory.load_u64(NUMBER_AT, Ordering::Acquire);
        if self.memory.load_u64(SETTLED_AT, Ordering::Acquire) == last {
            return None;
        }
        let at = REQUESTS_AT + (last & 1) as usize * (8 + REQUEST_MAX);
        let len = self.memory.load_u64(at, Ordering::Acquire) as usize;
        let mut bytes = vec![0; len.min(REQUEST_MAX)];
        self.memory.read(at + 8, &mut bytes);
        Some(bytes)
    }
}

impl libnetclient::resume::Book for Ledger {
    fn asking(&self, number: u64, request: &[u8]) {
        let at = REQUESTS_AT + (number & 1) as usize * (8 + REQUEST_MAX);
        self.memory.write(at + 8, request);
        self.memory.store_u64(at, request.len() as u64, Ordering::Release);
        self.memory.store_u64(NUMBER_AT, number, Ordering::Release);
    }
}

/// A geometry as the header has it.
pub fn geometry_words(geometry: &Geometry) -> [u32; 5] {
    [geometry.shards.into(), geometry.active, geometry.passive, geometry.tx_pages, geometry.rx_pages]
}

/// A geometry from the header.
pub fn geometry_of(words: [u32; 5]) -> Geometry {
    let [shards, active, passive, tx_pages, rx_pages] = words;
    Geometry { shards: shards as u16, active, passive, tx_pages, rx_pages }
}

#[cfg(test)]
mod tests {
    use super::*;
    use libnetclient::resume::Book;

    #[test]
    fn a_record_is_the_old_one_or_the_new_one() {
        let fd = create().expect("a memfd");
        let ledger = Ledger::map(&fd).expect("memory");
        let one = Record { phase: phase::LIVES, base: 7, ..Record::new_zeroed() };
        ledger.commit(3, &one);
        let again = Ledger::map(&fd).expect("memory");
        assert_eq!(again.record(3), one);
        assert_eq!(again.record(4).phase, phase::FREE);
        ledger.commit(3, &Record { base: 8, ..one });
        assert_eq!(again.record(3).base, 8);
    }

    #[test]
    fn the_last_request_is_open_until_it_is_settled() {
        let fd = create().expect("a memfd");
        let ledger = Ledger::map(&fd).expect("memory");
        ledger.begin(&Header::new_zeroed(), 1);
        assert_eq!(ledger.open_request(), None);
        ledger.asking(2, b"two");
        assert_eq!(Ledger::map(&fd).expect("memory").open_request(), Some(b"two".to_vec()));
        ledger.settle_requests();
        ledger.asking(3, b"three");
        assert_eq!(ledger.open_request(), Some(b"three".to_vec()));
        ledger.settle_requests();
        assert_eq!(ledger.open_request(), None);
    }

    #[test]
    fn what_came_with_a_datagram_comes_back() {
        let remote: SocketAddr = "[fe80::1%3]:7".parse().expect("one");
        let local = "10.0.0.1:80".parse().expect("one");
        let at = Duration::from_nanos(77);
        let (copied, len, interface) = (0, 0, 2);
        let one = Datagram {
            copied,
            len,
            remote,
            local,
            interface,
            hop_limit: 3,
            tos: 4,
            segment: 5,
            marks: 0,
            at,
        };
        assert_eq!(Option::<Datagram>::from(Head::from(Some(&one))), Some(one));
        assert_eq!(Option::<Datagram>::from(Head::from(None::<&Datagram>)), None);
    }

    #[test]
    fn addresses_come_back_as_they_were() {
        for text in ["10.0.0.1:80", "[fe80::1%3]:7", "0.0.0.0:0", "[::ffff:1.2.3.4]:9"] {
            let address: SocketAddr = text.parse().expect("one");
            assert_eq!(Option::<SocketAddr>::from(Address::from(Some(address))), Some(address));
        }
        assert_eq!(Option::<SocketAddr>::from(Address::NONE), None);
    }
}
