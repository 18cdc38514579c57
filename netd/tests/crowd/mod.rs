//! A stack with very many connections, whose remotes are frames made by hand.

use netd::link::gro::Gro;
use netd::link::interface::InterfaceConfig;
use netd::secrets;
use netd::stack::{ORDER, Setup, Stack};
use netd::wire::address::MacAddr;
use netd::wire::checksum::pseudo_header;
use netd::wire::ipv4::{IpProtocol, Ipv4Header};
use proto::Instant;
use proto::arena::line::{ClientLine, Notes, StackLine};
use proto::arena::place::{Direction, pieces};
use proto::arena::record::{Header, Said, record_size};
use proto::arena::{Geometry, NOTE_SIZE, TABLE_PAGES};
use proto::cell::table_size;
use proto::control::messages::Prefix;
use proto::control::notices::Change;
use proto::control::operations::{Command, SocketRef};
use proto::form::{Form, Share};
use proto::id::{Epoch, OpId, SessionId, SlotIndex};
use proto::nic::packet_buf::{Csum, PacketBuf};
use proto::nic::pool::FramePool;
use proto::nic::slab::SlabGeometry;
use proto::ring::spsc::Producer;
use proto::shm::Memory;
use proto::shm::heap::HeapMemory;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

type Mem = Rc<HeapMemory>;

const US: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PORT: u16 = 80;
/// Connections of one remote address.
const A_REMOTE: u32 = 50_000;
/// The payload of a full segment with timestamps.
const FULL: usize = 1448;
/// Where the datagram socket lies.
const DATAGRAMS: SlotIndex = SlotIndex(1);
/// The payload of a datagram.
const DATAGRAM: usize = 64;
const SYN: u8 = 2;
const ACK: u8 = 16;
/// MSS 1460, SACK permitted, timestamps, window scale 7: what a Linux host offers.
const SYN_OPTIONS: [u8; 20] = [2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7];

/// The remote end of one connection.
#[derive(Debug, Clone, Copy)]
struct Remote {
    seq: u32,
    ack: u32,
    stamp: u32,
}

/// The stack, its one client, and all remotes.
pub struct Crowd {
    /// The stack.
    pub stack: Stack<Mem>,
    now: Instant,
    pool: Rc<FramePool<Mem>>,
    arena: Mem,
    geometry: Geometry,
    kicks: Producer<Mem, NOTE_SIZE>,
    line: ClientLine,
    datagrams: ClientLine,
    remotes: Vec<Remote>,
    setup: Box<dyn Fn() -> Setup<Mem>>,
}

fn set_neighbours(stack: &mut Stack<Mem>, now: Instant, most: u32) {
    for n in 0..=most / A_REMOTE {
        let addr = IpAddr::V4(address(n * A_REMOTE).0);
        let change = Change::NeighbourAdd { nic: 0, addr, mac: [2, 1, 1, 1, 1, n as u8] };
        stack.change(now, &change).expect("a neighbour can be set");
    }
}

fn address(n: u32) -> (Ipv4Addr, u16) {
    (Ipv4Addr::new(10, 0, 1, 1 + (n / A_REMOTE) as u8), 10_000 + (n % A_REMOTE) as u16)
}

