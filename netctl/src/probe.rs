//! What `ping` and `trace` have in common: whom they ask, by which socket, and what comes back.
//!
//! A probe is a datagram of the stack ([`libnetclient`]): what is seen is the stack's way to the target, not the
//! kernel's. Names are looked up by this machine's resolver.

use crate::group::{Access, Failure};
use crate::table::Family;
use crate::verb::link;
use libnetclient::{Datagram, Flags, PingSocket, SentError, Session, Size, UdpSocket};
use proto::zone;
use rustix::io::Errno;
use std::io::{self, ErrorKind, IoSliceMut};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, ToSocketAddrs};
use std::time::{Duration, Instant};

/// The longest datagram that there is.
const ROOM: usize = 65_536;
/// How long a signal may go unnoticed.
const ATTENTIVE: Duration = Duration::from_millis(100);
/// One socket and its few datagrams.
const SIZE: Size = Size { active: 2, passive: 2, tx_pages: 16, rx_pages: 32 };

/// ICMP's types (RFC 792) and ICMPv6's (RFC 4443) that matter here.
pub mod icmp {
    /// Echo request.
    pub const ECHO: u8 = 8;
    /// Destination unreachable.
    pub const UNREACHABLE: u8 = 3;
    /// Its code for a port that nobody has.
    pub const PORT: u8 = 3;
    /// Time exceeded.
    pub const EXPIRED: u8 = 11;
    /// Echo request.
    pub const ECHO_V6: u8 = 128;
    /// Destination unreachable.
    pub const UNREACHABLE_V6: u8 = 1;
    /// Its code for a port that nobody has.
    pub const PORT_V6: u8 = 4;
    /// Time exceeded.
    pub const EXPIRED_V6: u8 = 3;
    /// Bytes of an echo's header.
    pub const HEADER: usize = 8;
}

/// Whom a verb asks.
#[derive(Debug, Clone)]
pub struct Target {
    /// As the user named it.
    pub name: String,
    /// Where that is; port 0.
    pub addr: SocketAddr,
}

impl Target {
    /// The first address of a name that is of the family. `fe80::1%nic0` names an interface of the stack.
    ///
    /// # Errors
    /// [`Failure::Probe`] when nobody has that name.
    pub fn find(access: &Access, family: Family, name: &str) -> Result<Target, Failure> {
        let unknown = |e| Failure::Probe(name.to_owned(), e);
        if let Some((addr, interface)) = name.split_once('%')
            && let Ok(addr) = addr.parse::<Ipv6Addr>()
        {
            let scope = zone::of_interface(link::index(access, Some(interface))?).into();
            let addr = SocketAddrV6::new(addr, 0, 0, scope).into();
            return Ok(Target { name: name.into(), addr });
        }
        let mut found = (name, 0).to_socket_addrs().map_err(unknown)?;
        let addr = found.find(|addr| family.shows(addr.ip()));
        let addr =
            addr.ok_or_else(|| unknown(io::Error::new(ErrorKind::NotFound, "no address of that family")))?;
        Ok(Target { name: name.into(), addr })
    }

    /// Whether it is of IPv6.
    pub fn is_v6(&self) -> bool {
        self.addr.is_ipv6()
    }

    /// Its address, as it is written.
    pub fn ip(&self) -> IpAddr {
        self.addr.ip()
    }
}

/// What every probe begins with: whom it asks, a session, and a socket of echo requests whose only remote is the
/// target. Fails at once when there is no way to it.
///
/// # Errors
/// [`Failure::Probe`] when nobody has that name, sockd refuses, or there is no way.
pub fn begin(access: &Access, family: Family, host: &str) -> Result<(Target, Session, PingSocket), Failure> {
    let target = Target::find(access, family, host)?;
    let cannot = |e| Failure::Probe(host.to_owned(), e);
    let session =
        Session::at(&access.place().api(), SIZE).map_err(|e| Failure::Probe("no session".into(), e))?;
    let echoes = PingSocket::open_in(&session, target.is_v6()).map_err(cannot)?;
    echoes.datagrams().connect(target.addr).map_err(cannot)?;
    Ok((target, session, echoes))
}

/// An echo request with that number in its sequence field and in `payload` what shall come back; identifier and
/// checksum are the stack's.
pub fn echo(v6: bool, sequence: u16, payload: &[u8]) -> Vec<u8> {
    let [high, low] = sequence.to_be_bytes();
    let kind = if v6 { icmp::ECHO_V6 } else { icmp::ECHO };
    let mut message = vec![kind, 0, 0, 0, 0, 0, high, low];
    message.extend(payload);
    message
}

/// The sequence number of an echo or its answer; `None` for what is shorter than its header.
pub fn sequence(message: &[u8]) -> Option<u16> {
    message.get(6..icmp::HEADER).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
}

/// What came back.
#[derive(Debug)]
pub enum Heard {
    /// A datagram: what is known of it, and its bytes.
    Answer(Datagram, Vec<u8>),
    /// Somebody on the way says what became of a probe.
    Complaint(SentError),
}

/// A socket that probes leave by, and where answers come back.
#[derive(Debug)]
pub struct Ear<'a> {
    socket: &'a UdpSocket,
    room: Vec<u8>,
}

/// Errors that a socket is told because of a probe: the complaint itself follows.
fn is_of_a_probe(error: &io::Error) -> bool {
    let of_probes = [
        Errno::CONNREFUSED,
        Errno::HOSTUNREACH,
        Errno::NETUNREACH,
        Errno::ACCESS,
        Errno::PROTO,
        Errno::NOPROTOOPT,
        Errno::MSGSIZE,
    ];
    of_probes.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

impl<'a> Ear<'a> {
    /// Of a socket, which from here on keeps what became of its datagrams.
    ///
    /// # Errors
    /// As [`UdpSocket::set_sent_errors`].
    pub fn of(socket: &'a UdpSocket) -> io::Result<Ear<'a>> {
        socket.set_sent_errors(true)?;
        Ok(Ear { socket, room: vec![0; ROOM] })
    }

    /// Sends a probe. What an earlier one has left for the socket is no error of this one.
    ///
    /// # Errors
    /// As [`UdpSocket::send_to`].
    pub fn send(&self, mut send: impl FnMut(&UdpSocket) -> io::Result<usize>) -> io::Result<()> {
        match send(self.socket) {
            Err(error) if is_of_a_probe(&error) => send(self.socket).map(drop),
            sent => sent.map(drop),
        }
    }

    /// What came back until `until`, which is waited for unless something is there before; nothing, earlier than
    /// that, now and then, so that the caller can look after signals.
    ///
    /// # Errors
    /// When the session is over.
    pub fn hear(&mut self, until: Instant) -> io::Result<Vec<Heard>> {
        let wait = until.saturating_duration_since(Instant::now()).clamp(Duration::from_micros(1), ATTENTIVE);
        self.socket.set_read_timeout(Some(wait))?;
        let mut heard = Vec::new();
        match self.socket.recv_with(&mut [IoSliceMut::new(&mut self.room)], Flags::default()) {
            Ok(datagram) => heard.push(Heard::Answer(datagram, self.room[..datagram.copied].to_vec())),
            Err(e)
                if matches!(
                    e.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) => {}
            Err(e) if is_of_a_probe(&e) => {}
            Err(e) => return Err(e),
        }
        while let Some(complaint) = self.socket.next_sent_error()? {
            heard.push(Heard::Complaint(complaint));
        }
        Ok(heard)
    }
}
