//! Frames as they are, onto and off a network interface: packet(7).

#![expect(unsafe_code, reason = "the address of a packet socket has no safe type")]

use rustix::fd::{AsRawFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque};
use rustix::net::sockopt::{Timeout, set_socket_recv_buffer_size_force, set_socket_timeout};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketType, netdevice};
use std::io;
use std::time::Duration;

/// ETH_P_ALL of linux/if_ether.h.
const EVERY_PROTOCOL: u16 = 3;
/// Bytes of frames that wait to be read.
const ROOM: usize = 16 << 20;
/// struct sockaddr_ll: family, protocol, interface, then what only answers carry.
const ADDRESS_SIZE: usize = 20;

/// The address "everything on this interface".
struct LinkAddress([u8; ADDRESS_SIZE]);

impl LinkAddress {
    fn new(interface: u32, protocol: u16) -> LinkAddress {
        let mut bytes = [0; ADDRESS_SIZE];
        bytes[..2].copy_from_slice(&AddressFamily::PACKET.as_raw().to_ne_bytes());
        bytes[2..4].copy_from_slice(&protocol.to_be_bytes());
        bytes[4..8].copy_from_slice(&interface.to_ne_bytes());
        LinkAddress(bytes)
    }
}

// SAFETY: the pointer given to `f` is that of the whole array, which lives until `f` returns, and
// the array holds a struct sockaddr_ll.
unsafe impl SocketAddrArg for LinkAddress {
    unsafe fn with_sockaddr<R>(&self, f: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R) -> R {
        f(self.0.as_ptr().cast(), ADDRESS_SIZE as SocketAddrLen)
    }
}

/// An interface of the kernel, below its stack.
#[derive(Debug)]
pub struct RawLink(OwnedFd);

impl RawLink {
    /// Sends only.
    ///
    /// # Errors
    /// No such interface, or no right to packet sockets.
    pub fn sender(interface: &str) -> io::Result<RawLink> {
        RawLink::open(interface, 0)
    }

    /// Also hears everything that comes in on the interface.
    ///
    /// # Errors
    /// As [`RawLink::sender`].
    pub fn open_both_ways(interface: &str) -> io::Result<RawLink> {
        RawLink::open(interface, EVERY_PROTOCOL)
    }

    fn open(interface: &str, protocol: u16) -> io::Result<RawLink> {
        let socket = rustix::net::socket(AddressFamily::PACKET, SocketType::RAW, None::<Protocol>)?;
        let index = netdevice::name_to_index(&socket, interface)?;
        // Only root may have as much; with less a reader that is late loses frames.
        let _ = set_socket_recv_buffer_size_force(&socket, ROOM);
        rustix::net::bind(&socket, &LinkAddress::new(index, protocol))?;
        Ok(RawLink(socket))
    }

