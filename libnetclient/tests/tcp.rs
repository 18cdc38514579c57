//! TCP sockets over a fake stack: what std::net promises on Linux.

mod fake;

use fake::{Poke, WINDOW, at, start, start_sized};
use libnetclient::{Session, Size, TcpListener, TcpStream};
use std::io::{ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

fn pair(session: &Session, port: u16) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind_in(session, at(port)).expect("bound");
    let client = TcpStream::connect_in(session, at(port)).expect("connected");
    let (server, from) = listener.accept().expect("accepted");
    assert_eq!(from, client.local_addr().expect("an address"));
    (client, server)
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 251) as u8).collect()
}

#[test]
fn bytes_go_both_ways_and_the_end_is_seen() {
    let (session, _fake) = start();
    let (mut client, mut server) = pair(&session, 80);
    client.write_all(b"question").expect("written");
    let mut buf = [0; 100];
    assert_eq!(server.read(&mut buf).expect("read"), 8);
    assert_eq!(&buf[..8], b"question");
    server.write_all(b"answer").expect("written");
    server.shutdown(Shutdown::Write).expect("shut down");
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("read");
    assert_eq!(answer, "answer");
    assert_eq!(client.read(&mut buf).expect("still the end"), 0);
    client.write_all(b"half open").expect("the other way still works");
    assert_eq!(server.read(&mut buf).expect("read"), 9);
    assert_eq!(client.peer_addr().expect("connected"), at(80));
    assert_eq!(server.local_addr().expect("an address"), at(80));
}

#[test]
fn a_stream_larger_than_every_window() {
    let (session, fake) = start();
    let (mut client, mut server) = pair(&session, 80);
    let sent = pattern(5 * WINDOW as usize + 12_345);
    let copy = sent.clone();
    let writer = thread::spawn(move || {
        client.write_all(&copy).expect("written");
        client
    });
    let mut received = Vec::new();
    let mut buf = vec![0; 30_000];
    while received.len() < sent.len() {
        let n = server.read(&mut buf).expect("read");
        received.extend_from_slice(&buf[..n]);
    }
    assert!(received == sent, "every byte, in order");
    let client = writer.join().expect("the writer");
    let mut last = [0; 1];
    server.set_nonblocking(true).expect("set");
    assert_eq!(server.read(&mut last).map_err(|e| e.kind()), Err(ErrorKind::WouldBlock));
    // An idle connection has no pages.
    fake.settles_at(0, 2);
    drop((client, server));
}

#[test]
fn refused_and_unanswered_connects() {
    let (session, _fake) = start();
    let refused = TcpStream::connect_in(&session, at(81)).expect_err("nobody listens");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    let silent: SocketAddr = "10.9.9.9:80".parse().expect("an address");
    let begin = Instant::now();
    let timeout = TcpStream::connect_timeout_in(&session, &silent, Duration::from_millis(50));
    assert_eq!(timeout.expect_err("silence").kind(), ErrorKind::TimedOut);
    assert!(begin.elapsed() >= Duration::from_millis(50));
    let zero = TcpStream::connect_timeout_in(&session, &silent, Duration::ZERO);
    assert_eq!(zero.expect_err("zero").kind(), ErrorKind::InvalidInput);
    let _first = TcpListener::bind_in(&session, at(82)).expect("bound");
    let second = TcpListener::bind_in(&session, at(82)).expect_err("taken");
    assert_eq!(second.kind(), ErrorKind::AddrInUse);
}

#[test]
fn a_reset_is_told_once() {
    let (session, fake) = start();
    let (mut client, mut server) = pair(&session, 80);
    server.write_all(b"before").expect("written");
    let mut buf = [0; 10];
    // Arrived before the reset: still readable.
    while client.peek(&mut buf).expect("peeked") < 6 {}
    fake.poke(Poke::Reset);
    assert_eq!(client.read(&mut buf).expect("what came before"), 6);
    assert_eq!(client.read(&mut buf).expect_err("reset").kind(), ErrorKind::ConnectionReset);
    assert_eq!(client.read(&mut buf).expect("then the end"), 0);
    assert_eq!(client.write(b"x").expect_err("broken").kind(), ErrorKind::BrokenPipe);
    assert!(client.take_error().expect("asked").is_none(), "told already");
    assert_eq!(server.take_error().expect("asked").expect("an error").kind(), ErrorKind::ConnectionReset);
    assert!(server.take_error().expect("asked").is_none());
}

