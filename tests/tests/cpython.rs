//! CPython 3.11's own tests of sockets, unmodified, on the kernel and on the stack: of those that pass on the
//! kernel of this machine nearly all pass on the stack too, none hangs or crashes, and each that differs stands
//! in docs/DIFFERENCES.md with the reason.
//!
//! A test that fails on the stack is run again, alone: those tests have times of their own, which a busy machine
//! does not keep.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;
use tests::process::exec::{Running, on_the_stack};
use tests::process::group::{Group, Spec};
use tests::process::{private_net, skip};

const MODULES: [&str; 14] = [
    "test_socket",
    "test_select",
    "test_poll",
    "test_epoll",
    "test_selectors",
    "test_socketserver",
    "test_timeout",
    "test_ftplib",
    "test_httpservers",
    "test_asyncio.test_sock_lowlevel",
    "test_asyncio.test_server",
    "test_asyncio.test_streams",
    "test_asyncio.test_sendfile",
    "test_asyncio.test_events",
];
/// One test takes a minute at most; what says nothing for so long hangs.
const PATIENCE: Duration = Duration::from_secs(240);
/// Of a hundred tests that pass on the kernel so many must pass on the stack.
const PASS_MIN: usize = 98;
/// How often a test that fails is tried again by itself.
const TRIES: usize = 3;
const RUNNER: &str = include_str!("cpython/run.py");
const DIFFERENCES: &str = include_str!("../../docs/DIFFERENCES.md");

#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    Pass,
    Skip,
    Fail(String),
    Hang,
    Crash,
}

type Outcomes = BTreeMap<String, Outcome>;

/// Python 3.11 and its tests: where they lie if not in its library.
struct Python {
    program: String,
    tests: Option<PathBuf>,
}

impl Python {
    fn find() -> Result<Python, String> {
        let program = "python3".to_owned();
        let says = |script: &str| {
            let output = Command::new(&program).args(["-c", script]).output();
            output.is_ok_and(|output| output.status.success())
        };
        if !says("import sys; sys.exit(sys.version_info[:2] != (3, 11))") {
            return Err("python3 is not 3.11".to_owned());
        }
        if says("import test.test_socket") {
            return Ok(Python { program, tests: None });
        }
        let unpacked = std::env::var_os("AXOLOTL_PROGRAMS").map(PathBuf::from).unwrap_or_default();
        let tests = unpacked.join("usr/lib/python3.11/test");
        match tests.join("test_socket.py").is_file() {
            true => Ok(Python { program, tests: Some(tests) }),
            false => Err("CPython's tests are not here: ./run.sh test --all fetches them".to_owned()),
        }
    }

    /// Runs a module's tests, or one of them alone, with what `start` makes of a command.
    fn run(&self, module: &str, only: Option<&str>, start: &dyn Fn(&[&str]) -> Command) -> Outcomes {
        let mut outcomes = Outcomes::new();
        let mut after = String::new();
        loop {
            let mut command = start(&[&self.program, "-c", RUNNER, module]);
            command.env("AFTER", &after).env("ONLY", only.unwrap_or_default());
            command.env("TESTS", self.tests.as_deref().map_or("".as_ref(), |tests| tests.as_os_str()));
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
            let mut running = Running(command.spawn().expect("python3 is here"));
            let said = BufReader::new(running.0.stdout.take().expect("piped"));
            let (tell, hear) = channel();
            std::thread::spawn(move || {
                said.lines().map_while(Result::ok).all(|line| tell.send(line).is_ok())
            });
            let mut at = None;
            let ended_by = loop {
                let line = match hear.recv_timeout(PATIENCE) {
                    Ok(line) => line,
                    Err(RecvTimeoutError::Timeout) => break Some(Outcome::Hang),
                    Err(RecvTimeoutError::Disconnected) => break Some(Outcome::Crash),
                };
                let mut words = line.splitn(3, ' ');
                let (word, name) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
                let why = words.next().unwrap_or_default().to_owned();
                let outcome = match word {
                    "end" => break None,
                    "begin" => {
                        at = Some(name.to_owned());
                        continue;
                    }
                    "pass" => Outcome::Pass,
                    "skip" => Outcome::Skip,
                    "fail" => Outcome::Fail(why),
                    // What a test itself prints.
                    _ => continue,
                };
                // What a part of it came to counts for the whole.
                let known = outcomes.entry(name.to_owned()).or_insert_with(|| outcome.clone());
                if !matches!(known, Outcome::Fail(_)) {
                    *known = outcome;
                }
            };
            drop(running);
            match (ended_by, at) {
                (None, _) => return outcomes,
                (Some(outcome), Some(at)) if at != after => {
                    outcomes.insert(at.clone(), outcome);
                    if only.is_some() {
                        return outcomes;
                    }
                    after = at;
                }
                (Some(outcome), _) => {
                    outcomes.insert(module.to_owned(), outcome);
                    return outcomes;
                }
            }
        }
    }
}

