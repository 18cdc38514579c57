//! The shipped drivers on the models of their chips: frames both ways, what a chip does for the stack, deaths
//! of netd, and chips that misbehave.

mod checks_on;
mod chip;
#[path = "memory/heap.rs"]
mod memory;
#[allow(dead_code, reason = "shared by tests that use different parts of it")]
mod netd_side;

use checks_on::checks_on;
use chip::kinds::{OnE1000e, OnIgb, OnVirtio};
use chip::{Chip, GEOMETRY, LENT, OURS, THEIRS, World, frame, marks, packet, transport_at, wishes};
use core::time::Duration;
use memory::memory;
use nicd::counts::Count;
use nicd::driver::hardware::RINGS_SIZE;
use nicd::model::machine::Model;
use nicd::model::virtio::VirtioModel;
use nicd::nic::Slab;
use proptest::prelude::*;
use proto::control::notices::FilterNotice;
use proto::nic::packet_buf::{Csum, Marks};
use proto::shm::Memory;
use std::io;

// Every test on every chip.
checks_on! {
    { e1000e = OnE1000e, igb = OnIgb, virtio = OnVirtio }
    frames_of_all_sizes_go_both_ways
    frames_in_several_pages
    checksums_are_filled_in
    checksums_are_verified
    super_frames_are_cut
    only_wanted_frames_come_up
    one_doorbell_for_many_frames
    a_cable_that_comes_and_goes
    a_dead_netds_pages_are_left_alone
    a_chip_that_cannot_be_stopped_ends_nicd
    a_reset_that_never_ends
    a_chip_that_is_gone
    lengths_that_lie
    interrupts_that_are_lost
    interrupts_for_nothing
    a_chip_slower_than_its_doorbell
    any_order_of_events
    any_words_in_the_rings
}

mod checks {
    use super::*;

    fn plain() -> Marks {
        Marks::default()
    }

    /// No page was lost, and the chip never reached where it may not.
    fn at_rest<C: Chip>(world: &World<C>) {
        assert_eq!(world.netd.sending(), 0, "every page that was sent came back");
        assert_eq!(world.netd.lent(), LENT + 4, "every page that was filled was replaced");
        assert_eq!(world.model.machine().violations.get(), 0, "{}: only its own memory", C::NAME);
    }

    pub fn frames_of_all_sizes_go_both_ways<C: Chip>() {
        let mut world = World::<C>::new(1500);
        for (n, len) in [60, 61, 64, 128, 1000, 1513, 1514].into_iter().enumerate() {
            let (out, inward) = (frame(THEIRS, OURS, len, n as u64), frame(OURS, THEIRS, len, n as u64));
            world.send(&out, plain());
            world.model.arrive(inward.clone());
            world.run();
            assert_eq!(world.model.sent(), [out]);
            assert_eq!(world.received(), [inward]);
        }
        // Many times around the rings.
        for n in 0..2000 {
            let (out, inward) = (frame(THEIRS, OURS, 200, n), frame(OURS, THEIRS, 300, n));
            world.send(&out, plain());
            world.model.arrive(inward.clone());
            world.run();
            assert_eq!((world.model.sent(), world.received()), (vec![out], vec![inward]), "frame {n}");
        }
        // A frame that is too short for a wire is padded.
        world.send(&frame(THEIRS, OURS, 30, 1), plain());
        assert_eq!(world.model.sent()[0].len(), 60);
        world.pass(Duration::from_secs(1));
        at_rest(&world);
    }

    pub fn frames_in_several_pages<C: Chip>() {
        let mut world = World::<C>::new(9000);
        for len in [1515, 2048, 2049, 4096, 4097, 9014] {
            let (out, inward) = (frame(THEIRS, OURS, len, 7), frame(OURS, THEIRS, len, 8));
            world.send(&out, plain());
            world.model.arrive(inward.clone());
            world.run();
            assert!(world.model.sent() == [out] && world.received() == [inward], "{len} bytes");
        }
        // Longer than the MTU: not for us.
        world.model.arrive(frame(OURS, THEIRS, 9100, 9));
        world.run();
        assert!(world.received().is_empty());
        world.pass(Duration::from_secs(1));
        at_rest(&world);
    }

