//! A bad path in user space: a program between two TAPs that delays, loses, reorders, and lets through only
//! so much.
//!
//! ```text
//!   far (remote) 10.79.5.1 ── TAP ── forwarder ── TAP ──┐
//!                                                    bridge 10.79.5.3 (the kernel's server)
//!                       netd ── nicd ── TAP ────────────┘
//!                     10.79.5.2 (the stack's server)
//! ```
//!
//! Both servers are behind one bridge, so what differs between two measurements is the sender alone. The
//! devices offer no offload: every frame is one packet, and meets its own fate, drawn from a seed.

use super::paths::{Far, ip};
use nicd::backend::tap;
use proto::control::messages::Prefix;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::fd::OwnedFd;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const MTU: u16 = 1500;
const FRAME_MAX: usize = 2048;
/// Octets around a frame on a wire of Ethernet: preamble, check, gap.
const FRAMING: u64 = 24;

/// What a path does to packets.
#[derive(Debug, Clone, Copy, Default)]
pub struct Weather {
    /// Each way.
    pub delay: Duration,
    /// So many of a thousand are lost, each way.
    pub loss_permille: u32,
    /// So many of a thousand are later by [`Weather::late`].
    pub reorder_permille: u32,
    /// How much later those are.
    pub late: Duration,
    /// Bits a second towards the remote; 0 sets no limit.
    pub rate: u64,
    /// Octets that wait for the rate; what would be more is lost.
    pub queue: u64,
    /// The fates are drawn from this.
    pub seed: u64,
}

/// The forwarder, until it is dropped.
#[derive(Debug)]
pub struct Impaired {
    stop: Arc<OwnedFd>,
    weather: Arc<Mutex<(Weather, u64)>>,
    thread: Option<JoinHandle<()>>,
}

impl Impaired {
    /// Lays the path between the far namespace and `bridge` here.
    ///
    /// # Errors
    /// When the devices can't be had.
    pub fn lay(far: &Far, bridge: &str) -> io::Result<Impaired> {
        let addr = Prefix { addr: [10, 79, 5, 1].into(), len: 24 };
        let open = |name, addrs: &[Prefix]| tap::open(name, None, MTU, addrs, 0).map_err(io::Error::other);
        let (there, here) = (open("axli0", &[])?, open("axli1", &[])?);
        far.take("axli0", &[addr])?;
        ip(&format!("link set axli1 master {bridge}"))?;
        let stop = Arc::new(rustix::event::eventfd(0, EventfdFlags::CLOEXEC)?);
        let weather = Arc::new(Mutex::new((Weather::default(), 0)));
        let (stopped, shared) = (stop.clone(), weather.clone());
        let thread = std::thread::Builder::new().name("impaired".into()).spawn(move || {
            if let Err(error) = forward([&here, &there], &stopped, &shared) {
                eprintln!("impaired: {error}");
            }
        })?;
        Ok(Impaired { stop, weather, thread: Some(thread) })
    }

    /// Another weather from the next packet on.
    pub fn set(&self, weather: Weather) {
        let mut shared = self.weather.lock().unwrap_or_else(PoisonError::into_inner);
        *shared = (weather, shared.1 + 1);
    }
}

impl Drop for Impaired {
    fn drop(&mut self) {
        let _ = rustix::io::write(&*self.stop, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// When a packet arrives, its number, the end it goes to, its octets.
type Packet = (Instant, u64, usize, Vec<u8>);

/// One direction.
struct Way {
    rng: StdRng,
    /// When the link is free again.
    free_at: Instant,
    limited: bool,
}

impl Way {
    /// When a packet of `len` octets arrives; `None` when it does not.
    fn fate(&mut self, now: Instant, len: usize, weather: &Weather) -> Option<Instant> {
        let (lost, late) = (self.rng.random_range(0..1000), self.rng.random_range(0..1000));
        if lost < weather.loss_permille {
            return None;
        }
        let mut at = now;
        if weather.rate > 0 && self.limited {
            let waiting = self.free_at.saturating_duration_since(now);
            if waiting.as_nanos() * u128::from(weather.rate) / 8_000_000_000 > u128::from(weather.queue) {
                return None;
            }
            let bits = (len as u64 + FRAMING) * 8;
            self.free_at = self.free_at.max(now) + Duration::from_nanos(bits * 1_000_000_000 / weather.rate);
            at = self.free_at;
        }
        let late = if late < weather.reorder_permille { weather.late } else { Duration::ZERO };
        Some(at + weather.delay + late)
    }
}

/// `ends[0]` is the servers', `ends[1]` the remote's; only the way to the remote has a rate.
fn forward(ends: [&OwnedFd; 2], stop: &OwnedFd, shared: &Mutex<(Weather, u64)>) -> io::Result<()> {
    let (mut weather, mut version) = (Weather::default(), u64::MAX);
    let begun = Instant::now();
    let way = |seed, limited| Way { rng: StdRng::seed_from_u64(seed), free_at: begun, limited };
    let mut ways = [way(0, true), way(1, false)];
    let mut under_way: BinaryHeap<Reverse<Packet>> = BinaryHeap::new();
    let (mut frame, mut count) = ([0; FRAME_MAX], 0);
    loop {
        let (latest, number) = *shared.lock().unwrap_or_else(PoisonError::into_inner);
        if number != version {
            (weather, version) = (latest, number);
            ways = [way(latest.seed * 2, true), way(latest.seed * 2 + 1, false)];
        }
        for (from, way) in ways.iter_mut().enumerate() {
            loop {
                match rustix::io::read(ends[from], &mut frame) {
                    Ok(len) => {
                        if let Some(at) = way.fate(Instant::now(), len, &weather) {
                            count += 1;
                            under_way.push(Reverse((at, count, 1 - from, frame[..len].to_vec())));
                        }
                    }
                    Err(rustix::io::Errno::AGAIN) => break,
                    Err(errno) => return Err(errno.into()),
                }
            }
        }
        let now = Instant::now();
        while under_way.peek().is_some_and(|Reverse(next)| next.0 <= now) {
            let Some(Reverse((_, _, to, bytes))) = under_way.pop() else { break };
            // A device whose queue is full drops, as every device does.
            let _ = rustix::io::write(ends[to], &bytes);
        }
        let wait = under_way.peek().map(|Reverse(next)| next.0.saturating_duration_since(Instant::now()));
        let wait = wait
            .map(|wait| Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: i64::from(wait.subsec_nanos()) });
        let mut fds = [ends[0], ends[1], stop].map(|fd| PollFd::new(fd, PollFlags::IN));
        match rustix::event::poll(&mut fds, wait.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        if !fds[2].revents().is_empty() {
            return Ok(());
        }
    }
}
