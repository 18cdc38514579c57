//! What a datagram socket's options come to: all hosts of a network, a source of one's own, a full buffer.

use super::rig::{App, Plan, Rig, addr, exchange, interface};
use crate::wire::drop_reason::DropReason;
use crate::wire::ipv4::{IpProtocol, Ipv4Header};
use proto::arena::Geometry;
use proto::arena::line::want;
use std::net::Ipv4Addr;

const GEOMETRY: Geometry = Geometry { shards: 1, active: 4, passive: 4, tx_pages: 64, rx_pages: 8 };

fn host(addrs: &[&str]) -> (Rig, App) {
    let interfaces = vec![interface(1, addrs)];
    let mut rig = Rig::new(Plan { interfaces, ..Plan::new(1, addrs[0]) });
    let mut app = rig.client(GEOMETRY);
    rig.datagram(&mut app, 0, "0.0.0.0:1000", "0.0.0.0:0");
    rig.sent();
    (rig, app)
}

/// Link destination and source address of the UDP packets that left.
fn udp_sent(rig: &mut Rig) -> Vec<([u8; 6], Ipv4Addr)> {
    rig.settle();
    let sent = rig.sent().into_iter().filter(|(_, frame)| frame.get(23) == Some(&17));
    sent.map(|(_, frame)| {
        let mut dst = [0; 6];
        dst.copy_from_slice(&frame[..6]);
        (dst, Ipv4Addr::new(frame[26], frame[27], frame[28], frame[29]))
    })
    .collect()
}

#[test]
fn all_hosts_of_a_network_are_for_those_who_asked() {
    let (mut rig, mut app) = host(&["10.0.0.1"]);
    for all in ["10.0.0.255:9", "255.255.255.255:9"] {
        app.want(0, 0);
        app.send_to(0, all, b"hello");
        assert_eq!(udp_sent(&mut rig), [], "{all} without SO_BROADCAST");
        app.want(0, want::BROADCAST);
        app.send_to(0, all, b"hello");
        assert_eq!(udp_sent(&mut rig), [([0xff; 6], Ipv4Addr::new(10, 0, 0, 1))], "{all}");
    }
    assert_eq!(rig.stack.counters.dropped(DropReason::IpOutNoRoutes), 2);
}

#[test]
fn a_datagram_names_its_source_if_it_is_ours_and_its_interface_if_the_way_leads_there() {
    let (mut rig, mut app) = host(&["10.0.0.1", "10.0.0.2"]);
    app.want(0, want::BROADCAST);
    for (source, interface, leaves) in [
        ("0.0.0.0", 0, Some(1)),
        ("10.0.0.2", 0, Some(2)),
        ("10.0.0.3", 0, None),
        ("10.0.0.2", 2, Some(2)),
        ("10.0.0.2", 1, None),
    ] {
        app.send_from(0, addr("10.0.0.255:9"), addr(&format!("{source}:0")), interface, b"hello");
        let sources: Vec<u8> = udp_sent(&mut rig).iter().map(|(_, source)| source.octets()[3]).collect();
        assert_eq!(sources, Vec::from_iter(leaves), "from {source} by {interface}");
    }
}

#[test]
fn a_receive_buffer_takes_what_was_asked_for_and_one_datagram_always() {
    let (mut one, mut sender) = host(&["10.0.0.1"]);
    let mut other = Rig::new(Plan::new(2, "10.0.0.2"));
    let mut receiver = other.client(GEOMETRY);
    other.datagram(&mut receiver, 0, "0.0.0.0:9", "0.0.0.0:0");
    receiver.lines[0].rcvbuf = 600;
    receiver.want(0, 0);
    other.settle();
    let mut pass = |len: usize, count: usize, receiver: &mut App, other: &mut Rig| {
        for _ in 0..count {
            sender.send_to(0, "10.0.0.2:9", &vec![7; len]);
            one.settle();
            exchange(&mut one, other);
        }
        let got = receiver.records(0);
        other.settle();
        got
    };
    let got = pass(1000, 3, &mut receiver, &mut other);
    assert_eq!(got.len(), 1, "more than the buffer, alone");
    assert_eq!(got[0].0.slot.0, 2, "by the first interface, loopback being 1");
    assert_eq!(pass(100, 10, &mut receiver, &mut other).len(), 3, "160 bytes each with their headers");
}

/// RFC 768: the sender may leave the checksum out. What lies behind the datagram is padding.
#[test]
fn a_datagram_without_a_checksum_is_taken_whole() {
    let (mut rig, mut app) = host(&["10.0.0.1"]);
    let payload = b"no sum at all";
    let (src, us) = (Ipv4Addr::new(10, 0, 0, 9), Ipv4Addr::new(10, 0, 0, 1));
    let len = 8 + payload.len();
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9, 8, 0];
    let mut ip = [0; 20];
    Ipv4Header::new(src, us, IpProtocol::UDP, 64, len).emit(&mut ip);
    frame.extend(ip);
    frame.extend(999u16.to_be_bytes());
    frame.extend(1000u16.to_be_bytes());
    frame.extend((len as u16).to_be_bytes());
    frame.extend([0; 2]);
    frame.extend(payload);
    frame.resize(60, 0xee);
    rig.receive(0, &frame);
    rig.settle();
    let records = app.records(0);
    assert_eq!(records.len(), 1);
    assert_eq!((records[0].0.remote, &records[0].1[..]), (addr("10.0.0.9:999"), &payload[..]));
}