    pub fn checksums_are_filled_in<C: Chip>() {
        let mut world = World::<C>::new(1500);
        for (v6, udp, len) in [(false, false, 100), (false, true, 101), (true, false, 1), (true, true, 1000)]
        {
            let payload = vec![0x5a; len];
            world.send(&packet(v6, udp, &payload, false), marks(v6, udp, None));
            world.send(&packet(v6, udp, &payload, true), plain());
            let mut expected = packet(v6, udp, &payload, true);
            expected.resize(expected.len().max(60), 0);
            assert_eq!(world.model.sent(), [expected.clone(), expected], "v6 {v6}, udp {udp}");
        }
        world.pass(Duration::from_secs(1));
        at_rest(&world);
    }

    pub fn checksums_are_verified<C: Chip>() {
        let mut world = World::<C>::new(1500);
        for (v6, udp) in [(false, false), (false, true), (true, false), (true, true)] {
            let mut good = packet(v6, udp, &[1; 99], true);
            good[..6].copy_from_slice(&OURS);
            let mut bad = good.clone();
            bad[transport_at(v6) + 25] ^= 4;
            for (bytes, expected) in [(good, Csum::Valid), (bad, Csum::Unknown)] {
                world.model.arrive(bytes.clone());
                world.run();
                let got = core::mem::take(&mut world.got);
                assert!(got[0].0 == bytes && got[0].1.csum == expected, "v6 {v6}, udp {udp}: {:?}", got[0].1);
            }
        }
        // No TCP, no UDP: it says nothing.
        world.model.arrive(frame(OURS, THEIRS, 100, 1));
        world.run();
        assert_eq!(world.got[0].1.csum, Csum::Unknown);
    }

    pub fn super_frames_are_cut<C: Chip>() {
        let mut world = World::<C>::new(1500);
        for (v6, len) in [(false, 60_000), (true, 60_000), (false, 1461), (true, 2 * 1400), (false, 4000)] {
            let payload: Vec<u8> = (0..len).map(|n: usize| (n / 3) as u8).collect();
            let mut template = packet(v6, false, &payload, false);
            // The header of a packet as long as that is not the one of its segments; its sum is ours to
            // leave wrong.
            template[12..14].copy_from_slice(if v6 { &[0x86, 0xdd] } else { &[8, 0] });
            world.send(&template, marks(v6, false, Some(1400)));
            let sent = world.model.sent();
            assert_eq!(sent.len(), len.div_ceil(1400), "v6 {v6}, {len} bytes");
            let at = transport_at(v6) + 20;
            let mut joined = Vec::new();
            for (n, segment) in sent.iter().enumerate() {
                let body = (len - n * 1400).min(1400);
                let segment = &segment[..at + body];
                assert_eq!(
                    nicd::model::frames::is_right(segment),
                    Some(true),
                    "segment {n} of {len}, v6 {v6}"
                );
                if !v6 {
                    assert_eq!(chip::sum(&segment[14..34]), 0xffff, "the IP header's own");
                    assert_eq!(usize::from(segment[16]) << 8 | usize::from(segment[17]), segment.len() - 14);
                }
                let start = transport_at(v6);
                let number = u32::from_be_bytes(segment[start + 4..start + 8].try_into().expect("four"));
                assert_eq!(number, 1000 + n as u32 * 1400);
                let last = n + 1 == sent.len();
                assert_eq!(
                    segment[start + 13],
                    if last { 0x19 } else { 0x10 },
                    "FIN and PSH on the last one"
                );
                joined.extend_from_slice(&segment[at..]);
            }
            assert!(joined == payload);
        }
        world.pass(Duration::from_secs(1));
        at_rest(&world);
    }

