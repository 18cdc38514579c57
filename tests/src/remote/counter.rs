//! A stream in which every byte follows from the stream's seed and the byte's position, so that a byte
//! lost, doubled, reordered or taken from another stream shows at once.

/// Eight bytes of the stream: a mixing function of seed and position (SplitMix64's finaliser).
fn word(seed: u64, index: u64) -> u64 {
    let mut z = seed ^ index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// Bytes before the first whole word behind `offset`, at most `len`.
fn broken(offset: u64, len: usize) -> usize {
    ((8 - offset % 8) % 8).min(len as u64) as usize
}

/// Fills `out` with the bytes of stream `seed` from `offset` on.
pub fn fill(seed: u64, offset: u64, out: &mut [u8]) {
    let (first, whole) = out.split_at_mut(broken(offset, out.len()));
    let word_of = |at: u64| word(seed, at / 8).to_le_bytes();
    let from = (offset % 8) as usize;
    first.copy_from_slice(&word_of(offset)[from..][..first.len()]);
    let index = offset.div_ceil(8);
    for (n, out) in whole.chunks_mut(8).enumerate() {
        let word = word(seed, index + n as u64).to_le_bytes();
        match <&mut [u8; 8]>::try_from(&mut *out) {
            Ok(out) => *out = word,
            Err(_) => out.copy_from_slice(&word[..out.len()]),
        }
    }
}

/// Number of bytes in `got` that are not what stream `seed` has from `offset` on.
pub fn wrong(seed: u64, offset: u64, got: &[u8]) -> u64 {
    let differ = |got: &[u8], word: &[u8]| got.iter().zip(word).filter(|(a, b)| a != b).count() as u64;
    let (first, whole) = got.split_at(broken(offset, got.len()));
    let from = (offset % 8) as usize;
    let mut wrong = differ(first, &word(seed, offset / 8).to_le_bytes()[from..]);
    let index = offset.div_ceil(8);
    for (n, got) in whole.chunks(8).enumerate() {
        let word = word(seed, index + n as u64);
        // A load program takes what it costs to verify from those that it loads: whole words at once.
        if !<[u8; 8]>::try_from(got).is_ok_and(|got| u64::from_le_bytes(got) == word) {
            wrong += differ(got, &word.to_le_bytes());
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_cut_of_a_stream_is_the_same_stream() {
        let mut whole = vec![0; 1000];
        fill(7, 5, &mut whole);
        for cut in [0, 1, 2, 3, 4, 7, 8, 9, 500, 993, 997, 999] {
            for len in [1, 2, 3, 7, 8, 9, 1000] {
                let mut part = vec![0; len.min(1000 - cut)];
                fill(7, 5 + cut as u64, &mut part);
                assert_eq!(part, whole[cut..][..part.len()]);
                assert_eq!(wrong(7, 5 + cut as u64, &part), 0);
                *part.last_mut().expect("a byte") ^= 0x10;
                part[0] ^= 1;
                assert_eq!(wrong(7, 5 + cut as u64, &part), if part.len() == 1 { 1 } else { 2 });
            }
        }
    }

    #[test]
    fn a_lost_a_doubled_and_a_foreign_byte_show() {
        let mut whole = vec![0; 4096];
        fill(7, 0, &mut whole);
        let mut lost = whole.clone();
        lost.remove(100);
        assert!(wrong(7, 0, &lost) > 3000);
        let mut doubled = whole.clone();
        doubled.insert(100, doubled[100]);
        assert!(wrong(7, 0, &doubled) > 3000);
        assert!(wrong(8, 0, &whole) > 3000);
        whole[9] ^= 1;
        assert_eq!(wrong(7, 0, &whole), 1);
    }
}
