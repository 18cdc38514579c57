//! `netctl link`: the interfaces, `lo` behind the others; `link -s`: what their nicds moved, and how; `link set IF
//! up|down|mtu N|promisc on|off`, `link add link IF [name N] type vlan id V`, `link del IF`.

use crate::group::{Access, Failure};
use crate::table::{Form, Table, json};
use proto::control::notices::Change;
use proto::hard::config::{Key, LOOPBACK, LOOPBACK_MTU, LOOPBACK_NAME, LinkName, Mac, Value, Vlan};
use proto::id::Role;
use proto::stats::table;
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
    /// The interface that a VLAN lies on, and which it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vlan: Option<u16>,
}

/// What the nicd of an interface moved, and how: NAPI in user space.
#[derive(Debug, Serialize)]
struct Statistics {
    index: u16,
    name: String,
    rx_frames: u64,
    rx_bytes: u64,
    tx_frames: u64,
    tx_bytes: u64,
    /// Frames that were dropped, whatever the reason: `stats` knows it.
    dropped: u64,
    napi: Napi,
}

#[derive(Debug, Serialize)]
struct Napi {
    /// Times that it slept, and was woken.
    wakeups: u64,
    /// Rounds of polling; a wake-up is followed by one or more.
    polls: u64,
    /// Rounds that ended with work left, because the budget was used up.
    squeezed: u64,
    /// Frames of both directions.
    frames: u64,
    /// Of a round that is; 0 without one.
    frames_per_poll: f64,
    /// Calls and register writes that told the device of frames.
    doorbells: u64,
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
    let (up, promiscuous, link, vlan) = (true, false, None, None);
    Link { index: LOOPBACK, name, mac, mtu: LOOPBACK_MTU, up, promiscuous, link, vlan }
}

/// Names of the interfaces by index, without loopback; a hole gets its number for a name.
pub fn names(access: &Access) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for (index, name) in links_of(access) {
        while names.len() <= usize::from(index) {
            names.push(names.len().to_string());
        }
        names[usize::from(index)] = name;
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
    let names = names(access);
    let link = |record: proto::hard::config::Record| match (record.key, record.value) {
        (Key::Link(index), Value::Link { name, mac, mtu, up, promiscuous, vlan }) => {
            let below = vlan.map(|vlan| usize::from(vlan.below));
            let link = below.map(|below| names.get(below).cloned().unwrap_or_else(|| below.to_string()));
            let (name, mac, vlan) = (name.as_str().to_owned(), mac_text(mac), vlan.map(|vlan| vlan.id));
            Some(Link { index, name, mac, mtu, up, promiscuous, link, vlan })
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
                let name = match &link.link {
                    Some(below) => format!("{}@{below}", link.name),
                    None => link.name.clone(),
                };
                table.row([index, name, state.into(), mtu, link.mac.clone(), flags.into()]);
            }
            table.write(out)
        }
    };
    written.map_err(|e| Failure::Io("standard output", e))
}

fn of_nicd(index: u16, name: String, counts: &[(String, u64)]) -> Statistics {
    let count = |wanted: &str| counts.iter().find(|(name, _)| name == wanted).map_or(0, |(_, count)| *count);
    let (rx_frames, tx_frames, polls) = (count("rx_frames"), count("tx_frames"), count("polls"));
    let frames = rx_frames + tx_frames;
    Statistics {
        index,
        name,
        rx_frames,
        rx_bytes: count("rx_bytes"),
        tx_frames,
        tx_bytes: count("tx_bytes"),
        dropped: counts.iter().filter(|(name, _)| name.starts_with("drop_")).map(|(_, count)| count).sum(),
        napi: Napi {
            wakeups: count("sleeps"),
            polls,
            squeezed: count("time_squeeze"),
            frames,
            frames_per_poll: if polls == 0 { 0.0 } else { frames as f64 / polls as f64 },
            doorbells: count("doorbells"),
        },
    }
}

