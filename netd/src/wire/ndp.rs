//! Neighbour discovery for IPv6: the messages of RFC 4861 §4, with the options that a host reads: link
//! addresses, prefixes, MTU, redirected header (skipped), DNS servers (RFC 8106 §5.1).
//!
//! A parser gets a whole message, checksum verified, copied out of the shared page: options may stand
//! anywhere in it. What RFC 4861 §6.1, §7.1 and §8.1 want checked of the message itself is checked here;
//! hop limit and fragments are the caller's to know.

use core::net::Ipv6Addr;
use core::time::Duration;

use super::address::{AddressPair, MacAddr};
use super::drop_reason::DropReason;
use super::icmpv6::fill_checksum;

/// The hop limit that nothing off the link can have: RFC 4861 §3.1.
pub const HOP_LIMIT: u8 = 255;
/// Of a received message, the most that is looked at: an Ethernet frame's payload.
pub const MESSAGE_LEN_MAX: usize = 1500;
/// The longest message we build: a target and a link address.
pub const EMITTED_LEN_MAX: usize = 32;
/// All nodes of the link: RFC 4291 §2.7.1.
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// All routers of the link: RFC 4291 §2.7.1.
pub const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

/// ICMPv6 types: RFC 4861 §4.
pub const ROUTER_SOLICITATION: u8 = 133;
/// ICMPv6 type.
pub const ROUTER_ADVERTISEMENT: u8 = 134;
/// ICMPv6 type.
pub const NEIGHBOUR_SOLICITATION: u8 = 135;
/// ICMPv6 type.
pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// ICMPv6 type.
pub const REDIRECT: u8 = 137;

const OPTION_SOURCE: u8 = 1;
const OPTION_TARGET: u8 = 2;
const OPTION_PREFIX: u8 = 3;
const OPTION_MTU: u8 = 5;
/// RFC 8106 §5.1.
const OPTION_RDNSS: u8 = 25;

const FLAG_ROUTER: u8 = 0x80;
const FLAG_SOLICITED: u8 = 0x40;
const FLAG_OVERRIDE: u8 = 0x20;

/// The group in which a neighbour with that address listens: RFC 4291 §2.7.1.
pub const fn solicited_node(addr: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b] = addr.segments();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | (a & 0xff), b)
}

/// A lifetime in seconds as the messages have it; all ones mean for ever (RFC 4861 §4.6.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lifetime(pub u32);

impl Lifetime {
    /// How long; `None` for ever.
    pub const fn duration(self) -> Option<Duration> {
        match self.0 {
            u32::MAX => None,
            seconds => Some(Duration::from_secs(seconds as u64)),
        }
    }
}

/// A prefix that a router announces: RFC 4861 §4.6.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrefixInfo {
    /// Its bits.
    pub len: u8,
    /// Its hosts are on this link.
    pub on_link: bool,
    /// Hosts make addresses of it (RFC 4862).
    pub autonomous: bool,
    /// How long addresses of it may be used.
    pub valid: Lifetime,
    /// How long they may be used for new connections.
    pub preferred: Lifetime,
    /// The prefix.
    pub prefix: Ipv6Addr,
}

/// An option that a host reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NdOption<'a> {
    /// The sender's link address.
    SourceLink(MacAddr),
    /// The target's link address.
    TargetLink(MacAddr),
    /// A prefix.
    Prefix(PrefixInfo),
    /// The link's MTU.
    Mtu(u32),
    /// DNS servers.
    Rdnss {
        /// How long they may be used.
        lifetime: Lifetime,
        /// Their addresses, 16 bytes each.
        servers: &'a [[u8; 16]],
    },
    /// Another one, or one whose length does not fit its type: skipped (RFC 4861 §4.6).
    Other,
}

/// The options of a message, every one of which is as long as it says and not empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options<'a>(&'a [u8]);

