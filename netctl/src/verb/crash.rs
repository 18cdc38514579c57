//! `netctl crash`: of every daemon, how it ended last, what it was working on, and its last events.

use crate::group::{Access, Failure};
use crate::table::{Form, json};
use crate::verb::status::ended;
use proto::control::messages::Ended;
use proto::recorder::{self, Event};
use serde::Serialize;
use std::io::Write;

/// Events that are shown of each daemon.
const SHOWN: usize = 32;

#[derive(Debug, Serialize)]
struct Crash {
    role: &'static str,
    shard: u16,
    generation: u32,
    /// The signal that ended the incarnation before; none when it exited or there was none.
    signal: Option<i32>,
    last_exit: Option<String>,
    /// What it was working on when it ended; none when it was not working or ended from outside.
    breadcrumb: Option<String>,
    deaths: Vec<Died>,
    events: Vec<Line>,
}

#[derive(Debug, Serialize)]
struct Died {
    breadcrumb: String,
    piece_deaths: u64,
    flow_deaths: u64,
}

#[derive(Debug, Serialize)]
struct Line {
    at_ms: u64,
    kind: &'static str,
    args: [u64; 3],
    text: String,
}

fn line(event: Event) -> Line {
    Line { at_ms: event.time.millis(), kind: event.kind.name(), args: event.args, text: event.text }
}

fn crumb(crumb: &recorder::Crumb) -> String {
    format!("{} {:016x} of flow {:016x}", crumb.work.name(), crumb.piece, crumb.flow)
}

/// Runs it.
///
/// # Errors
/// When the answer can't be written.
pub fn run(access: &Access, form: Form, out: &mut impl Write) -> Result<(), Failure> {
    let processes = access.processes();
    let mut crashes = Vec::new();
    for (seat, region) in access.stats() {
        let row = processes.iter().find(|row| row.role == seat.role && row.index == seat.index);
        let end = row.and_then(|row| row.last_end);
        let mut events = recorder::events(region).unwrap_or_default();
        events.drain(..events.len().saturating_sub(SHOWN));
        let deaths = recorder::deaths(region).unwrap_or_default();
        crashes.push(Crash {
            role: seat.role.name(),
            shard: seat.index,
            generation: row.map_or(0, |row| row.generation),
            signal: match end {
                Some(Ended::Signal(signal)) => Some(signal),
                _ => None,
            },
            last_exit: end.map(ended),
            breadcrumb: deaths.first().map(|death| crumb(&death.crumb)),
            deaths: deaths
                .iter()
                .map(|death| Died {
                    breadcrumb: crumb(&death.crumb),
                    piece_deaths: death.piece_deaths,
                    flow_deaths: death.flow_deaths,
                })
                .collect(),
            events: events.into_iter().map(line).collect(),
        });
    }
    write(&crashes, form, out).map_err(|e| Failure::Io("standard output", e))
}

fn write(crashes: &[Crash], form: Form, out: &mut impl Write) -> std::io::Result<()> {
    if form == Form::Json {
        return json(out, &crashes);
    }
    for crash in crashes {
        let end = crash.last_exit.as_deref().unwrap_or("never ended");
        writeln!(out, "{}.{} generation {}, before it: {end}", crash.role, crash.shard, crash.generation)?;
        for died in &crash.deaths {
            let (piece, flow) = (died.piece_deaths, died.flow_deaths);
            writeln!(out, "  died on {}: {piece} times, {flow} times in its flow", died.breadcrumb)?;
        }
        for event in &crash.events {
            let seconds = event.at_ms as f64 / 1000.0;
            let [a, b, c] = event.args;
            writeln!(out, "  {seconds:>12.3} s  {:<10} {a} {b} {c}  {}", event.kind, event.text)?;
        }
    }
    Ok(())
}
