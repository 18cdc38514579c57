//! Two datapaths joined by a wire: frames, faults, and the death of either end. No privilege needed.

#[allow(dead_code, reason = "shared by tests that use different parts of it")]
mod netd_side;

use netd_side::NetdSide;
use nicd::backend::wire::Wire;
use nicd::counts::Count;
use nicd::datapath::Datapath;
use nicd::nic::Slab;
use proto::Instant;
use proto::control::messages::WireFaults;
use proto::nic::rings::REGION_SIZE;
use proto::nic::slab::SlabGeometry;
use proto::shm::region::{Region, create_sealed};
use rustix::event::{PollFd, PollFlags, Timespec};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const GEOMETRY: SlabGeometry = SlabGeometry { small: 512, large: 32 };
const MTU: u16 = 9000;

fn region(size: usize) -> Arc<Region> {
    let memory = create_sealed("test", size).expect("a memfd");
    Arc::new(Region::map(memory, size).expect("mapped"))
}

/// A path of its own for each test.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let dir = std::env::temp_dir().join(format!("axl-wire-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        Dir(dir)
    }

    fn wire(&self) -> PathBuf {
        self.0.join("wire")
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// One group's nicd and what its netd got and sent.
struct End {
    nicd: Datapath<Arc<Region>, Wire>,
    netd: NetdSide<Arc<Region>>,
    got: Vec<Vec<u8>>,
    sent: u64,
}

impl End {
    fn new(path: &Path, faults: WireFaults, now: Instant) -> End {
        let (slab, rings) = (region(GEOMETRY.bytes()), region(REGION_SIZE));
        let wire = Wire::new(path, MTU, faults, true, now).expect("a path for a wire");
        let slab_of_nicd = Slab { shard: 0, memory: slab.clone(), geometry: GEOMETRY };
        let mut nicd = Datapath::new(wire, vec![slab_of_nicd], [2, 0, 0, 0, 0, 1], MTU);
        nicd.attach(0, rings.clone()).expect("it stops");
        End { nicd, netd: NetdSide::new(rings, slab, GEOMETRY), got: Vec::new(), sent: 0 }
    }

    fn turn(&mut self, now: Instant) {
        self.nicd.device_ready(now).expect("the path stays usable");
        let _ = self.netd.lend(64, 8).expect("nicd is honest");
        while self.nicd.turn(now).expect("netd is honest").again {}
        self.got.extend(self.netd.take().expect("nicd is honest"));
    }

    fn sends(&mut self, len: usize, mark: u32) -> bool {
        let mut bytes: Vec<u8> = (0..len).map(|n| (n as u8).wrapping_mul(7)).collect();
        bytes[..6].copy_from_slice(&[0xff; 6]);
        bytes[10..14].copy_from_slice(&mark.to_be_bytes());
        let taken = self.netd.send(&bytes).expect("nicd is honest").is_some();
        self.sent += u64::from(taken);
        taken
    }

    fn count(&self, what: Count) -> u64 {
        self.nicd.counts.get(what)
    }

    fn is_up(&self) -> bool {
        use nicd::nic::Nic;
        self.nicd.nic().capabilities().carrier
    }
}

fn marks(frames: &[Vec<u8>]) -> Vec<u32> {
    frames.iter().map(|f| u32::from_be_bytes([f[10], f[11], f[12], f[13]])).collect()
}

/// A clock that the test moves.
struct Clock(Instant);

impl Clock {
    fn tick(&mut self) -> Instant {
        self.0 = self.0 + Duration::from_millis(1);
        self.0
    }
}

fn join(a: &mut End, b: &mut End, clock: &mut Clock) {
    for _ in 0..5000 {
        let now = clock.tick();
        a.turn(now);
        b.turn(now);
        if a.is_up() && b.is_up() {
            return;
        }
    }
    panic!("the two ends don't find each other");
}

#[test]
fn frames_of_all_sizes_arrive_both_ways_in_order() {
    let dir = Dir::new("sizes");
    let mut clock = Clock(Instant::from_millis(1));
    let mut a = End::new(&dir.wire(), WireFaults::default(), clock.0);
    let mut b = End::new(&dir.wire(), WireFaults::default(), clock.0);
    join(&mut a, &mut b, &mut clock);
    let mut next = 0;
    for round in 0..400 {
        let len = [14, 60, 1514, 2048, 2049, 9018][round % 6];
        for _ in 0..round % 7 {
            assert!(a.sends(len, next) && b.sends(len, next));
            next += 1;
        }
        let now = clock.tick();
        a.turn(now);
        b.turn(now);
    }
    a.turn(clock.tick());
    b.turn(clock.tick());
    a.turn(clock.tick());
    assert_eq!(marks(&b.got), (0..next).collect::<Vec<_>>());
    assert_eq!(marks(&a.got), (0..next).collect::<Vec<_>>());
    let whole =
        |frame: &Vec<u8>| frame[14..].iter().enumerate().all(|(n, &b)| b == ((n + 14) as u8).wrapping_mul(7));
    assert!(a.got.iter().chain(&b.got).all(whole));
    assert_eq!(a.netd.sending() + b.netd.sending(), 0);
}

#[test]
fn faults_are_counted_and_nothing_else_is_lost() {
    let dir = Dir::new("faults");
    let mut clock = Clock(Instant::from_millis(1));
    let faults = WireFaults {
        loss_ppm: 50_000,
        dup_ppm: 30_000,
        reorder_ppm: 50_000,
        corrupt_ppm: 20_000,
        delay_us: 5_000,
        seed: 7,
    };
    let mut a = End::new(&dir.wire(), faults, clock.0);
    let mut b = End::new(&dir.wire(), WireFaults::default(), clock.0);
    join(&mut a, &mut b, &mut clock);
    for mark in 0..4000 {
        assert!(a.sends(200, mark));
        let now = clock.tick();
        a.turn(now);
        b.turn(now);
    }
    while a.nicd.deadline().is_some() {
        let now = clock.tick();
        a.turn(now);
        b.turn(now);
    }
    b.turn(clock.tick());
    let [lost, doubled, reordered, corrupted] =
        [Count::WireLost, Count::WireDoubled, Count::WireReordered, Count::WireCorrupted].map(|c| a.count(c));
    assert!(lost > 100 && doubled > 50 && reordered > 100 && corrupted > 40, "the faults did happen");
    // A flipped bit in the address may make it a frame for somebody else.
    let arrived = b.got.len() as u64 + b.count(Count::RxOtherHost);
    assert_eq!(arrived, a.sent - lost + doubled);
    assert_eq!(a.count(Count::TxFrames), arrived);
    assert!(!marks(&b.got).is_sorted());
}

#[test]
fn a_slow_reader_stops_the_sender_and_wakes_it() {
    let dir = Dir::new("slow");
    let mut clock = Clock(Instant::from_millis(1));
    let mut a = End::new(&dir.wire(), WireFaults::default(), clock.0);
    let mut b = End::new(&dir.wire(), WireFaults::default(), clock.0);
    join(&mut a, &mut b, &mut clock);
    let mut mark = 0;
    for _ in 0..20 {
        while a.sends(1000, mark) && mark % 64 != 63 {
            mark += 1;
        }
        mark += 1;
        a.turn(clock.tick());
    }
    assert!(a.count(Count::TxStopped) > 0, "the cable is full");
    assert!(a.nicd.may_sleep().expect("sound"));
    b.turn(clock.tick());
    let woken = {
        use nicd::nic::Nic;
        let wire = a.nicd.nic();
        let deadline = Timespec { tv_sec: 5, tv_nsec: 0 };
        let mut poll = [PollFd::from_borrowed_fd(wire.descriptor(), PollFlags::IN)];
        rustix::event::poll(&mut poll, Some(&deadline)).expect("polled")
    };
    assert_eq!(woken, 1, "room is told");
    for _ in 0..40 {
        let now = clock.tick();
        a.turn(now);
        b.turn(now);
    }
    assert_eq!(b.got.len() as u64, a.sent);
    assert_eq!(a.count(Count::TxStopped), a.count(Count::TxWoken));
}

#[test]
fn either_end_may_die_and_come_back() {
    let dir = Dir::new("death");
    let mut clock = Clock(Instant::from_millis(1));
    let mut ends = [0, 1].map(|_| End::new(&dir.wire(), WireFaults::default(), clock.0));
    for round in 0..6 {
        let [a, b] = &mut ends;
        join(a, b, &mut clock);
        assert!(a.sends(100, round) && b.sends(100, round));
        for _ in 0..3 {
            let now = clock.tick();
            a.turn(now);
            b.turn(now);
        }
        assert_eq!((marks(&a.got).last(), marks(&b.got).last()), (Some(&round), Some(&round)));
        // Each in turn, so the one that listens and the one that does not.
        let dead = (round % 2) as usize;
        ends[dead] = End::new(&dir.wire(), WireFaults::default(), clock.0);
        let other = &mut ends[1 - dead];
        other.turn(clock.tick());
        assert!(!other.is_up(), "the death is noticed");
        // It waits for the successor, and is not dropped.
        assert!(other.sends(100, 1000 + round));
        other.turn(clock.tick());
        let [a, b] = &mut ends;
        join(a, b, &mut clock);
        for _ in 0..3 {
            let now = clock.tick();
            a.turn(now);
            b.turn(now);
        }
        assert_eq!(marks(&ends[dead].got), [1000 + round]);
    }
}

#[test]
fn without_a_carrier_frames_are_dropped_after_a_while() {
    let dir = Dir::new("alone");
    let start = Instant::from_millis(1);
    let mut a = End::new(&dir.wire(), WireFaults::default(), start);
    assert!(a.sends(100, 1));
    a.turn(start);
    assert_eq!((a.count(Count::TxNoCarrier), a.netd.sending()), (0, 1));
    let deadline = a.nicd.deadline().expect("it waits until then");
    a.turn(deadline);
    assert_eq!((a.count(Count::TxNoCarrier), a.netd.sending()), (1, 0));
    assert_eq!(a.nicd.deadline(), None, "nothing ticks");
}

#[test]
fn a_socket_that_a_killed_nicd_left_is_no_obstacle() {
    let dir = Dir::new("stale");
    // SEQPACKET or not: nobody listens, which is what a connect sees.
    drop(UnixListener::bind(dir.wire()).expect("a socket"));
    assert!(dir.wire().exists());
    let mut clock = Clock(Instant::from_millis(1));
    let mut a = End::new(&dir.wire(), WireFaults::default(), clock.0);
    let mut b = End::new(&dir.wire(), WireFaults::default(), clock.0);
    join(&mut a, &mut b, &mut clock);
    drop(a);
    b.turn(clock.tick());
    assert!(dir.wire().exists(), "the other end listens in its place");
    drop(b);
    assert_eq!(std::fs::read_dir(&dir.0).expect("the directory").count(), 0, "nothing is left behind");
}

#[test]
fn a_third_end_is_hung_up_on() {
    let dir = Dir::new("third");
    let mut clock = Clock(Instant::from_millis(1));
    let mut a = End::new(&dir.wire(), WireFaults::default(), clock.0);
    let mut b = End::new(&dir.wire(), WireFaults::default(), clock.0);
    join(&mut a, &mut b, &mut clock);
    let mut c = End::new(&dir.wire(), WireFaults::default(), clock.0);
    for _ in 0..50 {
        let now = clock.tick();
        [&mut a, &mut b, &mut c].into_iter().for_each(|end| end.turn(now));
    }
    assert!(a.is_up() && b.is_up() && !c.is_up());
    drop(b);
    join(&mut a, &mut c, &mut clock);
}
