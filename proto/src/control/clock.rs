//! The host's monotonic clock, for engines and servers. Nothing pure calls this: time is an
//! argument everywhere else.

use crate::time::Instant;
use rustix::time::{ClockId, clock_gettime};

/// CLOCK_MONOTONIC now: the same for every process of the host.
pub fn now() -> Instant {
    let time = clock_gettime(ClockId::Monotonic);
    let (seconds, nanos) = (time.tv_sec.cast_unsigned(), time.tv_nsec.cast_unsigned());
    Instant::from_nanos(seconds * 1_000_000_000 + nanos)
}

#[cfg(test)]
mod tests {
    #[test]
    fn never_goes_back() {
        let first = super::now();
        assert!(super::now() >= first && first.nanos() > 0);
    }
}
