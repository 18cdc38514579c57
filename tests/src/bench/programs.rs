//! Unmodified programs: a stream of iperf3 beside the native library's, nginx under wrk and redis under its
//! benchmark beside the same on the kernel over veth, and what a socket of a program costs.
//!
//! The programs that make the load are always the kernel's, in this namespace.

use super::load::{self, Service};
use super::paths::{Path, Paths, Server, Wired};
use super::row::{Goal, Row, Series, rounded};
use super::{ROUNDS, Wanted, machine, memory, say};
use crate::process::exec::{Running, on_the_stack, program, servers};
use crate::process::group::Group;
use crate::process::wait_until;
use libnetclient::{Size, TcpStream};
use serde_json::{Value, json};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

/// The remote of every program on the TAP: this namespace.
const REMOTE: &str = "10.79.0.1";
/// How long a stream flows: iperf3 takes whole seconds.
const STREAM: Duration = Duration::from_secs(1);
/// Ports of the programs.
const IPERF3: u16 = 7150;
const NGINX: u16 = 7151;
const REDIS: u16 = 7152;
/// Connections of wrk and of redis-benchmark, and what each does in a measurement.
const WRK: [&str; 3] = ["-t1", "-c64", "-d2"];
const REDIS_LOAD: [&str; 8] = ["-c", "50", "-n", "50000", "-t", "get", "-d", "64"];
/// Bytes of the file that nginx serves.
const FILE: usize = 512;
/// How long a program may take until it listens.
const PATIENCE: Duration = Duration::from_secs(20);
/// Connections that a program holds for `exec_socket_bytes`: netexec has 4096 at a time.
const SOCKETS: usize = 4000;
/// Looks on the way up.
const LOOKS: usize = 5;
/// Bytes of one socket that must not be exceeded.
const GOAL: f64 = 8192.0;

/// The rows of this file.
pub const IDS: [&str; 5] =
    ["exec_iperf3_from", "exec_iperf3_to", "exec_nginx", "exec_redis_get", "exec_socket_bytes"];

/// What is asked for of [`IDS`].
///
/// # Errors
/// When a program is not here, a path can't be laid or a load fails.
pub fn rows(wanted: &Wanted) -> io::Result<Vec<Row>> {
    let mut rows = Vec::new();
    if IDS[..4].iter().any(|id| wanted.has(id)) {
        let paths = Paths::lay()?;
        if wanted.has("exec_iperf3_from") || wanted.has("exec_iperf3_to") {
            rows.extend(streams(wanted, &paths)?);
        }
        if wanted.has("exec_nginx") {
            let (stack, veth) = web(&paths)?;
            rows.push(beside_veth("exec_nginx", stack, veth));
        }
        if wanted.has("exec_redis_get") {
            let (stack, veth) = redis(&paths)?;
            rows.push(beside_veth("exec_redis_get", stack, veth));
        }
    }
    if wanted.has("exec_socket_bytes") {
        rows.push(socket_bytes()?);
    }
    Ok(rows)
}

fn found(name: &str) -> io::Result<String> {
    let path = program(name).and_then(|path| path.to_str().map(str::to_owned));
    path.ok_or_else(|| io::Error::other(format!("{name} is not here")))
}

/// What a command prints.
fn said(command: &mut Command) -> io::Result<String> {
    let output = command.stdin(Stdio::null()).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    match output.status.success() {
        true => Ok(text),
        false => Err(io::Error::other(format!("{}: {text}", output.status))),
    }
}

/// Starts a server and waits until it listens.
fn serve(mut command: Command, at: SocketAddr) -> io::Result<Running> {
    let server = Running(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
    match wait_until(PATIENCE, || std::net::TcpStream::connect_timeout(&at, PATIENCE).is_ok()) {
        true => Ok(server),
        false => Err(io::Error::other(format!("nothing listens at {at}"))),
    }
}

/// Two ways in turn, once to warm up and then [`ROUNDS`] times.
fn in_turn(
    what: &str,
    mut one: impl FnMut() -> io::Result<f64>,
    mut other: impl FnMut() -> io::Result<f64>,
) -> io::Result<(Vec<f64>, Vec<f64>)> {
    let mut seen = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        say(&format!("{what}: {round} of {ROUNDS}"));
        let (ours, theirs) = (one()?, other()?);
        if round > 0 {
            seen.0.push(ours);
            seen.1.push(theirs);
        }
    }
    Ok(seen)
}

