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
use tests::process::{fresh_seed, wait_until};
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
/// Port of the file server.
const HTTP: u16 = 8080;
/// Port of the echo server.
const ECHO: u16 = 7007;

fn main() -> ExitCode {
    let seed = std::env::args().nth(1).and_then(|word| word.parse().ok()).unwrap_or_else(fresh_seed);
    match private_net::enter([seed.to_string().into()]) {
        Ok(PrivateNet::Inside) => {}
        Ok(PrivateNet::Ran(status)) => return ExitCode::from(if status.success() { 0 } else { 1 }),
        Ok(PrivateNet::Forbidden(reason)) => {
            eprintln!("demo: no private network here ({reason})");
            return ExitCode::from(5);
        }
        Err(error) => {
            eprintln!("demo: {error}");
            return ExitCode::FAILURE;
        }
    }
    match demo(seed) {
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

/// Waits until a program on the stack listens.
fn listening(port: u16) -> Result<SocketAddr, String> {
    let addr: SocketAddr = format!("{STACK}:{port}").parse().map_err(text)?;
    let connect = || std::net::TcpStream::connect_timeout(&addr, Duration::from_secs(2)).is_ok();
    match wait_until(Duration::from_secs(20), connect) {
        true => Ok(addr),
        false => Err(format!("nobody listens at {addr}")),
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

fn demo(seed: u64) -> Result<bool, String> {
    println!("seed {seed}");
    let place = std::env::temp_dir().join(format!("axldemo{}", std::process::id()));
    std::fs::create_dir_all(&place).map_err(text)?;
    let scratch = Scratch(place);
    let (file, copy) = (scratch.0.join("file"), scratch.0.join("copy"));
    write_file(&file, seed).map_err(text)?;
    let wanted = sha256(&file)?;

    let spec = Spec {
        nic: "tap:axl0".into(),
        addr: format!("{STACK}/24"),
        tap_addr: Some("10.77.0.1/24".into()),
        more: Vec::new(),
    };
    let group = Group::up(&spec).map_err(text)?;
    let path = file.to_str().ok_or("a temporary directory with a strange name")?;
    let _http = group.example("http_file", &[&format!("{STACK}:{HTTP}"), path]).map_err(text)?;
    let _echo = group.example("echo", &[&format!("{STACK}:{ECHO}")]).map_err(text)?;
    let (http, echo) = (listening(HTTP)?, listening(ECHO)?);

    let streams = kernel_sockets(CONNECTIONS, echo).map_err(text)?;
    let load = Load {
        loaded: CONNECTIONS,
        ahead: 64 * 1024,
        rate: 256 * 1024,
        murmur_every: Duration::from_secs(1),
        seed,
    };
    let fleet = Fleet::launch(streams, load).map_err(text)?;
    let mut fetch = Fetch::start(&format!("http://{http}/file"), RATE, &copy).map_err(text)?;
    println!("{} MiB by curl at {} MiB/s, {CONNECTIONS} connections echoing", FILE >> 20, RATE >> 20);
    fleet.watch(Some("(no kill)"));
    std::thread::sleep(Duration::from_secs(2));

    let pause = Duration::from_millis(250)..Duration::from_millis(650);
    let mut strikes = Strikes::new(&group, &fleet, || fleet.bytes(), seed, pause);
    let plans = plans(&mut strikes);
    let (begun, count) = (Instant::now(), plans.len());
    for (n, plan) in plans.into_iter().enumerate() {
        strikes.strike(&plan)?;
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
        if fetch.ended().map_err(text)?.is_some() {
            return Err(format!(
                "curl ended at {} of {FILE} bytes, before the kills were over",
                fetch.bytes()
            ));
        }
    }
    strikes.end();
    let tallies = strikes.tallies().clone();
    drop(strikes);

    let fetched = wait_until(Duration::from_secs(120), || !matches!(fetch.ended(), Ok(None)));
    let status = fetch.ended().map_err(text)?;
    let whole = fetched && status.is_some_and(|status| status.success()) && sha256(&copy)? == wanted;
    let silences = fleet.silences();
    let report = fleet.finish(Duration::from_secs(30)).map_err(text)?;

    println!("\n{}", table(&tallies, CONNECTIONS as u64, &silences));
    println!("sha256 {wanted} {}", if whole { "matches" } else { "DOES NOT MATCH" });
    println!(
        "{} of {CONNECTIONS} connections ended cleanly, {} bytes verified, {} wrong",
        report.clean, report.bytes, report.bytes_wrong
    );
    report.lost.iter().for_each(|lost| println!("lost: {lost}"));
    let counted = |label| tallies.get(label).map_or(0, |tally| tally.counted);
    let enough = ["nicd", "netd", "sockd", "supervisor", "standby"].into_iter().all(|r| counted(r) >= KILLS);
    if !enough || counted("all but one") == 0 {
        println!("too few kills counted");
    }
    let held = whole && enough && counted("all but one") > 0;
    Ok(held && report.clean == CONNECTIONS && report.bytes_wrong == 0)
}
