use super::*;
use proptest::prelude::*;
use std::collections::HashSet;

const US: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const OUR_IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

fn mac(n: u32) -> MacAddr {
    let [a, b, c, d] = n.to_be_bytes();
    MacAddr([2, 1, a, b, c, d])
}

fn ip4(n: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a00_0000 + n)
}

fn ip(n: u32) -> IpAddr {
    IpAddr::V4(ip4(n))
}

fn at(ms: u64) -> Instant {
    Instant::from_millis(1_000_000 + ms)
}

/// A table of at most `entries`, reachable time 30 s.
fn table(entries: u32) -> NeighbourTable<u32> {
    let limits = NeighbourLimits { entries, pending: 100 };
    NeighbourTable::new(US, limits, HashKey([1, 2]), 15_000, at(0))
}

fn arp(
    table: &mut NeighbourTable<u32>,
    now: Instant,
    packet: ArpPacket,
) -> (Result<Option<ArpPacket>, DropReason>, Vec<Effect<u32>>) {
    let mut effects = Vec::new();
    let to_us = packet.target_mac == US;
    let result = table.receive_arp(now, &packet, to_us, |ip| ip == OUR_IP, |effect| effects.push(effect));
    (result, effects)
}

fn answer(n: u32, mac: MacAddr) -> ArpPacket {
    ArpPacket {
        operation: ArpOperation::Reply,
        sender_mac: mac,
        sender_ip: ip4(n),
        target_mac: US,
        target_ip: OUR_IP,
    }
}

fn timer(table: &mut NeighbourTable<u32>, now: Instant) -> Vec<Effect<u32>> {
    let mut effects = Vec::new();
    table.on_timer(now, |effect| effects.push(effect));
    effects
}

fn state(table: &NeighbourTable<u32>, now: Instant, n: u32) -> Option<NeighbourState> {
    table.get(now, ip(n)).map(|neighbour| neighbour.state)
}

fn asked(n: u32, dst: MacAddr) -> Effect<u32> {
    Effect::Solicit { target: ip(n), dst }
}

const QUEUED: Output<u32> = Output::Queued { solicit: false, dropped: None };
const ASKED: Output<u32> = Output::Queued { solicit: true, dropped: None };

fn header(n: u32, ethertype: EtherType) -> LinkHeader {
    EthernetHeader { dst: mac(n), src: US, ethertype }.to_bytes()
}

/// When the timer is due; a tick of the wheel after the time that was asked for at most.
fn due(table: &NeighbourTable<u32>, ms: u64) -> Instant {
    let next = table.next_deadline().unwrap();
    assert!(next >= at(ms) && next < at(ms + 1), "{next:?} instead of {:?}", at(ms));
    next
}

#[test]
fn packets_wait_for_the_answer() {
    let mut table = table(8);
    assert_eq!(table.output(at(0), ip(2), 100), ASKED);
    assert_eq!(table.output(at(1), ip(2), 101), QUEUED);
    assert_eq!(state(&table, at(1), 2), Some(NeighbourState::Incomplete));
    let (result, effects) = arp(&mut table, at(5), answer(2, mac(2)));
    assert_eq!(result, Ok(None));
    let v4 = header(2, EtherType::IPV4);
    assert_eq!(effects, [Effect::Send(100, v4), Effect::Send(101, v4)]);
    assert_eq!(state(&table, at(5), 2), Some(NeighbourState::Reachable));
    assert_eq!(table.output(at(6), ip(2), 102), Output::Send(102, v4));
    assert_eq!(table.next_deadline(), None, "an idle table has no timer");
}

#[test]
fn what_a_dead_driver_had_is_asked_again_at_once() {
    let mut table = table(8);
    let again = |table: &NeighbourTable<u32>| {
        let mut effects = Vec::new();
        table.ask_again(|effect| effects.push(effect));
        effects
    };
    assert_eq!(table.output(at(0), ip(2), 100), ASKED);
    assert_eq!(again(&table), [asked(2, MacAddr::BROADCAST)]);
    due(&table, 1000);
    arp(&mut table, at(5), answer(2, mac(2))).0.unwrap();
    assert_eq!(again(&table), [], "it has answered");
    assert!(matches!(table.output(at(40_000), ip(2), 1), Output::Send(1, _)));
    assert_eq!(again(&table), [], "a confirmation may come by itself");
    let now = due(&table, 45_000);
    assert_eq!(timer(&mut table, now), [asked(2, mac(2))]);
    assert_eq!(again(&table), [asked(2, mac(2))]);
}

