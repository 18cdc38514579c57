//! `supervisor up` and `supervisor down`: what happens before the first supervisor runs, and how
//! somebody outside makes the last one end.
//!
//! `up` checks the configuration and the machine, takes the group's lock, binds the listening
//! sockets, starts the first supervisor in a session of its own and hands all of it over. Then it
//! waits for the report; without `--detach` it stays, and ends the group when it is told to end.

use crate::child;
use crate::config::{self, ConfigError, Wanted};
use crate::facts::seats;
use crate::kernel_interface;
use crate::lock_file;
use crate::mirror::{FromStandby, Setup, ToStandby};
use crate::pair::describe;
use crate::policy::Report;
use proto::control::lane::{Lane, LaneError, socket_pair};
use proto::control::messages::{Backend, Ended, GroupConfig};
use proto::id::{Generation, Seat};
use proto::run_dir::{RunDir, sound_name};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Access, Mode};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};
use thiserror::Error;

/// Connections that may wait for sockd: a burst of clients while it is restarted. The kernel caps
/// it at net.core.somaxconn.
const BACKLOG: i32 = 1024;
/// How long `down` waits: the daemons' own time, then that of killing them, with a margin.
const DOWN_MAX: Duration = Duration::from_secs(15);
/// How often `down` looks whether the lock has fallen.
const DOWN_LOOK: Duration = Duration::from_millis(5);
/// Where ip-netns(8) keeps namespaces by name.
pub(crate) const NETNS: &str = "/run/netns";

/// Why a group does not start or stop.
#[derive(Debug, Error)]
pub enum StarterError {
    /// The command line can't be understood. Exit code 2.
    #[error("{0}")]
    Usage(String),
    /// Exit code 3.
    #[error("no group '{0}' is running")]
    NotRunning(String),
    /// Exit code 4.
    #[error("a group '{0}' is running already; stop it with `supervisor down --name {0}`")]
    Running(String),
    /// Exit code 5.
    #[error("{0}")]
    Missing(String),
    /// Exit code 6.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// A daemon refused: exit code 6, 5 or 1, as it said.
    #[error("{seat} does not come up ({}): {last_words}; the log is {log}", describe(*ended))]
    Failed {
        /// Which.
        seat: Seat,
        /// How it ended.
        ended: Ended,
        /// The last line of its log.
        last_words: String,
        /// Where its log is.
        log: String,
    },
    /// The supervisors died: exit code 1.
    #[error("the supervisor ended; the log is {0}")]
    Lost(String),
    /// `down` was not obeyed: exit code 1.
    #[error("group '{0}' does not end")]
    Stubborn(String),
    /// Anything else: exit code 1.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// What the kernel says.
        source: io::Error,
    },
}

impl StarterError {
    /// The exit code (INTERFACES).
    pub fn exit_code(&self) -> u8 {
        match self {
            StarterError::Usage(_) => 2,
            StarterError::NotRunning(_) => 3,
            StarterError::Running(_) => 4,
            StarterError::Missing(_) => 5,
            StarterError::Config(_) => 6,
            StarterError::Failed { ended: Ended::Exit(code @ (5 | 6)), .. } => *code as u8,
            StarterError::Failed { .. }
            | StarterError::Lost(_)
            | StarterError::Stubborn(_)
            | StarterError::Io { .. } => 1,
        }
    }
}

fn doing<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> StarterError {
    move |source| StarterError::Io { what: what.into(), source: source.into() }
}

/// The directory for what the daemons make for a while; it goes with the group.
pub fn tmp(place: &RunDir) -> PathBuf {
    place.path().join("tmp")
}

/// Removes what a group had in its directory, all but the logs.
pub fn clean_up(place: &RunDir) {
    for file in [place.api(), place.admin(), lock_file::path(place)] {
        let _ = std::fs::remove_file(file);
    }
    let _ = std::fs::remove_dir_all(tmp(place));
}

