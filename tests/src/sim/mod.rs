//! What the suites run: the commit on its own, short stories with a death at every crash point,
//! mutants that the oracles must notice, long random lives.

pub mod cells;
pub mod configuration;
pub mod life;
pub mod mutants;
pub mod scenario;
