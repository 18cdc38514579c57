//! Several netds: who gets what, and what becomes of something that not all of them can do.

use super::*;

#[test]
fn connections_are_dealt_out_to_the_shards_that_their_ends_lead_to() {
    let steps = (0..20).map(|n| connect(["10.0.0.9:80", "10.0.0.8:443"][n % 2]));
    let script: Vec<Step> = std::iter::once(Step::Ask(Ask::Open {
        version: VERSION,
        active: 64,
        passive: 0,
        tx_pages: 0,
        rx_pages: 0,
    }))
    .chain(steps)
    .collect();
    let mut world = World::of(3, vec![script]);
    world.settle();
    world.check();
    assert_eq!(errors(&world.clients[0]), [] as [u32; 0]);
    for netd in &world.netds {
        assert!(netd.records.len() >= 6, "shard {} has {}", netd.shard, netd.records.len());
        for record in netd.records.values() {
            assert_eq!(netd.steering.flow(record.local, record.remote), netd.shard);
        }
    }
}

#[test]
fn a_connection_from_a_port_of_the_clients_choice_goes_to_its_shard() {
    let from = |port: u16| {
        let local = SocketAddr::new(NOWHERE.ip(), port);
        Step::Ask(Ask::Connect { local, remote: addr("10.0.0.9:80"), hold: false })
    };
    let mut world =
        World::of(2, vec![vec![Step::Ask(hello()), from(5001), from(5002), from(5003), from(5004)]]);
    world.settle();
    world.check();
    assert_eq!(errors(&world.clients[0]), [] as [u32; 0]);
    let both = world.netds.iter().map(|netd| netd.records.len()).collect::<Vec<_>>();
    assert_eq!(both.iter().sum::<usize>(), 4);
    assert!(both.iter().all(|count| *count > 0), "{both:?}: the ports lead to both");
}

#[test]
fn what_one_shard_refuses_is_withdrawn_from_the_others() {
    let script = || vec![Step::Ask(hello()), listen("0.0.0.0:8080"), listen("0.0.0.0:8081")];
    let mut world = World::of(3, vec![script()]);
    world.netds[1].refusals = [NOBUFS].into();
    world.settle();
    world.check();
    assert_eq!(errors(&world.clients[0]), [NOBUFS]);
    assert!(world.netds.iter().all(|netd| netd.records.len() == 1));

    let associate = || {
        let step = Step::Associate(addr("10.0.0.9:53"));
        vec![Step::Ask(hello()), datagram("0.0.0.0:5353"), step]
    };
    let mut world = World::of(2, vec![associate()]);
    world.netds[1].refusals = [].into();
    world.settle();
    world.check();
    let mut world = World::of(2, vec![associate()]);
    while world.clients[0].results.len() < 2 {
        world.settle_once();
    }
    world.netds[1].refusals = [NOBUFS].into();
    world.settle();
    assert_eq!(errors(&world.clients[0]), [NOBUFS]);
    assert!(world.netds.iter().all(|netd| netd.records.is_empty()), "the socket is gone as a whole");
    assert_eq!(world.core().sockets(), 0);
}

#[test]
fn a_listener_waits_for_a_shard_that_is_not_there() {
    let mut world =
        World::of(2, vec![vec![Step::Ask(hello()), listen("0.0.0.0:8080"), connect("10.0.0.9:80")]]);
    world.as_sockd(World::start);
    world.netd_dies(1);
    for _ in 0..20 {
        world.settle_once();
    }
    assert_eq!(world.clients[0].results.len(), 1, "the listener is not granted by one alone");
    world.netds_return();
    world.settle();
    world.check();
    assert_eq!(world.clients[0].results.len(), 3);
    assert!(world.netds.iter().all(|netd| !netd.records.is_empty()));
}
