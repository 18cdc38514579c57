//! Many connections to an echo server on the stack, driven by one thread, each verified byte by byte
//! in both directions up to its end of stream.
//!
//! A *loaded* connection always keeps bytes on their way (up to [`Load::ahead`] beyond what came back,
//! at most [`Load::rate`] a second); an *idle* one speaks now and then. What comes back must be what was
//! sent: a byte lost, doubled or moved on either way shows at its position. There is one connect() per
//! connection and no reconnect: a connection that fails is lost.
//!
//! Silence: between [`Fleet::watch`] and the next one, the longest time that each loaded connection
//! went without a byte coming back, given that the gap reached into that window. A connection with at
//! least [`SEVERAL`] segments under way when the window begins is told from one with fewer: the last
//! segment of a flight waits for the remote's retransmission timer, whatever the stack does.

use super::counter;
use hdrhistogram::Histogram;
use mio::{Events, Interest, Poll, Token};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long the driving thread sleeps when nothing happens: the grain of pacing.
const TICK: Duration = Duration::from_millis(2);
/// Bytes read or written at a time.
const CHUNK: usize = 64 * 1024;
/// What an idle connection says when it speaks, in bytes.
const MURMUR: u64 = 97;
/// Segments under way from which on a loss is repaired without the remote's retransmission timer: three
/// duplicates show it (RFC 5681 §3.2).
pub const SEVERAL: u64 = 4;
/// Payload of a full segment: 1500 bytes less the headers of IPv4 and TCP with timestamps.
const SEGMENT: u64 = 1448;

/// A stream that the fleet can drive.
pub trait Remote: Read + Write + mio::event::Source + Send + 'static {
    /// Ends our direction of the stream.
    ///
    /// # Errors
    /// Those of shutdown(2).
    fn finish_writing(&self) -> io::Result<()>;
    /// Bytes under way that the stack has not acknowledged; `None` where nobody keeps this account.
    fn in_flight(&self) -> Option<u64>;
}

impl Remote for mio::net::TcpStream {
    fn finish_writing(&self) -> io::Result<()> {
        self.shutdown(std::net::Shutdown::Write)
    }

    fn in_flight(&self) -> Option<u64> {
        Some(super::unacked::in_flight(self))
    }
}

impl Remote for libnetclient::TcpStream {
    fn finish_writing(&self) -> io::Result<()> {
        self.shutdown(std::net::Shutdown::Write)
    }

    /// The kernel is not the remote here.
    fn in_flight(&self) -> Option<u64> {
        None
    }
}

/// What the connections do.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// How many of them are loaded; the rest is idle.
    pub loaded: usize,
    /// Bytes that a loaded connection may be ahead of its echo.
    pub ahead: u64,
    /// Bytes a second that a loaded connection sends at most.
    pub rate: u64,
    /// One idle connection, in turn, speaks this often.
    pub murmur_every: Duration,
    /// Seeds of the streams follow from it.
    pub seed: u64,
}

/// What the fleet saw. Counts of connections add up to their number.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Connections that ended cleanly: every byte came back, then the end of stream.
    pub clean: usize,
    /// Connections that did not, each with what happened.
    pub lost: Vec<String>,
    /// Bytes that were not what they had to be.
    pub bytes_wrong: u64,
    /// Bytes verified.
    pub bytes: u64,
    /// Longest silences of every window.
    pub silences: Silences,
}

/// Longest silences by the label of their window.
pub type Silences = BTreeMap<&'static str, Silence>;

/// Longest silences of the loaded connections in the windows of one label, in microseconds.
#[derive(Debug, Clone)]
pub struct Silence {
    /// Of those with at least [`SEVERAL`] segments under way when the window began, or whose account
    /// nobody keeps.
    pub several: Histogram<u64>,
    /// Of the others.
    pub fewer: Histogram<u64>,
}

impl Silence {
    fn new() -> Silence {
        let empty = || Histogram::new_with_max(120_000_000, 3).expect("bounds that make sense");
        Silence { several: empty(), fewer: empty() }
    }

