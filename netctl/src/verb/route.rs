//! `netctl route`: the routes, those that follow from addresses included; `route add|del PREFIX|default [via GATEWAY]
//! [dev IF] [metric N] [table T] [src ADDRESS] [nexthop [via GATEWAY] [dev IF] [weight N]]…`.

use crate::group::{Access, Failure};
use crate::table::{Family, Form, Table, json};
use crate::verb::addr::prefix_from;
use crate::verb::link;
use proto::control::messages::Prefix;
use proto::control::notices::Change;
use proto::hard::config::{Key, Value};
use proto::hard::routing::{HOPS_MAX, Hop, Hops, TABLE_DEFAULT, TABLE_LOCAL, TABLE_MAIN};
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
    /// All of its next hops, where it has several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    nexthops: Vec<NextHop>,
}

#[derive(Debug, Serialize)]
struct NextHop {
    gateway: Option<IpAddr>,
    dev: String,
    weight: u8,
}

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
    /// The table.
    pub table: u32,
    /// The source address to prefer.
    pub source: Option<IpAddr>,
    /// Several next hops, each with what stands behind the word `nexthop`.
    pub hops: Vec<HopWords>,
}

/// What a person said of one of several next hops.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HopWords {
    /// The gateway.
    pub via: Option<IpAddr>,
    /// The interface.
    pub dev: Option<String>,
    /// Its share.
    pub weight: u8,
}

/// A table by name or number.
///
/// # Errors
/// [`Failure::Usage`].
pub fn table_from(text: &str) -> Result<u32, Failure> {
    let named = match text {
        "main" => Some(TABLE_MAIN),
        "default" => Some(TABLE_DEFAULT),
        "local" => Some(TABLE_LOCAL),
        number => number.parse().ok().filter(|number| *number > 0),
    };
    named.ok_or_else(|| Failure::Usage(format!("'{text}' is no table")))
}

/// A table as `ip` writes it.
pub fn table_name(table: u32) -> String {
    match table {
        TABLE_MAIN => "main".to_owned(),
        TABLE_DEFAULT => "default".to_owned(),
        TABLE_LOCAL => "local".to_owned(),
        number => number.to_string(),
    }
}

fn destination(words: &Words) -> Result<Prefix, Failure> {
    let via = words.via.or_else(|| words.hops.first().and_then(|hop| hop.via));
    match (words.to.as_str(), via) {
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
    let to = destination(words)?;
    let (metric, table, source) = (words.metric, words.table, words.source);
    let Some((first, others)) = words.hops.split_first() else {
        let (via, nic) = (words.via, link::index(access, words.dev.as_deref())?);
        return Ok(Change::RouteAdd { to, via, nic, metric, table, source, hops: Hops::default() });
    };
    if words.via.is_some() || words.dev.is_some() || others.len() >= HOPS_MAX {
        return Err(Failure::Usage(format!("via and dev, or up to {HOPS_MAX} nexthop")));
    }
    let nic = link::index(access, first.dev.as_deref())?;
    let mut hops = Hops::default();
    for (place, hop) in hops.more.iter_mut().zip(others) {
        let link = link::index(access, hop.dev.as_deref())?;
        *place = Some(Hop { gateway: hop.via, link, weight: hop.weight });
    }
    hops.first_weight = if hops.is_several() { first.weight } else { 0 };
    Ok(Change::RouteAdd { to, via: first.via, nic, metric, table, source, hops })
}

/// The change that removes a route.
///
/// # Errors
/// [`Failure::Usage`].
pub fn del(access: &Access, words: &Words) -> Result<Change, Failure> {
    // A network, a metric and a table name it; an interface that is not there is a mistake all the same.
    words.dev.as_deref().map(|dev| link::index(access, Some(dev))).transpose()?;
    Ok(Change::RouteDel { to: destination(words)?, metric: words.metric, table: words.table })
}

/// The next hops of a route that has several.
fn hops_of(names: &[String], gateway: Option<IpAddr>, link: u16, hops: &Hops) -> Vec<NextHop> {
    let first = Hop { gateway, link, weight: hops.first_weight };
    let all = core::iter::once(&first).chain(hops.others()).filter(|_| hops.is_several());
    all.map(|hop| NextHop {
        gateway: hop.gateway,
        dev: names.get(usize::from(hop.link)).cloned().unwrap_or_else(|| hop.link.to_string()),
        weight: hop.weight,
    })
    .collect()
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
            Key::Route { destination, prefix_len, table, metric, hops },
            Value::Route { gateway, link, source, life },
        ) => Some(Route {
            nexthops: hops_of(&names, gateway, link, &hops),
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
                nexthops: Vec::new(),
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
                let (metric, of) = (r.metric.to_string(), table_name(r.table));
                let first = NextHop { gateway: r.gateway, dev: r.dev.clone(), weight: 0 };
                let alone = core::iter::once(&first).filter(|_| r.nexthops.is_empty());
                for hop in alone.chain(&r.nexthops) {
                    let weight = (hop.weight > 0).then(|| format!("{} weight {}", r.dst, hop.weight));
                    table.row([
                        weight.unwrap_or_else(|| r.dst.clone()),
                        dash(hop.gateway),
                        hop.dev.clone(),
                        dash(r.prefsrc),
                        metric.clone(),
                        of.clone(),
                        r.protocol.into(),
                    ]);
                }
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
