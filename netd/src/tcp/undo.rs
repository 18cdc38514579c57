//! Whether what was sent again had to be, and the window as it was before if it had not.
//!
//! Two witnesses: duplicate reports say that all of it arrived twice (RFC 3708 §2); the timestamp that an
//! acknowledgement echoes is older than the first retransmission, so an original had only been late (the
//! Eifel detection, RFC 3522 §3.2). The answer is RFC 4015 §3.2's and RFC 9438 §4.9's, and Linux's
//! (tcp_try_undo_partial, tcp_try_undo_dsack).
//!
//! Owned by loss recovery. Soft state.

use proto::time::Instant;

use super::congestion::Congestion;
use super::rack::Echo;
use super::ranges::Range;
use super::seq::Position;

/// Whether the last lowering of the window may be undone.
#[derive(Debug, Clone, Default)]
pub(super) struct Undo {
    /// The window was lowered, and all that was sent again since may prove needless.
    possible: bool,
    /// What there was before; its memory is kept.
    before: Option<Box<Before>>,
}

/// When the window was lowered, and what was sent again since.
#[derive(Debug, Clone)]
struct Before {
    congestion: Congestion,
    /// SND.UNA then.
    una: Position,
    /// When something was sent again first.
    first_again: Option<Instant>,
    /// Octets sent again that the remote has not said to have had already.
    octets: u32,
}

impl Undo {
    /// The window is about to be lowered.
    pub fn remember(&mut self, congestion: &Congestion, una: Position) {
        let before = Before { congestion: congestion.clone(), una, first_again: None, octets: 0 };
        match &mut self.before {
            Some(place) => **place = before,
            None => self.before = Some(Box::new(before)),
        }
        self.possible = true;
    }

    /// `octets` are sent again.
    pub fn on_sent_again(&mut self, now: Instant, octets: u32) {
        if let Some(before) = self.undoable() {
            before.first_again.get_or_insert(now);
            before.octets = before.octets.saturating_add(octets);
        }
    }

    /// The remote says that `twice` arrived twice: whether that was all that was sent again.
    pub fn is_all_needless(&mut self, twice: Range) -> bool {
        let Some(before) = self.undoable().filter(|before| before.octets > 0 && twice.start >= before.una)
        else {
            return false;
        };
        before.octets = before.octets.saturating_sub(u32::try_from(twice.len()).unwrap_or(u32::MAX));
        before.octets == 0
    }

    /// SND.UNA moved over what counted as lost: whether it was an original that arrived (RFC 3522 §3.2,
    /// steps 3 and 4), which also holds where nothing was sent again yet.
    pub fn is_original(&mut self, echo: &Echo) -> bool {
        self.undoable().is_some_and(|before| before.first_again.is_none_or(|sent| echo.is_older_than(sent)))
    }

    /// The window as it was, once; what is known of it is used up.
    pub fn restore(&mut self, congestion: &mut Congestion) {
        if let Some(before) = self.undoable() {
            congestion.undo(&before.congestion);
        }
        self.forget();
    }

    /// Nothing may be undone any more.
    pub fn forget(&mut self) {
        self.possible = false;
    }

    fn undoable(&mut self) -> Option<&mut Before> {
        self.before.as_deref_mut().filter(|_| self.possible)
    }
}
