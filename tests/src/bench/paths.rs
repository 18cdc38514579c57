//! The paths that are measured beside each other: the stack over a TAP, the kernel over veth, and the
//! kernel through a TAP pair with a forwarder between.
//!
//! ```text
//!   here (remote) ── TAP ── nicd ── netd ── server         10.79.0.2
//!        │ veth ─────────────────────────── server (far)   10.79.1.2
//!        └ TAP ── forwarder ── TAP ──────── server (far)   10.79.2.2
//! ```
//!
//! "Far" is a second network namespace. Everything here ends with its owner; the devices vanish with
//! their namespaces.

use super::load::Service;
use crate::process::exec::on_the_stack;
use crate::process::group::{Group, Spec};
use nicd::backend::tap;
use proto::control::messages::Prefix;
use proto::control::notices::feature;
use rustix::event::{EventfdFlags, PollFd, PollFlags};
use rustix::fd::{AsFd, OwnedFd};
use rustix::process::Signal;
use rustix::thread::LinkNameSpaceType;
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;

/// The link's MTU everywhere.
const MTU: u16 = 1500;
/// Frames that the forwarder moves one way before it looks at the other: NAPI_POLL_WEIGHT of Linux.
const FORWARD_BUDGET: usize = 64;
/// A super-frame with its virtio header.
const FRAME_MAX: usize = 65_536 + 64;
/// What a bench process is told in order to be a server.
pub const SERVE: &str = "serve";

/// A way to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// The stack over a TAP.
    Stack,
    /// The kernel over veth.
    Veth,
    /// The kernel through a TAP pair and a forwarder.
    Forwarder,
}

impl Path {
    /// Where a service is to be found.
    pub fn addr(self, service: Service) -> SocketAddr {
        SocketAddr::from(([10, 79, self as u8, 2], service.port()))
    }
}

fn run(command: &mut Command) -> io::Result<()> {
    let output = command.stdin(Stdio::null()).output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(io::Error::other(format!(
            "{:?}: {}",
            command.get_args().collect::<Vec<_>>(),
            String::from_utf8_lossy(&output.stderr).trim()
        ))),
    }
}

/// ip(8) in this namespace.
///
/// # Errors
/// What it says.
pub(super) fn ip(words: &str) -> io::Result<()> {
    run(Command::new("ip").args(words.split_whitespace()))
}

/// What ip(8) says in this namespace.
///
/// # Errors
/// What it complains of.
pub(super) fn ip_says(words: &str) -> io::Result<String> {
    let output = Command::new("ip").args(words.split_whitespace()).stdin(Stdio::null()).output()?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
    }
}

/// A second network namespace, kept by a shell that waits for the end of its input.
#[derive(Debug)]
pub struct Far(Child);

impl Far {
    /// Makes one, with its loopback up.
    ///
    /// # Errors
    /// When namespaces can't be had.
    pub fn new() -> io::Result<Far> {
        let mut shell = Command::new("unshare");
        shell.args(["--net", "sh", "-c", "ip link set lo up && echo ready && read -r _"]);
        let mut far = Far(shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?);
        wait_ready(&mut far.0)?;
        Ok(far)
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    /// A command inside.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.pid())).arg(program);
        command
    }

    fn ip(&self, words: &str) -> io::Result<()> {
        run(self.command("ip").args(words.split_whitespace()))
    }

    /// Takes a device of this namespace, with addresses.
    ///
    /// # Errors
    /// Those of ip(8).
    pub fn take(&self, name: &str, addrs: &[Prefix]) -> io::Result<()> {
        ip(&format!("link set {name} netns {}", self.pid()))?;
        for prefix in addrs {
            self.ip(&format!("addr add {}/{} dev {name}", prefix.addr, prefix.len))?;
        }
        self.ip(&format!("link set {name} up"))
    }

