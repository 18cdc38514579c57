//! What a group costs that does nothing: context switches, memory.
//!
//! The kernel's side of the TAP is told not to speak IPv6: its router solicitations are frames from
//! outside, and frames are work.

use super::paths::stack_spec;
use super::row::{Goal, Row, Series, rounded};
use super::{ROUNDS, Wanted, machine, say};
use crate::process::group::{Group, Program, kernel_sockets};
use crate::process::wait_until;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// How long switches are counted.
pub const SPAN: Duration = Duration::from_secs(10);
/// What a group needs to come to rest: the last timers of its start and of handshakes.
pub const REST: Duration = Duration::from_secs(4);
/// Idle connections.
pub const CONNECTIONS: usize = 1000;
/// The most switches that may be counted with idle connections.
pub const SWITCHES_MAX: u64 = 20;
/// The most memory, in MiB.
const PSS_MAX: f64 = 48.0;

const STACK: &str = "10.79.6.2";
const ECHO: u16 = 7007;

/// The rows of this file.
pub const IDS: [&str; 2] = ["idle_switches", "idle_pss"];

/// A group that has nothing to do.
#[derive(Debug)]
pub struct Idle {
    group: Group,
    echo: Option<Program>,
    connections: Vec<mio::net::TcpStream>,
}

impl Idle {
    /// Starts it and lets it come to rest.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start() -> io::Result<Idle> {
        std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1")?;
        let group = Group::up(&stack_spec("tap:axli0".into(), &format!("{STACK}/24"), Some("10.79.6.1/24")))?;
        std::thread::sleep(REST);
        Ok(Idle { group, echo: None, connections: Vec::new() })
    }

    /// Opens connections to an echo server on it, which say nothing, and lets it come to rest.
    ///
    /// # Errors
    /// When one does not open.
    pub fn connect(&mut self, count: usize) -> io::Result<()> {
        self.echo = Some(self.group.example("echo", &[&ECHO.to_string()])?);
        let to: SocketAddr = format!("{STACK}:{ECHO}").parse().expect("an address");
        let patience = Duration::from_secs(1);
        let listens = || std::net::TcpStream::connect_timeout(&to, patience).is_ok();
        if !wait_until(Duration::from_secs(10), listens) {
            return Err(io::Error::other("the echo server does not listen"));
        }
        self.connections = kernel_sockets(count, to)?;
        std::thread::sleep(REST);
        Ok(())
    }

    /// Every process of the group, and its client, by name.
    pub fn processes(&self) -> Vec<(String, u32)> {
        let rows = self.group.processes();
        let daemons = rows.iter().map(|row| (row.role.name().to_owned(), row.pid));
        let spares = self.group.spares().into_iter().map(|(name, pid)| (name + " (spare)", pid));
        daemons.chain(spares).chain(self.echo.iter().map(|echo| ("client".to_owned(), echo.pid()))).collect()
    }

    fn pids(&self) -> Vec<u32> {
        self.processes().into_iter().map(|(_, pid)| pid).collect()
    }

    /// Context switches in [`SPAN`].
    pub fn switches(&self) -> u64 {
        let (pids, before) = (self.pids(), machine::switches(&self.pids()));
        std::thread::sleep(SPAN);
        machine::switches(&pids) - before
    }
}

/// What is asked for of [`IDS`].
///
/// # Errors
/// When a group can't be had.
pub fn rows(wanted: &Wanted) -> io::Result<Vec<Row>> {
    let mut idle = Idle::start()?;
    let mut rows = Vec::new();
    if wanted.has("idle_pss") {
        let mib = (0..ROUNDS).map(|_| {
            std::thread::sleep(Duration::from_millis(100));
            machine::pss(&idle.pids()) as f64 / f64::from(1 << 20)
        });
        let ours = Series::new("group", mib.collect());
        let goal = Goal::new("≤ 48 MiB", ours.median() <= PSS_MAX);
        rows.push(Row {
            id: "idle_pss",
            unit: "MiB",
            higher: false,
            ours,
            baseline: None,
            goal,
            more: Vec::new(),
        });
    }
    if wanted.has("idle_switches") {
        let count = |idle: &Idle, what: &str| -> Vec<f64> {
            let each = |round| {
                say(&format!("idle_switches {what}: {} of {ROUNDS}", round + 1));
                idle.switches() as f64
            };
            (0..ROUNDS).map(each).collect()
        };
        let none = Series::new("group", count(&idle, "without connections"));
        idle.connect(CONNECTIONS)?;
        let some = Series::new("group_1000", count(&idle, "with 1000"));
        let met = none.median() == 0.0 && some.median() <= SWITCHES_MAX as f64;
        let with = serde_json::json!({
            "median": rounded(some.median()), "min": rounded(some.min()), "max": rounded(some.max()),
        });
        rows.push(Row {
            id: "idle_switches",
            unit: "in 10 s",
            higher: false,
            ours: none,
            baseline: None,
            goal: Goal::new("0; ≤ 20 with 1000 idle connections", met),
            more: vec![("with_1000_idle", with)],
        });
    }
    Ok(rows)
}
