//! The packet buffer against plain byte vectors, with page counts, and the frames' way through nicd.
#![cfg(not(loom))]

use proptest::prelude::*;
use proto::nic::descriptor::{DESCRIPTOR_SIZE, Descriptor, flag};
use proto::nic::packet_buf::{Assembly, Csum, Gso, PacketBuf};
use proto::nic::pool::FramePool;
use proto::nic::slab::{LARGE_SIZE, PageIndex, SMALL_SIZE, SlabGeometry};
use proto::shm::Memory;
use proto::shm::heap::HeapMemory;
use std::rc::Rc;

type Buf = PacketBuf<Rc<HeapMemory>>;
type Pool = Rc<FramePool<Rc<HeapMemory>>>;

fn pool(small: u32, large: u32) -> Pool {
    let slab = SlabGeometry { small, large };
    Rc::new(FramePool::new(Rc::new(HeapMemory::new(slab.bytes())), slab))
}

fn bytes(buf: &Buf) -> Vec<u8> {
    let mut out = vec![0; buf.len()];
    buf.read(0, &mut out);
    out
}

/// Different bytes for each call.
struct Filler(u8);

impl Filler {
    fn take(&mut self, len: usize) -> Vec<u8> {
        let mut next = || {
            self.0 = self.0.wrapping_mul(5).wrapping_add(17);
            self.0
        };
        (0..len).map(|_| next()).collect()
    }
}

#[derive(Debug, Clone)]
enum Op {
    Alloc { len: usize, headroom: usize },
    Drop(usize),
    Clone(usize),
    Copy { which: usize, headroom: usize },
    Push { which: usize, n: usize },
    Pull { which: usize, percent: usize },
    Put { which: usize, n: usize },
    Trim { which: usize, percent: usize },
    Split { which: usize, percent: usize },
    Append { which: usize, other: usize },
    Linearise(usize),
    Write { which: usize, percent: usize, n: usize },
    CopyIn { which: usize, percent: usize, n: usize },
    CopyOut { which: usize, percent: usize, n: usize },
    Send(usize),
    Complete,
    Receive { len: usize },
    DriverDies,
}

fn op() -> impl Strategy<Value = Op> {
    let which = || 0usize..8;
    let percent = || 0usize..=100;
    let len = || prop_oneof![0usize..100, 1400usize..2100, 0usize..40_000];
    prop_oneof![
        3 => (len(), 0usize..200).prop_map(|(len, headroom)| Op::Alloc { len, headroom }),
        1 => which().prop_map(Op::Drop),
        2 => which().prop_map(Op::Clone),
        1 => (which(), 0usize..200).prop_map(|(which, headroom)| Op::Copy { which, headroom }),
        3 => (which(), 0usize..120).prop_map(|(which, n)| Op::Push { which, n }),
        2 => (which(), percent()).prop_map(|(which, percent)| Op::Pull { which, percent }),
        2 => (which(), len()).prop_map(|(which, n)| Op::Put { which, n }),
        1 => (which(), percent()).prop_map(|(which, percent)| Op::Trim { which, percent }),
        3 => (which(), percent()).prop_map(|(which, percent)| Op::Split { which, percent }),
        3 => (which(), which()).prop_map(|(which, other)| Op::Append { which, other }),
        1 => which().prop_map(Op::Linearise),
        2 => (which(), percent(), len()).prop_map(|(which, percent, n)| Op::Write { which, percent, n }),
        1 => (which(), percent(), len()).prop_map(|(which, percent, n)| Op::CopyIn { which, percent, n }),
        1 => (which(), percent(), len()).prop_map(|(which, percent, n)| Op::CopyOut { which, percent, n }),
        2 => which().prop_map(Op::Send),
        2 => Just(Op::Complete),
        2 => len().prop_map(|len| Op::Receive { len }),
        1 => Just(Op::DriverDies),
    ]
}

struct World {
    pool: Pool,
    arena: Rc<HeapMemory>,
    live: Vec<(Buf, Vec<u8>)>,
    /// Sent, with what they must hold until they are completed.
    sent: Vec<(Descriptor, Vec<u8>)>,
    filler: Filler,
}

fn range(len: usize, percent: usize, n: usize) -> (usize, usize) {
    let at = len * percent / 100;
    (at, n.min(len - at))
}

