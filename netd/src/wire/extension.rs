//! The chain of IPv6 extension headers: RFC 8200 §4, with the limits that RFC 8504 §5.3 allows a host.
//!
//! ```text
//!  | fixed header | hop-by-hop | destination | routing | fragment | destination | transport …
//! ```
//!
//! Called with the bytes behind the fixed header. The walk ends at the first header that is no
//! extension, or at a fragment header: what follows that is the reassembled packet's. No option means
//! anything to a host here but padding and router alert; one that we do not know is skipped, dropped or
//! reported as its two high bits say.

use super::drop_reason::DropReason;
use super::ipv4::{Fragment, IpProtocol};

/// Extension headers in a packet at most; RFC 8504 §5.3 allows a limit, RFC 8200 §4.1 names six.
pub const HEADERS_MAX: usize = 8;
/// Options in one header at most, padding not counted: RFC 8504 §5.3.
pub const OPTIONS_MAX: usize = 8;
/// Consecutive bytes of padding at most: RFC 8504 §5.3.
const PADDING_MAX: usize = 7;
/// Length of a fragment header: RFC 8200 §4.5.
pub const FRAGMENT_LEN: usize = 8;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
/// RFC 8200 §4.7: nothing follows.
const NO_NEXT: u8 = 59;
const DESTINATION: u8 = 60;

const PAD1: u8 = 0;
const PADN: u8 = 1;
/// RFC 2711 §2.1.
const ROUTER_ALERT: u8 = 5;

/// What the chain leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chain {
    /// Bytes of extension headers, a fragment header among them.
    pub len: usize,
    /// What follows them.
    pub protocol: IpProtocol,
    /// Where the number of that protocol stands, from the start of the packet.
    pub next_header_at: u32,
    /// The fragment header, if the walk ended there.
    pub fragment: Option<FragmentHeader>,
}

/// A fragment header: RFC 8200 §4.5.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FragmentHeader {
    /// Where the part belongs.
    pub part: Fragment,
    /// Ties the parts together.
    pub ident: u32,
    /// Where the header begins, from the start of the packet.
    pub at: u32,
    /// Where the number 44 stands that announces it.
    pub named_at: u32,
}

impl FragmentHeader {
    /// RFC 6946: a fragment that is the whole packet.
    pub const fn is_atomic(&self) -> bool {
        self.part.offset == 0 && !self.part.more
    }

    /// The header's bytes, before something of protocol `next`.
    pub fn to_bytes(&self, next: IpProtocol) -> [u8; FRAGMENT_LEN] {
        let place = (self.part.offset as u16 & 0xfff8) | u16::from(self.part.more);
        let ([a, b], [c, d, e, f]) = (place.to_be_bytes(), self.ident.to_be_bytes());
        [next.0, 0, a, b, c, d, e, f]
    }
}

/// A chain that can't be followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bad {
    /// Why the packet is dropped.
    pub reason: DropReason,
    /// What its sender is told, if anything.
    pub problem: Option<Problem>,
}

/// A parameter problem: RFC 4443 §3.4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Problem {
    /// The ICMPv6 code.
    pub code: u8,
    /// The byte at fault, from the start of the packet.
    pub pointer: u32,
    /// Also when the packet was for a group: RFC 4443 §2.4 (e.3), option type 10.
    pub to_groups: bool,
}

impl Problem {
    /// RFC 4443 §3.4 code 0: a field that can't be.
    pub const fn field(pointer: u32) -> Problem {
        Problem { code: 0, pointer, to_groups: false }
    }

    /// Code 1: a next header that we do not know.
    pub const fn next_header(pointer: u32) -> Problem {
        Problem { code: 1, pointer, to_groups: false }
    }
}

impl From<DropReason> for Bad {
    fn from(reason: DropReason) -> Bad {
        Bad { reason, problem: None }
    }
}

/// Whether a next-header number is that of an extension header we walk over.
const fn is_extension(number: u8) -> bool {
    matches!(number, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION)
}