#[test]
fn three_questions_a_second_apart_then_failure() {
    let mut table = table(8);
    assert_eq!(table.output(at(0), ip(2), 100), ASKED);
    let mut now = due(&table, 1000);
    assert_eq!(timer(&mut table, now), [asked(2, MacAddr::BROADCAST)]);
    now = due(&table, 2000);
    assert_eq!(timer(&mut table, now), [asked(2, MacAddr::BROADCAST)]);
    now = due(&table, 3000);
    assert_eq!(timer(&mut table, now), [Effect::Drop { packet: 100, reason: DropReason::NeighFailed }]);
    assert_eq!(state(&table, now, 2), Some(NeighbourState::Failed));
    assert_eq!(table.next_deadline(), None);
    assert_eq!(table.output(now, ip(2), 101), ASKED, "the next packet asks anew");
}

#[test]
fn a_stale_neighbour_is_used_then_probed() {
    let mut table = table(8);
    assert_eq!(table.output(at(0), ip(2), 1), ASKED);
    arp(&mut table, at(0), answer(2, mac(2))).0.unwrap();
    assert_eq!(state(&table, at(29_999), 2), Some(NeighbourState::Reachable));
    assert_eq!(state(&table, at(30_000), 2), Some(NeighbourState::Stale));
    assert!(matches!(table.output(at(40_000), ip(2), 2), Output::Send(2, _)));
    assert_eq!(state(&table, at(40_000), 2), Some(NeighbourState::Delay));
    for second in [5, 6, 7] {
        let now = due(&table, 40_000 + second * 1000);
        assert_eq!(timer(&mut table, now), [asked(2, mac(2))]);
        assert_eq!(state(&table, now, 2), Some(NeighbourState::Probe));
        assert!(matches!(table.output(now, ip(2), 3), Output::Send(3, _)), "still sent to");
    }
    let now = due(&table, 48_000);
    assert_eq!(timer(&mut table, now), []);
    assert_eq!(state(&table, now, 2), Some(NeighbourState::Failed));
}

#[test]
fn a_confirmation_ends_the_delay() {
    let mut table = table(8);
    assert_eq!(table.output(at(0), ip(2), 1), ASKED);
    arp(&mut table, at(0), answer(2, mac(2))).0.unwrap();
    assert!(matches!(table.output(at(40_000), ip(2), 2), Output::Send(..)));
    table.confirm(at(41_000), ip(2));
    assert_eq!(state(&table, at(70_000), 2), Some(NeighbourState::Reachable));
    assert_eq!(table.next_deadline(), None);
    // While it is probed, its own answer does the same.
    assert!(matches!(table.output(at(80_000), ip(2), 2), Output::Send(..)));
    timer(&mut table, at(85_001));
    assert_eq!(state(&table, at(85_001), 2), Some(NeighbourState::Probe));
    arp(&mut table, at(85_002), answer(2, mac(2))).0.unwrap();
    assert_eq!(state(&table, at(85_002), 2), Some(NeighbourState::Reachable));
    assert_eq!(table.next_deadline(), None);
    table.confirm(at(85_003), ip(99));
}

#[test]
fn who_asks_us_is_answered_and_known() {
    let mut table = table(8);
    let request = ArpPacket::request(mac(2), ip4(2), OUR_IP);
    let (result, effects) = arp(&mut table, at(0), request);
    assert_eq!(result, Ok(Some(request.reply(US))));
    assert_eq!(effects, []);
    assert_eq!(state(&table, at(0), 2), Some(NeighbourState::Stale));
    let probe = ArpPacket::request(mac(3), Ipv4Addr::UNSPECIFIED, OUR_IP);
    assert_eq!(arp(&mut table, at(0), probe).0, Ok(Some(probe.reply(US))));
    assert_eq!(table.len(), 1, "a probe teaches nothing");
}

