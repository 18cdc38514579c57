//! UDP sockets over a fake stack.

mod fake;

use fake::{Poke, at, start};
use libnetclient::UdpSocket;
use std::io::ErrorKind;
use std::thread;
use std::time::Duration;

#[test]
fn datagrams_keep_their_borders_and_their_sender() {
    let (session, fake) = start();
    let a = UdpSocket::bind_in(&session, at(1000)).expect("bound");
    let b = UdpSocket::bind_in(&session, at(0)).expect("bound");
    let from = b.local_addr().expect("an address");
    assert_ne!(from.port(), 0);
    for len in [0usize, 1, 7, 8, 1400, 20_000, 65_507] {
        assert_eq!(b.send_to(&vec![len as u8; len], at(1000)).expect("sent"), len);
    }
    let mut buf = vec![0; 65_507];
    for len in [0usize, 1, 7, 8, 1400, 20_000, 65_507] {
        assert_eq!(a.recv_from(&mut buf).expect("received"), (len, from));
        assert!(buf[..len].iter().all(|byte| *byte == len as u8));
    }
    assert_eq!(b.send_to(&[0; 65_508], at(1000)).expect_err("too long").raw_os_error(), Some(90));
    a.set_nonblocking(true).expect("set");
    assert_eq!(a.recv_from(&mut buf).expect_err("no more").kind(), ErrorKind::WouldBlock);
    // An idle socket has no pages.
    fake.settles_at(0, 2);
}

#[test]
fn a_short_buffer_loses_the_rest_and_peek_does_not_take() {
    let (session, _fake) = start();
    let a = UdpSocket::bind_in(&session, at(1000)).expect("bound");
    let b = UdpSocket::bind_in(&session, at(1001)).expect("bound");
    b.send_to(b"first", at(1000)).expect("sent");
    b.send_to(b"second", at(1000)).expect("sent");
    let mut buf = [0; 3];
    assert_eq!(a.peek_from(&mut buf).expect("peeked"), (3, at(1001)));
    assert_eq!(a.recv_from(&mut buf).expect("received").0, 3);
    assert_eq!(&buf, b"fir");
    assert_eq!(a.recv(&mut buf).expect("received"), 3);
    assert_eq!(&buf, b"sec");
}

#[test]
fn a_connected_socket_has_one_remote() {
    let (session, _fake) = start();
    let a = UdpSocket::bind_in(&session, at(1000)).expect("bound");
    let b = UdpSocket::bind_in(&session, at(1001)).expect("bound");
    let stranger = UdpSocket::bind_in(&session, at(1002)).expect("bound");
    assert_eq!(a.send(b"x").expect_err("no remote").raw_os_error(), Some(89));
    assert_eq!(a.peer_addr().expect_err("no remote").kind(), ErrorKind::NotConnected);
    a.connect(at(1001)).expect("connected");
    assert_eq!(a.peer_addr().expect("a remote"), at(1001));
    stranger.send_to(b"not for you", at(1000)).expect("sent");
    b.send_to(b"for you", at(1000)).expect("sent");
    let mut buf = [0; 20];
    assert_eq!(a.recv(&mut buf).expect("received"), 7);
    a.send(b"back").expect("sent");
    assert_eq!(b.recv_from(&mut buf).expect("received"), (4, at(1000)));
}

#[test]
fn an_unreachable_port_is_told_once() {
    let (session, fake) = start();
    let a = UdpSocket::bind_in(&session, at(1000)).expect("bound");
    fake.poke(Poke::Unreachable);
    let error = a.recv(&mut [0; 1]).expect_err("told");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    a.set_read_timeout(Some(Duration::from_millis(10))).expect("set");
    assert_eq!(a.recv(&mut [0; 1]).expect_err("nothing").kind(), ErrorKind::WouldBlock);
}

#[test]
fn a_full_socket_makes_the_sender_wait() {
    let (session, _fake) = start();
    let a = UdpSocket::bind_in(&session, at(1000)).expect("bound");
    let b = UdpSocket::bind_in(&session, at(1001)).expect("bound");
    b.set_nonblocking(true).expect("set");
    let mut sent = 0;
    let full = loop {
        match b.send_to(&[7; 10_000], at(1000)) {
            Ok(_) => sent += 1,
            Err(error) => break error,
        }
        assert!(sent < 1000, "it must fill");
    };
    assert_eq!(full.kind(), ErrorKind::WouldBlock);
    b.set_nonblocking(false).expect("set");
    let sender = thread::spawn(move || b.send_to(&[8; 10_000], at(1000)).expect("room comes"));
    let mut buf = [0; 10_000];
    for n in 0..=sent {
        a.recv(&mut buf).expect("received");
        assert_eq!(buf[0], if n < sent { 7 } else { 8 });
    }
    assert_eq!(sender.join().expect("the sender"), 10_000);
}
