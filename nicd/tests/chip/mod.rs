//! A shipped driver on the model of its chip, between netd's end of the rings and a wire that the test plays.

pub mod kinds;

use crate::memory::{Shared, memory};
use crate::netd_side::NetdSide;
use nicd::counts::Count;
use nicd::datapath::{Datapath, TurnError};
use nicd::driver::Wishes;
use nicd::model::machine::Model;
use nicd::nic::{Nic, Slab};
use proto::Instant;
use proto::nic::packet_buf::{Csum, Gso, Marks};
use proto::nic::rings::REGION_SIZE;
use proto::nic::slab::SlabGeometry;
use std::io;
use std::rc::Rc;
use std::time::Duration;

pub const OURS: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const THEIRS: [u8; 6] = [2, 0, 0, 0, 0, 9];
pub const GEOMETRY: SlabGeometry = SlabGeometry { small: 512, large: 32 };
/// Small pages that netd lends.
pub const LENT: usize = 128;

/// A chip with its driver: how the tests make one.
pub trait Chip {
    type Model: Model<Shared>;
    type Nic: Nic<Shared>;
    const NAME: &'static str;
    fn model(slabs: &[Slab<Shared>]) -> Rc<Self::Model>;
    fn driver(model: &Rc<Self::Model>, wishes: &Wishes) -> io::Result<Self::Nic>;
}

pub struct World<C: Chip> {
    pub model: Rc<C::Model>,
    pub nicd: Datapath<Shared, C::Nic>,
    pub netd: NetdSide<Shared>,
    pub slab: Shared,
    pub now: Instant,
    pub got: Vec<(Vec<u8>, Marks)>,
    sleeps: bool,
    interrupts: u64,
}

/// What the tests wish of a chip.
pub fn wishes(mtu: u16, shards: u16) -> Wishes {
    Wishes { mac: OURS, mtu, offload: true, shards }
}

impl<C: Chip> World<C> {
    pub fn new(mtu: u16) -> World<C> {
        World::over(|_| {}, mtu).expect("a chip that works")
    }

    /// With a model that was told something before the driver saw it.
    pub fn over(tell: impl FnOnce(&C::Model), mtu: u16) -> io::Result<World<C>> {
        let (slab, rings) = (memory(GEOMETRY.bytes()), memory(REGION_SIZE));
        let of_nicd = Slab { shard: 0, memory: slab.clone(), geometry: GEOMETRY };
        let model = C::model(std::slice::from_ref(&of_nicd));
        tell(&model);
        let mut nicd = Datapath::new(C::driver(&model, &wishes(mtu, 1))?, vec![of_nicd], OURS, mtu);
        nicd.attach(0, rings.clone())?;
        let netd = NetdSide::new(rings, slab.clone(), GEOMETRY);
        let now = Instant::from_nanos(1_000_000_000);
        let mut world = World { model, nicd, netd, slab, now, got: Vec::new(), sleeps: false, interrupts: 0 };
        let _ = world.netd.lend(LENT, 4).expect("nicd is honest");
        world.run();
        world.settle_link();
        Ok(world)
    }

    /// The link comes up.
    pub fn settle_link(&mut self) {
        self.model.machine().time.set(self.model.machine().time.get() + Duration::from_secs(3));
        self.model.step();
        self.run();
        self.pass(Duration::from_secs(3));
    }

