//! `netctl route`: the routes; `route add|del PREFIX|default [via GATEWAY] [dev IF] [metric N]`.

use crate::group::{Access, Failure};
use crate::table::{Form, Table, json};
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
pub fn show(access: &Access, form: Form, out: &mut impl Write) -> Result<(), Failure> {
    let names = link::names(access);
    let route = |record: proto::hard::config::Record| match (record.key, record.value) {
        (Key::Route { destination, prefix_len, table, metric }, Value::Route { gateway, link, source }) => {
            Some(Route {
                dst: if prefix_len == 0 { "default".into() } else { format!("{destination}/{prefix_len}") },
                gateway,
                dev: names.get(usize::from(link)).cloned().unwrap_or_else(|| link.to_string()),
                prefsrc: source,
                metric,
                table,
            })
        }
        _ => None,
    };
    let routes: Vec<Route> = access.config().into_iter().filter_map(route).collect();
    let written = match form {
        Form::Json => json(out, &routes),
        Form::Table => {
            let dash = |ip: Option<IpAddr>| ip.map_or_else(|| "-".into(), |ip| ip.to_string());
            let mut table = Table::new(&["DESTINATION", "GATEWAY", "DEV", "SOURCE", "METRIC", "TABLE"]);
            for r in &routes {
                let (metric, of) = (r.metric.to_string(), r.table.to_string());
                table.row([r.dst.clone(), dash(r.gateway), r.dev.clone(), dash(r.prefsrc), metric, of]);
            }
            table.write(out)
        }
    };
    written.map_err(|e| Failure::Io("standard output", e))
}
