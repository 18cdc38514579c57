//! What became of datagrams that were sent: ICMP errors for the sockets that they are about.

use super::rig::{App, Plan, Rig, exchange, interface, pass};
use proto::arena::Geometry;
use proto::arena::line::level;
use proto::arena::record::{ErrorNote, NOTE_BYTES, mark};
use proto::arena::wishes::Wishes;
use std::time::Duration;

const GEOMETRY: Geometry = Geometry { shards: 1, active: 4, passive: 4, tx_pages: 64, rx_pages: 64 };

fn host(remote: &str) -> (Rig, App) {
    let plan = Plan { interfaces: vec![interface(1, &["10.0.0.1", "fd00::1"])], ..Plan::new(1, "10.0.0.1") };
    let mut rig = Rig::new(plan);
    let mut app = rig.client(GEOMETRY);
    rig.datagram(&mut app, 0, "[::]:1000", remote);
    rig.sent();
    (rig, app)
}

fn other() -> Rig {
    let plan = Plan { interfaces: vec![interface(2, &["10.0.0.2", "fd00::2"])], ..Plan::new(2, "10.0.0.2") };
    let mut other = Rig::new(plan);
    other.sent();
    other
}

#[test]
fn a_port_that_nobody_has_is_told_with_all_that_is_known() {
    for (to, origin, kind, code) in
        [("10.0.0.2:9", ErrorNote::ICMP, 3, 3), ("[fd00::2]:9", ErrorNote::ICMP6, 1, 4)]
    {
        let (mut one, mut app) = host("0.0.0.0:0");
        let mut other = other();
        app.send_to(0, to, b"not asked for");
        one.settle();
        exchange(&mut one, &mut other);
        assert_eq!(app.stack_line(0).flags & level::ERROR, 0, "who is not connected hears nothing");
        app.wish(0, &Wishes { errors: true, ..Wishes::default() });
        one.settle();
        app.send_to(0, to, b"what became of me");
        one.settle();
        exchange(&mut one, &mut other);
        assert_eq!(app.stack_line(0).error, 111, "ECONNREFUSED");
        one.restart();
        let records = app.records(0);
        let (header, bytes) = &records[0];
        assert!(header.is(mark::ERROR) && header.remote.to_string() == to);
        let note = ErrorNote::from_bytes(bytes.first_chunk().expect("a note"));
        assert_eq!((note.errno, note.origin, note.kind, note.code), (111, origin, kind, code));
        assert_eq!(note.offender, header.remote.ip());
        assert_eq!(&bytes[NOTE_BYTES..], b"what became of me");
    }
}

#[test]
fn a_neighbour_that_does_not_answer_is_told_too() {
    let (mut one, mut app) = host("0.0.0.0:0");
    let mut other = other();
    app.wish(0, &Wishes { errors: true, ..Wishes::default() });
    app.send_to(0, "10.0.0.99:9", b"anybody");
    one.settle();
    pass(&mut one, &mut other, Duration::from_secs(5));
    let records = app.records(0);
    let note = ErrorNote::from_bytes(records[0].1.first_chunk().expect("a note"));
    assert_eq!((note.errno, note.kind, note.code), (113, 3, 1), "EHOSTUNREACH");
    assert_eq!(note.offender.to_string(), "10.0.0.1");
}
