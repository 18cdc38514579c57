//! System calls on sockets and interfaces that have no safe wrapper.

#![expect(unsafe_code, reason = "system calls without a safe wrapper")]

use core::mem::size_of_val;
use proto::nic::slab::CHAIN_MAX;
use proto::shm::region::Region;
use rustix::fd::{AsRawFd, BorrowedFd};
use std::io;

/// Frames in one call of [`send_frames`] at most.
pub(crate) const SEND_MAX: usize = 64;
/// Bytes of an interface's name with its zero: IFNAMSIZ of linux/if.h.
const NAME_SIZE: usize = 16;
/// sizeof(struct ifreq) of netdevice(7).
const IFREQ_SIZE: usize = 40;
/// linux/sockios.h.
const SIOCGIFFLAGS: libc::Ioctl = 0x8913;
const SIOCGIFMTU: libc::Ioctl = 0x8921;

fn checked(outcome: libc::c_int) -> io::Result<usize> {
    usize::try_from(outcome).map_err(|_| io::Error::last_os_error())
}

/// setsockopt(2) with a value of so many bytes, as linux/if_packet.h and the like lay it out.
pub(crate) fn set_option(socket: BorrowedFd<'_>, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    let (pointer, len) = (value.as_ptr().cast(), value.len() as libc::socklen_t);
    // SAFETY: the kernel reads `len` bytes of a slice that is borrowed for the call.
    checked(unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, pointer, len) }).map(drop)
}

/// getsockopt(2), as [`set_option`]; the number of bytes written.
pub(crate) fn get_option(
    socket: BorrowedFd<'_>,
    level: i32,
    name: i32,
    value: &mut [u8],
) -> io::Result<usize> {
    let mut len = value.len() as libc::socklen_t;
    let pointer = value.as_mut_ptr().cast();
    // SAFETY: the kernel writes at most `len` bytes into a slice that is borrowed for the call.
    checked(unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, pointer, &raw mut len) })?;
    Ok(len as usize)
}

/// A classic BPF program decides what a socket receives: socket(7), SO_ATTACH_FILTER.
pub(crate) fn attach_filter(socket: BorrowedFd<'_>, program: &[libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
    let (pointer, len) = ((&raw const program).cast(), size_of_val(&program) as libc::socklen_t);
    let (level, name) = (libc::SOL_SOCKET, libc::SO_ATTACH_FILTER);
    // SAFETY: the kernel copies the program out of a slice that is borrowed for the call, and does not write.
    checked(unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, pointer, len) }).map(drop)
}

/// Binds a socket to an address of a family that has no type of its own, as its header lays it out.
fn bind(socket: BorrowedFd<'_>, address: &[u8]) -> io::Result<()> {
    let (pointer, len) = (address.as_ptr().cast(), address.len() as libc::socklen_t);
    // SAFETY: the kernel reads `len` bytes of a slice that is borrowed for the call.
    checked(unsafe { libc::bind(socket.as_raw_fd(), pointer, len) }).map(drop)
}

/// Binds a packet socket to an interface: struct sockaddr_ll of packet(7). Frames of `protocol` come from now on.
pub(crate) fn bind_packet(socket: BorrowedFd<'_>, protocol: u16, index: u32) -> io::Result<()> {
    let mut address = [0; 20];
    address[..2].copy_from_slice(&(libc::AF_PACKET as u16).to_ne_bytes());
    address[2..4].copy_from_slice(&protocol.to_be_bytes());
    address[4..8].copy_from_slice(&index.to_ne_bytes());
    bind(socket, &address)
}

/// Lets a netlink socket hear of `groups`: struct sockaddr_nl of netlink(7).
pub(crate) fn bind_netlink(socket: BorrowedFd<'_>, groups: u32) -> io::Result<()> {
    let mut address = [0; 12];
    address[..2].copy_from_slice(&(libc::AF_NETLINK as u16).to_ne_bytes());
    address[8..].copy_from_slice(&groups.to_ne_bytes());
    bind(socket, &address)
}

