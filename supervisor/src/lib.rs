//! The supervisor: starts, watches and restarts the daemons, and keeps their memory.
//!
//! Two processes of this one program run: the active supervisor and its hot standby.
//!
//! * [`command_line`], [`config`]: what a group is made of; [`starter`]: `up` and `down`; `kernel_interface`: what
//!   the kernel says of an interface that is shared with it by ports;
//! * [`pair`]: a supervisor from its start: begins a group, or stands by and takes over;
//! * [`server`]: the active one's event loop; [`policy`]: what it decides, pure; [`facts`]: what
//!   both know; [`mirror`]: how the standby comes to know it;
//! * [`vault`]: the descriptors that outlive the daemons; [`layout`]: which regions there are and
//!   who may map them; [`child`]: processes; [`inspection`]: what a
//!   program says of itself; [`lock_file`]: one group of a name at a time; [`notify`]: what a service
//!   manager is told.

pub mod child;
pub mod command_line;
pub mod config;
pub mod facts;
pub mod inspection;
mod kernel_interface;
pub mod layout;
pub mod lock_file;
pub mod mirror;
pub mod notify;
pub mod pair;
pub mod policy;
pub mod server;
pub mod starter;
pub mod vault;

use proto::control::lane::LaneError;
use rustix::fd::AsFd;
use rustix::process::Resource;

/// Runs one supervisor of a group: its lane is standard input.
///
/// # Errors
/// [`pair::PairError`].
pub fn attend() -> Result<(), pair::PairError> {
    // A session of its own, so that no terminal's signal reaches the group. Already its leader: so
    // much the better.
    let _ = rustix::process::setsid();
    let mut limit = rustix::process::getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = rustix::process::setrlimit(Resource::Nofile, limit);
    let lane = std::io::stdin().as_fd().try_clone_to_owned().map_err(LaneError::Io)?;
    pair::attend(lane)
}
