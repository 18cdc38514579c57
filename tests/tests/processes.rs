//! Real processes one at a time: who maps what, who may start, what happens to a daemon that hangs or
//! crash-loops, and what the command line answers.

use proto::control::lane::{Lane, socket_pair};
use proto::control::messages::{
    Access, Backend, FromDaemon, Grant, GroupConfig, NicConfig, Region, ToDaemon, Welcome, WireFaults,
};
use proto::id::{Generation, Seat};
use proto::nic::slab::SlabGeometry;
use proto::shm::region::create_sealed;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::AsFd;
use rustix::process::Signal;
use rustix::thread::CpuSet;
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};
use supervisor::facts::Pair;
use supervisor::layout;
use tests::process::group::{Group, ProcessRow, Role, Spec, binaries, kernel_sockets};
use tests::process::{private_net, wait_until};
use tests::remote::fetch::Fetch;
use tests::remote::fleet::{Fleet, Load};

const STACK: &str = "10.80.0.2";
const ECHO_PORT: &str = "7007";
const PATIENCE: Duration = Duration::from_secs(15);

fn started(more: &[&str]) -> Group {
    started_on("tap:axl9", more)
}

fn started_on(nic: &str, more: &[&str]) -> Group {
    let spec = Spec {
        nic: nic.into(),
        addr: format!("{STACK}/24"),
        tap_addr: Some("10.80.0.1/24".into()),
        more: more.iter().map(ToString::to_string).collect(),
    };
    Group::up(&spec).expect("a group")
}

fn row(group: &Group, role: Role) -> ProcessRow {
    assert!(wait_until(PATIENCE, || group.find(role).is_some()), "{role}: {:?}", group.processes());
    group.find(role).expect("just seen")
}

/// A fleet of `count` connections to an echo server on the group, all of them loaded.
fn fleet(group: &Group, count: usize, rate: u64) -> (tests::process::group::Program, Fleet) {
    let server = group.example("echo", &[ECHO_PORT]).expect("the echo server");
    let addr = format!("{STACK}:{ECHO_PORT}").parse().expect("an address");
    let listening = || TcpStream::connect_timeout(&addr, Duration::from_secs(1)).is_ok();
    assert!(wait_until(PATIENCE, listening), "echo does not listen");
    let streams = kernel_sockets(count, addr).expect("connections");
    let murmur_every = Duration::from_secs(1);
    let load = Load { loaded: count, ahead: 128 * 1024, rate, murmur_every, seed: 3 };
    (server, Fleet::launch(streams, load).expect("a fleet"))
}

/// Ends a fleet that must have lost nothing.
fn all_well(fleet: Fleet, count: usize) {
    assert!(wait_until(PATIENCE, || fleet.bytes() > 0), "nothing moves");
    let report = fleet.finish(Duration::from_secs(30)).expect("a report");
    assert_eq!(report.lost, Vec::<String>::new());
    assert_eq!((report.clean, report.bytes_wrong), (count, 0));
    assert!(report.bytes > 0);
}

/// Shared memory of the group that a process maps, by name, `rw` or `ro`.
fn mapped(pid: u32) -> BTreeSet<(String, &'static str)> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("a process of ours");
    let entry = |line: &str| {
        let name = line.split("/memfd:axolotl-").nth(1)?.split_whitespace().next()?;
        let mode = if line.split_whitespace().nth(1)?.contains('w') { "rw" } else { "ro" };
        Some((name.to_owned(), mode))
    };
    maps.lines().filter_map(entry).collect()
}

