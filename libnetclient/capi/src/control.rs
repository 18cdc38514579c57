//! Control messages of sendmsg(2) and recvmsg(2): IP_PKTINFO, and nothing else.
//!
//! As Linux does it: unknown ones of SOL_SOCKET and IPPROTO_IP are EINVAL, SCM_RIGHTS and
//! SCM_CREDENTIALS and those of other levels are not for us. What does not fit into the caller's buffer
//! is MSG_CTRUNC.

#![expect(unsafe_code, reason = "the border to C")]

use crate::abi::{Errno, Outcome};
use libc::{c_int, cmsghdr, in_addr, in_pktinfo, msghdr};
use libnetclient::Origin;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

const PKTINFO_LEN: usize = size_of::<in_pktinfo>();

/// What the control messages of a send say.
///
/// # Errors
/// EINVAL for those that are not known, or too short.
///
/// # Safety
/// `msg_control` is null, or valid for reads of `msg_controllen` bytes.
pub(crate) unsafe fn origin(message: &msghdr, is_datagram: bool) -> Outcome<Origin> {
    let mut origin = Origin::default();
    if message.msg_control.is_null() {
        return Ok(origin);
    }
    // SAFETY: by the function's contract.
    let mut at = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !at.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR name whole headers within the buffer; it may not be
        // aligned.
        let header = unsafe { at.read_unaligned() };
        let used = (at as usize).wrapping_sub(message.msg_control as usize);
        // SAFETY: plain arithmetic.
        let least = unsafe { libc::CMSG_LEN(0) } as usize;
        if header.cmsg_len < least || header.cmsg_len > message.msg_controllen.saturating_sub(used) {
            return Err(Errno(libc::EINVAL));
        }
        match (header.cmsg_level, header.cmsg_type) {
            (libc::SOL_SOCKET, libc::SCM_RIGHTS | libc::SCM_CREDENTIALS) => {}
            (libc::IPPROTO_IP, libc::IP_PKTINFO) if is_datagram => {
                if header.cmsg_len != least + PKTINFO_LEN {
                    return Err(Errno(libc::EINVAL));
                }
                // SAFETY: the message was seen to hold one.
                let info = unsafe { libc::CMSG_DATA(at) };
                // SAFETY: as above: the data is that structure.
                let info = unsafe { info.cast::<in_pktinfo>().read_unaligned() };
                let source = Ipv4Addr::from(u32::from_be(info.ipi_spec_dst.s_addr));
                origin.source = (!source.is_unspecified()).then_some(IpAddr::V4(source));
                origin.interface = u32::try_from(info.ipi_ifindex).map_err(|_| Errno(libc::EINVAL))?;
            }
            (libc::SOL_SOCKET, _) => return Err(Errno(libc::EINVAL)),
            (libc::IPPROTO_IP, _) if is_datagram => return Err(Errno(libc::EINVAL)),
            _ => {}
        }
        // SAFETY: by the function's contract.
        at = unsafe { libc::CMSG_NXTHDR(message, at) };
    }
    Ok(origin)
}

/// Writes where a datagram came in; what is said in `msg_controllen` and `msg_flags` follows.
///
/// # Safety
/// `msg_control` is null, or valid for writes of `msg_controllen` bytes.
pub(crate) unsafe fn put_packet_info(message: &mut msghdr, local: SocketAddr, interface: u32) {
    let IpAddr::V4(addr) = local.ip() else { return message.msg_controllen = 0 };
    // SAFETY: plain arithmetic.
    let whole = unsafe { libc::CMSG_SPACE(PKTINFO_LEN as u32) };
    // SAFETY: as above.
    let least = unsafe { libc::CMSG_LEN(PKTINFO_LEN as u32) };
    if message.msg_control.is_null() || message.msg_controllen < whole as usize {
        message.msg_controllen = 0;
        message.msg_flags |= libc::MSG_CTRUNC;
        return;
    }
    let addr = in_addr { s_addr: u32::from(addr).to_be() };
    // A datagram for many has the address of nobody: the answer's source is the stack's to choose.
    let own = match local.ip() {
        IpAddr::V4(v4) if v4.is_broadcast() || v4.is_multicast() => in_addr { s_addr: 0 },
        _ => addr,
    };
    let info = in_pktinfo { ipi_ifindex: interface as c_int, ipi_spec_dst: own, ipi_addr: addr };
    let header = cmsghdr { cmsg_len: least as _, cmsg_level: libc::IPPROTO_IP, cmsg_type: libc::IP_PKTINFO };
    let at = message.msg_control.cast::<cmsghdr>();
    // SAFETY: by the function's contract the buffer holds `whole` bytes; it may not be aligned.
    unsafe { at.write_unaligned(header) };
    // SAFETY: as above.
    let data = unsafe { libc::CMSG_DATA(at) };
    // SAFETY: as above.
    unsafe { data.cast::<in_pktinfo>().write_unaligned(info) };
    message.msg_controllen = whole as usize;
}
