//! The configuration file: TOML, with the line of every value.
//!
//! ```toml
//! shards = 1
//! connections = 4096
//!
//! [[nic]]
//! spec = "tap:axl0"
//! addr = ["10.0.0.2/24"]
//! tap-addr = ["10.0.0.1/24"]
//! gateway = "10.0.0.1"
//! mac = "02:00:00:00:00:01"
//! mtu = 1500
//!
//! [faults]
//! poison = "00ff"
//! ```

use super::{ConfigError, Given, Place, Wanted, WantedNic};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;
use toml::Spanned;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Group {
    shards: Option<Spanned<u64>>,
    connections: Option<Spanned<u64>>,
    #[serde(default)]
    nic: Vec<Nic>,
    #[serde(default)]
    faults: BTreeMap<String, Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Nic {
    spec: Spanned<String>,
    #[serde(default)]
    addr: Vec<Spanned<String>>,
    #[serde(default)]
    tap_addr: Vec<Spanned<String>>,
    gateway: Option<Spanned<String>>,
    mac: Option<Spanned<String>>,
    mtu: Option<Spanned<u64>>,
}

/// Reads a file.
///
/// # Errors
/// When it can't be read, or is not what the module's documentation shows: with the line.
pub fn read(path: &Path) -> Result<Wanted, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|error| ConfigError {
        at: Place::Line { file: path.to_owned(), line: 1 },
        wrong: format!("cannot be read: {error}"),
        remedy: "give the path of a readable file to --config".to_owned(),
    })?;
    parse(&text, path)
}

fn parse(text: &str, path: &Path) -> Result<Wanted, ConfigError> {
    let place = |offset: usize| {
        let before = text.get(..offset).unwrap_or(text);
        Place::Line { file: path.to_owned(), line: before.matches('\n').count() + 1 }
    };
    let group: Group = toml::from_str(text).map_err(|error| ConfigError {
        at: place(error.span().map_or(0, |span| span.start)),
        wrong: error.message().replace('\n', ", "),
        remedy: "write it as the README's example does".to_owned(),
    })?;
    fn given<T>(spanned: Spanned<T>, place: impl Fn(usize) -> Place) -> Given<T> {
        let at = place(spanned.span().start);
        Given { value: spanned.into_inner(), at }
    }
    let all = |list: Vec<Spanned<String>>| list.into_iter().map(|one| given(one, place)).collect();
    let nic = |nic: Nic| WantedNic {
        spec: given(nic.spec, place),
        addrs: all(nic.addr),
        tap_addrs: all(nic.tap_addr),
        gateway: nic.gateway.map(|one| given(one, place)),
        mac: nic.mac.map(|one| given(one, place)),
        mtu: nic.mtu.map(|one| given(one, place)),
    };
    let fault = |(key, value): (String, Spanned<String>)| {
        let Given { value, at } = given(value, place);
        Given { value: format!("{key}={value}"), at }
    };
    Ok(Wanted {
        nics: group.nic.into_iter().map(nic).collect(),
        shards: group.shards.map(|one| given(one, place)),
        connections: group.connections.map(|one| given(one, place)),
        faults: group.faults.into_iter().map(fault).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::check;

    const SOUND: &str = r#"shards = 2

[[nic]]
spec = "tap:axl0"
addr = ["10.0.0.2/24"]
mtu = 1400
[faults]
poison = "00ff"
"#;

    fn error(text: &str) -> String {
        let wanted = parse(text, Path::new("g.toml"));
        wanted.and_then(|wanted| check(&wanted, "g", "/run")).expect_err("wrong").to_string()
    }

    #[test]
    fn the_example_is_sound() {
        let wanted = parse(SOUND, Path::new("g.toml")).expect("it parses");
        let group = check(&wanted, "g", "/run").expect("it is sound");
        assert_eq!((group.shards, group.nics[0].mtu, group.faults.len()), (2, 1400, 1));
    }

    #[test]
    fn errors_name_file_and_line() {
        assert!(error(&SOUND.replace("/24", "/99")).starts_with("g.toml:5: "));
        assert!(error(&SOUND.replace("1400", "14")).starts_with("g.toml:6: "));
        assert!(error(&SOUND.replace("mtu", "mut")).starts_with("g.toml:6: "));
        assert!(error(&SOUND.replace("1400", "\"x\"")).starts_with("g.toml:6: "));
        assert!(error(&SOUND.replace("00ff", "0")).starts_with("g.toml:8: "));
        assert!(error(&SOUND.replace("2\n", "17\n")).starts_with("g.toml:1: "));
        assert!(error("= =").starts_with("g.toml:1: "));
    }
}
