//! Attacks that have a name, and others of their kind: sequences of frames, after each of which the group is
//! what it was and answers.

use super::*;
use std::net::Ipv6Addr;

const STACK_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x82, 0, 0, 0, 0, 2);
const STATION_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x82, 0, 0, 0, 0, 0x77);
const STATION_LINK: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x77);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const IPV6: u16 = 0x86dd;
const ICMPV6: u8 = 58;
const IGMP: u8 = 2;

fn v6(src: Ipv6Addr, dst: Ipv6Addr, next: u8, hops: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((body.len() as u16).to_be_bytes());
    packet.extend([next, hops]);
    packet.extend(src.octets());
    packet.extend(dst.octets());
    packet.extend(body);
    let mac = if dst.is_multicast() { [0x33, 0x33, 0, 0, 0, 1] } else { STACK_MAC };
    frames::ethernet(mac, STATION_MAC, IPV6, &packet)
}

/// An ICMPv6 message with a right checksum.
fn icmpv6(src: Ipv6Addr, dst: Ipv6Addr, hops: u8, kind: u8, code: u8, rest: &[u8]) -> Vec<u8> {
    let mut body = vec![kind, code, 0, 0];
    body.extend(rest);
    let mut sum = u32::from(ICMPV6) + body.len() as u32;
    for bytes in [&src.octets()[..], &dst.octets(), &body] {
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    body[2..4].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    v6(src, dst, ICMPV6, hops, &body)
}

/// One fragment of a packet of IPv4.
fn fragment(ident: u8, offset: usize, more: bool, protocol: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = frames::ipv4(STATION, STACK, protocol, body);
    let field = (offset / 8) as u16 | if more { 0x2000 } else { 0 };
    packet[4..6].copy_from_slice(&[0x66, ident]);
    packet[6..8].copy_from_slice(&field.to_be_bytes());
    frames::seal_ip(&mut packet);
    frames::ethernet(STACK_MAC, STATION_MAC, IPV4, &packet)
}

/// One fragment of a packet of IPv6.
fn fragment_v6(ident: u8, offset: u16, more: bool, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![UDP, 0];
    bytes.extend((offset | u16::from(more)).to_be_bytes());
    bytes.extend([0x66, 0, 0, ident]);
    bytes.extend(body);
    v6(STATION_V6, STACK_V6, 44, 64, &bytes)
}

fn igmp(to: Ipv4Addr, ttl: u8, message: &[u8]) -> Vec<u8> {
    let mut message = message.to_vec();
    message[2..4].fill(0);
    let sealed =
        frames::icmp(message[0], message[1], [message[4], message[5], message[6], message[7]], &message[8..]);
    let mut packet = frames::ipv4(STATION, to, IGMP, &sealed);
    packet[8] = ttl;
    frames::seal_ip(&mut packet);
    let [_, b, c, d] = to.octets();
    frames::ethernet([1, 0, 0x5e, b & 0x7f, c, d], STATION_MAC, IPV4, &packet)
}

/// A router's advertisement with these options.
fn advertisement(options: &[u8]) -> Vec<u8> {
    let mut rest = vec![64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    rest.extend(options);
    icmpv6(STATION_LINK, ALL_NODES, 255, 134, 0, &rest)
}

/// RDNSS (RFC 8106): so many units of 8 bytes as it says, and as it has.
fn rdnss(says: u8, has: usize, lifetime: u32) -> Vec<u8> {
    let mut option = vec![25, says, 0, 0];
    option.extend(lifetime.to_be_bytes());
    option.resize(has * 8, 0xfd);
    option
}

fn segment_from(src: Ipv4Addr, segment: &Segment) -> Vec<u8> {
    let mut packet = frames::ipv4(src, STACK, TCP, &segment.bytes());
    frames::seal_body(&mut packet);
    frames::ethernet(STACK_MAC, STATION_MAC, IPV4, &packet)
}

/// Each with a name.
pub fn attacks() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let land = Segment { ports: (ECHO_PORT, ECHO_PORT), flags: flag::SYN, ..Segment::default() };
    let quoted = |packet: &[u8]| from_station(ICMP, &frames::icmp(3, 4, [0, 0, 0, 0], packet));
    let mut noise = Mutator(StdRng::seed_from_u64(0x0ff1ce));
    let vlan = |depth: usize| {
        let mut body = Vec::new();
        for _ in 0..depth {
            body.extend([0, 1, 0x81, 0]);
        }
        body.extend([0, 1, 8, 0]);
        body.extend(&spoiled(|_| {})[IP_AT..]);
        frames::ethernet(STACK_MAC, STATION_MAC, 0x8100, &body)
    };
    let chain = |kind: u8, count: usize| {
        let mut body = Vec::new();
        for n in 0..count {
            body.extend([if n + 1 == count { UDP } else { kind }, 0, 1, 4, 0, 0, 0, 0]);
        }
        body.extend(frames::udp(1, 2, &[]));
        v6(STATION_V6, STACK_V6, kind, 64, &body)
    };
    let mut long_header = vec![UDP, 31];
    for _ in 0..(256 - 2) / 2 {
        long_header.extend([0x1e, 0]);
    }
    long_header.extend(frames::udp(1, 2, &[]));
    let mut query = vec![130, 0, 0, 0];
    query.truncate(0);
    query.extend([0, 100, 0, 0]);
    query.extend([0; 16]);
    query.extend([2, 125, 0xff, 0xff]);
    vec![
        ("LAND", vec![segment_from(STACK, &land)]),
        ("LAND of a loopback address", vec![segment_from(Ipv4Addr::LOCALHOST, &land)]),
        ("LAND of IPv6", vec![v6(STACK_V6, STACK_V6, TCP, 64, &land.bytes())]),
        ("teardrop", vec![fragment(1, 0, true, UDP, &[7; 48]), fragment(1, 24, false, UDP, &[8; 16])]),
        (
            "a fragment within another",
            vec![fragment(2, 0, true, UDP, &[7; 800]), fragment(2, 80, true, UDP, &[9; 80])],
        ),
        ("ping of death", (0..45).map(|n| fragment(3, n * 1480, n < 44, ICMP, &[1; 1480])).collect()),
        ("the last part far beyond", vec![fragment(4, 65_520, false, ICMP, &[1; 1400])]),
        ("tiny fragments", (0..200).map(|n| fragment(5, n * 8, true, TCP, &[2; 8])).collect()),
        (
            "fragments of packets that never end",
            (0..=255).map(|n| fragment(n, 1480, true, UDP, &[3; 1480])).collect(),
        ),
        (
            "overlapping fragments of IPv6",
            vec![fragment_v6(1, 0, true, &[7; 48]), fragment_v6(1, 40, false, &[8; 16])],
        ),
        ("a fragment of nothing", vec![fragment_v6(2, 0, true, &[]), fragment_v6(3, 8, true, &[1; 7])]),
        ("an atomic fragment of garbage", vec![fragment_v6(4, 0, false, &[0xff; 9])]),
        ("options of no length", vec![with_ip_options(&[7, 0, 0, 0]), with_ip_options(&[68, 0, 5, 0])]),
        (
            "TCP options of no length",
            vec![from_station(
                TCP,
                &Segment { options: vec![2, 0, 3, 0, 8, 0, 1, 1], ..stray(flag::SYN) }.bytes(),
            )],
        ),
        ("destination options, a bomb of them", vec![chain(60, 150)]),
        ("hop-by-hop options, again and again", vec![chain(0, 100)]),
        ("routing headers, a bomb of them", vec![chain(43, 100)]),
        ("a header full of unknown options", vec![v6(STATION_V6, STACK_V6, 60, 64, &long_header)]),
        (
            "name servers of odd lengths",
            [(0, 1), (1, 1), (2, 2), (3, 1), (4, 5), (200, 3), (255, 3)]
                .into_iter()
                .map(|(says, has)| advertisement(&rdnss(says, has, 600)))
                .collect(),
        ),
        (
            "a name server in a second that is gone",
            vec![advertisement(&rdnss(3, 3, 0)), advertisement(&rdnss(3, 3, u32::MAX))],
        ),
        ("errors that quote garbage", (0..40).map(|_| quoted(&noise.noise()[14..])).collect()),
        ("errors that quote errors", vec![quoted(&quoted(&quoted(&[])[IP_AT..])[IP_AT..])]),
        (
            "errors of IPv6 that quote garbage",
            (0..40)
                .map(|n| {
                    let quote: Vec<u8> = [&[0, 0, 5, 0][..], &noise.noise()[14..]].concat();
                    icmpv6(STATION_V6, STACK_V6, 64, n % 5, n, &quote)
                })
                .collect(),
        ),
        ("a path of no size", vec![quoted(&frames::ipv4(STACK, STATION, TCP, &land.bytes()))]),
        ("tags in tags", [1, 2, 8, 100].into_iter().map(vlan).collect()),
        ("a tag and nothing behind it", vec![frames::ethernet(STACK_MAC, STATION_MAC, 0x8100, &[0, 1])]),
        ("runts", (14..60).map(|len| spoiled(|_| {})[..len].to_vec()).collect()),
        (
            "queries with more sources than bytes",
            [1u8, 4, 255]
                .into_iter()
                .map(|count| {
                    let message =
                        [&[0x11, 10, 0, 0, 0, 0, 0, 0, 2, 125, count, count][..], &[10, 0, 0, 1]].concat();
                    igmp(Ipv4Addr::new(224, 0, 0, 1), 1, &message)
                })
                .collect(),
        ),
        (
            "queries of MLD with more sources than bytes",
            vec![icmpv6(STATION_LINK, ALL_NODES, 1, 130, 0, &query)],
        ),
        (
            "queries about groups that are none",
            vec![
                igmp(Ipv4Addr::new(224, 0, 0, 1), 1, &[0x11, 10, 0, 0, 10, 0, 0, 1]),
                igmp(Ipv4Addr::new(224, 0, 0, 1), 9, &[0x11, 10, 0, 0, 0, 0, 0, 0]),
                igmp(Ipv4Addr::new(224, 0, 0, 22), 1, &[0x22, 0, 0, 0, 0, 0, 0xff, 0xff]),
            ],
        ),
        (
            "an urgent pointer past the data",
            vec![from_station(TCP, &{
                let mut bytes = stray(flag::ACK | flag::URG).bytes();
                bytes[18..20].fill(0xff);
                bytes
            })],
        ),
        (
            "options that go on past the header",
            vec![
                with_ip_options(&[7, 39, 4, 0]),
                with_ip_options(&[131, 255, 4, 0]),
                from_station(TCP, &Segment { options: vec![2, 40, 5, 180], ..stray(flag::SYN) }.bytes()),
                from_station(TCP, &{
                    let mut bytes = stray(flag::SYN).bytes();
                    bytes[12] = 0xf0;
                    bytes
                }),
            ],
        ),
        (
            "SACKs of no length, of odd ones, and too many",
            [0u8, 1, 2, 3, 9, 11, 34, 40, 255]
                .into_iter()
                .map(|says| {
                    let options = [&[1, 1, 5, says], &[0xff; 36][..]].concat();
                    from_station(TCP, &Segment { options, ..stray(flag::ACK) }.bytes())
                })
                .collect(),
        ),
        (
            "a lie about every length",
            vec![spoiled(|p| p[0] = 0x4f), spoiled(|p| p[2..4].fill(0xff)), spoiled(|p| p[2..4].fill(0))],
        ),
    ]
}

/// What the stack said during an attack.
struct Replies {
    frames: Vec<Vec<u8>>,
}

impl Replies {
    fn heard(ears: &RawLink) -> Replies {
        let mut frames = ears.heard().expect("a packet socket");
        frames.retain(|frame| frame.get(6..12) == Some(&STACK_MAC[..]));
        Replies { frames }
    }

    /// No more frames and no more bytes than came in, but for the headers around what is quoted, and for a few
    /// questions of the stack's own.
    fn assert_no_amplification(&self, name: &str, attack: &[Vec<u8>]) {
        // Ethernet's least, and an IPv6 header with that of ICMPv6 around a quote.
        const AROUND: usize = 48;
        const QUESTIONS: usize = 8;
        let came: usize = attack.iter().map(|frame| frame.len().max(60) + AROUND).sum();
        let left: usize = self.frames.iter().map(Vec::len).sum();
        assert!(self.frames.len() <= attack.len() + QUESTIONS, "{name}: {} frames", self.frames.len());
        assert!(left <= came + QUESTIONS * 128, "{name}: {came} bytes came, {left} left");
    }

    /// Every byte is of a header, or of what was sent before.
    fn assert_no_foreign_bytes(&self, name: &str, attack: &[Vec<u8>]) {
        for frame in &self.frames {
            if let Some(foreign) = foreign_bytes(frame, attack) {
                panic!("{name}: {foreign} in {frame:02x?}");
            }
        }
    }
}

/// Why a frame has bytes that are nobody's business.
fn foreign_bytes(frame: &[u8], attack: &[Vec<u8>]) -> Option<&'static str> {
    let quoted =
        |quote: &[u8]| attack.iter().any(|sent| sent.get(14..).is_some_and(|p| p.starts_with(quote)));
    let word = |at: usize| usize::from(u16::from_be_bytes([frame[at], frame[at + 1]]));
    let (end, protocol, body) = match frame.get(12..14)? {
        [8, 6] => (42, 0, 42),
        [8, 0] => (14 + word(16), frame[23], 14 + usize::from(frame[14] & 0xf) * 4),
        // A report of MLD has hop-by-hop options in front.
        [0x86, 0xdd] if frame[20] == 0 => (54 + word(18), frame[54], 62),
        [0x86, 0xdd] => (54 + word(18), frame[20], 54),
        _ => return Some("an unknown type"),
    };
    if frame.len() < end || frame[end..].iter().any(|byte| *byte != 0) {
        return Some("padding");
    }
    let body = &frame[body..end];
    match (protocol, body) {
        (0, []) => None,
        // Errors quote; RFC 4884's extensions are not sent.
        (ICMP, [3 | 11 | 12, _, _, _, _, _, _, _, quote @ ..]) => (!quoted(quote)).then_some("a quote"),
        (ICMPV6, [1..=4, _, _, _, _, _, _, _, quote @ ..]) => (!quoted(quote)).then_some("a quote"),
        // Solicitations and advertisements of neighbours: one option, a link address.
        (ICMPV6, [135 | 136, ..]) if body.len() == 24 || body.len() == 32 && body[25] == 1 => None,
        // Reports of groups: a record each.
        (ICMPV6, [143, ..]) if body.len() == 8 + 20 * usize::from(body[7]) => None,
        (IGMP, [0x22, ..]) if body.len() == 8 + 8 * usize::from(body[7]) => None,
        (IGMP, [0x12 | 0x16, ..]) if body.len() == 8 => None,
        // Of TCP headers alone: resets, challenges, and SYN-ACKs of the echo server's port.
        (TCP, [..]) if body.len() >= 20 && body.len() == usize::from(body[12] >> 4) * 4 => None,
        _ => Some("a message that nobody asked for"),
    }
}

