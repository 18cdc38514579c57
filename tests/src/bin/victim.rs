//! A native client that brings one connection into a given state and then waits to be killed.
//!
//! `victim STATE LOCAL REMOTE`: STATE is one of those in `main`; prints `ready` when it is there.

use libnetclient::{TcpListener, TcpStream};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::process::ExitCode;
use std::time::Duration;
use tests::remote::counter;

/// Seed of what it sends.
const SEED: u64 = 11;

fn accepted(local: &str) -> io::Result<TcpStream> {
    Ok(TcpListener::bind(local)?.accept()?.0)
}

/// Writes until nothing fits any more; says how much it was.
fn fill(stream: &mut TcpStream) -> io::Result<u64> {
    let mut sent = 0;
    stream.set_write_timeout(Some(Duration::from_millis(300)))?;
    let mut chunk = vec![0; 64 * 1024];
    loop {
        counter::fill(SEED, sent, &mut chunk);
        match stream.write(&chunk) {
            Ok(n) => sent += n as u64,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                return Ok(sent);
            }
            Err(error) => return Err(error),
        }
    }
}

fn run(state: &str, local: &str, remote: &str) -> io::Result<()> {
    let wait = |said: &str| -> io::Result<()> {
        println!("ready {said}");
        io::stdout().flush()?;
        loop {
            std::thread::park();
        }
    };
    match state {
        "syn-sent" => {
            let addr = remote.parse().map_err(io::Error::other)?;
            let _stream = TcpStream::connect_nonblocking(addr)?;
            wait("")
        }
        // Also SYN-RECEIVED and connections that wait for accept: the remote brings them about.
        "listen" => {
            let _listener = TcpListener::bind(local)?;
            wait("")
        }
        "established" => {
            let _stream = TcpStream::connect(remote)?;
            wait("")
        }
        "unsent" => {
            let mut stream = TcpStream::connect(remote)?;
            let sent = fill(&mut stream)?;
            wait(&sent.to_string())
        }
        "unread" => {
            let stream = TcpStream::connect(remote)?;
            let mut byte = [0];
            while stream.peek(&mut byte)? == 0 {}
            wait("")
        }
        // The remote acknowledges our end and does not close.
        "fin-wait" => {
            let stream = TcpStream::connect(remote)?;
            stream.shutdown(Shutdown::Write)?;
            wait("")
        }
        // Our end stands behind bytes for which the remote has no room.
        "fin-behind-data" => {
            let mut stream = TcpStream::connect(remote)?;
            let sent = fill(&mut stream)?;
            stream.shutdown(Shutdown::Write)?;
            wait(&sent.to_string())
        }
        // Says that it is connected, and ends its direction when it is told to.
        "fin-on-demand" => {
            let stream = TcpStream::connect(remote)?;
            println!("ready");
            io::stdout().flush()?;
            io::stdin().read_exact(&mut [0])?;
            stream.shutdown(Shutdown::Write)?;
            wait("")
        }
        "close-wait" => {
            let mut stream = TcpStream::connect(remote)?;
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest)?;
            wait("")
        }
        // The remote has closed and does not acknowledge our end.
        "last-ack" => {
            let mut stream = TcpStream::connect(remote)?;
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest)?;
            fill(&mut stream)?;
            stream.shutdown(Shutdown::Write)?;
            wait("")
        }
        "accepted" => {
            let _stream = accepted(local)?;
            wait("")
        }
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "no such state")),
    }
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [state, local, remote] = words.as_slice() else {
        eprintln!("usage: victim STATE LOCAL REMOTE");
        return ExitCode::from(2);
    };
    match run(state, local, remote) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("victim: {state}: {error}");
            ExitCode::FAILURE
        }
    }
}
