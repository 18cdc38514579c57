//! Raw, ping and packet sockets: copies before the handlers, echoes by identifier, frames both ways; all of
//! it again after a death.

use super::rig::{App, Plan, Rig, exchange, interface};
use crate::wire::drop_reason::DropReason;
use proto::arena::Geometry;
use proto::arena::record::{Said, mark};
use proto::arena::wishes::{Instruction, Wishes};
use proto::form::{Form, Share};

const GEOMETRY: Geometry = Geometry { shards: 1, active: 8, passive: 4, tx_pages: 64, rx_pages: 64 };
const ICMP: Form = Form::Raw { protocol: 1 };

fn host(number: u8) -> (Rig, App) {
    let addrs = [format!("10.0.0.{number}"), format!("fd00::{number}")];
    let interfaces = vec![interface(number, &[&addrs[0], &addrs[1]])];
    let mut rig = Rig::new(Plan { interfaces, ..Plan::new(number, &addrs[0]) });
    let app = rig.client(GEOMETRY);
    rig.sent();
    (rig, app)
}

fn open(rig: &mut Rig, app: &mut App, slot: u32, local: &str, form: Form) {
    rig.datagram_of(app, slot, local, "0.0.0.0:0", form, Share::NONE);
}

/// An echo request with a right checksum, of IPv4.
fn request(ident: u16) -> Vec<u8> {
    let mut message = vec![8, 0, 0, 0];
    message.extend(ident.to_be_bytes());
    message.extend([0, 1, b'h', b'i']);
    let sum = crate::wire::checksum::Sum::of(&message).field();
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

fn payloads(app: &mut App, slot: u32) -> Vec<Vec<u8>> {
    app.records(slot).into_iter().map(|(_, bytes)| bytes).collect()
}

#[test]
fn every_raw_socket_has_its_copy_and_the_handler_too() {
    let ((mut one, mut sender), (mut other, mut receiver)) = (host(1), host(2));
    open(&mut one, &mut sender, 0, "0.0.0.0:0", ICMP);
    for slot in 0..3 {
        open(&mut other, &mut receiver, slot, "0.0.0.0:0", ICMP);
    }
    open(&mut other, &mut receiver, 3, "0.0.0.0:0", Form::Raw { protocol: 89 });
    // Of echo requests the second wants nothing.
    let mut blocked = [0; 8];
    blocked[0] = 1 << 8;
    receiver.wish(1, &Wishes { icmp_blocked: blocked, ..Wishes::default() });
    other.settle();
    for round in 0..2 {
        sender.said = Said { hop_limit: 9, ..Said::default() };
        sender.send_to(0, "10.0.0.2:0", &request(7));
        one.settle();
        exchange(&mut one, &mut other);
        let got = payloads(&mut receiver, 0);
        assert_eq!(got.len(), 1, "round {round}");
        assert_eq!((got[0][0], got[0][8], got[0][9], &got[0][20..]), (0x45, 9, 1, &request(7)[..]));
        assert_eq!(payloads(&mut receiver, 2), got);
        assert!(payloads(&mut receiver, 1).is_empty() && payloads(&mut receiver, 3).is_empty());
        let reply = payloads(&mut sender, 0);
        assert_eq!((reply.len(), reply[0][20]), (1, 0), "the handler has answered");
        other.restart();
        one.restart();
    }
    assert_eq!(one.stack.counters.dropped(DropReason::IcmpUnhandled), 0, "who asked for it has it");
}

#[test]
fn a_protocol_that_somebody_asks_for_is_not_refused() {
    let ((mut one, mut sender), (mut other, mut receiver)) = (host(1), host(2));
    for (local, to, header) in [("0.0.0.0:0", "10.0.0.2:0", 20), ("[::]:0", "[fd00::2]:0", 0)] {
        let form = Form::Raw { protocol: 89 };
        let slot = u32::from(header == 0);
        open(&mut one, &mut sender, slot, local, form);
        sender.send_to(slot, to, b"hello");
        one.settle();
        exchange(&mut one, &mut other);
        assert!(sender.stack_line(slot).error == 0);
        let refused = other.stack.counters.dropped(DropReason::IpNoProto);
        open(&mut other, &mut receiver, slot, local, form);
        sender.send_to(slot, to, b"again");
        one.settle();
        exchange(&mut one, &mut other);
        assert_eq!(&payloads(&mut receiver, slot)[0][header..], b"again");
        assert_eq!(other.stack.counters.dropped(DropReason::IpNoProto), refused, "not refused any more");
    }
}

#[test]
fn a_packet_with_its_own_header_leaves_as_it_is() {
    let ((mut one, mut sender), (mut other, mut receiver)) = (host(1), host(2));
    open(&mut one, &mut sender, 0, "0.0.0.0:0", Form::Raw { protocol: 255 });
    other.datagram(&mut receiver, 0, "0.0.0.0:9", "0.0.0.0:0");
    // UDP without a checksum, from an address that is nobody's; length and checksum of IP are the stack's.
    let mut packet = vec![0x45, 0, 0, 0, 0, 7, 0, 0, 5, 17, 0, 0, 10, 0, 0, 77, 10, 0, 0, 2];
    packet.extend([4, 0, 0, 9, 0, 10, 0, 0, b'o', b'k']);
    sender.send_to(0, "10.0.0.2:0", &packet);
    sender.send_to(0, "10.0.0.2:0", &[0x35; 30]);
    one.settle();
    exchange(&mut one, &mut other);
    let records = receiver.records(0);
    assert_eq!((records.len(), &records[0].1[..]), (1, &b"ok"[..]));
    assert_eq!((records[0].0.remote.to_string(), records[0].0.said.hop_limit), ("10.0.0.77:1024".into(), 5));
    assert_eq!(sender.stack_line(0).error, 22, "EINVAL for what is no packet");
}

#[test]
fn an_echo_finds_the_socket_of_its_identifier() {
    let ((mut one, mut app), (mut other, _)) = (host(1), host(2));
    open(&mut one, &mut app, 0, "0.0.0.0:77", Form::Ping);
    open(&mut one, &mut app, 1, "[::]:77", Form::Raw { protocol: 58 });
    open(&mut one, &mut app, 2, "[::]:78", Form::Ping);
    for _ in 0..2 {
        app.send_to(0, "10.0.0.2:0", &[8, 0, 0, 0, 0, 0, 0, 3, b'x']);
        // Not an echo request.
        app.send_to(0, "10.0.0.2:0", &[13, 0, 0, 0, 0, 0, 0, 3]);
        app.send_to(2, "[fd00::2]:0", &[128, 0, 0, 0, 0, 0, 0, 4, b'y']);
        one.settle();
        exchange(&mut one, &mut other);
        let replies = payloads(&mut app, 0);
        assert_eq!(replies.len(), 1);
        assert_eq!((&replies[0][..2], &replies[0][4..]), (&[0, 0][..], &[0, 77, 0, 3, b'x'][..]));
        assert_eq!(&payloads(&mut app, 2)[0][4..], [0, 78, 0, 4, b'y']);
        let raw = payloads(&mut app, 1);
        assert!(raw.iter().any(|message| message[0] == 129), "raw sockets have their copy");
        assert_eq!(app.stack_line(0).error, 22);
        one.restart();
    }
    // Nobody is there any more.
    app.close(0);
    one.settle();
    app.send_to(2, "[fd00::99]:0", &[128, 0, 0, 0, 0, 0, 0, 4]);
    one.settle();
}

#[test]
fn frames_are_seen_both_ways() {
    let ((mut one, mut app), (mut other, mut answerer)) = (host(1), host(2));
    let every = |cooked| Form::Packet { ethertype: Form::EVERY_TYPE, cooked };
    open(&mut one, &mut app, 0, "0.0.0.0:0", every(false));
    open(&mut one, &mut app, 1, "0.0.0.0:2", every(true));
    open(&mut one, &mut app, 2, "0.0.0.0:0", Form::Packet { ethertype: 0x800, cooked: false });
    open(&mut one, &mut app, 3, "0.0.0.0:1", every(false));
    one.datagram(&mut app, 4, "0.0.0.0:1000", "0.0.0.0:0");
    other.datagram(&mut answerer, 0, "0.0.0.0:9", "0.0.0.0:0");
    // What is longer is cut by the filter, which tells it.
    let cut = vec![Instruction { code: 6, jt: 0, jf: 0, k: 20 }];
    app.wish(1, &Wishes { filter: cut, ..Wishes::default() });
    one.settle();
    for round in 0..2 {
        app.send_to(4, "10.0.0.2:9", b"there");
        one.settle();
        exchange(&mut one, &mut other);
        answerer.send_to(0, "10.0.0.1:1000", b"back");
        other.settle();
        exchange(&mut one, &mut other);
        assert_eq!(payloads(&mut app, 4).len(), 1);
        let seen = app.records(0);
        let udp: Vec<_> = seen.iter().filter(|(_, frame)| frame[12..14] == [8, 0]).collect();
        assert_eq!(udp.len(), 2, "round {round}");
        assert!(udp[0].0.is(mark::OUTGOING) && !udp[1].0.is(mark::OUTGOING));
        assert_eq!((udp[0].0.slot.0, &udp[1].1[42..46]), (2, &b"back"[..]));
        let incoming = app.records(2);
        assert_eq!(incoming.len(), 1, "of one type: what comes in");
        let cooked = app.records(1);
        let udp: Vec<_> = cooked.iter().filter(|(header, _)| header.remote.port() == 0x800).collect();
        assert_eq!((udp[0].1.len(), udp[0].0.local.port(), udp[0].1[0]), (20, 33, 0x45));
        assert!(app.records(3).is_empty(), "loopback alone");
        answerer.records(0);
        one.restart();
    }
    // A frame of its own making, whole and cooked.
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5];
    frame.extend([7; 50]);
    app.send_from(0, "[::1]:0".parse().expect("an address"), "0.0.0.0:0".parse().expect("one"), 2, &frame);
    app.send_to(1, "[::200:0:2]:34997", &[9; 50]);
    one.settle();
    let sent: Vec<Vec<u8>> = one.sent().into_iter().map(|(_, frame)| frame).collect();
    assert!(sent.contains(&frame));
    let built = sent.iter().find(|sent| sent[12..14] == [0x88, 0xb5] && sent[14] == 9).expect("it left");
    assert_eq!(built[..12], [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1]);
}