    pub fn only_wanted_frames_come_up<C: Chip>() {
        let mut world = World::<C>::new(1500);
        let (group, other) = ([0x33, 0x33, 0, 0, 0, 0x11], [0x33, 0x33, 0, 0, 0x40, 0x12]);
        let wanted = |multicast: Vec<[u8; 6]>, all: bool, promiscuous: bool| FilterNotice {
            promiscuous,
            all_multicast: all,
            ipv4_groups: false,
            multicast,
        };
        let cases = [
            (wanted(vec![], false, false), [true, true, false, false, false]),
            (wanted(vec![group], false, false), [true, true, false, true, false]),
            (wanted(vec![], true, false), [true, true, false, true, true]),
            (wanted(vec![], false, true), [true, true, true, true, true]),
            (wanted(vec![group], false, false), [true, true, false, true, false]),
        ];
        for (n, (filter, expected)) in cases.into_iter().enumerate() {
            world.nicd.set_filter(filter);
            for (to, passes) in [OURS, [0xff; 6], [2, 0, 0, 0, 0, 7], group, other].into_iter().zip(expected)
            {
                world.model.arrive(frame(to, THEIRS, 100, 1));
                world.run();
                assert_eq!(world.received().len(), usize::from(passes), "case {n}, to {to:02x?}");
            }
        }
        world.pass(Duration::from_secs(1));
        at_rest(&world);
    }

    pub fn one_doorbell_for_many_frames<C: Chip>() {
        let mut world = World::<C>::new(1500);
        let before = world.model.doorbells();
        let (mut frames, mut n) = (0, 0);
        for _ in 0..100 {
            for _ in 0..32 {
                n += 1;
                assert!(world.push(&frame(THEIRS, OURS, 100, n), plain()));
                world.model.arrive(frame(OURS, THEIRS, 100, n));
            }
            world.run();
            frames += 32;
            assert_eq!((world.model.sent().len(), world.received().len()), (32, 32));
        }
        let [sent, posted] = world.model.doorbells();
        let rang = [sent - before[0], posted - before[1]];
        assert!(
            rang.iter().all(|rang| rang * 16 <= frames),
            "{rang:?} doorbells for {frames} frames each way"
        );
    }

    pub fn a_cable_that_comes_and_goes<C: Chip>() {
        let mut world = World::<C>::new(1500);
        assert!(nicd::nic::Nic::capabilities(world.nicd.nic()).carrier, "a link to begin with");
        for n in 0..3 {
            world.model.plug(false);
            world.run();
            assert!(!nicd::nic::Nic::capabilities(world.nicd.nic()).carrier);
            assert!(world.push(&frame(THEIRS, OURS, 100, n), plain()));
            world.run();
            assert!(world.model.sent().is_empty());
            world.model.plug(true);
            world.run();
            world.settle_link();
            assert!(nicd::nic::Nic::capabilities(world.nicd.nic()).carrier);
            assert_eq!(world.model.sent().len(), 1, "it has waited in the chip");
            world.model.arrive(frame(OURS, THEIRS, 100, n));
            world.run();
            assert_eq!(world.received().len(), 1);
        }
        assert_eq!((world.count(Count::CarrierDown), world.count(Count::CarrierUp) >= 3), (3, true));
        world.pass(Duration::from_secs(1));
        at_rest(&world);
    }

