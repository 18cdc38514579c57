//! VLANs: interfaces behind a tag on the link of another one.

use super::rig::{App, Plan, Rig, exchange, interface, pass};
use crate::wire::drop_reason::DropReason;
use proto::arena::Geometry;
use proto::control::messages::Prefix;
use proto::control::notices::Change;
use proto::hard::config::{LinkName, Vlan};
use rustix::io::Errno;
use std::time::Duration;

const GEOMETRY: Geometry = Geometry { shards: 1, active: 8, passive: 8, tx_pages: 64, rx_pages: 64 };
const SEVEN: Vlan = Vlan { below: 0, id: 7 };

fn prefix(text: &str) -> Prefix {
    let (addr, len) = text.split_once('/').expect("a length");
    Prefix { addr: addr.parse().expect("an address"), len: len.parse().expect("a number") }
}

fn make(rig: &mut Rig, nic: u16, vlan: Vlan) -> Result<(), Errno> {
    let name = LinkName::new("vlan").expect("a name");
    rig.stack.change(rig.now, &Change::LinkAdd { nic, name, vlan })
}

/// A host with 10.0.0.N on its link and 10.7.0.N in VLAN 7 of it.
fn host(number: u8) -> (Rig, App) {
    let mut rig = Rig::new(Plan::new(number, &format!("10.0.0.{number}")));
    make(&mut rig, 1, SEVEN).expect("a VLAN");
    for given in [format!("10.7.0.{number}/24"), format!("fd07::{number}/64")] {
        rig.stack
            .change(rig.now, &Change::AddressAdd { nic: 1, prefix: prefix(&given), dad: false })
            .expect("an address");
    }
    rig.settle();
    let app = rig.client(GEOMETRY);
    (rig, app)
}

/// Carries frames, and says what was seen of each: the VLAN, if it has a tag.
fn watched(one: &mut Rig, other: &mut Rig) -> Vec<Option<u16>> {
    let mut seen = Vec::new();
    loop {
        let (there, back) = (one.sent(), other.sent());
        if there.is_empty() && back.is_empty() {
            return seen;
        }
        for (nic, frame) in there.iter().chain(&back) {
            assert_eq!(*nic, 0, "there is one device");
            let tagged = frame[12..14] == [0x81, 0];
            seen.push(tagged.then(|| u16::from_be_bytes([frame[14], frame[15]])));
        }
        there.iter().for_each(|(_, frame)| other.receive(0, frame));
        back.iter().for_each(|(_, frame)| one.receive(0, frame));
        one.settle();
        other.settle();
    }
}

#[test]
fn what_is_of_a_vlan_has_its_tag_and_nothing_else_has() {
    let ((mut one, mut sender), (mut other, mut receiver)) = (host(1), host(2));
    pass(&mut one, &mut other, Duration::from_secs(3));
    one.datagram(&mut sender, 0, "[::]:1000", "0.0.0.0:0");
    other.datagram(&mut receiver, 0, "[::]:9", "0.0.0.0:0");
    watched(&mut one, &mut other);
    for (to, vlan) in [("10.0.0.2:9", None), ("10.7.0.2:9", Some(7)), ("[fd07::2]:9", Some(7))] {
        sender.send_to(0, to, b"hello");
        one.settle();
        let seen = watched(&mut one, &mut other);
        assert!(seen.len() >= 3 && seen.iter().all(|tag| *tag == vlan), "{to}: {seen:?}");
        let records = receiver.records(0);
        assert_eq!(records.len(), 1, "{to}");
        assert_eq!(records[0].1, b"hello");
    }
}

#[test]
fn a_tag_that_is_nobodys_is_dropped_and_a_priority_is_none() {
    let ((mut one, mut sender), (mut other, mut receiver)) = (host(1), host(2));
    one.datagram(&mut sender, 0, "[::]:1000", "0.0.0.0:0");
    other.datagram(&mut receiver, 0, "[::]:9", "0.0.0.0:0");
    for to in ["10.0.0.2:9", "10.7.0.2:9"] {
        sender.send_to(0, to, b"");
        one.settle();
        exchange(&mut one, &mut other);
    }
    receiver.records(0);
    let mut frame = |one: &mut Rig, to: &str| {
        sender.send_to(0, to, b"?");
        one.settle();
        one.sent().remove(0).1
    };
    let plain = frame(&mut one, "10.0.0.2:9");
    let within = |tag: &[u8]| [&plain[..12], tag, &plain[12..]].concat();
    let mut dropped = 0;
    let cases: [(&[u8], usize); 6] = [
        (&[0x81, 0, 0, 0], 1),
        (&[0x81, 0, 0xe0, 0], 1),
        (&[0x81, 0, 0, 8], 0),
        (&[0x81, 0, 0x0f, 0xff], 0),
        (&[0x81, 0, 0, 7, 0x81, 0, 0, 7], 0),
        (&[0x88, 0xa8, 0, 7], 0),
    ];
    for (tag, delivered) in cases {
        other.receive(0, &within(tag));
        other.settle();
        assert_eq!(receiver.records(0).len(), delivered, "{tag:02x?}");
        dropped += 1 - delivered as u64;
        assert_eq!(other.stack.counters.dropped(DropReason::UnhandledProto), dropped, "{tag:02x?}");
    }
    // Of the VLAN, with a priority, and cut off.
    let mut tagged = frame(&mut one, "10.7.0.2:9");
    tagged[14] |= 0xe0;
    other.receive(0, &tagged);
    other.receive(0, &tagged[..16]);
    other.settle();
    assert_eq!(receiver.records(0).len(), 1);
    assert_eq!(other.stack.counters.dropped(DropReason::PktTooSmall), 1);
}

