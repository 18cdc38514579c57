//! Control messages of sendmsg(2) and recvmsg(2): which address and interface (IP_PKTINFO, IPV6_PKTINFO),
//! hops (IP_TTL, IPV6_HOPLIMIT), differentiated services (IP_TOS, IPV6_TCLASS).
//!
//! As Linux does it: unknown ones of SOL_SOCKET, IPPROTO_IP and IPPROTO_IPV6 are EINVAL, SCM_RIGHTS and
//! SCM_CREDENTIALS and those of other levels are not for us. What does not fit into the caller's buffer is
//! cut there, and that is MSG_CTRUNC.

#![expect(unsafe_code, reason = "the border to C")]

use crate::abi::{Errno, Outcome};
use crate::entry::Entry;
use libc::{c_int, cmsghdr, in_pktinfo, in6_pktinfo, msghdr};
use libnetclient::{Datagram, Origin};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bytes before the data of a control message (`struct cmsghdr` of 64-bit machines), and what each is
/// padded to.
const HEADER_LEN: usize = size_of::<cmsghdr>();
const ALIGNMENT: usize = size_of::<usize>();

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
            (libc::IPPROTO_IP | libc::IPPROTO_IPV6, _) if is_datagram => {
                // SAFETY: plain arithmetic within the message.
                let data = unsafe { libc::CMSG_DATA(at) };
                // SAFETY: the message was seen to hold so many bytes.
                let data = unsafe { core::slice::from_raw_parts(data, header.cmsg_len - least) };
                take((header.cmsg_level, header.cmsg_type), data, &mut origin)?;
            }
            (libc::SOL_SOCKET, _) => return Err(Errno(libc::EINVAL)),
            _ => {}
        }
        // SAFETY: by the function's contract.
        at = unsafe { libc::CMSG_NXTHDR(message, at) };
    }
    Ok(origin)
}

/// What one control message of a datagram says.
fn take(name: (c_int, c_int), data: &[u8], origin: &mut Origin) -> Outcome<()> {
    let invalid = Errno(libc::EINVAL);
    let number = || -> Outcome<c_int> {
        match data {
            // ip(7): TTL and TOS may be one byte.
            [one] if name.0 == libc::IPPROTO_IP => Ok((*one).into()),
            _ => Ok(c_int::from_ne_bytes(data.try_into().map_err(|_| invalid)?)),
        }
    };
    let word = |at: usize| u32::from_ne_bytes([data[at], data[at + 1], data[at + 2], data[at + 3]]);
    let interface = |index: u32| if index > i32::MAX as u32 { Err(invalid) } else { Ok(index) };
    match name {
        (libc::IPPROTO_IP, libc::IP_PKTINFO) if data.len() == size_of::<in_pktinfo>() => {
            let source = Ipv4Addr::from([data[4], data[5], data[6], data[7]]);
            origin.source = (!source.is_unspecified()).then_some(IpAddr::V4(source));
            origin.interface = interface(word(0))?;
        }
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) if data.len() == size_of::<in6_pktinfo>() => {
            let mut octets = [0; 16];
            octets.copy_from_slice(&data[..16]);
            let source = Ipv6Addr::from(octets);
            origin.source = (!source.is_unspecified()).then(|| IpAddr::V6(source).to_canonical());
            origin.interface = interface(word(16))?;
        }
        (libc::IPPROTO_IP, libc::IP_TTL) => match number()? {
            hops @ 1..=255 => origin.hops = Some(hops as u8),
            _ => return Err(invalid),
        },
        (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) => match number()? {
            -1 => origin.hops = None,
            hops @ 0..=255 => origin.hops = Some(hops as u8),
            _ => return Err(invalid),
        },
        (libc::IPPROTO_IP, libc::IP_TOS) => {
            origin.tos = Some(u8::try_from(number()?).map_err(|_| invalid)?);
        }
        (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => match number()? {
            -1 => origin.tos = None,
            class @ 0..=255 => origin.tos = Some(class as u8),
            _ => return Err(invalid),
        },
        _ => return Err(invalid),
    }
    Ok(())
}

/// Control messages on their way to a caller who has room for so many bytes.
struct Messages {
    bytes: Vec<u8>,
    room: usize,
    cut: bool,
}

impl Messages {
    /// As Linux's put_cmsg(): a message that does not fit is cut, and one whose header does not fit is left
    /// out.
    fn put(&mut self, level: c_int, name: c_int, data: &[u8]) {
        let left = self.room - self.bytes.len();
        if left < HEADER_LEN {
            self.cut = true;
            return;
        }
        let whole = HEADER_LEN + data.len();
        let len = whole.min(left);
        self.cut |= len < whole;
        self.bytes.extend(len.to_ne_bytes());
        self.bytes.extend(level.to_ne_bytes());
        self.bytes.extend(name.to_ne_bytes());
        self.bytes.extend(&data[..len - HEADER_LEN]);
        let padded = whole.next_multiple_of(ALIGNMENT).min(left);
        self.bytes.resize(self.bytes.len() + padded - len, 0);
    }
}