fn streams(wanted: &Wanted, paths: &Paths) -> io::Result<Vec<Row>> {
    let iperf3 = found("iperf3")?;
    let mut server = Command::new(&iperf3);
    server.args(["-s", "-B", REMOTE, "-p", &IPERF3.to_string()]);
    let _server = serve(server, SocketAddr::new(REMOTE.parse().expect("an address"), IPERF3))?;
    let port = IPERF3.to_string();
    let run = |more: &[&str]| {
        // The kernel's end with what the load programs ask for too.
        let mut words = vec![iperf3.as_str(), "-c", REMOTE, "-p", &port, "-t", "1", "-C", "cubic", "-J"];
        words.extend(more);
        let text = said(&mut on_the_stack(&paths.group, &words))?;
        let value: Value = serde_json::from_str(&text).map_err(io::Error::other)?;
        let bits = value["end"]["sum_received"]["bits_per_second"].as_f64();
        bits.map(|bits| bits / 1e9).ok_or_else(|| io::Error::other(text))
    };
    let row = |id, (ours, native): (Vec<f64>, Vec<f64>)| {
        let mut row = Row {
            id,
            unit: "Gbit/s",
            higher: true,
            ours: Series::new("netexec", ours),
            baseline: Some(Series::new("native", native)),
            goal: Goal::default(),
            more: Vec::new(),
        };
        row.goal = Goal::new("≥ 0.5 × native", row.ratio().is_some_and(|ratio| ratio >= 0.5));
        row
    };
    let mut rows = Vec::new();
    if wanted.has("exec_iperf3_from") {
        let _servers = paths.serve(Service::Source)?;
        let native = || load::receive(Path::Stack.addr(Service::Source), STREAM);
        rows.push(row("exec_iperf3_from", in_turn("exec_iperf3_from", || run(&[]), native)?));
    }
    if wanted.has("exec_iperf3_to") {
        let _servers = paths.serve(Service::Sink)?;
        let native = || load::send(Path::Stack.addr(Service::Sink), STREAM);
        rows.push(row("exec_iperf3_to", in_turn("exec_iperf3_to", || run(&["-R"]), native)?));
    }
    Ok(rows)
}

fn beside_veth(id: &'static str, ours: Vec<f64>, veth: Vec<f64>) -> Row {
    let mut row = Row {
        id,
        unit: "1/s",
        higher: true,
        ours: Series::new("netexec", ours),
        baseline: Some(Series::new("kernel_veth", veth)),
        goal: Goal::default(),
        more: Vec::new(),
    };
    row.goal = Goal::new("≥ 0.5 × veth", row.ratio().is_some_and(|ratio| ratio >= 0.5));
    row
}

/// A directory for a program's files, gone with its owner.
struct Scratch(PathBuf);

