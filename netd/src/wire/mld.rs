//! Multicast listener discovery: queries of both versions, and the reports of a host (RFC 3810 §5,
//! RFC 2710 §3).
//!
//! Our reports name groups without sources: this host listens to every source of a group.

use core::net::Ipv6Addr;
use core::time::Duration;

use super::address::AddressPair;
use super::drop_reason::DropReason;
use super::icmpv6::fill_checksum;

/// ICMPv6 type: a router asks.
pub const QUERY: u8 = 130;
/// ICMPv6 type: a listener reports, RFC 2710.
pub const REPORT_V1: u8 = 131;
/// ICMPv6 type: a listener leaves, RFC 2710.
pub const DONE_V1: u8 = 132;
/// ICMPv6 type: a listener reports, RFC 3810.
pub const REPORT_V2: u8 = 143;
/// Where version 2 reports go: RFC 3810 §5.2.14.
pub const ALL_ROUTERS_V2: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);
/// A hop-by-hop header with a router alert for MLD and padding: RFC 2711 §2.1, RFC 3810 §5.
pub const ROUTER_ALERT: [u8; 8] = [super::ipv4::IpProtocol::ICMPV6.0, 0, 5, 2, 0, 0, 1, 0];

/// Groups in one report at most: what is reported at once fits a small page.
pub const RECORDS_MAX: usize = 32;
/// The longest message we build.
pub const EMITTED_LEN_MAX: usize = 8 + RECORDS_MAX * RECORD_LEN;
const RECORD_LEN: usize = 20;

/// Why a group is reported: RFC 3810 §5.2.5.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RecordKind {
    /// Asked: we listen to all sources.
    ModeIsExclude = 2,
    /// We listen no longer.
    ChangeToInclude = 3,
    /// We have begun to listen.
    ChangeToExclude = 4,
}

/// A router asks who listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Query {
    /// To which group; `None` to any.
    pub group: Option<Ipv6Addr>,
    /// How long answers may be spread.
    pub max_delay: Duration,
    /// A router of version 1 asks, and wants an answer of that version.
    pub version_1: bool,
}

impl Query {
    /// Reads a whole message, checksum verified.
    ///
    /// # Errors
    /// [`DropReason::PktTooSmall`] for a length that no query has, or more sources than there are bytes;
    /// [`DropReason::IpInvalidDest`] for a group that is none.
    pub fn parse(bytes: &[u8]) -> Result<Query, DropReason> {
        let word = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        // RFC 3810 §8.1: 24 bytes are version 1, at least 28 are version 2.
        let version_1 = match bytes.len() {
            24 => true,
            28.. => false,
            _ => return Err(DropReason::PktTooSmall),
        };
        let group = Ipv6Addr::from(*bytes[8..].first_chunk::<16>().expect("the length was looked at"));
        if !version_1 && 28 + usize::from(word(26)) * 16 > bytes.len() {
            return Err(DropReason::PktTooSmall);
        }
        if !group.is_unspecified() && !group.is_multicast() {
            return Err(DropReason::IpInvalidDest);
        }
        let code = u64::from(word(4));
        // RFC 3810 §5.1.3: from 32768 on a floating-point number.
        let millis = match version_1 || code < 0x8000 {
            true => code,
            false => (code & 0xfff | 0x1000) << ((code >> 12 & 7) + 3),
        };
        Ok(Query {
            group: (!group.is_unspecified()).then_some(group),
            max_delay: Duration::from_millis(millis),
            version_1,
        })
    }
}

/// Writes a version 2 report about `records`, [`RECORDS_MAX`] at most, to the start of `out`; returns its
/// length.
///
/// # Panics
/// When `out` is too short, or there are too many records.
pub fn emit_report(out: &mut [u8], records: &[(RecordKind, Ipv6Addr)], pair: &AddressPair) -> usize {
    assert!(records.len() <= RECORDS_MAX, "more groups than a report holds");
    out[..8].copy_from_slice(&[REPORT_V2, 0, 0, 0, 0, 0, 0, records.len() as u8]);
    let mut len = 8;
    for (kind, group) in records {
        out[len..len + 4].copy_from_slice(&[*kind as u8, 0, 0, 0]);
        out[len + 4..len + RECORD_LEN].copy_from_slice(&proto::zone::without(*group).octets());
        len += RECORD_LEN;
    }
    fill_checksum(&mut out[..len], pair);
    len
}

/// Writes a version 1 report or leave about `group` to the start of `out`; returns its length.
///
/// # Panics
/// When `out` is shorter than 24 bytes.
pub fn emit_v1(out: &mut [u8], leaves: bool, group: Ipv6Addr, pair: &AddressPair) -> usize {
    out[..8].copy_from_slice(&[if leaves { DONE_V1 } else { REPORT_V1 }, 0, 0, 0, 0, 0, 0, 0]);
    out[8..24].copy_from_slice(&proto::zone::without(group).octets());
    fill_checksum(&mut out[..24], pair);
    24
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GROUP: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 9);
    const PAIR: AddressPair = AddressPair::V6 { src: Ipv6Addr::UNSPECIFIED, dst: ALL_ROUTERS_V2 };

    fn query(code: u16, group: Ipv6Addr, sources: u16, len: usize) -> Vec<u8> {
        let mut bytes = vec![QUERY, 0, 0, 0];
        bytes.extend(code.to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(group.octets());
        bytes.extend([2, 125]);
        bytes.extend(sources.to_be_bytes());
        bytes.resize(len, 0);
        bytes
    }

    #[test]
    fn queries_are_read() {
        let parsed = Query::parse(&query(10_000, Ipv6Addr::UNSPECIFIED, 0, 28)).unwrap();
        let expected = Query { group: None, max_delay: Duration::from_secs(10), version_1: false };
        assert_eq!(parsed, expected);
        let old = Query::parse(&query(0xffff, GROUP, 0, 24)).unwrap();
        assert_eq!((old.group, old.version_1), (Some(GROUP), true));
        assert_eq!(old.max_delay, Duration::from_millis(0xffff));
        let float = Query::parse(&query(0x8001, GROUP, 1, 44)).unwrap();
        assert_eq!(float.max_delay, Duration::from_millis(0x1001 << 3));
        for bad in [query(0, GROUP, 1, 43), query(0, GROUP, 0xffff, 60), query(0, GROUP, 0, 27)] {
            assert_eq!(Query::parse(&bad), Err(DropReason::PktTooSmall));
        }
        let bad = query(0, Ipv6Addr::LOCALHOST, 0, 28);
        assert_eq!(Query::parse(&bad), Err(DropReason::IpInvalidDest));
    }

    #[test]
    fn reports_on_the_wire() {
        let mut out = [0; EMITTED_LEN_MAX];
        let len = emit_report(&mut out, &[(RecordKind::ChangeToExclude, GROUP)], &PAIR);
        assert_eq!(len, 28);
        assert_eq!((out[0], out[7], out[8]), (REPORT_V2, 1, 4));
        assert_eq!(out[12..28], GROUP.octets());
        assert_eq!(emit_v1(&mut out, true, GROUP, &PAIR), 24);
        assert_eq!((out[0], &out[8..24]), (DONE_V1, &GROUP.octets()[..]));
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Query::parse(&bytes);
        }
    }
}
