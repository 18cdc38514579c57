//! The load programs: a server of one kind of service in a process of its own, and the client that
//! measures it. Both are written once, over [`Sockets`].

use super::memory::HOLD_PORTS;
use super::sockets::{Datagrams, Kernel, Sockets, Stack, Stream};
use hdrhistogram::Histogram;
use libnetclient::Size;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Bytes of one read or write of the bulk programs.
const CHUNK: usize = 128 * 1024;
/// Bytes of a request, of a response and of a datagram.
pub const SMALL: usize = 64;
/// Datagrams under way at a time.
const UNDER_WAY: u64 = 128;
/// After so long without an echo, what was under way is counted as lost.
const LOST_AFTER: Duration = Duration::from_millis(20);

/// The longest round trip that is told from a longer one: ten seconds.
const TRIP_MAX_NS: u64 = 10_000_000_000;

/// What a server does with its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// Reads to the end, then says how many bytes there were.
    Sink,
    /// Writes for as many milliseconds as it is told.
    Source,
    /// Answers every 64 bytes with them.
    Echo,
    /// Reads to the end and closes.
    Close,
    /// Sends every datagram back.
    Datagrams,
    /// Accepts on several ports and keeps every connection.
    Hold,
    /// Works a while for every datagram, and says now and then for how many it has.
    Work,
}

impl Service {
    /// Every service.
    pub const ALL: [Service; 7] = [
        Service::Sink,
        Service::Source,
        Service::Echo,
        Service::Close,
        Service::Datagrams,
        Service::Hold,
        Service::Work,
    ];

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Service::Sink => "sink",
            Service::Source => "source",
            Service::Echo => "echo",
            Service::Close => "close",
            Service::Datagrams => "datagrams",
            Service::Hold => "hold",
            Service::Work => "work",
        }
    }

    /// Its port.
    pub const fn port(self) -> u16 {
        7100 + self as u16
    }
}

