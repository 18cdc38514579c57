//! What the outside decides about a connection: the path, the buffer, the socket options.

use core::time::Duration;

use super::congestion::Kind;
use super::ecn::Ecn;

/// RFC 9293 §3.7.1: assumed when the remote's SYN carries no MSS option, over IPv4.
pub const MSS_DEFAULT_IPV4: u16 = 536;

/// RFC 9293 §3.7.1: the same over IPv6.
pub const MSS_DEFAULT_IPV6: u16 = 1220;

/// Least segment size believed, as Linux (TCP_MIN_SND_MSS, CVE-2019-11479): room for all options
/// and some payload.
pub const MSS_MIN: u16 = 88;

/// Keepalive (RFC 9293 §3.8.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence before the first probe, in seconds.
    pub idle_s: u32,
    /// Between probes, in seconds.
    pub interval_s: u32,
    /// Unanswered probes before the connection counts as dead.
    pub probes: u8,
}

impl Default for Keepalive {
    /// RFC 9293 §3.8.4: two hours; interval and count as Linux has them.
    fn default() -> Self {
        Keepalive { idle_s: 7200, interval_s: 75, probes: 9 }
    }
}

/// Options a client may change while the connection lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SocketOptions {
    /// TCP_NODELAY: Nagle's algorithm is off.
    pub nodelay: bool,
    /// TCP_CORK: only full segments leave, for at most 200 ms.
    pub cork: bool,
    /// TCP_QUICKACK: acknowledgements are not delayed.
    pub quickack: bool,
    /// SO_KEEPALIVE with its parameters.
    pub keepalive: Option<Keepalive>,
    /// TCP_USER_TIMEOUT: how long sent data may stay unacknowledged (RFC 9293 §3.8.3, R2);
    /// `None` leaves it to the number of retransmissions.
    pub user_timeout: Option<Duration>,
    /// TCP_MAXSEG: segments carry no more than this, whatever the remote and the path take.
    pub mss_max: Option<u16>,
    /// TCP_CONGESTION: the algorithm; `None` leaves it as it is.
    pub congestion: Option<Kind>,
    /// TCP_FASTOPEN, TCP_FASTOPEN_CONNECT: data may come or go in the SYN (RFC 7413).
    pub fast_open: bool,
}

/// What a connection starts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// The congestion control algorithm.
    pub congestion: Kind,
    /// Octets the path carries behind a TCP header without options: path MTU less IP header less 20.
    pub path_mss: u16,
    /// What the own SYN says: interface MTU less IP header less 20 (RFC 6691).
    pub advertised_mss: u16,
    /// What to assume of a remote that says no MSS.
    pub default_mss: u16,
    /// Octets the client's receive buffer takes at first.
    pub receive_limit: u32,
    /// The most it will ever take; decides the window scale.
    pub receive_limit_max: u32,
    /// Offer or accept window scaling.
    pub window_scaling: bool,
    /// Offer or accept SACK.
    pub sack: bool,
    /// Offer or accept timestamps.
    pub timestamps: bool,
    /// Ask for ECN, or accept it.
    pub ecn: Ecn,
    /// The client's options.
    pub options: SocketOptions,
}

impl Default for Settings {
    /// Ethernet and IPv4, buffers of 256 KiB that may grow to 1 MiB, everything on.
    fn default() -> Self {
        Settings {
            congestion: Kind::Cubic,
            path_mss: 1460,
            advertised_mss: 1460,
            default_mss: MSS_DEFAULT_IPV4,
            receive_limit: 256 << 10,
            receive_limit_max: 1 << 20,
            window_scaling: true,
            sack: true,
            timestamps: true,
            ecn: Ecn::Accept,
            options: SocketOptions::default(),
        }
    }
}
