//! The stack's host as programs ask for it: interfaces, addresses, routes, neighbours, sockets; read from
//! the group's regions, where they stand also while daemons are down.

use netctl::group::{Access, HostSocket, SocketRow};
use proto::arena::record::interface_index;
use proto::form::Form;
use proto::hard::config::{Key, LOOPBACK_MTU, LOOPBACK_NAME, LOOPBACK_NETWORK, Mac, Record as Config, Value};
use proto::hard::conns::{Kind, TcpState};
use proto::id::{Role, Seat};
use proto::zone;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// rtnetlink(7): RT_TABLE_MAIN.
pub const TABLE_MAIN: u32 = 254;

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// As if_nametoindex(3) says it; 1 is loopback.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its hardware address.
    pub mac: Mac,
    /// Bytes of a packet.
    pub mtu: u32,
    /// IFF_UP and so on.
    pub flags: u32,
}

impl Link {
    /// Whether it is loopback.
    pub fn is_loopback(&self) -> bool {
        self.index == interface_index(None)
    }
}

/// An address of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// Its interface.
    pub index: u32,
    /// The address.
    pub addr: IpAddr,
    /// Bits of its network.
    pub prefix: u8,
    /// Not yet known to be nobody else's.
    pub tentative: bool,
    /// A router announced its network.
    pub learned: bool,
}

/// A route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// The network.
    pub to: IpAddr,
    /// Its bits.
    pub prefix: u8,
    /// The next hop.
    pub gateway: Option<IpAddr>,
    /// The interface.
    pub index: u32,
    /// Whose address is preferred.
    pub source: Option<IpAddr>,
    /// The metric.
    pub metric: u32,
    /// The table.
    pub table: u32,
    /// It follows from an address.
    pub of_address: bool,
}

/// What an interface has carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Frames that came in.
    pub received: u64,
    /// Bytes in them.
    pub received_bytes: u64,
    /// Frames that came in damaged.
    pub received_errors: u64,
    /// Frames that came in and were dropped for another reason.
    pub received_drops: u64,
    /// Frames that left.
    pub sent: u64,
    /// Bytes in them.
    pub sent_bytes: u64,
    /// Frames that could not leave.
    pub sent_errors: u64,
}

/// A permanent neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbour {
    /// Its interface.
    pub index: u32,
    /// Its address.
    pub addr: IpAddr,
    /// Its hardware address.
    pub mac: Mac,
}

/// A socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Socket {
    /// IPPROTO_TCP or IPPROTO_UDP.
    pub protocol: u8,
    /// As Linux numbers the states of TCP.
    pub state: u8,
    /// Our side.
    pub local: SocketAddr,
    /// The remote.
    pub remote: SocketAddr,
    /// Whose it is.
    pub uid: u32,
    /// Bytes that were not read; of a listener connections that wait for accept.
    pub received: u32,
    /// Bytes that were not acknowledged; of a listener how many connections may wait.
    pub sent: u32,
}

/// A group's host, looked up when it is first asked for.
#[derive(Debug, Default)]
pub struct Host {
    name: String,
    access: Option<Access>,
}

fn up_flags(up: bool, more: i32) -> u32 {
    let up = if up { libc::IFF_UP | libc::IFF_RUNNING | libc::IFF_LOWER_UP } else { 0 };
    (up | more).cast_unsigned()
}

/// The network that an address lies in.
pub fn network(addr: IpAddr, len: u8) -> IpAddr {
    match addr {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(len.min(32))).unwrap_or(0);
            Ipv4Addr::from_bits(v4.to_bits() & mask).into()
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(len.min(128))).unwrap_or(0);
            Ipv6Addr::from_bits(v6.to_bits() & mask).into()
        }
    }
}

/// Linux's number of a state of TCP (tcp_states.h).
fn linux_state(row: &SocketRow) -> u8 {
    const ESTABLISHED: u8 = 1;
    const CLOSE: u8 = 7;
    match row.opening.kind {
        Kind::TcpListener if row.state.tcp_state == TcpState::Listen => 10,
        Kind::Udp if row.opening.remote.port() == 0 => CLOSE,
        Kind::Udp => ESTABLISHED,
        _ => match row.state.tcp_state {
            TcpState::SynSent => 2,
            TcpState::SynReceived => 3,
            TcpState::FinWait1 => 4,
            TcpState::FinWait2 => 5,
            TcpState::TimeWait => 6,
            TcpState::CloseWait => 8,
            TcpState::LastAck => 9,
            TcpState::Closing => 11,
            TcpState::Established => ESTABLISHED,
            _ => CLOSE,
        },
    }
}

impl Host {
    /// That of a group.
    pub fn new(name: String) -> Host {
        Host { name, access: None }
    }

    fn access(&mut self) -> Option<&Access> {
        if self.access.is_none() {
            self.access = Access::find(&self.name).ok();
        }
        self.access.as_ref()
    }

    fn config(&mut self) -> Vec<Config> {
        self.access().map(Access::config).unwrap_or_default()
    }