#[test]
fn closing_with_unread_data_resets_the_other_side() {
    let (session, _fake) = start();
    let (mut client, server) = pair(&session, 80);
    client.write_all(b"never read").expect("written");
    while server.peek(&mut [0; 1]).expect("peeked") == 0 {}
    drop(server);
    assert_eq!(client.read(&mut [0; 1]).expect_err("reset").kind(), ErrorKind::ConnectionReset);
}

#[test]
fn nonblocking_calls_and_timeouts() {
    let (session, _fake) = start();
    let (client, mut server) = pair(&session, 80);
    let mut buf = [0; 10];
    server.set_nonblocking(true).expect("set");
    assert_eq!(server.read(&mut buf).expect_err("nothing").kind(), ErrorKind::WouldBlock);
    server.set_nonblocking(false).expect("set");
    server.set_read_timeout(Some(Duration::from_millis(30))).expect("set");
    assert_eq!(server.read_timeout().expect("got"), Some(Duration::from_millis(30)));
    let begin = Instant::now();
    assert_eq!(server.read(&mut buf).expect_err("nothing").kind(), ErrorKind::WouldBlock);
    assert!(begin.elapsed() >= Duration::from_millis(30));
    let zero = server.set_read_timeout(Some(Duration::ZERO)).expect_err("zero");
    assert_eq!(zero.kind(), ErrorKind::InvalidInput);

    client.set_write_timeout(Some(Duration::from_millis(30))).expect("set");
    let big = vec![1; 4 * WINDOW as usize];
    let mut written = 0;
    let full = loop {
        match (&client).write(&big[written..]) {
            Ok(n) => written += n,
            Err(error) => break error,
        }
    };
    assert_eq!(full.kind(), ErrorKind::WouldBlock);
    assert_eq!(written, 2 * WINDOW as usize, "what the two windows hold");

    let listener = TcpListener::bind_in(&session, at(81)).expect("bound");
    listener.set_nonblocking(true).expect("set");
    assert_eq!(listener.accept().expect_err("nobody").kind(), ErrorKind::WouldBlock);
}

#[test]
fn shutdown_wakes_a_reader_in_another_thread() {
    let (session, _fake) = start();
    let (client, _server) = pair(&session, 80);
    let mut clone = client.try_clone().expect("cloned");
    let reader = thread::spawn(move || clone.read(&mut [0; 1]));
    thread::sleep(Duration::from_millis(20));
    client.shutdown(Shutdown::Read).expect("shut down");
    assert_eq!(reader.join().expect("the reader").expect("the end"), 0);
    client.shutdown(Shutdown::Write).expect("shut down");
    assert_eq!((&client).write(b"x").expect_err("after shutdown").kind(), ErrorKind::BrokenPipe);
}

#[test]
fn vectored_io_and_peek() {
    let (session, _fake) = start();
    let (mut client, mut server) = pair(&session, 80);
    let parts = [IoSlice::new(b"one "), IoSlice::new(b""), IoSlice::new(b"two")];
    assert_eq!(client.write_vectored(&parts).expect("written"), 7);
    let (mut a, mut b) = ([0; 3], [0; 10]);
    while server.peek(&mut b).expect("peeked") < 7 {}
    assert_eq!(server.peek(&mut a).expect("peeked"), 3);
    assert_eq!(&a, b"one");
    let mut parts = [IoSliceMut::new(&mut a), IoSliceMut::new(&mut b)];
    assert_eq!(server.read_vectored(&mut parts).expect("read"), 7);
    assert_eq!((&a[..], &b[..4]), (&b"one"[..], &b" two"[..]));
}

#[test]
fn zero_copy_on_both_sides() {
    let (session, _fake) = start();
    let (client, server) = pair(&session, 80);
    let mut room = client.send_reserve(50_000).expect("room");
    assert_eq!(room.len(), 50_000);
    let sent = pattern(40_000);
    room.write_at(20_000, &sent[20_000..]);
    room.write_at(0, &sent[..20_000]);
    room.commit(40_000).expect("sent");
    drop(client.send_reserve(1).expect("nothing is sent without commit"));
    let mut received = Vec::new();
    while received.len() < sent.len() {
        let peeked = server.recv_peek().expect("arrived");
        let mut first = [0; 1];
        peeked.read_at(0, &mut first).expect("read");
        assert_eq!(first[0], sent[received.len()]);
        let len = peeked.len();
        peeked.for_each_chunk(|chunk| received.extend_from_slice(chunk)).expect("read");
        peeked.consume(len).expect("consumed");
    }
    assert!(received == sent);
    drop(client);
    assert!(server.recv_peek().expect("the end").is_empty());
}

