//! The house rules that a compiler does not keep: where unsafe may stand, how long a file may be, who
//! may depend on whom, that the documents speak of what is there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The only files that may open `unsafe_code`: mapped memory, and system calls without a safe wrapper.
const UNSAFE: &[&str] = &[
    "libnetclient/capi/src/abi.rs",
    "libnetclient/capi/src/control.rs",
    "libnetclient/capi/src/epoll.rs",
    "libnetclient/capi/src/in_place.rs",
    "libnetclient/capi/src/names.rs",
    "libnetclient/capi/src/options.rs",
    "libnetclient/capi/src/poll.rs",
    "libnetclient/capi/src/transfer.rs",
    "libnetclient/capi/tests/calls.rs",
    "libnetclient/netexec/src/filter.rs",
    "libnetclient/netexec/src/holder.rs",
    "libnetclient/netexec/src/launch.rs",
    "libnetclient/netexec/src/native.rs",
    "libnetclient/netexec/src/notices.rs",
    "libnetclient/netexec/src/program.rs",
    "libnetclient/netexec/src/pump.rs",
    "libnetclient/netexec/src/successor.rs",
    "libnetclient/preload/src/calls.rs",
    "libnetclient/preload/src/kernel.rs",
    "libnetclient/preload/src/lib.rs",
    "netctl/src/libpcap.rs",
    // Sockets that share memory with the kernel, and calls on them.
    "nicd/src/backend/bpf.rs",
    "nicd/src/backend/kernel_calls.rs",
    "nicd/src/backend/kernel_memory.rs",
    "nicd/src/backend/tap/open.rs",
    // Registers of a chip are mapped and reached by address; memory is given to a device.
    "nicd/src/vfio/bar.rs",
    "nicd/src/vfio/device.rs",
    "proto/src/daemon/turn.rs",
    "proto/src/shm/copy_sum.rs",
    "proto/src/shm/fault.rs",
    "proto/src/shm/region.rs",
    "sockd/src/pass_rights.rs",
    "supervisor/src/child.rs",
    "tests/src/process/raw_link.rs",
    "tests/src/remote/unacked.rs",
    "tests/tests/hotpath.rs",
];
/// The longest file in lines.
const LINES_MAX: usize = 800;
/// The longest `main.rs` of a process.
const MAIN_LINES_MAX: usize = 60;
/// Crates that are processes; none may depend on another.
const PROCESSES: &[&str] = &["supervisor", "nicd", "netd", "sockd", "netctl"];
/// Names that say nothing about what a file is.
const EMPTY_NAMES: &[&str] = &["util", "utils", "common", "helper", "helpers", "manager", "data", "misc"];

struct Text {
    /// Relative to the top of the tree.
    path: String,
    text: String,
}

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace above").to_owned()
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("a readable tree").flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let skipped = ["target", ".git", "Cargo.lock", "cache"].iter().any(|skip| name == *skip);
        match (skipped, path.is_dir()) {
            (true, _) => {}
            (false, true) => walk(&path, found),
            (false, false) => found.push(path),
        }
    }
}

/// Every text file of the tree whose name ends in one of `ends`.
fn texts(ends: &[&str]) -> Vec<Text> {
    let (top, mut paths) = (top(), Vec::new());
    walk(&top, &mut paths);
    let mut texts: Vec<Text> = paths
        .into_iter()
        .filter(|path| ends.iter().any(|end| path.to_string_lossy().ends_with(end)))
        .filter_map(|path| {
            let relative = path.strip_prefix(&top).expect("below the top").to_string_lossy().into_owned();
            std::fs::read_to_string(&path).ok().map(|text| Text { path: relative, text })
        })
        .collect();
    texts.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(texts.len() > 2, "the tree is here");
    texts
}

