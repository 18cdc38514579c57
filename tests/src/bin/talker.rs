//! A native client that talks with another one: both send a counter stream and check the other's.
//!
//! `talker serve ADDR` or `talker call ADDR`: prints `ready` when it listens or is connected, and ends
//! in order when its standard input ends. Exits with a failure when a byte was wrong.

use libnetclient::{TcpListener, TcpStream};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tests::remote::counter;

/// Seeds of what the two send.
const SERVES: u64 = 21;
const CALLS: u64 = 22;
const CHUNK: usize = 64 * 1024;

/// Sends until it is to stop; returns how much.
fn send(mut stream: &TcpStream, seed: u64, stop: &AtomicBool) -> io::Result<u64> {
    let (mut at, mut chunk) = (0, vec![0; CHUNK]);
    while !stop.load(Ordering::Acquire) {
        counter::fill(seed, at, &mut chunk);
        stream.write_all(&chunk)?;
        at += CHUNK as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    Ok(at)
}

/// Reads to the end; returns how much it was, and how much of it was wrong.
fn check(mut stream: &TcpStream, seed: u64) -> io::Result<(u64, u64)> {
    let (mut at, mut wrong, mut chunk) = (0, 0, vec![0; CHUNK]);
    loop {
        match stream.read(&mut chunk)? {
            0 => return Ok((at, wrong)),
            n => {
                wrong += counter::wrong(seed, at, &chunk[..n]);
                at += n as u64;
            }
        }
    }
}

fn run(role: &str, addr: &str) -> io::Result<bool> {
    let (ours, theirs) = if role == "serve" { (SERVES, CALLS) } else { (CALLS, SERVES) };
    let stream = if role == "serve" {
        let listener = TcpListener::bind(addr)?;
        println!("ready");
        listener.accept()?.0
    } else {
        let stream = TcpStream::connect(addr)?;
        println!("ready");
        stream
    };
    let stop = Arc::new(AtomicBool::new(false));
    let told = stop.clone();
    std::thread::spawn(move || {
        // Whatever ends it, it is the end.
        let _ = io::stdin().read_to_end(&mut Vec::new());
        told.store(true, Ordering::Release);
    });
    let (sent, checked) = std::thread::scope(|scope| {
        let sending = scope.spawn(|| send(&stream, ours, &stop));
        let checked = check(&stream, theirs);
        (sending.join().expect("a thread of ours"), checked)
    });
    let (sent, (received, wrong)) = (sent?, checked?);
    println!("sent {sent} received {received} wrong {wrong}");
    Ok(wrong == 0 && received > 0)
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [role, addr] = args.as_slice() else {
        eprintln!("talker serve|call ADDR");
        return ExitCode::from(2);
    };
    match run(role, addr) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("talker {role} {addr}: {error}");
            ExitCode::FAILURE
        }
    }
}
