//! A packet socket on an interface that is there already, perhaps in another network namespace, and what tells of
//! the interface itself.
//!
//! The stack is a station of its own beside the kernel, another hardware address on the same cable, unless it has a
//! [`Share`] of the kernel's. The interface
//! is told to let frames to it through; the kernel, for which they are another host's (PACKET_OTHERHOST, dropped
//! before IP looks at them), neither answers nor resets what is in them. A classic BPF filter leaves to the kernel
//! what is the kernel's: nothing of it is copied into our ring.

use crate::backend::kernel_calls::{
    attach_filter, bind_netlink, bind_packet, get_option, interface_flags, interface_mtu, set_option,
};
use crate::backend::matcher::{Matcher, NEXT, NO, Test, Width, YES};
use crate::backend::namespace::{self, OpenError, failed};
use crate::backend::packet::ring::Ring;
use crate::backend::share::Share;
use proto::control::notices::Mac;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, netdevice, sockopt};
use std::io;

// linux/if_packet.h.
const SOL_PACKET: i32 = 263;
const PACKET_ADD_MEMBERSHIP: i32 = 1;
const PACKET_DROP_MEMBERSHIP: i32 = 2;
const PACKET_STATISTICS: i32 = 6;
const PACKET_VNET_HDR: i32 = 15;
const PACKET_IGNORE_OUTGOING: i32 = 23;
const PACKET_MR_PROMISC: u16 = 1;
const PACKET_MR_ALLMULTI: u16 = 2;
const PACKET_MR_UNICAST: u16 = 3;
/// linux/if_ether.h: every frame.
const ETH_P_ALL: u16 = 3;
/// linux/rtnetlink.h: news of interfaces.
const RTMGRP_LINK: u32 = 1;
/// linux/if.h: it is up, and has a carrier.
const IFF_UP: i32 = 1;
const IFF_RUNNING: i32 = 0x40;
/// Bytes that may wait in the socket: a batch of super-frames.
const SEND_BUFFER: usize = 8 << 20;

/// Which frames a socket takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::backend) enum Takes {
    /// All to a station, and to groups.
    Station(Mac),
    /// All to a station.
    ToUs(Mac),
    /// Those to groups.
    Groups,
    /// All that is meant for the stack, of what the kernel gets.
    Shared(Share),
    /// Of that, what is whole and the stack's alone.
    Alone(Share),
    /// All.
    Everything,
}

/// A packet socket on one interface.
#[derive(Debug)]
pub(in crate::backend) struct PacketSocket {
    socket: OwnedFd,
    /// Readable when something changes about interfaces.
    news: OwnedFd,
    name: String,
    index: u32,
}

