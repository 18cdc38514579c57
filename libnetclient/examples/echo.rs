//! An echo server: `echo PORT [ADDRESS]`. One thread, many connections, driven by mio.

use libnetclient::{TcpListener, TcpStream};
use mio::event::Event;
use mio::{Events, Interest, Poll, Registry, Token};
use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};

const LISTENER: Token = Token(0);
/// Bytes held for a client that does not read; then we stop reading from it.
const HELD_MAX: usize = 256 * 1024;

struct Connection {
    stream: TcpStream,
    held: Vec<u8>,
    ended: bool,
}

impl Connection {
    /// Moves bytes through `buf` until neither direction can go on; `false` when the connection is over.
    fn echo(&mut self, buf: &mut [u8]) -> io::Result<bool> {
        loop {
            let mut moved = false;
            if !self.ended && self.held.len() < HELD_MAX {
                match self.stream.read(buf) {
                    Ok(0) => self.ended = true,
                    Ok(n) => {
                        self.held.extend_from_slice(&buf[..n]);
                        moved = true;
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
            if !self.held.is_empty() {
                match self.stream.write(&self.held) {
                    Ok(n) => {
                        self.held.drain(..n);
                        moved = true;
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
            if !moved {
                return Ok(!self.ended || !self.held.is_empty());
            }
        }
    }
}

fn accept_all(
    listener: &TcpListener,
    registry: &Registry,
    connections: &mut HashMap<Token, Connection>,
    next: &mut usize,
) -> io::Result<()> {
    loop {
        let mut stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        *next += 1;
        let token = Token(*next);
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        connections.insert(token, Connection { stream, held: Vec::new(), ended: false });
    }
}

fn serve(
    event: &Event,
    registry: &Registry,
    connections: &mut HashMap<Token, Connection>,
    buf: &mut [u8],
) -> io::Result<()> {
    let Some(connection) = connections.get_mut(&event.token()) else { return Ok(()) };
    let goes_on = connection.echo(buf).unwrap_or_else(|error| {
        eprintln!("echo: {error}");
        false
    });
    if !goes_on && let Some(mut connection) = connections.remove(&event.token()) {
        registry.deregister(&mut connection.stream)?;
    }
    Ok(())
}

fn main() -> io::Result<()> {
    let port = std::env::args().nth(1).and_then(|port| port.parse::<u16>().ok());
    let Some(port) = port else {
        eprintln!("usage: echo PORT [ADDRESS]");
        std::process::exit(2);
    };
    let addr = std::env::args().nth(2).unwrap_or_else(|| "0.0.0.0".to_owned());
    let mut listener = TcpListener::bind((addr.as_str(), port))?;
    listener.set_nonblocking(true)?;
    println!("listening on {}", listener.local_addr()?);
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let (mut connections, mut next) = (HashMap::new(), LISTENER.0);
    let (mut events, mut buf) = (Events::with_capacity(256), vec![0; 64 * 1024]);
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            outcome => outcome?,
        }
        for event in &events {
            match event.token() {
                LISTENER => accept_all(&listener, poll.registry(), &mut connections, &mut next)?,
                _ => serve(event, poll.registry(), &mut connections, &mut buf)?,
            }
        }
    }
}