impl Crowd {
    /// A stack that may hold `most` connections and holds none.
    pub fn new(most: u32) -> Crowd {
        let now = Instant::from_millis(5_000_000);
        let slab = SlabGeometry { small: 4096, large: 16 };
        let pool = Rc::new(FramePool::new(Rc::new(HeapMemory::new(slab.bytes())), slab));
        let loopback = Rc::new(FramePool::new(Rc::new(HeapMemory::new(slab.bytes())), slab));
        let interface = InterfaceConfig {
            mac: MacAddr(OUR_MAC),
            mtu: 1500,
            vlan: None,
            addrs: vec![Prefix { addr: IpAddr::V4(US), len: 16 }],
            tentative: Vec::new(),
            gateways: Vec::new(),
            slaac: false,
            learned: Default::default(),
        };
        let capacity = most + 16;
        let conns = Rc::new(HeapMemory::new(table_size(capacity)));
        let secrets = Rc::new(HeapMemory::new(secrets::REGION_SIZE));
        let frames = pool.clone();
        let setup: Box<dyn Fn() -> Setup<Mem>> = Box::new(move || Setup {
            shard: 0,
            shards: 1,
            interfaces: vec![interface.clone()],
            frames: vec![frames.clone()],
            loopback: loopback.clone(),
            conns: conns.clone(),
            conns_capacity: capacity,
            secrets: secrets.clone(),
            watch: None,
            bait: Vec::new(),
            entropy: [3; secrets::ENTROPY_SIZE],
        });
        let geometry = Geometry { shards: 1, active: 4, passive: most, tx_pages: 16, rx_pages: 256 };
        let arena = Rc::new(HeapMemory::new(geometry.bytes()));
        let mut stack = Stack::attach(now, setup(), Vec::new()).expect("fresh memory");
        stack.add_session(SessionId(1), geometry, arena.clone()).expect("a fresh arena");
        set_neighbours(&mut stack, now, most);
        let socket = SocketRef { session: SessionId(1), slot: SlotIndex(0), epoch: Epoch(1) };
        let local = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), PORT);
        stack.on_command(
            now,
            &Command::Listen { op: OpId(1), socket, local, backlog: 1 << 20, share: Share::NONE },
        );
        let line = ClientLine { epoch: Epoch(1), ..ClientLine::default() };
        line.store(&arena, &geometry, SlotIndex(0));
        let kicks = Producer::new(arena.clone(), geometry.kick_ring(0));
        let mut crowd = Crowd {
            stack,
            now,
            pool,
            arena,
            geometry,
            kicks,
            line,
            datagrams: ClientLine::default(),
            remotes: Vec::with_capacity(most as usize),
            setup,
        };
        crowd.settle();
        crowd.sent();
        crowd
    }

    fn settle(&mut self) {
        self.stack.poll_kicks(self.now, 1024);
        self.stack.on_timers(self.now);
        self.stack.poll_transmit(self.now, &mut [4096, 64]);
        self.stack.settle(self.now, ORDER);
    }

    /// What left for the remotes, ARP aside.
    fn sent(&mut self) -> Vec<Vec<u8>> {
        while self.stack.next_wake().is_some() || self.stack.next_answer().is_some() {}
        let frames = std::iter::from_fn(|| self.stack.next_frame());
        let bytes = |(_, frame): (u16, PacketBuf<Mem>)| {
            let mut bytes = vec![0; frame.len()];
            frame.read(0, &mut bytes);
            bytes
        };
        frames.map(bytes).filter(|frame| frame[12..14] == [8, 0]).collect()
    }

    /// A segment of remote `n`, whose checksum the device has verified.
    fn segment(&mut self, n: u32, flags: u8, payload: &[u8]) {
        let mut packet = self.frame(n, flags, payload);
        packet.marks.csum = Csum::Valid;
        self.stack.on_frame(self.now, 0, packet);
    }

    /// A segment of remote `n`, as it lies in frame pages.
    fn frame(&mut self, n: u32, flags: u8, payload: &[u8]) -> PacketBuf<Mem> {
        let (src, port) = address(n);
        let Remote { seq, ack, stamp } = self.remotes[n as usize];
        let mut tcp = Vec::with_capacity(64 + payload.len());
        tcp.extend(port.to_be_bytes());
        tcp.extend(PORT.to_be_bytes());
        tcp.extend(seq.to_be_bytes());
        tcp.extend(ack.to_be_bytes());
        let options: Vec<u8> = match flags & SYN != 0 {
            true => SYN_OPTIONS.to_vec(),
            false => [&[1, 1, 8, 10][..], &stamp.to_be_bytes(), &[0; 4]].concat(),
        };
        tcp.extend([(20 + options.len() as u8) << 2, flags]);
        tcp.extend(512u16.to_be_bytes());
        tcp.extend([0; 4]);
        tcp.extend(options);
        tcp.extend(payload);
        let mut frame = [OUR_MAC, [2, 1, 1, 1, 1, 1]].concat();
        frame.extend([8, 0]);
        let mut ip = [0; 20];
        let header = Ipv4Header::new(src, US, IpProtocol::TCP, 64, tcp.len());
        header.emit(&mut ip);
        let sum = pseudo_header(&header.pair(), IpProtocol::TCP.0, tcp.len() as u32).then(&tcp);
        tcp[16..18].copy_from_slice(&sum.field().to_be_bytes());
        frame.extend(ip);
        frame.extend(tcp);
        let mut packet = PacketBuf::alloc(&self.pool, frame.len(), 0).expect("pages");
        packet.write(0, &frame).expect("our own page");
        packet
    }

    /// `more` connections come in, are established, and are accepted.
    pub fn connect(&mut self, more: u32) {
        let first = self.remotes.len() as u32;
        for n in first..first + more {
            self.now = self.now + Duration::from_micros(20);
            self.remotes.push(Remote { seq: n * 77, ack: 0, stamp: 1 });
            self.segment(n, SYN, &[]);
            self.settle();
            let answer = self.sent();
            assert_eq!(answer.len(), 1, "connection {n}: one SYN-ACK");
            let iss = u32::from_be_bytes([answer[0][38], answer[0][39], answer[0][40], answer[0][41]]);
            let remote = &mut self.remotes[n as usize];
            (remote.seq, remote.ack, remote.stamp) = (n * 77 + 1, iss.wrapping_add(1), 2);
            self.segment(n, ACK, &[]);
            self.settle();
            self.line.consumed += record_size(0) as u64;
            // Who accepts a connection takes its place up.
            let slot = SlotIndex(self.geometry.active + n);
            let epoch = StackLine::load_epoch(&self.arena, &self.geometry, slot);
            ClientLine { epoch, ..ClientLine::default() }.store(&self.arena, &self.geometry, slot);
            self.kick();
            self.settle();
            self.sent();
            self.stack.maintain();
        }
        assert_eq!(self.stack.record_count() as u32, first + more + 1, "and the listener");
    }

    fn kick(&mut self) {
        let at = (&self.arena, &self.geometry, SlotIndex(0));
        self.line.store(at.0, at.1, at.2);
        if Notes::Kick.raise(at.0, at.1, at.2, &mut self.line.kick_seq) {
            assert_eq!(self.kicks.push(&0u32.to_ne_bytes()), Ok(true), "room for a note");
        }
        let _ = self.kicks.publish();
    }

    /// A pure acknowledgement for each of `count` connections, spread over all of them.
    pub fn one_packet_each(&mut self, count: u32) {
        let all = self.remotes.len() as u32;
        let mut n = 0;
        let mut frames = Vec::with_capacity(count as usize);
        for _ in 0..count {
            n = (n + 7_919) % all;
            self.remotes[n as usize].stamp += 1;
            let mut frame = self.frame(n, ACK, &[]);
            frame.marks.csum = Csum::Valid;
            frames.push(frame);
        }
        self.take_batch(frames);
        assert!(self.sent().is_empty(), "an acknowledgement is not answered");
    }

    /// One batch, from its frames to its end.
    #[inline(never)]
    fn take_batch(&mut self, frames: Vec<PacketBuf<Mem>>) {
        for frame in frames {
            self.stack.on_frame(self.now, 0, frame);
        }
        self.settle();
    }

    /// The stack dies, and its successor takes over everything and settles its first batch. Returns how
    /// long the two took.
    pub fn die(&mut self) -> [Duration; 2] {
        let most = self.remotes.len() as u32;
        let sessions = vec![(SessionId(1), self.geometry, self.arena.clone())];
        let setup = (self.setup)();
        self.now = self.now + Duration::from_millis(1);
        let begun = std::time::Instant::now();
        self.take_over(setup, sessions);
        let attached = begun.elapsed();
        set_neighbours(&mut self.stack, self.now, most);
        self.settle();
        let settled = begun.elapsed() - attached;
        assert_eq!(self.stack.record_count() as u32, most + 1, "nobody is lost");
        let mut greeted = 0;
        while self.stack.wants_transmit(&[4096, 64]) || greeted == 0 {
            self.settle();
            greeted += self.sent().len();
        }
        assert_eq!(greeted as u32, most, "every connection speaks once");
        [attached, settled]
    }

    #[inline(never)]
    fn take_over(&mut self, setup: Setup<Mem>, sessions: Vec<(SessionId, Geometry, Mem)>) {
        let next = Stack::attach(self.now, setup, sessions).expect("what a stack has left");
        // A dead process frees nothing piece by piece.
        std::mem::forget(std::mem::replace(&mut self.stack, next));
    }

    /// A datagram socket at place 1, bound to the port of the listener.
    pub fn open_datagrams(&mut self) {
        let socket = SocketRef { session: SessionId(1), slot: DATAGRAMS, epoch: Epoch(1) };
        let local = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), PORT);
        let remote = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
        self.stack.on_command(
            self.now,
            &Command::Datagram { op: OpId(2), socket, local, remote, form: Form::Udp, share: Share::NONE },
        );
        self.datagrams = ClientLine { epoch: Epoch(1), ..ClientLine::default() };
        self.datagrams.store(&self.arena, &self.geometry, DATAGRAMS);
        for entry in 0..TABLE_PAGES {
            let page = entry as u32 % self.geometry.tx_pages;
            Direction::Tx.set_page(&self.arena, &self.geometry, DATAGRAMS, entry, page);
        }
        self.settle();
        self.sent();
    }

    /// `count` datagrams of 64 bytes come in, and go back.
    pub fn datagrams(&mut self, count: u32) {
        let frames = (0..count).map(|n| self.datagram(n % A_REMOTE)).collect();
        self.take_batch(frames);
        // What the client does of it stands outside of the count.
        for n in 0..count {
            let (ip, port) = address(n % A_REMOTE);
            let header = Header {
                len: DATAGRAM as u32,
                remote: SocketAddr::new(IpAddr::V4(ip), port),
                local: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), PORT),
                slot: SlotIndex(0),
                epoch: Epoch(0),
                said: Said::default(),
            };
            let mut record = header.to_bytes().to_vec();
            record.resize(record_size(DATAGRAM), 7);
            let mut done = 0;
            for piece in pieces(self.datagrams.written, record.len()) {
                let page = piece.entry as u32 % self.geometry.tx_pages;
                let at = Direction::Tx.byte_at(&self.geometry, page, piece.within);
                self.arena.write(at, &record[done..done + piece.len]);
                done += piece.len;
            }
            self.datagrams.written += record.len() as u64;
            self.datagrams.consumed += record.len() as u64;
        }
        self.datagrams.store(&self.arena, &self.geometry, DATAGRAMS);
        if Notes::Kick.raise(&self.arena, &self.geometry, DATAGRAMS, &mut self.datagrams.kick_seq) {
            assert_eq!(self.kicks.push(&DATAGRAMS.0.to_ne_bytes()), Ok(true), "room for a note");
        }
        let _ = self.kicks.publish();
        self.take_batch(Vec::new());
        assert_eq!(self.sent().len() as u32, count, "every datagram goes back");
    }

    fn datagram(&mut self, n: u32) -> PacketBuf<Mem> {
        let (src, port) = address(n);
        let mut udp = Vec::with_capacity(8 + DATAGRAM);
        udp.extend(port.to_be_bytes());
        udp.extend(PORT.to_be_bytes());
        udp.extend((8 + DATAGRAM as u16).to_be_bytes());
        udp.extend([0; 2]);
        udp.extend([7; DATAGRAM]);
        let mut frame = [OUR_MAC, [2, 1, 1, 1, 1, 1]].concat();
        frame.extend([8, 0]);
        let mut ip = [0; 20];
        Ipv4Header::new(src, US, IpProtocol::UDP, 64, udp.len()).emit(&mut ip);
        frame.extend(ip);
        frame.extend(udp);
        let mut packet = PacketBuf::alloc(&self.pool, frame.len(), 0).expect("pages");
        packet.write(0, &frame).expect("our own page");
        packet
    }

    /// A batch of `count` full segments of connection 0, from a device without offloads.
    pub fn a_run(&mut self, count: u32, joined: bool) {
        let mut frames = Vec::with_capacity(count as usize);
        for n in 0..count {
            frames.push(self.frame(0, ACK, &[n as u8; FULL]));
            self.remotes[0].seq = self.remotes[0].seq.wrapping_add(FULL as u32);
        }
        self.take_run(frames, joined);
        self.settle();
        assert!(!self.sent().is_empty(), "a run is acknowledged");
    }

    #[inline(never)]
    fn take_run(&mut self, frames: Vec<PacketBuf<Mem>>, joined: bool) {
        let mut gro = Gro::default();
        for frame in frames {
            if !joined {
                self.stack.on_frame(self.now, 0, frame);
                continue;
            }
            gro.push(frame);
            while let Some(frame) = gro.pop() {
                self.stack.on_frame(self.now, 0, frame);
            }
        }
        gro.flush();
        while let Some(frame) = gro.pop() {
            self.stack.on_frame(self.now, 0, frame);
        }
    }
}
