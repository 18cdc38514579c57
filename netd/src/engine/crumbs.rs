//! The breadcrumb and what it knows of earlier deaths (INV-T8); also the deliberate fault that
//! tests of it need.

use super::Mapped;
use crate::stack::Watch;
use proto::control::clock::now;
use proto::control::messages::{Ended, GroupConfig};
use proto::id::Seat;
use proto::recorder::{Breadcrumb, Crumb, Kind, Poison, Recorder};

/// Who watches the stack in the running daemon.
pub(super) struct Crumbs {
    breadcrumb: Breadcrumb<Mapped>,
    poison: Poison,
}

impl Crumbs {
    /// Counts the predecessor's death, if it was one, and says so in the flight recorder.
    pub(super) fn attach(
        memory: Mapped,
        seat: Seat,
        predecessor: Option<Ended>,
        recorder: &mut Recorder<Mapped>,
    ) -> Crumbs {
        let attached = Breadcrumb::attach(memory, seat, predecessor);
        if let Some(crumb) = attached.died_on {
            let args = [crumb.work as u64, crumb.piece, crumb.flow];
            recorder.record(now(), Kind::DIED, args, crumb.work.name());
            if attached.poison.drops(&crumb) {
                recorder.record(now(), Kind::POISON, args, crumb.work.name());
            }
        }
        Crumbs { breadcrumb: attached.breadcrumb, poison: attached.poison }
    }
}

impl Watch for Crumbs {
    fn begin(&mut self, crumb: &Crumb) -> bool {
        if !self.poison.is_empty() && self.poison.drops(crumb) {
            return false;
        }
        self.breadcrumb.lay(*crumb);
        true
    }

    fn end(&mut self) {
        self.breadcrumb.clear();
    }
}

/// The bytes of the fault `poison=HEX`: a frame that contains them ends the daemon. Empty in
/// ordinary use.
pub(super) fn bait(group: &GroupConfig) -> Vec<u8> {
    let hex = group.faults.iter().find(|(key, _)| key == "poison").map_or("", |(_, value)| value.as_str());
    let digit = |c: &u8| char::from(*c).to_digit(16).map(|d| d as u8);
    let digits: Vec<u8> = hex.as_bytes().iter().filter_map(digit).collect();
    digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}
