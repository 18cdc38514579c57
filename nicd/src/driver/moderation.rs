//! How soon after an interrupt the next one may come: at once while frames come one by one, later the more of them an
//! interrupt has to tell of. A chip that is told so keeps silent meanwhile; what comes then is told of together.
//!
//! A look at the frames of the last interval moves it by one class at most, so that one burst does not cost the next
//! lone frame its time. Owned by a driver; pure.

use core::time::Duration;

/// What traffic is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
enum Class {
    /// Questions and answers: every frame is waited for.
    #[default]
    Lone,
    /// Some at a time.
    Some,
    /// As many as fit.
    Bulk,
}

/// Frames of an interval that are still lone ones: a question and its answer, each with an acknowledgement.
const LONE_FRAMES: u32 = 4;
/// Frames, or bytes, of an interval above which it is bulk: a quarter of a poll's budget, full frames of that number.
const BULK_FRAMES: u32 = 16;
const BULK_BYTES: u64 = 24_000;

/// The interval that is asked for, and what led to it.
#[derive(Debug, Default)]
pub struct Moderation {
    class: Class,
    frames: u32,
    bytes: u64,
}

impl Moderation {
    /// A frame of so many bytes came or went.
    pub fn moved(&mut self, bytes: usize) {
        self.frames = self.frames.saturating_add(1);
        self.bytes += bytes as u64;
    }

    /// An interrupt came: what was moved since the last one says how long the next shall wait; `Some` when that is
    /// another time than before.
    pub fn interrupted(&mut self) -> Option<Duration> {
        let (frames, bytes) = (core::mem::take(&mut self.frames), core::mem::take(&mut self.bytes));
        let wanted = if frames > BULK_FRAMES || bytes > BULK_BYTES {
            Class::Bulk
        } else if frames > LONE_FRAMES {
            Class::Some
        } else {
            Class::Lone
        };
        let next = match (self.class, wanted) {
            (Class::Lone, Class::Bulk) | (Class::Bulk, Class::Lone) => Class::Some,
            (_, wanted) => wanted,
        };
        let before = core::mem::replace(&mut self.class, next);
        (before != next).then(|| self.interval())
    }

    /// So long at least between two interrupts.
    pub fn interval(&self) -> Duration {
        // 20,000 and 4,000 a second: what Linux's drivers of these chips settle on for "low latency" and "bulk".
        Duration::from_micros(match self.class {
            Class::Lone => 0,
            Class::Some => 50,
            Class::Bulk => 250,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn after(moderation: &mut Moderation, frames: u32, len: usize) -> Duration {
        (0..frames).for_each(|_| moderation.moved(len));
        moderation.interrupted();
        moderation.interval()
    }

    #[test]
    fn bulk_is_told_of_together_and_lone_frames_at_once() {
        let mut moderation = Moderation::default();
        assert_eq!(after(&mut moderation, 2, 64), Duration::ZERO);
        assert_eq!(after(&mut moderation, 60, 1514), Duration::from_micros(50), "a step at a time");
        assert_eq!(after(&mut moderation, 60, 1514), Duration::from_micros(250));
        assert_eq!(after(&mut moderation, 10, 64), Duration::from_micros(50));
        assert_eq!(
            after(&mut moderation, 17, 64),
            Duration::from_micros(250),
            "many small ones are bulk too"
        );
        assert_eq!(after(&mut moderation, 0, 0), Duration::from_micros(50));
        assert_eq!(after(&mut moderation, 0, 0), Duration::ZERO);
        (0..3).for_each(|_| moderation.moved(64));
        assert_eq!(moderation.interrupted(), None, "nothing changes");
    }

    proptest! {
        /// Whatever comes, it is one of the three, and silence leads back to no wait at all in two steps.
        #[test]
        fn silence_ends_it(bursts in prop::collection::vec((0u32..100, 0usize..65_000), 0..50)) {
            let mut moderation = Moderation::default();
            for (frames, len) in bursts {
                let interval = after(&mut moderation, frames, len);
                prop_assert!([0, 50, 250].map(Duration::from_micros).contains(&interval));
            }
            after(&mut moderation, 0, 0);
            prop_assert_eq!(after(&mut moderation, 0, 0), Duration::ZERO);
        }
    }
}