impl<'a> Options<'a> {
    /// RFC 4861 §6.1.1: all options have a length greater than zero; else the message is dropped.
    fn parse(bytes: &'a [u8]) -> Result<Options<'a>, DropReason> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let len = rest.get(1).map_or(0, |len| usize::from(*len) * 8);
            rest = rest.get(len..).filter(|_| len > 0).ok_or(DropReason::NdpInvalid)?;
        }
        Ok(Options(bytes))
    }

    /// The options in their order.
    pub fn iter(self) -> impl Iterator<Item = NdOption<'a>> {
        let mut rest = self.0;
        core::iter::from_fn(move || {
            let len = usize::from(*rest.get(1)?) * 8;
            let (option, behind) = rest.split_at_checked(len)?;
            rest = behind;
            Some(read_option(option))
        })
    }

    /// The first link address of the source.
    pub fn source_link(self) -> Option<MacAddr> {
        self.iter().find_map(|option| if let NdOption::SourceLink(mac) = option { Some(mac) } else { None })
    }

    /// The first link address of the target.
    pub fn target_link(self) -> Option<MacAddr> {
        self.iter().find_map(|option| if let NdOption::TargetLink(mac) = option { Some(mac) } else { None })
    }
}

fn read_option(option: &[u8]) -> NdOption<'_> {
    let word = |at: usize| option.get(at..at + 4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]));
    let read = || {
        Some(match (*option.first()?, option.len()) {
            (OPTION_SOURCE, 8) => NdOption::SourceLink(MacAddr(*option[2..].first_chunk()?)),
            (OPTION_TARGET, 8) => NdOption::TargetLink(MacAddr(*option[2..].first_chunk()?)),
            (OPTION_PREFIX, 32) if option[2] <= 128 => NdOption::Prefix(PrefixInfo {
                len: option[2],
                on_link: option[3] & 0x80 != 0,
                autonomous: option[3] & 0x40 != 0,
                valid: Lifetime(word(4)?),
                preferred: Lifetime(word(8)?),
                prefix: Ipv6Addr::from(*option[16..].first_chunk::<16>()?),
            }),
            (OPTION_MTU, 8) => NdOption::Mtu(word(4)?),
            // RFC 8106 §5.1: two units of 8 bytes an address, and at least one.
            (OPTION_RDNSS, 24..) if option.len() % 16 == 8 => {
                NdOption::Rdnss { lifetime: Lifetime(word(4)?), servers: option[8..].as_chunks().0 }
            }
            _ => NdOption::Other,
        })
    };
    read().unwrap_or(NdOption::Other)
}

/// What a router announces beside its options: RFC 4861 §4.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouterAdvertisement {
    /// Hops to put into packets; 0 says nothing.
    pub hop_limit: u8,
    /// How long it is a default router; 0: it is none.
    pub lifetime_s: u16,
    /// How long an answer counts, in milliseconds; 0 says nothing.
    pub reachable_ms: u32,
    /// Between two questions, in milliseconds; 0 says nothing.
    pub retrans_ms: u32,
}

/// A message of neighbour discovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NdpMessage {
    /// A host looks for routers.
    RouterSolicitation,
    /// A router announces itself.
    RouterAdvertisement(RouterAdvertisement),
    /// Who has `target`?
    NeighbourSolicitation {
        /// The address in question.
        target: Ipv6Addr,
    },
    /// `target` is here.
    NeighbourAdvertisement {
        /// The address in question.
        target: Ipv6Addr,
        /// Its owner is a router.
        router: bool,
        /// It answers a question.
        solicited: bool,
        /// It replaces what was known.
        overrides: bool,
    },
    /// `destination` is better reached through `target`.
    Redirect {
        /// The better first hop; the destination itself when that is on the link.
        target: Ipv6Addr,
        /// For whom.
        destination: Ipv6Addr,
    },
}

