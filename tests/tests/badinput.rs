//! Malformed frames from the wire against a running group: each is dropped under one counted reason,
//! nothing goes uncounted, no process dies, and what is well-formed is served before and after.
//!
//! The frames come from a station that the kernel knows nothing of, so that no answer of the
//! kernel's disturbs the accounts: every frame that nicd sees while one is drawn up is ours.

#[path = "badinput/attacks.rs"]
mod attacks;
#[path = "badinput/classes.rs"]
mod classes;

use classes::{arp, classes, from_station, spoiled, stray, with_ip_options};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::Command;
use std::time::Duration;
use tests::process::group::{Group, Program, Role, Spec, kernel_sockets};
use tests::process::raw_link::RawLink;
use tests::process::{fresh_seed, private_net, wait_until};
use tests::remote::counter;
use tests::remote::fleet::{Fleet, Load};
use tests::remote::frames::{self, ARP, Arp, BODY_AT, ICMP, IP_AT, IPV4, Mac, Segment, TCP, UDP, flag};

const NIC: &str = "axl11";
const STACK: Ipv4Addr = Ipv4Addr::new(10, 82, 0, 2);
const KERNEL: Ipv4Addr = Ipv4Addr::new(10, 82, 0, 1);
/// The station that sends the frames.
const STATION: Ipv4Addr = Ipv4Addr::new(10, 82, 0, 77);
const STACK_MAC: Mac = [2, 0, 0, 0, 0, 2];
const STATION_MAC: Mac = [2, 0, 0, 0, 0, 0x77];
const STACK_MAC_TEXT: &str = "02:00:00:00:00:02";
const STATION_MAC_TEXT: &str = "02:00:00:00:00:77";
const KERNEL_MAC: &str = "02:00:00:00:00:01";
const OTHER_MAC: Mac = [2, 0, 0, 0, 0, 0x99];
const BROADCAST: Mac = [0xff; 6];
const ECHO_PORT: u16 = 7007;
/// Nobody listens there.
const CLOSED_PORT: u16 = 9;
const PATIENCE: Duration = Duration::from_secs(15);
/// Frames of each class.
const COPIES: u64 = 5;
/// Reasons of packets that the stack wanted to send: answers to a frame that has its own account.
const ON_THE_WAY_OUT: &[&str] = &[
    "drop_icmp_ratelimit",
    "drop_ip_outnoroutes",
    "drop_neigh_failed",
    "drop_neigh_queuefull",
    "drop_neigh_createfail",
    "drop_neigh_dead",
];

/// A group with an echo server, and the station's own way onto its link.
struct Bench {
    group: Group,
    _echo: Program,
    link: RawLink,
    before: Vec<(Role, u32, u32, u32)>,
}

/// Pids, generations and restarts as `netctl status -j` shows them.
fn identities(group: &Group) -> Vec<(Role, u32, u32, u32)> {
    let output = group.command("netctl").args(["-j", "status"]).output().expect("netctl runs");
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let number = |row: &serde_json::Value, key: &str| row[key].as_u64().expect(key) as u32;
    let roles = [Role::Supervisor, Role::Standby, Role::Nicd, Role::Netd, Role::Sockd];
    let rows = status["processes"].as_array().expect("a list").iter();
    let mut found: Vec<_> = rows
        .map(|row| {
            let role = roles.into_iter().find(|role| role.name() == row["role"]).expect("a role");
            (role, number(row, "pid"), number(row, "generation"), number(row, "restarts"))
        })
        .collect();
    found.sort_by_key(|row| row.0);
    found
}

fn run(command: &mut Command) {
    assert!(command.status().expect("it runs").success(), "{command:?}");
}

type Accounts = BTreeMap<(Role, String), u64>;

impl Bench {
    fn set_up() -> Bench {
        Bench::set_up_with("")
    }

