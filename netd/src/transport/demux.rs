//! Whom a packet is for: connections by both ends, listeners and datagram sockets by what they are bound
//! to. The most specific one gets it; of several that share a place, the one of its flow or the last bound.
//!
//! Owned by the stack; asked for every packet with a transport header, changed by commands of sockd and
//! by connections that come and go. Values are indices of the caller's; that sockets bound to the same
//! place may not be is sockd's policy, here it is an error value.

use core::cell::Cell;
use core::hash::{Hash, Hasher};
use core::net::IpAddr;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::flow_table::{FlowKey, FlowTable, HashKey};
use proto::form::Share;
use proto::id::OpId;

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

    /// Whether a packet to `dst` may be for who is bound here.
    pub fn takes(self, dst: IpAddr) -> bool {
        BoundAddr::receivers(dst).contains(&self)
    }
}

/// The place is taken by another socket that does not share it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("another socket is bound to the same place")]
pub struct BoundTwice;

/// Which ports are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ports {
    /// Those of UDP.
    Udp,
    /// The identifiers of echo requests.
    Ping,
}

/// Where a datagram socket stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DatagramKey {
    /// Which ports are meant.
    pub ports: Ports,
    /// What it is bound to.
    pub local: BoundAddr,
    /// Its port.
    pub local_port: u16,
    /// Its only remote, if it has one.
    pub remote: Option<(IpAddr, u16)>,
}

/// One socket at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// The operation that bound it: later ones are greater.
    pub op: OpId,
    /// Its index.
    pub index: u32,
    /// With whom it shares the place.
    pub share: Share,
}

/// The sockets at one place: nearly always one.
#[derive(Debug)]
struct Bound {
    /// The last that was bound.
    last: Member,
    /// The others, in the order in which they were bound.
    others: Vec<Member>,
}

impl Bound {
    fn all(&self) -> impl Iterator<Item = &Member> {
        self.others.iter().chain([&self.last])
    }

    /// The one that receives what has this hash: socket(7), SO_REUSEPORT spreads flows, SO_REUSEADDR gives
    /// all to the last.
    fn receiver(&self, hash: impl FnOnce() -> u64) -> u32 {
        if self.others.is_empty() || !self.last.share.port {
            return self.last.index;
        }
        let sharing = || self.all().filter(|member| member.share.port);
        let chosen = (hash() % sharing().count() as u64) as usize;
        sharing().nth(chosen).map_or(self.last.index, |member| member.index)
    }

    fn add(&mut self, member: Member) {
        let after = self.others.partition_point(|known| known.op < member.op);
        match member.op > self.last.op {
            true => self.others.push(core::mem::replace(&mut self.last, member)),
            false => self.others.insert(after, member),
        }
    }

    /// Takes one out. `false` when it was the only one.
    fn remove(&mut self, index: u32) -> bool {
        if self.last.index != index {
            self.others.retain(|member| member.index != index);
            return true;
        }
        match self.others.pop() {
            Some(before) => {
                self.last = before;
                true
            }
            None => false,
        }
    }
}

