//! How long a connection goes without a byte when a process is killed: 1000 connections open, 64 of
//! them moving 1 Gbit/s together, one kill at a time, the next only when the one before is over.

use super::group::{Group, Role, kernel_sockets};
use super::strike::{Plan, Strikes, Tally};
use crate::remote::fleet::{Fleet, Load, Report};
use rand::seq::SliceRandom;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

/// Connections open.
pub const OPEN: usize = 1000;
/// Of those, the ones under load.
pub const LOADED: usize = 64;
/// Bytes a second of each of them: 1 Gbit/s together.
const RATE: u64 = 1_000_000_000 / 8 / LOADED as u64;
/// Time between a strike that is over and the next one: longer than the remote's shortest
/// retransmission timer, 200 ms, so that what one kill cost is not another's.
const PAUSE: std::ops::Range<Duration> = Duration::from_millis(300)..Duration::from_millis(700);

/// Kills each of `roles` `kills` times in a random order, with [`OPEN`] kernel sockets connected to the
/// echo server on the stack at `echo`, after as many windows without a kill.
///
/// # Errors
/// When connections can't be opened, or the group does not heal.
pub fn measure(
    group: &Group,
    echo: SocketAddr,
    roles: &[Role],
    kills: u32,
    seed: u64,
) -> Result<(BTreeMap<&'static str, Tally>, Report), String> {
    let text = |error: std::io::Error| error.to_string();
    let streams = kernel_sockets(OPEN, echo).map_err(text)?;
    let load =
        Load { loaded: LOADED, ahead: 128 * 1024, rate: RATE, murmur_every: Duration::from_millis(20), seed };
    let fleet = Fleet::launch(streams, load).map_err(text)?;
    let mut strikes = Strikes::new(group, &fleet, || fleet.bytes(), seed, PAUSE);
    strikes.calm(kills);
    let mut plans: Vec<Plan> = roles.iter().flat_map(|role| (0..kills).map(|_| Plan::one(*role))).collect();
    plans.shuffle(strikes.rng());
    for plan in plans {
        strikes.strike(&plan)?;
    }
    strikes.end();
    let tallies = strikes.tallies().clone();
    drop(strikes);
    let report = fleet.finish(Duration::from_secs(60)).map_err(text)?;
    Ok((tallies, report))
}
