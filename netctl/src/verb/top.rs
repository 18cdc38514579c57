//! `netctl top`: the processes with the time they take, and what the counters count a second, again and again.
//!
//! On a terminal each picture takes the place of the last one and is cut to the screen; else they follow one
//! another.

use crate::group::{Access, Failure};
use crate::table::{Form, Table, json};
use proto::hard::conns::Kind;
use proto::id::Role;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How often it looks whether it shall end.
const LOOK: Duration = Duration::from_millis(50);
/// Ticks a second in /proc: USER_HZ of Linux on the machines this runs on (asm-generic/param.h).
const USER_HZ: f64 = 100.0;
/// Lines where the height of the screen is not known.
const LINES: usize = 40;

/// How it is asked to show.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    /// Between two pictures.
    pub delay: Duration,
    /// Pictures; `None` for as many as there is time for.
    pub count: Option<u64>,
}

/// What is read at a moment.
struct Moment {
    at: Instant,
    counters: BTreeMap<(Role, String), u64>,
    /// Ticks of the CPU, by process.
    ticks: BTreeMap<u32, u64>,
}

#[derive(Debug, Serialize)]
struct Process {
    role: &'static str,
    index: u16,
    pid: u32,
    /// Percent of one core.
    cpu: f64,
    uptime_s: u64,
    restarts: u32,
    in_service: bool,
}

#[derive(Debug, Serialize)]
struct Rate {
    name: String,
    per_second: f64,
    total: u64,
}

#[derive(Debug, Serialize)]
struct Picture {
    group: String,
    connections: usize,
    listeners: usize,
    datagram_sockets: usize,
    processes: Vec<Process>,
    counters: Vec<Rate>,
}

/// User and system time of a process in ticks: fields 14 and 15 of proc_pid_stat(5).
fn ticks_of(stat: &str) -> Option<u64> {
    // The name may hold anything, blanks and parentheses too.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some(next()? + next()?)
}

impl Moment {
    fn of(access: &Access) -> Moment {
        let ticks = |pid: u32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            Some((pid, ticks_of(&stat)?))
        };
        let ticks = access.processes().iter().filter_map(|row| ticks(row.pid)).collect();
        Moment { at: Instant::now(), counters: access.counters(), ticks }
    }
}

/// What the counters counted a second, the most first; a counter that began anew counts from 0.
fn rates(before: &Moment, after: &Moment, seconds: f64) -> Vec<Rate> {
    let rate = |((role, name), total): (&(Role, String), &u64)| {
        let was = before.counters.get(&(*role, name.clone())).copied().unwrap_or(0);
        let more = total.checked_sub(was).unwrap_or(*total);
        (more > 0).then(|| Rate {
            name: format!("{role}_{name}"),
            per_second: more as f64 / seconds,
            total: *total,
        })
    };
    let mut rates: Vec<Rate> = after.counters.iter().filter_map(rate).collect();
    rates.sort_by(|a, b| b.per_second.total_cmp(&a.per_second));
    rates
}

fn picture(access: &Access, name: &str, before: &Moment, after: &Moment) -> Picture {
    let seconds = after.at.duration_since(before.at).as_secs_f64().max(1e-3);
    let per_tick = 100.0 / USER_HZ;
    let process = |row: crate::group::ProcessRow| {
        let ticks = |moment: &Moment| moment.ticks.get(&row.pid).copied();
        let took = ticks(after).zip(ticks(before)).map_or(0, |(after, before)| after.saturating_sub(before));
        Process {
            role: row.role.name(),
            index: row.index,
            pid: row.pid,
            cpu: took as f64 * per_tick / seconds,
            uptime_s: row.uptime.as_secs(),
            restarts: row.restarts,
            in_service: row.in_service,
        }
    };
    let sockets = access.sockets();
    let count = |is: fn(Kind) -> bool| sockets.iter().filter(|row| is(row.opening.kind)).count();
    Picture {
        group: name.to_owned(),
        connections: count(|kind| matches!(kind, Kind::TcpActive | Kind::TcpPassive)),
        listeners: count(|kind| kind == Kind::TcpListener),
        datagram_sockets: count(|kind| kind == Kind::Udp),
        processes: access.processes().into_iter().map(process).collect(),
        counters: rates(before, after, seconds),
    }
}

