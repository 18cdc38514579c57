//! Which shard a frame is for: receive-side scaling, the same in nicd, netd, sockd and the clients.
//!
//! The hash is Toeplitz's over the two ends of a flow, with a key that repeats after 16 bits: then both
//! directions of a flow have one hash (Woo and Park, "Scalable TCP Session Monitoring with Symmetric
//! Receive-side Scaling"), so that whoever knows both ends, on whatever side, knows the shard; and what a
//! host says to itself stays in one shard. The low seven bits select an entry of a table of 128, as the
//! cards do it (Intel 82576 data sheet §7.1.2.10); entry `n` is shard `n` modulo the number of shards.
//!
//! The key is no secret. Who chooses its ends so that they meet in one shard loads that shard and
//! harms nobody else; tables are hashed under keys of their own.
//!
//! ```text
//! TCP, UDP                          both addresses, both ports
//! fragments, other protocols        both addresses
//! an ICMP error                     as the packet that it quotes
//! ARP, neighbour discovery, MLD     every shard; one of them answers
//! what can't be read                the shard of the bytes that can: it is dropped and counted there
//! ```

use crate::zone;
use core::net::{IpAddr, SocketAddr};

/// Bytes from a frame's start that are enough to say: link header, IP header with options, and the same
/// of a quoted packet with its ports.
pub const HEAD: usize = 192;

/// The repeated half of the key: Woo and Park §4.
const KEY: u16 = 0x6d5a;
/// Entries of the table; the low bits of the hash select one.
pub const ENTRIES: u16 = 128;

/// The key as cards want it (Intel 82576 data sheet §7.1.2.10, VIRTIO 1.2 §5.1.6.5.7).
pub const CARD_KEY: [u8; 40] = {
    let (pair, mut key, mut n) = (KEY.to_be_bytes(), [0; 40], 0);
    while n < key.len() {
        key[n] = pair[n % 2];
        n += 1;
    }
    key
};

/// IEEE 802.3: the type stands behind two addresses.
const TYPE_AT: usize = 12;
const LINK_LEN: usize = 14;
const IPV4: u16 = 0x0800;
/// IEEE 802.1Q §9.6: before the type of what is tagged.
const VLAN: u16 = 0x8100;
const TAG_LEN: usize = 4;
const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
/// RFC 8200 §4: extension headers that may stand before the transport header.
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;
/// Extension headers that are looked through; who sends more gets hashed by its addresses.
const EXTENSIONS_MAX: usize = 4;

/// Whom a frame is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum For {
    /// This shard.
    Shard(u16),
    /// All: it says something of the link that every shard must know.
    Every,
}

/// How flows are spread over the shards of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Steering {
    shards: u16,
}

impl Steering {
    /// Over that many shards; at least one.
    ///
    /// # Panics
    /// When there is none.
    pub const fn new(shards: u16) -> Steering {
        assert!(shards > 0, "a group has a shard");
        Steering { shards }
    }

    /// Number of shards.
    pub const fn shards(self) -> u16 {
        self.shards
    }

    /// The shard of a flow; the same whichever end comes first. An IPv4 address and the same one mapped
    /// into IPv6 are one.
    pub fn flow(self, one: SocketAddr, other: SocketAddr) -> u16 {
        self.select(fold_ip(one.ip()) ^ fold_ip(other.ip()) ^ one.port() ^ other.port())
    }

    /// The shard of what has no ports.
    pub fn pair(self, one: IpAddr, other: IpAddr) -> u16 {
        self.select(fold_ip(one) ^ fold_ip(other))
    }

    /// Whom a frame is for, of which `head` is the beginning ([`HEAD`] bytes, or all).
    pub fn frame(self, head: &[u8]) -> For {
        if self.shards == 1 {
            return For::Shard(0);
        }
        // What lies within one tag is steered as without it.
        let tagged = if half(head, TYPE_AT) == Some(VLAN) { TAG_LEN } else { 0 };
        let packet = head.get(LINK_LEN + tagged..).unwrap_or(&[]);
        let folded = match half(head, TYPE_AT + tagged) {
            Some(ARP) => return For::Every,
            Some(IPV4) => ipv4(packet, true),
            Some(IPV6) => match ipv6(packet, true) {
                Sixth::OfLink => return For::Every,
                Sixth::Folded(folded) => folded,
            },
            _ => 0,
        };
        For::Shard(self.select(folded))
    }

    /// The shard of entry `entry` of the table.
    pub const fn of_entry(self, entry: u16) -> u16 {
        entry % self.shards
    }

    const fn select(self, folded: u16) -> u16 {
        self.of_entry(toeplitz(folded) as u16 % ENTRIES)
    }
}

