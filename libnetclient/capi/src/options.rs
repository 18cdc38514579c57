//! getsockopt, setsockopt, fcntl, ioctl.
//!
//! What a kernel has and the stack does not is ENOPROTOOPT, never a silent success. Options that are
//! set before a socket has a place wait in [`Options`]; an accepted connection gets its listener's.

#![expect(unsafe_code, reason = "the border to C")]

use crate::abi::{self, Errno, Outcome, int};
use crate::datagram_options::Told;
use crate::entry::{Entry, State, lock};
use crate::resume::OPTIONS_SIZE;
use crate::table;
use libc::{c_int, c_ulong, c_void, socklen_t, timeval};
use libnetclient::{Algorithm, Binding, Keepalive, TcpInfo, TcpListener, TcpStream, UdpSocket};
use proto::hard::conns::TcpState;
use std::time::Duration;

/// Linux's SOCK_MIN_SNDBUF and SOCK_MIN_RCVBUF: smaller wishes are raised.
const SEND_BUFFER_MIN: u32 = 4608;
const RECEIVE_BUFFER_MIN: u32 = 2304;
/// What a socket has that asks for nothing: the stack's window, doubled as Linux shows it.
const BUFFER_DEFAULT: u32 = 2 * proto::arena::WINDOW_MAX;
/// What the stack takes when nothing was set: Linux's defaults of tcp_keepalive_*.
const KEEPALIVE_DEFAULT: Keepalive = Keepalive { idle_s: 7200, interval_s: 75, count: 9 };
/// Linux's MAX_TCP_KEEPIDLE, MAX_TCP_KEEPINTVL and MAX_TCP_KEEPCNT.
const KEEP_SECONDS_MAX: c_int = 32767;
const KEEP_COUNT_MAX: c_int = 127;
/// Linux's TCP_MIN_MSS and MAX_TCP_WINDOW.
const MAXSEG_MIN: c_int = 88;
const MAXSEG_MAX: c_int = 32767;
/// Linux's TCP_CA_NAME_MAX.
const CONGESTION_NAME_MAX: usize = 16;

/// Linux's number, which the libc crate does not have.
const SIOCATMARK: c_ulong = 0x8905;

/// What was set.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Options {
    reuse_address: bool,
    reuse_port: bool,
    broadcast: bool,
    packet_info: bool,
    v6_only: bool,
    /// What is told of a datagram that was received.
    pub(crate) told: Told,
    /// Hops of a datagram (IP_TTL, IPV6_UNICAST_HOPS); `None` leaves it to the stack.
    pub(crate) hops: Option<u8>,
    /// Differentiated services of a datagram (IP_TOS, IPV6_TCLASS).
    pub(crate) tos: u8,
    keepalive: bool,
    keep: Keepalive,
    nodelay: bool,
    cork: bool,
    quickack: bool,
    user_timeout_ms: u32,
    oob_inline: bool,
    /// In bytes; 0 when nothing was set.
    mss_max: u16,
    notsent_lowat: u32,
    congestion: Algorithm,
    /// TCP_FASTOPEN of a listener: how many may wait; more than none switches it on.
    fast_open: u32,
    pub(crate) linger: Option<Duration>,
    /// In bytes, as asked for; 0 when nothing was.
    send_buffer: u32,
    receive_buffer: u32,
    pub(crate) receive_timeout: Option<Duration>,
    pub(crate) send_timeout: Option<Duration>,
}

