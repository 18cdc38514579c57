//! The C library: an example in C, built through the pkg-config file, against the kernel over a TAP,
//! while the daemons are killed.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tests::process::group::{Group, Role, Spec, binaries, kernel_sockets};
use tests::process::strike::{Plan, Strikes, table};
use tests::process::{fresh_seed, private_net, wait_until};
use tests::remote::fleet::{Fleet, Load};

const STACK: &str = "10.81.0.2";
const KERNEL: &str = "10.81.0.1";
const PORT: u16 = 7008;
const PATIENCE: Duration = Duration::from_secs(60);
const SOURCE: &str = include_str!("../../libnetclient/capi/examples/echo.c");

/// A file in a fresh directory that goes with its owner.
struct Built(PathBuf);

impl Drop for Built {
    fn drop(&mut self) {
        // Left behind is no failure of what was tested.
        let _ = std::fs::remove_dir_all(self.0.parent().expect("a directory"));
    }
}

fn said(command: &mut Command) -> String {
    let output = command.output().expect("a tool of the build");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {out}{err}");
    out.into_owned()
}

/// The example, compiled; `linked` says how.
fn built(name: &str, linked: impl FnOnce(&Path) -> Vec<String>) -> Built {
    let dir = std::env::temp_dir().join(format!("axlcapi{}{name}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a directory");
    let (source, program) = (dir.join("echo.c"), dir.join("echo_c"));
    std::fs::write(&source, SOURCE).expect("written");
    let mut cc = Command::new("cc");
    cc.args(["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-o"]).arg(&program).arg(&source);
    said(cc.args(linked(&binaries())));
    Built(program)
}

fn shared() -> Built {
    built("so", |bin| {
        let mut config = Command::new("pkg-config");
        config.args(["--cflags", "--libs", "netclient"]).env("PKG_CONFIG_PATH", bin);
        let mut words: Vec<String> = said(&mut config).split_whitespace().map(str::to_owned).collect();
        words.push(format!("-Wl,-rpath,{}", bin.display()));
        words
    })
}

fn up() -> Group {
    let spec = Spec {
        nic: "tap:axl7".into(),
        addr: format!("{STACK}/24"),
        tap_addr: Some(format!("{KERNEL}/24")),
        more: Vec::new(),
    };
    Group::up(&spec).expect("a group")
}

/// The example at work; ends when this does.
struct Running {
    child: Child,
}

impl Running {
    fn start(group: &Group, program: &Built, args: &[&str]) -> Running {
        let mut command = Command::new(&program.0);
        command.env("AXOLOTL", group.name()).env("AXOLOTL_DIR", group.dir()).args(args);
        // Its standard input stays open as long as this.
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        Running { child: child.expect("the example") }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Already gone is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn plans() -> Vec<Plan> {
    let mut plans: Vec<Plan> =
        [Role::Netd, Role::Nicd, Role::Sockd, Role::Supervisor, Role::Standby].map(Plan::one).into();
    plans.push(Plan::all_but(Role::Standby));
    plans.push(Plan::one(Role::Netd));
    plans
}

#[test]
fn nothing_is_exported_but_the_calls() {
    let library = binaries().join("libnetclient.so");
    let symbols = said(Command::new("nm").args(["-D", "--defined-only", "--format=posix"]).arg(library));
    let names: Vec<&str> = symbols.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(names.len() >= 36, "{names:?}");
    let strangers: Vec<_> = names.iter().filter(|name| !name.starts_with("nc_")).collect();
    assert!(strangers.is_empty(), "{strangers:?}");
}

#[test]
fn the_static_library_links() {
    let program = built("a", |bin| {
        let words = ["-I", "include", "libnetclient.a", "-lpthread", "-lm", "-ldl", "-lgcc_s"];
        let place = |word: &str| match word {
            "include" | "libnetclient.a" => bin.join(word).display().to_string(),
            word => word.to_owned(),
        };
        words.into_iter().map(place).collect()
    });
    let status = Command::new(&program.0).stderr(Stdio::null()).status().expect("it runs");
    assert_eq!(status.code(), Some(2), "usage");
}

#[test]
fn a_server_in_c_serves_kernel_sockets_under_kills() {
    private_net::test("a_server_in_c_serves_kernel_sockets_under_kills", || {
        const CONNECTIONS: usize = 100;
        let (group, program) = (up(), shared());
        let mut server = Running::start(&group, &program, &["serve", &PORT.to_string()]);
        let mut line = String::new();
        BufReader::new(server.child.stdout.take().expect("piped")).read_line(&mut line).expect("a pipe");
        assert_eq!(line, "listening\n");
        let seed = fresh_seed();
        println!("seed {seed}");
        let address: SocketAddr = format!("{STACK}:{PORT}").parse().expect("an address");
        let streams = kernel_sockets(CONNECTIONS, address).expect("every connection opens");
        let load = Load {
            loaded: 16,
            ahead: 64 * 1024,
            rate: 2 << 20,
            murmur_every: Duration::from_millis(20),
            seed,
        };
        let fleet = Fleet::launch(streams, load).expect("a fleet");
        fleet.watch(Some("(no kill)"));
        let pause = Duration::from_millis(30)..Duration::from_millis(150);
        let mut strikes = Strikes::new(&group, &fleet, || fleet.bytes(), seed, pause);
        for plan in plans() {
            strikes.strike(&plan).expect("the group heals and bytes move");
            assert_eq!((fleet.lost(), fleet.wrong()), (0, 0), "after {plan:?}");
        }
        strikes.end();
        let tallies = strikes.tallies().clone();
        drop(strikes);
        let report = fleet.finish(Duration::from_secs(30)).expect("a report");
        println!("{}", table(&tallies, CONNECTIONS as u64, &report.silences));
        assert_eq!(report.lost, Vec::<String>::new());
        assert_eq!((report.clean, report.bytes_wrong), (CONNECTIONS, 0));
        // A descriptor of the kernel in the same epoll ends it.
        drop(server.child.stdin.take());
        let ended = wait_until(PATIENCE, || matches!(server.child.try_wait(), Ok(Some(_))));
        assert!(ended, "the end of its input ends it");
        assert!(server.child.wait().expect("our child").success());
    });
}

/// Bytes that a kernel's echo server has moved.
static ECHOED: AtomicU64 = AtomicU64::new(0);

fn kernel_echo() -> u16 {
    let listener = TcpListener::bind((KERNEL, 0)).expect("a port");
    let port = listener.local_addr().expect("bound").port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut chunk = [0; 4096];
                while let Ok(n) = stream.read(&mut chunk) {
                    ECHOED.fetch_add(n as u64, Ordering::Relaxed);
                    // Slow enough that kills meet it.
                    std::thread::sleep(Duration::from_micros(1500));
                    if n == 0 || stream.write_all(&chunk[..n]).is_err() {
                        break;
                    }
                }
                stream.shutdown(Shutdown::Write)
            });
        }
    });
    port
}

