//! Packet scripts: every text under `tests/scripts`, against a stack in virtual time.
//!
//! `AXOLOTL_SCRIPT=part cargo test -p tests --test scripts` runs those whose path contains it;
//! `AXOLOTL_WRITE=1` writes the list anew.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use tests::script::{Script, folder, read_all, run, run_v6};

/// The list of scripts by section.
const LIST: &str = "INDEX.md";

#[test]
fn the_stack_speaks_as_the_scripts_say() {
    let part = std::env::var("AXOLOTL_SCRIPT").unwrap_or_default();
    let mut failed = Vec::new();
    let mut count = 0;
    for (name, text) in read_all().iter().filter(|(name, _)| name.contains(&part)) {
        count += 1;
        let outcome = Script::parse(text).and_then(|script| {
            catch_unwind(AssertUnwindSafe(|| run(&script)))
                .unwrap_or_else(|_| Err(tests::script::Fault { line: 0, what: "a panic".into() }))
        });
        if let Err(fault) = outcome {
            failed.push(format!("{name}.pkt: {fault}"));
        }
    }
    println!("scripts: {count} ran");
    assert!(failed.is_empty(), "{} of {count} scripts:\n{}", failed.len(), failed.join("\n"));
    assert!(count > 0, "no script");
}

/// The same dialogues over IPv6, where they are not about IPv4 (ICMP).
#[test]
fn the_stack_speaks_the_same_over_ipv6() {
    let part = std::env::var("AXOLOTL_SCRIPT").unwrap_or_default();
    let (mut failed, mut count) = (Vec::new(), 0);
    for (name, text) in read_all().iter().filter(|(name, _)| name.contains(&part)) {
        let script = Script::parse(text).unwrap_or_else(|fault| panic!("{name}.pkt: {fault}"));
        let outcome = catch_unwind(AssertUnwindSafe(|| run_v6(&script)))
            .unwrap_or_else(|_| Some(Err(tests::script::Fault { line: 0, what: "a panic".into() })));
        count += usize::from(outcome.is_some());
        if let Some(Err(fault)) = outcome {
            failed.push(format!("{name}.pkt over IPv6: {fault}"));
        }
    }
    println!("scripts: {count} ran over IPv6");
    assert!(failed.is_empty(), "{} of {count} scripts:\n{}", failed.len(), failed.join("\n"));
}

#[test]
fn no_two_scripts_differ_only_in_numbers() {
    let mut shapes: BTreeMap<String, String> = BTreeMap::new();
    for (name, text) in read_all() {
        let script = Script::parse(&text).unwrap_or_else(|fault| panic!("{name}.pkt: {fault}"));
        if let Some(other) = shapes.insert(script.shape, name.clone()) {
            panic!("{name} and {other} differ only in numbers");
        }
    }
}

/// A script that expects something else fails: the runner can tell.
#[test]
fn the_runner_finds_differences() {
    let handshake = "rfc 0 §0\nlisten\n< S 0 win 1000 <mss 1000>\n> SA 0 ack 1\n< A 1 ack 1\n";
    let lines = [
        "? state CLOSED",
        "> A 1 ack 1",
        "accept\nwrite 10\n> A 1+11 ack 1",
        "accept\nwrite 10\n> A 1+10 ack 2",
        "accept\nwrite 10\n> AU 1+10 ack 1",
        "accept\nwrite 10",
        "accept\nwrite 10\nsilent",
        "< A 1+4 ack 1\nin 0..39 > A 1 ack 5",
        "< A 1+4 ack 1\nin 41..80 > A 1 ack 5",
        "< A 1+4 ack 1\naccept\nread 5",
        "< A 1+4 ack 1\n> A 1 ack 5",
        "? error 104",
        "accept\nno accept\naccept",
    ];
    let outcome = |text: &str| Script::parse(text).and_then(|script| run(&script));
    assert_eq!(outcome(handshake), Ok(()));
    for line in lines {
        assert!(outcome(&format!("{handshake}{line}\n")).is_err(), "not noticed: {line}");
    }
}

#[test]
fn the_list_of_scripts_is_up_to_date() {
    let mut sections: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let all = read_all();
    for (name, text) in &all {
        let script = Script::parse(text).unwrap_or_else(|fault| panic!("{name}.pkt: {fault}"));
        for section in script.sections {
            sections.entry(section).or_default().push(name.clone());
        }
    }
    let mut list = format!(
        "# Packet scripts by section\n\nWritten by `AXOLOTL_WRITE=1 cargo test -p tests --test scripts`. \
         {} scripts.\n",
        all.len()
    );
    for (section, names) in &sections {
        let _ = write!(list, "\n## RFC {section}\n\n");
        for name in names {
            let _ = writeln!(list, "- [{name}]({name}.pkt)");
        }
    }
    let path = folder().join(LIST);
    if std::env::var_os("AXOLOTL_WRITE").is_some() {
        fs::write(&path, &list).expect("the list can be written");
    }
    assert!(fs::read_to_string(&path).unwrap_or_default() == list, "the list of scripts is old");
}
