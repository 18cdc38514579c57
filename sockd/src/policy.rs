//! Who may have what: quotas of sessions, and which requests a kernel would refuse.
//!
//! Pure rules, asked by [`core`](crate::core). Whether an address is ours or a remote can be
//! reached is netd's to say; which port is taken is [`ports`](crate::ports)'s.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use proto::arena::Geometry;
use proto::form::Form;
use rustix::io::Errno;

/// Ports below this one are for uid 0 (Linux's default of `ip_unprivileged_port_start`).
pub const UNPRIVILEGED_PORT_MIN: u16 = 1024;

/// Connections that may wait for accept at one listener (Linux's default of `net.core.somaxconn`).
pub const BACKLOG_MAX: u32 = 4096;

/// What one session and one user may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Sessions of the whole group: each costs every vault some descriptors, and those are capped
    /// at 20,000 a process on the machines this is made for.
    pub sessions: u32,
    /// Sessions of one user.
    pub sessions_per_uid: u32,
    /// Places for sockets, active and passive, of one user.
    pub sockets_per_uid: u32,
    /// Payload pages of one user, of either kind.
    pub pages_per_uid: u32,
    /// What a session gets that asks for nothing in particular.
    pub default: Geometry,
    /// What a session gets at most.
    pub max: Geometry,
}

impl Limits {
    /// The limits of a group with `shards` netds.
    ///
    /// A user's pages are 4 GiB; they take memory only while they hold bytes. Places for sockets
    /// are as many as the largest arena has. The receive pages of an arena are divided among the shards.
    pub const fn of_group(shards: u16) -> Limits {
        Limits {
            sessions: 1024,
            sessions_per_uid: 256,
            sockets_per_uid: 1 << 19,
            pages_per_uid: 1 << 18,
            default: Geometry {
                shards,
                active: 1024,
                passive: 4096,
                tx_pages: 4096,
                rx_pages: 4096 / shards as u32,
            },
            max: Geometry {
                shards,
                active: 1 << 17,
                passive: 1 << 17,
                tx_pages: 1 << 16,
                rx_pages: (1 << 16) / shards as u32,
            },
        }
    }
}

/// What one user has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Sessions.
    pub sessions: u32,
    /// Places for sockets.
    pub sockets: u32,
    /// Payload pages.
    pub pages: u32,
}

/// Places and pages of an arena, as quotas count them.
pub const fn cost(geometry: &Geometry) -> Usage {
    let rx = geometry.rx_pages * geometry.shards as u32;
    Usage { sessions: 1, sockets: geometry.sockets(), pages: geometry.tx_pages + rx }
}

/// What was asked for an arena; 0 takes the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// Places that sockd gives out.
    pub active: u32,
    /// Places that netd gives out.
    pub passive: u32,
    /// Send pages.
    pub tx_pages: u32,
    /// Receive pages per shard.
    pub rx_pages: u32,
}

/// Decides the size of a new session's arena: what was wished, within the session's limit.
///
/// # Errors
/// EUSERS when the group or the user has too many sessions, EMFILE when the user's sockets, ENOBUFS
/// when its pages would exceed the quota.
pub fn admit(limits: &Limits, group_sessions: u32, user: Usage, wish: Wish) -> Result<Geometry, Errno> {
    if group_sessions >= limits.sessions || user.sessions >= limits.sessions_per_uid {
        return Err(Errno::USERS);
    }
    let size = |wish: u32, default: u32, max: u32| if wish == 0 { default } else { wish.min(max) };
    let (default, max) = (&limits.default, &limits.max);
    let geometry = Geometry {
        shards: max.shards,
        // Each shard has as many places as the others.
        active: size(wish.active, default.active, max.active).next_multiple_of(max.shards.into()),
        passive: size(wish.passive, default.passive, max.passive).next_multiple_of(max.shards.into()),
        tx_pages: size(wish.tx_pages, default.tx_pages, max.tx_pages),
        rx_pages: size(wish.rx_pages, default.rx_pages, max.rx_pages),
    };
    let cost = cost(&geometry);
    if user.sockets + cost.sockets > limits.sockets_per_uid {
        return Err(Errno::MFILE);
    }
    if user.pages + cost.pages > limits.pages_per_uid {
        return Err(Errno::NOBUFS);
    }
    Ok(geometry)
}

/// Whether `uid` may have such a socket: raw(7) and packet(7) want CAP_NET_RAW, which here is root's.
///
/// # Errors
/// EPERM.
pub fn may_open(uid: u32, form: Form) -> Result<(), Errno> {
    match form {
        Form::Udp | Form::Ping => Ok(()),
        Form::Raw { .. } | Form::Packet { .. } if uid == 0 => Ok(()),
        Form::Raw { .. } | Form::Packet { .. } => Err(Errno::PERM),
    }
}

/// Whether `uid` may take `local` as its own side.
///
/// # Errors
/// EACCES for a privileged port, EADDRNOTAVAIL for an address that no socket of ours can have.
pub fn may_bind(uid: u32, local: SocketAddr) -> Result<(), Errno> {
    if local.port() != 0 && local.port() < UNPRIVILEGED_PORT_MIN && uid != 0 {
        return Err(Errno::ACCESS);
    }
    match local.ip() {
        IpAddr::V4(Ipv4Addr::BROADCAST) => Err(Errno::ADDRNOTAVAIL),
        _ => Ok(()),
    }
}

