//! Making a TAP device, perhaps in another network namespace.

#![expect(unsafe_code, reason = "ioctls of /dev/net/tun")]

use super::netlink;
use crate::backend::namespace::{self, OpenError, failed};
use crate::virtio_header::VIRTIO_HEADER_SIZE;
use proto::control::messages::Prefix;
use proto::control::notices::feature;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::ioctl::{IntegerSetter, Setter, Updater, opcode};
use rustix::net::{AddressFamily, SocketType, netdevice};

/// What a TAP does for the stack: all that the kernel's own side of it does for a program.
pub const FEATURES: u32 =
    feature::TX_CHECKSUM | feature::RX_CHECKSUM | feature::TSO4 | feature::TSO6 | feature::RX_COALESCE;

/// Where the device is made.
const CONTROL: &str = "/dev/net/tun";
/// Bytes of an interface's name with its zero: IFNAMSIZ of linux/if.h.
const NAME_SIZE: usize = 16;
/// sizeof(struct ifreq) of netdevice(7).
const IFREQ_SIZE: usize = 40;

// linux/if_tun.h.
const IFF_TAP: u16 = 0x0002;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;
const TUN_F_CSUM: usize = 1;
const TUN_F_TSO4: usize = 2;
const TUN_F_TSO6: usize = 4;
// Both are declared as taking an int, whatever they take.
const TUNSETIFF: rustix::ioctl::Opcode = opcode::write::<i32>(b'T', 202);
const TUNSETOFFLOAD: rustix::ioctl::Opcode = opcode::write::<u32>(b'T', 208);
const TUNSETVNETHDRSZ: rustix::ioctl::Opcode = opcode::write::<i32>(b'T', 216);

/// Makes TAP device `name` in namespace `netns` (the caller's own, when there is none), gives the
/// kernel's side its MTU and addresses, and sets it up. The kernel may give us frames as `features`
/// (bits of [`feature`]) says: with none, only whole frames with checksums.
///
/// # Errors
/// [`OpenError`]: no such namespace, no right to make devices, a name that is in use.
pub fn open(
    name: &str,
    netns: Option<&str>,
    mtu: u16,
    addrs: &[Prefix],
    features: u32,
) -> Result<OwnedFd, OpenError> {
    namespace::inside(netns, || make(name, mtu, addrs, features))
}

fn make(name: &str, mtu: u16, addrs: &[Prefix], features: u32) -> Result<OwnedFd, OpenError> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let device =
        rustix::fs::open(CONTROL, flags, Mode::empty()).map_err(failed(format!("open {CONTROL}")))?;
    set_interface(device.as_fd(), name).map_err(failed(format!("make TAP device {name}")))?;
    configure(device.as_fd(), features)?;
    let socket =
        rustix::net::socket(AddressFamily::UNIX, SocketType::DGRAM, None).map_err(failed("make a socket"))?;
    let index = netdevice::name_to_index(&socket, name).map_err(failed(format!("find {name}")))?;
    netlink::set_up(index, mtu, addrs).map_err(failed(format!("set up the kernel's side of {name}")))?;
    Ok(device)
}

/// Says of an open TAP device what stands before each frame, and which frames the kernel may give us:
/// when it is made, and again by each nicd that adopts it, since its predecessor may have been of another
/// mind.
///
/// # Errors
/// [`OpenError`]: the kernel knows no such offload, or the descriptor is no TAP.
pub fn configure(device: BorrowedFd<'_>, features: u32) -> Result<(), OpenError> {
    set_header_size(device).map_err(failed("set the TAP's header size"))?;
    set_offloads(device, features).map_err(failed("set the TAP's offloads"))
}

fn set_interface(device: BorrowedFd<'_>, name: &str) -> rustix::io::Result<()> {
    if name.is_empty() || name.len() >= NAME_SIZE || name.contains(['/', '\0']) {
        return Err(rustix::io::Errno::INVAL);
    }
    let mut request = [0u8; IFREQ_SIZE];
    request[..name.len()].copy_from_slice(name.as_bytes());
    let flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
    request[NAME_SIZE..NAME_SIZE + 2].copy_from_slice(&flags.to_ne_bytes());
    // SAFETY: TUNSETIFF reads and writes back a struct ifreq, for which these bytes have room.
    let request = unsafe { Updater::<TUNSETIFF, [u8; IFREQ_SIZE]>::new(&mut request) };
    // SAFETY: as above; the request lives until the call returns.
    unsafe { rustix::ioctl::ioctl(device, request) }
}

fn set_header_size(device: BorrowedFd<'_>) -> rustix::io::Result<()> {
    // SAFETY: TUNSETVNETHDRSZ reads an int.
    let request = unsafe { Setter::<TUNSETVNETHDRSZ, i32>::new(VIRTIO_HEADER_SIZE as i32) };
    // SAFETY: as above; the request lives until the call returns.
    unsafe { rustix::ioctl::ioctl(device, request) }
}

fn set_offloads(device: BorrowedFd<'_>, features: u32) -> rustix::io::Result<()> {
    let bits = [(feature::RX_CHECKSUM, TUN_F_CSUM), (feature::RX_COALESCE, TUN_F_TSO4 | TUN_F_TSO6)];
    let allowed = bits.iter().filter(|(bit, _)| features & bit != 0).map(|(_, tun)| tun).sum();
    // SAFETY: TUNSETOFFLOAD takes its bits by value and touches no memory.
    let request = unsafe { IntegerSetter::<TUNSETOFFLOAD>::new_usize(allowed) };
    // SAFETY: as above.
    unsafe { rustix::ioctl::ioctl(device, request) }
}
