//! Whom a packet is for: connections by both ends, listeners and datagram sockets by what they are bound
//! to. The most specific one gets it.
//!
//! Owned by the stack; asked for every packet with a transport header, changed by commands of sockd and
//! by connections that come and go. Values are indices of the caller's; that sockets bound to the same
//! place may not be is sockd's policy, here it is an error value.

use core::cell::Cell;
use core::hash::Hash;
use core::net::IpAddr;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::flow_table::{FlowKey, FlowTable, HashKey};

/// What a socket is bound to, beside its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BoundAddr {
    /// One address of ours, or a group that it hears.
    Exact(IpAddr),
    /// Every IPv4 address: `0.0.0.0`.
    AnyV4,
    /// Every IPv6 address and no other: `::` with IPV6_V6ONLY.
    AnyV6,
    /// Every address of both families: `::` as it is by default.
    Any,
}

impl BoundAddr {
    /// What may receive a packet to `dst`, most specific first.
    const fn receivers(dst: IpAddr) -> [BoundAddr; 3] {
        let any_of_family = match dst {
            IpAddr::V4(_) => BoundAddr::AnyV4,
            IpAddr::V6(_) => BoundAddr::AnyV6,
        };
        [BoundAddr::Exact(dst), any_of_family, BoundAddr::Any]
    }
}

/// The place is taken by another socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("another socket is bound to the same place")]
pub struct BoundTwice;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct DatagramKey {
    local: BoundAddr,
    local_port: u16,
    remote: Option<(IpAddr, u16)>,
}

/// The sockets of one shard, by what they are bound or connected to.
#[derive(Debug)]
pub struct Demux {
    /// Connections in every state but LISTEN, to their records.
    pub flows: FlowTable,
    listeners: HashMap<(BoundAddr, u16), u32, HashKey>,
    datagram: HashMap<DatagramKey, u32, HashKey>,
    /// Counts changes of `datagram`.
    generation: u64,
    /// Who got a datagram lately, by the remote's port; good in the generation it was found in.
    receivers: Box<[Cell<Option<Receiver>>]>,
}

/// The socket that a flow's datagrams are for.
#[derive(Debug, Clone, Copy)]
struct Receiver {
    generation: u64,
    flow: FlowKey,
    index: u32,
}

/// Flows of datagrams that are found without a hash.
const RECEIVERS: usize = 128;

/// Where a TCP segment goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TcpReceiver {
    /// The connection with this record.
    Connection(u32),
    /// The listener with this index: no connection has these ends.
    Listener(u32),
    /// Nobody.
    Nobody,
}

impl Demux {
    /// No socket yet; hashes under `key`, records below `record_limit`.
    pub fn new(key: HashKey, record_limit: u32) -> Demux {
        Demux {
            flows: FlowTable::new(key, record_limit),
            listeners: HashMap::with_hasher(key),
            datagram: HashMap::with_hasher(key),
            generation: 1,
            receivers: (0..RECEIVERS).map(|_| Cell::new(None)).collect(),
        }
    }

    /// Whom a segment from the wire is for: RFC 9293 §3.10, a connection before a listener.
    pub fn tcp(&self, flow: &FlowKey) -> TcpReceiver {
        if let Some(record) = self.flows.get(flow) {
            return TcpReceiver::Connection(record);
        }
        self.listener(flow.local_addr(), flow.local_port).map_or(TcpReceiver::Nobody, TcpReceiver::Listener)
    }

    /// Whether a listener is bound to exactly that place.
    pub fn has_listener(&self, addr: BoundAddr, port: u16) -> bool {
        self.listeners.contains_key(&(addr, port))
    }

    /// Whether a datagram socket is bound to exactly that place, with that remote.
    pub fn has_udp(&self, local: BoundAddr, local_port: u16, remote: Option<(IpAddr, u16)>) -> bool {
        self.datagram.contains_key(&DatagramKey { local, local_port, remote })
    }

    /// The listener that takes connections to `addr` and `port`.
    pub fn listener(&self, addr: IpAddr, port: u16) -> Option<u32> {
        let receivers = BoundAddr::receivers(addr);
        receivers.iter().find_map(|bound| self.listeners.get(&(*bound, port)).copied())
    }

    /// Enters a listener.
    ///
    /// # Errors
    /// When another one listens at the same place.
    pub fn add_listener(&mut self, addr: BoundAddr, port: u16, index: u32) -> Result<(), BoundTwice> {
        enter(&mut self.listeners, (addr, port), index)
    }

    /// Takes a listener out; returns its index.
    pub fn remove_listener(&mut self, addr: BoundAddr, port: u16) -> Option<u32> {
        self.listeners.remove(&(addr, port))
    }

    /// The socket that receives a datagram; `flow` as the packet has it. One that is connected to its
    /// source comes first, then the most specifically bound.
    pub fn udp(&self, flow: &FlowKey) -> Option<u32> {
        let place = &self.receivers[usize::from(flow.remote_port ^ flow.local_port) % RECEIVERS];
        if let Some(known) = place.get()
            && known.generation == self.generation
            && known.flow == *flow
        {
            return Some(known.index);
        }
        let index = self.find_udp(flow)?;
        place.set(Some(Receiver { generation: self.generation, flow: *flow, index }));
        Some(index)
    }