/// Shows what each interface's nicd moved, and how.
///
/// # Errors
/// When the answer can't be written.
pub fn statistics(access: &Access, form: Form, out: &mut impl Write) -> Result<(), Failure> {
    let names = names(access);
    let name = |index: u16| names.get(usize::from(index)).cloned().unwrap_or_else(|| index.to_string());
    let nicds = access.stats().filter(|(seat, _)| seat.role == Role::Nicd);
    let mut rows: Vec<Statistics> = nicds
        .map(|(seat, region)| {
            // A table that can't be read now is of a nicd that is being started.
            let counts: Vec<(String, u64)> = table::read(region).unwrap_or_default().into_iter().collect();
            of_nicd(seat.index, name(seat.index), &counts)
        })
        .collect();
    rows.sort_by_key(|row| row.index);
    let written = match form {
        Form::Json => json(out, &rows),
        Form::Table => {
            let mut table = Table::new(&[
                "INDEX",
                "NAME",
                "RX",
                "RX-BYTES",
                "TX",
                "TX-BYTES",
                "DROPPED",
                "WAKEUPS",
                "POLLS",
                "FRAMES/POLL",
            ]);
            for row in &rows {
                let numbers = [row.rx_frames, row.rx_bytes, row.tx_frames, row.tx_bytes, row.dropped];
                let [rx, rx_bytes, tx, tx_bytes, dropped] = numbers.map(|number| number.to_string());
                let (index, name, napi) = (row.index.to_string(), row.name.clone(), &row.napi);
                let [wakeups, polls] = [napi.wakeups, napi.polls].map(|number| number.to_string());
                let per_poll = format!("{:.2}", napi.frames_per_poll);
                table.row([index, name, rx, rx_bytes, tx, tx_bytes, dropped, wakeups, polls, per_poll]);
            }
            table.write(out)
        }
    };
    written.map_err(|e| Failure::Io("standard output", e))
}

/// The change that `link add link IF [name N] type vlan id V` asks for.
///
/// # Errors
/// [`Failure::Usage`].
pub fn add(access: &Access, words: &[String]) -> Result<Change, Failure> {
    let usage = || Failure::Usage("link add link IF [name NAME] type vlan id 1..4094".to_owned());
    let (mut below, mut name, mut kind, mut id) = (None, None, None, None);
    for pair in words.chunks(2) {
        match pair {
            [key, value] if key == "link" => below = Some(value.as_str()),
            [key, value] if key == "name" => name = Some(value.clone()),
            [key, value] if key == "type" => kind = Some(value.as_str()),
            [key, value] if key == "id" => id = value.parse().ok().filter(|id| Vlan::IDS.contains(id)),
            _ => return Err(usage()),
        }
    }
    let (Some(below), Some("vlan"), Some(id)) = (below, kind, id) else { return Err(usage()) };
    let below = index(access, Some(below))?;
    let names = names(access);
    let name = name.unwrap_or_else(|| format!("{}.{id}", names[usize::from(below)]));
    if names.contains(&name) || name == LOOPBACK_NAME {
        return Err(Failure::Usage(format!("there is an interface '{name}' already")));
    }
    let name = LinkName::new(&name)
        .ok_or_else(|| Failure::Usage(format!("'{name}' can't be the name of an interface")))?;
    let taken: Vec<u16> = links_of(access).map(|(index, _)| index).collect();
    let nic = (0..=u16::MAX).find(|index| !taken.contains(index)).ok_or_else(usage)?;
    Ok(Change::LinkAdd { nic, name, vlan: Vlan { below, id } })
}

fn links_of(access: &Access) -> impl Iterator<Item = (u16, String)> {
    access.config().into_iter().filter_map(|record| match (record.key, record.value) {
        (Key::Link(index), Value::Link { name, .. }) => Some((index, name.as_str().to_owned())),
        _ => None,
    })
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
    fn frames_of_a_poll_need_polls() {
        let counts = |polls| {
            let all = [("rx_frames", 30), ("tx_frames", 34), ("polls", polls), ("drop_rx_error", 2)];
            all.map(|(name, count)| (name.to_owned(), count))
        };
        let some = of_nicd(0, "eth0".into(), &counts(16));
        assert_eq!((some.napi.frames, some.napi.frames_per_poll, some.dropped), (64, 4.0, 2));
        assert_eq!(of_nicd(0, "eth0".into(), &counts(0)).napi.frames_per_poll, 0.0);
    }

    #[test]
    fn hardware_addresses_there_and_back() {
        let mac = [0x02, 0, 0, 0xab, 0, 1];
        assert_eq!(mac_from(&mac_text(mac)).ok(), Some(mac));
        for bad in ["", "02:00:00:00:00", "02:00:00:00:00:01:02", "2:0:0:0:0:1", "gg:00:00:00:00:01"] {
            assert!(mac_from(bad).is_err(), "{bad}");
        }
    }
}
