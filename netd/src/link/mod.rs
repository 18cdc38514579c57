//! The link layer: Ethernet in and out, neighbours, interfaces.

pub mod conflict;
pub mod discovery;
pub mod gro;
pub mod interface;
pub mod neighbour;
pub mod pending;
pub mod vlan;

use crate::counters::{Counter, Counters};
use crate::frame::Frame;
use crate::ip::TTL_DEFAULT;
use crate::ip::route::LOOPBACK;
use crate::keyed_hash::HashKey;
use crate::wire::address::MacAddr;
use crate::wire::arp::{ArpPacket, PACKET_LEN};
use crate::wire::drop_reason::DropReason;
use crate::wire::ethernet::{EtherType, EthernetHeader, HEADER_LEN};
use conflict::{Act, Conflicts};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use interface::{Interface, InterfaceConfig};
use neighbour::{Advertised, Effect, Evidence, NeighbourLimits, NeighbourState, NeighbourTable, Output};
use proto::Instant;
use proto::control::messages::Prefix;
use proto::control::notices::feature;
use proto::nic::packet_buf::PacketBuf;
use proto::nic::packet_buf::{Csum, Marks};
use proto::nic::pool::FramePool;
use proto::shm::Memory;
use proto::zone;
use std::collections::VecDeque;
use std::rc::Rc;
use vlan::tag;

/// Room in front of a packet that is built here: link, IP and transport headers with options.
pub const HEADROOM: usize = 192;

pub use proto::hard::config::LOOPBACK_MTU;

/// All interfaces of a shard, and the frames that wait to be released.
#[derive(Debug)]
pub struct Link<M: Memory> {
    /// First those that have devices, then their VLANs.
    interfaces: Vec<Interface<M>>,
    /// How many have devices.
    devices: usize,
    /// What neighbour tables are made with.
    key: HashKey,
    random: u32,
    /// The host itself: what leaves by it comes in by it, and its next hop is always known.
    loopback: Interface<M>,
    /// Frames that were built, with the interface each is for.
    pub out: VecDeque<(u16, PacketBuf<M>)>,
    /// Packets whose neighbour did not answer: their senders are told.
    pub unreachable: Vec<PacketBuf<M>>,
    /// Addresses that were looked for and that nobody has, with their interfaces.
    pub claimed: Vec<(u16, Prefix)>,
    /// This shard asks and announces for the host.
    pub speaks: bool,
}

/// A packet of the layer above, link header pulled.
#[derive(Debug)]
pub struct Packet<'f, M: Memory> {
    /// The packet.
    pub frame: &'f mut Frame<M>,
    /// Where it came in.
    pub interface: u16,
    /// The frame was sent to a group or to everybody.
    pub to_group: bool,
    /// Which IP it says it is.
    pub version: Version,
    /// This host sent it, to a group or to all.
    pub own: bool,
}

