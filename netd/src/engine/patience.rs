//! When a peer that work waits for has stood still too long (DESIGN §6).
//!
//! A deadline is armed only while a ring towards the peer is not empty; it moves on whenever the
//! peer has taken something. No tick.

use core::time::Duration;
use proto::Instant;

/// How long a peer may stand still while work waits for it.
pub(super) const PATIENCE: Duration = Duration::from_millis(500);

/// What is known of a peer's progress through one ring.
#[derive(Debug, Default)]
pub(super) struct Patience {
    waiting: Option<(u32, Instant)>,
}

impl Patience {
    /// The ring has `backlog` entries that the peer has not taken, of `pushed` ever pushed.
    pub(super) fn observe(&mut self, now: Instant, backlog: u32, pushed: u32) {
        if backlog == 0 {
            self.waiting = None;
            return;
        }
        let taken = pushed.wrapping_sub(backlog);
        if self.waiting.is_none_or(|(before, _)| before != taken) {
            self.waiting = Some((taken, now));
        }
    }

    /// When the peer counts as stuck.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.waiting.map(|(_, since)| since + PATIENCE)
    }

    /// Whether that time has come; it is then asked again after as long.
    pub(super) fn is_over(&mut self, now: Instant) -> bool {
        match &mut self.waiting {
            Some((_, since)) if *since + PATIENCE <= now => {
                *since = now;
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_standing_still_counts() {
        let mut patience = Patience::default();
        let at = Instant::from_millis;
        patience.observe(at(0), 3, 10);
        patience.observe(at(400), 2, 10);
        assert!(!patience.is_over(at(600)), "it took one at 400");
        patience.observe(at(600), 2, 10);
        assert_eq!(patience.deadline(), Some(at(900)));
        assert!(patience.is_over(at(900)));
        assert!(!patience.is_over(at(901)), "asked again later");
        patience.observe(at(902), 0, 10);
        assert_eq!(patience.deadline(), None);
    }
}
