//! The TAP backend against this machine's kernel, in a network namespace of the test's own.

#[allow(dead_code, reason = "shared by tests that use different parts of it")]
mod netd_side;

use netd_side::NetdSide;
use nicd::backend::tap::{FEATURES, Tap, configure, open};
use nicd::counts::Count;
use nicd::datapath::Datapath;
use nicd::nic::{Nic, Slab};
use proto::control::clock;
use proto::control::messages::Prefix;
use proto::nic::packet_buf::{Csum, Marks};
use proto::nic::rings::REGION_SIZE;
use proto::nic::slab::SlabGeometry;
use proto::shm::region::{Region, create_sealed};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::sync::Arc;

const GEOMETRY: SlabGeometry = SlabGeometry { small: 256, large: 16 };
const OURS: [u8; 6] = [2, 0, 0, 0, 0, 1];
const OUR_IP: [u8; 4] = [10, 99, 7, 2];
const KERNEL_IP: [u8; 4] = [10, 99, 7, 1];

fn ip(args: &[&str]) -> bool {
    Command::new("ip").args(args).output().is_ok_and(|output| output.status.success())
}

/// A network namespace that goes away with the test.
struct Namespace(String);

impl Namespace {
    /// `None`, with the reason on standard error, where namespaces are forbidden.
    fn new(name: &str) -> Option<Namespace> {
        let name = format!("axl-{name}-{}", std::process::id());
        if ip(&["netns", "add", &name]) {
            return Some(Namespace(name));
        }
        let root = rustix::process::geteuid().is_root();
        eprintln!("skipped: `ip netns add` is forbidden here (root: {root})");
        assert!(!(root && std::env::var_os("CI").is_some_and(|ci| ci == "true")), "root can make namespaces");
        None
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        ip(&["netns", "del", &self.0]);
    }
}

fn region(size: usize) -> Arc<Region> {
    let memory = create_sealed("test", size).expect("a memfd");
    Arc::new(Region::map(memory, size).expect("mapped"))
}

struct End {
    nicd: Datapath<Arc<Region>, Tap>,
    netd: NetdSide<Arc<Region>>,
}

impl End {
    fn new(device: OwnedFd, mtu: u16) -> End {
        End::with(device, mtu, 0)
    }

    fn with(device: OwnedFd, mtu: u16, features: u32) -> End {
        let (slab, rings) = (region(GEOMETRY.bytes()), region(REGION_SIZE));
        let slab_of_nicd = Slab { shard: 0, memory: slab.clone(), geometry: GEOMETRY };
        let mut nicd = Datapath::new(Tap::new(device, mtu, features), vec![slab_of_nicd], OURS, mtu);
        nicd.attach(0, rings.clone()).expect("it stops");
        End { nicd, netd: NetdSide::new(rings, slab, GEOMETRY) }
    }

    fn send(&mut self, frame: &[u8]) {
        let _ = self.netd.send(frame).expect("nicd is honest").expect("room");
        self.nicd.turn(clock::now()).expect("netd is honest");
        self.netd.take().expect("nicd is honest");
        assert_eq!(self.netd.sending(), 0, "the kernel takes a frame at once");
    }

    /// Frames until one is what is looked for.
    fn wait_for(&mut self, what: &str, wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        self.wait_for_marked(what, wanted).0
    }

    /// [`End::wait_for`], with what nicd says of the frame.
    fn wait_for_marked(&mut self, what: &str, wanted: impl Fn(&[u8]) -> bool) -> (Vec<u8>, Marks) {
        let give_up = clock::now() + std::time::Duration::from_secs(5);
        while clock::now() < give_up {
            let _ = self.netd.lend(32, 8).expect("nicd is honest");
            self.nicd.device_ready(clock::now()).expect("the device is there");
            while self.nicd.turn(clock::now()).expect("netd is honest").again {}
            let frames = self.netd.take_marked().expect("nicd is honest");
            if let Some(frame) = frames.into_iter().find(|(bytes, _)| wanted(bytes)) {
                return frame;
            }
            let mut readable = [PollFd::from_borrowed_fd(self.nicd.nic().descriptor(), PollFlags::IN)];
            let _ = rustix::event::poll(&mut readable, Some(&Timespec { tv_sec: 0, tv_nsec: 100_000_000 }));
        }
        panic!("no {what} within five seconds");
    }
}

/// RFC 826 in an Ethernet frame.
fn arp(operation: u8, to: [u8; 6], target: [u8; 6]) -> Vec<u8> {
    let mut frame = [&to[..], &OURS, &[8, 6, 0, 1, 8, 0, 6, 4, 0, operation]].concat();
    frame.extend([&OURS[..], &OUR_IP, &target, &KERNEL_IP].concat());
    frame.resize(60, 0);
    frame
}

fn checksum(bytes: &[u8]) -> [u8; 2] {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
    let mut sum: u32 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

/// RFC 792 echo request in an IPv4 packet (RFC 791) in an Ethernet frame.
fn echo_request(to: [u8; 6], sequence: u8, payload: usize) -> Vec<u8> {
    let mut icmp = vec![8, 0, 0, 0, 0x12, 0x34, 0, sequence];
    icmp.extend((0..payload).map(|n| n as u8));
    let sum = checksum(&icmp);
    icmp[2..4].copy_from_slice(&sum);
    let total = ((20 + icmp.len()) as u16).to_be_bytes();
    let mut header =
        [&[0x45, 0, total[0], total[1], 0, 1, 0, 0, 64, 1, 0, 0], &OUR_IP[..], &KERNEL_IP].concat();
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum);
    [&to[..], &OURS, &[8, 0], &header, &icmp].concat()
}

