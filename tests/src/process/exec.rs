//! Unmodified programs on a group's stack, and the servers behind them.

use crate::process::group::Group;
use rustix::process::{Pid, Signal};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// A program that is ended with its owner.
#[derive(Debug)]
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Already gone is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Where a program is: in PATH, among root's, or unpacked by run.sh.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = std::env::split_paths(&path).collect();
    places.extend(["/usr/sbin", "/sbin"].map(PathBuf::from));
    if let Some(unpacked) = std::env::var_os("AXOLOTL_PROGRAMS") {
        places.extend(["usr/bin", "usr/sbin", "bin"].map(|dir| Path::new(&unpacked).join(dir)));
    }
    places.into_iter().map(|place| place.join(name)).find(|path| path.is_file())
}

/// A program on the stack, without input. `AXOLOTL_EXEC_WAY` names the way that its calls go, `seccomp` or
/// `preload`; without it netexec chooses.
pub fn on_the_stack(group: &Group, command: &[&str]) -> Command {
    let mut exec = group.command("netexec");
    if let Ok(way) = std::env::var("AXOLOTL_EXEC_WAY") {
        exec.arg(format!("--{way}"));
    }
    exec.arg("--").args(command).stdin(Stdio::null());
    exec
}

/// What a program on the stack prints.
///
/// # Panics
/// When it fails, with what it said.
pub fn printed(group: &Group, command: &[&str]) -> String {
    let output = on_the_stack(group, command).output().expect("netexec is built");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command:?}: {}\n{}", output.status, text(&output.stderr));
    text(&output.stdout)
}

/// The processes of netexec for a group whose name is `comm`: `netexec-server` or `netexec-holder`.
pub fn servers(group: &Group, comm: &str) -> Vec<Pid> {
    servers_of(group.name(), comm)
}

fn servers_of(group: &str, comm: &str) -> Vec<Pid> {
    let variable = format!("AXOLOTL={group}");
    let processes = std::fs::read_dir("/proc").expect("proc").flatten();
    let ours = |path: std::path::PathBuf| {
        let name = std::fs::read_to_string(path.join("comm")).unwrap_or_default();
        if name.trim() != comm {
            return None;
        }
        let environment = std::fs::read(path.join("environ")).unwrap_or_default();
        let is_ours = environment.split(|byte| *byte == 0).any(|part| part == variable.as_bytes());
        Pid::from_raw(path.file_name()?.to_str()?.parse().ok().filter(|_| is_ours)?)
    };
    processes.filter_map(|entry| ours(entry.path())).collect()
}

/// Kills the servers of a group's programs again and again until it is dropped.
#[derive(Debug)]
pub struct ServerKiller {
    stop: Arc<AtomicBool>,
    killed: Arc<AtomicU32>,
    thread: Option<JoinHandle<()>>,
}

impl ServerKiller {
    /// One that waits between two strikes from 1 ms to `longest`, by `seed`.
    pub fn start(group: &Group, longest: Duration, seed: u64) -> ServerKiller {
        let (stop, killed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let name = group.name().to_owned();
        let (stopped, count) = (stop.clone(), killed.clone());
        let thread = std::thread::spawn(move || {
            let mut state = seed | 1;
            while !stopped.load(Ordering::Relaxed) {
                // xorshift64*: enough to spread strikes.
                state ^= state >> 12;
                state ^= state << 25;
                state ^= state >> 27;
                let within = longest.as_micros() as u64;
                let wait = state.wrapping_mul(0x2545_f491_4f6c_dd1d) % within;
                std::thread::sleep(Duration::from_micros(1000 + wait));
                for server in servers_of(&name, "netexec-server") {
                    if rustix::process::kill_process(server, Signal::KILL).is_ok() {
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        });
        ServerKiller { stop, killed, thread: Some(thread) }
    }

    /// How many it has killed.
    pub fn killed(&self) -> u32 {
        self.killed.load(Ordering::Relaxed)
    }
}

impl Drop for ServerKiller {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
