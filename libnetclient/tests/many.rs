//! Many sockets with few descriptors: `Poll` and `Select`, over a fake stack.

mod fake;

use fake::{Poke, at, pair, start, start_sized};
use libnetclient::poll::{Event, Poll, Trigger};
use libnetclient::select::Select;
use libnetclient::{Ready, Size, TcpListener, TcpStream, UdpSocket};
use rustix::event::PollFlags;
use rustix::fd::AsFd;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(10);
const NOW: Duration = Duration::from_millis(30);

fn wait(poll: &Poll, timeout: Duration) -> Vec<Event> {
    let mut events = [Event::default(); 16];
    let found = poll.wait(&mut events, Some(timeout)).expect("waited");
    events[..found].to_vec()
}

#[test]
fn level_says_it_again_until_it_is_read() {
    let (session, _fake) = start();
    let listener = TcpListener::bind_in(&session, at(80)).expect("bound");
    let (mut client, mut server) = pair(&session, &listener);
    let poll = Poll::new().expect("a poll");
    poll.register(&server, 7, Ready::READ, Trigger::Level).expect("registered");
    assert_eq!(wait(&poll, NOW), [], "nothing to read");
    client.write_all(b"abc").expect("written");
    let expected = [Event { token: 7, ready: Ready::READ }];
    assert_eq!(wait(&poll, LONG), expected);
    assert_eq!(wait(&poll, LONG), expected, "still there");
    let mut buf = [0; 8];
    assert_eq!(server.read(&mut buf).expect("read"), 3);
    assert_eq!(wait(&poll, NOW), [], "taken");
    client.shutdown(Shutdown::Write).expect("shut");
    assert_eq!(wait(&poll, LONG), expected, "the end can be read");
    poll.reregister(&server, 8, Ready::READ | Ready::WRITE | Ready::READ_CLOSED, Trigger::Level)
        .expect("changed");
    let all = Ready::READ | Ready::WRITE | Ready::READ_CLOSED;
    assert_eq!(wait(&poll, LONG), [Event { token: 8, ready: all }]);
    server.shutdown(Shutdown::Write).expect("shut");
    assert_eq!(wait(&poll, LONG), [Event { token: 8, ready: all | Ready::HANG_UP }]);
    poll.deregister(&server).expect("taken off");
    assert_eq!(poll.deregister(&server).expect_err("twice").kind(), ErrorKind::NotFound);
    assert_eq!(wait(&poll, NOW), []);
}

#[test]
fn edges_come_with_changes_and_once_comes_once() {
    let (session, fake) = start();
    let listener = TcpListener::bind_in(&session, at(80)).expect("bound");
    let ((mut a, edge), (mut b, once)) = (pair(&session, &listener), pair(&session, &listener));
    let poll = Poll::new().expect("a poll");
    poll.register(&edge, 1, Ready::READ, Trigger::Edge).expect("registered");
    poll.register(&once, 2, Ready::READ, Trigger::Once).expect("registered");
    let twice = poll.register(&once, 2, Ready::READ, Trigger::Once);
    assert_eq!(twice.expect_err("twice").kind(), ErrorKind::AlreadyExists);
    for _ in 0..2 {
        a.write_all(b"x").expect("written");
        assert_eq!(wait(&poll, LONG), [Event { token: 1, ready: Ready::READ }]);
        assert_eq!(wait(&poll, NOW), [], "one edge");
    }
    b.write_all(b"x").expect("written");
    assert_eq!(wait(&poll, LONG), [Event { token: 2, ready: Ready::READ }]);
    b.write_all(b"y").expect("written");
    assert_eq!(wait(&poll, NOW), [], "once");
    poll.reregister(&once, 3, Ready::READ, Trigger::Once).expect("again");
    assert_eq!(wait(&poll, LONG), [Event { token: 3, ready: Ready::READ }]);
    // A reset is heard of by who wants to hear of nothing.
    poll.reregister(&once, 4, Ready::NONE, Trigger::Level).expect("again");
    fake.poke(Poke::Reset);
    let begun = Instant::now();
    let found = loop {
        assert!(begun.elapsed() < LONG, "the reset is an event");
        if let Some(event) = wait(&poll, LONG).into_iter().find(|event| event.token == 4) {
            break event.ready;
        }
    };
    assert!(found.contains(Ready::ERROR | Ready::HANG_UP), "{found:?}");
    assert_eq!(once.take_error().expect("asked").map(|e| e.kind()), Some(ErrorKind::ConnectionReset));
    assert!(!once.ready().contains(Ready::ERROR), "told once");
}