    /// The interfaces, loopback first.
    pub fn links(&mut self) -> Vec<Link> {
        let lo = Link {
            index: interface_index(None),
            name: LOOPBACK_NAME.to_owned(),
            mac: [0; 6],
            mtu: LOOPBACK_MTU.into(),
            flags: up_flags(true, libc::IFF_LOOPBACK),
        };
        let link = |record: Config| match (record.key, record.value) {
            (Key::Link(number), Value::Link { name, mac, mtu, up, promiscuous, .. }) => Some(Link {
                index: interface_index(Some(number)),
                name: name.as_str().to_owned(),
                mac,
                mtu: mtu.into(),
                flags: up_flags(
                    up,
                    libc::IFF_BROADCAST
                        | libc::IFF_MULTICAST
                        | if promiscuous { libc::IFF_PROMISC } else { 0 },
                ),
            }),
            _ => None,
        };
        let mut links = vec![lo];
        links.extend(self.config().into_iter().filter_map(link));
        links.sort_by_key(|link| link.index);
        links
    }

    /// What an interface has carried, by the counters of its nicd; of loopback nobody counts it.
    pub fn traffic(&mut self, link: &Link) -> Traffic {
        let mut traffic = Traffic::default();
        let Some(access) = self.access() else { return traffic };
        let of_link = |seat: Seat| seat.role == Role::Nicd && interface_index(Some(seat.index)) == link.index;
        for (_, region) in access.stats().filter(|(seat, _)| of_link(*seat)) {
            for (name, count) in proto::stats::table::read(region).unwrap_or_default() {
                match name.as_str() {
                    "rx_frames" => traffic.received += count,
                    "rx_bytes" => traffic.received_bytes += count,
                    "tx_frames" => traffic.sent += count,
                    "tx_bytes" => traffic.sent_bytes += count,
                    "drop_rx_error" => traffic.received_errors += count,
                    name if name.starts_with("drop_rx") => traffic.received_drops += count,
                    name if name.starts_with("drop_tx") => traffic.sent_errors += count,
                    _ => {}
                }
            }
        }
        traffic
    }

    /// The addresses, those of loopback first.
    pub fn addresses(&mut self) -> Vec<Address> {
        let (v4, len) = LOOPBACK_NETWORK;
        let own = |addr, prefix| Address {
            index: interface_index(None),
            addr,
            prefix,
            tentative: false,
            learned: false,
        };
        let address = |record: Config| match (record.key, record.value) {
            (Key::Address { link, addr, prefix_len }, Value::Address { verified, life }) => Some(Address {
                index: interface_index(Some(link)),
                addr,
                prefix: prefix_len,
                tentative: !verified,
                learned: life.learned,
            }),
            _ => None,
        };
        let mut addresses = vec![own(v4.into(), len), own(Ipv6Addr::LOCALHOST.into(), 128)];
        addresses.extend(self.config().into_iter().filter_map(address));
        addresses
    }

    /// The routes, those that follow from addresses included.
    pub fn routes(&mut self) -> Vec<Route> {
        let route = |record: Config| match (record.key, record.value) {
            (
                Key::Route { destination, prefix_len, table, metric, .. },
                Value::Route { gateway, link, source, .. },
            ) => Some(Route {
                to: destination,
                prefix: prefix_len,
                gateway,
                index: interface_index(Some(link)),
                source,
                metric,
                table,
                of_address: false,
            }),
            (Key::Address { link, addr, prefix_len }, Value::Address { .. }) => {
                let alone = prefix_len == if addr.is_ipv4() { 32 } else { 128 };
                (!alone).then(|| Route {
                    to: network(addr, prefix_len),
                    prefix: prefix_len,
                    gateway: None,
                    index: interface_index(Some(link)),
                    source: Some(addr),
                    metric: 0,
                    table: TABLE_MAIN,
                    of_address: true,
                })
            }
            _ => None,
        };
        let mut routes: Vec<Route> = self.config().into_iter().filter_map(route).collect();
        routes.sort_by_key(|route| (route.prefix != 0, route.metric));
        routes
    }

    /// The permanent neighbours.
    pub fn neighbours(&mut self) -> Vec<Neighbour> {
        let neighbour = |record: Config| match (record.key, record.value) {
            (Key::Neighbour { link, addr }, Value::Neighbour { mac }) => {
                Some(Neighbour { index: interface_index(Some(link)), addr, mac })
            }
            _ => None,
        };
        self.config().into_iter().filter_map(neighbour).collect()
    }

    /// The sockets of every client; with empty queues while sockd does not answer.
    pub fn sockets(&mut self) -> Vec<Socket> {
        let Some(access) = self.access() else { return Vec::new() };
        let found = access.host_sockets().unwrap_or_else(|_| access.host_sockets_alone());
        let socket = |one: &HostSocket| {
            let HostSocket { row, .. } = one;
            let protocol = match row.opening.kind {
                Kind::Udp if row.opening.form == Form::Udp => libc::IPPROTO_UDP,
                // Raw, ping and packet sockets are native clients' alone.
                Kind::Udp => return None,
                // A kernel shows no socket that only has its port.
                Kind::TcpListener if row.state.tcp_state != TcpState::Listen => return None,
                _ => libc::IPPROTO_TCP,
            };
            let (received, sent) = one.both_queues();
            Some(Socket {
                protocol: protocol as u8,
                state: linux_state(row),
                local: zone::to_client(row.opening.local),
                remote: zone::to_client(row.opening.remote),
                uid: row.owner.map_or(0, |(uid, _)| uid),
                received: u32::try_from(received).unwrap_or(u32::MAX),
                sent: u32::try_from(sent).unwrap_or(u32::MAX),
            })
        };
        found.iter().filter_map(socket).collect()
    }
}
