//! What is known of a group at the moment at which a test gives it up: its processes and what each of its
//! threads waits for, the counters that still move, its sockets, its recorder, the ends of its logs.

use super::group::{Group, ProcessRow};
use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

/// How long counters are watched for movement.
const WATCHED: Duration = Duration::from_millis(500);
/// Last lines of a log or of a command's answer that are shown.
const TAIL: usize = 40;

/// Everything as one text.
pub fn text(group: &Group) -> String {
    let mut text = String::new();
    for command in [&["status"][..], &["stats"], &["ss"], &["neigh"], &["crash"]] {
        let answer = group.command("netctl").args(command).output();
        let answer = answer.map(|out| String::from_utf8_lossy(&out.stdout).into_owned()).unwrap_or_default();
        section(&mut text, &format!("netctl {}", command.join(" ")), &answer);
    }
    section(&mut text, "counters that move", &moving(group));
    for row in group.processes() {
        section(&mut text, &format!("{} {}", row.role, row.pid), &threads(&row));
    }
    for log in group.logs() {
        section(&mut text, &log.display().to_string(), &read(&log));
    }
    text
}

fn section(text: &mut String, title: &str, body: &str) {
    let lines: Vec<&str> = body.lines().collect();
    let tail = &lines[lines.len().saturating_sub(TAIL)..];
    // A string takes whatever is written to it.
    let _ = writeln!(text, "--- {title}\n{}", tail.join("\n"));
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim_end().to_owned()
}

fn moving(group: &Group) -> String {
    let before = group.access().counters();
    std::thread::sleep(WATCHED);
    let after = group.access().counters();
    let moved = after.iter().filter_map(|((role, name), n)| {
        let was = before.get(&(*role, name.clone())).copied().unwrap_or(0);
        (was != *n).then(|| format!("{role} {name} {was} -> {n}"))
    });
    moved.collect::<Vec<String>>().join("\n")
}

/// State and kernel function of every thread of a process.
fn threads(row: &ProcessRow) -> String {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", row.pid)).into_iter().flatten().flatten();
    let line = |task: std::fs::DirEntry| {
        let of = |name: &str| read(&task.path().join(name));
        let state = of("stat").rsplit(')').next().and_then(|rest| rest.trim().chars().next()).unwrap_or('?');
        format!("{} {state} {} {}", of("comm"), of("wchan"), of("syscall"))
    };
    tasks.map(line).collect::<Vec<String>>().join("\n")
}