impl PacketSocket {
    /// Opens one; receives from [`PacketSocket::listen`] on.
    ///
    /// # Errors
    /// [`OpenError`]: no such namespace or interface, no right to open such sockets, an interface whose frames are
    /// shorter than `mtu`.
    pub(in crate::backend) fn open(name: &str, netns: Option<&str>, mtu: u16) -> Result<Self, OpenError> {
        namespace::inside(netns, || {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            // Protocol 0: no frame comes before it is bound.
            let socket = rustix::net::socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None)
                .map_err(failed("open a packet socket (CAP_NET_RAW is needed)"))?;
            let index =
                netdevice::name_to_index(&socket, name).map_err(failed(format!("find interface {name}")))?;
            let most =
                interface_mtu(socket.as_fd(), name).map_err(failed(format!("ask {name} for its MTU")))?;
            if most < u32::from(mtu) {
                let text = format!("its MTU is {most}; give the stack no more by --mtu {most}");
                return Err(failed(format!("send {mtu} bytes through {name}"))(io::Error::other(text)));
            }
            // Protocol 0 is NETLINK_ROUTE.
            let news = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)
                .map_err(failed("open a netlink socket"))?;
            bind_netlink(news.as_fd(), RTMGRP_LINK).map_err(failed("hear of interfaces"))?;
            let on = 1u32.to_ne_bytes();
            // What the kernel and we send is nothing that we receive.
            set_option(socket.as_fd(), SOL_PACKET, PACKET_IGNORE_OUTGOING, &on)
                .map_err(failed("leave out what is sent"))?;
            Ok(PacketSocket { socket, news, name: name.to_owned(), index })
        })
    }

    /// A virtio header before each frame, both ways, and a ring to receive by.
    ///
    /// # Errors
    /// [`OpenError`].
    pub(super) fn with_ring(&self) -> Result<Ring, OpenError> {
        set_option(self.socket.as_fd(), SOL_PACKET, PACKET_VNET_HDR, &1u32.to_ne_bytes())
            .map_err(failed("have headers before frames"))?;
        // More than the administrator allows everybody; with less it works too.
        let _ = sockopt::set_socket_send_buffer_size_force(&self.socket, SEND_BUFFER);
        Ring::new(self.socket.as_fd()).map_err(failed("make a receive ring"))
    }

    /// Receives from now on.
    ///
    /// # Errors
    /// [`OpenError`].
    pub(in crate::backend) fn listen(&self, mac: &Mac, takes: &Takes) -> Result<(), OpenError> {
        self.take(takes).map_err(failed("attach a filter"))?;
        self.member(PACKET_ADD_MEMBERSHIP, PACKET_MR_UNICAST, mac)
            .map_err(failed(format!("have {} take frames to a second address", self.name)))?;
        self.member(PACKET_ADD_MEMBERSHIP, PACKET_MR_ALLMULTI, &[0; 6])
            .map_err(failed(format!("have {} take frames to groups", self.name)))?;
        bind_packet(self.socket.as_fd(), ETH_P_ALL, self.index)
            .map_err(failed(format!("receive from {}", self.name)))
    }

    /// Which frames are received.
    ///
    /// # Errors
    /// Those of setsockopt(2).
    pub(in crate::backend) fn take(&self, takes: &Takes) -> io::Result<()> {
        attach_filter(self.socket.as_fd(), &takes.matcher().classic())
    }

    /// The interface takes every frame from now on, or not.
    ///
    /// # Errors
    /// Those of setsockopt(2).
    pub(in crate::backend) fn promiscuous(&self, on: bool) -> io::Result<()> {
        let way = if on { PACKET_ADD_MEMBERSHIP } else { PACKET_DROP_MEMBERSHIP };
        self.member(way, PACKET_MR_PROMISC, &[0; 6])
    }

    /// struct packet_mreq: interface, kind, length of the address, address.
    fn member(&self, way: i32, kind: u16, mac: &Mac) -> io::Result<()> {
        let mut request = [0; 16];
        request[..4].copy_from_slice(&self.index.to_ne_bytes());
        request[4..6].copy_from_slice(&kind.to_ne_bytes());
        request[6..8].copy_from_slice(&6u16.to_ne_bytes());
        request[8..14].copy_from_slice(mac);
        set_option(self.socket.as_fd(), SOL_PACKET, way, &request)
    }

    /// Number of the interface.
    pub(in crate::backend) fn index(&self) -> u32 {
        self.index
    }

    /// Frames that found no room since the last call: struct tpacket_stats_v3.
    pub(in crate::backend) fn lost_frames(&self) -> u64 {
        let mut stats = [0; 12];
        match get_option(self.socket.as_fd(), SOL_PACKET, PACKET_STATISTICS, &mut stats) {
            Ok(len) if len >= 8 => u32::from_ne_bytes([stats[4], stats[5], stats[6], stats[7]]).into(),
            // A socket that tells nothing has counted nothing.
            _ => 0,
        }
    }

    /// Readable when something changes about interfaces.
    pub(in crate::backend) fn news(&self) -> BorrowedFd<'_> {
        self.news.as_fd()
    }

    /// Whether the interface is up and has a carrier. What was said about it is forgotten.
    ///
    /// # Errors
    /// When it is there no more.
    pub(in crate::backend) fn look(&self) -> io::Result<bool> {
        let mut said = [0; 4096];
        // Too much was said: that too is a reason to look.
        while !matches!(
            rustix::net::recv(&self.news, &mut said, RecvFlags::DONTWAIT),
            Err(rustix::io::Errno::AGAIN)
        ) {}
        // "It went down" is said once, to whom sends next; we know by the flags.
        let _ = sockopt::socket_error(&self.socket);
        if netdevice::name_to_index(&self.socket, &self.name)? != self.index {
            return Err(io::Error::other(format!("{} is another interface now", self.name)));
        }
        let flags = interface_flags(self.socket.as_fd(), &self.name)?;
        Ok(flags & IFF_UP != 0 && flags & IFF_RUNNING != 0)
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// IEEE 802.3 clause 3.2.3: the first bit on the wire says that it is a group's address.
const GROUP: u32 = 1 << 24;

impl Takes {
    /// As a program over a frame.
    pub(in crate::backend) fn matcher(&self) -> Matcher {
        let mut program = Matcher::new();
        program.load(0, Width::Word);
        let station = |program: &mut Matcher, [a, b, c, d, e, f]: &Mac| {
            program.jump(Test::Equals(u32::from_be_bytes([*a, *b, *c, *d])), NEXT, NO);
            program.load(4, Width::Half);
            program.jump(Test::Equals(u16::from_be_bytes([*e, *f]).into()), YES, NO);
        };
        match self {
            Takes::Everything => program.jump(Test::AtLeast(0), YES, YES),
            Takes::Groups => program.jump(Test::Has(GROUP), YES, NO),
            Takes::Station(mac) => {
                program.jump(Test::Has(GROUP), YES, NEXT);
                station(&mut program, mac);
            }
            Takes::ToUs(mac) => station(&mut program, mac),
            Takes::Shared(share) => return share.seen(),
            Takes::Alone(share) => return share.alone(),
        }
        program
    }
}
