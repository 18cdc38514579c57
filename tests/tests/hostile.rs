//! Clients that mean harm, against real daemons: each loses at most its own session, with the reason
//! in `netctl crash`; the daemons keep their pids and generations, and connections of others their
//! bytes.

use proto::arena::line::ClientLine;
use proto::control::client::{Ask, Granted, MESSAGE_MAX};
use proto::id::{Epoch, Role, SlotIndex};
use proto::shm::Memory;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{FallocateFlags, SealFlags};
use rustix::io::Errno;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tests::process::group::{Group, Program, Spec, kernel_sockets};
use tests::process::raw_client::{RawClient, RawSocket};
use tests::process::{fresh_seed, private_net, wait_until};
use tests::remote::fleet::{Fleet, Load};

const STACK: &str = "10.81.0.2";
const ECHO: u16 = 7007;
const BESIDE: usize = 8;
const PATIENCE: Duration = Duration::from_secs(10);

/// A group with connections of others on it, which must not notice anything.
struct Beside {
    group: Group,
    fleet: Fleet,
    _server: Program,
    daemons: Vec<(Role, u32, u32)>,
}

fn daemons(group: &Group) -> Vec<(Role, u32, u32)> {
    group.processes().iter().map(|row| (row.role, row.pid, row.generation)).collect()
}

impl Beside {
    fn start() -> Beside {
        let spec = Spec {
            nic: "tap:axl4".into(),
            addr: format!("{STACK}/24"),
            tap_addr: Some("10.81.0.1/24".into()),
            more: Vec::new(),
        };
        let group = Group::up(&spec).expect("a group");
        let server = group.example("echo", &[&ECHO.to_string()]).expect("the echo server");
        let echo: SocketAddr = format!("{STACK}:{ECHO}").parse().expect("an address");
        let listening = || std::net::TcpStream::connect_timeout(&echo, Duration::from_secs(2)).is_ok();
        assert!(wait_until(PATIENCE, listening), "echo does not listen");
        let load = Load {
            loaded: BESIDE,
            ahead: 64 * 1024,
            rate: 1 << 20,
            murmur_every: Duration::from_secs(1),
            seed: fresh_seed(),
        };
        let fleet = Fleet::launch(kernel_sockets(BESIDE, echo).expect("connections"), load).expect("a fleet");
        let daemons = daemons(&group);
        Beside { group, fleet, _server: server, daemons }
    }

    fn api(&self) -> PathBuf {
        self.group.dir().join(self.group.name()).join("api.sock")
    }

    fn client(&self) -> RawClient {
        RawClient::open(&self.api()).expect("a session")
    }

    /// The group still serves: a new session is granted and bytes of the others move.
    fn serves(&self) {
        drop(self.client());
        let moved = self.fleet.bytes();
        assert!(wait_until(PATIENCE, || self.fleet.bytes() > moved), "nothing moves any more");
        assert_eq!((self.fleet.lost(), self.fleet.wrong()), (0, 0));
        assert_eq!(daemons(&self.group), self.daemons, "the same pids and generations");
    }

    /// The reason stands among the last events of `netctl crash`.
    fn told(&self, reason: &str) {
        let said = || {
            let output = self.group.command("netctl").args(["crash", "-j"]).output().expect("netctl");
            String::from_utf8_lossy(&output.stdout).contains(reason)
        };
        assert!(wait_until(PATIENCE, said), "netctl crash does not say {reason:?}");
    }

    fn end(self) {
        self.serves();
        let report = self.fleet.finish(PATIENCE).expect("a report");
        assert_eq!(report.lost, Vec::<String>::new());
        assert_eq!((report.clean, report.bytes_wrong), (BESIDE, 0));
    }
}

fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// A place with a socket in it: a UDP socket needs no other side.
fn bound(client: &mut RawClient) -> (SlotIndex, Epoch) {
    let ask = Ask::udp(format!("{STACK}:0").parse().expect("an address"));
    match client.ask(ask).expect("granted") {
        Some(Granted::Socket { slot, epoch, .. }) => (slot, epoch),
        other => panic!("{other:?}"),
    }
}

#[test]
fn nonsense_on_the_session_socket() {
    private_net::test("nonsense_on_the_session_socket", || {
        let beside = Beside::start();
        let seed = fresh_seed();
        println!("seed {seed}");
        let mut rng = StdRng::seed_from_u64(seed);
        let sockd = beside.group.find(Role::Sockd).expect("sockd").pid;
        let held = descriptors(sockd);
        for round in 0..300 {
            let socket = match round % 2 {
                0 => RawSocket::connect(&beside.api()).expect("a connection"),
                _ => beside.client().socket,
            };
            let mut bytes = vec![0; rng.random_range(1..2 * MESSAGE_MAX as usize)];
            rng.fill(&mut bytes[..]);
            // Descriptors that nobody asked for, sockd's own kind among them.
            let null = std::fs::File::open("/dev/null").expect("it is there");
            let passed: Vec<BorrowedFd<'_>> =
                [null.as_fd(), socket.as_fd()].into_iter().cycle().take(round % 5).collect();
            match socket.say(&bytes, &passed) {
                // SO_PASSRIGHTS is off: the kernel refuses to carry them.
                Err(e) if e.raw_os_error() == Some(Errno::PERM.raw_os_error()) => {
                    assert!(!passed.is_empty());
                    continue;
                }
                other => other.expect("a record can be sent"),
            }
            socket.until_hung_up(PATIENCE).expect("sockd hangs up");
        }
        let back = || descriptors(sockd) <= held + 2;
        assert!(wait_until(PATIENCE, back), "{held} descriptors before, {} after", descriptors(sockd));
        beside.told("a request that does not decode");
        beside.end();
    });
}