#[test]
fn a_process_maps_what_its_row_in_the_architecture_says() {
    private_net::test("a_process_maps_what_its_row_in_the_architecture_says", || {
        let group = started(&[]);
        let (_server, fleet) = fleet(&group, 2, 1 << 20);
        let expect = |pairs: &[(&str, &'static str)]| -> BTreeSet<(String, &'static str)> {
            pairs.iter().map(|(name, mode)| ((*name).to_owned(), *mode)).collect()
        };
        assert_eq!(
            mapped(row(&group, Role::Nicd).pid),
            expect(&[("stats-nicd", "rw"), ("slab-0-0", "rw"), ("rings", "rw")])
        );
        assert_eq!(
            mapped(row(&group, Role::Netd).pid),
            expect(&[
                ("stats-netd", "rw"),
                ("slab-0-0", "rw"),
                ("loopback", "rw"),
                ("rings", "rw"),
                ("conns-0", "rw"),
                ("capture-0", "rw"),
                ("secrets", "rw"),
                ("config", "rw"),
                ("arena", "rw"),
            ])
        );
        assert_eq!(
            mapped(row(&group, Role::Sockd).pid),
            expect(&[("stats-sockd", "rw"), ("registry", "rw"), ("rings", "rw"), ("conns-0", "ro"),])
        );
        for role in [Role::Supervisor, Role::Standby] {
            let mapped = mapped(row(&group, role).pid);
            assert!(mapped.is_subset(&expect(&[("processes", "rw")])), "{role}: {mapped:?}");
        }
        all_well(fleet, 2);
    });
}

/// A second incarnation, started by hand with everything a supervisor would give it but the right.
#[test]
fn a_second_incarnation_stops_at_the_lock() {
    private_net::test("a_second_incarnation_stops_at_the_lock", || {
        let group = started(&[]);
        let before = group.processes();
        for role in [Role::Nicd, Role::Netd, Role::Sockd] {
            let pid = row(&group, role).pid;
            // Nobody gave it the lock: it is reached through the holder's descriptors.
            let wanted = format!("/memfd:axolotl-lock-{role} (deleted)");
            let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("a process of ours");
            let lock = descriptors
                .flatten()
                .find(|entry| {
                    std::fs::read_link(entry.path()).is_ok_and(|to| to.as_os_str() == wanted.as_str())
                })
                .expect("it holds its lock");
            let lock = std::fs::File::options().read(true).write(true).open(lock.path()).expect("same user");
            let (ours, theirs) = socket_pair().expect("a pair");
            let mut child = Command::new(binaries().join(role.name()))
                .env(proto::daemon::LANE_VARIABLE, "0")
                .stdin(Stdio::from(theirs))
                .stderr(Stdio::piped())
                .spawn()
                .expect("the daemon's program");
            let mut lane: Lane<ToDaemon, FromDaemon> = Lane::new(ours);
            let seat = Seat::new(role, 0);
            let welcome = Welcome {
                seat,
                generation: Generation(99),
                predecessor: None,
                group: some_group(),
                grants: vec![Grant { region: Region::Lock(seat), access: Access::Write, size: 4096 }],
            };
            lane.send(&ToDaemon::Welcome(Box::new(welcome)), &[lock.as_fd()]).expect("sent");
            let mut said = String::new();
            child.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
            let status = child.wait().expect("our child");
            assert_eq!(status.code(), Some(1), "{role}: {said}");
            assert!(said.contains("holds the lock"), "{role}: {said}");
        }
        let same = |row: &ProcessRow| (row.role, row.pid, row.generation);
        assert!(before.iter().map(same).eq(group.processes().iter().map(same)), "nobody was disturbed");
    });
}

fn some_group() -> GroupConfig {
    GroupConfig {
        name: "axlhand".into(),
        dir: std::env::temp_dir().to_string_lossy().into_owned(),
        shards: 1,
        nics: vec![NicConfig {
            backend: Backend::Wire { path: "nowhere".into(), faults: WireFaults::default() },
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
            addrs: Vec::new(),
            gateways: Vec::new(),
            slaac: false,
            offload: true,
            ports: Vec::new(),
        }],
        slab: SlabGeometry { small: 16, large: 16 },
        conns: 16,
        faults: Vec::new(),
    }
}

/// A daemon that is asked to complete its start and, before it has had its turn on a core, is introduced
/// to its peer: the second word has no edge of its own.
#[test]
fn netd_hears_all_that_was_said_while_it_was_kept_waiting() {
    // On one core, at a real-time priority: netd can't come in between two words. Elsewhere it may.
    let first = rustix::thread::sched_getaffinity(None).expect("the cores of this thread");
    let core = (0..CpuSet::MAX_CPU).find(|core| first.is_set(*core)).expect("there is one");
    let mut only = CpuSet::new();
    only.set(core);
    rustix::thread::sched_setaffinity(None, &only).expect("a core of this thread");
    let me = rustix::thread::gettid().as_raw_pid().to_string();
    let prioritised = Command::new("chrt").args(["--fifo", "--pid", "1", &me]).output();
    let (seat, peer) = (Seat::new(Role::Netd, 0), Seat::new(Role::Nicd, 0));
    let group = some_group();
    for round in 1..=10 {
        let (ours, theirs) = socket_pair().expect("a pair");
        let mut child = Command::new(binaries().join("netd"))
            .env(proto::daemon::LANE_VARIABLE, "0")
            .stdin(Stdio::from(theirs))
            .stderr(Stdio::null())
            .spawn()
            .expect("the daemon's program");
        let mut lane: Lane<ToDaemon, FromDaemon> = Lane::new(ours);
        let memory = |size| create_sealed("axl-test", size).expect("memory");
        let granted = layout::grants(seat, &group);
        let size = |region: &Region| layout::size(*region, &group);
        let regions: Vec<_> = granted.iter().map(|(region, _)| memory(size(region))).collect();
        let grant = |(region, access): &(Region, Access)| Grant {
            region: *region,
            access: *access,
            size: size(region) as u64,
        };
        let grants = granted.iter().map(grant).collect();
        let welcome =
            Welcome { seat, generation: Generation(1), predecessor: None, group: group.clone(), grants };
        let descriptors: Vec<_> = regions.iter().map(AsFd::as_fd).collect();
        lane.send(&ToDaemon::Welcome(Box::new(welcome)), &descriptors).expect("sent");
        let sleeps = || {
            let waits_in = std::fs::read_to_string(format!("/proc/{}/wchan", child.id()));
            waits_in.is_ok_and(|function| function.contains("epoll") || function.contains("ep_poll"))
        };
        assert!(wait_until(PATIENCE, sleeps), "netd does not wait for the rest");
        let rings = memory(layout::rings_size(Pair::of(seat, peer).expect("they share rings")));
        let wakes = [0, 1].map(|_| eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("one"));
        lane.send(&ToDaemon::Complete, &[]).expect("sent");
        let ends = [rings.as_fd(), wakes[0].as_fd(), wakes[1].as_fd()];
        lane.send(&ToDaemon::Introduce { peer, generation: Generation(1) }, &ends).expect("sent");
        let mut met = false;
        wait_until(PATIENCE, || {
            while let Ok(Some((message, _))) = lane.receive() {
                met |= matches!(message, FromDaemon::Rendezvous { .. });
            }
            met
        });
        child.kill().and_then(|()| child.wait()).expect("our child");
        assert!(met, "round {round}: netd never met nicd; prioritised: {prioritised:?}");
    }
}

#[test]
fn a_daemon_started_by_hand_says_so() {
    for role in ["nicd", "netd", "sockd"] {
        let output = Command::new(binaries().join(role)).stdin(Stdio::null()).output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.starts_with(&format!("{role}: ")), "{role}: {said}");
    }
}