    /// With more addresses of the stack, each behind a comma.
    fn set_up_with(more: &str) -> Bench {
        // A kernel that says nothing of its own accord.
        let quiet = "/proc/sys/net/ipv6/conf/default/disable_ipv6";
        if std::path::Path::new(quiet).exists() {
            std::fs::write(quiet, "1").expect("a namespace of our own");
        }
        let spec = Spec {
            nic: format!("tap:{NIC}"),
            addr: format!("{STACK}/24{more}"),
            tap_addr: Some(format!("{KERNEL}/24")),
            more: vec!["--mac".into(), STACK_MAC_TEXT.into()],
        };
        let group = Group::up(&spec).expect("a group");
        // Both ends know each other: nobody asks in the middle of a count.
        let ours = ["link", "set", NIC, "address", KERNEL_MAC];
        let stack = ["neigh", "replace", &STACK.to_string(), "lladdr", STACK_MAC_TEXT, "dev", NIC];
        run(Command::new("ip").args(ours));
        run(Command::new("ip").args(stack));
        for (ip, mac) in [(STATION, STATION_MAC_TEXT), (KERNEL, KERNEL_MAC)] {
            run(group.command("netctl").args(["neigh", "add", &ip.to_string(), "lladdr", mac]));
        }
        let echo = group.example("echo", &[&ECHO_PORT.to_string()]).expect("the echo server");
        let listening = || TcpStream::connect((STACK, ECHO_PORT)).is_ok();
        assert!(wait_until(PATIENCE, listening), "echo does not listen");
        let link = RawLink::sender(NIC).expect("a packet socket on our own interface");
        let before = identities(&group);
        assert_eq!(before.len(), 5);
        let bench = Bench { group, _echo: echo, link, before };
        bench.settle();
        bench
    }

    fn accounts(&self) -> Accounts {
        self.group.access().counters()
    }

    /// Waits until nothing is under way any more.
    fn settle(&self) -> Accounts {
        let mut last = self.accounts();
        let settled = || {
            std::thread::sleep(Duration::from_millis(50));
            let now = self.accounts();
            let same = now == last;
            last = now;
            same
        };
        assert!(wait_until(PATIENCE, settled), "the group never comes to rest");
        last
    }

    /// Sends `count` frames and returns what has been counted since, once every one of them is.
    fn send(&self, frames: impl Iterator<Item = Vec<u8>>) -> Delta {
        let before = self.accounts();
        let mut sent = 0;
        for frame in frames {
            // The TAP's own queue takes 500 packets and drops what is more.
            if sent % 200 == 199 {
                let heard = || Delta::between(&before, &self.accounts()).seen_by_nicd() == sent;
                assert!(wait_until(PATIENCE, heard), "frames are lost on the way to nicd");
            }
            self.link.send(&frame).expect("the interface is up");
            sent += 1;
        }
        let mut delta = Delta::default();
        let all_counted = wait_until(PATIENCE, || {
            delta = Delta::between(&before, &self.accounts());
            delta.seen_by_nicd() == sent
                && delta.of(Role::Netd, "rx_frames") == delta.of(Role::Nicd, "rx_frames")
        });
        assert!(all_counted, "of {sent} frames nicd counts {}: {delta:?}", delta.seen_by_nicd());
        // What stands beside the count of a frame is written a moment later.
        std::thread::sleep(Duration::from_millis(5));
        Delta::between(&before, &self.accounts())
    }

    /// Still the same processes, and they serve.
    fn assert_unharmed(&self) {
        assert_eq!(identities(&self.group), self.before, "the same pids, generations and restarts");
        let text = *b"anybody there?  ";
        let echo = frames::icmp(8, 0, [0x12, 0x34, 0, 1], &text);
        let ears = RawLink::open_both_ways(NIC).expect("a packet socket on our own interface");
        self.link.send(&from_station(ICMP, &echo)).expect("the interface is up");
        let answered = ears.receive(PATIENCE, |frame| {
            let to_us = frame.get(..6) == Some(&STATION_MAC[..]);
            (to_us && frame.get(23) == Some(&ICMP) && frame.get(34) == Some(&0))
                .then(|| frame[42..58].to_vec())
        });
        assert_eq!(answered.expect("an echo reply"), text);
        let mut stream = TcpStream::connect((STACK, ECHO_PORT)).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let (mut said, mut heard) = (vec![0; 100_000], vec![0; 100_000]);
        counter::fill(5, 0, &mut said);
        let mut writer = stream.try_clone().expect("a descriptor");
        let writing = std::thread::spawn(move || writer.write_all(&said));
        stream.read_exact(&mut heard).expect("what was said");
        writing.join().expect("no panic").expect("written");
        assert_eq!(counter::wrong(5, 0, &heard), 0);
    }