/// The sockets of one shard, by what they are bound or connected to.
#[derive(Debug)]
pub struct Demux {
    /// Connections in every state but LISTEN, to their records.
    pub flows: FlowTable,
    key: HashKey,
    listeners: HashMap<(BoundAddr, u16), Bound, HashKey>,
    datagram: HashMap<DatagramKey, Bound, HashKey>,
    /// All sockets of a port of UDP: what is for a group is for each of them that wants it.
    by_port: HashMap<u16, Vec<u32>, HashKey>,
    /// Counts changes of `datagram`.
    generation: u64,
    /// Who got a datagram of UDP lately, by the remote's port; good in the generation it was found in.
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
            key,
            listeners: HashMap::with_hasher(key),
            datagram: HashMap::with_hasher(key),
            by_port: HashMap::with_hasher(key),
            generation: 1,
            receivers: (0..RECEIVERS).map(|_| Cell::new(None)).collect(),
        }
    }

    /// Whom a segment from the wire is for: RFC 9293 §3.10, a connection before a listener.
    pub fn tcp(&self, flow: &FlowKey) -> TcpReceiver {
        if let Some(record) = self.flows.get(flow) {
            return TcpReceiver::Connection(record);
        }
        self.listener(flow).map_or(TcpReceiver::Nobody, TcpReceiver::Listener)
    }

    /// Whether a listener with that `share` may be bound to exactly that place.
    pub fn may_listen(&self, addr: BoundAddr, port: u16, share: Share) -> bool {
        self.listeners.get(&(addr, port)).is_none_or(|bound| bound.all().all(|m| m.share.port && share.port))
    }

    /// Whether a datagram socket with that `share`, other than `itself`, may have exactly that place.
    pub fn may_bind(&self, key: &DatagramKey, share: Share, itself: Option<u32>) -> bool {
        let gives = |member: &Member| {
            Some(member.index) == itself
                || member.share.port && share.port
                || member.share.address && share.address
        };
        self.datagram.get(key).is_none_or(|bound| bound.all().all(gives))
    }

    fn hash_of(&self, flow: &FlowKey) -> u64 {
        let mut hasher = self.key.hasher();
        flow.hash(&mut hasher);
        hasher.finish()
    }

    /// The listener that takes a connection with these ends.
    pub fn listener(&self, flow: &FlowKey) -> Option<u32> {
        let receivers = BoundAddr::receivers(flow.local_addr());
        let found = |bound: &BoundAddr| self.listeners.get(&(*bound, flow.local_port));
        Some(receivers.iter().find_map(found)?.receiver(|| self.hash_of(flow)))
    }

    /// Enters a listener.
    ///
    /// # Errors
    /// When another one listens at the same place and does not share it.
    pub fn add_listener(&mut self, addr: BoundAddr, port: u16, member: Member) -> Result<(), BoundTwice> {
        if !self.may_listen(addr, port, member.share) {
            return Err(BoundTwice);
        }
        enter(&mut self.listeners, (addr, port), member);
        Ok(())
    }

    /// Takes a listener out.
    pub fn remove_listener(&mut self, addr: BoundAddr, port: u16, index: u32) {
        leave(&mut self.listeners, (addr, port), index);
    }

    /// The socket that receives a datagram; `flow` as the packet has it. One that is connected to its
    /// source comes first, then the most specifically bound.
    pub fn datagram(&self, ports: Ports, flow: &FlowKey) -> Option<u32> {
        if ports != Ports::Udp {
            return self.find_datagram(ports, flow);
        }
        let place = &self.receivers[usize::from(flow.remote_port ^ flow.local_port) % RECEIVERS];
        if let Some(known) = place.get()
            && known.generation == self.generation
            && known.flow == *flow
        {
            return Some(known.index);
        }
        let index = self.find_datagram(ports, flow)?;
        place.set(Some(Receiver { generation: self.generation, flow: *flow, index }));
        Some(index)
    }

    fn find_datagram(&self, ports: Ports, flow: &FlowKey) -> Option<u32> {
        let remote = (flow.remote_addr(), flow.remote_port);
        let receivers = BoundAddr::receivers(flow.local_addr());
        let bound = [Some(remote), None].into_iter().find_map(|remote| {
            receivers.iter().find_map(|local| {
                let key = DatagramKey { ports, local: *local, local_port: flow.local_port, remote };
                self.datagram.get(&key)
            })
        })?;
        Some(bound.receiver(|| self.hash_of(flow)))
    }

    /// All sockets of a port of UDP, whatever they are bound to.
    pub fn of_port(&self, port: u16) -> &[u32] {
        self.by_port.get(&port).map_or(&[], Vec::as_slice)
    }

    /// Enters a datagram socket.
    ///
    /// # Errors
    /// When another one has the same place and does not share it.
    pub fn add_datagram(&mut self, key: DatagramKey, member: Member) -> Result<(), BoundTwice> {
        if !self.may_bind(&key, member.share, None) {
            return Err(BoundTwice);
        }
        self.generation += 1;
        enter(&mut self.datagram, key, member);
        if key.ports == Ports::Udp {
            self.by_port.entry(key.local_port).or_default().push(member.index);
        }
        Ok(())
    }

    /// Takes a datagram socket out.
    pub fn remove_datagram(&mut self, key: DatagramKey, index: u32) {
        self.generation += 1;
        leave(&mut self.datagram, key, index);
        if let Entry::Occupied(mut all) = self.by_port.entry(key.local_port)
            && key.ports == Ports::Udp
        {
            all.get_mut().retain(|known| *known != index);
            if all.get().is_empty() {
                all.remove();
            }
        }
    }
}