impl World {
    /// Takes a buffer out of the set, if there is any.
    fn pick(&mut self, which: usize) -> Option<(Buf, Vec<u8>)> {
        let n = self.live.len();
        (n > 0).then(|| self.live.swap_remove(which % n))
    }

    fn receive(&mut self, len: usize) {
        let mut left = len.max(1);
        let mut assembly = Assembly::new(&self.pool);
        let mut data = Vec::new();
        loop {
            let small = left <= SMALL_SIZE;
            let lent = if small { self.pool.lend_small() } else { self.pool.lend_large() };
            let Some(page) = lent else { return };
            let part = self.filler.take(left.min(if small { SMALL_SIZE } else { LARGE_SIZE }));
            self.pool.memory().write(self.pool.geometry().page_at(page), &part);
            left -= part.len();
            let mut descriptor = Descriptor::plain(page, 0, part.len() as u32);
            descriptor.flags = if left > 0 { flag::MORE } else { 0 };
            data.extend(part);
            match assembly.push(descriptor).expect("a sound descriptor") {
                Some(buf) => return self.live.push((buf, data)),
                None => assert!(left > 0),
            }
        }
    }

    fn send(&mut self, buf: Buf, data: &[u8]) {
        let mut at = 0;
        buf.into_descriptors(|d| {
            self.sent.push((d, data[at..at + d.len as usize].to_vec()));
            at += d.len as usize;
            assert_eq!(d.flags & flag::MORE != 0, at < data.len());
        });
        assert_eq!(at, data.len());
    }

    fn edit(&mut self, which: usize, edit: impl FnOnce(&mut Buf, &mut Vec<u8>, &mut Filler)) {
        if let Some((mut buf, mut data)) = self.pick(which) {
            edit(&mut buf, &mut data, &mut self.filler);
            self.live.push((buf, data));
        }
    }

    /// Applies `op`; one that found no page must have changed nothing.
    fn apply(&mut self, op: Op) {
        match op {
            Op::Alloc { len, headroom } => {
                if let Ok(mut buf) = PacketBuf::alloc(&self.pool, len, headroom) {
                    assert!(buf.len() == len && buf.headroom() >= headroom);
                    let data = self.filler.take(len);
                    buf.write(0, &data).expect("a private buffer needs no page to be written");
                    self.live.push((buf, data));
                }
            }
            Op::Receive { len } => self.receive(len),
            Op::Complete => {
                if let Some((descriptor, _)) = self.sent.pop() {
                    self.pool.completed(descriptor.page).expect("sent, not completed yet");
                }
            }
            Op::DriverDies => {
                self.sent.clear();
                self.pool.reclaim_all();
                assert_eq!(self.pool.lent(), (0, 0));
            }
            Op::Drop(which) => drop(self.pick(which)),
            Op::Send(which) => {
                if let Some((buf, data)) = self.pick(which)
                    && !buf.is_empty()
                {
                    self.send(buf, &data);
                }
            }
            Op::Append { which, other } => {
                let Some((mut buf, mut data)) = self.pick(which) else { return };
                if let Some((tail, more)) = self.pick(other)
                    && buf.append(tail).is_ok()
                {
                    data.extend(more);
                }
                self.live.push((buf, data));
            }
            Op::Clone(which) => {
                let Some(one) = self.pick(which) else { return };
                self.live.push(one.clone());
                self.live.push(one);
            }
            Op::Copy { which, headroom } => {
                let Some((buf, data)) = self.pick(which) else { return };
                if let Ok(copy) = buf.copy(headroom) {
                    assert!(copy.headroom() >= headroom);
                    self.live.push((copy, data.clone()));
                }
                self.live.push((buf, data));
            }
            Op::Split { which, percent } => {
                let Some((mut buf, mut data)) = self.pick(which) else { return };
                let at = data.len() * percent / 100;
                let (tail, more) = (buf.split_off(at), data.split_off(at));
                self.live.push((tail, more));
                self.live.push((buf, data));
            }
            Op::Push { which, n } => self.edit(which, |buf, data, filler| {
                if buf.push(n).is_ok() {
                    let head = filler.take(n);
                    buf.write(0, &head).expect("pushed bytes are private");
                    data.splice(..0, head);
                }
            }),
            Op::Pull { which, percent } => self.edit(which, |buf, data, _| {
                let n = data.len() * percent / 100;
                buf.pull(n);
                data.drain(..n);
            }),
            Op::Put { which, n } => self.edit(which, |buf, data, filler| {
                if buf.put(n).is_ok() {
                    let tail = filler.take(n);
                    buf.write(data.len(), &tail).expect("put bytes are private");
                    data.extend(tail);
                }
            }),
            Op::Trim { which, percent } => self.edit(which, |buf, data, _| {
                let len = data.len() * percent / 100;
                buf.trim(len);
                data.truncate(len);
            }),
            Op::Linearise(which) => self.edit(which, |buf, data, _| {
                if buf.linearise().is_ok() {
                    assert!(buf.pages() <= data.len().div_ceil(LARGE_SIZE).max(1));
                }
            }),
            Op::Write { which, percent, n } => self.edit(which, |buf, data, filler| {
                let (at, n) = range(data.len(), percent, n);
                let new = filler.take(n);
                if buf.write(at, &new).is_ok() {
                    data[at..at + n].copy_from_slice(&new);
                }
            }),
            Op::CopyIn { which, percent, n } => {
                let arena = self.arena.clone();
                self.edit(which, |buf, data, filler| {
                    let (at, n) = range(data.len(), percent, n);
                    let new = filler.take(n);
                    arena.write(5, &new);
                    if buf.copy_in(at, &arena, 5, n).is_ok() {
                        data[at..at + n].copy_from_slice(&new);
                    }
                });
            }
            Op::CopyOut { which, percent, n } => {
                let arena = self.arena.clone();
                self.edit(which, |buf, data, _| {
                    let (at, n) = range(data.len(), percent, n);
                    buf.copy_out(at, &arena, 9, n);
                    let mut out = vec![0; n];
                    arena.read(9, &mut out);
                    assert_eq!(out, data[at..at + n]);
                });
            }
        }
    }

