use super::*;
use core::net::{Ipv4Addr, Ipv6Addr};
use proptest::prelude::*;
use proto::nic::pool::FramePool;
use proto::nic::slab::SlabGeometry;
use proto::shm::heap::HeapMemory;
use std::rc::Rc;

type Memory = Rc<HeapMemory>;

fn pool() -> Rc<FramePool<Memory>> {
    let slab = SlabGeometry { small: 1024, large: 32 };
    Rc::new(FramePool::new(Rc::new(HeapMemory::new(slab.bytes())), slab))
}

fn key(source: u32, ident: u32) -> Key {
    let src = Ipv6Addr::from_bits(source.into());
    Key {
        pair: AddressPair::V6 { src, dst: Ipv6Addr::LOCALHOST },
        protocol: IpProtocol(0),
        ident,
        interface: 0,
    }
}

struct Room {
    pool: Rc<FramePool<Memory>>,
    room: Reassembly<Memory>,
    counters: Counters,
}

const START: Instant = Instant::from_nanos(1_000);

impl Room {
    fn new() -> Room {
        Room { pool: pool(), room: Reassembly::default(), counters: Counters::default() }
    }

    fn put(
        &mut self,
        key: Key,
        offset: u32,
        bytes: &[u8],
        more: bool,
    ) -> Result<Option<Vec<u8>>, DropReason> {
        let mut payload = PacketBuf::alloc(&self.pool, bytes.len(), 64).expect("pages enough");
        payload.write(0, bytes).expect("allocated");
        let head = (offset == 0).then(|| Head { wire: vec![1; 48], whole: vec![2; 40] });
        let part = Fragment { offset, more };
        let whole = self.room.take(START, key, part, head, payload, &mut self.counters)?;
        Ok(whole.map(|whole| {
            assert_eq!(whole.head, vec![2; 40]);
            let mut bytes = vec![0; whole.payload.len()];
            whole.payload.read(0, &mut bytes);
            bytes
        }))
    }
}

#[test]
fn in_any_order_once() {
    let mut room = Room::new();
    let bytes: Vec<u8> = (0..=255).cycle().take(3000).collect();
    assert_eq!(room.put(key(1, 7), 1600, &bytes[1600..], false), Ok(None));
    assert_eq!(room.put(key(1, 7), 0, &bytes[..800], true), Ok(None));
    assert_eq!(room.put(key(1, 7), 0, &bytes[..800], true), Err(DropReason::DupFrag));
    assert_eq!(room.put(key(2, 7), 800, &bytes[800..1600], true), Ok(None), "somebody else's");
    assert_eq!(room.put(key(1, 7), 800, &bytes[800..1600], true), Ok(Some(bytes)));
    assert_eq!((room.room.packets.len(), room.room.pages), (1, 1));
}

#[test]
fn overlaps_end_the_packet_and_what_follows() {
    for (offset, len, more) in [(8, 16, true), (0, 8, true), (16, 16, true), (24, 8, false), (0, 80, false)] {
        let mut room = Room::new();
        assert_eq!(room.put(key(1, 7), 8, &[1; 24], true), Ok(None));
        let outcome = room.put(key(1, 7), offset, &vec![2; len], more);
        let touches = offset == 0 && len == 8;
        assert_eq!(outcome, if touches { Ok(None) } else { Err(DropReason::FragOverlap) }, "{offset} {len}");
        if !touches {
            assert_eq!(room.counters.dropped(DropReason::FragOverlap), 1, "what was kept");
            assert_eq!(room.put(key(1, 7), 400, &[3; 8], true), Err(DropReason::FragOverlap));
            assert_eq!(room.room.pages, 0);
        }
    }
}

#[test]
fn ends_that_contradict_each_other() {
    let mut room = Room::new();
    assert_eq!(room.put(key(1, 7), 80, &[1; 8], false), Ok(None));
    assert_eq!(room.put(key(1, 7), 160, &[1; 8], true), Err(DropReason::FragOverlap), "behind the end");
    assert_eq!(room.put(key(1, 8), 160, &[1; 8], true), Ok(None));
    assert_eq!(room.put(key(1, 8), 80, &[1; 8], false), Err(DropReason::FragOverlap), "an end before");
    assert_eq!(room.put(key(1, 9), 65528, &[1; 8], false), Err(DropReason::FragInvalid), "ping of death");
}

#[test]
fn time_and_room_are_bounded() {
    let mut room = Room::new();
    for ident in 0..100 {
        assert_eq!(room.put(key(1, ident), 0, &[1; 8], true), Ok(None));
    }
    assert_eq!(room.room.packets.len(), PACKETS_PER_SOURCE_MAX);
    for source in 2..200 {
        assert_eq!(room.put(key(source, 1), 0, &[1; 8], true), Ok(None));
    }
    assert_eq!(room.room.packets.len(), PACKETS_MAX);
    assert_eq!(room.counters.dropped(DropReason::FragLimit), 298 - PACKETS_MAX as u64);
    let due = room.room.next_deadline().expect("some wait");
    assert_eq!(due, START + LIFETIME_V6);
    let mut told = 0;
    while let Some(expired) = room.room.expire(due, &mut room.counters) {
        let expired = expired.expect("the first fragment is here");
        assert_eq!(expired.first.len(), 48 + 8);
        told += 1;
    }
    assert_eq!((told, room.room.pages, room.room.next_deadline()), (PACKETS_MAX, 0, None));
    assert_eq!(room.counters.dropped_in_all(), 298);
    assert_eq!(room.pool.in_use(), 0);
}

#[test]
fn ipv4_waits_less_long() {
    let mut room = Room::new();
    let pair = AddressPair::V4 { src: Ipv4Addr::LOCALHOST, dst: Ipv4Addr::LOCALHOST };
    let key = Key { pair, protocol: IpProtocol::UDP, ..key(0, 1) };
    assert_eq!(room.put(key, 8, &[1; 8], true), Ok(None));
    assert_eq!(room.room.next_deadline(), Some(START + LIFETIME_V4));
    let later = START + LIFETIME_V4;
    assert!(matches!(room.room.expire(later, &mut room.counters), Some(None)), "no first fragment, no error");
}

proptest! {
    /// Whatever comes in: pages are accounted for, and each fragment is counted once or kept or part of a
    /// packet that was handed out.
    #[test]
    fn nothing_is_lost_uncounted(
        steps in prop::collection::vec((0u32..4, 0u32..3, 0u32..12, 1usize..5, any::<bool>()), 0..300)
    ) {
        let mut room = Room::new();
        let (mut given, mut handed) = (0, 0);
        for (source, ident, place, len, more) in steps {
            given += 1;
            let before = room.room.packets.iter().find(|packet| packet.key == key(source, ident)).map_or(0, |p| p.parts.len());
            match room.put(key(source, ident), place * 8, &vec![7; len * 8], more) {
                Ok(None) => {}
                Ok(Some(_)) => handed += before as u64 + 1,
                Err(reason) => room.counters.drop(reason),
            }
            let held: usize = room.room.packets.iter().flat_map(|p| &p.parts).map(|part| part.payload.pages()).sum();
            prop_assert_eq!(held, room.room.pages);
            prop_assert_eq!(room.pool.in_use(), held);
        }
        let kept: usize = room.room.packets.iter().map(|packet| packet.parts.len()).sum();
        prop_assert_eq!(room.counters.dropped_in_all() + handed + kept as u64, given);
    }
}
