//! `netctl addr`: the stack's addresses, that of `lo` behind the others; `addr add|del PREFIX [dev IF]`.

use crate::group::{Access, Failure};
use crate::table::{Family, Form, Table, json};
use crate::verb::link;
use proto::Instant;
use proto::control::clock::now;
use proto::control::messages::Prefix;
use proto::hard::config::{Key, LOOPBACK_NAME, LOOPBACK_NETWORK, Value};
use serde::Serialize;
use std::io::Write;
use std::net::{IpAddr, Ipv6Addr};

#[derive(Debug, Serialize)]
struct Address {
    dev: String,
    family: &'static str,
    local: IpAddr,
    prefixlen: u8,
    tentative: bool,
    /// A router announced its network, or it is link-local; else it was given.
    dynamic: bool,
    /// Seconds that it may still be used; without it for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    valid_life_time: Option<u64>,
    /// Seconds that it may still be used for anything new; without it for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    preferred_life_time: Option<u64>,
}

/// `ADDR/LEN` (or `ADDR` alone for a host, `default` not allowed) from what a person typed.
///
/// # Errors
/// [`Failure::Usage`].
pub fn prefix_from(text: &str) -> Result<Prefix, Failure> {
    let (addr, len) = text.split_once('/').map_or((text, None), |(addr, len)| (addr, Some(len)));
    let bad = || Failure::Usage(format!("'{text}' is no ADDRESS/LENGTH"));
    let addr: IpAddr = addr.parse().map_err(|_| bad())?;
    let bits = if addr.is_ipv4() { 32 } else { 128 };
    let len = len.map_or(Ok(bits), |len| len.parse().map_err(|_| bad()))?;
    if len > bits { Err(bad()) } else { Ok(Prefix { addr, len }) }
}

/// The addresses that every host has.
fn loopback() -> [Address; 2] {
    let (v4, len) = LOOPBACK_NETWORK;
    [(IpAddr::V4(v4), "inet", len), (IpAddr::V6(Ipv6Addr::LOCALHOST), "inet6", 128)].map(
        |(local, family, prefixlen)| Address {
            dev: LOOPBACK_NAME.to_owned(),
            family,
            local,
            prefixlen,
            tentative: false,
            dynamic: false,
            valid_life_time: None,
            preferred_life_time: None,
        },
    )
}

/// Shows the addresses.
///
/// # Errors
/// When the answer can't be written.
pub fn show(access: &Access, form: Form, family: Family, out: &mut impl Write) -> Result<(), Failure> {
    let names = link::names(access);
    let now = now();
    let left = |until: Instant| until.since(now).as_secs();
    let address = |record: proto::hard::config::Record| match (record.key, record.value) {
        (Key::Address { link, addr, prefix_len }, Value::Address { verified, life })
            if family.shows(addr) =>
        {
            Some(Address {
                dev: names.get(usize::from(link)).cloned().unwrap_or_else(|| link.to_string()),
                family: if addr.is_ipv4() { "inet" } else { "inet6" },
                local: addr,
                prefixlen: prefix_len,
                tentative: !verified,
                dynamic: life.learned,
                valid_life_time: life.valid.map(left),
                preferred_life_time: life.preferred.map(left),
            })
        }
        _ => None,
    };
    let addresses: Vec<Address> = access.config().into_iter().filter_map(address).chain(loopback()).collect();
    let written = match form {
        Form::Json => json(out, &addresses),
        Form::Table => {
            let mut table = Table::new(&["DEV", "FAMILY", "ADDRESS", "FLAGS"]);
            for a in &addresses {
                let deprecated = a.preferred_life_time == Some(0);
                let flags = [(a.tentative, "tentative"), (a.dynamic, "dynamic"), (deprecated, "deprecated")];
                let flags: Vec<&str> = flags.iter().filter(|(on, _)| *on).map(|(_, flag)| *flag).collect();
                let flags = if flags.is_empty() { "-".to_owned() } else { flags.join(",") };
                let local = format!("{}/{}", a.local, a.prefixlen);
                table.row([a.dev.clone(), a.family.into(), local, flags]);
            }
            table.write(out)
        }
    };
    written.map_err(|e| Failure::Io("standard output", e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_checked() {
        let ten: IpAddr = [10, 0, 0, 1].into();
        assert_eq!(prefix_from("10.0.0.1/24").ok(), Some(Prefix { addr: ten, len: 24 }));
        assert_eq!(prefix_from("10.0.0.1").ok(), Some(Prefix { addr: ten, len: 32 }));
        assert_eq!(prefix_from("fe80::1").map(|p| p.len).ok(), Some(128));
        for bad in ["", "10.0.0.1/33", "10.0.0.1/", "10.0.0/8", "fe80::1/129", "10.0.0.1/-1"] {
            assert!(prefix_from(bad).is_err(), "{bad}");
        }
    }
}
