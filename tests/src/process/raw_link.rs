//! Frames as they are, onto and off a network interface: packet(7).

#![expect(unsafe_code, reason = "the address of a packet socket has no safe type")]

use rustix::fd::OwnedFd;
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
