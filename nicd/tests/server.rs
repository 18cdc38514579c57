//! The whole of nicd but its `main`, with the test as its supervisor and netd and as the other end of
//! its wire.

#[allow(dead_code, reason = "shared by tests that use different parts of it")]
mod netd_side;

use netd_side::NetdSide;
use nicd::backend::wire::Wire;
use nicd::counts::Counts;
use nicd::nic::{Frame, Nic, Received, Slab, Transmitted};
use proto::control::clock;
use proto::control::lane::{Lane, socket_pair};
use proto::control::messages::{
    Access, Backend, FromDaemon, Grant, GroupConfig, NicConfig, Region as Tag, ToDaemon, Welcome, WireFaults,
};
use proto::control::notices::{FilterNotice, LinkNotice};
use proto::control::rendezvous::NoticeLane;
use proto::daemon::begin_on;
use proto::id::{Generation, Role, Seat};
use proto::nic::descriptor::Descriptor;
use proto::nic::rings::REGION_SIZE;
use proto::nic::slab::{PageIndex, SlabGeometry};
use proto::recorder::{self, Kind};
use proto::shm::Memory;
use proto::shm::region::{Region, create_sealed};
use proto::stats;
use rustix::event::EventfdFlags;
use rustix::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

const SEAT: Seat = Seat::new(Role::Nicd, 0);
const NETD: Seat = Seat::new(Role::Netd, 0);
const GEOMETRY: SlabGeometry = SlabGeometry { small: 64, large: 8 };
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

fn memory(size: usize) -> OwnedFd {
    create_sealed("test", size).expect("a memfd")
}

fn map(fd: &OwnedFd, size: usize) -> Arc<Region> {
    Arc::new(Region::map(fd, size).expect("mapped"))
}

/// Tries until it is there, for at most five seconds.
fn wait<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let give_up = clock::now() + Duration::from_secs(5);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(clock::now() < give_up, "no {what} within five seconds");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn welcome(path: &Path) -> Welcome {
    let backend = Backend::Wire {
        path: path.to_str().expect("a path in ASCII").to_owned(),
        faults: WireFaults::default(),
    };
    let nic = NicConfig {
        backend,
        mac: MAC,
        mtu: 1500,
        addrs: Vec::new(),
        gateways: Vec::new(),
        slaac: false,
        offload: true,
        ports: Vec::new(),
    };
    let group = GroupConfig {
        name: "test".to_owned(),
        dir: "/nowhere".to_owned(),
        shards: 1,
        nics: vec![nic],
        slab: GEOMETRY,
        conns: 0,
        faults: Vec::new(),
    };
    let grant = |region, size| Grant { region, access: Access::Write, size };
    let grants = vec![
        grant(Tag::Lock(SEAT), 4096),
        grant(Tag::Slab { nic: 0, shard: 0 }, GEOMETRY.bytes() as u64),
        grant(Tag::Stats(SEAT), stats::REGION_SIZE as u64),
    ];
    Welcome { seat: SEAT, generation: Generation(4), predecessor: None, group, grants }
}

/// What the test holds in the supervisor's place.
struct Group {
    lane: Lane<ToDaemon, FromDaemon>,
    slab: OwnedFd,
    stats: Arc<Region>,
    nicd: JoinHandle<Result<(), String>>,
    /// The names that nicd offered, newest last.
    offers: Vec<String>,
}

impl Group {
    fn start(path: &Path) -> Group {
        let (ours, theirs) = socket_pair().expect("a socket pair");
        let mut lane = Lane::new(ours);
        let (lock, slab, stats) = (memory(4096), memory(GEOMETRY.bytes()), memory(stats::REGION_SIZE));
        let welcome = ToDaemon::Welcome(Box::new(welcome(path)));
        lane.send(&welcome, &[lock.as_fd(), slab.as_fd(), stats.as_fd()]).expect("sent");
        lane.send(&ToDaemon::Complete, &[]).expect("sent");
        let nicd = std::thread::spawn(|| {
            let (start, supervised) = begin_on(theirs, Role::Nicd).map_err(|error| error.to_string())?;
            nicd::server::run(start, supervised).map_err(|error| error.to_string())
        });
        Group { lane, slab, stats: map(&stats, stats::REGION_SIZE), nicd, offers: Vec::new() }
    }

