//! Mutants of the commit, the recovery and the operations: each must make an oracle fail, or the
//! oracles prove nothing.

use std::collections::BTreeMap;
use tests::sim::mutants::{MUTANTS, MemoryMutant};
use tests::sim::{cells, configuration};

#[test]
fn cells() {
    for mutant in [
        MemoryMutant::SelectorFirst,
        MemoryMutant::NoCheck,
        MemoryMutant::CommitSkipped(5),
        MemoryMutant::InPlace,
        MemoryMutant::OlderSlot,
    ] {
        let outcome = cells::enumerate(&|| Some(mutant.tamper()), 8);
        let failure = outcome.expect_err(&format!("{mutant:?} survives"));
        println!("mutant {mutant:?}: {failure}");
        let outcome = configuration::enumerate(&|| Some(mutant.tamper()), 4);
        outcome.expect_err(&format!("{mutant:?} survives in the configuration"));
    }
}

#[test]
fn every_mutant_is_caught() {
    // What a mutant breaks may show as an assertion of the code under test; that is not worth a
    // backtrace.
    std::panic::set_hook(Box::new(|_| {}));
    let mut survivors = Vec::new();
    let mut per_invariant: BTreeMap<&str, u32> = BTreeMap::new();
    println!("{:8} {:45} {:>6}  {:28} what was noticed", "breaks", "mutant", "plays", "story");
    for mutant in MUTANTS {
        match mutant.hunt() {
            Some(caught) => {
                let noticed: String = caught.failure.chars().take(110).collect();
                println!(
                    "{:8} {:45} {:>6}  {:28} {noticed}",
                    mutant.breaks, mutant.name, caught.plays, caught.story
                );
                *per_invariant.entry(mutant.breaks).or_default() += 1;
            }
            None => {
                println!("{:8} {:45} SURVIVES", mutant.breaks, mutant.name);
                survivors.push(mutant.name);
            }
        }
    }
    let _ = std::panic::take_hook();
    assert!(survivors.is_empty(), "mutants survive: {survivors:?}");
    for invariant in
        ["INV-T1", "INV-T2", "INV-T3", "INV-T4", "INV-T5", "INV-T6", "INV-T7", "INV-T8", "INV-T9"]
    {
        assert!(per_invariant.get(invariant).is_some_and(|n| *n >= 2), "{invariant}: fewer than two mutants");
    }
}
