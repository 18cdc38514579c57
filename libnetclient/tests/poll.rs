//! The sockets as event sources of mio, over a fake stack.

mod fake;

use fake::{Poke, WINDOW, at, start, start_sized};
use libnetclient::{Size, TcpListener, TcpStream, UdpSocket};
use mio::{Events, Interest, Poll, Token};
use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(10);
const NOW: Duration = Duration::from_millis(30);

/// Waits for an event of `token` of which `wanted` holds.
fn wait(poll: &mut Poll, token: Token, wanted: impl Fn(&mio::event::Event) -> bool) -> bool {
    let mut events = Events::with_capacity(16);
    for _ in 0..100 {
        poll.poll(&mut events, Some(LONG)).expect("polled");
        if events.iter().any(|event| event.token() == token && wanted(event)) {
            return true;
        }
        if events.is_empty() {
            return false;
        }
    }
    false
}

#[test]
fn an_echo_server_on_one_thread() {
    let (session, _fake) = start();
    let mut poll = Poll::new().expect("a poll");
    let mut listener = TcpListener::bind_in(&session, at(80)).expect("bound");
    listener.set_nonblocking(true).expect("set");
    poll.registry().register(&mut listener, Token(0), Interest::READABLE).expect("registered");
    let clients: Vec<_> = (0..20u8)
        .map(|id| {
            let session = session.clone();
            std::thread::spawn(move || {
                let mut stream = TcpStream::connect_in(&session, at(80)).expect("connected");
                let (message, mut back) = (vec![id; 10_000], vec![0; 10_000]);
                for _ in 0..20 {
                    stream.write_all(&message).expect("written");
                    stream.read_exact(&mut back).expect("read");
                    assert!(back == message);
                }
            })
        })
        .collect();
    let mut streams: HashMap<Token, (TcpStream, Vec<u8>)> = HashMap::new();
    let (mut next, mut done) = (1, 0);
    let mut events = Events::with_capacity(64);
    while done < 20 {
        poll.poll(&mut events, Some(LONG)).expect("polled");
        assert!(!events.is_empty(), "no event is lost: {done} done");
        for event in &events {
            if event.token() == Token(0) {
                while let Ok((mut stream, _)) = listener.accept() {
                    stream.set_nonblocking(true).expect("set");
                    let both = Interest::READABLE | Interest::WRITABLE;
                    poll.registry().register(&mut stream, Token(next), both).expect("registered");
                    streams.insert(Token(next), (stream, Vec::new()));
                    next += 1;
                }
                continue;
            }
            let Some((stream, held)) = streams.get_mut(&event.token()) else { continue };
            let mut buf = [0; 4096];
            let ended = loop {
                match stream.read(&mut buf) {
                    Ok(0) => break true,
                    Ok(n) => held.extend_from_slice(&buf[..n]),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break false,
                    Err(error) => panic!("{error}"),
                }
            };
            while !held.is_empty() {
                match stream.write(held) {
                    Ok(n) => drop(held.drain(..n)),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => panic!("{error}"),
                }
            }
            if ended {
                let (mut stream, _) = streams.remove(&event.token()).expect("there");
                poll.registry().deregister(&mut stream).expect("deregistered");
                done += 1;
            }
        }
    }
    clients.into_iter().for_each(|client| client.join().expect("a client"));
}

