//! The limit on challenge ACKs (RFC 5961 §7), shared by all connections of a stack and passed in
//! with every segment.
//!
//! The budget of each second is drawn anew by a keyed hash, so that nobody outside can count how
//! much of it others used (CVE-2016-5696).

use proto::time::Instant;
use siphasher::sip::SipHasher13;

use core::hash::Hasher;

/// RFC 5961 §7 leaves the number open; Linux had 1000 a second.
pub const CHALLENGES_PER_SECOND: u32 = 1000;

/// How many challenge ACKs may still leave in this second.
#[derive(Debug, Clone)]
pub struct ChallengeLimiter {
    /// About how many a second; not 0.
    pub per_second: u32,
    key: [u8; 16],
    second: u64,
    left: u32,
}

impl ChallengeLimiter {
    /// With a secret of the stack.
    pub fn new(key: [u8; 16]) -> Self {
        ChallengeLimiter { per_second: CHALLENGES_PER_SECOND, key, second: u64::MAX, left: 0 }
    }

    /// Takes one from the budget; false when it is used up.
    pub fn allow(&mut self, now: Instant) -> bool {
        let second = now.millis() / 1000;
        if second != self.second {
            self.second = second;
            let mut hasher = SipHasher13::new_with_key(&self.key);
            hasher.write_u64(second);
            // Between half of the budget and one and a half times.
            let spread = (hasher.finish() % u64::from(self.per_second)) as u32;
            self.left = self.per_second.div_ceil(2) + spread;
        }
        let allowed = self.left > 0;
        self.left = self.left.saturating_sub(1);
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(limiter: &mut ChallengeLimiter, second: u64) -> u32 {
        let now = Instant::from_millis(second * 1000);
        (0..10_000).filter(|_| limiter.allow(now)).count() as u32
    }

    #[test]
    fn every_second_has_its_own_budget() {
        let mut limiter = ChallengeLimiter::new([7; 16]);
        let budgets: Vec<u32> = (0..10).map(|second| budget(&mut limiter, second)).collect();
        assert!(budgets.iter().all(|b| (500..1500).contains(b)), "{budgets:?}");
        assert!(budgets.windows(2).any(|pair| pair[0] != pair[1]));
    }
}
