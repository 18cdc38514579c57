//! What a socket that carries datagrams is, and with whom it shares what it is bound to.
//!
//! Both stand in sockd's registry and in netd's connection table: they are said once, when the socket is
//! opened, and hold for its life.

use serde::{Deserialize, Serialize};

/// Which packets a socket of datagrams is for. All of them have the same streams of
/// [records](crate::arena::record); what a record carries is said here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum Form {
    /// UDP: the payload of a datagram.
    #[default]
    Udp,
    /// Echo requests and replies of ICMP (SOCK_DGRAM with IPPROTO_ICMP): the message from its header on. The
    /// port is its identifier.
    Ping,
    /// Packets of one protocol (SOCK_RAW): received of IPv4 with the IP header, of IPv6 without.
    Raw {
        /// The protocol's number; 255 (IPPROTO_RAW) receives nothing and sends packets with their header.
        protocol: u8,
    },
    /// Frames of a link (AF_PACKET), as they come in and as they leave.
    Packet {
        /// The type that is wanted; [`Form::EVERY_TYPE`] for all, in both directions.
        ethertype: u16,
        /// Without the link header (SOCK_DGRAM).
        cooked: bool,
    },
}

const UDP: u8 = 0;
const PING: u8 = 1;
const RAW: u8 = 2;
const PACKET: u8 = 3;
const COOKED: u8 = 4;

impl Form {
    /// ETH_P_ALL.
    pub const EVERY_TYPE: u16 = 3;

    /// As a record stores it.
    pub const fn to_parts(self) -> (u8, u16) {
        match self {
            Form::Udp => (UDP, 0),
            Form::Ping => (PING, 0),
            Form::Raw { protocol } => (RAW, protocol as u16),
            Form::Packet { ethertype, cooked: false } => (PACKET, ethertype),
            Form::Packet { ethertype, cooked: true } => (COOKED, ethertype),
        }
    }

    /// From a record; `None` when this binary does not know it.
    pub const fn from_parts(tag: u8, number: u16) -> Option<Form> {
        Some(match tag {
            UDP => Form::Udp,
            PING => Form::Ping,
            RAW if number < 256 => Form::Raw { protocol: number as u8 },
            PACKET => Form::Packet { ethertype: number, cooked: false },
            COOKED => Form::Packet { ethertype: number, cooked: true },
            _ => return None,
        })
    }

    /// Whether its sockets have ports: a number that tells them apart.
    pub const fn has_ports(self) -> bool {
        matches!(self, Form::Udp | Form::Ping)
    }
}

/// With whom a socket shares its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Share {
    /// SO_REUSEADDR: with others that say so; the last one bound receives.
    pub address: bool,
    /// SO_REUSEPORT: with others of the same user that say so; each flow has one of them.
    pub port: bool,
}

impl Share {
    /// With nobody.
    pub const NONE: Share = Share { address: false, port: false };

    /// As a record stores it.
    pub const fn to_bits(self) -> u8 {
        self.address as u8 | (self.port as u8) << 1
    }

    /// From a record; `None` when this binary does not know it.
    pub const fn from_bits(bits: u8) -> Option<Share> {
        if bits < 4 { Some(Share { address: bits & 1 != 0, port: bits & 2 != 0 }) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_comes_back_as_it_was_written() {
        let packet = |cooked| Form::Packet { ethertype: 0x88b5, cooked };
        for form in [Form::Udp, Form::Ping, Form::Raw { protocol: 255 }, packet(false), packet(true)] {
            let (tag, number) = form.to_parts();
            assert_eq!(Form::from_parts(tag, number), Some(form));
        }
        assert_eq!((Form::from_parts(2, 256), Form::from_parts(5, 0)), (None, None));
        for bits in 0..4 {
            assert_eq!(Share::from_bits(bits).map(Share::to_bits), Some(bits));
        }
        assert_eq!(Share::from_bits(4), None);
    }
}
