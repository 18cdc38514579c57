//! The supervisor: starts, watches and restarts the daemons, and keeps their memory.
//!
//! Two processes of this one program run: the active supervisor and its hot standby.
//!
//! * [`facts`]: what both know; [`policy`]: what the active one decides, pure;
//! * [`vault`]: the descriptors that outlive the daemons; [`layout`]: which regions there are and
//!   who may map them; [`child`]: processes; [`mirror`]: what the two say to each other;
//! * [`config`]: what a group is made of.

pub mod child;
pub mod config;
pub mod facts;
pub mod layout;
pub mod mirror;
pub mod policy;
pub mod vault;
