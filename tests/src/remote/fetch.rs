//! The kernel's curl, as a child that is ended with its owner.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

/// A download that is under way.
#[derive(Debug)]
pub struct Fetch {
    child: Child,
    to: PathBuf,
}

impl Fetch {
    /// Starts curl on `url`, at most `bytes_per_second`, into the file `to`. One connection, no retry.
    ///
    /// # Errors
    /// When curl can't be started.
    pub fn start(url: &str, bytes_per_second: u64, to: &Path) -> io::Result<Fetch> {
        let child = Command::new("curl")
            .args(["--silent", "--show-error", "--fail", "--no-buffer", "--max-time", "240"])
            .args(["--limit-rate", &bytes_per_second.to_string(), "--output"])
            .arg(to)
            .arg(url)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Fetch { child, to: to.to_owned() })
    }

    /// Bytes on disk so far.
    pub fn bytes(&self) -> u64 {
        std::fs::metadata(&self.to).map_or(0, |meta| meta.len())
    }

    /// How curl ended; `None` while it runs.
    ///
    /// # Errors
    /// Those of waitpid(2).
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        // Already gone is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
