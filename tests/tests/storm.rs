//! The kill storm: real processes, plain kernel sockets, SIGKILL after SIGKILL, and not a byte amiss.
//!
//! `AXOLOTL_STORM_KILLS` (1000), `AXOLOTL_STORM_CONNECTIONS` (1000), `AXOLOTL_STORM_SEED` (random),
//! `AXOLOTL_STORM_ROLE` (whom alone), `AXOLOTL_STORM_PAUSE` (longest pause between strikes in milliseconds: 120) and `AXOLOTL_STORM_RATE`
//! (bytes a second of a loaded connection) make a shorter run, or the same one again.

use rand::RngExt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tests::process::group::{Group, Program, Role, Spec, kernel_sockets};
use tests::process::strike::{Plan, Strikes, table};
use tests::process::{fresh_seed, private_net, silence, wait_until};
use tests::remote::fleet::{Fleet, Load};

const STACK: &str = "10.78.0.2";
const ECHO: u16 = 7007;
/// Connections under load, both ways.
const LOADED: usize = 64;
/// Share of the kills, in percent, that must meet at least 64 KiB unacknowledged.
const UNDER_LOAD_PERCENT: u64 = 80;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// A group with an echo server on it.
fn started(shards: u64) -> (Group, Program, SocketAddr) {
    let spec = Spec {
        nic: "tap:axl1".into(),
        addr: format!("{STACK}/24"),
        tap_addr: Some("10.78.0.1/24".into()),
        more: if shards == 0 { Vec::new() } else { vec!["--shards".into(), shards.to_string()] },
    };
    let group = Group::up(&spec).expect("a group");
    let echo: SocketAddr = format!("{STACK}:{ECHO}").parse().expect("an address");
    let server = group.example("echo", &[&ECHO.to_string()]).expect("the echo server");
    let listening = || std::net::TcpStream::connect_timeout(&echo, Duration::from_secs(2)).is_ok();
    assert!(wait_until(Duration::from_secs(20), listening), "echo does not listen");
    (group, server, echo)
}

/// One random plan: mostly one process, now and then several.
fn plan(strikes: &mut Strikes<'_>) -> Plan {
    if let Ok(only) = std::env::var("AXOLOTL_STORM_ROLE") {
        let all = [Role::Nicd, Role::Netd, Role::Sockd, Role::Supervisor, Role::Standby];
        return Plan::one(all.into_iter().find(|role| role.name() == only).expect("a role's name"));
    }
    let roles = [Role::Nicd, Role::Netd, Role::Netd, Role::Sockd, Role::Supervisor, Role::Standby];
    let daemons = [Role::Nicd, Role::Netd, Role::Sockd];
    let rng = strikes.rng();
    match rng.random_range(0..20) {
        0 => Plan::all_but(Role::Supervisor),
        1 => Plan::all_but(Role::Standby),
        2..5 => {
            let (first, second) = (roles[rng.random_range(0..roles.len())], rng.random_range(0..2));
            // Never both supervisors: the second to die is a daemon, and another one.
            let others: Vec<Role> = daemons.into_iter().filter(|role| *role != first).collect();
            Plan::during(first, others[second], Duration::from_millis(12))
        }
        _ => Plan::one(roles[rng.random_range(0..roles.len())]),
    }
}

#[test]
fn a_thousand_kills_lose_nothing() {
    // As many shards as groups have that don't say how many.
    private_net::test("a_thousand_kills_lose_nothing", || storm(0, setting("AXOLOTL_STORM_KILLS", 1000)));
}

/// The same with two netds, of which either may be struck. `AXOLOTL_STORM_SHARD_KILLS` (200).
#[test]
fn kills_of_two_shards_lose_nothing() {
    private_net::test("kills_of_two_shards_lose_nothing", || {
        storm(2, setting("AXOLOTL_STORM_SHARD_KILLS", 200));
    });
}

