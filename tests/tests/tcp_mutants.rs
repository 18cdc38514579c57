//! Mutants of TCP: a branch of each step of RFC 9293 §3.10 is taken the wrong way, and some packet script must
//! fail, or the scripts say nothing of that step.
//!
//! The mutants are built into a copy of the tree, each behind a switch in the environment, so that one build has
//! them all. A stage of `./run.sh test --all`; `AXOLOTL_MUTANT=part` runs those whose step contains it.

#[path = "tcp_mutants/table.rs"]
mod table;

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use table::{MUTANTS, STEPS};

/// How long the scripts may take with a mutant: one that never ends is caught too.
const PATIENCE: Duration = Duration::from_secs(120);
/// By what a mutant is switched on.
const SWITCH: &str = "AXOLOTL_TCP_MUTANT";
/// The test that runs every script.
const SCRIPTS: &str = "the_stack_speaks_as_the_scripts_say";
/// What the copy has beside the tree.
const SWITCHED: &str = r#"
/// Whether this mutant is the one that runs.
pub fn mutant(number: u32) -> bool {
    static RUNS: std::sync::OnceLock<u32> = std::sync::OnceLock::new();
    let chosen = || std::env::var("AXOLOTL_TCP_MUTANT").ok().and_then(|number| number.parse().ok());
    *RUNS.get_or_init(|| chosen().unwrap_or(0)) == number
}
"#;

/// The top of this tree.
fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests is a folder of the tree")
}

/// Copies what is built from, no product of a build.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder").map(|entry| entry.expect("an entry")) {
        let (name, path) = (entry.file_name(), entry.path());
        let product = name == "target" || name.to_string_lossy().starts_with('.');
        match entry.file_type().expect("a type") {
            _ if product => {}
            kind if kind.is_dir() => copy(&path, &to.join(&name)),
            kind if kind.is_file() => drop(fs::copy(&path, to.join(&name)).expect("a copy")),
            _ => {}
        }
    }
}

/// Builds every mutant into the copy.
fn mutate(tree: &Path) {
    for (number, mutant) in (1..).zip(MUTANTS) {
        let path = tree.join("netd/src/tcp").join(mutant.file);
        let text = fs::read_to_string(&path).expect("a file of TCP");
        let found = text.matches(mutant.there).count();
        assert_eq!(found, 1, "{}: {} has so often: {}", mutant.step, mutant.file, mutant.there);
        let instead = mutant.instead.replace('@', &i32::to_string(&number));
        fs::write(&path, text.replacen(mutant.there, &instead, 1)).expect("it can be written");
    }
    let library = tree.join("netd/src/lib.rs");
    let text = fs::read_to_string(&library).expect("a library");
    fs::write(&library, text + SWITCHED).expect("it can be written");
}

/// Builds the scripts of the copy, and says where they are.
fn build(tree: &Path) -> PathBuf {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(tree).args(["test", "--locked", "-p", "tests", "--test", "scripts", "--no-run"]);
    // Its own: what is built of the copy is not told from what is built of this tree.
    cargo.env("CARGO_TARGET_DIR", tree.join("target"));
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    let output = cargo.stdout(Stdio::null()).stderr(Stdio::piped()).output().expect("cargo runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the mutants can't be built:\n{said}");
    // Executable tests/scripts.rs (PATH)
    let line = said.lines().rev().find(|line| line.contains("Executable")).expect("what was built");
    let path = line.rsplit_once('(').and_then(|(_, path)| path.strip_suffix(')')).expect("its path");
    tree.join(path)
}

/// Runs the scripts with that mutant; what failed first, if any did.
fn first_failure(scripts: &Path, tree: &Path, number: usize) -> Option<String> {
    let mut child = Command::new(scripts)
        .args([SCRIPTS, "--test-threads=1"])
        .current_dir(tree.join("tests"))
        .env(SWITCH, number.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the scripts run");
    let mut out = child.stdout.take().expect("piped");
    let reader = std::thread::spawn(move || {
        let mut said = String::new();
        let _ = out.read_to_string(&mut said);
        said
    });
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child of ours") {
            break Some(status);
        }
        if begun.elapsed() > PATIENCE {
            child.kill().expect("a child of ours");
            child.wait().expect("a child of ours");
            break None;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let said = reader.join().expect("no panic");
    let Some(status) = status else { return Some("it does not end".to_owned()) };
    let scripts = said.lines().filter(|line| line.contains(".pkt: ")).collect::<Vec<_>>();
    let failure = || match scripts.first() {
        Some(first) => format!("{} scripts, {first}", scripts.len()),
        None => format!("{status}"),
    };
    (!status.success()).then(failure)
}

#[test]
fn every_step_has_a_mutant() {
    for step in STEPS {
        assert!(MUTANTS.iter().any(|mutant| mutant.step.starts_with(step)), "none of §{step}");
    }
    let steps: BTreeSet<&str> = MUTANTS.iter().map(|mutant| mutant.step).collect();
    assert_eq!(steps.len(), MUTANTS.len(), "two of one name");
}

#[test]
fn every_mutant_of_tcp_is_caught() {
    let part = std::env::var("AXOLOTL_MUTANT").unwrap_or_default();
    let tree = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tcp-mutants");
    // What an earlier run left, if it was ended.
    let _ = fs::remove_dir_all(&tree);
    copy(top(), &tree);
    mutate(&tree);
    let scripts = build(&tree);
    assert_eq!(first_failure(&scripts, &tree, 0), None, "the scripts fail without a mutant");
    let mut survivors = Vec::new();
    for (number, mutant) in (1..).zip(MUTANTS).filter(|(_, mutant)| mutant.step.contains(&part)) {
        match first_failure(&scripts, &tree, number) {
            Some(failure) => {
                println!("caught    {}: {}", mutant.step, failure.chars().take(120).collect::<String>());
            }
            None => {
                println!("SURVIVES  {}", mutant.step);
                survivors.push(mutant.step);
            }
        }
    }
    fs::remove_dir_all(&tree).expect("our own copy");
    assert!(survivors.is_empty(), "{} mutants survive: {survivors:#?}", survivors.len());
}