/// Stops a daemon while a SIGCONT comes at about the same moment as the SIGKILL of one that is declared
/// hung: whatever wins, there is one incarnation, and no connection is lost. One that is never woken is
/// replaced.
#[test]
fn a_hung_daemon_is_replaced_and_a_late_wake_up_harms_nobody() {
    private_net::test("a_hung_daemon_is_replaced_and_a_late_wake_up_harms_nobody", || {
        let group = started(&[]);
        let (_server, fleet) = fleet(&group, 8, 1 << 20);
        // The limit is 500 ms: some wake-ups come before it, some after it, some in between.
        let wakes = [300, 480, 495, 500, 505, 510, 520, 900].map(|ms| Some(Duration::from_millis(ms)));
        for (n, wake) in wakes.into_iter().chain([None, None]).enumerate() {
            let role = if n.is_multiple_of(2) { Role::Netd } else { Role::Nicd };
            let before = row(&group, role);
            let moved = fleet.bytes();
            assert!(wait_until(PATIENCE, || fleet.bytes() > moved), "nothing moves");
            Group::signal(&before, Signal::STOP);
            match wake {
                Some(after) => {
                    std::thread::sleep(after);
                    Group::signal(&before, Signal::CONT);
                }
                None => {
                    let replaced = || group.find(role).is_some_and(|now| now.pid != before.pid);
                    assert!(wait_until(PATIENCE, replaced), "{role} is not declared hung");
                }
            }
            let moved = fleet.bytes();
            assert!(wait_until(PATIENCE, || fleet.bytes() > moved), "{role}, woken after {wake:?}");
            assert!(wait_until(PATIENCE, || group.whole()), "{:?}", group.processes());
            let of_role = group.processes().iter().filter(|row| row.role == role).count();
            assert_eq!(of_role, 1);
        }
        all_well(fleet, 8);
    });
}

