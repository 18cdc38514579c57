//! The supervisor: starts, watches and restarts the daemons, and keeps their memory.
//!
//! Two processes of this one program run: the active supervisor and its hot standby.
//!
//! * [`facts`]: what both know; [`policy`]: what the active one decides, pure.

pub mod facts;
pub mod policy;
