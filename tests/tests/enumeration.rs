//! Crash-point enumeration over the code as shipped: a death at every effect, INV-T1 to INV-T9.

use tests::sim::scenario::{ALL, Play, SEATS, WEATHER};
use tests::sim::{cells, configuration};
use tests::world::Part;
use tests::world::host::Who;
use tests::world::rng::Rng;

#[test]
fn cells() {
    let points = cells::enumerate(&|| None, 24).expect("every prefix of the stores is a sound table");
    println!("enumeration: cells: {points} crash points, 0 failures");
    assert!(points > 1000, "the script was cut short");
}

#[test]
fn configuration_changes() {
    let points = configuration::enumerate(&|| None, 12).expect("a change is whole or is not");
    println!("enumeration: configuration: {points} crash points, 0 failures");
    assert!(points > 500, "the script was cut short");
}

#[test]
fn reader_beside_the_writer_of_a_cell() {
    let tried = cells::reader_beside_writer().expect("a reader sees what was true");
    println!("enumeration: reader beside the writer: {tried} interleavings, 0 failures");
}

/// Crash points of one story and weather that are tried at most; more are sampled.
const POINTS_MAX: u64 = 600;

/// Plays every story with deaths of one seat: at every point under a clear sky, at every n-th in
/// each weather.
fn seat(host: usize, who: Who) {
    let (mut points, mut failed) = (0, Vec::new());
    let only = std::env::var("AXOLOTL_ONLY").unwrap_or_default();
    for scenario in ALL.iter().filter(|scenario| scenario.name.contains(&only)) {
        let begin = std::time::Instant::now();
        let before = points;
        for (n, weather) in WEATHER.iter().enumerate() {
            let play = |fuses: Vec<u64>| {
                let fates = weather.to_vec();
                let deaths = Some((host, who, fuses));
                scenario.play(&Play { seed: n as u64, fates, deaths, ..Play::default() })
            };
            let dry = play(Vec::new());
            if let Some(failure) = dry.failures.first() {
                failed.push(format!("{} in weather {n}: {failure}", scenario.name));
                continue;
            }
            let most = if n == 0 { POINTS_MAX } else { POINTS_MAX / 8 };
            let step = (dry.effects / most + 1) as usize;
            for fuse in (n as u64 % step as u64..dry.effects).step_by(step) {
                points += 1;
                let outcome = play(vec![fuse]);
                if let Some(failure) = outcome.failures.first() {
                    failed.push(format!("{}/{n}/{host}/{who:?}/{fuse}: {failure}", scenario.name));
                }
            }
        }
        if std::env::var_os("AXOLOTL_VERBOSE").is_some() {
            println!(
                "{}: {} points, {:?}, {} failures",
                scenario.name,
                points - before,
                begin.elapsed(),
                failed.len()
            );
        }
    }
    println!("enumeration: host {host} {who:?}: {points} crash points, {} failures", failed.len());
    for (n, failure) in failed.iter().enumerate().take(60) {
        let first = failure.lines().next().unwrap_or_default();
        println!("  {}", if n < 3 { failure } else { first });
    }
    assert!(failed.is_empty());
}

#[test]
fn netd_of_the_active_side() {
    seat(0, Who::Netd);
}

#[test]
fn netd_of_the_passive_side() {
    seat(1, Who::Netd);
}

#[test]
fn sockd_of_the_active_side() {
    seat(0, Who::Sockd);
}

#[test]
fn sockd_of_the_passive_side() {
    seat(1, Who::Sockd);
}

#[test]
fn client_of_the_active_side() {
    seat(0, Who::Client(0));
}

#[test]
fn client_of_the_passive_side() {
    seat(1, Who::Client(0));
}

/// Two deaths in one story: of one process twice, the second at any point of the recovery or after
/// it, and of two processes.
#[test]
fn double_deaths() {
    let rng = Rng::new(7);
    let (mut points, mut twice, mut failed) = (0, 0, Vec::new());
    for scenario in ALL {
        for seat in &SEATS[..4] {
            let (host, who) = *seat;
            let play = |weather: usize, fuses: Vec<u64>, beside: Option<(usize, Who, u64)>| {
                let fates = WEATHER[weather].to_vec();
                let deaths = Some((host, who, fuses));
                scenario.play(&Play { seed: weather as u64, fates, deaths, beside, ..Play::default() })
            };
            let effects = play(0, Vec::new(), None).effects.max(1);
            for round in 0..24 {
                let weather = rng.below(WEATHER.len() as u64) as usize;
                let first = rng.below(effects);
                // A recovery is a few dozen effects; the later draws fall into what follows it.
                let second = rng.below(if round % 2 == 0 { 40 } else { effects });
                let third = rng.below(60);
                let other = *rng.pick(&SEATS[..4]);
                let (fuses, beside) = match round % 3 {
                    0 => (vec![first, second], None),
                    1 => (vec![first, second, third], None),
                    _ => (vec![first], Some((other.0, other.1, rng.below(effects)))),
                };
                points += 1;
                let outcome = play(weather, fuses.clone(), beside);
                twice += u64::from(outcome.deaths >= 2);
                if let Some(failure) = outcome.failures.first() {
                    failed.push(format!(
                        "{}/{weather}/{host}/{who:?}/{fuses:?} beside {beside:?}: {failure}",
                        scenario.name
                    ));
                }
            }
        }
    }
    println!("enumeration: {points} stories, {twice} with two deaths or more, {} failures", failed.len());
    for (n, failure) in failed.iter().take(20).enumerate() {
        println!("  {}", if n < 2 { failure } else { failure.lines().next().unwrap_or_default() });
    }
    assert!(failed.is_empty() && twice > points / 2);
}