    /// Of all of them.
    pub fn all(&self) -> Histogram<u64> {
        let mut all = self.several.clone();
        all.add(&self.fewer).expect("the same bounds");
        all
    }
}

#[derive(Debug, Default)]
struct Shared {
    bytes: AtomicU64,
    wrong: AtomicU64,
    lost: AtomicU64,
    in_flight: AtomicU64,
    in_flight_asked: AtomicU64,
    in_flight_told: AtomicU64,
    finish: AtomicBool,
    give_up: AtomicBool,
    silences: Mutex<Silences>,
}

enum Note {
    /// A window begins; the one before it ends.
    Watch(Option<&'static str>, Instant),
}

/// Connections that are being driven by a thread of their own.
#[derive(Debug)]
pub struct Fleet {
    shared: Arc<Shared>,
    notes: mpsc::Sender<Note>,
    thread: Option<JoinHandle<io::Result<Report>>>,
}

impl Fleet {
    /// Drives `streams`, which are connected and non-blocking; the first `load.loaded` are loaded.
    ///
    /// # Errors
    /// When they can't be polled.
    pub fn launch<S: Remote>(streams: Vec<S>, load: Load) -> io::Result<Fleet> {
        let shared = Arc::new(Shared::default());
        let (notes, inbox) = mpsc::channel();
        let mut driver = Driver::new(streams, load, shared.clone(), inbox)?;
        let thread = std::thread::Builder::new().name("fleet".into()).spawn(move || driver.run())?;
        Ok(Fleet { shared, notes, thread: Some(thread) })
    }

    /// Begins a window of silence under `label` and ends the one before it; `None` only ends.
    pub fn watch(&self, label: Option<&'static str>) {
        // A driver that ended has a report that says why.
        let _ = self.notes.send(Note::Watch(label, Instant::now()));
    }

    /// Bytes verified so far.
    pub fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::Relaxed)
    }

    /// Bytes found wrong so far.
    pub fn wrong(&self) -> u64 {
        self.shared.wrong.load(Ordering::Relaxed)
    }

    /// Connections lost so far.
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }

    /// Bytes sent by the loaded connections and not acknowledged by the stack, now; waits for the
    /// driver to look, at most 100 ms.
    pub fn in_flight(&self) -> u64 {
        let ask = self.shared.in_flight_asked.fetch_add(1, Ordering::AcqRel) + 1;
        let deadline = Instant::now() + Duration::from_millis(100);
        while self.shared.in_flight_told.load(Ordering::Acquire) < ask && Instant::now() < deadline {
            std::thread::sleep(Duration::from_micros(200));
        }
        self.shared.in_flight.load(Ordering::Acquire)
    }

    /// Ends every stream of ours, reads the rest, and reports. What has not come back by `patience`
    /// is lost.
    ///
    /// # Errors
    /// When polling failed.
    pub fn finish(mut self, patience: Duration) -> io::Result<Report> {
        self.watch(None);
        self.shared.finish.store(true, Ordering::Release);
        let thread = self.thread.take().expect("a fleet is finished once");
        let deadline = Instant::now() + patience;
        while !thread.is_finished() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.shared.give_up.store(true, Ordering::Release);
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the fleet's thread panicked")))
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.shared.finish.store(true, Ordering::Release);
        self.shared.give_up.store(true, Ordering::Release);
    }
}

impl Shared {
    fn silences(&self) -> MutexGuard<'_, Silences> {
        self.silences.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// Our direction has ended; the rest comes back.
    Finishing,
    Clean,
    Lost,
}

struct Link<S> {
    stream: S,
    seed: u64,
    loaded: bool,
    phase: Phase,
    sent: u64,
    received: u64,
    /// What an idle connection may have sent by now.
    allowance: u64,
    writable: bool,
    last: Instant,
    /// Longest gap that reached into the window.
    gap: Duration,
    /// At least [`SEVERAL`] segments were under way when the window began.
    several: bool,
}

