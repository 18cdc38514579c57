//! A group under test: started by the shipped program in a directory of its own, seen through
//! /proc, its logs and its socket, killed by pid.

use proto::control::lane::{Lane, socket_pair};
use proto::control::messages::{Access, FromDaemon, Grant, GroupConfig, Region, ToDaemon, Welcome};
use proto::id::{Generation, Role, Seat};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketType};
use rustix::process::{Pid, Signal};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Long enough for a loaded machine; what waits that long has failed.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Group {
    dir: PathBuf,
    /// Supervisors killed so far: each brings one more standby.
    pub(crate) supervisors_killed: usize,
}

/// Waits for something; panics with its description when it does not come.
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

impl Group {
    /// A directory with the programs, and nothing started. Orphans of the group become children of
    /// this process, so that they can be seen to end.
    pub(crate) fn prepare(name: &str) -> Group {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).expect("prctl");
        let dir = std::env::temp_dir().join(format!("axl-sup-{}-{name}", std::process::id()));
        std::fs::create_dir_all(dir.join("bin")).expect("a directory");
        let own = std::env::current_exe().expect("this program");
        for role in ["nicd", "netd", "sockd"] {
            std::os::unix::fs::symlink(&own, dir.join("bin").join(role)).expect("a link");
        }
        Group { dir, supervisors_killed: 0 }
    }

    pub(crate) fn up(name: &str) -> Group {
        let group = Group::prepare(name);
        let output = group.supervisor(&["up", "--detach", "--shards", "2"]);
        assert!(output.status.success(), "{output:?}");
        group
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_supervisor"));
        command.args(arguments).args(["--name", "g"]).env("AXOLOTL_DIR", &self.dir);
        if arguments.first() == Some(&"up") {
            command.arg("--bin-dir").arg(self.dir.join("bin"));
            if !arguments.contains(&"--config") {
                command.args(["--nic", "wire:/tmp/unused", "--addr", "10.0.0.2/24"]);
            }
        }
        command
    }

    pub(crate) fn supervisor(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the program runs")
    }

    pub(crate) fn spawn(&self, arguments: &[&str]) -> std::process::Child {
        self.command(arguments).spawn().expect("the program runs")
    }

    pub(crate) fn path(&self) -> &Path {
        &self.dir
    }

    fn place(&self) -> PathBuf {
        self.dir.join("g")
    }

    /// Living processes of the group by the name of their program, with the file after the last
    /// slash of argv[0]. Zombies that fell to this process are waited for.
    pub(crate) fn processes(&self) -> Vec<(String, u32)> {
        let mark = format!("AXOLOTL_DIR={}", self.dir.display());
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").expect("proc").flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            let Ok(environment) = std::fs::read(entry.path().join("environ")) else { continue };
            let Ok(command) = std::fs::read(entry.path().join("cmdline")) else { continue };
            let ours = environment.split(|&b| b == 0).any(|variable| variable == mark.as_bytes());
            let program = command.split(|&b| b == 0).next().unwrap_or_default();
            if ours && !program.is_empty() {
                let program = String::from_utf8_lossy(program);
                found.push((program.rsplit('/').next().unwrap_or_default().to_owned(), pid));
            }
        }
        found.sort();
        found
    }

    pub(crate) fn pids(&self, program: &str) -> Vec<u32> {
        self.processes().into_iter().filter(|(name, _)| name == program).map(|(_, pid)| pid).collect()
    }

    /// The active supervisor, by the lock file.
    pub(crate) fn active(&self) -> u32 {
        until("an active supervisor", || {
            let line = std::fs::read_to_string(self.place().join("lock")).ok()?;
            let pid = line.split(' ').next()?.parse().ok()?;
            self.pids("supervisor").contains(&pid).then_some(pid)
        })
    }

    /// The standby, once it has been told everything.
    pub(crate) fn standby(&self) -> u32 {
        self.paired();
        until("a standby", || {
            let active = self.active();
            self.pids("supervisor").into_iter().find(|&pid| pid != active)
        })
    }

    /// Waits until there are two supervisors of which one could take over.
    pub(crate) fn paired(&self) {
        until("a pair of supervisors", || {
            let told = self.log("supervisor").matches("standing by").count();
            (told > self.supervisors_killed && self.pids("supervisor").len() == 2).then_some(())
        });
    }

    pub(crate) fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.place().join("log").join(format!("{name}.log"))).unwrap_or_default()
    }

    /// The generations that began in a seat, from its log.
    pub(crate) fn generations(&self, seat: &str) -> Vec<u32> {
        let line = |line: &str| {
            let (head, text) = line.split_once("]: ")?;
            let generation = head.strip_prefix(seat)?.strip_prefix('[')?.parse().ok()?;
            text.contains("stamp").then_some(generation)
        };
        self.log(seat).lines().filter_map(line).collect()
    }

    /// Starts a second incarnation as somebody might who has got hold of the seat's lock file; with
    /// no lane, as somebody who only has the program.
    pub(crate) fn by_hand(&self, program: &str, lane: bool) -> Output {
        let mut command = Command::new(self.dir.join("bin").join(program));
        if !lane {
            return command.stdin(Stdio::null()).output().expect("the program runs");
        }
        let seat = Seat::new(Role::Netd, 0);
        let name = format!("/memfd:axolotl-lock-{program} (deleted)");
        let links = std::fs::read_dir(format!("/proc/{}/fd", self.active())).expect("ours");
        let is_lock = |path: &PathBuf| std::fs::read_link(path).is_ok_and(|link| link == Path::new(&name));
        let lock = links.flatten().map(|entry| entry.path()).find(is_lock).expect("the lock is in the vault");
        let lock = std::fs::File::options().read(true).write(true).open(lock).expect("it can be opened");
        let grant = Grant { region: Region::Lock(seat), access: Access::Write, size: 4096 };
        let group = GroupConfig {
            name: "g".to_owned(),
            dir: String::new(),
            shards: 1,
            nics: Vec::new(),
            slab: supervisor::config::SLAB_DEFAULT,
            conns: 1,
            faults: Vec::new(),
        };
        let (generation, predecessor) = (Generation(99), None);
        let welcome = Welcome { seat, generation, predecessor, group, grants: vec![grant] };
        let (ours, theirs) = socket_pair().expect("a socket pair");
        let mut ours: Lane<ToDaemon, FromDaemon> = Lane::new(ours);
        ours.send(&ToDaemon::Welcome(Box::new(welcome)), &[lock.as_fd()]).expect("sent");
        command.env(proto::daemon::LANE_VARIABLE, "0").stdin(theirs).output().expect("the program runs")
    }

    pub(crate) fn connect(&self) -> Client {
        let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).expect("a socket");
        let address = SocketAddrUnix::new(self.place().join("api.sock")).expect("a short path");
        rustix::net::connect(&socket, &address).expect("listening");
        Client { socket }
    }

    pub(crate) fn has_socket(&self) -> bool {
        self.place().join("api.sock").exists() || self.place().join("lock").exists()
    }

    /// Fails on what the daemons found wrong.
    pub(crate) fn check_logs(&self) {
        for seat in ["nicd", "netd", "netd.1", "sockd"] {
            let log = self.log(seat);
            let wrong: Vec<_> = log.lines().filter(|line| line.contains("VIOLATION")).collect();
            assert!(wrong.is_empty(), "{seat}: {wrong:#?}");
            let mut stamps: Vec<_> = log.lines().filter_map(|line| line.split_once("stamp ")).collect();
            stamps.dedup_by_key(|(_, stamp)| *stamp);
            assert_eq!(stamps.len(), 1, "{seat}: its memory was not kept");
            let generations = self.generations(seat);
            assert!(generations.is_sorted_by(|a, b| a < b), "{seat}: {generations:?}");
        }
        assert!(!self.log("supervisor").contains("panic"), "{}", self.log("supervisor"));
    }

    /// Ends the group and checks that nothing is left of it.
    pub(crate) fn down(self) {
        let output = self.supervisor(&["down"]);
        assert!(output.status.success(), "{output:?}");
        until("the end of every process", || self.processes().is_empty().then_some(()));
        assert!(!self.has_socket(), "the sockets are left");
        let output = self.supervisor(&["down"]);
        assert_eq!(output.status.code(), Some(3), "{output:?}");
    }
}