#[test]
fn a_request_of_the_one_we_ask_is_an_answer_too() {
    let mut table = table(8);
    assert_eq!(table.output(at(0), ip(2), 1), ASKED);
    let (_, effects) = arp(&mut table, at(0), ArpPacket::request(mac(2), ip4(2), OUR_IP));
    assert_eq!(effects, [Effect::Send(1, header(2, EtherType::IPV4))]);
    assert_eq!(state(&table, at(0), 2), Some(NeighbourState::Delay), "used, but not confirmed");
}

#[test]
fn announcements_change_what_is_there_and_make_nothing() {
    let mut table = table(8);
    let announced = |n, m| ArpPacket::announcement(mac(m), ip4(n));
    assert_eq!(arp(&mut table, at(0), announced(2, 2)).0, Err(DropReason::ArpNotForUs));
    assert!(table.is_empty());
    arp(&mut table, at(0), ArpPacket::request(mac(2), ip4(2), OUR_IP)).0.unwrap();
    assert_eq!(arp(&mut table, at(10), announced(2, 7)).0, Ok(None));
    let known = table.get(at(10), ip(2)).unwrap();
    assert_eq!((known.mac, known.state), (Some(mac(7)), NeighbourState::Stale));
    // Another station's answer right after it is not believed, later it is.
    assert_eq!(arp(&mut table, at(900), answer(2, mac(8))).0, Err(DropReason::ArpNotForUs));
    assert_eq!(arp(&mut table, at(2000), answer(2, mac(8))).0, Ok(None));
    assert_eq!(table.get(at(2000), ip(2)).unwrap().mac, Some(mac(8)));
}

#[test]
fn our_own_address_and_our_own_echo() {
    let mut table = table(8);
    let stolen = ArpPacket::announcement(mac(2), OUR_IP);
    assert_eq!(arp(&mut table, at(0), stolen).0, Err(DropReason::ArpConflict));
    let echo = ArpPacket::announcement(US, OUR_IP);
    assert_eq!(arp(&mut table, at(0), echo).0, Err(DropReason::ArpNotForUs));
}

#[test]
fn permanent_entries_stay() {
    let mut table = table(2);
    assert_eq!(table.output(at(0), ip(2), 1), ASKED);
    let mut effects = Vec::new();
    assert!(table.set_permanent(at(0), ip(2), mac(2), |effect| effects.push(effect)));
    assert_eq!(effects, [Effect::Send(1, header(2, EtherType::IPV4))]);
    assert_eq!(table.next_deadline(), None);
    for packet in [answer(2, mac(9)), ArpPacket::announcement(mac(9), ip4(2))] {
        assert_eq!(arp(&mut table, at(9000), packet).0, Err(DropReason::ArpNotForUs));
    }
    table.flush(|effect| panic!("{effect:?}"));
    assert_eq!(table.get(at(9000), ip(2)).unwrap().mac, Some(mac(2)));
    assert!(table.remove(ip(2), |_| ()) && !table.remove(ip(2), |_| ()));
    assert!(table.is_empty());
}

#[test]
fn the_sixty_fifth_packet_costs_the_oldest() {
    let mut table = table(8);
    assert_eq!(table.output(at(0), ip(2), 0), ASKED);
    for packet in 1..64 {
        assert_eq!(table.output(at(0), ip(2), packet), QUEUED);
    }
    assert_eq!(table.output(at(0), ip(2), 64), Output::Queued { solicit: false, dropped: Some(0) });
    let mut dropped = Vec::new();
    table.flush(|effect| dropped.push(effect));
    assert_eq!(dropped.len(), 64);
    assert_eq!(dropped[0], Effect::Drop { packet: 1, reason: DropReason::NeighDead });
    assert!(table.is_empty() && table.next_deadline().is_none());
}

