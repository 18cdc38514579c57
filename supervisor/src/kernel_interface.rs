//! What the kernel says of an interface that the stack shares with it by ports: its hardware address, whether it has the
//! addresses, and which ports the kernel gives away by itself.
//!
//! Asked once, before a group starts. Netlink(7), in the interface's network namespace.

use proto::control::messages::{Backend, GroupConfig, NicConfig, PortRange};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::thread::LinkNameSpaceType;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

// linux/netlink.h, linux/rtnetlink.h, linux/if_link.h and linux/if_addr.h.
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFA_LOCAL: u16 = 2;
/// struct nlmsghdr, ifinfomsg and ifaddrmsg.
const HEADER_SIZE: usize = 16;
const LINK_SIZE: usize = 16;
const ADDRESS_SIZE: usize = 8;
/// What Linux gives connections that ask for no port, where it does not say.
const LOCAL_PORTS: PortRange = PortRange { first: 32_768, last: 60_999 };

/// What the kernel says.
#[derive(Debug)]
struct Said {
    mac: [u8; 6],
    addrs: Vec<Ipv4Addr>,
    /// Ports that it gives away, but for those.
    local: PortRange,
    reserved: Vec<PortRange>,
}

/// Gives each interface that shares ports the hardware address that the kernel's has.
///
/// # Errors
/// In words: there is no such interface, it has not the addresses, or the kernel may give the ports away.
pub fn adopt(group: &mut GroupConfig) -> Result<(), String> {
    for nic in group.nics.iter_mut().filter(|nic| !nic.ports.is_empty()) {
        let (Backend::Packet { name, netns } | Backend::Xdp { name, netns }) = &nic.backend else { continue };
        let said = inside(netns.as_deref(), || ask(name)).map_err(|e| format!("interface {name}: {e}"))?;
        check(nic, name, &said)?;
        nic.mac = said.mac;
    }
    Ok(())
}

fn check(nic: &NicConfig, name: &str, said: &Said) -> Result<(), String> {
    for addr in nic.addrs.iter().map(|prefix| prefix.addr) {
        if !said.addrs.iter().any(|known| IpAddr::V4(*known) == addr) {
            return Err(format!(
                "ports of {addr} can't be shared: the kernel does not have it on {name}; \
                 leave ports= out, or `ip addr add` it there"
            ));
        }
    }
    let given_away =
        |port: &u16| said.local.contains(*port) && !said.reserved.iter().any(|r| r.contains(*port));
    for range in &nic.ports {
        if let Some(port) = (range.first..=range.last).find(given_away) {
            let PortRange { first, last } = range;
            return Err(format!(
                "the kernel may give port {port} to a connection of its own; choose ports outside {}-{}, or \
                 `sysctl -w net.ipv4.ip_local_reserved_ports={first}-{last}`",
                said.local.first, said.local.last
            ));
        }
    }
    Ok(())
}

/// Runs `body` in namespace `netns`, on a thread of its own; in the caller's, when there is none.
fn inside<T: Send>(netns: Option<&str>, body: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let Some(netns) = netns else { return body() };
    let path = Path::new(crate::starter::NETNS).join(netns);
    let enter = || {
        let namespace = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let kind = Some(LinkNameSpaceType::Network);
        Ok(rustix::thread::move_into_link_name_space(namespace.as_fd(), kind)?)
    };
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| enter().and_then(|()| body()));
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn ask(name: &str) -> io::Result<Said> {
    // Protocol 0 is NETLINK_ROUTE.
    let socket =
        rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    let mut link = None;
    dump(&socket, RTM_GETLINK, LINK_SIZE, |kind, message| {
        // struct ifinfomsg: the number of the interface at 4.
        let (Some(index), true) = (word(message, 4), kind == RTM_NEWLINK) else { return };
        let text = attribute(message, LINK_SIZE, IFLA_IFNAME).and_then(|text| text.strip_suffix(&[0]));
        if text == Some(name.as_bytes()) {
            let mac = attribute(message, LINK_SIZE, IFLA_ADDRESS).and_then(|mac| mac.try_into().ok());
            link = mac.map(|mac: [u8; 6]| (index, mac));
        }
    })?;
    let nothing = "there is none of that name with a hardware address";
    let (index, mac) = link.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, nothing))?;
    let mut addrs = Vec::new();
    dump(&socket, RTM_GETADDR, ADDRESS_SIZE, |kind, message| {
        // struct ifaddrmsg: the number of the interface at 4.
        let local = attribute(message, ADDRESS_SIZE, IFA_LOCAL);
        if let (RTM_NEWADDR, Some(&[a, b, c, d]), true) = (kind, local, word(message, 4) == Some(index)) {
            addrs.push(Ipv4Addr::new(a, b, c, d));
        }
    })?;
    let file = |name: &str| std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap_or_default();
    let local = file("ip_local_port_range");
    let mut ends = local.split_whitespace().map(str::parse);
    let local = match (ends.next(), ends.next()) {
        (Some(Ok(first)), Some(Ok(last))) => PortRange { first, last },
        _ => LOCAL_PORTS,
    };
    let reserved = file("ip_local_reserved_ports");
    let range = |text: &str| {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        Some(PortRange { first: first.parse().ok()?, last: last.parse().ok()? })
    };
    let reserved = reserved.trim().split(',').filter_map(range).collect();
    Ok(Said { mac, addrs, local, reserved })
}

