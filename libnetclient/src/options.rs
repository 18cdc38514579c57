//! Socket options and figures beyond those of `std::net`, by their names in socket(7) and tcp(7).

use crate::socket::{Placed, Socket};
use crate::{TcpListener, TcpStream};
use proto::arena::line::{ClientLine, congestion, want};
use proto::hard::conns::TcpState;
use std::io;
use std::time::{Duration, Instant};

/// When an idle connection is probed, and when it is given up (RFC 9293 §3.8.4). 0 takes the
/// stack's default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Keepalive {
    /// Silence before the first probe, in seconds (TCP_KEEPIDLE).
    pub idle_s: u32,
    /// Seconds between probes (TCP_KEEPINTVL).
    pub interval_s: u32,
    /// Probes without an answer that end the connection (TCP_KEEPCNT).
    pub count: u32,
}

/// Figures of a connection, as the stack last published them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpInfo {
    /// Its state.
    pub state: TcpState,
    /// Sending maximum segment size in bytes.
    pub mss: u32,
    /// Congestion window in bytes.
    pub cwnd: u32,
    /// Smoothed round-trip time in microseconds; 0 when unknown.
    pub rtt_us: u32,
    /// Its variation in microseconds.
    pub rtt_var_us: u32,
    /// Segments sent again.
    pub retransmits: u32,
    /// Bytes written and not acknowledged.
    pub unacknowledged: u64,
    /// Bytes acknowledged by the remote.
    pub acknowledged: u64,
    /// Bytes received in order.
    pub received: u64,
}

/// A congestion control algorithm (TCP_CONGESTION).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Algorithm {
    /// CUBIC (RFC 9438), which a connection has that asks for nothing.
    #[default]
    Cubic,
    /// NewReno (RFC 5681, RFC 6582).
    Reno,
    /// BBR.
    Bbr,
}

impl Algorithm {
    /// By Linux's name.
    pub fn from_name(name: &str) -> Option<Algorithm> {
        [Algorithm::Cubic, Algorithm::Reno, Algorithm::Bbr].into_iter().find(|one| one.name() == name)
    }

    /// Linux's name.
    pub const fn name(self) -> &'static str {
        match self {
            Algorithm::Cubic => "cubic",
            Algorithm::Reno => "reno",
            Algorithm::Bbr => "bbr",
        }
    }

    const fn number(self) -> u8 {
        match self {
            Algorithm::Cubic => congestion::CUBIC,
            Algorithm::Reno => congestion::RENO,
            Algorithm::Bbr => congestion::BBR,
        }
    }
}

impl Socket {
    pub(crate) fn set_line(&self, change: impl Fn(&mut ClientLine)) -> io::Result<()> {
        self.parts().try_for_each(|part| {
            let Placed { slot, shard, .. } = part.placed;
            part.session.inner.publish(slot, shard, &change)
        })
    }

    pub(crate) fn unread(&self) -> u64 {
        let consumed = self.mine().consumed;
        self.look().map_or(0, |line| line.received.saturating_sub(consumed))
    }

    pub(crate) fn unacknowledged(&self) -> u64 {
        let written = self.mine().written;
        self.look().map_or(written, |line| written.saturating_sub(line.acked))
    }
}

impl TcpListener {
    /// What connections that come in through it have from their SYN-ACK on: TCP_MAXSEG (0 sets no limit),
    /// TCP_CONGESTION, TCP_FASTOPEN (data may come in the SYN, RFC 7413).
    ///
    /// # Errors
    /// When the session is over.
    pub fn set_opening(&self, mss_max: u16, algorithm: Algorithm, fast_open: bool) -> io::Result<()> {
        let number = u32::from(mss_max) | u32::from(algorithm.number()) << 16;
        self.socket.set_line(|line| {
            line.mss_congestion = number;
            line.flags = line.flags & !want::FASTOPEN | if fast_open { want::FASTOPEN } else { 0 };
        })
    }
}

impl TcpStream {
    /// TCP_CONGESTION: the algorithm from here on.
    ///
    /// # Errors
    /// When the session is over.
    pub fn set_congestion(&self, algorithm: Algorithm) -> io::Result<()> {
        let number = u32::from(algorithm.number()) << 16;
        self.socket.set_line(|line| line.mss_congestion = line.mss_congestion & !0x00ff_0000 | number)
    }

    /// TCP_MAXSEG: segments carry no more than so many bytes; 0 sets no limit.
    ///
    /// # Errors
    /// When the session is over.
    pub fn set_mss_max(&self, bytes: u16) -> io::Result<()> {
        self.socket.set_line(|line| line.mss_congestion = line.mss_congestion & !0xffff | u32::from(bytes))
    }