fn ask_interface(socket: BorrowedFd<'_>, request: libc::Ioctl, name: &str) -> io::Result<[u8; 4]> {
    if name.is_empty() || name.len() >= NAME_SIZE || name.contains(['/', '\0']) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut ifreq = [0u8; IFREQ_SIZE];
    ifreq[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: these requests read and write back a struct ifreq, for which the bytes have room.
    checked(unsafe { libc::ioctl(socket.as_raw_fd(), request, ifreq.as_mut_ptr()) })?;
    let mut answer = [0; 4];
    answer.copy_from_slice(&ifreq[NAME_SIZE..NAME_SIZE + 4]);
    Ok(answer)
}

/// Flags of an interface of the socket's namespace: netdevice(7).
pub(crate) fn interface_flags(socket: BorrowedFd<'_>, name: &str) -> io::Result<i32> {
    let [low, high, ..] = ask_interface(socket, SIOCGIFFLAGS, name)?;
    Ok(i32::from(u16::from_ne_bytes([low, high])))
}

/// The largest payload of an interface's frames.
pub(crate) fn interface_mtu(socket: BorrowedFd<'_>, name: &str) -> io::Result<u32> {
    ask_interface(socket, SIOCGIFMTU, name).map(u32::from_ne_bytes)
}

/// One frame of [`send_frames`]: a head, then pieces `(offset, length)` of a region.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outgoing<'a> {
    /// Bytes before the frame.
    pub(crate) head: &'a [u8],
    /// Where its pieces lie.
    pub(crate) region: &'a Region,
    /// The pieces, at most [`CHAIN_MAX`].
    pub(crate) pieces: &'a [(usize, usize)],
}

/// Sends frames, at most [`SEND_MAX`], by one call that does not wait; how many were taken, at least one.
///
/// # Errors
/// Those of sendmmsg(2) for the first of them.
pub(crate) fn send_frames<'a>(
    socket: BorrowedFd<'_>,
    frames: impl Iterator<Item = Outgoing<'a>>,
) -> io::Result<usize> {
    let none = libc::iovec { iov_base: core::ptr::null_mut(), iov_len: 0 };
    let mut vectors = [[none; CHAIN_MAX + 1]; SEND_MAX];
    let mut lens = [0; SEND_MAX];
    let mut count = 0;
    for (frame, (vector, len)) in frames.zip(vectors.iter_mut().zip(&mut lens)) {
        // sendmmsg does not write through it: the cast loses nothing.
        vector[0] =
            libc::iovec { iov_base: frame.head.as_ptr().cast_mut().cast(), iov_len: frame.head.len() };
        for (slot, &(at, bytes)) in vector[1..].iter_mut().zip(frame.pieces) {
            *slot = libc::iovec { iov_base: frame.region.pointer(at, bytes).cast(), iov_len: bytes };
        }
        *len = 1 + frame.pieces.len();
        count += 1;
    }
    let message = |(vector, len): (&mut [libc::iovec; CHAIN_MAX + 1], &usize)| libc::mmsghdr {
        msg_hdr: libc::msghdr {
            msg_name: core::ptr::null_mut(),
            msg_namelen: 0,
            msg_iov: vector.as_mut_ptr(),
            msg_iovlen: *len,
            msg_control: core::ptr::null_mut(),
            msg_controllen: 0,
            msg_flags: 0,
        },
        msg_len: 0,
    };
    let mut messages: [libc::mmsghdr; SEND_MAX] = {
        let mut parts = vectors.iter_mut().zip(&lens);
        core::array::from_fn(|_| message(parts.next().expect("as many as there are")))
    };
    let flags = libc::MSG_DONTWAIT;
    // SAFETY: the first `count` messages have vectors of slices that the frames borrow and of pieces inside regions
    // that they borrow; all live until the call returns, and the kernel copes with concurrent writers.
    checked(unsafe { libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), count as u32, flags) })
}
