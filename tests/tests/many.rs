//! Very many connections in one process with a handful of descriptors: two groups over a wire, a session
//! with each, one `Poll` for a side.
//!
//! Ten thousand of them, a hundred thousand with `AXOLOTL_EVERY=1`; `AXOLOTL_MANY` sets another number.

use libnetclient::poll::{Event, Poll, Trigger};
use libnetclient::{Ready, Session, Size, TcpListener, TcpStream};
use rustix::process::Signal;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tests::process::group::{Group, Role, Spec};
use tests::process::wait_until;

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 83, 0, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 83, 0, 2);
/// Four ports: an address has 28,232 ephemeral ports towards one.
const PORTS: [u16; 4] = [7101, 7102, 7103, 7104];
/// Kills of a netd while all connections stand.
const STRIKES: usize = 5;
/// Connections under way at a time.
const WINDOW: usize = 256;
const PATIENCE: Duration = Duration::from_secs(120);

fn up(addr: Ipv4Addr, wire: &str) -> Group {
    let spec =
        Spec { nic: format!("wire:{wire}"), addr: format!("{addr}/24"), tap_addr: None, more: Vec::new() };
    Group::up(&spec).expect("a group")
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("proc").count()
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").expect("proc").count()
}

/// Ends the server, also when the client has failed.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn listening(session: &Session) -> [TcpListener; PORTS.len()] {
    PORTS.map(|port| {
        let addr = SocketAddr::from((SERVER, port));
        let listener = TcpListener::bind_with_backlog_in(session, addr, 4096).expect("bound");
        listener.set_nonblocking(true).expect("set");
        listener
    })
}

/// Accepts connections and answers every byte of each, until the end.
fn serve(listeners: &[TcpListener; PORTS.len()], count: usize, end: &AtomicBool) {
    let poll = Poll::new().expect("a poll");
    for (number, listener) in listeners.iter().enumerate() {
        poll.register(listener, u64::MAX - number as u64, Ready::READ, Trigger::Level).expect("registered");
    }
    let mut streams: Vec<TcpStream> = Vec::with_capacity(count);
    let mut events = [Event::default(); 128];
    let mut chunk = [0; 64];
    while !end.load(Ordering::Relaxed) {
        let found = poll.wait(&mut events, Some(Duration::from_secs(1))).expect("waited");
        for event in &events[..found] {
            if let Some(listener) = listeners.get((u64::MAX - event.token) as usize) {
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(true).expect("set");
                    poll.register(&stream, streams.len() as u64, Ready::READ, Trigger::Edge)
                        .expect("registered");
                    streams.push(stream);
                }
                continue;
            }
            let mut stream = &streams[event.token as usize];
            while let Ok(n) = stream.read(&mut chunk) {
                if n == 0 {
                    break;
                }
                stream.write_all(&chunk[..n]).expect("room for a few bytes");
            }
        }
    }
}

/// Connects `count` times, and then sends a byte on each, twice, and awaits it.
fn ask(session: &Session, count: usize, strike: impl Fn()) -> (usize, usize) {
    let poll = Poll::new().expect("a poll");
    let mut streams: Vec<TcpStream> = Vec::with_capacity(count);
    let mut events = [Event::default(); 128];
    let mut done = 0;
    let begun = Instant::now();
    while done < count {
        while streams.len() < count && streams.len() - done < WINDOW {
            let port = PORTS[streams.len() % PORTS.len()];
            let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
            let stream =
                TcpStream::connect_nonblocking_in(session, any, (SERVER, port).into()).expect("begun");
            poll.register(&stream, streams.len() as u64, Ready::WRITE, Trigger::Once).expect("registered");
            streams.push(stream);
        }
        let found = poll.wait(&mut events, Some(PATIENCE)).expect("waited");
        assert!(found > 0, "{done} of {count} connections stand");
        for event in &events[..found] {
            let error = streams[event.token as usize].take_error().expect("asked");
            assert!(error.is_none(), "connection {}: {error:?}", event.token);
            done += 1;
        }
    }
    println!("{count} connections after {:?}", begun.elapsed());
    for (token, stream) in streams.iter().enumerate() {
        poll.reregister(stream, token as u64, Ready::READ, Trigger::Edge).expect("registered");
    }
    let at_work = (descriptors(), threads());
    for round in 1..=2 {
        let begun = Instant::now();
        let (mut asked, mut answered) = (0, 0);
        while answered < count {
            while asked < count && asked - answered < 4096 {
                (&streams[asked]).write_all(&[round]).expect("room for a byte");
                asked += 1;
            }
            let found = poll.wait(&mut events, Some(PATIENCE)).expect("waited");
            assert!(found > 0, "{answered} of {count} answers");
            for event in &events[..found] {
                let mut byte = [0; 2];
                match (&streams[event.token as usize]).read(&mut byte) {
                    Ok(n) => {
                        assert_eq!((n, byte[0]), (1, round));
                        answered += 1;
                    }
                    Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
                }
            }
        }
        println!("{count} bytes there and back after {:?}", begun.elapsed());
    }
    silence(&streams, &poll, strike);
    at_work
}

/// How long a connection is silent when netd at the other end is killed just before it asks.
fn silence(streams: &[TcpStream], poll: &Poll, strike: impl Fn()) {
    let mut events = [Event::default(); 128];
    let mut spans = Vec::new();
    for round in 0..STRIKES {
        let asking = streams.len() / STRIKES * round;
        strike();
        let begun = Instant::now();
        (&streams[asking]).write_all(&[7]).expect("room for a byte");
        let mut byte = [0; 2];
        while !matches!((&streams[asking]).read(&mut byte), Ok(1)) {
            assert!(begun.elapsed() < PATIENCE, "connection {asking} is silent");
            poll.wait(&mut events, Some(Duration::from_secs(1))).expect("waited");
        }
        spans.push(begun.elapsed());
    }
    spans.sort_unstable();
    println!("{} connections: silent for {spans:?} when netd was killed", streams.len());
}

#[test]
fn very_many_connections_and_a_few_descriptors() {
    let standard = if std::env::var_os("AXOLOTL_EVERY").is_some() { 100_000 } else { 10_000 };
    let count: usize = std::env::var("AXOLOTL_MANY").ok().and_then(|n| n.parse().ok()).unwrap_or(standard);
    let wire = std::env::temp_dir().join(format!("axlmany{}", std::process::id()));
    let path = wire.to_string_lossy().into_owned();
    let (there, here) = (up(SERVER, &path), up(CLIENT, &path));
    let (before, threads_before) = (descriptors(), threads());
    // A connection that is answered holds a page for a moment only.
    let size = |active, passive| Size { active, passive, tx_pages: 16_384, rx_pages: 16_384 };
    let serving = there.session(size(16, count as u32 + 1024)).expect("a session");
    let asking = here.session(size(count as u32 + 1024, 16)).expect("a session");
    let (end, listeners) = (AtomicBool::new(false), listening(&serving));
    let (at_work, threads_at_work) = std::thread::scope(|scope| {
        scope.spawn(|| serve(&listeners, count, &end));
        let _end = End(&end);
        ask(&asking, count, || {
            assert!(wait_until(PATIENCE, || there.whole()), "everybody is back from the last time");
            Group::signal(&there.find(Role::Netd).expect("a netd"), Signal::KILL);
        })
    });
    let more = at_work - before;
    println!("{more} descriptors for {} sockets", 2 * count);
    assert!(more <= 16, "{more} descriptors for two sessions and two polls");
    assert!(threads_at_work <= threads_before + 1, "no thread but the server's own");
    let _ = std::fs::remove_file(&wire);
}