/// Back-pressure on the way out: nothing is dropped inside the host when nicd stands still.
#[test]
fn a_stopped_nicd_costs_no_frame_on_the_way_out() {
    private_net::test("a_stopped_nicd_costs_no_frame_on_the_way_out", || {
        // In frames of 1500 bytes the ring holds less than any windows.
        let group = started_on("tap:axl9,offload=off", &[]);
        let (_server, fleet) = fleet(&group, 4, 1 << 20);
        // Downloads that keep the way out full.
        let file = group.dir().join("zeros");
        std::fs::File::create(&file).and_then(|file| file.set_len(4 << 30)).expect("a sparse file");
        let path = file.to_str().expect("a plain name");
        let _http = group.example("http_file", &[path, "8080"]).expect("the file server");
        let url = format!("http://{STACK}:8080/");
        // Together their windows are more than the ring holds.
        let fetches: Vec<Fetch> = (0..32)
            .map(|_| Fetch::curl(&url, 1 << 40, std::path::Path::new("/dev/null")).expect("curl"))
            .collect();
        let sent = || group.access().counters()[&(Role::Netd, "tx_bytes".into())];
        assert!(wait_until(PATIENCE, || sent() > 64 << 20), "{} bytes sent", sent());
        let drops = |group: &Group| -> Vec<((Role, String), u64)> {
            let counted = group.access().counters().into_iter();
            counted.filter(|((role, name), _)| *role == Role::Netd && name.starts_with("drop_")).collect()
        };
        let before = (row(&group, Role::Nicd), drops(&group));
        Group::signal(&before.0, Signal::STOP);
        std::thread::sleep(Duration::from_millis(300));
        let while_stopped = drops(&group);
        Group::signal(&before.0, Signal::CONT);
        assert_eq!(while_stopped, before.1);
        let moved = fleet.bytes();
        assert!(wait_until(PATIENCE, || fleet.bytes() > moved + (1 << 20)));
        drop(fetches);
        assert_eq!(row(&group, Role::Nicd).pid, before.0.pid, "300 ms are no hang");
        assert!(group.access().counters()[&(Role::Netd, "tx_queue_stopped".into())] > 0, "it did stop");
        all_well(fleet, 4);
    });
}

/// A frame that kills netd whenever it is looked at (INV-T8).
#[test]
fn a_poison_frame_ends_its_own_crash_loop() {
    private_net::test("a_poison_frame_ends_its_own_crash_loop", || {
        let poison = "deadbeefcafef00d";
        let group = started(&["--fault", &format!("poison={poison}")]);
        assert_eq!(group.access().faults(), [format!("poison={poison}")], "shown in status");
        let (_server, fleet) = fleet(&group, 8, 1 << 20);
        let before = row(&group, Role::Netd);
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a port");
        let bytes = [0xde, 0xad, 0xbe, 0xef, 0xca, 0xfe, 0xf0, 0x0d];
        // The same datagram again and again, as a sender would that gets no answer.
        for _ in 0..20 {
            let said = socket.send_to(&bytes, (STACK, 9));
            assert!(said.is_ok() || said.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused));
            std::thread::sleep(Duration::from_millis(150));
        }
        let after = row(&group, Role::Netd);
        let deaths = after.restarts - before.restarts;
        assert!((2..=3).contains(&deaths), "{deaths} deaths of one frame");
        let dropped = group.access().counters()[&(Role::Netd, "drop_poison".into())];
        assert!(dropped > 0, "it is dropped under its own reason");
        all_well(fleet, 8);
    });
}

fn supervisor(args: &[&str], dir: &std::path::Path) -> Output {
    let mut command = Command::new(binaries().join("supervisor"));
    command.args(args).env("AXOLOTL_DIR", dir).stdin(Stdio::null()).output().expect("it runs")
}