/// Walks the chain that begins at `bytes` with a header of type `first`; `base` is where `bytes` begins
/// in the packet and `first_at` where `first` stands.
///
/// # Errors
/// [`Bad`]: with a report where RFC 8200 §4 asks for one.
pub fn walk(bytes: &[u8], first: IpProtocol, base: u32, first_at: u32) -> Result<Chain, Bad> {
    let (mut next, mut next_at, mut at, mut headers) = (first.0, first_at, 0usize, 0usize);
    while is_extension(next) {
        headers += 1;
        if headers > HEADERS_MAX {
            return Err(DropReason::Ipv6ExtLimit.into());
        }
        // RFC 8200 §4.1: hop-by-hop stands first or not at all.
        if next == HOP_BY_HOP && headers > 1 {
            let problem = Some(Problem::next_header(next_at));
            return Err(Bad { reason: DropReason::Ipv6ExtInvalid, problem });
        }
        let rest = bytes.get(at..).unwrap_or(&[]);
        let &[following, len, a, b, ..] = rest else { return Err(DropReason::HdrTrunc.into()) };
        let here = base + at as u32;
        if next == FRAGMENT {
            let &[_, _, _, _, c, d, e, f, ..] = rest else { return Err(DropReason::HdrTrunc.into()) };
            let place = u16::from_be_bytes([a, b]);
            let part = Fragment { offset: u32::from(place & 0xfff8), more: place & 1 == 1 };
            let header =
                FragmentHeader { part, ident: u32::from_be_bytes([c, d, e, f]), at: here, named_at: next_at };
            return Ok(Chain {
                len: at + FRAGMENT_LEN,
                protocol: IpProtocol(following),
                next_header_at: here,
                fragment: Some(header),
            });
        }
        let len = (usize::from(len) + 1) * 8;
        let body = rest.get(..len).ok_or(DropReason::HdrTrunc)?;
        match next {
            // RFC 8200 §4.4: segments left over mean a route that we do not follow (RFC 5095).
            ROUTING if b != 0 => {
                let problem = Some(Problem::field(here + 2));
                return Err(Bad { reason: DropReason::IpSourceRoute, problem });
            }
            ROUTING => {}
            _ => options(&body[2..], here + 2)?,
        }
        (next, next_at, at) = (following, here, at + len);
    }
    if next == NO_NEXT {
        return Err(DropReason::Ipv6NoNext.into());
    }
    Ok(Chain { len: at, protocol: IpProtocol(next), next_header_at: next_at, fragment: None })
}