impl NdpMessage {
    /// Reads a whole message, from its ICMPv6 header on, that was sent between `pair`.
    ///
    /// # Errors
    /// [`DropReason::NdpInvalid`] where RFC 4861 §6.1, §7.1 or §8.1 does not let it pass.
    pub fn parse<'a>(bytes: &'a [u8], pair: &AddressPair) -> Result<(NdpMessage, Options<'a>), DropReason> {
        const INVALID: DropReason = DropReason::NdpInvalid;
        let AddressPair::V6 { src, dst } = *pair else { return Err(INVALID) };
        let &[kind, code, ..] = bytes else { return Err(INVALID) };
        let body = bytes.get(8..).ok_or(INVALID)?;
        if code != 0 {
            return Err(INVALID);
        }
        let addr = |at: usize| {
            let octets = body.get(at..).and_then(|rest| rest.first_chunk::<16>());
            octets.map(|octets| Ipv6Addr::from(*octets)).ok_or(INVALID)
        };
        let options = |at: usize| body.get(at..).ok_or(INVALID).and_then(Options::parse);
        let link_local = src.is_unicast_link_local();
        Ok(match kind {
            ROUTER_SOLICITATION => (NdpMessage::RouterSolicitation, options(0)?),
            ROUTER_ADVERTISEMENT => {
                let &[a, b, c, d, e, f, g, h, ..] = body else { return Err(INVALID) };
                // RFC 4861 §6.1.2: routers speak from their link-local address.
                if !link_local {
                    return Err(INVALID);
                }
                let advertisement = RouterAdvertisement {
                    hop_limit: bytes[4],
                    lifetime_s: u16::from_be_bytes([bytes[6], bytes[7]]),
                    reachable_ms: u32::from_be_bytes([a, b, c, d]),
                    retrans_ms: u32::from_be_bytes([e, f, g, h]),
                };
                (NdpMessage::RouterAdvertisement(advertisement), options(8)?)
            }
            NEIGHBOUR_SOLICITATION => {
                let (target, options) = (addr(0)?, options(16)?);
                // RFC 4861 §7.1.1: a probe goes to the solicited-node group and names no source.
                let probe = src.is_unspecified();
                let probe_is_right = dst.segments()[0] & 0xff0f == 0xff02
                    && proto::zone::without(dst) == solicited_node(target)
                    && options.source_link().is_none();
                if target.is_multicast() || (probe && !probe_is_right) {
                    return Err(INVALID);
                }
                (NdpMessage::NeighbourSolicitation { target }, options)
            }
            NEIGHBOUR_ADVERTISEMENT => {
                let (target, options, flags) = (addr(0)?, options(16)?, bytes[4]);
                let solicited = flags & FLAG_SOLICITED != 0;
                // RFC 4861 §7.1.2.
                if target.is_multicast() || (dst.is_multicast() && solicited) {
                    return Err(INVALID);
                }
                let (router, overrides) = (flags & FLAG_ROUTER != 0, flags & FLAG_OVERRIDE != 0);
                (NdpMessage::NeighbourAdvertisement { target, router, solicited, overrides }, options)
            }
            REDIRECT => {
                let (target, destination, options) = (addr(0)?, addr(16)?, options(32)?);
                // RFC 4861 §8.1: from a router, about a host, to a router or to that host.
                let target_is_right = target.is_unicast_link_local() || target == destination;
                if !link_local || destination.is_multicast() || !target_is_right {
                    return Err(INVALID);
                }
                (NdpMessage::Redirect { target, destination }, options)
            }
            _ => return Err(DropReason::IcmpUnhandled),
        })
    }

    /// Writes what a host says, with `link` as the source's or the target's link address, to the start of
    /// `out`, checksum and all; returns its length.
    ///
    /// # Panics
    /// When `out` is shorter than [`EMITTED_LEN_MAX`], or for what only routers say.
    pub fn emit(&self, out: &mut [u8], link: Option<MacAddr>, pair: &AddressPair) -> usize {
        let (kind, flags, target, option) = match *self {
            NdpMessage::RouterSolicitation => (ROUTER_SOLICITATION, 0, None, OPTION_SOURCE),
            NdpMessage::NeighbourSolicitation { target } => {
                (NEIGHBOUR_SOLICITATION, 0, Some(target), OPTION_SOURCE)
            }
            NdpMessage::NeighbourAdvertisement { target, router, solicited, overrides } => {
                let bit = |on: bool, bit: u8| if on { bit } else { 0 };
                let flags =
                    bit(router, FLAG_ROUTER) | bit(solicited, FLAG_SOLICITED) | bit(overrides, FLAG_OVERRIDE);
                (NEIGHBOUR_ADVERTISEMENT, flags, Some(target), OPTION_TARGET)
            }
            NdpMessage::RouterAdvertisement(_) | NdpMessage::Redirect { .. } => {
                panic!("a host is no router")
            }
        };
        out[..8].copy_from_slice(&[kind, 0, 0, 0, flags, 0, 0, 0]);
        let mut len = 8;
        if let Some(target) = target {
            out[len..len + 16].copy_from_slice(&proto::zone::without(target).octets());
            len += 16;
        }
        if let Some(MacAddr(mac)) = link {
            out[len..len + 2].copy_from_slice(&[option, 1]);
            out[len + 2..len + 8].copy_from_slice(&mac);
            len += 8;
        }
        fill_checksum(&mut out[..len], pair);
        len
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ROUTER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    const HOST: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0x12, 0x3456);
    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

    fn pair(src: Ipv6Addr, dst: Ipv6Addr) -> AddressPair {
        AddressPair::V6 { src, dst }
    }

    #[test]
    fn groups_of_neighbours() {
        assert_eq!(solicited_node(HOST).to_string(), "ff02::1:ff12:3456");
        assert_eq!(solicited_node("2001:db8::aabb:ccdd".parse().unwrap()).to_string(), "ff02::1:ffbb:ccdd");
    }

    #[test]
    fn what_is_emitted_parses() {
        let ends = pair(ROUTER, HOST);
        for (message, link) in [
            (NdpMessage::RouterSolicitation, Some(MAC)),
            (NdpMessage::RouterSolicitation, None),
            (NdpMessage::NeighbourSolicitation { target: HOST }, Some(MAC)),
            (
                NdpMessage::NeighbourAdvertisement {
                    target: HOST,
                    router: false,
                    solicited: true,
                    overrides: true,
                },
                Some(MAC),
            ),
        ] {
            let mut out = [0; EMITTED_LEN_MAX];
            let len = message.emit(&mut out, link, &ends);
            let (parsed, options) = NdpMessage::parse(&out[..len], &ends).unwrap();
            assert_eq!(parsed, message);
            assert_eq!(options.source_link().or(options.target_link()), link);
        }
    }

    #[test]
    fn probes_are_checked() {
        let probe = |dst: Ipv6Addr, link| {
            let ends = pair(Ipv6Addr::UNSPECIFIED, dst);
            let mut out = [0; EMITTED_LEN_MAX];
            let len = NdpMessage::NeighbourSolicitation { target: HOST }.emit(&mut out, link, &ends);
            NdpMessage::parse(&out[..len], &ends).map(|_| ())
        };
        assert_eq!(probe(solicited_node(HOST), None), Ok(()));
        assert_eq!(probe(solicited_node(HOST), Some(MAC)), Err(DropReason::NdpInvalid));
        assert_eq!(probe(ALL_NODES, None), Err(DropReason::NdpInvalid));
        assert_eq!(probe(HOST, None), Err(DropReason::NdpInvalid));
    }

    /// An advertisement with a prefix, an MTU, two DNS servers and an unknown option.
    fn advertisement() -> Vec<u8> {
        let mut bytes = vec![ROUTER_ADVERTISEMENT, 0, 0, 0, 64, 0, 7, 8];
        bytes.extend([0, 0, 0x75, 0x30, 0, 0, 3, 0xe8]);
        bytes.extend([3, 4, 64, 0xc0, 0, 0, 0, 100, 0, 0, 0, 50, 0, 0, 0, 0]);
        bytes.extend("2001:db8:1::".parse::<Ipv6Addr>().unwrap().octets());
        bytes.extend([5, 1, 0, 0, 0, 0, 5, 0xdc, 99, 1, 0, 0, 0, 0, 0, 0]);
        bytes.extend([25, 5, 0, 0, 0xff, 0xff, 0xff, 0xff]);
        bytes.extend(ROUTER.octets());
        bytes.extend(HOST.octets());
        bytes
    }

    #[test]
    fn an_advertisement_is_read() {
        let bytes = advertisement();
        let ends = pair(ROUTER, ALL_NODES);
        let (message, options) = NdpMessage::parse(&bytes, &ends).unwrap();
        let expected =
            RouterAdvertisement { hop_limit: 64, lifetime_s: 1800, reachable_ms: 30_000, retrans_ms: 1000 };
        assert_eq!(message, NdpMessage::RouterAdvertisement(expected));
        let prefix = PrefixInfo {
            len: 64,
            on_link: true,
            autonomous: true,
            valid: Lifetime(100),
            preferred: Lifetime(50),
            prefix: "2001:db8:1::".parse().unwrap(),
        };
        let servers = [ROUTER.octets(), HOST.octets()];
        let rdnss = NdOption::Rdnss { lifetime: Lifetime(u32::MAX), servers: &servers };
        let all: Vec<_> = options.iter().collect();
        assert_eq!(all, [NdOption::Prefix(prefix), NdOption::Mtu(1500), NdOption::Other, rdnss]);
        assert_eq!(Lifetime(u32::MAX).duration(), None);
        let global = pair("2001:db8::1".parse().unwrap(), ALL_NODES);
        assert_eq!(NdpMessage::parse(&bytes, &global), Err(DropReason::NdpInvalid));
    }

    #[test]
    fn options_that_lie() {
        let ends = pair(ROUTER, ALL_NODES);
        let with = |option: &[u8]| {
            let mut bytes = advertisement()[..16].to_vec();
            bytes.extend(option);
            NdpMessage::parse(&bytes, &ends).map(|(_, options)| options.iter().collect::<Vec<_>>().len())
        };
        assert_eq!(with(&[1, 0, 0, 0, 0, 0, 0, 0]), Err(DropReason::NdpInvalid), "length zero");
        assert_eq!(with(&[1, 2, 0, 0, 0, 0, 0, 0]), Err(DropReason::NdpInvalid), "beyond the end");
        assert_eq!(with(&[1, 1, 0]), Err(DropReason::NdpInvalid));
        let rdnss = |units: u8| {
            let mut option = vec![25, units];
            option.resize(usize::from(units) * 8, 0);
            read_option(&option) == NdOption::Other
        };
        assert!(rdnss(1) && rdnss(2) && rdnss(4) && !rdnss(3) && !rdnss(5));
    }

    proptest! {
        #[test]
        fn nothing_panics(mut bytes in prop::collection::vec(prop_oneof![any::<u8>(), 0u8..6], 0..300), kind in 132u8..139,
                          src in any::<bool>(), group in any::<bool>()) {
            if bytes.len() > 1 {
                (bytes[0], bytes[1]) = (kind, 0);
            }
            let ends = pair(if src { ROUTER } else { Ipv6Addr::UNSPECIFIED }, if group { ALL_NODES } else { HOST });
            if let Ok((_, options)) = NdpMessage::parse(&bytes, &ends) {
                prop_assert!(options.iter().count() <= bytes.len() / 8);
                let _ = (options.source_link(), options.target_link());
            }
        }
    }
}