/// Toeplitz's hash of 16-bit words that were added up bit by bit: under a key that repeats after 16 bits
/// every word meets the same part of it, and the hash is linear.
const fn toeplitz(folded: u16) -> u32 {
    let key = (KEY as u32) << 16 | KEY as u32;
    let (mut hash, mut bit) = (0, 0);
    while bit < 16 {
        if folded & (0x8000 >> bit) != 0 {
            hash ^= key.rotate_left(bit);
        }
        bit += 1;
    }
    hash
}

fn fold(bytes: &[u8]) -> u16 {
    bytes.chunks_exact(2).fold(0, |folded, pair| folded ^ u16::from_be_bytes([pair[0], pair[1]]))
}

/// A zone is no part of an address on a wire.
fn fold_ip(ip: IpAddr) -> u16 {
    match zone::ip_without(ip).to_canonical() {
        IpAddr::V4(v4) => fold(&v4.octets()),
        IpAddr::V6(v6) => fold(&v6.octets()),
    }
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

/// The ports at the beginning of a transport header, added up; nothing when they are cut off.
fn ports(transport: &[u8]) -> u16 {
    transport.get(..4).map_or(0, fold)
}

/// RFC 791 §3.1. What an error quotes is looked into once (`outer`).
fn ipv4(packet: &[u8], outer: bool) -> u16 {
    /// More fragments, and the offset.
    const FRAGMENT_BITS: u16 = 0x3fff;
    /// RFC 792: unreachable, source quench, redirect, time exceeded, parameter problem.
    const ERRORS: [u8; 5] = [3, 4, 5, 11, 12];
    const QUOTE_AT: usize = 8;
    let (Some(addresses), Some(&protocol)) = (packet.get(12..20), packet.get(9)) else { return 0 };
    let pair = fold(addresses);
    let header = usize::from(packet[0] & 0xf) * 4;
    let transport = packet.get(header..).unwrap_or(&[]);
    let fragment = half(packet, 6).is_some_and(|bits| bits & FRAGMENT_BITS != 0);
    match protocol {
        TCP | UDP if !fragment => pair ^ ports(transport),
        // A first fragment that is quoted has its ports: an error is about all of them.
        TCP | UDP if !outer => pair ^ ports(transport),
        ICMP if outer && !fragment && transport.first().is_some_and(|kind| ERRORS.contains(kind)) => {
            match transport.get(QUOTE_AT..) {
                Some(quote) if quote.len() >= 20 => ipv4(quote, false),
                _ => pair,
            }
        }
        _ => pair,
    }
}

/// What an IPv6 packet is hashed by.
enum Sixth {
    Folded(u16),
    /// Neighbour discovery or MLD.
    OfLink,
}

/// RFC 8200 §3, §4. What an error quotes is looked into once (`outer`).
fn ipv6(packet: &[u8], outer: bool) -> Sixth {
    /// RFC 4861 §4, RFC 2710 §3, RFC 3810 §5.2.
    const OF_LINK: [u8; 9] = [130, 131, 132, 133, 134, 135, 136, 137, 143];
    /// RFC 4443 §2.1: errors are below.
    const FIRST_INFORMATION: u8 = 128;
    const QUOTE_AT: usize = 8;
    const HEADER: usize = 40;
    let (Some(addresses), Some(&first)) = (packet.get(8..HEADER), packet.get(6)) else {
        return Sixth::Folded(0);
    };
    let pair = fold(addresses);
    let (mut next, mut at) = (first, HEADER);
    for _ in 0..EXTENSIONS_MAX {
        let Some(extension) = packet.get(at..at + 2) else { break };
        match next {
            HOP_BY_HOP | ROUTING | DESTINATION => at += (usize::from(extension[1]) + 1) * 8,
            FRAGMENT => return Sixth::Folded(pair),
            _ => break,
        }
        next = extension[0];
    }
    let transport = packet.get(at..).unwrap_or(&[]);
    Sixth::Folded(match (next, transport.first()) {
        (TCP | UDP, _) => pair ^ ports(transport),
        (ICMPV6, Some(kind)) if outer && OF_LINK.contains(kind) => return Sixth::OfLink,
        (ICMPV6, Some(&kind)) if outer && kind < FIRST_INFORMATION => match transport.get(QUOTE_AT..) {
            Some(quote) if quote.len() >= HEADER => match ipv6(quote, false) {
                Sixth::Folded(folded) => folded,
                Sixth::OfLink => pair,
            },
            _ => pair,
        },
        _ => pair,
    })
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The hash as the data sheets have it: bit by bit over a key of 40 bytes.
    fn toeplitz_long(input: &[u8]) -> u32 {
        let key = CARD_KEY;
        let bit = |bytes: &[u8], n: usize| bytes[n / 8] >> (7 - n % 8) & 1;
        let mut hash = 0;
        for n in (0..input.len() * 8).filter(|&n| bit(input, n) == 1) {
            let window = (0..32).fold(0u32, |window, m| window << 1 | u32::from(bit(&key, n + m)));
            hash ^= window;
        }
        hash
    }

    fn addr() -> impl Strategy<Value = IpAddr> {
        prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)]
    }

    fn ends() -> impl Strategy<Value = (SocketAddr, SocketAddr)> {
        let ports = (any::<u16>(), any::<u16>());
        let v4 = (any::<[u8; 4]>(), any::<[u8; 4]>(), ports)
            .prop_map(|(a, b, (p, q))| (SocketAddr::from((a, p)), SocketAddr::from((b, q))));
        let v6 = (any::<[u8; 16]>(), any::<[u8; 16]>(), ports).prop_map(|(mut a, mut b, (p, q))| {
            // Never a mapped one.
            (a[0], b[0]) = (0x20, 0xfd);
            (SocketAddr::from((a, p)), SocketAddr::from((b, q)))
        });
        prop_oneof![v4, v6]
    }

    fn octets(ip: IpAddr) -> Vec<u8> {
        match ip {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        }
    }

    /// A packet between two ends; of IPv6 with some extension headers.
    fn packet(from: SocketAddr, to: SocketAddr, protocol: u8, options: usize, body: &[u8]) -> Vec<u8> {
        let (source, target) = (octets(from.ip()), octets(to.ip()));
        let mut packet = Vec::new();
        if from.is_ipv4() {
            packet.extend([0x40 | (5 + options as u8), 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0]);
            packet.extend([source, target].concat());
            packet.extend(vec![1; options * 4]);
        } else {
            let first = if options > 0 { DESTINATION } else { protocol };
            packet.extend([0x60, 0, 0, 0, 0, 0, first, 64]);
            packet.extend([source, target].concat());
            for n in (0..options).rev() {
                let next = if n > 0 { DESTINATION } else { protocol };
                packet.extend([next, 0, 0, 0, 0, 0, 0, 0]);
            }
        }
        packet.extend(body);
        packet
    }

    fn frame(packet: &[u8]) -> Vec<u8> {
        let of = if packet[0] >> 4 == 4 { IPV4 } else { IPV6 };
        let mut frame = vec![2; 12];
        frame.extend(of.to_be_bytes());
        frame.extend(packet);
        frame.truncate(HEAD);
        frame
    }

    fn ports_of(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
        let mut body = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
        body.extend([0; 16]);
        body
    }

    proptest! {
        /// Both ends name one shard, and it is that of the long way round.
        #[test]
        fn a_flow_has_one_shard_from_both_ends((a, b) in ends(), shards in 1u16..=64) {
            let steering = Steering::new(shards);
            prop_assert_eq!(steering.flow(a, b), steering.flow(b, a));
            prop_assert!(steering.flow(a, b) < shards);
            let mut input = [octets(a.ip()), octets(b.ip())].concat();
            input.extend([a.port().to_be_bytes(), b.port().to_be_bytes()].concat());
            let long = toeplitz_long(&input[..input.len().min(36)]);
            prop_assert_eq!(steering.flow(a, b), (long % 128) as u16 % shards);
        }

        /// What nicd reads off a frame is what the others say of its ends, both ways, and the same for
        /// the error that quotes it.
        #[test]
        fn a_frame_goes_where_its_ends_say(
            (a, b) in ends(),
            (udp, options) in (any::<bool>(), 0usize..4),
            shards in 2u16..=64,
            router in any::<[u8; 4]>(),
        ) {
            let steering = Steering::new(shards);
            let protocol = if udp { UDP } else { TCP };
            let wanted = For::Shard(steering.flow(a, b));
            for (from, to) in [(a, b), (b, a)] {
                let there = packet(from, to, protocol, options, &ports_of(from, to));
                prop_assert_eq!(steering.frame(&frame(&there)), wanted);
                let (kind, icmp) = if a.is_ipv4() { (3, ICMP) } else { (1, ICMPV6) };
                let quote = [&[kind, 0, 0, 0, 0, 0, 0, 0], &there[..]].concat();
                let mut router = SocketAddr::new(IpAddr::from(router), 0);
                if !a.is_ipv4() {
                    router.set_ip("fe80::1".parse().expect("an address"));
                }
                let error = packet(router, from, icmp, 0, &quote);
                prop_assert_eq!(steering.frame(&frame(&error)), wanted);
            }
        }

        /// All pieces of a packet meet in one shard, ports or not.
        #[test]
        fn fragments_stay_together((a, b) in ends(), offset in 0u16..0x2000, shards in 2u16..=64) {
            let steering = Steering::new(shards);
            let mut first = packet(a, b, UDP, 0, &ports_of(a, b));
            let mut later = packet(a, b, UDP, 0, &[0xab; 24]);
            match a.is_ipv4() {
                true => {
                    first[6..8].copy_from_slice(&0x2000u16.to_be_bytes());
                    later[6..8].copy_from_slice(&offset.max(1).to_be_bytes());
                }
                false => (first[6], later[6]) = (FRAGMENT, FRAGMENT),
            }
            let wanted = For::Shard(steering.pair(a.ip(), b.ip()));
            prop_assert_eq!(steering.frame(&frame(&first)), wanted);
            prop_assert_eq!(steering.frame(&frame(&later)), wanted);
        }

        /// A tag changes nothing.
        #[test]
        fn a_tag_is_looked_through(bytes in prop::collection::vec(any::<u8>(), LINK_LEN..HEAD), of in 0u8..3) {
            let (mut plain, of) = (bytes, [IPV4, IPV6, ARP][usize::from(of)]);
            plain[TYPE_AT..LINK_LEN].copy_from_slice(&of.to_be_bytes());
            let mut tagged = plain.clone();
            tagged.splice(TYPE_AT..TYPE_AT, [0x81, 0, 0x20, 7]);
            prop_assert_eq!(Steering::new(5).frame(&plain), Steering::new(5).frame(&tagged));
        }

        /// Whatever the bytes are, some shard gets them.
        #[test]
        fn any_bytes_have_a_shard(mut bytes in prop::collection::vec(any::<u8>(), 0..HEAD), of in 0u8..3) {
            if bytes.len() >= LINK_LEN {
                let of = [IPV4, IPV6, 0x1234][usize::from(of)];
                bytes[TYPE_AT..LINK_LEN].copy_from_slice(&of.to_be_bytes());
            }
            match Steering::new(5).frame(&bytes) {
                For::Shard(shard) => prop_assert!(shard < 5),
                For::Every => prop_assert_eq!(half(&bytes, TYPE_AT), Some(IPV6)),
            }
        }

        /// A mapped address is the address.
        #[test]
        fn mapped_addresses_are_one(ip in any::<[u8; 4]>(), other in addr(), port in any::<u16>()) {
            let plain = IpAddr::from(ip);
            let mapped = IpAddr::V6(core::net::Ipv4Addr::from(ip).to_ipv6_mapped());
            let (steering, other) = (Steering::new(7), SocketAddr::new(other, 80));
            let shard = |ip| steering.flow(SocketAddr::new(ip, port), other);
            prop_assert_eq!(shard(plain), shard(mapped));
        }
    }

    #[test]
    fn a_zone_is_no_part_of_an_address() {
        let (plain, remote) =
            ("[fe80::1]:80".parse().expect("an end"), "[fe80::2]:5000".parse().expect("an end"));
        let SocketAddr::V6(v6) = plain else { unreachable!("an IPv6 address") };
        for number in 0..50 {
            let zoned = SocketAddr::new(IpAddr::V6(zone::with(*v6.ip(), number)), 80);
            assert_eq!(Steering::new(5).flow(zoned, remote), Steering::new(5).flow(plain, remote));
        }
    }

    /// Consecutive ports, which is what clients have, are spread evenly over any number of shards.
    #[test]
    fn ports_are_spread() {
        let remote: SocketAddr = "10.0.0.9:80".parse().expect("an address");
        for shards in 2..=8 {
            let steering = Steering::new(shards);
            let mut found = vec![0u32; usize::from(shards)];
            for port in 32_768..32_768 + 4096 {
                found[usize::from(steering.flow(([10, 0, 0, 1], port).into(), remote))] += 1;
            }
            let fair = 4096 / u32::from(shards);
            assert!(found.iter().all(|n| n.abs_diff(fair) <= fair / 5), "{shards}: {found:?}");
        }
    }

    #[test]
    fn what_says_something_of_the_link_goes_to_every_shard() {
        let two = Steering::new(2);
        let mut arp = vec![0xff; 42];
        arp[12..14].copy_from_slice(&ARP.to_be_bytes());
        assert_eq!(two.frame(&arp), For::Every);
        assert_eq!(Steering::new(1).frame(&arp), For::Shard(0));
        let (a, b) = ("[fe80::1]:0".parse().expect("an end"), "[ff02::1]:0".parse().expect("an end"));
        for kind in [135, 136, 134, 143] {
            let discovery = packet(a, b, ICMPV6, 0, &[kind, 0, 0, 0, 0, 0, 0, 0]);
            assert_eq!(two.frame(&frame(&discovery)), For::Every, "type {kind}");
        }
        let echo = packet(a, b, ICMPV6, 0, &[128, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(two.frame(&frame(&echo)), For::Shard(two.pair(a.ip(), b.ip())));
    }
}
