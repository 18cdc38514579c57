//! `run.sh bench`: the stack beside the kernel, taking turns in one run.
//!
//! * [`load`]: the load programs, written once for both kinds of [`sockets`];
//! * [`paths`]: the TAP with the stack, and the kernel's two paths beside it;
//! * [`tcp`]: throughput, round trips, connection rate;
//! * [`lossy`]: what is left of a stream on paths that lose and reorder, and how bottlenecks are shared, by
//!   the forwarder of [`impaired`];
//! * [`datagrams`]: UDP between two groups;
//! * [`livelock`]: datagrams at more than a server can take;
//! * [`silence`]: kills, and what connections notice; drawn by [`plot`];
//! * [`idle`], [`memory`]: what nothing costs, and what an idle connection costs;
//! * [`programs`]: unmodified programs beside native ones and beside the kernel's;
//! * [`machine`]: what /proc says of processes;
//! * [`row`]: what is reported, as JSON and as a table.
//!
//! A goal that is missed is reported, and is no failure.

pub mod datagrams;
pub mod idle;
pub mod impaired;
pub mod livelock;
pub mod load;
pub mod lossy;
pub mod machine;
pub mod memory;
pub mod paths;
pub mod plot;
pub mod programs;
pub mod row;
pub mod silence;
pub mod sockets;
pub mod tcp;

use row::Row;
use std::io;
use std::path::PathBuf;

/// Measurements of each side of a row.
pub const ROUNDS: usize = 5;

/// The rows that are asked for.
#[derive(Debug)]
pub struct Wanted {
    ids: Vec<&'static str>,
    /// Where the picture of the kills goes to; of `livelock`, when that is asked for alone.
    pub plot: Option<PathBuf>,
}

/// A group of rows that are measured together.
type Section = (&'static [&'static str], fn(&Wanted) -> io::Result<Vec<Row>>);

/// Everything that can be measured, in the order of the report.
const SECTIONS: &[Section] = &[
    (&tcp::IDS, tcp::rows),
    (&lossy::IDS, lossy::rows),
    (&datagrams::IDS, datagrams::rows),
    (&silence::IDS, silence::rows),
    (&idle::IDS, idle::rows),
    (&memory::IDS, memory::rows),
    (&livelock::IDS, livelock::rows),
    (&programs::IDS, programs::rows),
];

/// Every id.
pub fn ids() -> impl Iterator<Item = &'static str> {
    SECTIONS.iter().flat_map(|(ids, _)| ids.iter().copied())
}

impl Wanted {
    /// These ids; all, when there are none. The first that is unknown is the error.
    ///
    /// # Errors
    /// The unknown id.
    pub fn new(asked: &[String], plot: Option<PathBuf>) -> Result<Wanted, String> {
        if let Some(unknown) = asked.iter().find(|word| !ids().any(|id| id == word.as_str())) {
            return Err(unknown.clone());
        }
        let ids = ids().filter(|id| asked.is_empty() || asked.iter().any(|word| word == id)).collect();
        Ok(Wanted { ids, plot })
    }

    /// Whether these are asked for, and nothing else.
    pub fn is_only(&self, ids: &[&str]) -> bool {
        self.ids == ids
    }

    /// Whether this one is asked for.
    pub fn has(&self, id: &str) -> bool {
        self.ids.contains(&id)
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