    /// Sends one frame, from its first address to its last byte.
    ///
    /// # Errors
    /// Those of send(2): shorter than a header, or longer than the interface takes.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        let sent = rustix::net::send(&self.0, frame, SendFlags::empty())?;
        assert_eq!(sent, frame.len(), "a frame is sent as a whole");
        Ok(())
    }

    /// Every frame that waits to be read; waits for none.
    ///
    /// # Errors
    /// Those of recv(2).
    pub fn heard(&self) -> io::Result<Vec<Vec<u8>>> {
        let (mut frame, mut all) = (vec![0; 1 << 16], Vec::new());
        loop {
            match rustix::net::recv(&self.0, frame.as_mut_slice(), RecvFlags::DONTWAIT) {
                Ok((len, _)) => all.push(frame[..len].to_vec()),
                Err(Errno::AGAIN) => return Ok(all),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// The next frame that `wanted` takes, within `patience` of the one before.
    ///
    /// # Errors
    /// `WouldBlock` when no frame came for so long.
    pub fn receive<T>(
        &self,
        patience: Duration,
        mut wanted: impl FnMut(&[u8]) -> Option<T>,
    ) -> io::Result<T> {
        set_socket_timeout(&self.0, Timeout::Recv, Some(patience))?;
        let mut frame = vec![0; 1 << 16];
        loop {
            let (len, _) = rustix::net::recv(&self.0, frame.as_mut_slice(), RecvFlags::empty())?;
            if let Some(found) = wanted(&frame[..len]) {
                return Ok(found);
            }
        }
    }
}

/// A frame, and the tag that was in it.
pub type Tagged = (Option<u16>, Vec<u8>);

/// What came in on an interface, with the tag that the kernel took off it (packet(7), PACKET_AUXDATA).
#[derive(Debug)]
pub struct TaggedLink(OwnedFd);

impl TaggedLink {
    /// Hears what comes in on `interface`, and nothing of what leaves by it.
    ///
    /// # Errors
    /// As [`RawLink::sender`].
    pub fn open(interface: &str) -> io::Result<TaggedLink> {
        let RawLink(socket) = RawLink::open(interface, EVERY_PROTOCOL)?;
        for option in [libc::PACKET_AUXDATA, libc::PACKET_IGNORE_OUTGOING] {
            let (on, size) = (1i32, size_of::<i32>() as libc::socklen_t);
            // SAFETY: the descriptor is open, and the value is an int that lives until the call returns.
            let set = unsafe {
                libc::setsockopt(socket.as_raw_fd(), libc::SOL_PACKET, option, (&raw const on).cast(), size)
            };
            if set < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(TaggedLink(socket))
    }

    /// The next frame; `None` when none came for so long.
    ///
    /// # Errors
    /// Those of recvmsg(2).
    pub fn receive(&self, patience: Duration) -> io::Result<Option<Tagged>> {
        set_socket_timeout(&self.0, Timeout::Recv, Some(patience))?;
        let mut frame = vec![0u8; 1 << 16];
        let mut control = [0u64; 16];
        let mut parts = libc::iovec { iov_base: frame.as_mut_ptr().cast(), iov_len: frame.len() };
        let mut message = libc::msghdr {
            msg_name: core::ptr::null_mut(),
            msg_namelen: 0,
            msg_iov: &raw mut parts,
            msg_iovlen: 1,
            msg_control: control.as_mut_ptr().cast(),
            msg_controllen: size_of_val(&control),
            msg_flags: 0,
        };
        // SAFETY: the descriptor is open, and what the message points at lives until the call returns.
        let got = unsafe { libc::recvmsg(self.0.as_raw_fd(), &raw mut message, 0) };
        if got < 0 {
            let error = io::Error::last_os_error();
            let late = matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted);
            return if late { Ok(None) } else { Err(error) };
        }
        frame.truncate(got as usize);
        Ok(Some((tag_in(&control), frame)))
    }
}

/// The tag that the first message of these tells: struct cmsghdr, then linux/if_packet.h's struct
/// tpacket_auxdata.
fn tag_in(control: &[u64]) -> Option<u16> {
    const TP_STATUS_VLAN_VALID: u32 = 1 << 4;
    let bytes: Vec<u8> = control.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    let (level, kind, status) = (word(8), word(12), word(16));
    let told = level == libc::SOL_PACKET as u32
        && kind == libc::PACKET_AUXDATA as u32
        && status & TP_STATUS_VLAN_VALID != 0;
    told.then(|| u16::from_ne_bytes([bytes[32], bytes[33]]))
}

/// The interface computes the checksums of what the kernel sends on it, before it is on the cable: without it, a
/// veth hands over frames whose checksums nobody has filled in, which only the kernel's own stack knows.
///
/// # Errors
/// No such interface, or no right to change it.
pub fn close_checksums(interface: &str) -> io::Result<()> {
    // linux/sockios.h, linux/ethtool.h: struct ethtool_value, a command and a value.
    const SIOCETHTOOL: rustix::ioctl::Opcode = 0x8946;
    const ETHTOOL_STXCSUM: u32 = 0x17;
    let mut off = [ETHTOOL_STXCSUM, 0];
    // struct ifreq of netdevice(7): a name, then a pointer.
    let mut request = [0u8; 40];
    if interface.len() >= 16 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    request[..interface.len()].copy_from_slice(interface.as_bytes());
    request[16..24].copy_from_slice(&(off.as_mut_ptr() as u64).to_ne_bytes());
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None::<Protocol>)?;
    // SAFETY: SIOCETHTOOL reads a struct ifreq, for which these bytes have room, and what it points at.
    let request = unsafe { rustix::ioctl::Updater::<SIOCETHTOOL, [u8; 40]>::new(&mut request) };
    // SAFETY: as above; both live until the call returns.
    unsafe { rustix::ioctl::ioctl(&socket, request) }?;
    // The kernel writes nothing there that is of interest.
    core::hint::black_box(off);
    Ok(())
}