/// A client runs in the middle of netd's batches, at every effect of them: no note and no wake-up
/// is lost, nothing is read that is not there.
#[test]
fn clients_in_the_middle_of_a_batch() {
    let (mut points, mut failed) = (0, Vec::new());
    for scenario in ALL {
        for host in 0..2 {
            let play = |at: Option<u64>| {
                let deaths = Some((host, Who::Netd, Vec::new()));
                scenario.play(&Play { deaths, interrupt: at.map(|at| (host, 0, at)), ..Play::default() })
            };
            let effects = play(None).effects;
            for at in (0..effects).step_by((effects / 300 + 1) as usize) {
                points += 1;
                if let Some(failure) = play(Some(at)).failures.first() {
                    failed.push(format!("{}/{host}/{at}: {failure}", scenario.name));
                }
            }
        }
    }
    println!("enumeration: {points} interleavings of a client, {} failures", failed.len());
    for (n, failure) in failed.iter().take(20).enumerate() {
        println!("  {}", if n < 2 { failure } else { failure.lines().next().unwrap_or_default() });
    }
    assert!(failed.is_empty());
}

/// INV-T8: a frame that netd has a bug with ends it a few times and then no more, whatever else
/// kills it meanwhile; the other connections go on.
#[test]
fn poison() {
    // A life beside such a frame is long; each second point with AXOLOTL_EVERY, each seventeenth without.
    let step = if std::env::var_os("AXOLOTL_EVERY").is_some() { 2 } else { 17 };
    let (mut points, mut panics, mut failed) = (0, 0, Vec::new());
    // The bug is expected, its backtraces are not worth printing.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let bug = info.payload_as_str().is_some_and(|text| text.contains("poisoned frame"));
        if !bug {
            hook(info);
        }
    }));
    for scenario in ALL.iter().filter(|scenario| scenario.name == "two at once") {
        for host in 0..2 {
            let play = |fuses: Vec<u64>| {
                let deaths = Some((host, Who::Netd, fuses));
                scenario.play(&Play { deaths, poison: true, ..Play::default() })
            };
            for fuse in (0..play(Vec::new()).effects).step_by(step) {
                points += 1;
                let outcome = play(vec![fuse, fuse % 97]);
                panics += u64::from(outcome.panics);
                if let Some(failure) = outcome.failures.first() {
                    failed.push(format!("{}/{host}/{fuse}: {failure}", scenario.name));
                }
            }
        }
    }
    println!(
        "enumeration: {points} deaths beside a poison frame, {panics} deaths by it, {} failures",
        failed.len()
    );
    for failure in failed.iter().take(20) {
        println!("  {}", failure.lines().next().unwrap_or_default());
    }
    assert!(failed.is_empty() && panics >= points);
}

/// INV-T7: a record that fails its check after a death costs its connection and nothing else.
#[test]
fn corrupted_records() {
    let (mut points, mut corrupted, mut failed) = (0, 0, Vec::new());
    for scenario in ALL.iter().filter(|s| ["two at once", "both ways", "open and close"].contains(&s.name)) {
        for part in [Part::Opening, Part::State, Part::Selector] {
            for host in 0..2 {
                let play = |fuses: Vec<u64>| {
                    let deaths = Some((host, Who::Netd, fuses));
                    scenario.play(&Play { deaths, corrupt: Some(part), ..Play::default() })
                };
                for fuse in (0..play(Vec::new()).effects).step_by(3) {
                    points += 1;
                    let outcome = play(vec![fuse]);
                    corrupted += u64::from(outcome.condemned > 0);
                    if let Some(failure) = outcome.failures.first() {
                        failed.push(format!("{}/{part:?}/{host}/{fuse}: {failure}", scenario.name));
                    }
                }
            }
        }
    }
    println!("enumeration: {points} deaths, {corrupted} corrupted records, {} failures", failed.len());
    for failure in failed.iter().take(20) {
        println!("  {}", failure.lines().next().unwrap_or_default());
    }
    assert!(failed.is_empty() && corrupted > points / 3);
}

/// Plays one story as `AXOLOTL_PLAY=NAME/WEATHER/HOST/SEAT/FUSE[,FUSE]` says, with every segment.
#[test]
fn replay() {
    let Ok(wish) = std::env::var("AXOLOTL_PLAY") else { return };
    let words: Vec<&str> = wish.split('/').collect();
    let number = |at: usize| words.get(at).and_then(|word| word.parse().ok()).unwrap_or(0usize);
    let scenario = ALL.iter().find(|scenario| scenario.name == words[0]).expect("a story of that name");
    let weather = number(1);
    let who = match words.get(3) {
        Some(&"netd") => Some(Who::Netd),
        Some(&"sockd") => Some(Who::Sockd),
        Some(&"client") => Some(Who::Client(0)),
        _ => None,
    };
    let fuses = words.get(4).map(|word| word.split(',').map(|n| n.parse().expect("a fuse")).collect());
    let play = Play {
        seed: weather as u64,
        fates: WEATHER[weather].to_vec(),
        deaths: who.map(|who| (number(2), who, fuses.unwrap_or_default())),
        corrupt: std::env::var_os("AXOLOTL_CORRUPT").map(|_| Part::State),
        ..Play::default()
    };
    let outcome = scenario.play(&play);
    println!("{outcome:#?}");
}
