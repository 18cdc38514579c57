//! What reordering alone costs a stream: nothing is lost, so the rate should be that of the path.

use core::time::Duration;

use super::super::settings::Settings;
use super::harness::{Weather, World};

const SEEDS: u64 = 20;

/// How long three seconds' worth of a stream takes through a bottleneck of 40 Mbit/s at 20 ms, where so many
/// packets of a thousand are 2 ms late, both ways.
fn takes(seed: u64, reorder_permille: u64) -> Duration {
    let settings = Settings { receive_limit: 1 << 20, receive_limit_max: 4 << 20, ..Settings::default() };
    let weather = Weather {
        delay: Duration::from_millis(10),
        late: Duration::from_millis(2),
        rate: 5_000_000,
        totals: [15_000_000, 0],
        gso_max: 65_536,
        eager: true,
        reorder_permille,
        settings,
        ..Weather::fair()
    };
    let mut world = World::new(seed, weather);
    let began = world.now;
    world.run();
    assert_eq!(world.seen.out_of_order > 1000, reorder_permille > 0);
    world.seen.finished_at.since(began)
}

#[test]
fn reordering_costs_less_than_a_tenth_of_the_rate() {
    for seed in 0..SEEDS {
        let kept = takes(seed, 0).as_secs_f64() / takes(seed, 50).as_secs_f64();
        assert!(kept >= 0.9, "seed {seed}: {kept:.2}");
    }
}