/// Starts a group and returns when it is up; with `stay`, when it has ended.
///
/// # Errors
/// [`StarterError`], before anything was started or after everything has ended again.
pub fn up(wanted: &Wanted, name: &str, programs: &Path, stay: bool) -> Result<(), StarterError> {
    if !sound_name(name) {
        return Err(StarterError::Usage(format!(
            "'{name}' is no name for a group: use letters, digits, - _ ."
        )));
    }
    // Before anything is made: only then is the place known, and only names are wrong so far.
    config::check(wanted, name, "")?;
    let place = RunDir::create(name).map_err(|error| StarterError::Missing(error.to_string()))?;
    let dir = std::path::absolute(place.dir()).map_err(doing("the run directory"))?;
    let dir =
        dir.to_str().ok_or_else(|| StarterError::Missing("the run directory's path is not text".into()))?;
    let mut group = config::check(wanted, name, dir)?;
    requirements(&group, programs)?;
    kernel_interface::adopt(&mut group).map_err(StarterError::Missing)?;
    let lock_file = lock_file::take(&place).map_err(doing("the lock file"))?;
    let lock_file = lock_file.ok_or_else(|| StarterError::Running(name.to_owned()))?;
    let api = listener(&place.api(), Mode::from_raw_mode(0o666))?;
    let admin = listener(&place.admin(), Mode::from_raw_mode(0o600))?;
    std::fs::create_dir_all(tmp(&place)).map_err(doing("the directory for temporary files"))?;
    fresh_logs(&place, &group)?;
    let signals = signals().map_err(doing("signals"))?;
    let started = start_first(&place, group, programs, [&lock_file, &api, &admin]);
    // From here on only the supervisors hold them: the lock falls with the last of them.
    drop((lock_file, api, admin));
    let (mut first, mut lane) = started.inspect_err(|_| clean_up(&place))?;
    let outcome = wait_report(&place, &mut lane, &signals);
    if outcome.is_ok() && stay {
        eprintln!("supervisor: group '{name}' is up; end it with SIGINT");
        return wait_end(&place, &mut lane, &signals);
    }
    if outcome.is_err() {
        let _ = wait_end(&place, &mut lane, &signals);
        let _ = first.wait();
    }
    outcome
}

/// What the machine must have for this configuration.
fn requirements(group: &GroupConfig, programs: &Path) -> Result<(), StarterError> {
    for seat in seats(group) {
        let program = programs.join(seat.role.name());
        if rustix::fs::access(&program, Access::EXEC_OK).is_err() {
            let text = format!("{} is missing; build it with ./run.sh build", program.display());
            return Err(StarterError::Missing(text));
        }
    }
    for nic in &group.nics {
        let netns = match &nic.backend {
            Backend::Tap { netns, .. } | Backend::Packet { netns, .. } | Backend::Xdp { netns, .. } => {
                netns.as_ref()
            }
            Backend::Vfio { .. } | Backend::Wire { .. } => continue,
        };
        let tun = Path::new("/dev/net/tun");
        if matches!(nic.backend, Backend::Tap { .. })
            && let Err(errno) = rustix::fs::access(tun, Access::READ_OK | Access::WRITE_OK)
        {
            return Err(StarterError::Missing(format!(
                "/dev/net/tun can't be used ({errno}); load the module with `modprobe tun`, or use wire:PATH"
            )));
        }
        if let Some(netns) = netns.filter(|netns| !Path::new(NETNS).join(netns).exists()) {
            return Err(StarterError::Missing(format!(
                "there is no network namespace '{netns}'; make it with `ip netns add {netns}`"
            )));
        }
    }
    Ok(())
}

/// A listening SEQPACKET socket at `path`. What lies there is a dead group's: its lock was free.
fn listener(path: &Path, mode: Mode) -> Result<OwnedFd, StarterError> {
    let what = || doing(path.display().to_string());
    let _ = std::fs::remove_file(path);
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None);
    let socket = socket.map_err(what())?;
    let address = SocketAddrUnix::new(path).map_err(what())?;
    rustix::net::bind(&socket, &address).map_err(what())?;
    rustix::fs::chmod(path, mode).map_err(what())?;
    rustix::net::listen(&socket, BACKLOG).map_err(what())?;
    Ok(socket)
}

fn log_path(place: &RunDir, name: &str) -> PathBuf {
    place.logs().join(format!("{name}.log"))
}

fn fresh_logs(place: &RunDir, group: &GroupConfig) -> Result<(), StarterError> {
    let names = seats(group).map(|seat| seat.to_string()).chain(["supervisor".to_owned()]);
    for name in names {
        let path = log_path(place, &name);
        let emptied = OpenOptions::new().write(true).create(true).truncate(true).open(&path);
        emptied.map_err(doing(path.display().to_string()))?;
    }
    Ok(())
}

fn signals() -> io::Result<UnixStream> {
    let (signals, sender) = UnixStream::pair()?;
    signals.set_nonblocking(true)?;
    for signal in [SIGTERM, SIGINT] {
        signal_hook::low_level::pipe::register(signal, sender.try_clone()?)?;
    }
    Ok(signals)
}

type StarterLane = Lane<ToStandby, FromStandby>;

