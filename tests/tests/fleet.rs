//! The harness itself, over loopback: a fleet verifies an honest echo server and sees through a
//! dishonest one. What finds no fault in anything proves nothing.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;
use tests::process::group::kernel_sockets;
use tests::remote::fleet::{Fleet, Load, Report};

/// What the server does to the bytes of each connection.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    Honest,
    /// Leaves out byte 100,000.
    Loses,
    /// Says byte 100,000 twice.
    Doubles,
    /// Closes after 100,000 bytes.
    Closes,
    /// Says nothing for 300 ms after 100,000 bytes.
    Pauses,
}

fn echo(mut stream: TcpStream, manner: Manner) -> std::io::Result<()> {
    const AT: usize = 100_000;
    let (mut chunk, mut done) = (vec![0; 4096], 0);
    loop {
        let n = stream.read(&mut chunk)?;
        if n == 0 {
            return stream.shutdown(Shutdown::Write);
        }
        let here = (done..done + n).contains(&AT).then(|| AT - done);
        match (here, manner) {
            (Some(at), Manner::Loses) => {
                stream.write_all(&chunk[..at])?;
                stream.write_all(&chunk[at + 1..n])?;
            }
            (Some(at), Manner::Doubles) => {
                stream.write_all(&chunk[..=at])?;
                stream.write_all(&chunk[at..n])?;
            }
            (Some(_), Manner::Closes) => return Ok(()),
            (Some(_), Manner::Pauses) => {
                std::thread::sleep(Duration::from_millis(300));
                stream.write_all(&chunk[..n])?;
            }
            _ => stream.write_all(&chunk[..n])?,
        }
        done += n;
    }
}

fn server(manner: Manner) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A connection that breaks is what some of the tests are about.
            std::thread::spawn(move || echo(stream, manner).ok());
        }
    });
    addr
}

fn run(manner: Manner) -> (Report, u64) {
    let streams = kernel_sockets(10, server(manner)).expect("loopback");
    let load =
        Load { loaded: 4, ahead: 64 * 1024, rate: 4 << 20, murmur_every: Duration::from_millis(5), seed: 5 };
    let fleet = Fleet::launch(streams, load).expect("a fleet");
    fleet.watch(Some("all of it"));
    std::thread::sleep(Duration::from_millis(700));
    let report = fleet.finish(Duration::from_secs(5)).expect("a report");
    let longest = report.silences.get("all of it").map_or(0, |silence| silence.all().max());
    (report, longest)
}

#[test]
fn an_honest_echo_is_clean() {
    let (report, longest) = run(Manner::Honest);
    assert_eq!(report.lost, Vec::<String>::new());
    assert_eq!((report.clean, report.bytes_wrong), (10, 0));
    assert!(report.bytes > 4 * 100_000, "{}", report.bytes);
    assert!(longest < 200_000, "{longest} µs of silence");
}

#[test]
fn a_lost_or_doubled_byte_is_seen() {
    for manner in [Manner::Loses, Manner::Doubles] {
        let (report, _) = run(manner);
        assert!(report.bytes_wrong > 0);
        assert_eq!(report.clean, 6, "only the idle ones");
    }
}

#[test]
fn an_early_end_is_a_lost_connection() {
    let (report, _) = run(Manner::Closes);
    assert_eq!((report.clean, report.lost.len()), (6, 4));
}

#[test]
fn a_pause_is_measured() {
    let (report, longest) = run(Manner::Pauses);
    assert_eq!((report.clean, report.bytes_wrong), (10, 0));
    assert!((250_000..600_000).contains(&longest), "{longest} µs of silence");
}
