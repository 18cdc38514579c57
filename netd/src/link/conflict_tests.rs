use super::*;
use crate::wire::arp::ArpOperation;
use proptest::prelude::*;

const OURS: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const THEIRS: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const ADDR: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 5);
const PREFIX: Prefix = Prefix { addr: IpAddr::V4(ADDR), len: 24 };
const BEGIN: Instant = Instant::from_millis(1_000_000);

fn packet(
    operation: ArpOperation,
    sender_mac: MacAddr,
    sender_ip: Ipv4Addr,
    target_ip: Ipv4Addr,
) -> ArpPacket {
    ArpPacket { operation, sender_mac, sender_ip, target_mac: MacAddr::ZERO, target_ip }
}

/// Everything that is done up to `end`, with the time of each.
fn run(conflicts: &mut Conflicts, end: Instant) -> Vec<(Instant, Act)> {
    let mut all = Vec::new();
    while let Some(at) = conflicts.next_deadline().filter(|at| *at <= end) {
        conflicts.on_timer(at, |act| all.push((at, act)));
    }
    all
}

proptest! {
    /// §2.1.1: three probes, apart by one to two seconds, then two seconds of silence.
    #[test]
    fn an_address_that_nobody_has_is_claimed_in_time(random in any::<u32>()) {
        let mut conflicts = Conflicts::new(OURS, random);
        prop_assert!(conflicts.look_for(BEGIN, PREFIX));
        prop_assert!(!conflicts.look_for(BEGIN, PREFIX));
        let done = run(&mut conflicts, BEGIN + Duration::from_secs(60));
        let acts: Vec<Act> = done.iter().map(|(_, act)| *act).collect();
        let probe = Act::Probe(ADDR);
        prop_assert_eq!(acts, vec![probe, probe, probe, Act::Claim(PREFIX)]);
        prop_assert!(done[0].0.since(BEGIN) <= PROBE_WAIT);
        for pair in done[..3].windows(2) {
            let pause = pair[1].0.since(pair[0].0);
            prop_assert!((PROBE_MIN..=PROBE_MAX).contains(&pause), "{pause:?}");
        }
        prop_assert_eq!(done[3].0.since(done[2].0), ANNOUNCE_WAIT);
        prop_assert!(conflicts.next_deadline().is_none());
    }

    /// Whoever speaks from the address, or looks for it too, has it: at any moment before it is claimed.
    #[test]
    fn an_address_that_somebody_has_is_not_claimed(at in 0u64..4000, kind in 0u8..4) {
        let nobody = Ipv4Addr::UNSPECIFIED;
        let heard = match kind {
            0 => packet(ArpOperation::Request, THEIRS, ADDR, ADDR),
            1 => packet(ArpOperation::Reply, THEIRS, ADDR, nobody),
            2 => packet(ArpOperation::Request, THEIRS, ADDR, Ipv4Addr::new(10, 0, 0, 9)),
            _ => packet(ArpOperation::Request, THEIRS, nobody, ADDR),
        };
        let mut conflicts = Conflicts::new(OURS, 7);
        conflicts.look_for(BEGIN, PREFIX);
        let now = BEGIN + Duration::from_millis(at);
        prop_assert!(run(&mut conflicts, now).iter().all(|(_, act)| *act == Act::Probe(ADDR)));
        let mut acts = Vec::new();
        conflicts.heard(now, &heard, |_| false, |act| acts.push(act));
        conflicts.heard(now, &heard, |_| false, |act| acts.push(act));
        prop_assert_eq!(acts, vec![Act::Taken(PREFIX)]);
        prop_assert_eq!(run(&mut conflicts, now + RATE_LIMIT_INTERVAL - Duration::from_millis(1)), vec![]);
        // It is looked for again, and is free then.
        let later = run(&mut conflicts, now + 2 * RATE_LIMIT_INTERVAL);
        prop_assert_eq!(later.last().map(|(_, act)| *act), Some(Act::Claim(PREFIX)));
    }
}

#[test]
fn what_we_say_ourselves_and_what_is_of_others_is_no_conflict() {
    let mut conflicts = Conflicts::new(OURS, 7);
    conflicts.look_for(BEGIN, PREFIX);
    let other = Ipv4Addr::new(10, 0, 0, 6);
    let heard = [
        packet(ArpOperation::Request, OURS, Ipv4Addr::UNSPECIFIED, ADDR),
        packet(ArpOperation::Request, THEIRS, other, ADDR),
        packet(ArpOperation::Reply, THEIRS, other, ADDR),
        packet(ArpOperation::Request, THEIRS, Ipv4Addr::UNSPECIFIED, other),
    ];
    for packet in heard {
        conflicts.heard(BEGIN, &packet, |_| false, |act| panic!("{packet:?}: {act:?}"));
    }
    assert!(conflicts.forget(PREFIX) && !conflicts.forget(PREFIX));
    assert_eq!(run(&mut conflicts, BEGIN + RATE_LIMIT_INTERVAL), []);
}

#[test]
fn an_address_is_defended_once_in_a_while() {
    let mut conflicts = Conflicts::new(OURS, 7);
    let claim = packet(ArpOperation::Request, THEIRS, ADDR, ADDR);
    let defended = |conflicts: &mut Conflicts, after: u64| {
        let mut acts = Vec::new();
        let now = BEGIN + Duration::from_secs(after);
        conflicts.heard(now, &claim, |addr| addr == ADDR, |act| acts.push(act));
        acts
    };
    assert_eq!(defended(&mut conflicts, 0), [Act::Defend(ADDR)]);
    assert_eq!(defended(&mut conflicts, 1), []);
    assert_eq!(defended(&mut conflicts, 9), []);
    assert_eq!(defended(&mut conflicts, 10), [Act::Defend(ADDR)]);
}
