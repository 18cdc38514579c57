//! The link layer: who is at the other end of the cable, and with which address.

pub mod neighbour;
pub mod pending;
