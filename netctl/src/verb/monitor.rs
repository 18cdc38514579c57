//! `netctl monitor [OBJECT…]`: a line for each change of links, addresses, routes, neighbours and processes.
//!
//! It looks at the group's regions again and again, so what changes back in between is not told. Nothing is
//! told of what stands when it begins.

use crate::group::{Access, Failure};
use crate::table::{Family, Form, json};
use crate::verb::{addr, link, neigh, route};
use serde_json::{Map, Value, json as object};
use std::collections::BTreeMap;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often it looks.
const LOOK: Duration = Duration::from_millis(100);
/// Objects, and by which of their fields one is the same one still.
const OBJECTS: [(&str, &[&str]); 5] = [
    ("link", &["index"]),
    ("addr", &["dev", "local", "prefixlen"]),
    ("route", &["dst", "gateway", "dev", "metric", "table"]),
    ("neigh", &["dst", "dev"]),
    ("process", &["role", "index"]),
];
/// Fields that change by themselves.
const RUNNING: [&str; 2] = ["valid_life_time", "preferred_life_time"];

/// What stands at a moment: objects by kind and identity.
type Seen = BTreeMap<(&'static str, String), Map<String, Value>>;

/// What is looked at, from the words of a person.
///
/// # Errors
/// [`Failure::Usage`].
pub fn objects(words: &[String]) -> Result<Vec<&'static str>, Failure> {
    let all = OBJECTS.map(|(name, _)| name);
    let of_word = |word: &String| {
        let mut found = all.iter().filter(|name| name.starts_with(word.as_str()));
        match (found.next(), found.next()) {
            (Some(name), None) if !word.is_empty() => Ok(*name),
            _ => Err(Failure::Usage(format!("'{word}' is none of {all:?}"))),
        }
    };
    if words.is_empty() { Ok(all.to_vec()) } else { words.iter().map(of_word).collect() }
}

fn enter(seen: &mut Seen, name: &'static str, rows: Vec<Map<String, Value>>) {
    let identity = OBJECTS.iter().find(|(object, _)| *object == name).map_or(&[][..], |(_, fields)| fields);
    for mut row in rows {
        RUNNING.iter().for_each(|field| drop(row.remove(*field)));
        let key: Vec<String> = identity.iter().map(|field| format!("{:?}", row.get(*field))).collect();
        seen.insert((name, key.join(" ")), row);
    }
}

fn look(access: &Access, family: Family, wanted: &[&'static str]) -> Result<Seen, Failure> {
    let mut seen = Seen::new();
    for name in wanted {
        let mut text = Vec::new();
        match *name {
            "link" => link::show(access, Form::Json, &mut text)?,
            "addr" => addr::show(access, Form::Json, family, &mut text)?,
            "route" => route::show(access, Form::Json, family, &mut text)?,
            "neigh" => neigh::show(access, Form::Json, family, &mut text)?,
            _ => {
                let rows: Vec<Value> = access
                    .processes()
                    .iter()
                    .map(|row| {
                        let (role, generation) = (row.role.name(), row.generation);
                        object!({ "role": role, "index": row.index, "pid": row.pid,
                                  "generation": generation, "in_service": row.in_service })
                    })
                    .collect();
                text = serde_json::to_vec(&rows).unwrap_or_default();
            }
        }
        // What was written a line above.
        enter(&mut seen, name, serde_json::from_slice(&text).unwrap_or_default());
    }
    Ok(seen)
}

/// What is new or another, and what is gone.
fn changes(before: &Seen, after: &Seen) -> Vec<(&'static str, bool, Map<String, Value>)> {
    let gone = before.iter().filter(|(key, _)| !after.contains_key(*key));
    let news = after.iter().filter(|(key, row)| before.get(*key) != Some(*row));
    let gone = gone.map(|((name, _), row)| (*name, true, row.clone()));
    gone.chain(news.map(|((name, _), row)| (*name, false, row.clone()))).collect()
}

fn write(
    form: Form,
    (name, deleted, row): (&str, bool, Map<String, Value>),
    out: &mut impl Write,
) -> std::io::Result<()> {
    if form == Form::Json {
        return json(out, &object!({ "object": name, "deleted": deleted, "is": row }));
    }
    write!(out, "[{name}]{}", if deleted { " Deleted" } else { "" })?;
    for (field, value) in &row {
        match value {
            Value::Null => {}
            Value::String(text) => write!(out, " {field} {text}")?,
            value => write!(out, " {field} {value}")?,
        }
    }
    writeln!(out)
}

/// Runs it until `stop`.
///
/// # Errors
/// When the answer can't be written.
pub fn run(
    access: &Access,
    form: Form,
    family: Family,
    wanted: &[&'static str],
    stop: &AtomicBool,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let mut before = look(access, family, wanted)?;
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(LOOK);
        let after = look(access, family, wanted)?;
        for change in changes(&before, &after) {
            let written = write(form, change, out).and_then(|()| out.flush());
            written.map_err(|e| Failure::Io("standard output", e))?;
        }
        before = after;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(rows: &[Value]) -> Seen {
        let mut seen = Seen::new();
        let rows = rows.iter().map(|row| row.as_object().expect("an object").clone()).collect();
        enter(&mut seen, "addr", rows);
        seen
    }

    #[test]
    fn what_came_went_or_changed_is_told_once() {
        let one = |tentative: bool, left: u32| {
            object!({ "dev": "tap0", "local": "10.0.0.2", "prefixlen": 24, "tentative": tentative,
                      "valid_life_time": left })
        };
        let text = |before: &[Value], after: &[Value]| {
            let mut out = Vec::new();
            for change in changes(&seen(before), &seen(after)) {
                write(Form::Table, change, &mut out).expect("memory");
            }
            String::from_utf8(out).expect("text")
        };
        assert_eq!(text(&[one(false, 9)], &[one(false, 8)]), "");
        let whole = "dev tap0 local 10.0.0.2 prefixlen 24 tentative false\n";
        assert_eq!(text(&[one(true, 9)], &[one(false, 9)]), format!("[addr] {whole}"));
        assert_eq!(text(&[], &[one(false, 9)]), format!("[addr] {whole}"));
        assert_eq!(text(&[one(false, 9)], &[]), format!("[addr] Deleted {whole}"));
    }

    #[test]
    fn objects_are_named_by_their_beginnings() {
        let of = |words: &[&str]| objects(&words.iter().map(ToString::to_string).collect::<Vec<_>>()).ok();
        assert_eq!(of(&[]).map(|all| all.len()), Some(5));
        assert_eq!(of(&["a", "ro"]), Some(vec!["addr", "route"]));
        assert_eq!(of(&["x"]), None);
        assert_eq!(of(&[""]), None);
    }
}