    fn find_udp(&self, flow: &FlowKey) -> Option<u32> {
        let remote = (flow.remote_addr(), flow.remote_port);
        let receivers = BoundAddr::receivers(flow.local_addr());
        [Some(remote), None].into_iter().find_map(|remote| {
            receivers.iter().find_map(|local| {
                let key = DatagramKey { local: *local, local_port: flow.local_port, remote };
                self.datagram.get(&key).copied()
            })
        })
    }

    /// Enters a datagram socket, connected to `remote` or to nobody.
    ///
    /// # Errors
    /// When another one has the same place and the same remote.
    pub fn add_udp(
        &mut self,
        local: BoundAddr,
        local_port: u16,
        remote: Option<(IpAddr, u16)>,
        index: u32,
    ) -> Result<(), BoundTwice> {
        self.generation += 1;
        enter(&mut self.datagram, DatagramKey { local, local_port, remote }, index)
    }

    /// Takes a datagram socket out; returns its index.
    pub fn remove_udp(
        &mut self,
        local: BoundAddr,
        local_port: u16,
        remote: Option<(IpAddr, u16)>,
    ) -> Option<u32> {
        self.generation += 1;
        self.datagram.remove(&DatagramKey { local, local_port, remote })
    }
}

fn enter<K: Hash + Eq>(map: &mut HashMap<K, u32, HashKey>, key: K, index: u32) -> Result<(), BoundTwice> {
    match map.entry(key) {
        Entry::Occupied(_) => Err(BoundTwice),
        Entry::Vacant(place) => {
            place.insert(index);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::address::AddressPair;

    fn demux() -> Demux {
        Demux::new(HashKey([3, 4]), 100)
    }

    /// A packet from 10.0.0.9:999 (or its IPv6 counterpart) to `dst` and `port`.
    fn to(dst: &str, port: u16) -> FlowKey {
        let dst: IpAddr = dst.parse().unwrap();
        let src: IpAddr = if dst.is_ipv4() { "10.0.0.9" } else { "fd00::9" }.parse().unwrap();
        FlowKey::of_received(&AddressPair::new(src, dst).unwrap(), 999, port)
    }

    fn exact(addr: &str) -> BoundAddr {
        BoundAddr::Exact(addr.parse().unwrap())
    }

    #[test]
    fn a_connection_comes_before_a_listener() {
        let mut demux = demux();
        assert_eq!(demux.tcp(&to("10.0.0.1", 80)), TcpReceiver::Nobody);
        demux.add_listener(BoundAddr::Any, 80, 7).unwrap();
        assert_eq!(demux.tcp(&to("10.0.0.1", 80)), TcpReceiver::Listener(7));
        demux.flows.insert(to("10.0.0.1", 80), 3).unwrap();
        assert_eq!(demux.tcp(&to("10.0.0.1", 80)), TcpReceiver::Connection(3));
        demux.flows.remove(&to("10.0.0.1", 80)).unwrap();
        assert_eq!(demux.remove_listener(BoundAddr::Any, 80), Some(7));
        assert_eq!(demux.tcp(&to("10.0.0.1", 80)), TcpReceiver::Nobody);
    }

    #[test]
    fn the_most_specific_listener_takes_it() {
        let mut demux = demux();
        demux.add_listener(BoundAddr::Any, 80, 1).unwrap();
        demux.add_listener(BoundAddr::AnyV4, 80, 2).unwrap();
        demux.add_listener(exact("10.0.0.1"), 80, 3).unwrap();
        demux.add_listener(BoundAddr::AnyV6, 81, 4).unwrap();
        assert_eq!(demux.add_listener(BoundAddr::AnyV4, 80, 5), Err(BoundTwice));
        let at = |addr: &str, port| demux.listener(addr.parse().unwrap(), port);
        assert_eq!(at("10.0.0.1", 80), Some(3));
        assert_eq!(at("10.0.0.2", 80), Some(2));
        assert_eq!(at("fd00::1", 80), Some(1));
        assert_eq!(at("fd00::1", 81), Some(4));
        assert_eq!(at("10.0.0.1", 81), None);
    }

    #[test]
    fn a_connected_datagram_socket_comes_first() {
        let mut demux = demux();
        let remote = Some(("10.0.0.9".parse().unwrap(), 999));
        let other = Some(("10.0.0.9".parse().unwrap(), 998));
        demux.add_udp(BoundAddr::Any, 53, None, 1).unwrap();
        demux.add_udp(exact("10.0.0.1"), 53, None, 2).unwrap();
        demux.add_udp(exact("10.0.0.1"), 53, other, 3).unwrap();
        assert_eq!(demux.udp(&to("10.0.0.1", 53)), Some(2));
        demux.add_udp(BoundAddr::AnyV4, 53, remote, 4).unwrap();
        assert_eq!(demux.udp(&to("10.0.0.1", 53)), Some(4));
        assert_eq!(demux.udp(&to("fd00::1", 53)), Some(1));
        assert_eq!(demux.udp(&to("10.0.0.1", 54)), None);
        assert_eq!(demux.add_udp(BoundAddr::Any, 53, None, 9), Err(BoundTwice));
        assert_eq!(demux.remove_udp(BoundAddr::AnyV4, 53, remote), Some(4));
        assert_eq!(demux.udp(&to("10.0.0.1", 53)), Some(2));
    }
}