#[test]
fn a_listener_a_datagram_and_a_full_window() {
    let (session, _fake) = start();
    let listener = TcpListener::bind_in(&session, at(80)).expect("bound");
    listener.set_nonblocking(true).expect("set");
    let udp = UdpSocket::bind_in(&session, at(53)).expect("bound");
    let poll = Poll::new().expect("a poll");
    poll.register(&listener, 1, Ready::READ, Trigger::Level).expect("registered");
    poll.register(&udp, 2, Ready::READ | Ready::WRITE, Trigger::Edge).expect("registered");
    assert_eq!(wait(&poll, LONG), [Event { token: 2, ready: Ready::WRITE }]);
    let client = TcpStream::connect_in(&session, at(80)).expect("connected");
    assert!(wait(&poll, LONG).contains(&Event { token: 1, ready: Ready::READ }));
    let (server, _) = listener.accept().expect("accepted");
    udp.send_to(b"to myself", at(53)).expect("sent");
    let begun = Instant::now();
    while !wait(&poll, LONG).iter().any(|event| event.token == 2 && event.ready.contains(Ready::READ)) {
        assert!(begun.elapsed() < LONG, "the datagram is an event");
    }
    client.set_nonblocking(true).expect("set");
    poll.register(&client, 3, Ready::WRITE, Trigger::Level).expect("registered");
    let chunk = vec![1; 64 * 1024];
    let begun = Instant::now();
    // Until the stack takes no more: both windows are full.
    loop {
        assert!(begun.elapsed() < LONG, "the window gets full");
        match (&client).write(&chunk) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        if !client.ready().contains(Ready::WRITE) && wait(&poll, NOW).iter().all(|event| event.token != 3) {
            break;
        }
    }
    let mut buf = vec![0; 100_000];
    (&server).read_exact(&mut buf).expect("read");
    let begun = Instant::now();
    while !wait(&poll, LONG).iter().any(|event| event.token == 3) {
        assert!(begun.elapsed() < LONG, "room is an event");
    }
}

#[test]
fn who_lacks_a_page_hears_of_one() {
    let (session, _fake) = start_sized(Size { active: 8, passive: 8, tx_pages: 2, rx_pages: 256 });
    let listener = TcpListener::bind_in(&session, at(80)).expect("bound");
    let ((a, a_end), (b, _b_end)) = (pair(&session, &listener), pair(&session, &listener));
    a.set_nonblocking(true).expect("set");
    let poll = Poll::new().expect("a poll");
    poll.register(&b, 1, Ready::WRITE, Trigger::Level).expect("registered");
    // Fills the remote's window of 256 KiB and then both pages of the session.
    let chunk = vec![1; 16 * 1024];
    let begun = Instant::now();
    while b.ready().contains(Ready::WRITE) || !wait(&poll, NOW).is_empty() {
        assert!(begun.elapsed() < LONG, "pages run out");
        let _ = (&a).write(&chunk);
    }
    (&a_end).read_exact(&mut vec![0; 200_000]).expect("read");
    assert_eq!(wait(&poll, LONG), [Event { token: 1, ready: Ready::WRITE }]);
}

#[test]
fn a_wait_beside_a_descriptor_of_the_kernel() {
    let (session, _fake) = start();
    let listener = TcpListener::bind_in(&session, at(80)).expect("bound");
    let poll = Poll::new().expect("a poll");
    poll.register(&listener, 1, Ready::READ, Trigger::Level).expect("registered");
    let (reader, writer) = rustix::pipe::pipe().expect("a pipe");
    let mut events = [Event::default(); 4];
    let writing = std::thread::spawn(move || {
        std::thread::sleep(NOW);
        rustix::io::write(&writer, b"x").expect("written");
        writer
    });
    let begun = Instant::now();
    while rustix::io::ioctl_fionread(&reader).expect("asked") == 0 {
        assert!(begun.elapsed() < LONG, "the pipe ends the wait");
        assert_eq!(poll.wait_beside(reader.as_fd(), &mut events, None).expect("waited"), 0);
    }
    let _writer = writing.join().expect("written");

    let mut select = Select::new().expect("a select");
    let end = Instant::now() + LONG;
    for beside in [&[(reader.as_fd(), PollFlags::IN)][..], &[]] {
        let client = TcpStream::connect_nonblocking_in(&session, at(0), at(80)).expect("begun");
        while beside.is_empty() && !listener.ready().contains(Ready::READ) {
            select.add(&listener).expect("added");
            select.wait(beside, Some(end), || listener.ready().contains(Ready::READ)).expect("waited");
        }
        select.add(&listener).expect("added");
        select.wait(beside, Some(end), || false).expect("ended by the pipe, or as the deadline was hit");
        if beside.is_empty() {
            assert!(Instant::now() >= end, "nothing else ends it");
        }
        drop(client);
    }
}

#[test]
fn pollers_hand_the_rings_on() {
    let (session, _fake) = start();
    let listener = TcpListener::bind_in(&session, at(80)).expect("bound");
    let (client, server) = pair(&session, &listener);
    let (other, mut blocking) = pair(&session, &listener);
    let poll = Poll::new().expect("a poll");
    poll.register(&server, 1, Ready::READ, Trigger::Level).expect("registered");
    // One thread in a blocking read, one in a poll: whoever sleeps at the rings wakes the other.
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| {
            for _ in 0..50 {
                blocking.read_exact(&mut [0; 1]).expect("read");
                (&blocking).write_all(b"y").expect("written");
            }
        });
        let polling = scope.spawn(|| {
            for _ in 0..50 {
                assert_eq!(wait(&poll, LONG), [Event { token: 1, ready: Ready::READ }]);
                (&server).read_exact(&mut [0; 1]).expect("read");
                (&server).write_all(b"y").expect("written");
            }
        });
        for _ in 0..50 {
            for mut stream in [&other, &client] {
                stream.write_all(b"x").expect("written");
                stream.read_exact(&mut [0; 1]).expect("answered");
            }
        }
        reading.join().expect("reads");
        polling.join().expect("polls");
    });
}
