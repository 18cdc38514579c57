//! Sockets of AF_NETLINK: what the stack's host has, to programs that ask a kernel.
//!
//! NETLINK_ROUTE and NETLINK_SOCK_DIAG are answered for dumps and for one interface; everything that
//! would change something is EOPNOTSUPP. A program's socket is one end of a pair; a request is read from
//! ours or comes with a call that was handed over, and its answers lie in the pair before the call returns.
//!
//! ```text
//! nlmsghdr { len u32, type u16, flags u16, seq u32, pid u32 } body, attributes { len u16, type u16, … }
//! ```

use crate::host::{Address, Host, Link, Neighbour, Route, Socket};
use std::net::IpAddr;

/// linux/netlink.h and linux/rtnetlink.h, linux/sock_diag.h.
const ERROR: u16 = 2;
const DONE: u16 = 3;
const MULTI: u16 = 2;
const DUMP: u16 = 0x300;
const ACK: u16 = 4;
const NEWLINK: u16 = 16;
const GETLINK: u16 = 18;
const NEWADDR: u16 = 20;
const GETADDR: u16 = 22;
const NEWROUTE: u16 = 24;
const GETROUTE: u16 = 26;
const NEWNEIGH: u16 = 28;
const GETNEIGH: u16 = 30;
const GETRULE: u16 = 34;
const GETQDISC: u16 = 38;
const BY_FAMILY: u16 = 20;
/// A header, and what every structure is aligned to.
const HEADER: usize = 16;
const ALIGN: usize = 4;
/// Bytes of answers in one datagram at most: what a program has room for at least (libnetlink).
const BATCH: usize = 8 * 1024;
/// sockaddr_nl.
const NAME: usize = 12;

/// Which questions a socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// NETLINK_ROUTE.
    Route,
    /// NETLINK_SOCK_DIAG.
    Diagnosis,
}

impl Protocol {
    /// From the third argument of socket(2); `None` is the kernel's own.
    pub fn from_number(number: i32) -> Option<Protocol> {
        match number {
            libc::NETLINK_ROUTE => Some(Protocol::Route),
            libc::NETLINK_SOCK_DIAG => Some(Protocol::Diagnosis),
            _ => None,
        }
    }

    /// The number of socket(2).
    pub fn number(self) -> i32 {
        match self {
            Protocol::Route => libc::NETLINK_ROUTE,
            Protocol::Diagnosis => libc::NETLINK_SOCK_DIAG,
        }
    }
}

/// The address of a socket (`struct sockaddr_nl`); port 0 is the kernel.
pub fn name(port: u32) -> Vec<u8> {
    let mut name = vec![0; NAME];
    name[..2].copy_from_slice(&(libc::AF_NETLINK as u16).to_ne_bytes());
    name[4..8].copy_from_slice(&port.to_ne_bytes());
    name
}

/// A message that is being built.
struct Message(Vec<u8>);

impl Message {
    fn new(kind: u16, flags: u16, (seq, port): (u32, u32), body: &[u8]) -> Message {
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(seq.to_ne_bytes());
        bytes.extend(port.to_ne_bytes());
        bytes.extend(body);
        Message(bytes)
    }

    fn attribute(mut self, kind: u16, value: &[u8]) -> Message {
        self.0.resize(self.0.len().next_multiple_of(ALIGN), 0);
        self.0.extend((4 + value.len() as u16).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self
    }

    fn address(self, kind: u16, addr: IpAddr) -> Message {
        match addr {
            IpAddr::V4(v4) => self.attribute(kind, &v4.octets()),
            IpAddr::V6(v6) => self.attribute(kind, &v6.octets()),
        }
    }

    fn maybe(self, kind: u16, addr: Option<IpAddr>) -> Message {
        match addr {
            Some(addr) => self.address(kind, addr),
            None => self,
        }
    }

    fn number(self, kind: u16, value: u32) -> Message {
        self.attribute(kind, &value.to_ne_bytes())
    }

    fn text(self, kind: u16, value: &str) -> Message {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes)
    }

    fn done(mut self) -> Vec<u8> {
        let len = self.0.len() as u32;
        self.0[..4].copy_from_slice(&len.to_ne_bytes());
        self.0.resize(self.0.len().next_multiple_of(ALIGN), 0);
        self.0
    }
}

fn family_of(addr: IpAddr) -> u8 {
    if addr.is_ipv4() { libc::AF_INET as u8 } else { libc::AF_INET6 as u8 }
}