impl Options {
    /// Sets on a connection what differs from the default. A session that is over shows at the next
    /// call for the connection.
    pub(crate) fn apply(&self, stream: &TcpStream) {
        // First: a SYN that is held leaves with the first word.
        if self.shape_syn() {
            let _ = self.tell_mss_congestion(stream);
        }
        stream.set_linger(self.linger);
        stream.set_send_buffer(self.send_buffer);
        let _ = stream.set_read_timeout(self.receive_timeout);
        let _ = stream.set_write_timeout(self.send_timeout);
        if self.nodelay {
            let _ = stream.set_nodelay(true);
        }
        if self.cork {
            let _ = stream.set_cork(true);
        }
        if self.quickack {
            let _ = stream.set_quickack(true);
        }
        if self.keepalive || self.keep != Keepalive::default() {
            let _ = stream.set_keepalive_times(self.keepalive, self.keep);
        }
        if self.user_timeout_ms > 0 {
            let _ = stream.set_user_timeout(self.user_timeout());
        }
        if self.receive_buffer > 0 {
            let _ = stream.set_receive_buffer(self.receive_buffer);
        }
        if self.notsent_lowat > 0 {
            let _ = stream.set_notsent_lowat(self.notsent_lowat);
        }
        stream.set_oob_inline(self.oob_inline);
    }

    /// What of the options counts for a SYN or a SYN-ACK.
    pub(crate) fn shape_syn(&self) -> bool {
        self.mss_max > 0 || self.congestion != Algorithm::default()
    }

    /// What a listener has to know of them.
    pub(crate) fn apply_to_listener(&self, listener: &TcpListener) -> std::io::Result<()> {
        listener.set_accept_timeout(self.receive_timeout)?;
        if self.shape_syn() || self.fast_open > 0 {
            listener.set_opening(self.mss_max, self.congestion, self.fast_open > 0)?;
        }
        Ok(())
    }

    fn tell_mss_congestion(&self, stream: &TcpStream) -> std::io::Result<()> {
        stream.set_mss_max(self.mss_max)?;
        stream.set_congestion(self.congestion)
    }

    /// As they are written down: flags, then the numbers; 0 is what was not set. A time to linger
    /// counts from 1.
    pub(crate) fn to_bytes(self) -> [u8; OPTIONS_SIZE] {
        let flags = [
            self.reuse_address,
            self.broadcast,
            self.packet_info,
            self.v6_only,
            self.keepalive,
            self.nodelay,
            self.cork,
            self.quickack,
            self.reuse_port,
            self.oob_inline,
            self.told.ttl,
            self.told.tos,
            self.told.hop_limit,
            self.told.traffic_class,
            self.told.packet_info_v6,
        ];
        let flags = flags.iter().enumerate().fold(0u32, |all, (n, on)| all | u32::from(*on) << n);
        let words = [
            flags,
            self.keep.idle_s,
            self.keep.interval_s,
            self.keep.count,
            self.user_timeout_ms,
            self.send_buffer,
            self.receive_buffer,
            self.linger
                .map_or(0, |linger| u32::try_from(linger.as_secs()).unwrap_or(u32::MAX).saturating_add(1)),
            self.hops.map_or(0, |hops| u32::from(hops) + 1),
            self.tos.into(),
        ];
        let mut out = [0; OPTIONS_SIZE];
        for (at, word) in out.chunks_exact_mut(4).zip(words) {
            at.copy_from_slice(&word.to_ne_bytes());
        }
        out
    }

