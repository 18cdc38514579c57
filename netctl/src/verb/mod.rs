//! One file a verb: most read the group's regions and write a table or a JSON document.

pub mod addr;
pub mod capture;
pub mod crash;
pub mod filter;
pub mod link;
pub mod manual;
pub mod metrics;
pub mod monitor;
pub mod neigh;
pub mod nic;
pub mod ping;
pub mod restart;
pub mod route;
pub mod rule;
pub mod ss;
pub mod stats;
pub mod status;
pub mod sysctl;
pub mod top;
pub mod trace;