/// The control messages of a datagram that was received, as the socket asks for them, for a caller with
/// `room` bytes; and whether they were cut (MSG_CTRUNC).
pub(crate) fn of_datagram(entry: &Entry, datagram: &Datagram, room: usize) -> (Vec<u8>, bool) {
    let mut messages = Messages { bytes: Vec::new(), room, cut: false };
    let (told, interface) = (entry.told(), datagram.interface as c_int);
    let (hops, class) = (c_int::from(datagram.hop_limit), c_int::from(datagram.tos));
    if let IpAddr::V4(addr) = datagram.local.ip().to_canonical() {
        if entry.wants_packet_info() {
            // A datagram for many has the address of nobody: the answer's source is the stack's to choose.
            let for_many = addr.is_broadcast() || addr.is_multicast();
            let own = if for_many { Ipv4Addr::UNSPECIFIED } else { addr };
            let data = [interface.to_ne_bytes(), own.octets(), addr.octets()].concat();
            messages.put(libc::IPPROTO_IP, libc::IP_PKTINFO, &data);
        }
        if told.ttl {
            messages.put(libc::IPPROTO_IP, libc::IP_TTL, &hops.to_ne_bytes());
        }
        if told.tos {
            messages.put(libc::IPPROTO_IP, libc::IP_TOS, &[datagram.tos]);
        }
    }
    let addr = match datagram.local.ip() {
        IpAddr::V6(addr) => addr,
        IpAddr::V4(addr) => addr.to_ipv6_mapped(),
    };
    if told.packet_info_v6 {
        let data = [&addr.octets()[..], &datagram.interface.to_ne_bytes()].concat();
        messages.put(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &data);
    }
    if datagram.local.is_ipv6() && addr.to_ipv4_mapped().is_none() {
        if told.hop_limit {
            messages.put(libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT, &hops.to_ne_bytes());
        }
        if told.traffic_class {
            messages.put(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &class.to_ne_bytes());
        }
    }
    (messages.bytes, messages.cut)
}

/// Writes the control messages of a datagram; what is said in `msg_controllen` and `msg_flags` follows.
///
/// # Safety
/// `msg_control` is null, or valid for writes of `msg_controllen` bytes.
pub(crate) unsafe fn put(message: &mut msghdr, entry: &Entry, datagram: &Datagram) {
    let room = if message.msg_control.is_null() { 0 } else { message.msg_controllen };
    let (bytes, cut) = of_datagram(entry, datagram, room);
    if !bytes.is_empty() {
        let to = message.msg_control.cast::<u8>();
        // SAFETY: by the function's contract; the bytes are of ours, and not more than there is room for.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
    }
    message.msg_controllen = bytes.len();
    message.msg_flags |= if cut { libc::MSG_CTRUNC } else { 0 };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_that_do_not_fit_are_cut_as_linux_cuts_them() {
        let of = |room: usize| {
            let mut messages = Messages { bytes: Vec::new(), room, cut: false };
            messages.put(libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT, &7i32.to_ne_bytes());
            messages.put(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &9i32.to_ne_bytes());
            (messages.bytes, messages.cut)
        };
        let (whole, cut) = of(100);
        assert_eq!((whole.len(), cut), (48, false));
        assert_eq!(whole[..8], 20usize.to_ne_bytes());
        // CMSG_SPACE of one: the second one is gone.
        assert_eq!(of(24), (whole[..24].to_vec(), true));
        // Two bytes of the first one's data.
        let (bytes, cut) = of(18);
        assert_eq!((bytes.len(), bytes[0], cut), (18, 18, true));
        assert_eq!(of(15), (Vec::new(), true));
        assert_eq!(of(0), (Vec::new(), true));
    }

    #[test]
    fn what_a_sender_says_of_a_datagram_is_checked() {
        let mut origin = Origin::default();
        let mut said = |level, name, data: &[u8]| take((level, name), data, &mut origin);
        assert_eq!(said(libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT, &5i32.to_ne_bytes()), Ok(()));
        assert_eq!(said(libc::IPPROTO_IP, libc::IP_TOS, &[8]), Ok(()));
        for (level, name, data) in [
            (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT, &256i32.to_ne_bytes()[..]),
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &[1][..]),
            (libc::IPPROTO_IP, libc::IP_TTL, &0i32.to_ne_bytes()[..]),
            (libc::IPPROTO_IP, libc::IP_PKTINFO, &[0; 11][..]),
            (libc::IPPROTO_IP, 77, &0i32.to_ne_bytes()[..]),
        ] {
            assert_eq!(said(level, name, data), Err(Errno(libc::EINVAL)), "{level} {name}");
        }
        assert_eq!((origin.hops, origin.tos), (Some(5), Some(8)));
    }
}