fn storm(shards: u64, kills: u64) {
    let connections = setting("AXOLOTL_STORM_CONNECTIONS", 1000) as usize;
    let seed = setting("AXOLOTL_STORM_SEED", fresh_seed());
    println!("AXOLOTL_STORM_SEED={seed}");
    let (group, _server, echo) = started(shards);
    let streams = kernel_sockets(connections, echo).expect("every connection opens");
    let load = Load {
        loaded: LOADED.min(connections),
        ahead: 128 * 1024,
        rate: setting("AXOLOTL_STORM_RATE", u64::MAX),
        murmur_every: Duration::from_millis(20),
        seed,
    };
    let fleet = Fleet::launch(streams, load).expect("a fleet");
    let longest = setting("AXOLOTL_STORM_PAUSE", 120);
    let pause = Duration::from_millis(longest / 6)..Duration::from_millis(longest);
    let mut strikes = Strikes::new(&group, &fleet, || fleet.bytes(), seed, pause);
    strikes.spares_die(4);
    strikes.calm(10);
    let begun = Instant::now();
    let killed = |strikes: &Strikes<'_>| strikes.tallies().values().map(|t| t.killed).sum::<u64>();
    let mut said = Instant::now();
    while killed(&strikes) < kills {
        let plan = plan(&mut strikes);
        strikes.strike(&plan).expect("the group heals and bytes move");
        assert_eq!((fleet.lost(), fleet.wrong()), (0, 0), "after {plan:?}");
        if said.elapsed() > Duration::from_secs(10) {
            println!("{:>4} s  {} of {kills} kills", begun.elapsed().as_secs(), killed(&strikes));
            said = Instant::now();
        }
    }
    strikes.end();
    let tallies = strikes.tallies().clone();
    drop(strikes);
    let report = fleet.finish(Duration::from_secs(60)).expect("a report");
    println!("{}", table(&tallies, connections as u64, &report.silences));
    let sum = |of: fn(&tests::process::strike::Tally) -> u64| tallies.values().map(of).sum::<u64>();
    let (strikes, counted, loaded) = (sum(|t| t.strikes), sum(|t| t.counted), sum(|t| t.loaded));
    let counters = group.access().counters();
    let drops = counters.iter().filter(|((_, name), n)| name.starts_with("drop_") && **n > 0);
    drops.for_each(|((role, name), n)| println!("{role} {name} {n}"));
    println!("{strikes} strikes, {counted} counted, {loaded} with 64 KiB or more unacknowledged");
    println!("{} bytes verified in {} s", report.bytes, begun.elapsed().as_secs());
    assert_eq!(report.lost, Vec::<String>::new());
    assert_eq!((report.clean, report.bytes_wrong), (connections, 0));
    assert_eq!(counted, strikes, "bytes moved before and after every strike");
    assert!(loaded * 100 >= strikes * UNDER_LOAD_PERCENT, "{loaded} of {strikes} strikes under load");
}

/// One kill at a time at a steady load: nothing is lost, and the table says how long it was felt.
/// `AXOLOTL_SILENCE_KILLS` (10) of each role.
#[test]
fn how_long_a_kill_is_felt() {
    private_net::test("how_long_a_kill_is_felt", || {
        let seed = setting("AXOLOTL_STORM_SEED", fresh_seed());
        println!("AXOLOTL_STORM_SEED={seed}");
        let (group, _server, echo) = started(0);
        let kills = setting("AXOLOTL_SILENCE_KILLS", 10) as u32;
        let roles = [Role::Nicd, Role::Netd, Role::Sockd, Role::Supervisor, Role::Standby];
        let (tallies, report) =
            silence::measure(&group, echo, &roles, kills, seed).expect("the group heals each time");
        println!("{}", table(&tallies, silence::OPEN as u64, &report.silences));
        assert_eq!(report.lost, Vec::<String>::new());
        assert_eq!((report.clean, report.bytes_wrong), (silence::OPEN, 0));
        assert!(tallies.values().all(|tally| tally.counted == u64::from(kills)), "{tallies:?}");
    });
}