    /// Proportional set size of the daemons in KiB: proc(5), smaps. The frame slab is left out: it has
    /// its size from the beginning, and which of its pages were touched follows from how far a busy
    /// machine let frames pile up.
    fn pss_kib(&self) -> u64 {
        let daemons = self.before.iter().filter(|row| matches!(row.0, Role::Nicd | Role::Netd | Role::Sockd));
        let of = |pid: u32| -> u64 {
            let text = std::fs::read_to_string(format!("/proc/{pid}/smaps")).expect("a process of ours");
            let (mut sum, mut counts) = (0, false);
            for line in text.lines() {
                let mut words = line.split_whitespace();
                let first = words.next().unwrap_or_default();
                match first.strip_suffix(':') {
                    // A mapping begins: addresses, and what is mapped.
                    None => counts = !line.contains("memfd:axolotl-slab"),
                    Some("Pss") if counts => {
                        sum += words.next().and_then(|kib| kib.parse::<u64>().ok()).expect("a number");
                    }
                    Some(_) => {}
                }
            }
            sum
        };
        daemons.map(|row| of(row.1)).sum()
    }
}

/// What was counted between two moments.
#[derive(Debug, Default)]
struct Delta(Accounts);

impl Delta {
    fn between(before: &Accounts, after: &Accounts) -> Delta {
        let grown = after.iter().map(|(key, count)| (key.clone(), count - before.get(key).unwrap_or(&0)));
        Delta(grown.filter(|(_, count)| *count > 0).collect())
    }

    fn of(&self, role: Role, name: &str) -> u64 {
        self.0.get(&(role, name.to_owned())).copied().unwrap_or(0)
    }

    /// Frames that nicd handed on or dropped.
    fn seen_by_nicd(&self) -> u64 {
        let dropped = ["drop_rx_other_host", "drop_rx_error"];
        self.of(Role::Nicd, "rx_frames") + dropped.iter().map(|name| self.of(Role::Nicd, name)).sum::<u64>()
    }

    /// Drops of received frames, by reason.
    fn dropped(&self) -> BTreeMap<&str, u64> {
        let of_frames = |(role, name): &(Role, String)| {
            matches!(role, Role::Nicd | Role::Netd)
                && name.starts_with("drop_")
                && !ON_THE_WAY_OUT.contains(&name.as_str())
        };
        self.0
            .iter()
            .filter(|(key, _)| of_frames(key))
            .map(|((_, name), count)| (name.as_str(), *count))
            .collect()
    }

    fn dropped_in_all(&self) -> u64 {
        self.dropped().values().sum()
    }
}

#[test]
fn every_malformed_frame_is_dropped_for_its_reason() {
    private_net::test("every_malformed_frame_is_dropped_for_its_reason", || {
        let bench = Bench::set_up();
        let mut faults = Vec::new();
        let classes = classes();
        for (name, frame, reason) in &classes {
            let delta = bench.send((0..COPIES).map(|_| frame.clone()));
            let expected = BTreeMap::from([(format!("drop_{reason}"), COPIES)]);
            let counted: BTreeMap<String, u64> =
                delta.dropped().into_iter().map(|(name, count)| (name.to_owned(), count)).collect();
            if counted != expected {
                faults.push(format!("{name}: {counted:?} instead of {expected:?}"));
            }
        }
        println!("{} classes of malformed frames, {COPIES} of each", classes.len());
        assert!(faults.is_empty(), "{}", faults.join("\n"));
        bench.assert_unharmed();
    });
}

/// A frame that is longer than the interface's MTU, from a kernel whose side takes it.
#[test]
fn a_jumbo_frame_is_dropped() {
    private_net::test("a_jumbo_frame_is_dropped", || {
        let bench = Bench::set_up();
        let wider = ["link", "set", NIC, "mtu", "9000"];
        run(Command::new("ip").args(wider));
        for len in [1505, 2048, 4000, 8900] {
            let frame = from_station(UDP, &frames::udp(4000, CLOSED_PORT, &vec![7; len - 28]));
            let delta = bench.send((0..COPIES).map(|_| frame.clone()));
            assert_eq!(delta.dropped_in_all(), COPIES, "{len}: {delta:?}");
        }
        let normal = ["link", "set", NIC, "mtu", "1500"];
        run(Command::new("ip").args(normal));
        bench.assert_unharmed();
    });
}

/// Noise, and well-formed packets with bytes changed, cut and appended.
struct Mutator(StdRng);

