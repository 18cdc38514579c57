//! `netctl neigh`: the permanent neighbours; `neigh add ADDR lladdr MAC [dev IF]`, `neigh del ADDR [dev IF]`.
//!
//! Neighbours that were learned are netd's own, soft state, and counted in `stats`.

use crate::group::{Access, Failure};
use crate::table::{Family, Form, Table, json};
use crate::verb::link::{mac_text, names};
use proto::hard::config::{Key, Value};
use serde::Serialize;
use std::io::Write;
use std::net::IpAddr;

#[derive(Debug, Serialize)]
struct Neighbour {
    dst: IpAddr,
    dev: String,
    lladdr: String,
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
            lladdr: mac_text(mac),
            state: "PERMANENT",
        }),
        _ => None,
    };
    let neighbours: Vec<Neighbour> = access.config().into_iter().filter_map(neighbour).collect();
    let written = match form {
        Form::Json => json(out, &neighbours),
        Form::Table => {
            let mut table = Table::new(&["ADDRESS", "DEV", "LLADDR", "STATE"]);
            for n in &neighbours {
                table.row([n.dst.to_string(), n.dev.clone(), n.lladdr.clone(), n.state.into()]);
            }
            table.write(out)
        }
    };
    written.map_err(|e| Failure::Io("standard output", e))
}