fn assert_none(faults: Vec<String>) {
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn unsafe_stands_only_where_it_may() {
    // Put together here, so that this file does not find itself.
    let openers = [["(unsafe", "_code"].concat(), ["unsafe", " {"].concat(), ["unsafe", " impl"].concat()];
    let (mut faults, mut seen) = (Vec::new(), BTreeSet::new());
    for file in texts(&[".rs"]) {
        if openers.iter().any(|opener| file.text.contains(opener.as_str())) {
            if !UNSAFE.contains(&file.path.as_str()) {
                faults.push(format!("{}: opens unsafe code", file.path));
            }
            seen.insert(file.path);
        }
    }
    faults
        .extend(UNSAFE.iter().filter(|path| !seen.contains(**path)).map(|path| format!("{path}: none left")));
    assert_none(faults);
}

#[test]
fn no_word_that_promises_instead_of_doing() {
    let words = ["to", "do!(|unimpl", "emented!(|FIX", "ME|TO", "DO|for n", "ow|place", "holder"].concat();
    let places = ["/wo", "rk/|/ro", "ot/|/ho", "me/"].concat();
    let mut faults = Vec::new();
    for file in texts(&[".rs", ".md", ".toml", ".sh", ".ci/run"]) {
        for (n, line) in file.text.lines().enumerate() {
            let bad = words.split('|').chain(places.split('|')).find(|word| line.contains(word));
            faults.extend(bad.map(|word| format!("{}:{}: says '{word}'", file.path, n + 1)));
        }
    }
    assert_none(faults);
}

#[test]
fn files_are_short_and_named_for_what_they_are() {
    let mut faults = Vec::new();
    for file in texts(&[".rs"]) {
        let lines = file.text.lines().count();
        let path = Path::new(&file.path);
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let is_main = PROCESSES.iter().any(|name| file.path == format!("{name}/src/main.rs"));
        let limit = if is_main { MAIN_LINES_MAX } else { LINES_MAX };
        if lines > limit {
            faults.push(format!("{}: {lines} lines, at most {limit}", file.path));
        }
        if EMPTY_NAMES.contains(&&*stem) {
            faults.push(format!("{}: a name that says nothing", file.path));
        }
        let is_test = stem == "tests" || stem.ends_with("_tests") || file.path.contains("src/tcp/tests/");
        if stem != "main" && !is_test && !file.text.starts_with("//!") && !file.text.starts_with("#!") {
            faults.push(format!("{}: does not say what it is", file.path));
        }
    }
    assert_none(faults);
}

#[test]
fn every_ignored_test_says_why() {
    let bare = ["#[ig", "nore]"].concat();
    let found = texts(&[".rs"]).into_iter().filter(|file| file.text.contains(&bare));
    assert_none(found.map(|file| format!("{}: {bare} without a reason", file.path)).collect());
}

#[test]
fn no_process_depends_on_another() {
    let mut faults = Vec::new();
    for name in PROCESSES.iter().chain(&["proto", "libnetclient", "libnetclient/capi"]) {
        let manifest = std::fs::read_to_string(top().join(name).join("Cargo.toml")).expect("a manifest");
        let mut section = "";
        for line in manifest.lines() {
            if line.starts_with('[') {
                section = line;
            }
            let key = line.split(['=', '.', ' ']).next().unwrap_or_default();
            if section.contains("dependencies") && PROCESSES.contains(&key) {
                faults.push(format!("{name}/Cargo.toml: {section} names {key}"));
            }
        }
        if !manifest.contains("[lints]\nworkspace = true") {
            faults.push(format!("{name}/Cargo.toml: not under the workspace's lints"));
        }
    }
    assert_none(faults);
}

/// `INV-…` names in a text, as cited.
fn cited(text: &str) -> BTreeSet<String> {
    let names = text.split("INV-").skip(1).map(|rest| {
        rest.chars().take_while(|c| c.is_ascii_uppercase() || c.is_ascii_digit()).collect::<String>()
    });
    names.filter(|name| !name.is_empty()).map(|name| format!("INV-{name}")).collect()
}

#[test]
fn every_invariant_that_is_cited_exists() {
    let page = std::fs::read_to_string(top().join("docs/INVARIANTS.md")).expect("the invariants");
    let defined: BTreeSet<String> = page
        .lines()
        .filter(|line| line.starts_with("- **INV-"))
        .flat_map(|line| cited(&line[..16]))
        .collect();
    assert!(defined.len() >= 16, "{defined:?}");
    let mut faults = Vec::new();
    for file in texts(&[".rs", ".md"]) {
        let unknown = cited(&file.text).into_iter().filter(|name| !defined.contains(name));
        faults.extend(unknown.map(|name| format!("{}: cites {name}", file.path)));
    }
    // And each is cited by code: an invariant that no code speaks of is kept by nobody.
    let code: BTreeSet<String> = texts(&[".rs"]).iter().flat_map(|file| cited(&file.text)).collect();
    faults.extend(defined.difference(&code).map(|name| format!("{name}: cited by no code")));
    assert_none(faults);
}

#[test]
fn the_architecture_page_knows_every_folder() {
    let page = std::fs::read_to_string(top().join("ARCHITECTURE.md")).expect("the page");
    let mut folders = BTreeSet::new();
    for file in texts(&[".rs"]) {
        let parts: Vec<&str> = file.path.split('/').collect();
        // CRATE/src/FOLDER/…
        if let [name, "src", folder, _, ..] = parts[..] {
            folders.insert(format!("{name}/src/{folder}"));
        }
    }
    let missing = folders.iter().filter(|folder| !page.contains(folder.as_str()));
    assert_none(missing.map(|folder| format!("ARCHITECTURE.md: nothing about {folder}")).collect());
}

#[test]
fn what_the_documents_link_to_is_there() {
    let mut faults = Vec::new();
    for file in texts(&[".md"]) {
        for target in file.text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = target.split('#').next().unwrap_or_default();
            let dir = top().join(&file.path).parent().expect("a folder").to_owned();
            if !path.is_empty() && !path.contains("://") && !dir.join(path).exists() {
                faults.push(format!("{}: links to {target}", file.path));
            }
        }
    }
    assert_none(faults);
}