struct Driver<S> {
    poll: Poll,
    links: Vec<Link<S>>,
    load: Load,
    shared: Arc<Shared>,
    inbox: mpsc::Receiver<Note>,
    started: Instant,
    window: Option<&'static str>,
    begun: Instant,
    next_murmur: (Instant, usize),
    finishing: bool,
    lost: Vec<String>,
    chunk: Box<[u8; CHUNK]>,
}

impl<S: Remote> Driver<S> {
    fn new(
        streams: Vec<S>,
        load: Load,
        shared: Arc<Shared>,
        inbox: mpsc::Receiver<Note>,
    ) -> io::Result<Self> {
        let (poll, now) = (Poll::new()?, Instant::now());
        let mut links = Vec::with_capacity(streams.len());
        for (n, mut stream) in streams.into_iter().enumerate() {
            poll.registry().register(&mut stream, Token(n), Interest::READABLE | Interest::WRITABLE)?;
            links.push(Link {
                stream,
                seed: load.seed.wrapping_mul(0x2545_f491_4f6c_dd1d).wrapping_add(n as u64),
                loaded: n < load.loaded,
                phase: Phase::Open,
                sent: 0,
                received: 0,
                allowance: 0,
                writable: true,
                last: now,
                gap: Duration::ZERO,
                several: false,
            });
        }
        Ok(Driver {
            poll,
            next_murmur: (now, load.loaded),
            links,
            load,
            shared,
            inbox,
            started: now,
            window: None,
            begun: now,
            finishing: false,
            lost: Vec::new(),
            chunk: Box::new([0; CHUNK]),
        })
    }