impl Mutator {
    fn noise(&mut self) -> Vec<u8> {
        let kinds = [IPV4, IPV4, IPV4, ARP, 0x86dd, self.0.random()];
        let kind = kinds[self.0.random_range(0..kinds.len())];
        let bytes: Vec<u8> = (0..self.0.random_range(0..300)).map(|_| self.0.random()).collect();
        frames::ethernet(STACK_MAC, STATION_MAC, kind, &bytes)
    }

    fn mutated(&mut self) -> Vec<u8> {
        let rng = &mut self.0;
        let flags = rng.random();
        let options: Vec<u8> = (0..rng.random_range(0..40)).map(|_| rng.random()).collect();
        let segment = Segment { options, payload: vec![7; rng.random_range(0..900)], ..stray(flags) };
        let mut frame = match rng.random_range(0..6) {
            0 => arp(|_| {}),
            1 => from_station(
                ICMP,
                &frames::icmp(rng.random_range(0..20), 0, [0; 4], &spoiled(|_| {})[IP_AT..]),
            ),
            2 => from_station(UDP, &frames::udp(4000, CLOSED_PORT, &[7; 64])),
            3 => with_ip_options(&[7, 7, 4, 0, 0, 0, 0, 0]),
            _ => from_station(TCP, &segment.bytes()),
        };
        for _ in 0..rng.random_range(1..6) {
            let at = rng.random_range(12..frame.len());
            frame[at] = rng.random();
        }
        match rng.random_range(0..8) {
            0 => frame.truncate(rng.random_range(14..=frame.len())),
            1 => frame.resize((frame.len() + rng.random_range(0..200usize)).min(1514), 0xee),
            _ => {}
        }
        // Half of them get past the checks of their sums.
        if rng.random() && frame.len() > IP_AT && frame[12..14] == IPV4.to_be_bytes() {
            frames::seal_ip(&mut frame[IP_AT..]);
            if rng.random() {
                frames::seal_body(&mut frame[IP_AT..]);
            }
        }
        frame
    }
}

#[test]
fn noise_is_counted_to_the_last_frame_and_costs_no_memory() {
    private_net::test("noise_is_counted_to_the_last_frame_and_costs_no_memory", || {
        const FRAMES: usize = 4000;
        let seed =
            std::env::var("AXOLOTL_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(fresh_seed);
        println!("seed {seed}");
        let bench = Bench::set_up();
        let mut mutator = Mutator(StdRng::seed_from_u64(seed));
        let mut pss = Vec::new();
        for round in 0..4 {
            let noise = bench.send((0..FRAMES).map(|_| mutator.noise()));
            assert_eq!(noise.dropped_in_all(), FRAMES as u64, "seed {seed}, round {round}: {noise:?}");
            let mutated = bench.send((0..FRAMES).map(|_| mutator.mutated()));
            // What was not dropped was somebody's: it is counted where it was taken.
            let taken = FRAMES as u64 - mutated.dropped_in_all();
            let takers = ["arp_in", "icmp_in_msgs", "tcp_in_segs", "udp_in_datagrams"];
            let possible: u64 = takers.iter().map(|name| mutated.of(Role::Netd, name)).sum();
            assert!(
                taken <= possible,
                "seed {seed}, round {round}: {taken} taken, {possible} counted: {mutated:?}"
            );
            let reasons = mutated.dropped().len();
            assert!(reasons > 10, "a generator that reaches {reasons} reasons only");
            pss.push(bench.pss_kib());
        }
        println!("{} frames, memory after each round: {pss:?} KiB", 8 * FRAMES);
        // Tables fill and pages are touched in the first round; after that nothing grows.
        assert!(pss[3] <= pss[0] + 512, "seed {seed}: {pss:?} KiB");
        bench.assert_unharmed();
    });
}

/// The same while connections are under load: not a byte of theirs is touched.
#[test]
fn noise_beside_connections_under_load_harms_none() {
    private_net::test("noise_beside_connections_under_load_harms_none", || {
        let seed = fresh_seed();
        println!("seed {seed}");
        let bench = Bench::set_up();
        let addr = format!("{STACK}:{ECHO_PORT}").parse().expect("an address");
        let streams = kernel_sockets(8, addr).expect("connections");
        let load = Load {
            loaded: 8,
            ahead: 128 * 1024,
            rate: 1 << 20,
            murmur_every: Duration::from_secs(1),
            seed: 3,
        };
        let fleet = Fleet::launch(streams, load).expect("a fleet");
        let mut mutator = Mutator(StdRng::seed_from_u64(seed));
        for _ in 0..60 {
            for _ in 0..50 {
                let frame = if mutator.0.random() { mutator.noise() } else { mutator.mutated() };
                bench.link.send(&frame).expect("the interface is up");
            }
            let moved = fleet.bytes();
            assert!(wait_until(PATIENCE, || fleet.bytes() > moved), "seed {seed}: nothing moves");
        }
        let report = fleet.finish(Duration::from_secs(30)).expect("a report");
        assert_eq!(report.lost, Vec::<String>::new());
        assert_eq!((report.clean, report.bytes_wrong), (8, 0), "seed {seed}");
        bench.assert_unharmed();
    });
}

/// A connection that the station opened by hand.
struct Conversation<'a> {
    bench: &'a Bench,
    ears: RawLink,
    port: u16,
    seq: u32,
    ack: u32,
}