/// The options of a hop-by-hop or destination header: RFC 8200 §4.2.
fn options(mut bytes: &[u8], mut at: u32) -> Result<(), Bad> {
    let (mut count, mut padding) = (0, 0);
    while let [kind, ref rest @ ..] = *bytes {
        let len = match (kind, rest) {
            (PAD1, _) => 1,
            (_, [len, body @ ..]) if usize::from(*len) <= body.len() => 2 + usize::from(*len),
            _ => return Err(Bad { reason: DropReason::Ipv6ExtInvalid, problem: Some(Problem::field(at)) }),
        };
        match kind {
            PAD1 | PADN => {
                padding += len;
                if padding > PADDING_MAX {
                    return Err(DropReason::Ipv6ExtLimit.into());
                }
            }
            ROUTER_ALERT => padding = 0,
            unknown => {
                let report = |to_groups| Some(Problem { code: 2, pointer: at, to_groups });
                // RFC 8200 §4.2: what to do is in the type's two high bits.
                let problem = match unknown >> 6 {
                    0 => {
                        padding = 0;
                        None
                    }
                    1 => return Err(DropReason::Ipv6OptUnknown.into()),
                    2 => report(true),
                    _ => report(false),
                };
                if problem.is_some() {
                    return Err(Bad { reason: DropReason::Ipv6OptUnknown, problem });
                }
            }
        }
        count += usize::from(!matches!(kind, PAD1 | PADN));
        if count > OPTIONS_MAX {
            return Err(DropReason::Ipv6ExtLimit.into());
        }
        bytes = &bytes[len..];
        at += len as u32;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn from(first: u8, bytes: &[u8]) -> Result<Chain, Bad> {
        walk(bytes, IpProtocol(first), 40, 6)
    }

    #[test]
    fn chains_lead_to_a_transport() {
        let plain = from(6, &[]).unwrap();
        assert_eq!((plain.len, plain.protocol, plain.next_header_at), (0, IpProtocol::TCP, 6));
        let hop = [DESTINATION, 0, PADN, 4, 0, 0, 0, 0, 17, 0, 1, 4, 0, 0, 0, 0];
        let both = from(HOP_BY_HOP, &hop).unwrap();
        assert_eq!((both.len, both.protocol, both.next_header_at), (16, IpProtocol::UDP, 48));
        let fragment = from(FRAGMENT, &[17, 0, 0, 0x11, 1, 2, 3, 4]).unwrap();
        let part = Fragment { offset: 16, more: true };
        let header = FragmentHeader { part, ident: 0x0102_0304, at: 40, named_at: 6 };
        assert_eq!((fragment.len, fragment.fragment), (8, Some(header)));
        assert_eq!(header.to_bytes(IpProtocol::UDP), [17, 0, 0, 0x11, 1, 2, 3, 4]);
    }

    #[test]
    fn what_is_wrong_is_reported_as_the_rfc_says() {
        let problem = |first, bytes: &[u8]| from(first, bytes).unwrap_err();
        let late = [HOP_BY_HOP, 0, 1, 4, 0, 0, 0, 0, 17, 0, 1, 4, 0, 0, 0, 0];
        assert_eq!(problem(DESTINATION, &late).problem, Some(Problem::next_header(40)));
        assert_eq!(problem(ROUTING, &[17, 0, 0, 1, 0, 0, 0, 0]).problem, Some(Problem::field(42)));
        assert!(from(ROUTING, &[17, 0, 0, 0, 0, 0, 0, 0]).is_ok());
        for (kind, reported, to_groups) in [(0x40, false, false), (0x80, true, true), (0xc0, true, false)] {
            let bad = problem(DESTINATION, &[17, 0, kind, 4, 0, 0, 0, 0]);
            assert_eq!(bad.reason, DropReason::Ipv6OptUnknown);
            let expected = reported.then_some(Problem { code: 2, pointer: 42, to_groups });
            assert_eq!(bad.problem, expected);
        }
        assert!(from(DESTINATION, &[17, 0, 0x1e, 4, 0, 0, 0, 0]).is_ok(), "skipped");
        assert_eq!(problem(DESTINATION, &[17, 0, 1, 5, 0, 0, 0, 0]).reason, DropReason::Ipv6ExtInvalid);
        assert_eq!(problem(DESTINATION, &[17, 1, 1, 4, 0, 0, 0, 0]).reason, DropReason::HdrTrunc);
        assert_eq!(problem(NO_NEXT, &[]).reason, DropReason::Ipv6NoNext);
    }

    #[test]
    fn bombs_meet_a_limit() {
        let many: Vec<u8> = [DESTINATION, 0, 1, 4, 0, 0, 0, 0].repeat(HEADERS_MAX + 1);
        assert_eq!(from(DESTINATION, &many).unwrap_err().reason, DropReason::Ipv6ExtLimit);
        let mut padded = vec![17, 2];
        padded.extend([0; 22]);
        assert_eq!(from(DESTINATION, &padded).unwrap_err().reason, DropReason::Ipv6ExtLimit);
        let mut options = vec![17, 2];
        options.extend([0x1e, 0].repeat(11));
        assert_eq!(from(DESTINATION, &options).unwrap_err().reason, DropReason::Ipv6ExtLimit);
    }

    proptest! {
        #[test]
        fn nothing_panics(first in prop::sample::select(vec![0u8, 6, 17, 43, 44, 50, 51, 58, 59, 60, 135, 255]),
                          bytes in prop::collection::vec(prop_oneof![any::<u8>(), 0u8..3, Just(60), Just(44)], 0..200)) {
            if let Ok(chain) = from(first, &bytes) {
                prop_assert!(chain.len <= bytes.len());
                prop_assert!(chain.next_header_at < 40 + bytes.len() as u32);
            }
        }
    }
}