#[test]
fn a_connection_under_way_is_not_writable() {
    let (session, _fake) = start();
    let mut poll = Poll::new().expect("a poll");
    let mut events = Events::with_capacity(16);
    let nowhere: SocketAddr = "10.9.9.9:80".parse().expect("an address");
    let any: SocketAddr = "0.0.0.0:0".parse().expect("an address");
    let mut silent = TcpStream::connect_nonblocking_in(&session, any, nowhere).expect("begun");
    assert_eq!(silent.peer_addr().expect_err("not yet").kind(), ErrorKind::NotConnected);
    poll.registry().register(&mut silent, Token(1), Interest::WRITABLE).expect("registered");
    poll.poll(&mut events, Some(NOW)).expect("polled");
    assert!(!events.iter().any(mio::event::Event::is_writable), "not established");
    poll.registry()
        .reregister(&mut silent, Token(1), Interest::WRITABLE | Interest::READABLE)
        .expect("registered");
    poll.poll(&mut events, Some(NOW)).expect("polled");
    assert!(!events.iter().any(mio::event::Event::is_writable), "still not established");
    assert_eq!((&silent).write(b"x").expect_err("not yet").kind(), ErrorKind::WouldBlock);

    let _listener = TcpListener::bind_in(&session, at(80)).expect("bound");
    let mut good = TcpStream::connect_nonblocking_in(&session, any, at(80)).expect("begun");
    poll.registry().register(&mut good, Token(2), Interest::WRITABLE).expect("registered");
    assert!(wait(&mut poll, Token(2), mio::event::Event::is_writable));
    assert!(good.take_error().expect("asked").is_none());
    assert_eq!(good.peer_addr().expect("connected"), at(80));

    let mut refused = TcpStream::connect_nonblocking_in(&session, any, at(81)).expect("begun");
    poll.registry().register(&mut refused, Token(3), Interest::WRITABLE).expect("registered");
    assert!(wait(&mut poll, Token(3), mio::event::Event::is_writable));
    let error = refused.take_error().expect("asked").expect("an error");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn room_to_write_is_an_edge_for_a_writer() {
    let (session, _fake) = start();
    let mut poll = Poll::new().expect("a poll");
    let listener = TcpListener::bind_in(&session, at(80)).expect("bound");
    let mut client = TcpStream::connect_in(&session, at(80)).expect("connected");
    let (mut server, _) = listener.accept().expect("accepted");
    client.set_nonblocking(true).expect("set");
    poll.registry().register(&mut client, Token(1), Interest::WRITABLE).expect("registered");
    assert!(wait(&mut poll, Token(1), mio::event::Event::is_writable), "there is room at first");
    let mut written = 0;
    while written < 2 * WINDOW as usize {
        match client.write(&[1; 65_536]) {
            Ok(n) => written += n,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                assert!(wait(&mut poll, Token(1), mio::event::Event::is_writable), "the stack takes more");
            }
        }
    }
    let mut events = Events::with_capacity(16);
    while poll.poll(&mut events, Some(NOW)).is_ok() && !events.is_empty() {}
    assert_eq!(client.write(&[1]).expect_err("full").kind(), ErrorKind::WouldBlock);
    let mut buf = vec![0; 100_000];
    server.read_exact(&mut buf).expect("read");
    assert!(wait(&mut poll, Token(1), mio::event::Event::is_writable), "room again");
    assert!(client.write(&[1]).is_ok());
}

#[test]
fn what_is_there_at_registration_is_an_event() {
    let (session, fake) = start();
    let mut poll = Poll::new().expect("a poll");
    let mut a = UdpSocket::bind_in(&session, at(1000)).expect("bound");
    let b = UdpSocket::bind_in(&session, at(1001)).expect("bound");
    b.send_to(b"early", at(1000)).expect("sent");
    while a.peek(&mut [0; 8]).is_err() {}
    poll.registry().register(&mut a, Token(1), Interest::READABLE).expect("registered");
    assert!(wait(&mut poll, Token(1), mio::event::Event::is_readable));
    a.set_nonblocking(true).expect("set");
    assert_eq!(a.recv(&mut [0; 8]).expect("received"), 5);
    assert_eq!(a.recv(&mut [0; 8]).expect_err("no more").kind(), ErrorKind::WouldBlock);
    b.send_to(b"late", at(1000)).expect("sent");
    assert!(wait(&mut poll, Token(1), mio::event::Event::is_readable));
    fake.poke(Poke::Hold(false));
    poll.registry().deregister(&mut a).expect("deregistered");
    assert!(poll.registry().deregister(&mut a).is_err());
}

#[test]
fn who_lacks_a_page_hears_of_one() {
    let (session, _fake) = start_sized(Size { active: 8, passive: 8, tx_pages: 2, rx_pages: 256 });
    let listener = TcpListener::bind_in(&session, at(80)).expect("bound");
    let pair = || {
        let client = TcpStream::connect_in(&session, at(80)).expect("connected");
        client.set_nonblocking(true).expect("set");
        (client, listener.accept().expect("accepted").0)
    };
    let ((mut a, mut a_end), (mut b, _b_end)) = (pair(), pair());
    let mut poll = Poll::new().expect("a poll");
    poll.registry().register(&mut b, Token(1), Interest::WRITABLE).expect("registered");
    // Fills the remote's window and then both pages of the session.
    let chunk = vec![1; 16 * 1024];
    let begun = Instant::now();
    let mut events = Events::with_capacity(16);
    loop {
        assert!(begun.elapsed() < LONG, "pages run out");
        while a.write(&chunk).is_ok() {}
        // What is acknowledged meanwhile gives pages back.
        poll.poll(&mut events, Some(NOW)).expect("polled");
        if events.is_empty() && b.write(&[7]).is_err() {
            break;
        }
    }
    a_end.read_exact(&mut vec![0; 200_000]).expect("read");
    assert!(wait(&mut poll, Token(1), mio::event::Event::is_writable), "a page is an event");
    assert!(b.write(&[7]).is_ok());
}
