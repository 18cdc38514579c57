//! A group of real processes in a run directory of its own. It is taken down when its owner drops it,
//! and by a watchdog when the owner is killed.
//!
//! `AXOLOTL_SHARDS` gives every group that does not say otherwise so many shards.

use netctl::group::Access;
pub use netctl::group::ProcessRow;
use rustix::process::{Pid, Signal};
use std::ffi::OsStr;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

pub use proto::id::Role;

/// How long a group may take to be ready, and to be gone.
const PATIENCE: Duration = Duration::from_secs(20);

/// The directory of the binaries: `AXOLOTL_BIN`, or where this program was built.
///
/// # Panics
/// When there is no `supervisor` in either: the suite builds before it tests.
pub fn binaries() -> PathBuf {
    if let Some(dir) = std::env::var_os("AXOLOTL_BIN") {
        return dir.into();
    }
    let here = std::env::current_exe().expect("a program knows its path");
    let found = here.ancestors().skip(1).take(3).find(|dir| dir.join("supervisor").is_file());
    found.expect("supervisor beside the tests: cargo build --release --bins --examples").to_owned()
}

/// What to start.
#[derive(Debug, Clone)]
pub struct Spec {
    /// `tap:IF` or `wire:PATH[,…]`.
    pub nic: String,
    /// The stack's address, with its prefix.
    pub addr: String,
    /// The kernel's address on the TAP, with its prefix.
    pub tap_addr: Option<String>,
    /// Further arguments of `up`.
    pub more: Vec<String>,
}

/// A process that is killed with its owner.
#[derive(Debug)]
pub struct Program(Child);

impl Program {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// `None` while it runs.
    ///
    /// # Errors
    /// Those of waitpid(2).
    pub fn ended(&mut self) -> io::Result<Option<std::process::ExitStatus>> {
        self.0.try_wait()
    }

    /// Kills it now.
    ///
    /// # Errors
    /// Those of kill(2) and waitpid(2).
    pub fn kill(&mut self) -> io::Result<()> {
        self.0.kill()?;
        self.0.wait().map(drop)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Already gone is as good.
        let _ = self.kill();
    }
}

/// A running group.
#[derive(Debug)]
pub struct Group {
    name: String,
    /// Holds `NAME/`: a fresh directory for each group.
    dir: PathBuf,
    bin: PathBuf,
    access: Access,
    /// How many netds it has.
    shards: usize,
    /// Its standard input is a pipe that only this process holds: it acts when the pipe ends.
    watchdog: Child,
}