/// Class and name, as the page has it.
fn short(name: &str) -> String {
    let mut parts = name.rsplit('.');
    let (test, class) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    format!("{class}.{test}")
}

#[test]
fn cpython_tests_its_sockets() {
    let test = "cpython_tests_its_sockets";
    let python = match Python::find() {
        Ok(python) => python,
        Err(reason) => return skip(test, &reason, true),
    };
    private_net::test(test, || {
        let group = Group::up(&Spec {
            nic: "tap:axl17".into(),
            addr: "10.88.0.2/24".into(),
            tap_addr: Some("10.88.0.1/24".into()),
            more: Vec::new(),
        });
        let group = group.expect("a group");
        // Their files lie where they are run.
        let places = ["kernel", "stack"].map(|name| group.dir().join(name));
        places.iter().for_each(|place| std::fs::create_dir_all(place).expect("a directory"));
        let on_the_kernel = |words: &[&str]| {
            let mut command = Command::new(words[0]);
            command.args(&words[1..]).current_dir(&places[0]);
            command
        };
        let here = |words: &[&str]| {
            let mut command = on_the_stack(&group, words);
            command.current_dir(&places[1]);
            command
        };
        let mut sums = (0, 0);
        let mut unknown = Vec::new();
        for module in MODULES {
            let (kernel, stack) = std::thread::scope(|scope| {
                let kernel = scope.spawn(|| python.run(module, None, &on_the_kernel));
                let stack = python.run(module, None, &here);
                (kernel.join().expect("a run"), stack)
            });
            let passing = kernel.iter().filter(|(_, outcome)| **outcome == Outcome::Pass);
            let (mut passed, mut asked) = (0, 0);
            for (name, _) in passing {
                let mut outcome = stack.get(name).cloned().unwrap_or(Outcome::Crash);
                for _ in 0..TRIES {
                    if outcome != Outcome::Pass {
                        outcome =
                            python.run(module, Some(name), &here).remove(name).unwrap_or(Outcome::Crash);
                    }
                }
                asked += 1;
                passed += usize::from(outcome == Outcome::Pass);
                let known = DIFFERENCES.contains(&format!("`{}`", short(name)));
                match outcome {
                    Outcome::Pass => {}
                    Outcome::Fail(_) | Outcome::Skip if known => println!("differs: {}", short(name)),
                    outcome => unknown.push(format!("{name}: {outcome:?}")),
                }
            }
            println!("{module}: {passed} of {asked}");
            sums = (sums.0 + passed, sums.1 + asked);
        }
        println!("{} of {} that pass on the kernel pass on the stack", sums.0, sums.1);
        assert!(unknown.is_empty(), "not in docs/DIFFERENCES.md:\n{}", unknown.join("\n"));
        assert!(sums.1 > 900, "only {} tests pass on the kernel", sums.1);
        assert!(sums.0 * 100 >= sums.1 * PASS_MIN);
    });
}