    fn hear(&mut self) -> Option<FromDaemon> {
        match self.lane.receive().expect("an open lane")?.0 {
            FromDaemon::Rendezvous { name, .. } => {
                self.offers.push(name);
                None
            }
            other => Some(other),
        }
    }

    fn expect(&mut self, message: &FromDaemon) {
        let heard = wait("answer", || self.hear());
        assert_eq!(&heard, message);
    }

    fn introduce(&mut self, generation: u32) -> (NetdSide<Arc<Region>>, [OwnedFd; 2]) {
        let rings = memory(REGION_SIZE);
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let wakes = [0, 1].map(|_| rustix::event::eventfd(0, flags).expect("an eventfd"));
        let introduction = ToDaemon::Introduce { peer: NETD, generation: Generation(generation) };
        let fds = [rings.as_fd(), wakes[0].as_fd(), wakes[1].as_fd()];
        self.lane.send(&introduction, &fds).expect("sent");
        let slab = map(&self.slab, GEOMETRY.bytes());
        (NetdSide::new(map(&rings, REGION_SIZE), slab, GEOMETRY), wakes)
    }

    fn count(&self, name: &str) -> u64 {
        let counters = stats::table::read(&self.stats).expect("a known layout");
        counters.into_iter().find(|(known, _)| known == name).map_or(0, |(_, value)| value)
    }

    fn recorded(&self, kind: Kind) -> bool {
        recorder::events(&self.stats).is_ok_and(|events| events.iter().any(|event| event.kind == kind))
    }
}

/// The other group's end of the wire, with pages of its own.
struct Remote {
    wire: Wire,
    slab: Slab<Arc<Region>>,
    counts: Counts,
}

impl Remote {
    fn new(path: &Path) -> Remote {
        let slab =
            Slab { shard: 0, memory: map(&memory(GEOMETRY.bytes()), GEOMETRY.bytes()), geometry: GEOMETRY };
        let wire = Wire::new(path, 1500, WireFaults::default(), true, clock::now()).expect("a path");
        Remote { wire, slab, counts: Counts::default() }
    }

    fn poll(&mut self) {
        self.wire.poll(clock::now(), &mut self.counts).expect("the path stays usable");
    }

    fn join(&mut self) {
        wait("carrier", || {
            self.poll();
            self.wire.capabilities().carrier.then_some(())
        });
    }

    fn send(&mut self, bytes: &[u8]) {
        self.slab.memory.write(0, bytes);
        let mut frame = Frame::default();
        frame.add(Descriptor::plain(PageIndex(0), 0, bytes.len() as u32));
        let sent = self.wire.transmit(&self.slab, &frame, clock::now(), &mut self.counts).expect("a device");
        assert_eq!(sent, Transmitted::Taken);
        self.wire.flush(clock::now(), &mut self.counts);
    }

    fn receive(&mut self) -> Vec<u8> {
        self.wire.fill(&self.slab, PageIndex(1));
        wait("frame", || {
            self.poll();
            let mut frame = Frame::default();
            let got = self.wire.receive(&self.slab, &mut frame, clock::now(), &mut self.counts);
            if got.expect("a device") != Received::Frame {
                return None;
            }
            let (at, len) = self.slab.piece(frame.first()?);
            let mut bytes = vec![0; len];
            self.slab.memory.read(at, &mut bytes);
            self.wire.flush(clock::now(), &mut self.counts);
            Some(bytes)
        })
    }
}

fn frame_to(to: [u8; 6], mark: u8) -> Vec<u8> {
    let mut frame = vec![mark; 60];
    frame[..6].copy_from_slice(&to);
    frame
}

fn wake(fd: &OwnedFd) {
    rustix::io::write(fd, &1u64.to_ne_bytes()).expect("an eventfd");
}

fn path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("axl-server-{name}-{}", std::process::id()))
}