#[test]
fn a_ring_that_breaks_the_rules_ends_its_session() {
    private_net::test("a_ring_that_breaks_the_rules_ends_its_session", || {
        let beside = Beside::start();
        // The client produces kicks: a tail past the ring.
        let client = beside.client();
        let ring = client.geometry.kick_ring(0);
        let past = ring.capacity() + 1;
        client.memory.store_u32(ring.tail_at(), past, Ordering::Release);
        rustix::io::write(&client.kicks[0], &[1]).expect("a pipe");
        client.socket.until_hung_up(PATIENCE).expect("the session ends");
        beside.told("ring tail moved backwards or past the ring");
        beside.serves();
        // A cursor that goes back.
        let mut client = beside.client();
        let (slot, epoch) = bound(&mut client);
        let line = ClientLine { epoch, written: u64::MAX / 2, kick_seq: 1, ..ClientLine::default() };
        line.store(&client.memory, &client.geometry, slot);
        let mut kicks = proto::ring::spsc::Producer::<_, 4>::new(&client.memory, ring);
        assert!(kicks.push(&slot.0.to_ne_bytes()).expect("a new ring"));
        // Woken either way.
        let _ = kicks.publish();
        rustix::io::write(&client.kicks[0], &[1]).expect("a pipe");
        client.socket.until_hung_up(PATIENCE).expect("the session ends");
        beside.end();
    });
}

#[test]
fn any_value_anywhere_in_the_arena() {
    private_net::test("any_value_anywhere_in_the_arena", || {
        let beside = Beside::start();
        let seed = fresh_seed();
        println!("seed {seed}");
        let mut rng = StdRng::seed_from_u64(seed);
        for _ in 0..60 {
            let mut client = beside.client();
            let (slot, epoch) = bound(&mut client);
            // Rings and places lie before the pages.
            let structures = client.geometry.bytes()
                - (client.geometry.tx_pages + client.geometry.rx_pages) as usize * proto::arena::PAGE_SIZE;
            let ring = client.geometry.kick_ring(0);
            let mut tail = 0u32;
            for _ in 0..400 {
                let at = rng.random_range(0..structures / 4) * 4;
                let value = match rng.random_range(0..4) {
                    0 => 0,
                    1 => u32::MAX,
                    2 => rng.random_range(0..64),
                    _ => rng.random(),
                };
                client.memory.store_u32(at, value, Ordering::Release);
                if rng.random_range(0..4) == 0 {
                    let line = ClientLine {
                        epoch,
                        written: rng.random_range(0..1 << 18),
                        consumed: rng.random_range(0..1 << 10),
                        flags: rng.random(),
                        ..ClientLine::default()
                    };
                    line.store(&client.memory, &client.geometry, slot);
                    tail = tail.wrapping_add(1);
                    client.memory.store_u32(ring.tail_at(), tail, Ordering::Release);
                }
                // A full pipe is as good, and so is a session that has ended.
                let _ = rustix::io::write(&client.kicks[0], &[1]);
            }
        }
        beside.end();
    });
}

#[test]
fn memory_and_pipes_used_wrongly() {
    private_net::test("memory_and_pipes_used_wrongly", || {
        let beside = Beside::start();
        let mut client = beside.client();
        // The memory can be neither resized nor sealed further.
        for (what, result) in [
            ("shrink", rustix::fs::ftruncate(&client.arena, 4096)),
            ("grow", rustix::fs::ftruncate(&client.arena, 1 << 30)),
            ("seal", rustix::fs::fcntl_add_seals(&client.arena, SealFlags::FUTURE_WRITE)),
        ] {
            assert_eq!(result, Err(Errno::PERM), "{what}");
        }
        // Holes everywhere, also under a socket that is in use: zeros, which the rules then judge.
        let (slot, _) = bound(&mut client);
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&client.arena, hole, 0, client.geometry.bytes() as u64).expect("a hole");
        let ring = client.geometry.kick_ring(0);
        let mut kicks = proto::ring::spsc::Producer::<_, 4>::new(&client.memory, ring);
        assert!(kicks.push(&slot.0.to_ne_bytes()).expect("an empty ring"));
        // Woken either way.
        let _ = kicks.publish();
        rustix::io::write(&client.kicks[0], &[1]).expect("a pipe");
        beside.serves();
        // Both pipes at their worst: ours full and blocking, theirs never read.
        let clients: Vec<RawClient> = (0..4).map(|_| beside.client()).collect();
        for client in &clients {
            let filled = std::iter::repeat_with(|| rustix::io::write(&client.kicks[0], &[0; 4096]));
            assert!(filled.take(10_000).any(|written| written == Err(Errno::AGAIN)) || clients.is_empty());
            for end in [&client.wake, &client.kicks[0]] {
                rustix::io::ioctl_fionbio(end, false).expect("our own description");
            }
        }
        beside.serves();
        // And no session lives on a client that hung up.
        drop((client, clients));
        let netd = beside.group.find(Role::Netd).expect("netd").pid;
        let maps = || std::fs::read_to_string(format!("/proc/{netd}/maps")).unwrap_or_default();
        let arenas = || maps().lines().filter(|line| line.contains("memfd:axolotl-arena")).count();
        assert!(wait_until(PATIENCE, || arenas() == 1), "{} arenas left, echo has one", arenas());
        beside.end();
    });
}