    /// TCP_NOTSENT_LOWAT: writing waits while so many bytes are written and not sent; 0 sets no limit.
    ///
    /// # Errors
    /// When the session is over.
    pub fn set_notsent_lowat(&self, bytes: u32) -> io::Result<()> {
        self.socket.set_line(|line| line.notsent_lowat = bytes)
    }

    /// TCP_CORK: only full segments leave until it is taken off.
    ///
    /// # Errors
    /// When the session is over.
    pub fn set_cork(&self, cork: bool) -> io::Result<()> {
        self.socket.set_want(want::CORK, cork)
    }

    /// Whether TCP_CORK is set.
    pub fn cork(&self) -> bool {
        self.socket.wants() & want::CORK != 0
    }

    /// TCP_QUICKACK: acknowledgements are not delayed.
    ///
    /// # Errors
    /// When the session is over.
    pub fn set_quickack(&self, quickack: bool) -> io::Result<()> {
        self.socket.set_want(want::QUICKACK, quickack)
    }

    /// Whether TCP_QUICKACK is set.
    pub fn quickack(&self) -> bool {
        self.socket.wants() & want::QUICKACK != 0
    }

    /// SO_KEEPALIVE and its three times; [`TcpStream::set_keepalive`] with all of them.
    ///
    /// # Errors
    /// When the session is over.
    pub fn set_keepalive_times(&self, on: bool, times: Keepalive) -> io::Result<()> {
        self.socket.set_line(|line| {
            line.flags = line.flags & !want::KEEPALIVE | if on { want::KEEPALIVE } else { 0 };
            line.keepalive_idle_s = times.idle_s;
            line.keepalive_interval_s = times.interval_s;
            line.keepalive_count = times.count;
        })
    }

    /// TCP_USER_TIMEOUT: how long written bytes may stay unacknowledged; `None` takes the default
    /// (RFC 9293 §3.8.3).
    ///
    /// # Errors
    /// When the session is over.
    pub fn set_user_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        let ms = timeout.map_or(0, |timeout| u32::try_from(timeout.as_millis().max(1)).unwrap_or(u32::MAX));
        self.socket.set_line(|line| line.user_timeout_ms = ms)
    }

    /// SO_LINGER: with zero, closing resets the connection. Another time is kept for the caller of
    /// [`TcpStream::wait_sent`]: a close never waits by itself.
    pub fn set_linger(&self, linger: Option<Duration>) {
        self.socket.set_linger(linger);
    }

    /// SO_LINGER.
    pub fn linger(&self) -> Option<Duration> {
        self.socket.linger()
    }

    /// SO_RCVBUF in bytes: most that is taken in and not consumed; 0 leaves it to the stack.
    ///
    /// # Errors
    /// When the session is over.
    pub fn set_receive_buffer(&self, bytes: u32) -> io::Result<()> {
        self.socket.set_line(|line| line.rcvbuf = bytes)
    }

    /// SO_SNDBUF in bytes: most that is written and not acknowledged; 0 leaves it to the stack.
    pub fn set_send_buffer(&self, bytes: u32) {
        self.socket.set_send_limit(bytes);
    }

    /// Bytes that may be read now (FIONREAD).
    pub fn unread(&self) -> u64 {
        self.socket.unread()
    }

    /// Bytes written and not acknowledged (SIOCOUTQ).
    pub fn unacknowledged(&self) -> u64 {
        self.socket.unacknowledged()
    }

    /// Figures of the connection.
    pub fn info(&self) -> TcpInfo {
        let line = self.socket.look().unwrap_or_default();
        TcpInfo {
            state: TcpState::from_u8((line.mss_state >> 16) as u8).unwrap_or(TcpState::Closed),
            mss: line.mss_state & 0xffff,
            cwnd: line.cwnd,
            rtt_us: line.srtt_us,
            rtt_var_us: line.rttvar_us,
            retransmits: line.retransmits,
            unacknowledged: self.socket.unacknowledged(),
            acknowledged: line.acked,
            received: line.received,
        }
    }

    /// Waits until a connection that was begun stands, at most until `deadline`.
    ///
    /// # Errors
    /// What it failed with; `TimedOut` after the deadline, and then it is still under way.
    pub fn wait_connected(&self, deadline: Option<Instant>) -> io::Result<()> {
        self.socket.wait_open(deadline)
    }

    /// Waits until the remote has acknowledged everything, the end included: after a shutdown.
    ///
    /// # Errors
    /// `WouldBlock` after the deadline; when the session is over.
    pub fn wait_sent(&self, deadline: Option<Instant>) -> io::Result<()> {
        self.socket.wait_sent(deadline)
    }
}
