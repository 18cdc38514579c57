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
pub mod arp;
pub mod checksum;
pub mod drop_reason;
pub mod ethernet;
pub mod extension;
pub mod icmpv4;
pub mod icmpv6;
pub mod igmp;
pub mod ipv4;
pub mod ipv6;
pub mod membership;
pub mod mld;
pub mod ndp;
pub mod quote;
pub mod tcp;
pub mod tcp_options;
pub mod udp;
pub mod unchecked;

/// Bytes from the start of a frame that hold every header there can be, rounded up to whole cache lines:
/// link header with a tag (18), IPv4 with options (60), and then TCP with options (60), or an ICMP header
/// (8) with a quoted IPv4 header (60) and the 8 bytes behind it. The same of IPv6 is shorter, and leaves
/// room for the extension headers that a host has to look at.
pub const HEADER_AREA: usize = 192;

const _: () = assert!(18 + ipv4::HEADER_LEN_MAX + tcp::HEADER_LEN_MAX <= HEADER_AREA);
const _: () =
    assert!(18 + ipv4::HEADER_LEN_MAX + icmpv4::HEADER_LEN + ipv4::HEADER_LEN_MAX + 8 <= HEADER_AREA);
const _: () = assert!(18 + ipv6::HEADER_LEN + icmpv6::HEADER_LEN + ipv6::HEADER_LEN + 8 <= HEADER_AREA);
