//! Time as the whole host agrees on it: nanoseconds of CLOCK_MONOTONIC, never a process's age
//! (INV-T5). `Instant` never reads a clock; only a daemon's engine does, and passes it on.

use core::ops::{Add, Sub};
use core::time::Duration;

/// A point in time: nanoseconds since the host booted, the same for every process and incarnation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(u64);

impl Instant {
    /// The beginning of the clock.
    pub const ZERO: Instant = Instant(0);

    /// From nanoseconds of the host's monotonic clock.
    pub const fn from_nanos(nanos: u64) -> Self {
        Instant(nanos)
    }

    /// From milliseconds of the host's monotonic clock.
    pub const fn from_millis(millis: u64) -> Self {
        Instant(millis * 1_000_000)
    }

    /// Nanoseconds of the host's monotonic clock.
    pub const fn nanos(self) -> u64 {
        self.0
    }

    /// Microseconds of the host's monotonic clock, rounded down.
    pub const fn micros(self) -> u64 {
        self.0 / 1_000
    }

    /// Milliseconds of the host's monotonic clock, rounded down.
    pub const fn millis(self) -> u64 {
        self.0 / 1_000_000
    }

    /// Time since `earlier`, or zero when `earlier` is later.
    pub const fn since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;

    fn add(self, rhs: Duration) -> Instant {
        Instant(self.0.saturating_add(u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Instant {
    type Output = Instant;

    fn sub(self, rhs: Duration) -> Instant {
        Instant(self.0.saturating_sub(u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX)))
    }
}
