//! What the suites run: the commit on its own, mutants of the shipped code.

pub mod cells;
pub mod mutants;
pub mod scenario;