#[test]
fn a_life_of_nicd() {
    let path = path("life");
    let mut group = Group::start(&path);
    group.expect(&FromDaemon::Ready);
    let mut remote = Remote::new(&path);
    remote.join();
    // Comes before there is a netd: waits in the device.
    remote.send(&frame_to(MAC, 1));

    let (mut netd, wakes) = group.introduce(7);
    assert!(netd.lend(16, 0).is_ok());
    wake(&wakes[0]);
    let got = wait("frame", || Some(netd.take().expect("an honest nicd")).filter(|got| !got.is_empty()));
    assert_eq!(got, [frame_to(MAC, 1)]);
    assert!(rustix::io::read(&wakes[1], &mut [0; 8]).is_ok(), "netd is woken once at attach");

    assert!(netd.send(&frame_to([9; 6], 2)).expect("an honest nicd").is_some());
    wake(&wakes[0]);
    assert_eq!(remote.receive(), frame_to([9; 6], 2));
    wait("completion", || {
        netd.take().expect("an honest nicd");
        (netd.sending() == 0).then_some(())
    });

    // Notices both ways: what the link is, which frames are wanted.
    wait("offer", || {
        group.hear();
        (!group.offers.is_empty()).then_some(())
    });
    let mut lane =
        NoticeLane::<FilterNotice, LinkNotice>::offer((NETD, Generation(7)), (SEAT, Generation(4)))
            .expect("a lane");
    lane.connect(group.offers[0].clone()).expect("a thread");
    let name = lane.name().to_owned();
    let rendezvous = ToDaemon::Rendezvous { peer: NETD, generation: Generation(7), name };
    group.lane.send(&rendezvous, &[]).expect("sent");
    let link = wait("link notice", || lane.receive().expect("an open lane"));
    assert_eq!((link.up, link.mac, link.mtu, link.driver.as_str()), (true, MAC, 1500, "wire"));
    lane.send(FilterNotice { promiscuous: true, ..FilterNotice::default() }).expect("room");
    // The filter takes effect some time later: until then such frames are dropped and counted.
    let other = wait("frame for somebody else", || {
        remote.poll();
        remote.send(&frame_to([4; 6], 3));
        let _ = netd.lend(16, 0);
        wake(&wakes[0]);
        netd.take().expect("an honest nicd").pop()
    });
    assert_eq!(other, frame_to([4; 6], 3));

    // netd dies: what is sent meanwhile waits for its successor.
    let gone = ToDaemon::PeerGone { peer: NETD, generation: Generation(7) };
    group.lane.send(&gone, &[]).expect("sent");
    group.expect(&FromDaemon::Released { peer: NETD, generation: Generation(7) });
    remote.poll();
    remote.send(&frame_to(MAC, 5));
    let (mut netd, wakes) = group.introduce(8);
    assert!(netd.lend(16, 0).is_ok());
    wake(&wakes[0]);
    wait("frame", || netd.take().expect("an honest nicd").contains(&frame_to(MAC, 5)).then_some(()));

    // It stands still with work in its ring: that is said.
    remote.send(&frame_to(MAC, 6));
    group.expect(&FromDaemon::Stuck { peer: NETD, generation: Generation(8) });
    assert!(group.recorded(Kind::STUCK) && group.recorded(Kind::ATTACHED) && group.recorded(Kind::READY));
    assert!(group.count("rx_frames") >= 3 && group.count("tx_frames") == 1);

    group.lane.send(&ToDaemon::Stop, &[]).expect("sent");
    assert_eq!(group.nicd.join().expect("no panic"), Ok(()));
    drop(remote);
    assert!(!path.exists());
}

#[test]
fn a_netd_that_breaks_a_rule_loses_its_rings_and_nothing_else() {
    let path = path("corrupt");
    let mut group = Group::start(&path);
    group.expect(&FromDaemon::Ready);
    let (mut netd, wakes) = group.introduce(1);
    // A page that does not exist.
    let slot = Descriptor::plain(PageIndex(9999), 0, 0).to_slot();
    assert_eq!(netd.rings.fill.push(&slot), Ok(true));
    let _ = netd.rings.fill.publish();
    wake(&wakes[0]);
    group.expect(&FromDaemon::Corrupt { peer: NETD, generation: Generation(1) });
    wait("record", || group.recorded(Kind::CORRUPT).then_some(()));
    let gone = ToDaemon::PeerGone { peer: NETD, generation: Generation(1) };
    group.lane.send(&gone, &[]).expect("sent");
    group.expect(&FromDaemon::Released { peer: NETD, generation: Generation(1) });
    let mut remote = Remote::new(&path);
    remote.join();
    let (mut netd, wakes) = group.introduce(2);
    assert!(netd.send(&frame_to([9; 6], 2)).expect("an honest nicd").is_some());
    wake(&wakes[0]);
    assert_eq!(remote.receive(), frame_to([9; 6], 2));
    drop(group.lane);
    let end = group.nicd.join().expect("no panic");
    assert!(end.is_err_and(|error| error.contains("lane")), "without supervisors it ends");
}