fn scope_of(addr: IpAddr) -> u8 {
    const UNIVERSE: u8 = 0;
    const LINK: u8 = 253;
    const HOST: u8 = 254;
    match addr {
        addr if addr.is_loopback() => HOST,
        IpAddr::V6(v6) if v6.is_unicast_link_local() => LINK,
        _ => UNIVERSE,
    }
}

fn link(link: &Link, flags: u16, ids: (u32, u32)) -> Vec<u8> {
    const ETHER: u16 = 1;
    const LOOPBACK: u16 = 772;
    const OPER_UNKNOWN: u8 = 0;
    const OPER_DOWN: u8 = 2;
    const OPER_UP: u8 = 6;
    let mut body = vec![0; 16];
    let kind = if link.is_loopback() { LOOPBACK } else { ETHER };
    body[2..4].copy_from_slice(&kind.to_ne_bytes());
    body[4..8].copy_from_slice(&link.index.to_ne_bytes());
    body[8..12].copy_from_slice(&link.flags.to_ne_bytes());
    let up = link.flags & libc::IFF_UP.cast_unsigned() != 0;
    let state = match (link.is_loopback(), up) {
        (true, _) => OPER_UNKNOWN,
        (false, true) => OPER_UP,
        (false, false) => OPER_DOWN,
    };
    let broadcast = if link.is_loopback() { [0; 6] } else { [0xff; 6] };
    Message::new(NEWLINK, flags, ids, &body)
        .text(3, &link.name)
        .number(13, 1000)
        .attribute(16, &[state])
        .number(4, link.mtu)
        .text(6, "noqueue")
        .attribute(1, &link.mac)
        .attribute(2, &broadcast)
        .done()
}

fn address(address: &Address, links: &[Link], ids: (u32, u32)) -> Vec<u8> {
    const PERMANENT: u32 = 0x80;
    const TENTATIVE: u32 = 0x40;
    let flags = if address.learned { 0 } else { PERMANENT } | if address.tentative { TENTATIVE } else { 0 };
    let body = [family_of(address.addr), address.prefix, flags as u8, scope_of(address.addr)];
    let mut body = body.to_vec();
    body.extend(address.index.to_ne_bytes());
    let message = Message::new(NEWADDR, MULTI, ids, &body).address(1, address.addr);
    let message = match address.addr {
        IpAddr::V4(v4) => {
            let message = message.address(2, address.addr);
            let hosts = u32::MAX.checked_shr(address.prefix.into()).unwrap_or(0);
            let message = match address.addr.is_loopback() || hosts < 2 {
                true => message,
                false => message.attribute(4, &(v4.to_bits() | hosts).to_be_bytes()),
            };
            match links.iter().find(|link| link.index == address.index) {
                Some(link) => message.text(3, &link.name),
                None => message,
            }
        }
        IpAddr::V6(_) => message,
    };
    // struct ifa_cacheinfo: preferred and valid for ever, no stamps.
    let forever = [u32::MAX, u32::MAX, 0, 0].map(u32::to_ne_bytes).concat();
    message.number(8, flags).attribute(6, &forever).done()
}

fn route(route: &Route, ids: (u32, u32)) -> Vec<u8> {
    const KERNEL: u8 = 2;
    const STATIC: u8 = 4;
    const UNIVERSE: u8 = 0;
    const LINK: u8 = 253;
    const UNICAST: u8 = 1;
    let protocol = if route.of_address { KERNEL } else { STATIC };
    let scope = if route.gateway.is_none() && route.to.is_ipv4() { LINK } else { UNIVERSE };
    let table = u8::try_from(route.table).unwrap_or(252);
    let mut body = vec![family_of(route.to), route.prefix, 0, 0, table, protocol, scope, UNICAST];
    body.extend([0; 4]);
    let message = Message::new(NEWROUTE, MULTI, ids, &body).number(15, route.table);
    let message = if route.prefix > 0 { message.address(1, route.to) } else { message };
    let message = if route.metric > 0 { message.number(6, route.metric) } else { message };
    message.maybe(7, route.source).maybe(5, route.gateway).number(4, route.index).done()
}

fn neighbour(neighbour: &Neighbour, ids: (u32, u32)) -> Vec<u8> {
    const PERMANENT: u16 = 0x80;
    let mut body = vec![family_of(neighbour.addr), 0, 0, 0];
    body.extend(neighbour.index.to_ne_bytes());
    body.extend(PERMANENT.to_ne_bytes());
    body.extend([0, 1]);
    Message::new(NEWNEIGH, MULTI, ids, &body).address(1, neighbour.addr).attribute(2, &neighbour.mac).done()
}

