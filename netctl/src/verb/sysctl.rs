//! `netctl sysctl`: the tunables; `sysctl NAME…` some of them, `sysctl NAME=VALUE…` sets, as sysctl(8).

use crate::group::{Access, Failure};
use crate::table::{Form, json};
use proto::control::notices::Change;
use proto::hard::config::{Key, Value};
use proto::hard::sysctl::{Tunable, Values};
use serde::Serialize;
use std::io::Write;

#[derive(Debug, Serialize)]
struct Shown {
    name: &'static str,
    value: String,
    default: String,
}

/// What a word on the command line asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// The value of one.
    Show(Tunable),
    /// Another value for it.
    Set(Tunable, u32),
}

/// `NAME` or `NAME=VALUE`.
///
/// # Errors
/// [`Failure::Usage`]: no such name, or a value that it does not take.
pub fn asked(word: &str) -> Result<Asked, Failure> {
    let (name, value) = word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value)));
    let unknown = || Failure::Usage(format!("'{name}' can't be tuned; netctl sysctl shows what can"));
    let tunable = Tunable::of_name(name.trim()).ok_or_else(unknown)?;
    let Some(value) = value else { return Ok(Asked::Show(tunable)) };
    let about = tunable.about();
    let refused = || {
        let takes = match about.words {
            [] => format!("{} to {}", about.least, about.most),
            words => words.join(", "),
        };
        Failure::Usage(format!("'{}' is no value of {}: it takes {takes}", value.trim(), about.name))
    };
    Ok(Asked::Set(tunable, about.value_of(value.trim()).ok_or_else(refused)?))
}

/// Sets what was asked to be set, then shows what was asked for: everything, when nothing was.
///
/// # Errors
/// As `change`, and when the answer can't be written.
pub fn run(
    access: &Access,
    form: Form,
    words: &[String],
    change: impl Fn(Change) -> Result<(), Failure>,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let asked = words.iter().map(|word| asked(word)).collect::<Result<Vec<Asked>, Failure>>()?;
    for asked in &asked {
        if let Asked::Set(tunable, value) = *asked {
            change(Change::SysctlSet { tunable, value })?;
        }
    }
    let mut values = Values::default();
    for record in access.config() {
        if let (Key::Sysctl(tunable), Value::Sysctl(value)) = (record.key, record.value) {
            values.set(tunable, value);
        }
    }
    let named = asked.iter().map(|asked| match *asked {
        Asked::Show(tunable) | Asked::Set(tunable, _) => tunable,
    });
    let mut wanted: Vec<Tunable> = if asked.is_empty() { Tunable::all().collect() } else { named.collect() };
    wanted.sort_by_key(|tunable| tunable.about().name);
    let shown: Vec<Shown> = wanted
        .into_iter()
        .map(|tunable| {
            let about = tunable.about();
            let value = about.text_of(values.get(tunable));
            Shown { name: about.name, value, default: about.text_of(about.default) }
        })
        .collect();
    let written = match form {
        Form::Json => json(out, &shown),
        Form::Table => shown.iter().try_for_each(|shown| writeln!(out, "{} = {}", shown.name, shown.value)),
    };
    written.map_err(|e| Failure::Io("standard output", e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_told_apart() {
        assert_eq!(asked("net.ipv4.tcp_sack").ok(), Some(Asked::Show(Tunable::Sack)));
        assert_eq!(asked("net/ipv4/tcp_sack=0").ok(), Some(Asked::Set(Tunable::Sack, 0)));
        assert_eq!(
            asked("net.ipv4.tcp_congestion_control = reno").ok(),
            Some(Asked::Set(Tunable::Congestion, 0))
        );
        for bad in ["net.ipv4.tcp_sack=2", "net.ipv4.tcp_sack=", "net.ipv4.tcp_sacks", "=1", ""] {
            assert!(matches!(asked(bad), Err(Failure::Usage(_))), "{bad}");
        }
    }
}