    /// Runs `body` in a thread that lives in the namespace.
    ///
    /// # Errors
    /// When it can't be entered, and those of `body`.
    pub fn inside<T: Send>(&self, body: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        let path = format!("/proc/{}/ns/net", self.pid());
        std::thread::scope(|scope| {
            let entered = scope.spawn(|| {
                let namespace = std::fs::File::open(&path)?;
                let kind = Some(LinkNameSpaceType::Network);
                rustix::thread::move_into_link_name_space(namespace.as_fd(), kind)?;
                body()
            });
            entered.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A veth pair between here (`addr`.1) and there (`addr`.2).
    ///
    /// # Errors
    /// Those of ip(8).
    pub fn veth(&self, name: &str, network: &str) -> io::Result<()> {
        ip(&format!("link add {name}0 mtu {MTU} type veth peer name {name}1 mtu {MTU}"))?;
        ip(&format!("link set {name}1 netns {}", self.pid()))?;
        ip(&format!("addr add {network}.1/24 dev {name}0"))?;
        ip(&format!("link set {name}0 up"))?;
        self.ip(&format!("addr add {network}.2/24 dev {name}1"))?;
        self.ip(&format!("link set {name}1 up"))
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        // It ends with its input.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

fn wait_ready(child: &mut Child) -> io::Result<()> {
    let mut line = String::new();
    let out = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    BufReader::new(out).read_line(&mut line)?;
    match line.trim() {
        "ready" => Ok(()),
        other => Err(io::Error::other(format!("a server that is not ready: '{other}'"))),
    }
}

/// A server in a process of its own, ended with its owner.
#[derive(Debug)]
pub struct Server(Child);

impl Server {
    /// The kernel's, in the far namespace.
    ///
    /// # Errors
    /// When it does not get ready.
    pub fn far(far: &Far, service: Service) -> io::Result<Server> {
        let mut command = far.command(std::env::current_exe()?);
        Server::start(command.args([SERVE, service.name(), "kernel"]))
    }

    /// The kernel's, in this namespace.
    ///
    /// # Errors
    /// When it does not get ready.
    pub fn here(service: Service) -> io::Result<Server> {
        let mut command = Command::new(std::env::current_exe()?);
        Server::start(command.args([SERVE, service.name(), "kernel"]))
    }

    /// The stack's.
    ///
    /// # Errors
    /// When it does not get ready.
    pub fn on(group: &Group, service: Service) -> io::Result<Server> {
        let mut command = Command::new(std::env::current_exe()?);
        command.env("AXOLOTL", group.name()).env("AXOLOTL_DIR", group.dir());
        Server::start(command.args([SERVE, service.name(), "stack"]))
    }

    /// The kernel's program, unmodified, on a group's stack.
    ///
    /// # Errors
    /// When it does not get ready.
    pub fn by_netexec(group: &Group, service: Service) -> io::Result<Server> {
        let program = std::env::current_exe()?;
        let program = program.to_str().ok_or(io::ErrorKind::InvalidFilename)?;
        Server::start(&mut on_the_stack(group, &[program, SERVE, service.name(), "kernel"]))
    }

    fn start(command: &mut Command) -> io::Result<Server> {
        let mut server = Server(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?);
        wait_ready(&mut server.0)?;
        Ok(server)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Already gone is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// So that a server does not outlive a bench that is killed.
///
/// # Errors
/// Those of prctl(2).
pub fn end_with_parent() -> io::Result<()> {
    Ok(rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?)
}

/// A TAP here and one in the far namespace, and a thread that moves frames between them.
#[derive(Debug)]
pub struct Forwarder {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Forwarder {
    /// Lays the path.
    ///
    /// # Errors
    /// When the devices can't be had.
    pub fn lay(far: &Far) -> io::Result<Forwarder> {
        let features = feature::RX_CHECKSUM | feature::RX_COALESCE;
        let addr = Prefix { addr: [10, 79, 2, 1].into(), len: 24 };
        let open =
            |name, addrs: &[Prefix]| tap::open(name, None, MTU, addrs, features).map_err(io::Error::other);
        let (here, there) = (open("axlf0", &[addr])?, open("axlf1", &[])?);
        ip(&format!("link set axlf1 netns {}", far.pid()))?;
        far.ip("addr add 10.79.2.2/24 dev axlf1")?;
        far.ip("link set axlf1 up")?;
        let stop = Arc::new(rustix::event::eventfd(0, EventfdFlags::CLOEXEC)?);
        let stopped = stop.clone();
        let thread = std::thread::Builder::new().name("forwarder".into()).spawn(move || {
            if let Err(error) = forward(&here, &there, &stopped) {
                eprintln!("forwarder: {error}");
            }
        })?;
        Ok(Forwarder { stop, thread: Some(thread) })
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        let _ = rustix::io::write(&*self.stop, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn forward(here: &OwnedFd, there: &OwnedFd, stop: &OwnedFd) -> io::Result<()> {
    let mut frame = vec![0; FRAME_MAX];
    loop {
        let more = move_frames(here, there, &mut frame)? | move_frames(there, here, &mut frame)?;
        if more {
            continue;
        }
        let mut fds = [here, there, stop].map(|fd| PollFd::new(fd, PollFlags::IN));
        match rustix::event::poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        if !fds[2].revents().is_empty() {
            return Ok(());
        }
    }
}

/// Moves frames until there are none; true when the budget came first.
fn move_frames(from: &OwnedFd, to: &OwnedFd, frame: &mut [u8]) -> io::Result<bool> {
    for _ in 0..FORWARD_BUDGET {
        match rustix::io::read(from, &mut *frame) {
            // A device whose queue is full or that is down drops, as every device does.
            Ok(len) => drop(rustix::io::write(to, &frame[..len])),
            Err(rustix::io::Errno::AGAIN) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(true)
}

/// All three paths, and whoever keeps them.
#[derive(Debug)]
pub struct Paths {
    /// The group of the stack's path.
    pub group: Group,
    /// The namespace of the kernel's servers.
    pub far: Far,
    _forwarder: Forwarder,
}

impl Paths {
    /// Lays them.
    ///
    /// # Errors
    /// What could not be made.
    pub fn lay() -> io::Result<Paths> {
        let far = Far::new()?;
        far.veth("axlv", "10.79.1")?;
        let forwarder = Forwarder::lay(&far)?;
        // Many short connections to one server: more ports for them.
        let _ = std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "2048 65000");
        let group = Group::up(&stack_spec("tap:axl0".into(), "10.79.0.2/24", Some("10.79.0.1/24")))?;
        Ok(Paths { group, far, _forwarder: forwarder })
    }

    /// The servers of a service on every path, as long as they are held.
    ///
    /// # Errors
    /// When one does not get ready.
    pub fn serve(&self, service: Service) -> io::Result<[Server; 2]> {
        Ok([Server::on(&self.group, service)?, Server::far(&self.far, service)?])
    }
}

/// A group on one NIC.
pub fn stack_spec(nic: String, addr: &str, tap_addr: Option<&str>) -> Spec {
    Spec { nic, addr: addr.into(), tap_addr: tap_addr.map(str::to_owned), more: Vec::new() }
}

/// Two groups on a wire, in a directory of their own.
#[derive(Debug)]
pub struct Wired {
    /// The measured one, 10.79.4.2.
    pub server: Group,
    /// The one that asks, 10.79.4.1.
    pub client: Group,
    _place: Place,
}

#[derive(Debug)]
struct Place(PathBuf);

impl Drop for Place {
    fn drop(&mut self) {
        // What is left in a temporary directory harms nobody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Wired {
    /// Starts both.
    ///
    /// # Errors
    /// When one does not start.
    pub fn lay() -> io::Result<Wired> {
        let place = Place(std::env::temp_dir().join(format!("axlwire{}", std::process::id())));
        std::fs::create_dir_all(&place.0)?;
        let wire = format!("wire:{}", place.0.join("cable").display());
        // `up` waits for the link, and a cable has one when both ends are plugged in.
        let server = std::thread::spawn({
            let spec = stack_spec(wire.clone(), "10.79.4.2/24", None);
            move || Group::up(&spec)
        });
        let client = Group::up(&stack_spec(wire, "10.79.4.1/24", None));
        let server = server.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok(Wired { server, client: client?, _place: place })
    }
}