/// struct inet_diag_msg.
fn socket(socket: &Socket, ids: (u32, u32)) -> Vec<u8> {
    let octets = |addr: IpAddr| {
        let mut octets = [0; 16];
        match addr {
            IpAddr::V4(v4) => octets[..4].copy_from_slice(&v4.octets()),
            IpAddr::V6(v6) => octets = v6.octets(),
        }
        octets
    };
    let mut body = vec![family_of(socket.local.ip()), socket.state, 0, 0];
    body.extend(socket.local.port().to_be_bytes());
    body.extend(socket.remote.port().to_be_bytes());
    body.extend(octets(socket.local.ip()));
    body.extend(octets(socket.remote.ip()));
    // The interface, the cookie, the timer, both queues; then whose it is, and no inode.
    body.extend([0; 4]);
    body.extend([0xff; 8]);
    body.extend([0; 4]);
    body.extend(socket.received.to_ne_bytes());
    body.extend(socket.sent.to_ne_bytes());
    body.extend(socket.uid.to_ne_bytes());
    body.extend([0; 4]);
    Message::new(BY_FAMILY, MULTI, ids, &body).done()
}

/// A request of a program.
struct Request<'a> {
    kind: u16,
    flags: u16,
    seq: u32,
    header: &'a [u8],
    body: &'a [u8],
}

/// Takes the requests apart; what is cut short is left out, as a kernel does.
fn requests(bytes: &[u8]) -> Vec<Request<'_>> {
    let (mut found, mut rest) = (Vec::new(), bytes);
    while rest.len() >= HEADER {
        let word = |at: usize| u32::from_ne_bytes([rest[at], rest[at + 1], rest[at + 2], rest[at + 3]]);
        let len = word(0) as usize;
        if len < HEADER || len > rest.len() {
            break;
        }
        let half = |at: usize| u16::from_ne_bytes([rest[at], rest[at + 1]]);
        let (kind, flags, seq) = (half(4), half(6), word(8));
        found.push(Request { kind, flags, seq, header: &rest[..HEADER], body: &rest[HEADER..len] });
        rest = &rest[len.next_multiple_of(ALIGN).min(rest.len())..];
    }
    found
}

impl Request<'_> {
    fn byte(&self, at: usize) -> u8 {
        self.body.get(at).copied().unwrap_or(0)
    }

    fn word(&self, at: usize) -> u32 {
        self.body.get(at..at + 4).map_or(0, |word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]]))
    }

    /// An attribute behind a body of that size.
    fn attribute(&self, size: usize, wanted: u16) -> Option<&[u8]> {
        let mut rest = self.body.get(size..)?;
        while rest.len() >= 4 {
            let half = |at: usize| u16::from_ne_bytes([rest[at], rest[at + 1]]);
            let len = usize::from(half(0));
            if len < 4 || len > rest.len() {
                return None;
            }
            if half(2) == wanted {
                return Some(&rest[4..len]);
            }
            rest = &rest[len.next_multiple_of(ALIGN).min(rest.len())..];
        }
        None
    }

    fn failure(&self, errno: i32, port: u32) -> Vec<u8> {
        let mut body = (-errno).to_ne_bytes().to_vec();
        body.extend(self.header);
        Message::new(ERROR, 0, (self.seq, port), &body).done()
    }
}

/// What a dump says, without its end; an errno for what is not answered.
fn dump(host: &mut Host, protocol: Protocol, request: &Request<'_>, port: u32) -> Result<Vec<Vec<u8>>, i32> {
    let ids = (request.seq, port);
    let family = request.byte(0);
    let shown = |addr: IpAddr| family == 0 || family == family_of(addr);
    Ok(match (protocol, request.kind) {
        (Protocol::Route, GETLINK) => host.links().iter().map(|one| link(one, MULTI, ids)).collect(),
        (Protocol::Route, GETADDR) => {
            let (links, wanted) = (host.links(), request.word(4));
            let addresses = host.addresses();
            let shown =
                addresses.iter().filter(|one| shown(one.addr) && (wanted == 0 || wanted == one.index));
            shown.map(|one| address(one, &links, ids)).collect()
        }
        (Protocol::Route, GETROUTE) => {
            host.routes().iter().filter(|one| shown(one.to)).map(|one| route(one, ids)).collect()
        }
        (Protocol::Route, GETNEIGH) => {
            host.neighbours().iter().filter(|one| shown(one.addr)).map(|one| neighbour(one, ids)).collect()
        }
        (Protocol::Route, GETRULE | GETQDISC) => Vec::new(),
        (Protocol::Diagnosis, BY_FAMILY) => {
            // struct inet_diag_req_v2: family, protocol, extensions, padding, states.
            let (protocol, states) = (request.byte(1), request.word(4));
            let sockets = host.sockets();
            let wanted = |one: &&Socket| {
                shown(one.local.ip()) && one.protocol == protocol && states >> one.state & 1 == 1
            };
            sockets.iter().filter(wanted).map(|one| socket(one, ids)).collect()
        }
        _ => return Err(libc::EOPNOTSUPP),
    })
}

