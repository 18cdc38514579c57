//! Multicast listener discovery: queries of both versions, and the reports of a host (RFC 3810 §5,
//! RFC 2710 §3).

use core::net::{IpAddr, Ipv6Addr};
use core::time::Duration;

use super::address::AddressPair;
use super::drop_reason::DropReason;
use super::icmpv6::fill_checksum;
use super::membership::{Query, RecordKind, Report, Version};

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

/// Bytes of one message of ours at most: with its headers it fits the smallest link (RFC 8200 §5).
pub const MESSAGE_MAX: usize = 1200;
const RECORD_LEN: usize = 20;
const BEGINNING: usize = 8;

/// Reads a whole query, checksum verified.
///
/// # Errors
/// [`DropReason::PktTooSmall`] for a length that no query has, or more sources than there are bytes;
/// [`DropReason::IpInvalidDest`] for a group that is none.
pub fn parse_query(bytes: &[u8]) -> Result<Query, DropReason> {
    const SOURCES_AT: usize = 28;
    let word = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    // RFC 3810 §8.1: 24 bytes are version 1, at least 28 are version 2.
    let (version, sources) = match bytes.len() {
        24 => (Version::Older, 0),
        SOURCES_AT.. => (Version::Newest, usize::from(word(26))),
        _ => return Err(DropReason::PktTooSmall),
    };
    if SOURCES_AT + sources * 16 > bytes.len() && version == Version::Newest {
        return Err(DropReason::PktTooSmall);
    }
    let addr =
        |at: usize| Ipv6Addr::from(*bytes[at..].first_chunk::<16>().expect("the length was looked at"));
    let group = addr(8);
    if !group.is_unspecified() && !group.is_multicast() {
        return Err(DropReason::IpInvalidDest);
    }
    let code = u64::from(word(4));
    // RFC 3810 §5.1.3: from 32768 on a floating-point number.
    let millis = match version == Version::Older || code < 0x8000 {
        true => code,
        false => (code & 0xfff | 0x1000) << ((code >> 12 & 7) + 3),
    };
    Ok(Query {
        group: (!group.is_unspecified()).then_some(IpAddr::V6(group)),
        sources: (0..sources).map(|n| IpAddr::V6(addr(SOURCES_AT + n * 16))).collect(),
        max_delay: Duration::from_millis(millis),
        version,
    })
}

/// Writes a version 2 report of as many `reports` as fit [`MESSAGE_MAX`] to `out`; returns its length and how
/// many reports it holds. A list of sources that is too long is cut (RFC 3810 §5.2.15).
pub fn emit_report(out: &mut [u8; MESSAGE_MAX], reports: &[Report], pair: &AddressPair) -> (usize, usize) {
    let (mut len, mut held) = (BEGINNING, 0);
    for report in reports {
        let room = (MESSAGE_MAX - len).saturating_sub(RECORD_LEN) / 16;
        if MESSAGE_MAX - len < RECORD_LEN || (room < report.sources.len() && held > 0) {
            break;
        }
        let sources = &report.sources[..report.sources.len().min(room)];
        out[len..len + 4].copy_from_slice(&[
            report.kind as u8,
            0,
            (sources.len() >> 8) as u8,
            sources.len() as u8,
        ]);
        for (n, addr) in core::iter::once(&report.group).chain(sources).enumerate() {
            if let IpAddr::V6(addr) = addr {
                out[len + 4 + n * 16..len + 20 + n * 16]
                    .copy_from_slice(&proto::zone::without(*addr).octets());
            }
        }
        len += RECORD_LEN + sources.len() * 16;
        held += 1;
    }
    out[..BEGINNING].copy_from_slice(&[REPORT_V2, 0, 0, 0, 0, 0, (held >> 8) as u8, held as u8]);
    fill_checksum(&mut out[..len], pair);
    (len, held)
}

/// Writes a version 1 report or leave to the start of `out`; returns its length.
///
/// # Panics
/// When `out` is shorter than 24 bytes.
pub fn emit_v1(out: &mut [u8], report: &Report, pair: &AddressPair) -> usize {
    let leaves = report.kind == RecordKind::ChangeToInclude;
    out[..8].copy_from_slice(&[if leaves { DONE_V1 } else { REPORT_V1 }, 0, 0, 0, 0, 0, 0, 0]);
    if let IpAddr::V6(group) = report.group {
        out[8..24].copy_from_slice(&proto::zone::without(group).octets());
    }
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
        let parsed = parse_query(&query(10_000, Ipv6Addr::UNSPECIFIED, 0, 28)).unwrap();
        assert_eq!((parsed.group, parsed.max_delay), (None, Duration::from_secs(10)));
        assert_eq!(parsed.version, Version::Newest);
        let old = parse_query(&query(0xffff, GROUP, 0, 24)).unwrap();
        assert_eq!((old.group, old.version), (Some(IpAddr::V6(GROUP)), Version::Older));
        assert_eq!(old.max_delay, Duration::from_millis(0xffff));
        let float = parse_query(&query(0x8001, GROUP, 1, 44)).unwrap();
        assert_eq!(float.max_delay, Duration::from_millis(0x1001 << 3));
        assert_eq!(float.sources.len(), 1);
        for bad in [query(0, GROUP, 1, 43), query(0, GROUP, 0xffff, 60), query(0, GROUP, 0, 27)] {
            assert_eq!(parse_query(&bad), Err(DropReason::PktTooSmall));
        }
        let bad = query(0, Ipv6Addr::LOCALHOST, 0, 28);
        assert_eq!(parse_query(&bad), Err(DropReason::IpInvalidDest));
    }

    #[test]
    fn reports_on_the_wire() {
        let source = |n: u128| IpAddr::V6(Ipv6Addr::from_bits(0x2001_0db8 << 96 | n));
        let report = |sources: u128| Report {
            kind: RecordKind::ChangeToExclude,
            group: IpAddr::V6(GROUP),
            sources: (0..sources).map(source).collect(),
            version: Version::Newest,
        };
        let mut out = [0; MESSAGE_MAX];
        assert_eq!(emit_report(&mut out, &[report(1), report(0)], &PAIR), (8 + 36 + 20, 2));
        assert_eq!((out[0], out[7], out[8], out[11]), (REPORT_V2, 2, 4, 1));
        assert_eq!(out[12..28], GROUP.octets());
        assert_eq!(emit_report(&mut out, &[report(60), report(60)], &PAIR).1, 1);
        assert_eq!(emit_report(&mut out, &[report(200)], &PAIR).1, 1, "cut");
        let leave = Report { kind: RecordKind::ChangeToInclude, ..report(0) };
        assert_eq!(emit_v1(&mut out, &leave, &PAIR), 24);
        assert_eq!((out[0], &out[8..24]), (DONE_V1, &GROUP.octets()[..]));
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_query(&bytes);
        }
    }
}
