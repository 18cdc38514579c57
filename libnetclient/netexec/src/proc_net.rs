//! Files of /proc/net as programs read them, with the stack's host in them: proc_pid_net(5).
//!
//! Opening one of them for reading is answered with a file that has its lines as they are at that moment;
//! whatever else is opened is the kernel's. Called by `calls`; what stands in the lines comes from
//! [`host`](crate::host) and is read as from a kernel: octets of an address as numbers of this machine.
//! Timers are shown as if none ran.

use crate::host::{Host, Socket};
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::MemfdFlags;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr};

/// Octets of the longest path that is one of them, with the zero: `/proc/4194304/net/if_inet6`.
pub const PATH_MAX: usize = 40;

/// TCP_LISTEN of tcp_states.h.
const LISTEN: u8 = 10;

/// A file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum File {
    /// tcp, tcp6, udp, udp6.
    Sockets {
        /// IPPROTO_TCP or IPPROTO_UDP.
        protocol: u8,
        /// Of IPv6.
        v6: bool,
    },
    /// raw, raw6: the stack's sockets have none of them.
    Raw {
        /// Of IPv6.
        v6: bool,
    },
    /// dev.
    Devices,
    /// route.
    Routes,
    /// if_inet6.
    Addresses,
    /// arp.
    Neighbours,
}

impl File {
    /// Of a path; `own` says whether a process is the caller's.
    pub fn of(path: &[u8], own: impl Fn(u32) -> bool) -> Option<File> {
        let path = std::str::from_utf8(path).ok()?.strip_prefix("/proc/")?;
        let path = match path.split_once('/')? {
            ("net", _) => path,
            ("self" | "thread-self", rest) => rest,
            (process, rest) => process.parse().is_ok_and(own).then_some(rest)?,
        };
        let (tcp, udp) = (libc::IPPROTO_TCP as u8, libc::IPPROTO_UDP as u8);
        Some(match path.strip_prefix("net/")? {
            "tcp" => File::Sockets { protocol: tcp, v6: false },
            "tcp6" => File::Sockets { protocol: tcp, v6: true },
            "udp" => File::Sockets { protocol: udp, v6: false },
            "udp6" => File::Sockets { protocol: udp, v6: true },
            "raw" => File::Raw { v6: false },
            "raw6" => File::Raw { v6: true },
            "dev" => File::Devices,
            "route" => File::Routes,
            "if_inet6" => File::Addresses,
            "arp" => File::Neighbours,
            _ => return None,
        })
    }

    /// Its text; `inode` is the number of a socket that is a program's own here, 0 for another.
    pub fn text(self, host: &mut Host, inode: impl Fn(&Socket) -> u64) -> String {
        match self {
            File::Sockets { protocol, v6 } => {
                let mut text = head(protocol, v6);
                let sockets = host.sockets();
                let shown =
                    sockets.iter().filter(|one| one.protocol == protocol && one.local.is_ipv6() == v6);
                for (number, socket) in shown.enumerate() {
                    text.push_str(&line(number, socket, inode(socket)));
                }
                text
            }
            File::Raw { v6 } => head(libc::IPPROTO_RAW as u8, v6),
            File::Devices => devices(host),
            File::Routes => routes(host),
            File::Addresses => addresses(host),
            File::Neighbours => neighbours(host),
        }
    }
}

/// A file with that text, open for reading.
///
/// # Errors
/// Those of memfd_create(2), write(2) and open(2).
pub fn make(text: &str) -> io::Result<OwnedFd> {
    let made = rustix::fs::memfd_create("proc net", MemfdFlags::CLOEXEC)?;
    let mut file = fs::File::from(made);
    file.write_all(text.as_bytes())?;
    // The descriptor that wrote it stays here; it is opened again at its beginning.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(fs::File::open(path)?.into())
}

/// As `%-149s\n`: the kernel pads the lines of IPv4, TCP's to 149 columns, others to 127.
fn padded(text: &str, columns: usize) -> String {
    format!("{text:<columns$}\n")
}

const fn columns(protocol: u8) -> usize {
    if protocol == libc::IPPROTO_TCP as u8 { 149 } else { 127 }
}

