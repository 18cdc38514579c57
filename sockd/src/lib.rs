//! sockd: the socket API's authority. Who may open a session, which names and ports sockets get,
//! what quotas leave, and what happens when a client dies. No byte of a stream passes through it;
//! it maps no frame and no payload.
//!
//! [`core`] decides, as a pure machine over the registry; [`policy`] and [`ports`] are its rules.
//! [`server`] is the daemon around it; `session`, `netds` and `admin` are those it talks to.

mod admin;
pub mod core;
mod counts;
mod netds;
mod pass_rights;
mod places;
pub mod policy;
pub mod port_select;
pub mod ports;
pub mod server;
mod session;
mod sources;
pub mod territory;
