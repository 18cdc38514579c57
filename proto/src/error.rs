//! The two answers that are neither a value nor "nothing yet".

use thiserror::Error;

/// A peer broke the rules of a structure that it shares with us (INV-R1).
///
/// It is final for that one session or ring: the holder counts it, ends the session or drops the
/// ring, and touches nothing else. The text names the rule, never a value of the peer's choosing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("peer broke a rule: {rule}")]
pub struct PeerCorrupt {
    /// The rule that was broken, as `netctl crash` shows it.
    pub rule: &'static str,
}

impl PeerCorrupt {
    /// Names the broken rule.
    pub const fn new(rule: &'static str) -> Self {
        PeerCorrupt { rule }
    }
}

/// A handle belongs to a generation of a peer that is gone; ask for the new introduction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the peer was restarted")]
pub struct PeerRestarted;