#[test]
fn a_client_in_c_talks_to_the_kernel_under_kills() {
    private_net::test("a_client_in_c_talks_to_the_kernel_under_kills", || {
        let (group, program) = (up(), shared());
        let port = kernel_echo().to_string();
        let mut client = Running::start(&group, &program, &["ask", KERNEL, &port, "20", "4000000"]);
        let mut dead = Vec::new();
        for plan in plans() {
            let before = ECHOED.load(Ordering::Relaxed);
            assert!(wait_until(PATIENCE, || ECHOED.load(Ordering::Relaxed) > before), "bytes move");
            // The dead are seen to be so before the next ones die: never both supervisors.
            let healed = || !group.processes().iter().any(|row| dead.contains(&row.pid)) && group.whole();
            assert!(wait_until(PATIENCE, healed), "the group heals");
            plan.victims.iter().filter_map(|role| group.find(*role)).for_each(|row| {
                Group::signal(&row, rustix::process::Signal::KILL);
                dead.push(row.pid);
            });
        }
        println!("{} kills, {} bytes echoed by then", dead.len(), ECHOED.load(Ordering::Relaxed));
        let ended = wait_until(PATIENCE, || matches!(client.child.try_wait(), Ok(Some(_))));
        assert!(ended, "after {} bytes", ECHOED.load(Ordering::Relaxed));
        println!("{}", client.child.wait().expect("our child"));
        let mut line = String::new();
        client.child.stdout.take().expect("piped").read_to_string(&mut line).expect("a pipe");
        assert_eq!(line, "20 connections, 4000000 bytes each, all equal\n");
    });
}