fn fresh_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("axl{}x{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

impl Group {
    /// Starts a group and waits until every daemon is ready and the link is up.
    ///
    /// # Errors
    /// When `up` fails, with what it said.
    pub fn up(spec: &Spec) -> io::Result<Group> {
        Group::up_from(binaries(), spec)
    }

    /// As [`Group::up`], with the programs that lie in `bin`, now and at every restart.
    ///
    /// # Errors
    /// As [`Group::up`].
    pub fn up_from(bin: PathBuf, spec: &Spec) -> io::Result<Group> {
        Group::up_prepared(bin, spec, |_| {})
    }

    /// As [`Group::up_from`], with a last word about the command that starts it.
    ///
    /// # Errors
    /// As [`Group::up`].
    pub fn up_prepared(bin: PathBuf, spec: &Spec, prepare: impl FnOnce(&mut Command)) -> io::Result<Group> {
        let name = fresh_name();
        let dir = std::env::temp_dir().join(&name);
        std::fs::create_dir_all(&dir)?;
        let watchdog = Command::new("sh")
            .args([
                "-c",
                r#"trap "" INT TERM HUP; read -r _; "$0" down --name "$1" >/dev/null 2>&1; rm -rf "$2""#,
            ])
            .args([bin.join("supervisor").as_os_str(), OsStr::new(&name), dir.as_os_str()])
            .env("AXOLOTL_DIR", &dir)
            .stdin(Stdio::piped())
            .spawn()?;
        let mut up = Command::new(bin.join("supervisor"));
        up.args(["up", "--detach", "--name", &name, "--nic", &spec.nic, "--addr", &spec.addr]);
        if let Some(addr) = &spec.tap_addr {
            up.args(["--tap-addr", addr]);
        }
        let said_how_many = spec.more.iter().position(|word| word == "--shards");
        let shards = match said_how_many.and_then(|at| spec.more.get(at + 1)) {
            Some(count) => count.parse().map_err(io::Error::other)?,
            None => std::env::var("AXOLOTL_SHARDS").ok().and_then(|count| count.parse().ok()).unwrap_or(1),
        };
        if said_how_many.is_none() && shards > 1 {
            up.args(["--shards", &shards.to_string()]);
        }
        // The log of `up` itself goes to a file: a pipe would be held by the supervisors.
        let said = dir.join("up.txt");
        let (out, err) = (std::fs::File::create(&said)?, std::fs::File::options().append(true).open(&said)?);
        up.args(&spec.more).env("AXOLOTL_DIR", &dir).stdin(Stdio::null()).stdout(out).stderr(err);
        prepare(&mut up);
        let status = up.status()?;
        if !status.success() {
            let text = std::fs::read_to_string(&said).unwrap_or_default();
            return Err(io::Error::other(format!("supervisor up: {status}: {text}")));
        }
        let access = Access::open(&dir, &name).map_err(io::Error::other)?;
        Ok(Group { name, dir, bin, access, shards, watchdog })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A native client's session in this process.
    ///
    /// # Errors
    /// When sockd refuses it.
    pub fn session(&self, size: libnetclient::Size) -> io::Result<libnetclient::Session> {
        libnetclient::Session::at(&self.dir.join(&self.name).join("api.sock"), size)
    }

    /// The directory that holds `NAME/api.sock`.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What netctl reads: the regions, mapped once, so that it works while daemons are down.
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// A command of the release binaries with this group as its own.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command.env("AXOLOTL", &self.name).env("AXOLOTL_DIR", &self.dir);
        command
    }

    /// Starts an example of libnetclient on the stack, its output in the run directory.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn example(&self, name: &str, args: &[&str]) -> io::Result<Program> {
        let log = std::fs::File::create(self.dir.join(format!("{name}.txt")))?;
        let mut command = self.command(&format!("examples/{name}"));
        command.args(args).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        command.spawn().map(Program)
    }

    /// What netctl answers to those words.
    ///
    /// # Panics
    /// When it can't be run.
    pub fn netctl(&self, words: &[&str]) -> std::process::Output {
        self.command("netctl").args(words).output().expect("netctl runs")
    }

    /// Changes something by netctl.
    ///
    /// # Panics
    /// When it is refused.
    pub fn change(&self, words: &[&str]) {
        let output = self.netctl(words);
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// The list that netctl answers with.
    ///
    /// # Panics
    /// When it fails, or answers something else.
    pub fn ask(&self, words: &[&str]) -> Vec<serde_json::Value> {
        let output = self.netctl(&[&["-j"], words].concat());
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        answer.as_array().expect("a list").clone()
    }

    /// The exit code and what is said of a change that can't be made.
    ///
    /// # Panics
    /// When netctl did not end by itself.
    pub fn refused(&self, words: &[&str]) -> (i32, String) {
        let output = self.netctl(words);
        (output.status.code().expect("an exit"), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Every process of the group.
    pub fn processes(&self) -> Vec<ProcessRow> {
        self.access.processes()
    }

    /// The process that has a role, when it is in service.
    pub fn find(&self, role: Role) -> Option<ProcessRow> {
        self.processes().into_iter().find(|row| row.role == role && row.in_service)
    }

    /// The processes that wait to take a dead daemon's place, by the daemon's name.
    pub fn spares(&self) -> Vec<(String, u32)> {
        let supervisors: Vec<u32> = self.processes().into_iter().map(|row| row.pid).collect();
        let of = |entry: std::fs::DirEntry| -> Option<(String, u32)> {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            // proc_pid_stat(5): pid (comm) state ppid
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            let (name, rest) = stat.split_once('(')?.1.rsplit_once(") ")?;
            let parent = rest.split(' ').nth(1)?.parse().ok()?;
            Some((name.strip_suffix(proto::daemon::SPARE)?.to_owned(), pid))
                .filter(|_| supervisors.contains(&parent))
        };
        std::fs::read_dir("/proc").expect("proc").flatten().filter_map(of).collect()
    }

    /// True when every seat is in service.
    pub fn whole(&self) -> bool {
        let rows = self.processes();
        let serving = |role| rows.iter().filter(|row| row.role == role && row.in_service).count();
        let roles = [Role::Supervisor, Role::Standby, Role::Nicd, Role::Sockd];
        roles.into_iter().all(|role| serving(role) > 0) && serving(Role::Netd) >= self.shards
    }

    /// The netd of a shard, when it is in service.
    pub fn shard(&self, shard: u16) -> Option<ProcessRow> {
        let of_it = |row: &ProcessRow| row.role == Role::Netd && row.index == shard && row.in_service;
        self.processes().into_iter().find(of_it)
    }

    /// How many netds it has.
    pub fn shards(&self) -> usize {
        self.shards
    }

    /// Sends a signal to a process by id; a process that is gone is no error.
    pub fn signal(row: &ProcessRow, signal: Signal) {
        if let Some(pid) = Pid::from_raw(row.pid.cast_signed()) {
            // It may have died by itself a moment ago.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    /// The files that the daemons and programs write.
    pub fn logs(&self) -> Vec<PathBuf> {
        let dirs = [self.dir.join(&self.name).join("log"), self.dir.clone()].map(std::fs::read_dir);
        let files = dirs.into_iter().flatten().flatten().flatten().map(|entry| entry.path());
        files.filter(|path| path.extension().is_some_and(|end| end == "txt" || end == "log")).collect()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", super::autopsy::text(self));
        }
        let pids: Vec<ProcessRow> = self.processes();
        drop(self.watchdog.stdin.take());
        let watchdog = &mut self.watchdog;
        if !super::wait_until(PATIENCE, || !matches!(watchdog.try_wait(), Ok(None))) {
            // `down` hangs: end what we know, then the watchdog itself.
            pids.iter().for_each(|row| Group::signal(row, Signal::KILL));
            let _ = self.watchdog.kill();
            let _ = self.watchdog.wait();
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

/// Connects `count` plain kernel sockets, one connect() each.
///
/// # Errors
/// The first connect() that fails.
pub fn kernel_sockets(count: usize, to: SocketAddr) -> io::Result<Vec<mio::net::TcpStream>> {
    (0..count)
        .map(|_| {
            let stream = std::net::TcpStream::connect_timeout(&to, Duration::from_secs(10))?;
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            // Keeps a queue before the stack; what the machine's default keeps depends on its model of
            // the path. Where it is not there the default has to do.
            let _ = rustix::net::sockopt::set_tcp_congestion(&stream, "cubic");
            Ok(mio::net::TcpStream::from_std(stream))
        })
        .collect()
}
