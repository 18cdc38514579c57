//! `netctl status`: the processes, how many connections there are, what was dropped.

use crate::group::{Access, Failure, ProcessRow};
use crate::table::{Form, Table, json};
use proto::control::messages::Ended;
use proto::hard::conns::Kind;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::Write;

/// Prefix of the counters that count drops.
const DROP: &str = "drop_";

#[derive(Debug, Serialize)]
struct Status {
    schema: u32,
    name: String,
    processes: Vec<Process>,
    connections: usize,
    drops: BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    faults: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Process {
    role: &'static str,
    shard: u16,
    pid: u32,
    generation: u32,
    restarts: u32,
    uptime_ms: u128,
    last_exit: Option<String>,
    in_service: bool,
}

/// How an incarnation ended, in words: `signal 9`, `exit 1`, `unknown`.
pub fn ended(end: Ended) -> String {
    match end {
        Ended::Exit(code) => format!("exit {code}"),
        Ended::Signal(signal) => format!("signal {signal}"),
        Ended::Unknown => "unknown".into(),
    }
}

fn process(row: ProcessRow) -> Process {
    Process {
        role: row.role.name(),
        shard: row.index,
        pid: row.pid,
        generation: row.generation,
        restarts: row.restarts,
        uptime_ms: row.uptime.as_millis(),
        last_exit: row.last_end.map(ended),
        in_service: row.in_service,
    }
}

/// Runs it.
///
/// # Errors
/// When the answer can't be written.
pub fn run(access: &Access, form: Form, out: &mut impl Write) -> Result<(), Failure> {
    let mut drops = BTreeMap::new();
    for ((_, name), count) in access.counters() {
        if let Some(reason) = name.strip_prefix(DROP).filter(|_| count > 0) {
            *drops.entry(reason.to_owned()).or_default() += count;
        }
    }
    let connection = |kind| matches!(kind, Kind::TcpActive | Kind::TcpPassive);
    let status = Status {
        schema: 1,
        name: access.place().name().to_owned(),
        processes: access.processes().into_iter().map(process).collect(),
        connections: access.sockets().iter().filter(|row| connection(row.opening.kind)).count(),
        drops,
        faults: access.faults(),
    };
    write(&status, form, out).map_err(|e| Failure::Io("standard output", e))
}

fn write(status: &Status, form: Form, out: &mut impl Write) -> std::io::Result<()> {
    if form == Form::Json {
        return json(out, status);
    }
    writeln!(out, "group {}, {} connections", status.name, status.connections)?;
    let mut table = Table::new(&["ROLE", "SHARD", "PID", "GENERATION", "RESTARTS", "UPTIME", "LAST EXIT"]);
    for row in &status.processes {
        table.row([
            row.role.into(),
            row.shard.to_string(),
            row.pid.to_string(),
            row.generation.to_string(),
            row.restarts.to_string(),
            format!("{}.{:03} s", row.uptime_ms / 1000, row.uptime_ms % 1000),
            row.last_exit.clone().unwrap_or_else(|| "-".into()),
        ]);
    }
    table.write(out)?;
    for fault in &status.faults {
        writeln!(out, "fault {fault}")?;
    }
    for (reason, count) in &status.drops {
        writeln!(out, "dropped {count} {reason}")?;
    }
    Ok(())
}
