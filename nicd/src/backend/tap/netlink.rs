//! The kernel's side of a TAP, set up over rtnetlink(7): its MTU, its addresses, up.
//!
//! Used once, when the device is made; what an administrator changes later stays.

use core::net::IpAddr;
use proto::control::messages::Prefix;
use rustix::fd::OwnedFd;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use std::io;

// linux/netlink.h and linux/rtnetlink.h.
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_CREATE: u16 = 0x400;
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
// linux/if_link.h, linux/if_addr.h, linux/if.h.
const IFLA_MTU: u16 = 4;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_F_NODAD: u8 = 2;
const IFF_UP: u32 = 1;

const HEADER_SIZE: usize = 16;

/// A request being put together.
struct Request(Vec<u8>);

impl Request {
    fn new(kind: u16, flags: u16, body: &[u8]) -> Request {
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((flags | NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
        // Sequence number and port: there is one request at a time, and the kernel fills in the port.
        bytes.extend([0; 8]);
        bytes.extend(body);
        Request(bytes)
    }

    fn attribute(mut self, kind: u16, value: &[u8]) -> Request {
        self.0.extend((4 + value.len() as u16).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn send(mut self, socket: &OwnedFd) -> io::Result<()> {
        let len = self.0.len() as u32;
        self.0[..4].copy_from_slice(&len.to_ne_bytes());
        rustix::net::send(socket, &self.0, SendFlags::empty())?;
        let mut answer = [0; 4096];
        let (len, _) = rustix::net::recv(socket, &mut answer, RecvFlags::empty())?;
        // struct nlmsghdr, then struct nlmsgerr, whose first word is a negated errno.
        if len < HEADER_SIZE + 4 || u16::from_ne_bytes([answer[4], answer[5]]) != NLMSG_ERROR {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let errno = i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]);
        if errno == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-errno)) }
    }
}

/// Gives interface `index` its MTU and addresses and sets it up, in the network namespace of the
/// calling thread.
pub(super) fn set_up(index: u32, mtu: u16, addrs: &[Prefix]) -> io::Result<()> {
    // Protocol 0 is NETLINK_ROUTE.
    let socket =
        rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    link(index, mtu).send(&socket)?;
    addrs.iter().try_for_each(|prefix| address(index, prefix).send(&socket))
}

/// struct ifinfomsg: family, type, index, flags, which flags to change.
fn link(index: u32, mtu: u16) -> Request {
    let mut body = vec![0; 4];
    for word in [index, IFF_UP, IFF_UP] {
        body.extend(word.to_ne_bytes());
    }
    Request::new(RTM_NEWLINK, 0, &body).attribute(IFLA_MTU, &u32::from(mtu).to_ne_bytes())
}

/// struct ifaddrmsg: family, length of the prefix, flags, scope, index.
fn address(index: u32, prefix: &Prefix) -> Request {
    let message = |family: AddressFamily, flags: u8| {
        let mut body = vec![family.as_raw() as u8, prefix.len, flags, 0];
        body.extend(index.to_ne_bytes());
        Request::new(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, &body)
    };
    match prefix.addr {
        IpAddr::V4(addr) => {
            let host_bits = u32::MAX.checked_shr(prefix.len.into()).unwrap_or(0);
            let broadcast = (addr.to_bits() | host_bits).to_be_bytes();
            let request = message(AddressFamily::INET, 0);
            let request = request.attribute(IFA_LOCAL, &addr.octets()).attribute(IFA_ADDRESS, &addr.octets());
            if prefix.len < 31 { request.attribute(IFA_BROADCAST, &broadcast) } else { request }
        }
        // Alone on its cable but for us: no duplicates to detect, no second lost by it.
        IpAddr::V6(addr) => message(AddressFamily::INET6, IFA_F_NODAD).attribute(IFA_ADDRESS, &addr.octets()),
    }
}
