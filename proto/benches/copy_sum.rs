//! A copy, a copy that sums, and a copy with a second pass, for the sizes of a segment, of a page and of
//! a super-frame. From a page on the portable path must stay within three times the copy (2.3 measured); a
//! segment's copy stays in the level-1 cache and is faster still (3.4).

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use proto::shm::copy_sum;
use std::hint::black_box;

fn paths(c: &mut Criterion) {
    for len in [64, 1_448, 16_384, 65_160] {
        let from: Vec<u8> = (0..len).map(|n| (n * 7) as u8).collect();
        let mut to = vec![0; len];
        let mut group = c.benchmark_group(format!("{len} bytes"));
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function("copy", |b| {
            b.iter(|| black_box(&mut to[..]).copy_from_slice(black_box(&from)));
        });
        group.bench_function("copy and sum", |b| {
            b.iter(|| copy_sum::copy(black_box(&from), black_box(&mut to)));
        });
        group.bench_function("copy and sum, portable", |b| {
            b.iter(|| copy_sum::copy_portably(black_box(&from), black_box(&mut to)));
        });
        group.bench_function("copy, then sum", |b| {
            b.iter(|| {
                black_box(&mut to[..]).copy_from_slice(black_box(&from));
                copy_sum::sum(black_box(&to))
            });
        });
        group.finish();
    }
}

criterion_group!(benches, paths);
criterion_main!(benches);