impl<'a> Conversation<'a> {
    fn open(bench: &'a Bench, port: u16) -> Conversation<'a> {
        let seq = 7_000_000;
        let ears = RawLink::open_both_ways(NIC).expect("a packet socket on our own interface");
        let mut this = Conversation { bench, ears, port, seq: seq + 1, ack: 0 };
        // MSS 1460, SACK permitted.
        let options = vec![2, 4, 5, 180, 1, 1, 4, 2];
        bench
            .link
            .send(&this.frame(&Segment { seq, flags: flag::SYN, options, ..Segment::default() }))
            .expect("the interface is up");
        this.ack = this.hear(|flags, numbers, _| (flags == flag::SYN | flag::ACK).then_some(numbers.0 + 1));
        bench.link.send(&this.frame(&this.segment(flag::ACK))).expect("the interface is up");
        this
    }

    /// The next segment in order.
    fn segment(&self, flags: u8) -> Segment {
        Segment { seq: self.seq, ack: self.ack, flags, ..Segment::default() }
    }

    fn frame(&self, segment: &Segment) -> Vec<u8> {
        from_station(TCP, &Segment { ports: (self.port, ECHO_PORT), ..segment.clone() }.bytes())
    }

    /// Waits for a segment of this connection: flags, its numbers, its text.
    fn hear<T>(&self, mut wanted: impl FnMut(u8, (u32, u32), &[u8]) -> Option<T>) -> T {
        let heard = self.ears.receive(PATIENCE, |frame| {
            let ours = frame.get(..6)? == &STATION_MAC[..] && frame.get(23)? == &TCP;
            let tcp = frame.get(BODY_AT..)?;
            let word = |at: usize| u32::from_be_bytes(tcp[at..at + 4].try_into().expect("four bytes"));
            if !ours || tcp.len() < 20 || tcp[2..4] != self.port.to_be_bytes() {
                return None;
            }
            let total = usize::from(u16::from_be_bytes([frame[16], frame[17]])) - 20;
            wanted(tcp[13], (word(4), word(8)), &tcp[usize::from(tcp[12] >> 4) * 4..total])
        });
        heard.expect("a segment of the connection")
    }

    /// Says something in order, and hears it come back.
    fn echo(&mut self, text: &[u8]) {
        let segment = Segment { payload: text.to_vec(), ..self.segment(flag::ACK | flag::PSH) };
        self.bench.link.send(&self.frame(&segment)).expect("the interface is up");
        self.seq += text.len() as u32;
        let from = self.ack;
        self.hear(|_, (seq, _), heard| (seq == from && heard == text).then_some(()));
        self.ack += text.len() as u32;
        self.bench.link.send(&self.frame(&self.segment(flag::ACK))).expect("the interface is up");
        self.bench.settle();
    }
}

/// Segments with right numbers and wrong contents inside a connection, which goes on all the same.
#[test]
fn what_is_wrong_inside_a_connection_is_dropped_and_the_connection_goes_on() {
    private_net::test("what_is_wrong_inside_a_connection_is_dropped_and_the_connection_goes_on", || {
        let bench = Bench::set_up();
        let mut talk = Conversation::open(&bench, 4100);
        talk.echo(b"before");
        let next = talk.segment(flag::ACK);
        let with = |change: &dyn Fn(&mut Segment)| {
            let mut segment = next.clone();
            change(&mut segment);
            segment
        };
        let dropped = [
            ("no flags", with(&|s| s.flags = 0), "tcp_flags"),
            ("FIN, PSH and URG", with(&|s| s.flags = flag::FIN | flag::PSH | flag::URG), "tcp_flags"),
            ("every flag (xmas)", with(&|s| (s.flags, s.seq) = (0x3f, s.seq + 1)), "tcp_invalid_rst"),
            ("a SYN", with(&|s| s.flags = flag::SYN), "tcp_invalid_syn"),
            ("SYN and FIN", with(&|s| s.flags = flag::SYN | flag::FIN), "tcp_invalid_syn"),
            (
                "a RST beside the mark",
                with(&|s| (s.flags, s.seq) = (flag::RST, s.seq + 100)),
                "tcp_invalid_rst",
            ),
            (
                "a RST far off",
                with(&|s| (s.flags, s.seq) = (flag::RST, s.seq + (1 << 30))),
                "tcp_invalid_sequence",
            ),
            ("an acknowledgement of the future", with(&|s| s.ack += 1 << 20), "tcp_ack_unsent_data"),
            (
                "text beyond the window",
                with(&|s| {
                    s.seq += 1 << 28;
                    s.payload = vec![1; 10];
                }),
                "tcp_invalid_sequence",
            ),
            (
                "text of the past",
                with(&|s| {
                    s.seq -= 6;
                    s.payload = b"before".to_vec();
                }),
                "tcp_old_data",
            ),
            ("a RST with a wrong checksum", with(&|s| s.flags = flag::RST), "tcp_csum"),
        ];
        let mut faults = Vec::new();
        for (name, segment, reason) in &dropped {
            let mut frame = talk.frame(segment);
            if *reason == "tcp_csum" {
                frame[BODY_AT + 16] ^= 1;
            }
            let delta = bench.send((0..COPIES).map(|_| frame.clone()));
            let name_of = format!("drop_{reason}");
            if delta.dropped() != BTreeMap::from([(name_of.as_str(), COPIES)]) {
                faults.push(format!("{name}: {:?} instead of {reason}", delta.dropped()));
            }
        }
        assert!(faults.is_empty(), "{}", faults.join("\n"));
        talk.echo(b"between");
        // RFC 9293 §3.1, MUST-6 and MUST-7: an option that makes no sense is passed over, and the
        // segment counts. The same holds for a SACK of what was never sent, and for urgent data.
        let next = talk.segment(flag::ACK);
        let beyond = (talk.ack + 5000).to_be_bytes();
        let (low, high) = (talk.ack.wrapping_sub(9000).to_be_bytes(), talk.ack.to_be_bytes());
        let taken: [(&str, Vec<u8>); 8] = [
            ("an option of no length", vec![9, 0, 1, 1]),
            ("an option of one byte", vec![9, 1, 1, 1]),
            ("an option beyond the header", vec![9, 40, 1, 1]),
            ("a SACK of nine bytes", vec![5, 9, 1, 2, 3, 4, 5, 6, 7, 0, 0, 0]),
            ("a SACK beyond the header", vec![5, 34, 1, 2, 3, 4, 5, 6]),
            ("a SACK of what was not sent", [&[1, 1, 5, 10], &high[..], &beyond[..]].concat()),
            ("a SACK that ends before it begins", [&[1, 1, 5, 10], &high[..], &low[..]].concat()),
            ("a SACK of what is long gone", [&[1, 1, 5, 10], &low[..], &high[..]].concat()),
        ];
        for (name, options) in taken {
            let frame = talk.frame(&Segment { options, ..next.clone() });
            let delta = bench.send((0..COPIES).map(|_| frame.clone()));
            assert_eq!(delta.dropped(), BTreeMap::new(), "{name}");
        }
        let urgent = Segment { urgent: 60_000, flags: flag::ACK | flag::URG, ..next.clone() };
        let delta = bench.send((0..COPIES).map(|_| talk.frame(&urgent)));
        assert_eq!(delta.dropped(), BTreeMap::new(), "an urgent pointer beyond the text");
        // RFC 1122 §3.2.1.7: a host does not discard a packet for its TTL.
        let mut spent = talk.frame(&next);
        spent[IP_AT + 8] = 0;
        frames::seal_ip(&mut spent[IP_AT..]);
        let delta = bench.send((0..COPIES).map(|_| spent.clone()));
        assert_eq!(delta.dropped(), BTreeMap::new(), "a TTL of 0");
        talk.echo(b"after");
        bench.assert_unharmed();
    });
}
