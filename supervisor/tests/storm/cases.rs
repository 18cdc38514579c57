//! The cases. Each has its own group; they run one after the other.

use crate::dummy::ask;
use crate::group::{Group, kill, open_descriptors, until};
use rustix::process::Signal;
use std::time::{Duration, Instant};

type Case = (&'static str, fn());

pub(crate) const ALL: &[Case] = &[
    ("a_group_comes_and_goes", comes_and_goes),
    ("wrong_configurations_start_nothing", wrong_configurations),
    ("a_refusing_daemon_ends_the_start", refusing),
    ("in_the_foreground_a_signal_ends_it", foreground),
    ("a_storm_of_kills", storm),
    ("a_stopped_standby_is_replaced", stopped_standby),
    ("a_stopped_supervisor_is_replaced", stopped_active),
    ("a_stopped_daemon_is_replaced", stopped_daemon),
    ("one_started_by_hand_stops_at_the_lock", by_hand),
    ("panics_are_slowed_down", panics),
    ("without_supervisors_nobody_stays", orphans),
];

const SEATS: [&str; 4] = ["nicd", "netd", "netd.1", "sockd"];

/// Waits until every seat has begun a generation after those of `before`.
fn begun_after(group: &Group, seat: &str, before: usize) {
    until(&format!("a new {seat}"), || (group.generations(seat).len() > before).then_some(()));
}

fn comes_and_goes() {
    let group = Group::up("plain");
    group.paired();
    assert_eq!(group.processes().len(), 6, "{:?}", group.processes());
    let again = group.supervisor(&["up", "--detach"]);
    assert_eq!(again.status.code(), Some(4), "{again:?}");
    let client = group.connect();
    let name = client.opened();
    // sockd and netd are told of a session side by side.
    until("netd at the session", || (client.ask(ask::SEEN) == (name, 1)).then_some(()));
    group.check_logs();
    group.down();
}

fn wrong_configurations() {
    let group = Group::prepare("wrong");
    let file = group.path().join("g.toml");
    std::fs::write(&file, "shards = 1\n[[nic]]\nspec = \"wire:/tmp/unused\"\nmtu = 3\n").expect("written");
    let file = file.to_str().expect("text");
    let output = group.supervisor(&["up", "--config", file]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(6), "{text}");
    assert!(text.contains("g.toml:4: MTU 3 is out of range; give 576 to"), "{text}");
    assert_eq!(group.supervisor(&["up", "--shards", "0"]).status.code(), Some(6));
    assert_eq!(group.supervisor(&["up", "--no-such-flag"]).status.code(), Some(2));
    assert_eq!(group.supervisor(&["down"]).status.code(), Some(3));
    assert!(group.processes().is_empty() && !group.has_socket());
}

fn refusing() {
    let group = Group::prepare("refusing");
    let output = group.supervisor(&["up", "--detach", "--fault", "refuse-netd=1"]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(6), "{text}");
    assert!(text.contains("netd does not come up") && text.contains("told to refuse"), "{text}");
    assert!(group.processes().is_empty() && !group.has_socket(), "{:?}", group.processes());
}

fn foreground() {
    let group = Group::prepare("foreground");
    let mut up = group.spawn(&["up"]);
    until("the group", || (group.generations("sockd").len() == 1).then_some(()));
    kill(group.active(), Signal::KILL);
    until("somebody who took over", || group.log("supervisor").contains("taking over").then_some(()));
    group.active();
    kill(up.id(), Signal::INT);
    let status = up.wait().expect("ours");
    assert!(status.success(), "{status}");
    until("the end of every process", || group.processes().is_empty().then_some(()));
    assert!(!group.has_socket());
}

/// A small generator; the seed is printed, and `AXOLOTL_SEED` replays it.
struct Dice(u64);

impl Dice {
    fn seeded() -> Dice {
        let given = std::env::var("AXOLOTL_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| proto::control::clock::now().nanos());
        println!("AXOLOTL_SEED={seed}");
        Dice(seed)
    }

    /// splitmix64.
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) % sides
    }
}