    /// From what [`Options::to_bytes`] made.
    pub(crate) fn from_bytes(bytes: &[u8; OPTIONS_SIZE]) -> Options {
        let mut words =
            bytes.chunks_exact(4).map(|word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
        let mut next = || words.next().unwrap_or(0);
        let flags = next();
        let has = |n: u32| flags >> n & 1 == 1;
        let keep = Keepalive { idle_s: next(), interval_s: next(), count: next() };
        let (user_timeout_ms, send_buffer, receive_buffer) = (next(), next(), next());
        let linger = next().checked_sub(1).map(|s| Duration::from_secs(s.into()));
        let hops = next().checked_sub(1).map(|hops| hops as u8);
        let told = Told {
            ttl: has(10),
            tos: has(11),
            hop_limit: has(12),
            traffic_class: has(13),
            packet_info_v6: has(14),
        };
        Options {
            reuse_port: has(8),
            oob_inline: has(9),
            told,
            hops,
            tos: next() as u8,
            reuse_address: has(0),
            broadcast: has(1),
            packet_info: has(2),
            v6_only: has(3),
            keepalive: has(4),
            nodelay: has(5),
            cork: has(6),
            quickack: has(7),
            keep,
            user_timeout_ms,
            send_buffer,
            receive_buffer,
            linger,
            ..Options::default()
        }
    }

    pub(crate) fn apply_to_datagram(&self, socket: &UdpSocket) {
        let _ = socket.set_read_timeout(self.receive_timeout);
        let _ = socket.set_write_timeout(self.send_timeout);
        socket.set_send_buffer(self.send_buffer);
        // A session that is over shows at the next call for the socket.
        if self.receive_buffer > 0 {
            let _ = socket.set_receive_buffer(self.receive_buffer);
        }
        if self.broadcast != socket.broadcast().unwrap_or(false) {
            let _ = socket.set_broadcast(self.broadcast);
        }
        socket.set_manner(|manner| (manner.hops, manner.tos) = (self.hops, self.tos));
    }

    fn user_timeout(&self) -> Option<Duration> {
        (self.user_timeout_ms > 0).then(|| Duration::from_millis(self.user_timeout_ms.into()))
    }
}

impl Entry {
    /// Changes an option and tells the socket, if it has a place.
    pub(crate) fn set(
        &self,
        change: impl FnOnce(&mut Options),
        tell: impl Fn(&Options, &TcpStream) -> std::io::Result<()>,
    ) -> Outcome<()> {
        let options = {
            let mut options = lock(&self.options);
            change(&mut options);
            *options
        };
        match self.state() {
            State::Stream { stream, .. } => Ok(tell(&options, &stream)?),
            State::Datagram(socket) => {
                options.apply_to_datagram(&socket);
                Ok(())
            }
            State::Listener { listener, .. } => Ok(options.apply_to_listener(&listener)?),
            State::Fresh => Ok(()),
            State::Epoll(_) => Err(Errno(libc::ENOTSOCK)),
        }
    }

    /// How it is bound, for a queue of so many connections.
    pub(crate) fn binding(&self, backlog: Option<u32>) -> Binding {
        let options = lock(&self.options);
        let (reuse_address, reuse_port) = (options.reuse_address, options.reuse_port);
        Binding { backlog, v6_only: options.v6_only, reuse_address, reuse_port }
    }

    /// Whether IP_PKTINFO is set.
    pub(crate) fn wants_packet_info(&self) -> bool {
        lock(&self.options).packet_info
    }

    fn take_error(&self) -> Outcome<c_int> {
        let error = match self.state() {
            State::Stream { stream, .. } => stream.take_error()?,
            State::Listener { listener, .. } => listener.take_error()?,
            State::Datagram(socket) => socket.take_error()?,
            State::Fresh => None,
            State::Epoll(_) => return Err(Errno(libc::ENOTSOCK)),
        };
        Ok(error.map_or(0, |error| Errno::from(error).0))
    }

    fn is_tcp(&self) -> Outcome<()> {
        if self.kind == libc::SOCK_STREAM { Ok(()) } else { Err(Errno(libc::ENOPROTOOPT)) }
    }