fn enter<K: Hash + Eq>(map: &mut HashMap<K, Bound, HashKey>, key: K, member: Member) {
    match map.entry(key) {
        Entry::Occupied(mut bound) => bound.get_mut().add(member),
        Entry::Vacant(place) => {
            place.insert(Bound { last: member, others: Vec::new() });
        }
    }
}

fn leave<K: Hash + Eq>(map: &mut HashMap<K, Bound, HashKey>, key: K, index: u32) {
    if let Entry::Occupied(mut bound) = map.entry(key)
        && bound.get().all().any(|member| member.index == index)
        && !bound.get_mut().remove(index)
    {
        bound.remove();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::address::AddressPair;

    const ALONE: Share = Share::NONE;
    const ADDRESS: Share = Share { address: true, port: false };
    const PORT: Share = Share { address: false, port: true };

    fn demux() -> Demux {
        Demux::new(HashKey([3, 4]), 100)
    }

    /// A packet from 10.0.0.9:999 (or its IPv6 counterpart) to `dst` and `port`.
    fn to(dst: &str, port: u16) -> FlowKey {
        from(999, dst, port)
    }

    fn from(remote_port: u16, dst: &str, port: u16) -> FlowKey {
        let dst: IpAddr = dst.parse().unwrap();
        let src: IpAddr = if dst.is_ipv4() { "10.0.0.9" } else { "fd00::9" }.parse().unwrap();
        FlowKey::of_received(&AddressPair::new(src, dst).unwrap(), remote_port, port)
    }

    fn exact(addr: &str) -> BoundAddr {
        BoundAddr::Exact(addr.parse().unwrap())
    }

    fn member(index: u32, share: Share) -> Member {
        Member { op: OpId(index.into()), index, share }
    }

    fn udp(local: BoundAddr, local_port: u16, remote: Option<(IpAddr, u16)>) -> DatagramKey {
        DatagramKey { ports: Ports::Udp, local, local_port, remote }
    }

    #[test]
    fn a_connection_comes_before_a_listener() {
        let mut demux = demux();
        assert_eq!(demux.tcp(&to("10.0.0.1", 80)), TcpReceiver::Nobody);
        demux.add_listener(BoundAddr::Any, 80, member(7, ALONE)).unwrap();
        assert_eq!(demux.tcp(&to("10.0.0.1", 80)), TcpReceiver::Listener(7));
        demux.flows.insert(to("10.0.0.1", 80), 3).unwrap();
        assert_eq!(demux.tcp(&to("10.0.0.1", 80)), TcpReceiver::Connection(3));
        demux.flows.remove(&to("10.0.0.1", 80)).unwrap();
        demux.remove_listener(BoundAddr::Any, 80, 7);
        assert_eq!(demux.tcp(&to("10.0.0.1", 80)), TcpReceiver::Nobody);
    }

    #[test]
    fn the_most_specific_listener_takes_it() {
        let mut demux = demux();
        demux.add_listener(BoundAddr::Any, 80, member(1, ALONE)).unwrap();
        demux.add_listener(BoundAddr::AnyV4, 80, member(2, ALONE)).unwrap();
        demux.add_listener(exact("10.0.0.1"), 80, member(3, ALONE)).unwrap();
        demux.add_listener(BoundAddr::AnyV6, 81, member(4, ALONE)).unwrap();
        assert_eq!(demux.add_listener(BoundAddr::AnyV4, 80, member(5, ADDRESS)), Err(BoundTwice));
        let at = |addr: &str, port| demux.listener(&to(addr, port));
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
        demux.add_datagram(udp(BoundAddr::Any, 53, None), member(1, ALONE)).unwrap();
        demux.add_datagram(udp(exact("10.0.0.1"), 53, None), member(2, ALONE)).unwrap();
        demux.add_datagram(udp(exact("10.0.0.1"), 53, other), member(3, ALONE)).unwrap();
        let at = |demux: &Demux, addr: &str, port| demux.datagram(Ports::Udp, &to(addr, port));
        assert_eq!(at(&demux, "10.0.0.1", 53), Some(2));
        demux.add_datagram(udp(BoundAddr::AnyV4, 53, remote), member(4, ALONE)).unwrap();
        assert_eq!(at(&demux, "10.0.0.1", 53), Some(4));
        assert_eq!(at(&demux, "fd00::1", 53), Some(1));
        assert_eq!(at(&demux, "10.0.0.1", 54), None);
        assert_eq!(demux.datagram(Ports::Ping, &to("10.0.0.1", 53)), None);
        assert_eq!(demux.add_datagram(udp(BoundAddr::Any, 53, None), member(9, ALONE)), Err(BoundTwice));
        demux.remove_datagram(udp(BoundAddr::AnyV4, 53, remote), 4);
        assert_eq!(at(&demux, "10.0.0.1", 53), Some(2));
        assert_eq!(demux.of_port(53), [1, 2, 3]);
    }

    #[test]
    fn of_sockets_that_share_an_address_the_last_one_bound_receives() {
        let mut demux = demux();
        let key = udp(BoundAddr::AnyV4, 53, None);
        // As a recovery finds them: in any order.
        for index in [2, 3, 1] {
            demux.add_datagram(key, member(index, ADDRESS)).unwrap();
        }
        assert_eq!(demux.add_datagram(key, member(4, ALONE)), Err(BoundTwice));
        assert_eq!(demux.add_datagram(key, member(4, PORT)), Err(BoundTwice));
        let mut receivers = Vec::new();
        for _ in 0..3 {
            let receiver = demux.datagram(Ports::Udp, &to("10.0.0.1", 53)).unwrap();
            receivers.push(receiver);
            demux.remove_datagram(key, receiver);
        }
        assert_eq!(receivers, [3, 2, 1]);
        assert_eq!(demux.datagram(Ports::Udp, &to("10.0.0.1", 53)), None);
        assert_eq!(demux.of_port(53), []);
    }

    #[test]
    fn sockets_that_share_a_port_divide_the_flows() {
        let mut demux = demux();
        let key = udp(BoundAddr::AnyV4, 53, None);
        for index in 1..=4 {
            demux.add_datagram(key, member(index, PORT)).unwrap();
            demux.add_listener(BoundAddr::AnyV4, 53, member(index, PORT)).unwrap();
        }
        let (mut datagrams, mut connections) = ([0; 5], [0; 5]);
        for port in 1..=4000 {
            let flow = from(port, "10.0.0.1", 53);
            let receiver = demux.datagram(Ports::Udp, &flow).unwrap();
            assert_eq!(demux.datagram(Ports::Udp, &flow), Some(receiver), "a flow has one receiver");
            datagrams[receiver as usize] += 1;
            connections[demux.listener(&flow).unwrap() as usize] += 1;
        }
        for count in datagrams[1..].iter().chain(&connections[1..]) {
            assert!((800..1200).contains(count), "{datagrams:?} {connections:?}");
        }
    }
}
