//! IPv6 frames that somebody made to do harm: sound ones of every kind, then with bytes changed, cut, put
//! into extension headers and fragments, with right checksums so that they are looked at.

use super::rig::{Plan, Rig, interface};
use crate::wire::address::AddressPair;
use crate::wire::icmpv6::fill_checksum;
use proptest::prelude::*;
use std::net::Ipv6Addr;
use std::time::Duration;

const US: &str = "2001:db8::1";

fn v6(text: &str) -> Ipv6Addr {
    text.parse().expect("an address")
}

/// A frame to us with `payload` behind headers of these fields.
fn frame(src: &str, dst: &str, next: u8, hops: u8, payload: &[u8]) -> Vec<u8> {
    let (src, dst) = (v6(src), v6(dst));
    let mac = if dst.is_multicast() { [0x33, 0x33, 0, 0, 0, 1] } else { [2, 0, 0, 0, 0, 1] };
    let mut frame = mac.to_vec();
    frame.extend([2, 0, 0, 0, 0, 9, 0x86, 0xdd, 0x60, 0, 0, 0]);
    frame.extend((payload.len() as u16).to_be_bytes());
    frame.extend([next, hops]);
    frame.extend(src.octets());
    frame.extend(dst.octets());
    frame.extend(payload);
    frame
}

/// Bodies of ICMPv6 messages, and what else a host hears.
fn kinds() -> Vec<(u8, u8, &'static str, Vec<u8>)> {
    let with = |start: &[u8], addrs: &[&str], rest: &[u8]| {
        let mut bytes = start.to_vec();
        addrs.iter().for_each(|addr| bytes.extend(v6(addr).octets()));
        bytes.extend(rest);
        bytes
    };
    let option = [2, 1, 2, 0, 0, 0, 0, 9];
    let prefix = with(
        &[3, 4, 64, 0xc0, 0, 0, 9, 9, 0, 0, 8, 8, 0, 0, 0, 0],
        &["2001:db8:5::"],
        &[5, 1, 0, 0, 0, 0, 5, 0],
    );
    let advertisement = [&[134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0][..], &prefix].concat();
    let mut quoted = frame(US, "2001:db8::9", 6, 64, &[0, 80, 0, 81, 0, 0, 0, 1, 0, 0, 0, 0])[14..].to_vec();
    quoted.extend([0; 30]);
    vec![
        (58, 255, "fe80::9", with(&[135, 0, 0, 0, 0, 0, 0, 0], &[US], &[1, 1, 2, 0, 0, 0, 0, 9])),
        (58, 255, "fe80::9", with(&[136, 0, 0, 0, 0x60, 0, 0, 0], &["fe80::9"], &option)),
        (58, 255, "fe80::9", advertisement),
        (58, 255, "fe80::9", with(&[137, 0, 0, 0, 0, 0, 0, 0], &["fe80::8", "2001:db8:7::1"], &option)),
        (58, 1, "fe80::9", with(&[130, 0, 0, 0, 0, 9, 0, 0], &["::"], &[2, 125, 0, 0])),
        (58, 64, "2001:db8::9", with(&[128, 0, 0, 0, 0, 1, 0, 2], &[], &[7; 40])),
        (58, 64, "2001:db8::9", [&[1, 4, 0, 0, 0, 0, 0, 0][..], &quoted].concat()),
        (58, 64, "2001:db8::9", [&[2, 0, 0, 0, 0, 0, 5, 0][..], &quoted].concat()),
        (17, 64, "2001:db8::9", vec![0, 80, 0, 81, 0, 16, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]),
        (
            6,
            64,
            "2001:db8::9",
            [&[0, 80, 0, 81, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 1, 0][..], &[0; 4]].concat(),
        ),
    ]
}

/// What is done to a sound frame.
#[derive(Debug, Clone)]
struct Harm {
    kind: prop::sample::Index,
    to_group: bool,
    bytes: Vec<(prop::sample::Index, u8)>,
    headers: Vec<u8>,
    cut: Option<prop::sample::Index>,
    fix_checksum: bool,
    late: u64,
}

fn harm() -> impl Strategy<Value = Harm> {
    let header = prop::sample::select(vec![0u8, 43, 44, 44, 60, 60, 59, 135]);
    (
        any::<prop::sample::Index>(),
        any::<bool>(),
        prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        prop::collection::vec(header, 0..3),
        prop::option::weighted(0.2, any::<prop::sample::Index>()),
        prop::bool::weighted(0.9),
        0u64..40_000,
    )
        .prop_map(|(kind, to_group, bytes, headers, cut, fix_checksum, late)| Harm {
            kind,
            to_group,
            bytes,
            headers,
            cut,
            fix_checksum,
            late,
        })
}

fn harmed(harm: &Harm) -> Vec<u8> {
    let all = kinds();
    let (next, hops, src, mut body) = all[harm.kind.index(all.len())].clone();
    let dst = if harm.to_group { "ff02::1" } else { US };
    for (at, byte) in &harm.bytes {
        let at = at.index(body.len());
        body[at] = *byte;
    }
    if harm.fix_checksum && next == 58 {
        fill_checksum(&mut body, &AddressPair::V6 { src: v6(src), dst: v6(dst) });
    }
    let mut next = next;
    for (n, header) in harm.headers.iter().enumerate() {
        // Of fragments the places differ, so that some of them fit together.
        let place = if *header == 44 { [0, (n * 8) as u8 | (harm.late as u8 & 9)] } else { [1, 4] };
        let mut behind = vec![next, 0, place[0], place[1], 0, 0, 0, 7];
        behind.extend(&body);
        (body, next) = (behind, *header);
    }
    let mut frame = frame(src, dst, next, hops, &body);
    if let Some(cut) = &harm.cut {
        frame.truncate(cut.index(frame.len()).max(1));
    }
    frame
}

proptest! {
    #[test]
    fn nothing_panics_and_no_page_is_lost(harms in prop::collection::vec(harm(), 1..60)) {
        let mut config = interface(1, &[US, "fe80::1", "10.0.0.1"]);
        config.slaac = true;
        let mut host = Rig::new(Plan { interfaces: vec![config], ..Plan::new(1, "10.0.0.1") });
        for harm in &harms {
            host.now = host.now + Duration::from_millis(harm.late);
            host.receive(0, &harmed(harm));
            host.settle();
            for (_, frame) in host.sent() {
                // RFC 4443 §2.4 (c): no answer is longer than the minimum MTU, or than what it answers.
                prop_assert!(frame.len() <= 14 + 1280);
            }
        }
        // When all that waits has been given up, nothing holds a page.
        for _ in 0..200 {
            host.now = host.now + Duration::from_secs(1);
            host.settle();
            host.sent();
        }
        prop_assert_eq!(host.pools[0].in_use(), 0);
    }
}