fn start_first(
    place: &RunDir,
    group: GroupConfig,
    programs: &Path,
    keepsakes: [&OwnedFd; 3],
) -> Result<(Child, StarterLane), StarterError> {
    let programs = std::path::absolute(programs).map_err(doing("the programs' directory"))?;
    let programs =
        programs.to_str().ok_or_else(|| StarterError::Missing("the programs' path is not text".into()))?;
    let setup = Setup { group, programs: programs.to_owned(), generation: Generation(1), starter: false };
    let (ours, theirs) = socket_pair().map_err(doing("a lane"))?;
    let mut lane: StarterLane = Lane::new(ours);
    let own = child::own_pidfd().map_err(doing("a pidfd"))?;
    let [lock_file, api, admin] = keepsakes;
    let descriptors = [&own, lock_file, api, admin].map(AsFd::as_fd);
    let lost = |error: LaneError| StarterError::Io { what: "a lane".into(), source: io::Error::other(error) };
    lane.send(&ToStandby::Setup(Box::new(setup)), &descriptors).map_err(lost)?;
    lane.send(&ToStandby::Begin, &[]).map_err(lost)?;
    let log = OpenOptions::new().append(true).open(log_path(place, "supervisor"));
    let log = log.map_err(doing("the supervisor's log"))?;
    let program = std::env::current_exe().map_err(doing("this program's path"))?;
    let started = child::start(&program, &["attend"], theirs, log, &tmp(place));
    let started = started.map_err(doing(program.display().to_string()))?;
    Ok((started.child, lane))
}

/// Waits until something can be read from the lane or a signal came; true for a signal.
fn wait_readable(lane: &StarterLane, signals: &UnixStream) -> bool {
    use rustix::event::{PollFd, PollFlags, poll};
    let mut ready = [PollFd::new(lane, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
    // An interrupted wait is followed by another look.
    let _ = poll(&mut ready, None);
    let mut bytes = [0; 16];
    let mut stream = signals;
    stream.read(&mut bytes).is_ok_and(|n| n > 0)
}

fn wait_report(place: &RunDir, lane: &mut StarterLane, signals: &UnixStream) -> Result<(), StarterError> {
    loop {
        match lane.receive() {
            Ok(Some((FromStandby::Report(Report::Started), _))) => return Ok(()),
            Ok(Some((FromStandby::Report(Report::Failed { seat, ended }), _))) => {
                return Err(failed(place, seat, ended));
            }
            Ok(Some((FromStandby::Hello | FromStandby::Ack { .. }, _))) => {}
            Ok(None) if wait_readable(lane, signals) => end(place),
            Ok(None) => {}
            Err(_) => return Err(StarterError::Lost(log_path(place, "supervisor").display().to_string())),
        }
    }
}

fn failed(place: &RunDir, seat: Seat, ended: Ended) -> StarterError {
    let log = log_path(place, &seat.to_string());
    let text = std::fs::read_to_string(&log).unwrap_or_default();
    let last_words = text.lines().last().unwrap_or("it said nothing").to_owned();
    StarterError::Failed { seat, ended, last_words, log: log.display().to_string() }
}

/// Waits until no supervisor is left; a signal ends the group.
fn wait_end(place: &RunDir, lane: &mut StarterLane, signals: &UnixStream) -> Result<(), StarterError> {
    loop {
        match lane.receive() {
            Ok(Some(_)) => {}
            Ok(None) if wait_readable(lane, signals) => end(place),
            Ok(None) => {}
            Err(_) if lock_file::path(place).exists() => {
                // Nobody cleaned up: both supervisors were killed.
                return Err(StarterError::Lost(log_path(place, "supervisor").display().to_string()));
            }
            Err(_) => return Ok(()),
        }
    }
}

/// Asks the active supervisor to end the group.
fn end(place: &RunDir) {
    let pid = lock_file::signed(place).and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed()));
    if let Some(pid) = pid {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
}

/// Whether a process is there and not merely waiting to be looked at by its parent.
fn is_running(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // proc(5): the state follows the name in brackets.
    let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
    state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

/// Stops a group and returns when nothing of it is left.
///
/// # Errors
/// [`StarterError`].
pub fn down(name: &str) -> Result<(), StarterError> {
    let place = RunDir::find(name).ok_or_else(|| StarterError::NotRunning(name.to_owned()))?;
    let deadline = Instant::now() + DOWN_MAX;
    let mut asked = None;
    while Instant::now() < deadline {
        if let Some(_held) = lock_file::take(&place).map_err(doing("the lock file"))? {
            clean_up(&place);
            return match asked {
                Some(pid) => {
                    // The lock falls while the process is still being taken apart.
                    while is_running(pid) && Instant::now() < deadline {
                        std::thread::sleep(DOWN_LOOK);
                    }
                    Ok(())
                }
                // It was dead before: only its remains were here.
                None => Err(StarterError::NotRunning(name.to_owned())),
            };
        }
        // Again for each one that signs: the standby may have taken over meanwhile.
        let active = lock_file::signed(&place);
        if active.is_some() && active != asked {
            asked = active;
            end(&place);
        }
        std::thread::sleep(DOWN_LOOK);
    }
    Err(StarterError::Stubborn(name.to_owned()))
}
