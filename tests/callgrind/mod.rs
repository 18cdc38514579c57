//! Instructions of one function in an example of the calling package, counted by valgrind: the same on every machine,
//! whatever else runs there. Included by the tests of the packages that have such an example.

use std::process::Command;

/// Instructions in `function` of the example `program` and what it calls, but for those in `except` where it calls that,
/// with those words as arguments; `None` without valgrind.
pub fn instructions(program: &str, function: &str, except: Option<&str>, words: &[&str]) -> Option<u64> {
    let here = std::env::current_exe().expect("a program knows its path");
    let examples = here.ancestors().nth(2).expect("a build directory").join("examples");
    let out = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--collect-atstart=no"])
        .arg(format!("--toggle-collect=*{function}*"))
        // Entered while it counts, it stops that, and its end goes on with it.
        .args(except.map(|except| format!("--toggle-collect=*{except}*")))
        .arg(examples.join(program))
        .args(words)
        .output()
        .ok()?;
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{said}");
    let line = said.lines().find(|line| line.contains("Collected")).expect("callgrind's count");
    line.rsplit(':').next()?.trim().parse().ok()
}