impl Group {
    /// Kills both supervisors at once: the second can't take over between the two signals.
    pub(crate) fn kill_supervisors(&self) {
        let supervisors = self.pids("supervisor");
        for signal in [Signal::STOP, Signal::KILL] {
            supervisors.iter().for_each(|pid| kill(*pid, signal));
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill_supervisors();
        for (_, pid) in self.processes() {
            kill(pid, Signal::KILL);
        }
        if std::thread::panicking() {
            eprintln!("{}", self.log("supervisor"));
            eprintln!("logs are left in {}", self.dir.display());
        } else {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

pub(crate) fn kill(pid: u32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid.cast_signed()) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

pub(crate) fn open_descriptors(pid: u32) -> Vec<String> {
    let links = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("alive and ours");
    let link = |entry: std::fs::DirEntry| std::fs::read_link(entry.path()).ok();
    let mut names: Vec<String> =
        links.flatten().filter_map(link).map(|link| link.to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

pub(crate) struct Client {
    socket: OwnedFd,
}

impl Client {
    fn receive(&self) -> Vec<u8> {
        let time = Timespec { tv_sec: 20, tv_nsec: 0 };
        let ready = poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&time));
        assert_eq!(ready, Ok(1), "no reply");
        let mut reply = [0; 8];
        let (n, _) = rustix::net::recv(&self.socket, &mut reply, RecvFlags::empty()).expect("an open socket");
        assert!(n > 0, "the session was lost");
        reply[..n].to_vec()
    }

    /// The session's name, once it was opened.
    pub(crate) fn opened(&self) -> u32 {
        u32::from_le_bytes(self.receive().try_into().expect("four bytes"))
    }

    pub(crate) fn send(&self, ask: u8) {
        rustix::net::send(&self.socket, &[ask], SendFlags::NOSIGNAL).expect("an open socket");
    }

    /// The session's name and the generation of the netd that saw it last. A reply may come twice
    /// when sockd dies over it; each is as good.
    pub(crate) fn ask(&self, ask: u8) -> (u32, u32) {
        self.send(ask);
        let reply = self.receive();
        let (name, seen) = reply.split_at(4);
        let word = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().expect("four bytes"));
        (word(name), word(seen))
    }
}
