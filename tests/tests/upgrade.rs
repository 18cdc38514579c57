//! `restart` as an upgrade: the program that lies there now takes over under load, or is refused when
//! it does not fit, and then the old one goes on as if nobody had asked.

use proto::layouts;
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tests::process::group::{Group, ProcessRow, Program, Role, Spec, binaries, kernel_sockets};
use tests::process::{private_net, wait_until};
use tests::remote::fleet::{Fleet, Load};

const STACK: &str = "10.85.0.2";
const ECHO_PORT: u16 = 7007;
const PATIENCE: Duration = Duration::from_secs(15);
const CONNECTIONS: usize = 64;
/// How often each daemon is replaced.
const ROUNDS: usize = 5;

/// Programs of its own, which can be replaced; removed with their owner.
struct Programs(PathBuf);

/// A file with an inode of its own.
fn copied(from: &Path, to: &Path) {
    std::fs::copy(from, to).expect("room for a program");
}

impl Programs {
    fn new() -> Programs {
        let dir = std::env::temp_dir().join(format!("axlprograms{}", std::process::id()));
        std::fs::create_dir_all(dir.join("examples")).expect("a temporary directory");
        for name in ["nicd", "netd", "sockd", "supervisor", "netctl", "examples/echo"] {
            copied(&binaries().join(name), &dir.join(name));
        }
        Programs(dir)
    }

    fn path(&self, role: Role) -> PathBuf {
        self.0.join(role.name())
    }

    /// Puts a new build in the place of a program, as a linker does: another file of that name.
    fn rebuild(&self, role: Role) {
        let fresh = self.0.join("fresh");
        copied(&binaries().join(role.name()), &fresh);
        std::fs::rename(&fresh, self.path(role)).expect("the same directory");
    }

    /// Puts something else there.
    fn replace_by(&self, role: Role, script: &str) {
        let fresh = self.0.join("fresh");
        std::fs::write(&fresh, format!("#!/bin/sh\n{script}\n")).expect("a file");
        std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o755)).expect("ours");
        std::fs::rename(&fresh, self.path(role)).expect("the same directory");
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn set_up(programs: &Programs) -> (Group, Program, Fleet) {
    let spec = Spec {
        nic: "tap:axl15".into(),
        addr: format!("{STACK}/24"),
        tap_addr: Some("10.85.0.1/24".into()),
        more: Vec::new(),
    };
    let group = Group::up_from(programs.0.clone(), &spec).expect("a group");
    let echo = group.example("echo", &[&ECHO_PORT.to_string()]).expect("the echo server");
    let addr = format!("{STACK}:{ECHO_PORT}").parse().expect("an address");
    let listening = || TcpStream::connect_timeout(&addr, Duration::from_secs(1)).is_ok();
    assert!(wait_until(PATIENCE, listening), "echo does not listen");
    let streams = kernel_sockets(CONNECTIONS, addr).expect("connections");
    let load = Load {
        loaded: CONNECTIONS,
        ahead: 128 * 1024,
        rate: 512 * 1024,
        murmur_every: Duration::from_secs(1),
        seed: 6,
    };
    (group, echo, Fleet::launch(streams, load).expect("a fleet"))
}

fn row(group: &Group, role: Role) -> ProcessRow {
    assert!(wait_until(PATIENCE, || group.find(role).is_some()), "{role}: {:?}", group.processes());
    group.find(role).expect("just seen")
}

fn moves_on(fleet: &Fleet, bytes: u64) {
    let moved = fleet.bytes();
    assert!(wait_until(PATIENCE, || fleet.bytes() >= moved + bytes), "nothing moves");
}

fn all_well(fleet: Fleet) -> tests::remote::fleet::Report {
    let report = fleet.finish(Duration::from_secs(30)).expect("a report");
    assert_eq!(report.lost, Vec::<String>::new());
    assert_eq!((report.clean, report.bytes_wrong), (CONNECTIONS, 0));
    report
}

