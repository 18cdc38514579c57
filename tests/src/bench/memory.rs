//! What a connection costs that does nothing: as many as the limits allow between two groups on a
//! wire, looked at five times on the way up.
//!
//! Counted are the daemons and the client of the accepting group (proportional set size), and half of
//! what the kernel's own memory grew by, the other half being the connecting group's. Beside it the
//! kernel's own connections over veth, of which two processes can hold fewer.

use super::load::Service;
use super::paths::{Far, Server, Wired};
use super::row::{Goal, Row, Series, rounded};
use super::sockets::{Kernel, Sockets};
use super::{Wanted, machine, say};
use libnetclient::{Session, Size, TcpStream};
use serde_json::json;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Connections in the end.
const CONNECTIONS: usize = 100_000;
/// Connections of the kernel's side: below 20,000 descriptors for each end.
const KERNEL_CONNECTIONS: usize = 15_000;
/// Looks on the way up.
const LOOKS: usize = 5;
/// Connections that one session of the connecting side opens.
const PER_SESSION: usize = 50_000;
/// The longest that connecting may take.
const PATIENCE: Duration = Duration::from_secs(240);
/// Bytes of one connection that must not be exceeded.
const GOAL: f64 = 2048.0;

/// The rows of this file.
pub const IDS: [&str; 1] = ["conn_bytes"];

/// What is asked for of [`IDS`].
///
/// # Errors
/// When a path can't be laid or no connection opens.
pub fn rows(_: &Wanted) -> io::Result<Vec<Row>> {
    let kernel = kernel()?;
    let wired = Wired::lay()?;
    let server = Server::on(&wired.server, Service::Hold)?;
    let mut pids: Vec<u32> = wired.server.processes().iter().map(|row| row.pid).collect();
    let daemons = pids.clone();
    pids.push(server.pid());
    let size = Size { active: PER_SESSION as u32, passive: 1, tx_pages: 64, rx_pages: 64 };
    let sessions: Vec<Session> = (0..CONNECTIONS.div_ceil(PER_SESSION))
        .map(|_| wired.client.session(size))
        .collect::<io::Result<_>>()?;
    let mut held: Vec<TcpStream> = Vec::with_capacity(CONNECTIONS);
    let before = (machine::pss(&pids), machine::pss(&daemons), machine::kernel_memory());
    let (begun, mut seen, mut of_daemons, mut of_kernel) = (Instant::now(), Vec::new(), 0.0, 0.0);
    let mut ended = None;
    while held.len() < CONNECTIONS && ended.is_none() {
        let goal = held.len() + CONNECTIONS / LOOKS;
        while held.len() < goal && ended.is_none() {
            let n = held.len();
            let to = SocketAddr::from(([10, 79, 4, 2], Service::Hold.port() + (n % HOLD_PORTS) as u16));
            match TcpStream::connect_timeout_in(&sessions[n / PER_SESSION], &to, Duration::from_secs(5)) {
                Ok(stream) => held.push(stream),
                Err(error) => ended = Some(error.to_string()),
            }
            if begun.elapsed() > PATIENCE {
                ended = Some("no time left".into());
            }
        }
        // Handshakes and accepts come to rest.
        std::thread::sleep(Duration::from_millis(500));
        let n = held.len().max(1) as f64;
        let grown = |now: u64, then: u64| now.saturating_sub(then) as f64 / n;
        of_kernel = grown(machine::kernel_memory(), before.2) / 2.0;
        of_daemons = grown(machine::pss(&daemons), before.1);
        seen.push(grown(machine::pss(&pids), before.0) + of_kernel);
        say(&format!("conn_bytes: {:.0} with {} connections", seen[seen.len() - 1], held.len()));
    }
    if let Some(why) = &ended {
        say(&format!("conn_bytes: ended at {} connections: {why}", held.len()));
    }
    let last = seen[seen.len() - 1];
    let per_second = held.len() as f64 / begun.elapsed().as_secs_f64();
    let count = held.len();
    for stream in held {
        drop(stream);
    }
    Ok(vec![Row {
        id: "conn_bytes",
        unit: "bytes",
        higher: false,
        ours: Series::new("group_and_client", seen),
        baseline: Some(kernel),
        goal: Goal::new("≤ 2 KiB at 100,000", last <= GOAL && count >= CONNECTIONS),
        more: vec![
            ("connections", json!(count)),
            ("at_the_end", rounded(last)),
            ("daemons_alone", rounded(of_daemons)),
            ("kernel_memory", rounded(of_kernel)),
            ("opened_per_second", rounded(per_second)),
        ],
    }])
}

/// Ports of [`Service::Hold`]: one remote address has fewer ports than connections.
pub const HOLD_PORTS: usize = 4;

/// Bytes of the kernel's memory for one end of a connection.
pub(super) fn kernel() -> io::Result<Series> {
    let far = Far::new()?;
    far.veth("axlm", "10.79.3")?;
    let _server = Server::far(&far, Service::Hold)?;
    let before = machine::kernel_memory();
    let (mut held, mut seen) = (Vec::new(), Vec::new());
    for _ in 0..LOOKS {
        for n in 0..KERNEL_CONNECTIONS / LOOKS {
            let port = Service::Hold.port() + (n % HOLD_PORTS) as u16;
            held.push(Kernel.connect(SocketAddr::from(([10, 79, 3, 2], port)))?);
        }
        std::thread::sleep(Duration::from_millis(300));
        seen.push(machine::kernel_memory().saturating_sub(before) as f64 / held.len() as f64 / 2.0);
    }
    Ok(Series::new("kernel_veth", seen))
}
