//! What a batch has gathered so far and may not leave yet.

use proto::PeerCorrupt;
use proto::cell::Held;
use proto::control::operations::Answer;
use proto::id::SessionId;
use std::collections::VecDeque;

/// The batch in the making.
#[derive(Debug)]
pub(super) struct Batch {
    /// Sockets that changed.
    pub dirty: Vec<u32>,
    /// Answers to sockd.
    pub answers: VecDeque<Answer>,
    /// Cells whose sockets have moved to others.
    pub retired: Vec<Held>,
    /// Sessions with receive pages that are free when the batch is committed.
    pub pruned: Vec<SessionId>,
    /// Sockets whose clients are to be told.
    pub notes: Vec<u32>,
    /// Sessions with new notes in their ring, or that are to be woken in any case.
    pub told: Vec<SessionId>,
    /// Sessions whose clients broke a rule, and which.
    pub corrupt: Vec<(SessionId, PeerCorrupt)>,
}

impl Batch {
    pub fn new() -> Self {
        Batch {
            dirty: Vec::new(),
            answers: VecDeque::new(),
            retired: Vec::new(),
            pruned: Vec::new(),
            notes: Vec::new(),
            told: Vec::new(),
            corrupt: Vec::new(),
        }
    }

    /// Nothing waits to be settled.
    pub fn is_idle(&self) -> bool {
        self.dirty.is_empty() && self.answers.is_empty() && self.told.is_empty() && self.corrupt.is_empty()
    }

    /// The session's ring has something new.
    pub fn tell(&mut self, session: SessionId) {
        if !self.told.contains(&session) {
            self.told.push(session);
        }
    }
}