/// What `netctl restart` answers: its exit code and what it says.
fn restart(group: &Group, role: Role) -> (i32, String) {
    let output = group.command("netctl").args(["restart", role.name()]).output().expect("netctl runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().expect("an exit"), said)
}

#[test]
fn a_new_build_takes_over_under_load() {
    private_net::test("a_new_build_takes_over_under_load", || {
        let programs = Programs::new();
        let (group, _echo, fleet) = set_up(&programs);
        let mut took = Vec::new();
        for _ in 0..ROUNDS {
            fleet.watch(Some("nobody"));
            moves_on(&fleet, 8 << 20);
            std::thread::sleep(Duration::from_millis(300));
            fleet.watch(None);
        }
        for role in [Role::Netd, Role::Nicd, Role::Sockd] {
            for _ in 0..ROUNDS {
                moves_on(&fleet, 4 << 20);
                fleet.watch(Some(role.name()));
                let before = row(&group, role);
                programs.rebuild(role);
                let begun = Instant::now();
                assert_eq!(restart(&group, role), (0, String::new()), "{role}");
                took.push(begun.elapsed());
                let after = row(&group, role);
                assert_eq!(after.generation, before.generation + 1, "{role} was replaced once");
                let runs = std::fs::metadata(format!("/proc/{}/exe", after.pid)).expect("a process of ours");
                let lies = std::fs::metadata(programs.path(role)).expect("a program");
                assert_eq!((runs.dev(), runs.ino()), (lies.dev(), lies.ino()), "{role} runs the new build");
                moves_on(&fleet, 4 << 20);
                // The remote's shortest retransmission timer is 200 ms.
                std::thread::sleep(Duration::from_millis(300));
                fleet.watch(None);
            }
        }
        let rows = group.processes();
        let restarts = rows.iter().filter(|row| matches!(row.role, Role::Nicd | Role::Netd | Role::Sockd));
        assert!(restarts.map(|row| row.restarts).eq([ROUNDS as u32; 3]), "{rows:?}");
        let report = all_well(fleet);
        for (role, silences) in &report.silences {
            let all = silences.all();
            let ms = |quantile: f64| all.value_at_quantile(quantile) as f64 / 1000.0;
            let (median, p99, max) = (ms(0.5), ms(0.99), ms(1.0));
            println!(
                "{role}: {ROUNDS} upgrades, silence {median:.1} ms median, {p99:.1} ms p99, {max:.1} ms max"
            );
        }
        took.sort_unstable();
        println!(
            "{} upgrades, {} MB verified; restart took {:?} at most",
            took.len(),
            report.bytes >> 20,
            took[took.len() - 1]
        );
    });
}

#[test]
fn a_program_that_does_not_fit_is_refused_and_the_old_one_goes_on() {
    private_net::test("a_program_that_does_not_fit_is_refused_and_the_old_one_goes_on", || {
        let programs = Programs::new();
        let (group, _echo, fleet) = set_up(&programs);
        let identities = |group: &Group| -> Vec<_> {
            group.processes().iter().map(|row| (row.role, row.pid, row.generation)).collect()
        };
        let before = identities(&group);
        for role in [Role::Nicd, Role::Netd, Role::Sockd] {
            let ours = format!("stats {}", proto::stats::VERSION);
            let newer = layouts::text(role).replace(&ours, "stats 99");
            let differs = format!("stats 99 instead of {}", proto::stats::VERSION);
            let cases = [
                (format!("printf '%s' '{newer}'"), differs.as_str()),
                ("exit 0".into(), "does not say which layouts"),
                ("sleep 30".into(), "does not say within"),
            ];
            for (script, why) in cases {
                programs.replace_by(role, &script);
                let (code, said) = restart(&group, role);
                assert_eq!(code, 1, "{role}: {said}");
                let path = programs.path(role);
                assert!(said.contains(why) && said.contains(path.to_str().expect("a plain name")), "{said}");
                assert_eq!(said.lines().count(), 1, "{said}");
            }
            std::fs::remove_file(programs.path(role)).expect("ours");
            let (code, said) = restart(&group, role);
            assert!(code == 1 && said.contains("No such file"), "{said}");
            moves_on(&fleet, 1 << 20);
            assert_eq!(identities(&group), before, "{role} goes on untouched");
        }
        for role in [Role::Nicd, Role::Netd, Role::Sockd] {
            programs.rebuild(role);
            assert_eq!(restart(&group, role), (0, String::new()), "{role}");
        }
        moves_on(&fleet, 1 << 20);
        all_well(fleet);
    });
}

#[test]
fn every_daemon_says_which_layouts_it_speaks() {
    for role in [Role::Nicd, Role::Netd, Role::Sockd] {
        let mut program = std::process::Command::new(binaries().join(role.name()));
        let output = program.arg("--layouts").output().expect("it runs");
        assert!(output.status.success() && output.stderr.is_empty(), "{role}");
        let said = String::from_utf8(output.stdout).expect("text");
        assert_eq!(layouts::compare(role, &said), Ok(()));
        assert!(said.lines().all(|line| line.split(' ').count() == 2), "{said}");
    }
}