/// Every answer to a request for all of a kind, whose own header has `size` bytes.
fn dump(socket: &OwnedFd, kind: u16, size: usize, mut each: impl FnMut(u16, &[u8])) -> io::Result<()> {
    let mut request = Vec::with_capacity(HEADER_SIZE + size);
    request.extend(((HEADER_SIZE + size) as u32).to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    request.resize(HEADER_SIZE + size, 0);
    request[HEADER_SIZE] = AddressFamily::INET.as_raw() as u8;
    rustix::net::send(socket, &request, SendFlags::empty())?;
    let mut answer = vec![0; 1 << 16];
    loop {
        let (len, _) = rustix::net::recv(socket, answer.as_mut_slice(), RecvFlags::empty())?;
        let mut rest = &answer[..len];
        while let Some(len) = word(rest, 0).map(|len| len as usize)
            && (HEADER_SIZE..=rest.len()).contains(&len)
        {
            let kind = u16::from_ne_bytes([rest[4], rest[5]]);
            let body = &rest[HEADER_SIZE..len];
            match kind {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => {
                    let errno = word(body, 0).unwrap_or_default().cast_signed();
                    return Err(io::Error::from_raw_os_error(-errno));
                }
                kind => each(kind, body),
            }
            rest = &rest[len.next_multiple_of(4).min(rest.len())..];
        }
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes)
}

/// The value of an attribute behind a header of `size` bytes.
fn attribute(message: &[u8], size: usize, wanted: u16) -> Option<&[u8]> {
    let mut rest = message.get(size..)?;
    while rest.len() >= 4 {
        let (len, kind) = (u16::from_ne_bytes([rest[0], rest[1]]), u16::from_ne_bytes([rest[2], rest[3]]));
        let value = rest.get(4..usize::from(len))?;
        if kind == wanted {
            return Some(value);
        }
        rest = rest.get(usize::from(len).next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::control::messages::Prefix;

    fn sharing(addr: [u8; 4], first: u16, last: u16) -> NicConfig {
        NicConfig {
            backend: Backend::Packet { name: "eth0".to_owned(), netns: None },
            mac: [0; 6],
            mtu: 1500,
            addrs: vec![Prefix { addr: IpAddr::V4(addr.into()), len: 24 }],
            gateways: Vec::new(),
            slaac: false,
            offload: true,
            ports: vec![PortRange { first, last }],
        }
    }

    #[test]
    fn what_the_kernel_gives_away_is_refused_unless_it_is_reserved() {
        let said = |reserved| Said {
            mac: [2, 0, 0, 0, 0, 1],
            addrs: vec![Ipv4Addr::new(10, 0, 0, 1)],
            local: PortRange { first: 32_768, last: 60_999 },
            reserved,
        };
        let here = [10, 0, 0, 1];
        assert_eq!(check(&sharing(here, 8_080, 8_080), "eth0", &said(vec![])), Ok(()));
        let refused = check(&sharing(here, 32_000, 33_000), "eth0", &said(vec![])).expect_err("given away");
        assert!(
            refused.contains("32768") && refused.contains("ip_local_reserved_ports=32000-33000"),
            "{refused}"
        );
        let set_aside = vec![PortRange { first: 32_768, last: 33_000 }];
        assert_eq!(check(&sharing(here, 32_000, 33_000), "eth0", &said(set_aside)), Ok(()));
        let refused =
            check(&sharing([10, 0, 0, 2], 80, 80), "eth0", &said(vec![])).expect_err("not the kernel's");
        assert!(refused.contains("10.0.0.2"), "{refused}");
    }

    #[test]
    fn there_is_no_interface_of_that_name() {
        assert!(ask("axlnone").is_err());
    }
}