/// One interface, by its number or its name.
fn one_link(host: &mut Host, request: &Request<'_>, port: u32) -> Result<Vec<u8>, i32> {
    let (index, name) = (request.word(4), request.attribute(16, 3));
    let name = name.map(|name| String::from_utf8_lossy(name).trim_end_matches('\0').to_owned());
    let found = host.links().into_iter().find(|link| match &name {
        Some(name) if index == 0 => link.name == *name,
        _ => link.index == index,
    });
    found.map(|found| link(&found, 0, (request.seq, port))).ok_or(libc::ENODEV)
}

/// Answers what a datagram asks for; `port` is the program's. Each part is a datagram of its own.
pub fn answer(host: &mut Host, protocol: Protocol, datagram: &[u8], port: u32) -> Vec<Vec<u8>> {
    let mut answers = Vec::new();
    for request in requests(datagram) {
        if request.flags & DUMP != 0 {
            match dump(host, protocol, &request, port) {
                Ok(messages) => {
                    let mut batch = Vec::new();
                    for message in messages {
                        if batch.len() + message.len() > BATCH {
                            answers.push(core::mem::take(&mut batch));
                        }
                        batch.extend(message);
                    }
                    let end = Message::new(DONE, MULTI, (request.seq, port), &0u32.to_ne_bytes()).done();
                    batch.extend(end);
                    answers.push(batch);
                }
                Err(errno) => answers.push(request.failure(errno, port)),
            }
            continue;
        }
        let one = match (protocol, request.kind) {
            (Protocol::Route, GETLINK) => one_link(host, &request, port),
            _ => Err(libc::EOPNOTSUPP),
        };
        match one {
            Ok(message) => {
                answers.push(message);
                if request.flags & ACK != 0 {
                    answers.push(request.failure(0, port));
                }
            }
            Err(errno) => answers.push(request.failure(errno, port)),
        }
    }
    answers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
        Message::new(kind, flags, (7, 0), body).done()
    }

    #[test]
    fn a_dump_ends_and_a_change_is_refused() {
        let mut host = Host::default();
        let answers = answer(&mut host, Protocol::Route, &asked(GETLINK, DUMP | 1, &[0; 16]), 99);
        let all = answers.concat();
        let messages = requests(&all);
        assert_eq!(messages.first().map(|message| message.kind), Some(NEWLINK), "loopback is always there");
        assert_eq!(messages.last().map(|message| (message.kind, message.seq)), Some((DONE, 7)));
        let refused = answer(&mut host, Protocol::Route, &asked(NEWADDR, 1 | ACK, &[0; 8]), 99).concat();
        let refused = requests(&refused);
        assert_eq!((refused[0].kind, refused[0].word(0).cast_signed()), (ERROR, -libc::EOPNOTSUPP));
    }

    #[test]
    fn one_interface_is_found_by_name() {
        let mut host = Host::default();
        let by_name = |name: &str| Message::new(GETLINK, 1, (1, 0), &[0; 16]).text(3, name).done();
        let found = answer(&mut host, Protocol::Route, &by_name("lo"), 5).concat();
        assert_eq!(requests(&found)[0].word(4), 1);
        let missing = answer(&mut host, Protocol::Route, &by_name("none"), 5).concat();
        assert_eq!(requests(&missing)[0].word(0).cast_signed(), -libc::ENODEV);
    }

    #[test]
    fn what_is_cut_short_is_left_out() {
        let whole = asked(GETLINK, DUMP, &[0; 16]);
        for len in 0..whole.len() {
            assert!(requests(&whole[..len]).is_empty(), "{len}");
        }
    }
}
