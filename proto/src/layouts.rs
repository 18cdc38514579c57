//! Which layouts of shared memory and which conversations each daemon speaks, by name and version.
//!
//! Every daemon answers `--layouts` with the lines of its role and does nothing else. Before a
//! supervisor replaces a running daemon by the program that lies there now, it asks that program
//! and compares with its own list, which is that of the group: what it started with is what lies
//! in memory. The numbers stand in the modules that own the layouts.

use crate::control::{client, messages, notices, operations};
use crate::hard::{config, conns, processes, registry};
use crate::id::Role;
use crate::nic::{rings, slab};
use crate::{arena, capture, stats};
use std::collections::BTreeMap;

/// The argument that asks for the list.
pub const ARGUMENT: &str = "--layouts";

/// Version of the region with netd's keys, whose layout netd owns.
pub const SECRETS: u32 = 2;

/// Name and version of one layout.
pub type Layout = (&'static str, u32);

const LANE: Layout = ("lane", messages::VERSION);
const NOTICES: Layout = ("notices", notices::VERSION);
const STATS: Layout = ("stats", stats::VERSION);
const SLAB: Layout = ("slab", slab::LAYOUT);
const FRAME_RINGS: Layout = ("frame-rings", rings::LAYOUT);
const OPERATIONS: Layout = ("operations", operations::LAYOUT);
const ARENA: Layout = ("arena", arena::LAYOUT);
const CONNS: Layout = ("conns", conns::LAYOUT);
const CONFIG: Layout = ("config", config::LAYOUT);
const REGISTRY: Layout = ("registry", registry::LAYOUT);
const PROCESSES: Layout = ("processes", processes::LAYOUT);
const CAPTURE: Layout = ("capture", capture::LAYOUT);
const CLIENT: Layout = ("client", client::VERSION);

/// What a daemon of that role speaks.
pub const fn spoken_by(role: Role) -> &'static [Layout] {
    match role {
        Role::Nicd => &[LANE, NOTICES, STATS, SLAB, FRAME_RINGS],
        Role::Netd => &[
            LANE,
            NOTICES,
            STATS,
            SLAB,
            FRAME_RINGS,
            OPERATIONS,
            ARENA,
            CONNS,
            CONFIG,
            CAPTURE,
            ("secrets", SECRETS),
        ],
        Role::Sockd => &[LANE, NOTICES, STATS, OPERATIONS, ARENA, CONNS, REGISTRY, CLIENT],
        Role::Supervisor | Role::Standby => &[LANE, PROCESSES],
    }
}

/// The list as a daemon prints it: a line `NAME VERSION` for each layout.
pub fn text(role: Role) -> String {
    spoken_by(role).iter().map(|(name, version)| format!("{name} {version}\n")).collect()
}

/// For `main`: prints the list when the first argument asks for it; true when it did.
pub fn answered(role: Role) -> bool {
    let asked = std::env::args_os().nth(1).is_some_and(|word| word == ARGUMENT);
    if asked {
        print!("{}", text(role));
    }
    asked
}

/// Whether a program that said `said` can take the place of a daemon of this role in a group of
/// this version.
///
/// # Errors
/// What differs, in words for a person. A name on one side only differs too.
pub fn compare(role: Role, said: &str) -> Result<(), String> {
    let mut theirs = BTreeMap::new();
    for line in said.lines() {
        let entry =
            line.split_once(' ').and_then(|(name, version)| Some((name, version.parse::<u32>().ok()?)));
        let Some((name, version)) = entry else {
            return Err("it does not say which layouts it speaks".into());
        };
        theirs.insert(name, version);
    }
    if theirs.is_empty() {
        return Err("it does not say which layouts it speaks".into());
    }
    let mut differences = Vec::new();
    for (name, ours) in spoken_by(role) {
        match theirs.remove(name) {
            Some(version) if version == *ours => {}
            Some(version) => differences.push(format!("{name} {version} instead of {ours}")),
            None => differences.push(format!("no {name} {ours}")),
        }
    }
    differences
        .extend(theirs.iter().map(|(name, version)| format!("{name} {version}, which is unknown here")));
    if differences.is_empty() { Ok(()) } else { Err(format!("it speaks {}", differences.join(", "))) }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const DAEMONS: [Role; 3] = [Role::Nicd, Role::Netd, Role::Sockd];

    #[test]
    fn a_program_of_this_version_fits_its_own_role_alone() {
        for role in DAEMONS {
            assert_eq!(compare(role, &text(role)), Ok(()));
            for other in DAEMONS.into_iter().filter(|other| *other != role) {
                assert!(compare(role, &text(other)).is_err(), "{other} for {role}");
            }
        }
    }

    #[test]
    fn every_difference_is_named() {
        let (conns, secrets) = (format!("conns {}", conns::LAYOUT), format!("secrets {SECRETS}"));
        let newer = text(Role::Netd).replace(&conns, "conns 99").replace(&format!("{secrets}\n"), "");
        let newer = newer + "quic 3\n";
        let said = compare(Role::Netd, &newer).expect_err("three differences");
        for part in ["conns 99 instead of", &format!("no {secrets}"), "quic 3"] {
            assert!(said.contains(part), "{said}");
        }
        for nothing in ["", "usage: netd\n", "conns\n", "conns one\n"] {
            assert!(compare(Role::Netd, nothing).is_err(), "{nothing:?}");
        }
    }
}