/// After each attack: the same processes, as much memory, an echo of each family; and what was said meanwhile is
/// neither more than what came nor anything else.
#[test]
fn attacks_by_name() {
    private_net::test("attacks::attacks_by_name", || {
        let bench = Bench::set_up_with(&format!(",{STACK_V6}/64"));
        let alive = icmpv6(STATION_V6, STACK_V6, 64, 128, 0, &[0, 1, 0, 2, b'?']);
        let neighbour = [&STATION_V6.octets()[..], &[2, 1], &STATION_MAC].concat();
        let known = icmpv6(STATION_V6, STACK_V6, 255, 136, 0, &[&[0x60, 0, 0, 0][..], &neighbour].concat());
        let answers_v6 = || {
            let ears = RawLink::open_both_ways(NIC).expect("a packet socket on our own interface");
            bench.link.send(&alive).expect("the interface is up");
            // It asks who we are first.
            bench.link.send(&known).expect("the interface is up");
            ears.receive(Duration::from_millis(500), |frame| {
                let reply = frame.get(12..14)? == IPV6.to_be_bytes() && frame.get(20)? == &ICMPV6;
                (reply && frame.get(54)? == &129).then_some(())
            })
            .is_ok()
        };
        assert!(wait_until(PATIENCE, answers_v6), "before");
        let mut memory = None;
        for (name, frames) in attacks() {
            bench.settle();
            let ears = RawLink::open_both_ways(NIC).expect("a packet socket on our own interface");
            for (n, frame) in frames.iter().enumerate() {
                bench.link.send(frame).expect("the interface is up");
                if n % 100 == 99 {
                    bench.settle();
                }
            }
            bench.settle();
            let replies = Replies::heard(&ears);
            println!("{name}: {} frames, {} replies", frames.len(), replies.frames.len());
            replies.assert_no_amplification(name, &frames);
            replies.assert_no_foreign_bytes(name, &frames);
            assert_eq!(identities(&bench.group), bench.before, "{name}");
            assert!(wait_until(PATIENCE, answers_v6), "{name}: no echo of IPv6");
            bench.assert_unharmed();
            let now = bench.pss_kib();
            let before = *memory.get_or_insert(now);
            assert!(now < before + 2048, "{name}: {before} KiB have become {now}");
        }
    });
}