#[test]
fn what_cannot_work_is_refused_before_anything_starts() {
    let dir = std::env::temp_dir().join(format!("axlconf{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a temporary directory");
    let refused: &[&[&str]] = &[
        &["--nic", "tap:axlx", "--addr", "10.0.0.1/33"],
        &["--nic", "cup:axlx", "--addr", "10.0.0.1/24"],
        &["--nic", "tap:a_name_that_is_too_long", "--addr", "10.0.0.1/24"],
        &["--nic", "tap:axlx", "--addr", "10.0.0.1/24", "--mtu", "12"],
        &["--nic", "tap:axlx", "--addr", "10.0.0.1/24", "--gateway", "300.1.1.1"],
    ];
    for args in refused {
        let args: Vec<&str> = ["up", "--name", "axlconf", "--detach"].iter().chain(*args).copied().collect();
        let output = supervisor(&args, &dir);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(6), "{args:?}: {said}");
        assert!(said.lines().count() == 1 && said.contains("--"), "it names the flag: {said}");
    }
    let file = dir.join("bad.toml");
    std::fs::File::create(&file)
        .expect("a file")
        .write_all(b"shards = 1\n\n[[nic]]\nspec = 7\n")
        .expect("text");
    let file = file.to_str().expect("a plain name");
    let output = supervisor(&["up", "--name", "axlconf", "--detach", "--config", file], &dir);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(6), "{said}");
    assert!(said.contains("bad.toml:4"), "file and line: {said}");
    assert_eq!(supervisor(&["fly"], &dir).status.code(), Some(2));
    assert_eq!(supervisor(&["down", "--name", "axlconf"], &dir).status.code(), Some(3));
    let status = Command::new(binaries().join("netctl")).args(["--name", "axlconf", "status"]).output();
    assert_eq!(status.expect("it runs").status.code(), Some(3));
    std::fs::remove_dir_all(&dir).expect("ours");
}

/// The process that waits to take a daemon's place, as soon as there is one.
fn spare_of(group: &Group, role: Role) -> u32 {
    let look = || group.spares().into_iter().find(|(name, _)| name == role.name()).map(|(_, pid)| pid);
    assert!(wait_until(PATIENCE, || look().is_some()), "no spare of {role}: {:?}", group.spares());
    look().expect("nobody has died since")
}

/// Kills a daemon; the process that is in its place then.
fn successor_of(group: &Group, role: Role) -> u32 {
    let dead = row(group, role);
    Group::signal(&dead, Signal::KILL);
    let next = || group.find(role).map(|row| row.pid).filter(|pid| *pid != dead.pid);
    assert!(wait_until(PATIENCE, || next().is_some()), "{role}: {:?}", group.processes());
    next().expect("just seen")
}

/// Whether a process is over; one whose parent has not looked yet is too: state Z of proc(5).
fn gone(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.is_empty() || stat.contains(") Z ") || stat.contains(") X ")
}

/// A death is answered by the process that waits for it; without one, or with one that was stopped, by
/// one that is started then. With their supervisor the waiting ones leave, and the next has its own.
#[test]
fn a_spare_takes_the_place_of_the_dead() {
    private_net::test("a_spare_takes_the_place_of_the_dead", || {
        let group = started(&[]);
        let (_server, fleet) = fleet(&group, 4, 1 << 20);
        let signal = |pid: u32, signal| {
            let pid = rustix::process::Pid::from_raw(pid.cast_signed()).expect("a process");
            rustix::process::kill_process(pid, signal).expect("a process of ours");
        };
        for role in [Role::Nicd, Role::Netd, Role::Sockd] {
            let spare = spare_of(&group, role);
            assert_eq!(successor_of(&group, role), spare, "{role}");
            let comm = std::fs::read_to_string(format!("/proc/{spare}/comm")).expect("alive");
            assert_eq!(comm.trim(), role.name());
            let next = spare_of(&group, role);
            assert_ne!(next, spare);
            signal(next, Signal::STOP);
            assert_ne!(successor_of(&group, role), next, "{role}: a stopped one is not taken");
            assert!(wait_until(PATIENCE, || gone(next)), "{role}: the stopped one is still there");
            let third = spare_of(&group, role);
            signal(third, Signal::KILL);
            assert_ne!(successor_of(&group, role), third, "{role}: a dead one is not taken");
        }
        let theirs: Vec<u32> =
            [Role::Nicd, Role::Netd, Role::Sockd].map(|role| spare_of(&group, role)).to_vec();
        successor_of(&group, Role::Supervisor);
        assert!(wait_until(PATIENCE, || theirs.iter().all(|pid| gone(*pid))), "{:?}", group.spares());
        let spare = spare_of(&group, Role::Netd);
        assert_eq!(successor_of(&group, Role::Netd), spare);
        all_well(fleet, 4);
    });
}