#[test]
fn many_threads_at_once() {
    let (session, fake) = start();
    let listener = TcpListener::bind_in(&session, at(80)).expect("bound");
    let echo = thread::spawn(move || {
        let serve = |mut stream: TcpStream| {
            thread::spawn(move || {
                let mut buf = [0; 4096];
                while let Ok(n) = stream.read(&mut buf) {
                    if n == 0 || stream.write_all(&buf[..n]).is_err() {
                        return;
                    }
                }
            })
        };
        let threads: Vec<_> = listener.incoming().take(16).map(|s| serve(s.expect("accepted"))).collect();
        threads.into_iter().for_each(|thread| thread.join().expect("served"));
    });
    let clients: Vec<_> = (0..16u8)
        .map(|id| {
            let session = session.clone();
            thread::spawn(move || {
                let mut stream = TcpStream::connect_in(&session, at(80)).expect("connected");
                let message = vec![id; 3000];
                let mut back = vec![0; 3000];
                for _ in 0..50 {
                    stream.write_all(&message).expect("written");
                    stream.read_exact(&mut back).expect("read");
                    assert!(back == message, "nobody else's bytes");
                }
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().expect("a client"));
    echo.join().expect("the server");
    fake.settles_at(0, 0);
}

#[test]
fn places_and_pages_are_used_again() {
    let (session, _fake) = start_sized(Size { active: 3, passive: 2, tx_pages: 4, rx_pages: 32 });
    let listener = TcpListener::bind_in(&session, at(80)).expect("bound");
    for round in 0..100u8 {
        let begin = Instant::now();
        let mut client = loop {
            match TcpStream::connect_in(&session, at(80)) {
                Ok(client) => break client,
                // The place of the round before is not left yet.
                Err(_) => assert!(begin.elapsed() < Duration::from_secs(10), "round {round}"),
            }
        };
        client.write_all(&[round; 30_000]).expect("written");
        let (mut server, _) = listener.accept().expect("accepted");
        drop(client);
        let mut all = Vec::new();
        server.read_to_end(&mut all).expect("read");
        assert!(all == [round; 30_000], "round {round}");
    }
}

#[test]
fn a_writer_waits_for_a_page_of_another_socket() {
    let (session, _fake) = start_sized(Size { active: 4, passive: 4, tx_pages: 4, rx_pages: 64 });
    let (hog, mut hog_server) = pair(&session, 80);
    let (mut other, mut other_server) = pair(&session, 81);
    hog.set_nonblocking(true).expect("set");
    // Its window is larger than the pages: they run out, or the stack takes them as fast.
    let sent = pattern(WINDOW as usize);
    let writer = thread::spawn(move || {
        other.write_all(&sent).expect("written");
        other
    });
    let mut filled = 0;
    while filled < 3 * WINDOW as usize {
        match (&hog).write(&[9; 65_536]) {
            Ok(n) => filled += n,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                let mut buf = vec![0; 65_536];
                hog_server.set_read_timeout(Some(Duration::from_millis(1))).expect("set");
                let _ = hog_server.read(&mut buf);
                other_server.set_read_timeout(Some(Duration::from_millis(1))).expect("set");
                let _ = other_server.read(&mut buf);
            }
        }
    }
    let begin = Instant::now();
    while !writer.is_finished() {
        assert!(begin.elapsed() < Duration::from_secs(20), "the writer got its pages");
        let _ = other_server.read(&mut [0; 65_536]);
        let _ = hog_server.read(&mut [0; 65_536]);
    }
    writer.join().expect("the writer");
}

#[test]
fn writers_of_one_connection_share_too_few_pages() {
    const EACH: usize = 8 << 20;
    let (session, _fake) = start_sized(Size { active: 4, passive: 4, tx_pages: 3, rx_pages: 64 });
    let (client, mut server) = pair(&session, 80);
    let writers: Vec<_> = (1..=2)
        .map(|letter| {
            let mut client = client.try_clone().expect("cloned");
            thread::spawn(move || client.write_all(&vec![letter; EACH]).expect("written"))
        })
        .collect();
    let (mut counts, mut buf) = ([0; 3], vec![0; 65_536]);
    while counts[1] + counts[2] < 2 * EACH {
        let n = server.read(&mut buf).expect("read");
        buf[..n].iter().for_each(|letter| counts[usize::from(*letter)] += 1);
    }
    assert_eq!(counts, [0, EACH, EACH]);
    writers.into_iter().for_each(|writer| writer.join().expect("a writer"));
}

#[test]
fn pages_acknowledged_under_a_reservation_are_found() {
    let (session, fake) = start_sized(Size { active: 4, passive: 4, tx_pages: 2, rx_pages: 64 });
    let (mut hog, mut hog_server) = pair(&session, 80);
    let (mut other, _other_server) = pair(&session, 81);
    fake.poke(Poke::Hold(true));
    hog.write_all(&pattern(16 << 10)).expect("a page");
    let room = hog.send_reserve(16 << 10).expect("the other page");
    let (done, waits) = std::sync::mpsc::channel();
    let writer = thread::spawn(move || {
        other.write_all(b"late").expect("written");
        done.send(()).expect("awaited");
    });
    fake.poke(Poke::Hold(false));
    // A read that waits in vain takes the events up.
    hog_server.read_exact(&mut vec![0; 16 << 10]).expect("read");
    hog_server.set_read_timeout(Some(Duration::from_millis(50))).expect("set");
    assert_eq!(hog_server.read(&mut [0; 1]).expect_err("nothing").kind(), ErrorKind::WouldBlock);
    assert!(waits.try_recv().is_err(), "both pages are taken");
    drop(room);
    waits.recv_timeout(Duration::from_secs(10)).expect("the writer got a page");
    writer.join().expect("the writer");
}

#[test]
fn a_stack_that_lies_makes_errors_not_panics() {
    let (session, fake) = start();
    let (client, _server) = pair(&session, 80);
    fake.poke(Poke::Lie);
    let begin = Instant::now();
    let error = loop {
        match (&client).write(b"x") {
            Ok(n) => assert!(n == 1 && begin.elapsed() < Duration::from_secs(10), "the lie is seen"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::ConnectionAborted), "{error}");
    let next = (&client).read(&mut [0; 1]).expect_err("the session is over");
    assert_eq!(next.kind(), ErrorKind::ConnectionAborted);
}

#[test]
fn the_end_of_the_session_wakes_everybody() {
    let (session, fake) = start();
    let (client, server) = pair(&session, 80);
    // Kept open: a socket that is closed ends the other one before the session does.
    let _open = (client.try_clone().expect("cloned"), server.try_clone().expect("cloned"));
    let readers: Vec<_> = [client, server]
        .into_iter()
        .map(|mut stream| thread::spawn(move || stream.read(&mut [0; 1]).expect_err("over").kind()))
        .collect();
    thread::sleep(Duration::from_millis(20));
    fake.end_session();
    for reader in readers {
        assert_eq!(reader.join().expect("the reader"), ErrorKind::ConnectionAborted);
    }
    let refused = TcpStream::connect_in(&session, at(80)).expect_err("over");
    assert_eq!(refused.kind(), ErrorKind::ConnectionAborted);
}

#[test]
fn a_stack_that_stands_still_is_waited_for() {
    let (session, fake) = start();
    let (mut client, mut server) = pair(&session, 80);
    fake.poke(Poke::Hold(true));
    client.write_all(b"patience").expect("written into the arena");
    let reader = thread::spawn(move || {
        let mut buf = [0; 8];
        server.read_exact(&mut buf).expect("read");
        buf
    });
    thread::sleep(Duration::from_millis(50));
    assert!(!reader.is_finished());
    fake.poke(Poke::Hold(false));
    assert_eq!(&reader.join().expect("the reader"), b"patience");
}

#[test]
fn options_are_levels_in_the_line() {
    let (session, _fake) = start();
    let (client, _server) = pair(&session, 80);
    assert!(!client.nodelay().expect("got"));
    client.set_nodelay(true).expect("set");
    assert!(client.nodelay().expect("got"));
    client.set_keepalive(Some(Duration::from_secs(60))).expect("set");
    client.set_nodelay(false).expect("set");
    assert!(!client.nodelay().expect("got"));
    assert!(client.set_ttl(3).is_err());
}
