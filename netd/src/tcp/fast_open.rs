//! TCP Fast Open (RFC 7413): data in the SYN, for those who have met before.
//!
//! The server's half keeps nothing: a cookie is a keyed hash of the caller's address (§4.1.2), the same in
//! every incarnation and shard. The client's half remembers the cookies of servers, a bounded number, as
//! soft state: a successor asks for them again. What a record keeps is what any connection's keeps: SND.NXT
//! behind the data of the SYN, RCV.NXT behind that of the remote's.

use std::collections::{HashMap, VecDeque};

use core::net::IpAddr;
use core::time::Duration;

use proto::time::Instant;

use super::isn::keyed_hash;

/// RFC 7413 §4.1.1: a cookie has 4 to 16 octets, an even number.
pub const COOKIE_MAX: usize = 16;
const COOKIE_MIN: usize = 4;

/// Octets of the cookies made here.
const COOKIE_LEN: u8 = 8;

/// Servers that are remembered; the oldest gives way.
const SERVERS_MAX: usize = 1024;

/// RFC 7413 §4.1.3.1: a path that lost a SYN with data is not tried again for so long.
const SHUNNED: Duration = Duration::from_secs(3600);

/// The option's body: a cookie, or none, which asks for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cookie {
    bytes: [u8; COOKIE_MAX],
    len: u8,
}

impl Cookie {
    /// Asks for a cookie.
    pub const REQUEST: Cookie = Cookie { bytes: [0; COOKIE_MAX], len: 0 };

    /// From the option's body; `None` for a length that a cookie can't have.
    pub fn from_option(body: &[u8]) -> Option<Cookie> {
        let fits = body.is_empty()
            || (COOKIE_MIN..=COOKIE_MAX).contains(&body.len()) && body.len().is_multiple_of(2);
        let mut cookie = Cookie { bytes: [0; COOKIE_MAX], len: body.len() as u8 };
        fits.then(|| {
            cookie.bytes[..body.len()].copy_from_slice(body);
            cookie
        })
    }

    /// The option's body.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// Whether it asks for one.
    pub const fn is_request(&self) -> bool {
        self.len == 0
    }
}

/// The cookie of a caller (RFC 7413 §4.1.2); `key` is the SYN cookies', told apart by what is hashed.
pub fn cookie_of(key: &[u8; 16], caller: IpAddr) -> Cookie {
    let mut name = [0; 24];
    name[..8].copy_from_slice(b"fastopen");
    name[8..].copy_from_slice(&match caller {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    });
    let mut cookie = Cookie { len: COOKIE_LEN, ..Cookie::REQUEST };
    cookie.bytes[..usize::from(COOKIE_LEN)].copy_from_slice(&keyed_hash(key, &name).to_be_bytes());
    cookie
}

/// What is known of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Server {
    cookie: Cookie,
    mss: u16,
    shunned_until: Option<Instant>,
}

/// The client's half: cookies by server (RFC 7413 §4.1.3).
#[derive(Debug, Default)]
pub struct Servers {
    known: HashMap<IpAddr, Server>,
    order: VecDeque<IpAddr>,
}

impl Servers {
    /// The cookie for a server and its MSS; [`Cookie::REQUEST`] where there is none yet, `None` where a SYN
    /// with the option got lost lately.
    pub fn cookie(&self, now: Instant, server: IpAddr) -> Option<(Cookie, u16)> {
        match self.known.get(&server) {
            Some(known) if known.shunned_until.is_some_and(|until| now < until) => None,
            Some(known) => Some((known.cookie, known.mss)),
            None => Some((Cookie::REQUEST, 0)),
        }
    }

    /// A SYN-ACK brought a cookie.
    pub fn learn(&mut self, server: IpAddr, cookie: Cookie, mss: u16) {
        self.note(server, Server { cookie, mss, shunned_until: None });
    }

    /// A SYN with the option was not answered, one without it was.
    pub fn shun(&mut self, now: Instant, server: IpAddr) {
        let until = Some(now + SHUNNED);
        self.note(server, Server { cookie: Cookie::REQUEST, mss: 0, shunned_until: until });
    }

    fn note(&mut self, server: IpAddr, known: Server) {
        if self.known.insert(server, known).is_none() {
            self.order.push_back(server);
            if self.order.len() > SERVERS_MAX
                && let Some(oldest) = self.order.pop_front()
            {
                self.known.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_that_can_not_be() {
        let ok = |len: usize| Cookie::from_option(&[1; 20][..len]).is_some();
        assert_eq!((0..=18).filter(|len| ok(*len)).collect::<Vec<_>>(), [0, 4, 6, 8, 10, 12, 14, 16]);
    }

    #[test]
    fn a_cookie_belongs_to_one_address_and_key() {
        let ip = |n| IpAddr::from([10, 0, 0, n]);
        let cookie = cookie_of(&[1; 16], ip(1));
        assert_eq!(cookie, cookie_of(&[1; 16], ip(1)));
        assert!(cookie != cookie_of(&[1; 16], ip(2)) && cookie != cookie_of(&[2; 16], ip(1)));
        assert_eq!(Cookie::from_option(cookie.as_bytes()), Some(cookie));
    }

    #[test]
    fn servers_are_remembered_bounded_and_shunned_for_a_while() {
        let mut servers = Servers::default();
        let (now, one) = (Instant::from_millis(5), IpAddr::from([10, 0, 0, 1]));
        assert_eq!(servers.cookie(now, one), Some((Cookie::REQUEST, 0)));
        let cookie = cookie_of(&[1; 16], one);
        servers.learn(one, cookie, 1400);
        assert_eq!(servers.cookie(now, one), Some((cookie, 1400)));
        servers.shun(now, one);
        assert_eq!(servers.cookie(now, one), None);
        assert_eq!(servers.cookie(now + SHUNNED, one), Some((Cookie::REQUEST, 0)));
        for n in 0..5000u32 {
            servers.learn(IpAddr::from((n + 1).to_be_bytes()), cookie, 1);
        }
        assert_eq!((servers.known.len(), servers.order.len()), (SERVERS_MAX, SERVERS_MAX));
    }
}