    pub fn a_dead_netds_pages_are_left_alone<C: Chip>() {
        let mut world = World::<C>::new(1500);
        for round in 0..20 {
            // Frames under way in both directions.
            world.model.machine().faults.borrow_mut().slow = true;
            for n in 0..10 {
                assert!(world.push(&frame(THEIRS, OURS, 500, n), plain()));
                world.model.arrive(frame(OURS, THEIRS, 500, n));
            }
            world.run();
            if round % 2 == 0 {
                world.model.machine().faults.borrow_mut().slow = false;
            }
            world.new_netd().expect("the chip stops");
            // A successor uses every page as it likes; nothing that the chip still had to do reaches it.
            let mark = vec![0xee; GEOMETRY.bytes()];
            world.slab.write(0, &mark);
            world.model.step();
            let mut seen = vec![0; GEOMETRY.bytes()];
            world.slab.read(0, &mut seen);
            assert!(seen == mark, "round {round}: a page was written to after its netd was gone");
            world.model.machine().faults.borrow_mut().slow = false;
            world.model.sent();
            let _ = world.netd.lend(LENT, 4).expect("nicd is honest");
            world.run();
            world.settle_link();
            world.received();
            let (out, inward) = (frame(THEIRS, OURS, 600, round), frame(OURS, THEIRS, 700, round));
            world.send(&out, plain());
            world.model.arrive(inward.clone());
            world.run();
            assert_eq!(world.model.sent(), [out], "round {round}");
            assert_eq!(world.received(), [inward], "round {round}");
            world.pass(Duration::from_secs(1));
            at_rest(&world);
        }
        assert!(world.count(Count::DeviceStops) >= 20);
    }

    pub fn a_chip_that_cannot_be_stopped_ends_nicd<C: Chip>() {
        let mut world = World::<C>::new(1500);
        world.model.machine().faults.borrow_mut().restless = true;
        assert!(world.new_netd().is_err(), "no page is given back");
    }

    pub fn a_reset_that_never_ends<C: Chip>() {
        let stuck = World::<C>::over(|model| model.machine().faults.borrow_mut().stuck_reset = true, 1500);
        let error = stuck.err().expect("no driver");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
    }

    pub fn a_chip_that_is_gone<C: Chip>() {
        let gone = |model: &C::Model| model.machine().faults.borrow_mut().gone = true;
        assert!(World::<C>::over(gone, 1500).is_err(), "from the beginning");
        let mut world = World::<C>::new(1500);
        gone(&world.model);
        assert!(world.push(&frame(THEIRS, OURS, 100, 1), plain()));
        let mut lost = world.try_run().err();
        for _ in 0..3 {
            let later = world.now + Duration::from_secs(1);
            lost = lost.or_else(|| world.nicd.deadline().and_then(|_| world.nicd.device_ready(later).err()));
        }
        assert!(lost.is_some(), "noticed at the next look");
    }

    pub fn lengths_that_lie<C: Chip>() {
        let mut world = World::<C>::new(1500);
        for length in [0, 2049, 4096, 16_384, 65_535] {
            let before = world.count(Count::RxError);
            world.model.machine().faults.borrow_mut().length = Some(length);
            world.model.arrive(frame(OURS, THEIRS, 100, 1));
            world.run();
            assert!(world.received().is_empty(), "{length} bytes in a page");
            assert_eq!(world.count(Count::RxError), before + 1, "{length}");
            world.model.machine().faults.borrow_mut().length = None;
            world.model.arrive(frame(OURS, THEIRS, 100, 2));
            world.run();
            assert_eq!(world.received().len(), 1);
        }
        world.pass(Duration::from_secs(1));
        at_rest(&world);
    }

    pub fn interrupts_that_are_lost<C: Chip>() {
        let mut world = World::<C>::new(1500);
        world.send(&frame(THEIRS, OURS, 100, 1), plain());
        world.model.machine().faults.borrow_mut().silent = true;
        world.model.arrive(frame(OURS, THEIRS, 100, 1));
        world.run();
        assert!(world.received().is_empty(), "nobody said so");
        world.pass(Duration::from_millis(200));
        assert_eq!(world.received().len(), 1, "found by the look that follows activity");
        world.model.machine().faults.borrow_mut().silent = false;
        world.pass(Duration::from_secs(1));
        world.model.arrive(frame(OURS, THEIRS, 100, 2));
        world.run();
        assert_eq!(world.received().len(), 1, "interrupts are armed again");
        world.pass(Duration::from_secs(1));
        assert_eq!(world.nicd.deadline(), None, "and then there is rest");
    }