fn head(protocol: u8, v6: bool) -> String {
    let is_tcp = protocol == libc::IPPROTO_TCP as u8;
    let more = if is_tcp { "" } else { " ref pointer drops" };
    let common = "st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode";
    match (v6, is_tcp) {
        (false, true) => padded(&format!("  sl  local_address rem_address   {common}"), columns(protocol)),
        (false, false) => {
            padded(&format!("   sl  local_address rem_address   {common}{more}"), columns(protocol))
        }
        (true, _) => {
            let remote = if is_tcp { "remote_address" } else { "rem_address   " };
            format!(
                "  sl  local_address                         {remote}                        {common}{more}\n"
            )
        }
    }
}

/// An address with its port as the kernel prints them.
fn hex(addr: SocketAddr, v6: bool) -> String {
    let word = |octets: &[u8]| u32::from_ne_bytes([octets[0], octets[1], octets[2], octets[3]]);
    let mut text = String::new();
    let octets = match addr.ip() {
        IpAddr::V4(v4) if !v6 => v4.octets().to_vec(),
        IpAddr::V4(v4) if v4.is_unspecified() => vec![0; 16],
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    for part in octets.chunks(4) {
        // Nothing fails that writes into memory.
        let _ = write!(text, "{:08X}", word(part));
    }
    let _ = write!(text, ":{:04X}", addr.port());
    text
}

fn line(number: usize, socket: &Socket, inode: u64) -> String {
    let v6 = socket.local.is_ipv6();
    let (local, remote) = (hex(socket.local, v6), hex(socket.remote, v6));
    let Socket { state, uid, protocol, received, sent, .. } = *socket;
    // Of a listener the kernel shows here only how many wait.
    let sent = if state == LISTEN { 0 } else { sent };
    let queues = format!("{sent:08X}:{received:08X} 00:00000000 00000000");
    let nowhere = "0000000000000000";
    let is_tcp = protocol == libc::IPPROTO_TCP as u8;
    let number = if is_tcp { format!("{number:4}") } else { format!("{number:5}") };
    let more = if is_tcp { format!("1 {nowhere} 100 0 0 10 0") } else { format!("2 {nowhere} 0") };
    let text = format!("{number}: {local} {remote} {state:02X} {queues} {uid:5} {:8} {inode} {more}", 0);
    if v6 { text + "\n" } else { padded(&text, columns(protocol)) }
}

fn devices(host: &mut Host) -> String {
    let mut text = String::from(
        "Inter-|   Receive                                                |  Transmit\n \
         face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo \
         colls carrier compressed\n",
    );
    for link in host.links() {
        let one = host.traffic(&link);
        let _ = writeln!(
            text,
            "{:>6}: {:7} {:7} {:4} {:4} {:4} {:5} {:10} {:9} {:8} {:7} {:4} {:4} {:4} {:5} {:7} {:10}",
            link.name,
            one.received_bytes,
            one.received,
            one.received_errors,
            one.received_drops,
            0,
            0,
            0,
            0,
            one.sent_bytes,
            one.sent,
            one.sent_errors,
            0,
            0,
            0,
            0,
            0
        );
    }
    text
}

fn name_of(host: &mut Host, index: u32) -> String {
    host.links().into_iter().find(|link| link.index == index).map_or(String::new(), |link| link.name)
}

fn routes(host: &mut Host) -> String {
    /// linux/route.h.
    const UP: u32 = 1;
    const GATEWAY: u32 = 2;
    const HOST: u32 = 4;
    let head = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT";
    let mut text = padded(head, columns(0));
    for route in host.routes() {
        let (IpAddr::V4(to), crate::host::TABLE_MAIN) = (route.to, route.table) else { continue };
        let gateway = match route.gateway {
            Some(IpAddr::V4(gateway)) => gateway.octets(),
            _ => [0; 4],
        };
        let flags = UP
            | if route.gateway.is_some() { GATEWAY } else { 0 }
            | if route.prefix == 32 { HOST } else { 0 };
        let mask = u32::MAX.checked_shl(32 - u32::from(route.prefix.min(32))).unwrap_or(0).to_be();
        let (to, gateway) = (u32::from_ne_bytes(to.octets()), u32::from_ne_bytes(gateway));
        let name = name_of(host, route.index);
        let metric = route.metric;
        let one =
            format!("{name}\t{to:08X}\t{gateway:08X}\t{flags:04X}\t0\t0\t{metric}\t{mask:08X}\t0\t0\t0");
        text.push_str(&padded(&one, columns(0)));
    }
    text
}

fn addresses(host: &mut Host) -> String {
    /// linux/if_addr.h: IFA_F_PERMANENT and IFA_F_TENTATIVE.
    const PERMANENT: u32 = 0x80;
    const TENTATIVE: u32 = 0x40;
    let mut text = String::new();
    for address in host.addresses() {
        let IpAddr::V6(v6) = address.addr else { continue };
        // Scopes of linux/ipv6.h.
        let scope = match v6 {
            _ if v6.is_loopback() => 0x10,
            _ if v6.is_unicast_link_local() => 0x20,
            _ => 0,
        };
        let flags =
            if address.tentative { TENTATIVE } else { 0 } | if address.learned { 0 } else { PERMANENT };
        let name = name_of(host, address.index);
        let (bits, index, prefix) = (v6.to_bits(), address.index, address.prefix);
        let _ = writeln!(text, "{bits:032x} {index:02x} {prefix:02x} {scope:02x} {flags:02x} {name:>8}");
    }
    text
}

fn neighbours(host: &mut Host) -> String {
    let mut text =
        String::from("IP address       HW type     Flags       HW address            Mask     Device\n");
    for neighbour in host.neighbours() {
        let IpAddr::V4(addr) = neighbour.addr else { continue };
        let mac = neighbour.mac.map(|octet| format!("{octet:02x}")).join(":");
        let name = name_of(host, neighbour.index);
        // if_arp.h: ARPHRD_ETHER; ATF_COM and ATF_PERM.
        let addr = addr.to_string();
        let _ = writeln!(text, "{addr:<16} 0x{:<10}0x{:<10}{mac}     *        {name}", "1", "6");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_of_the_callers_own_host_are_answered() {
        let of = |path: &str| File::of(path.as_bytes(), |process| process == 77);
        assert_eq!(of("/proc/net/tcp"), Some(File::Sockets { protocol: 6, v6: false }));
        assert_eq!(of("/proc/self/net/udp6"), Some(File::Sockets { protocol: 17, v6: true }));
        assert_eq!(of("/proc/thread-self/net/dev"), Some(File::Devices));
        assert_eq!(of("/proc/77/net/route"), Some(File::Routes));
        for path in ["/proc/78/net/tcp", "/proc/net/unix", "/proc/net", "/proc/net/tcp/", "proc/net/tcp", ""]
        {
            assert_eq!(of(path), None, "{path}");
        }
    }

    #[test]
    fn lines_are_the_kernels() {
        let socket = |local: &str, remote: &str, protocol| Socket {
            protocol,
            state: 10,
            local: local.parse().expect("one"),
            remote: remote.parse().expect("one"),
            uid: 1000,
            received: 0x12,
            sent: 0x345,
        };
        let text = line(3, &socket("127.0.0.1:80", "0.0.0.0:0", 6), 4711);
        let whole = "   3: 0100007F:0050 00000000:0000 0A 00000000:00000012 00:00000000 00000000  1000        0 \
                     4711 1 0000000000000000 100 0 0 10 0";
        assert_eq!(text, format!("{whole:<149}\n"));
        let text = line(0, &socket("[::1]:53", "[::]:0", 17), 0);
        assert!(text.starts_with(
            "    0: 00000000000000000000000001000000:0035 00000000000000000000000000000000:0000 0A "
        ));
        assert!(text.ends_with(" 0 2 0000000000000000 0\n"), "{text}");
        // A listener of both families says nothing of a remote.
        let text = line(0, &socket("[::]:80", "0.0.0.0:0", 6), 0);
        assert!(text.contains(" 00000000000000000000000000000000:0000 0A "), "{text}");
    }
}
