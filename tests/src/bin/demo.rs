//! The main job, on real input: a program on the stack serves a file to the kernel's curl and echoes
//! 64 more kernel connections, while every process of the group is killed again and again. Exit code 0
//! only if the file and every byte came through and no connection was lost.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};
use tests::process::group::{Group, Role, Spec, kernel_sockets};
use tests::process::private_net::{self, PrivateNet};
use tests::process::strike::{Plan, Strikes, table};
use tests::process::{autopsy, fresh_seed, wait_until};
use tests::remote::counter;
use tests::remote::fetch::Fetch;
use tests::remote::fleet::{Fleet, Load};

/// The file, in bytes: 256 MiB.
const FILE: u64 = 256 << 20;
/// curl's limit: the file takes half a minute.
const RATE: u64 = 8 << 20;
/// Connections beside curl.
const CONNECTIONS: usize = 64;
/// Kills of each process that count.
const KILLS: u64 = 5;
/// The stack's address.
const STACK: &str = "10.77.0.2";
/// The remote's.
const REMOTE: &str = "10.77.0.1";
/// Port of the file server.
const HTTP: u16 = 8080;
/// Port of the echo server.
const ECHO: u16 = 7007;

fn main() -> ExitCode {
    let seed = std::env::args().nth(1).and_then(|word| word.parse().ok()).unwrap_or_else(fresh_seed);
    let wire = std::env::args().nth(2).is_some_and(|word| word == "wire");
    let place = if wire { Ok(PrivateNet::Inside) } else { private_net::enter([seed.to_string().into()]) };
    let over = match place {
        Ok(PrivateNet::Inside) if wire => Over::Wire,
        Ok(PrivateNet::Inside) => Over::Tap,
        Ok(PrivateNet::Ran(status)) => return ExitCode::from(if status.success() { 0 } else { 1 }),
        Ok(PrivateNet::Forbidden(reason)) => {
            println!("no private network with a TAP here ({reason}):");
            println!("over a wire to a second group instead, whose sockets stand for the kernel's");
            Over::Wire
        }
        Err(error) => {
            eprintln!("demo: {error}");
            return ExitCode::FAILURE;
        }
    };
    match demo(seed, over) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error} (seed {seed})");
            ExitCode::FAILURE
        }
    }
}

/// Files of the demo, removed with it.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left in a temporary directory harms nobody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn write_file(path: &Path, seed: u64) -> io::Result<()> {
    use std::io::Write;
    let mut file = std::fs::File::create(path)?;
    let mut chunk = vec![0; 1 << 20];
    for offset in (0..FILE).step_by(chunk.len()) {
        counter::fill(seed, offset, &mut chunk);
        file.write_all(&chunk)?;
    }
    Ok(())
}

fn sha256(path: &Path) -> Result<String, String> {
    let output = Command::new("sha256sum").arg(path).output().map_err(text)?;
    let line = String::from_utf8_lossy(&output.stdout).into_owned();
    line.split_whitespace().next().map(str::to_owned).ok_or_else(|| "sha256sum said nothing".into())
}

/// What lies between the stack and the remote.
#[derive(Clone, Copy, PartialEq)]
enum Over {
    /// A TAP: the remote is the kernel.
    Tap,
    /// A wire: the remote is a second group.
    Wire,
}

/// The far end of the cable.
enum Remote {
    Kernel,
    Second { session: libnetclient::Session, _group: Box<Group> },
}

impl Remote {
    fn tries(&self, addr: SocketAddr) -> bool {
        let patience = Duration::from_secs(2);
        match self {
            Remote::Kernel => std::net::TcpStream::connect_timeout(&addr, patience).is_ok(),
            Remote::Second { session, .. } => {
                libnetclient::TcpStream::connect_timeout_in(session, &addr, patience).is_ok()
            }
        }
    }

    /// Waits until a program on the stack listens.
    fn listening(&self, port: u16) -> Result<SocketAddr, String> {
        let addr: SocketAddr = format!("{STACK}:{port}").parse().map_err(text)?;
        match wait_until(Duration::from_secs(20), || self.tries(addr)) {
            true => Ok(addr),
            false => Err(format!("nobody listens at {addr}")),
        }
    }

    fn fleet(&self, to: SocketAddr, load: Load) -> io::Result<Fleet> {
        match self {
            Remote::Kernel => Fleet::launch(kernel_sockets(CONNECTIONS, to)?, load),
            Remote::Second { session, .. } => {
                let connect = |_| {
                    let stream = libnetclient::TcpStream::connect_in(session, to)?;
                    stream.set_nonblocking(true)?;
                    Ok(stream)
                };
                Fleet::launch((0..CONNECTIONS).map(connect).collect::<io::Result<Vec<_>>>()?, load)
            }
        }
    }

    fn fetch(&self, from: SocketAddr, to: &Path) -> io::Result<Fetch> {
        match self {
            Remote::Kernel => Fetch::curl(&format!("http://{from}/"), RATE, to),
            Remote::Second { session, .. } => {
                Fetch::over(libnetclient::TcpStream::connect_in(session, from)?, RATE, to)
            }
        }
    }
}