    pub fn interrupts_for_nothing<C: Chip>() {
        let mut world = World::<C>::new(1500);
        for n in 0..50 {
            world.model.machine().interrupt();
            world.run();
            world.model.arrive(frame(OURS, THEIRS, 100, n));
            world.model.machine().interrupt();
            world.run();
            assert_eq!(world.received().len(), 1);
        }
        world.pass(Duration::from_secs(1));
        at_rest(&world);
    }

    pub fn a_chip_slower_than_its_doorbell<C: Chip>() {
        let mut world = World::<C>::new(1500);
        world.model.machine().faults.borrow_mut().slow = true;
        let frames: Vec<Vec<u8>> = (0..400).map(|n| frame(THEIRS, OURS, 100, n)).collect();
        let (mut next, mut sent) = (0, Vec::new());
        while sent.len() < frames.len() {
            while next < frames.len() && world.push(&frames[next], plain()) {
                next += 1;
            }
            world.run();
            assert!(world.netd.sending() > 0, "its pages are with the chip");
            world.model.step();
            world.run();
            sent.extend(world.model.sent());
        }
        assert!(sent == frames, "in order, none lost");
        world.model.machine().faults.borrow_mut().slow = false;
        world.pass(Duration::from_secs(1));
        at_rest(&world);
    }

    #[derive(Debug, Clone)]
    enum Event {
        Arrive(usize, usize),
        Send(usize, usize),
        Plug(bool),
        Spurious,
        Slow(bool),
        Step,
        NewNetd,
        Pass,
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            6 => (1..40usize, 60..2000usize).prop_map(|(n, len)| Event::Arrive(n, len)),
            6 => (1..40usize, 14..2000usize).prop_map(|(n, len)| Event::Send(n, len)),
            1 => any::<bool>().prop_map(Event::Plug),
            1 => Just(Event::Spurious),
            1 => any::<bool>().prop_map(Event::Slow),
            2 => Just(Event::Step),
            1 => Just(Event::NewNetd),
            2 => Just(Event::Pass),
        ]
    }

    pub fn any_order_of_events<C: Chip>() {
        let config = ProptestConfig::with_cases(64);
        proptest!(config, |(events in proptest::collection::vec(event(), 1..60))| {
            let mut world = World::<C>::new(2000);
            let mut n = 0;
            for event in events {
                match event {
                    Event::Arrive(count, len) => (0..count).for_each(|_| {
                        n += 1;
                        world.model.arrive(frame(OURS, THEIRS, len, n));
                    }),
                    Event::Send(count, len) => (0..count).for_each(|_| {
                        n += 1;
                        world.push(&frame(THEIRS, OURS, len, n), plain());
                    }),
                    Event::Plug(cable) => world.model.plug(cable),
                    Event::Spurious => world.model.machine().interrupt(),
                    Event::Slow(slow) => world.model.machine().faults.borrow_mut().slow = slow,
                    Event::Step => world.model.step(),
                    Event::NewNetd => {
                        world.new_netd().expect("the chip stops");
                        let _ = world.netd.lend(LENT, 4).expect("nicd is honest");
                    }
                    Event::Pass => world.pass(Duration::from_millis(500)),
                }
                world.run();
            }
            // Every frame is one that was sent, whole and in order.
            let order = |frames: &[Vec<u8>]| -> Vec<u64> {
                frames.iter().map(|f| u64::from_le_bytes(f[14..22].try_into().expect("eight"))).collect()
            };
            let (up, down) = (order(&world.received()), order(&world.model.sent()));
            prop_assert!(up.is_sorted() && down.is_sorted());
            world.model.machine().faults.borrow_mut().slow = false;
            world.model.plug(true);
            world.run();
            world.settle_link();
            world.model.step();
            world.run();
            world.pass(Duration::from_secs(1));
            at_rest(&world);
            world.received();
            world.model.sent();
            world.model.arrive(frame(OURS, THEIRS, 100, n + 1));
            world.send(&frame(THEIRS, OURS, 100, n + 2), plain());
            prop_assert_eq!((world.received().len(), world.model.sent().len()), (1, 1));
        });
    }

    /// A chip that writes what it likes into its rings.
    pub fn any_words_in_the_rings<C: Chip>() {
        let config = ProptestConfig::with_cases(128);
        let words = proptest::collection::vec((0..0x3000usize / 8, any::<u64>()), 1..200);
        proptest!(config, |(words in words)| {
            let mut world = World::<C>::new(1500);
            for (n, (at, word)) in words.into_iter().enumerate() {
                let mut bytes = word.to_le_bytes();
                world.model.machine().master.set(true);
                world.model.machine().write(nicd::driver::hardware::RINGS_IOVA + at as u64 * 8, &bytes);
                bytes.reverse();
                let _ = world.push(&frame(THEIRS, OURS, 100, n as u64), plain());
                world.model.machine().interrupt();
                // It may end the device, never panic; netd sees only what is in its rules.
                if world.try_run().is_err() {
                    break;
                }
            }
        });
    }
}

