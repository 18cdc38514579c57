//! The Internet Group Management Protocol in its three versions, a host's side: RFC 3376, RFC 2236,
//! RFC 1112 appendix I.
//!
//! ```text
//! query   0 type │ 1 max resp │ 2 checksum │ 4 group │ version 3: 8 flags │ 9 QQIC │ 10 sources │ 12 …
//! report  0 type │ 1 – │ 2 checksum │ 4 –, 6 records │ 8 record: type │ – │ sources │ group │ sources …
//! ```

use super::checksum::Sum;
use super::drop_reason::DropReason;
use super::membership::{Query, RecordKind, Report, Version};
use core::net::{IpAddr, Ipv4Addr};
use core::time::Duration;

const QUERY: u8 = 0x11;
const REPORT_V1: u8 = 0x12;
const REPORT_V2: u8 = 0x16;
const LEAVE_V2: u8 = 0x17;
const REPORT_V3: u8 = 0x22;

/// Length of messages of versions 1 and 2, and of the beginning of a report of version 3.
const SHORT_LEN: usize = 8;
/// Length of a query of version 3 without sources.
const QUERY_LEN: usize = 12;

/// All routers of the link: RFC 2236 §3, where leaving is told.
pub const ALL_ROUTERS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 2);
/// Where reports of version 3 go: RFC 3376 §4.2.14.
pub const ALL_ROUTERS_V3: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 22);
/// All hosts of the link: RFC 1112 §4.
pub const ALL_HOSTS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 1);
/// Bytes of one message of ours at most; with its headers it fits every Ethernet.
pub const MESSAGE_MAX: usize = 1400;

/// The longest message that is looked at: a query fits one Ethernet frame.
pub const RECEIVED_MAX: usize = 1500;

/// What a router or another host says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IgmpMessage {
    /// A router asks.
    Query(Query),
    /// Another host listens to a group, in an older version.
    Listens(Ipv4Addr),
    /// Something for routers alone.
    ForRouters,
}

impl IgmpMessage {
    /// Reads a whole message and verifies its checksum.
    ///
    /// # Errors
    /// [`DropReason::PktTooSmall`] for one that ends too early or has fewer sources than it says;
    /// [`DropReason::IgmpCsum`]; [`DropReason::IgmpInvalid`] for a group that is none;
    /// [`DropReason::IcmpUnhandled`] for an unknown type.
    pub fn parse(bytes: &[u8]) -> Result<IgmpMessage, DropReason> {
        if bytes.len() < SHORT_LEN {
            return Err(DropReason::PktTooSmall);
        }
        if !Sum::of(bytes).is_valid() {
            return Err(DropReason::IgmpCsum);
        }
        let addr = |at: usize| Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]);
        let group = addr(4);
        match bytes[0] {
            QUERY => {
                if !group.is_unspecified() && !group.is_multicast() {
                    return Err(DropReason::IgmpInvalid);
                }
                // RFC 3376 §7.1: the version is told by the length, and by the time to answer in.
                let (version, sources) = match (bytes.len(), bytes[1]) {
                    (SHORT_LEN, 0) => (Version::First, 0),
                    (SHORT_LEN, _) => (Version::Older, 0),
                    (QUERY_LEN.., _) => {
                        (Version::Newest, usize::from(u16::from_be_bytes([bytes[10], bytes[11]])))
                    }
                    _ => return Err(DropReason::PktTooSmall),
                };
                if version == Version::Newest && QUERY_LEN + sources * 4 > bytes.len() {
                    return Err(DropReason::PktTooSmall);
                }
                let source = |n: usize| IpAddr::V4(addr(QUERY_LEN + n * 4));
                Ok(IgmpMessage::Query(Query {
                    group: (!group.is_unspecified()).then_some(IpAddr::V4(group)),
                    sources: (0..sources).map(source).collect(),
                    max_delay: max_delay(bytes[1], version),
                    version,
                }))
            }
            REPORT_V1 | REPORT_V2 if group.is_multicast() => Ok(IgmpMessage::Listens(group)),
            REPORT_V1 | REPORT_V2 => Err(DropReason::IgmpInvalid),
            LEAVE_V2 | REPORT_V3 => Ok(IgmpMessage::ForRouters),
            _ => Err(DropReason::IcmpUnhandled),
        }
    }
}

/// RFC 3376 §4.1.1: tenths of a second, from 128 on a floating-point number; version 1 means 10 seconds
/// (RFC 2236 §4).
fn max_delay(code: u8, version: Version) -> Duration {
    let tenths = match version {
        Version::First => 100,
        Version::Newest if code >= 128 => (u64::from(code & 0xf) | 0x10) << ((code >> 4 & 7) + 3),
        _ => u64::from(code),
    };
    Duration::from_millis(tenths * 100)
}

/// Writes a report or a leave of version 1 or 2 to the start of `out`; returns its length.
pub fn emit_older(out: &mut [u8], report: &Report) -> usize {
    let kind = match (report.kind, report.version) {
        (RecordKind::ChangeToInclude, _) => LEAVE_V2,
        (_, Version::First) => REPORT_V1,
        _ => REPORT_V2,
    };
    out[..4].copy_from_slice(&[kind, 0, 0, 0]);
    if let IpAddr::V4(group) = report.group {
        out[4..SHORT_LEN].copy_from_slice(&group.octets());
    }
    fill_checksum(&mut out[..SHORT_LEN]);
    SHORT_LEN
}