    fn run(&mut self) -> io::Result<Report> {
        let mut events = Events::with_capacity(1024);
        while self.links.iter().any(|link| matches!(link.phase, Phase::Open | Phase::Finishing)) {
            match self.poll.poll(&mut events, Some(TICK)) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            }
            self.notes();
            for event in &events {
                let n = event.token().0;
                self.links[n].writable |= event.is_writable();
                if event.is_readable() || event.is_error() {
                    self.read(n);
                }
            }
            if self.shared.give_up.load(Ordering::Acquire) {
                self.give_up();
            }
            if !self.finishing && self.shared.finish.load(Ordering::Acquire) {
                // The last window's end was sent before: it closes while its connections are open.
                self.notes();
                self.finishing = true;
            }
            self.murmur();
            (0..self.links.len()).for_each(|n| self.write(n));
            self.account();
        }
        Ok(Report {
            clean: self.links.iter().filter(|link| link.phase == Phase::Clean).count(),
            lost: core::mem::take(&mut self.lost),
            bytes_wrong: self.shared.wrong.load(Ordering::Relaxed),
            bytes: self.shared.bytes.load(Ordering::Relaxed),
            silences: self.shared.silences().clone(),
        })
    }

    fn notes(&mut self) {
        while let Ok(Note::Watch(label, at)) = self.inbox.try_recv() {
            self.close_window(at);
            self.window = label;
            self.begun = at;
            for link in &mut self.links[..self.load.loaded] {
                link.several = link.stream.in_flight().is_none_or(|bytes| bytes > (SEVERAL - 1) * SEGMENT);
            }
        }
    }

    fn close_window(&mut self, at: Instant) {
        let Some(label) = self.window else { return };
        let mut silences = self.shared.silences();
        let silence = silences.entry(label).or_insert_with(Silence::new);
        for link in self.links.iter_mut().filter(|link| link.loaded && link.phase == Phase::Open) {
            let gap = link.gap.max(at.saturating_duration_since(link.last));
            let histogram = if link.several { &mut silence.several } else { &mut silence.fewer };
            histogram.saturating_record(gap.as_micros() as u64);
            link.gap = Duration::ZERO;
        }
    }

    fn account(&mut self) {
        let ask = self.shared.in_flight_asked.load(Ordering::Acquire);
        if self.shared.in_flight_told.load(Ordering::Relaxed) != ask {
            let sum = self.links[..self.load.loaded].iter().filter_map(|link| link.stream.in_flight()).sum();
            self.shared.in_flight.store(sum, Ordering::Release);
            self.shared.in_flight_told.store(ask, Ordering::Release);
        }
    }

    fn lose(&mut self, n: usize, why: &str) {
        let link = &mut self.links[n];
        if matches!(link.phase, Phase::Clean | Phase::Lost) {
            return;
        }
        link.phase = Phase::Lost;
        // Nothing more is expected of it.
        let _ = self.poll.registry().deregister(&mut link.stream);
        self.lost.push(format!("connection {n}: {why}, {} sent, {} back", link.sent, link.received));
        self.shared.lost.fetch_add(1, Ordering::Relaxed);
    }

    fn give_up(&mut self) {
        (0..self.links.len()).for_each(|n| self.lose(n, "not finished in time"));
    }

    fn murmur(&mut self) {
        let idle = self.links.len() - self.load.loaded.min(self.links.len());
        if idle == 0 || self.finishing || Instant::now() < self.next_murmur.0 {
            return;
        }
        let n = self.next_murmur.1;
        self.links[n].allowance += MURMUR;
        let next = if n + 1 == self.links.len() { self.load.loaded } else { n + 1 };
        self.next_murmur = (Instant::now() + self.load.murmur_every, next);
    }

    fn write(&mut self, n: usize) {
        let finishing = self.finishing;
        let link = &mut self.links[n];
        if link.phase != Phase::Open || !link.writable {
            return;
        }
        // What an idle connection says last goes out with the end of its stream right behind it.
        if finishing && !link.loaded && link.sent == link.allowance {
            link.allowance += MURMUR;
        }
        let due = match link.loaded {
            true => {
                let paced = self.load.rate as f64 * self.started.elapsed().as_secs_f64();
                (paced as u64).min(link.received + self.load.ahead)
            }
            false => link.allowance,
        };
        while link.sent < due && !(finishing && link.loaded) {
            let len = (due - link.sent).min(CHUNK as u64) as usize;
            counter::fill(link.seed, link.sent, &mut self.chunk[..len]);
            match link.stream.write(&self.chunk[..len]) {
                Ok(len) => link.sent += len as u64,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    link.writable = false;
                    return;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return self.lose(n, &format!("write: {e}")),
            }
        }
        if finishing {
            match link.stream.finish_writing() {
                Ok(()) => link.phase = Phase::Finishing,
                Err(e) => self.lose(n, &format!("shutdown: {e}")),
            }
        }
    }

    fn read(&mut self, n: usize) {
        loop {
            let link = &mut self.links[n];
            if !matches!(link.phase, Phase::Open | Phase::Finishing) {
                return;
            }
            match link.stream.read(&mut self.chunk[..]) {
                Ok(0) => return self.end(n),
                Ok(len) => {
                    let wrong = counter::wrong(link.seed, link.received, &self.chunk[..len]);
                    link.received += len as u64;
                    let now = Instant::now();
                    if now > self.begun {
                        link.gap = link.gap.max(now - link.last);
                    }
                    link.last = now;
                    self.shared.bytes.fetch_add(len as u64, Ordering::Relaxed);
                    self.shared.wrong.fetch_add(wrong, Ordering::Relaxed);
                    if link.received > link.sent {
                        return self.lose(n, "more came back than was sent");
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return self.lose(n, &format!("read: {e}")),
            }
        }
    }

    fn end(&mut self, n: usize) {
        let link = &mut self.links[n];
        if link.phase == Phase::Finishing && link.received == link.sent {
            link.phase = Phase::Clean;
            // A socket that is not polled any more says nothing more.
            let _ = self.poll.registry().deregister(&mut link.stream);
        } else {
            self.lose(n, "end of stream too early");
        }
    }
}