    fn set_option(&self, level: c_int, name: c_int, value: &[u8]) -> Outcome<()> {
        if self.kind == 0 {
            return Err(Errno(libc::ENOTSOCK));
        }
        let number = || -> Outcome<c_int> {
            let four = value.first_chunk::<4>().ok_or(Errno(libc::EINVAL))?;
            Ok(c_int::from_ne_bytes(*four))
        };
        let within = |most: c_int| match number()? {
            value if (1..=most).contains(&value) => Ok(value as u32),
            _ => Err(Errno(libc::EINVAL)),
        };
        let nothing = |_: &Options, _: &TcpStream| Ok(());
        if self.kind == libc::SOCK_DGRAM
            && matches!(level, libc::IPPROTO_IP | libc::IPPROTO_IPV6)
            && let Some(outcome) = number().map_or(None, |number| self.set_of_datagram(level, name, number))
        {
            return outcome;
        }
        match (level, name) {
            (libc::SOL_SOCKET, libc::SO_REUSEADDR) => {
                let on = number()? != 0;
                self.set(|options| options.reuse_address = on, nothing)
            }
            (libc::SOL_SOCKET, libc::SO_REUSEPORT) => {
                let on = number()? != 0;
                self.set(|options| options.reuse_port = on, nothing)
            }
            (libc::SOL_SOCKET, libc::SO_KEEPALIVE) => {
                let on = number()? != 0;
                let tell = |o: &Options, s: &TcpStream| s.set_keepalive_times(o.keepalive, o.keep);
                self.set(|options| options.keepalive = on, tell)
            }
            (libc::SOL_SOCKET, libc::SO_LINGER) => {
                let (on, seconds) = (number()? != 0, value.get(4..8).ok_or(Errno(libc::EINVAL))?);
                let seconds = c_int::from_ne_bytes([seconds[0], seconds[1], seconds[2], seconds[3]]);
                let linger =
                    on.then(|| Duration::from_secs(u64::try_from(seconds).unwrap_or(u64::from(u32::MAX))));
                let tell = |o: &Options, s: &TcpStream| {
                    s.set_linger(o.linger);
                    Ok(())
                };
                self.set(|options| options.linger = linger, tell)
            }
            (libc::SOL_SOCKET, libc::SO_OOBINLINE) => {
                let on = number()? != 0;
                let tell = |o: &Options, s: &TcpStream| {
                    s.set_oob_inline(o.oob_inline);
                    Ok(())
                };
                self.set(|options| options.oob_inline = on, tell)
            }
            (libc::SOL_SOCKET, libc::SO_SNDBUF) => {
                // Linux doubles what is asked for, for its own overhead, and shows it doubled.
                let bytes = u32::try_from(number()?).unwrap_or(u32::MAX / 2).max(SEND_BUFFER_MIN / 2);
                let tell = |o: &Options, s: &TcpStream| {
                    s.set_send_buffer(o.send_buffer);
                    Ok(())
                };
                self.set(|options| options.send_buffer = bytes, tell)
            }
            (libc::SOL_SOCKET, libc::SO_RCVBUF) => {
                let bytes = u32::try_from(number()?).unwrap_or(u32::MAX / 2).max(RECEIVE_BUFFER_MIN / 2);
                self.set(
                    |options| options.receive_buffer = bytes,
                    |o, s| s.set_receive_buffer(o.receive_buffer),
                )
            }
            (libc::SOL_SOCKET, libc::SO_RCVTIMEO) => {
                let timeout = timeout_of(value)?;
                self.set(
                    |options| options.receive_timeout = timeout,
                    |o, s| s.set_read_timeout(o.receive_timeout),
                )
            }
            (libc::SOL_SOCKET, libc::SO_SNDTIMEO) => {
                let timeout = timeout_of(value)?;
                self.set(|options| options.send_timeout = timeout, |o, s| s.set_write_timeout(o.send_timeout))
            }
            (libc::SOL_SOCKET, libc::SO_BROADCAST) => {
                let on = number()? != 0;
                self.set(|options| options.broadcast = on, nothing)
            }
            (libc::IPPROTO_IP, libc::IP_PKTINFO) if self.kind == libc::SOCK_DGRAM => {
                let on = number()? != 0;
                self.set(|options| options.packet_info = on, nothing)
            }
            // ipv6(7): only before the socket is bound.
            (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY) if self.family == libc::AF_INET6 => {
                let on = number()? != 0;
                match self.state() {
                    State::Fresh => {
                        lock(&self.options).v6_only = on;
                        Ok(())
                    }
                    _ => Err(Errno(libc::EINVAL)),
                }
            }
            (libc::SOL_SOCKET, _) => Err(Errno(libc::ENOPROTOOPT)),
            (libc::IPPROTO_TCP, libc::TCP_NODELAY) => {
                self.is_tcp()?;
                let on = number()? != 0;
                self.set(|options| options.nodelay = on, |o, s| s.set_nodelay(o.nodelay))
            }
            (libc::IPPROTO_TCP, libc::TCP_CORK) => {
                self.is_tcp()?;
                let on = number()? != 0;
                self.set(|options| options.cork = on, |o, s| s.set_cork(o.cork))
            }
            (libc::IPPROTO_TCP, libc::TCP_QUICKACK) => {
                self.is_tcp()?;
                let on = number()? != 0;
                self.set(|options| options.quickack = on, |o, s| s.set_quickack(o.quickack))
            }
            (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE | libc::TCP_KEEPINTVL | libc::TCP_KEEPCNT) => {
                self.is_tcp()?;
                let value =
                    within(if name == libc::TCP_KEEPCNT { KEEP_COUNT_MAX } else { KEEP_SECONDS_MAX })?;
                let change = |options: &mut Options| match name {
                    libc::TCP_KEEPIDLE => options.keep.idle_s = value,
                    libc::TCP_KEEPINTVL => options.keep.interval_s = value,
                    _ => options.keep.count = value,
                };
                self.set(change, |o, s| s.set_keepalive_times(o.keepalive, o.keep))
            }
            (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT) => {
                self.is_tcp()?;
                let ms = u32::try_from(number()?).map_err(|_| Errno(libc::EINVAL))?;
                self.set(|options| options.user_timeout_ms = ms, |o, s| s.set_user_timeout(o.user_timeout()))
            }
            (libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT) => {
                self.is_tcp()?;
                // As Linux: any number, seen as an unsigned one; the largest stands for no limit.
                let bytes = number()? as u32;
                self.set(|options| options.notsent_lowat = bytes, |o, s| s.set_notsent_lowat(o.notsent_lowat))
            }
            (libc::IPPROTO_TCP, libc::TCP_FASTOPEN) => {
                self.is_tcp()?;
                let waiting = u32::try_from(number()?).map_err(|_| Errno(libc::EINVAL))?;
                self.set(|options| options.fast_open = waiting, nothing)
            }
            (libc::IPPROTO_TCP, libc::TCP_MAXSEG) => {
                self.is_tcp()?;
                let bytes = match number()? {
                    bytes if bytes == 0 || (MAXSEG_MIN..=MAXSEG_MAX).contains(&bytes) => bytes as u16,
                    _ => return Err(Errno(libc::EINVAL)),
                };
                self.set(|options| options.mss_max = bytes, |o, s| s.set_mss_max(o.mss_max))
            }
            (libc::IPPROTO_TCP, libc::TCP_CONGESTION) => {
                self.is_tcp()?;
                let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
                let name = std::str::from_utf8(&value[..end]).map_err(|_| Errno(libc::ENOENT))?;
                let algorithm = Algorithm::from_name(name).ok_or(Errno(libc::ENOENT))?;
                self.set(|options| options.congestion = algorithm, |o, s| s.set_congestion(o.congestion))
            }
            _ => Err(Errno(libc::ENOPROTOOPT)),
        }
    }

