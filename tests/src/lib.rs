//! The harness of the suites in `tests/tests`: memory that survives deaths, worlds of virtual time,
//! oracles that know every byte, real processes.

pub mod bench;
pub mod crash;
pub mod fuzz;
pub mod oracle;
pub mod process;
pub mod remote;
pub mod script;
pub mod sim;
pub mod vm;
pub mod world;