fn text(picture: &Picture) -> Vec<String> {
    let Picture { group, connections, listeners, datagram_sockets, processes, counters } = picture;
    let head = format!(
        "group {group}: {connections} connections, {listeners} listeners, {datagram_sockets} datagram sockets"
    );
    let mut table = Table::new(&["ROLE", "INDEX", "PID", "CPU%", "UPTIME", "RESTARTS", "READY"]);
    for p in processes {
        let (cpu, ready) = (format!("{:.1}", p.cpu), if p.in_service { "yes" } else { "no" });
        let (uptime, restarts) = (format!("{} s", p.uptime_s), p.restarts.to_string());
        table.row([
            p.role.into(),
            p.index.to_string(),
            p.pid.to_string(),
            cpu,
            uptime,
            restarts,
            ready.into(),
        ]);
    }
    let mut rates = Table::new(&["COUNTER", "A SECOND", "TOTAL"]);
    for rate in counters {
        rates.row([rate.name.clone(), format!("{:.1}", rate.per_second), rate.total.to_string()]);
    }
    let mut out = Vec::new();
    // Memory takes all that is written.
    let _ = table.write(&mut out);
    out.push(b'\n');
    let _ = rates.write(&mut out);
    let tables = String::from_utf8_lossy(&out).into_owned();
    std::iter::once(head).chain(tables.lines().map(str::to_owned)).collect()
}

/// Runs it until `stop`, or until enough was shown.
///
/// # Errors
/// When the answer can't be written.
pub fn run(
    access: &Access,
    name: &str,
    form: Form,
    pace: Pace,
    stop: &AtomicBool,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let terminal = std::io::stdout().is_terminal() && form == Form::Table;
    let mut before = Moment::of(access);
    let mut shown = 0;
    while pace.count.is_none_or(|count| shown < count) {
        let until = before.at + pace.delay;
        while !stop.load(Ordering::Relaxed) && Instant::now() < until {
            std::thread::sleep(LOOK.min(until.saturating_duration_since(Instant::now())));
        }
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let after = Moment::of(access);
        let picture = picture(access, name, &before, &after);
        let written = match form {
            Form::Json => json(out, &picture),
            Form::Table => {
                let size = rustix::termios::tcgetwinsize(std::io::stdout());
                let room = size.map_or(LINES, |size| usize::from(size.ws_row)).max(2) - 1;
                let most = if terminal { room } else { usize::MAX };
                let lines = text(&picture);
                // ECMA-48: home, and erase what is below.
                let begin = if terminal { "\x1b[H\x1b[J" } else { "" };
                let lines: Vec<String> = lines.into_iter().take(most).collect();
                writeln!(out, "{begin}{}", lines.join("\n"))
            }
        };
        written.and_then(|()| out.flush()).map_err(|e| Failure::Io("standard output", e))?;
        (before, shown) = (after, shown + 1);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_read_behind_any_name() {
        let stat = "77 (a ) b) S 1 77 77 0 -1 4194304 100 0 0 0 12 30 0 0 20 0 1 0 5 1 2";
        assert_eq!(ticks_of(stat), Some(42));
        assert_eq!(ticks_of("77 (a) S 1"), None);
    }

    #[test]
    fn rates_are_differences_over_time() {
        let moment = |counts: &[(&str, u64)]| Moment {
            at: Instant::now(),
            counters: counts.iter().map(|(name, n)| ((Role::Netd, (*name).to_owned()), *n)).collect(),
            ticks: BTreeMap::new(),
        };
        let before = moment(&[("a", 10), ("b", 5), ("c", 100)]);
        let rates = rates(&before, &moment(&[("a", 10), ("b", 25), ("c", 40), ("d", 8)]), 2.0);
        let shown: Vec<_> = rates.iter().map(|r| (r.name.as_str(), r.per_second, r.total)).collect();
        assert_eq!(shown, [("netd_c", 20.0, 40), ("netd_b", 10.0, 25), ("netd_d", 4.0, 8)]);
    }
}