fn storm() {
    const KILLS: usize = 400;
    let mut dice = Dice::seeded();
    let mut group = Group::up("storm");
    let clients: Vec<_> = (0..20).map(|_| group.connect()).collect();
    let names: Vec<u32> = clients.iter().map(|client| client.opened()).collect();
    let (active, standby) = (group.active(), group.standby());
    let before = [open_descriptors(active), open_descriptors(standby)];
    let mut killed = [0usize; 5];
    for _ in 0..KILLS {
        let victims = match dice.roll(8) {
            // Of the supervisors only one at a time, when the other can take over.
            0 => {
                group.paired();
                group.supervisors_killed += 1;
                killed[0] += 1;
                vec![group.active()]
            }
            1 => {
                let standby = group.standby();
                group.supervisors_killed += 1;
                killed[1] += 1;
                vec![standby]
            }
            2 | 3 => {
                killed[2] += 1;
                group.pids("nicd")
            }
            4 | 5 => {
                killed[3] += 1;
                group.pids("netd")
            }
            6 => {
                killed[4] += 1;
                group.pids("sockd")
            }
            // All at once but one supervisor, in either order.
            _ => {
                group.paired();
                let survivor = if dice.roll(2) == 0 { group.active() } else { group.standby() };
                group.supervisors_killed += 1;
                killed.iter_mut().for_each(|count| *count += 1);
                group.processes().into_iter().map(|(_, pid)| pid).filter(|&pid| pid != survivor).collect()
            }
        };
        victims.into_iter().for_each(|pid| kill(pid, Signal::KILL));
        // Mostly into the restart, sometimes after it.
        match dice.roll(4) {
            0 => {}
            1 => std::thread::sleep(Duration::from_micros(dice.roll(3000))),
            2 => std::thread::sleep(Duration::from_millis(dice.roll(20))),
            _ => group.paired(),
        }
    }
    println!(
        "kills: active {} standby {} nicd {} netd {} sockd {}",
        killed[0], killed[1], killed[2], killed[3], killed[4]
    );
    // In service again: a request goes through, and the newest netd knows each session.
    for (client, &name) in clients.iter().zip(&names) {
        until("a session that the newest netd knows", || {
            let (told, seen) = client.ask(ask::SEEN);
            assert_eq!(told, name);
            let newest = ["netd", "netd.1"].map(|seat| group.generations(seat).last().copied());
            newest.contains(&Some(seen)).then_some(())
        });
    }
    let late = group.connect();
    assert!(!names.contains(&late.opened()));
    drop(late);
    group.paired();
    let same = |pid: u32, before: &[String]| {
        until("as many descriptors as before", || {
            // A request or two may still be under way.
            (open_descriptors(pid).len() <= before.len()).then_some(())
        });
    };
    same(group.active(), &before[0]);
    same(group.standby(), &before[1]);
    group.check_logs();
    for seat in SEATS {
        println!("{seat}: {} generations", group.generations(seat).len());
    }
    group.down();
}

fn stopped_standby() {
    let mut group = Group::up("stopped-standby");
    let standby = group.standby();
    kill(standby, Signal::STOP);
    let before = group.generations("nicd").len();
    group.pids("nicd").into_iter().for_each(|pid| kill(pid, Signal::KILL));
    begun_after(&group, "nicd", before);
    group.supervisors_killed += 1;
    group.paired();
    assert!(!group.pids("supervisor").contains(&standby));
    group.check_logs();
    group.down();
}

fn stopped_active() {
    let mut group = Group::up("stopped-active");
    group.paired();
    let active = group.active();
    kill(active, Signal::STOP);
    let before = group.generations("sockd").len();
    group.pids("sockd").into_iter().for_each(|pid| kill(pid, Signal::KILL));
    begun_after(&group, "sockd", before);
    group.supervisors_killed += 1;
    group.paired();
    assert!(!group.pids("supervisor").contains(&active));
    // The same, noticed by a message that nobody reads.
    let active = group.active();
    kill(active, Signal::STOP);
    let client = group.connect();
    client.opened();
    group.supervisors_killed += 1;
    group.paired();
    assert!(!group.pids("supervisor").contains(&active));
    group.check_logs();
    group.down();
}

fn stopped_daemon() {
    let group = Group::up("stopped-daemon");
    let client = group.connect();
    client.opened();
    let before = group.generations("netd").len();
    // A complaint about one that gets on, or has nothing to do and then runs, does no harm by itself
    // when it is the only one and the process is not asleep over it; a stopped one is killed.
    let stopped = group.pids("netd");
    stopped.iter().for_each(|&pid| kill(pid, Signal::STOP));
    client.ask(ask::COMPLAIN);
    begun_after(&group, "netd", before);
    // The other shard was not complained about: it goes on where it stopped.
    stopped.iter().for_each(|&pid| kill(pid, Signal::CONT));
    assert_eq!(group.generations("netd.1"), [1]);
    group.check_logs();
    group.down();
}

fn by_hand() {
    let group = Group::up("by-hand");
    let output = group.by_hand("netd", true);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("another incarnation of netd holds the lock"), "{text}");
    let output = group.by_hand("netd", false);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("not by hand"), "{text}");
    assert_eq!(group.generations("netd"), [1]);
    group.check_logs();
    group.down();
}

fn panics() {
    let group = Group::up("panics");
    let client = group.connect();
    client.opened();
    let mut gaps = Vec::new();
    for _ in 0..5 {
        let before = group.generations("sockd").len();
        client.send(ask::PANIC);
        let start = Instant::now();
        begun_after(&group, "sockd", before);
        gaps.push(start.elapsed());
    }
    // How long at the least is known of the later ones; that the first two are not slowed down shows in the
    // policy's own tests, whose clock no other program holds up.
    assert!(gaps[2] >= Duration::from_millis(120) && gaps[4] >= Duration::from_millis(480), "{gaps:?}");
    // A kill from outside is not slowed down, whatever came before.
    std::thread::sleep(Duration::from_millis(10));
    group.check_logs();
    group.down();
}

fn orphans() {
    let group = Group::up("orphans");
    group.kill_supervisors();
    until("the end of every process", || group.processes().is_empty().then_some(()));
    // The next one finds the remains and starts over them.
    let output = group.supervisor(&["up", "--detach"]);
    assert!(output.status.success(), "{output:?}");
    group.down();
}
