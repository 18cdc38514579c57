//! `netctl metrics --listen ADDRESS:PORT`: counters, processes and sockets in Prometheus' text format, to
//! whoever asks by HTTP.
//!
//! No label tells one connection from another: what is served does not grow with the traffic. It is read from
//! the group's regions at each request, also while daemons are down.

use crate::group::{Access, Failure, HostSocket};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Bytes of a request that are looked at, and how long one may take.
const REQUEST_MAX: u64 = 8 * 1024;
const REQUEST_TIME: Duration = Duration::from_secs(2);
/// How often it looks whether it shall end.
const LOOK: Duration = Duration::from_millis(100);

/// What is served.
pub fn text(access: &Access) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let mut line = |text: core::fmt::Arguments<'_>| {
        let _ = writeln!(out, "{text}");
    };
    line(format_args!("# HELP axolotl_count_total Events counted by the daemons of a role, by name."));
    line(format_args!("# TYPE axolotl_count_total counter"));
    for ((role, name), count) in access.counters() {
        line(format_args!("axolotl_count_total{{role=\"{role}\",name=\"{name}\"}} {count}"));
    }
    let processes = access.processes();
    line(format_args!("# HELP axolotl_process_in_service Whether the process of a seat is ready."));
    line(format_args!("# TYPE axolotl_process_in_service gauge"));
    for row in &processes {
        let (role, index, on) = (row.role, row.index, u8::from(row.in_service));
        line(format_args!("axolotl_process_in_service{{role=\"{role}\",index=\"{index}\"}} {on}"));
    }
    line(format_args!("# HELP axolotl_process_restarts_total How often a seat was started again."));
    line(format_args!("# TYPE axolotl_process_restarts_total counter"));
    for row in &processes {
        let (role, index, restarts) = (row.role, row.index, row.restarts);
        line(format_args!("axolotl_process_restarts_total{{role=\"{role}\",index=\"{index}\"}} {restarts}"));
    }
    line(format_args!("# HELP axolotl_process_uptime_seconds Since when the process of a seat runs."));
    line(format_args!("# TYPE axolotl_process_uptime_seconds gauge"));
    for row in &processes {
        let (role, index, uptime) = (row.role, row.index, row.uptime.as_secs_f64());
        line(format_args!("axolotl_process_uptime_seconds{{role=\"{role}\",index=\"{index}\"}} {uptime:.3}"));
    }
    let mut sockets: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for HostSocket { row, .. } in access.host_sockets_alone() {
        *sockets.entry((row.proto(), row.state_name())).or_default() += 1;
    }
    line(format_args!("# HELP axolotl_sockets Sockets in a state."));
    line(format_args!("# TYPE axolotl_sockets gauge"));
    for ((proto, state), count) in sockets {
        line(format_args!("axolotl_sockets{{proto=\"{proto}\",state=\"{state}\"}} {count}"));
    }
    out
}

/// The answer to a request line.
fn answer(request: &str, access: &Access) -> String {
    let mut words = request.split_whitespace();
    let (status, body) = match (words.next(), words.next()) {
        (Some("GET" | "HEAD"), Some("/metrics" | "/")) => ("200 OK", text(access)),
        (Some("GET" | "HEAD"), Some(_)) => ("404 Not Found", "see /metrics\n".to_owned()),
        (Some(_), Some(_)) => ("405 Method Not Allowed", "GET alone\n".to_owned()),
        _ => ("400 Bad Request", String::new()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    if request.starts_with("HEAD ") { head } else { head + &body }
}

fn serve(mut stream: TcpStream, access: &Access) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(REQUEST_TIME))?;
    stream.set_write_timeout(Some(REQUEST_TIME))?;
    let mut reader = BufReader::new(stream.try_clone()?.take(REQUEST_MAX));
    let (mut request, mut header) = (String::new(), String::new());
    reader.read_line(&mut request)?;
    while reader.read_line(&mut header)? > 2 {
        header.clear();
    }
    stream.write_all(answer(&request, access).as_bytes())
}

/// Serves until `stop` is set; the address it listens at goes to `out`.
///
/// # Errors
/// When nothing can listen there.
pub fn run(
    access: &Access,
    listen: SocketAddr,
    stop: &AtomicBool,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let failed = |e| Failure::Io("listen", e);
    let listener = TcpListener::bind(listen).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let told = listener.local_addr().and_then(|local| {
        writeln!(out, "http://{local}/metrics")?;
        out.flush()
    });
    told.map_err(|e| Failure::Io("standard output", e))?;
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            // One that asks for nothing sensible, or goes away, is nobody's loss.
            Ok((stream, _)) => drop(serve(stream, access)),
            Err(_) => std::thread::sleep(LOOK),
        }
    }
    Ok(())
}