/// The two versions of IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl<M: Memory + Clone> Link<M> {
    /// The interfaces of `configs`, each with the pool of its frame pages.
    pub fn new(
        now: Instant,
        configs: &[InterfaceConfig],
        pools: &[Rc<FramePool<M>>],
        loopback: Rc<FramePool<M>>,
        key: HashKey,
        random: u32,
    ) -> Self {
        let devices = configs.iter().take_while(|config| config.vlan.is_none()).count();
        assert_eq!(devices, pools.len(), "every interface with a device has its pool");
        let nobody = NeighbourLimits { entries: 2, pending: 0 };
        let loopback = Interface {
            mac: MacAddr::ZERO,
            mtu: LOOPBACK_MTU,
            vlan: None,
            addrs: vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)],
            groups: Vec::new(),
            mtu_v6: u16::MAX,
            hop_limit: TTL_DEFAULT,
            neighbours: NeighbourTable::new(MacAddr::ZERO, nobody, key, random, now),
            conflicts: Conflicts::new(MacAddr::ZERO, random),
            // No checksum is needed where no wire is.
            features: feature::TX_CHECKSUM,
            frames: loopback,
        };
        let (interfaces, out) = (Vec::new(), VecDeque::new());
        let (unreachable, claimed) = (Vec::new(), Vec::new());
        let mut link =
            Link { interfaces, devices, key, random, loopback, out, unreachable, claimed, speaks: true };
        for (index, config) in configs.iter().enumerate() {
            let below = config.vlan.map_or(index, |vlan| usize::from(vlan.below));
            // One that is nothing any more needs no pages.
            let frames = pools.get(below).or(pools.first()).expect("a host has an interface").clone();
            link.set(now, index, config, frames);
        }
        link
    }

    /// Makes the interface of that index anew, or the first that has none yet.
    fn set(&mut self, now: Instant, index: usize, config: &InterfaceConfig, frames: Rc<FramePool<M>>) {
        let (key, random) = (self.key, self.random);
        let mut neighbours = NeighbourTable::new(config.mac, NeighbourLimits::default(), key, random, now);
        let learned = config.learned.addresses.iter().map(|address| &address.prefix);
        let prefixes = config.addrs.iter().chain(learned);
        let own_zone = zone::of_interface(index as u16);
        let addrs: Vec<IpAddr> = prefixes.map(|prefix| zone::ip_with(prefix.addr, own_zone)).collect();
        for addr in &addrs {
            if let IpAddr::V4(v4) = addr {
                // RFC 5227 §2.3: whoever knew us under another link address learns of it.
                neighbours.announce(now, *v4);
            }
        }
        let interface = Interface {
            mac: config.mac,
            mtu: config.mtu,
            vlan: config.vlan,
            addrs,
            groups: Vec::new(),
            mtu_v6: u16::MAX,
            hop_limit: TTL_DEFAULT,
            neighbours,
            conflicts: Conflicts::new(config.mac, random),
            features: 0,
            frames,
        };
        match self.interfaces.get_mut(index) {
            Some(place) => *place = interface,
            None => {
                assert_eq!(index, self.interfaces.len(), "interfaces are numbered without a hole");
                self.interfaces.push(interface);
            }
        }
    }

    /// An interface by its number, [`LOOPBACK`] among them.
    pub fn interface(&self, index: u16) -> Option<&Interface<M>> {
        match index {
            LOOPBACK => Some(&self.loopback),
            index => self.interfaces.get(usize::from(index)),
        }
    }

    /// All interfaces but loopback.
    pub fn interfaces(&self) -> &[Interface<M>] {
        &self.interfaces
    }

    /// All interfaces but loopback, to be configured.
    pub fn interfaces_mut(&mut self) -> &mut [Interface<M>] {
        &mut self.interfaces
    }

    /// A frame from interface `index`; returns what IP has to look at.
    ///
    /// # Errors
    /// The reason why the frame was dropped here.
    pub fn receive<'f>(
        &mut self,
        now: Instant,
        index: u16,
        frame: &'f mut Frame<M>,
        counters: &mut Counters,
    ) -> Result<Option<Packet<'f, M>>, DropReason> {
        let interface = self.interface(index).ok_or(DropReason::DevDown)?;
        let header = EthernetHeader::parse(frame.head())?;
        if header.dst != interface.mac && !header.dst.is_multicast() {
            return Err(DropReason::OtherHost);
        }
        frame.pull(HEADER_LEN);
        let (index, header) = match header.ethertype {
            EtherType::VLAN if index != LOOPBACK => self.untag(index, header, frame)?,
            _ => (index, header),
        };
        let elsewhere = frame.buf.marks.elsewhere;
        if index == LOOPBACK {
            // It has not left this host's memory.
            frame.buf.marks = Marks { csum: Csum::Valid, ..Marks::default() };
        }
        // What came back from a group: the source names the interface it left by.
        let own = index == LOOPBACK && header.dst.is_multicast();
        let index = if own { looped_from(header.src) } else { index };
        match header.ethertype {
            EtherType::IPV4 | EtherType::IPV6 => {
                let version = if header.ethertype == EtherType::IPV4 { Version::V4 } else { Version::V6 };
                let to_group = header.dst.is_multicast();
                Ok(Some(Packet { frame, interface: index, to_group, version, own }))
            }
            EtherType::ARP if index != LOOPBACK => {
                counters.count(Counter::ArpIn);
                let packet = ArpPacket::parse(frame.head())?;
                self.receive_arp(
                    now,
                    index,
                    &packet,
                    header.dst == interface_mac(&self.interfaces, index),
                    elsewhere,
                    counters,
                )?;
                Ok(None)
            }
            _ => Err(DropReason::UnhandledProto),
        }
    }

    /// With several shards each keeps neighbours of its own and hears all that is said of them; one
    /// answers what is asked (not the others: `elsewhere`).
    fn receive_arp(
        &mut self,
        now: Instant,
        index: u16,
        packet: &ArpPacket,
        to_us: bool,
        elsewhere: bool,
        counters: &mut Counters,
    ) -> Result<(), DropReason> {
        let interface = &mut self.interfaces[usize::from(index)];
        let mut effects = Vec::new();
        let addrs = &interface.addrs;
        let is_ours = |ip: Ipv4Addr| addrs.contains(&IpAddr::V4(ip));
        let mut acts = Vec::new();
        interface.conflicts.heard(now, packet, is_ours, |act| acts.push(act));
        let reply =
            interface.neighbours.receive_arp(now, packet, to_us, is_ours, |effect| effects.push(effect));
        self.act_on_conflicts(index, acts, counters);
        let reply = reply?;
        if let Some(reply) = reply.filter(|_| !elsewhere) {
            self.send_arp(index, &reply, reply.target_mac, counters);
        }
        self.act(index, effects, counters);
        Ok(())
    }

    /// Sends a packet to `next_hop` on the link of interface `index`, now or when its link address
    /// is known.
    pub fn send(
        &mut self,
        now: Instant,
        index: u16,
        next_hop: IpAddr,
        packet: PacketBuf<M>,
        counters: &mut Counters,
    ) {
        if index == LOOPBACK {
            let (dst, src) = (MacAddr::ZERO, MacAddr::ZERO);
            let header = EthernetHeader { dst, src, ethertype: EtherType::of_ip(next_hop) };
            return self.emit(index, packet, &header.to_bytes(), counters);
        }
        let interface = &mut self.interfaces[usize::from(index)];
        if let Some(mac) = interface.group_mac(next_hop) {
            let ethertype = EtherType::of_ip(next_hop);
            let header = EthernetHeader { dst: mac, src: interface.mac, ethertype };
            return self.emit(index, packet, &header.to_bytes(), counters);
        }
        match interface.neighbours.output(now, next_hop, packet) {
            Output::Send(packet, header) => self.emit(index, packet, &header, counters),
            Output::Queued { solicit, dropped } => {
                if dropped.is_some() {
                    counters.drop(DropReason::NeighQueueFull);
                }
                if solicit {
                    self.act(
                        index,
                        vec![Effect::Solicit { target: next_hop, dst: MacAddr::BROADCAST }],
                        counters,
                    );
                }
            }
            Output::Refused(_) => counters.drop(DropReason::NeighCreateFail),
        }
    }

    /// A packet that leaves by interface `index` for a group or for all is for this host too: a copy of it comes
    /// in there as others would see it.
    pub fn loop_back(
        &mut self,
        index: u16,
        next_hop: IpAddr,
        packet: &PacketBuf<M>,
        counters: &mut Counters,
    ) {
        let Some(interface) = self.interfaces.get(usize::from(index)) else { return };
        let all_hosts = next_hop == IpAddr::V4(Ipv4Addr::BROADCAST);
        let Some(dst) = interface.group_mac(next_hop) else { return };
        if !all_hosts && !interface.listens_to(zone::ip_without(next_hop)) {
            return;
        }
        let [high, low] = index.to_be_bytes();
        let src = MacAddr([0, 0, 0, 0, high, low]);
        let header = EthernetHeader { dst, src, ethertype: EtherType::of_ip(next_hop) };
        let copied = PacketBuf::alloc(&self.loopback.frames, packet.len(), HEADROOM).and_then(|mut copy| {
            copy.write_from(0, packet, 0, packet.len())?;
            Ok(copy)
        });
        match copied {
            Ok(mut copy) => {
                copy.marks = Marks { csum: Csum::Valid, ..Marks::default() };
                self.emit(LOOPBACK, copy, &header.to_bytes(), counters);
            }
            Err(_) => counters.drop(DropReason::NoMem),
        }
    }

    /// The layer above has heard an answer from `next_hop` (RFC 4861 §7.3.1).
    pub fn confirm(&mut self, now: Instant, index: u16, next_hop: IpAddr) {
        if let Some(interface) = self.interfaces.get_mut(usize::from(index)) {
            interface.neighbours.confirm(now, next_hop);
        }
    }

    /// A neighbour on the link of an interface has shown its link address. Returns whether the table took it
    /// in.
    pub fn learn(
        &mut self,
        now: Instant,
        index: u16,
        addr: IpAddr,
        mac: MacAddr,
        evidence: Evidence,
        counters: &mut Counters,
    ) -> bool {
        let mut effects = Vec::new();
        let Some(interface) = self.interfaces.get_mut(usize::from(index)) else { return false };
        let taken = interface.neighbours.learn(now, addr, mac, evidence, |effect| effects.push(effect));
        self.act(index, effects, counters);
        taken
    }

    /// A neighbour has advertised itself (RFC 4861 §7.2.5). Returns whether the table took it in.
    pub fn advertised(
        &mut self,
        now: Instant,
        index: u16,
        said: &Advertised,
        counters: &mut Counters,
    ) -> bool {
        let mut effects = Vec::new();
        let Some(interface) = self.interfaces.get_mut(usize::from(index)) else { return false };
        let taken = interface.neighbours.advertised(now, said, |effect| effects.push(effect));
        self.act(index, effects, counters);
        taken
    }

    /// Sets a neighbour that nothing on the wire changes. `Some(false)` when there is no room, `None`
    /// when there is no such interface.
    pub fn set_neighbour(
        &mut self,
        now: Instant,
        index: u16,
        addr: IpAddr,
        mac: MacAddr,
        counters: &mut Counters,
    ) -> Option<bool> {
        let mut effects = Vec::new();
        let neighbours = &mut self.interfaces.get_mut(usize::from(index))?.neighbours;
        let set = neighbours.set_permanent(now, addr, mac, |effect| effects.push(effect));
        self.act(index, effects, counters);
        Some(set)
    }

    /// Forgets a neighbour. `Some(false)` when it was not known, `None` when there is no such
    /// interface.
    pub fn remove_neighbour(&mut self, index: u16, addr: IpAddr, counters: &mut Counters) -> Option<bool> {
        let mut effects = Vec::new();
        let neighbours = &mut self.interfaces.get_mut(usize::from(index))?.neighbours;
        let removed = neighbours.remove(addr, |effect| effects.push(effect));
        self.act(index, effects, counters);
        Some(removed)
    }

    /// What the device of an interface had in its hands is lost: neighbours that were being asked are asked
    /// again.
    pub fn device_replaced(&mut self, index: u16, counters: &mut Counters) {
        let Some(interface) = self.interfaces.get(usize::from(index)) else { return };
        let mut effects = Vec::new();
        interface.neighbours.ask_again(|effect| effects.push(effect));
        self.act(index, effects, counters);
    }

    /// Whether a neighbour was asked and did not answer.
    pub fn has_failed(&self, now: Instant, index: u16, addr: IpAddr) -> bool {
        let interface = self.interfaces.get(usize::from(index));
        let known = interface.and_then(|interface| interface.neighbours.get(now, addr));
        known.is_some_and(|neighbour| neighbour.state == NeighbourState::Failed)
    }

    /// A neighbour that did not answer is nobody again: the next packet asks for it.
    pub fn forget_failed(&mut self, now: Instant, index: u16, addr: IpAddr, counters: &mut Counters) {
        if self.has_failed(now, index, addr) {
            self.remove_neighbour(index, addr, counters);
        }
    }

    /// When [`Link::on_timers`] has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        let due = |interface: &Interface<M>| {
            [interface.neighbours.next_deadline(), interface.conflicts.next_deadline()]
        };
        self.interfaces.iter().flat_map(due).flatten().min()
    }

    /// Asks neighbours again, or gives them up, where it is time to. Returns whether it was for any.
    pub fn on_timers(&mut self, now: Instant, counters: &mut Counters) -> bool {
        let mut any = false;
        for index in 0..self.interfaces.len() {
            let mut acts = Vec::new();
            self.interfaces[index].conflicts.on_timer(now, |act| acts.push(act));
            self.act_on_conflicts(index as u16, acts, counters);
            let neighbours = &mut self.interfaces[index].neighbours;
            if neighbours.next_deadline().is_some_and(|due| due <= now) {
                let mut effects = Vec::new();
                neighbours.on_timer(now, |effect| effects.push(effect));
                self.act(index as u16, effects, counters);
                any = true;
            }
        }
        any
    }

    fn act(&mut self, index: u16, effects: Vec<Effect<PacketBuf<M>>>, counters: &mut Counters) {
        let (mac, source) = {
            let interface = &self.interfaces[usize::from(index)];
            (interface.mac, interface.first_v4())
        };
        for effect in effects {
            match effect {
                Effect::Solicit { target: IpAddr::V4(target), dst } => {
                    let source = self.interfaces[usize::from(index)].v4_towards(target).or(source);
                    let request = ArpPacket::request(mac, source.unwrap_or(Ipv4Addr::UNSPECIFIED), target);
                    self.send_arp(index, &request, dst, counters);
                }
                Effect::Solicit { target: IpAddr::V6(target), dst } => {
                    self.solicit(index, target, dst, counters);
                }
                Effect::Announce(ip) => {
                    self.send_arp(index, &ArpPacket::announcement(mac, ip), MacAddr::BROADCAST, counters);
                }
                Effect::Send(packet, header) => self.emit(index, packet, &header, counters),
                Effect::Drop { packet, reason } => {
                    counters.drop(reason);
                    if reason == DropReason::NeighFailed {
                        self.unreachable.push(packet);
                    }
                }
            }
        }
    }

    /// RFC 5227: looks for addresses, and defends them.
    fn act_on_conflicts(&mut self, index: u16, acts: Vec<Act>, counters: &mut Counters) {
        let mac = self.interfaces[usize::from(index)].mac;
        for act in acts {
            let packet = match act {
                // §2.1.1: from no address, so that nobody learns one.
                Act::Probe(addr) => ArpPacket::request(mac, Ipv4Addr::UNSPECIFIED, addr),
                Act::Defend(addr) => {
                    counters.count(Counter::ArpDefences);
                    ArpPacket::announcement(mac, addr)
                }
                Act::Claim(prefix) => {
                    self.claimed.push((index, prefix));
                    continue;
                }
                Act::Taken(_) => {
                    counters.count(Counter::ArpConflictsFound);
                    continue;
                }
            };
            if self.speaks {
                self.send_arp(index, &packet, MacAddr::BROADCAST, counters);
            }
        }
    }

    fn send_arp(&mut self, index: u16, packet: &ArpPacket, dst: MacAddr, counters: &mut Counters) {
        let interface = &self.interfaces[usize::from(index)];
        let mut bytes = [0; PACKET_LEN];
        packet.emit(&mut bytes);
        let built = PacketBuf::alloc(&interface.frames, PACKET_LEN, HEADROOM).and_then(|mut buf| {
            buf.write(0, &bytes)?;
            Ok(buf)
        });
        let header = EthernetHeader { dst, src: interface.mac, ethertype: EtherType::ARP };
        match built {
            Ok(buf) => {
                counters.count(Counter::ArpOut);
                self.emit(index, buf, &header.to_bytes(), counters);
            }
            Err(_) => counters.drop(DropReason::NoMem),
        }
    }

    fn emit(
        &mut self,
        index: u16,
        mut packet: PacketBuf<M>,
        header: &[u8; HEADER_LEN],
        counters: &mut Counters,
    ) {
        if packet.prepend(header).is_err() {
            return counters.drop(DropReason::NoMem);
        }
        self.send_frame(index, packet, counters);
    }

    /// A frame leaves as it is; by a VLAN, with its tag.
    pub fn send_frame(&mut self, index: u16, mut frame: PacketBuf<M>, counters: &mut Counters) {
        let vlan = self.interface(index).and_then(|interface| interface.vlan);
        let index = match vlan {
            None => index,
            Some(vlan) if tag(&mut frame, vlan).is_ok() => vlan.below,
            Some(_) => return counters.drop(DropReason::NoMem),
        };
        counters.count(Counter::TxFrames);
        counters.add(Counter::TxBytes, frame.len() as u64);
        self.out.push_back((index, frame));
    }
}

fn interface_mac<M: Memory>(interfaces: &[Interface<M>], index: u16) -> MacAddr {
    interfaces[usize::from(index)].mac
}

/// The interface that a packet left by which came back.
const fn looped_from(src: MacAddr) -> u16 {
    let [.., high, low] = src.0;
    u16::from_be_bytes([high, low])
}