/// The group that is struck, and its remote.
fn start(over: Over, scratch: &Path) -> io::Result<(Group, Remote)> {
    let spec = |nic: String, addr: &str, tap_addr: Option<String>| Spec {
        nic,
        addr: format!("{addr}/24"),
        tap_addr,
        more: Vec::new(),
    };
    match over {
        Over::Tap => {
            let tap_addr = Some(format!("{REMOTE}/24"));
            Ok((Group::up(&spec("tap:axl0".into(), STACK, tap_addr))?, Remote::Kernel))
        }
        Over::Wire => {
            let wire = format!("wire:{}", scratch.join("cable").display());
            // `up` waits for the link, and a cable has one when both ends are plugged in.
            let first = std::thread::spawn({
                let spec = spec(wire.clone(), STACK, None);
                move || Group::up(&spec)
            });
            let second = Group::up(&spec(wire, REMOTE, None))?;
            let first = first.join().unwrap_or_else(|_| Err(io::Error::other("a panic")))?;
            let session = second.session(libnetclient::Size::default())?;
            Ok((first, Remote::Second { session, _group: Box::new(second) }))
        }
    }
}

/// Every kill that the demo promises, in a random order.
fn plans(strikes: &mut Strikes<'_>) -> Vec<Plan> {
    use rand::seq::SliceRandom;
    let roles = [Role::Nicd, Role::Netd, Role::Sockd, Role::Supervisor, Role::Standby];
    let mut plans: Vec<Plan> = Vec::new();
    for _ in 0..KILLS {
        plans.extend(roles.map(Plan::one));
    }
    let soon = Duration::from_millis(8);
    plans.push(Plan::all_but(Role::Supervisor));
    plans.push(Plan::all_but(Role::Standby));
    plans.push(Plan::during(Role::Netd, Role::Sockd, soon));
    plans.push(Plan::during(Role::Nicd, Role::Netd, soon));
    plans.push(Plan::during(Role::Supervisor, Role::Netd, soon));
    plans.push(Plan::during(Role::Netd, Role::Standby, soon));
    plans.shuffle(strikes.rng());
    plans
}

fn demo(seed: u64, over: Over) -> Result<bool, String> {
    println!("seed {seed}");
    let place = std::env::temp_dir().join(format!("axldemo{}", std::process::id()));
    std::fs::create_dir_all(&place).map_err(text)?;
    let scratch = Scratch(place);
    let (file, copy) = (scratch.0.join("file"), scratch.0.join("copy"));
    write_file(&file, seed).map_err(text)?;
    let wanted = sha256(&file)?;

    let (group, remote) = start(over, &scratch.0).map_err(text)?;
    let path = file.to_str().ok_or("a temporary directory with a strange name")?;
    let _http = group.example("http_file", &[path, &HTTP.to_string()]).map_err(text)?;
    let _echo = group.example("echo", &[&ECHO.to_string()]).map_err(text)?;
    let (http, echo) = (remote.listening(HTTP)?, remote.listening(ECHO)?);

    let load = Load {
        loaded: CONNECTIONS,
        ahead: 64 * 1024,
        rate: 256 * 1024,
        murmur_every: Duration::from_secs(1),
        seed,
    };
    let fleet = remote.fleet(echo, load).map_err(text)?;
    let mut fetch = remote.fetch(http, &copy).map_err(text)?;
    println!("{} MiB at {} MiB/s, {CONNECTIONS} connections echoing beside it", FILE >> 20, RATE >> 20);
    let pause = Duration::from_millis(250)..Duration::from_millis(650);
    let mut strikes = Strikes::new(&group, &fleet, || fleet.bytes(), seed, pause);
    strikes.calm(4);
    let plans = plans(&mut strikes);
    let (begun, count) = (Instant::now(), plans.len());
    for (n, plan) in plans.into_iter().enumerate() {
        strikes.strike(&plan).map_err(|why| format!("{why}\n{}", autopsy::text(&group)))?;
        println!(
            "{:>4} s  {:>3} of {} MiB  {:>2} of {count} strikes ({})  lost {}  wrong {}",
            begun.elapsed().as_secs(),
            fetch.bytes() >> 20,
            FILE >> 20,
            n + 1,
            plan.label,
            fleet.lost(),
            fleet.wrong(),
        );
        if let Some(end) = fetch.ended() {
            let bytes = fetch.bytes();
            return Err(format!("the download ended at {bytes} bytes, before the kills were over: {end:?}"));
        }
    }
    strikes.end();
    let tallies = strikes.tallies().clone();
    drop(strikes);

    wait_until(Duration::from_secs(120), || fetch.ended().is_some());
    let end = fetch.ended().unwrap_or_else(|| Err("the download does not end".into()));
    let whole = end.is_ok() && sha256(&copy)? == wanted;
    let report = fleet.finish(Duration::from_secs(30)).map_err(text)?;

    println!("\n{}", table(&tallies, CONNECTIONS as u64, &report.silences));
    println!("sha256 {wanted} {}", if whole { "matches" } else { "DOES NOT MATCH" });
    println!(
        "{} of {CONNECTIONS} connections ended cleanly, {} bytes verified, {} wrong",
        report.clean, report.bytes, report.bytes_wrong
    );
    end.err().into_iter().for_each(|end| println!("download: {end}"));
    report.lost.iter().for_each(|lost| println!("lost: {lost}"));
    let counted = |label| tallies.get(label).map_or(0, |tally| tally.counted);
    let enough = ["nicd", "netd", "sockd", "supervisor", "standby"].into_iter().all(|r| counted(r) >= KILLS);
    if !enough || counted("all but one") == 0 {
        println!("too few kills counted");
    }
    let held = whole
        && enough
        && counted("all but one") > 0
        && report.clean == CONNECTIONS
        && report.bytes_wrong == 0;
    if !held {
        println!("{}", autopsy::text(&group));
    }
    Ok(held)
}
