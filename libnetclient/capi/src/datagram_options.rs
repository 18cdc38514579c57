//! Options of datagrams of both versions of IP: how they leave, and what is told of those that come in.
//!
//! Beside [`options`](crate::options), which asks here first for a socket of datagrams. What is told is
//! written by [`control`](crate::control).

use crate::abi::{Errno, Outcome};
use crate::entry::{Entry, lock};
use crate::options::Options;
use libc::c_int;
use libnetclient::TcpStream;

/// Hops of a packet that nobody said anything of: Linux's IPDEFTTL.
const HOPS_DEFAULT: c_int = 64;
/// What is told of a datagram that was received, beside IP_PKTINFO: RFC 3542 §6 of IPv6, ip(7) of IPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Told {
    /// IP_RECVTTL.
    pub(crate) ttl: bool,
    /// IP_RECVTOS.
    pub(crate) tos: bool,
    /// IPV6_RECVHOPLIMIT.
    pub(crate) hop_limit: bool,
    /// IPV6_RECVTCLASS.
    pub(crate) traffic_class: bool,
    /// IPV6_RECVPKTINFO.
    pub(crate) packet_info_v6: bool,
}

impl Entry {
    /// What else is told of a datagram.
    pub(crate) fn told(&self) -> Told {
        lock(&self.options).told
    }

    /// Options of datagrams of both versions of IP; `None` for one that is none.
    pub(crate) fn set_of_datagram(&self, level: c_int, name: c_int, number: c_int) -> Option<Outcome<()>> {
        let nothing = |_: &Options, _: &TcpStream| Ok(());
        let on = number != 0;
        // ip(7), ipv6(7): −1 is the default again.
        let hops_from = |least: c_int| match number {
            -1 => Ok(None),
            hops if (least..=255).contains(&hops) => Ok(Some(hops as u8)),
            _ => Err(Errno(libc::EINVAL)),
        };
        let class = match number {
            _ if level == libc::IPPROTO_IP => Ok(number as u8),
            -1 => Ok(0),
            class => u8::try_from(class).map_err(|_| Errno(libc::EINVAL)),
        };
        let tell = |change: &dyn Fn(&mut Told)| self.set(|options| change(&mut options.told), nothing);
        Some(match (level, name) {
            (libc::IPPROTO_IP, libc::IP_TTL) => {
                hops_from(1).and_then(|hops| self.set(|options| options.hops = hops, nothing))
            }
            (libc::IPPROTO_IP, libc::IP_TOS) => {
                class.and_then(|class| self.set(|options| options.tos = class, nothing))
            }
            (libc::IPPROTO_IP, libc::IP_RECVTTL) => tell(&|told| told.ttl = on),
            (libc::IPPROTO_IP, libc::IP_RECVTOS) => tell(&|told| told.tos = on),
            _ if self.family != libc::AF_INET6 => return None,
            (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS) => {
                hops_from(0).and_then(|hops| self.set(|options| options.hops = hops, nothing))
            }
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                class.and_then(|class| self.set(|options| options.tos = class, nothing))
            }
            (libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT) => tell(&|told| told.hop_limit = on),
            (libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS) => tell(&|told| told.traffic_class = on),
            (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO) => tell(&|told| told.packet_info_v6 = on),
            _ => return None,
        })
    }

    /// Their values.
    pub(crate) fn get_of_datagram(&self, level: c_int, name: c_int) -> Option<c_int> {
        let Options { told, hops, tos, .. } = *lock(&self.options);
        Some(match (level, name) {
            (libc::IPPROTO_IP, libc::IP_TTL) => hops.map_or(HOPS_DEFAULT, c_int::from),
            (libc::IPPROTO_IP, libc::IP_TOS) => tos.into(),
            (libc::IPPROTO_IP, libc::IP_RECVTTL) => told.ttl.into(),
            (libc::IPPROTO_IP, libc::IP_RECVTOS) => told.tos.into(),
            _ if self.family != libc::AF_INET6 => return None,
            (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS) => hops.map_or(HOPS_DEFAULT, c_int::from),
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => tos.into(),
            (libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT) => told.hop_limit.into(),
            (libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS) => told.traffic_class.into(),
            (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO) => told.packet_info_v6.into(),
            _ => return None,
        })
    }
}
