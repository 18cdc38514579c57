//! A second network namespace beside the caller's own: the far end of a cable to an interface of the kernel.
//!
//! A process that does nothing holds it; it vanishes with that process, and the process with its owner. A thread
//! enters it for as long as a closure runs: what it opens there stays there.

use rustix::fs::{Mode, OFlags};
use std::io;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);

/// Another network namespace.
#[derive(Debug)]
pub struct OtherNet {
    holder: Child,
}

fn ran(program: &str, words: &[&str]) -> io::Result<()> {
    let output = Command::new(program).args(words).output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(io::Error::other(format!(
            "{program} {}: {}",
            words.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        ))),
    }
}

/// `ip WORDS`, in the caller's namespace.
///
/// # Errors
/// When it fails, with what it said.
pub fn ip(words: &str) -> io::Result<()> {
    ran("ip", &words.split_whitespace().collect::<Vec<_>>())
}

impl OtherNet {
    /// A new one, with nothing in it but its loopback.
    ///
    /// # Errors
    /// When there can be none.
    pub fn new() -> io::Result<OtherNet> {
        // It ends with its standard input, which only this process holds.
        let mut holder = Command::new("unshare");
        holder.args(["--net", "sh", "-c", "ip link set lo up; echo; cat >/dev/null"]);
        let mut other = OtherNet { holder: holder.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()? };
        let mut said = other.holder.stdout.take().ok_or_else(|| io::Error::other("no output"))?;
        // It is there when it says so.
        io::Read::read_exact(&mut said, &mut [0])?;
        Ok(other)
    }

    /// A cable from here to there: interface `here` in the caller's namespace, `there` in this one, both up, with
    /// addresses.
    ///
    /// # Errors
    /// When ip(8) fails.
    pub fn cable(&self, here: (&str, &str), there: (&str, &str)) -> io::Result<()> {
        ip(&format!("link add {} type veth peer name {} netns {}", here.0, there.0, self.holder.id()))?;
        ip(&format!("addr add {} dev {}", here.1, here.0))?;
        ip(&format!("link set {} up", here.0))?;
        self.ip(&format!("addr add {} dev {}", there.1, there.0))?;
        self.ip(&format!("link set {} up", there.0))
    }

    /// `ip WORDS`, inside.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub fn ip(&self, words: &str) -> io::Result<()> {
        self.run(|| ip(words))
    }

    /// Runs `body` inside.
    ///
    /// # Panics
    /// When the namespace can't be entered, or `body` panics.
    pub fn run<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        let path = format!("/proc/{}/ns/net", self.holder.id());
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                let namespace = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                    .expect("the namespace is there");
                let kind = Some(rustix::thread::LinkNameSpaceType::Network);
                rustix::thread::move_into_link_name_space(rustix::fd::AsFd::as_fd(&namespace), kind)
                    .expect("it can be entered");
                body()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for OtherNet {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        let holder = &mut self.holder;
        if !super::wait_until(PATIENCE, || !matches!(holder.try_wait(), Ok(None))) {
            // Gone already is as good.
            let _ = self.holder.kill();
            let _ = self.holder.wait();
        }
    }
}
