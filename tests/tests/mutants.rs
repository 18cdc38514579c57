//! Mutants of the commit: each must make an oracle fail, or the oracles prove nothing.

use tests::sim::cells;
use tests::sim::mutants::MemoryMutant;

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
    }
}