/// The backlog that a listener gets: what it asked for, cut silently as listen(2) does.
pub fn backlog(asked: u32) -> u32 {
    asked.min(BACKLOG_MAX)
}

/// The remote as the kernel understands it: "any" as a destination is this host.
pub fn destination(remote: SocketAddr) -> SocketAddr {
    match remote.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => {
            SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), remote.port())
        }
        IpAddr::V6(ip) if ip.is_unspecified() => {
            SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), remote.port())
        }
        _ => remote,
    }
}

/// Whether a TCP connection from `local` to `remote` can exist.
///
/// # Errors
/// As tcp(7): EAFNOSUPPORT when the families differ, ENETUNREACH for a group of hosts,
/// ECONNREFUSED for port 0.
pub fn may_connect(local: SocketAddr, remote: SocketAddr) -> Result<(), Errno> {
    if local.is_ipv4() != remote.is_ipv4() {
        return Err(Errno::AFNOSUPPORT);
    }
    let ip = remote.ip();
    if ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST) {
        return Err(Errno::NETUNREACH);
    }
    if remote.port() == 0 {
        return Err(Errno::CONNREFUSED);
    }
    Ok(())
}

/// Whether a UDP socket at `local` may have `remote` as its only remote.
///
/// # Errors
/// As udp(7): EAFNOSUPPORT when the families differ, EACCES for a broadcast address. A socket at the IPv6
/// wildcard speaks to both (RFC 3493 §3.7).
pub fn may_associate(local: SocketAddr, remote: SocketAddr) -> Result<(), Errno> {
    let any_v6 = matches!(local.ip(), IpAddr::V6(ip) if ip.is_unspecified());
    if local.is_ipv4() != remote.is_ipv4() && !any_v6 {
        return Err(Errno::AFNOSUPPORT);
    }
    match remote.ip() {
        IpAddr::V4(Ipv4Addr::BROADCAST) => Err(Errno::ACCESS),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    const WISH: Wish = Wish { active: 0, passive: 0, tx_pages: 0, rx_pages: 0 };

    #[test]
    fn quotas_have_the_errno_of_a_kernel() {
        let limits = Limits::of_group(1);
        let nobody = Usage::default();
        assert_eq!(admit(&limits, 0, nobody, WISH), Ok(limits.default));
        let greedy = Wish { active: u32::MAX, passive: 1, tx_pages: 1, rx_pages: 1 };
        assert_eq!(admit(&limits, 0, nobody, greedy).map(|g| g.active), Ok(limits.max.active));
        assert_eq!(admit(&limits, limits.sessions, nobody, WISH), Err(Errno::USERS));
        let user = Usage { sessions: limits.sessions_per_uid, ..nobody };
        assert_eq!(admit(&limits, 0, user, WISH), Err(Errno::USERS));
        let user = Usage { sockets: limits.sockets_per_uid - limits.default.sockets() + 1, ..nobody };
        assert_eq!(admit(&limits, 0, user, WISH), Err(Errno::MFILE));
        let user = Usage { pages: limits.pages_per_uid - 8191, ..nobody };
        assert_eq!(admit(&limits, 0, user, WISH), Err(Errno::NOBUFS));
    }

    #[test]
    fn a_backlog_is_cut() {
        assert_eq!([0, 128, 4096, 4097, u32::MAX].map(backlog), [0, 128, 4096, 4096, 4096]);
    }

    #[test]
    fn low_ports_are_for_root() {
        assert_eq!(may_bind(1000, addr("0.0.0.0:1023")), Err(Errno::ACCESS));
        assert_eq!(may_bind(1000, addr("0.0.0.0:1024")), Ok(()));
        assert_eq!(may_bind(1000, addr("0.0.0.0:0")), Ok(()));
        assert_eq!(may_bind(0, addr("[::]:1")), Ok(()));
    }

    #[test]
    fn raw_sockets_are_for_root() {
        let packet = Form::Packet { ethertype: Form::EVERY_TYPE, cooked: false };
        for form in [Form::Raw { protocol: 1 }, packet] {
            assert_eq!((may_open(1000, form), may_open(0, form)), (Err(Errno::PERM), Ok(())));
        }
        assert_eq!((may_open(1000, Form::Udp), may_open(1000, Form::Ping)), (Ok(()), Ok(())));
    }

    #[test]
    fn impossible_remotes() {
        let any = addr("0.0.0.0:0");
        assert_eq!(destination(addr("0.0.0.0:80")), addr("127.0.0.1:80"));
        assert_eq!(may_connect(any, addr("10.0.0.1:80")), Ok(()));
        assert_eq!(may_connect(any, addr("224.0.0.1:80")), Err(Errno::NETUNREACH));
        assert_eq!(may_connect(any, addr("255.255.255.255:80")), Err(Errno::NETUNREACH));
        assert_eq!(may_connect(any, addr("10.0.0.1:0")), Err(Errno::CONNREFUSED));
        assert_eq!(may_connect(any, addr("[2001:db8::1]:80")), Err(Errno::AFNOSUPPORT));
        assert_eq!(may_associate(any, addr("255.255.255.255:9")), Err(Errno::ACCESS));
    }
}
