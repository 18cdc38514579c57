//! `netctl neigh`: the neighbours; `neigh add ADDR lladdr MAC [dev IF]`, `neigh del ADDR [dev IF]`.
//!
//! The permanent ones stand in the configuration; those that were learned are netd's own, soft state, and
//! shown by each netd in its region.

use crate::group::{Access, Failure};
use crate::table::{Family, Form, Table, json};
use crate::verb::link::{mac_text, names};
use proto::control::clock;
use proto::hard::config::{Key, Value};
use proto::id::Role;
use proto::stats::neighbours::{self, NeighbourState, Shown};
use proto::zone;
use serde::Serialize;
use std::io::Write;
use std::net::IpAddr;

#[derive(Debug, Serialize)]
struct Neighbour {
    dst: IpAddr,
    dev: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    lladdr: Option<String>,
    state: &'static str,
}

/// Shows the neighbours.
///
/// # Errors
/// When the answer can't be written.
pub fn show(access: &Access, form: Form, family: Family, out: &mut impl Write) -> Result<(), Failure> {
    let names = names(access);
    let neighbour = |record: proto::hard::config::Record| match (record.key, record.value) {
        (Key::Neighbour { link, addr }, Value::Neighbour { mac }) if family.shows(addr) => Some(Neighbour {
            dst: addr,
            dev: names.get(usize::from(link)).cloned().unwrap_or_else(|| link.to_string()),
            lladdr: Some(mac_text(mac)),
            state: NeighbourState::Permanent.name(),
        }),
        _ => None,
    };
    let mut neighbours: Vec<Neighbour> = access.config().into_iter().filter_map(neighbour).collect();
    // Each shard has a table of its own: what the first one that has sent to a neighbour says of it.
    let now = clock::now();
    let of_netds = access.stats().filter(|(seat, _)| seat.role == Role::Netd);
    let mut learned: Vec<Shown> =
        of_netds.flat_map(|(_, region)| neighbours::read(region).unwrap_or_default()).collect();
    learned.sort_by_key(|shown| (shown.nic, shown.addr, !shown.used));
    learned.dedup_by_key(|shown| (shown.nic, shown.addr));
    for shown in learned {
        let (addr, state) = (zone::ip_without(shown.addr), shown.state_at(now));
        if family.shows(addr) {
            neighbours.push(Neighbour {
                dst: addr,
                dev: names.get(usize::from(shown.nic)).cloned().unwrap_or_else(|| shown.nic.to_string()),
                lladdr: state.has_mac().then(|| mac_text(shown.mac)),
                state: state.name(),
            });
        }
    }
    let written = match form {
        Form::Json => json(out, &neighbours),
        Form::Table => {
            let mut table = Table::new(&["ADDRESS", "DEV", "LLADDR", "STATE"]);
            for n in &neighbours {
                let lladdr = n.lladdr.clone().unwrap_or_else(|| "-".into());
                table.row([n.dst.to_string(), n.dev.clone(), lladdr, n.state.into()]);
            }
            table.write(out)
        }
    };
    written.map_err(|e| Failure::Io("standard output", e))
}
