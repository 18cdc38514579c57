//! Two netds beside one another: connections, listeners and datagram sockets on both, traffic between
//! them, changes for both, and the death of one, which the other does not notice.

use libnetclient::Size;
use proto::hard::conns::Kind;
use proto::nic::steering::Steering;
use rustix::process::Signal;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tests::process::group::{Group, Program, Role, Spec};
use tests::process::{private_net, wait_until};
use tests::remote::counter;

const NIC: &str = "axlsh0";
const STACK: &str = "10.91.0.2";
const KERNEL: &str = "10.91.0.1";
const ECHO: u16 = 7007;
const PATIENCE: Duration = Duration::from_secs(15);
const SHARDS: u16 = 2;

fn started() -> Group {
    let spec = Spec {
        nic: format!("tap:{NIC}"),
        addr: format!("{STACK}/24"),
        tap_addr: Some(format!("{KERNEL}/24")),
        more: vec!["--shards".into(), SHARDS.to_string()],
    };
    Group::up(&spec).expect("a group")
}

fn with_echo() -> (Group, Program) {
    let group = started();
    let server = group.example("echo", &[&ECHO.to_string()]).expect("the echo server");
    let echo = addr(STACK, ECHO);
    let listening = || TcpStream::connect_timeout(&echo, Duration::from_secs(2)).is_ok();
    assert!(wait_until(PATIENCE, listening), "echo does not listen");
    (group, server)
}

fn addr(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().expect("an address"), port)
}

fn shard_of(one: SocketAddr, other: SocketAddr) -> u16 {
    Steering::new(SHARDS).flow(one, other)
}

/// Kernel's connections to `to`, `each` of them to every shard.
fn to_both(to: SocketAddr, each: usize) -> Vec<(u16, TcpStream)> {
    let mut found: Vec<(u16, TcpStream)> = Vec::new();
    for _ in 0..200 {
        let stream = TcpStream::connect_timeout(&to, PATIENCE).expect("it listens");
        stream.set_nodelay(true).expect("an option");
        stream.set_read_timeout(Some(PATIENCE)).expect("an option");
        let shard = shard_of(stream.local_addr().expect("bound"), to);
        if found.iter().filter(|(other, _)| *other == shard).count() < each {
            found.push((shard, stream));
        }
        if found.len() == each * usize::from(SHARDS) {
            return found;
        }
    }
    panic!("200 ports lead to one shard");
}

/// The netd of a shard is killed, and another one serves.
fn kill(group: &Group, shard: u16) {
    assert!(wait_until(PATIENCE, || group.whole()), "{:?}", group.processes());
    let before = group.shard(shard).expect("it serves");
    Group::signal(&before, Signal::KILL);
    let back = || group.shard(shard).is_some_and(|row| row.generation > before.generation);
    assert!(wait_until(PATIENCE, back), "shard {shard}: {:?}", group.processes());
}

/// Shards of all connections that the records know.
fn records(group: &Group, kind: Kind) -> Vec<u16> {
    let rows = group.access().sockets();
    let of_it = rows.iter().filter(|row| row.opening.kind == kind);
    of_it
        .map(|row| {
            let opening = &row.opening;
            assert_eq!(opening.shard, shard_of(opening.local, opening.remote), "{opening:?}");
            opening.shard
        })
        .collect()
}

fn on_both(shards: &[u16]) -> bool {
    (0..SHARDS).all(|shard| shards.contains(&shard))
}

