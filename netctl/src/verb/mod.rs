//! One file a verb: each reads the group's regions and writes a table or a JSON document.

pub mod addr;
pub mod capture;
pub mod crash;
pub mod link;
pub mod neigh;
pub mod route;
pub mod ss;
pub mod stats;
pub mod status;
