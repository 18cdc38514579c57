//! `run.sh bench`: the stack beside the kernel, taking turns in one run.
//!
//! * [`load`]: the load programs, written once for both kinds of [`sockets`];
//! * [`paths`]: the TAP with the stack, and the kernel's two paths beside it;
//! * [`tcp`]: throughput, round trips, connection rate;
//! * [`machine`]: what /proc says of processes;
//! * [`row`]: what is reported, as JSON and as a table.
//!
//! A goal that is missed is reported, and is no failure.

pub mod load;
pub mod machine;
pub mod paths;
pub mod row;
pub mod sockets;
pub mod tcp;

use row::Row;
use std::io;

/// Measurements of each side of a row.
pub const ROUNDS: usize = 5;

/// The rows that are asked for.
#[derive(Debug)]
pub struct Wanted(Vec<&'static str>);

/// A group of rows that are measured together.
type Section = (&'static [&'static str], fn(&Wanted) -> io::Result<Vec<Row>>);

/// Everything that can be measured, in the order of the report.
const SECTIONS: &[Section] = &[(&tcp::IDS, tcp::rows)];

/// Every id.
pub fn ids() -> impl Iterator<Item = &'static str> {
    SECTIONS.iter().flat_map(|(ids, _)| ids.iter().copied())
}

impl Wanted {
    /// These ids; all, when there are none. The first that is unknown is the error.
    ///
    /// # Errors
    /// The unknown id.
    pub fn new(asked: &[String]) -> Result<Wanted, String> {
        if let Some(unknown) = asked.iter().find(|word| !ids().any(|id| id == word.as_str())) {
            return Err(unknown.clone());
        }
        Ok(Wanted(ids().filter(|id| asked.is_empty() || asked.iter().any(|word| word == id)).collect()))
    }

    /// Whether this one is asked for.
    pub fn has(&self, id: &str) -> bool {
        self.0.contains(&id)
    }
}

/// Progress, on standard error.
pub fn say(text: &str) {
    eprintln!("bench: {text}");
}

/// Measures what is asked for. A section that can't be measured is told on standard error, and the
/// second value is then false.
pub fn run(wanted: &Wanted) -> (Vec<Row>, bool) {
    let (mut rows, mut whole) = (Vec::new(), true);
    for (ids, measure) in SECTIONS {
        if !ids.iter().any(|id| wanted.has(id)) {
            continue;
        }
        match measure(wanted) {
            Ok(measured) => rows.extend(measured),
            Err(error) => {
                say(&format!("{} can't be measured: {error}", ids.join(", ")));
                whole = false;
            }
        }
    }
    (rows, whole)
}