    fn get_option(&self, level: c_int, name: c_int, out: &mut Value) -> Outcome<()> {
        if self.kind == 0 {
            return Err(Errno(libc::ENOTSOCK));
        }
        let options = *lock(&self.options);
        let doubled = |bytes: u32| if bytes == 0 { BUFFER_DEFAULT } else { bytes.saturating_mul(2) } as c_int;
        let or = |value: u32, default: u32| if value == 0 { default } else { value } as c_int;
        let of_datagram = match self.kind {
            libc::SOCK_DGRAM => self.get_of_datagram(level, name),
            _ => None,
        };
        let number = match (level, name) {
            _ if of_datagram.is_some() => of_datagram.unwrap_or_default(),
            (libc::SOL_SOCKET, libc::SO_ERROR) => self.take_error()?,
            (libc::SOL_SOCKET, libc::SO_TYPE) => self.kind,
            (libc::SOL_SOCKET, libc::SO_DOMAIN) => self.family,
            (libc::SOL_SOCKET, libc::SO_PROTOCOL) if self.kind == libc::SOCK_STREAM => libc::IPPROTO_TCP,
            (libc::SOL_SOCKET, libc::SO_PROTOCOL) => libc::IPPROTO_UDP,
            (libc::SOL_SOCKET, libc::SO_ACCEPTCONN) => {
                c_int::from(matches!(self.state(), State::Listener { listening: true, .. }))
            }
            (libc::SOL_SOCKET, libc::SO_REUSEADDR) => c_int::from(options.reuse_address),
            (libc::SOL_SOCKET, libc::SO_REUSEPORT) => c_int::from(options.reuse_port),
            (libc::SOL_SOCKET, libc::SO_KEEPALIVE) => c_int::from(options.keepalive),
            (libc::SOL_SOCKET, libc::SO_BROADCAST) => c_int::from(options.broadcast),
            (libc::SOL_SOCKET, libc::SO_OOBINLINE) => c_int::from(options.oob_inline),
            (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY) if self.family == libc::AF_INET6 => {
                c_int::from(options.v6_only)
            }
            (libc::IPPROTO_IP, libc::IP_PKTINFO) if self.kind == libc::SOCK_DGRAM => {
                c_int::from(options.packet_info)
            }
            (libc::SOL_SOCKET, libc::SO_SNDBUF) => doubled(options.send_buffer),
            (libc::SOL_SOCKET, libc::SO_RCVBUF) => doubled(options.receive_buffer),
            (libc::SOL_SOCKET, libc::SO_LINGER) => {
                let seconds = options.linger.map_or(0, |linger| linger.as_secs() as c_int);
                out.put(&c_int::from(options.linger.is_some()).to_ne_bytes());
                out.put(&seconds.to_ne_bytes());
                return Ok(());
            }
            (libc::SOL_SOCKET, libc::SO_RCVTIMEO | libc::SO_SNDTIMEO) => {
                let timeout = match name {
                    libc::SO_RCVTIMEO => options.receive_timeout,
                    _ => options.send_timeout,
                };
                let timeout = timeout.unwrap_or_default();
                out.put(&(timeout.as_secs() as libc::time_t).to_ne_bytes());
                out.put(&libc::suseconds_t::from(timeout.subsec_micros()).to_ne_bytes());
                return Ok(());
            }
            (libc::IPPROTO_TCP, _) => {
                self.is_tcp()?;
                match name {
                    libc::TCP_NODELAY => c_int::from(options.nodelay),
                    libc::TCP_CORK => c_int::from(options.cork),
                    libc::TCP_QUICKACK => c_int::from(options.quickack),
                    libc::TCP_KEEPIDLE => or(options.keep.idle_s, KEEPALIVE_DEFAULT.idle_s),
                    libc::TCP_KEEPINTVL => or(options.keep.interval_s, KEEPALIVE_DEFAULT.interval_s),
                    libc::TCP_KEEPCNT => or(options.keep.count, KEEPALIVE_DEFAULT.count),
                    libc::TCP_USER_TIMEOUT => options.user_timeout_ms as c_int,
                    // RFC 9293 §3.7.1: 536 where nothing is known yet.
                    libc::TCP_MAXSEG => match (self.info(), options.mss_max) {
                        (Some(info), _) => info.mss.max(1) as c_int,
                        (None, 0) => 536,
                        (None, most) => c_int::from(most),
                    },
                    libc::TCP_FASTOPEN => options.fast_open as c_int,
                    libc::TCP_NOTSENT_LOWAT => options.notsent_lowat as c_int,
                    libc::TCP_CONGESTION => {
                        let mut name = [0; CONGESTION_NAME_MAX];
                        let text = options.congestion.name().as_bytes();
                        name[..text.len()].copy_from_slice(text);
                        out.put(&name);
                        return Ok(());
                    }
                    libc::TCP_INFO => {
                        let info = tcp_info(self.info(), matches!(self.state(), State::Listener { .. }));
                        // SAFETY: plain numbers without padding of their own meaning; zeroed where it
                        // was not filled in.
                        let bytes = unsafe {
                            std::slice::from_raw_parts(
                                (&raw const info).cast::<u8>(),
                                size_of::<libc::tcp_info>(),
                            )
                        };
                        out.put(bytes);
                        return Ok(());
                    }
                    _ => return Err(Errno(libc::ENOPROTOOPT)),
                }
            }
            _ => return Err(Errno(libc::ENOPROTOOPT)),
        };
        out.put(&number.to_ne_bytes());
        Ok(())
    }