/// Without the features that a modern device need not have, and not without those that it must have.
#[test]
fn virtio_with_fewer_features() {
    let slab = Slab { shard: 0, memory: memory(GEOMETRY.bytes()), geometry: GEOMETRY };
    let over = |without: u64| {
        let model = VirtioModel::lacking(without, memory(RINGS_SIZE), std::slice::from_ref(&slab));
        OnVirtio::driver(&model, &wishes(1500, 1)).map(|nic| nicd::nic::Nic::capabilities(&nic))
    };
    let (all, plain) =
        (over(0).expect("a device"), over(1 | 2 | 1 << 15 | 1 << 16 | 1 << 29).expect("a device"));
    assert!(all.carrier && all.features != 0);
    assert!(plain.carrier && plain.features == 0, "no status: there is always a link");
    // A device that cuts must fill in: VIRTIO 1.2 §5.1.3.1.
    assert_eq!(over(1).expect("a device").features, proto::control::notices::feature::RX_CHECKSUM);
    for (bit, word) in [(1u64 << 32, "legacy"), (1 << 33, "IOMMU")] {
        let error = over(bit).expect_err("refused").to_string();
        assert!(error.contains(word), "{error}");
    }
}

/// The more an interrupt has to tell of, the later the next one comes; lone frames are told of at once.
#[test]
fn interrupts_are_as_rare_as_frames_allow() {
    fn throttled<C: Chip>(throttle: impl Fn(&C::Model) -> u32) -> [u32; 3] {
        let mut world = World::<C>::new(1500);
        let mut after = |frames: u64| {
            for _ in 0..4 {
                world.model.machine().faults.borrow_mut().slow = true;
                (0..frames).for_each(|n| world.model.arrive(frame(OURS, THEIRS, 100, n)));
                world.model.step();
                world.model.machine().faults.borrow_mut().slow = false;
                world.run();
                assert_eq!(world.received().len() as u64, frames, "{}", C::NAME);
            }
            throttle(&world.model)
        };
        let seen = [after(1), after(40), after(1)];
        assert!(world.count(Count::Throttles) >= 4 && world.count(Count::ReceiveInterrupts) >= 12);
        seen
    }
    // ITR, in 256 ns; EITR, bits 14 to 2, in microseconds: 250 µs.
    assert_eq!(throttled::<OnE1000e>(|model| model.register(0xe8)), [0, 977, 0]);
    assert_eq!(throttled::<OnIgb>(|model| model.register(0x1680) >> 2), [0, 250, 0]);
}