/// A connection that asks and is answered, over and over.
struct Talk {
    shard: u16,
    rounds: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

/// How long any round took, in nanoseconds, since the last look.
static LONGEST: [AtomicU64; SHARDS as usize] = [AtomicU64::new(0), AtomicU64::new(0)];

fn talk(shard: u16, mut stream: TcpStream, stop: Arc<AtomicBool>) -> Talk {
    let rounds = Arc::new(AtomicU64::new(0));
    let counted = rounds.clone();
    let seed = u64::from(stream.local_addr().expect("bound").port());
    let thread = std::thread::spawn(move || {
        let (mut offset, mut bytes) = (0, [0; 512]);
        while !stop.load(Ordering::Relaxed) {
            let begun = Instant::now();
            counter::fill(seed, offset, &mut bytes);
            stream.write_all(&bytes).expect("the connection stands");
            stream.read_exact(&mut bytes).expect("the connection stands");
            assert_eq!(counter::wrong(seed, offset, &bytes), 0, "the stream is as it was sent");
            offset += bytes.len() as u64;
            counted.fetch_add(1, Ordering::Relaxed);
            LONGEST[usize::from(shard)].fetch_max(begun.elapsed().as_nanos() as u64, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(2));
        }
    });
    Talk { shard, rounds, thread }
}

#[test]
fn connections_both_ways_on_both_shards() {
    private_net::test("connections_both_ways_on_both_shards", || {
        let (group, _echo) = with_echo();
        let mut streams = to_both(addr(STACK, ECHO), 4);
        for (n, (_, stream)) in streams.iter_mut().enumerate() {
            let (said, mut heard) = ([n as u8; 3000], [0; 3000]);
            stream.write_all(&said).expect("sent");
            stream.read_exact(&mut heard).expect("answered");
            assert_eq!(said, heard);
        }
        assert!(on_both(&records(&group, Kind::TcpPassive)));

        let kernel = TcpListener::bind((KERNEL, 7100)).expect("a port of the kernel");
        let session = group.session(Size::default()).expect("a session");
        let mut pairs = Vec::new();
        for n in 0..12u8 {
            let mut ours =
                libnetclient::TcpStream::connect_in(&session, (KERNEL, 7100)).expect("the kernel listens");
            let (mut theirs, from) = kernel.accept().expect("it came");
            assert_eq!(from, ours.local_addr().expect("bound"));
            ours.write_all(&[n; 100]).expect("sent");
            let mut heard = [0; 100];
            theirs.read_exact(&mut heard).expect("it arrives");
            assert_eq!(heard, [n; 100]);
            pairs.push((ours, theirs));
        }
        let shards = records(&group, Kind::TcpActive);
        assert_eq!(shards.iter().filter(|shard| **shard == 0).count(), 6, "they take turns: {shards:?}");

        // A port that the program chose leads where it leads.
        for port in 6001..6005 {
            let local = addr(if port % 2 == 0 { STACK } else { "0.0.0.0" }, port);
            let ours = libnetclient::TcpStream::connect_nonblocking_in(&session, local, addr(KERNEL, 7100))
                .expect("a free port");
            let (_theirs, from) = kernel.accept().expect("it came");
            assert_eq!(from, addr(STACK, port));
            assert!(wait_until(PATIENCE, || ours.peer_addr().is_ok()), "it stands");
        }
        for shard in 0..SHARDS {
            kill(&group, shard);
        }
        for (n, (ours, theirs)) in pairs.iter_mut().enumerate() {
            theirs.write_all(&[n as u8; 100]).expect("sent");
            let mut heard = [0; 100];
            ours.read_exact(&mut heard).expect("it arrives");
            assert_eq!(heard, [n as u8; 100]);
        }
    });
}

/// While one netd stands still the other's connections go on; after its death too, and nobody loses
/// anything.
#[test]
fn one_shard_does_not_feel_what_the_other_suffers() {
    private_net::test("one_shard_does_not_feel_what_the_other_suffers", || {
        /// Shorter than what counts as a hang.
        const STANDSTILL: Duration = Duration::from_millis(400);
        let (group, _echo) = with_echo();
        let stop = Arc::new(AtomicBool::new(false));
        let talks: Vec<Talk> = to_both(addr(STACK, ECHO), 4)
            .into_iter()
            .map(|(shard, stream)| talk(shard, stream, stop.clone()))
            .collect();
        let rounds = |shard: u16| -> Vec<u64> {
            let of_it = talks.iter().filter(|talk| talk.shard == shard);
            of_it.map(|talk| talk.rounds.load(Ordering::Relaxed)).collect()
        };
        let ahead = |before: &[u64], now: &[u64], least: u64| {
            before.iter().zip(now).all(|(before, now)| now - before >= least)
        };
        let all_move = || {
            let before = [rounds(0), rounds(1)];
            wait_until(PATIENCE, || ahead(&before[0], &rounds(0), 3) && ahead(&before[1], &rounds(1), 3))
        };
        let mut felt = Vec::new();
        for n in 0..6 {
            let (victim, other) = (n % SHARDS, 1 - n % SHARDS);
            assert!(all_move(), "everybody moves");
            let row = group.shard(victim).expect("it serves");
            Group::signal(&row, Signal::STOP);
            std::thread::sleep(Duration::from_millis(50));
            let before = [rounds(0), rounds(1)];
            std::thread::sleep(STANDSTILL - Duration::from_millis(50));
            let after = [rounds(0), rounds(1)];
            Group::signal(&row, Signal::CONT);
            let at = |all: &[Vec<u64>; 2], shard: u16| all[usize::from(shard)].clone();
            assert_eq!(at(&before, victim), at(&after, victim), "whoever is stopped moves nothing");
            assert!(ahead(&at(&before, other), &at(&after, other), 10), "shard {other} stood still too");
            assert!(all_move(), "whoever goes on moves again");
            LONGEST.iter().for_each(|longest| longest.store(0, Ordering::Relaxed));
            kill(&group, victim);
            assert!(all_move(), "everybody moves after a death");
            let longest = |shard: u16| LONGEST[usize::from(shard)].load(Ordering::Relaxed) / 1000;
            felt.push((longest(victim), longest(other)));
        }
        stop.store(true, Ordering::Relaxed);
        for talk in talks {
            talk.thread.join().expect("no connection was lost and no byte was wrong");
        }
        println!("longest round in us, of the shard that was killed and of the other: {felt:?}");
        // Of single deaths the machine's own pauses are part.
        let mut others: Vec<u64> = felt.iter().map(|(_, other)| *other).collect();
        others.sort_unstable();
        assert!(others[others.len() / 2] < 100_000, "the other shard felt it: {felt:?}");
        let restarts = |shard| group.shard(shard).map(|row| row.restarts);
        assert_eq!((restarts(0), restarts(1)), (Some(3), Some(3)), "nobody died but whom we killed");
    });
}

#[test]
fn datagrams_come_and_go_on_both_shards() {
    private_net::test("datagrams_come_and_go_on_both_shards", || {
        let group = started();
        let session = group.session(Size::default()).expect("a session");
        let ours = libnetclient::UdpSocket::bind_in(&session, ("0.0.0.0", 5300)).expect("a port");
        ours.set_read_timeout(Some(PATIENCE)).expect("an option");
        let theirs: Vec<UdpSocket> = (0..16)
            .map(|_| {
                let socket = UdpSocket::bind((KERNEL, 0)).expect("a port of the kernel");
                socket.set_read_timeout(Some(PATIENCE)).expect("an option");
                socket.connect((STACK, 5300)).expect("an address");
                socket
            })
            .collect();
        let shards: Vec<u16> = theirs
            .iter()
            .map(|socket| shard_of(socket.local_addr().expect("bound"), addr(STACK, 5300)))
            .collect();
        assert!(on_both(&shards));
        let exchange = || {
            let mut bytes = [0; 2000];
            for (n, socket) in theirs.iter().enumerate() {
                socket.send(&[n as u8; 700]).expect("sent");
                let (len, from) = ours.recv_from(&mut bytes).expect("it arrives");
                assert_eq!((from, len, bytes[0]), (socket.local_addr().expect("bound"), 700, n as u8));
                ours.send_to(&bytes[..len], from).expect("sent");
                assert_eq!(socket.recv(&mut bytes).expect("it comes back"), 700);
            }
        };
        exchange();
        for shard in 0..SHARDS {
            kill(&group, shard);
            exchange();
        }
        // Many at once: each once, those of one remote in order; a datagram that was looked at is the next.
        for round in 0..20u8 {
            for (n, socket) in theirs.iter().enumerate() {
                socket.send(&[n as u8, round]).expect("sent");
            }
        }
        let mut next = vec![0u8; theirs.len()];
        for _ in 0..20 * theirs.len() {
            let mut bytes = [0; 2];
            let (_, seen) = ours.peek_from(&mut bytes).expect("it arrives");
            let looked_at = bytes;
            assert_eq!((ours.recv_from(&mut bytes).expect("it arrives"), bytes), ((2, seen), looked_at));
            let next = &mut next[usize::from(bytes[0])];
            assert_eq!(*next, bytes[1], "in order");
            *next += 1;
        }
        assert!(next.iter().all(|next| *next == 20));

        // Connected, then to another one: nobody else is heard on either shard.
        let (first, second) = (&theirs[0], &theirs[1]);
        for (friend, stranger) in [(first, second), (second, first)] {
            let friend_addr = friend.local_addr().expect("bound");
            ours.connect(friend_addr).expect("a route");
            stranger.send(b"not for you").expect("sent");
            // It was a stranger before, and was told that nobody listens.
            let _ = friend.take_error();
            friend.send(b"for you").expect("sent");
            let mut bytes = [0; 20];
            assert_eq!(ours.recv(&mut bytes).expect("it arrives"), 7);
            ours.send(b"thanks").expect("sent");
            assert_eq!(friend.recv(&mut bytes).expect("it arrives"), 6);
        }
    });
}

/// What a host says to itself stays in the shard of its two ends.
#[test]
fn a_host_that_talks_to_itself() {
    private_net::test("a_host_that_talks_to_itself", || {
        let group = started();
        let session = group.session(Size::default()).expect("a session");
        let listener = libnetclient::TcpListener::bind_in(&session, ("0.0.0.0", 7200)).expect("a port");
        let mut pairs = Vec::new();
        for n in 0..16u8 {
            let to = if n % 2 == 0 { STACK } else { "127.0.0.1" };
            let calling = libnetclient::TcpStream::connect_in(&session, (to, 7200)).expect("we listen");
            let (serving, from) = listener.accept().expect("it came");
            assert_eq!(from, calling.local_addr().expect("bound"));
            pairs.push((calling, serving));
        }
        assert!(on_both(&records(&group, Kind::TcpActive)));
        let mut check = |mark: u8| {
            for (n, (calling, serving)) in pairs.iter_mut().enumerate() {
                let said = [mark ^ n as u8; 5000];
                calling.write_all(&said).expect("sent");
                let mut heard = [0; 5000];
                serving.read_exact(&mut heard).expect("it arrives");
                assert_eq!(said, heard);
                serving.write_all(&heard[..100]).expect("sent");
                calling.read_exact(&mut heard[..100]).expect("it arrives");
            }
        };
        check(1);
        for shard in 0..SHARDS {
            kill(&group, shard);
            check(2 + shard as u8);
        }
        let one = libnetclient::UdpSocket::bind_in(&session, ("0.0.0.0", 5400)).expect("a port");
        one.set_read_timeout(Some(PATIENCE)).expect("an option");
        for port in 5401..5409 {
            let other = libnetclient::UdpSocket::bind_in(&session, (STACK, port)).expect("a port");
            other.set_read_timeout(Some(PATIENCE)).expect("an option");
            let mut bytes = [0; 10];
            other.send_to(b"hello", (STACK, 5400)).expect("sent");
            assert_eq!(one.recv_from(&mut bytes).expect("it arrives"), (5, addr(STACK, port)));
            one.send_to(b"you", (STACK, port)).expect("sent");
            assert_eq!(other.recv_from(&mut bytes).expect("it arrives").0, 3);
        }
    });
}

/// What an administrator changes is true in both shards when netctl returns, and stays so.
#[test]
fn changes_are_made_in_both_shards() {
    private_net::test("changes_are_made_in_both_shards", || {
        const MORE: &str = "10.92.0.2";
        let (group, _echo) = with_echo();
        let netctl = |words: &[&str]| {
            let output = group.command("netctl").args(words).output().expect("netctl runs");
            assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        let status = Command::new("ip").args(["addr", "add", "10.92.0.1/24", "dev", NIC]).status();
        assert!(status.expect("ip runs").success());
        netctl(&["addr", "add", &format!("{MORE}/24")]);
        drop(to_both(addr(MORE, ECHO), 3));
        for shard in 0..SHARDS {
            kill(&group, shard);
            drop(to_both(addr(MORE, ECHO), 3));
        }
        netctl(&["addr", "del", &format!("{MORE}/24")]);
        let reaches =
            |ip: &str| TcpStream::connect_timeout(&addr(ip, ECHO), Duration::from_millis(300)).is_ok();
        assert!((0..6).all(|_| !reaches(MORE)), "no shard has it any more");
        drop(to_both(addr(STACK, ECHO), 3));

        let listeners = netctl(&["ss"]).lines().filter(|line| line.contains("LISTEN")).count();
        assert_eq!(listeners, 1, "one listener is one line");
        let status = netctl(&["status"]);
        assert_eq!(status.lines().filter(|line| line.starts_with("netd")).count(), usize::from(SHARDS));
        let steered = group
            .access()
            .counters()
            .into_iter()
            .any(|((role, name), count)| role == Role::Nicd && name == "rx_steered" && count > 0);
        assert!(steered, "frames went from the pages of one shard to the other's");
    });
}