#[test]
fn a_spoof_flood_evicts_nothing_in_use() {
    let mut table = table(64);
    for n in 2..20 {
        assert_eq!(table.output(at(0), ip(n), n), ASKED);
        arp(&mut table, at(0), answer(n, mac(n))).0.unwrap();
    }
    assert!(table.set_permanent(at(0), ip(20), mac(20), |_| ()));
    // All in use are stale by then, their last packet half a minute ago.
    let used: Vec<u32> = (2..20).collect();
    for n in &used {
        assert!(matches!(table.output(at(35_000), ip(*n), 0), Output::Send(..)));
        table.confirm(at(35_000), ip(*n));
    }
    for n in 0..10_000 {
        let spoofed = ArpPacket::request(mac(n), ip4(1000 + n), OUR_IP);
        assert!(arp(&mut table, at(80_000), spoofed).0.is_ok());
    }
    assert!(table.len() <= 64);
    for n in used {
        assert_eq!(table.get(at(80_000), ip(n)).and_then(|known| known.mac), Some(mac(n)));
    }
    assert_eq!(state(&table, at(80_000), 20), Some(NeighbourState::Permanent));
    // And what the flood left makes room for our own needs.
    for n in 30..60 {
        assert_eq!(table.output(at(80_000), ip(n), 1), ASKED);
    }
}

#[test]
fn packets_to_nobody_leave_half_the_table() {
    let mut table = table(10);
    for n in 0..5 {
        assert_eq!(table.output(at(0), ip(100 + n), n), ASKED);
    }
    assert_eq!(table.output(at(0), ip(200), 7), Output::Refused(7));
    assert!(arp(&mut table, at(0), ArpPacket::request(mac(2), ip4(2), OUR_IP)).0.is_ok());
    assert_eq!(state(&table, at(0), 2), Some(NeighbourState::Stale));
    for second in 1..=3 {
        timer(&mut table, at(second * 1001));
    }
    assert_eq!(table.output(at(4000), ip(200), 7), ASKED, "those that failed make room");
}

#[test]
fn our_addresses_are_announced_twice() {
    let mut table = table(8);
    table.announce(at(0), OUR_IP);
    table.announce(at(0), ip4(9));
    let first = due(&table, 0);
    assert_eq!(timer(&mut table, first), [Effect::Announce(OUR_IP), Effect::Announce(ip4(9))]);
    let second = due(&table, 2000);
    assert_eq!(timer(&mut table, second), [Effect::Announce(OUR_IP), Effect::Announce(ip4(9))]);
    assert_eq!(table.next_deadline(), None);
}

#[test]
fn the_header_is_of_the_address_family() {
    let mut table = table(8);
    let six: IpAddr = "fe80::2".parse().unwrap();
    assert_eq!(table.output(at(0), six, 1), ASKED);
    let mut effects = Vec::new();
    assert!(table.learn(at(0), six, mac(2), Evidence::Answered, |effect| effects.push(effect)));
    assert_eq!(effects, [Effect::Send(1, header(2, EtherType::IPV6))]);
}

#[derive(Debug, Clone)]
enum Step {
    Output(u32),
    Answer(u32, u32),
    Request(u32, u32),
    Announce(u32, u32),
    Permanent(u32),
    Remove(u32),
    Confirm(u32),
    Flush,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let n = 2u32..30;
    let m = 0u32..4;
    prop_oneof![
        8 => n.clone().prop_map(Step::Output),
        4 => (n.clone(), m.clone()).prop_map(|(n, m)| Step::Answer(n, m)),
        3 => (n.clone(), m.clone()).prop_map(|(n, m)| Step::Request(n, m)),
        2 => (n.clone(), m).prop_map(|(n, m)| Step::Announce(n, m)),
        1 => (2u32..4).prop_map(Step::Permanent),
        1 => n.clone().prop_map(Step::Remove),
        2 => n.prop_map(Step::Confirm),
        1 => Just(Step::Flush),
        5 => prop_oneof![0u64..1500, 0u64..70_000].prop_map(Step::Wait),
    ]
}

