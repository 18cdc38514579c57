//! Fixed-size records to bytes and back: little-endian fields in order, nothing implicit.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Writes fields one after the other into a record of `N` bytes.
pub(super) struct Pack<const N: usize> {
    bytes: [u8; N],
    at: usize,
}

/// Reads fields in the order in which [`Pack`] wrote them.
pub(super) struct Unpack<'a> {
    bytes: &'a [u8],
}

macro_rules! word {
    ($($name:ident: $ty:ty),*) => {
        impl<const N: usize> Pack<N> {
            $(pub(super) fn $name(&mut self, value: $ty) { self.put(&value.to_le_bytes()); })*
        }
        impl Unpack<'_> {
            $(pub(super) fn $name(&mut self) -> $ty { <$ty>::from_le_bytes(self.get()) })*
        }
    };
}
word!(u8: u8, u16: u16, u32: u32, u64: u64);

impl<const N: usize> Pack<N> {
    pub(super) fn new() -> Self {
        Pack { bytes: [0; N], at: 0 }
    }

    pub(super) fn finish(self) -> [u8; N] {
        self.bytes
    }

    fn put(&mut self, field: &[u8]) {
        self.bytes[self.at..self.at + field.len()].copy_from_slice(field);
        self.at += field.len();
    }

    /// 16 bytes of address (IPv4 as IPv4-mapped IPv6) and the port.
    pub(super) fn socket_addr(&mut self, addr: SocketAddr) {
        self.ip(addr.ip());
        self.u16(addr.port());
    }

    /// 16 bytes of address, IPv4 as IPv4-mapped IPv6.
    pub(super) fn ip(&mut self, ip: IpAddr) {
        let ip = match ip {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        self.put(&ip.octets());
    }
}

impl<'a> Unpack<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Unpack { bytes }
    }

    fn get<const K: usize>(&mut self) -> [u8; K] {
        let (field, rest) = self.bytes.split_first_chunk().expect("a record's fields fit its size");
        self.bytes = rest;
        *field
    }

    pub(super) fn socket_addr(&mut self) -> SocketAddr {
        let ip = self.ip();
        SocketAddr::new(ip, self.u16())
    }

    pub(super) fn ip(&mut self) -> IpAddr {
        let v6 = Ipv6Addr::from(self.get::<16>());
        v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), |v4: Ipv4Addr| IpAddr::V4(v4))
    }
}
