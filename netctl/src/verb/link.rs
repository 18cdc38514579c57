//! `netctl link`: the interfaces, `lo` behind the others; `link set IF up|down|mtu N|promisc on|off`.

use crate::group::{Access, Failure};
use crate::table::{Form, Table, json};
use proto::control::notices::Change;
use proto::hard::config::{Key, LOOPBACK, LOOPBACK_MTU, LOOPBACK_NAME, Mac, Value};
use serde::Serialize;
use std::io::Write;

#[derive(Debug, Serialize)]
struct Link {
    index: u16,
    name: String,
    mac: String,
    mtu: u16,
    up: bool,
    promiscuous: bool,
}

/// A hardware address as `ip` writes it.
pub fn mac_text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// A hardware address from what a person typed.
///
/// # Errors
/// [`Failure::Usage`].
pub fn mac_from(text: &str) -> Result<Mac, Failure> {
    let bytes: Option<Vec<u8>> =
        text.split(':').map(|part| u8::from_str_radix(part, 16).ok().filter(|_| part.len() == 2)).collect();
    let mac = bytes.and_then(|bytes| Mac::try_from(bytes).ok());
    mac.ok_or_else(|| Failure::Usage(format!("'{text}' is no hardware address (02:00:00:00:00:01)")))
}

/// The interface that every host has.
fn loopback() -> Link {
    let (name, mac) = (LOOPBACK_NAME.to_owned(), mac_text([0; 6]));
    Link { index: LOOPBACK, name, mac, mtu: LOOPBACK_MTU, up: true, promiscuous: false }
}

/// Names of the interfaces by index, without loopback; a hole gets its number for a name.
pub fn names(access: &Access) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for record in access.config() {
        if let (Key::Link(index), Value::Link { name, .. }) = (record.key, record.value) {
            while names.len() <= usize::from(index) {
                names.push(names.len().to_string());
            }
            names[usize::from(index)] = name.as_str().to_owned();
        }
    }
    names
}

/// The index of an interface from its name or number; without either the only one there is.
///
/// # Errors
/// [`Failure::Usage`] when there is no such interface, or several to choose from.
pub fn index(access: &Access, wanted: Option<&str>) -> Result<u16, Failure> {
    if wanted == Some(LOOPBACK_NAME) {
        return Err(Failure::Usage(format!("{LOOPBACK_NAME} is as it is and can't be changed")));
    }
    let names = names(access);
    let found = match wanted {
        Some(wanted) => names
            .iter()
            .position(|name| name == wanted)
            .or_else(|| wanted.parse().ok().filter(|n| *n < names.len())),
        None if names.len() == 1 => Some(0),
        None => return Err(Failure::Usage(format!("which of {names:?}? Say dev NAME"))),
    };
    let missing = || Failure::Usage(format!("no interface '{}' among {names:?}", wanted.unwrap_or_default()));
    found.map(|index| index as u16).ok_or_else(missing)
}

/// Shows the interfaces.
///
/// # Errors
/// When the answer can't be written.
pub fn show(access: &Access, form: Form, out: &mut impl Write) -> Result<(), Failure> {
    let link = |record: proto::hard::config::Record| match (record.key, record.value) {
        (Key::Link(index), Value::Link { name, mac, mtu, up, promiscuous }) => {
            Some(Link { index, name: name.as_str().into(), mac: mac_text(mac), mtu, up, promiscuous })
        }
        _ => None,
    };
    let links: Vec<Link> = access.config().into_iter().filter_map(link).chain([loopback()]).collect();
    let written = match form {
        Form::Json => json(out, &links),
        Form::Table => {
            let mut table = Table::new(&["INDEX", "NAME", "STATE", "MTU", "ADDRESS", "FLAGS"]);
            for link in &links {
                let state = if link.up { "UP" } else { "DOWN" };
                let flags = match (link.promiscuous, link.index) {
                    (true, _) => "PROMISC",
                    (false, LOOPBACK) => "LOOPBACK",
                    (false, _) => "-",
                };
                let index = if link.index == LOOPBACK { "-".to_owned() } else { link.index.to_string() };
                let mtu = link.mtu.to_string();
                table.row([index, link.name.clone(), state.into(), mtu, link.mac.clone(), flags.into()]);
            }
            table.write(out)
        }
    };
    written.map_err(|e| Failure::Io("standard output", e))
}

/// The change that `link set IF WORDS` asks for.
///
/// # Errors
/// [`Failure::Usage`] on words that `ip link set` does not have either.
pub fn set(access: &Access, wanted: &str, words: &[String]) -> Result<Change, Failure> {
    let nic = index(access, Some(wanted))?;
    let (mut up, mut mtu, mut promiscuous) = (None, None, None);
    let mut words = words.iter().map(String::as_str);
    while let Some(word) = words.next() {
        match (word, if matches!(word, "up" | "down") { None } else { words.next() }) {
            ("up", _) => up = Some(true),
            ("down", _) => up = Some(false),
            ("promisc", Some(on @ ("on" | "off"))) => promiscuous = Some(on == "on"),
            ("mtu", Some(n)) => match n.parse() {
                Ok(n) => mtu = Some(n),
                Err(_) => return Err(Failure::Usage(format!("'{n}' is no MTU"))),
            },
            _ => return Err(Failure::Usage("link set IF [up|down] [mtu N] [promisc on|off]".into())),
        }
    }
    Ok(Change::LinkSet { nic, up, mtu, promiscuous })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_addresses_there_and_back() {
        let mac = [0x02, 0, 0, 0xab, 0, 1];
        assert_eq!(mac_from(&mac_text(mac)).ok(), Some(mac));
        for bad in ["", "02:00:00:00:00", "02:00:00:00:00:01:02", "2:0:0:0:0:1", "gg:00:00:00:00:01"] {
            assert!(mac_from(bad).is_err(), "{bad}");
        }
    }
}