#[test]
fn a_connection_in_a_vlan_outlives_its_host() {
    let ((mut one, mut client), (mut other, mut server)) = (host(1), host(2));
    // As the configuration says it to a successor.
    let vlan = |number: u8| {
        let addr = format!("10.7.0.{number}");
        let given = interface(number, &[&addr]);
        crate::link::interface::InterfaceConfig { vlan: Some(SEVEN), ..given }
    };
    one.plan.interfaces.push(vlan(1));
    other.plan.interfaces.push(vlan(2));
    other.listen(&mut server, 0, "10.7.0.2:80", 8);
    one.connect(&mut client, 0, "0.0.0.0:0", "10.7.0.2:80");
    exchange(&mut one, &mut other);
    let slot = server.accept(0)[0];
    let mut said = Vec::new();
    for round in 0..4u8 {
        client.write(0, &[round; 3000]);
        one.settle();
        if round % 2 == 0 {
            one.restart()
        } else {
            other.restart()
        }
        pass(&mut one, &mut other, Duration::from_secs(5));
        said.extend([round; 3000]);
        assert_eq!(server.peek(slot), said, "round {round}");
    }
}

#[test]
fn a_vlan_that_is_gone_takes_its_addresses_along() {
    let ((mut one, mut sender), (mut other, mut receiver)) = (host(1), host(2));
    one.datagram(&mut sender, 0, "[::]:1000", "0.0.0.0:0");
    other.datagram(&mut receiver, 0, "[::]:9", "0.0.0.0:0");
    sender.send_to(0, "10.7.0.2:9", b"");
    one.settle();
    exchange(&mut one, &mut other);
    assert_eq!(receiver.records(0).len(), 1);
    other.stack.change(other.now, &Change::LinkDel { nic: 1 }).expect("a VLAN");
    sender.send_to(0, "10.7.0.2:9", b"");
    one.settle();
    exchange(&mut one, &mut other);
    assert_eq!(receiver.records(0).len(), 0);
    let gone = prefix("10.7.0.2/24");
    let nic = 1;
    assert_eq!(other.stack.change(other.now, &Change::AddressDel { nic, prefix: gone }), Err(Errno::NODEV));
    // Its index and its addresses are free again.
    make(&mut other, 1, SEVEN).expect("a VLAN");
    other.stack.change(other.now, &Change::AddressAdd { nic, prefix: gone, dad: false }).expect("an address");
    sender.send_to(0, "10.7.0.2:9", b"");
    one.settle();
    exchange(&mut one, &mut other);
    assert_eq!(receiver.records(0).len(), 1);
}

#[test]
fn a_vlan_goes_down_with_its_link() {
    let (mut one, mut sender) = host(1);
    let addr = "10.7.0.2".parse().expect("an address");
    let known = Change::NeighbourAdd { nic: 1, addr, mac: [2, 0, 0, 0, 0, 2] };
    one.stack.change(one.now, &known).expect("room");
    one.datagram(&mut sender, 0, "[::]:1000", "0.0.0.0:0");
    let mut leaves = |one: &mut Rig| {
        one.sent();
        sender.send_to(0, "10.7.0.2:9", b"");
        one.settle();
        let sent = one.sent();
        sent.iter().any(|(_, frame)| frame[12..18] == [0x81, 0, 0, 7, 8, 0])
    };
    assert!(leaves(&mut one));
    let set = |one: &mut Rig, nic: u16, up: bool| {
        let change = Change::LinkSet { nic, up: Some(up), mtu: None, promiscuous: None };
        one.stack.change(one.now, &change).expect("an interface");
        one.now = one.now + Duration::from_secs(2);
    };
    for nic in [0, 1] {
        set(&mut one, nic, false);
        assert!(!leaves(&mut one), "{nic} is down");
        set(&mut one, nic, true);
    }
    one.stack.set_carrier(0, false);
    assert!(!leaves(&mut one), "the cable is out");
}

#[test]
fn what_can_not_be_a_vlan_is_refused() {
    let (mut one, _) = host(1);
    for (nic, vlan, errno) in [
        (2, SEVEN, Errno::EXIST),
        (1, Vlan { id: 8, ..SEVEN }, Errno::EXIST),
        (0, Vlan { id: 8, ..SEVEN }, Errno::EXIST),
        (2, Vlan { id: 0, ..SEVEN }, Errno::INVAL),
        (2, Vlan { id: 4095, ..SEVEN }, Errno::INVAL),
        (2, Vlan { below: 1, id: 8 }, Errno::NODEV),
        (9, Vlan { id: 8, ..SEVEN }, Errno::NOSPC),
    ] {
        assert_eq!(make(&mut one, nic, vlan), Err(errno), "{nic} {vlan:?}");
    }
    let del = |one: &mut Rig, nic: u16| one.stack.change(one.now, &Change::LinkDel { nic });
    assert_eq!(del(&mut one, 0), Err(Errno::OPNOTSUPP));
    assert_eq!(del(&mut one, 2), Err(Errno::NODEV));
    let mtu = |one: &mut Rig, nic: u16, mtu: u16| {
        one.stack.change(one.now, &Change::LinkSet { nic, up: None, mtu: Some(mtu), promiscuous: None })
    };
    assert_eq!(mtu(&mut one, 1, 1501), Err(Errno::RANGE));
    assert_eq!(mtu(&mut one, 0, 1300), Ok(()));
    assert_eq!(
        one.stack.ip.link.interface(1).map(|vlan| vlan.mtu),
        Some(1300),
        "no more than the link below"
    );
}