impl Scratch {
    fn new(group: &Group) -> io::Result<Scratch> {
        let dir = group.dir().join("programs");
        std::fs::create_dir_all(&dir)?;
        Ok(Scratch(dir))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left in a temporary directory harms nobody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn at(path: Path, port: u16) -> SocketAddr {
    let mut at = path.addr(Service::Sink);
    at.set_port(port);
    at
}

fn web(paths: &Paths) -> io::Result<(Vec<f64>, Vec<f64>)> {
    let (nginx, wrk) = (found("nginx")?, found("wrk")?);
    let scratch = Scratch::new(&paths.group)?;
    std::fs::write(scratch.0.join("file"), [b'x'; FILE])?;
    // One process each, so that its death ends it; connections are kept for the whole measurement.
    let words = |side: &str| -> io::Result<[String; 5]> {
        let (top, conf) = (scratch.0.display(), scratch.0.join(format!("{side}.conf")));
        let text = format!(
            "daemon off; master_process off; pid {top}/{side}.pid; error_log {top}/{side}.log;\n\
             events {{ worker_connections 1024; }}\n\
             http {{ access_log off; sendfile on; keepalive_requests 1000000000;\n\
               client_body_temp_path {top}/a; proxy_temp_path {top}/b; fastcgi_temp_path {top}/c;\n\
               uwsgi_temp_path {top}/d; scgi_temp_path {top}/e;\n\
               server {{ listen 0.0.0.0:{NGINX}; root {top}; }} }}\n"
        );
        std::fs::write(&conf, text)?;
        let conf = conf.display().to_string();
        Ok([nginx.clone(), "-p".into(), top.to_string(), "-c".into(), conf])
    };
    let stack = words("stack")?;
    let stack = stack.each_ref().map(String::as_str);
    let _stack = serve(on_the_stack(&paths.group, &stack), at(Path::Stack, NGINX))?;
    let veth = words("veth")?;
    let mut far = paths.far.command(&veth[0]);
    far.args(&veth[1..]);
    let _veth = serve(far, at(Path::Veth, NGINX))?;
    let measure = |path| {
        let url = format!("http://{}/file", at(path, NGINX));
        let text = said(Command::new(&wrk).args(WRK).arg(url))?;
        if text.contains("Non-2xx") || text.contains("Socket errors") {
            return Err(io::Error::other(text));
        }
        let line = text.lines().find_map(|line| line.strip_prefix("Requests/sec:"));
        line.and_then(|number| number.trim().parse().ok()).ok_or_else(|| io::Error::other(text))
    };
    in_turn("exec_nginx", || measure(Path::Stack), || measure(Path::Veth))
}

fn redis(paths: &Paths) -> io::Result<(Vec<f64>, Vec<f64>)> {
    let (server, benchmark) = (found("redis-server")?, found("redis-benchmark")?);
    let scratch = Scratch::new(&paths.group)?;
    let port = REDIS.to_string();
    let words =
        ["--bind", "0.0.0.0", "--port", &port, "--save", "", "--appendonly", "no", "--protected-mode", "no"];
    let mut on_stack = vec![server.as_str()];
    on_stack.extend(words);
    let mut stack = on_the_stack(&paths.group, &on_stack);
    stack.current_dir(&scratch.0);
    let _stack = serve(stack, at(Path::Stack, REDIS))?;
    let mut veth = paths.far.command(&server);
    veth.args(words).current_dir(&scratch.0);
    let _veth = serve(veth, at(Path::Veth, REDIS))?;
    let measure = |path| {
        let to = at(path, REDIS);
        let host = to.ip().to_string();
        let whom = ["-h", &host, "-p", &port, "--csv"];
        let text = said(Command::new(&benchmark).args(whom).args(REDIS_LOAD))?;
        // "GET","123456.78",…
        let line = text.lines().find_map(|line| line.strip_prefix("\"GET\",\""));
        let number = line.and_then(|rest| rest.split('"').next()?.parse().ok());
        number.ok_or_else(|| io::Error::other(text))
    };
    in_turn("exec_redis_get", || measure(Path::Stack), || measure(Path::Veth))
}

/// What an idle accepted connection of an unmodified program costs in the bridge: netexec's processes, and all
/// that the kernel's own memory grew by, for the remote is a native client. The group's daemons and the
/// program are told beside it.
fn socket_bytes() -> io::Result<Row> {
    let kernel = memory::kernel()?;
    let wired = Wired::lay()?;
    let server = Server::by_netexec(&wired.server, Service::Hold)?;
    let daemons: Vec<u32> = wired.server.processes().iter().map(|row| row.pid).collect();
    let both = ["netexec-server", "netexec-holder"].map(|name| servers(&wired.server, name));
    let bridge: Vec<u32> =
        both.into_iter().flatten().map(|pid| pid.as_raw_nonzero().get().cast_unsigned()).collect();
    let rest = [&daemons[..], &[server.pid()]].concat();
    let size = Size { active: SOCKETS as u32, passive: 1, tx_pages: 64, rx_pages: 64 };
    let session = wired.client.session(size)?;
    let mut held: Vec<TcpStream> = Vec::with_capacity(SOCKETS);
    let before = (machine::pss(&bridge), machine::pss(&rest), machine::kernel_memory());
    let (mut seen, mut of_bridge, mut of_rest) = (Vec::new(), 0.0, 0.0);
    for look in 1..=LOOKS {
        while held.len() < SOCKETS * look / LOOKS {
            let port = Service::Hold.port() + (held.len() % memory::HOLD_PORTS) as u16;
            let to = SocketAddr::from(([10, 79, 4, 2], port));
            held.push(TcpStream::connect_timeout_in(&session, &to, PATIENCE)?);
        }
        // Accepts come to rest.
        std::thread::sleep(Duration::from_millis(500));
        let n = held.len() as f64;
        let grown = |now: u64, then: u64| now.saturating_sub(then) as f64 / n;
        of_bridge = grown(machine::pss(&bridge), before.0);
        of_rest = grown(machine::pss(&rest), before.1);
        seen.push(of_bridge + grown(machine::kernel_memory(), before.2));
        say(&format!("exec_socket_bytes: {:.0} with {} connections", seen[seen.len() - 1], held.len()));
    }
    let last = seen[seen.len() - 1];
    let ours = Series::new("netexec_and_kernel", seen);
    Ok(Row {
        id: "exec_socket_bytes",
        unit: "bytes",
        higher: false,
        // The kernel's memory is the whole machine's: one look alone may be wrong by a lot.
        goal: Goal::new("≤ 8 KiB", ours.median() <= GOAL),
        ours,
        baseline: Some(kernel),
        more: vec![
            ("connections", json!(held.len())),
            ("at_the_end", rounded(last)),
            ("netexec_alone", rounded(of_bridge)),
            ("daemons_and_program", rounded(of_rest)),
        ],
    })
}
