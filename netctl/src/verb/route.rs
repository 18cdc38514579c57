//! `netctl route`: the routes, those that follow from addresses included; `route add|del PREFIX|default [via GATEWAY] [dev IF] [metric N]`.

use crate::group::{Access, Failure};
use crate::table::{Family, Form, Table, json};
use crate::verb::addr::prefix_from;
use crate::verb::link;
use proto::control::messages::Prefix;
use proto::control::notices::Change;
use proto::hard::config::{Key, Value};
use serde::Serialize;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

#[derive(Debug, Serialize)]
struct Route {
    dst: String,
    gateway: Option<IpAddr>,
    dev: String,
    prefsrc: Option<IpAddr>,
    metric: u32,
    table: u32,
    /// `kernel` for a route that follows from an address, `static` for one that was entered.
    protocol: &'static str,
}

/// rtnetlink(7): RT_TABLE_MAIN.
const TABLE_MAIN: u32 = 254;

/// The network of an address, as `ip` writes it.
fn network(addr: IpAddr, len: u8) -> String {
    let network: IpAddr = match addr {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(len.min(32))).unwrap_or(0);
            Ipv4Addr::from_bits(v4.to_bits() & mask).into()
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(len.min(128))).unwrap_or(0);
            Ipv6Addr::from_bits(v6.to_bits() & mask).into()
        }
    };
    format!("{network}/{len}")
}

/// What a person said of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Words {
    /// The network, or `default`.
    pub to: String,
    /// The next hop.
    pub via: Option<IpAddr>,
    /// The interface.
    pub dev: Option<String>,
    /// The metric.
    pub metric: u32,
}

fn destination(words: &Words) -> Result<Prefix, Failure> {
    match (words.to.as_str(), words.via) {
        ("default", Some(IpAddr::V6(_))) => Ok(Prefix { addr: Ipv6Addr::UNSPECIFIED.into(), len: 0 }),
        ("default", _) => Ok(Prefix { addr: Ipv4Addr::UNSPECIFIED.into(), len: 0 }),
        (text, _) => prefix_from(text),
    }
}

/// The change that adds a route.
///
/// # Errors
/// [`Failure::Usage`].
pub fn add(access: &Access, words: &Words) -> Result<Change, Failure> {
    let (to, nic) = (destination(words)?, link::index(access, words.dev.as_deref())?);
    Ok(Change::RouteAdd { to, via: words.via, nic, metric: words.metric })
}

/// The change that removes a route.
///
/// # Errors
/// [`Failure::Usage`].
pub fn del(access: &Access, words: &Words) -> Result<Change, Failure> {
    let (to, nic) = (destination(words)?, link::index(access, words.dev.as_deref())?);
    Ok(Change::RouteDel { to, via: words.via, nic })
}

/// Shows the routes.
///
/// # Errors
/// When the answer can't be written.
pub fn show(access: &Access, form: Form, family: Family, out: &mut impl Write) -> Result<(), Failure> {
    let names = link::names(access);
    let down: Vec<u16> = access
        .config()
        .into_iter()
        .filter_map(|record| match (record.key, record.value) {
            (Key::Link(link), Value::Link { up: false, .. }) => Some(link),
            _ => None,
        })
        .collect();
    let route = |record: proto::hard::config::Record| match (record.key, record.value) {
        (
            Key::Route { destination, prefix_len, table, metric },
            Value::Route { gateway, link, source, life },
        ) => Some(Route {
            dst: if prefix_len == 0 { "default".into() } else { format!("{destination}/{prefix_len}") },
            gateway,
            dev: names.get(usize::from(link)).cloned().unwrap_or_else(|| link.to_string()),
            prefsrc: source,
            metric,
            table,
            protocol: if life.learned { "ra" } else { "static" },
        }),
        // The network of an address is reached through its link; an address alone has none.
        (Key::Address { link, addr, prefix_len }, Value::Address { life, .. }) if family.shows(addr) => {
            let link_local = matches!(addr, IpAddr::V6(v6) if v6.is_unicast_link_local());
            if life.learned && !link_local {
                // Whether its network is on the link is another record's to say.
                return None;
            }
            let alone = prefix_len == if addr.is_ipv4() { 32 } else { 128 };
            (!alone && !down.contains(&link)).then(|| Route {
                dst: network(addr, prefix_len),
                gateway: None,
                dev: names.get(usize::from(link)).cloned().unwrap_or_else(|| link.to_string()),
                prefsrc: Some(addr),
                metric: 0,
                table: TABLE_MAIN,
                protocol: "kernel",
            })
        }
        _ => None,
    };
    let mut routes: Vec<Route> = access.config().into_iter().filter_map(route).collect();
    routes.sort_by_key(|route| (route.dst != "default", route.protocol, route.metric));
    let written = match form {
        Form::Json => json(out, &routes),
        Form::Table => {
            let dash = |ip: Option<IpAddr>| ip.map_or_else(|| "-".into(), |ip| ip.to_string());
            let mut table =
                Table::new(&["DESTINATION", "GATEWAY", "DEV", "SOURCE", "METRIC", "TABLE", "PROTO"]);
            for r in &routes {
                let (metric, of) = (r.metric.to_string(), r.table.to_string());
                let dst = r.dst.clone();
                table.row([
                    dst,
                    dash(r.gateway),
                    r.dev.clone(),
                    dash(r.prefsrc),
                    metric,
                    of,
                    r.protocol.into(),
                ]);
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
    fn networks_are_cut_to_their_length() {
        let v4 = IpAddr::from([10, 1, 2, 3]);
        let shown = [0, 8, 23, 24, 32].map(|len| network(v4, len));
        assert_eq!(shown, ["0.0.0.0/0", "10.0.0.0/8", "10.1.2.0/23", "10.1.2.0/24", "10.1.2.3/32"]);
        let v6: IpAddr = "fd00:1:2::5".parse().expect("an address");
        assert_eq!([network(v6, 0), network(v6, 48)], ["::/0", "fd00:1:2::/48"]);
    }
}