    /// Time goes by: deadlines pass.
    pub fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        for _ in 0..100 {
            match self.nicd.deadline().filter(|due| *due <= until) {
                Some(due) => {
                    self.now = self.now.max(due);
                    self.nicd.device_ready(self.now).expect("the chip is there");
                    self.sleeps = false;
                    self.run();
                }
                None => break,
            }
        }
        self.now = until;
    }

    /// nicd until it sleeps: as its server does it, woken only by what would wake that.
    pub fn run(&mut self) {
        self.try_run().expect("the chip is there");
    }

    pub fn try_run(&mut self) -> io::Result<()> {
        for _ in 0..10_000 {
            self.now = self.now + Duration::from_micros(1);
            let interrupts = self.model.machine().interrupts.get();
            if core::mem::replace(&mut self.interrupts, interrupts) != interrupts {
                self.sleeps = false;
                self.nicd.device_ready(self.now)?;
            }
            if self.sleeps {
                return Ok(());
            }
            let turn = match self.nicd.turn(self.now) {
                Err(TurnError::Device(error)) => return Err(error),
                outcome => outcome.expect("netd is honest"),
            };
            self.take();
            if !turn.again && !turn.moved && self.nicd.may_sleep().expect("netd is honest") {
                self.sleeps = true;
            }
        }
        panic!("nicd never sleeps");
    }

    /// netd takes what there is and lends anew. Wakes nicd where it would.
    pub fn take(&mut self) {
        self.got.extend(self.netd.take_marked().expect("nicd is honest"));
        if self.netd.lend(LENT, 4).expect("nicd is honest") {
            self.sleeps = false;
        }
        let _ = self.netd.may_sleep();
    }

    /// netd sends, without giving nicd a turn; false when there is no room.
    pub fn push(&mut self, frame: &[u8], marks: Marks) -> bool {
        match self.netd.send_marked(frame, marks).expect("nicd is honest") {
            Some(wake) => {
                self.sleeps &= !wake;
                true
            }
            None => false,
        }
    }

    pub fn send(&mut self, frame: &[u8], marks: Marks) {
        assert!(self.push(frame, marks), "room to send");
        self.run();
    }

    pub fn count(&self, count: Count) -> u64 {
        self.nicd.counts.get(count)
    }

    /// Only the bytes of what was received since the last call.
    pub fn received(&mut self) -> Vec<Vec<u8>> {
        core::mem::take(&mut self.got).into_iter().map(|(bytes, _)| bytes).collect()
    }

    /// netd dies, and another one begins over the same slab.
    pub fn new_netd(&mut self) -> io::Result<()> {
        self.nicd.detach(0)?;
        let rings = memory(REGION_SIZE);
        self.nicd.attach(0, rings.clone())?;
        self.netd = NetdSide::new(rings, self.slab.clone(), GEOMETRY);
        self.sleeps = false;
        Ok(())
    }
}

/// A frame of `len` bytes that says which one it is.
pub fn frame(to: [u8; 6], from: [u8; 6], len: usize, n: u64) -> Vec<u8> {
    let mut bytes = [&to[..], &from, &[0x88, 0xb5]].concat();
    bytes.extend(n.to_le_bytes());
    bytes.extend((bytes.len()..len).map(|at| (at as u64 ^ n) as u8));
    bytes.truncate(len.max(22));
    bytes
}

/// The Internet checksum's sum (RFC 1071), not complemented.
pub fn sum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
    let mut sum: u32 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Where the transport header of [`packet`] starts.
pub fn transport_at(v6: bool) -> usize {
    if v6 { 54 } else { 34 }
}

/// A TCP or UDP packet with `payload`; with `whole` its checksum is right, else only the pseudo header is
/// summed, as a device that fills it in wants it.
pub fn packet(v6: bool, udp: bool, payload: &[u8], whole: bool) -> Vec<u8> {
    let head = if udp { 8 } else { 20 };
    let len = head + payload.len();
    let mut transport = vec![0x12, 0x34, 0x00, 0x50];
    match udp {
        true => transport.extend([(len >> 8) as u8, len as u8, 0, 0]),
        // RFC 9293 §3.1: sequence number 1000, PSH and ACK and FIN.
        false => transport.extend([0, 0, 3, 232, 0, 0, 0, 7, 0x50, 0x19, 0x20, 0, 0, 0, 0, 0]),
    }
    transport.extend(payload);
    let protocol = if udp { 17u8 } else { 6 };
    let (ip, pseudo) = match v6 {
        false => {
            let addresses = [10, 0, 0, 1, 10, 0, 0, 2];
            let total = (20 + len) as u16;
            let mut ip = vec![0x45, 0, (total >> 8) as u8, total as u8, 0, 9, 0x40, 0, 64, protocol, 0, 0];
            ip.extend(addresses);
            let header = !sum(&ip);
            ip[10..12].copy_from_slice(&header.to_be_bytes());
            (ip, [&addresses[..], &[0, protocol, (len >> 8) as u8, len as u8]].concat())
        }
        true => {
            let mut ip = vec![0x60, 0, 0, 0, (len >> 8) as u8, len as u8, protocol, 64];
            let mut addresses = vec![0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
            addresses.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
            ip.extend(&addresses);
            (ip, [&addresses[..], &[0, protocol, (len >> 8) as u8, len as u8]].concat())
        }
    };
    let at = if udp { 6 } else { 16 };
    let checksum = match whole {
        true => !sum(&[&pseudo[..], &transport].concat()),
        false => sum(&pseudo),
    };
    transport[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    let kind = if v6 { [0x86, 0xdd] } else { [8, 0] };
    [&THEIRS[..], &OURS, &kind, &ip, &transport].concat()
}

/// What a frame of [`packet`] asks of the device.
pub fn marks(v6: bool, udp: bool, gso: Option<u16>) -> Marks {
    Marks {
        csum: Csum::Partial { start: transport_at(v6) as i32, udp },
        gso: gso.map(|size| Gso { size, v6 }),
        elsewhere: false,
    }
}
