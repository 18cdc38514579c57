//! `netctl stats`: every counter of every daemon, as `role_name`.

use crate::group::{Access, Failure};
use crate::table::{Form, json};
use std::collections::BTreeMap;
use std::io::Write;

/// Runs it. The table leaves out what is 0, unless `all`.
///
/// # Errors
/// When the answer can't be written.
pub fn run(access: &Access, form: Form, all: bool, out: &mut impl Write) -> Result<(), Failure> {
    let counters =
        access.counters().into_iter().map(|((role, name), count)| (format!("{role}_{name}"), count));
    let written = match form {
        Form::Json => {
            let mut document: BTreeMap<String, u64> = counters.collect();
            document.insert("schema".into(), 1);
            json(out, &document)
        }
        Form::Table => {
            let mut shown = counters.filter(|(_, count)| all || *count > 0);
            shown.try_for_each(|(name, count)| writeln!(out, "{name:<48}  {count}"))
        }
    };
    written.map_err(|e| Failure::Io("standard output", e))
}
