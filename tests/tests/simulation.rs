//! Seeded simulation: two stacks, a bad network, random clients and deaths, an oracle for every byte.

use std::time::Duration;
use tests::world::client::{Dialogue, Finish, Plan, Task};
use tests::world::{Config, World};

#[test]
fn a_clean_world() {
    let mut world = World::new(Config::new(1));
    let dialogue =
        Dialogue { active: Plan::of(300_000, Finish::Orderly), passive: Plan::of(500_000, Finish::Orderly) };
    let conn = world.plan(dialogue);
    let remote = (world.hosts[1].addr, 8080).into();
    let local = (world.hosts[0].addr, 5000).into();
    let start = world.now;
    world.add_client(1, vec![Task::Listen { port: 8080, backlog: 4 }]);
    world.add_client(
        0,
        vec![
            Task::Wait(start + Duration::from_millis(50)),
            Task::Connect { conn, local, remote },
            Task::Settle,
        ],
    );
    let done = world.run_until(start + Duration::from_secs(20), |world| world.all_done());
    assert_eq!(world.failures(), Vec::<String>::new(), "{}", world.describe());
    assert!(done, "{}", world.describe());
    println!(
        "{} ms, {} turns, {:?}",
        world.now.since(start).as_millis(),
        world.coverage.turns,
        world.network.done
    );
}