/// The body of a server's process: `serve SERVICE kernel|stack`. It runs until it is killed.
///
/// # Errors
/// When it can't listen.
pub fn serve(service: &str, side: &str) -> io::Result<()> {
    let service = Service::ALL.into_iter().find(|known| known.name() == service);
    let service = service.ok_or(io::ErrorKind::InvalidInput)?;
    match side {
        "kernel" => answer(&Kernel, service),
        "stack" if service == Service::Hold => answer(&Stack::open(holding())?, service),
        "stack" => answer(&Stack::open(Size::default())?, service),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

/// A session that has room for every connection of a group.
fn holding() -> Size {
    Size { active: 64, passive: 1 << 17, tx_pages: 64, rx_pages: 1024 }
}

fn answer<S: Sockets + Sync>(sockets: &S, service: Service) -> io::Result<()> {
    if service == Service::Hold {
        return hold(sockets, service.port());
    }
    if matches!(service, Service::Datagrams | Service::Work) {
        let socket = sockets.datagrams(service.port())?;
        println!("ready");
        return if service == Service::Work { work(&socket) } else { send_back(&socket) };
    }
    let listener = sockets.listen(service.port())?;
    println!("ready");
    // As many at a time as measurements let flow at once.
    let at_once = if service == Service::Source { 2 } else { 1 };
    std::thread::scope(|scope| {
        let servers: Vec<_> =
            (0..at_once).map(|_| scope.spawn(|| answer_each(sockets, &listener, service))).collect();
        servers.into_iter().try_for_each(|server| match server.join() {
            Ok(outcome) => outcome,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })
}

fn answer_each<S: Sockets + Sync>(sockets: &S, listener: &S::Listener, service: Service) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let stream = sockets.accept(listener)?;
        let outcome = match service {
            Service::Sink => sink(stream, &mut chunk),
            Service::Source => source(stream, &chunk),
            Service::Echo => echo(stream),
            Service::Close | Service::Datagrams | Service::Hold | Service::Work => close(stream),
        };
        if let Err(error) = outcome {
            eprintln!("{}: {error}", service.name());
        }
    }
}

fn hold<S: Sockets + Sync>(sockets: &S, port: u16) -> io::Result<()> {
    let ports = port..port + HOLD_PORTS as u16;
    let listeners: Vec<S::Listener> = ports.map(|port| sockets.listen(port)).collect::<io::Result<_>>()?;
    println!("ready");
    let keep = |listener: &S::Listener| -> io::Result<()> {
        let mut held = Vec::new();
        loop {
            held.push(sockets.accept(listener)?);
        }
    };
    std::thread::scope(|scope| {
        let keepers: Vec<_> = listeners.iter().map(|listener| scope.spawn(move || keep(listener))).collect();
        keepers.into_iter().try_for_each(|keeper| match keeper.join() {
            Ok(outcome) => outcome,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })
}

fn sink(mut stream: impl Stream, chunk: &mut [u8]) -> io::Result<()> {
    let mut total = 0u64;
    loop {
        match stream.read(chunk)? {
            0 => return stream.write_all(&total.to_be_bytes()),
            n => total += n as u64,
        }
    }
}

fn source(mut stream: impl Stream, chunk: &[u8]) -> io::Result<()> {
    let mut wish = [0; 8];
    stream.read_exact(&mut wish)?;
    let until = Instant::now() + Duration::from_millis(u64::from_be_bytes(wish));
    while Instant::now() < until {
        stream.write_all(chunk)?;
    }
    stream.finish_writing()?;
    stream.read(&mut wish).map(drop)
}

fn echo(mut stream: impl Stream) -> io::Result<()> {
    let mut bytes = [0; SMALL];
    while stream.read_exact(&mut bytes).is_ok() {
        stream.write_all(&bytes)?;
    }
    Ok(())
}

fn close(mut stream: impl Stream) -> io::Result<()> {
    stream.read(&mut [0]).map(drop)
}

fn send_back(socket: &impl Datagrams) -> io::Result<()> {
    let mut bytes = [0; 2048];
    loop {
        let (len, from) = socket.recv_from(&mut bytes)?;
        match socket.send_to(&bytes[..len], from) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            outcome => drop(outcome?),
        }
    }
}

/// A report for so many datagrams.
pub const REPORT_EVERY: u64 = 16;
/// Steps of the work for one datagram: some 20 µs.
const WORK_STEPS: u64 = 20_000;

fn work(socket: &impl Datagrams) -> io::Result<()> {
    let (mut bytes, mut done, mut value) = ([0; 2048], 0u64, 1u64);
    loop {
        let (_, from) = socket.recv_from(&mut bytes)?;
        for step in 0..WORK_STEPS {
            value = std::hint::black_box(value.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(step));
        }
        done += 1;
        if done.is_multiple_of(REPORT_EVERY) {
            // One that is lost is made up for by the next.
            let _ = socket.send_to(&done.to_be_bytes(), from);
        }
    }
}

/// One stream to the server for about `time`; Gbit/s of payload that it has read.
///
/// # Errors
/// Those of the sockets; `InvalidData` when not every byte came.
pub fn send(to: SocketAddr, time: Duration) -> io::Result<f64> {
    let mut stream = Kernel.connect(to)?;
    let (chunk, begun, mut sent) = (vec![0; CHUNK], Instant::now(), 0u64);
    while begun.elapsed() < time {
        stream.write_all(&chunk)?;
        sent += chunk.len() as u64;
    }
    stream.finish_writing()?;
    let mut total = [0; 8];
    stream.read_exact(&mut total)?;
    if u64::from_be_bytes(total) != sent {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "bytes are missing"));
    }
    Ok(gbits(sent, begun.elapsed()))
}

/// One stream from the server for about `time`; Gbit/s of payload read.
///
/// # Errors
/// Those of the sockets.
pub fn receive(from: SocketAddr, time: Duration) -> io::Result<f64> {
    let mut stream = Kernel.connect(from)?;
    stream.write_all(&(time.as_millis() as u64).to_be_bytes())?;
    let (mut chunk, begun, mut got) = (vec![0; CHUNK], Instant::now(), 0u64);
    loop {
        match stream.read(&mut chunk)? {
            0 => return Ok(gbits(got, begun.elapsed())),
            n => got += n as u64,
        }
    }
}

fn gbits(bytes: u64, time: Duration) -> f64 {
    bytes as f64 * 8.0 / time.as_secs_f64() / 1e9
}

/// `count` requests and responses on one connection, one at a time; the median and the 99th
/// percentile of a round trip in microseconds.
///
/// # Errors
/// Those of the sockets.
pub fn round_trips(to: SocketAddr, count: u32) -> io::Result<(f64, f64)> {
    let mut stream = Kernel.connect(to)?;
    let mut times = Histogram::<u64>::new_with_max(TRIP_MAX_NS, 3).expect("bounds that make sense");
    let mut bytes = [7; SMALL];
    // The first ones warm caches and the congestion window up.
    let warm = count / 10;
    for n in 0..count + warm {
        let begun = Instant::now();
        stream.write_all(&bytes)?;
        stream.read_exact(&mut bytes)?;
        if n >= warm {
            times.saturating_record(begun.elapsed().as_nanos() as u64);
        }
    }
    let at = |quantile| times.value_at_quantile(quantile) as f64 / 1000.0;
    Ok((at(0.5), at(0.99)))
}

/// Connections opened and closed on both sides, one after the other, `count` of them or for as long
/// as `time`; how many a second.
///
/// # Errors
/// Those of the sockets.
pub fn connections(to: SocketAddr, count: u32, time: Duration) -> io::Result<f64> {
    let (begun, mut done) = (Instant::now(), 0);
    while done < count && begun.elapsed() < time {
        let mut stream = Kernel.connect(to)?;
        stream.finish_writing()?;
        while stream.read(&mut [0])? > 0 {}
        done += 1;
    }
    Ok(f64::from(done) / begun.elapsed().as_secs_f64())
}

/// Datagrams of 64 bytes for `time`, with at most 128 under way; how many came back.
///
/// # Errors
/// Those of the socket.
pub fn datagrams(socket: &impl Datagrams, to: SocketAddr, time: Duration) -> io::Result<u64> {
    let (mut sent, mut back) = (0u64, 0u64);
    let (mut bytes, begun) = ([7; SMALL], Instant::now());
    socket.set_read_timeout(LOST_AFTER)?;
    while begun.elapsed() < time {
        while sent < back + UNDER_WAY {
            socket.send_to(&bytes, to)?;
            sent += 1;
        }
        // One waits, then all that are there are taken.
        match socket.recv_from(&mut bytes) {
            Ok(_) => back += 1,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                sent = back;
            }
            Err(error) => return Err(error),
        }
        socket.set_nonblocking(true)?;
        while socket.recv_from(&mut bytes).is_ok() {
            back += 1;
        }
        socket.set_nonblocking(false)?;
    }
    Ok(back)
}