    fn check(&self) {
        for (buf, data) in &self.live {
            assert_eq!(buf.len(), data.len());
            assert_eq!(&bytes(buf), data);
            let spans: usize = buf.spans(0, data.len()).map(|span| span.len).sum();
            assert_eq!(spans, data.len());
            let mut chunks = Vec::new();
            buf.for_each_chunk(0, data.len(), |chunk| chunks.extend_from_slice(chunk));
            assert_eq!(&chunks, data);
        }
        for (descriptor, data) in &self.sent {
            let mut out = vec![0; data.len()];
            let at = self.pool.geometry().page_at(descriptor.page) + usize::from(descriptor.offset);
            self.pool.memory().read(at, &mut out);
            assert_eq!(&out, data, "a page that nicd sends was written");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn as_a_byte_vector_and_nothing_leaks(ops in prop::collection::vec(op(), 1..60)) {
        let pool = pool(12, 8);
        let mut world = World {
            pool: pool.clone(),
            arena: Rc::new(HeapMemory::new(64 * 1024)),
            live: Vec::new(),
            sent: Vec::new(),
            filler: Filler(1),
        };
        for op in ops {
            world.apply(op);
            world.check();
        }
        world.live.clear();
        for (descriptor, _) in world.sent.drain(..) {
            prop_assert_eq!(pool.completed(descriptor.page), Ok(()));
        }
        // Pages lent for a frame that never became whole are still with nicd.
        pool.reclaim_all();
        prop_assert_eq!(pool.in_use(), 0);
        prop_assert_eq!((pool.free_small(), pool.free_large()), (12, 8));
        for page in 0..21 {
            prop_assert!(pool.completed(PageIndex(page)).is_err());
        }
    }

    /// Whatever descriptors nicd writes: no panic, and what is refused leaks nothing.
    #[test]
    fn descriptors_of_a_hostile_nicd(
        lend in 0usize..20,
        slots in prop::collection::vec(
            (0u32..24, 0u32..20_000, any::<u16>(), prop_oneof![0u16..64, any::<u16>()], any::<u16>(), any::<u16>()),
            1..40),
    ) {
        let pool = pool(12, 8);
        for i in 0..lend {
            let _ = if i % 2 == 0 { pool.lend_small() } else { pool.lend_large() };
        }
        let mut assembly = Assembly::new(&pool);
        for (page, len, offset, flags, csum_start, gso_size) in slots {
            let raw = Descriptor { page: PageIndex(page), len, offset, flags, csum_start, gso_size };
            let slot: [u8; DESCRIPTOR_SIZE] = raw.to_slot();
            let Ok(descriptor) = Descriptor::from_slot(&slot, pool.geometry()) else { continue };
            match assembly.push(descriptor) {
                Ok(Some(frame)) => {
                    prop_assert_eq!(bytes(&frame).len(), frame.len());
                    frame.into_descriptors(|d| pool.completed(d.page).expect("just sent"));
                }
                Ok(None) => {}
                Err(_) => assembly = Assembly::new(&pool),
            }
            let _ = pool.completed(PageIndex(page));
        }
        drop(assembly);
        pool.reclaim_all();
        prop_assert_eq!(pool.in_use(), 0);
    }
}

#[test]
fn headers_go_into_the_headroom_and_payload_is_copied_once() {
    let pool = pool(4, 4);
    let arena = Rc::new(HeapMemory::new(4096));
    arena.write(100, b"payload");
    let mut frame = PacketBuf::alloc(&pool, 7, 100).expect("a page");
    frame.copy_in(0, &arena, 100, 7).expect("private");
    frame.marks.csum = Csum::Partial { start: 0, udp: false };
    for header in [20, 20, 14] {
        frame.push(header).expect("headroom");
        frame.write(0, &vec![header as u8; header]).expect("private");
    }
    assert_eq!((frame.pages(), frame.headroom(), pool.in_use()), (1, 46, 1));
    frame.marks.gso = Some(Gso { size: 1460, v6: false });
    assert_eq!(frame.marks.csum, Csum::Partial { start: 54, udp: false });
    frame.pull(14);
    assert_eq!(frame.marks.csum, Csum::Partial { start: 40, udp: false });
    frame.pull(40);
    frame.copy_out(0, &arena, 200, 7);
    let counters = pool.counters();
    assert_eq!((counters.copied_in, counters.copied_out, counters.copied_within), (7, 7, 0));
}

#[test]
fn marks_travel_through_descriptors() {
    let pool = pool(4, 4);
    let page = pool.lend_small().expect("a page");
    let sent = Descriptor {
        page,
        len: 100,
        offset: 10,
        flags: flag::CSUM_PARTIAL | flag::UDP | flag::GSO_TCP6,
        csum_start: 34,
        gso_size: 1400,
    };
    let frame = Assembly::new(&pool).push(sent).expect("sound").expect("whole");
    assert_eq!(frame.marks.csum, Csum::Partial { start: 34, udp: true });
    assert_eq!(frame.headroom(), 10);
    let mut out = Vec::new();
    frame.into_descriptors(|d| out.push(d));
    assert_eq!(out, [sent]);
    assert_eq!(pool.lent(), (0, 1));
}

#[test]
fn a_shared_page_is_not_written() {
    let pool = pool(4, 0);
    let mut one = PacketBuf::alloc(&pool, 4, 50).expect("a page");
    one.write(0, b"same").expect("private");
    let mut two = one.clone();
    assert_eq!((one.headroom(), one.tailroom(), pool.in_use()), (0, 0, 1));
    two.push(2).expect("a page in front");
    two.write(0, b"**").expect("private");
    two.write(2, b"else").expect("a private copy");
    assert_eq!((bytes(&one), bytes(&two)), (b"same".to_vec(), b"**else".to_vec()));
    drop(one);
    assert_eq!(pool.in_use(), 2);
}

#[test]
fn an_empty_slab_says_so_and_counts() {
    let pool = pool(1, 1);
    let large = PacketBuf::alloc(&pool, 18_000, 0).expect("both pages");
    assert_eq!((large.pages(), pool.in_use()), (2, 2));
    assert!(PacketBuf::alloc(&pool, 1, 0).is_err());
    assert!(large.copy(0).is_err());
    assert_eq!(pool.counters().alloc_failures, 2);
    drop(large);
    assert!(PacketBuf::alloc(&pool, LARGE_SIZE + SMALL_SIZE + 1, 0).is_err());
    assert_eq!(pool.in_use(), 0);
}
