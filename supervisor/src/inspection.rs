//! Asking a program which layouts it speaks, without letting it keep anybody waiting.

use proto::daemon::LANE_VARIABLE;
use proto::id::Role;
use proto::layouts;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::Read;
use std::path::Path;
use std::process::{ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a program may take to answer: it prints a dozen lines.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// The longest answer in bytes.
const TEXT_MAX: usize = 16 * 1024;

/// Whether `program` can take the place of a daemon of that role in this group. Blocks until it has
/// said so, for two seconds at most: not for the event loop's own thread.
///
/// # Errors
/// Why not, in words for a person.
pub fn inspect(program: &Path, role: Role) -> Result<(), String> {
    let refused = |why: String| format!("{} is not started: {why}", program.display());
    let said = ask(program).map_err(refused)?;
    layouts::compare(role, &said).map_err(refused)
}

fn ask(program: &Path) -> Result<String, String> {
    let child = Command::new(program)
        .arg(layouts::ARGUMENT)
        .env_remove(LANE_VARIABLE)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut child = child.map_err(|error| error.to_string())?;
    let said = read_all(child.stdout.take().expect("piped"));
    // It has answered, or it never will.
    let _ = child.kill();
    let _ = child.wait();
    said
}

/// What it says until its end of the pipe is closed.
fn read_all(mut pipe: ChildStdout) -> Result<String, String> {
    let deadline = Instant::now() + ANSWER_MAX;
    let mut text = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let time = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&pipe, PollFlags::IN)], Some(&time)) {
            Ok(0) => return Err(format!("it does not say within {ANSWER_MAX:?} which layouts it speaks")),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.to_string()),
        }
        match pipe.read(&mut chunk) {
            Ok(0) => break,
            Ok(n) if text.len() + n <= TEXT_MAX => text.extend(&chunk[..n]),
            Ok(_) => return Err("it says more than a list of layouts".into()),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    String::from_utf8(text).map_err(|_| "it says something else than a list of layouts".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A program that says `said`, and its verdict as netd.
    fn verdict(name: &str, script: &str) -> Result<(), String> {
        let path = std::env::temp_dir().join(format!("axlinspect{}-{name}", std::process::id()));
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("a file");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("ours");
        let verdict = inspect(&path, Role::Netd);
        std::fs::remove_file(&path).expect("ours");
        verdict
    }

    #[test]
    fn only_the_same_layouts_fit() {
        let list = layouts::text(Role::Netd);
        assert_eq!(verdict("same", &format!("printf '%s' '{list}'")), Ok(()));
        let newer = list.replace("conns ", "conns 9");
        let said = verdict("newer", &format!("printf '%s' '{newer}'")).expect_err("another layout");
        assert!(said.contains("instead of") && said.contains("conns 9"), "{said}");
    }

    #[test]
    fn a_program_that_says_nothing_hangs_or_babbles_does_not_fit() {
        assert!(verdict("silent", "exit 3").expect_err("silence").contains("does not say"));
        let begun = Instant::now();
        assert!(verdict("hanging", "sleep 60").expect_err("no end").contains("within"));
        assert!(begun.elapsed() < 2 * ANSWER_MAX);
        assert!(verdict("babbling", "yes").expect_err("no list").contains("more than"));
        let missing = inspect(Path::new("/nonexistent/netd"), Role::Netd);
        assert!(missing.expect_err("no program").contains("No such file"));
    }
}
