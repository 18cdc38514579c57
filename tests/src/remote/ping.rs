//! Echo requests of the kernel over raw sockets: fragments and ICMPv6's checksums are the kernel's.

use rustix::fd::OwnedFd;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, ipproto};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, SocketAddrV6};
use std::time::{Duration, Instant};

const ECHO_REQUEST: u8 = 128;
const ECHO_REPLY: u8 = 129;

/// Asks `to` to send `payload` back, within `patience`.
///
/// # Errors
/// `TimedOut` when nobody does; those of the sockets.
pub fn ping6(to: SocketAddrV6, payload: &[u8], patience: Duration) -> io::Result<()> {
    let socket: OwnedFd = rustix::net::socket(AddressFamily::INET6, SocketType::RAW, Some(ipproto::ICMPV6))?;
    let mut request = vec![ECHO_REQUEST, 0, 0, 0, 0x61, 0x78, 0, 1];
    request.extend(payload);
    rustix::net::sendto(&socket, &request, SendFlags::empty(), &to)?;
    let end = Instant::now() + patience;
    let mut answer = vec![0; 1 << 16];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        set_socket_timeout(&socket, Timeout::Recv, Some(left))?;
        let (len, _) = match rustix::net::recv(&socket, answer.as_mut_slice(), RecvFlags::empty()) {
            Err(rustix::io::Errno::AGAIN) => return Err(io::ErrorKind::TimedOut.into()),
            received => received?,
        };
        if answer[..len].starts_with(&[ECHO_REPLY, 0]) && answer[4..len] == request[4..] {
            return Ok(());
        }
    }
}

/// RFC 792: echo, and its reply.
const ECHO_REQUEST_V4: u8 = 8;
/// Bytes of an IPv4 header without options, which a raw socket gives with the packet: RFC 791 §3.1.
const IPV4_HEADER: usize = 20;

/// Asks `to` to send `payload` back, within `patience`; how long that took.
///
/// # Errors
/// As [`ping6`].
pub fn ping4(to: Ipv4Addr, payload: &[u8], patience: Duration) -> io::Result<Duration> {
    let socket: OwnedFd = rustix::net::socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::ICMP))?;
    let mut request = vec![ECHO_REQUEST_V4, 0, 0, 0, 0x61, 0x78, 0, 1];
    request.extend(payload);
    let sum = !proto::shm::copy_sum::sum(&request);
    request[2..4].copy_from_slice(&sum.to_be_bytes());
    let begin = Instant::now();
    rustix::net::sendto(&socket, &request, SendFlags::empty(), &SocketAddrV4::new(to, 0))?;
    let mut answer = vec![0; 1 << 16];
    loop {
        let left = (begin + patience).saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        set_socket_timeout(&socket, Timeout::Recv, Some(left))?;
        let (len, _) = match rustix::net::recv(&socket, answer.as_mut_slice(), RecvFlags::empty()) {
            Err(rustix::io::Errno::AGAIN) => return Err(io::ErrorKind::TimedOut.into()),
            received => received?,
        };
        let reply = &answer[IPV4_HEADER.min(len)..len];
        if reply.first() == Some(&0) && reply.get(4..) == Some(&request[4..]) {
            return Ok(begin.elapsed());
        }
    }
}
