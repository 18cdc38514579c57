//! A stream in which every byte follows from the stream's seed and the byte's position, so that a byte
//! lost, doubled, reordered or taken from another stream shows at once.

/// Eight bytes of the stream: a mixing function of seed and position (SplitMix64's finaliser).
fn word(seed: u64, index: u64) -> [u8; 8] {
    let mut z = seed ^ index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ z >> 31).to_le_bytes()
}

/// Fills `out` with the bytes of stream `seed` from `offset` on.
pub fn fill(seed: u64, offset: u64, out: &mut [u8]) {
    let mut at = offset;
    let mut rest = out;
    while !rest.is_empty() {
        let word = word(seed, at / 8);
        let from = &word[(at % 8) as usize..];
        let n = from.len().min(rest.len());
        let (now, later) = rest.split_at_mut(n);
        now.copy_from_slice(&from[..n]);
        at += n as u64;
        rest = later;
    }
}

/// Number of bytes in `got` that are not what stream `seed` has from `offset` on.
pub fn wrong(seed: u64, offset: u64, got: &[u8]) -> u64 {
    let (mut at, mut rest, mut wrong) = (offset, got, 0);
    while !rest.is_empty() {
        let word = word(seed, at / 8);
        let from = &word[(at % 8) as usize..];
        let n = from.len().min(rest.len());
        if rest[..n] != from[..n] {
            wrong += rest[..n].iter().zip(from).filter(|(a, b)| a != b).count() as u64;
        }
        at += n as u64;
        rest = &rest[n..];
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
        for cut in [0, 1, 7, 8, 9, 500, 999] {
            let mut part = vec![0; 1000 - cut];
            fill(7, 5 + cut as u64, &mut part);
            assert_eq!(part, whole[cut..]);
            assert_eq!(wrong(7, 5 + cut as u64, &part), 0);
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