/// Writes a report of version 3 of as many `reports` as fit [`MESSAGE_MAX`] to `out`; returns its length and
/// how many reports it holds. A list of sources that is too long is cut (RFC 3376 §4.2.16).
pub fn emit_report(out: &mut [u8; MESSAGE_MAX], reports: &[Report]) -> (usize, usize) {
    const RECORD: usize = 8;
    let (mut len, mut held) = (SHORT_LEN, 0);
    for report in reports {
        let room = (MESSAGE_MAX - len).saturating_sub(RECORD) / 4;
        if MESSAGE_MAX - len < RECORD || (room < report.sources.len() && held > 0) {
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
            if let IpAddr::V4(addr) = addr {
                out[len + 4 + n * 4..len + 8 + n * 4].copy_from_slice(&addr.octets());
            }
        }
        len += RECORD + sources.len() * 4;
        held += 1;
    }
    out[..SHORT_LEN].copy_from_slice(&[REPORT_V3, 0, 0, 0, 0, 0, (held >> 8) as u8, held as u8]);
    fill_checksum(&mut out[..len]);
    (len, held)
}

fn fill_checksum(message: &mut [u8]) {
    message[2..4].fill(0);
    let field = Sum::of(message).field();
    message[2..4].copy_from_slice(&field.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GROUP: Ipv4Addr = Ipv4Addr::new(239, 1, 2, 3);

    fn query(code: u8, group: Ipv4Addr, sources: u16, len: usize) -> Vec<u8> {
        let mut bytes = vec![QUERY, code, 0, 0];
        bytes.extend(group.octets());
        bytes.extend([2, 125]);
        bytes.extend(sources.to_be_bytes());
        bytes.resize(len, 0);
        fill_checksum(&mut bytes);
        bytes
    }

    fn delay_of(bytes: &[u8]) -> (Duration, Version) {
        match IgmpMessage::parse(bytes) {
            Ok(IgmpMessage::Query(query)) => (query.max_delay, query.version),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn queries_of_all_versions_are_read() {
        let any = Ipv4Addr::UNSPECIFIED;
        assert_eq!(delay_of(&query(0, any, 0, 8)), (Duration::from_secs(10), Version::First));
        assert_eq!(delay_of(&query(10, GROUP, 0, 8)), (Duration::from_secs(1), Version::Older));
        assert_eq!(delay_of(&query(100, any, 0, 12)), (Duration::from_secs(10), Version::Newest));
        assert_eq!(delay_of(&query(0x8a, any, 0, 12)).0, Duration::from_millis(0x1a * 8 * 100));
        let bytes = query(1, GROUP, 2, 20);
        let Ok(IgmpMessage::Query(parsed)) = IgmpMessage::parse(&bytes) else { panic!("a query") };
        assert_eq!((parsed.group, parsed.sources.len()), (Some(IpAddr::V4(GROUP)), 2));
        for bad in [query(1, GROUP, 3, 20), query(1, GROUP, 0xffff, 60), query(1, GROUP, 0, 10)] {
            assert_eq!(IgmpMessage::parse(&bad), Err(DropReason::PktTooSmall));
        }
        let bad = query(1, Ipv4Addr::LOCALHOST, 0, 12);
        assert_eq!(IgmpMessage::parse(&bad), Err(DropReason::IgmpInvalid));
        let mut bad = query(1, GROUP, 0, 12);
        bad[3] ^= 1;
        assert_eq!(IgmpMessage::parse(&bad), Err(DropReason::IgmpCsum));
    }

    #[test]
    fn reports_on_the_wire() {
        let source = |n: u32| IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + n));
        let report = |sources: u32| Report {
            kind: RecordKind::AllowNewSources,
            group: IpAddr::V4(GROUP),
            sources: (0..sources).map(source).collect(),
            version: Version::Newest,
        };
        let mut out = [0; MESSAGE_MAX];
        assert_eq!(emit_report(&mut out, &[report(2), report(0)]), (8 + 16 + 8, 2));
        assert_eq!(out[..8], [REPORT_V3, 0, out[2], out[3], 0, 0, 0, 2]);
        assert_eq!(out[8..12], [5, 0, 0, 2]);
        assert_eq!(out[12..24], [239, 1, 2, 3, 10, 0, 0, 0, 10, 0, 0, 1]);
        assert!(Sum::of(&out[..32]).is_valid());
        let many = [report(300), report(300)];
        assert_eq!(emit_report(&mut out, &many), (8 + 8 + 1200, 1), "the second goes with the next");
        assert_eq!(emit_report(&mut out, &[report(1000)]), (MESSAGE_MAX, 1), "cut");
        let leave = Report { kind: RecordKind::ChangeToInclude, version: Version::Older, ..report(0) };
        assert_eq!(emit_older(&mut out, &leave), 8);
        assert_eq!((out[0], &out[4..8]), (LEAVE_V2, &GROUP.octets()[..]));
        let old = Report { kind: RecordKind::ModeIsExclude, version: Version::First, ..report(0) };
        emit_older(&mut out, &old);
        assert_eq!(IgmpMessage::parse(&out[..8]), Ok(IgmpMessage::Listens(GROUP)));
    }

    proptest! {
        #[test]
        fn nothing_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..200), sums in any::<bool>()) {
            if sums && bytes.len() >= 4 {
                fill_checksum(&mut bytes);
            }
            let _ = IgmpMessage::parse(&bytes);
        }
    }
}
