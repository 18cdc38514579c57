//! Scripts, refusals and deaths at random.

use super::*;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn random_scripts_with_random_deaths(
        scripts in prop::collection::vec(prop::collection::vec(0u8..7, 0..12), 1..4),
        refusals in prop::collection::vec(prop::sample::select(vec![98u32, 99, 101, NOBUFS]), 0..4),
        deaths in prop::collection::vec(1u64..60, 0..12),
        netd_deaths in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
        shards in 1u16..4,
    ) {
        let scripts = scripts.iter().map(|script| {
            let steps = script.iter().map(|what| match what {
                0 => connect("10.0.0.9:80"),
                1 => datagram("0.0.0.0:0"),
                2 => listen("0.0.0.0:8080"),
                3 => connect("224.0.0.1:80"),
                4 => datagram("0.0.0.0:5353"),
                5 => connect("10.0.0.8:80"),
                _ => Step::HangUp,
            });
            std::iter::once(Step::Ask(hello())).chain(steps).collect()
        });
        let mut world = World::of(shards, scripts.collect());
        world.netds[0].refusals = refusals.into();
        let netd_deaths: Vec<usize> = netd_deaths.iter().map(|index| index.index(40)).collect();
        let mut deaths = deaths.into_iter();
        let mut lived = 0;
        for round in 0..60 {
            if world.deaths >= lived {
                lived = world.deaths + 1;
                world.memory.death.set(deaths.next().map_or(u64::MAX, |d| world.memory.steps.get() + d));
            }
            if netd_deaths.contains(&round) {
                world.netd_dies(round as u16 % shards);
            } else if round % 3 == 0 {
                world.netds_return();
            }
            world.settle_once();
        }
        world.memory.death.set(u64::MAX);
        world.settle();
        world.check();
    }
}
