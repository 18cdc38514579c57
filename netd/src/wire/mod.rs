//! Headers: parsed from and emitted to plain byte slices, nothing else.
//!
//! Called by link, ip and transport with a header area that the caller has copied out of the shared
//! page once (INV-R1); at most [`HEADER_AREA`] bytes of it are ever looked at. Every parser takes that
//! slice and the full length of its layer, which may reach beyond the slice, and answers with a value or
//! a [`drop_reason::DropReason`]; no input makes one panic. Emitters write into a slice that the caller
//! made large enough (anything else is our own bug) and return how many bytes they wrote.
//!
//! Not here: what a header means. No address is judged, no state is kept, no payload is touched.

pub mod address;
pub mod checksum;
pub mod drop_reason;