    fn info(&self) -> Option<TcpInfo> {
        match self.state() {
            State::Stream { stream, .. } => Some(stream.info()),
            _ => None,
        }
    }
}

/// An option's value on its way out.
struct Value {
    bytes: [u8; 512],
    len: usize,
}

impl Value {
    fn put(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }
}

/// Linux's numbers of the states (include/net/tcp_states.h).
fn linux_state(state: TcpState) -> u8 {
    match state {
        TcpState::Established => 1,
        TcpState::SynSent => 2,
        TcpState::SynReceived => 3,
        TcpState::FinWait1 => 4,
        TcpState::FinWait2 => 5,
        TcpState::TimeWait => 6,
        TcpState::Closed => 7,
        TcpState::CloseWait => 8,
        TcpState::LastAck => 9,
        TcpState::Listen => 10,
        TcpState::Closing => 11,
    }
}

fn tcp_info(info: Option<TcpInfo>, listens: bool) -> libc::tcp_info {
    // SAFETY: a structure of numbers, for which zero is a value.
    let mut out: libc::tcp_info = unsafe { std::mem::zeroed() };
    out.tcpi_state = linux_state(if listens { TcpState::Listen } else { TcpState::Closed });
    let Some(info) = info else { return out };
    let mss = info.mss.max(1);
    out.tcpi_state = linux_state(info.state);
    out.tcpi_snd_mss = info.mss;
    out.tcpi_snd_cwnd = info.cwnd / mss;
    out.tcpi_rtt = info.rtt_us;
    out.tcpi_rttvar = info.rtt_var_us;
    out.tcpi_total_retrans = info.retransmits;
    out.tcpi_unacked = u32::try_from(info.unacknowledged.div_ceil(mss.into())).unwrap_or(u32::MAX);
    out.tcpi_bytes_acked = info.acknowledged;
    out.tcpi_bytes_received = info.received;
    out
}

fn timeout_of(value: &[u8]) -> Outcome<Option<Duration>> {
    if value.len() < size_of::<timeval>() {
        return Err(Errno(libc::EINVAL));
    }
    let word = |at: usize| value[at..at + 8].first_chunk::<8>().map_or(0, |bytes| i64::from_ne_bytes(*bytes));
    let (seconds, micros) = (word(0), word(8));
    if !(0..1_000_000).contains(&micros) {
        return Err(Errno(libc::EDOM));
    }
    // socket(7): zero is no timeout; Linux takes a negative one for an expired one.
    let timeout = match u64::try_from(seconds) {
        Ok(seconds) => Duration::from_secs(seconds) + Duration::from_micros(micros.unsigned_abs()),
        Err(_) => Duration::from_micros(1),
    };
    Ok((!timeout.is_zero()).then_some(timeout))
}

/// setsockopt(2).
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nc_setsockopt(
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *const c_void,
    len: socklen_t,
) -> c_int {
    if !table::is_ours(fd) {
        // SAFETY: by the caller's contract.
        return unsafe { libc::setsockopt(fd, level, name, value, len) };
    }
    int((|| {
        let entry = table::get(fd)?;
        // SAFETY: by the caller's contract.
        let value = unsafe { abi::bytes(value, len as usize) }?;
        entry.set_option(level, name, value)?;
        Ok(0)
    })())
}

/// getsockopt(2). TCP_INFO fills Linux's `struct tcp_info`; what the stack does not count is 0.
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nc_getsockopt(
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *mut c_void,
    len: *mut socklen_t,
) -> c_int {
    if !table::is_ours(fd) {
        // SAFETY: by the caller's contract.
        return unsafe { libc::getsockopt(fd, level, name, value, len) };
    }
    int((|| {
        let entry = table::get(fd)?;
        if len.is_null() {
            return Err(Errno(libc::EFAULT));
        }
        // SAFETY: by the caller's contract.
        let room = unsafe { *len } as usize;
        // SAFETY: by the caller's contract.
        let place = unsafe { abi::buffer(value, room) }?;
        let mut out = Value { bytes: [0; 512], len: 0 };
        entry.get_option(level, name, &mut out)?;
        let cut = out.len.min(room);
        place[..cut].copy_from_slice(&out.bytes[..cut]);
        // SAFETY: by the caller's contract.
        unsafe { *len = cut as socklen_t };
        Ok(0)
    })())
}

/// fcntl(2): F_GETFL and F_SETFL (O_NONBLOCK), F_GETFD and F_SETFD, F_DUPFD and F_DUPFD_CLOEXEC.
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nc_fcntl(fd: c_int, command: c_int, argument: c_ulong) -> c_int {
    if !table::is_ours(fd) {
        // SAFETY: by the caller's contract.
        return unsafe { libc::fcntl(fd, command, argument) };
    }
    int((|| {
        let entry = table::get(fd)?;
        match command {
            libc::F_GETFL => Ok(libc::O_RDWR | if entry.is_nonblocking() { libc::O_NONBLOCK } else { 0 }),
            libc::F_SETFL => {
                entry.set_nonblocking(argument as c_int & libc::O_NONBLOCK != 0);
                Ok(0)
            }
            libc::F_GETFD => Ok(if table::close_on_exec(fd, None)? { libc::FD_CLOEXEC } else { 0 }),
            libc::F_SETFD => {
                table::close_on_exec(fd, Some(argument as c_int & libc::FD_CLOEXEC != 0))?;
                Ok(0)
            }
            libc::F_DUPFD | libc::F_DUPFD_CLOEXEC => {
                let least = c_int::try_from(argument).map_err(|_| Errno(libc::EINVAL))?;
                table::open(entry, least, command == libc::F_DUPFD_CLOEXEC)
            }
            _ => Err(Errno(libc::EINVAL)),
        }
    })())
}

/// ioctl(2): FIONREAD, FIONBIO, TIOCOUTQ (SIOCOUTQ), SIOCATMARK, FIOCLEX and FIONCLEX.
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nc_ioctl(fd: c_int, request: c_ulong, argument: *mut c_void) -> c_int {
    if !table::is_ours(fd) {
        // SAFETY: by the caller's contract.
        return unsafe { libc::ioctl(fd, request as _, argument) };
    }
    int((|| {
        let entry = table::get(fd)?;
        // SAFETY: by the caller's contract: these requests take a pointer to an int, or none.
        let place = || unsafe { abi::buffer(argument, size_of::<c_int>()) };
        let tell = |count: u64| {
            place()?.copy_from_slice(&c_int::try_from(count).unwrap_or(c_int::MAX).to_ne_bytes());
            Ok(0)
        };
        match request {
            libc::FIONREAD => match entry.state() {
                State::Stream { stream, .. } => tell(stream.unread()),
                State::Datagram(socket) => tell(socket.next_len().unwrap_or(0) as u64),
                State::Fresh => tell(0),
                _ => Err(Errno(libc::EINVAL)),
            },
            SIOCATMARK => match entry.state() {
                State::Stream { stream, .. } => tell(stream.at_mark().into()),
                _ => Err(Errno(libc::EINVAL)),
            },
            libc::TIOCOUTQ => match entry.state() {
                State::Stream { stream, .. } => tell(stream.unacknowledged()),
                _ => Err(Errno(libc::EINVAL)),
            },
            libc::FIONBIO => {
                entry.set_nonblocking(place()?.iter().any(|byte| *byte != 0));
                Ok(0)
            }
            libc::FIOCLEX | libc::FIONCLEX => {
                table::close_on_exec(fd, Some(request == libc::FIOCLEX))?;
                Ok(0)
            }
            _ => Err(Errno(libc::ENOTTY)),
        }
    })())
}
