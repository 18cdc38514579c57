//! The sockets of tokio's kind, over a fake stack.

#![cfg(feature = "tokio")]

mod fake;

use fake::{at, start, start_sized};
use libnetclient::Size;
use libnetclient::tokio::{TcpListener, TcpStream, UdpSocket};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Runs a test's tasks, at most for ten seconds.
fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let outcome = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(10), test).await });
    outcome.expect("every task is woken");
}

#[test]
fn a_hundred_tasks_echo() {
    let (session, _fake) = start_sized(Size { active: 256, passive: 256, tx_pages: 512, rx_pages: 512 });
    run(async {
        let listener = TcpListener::bind_in(&session, at(80)).expect("bound");
        let server = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("accepted");
                tokio::spawn(async move {
                    let (mut reader, mut writer) = stream.into_split();
                    tokio::io::copy(&mut reader, &mut writer).await.expect("copied");
                });
            }
        });
        let clients: Vec<_> = (0..100u8)
            .map(|id| {
                let session = session.clone();
                tokio::spawn(async move {
                    let mut stream = TcpStream::connect_in(&session, at(80)).await.expect("connected");
                    assert_eq!(stream.peer_addr().expect("connected"), at(80));
                    let (message, mut back) = (vec![id; 20_000], vec![0; 20_000]);
                    for _ in 0..5 {
                        stream.write_all(&message).await.expect("written");
                        stream.read_exact(&mut back).await.expect("read");
                        assert!(back == message);
                    }
                    stream.shutdown().await.expect("shut");
                    assert_eq!(stream.read(&mut back).await.expect("the end"), 0);
                })
            })
            .collect();
        for client in clients {
            client.await.expect("a client");
        }
        server.abort();
    });
}

#[test]
fn a_connect_that_fails_and_one_that_is_given_up() {
    let (session, _fake) = start();
    run(async {
        let refused = TcpStream::connect_in(&session, at(81)).await.expect_err("nobody listens");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        let nowhere: SocketAddr = "10.9.9.9:80".parse().expect("an address");
        let silent = TcpStream::connect_in(&session, nowhere);
        assert!(tokio::time::timeout(Duration::from_millis(30), silent).await.is_err(), "given up");
    });
}

#[test]
fn datagrams_wake_a_task() {
    let (session, _fake) = start();
    run(async {
        let a = UdpSocket::bind_in(&session, at(53)).expect("bound");
        let b = UdpSocket::bind_in(&session, at(54)).expect("bound");
        b.connect(at(53)).await.expect("connected");
        let waiting = tokio::spawn(async move {
            let mut buf = [0; 16];
            let (len, from) = a.recv_from(&mut buf).await.expect("received");
            a.send_to(&buf[..len], from).await.expect("sent");
        });
        tokio::task::yield_now().await;
        assert_eq!(b.send(b"around").await.expect("sent"), 6);
        let mut buf = [0; 16];
        assert_eq!(b.recv(&mut buf).await.expect("received"), 6);
        waiting.await.expect("answered");
    });
}

#[test]
fn a_writer_without_pages_is_woken_when_they_come_back() {
    let (session, _fake) = start_sized(Size { active: 8, passive: 8, tx_pages: 2, rx_pages: 256 });
    run(async {
        let listener = TcpListener::bind_in(&session, at(80)).expect("bound");
        let mut streams = Vec::new();
        for _ in 0..3 {
            let client = TcpStream::connect_in(&session, at(80)).await.expect("connected");
            let (server, _) = listener.accept().await.expect("accepted");
            streams.push((client, server));
        }
        let tasks: Vec<_> = streams
            .into_iter()
            .map(|(mut client, mut server)| {
                let writing = tokio::spawn(async move {
                    client.write_all(&vec![5; 500_000]).await.expect("written");
                    client
                });
                let reading = tokio::spawn(async move {
                    let mut all = vec![0; 500_000];
                    server.read_exact(&mut all).await.expect("read");
                });
                (writing, reading)
            })
            .collect();
        for (writing, reading) in tasks {
            writing.await.expect("written");
            reading.await.expect("read");
        }
    });
}