fn is_arp_reply(frame: &[u8]) -> bool {
    frame.len() >= 42 && frame[12..14] == [8, 6] && frame[20..22] == [0, 2] && frame[28..32] == KERNEL_IP
}

fn is_echo_reply(frame: &[u8], sequence: u8) -> bool {
    frame.len() >= 42 && frame[12..14] == [8, 0] && frame[23] == 1 && frame[34] == 0 && frame[41] == sequence
}

fn open_in(namespace: &Namespace, mtu: u16) -> OwnedFd {
    let addr = Prefix { addr: KERNEL_IP.into(), len: 24 };
    let v6 = Prefix { addr: "fd99::1".parse().expect("an address"), len: 64 };
    open("axltap0", Some(&namespace.0), mtu, &[addr, v6], 0).expect("a TAP")
}

#[test]
fn the_kernel_answers_arp_and_echo() {
    let Some(namespace) = Namespace::new("echo") else { return };
    let mut end = End::new(open_in(&namespace, 9000), 9000);
    end.send(&arp(1, [0xff; 6], [0; 6]));
    let reply = end.wait_for("ARP reply", is_arp_reply);
    let kernel: [u8; 6] = reply[22..28].try_into().expect("an address");
    // One small page; small and large; as large as it gets.
    for (sequence, payload) in [(1, 56), (2, 3000), (3, 8972)] {
        let request = echo_request(kernel, sequence, payload);
        end.send(&request);
        let reply = end.wait_for("echo reply", |frame| is_echo_reply(frame, sequence));
        assert_eq!(reply[42..], request[42..], "the payload comes back");
    }
    // A unicast frame to somebody else.
    let before = end.nicd.counts.get(Count::RxOtherHost);
    end.send(&arp(2, kernel, kernel));
    let neighbour = ["neigh", "replace", "10.99.7.9", "lladdr", "02:00:00:00:00:09", "dev", "axltap0"];
    assert!(ip(&[&["-n", &namespace.0][..], &neighbour].concat()), "a neighbour that is not us");
    let datagram = ["netns", "exec", &namespace.0, "bash", "-c", "echo > /dev/udp/10.99.7.9/9"];
    assert!(ip(&datagram), "a datagram to somebody else");
    end.send(&echo_request(kernel, 9, 10));
    end.wait_for("echo reply", |frame| is_echo_reply(frame, 9));
    assert!(end.nicd.counts.get(Count::RxOtherHost) > before, "frames for others are counted");
    assert_eq!(end.nicd.counts.get(Count::RxError) + end.nicd.counts.get(Count::TxError), 0);
}

/// Who adopts a device says what it wants of the kernel: with offloads the checksum is left out, without
/// them it is there.
#[test]
fn an_adopted_device_gives_frames_as_its_new_nicd_wants_them() {
    let Some(namespace) = Namespace::new("adopt") else { return };
    let device = open_in(&namespace, 1500);
    let neighbour = ["neigh", "replace", "10.99.7.2", "lladdr", "02:00:00:00:00:01", "dev", "axltap0"];
    assert!(ip(&[&["-n", &namespace.0][..], &neighbour].concat()), "a neighbour that is us");
    let is_datagram = |frame: &[u8]| frame.len() >= 42 && frame[12..14] == [8, 0] && frame[23] == 17;
    // RFC 768: over the pseudo header, the header and the payload.
    let whole = |frame: &[u8]| {
        let udp = &frame[34..14 + usize::from(u16::from_be_bytes([frame[16], frame[17]]))];
        checksum(&[&frame[26..34], &[0, 17, 0, udp.len() as u8], udp].concat()) == [0, 0]
    };
    for features in [FEATURES, 0, FEATURES] {
        configure(device.as_fd(), features).expect("a TAP");
        let mut end = End::with(device.try_clone().expect("a duplicate"), 1500, features);
        let datagram = ["netns", "exec", &namespace.0, "bash", "-c", "echo words > /dev/udp/10.99.7.2/9"];
        assert!(ip(&datagram), "a datagram to us");
        let (frame, marks) = end.wait_for_marked("datagram", is_datagram);
        let partial = marks.csum == Csum::Partial { start: 34, udp: true };
        assert_eq!((partial, whole(&frame)), (features != 0, features == 0), "{marks:?}");
    }
}

#[test]
fn what_the_device_has_queued_outlives_nicd() {
    let Some(namespace) = Namespace::new("vault") else { return };
    let device = open_in(&namespace, 1500);
    let vaulted = device.try_clone().expect("a duplicate, as the vault holds it");
    let mut first = End::new(device, 1500);
    first.send(&arp(1, [0xff; 6], [0; 6]));
    let reply = first.wait_for("ARP reply", is_arp_reply);
    let kernel: [u8; 6] = reply[22..28].try_into().expect("an address");
    first.send(&echo_request(kernel, 1, 100));
    drop(first);
    let mut successor = End::new(vaulted, 1500);
    // The kernel may first ask whether we are still there.
    successor.send(&arp(2, kernel, kernel));
    successor.wait_for("echo reply from the queue", |frame| is_echo_reply(frame, 1));
}

#[test]
fn a_tap_that_cannot_be_made_says_why() {
    let error = open("axltap0", Some("axl-no-such-namespace"), 1500, &[], 0).expect_err("no such namespace");
    assert!(error.to_string().contains("axl-no-such-namespace"), "{error}");
    let Some(namespace) = Namespace::new("twice") else { return };
    let _first = open_in(&namespace, 1500);
    let error = open("axltap0", Some(&namespace.0), 1500, &[], 0).expect_err("in use");
    assert!(error.to_string().contains("make TAP device axltap0"), "{error}");
    let error = open("a-name-that-is-too-long", None, 1500, &[], 0).expect_err("too long");
    assert!(error.to_string().contains("a-name-that-is-too-long"), "{error}");
}