proptest! {
    /// Every packet that goes in comes out exactly once; the table stays within its limits; who waits has a
    /// timer; entries that are in use stay.
    #[test]
    fn packets_are_neither_lost_nor_doubled(steps in prop::collection::vec(step(), 0..400)) {
        let limits = NeighbourLimits { entries: 8, pending: 20 };
        let mut table: NeighbourTable<u32> = NeighbourTable::new(US, limits, HashKey([1, 2]), 15_000, at(0));
        let mut inside: HashSet<u32> = HashSet::new();
        let mut now = at(0);
        for (packet, step) in steps.into_iter().enumerate() {
            let packet = packet as u32;
            let in_use: Vec<Neighbour> = table.list(now)
                .filter(|known| matches!(known.state, NeighbourState::Permanent | NeighbourState::Reachable
                    | NeighbourState::Delay | NeighbourState::Probe))
                .collect();
            let mut out = Vec::new();
            let mut sink = |effect: Effect<u32>| match effect {
                Effect::Send(packet, _) | Effect::Drop { packet, .. } => out.push(packet),
                _ => {}
            };
            let mut removed = None;
            match step {
                Step::Output(n) => {
                    inside.insert(packet);
                    match table.output(now, ip(n), packet) {
                        Output::Send(packet, _) | Output::Refused(packet) => out.push(packet),
                        Output::Queued { dropped, .. } => out.extend(dropped),
                    }
                }
                Step::Answer(n, m) => { let _ = table.receive_arp(now, &answer(n, mac(m)), true, |a| a == OUR_IP, &mut sink); }
                Step::Request(n, m) => {
                    let request = ArpPacket::request(mac(m), ip4(n), OUR_IP);
                    prop_assert!(table.receive_arp(now, &request, false, |a| a == OUR_IP, &mut sink).is_ok());
                }
                Step::Announce(n, m) => {
                    let before = table.len();
                    let _ = table.receive_arp(now, &ArpPacket::announcement(mac(m), ip4(n)), false, |a| a == OUR_IP, &mut sink);
                    prop_assert_eq!(table.len(), before);
                }
                Step::Permanent(n) => { table.set_permanent(now, ip(n), mac(n), &mut sink); }
                Step::Remove(n) => { table.remove(ip(n), &mut sink); removed = Some(vec![ip(n)]); }
                Step::Confirm(n) => table.confirm(now, ip(n)),
                Step::Flush => {
                    table.flush(&mut sink);
                    removed = Some((2..30).map(ip).collect());
                }
                Step::Wait(ms) => {
                    now = now + Duration::from_millis(ms);
                    table.on_timer(now, &mut sink);
                }
            }
            for packet in out {
                prop_assert!(inside.remove(&packet), "packet {} came out twice", packet);
            }
            prop_assert!(table.len() <= 8);
            let pending: usize = table.list(now).map(|known| known.pending).sum();
            prop_assert_eq!(pending, inside.len());
            let unresolved = table.list(now).filter(|known| known.state == NeighbourState::Incomplete).count();
            prop_assert_eq!(unresolved, table.unresolved as usize);
            for known in table.list(now) {
                prop_assert!(known.pending == 0 || known.state == NeighbourState::Incomplete);
            }
            prop_assert!(unresolved == 0 || table.next_deadline().is_some());
            for was in in_use {
                let gone = removed.as_ref().is_some_and(|removed| removed.contains(&was.addr));
                prop_assert!(gone || table.get(now, was.addr).is_some(), "{:?} was evicted", was);
            }
        }
    }
}

#[test]
fn one_of_before_a_restart_is_sent_to_at_once_and_then_looked_for() {
    let mut table = table(10);
    assert!(table.learn(at(0), ip(9), mac(9), Evidence::Restored, |_| panic!("nothing waits")));
    assert!(table.take_changed(at(0)));
    assert!(matches!(table.output(at(1), ip(9), 1), Output::Send(1, _)));
    assert_eq!(table.get(at(1), ip(9)).map(|row| (row.state, row.used)), Some((NeighbourState::Delay, true)));
    let asked = timer(&mut table, at(10) + DELAY_FIRST_PROBE_TIME);
    assert_eq!(asked, [Effect::Solicit { target: ip(9), dst: mac(9) }], "nothing has confirmed it");
    assert!(table.take_changed(at(6000)) && !table.take_changed(at(6000)));
}