#[test]
fn a_group_is_started_once_and_taken_down_without_a_trace() {
    private_net::test("a_group_is_started_once_and_taken_down_without_a_trace", || {
        let group = started(&[]);
        let dir = group.dir().to_owned();
        let args = ["up", "--name", group.name(), "--nic", "tap:axl10", "--addr", "10.81.0.2/24", "--detach"];
        assert_eq!(supervisor(&args, &dir).status.code(), Some(4), "already running");
        let rows = group.processes();
        assert_eq!(rows.len(), 5);
        spare_of(&group, Role::Netd);
        let processes: Vec<(String, u32)> =
            rows.iter().map(|row| (row.role.to_string(), row.pid)).chain(group.spares()).collect();
        let begun = Instant::now();
        assert_eq!(supervisor(&["down", "--name", group.name()], &dir).status.code(), Some(0));
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        for (name, pid) in processes {
            assert!(gone(pid), "{name} is still there");
        }
        let links = Command::new("ip").args(["link", "show"]).output().expect("ip").stdout;
        assert!(!String::from_utf8_lossy(&links).contains("axl9"), "the TAP is still there");
        for socket in ["api.sock", "admin.sock"] {
            assert!(!dir.join(group.name()).join(socket).exists(), "{socket} is still there");
        }
    });
}

/// netctl's answers have the shape that scripts rely on.
#[test]
fn netctl_speaks_the_documented_json() {
    private_net::test("netctl_speaks_the_documented_json", || {
        let group = started(&[]);
        let (_server, fleet) = fleet(&group, 3, 1 << 20);
        let ask = |verb: &str| -> serde_json::Value {
            let output = group.command("netctl").args(["-j", verb]).output().expect("it runs");
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{verb}: {said}");
            serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{verb}: {error}"))
        };
        let status = ask("status");
        assert_eq!((&status["schema"], &status["name"]), (&1.into(), &group.name().into()));
        let roles: BTreeSet<&str> = status["processes"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|p| p["role"].as_str())
            .collect();
        assert_eq!(roles, ["netd", "nicd", "sockd", "standby", "supervisor"].into());
        for key in ["shard", "pid", "generation", "restarts", "uptime_ms", "last_exit"] {
            assert!(status["processes"][0].get(key).is_some(), "{key}");
        }
        assert!(status["connections"].as_u64() >= Some(3), "{status}");
        assert!(status["drops"].is_object() && status.get("faults").is_none());
        let sockets = ask("ss");
        let connection = sockets.as_array().expect("a list").iter().find(|s| s["state"] == "ESTAB");
        let connection = connection.expect("an established connection");
        for key in [
            "proto", "state", "recv_q", "send_q", "local", "remote", "uid", "pid", "cwnd", "rtt_us",
            "retrans", "mss",
        ] {
            assert!(connection.get(key).is_some(), "{key}: {connection}");
        }
        let stats = ask("stats");
        assert!(stats.as_object().expect("flat").values().all(serde_json::Value::is_u64));
        assert!(stats["netd_tcp_in_segs"].as_u64() > Some(0));
        let crash = ask("crash");
        for key in ["role", "generation", "signal", "breadcrumb", "events"] {
            assert!(crash[0].get(key).is_some(), "{key}");
        }
        for role in ["nicd", "netd", "sockd"] {
            let status = group.command("netctl").args(["restart", role]).status().expect("it runs");
            assert!(status.success(), "restart {role}");
        }
        let restarts = group.processes().iter().filter(|row| row.restarts == 1).count();
        assert_eq!(restarts, 3);
        for verb in ["link", "addr", "route", "neigh"] {
            assert!(ask(verb).is_array(), "{verb}");
        }
        all_well(fleet, 3);
    });
}
